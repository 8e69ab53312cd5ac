"""Comments as HTML: CommonMark without raw HTML and images by markdown-it, then what is left through nh3 (ammonia)."""

from functools import lru_cache

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

LIMIT = 10_000  # characters
_TAGS = {"p", "br", "em", "strong", "code", "pre", "blockquote", "ul", "ol", "li", "a", "hr"}
_made = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).disable(["image", "heading", "lheading"])


@lru_cache(maxsize=2048)
def html(text: str) -> SafeString:
    """A comment as HTML."""
    cleaned = nh3.clean(
        _made.render(text[:LIMIT]),
        tags=_TAGS,
        attributes={"a": {"href"}},
        url_schemes={"http", "https"},
        link_rel="noopener noreferrer nofollow ugc",
    )
    return mark_safe(cleaned)
