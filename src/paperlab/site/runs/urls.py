"""Addresses of the runs."""

from django.urls import path, re_path

from paperlab.site.runs import views

urlpatterns = [
    re_path(r"^papers/(?P<name>.+)/run$", views.ask),
    path("runs/", views.runs),
    path("runs.json", views.runs),
    path("runs/<int:pk>", views.run),
    path("runs/<int:pk>.json", views.run),
    path("runs/<int:pk>/live", views.run),
    path("runs/<int:pk>/events", views.events),
    path("runs/<int:pk>/cancel", views.cancel),
    path("runs/<int:pk>/resume", views.resume),
    path("runs/<int:pk>/again", views.again),
]
