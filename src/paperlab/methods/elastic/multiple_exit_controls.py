"""Controls of exits in encoder and decoder: what must hold, what must not, how much training differs from itself. No
method of its own."""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="elastic",
    task="caption",
    metric="caption",
    margin=0.02,
    checks=(
        Check(
            claim="six-layers-better-than-three",
            says="A network with six layers of each half writes better captions than with three.",
            expect="higher",
            method=Arm("fewer-layers"),
            baseline=Arm("fewer-layers", encoder=3, decoder=3),
            gap="A control, not a claim. It shows that depth matters in these scenes, and that the task sees it.",
            role="positive control",
        ),
        Check(
            claim="leaving-where-layers-change-much",
            says="Leaving image, text and words where a layer changes them most must not make better captions than "
            "where it changes them least, within the same time.",
            expect="higher",
            method=Arm("mue-multiple-exiting", reverse=True),
            baseline=Arm("mue-multiple-exiting"),
            gap="A control, not a claim: the wrong layers are left on purpose.",
            role="negative control",
        ),
        Check(
            claim="all-layers-against-themselves",
            says="The same fine-tuning of all layers twice, from other first weights: the floor of differences.",
            expect="equal",
            method=Arm("fewer-layers"),
            baseline=Arm("fewer-layers"),
            gap="A control, not a claim. Both arms differ by the luck of their seeds alone.",
            role="a/a control",
        ),
    ),
)
