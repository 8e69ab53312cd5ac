"""EoRA: give back the error of a compressed weight by two thin matrices, chosen in the eigenspace of its inputs.

    X X^T = Q L Q^T (eigenvalues L),   E = W - W_c
    E Q sqrt(L) = U S V^T,   B = U_r sqrt(S_r),   A = sqrt(S_r) V_r^T sqrt(L)^-1 Q^T,   W' = W_c + B A

No other B A of rank r leaves a smaller ||(W - W') X||. No gradients: one pass over a few calibration texts.
Liu et al., arXiv 2410.21271; github.com/NVlabs/EoRA at 11ff6c0 (`llama_sequential_eigen`).
"""

import torch
from torch import Tensor

from paperlab.core.card import Arm, Card, Check, Gate
from paperlab.kit.factoring import project
from paperlab.kit.matrix import Factors

CARD = Card(
    family="low-rank",
    paper="eora",
    sources=("abstract", "code"),
    configuration="eora.py --lowrank_method eigen --eigen_r 128",
    task="lm_compress",
    metric="kl",
    expect="lower",
    margin=0.02,
    models=("abstracts-lm", "minilm-l6"),
    method=Arm("eora", rank=8, after=Arm("gptq", bits=4, after=Arm("sparsegpt", sparsity=0.5, pattern="2:4"))),
    equal={"layer_bits": 0.001},
    gap="Theirs: LLaMA2 and LLaMA3 (8B in the released commands), rank 128 of 4,096, calibrated on 64 texts of the "
    "task that is asked (ARC, MathQA, GSM8K). Here: 6M and 23M parameters, rank 8 of 256 and 384, 32 or 64 windows of "
    "general text, and the distance to the original model, for compression costs abstracts-lm 8 % of perplexity in "
    "all. A pass shows nothing of accuracy on tasks, of what calibration on the asked task adds, or of speed.",
    checks=(
        Check(
            claim="better-than-svd-at-2-4-and-4-bits",
            says="Weighted by the inputs' eigenvalues, thin matrices make up for more of the error than the SVD of the "
            "error does (no figure for the difference in the abstract).",
            also={"encoder_compress": "embedding_error"},
            baseline=Arm(
                "svd-error", rank=8, after=Arm("gptq", bits=4, after=Arm("sparsegpt", sparsity=0.5, pattern="2:4"))
            ),
            trivial=Arm("gptq", bits=4, after=Arm("sparsegpt", sparsity=0.5, pattern="2:4")),
            beside=(
                Arm("act-s", rank=8, after=Arm("gptq", bits=4, after=Arm("sparsegpt", sparsity=0.5, pattern="2:4"))),
                Arm("original"),
            ),
            gates=(
                Gate(
                    says="with a Hessian that says nothing it is the SVD of the error",
                    method=Arm(
                        "eora",
                        rank=8,
                        damping=1e6,
                        after=Arm("gptq", bits=4, after=Arm("sparsegpt", sparsity=0.5, pattern="2:4")),
                    ),
                    baseline=Arm(
                        "svd-error",
                        rank=8,
                        after=Arm("gptq", bits=4, after=Arm("sparsegpt", sparsity=0.5, pattern="2:4")),
                    ),
                    tolerance=0.02,
                ),
            ),
        ),
        Check(
            claim="better-than-act-s-at-2-4-and-4-bits",
            says="It makes up for more than the SVD of the error scaled by the size of each input does (Act-S).",
            also={"encoder_compress": "embedding_error"},
            baseline=Arm(
                "act-s", rank=8, after=Arm("gptq", bits=4, after=Arm("sparsegpt", sparsity=0.5, pattern="2:4"))
            ),
            trivial=Arm("gptq", bits=4, after=Arm("sparsegpt", sparsity=0.5, pattern="2:4")),
        ),
        Check(
            claim="recovers-2-4-and-4-bits",
            says="It gives back much of what pruning and quantization together cost: 31.31 %, 12.88 % and 9.69 % on "
            "ARC-Easy, ARC-Challenge and MathQA (LLaMA3-8B, 2:4 and 4 bits).",
            also={"encoder_compress": "embedding_error"},
            equal={"parameters": 0.0},
            baseline=Arm("gptq", bits=4, after=Arm("sparsegpt", sparsity=0.5, pattern="2:4")),
        ),
        Check(
            claim="better-than-svd-at-3-bits",
            says="At 3 bits it gains 10.84 % on ARC-Challenge, 6.74 % on MathQA and 11.45 % on GSM8K (LLaMA3-8B), more "
            "than earlier methods without training.",
            models=("abstracts-lm",),
            method=Arm("eora", rank=8, after=Arm("gptq", bits=3, act_order=True)),
            baseline=Arm("svd-error", rank=8, after=Arm("gptq", bits=3, act_order=True)),
            trivial=Arm("gptq", bits=3, act_order=True),
            beside=(Arm("act-s", rank=8, after=Arm("gptq", bits=3, act_order=True)),),
        ),
        Check(
            claim="better-than-finer-groups",
            says="Are the bits of rank 5 better spent on thin matrices than on a range for every 32 weights?",
            models=("abstracts-lm",),
            equal={"layer_bits": 0.02},
            method=Arm("eora", rank=5, after=Arm("gptq", bits=3)),
            baseline=Arm("gptq", bits=3, group=32),
            role="question",
        ),
    ),
    departs=(
        "within a block, inputs are those of its compressed layers; theirs those of its original ones. Both see the "
        "blocks before as they are stored, compressed and made up for",
        "eigenvalues that are not positive count as the smallest positive one; theirs replaces the negative ones alone",
        "nothing is divided by eigenvalues: U_r U_r^T E is the same matrix as theirs, and exists where theirs does not",
        "the leading components are exact to 0.1 % of their energy where a matrix is large",
        "4 bits follow 2:4 as a second pass over what is left; theirs prunes and rounds in one",
        "the judge is the divergence from the original: a trial on one calibration draw showed that perplexity moves "
        "by less than the margin between any two ways to correct it",
    ),
)


def factor(error: Tensor, hessian: Tensor, *, rank: int = 16, damping: float = 0.0) -> Factors:
    """error (out, in), what the original weight has over the stored one, and hessian (in, in), twice the inputs'
    second moments -> factors of rank r in float16, to be added.

    damping: share of the Hessian's mean diagonal added to it; a huge one makes all inputs count alike, which leaves
    the SVD of the error.
    """
    moments = hessian.double()
    moments = moments + damping * moments.diagonal().mean() * torch.eye(len(moments), dtype=moments.dtype)
    values, vectors = torch.linalg.eigh(moments)
    positive = values[values > 0]
    values = values.clamp_min(float(positive.min()) if len(positive) else 1.0)
    scaled = error.double() @ (vectors * values.sqrt())
    return project(error, (scaled / values.mean().sqrt()).float(), rank)
