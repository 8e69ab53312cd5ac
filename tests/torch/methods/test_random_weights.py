"""Random weights: what is trained is drawn as BERT starts, by the seed; what is frozen stays."""

import copy

import pytest
import torch
from transformers import BertConfig, BertModel

from paperlab.methods.distillation.random_weights import SPREAD, recipe


@pytest.fixture
def bert() -> BertModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return BertModel(BertConfig(vocab_size=200, **sizes))


def test_the_start_is_berts_own(bert: BertModel) -> None:
    for parameter in bert.parameters():
        parameter.data.add_(7)
    bert.embeddings.requires_grad_(False)
    frozen = bert.embeddings.word_embeddings.weight.clone()
    made = recipe(copy.deepcopy(bert), None, 3)
    assert made.steps == 0
    assert made.trained == sum(p.numel() for n, p in bert.named_parameters() if not n.startswith("embeddings"))
    layer = made.model.encoder.layer[1]
    assert layer.output.dense.weight.std().item() == pytest.approx(SPREAD, rel=0.05)
    assert layer.output.dense.weight.mean().abs().item() < 1e-3
    assert torch.equal(layer.output.LayerNorm.weight, torch.ones(64))
    assert not layer.output.dense.bias.any()
    assert torch.equal(made.model.embeddings.word_embeddings.weight, frozen)


def test_the_seed_decides(bert: BertModel) -> None:
    one, again, other = (recipe(copy.deepcopy(bert), None, seed).model for seed in (1, 1, 2))
    pairs = list(zip(one.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


def test_only_the_output_layer_may_be_drawn() -> None:
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(4, 4), "head": torch.nn.Linear(4, 2)})
    made = recipe(copy.deepcopy(model), None, 1, parts="head").model
    assert torch.equal(made["body"].weight, model["body"].weight)
    assert not torch.equal(made["head"].weight, model["head"].weight)
    assert not made["head"].bias.any()
