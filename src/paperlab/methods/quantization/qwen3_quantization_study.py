"""Qwen3 quantization study: classic post-training methods from 8 bits down to 2; where does quality break?

No method of its own: the checks compare round-to-nearest, GPTQ and AWQ as its tables do. Zheng et al., "An Empirical
Study of Qwen3 Quantization", arXiv 2505.02214, and github.com/Efficient-ML/Qwen3-Quantization at cef1087.

The figures in `says` are WikiText2 perplexities of Qwen3-0.6B, its smallest model, 20.9 unquantized.
"""

from paperlab.core.card import Arm, Card, Check, Gate

CARD = Card(
    family="quantization",
    paper="qwen3-quantization-study",
    sources=("paper", "code"),
    configuration="GPTQ-for-Qwen/README.md, RTN/README.md and llm-awq/awq/entry.py",
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    beside=(Arm("original"),),
    baseline=Arm("original"),
    gap="Theirs: Qwen3 from 0.6B to 32B parameters, calibrated on 128 texts of 2,048 tokens; here 23M and 135M, on 32 "
    "or 64 windows of 128 tokens. A pass shows nothing of their finding that larger models lose less. SmolLM2's "
    "weights were rounded once before, to 4 bits in groups of 32. abstracts-lm loses only 0.9 % to rounding at 4 bits "
    "and is left out.",
    checks=(
        Check(
            claim="eight-bits-near-lossless",
            says="At 8 bits the models stay near the full-precision ones: 20.9 with round-to-nearest, one range per "
            "channel (table 2). RTN here; the study has GPTQ and AWQ too.",
            expect="no worse",
            margin=0.01,
            models=("smollm2-135m",),
            method=Arm("round-to-nearest", bits=8),
            beside=(Arm("round-to-nearest", bits=6),),
            trivial=Arm("round-to-nearest", bits=4),
        ),
        Check(
            claim="gptq-better-than-rtn-at-4-bits",
            says="At 4 bits per channel GPTQ keeps more than round-to-nearest: 33.0 against 37.5 (table 2).",
            also={"encoder_compress": "embedding_error"},
            models=("smollm2-135m", "minilm-l6"),
            method=Arm("gptq", bits=4, act_order=True),
            baseline=Arm("round-to-nearest", bits=4),
            equal={"layer_bits": 0.02},
        ),
        Check(
            claim="awq-better-than-rtn-at-4-bits",
            says="At 4 bits per channel AWQ keeps more than round-to-nearest: 25.8 against 37.5 (table 2).",
            also={"encoder_compress": "embedding_error"},
            models=("smollm2-135m", "minilm-l6"),
            method=Arm("awq", bits=4, group=None),
            baseline=Arm("round-to-nearest", bits=4),
            equal={"layer_bits": 0.02},
        ),
        Check(
            claim="two-bits-break",
            says="At 2 bits only methods that calibrate, like GPTQ, keep a minimal level, far from the original.",
            expect="higher",
            margin=1.0,
            models=("smollm2-135m",),
            method=Arm("gptq", bits=2, act_order=True),
            gates=(
                Gate(
                    says="GPTQ at 4 bits is no worse than rounding",  # at 2 bits both are broken: no gate tells them
                    method=Arm("gptq", bits=4, act_order=True),
                    baseline=Arm("round-to-nearest", bits=4),
                    expect="better",
                ),
            ),
        ),
    ),
    departs=(
        "their GPTQ goes layer by layer (true-sequential); ours sees each block's inputs",
        "groups of 128 (tables 3 and 4) are left out: they do not divide the widths of SmolLM2. The command of "
        "RTN/README.md (--nearest) gives one range per row whatever --groupsize says (qwen.py)",
        "AWQ's search sees 256 tokens here; their code (llm-awq/awq/entry.py) takes 128 texts of up to 512 tokens of "
        "C4, where the paper says 2,048 for all methods",
        "AWQ also scales value to output where query heads share a value head, which their code leaves out there",
        "SmoothQuant (weights and activations) and the 1-bit BiLLM are not repeated here, nor the zero-shot tasks",
    ),
)
