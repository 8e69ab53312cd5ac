"""The bundled catalogue: every row fits the schema, papers are found by slug, arXiv id and words."""

import json
from collections import Counter

import jsonschema
import pytest

from paperlab.core.paper import (
    CATALOGUE,
    FAMILIES,
    KINDS,
    UnknownPaper,
    arxiv_id,
    find_paper,
    papers,
)

SCHEMA = json.loads((CATALOGUE.parent / "catalogue.schema.json").read_text(encoding="utf-8"))
ROWS = [json.loads(line) for line in CATALOGUE.read_text(encoding="utf-8").splitlines()]


def test_every_row_fits_the_schema():
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.check_schema(SCHEMA)
    problems = [
        f"{row.get('slug')}: {error.json_path}: {error.message}" for row in ROWS for error in validator.iter_errors(row)
    ]
    assert problems == []


@pytest.mark.parametrize(
    "change",
    [
        {"slug": "Easy_Quant"},
        {"family": "quantisation"},
        {"arxiv": "2403.02775v2"},
        {"arxiv": "2413.02775"},
        {"year": "2024"},
        {"kind": "paper"},
        {"plan": None, "why_not": None},
        {"code": "github.com/a/b"},
        {"surprise": 1},
        {"summary": ""},
    ],
)
def test_the_schema_refuses_what_it_should(change):
    good = next(row for row in ROWS if row["slug"] == "easyquant")
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert validator.is_valid(good)
    assert not validator.is_valid({**good, **change})


def test_rows_are_many_and_unique():
    assert len(ROWS) == len(papers()) == 375
    for key in ("slug", "arxiv", "title"):
        assert [value for value, count in Counter(row[key] for row in ROWS).items() if count > 1] == []


def test_the_closed_lists_are_the_schemas():
    assert tuple(SCHEMA["properties"]["family"]["enum"]) == FAMILIES == tuple(sorted({row["family"] for row in ROWS}))
    assert tuple(SCHEMA["properties"]["kind"]["enum"]) == KINDS
    assert {row["kind"] for row in ROWS} == set(KINDS)


def test_the_year_is_that_of_the_arxiv_id():
    # A paper sent in on the last day of December carries January's number; a preprint may follow its conference.
    assert [row["slug"] for row in ROWS if abs(2000 + int(row["arxiv"][:2]) - row["year"]) > 1] == []


def test_no_code_link_hides_where_it_leads():
    quantization = [row for row in ROWS if row["family"] == "quantization"]
    assert len(quantization) == 14
    assert [
        row["slug"] for row in quantization if row["code"] and not row["code"].startswith("https://github.com/")
    ] == []


def test_reading_keeps_every_field():
    paper = papers()["easyquant"]
    row = next(row for row in ROWS if row["slug"] == "easyquant")
    assert (paper.title, paper.arxiv, paper.year, paper.family) == (
        row["title"],
        row["arxiv"],
        row["year"],
        row["family"],
    )
    assert [claim.value for claim in paper.claims] == [claim["value"] for claim in row["claims"]]
    assert paper.plan is not None
    assert paper.plan.expect == row["plan"]["expect"]


@pytest.mark.parametrize(
    "name",
    ["easyquant", "EasyQuant", "2403.02775", "arXiv:2403.02775v2", "https://arxiv.org/abs/2403.02775",
     "https://arxiv.org/pdf/2403.02775v1.pdf"],
)  # fmt: skip
def test_a_paper_is_found_by_slug_and_arxiv_id(name):
    assert find_paper(name).slug == "easyquant"


def test_underscores_are_hyphens():
    assert find_paper("outlier_suppression_plus").slug == "outlier-suppression-plus"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("easyqant", "easyquant"),
        ("ost-quant", "ostquant"),
        ("qwen3", "qwen3-quantization-study"),
        ("9999.99999", "search"),
    ],
)
def test_an_unknown_paper_names_its_neighbours(name, hint):
    with pytest.raises(UnknownPaper, match=hint):
        find_paper(name)


def test_arxiv_ids_are_read_in_every_form():
    assert arxiv_id("1909.05840") == arxiv_id("arxiv:1909.05840v2") == "1909.05840"
    assert arxiv_id("bitnet-1.58") is None
    assert arxiv_id("cs/0301012") is None
