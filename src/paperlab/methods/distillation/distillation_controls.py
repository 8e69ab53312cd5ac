"""Controls of distillation into a pruned language model, and our own questions on its losses.

No method of its own. An arm is a model that lost seven tenths of its weights and was trained on some thousand tokens,
with the dense model as its teacher.
"""

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="distillation",
    task="lm_recover",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    equal={"nonzero": 0.001, "steps": 0.0, "tokens": 0.0},
    method=Arm("divergence", hard=0.0, temperature=1.0, after=Arm("magnitude", sparsity=0.7)),
    baseline=Arm("fine-tuning", after=Arm("magnitude", sparsity=0.7)),
    checks=(
        Check(
            claim="training-better-than-none",
            says="A pruned model that was trained further predicts better than one that was not.",
            method=Arm("fine-tuning", after=Arm("magnitude", sparsity=0.7)),
            baseline=Arm("magnitude", sparsity=0.7),
            equal={"nonzero": 0.001},
            gap="A control, not a claim: one arm reads text and the other does not.",
            role="positive control",
        ),
        Check(
            claim="a-teacher-that-only-repeats-the-labels",
            says="Distillation that gives all its weight to the labels is fine-tuning: it must not be found better.",
            method=Arm("divergence", hard=1.0, temperature=1.0, after=Arm("magnitude", sparsity=0.7)),
            gap="A control, not a claim: distillation without its key idea.",
            role="negative control",
        ),
        Check(
            claim="distillation-against-itself",
            says="The same loss twice, with other batches: the floor below which no difference counts.",
            expect="equal",
            baseline=Arm("divergence", hard=0.0, temperature=1.0, after=Arm("magnitude", sparsity=0.7)),
            gap="A control, not a claim.",
            role="a/a control",
        ),
        Check(
            claim="teacher-better-than-labels",
            says="Does a pruned model recover more from its dense teacher's logits than from the text alone?",
            gap="A question of ours at 12 thousand tokens and 6 million parameters; a pass says nothing of budgets "
            "that bring the student near its teacher.",
            role="question",
        ),
        Check(
            claim="reverse-kl-better-than-forward",
            says="Does the reverse KL recover more than the forward KL?",
            method=Arm(
                "divergence", divergence="reverse-kl", hard=0.0, temperature=1.0, after=Arm("magnitude", sparsity=0.7)
            ),
            baseline=Arm("divergence", hard=0.0, temperature=1.0, after=Arm("magnitude", sparsity=0.7)),
            gap="A question of ours. The papers that prefer it judge what students write, not the likelihood of text.",
            role="question",
        ),
    ),
)
