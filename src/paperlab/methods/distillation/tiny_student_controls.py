"""Controls of tiny students: what must hold, what must not, and how much a student differs from itself.

No method of its own.
"""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="distillation",
    task="cls_tiny",
    metric="accuracy",
    expect="higher",
    margin=0.02,
    equal={"steps": 0.0, "bytes": 0.0},
    checks=(
        Check(
            claim="answers-to-the-text-better-than-to-another",
            says="A student that hears what the teacher says of each text is better than one that hears what it says "
            "of another.",
            method=Arm("compressor-code-3mb"),
            baseline=Arm("compressor-code-3mb", targets="mismatched"),
            gap="A control, not a claim. It shows that the task tells a student that learned from one that did not.",
            role="positive control",
        ),
        Check(
            claim="answers-to-another-text-against-labels",
            says="A student that hears what the teacher says of other texts must not be found better than one that "
            "learns from labels.",
            method=Arm("compressor-code-3mb", targets="mismatched"),
            baseline=Arm("compressor-code-3mb", texts="labelled", targets="labels"),
            gap="A control, not a claim: distillation with its teacher made useless.",
            role="negative control",
        ),
        Check(
            claim="tiny-student-against-itself",
            says="The same search and training twice, from other draws: the floor below which no difference counts.",
            expect="equal",
            method=Arm("compressor-code-3mb"),
            baseline=Arm("compressor-code-3mb"),
            gap="A control, not a claim. Both arms differ by the luck of their seeds alone.",
            role="a/a control",
        ),
    ),
)
