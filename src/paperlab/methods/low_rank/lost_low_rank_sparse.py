"""LOST: train each weight as a low-rank product plus a few whole columns, both cut from one fresh weight by its SVD.

    W_0 = U S V^T (a fresh weight);   A = U_r sqrt(S_r),   B = sqrt(S_r) V_r^T
    columns: the inputs with the largest norms in the rest of the spectrum, sum over i > r of s_i u_i v_i^T
    y = gamma x A B + (1 - gamma) x[columns] C,   C = those columns of W_0

Li et al., LOST: Low-rank and Sparse Pre-training for Large Language Models, arXiv 2508.02668. Neither its text nor the
released repository could be had. What the abstract leaves open (gamma, how columns are scored, their values) follows a
later repository of the first author's, github.com/JiaxiLi1/Lora-init at ec6ce9b (`HybridSparseLinear` in `run_c4.py`).
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.blocks import block_of

CARD = Card(
    family="low-rank",
    paper="lost-low-rank-sparse",
    sources=("abstract",),
    task="lm_train",
    metric="bits_per_byte",
    expect="lower",
    margin=0.02,
    method=Arm("lost-low-rank-sparse"),
    equal={"parameters": 0.01},
    gap="Theirs: LLaMA of 60M to 7B parameters on C4; the later repository's example takes 20,000 steps of 512 "
    "sequences. Here: 222 thousand parameters full-rank, 118 thousand compressed, rank 16 of 64, 300 thousand bytes "
    "read at quick and 1.5 million at full. So small a network is short of parameters, theirs short of memory: whether "
    "it matches full rank is a question here, not a claim, and a pass says nothing of memory or speed.",
    checks=(
        Check(
            claim="better-than-simple-combination",
            says="Earlier low-rank plus sparse training combines the two parts in a simple way and is worse (here "
            "SLTrain at as many parameters: one thin matrix zero, sparse places at random; no figure in the abstract).",
            baseline=Arm("sltrain"),
            ablation=Arm("lost-low-rank-sparse", start="random", columns="random"),
            trivial=Arm("low-rank-layers", rank=18),
        ),
        Check(
            claim="matches-full-rank",
            says="Is it as good as full rank, as the paper says of 60M to 7B parameters (no figure in the abstract)?",
            expect="no worse",
            equal={"steps": 0.0},
            baseline=Arm("full-precision"),
            trivial=Arm("low-rank-layers", rank=18),
            beside=(Arm("sltrain"),),
            role="question",
        ),
        Check(
            claim="cut-by-svd-better-than-at-random",
            says="Does it matter that one SVD cuts both parts, or would random matrices and columns do?",
            baseline=Arm("lost-low-rank-sparse", start="random", columns="random"),
            beside=(Arm("lost-low-rank-sparse", columns="random"),),
            role="question",
        ),
        Check(
            claim="columns-better-than-more-rank",
            says="Are whole columns worth their parameters, or would two more ranks do as well?",
            baseline=Arm("low-rank-layers", rank=18, start="svd"),
            role="question",
        ),
        Check(
            claim="with-silu-matches-full-rank",
            says="Does it match full rank with SiLU between the thin matrices, an option of the later repository?",
            expect="no worse",
            equal={"steps": 0.0},
            method=Arm("lost-low-rank-sparse", activation=True),
            baseline=Arm("full-precision"),
            trivial=Arm("low-rank-layers", rank=18),
            role="question",
        ),
    ),
    departs=(
        "the whole columns are those of the fresh weight, as in the later repository; by the abstract they could be "
        "those of what the thin matrices leave of it",
        "gamma 0.5 and 5 % of the columns are the defaults there; its example for 130M sets 0.25 and 1 %, which would "
        "be no column of 64. Which the paper's tables use is not known here",
        "the rank is a quarter of the width, the usual choice of this comparison; there 256, whatever the width",
        "the rest of the spectrum is all that is left; theirs at most the next 256 values, which is more than here",
        "followed is the abstract, a fresh weight cut by its SVD; in the later repository the weight is of rank r "
        "already when columns are scored, so that nothing is left of it, and its LoST path never starts from an SVD",
        "AdamW without weight decay, a rate that falls linearly from the start; theirs decay 0.1, warm-up and cosine",
        "SiLU between the thin matrices is off, as in the LoST path there; its text calls it an option",
    ),
)


class Lost(nn.Module):
    """(…, in) -> (…, out)."""

    chosen: Tensor

    def __init__(
        self, in_features: int, out_features: int, bias: bool, rank: int, density: float, gamma: float, start: str,
        columns: str, activation: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 0 <= gamma <= 1 or not 0 < density <= 1:
            raise ValueError(f"gamma={gamma}, density={density}: shares of 1, density above 0")
        weight = nn.Linear(in_features, out_features, bias=False).weight.detach()
        rank, count = min(rank, in_features, out_features), max(1, int(density * in_features))
        u, s, vt = torch.linalg.svd(weight.T, full_matrices=False)
        if start == "svd":
            down, up = u[:, :rank] * s[:rank].sqrt(), s[:rank, None].sqrt() * vt[:rank]
        else:
            size = (weight.square().mean() / rank) ** 0.25
            down, up = torch.randn(in_features, rank) * size, torch.randn(rank, out_features) * size
        norms = (u[:, rank:] * s[rank:]).norm(dim=1)  # of the rows of the rest of W_0^T: V has orthonormal columns
        order = norms if columns == "svd" else torch.rand(in_features)
        self.register_buffer("chosen", order.topk(count).indices.sort().values)
        self.gamma, self.activation = gamma, activation
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.values = nn.Parameter(weight[:, self.chosen].clone())
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        inside = x @ self.down
        inside = nn.functional.silu(inside) if self.activation else inside
        y = self.gamma * inside @ self.up + (1 - self.gamma) * x[..., self.chosen] @ self.values.T
        return y if self.bias is None else y + self.bias

    def stored_bits(self) -> int:
        """Parameters in 32 bits, and the number of each chosen column."""
        return 32 * (sum(one.numel() for one in self.parameters()) + self.chosen.numel())


def block(
    width: int,
    heads: int,
    inner: int,
    *,
    rank: int = 16,
    density: float = 0.05,
    gamma: float = 0.5,
    start: Literal["svd", "random"] = "svd",
    columns: Literal["svd", "random"] = "svd",
    activation: bool = False,
) -> nn.Module:
    """A transformer block, (batch, time, width) -> the same, with seven such layers.

    rank: of the low-rank part, at most a layer's smaller side. density: share of the columns that are whole. gamma:
    weight of the low-rank part. start, columns: what the thin matrices begin as and how columns are chosen; "random"
    is the plain way. activation: SiLU between the thin matrices, as in CoLA.
    """
    layer = partial(Lost, rank=rank, density=density, gamma=gamma, start=start, columns=columns, activation=activation)
    return block_of(layer, width, heads, inner)
