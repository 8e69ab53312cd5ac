"""Train the small language model that the package ships: 5.8 M parameters whose weights were never rounded.

The language models that packages carry were rounded to 4 bits once; a quantizer on that very grid loses nothing there.
This one is trained in fp32 master weights on CC0 arXiv titles and abstracts and stored in bf16, so that
every low-bit check has a model on which no grid is privileged.

    python recipes/abstracts_lm/train.py --abstracts arxiv.jsonl.xz --out DIR [--steps N] [--resume]

Input: JSON lines (plain, .gz or .xz) with the keys `title` and `abstract`. The last 1 % of the papers
(by a hash of the id) is held out; its loss is written to `training.json` beside the model.
"""

import argparse
import gzip
import hashlib
import json
import lzma
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 4096
CONTEXT = 256
BATCH = 32  # windows a step: 8,192 tokens
PEAK_RATE = 4e-3
WARMUP = 100
DECAY = 0.4  # the last share of the steps: the rate falls linearly to zero
SEED = 0

CONFIG = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def read_papers(path: Path) -> Iterator[tuple[bool, str]]:
    """Yield (held_out, text) for each paper of a JSON-lines file."""
    opener = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            digest = hashlib.sha256(str(row["id"]).encode()).digest()
            yield digest[0] * 256 + digest[1] < 655, " ".join(f"{row['title']}\n{row['abstract']}".split(" "))


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE of `VOCABULARY` entries; id 0 is the end-of-text token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """All texts as one stream of token ids, each after an end-of-text token."""
    stream: list[int] = []
    for encoding in tokenizer.encode_batch(texts):
        stream.append(0)
        stream.extend(encoding.ids)
    return np.asarray(stream, dtype=np.uint16)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, constant, linear decay to zero over the last `DECAY` of the steps."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    return PEAK_RATE * min(1.0, (steps - step) / (steps * DECAY))


def batches(stream: np.ndarray, steps: int) -> Iterator[torch.Tensor]:
    """Windows of CONTEXT + 1 tokens, every window once an epoch, shuffled with the fixed seed."""
    windows = (len(stream) - 1) // CONTEXT
    random = np.random.default_rng(SEED)
    queue: list[int] = []
    for _ in range(steps):
        while len(queue) < BATCH:
            queue.extend(random.permutation(windows).tolist())
        chosen, queue = queue[:BATCH], queue[BATCH:]
        rows = np.stack([stream[i * CONTEXT : i * CONTEXT + CONTEXT + 1] for i in chosen])
        yield torch.from_numpy(rows.astype(np.int64))


def loss_of(model: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats over rows (b, CONTEXT + 1), matrix products in bf16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, stream: np.ndarray, windows: int = 256) -> float:
    """Mean loss in nats over the first `windows` windows of the stream."""
    rows = np.stack([stream[i * CONTEXT : i * CONTEXT + CONTEXT + 1] for i in range(windows)])
    rows = torch.from_numpy(rows.astype(np.int64))
    return float(torch.stack([loss_of(model, part) for part in rows.split(BATCH)]).mean())


def main() -> None:
    """Read the arguments, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--abstracts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)

    papers = list(read_papers(arguments.abstracts))
    train_texts = [text for held_out, text in papers if not held_out]
    valid_texts = [text for held_out, text in papers if held_out]
    token_file = arguments.out / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(token_file)) if token_file.exists() else train_tokenizer(train_texts[::4])
    tokenizer.save(str(token_file))
    train, valid = encode(tokenizer, train_texts), encode(tokenizer, valid_texts)
    print(f"{len(train_texts)} papers, {len(train):,} tokens; held out {len(valid_texts)}, {len(valid):,}", flush=True)

    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=PEAK_RATE,
        betas=(0.9, 0.95),
        fused=True,
    )
    start, curve, checkpoint = 0, [], arguments.out / "checkpoint.pt"
    if arguments.resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, curve = state["step"], state["curve"]
    compiled = torch.compile(model)

    began = time.time()
    for step, rows in enumerate(batches(train, arguments.steps)):
        if step < start:
            continue
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, arguments.steps)
        loss = loss_of(compiled, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            curve.append([step, round(loss.item(), 4)])
            speed = (step - start + 1) * BATCH * CONTEXT / (time.time() - began)
            print(f"step {step} loss {loss.item():.4f} {speed:,.0f} tokens/s", flush=True)
        if step % 250 == 249:
            partial = checkpoint.with_suffix(".partial")
            torch.save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1, "curve": curve},
                partial,
            )
            partial.replace(checkpoint)

    loss = held_out_loss(compiled, valid)
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(arguments.out)
    summary = {
        "steps": arguments.steps,
        "tokens": arguments.steps * BATCH * CONTEXT,
        "held_out_papers": len(valid_texts),
        "held_out_loss": loss,
        "held_out_perplexity": math.exp(loss),
        "curve": curve,
    }
    (arguments.out / "training.json").write_text(json.dumps(summary) + "\n")
    checkpoint.unlink(missing_ok=True)
    print(json.dumps({k: v for k, v in summary.items() if k != "curve"}))


if __name__ == "__main__":
    main()
