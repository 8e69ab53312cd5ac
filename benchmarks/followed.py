"""What followed searches find in the digest, and what a hundred of them cost.

python benchmarks/followed.py daily.jsonl.gz [--copies 1] [--days 10]

The file holds real daily lists, one paper a line (what `paperlab import` takes). --copies: how often each paper is
stored, the copies as papers of long ago. Recall is counted without the search: a paper of the day has a word if a
regular expression finds it, or its plural, in the title or the abstract. Cut: the first 100 hits of the whole store,
those of the day among them. Prints one JSON line.
"""

import argparse
import json
import os
import re
import resource
import tempfile
import time
from datetime import date
from pathlib import Path

WORDS = ("diffusion", "agents", "speech", "quantization", "video", "reward", "safety", "retrieval", "code generation",
         "3d", "reasoning", "benchmark", "multimodal", "pruning", "attention", "robot", "image editing", "medical",
         "long context", "mixture of experts")  # fmt: skip
MORE = ("model", "language", "data", "training", "efficient", "learning")  # a hundred searches: each word with each


def pattern(words: str) -> list[re.Pattern[str]]:
    """Each word, or its plural, or its singular."""
    return [re.compile(rf"\b{re.escape(word.removesuffix('s'))}s?\b", re.IGNORECASE) for word in words.split()]


def copied(file: Path, copies: int) -> None:
    """Papers of the file under ids of long ago."""
    from paperlab.site.store.models import Paper

    rows = list(Paper.objects.order_by("pk").values("title", "abstract", "authors", "categories", "published"))
    for copy in range(1, copies):
        made = [
            Paper(**{**row, "published": date(2000 + copy % 20, 1, 1)}, arxiv=f"{copy:02d}00.{n:05d}",
                  title_key=f"{copy}.{n}", revision=1)
            for n, row in enumerate(rows)
        ]  # fmt: skip
        Paper.objects.bulk_create(made, batch_size=2_000)


def main() -> None:
    """Import, ask, count."""
    asked = argparse.ArgumentParser()
    asked.add_argument("file", type=Path)
    asked.add_argument("--copies", type=int, default=1)
    asked.add_argument("--days", type=int, default=10)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"PAPERLAB_HOME": folder, "PAPERLAB_ENCODER": "none"}
        from paperlab.site.start import start

        start()
        from django.db.models import Count

        from paperlab.site.commands import ingest
        from paperlab.site.digest import choose
        from paperlab.site.search import index, query, rank
        from paperlab.site.store.models import Paper, Sighting

        ingest.import_file(str(given.file), "jsonl", None)
        copied(given.file, given.copies)
        if given.copies > 1:
            index.refresh(meaning=False, rebuild=True)
        days = list(Sighting.objects.order_by("-day").values_list("day", flat=True).distinct()[: given.days])
        besides = 0
        of: dict[str, list[int]] = {}
        for day in days:
            keys = choose.Issue(day, "day", "").keys
            texts = {key: f"{title}\n{abstract}" for key, title, abstract in
                     Paper.objects.filter(pk__in=keys).values_list("pk", "title", "abstract")}  # fmt: skip
            for words in WORDS:
                each = pattern(words)
                holding = {key for key, text in texts.items() if all(one.search(text) for one in each)}
                old = {hit.paper for hit in rank.search(query.Query(text=words, limit=100)).hits} & set(keys)
                new = set(rank.among(query.Query(text=words), keys))
                counts = of.setdefault(words, [0, 0, 0])
                counts[0] += len(holding)
                counts[1] += len(old & holding)
                counts[2] += len(new & holding)
                besides += len(new - holding)
        wanted, cut, now = (sum(counts[n] for counts in of.values()) for n in range(3))
        listed = Sighting.objects.values("day").annotate(papers=Count("pk"))
        fullest = max(listed, key=lambda row: row["papers"])["day"]
        hundred = [f"{word} {more}".strip() for more in ("", *MORE) for word in WORDS][:100]
        interests = [("search", f"q={words.replace(' ', '+')}") for words in hundred]
        seconds = []
        for every in ("day", "week"):
            for _ in range(3):
                issue = choose.Issue(fullest, every, "https://papers.example.org")
                began, cpu = time.perf_counter(), time.process_time()
                sections = issue.sections(interests)
                took = round(time.perf_counter() - began, 2), round(time.process_time() - cpu, 2)
                seconds.append({"span": every, "seconds": took[0], "cpu": took[1], "papers": len(issue.keys),
                                "sections": len(sections)})  # fmt: skip
        row = {
            "papers": Paper.objects.count(),
            "days": len(days),
            "of_the_day_with_the_words": wanted,
            "found_by_the_cut": cut,
            "found": now,
            "found_besides": besides,
            "diffusion": of["diffusion"],
            "agents": of["agents"],
            "hundred_searches": seconds,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "load": round(os.getloadavg()[0], 1),
        }
        print(json.dumps(row))


if __name__ == "__main__":
    main()
