"""Run by an interpreter that has llama-cpp-python: logits and greedy tokens of a GGUF file.

    python llama_peer.py MODEL.gguf JOB.json OUT.npz

JOB: {"ids": [...], "prompt": [...], "tokens": n, "text": "..."}. OUT: logits (len(ids), vocabulary) float32, the n
tokens that follow `prompt` greedily, and the token ids of `text`.
"""

import json
import sys

import llama_cpp
import numpy as np


def main(file: str, job: str, out: str) -> None:
    with open(job, encoding="utf-8") as opened:
        asked = json.load(opened)
    # F32 keys and values, no flash attention: what differs then is arithmetic alone.
    exact = {"type_k": 0, "type_v": 0, "flash_attn": False}
    # Its repacked and AMX buffers crash on some machines; the plain ones compute the same.
    defaults = llama_cpp.llama_cpp.llama_model_default_params

    def plain():
        params = defaults()
        params.use_extra_bufts = False
        return params

    llama_cpp.llama_cpp.llama_model_default_params = plain
    model = llama_cpp.Llama(file, n_ctx=1024, n_batch=1024, logits_all=True, verbose=False, n_threads=1, **exact)
    model.eval(asked["ids"])
    logits = np.array(model.scores[: len(asked["ids"])])
    model.reset()
    model.eval(asked["prompt"])
    tokens = []
    while len(tokens) < asked["tokens"]:
        tokens.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        model.eval(tokens[-1:])
    ids = model.tokenize(asked["text"].encode(), add_bos=False, special=True)
    np.savez(out, logits=logits, tokens=np.array(tokens), ids=np.array(ids))


if __name__ == "__main__":
    main(*sys.argv[1:])
