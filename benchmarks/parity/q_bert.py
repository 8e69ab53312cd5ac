"""Q-BERT's ranges and eigenvalues against the authors' code; prints rows for benchmarks/parity.md.

    git clone https://github.com/sIncerass/QBERT
    PYTHONPATH=src:benchmarks python benchmarks/parity/q_bert.py QBERT

quant_modules.py and hessian/power_iteration.py run as they are, on the CPU. Their layer groups input columns, so it is
given the transposed weight. The layer is that of benchmarks/parity.py; the eigenvalues are those of a seeded BERT of 12
blocks (their loop is over 12), of the distance of its embeddings to a fixed target.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest import mock

import parity
import peers
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from paperlab.kit.objective import embeddings
from paperlab.methods.quantization import q_bert


def rounded(folder: Path, weight: Tensor, bits: int, groups: int) -> Tensor:
    """The authors' QuantLinear on the transposed weight, (out, in)."""
    with mock.patch.object(sys, "path", [str(folder), *sys.path]):
        from quant_modules import QuantLinear

    rows, columns = weight.shape
    layer = QuantLinear(rows, columns, weight_bit=bits, full_precision_flag=False, group_number=groups)
    layer.weight = nn.Parameter(weight.T.contiguous())
    nn.init.zeros_(layer.bias)
    return layer(torch.eye(rows)).detach()


def eigenvalues(folder: Path, model: nn.Module, batch: dict[str, Tensor], target: Tensor) -> list[float]:
    """The last estimate of the authors' power iteration for each of the 12 blocks."""
    with mock.patch.object(sys, "path", [str(folder / "hessian"), *sys.path]):
        import power_iteration

    found: dict[str, float] = {}

    def keep(row: list[str]) -> None:
        found[row[0]] = float(row[2]) if row[0].isdigit() else 0.0

    class Loader(list):
        dataset = (0,)

    wrapped = SimpleNamespace(
        module=SimpleNamespace(bert=model), eval=model.eval, zero_grad=model.zero_grad, modules=model.modules
    )
    args = SimpleNamespace(data_percentage=1, train_batch_size=1, task_name="parity", seed=0)

    def loss(_: Any) -> Tensor:
        return (embeddings(model, batch) - target).square().sum(-1).mean()

    with (
        TemporaryDirectory() as place,
        mock.patch.object(Tensor, "cuda", lambda self: self),
        mock.patch.object(power_iteration, "join", return_value=f"{place}/eigens.csv"),
        mock.patch.object(power_iteration.csv, "writer", return_value=SimpleNamespace(writerow=keep)),
        mock.patch.object(power_iteration, "tqdm", lambda rows, **_: rows),
    ):
        power_iteration.logger.setLevel("ERROR")
        power_iteration.power_iteration(Loader([batch]), wrapped, loss, args, "cpu")
    return [found[str(block)] for block in range(12)]


def ours(model: nn.Module, batch: dict[str, Tensor]) -> list[float]:
    """Our estimates, to the same 1 %."""
    blocks = [f"encoder.layer.{i}" for i in range(12)]
    found = q_bert._sharpness(model, blocks, [batch], 1, batch["input_ids"].numel(), 1)
    return [found[block][0] for block in blocks]


def rows(folder: Path) -> Iterator[str]:
    """Lines of the table."""
    weight, _, _ = parity.layer()
    for bits in (4, 2):
        for groups in (1, 64):
            mine = q_bert.round_rows(weight, bits=bits, groups=groups).dense()
            what = f"Q-BERT, {bits} bits, {groups} range{'s' * (groups > 1)} a matrix"
            theirs = rounded(folder, weight, bits, groups)
            row = parity.compare(what, "sIncerass/QBERT cb8fe57", mine, theirs, least=0.995, most=0.01)
            yield (
                f"| {row.what} | {row.peer} | {row.ours:.5f} | {row.theirs:.5f} | {row.same:.1%} "
                f"| {row.least:.1%}, {row.most:.1%} | {'yes' if row.agrees else 'NO'} |"
            )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=12, num_attention_heads=2,
        max_position_embeddings=64, attn_implementation="eager", initializer_range=0.2,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).eval()
    batch = {"input_ids": torch.randint(60, (1, 32)), "attention_mask": torch.ones(1, 32).long()}
    with torch.no_grad():
        target = embeddings(model, batch)
    theirs_too = peers.quiet(lambda: eigenvalues(folder, model, batch, target))
    pairs = list(zip(ours(model, batch), theirs_too, strict=True))
    worst = max(abs(a / b - 1) for a, b in pairs)
    yield f"Top eigenvalues of 12 blocks, largest relative difference {worst:.1%}: {pairs[0][0]:.3f}, {pairs[0][1]:.3f}"


if __name__ == "__main__":
    for line in rows(Path(sys.argv[1])):
        print(line, flush=True)
