"""Controls of models that take turns: what must hold, what must not, how much a coin differs from itself. No method of
its own."""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="elastic",
    task="lm_switch",
    margin=0.02,
    checks=(
        Check(
            claim="more-of-the-large-model",
            says="With three quarters of the tokens predicted by the large model, text is likelier than with one.",
            metric="perplexity",
            expect="lower",
            method=Arm("random-switching", share=0.75),
            baseline=Arm("random-switching", share=0.25),
            gap="A control, not a claim. It shows that the large model is better, and that the task sees it.",
            role="positive control",
        ),
        Check(
            claim="more-of-the-large-model-is-no-better-place",
            says="The same must not count as a better placement.",
            metric="perplexity_at_share",
            expect="lower",
            method=Arm("random-switching", share=0.75),
            baseline=Arm("random-switching", share=0.25),
            gap="A control, not a claim: at the same share, one coin is as good as another.",
            role="negative control",
        ),
        Check(
            claim="a-coin-against-itself",
            says="The same share, drawn twice: the floor below which no difference counts.",
            metric="perplexity_at_share",
            expect="equal",
            method=Arm("random-switching", share=0.43),
            baseline=Arm("random-switching", share=0.43),
            gap="A control, not a claim. Both arms differ by the fall of the coin alone.",
            role="a/a control",
        ),
    ),
)
