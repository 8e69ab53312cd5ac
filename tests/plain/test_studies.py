"""Studies: cards without a verb whose arms name methods that exist, with parameters that those methods take."""

import pytest

from paperlab.core.methods import check_parameters, find_method

STUDIES = ("qwen3-quantization-study", "outliers-calibration-modern-llms")


@pytest.mark.parametrize("slug", STUDIES)
def test_a_study_has_checks_and_no_verb_of_its_own(slug: str) -> None:
    study = find_method(slug)
    assert study.verb is None
    assert study.card.paper == slug
    assert len({check.claim for check in study.card.checks}) == len(study.card.checks) >= 3


@pytest.mark.parametrize("slug", STUDIES)
def test_every_arm_names_a_method_and_its_parameters(slug: str) -> None:
    for check in find_method(slug).card.checks:
        for arm in check.arms:
            method = find_method(arm.method)
            assert method.verb is not None
            check_parameters(method, {name: value for name, value in arm.params.items() if name != "calibration"})


def test_calibration_names_a_text_that_there_is() -> None:
    pytest.importorskip("transformers")
    from paperlab.assets.texts import TEXTS

    named = {arm.params.get("calibration") for check in find_method(STUDIES[1]).card.checks for arm in check.arms}
    assert named - {None, "random"} <= set(TEXTS)
    assert len(named) > 2
