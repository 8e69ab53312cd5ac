"""The README badge in a browser: its words keep inside their grounds, and are not squeezed."""

from typing import Any

import pytest

MEASURE = """() => [...document.querySelectorAll("text")].map((text) => {
  const given = text.getBBox(), right = document.querySelector("svg").viewBox.baseVal.width;
  text.removeAttribute("textLength");
  return {left: given.x, right: given.x + given.width, own: text.getBBox().width, given: given.width, whole: right};
})"""


@pytest.mark.parametrize("slug", ["easyquant", "wanda", "no-such-paper"])
def test_the_words_fit(chromium: Any, site: str, slug: str) -> None:
    page = chromium.new_page()
    page.goto(f"{site}/badge/{slug}.svg")
    name, words = page.evaluate(MEASURE)
    assert name["left"] >= 5
    assert name["right"] + 5 <= words["left"] - 7
    assert words["right"] + 5 <= words["whole"]
    for one in (name, words):
        assert abs(one["own"] / one["given"] - 1) < 0.05, one  # in the machine's own sans-serif
    page.close()
