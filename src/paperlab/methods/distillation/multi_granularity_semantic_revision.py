"""Multi-granularity semantic revision: distillation on samples of the student that the teacher has mended.

    L = CE(student, text) + DAC-KL + span,     the last two on y, an answer that the student wrote and was revised

    revise  j = argmax KL(p_j || q_j) over tokens where y_j is not the teacher's choice; y_j becomes it, and the student
            writes the rest anew (SCRG)                                                                     (eq. 3)
    clip    KL over the classes between two quantiles of the teacher's distribution, which a small network sets for
            each token from both predictions, with the token asked for; the others count as one class (DAC-KL)   (eq. 6)
    span    mean over neighbours i, i + 1 in a span of || p_i * p_{i+1} - q_i * q_{i+1} ||^2, class by class    (eq. 10)

Liu et al., arXiv 2407.10068. The abstract, a summary with the loss, and public reviews that describe these equations
were read; the paper's own text was not, and no code of it is public.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.divergences import forward_kl
from paperlab.kit.tuning import Setting, Tuned
from paperlab.kit.writing import answer, continued, distilled, on_answers

CARD = Card(
    family="distillation",
    paper="multi-granularity-semantic-revision",
    sources=("abstract",),
    task="lm_write",
    metric="jeffreys",
    expect="lower",
    margin=0.02,
    method=Arm("multi-granularity-semantic-revision", after=Arm("magnitude", sparsity=0.6)),
    trivial=Arm("fine-tuning", after=Arm("magnitude", sparsity=0.6)),
    equal={"parameters": 0.0, "nonzero": 0.001, "steps": 0.0},
    gap="Theirs: instruction-following students of 0.1 to 7 billion parameters, judged by ROUGE-L of their answers. "
    "Here: 1.3 million parameters, of which six tenths were cut so that there is something to learn in 40 steps, "
    "and a teacher of 5.8 million, both to continue abstracts, judged by how far they are apart in what they write: "
    "ROUGE-L prefers common words where texts may go on in many ways. A pass says nothing of instructions, or of "
    "answers that people would prefer.",
    checks=(
        Check(
            claim="better-than-distillm",
            says="All three revisions together beat earlier distillation of language models; the strongest of these "
            "is DistiLLM (four families of models, average ROUGE-L of five sets).",
            baseline=Arm("sampled-distillation", divergence="skew-kl", after=Arm("magnitude", sparsity=0.6)),
            beside=(
                Arm("sampled-distillation", divergence="forward-kl", after=Arm("magnitude", sparsity=0.6)),
                Arm("sampled-distillation", divergence="reverse-kl", after=Arm("magnitude", sparsity=0.6)),
                Arm("sampled-distillation", samples="text", after=Arm("magnitude", sparsity=0.6)),
                Arm("longer-fine-tuning", multiple=2.0, after=Arm("magnitude", sparsity=0.6)),
            ),
        ),
        Check(
            claim="revised-samples-better",
            says="Samples that were corrected and written anew teach more than the student's own as they are.",
            baseline=Arm("multi-granularity-semantic-revision", revise=False, after=Arm("magnitude", sparsity=0.6)),
        ),
        Check(
            claim="clipped-kl-better",
            says="The adaptively clipped KL teaches more than the whole one (in the paper the step that adds most).",
            baseline=Arm("multi-granularity-semantic-revision", clip=False, after=Arm("magnitude", sparsity=0.6)),
        ),
    ),
    departs=(
        "revised samples serve two steps in a row, so that writing a batch twice costs no more tokens than others, who "
        "write a fresh one each step; the paper takes samples from a replay buffer on DistiLLM's schedule",
        "the teacher's choice is its most probable token; where it agrees with the student everywhere nothing is "
        "revised; one correction a sample",
        "how the two quantiles clip is our reading: of the teacher's mass, by sigmoids of width 0.05, and what is left "
        "out counts as one class, so that the loss is a divergence and at most the whole KL",
        "the network that sets them has one hidden layer of 64 units, reads the 16 classes that the teacher holds most "
        "probable, learns with the student and is thrown away; the paper's shape of it was not at hand",
        "spans are four tokens long; the paper takes phrases from a chunker, of which there is none here",
        "the student was trained on text and cut by magnitude; the paper's is whole, and fine-tuned on instructions",
        "that the student is cut, the rates and the plain arm at equal steps were settled after trial runs of one and "
        "two seeds: whole, it gained 1 % from distillation in 48 steps",
    ),
)

TOP = 16  # classes that the network which sets the quantiles looks at
SOFT = 0.05  # width, as a share of the teacher's mass, of the edges of what is kept
SPAN = 4  # tokens


def recipe(
    model: nn.Module,
    setting: Setting,
    seed: int,
    rate: float,
    *,
    revise: bool = True,
    clip: bool = True,
    span: bool = True,
) -> Tuned:
    """The student, trained on the setting's text and towards its teacher on answers of its own.

    revise, clip, span: whether the answers are revised, the KL is clipped, and the span term is there. Without
    `revise` a fresh answer is written each step.
    """
    draw = torch.Generator().manual_seed(seed)
    bounds = Bounds()
    held: list[Tensor] = []  # the batch that was revised a step ago

    def written(ids: Tensor) -> Tensor:
        begin = answer(ids)
        if held:
            return held.pop()
        own = continued(model, ids[:, :begin], ids.shape[1] - begin, draw)
        if revise:
            assert setting.teacher is not None
            own = revised(model, setting.teacher, own, draw)
            held.append(own)
        return own

    def distance(student: Tensor, teacher: Tensor, asked: Tensor) -> Tensor:
        p, q = teacher.log_softmax(-1), student.log_softmax(-1)
        value = clipped_kl(p, q, asked, *bounds(p, q)) if clip else forward_kl(p, q)
        return value + span_distance(p, q) if span else value

    return distilled(
        model, setting, seed, rate, written=written, distance=distance, beside=bounds.parameters() if clip else ()
    )


@torch.no_grad()
def revised(model: nn.Module, teacher: nn.Module, ids: Tensor, draw: torch.Generator) -> Tensor:
    """Windows (n, time + 1) whose answers the student wrote -> the worst token of each answer is the teacher's, and
    what follows it is written by the student again."""
    begin = answer(ids)
    own = ids[:, begin:]
    p, q = (on_answers(network, ids).log_softmax(-1) for network in (teacher, model))
    choice = p.argmax(-1)
    apart = (p.exp() * (p - q)).sum(-1).masked_fill(choice == own, -torch.inf)
    worst = apart.argmax(-1, keepdim=True)
    differs = (choice != own).any(-1)
    mended = own.scatter(1, worst, choice.gather(1, worst))
    upto = torch.where(differs, worst[:, 0] + 1, own.shape[1])
    return continued(model, ids[:, :begin], own.shape[1], draw, kept=torch.where(differs[:, None], mended, own),
                     upto=upto)  # fmt: skip


class Bounds(nn.Module):
    """Sets the lower and the upper quantile of each token. It starts at .12 and .98 for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(2 * TOP, 64), nn.Linear(64, 2)
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor([-2.0, 4.0]))

    def forward(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities (..., classes) of teacher and student -> lower < upper, (...) both, in (0, 1)."""
        top = p.topk(min(TOP, p.shape[-1])).indices
        seen = torch.cat([F.pad(one.gather(-1, top), (0, TOP - top.shape[-1])) for one in (p, q.detach())], -1)
        said = self.out(torch.tanh(self.hidden(seen.exp()))).sigmoid()
        return said[..., 0], said[..., 0] + (1 - said[..., 0]) * said[..., 1]


def clipped_kl(p: Tensor, q: Tensor, asked: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Log-probabilities (..., classes) of teacher and student, asked and both bounds (...) -> a scalar, in nats.

    The quantile of a class is the teacher's mass of classes less probable than it, with half its own: near 1 for the
    most probable one. Classes between the bounds are kept, and the one asked for; the rest is one class.
    """
    mass, order = p.exp().sort(-1)
    quantile = torch.empty_like(mass).scatter(-1, order, mass.cumsum(-1) - mass / 2)
    keep = ((quantile - lower[..., None]) / SOFT).sigmoid() * ((upper[..., None] - quantile) / SOFT).sigmoid()
    keep = keep.scatter(-1, asked[..., None], 1.0)
    inside = (keep * p.exp() * (p - q)).sum(-1)
    left = [((1 - keep) * one.exp()).sum(-1).clamp(min=1e-12) for one in (p, q)]
    return (inside + left[0] * (left[0].log() - left[1].log())).mean()


def span_distance(p: Tensor, q: Tensor, length: int = SPAN) -> Tensor:
    """Log-probabilities (n, time, classes) of teacher and student -> a scalar: the squared distance of the products of
    neighbours' probabilities, averaged over the pairs of neighbours within spans of `length` tokens."""
    first = [place for place in range(p.shape[1] - 1) if (place + 1) % length]
    pairs = [(one[:, first] + one[:, [place + 1 for place in first]]).exp() for one in (p, q)]
    return (pairs[0] - pairs[1]).square().sum(-1).mean()
