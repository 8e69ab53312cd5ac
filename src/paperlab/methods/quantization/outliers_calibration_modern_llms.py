"""Calibration sets on modern models: does it matter on which text a quantizer is calibrated?

No method of its own: the checks calibrate one quantizer on text that is like the test text, on text that is not,
and on random tokens, and ask whether the result is the same. Source: Paglieri et al., "Outliers and Calibration Sets
have Diminishing Effect on Quantization of Modern LLMs", arXiv 2405.20835.
"""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="quantization",
    paper="outliers-calibration-modern-llms",
    task="lm_compress",
    metric="perplexity",
    expect="equal",
    margin=0.02,
    beside=(Arm("round-to-nearest", bits=4, group=64), Arm("original")),
    equal={"layer_bits": 0.001},
    baseline=Arm("gptq", bits=4, group=64),
    checks=(
        Check(
            claim="gptq-robust-to-content",
            says="Modern models hardly change with the content of the calibration set (GPTQ, 4-bit weights)",
            method=Arm("gptq", bits=4, group=64, calibration="code"),
            gap="The paper contrasts OPT 6.7B, which breaks, with Llama 2 and 3, Command-R and Mistral 7B, which do "
            "not. OPT is not at hand offline, so the contrast is not tested: only that a modern recipe at 135M and at "
            "6M parameters is robust. A pass would not show that older models are not. SmolLM2's weights had been "
            "rounded to 4 bits before. The small model has met nothing but abstracts: code is foreign to it in a way "
            "that no text is to the paper's models.",
        ),
        Check(
            claim="gptq-robust-to-random-tokens",
            says="Even a nonsensical calibration set harms modern models little (GPTQ, 4-bit weights)",
            margin=0.05,
            method=Arm("gptq", bits=4, group=64, calibration="random"),
            gap="The paper's nonsense is random ASCII punctuation; here tokens drawn evenly from the vocabulary. As "
            "above: only the half about modern models is tested.",
        ),
        Check(
            claim="static-w8a8-robust-to-content",
            says="Activation ranges fixed on other text serve modern models as well (8-bit weights and activations)",
            method=Arm("rtn-activations", weight_bits=8, activation_bits=8, calibration="code"),
            baseline=Arm("rtn-activations", weight_bits=8, activation_bits=8),
            beside=(Arm("original"),),
            gap="The paper uses SmoothQuant for weights and activations; here plain static ranges, which depend on "
            "calibration more. As above: only the half about modern models is tested.",
        ),
    ),
    departs=(
        "OPT, Llama, Command-R and Mistral are replaced by the small models at hand",
        "two mismatched sets (program code, random tokens) stand for the paper's questions and languages",
    ),
)
