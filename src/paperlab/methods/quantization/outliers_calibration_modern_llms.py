"""Calibration sets on modern models: does it matter on which text a quantizer is calibrated?

No method of its own: the checks calibrate one quantizer on text that is like the test text, on text that is not,
and on random tokens, and ask whether the result is the same. Source: Paglieri et al., "Outliers and Calibration Sets
have Diminishing Effect on Quantization of Modern LLMs", arXiv 2405.20835. No code is released.

The paper's claim is a contrast: OPT breaks, newer models do not. Only its second half is tested.
"""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="quantization",
    paper="outliers-calibration-modern-llms",
    sources=("abstract",),
    task="lm_compress",
    metric="perplexity",
    expect="no worse",
    margin=0.02,
    beside=(Arm("original"),),
    equal={"layer_bits": 0.001},
    checks=(
        Check(
            claim="gptq-robust-to-content",
            says="Llama-2 and 3, Command-R and Mistral stay robust whatever they are calibrated on; OPT, which is not "
            "tested here, does not. GPTQ with 4-bit weights is no worse when calibrated on program code than on news.",
            models=("smollm2-135m",),
            method=Arm("gptq", bits=4, group=64, calibration="code"),
            baseline=Arm("gptq", bits=4, group=64),
            trivial=Arm("round-to-nearest", bits=4, group=64),
            gap="Theirs: 7 to 35 billion parameters. Here one model of 135 million, trained by a modern recipe, its "
            "weights rounded once to 4 bits in groups of 32. At quick 4,096 tokens calibrate layers of up to 1,536 "
            "inputs, so that GPTQ leans on its text more than with a usual set. A pass does not show that older models "
            "are not robust: the contrast, which is the paper's point, is not tested.",
        ),
        Check(
            claim="gptq-robust-to-random-tokens",
            says="Is a tiny model calibrated on random tokens no worse than one calibrated on text (2-bit weights)?",
            models=("abstracts-lm",),
            method=Arm("gptq", bits=2, group=64, calibration="random"),
            baseline=Arm("gptq", bits=2, group=64),
            trivial=Arm("round-to-nearest", bits=2, group=64),
            gap="A model of 6 million parameters that has met nothing but abstracts is not one of the modern models.",
            role="question",
        ),
        Check(
            claim="static-ranges-robust-to-content",
            says="Do input ranges fixed on program code serve as well as those fixed on text (8-bit weights, inputs)?",
            models=("abstracts-lm",),
            method=Arm("rtn-activations", weight_bits=8, activation_bits=8, calibration="code"),
            baseline=Arm("rtn-activations", weight_bits=8, activation_bits=8),
            trivial=Arm("rtn-activations", weight_bits=8, activation_bits=8, calibration="random"),
            gap="As with random tokens. Plain static ranges depend on calibration more than SmoothQuant's do. The "
            "trivial arm is another calibration, as there is no static range without one: if it passes, too, so that "
            "the check cannot tell, the ranges are robust even to random tokens, which is what the paper found.",
            role="question",
        ),
    ),
    departs=(
        "OPT, Llama, Command-R and Mistral are replaced by two small models",
        "only GPTQ is tested; the paper has AWQ and SmoothQuant, too",
        "two sets stand for the paper's RedPajama, ARC, PiQA, FLORES+ and random punctuation: program code for other "
        "content, tokens drawn uniformly from the vocabulary for nonsense",
        "perplexity alone is measured, not downstream tasks",
    ),
)
