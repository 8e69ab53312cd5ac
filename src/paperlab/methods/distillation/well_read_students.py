"""Well-read students: pre-train a compact network first, then distil into it; its own labels are not needed.

    1  the student is pre-trained on unlabelled text
    2  L = CE(teacher, student) on texts of the task's kind: the teacher's soft labels alone, temperature 1

The two steps add up, and neither replaces the other. Turc, Chang, Lee and Toutanova, "Well-Read Students Learn Better",
arXiv 1908.08962.
"""

from torch import Tensor

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="distillation",
    paper="well-read-students",
    sources=("abstract",),
    task="cls_distill",
    metric="accuracy",
    expect="higher",
    margin=0.01,
    method=Arm("well-read-students"),
    equal={"steps": 0.0, "parameters": 0.0},
    gap="The paper pre-trains its own compact students as masked language models before it distils. Here the "
    "pre-trained student is the first half of a pre-trained encoder (which had a teacher of its own), and the "
    "transfer set is the labelled one. What is tested is that pre-training and distillation both add to a student's "
    "accuracy, not that masked language modelling is the way to pre-train it, nor the comparison with other compact "
    "models.",
    checks=(
        Check(
            claim="pre-training-helps-distillation",
            says="A pre-trained student, distilled, beats one of random weights, distilled with as many steps.",
            method=Arm("well-read-students", after=Arm("random-weights", parts="head")),
            baseline=Arm("well-read-students", after=Arm("random-weights")),
        ),
        Check(
            claim="distillation-helps-pre-trained",
            says="A pre-trained student that is distilled beats one that is fine-tuned on labels, on the same texts.",
            baseline=Arm("fine-tuning"),
        ),
    ),
    departs=(
        "no masked-language-model pre-training: the student's blocks are the first ones of the pre-trained encoder, "
        "so a truncated teacher, which is not the pre-training that the paper recommends; beside fine-tuning its head "
        "begins, as that one's does, as a linear probe on labels, beside random weights as random as theirs",
        "the random student keeps the pre-trained embeddings and the frozen first block at quick, which favours it",
        "the optional third step, fine-tuning on labels after distillation, is left out",
        "the transfer set is the labelled training set without its labels: students see 960 of its 2,800 texts, once",
    ),
)


def loss(student: Tensor, teacher: Tensor) -> Tensor:
    """student, teacher: logits (n, classes) -> a scalar, in nats: cross-entropy with the teacher's probabilities."""
    return -(teacher.softmax(-1) * student.log_softmax(-1)).sum(-1).mean()
