"""What only a server can do wrong, and that nothing of it is imported unless asked for."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from search_papers import fill, found

OUTSIDE = "import sys; assert not [name for name in sys.modules if name.startswith(('pymilvus', 'grpc', 'milvus'))]"


def index() -> Any:
    from paperlab.site.search import index

    return index


def test_the_client_is_not_imported_unless_asked_for(tmp_path):
    told = {**os.environ, "PAPERLAB_HOME": str(tmp_path), "PAPERLAB_ENCODER": "none"}
    told.pop("PAPERLAB_SEARCH", None)
    script = f"from paperlab.site.commands import search; search.search({{'q': ['quantization']}}); {OUTSIDE}"
    subprocess.run([sys.executable, "-c", script], env=told, check=True)


def test_a_server_that_does_not_answer_is_said(store, monkeypatch):
    pytest.importorskip("pymilvus")
    from paperlab.site.search.query import Query
    from paperlab.site.search.rank import search

    monkeypatch.setenv("PAPERLAB_SEARCH", "http://127.0.0.1:9")
    fill(3)
    results = search(Query("model", sort="date"))
    assert results.hits == ()
    assert "PAPERLAB_SEARCH http://127.0.0.1:9" in " ".join(results.notes)
    with pytest.raises(index().Unreachable, match="PAPERLAB_SEARCH"):
        index().refresh()


def test_a_missing_client_is_said(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    monkeypatch.setenv("PAPERLAB_SEARCH", "http://nowhere:19530")
    with pytest.raises(index().Unreachable, match=r"\[milvus\]"):
        index().refresh()


def test_a_state_that_cannot_be_read_leads_to_a_new_index(engine):
    if engine != "milvus":
        pytest.skip("of the server alone")
    from paperlab.site.search import milvus

    fill(10)
    index().refresh()
    server = milvus.client(index().setting())
    server.upsert(milvus.STATES, [{"key": 1, "said": "{oops", "orders": [0.0, 0.0]}])
    milvus.forget()
    assert len(found(limit=100)) == 10


def test_collections_that_are_gone_are_made_again(engine):
    if engine != "milvus":
        pytest.skip("of the server alone")
    from paperlab.site.search import milvus
    from paperlab.site.search.query import Query
    from paperlab.site.search.rank import search

    fill(10)
    index().refresh()
    server = milvus.client(index().setting())
    server.drop_collection("paperlab_papers_0001")
    milvus.forget()
    assert index().engine().trouble
    results = search(Query("model"))
    assert results.hits
    assert "papers are gone" in " ".join(results.notes)
    assert len(found(limit=100)) == 10


def test_quotes_and_signs_in_filters(engine):
    fill(10)
    index().refresh()
    for odd in ('"', "'", "\\", "%", "_", '" or key > 0 or "', "x' or 1 == 1", "名前", "{", "\n"):
        assert found(author=(odd,)) == []
        assert found(category=(odd,)) == []
        assert found(family=(odd,)) == []
        found(odd)


def test_an_index_in_a_file_is_read_by_the_next_process(tmp_path):
    pytest.importorskip("milvus_lite")
    told = {**os.environ, "PAPERLAB_HOME": str(tmp_path), "PAPERLAB_ENCODER": "none"}
    told["PAPERLAB_SEARCH"] = str(tmp_path / "papers.db")

    def paperlab(*words: str) -> str:
        command = [sys.executable, "-m", "paperlab", *words]
        return subprocess.run(command, env=told, check=True, capture_output=True, text=True).stdout

    assert paperlab("index").startswith("375 papers by words")
    rows = json.loads(paperlab("search", "easyquant", "--json"))
    assert rows[0]["slug"] == "easyquant"
