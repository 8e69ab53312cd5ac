"""Write a reply, prove that one is an author, decide whether it is shown."""

import re
import unicodedata
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.crypto import salted_hmac

from paperlab.core.methods import methods
from paperlab.site.api import shapes
from paperlab.site.people import names
from paperlab.site.replies.models import CHECKING, REFUSED, SHOWN, UNPROVED, WAITING, Reply
from paperlab.site.store import clean
from paperlab.site.store.models import Paper

LIMIT = 4_000  # characters
MOST = 50  # replies of one person
FILES = ("paperlab.txt", "README.md", "README.rst", "README")  # where the line may stand, in the order of asking


class Refused(ValueError):
    """What is not possible; the message says why."""


def claims_of(row: Paper) -> list[tuple[str, str]]:
    """The claims of a paper that are checked here: ("method:claim", in words)."""
    return [
        (f"{method.slug}:{check.claim}", check.says)
        for method in methods().values()
        if row.slug and method.card.paper == row.slug
        for check in method.card.checks
        if check.role == "claim"
    ]


def _read(row: Paper, claim: str, name: str, body: str) -> tuple[str, str, str]:
    name, body = clean.line(name), clean.text(body).strip()
    if claim and claim not in dict(claims_of(row)):
        raise Refused("no such claim of this paper is checked here")
    if not name or len(name) > names.LIMIT:
        raise Refused(f"give the name under which you are an author, in at most {names.LIMIT} characters")
    if not body:
        raise Refused("the reply is empty")
    if len(body) > LIMIT:
        raise Refused(f"the reply has {len(body):,} characters; at most {LIMIT:,} are allowed")
    return claim, name, body


def write(user: User, row: Paper, claim: str, name: str, body: str) -> Reply:
    """A reply, which nobody else sees yet. Raises Refused."""
    claim, name, body = _read(row, claim, name, body)
    if Reply.objects.filter(user=user).count() >= MOST:
        raise Refused(f"at most {MOST} replies are allowed")
    try:
        with transaction.atomic():
            return Reply.objects.create(user=user, paper=row, claim=claim, name=name, body=body)
    except IntegrityError:
        raise Refused("you have replied to this already; change that reply instead") from None


def rewrite(reply: Reply, name: str, body: str) -> None:
    """Change a reply. One that is proved waits for the owner again, for it is another text. Raises Refused."""
    _, reply.name, reply.body = _read(reply.paper, reply.claim, name, body)
    changed = {"name": reply.name, "body": reply.body, "decided": None}
    state = WAITING if reply.proof else UNPROVED
    Reply.objects.filter(pk=reply.pk).update(state=state, **changed)


def line(user: User, row: Paper) -> str:
    """The line that proves: it is worth something to this account and this paper only, so anybody may see it."""
    made = salted_hmac("paperlab.replies", f"{user.pk} {row.pk}", algorithm="sha256").hexdigest()
    return f"paperlab-author-{made[:24]}"


def repository(row: Paper) -> tuple[str, str] | None:
    """(host, owner/name) of the repository that a paper names, if its host is one of those that are asked."""
    match = re.fullmatch(
        r"https?://(?:www\.)?([a-z0-9.-]+)/([\w-][\w.-]*)/([\w-][\w.-]*?)(?:\.git)?(?:[/#?].*)?", row.code.strip()
    )
    if match is None or match[1] not in settings.PAPERLAB_REPOSITORIES:
        return None
    return match[1], f"{match[2]}/{match[3]}"


def proved(reply: Reply, proof: str, source: str, reason: str = "") -> None:
    """Note the proof; the owner decides then."""
    now = timezone.now()
    Reply.objects.filter(pk=reply.pk).update(
        state=WAITING, proof=proof, source=source[:300], reason=reason, proved=now, decided=None
    )


def unproved(reply: Reply, reason: str) -> None:
    """Note that a proof did not come out."""
    Reply.objects.filter(pk=reply.pk, proof="").update(state=UNPROVED, reason=reason[:1_000])


def check() -> bool:
    """The worker's job: look for one author's line in a repository; whether there was one to look for."""
    from paperlab.site.store.item import SourceError
    from paperlab.site.store.sources.http import Polite

    reply = Reply.objects.filter(state=CHECKING).select_related("paper", "user").first()
    if reply is None:
        return False
    where = repository(reply.paper)
    if where is None:
        unproved(reply, "the paper names no repository that this site asks")
        return True
    host, name = where
    wanted, client = line(reply.user, reply.paper), Polite(host, gap=1.0, tries=2, timeout=20.0, size_limit=2**20)
    try:
        for file in FILES:
            address = settings.PAPERLAB_REPOSITORIES[host].format(repository=name, file=file)
            answer = client.get(address)
            if answer.status == 200 and wanted.encode() in answer.content.split():
                proved(reply, "code", f"https://{host}/{name}")
                return True
    except SourceError as error:
        unproved(reply, f"the repository could not be read: {error}")
        return True
    unproved(reply, f"none of {', '.join(FILES)} in {name} has the line; it may take minutes until a change is seen")
    return True


def _folded(name: str) -> tuple[str, str]:
    """(last name, first letter) of a name, without accents."""
    plain = unicodedata.normalize("NFKD", name)
    words = re.findall(r"\w+", "".join(c for c in plain if not unicodedata.combining(c)).casefold())
    return (words[-1], words[0][0]) if words else ("", "")


def is_author(row: Paper, name: str) -> bool:
    """Whether a name is one of the paper's authors, as far as initials and accents tell."""
    return bool(name.strip()) and _folded(name) in {_folded(str(author)) for author in row.authors}


def decide(pk: int, show: bool, mark: str) -> None:
    """The owner's word on a reply that is proved. mark: of the words that they have read. Raises Refused where the
    reply has other words by now."""
    proofs = Reply.objects.filter(pk=pk, state__in=(WAITING, SHOWN, REFUSED)).exclude(proof="")
    row = proofs.first()
    if row is None:
        return
    changed = {"state": SHOWN if show else REFUSED, "decided": timezone.now()}
    if mark != row.mark or not proofs.filter(name=row.name, body=row.body).update(**changed):
        raise Refused("this reply was changed while you read it; nothing was decided, so read it again")


def exported(user: User) -> list[dict[str, Any]]:
    """Somebody's replies as their export has them."""
    return [
        {
            "paper": shapes.public_id(one.paper),
            "claim": one.claim or None,
            "name": one.name,
            "body": one.body,
            "state": one.state,
            "proof": one.proof or None,
            "source": one.source or None,
            "made": str(one.made),
        }
        for one in Reply.objects.filter(user=user).select_related("paper")
    ]
