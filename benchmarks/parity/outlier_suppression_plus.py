"""Outlier Suppression+ and SmoothQuant against their authors' code; prints rows for README.md beside this file.

    PYTHONPATH=src:benchmarks python benchmarks/parity/outlier_suppression_plus.py OSPLUS SMOOTHQUANT

OSPLUS, SMOOTHQUANT: clones of github.com/ModelTC/Outlier_Suppression_Plus and github.com/mit-han-lab/smoothquant.
Same layer as in benchmarks/parity.py. Losses are measured by Outlier Suppression+'s own migrator, at its scales and at
ours.
"""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import parity
import torch
from torch import Tensor, nn

from paperlab.kit.fold import Group
from paperlab.kit.walk import Call
from paperlab.kit.weight_activation import Rounding
from paperlab.methods.quantization import outlier_suppression_plus, smoothquant


def migrators(folder: Path) -> tuple[Any, Any]:
    """Their searches for LLaMA and for OPT. Their models, which need an old transformers, are left out."""
    for name in ("", ".model", ".quantization"):
        package = ModuleType(f"quant_transformer{name}")
        package.__path__ = [str(folder / f"quant_transformer{name}".replace(".", "/"))]
        sys.modules[package.__name__] = package
    sys.modules["quant_transformer.model.quant_llama"] = ModuleType("quant_transformer.model.quant_llama")
    sys.modules["quant_transformer.model"].quant_llama = sys.modules["quant_transformer.model.quant_llama"]
    from quant_transformer.quantization import migration, migration_llama

    return migration_llama.Migrator1DRangeSearch, migration.Migrator1DRangeSearch


def group(weight: Tensor) -> Group:
    """A linear layer behind another whose outputs can be scaled."""
    reader = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        reader.weight.copy_(weight)
    return Group("layer", nn.Linear(4, weight.shape[1]), (reader,), reader)


def main() -> None:
    """Thresholds and losses in four released settings; then SmoothQuant's scales."""
    llama, opt = migrators(Path(sys.argv[1]))
    weight, x, _ = parity.layer()
    x = x[None]
    low, high = x[0].amin(0), x[0].amax(0)
    extra = {"observation_mask": torch.ones(x.shape[:2])}
    for what, peer, kind, bits, dynamic, symmetric in (
        ("per token, 4 bits", llama, "down_proj", 4, True, False),
        ("per token, 6 bits", llama, "down_proj", 6, True, False),
        ("static, 6 bits", opt, "fc1", 6, False, False),
        ("static, 8 bits, symmetric", opt, "fc1", 8, False, True),
    ):
        a = SimpleNamespace(bit=bits, symmetric=symmetric, ch_axis=0 if dynamic else -1)
        a.quantizer = "TokenFixedFakeQuantize" if dynamic else "FixedFakeQuantize"
        w = SimpleNamespace(bit=bits, symmetric=symmetric, ch_axis=0, quantizer="FixedQuantize")
        theirs = peer(x, weight, a, w, kind, extra)
        reach = float(theirs.search_migrate_range_1D()[1])
        rounding = Rounding(bits, bits, dynamic=dynamic, symmetric=symmetric)
        _, own = outlier_suppression_plus.search(
            group(weight), [Call(x, (), {})], low, high, None, steps=12, rounding=rounding
        )
        size = float(theirs.output.square().sum(-1).mean())
        losses = [float(theirs.cac_scale_loss(-t, t)) / size for t in (own, reach)]
        scales = [theirs.cac_scale(torch.tensor(-t), torch.tensor(t)) for t in (own, own)]
        scales[0] = outlier_suppression_plus.scale_to(low, high, own)
        apart = float((scales[0] / scales[1] - 1).abs().max())
        print(
            f"| {what} | {own:.3f} | {reach:.3f} | {losses[0]:.6f} | {losses[1]:.6f} | "
            f"{losses[0] / losses[1] - 1:+.2%} | {apart:.1e} |"
        )
    sys.path.insert(0, str(Path(sys.argv[2])))
    from smoothquant.smooth import smooth_ln_fcs

    for alpha in (0.5, 0.85):
        norm, reader = nn.LayerNorm(weight.shape[1]), nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        with torch.no_grad():
            reader.weight.copy_(weight)
        own = smoothquant.smoothing(group(weight), x[0].abs().amax(0), alpha)
        smooth_ln_fcs(norm, reader, x[0].abs().amax(0), alpha)
        apart = float((own * norm.weight.detach() - 1).abs().max())
        print(f"SmoothQuant, alpha {alpha}: scales apart by {apart:.1e} at most")


if __name__ == "__main__":
    main()
