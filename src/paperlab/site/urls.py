"""Root URL configuration."""

from django.contrib import admin
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import include, path, re_path

from paperlab.site.agents.views import mcp
from paperlab.site.api.app import api
from paperlab.site.api.docs import docs, missing
from paperlab.site.people import who
from paperlab.site.tokens.me import api as personal


def admin_login(request: HttpRequest) -> HttpResponseBase:
    """The administration's sign-in, as often as one may try a password elsewhere on the site."""
    if request.method == "POST":
        name = request.POST.get("username", "")[:150].strip().lower()
        if wait := who.slow_down(request, "password", name):
            return wait
    return admin.site.login(request)


urlpatterns = [
    path("admin/login/", admin_login),
    path("admin/", admin.site.urls),
    re_path(r"^api/?$", docs),
    path("api/me/", personal.urls),
    path("api/", api.urls),
    re_path(r"^api(/.*)?$", missing),
    re_path(r"^mcp/?$", mcp),
    path("", include("paperlab.site.runs.urls")),
    path("", include("paperlab.site.people.urls")),
    path("", include("paperlab.site.tokens.urls")),
    path("", include("paperlab.site.groups.urls")),
    path("", include("paperlab.site.replies.urls")),
    path("", include("paperlab.site.digest.urls")),
    path("", include("paperlab.site.pages.urls")),
]

handler400 = "paperlab.site.pages.refused.bad_request"
handler403 = "paperlab.site.pages.refused.forbidden"
handler404 = "paperlab.site.pages.refused.not_found"
handler500 = "paperlab.site.pages.refused.broken"
