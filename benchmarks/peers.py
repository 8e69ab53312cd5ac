"""The same quantizers in other people's packages, behind one signature each; imported only when called.

Packages (CPU, any Python environment apart from paperlab's, so that nothing here replaces torch):

    pip install torch && pip install --no-deps llmcompressor compressed-tensors gptqmodel neural-compressor hqq \\
        bitsandbytes torchao && pip install transformers accelerate loguru termcolor datasets threadpoolctl \\
        pillow kernels py-cpuinfo logbar device-smi tokenicer pypcre scipy psutil
"""

import contextlib
import io
from collections.abc import Callable
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor, nn

from paperlab.kit.grid import min_max

Result = TypeVar("Result")


def quiet(call: Callable[[], Result]) -> Result:
    """The peers talk on standard output."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return call()


def stacked_llmcompressor(
    weights: Tensor, hessians: Tensor, *, bits: int, group: int | None, symmetric: bool, act_order: bool = False
) -> Tensor:
    """GPTQ of llm-compressor on (n, out, in) weights at once, with our grids of the original weights."""
    from compressed_tensors.quantization import QuantizationArgs
    from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

    low = 0 if symmetric else 2 ** (bits - 1)  # its codes are signed
    grids = [min_max(weight, bits=bits, group=group, symmetric=symmetric) for weight in weights]
    args = QuantizationArgs(
        num_bits=bits,
        symmetric=symmetric,
        strategy="group" if group else "channel",
        group_size=group,
        actorder="weight" if act_order else None,
    )
    scale = torch.stack([g[0].float() for g in grids])
    zero = torch.stack([(g[1].float() - low) for g in grids]).to(torch.int8)
    return quantize_weight(weights.clone(), hessians.clone(), scale, zero, None, args, 128, 0.01)[0]


def gptq_llmcompressor(weight: Tensor, hessian: Tensor, inputs: Tensor | None = None, **grid: object) -> Tensor:
    """GPTQ of llm-compressor: grids fitted beforehand, to the original weights."""
    return stacked_llmcompressor(weight[None], hessian[None], **grid)[0]  # type: ignore[arg-type]


def sparsegpt_llmcompressor(weight: Tensor, hessian: Tensor, *, sparsity: float) -> Tensor:
    """SparseGPT of llm-compressor: the kept weights, refitted, in float32."""
    from llmcompressor.modifiers.pruning.sparsegpt.sgpt_sparsify import sparsify_weight

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.clone()
    with torch.no_grad():
        return sparsify_weight(layer, {layer: hessian.clone()}, sparsity, 0, 0, 128, 0.01, False)[1]


def gptq_gptqmodel(
    weight: Tensor, hessian: Tensor, inputs: Tensor | None = None, *, bits: int, group: int | None, symmetric: bool
) -> Tensor:
    """GPTQ of GPTQModel: grids fitted when a group starts; lazy blocks as long as the groups, so up to date."""
    from gptqmodel.quantization.config import QuantizeConfig
    from gptqmodel.quantization.gptq import GPTQ

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.clone()
    config = QuantizeConfig(
        bits=bits, group_size=group or -1, sym=symmetric, desc_act=False, act_group_aware=False, damp_percent=0.01
    )
    config.fallback = None
    solver = GPTQ(layer, config)
    solver.quantizer.configure(perchannel=True)
    solver.H, solver.nsamples = hessian.clone(), 1
    solver.finalize_hessian = lambda target_device=None: solver.H
    return solver.quantize(blocksize=group or 128)[0].detach()


def gptq_neural_compressor(
    weight: Tensor, hessian: Tensor, inputs: Tensor | None = None, *, bits: int, group: int | None, symmetric: bool
) -> Tensor:
    """GPTQ of Intel's neural-compressor: grids fitted when a group starts."""
    from neural_compressor.torch.algorithms.weight_only.gptq import GPTQ

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    solver = GPTQ(layer, weight)
    double = {"use_double_quant": False, "double_quant_sym": False, "double_quant_bits": 8,
              "double_quant_dtype": "int", "double_quant_group_size": 256}  # fmt: skip
    grid = {"bits": bits, "sym": symmetric, "perchannel": True, "mse": False, "dtype": "int", "group_size": group or -1}
    solver.quantizer.configure(grid | double)
    solver.H = hessian.clone()
    return solver.fasterquant(weight.clone(), blocksize=group or 128, percdamp=0.01, groupsize=group or -1)[3]


def nearest_compressed_tensors(weight: Tensor, *, bits: int, group: int | None, symmetric: bool) -> Tensor:
    """Round to nearest of compressed-tensors (the format of vLLM and llm-compressor), its own scales."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(
        num_bits=bits, symmetric=symmetric, strategy="group" if group else "channel", group_size=group
    )
    parts = weight.reshape(len(weight), -1, group or weight.shape[1])
    scale, zero = calculate_qparams(parts.amin(2), parts.amax(2), args)
    return fake_quantize(weight, scale, zero, args)


def nearest_torchao(weight: Tensor, *, bits: int, group: int | None, symmetric: bool) -> Tensor:
    """Round to nearest of torchao's affine primitives, its own scales."""
    from torchao.quantization.quant_primitives import (
        MappingType,
        choose_qparams_affine,
        dequantize_affine,
        quantize_affine,
    )

    block = (1, group or weight.shape[1])
    kind = MappingType.SYMMETRIC_NO_CLIPPING_ERR if symmetric else MappingType.ASYMMETRIC
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    scale, zero = choose_qparams_affine(weight, kind, block, torch.int32, low, high, scale_dtype=torch.float32)
    codes = quantize_affine(weight, block, scale, zero, torch.int32, low, high)
    return dequantize_affine(codes, block, scale, zero, torch.int32, low, high)


def hqq_mobius(weight: Tensor, *, bits: int, group: int) -> Tensor:
    """The authors' HQQ."""
    from hqq.core.quantize import Quantizer

    packed, meta = Quantizer.quantize(weight, nbits=bits, group_size=group, axis=1, bitpack=False, device="cpu")
    return ((packed.float() - meta["zero"].float()) * meta["scale"].float()).view_as(weight)


def nf4_bitsandbytes(weight: Tensor, *, group: int) -> tuple[Tensor, Tensor]:
    """The authors' NF4: its 16 levels, and the dequantized weights."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight, blocksize=group, quant_type="nf4")
    return state.code, dequantize_4bit(packed, state)


def smoothing_llmcompressor(weights: list[Tensor], absmax: Tensor, *, alpha: float) -> Tensor:
    """SmoothQuant's scale of llm-compressor, which takes twice the weights' magnitude; that factor is taken out."""
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    layers = [nn.Linear(w.shape[1], w.shape[0], bias=False) for w in weights]
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight.data = weight
    scale = SmoothQuantModifier(smoothing_strength=alpha)._calculate_smoothing_scales(layers, absmax)
    return scale.detach() * 2 ** (1 - alpha)


class Kept(list[dict[str, Any]]):
    """llm-compressor's cache of a module's inputs asks for a GPU's pinned memory; this one keeps copies."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def append(self, inputs: dict[str, Any]) -> None:
        """Keep a copy."""
        super().append({name: None if name == "past_key_values" else deepcopy(x) for name, x in inputs.items()})

    def pin_memory(self, _: int) -> None:
        """Nothing to do on a CPU."""

    iter_prefetch = list.__iter__


def awq_llmcompressor(folder: Path, batches: list[Tensor], *, bits: int, group: int) -> dict[str, list[float]]:
    """AWQ's search of llm-compressor on the model in `folder`: for each layer whose output it scales, by name, the
    loss at alpha = 0, 1 / 20, … 1 and then the scale that it chose.
    """
    import torch.utils.data
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier, base
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found: dict[str, list[float]] = {}
    losses: list[float] = []
    search, measure = AWQModifier._compute_best_scale, AWQModifier._compute_loss

    def watched_search(self: AWQModifier, mapping: Any, *args: Any, **kwargs: Any) -> Tensor:
        losses.clear()
        scale = search(self, mapping, *args, **kwargs)
        found[mapping.smooth_name] = [*losses, *scale.flatten().tolist()]
        return scale

    def watched_measure(*args: Any) -> float:
        losses.append(measure(*args))
        return losses[-1]

    scheme = {"targets": ["Linear"], "weights": {"num_bits": bits, "type": "int", "symmetric": False,
              "strategy": "group", "group_size": group}}  # fmt: skip
    rows = [{"input_ids": row} for batch in batches for row in batch]
    with (
        mock.patch.object(AWQModifier, "_compute_best_scale", watched_search),
        mock.patch.object(AWQModifier, "_compute_loss", watched_measure),
        mock.patch.object(base, "IntermediatesCache", Kept),
    ):
        oneshot(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            processor=AutoTokenizer.from_pretrained(folder),
            dataset=torch.utils.data.DataLoader(rows, batch_size=len(batches[0])),
            recipe=[
                AWQModifier(duo_scaling=False, n_grid=21),
                QuantizationModifier(config_groups={"all": scheme}, ignore=["lm_head"]),
            ],
            pipeline="independent",
        )
    return found


def at(package: str) -> str:
    """`package version`."""
    return f"{package} {version(package)}"
