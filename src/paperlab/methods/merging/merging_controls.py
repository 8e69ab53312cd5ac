"""Controls of the family: what must hold, what must not, how much merging differs from itself; and our own questions.

No method of its own. The base is task arithmetic with the factor 0: nothing is added to it.
"""

from paperlab.core.card import Arm, Card, Check, Gate

CARD = Card(
    family="merging",
    task="merge",
    metric="accuracy",
    expect="higher",
    margin=0.02,
    baseline=Arm("uniform-average"),
    equal={"bytes": 0.0, "models": 0.0},
    checks=(
        Check(
            claim="average-better-than-the-base",
            says="The average of five fine-tuned models does their five tasks better than the base that they began as.",
            method=Arm("uniform-average"),
            baseline=Arm("task-arithmetic", scale=0.0),
            gap="A control, not a claim. It shows that the siblings learnt something that an average keeps.",
            role="positive control",
        ),
        Check(
            claim="subtracting-what-was-learnt",
            says="Subtracting what the models learnt from the base must not be found better than the base.",
            method=Arm("task-arithmetic", scale=-0.4),
            baseline=Arm("task-arithmetic", scale=0.0),
            gap="A control, not a claim: the factor has the wrong sign.",
            role="negative control",
        ),
        Check(
            claim="average-against-itself",
            says="The same average twice, of other models: the floor below which no difference counts.",
            expect="equal",
            method=Arm("uniform-average"),
            gap="A control, not a claim. Both arms differ by the luck of their seeds alone.",
            role="a/a control",
        ),
        Check(
            claim="task-arithmetic-better-than-average",
            says="Is the sum of what five models learnt, times a factor chosen on validation images, better than their "
            "average?",
            method=Arm("task-arithmetic"),
            gates=(
                Gate(
                    says="with the factor 1/5 it is the average of the five models",
                    method=Arm("task-arithmetic", scale=0.2),
                    baseline=Arm("uniform-average"),
                    tolerance=0.005,
                ),
            ),
            gap="A question of ours. The paper edits CLIP, T5 and GPT-2, and compares with single fine-tuned models; "
            "here small perceptrons on pairs of noisy 8 x 8 digits, where the base is weak.",
            role="question",
        ),
        Check(
            claim="ties-better-than-average",
            says="Is TIES, its factor chosen on validation images, better than the average?",
            method=Arm("ties"),
            beside=(Arm("task-arithmetic"), Arm("ties", density=1.0)),
            ablation=Arm("ties", density=1.0),
            trivial=Arm("task-arithmetic", scale=0.0),
            gates=(
                Gate(
                    says="with the factor 0 it is the base",
                    method=Arm("ties", scale=0.0),
                    baseline=Arm("task-arithmetic", scale=0.0),
                ),
            ),
            gap="A question of ours. The paper merges fine-tuned T5, T0 and ViT models and is ahead of task "
            "arithmetic on average; here five small perceptrons of 26 thousand weights each.",
            role="question",
        ),
    ),
)
