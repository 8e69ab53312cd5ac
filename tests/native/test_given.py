"""Packing from memory, and matrices pruned and quantized elsewhere: any mask, against transformers with zeros there."""

import json
from collections.abc import Mapping

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from test_models import IDS, logits_of, make, relative  # noqa: E402

from paperlab import engine  # noqa: E402
from paperlab.engine import Codes, EngineError, Layout, Tensors, pack, quantize  # noqa: E402
from paperlab.engine.packing.container import Weights  # noqa: E402

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def in_memory(folder):
    """The arrays and the configuration of a folder, without its files."""
    weights = Weights(folder)
    arrays = {name: np.array(weights.raw(name)) for name in reversed(weights.names())}
    return Tensors(json.loads((folder / "config.json").read_text()), arrays, folder)


@pytest.mark.parametrize(
    ("kind", "dtype", "recipe"),
    [
        ("llama", torch.float32, Layout(4)),
        ("llama-tied", torch.bfloat16, [("*", Layout(3, symmetric=False)), ("*.o_proj", Layout(8, keep=0.5))]),
        ("qwen2", torch.float16, Layout(4, 32, keep=0.4, pattern="channels", outliers=0.01)),
    ],
    ids=["llama", "llama-tied", "qwen2"],
)
def test_a_model_in_memory_gives_the_bytes_of_its_folder(kind, dtype, recipe, tmp_path):
    make(tmp_path / "a", kind, dtype=dtype)
    (tmp_path / "a" / "tokenizer_config.json").write_text("{}")
    assert pack(tmp_path / "a", tmp_path / "b", recipe) == pack(in_memory(tmp_path / "a"), tmp_path / "c", recipe)
    assert contents(tmp_path / "b") == contents(tmp_path / "c")
    assert "tokenizer_config.json" in contents(tmp_path / "c")


def test_a_models_own_state_dict_is_packed_without_its_folder(tmp_path):
    model = make(tmp_path / "a", "llama-tied")
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert "lm_head.weight" in state  # tied: a folder has it once
    pack(Tensors(model.config.to_dict(), state), tmp_path / "b", Layout(8))
    pack(tmp_path / "a", tmp_path / "c", Layout(8))
    assert contents(tmp_path / "b")["model.safetensors"] == contents(tmp_path / "c")["model.safetensors"]
    one, other = (engine.load(tmp_path / name) for name in "bc")
    assert (one.forward([(one.session(), IDS)]) == other.forward([(other.session(), IDS)])).all()


class Lazy(Mapping):
    """Arrays that are made when they are looked up."""

    def __init__(self, arrays):
        self.arrays, self.asked = arrays, []

    def __iter__(self):
        return iter(self.arrays)

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, name):
        self.asked.append(name)
        return self.arrays[name].copy()


def test_arrays_may_be_made_on_the_way_and_codes_too(tmp_path):
    make(tmp_path / "a")
    ready = in_memory(tmp_path / "a")
    stems = [name.removesuffix(".weight") for name in ready.names() if "down_proj" in name]
    arrays, codes = Lazy(ready.arrays), {stem: quantize(ready.floats(f"{stem}.weight"), Layout(4)) for stem in stems}
    made = []

    class Given(dict):
        def __getitem__(self, stem):
            made.append(stem)
            return super().__getitem__(stem)

    pack(Tensors(ready.config, arrays), tmp_path / "b", Layout(4), Given(codes))
    pack(tmp_path / "a", tmp_path / "c", Layout(4))
    assert contents(tmp_path / "b")["model.safetensors"] == contents(tmp_path / "c")["model.safetensors"]
    asked = {name: arrays.asked.count(name) for name in ready.names()}
    assert {name: n for name, n in asked.items() if n != 2} == {f"{stem}.weight": 1 for stem in stems}
    assert made == stems  # each once


def random_masks(model, seed=0):
    """Masks by name: every row its own density, and in each matrix some rows empty and some full."""
    random = np.random.default_rng(seed)
    out = {}
    for name, parameter in model.named_parameters():
        if name.removesuffix(".weight").endswith(MATRICES):
            shape = tuple(parameter.shape)
            mask = random.random(shape) < random.random((shape[0], 1))
            mask[random.choice(shape[0], 5, replace=False)] = False
            mask[random.choice(shape[0], 3, replace=False)] = True
            out[name.removesuffix(".weight")] = mask
    return out


def global_masks(model, sparsity=0.7):
    """Masks by name: the largest weights of the whole model stay."""
    named = {
        name.removesuffix(".weight"): parameter.detach().abs().numpy()
        for name, parameter in model.named_parameters()
        if name.removesuffix(".weight").endswith(MATRICES)
    }
    least = np.quantile(np.concatenate([weight.ravel() for weight in named.values()]), sparsity)
    return {name: weight > least for name, weight in named.items()}


@pytest.mark.parametrize("isa", engine.instruction_sets())
@pytest.mark.parametrize("masks", [random_masks, global_masks])
@pytest.mark.parametrize("layout", [Layout(8), Layout(4, 32, True), Layout(4, "row", True), Layout(8, 16)], ids=str)
def test_any_mask_gives_the_logits_of_the_masked_model(layout, masks, isa, tmp_path):
    model = make(tmp_path / "a")
    chosen, given = masks(model), {}
    counts = np.concatenate([mask.sum(1) / mask.shape[1] for mask in chosen.values()])
    assert len(set(counts)) > 50
    parameters = dict(model.named_parameters())
    for name, mask in chosen.items():
        weight = parameters[f"{name}.weight"]
        codes = given[name] = quantize(weight.detach().numpy(), layout, mask)
        scales = np.repeat(codes.scales.astype(np.float32), layout.group_size or mask.shape[1], axis=1)
        dense = scales[:, : mask.shape[1]] * (codes.codes.astype(np.float32) - 2 ** (layout.bits - 1))
        kept = weight.detach().numpy()[mask]
        assert np.linalg.norm(dense[mask] - kept) < np.linalg.norm(kept) * {8: 0.01, 4: 0.15}[layout.bits]
        weight.data = torch.from_numpy(dense * mask)
    report = pack(in_memory(tmp_path / "a"), tmp_path / "b", [("*", Layout(16))], given)
    weights = Weights(tmp_path / "b")
    for name, mask in chosen.items():
        words = np.array(weights.raw(f"{name}.masks"))
        assert sum(int(word).bit_count() for word in words) == mask.sum()
    mine = engine.load(tmp_path / "b", isa=isa)
    truth = logits_of(model, IDS)
    logits = mine.forward([(mine.session(cache_bits=32), IDS)], every=True)
    assert relative(logits, truth) < 3e-4
    session = mine.session(cache_bits=32)
    assert (np.concatenate([mine.forward([(session, [token])]) for token in IDS[:20]]) == logits[:20]).all()
    density = sum(mask.sum() for mask in chosen.values()) / sum(mask.size for mask in chosen.values())
    assert report["bits_per_weight"] < density * layout.bits * 1.15 + 1.3 + 16 / (layout.group_size or 96) * 1.4


def test_a_layouts_own_mask_gives_the_bytes_of_the_layout(tmp_path):
    make(tmp_path / "a")
    source = Weights(tmp_path / "a")
    for layout in (Layout(4, keep=0.3), Layout(8, "row", pattern="2:4")):
        stems = [name.removesuffix(".weight") for name in source.names() if "_proj" in name]
        weights = {stem: source.floats(f"{stem}.weight") for stem in stems}
        given = {stem: quantize(weight, layout, layout.mask(weight)) for stem, weight in weights.items()}
        pack(tmp_path / "a", tmp_path / f"b{layout.bits}", [("*", Layout(16))], given)
        pack(tmp_path / "a", tmp_path / f"c{layout.bits}", [("*_proj", layout)])
        assert contents(tmp_path / f"b{layout.bits}") == contents(tmp_path / f"c{layout.bits}")
    full = {stem: quantize(weight, Layout(3), np.ones(weight.shape, bool)) for stem, weight in weights.items()}
    pack(tmp_path / "a", tmp_path / "d", [("*", Layout(16))], full)  # nothing is pruned, so that any width will do
    pack(tmp_path / "a", tmp_path / "e", [("*_proj", Layout(3))])
    assert contents(tmp_path / "d") == contents(tmp_path / "e")


NAME = "model.layers.1.mlp.up_proj"


def test_a_pruned_matrix_may_have_outliers_and_a_low_rank_part(tmp_path):
    model = make(tmp_path / "a")
    weight = model.get_parameter(f"{NAME}.weight")
    random = np.random.default_rng(0)
    mask = random.random(weight.shape) < 0.4
    plain = quantize(weight.detach().numpy(), Layout(8, 32), mask)
    codes = np.where(mask, plain.codes, random.integers(0, 256, mask.shape, np.uint8))  # any, where pruned
    left, right = random.standard_normal((200, 3)) / 9, random.standard_normal((3, 96)) / 9
    row, column = np.arange(20), random.integers(0, 96, 20)
    value = random.standard_normal(20).astype(np.float32)
    given = Codes(8, codes, plain.scales, None, (left, right), (row, column, value), mask=mask, group=32)
    pack(tmp_path / "a", tmp_path / "b", [("*", Layout(16))], {NAME: given})
    dense = np.repeat(plain.scales.astype(np.float32), 32, axis=1) * (plain.codes.astype(np.float32) - 128) * mask
    dense += left.astype(np.float16).astype(np.float32) @ right.astype(np.float16).astype(np.float32)
    dense[row, column] = value
    weight.data = torch.from_numpy(dense.astype(np.float32))
    mine = engine.load(tmp_path / "b")
    assert relative(mine.forward([(mine.session(cache_bits=32), IDS)], every=True), logits_of(model, IDS)) < 3e-4


def test_a_matrix_without_any_weight(tmp_path):
    model = make(tmp_path / "a")
    weight = model.get_parameter(f"{NAME}.weight")
    empty = quantize(weight.detach().numpy(), Layout(4, symmetric=True), np.zeros(weight.shape, bool))
    pack(tmp_path / "a", tmp_path / "b", [("*", Layout(16))], {NAME: empty})
    weight.data.zero_()
    mine = engine.load(tmp_path / "b")
    assert relative(mine.forward([(mine.session(cache_bits=32), IDS)], every=True), logits_of(model, IDS)) < 1e-5


def test_pruned_codes_are_exported(tmp_path):
    pytest.importorskip("gguf")
    make(tmp_path / "a", intermediate_size=192)
    weights = Weights(tmp_path / "a")
    random, given = np.random.default_rng(0), {}
    for name in weights.names():
        if "_proj" in name:
            weight = weights.floats(name)
            mask = random.random(weight.shape) < 0.3
            given[name.removesuffix(".weight")] = quantize(weight, Layout(4, 32, symmetric=True), mask)
    engine.export(tmp_path / "a", tmp_path / "b", "hf", given=given)
    pack(tmp_path / "a", tmp_path / "c", [("*", Layout(16))], given)
    engine.export(tmp_path / "c", tmp_path / "d", "hf")
    engine.export(tmp_path / "a", tmp_path / "m.gguf", "gguf", given=given)
    one, other = Weights(tmp_path / "b"), Weights(tmp_path / "d")
    for name, codes in given.items():
        direct = one.floats(f"{name}.weight")
        assert (direct[~codes.mask] == 0).all()
        assert (direct == other.floats(f"{name}.weight")).all()
    models = [engine.load(tmp_path / name) for name in ("c", "m.gguf")]
    logits = [model.forward([(model.session(cache_bits=32), IDS)], every=True) for model in models]
    assert relative(*logits) < 3e-4


def test_what_given_and_tensors_may_not_be(tmp_path):
    make(tmp_path / "a")
    weight = Weights(tmp_path / "a").floats(f"{NAME}.weight")
    mask = np.random.default_rng(0).random(weight.shape) < 0.5
    codes = quantize(weight, Layout(8), mask)
    for given, message in (
        ({NAME: Codes(3, codes.codes % 8, codes.scales, mask=mask, group=64)}, "8 or 4 bits and are symmetric"),
        ({NAME: Codes(8, codes.codes, codes.scales, codes.scales, mask=mask, group=64)}, "8 or 4 bits"),
        ({NAME: Codes(4, codes.codes[:, ::2] % 16, codes.scales, book=np.eye(16, 2), mask=mask, group=64)}, "codebook"),
        ({NAME: Codes(8, codes.codes, codes.scales, mask=mask[:-1], group=64)}, r"a mask of \(199, 96\)"),
        ({NAME: Codes(8, codes.codes, codes.scales, mask=mask, group=16)}, "in groups of 16 have not 2 scales"),
        ({NAME: Codes(8, codes.codes[:-1], codes.scales[:-1])}, r"up_proj.*the codes given for it are \(199, 96\)"),
        ({"model.layers.9.mlp.up_proj": codes}, r"has no matrix model\.layers\.9"),
    ):
        with pytest.raises(EngineError, match=message):
            pack(tmp_path / "a", tmp_path / "b", [("*", Layout(16))], given)
    for layout in (Layout(3, 64, True), Layout(8, symmetric=False)):
        with pytest.raises(EngineError, match="sparse"):
            quantize(weight, layout, mask)
    with pytest.raises(EngineError, match="a mask of"):
        quantize(weight, Layout(8), mask.T)
    with pytest.raises(EngineError, match="for `pack`"):
        quantize(weight, Layout(8, rank=2))
    with pytest.raises(EngineError, match="NaN or infinite"):
        quantize(np.where(mask, np.nan, weight), Layout(8))
    ready = in_memory(tmp_path / "a")
    for tensors, message in (
        (Tensors(ready.config, {**ready.arrays, "model.norm.weight": np.array(["a"])}), "norm.weight is of type"),
        (Tensors({**ready.config, "dtype": torch.float32}, ready.arrays), "cannot be written as JSON"),
        (Tensors(ready.config, {}), "embed_tokens.weight is missing"),
    ):
        with pytest.raises(EngineError, match=message):
            pack(tensors, tmp_path / "b", Layout(8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize("bits", [8, 4])
def test_a_pruned_model_is_stored_sparse_with_its_own_zeros(bits, tmp_path):
    model = make(tmp_path / "a")
    with torch.no_grad():
        for name, layer in model.named_modules():
            if name.endswith(MATRICES[:-1]):  # rows of different density, as a mask of the whole matrix leaves
                layer.weight.mul_(layer.weight.abs() > layer.weight.abs().quantile(0.5))
    model.save_pretrained(tmp_path / "b")
    dense, sparse = (pack(tmp_path / name, tmp_path / f"{name}-packed", Layout(bits)) for name in "ab")
    assert sparse["bits_per_weight"] < 0.85 * dense["bits_per_weight"]
    engine.export(tmp_path / "b-packed", tmp_path / "dense", "hf", dtype="F32")
    stored = {name: Weights(tmp_path / "dense").raw(name) for name in Weights(tmp_path / "dense").names()}
    for name, layer in model.named_modules():
        if name.endswith(MATRICES[:-1]):
            assert not stored[f"{name}.weight"][layer.weight.detach().numpy() == 0].any()
    mine, read = engine.load(tmp_path / "b-packed"), type(model).from_pretrained(tmp_path / "dense")
    assert relative(mine.forward([(mine.session(cache_bits=32), IDS)], every=True), logits_of(read, IDS)) < 3e-4


def test_a_few_zeros_are_no_mask(tmp_path):
    from paperlab.engine.packing.pack import of_pruned

    weight = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    weight[np.random.default_rng(1).random((32, 64)) < 0.3] = 0
    assert of_pruned(weight, Layout(8)) is None
    weight[:, ::2] = 0
    assert of_pruned(weight, Layout(8)).layout.keep == np.count_nonzero(weight) / weight.size
    for other in (Layout(3), Layout(8, keep=0.9), Layout(8, rank=2), Layout(8, outliers=0.01), Layout(4, codebook=2)):
        assert of_pruned(weight, other) is None
