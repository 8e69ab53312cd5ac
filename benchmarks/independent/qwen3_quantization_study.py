"""Are 8 bits near lossless where 4 are not? Measured without paperlab: numpy rounding, an own perplexity.

    python benchmarks/independent/qwen3_quantization_study.py MODEL TEXTS

MODEL and TEXTS as in zeroquant_v2_lorc.py. Round to nearest with one range per row, as in the study's released code:
max and min of each row, a zero point.
"""

import hashlib
import json
import lzma
import sys

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast


def nearest(weight: np.ndarray, bits: int) -> np.ndarray:
    """Rows on grids of 2^bits values."""
    top = np.maximum(weight.max(1, keepdims=True), 0)
    bottom = np.minimum(weight.min(1, keepdims=True), 0)
    scale = (top - bottom) / (2**bits - 1)
    zero = np.round(-bottom / scale)
    return (np.clip(np.round(weight / scale) + zero, 0, 2**bits - 1) - zero) * scale


def load(folder: str, bits: int | None) -> torch.nn.Module:
    """The model from its safetensors file, the matrices of its blocks rounded."""
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    state = {name: tensor.float() for name, tensor in load_file(f"{folder}/model.safetensors").items()}
    for name, tensor in state.items():
        if bits is not None and ".layers." in name and tensor.ndim == 2:
            state[name] = torch.from_numpy(nearest(tensor.double().numpy(), bits)).float()
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    model.tie_weights()
    return model.eval()


def main(folder: str, file: str) -> None:
    """Perplexities on the first 96 or 32 windows of 128 tokens of the held-out documents."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
    end = tokenizer.get_vocab()["<|endoftext|>"]
    abstracts = file.endswith(".xz")
    with lzma.open(file, "rt", encoding="utf-8") if abstracts else open(file, encoding="utf-8") as lines:
        rows = [line.strip() for line in lines]
    if abstracts:
        held_out = [row["text"].strip() for row in map(json.loads, rows) if row["held_out"]]
    else:
        rows = list(dict.fromkeys(rows))
        odd = sorted(rows, key=lambda row: hashlib.sha256(row.encode()).digest())[1::2]
        held_out = [row for row in rows if row in odd]
    stream = [token for row in held_out for token in (*tokenizer.encode(row, add_special_tokens=False), end)]
    count = 96 if abstracts else 32
    tokens = torch.tensor(stream[: count * 128]).reshape(count, 128)
    original = None
    for bits in (None, 8, 6, 4):
        model, nll = load(folder, bits), []
        with torch.no_grad():
            for row in tokens:
                logits = model(row[None]).logits[0, :-1].double()
                nll.append(float((logits.logsumexp(-1) - logits[torch.arange(127), row[1:]]).mean()))
        found = float(np.exp(np.mean(nll)))
        original = original or found
        print(f"{f'{bits} bits' if bits else 'original'}: {found:.4f} ({100 * (found / original - 1):+.2f} %)")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:3])
