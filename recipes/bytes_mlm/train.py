"""Train `bytes-mlm` (0.9 M), the small masked language model that the package ships: BERT over bytes, both directions.

Pretraining methods for encoders need a plain masked language model to start from; the encoders that packages carry were
tuned to compare sentences and have no head to predict words with. Its text is the package's own 8,000 abstracts, those
that are marked as held out left out.

    python recipes/bytes_mlm/train.py --out DIR [--steps N] [--resume]

Words are masked whole (15 % of them; of their bytes eight in ten become [MASK], one a random byte, one stays), as in
BERT's second release: single bytes would be told by their neighbours. Its loss and accuracy on masked bytes of held-out
abstracts are written to `training.json` beside the model, with those of always saying the commonest byte.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from paperlab.assets.texts import load_text

SPECIAL = ("[PAD]", "[MASK]", "[SEP]")
PAD, MASK, SEP = range(3)
CONTEXT = 256  # bytes
BATCH = 64  # windows a step
PEAK_RATE, WARMUP, DECAY = 2e-3, 100, 0.4  # the last share of the steps: the rate falls linearly to zero
MASKED = 0.15  # of words
SEED = 0
CONFIG = {
    "vocab_size": 256 + len(SPECIAL),
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "type_vocab_size": 1,
    "pad_token_id": PAD,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def byte_tokenizer() -> Tokenizer:
    """One token for each byte, in the order of `ByteLevel`'s alphabet, behind the special ones; no merges."""
    names = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def stream_of(tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """All texts as one stream of ids, [SEP] before each."""
    return torch.tensor([i for text in tokenizer.encode_batch(texts) for i in (SEP, *text.ids)], dtype=torch.int16)


def windows(stream: Tensor, draw: torch.Generator) -> Iterator[Tensor]:
    """Batches (BATCH, CONTEXT) of ids without end, every window once an epoch."""
    rows = stream[: len(stream) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    while True:
        for chosen in torch.randperm(len(rows), generator=draw).split(BATCH):
            if len(chosen) == BATCH:
                yield rows[chosen].long()


def masked(rows: Tensor, space: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ids (n, length) -> what the network reads, and what it must say: -100 where nothing was masked. Words end at a
    space; a [SEP] is never masked."""
    words = (rows == space).int().cumsum(1)
    chosen = (torch.rand(rows.shape, generator=draw) < MASKED).gather(1, words) & (rows != SEP) & (rows != space)
    how = torch.rand(rows.shape, generator=draw)
    other = torch.randint(len(SPECIAL), 256 + len(SPECIAL), rows.shape, generator=draw)
    read = torch.where(chosen & (how < 0.8), MASK, rows)
    read = torch.where(chosen & (how >= 0.8) & (how < 0.9), other, read)
    return read, torch.where(chosen, rows, -100)


def loss_of(model: torch.nn.Module, read: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Nats and accuracy on the masked bytes; matrix products in bf16 where the processor has them."""
    at = wanted != -100
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
        states = model.bert(input_ids=read).last_hidden_state[at]  # type: ignore[operator, union-attr]
        logits = model.cls(states).float()  # type: ignore[operator]
    return F.cross_entropy(logits, wanted[at]), (logits.argmax(1) == wanted[at]).double().mean()


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, constant, linear decay to zero over the last `DECAY` of the steps."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    return PEAK_RATE * min(1.0, (steps - step) / (steps * DECAY))


def main() -> None:
    """Read the arguments, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    tokenizer = byte_tokenizer()
    space = tokenizer.encode(" ").ids[0]
    text = load_text("abstracts-8k")
    train = stream_of(tokenizer, [one for one in text.documents if one not in text.held_out])
    valid = stream_of(tokenizer, [one for one in text.documents if one in text.held_out])
    print(f"{len(train):,} bytes to train on, {len(valid):,} held out", flush=True)

    model = BertForMaskedLM(BertConfig(**CONFIG))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters", flush=True)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=PEAK_RATE, betas=(0.9, 0.98), fused=True,
    )  # fmt: skip
    start, curve, checkpoint = 0, [], arguments.out / "checkpoint.pt"
    if arguments.resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, curve = state["step"], state["curve"]

    draw, began = torch.Generator().manual_seed(SEED), time.time()
    for step, rows in enumerate(windows(train, draw)):
        if step == arguments.steps:
            break
        read, wanted = masked(rows, space, draw)  # drawn before a resumed run's first step too
        if step < start:
            continue
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, arguments.steps)
        loss, accuracy = loss_of(model, read, wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            curve.append([step, round(loss.item(), 4)])
            speed = (step - start + 1) * BATCH * CONTEXT / (time.time() - began)
            print(f"step {step} loss {loss.item():.4f} accuracy {accuracy:.3f} {speed:,.0f} bytes/s", flush=True)
        if step % 250 == 249:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1, "curve": curve}
            torch.save(state, checkpoint.with_suffix(".partial"))
            checkpoint.with_suffix(".partial").replace(checkpoint)

    model.to(torch.bfloat16).float()  # what is measured is what is stored
    model.eval()
    draw = torch.Generator().manual_seed(SEED)
    found = []
    with torch.no_grad():
        for _, rows in zip(range(40), windows(valid, draw), strict=False):
            read, wanted = masked(rows, space, draw)
            said = wanted[wanted != -100]
            found.append(
                [*map(float, loss_of(model, read, wanted)), float((said == said.mode().values).double().mean())]
            )
    nats, accuracy, commonest = (sum(column) / len(found) for column in zip(*found, strict=True))
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", mask_token="[MASK]", sep_token="[SEP]",
        model_max_length=CONFIG["max_position_embeddings"], model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(arguments.out)  # fmt: skip
    summary = {
        "steps": arguments.steps, "bytes": arguments.steps * BATCH * CONTEXT, "parameters": parameters,
        "held_out_nats": nats, "held_out_accuracy": accuracy, "commonest_byte": commonest, "curve": curve,
    }  # fmt: skip
    (arguments.out / "training.json").write_text(json.dumps(summary) + "\n")
    checkpoint.unlink(missing_ok=True)
    print(json.dumps({key: value for key, value in summary.items() if key != "curve"}))


if __name__ == "__main__":
    main()
