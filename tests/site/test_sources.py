"""Every source that asks a server, held to one contract: all papers come, whatever the server does; politely."""

import itertools
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from local_server import Clock, Server, Told, serving

NAMES = ("arxiv-api", "arxiv-oai", "daily-papers", "feed")
WRONG = ("503", "429", "truncated", "malformed", "html", "slow")
TODAY = date(2024, 3, 1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> Iterator[Server]:
    with serving(Server([Told(number) for number in range(1, 9)], clock=clock.time)) as running:
        yield running


def polite(clock: Any, folder: Path, **more: Any) -> Any:
    from paperlab.site.store.sources.http import Polite

    return Polite("arxiv", folder=folder, clock=clock.time, sleep=clock.sleep, chance=lambda: 0.5, timeout=0.3, **more)


def source(name: str, server: Server, client: Any, **more: Any) -> Any:
    from paperlab.site.store.sources.arxiv_api import ArxivApi
    from paperlab.site.store.sources.arxiv_oai import ArxivOai
    from paperlab.site.store.sources.daily_papers import DailyPapers
    from paperlab.site.store.sources.feeds import Feed

    if name == "arxiv-api":
        return ArxivApi(client, base=f"{server.url}/api/query", query="cat:cs.CL", page=3, **more)
    if name == "arxiv-oai":
        return ArxivOai(client, base=f"{server.url}/oai", of="cs", today=TODAY, **{"since": date(2024, 2, 1), **more})
    if name == "daily-papers":
        span = {"since": date(2024, 2, 2), "until": date(2024, 2, 10)}
        return DailyPapers(client, base=f"{server.url}/api/daily_papers", today=TODAY, **{**span, **more})
    return Feed(client, f"{server.url}/feed")


def harvested(source: Any) -> dict[str, int]:
    from dataclasses import asdict

    from paperlab.site.store.harvest import harvest

    return asdict(harvest(source))


def papers() -> list[Any]:
    from paperlab.site.store.models import Paper

    return list(Paper.objects.order_by("arxiv"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", ["", *WRONG])
def test_all_papers_come_whatever_the_server_does(name, wrong, server, clock, tmp_path, store):
    server.wrong = [wrong] if wrong else []
    counts = harvested(source(name, server, polite(clock, tmp_path)))
    assert counts == {"found": 8, "new": 8, "changed": 0, "set_aside": 0}
    assert [row.arxiv for row in papers()] == [told.arxiv for told in server.papers]
    row, told = papers()[3], server.papers[3]
    assert row.title == told.title
    assert row.abstract.startswith(f"We study matter {told.number}. It is wrapped.")
    assert row.abstract.endswith("x < y.")
    assert row.authors == ["Ada Author", "Bo Writer"]
    assert str(row.published) == "2024-01-05"
    assert harvested(source(name, server, polite(clock, tmp_path))) == {
        "found": 8,
        "new": 0,
        "changed": 0,
        "set_aside": 0,
    }


@pytest.mark.parametrize("name", NAMES)
def test_asking_is_polite(name, server, clock, tmp_path, store):
    server.wrong = ["503", "429"]
    harvested(source(name, server, polite(clock, tmp_path)))
    times = [row["at"] for row in server.asked]
    assert all(later - sooner >= 3.0 for sooner, later in itertools.pairwise(times))
    assert times[1] - times[0] >= 7  # Retry-After in seconds
    assert times[2] >= 1_700_000_400.0  # Retry-After as a date
    assert server.most == 1
    assert all(row["agent"].startswith("paperlab/") for row in server.asked)


def test_two_clients_share_the_pause_through_a_file(server, clock, tmp_path, store):
    """What two processes do, in one: nothing but the folder is shared."""
    url = f"{server.url}/feed"
    for _ in range(3):
        polite(clock, tmp_path).get(url)
    times = [row["at"] for row in server.asked]
    assert [later - sooner for sooner, later in itertools.pairwise(times)] == pytest.approx([3.0, 3.0])


ASK = """
import sys
from pathlib import Path
from paperlab.site.store.sources.http import Polite
client = Polite("arxiv", gap=float(sys.argv[3]), folder=Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(3):
    client.get(sys.argv[1])
"""


def asking(url: str, folder: Path, gap: float) -> Any:
    """A process that is ready to ask three times."""
    words = [sys.executable, "-c", ASK, url, str(folder), str(gap)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_processes_that_ask_at_once_take_turns_and_pause(tmp_path):
    gap = 0.3
    with serving(Server([Told(1)])) as server:
        processes = [asking(f"{server.url}/feed", tmp_path, gap) for _ in range(2)]
        for process in processes:
            process.communicate("go\n", timeout=60)
        assert [process.returncode for process in processes] == [0, 0]
    times = [row["at"] for row in server.asked]
    assert len(times) == 6
    assert all(later - sooner >= gap for sooner, later in itertools.pairwise(times))
    assert server.most == 1


@pytest.mark.kill
def test_a_process_that_was_killed_while_asking_leaves_the_pause(tmp_path):
    gap = 1.0
    with serving(Server([Told(1)], wrong=["slow", ""])) as server:
        process = asking(f"{server.url}/feed", tmp_path, gap)
        process.stdin.write("go\n")
        process.stdin.flush()
        while not server.asked:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.kill()
        process.communicate()
        polite(time, tmp_path, gap=gap).get(f"{server.url}/feed")
    times = [row["at"] for row in server.asked]
    assert len(times) == 2
    assert times[1] - times[0] >= gap - 0.1  # counted from just before the request


def test_arxiv_is_asked_with_a_pause_of_three_seconds():
    """The sources by name, as the command line makes them: one line for both of arXiv's services."""
    from paperlab.site.store.sources import named

    for name in ("oai:cs", "arxiv:cat:cs.CL", "arxiv:2401.00001"):
        client = named.source(name).client
        assert (client.group, client.gap, client.chance) == ("arxiv", 3.0, random.random)


def test_we_say_who_we_are(monkeypatch):
    from paperlab.site.store.sources.http import agent

    monkeypatch.setenv("PAPERLAB_CONTACT", "ada@example.org\r\nX-Injected: 1")
    assert agent().startswith("paperlab/")
    assert agent().endswith("ada@example.org X-Injected: 1)")


def test_the_back_off_grows_and_ends_with_advice(server, clock, tmp_path):
    from paperlab.site.store.item import SourceError

    server.wrong = ["html"] * 10
    with pytest.raises(SourceError, match=r"Verify you are human.*6 times"):
        polite(clock, tmp_path).get(f"{server.url}/feed")
    times = [row["at"] for row in server.asked]
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert gaps == pytest.approx([3 + 1.5, 3 + 3, 3 + 6, 3 + 12, 3 + 24])


def test_a_long_wait_is_told_and_kept_for_the_next_command(server, clock, tmp_path):
    from paperlab.site.store.item import SourceError

    server.wrong = ["429"]
    clock.now -= 3 * 3600  # the date in Retry-After is then more than 4 hours off
    with pytest.raises(SourceError, match=r"come back in \d+ s"):
        polite(clock, tmp_path).get(f"{server.url}/feed")
    with pytest.raises(SourceError, match=r"come back in \d+ s"):
        polite(clock, tmp_path).get(f"{server.url}/feed")
    assert len(server.asked) == 1


def test_an_answer_too_large_is_not_read(server, clock, tmp_path):
    from paperlab.site.store.item import SourceError

    with pytest.raises(SourceError, match="more than"):
        polite(clock, tmp_path, size_limit=100).get(f"{server.url}/feed")


@pytest.mark.parametrize("to", ["http://example.org/feed", "file:///etc/passwd", "http://169.254.169.254/latest"])
def test_a_redirect_elsewhere_is_refused(to, server, clock, tmp_path):
    from paperlab.site.store.item import SourceError

    server.wrong = [f"to:{to}"]
    with pytest.raises(SourceError, match="redirects to"):
        polite(clock, tmp_path).get(f"{server.url}/feed")


def test_a_redirect_within_the_host_is_followed(server, clock, tmp_path):
    server.wrong = ["to:/feed"]
    assert b"<rss" in polite(clock, tmp_path).get(f"{server.url}/old").content


# -- arXiv's API -------------------------------------------------------------------------------------------------------


def test_the_api_by_id_with_version_and_affiliation(server, clock, tmp_path, store):
    from paperlab.site.store.sources.arxiv_api import ArxivApi

    client = polite(clock, tmp_path)
    harvested(ArxivApi(client, base=f"{server.url}/api/query", ids=["arXiv:2401.00002v1", "2401.00005"]))
    assert [(row.arxiv, row.version, row.categories) for row in papers()] == [
        ("2401.00002", 2, ["cs.CL", "cs.LG"]),
        ("2401.00005", 2, ["cs.CL", "cs.LG"]),
    ]
    assert papers()[0].extra["arxiv-api"]["affiliations"] == {"Bo Writer": "Here"}


def test_a_bad_id_is_refused_before_asking(server, clock, tmp_path):
    from paperlab.site.store.item import SourceError
    from paperlab.site.store.sources.arxiv_api import ArxivApi

    with pytest.raises(SourceError, match="not an arXiv id: abc"):
        ArxivApi(polite(clock, tmp_path), ids=["2401.00001", "abc"])


def test_the_apis_error_feed_is_an_error(server):
    from paperlab.site.store.item import SourceError
    from paperlab.site.store.sources.arxiv_api import read

    with pytest.raises(SourceError, match="incorrect id format for abc"):
        read(server.atom({"id_list": "abc"})[2], "x")


def test_an_empty_page_before_the_end_is_asked_for_again(server, clock, tmp_path, store):
    server.wrong = ["", "empty", "empty"]
    assert harvested(source("arxiv-api", server, polite(clock, tmp_path)))["new"] == 8


def test_days_become_a_query(server, clock, tmp_path, store):
    harvested(source("arxiv-api", server, polite(clock, tmp_path), since=date(2024, 1, 1), until=date(2024, 1, 31)))
    wanted = "(cat:cs.CL) AND submittedDate:[202401010000 TO 202401312359]"
    assert server.asked[0]["query"]["search_query"] == wanted


# -- OAI-PMH -----------------------------------------------------------------------------------------------------------


def test_a_deleted_record_marks_the_paper(server, clock, tmp_path, store):
    harvested(source("arxiv-oai", server, polite(clock, tmp_path)))
    server.papers[2].deleted = True
    server.papers.append(Told(9, deleted=True))
    counts = harvested(source("arxiv-oai", server, polite(clock, tmp_path)))
    assert counts == {"found": 9, "new": 0, "changed": 1, "set_aside": 0}
    assert [row.arxiv for row in papers() if row.withdrawn] == ["2401.00003"]


def test_the_next_harvest_begins_where_the_last_one_was_answered(server, clock, tmp_path, store):
    for _ in range(2):
        harvested(source("arxiv-oai", server, polite(clock, tmp_path), since=None))
    begun = [row["query"]["from"] for row in server.asked if "from" in row["query"]]
    assert begun == [str(TODAY - timedelta(7)), "2024-03-01"]


def test_an_interrupted_harvest_goes_on_with_its_token(server, clock, tmp_path, store):
    from paperlab.site.store.item import SourceError

    server.wrong = [""] + ["503"] * 6
    with pytest.raises(SourceError, match="status 503"):
        harvested(source("arxiv-oai", server, polite(clock, tmp_path)))
    assert len(papers()) == 3
    asked = len(server.asked)
    assert harvested(source("arxiv-oai", server, polite(clock, tmp_path)))["new"] == 5
    assert [row["query"].get("resumptionToken") for row in server.asked[asked:]] == ["2024-02-01|3", "2024-02-01|6"]


def test_an_expired_token_is_answered_from_the_last_datestamp(server, clock, tmp_path, store):
    server.expired = {"2024-02-01|3"}
    assert harvested(source("arxiv-oai", server, polite(clock, tmp_path)))["new"] == 8
    assert [row["query"].get("from") for row in server.asked[:3]] == ["2024-02-01", None, "2024-02-04"]


def test_nothing_new_is_no_error(server, clock, tmp_path, store):
    server.papers = []
    assert harvested(source("arxiv-oai", server, polite(clock, tmp_path)))["found"] == 0


# -- Daily Papers ------------------------------------------------------------------------------------------------------


def test_a_day_keeps_its_order_and_its_votes(server, clock, tmp_path, store):
    from paperlab.site.store.models import Ranking, Sighting

    server.papers = [Told(5), Told(33), Told(61)]  # all of one day
    harvested(source("daily-papers", server, polite(clock, tmp_path)))
    ranking = Ranking.objects.get(key="daily-papers:2024-02-06")
    assert [entry.paper.arxiv for entry in ranking.entries.all()] == ["2401.00005", "2401.00033", "2401.00061"]
    seen = Sighting.objects.get(paper__arxiv="2401.00033")
    assert (str(seen.day), seen.upvotes, seen.comments) == ("2024-02-06", 33, 0)
    assert papers()[0].code == "https://example.org/code"
    assert papers()[0].extra["daily-papers"]["submitter"] == "Cy Sender"


def test_days_go_on_from_the_last_one(server, clock, tmp_path, store):
    client = polite(clock, tmp_path)
    harvested(source("daily-papers", server, client, since=None, until=None))
    harvested(source("daily-papers", server, client, since=None, until=None))
    assert [row["query"]["date"] for row in server.asked] == ["2024-02-29", "2024-03-01", "2024-03-01"]


# -- the server is like the real ones: the field's clients read it -----------------------------------------------------


def test_the_arxiv_package_reads_the_same(server):
    arxiv = pytest.importorskip("arxiv")
    client = arxiv.Client(page_size=3, delay_seconds=0, num_retries=0)
    client.query_url_format = f"{server.url}/api/query?{{}}"
    found = list(client.results(arxiv.Search(query="cat:cs.CL", max_results=8)))
    assert [row.get_short_id() for row in found] == [f"{told.arxiv}v2" for told in server.papers]
    assert found[0].primary_category == "cs.CL"


def test_scythe_reads_the_same(server):
    scythe = pytest.importorskip("oaipmh_scythe")
    with scythe.Scythe(f"{server.url}/oai") as client:
        found = list(client.list_records(metadata_prefix="arXiv", set_="cs"))
    assert [row.header.identifier for row in found] == [f"oai:arXiv.org:{told.arxiv}" for told in server.papers]


# -- documents that break off, or attack -------------------------------------------------------------------------------

LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>'
)


def parts(name: str, content: bytes) -> tuple[int, list[str]]:
    """How many items and which reasons for setting aside a document gives."""
    from paperlab.site.store.sources import arxiv_api, arxiv_oai, feeds

    if name == "feed":
        page = feeds.read(content, "x")
    else:
        page = arxiv_api.read(content, "x")[0] if name == "arxiv-api" else arxiv_oai.read(content, "x").page
    return len(page.items), [one.reason for one in page.rejected]


def document(name: str, server: Server) -> bytes:
    server.page = 100
    return {
        "arxiv-api": server.atom({"max_results": "100"})[2],
        "arxiv-oai": server.oai({}).encode(),
        "feed": server.rss().encode(),
    }[name]


@pytest.mark.parametrize("name", ["arxiv-api", "arxiv-oai", "feed"])
def test_a_document_that_breaks_off_gives_what_stands_before(name, server):
    whole = document(name, server)
    items, reasons = parts(name, whole[: int(len(whole) * 0.6)])
    assert 3 <= items <= 6
    assert "well-formed" in reasons[-1] or "malformed" in reasons[-1]
    assert reasons[:-1] == (["the feed breaks off within this entry"] if name == "feed" else [])


@pytest.mark.parametrize("name", ["arxiv-api", "arxiv-oai", "feed"])
def test_entities_are_not_expanded(name, server):
    whole = document(name, server).decode()
    attack = LAUGHS + whole[whole.index("?>") + 2 :].replace("<title>On", "<title>&c;On")
    items, reasons = parts(name, attack.encode())
    assert items == 0
    assert "declares entities" in reasons[0]


def test_the_raw_format_tells_all_versions():
    from paperlab.site.store.sources.arxiv_oai import read

    content = (
        '<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><ListRecords><record><header>'
        "<identifier>oai:arXiv.org:2401.00001</identifier><datestamp>2024-02-02</datestamp></header><metadata>"
        '<arXivRaw xmlns="http://arxiv.org/OAI/arXivRaw/"><id>2401.00001</id><submitter>S</submitter>'
        '<version version="v1"><date>Mon, 1 Jan 2024 10:00:00 GMT</date></version>'
        '<version version="v2"><date>Tue, 2 Jan 2024 10:00:00 GMT</date></version>'
        "<title>T</title><authors>Ada Author, Bo Writer and Cy Third</authors><categories>cs.CL</categories>"
        "<abstract>A</abstract></arXivRaw></metadata></record></ListRecords></OAI-PMH>"
    )
    (item,) = read(content.encode(), "x").page.items
    assert item.authors == ["Ada Author", "Bo Writer", "Cy Third"]
    assert [row["date"] for row in item.versions] == ["2024-01-01", "2024-01-02"]
    assert item.version == 2
