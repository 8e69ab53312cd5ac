"""The shrinking task: the space, the reward worked by hand, the cached teacher, a good pick against bad ones."""

from collections.abc import Iterator

import pytest
import torch

from paperlab.kit.searching import Found, Space
from paperlab.tasks import shrink as task


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[task.Setting]:
    """Random pictures of ten kinds in place of the digits; few steps."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(5_000) % 10
    kinds = torch.rand(10, 1, 6, 6, generator=draw)
    images = kinds[labels] + 0.3 * torch.randn(5_000, 1, 6, 6, generator=draw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAPERLAB_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(task, "_digits", lambda: (images, labels, "none"))
        patch.setattr(task, "STEPS", {"teacher": 60, "student": 20, "pick": 60})
        yield task.make(0, "quick")


def found(setting: task.Setting, choice: tuple[float, ...]) -> Found:
    return Found(choice, setting.reward(choice), 1)


def test_the_space_counts_what_the_network_has(setting: task.Setting) -> None:
    for choice in (setting.space.whole, (0.25, 0.0, 0.5, 0.0, 0.0, 1.0)):
        network = setting.student(choice, 0)
        assert sum(parameter.numel() for parameter in network.parameters()) == setting.space.parameters(choice)
    assert setting.space.units((0.25, 0.0, 0.5, 0.0, 0.0, 1.0)) == (48, 96, 192)
    assert setting.space.compression(setting.space.whole) == 0
    assert Space((20,), 4, 2, (0.25, 1.0)).units((0.25,)) == (10,)  # never fewer than the least


def test_the_reward_worked_by_hand() -> None:
    assert task.reward(0.9, 0.8, 0.9) == pytest.approx(0.9 * 1.1 * 0.8 / 0.9)
    assert task.reward(0.0, 0.9, 0.9) == 0


def test_a_student_is_trained_once_and_the_same_way(setting: task.Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = (0.25, 0.0, 0.0, 0.0, 0.0, 0.25)
    state = torch.get_rng_state()
    first = setting.reward(choice)
    assert torch.equal(torch.get_rng_state(), state)
    setting.known.clear()
    assert setting.reward(choice) == first
    monkeypatch.setattr(task, "fit", lambda *_: pytest.fail("trained again"))
    assert setting.reward(choice) == first
    assert task.make(0, "quick").teacher_accuracy == setting.teacher_accuracy


def test_no_image_is_in_two_splits(setting: task.Setting) -> None:
    parts = [
        {image.numpy().tobytes() for image in s.inputs[0]} for s in (setting.train, setting.validation, setting.test)
    ]
    assert [len(part) for part in parts] == [task.TRAIN, task.VALIDATION, task.TEST]
    assert len(set.union(*parts)) == sum(map(len, parts))


def test_a_small_good_network_is_worth_more_than_the_whole_and_an_untrained_one_nothing(
    setting: task.Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = found(setting, (0.25, 0.0, 0.0, 0.0, 0.0, 0.0))
    (good,), (whole,) = task.score(small, setting), task.score(found(setting, setting.space.whole), setting)
    assert good["reward"] > 0.7 > whole["reward"] == 0
    assert good["correct"] > 0.7
    assert good["compression"] == setting.space.compression(small.choice)
    monkeypatch.setitem(task.STEPS, "pick", 0)
    (bad,) = task.score(small, setting)
    assert bad["correct"] < 0.3
    totals = task.totals(small, setting)
    assert (totals["layers"], totals["evaluations"]) == (1, 1)


def test_the_whole_network_is_the_teacher_as_it_is(setting: task.Setting) -> None:
    assert setting.student(setting.space.whole, 5) is setting.teacher
    (whole,) = task.score(found(setting, setting.space.whole), setting)
    assert whole["correct"] == pytest.approx(task.accuracy(setting.teacher, setting.test))


def test_other_data_is_refused() -> None:
    with pytest.raises(ValueError, match="no other model or data"):
        task.make(0, "quick", data="cats")
