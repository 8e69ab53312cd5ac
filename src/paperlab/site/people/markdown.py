"""Comments as HTML: CommonMark without raw HTML and images by markdown-it, then what is left through nh3 (ammonia)."""

from functools import lru_cache

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

LIMIT = 10_000  # characters
_TAGS = {"p", "br", "em", "strong", "code", "pre", "blockquote", "ul", "ol", "li", "a", "hr"}
BRACKETS = 500
_made = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).disable(["image", "heading", "lheading"])
_without_links = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).disable(
    ["image", "link", "heading", "lheading"]
)


@lru_cache(maxsize=2048)
def html(text: str) -> SafeString:
    """A comment as HTML."""
    text = text[:LIMIT]
    # Each "[" looks for its "]" as far as the end: ten thousand of them take 0.2 s, and a page shows 200 comments.
    reader = _made if text.count("[") <= BRACKETS else _without_links
    cleaned = nh3.clean(
        reader.render(text),
        tags=_TAGS,
        attributes={"a": {"href"}},
        url_schemes={"http", "https"},
        link_rel="noopener noreferrer nofollow ugc",
    )
    return mark_safe(cleaned)
