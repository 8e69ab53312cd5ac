"""Controls of the family: what must hold, what must not, and how much the same arm differs from itself.

No method of its own. A check of this family is worth what these show: a positive control that fails, or
a negative one that holds, means that task, driver or statistics are broken, not that a paper is wrong.

All margins but the last are 2 %, what most checks of the family ask for: the controls certify that margin.
The first version had 50, 5 and 0 %. At 0 % the negative control held in direction on SmolLM2 (3.6 %), and that
is a finding: an interval over items says how sure a difference between these very weights is, not what other
roundings at the same ties would have given. A gain of a few per cent at perplexities near 1,000 is luck.
"""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="quantization",
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    also={"encoder_compress": "embedding_error"},
    baseline=Arm("round-to-nearest", bits=3),
    checks=(
        Check(
            claim="eight-bits-better-than-two",
            says="Rounding to 256 levels loses less than rounding to 4.",
            method=Arm("round-to-nearest", bits=8),
            baseline=Arm("round-to-nearest", bits=2),
            gap="A control, not a claim: the sizes differ on purpose. It shows that the task can tell good from bad.",
            role="positive control",
        ),
        Check(
            claim="gptq-better-than-rtn",
            says="At 3 bits per channel GPTQ beats plain rounding clearly, as in its paper and many since.",
            method=Arm("gptq", bits=3),
            equal={"layer_bits": 0.001},
            gap="A control, not a claim. It shows that calibration statistics reach the method.",
            role="positive control",
        ),
        Check(
            claim="gptq-without-a-hessian",
            says="With a damping of a million times the mean diagonal the Hessian is the identity, and GPTQ plain "
            "rounding: it must not be found better.",
            method=Arm("gptq", bits=3, damping=1e6),
            equal={"layer_bits": 0.001},
            gap="A control, not a claim: GPTQ with its key constant destroyed. What is left are codes that sat next to "
            "a tie.",
            role="negative control",
        ),
        Check(
            claim="rtn-against-itself",
            says="The same arm twice: the floor below which no difference counts.",
            expect="equal",
            margin=0.001,
            method=Arm("round-to-nearest", bits=4),
            baseline=Arm("round-to-nearest", bits=4),
            equal={"layer_bits": 0.0},
            gap="A control, not a claim. Scoring is deterministic, so the floor should be zero.",
            role="a/a control",
        ),
    ),
)
