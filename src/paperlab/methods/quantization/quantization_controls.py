"""Controls of the family: what must hold, what must not, and how much the same arm differs from itself.

No method of its own. A check of this family is worth what these show: a positive control that fails, or
a negative one that holds, means that task, driver or statistics are broken, not that a paper is wrong.

Positive controls ask for 2 %, the least margin of the family's claims; negative ones for nothing, so that any gain
that is told from 0 is a fault. The first version had 0 % too, and at 3 bits GPTQ without a Hessian "gained" 3.6 % on
SmolLM2; the second one raised that margin to 2 % until it passed. What had gone wrong is that both arms were broken
there (20 times the original's perplexity), and that the interval covered texts alone, not the luck of codes that lie
next to a tie, of which weights that were rounded before have many. Now intervals cover calibration draws, and the arms
have 4 bits, with which no model here is broken. The third version added a million times the mean diagonal and was
found better on SmolLM2 by 0.4 %: not a fault of the comparison, but a millionth of a Hessian whose largest diagonal is
up to 1,400 times its mean. It moved 15,907 of 106 million codes across a tie, the way that GPTQ would; as many moved
at random lose 0.2 to 0.5 %. With 10^9 three codes differ and the gain is -0.001 % (interval 0.013), with 10^12 none.

An A/A control is in order where its interval includes 0. That has level 90 %, as of every equivalence, so that by
chance up to one run in ten is not.
"""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="quantization",
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    also={"encoder_compress": "embedding_error"},
    baseline=Arm("round-to-nearest", bits=4),
    beside=(Arm("original"),),
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
            says="At 3 bits in groups of 64 GPTQ beats plain rounding clearly, as in its paper and many since.",
            models=("smollm2-135m", "minilm-l6"),
            method=Arm("gptq", bits=3, group=64),
            baseline=Arm("round-to-nearest", bits=3, group=64),
            equal={"layer_bits": 0.001},
            gap="A control, not a claim. It shows that calibration statistics reach the method.",
            role="positive control",
        ),
        Check(
            claim="gptq-better-than-rtn-at-2-bits",
            says="The same at 2 bits per channel, on the model that loses little at 3.",
            models=("abstracts-lm",),
            method=Arm("gptq", bits=2),
            baseline=Arm("round-to-nearest", bits=2),
            equal={"layer_bits": 0.001},
            gap="A control, not a claim. It shows that calibration statistics reach the method.",
            role="positive control",
        ),
        Check(
            claim="gptq-without-a-hessian",
            says="With a damping of 10^9 times the mean diagonal the Hessian is the identity, and GPTQ plain "
            "rounding: it must not be found better.",
            margin=0.0,
            method=Arm("gptq", bits=4, damping=1e9),
            equal={"layer_bits": 0.001},
            gap="A control, not a claim: GPTQ with its key constant destroyed. What is left are codes that sat next to "
            "a tie.",
            role="negative control",
        ),
        Check(
            claim="gptq-with-reordered-calibration",
            says="The same calibration windows in another order give the same Hessian but for its last digits: GPTQ "
            "must not be found better for it.",
            margin=0.0,
            models=("abstracts-lm", "minilm-l6"),
            method=Arm("gptq", bits=4, calibration="reordered"),
            baseline=Arm("gptq", bits=4),
            equal={"layer_bits": 0.001},
            gap="A control, not a claim: what sums in another order, another processor or another library change.",
            role="negative control",
        ),
        Check(
            claim="gptq-against-itself",
            says="The same arm twice, with other calibration windows: what they alone change.",
            expect="equal",
            models=("abstracts-lm", "minilm-l6"),
            method=Arm("gptq", bits=4),
            baseline=Arm("gptq", bits=4),
            equal={"layer_bits": 0.001},
            gap="A control, not a claim: the floor below which no difference between drawn arms counts.",
            role="a/a control",
        ),
        Check(
            claim="rtn-against-itself",
            says="The same arm twice: scoring is deterministic, so the floor should be zero.",
            expect="equal",
            margin=0.001,
            method=Arm("round-to-nearest", bits=4),
            equal={"layer_bits": 0.0},
            gap="A control, not a claim. An arm that looks at no data has nothing to draw.",
            role="a/a control",
        ),
    ),
)
