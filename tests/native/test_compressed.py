"""Folders in the pack-quantized format, written and read back by the compressed-tensors package itself."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors", reason="pip install compressed-tensors: a peer, for this test alone")

from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor as Packed  # noqa: E402
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme  # noqa: E402
from test_models import IDS, logits_of, make, relative  # noqa: E402

from paperlab import engine  # noqa: E402
from paperlab.engine.packing.container import named, write  # noqa: E402


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, 32), (8, None)])
def test_pack_quantized(bits, group, symmetric, tmp_path):
    model = make(tmp_path)
    strategy = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    weights = QuantizationArgs(num_bits=bits, symmetric=symmetric, **strategy)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    tensors = {}
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or name == "lm_head" or module.in_features % (group or 1):
            continue
        weight = module.weight.detach()
        parts = weight.reshape(len(weight), -1, group or weight.shape[1])
        low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
        top = 2 ** (bits - 1)
        if symmetric:
            scale, zero = torch.maximum(-low, high) / (top - 1), torch.zeros_like(low)
        else:
            scale = (high - low) / (2 * top - 1)
            zero = (-low / scale).round() - top
        scale = scale.half().float()
        state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}
        packed = Packed.compress(state, scheme)
        for key, value in packed.items():
            tensors[f"{name}.{key}"] = named(value.numpy())
        module.weight.data = Packed.decompress(packed, scheme)["weight"].float()
    for name, value in model.state_dict().items():
        if f"{name}_packed" not in tensors:
            tensors[name] = named(value.numpy())
    write(tmp_path / "model.safetensors", tensors, {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    mine = engine.load(tmp_path)
    logits = mine.forward([(mine.session(cache_bits=32), IDS)], every=True)
    assert sum(name.endswith("weight_packed") for name in tensors) >= 18
    assert relative(logits, logits_of(model, IDS)) < (3e-4 if symmetric else 1e-2)  # a minimum is kept as float16
    assert np.isfinite(logits).all()
