"""Controls of distilling rationales about sums, and our own question on whether rationales are worth their steps.

No method of its own. An arm is a small model that knows sums of two digits and learns those of three.
"""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="distillation",
    task="lm_arithmetic",
    metric="accuracy",
    expect="higher",
    margin=0.02,
    equal={"parameters": 0.0, "steps": 0.0},
    method=Arm("rationale-distillation", rationales="consistent"),
    baseline=Arm("rationale-distillation", rationales="none"),
    checks=(
        Check(
            claim="taught-reasons-are-valid",
            says="A model that was taught reasons gives more valid ones than a model that was taught answers alone.",
            metric="valid",
            gap="A control, not a claim: one arm reads reasons and the other does not.",
            role="positive control",
        ),
        Check(
            claim="reasons-of-other-questions",
            says="Reasons that belong to other questions explain nothing: they must not be found better than the "
            "questions' own.",
            method=Arm("rationale-distillation", rationales="shuffled"),
            metric="valid",
            baseline=Arm("rationale-distillation", rationales="first"),
            gap="A control, not a claim: rationale distillation with its reasons dealt at random.",
            role="negative control",
        ),
        Check(
            claim="rationales-against-themselves",
            says="The same training twice, with other batches: the floor below which no difference counts.",
            expect="equal",
            baseline=Arm("rationale-distillation", rationales="consistent"),
            gap="A control, not a claim.",
            role="a/a control",
        ),
        Check(
            claim="reasons-better-than-answers-alone",
            says="Does a model that also learns reasons answer more questions right without giving any?",
            gap="A question of ours, at equal steps: the arm with reasons reads about three times as many characters.",
            role="question",
        ),
    ),
)
