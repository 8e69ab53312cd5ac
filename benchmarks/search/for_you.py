"""How well "for you" finds what a reader wants, beside trending and search: simulated readers, real daily lists.

    python benchmarks/search/for_you.py hf_daily_papers_api.jsonl.gz [--days 90] [--words 100] [--out FILE.md]

The file is of lines with id, title, abstract, upvotes, num_comments, seen_on. Its last days are taken into a store of
their own, the abstracts cut to their first words, indexed and embedded. A reader is defined by words, never by
vectors: a topic is a pattern over title and whole abstract, a reader wants one topic or two. The reader votes for the
wanted papers of the first lists (each with probability TAKES, and for any other with SLIPS), the latest first, until
they have given so many votes; "for you" learns from those votes alone. Then each later week is ranked whole, by

    for you    the site's own function, with vectors and with words alone
    logistic   scikit-learn's regression on the same examples
    search     the site's search for the topic's name (both names in turn for two), within the week
    trending   the site's score on the last day of the week
    chance     in a random order

and nDCG@10 of the wanted papers is averaged over the weeks that hold any, then over readers. Search is told the topic
by its name, which a person can do only after putting a wish into words; "for you" has to find it from votes.
"""

import argparse
import gzip
import json
import math
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

# name as somebody would search for it: the pattern that says what they want
TOPICS = {
    "speech synthesis and recognition": r"\b(speech|text-to-speech|tts|speaker|asr)\b",
    "quantization and pruning": r"quantiz|low-bit|\bpruning\b",
    "robot manipulation": r"\brobot",
    "medical": r"\b(medical|clinical|radiology|health)",
    "mathematical reasoning": r"mathematical reasoning|theorem|math problem",
    "3D reconstruction": r"\b3d (reconstruction|scene|generation|gaussian)|gaussian splatting",
    "safety and jailbreaks": r"jailbreak|red.team|safety alignment|\bharmful",
    "retrieval augmented generation": r"retrieval.augmented|\brag\b",
    "mixture of experts": r"mixture.of.experts|\bmoe\b",
    "video generation": r"video generation|video diffusion|text-to-video",
    "GUI agents": r"\bgui\b|computer.use agent",
    "world models": r"world model",
    "music and audio": r"\bmusic|\baudio generation|sound",
    "documents and OCR": r"\bocr\b|document (parsing|understanding)",
    "diffusion language models": r"diffusion language|masked diffusion|diffusion llm",
    "long context": r"long.context|kv.cache",
    "interpretability": r"interpretab|mechanistic",
    "multilingual": r"multilingual|low-resource language",
    "software engineering agents": r"swe-bench|software engineering|code generation",
    "tokenizers": r"tokeniz",
}
TAKES, SLIPS = 0.7, 0.01
VOTES = (3, 10, 30)
TOP = 10
TEST = 0.4  # of the days are for the test
PAIRS = 20  # readers with two topics
HALF = 5  # least number of wanted papers in the test days


def rows_of(file: Path, days: int) -> list[dict[str, Any]]:
    """The rows that were in a list of the last `days` days of the file."""
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        every = [json.loads(line) for line in stream]
    last = sorted({day for row in every for day in row["seen_on"]})[-days:]
    return [{**row, "seen_on": kept} for row in every if (kept := [day for day in row["seen_on"] if day in set(last)])]


def gain(ranked: Sequence[int], wanted: set[int]) -> float:
    """nDCG at TOP with gains of 0 and 1."""
    got = sum(1 / math.log2(place + 2) for place, key in enumerate(ranked[:TOP]) if key in wanted)
    return got / sum(1 / math.log2(place + 2) for place in range(min(TOP, len(wanted))))


class Lists:
    """The lists of the store: papers by day, and the words of each paper."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        from paperlab.site.store.models import Paper, Sighting

        self.days: dict[date, list[int]] = {}
        for day, paper in Sighting.objects.order_by("day", "paper").values_list("day", "paper"):
            self.days.setdefault(day, []).append(paper)
        keys = dict(Paper.objects.values_list("arxiv", "pk"))
        self.words = {keys[row["id"]]: f"{row['title']} {row['abstract']}".lower() for row in rows if row["id"] in keys}
        order = sorted(self.days)
        cut = round(len(order) * (1 - TEST))
        self.first, later = order[:cut], order[cut:]
        self.weeks = [later[at : at + 5] for at in range(0, len(later) - 4, 5)]  # of five lists each

    def wanted(self, names: Iterable[str]) -> set[int]:
        """The papers that somebody with these topics wants."""
        pattern = re.compile("|".join(TOPICS[name] for name in names))
        return {key for key, words in self.words.items() if pattern.search(words)}

    def week(self, days: Sequence[date]) -> list[int]:
        """The papers of some days' lists."""
        return list(dict.fromkeys(key for day in days for key in self.days[day]))


def vote(lists: Lists, wanted: set[int], most: int, draw: random.Random, user: int) -> int:
    """Give a reader's votes on the first lists, from the last of them backwards; how many there were."""
    from paperlab.site.people.models import Vote

    given = []
    for day in reversed(lists.first):
        for key in lists.days[day]:
            if len(given) < most and draw.random() < (TAKES if key in wanted else SLIPS):
                given.append(Vote(user_id=user, paper_id=key, day=day))
    Vote.objects.bulk_create(given, ignore_conflicts=True)
    return len(given)


def peers(learnt: Any, engine: Any, liked: Sequence[int], left: Sequence[int], keys: Sequence[int]) -> dict[str, Any]:
    """What scikit-learn's logistic regression makes of the same examples, and in how long."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    good, x = engine.vectors_of(liked)
    bad, y = engine.vectors_of(left)
    begun = time.process_time()
    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=200)
    model.fit(np.concatenate([x, y]), [1] * len(good) + [0] * len(bad))
    seconds = time.process_time() - begun
    found, vectors = engine.vectors_of(keys)
    return {"scores": dict(zip(found, model.decision_function(vectors).tolist(), strict=True)), "seconds": seconds}


def measure(lists: Lists) -> tuple[dict[str, dict[int, list[float]]], list[float], list[float]]:
    """{way: {votes: nDCG of each reader}}, and the seconds of processor that learning and its peer take."""
    from dataclasses import replace

    from django.contrib.auth.models import User

    from paperlab.site.people import for_you
    from paperlab.site.people.models import Vote
    from paperlab.site.search import index, rank
    from paperlab.site.search.query import Query
    from paperlab.site.search.trending import trending

    engine, draw = index.engine(), random.Random(0)
    names = sorted(TOPICS)
    readers = [(name,) for name in names] + [tuple(draw.sample(names, 2)) for _ in range(PAIRS)]
    talked = {week[-1]: [key for key, _ in trending(week[-1], 100_000)] for week in lists.weeks}
    ways: dict[str, dict[int, list[float]]] = {}
    times: list[float] = []
    logistic: list[float] = []
    user = User.objects.get_or_create(username="simulated")[0].pk
    for topics in readers:
        wanted = lists.wanted(topics)
        weeks = [(days, keys) for days in lists.weeks if wanted.intersection(keys := lists.week(days))]
        if sum(len(wanted.intersection(keys)) for _, keys in weeks) < HALF:
            continue
        for votes in VOTES:
            Vote.objects.all().delete()
            if vote(lists, wanted, votes, random.Random(f"{topics} {votes}"), user) < for_you.ENOUGH:
                continue
            begun = time.process_time()
            learnt = for_you.taste(user, engine)
            times.append(time.process_time() - begun)
            assert learnt is not None
            left = for_you._left(user, learnt.liked)
            results: dict[str, list[float]] = {}
            for days, keys in weeks:
                inside = wanted.intersection(keys)
                by_words = for_you.scores(replace(learnt, direction=None), engine, keys)
                peer = peers(learnt, engine, list(learnt.liked), left, keys)
                logistic.append(peer["seconds"])
                asked = [
                    [hit.paper for hit in rank.search(Query(name, limit=100), only=frozenset(keys)).hits]
                    for name in topics
                ]
                turns = [key for turn in zip(*asked, strict=False) for key in turn]
                scored = {
                    "for you": for_you.scores(learnt, engine, keys),
                    "for you, by words alone": by_words,
                    "the same examples, logistic regression": peer["scores"],
                }
                orders = {way: sorted(keys, key=lambda key: (-s.get(key, -9.0), key)) for way, s in scored.items()}
                present = set(keys)
                orders["search for the topic's name"] = list(dict.fromkeys(turns))
                orders["trending"] = [key for key in talked[days[-1]] if key in present]
                orders["chance"] = random.Random(str(days[0])).sample(keys, len(keys))
                for way, order in orders.items():
                    results.setdefault(way, []).append(gain(order, inside))
            for way, gains in results.items():
                ways.setdefault(way, {}).setdefault(votes, []).append(statistics.fmean(gains))
    return ways, times, logistic


def table(ways: dict[str, dict[int, list[float]]]) -> list[str]:
    """The table, with the standard error over readers."""
    lines = ["| nDCG@10 | " + " | ".join(f"≤ {votes} votes" for votes in VOTES) + " |", "|---|" + "---|" * len(VOTES)]
    for way, by_votes in ways.items():
        cells = []
        for votes in VOTES:
            some = by_votes[votes]
            cells.append(f"{statistics.fmean(some):.3f} ± {statistics.stdev(some) / math.sqrt(len(some)):.3f}")
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return lines


def run(file: Path, days: int, words: int, out: Path | None) -> None:
    """Make the store, measure, print."""
    from paperlab.site.start import configure

    configure()
    from django.core.management import call_command

    call_command("migrate", interactive=False, verbosity=0)
    from paperlab.site.search import index
    from paperlab.site.store import write
    from paperlab.site.store.item import Item, Page, Sighting
    from paperlab.site.store.models import Paper

    rows = rows_of(file, days)
    items = [
        Item(
            arxiv=row["id"], title=row["title"], authors=row["authors"],
            abstract=" ".join(row["abstract"].split()[:words]),
            published_day=date.fromisoformat(row["published"][:10]) if row.get("published") else None,
            sightings=[Sighting(date.fromisoformat(d), row["upvotes"], row["num_comments"]) for d in row["seen_on"]],
        ).checked()
        for row in rows
    ]  # fmt: skip
    if not Paper.objects.exists():
        write.take(Page(items), write.Run("daily-papers"))
    begun = time.perf_counter()
    index.refresh()
    print(f"{Paper.objects.count():,} papers embedded in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    lists = Lists(rows)
    begun = time.perf_counter()
    ways, times, logistic = measure(lists)
    spans = [len(lists.week(days)) for days in lists.weeks]
    text = "\n".join(
        [
            *table(ways),
            "",
            f"{Paper.objects.count():,} papers in {len(lists.days)} daily lists,"
            f" {min(lists.days)} to {max(lists.days)}, abstracts of {words} words;"
            f" votes on the first {len(lists.first)} lists, test on {len(lists.weeks)} weeks of five lists"
            f" ({statistics.fmean(spans):.0f} papers on the mean); {len(ways['chance'][VOTES[0]])} readers,"
            " ± is the standard error over them. Processor time of all that is learnt of a reader, examples fetched and"
            " words counted:"
            f" {statistics.median(times) * 1000:.0f} ms (median; largest {max(times) * 1000:.0f} ms);"
            f" logistic regression alone: {statistics.median(logistic) * 1000:.0f} ms."
            f" Measured in {time.perf_counter() - begun:.0f} s.",
        ]
    )
    print(text)
    if out is not None:
        begin, end = "<!-- table -->", "<!-- end -->"
        before, _, rest = out.read_text(encoding="utf-8").partition(begin)
        after = rest.partition(end)[2]
        out.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--words", type=int, default=100, help="of an abstract that are stored and embedded")
    parser.add_argument("--home", type=Path, help="a data folder to keep, so that a second run embeds nothing")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    from paperlab.core.home import home

    models = home() / "models"  # fetched before, or fetched now into a folder that is kept
    with tempfile.TemporaryDirectory() as made:
        folder = given.home or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        if models.is_dir() and not (folder / "models").exists():
            (folder / "models").symlink_to(models.resolve())
        os.environ["PAPERLAB_HOME"] = str(folder)
        run(given.file, given.days, given.words, given.out)


if __name__ == "__main__":
    main()
