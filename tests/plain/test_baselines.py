"""Plain baselines: a claim is judged against the strongest of their variants."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from paperlab.core.baselines import VARIANTS, with_rivals
from paperlab.core.card import Arm, Check, check_from, plain
from paperlab.core.figures import arm_figures, baseline_index
from paperlab.core.methods import methods
from paperlab.core.record import Record, from_json, to_json
from paperlab.core.verdict import verdict
from paperlab.core.words import check_sentence
from paperlab.lab.run import with_params

SPEC = importlib.util.spec_from_file_location("records", Path(__file__).with_name("records.py"))
assert SPEC
assert SPEC.loader
SPEC.loader.exec_module(synthetic := importlib.util.module_from_spec(SPEC))
check, record = synthetic.check, synthetic.record

NAIVE = check(baseline=Arm("round-to-nearest", bits=4), beside=(Arm("original"),))
HELD = with_rivals(NAIVE)
SYMMETRIC = Arm("round-to-nearest", bits=4, symmetric=True)


def made(ours: float, plainly: float, symmetric: float, held: Check = HELD) -> Record:
    losses = {"easyquant": ours, "round-to-nearest(bits=4)": plainly, str(SYMMETRIC): symmetric, "original": 3.0}
    found = record(held, losses)
    level = [replace(arm, totals={**arm.totals, "bits_per_weight": 4.25}) for arm in found.arms]
    return replace(found, arms=level, schema=2)


def test_the_table_gives_a_claim_its_rivals() -> None:
    assert HELD.rivals == (SYMMETRIC,)
    assert HELD.arms == (NAIVE.method, NAIVE.baseline, SYMMETRIC, Arm("original"))
    assert with_rivals(HELD) == HELD  # once is enough
    assert HELD.hash != NAIVE.hash
    assert with_rivals(replace(NAIVE, baseline=SYMMETRIC)).rivals == (Arm("round-to-nearest", bits=4, symmetric=False),)
    assert check_from(plain(HELD)) == HELD


@pytest.mark.parametrize(
    "other",
    [
        replace(NAIVE, expect="equal"),
        replace(NAIVE, role="positive control"),
        replace(NAIVE, baseline=Arm("nf4")),
    ],
)
def test_controls_equivalences_and_other_baselines_have_none(other: Check) -> None:
    assert with_rivals(other) == other


def test_a_method_is_no_rival_of_itself() -> None:
    own = replace(NAIVE, method=Arm("gptq", bits=4, act_order=True), baseline=Arm("gptq", bits=4))
    assert with_rivals(own).rivals == ()


def test_the_first_variant_is_the_method_s_default() -> None:
    for slug, variants in VARIANTS.items():
        defaults = {parameter.name: parameter.default for parameter in methods()[slug].parameters}
        assert variants[0].items() <= defaults.items()


def test_the_strongest_variant_is_the_baseline() -> None:
    wins, loses = made(3.2, 3.4, 3.5), made(3.2, 3.4, 3.1)
    assert (baseline_index(wins), baseline_index(loses)) == (1, 2)
    assert verdict(wins).word == "holds"
    found = verdict(loses)
    assert found.word == "fails"
    assert "symmetric=True) (the strongest of 2 variants)" in found.reason
    assert found.baseline_value == pytest.approx(arm_figures(loses)[2].value("perplexity").value)
    assert [arm.role for arm in arm_figures(loses)] == ["method", "other", "baseline", "other"]
    assert verdict(from_json(to_json(loses))) == found
    higher = replace(loses, check=replace(HELD, expect="higher"))  # a claim of harm: the most harmed is the strongest
    assert baseline_index(higher) == 1


def test_a_rival_that_broke_or_is_larger_is_none() -> None:
    found = made(3.2, 3.4, 3.1)
    method, base, rival, original = found.arms
    broke = replace(rival, samples={}, totals={}, error="MemoryError")
    larger = replace(rival, totals={**rival.totals, "bits_per_weight": 5.0})
    for other in (broke, larger):
        assert baseline_index(replace(found, arms=[method, base, other, original])) == 1


def test_the_check_says_it_in_a_sentence() -> None:
    assert "the strongest of round-to-nearest(bits=4), round-to-nearest(bits=4, symmetric=True)" in check_sentence(
        HELD, "perplexity"
    )


def test_a_parameter_of_the_user_s_changes_every_arm_that_shares_it(tmp_path: Path) -> None:
    changed = with_params(with_rivals(replace(NAIVE, trivial=Arm("round-to-nearest", bits=2))), {"bits": 3})
    assert changed.method.params["bits"] == 3
    assert changed.baseline == Arm("round-to-nearest", bits=3)
    assert changed.rivals == (Arm("round-to-nearest", bits=3, symmetric=True),)
    assert changed.trivial == Arm("round-to-nearest", bits=2)  # it had another value: that is its point
    steps = check(method=Arm("easyquant", bits=4), baseline=Arm("easyquant", bits=4, steps=0))
    assert with_params(steps, {"steps": 50}).baseline == steps.baseline
    assert with_params(steps, {}) is steps


@pytest.mark.parametrize(
    ("ours", "baseline", "original", "word"),
    [
        (3.299, 3.3, 3.295, "not comparable"),  # half a per cent from the original: nothing could gain 2 %
        (3.25, 3.3, 3.295, "holds"),  # beyond the original all the same
        (3.4, 3.3, 3.295, "fails"),
        (3.299, 3.3, 3.2, "undecided"),
    ],
)
def test_a_baseline_as_good_as_the_original_leaves_no_room(
    ours: float, baseline: float, original: float, word: str
) -> None:
    losses = {"easyquant": ours, "round-to-nearest": baseline, "original": original}
    found = verdict(replace(record(replace(NAIVE, equal={}), losses), schema=2))
    assert found.word == word
    assert ("no room for a gain" in found.reason) is (word == "not comparable")
    assert found.gain is not None
