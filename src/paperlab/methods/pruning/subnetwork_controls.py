"""Controls of fronts of sub-networks: what must hold, what must not, and how much a front differs from itself.

No method of its own.
"""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="pruning",
    task="cls_elastic",
    metric="hypervolume",
    expect="higher",
    margin=0.02,
    equal={"compute": 0.1},
    checks=(
        Check(
            claim="important-parts-kept-better-than-lost",
            says="Without retraining, networks that keep the heads and units that the loss feels most make a better "
            "front than those that keep the ones that it feels least.",
            method=Arm("importance-pruning", retrain=0.0),
            baseline=Arm("importance-pruning", retrain=0.0, reverse=True),
            gap="A control, not a claim. It shows that the task sees what was cut out.",
            role="positive control",
        ),
        Check(
            claim="important-parts-lost-and-retrained",
            says="Networks that lost the most important heads and units must not be found better, retrained or not.",
            method=Arm("importance-pruning", reverse=True),
            baseline=Arm("importance-pruning"),
            gap="A control, not a claim: importance turned round.",
            role="negative control",
        ),
        Check(
            claim="importance-pruning-against-itself",
            says="The same front twice, in other orders of the texts: the floor below which no difference counts.",
            expect="equal",
            method=Arm("importance-pruning"),
            baseline=Arm("importance-pruning"),
            gap="A control, not a claim. Both arms differ by the luck of their seeds alone.",
            role="a/a control",
        ),
    ),
)
