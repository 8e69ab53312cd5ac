"""Other runtimes as contestants of language.py and encoder.py, each in a process of its own.

`Peer` starts `peers.py serve KIND PATH --threads N` under an interpreter that has the runtime, and talks with it by
lines of JSON: a list of ids and a count of tokens to decode, or "score" to have their mean negative log-likelihood; to
an encoder, rows of ids and the seconds to measure over, 0 to have the vectors. This file knows nothing of paperlab.
make_peers.py makes what they run.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# The first seconds (all of the prompt, and the first token), the seconds of the tokens after it, the tokens.
Answer = tuple[float, float, list[int]]
Score = Callable[[list[int]], float]


def nll(logits: np.ndarray, ids: list[int]) -> float:
    """Mean negative log-likelihood of each id after those before it; logits: (ids, vocabulary)."""
    logits = logits[:-1].astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    given = logits[np.arange(len(ids) - 1), ids[1:]]
    return float((np.log(np.exp(logits).sum(1)) - given).mean())


def openvino_genai(folder: Path, threads: int) -> tuple[Callable[[list[int], int], Answer], Score]:
    """LLMPipeline as it is by default, without what it would remember of a prompt that comes again."""
    import openvino
    import openvino_genai as genai

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    cache = genai.SchedulerConfig()
    cache.enable_prefix_caching, cache.cache_size = False, 1
    pipe = genai.LLMPipeline(str(folder), "CPU", scheduler_config=cache, **settings)

    def run(ids: list[int], count: int) -> Answer:
        how = genai.GenerationConfig()
        how.max_new_tokens, how.ignore_eos, how.do_sample = 1 + count, True, False
        prompt = np.array([ids], np.int64)
        given = genai.TokenizedInputs(openvino.Tensor(prompt), openvino.Tensor(np.ones_like(prompt)))
        begun = time.perf_counter()
        made = pipe.generate(given, how)
        whole, first = time.perf_counter() - begun, made.perf_metrics.get_ttft().mean / 1e3
        return first, whole - first, list(made.tokens[0])

    def score(ids: list[int]) -> float:
        core = openvino.Core()
        request = core.compile_model(folder / "openvino_model.xml", "CPU", settings).create_infer_request()
        words = np.array([ids], np.int64)
        known = {"input_ids": words, "attention_mask": np.ones_like(words), "beam_idx": np.zeros(1, np.int32),
                 "position_ids": np.arange(len(ids))[None]}  # fmt: skip
        names = {i.any_name for i in request.model_inputs}
        return nll(next(iter(request.infer({n: v for n, v in known.items() if n in names}).values()))[0], ids)

    return run, score


def onnxruntime_genai(folder: Path, threads: int) -> tuple[Callable[[list[int], int], Answer], Score]:
    """Generator, greedy."""
    import onnxruntime_genai as genai

    config = genai.Config(str(folder))
    session = {"session_options": {"intra_op_num_threads": threads}}
    config.overlay(json.dumps({"model": {"decoder": session}}))
    model = genai.Model(config)

    def run(ids: list[int], count: int) -> Answer:
        how = genai.GeneratorParams(model)
        size = len(ids) + count + 1
        how.set_search_options(max_length=size, min_length=size, do_sample=False)
        generator = genai.Generator(model, how)
        begun = time.perf_counter()
        generator.append_tokens(np.array(ids, np.int32))
        generator.generate_next_token()
        first = time.perf_counter() - begun
        begun = time.perf_counter()
        for _ in range(count):
            generator.generate_next_token()
        return first, time.perf_counter() - begun, [int(i) for i in generator.get_sequence(0)][len(ids) :]

    def score(ids: list[int]) -> float:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        words = np.array([ids], np.int64)
        feeds = {"input_ids": words, "attention_mask": np.ones_like(words)}
        made = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
        for given in session.get_inputs():
            if given.name.startswith("past"):
                feeds[given.name] = np.zeros((1, made["num_key_value_heads"], 0, made["head_size"]), np.float32)
        return nll(session.run(["logits"], feeds)[0][0], ids)

    return run, score


def pytorch(folder: Path, threads: int, how: str) -> tuple[Callable[[list[int], int], Answer], Score]:
    """Transformers' weights in bfloat16, or with torchao's 8-bit weights besides; its blocks compiled."""
    import torch
    import torch.nn.functional as F
    from transformers import LlamaForCausalLM

    torch.set_num_threads(threads)
    whole = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval().requires_grad_(False)
    if how == "int8":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        whole.lm_head.weight = torch.nn.Parameter(whole.lm_head.weight.detach().clone(), False)  # embeddings stay
        quantize_(whole, Int8WeightOnlyConfig())
    model, config, room = whole.model, whole.config, 1024
    shape = (config.num_hidden_layers, 1, config.num_key_value_heads, room, config.head_dim)
    keys, values = torch.zeros(shape, dtype=torch.bfloat16), torch.zeros(shape, dtype=torch.bfloat16)

    def turned(x: Any, cos: Any, sin: Any) -> Any:
        low, high = x.chunk(2, -1)
        return x * cos + torch.cat((-high, low), -1) * sin

    @torch.compile(dynamic=False)
    def block(layer: Any, x: Any, turn: Any, keys: Any, values: Any, places: Any, mask: Any) -> Any:
        own, y = layer.self_attn, layer.input_layernorm(x)
        q, k, v = (
            f(y).unflatten(-1, (-1, config.head_dim)).transpose(1, 2) for f in (own.q_proj, own.k_proj, own.v_proj)
        )
        keys.index_copy_(2, places, turned(k, *turn))
        values.index_copy_(2, places, v)
        q = turned(q, *turn)
        made = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=True)
        x = x + own.o_proj(made.transpose(1, 2).flatten(2))
        return x + layer.mlp(layer.post_attention_layernorm(x))

    @torch.compile(dynamic=False)
    def head(x: Any) -> Any:
        return whole.lm_head(model.norm(x[:, -1:]))[0, -1].argmax()

    def step(ids: Any, first: int) -> Any:
        places = torch.arange(first, first + ids.shape[1])
        x = model.embed_tokens(ids)
        turn = model.rotary_emb(x, places[None])
        mask = torch.arange(room)[None] <= places[:, None]
        for i, layer in enumerate(model.layers):
            x = block(layer, x, turn, keys[i], values[i], places, mask)
        return head(x)

    @torch.inference_mode()
    def run(ids: list[int], count: int) -> Answer:
        begun = time.perf_counter()
        made = [step(torch.tensor([ids]), 0)]
        first = time.perf_counter() - begun
        begun = time.perf_counter()
        for i in range(count):
            made.append(step(made[-1].reshape(1, 1), len(ids) + i))
        return first, time.perf_counter() - begun, [int(i) for i in made]

    @torch.inference_mode()
    def score(ids: list[int]) -> float:
        return nll(whole(input_ids=torch.tensor([ids])).logits[0].float().numpy(), ids)

    return run, score


def llama_cpp(file: Path, threads: int) -> tuple[Callable[[list[int], int], Answer], Score]:
    """A GGUF file. A process of its own also because AMX stays set up in its threads and must be found so again."""
    import llama_cpp as cpp

    model = cpp.Llama(str(file), n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)

    def step(ids: list[int]) -> int:
        model.eval(ids)
        return int(np.ctypeslib.as_array(cpp.llama_get_logits(model.ctx), (model.n_vocab(),)).argmax())

    def run(ids: list[int], count: int) -> Answer:
        model.reset()
        begun = time.perf_counter()
        made = [step(ids)]
        first = time.perf_counter() - begun
        begun = time.perf_counter()
        for _ in range(count):
            made.append(step(made[-1:]))
        return first, time.perf_counter() - begun, made

    def score(ids: list[int]) -> float:
        full = cpp.Llama(str(file), n_ctx=1024, n_threads=threads, logits_all=True, verbose=False)
        full.eval(ids)
        return nll(full.scores[: len(ids)], ids)

    return run, score


LANGUAGE = {
    "llama.cpp": llama_cpp,
    "ov-int8": openvino_genai,
    "ov-int4": openvino_genai,
    "ort-int8": onnxruntime_genai,
    "ort-int4": onnxruntime_genai,
    "torchao-int8": lambda folder, threads: pytorch(folder, threads, "int8"),
    "torch-bf16": lambda folder, threads: pytorch(folder, threads, "bf16"),
}


def pooled(states: np.ndarray) -> np.ndarray:
    """(n, tokens, width) without padding -> unit vectors by the mean."""
    mean = states.mean(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def bert_inputs(names: list[str], ids: np.ndarray) -> dict[str, np.ndarray]:
    """What a BERT asks for, by its names."""
    kinds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: kinds[name] for name in names}


def openvino_bert(file: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """An IR or ONNX file."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(file, "CPU", settings)
    names = [i.any_name for i in model.inputs]
    return lambda ids: pooled(model(bert_inputs(names, ids))[0])


def onnxruntime_bert(file: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """An ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return lambda ids: pooled(session.run(None, bert_inputs(names, ids))[0])


def torch_bert(folder: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Transformers' model in bfloat16, compiled."""
    import torch
    from transformers import BertModel

    torch.set_num_threads(threads)
    model = torch.compile(BertModel.from_pretrained(folder, dtype=torch.bfloat16).eval(), dynamic=False)

    def embed(ids: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return pooled(model(torch.from_numpy(ids)).last_hidden_state.float().numpy())

    return embed


ENCODERS = {"openvino": openvino_bert, "onnxruntime": onnxruntime_bert, "torch": torch_bert}


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def answers(kind: str, path: Path, threads: int) -> Iterator[Any]:
    """What is sent back, line after line: the seconds and bytes of loading, then an answer to each question."""
    before, begun = resident(), time.perf_counter()
    if kind in ENCODERS:
        embed = ENCODERS[kind](path, threads)
        yield [time.perf_counter() - begun, resident() - before]
        for line in sys.stdin:
            words, least = json.loads(line)
            ids = np.array(words, np.int64)
            begun, count = time.perf_counter(), 0
            while not count or count < 3 * bool(least) or time.perf_counter() - begun < least:
                out = embed(ids)
                count += 1
            yield [count * len(ids) / (time.perf_counter() - begun), [] if least else out.tolist()]
        return
    run, score = LANGUAGE[kind](path, threads)
    yield [time.perf_counter() - begun, resident() - before]
    for line in sys.stdin:
        ids, count = json.loads(line)
        yield score(ids) if count == "score" else run(ids, count)


def serve(kind: str, path: Path, threads: int) -> None:
    """Talk by lines of JSON; what libraries print goes to the errors."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for answer in answers(kind, path, threads):
        print(json.dumps(answer), file=out, flush=True)


class Peer:
    """A runtime in a process of its own. load, resident: seconds and bytes that loading took."""

    def __init__(self, python: str, kind: str, path: Path, threads: int) -> None:
        self.command = [python, __file__, "serve", kind, str(path), "--threads", str(threads)]
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.load, self.resident = self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a peer ended; run this to see why:\n{' '.join(self.command)} < /dev/null")
        return json.loads(line)

    def ask(self, *question: Any) -> Any:
        """Its answer."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self._answer()


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["serve"])
    parser.add_argument("kind", choices=[*LANGUAGE, *ENCODERS])
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    words = parser.parse_args()
    serve(words.kind, words.path, words.threads)


if __name__ == "__main__":
    main()
