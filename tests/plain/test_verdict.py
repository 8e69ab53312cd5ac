"""Every rule of the verdict on records whose truth is planted; what counts today; the published copy."""

import json
import math
import random
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from paperlab.core import standings, words
from paperlab.core import task as task_room
from paperlab.core.card import Arm, Card, Check, Gate
from paperlab.core.home import BUNDLED
from paperlab.core.methods import Method
from paperlab.core.published import Row, publish, published, row, verdicts_file
from paperlab.core.record import ArmResult, Record, append, from_json, record_files, to_json
from paperlab.core.standings import (
    MIXED,
    adjusted,
    control_ok,
    counts,
    current,
    floors,
    mains,
    outdated,
    summary,
    survives,
)
from paperlab.core.statistics import relative_gain
from paperlab.core.task import Metric, task_version
from paperlab.core.verdict import RULES, WORDS, Verdict, verdict
from paperlab.core.verify import problems, verify

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
        "schema": 1,
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
    assert control_ok(negative, said("holds in direction")) is False
    assert control_ok(negative, said("weaker than claimed")) is False
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
    assert adjusted([row(r) for r in data]) == found
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
    its = mains(found, card(now))["fine-paper"]
    assert counts(its) == {"holds": 2, "error": 1}
    assert list(counts(its)) == ["holds", "error"]
    gone = current(data.values(), {}, {"text": 1})
    assert len(gone.superseded) == len(data)
    control = card(check(role="a/a control"))
    assert mains(current([row(record(check(role="a/a control")))], control, {"text": 1}), control) == {}


def test_the_main_claim_is_the_first():
    question, first, other = check(claim="ours", role="question"), check(), check(claim="another")
    rows_ = [row(record(its, id=its.claim)) for its in (question, first, other)]
    cards = card(question, first, other)
    found = mains(current(rows_, cards, {"text": 1}), cards)
    assert [[r.id for r in its] for its in found.values()] == [[first.claim]]


def test_what_was_read_in_an_abstract_alone_speaks_for_no_paper():
    cards = {
        slug: replace(method, card=replace(method.card, sources=("abstract",)))
        for slug, method in card(check()).items()
    }
    assert mains(current([row(record())], cards, {"text": 1}), cards) == {}


def test_summary():
    one = row(record())
    fails, holds = replace(one, word="fails", model="small"), replace(one, word="holds", model="large")
    assert summary([holds]) == "holds on large"
    assert summary([fails, holds]) == "holds on large; fails on small"
    twice = replace(holds, data="code", scale="full")
    assert summary([holds, twice]) == f"holds on large ({one.data or one.task}, {one.scale}), large (code, full)"
    assert summary([]) is None


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
    publish(tmp_path)
    (file,) = record_files(tmp_path)
    assert set(published(tmp_path)) == {"r1", "r2"}
    append(data[2], tmp_path)
    publish(tmp_path)
    assert published(tmp_path) == {r.id: row(r) for r in data}
    before = verdicts_file(file).read_bytes()
    publish(tmp_path, again=True)
    assert verdicts_file(file).read_bytes() == before
    assert verify((tmp_path,)) == (3, [])
    assert published(tmp_path / "none") == {}


def test_publishing_leaves_other_methods_alone(tmp_path):
    for each in (record(), record(method="other", id="r2")):
        append(each, tmp_path)
    publish(tmp_path)
    fine, other = record_files(tmp_path)
    before = verdicts_file(other).stat()
    append(record(check(claim="b"), id="r3"), tmp_path)
    publish(tmp_path)
    assert set(published(tmp_path)) == {"r1", "r2", "r3"}
    assert verdicts_file(other).stat().st_mtime_ns == before.st_mtime_ns
    assert verdicts_file(fine).stat().st_mtime_ns > before.st_mtime_ns


def test_rows_that_other_rules_judged_are_made_again(tmp_path, monkeypatch):
    append(record(), tmp_path)
    publish(tmp_path)
    (file,) = record_files(tmp_path)
    text = verdicts_file(file).read_text()
    verdicts_file(file).write_text(text.replace('"holds"', '"fails"').replace(f'"rules": {RULES}', '"rules": 0'))
    assert published(tmp_path) == {}
    assert published(tmp_path, refresh=True)["r1"].word == "holds"


def test_verify_reads_the_check_as_it_was_written(tmp_path):
    """Schema 1 spells slugs with "_"; they are read with "-", so the check as read has another hash."""
    old = record(check(baseline=Arm("round_to_nearest", {"bits": 4})))
    file = append(old, tmp_path)
    (found,) = [from_json(line) for line in file.read_text().splitlines()]
    assert found.check.baseline.method == "round-to-nearest"
    assert found.check_hash == old.check.hash != found.check.hash
    publish(tmp_path)
    assert verify((tmp_path,)) == (1, [])
    assert published(tmp_path)["r1"].check_hash == found.check.hash


def test_verify_sees_every_tampering():
    good = record()
    published_row = row(good)
    assert problems(good, published_row) == []

    def told(found: Record, its: Any = published_row) -> str:
        return "\n".join(problems(found, its))

    samples = json.loads(json.dumps(good.arms[0].samples))
    samples["0"]["nll"][3] -= 0.5
    assert "published gain" in told(with_method(good, samples=samples))
    assert "published word" in told(good, replace(published_row, word="fails"))
    last_bit = math.nextafter(published_row.low, 1)
    assert "published low" in told(good, replace(published_row, low=last_bit))
    assert "hashes to" in told(replace(good, check=check(margin=0.001)))
    assert "uncommitted" in told(replace(good, dirty=True))
    assert "code hash" in told(replace(good, code_hash=""))
    assert "does not judge" in told(replace(good, metric="kl"))
    assert "not those of its check" in told(replace(good, arms=good.arms[::-1]))
    assert "other seeds" in told(replace(good, seeds=[0, 1]))
    assert "which code made it" in told(replace(good, schema=2))
    samples["0"]["kl"].pop()
    assert "between 39 and 40" in told(with_method(good, samples=samples))
    assert "no published verdict" in told(good, None)


def test_verify_sees_what_a_file_lacks(tmp_path):
    file = append(record(), tmp_path)
    publish(tmp_path)
    line = file.read_text()
    file.write_text(line + line)
    assert "id occurs twice" in "\n".join(verify((tmp_path,))[1])
    file.write_text(line.replace('"r1"', '"r9"'))
    told = "\n".join(verify((tmp_path,))[1])
    assert "no published verdict" in told
    assert "record r1: a verdict is published, but there is no such record" in told
    file.write_text(line.replace('"margin": 0.02', '"margin": 0.01'))
    assert "hashes to" in "\n".join(verify((tmp_path,))[1])
    file.write_text("{}\n")
    assert "not a record" in "\n".join(verify((tmp_path,))[1])


def test_verify_by_several_processes(tmp_path):
    for i in range(70):
        append(record(method=f"m{i % 3}", id=f"r{i}", noise=0.0), tmp_path)
    publish(tmp_path)
    first = next(iter(record_files(tmp_path)))
    verdicts_file(first).write_text(verdicts_file(first).read_text().replace('"holds"', '"fails"', 1))
    count, found = verify((tmp_path,), processes=2)
    assert count == 70
    assert len(found) == 1
    assert "published word" in found[0]


def test_the_bundled_records_verify():
    """Every published verdict of the package follows from its samples; most are of schema 1 and never change."""
    count, found = verify((BUNDLED / "records",))
    assert count >= 130
    assert found == []


def test_a_broken_published_file_says_which(tmp_path):
    file = append(record(), tmp_path)
    verdicts_file(file).write_text(f'{{"form": 1, "rules": {RULES}, "sources": [], "rows": [{{"word": "holds"}}]}}')
    with pytest.raises(ValueError, match=r"fine\.verdicts\.json"):
        published(tmp_path)


def test_published_rows_are_plain_json():
    for found in (record(paired_by="seeds"), with_method(record(), samples={"0": {"nll": [math.nan] * ITEMS}})):
        json.dumps(asdict(row(found)), allow_nan=False)


# The second protocol


def second(
    of: Check | None = None, shift: float = -0.05, *, drawn: float = 0.0, seeds: int = 1, **fields: Any
) -> Record:
    """A record of schema 2. drawn: how much each draw moves the method, in nats; the baseline draws nothing."""
    of = of or check()
    numbers = list(range(seeds))
    rng = random.Random(3)
    base = [rng.gauss(3, 0.4) for _ in range(ITEMS)]
    damage = [rng.gauss(0, 0.01) for _ in range(ITEMS)]
    middle = sum(damage) / ITEMS
    moved = [rng.gauss(0, drawn) for _ in numbers]
    shifts = {str(of.method): shift, str(of.baseline): 0.0, **fields.pop("shifts", {})}
    found = []
    for one in of.arms:
        mine = numbers if one == of.method and drawn else numbers[:1]
        samples = {
            str(seed): {
                "nll": [
                    b + shifts.get(str(one), 0.0) + (moved[seed] + d - middle if one == of.method else 0.0)
                    for b, d in zip(base, damage, strict=True)
                ]
            }
            for seed in mine
        }
        result = arm(one, 0.0, 0.0, [0], samples=samples, drawn=bool(one == of.method and drawn), params=one.params)
        found.append(replace(result, sources={"kit/rounding.py": "0" * 12}))
    return record(of, arms=found, seeds=numbers, **{"schema": 2, **fields})


@pytest.mark.parametrize(
    ("expect", "margin", "shift", "word"),
    [
        ("lower", 0.02, -0.05, "holds"),
        ("lower", 0.10, -0.05, "weaker than claimed"),
        ("lower", 0.0488, -0.05, "holds in direction"),  # straddles the margin
        ("lower", 0.0, -0.01, "weaker than claimed"),  # 2 % is the least margin
        ("lower", 0.02, 0.05, "fails"),
        ("lower", 0.02, 0.0, "undecided"),
        ("equal", 0.01, 0.001, "holds"),
        ("equal", 0.02, -0.05, "fails"),
    ],
)
def test_words_of_the_second_protocol(expect, margin, shift, word):
    found = verdict(second(check(expect=expect, margin=margin), shift))
    assert found.word == word
    assert found.margin == max(margin, 0.02 if expect == "lower" else 0.0)
    assert ("the least that counts" in found.reason) == (margin == 0.0)


def test_controls_keep_their_margin():
    control = check(role="negative control", margin=0.0)
    assert verdict(second(control, -0.01)).word == "holds"
    assert verdict(second(check(margin=0.0), -0.01)).word == "weaker than claimed"


def test_what_is_drawn_is_sampled():
    fixed = verdict(second())
    steady = verdict(second(drawn=0.001, seeds=5))
    wild = verdict(second(drawn=0.1, seeds=5))
    assert (fixed.draws, steady.draws, wild.draws) == (1, 5, 5)
    assert (fixed.word, steady.word, wild.word) == ("holds", "holds", "undecided")
    assert "under 5 draws" in wild.reason
    assert wild.n == ITEMS
    assert wild.minimum_effect > 0.05 > fixed.minimum_effect
    assert steady.p_beyond < 0.05 < wild.p_beyond


def test_samples_are_judged_as_they_are_stored(tmp_path):
    made = second(drawn=0.01, seeds=3)
    again = from_json(to_json(made))
    assert again == made
    assert verdict(again) == verdict(made)
    line = json.loads(to_json(made))
    values = line["arms"][0]["samples"]["0"]["nll"]
    assert isinstance(values, str)
    assert len(values) == 4 * math.ceil(4 * ITEMS / 3)
    append(made, tmp_path)
    publish(tmp_path)
    assert verify((tmp_path,)) == (1, [])


def test_values_that_are_no_numbers_survive_the_trip():
    lost = {"0": {"nll": [math.nan, math.inf, -math.inf, 1e39] * 10}}
    found = from_json(to_json(with_method(second(), samples=lost))).arms[0].samples["0"]["nll"]
    assert [str(x) for x in found[:4]] == ["nan", "inf", "-inf", "inf"]


def test_an_arm_that_draws_nothing_has_one_seed():
    made = second(drawn=0.01, seeds=3)
    assert list(made.arms[1].samples) == ["0"]
    assert problems(made, row(made)) == []
    two = with_method(made, samples={seed: made.arms[0].samples[seed] for seed in ("0", "1")})
    assert "other seeds" in "\n".join(problems(two, row(two)))
    assert verdict(two).word == "not comparable"


@pytest.mark.parametrize("shift", [-0.05, 0.05])
def test_below_its_least_scale_a_check_gives_figures_and_no_verdict(shift: float):
    made = second(shift=shift)
    word = {-0.05: "holds", 0.05: "fails"}[shift]
    late = replace(made, check=replace(made.check, least_scale="full"))
    found = verdict(replace(late, scale="quick"))
    assert found.word == "undecided"
    assert "Judged from full scale on" in found.reason
    assert found.gain == verdict(made).gain
    assert [verdict(replace(late, scale=scale)).word for scale in ("full", "gpu")] == [word, word]
    assert late.check.hash != made.check.hash == replace(made.check, least_scale="").hash
    assert from_json(to_json(late)).check == late.check


def test_from_an_abstract_nothing_fails():
    assert verdict(second(shift=0.05, card_sources=("paper",))).word == "fails"
    found = verdict(second(shift=0.05, card_sources=("abstract",)))
    assert found.word == "undecided"
    assert "Only the abstract was read" in found.reason
    assert verdict(second(card_sources=("abstract",))).word == "holds"
    lost = {"0": {"nll": [math.nan] * ITEMS}}
    assert verdict(with_method(second(card_sources=("abstract",)), samples=lost)).word == "undecided"


TRIVIAL = Arm("nothing", {})


def test_a_method_worse_than_the_trivial_arm_is_likely_ours():
    of = check(trivial=TRIVIAL)
    ours = verdict(second(of, 0.5, shifts={"nothing": 0.1}))
    assert (ours.word, ours.likely_ours) == ("fails", True)
    assert "the fault is likely ours" in ours.reason
    theirs = verdict(second(of, 0.05, shifts={"nothing": 0.1}))
    assert (theirs.word, theirs.likely_ours) == ("fails", False)
    harm = check(expect="higher", trivial=TRIVIAL)  # a claim that something hurts: worse is what it expects
    assert verdict(second(harm, 0.5)).likely_ours is False


def test_a_check_that_its_trivial_arm_passes_cannot_tell():
    of = check(trivial=TRIVIAL)
    found = verdict(second(of, -0.05, shifts={"nothing": -0.06}))
    assert found.word == "not comparable"
    assert "passes this check too" in found.reason
    assert verdict(second(of, -0.05, shifts={"nothing": -0.01})).word == "holds"
    equal = check(expect="equal", trivial=TRIVIAL)
    assert verdict(second(equal, 0.0, shifts={"nothing": 0.001})).word == "not comparable"
    assert verdict(second(equal, 0.0, shifts={"nothing": 0.5})).word == "holds"


def test_two_broken_arms_are_not_compared():
    of = check(beside=(Arm("original"),))
    found = verdict(second(of, -0.05, shifts={"original": -2.0}))
    assert found.word == "not comparable"
    assert "7.0 times the original's perplexity" in found.reason
    assert found.original_value == pytest.approx(found.baseline_value / math.exp(2), rel=1e-6)
    assert verdict(second(of, -1.0, shifts={"original": -2.0})).word == "holds"  # the better one still works
    chance = second(check(metric="accuracy", expect="higher"), setting={"chance": {"accuracy": 0.5}})
    guesses = {"0": {"right": [1.0] * 21 + [0.0] * 19}}
    chance = with_baseline(with_method(chance, samples=guesses), samples=guesses)
    assert "near chance" in verdict(chance).reason


@pytest.mark.parametrize(
    ("gate", "word"),
    [
        (Gate("no steps is its start", Arm("fine", {"steps": 0}), Arm("start")), "not implemented faithfully here"),
        (Gate("no steps is its start", Arm("fine", {"steps": 0}), Arm("start"), tolerance=0.2), "holds"),
        (Gate("steps help", Arm("fine", {"bits": 4}), Arm("fine", {"steps": 0}), "better"), "holds"),
        (Gate("steps help", Arm("start"), Arm("fine", {"bits": 4}), "better"), "not implemented faithfully here"),
    ],
)
def test_gates(gate, word):
    of = check(gates=(gate,))
    made = second(of, -0.05, shifts={"fine(steps=0)": 0.2, "start": 0.1})
    found = verdict(made)
    assert found.word == word
    assert (gate.says in found.reason) == (word != "holds")
    last = made.arms[-1]
    assert verdict(replace(made, arms=[*made.arms[:-1], replace(last, error="lost", samples={})])).word == "error"


def rows_of(*records: Record) -> list[Row]:
    return [row(one) for one in records]


def test_runs_that_disagree_are_mixed():
    of = check()
    runs = [
        second(of, shift, id=name, started=f"2026-01-0{day}", machine=name)
        for day, (name, shift) in enumerate((("a", -0.05), ("b", 0.05), ("c", -0.05)), 1)
    ]
    (now,) = current(rows_of(*runs), card(of), {"text": 1}).current
    assert now.word == MIXED
    assert "3 finished runs disagree: holds (2), fails (1)" in now.reason
    alike = current(rows_of(runs[0], runs[2]), card(of), {"text": 1})
    assert [r.word for r in alike.current] == ["holds"]
    assert len(alike.repeated) == 1
    assert counts(mains(current(rows_of(*runs), card(of), {"text": 1}), card(of))["fine-paper"]) == {MIXED: 1}


def test_draws_are_pooled():
    """A larger run of the same code on the same machine has the draws of a smaller one."""
    of = check()
    few = second(of, drawn=0.1, seeds=3, id="few", started="2026-01-02")
    more = second(of, drawn=0.01, seeds=5, id="more", started="2026-01-01")
    assert [verdict(run).word for run in (few, more)] == ["undecided", "holds"]
    (now,) = current(rows_of(few, more), card(of), {"text": 1}).current
    assert (now.id, now.word) == ("more", "holds")
    (now,) = current(rows_of(replace(few, machine="elsewhere"), more), card(of), {"text": 1}).current
    assert now.word == MIXED


def test_other_data_under_the_same_name_is_another_question():
    of = check()
    runs = [
        second(of, shift, id=sha, setting={"data": {"id": "mine.txt", "sha256": sha}})
        for sha, shift in (("aa", -0.05), ("bb", 0.05))
    ]
    assert [r.word for r in current(rows_of(*runs), card(of), {"text": 1}).current] == ["holds", "fails"]


def test_gains_below_the_floor_of_a_control_are_undecided():
    of, same = check(), check(claim="same", role="a/a control", margin=0.0, method=Arm("rounding", {"bits": 4}))
    claim = row(second(of, -0.05, id="claim"))
    control = replace(row(second(same, 0.0, id="control")), gain=0.0, low=-0.03, high=0.08)
    known = card(of, same)
    assert floors([claim, control], known) == {("quantization", "text", "small-lm", "quick", "perplexity", False): 0.08}
    found = {r.id: r for r in current([claim, control], known, {"text": 1}).current}
    assert found["claim"].word == "undecided"
    assert "A configuration differs from itself by up to 8.00 %" in found["claim"].reason
    low = {r.id: r for r in current([claim, replace(control, high=0.01)], known, {"text": 1}).current}
    assert low["claim"].word == "holds"
    other = {r.id: r for r in current([claim, replace(control, model="big")], known, {"text": 1}).current}
    assert other["claim"].word == "holds"
    drawn = {r.id: r for r in current([claim, replace(control, draws=5)], known, {"text": 1}).current}
    assert drawn["claim"].word == "holds"  # nothing is drawn for the claim's arms
    both = {r.id: r for r in current([replace(r, draws=5) for r in (claim, control)], known, {"text": 1}).current}
    assert both["claim"].word == "undecided"


def test_holm_is_over_all_models_of_a_paper_and_changes_the_word():
    of = [check(claim=f"c{i}", margin=0.0425) for i in range(8)]
    rows = [row(second(c, -0.05, id=c.claim, model=f"m{i}")) for i, c in enumerate(of)]
    assert all(r.word == "holds" for r in rows)
    weak = replace(rows[0], p_beyond=0.02)
    found = adjusted([weak, *rows[1:]])
    assert found["c0"] == 0.02  # the others are surer, so it is the last of eight
    assert adjusted([replace(r, p_beyond=0.02) for r in rows])["c0"] == 0.16
    known = card(*of)
    assert {r.word for r in current(rows, known, {"text": 1}).current} == {"holds"}
    many = current([replace(r, p_beyond=0.02) for r in rows], known, {"text": 1}).current
    assert {r.word for r in many} == {"holds in direction"}
    assert "p = 0.16 (Holm)" in many[0].reason
    first = [replace(r, schema=1, p=0.02) for r in rows]
    assert {r.word for r in current(first, known, {"text": 1}).current} == {"holds"}  # by the rules of its time


# Outdated


def test_what_outdates_a_verdict(monkeypatch):
    of = check()
    now = {"kit/rounding.py": "0" * 12}
    monkeypatch.setattr(standings, "_check_sources", lambda check, task: now)
    monkeypatch.setattr(standings, "filled", lambda arm: arm)
    monkeypatch.setattr(standings, "frozen_data", lambda: {"essays": "ab", "queries-200": "cd"})
    standings.forget_code()
    fresh = row(second(of))
    assert outdated(fresh, of) == ()
    assert outdated(row(record(of)), of) == (standings.UNKNOWN_SOURCES,)
    now["kit/rounding.py"] = "1" * 12
    now["tasks/text.py"] = "2" * 12
    assert outdated(fresh, of) == ("kit/rounding.py changed", "tasks/text.py changed")
    assert words.outdated(outdated(fresh, of)[:1]) == "outdated: kit/rounding.py changed since"
    assert words.outdated(outdated(fresh, of)) == "outdated: kit/rounding.py changed and 1 more"
    now.clear()
    now["kit/rounding.py"] = "0" * 12
    setting = {"data": {"id": "essays", "sha256": "old"}, "queries": 200, "queries_sha256": "cd"}
    assert outdated(row(second(of, setting=setting)), of) == ("the data essays changed",)
    monkeypatch.setattr(standings, "filled", lambda arm: Arm(arm.method, {"group": 32, **arm.params}))
    standings.forget_code()
    assert outdated(fresh, of) == ("the default of group of fine changed", "the default of group of rounding changed")
    standings.forget_code()


def test_runs_that_are_not_outdated_come_first(monkeypatch):
    of = check()
    monkeypatch.setattr(standings, "outdated", lambda entry, check: ("x changed",) if entry.id == "late" else ())
    runs = [second(of, 0.05, id="early", started="2026-01-01"), second(of, -0.05, id="late", started="2026-01-02")]
    found = current(rows_of(*runs), card(of), {"text": 1})
    assert [r.id for r in found.current] == ["early"]
    assert [r.id for r in found.repeated] == ["late"]


@pytest.mark.parametrize(
    ("shift", "word"),
    [(0.0, "holds"), (-0.2, "holds"), (0.01, "holds"), (0.1, "fails"), (0.05, "undecided")],
)
def test_no_worse_asks_one_way_only(shift: float, word: str) -> None:
    """Non-inferiority: an arm that is better than the margin allows is no worse."""
    found = verdict(second(check(expect="no worse", margin=0.05), shift))
    assert found.word == word
    same = verdict(second(check(expect="equal", margin=0.05), shift))
    assert same.word == ("fails" if shift == -0.2 else word)
    assert found.p is not None
    assert same.p is not None
    assert found.p <= same.p
    assert (found.p < 0.05) is (word == "holds")


def test_no_worse_beside_scipy() -> None:
    """One-sided p on few items, where the interval is Student's: scipy's paired test against the bound."""
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(3)
    ours = [1.0 + draw.gauss(0.01, 0.05) for _ in range(12)]
    theirs = [1.0 for _ in ours]
    found = relative_gain(ours, theirs, expect="lower", level=0.9, equivalence=0.05, no_worse=True)
    # all theirs are 1, so the ratio is the mean; on the log scale its error is the mean's over the mean
    mean, error = statistics.fmean(ours), statistics.stdev(ours) / math.sqrt(len(ours))
    expected = stats.t.cdf((math.log(mean) - math.log(1.05)) / (error / mean), len(ours) - 1)
    assert found.p == pytest.approx(expected, rel=1e-6)
