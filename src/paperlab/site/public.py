"""What a site for others needs, and whether this one has it: `paperlab up --public` asks before it starts."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from paperlab.core.address import is_local
from paperlab.core.home import home
from paperlab.site.start import configure


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. needed: without it, the site is not started. advice: what to do."""

    name: str
    ok: bool
    said: str
    advice: str = ""
    needed: bool = True


def findings(host: str) -> list[Finding]:
    """Everything that was looked at, in the order in which one would set it up. Raises SettingError."""
    configure()
    return [*_names(), *_database(), *_secrets(), *_mail(), *_doors(host), *_django()]


def _names() -> Iterator[Finding]:
    from django.conf import settings

    hosts = os.environ.get("PAPERLAB_HOSTS", "")
    if not hosts:
        yield Finding("hosts", False, "the site answers to this machine only", "set PAPERLAB_HOSTS=papers.example.org")
    else:
        any_ = "*" in settings.ALLOWED_HOSTS
        yield Finding("hosts", not any_, hosts, "name the hosts: * lets others' names lead here" if any_ else "")
    parts = urlsplit(settings.PAPERLAB_URL)
    known = parts.scheme == "https" and bool(parts.hostname)
    yield Finding("address", known, settings.PAPERLAB_URL, "" if known else "PAPERLAB_URL is to begin with https://")


def _database() -> Iterator[Finding]:
    from django.db import DatabaseError, connection

    if connection.vendor != "postgresql":
        said = "SQLite holds one writer at a time, on one machine"
        yield Finding("database", False, said, "set PAPERLAB_DATABASE=postgresql://user:password@host:port/name")
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW server_version")
            version = str(cursor.fetchone()[0])
    except DatabaseError as error:
        yield Finding("database", False, " ".join(str(error).split()), "is PAPERLAB_DATABASE right, PostgreSQL up?")
        return
    finally:
        connection.close()
    yield Finding("database", True, f"PostgreSQL {version}")


def _secrets() -> Iterator[Finding]:
    from django.conf import settings

    named = bool(os.environ.get("PAPERLAB_SECRET_KEY"))
    strong = len(settings.SECRET_KEY) >= 40 and len(set(settings.SECRET_KEY)) >= 10
    said = "from PAPERLAB_SECRET_KEY" if named else f"in {home() / 'secret.key'}"
    advice = "" if strong else "make one: python -c 'import secrets; print(secrets.token_urlsafe(50))'"
    yield Finding("secret", strong, said, advice)
    if not named:
        mode = stat.S_IMODE((home() / "secret.key").stat().st_mode)
        yield Finding("secret file", not mode & 0o077, f"mode {mode:o}", "chmod 600 it" if mode & 0o077 else "")


def _mail() -> Iterator[Finding]:
    from django.conf import settings

    from paperlab.site.digest import post

    try:
        relay = post.read(settings.PAPERLAB_SMTP)
    except post.SmtpError as error:
        yield Finding("mail relay", False, str(error), "mend PAPERLAB_SMTP")
        return
    if relay is None:
        said = "letters go into files: nobody can sign in"
        yield Finding("mail relay", False, said, "set PAPERLAB_SMTP=smtp://user:password@host?tls=start")
    else:
        relay.timeout = 10.0
        where = f"{relay.host}:{relay.port}"
        try:
            relay.try_()
        except post.Away as error:
            yield Finding("mail relay", False, str(error), "is PAPERLAB_SMTP right, the relay up?")
        else:
            bare = relay.user and relay.tls == "none"
            advice = "the password goes over the net as it is: add ?tls=start" if bare else ""
            yield Finding("mail relay", not bare, f"{where} answers", advice)
    own = not settings.PAPERLAB_FROM.rstrip(">").endswith("@localhost")
    advice = "" if own else "set PAPERLAB_FROM='paperlab <digest@papers.example.org>'"
    yield Finding("sender", own, settings.PAPERLAB_FROM, advice)


def _doors(host: str) -> Iterator[Finding]:
    from django.conf import settings

    limited = settings.PAPERLAB_RATE is not None
    said = f"{settings.PAPERLAB_RATE.policy}" if limited else "off"
    yield Finding("rate limit", limited, said, "" if limited else "unset PAPERLAB_RATE, or give one")
    proxies = os.environ.get("PAPERLAB_PROXIES", "127.0.0.1,::1")
    every = "*" in proxies
    yield Finding("proxies", not every, proxies, "name them: * lets anybody say who they are" if every else "")
    near = is_local(host)
    said = f"listens on {host}" + ("" if near else ": without TLS, to whoever reaches it")
    advice = "" if near else "a proxy with TLS is to be the only one that reaches it"
    yield Finding("TLS", near, said, advice, needed=False)


def _django() -> Iterator[Finding]:
    from django.core import checks

    for found in checks.run_checks(tags=[checks.Tags.security], include_deployment_checks=True):
        # W008: the proxy redirects to TLS. W021: a preload list is the owner's to choose.
        if found.id not in ("security.W008", "security.W021", "security.W005"):
            yield Finding(found.id or "django", False, found.msg, found.hint or "")
