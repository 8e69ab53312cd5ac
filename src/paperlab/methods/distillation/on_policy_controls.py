"""Controls of distillation that is judged by what a student writes, and our own question on whose text to learn from.

No method of its own. An arm is a small model that lost six tenths of its weights and was trained for some steps, with a
larger one as its teacher.
"""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="distillation",
    task="lm_write",
    metric="jeffreys",
    expect="lower",
    margin=0.02,
    equal={"parameters": 0.0, "nonzero": 0.001, "steps": 0.0},
    method=Arm("sampled-distillation", after=Arm("magnitude", sparsity=0.6)),
    baseline=Arm("sampled-distillation", samples="text", after=Arm("magnitude", sparsity=0.6)),
    checks=(
        Check(
            claim="distillation-better-than-none",
            says="A student that was distilled writes more like its teacher than one that was not.",
            baseline=Arm("magnitude", sparsity=0.6),
            equal={"parameters": 0.0, "nonzero": 0.001},
            gap="A control, not a claim: one arm is trained and the other is not.",
            role="positive control",
        ),
        Check(
            claim="no-weight-on-the-teacher",
            says="The same steps on text alone, with no weight on the teacher: they must not be found better.",
            method=Arm("sampled-distillation", weight=0.0, after=Arm("magnitude", sparsity=0.6)),
            baseline=Arm("sampled-distillation", after=Arm("magnitude", sparsity=0.6)),
            gap="A control, not a claim: distillation without its key idea.",
            role="negative control",
        ),
        Check(
            claim="on-policy-against-itself",
            says="The same distillation twice, with other batches: the floor below which no difference counts.",
            expect="equal",
            baseline=Arm("sampled-distillation", after=Arm("magnitude", sparsity=0.6)),
            gap="A control, not a claim.",
            role="a/a control",
        ),
        Check(
            claim="own-samples-better-than-text",
            says="Does a student come nearer to its teacher on what it writes itself than on the text?",
            gap="A question of ours at 40 steps; the papers behind it judge answers to instructions.",
            role="question",
        ),
    ),
)
