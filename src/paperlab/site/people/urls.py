"""Addresses of the people."""

from django.urls import path, re_path

from paperlab.site.people import moderating, signing, views

urlpatterns = [
    path("sign-in", signing.sign_in),
    path("sign-in/<str:token>", signing.link),
    path("sign-out", signing.sign_out),
    path("account", views.account),
    path("account/export.json", views.export),
    path("account/delete", views.forget),
    path("collections", views.collections),
    path("collections/<int:pk>", views.collection),
    path("comments/<int:pk>", views.comment),
    path("comments/<int:pk>/report", moderating.report),
    path("moderation", moderating.page),
    path("follow", views.follow),
    path("submit", views.submit),
    re_path(r"^papers/(?P<name>.+)/vote$", views.vote),
    re_path(r"^papers/(?P<name>.+)/read$", views.read),
    re_path(r"^papers/(?P<name>.+)/comment$", views.add_comment),
    re_path(r"^papers/(?P<name>.+)/keep$", views.keep),
    re_path(r"^papers/(?P<name>.+)/family$", views.family),
]
