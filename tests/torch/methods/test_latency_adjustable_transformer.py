"""Tokens that leave: who, by hand; masking is removing; and a share of 1 changes nothing."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from paperlab.kit.classifier import Classifier, padded
from paperlab.kit.tuning import cross_entropy, fit
from paperlab.methods.elastic.latency_adjustable_transformer import Leaving, recipe, stay


def classifier() -> Classifier:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = Classifier(BertModel(config, add_pooling_layer=False), 3)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def test_who_stays_by_hand() -> None:
    attention = torch.tensor(
        [[[[0.1, 0.2, 0.6, 0.1], [0.1, 0.1, 0.5, 0.3], [0.2, 0.1, 0.4, 0.3], [9.0, 9.0, 9.0, 9.0]]]]
    )
    left = torch.tensor([[True, True, True, False]])  # the last is padding: its row and column do not count
    assert stay(attention, left, 0.5).tolist() == [[True, False, True, False]]
    assert stay(attention, left, 0.3).tolist() == [[True, False, False, False]]
    assert stay(attention, left, 1.0).tolist() == left.tolist()
    assert stay(attention, left, 0.6, "last").tolist() == [[True, True, False, False]]
    assert stay(attention, left, 0.6, "random").sum() == 2


def test_what_is_masked_is_as_if_it_were_removed() -> None:
    model = classifier()
    ids, mask = padded([[1, 4, 5, 6, 7, 8], [1, 9, 10]])
    cut = copy.deepcopy(model)
    leaving = Leaving(cut, 0.5, "attention")
    with torch.no_grad():
        said = cut(ids, mask).logits
    encoder = model.encoder
    encoder.set_attn_implementation("eager")
    for row, length in enumerate((6, 3)):
        with torch.no_grad():
            states = encoder.embeddings(input_ids=ids[row : row + 1, :length])
            for block in encoder.encoder.layer:
                context, weights = block.attention.self(states)
                states = block.feed_forward_chunk(block.attention.output(context, states))
                score = weights.mean(1).mean(1)[0]
                score[0] = torch.inf
                kept = score.topk(-(-len(score) // 2)).indices.sort().values
                states = states[:, kept]
            torch.testing.assert_close(said[row], model.head(states.mean(1))[0])
    assert leaving.left.sum(1).tolist() == [2, 1]


class Setting:
    steps = 5
    rates: tuple[float, ...] = (1e-2,)
    teacher: nn.Module | None = None

    def __init__(self) -> None:
        self.model: nn.Module = classifier()

    def batches(self, seed: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        draw = torch.Generator().manual_seed(seed)
        while True:
            ids = torch.randint(3, 30, (4, 6), generator=draw)
            yield {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids[:, 0] % 3

    def validate(self, model: nn.Module) -> float:
        return 0.0


def test_a_share_of_one_is_fine_tuning_and_a_dial_changes_no_weight() -> None:
    setting = Setting()
    torch.manual_seed(3)
    plain = copy.deepcopy(setting.model)
    fit(plain, setting, cross_entropy, rate=1e-2, seed=1, asks=("student", "labels"))
    ids, mask = padded([[1, 4, 5, 6, 7, 8]])

    def tuned(**params: float) -> nn.Module:
        return recipe(copy.deepcopy(setting.model), setting, 1, 1e-2, **params).model  # type: ignore[arg-type]

    whole, half, dialled = tuned(keep=1.0), tuned(keep=0.5), tuned(keep=0.5, dial=0.2)
    torch.testing.assert_close(whole(ids, mask).logits, plain(ids, mask).logits, atol=1e-4, rtol=1e-4)
    for one, two in zip(half.parameters(), dialled.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(half(ids, mask).logits, dialled(ids, mask).logits)


def test_wrong_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="shares above 0"):
        recipe(classifier(), Setting(), 0, 1e-3, keep=0.0)


def test_attention_is_seen_where_its_configuration_is_another_object() -> None:
    model = classifier()
    model.encoder.config = copy.deepcopy(model.encoder.config)
    Leaving(model, 0.5, "attention")
    assert model(input_ids=torch.arange(8)[None] + 3).logits.isfinite().all()
