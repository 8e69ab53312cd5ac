"""A change of code that changed no result outdates no verdict of the arms that were tried, and only of those."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from paperlab.core import standings
from paperlab.core.card import Arm
from paperlab.core.methods import methods
from paperlab.core.published import Row
from paperlab.core.same_results import SameResults, carried, name_of, parse, same_results

MOVED = SameResults(
    before="a" * 40, after="b" * 40,
    files={"kit/fold.py": ("1", "2"), "kit/layouts.py": (None, "3"), "kit/old.py": ("4", None),
           "kit/walk.py": ("5", "5")},
    arms={"lm_compress": {"gptq(bits=4)": ("abstracts-lm", "f" * 12)}}, machine="m", finished="2026-01-01",
)  # fmt: skip
MADE = {"kit/fold.py": "1", "kit/old.py": "4", "tasks/lm_compress.py": "9"}
AFTER = {"kit/fold.py": "2", "kit/layouts.py": "3", "kit/walk.py": "5", "tasks/lm_compress.py": "9"}


def test_arms_that_were_tried_are_carried_over_the_change() -> None:
    assert carried(MADE, ["gptq(bits=4)"], "lm_compress", [MOVED]) == AFTER
    assert carried(AFTER, ["gptq(bits=4)"], "lm_compress", [MOVED]) == AFTER  # made since


@pytest.mark.parametrize(
    ("sources", "arms", "task"),
    [
        (MADE, ["gptq(bits=4)", "awq(bits=4)"], "lm_compress"),  # one of them was not tried
        (MADE, ["gptq(bits=4)"], "encoder_compress"),
        ({**MADE, "kit/fold.py": "0"}, ["gptq(bits=4)"], "lm_compress"),  # made by older code
        ({**MADE, "kit/walk.py": "0"}, ["gptq(bits=4)"], "lm_compress"),
    ],
)
def test_nothing_else_is(sources: dict[str, str], arms: list[str], task: str) -> None:
    assert carried(sources, arms, task, [MOVED]) == sources


def test_the_order_of_parameters_does_not_matter() -> None:
    one = Arm("gptq", bits=4, group=64, after=Arm("wanda", sparsity=0.5, norms="own"))
    other = Arm("gptq", group=64, bits=4, after=Arm("wanda", norms="own", sparsity=0.5))
    assert name_of(one) == name_of(other) == "gptq(bits=4, group=64) after wanda(norms=own, sparsity=0.5)"


def test_changes_follow_one_another() -> None:
    again = SameResults("b" * 40, "c" * 40, {"kit/fold.py": ("2", "7")}, MOVED.arms, "m", "2026-01-02")
    assert carried(MADE, ["gptq(bits=4)"], "lm_compress", [MOVED, again])["kit/fold.py"] == "7"
    assert carried(MADE, ["gptq(bits=4)"], "lm_compress", [again]) == MADE


def test_a_file_that_was_only_compared_along_does_not_stop_the_next_comparison() -> None:
    again = SameResults(
        "c" * 40, "d" * 40, {"kit/fold.py": ("2", "7"), "kit/layouts.py": ("6", "6")}, MOVED.arms, "m", "2026-01-02"
    )  # kit/layouts.py has changed between the two
    arms = ["gptq(bits=4)"]
    unused = carried(MADE, arms, "lm_compress", [MOVED, again], reached={"kit/fold.py"})
    assert unused["kit/fold.py"] == "7"
    used = carried(MADE, arms, "lm_compress", [MOVED, again], reached={"kit/fold.py", "kit/layouts.py"})
    assert used["kit/fold.py"] == "2"


def test_lines_are_read_back_and_others_are_named_with_their_number() -> None:
    line = json.dumps(asdict(MOVED))
    assert parse(f"{line}\n") == (MOVED,)
    with pytest.raises(ValueError, match=r"same_results.jsonl:2: not a comparison"):
        parse(f'{line}\n{{"before": 1}}\n')
    assert all(one.files and one.arms for one in same_results())  # the shipped ones


def test_a_verdict_is_outdated_by_a_change_and_not_by_one_without_results(monkeypatch: pytest.MonkeyPatch) -> None:
    present = standings.present_checks(methods())
    row: Row = next(
        row for row in standings.standings().current
        if row.check_hash in present and "kit/walk.py" in row.sources and not standings.outdated_of(row.id)
    )  # fmt: skip
    check = present[row.check_hash]
    today = standings._check_sources(check, row.task)
    old: Any = row.__class__(**{**asdict(row), "sources": {**today, "kit/walk.py": "000000000000"}})
    assert standings.outdated(old, check) == ("kit/walk.py changed",)
    arms = {row.task: {name_of(arm): (row.model, "f" * 12) for arm in check.arms}}
    files = {"kit/walk.py": ("000000000000", today["kit/walk.py"]), "kit/unused.py": (None, "1")}
    one = SameResults("a" * 40, "b" * 40, files, arms, "m", "2026-01-01")
    monkeypatch.setattr("paperlab.core.same_results.same_results", lambda: (one,))
    assert standings.outdated(old, check) == ()
    del arms[row.task][name_of(check.baseline)]
    assert standings.outdated(old, check) == ("kit/walk.py changed",)
