"""Addresses of pages, and which addresses from outside may become links."""

from typing import Protocol
from urllib.parse import quote, urlencode, urlsplit

from django.utils.http import url_has_allowed_host_and_scheme


class Named(Protocol):
    """A paper, as far as its address goes."""

    @property
    def pk(self) -> int:
        """Its number in this store."""
        ...

    @property
    def slug(self) -> str | None:
        """Of the catalogue."""
        ...

    @property
    def arxiv(self) -> str | None:
        """Its arXiv id."""
        ...


def name(row: Named) -> str:
    """The name by which a paper's page is known: slug, else arXiv id, else "~" and its number in this store."""
    return row.slug or row.arxiv or f"~{row.pk}"


def paper(row: Named) -> str:
    """The address of a paper's page."""
    return f"/papers/{quote(name(row), safe='/~')}"


def search(**filters: str) -> str:
    """The address of a search."""
    return f"/search?{urlencode({key: value for key, value in filters.items() if value})}"


def inside(wanted: str, otherwise: str) -> str:
    """An address if it is one of this site, else `otherwise`."""
    if wanted.startswith("/") and url_has_allowed_host_and_scheme(wanted, allowed_hosts=None):
        return wanted[:500]
    return otherwise


def web(address: str) -> str:
    """An address from outside if a browser may be sent there (http, https with a host), else ""."""
    try:
        parts = urlsplit(address.strip())
        host = parts.hostname
    except ValueError:
        return ""
    return address.strip() if parts.scheme in ("http", "https") and host and "\\" not in address else ""
