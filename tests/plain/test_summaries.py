"""Records without their samples: kept in a file that may be missing, old or wrong; read again when one changes."""

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from paperlab.core import panels, record, summaries
from paperlab.core.card import Arm
from paperlab.core.home import BUNDLED
from paperlab.core.methods import identity
from paperlab.core.summaries import publish, read, summary

_spec = importlib.util.spec_from_file_location("synthetic_records", Path(__file__).with_name("records.py"))
assert _spec is not None
assert _spec.loader is not None
synthetic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic)
make, make_check = synthetic.record, synthetic.check


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two records of easyquant, one of another method that is compared with gptq."""
    record.append(make(id="a"), tmp_path)
    record.append(make(id="b", started="2026-02-01"), tmp_path)
    other = make_check(claim="other", method=Arm("awq"), baseline=Arm("gptq"), beside=())
    record.append(make(other, id="c", method="awq", paper="awq"), tmp_path)
    return tmp_path


def test_of_methods_reads_the_files_that_have_their_arms(folder: Path) -> None:
    assert [one.id for one in read(where=(folder,))] == ["c", "a", "b"]
    assert [one.id for one in read({"gptq"}, (folder,))] == ["c", "a", "b"]
    assert [one.id for one in read({"round-to-nearest"}, (folder,))] == ["a", "b"]
    assert read({"nothing"}, (folder,)) == []
    assert read(where=(folder / "none",)) == []


def test_a_summary_is_the_record_without_samples(folder: Path) -> None:
    kept, whole = read(where=(folder,))[1], make(id="a")
    assert replace(kept, arms=()) == replace(summary(whole), arms=())
    assert [arm.arm for arm in kept.arms] == [arm.arm for arm in whole.arms]


def test_only_what_changed_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = summaries.mark({"gptq"}, (folder,))
    read(where=(folder,))
    seen = []
    load = summaries._load
    monkeypatch.setattr(summaries, "_load", lambda stamp: seen.append(Path(stamp[0]).stem) or load(stamp))
    assert len(read(where=(folder,))) == 3
    assert seen == []
    record.append(make(id="d", started="2026-03-01"), folder)
    assert [one.id for one in read(where=(folder,))] == ["c", "a", "b", "d"]
    assert seen == ["easyquant"]
    assert summaries.mark({"gptq"}, (folder,)) != before
    assert summaries.mark({"awq"}, (folder,)) == before[:1]


def test_kept_rows_spare_the_samples_and_follow_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = folder.glob("*/*/easyquant.jsonl")
    plain = read({"easyquant"}, (folder,))
    kept = publish(file)
    assert kept == file.with_name("easyquant.figures.json")
    once = kept.stat().st_mtime_ns
    publish(file)
    assert kept.stat().st_mtime_ns == once, "what is right is left alone"
    summaries.publish_all((folder,))
    computed = []
    monkeypatch.setattr(summaries, "arm_rows", lambda r, of=summaries.arm_rows: computed.append(r.id) or of(r))

    def again() -> list[summaries.Summary]:
        computed.clear()
        summaries._files.clear()
        return read({"easyquant"}, (folder,))

    assert again() == plain
    assert computed == []
    record.append(make(id="d", started="2026-03-01"), folder)
    assert len(again()) == 3
    assert computed == ["d"]
    file.write_text(file.read_text().replace('"bytes": ', '"bytes": 1', 1))  # a figure of a kept record
    found = again()
    assert computed == ["a", "d"], "a row of another line is not used"
    assert found[0].arms != plain[0].arms


@pytest.mark.parametrize("content", ["", "[]", "{", '{"version": 0, "rows": {}}', '{"version": 1, "rows": []}', "bad"])
def test_kept_rows_that_are_broken_do_no_harm(folder: Path, content: str) -> None:
    (file,) = folder.glob("*/*/easyquant.jsonl")
    plain = read({"easyquant"}, (folder,))
    kept = publish(file)
    if content == "bad":
        rows = json.loads(kept.read_text())
        content = json.dumps({**rows, "rows": {name: {"id": 1} for name in rows["rows"]}})
    kept.write_text(content)
    summaries._files.clear()
    assert read({"easyquant"}, (folder,)) == plain
    publish(file)
    assert json.loads(kept.read_text())["version"] == summaries.VERSION


def test_a_line_that_is_no_record_is_named_or_skipped(folder: Path) -> None:
    (file,) = folder.glob("*/*/awq.jsonl")
    file.write_bytes(file.read_bytes() + b"{}\n")
    with pytest.raises(ValueError, match=r"awq.jsonl:2: not a record"):
        read(where=(folder,))
    with pytest.raises(ValueError, match=r"awq.jsonl:2"):
        read({"easyquant"}, (folder,))
    assert len(read(where=(folder,), strict=False)) == 3


def test_a_changed_figure_is_found(folder: Path) -> None:
    (file,) = folder.glob("*/*/easyquant.jsonl")
    assert summaries.problems(file) == []
    kept = publish(file)
    assert summaries.problems(file) == []
    rows = json.loads(kept.read_text())
    next(iter(rows["rows"].values()))["arms"][0]["values"]["perplexity"][0] += 1
    kept.write_text(json.dumps(rows))
    (problem,) = summaries.problems(file)
    assert "the figures of record a are not its samples'" in problem


def test_bundled_rows_are_what_the_samples_say() -> None:
    files = sorted((BUNDLED / "records").glob("*/*/*.jsonl"))
    assert len(files) > 20
    for file in files:
        assert file.with_suffix(summaries.SUFFIX).exists(), f"publish {file.name}"
        kept = summaries._kept(file)
        rows = summaries._rows(file, {}, [])
        assert kept.keys() == {name for name, _ in rows}
        for name, now in rows:
            assert {**now, "arms": 0} == {**kept[name], "arms": 0}
            for ours, theirs in zip(now["arms"], kept[name]["arms"], strict=True):
                assert {**ours, "values": 0} == {**theirs, "values": 0}
                for metric, figures in ours["values"].items():
                    wanted = [x if x is None else pytest.approx(x, rel=1e-9) for x in figures]
                    assert theirs["values"][metric] == wanted


def test_the_folder_may_be_read_only(folder: Path) -> None:
    (file,) = folder.glob("*/*/easyquant.jsonl")
    os.chmod(file.parent, 0o500)
    try:
        summaries._files.clear()
        assert len(read({"easyquant"}, (folder,))) == 2
    finally:
        os.chmod(file.parent, 0o700)


# ── arms by their identity ───────────────────────────────────────────────────────────────────────────────────────


def test_one_arm_has_one_identity() -> None:
    same = [
        Arm("round-to-nearest", bits=4),
        Arm("round_to_nearest", bits=4),
        Arm("round-to-nearest", bits=4, symmetric=False),
    ]
    assert len({identity(arm) for arm in same}) == 1
    others = [Arm("round-to-nearest", bits=3), Arm("round-to-nearest", bits=4, symmetric=True), Arm("gptq", bits=4)]
    assert len({identity(arm) for arm in [*same, *others]}) == 4


def test_a_baseline_under_two_spellings_stands_once() -> None:
    def spelled(name: str, started: str) -> summaries.Summary:
        check = make_check(claim=name, baseline=Arm(name, bits=4, **({"symmetric": False} if "_" in name else {})))
        return summary(make(check, id=name, started=started))

    (panel,) = panels.panels([spelled("round_to_nearest", "2026-01-01"), spelled("round-to-nearest", "2026-02-01")])
    names = [str(point.arm) for point in panel.points]
    assert names.count("round-to-nearest(bits=4)") == 1
    assert not [name for name in names if "_" in name.partition("(")[0]]
    (point,) = [point for point in panel.points if point.arm.method == "round-to-nearest"]
    assert point.records == ("round_to_nearest", "round-to-nearest")
    assert point.note.startswith("in 2 records")


def test_no_bundled_arm_stands_twice() -> None:
    from paperlab.core.methods import methods

    slugs = [slug for slug, method in methods().items() if method.card.family == "quantization"]
    found = panels.compared(slugs)
    assert len(found.panels) >= 4
    for panel in found.panels:
        names = [identity(point.arm) for point in panel.points]
        assert len(names) == len(set(names))
