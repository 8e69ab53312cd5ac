"""Taking turns: a placement that knows against one that does not, shares made comparable, figures by their formulas."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from paperlab.assets.models import ModelError
from paperlab.kit.switching import Rule
from paperlab.tasks import lm_switch as task


@pytest.fixture(scope="module")
def setting() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(task.WINDOWS, "quick", 12)
        for name, value in {"OWN": 2, "OWN_LENGTH": 6}.items():
            patch.setattr(task, name, value)
        yield task.make(0, "quick")


def arm(rule: Rule) -> Any:
    return SimpleNamespace(rule=rule)


def at(places: Tensor) -> Any:
    """Places that are fixed beforehand; two prompts are continued by the small model."""
    return arm(
        lambda entropies, large, _: (
            places[:, large.shape[1]] if len(large) == len(places) else torch.zeros(len(large), dtype=torch.bool)
        )
    )


def figure(setting: task.Setting, judged: Any, metric: str) -> float:
    rows = list(task.score(judged, setting))
    assert len(rows) == task.items(setting) == 12
    how = task.METRICS[metric]
    mean = sum(row[how.of] for row in rows) / len(rows)
    return math.exp(mean) if how.aggregate == "exp_mean" else mean


def coin(setting: task.Setting, share: float, seed: int = 0) -> Tensor:
    return torch.rand(setting.nll[0].shape, generator=torch.Generator().manual_seed(seed)) < share


def test_good_places_are_told_from_bad_ones_whatever_the_share(setting: task.Setting) -> None:
    gain = setting.nll[0] - setting.nll[1]
    for share in (0.25, 0.6):
        best = gain >= gain.flatten().quantile(1 - share)
        worst = gain <= gain.flatten().quantile(share)
        drawn = [figure(setting, at(coin(setting, share, seed)), "perplexity_at_share") for seed in (0, 1)]
        assert drawn == [pytest.approx(1, abs=0.05)] * 2
        assert drawn[0] != drawn[1]
        assert figure(setting, at(best), "perplexity_at_share") < 0.8
        assert figure(setting, at(worst), "perplexity_at_share") > 1.25
        bound = task.totals(at(best), setting)
        assert figure(setting, at(best), "perplexity_at_share") == pytest.approx(bound["bound"])
        assert bound["share"] == pytest.approx(share, abs=0.01)
    more, fewer = (figure(setting, at(coin(setting, share)), "perplexity") for share in (0.9, 0.1))
    assert more < 0.8 * fewer


def test_a_window_s_value_is_its_part_in_the_figure(setting: task.Setting) -> None:
    """Leaving a window out and computing the figure anew is what the jackknife does; both agree to first order."""
    places = coin(setting, 0.3)
    places[:4] = True  # windows with other shares than the rest
    rows = torch.tensor([row["excess"] for row in task.score(at(places), setting)], dtype=torch.float64)

    def log(keep: Tensor) -> float:
        small, large = (nll[keep] for nll in setting.nll)
        share = places[keep].double().mean()
        return (torch.where(places[keep], large, small) - small + share * (small - large).mean()).mean().item()

    every = torch.arange(12)
    assert rows.mean().item() == pytest.approx(log(every))
    jackknife = torch.tensor([12 * log(every) - 11 * log(every[every != out]) for out in range(12)])
    torch.testing.assert_close(rows, jackknife.double(), atol=0.15 * rows.std().item(), rtol=0)


def test_one_model_alone_is_judged_as_by_transformers(setting: task.Setting) -> None:
    for model, places in ((setting.small, torch.zeros), (setting.large, torch.ones)):
        alone = at(places(12, task.LENGTH, dtype=torch.bool))
        labels = setting.held_out.clone()
        labels[:, : task.PROMPT] = -100
        with torch.no_grad():
            out = model(input_ids=setting.held_out, labels=labels)
        assert figure(setting, alone, "perplexity") == pytest.approx(math.exp(out.loss.item()), rel=1e-4)
        assert figure(setting, alone, "perplexity_at_share") == pytest.approx(1)
        found = out.logits[:, task.PROMPT - 1 : -1].argmax(-1) == setting.held_out[:, task.PROMPT :]
        assert figure(setting, alone, "accuracy") == pytest.approx(found.double().mean().item())


def test_the_mixture_is_that_of_probabilities(setting: task.Setting) -> None:
    places = coin(setting, 0.4)
    share = places.double().mean().item()
    small, large = ((-nll).exp() for nll in setting.nll)
    mixed = (share * large + (1 - share) * small).log().mean()
    drawn = share * large.log().mean() + (1 - share) * small.log().mean()
    assert task.totals(at(places), setting)["mixture"] == pytest.approx(math.exp(drawn - mixed))
    alone = task.totals(at(torch.zeros_like(places)), setting)
    assert alone["mixture"] == alone["bound"] == pytest.approx(1)


def test_costs_are_parameters_of_who_writes_and_of_who_reads(setting: task.Setting) -> None:
    size = sum(p.numel() for p in setting.small.parameters()) / sum(p.numel() for p in setting.large.parameters())
    none = task.totals(arm(lambda entropies, large, _: torch.zeros(len(large), dtype=torch.bool)), setting)
    every = task.totals(arm(lambda entropies, large, _: torch.ones(len(large), dtype=torch.bool)), setting)
    assert (none["cost"], none["cost_read"]) == (pytest.approx(size), pytest.approx(size))
    assert (every["cost"], every["cost_read"], every["share_own"]) == (1, pytest.approx(1), 1)
    turns = task.totals(arm(lambda entropies, large, _: torch.full((len(large),), large.shape[1] % 2 == 1)), setting)
    assert turns["cost"] == pytest.approx(0.5 + 0.5 * size)
    read = task.PROMPT + 5 + (task.PROMPT + 4) * size  # of six new tokens the last is the large model's
    assert turns["cost_read"] == pytest.approx(read / (task.PROMPT + 5))
    assert set(task.AXES) <= turns.keys()


def test_what_is_left_of_a_run_is_scored_alike(setting: task.Setting) -> None:
    judged = at(coin(setting, 0.5))
    assert list(task.score(judged, setting, start=9)) == list(task.score(judged, setting))[9:]
    assert task.remake(setting, 4) is setting
    about = task.describe(setting)
    assert about["held_out_windows"] == 12
    assert about["alone"]["large"]["perplexity"] < about["alone"]["small"]["perplexity"]
    with pytest.raises(ModelError, match="no smaller model"):
        task.make(0, "quick", model="smollm2-135m")
