"""The personal part of the API: what somebody has here, and what they do, by a token with the scope for it."""

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, JsonResponse
from ninja import Schema
from ninja.errors import HttpError
from pydantic import ConfigDict, Field

from paperlab.core.install import version
from paperlab.core.methods import UnknownMethod, find_method
from paperlab.site import door
from paperlab.site.api import shapes
from paperlab.site.api.app import NAME, Api, find, handlers
from paperlab.site.api.problems import Problem, bad, response
from paperlab.site.people import actions, who
from paperlab.site.people.models import READ, Collection, Comment, Read, Vote
from paperlab.site.runs import queue
from paperlab.site.runs.models import Run
from paperlab.site.runs.views import as_json
from paperlab.site.tokens.models import SCOPES, Token

_SCOPES = "; ".join(f"`{name}`: {says}" for name, says in SCOPES.items())
ABOUT = f"""What one person has here, and what they do, for programs that act for them.

Every request carries a token from `/account/tokens` as `Authorization: Bearer plab_…`. A token has scopes:
{_SCOPES}.
Without the right one the answer is 403, without a good token 401. Doing a thing twice is doing it once.
**Errors** are RFC 9457 problems. **Rates** are limited by token."""
PAGE = 1_000  # votes, comments or papers in one answer
View = Callable[..., HttpResponse]

api = Api(title="paperlab, personal", version=version(), description=ABOUT, docs_url=None, urls_namespace="api-me")
for _error, _handler in handlers:
    api.add_exception_handler(_error, _handler)


@api.exception_handler(actions.Refused)
def _refused(request: HttpRequest, error: actions.Refused) -> HttpResponse:
    return response(Problem(400, str(error)))


@api.exception_handler(HttpError)
def _unreadable(request: HttpRequest, error: HttpError) -> HttpResponse:
    return response(Problem(error.status_code, "the body is not the JSON that /api/me/openapi.json describes"))


@api.exception_handler(queue.Refused)
def _not_queued(request: HttpRequest, error: queue.Refused) -> HttpResponse:
    return response(bad({name.removeprefix("set-") or "run": said for name, said in error.problems.items()}))


def token_of(request: HttpRequest) -> Token:
    """The token that the guard has found. Raises Problem where there is none."""
    token: Token | None = getattr(request, "paperlab_token", None)
    if token is None:
        raise Problem(401, "this needs a token; make one at /account/tokens, send it as Authorization: Bearer plab_…")
    return token


def needs(scope: str, *, writes: bool = True) -> Callable[[View], View]:
    """A view for tokens with a scope. writes: it counts against what one may do in a while."""

    def wrap(view: View) -> View:
        @wraps(view)
        def inner(request: HttpRequest, *words: Any, **named: Any) -> HttpResponse:
            token = token_of(request)
            if scope not in token.allowed:
                has = ", ".join(token.allowed)
                raise Problem(
                    403, f"this needs the scope {scope}; the token has {has}: make another at /account/tokens"
                )
            request.user = token.user  # whoever else is signed in here has nothing to do with it
            if writes and (wait := who.slow_down(request, "write", f"user {token.user_id}")):
                after = wait.headers["Retry-After"]
                return response(Problem(429, f"too many changes; wait {after} s"), {"Retry-After": after})
            return view(request, *words, **named)

        return inner

    return wrap


def _user(request: HttpRequest) -> User:
    return token_of(request).user


def _json(body: dict[str, Any]) -> HttpResponse:
    return JsonResponse(body, json_dumps_params={"ensure_ascii": False})


class Body(Schema):
    """A body of which nothing is left unread: a misspelt field would silently not count."""

    model_config = ConfigDict(extra="forbid")


class CollectionBody(Body):
    """A collection."""

    name: Annotated[str, Field(min_length=1, max_length=120)]
    note: Annotated[str, Field(max_length=actions.NOTE)] = ""


class NoteBody(Body):
    """What is said of a paper in a collection."""

    note: Annotated[str, Field(max_length=actions.NOTE)] = ""


class CommentBody(Body):
    """A comment."""

    paper: Annotated[str, Field(max_length=200, description="arXiv id or slug.")]
    body: Annotated[str, Field(description="Markdown.")]


class RunBody(Body):
    """A run of a method's checks."""

    method: Annotated[str, Field(max_length=120, examples=["easyquant"])]
    claim: Annotated[str, Field(max_length=120, description="One of its checks; if not given, all of them.")] = ""
    scale: Annotated[str, Field(max_length=10, description="quick or full.")] = "quick"
    parameters: Annotated[dict[str, str | int | float | bool | None], Field(default_factory=dict, max_length=100)]


@api.get("/token", summary="Whose token this is", operation_id="token", tags=["token"])
def token(request: HttpRequest) -> HttpResponse:
    """The token and whose it is; any scope will do."""
    its = token_of(request)
    return _json(
        {
            "name": its.user.first_name or None,
            "token": its.name,
            "scopes": list(its.allowed),
            "expires": shapes.moment(its.expires),
        }
    )


@api.get("/votes", summary="Your votes", operation_id="votes", tags=["votes"])
@needs("read", writes=False)
def votes(request: HttpRequest) -> HttpResponse:
    """The papers that you voted for, the last first."""
    rows = Vote.objects.filter(user=_user(request)).select_related("paper").order_by("-day", "-pk")[:PAGE]
    return _json({"votes": [{"paper": shapes.public_id(row.paper), "day": str(row.day)} for row in rows]})


@api.put("/votes/{path:paper}", summary="Vote for a paper", operation_id="vote", tags=["votes"])
@needs("vote")
def vote(request: HttpRequest, paper: str = NAME) -> HttpResponse:
    """Your vote for a paper."""
    return _voted(request, paper, True)


@api.delete("/votes/{path:paper}", summary="Remove a vote", operation_id="unvote", tags=["votes"])
@needs("vote")
def unvote(request: HttpRequest, paper: str = NAME) -> HttpResponse:
    """No vote for it."""
    return _voted(request, paper, False)


def _voted(request: HttpRequest, name: str, on: bool) -> HttpResponse:
    row = find(name)
    actions.vote(_user(request), row, on)
    return _json({"paper": shapes.public_id(row), "voted": on, "votes": actions.votes([row.pk])[row.pk][0]})


@api.get("/read", summary="What you have read", operation_id="read", tags=["read"])
@needs("read", writes=False)
def read(request: HttpRequest) -> HttpResponse:
    """The papers that are marked as read, the last first."""
    rows = Read.objects.filter(user=_user(request), state=READ).select_related("paper").order_by("-at", "-pk")[:PAGE]
    return _json({"read": [{"paper": shapes.public_id(row.paper), "at": shapes.moment(row.at)} for row in rows]})


@api.put("/read/{path:paper}", summary="Mark as read", operation_id="mark_read", tags=["read"])
@needs("collect")
def mark_read(request: HttpRequest, paper: str = NAME) -> HttpResponse:
    """A paper as read."""
    row = find(paper)
    actions.read(_user(request), row, True)
    return _json({"paper": shapes.public_id(row), "read": True})


@api.delete("/read/{path:paper}", summary="Mark as unread", operation_id="mark_unread", tags=["read"])
@needs("collect")
def mark_unread(request: HttpRequest, paper: str = NAME) -> HttpResponse:
    """A paper as unread."""
    row = find(paper)
    actions.read(_user(request), row, False)
    return _json({"paper": shapes.public_id(row), "read": False})


def _collection(request: HttpRequest, pk: int) -> Collection:
    row = Collection.objects.filter(pk=pk, user=_user(request)).first()
    if row is None:
        raise Problem(404, f"you have no collection {pk}; /api/me/collections lists yours")
    return row


def _as_json(row: Collection) -> dict[str, Any]:
    return {"id": row.pk, "name": row.name, "note": row.note, "papers": row.kept.count()}


@api.get("/collections", summary="Your collections", operation_id="collections", tags=["collections"])
@needs("read", writes=False)
def collections(request: HttpRequest) -> HttpResponse:
    """All of them, by name."""
    return _json({"collections": [_as_json(row) for row in Collection.objects.filter(user=_user(request))]})


@api.post("/collections", summary="Create a collection", operation_id="make_collection", tags=["collections"])
@needs("collect")
def make_collection(request: HttpRequest, body: CollectionBody) -> HttpResponse:
    """A collection of that name; one that there is already stays as it is."""
    return _json(_as_json(actions.collect(_user(request), body.name, body.note)))


@api.get("/collections/{int:pk}", summary="A collection's papers", operation_id="collection", tags=["collections"])
@needs("read", writes=False)
def collection(request: HttpRequest, pk: int) -> HttpResponse:
    """What is in it, the last first."""
    row = _collection(request, pk)
    kept = [
        {"paper": shapes.public_id(one.paper), "note": one.note, "added": shapes.moment(one.added)}
        for one in row.kept.select_related("paper")[:PAGE]
    ]
    return _json({**_as_json(row), "papers": kept})


@api.put(
    "/collections/{int:pk}/papers/{path:paper}",
    summary="Add a paper to a collection",
    operation_id="keep",
    tags=["collections"],
)
@needs("collect")
def keep(request: HttpRequest, pk: int, body: NoteBody | None = None, paper: str = NAME) -> HttpResponse:
    """A paper in a collection, with a note, if one is body."""
    row, found = _collection(request, pk), find(paper)
    actions.keep(row, found, True, body.note if body is not None else None)
    return _json({"collection": row.pk, "paper": shapes.public_id(found), "kept": True})


@api.delete(
    "/collections/{int:pk}/papers/{path:paper}",
    summary="Remove a paper from a collection",
    operation_id="unkeep",
    tags=["collections"],
)
@needs("collect")
def unkeep(request: HttpRequest, pk: int, paper: str = NAME) -> HttpResponse:
    """A paper no longer in a collection."""
    row, found = _collection(request, pk), find(paper)
    actions.keep(row, found, False)
    return _json({"collection": row.pk, "paper": shapes.public_id(found), "kept": False})


@api.get("/comments", summary="Your comments", operation_id="comments", tags=["comments"])
@needs("read", writes=False)
def comments(request: HttpRequest) -> HttpResponse:
    """The last ones first."""
    rows = Comment.objects.filter(user=_user(request)).select_related("paper").order_by("-at", "-pk")[:PAGE]
    return _json({"comments": [_said(row) for row in rows]})


def _said(row: Comment) -> dict[str, Any]:
    paper = shapes.public_id(row.paper)
    return {"id": row.pk, "paper": paper, "body": row.body, "at": shapes.moment(row.at)}


@api.post("/comments", summary="Comment on a paper", operation_id="comment", tags=["comments"])
@needs("comment")
def comment(request: HttpRequest, body: CommentBody) -> HttpResponse:
    """A comment under your name. With an `Idempotency-Key` header the same request sent again is the same comment."""
    key = request.headers.get("Idempotency-Key", "")[:40].replace("\0", "")
    return _json(_said(actions.comment(_user(request), find(body.paper), body.body, key)))


def _may_run(request: HttpRequest) -> None:
    own = settings.PAPERLAB_LOCAL and _user(request).username == who.HERE  # made at its door, by whose site it is
    if not own and not door.is_keeper(request):
        raise Problem(403, "runs are for the site's staff, and for whoever sits at its machine")


def _run(pk: int) -> Run:
    row = Run.objects.filter(pk=pk).first()
    if row is None:
        raise Problem(404, f"no run {pk}; /api/me/runs lists the last ones")
    return row


@api.get("/runs", summary="Runs", operation_id="runs", tags=["runs"])
@needs("runs", writes=False)
def runs(request: HttpRequest) -> HttpResponse:
    """The queue, the last first."""
    _may_run(request)
    return _json({"runs": [as_json(row) for row in Run.objects.defer("log")[:100]], "worker": queue.present()})


@api.post("/runs", summary="Start a run", operation_id="start_run", tags=["runs"])
@needs("runs")
def start_run(request: HttpRequest, body: RunBody) -> HttpResponse:
    """A run in the queue. With an `Idempotency-Key` header the same request sent again is the same run."""
    _may_run(request)
    try:
        method = find_method(body.method)
    except UnknownMethod as error:
        raise bad({"method": str(error)}) from error
    sent = {f"set-{name[:60]}": _written(value) for name, value in body.parameters.items()}
    key = request.headers.get("Idempotency-Key", "")[:40].replace("\0", "")
    once = {"once": f"{token_of(request).user_id} {key}"} if key else {}
    row = queue.ask(method, {**sent, "claim": body.claim, "scale": body.scale, **once}, _user(request))
    return _json(as_json(row))


def _written(value: str | int | float | bool | None) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


@api.get("/runs/{int:pk}", summary="A run", operation_id="run", tags=["runs"])
@needs("runs", writes=False)
def run(request: HttpRequest, pk: int) -> HttpResponse:
    """One run with the end of its log."""
    _may_run(request)
    row = _run(pk)
    return _json({**as_json(row), "log": row.log, "worker": queue.present()})


@api.delete("/runs/{int:pk}", summary="Cancel a run", operation_id="cancel_run", tags=["runs"])
@needs("runs")
def cancel_run(request: HttpRequest, pk: int) -> HttpResponse:
    """A run taken back; one that is under way ends as soon as its worker sees it."""
    _may_run(request)
    row = _run(pk)
    queue.cancel(row)
    row.refresh_from_db()
    return _json(as_json(row))
