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
    Measured,
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
    """Depths given by hand: of the image, of the text, of each word. Keeps what layers of the decoder leave."""

    def __init__(self, image: int, text: int, words: tuple[int, ...], copies: bool = False) -> None:
        self.image, self.text, self.words, self.copies = image, text, words, copies
        self.left: list[Tensor] = []

    def depths(self, image: list[Tensor], text: list[Tensor]) -> tuple[Tensor, Tensor]:
        return torch.full((len(image[0]),), self.image), torch.full((len(image[0]),), self.text)

    def begin(self, step: int, steps: int, count: int) -> None:
        self.step = step

    def leave(self, layer: int, rows: Tensor, before: Tensor, after: Tensor) -> Tensor:
        self.left.append(after)
        return torch.full((len(rows),), layer + 1 >= self.words[self.step])


class Uneven(Rule):
    """Items leave words after different layers. first: number of the first one. Keeps what layers leave, by item."""

    def __init__(self, copies: bool, first: int = 0) -> None:
        self.copies, self.first, self.left = copies, first, dict[tuple[int, int, int], Tensor]()

    def begin(self, step: int, steps: int, count: int) -> None:
        self.step = step

    def leave(self, layer: int, rows: Tensor, before: Tensor, after: Tensor) -> Tensor:
        for row, state in zip((rows + self.first).tolist(), after, strict=True):
            self.left[row, self.step, layer] = state
        return (rows + self.first + self.step) % LAYERS <= layer


@torch.no_grad()
@pytest.mark.parametrize("copies", [False, True])
def test_items_that_leave_apart_are_written_as_alone(copies: bool) -> None:
    made = network(apart=True)
    images, text, said = inputs(6)
    made.words.weight[END] *= 2  # so that some end early
    rule, left = Uneven(copies), dict[tuple[int, int, int], Tensor]()
    found = write(made, images, text, 4, rule, said[:, :2])
    assert found.copies == copies
    assert len({tuple(row) for row in found.layers.tolist()}) > 2
    for row in range(6):
        one = Uneven(copies, row)
        alone = write(made, images[row, None], text[row, None], 4, one, said[row, None, :2])
        assert alone.words[0].tolist() == found.words[row].tolist()
        assert alone.layers[0].tolist() == found.layers[row].tolist()
        left |= one.left
    assert left.keys() == rule.left.keys()
    for key, state in left.items():
        torch.testing.assert_close(rule.left[key], state)


@torch.no_grad()
@pytest.mark.parametrize("copies", [False, True])
def test_a_prompt_that_is_left_early_is_read_as_one(copies: bool) -> None:
    made = network(apart=True)
    images, text, said = inputs(1)
    made.words.weight[END] = 0
    rule = Given(LAYERS, LAYERS, (1, 3), copies)
    found = write(made, images, text, 2, rule, said[:, :2])
    seen, read = made.states(images, text)
    memory, (first, *above) = made.memory(seen[-1], read[-1]), made.decoder
    layer: Any = first
    cross = [one.cross.keys(memory) for one in (layer, *above)]  # type: ignore[operator, union-attr]
    told = torch.cat((torch.full((1, 1), BEGIN), said[:, :2]), 1)
    x = made.word(told)
    own = [layer.own(x)]
    x = layer(x, own[0], cross[0], causal=True)
    torch.testing.assert_close(rule.left[0], x)
    word = made.speak(x[:, -1]).argmax(-1)
    assert found.words[0, 0] == word
    own += [own[0] if copies else one.own(x) for one in above]  # type: ignore[operator, misc]
    y = made.word(word[:, None], 3)
    for index, one in enumerate((layer, *above)):
        kept = tuple(torch.cat(part, 2) for part in zip(own[index], one.own(y), strict=True))
        y = one(y, kept, cross[0] if copies else cross[index])
        torch.testing.assert_close(rule.left[1 + index], y)
    assert found.words[0, 1] == made.speak(y[0, 0]).argmax()
    assert found.layers.tolist() == [[1, 3]]


@torch.no_grad()
@pytest.mark.parametrize("copies", [False, True])
def test_a_word_left_early_is_read_off_there_and_later_words_see_it_above(copies: bool) -> None:
    made = network(apart=True)
    images, text, _ = inputs(1)
    made.words.weight[END] = 0  # with a logit of 0: some other word is likelier
    depths = (1, 3, 2, 3)
    rule = Given(1, 2, depths, copies)
    found = write(made, images, text, 4, rule)
    left = iter(rule.left)
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
            torch.testing.assert_close(next(left), x)
        for above in range(depth, LAYERS):
            if copies:
                own[above], cross[above] = list(own[depth - 1]), cross[depth - 1]
            else:
                own[above].append(decoder[above].own(x))
        word = int(made.speak(x[0, 0]).argmax())
        assert found.words[0, step] == word
    assert next(left, None) is None


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
    images, text, said = inputs(2)
    with torch.no_grad():
        made.words.weight[END] = 0
        found: list[Written] = []
        total = counted(made, lambda: found.append(write(made, images, text, 4, Rule(), said[:, :prompt])))
    assert found[0].layers.tolist() == [[LAYERS] * 4] * 2
    assert 2 * multiply_adds(found[0], made, 4, 3, prompt) == total


@pytest.mark.parametrize("prompt", [0, 2])
@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("depths", [(2, 3, 1, 3), (1, 1, 2, 1)])
def test_multiply_adds_with_exits_are_those_that_are_needed(depths: tuple[int, ...], copies: bool, prompt: int) -> None:
    made = network(apart=True)
    images, text, said = inputs(2)
    states = [part[:2] for part in made.states(images, text)]
    with torch.no_grad():
        made.words.weight[END] = 0
        found: list[Written] = []
        rule = Given(1, 1, depths, copies)
        total = counted(
            made,
            lambda: found.append(write(made, images, text, 4, rule, said[:, :prompt], tuple(states))),  # type: ignore[arg-type]
        )
    assert found[0].layers.tolist() == [list(depths)] * 2
    # what was known of the encoder was not counted; of its keys, all that the decoder may need are made beforehand
    total += counted(made, lambda: [made.encoder[0](part[0]) for part in states])
    spare = LAYERS - (depths[0] if copies else max(depths))
    assert 2 * multiply_adds(found[0], made, 4, 3, prompt) == total - 2 * spare * 7 * 2 * WIDTH**2


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

    def __init__(self, images: Tensor, text: Tensor) -> None:
        self.validation = {"p": SimpleNamespace(images=images, text=text)}

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
        assert settle(made, Judged(*inputs(1)[:2]), "p", rules, most) is rules[wanted]
        assert made.rules["p"] is rules[wanted]
        assert made.times == {"p": most}
    with pytest.raises(ValueError, match="no rule"):
        settle(Leaving(network()), Judged(*inputs(1)[:2]), "p", [], 0.5)


class Drawn(Measured):
    """What is measured of a word is drawn, or more of it where words can be left: as if they became more alike."""

    def __init__(self, more: float) -> None:
        self.more = more

    def measure(self, layer: int, rows: Tensor, before: Tensor, after: Tensor) -> Tensor:
        drawn = torch.rand(len(rows), generator=torch.Generator().manual_seed(layer)).double()
        return drawn + (self.more if self.word < math.inf else 0.0)


@pytest.mark.parametrize("more", [-0.1, 0.0, 0.1])
@pytest.mark.parametrize("most", [0.75, 0.85])
def test_a_threshold_is_corrected_until_the_time_is_kept_and_nearly_taken(more: float, most: float) -> None:
    made = Leaving(network(apart=True))
    images, text, _ = inputs(400)

    class Timed(Judged):
        def run(self, model: Leaving, problem: str) -> Written:
            return model.write(images, text, 2, problem)

        def time(self, written: Written) -> float:
            return expected_time(written, made.model, 4, 3)

        def score(self, words: Tensor, problem: str) -> float:
            self.asked = getattr(self, "asked", 0) + 1
            return self.asked  # so that the last one that keeps to the time is chosen

    setting = Timed(images, text)
    rule = settle(made, setting, "p", [Drawn(more)], most)
    assert isinstance(rule, Drawn)
    assert rule.found is None
    assert 0.97 * most <= setting.time(setting.run(made, "p")) <= most


def test_other_networks_are_refused_and_full_depth_is_the_network() -> None:
    made = network()
    assert encoder_decoder(made) is made
    with pytest.raises(ValueError, match="not both"):
        encoder_decoder(nn.Linear(2, 2))
    images, text, words = inputs()
    assert torch.equal(Leaving(made)(images, text, words), made(images, text, words))
    assert math.isclose(made.written(images, text, words)[-1].shape[-1], WIDTH)
