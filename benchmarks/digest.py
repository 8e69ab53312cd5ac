"""How fast a day's digest goes out: people with interests of their own, rendered and handed to a relay on this machine.

python benchmarks/digest.py [--people 10000] [--papers 500]

The relay is aiosmtpd in a process of its own, which takes every letter and keeps none. People follow up to three of all
families, authors and searches, so that few letters are alike. Prints one JSON line.
"""

import argparse
import json
import os
import platform
import random
import socket
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta

DAY = date(2024, 5, 28)
RELAY = """
import sys, time
from aiosmtpd.controller import Controller
class Take:
    async def handle_DATA(self, server, session, envelope):
        return "250 OK"
Controller(Take(), hostname="127.0.0.1", port=int(sys.argv[1])).start()
time.sleep(1e6)
"""
WORDS = ("quantization", "pruning", "distillation", "decoding", "attention", "merging", "speech", "retrieval")


def fill(people: int, papers: int) -> None:
    """Papers of one day, and people who want some of them."""
    from paperlab.core.paper import FAMILIES
    from paperlab.site.digest.models import Subscription
    from paperlab.site.store.models import Paper, Sighting

    draw = random.Random(1)
    made = Paper.objects.bulk_create(
        Paper(
            arxiv=f"2405.{n:05d}",
            title=f"On {draw.choice(WORDS)} and {draw.choice(WORDS)}, part {n}",
            title_key=f"paper {n}",
            abstract="We study it at length. " * 40,
            authors=[f"Author {draw.randrange(200)}" for _ in range(5)],
            family=draw.choice(FAMILIES),
            published=DAY,
            revision=1,
        )
        for n in range(1, papers + 1)
    )
    Sighting.objects.bulk_create(
        Sighting(paper=paper, source="daily-papers", day=DAY, upvotes=draw.randrange(100)) for paper in made
    )
    wishes = [["family", family] for family in FAMILIES]
    wishes += [["author", f"Author {n}"] for n in range(200)] + [["search", f"q={word}"] for word in WORDS]
    Subscription.objects.bulk_create(
        Subscription(
            email=f"person{n}@example.org",
            state="active",
            nonce=f"{n:024d}",
            interests=draw.sample(wishes, draw.randrange(4)),
        )
        for n in range(people)
    )


def main() -> None:
    """Fill, send, and tell."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--people", type=int, default=10_000)
    asked.add_argument("--papers", type=int, default=500)
    given = asked.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"PAPERLAB_HOME": folder, "PAPERLAB_SMTP": f"smtp://127.0.0.1:{port}", "PAPERLAB_ENCODER": "none"}
        relay = subprocess.Popen([sys.executable, "-c", RELAY, str(port)])
        try:
            from paperlab.site.start import configure

            configure()
            from django.core.management import call_command

            call_command("migrate", verbosity=0)
            fill(given.people, given.papers)
            from paperlab.site.digest import send
            from paperlab.site.search import index

            index.refresh(meaning=False)
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.1)
            began = time.perf_counter()
            counts = send.digest(DAY)
            took = time.perf_counter() - began
            again = time.perf_counter()
            send.digest(DAY)
            again = time.perf_counter() - again
            quiet = time.perf_counter()
            send.digest(DAY + timedelta(2))
            quiet = time.perf_counter() - quiet
        finally:
            relay.kill()
            relay.wait()
    row = {
        "people": counts.people,
        "sent": counts.sent,
        "nothing": counts.nothing,
        "seconds": round(took, 1),
        "per_second": round(counts.sent / took, 1),
        "again_seconds": round(again, 1),
        "nothing_new_seconds": round(quiet, 1),
        "load_15_minutes": round(os.getloadavg()[2], 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
