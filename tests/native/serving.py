"""Small models with tokenizers, and real servers over them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import openai
import psutil
from test_hostile import model as one_block
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.models import WordLevel

from paperlab.engine.detokenizer import byte_of_letter
from paperlab.engine.packing.container import write

MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("e", "r"), ("a", "n"), ("Ġ", "a"), ("o", "n")]
SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
TEMPLATE += "{% if terse is defined and terse %}no{% endif %}"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is there, then?"}]
LONG = 60_000  # tokens: more than a test waits for
WORDS = [f"w{i}" for i in range(60)]


def language_model(folder: Path) -> Path:
    """One block with random weights over bytes: fast, and its texts are full of broken characters."""
    letters = sorted(byte_of_letter(), key=byte_of_letter().__getitem__)
    vocabulary = {name: i for i, name in enumerate([*letters, *("".join(pair) for pair in MERGES)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    size = tokenizer.get_vocab_size()
    random = np.random.default_rng(1)
    tensors = {
        name: random.standard_normal((size, 32)).astype(np.float32)
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    tensors["lm_head.weight"][:128] *= 1.5  # more ASCII, so that there is text to stop at
    config = {"vocab_size": size, "max_position_embeddings": 1 << 16, "tie_word_embeddings": False}
    one_block(folder, {**config, "eos_token_id": vocabulary["the"]}, **tensors)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE, "eos_token": "<|end|>"}))
    return folder


def encoder(folder: Path) -> Path:
    """One block of the BERT layout over 60 words."""
    random = np.random.default_rng(2)
    width, inner, at = 32, 64, "encoder.layer.0."
    shapes = {
        "embeddings.word_embeddings.weight": (64, width),
        "embeddings.position_embeddings.weight": (48, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
        at + "intermediate.dense.weight": (inner, width),
        at + "intermediate.dense.bias": (inner,),
        at + "output.dense.weight": (width, inner),
        at + "output.dense.bias": (width,),
        at + "attention.output.LayerNorm.weight": (width,),
        at + "attention.output.LayerNorm.bias": (width,),
        at + "output.LayerNorm.weight": (width,),
        at + "output.LayerNorm.bias": (width,),
    }
    for name in ("self.query", "self.key", "self.value", "output.dense"):
        shapes |= {f"{at}attention.{name}.weight": (width, width), f"{at}attention.{name}.bias": (width,)}
    tensors = {name: ("F32", random.standard_normal(shape).astype(np.float32)) for name, shape in shapes.items()}
    folder.mkdir()
    write(folder / "model.safetensors", tensors, {})
    config = {
        "model_type": "bert",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 48,
        "type_vocab_size": 2,
        "vocab_size": 64,
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(
        WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2} | {w: i + 3 for i, w in enumerate(WORDS)}, "[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


class Server:
    """A server process. url: its address; model: the name it serves."""

    def __init__(self, process: subprocess.Popen, url: str, model: str) -> None:
        self.process, self.url, self.model = process, url, model
        self.port = int(url.rpartition(":")[2])
        self.seen = psutil.Process(process.pid)

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=300)

    def raw(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one request on a connection of its own, as they are."""
        lines = {"Host": "localhost", "Connection": "close", "Content-Length": str(len(body))}
        lines |= {"Content-Type": "application/json"} if body else {}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        with socket.create_connection(("127.0.0.1", self.port), timeout=300) as opened:
            head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
            opened.sendall(head.encode() + body)
            answer = b""
            while part := opened.recv(1 << 16):
                answer += part
        head, _, rest = answer.partition(b"\r\n\r\n")
        first, *fields = head.decode().split("\r\n")
        return int(first.split()[1]), {k.lower(): v for k, _, v in (f.partition(": ") for f in fields)}, rest

    def open(self, path: str, **body: object) -> socket.socket:
        """A request whose answer nobody has read yet."""
        raw = json.dumps({"model": self.model, **body}).encode()
        opened = socket.socket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.settimeout(300)
        opened.connect(("127.0.0.1", self.port))
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        opened.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        return opened

    def metric(self, name: str, **labels: str) -> float:
        """A number of /metrics, summed over what the labels leave open; 0 where there is none."""
        page = self.raw("GET", "/metrics")[2].decode()
        matches = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", page, re.MULTILINE)
        return sum(float(v) for at, v in matches if all(f'{key}="{value}"' in at for key, value in labels.items()))

    def until(self, true, seconds: float = 60) -> None:
        """Wait for it."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"it did not come true in {seconds} s"
            assert self.process.poll() is None, "the server has ended"
            time.sleep(0.02)

    def ends(self, number: int) -> int:
        """Its exit status after a signal."""
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def served(folder: Path, *options: str, port: int = 0, patch: str = "", **environment: str):
    """A server that is ready. patch: Python that runs in it first, to shorten its patience."""
    code = f"from paperlab.cli import main; from paperlab.engine.serve import guard, run, texts; {patch}\nmain()"
    words = ["serve-model", str(folder), "--port", str(port), "--threads", "1", *options]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        for line in process.stderr:
            if match := re.search(r"is served at (http://\S+)/v1", line):
                break
        else:
            raise AssertionError("the server did not start")
        yield Server(process, match[1], folder.name)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        process.stderr.close()
