"""Tokens per second of the engine's formats and of llama.cpp, in turns.

    python benchmarks/engine/language.py --out packed/                       # SmolLM2-135M
    python benchmarks/engine/language.py --out packed/ --shape 1.1b          # a 1.1B Llama of random codes: speed only
    python benchmarks/engine/language.py --out packed/ --busy                # beside a process that never rests
    python benchmarks/engine/language.py --out packed/ --text wikitext2.txt --rounds 0    # perplexities only

Decoding: 128 tokens after a prompt of 128. Prefill: 512 tokens. What is packed or quantized lies under --out and serves
the next run. llama.cpp (llama-cpp-python) joins where it is installed, on files that its own quantizer made, pure. "of
read" is the share that the bytes of weights read per second make of what two loops read over as many bytes, measured
in the same run. Activations meet packed weights in 8 bits, as llama.cpp's do.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from paperlab import engine
from paperlab.assets.models import model_folder
from paperlab.engine.container import named, write
from paperlab.engine.language import LanguageModel
from paperlab.engine.native import Parts, call, tiles

FORMATS = {
    "8 bits": engine.Layout(8),
    "4 bits": engine.Layout(4),
    "4 bits, groups of 32, minima": engine.Layout(4, 32, symmetric=False),
    "3 bits": engine.Layout(3),
    "2 bits": engine.Layout(2),
    "4 bits, half kept": engine.Layout(4, keep=0.5),
    "4 bits, quarter kept": engine.Layout(4, keep=0.25),
}
PEERS = {"Q8_0": "MOSTLY_Q8_0", "Q4_0": "MOSTLY_Q4_0"}
SHAPE = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "intermediate_size": 5632,
         "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 64,
         "vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
         "hidden_act": "silu", "tie_word_embeddings": False}  # fmt: skip
GGUF = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm"}  # fmt: skip


def random_shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of SHAPE."""
    width, inner = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    shared = SHAPE["num_key_value_heads"] * SHAPE["head_dim"]
    rows = {"q_proj": width, "k_proj": shared, "v_proj": shared, "o_proj": width, "gate_proj": inner, "up_proj": inner}
    outer = (SHAPE["vocab_size"], width)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": outer, "lm_head": outer, "model.norm": (width,)}
    for layer in range(SHAPE["num_hidden_layers"]):
        for name in GGUF:
            part = name.rpartition(".")[2]
            shape = (width,) if "norm" in name else (width, inner) if part == "down_proj" else (rows[part], width)
            shapes[f"model.layers.{layer}.{name}"] = shape
    return shapes


def random_packed(out: Path, layout: engine.Layout) -> None:
    """A packed folder of SHAPE with random codes, and random places kept."""
    draw = np.random.default_rng(0)
    tensors: dict[str, tuple[str, np.ndarray]] = {}
    metadata = {"format": "paperlab", "paperlab": "1"}
    for name, shape in random_shapes().items():
        if len(shape) == 1:
            tensors[f"{name}.weight"] = "F16", np.ones(shape, np.float16)
            continue
        rows, columns = shape
        codes = draw.integers(0, 1 << layout.bits, shape, np.uint8)
        scales = np.full((rows, columns // layout.columns), 0.002, np.float16)
        keep = (draw.random(shape, np.float32) < layout.keep).astype(np.uint8) if layout.sparse else None
        mins = None if layout.symmetric else np.full_like(scales, -0.01)
        for part, array in tiles(Parts(codes, scales, mins, keep, layout.bits, layout.columns)).items():
            tensors[f"{name}.{part}"] = named(array)
        about = {"rows": rows, "columns": columns, "bits": layout.bits, "group": layout.columns}
        metadata[f"paperlab.{name}"] = json.dumps(about | {"symmetric": layout.symmetric, "sparse": layout.sparse})
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(SHAPE))
    write(out / "model.safetensors", tensors, metadata)


def random_gguf(file: Path) -> None:
    """A GGUF file of SHAPE with random float16 weights, for llama.cpp's quantizer."""
    from gguf import GGUFWriter

    draw = np.random.default_rng(0)
    writer = GGUFWriter(str(file), "llama")
    writer.add_context_length(SHAPE["max_position_embeddings"])
    writer.add_embedding_length(SHAPE["hidden_size"])
    writer.add_block_count(SHAPE["num_hidden_layers"])
    writer.add_feed_forward_length(SHAPE["intermediate_size"])
    writer.add_head_count(SHAPE["num_attention_heads"])
    writer.add_head_count_kv(SHAPE["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(SHAPE["rms_norm_eps"])
    writer.add_rope_dimension_count(SHAPE["head_dim"])
    writer.add_vocab_size(SHAPE["vocab_size"])
    writer.add_file_type(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"t{i}" for i in range(SHAPE["vocab_size"])])
    writer.add_token_types([1] * SHAPE["vocab_size"])
    writer.add_token_merges(["t 1"])
    outer = {"model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm"}
    for name, shape in random_shapes().items():
        there = outer.get(name) or f"blk.{name.split('.')[2]}.{GGUF[name.split('.', 3)[3]]}"
        if len(shape) == 1:
            writer.add_tensor(f"{there}.weight", np.ones(shape, np.float32))
        else:
            writer.add_tensor(f"{there}.weight", (draw.standard_normal(shape, np.float32) * 0.02).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Ours:
    """A model in the engine."""

    def __init__(self, path: Path, threads: int) -> None:
        begun = time.perf_counter()
        before = _resident()
        model = engine.load(path, threads=threads, activation_bits=8)
        assert isinstance(model, LanguageModel)
        self.load, self.resident = time.perf_counter() - begun, _resident() - before
        self.model, self.session = model, model.session(1024)
        self.bytes, self.weights = model.about["bytes_per_token"], model.about["weights_per_token"]

    def decode(self, ids: list[int], count: int) -> float:
        """Tokens per second after a prompt."""
        self.session.truncate(0)
        self.model.forward([(self.session, ids[:-1])])
        begun = time.perf_counter()
        made = self.model.generate_ids(ids[-1:], max_tokens=count, session=self.session, ignore_end=True)
        return sum(1 for _ in made) / (time.perf_counter() - begun)

    def prefill(self, ids: list[int]) -> float:
        """Tokens of a prompt per second."""
        self.session.truncate(0)
        begun = time.perf_counter()
        self.model.forward([(self.session, ids)])
        return len(ids) / (time.perf_counter() - begun)


class LlamaCpp:
    """A model in llama.cpp, in a process of its own: it leaves AMX set up in its threads and finds it so again."""

    def __init__(self, file: Path, threads: int) -> None:
        command = [sys.executable, __file__, "--peer", str(file), "--threads", str(threads), "--out", "."]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.load, self.resident = self._answer()
        self.bytes, self.weights = file.stat().st_size, 0

    def _answer(self) -> list[float]:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline() or '"llama.cpp ended"')

    def _ask(self, ids: list[int], count: int) -> float:
        assert self.process.stdin
        self.process.stdin.write(json.dumps([ids, count]) + "\n")
        self.process.stdin.flush()
        return self._answer()[0]

    def decode(self, ids: list[int], count: int) -> float:
        """Tokens per second after a prompt."""
        return self._ask(ids, count)

    def prefill(self, ids: list[int]) -> float:
        """Tokens of a prompt per second."""
        return self._ask(ids, 0)


def peer(file: Path, threads: int) -> None:
    """Answer what LlamaCpp asks. Logits are made, the next token is given: no sampling is counted."""
    from llama_cpp import Llama

    before, begun = _resident(), time.perf_counter()
    model = Llama(str(file), n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)
    print(json.dumps([time.perf_counter() - begun, _resident() - before]), flush=True)
    for line in sys.stdin:
        ids, count = json.loads(line)
        model.reset()
        begun = time.perf_counter()
        model.eval(ids)
        if count:
            begun = time.perf_counter()
            for i in range(count):
                model.eval([ids[i % len(ids)]])
        print(json.dumps([(count or len(ids)) / (time.perf_counter() - begun)]), flush=True)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def read_rate(size: int, threads: int) -> float:
    """Bytes per second that plain loops read, over as many bytes."""
    return float(call("test_read", threads, size, 5))


def requantized(source: Path, out: Path, kind: str) -> Path:
    """A file that llama.cpp's quantizer makes of another, every matrix in the same type."""
    import llama_cpp

    file = out / f"{kind}.gguf"
    if not file.exists():
        how = llama_cpp.llama_model_quantize_default_params()
        how.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{PEERS[kind]}")
        how.pure = how.allow_requantize = True
        if llama_cpp.llama_model_quantize(str(source).encode(), str(file).encode(), ctypes.byref(how)):
            raise RuntimeError(f"llama.cpp could not quantize {source}")
    return file


def perplexity(model: LanguageModel, text: Path, tokens: int) -> float:
    """Over the first tokens of a text, in windows of 1,000."""
    ids = model.tokens.encode(text.read_text(encoding="utf-8")[: tokens * 8])[:tokens]
    parts = [ids[i : i + 1000] for i in range(0, len(ids) - 1, 1000)]
    return float(np.exp(-np.concatenate([model.score(part) for part in parts]).mean()))


def main() -> None:
    """Measure in turns and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", choices=["smollm2-135m", "1.1b"], default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=4, help="turns that count; one more warms up")
    parser.add_argument("--formats", default="", help="parts of the names of rows, with commas; all without")
    parser.add_argument("--text", type=Path, help="take perplexities over it")
    parser.add_argument("--tokens", type=int, default=4000, help="tokens of --text")
    parser.add_argument("--decode", type=int, default=128, help="tokens of a turn")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--busy", action="store_true", help="a third thread is busy meanwhile")
    words = parser.parse_args()
    if words.peer:
        return peer(words.peer, words.threads)
    threads, out = words.threads, words.out / words.shape
    out.mkdir(parents=True, exist_ok=True)
    if words.shape == "1.1b":
        folder, source = out, out / "f16.gguf"
    else:
        folder = model_folder("smollm2-135m")[0]
        source = next(folder.glob("*.gguf"))

    def wanted(name: str) -> bool:
        return not words.formats or any(part.strip() in name for part in words.formats.split(","))

    arms: dict[str, Callable[[], Ours | LlamaCpp]] = {}
    if words.shape != "1.1b":
        arms["the shipped Q4_1 file"] = lambda: Ours(source, threads)
    for name, layout in FORMATS.items():
        place = out / name.replace(" ", "-").replace(",", "")
        if wanted(name) and not place.exists():
            if words.shape == "1.1b":
                random_packed(place, layout)
            else:
                engine.pack(folder, place, layout)
        arms[name] = lambda place=place: Ours(place, threads)
    if find_spec("llama_cpp") is None:
        print("llama.cpp is not installed: no peers", file=sys.stderr)
    else:
        if not source.exists():
            random_gguf(source)
        if words.shape != "1.1b":
            arms["llama.cpp, the shipped Q4_1 file"] = lambda: LlamaCpp(source, threads)
        for kind in PEERS:
            arms[f"llama.cpp, {kind} pure"] = lambda kind=kind: LlamaCpp(requantized(source, out, kind), threads)
    models = {name: make() for name, make in arms.items() if wanted(name)}
    ids = np.random.default_rng(0).integers(100, 31000, 512).tolist()
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if words.busy else None
    try:
        decoded: dict[str, list[float]] = {name: [] for name in models}
        filled: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(words.rounds + 1 if words.rounds else 0):
            for name, model in models.items():
                rates = model.decode(ids[:128], words.decode), model.prefill(ids)
                if turn:
                    decoded[name].append(rates[0])
                    filled[name].append(rates[1])
    finally:
        if neighbour:
            neighbour.kill()
    print(json.dumps({"threads": threads, "rounds": words.rounds, "busy": words.busy, "load": os.getloadavg()[0]}))
    print("| format | MB per token | bits per weight | decode, tokens/s | of read | prefill, tokens/s | "
          "load, ms | resident, MB | perplexity |\n|" + "---|" * 9)  # fmt: skip
    for name, model in models.items():
        speed = statistics.median(decoded[name]) if decoded[name] else 0.0
        fill = statistics.median(filled[name]) if filled[name] else 0.0
        share = f"{speed * model.bytes / read_rate(model.bytes, threads):.0%}" if speed else ""
        bits = f"{8 * model.bytes / model.weights:.2f}" if model.weights else ""
        quality = (
            f"{perplexity(model.model, words.text, words.tokens):.2f}" if words.text and isinstance(model, Ours) else ""
        )
        print(f"| {name} | {model.bytes / 1e6:.1f} | {bits} | {speed:.0f} | {share} | {fill:.0f} | "
              f"{1e3 * model.load:.0f} | {model.resident / 1e6:.0f} | {quality} |")  # fmt: skip


if __name__ == "__main__":
    main()
