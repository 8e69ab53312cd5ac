"""ECMT: the loss against networks that were cut by hand, in double precision, with gradients; what control allows."""

import objective_settings
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.methods.elastic.controllable_multitask import Objective, fits, invariance
from paperlab.tasks.image_multitask import Slimmable


def cut(network: Slimmable, encoder: float, head: float) -> tuple[nn.Module, list[nn.Module]]:
    """Ordinary layers with the first channels of each; they share no code with the network."""
    layers, incoming = list[nn.Module](), 1
    for number, stage in enumerate(network.encoder):
        layers += [*([nn.MaxPool2d(2)] if number else []), *block(stage, incoming, encoder)]
        incoming = out_channels(layers[-3:])
    heads = list[nn.Module]()
    for stage, classifier in zip(network.heads, network.classifiers, strict=True):
        inner = block(stage, incoming, head)
        last = nn.Linear(out_channels(inner), classifier.out_features).double()  # type: ignore[arg-type]
        last.weight.data.copy_(classifier.weight[:, : last.in_features])  # type: ignore[index]
        last.bias.data.copy_(classifier.bias)  # type: ignore[arg-type]
        heads.append(nn.Sequential(*inner, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last))
    return nn.Sequential(*layers), heads


def out_channels(layers: list[nn.Module]) -> int:
    convolution = layers[0]
    assert isinstance(convolution, nn.Conv2d)
    return convolution.out_channels


def block(stage: nn.Module, incoming: int, width: float) -> list[nn.Module]:
    weight, norm = stage["convolution"].weight, stage["norm"]  # type: ignore[index]
    count = int(len(weight) * width)
    convolution = nn.Conv2d(incoming, count, 3, padding=1, bias=False).double()
    convolution.weight.data.copy_(weight[:count, :incoming])
    group = nn.GroupNorm(count // 4, count).double()
    group.weight.data.copy_(norm.weight[:count])
    group.bias.data.copy_(norm.bias[:count])
    return [convolution, group, nn.ReLU()]


def spread(network: Slimmable) -> Slimmable:
    """In double precision, with norms that differ from channel to channel."""
    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, 1.0, 0.3)
    return network.double()


def test_the_loss_is_that_of_the_full_and_of_the_cut_network() -> None:
    setting = objective_settings.slimmable()
    network = spread(Slimmable((16, 16), 16, (3, 4)))
    images, labels = (tensor[:6] for tensor in (setting.test.inputs[0].double(), setting.test.labels))
    found = Objective(network, setting, weight=0.7, draws=0)({"images": images}, labels, 0.0)
    wanted, features = torch.zeros((), dtype=torch.double), []
    for width in (1.0, 0.25):
        encoder, heads = cut(network, width, width)
        features.append(encoder(images))
        wanted = wanted + sum(F.cross_entropy(head(features[-1]), labels[:, t]) for t, head in enumerate(heads))
    full, narrow = features
    wanted = wanted + 0.7 * ((narrow - full[:, :4]) ** 2).mean()
    torch.testing.assert_close(found, wanted)


def test_a_feature_worked_by_hand_pulls_the_narrow_network_alone() -> None:
    narrow = torch.tensor([[1.0, 2.0]], requires_grad=True)
    full = torch.tensor([[0.0, 4.0, 9.0]], requires_grad=True)
    value = invariance(narrow, full)
    assert value.item() == pytest.approx((1 + 4) / 2)
    value.backward()
    assert full.grad is None
    assert narrow.grad is not None
    assert narrow.grad.tolist() == [[1.0, -2.0]]


def gradients(objective: Objective, inputs: dict[str, Tensor], labels: Tensor) -> list[Tensor]:
    torch.manual_seed(5)  # the same widths are drawn
    return list(torch.autograd.grad(objective(inputs, labels, 0.0), list(objective.parameters())))


def test_without_its_weight_it_is_slimmable_training() -> None:
    setting = objective_settings.slimmable()
    batch = next(setting.batches(0))
    plain = gradients(Objective(setting.model, setting, distill="none"), *batch)
    for distill in ("features", "logits"):
        zero = Objective(setting.model, setting, distill=distill, weight=0.0)
        for got, want in zip(gradients(zero, *batch), plain, strict=True):
            torch.testing.assert_close(got, want)
        one = gradients(Objective(setting.model, setting, distill=distill), *batch)
        assert any(not torch.allclose(got, want) for got, want in zip(one, plain, strict=True))


def test_heads_get_nothing_from_the_loss_on_features() -> None:
    setting = objective_settings.slimmable()
    batch = next(setting.batches(0))
    plain, tied = (Objective(setting.model, setting, distill=distill) for distill in ("none", "features"))
    names = [name for name, _ in plain.named_parameters()]
    for name, one, other in zip(names, gradients(plain, *batch), gradients(tied, *batch), strict=True):
        assert torch.allclose(one, other) == (not name.startswith("model.encoder")), name


def test_what_can_be_narrowed() -> None:
    counts = {}
    for control in ("joint", "heads", "uniform", "fixed"):
        setting = objective_settings.slimmable()
        network = Objective(setting.model, setting, control=control).result()
        counts[control] = len(network.configurations)  # type: ignore[arg-type]
    assert counts == {"joint": 64, "heads": 16, "uniform": 4, "fixed": 64}
    assert fits((1.0, (0.5, 0.25)), "heads")
    assert not fits((0.5, (0.5, 0.25)), "uniform")


def test_nothing_narrowed_is_the_full_network_alone() -> None:
    setting = objective_settings.slimmable()
    inputs, labels = next(setting.batches(0))
    logits = setting.model(**inputs)
    wanted = F.cross_entropy(logits[:, :3], labels[:, 0]) + F.cross_entropy(logits[:, 3:], labels[:, 1])
    torch.testing.assert_close(Objective(setting.model, setting, control="fixed")(inputs, labels, 0.0), wanted)


def test_from_scratch_all_weights_are_drawn_anew_and_alike_with_and_without_the_loss() -> None:
    found = {}
    for distill in ("features", "none"):
        setting = objective_settings.slimmable()
        trained = [parameter.detach().clone().add_(0.1) for parameter in setting.model.parameters()]
        for parameter, value in zip(setting.model.parameters(), trained, strict=True):
            parameter.data.copy_(value)
        torch.manual_seed(7)
        objective = Objective(setting.model, setting, distill=distill, scratch=True)
        found[distill] = list(objective.parameters())
        assert not any(torch.equal(now, before) for now, before in zip(found[distill], trained, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(*found.values(), strict=True))


def test_what_cannot_be_is_refused() -> None:
    images, setting = objective_settings.convolutional(), objective_settings.slimmable()
    with pytest.raises(ValueError, match="run at several widths"):
        Objective(images.model, images)
    for wrong in ({"weight": -1.0}, {"draws": -1}):
        with pytest.raises(ValueError, match="both at least 0"):
            Objective(setting.model, setting, **wrong)
