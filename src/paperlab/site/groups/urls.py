"""Addresses of groups."""

from django.urls import path

from paperlab.site.groups import views

urlpatterns = [
    path("groups", views.groups),
    path("groups/<int:pk>", views.group),
    path("groups/meetings/<int:pk>", views.meeting),
    path("groups/join/<str:word>", views.join),
]
