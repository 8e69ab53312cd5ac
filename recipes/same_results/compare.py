"""Show that a change of code changed no result: a line of data/same_results.jsonl, which keeps verdicts from ageing.

    python recipes/same_results/compare.py COMMIT [--without TASK]...

Every arm of a published verdict that reaches changed code is built and scored twice on one seed: with COMMIT's code,
and with the present commit's. Weights and values must have the same bits. Each arm runs on the smallest model of its
task, with two batches of calibration, four steps of training and two scored items, one thread for each of the two
processes; what is done is kept in a temporary folder, and a repeated call at the same commit goes on from there. Arms
whose bits differ are named and left out: their verdicts are outdated. --without: a task whose results are known to
change in what this does not see, such as which of several learning rates is taken.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from itertools import islice
from pathlib import Path, PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
FEW = {"calibration": 2, "steps": 4, "rates": 1, "scales": 1}  # of a setting's fields: so many are enough to compare
ITEMS = 2  # scored
SMALL = ("abstracts-lm", "minilm-l6")  # built on these rather than on a task's larger models, with the same code

PLAIN = str | bytes | int | float | complex | Enum | PurePath | range | slice  # whose repr says all


def hashes(package: Path) -> dict[str, str]:
    """The hash of the code of every file that can decide samples, as `paperlab.core.sources` has it."""
    from paperlab.core.sources import ROOMS, significant

    files = sorted(file for room in ROOMS for file in (package / room).rglob("*.py"))
    texts = {str(file.relative_to(package)): file.read_text(encoding="utf-8") for file in files}
    return {name: hashlib.sha256(significant(text).encode()).hexdigest()[:12] for name, text in texts.items()}


def wanted(changed: set[str]) -> list[dict[str, Any]]:
    """Arms of current verdicts that were made by a changed file, one row for each task and arm."""
    from paperlab.core.methods import methods
    from paperlab.core.same_results import name_of
    from paperlab.core.standings import present_checks, standings
    from paperlab.core.task import constants

    present = present_checks(methods())
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(standings().current, key=lambda row: (row.scale != "quick", row.model)):
        if row.check_hash in present and changed & row.sources.keys():
            small = [model for model in SMALL if model in constants(row.task).get("MODELS", ())]
            for arm in present[row.check_hash].arms:
                known = found.setdefault((row.task, name_of(arm)), {"task": row.task, "model": [*small, row.model][0]})
                known |= {"arm": asdict(arm), "name": name_of(arm)}
    return list(found.values())


def work(rows: list[dict[str, Any]], file: Path) -> None:
    """Build and score each arm with the code that this process imports; one line of `file` for each."""
    import torch

    torch.set_num_threads(1)
    from paperlab.core.card import arm_from
    from paperlab.core.task import load_task
    from paperlab.lab.arms import build_arm, tune_arm
    from paperlab.lab.state import seed_all

    done = {(row["task"], row["name"]) for row in read(file)}
    settings: dict[tuple[str, str], Any] = {}
    for row in sorted(rows, key=lambda row: (row["task"], str(row["model"]))):
        if (row["task"], row["name"]) in done:
            continue
        task, arm = load_task(row["task"]), arm_from(row["arm"])
        key = (row["task"], row["model"])
        try:
            if key not in settings:
                settings.clear()  # one model at a time
                model = row["model"] if row["model"] in task.MODELS else None
                settings[key] = smaller(task.make(0, "quick", model=model))
            setting = settings[key]
            seed_all(0)
            tuned = tune_arm(arm, row["task"], setting, 0, lambda *_: None)
            made = build_arm(arm, row["task"], setting, 0, lambda *_: None, tuned=tuned)
            items = () if task.TIMED else islice(task.score(made, setting), ITEMS)
            digest = hashlib.sha256()
            for part in bits([made, list(items)]):
                digest.update(part)
            result = {"sha": digest.hexdigest()[:12]}
        except Exception as error:  # what an arm cannot do it must not be able to do under both
            result = {"error": f"{type(error).__name__}: {error}"}
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"task": row["task"], "name": row["name"], **result}) + "\n")


def smaller(setting: Any) -> Any:
    """The setting with little to learn from, which is enough to see whether bits differ."""
    known = {field.name for field in fields(setting)} & FEW.keys() if is_dataclass(setting) else set()
    less = {}
    for name in known:
        value = getattr(setting, name)
        less[name] = min(value, FEW[name]) if isinstance(value, int) else value[: FEW[name]]
    return replace(setting, **less)


def bits(value: Any) -> Iterator[bytes]:
    """The bits of all tensors and numbers in what a driver built or a task scored.

    Of functions the name counts and what they hold: partial's arguments, a closure's cells. Raises TypeError for a kind
    of value that this does not know: passed over, it could differ unseen.
    """
    yield from _bits(value, ())


def _bits(value: Any, above: tuple[int, ...]) -> Iterator[bytes]:
    """above: ids of what this value is part of, so that what holds itself ends."""
    import numpy as np
    import torch

    if id(value) in above:
        yield f"again {len(above) - above.index(id(value))}".encode()
        return
    inner = (*above, id(value))

    def named(parts: Iterable[tuple[Any, Any]]) -> Iterator[bytes]:
        for name, one in parts:
            yield from _bits(name, inner)
            yield from _bits(one, inner)

    yield type(value).__qualname__.encode()
    if isinstance(value, torch.Tensor):
        yield repr((value.dtype, tuple(value.shape))).encode()
        flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().tobytes()
    elif isinstance(value, torch.nn.Module):
        yield from named(value.state_dict(keep_vars=True).items())
    elif isinstance(value, torch.Generator):
        yield from _bits(value.get_state(), inner)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from named((field.name, getattr(value, field.name)) for field in fields(value))
    elif isinstance(value, Mapping):
        yield str(len(value)).encode()
        yield from named(value.items())
    elif isinstance(value, list | tuple):
        yield str(len(value)).encode()
        for one in value:
            yield from _bits(one, inner)
    elif isinstance(value, np.ndarray | np.generic):
        yield repr((value.dtype, value.shape)).encode()
        yield from _bits(value.tolist(), inner) if value.dtype.hasobject else [value.tobytes()]
    elif isinstance(value, random.Random):
        yield from _bits(value.getstate(), inner)
    elif isinstance(value, SimpleNamespace):
        yield from named(vars(value).items())
    elif isinstance(value, set | frozenset):
        yield from sorted(b"".join(_bits(one, inner)) for one in value)
    elif value is None or isinstance(value, PLAIN | torch.dtype | torch.device):
        yield repr(value).encode()
    elif isinstance(value, type):
        yield f"{value.__module__}.{value.__qualname__}".encode()
    elif isinstance(value, partial):
        yield from _bits([value.func, value.args, value.keywords], inner)
    elif isinstance(value, MethodType):
        yield value.__func__.__qualname__.encode()
        yield from _bits(value.__self__, inner)
    elif isinstance(value, BuiltinFunctionType | FunctionType):
        yield f"{value.__module__}.{value.__qualname__}".encode()
        if not isinstance(held := getattr(value, "__self__", None), ModuleType):
            yield from _bits(held, inner)
        for cell in getattr(value, "__closure__", None) or ():
            yield from _bits(cell.cell_contents, inner)
    else:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"a {kind} among the results: say in `bits` what of it must stay the same")


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of results; those of a line that was cut off are left out."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def git(*words: str) -> str:
    """What git prints in this repository."""
    return subprocess.run(["git", *words], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.strip()


def cleared(trees: Iterable[Path]) -> int:
    """Take the trees away; 0."""
    for tree in trees:
        git("worktree", "remove", "--force", str(tree))
    return 0


def main() -> int:
    """Compare, name what differs, append the line; 1 where an arm differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--without", metavar="TASK", action="append", default=[])
    given = parser.parse_args()
    commit = git("rev-parse", given.commit)
    if git("status", "--porcelain", "--", "src"):
        print("the code has changes that are in no commit; commit them first", file=sys.stderr)
        return 2
    after = git("rev-parse", "HEAD")
    folder = Path(tempfile.gettempdir()) / f"same-results-{commit[:10]}-{after[:10]}"
    trees = {"old": folder / "old-code", "new": folder / "new-code"}  # nothing that is edited meanwhile gets in
    for tree, at in zip(trees.values(), (commit, after), strict=True):
        if not tree.exists():
            git("worktree", "add", "--detach", str(tree), at)
    old, new = (hashes(tree / "src" / "paperlab") for tree in trees.values())
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    rows = [row for row in wanted(changed) if row["task"] not in given.without]
    print(f"{len(changed)} files differ; {len(rows)} arms to build twice; results in {folder}")
    if not rows:
        return cleared(trees.values())
    (folder / "arms.json").write_text(json.dumps(rows), encoding="utf-8")
    running = []
    for side, tree in trees.items():
        command = [sys.executable, __file__, "--work", str(folder / "arms.json"), str(folder / f"{side}.jsonl")]
        here = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        running.append(subprocess.Popen(command, env=here, cwd=folder))
    if sum(process.wait() != 0 for process in running):  # both are waited for
        print("a process ended before its work; call again to go on", file=sys.stderr)
        return 2
    sides = [{(row["task"], row["name"]): row for row in read(folder / f"{side}.jsonl")} for side in ("old", "new")]
    same: dict[str, dict[str, list[str | None]]] = {}
    differing = []
    for row in rows:
        one, other = (side[row["task"], row["name"]] for side in sides)
        if one != other or "error" in one:
            differing.append(f"{row['task']}: {row['name']}: {one.get('error', one.get('sha'))}, now "
                             f"{other.get('error', other.get('sha'))}")  # fmt: skip
        else:
            same.setdefault(row["task"], {})[row["name"]] = [row["model"], one["sha"]]
    from paperlab.core.same_results import FILE
    from paperlab.lab.machine import machine_id

    reached = {name for name in new if name in old and new[name] == old[name]}
    files = {name: [old.get(name), new.get(name)] for name in sorted(changed | reached)}
    line = {
        "before": commit, "after": after, "files": files, "arms": same, "machine": machine_id(),
        "finished": f"{datetime.now(UTC):%Y-%m-%d}",
    }  # fmt: skip
    with FILE.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(line, separators=(",", ":")) + "\n")
    cleared(trees.values())
    print(f"{sum(map(len, same.values()))} arms have the same bits", *differing, sep="\n")
    return int(bool(differing))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), Path(sys.argv[3]))
    else:
        sys.exit(main())
