"""Controls of the family: what must hold, what must not, how much training differs from itself. No method of its
own."""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="elastic",
    task="embed",
    margin=0.02,
    checks=(
        Check(
            claim="trained-for-a-size-better-than-cut",
            says="An embedding trained for 16 coordinates finds more with them than the untrained encoder's first 16.",
            metric="mrr_16",
            expect="higher",
            method=Arm("fixed-size", dims=16),
            baseline=Arm("truncation"),
            gap="A control, not a claim. It shows that the loss reaches training, and that the task sees it.",
            role="positive control",
        ),
        Check(
            claim="trained-for-another-layer",
            says="An embedding trained at the first layer alone must not be found better at the last one.",
            metric="mrr",
            expect="higher",
            method=Arm("fixed-size", layer=1),
            baseline=Arm("fixed-size"),
            gap="A control, not a claim: the wrong layer is trained on purpose.",
            role="negative control",
        ),
        Check(
            claim="fixed-size-against-itself",
            says="The same training twice, from other first weights: the floor below which no difference counts.",
            metric="mrr_sizes",
            expect="equal",
            method=Arm("fixed-size"),
            baseline=Arm("fixed-size"),
            gap="A control, not a claim. Both arms differ by the luck of their seeds alone.",
            role="a/a control",
        ),
    ),
)
