"""Controls of a recogniser with exits: what must hold, what must not, how much training differs from itself. No method
of its own."""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="elastic",
    task="asr",
    margin=0.02,
    checks=(
        Check(
            claim="six-blocks-better-than-one",
            says="A recogniser of six blocks, trained at its end, makes fewer errors than one of one block.",
            metric="error",
            expect="lower",
            method=Arm("early-exit-asr", exits="6"),
            baseline=Arm("early-exit-asr", exits="1", layers=1.0),
            gap="A control, not a claim. It shows that depth matters in these strings, and that the task sees it.",
            role="positive control",
        ),
        Check(
            claim="sure-first-better-than-dealt-out",
            says="Leaving by the posterior makes fewer errors than the same exits dealt out at random.",
            metric="error",
            expect="lower",
            method=Arm("early-exit-asr"),
            baseline=Arm("early-exit-asr", choose="random"),
            gap="A control, not a claim. It shows that strings differ in the blocks that they need, and that a rule "
            "can tell.",
            role="positive control",
        ),
        Check(
            claim="exits-on-frozen-blocks-against-trained-ones",
            says="Early exits that are put on the frozen blocks of a model trained at its end must not be better than "
            "those that the blocks were trained with.",
            metric="error_early",
            expect="lower",
            method=Arm("early-exit-asr", start="frozen"),
            baseline=Arm("early-exit-asr"),
            gap="A control, not a claim: the blocks are kept from learning on purpose.",
            role="negative control",
        ),
        Check(
            claim="a-recogniser-against-itself",
            says="The same training twice, from other first weights: the floor below which no difference counts.",
            metric="error_6",
            expect="equal",
            method=Arm("early-exit-asr", exits="6"),
            baseline=Arm("early-exit-asr", exits="6"),
            gap="A control, not a claim. Both arms differ by the luck of their seeds alone.",
            role="a/a control",
        ),
    ),
)
