"""Every rule of the verdict on records whose truth is planted; what counts today; the published copy."""

import json
import math
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from paperlab.core import task as task_room
from paperlab.core.card import Arm, Card, Check
from paperlab.core.methods import Method
from paperlab.core.record import ArmResult, Record, append, from_json, to_json
from paperlab.core.task import Metric
from paperlab.core.verdict import (
    WORDS,
    Verdict,
    adjusted,
    control_ok,
    counts,
    current,
    problems,
    publish,
    published,
    row,
    summary,
    survives,
    task_version,
    verdict,
    verify,
)

METRICS = {
    "perplexity": Metric("lower", "nll", "exp_mean"),
    "kl": Metric("lower", "kl"),
    "accuracy": Metric("higher", "right"),
}
ITEMS = 40


def check(**fields: Any) -> Check:
    standard: dict[str, Any] = {
        "claim": "better-than-rounding", "says": "loses less than rounding", "task": "text", "metric": "perplexity",
        "expect": "lower", "margin": 0.02, "method": Arm("fine", {"bits": 4}), "baseline": Arm("rounding", {"bits": 4}),
        "gap": "a small model", "equal": {"bits_per_weight": 0.01},
    }  # fmt: skip
    return Check(**{**standard, **fields})


def arm(which: Arm, shift: float, noise: float, seeds: list[int], items: int = ITEMS, **fields: Any) -> ArmResult:
    """Values that all arms share item by item, plus `shift` and the arm's own noise, in nats. The noise of a
    single seed has mean 0, so that the sample's gain is exactly the planted one."""
    samples = {}
    for seed in seeds:
        shared, own = random.Random(seed), random.Random(f"{which}{seed}")
        noises = [own.gauss(0, noise) for _ in range(items)]
        centre = sum(noises) / items - (own.gauss(0, noise) if len(seeds) > 1 else 0.0)
        nll = [shared.gauss(3, 0.4) + shift + own_noise - centre for own_noise in noises]
        right = [float(own.random() < 0.6) for _ in nll]
        samples[str(seed)] = {"nll": nll, "kl": [0.01 + abs(own.gauss(0, 0.01)) for _ in nll], "right": right}
    standard: dict[str, Any] = {
        "samples": samples, "totals": {"bits_per_weight": 4.25, "bytes": 1e6},
        "seconds": {"build": [1.0], "score": [2.0]}, "peak_memory": 10**9, "error": None,
    }  # fmt: skip
    return ArmResult(arm=which, **{**standard, **fields})


def record(of: Check | None = None, shift: float = -0.05, noise: float = 0.01, **fields: Any) -> Record:
    """The method is `shift` nats above the baseline: a gain of 1 - exp(shift)."""
    of = of or check()
    seeds = fields.get("seeds", [0])
    standard: dict[str, Any] = {
        "id": "r1", "method": "fine", "paper": "fine-paper", "check": of, "check_hash": of.hash, "task": of.task,
        "task_version": 1, "metric": of.metric, "metrics": METRICS, "paired_by": "items", "model": "small-lm",
        "setting": {"model": "small-lm", "data": {"id": "essays", "sha256": "ab"}}, "scale": "quick", "seeds": seeds,
        "arms": [arm(of.method, shift, noise, seeds), arm(of.baseline, 0.0, noise, seeds)], "status": "finished",
        "code_hash": "c0de", "commit": None, "dirty": False, "packages": {}, "machine": "box",
        "command": "paperlab run fine", "started": "2026-01-01T12:00:00", "finished": "2026-01-01T12:01:00",
    }  # fmt: skip
    return Record(**{**standard, **fields})


def with_method(found: Record, **fields: Any) -> Record:
    return replace(found, arms=[replace(found.arms[0], **fields), *found.arms[1:]])


def with_baseline(found: Record, **fields: Any) -> Record:
    return replace(found, arms=[found.arms[0], replace(found.arms[1], **fields)])


@pytest.mark.parametrize(
    ("expect", "margin", "shift", "word"),
    [
        ("lower", 0.02, -0.05, "holds"),
        ("lower", 0.10, -0.05, "holds in direction"),
        ("lower", 0.02, 0.05, "fails"),
        ("lower", 0.02, 0.0, "undecided"),
        ("higher", 0.02, 0.05, "holds"),  # a claim that something hurts
        ("higher", 0.10, 0.05, "holds in direction"),
        ("higher", 0.02, -0.05, "fails"),
        ("equal", 0.02, 0.001, "holds"),
        ("equal", 0.02, -0.05, "fails"),  # better, too, is not equal
        ("equal", 0.02, 0.05, "fails"),
        ("equal", 0.05, 0.05, "undecided"),
    ],
)
def test_words(expect, margin, shift, word):
    found = verdict(record(check(expect=expect, margin=margin), shift=shift))
    assert found.word == word
    assert found.n == ITEMS
    assert found.low <= found.gain <= found.high
    truth = math.exp(shift) - 1 if expect == "higher" else 1 - math.exp(shift)  # equal: positive where better
    assert found.gain == pytest.approx(truth, abs=1e-6)
    assert found.reason.endswith("here: small-lm, essays, quick scale.")
    assert found.word in WORDS


def test_numbers_of_a_verdict():
    data = record()
    found = verdict(data)
    method, baseline = (a.samples["0"]["nll"] for a in data.arms)
    assert found.method_value == pytest.approx(math.exp(sum(method) / ITEMS), rel=1e-8)
    assert found.baseline_value == pytest.approx(math.exp(sum(baseline) / ITEMS), rel=1e-8)
    assert found.gain == pytest.approx(1 - found.method_value / found.baseline_value, rel=1e-6)
    assert 0 < found.p <= 0.001
    assert 0 < found.minimum_effect < found.gain
    assert found.extra["kl method"] == pytest.approx(sum(data.arms[0].samples["0"]["kl"]) / ITEMS, rel=1e-8)
    pairs = zip(*(a.samples["0"]["right"] for a in data.arms), strict=True)
    assert found.extra["right flips"] == sum(m != b for m, b in pairs) / ITEMS
    assert "perplexity method" not in found.extra


def test_a_verdict_survives_the_trip_through_json():
    data = record()
    assert verdict(from_json(to_json(data))) == verdict(data)


@pytest.mark.parametrize("seeds", [[0, 1, 2], [0, 1, 2, 3, 4]])
def test_paired_by_seeds(seeds):
    found = verdict(record(seeds=seeds, paired_by="seeds", noise=0.002))
    assert found.n == len(seeds)
    assert found.word == "holds"
    lost = verdict(record(seeds=seeds, paired_by="seeds", noise=0.5))
    assert lost.word == "undecided"


def test_one_seed_is_undecided():
    found = verdict(record(paired_by="seeds"))
    assert (found.word, found.low, found.n) == ("undecided", None, 1)
    assert found.gain > 0


def test_items_under_several_seeds_are_one_item_each():
    found = verdict(record(seeds=[0, 1]))
    assert found.n == ITEMS


def test_not_comparable_when_a_total_differs_or_is_missing():
    more = with_method(record(), totals={"bits_per_weight": 4.5})
    found = verdict(more)
    assert found.word == "not comparable"
    assert "4.5 against 4.25" in found.reason
    assert verdict(with_method(record(), totals={"bits_per_weight": 4.28})).word == "holds"  # within 1 %
    assert "has no such total" in verdict(with_baseline(record(), totals={})).reason
    assert verdict(with_baseline(record(), totals={"bits_per_weight": math.nan})).word == "not comparable"


def test_not_comparable_when_values_do_not_pair():
    data = record()
    samples = {"0": {"nll": data.arms[0].samples["0"]["nll"][:-1]}}
    found = verdict(with_method(data, samples=samples))
    assert found.word == "not comparable"
    assert "39 and 40 values" in found.reason
    assert verdict(with_method(data, samples={"1": data.arms[0].samples["0"]})).word == "not comparable"
    assert verdict(with_method(data, samples={"0": {}})).word == "not comparable"


def test_errors():
    assert verdict(record(status="interrupted")).word == "error"
    assert "out of memory" in verdict(with_method(record(), error="out of memory")).reason
    assert verdict(with_baseline(record(), error="x")).word == "error"


@pytest.mark.parametrize("bad", [math.nan, math.inf, 5000.0])  # exp(5000 / 1) has no float
def test_arms_that_diverge(bad):
    lost = {"0": {"nll": [bad] * ITEMS}}
    assert verdict(with_method(record(), samples=lost)).word == "fails"
    assert verdict(with_method(record(check(expect="equal")), samples=lost)).word == "fails"
    harm = verdict(with_method(record(check(expect="higher")), samples=lost))
    assert (harm.word, harm.gain, harm.method_value) == ("holds in direction", None, None)
    assert verdict(with_baseline(record(), samples=lost)).word == "not comparable"
    assert verdict(with_baseline(with_method(record(), samples=lost), samples=lost)).word == "error"
    one = list(record().arms[0].samples["0"]["nll"])
    one[7] = math.nan
    assert verdict(with_method(record(), samples={"0": {"nll": one}})).word == "fails"


def test_accuracy_counts_flips_and_uses_mcnemar():
    of = check(metric="accuracy", expect="higher")
    data = record(of)
    right = [1.0] * 20 + [0.0] * 20
    won = [1.0] * 36 + [0.0] * 4
    data = with_baseline(with_method(data, samples={"0": {"right": won}}), samples={"0": {"right": right}})
    found = verdict(data)
    assert found.word == "holds"
    assert found.extra["right flips"] == 0.4
    assert found.p == pytest.approx(2 / 2**16)
    few = verdict(with_method(data, samples={"0": {"right": [1.0] * 25 + [0.0] * 15}}))
    assert (few.word, few.p) == ("undecided", 0.0625)


def test_controls():
    def said(word: str, low: float = -1.0, high: float = 1.0) -> Verdict:
        return Verdict(word, "", 0.02, gain=0.0, low=low, high=high)  # type: ignore[arg-type]

    positive, negative, same = (check(role=role) for role in ("positive control", "negative control", "a/a control"))
    assert control_ok(check(), said("holds")) is None
    assert control_ok(check(role="question"), said("holds")) is None
    assert control_ok(positive, said("holds")) is True
    assert control_ok(positive, said("holds in direction")) is False
    assert control_ok(positive, said("error")) is None
    assert control_ok(negative, said("fails")) is True
    assert control_ok(negative, said("undecided")) is True
    assert control_ok(negative, said("holds in direction")) is True
    assert control_ok(same, said("undecided")) is True
    assert control_ok(same, said("fails", -1.0, -0.5)) is False
    assert control_ok(same, said("holds", 0.1, 0.5)) is False


@pytest.mark.parametrize(("expect", "word"), [("lower", "undecided"), ("higher", "undecided"), ("equal", "holds")])
def test_an_a_a_control_of_a_deterministic_arm(expect, word):
    of = check(role="a/a control", expect=expect, margin=0.0, method=Arm("rounding", {"bits": 4}))
    found = verdict(record(of, shift=0.0))
    assert (found.word, found.gain, found.low, found.high) == (word, 0, 0, 0)
    assert control_ok(of, found) is True


def test_holm_is_over_the_claims_of_one_paper():
    names = ["a", "b", "c"]
    of = [check(claim=name) for name in names]
    data = [record(c, shift=s, noise=0.05, id=c.claim) for c, s in zip(of, (-0.05, -0.02, 0.0), strict=True)]
    data += [record(check(role="positive control"), id="control"), record(id="other", paper="another")]
    data += [record(check(claim="d"), id="broken", status="failed"), record(id="elsewhere", model="big-lm")]
    found = adjusted(data)
    assert set(found) == {"a", "b", "c", "other", "broken", "elsewhere"}
    assert found["a"] == pytest.approx(4 * verdict(data[0]).p)  # the broken one counts
    assert found["other"] == verdict(data[4]).p
    assert found["broken"] == 1
    assert found["a"] <= found["b"] <= found["c"] <= 1
    assert adjusted(map(row, data)) == found
    assert survives("holds", 0.04) is True
    assert survives("holds in direction", 0.06) is False
    assert survives("fails", 0.01) is None


def card(*checks: Check) -> dict[str, Method]:
    return {"fine": Method("fine", Card("quantization", "fine-paper", checks), Path("fine.py"), "")}


def test_what_counts_today():
    now, before = check(), check(margin=0.5)
    data = {
        "first": record(now, id="first", started="2026-01-01"),
        "latest": record(now, id="latest", started="2026-01-03"),
        "broke": record(now, id="broke", started="2026-01-04", status="failed"),
        "edited": record(before, id="edited", started="2026-01-05"),
        "old task": record(now, id="old task", started="2026-01-06", task_version=0),
        "own text": record(now, id="own text", started="2026-01-07", setting={"data": "mine"}),
        "other model": record(now, id="other model", started="2026-01-08", model="m", status="interrupted"),
    }
    for entries in (data.values(), [row(r) for r in data.values()]):
        found = current(entries, card(now), {"text": 1})
        assert {e.id for e in found.current} == {"latest", "own text", "other model"}
        assert [e.id for e in found.unfinished] == ["broke"]
        assert [e.id for e in found.repeated] == ["first"]
        assert {e.id for e in found.superseded} == {"edited", "old task"}
    assert counts(found) == {"fine-paper": {"holds": 2, "error": 2}}
    assert list(counts(found)["fine-paper"]) == ["holds", "error"]
    gone = current(data.values(), {}, {"text": 1})
    assert len(gone.superseded) == len(data)
    assert counts(current([row(record(check(role="a/a control")))], card(check(role="a/a control")), {"text": 1})) == {}


def test_summary():
    assert summary({"holds": 3}) == "holds"
    assert summary({"holds": 3, "fails": 1}) == "holds 3, fails 1"
    assert summary({}) is None


def test_task_versions_are_read_without_import(tmp_path, monkeypatch):
    monkeypatch.setattr(task_room, "TASKS", tmp_path)
    (tmp_path / "text.py").write_text("import nothing_like_this\nVERSION = 3\n")
    (tmp_path / "bare.py").write_text("x = 1\n")
    assert (task_version("text"), task_version("bare"), task_version("gone")) == (3, None, None)
    found = current([record(task_version=3), record(id="r2", task_version=2)], card(check()))
    assert [e.id for e in found.current] == ["r1"]


def test_publish_and_verify(tmp_path):
    data = [record(), record(check(claim="b"), id="r2", shift=0.0), record(check(claim="c"), id="r3", status="failed")]
    for each in data[:2]:
        append(each, tmp_path)
    file = publish(tmp_path)
    assert set(json.loads(file.read_text())) == {"r1", "r2"}
    append(data[2], tmp_path)
    publish(tmp_path)
    assert published(tmp_path) == {r.id: row(r) for r in data}
    before = file.read_bytes()
    publish(tmp_path, again=True)
    assert file.read_bytes() == before
    assert verify((tmp_path,)) == (3, [])
    assert published(tmp_path / "none") == {}


def test_verify_sees_every_tampering(tmp_path):
    good = record()
    rows = {good.id: row(good)}
    assert problems([good], rows) == []

    def said(found: Record, its: dict[str, Any] = rows) -> str:
        return "\n".join(problems([found], its))

    samples = json.loads(json.dumps(good.arms[0].samples))
    samples["0"]["nll"][3] -= 0.5
    assert "published gain" in said(with_method(good, samples=samples))
    assert "published word" in said(good, {good.id: replace(rows["r1"], word="fails")})
    last_bit = math.nextafter(rows["r1"].low, 1)
    assert "published low" in said(good, {good.id: replace(rows["r1"], low=last_bit)})
    assert "hashes to" in said(replace(good, check=check(margin=0.001)))
    assert "uncommitted" in said(replace(good, dirty=True))
    assert "code hash" in said(replace(good, code_hash=""))
    assert "does not judge" in said(replace(good, metric="kl"))
    assert "not those of its check" in said(replace(good, arms=good.arms[::-1]))
    assert "other seeds" in said(replace(good, seeds=[0, 1]))
    samples["0"]["kl"].pop()
    assert "between 39 and 40" in said(with_method(good, samples=samples))
    assert "no published verdict" in said(good, {})
    assert "id occurs twice" in "\n".join(problems([good, good], rows))
    assert problems([], rows) == ["record r1: a verdict is published, but there is no such record"]


def test_a_broken_published_file_says_which(tmp_path):
    (tmp_path / "verdicts.json").write_text('{"r1": {"word": "holds"}}')
    with pytest.raises(ValueError, match=r"verdicts\.json"):
        published(tmp_path)


def test_published_rows_are_plain_json():
    for found in (record(paired_by="seeds"), with_method(record(), samples={"0": {"nll": [math.nan] * ITEMS}})):
        json.dumps(asdict(row(found)), allow_nan=False)
