"""Qwen3 quantization study: classic post-training methods from 8 bits down to 2; where does quality break?

No method of its own: the checks compare round-to-nearest, GPTQ and AWQ at equal bits. Source: Zheng et al., "An
Empirical Study of Qwen3 Quantization", arXiv 2505.02214.
"""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="quantization",
    paper="qwen3-quantization-study",
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.05,
    baseline=Arm("round-to-nearest", bits=3, group=64),
    checks=(
        Check(
            claim="eight-bits-are-lossless",
            says="At 8 bits the quantized models stay near the full-precision ones",
            expect="equal",
            margin=0.01,
            method=Arm("round-to-nearest", bits=8, group=64),
            baseline=Arm("original"),
            also={"encoder_compress": "human_correlation"},
            gap="The paper covers Qwen3 from 0.6B upwards with groups of 128, and zero-shot tasks beside perplexity; "
            "here a 135M and a 6M model in groups of 64, and an encoder. Only the simplest method is held "
            "against the original.",
        ),
        Check(
            claim="gptq-better-than-rtn-at-3-bits",
            says="Calibrated methods keep more quality than round-to-nearest at 3 bits",
            method=Arm("gptq", bits=3, group=64),
            beside=(Arm("original"),),
            equal={"layer_bits": 0.001},
            gap="The paper calibrates on 128 texts of 2,048 tokens; here on 32 windows of 128.",
        ),
        Check(
            claim="awq-better-than-rtn-at-3-bits",
            says="Calibrated methods keep more quality than round-to-nearest at 3 bits",
            method=Arm("awq", bits=3, group=64),
            beside=(Arm("original"),),
            equal={"layer_bits": 0.001},
            gap="The paper calibrates on 128 texts of 2,048 tokens; here on 32 windows of 128. AWQ is as in its own "
            "paper, with its search for clipping.",
        ),
        Check(
            claim="gptq-better-than-rtn-at-4-bits",
            says="Calibrated methods keep more quality than round-to-nearest at 4 bits",
            margin=0.005,
            method=Arm("gptq", bits=4, group=64),
            baseline=Arm("round-to-nearest", bits=4, group=64),
            beside=(Arm("original"),),
            equal={"layer_bits": 0.001},
            models=("abstracts-lm",),
            gap="Only on the small model that was never rounded: SmolLM2's weights at hand already lie near a 4-bit "
            "grid, which favours plain rounding. The loss at 4 bits is small, and so is the margin.",
        ),
        Check(
            claim="two-bits-break",
            says="At 2 bits and below language quality drops sharply (the factor of two is ours)",
            expect="higher",
            margin=1.0,
            method=Arm("gptq", bits=2, group=64),
            baseline=Arm("gptq", bits=3, group=64),
            beside=(Arm("round-to-nearest", bits=3, group=64), Arm("original")),
            gap="The best calibrated grid method at hand stands for all of them; perplexity at 2 bits should be at "
            "least twice that at 3. Small models break earlier than the paper's larger ones. One bit (BiLLM) is "
            "left out.",
        ),
    ),
    departs=(
        "the paper's SmoothQuant rows (weights and activations) and its 1-bit row (BiLLM) are not repeated here",
        "perplexity on the task's text only; no zero-shot tasks",
    ),
)
