"""The stages of a compression, in order. Each keeps what it made; a call that finds it there goes on after it."""

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import paperlab
from paperlab.assets.texts import Text, load_text
from paperlab.core.words import megabytes, number, percent
from paperlab.engine import Codes
from paperlab.engine import quantize as nearest
from paperlab.kit import opening
from paperlab.kit.stats import gather
from paperlab.kit.walk import Call, blocks, linears, walk
from paperlab.lab.compress import result
from paperlab.lab.compress.levels import (
    DROPPED,
    LEVELS,
    MEASURED,
    TABLES,
    VERSION,
    Solver,
    dense,
    from_tensors,
    stored_bytes,
    to_tensors,
)
from paperlab.lab.compress.preflight import CHILDREN, Preflight, check_source, preflight
from paperlab.lab.compress.search import Choice, Costs, Found, allocate, evolve
from paperlab.lab.compress.settings import Settings
from paperlab.lab.compress.windows import Judge, Windows, leave_out, left_out, tables_of, windows_of
from paperlab.lab.compress.work import Work, described, key_of, need_empty, need_memory, opened
from paperlab.lab.errors import RunError
from paperlab.lab.recovery import Recovered, put_in, recover

Progress = Callable[[str, str, int, int], None]
"""Called with the stage, what is at work in it, how much is done, and of how much."""

About = Mapping[str, Mapping[str, Mapping[str, float]]]  # by matrix and level: error, bytes

BROKEN = 1e4  # nats a token: a loss that is not finite counts as so much, and its finer levels as their share of it
MISSES = 2  # blocks whose loss does not help, after which no other is tried
TRIES = 3  # of budgets, where a limit or a speed is not met at once
SAFE = 0.9  # of the limit that is asked for on the search windows, as they are not the text that decides
_SEQUENTIAL, _ALONE = "in turn", "alone"


@dataclass
class Outcome:
    """What came of it. met: whether target and limit are met; says: why not, or that they are. folder: the result, None
    where it was refused. figures: for a JSON file and the report."""

    met: bool
    says: str
    folder: Path | None
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def report(self) -> Path | None:
        """The page."""
        return self.folder / "report.html" if self.folder else None


@dataclass
class _Run:
    """All that the stages share."""

    model: Any
    tokenizer: Any
    source: Path
    name: str
    text: Text
    windows: Windows
    settings: Settings
    plan: Preflight
    work: Work
    progress: Progress
    say: Callable[[str], None]
    key: str  # of model and text
    judge: Judge | None = None

    def judged(self) -> Judge:
        """The judge, made when it is first needed."""
        if self.judge is None:
            self.judge = Judge(self.model, self.windows.search)
        return self.judge


def compress(
    source: Path,
    out: Path,
    settings: Settings,
    *,
    name: str = "",
    progress: Progress = lambda stage, what, done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Compress the language model in a folder into the folder `out`, which must not be there or be empty.

    Raises RunError for what cannot be done, EngineError for a model that the engine cannot run, ModelError and
    TextError for a model or text that cannot be read. What is finished is kept in a hidden folder beside `out` until
    the result is there; the same call goes on from it. Where the limit is not met, nothing is written to `out`, unless
    `anyway`.
    """
    from paperlab.assets.loading import load_causal_lm

    out = out.resolve()
    need_empty(out)
    check_source(source, out)
    with opened(out) as work, torch.random.fork_rng(devices=[]):
        need_empty(out)  # another run may have ended since
        torch.manual_seed(settings.seed)
        model, tokenizer, _ = load_causal_lm(source)
        if model.config.model_type == "gpt2":
            opening.opened(model)  # whose matrices the engine's files have as linear layers do
        text = _text_of(settings)
        context = int(getattr(model.config, "max_position_embeddings", 0) or 256)
        windows = windows_of(text, tokenizer, context, settings.seed)
        key = key_of(paperlab.__version__, VERSION, described(source), text.sha256, settings.seed)
        plan = _planned(work, model, windows, settings, out, key)
        parts = f"{len(windows.calibration)} windows of {windows.search.shape[1]} tokens to calibrate"
        about = (
            f"{text.id}: {parts}, {len(windows.search)} to search, {len(windows.validation)} to validate recovery; "
            f"{len(windows.held_out):,} other documents decide"
        )
        for line in plan.lines(settings, about):
            say(line)
        run = _Run(
            model, tokenizer, source, name or str(source), text, windows, settings, plan, work, progress, say, key
        )
        return _finish(run, out, *_attempts(run))


def _text_of(settings: Settings) -> Text:
    if settings.texts is None:
        return load_text(settings.data)
    documents = tuple(dict.fromkeys(one.strip() for one in settings.texts if one.strip()))
    digest = hashlib.sha256("\0".join(documents).encode()).hexdigest()
    return Text("texts", documents, digest, "the user's own", "texts given from Python")


def _planned(work: Work, model: nn.Module, windows: Windows, settings: Settings, out: Path, key: str) -> Preflight:
    """The plan of an interrupted run where there is one: its number of generations is part of the result."""
    piece = f"plan-{key_of(key, settings.search, settings.recipe and settings.recipe.read_text(encoding='utf-8'))}"
    plan = preflight(model, windows, settings, out)
    if (known := work.json(piece)) is not None:
        return replace(plan, **known)
    work.keep_json(piece, {"generations": plan.generations, "sensitive": plan.sensitive})
    return plan


# ── levels ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _levels(run: _Run, wanted: Mapping[str, tuple[str, ...]]) -> About:
    """Round each matrix to its wanted levels and keep the codes; what is known of each level.

    A matrix has one file of codes and then one of figures: where the second is there, so is the first.
    """
    piece = lambda name: f"levels-{run.key}/{name}"  # noqa: E731
    about: dict[str, dict[str, dict[str, float]]] = {}

    def lacking(name: str) -> list[str]:
        about[name] = run.work.json(piece(name)) or {}
        return [level for level in wanted[name] if level not in about[name]]

    def keep(name: str, made: Mapping[str, tuple[Codes, float]]) -> None:
        tensors = run.work.tensors(piece(name)) or {}
        for level, (codes, error) in made.items():
            tensors |= to_tensors(level, codes)
            about[name][level] = {"error": error, "bytes": stored_bytes(codes)}
        run.work.keep_tensors(piece(name), tensors)
        run.work.keep_json(piece(name), about[name])

    todo = {name: levels for name in wanted if (levels := lacking(name))}
    for name, table in tables_of(run.model).items():
        weight: Tensor = table.weight.detach()
        made = {level: nearest(weight.numpy(), TABLES[level]) for level in todo.get(name, ())}
        if made:
            size = weight.square().sum()
            keep(
                name, {level: (one, float((weight - dense(one)).square().sum() / size)) for level, one in made.items()}
            )
    stem, stack = blocks(run.model)
    last = max((i for i in range(len(stack)) if any(name.startswith(f"{stem}.{i}.") for name in todo)), default=-1)
    batches = [{"input_ids": row[None]} for row in run.windows.calibration] if last >= 0 else []
    for index, (block_name, block, calls) in enumerate(walk(run.model, batches)):
        if index > last:
            break
        inside = {name: layer for name, layer in linears(block).items() if f"{block_name}.{name}" in todo}
        if inside:
            widest = max(layer.in_features for layer in inside.values())
            need_memory(8 * 4.0 * widest**2, f"rounding {block_name}")
            statistics = gather(block, inside, calls, {"hessian"})
            for short, layer in inside.items():
                name = f"{block_name}.{short}"
                solver, weight = Solver.of(statistics[short]("hessian")), layer.weight.detach()
                made_all = solver.codes(weight, LEVELS)  # for one level as for all, so that the same bits come out
                keep(name, {level: made_all[level] for level in todo[name]})
        run.progress("levels", block_name, index + 1, len(stack))
    return about


def _stored(run: _Run, name: str, level: str) -> Codes:
    tensors = run.work.tensors(f"levels-{run.key}/{name}", f"{level}.")
    if tensors is None:
        raise RunError(f"the stored levels of {name} are gone or damaged; remove {run.work.folder} and start again")
    return from_tensors(level, tensors)


def _all_levels(run: _Run) -> dict[str, tuple[str, ...]]:
    tables = tables_of(run.model)
    return {name: tuple(TABLES if name in tables else LEVELS) for name in (*tables, *_inside(run))}


def _inside(run: _Run) -> list[str]:
    stem, stack = blocks(run.model)
    return [f"{stem}.{index}.{name}" for index, block in enumerate(stack) for name in linears(block)]


# ── sensitivities and the search ─────────────────────────────────────────────────────────────────────────────────


def _sensitivities(run: _Run, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, float]]:
    """KL of the whole model with one matrix alone at a level: at MEASURED, for tables at every level."""
    count = run.plan.sensitive
    piece = f"sensitivities-{run.key}-{count}"
    known: dict[str, dict[str, float]] = run.work.json(piece) or {}
    tables = tables_of(run.model)
    for done, name in enumerate(wanted):
        if name not in known:
            levels = wanted[name] if name in tables else (MEASURED,)
            known[name] = {
                level: run.judged().measure({name: dense(_stored(run, name, level))}, count).kl for level in levels
            }
            run.work.keep_json(piece, known)
        run.progress("sensitivities", name, done + 1, len(wanted))
    return known


def _costs(
    run: _Run,
    about: About,
    sensitive: Mapping[str, Mapping[str, float]],
    fixed: int,
) -> Costs:
    loss: dict[str, dict[str, float]] = {}
    for name, levels in about.items():
        if MEASURED in sensitive[name]:
            per = min(sensitive[name][MEASURED], BROKEN) / max(levels[MEASURED]["error"], 1e-12)
            loss[name] = {level: per * one["error"] for level, one in levels.items()}
        else:
            loss[name] = {level: min(kl, BROKEN) for level, kl in sensitive[name].items()}
    sizes = {name: {level: int(one["bytes"]) for level, one in levels.items()} for name, levels in about.items()}
    return Costs(loss, sizes, fixed)


def _weights(run: _Run, choice: Mapping[str, str]) -> dict[str, Tensor]:
    return {name: dense(_stored(run, name, level)) for name, level in choice.items()}


class _Mixed:
    """A model whose matrices are moved from choice to choice, only those that differ."""

    def __init__(self, run: _Run) -> None:
        self.run, self.judge, self.now = run, run.judged(), dict[str, str]()

    @torch.no_grad()
    def measure(self, choice: Mapping[str, str]) -> Any:
        """The change of the whole model at a choice."""
        self.judge.dropped = _blocks_dropped(self.run, choice)
        for name, level in choice.items():
            if level not in (self.now.get(name), DROPPED):
                self.judge.linears[name].weight.copy_(dense(_stored(self.run, name, level)))
        self.now = dict(choice)
        return self.judge.now()

    def done(self) -> None:
        """Put the original's weights back."""
        self.judge.reset(self.now)
        self.judge.dropped = frozenset()
        self.now = {}


def _block_of(run: _Run) -> dict[str, int]:
    """The number of the block that a matrix is in, by its name; tables are in none."""
    return run.judged().block_of


def _blocks_dropped(run: _Run, choice: Mapping[str, str]) -> frozenset[int]:
    return frozenset(_block_of(run)[name] for name, level in choice.items() if level == DROPPED)


def _blocks_alone(run: _Run) -> list[int]:
    """The blocks by the KL of the whole model without one of them, the least first."""
    piece = f"blocks-{run.key}-{run.plan.sensitive}"
    known: dict[str, float] = run.work.json(piece) or {}
    judge = run.judged()
    for index in range(len(judge.blocks)):
        if str(index) not in known:
            judge.dropped = frozenset({index})
            known[str(index)] = judge.now(index, run.plan.sensitive).kl
            judge.dropped = frozenset()
            run.work.keep_json(piece, known)
        run.progress("sensitivities", f"without block {index}", index + 1, len(judge.blocks))
    return sorted(map(int, known), key=lambda index: known[str(index)])


def _fewer_blocks(run: _Run, costs: Costs, budget: int, start: Choice, mixed: _Mixed) -> Found:
    """`start`, or fewer blocks and finer levels in the same bytes, as long as whole models say that it is nearer to the
    original; MISSES blocks that do not help end it, and at most a third goes."""
    most = len(run.judged().blocks) // 3
    order = _blocks_alone(run)[:most] if most else []  # of the original, so before anything is changed
    found, gone, missed = Found(start, mixed.measure(start).kl), set[int](), 0
    for index in order:
        names = {name for name, block in _block_of(run).items() if block in gone | {index}}
        rest = allocate(costs.without(names), budget) or {}
        choice = {name: DROPPED if name in names else rest[name] for name in start}
        kl = mixed.measure(choice).kl
        if kl < found.kl:
            found, missed = Found(choice, kl), 0
            gone.add(index)
        else:
            missed += 1
        if missed == MISSES:
            break
    return found


def _search(run: _Run, costs: Costs, budget: int) -> Found:
    """The choice for a budget: allocated, with fewer blocks where that helps, then evolved."""
    start = allocate(costs, budget)
    if start is None:
        smallest = costs.least()
        raise RunError(
            f"the target is out of reach: {megabytes(budget)} MB, and with every matrix at its smallest level the file "
            f"has {megabytes(smallest)} MB ({2 * run.plan.weights / smallest:.2f}x); the smallest level of a matrix is "
            "2 bits, of embeddings and head 4. The nearest that can be asked for is "
            f"{int(200 * run.plan.weights / smallest) / 100:g}x"
        )
    generations = run.plan.generations
    piece = f"search-{key_of(run.key, budget, generations, CHILDREN, run.settings.seed, start)}"
    mixed = _Mixed(run)
    known = run.work.json(piece)
    found = Found(**known) if known else _fewer_blocks(run, costs, budget, start, mixed)
    gone = {name: level for name, level in found.choice.items() if level == DROPPED}
    whole = lambda choice: {name: gone.get(name) or choice[name] for name in costs.loss}  # noqa: E731

    def kept(now: Found) -> None:
        run.work.keep_json(piece, now.state() | {"choice": whole(now.choice)})
        run.progress("search", f"KL {now.kl:.4f}", now.generation, generations)

    found.choice = {name: level for name, level in found.choice.items() if name not in gone}
    if not known:
        kept(found)
    found = evolve(
        costs.without(gone), found, lambda choice: mixed.measure(whole(choice)).kl, budget=budget,
        generations=generations, children=CHILDREN, seed=run.settings.seed, kept=kept,
    )  # fmt: skip
    found.choice = whole(found.choice)
    mixed.done()
    return found


def _smallest_within(run: _Run, costs: Costs, limit: float) -> int | None:
    """The smallest budget whose allocated choice is within the limit on the search windows, by bisection, or None."""
    metric, judge, mixed = run.settings.metric, run.judged(), _Mixed(run)
    piece = f"within-{key_of(run.key, metric, run.plan.sensitive)}"
    known: dict[str, float] = run.work.json(piece) or {}

    def value(budget: int) -> float:
        if str(budget) not in known:
            change = mixed.measure(allocate(costs, budget) or {})
            relative = torch.tensor(change.nats - judge.nats).exp().item() - 1
            known[str(budget)] = {"perplexity": relative, "kl": change.kl, "flips": change.flips}[metric]
            run.work.keep_json(piece, known)
            run.progress("search", f"{megabytes(budget)} MB", len(known), 8)
        return known[str(budget)]

    try:
        low, high = costs.least(), costs.most()
        if value(high) > limit:
            return None
        if value(low) <= limit:
            return low
        for _ in range(6):
            middle = round((low * high) ** 0.5)
            low, high = (low, middle) if value(middle) <= limit else (middle, high)
        return high
    finally:
        mixed.done()


# ── the chosen levels, solved in turn, and recovered ─────────────────────────────────────────────────────────────


def _solved(run: _Run, choice: Choice) -> tuple[dict[str, Codes], str, float]:
    """The codes of a choice, how they were found, and their KL on the search windows.

    Rounded once more in the order of the blocks, each met by the error of those before it, as GPTQ does; or as they are
    stored, rounded alone, where that is nearer to the original.
    """
    piece = f"solved-{key_of(run.key, choice)}"
    tables = tables_of(run.model)
    alone = {name: _stored(run, name, level) for name, level in choice.items() if level != DROPPED}
    known = run.work.json(piece)
    judge, gone = run.judged(), _blocks_dropped(run, choice)
    if known is None:
        mixed = _Mixed(run)
        before = mixed.measure(choice).kl
        mixed.done()
        put: list[str] = []
        with torch.no_grad():
            for name in tables:
                judge.linears[name].weight.copy_(dense(alone[name]))
                put.append(name)
        batches = [{"input_ids": row[None]} for row in run.windows.calibration]
        count = len(blocks(run.model)[1])
        with left_out(judge.blocks, gone):
            for index, (stem, block, calls) in enumerate(walk(run.model, batches)):
                if index not in gone:
                    put += _solve_block(run, choice, f"{piece}/{stem}", stem, block, calls)
                run.progress("solving in turn", stem, index + 1, count)
        judge.dropped = gone
        after = judge.now().kl
        judge.dropped = frozenset()
        judge.reset(put)
        known = {"how": _SEQUENTIAL if after < before else _ALONE, _SEQUENTIAL: after, _ALONE: before}
        run.work.keep_json(piece, known)
    if known["how"] == _ALONE:
        return alone, _ALONE, known[_ALONE]
    chosen = {name: alone[name] for name in tables}
    stem, stack = blocks(run.model)
    for index, block in enumerate(stack):
        if index in gone:
            continue
        tensors = run.work.tensors(f"{piece}/{stem}.{index}")
        if tensors is None:
            raise RunError(f"a piece of {run.work.folder} is gone or damaged; remove that folder and start again")
        for short in linears(block):
            chosen[f"{stem}.{index}.{short}"] = from_tensors(f"{stem}.{index}.{short}", tensors)
    return chosen, _SEQUENTIAL, known[_SEQUENTIAL]


def _solve_block(run: _Run, choice: Choice, piece: str, stem: str, block: nn.Module, calls: list[Call]) -> list[str]:
    """Round a block's layers to their levels for the inputs that they have now, and put the result in. Their names."""
    inside = linears(block)
    tensors = run.work.tensors(piece)
    if tensors is None:
        statistics, tensors = gather(block, inside, calls, {"hessian"}), {}
        for short, layer in inside.items():
            level = choice[f"{stem}.{short}"]
            solver = Solver.of(statistics[short]("hessian"))
            codes, _ = solver.codes(layer.weight.detach(), {level: LEVELS[level]})[level]
            tensors |= to_tensors(f"{stem}.{short}", codes)
        run.work.keep_tensors(piece, tensors)
    with torch.no_grad():
        for short, layer in inside.items():
            layer.weight.copy_(dense(from_tensors(f"{stem}.{short}", tensors)))
    return [f"{stem}.{short}" for short in inside]


def _recovery_of(run: _Run, choice: Choice) -> Path:
    return run.work.folder / f"recovery-{key_of(run.key, choice, run.settings.recover)}"


def _recovered(
    run: _Run, choice: Choice, codes: dict[str, Codes]
) -> tuple[dict[str, Codes], dict[str, Tensor], Recovered | None]:
    """Codes with the scales that recovery found, the norms by name, and how it went."""
    budget = run.settings.recover
    if not budget:
        return codes, {}, None
    tables = tables_of(run.model)
    need_memory(4.0 * run.plan.weights * 1.2 + 2.0 * run.plan.weights, "recovery")
    student = copy.deepcopy(run.model)
    with torch.no_grad():
        for name in tables:
            student.get_submodule(name).weight.copy_(dense(codes[name]))
    put = put_in(student, {name: one for name, one in codes.items() if name not in tables})
    for index in _blocks_dropped(run, choice):
        gone = blocks(student)[1][index]
        leave_out(gone)
        gone.requires_grad_(False)
    found = recover(
        student,
        run.model,
        run.windows.training,
        run.windows.validation,
        budget=budget,
        folder=_recovery_of(run, choice),
        seed=run.settings.seed,
        progress=lambda what, done, total: run.progress("recovery", what, done, total),
    )
    run.say(found.says())
    if found.best == 0:
        return codes, {}, found
    trained = {name: p.detach().clone() for name, p in student.named_parameters() if p.requires_grad}
    kept = {name: tensor for name, tensor in trained.items() if name in dict(run.model.named_parameters())}
    return codes | {name: layer.stored() for name, layer in put.items()}, kept, found


# ── attempts, the decision, the result ───────────────────────────────────────────────────────────────────────────


@dataclass
class _Attempt:
    """A choice with all that was measured of it. number: which try it was; each looked at the text that decides."""

    choice: Choice
    how: str
    recovered: Recovered | None
    measured: result.Figures
    folder: Path
    generations: list[float]
    budget: int | None
    recovery: Path
    number: int = 1


def _recipe_of(run: _Run, file: Path) -> Choice:
    """The levels of a recipe file. Raises RunError where it does not fit the model."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        choice = {str(name): str(level) for name, level in said["levels"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RunError(f"{file} is no recipe of paperlab compress: it has no levels") from None
    wanted = _all_levels(run)
    parts = _block_of(run)
    gone = {block: {choice.get(name) for name in parts if parts[name] == block} for block in set(parts.values())}
    for name, levels in wanted.items():
        if choice.get(name) == DROPPED and name in parts and gone[parts[name]] == {DROPPED}:
            continue
        if choice.get(name) not in levels:
            raise RunError(
                f"{file} does not fit {run.name}: {name} has "
                f"{'no level' if name not in choice else f'the level {choice[name]!r}'}; there are {', '.join(levels)}"
            )
    if extra := choice.keys() - wanted.keys():
        raise RunError(f"{file} does not fit {run.name}: it has no matrix {min(extra)}")
    return {name: choice[name] for name in wanted}


def _attempts(run: _Run) -> tuple[_Attempt, Costs | None, dict[str, Any]]:
    """Try budgets until target and limit are met, at most TRIES; the best, the costs, and what the report adds."""
    settings = run.settings
    if settings.recipe is not None:
        choice = _recipe_of(run, settings.recipe)
        about = _levels(run, {name: (level,) for name, level in choice.items() if level != DROPPED})
        more: dict[str, Any] = {"about": about, "sensitive": {}, "uniform": {}}
        return _attempt(run, choice, [], None, {}), None, more
    wanted = _all_levels(run)
    about = _levels(run, wanted)
    sensitive = _sensitivities(run, wanted)
    uniform, fixed = _uniform(run, about)
    costs = _costs(run, about, sensitive, fixed)
    more = {"about": about, "sensitive": sensitive, "uniform": uniform}
    budget = _budget(run, costs, uniform)
    tried: list[_Attempt] = []
    for number_of in range(1, TRIES + 1):
        found = _search(run, costs, budget)
        tried.append(replace(_attempt(run, found.choice, found.history, budget, uniform), number=number_of))
        missed = _missed(run, tried[-1])
        if not missed:
            return tried[-1], costs, more
        if settings.target is None and budget < costs.most():
            budget = min(round(1.07 * budget), costs.most())
        elif settings.target and settings.target.kind == "speed" and "speed" in missed and budget > costs.least():
            budget = max(
                round(budget * max(0.7, tried[-1].measured.speed / settings.target.value * 0.98)), costs.least()
            )
        else:
            break
    return tried[-1], costs, more


def _budget(run: _Run, costs: Costs, uniform: Mapping[str, Path]) -> int:
    """The first budget to try, in bytes. Raises RunError for a target or limit that no choice reaches."""
    target, limit = run.settings.target, run.settings.within
    if target is None:
        assert limit is not None
        found = _smallest_within(run, costs, SAFE * limit)
        return costs.most() if found is None else found
    if (most := target.bytes(run.plan.weights)) is not None:
        return most
    piece = f"speed-{key_of(run.key, target.value)}"
    if (known := run.work.json(piece)) is None:  # a time: measured again it would be another one
        texts = run.windows.held_out
        known = result.bytes_for_speed(run.source, uniform, target.value, costs.least(), costs.most(), texts)
        run.work.keep_json(piece, known)
    return int(known)


def _uniform(run: _Run, about: About) -> tuple[dict[str, Path], int]:
    """Packed models with all matrices at one level, to compare with; and the bytes of a file beside its matrices."""
    tables = tables_of(run.model)
    packed: dict[str, Path] = {}
    fixed = 0
    for level in LEVELS:
        folder = run.work.folder / f"uniform-{run.key}" / level
        choice = {name: ("8" if name in tables else level) for name in about}
        if not (folder / "config.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            result.pack(
                run.model, run.source, folder, {name: _stored(run, name, at) for name, at in choice.items()}, {}
            )
        packed[level] = folder
        size = (folder / "model.safetensors").stat().st_size
        fixed = max(fixed, size - sum(int(about[name][at]["bytes"]) for name, at in choice.items()))
        run.progress("packing", level, len(packed), len(LEVELS))
    return packed, fixed + 32 * len(about)  # a description differs by a few characters from level to level


def _attempt(
    run: _Run, choice: Choice, history: list[float], budget: int | None, uniform: Mapping[str, Path]
) -> _Attempt:
    codes, how, _ = _solved(run, choice)
    codes, changed, recovered = _recovered(run, choice, codes)
    key = key_of(run.key, choice, run.settings.recover)
    folder = run.work.folder / f"result-{key}"
    if not (folder / "config.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        result.pack(run.model, run.source, folder, codes, changed, _blocks_dropped(run, choice))
    piece = f"measured-{key_of(key, run.settings.tokens, sorted(uniform))}"
    known = run.work.json(piece)
    if known is None:
        measured = result.measure(
            run.source, folder, uniform, run.windows.held_out, run.settings.tokens, run.name,
            lambda done, total: run.progress("measuring", "", done, total), run.say,
        )  # fmt: skip
        run.work.keep_json(piece, measured.state())
    else:
        measured = result.Figures.of(known)
    return _Attempt(choice, how, recovered, measured, folder, history, budget, _recovery_of(run, choice))


def _missed(run: _Run, attempt: _Attempt) -> dict[str, str]:
    """What of target and limit is not met, in words."""
    target, limit, seen = run.settings.target, run.settings.within, attempt.measured
    missed: dict[str, str] = {}
    if target and target.kind == "speed" and not seen.speed >= target.value:
        missed["speed"] = f"{seen.speed:.0f} generated tokens per second, and {target.value:g} are asked for"
    most = target.bytes(run.plan.weights) if target else None
    if most and seen.bytes > most:
        missed["bytes"] = f"{megabytes(seen.bytes)} MB, and at most {megabytes(most)} are asked for"
    if limit is not None:
        metric = run.settings.metric
        value = getattr(seen, metric).value
        if not value <= limit:
            write = number if metric == "kl" else percent
            missed["quality"] = f"{_of(metric)} {write(value)}, and at most {write(limit)} is asked for"
    return missed


def _of(metric: str) -> str:
    return {"perplexity": "perplexity on held-out text", "flips": "flips", "kl": "KL"}[metric]


def _finish(run: _Run, out: Path, attempt: _Attempt, costs: Costs | None, more: dict[str, Any]) -> Outcome:
    """Decide; export, report and move the result to its place, or refuse it."""
    missed = _missed(run, attempt)
    seen, limit = attempt.measured, run.settings.within
    bits = 8 * seen.bytes / run.plan.weights
    size = f"{megabytes(seen.bytes)} MB ({16 / bits:.2f}x, {number(bits)} bits per weight)"
    if missed:
        says = (
            f"not met: {'; '.join(missed.values())}. The nearest: {size}, perplexity {percent(seen.perplexity.value)}"
        )
        if "quality" in missed and costs is not None and limit is not None:
            reach, failed = _smallest_within(run, costs, SAFE * limit), attempt.budget or 0
            if reach is None:
                says += "; no choice of levels would be within"
            elif reach > failed:
                says += f"; about {megabytes(reach)} MB ({2 * run.plan.weights / reach:.2f}x) would be within"
            elif failed < costs.most():
                says += f"; more than {megabytes(failed)} MB are needed"
            says += "" if run.settings.recover else ", or try --recover"
        if not run.settings.anyway:
            says += "; nothing was written (--anyway writes it; what was computed is kept for the next call)"
    else:
        says = f"{size}, perplexity {percent(seen.perplexity.value)}"
        value = getattr(seen, run.settings.metric)
        if limit is not None and not value.high <= limit:
            write = number if run.settings.metric == "kl" else percent
            says += f" ({_of(run.settings.metric)}: its interval reaches {write(value.high)}, beyond the limit)"
        if attempt.number > 1:
            says += f" (size number {attempt.number} that was judged on the same text)"
    figures = result.figures(run, attempt, costs, more, missed, says)
    if missed and not run.settings.anyway:
        return Outcome(False, says, None, figures)
    ready = run.work.folder / "ready"
    shutil.rmtree(ready, ignore_errors=True)
    shutil.copytree(attempt.folder, ready)
    figures["exports"] = result.export_all(
        ready, run.settings.exports, out, lambda name, done, total: run.progress("exporting", name, done, total)
    )
    result.write_page(ready, figures, attempt, run.source, run.windows.held_out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        out.rmdir()
    os.replace(ready, out)
    if not run.settings.keep:
        run.work.clear()
    return Outcome(not missed, says, out, figures)
