"""The table of layouts, on small random models of many architectures: what it says leaves each one's function as it is.

A wrong group, writer or reader changes the outputs; a missing one shows in the counts.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from layout_models import MODELS, inputs, make, outputs
from torch import Tensor, nn

import paperlab
from paperlab.engine import EngineError
from paperlab.kit.fold import fold, scaling_groups
from paperlab.kit.layouts import LAYOUTS, above, layout_of
from paperlab.kit.opening import Experts, closed, opened
from paperlab.kit.orthogonal import random_orthogonal
from paperlab.kit.rotate import fold_norms, rotatable, rotate_heads, rotate_online, rotate_residual, value_pairs
from paperlab.kit.walk import block_linears, blocks, stacks, walk

METHODS: dict[str, dict[str, Any]] = {
    "round-to-nearest": {"bits": 4},
    "gptq": {"bits": 4, "group": 8},
    "awq": {"bits": 4, "group": 8, "steps": 3},
    "smoothquant": {"weights": "channel"},
    "random-rotation": {"rotation": "orthogonal"},
}
WORSE = 3.0  # an output error that is so many times Llama's is no rounding error any more
REFUSED = {  # what each method refuses, and why
    "GptOss": (set(METHODS), "GptOssForCausalLM keeps 8.% of its blocks' weights in .*GptOssExperts, not in nn.Linear"),
    "BitNet": ({"awq", "smoothquant", "random-rotation"}, r"BitNetForCausalLM has blocks .* that fit no row"),
    "OPT, narrow embedding": ({"random-rotation"}, "has an embedding of 16 and blocks of 32 channels"),
    "Bloom, other residual": ({"awq", "smoothquant", "random-rotation"}, r"BloomForCausalLM has blocks .* fit no row"),
    "OPT, post-norm": ({"awq", "smoothquant", "random-rotation"}, "first block does not read layernorm_embedding"),
    "Electra, narrow embedding": (
        {"awq", "smoothquant", "random-rotation"}, "first block does not read embeddings.LayerNorm",
    ),
    "Albert": (set(METHODS) - {"round-to-nearest"}, "in the order \\[0, 0\\]|fit no row"),
    "Olmo2": (
        {"smoothquant", "random-rotation"}, "Olmo2ForCausalLM is built as OLMo 2: .*the residual stream without a norm",
    ),
    "DebertaV2": ({"smoothquant", "random-rotation"}, "queries and keys project positions|behind the residual"),
    **dict.fromkeys(("Gemma2", "Gemma3", "Glm4"), ({"random-rotation"}, "norms what its branches return, channel by")),
    **dict.fromkeys(
        ("Bert", "Roberta", "MPNet", "DistilBert", "Deberta", "DebertaV2, own positions"),
        ({"random-rotation"}, "stand behind the residual sums"),
    ),
    "ModernBert": ({"random-rotation"}, "its first block reads the embedding without a norm"),
    "Dinov2": ({"random-rotation"}, "it scales what its branches return"),
    **dict.fromkeys(
        ("CLIP", "T5", "T5, gated", "Bart", "MBart", "Whisper"),
        ({"random-rotation"}, r"has 2 stacks of blocks .*this is for models of one"),
    ),
}  # fmt: skip


def refusal(name: str, method: str) -> str | None:
    """Why a method refuses a model, or None."""
    methods, why = REFUSED.get(name, (set(), ""))
    return why if method in methods else None


@contextmanager
def double_precision() -> Iterator[None]:
    """Norms and softmax that compute in float32 compute in float64."""
    single, to_float = torch.float32, Tensor.float
    torch.float32 = torch.float64
    Tensor.float = Tensor.double
    try:
        yield
    finally:
        torch.float32, Tensor.float = single, to_float


def precise(model: nn.Module, name: str) -> Tensor:
    with double_precision():
        batches = inputs(name, 2, seed=0)
        return outputs(
            model, [{k: v.double() if v.is_floating_point() else v for k, v in batch.items()} for batch in batches]
        )


def same(model: nn.Module, name: str, wanted: Tensor) -> None:
    assert (precise(model, name) - wanted).abs().max() < 1e-9 * wanted.abs().max()


@pytest.mark.parametrize("name", [n for n in MODELS if not refusal(n, "awq")])
def test_scales_and_shifts_leave_the_function(name: str) -> None:
    model = opened(make(name).double())
    wanted, draw = precise(model, name), torch.Generator().manual_seed(1)
    inside = set(block_linears(model).values())
    with torch.no_grad():
        for _ in range(2):  # a second fold composes with the first
            rows = scaling_groups(model)
            assert len(rows) == sum(len(stack) for _, stack in stacks(model))
            assert all(row and inside.issuperset(reader for group in row for reader in group.readers) for row in rows)
            for group in (group for row in rows for group in row):
                assert set(group.scope.modules()).issuperset(group.readers)
                scale = 0.3 + 3 * torch.rand(group.width, generator=draw).double()
                shift = torch.randn(group.width, generator=draw).double() if group.shiftable else None
                before = [reader.weight.clone() for reader in group.readers]
                fold(group, scale, shift)
                assert all(not torch.equal(a, b.weight) for a, b in zip(before, group.readers, strict=True))
    same(model, name, wanted)


@pytest.mark.parametrize("name", [n for n in MODELS if not refusal(n, "random-rotation")])
def test_rotations_leave_the_function(name: str) -> None:
    model = opened(make(name).double())
    wanted, draw, seen = precise(model, name), torch.Generator().manual_seed(1), []
    hook = blocks(model)[1][1].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    precise(model, name)
    fold_norms(model)
    same(model, name, wanted)
    found = rotatable(model)
    turn = random_orthogonal(32, draw)
    rotate_residual(model, turn)
    for block in found:
        module = model.get_submodule(block.name)
        for pair in value_pairs(module):
            rotate_heads(module, random_orthogonal(pair.size, draw))
        for layer in block.writers:
            rotate_online(layer, random_orthogonal(layer.in_features, draw))
    same(model, name, wanted)
    before = seen[0]
    if not torch.allclose(before @ turn, seen[-2], atol=1e-8):  # of LayerNorm models the mean is gone
        before = before - before.mean(-1, keepdim=True)
    torch.testing.assert_close(before @ turn, seen[-2], rtol=0, atol=1e-8)
    hook.remove()


@cache
def made(name: str, method: str) -> Any:
    """The compressed model, and its output's relative error."""
    model = make(name)
    kept = copy.deepcopy(model.state_dict())
    batches = inputs(name, 2, seed=0)
    wanted = outputs(model, batches)
    small = paperlab.load(method, **METHODS[method])(model, calibration=inputs(name, 5, seed=1))
    assert all(torch.equal(kept[key], value) for key, value in model.state_dict().items())
    assert torch.equal(outputs(model, batches), wanted)
    return small, float((outputs(small, batches) - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_methods_on_every_architecture(name: str, method: str, tmp_path: Path) -> None:
    if why := refusal(name, method):
        with pytest.raises(ValueError, match=why):
            made(name, method)
        return
    small, error = made(name, method)
    assert 0 < error < WORSE * made("Llama", method)[1]
    assert set(small.compressed.layers) == set(block_linears(opened(make(name))))
    if method == "round-to-nearest":  # all stacks, all experts
        whole = dict(make(name).named_parameters())
        changed = [key for key, value in small.named_parameters() if not torch.equal(value, whole[key])]
        assert len(changed) >= sum(len(stack) for _, stack in stacks(opened(make(name))))
    if method not in ("gptq", "awq") or not hasattr(small.save_pretrained, "__self__"):
        return  # left parts in the model that a checkpoint cannot hold, and refuses to be saved
    small.save_pretrained(tmp_path)
    again = type(small).from_pretrained(tmp_path).eval()
    batches = inputs(name, 2, seed=0)
    torch.testing.assert_close(outputs(again, batches), outputs(small, batches), rtol=1e-5, atol=1e-5)


def test_how_many_architectures_there_are() -> None:
    works = {method: sum(refusal(name, method) is None for name in MODELS) for method in METHODS}
    assert len(MODELS) >= 39
    assert works["round-to-nearest"] >= 36
    assert works["gptq"] >= 36
    assert works["awq"] >= 30
    assert works["smoothquant"] >= 30
    assert works["random-rotation"] >= 15


@pytest.mark.parametrize("name", ["GPT2", "Mixtral", "Qwen2Moe"])
def test_what_was_opened_is_closed_again(name: str) -> None:
    model = make(name)
    wanted, keys = outputs(model, inputs(name, 2, seed=0)), list(model.state_dict())
    kept = copy.deepcopy(model.state_dict())
    opened(model)
    assert list(model.state_dict()) != keys or model.transformer.h[0].mlp.c_fc.weight.shape == (128, 32)
    torch.testing.assert_close(outputs(model, inputs(name, 2, seed=0)), wanted)
    closed(model)
    assert list(model.state_dict()) == keys
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    assert torch.equal(outputs(model, inputs(name, 2, seed=0)), wanted)


def test_experts_that_round_their_inputs_stay_open() -> None:
    small = paperlab.load("rtn-activations")(make("Mixtral"), calibration=inputs("Mixtral", 6, seed=1))
    assert isinstance(small.model.layers[0].mlp.experts, Experts)
    assert small.compressed.unstored


@pytest.mark.parametrize("name", ["Bloom", "Falcon", "Mamba", "T5"])
def test_the_engine_refuses_what_it_does_not_know_by_its_name(name: str, tmp_path: Path) -> None:
    small = made(name, "round-to-nearest")[0]
    with pytest.raises(EngineError, match=f'the architecture "{small.config.model_type}" is not known here'):
        small.compressed.pack(tmp_path / "packed")
    assert not list(tmp_path.iterdir())


def test_a_decoder_meets_what_its_encoder_has_become() -> None:
    model = make("Bart")
    seen: list[Tensor] = []
    for name, block, calls in walk(model, inputs("Bart", 1, seed=0)):
        if name.startswith("model.encoder"):
            with torch.no_grad():
                block.final_layer_norm.weight.zero_()
                block.final_layer_norm.bias.fill_(0.5)
        else:
            seen += [value for value in (*calls[0].args, *calls[0].kwargs.values()) if isinstance(value, Tensor)]
    assert any(value.dim() == 3 and (value == 0.5).all() for value in seen)


def test_what_knows_one_stack_refuses_two() -> None:
    with pytest.raises(
        ValueError, match=r"2 stacks of blocks \(text_model.encoder.layers, vision_model.encoder.layers"
    ):
        blocks(make("CLIP"))


def planted(model: Any) -> None:
    model.model.layers[0].another_norm = nn.RMSNorm(32)


def gemma(model: Any) -> None:
    model.model.layers[1].post_attention_layernorm.forward = lambda x: x


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (planted, r"LlamaForCausalLM has blocks \(LlamaDecoderLayer\) that fit no row of paperlab.kit.layouts"),
        (gemma, "LlamaRMSNorm is not proportional to its weight, nor to 1"),
    ],
)
def test_an_unknown_part_of_a_block_is_refused(change: Callable[[Any], None], says: str) -> None:
    model = make("Llama")
    change(model)
    with pytest.raises(ValueError, match=says):
        scaling_groups(model)


def test_every_row_fits_a_model_above() -> None:
    found = set()
    for name in MODELS:
        if not refusal(name, "awq"):
            model = opened(make(name))
            found |= {layout_of(block, list(above(model, stem))) for stem, stack in stacks(model) for block in stack}
    assert [row.name for row in LAYOUTS if row not in found] == []
