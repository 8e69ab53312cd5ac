"""quantization_config of compressed-tensors: what changes the computation is obeyed, or refused by its name."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from test_models import make

from paperlab import engine
from paperlab.engine import EngineError, Layout

ROTATED = {
    "config_groups": {
        "R4": {"type": "hadamard", "apply": [{"targets": ["re:.*down_proj$"], "location": "input", "inverse": False}]}
    }
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("quantized")
    make(place / "a", intermediate_size=192)
    engine.export(place / "a", place / "b", "compressed-tensors", recipe=Layout(4, 32))
    return place / "b"


@pytest.fixture
def changed(folder):
    """Changes the quantization_config of the folder; it is as it was afterwards."""
    file = folder / "config.json"
    before = file.read_text()

    def change(name="quantization_config", weights=None, group=None, **parts):
        config = json.loads(before)
        quantization = {**config.pop("quantization_config"), **parts}
        first = quantization["config_groups"]["group_0"]
        first |= group or {}
        first["weights"] |= weights or {}
        file.write_text(json.dumps({**config, name: quantization}))
        return folder

    yield change
    file.write_text(before)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"transform_config": ROTATED}, "transform_config"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
        ({"kv_cache_scheme": {"num_bits": 8, "type": "float"}}, "kv_cache_scheme"),
        ({"something_new": {"a": 1}}, "something_new"),
        ({"group": {"input_activations": {"num_bits": 8, "dynamic": True}}}, "config_groups.group_0.input_activations"),
        ({"group": {"output_activations": {"num_bits": 8}}}, "config_groups.group_0.output_activations"),
        ({"group": {"format": "nvfp4-pack-quantized"}}, "config_groups.group_0.format"),
        ({"weights": {"type": "float"}}, "config_groups.group_0.weights.type"),
        ({"weights": {"num_bits": 3}}, "config_groups.group_0.weights.num_bits"),
        ({"weights": {"strategy": "block", "block_structure": [128, 128]}}, "config_groups.group_0.weights."),
        ({"weights": {"actorder": "group"}}, "config_groups.group_0.weights.actorder"),
        ({"weights": {"dynamic": True}}, "config_groups.group_0.weights.dynamic"),
        ({"name": "compression_config", "transform_config": ROTATED}, "transform_config"),
        ({"config_groups": {"group_0": {"weights": "int4", "targets": []}}, "weights": None}, "weights"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_obeyed_is_refused_by_name(changed, tmp_path, change, named):
    if "config_groups" in change:
        folder = changed()
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"]["config_groups"] = change["config_groups"]
        (folder / "config.json").write_text(json.dumps(config))
    else:
        folder = changed(**change)
    for use in (engine.load, lambda place: engine.export(place, tmp_path / "out", "hf")):
        with pytest.raises(EngineError, match=f"quantization_config has .*{named}.*give the original weights"):
            use(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"transform_config": {}, "sparsity_config": {}, "kv_cache_scheme": None},
        {"transform_config": {"config_groups": {}}, "sparsity_config": {"format": "dense"}, "version": "0.12.3"},
        {"weights": {"actorder": "weight", "observer": "mse", "observer_kwargs": {"a": 1}, "zp_dtype": "torch.int8"}},
        {"weights": {"actorder": None, "block_structure": None}, "group": {"format": "pack-quantized"}},
        {"name": "compression_config"},
    ],
    ids=["empty", "idle", "observed", "null", "old-name"],
)
def test_what_asks_for_nothing_is_let_through(changed, change):
    engine.load(changed(**change))


def test_other_methods_are_refused_by_export_too(changed, tmp_path):
    folder = changed(quant_method="gptq")
    for use in (engine.load, lambda place: engine.export(place, tmp_path / "out", "hf")):
        with pytest.raises(EngineError, match='quantized by "gptq"'):
            use(folder)
