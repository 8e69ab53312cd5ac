"""Write the seeds of the fuzzers: small sound files of every kind that the engine reads.

python native/fuzz/corpus.py        # into native/fuzz/corpus/KIND/, where crashers of the past lie too
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from paperlab import engine
from paperlab.engine.packing.container import write

CORPUS = Path(__file__).with_name("corpus")
CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "vocab_size": 32,
    "tie_word_embeddings": True,
}
LAYOUTS = {
    "4": engine.Layout(4, 32),
    "3-minima": engine.Layout(3, 16, symmetric=False),
    "sparse": engine.Layout(4, 16, keep=0.5),
    "channels": engine.Layout(4, 16, keep=0.5, pattern="channels", outliers=0.02),
    "rows": engine.Layout(3, 16, keep=0.5, pattern="rows"),
    "columns": engine.Layout(2, 16, symmetric=False, keep=0.5, pattern="columns", rank=1),
    "beside": engine.Layout(2, 32, outliers=0.02, rank=1),
}


def model(folder: Path) -> Path:
    """A one-block model of few weights."""
    random = np.random.default_rng(0)
    block = "model.layers.0."
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (32, 32),
        "model.norm.weight": (32,),
        block + "input_layernorm.weight": (32,),
        block + "post_attention_layernorm.weight": (32,),
        block + "self_attn.k_proj.weight": (16, 32),
        block + "self_attn.v_proj.weight": (16, 32),
    }
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
        shapes[f"{block}{name}.weight"] = (32, 32)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tensors = {
        name: ("F16", (random.standard_normal(shape) * 0.1).astype(np.float16)) for name, shape in shapes.items()
    }
    write(folder / "model.safetensors", tensors, {})
    return folder


def main() -> None:
    """Write every seed."""
    with tempfile.TemporaryDirectory() as between:
        place = Path(between)
        source = model(place / "model")
        files: dict[str, bytes] = {
            "json/config": (source / "config.json").read_bytes(),
            "json/all": json.dumps([None, True, -1.5e3, "\u00e9\n\U0001f600", {"a": [[]], "b": {}}]).encode(),
            "safetensors/model": (source / "model.safetensors").read_bytes(),
        }
        for name, layout in LAYOUTS.items():
            engine.pack(source, place / name, layout)
            files[f"packed/{name}"] = both(place / name)
        engine.export(source, place / "ct", "compressed-tensors", recipe=engine.Layout(4, 32))
        files["packed/compressed"] = both(place / "ct")
        for kind in ("F16", "Q8_0", "Q4_0", "Q4_1"):
            engine.export(source, place / f"{kind}.gguf", "gguf", dtype=kind)
            files[f"gguf/{kind}"] = (place / f"{kind}.gguf").read_bytes()
        for name, data in files.items():
            (CORPUS / name).parent.mkdir(parents=True, exist_ok=True)
            (CORPUS / name).write_bytes(data)


def both(folder: Path) -> bytes:
    """A folder as the fuzzer takes it: the settings, a zero byte, the tensors."""
    return (folder / "config.json").read_bytes() + b"\0" + (folder / "model.safetensors").read_bytes()


if __name__ == "__main__":
    main()
