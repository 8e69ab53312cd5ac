"""Addresses of replies."""

from django.urls import path, re_path

from paperlab.site.replies import views

urlpatterns = [
    path("replies", views.decide),
    path("replies/orcid", views.from_orcid),
    path("replies/<int:pk>", views.reply),
    path("replies/<int:pk>/orcid", views.to_orcid),
    re_path(r"^papers/(?P<name>.+)/reply$", views.write),
]
