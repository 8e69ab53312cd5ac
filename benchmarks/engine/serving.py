"""What a server gives 1, 2, 4 and 8 clients at once: tokens and requests per second, and the wait for a first token.

    python benchmarks/engine/serving.py --bits 4 --threads 2

Each client sends one chat after another (the beginning of a paper's summary; no two alike) and takes as many tokens as
`--tokens` says, streamed. The numbers of clients take turns; rates are medians over the rounds. `--intrude` sends one
long prompt into seven streams instead, and tells how long these wait. The clients are one process of their own on the
same machine, as light as they can be, and take their share of its cores.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from paperlab.core.paper import papers


@dataclass
class Turn:
    """What some clients saw. seconds: all of it; first: to each request's first token; tokens, requests: counts."""

    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    tokens: int = 0
    requests: int = 0


@contextmanager
def server(words: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """(port, process id) of a server that is ready."""
    command = [sys.executable, "-m", "paperlab", "serve-model", words.model, "--port", "0", "--slots", "8"]
    command += ["--threads", str(words.threads), "--activation-bits", str(words.activation_bits)]
    command += ["--bits", str(words.bits)] if words.bits else []
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        for line in process.stderr:
            if found := re.search(r"is served at http://[^/]*:(\d+)/", line):
                yield int(found[1]), process.pid
                break
        else:
            sys.exit("the server did not start")
    finally:
        process.terminate()
        process.wait()


async def ask(
    port: int, name: str, prompt: str, words: argparse.Namespace, turn: Turn, tokens: int | None = None
) -> list[float]:
    """One request on a connection of its own. When its parts came."""
    body = {
        "model": name,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens or words.tokens,
        "temperature": words.temperature,
        "seed": 1,
        "ignore_eos": True,
        "stream": not words.whole,
    }
    raw = json.dumps(body).encode()
    begun = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(raw)}\r\nConnection: close\r\n\r\n".encode() + raw)
    answer, came = b"", []
    while part := await reader.read(1 << 16):
        answer += part
        came.append(time.perf_counter())
    writer.close()
    if b" 200 " not in answer[:20] or b'"finish_reason":"length"' not in answer:
        sys.exit(f"an answer went wrong: {answer[:500]!r}")
    turn.first.append(came[0] - begun)
    turn.tokens += tokens or words.tokens
    turn.requests += 1
    return came


async def take_turn(port: int, name: str, clients: int, prompts: Iterator[str], words: argparse.Namespace) -> Turn:
    """`clients` clients, each with its requests one after another."""
    turn = Turn()

    async def client() -> None:
        for _ in range(words.requests):
            await ask(port, name, next(prompts), words, turn)

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    turn.seconds = time.perf_counter() - begun
    return turn


async def intrude(port: int, name: str, prompts: Iterator[str], words: argparse.Namespace) -> None:
    """Print the waits between the parts of seven streams while another client's long prompt is read, and before."""
    turn, prompt = Turn(), ""
    while len(prompt) < words.intrude:
        prompt += next(prompts)

    async def late() -> tuple[float, float]:
        await asyncio.sleep(2)
        begun = time.perf_counter()
        return begun, (await ask(port, name, prompt[: words.intrude], words, turn, 1))[0]

    *streams, (begun, read) = await asyncio.gather(
        *(ask(port, name, next(prompts), words, turn, 1000) for _ in range(7)), late()
    )
    print(f"a prompt of {words.intrude} characters beside seven streams: first token after {read - begun:.2f} s")
    print("| seven streams | ms between parts, median | 95th percentile | longest |")
    print("|---|---|---|---|")
    for when, low, high in (("before", begun - 1, begun), ("meanwhile", begun, read)):
        gaps = sorted(1000 * (b - a) for came in streams for a, b in pairwise(came) if low < b <= high)
        print(f"| {when} | {statistics.median(gaps):.0f} | {gaps[int(len(gaps) * 0.95)]:.0f} | {gaps[-1]:.0f} |")


def main() -> None:
    """Measure in turns and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--bits", type=int)
    parser.add_argument("--activation-bits", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--requests", type=int, default=1, help="of each client in a turn")
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--prompt", type=int, default=200, help="characters of each prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--whole", action="store_true", help="answers in one piece instead of streams")
    parser.add_argument("--intrude", type=int, help="measure a prompt of so many characters beside streams instead")
    words = parser.parse_args()
    texts = [paper.summary for paper in papers().values() if paper.summary]
    prompts = (f"{i}. Say this in other words: {texts[i % len(texts)][: words.prompt]}" for i in range(10**9))
    turns: dict[int, list[Turn]] = {clients: [] for clients in words.clients}
    name = words.model.rstrip("/").rpartition("/")[2]
    with server(words) as (port, _):
        if words.intrude:
            return asyncio.run(intrude(port, name, prompts, words))
        for round_ in range(words.rounds + 1):
            for clients in words.clients:
                turn = asyncio.run(take_turn(port, name, clients, prompts, words))
                if round_:  # the first warms up
                    turns[clients].append(turn)
    print(json.dumps({**vars(words), "load": round(os.getloadavg()[0], 1)}))
    print("| clients | tokens/s | of one client's | requests/s | first token, ms, median | of the slowest tenth |")
    print("|---|---|---|---|---|---|")
    one = 0.0
    for clients, taken in turns.items():
        rate = statistics.median(turn.tokens / turn.seconds for turn in taken)
        asked = statistics.median(turn.requests / turn.seconds for turn in taken)
        first = sorted(1000 * seconds for turn in taken for seconds in turn.first)
        one = one or rate
        slow = first[int(len(first) * 0.9)]
        print(
            f"| {clients} | {rate:.0f} | {rate / one:.2f} | {asked:.2f} | {statistics.median(first):.0f} | {slow:.0f} |"
        )


if __name__ == "__main__":
    main()
