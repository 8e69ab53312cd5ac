"""The task of captions and statements: scenes, words and figures worked out, a good arm against planted bad ones."""

import copy
from types import SimpleNamespace
from typing import Any

import objective_settings
import pytest
import torch
from torch import Tensor

from paperlab.kit.encoder_decoder import Leaving, Rule, Written
from paperlab.kit.training import Split
from paperlab.kit.tuning import Tuned
from paperlab.tasks import caption as task

W = {word: number for number, word in enumerate(task.WORDS)}


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_words_stand_where_their_kinds_begin() -> None:
    assert task.WORDS[task.DIGIT : task.DIGIT + 10][7] == "seven"
    assert task.WORDS[task.THICKNESS : task.THICKNESS + 2] == ("thick", "thin")
    assert task.WORDS[task.PLACE : task.PLACE + 4][2] == "bottom-left"
    assert (task.WORDS[task.YES], task.WORDS[task.NO]) == ("yes", "no")
    assert [task.WORDS[word] for word in task.CAPTION] == ["what", "is", "there"]
    assert len(set(task.WORDS)) == len(task.WORDS)


def test_a_quarter_holds_ink_where_it_holds_a_digit_and_more_where_it_is_thick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "NOISE", (0.0, 0.0))
    digits = Split((torch.zeros(3, 9, 9),), torch.tensor([0, 4, 9]))
    digits.inputs[0][:, 2:7, 4] = 1.0
    images, what, bold = task.scenes(digits, 300, draw())
    assert images.shape == (300, 1, 20, 20)
    quarters = images[:, 0].unfold(1, 10, 10).unfold(2, 10, 10).flatten(1, 2)
    ink = quarters.sum((2, 3))
    assert torch.equal(ink > 0, what >= 0)
    assert set(what.unique().tolist()) == {-1, 0, 4, 9}
    assert set((what >= 0).sum(1).tolist()) == {1, 2, 3}
    assert set(ink[(what >= 0) & ~bold].tolist()) == {5.0}  # a stroke of five pixels, or of six, twice as wide
    assert set(ink[(what >= 0) & bold].tolist()) == {12.0}
    assert len({tuple(quarter.nonzero()[0].tolist()) for quarter in quarters[what >= 0]}) > 4  # moved about


def test_captions_name_each_digit_in_reading_order() -> None:
    what = torch.tensor([[-1, 7, -1, 2], [3, -1, -1, -1], [1, 1, 0, -1]])
    bold = torch.tensor([[False, True, True, False]] * 3)
    wanted = [
        "top-right seven thick bottom-right two thin <end>",
        "top-left three thin <end>",
        "top-left one thin top-right one thick bottom-left zero thick <end>",
    ]
    for found, words in zip(task.captions(what, bold), wanted, strict=True):
        ids = [W[word] for word in words.split()]
        assert found.tolist() == ids + [-100] * (10 - len(ids))


def test_half_of_the_statements_are_true_and_the_others_differ_in_a_word() -> None:
    digits = Split((torch.rand(20, 9, 9, generator=draw()),), torch.arange(20) % 10)
    _, what, bold = task.scenes(digits, 4_000, draw(1))
    words, true = task.statements(what, bold, draw(2))
    told = task.captions(what, bold)
    wrong = []
    for row, statement in enumerate(words.tolist()):
        said = told[row][told[row] > 0].view(-1, 3).tolist()
        assert true[row].item() == (statement in said)
        off = min(([k for k in range(3) if one[k] != statement[k]] for one in said), key=len)
        assert len(off) <= 1
        wrong += off
    assert true.double().mean().item() == pytest.approx(0.5, abs=0.03)
    shares = torch.tensor(wrong).bincount(minlength=3).double() / len(wrong)
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3).double(), atol=0.05, rtol=0)
    for kind, size in ((task.PLACE, 4), (task.DIGIT, 10), (task.THICKNESS, 2)):  # every word of its kind, and no other
        column = {task.PLACE: 0, task.DIGIT: 1, task.THICKNESS: 2}[kind]
        assert set(words[:, column].tolist()) == set(range(kind, kind + size))


def test_words_alone_do_not_say_whether_a_statement_is_true() -> None:
    digits = Split((torch.rand(20, 9, 9, generator=draw()),), torch.arange(20) % 10)
    _, what, bold = task.scenes(digits, 20_000, draw(1))
    words, true = task.statements(what, bold, draw(2))
    for word in words.unique():
        has = (words == word).any(1)
        assert true[has].double().mean().item() == pytest.approx(0.5, abs=0.05)


def test_what_is_taught_is_the_word_behind_each() -> None:
    parts = task.draw_items(Split((torch.rand(6, 9, 9),), torch.arange(6)), 4, 4, draw())
    read, said = task.taught(parts["caption"])
    assert (read[:, 0] == W["<begin>"]).all()
    assert torch.equal(said, parts["caption"].answer)
    there = said[:, 1:] >= 0
    assert torch.equal(read[:, 1:][there], said[:, :-1][there])
    read, said = task.taught(parts["entailment"])
    statement = parts["entailment"]
    assert torch.equal(read[:, 1:4], statement.text)
    assert torch.equal(read[:, 1:4], statement.prompt)
    assert torch.equal(said[:, 3], statement.answer[:, 0])
    assert ((said >= 0).sum(1) == 1).all()
    assert set(said[:, 3].tolist()) <= {task.YES, task.NO}


def test_f1_of_pairs_worked_by_hand() -> None:
    def ids(text: str) -> list[int]:
        words = [W[word] for word in text.split()]
        return words + [0] * (10 - len(words))

    truth = torch.tensor([ids("top-left one thin top-right two thick <end>"), ids("top-left three thin <end>")])
    said = torch.tensor([ids("top-left one thick top-right two thick <end>"), ids("bottom-left three thin <end>")])
    assert task.overlap(truth, truth) == 1
    assert task.overlap(said, truth) == pytest.approx(2 * 3 / 12)  # of six pairs each, three are there in both
    cut = torch.tensor([ids("top-left one"), ids("<end> top-left three thin")])
    assert task.overlap(cut, truth) == 0  # nothing whole is said, and nothing behind the end counts
    twice = torch.tensor([ids("top-left one thin top-left one thin <end>"), ids("<end>")])
    assert task.overlap(twice, truth) == pytest.approx(2 * 2 / 8)


def test_right_is_word_by_word() -> None:
    truth = torch.tensor([[5, 6, 0, -100], [5, 0, -100, -100], [5, 6, 7, 0]])
    assert task.right(torch.tensor([[5, 6, 0, 0], [5, 0, 0, 0], [5, 6, 7, 0]]), truth) == 1
    assert task.right(torch.tensor([[5, 6, 1, 0], [5, 0, 0, 0], [6, 6, 7, 0]]), truth) == pytest.approx(1 / 3)
    assert task.right(torch.tensor([[5], [5], [4]]), truth[:, :1]) == pytest.approx(2 / 3)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two seeds on drawn digits; the network that arms start from is trained for a few steps."""
    digits = torch.rand(200, 9, 9, generator=draw()), torch.arange(200) % 10, "0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAPERLAB_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(task, "_digits", lambda: digits)
        for name in ("START_STEPS", "STEM_STEPS", "CAPTION_STEPS"):
            patch.setattr(task, name, 2)
        yield task.make(0, "quick"), task.make(1, "quick"), task.make(0, "quick")


def test_the_seed_draws_the_digits_and_the_network_and_not_the_test_items(settings: Any) -> None:
    one, two, _ = settings
    for problem in task.PROBLEMS:
        assert torch.equal(one.test[problem].images, two.test[problem].images)
        assert not torch.equal(one.validation[problem].images, two.validation[problem].images)
        assert len(one.test[problem]) == 2_000
    weights = [setting.model.words.weight for setting in settings]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    assert len(one.digits) == 90  # of 200: 80 judge, 30 validate
    about = task.describe(one)
    assert about["test"] == 2_000
    assert 0.5 <= about["chance"]["entailment"] < 0.55
    assert about["chance"]["exact"] < 0.01 < about["chance"]["caption"] < 0.3
    first, same, other = (next(one.batches(seed))[0] for seed in (3, 3, 4))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["images"], other["images"])


class Knows(Leaving):
    """Writes the truth after `right_from` layers of each half, and nothing before; all else is given."""

    def __init__(self, setting: Any, layers: int, right_from: int) -> None:
        super().__init__(setting.model)
        self.setting, self.layers, self.right_from = setting, layers, right_from

    def write(self, images: Tensor, text: Tensor, length: int, problem: str, prompt: Tensor | None = None) -> Written:
        words = self.setting.test[problem].answer[:, :length].clamp(min=0)
        used = torch.where((words != 0).int().cumsum(1) >= torch.arange(length), self.layers, 0)
        said = words if self.layers >= self.right_from else torch.zeros_like(words)
        return Written(said, *(torch.full((len(text),), self.layers),) * 2, used)


def test_a_good_arm_beats_planted_bad_ones_and_times_are_told() -> None:
    setting = objective_settings.captioning()
    found: dict[str, Any] = {}
    for name, (layers, right_from) in {"good": (1, 1), "late": (3, 3), "early": (1, 3)}.items():
        arm = Tuned(Knows(setting, layers, right_from), 1.0)
        (scores,) = task.score(arm, setting)
        found[name] = scores | task.totals(arm, setting)
    for metric in ("caption", "entailment", "exact"):
        assert [found[name][metric] for name in found] == [1, 1, 0]
    for problem in task.PROBLEMS:
        assert [round(found[name][f"time_{problem}"], 6) for name in found] == [
            pytest.approx(1 / 3, abs=1e-6),
            1,
            0.333333,
        ]
        assert found["late"][f"work_{problem}"] == 1
        assert found["good"][f"work_{problem}"] < 0.5
        assert found["late"][f"decoder_layers_{problem}"] == 3
        assert [found[name][f"overtime_{problem}"] for name in found] == [0, 0, 0]
    assert setting.validate(Knows(setting, 3, 3)) == 1


def test_who_takes_more_than_it_was_given_is_told() -> None:
    setting = objective_settings.captioning()
    arm = Knows(setting, 2, 1)
    for given, wanted in ((0.7, 0.0), (2 / 3, 0.0), (0.65, 0.0), (0.6, 2 / 3 / 0.6 - 1.03)):
        arm.times = {"caption": given}
        found = task.totals(Tuned(arm, 1.0), setting)
        assert found["overtime_caption"] == pytest.approx(wanted)
        assert found["overtime_entailment"] == 0


def test_a_network_that_has_no_say_takes_all_layers() -> None:
    setting = objective_settings.captioning()
    totals = task.totals(Tuned(copy.deepcopy(setting.model), 1.0), setting)
    assert totals["time_caption"] == totals["time_entailment"] == totals["work_caption"] == 1
    same = task.totals(Tuned(Leaving(setting.model, {"caption": Rule()}), 1.0), setting)
    assert same["time_caption"] == 1
    assert same["image_layers_caption"] == 3


def test_other_data_is_refused() -> None:
    assert task.items(SimpleNamespace()) == 1  # type: ignore[arg-type]
    for wrong in ({"data": "coco"}, {"model": "x"}):
        with pytest.raises(ValueError, match="no other model or data"):
            task.make(0, "quick", **wrong)
