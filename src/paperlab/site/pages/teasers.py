"""Serve the small pictures on cards. A name holds a piece of its content's hash, so a browser may keep it for ever."""

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from paperlab.site.store import teasers


@require_safe
def serve(request: HttpRequest, file: str) -> HttpResponse:
    """One picture. file: as the address's pattern has it, so it leads out of no folder."""
    try:
        content = (teasers.folder() / file).read_bytes() if settings.PAPERLAB_PICTURES else b""
    except OSError:
        content = b""
    if not content:
        raise Http404("no such picture")
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return HttpResponse(content, content_type="image/webp", headers=headers)
