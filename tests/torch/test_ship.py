"""A result packed from Python: the engine's logits are the compressed model's, and nothing is written in between."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import paperlab
from paperlab.kit.grid import min_max, round_to_grid
from paperlab.kit.quantized import Quantized
from paperlab.lab.drivers.compress import apply
from paperlab.lab.errors import RunError
from paperlab.lab.ship import Packable

engine = pytest.importorskip("paperlab.engine")
if not engine.available():
    pytest.skip("the compiled engine is not installed", allow_module_level=True)

IDS = list(range(3, 40))


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def logits(model: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS])).logits[0].double().numpy()


def engines(folder: Path) -> np.ndarray:
    loaded = engine.load(folder)
    return loaded.forward([(loaded.session(cache_bits=32), IDS)], every=True).astype(np.float64)


def packed(compressed: Any, model: nn.Module, folder: Path, **options: Any) -> np.ndarray:
    Packable.of(compressed, "this test", [], compressed.model).pack(folder, table_bits=16, **options)
    return engines(folder)


def keep_globally(share: float, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Masks of the largest weights of the whole model, so that every row keeps another number."""
    from paperlab.kit.walk import block_linears

    sizes = torch.cat([layer.weight.detach().abs().flatten() for layer in block_linears(model).values()])
    threshold = sizes.quantile(1 - share)
    return lambda weight: weight.abs() > threshold


@pytest.mark.parametrize("slug", ["round-to-nearest", "gptq", "gptq-lorc", "easyquant"])
def test_the_engine_runs_what_a_method_made(model: LlamaForCausalLM, tmp_path: Path, slug: str) -> None:
    small = paperlab.load(slug, bits=4)(model, calibration=[torch.tensor(IDS)])
    report = small.compressed.pack(tmp_path / "packed", table_bits=16)
    assert report["bits_per_weight"] <= 8  # rank 8 is much for matrices 64 wide
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == ["config.json", "model.safetensors"]
    difference = np.abs(engines(tmp_path / "packed") - logits(small)).max()
    assert difference < 0.01 * np.abs(logits(small) - logits(model)).max() + 2e-3


def test_a_globally_unstructured_mask(model: LlamaForCausalLM, tmp_path: Path) -> None:
    choose = keep_globally(0.4, model)

    def keep(weight: Tensor) -> Tensor:
        mask = choose(weight)
        mask[0], mask[1] = False, True  # an empty row and a full one
        return mask

    pruned = apply({"keep": keep}, {}, model=model, calibration=[])
    counts = {int(row.sum()) for layer in pruned.layers.values() for row in layer.mask}
    assert len(counts) > 5
    ours = packed(pruned, model, tmp_path / "packed")
    assert np.abs(ours - logits(pruned.model)).max() < 0.05 * np.abs(logits(pruned.model) - logits(model)).max()


def test_pruned_then_rounded_codes_are_stored_as_they_are(model: LlamaForCausalLM, tmp_path: Path) -> None:
    def quantize(weight: Tensor) -> Quantized:
        return round_to_grid(weight, *min_max(weight, bits=4, group=64, symmetric=True), bits=4, symmetric=True)

    pruned = apply({"keep": keep_globally(0.5, model)}, {}, model=model, calibration=[])
    both = apply({"quantize": quantize}, {}, model=model, calibration=[], start=pruned)
    difference = np.abs(packed(both, model, tmp_path / "packed") - logits(both.model)).max()
    assert difference < 0.01 * np.abs(logits(both.model) - logits(model)).max() + 2e-3

    def uneven(weight: Tensor) -> Quantized:
        return round_to_grid(weight, *min_max(weight, bits=4), bits=4)

    minima = apply({"quantize": uneven}, {}, model=model, calibration=[], start=pruned)
    with pytest.raises(engine.EngineError, match="sparse and has a zero point"):
        packed(minima, model, tmp_path / "other")
    assert not (tmp_path / "other").exists() or not list((tmp_path / "other").iterdir())


def test_a_model_whose_method_works_while_it_runs_is_refused(model: LlamaForCausalLM, tmp_path: Path) -> None:
    small = paperlab.load("rtn-activations")(model, calibration=[torch.tensor(IDS)])
    with pytest.raises(RunError, match="cannot hold"):
        small.compressed.pack(tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_bfloat16_stays_bfloat16(model: LlamaForCausalLM, tmp_path: Path) -> None:
    small = paperlab.load("round-to-nearest", bits=8, group=64)(model.to(torch.bfloat16))
    small.compressed.pack(tmp_path / "packed", table_bits=16)
    from safetensors import safe_open

    with safe_open(tmp_path / "packed" / "model.safetensors", framework="pt") as file:
        assert file.get_tensor("model.embed_tokens.weight").dtype is torch.bfloat16
