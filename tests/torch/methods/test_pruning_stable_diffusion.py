"""Criteria against what they are of: thresholds, hooks and formulas; both parts apart; a part that is left whole."""

import copy
from typing import Any

import pytest
import torch
from contract_cases import tiny
from torch import Tensor, nn

from paperlab.kit.diffusion import TextToImage
from paperlab.methods.pruning.pruning_stable_diffusion import block_shares, blocks_of, norms, transform


def model() -> TextToImage:
    torch.manual_seed(0)
    return TextToImage(12, 4, text_width=16, text_layers=2, width=8, heads=2).eval()


def batches() -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        {
            "images": torch.randn(3, 1, 6, 6, generator=draw), "times": torch.tensor([1, 400, 900]),
            "ids": torch.randint(0, 12, (3, 4), generator=draw),
        }
        for _ in range(2)
    ]  # fmt: skip


def linears(part: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in part.named_modules() if isinstance(module, nn.Linear)}


def share(part: nn.Module) -> float:
    weights = [layer.weight for layer in linears(part).values()]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


@pytest.mark.parametrize("by", ["magnitude", "magnitude-row", "wanda", "owl-magnitude", "owl-wanda", "random"])
def test_each_part_loses_its_share_and_nothing_else_changes(by: Any) -> None:
    made = transform(model(), batches(), text_sparsity=0.5, image_sparsity=0.25, by=by, image_by=by)
    small: Any = made.model
    assert share(small.text_encoder) == pytest.approx(0.5, abs=0.02)
    assert share(small.unet) == pytest.approx(0.25, abs=0.02)
    before = dict(model().named_parameters())
    pruned = {f"{name}.weight" for name in linears(small)}
    for name, parameter in small.named_parameters():
        if name in pruned:
            kept = parameter != 0
            assert torch.equal(parameter[kept], before[name][kept])
        else:
            assert torch.equal(parameter, before[name])
    assert set(made.layers) == set(linears(small))
    assert made.totals()["parameters"] == sum(p.numel() for p in before.values())


def test_one_part_alone() -> None:
    for text, image in ((0.6, 0.0), (0.0, 0.6)):
        small: Any = transform(model(), batches(), text_sparsity=text, image_sparsity=image).model
        assert (share(small.text_encoder) > 0.5) is (text > 0)
        assert (share(small.unet) > 0.5) is (image > 0)


def test_magnitude_is_the_threshold_of_the_authors_program() -> None:
    """All that is at most the floor(n s)-th smallest |w| of its layer goes."""
    small: Any = transform(model(), [], text_sparsity=0.475, image_sparsity=0.35).model
    for name, layer in linears(model()).items():
        weight = layer.weight.detach()
        sparsity = 0.475 if name.startswith("text_encoder") else 0.35
        edge = weight.abs().flatten().sort().values[int(weight.numel() * sparsity) - 1]
        assert torch.equal(small.get_submodule(name).weight, torch.where(weight.abs() <= edge, 0.0, weight))


def test_wanda_measures_a_block_behind_those_that_were_pruned() -> None:
    made: Any = transform(model(), batches(), text_sparsity=0.5, image_sparsity=0.0, by="wanda").model
    dense = model()
    partly: Any = copy.deepcopy(dense)
    partly.text_encoder.layers[0].load_state_dict(made.text_encoder.layers[0].state_dict())
    different = 0
    for index, before in ((0, dense), (1, partly)):
        for name, layer in linears(before.text_encoder.layers[index]).items():
            read: list[Tensor] = []
            handle = layer.register_forward_hook(lambda _, args, __, read=read: read.append(args[0].flatten(0, -2)))
            for batch in batches():
                before(**batch)
            handle.remove()
            score = layer.weight.detach().abs() * torch.cat(read).detach().norm(dim=0)
            gone = score.argsort(dim=1)[:, : score.shape[1] // 2]
            expected = layer.weight.detach().scatter(1, gone, 0.0)
            torch.testing.assert_close(made.text_encoder.layers[index].get_submodule(name).weight.detach(), expected)
            different += int((score.argsort(dim=1) != layer.weight.abs().argsort(dim=1)).any())
    assert different > 0  # the norms matter


def test_magnitude_in_rows_is_wanda_where_all_inputs_are_as_loud() -> None:
    made: Any = transform(model(), [], text_sparsity=0.5, image_sparsity=0.0, by="magnitude-row").model
    for name, layer in linears(model().text_encoder.layers).items():
        weight = layer.weight.detach()
        gone = weight.abs().argsort(dim=1)[:, : weight.shape[1] // 2]
        assert torch.equal(made.text_encoder.layers.get_submodule(name).weight, weight.scatter(1, gone, 0.0))


def test_blocks_with_more_outliers_lose_less() -> None:
    shares = block_shares([0.01, 0.03, 0.02], 0.5, 0.08)
    assert shares[0] > shares[2] > shares[1]
    assert shares[0] - shares[1] == pytest.approx(0.16)
    assert sum(shares) / 3 == pytest.approx(0.5)
    assert block_shares([0.2, 0.2], 0.5, 0.08) == [0.5, 0.5]
    assert max(block_shares([0.0, 1.0], 0.95, 0.08)) <= 0.99


def test_owl_shares_are_those_of_the_formula() -> None:
    dense = model()
    made: Any = transform(model(), batches(), text_sparsity=0.5, image_sparsity=0.0, by="owl-magnitude").model
    counted = []
    for block in dense.text_encoder.layers:
        layers = linears(block)
        sizes = norms(dense, layers, batches())
        score = torch.cat([(layer.weight.abs() * sizes[name]).flatten() for name, layer in layers.items()])
        counted.append(float((score > 7 * score.mean()).double().mean()))
    expected = block_shares(counted, 0.5, 0.08)
    found = [share(block) for block in made.text_encoder.layers]
    assert found == pytest.approx(expected, abs=0.01)


def test_blocks_are_those_with_a_number() -> None:
    names = [sorted(block) for block in blocks_of(model().text_encoder, "text_encoder.", numbered=True)]
    assert len(names) == 2
    assert all(name.startswith("text_encoder.layers.1.") for name in names[1])
    assert len(blocks_of(model().unet, "unet.", numbered=False)) == 2 + 3 + 3 + 2


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="sparsity=1"):
        transform(model(), [], text_sparsity=1.0)
    with pytest.raises(ValueError, match="no calibration"):
        transform(model(), [], by="wanda")


def test_a_language_model_is_a_text_encoder_whose_head_stays() -> None:
    llama = copy.deepcopy(tiny("Llama"))
    small = transform(llama, [], text_sparsity=0.5).model
    assert share(small.get_submodule("model.layers")) == pytest.approx(0.5, abs=0.01)
    assert (small.get_parameter("lm_head.weight") != 0).all()


def test_the_autoencoder_of_a_pipeline_stays_whole() -> None:
    pipeline = nn.ModuleDict({"text_encoder": nn.Linear(8, 8), "unet": nn.Linear(8, 8), "vae": nn.Linear(8, 8)})
    small = transform(pipeline, [], text_sparsity=0.5, image_sparsity=0.5).model
    assert share(small.get_submodule("vae")) == 0
    assert share(nn.ModuleDict({"unet": small.get_submodule("unet")})) == 0.5
