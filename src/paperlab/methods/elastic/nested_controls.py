"""Controls of networks with several widths: what must hold, what must not, how much training differs from itself. No
method of its own."""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="elastic",
    task="lm_nested",
    margin=0.01,
    checks=(
        Check(
            claim="trained-for-a-width-better-than-cut",
            says="A network trained with an eighth of the units predicts text better than a whole one cut to them.",
            metric="bits_eighth",
            expect="lower",
            method=Arm("separate-widths", sizes="0.125"),
            baseline=Arm("separate-widths", sizes="1"),
            gap="A control, not a claim. It shows that cutting hurts, and that the task sees it.",
            role="positive control",
        ),
        Check(
            claim="trained-for-another-width",
            says="A network trained with an eighth of the units must not be better at all of them.",
            metric="bits_full",
            expect="lower",
            method=Arm("separate-widths", sizes="0.125"),
            baseline=Arm("separate-widths", sizes="1"),
            gap="A control, not a claim: the wrong width is trained on purpose.",
            role="negative control",
        ),
        Check(
            claim="a-width-against-itself",
            says="The same training twice, from other first weights: the floor below which no difference counts.",
            metric="bits_eighth",
            expect="equal",
            method=Arm("separate-widths", sizes="0.125"),
            baseline=Arm("separate-widths", sizes="0.125"),
            gap="A control, not a claim. Both arms differ by the luck of their seeds alone.",
            role="a/a control",
        ),
    ),
)
