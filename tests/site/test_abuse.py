"""What people tried on a site for others, and on one of one's own: each was possible once."""

import html
import itertools
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("store")
ADDRESSES = itertools.count(1)


@pytest.fixture(autouse=True)
def public(store: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", False)


@pytest.fixture
def paper() -> Any:
    return papers(1)[0]


def papers(count: int) -> list[Any]:
    from paperlab.site.store.models import Paper

    return [
        Paper.objects.create(arxiv=f"2401.{number:05d}", title=f"Paper {number}", title_key=str(number))
        for number in range(1, count + 1)
    ]


def browser(email: str = "", **more: Any) -> Any:
    from django.contrib.auth.models import User
    from django.test import Client

    one = Client(headers={"host": "localhost"}, REMOTE_ADDR=f"192.0.2.{next(ADDRESSES) % 250}")
    if email:
        one.force_login(User.objects.get_or_create(username=email, email=email, **more)[0])
    return one


def text(answer: Any) -> str:
    return html.unescape(answer.content.decode())


def asked(one: Any, path: str) -> int:
    """How many questions a page asks of the store."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    one.get(path)
    with CaptureQueriesContext(connection) as questions:
        assert one.get(path).status_code == 200
    return len(questions)


# -- text --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "&#xe000;0&#xe001;",
        "&#57344;99999999999999999999&#57345; $a$",
        "\ue0001\ue001 $a$",
        "$a$ &#xe000;0&#xe001;" * 99,
    ],
)
def test_no_comment_takes_its_page_down_or_repeats_a_formula(paper: Any, body: str) -> None:
    ann, chief = browser("ann@example.org"), browser("chief@example.org", is_staff=True)
    made = ann.post("/papers/2401.00001/comment", {"body": body})
    assert made.status_code == 302
    page = browser().get("/papers/2401.00001")
    assert page.status_code == 200
    assert text(page).count("<math") == body.count("$a$")
    assert chief.get("/moderation?show=latest").status_code == 200


@pytest.mark.parametrize("where", ["/library?tag=%00", "/?from=%00", "/search?q=a%00", "/%00", "/sign-in?next=/a%00"])
def test_the_character_nul_is_refused_before_a_database_sees_it(where: str) -> None:
    answer = browser("ann@example.org").get(where)
    assert answer.status_code == 400
    assert "NUL" in text(answer)


def test_a_form_loses_its_nul_and_nothing_else(paper: Any) -> None:
    from paperlab.site.people.models import Comment, SignIn

    ann = browser("ann@example.org")
    assert ann.post("/papers/2401.00001/comment", {"body": "hel\0lo", "once": "a\0b"}).status_code == 302
    assert Comment.objects.get().once.endswith(" ab")
    assert "hello" in text(browser().get("/papers/2401.00001"))
    assert ann.post("/follow", {"kind": "author", "value": "A\0", "on": "0"}).status_code == 302
    assert browser().post("/sign-in", {"email": "eve@example.org", "next": "/a\0"}).status_code == 200
    assert SignIn.objects.get().next == "/a"
    form = {"name": "x", "scope": "comment", "days": "7"}
    secret = re.search(r"plab_[\w-]{43}", text(ann.post("/account/tokens", form)))
    assert secret
    headers = {"Authorization": f"Bearer {secret[0]}"}
    named = {"paper": "2401\0", "body": "hello"}
    assert ann.post("/api/me/comments", named, content_type="application/json", headers=headers).status_code == 404


def test_a_day_before_all_others_is_a_day_without_papers(paper: Any) -> None:
    answer = browser().get("/api/daily_papers?date=0001-01-01&sort=trending")
    assert answer.status_code == 200
    assert answer.json() == []


@pytest.mark.parametrize("name", ["\u1d00dmin", "p\u1d00perlab", "admin\u7ba1\u7406", "\u7ba1\u7406staff", "Ann admin"])
def test_no_name_is_that_of_the_staff(name: str) -> None:
    ann = browser("ann@example.org")
    assert ann.post("/account", {"name": name}).status_code == 400
    for good in ("Ann \u674e", "\u674e Ann", "adminah", "\u5f20\u4e09", "T\u014dky\u014d"):
        assert ann.post("/account", {"name": good}).status_code == 302, good


def test_an_address_that_no_letter_can_go_to_is_refused() -> None:
    assert browser().post("/sign-in", {"email": "\u017fam@example.org"}).status_code == 400
    assert browser().post("/subscribe", {"email": "\u017fam@example.org"}).status_code == 400
