"""Addresses of the tokens."""

from django.urls import path

from paperlab.site.tokens import views

urlpatterns = [path("account/tokens", views.tokens)]
