"""Addresses of the people."""

from django.urls import path, re_path

from paperlab.site.people import for_you_pages, library, moderating, signing, views

urlpatterns = [
    path("sign-in", signing.sign_in),
    path("sign-in/<str:token>", signing.link),
    path("sign-out", signing.sign_out),
    path("account", views.account),
    path("account/export.json", views.export),
    path("account/delete", views.forget),
    path("collections", views.collections),
    path("collections/<int:pk>", library.collection),
    path("collections/<int:pk>/paper", library.annotate),
    re_path(r"^collections/(?P<pk>[0-9]{1,18})\.(?P<kind>bib|ris)$", library.collection_file),
    re_path(r"^shared/(?P<token>[A-Za-z0-9_-]{40,80})\.(?P<kind>bib|ris)$", library.shared_file),
    path("shared/<str:token>", library.shared),
    path("for-you", for_you_pages.page),
    path("for-you.json", for_you_pages.as_json),
    path("for-you/link", for_you_pages.link),
    path("feeds/for-you.atom", for_you_pages.own_feed),
    path("feeds/for-you/<str:token>.atom", for_you_pages.linked_feed),
    path("library", library.library),
    re_path(r"^library\.(?P<kind>bib|ris)$", library.library_file),
    path("library/reading", library.reading),
    path("comments/<int:pk>", views.comment),
    path("report/<str:kind>/<int:pk>", moderating.report),
    path("moderation", moderating.page),
    path("follow", views.follow),
    path("submit", views.submit),
    re_path(r"^papers/(?P<name>.+)/vote$", views.vote),
    re_path(r"^papers/(?P<name>.+)/read$", views.read),
    re_path(r"^papers/(?P<name>.+)/comment$", views.add_comment),
    re_path(r"^papers/(?P<name>.+)/keep$", views.keep),
    re_path(r"^papers/(?P<name>.+)/family$", views.family),
]
