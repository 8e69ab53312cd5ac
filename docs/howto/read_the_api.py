"""Read a paperlab site: python read_the_api.py http://127.0.0.1:8000 [FILE]. Only the standard library is needed.

A site on one's own machine wants its token: TOKEN=… in the environment.

Prints today's list, what a search finds and what a paper's checks said, and keeps FILE, a mirror of all papers, in
step with the site: called again, it fetches what has changed since.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen


def ask(address: str) -> Any:
    """An open answer of the site."""
    known = {"Authorization": f"Bearer {os.environ['TOKEN']}"} if os.environ.get("TOKEN") else {}
    return urlopen(Request(address, headers=known))


def get(site: str, path: str, **query: object) -> Any:
    """What an address of the API says."""
    with ask(f"{site}/api/{path}?{urlencode(query)}") as answer:
        return json.load(answer)


def follow(site: str, file: Path) -> int:
    """Bring a mirror up to date: one JSON object a line, each with the cursor behind it. Returns how many came."""
    file.touch()
    count, cursor = 0, ""
    with open(file, "r+b") as mirror:
        end = 0
        for line in mirror:
            if line.endswith(b"\n"):  # a call that was interrupted may have left half a line
                end += len(line)
                cursor = json.loads(line)["cursor"]
        mirror.truncate(end)
        mirror.seek(end)
        with ask(f"{site}/api/export/papers.jsonl?{urlencode({'cursor': cursor})}") as answer:
            for line in answer:  # sent as they are read: a million papers need no more memory than one
                mirror.write(line)
                count += 1
    return count


def main(site: str, file: Path | None) -> None:
    """Show what the API has."""
    for place in get(site, "daily_papers"):
        print(f"today: {place['title']}")
    for place in get(site, "papers/search", q="weight-only quantization", family="quantization", limit=3):
        print(f"found: {place['title']}")
    for verdict in get(site, f"papers/{quote('2403.02775')}/verdicts")["verdicts"]:
        if verdict["state"] == "current":
            print(f"{verdict['claim']}: {verdict['word']}. {verdict['reason']}")
    if file:
        print(f"{follow(site, file)} papers came into {file}")


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
