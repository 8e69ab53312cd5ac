"""Controls of distilling classifiers: what must hold, what must not, and how much training differs from itself.

No method of its own.
"""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="distillation",
    task="cls_distill",
    metric="accuracy",
    expect="higher",
    margin=0.02,
    baseline=Arm("fine-tuning"),
    equal={"steps": 0.0, "parameters": 0.0},
    checks=(
        Check(
            claim="pre-trained-better-than-random-weights",
            says="A student that keeps its pre-trained weights learns the task better than one of random weights.",
            method=Arm("fine-tuning"),
            baseline=Arm("fine-tuning", after=Arm("random-weights")),
            gap="A control, not a claim. It shows that the task tells good weights from bad ones.",
            role="positive control",
        ),
        Check(
            claim="a-teacher-that-is-not-listened-to",
            says="Distillation with all its weight on the labels is fine-tuning: it must not be found better.",
            method=Arm("divergence", hard=1.0),
            gap="A control, not a claim: distillation without its teacher.",
            role="negative control",
        ),
        Check(
            claim="fine-tuning-against-itself",
            says="The same training twice, in other orders of the texts: the floor below which no difference counts.",
            expect="equal",
            method=Arm("fine-tuning"),
            gap="A control, not a claim. Both arms differ by the luck of their seeds alone.",
            role="a/a control",
        ),
    ),
)
