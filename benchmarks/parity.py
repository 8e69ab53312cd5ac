"""Do our quantizers agree with other people's? The same layer, the same calibration; writes parity.md beside this file.

    python benchmarks/parity.py        in an environment with the packages that peers.py names, and paperlab's src
                                       on PYTHONPATH

The layer is drawn from a seed: 192 x 256 weights, 2000 inputs that are correlated, one channel 20 times as loud.
`loss` is tr((W - Q) H (W - Q)^T) / tr(W H W^T), lower is better; `same` is the share of equal weights.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import peers
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from paperlab.kit.fold import Group, scaling_groups
from paperlab.kit.gptq import gptq
from paperlab.kit.grid import min_max, round_to_grid
from paperlab.lab.drivers.compress import apply
from paperlab.methods.quantization import awq, hqq, nf4


@dataclass
class Row:
    """One comparison. least: share of equal weights that we promise; most: relative difference of losses allowed."""

    what: str
    peer: str
    ours: float
    theirs: float
    same: float
    least: float
    most: float

    @property
    def agrees(self) -> bool:
        """Within what was promised."""
        return self.same >= self.least and abs(self.ours / self.theirs - 1) <= self.most


def layer(rows: int = 192, columns: int = 256, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """weight (out, in), inputs (2000, in), hessian (in, in)."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=draw) * 0.05
    mix = torch.randn(columns, columns, generator=draw) * 0.1 + torch.eye(columns)
    x = torch.randn(2000, columns, generator=draw) @ mix
    x[:, 7] *= 20
    return weight, x, x.T @ x * (2 / 2000)


def compare(what: str, peer: str, ours: Tensor, theirs: Tensor, *, least: float, most: float) -> Row:
    """Both dequantized, (out, in)."""
    weight, _, hessian = layer()

    def loss(q: Tensor) -> float:
        return float(((weight - q) @ hessian * (weight - q)).sum() / (weight @ hessian * weight).sum())

    same = float(((ours - theirs).abs() < 1e-3 * weight.abs().max()).float().mean())
    return Row(what, peer, loss(ours), loss(theirs), same, least, most)


def rows() -> Iterator[Row]:
    """All comparisons. Tolerances are looser where the peer fits its own scales, which we keep in float16."""
    weight, _, hessian = layer()
    for group in (None, 64):
        name = f"group {group}" if group else "per row"
        plain = {"bits": 4, "group": group, "symmetric": False}
        ours = round_to_grid(weight, *min_max(weight, **plain), bits=4).dense()
        for package, call in (
            ("compressed-tensors", peers.nearest_compressed_tensors),
            ("torchao", peers.nearest_torchao),
        ):
            theirs = call(weight, **plain)
            yield compare(f"round to nearest, {name}", peers.at(package), ours, theirs, least=0.999, most=0.005)
        ours = gptq(weight, hessian, **plain).dense()
        for package, call in (
            ("gptqmodel", peers.gptq_gptqmodel),
            ("neural-compressor", peers.gptq_neural_compressor),
        ):
            theirs = peers.quiet(lambda call=call, plain=plain: call(weight, hessian, **plain))
            yield compare(f"GPTQ, {name}", peers.at(package), ours, theirs, least=0.85, most=0.02)
    for symmetric in (False, True):
        plain = {"bits": 4, "group": None, "symmetric": symmetric}
        theirs = peers.gptq_llmcompressor(weight, hessian, **plain)
        what = f"GPTQ, per row, {'symmetric' if symmetric else 'asymmetric'}, same scales"
        ours = gptq(weight, hessian, **plain).dense()
        yield compare(what, peers.at("llmcompressor"), ours, theirs, least=0.999, most=0.001)
    plain = {"bits": 4, "group": 64, "symmetric": False, "act_order": True}
    theirs = peers.gptq_llmcompressor(weight, hessian, **plain)
    ours = gptq(weight, hessian, **plain).dense()
    what = "GPTQ, group 64, act order, same scales"
    yield compare(what, peers.at("llmcompressor"), ours, theirs, least=0.999, most=0.001)
    for bits in (4, 3, 2):
        theirs = peers.hqq_mobius(weight, bits=bits, group=64)
        ours = hqq.quantize(weight, bits=bits, group=64).dense()
        yield compare(f"HQQ, {bits} bits, group 64", peers.at("hqq"), ours, theirs, least=0.5, most=0.03)
    levels, theirs = peers.nf4_bitsandbytes(weight, group=64)
    assert (levels - nf4.levels()).abs().max() < 1e-6
    ours = nf4.quantize(weight, group=64).dense()
    yield compare("NF4, group 64", peers.at("bitsandbytes"), ours, theirs, least=0.995, most=0.005)


def smoothing() -> tuple[Tensor, Tensor]:
    """SmoothQuant's scale: ours and llm-compressor's, (in,) each; they differ by a factor that `peers` takes out."""
    weight, x, _ = layer()
    absmax = x.abs().amax(0)
    return (absmax / weight.abs().amax(0)).sqrt(), peers.smoothing_llmcompressor([weight], absmax, alpha=0.5)


ALPHAS = 20


def scales() -> Iterator[tuple[str, float, float, float, float]]:
    """AWQ on a small seeded Llama, ours against llm-compressor's search with the same statistics, grid and loss.

    Yields for each scaled layer: its name, our alpha, theirs, how much worse than its own best the peer finds our
    alpha, and, where the alphas agree, the largest relative difference of the scales (else nan).
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, head_dim=16, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layernorm" in name:
                parameter.copy_(torch.rand(64) * 4 + 0.25)
    batches = list(torch.randint(0, 64, (16, 32)).split(4))
    groups = [own for block in scaling_groups(model) for own in block]
    tokens = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({str(i): i for i in range(64)}, "0")))
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokens.save_pretrained(folder)
        theirs = peers.quiet(lambda: peers.awq_llmcompressor(Path(folder), batches, bits=4, group=32))
    chosen: dict[str, tuple[Tensor, float]] = {}
    search = awq.search

    def watched(own: Group, *args: Any, **kwargs: Any) -> tuple[Tensor, float]:
        chosen[own.name] = search(own, *args, **kwargs)
        return chosen[own.name]

    with mock.patch.object(awq, "search", watched):
        calibration = [{"input_ids": batch} for batch in batches]
        apply(
            {"transform": awq.transform},
            {"bits": 4, "group": 32, "clip": False, "tokens": 512},
            model=model,
            calibration=calibration,
        )
    modules = {module: name for name, module in model.named_modules()}
    for own in groups:
        found = theirs[modules[own.source]]
        losses, scale = found[: ALPHAS + 1], torch.tensor(found[ALPHAS + 1 :])
        ours, alpha = chosen[own.name]
        best = min(range(ALPHAS + 1), key=losses.__getitem__)
        regret = losses[round(alpha * ALPHAS)] / losses[best] - 1
        apart = float((ours / scale - 1).abs().max()) if best == round(alpha * ALPHAS) else float("nan")
        yield own.name, alpha, best / ALPHAS, regret, apart


TEXT = """# Parity with what we did not write

Written by `benchmarks/parity.py`: one seeded layer (192 x 256, 2000 correlated inputs, one of them 20 times as
loud), the same Hessian for all. Loss: tr((W - Q) H (W - Q)^T) / tr(W H W^T). Same: share of weights that come out
equal. A row agrees if both stay within the tolerance, which was set after a look at another draw. Scales here are
float16; where a peer fits its own in float32, a few weights fall to the other side of a rounding boundary, and GPTQ
carries each of them on to the later columns. HQQ differs more: theirs stops all groups together, ours keeps each
group's best iteration.

| what | peer | loss, ours | loss, theirs | same | tolerance: same at least, loss within | agrees |
|---|---|---:|---:|---:|---|---|
"""


def main() -> None:
    """Run all comparisons and write the table."""
    lines = [
        f"| {r.what} | {r.peer} | {r.ours:.5f} | {r.theirs:.5f} | {r.same:.1%} | {r.least:.1%}, {r.most:.1%} | "
        f"{'yes' if r.agrees else '**no**'} |"
        for r in rows()
    ]
    ours, theirs = smoothing()
    apart = float((ours / theirs - 1).abs().max())
    tail = (
        f"\nSmoothQuant's scale (alpha 0.5) against {peers.at('llmcompressor')}, whose formula doubles the weights' "
        f"magnitude (a constant factor, taken out): largest relative difference {apart:.1e}.\n\n"
        f"AWQ's search against {peers.at('llmcompressor')} on a seeded Llama of two blocks (4 bits, groups of 32, "
        f"{ALPHAS} alphas, activations only, no clipping). Regret: how much larger a loss the peer measures at our "
        "alpha than at its own.\n\n| scaled inputs | alpha, ours | alpha, theirs | regret | scales apart by |\n"
        "|---|---:|---:|---:|---:|\n"
    )
    for name, alpha, other, regret, apart in scales():
        tail += (
            f"| {name} | {alpha:.2f} | {other:.2f} | {regret:.2%} | {'' if math.isnan(apart) else f'{apart:.1e}'} |\n"
        )
    Path(__file__).with_suffix(".md").write_text(TEXT + "\n".join(lines) + "\n" + tail)


if __name__ == "__main__":
    main()
