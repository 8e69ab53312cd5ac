"""The search as its readers see it, on every engine: what comes first, filters, orders, pages, spelling, related."""

import itertools
import re
import time
from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from api_papers import HOSTILE, item, seen, take
from search_papers import WORDS, fill, found, key, paper

from paperlab.site.search.query import Query, plain


@pytest.fixture(params=["words", "meaning"])
def sides(request: pytest.FixtureRequest, engine: str) -> str:
    """Words alone, or both sides."""
    if request.param == "words" and engine == "milvus":
        pytest.skip("with meaning is enough")
    if request.param == "meaning":
        request.getfixturevalue("meaning")
    return str(request.param)


def refresh(**how: Any) -> None:
    from paperlab.site.search import index

    index.refresh(**how)


def search(text: str = "", **told: Any) -> Any:
    from paperlab.site.search.rank import search

    facets = told.pop("facets", False)
    return search(Query(text, **told), facets=facets)


def test_an_exact_name_comes_first(sides):
    fill(30)
    take([
        item(900, title="Attention", abstract="attention " * 3),
        item(901, title="Attention attention", abstract="attention attention " * 30),
        item(902, title="Low-rank adapters: a study", abstract="Of adapters."),
    ])  # fmt: skip
    refresh()
    assert found("attention")[0] == found("ATTENTION")[0] == found(" attention ")[0] == key(900)
    assert found("low rank adapters a study")[0] == key(902)
    assert search("low-rank adapters: a study").hits[0].why.exact == "title"
    results = search("2401.00007")
    assert [(hit.paper, hit.why.exact) for hit in results.hits] == [(key(7), "arXiv id")]
    assert found("arXiv:2401.00007v3") == found("https://arxiv.org/abs/2401.00007") == [key(7)]
    assert "no paper of arXiv id 2401.09999" in " ".join(search("2401.09999").notes)
    assert found("attention", category=("math.OC",)) == [
        hit for hit in found("attention", category=("math.OC",)) if hit != key(900)
    ]


def test_a_slug_comes_first(sides):
    from paperlab.site.store.models import Paper

    fill(20)
    Paper.objects.filter(pk=key(9)).update(slug="q-bert", revision=99)
    refresh()
    assert found("q-bert")[0] == found("Q BERT")[0] == key(9)
    assert search("q_bert").hits[0].why.exact == "slug"


def test_names_are_found_without_their_hyphens(sides):
    fill(20)
    take([item(901, title="Q-BERT: Hessian based", abstract="Nothing.")])
    refresh()
    for text in ("qbert", "q-bert", "QBERT", "q/bert"):
        assert found(text)[0] == key(901), text


def test_phrases(sides):
    fill(20)
    take([
        item(901, title="First", abstract="We show that attention is all you need for parsing."),
        item(902, title="Second", abstract="All attention you pay is a need of the parsing."),
        item(903, title="Third", abstract="State-of-the-art parsing of the state."),
    ])  # fmt: skip
    refresh()
    assert found('"attention is all you need"') == [key(901)]
    assert found('"pay is a need" parsing') == [key(902)]
    assert found('"state of the art"') == [key(903)]
    assert set(found("attention need")) >= {key(901), key(902)}
    results = search('"need attention pay"')
    assert "not" not in results.notes[0][:2]
    assert "the phrase in quotes" in " ".join(results.notes)
    assert key(902) in [hit.paper for hit in results.hits]
    assert key(901) in found('attention "unclosed need')


def test_every_filter_alone_and_combined(sides):
    fill(60)
    refresh()
    from paperlab.site.store.models import Paper

    Paper.objects.filter(pk__in=[key(3), key(8)]).update(family="quantization", revision=90)
    Paper.objects.filter(pk=key(10)).update(family="pruning", year=2019, revision=91)
    Paper.objects.filter(pk=key(11)).update(year=None, published=None, revision=92)
    from paperlab.site.store.models import Counter

    Counter.objects.filter(name="revision").update(value=92)
    refresh()
    rows = list(Paper.objects.all())
    filters: dict[str, tuple[Any, Any]] = {
        "family": (("quantization",), lambda row: row.family == "quantization"),
        "category": (("cs.LG", "cs.CL"), lambda row: {"cs.LG", "cs.CL"} & set(row.categories)),
        "author": (("ada",), lambda row: "Ada" in row.authors[0]),
        "years": ((2020, 2024), lambda row: row.year is not None and 2020 <= row.year <= 2024),
        "code": (True, lambda row: bool(row.code)),
    }
    more: list[tuple[str, Any, Any]] = [
        ("category", ("stat",), lambda row: "stat.ML" in row.categories),
        ("category", ("cs.XX",), lambda row: False),
        ("author", ("ada lovelace", "bo hopper"), lambda row: row.authors[0] in ("Ada Lovelace", "Bo Hopper")),
        ("author", ("lovelace ada",), lambda row: False),
        ("years", (None, 2019), lambda row: row.year == 2019),
        ("years", (2019, 2019), lambda row: row.year == 2019),
        ("years", (2024, None), lambda row: row.year == 2024),
        ("family", ("quantization", "pruning"), lambda row: row.family in ("quantization", "pruning")),
    ]
    cases = [({name: told}, [holds]) for name, (told, holds) in filters.items()]
    cases += [({name: told}, [holds]) for name, told, holds in more]
    for names in itertools.combinations(filters, 2):
        cases.append(({name: filters[name][0] for name in names}, [filters[name][1] for name in names]))
    for told, holds in cases:
        wanted = {row.pk for row in rows if all(hold(row) for hold in holds)}
        assert set(found("", limit=100, **told)) == wanted, told
        assert search("", **told).total == len(wanted), told
        assert set(found("model", limit=100, **told)) <= wanted, told
        words = {row.pk for row in rows if row.pk in wanted and "model" in f"{row.title} {row.abstract}".lower()}
        hits = search("model", limit=100, **told)
        assert words <= {hit.paper for hit in hits.hits}, told
        if sides == "words":
            assert len(hits.hits) == hits.total == len(words), told
        assert set(found("", limit=100, sort="date", **told)) == wanted


def test_a_search_is_confined_to_some_papers_or_leaves_them_out(sides):
    from paperlab.site.search import index
    from paperlab.site.search.rank import search

    fill(30)
    refresh()
    inside = frozenset(key(number) for number in range(1, 11))
    for asked in (Query("quantization attention model", limit=100), Query(sort="date", limit=100)):
        every = {hit.paper for hit in search(asked).hits}
        assert {hit.paper for hit in search(asked, only=inside).hits} == every & inside
        assert {hit.paper for hit in search(asked, without=inside).hits} == every - inside
        few = search(asked, only=inside, without=frozenset([key(3)]), facets=True)
        assert {hit.paper for hit in few.hits} == (every & inside) - {key(3)}
    assert few.total == 9
    assert sum(few.facets["year"].values()) == 9
    assert key(3) not in {hit.paper for hit in search(Query("2401.00003"), without=inside).hits}
    assert search(Query(), only=frozenset()).hits == ()
    if sides == "meaning":
        engine = index.engine()
        keys, vectors = engine.vectors_of([key(1), key(2), 10**9])
        assert set(keys) == {key(1), key(2)}
        for one, vector in zip(keys, vectors, strict=True):
            assert vector == pytest.approx(engine.vector(one))


def test_filters_on_checks_know_the_records(engine, monkeypatch):
    from paperlab.site.search import rank
    from paperlab.site.store.models import Paper

    fill(10)
    Paper.objects.filter(pk=key(2)).update(slug="gptq", revision=50)
    Paper.objects.filter(pk=key(3)).update(slug="easyquant", revision=50)
    said = {"gptq": ("holds", "holds"), "easyquant": ("holds", "fails")}
    rows = {
        slug: tuple(SimpleNamespace(word=word, model=str(i)) for i, word in enumerate(words))
        for slug, words in said.items()
    }
    monkeypatch.setattr(rank, "main", lambda slug: rows.get(slug, ()))
    monkeypatch.setattr(rank, "papers", lambda: {"gptq": None, "easyquant": None})
    checked = [
        type("Method", (), {"card": type("Card", (), {"paper": slug, "checks": [1]})}) for slug in ("gptq", "easyquant")
    ]
    monkeypatch.setattr(rank, "methods", lambda: dict(enumerate(checked)))
    refresh()
    assert set(found(runnable=True)) == {key(2), key(3)}
    assert set(found(verdict=("holds",))) == {key(2), key(3)}
    assert found(verdict=("mixed",)) == [key(3)]
    assert found(verdict=("fails",), runnable=True) == [key(3)]
    assert found(verdict=("not run",)) == []
    assert found("gptq", verdict=("mixed",)) == []


def test_orders(sides):
    take([paper(number, sightings=seen(date(2024, 2, number % 28 + 1), number)) for number in range(1, 41)])
    fill(10, start=41)
    refresh()
    from paperlab.site.search.trending import trending
    from paperlab.site.store.models import Paper

    days = dict(Paper.objects.values_list("pk", "published"))
    by_date = [days[pk] for pk in found(sort="date", limit=100)]
    assert len(by_date) == 50
    assert by_date == sorted(by_date, reverse=True)
    now = [pk for pk, _ in trending(date(2024, 3, 1))]
    assert found(sort="trending", limit=100)[: len(now)] == now
    listed = found("model", sort="date", limit=100)
    assert listed
    assert [days[pk] for pk in listed] == sorted((days[pk] for pk in listed), reverse=True)


@pytest.mark.parametrize(
    ("text", "sort"), [("model data", "relevance"), ("", "relevance"), ("", "date"), ("", "trending")]
)
def test_pages_are_disjoint_and_together_the_whole(text, sort, sides, monkeypatch):
    from paperlab.site.search import rank
    from paperlab.site.store.models import Paper

    monkeypatch.setattr(rank, "POOL", 20)
    fill(120)
    refresh()
    pages = [found(text, sort=sort, limit=10, offset=offset) for offset in range(0, 130, 10)]
    joined = list(itertools.chain(*pages))
    assert len(set(joined)) == len(joined)
    assert joined == found(text, sort=sort, limit=100) + found(text, sort=sort, limit=100, offset=100)
    said = {row.pk: f"{row.title} {row.abstract}".lower() for row in Paper.objects.all()}
    words = {pk for pk, told in said.items() if set(re.findall(r"\w+", told)) & set(text.split())}
    assert set(joined) >= words if text else len(joined) == 120


def test_misspelt_words_are_mended(sides):
    fill(40)
    take([item(901, title="Hypernetworks for everyone", abstract="Nothing else.")])
    refresh()
    for text in ("hypernetwroks", "Hypernetworkz"):
        results = search(text)
        assert results.hits[0].paper == key(901), text
    assert search("hypernetwroks").suggestion == "hypernetworks"
    assert search("hypernetworks").suggestion == ""
    assert search("zzzzqqqq").suggestion == ""


def test_related_papers_are_near_and_others(sides):
    from paperlab.site.search.rank import related

    fill(40)
    take([
        item(901, title="Wombat habitats in forests", abstract="Wombat burrows."),
        item(902, title="Habitats of the wombat", abstract="Wombat burrows and forests."),
    ])  # fmt: skip
    refresh()
    assert related(key(901))[0].paper == key(902)
    assert key(901) not in [hit.paper for hit in related(key(901), 50)]
    assert related(10**9) == ()


def test_facets_count_what_filtered_searches_find(sides):
    fill(60)
    from paperlab.site.store.models import Paper

    for number in range(1, 20):
        Paper.objects.filter(pk=key(number)).update(
            family=("quantization", "pruning")[number % 2], year=2015 + number % 4
        )
    refresh()
    for text in ("", "model"):
        results = search(text, facets=True, limit=1)
        assert set(results.facets) == {"family", "category", "year"}
        for name, counted in results.facets.items():
            assert counted
            for value, papers in counted.items():
                told = {"years": (int(value), int(value))} if name == "year" else {name: (value,)}
                # A search that finds no paper of all words counts those of some; here text is one word.
                assert search(text, limit=1, **told).total == papers, (text, name, value)


def test_what_left_the_store_is_not_found(sides):
    from paperlab.site.store.models import Paper

    fill(30)
    refresh()
    take([paper(4, deleted=True)], source="arxiv-oai")
    Paper.objects.filter(pk=(deleted := key(5))).delete()
    gone = key(4)
    refresh()
    everything = set(found(limit=100))
    assert everything == set(Paper.objects.filter(withdrawn=False).values_list("pk", flat=True))
    assert not {gone, deleted} & everything
    assert not {gone, deleted} & set(found("model data training", limit=100))
    take([paper(4)], source="arxiv-oai")
    assert gone in found("2401.00004")


def test_merged_papers_are_one(sides):
    take([item(7, title="The same paper twice", abstract="Short."), paper(8)])
    take([item(1, arxiv=None, title="The same paper, once more", abstract="Short.")], source="jsonl")
    refresh()
    assert len(found("same paper")) >= 2
    take([item(7, title="The same paper, once more", abstract="Short.", as_of="2025-01-01")])
    refresh()
    assert found("same paper once more")[0] == key(7)
    assert len(found(limit=100)) == 2


def test_changed_papers_are_found_by_their_new_words(sides):
    fill(20)
    refresh()
    assert found("platypus", sort="date") == []
    take([paper(6, title="A platypus among papers", as_of="2025-01-01")])
    refresh()
    assert found("platypus")[0] == key(6)
    assert found("platypus", sort="date") == [key(6)]


def test_a_new_paper_is_found_at_once_by_its_words(sides):
    fill(20)
    refresh()
    take([item(901, title="Echidna networks")])
    begun = time.monotonic()
    assert key(901) in found("echidna", limit=100)
    print(f"a new paper was found after {time.monotonic() - begun:.3f} s")


def test_a_followed_search_without_a_word_means_no_paper(sides):
    from paperlab.site.search.rank import among

    fill(10)
    refresh()
    keys = [key(number) for number in range(1, 11)]
    assert among(Query("x" * 200), keys) == among(Query("?!"), keys) == []
    assert set(among(Query(), keys)) == set(keys)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_papers_are_shown_as_they_are(name, sides):
    from paperlab.site.store.models import Paper

    fill(10)
    take([item(901, title=f"Wombat {HOSTILE[name]}", abstract=HOSTILE[name] * 20)])
    refresh()
    hit = next(hit for hit in search("wombat").hits if hit.paper == key(901))
    title = Paper.objects.get(pk=hit.paper).title
    assert plain(hit.title) == ("Wombat O(n²) bold é" if name == "latex" else " ".join(title.split()))
    assert found(title)[0] == hit.paper


def test_an_empty_store_answers(sides):
    assert search("anything").hits == ()
    assert search().total == 0
    assert search("2401.00001", facets=True).hits == ()


def test_the_first_search_indexes_a_small_store(engine):
    fill(10)
    assert len(found(limit=100)) == 10


def test_days_and_words_stay_in_order_over_many_commits(engine):
    for start in range(1, 60, 7):
        fill(7, start)
        refresh(meaning=False)
    assert len(found(limit=100)) == 63
    assert found(WORDS[0], sort="date") == found(WORDS[0], sort="date")


def test_trending_is_its_formula(store):
    from paperlab.site.search.trending import NEVER, static, trending
    from paperlab.site.store.models import Paper, Sighting

    fill(30)
    rows = list(Paper.objects.order_by("pk"))
    first = date(2024, 5, 1)
    for number, row in enumerate(rows[:25]):
        for back in range(number % 4 + 1):
            day = first - timedelta(3 * back + number % 5)
            Sighting.objects.create(
                paper=row, source="daily-papers", day=day, upvotes=(number * 7) % 13 or None, comments=number % 6
            )
    on = first + timedelta(2)
    direct = {
        row.pk: sum(
            (1 + (seen.upvotes or 0) + (seen.comments or 0) / 2) * 0.5 ** ((on - seen.day).days / 3)
            for seen in row.sightings.all()
        )
        for row in rows[:25]
    }
    told = dict(trending(on, 100))
    assert told == pytest.approx(direct)
    kept = static([row.pk for row in rows])
    assert min(kept.values()) > NEVER
    for later in (0, 1, 17):
        order = [pk for pk, _ in trending(first + timedelta(later), 100)]
        assert order == sorted(order, key=lambda pk: -kept[pk])
