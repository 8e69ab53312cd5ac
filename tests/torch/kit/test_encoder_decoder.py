"""The encoder-decoder against torch's own layers, writing with exits against a plain loop, costs worked by hand."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.kit.encoder_decoder import (
    BEGIN,
    END,
    EncoderDecoder,
    Leaving,
    Rule,
    Written,
    encoder_decoder,
    expected_time,
    multiply_adds,
    settle,
    similarity,
    word_loss,
    write,
)

WORDS, WIDTH, LAYERS = 7, 16, 3


def network(apart: bool = False) -> EncoderDecoder:
    torch.manual_seed(0)
    made = EncoderDecoder(WORDS, WIDTH, 2, LAYERS, side=8, patch=4, time=6, apart=apart)
    return made.double().eval()


def inputs(count: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(count, 1, 8, 8, generator=draw).double()
    text, prompt = torch.randint(2, WORDS, (2, count, 3), generator=draw)
    return images, text, prompt


def copied(into: nn.MultiheadAttention, attention: Any) -> None:
    with torch.no_grad():
        into.in_proj_weight.copy_(torch.cat((attention.query.weight, attention.key_value.weight)))
        into.in_proj_bias.copy_(torch.cat((attention.query.bias, attention.key_value.bias)))
    into.out_proj.load_state_dict(attention.out.state_dict())


def test_layers_are_those_of_torch_with_norms_before() -> None:
    made = network()
    for own, other in zip(made.encoder, made.decoder, strict=True):
        one: Any = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, 0.0, batch_first=True, norm_first=True).double()
        two: Any = nn.TransformerDecoderLayer(WIDTH, 2, 2 * WIDTH, 0.0, batch_first=True, norm_first=True).double()
        for mine, theirs in ((own, one), (other, two)):
            layer: Any = mine
            copied(theirs.self_attn, layer.attention)
            theirs.norm1.load_state_dict(layer.norm.state_dict())
            last = theirs.norm3 if theirs is two else theirs.norm2
            for part, at in ((last, 0), (theirs.linear1, 1), (theirs.linear2, 3)):
                part.load_state_dict(layer.feed_forward[at].state_dict())
        decoder: Any = other
        copied(two.multihead_attn, decoder.cross)
        two.norm2.load_state_dict(decoder.cross_norm.state_dict())
        x, memory = torch.randn(2, 4, WIDTH).double(), torch.randn(2, 5, WIDTH).double()
        torch.testing.assert_close(own(x), one.train()(x))  # in training mode torch takes no shorter way
        mask = nn.Transformer.generate_square_subsequent_mask(4).double()
        found = decoder(x, decoder.own(x), decoder.cross.keys(memory), causal=True)
        torch.testing.assert_close(found, two.train()(x, memory, tgt_mask=mask))


def test_image_and_text_see_each_other_only_where_they_pass_together() -> None:
    images, text, _ = inputs()
    for apart in (False, True):
        made = network(apart)
        seen, read = made.states(images, text)
        assert len(seen) == len(read) == LAYERS + 1
        others = made.states(images, text.roll(1, 0))[0]
        assert torch.equal(seen[0], others[0])
        assert torch.allclose(seen[-1], others[-1]) == apart
        assert not torch.allclose(read[-1], made.states(images, text.roll(1, 0))[1][-1])


def longhand(made: EncoderDecoder, memory: Tensor, length: int, prompt: Tensor) -> list[int]:
    """Greedy words of one item, everything computed anew for each."""
    words = [BEGIN, *prompt.tolist()]
    for _ in range(length):
        x = made.word(torch.tensor([words]))
        for layer in made.decoder:
            decoder: Any = layer
            x = decoder(x, decoder.own(x), decoder.cross.keys(memory), causal=True)
        words.append(int(made.speak(x[0, -1]).argmax()))
        if words[-1] == END:
            break
    return words[1 + len(prompt) :]


@torch.no_grad()
def test_words_kept_in_steps_are_those_computed_anew() -> None:
    made = network()
    images, text, said = inputs(12)
    made.words.weight[END] *= 3  # so that some end early
    for prompt in (None, said[:, :2]):
        found = write(made, images, text, 4, Rule(), prompt)
        for row in range(12):
            seen, read = made.states(images[row : row + 1], text[row : row + 1])
            told = said[row, :0] if prompt is None else prompt[row]
            wanted = longhand(made, made.memory(seen[-1], read[-1]), 4, told)
            assert found.words[row].tolist() == wanted + [END] * (4 - len(wanted))
            assert found.layers[row].tolist() == [LAYERS] * len(wanted) + [0] * (4 - len(wanted))
        assert (found.image == LAYERS).all()


class Given(Rule):
    """Depths given by hand: of the image, of the text, of each word."""

    def __init__(self, image: int, text: int, words: tuple[int, ...], copies: bool = False) -> None:
        self.image, self.text, self.words, self.copies = image, text, words, copies

    def depths(self, image: list[Tensor], text: list[Tensor]) -> tuple[Tensor, Tensor]:
        return torch.full((len(image[0]),), self.image), torch.full((len(image[0]),), self.text)

    def begin(self, step: int, steps: int, count: int) -> None:
        self.step = step

    def leave(self, layer: int, rows: Tensor, before: Tensor, after: Tensor) -> Tensor:
        return torch.full((len(rows),), layer + 1 >= self.words[self.step])


@torch.no_grad()
@pytest.mark.parametrize("copies", [False, True])
def test_a_word_left_early_is_read_off_there_and_later_words_see_it_above(copies: bool) -> None:
    made = network(apart=True)
    images, text, _ = inputs(1)
    made.words.weight[END] = 0  # with a logit of 0: some other word is likelier
    depths = (1, 3, 2, 3)
    found = write(made, images, text, 4, Given(1, 2, depths, copies))
    assert found.layers.tolist() == [list(depths)]
    assert (found.image.item(), found.text.item()) == (1, 2)
    seen, read = made.states(images, text)
    memory = made.memory(seen[1], read[2])
    decoder: list[Any] = list(made.decoder)
    cross = [layer.cross.keys(memory) for layer in decoder]
    own: list[list[Any]] = [[] for _ in decoder]
    word = BEGIN
    for step, depth in enumerate(depths):
        x = made.word(torch.tensor([[word]]), step)
        for index in range(depth):
            own[index].append(decoder[index].own(x))
            x = decoder[index](x, tuple(torch.cat(part, 2) for part in zip(*own[index], strict=True)), cross[index])
        for above in range(depth, LAYERS):
            if copies:
                own[above], cross[above] = list(own[depth - 1]), cross[depth - 1]
            else:
                own[above].append(decoder[above].own(x))
        word = int(made.speak(x[0, 0]).argmax())
        assert found.words[0, step] == word


def test_similarity_takes_all_tokens_for_one_vector() -> None:
    states = [torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(k)).double() for k in range(4)]
    found = similarity(states)
    assert found.shape == (3, 3)
    one, two = states[1][2].flatten(), states[2][2].flatten()
    assert found[2, 1].item() == pytest.approx((one @ two / one.norm() / two.norm()).item())


def test_expected_time_worked_by_hand() -> None:
    made = SimpleNamespace(encoder=[0] * 6, decoder=[0] * 6)
    one = Written(torch.zeros(1, 2), torch.tensor([6]), torch.tensor([6]), torch.tensor([[6, 0]]))
    assert expected_time(one, made, 9, 1) == 1
    # words of the first item: 2 + 1 and 2 + 3; of the second 6 * .9 + 1 * .1 + 2 = 7.5; three words, 12 layers
    two = Written(torch.zeros(2, 2), torch.tensor([2, 6]), torch.tensor([2, 1]), torch.tensor([[1, 3], [2, 0]]))
    assert expected_time(two, made, 9, 1) == pytest.approx((3 + 5 + 7.5) / 36)


def counted(made: EncoderDecoder, run: Any) -> int:
    """Multiply-adds of matrix products in the layers, counted as they are made."""
    total = 0

    def linear(module: Any, args: Any, out: Tensor) -> None:
        nonlocal total
        total += out.numel() * module.in_features

    plain = F.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, **more: Any) -> Tensor:
        nonlocal total
        total += 2 * query.numel() * key.shape[2]
        return plain(query, key, value, **more)

    layers = [module for part in (made.encoder, made.decoder) for module in part.modules()]
    hooks = [module.register_forward_hook(linear) for module in layers if isinstance(module, nn.Linear)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", attention)
        run()
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize(("apart", "prompt"), [(False, 0), (True, 0), (True, 2)])
def test_multiply_adds_are_those_that_are_made(apart: bool, prompt: int) -> None:
    made = network(apart)
    images, text, said = inputs(1)
    with torch.no_grad():
        made.words.weight[END] = 0
        found: list[Written] = []
        total = counted(made, lambda: found.append(write(made, images, text, 4, Rule(), said[:, :prompt])))
    assert found[0].layers.tolist() == [[LAYERS] * 4]
    assert multiply_adds(found[0], made, 4, 3, prompt) == total


def test_fewer_layers_cost_less_in_every_part() -> None:
    made = network(apart=True)
    whole = Written(torch.zeros(1, 2), torch.tensor([3]), torch.tensor([3]), torch.tensor([[3, 3]]))
    full = multiply_adds(whole, made, 4, 3)
    for part in ("image", "text", "layers"):
        less = Written(**{**vars(whole), part: getattr(whole, part) - 1})
        assert multiply_adds(less, made, 4, 3) < full
        assert expected_time(less, made, 4, 3) < 1


def test_the_loss_of_an_item_is_the_mean_over_its_words() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.tensor([[1, 2, 4], [-100, 3, -100]])
    each = [[F.cross_entropy(logits[i, t], labels[i, t]) for t in range(3) if labels[i, t] >= 0] for i in range(2)]
    torch.testing.assert_close(word_loss(logits, labels), (sum(each[0]) / 3 + each[1][0]) / 2)


class Judged:
    """A setting where every rule has a figure and a time."""

    def run(self, model: Leaving, problem: str) -> Written:
        rule: Any = model.rules[problem]
        return Written(torch.tensor([rule.image]), *(torch.tensor([rule.text]),) * 2, torch.tensor([[1]]))

    def time(self, written: Written) -> float:
        return written.image.item() / 10

    def score(self, words: Tensor, problem: str) -> float:
        return words.item() / 10


def test_the_best_rule_within_the_time_is_settled_on() -> None:
    rules = [Given(score, time, ()) for score, time in ((9, 9), (5, 5), (6, 5), (6, 4), (1, 1))]
    for most, wanted in ((1.0, 0), (0.5, 3), (0.3, 4), (0.05, 4)):
        made = Leaving(network())
        assert settle(made, Judged(), "p", rules, most) is rules[wanted]
        assert made.rules["p"] is rules[wanted]
    with pytest.raises(ValueError, match="no rule"):
        settle(Leaving(network()), Judged(), "p", [], 0.5)


def test_other_networks_are_refused_and_full_depth_is_the_network() -> None:
    made = network()
    assert encoder_decoder(made) is made
    with pytest.raises(ValueError, match="not both"):
        encoder_decoder(nn.Linear(2, 2))
    images, text, words = inputs()
    assert torch.equal(Leaving(made)(images, text, words), made(images, text, words))
    assert math.isclose(made.written(images, text, words)[-1].shape[-1], WIDTH)
