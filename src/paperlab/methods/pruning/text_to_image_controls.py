"""Controls of text-to-image: what must hold, what must not, and how much masks drawn at random differ among themselves.

No method of its own.
"""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="pruning",
    task="text_to_image",
    metric="accuracy",
    expect="higher",
    margin=0.02,
    checks=(
        Check(
            claim="a-tenth-better-than-four-fifths",
            says="A model without a tenth of its weights paints more of what was asked for than one without four "
            "fifths.",
            method=Arm("pruning-stable-diffusion", text_sparsity=0.1, image_sparsity=0.1),
            baseline=Arm("pruning-stable-diffusion", text_sparsity=0.8, image_sparsity=0.8),
            gap="A control, not a claim: the sizes differ on purpose.",
            role="positive control",
        ),
        Check(
            claim="random-masks-against-magnitude",
            says="A generator whose weights go at random must not be better than one that loses the smallest.",
            method=Arm("pruning-stable-diffusion", text_sparsity=0.0, image_sparsity=0.5, image_by="random"),
            baseline=Arm("pruning-stable-diffusion", text_sparsity=0.0, image_sparsity=0.5),
            gap="A control, not a claim: magnitude with its idea taken away.",
            role="negative control",
        ),
        Check(
            claim="random-masks-against-themselves",
            says="The same arm twice, with other masks: the floor below which no difference counts.",
            expect="equal",
            method=Arm(
                "pruning-stable-diffusion", text_sparsity=0.1, image_sparsity=0.1, by="random", image_by="random"
            ),
            baseline=Arm(
                "pruning-stable-diffusion", text_sparsity=0.1, image_sparsity=0.1, by="random", image_by="random"
            ),
            gap="A control, not a claim. Both arms differ by the luck of their masks alone.",
            role="a/a control",
        ),
    ),
)
