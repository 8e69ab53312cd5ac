"""Minitron: sizes by hand, the cut against masks on the whole model, and its limits."""

import copy
from typing import Any

import pytest
import torch
from contract_cases import batches, tiny
from torch import Tensor, nn

from paperlab.kit.width import Sizes, activity, highest, narrowed, width_of
from paperlab.methods.pruning.minitron import submodel


def test_a_unit_s_size_is_the_norm_over_sequences_of_its_mean_over_tokens() -> None:
    sizes = Sizes()
    sizes.add("neuron 0", torch.tensor([[[1.0, -4.0], [-5.0, 4.0]]]))  # means of |x|: 3, 4
    sizes.add("neuron 0", torch.tensor([[[4.0, 0.0], [4.0, 0.0]]]))  # 4, 0
    sizes.add("neuron 1", torch.tensor([[[2.0, 1.0], [2.0, 1.0]]]))
    torch.testing.assert_close(sizes.of("neuron"), torch.tensor([[5.0, 4.0], [2.0, 1.0]]))
    assert highest(torch.tensor([1.0, 3.0, 3.0, 0.0, 9.0]), 3).tolist() == [1, 2, 4]
    assert [width_of(share, 64, "width") for share in (1.0, 2 / 3, 0.5, 0.01)] == [64, 40, 32, 8]


def test_what_is_watched() -> None:
    model = tiny("Llama")
    sizes = activity(model, batches())
    assert sizes.of("channel").shape == (4, 64)
    assert sizes.of("neuron").shape == (2, 64)
    assert sizes.of("attention").shape == (2, 64)
    seen: list[Tensor] = []
    handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for batch in batches():
        model(**batch)
    handle.remove()
    expected = torch.cat(seen).abs().mean(1).norm(dim=0)
    torch.testing.assert_close(sizes.of("neuron")[1], expected)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(**batches()[0]).logits


def test_the_cut_neurons_are_those_that_a_mask_would_silence() -> None:
    model = copy.deepcopy(tiny("Llama"))
    cut: Any = submodel(model, batches(), 0, width=1.0, inner=0.5)
    sizes = activity(model, batches()).of("neuron")
    for block, row in zip(model.model.layers, sizes, strict=True):
        silent = torch.ones(64, dtype=torch.bool)
        silent[row.topk(32).indices] = False
        block.mlp.down_proj.weight.data[:, silent] = 0
    torch.testing.assert_close(logits(cut), logits(model), rtol=1e-4, atol=1e-5)
    assert cut.config.intermediate_size == 32


def test_the_cut_channels_are_gone_from_every_layer_that_touches_them() -> None:
    model = copy.deepcopy(tiny("Llama"))
    channels = torch.arange(0, 64, 2)
    cut = narrowed(model, channels, [torch.arange(64)] * 2)
    gone = torch.arange(1, 64, 2)
    model.model.embed_tokens.weight.data[:, gone] = 0
    for block in model.model.layers:
        block.self_attn.o_proj.weight.data[gone] = 0
        block.mlp.down_proj.weight.data[gone] = 0
    for norm in [m for name, m in model.named_modules() if name.endswith("norm")]:
        norm.weight.data /= 2**0.5  # the mean square is over half as many channels
        norm.variance_epsilon /= 2
    torch.testing.assert_close(logits(cut), logits(model), rtol=1e-4, atol=1e-5)


def test_nothing_cut_is_the_same_model_and_random_units_follow_the_seed() -> None:
    model = tiny("Llama")
    torch.testing.assert_close(logits(submodel(model, batches(), 0, width=1.0, inner=1.0)), logits(model))
    drawn = [submodel(model, batches(), seed, by="random").state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert any(not torch.equal(drawn[0][name], drawn[2][name]) for name in drawn[0])


def test_it_can_be_built_anew_from_its_configuration_and_refuses_what_it_cannot_cut() -> None:
    cut = submodel(tiny("Llama"), batches(), 0)
    fresh = type(cut)(cut.config)
    assert [p.shape for p in fresh.parameters()] == [p.shape for p in cut.parameters()]
    with pytest.raises(ValueError, match="layout"):
        submodel(tiny("BERT"), batches(), 0)
    with pytest.raises(ValueError, match="width=0"):
        submodel(tiny("Llama"), batches(), 0, width=0.0)
    with pytest.raises(ValueError, match="calibration"):
        submodel(tiny("Llama"), [], 0)
