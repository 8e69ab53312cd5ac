"""Controls of the family: what must hold, what must not, how much training differs from itself; and our own questions.

No method of its own. Whatever a network was trained with, it is judged by its bits per byte on text that it never saw,
which is cross-entropy.
"""

from paperlab.core.card import Arm, Card, Check, Gate

CARD = Card(
    family="loss",
    task="lm_train",
    metric="bits_per_byte",
    expect="lower",
    margin=0.02,
    baseline=Arm("cross-entropy"),
    equal={"parameters": 0.0, "steps": 0.0, "tokens": 0.0},
    checks=(
        Check(
            claim="cross-entropy-better-than-smeared-targets",
            says="Cross-entropy predicts text better than training towards targets of which nine tenths are uniform.",
            method=Arm("cross-entropy"),
            baseline=Arm("label-smoothing", smoothing=0.9),
            gap="A control, not a claim: the targets are spoilt on purpose. It shows that the loss reaches training.",
            role="positive control",
        ),
        Check(
            claim="focal-without-its-exponent",
            says="With gamma = 0 the focal loss is cross-entropy: it must not be found better.",
            method=Arm("focal", gamma=0.0),
            gap="A control, not a claim: the focal loss without its key idea.",
            role="negative control",
        ),
        Check(
            claim="cross-entropy-against-itself",
            says="The same loss twice, from other initial weights: the floor below which no difference counts.",
            expect="equal",
            method=Arm("cross-entropy"),
            gap="A control, not a claim. Both arms differ by the luck of their seeds alone.",
            role="a/a control",
        ),
        Check(
            claim="label-smoothing-lowers-held-out-loss",
            says="Does a tenth of uniform target lower the bits per byte on held-out text?",
            method=Arm("label-smoothing", smoothing=0.1),
            gates=(
                Gate(
                    says="without smoothing it is cross-entropy",
                    method=Arm("label-smoothing", smoothing=0.0),
                    baseline=Arm("cross-entropy"),
                    tolerance=0.002,
                ),
            ),
            gap="A question of ours. The paper gains 0.2 % top-1 accuracy on ImageNet and claims nothing about the "
            "likelihood of text; a byte model that sees its text less than once can hardly be overconfident.",
            role="question",
        ),
        Check(
            claim="label-smoothing-helps-on-other-text",
            says="Does a tenth of uniform target lower the bits per byte on text of another kind, Python source?",
            metric="bits_on_other_text",
            method=Arm("label-smoothing", smoothing=0.1),
            gap="A question of ours: the paper has no such test. Probabilities near zero cost most where the network "
            "is most often surprised; the code is predicted at nearly twice the bits of the encyclopedia.",
            role="question",
        ),
        Check(
            claim="focal-lowers-held-out-loss",
            says="Does paying less attention to well predicted bytes lower the bits per byte on held-out text?",
            method=Arm("focal", gamma=2.0),
            gates=(
                Gate(
                    says="with gamma = 0 it is cross-entropy",
                    method=Arm("focal", gamma=0.0),
                    baseline=Arm("cross-entropy"),
                    tolerance=0.002,
                ),
            ),
            gap="A question of ours. The paper detects objects among very many background boxes and reports average "
            "precision; here 256 classes, none of them background, and a likelihood.",
            role="question",
        ),
    ),
)
