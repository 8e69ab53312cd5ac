"""Pages for programs: robots.txt, the site map, the OpenSearch description."""

from datetime import datetime
from html import escape

from django.db.models import Max, Min
from django.http import Http404, HttpRequest, HttpResponse

from paperlab.site.pages import addresses
from paperlab.site.pages.atom import conditional
from paperlab.site.pages.figures import families, groups
from paperlab.site.store.models import Paper

PIECE = 10_000  # papers in one file of the site map, by their keys

_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
_SPACE = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'


def _site(request: HttpRequest) -> str:
    return f"{request.scheme}://{request.get_host()}"


def _xml(body: str) -> HttpResponse:
    return HttpResponse(_XML + body, content_type="application/xml; charset=utf-8")


def robots(request: HttpRequest) -> HttpResponse:
    """Everything may be read but searches, of which there is no end."""
    lines = ["User-agent: *", "Disallow: /search", "Disallow: /feeds/search", "Disallow: /admin/", ""]
    body = "\n".join([*lines, f"Sitemap: {_site(request)}/sitemap.xml", ""])
    return HttpResponse(body, content_type="text/plain; charset=utf-8")


@conditional
def index(request: HttpRequest) -> HttpResponse:
    """The site map's files."""
    ends = Paper.objects.aggregate(first=Min("pk"), last=Max("pk"))
    pieces = range((ends["first"] or 0) // PIECE, (ends["last"] or 0) // PIECE + 1) if ends["last"] else range(0)
    names = ["pages", *map(str, pieces)]
    body = "".join(f"<sitemap><loc>{escape(_site(request))}/sitemap-{name}.xml</loc></sitemap>" for name in names)
    return _xml(f"<sitemapindex {_SPACE}>{body}</sitemapindex>")


@conditional
def pages(request: HttpRequest) -> HttpResponse:
    """The pages that are not papers."""
    from paperlab.core.paper import FAMILIES

    names = ["/", "/trending", "/papers", "/families", "/coverage", "/about", "/compare", "/feeds"]
    names += [f"/families/{name}" for name in FAMILIES]
    names += [f"/compare/{name}" for name, _ in (*groups(), *families())]
    return _xml(f"<urlset {_SPACE}>{''.join(_url(request, name) for name in names)}</urlset>")


@conditional
def piece(request: HttpRequest, number: str) -> HttpResponse:
    """Papers of some keys."""
    n = int(number)
    rows = Paper.objects.filter(pk__gte=n * PIECE, pk__lt=(n + 1) * PIECE, withdrawn=False).order_by("pk")
    rows = rows.only("pk", "slug", "arxiv", "updated_at", "added")
    body = "".join(_url(request, addresses.paper(row), row.updated_at or row.added) for row in rows.iterator())
    if not body:
        raise Http404("no such piece of the site map")
    return _xml(f"<urlset {_SPACE}>{body}</urlset>")


def _url(request: HttpRequest, path: str, changed: datetime | None = None) -> str:
    when = f"<lastmod>{changed:%Y-%m-%d}</lastmod>" if changed else ""
    return f"<url><loc>{escape(_site(request) + path)}</loc>{when}</url>\n"


def opensearch(request: HttpRequest) -> HttpResponse:
    """How a browser searches here."""
    site = escape(_site(request))
    return HttpResponse(
        f'{_XML}<OpenSearchDescription xmlns="http://a9.com/-/spec/opensearch/1.1/"><ShortName>paperlab</ShortName>'
        f"<Description>Search papers and the verdicts on their claims</Description><InputEncoding>UTF-8</InputEncoding>"
        f'<Url type="text/html" template="{site}/search?q={{searchTerms}}"/>'
        f'<Url type="application/atom+xml" template="{site}/feeds/search.atom?q={{searchTerms}}"/>'
        "</OpenSearchDescription>",
        content_type="application/opensearchdescription+xml; charset=utf-8",
    )
