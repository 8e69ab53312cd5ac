"""Comments as HTML: CommonMark without raw HTML and images by markdown-it, then what is left through nh3 (ammonia).

Formulas are read as everywhere on the site. Their MathML, made of a short list of elements, comes in behind ammonia:
what passes through it holds a word that nobody can guess and a number in the place of each formula.
"""

import re
import secrets
from functools import lru_cache
from typing import Any

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline

from paperlab.site import maths, tex

LIMIT = 10_000  # characters
_TAGS = {"p", "br", "em", "strong", "code", "pre", "blockquote", "ul", "ol", "li", "a", "hr"}
# Drawn anew by each process: any fixed sign can be written in a comment, as it is or as "&#xe000;".
_WORD = f"formula-{secrets.token_hex(16)}-"
_PLACE = re.compile(f"{_WORD}(\\d+);")


def _formula(state: StateInline, silent: bool) -> bool:
    """The rule of markdown-it: a formula begins here."""
    if state.src[state.pos] not in "$\\":
        return False
    if state.env.get("source") != state.src:  # one reader for each paragraph
        state.env["source"], state.env["formula"] = state.src, tex.formulas(state.src)
    found = state.env["formula"](state.pos)
    if found is None:
        return False
    if not silent:
        token = state.push("formula", "", 0)
        token.content, token.markup = found.value, found.kind
    state.pos = found.end
    return True


def _place(renderer: Any, tokens: Any, index: int, options: Any, env: dict[str, Any]) -> str:
    """Where a formula comes: a number behind which it is kept."""
    kept: list[str] = env.setdefault("formulas", [])
    kept.append(maths.html(tokens[index].content, tokens[index].markup == "display"))
    return f"{_WORD}{len(kept) - 1};"


BRACKETS, STARS = 500, 2_000  # in a comment, beyond which links and emphasis are not read
_made = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).disable(["image", "heading", "lheading"])
_plain = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).disable(
    ["image", "link", "emphasis", "heading", "lheading"]
)
for _reader in (_made, _plain):
    _reader.inline.ruler.before("escape", "formula", _formula)
    _reader.add_render_rule("formula", _place)


@lru_cache(maxsize=2048)
def html(text: str) -> SafeString:
    """A comment as HTML."""
    env: dict[str, Any] = {}
    text = text[:LIMIT]
    # Each "[" looks for its "]" as far as the end, each "*" for its like: ten thousand of them take 0.2 s, and a page
    # shows 200 comments.
    few = text.count("[") <= BRACKETS and text.count("*") + text.count("_") <= STARS
    written = (_made if few else _plain).render(text, env)
    cleaned = nh3.clean(
        written,
        tags=_TAGS,
        attributes={"a": {"href"}},
        url_schemes={"http", "https"},
        link_rel="noopener noreferrer nofollow ugc",
    )
    kept = env.get("formulas", [])
    return mark_safe(_PLACE.sub(lambda match: kept[int(match[1])], cleaned))
