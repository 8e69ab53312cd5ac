"""LoRC (ZeroQuant-V2): round the weights, then add the error's best low-rank approximation back.

Yao et al., "ZeroQuant-V2: Exploring Post-training Quantization in LLMs from Comprehensive Study to Low Rank
Compensation", arXiv 2303.08302, section 5:

    E = W - Q = U S V^T                         singular value decomposition of the error
    E_r = (U_r sqrt(S_r)) (sqrt(S_r) V_r^T)     two factors of rank r, stored in 8 bits
    W' = Q + E_r

By Eckart and Young no other correction of rank r leaves a smaller ||W - W'||. Over GPTQ: `gptq_lorc`.
"""

from torch import Tensor

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.grid import min_max, round_to_grid
from paperlab.kit.low_rank import compensate
from paperlab.kit.matrix import Matrix

CARD = Card(
    paper="zeroquant-v2-lorc",
    family="quantization",
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.01,
    beside=(Arm("original"),),
    baseline=Arm("round-to-nearest", bits=4, group=64),
    checks=(
        Check(
            claim="better-than-rtn-at-4-bits",
            says="Low-rank factors added to rounded 4-bit weights recover quality at little size (no single figure).",
            also={"encoder_compress": "embedding_error"},
            method=Arm("zeroquant-v2-lorc", bits=4, rank=8),
            beside=(Arm("round-to-nearest", bits=4), Arm("original")),
            equal={"layer_bits": 0.03},
            gap="The paper adds the factors to a quantizer and leaves the size to grow (little at width 4096, 0.2 to "
            "0.4 bits a weight at ours); that comparison stands beside. The verdict is stricter: round-to-nearest "
            "spends the same bits on ranges per group of 64. SmolLM2's weights at hand already lie on a 4-bit grid "
            "in groups of 32, which favours groups. The paper's models have 125M to 176B parameters.",
        ),
        Check(
            claim="better-than-rtn-at-3-bits",
            says="The compensation helps more the fewer the bits; here 3 bits.",
            also={"encoder_compress": "embedding_error"},
            method=Arm("zeroquant-v2-lorc", bits=3, rank=8),
            baseline=Arm("round-to-nearest", bits=3, group=64),
            equal={"layer_bits": 0.04},
            gap="As at 4 bits. The sizes differ by up to 4 %, either way, since the factors' cost depends on widths.",
        ),
        Check(
            claim="better-than-rtn-at-2-bits",
            says="The compensation helps most at 2 bits.",
            also={"encoder_compress": "embedding_error"},
            method=Arm("zeroquant-v2-lorc", bits=2, rank=8),
            baseline=Arm("round-to-nearest", bits=2, group=64),
            equal={"layer_bits": 0.06},
            gap="As at 4 bits; sizes differ by up to 6 %, either way. Both arms may be useless models: a lower "
            "perplexity among thousands is no repair, read the figures.",
        ),
        Check(
            claim="better-than-rtn-at-4-bits-narrow",
            says="The same at 4 bits with rank 4, which costs what groups of 64 cost on matrices 256 wide.",
            models=("abstracts-lm",),
            method=Arm("zeroquant-v2-lorc", bits=4, rank=4),
            beside=(Arm("zeroquant-v2-lorc", bits=4, rank=8), Arm("original")),
            equal={"layer_bits": 0.02},
            gap="As at 4 bits above, where rank 8 came out too large on this model to be comparable. The paper uses "
            "ranks from 8 up, on far wider matrices.",
        ),
        Check(
            claim="better-than-rtn-at-3-bits-narrow",
            says="The same at 3 bits with rank 4, which costs what groups of 64 cost on matrices 256 wide.",
            models=("abstracts-lm",),
            method=Arm("zeroquant-v2-lorc", bits=3, rank=4),
            baseline=Arm("round-to-nearest", bits=3, group=64),
            beside=(Arm("zeroquant-v2-lorc", bits=3, rank=8), Arm("original")),
            equal={"layer_bits": 0.02},
            gap="As at 3 bits above, where rank 8 came out too large on this model to be comparable. The paper uses "
            "ranks from 8 up, on far wider matrices.",
        ),
        Check(
            claim="better-than-rtn-at-2-bits-narrow",
            says="The same at 2 bits with rank 4, which costs what groups of 64 cost on matrices 256 wide.",
            models=("abstracts-lm",),
            method=Arm("zeroquant-v2-lorc", bits=2, rank=4),
            baseline=Arm("round-to-nearest", bits=2, group=64),
            beside=(Arm("zeroquant-v2-lorc", bits=2, rank=8), Arm("original")),
            equal={"layer_bits": 0.02},
            gap="As at 2 bits above, where rank 8 came out too large on this model to be comparable. The paper uses "
            "ranks from 8 up, on far wider matrices.",
        ),
        Check(
            claim="activations-hurt-more-than-weights",
            says="At 8 bits, rounding activations alone costs more quality than rounding weights alone.",
            metric="kl",
            also={"encoder_compress": "embedding_error"},
            margin=0.1,
            method=Arm("round-to-nearest", bits=8),
            baseline=Arm("rtn-activations", weight_bits=16, activation_bits=8, dynamic=True),
            gap="Per-channel weights against per-token activations, both asymmetric, as in the paper's sensitivity "
            "study. Both losses are tiny at 8 bits, so the judge is the distance to the original, not perplexity.",
        ),
        Check(
            claim="no-method-lossless-at-4-bits",
            says="No quantizer at hand regains the original quality at INT4; asked of GPTQ with groups, a strong one.",
            also={"encoder_compress": "embedding_error"},
            expect="higher",
            method=Arm("gptq", bits=4, group=64),
            baseline=Arm("original"),
            beside=(Arm("zeroquant-v2-lorc", bits=4, rank=8), Arm("round-to-nearest", bits=4, group=64)),
            gap="The paper tries RTN, GPTQ and ZeroQuant's variants, per row and per block, on models from 125M to "
            "176B. One method with a loss proves nothing about all; a method without one would refute the claim "
            "here. SmolLM2's weights at hand were rounded to 4 bits before, which hides part of the loss.",
        ),
    ),
    departs=(
        "the singular vectors come from a block Krylov iteration (over 99.9 % of the energy of the exact ones)",
        "the factors' 8 bits are symmetric, with a float16 scale per component; the paper does not say how it rounds",
    ),
)


def quantize(
    weight: Tensor,
    *,
    bits: int = 4,
    rank: int = 8,
    factor_bits: int = 8,
    group: int | None = None,
    symmetric: bool = False,
) -> Matrix:
    """weight (out, in) -> codes with a scale per row or group, and two factors (out, rank), (rank, in).

    rank: 0 gives plain round-to-nearest. factor_bits: 2 to 15, or 16 for float16. Raises ValueError.
    """
    scale, zero = min_max(weight, bits=bits, group=group, symmetric=symmetric)
    rounded = round_to_grid(weight, scale, zero, bits=bits, symmetric=symmetric)
    return compensate(weight, rounded, rank=rank, bits=factor_bits)
