"""Small whole documents in every format that files are read in, made up; where fuzzing begins."""

import json
import random

from listing_pages import Shown, Style, render
from local_server import Server, Told


def samples() -> list[tuple[str, bytes]]:
    """Pairs of a format and a document in it."""
    server = Server([Told(number, deleted=number == 2) for number in range(1, 4)], page=10)
    row = {"id": "2401.00001v2", "title": "On Matter", "abstract": "We cut.\n\nWe weigh.", "seen_on": ["2024-02-01"]}
    row |= {"authors": [{"name": "Ada Author"}], "upvotes": 3, "githubRepo": "https://example.org/a"}
    row |= {"publishedAt": "2024-01-05T10:20:30Z", "ai_keywords": ["cut"], "datasets": ["a/b"]}
    old = {"title": "Old", "authors_parsed": [["Last", "First", "Jr."]], "versions": [{"version": "v1"}], "date": 1e9}
    lines = "\n".join(json.dumps(one) for one in (row, old, {"title": 3}))
    atom = server.atom({"max_results": "5"})[2]
    recorded = {"url": "x", "status_code": 200, "body": atom.decode()}
    raw = (
        '<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><ListRecords><record><header><identifier>oai:arXiv.org:'
        "2401.00001</identifier><datestamp>2024-02-02</datestamp></header><metadata><arXivRaw><id>2401.00001</id>"
        '<version version="v1"><date>Mon, 1 Jan 2024 10:00:00 GMT</date></version><title>T</title><authors>A B, C D'
        "</authors></arXivRaw></metadata></record></ListRecords></OAI-PMH>"
    )
    found = [
        ("jsonl", lines.encode()),
        ("json", json.dumps([server.daily(told) for told in server.papers]).encode()),
        ("json", json.dumps({"papers": [row, old]}).encode()),
        ("json", json.dumps(recorded).encode()),
        ("arxiv-api", atom),
        ("arxiv-oai", server.oai({}).encode()),
        ("arxiv-oai", raw.encode()),
        ("feed", server.rss().encode()),
        ("feed", atom),
    ]
    rng = random.Random(0)
    shown = [
        Shown(f"Title {n}: A <b>", (f"Abstract {n}. " * 9, "More."), 3, "May 5, 2024", 2, 7, "2401.00001", "A B")
        for n in "123"
    ]
    found += [("listing", render(shown, Style.drawn(rng)).encode()) for _ in range(8)]
    return found
