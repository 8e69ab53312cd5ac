"""Light or dark theme, kept in a cookie, so a page is right from its first paint, without a script."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from paperlab.site.pages import addresses

THEMES = ("light", "dark")


@csrf_exempt  # a form on every page: a token would make every page one that no cache may keep, for a colour
@never_cache
@require_POST
def theme(request: HttpRequest) -> HttpResponse:
    """Choose one; anything but light and dark is the system's."""
    to = request.POST.get("to", "")
    answer = redirect(addresses.inside(request.POST.get("next", ""), "/"))
    if to in THEMES:
        secure = settings.SESSION_COOKIE_SECURE
        answer.set_cookie("theme", to, max_age=365 * 86400, samesite="Lax", httponly=True, secure=secure)
    else:
        answer.delete_cookie("theme", samesite="Lax")
    return answer
