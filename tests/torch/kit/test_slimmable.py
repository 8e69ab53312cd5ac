"""The super-network: counts against real models, order without effect, slices against cut-out models and autograd."""

import copy
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contract_cases import tiny
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from paperlab.kit.slimmable import (
    Config,
    Importance,
    Shapes,
    Space,
    Strata,
    extracted,
    importance,
    ordered,
    shapes_of,
    shell,
    sliced,
)  # fmt: skip

CONFIGS: list[Config] = [(64, 3, 2, 48), (40, 2, 1, 16), (64, 1, 2, 48), (32, 3, 1, 8)]
ORDER = (2, 0, 1)


def grouped() -> LlamaForCausalLM:
    """Two key/value heads of two query heads each, in double precision."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=40, hidden_size=64, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).double().eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


IDS = torch.randint(0, 40, (2, 7), generator=torch.Generator().manual_seed(0))


def logits(model: nn.Module) -> Tensor:
    out: Any = model(input_ids=IDS, use_cache=False)
    return out.logits


@pytest.mark.parametrize("config", CONFIGS)
def test_parameters_are_those_of_a_model_of_that_shape(config: Config) -> None:
    for model in (grouped(), tiny("Llama")):
        shapes = shapes_of(model)
        inside = tuple(min(a, b) for a, b in zip(config, shapes.whole, strict=True))
        assert shapes.parameters(inside) == sum(p.numel() for p in shell(model, inside).parameters())


def test_sorting_leaves_the_network_as_it_was() -> None:
    model = grouped()
    found = importance(model, [{"input_ids": IDS}])
    made, order = ordered(model, found)
    torch.testing.assert_close(logits(made), logits(model), rtol=1e-4, atol=1e-5)
    assert sorted(order) == [0, 1, 2]
    again = importance(made, [{"input_ids": IDS}])
    for row in (again.channels[None], again.neurons, again.heads.view(3 * 2, 2)):
        assert (row.diff(dim=1) <= 1e-6).all()
    assert not torch.equal(made.model.embed_tokens.weight, model.model.embed_tokens.weight)  # type: ignore[union-attr, arg-type]


def test_blocks_are_ranked_by_the_loss_without_them() -> None:
    model = grouped()
    found = importance(model, [{"input_ids": IDS}]).blocks
    for index in range(3):
        copied: Any = copy.deepcopy(model)
        del copied.model.layers[index]
        loss = F.cross_entropy(
            copied(input_ids=IDS, use_cache=False).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()
        )
        assert float(found[index]) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_equal_importance_keeps_the_order() -> None:
    model = grouped()
    made, order = ordered(model, Importance(torch.ones(64), torch.ones(3, 4), torch.ones(3, 48), torch.ones(3)))
    assert order == (0, 1, 2)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("config", CONFIGS)
def test_a_slice_is_the_model_cut_out_and_so_are_its_gradients(config: Config) -> None:
    model = grouped()
    alone = extracted(model, config, ORDER)
    weights = dict(model.named_parameters())
    here = sliced(model, weights, config, ORDER, {"input_ids": IDS})
    torch.testing.assert_close(here, logits(alone), rtol=1e-4, atol=1e-5)
    here.logsumexp(-1).sum().backward()
    logits(alone).logsumexp(-1).sum().backward()
    stay = sorted(ORDER[: config[1]])
    for place, old in enumerate(stay):
        whole, cut = model.model.layers[old], alone.model.layers[place]  # type: ignore[union-attr, index]
        torch.testing.assert_close(
            whole.mlp.down_proj.weight.grad[: config[0], : config[3]], cut.mlp.down_proj.weight.grad  # type: ignore
        )  # fmt: skip
        query = whole.self_attn.q_proj.weight.grad.view(2, 2, 16, 64)[:, : config[2], :, : config[0]]
        torch.testing.assert_close(query.reshape(-1, config[0]), cut.self_attn.q_proj.weight.grad)
        assert not whole.mlp.down_proj.weight.grad[config[0] :].any()
    gone = [index for index in range(3) if index not in stay]
    assert all(model.model.layers[index].mlp.up_proj.weight.grad is None for index in gone)
    assert config[0] == 64 or not model.model.embed_tokens.weight.grad[:, config[0] :].any()


def test_a_cut_head_is_one_whose_output_is_zero() -> None:
    model = grouped()
    cut = extracted(model, (64, 3, 1, 48), (0, 1, 2))
    masked: Any = copy.deepcopy(model)
    for block in masked.model.layers:
        block.self_attn.o_proj.weight.data.view(64, 2, 2, 16)[:, :, 1] = 0
    torch.testing.assert_close(logits(cut), logits(masked), rtol=1e-4, atol=1e-5)


def test_draws_lie_in_the_space_and_fill_a_budget() -> None:
    space, draw = Space(shapes_of(grouped())), random.Random(0)
    whole = space.shapes.parameters(space.shapes.whole)
    drawn = [space.draw(draw) for _ in range(300)]
    assert {c[1] for c in drawn} == {1, 2, 3}
    assert {c[2] for c in drawn} == {1, 2}
    assert {c[0] for c in drawn} == {32, 40, 48, 56, 64}
    assert {c[3] for c in drawn} == {8, 16, 24, 32, 40, 48}
    for config in drawn:
        full = space.filled(config, whole // 2)
        if full is not None:
            assert full[:3] == config[:3]
            assert space.shapes.parameters(full) <= whole // 2 < space.shapes.parameters((*full[:3], full[3] + 8))
    assert space.filled(space.smallest, whole) is None  # all its neurons leave most of it unused


def test_calibrated_draws_are_spread_over_sizes() -> None:
    space = Space(shapes_of(tiny("Llama")))
    low, high = (space.shapes.parameters(config) for config in (space.smallest, space.shapes.whole))

    def spread(source: Any) -> float:
        draw = random.Random(3)
        found = [(space.shapes.parameters(source.draw(draw)) - low) / (high - low) for _ in range(400)]
        counts = torch.histc(torch.tensor(found, dtype=torch.float64), 10, 0, 1)
        return float(counts.max() / counts.min().clamp(min=1))

    assert spread(Strata(space)) < 2.5
    assert spread(Strata(space)) < 0.5 * spread(space)


@pytest.mark.parametrize("shapes", [Shapes(256, 6, 4, 2, 64, 768, 4096), Shapes(40, 1, 2, 2, 8, 16, 4000)])
def test_calibrated_draws_go_on_where_sizes_cannot_be_reached(shapes: Shapes) -> None:
    """The real model's shapes; and a space of few sizes, of which more than `spare` ranges are empty."""
    space, draw = Space(shapes), random.Random(0)
    source = Strata(space, tries=50)
    drawn = {source.draw(draw) for _ in range(200)}
    assert all(len(one) == 4 for one in drawn)
    assert sum(source.counts) == 200
    assert len(drawn) > 2


def test_a_model_with_other_parameters_is_refused() -> None:
    config = Qwen3Config(
        vocab_size=40, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"layout|beside Llama's"):  # norms of queries and keys
        shapes_of(Qwen3ForCausalLM(config))
