"""The OpenAPI document: whole, described, and true: Schemathesis asks for what it promises and for what it forbids."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from api_papers import item, seen, take

pytestmark = pytest.mark.usefixtures("store")
schemathesis = pytest.importorskip("schemathesis")


@pytest.fixture
def filled() -> None:
    """A store with the catalogue and some ingested papers."""
    from datetime import date

    from paperlab.site.store import bundled

    bundled.load()
    take(item(n, sightings=seen(date(2024, 5, 27), n)) for n in range(1, 40))


@pytest.fixture
def document(filled: None) -> dict[str, Any]:
    from django.test import Client

    return json.loads(Client(headers={"host": "localhost"}).get("/api/openapi.json").content)


def test_the_document_describes_everything(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert all(set(path) == {"get"} for path in document["paths"].values())
    assert len({operation["operationId"] for operation in operations}) == len(operations) >= 14
    for operation in operations:
        assert operation["summary"]
        assert operation["description"]
        assert {"200", "304", "400", "429", "500"} <= set(operation["responses"])
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), (operation["operationId"], parameter["name"])


@pytest.fixture
def promised(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The document; the store stays open from one request to the next, as the test's transaction is in it."""
    from django.core import signals
    from django.db import close_old_connections

    ends = (signals.request_started, signals.request_finished)
    for signal in ends:
        signal.disconnect(close_old_connections)
    yield document
    for signal in ends:
        signal.connect(close_old_connections)


def fuzz(document: dict[str, Any], examples: int) -> Iterator[str]:
    """Ask every operation with `examples` generated requests, good and bad; what breaks the document's word."""
    from django.core.wsgi import get_wsgi_application
    from hypothesis.errors import Unsatisfiable
    from schemathesis.generation import GenerationMode

    config = schemathesis.Config.from_dict({"headers": {"Host": "localhost"}})
    schema = schemathesis.openapi.from_dict(document, config=config)
    schema.app = get_wsgi_application()
    schema.config.update(base_url="http://localhost")
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                probe(operation.as_strategy(generation_mode=mode), examples, mode == GenerationMode.POSITIVE)
            except Unsatisfiable:
                continue  # nothing but the path can be wrong here, and any path is one
            except (Exception, BaseExceptionGroup) as error:
                yield f"{mode.value} {operation.label}: {list(getattr(error, 'exceptions', []))} {error}"


def probe(cases: Any, examples: int, good: bool) -> None:
    """Ask with that many cases; good: they are such as the document allows."""
    from hypothesis import HealthCheck, Phase, assume, given, settings

    @given(case=cases)
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        query = case.query or {}
        if good:
            # What a document cannot say: that only one of several parameters may be given, which years have a week
            # 53, that a cursor must have been given out, that one day is after another, that no paper is called search.
            assume(sum(name in query for name in ("date", "week", "month")) < 2)
            assume("W53" not in str(query.get("week")))
            assume(not query.get("cursor"))
            assume(not ("since" in query and "until" in query))
            assume((case.path_parameters or {}).get("paper") != "search")
        case.call_and_validate(headers={"Accept-Encoding": "identity"})

    ask()


def test_the_answers_are_those_promised(promised: dict[str, Any]) -> None:
    found = list(fuzz(promised, 8))
    assert not found, "\n\n".join(found)


@pytest.mark.slow
def test_the_answers_are_those_promised_at_length(promised: dict[str, Any]) -> None:
    found = list(fuzz(promised, 200))
    assert not found, "\n\n".join(found)
