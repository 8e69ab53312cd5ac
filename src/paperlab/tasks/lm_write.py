"""Distilling a language model into a smaller one that is judged by what it writes.

Every arm starts from the small model, or from what the arm before it left of it; as it is shipped there is little that
40 steps could add. The large one, of the same tokens, is the teacher. Prompts are the first halves of windows of
held-out documents, drawn by the seed as the answers are. With p the teacher and q the student,

    reverse    KL(q || p) a token, on what the student writes behind the prompts
    forward    KL(p || q) a token, on what the teacher wrote there
    jeffreys   their sum: by the chain rule, that of the two distributions over whole answers, 0 only where they agree

ROUGE-L with the document's own continuation is reported and decides nothing: for texts that may go on in many ways it
prefers whoever writes common words. A line of function words scores .13, the teacher .08, the student .07.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from paperlab.assets.loading import load_causal_lm
from paperlab.assets.models import ModelError
from paperlab.core.task import Metric
from paperlab.kit.compressed import UNTOUCHED_BITS, Compressed
from paperlab.kit.tuning import Tuned
from paperlab.kit.writing import answer, continued, on_answers
from paperlab.tasks import lm_recover

VERSION = 1
SCORES = ("Tuned", "Compressed")
SUPPLIES = ("model", "calibration")
AXES = ("parameters", "nonzero", "bytes", "steps", "trained")
TIMED = False
METRICS = {
    "jeffreys": Metric("lower", "jeffreys"),
    "reverse_kl": Metric("lower", "reverse"),
    "forward_kl": Metric("lower", "forward"),
    "perplexity": Metric("lower", "nll", "exp_mean"),
    "rouge_l": Metric("higher", "rouge"),
}
PAIRED_BY = "seeds"
COST = {"quick": 110, "full": 1200}  # of two plain arms; seven, four of which revise, take 900 CPU seconds
ARM_SECONDS = {"abstracts-mini": 10}
SEEDS = {"quick": 5, "full": 5, "gpu": 5}
MODELS = ("abstracts-mini",)
TEACHER = "abstracts-lm"
DATA = {"abstracts": "arXiv titles and abstracts, bundled, CC0: both models saw those that arms train on; 482 held out"}

STEPS = {"quick": 40, "full": 400, "gpu": 4000}  # each reads 16 windows of 64 tokens
RATES = (3e-4, 1e-3, 3e-3)  # tried by every arm
PROMPTS = {"quick": 128, "full": 512, "gpu": 512}
DRAWS = True  # prompts, and the answers to them
CHUNK = 128  # windows that are written at once


@dataclass
class Setting(lm_recover.Setting):
    """model: the student, where every arm starts. large: its teacher. rows: held-out windows, of which the seed draws
    `test`. wrote: by the prompts, the teacher's windows behind them, once written, and its
    log-probabilities there (n, answer, vocabulary)."""

    large: nn.Module | None = None
    rows: Tensor = field(default_factory=lambda: torch.empty(0))
    wrote: dict[bytes, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def teacher(self) -> nn.Module:
        """The large model."""
        assert self.large is not None
        return self.large

    def validate(self, model: nn.Module) -> float:
        """Minus the Jeffreys divergence on the validation prompts."""
        return -torch.stack(divergences(model, self, self.validation)[:2]).sum(0).mean().item()


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """The student (`model`), its teacher and their windows.

    Raises ModelError for a student whose tokens are not the teacher's, TextError for a text that cannot be used.
    """
    base = lm_recover.make(seed, scale, model=TEACHER, data=data)
    student, tokenizer, provenance = load_causal_lm(model or MODELS[0])
    if tokenizer.get_vocab() != base.tokenizer.get_vocab():
        raise ModelError(f"{provenance['id']} reads other tokens than its teacher here, {TEACHER}")
    given: dict[str, Any] = {f.name: getattr(base, f.name) for f in fields(base)}
    rows = lm_recover.rows_of(base.tokenizer, lm_recover.split_documents(base.text, "held-out"))
    given |= {"model": student, "provenance": {**provenance, "teacher": base.provenance}, "large": base.model}
    given |= {"rows": rows, "other": None, "steps": STEPS[scale], "rates": RATES}
    return remake(Setting(**given), seed)


def remake(setting: Setting, seed: int) -> Setting:
    """The setting for another seed: other prompts, and other answers to them."""
    order = torch.randperm(len(setting.rows), generator=torch.Generator().manual_seed(seed))
    return replace(setting, seed=seed, test=setting.rows[order[: PROMPTS[setting.scale]]], wrote={})


def describe(setting: Setting) -> dict[str, Any]:
    """As `lm_recover`, with the number of prompts; tokens are those that arms read."""
    told = lm_recover.describe(setting)
    return {**told, "prompts": len(setting.test), "tokens": 2 * told["tokens"]}


def items(setting: Setting) -> int:
    """The prompts, other ones for each seed."""
    return len(setting.test)


def totals(arm: Tuned | Compressed, setting: Setting) -> dict[str, float]:
    """parameters; nonzero ones; bytes; optimizer steps, parameters that they trained, the learning rate chosen; what
    the recipe noted."""
    compressed = arm if isinstance(arm, Compressed) else arm.compressed
    count = sum(parameter.numel() for parameter in arm.model.parameters())
    size = compressed.totals()["bytes"] if compressed is not None else count * UNTOUCHED_BITS / 8
    nonzero = sum(int(parameter.count_nonzero()) for parameter in arm.model.parameters())
    trained = arm if isinstance(arm, Tuned) else Tuned(arm.model, 0.0)
    found = {"parameters": float(count), "bytes": size, "nonzero": float(nonzero), "steps": float(trained.steps)}
    found |= {"trained": float(trained.trained), **getattr(arm, "notes", {})}
    return {**found, "rate": trained.rate} if trained.steps else found


def score(arm: Tuned | Compressed, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """Of each prompt: reverse, forward, jeffreys, nats a token, see above; nll, nats a token of the document's own
    continuation; rouge of what the student writes, with that."""
    model, test = arm.model.eval(), setting.test
    reverse, forward, own = divergences(model, setting, test)
    asked = test[:, answer(test) :, None]
    nll = -said(model, test).gather(-1, asked)[..., 0].double().mean(-1)
    for row in range(start, len(test)):
        told = [words(setting.tokenizer.decode(ids[row, answer(ids) :].tolist())) for ids in (own, test)]
        yield {
            "reverse": reverse[row].item(), "forward": forward[row].item(),
            "jeffreys": (reverse[row] + forward[row]).item(), "nll": nll[row].item(), "rouge": rouge_l(*told),
        }  # fmt: skip


def divergences(model: nn.Module, setting: Setting, prompts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each window (n, time + 1): reverse and forward KL of the model and the setting's teacher, (n,) both, behind
    its prompt; and the windows with what the model wrote."""
    model.eval()
    teacher, key = setting.teacher, prompts.numpy().tobytes()
    if key not in setting.wrote:
        written = answers(teacher, prompts, setting.seed)
        setting.wrote[key] = written, said(teacher, written)
    written, known = setting.wrote[key]
    own = answers(model, prompts, setting.seed)
    return divergence(said(model, own), said(teacher, own)), divergence(known, said(model, written)), own


def answers(model: nn.Module, ids: Tensor, seed: int) -> Tensor:
    """Windows (n, time + 1) with the answers that a model writes at temperature 1; the seed's draws for every model."""
    begin, draw = answer(ids), torch.Generator().manual_seed(seed)
    parts = [continued(model, part[:, :begin], ids.shape[1] - begin, draw) for part in ids.split(CHUNK)]
    return torch.cat(parts)


@torch.no_grad()
def said(model: nn.Module, ids: Tensor) -> Tensor:
    """(n, answer, vocabulary): a model's log-probabilities on the answers of windows (n, time + 1)."""
    return torch.cat([on_answers(model, part).log_softmax(-1) for part in ids.split(CHUNK)])


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of log-probabilities (n, time, vocabulary) -> (n,), nats a token."""
    return (first.exp() * (first - second)).sum(-1).double().mean(-1)


def words(text: str) -> list[str]:
    """Lower-case words and numbers, as rouge_score splits them; without a stemmer."""
    return re.sub("[^a-z0-9]+", " ", text.lower()).split()


def rouge_l(written: list[str], reference: list[str]) -> float:
    """ROUGE-L: the F-measure of the longest common subsequence of two lists of words (Lin, 2004)."""
    row = [0] * (len(reference) + 1)
    for word in written:
        before = 0
        for place, other in enumerate(reference, 1):
            now = row[place]
            row[place] = before + 1 if word == other else max(row[place], row[place - 1])
            before = now
    return 2 * row[-1] / (len(written) + len(reference)) if row[-1] else 0.0
