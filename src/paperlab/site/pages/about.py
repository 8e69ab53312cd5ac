"""Pages about the site itself."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from paperlab.core.paper import FAMILIES
from paperlab.core.standings import MIXED, NOT_RUN
from paperlab.core.verdict import WORDS
from paperlab.site.pages import cards
from paperlab.site.search import trending


def about(request: HttpRequest) -> HttpResponse:
    """How verdicts are made, and the formulas."""
    doc = (trending.__doc__ or "").strip()
    since = doc.partition("In force since ")[2].partition(".")[0]
    formula = doc.partition("\n\n")[2].partition("\n\nIn force")[0]
    context = {
        "words": [(word, cards.SIGNS[word][2]) for word in (*WORDS, MIXED, "not yet run", "abstract only")],
        "half_life": trending.HALF_LIFE,
        "formula": "\n".join(line.strip() for line in formula.splitlines()),
        "since": since,
    }
    return render(request, "pages/about.html", context)


def feeds(request: HttpRequest) -> HttpResponse:
    """Every feed there is."""
    return render(request, "pages/feeds.html", {"families": FAMILIES, "words": (*WORDS, MIXED, NOT_RUN)})
