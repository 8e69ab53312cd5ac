"""The store for tests: tables made once, each test in a transaction that is taken back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tables(paperlab_home: Path) -> None:
    """Django configured and the tables there: SQLite in the session's folder, or what PAPERLAB_DATABASE names."""
    from paperlab.site.start import configure

    configure()
    from django.core.management import call_command

    call_command("migrate", interactive=False, verbosity=0)
    call_command("flush", interactive=False, verbosity=0)  # a command run before in this process loads the catalogue


@pytest.fixture
def rates(tables: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets of the test's own: accounts have the numbers of those of the test before."""
    from paperlab.site.api import limits
    from paperlab.site.people import who

    made: dict[str, limits.Buckets] = {}

    def buckets(what: str) -> limits.Buckets:
        return made.setdefault(what, limits.Buckets(tmp_path / "rates.sqlite3", who.RATES[what]))

    monkeypatch.setattr(who, "_buckets", buckets)


@pytest.fixture
def store(rates: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A store without a paper, which is empty again after the test, and a search index of its own, without vectors."""
    from django.core.management import call_command
    from django.db import transaction

    from paperlab.site.pages import feed
    from paperlab.site.people import for_you
    from paperlab.site.search import index
    from paperlab.site.store.models import Paper

    if Paper.objects.exists():  # a command that another file's test ran in this process loads the catalogue
        call_command("flush", interactive=False, verbosity=0)
    monkeypatch.setattr(index, "folder", lambda: tmp_path / "search")
    monkeypatch.setattr(index, "_opened", index.Embedded())
    monkeypatch.setenv("PAPERLAB_ENCODER", "none")

    # A store that is taken back counts its revisions and its rows anew.
    for kept in (feed._talked_about, for_you._taste, for_you._ranked):
        kept.cache_clear()
    with transaction.atomic():
        assert not Paper.objects.exists()
        yield
        transaction.set_rollback(True)


@pytest.fixture
def meaning(store: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An encoder that needs no model, set and at hand."""
    from search_papers import Fake

    from paperlab.site.search import encoder

    fake = Fake()
    monkeypatch.setattr(encoder, "load", lambda named=None: fake)
    monkeypatch.setattr(encoder, "available", lambda: True)
    monkeypatch.setattr(encoder, "setting", lambda: "fake")
    return fake


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Milvus Lite of the session, in this process."""
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    return str(tmp_path_factory.mktemp("milvus") / "papers.db")


@pytest.fixture(params=["embedded", "milvus"])
def engine(request: pytest.FixtureRequest, store: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The engine behind the search, without a paper."""
    if request.param == "milvus":
        import time
        from types import SimpleNamespace

        from pymilvus.client import grpc_handler

        from paperlab.site.search import milvus

        # The client waits half a second for every index of an empty collection.
        quick = SimpleNamespace(**{**vars(time), "sleep": lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.01))})
        monkeypatch.setattr(grpc_handler, "time", quick)
        monkeypatch.setenv("PAPERLAB_SEARCH", request.getfixturevalue("milvus"))
        server = milvus.client(request.getfixturevalue("milvus"))
        for name in server.list_collections():
            server.drop_collection(name)
        milvus.forget()
    return str(request.param)


@pytest.fixture
def files(store: None) -> None:
    """The index on files, without a paper."""
