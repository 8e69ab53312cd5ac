"""Addresses of the digest."""

from django.urls import path

from paperlab.site.digest import views

urlpatterns = [
    path("subscribe", views.subscribe),
    path("subscribe/<str:token>", views.confirm),
    path("unsubscribe/<str:token>", views.unsubscribe),
]
