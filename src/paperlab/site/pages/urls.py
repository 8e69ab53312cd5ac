"""The addresses of the pages."""

from django.urls import path, re_path

from paperlab.site.pages import (
    about,
    atom,
    comparing,
    covering,
    lists,
    paper,
    pictures,
    robots,
    searching,
    static_files,
)

urlpatterns = [
    path("", lists.home),
    path("trending", lists.trending),
    path("papers", lists.papers),
    path("families", lists.families),
    path("families/<slug:name>", lists.family),
    path("search", searching.search),
    path("compare", comparing.index),
    path("compare/<slug:family>", comparing.compare),
    path("compare/<slug:family>.csv", comparing.export),
    path("coverage", covering.page),
    path("about", about.about),
    path("feeds", about.feeds),
    path("feeds/daily.atom", atom.daily),
    path("feeds/trending.atom", atom.trending),
    path("feeds/new.atom", atom.new),
    path("feeds/checks.atom", atom.checks),
    path("feeds/search.atom", atom.search),
    path("feeds/family/<slug:name>.atom", atom.family),
    path("feeds/verdict/<str:word>.atom", atom.verdict),
    path("feeds/author/<str:name>.atom", atom.author),
    path("robots.txt", robots.robots),
    path("sitemap.xml", robots.index),
    path("sitemap-pages.xml", robots.pages),
    re_path(r"^sitemap-(?P<number>[0-9]{1,9})\.xml$", robots.piece),
    path("opensearch.xml", robots.opensearch),
    re_path(r"^papers/(?P<name>.+)\.bib$", paper.cite),
    re_path(r"^papers/(?P<name>.+)/card\.png$", pictures.card),
    re_path(r"^papers/(?P<name>.+?)/?$", paper.paper),
    re_path(r"^static/(?P<path>.+)$", static_files.serve),
]
