"""A small language model learns sums of three numbers from a teacher's reasons: how many new ones does it get right?

    <predict>3+8-4>7          <explain>3+8-4>3+8=11;11-4=7

The student, a decoder over characters, knows sums of two numbers before (trained once and kept). The teacher is a
script: it calculates step by step and errs in a step with probability ERROR, RATIONALES times for each question. What a
student is judged by are answers that it gives without reasons, as in the papers, and whether its reasons are valid.
"""

import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from paperlab.assets.cache import cached_tensors
from paperlab.core.task import Metric
from paperlab.kit.rationales import IGNORED, Example, Ids, padded, written
from paperlab.kit.tuning import Batch, Tuned, rate_at

VERSION = 1
SCORES = ("Tuned",)
SUPPLIES = ("model",)
AXES = ("parameters", "steps", "trained")
TIMED = False
METRICS = {
    "accuracy": Metric("higher", "correct"),
    "valid": Metric("higher", "valid"),
    "explained": Metric("higher", "explained"),
}
PAIRED_BY = "seeds"
DRAWS = True  # all questions, those of the test too, and what the teacher says of them
COST = {"quick": 120, "full": 960}  # of two plain arms; five with a judge and a second writing took 800 CPU seconds
ARM_SECONDS = {"": 25}
SEEDS = {"quick": 5, "full": 10, "gpu": 10}
MODELS: tuple[str, ...] = ()  # the task trains its own
DATA = {"sums": "generated: sums and differences of three digits, with the steps of a script that errs now and then"}

Asked = tuple[tuple[int, ...], tuple[str, ...]]  # digits, and the signs between them

SIGNS = "0123456789+-=;>PE$"  # P predict, E explain, $ the end
END = SIGNS.index("$")
NUMBERS, ERROR, RATIONALES = 3, 0.1, 5
QUESTIONS = {"quick": 600, "full": 600, "gpu": 600}
STEPS = {"quick": 400, "full": 2000, "gpu": 5000}
BATCH = 32
RATES = (1.5e-3, 3e-3, 6e-3)  # tried by every arm; in trial runs 3e-3 was best for plain rationale distillation
TEST, VALIDATION = 500, 300  # of 1,899 sums that there are
LONGEST = 18  # tokens of a rationale with its end
FIRST = {"steps": 600, "batch": 64, "rate": 3e-3}  # of the student's own training, on sums of two numbers


@dataclass
class Setting:
    """model: where every arm starts. examples: what arms are taught. validation, test: questions of one length."""

    model: nn.Module
    examples: list[Example]
    validation: list[Example]
    test: list[Example]
    seed: int
    scale: str
    steps: int
    rates: tuple[float, ...] = RATES
    teacher: nn.Module | None = None
    end: int = END
    longest: int = LONGEST
    batch: int = BATCH

    def batches(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        """Questions and their answers, (BATCH, time) ids and next tokens, in an order drawn by the seed."""
        draw = random.Random(seed)
        while True:
            chosen = draw.sample(self.examples, BATCH)
            ids, mask, labels = padded([one.predict for one in chosen], [one.answer for one in chosen])
            yield {"input_ids": ids[:, :-1], "attention_mask": mask[:, :-1]}, labels[:, 1:]

    def validate(self, model: nn.Module) -> float:
        """Share of validation questions that are answered right."""
        return fmean(answered(model, self.validation))


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """The student, which is the same for every seed, and the seed's questions with what the teacher says of them.

    Raises ValueError for a model or data that there is not.
    """
    if model is not None or data not in (None, *DATA):
        raise ValueError(f"this task trains its own small model on {', '.join(DATA)}; it takes no other model or data")
    return _setting(student(), seed, scale)


def remake(setting: Setting, seed: int) -> Setting:
    """The setting of another seed: other questions to learn from and to be judged by, the same student."""
    return _setting(setting.model, seed, setting.scale)


def _setting(model: nn.Module, seed: int, scale: str) -> Setting:
    """All sums, dealt by the seed in groups of the same numbers (3+8-4 and 8-4+3), so that no part of the split asks
    in another order what another part answers."""
    draw, groups = random.Random(f"split {seed}"), dict[tuple[int, ...], list[Asked]]()
    for digits, signs in sums(NUMBERS):
        key = tuple(sorted(int(f"{sign}{digit}") for sign, digit in zip(("+", *signs), digits, strict=True)))
        groups.setdefault(key, []).append((digits, signs))
    dealt, parts = list(groups.values()), list[list[Example]]()
    draw.shuffle(dealt)
    for count in (TEST, VALIDATION, QUESTIONS[scale]):
        part = list[Example]()
        while len(part) < count:
            part += [example(draw, digits, signs) for digits, signs in dealt.pop()]
        parts.append(part[:count])
    return Setting(model, parts[2], parts[1], parts[0], seed, scale, STEPS[scale])


def ids_of(text: str) -> Ids:
    """Characters -> token ids. Raises ValueError for another character."""
    return tuple(SIGNS.index(sign) for sign in text)


def text_of(ids: Ids) -> str:
    """Token ids -> characters."""
    return "".join(SIGNS[one] for one in ids)


def sums(numbers: int) -> list[Asked]:
    """All sums of that many digits of 1 to 9, no part of which is negative."""
    every = product(product(range(1, 10), repeat=numbers), product("+-", repeat=numbers - 1))
    return [asked for asked in every if min(running(*asked)) >= 0]


def example(draw: random.Random, digits: Sequence[int], signs: Sequence[str], error: float = ERROR) -> Example:
    """A sum with its answer and the teacher's rationales."""
    asked = str(digits[0]) + "".join(f"{sign}{digit}" for sign, digit in zip(signs, digits[1:], strict=True))
    said = [reasons(draw, digits, signs, error) for _ in range(RATIONALES)]
    return Example(
        ids_of(f"P{asked}>"),
        ids_of(f"E{asked}>"),
        ids_of(f"{running(digits, signs)[-1]}$"),
        tuple(ids_of(one) for one in said),
        tuple(ids_of(one.rpartition("=")[2]) for one in said),
    )


def running(digits: Sequence[int], signs: Sequence[str]) -> list[int]:
    """The sums after each number, the first alone included."""
    parts = [digits[0]]
    for sign, digit in zip(signs, digits[1:], strict=True):
        parts.append(parts[-1] + digit if sign == "+" else parts[-1] - digit)
    return parts


def reasons(draw: random.Random, digits: Sequence[int], signs: Sequence[str], error: float) -> str:
    """The steps of a sum as the teacher writes them; each result is off by 1 or 2 with probability `error`, and the
    next step begins with it."""
    now, steps = digits[0], []
    for sign, digit in zip(signs, digits[1:], strict=True):
        result = now + digit if sign == "+" else now - digit
        if draw.random() < error:
            result = abs(result + draw.choice((-2, -1, 1, 2)))
        steps.append(f"{now}{sign}{digit}={result}")
        now = result
    return ";".join(steps) + "$"


def valid(one: Example, written: Ids) -> bool:
    """Whether a rationale has every step of the question, in its order, and each of them right."""
    asked = text_of(one.explain)[1:-1]
    digits, signs = [int(sign) for sign in asked[::2]], list(asked[1::2])
    return text_of(written) == reasons(random.Random(0), digits, signs, 0.0)


def student() -> LlamaForCausalLM:
    """A decoder of 0.2 million parameters that answers and explains sums of two numbers."""
    config = LlamaConfig(
        vocab_size=len(SIGNS), hidden_size=64, intermediate_size=176, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=64, tie_word_embeddings=True, bos_token_id=None, eos_token_id=END, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        state = cached_tensors("lm_arithmetic", FIRST, lambda: _taught(copy.deepcopy(model)), code=__file__)
    model.load_state_dict(state, strict=False)
    return model.eval()


def _taught(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the student after sums of two numbers, both tasks in equal parts."""
    draw, steps, known = random.Random("first"), int(FIRST["steps"]), sums(2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=FIRST["rate"], weight_decay=0.0)
    for step in range(steps):
        found = [example(draw, *draw.choice(known), error=0.0) for _ in range(int(FIRST["batch"]))]
        half = len(found) // 2
        prompts = [one.predict for one in found[:half]] + [one.explain for one in found[half:]]
        texts = [one.answer for one in found[:half]] + [one.rationales[0] for one in found[half:]]
        ids, mask, labels = padded(prompts, texts)
        for group in optimizer.param_groups:
            group["lr"] = FIRST["rate"] * rate_at((step + 0.5) / steps)
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def describe(setting: Setting) -> dict[str, Any]:
    """The problem and its sizes; threads, which decide the order of sums."""
    return {
        "model": "decoder over characters, 4 blocks of width 64, taught sums of two numbers",
        "data": {"id": "sums", "numbers": NUMBERS, "error": ERROR, "rationales": RATIONALES},
        "examples": len(setting.examples),
        "validation": len(setting.validation),
        "test": len(setting.test),
        "steps": setting.steps,
        "batch": BATCH,
        "rates": list(setting.rates),
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """The test questions, other ones for each seed."""
    return len(setting.test)


def totals(arm: Tuned, setting: Setting) -> dict[str, float]:
    """parameters, optimizer steps, parameters that they trained, the learning rate that was chosen; what the recipe
    noted."""
    count = sum(parameter.numel() for parameter in arm.model.parameters())
    found = {"parameters": float(count), "steps": float(arm.steps), "trained": float(arm.trained), "rate": arm.rate}
    return {**found, **getattr(arm, "notes", {})}


def answered(model: nn.Module, examples: list[Example]) -> list[bool]:
    """Which questions a model answers right without reasons, greedily."""
    model.eval()
    said = written(model, [one.predict for one in examples], 3, END)
    return [mine == one.answer for mine, one in zip(said, examples, strict=True)]


def score(arm: Tuned, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """Of each test question, 0 or 1, all greedily: correct, answered right without reasons; valid, explained with every
    step right; explained, the reasons end in the right answer."""
    model, test = arm.model.eval(), setting.test[start:]
    if not test:
        return
    said = written(model, [one.explain for one in test], LONGEST, END)
    for one, mine, correct in zip(test, said, answered(model, test), strict=True):
        ends = ids_of(text_of(mine).rpartition("=")[2]) == one.answer
        yield {"correct": float(correct), "valid": float(valid(one, mine)), "explained": float(ends)}
