"""TIES: an independent NumPy version, by hand, the threshold against a sort, gates, folders in shards."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import paperlab
from paperlab.lab import checkpoints
from paperlab.methods.merging import task_arithmetic
from paperlab.methods.merging.ties import merge, smallest_kept

State = dict[str, Tensor]


def states(count: int, seed: int = 0) -> tuple[State, list[State]]:
    """A base and models whose changes differ in size from tensor to tensor."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (7, 5), "a.bias": (5,), "b.weight": (3, 4, 2)}
    base = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    sizes = {"a.weight": 0.1, "a.bias": 1.0, "b.weight": 0.01}
    return base, [
        {name: tensor + sizes[name] * torch.randn(tensor.shape, generator=draw) for name, tensor in base.items()}
        for _ in range(count)
    ]


def by_numpy(base: State, models: list[State], density: float, scale: float) -> np.ndarray:
    """Algorithm 1 on flat vectors, one parameter at a time."""
    flat = [np.concatenate([state[name].numpy().ravel() for name in base]) for state in (base, *models)]
    vectors = [model - flat[0] for model in flat[1:]]
    count = max(int(density * len(flat[0])), 1)
    trimmed = []
    for vector in vectors:
        order = np.argsort(-np.abs(vector), kind="stable")
        kept = np.zeros_like(vector)
        kept[order[:count]] = vector[order[:count]]
        trimmed.append(kept)
    merged = np.zeros_like(flat[0])
    for place in range(len(merged)):
        column = [float(vector[place]) for vector in trimmed]
        sign = 1 if sum(column) >= 0 else -1
        agree = [value for value in column if value * sign > 0]
        merged[place] = np.mean(agree) if agree else 0.0
    return flat[0] + scale * merged


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_is_the_numpy_version(count: int, density: float) -> None:
    base, models = states(count)
    merged = paperlab.load("ties", density=density, scale=0.7)(base, models)
    mine = np.concatenate([merged[name].numpy().ravel() for name in base])
    np.testing.assert_allclose(mine, by_numpy(base, models, density, 0.7), rtol=1e-5, atol=1e-6)


def test_by_hand() -> None:
    base = {"w": torch.zeros(4), "v": torch.zeros(1)}
    models = [
        {"w": torch.tensor([3.0, -2.0, 0.1, 0.2]), "v": torch.tensor([4.0])},
        {"w": torch.tensor([-1.0, -4.0, 0.3, 5.0]), "v": torch.tensor([0.5])},
    ]
    merged = dict(merge(base, models, density=0.6))  # three of five stay: 3, -2, 4 and -1, -4, 5
    assert merged["w"].tolist() == [3.0, -3.0, 0.0, 5.0]  # 3 outweighs -1; -2 and -4 agree; trimmed; 5 alone
    assert merged["v"].tolist() == [4.0]


def test_trimming_is_over_the_whole_model() -> None:
    base, models = states(1)
    merged = paperlab.load("ties", density=0.1)(base, models)  # six of 64: the bias has the large changes
    changed = {name: int((merged[name] != base[name]).sum()) for name in base}
    assert sum(changed.values()) == 6
    assert changed["b.weight"] == 0


@pytest.mark.parametrize("density", [0.001, 0.1, 0.37, 0.999, 1.0])
def test_the_threshold_is_that_of_a_sort(density: float) -> None:
    draw = torch.Generator().manual_seed(3)
    model = {"x": torch.randn(1000, generator=draw), "y": 1e-30 * torch.randn(9, 9, generator=draw)}
    base = {name: torch.zeros_like(tensor) for name, tensor in model.items()}
    ranked = torch.cat([tensor.abs().flatten() for tensor in model.values()]).sort(descending=True).values
    assert smallest_kept(base, model, density) == ranked[max(int(density * 1081), 1) - 1].item()


def test_one_untrimmed_model_is_task_arithmetic() -> None:
    base, models = states(1)
    theirs = dict(task_arithmetic.merge(base, models, scale=0.8))
    for name, tensor in merge(base, models, density=1.0, scale=0.8):
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=0)


def test_counters_are_neither_merged_nor_counted() -> None:
    base, models = states(2)
    plain = paperlab.load("ties")(base, models)
    counted = paperlab.load("ties")(
        {**base, "steps": torch.tensor(0)}, [{**model, "steps": torch.tensor(10**6)} for model in models]
    )
    assert counted["steps"].item() == 0
    assert all(torch.equal(plain[name], counted[name]) for name in base)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5])
def test_a_share_outside_0_to_1_is_refused(density: float) -> None:
    base, models = states(1)
    with pytest.raises(ValueError, match="is a share"):
        paperlab.load("ties", density=density)(base, models)


def test_folders_in_shards_give_what_states_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, models = states(3)
    folders = [tmp_path / name for name in ("base", "one", "two", "three")]
    for folder, state in zip(folders, (base, *models), strict=True):
        folder.mkdir()
        names = sorted(state)
        save_file({name: state[name].bfloat16() for name in names[:1]}, folder / "model-00001-of-00002.safetensors")
        save_file({name: state[name].bfloat16() for name in names[1:]}, folder / "model-00002-of-00002.safetensors")
    (folders[0] / "config.json").write_text("{}")
    monkeypatch.setattr(checkpoints, "SHARD", 80)  # bytes: a shard for each tensor or two
    out = paperlab.load("ties")(folders[0], folders[1:], out=tmp_path / "merged")
    assert out == tmp_path / "merged"
    assert len(list(out.glob("*.safetensors"))) == 2
    assert (out / "config.json").read_text() == "{}"
    rounded = [{name: tensor.bfloat16() for name, tensor in state.items()} for state in (base, *models)]
    wanted = paperlab.load("ties")(rounded[0], rounded[1:])
    written = checkpoints.Folder(out)
    assert set(written) == set(base)
    assert all(torch.equal(written[name], wanted[name]) for name in base)
    assert all(tensor.dtype is torch.bfloat16 for tensor in written.values())


def test_modules_give_a_module_and_are_left_alone() -> None:
    torch.manual_seed(0)
    base, one, two = (torch.nn.Linear(3, 2) for _ in range(3))
    before = [model.weight.clone() for model in (base, one, two)]
    merged = paperlab.load("ties", density=0.5)(base, [one, two])
    wanted = paperlab.load("ties", density=0.5)(base.state_dict(), [one.state_dict(), two.state_dict()])
    assert type(merged) is torch.nn.Linear
    assert torch.equal(merged.weight, wanted["weight"])
    assert all(torch.equal(model.weight, w) for model, w in zip((base, one, two), before, strict=True))
