"""The same server over HTTP, at /mcp: each request stands alone, and gets its answer as JSON."""

from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from asgiref.sync import async_to_sync
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt

from paperlab.core.install import MissingExtra, needs
from paperlab.site.api.problems import Problem, of_status, response

if TYPE_CHECKING:
    from paperlab.site.agents.server import Server


@cache
def _server() -> "Server":
    with needs("mcp"):
        from paperlab.site.agents.server import server
    return server()


@csrf_exempt  # no cookie is looked at, and a page of another site is refused by its Origin
@never_cache
def mcp(request: HttpRequest) -> HttpResponse:
    """Answer one message of a client."""
    if request.method != "POST":
        detail = "this is for Model Context Protocol clients, by POST; /about says what it is"
        return response(Problem(405, detail), {"Allow": "POST"})
    origin = request.headers.get("Origin", "")
    if origin and urlsplit(origin).netloc.lower() != request.get_host().lower():
        return response(Problem(403, "a page of another site may not ask here"))
    try:
        made, body = _server(), request.body
    except MissingExtra as error:
        return response(Problem(404, str(error)))
    except RequestDataTooBig:
        return response(of_status(413))
    status, headers, content = async_to_sync(_exchange)(made, request, body)
    answer = HttpResponse(content, status=status)
    del answer.headers["Content-Type"]
    for name, value in headers:
        answer.headers[name.decode("latin-1").title()] = value.decode("latin-1")
    return answer


async def _exchange(made: "Server", request: HttpRequest, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """What the SDK answers: status, headers, body."""
    kept = {name.lower(): value for name, value in request.headers.items() if name.lower() != "transfer-encoding"}
    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": request.scheme,
        "path": "/mcp", "raw_path": b"/mcp", "query_string": b"", "root_path": "", "client": None, "server": None,
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in kept.items()],
    }  # fmt: skip
    given = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return given.pop() if given else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await made.exchange(scope, receive, send)
    content = b"".join(part.get("body", b"") for part in sent if part["type"] == "http.response.body")
    return sent[0]["status"], list(sent[0].get("headers", [])), content
