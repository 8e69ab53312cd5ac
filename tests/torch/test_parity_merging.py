"""Merging beside mergekit 0.1.5: its results on one tensor, made by calling its methods as `mergekit-yaml` does.

    from mergekit.merge_methods.base import TensorGroup
    from mergekit.merge_methods.registry import registered_methods
    (method,) = (m for m in registered_methods() if getattr(m, "method_name", "") == NAME)
    torch.manual_seed(3)
    method.merge_group(TensorGroup.from_tensors([BASE, *MODELS], base_index=0), weight={1: W1, 2: W2, 3: W3},
        density={1: D, 2: D, 3: D}, rescale=False, int8_mask=False, normalize=..., **{"lambda": L})

On one tensor, as mergekit trims each by itself and TIES as published all together. Its DARE enlarges to the old sum of
magnitudes by default (rescale); without that and with lambda = 1 / density it is the paper's.
"""

import pytest
import torch

import paperlab
from paperlab.methods.merging import dare_super_mario

BASE = [-0.1468, 0.7861, 0.9468, -1.1143, 1.6908, -0.8948, -0.3556, 1.2324, 0.1382, -1.6822, 0.3177, 0.1328]
MODELS = [
    [-0.1331, 0.8102, 1.0864, -0.9796, 1.9346, -0.8746, -0.1106, 1.4349, 0.3161, -1.774, 0.2719, 0.0604],
    [-0.0188, 0.6867, 1.1283, -1.1746, 1.8523, -0.7018, -0.3979, 1.2241, 0.0398, -1.8071, 0.2989, 0.1611],
    [-0.1337, 0.8192, 0.9391, -1.2066, 1.5014, -0.7943, -0.4251, 1.323, 0.1489, -1.6209, 0.3506, 0.0452],
]
# What its random sparsification kept of each model at density 0.5 after torch.manual_seed(3).
KEPT = [
    [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0],
    [1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 1],
    [1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1],
]
TASK_ARITHMETIC = [
    (
        "",
        [
            -0.08488,
            0.76922,
            1.07216,
            -1.12146,
            1.77716,
            -0.76932,
            -0.30232,
            1.34632,
            0.17428,
            -1.74436,
            0.30502,
            0.08012,
        ],
    ),
    (
        "1,0.5,2",
        [
            -0.10524,
            0.80234,
            1.03278,
            -1.14632,
            1.6691,
            -0.76772,
            -0.32166,
            1.38422,
            0.19824,
            -1.69486,
            0.32194,
            0.03942,
        ],
    ),
]  # lambda 0.4
TIES = [
    (
        "",
        1.0,
        [-0.0188, 0.6867, 1.10735, -0.9796, 1.89345, -0.74805, -0.1106, 1.37895, 0.3161, -1.8071, 0.3177, 0.0452],
    ),
    (
        "1 0.5 2",
        0.7,
        [-0.0572, 0.71652, 1.054297, -1.17891, 1.55822, -0.8115, -0.1841, 1.32193, 0.26273, -1.76963, 0.3177, 0.07148],
    ),
]  # density 0.5
DARE = [
    ("sum", "", [0.1628, 0.7017, 1.5736, -0.9655, 2.1226, -0.6534, -0.4946, 1.2324, 0.1596, -1.8094, 0.2919, 0.0142]),
    (
        "ties",
        "1,0.5,2",
        [-0.087429, 0.8463, 1.253933, -0.8449, 1.312, -0.747333, -0.4946, 1.2324, 0.1596, -1.5596, 0.3835, -0.0424],
    ),
]  # density 0.5, lambda 2: dare_linear, and dare_ties with normalize


def merged(slug: str, **params: object) -> torch.Tensor:
    models = [{"w": torch.tensor(model)} for model in MODELS]
    return paperlab.load(slug, **params)({"w": torch.tensor(BASE)}, models)["w"]


def same(found: torch.Tensor, wanted: list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("weights", "wanted"), TASK_ARITHMETIC)
def test_task_arithmetic(weights: str, wanted: list[float]) -> None:
    same(merged("task-arithmetic", scale=0.4, weights=weights), wanted)


@pytest.mark.parametrize(("weights", "scale", "wanted"), TIES)
def test_ties(weights: str, scale: float, wanted: list[float]) -> None:
    same(merged("ties", density=0.5, scale=scale, weights=weights), wanted)


@pytest.mark.parametrize(("then", "weights", "wanted"), DARE)
def test_dare(then: str, weights: str, wanted: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    masks = iter(torch.tensor(row, dtype=torch.float32) for row in KEPT)

    def drop(tensor: torch.Tensor, sparsity: float, pick: str) -> torch.Tensor:
        assert (sparsity, pick) == (0.5, "random")
        return tensor * (next(masks) if len(tensor) == len(BASE) else 1.0)

    monkeypatch.setattr(dare_super_mario, "drop", drop)
    same(merged("dare-super-mario", sparsity=0.5, then=then, weights=weights), wanted)
