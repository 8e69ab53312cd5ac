"""The site's addresses."""

from django.contrib import admin
from django.urls import path, re_path

from paperlab.site.api.app import api
from paperlab.site.api.docs import docs, missing
from paperlab.site.pages import views

urlpatterns = [
    path("admin/", admin.site.urls),
    re_path(r"^api/?$", docs),
    path("api/", api.urls),
    re_path(r"^api(/.*)?$", missing),
    path("", views.papers),
    re_path(r"^papers/(?P<name>.+)$", views.paper),
]
