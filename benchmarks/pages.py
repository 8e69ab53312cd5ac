"""How fast the pages are with many papers, and how heavy: requests at a steady rate against a real server.

    python benchmarks/pages.py make HOME --papers FILE.jsonl[.gz|.xz] [--count 100000]
    python benchmarks/pages.py vectors HOME --papers FILE
    python benchmarks/pages.py run HOME [--rate 20] [--seconds 60] [--out benchmarks/pages.md]

`make` fills a store with papers resampled from real ones (as benchmarks/search/speed.py does), a daily list of 60 for
each of the last 300 days, and the word index; `vectors` adds vectors, as benchmarks/search/speed.py makes them.
PAPERLAB_DATABASE names another database than SQLite, PAPERLAB_ENCODER=none leaves meaning out. `run` starts one server
process and asks for the feed, searches, papers and lists in turn, never twice the same search, each request
when its time has come whether or not the one before is answered. Times are those of the client, gzip on.
"""

import argparse
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "search"))
import speed  # the same papers

LISTS, LISTED = 300, 60
PART = 10_000
REAL = 500  # embeddings that are the encoder's own


def make(file: Path, count: int) -> None:
    """Fill the store and the index."""
    from paperlab.site.start import start

    start()
    from django.db import transaction

    from paperlab.site.search import index
    from paperlab.site.store import clean
    from paperlab.site.store.models import Counter, Paper, Sighting

    rows, draw = list(speed.papers(file)), random.Random(1)
    revision = Counter.objects.get(name="revision").value
    batch: list[Paper] = []

    def put() -> None:
        with transaction.atomic():
            Paper.objects.bulk_create(batch)
            Counter.objects.filter(name="revision").update(value=revision)
        batch.clear()

    for n, row in enumerate(speed.resampled(rows, count)):
        revision += 1
        batch.append(
            Paper(
                arxiv=f"{10 + n // 50000:02d}{1 + n // 5000 % 12:02d}.{n % 100000:05d}", title=row["title"],
                title_key=clean.title_key(row["title"]), abstract=row["abstract"], authors=row["authors"],
                author_count=len(row["authors"]), categories=row["categories"], published=row["published"],
                year=row["published"].year, code="https://github.com/a/b" * row["code"], revision=revision,
            )
        )  # fmt: skip
        if len(batch) == PART:
            put()
            print(f"{n + 1:,} papers", flush=True)
    put()
    keys = list(Paper.objects.values_list("pk", flat=True))
    today = datetime.now(UTC).date()
    Sighting.objects.bulk_create(
        (
            Sighting(
                paper_id=key, source="daily", day=today - timedelta(day), upvotes=draw.randrange(300),
                comments=draw.randrange(20),
            )
            for day in range(LISTS)
            for key in draw.sample(keys, LISTED)
        ),
        batch_size=PART,
    )  # fmt: skip
    index.refresh(meaning=False)


def addresses() -> dict[str, list[str]]:
    """What is asked for, by kind."""
    from paperlab.site.start import start

    start()
    from paperlab.site.store.models import Paper

    draw = random.Random(2)
    last = Paper.objects.order_by("-pk").values_list("pk", flat=True)[0]
    rows = Paper.objects.filter(pk__in=draw.sample(range(1, last + 1), 2000)).values_list("arxiv", "title")
    names = [arxiv for arxiv, _ in rows if arxiv]
    titles = [title.split() for _, title in rows]
    today = datetime.now(UTC).date()
    searches = [" ".join(words[draw.randrange(max(1, len(words) - 3)) :][:3]) for words in titles]
    return {
        "feed": [
            "/",
            *(f"/?date={today - timedelta(n)}" for n in range(LISTS)),
            *(f"/?week=2024-W{n:02d}" for n in range(1, 50)),
        ],
        "search": [f"/search?q={urllib.parse.quote(words)}" for words in searches],
        "paper": [f"/papers/{name}" for name in names],
        "trending, newest, coverage, compare": ["/trending", "/papers", "/coverage", "/compare/quantization"],
    }  # fmt: skip


def fetch(url: str) -> tuple[float, int, int]:
    """Seconds, status, bytes."""
    asked = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})
    begun = time.perf_counter()
    with urllib.request.urlopen(asked, timeout=60) as answer:
        size = len(answer.read())
        return time.perf_counter() - begun, answer.status, size


def run(rate: float, seconds: float, out: Path | None) -> None:
    """Measure."""
    from paperlab.core.home import home

    kinds = addresses()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "paperlab.site.asgi:application",
        "--port",
        str(port),
        "--lifespan",
        "off",
    ]
    server = subprocess.Popen([*command, "--log-level", "warning"])
    site = f"http://127.0.0.1:{port}"
    lines = []
    try:
        while True:
            try:
                fetch(f"{site}/search?q=warm")
                break
            except OSError:
                time.sleep(0.3)
        for some in kinds.values():
            for path in some[:10]:
                fetch(site + path)
        draw = random.Random(3)
        mixed: list[tuple[str, str]] = []
        for _ in range(int(rate * seconds)):
            kind = draw.choices(list(kinds), weights=(4, 3, 3, 1))[0]
            mixed.append((kind, draw.choice(kinds[kind])))
        found: dict[str, list[tuple[float, int, int]]] = {kind: [] for kind in kinds}
        lock = threading.Lock()

        def ask(kind: str, path: str) -> None:
            told = fetch(site + path)
            with lock:
                found[kind].append(told)

        begun = time.perf_counter()
        with ThreadPoolExecutor(64) as pool:
            waiting = []
            for n, (kind, path) in enumerate(mixed):
                time.sleep(max(0.0, begun + n / rate - time.perf_counter()))
                waiting.append(pool.submit(ask, kind, path))
            for one in waiting:
                one.result()
        load = os.getloadavg()[0]
        file = home() / "paperlab.sqlite3"
        store = f"store of {file.stat().st_size / 1e6:.0f} MB" if file.exists() else "PostgreSQL"
        lines = [
            f"{rate:g} requests a second for {seconds:g} s, one server process, {store}; "
            f"{os.cpu_count()} cores, load {load:.1f} at the end, client included.",
            "",
            "| page | requests | median, ms | p95, ms | most, ms | kB, median |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for kind, answers in found.items():
            times = sorted(1000 * s for s, _, _ in answers)
            p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
            weight = statistics.median(b for _, _, b in answers) / 1000
            cells = (
                kind,
                len(times),
                f"{statistics.median(times):.0f}",
                f"{p95:.0f}",
                f"{times[-1]:.0f}",
                f"{weight:.1f}",
            )
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    finally:
        server.terminate()
        server.wait(20)
    print("\n".join(lines))
    if out is not None:
        out.write_text("\n".join(["# Pages", "", *lines, ""]))


def main() -> None:
    """Read the arguments and do what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "vectors", "run"))
    parser.add_argument("home", type=Path)
    parser.add_argument("--papers", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ["PAPERLAB_HOME"] = str(given.home)
    os.environ["PAPERLAB_TOKEN"] = "off"
    if given.what == "run":
        run(given.rate, given.seconds, given.out)
    elif given.papers is None:
        parser.error(f"{given.what} needs --papers")
    elif given.what == "make":
        make(given.papers, given.count)
    else:
        from paperlab.site.start import start

        start()
        speed.embed(list(speed.papers(given.papers)), REAL)


if __name__ == "__main__":
    main()
