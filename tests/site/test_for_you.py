"""For you: the order follows what somebody did, the reasons name it, nobody else sees it."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from page_check import Page
from test_people import browser, here, member, public  # noqa: F401

pytestmark = pytest.mark.usefixtures("store")
TOPICS = {
    "speech": "speech codec audio voice vocoder acoustic phoneme waveform",
    "pruning": "pruning sparse weights magnitude unstructured mask lottery",
    "proof": "theorem prover lean formal verification tactic lemma",
    "robot": "robot grasping manipulation policy gripper arm",
}


def fill(old: int = 10, new: int = 5, today: datetime | None = None) -> None:
    """Of each topic `old` papers in lists of last month and `new` ones in those of the last days before `today`."""
    from api_papers import item, seen, take

    from paperlab.site.search import index

    today, papers, number = today or datetime.now(UTC), [], 0
    for name, words in TOPICS.items():
        for n in range(old + new):
            number += 1
            at = today - timedelta(days=30 + n) if n < old else today - timedelta(days=n - old)
            some = words.split()
            body = " ".join(some[(n + k) % len(some)] for k in range(5)) + " we study results with a method. "
            title = f"{name.capitalize()} work {n}: {some[n % len(some)]} and {some[(n + 2) % len(some)]}"
            facts = {"title": title, "abstract": body * 3, "published": at, "authors": [f"{name} author {n}"]}
            papers.append(item(number, **facts, sightings=seen(at.date(), 50 + number)))
    take(papers)
    index.refresh()


def key(name: str, n: int) -> str:
    """The arXiv id of the paper n of a topic, with 10 old and 5 new ones each."""
    return f"2401.{list(TOPICS).index(name) * 15 + n + 1:05d}"


def listed(one: Any, address: str = "/for-you") -> list[str]:
    """The topics of the papers on the page, in its order."""
    answer = one.get(address)
    assert answer.status_code == 200
    text = answer.content.decode()
    assert Page(text).wrong == []
    assert "no-store" in answer.headers["Cache-Control"]
    return [word.lower() for word in re.findall(r'class="name"><a[^>]*>(\w+) work', text)]


@pytest.fixture(params=["vectors", "words"])
def filled(request: pytest.FixtureRequest) -> str:
    """A store with papers, with vectors of an encoder that needs no model, or without any."""
    if request.param == "vectors":
        request.getfixturevalue("meaning")
        fill()
    else:
        from paperlab.site.search import index

        refresh = index.refresh
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index, "refresh", lambda: refresh(meaning=False))
            fill()
    return str(request.param)


def test_at_first_it_says_what_to_do_and_shows_what_is_trending(filled: str) -> None:
    text = here().get("/for-you").content.decode()
    assert "Vote for 3 papers or more" in text
    assert text.count("data-card") == 30
    assert json.loads(here().get("/for-you.json").content)["papers"] == []


def test_what_is_like_what_one_likes_comes_first_with_the_reason(filled: str) -> None:
    one = here()
    for n in range(3):
        one.post(f"/papers/{key('speech', n)}/vote")
    one.post(f"/papers/{key('proof', 0)}/keep", {"new": "Proofs"})
    order = listed(one)
    assert len(order) == 20
    assert order[0] == "speech"
    assert set(order[:8]) == {"speech", "proof"}
    text = one.get("/for-you").content.decode()
    first = re.search(
        r'Because ([\w ]+) <a href="/papers/([\d.]+)"><bdi>(Speech[^<]+)</bdi></a>: <span[^>]*>([^<]+)<', text
    )
    assert first is not None
    assert first[1] == "you voted for"
    assert first[2] in {key("speech", n) for n in range(3)}
    assert set(first[4].split(", ")) <= {*TOPICS["speech"].split(), "speech"}
    assert re.search(r"Because you saved <a [^>]*><bdi>Proof", text)
    said = json.loads(one.get("/for-you.json").content)
    assert said["total"] == 20
    assert said["papers"][0]["paperlab"]["because"][0]["what"] == "you voted for"
    one.post(f"/papers/{key('speech', 10)}/vote")  # what is taken is no longer new
    assert len(listed(one)) == 19
    for n in (0, 1, 2, 10):  # a change of mind changes the list at once
        one.post(f"/papers/{key('speech', n)}/vote", {"on": "0"})
    for n in range(3):
        one.post(f"/papers/{key('robot', n)}/vote")
    order = listed(one)
    assert set(order[:8]) == {"robot", "proof"}
    assert order[:8].count("robot") >= 4


def test_reading_counts_less_than_voting_and_can_be_forgotten(filled: str) -> None:
    one = here()
    for n in range(4):
        one.get(f"/papers/{key('robot', n)}")
        one.post(f"/papers/{key('pruning', n)}/vote")
    order = listed(one)
    assert order[0] == "pruning"
    assert {"pruning", "robot"} == set(order[:8])
    assert "you opened" in one.get("/for-you").content.decode()
    one.post("/library/reading", {"do": "forget"})
    assert "you opened" not in one.get("/for-you").content.decode()


def test_follows_alone_are_enough_and_stand_first(filled: str) -> None:
    from paperlab.site.store.models import Paper

    Paper.objects.filter(arxiv=key("robot", 11)).update(family="quantization")
    one = here()
    one.post("/follow", {"kind": "author", "value": "Proof Author 12"})
    assert one.get("/for-you.json").content
    assert listed(one) == ["proof"]
    one.post("/follow", {"kind": "family", "value": "quantization"})
    one.post("/follow", {"kind": "search", "value": "q=waveform+speech"})
    one.post("/follow", {"kind": "search", "value": f"q={'x' * 200}"})  # no paper is meant, and none comes
    order = listed(one)
    assert order[0] == "proof"
    assert order[-1] == "robot"
    assert set(order) == {"proof", "speech", "robot"}
    text = one.get("/for-you").content.decode()
    for reason in ("you follow the author", "you follow the family", "you follow the search"):
        assert reason in text
    for n in range(3):
        one.post(f"/papers/{key('pruning', n)}/vote")
    order = listed(one)
    assert order[0] == "proof"  # the author; then what is like the votes, before what nothing speaks for
    assert len(order) == 20


def test_a_claim_that_was_checked_is_told(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.people import for_you
    from paperlab.site.records import record_index
    from paperlab.site.store import bundled

    bundled.load()
    row = next(row for row in record_index().verdicts.values() if row["paper"] and row["method"] == "easyquant")
    one = here()
    one.post("/follow", {"kind": "claim", "value": f"easyquant:{row['claim']}"})
    day = datetime.fromisoformat(row["finished"] if row.get("finished") else row["started"]).date()
    monkeypatch.setattr(for_you, "span", lambda days, today: (day, day))
    assert "a claim that you follow was checked" in one.get("/for-you").content.decode()


def test_a_digest_gets_papers_with_reasons(filled: str) -> None:
    from django.contrib.auth.models import User

    from paperlab.site.people import for_you
    from paperlab.site.store.models import Paper

    one, today = here(), datetime.now(UTC).date()
    one.get("/account")
    user = User.objects.get().pk
    assert for_you.picks(user, today - timedelta(6), today) == []
    for n in range(4):
        one.post(f"/papers/{key('speech', n)}/vote")
    picks = for_you.picks(user, today - timedelta(6), today, 4)
    assert picks
    assert all(pick.score > 0 and pick.reasons for pick in picks)
    titles = {paper.pk: paper.title for paper in Paper.objects.filter(pk__in=[pick.paper for pick in picks])}
    assert all(title.startswith("Speech") for title in titles.values())
    assert str(picks[0].reasons[0]).startswith("because you voted for “Speech")
    assert for_you.picks(user, today + timedelta(1), today + timedelta(7)) == []


@pytest.mark.usefixtures("public")
def test_nobody_sees_anothers(filled: str) -> None:
    import feedparser

    one, other, stranger = member("fy1@example.org"), member("fy2@example.org"), browser()
    for n in range(3):
        one.post(f"/papers/{key('speech', n)}/vote")
        other.post(f"/papers/{key('robot', n)}/vote")
    assert listed(one)[0] == "speech"
    assert listed(other)[0] == "robot"
    for address in ("/for-you", "/for-you.json", "/feeds/for-you.atom"):
        assert stranger.get(address).status_code == 302
        answer = one.get(address)
        assert answer.status_code == 200
        assert "Access-Control-Allow-Origin" not in answer.headers  # no other site reads it
    one.post("/for-you/link", {"do": "link"})
    link = re.search(r'href="http://localhost(/feeds/for-you/[^"]+\.atom)"', one.get("/for-you").content.decode())[1]  # type: ignore[index]
    answer = stranger.get(link)
    read = feedparser.parse(answer.content)
    assert not read.bozo
    assert read.entries[0].title.startswith("Speech")
    assert read.entries[0].summary.startswith("Because you voted for “Speech")
    assert "fy1@" not in answer.content.decode()
    assert "private" in answer.headers["Cache-Control"]
    assert stranger.get(link.replace(".atom", "0.atom")).status_code == 404
    assert stranger.get("/feeds/for-you/" + "x" * 60 + ".atom").status_code == 404
    one.post("/for-you/link", {"do": "end"})
    assert stranger.get(link).status_code == 404


def test_learning_is_a_matter_of_milliseconds(filled: str) -> None:
    import time

    import numpy as np

    from paperlab.site.people import for_you

    draw = np.random.default_rng(0)
    x = draw.standard_normal((1_500, 384)).astype(np.float32)
    x[:500] += 0.3
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    begun = time.perf_counter()
    direction, offset = for_you.learn(x, [1.0] * 500, 1_000)
    assert time.perf_counter() - begun < 2  # 30 ms alone on a core; many tests share one
    values = x @ direction + offset
    assert (values[:500] > 0).mean() > 0.95
    assert (values[500:] < 0).mean() > 0.95


def test_the_classifier_is_scikit_learns_ridge(filled: str) -> None:
    import numpy as np
    from sklearn.linear_model import Ridge

    from paperlab.site.people import for_you

    draw = np.random.default_rng(1)
    x = draw.standard_normal((60, 16)).astype(np.float32)
    good = [1.0, 0.3, 0.6] * 5
    direction, offset = for_you.learn(x, good, 45)
    weights = np.concatenate([np.array(good) / sum(good), np.full(45, 1 / 45)]) / 2
    peer = Ridge(alpha=for_you.RIDGE).fit(x, [1] * 15 + [-1] * 45, sample_weight=weights)
    np.testing.assert_allclose(direction, peer.coef_, rtol=1e-4)
    np.testing.assert_allclose(offset, peer.intercept_, rtol=1e-4)
