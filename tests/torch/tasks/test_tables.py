"""The click task: its rows, its figure, a good arm against a planted bad one, files, and what is refused."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.tuning import cross_entropy, fit
from paperlab.tasks import tables as task


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> task.Setting:
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path))
    for name, value in {"EPOCHS": 1, "BASE_RATES": (1e-2,), "TUNING_EPOCHS": 1}.items():
        monkeypatch.setattr(task, name, value)
    monkeypatch.setitem(task.ROWS, "quick", 12_000)
    return task.make(0, "quick")


def as_it_is(model: nn.Module) -> Compressed:
    return Compressed(model, {}, count_weights(model))


def test_gini_by_hand() -> None:
    labels = torch.tensor([1, 0, 1, 0])
    assert task.gini(torch.tensor([4.0, 3, 2, 1]), labels) == 0.5  # 3 of 4 pairs in order: AUC .75
    assert task.gini(torch.tensor([2.0, 1, 2, 1]), labels) == 1
    assert task.gini(torch.zeros(4), labels) == 0  # all tied
    assert task.gini(torch.tensor([1.0, 2, 1, 2]), labels) == -1


def test_the_pair_term_is_the_sum_of_all_pairs() -> None:
    torch.manual_seed(0)
    model = task.DeepFM((5, 6, 7))
    nn.init.zeros_(model.output.weight)
    nn.init.zeros_(model.output.bias)
    ids = torch.tensor([[1, 2, 3], [0, 5, 6]])
    v = [[table(ids[n, f]) for f, table in enumerate(model.tables)] for n in range(2)]
    w = [sum(table(ids[n, f])[0] for f, table in enumerate(model.single)) for n in range(2)]
    wanted = torch.stack([w[n] + v[n][0] @ v[n][1] + v[n][0] @ v[n][2] + v[n][1] @ v[n][2] for n in range(2)])
    torch.testing.assert_close(model(ids)[:, 1], wanted)
    assert not model(ids)[:, 0].any()


def test_a_good_arm_beats_planted_bad_ones(setting: task.Setting) -> None:
    good = next(task.score(as_it_is(setting.model), setting))
    assert good["gini"] > 0.1
    for seed, part in enumerate(("tables", "all")):
        broken = copy.deepcopy(setting.model)
        torch.manual_seed(seed)
        for name, parameter in broken.named_parameters():
            if part == "all" or name.startswith(part):
                nn.init.normal_(parameter, std=0.1)
        assert next(task.score(as_it_is(broken), setting))["gini"] < good["gini"] - 0.05


def test_what_is_drawn_by_a_seed(setting: task.Setting) -> None:
    other = task.make(1, "quick")
    assert not torch.equal(setting.test.ids, other.test.ids)
    assert not torch.equal(setting.validation.ids, other.validation.ids)
    assert not torch.equal(*(one.model.get_parameter("output.weight") for one in (setting, other)))
    assert task.describe(setting)["data"] == task.describe(other)["data"]
    again = task.make(0, "quick").model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in setting.model.state_dict().items())
    assert torch.equal(task.draw(6000).ids[:5000], task.draw(5000).ids)
    assert not torch.equal(task.draw(5000, 2).labels, task.draw(5000).labels)


def test_training_further_lowers_its_loss(setting: task.Setting) -> None:
    model = copy.deepcopy(setting.model)
    rows = {"ids": setting.train.ids}
    before = cross_entropy(model(**rows), setting.train.labels)
    fit(model, setting, cross_entropy, rate=1e-3, seed=0, asks=("student", "labels"))
    assert cross_entropy(model(**rows), setting.train.labels) < before


def test_a_file_of_clicks(tmp_path: Path) -> None:
    file = tmp_path / "clicks.csv"
    lines = [f"{n % 2},{'ab'[n % 2]},{n % 7},only{n}" for n in range(1400)]
    file.write_text("\n".join(["click,page,hour,user", *lines]))
    name, rows = task.read(file)
    assert (name, rows.ids.shape, int(rows.labels.sum())) == ("clicks.csv", (1400, 3), 700)
    assert rows.ids[:2].tolist() == [[1, 1, 0], [2, 2, 0]]  # sorted values from 1 on; a value that comes once is 0
    file.write_text("\n".join(["click,page", *(f"{n},a" for n in range(1400))]))
    with pytest.raises(ValueError, match="the first of them 0 or 1"):
        task.read(file)
    with pytest.raises(ValueError, match="cannot be read"):
        task.read(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="not --model"):
        task.make(0, "quick", model="x")
