"""`paperlab up --public`: check before the start whether this site has what a public one needs."""

import ipaddress
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from paperlab.core.address import is_local
from paperlab.core.home import home
from paperlab.site.start import configure


@dataclass(frozen=True)
class Requirement:
    """One requirement of a public site. value: what there is. needed: without it, the site is not started. advice: what
    to do."""

    name: str
    ok: bool
    value: str
    advice: str = ""
    needed: bool = True


def check(host: str) -> list[Requirement]:
    """Every requirement and whether it is met, in the order in which one would set them up. Raises SettingError."""
    configure()
    return [*_names(), *_database(), *_secrets(), *_mail(), *_doors(host), *_django()]


def _names() -> Iterator[Requirement]:
    from django.conf import settings

    hosts = os.environ.get("PAPERLAB_HOSTS", "")
    if not hosts:
        yield Requirement(
            "hosts", False, "the site answers to this machine only", "set PAPERLAB_HOSTS=papers.example.org"
        )
    else:
        any_ = "*" in settings.ALLOWED_HOSTS
        yield Requirement("hosts", not any_, hosts, "name the hosts: * lets others' names lead here" if any_ else "")
    parts = urlsplit(settings.PAPERLAB_URL)
    known = parts.scheme == "https" and bool(parts.hostname)
    yield Requirement(
        "address", known, settings.PAPERLAB_URL, "" if known else "PAPERLAB_URL is to begin with https://"
    )


def _database() -> Iterator[Requirement]:
    from django.db import DatabaseError, connection

    if connection.vendor != "postgresql":
        value = "SQLite holds one writer at a time, on one machine"
        yield Requirement("database", False, value, "set PAPERLAB_DATABASE=postgresql://user:password@host:port/name")
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW server_version")
            version = str(cursor.fetchone()[0])
    except DatabaseError as error:
        yield Requirement("database", False, " ".join(str(error).split()), "is PAPERLAB_DATABASE right, PostgreSQL up?")
        return
    finally:
        connection.close()
    yield Requirement("database", True, f"PostgreSQL {version}")


def _secrets() -> Iterator[Requirement]:
    from django.conf import settings

    named = bool(os.environ.get("PAPERLAB_SECRET_KEY"))
    strong = len(settings.SECRET_KEY) >= 40 and len(set(settings.SECRET_KEY)) >= 10
    value = "from PAPERLAB_SECRET_KEY" if named else f"in {home() / 'secret.key'}"
    advice = "" if strong else "make one: python -c 'import secrets; print(secrets.token_urlsafe(50))'"
    yield Requirement("secret", strong, value, advice)
    if not named:
        mode = stat.S_IMODE((home() / "secret.key").stat().st_mode)
        yield Requirement("secret file", not mode & 0o077, f"mode {mode:o}", "chmod 600 it" if mode & 0o077 else "")


def _mail() -> Iterator[Requirement]:
    from django.conf import settings

    from paperlab.site.digest import post

    try:
        relay = post.read(settings.PAPERLAB_SMTP)
    except post.SmtpError as error:
        yield Requirement("mail relay", False, str(error), "correct PAPERLAB_SMTP")
        return
    if relay is None:
        value = "e-mails are written to files: nobody can sign in"
        yield Requirement("mail relay", False, value, "set PAPERLAB_SMTP=smtp://user:password@host?tls=start")
    else:
        relay.timeout = 10.0
        where = f"{relay.host}:{relay.port}"
        try:
            relay.try_()
        except post.Away as error:
            yield Requirement("mail relay", False, str(error), "is PAPERLAB_SMTP right, the relay up?")
        else:
            bare = relay.user and relay.tls == "none"
            advice = "the password is sent unencrypted: add ?tls=start" if bare else ""
            yield Requirement("mail relay", not bare, f"{where} answers", advice)
    own = not settings.PAPERLAB_FROM.rstrip(">").endswith("@localhost")
    advice = "" if own else "set PAPERLAB_FROM='paperlab <digest@papers.example.org>'"
    yield Requirement("sender", own, settings.PAPERLAB_FROM, advice)


def _doors(host: str) -> Iterator[Requirement]:
    from django.conf import settings

    limited = settings.PAPERLAB_RATE is not None
    value = f"{settings.PAPERLAB_RATE.policy}" if limited else "off"
    yield Requirement("rate limit", limited, value, "" if limited else "unset PAPERLAB_RATE, or give one")
    proxies = os.environ.get("PAPERLAB_PROXIES", "127.0.0.1,::1")
    wide = [one.strip() for one in proxies.split(",") if not _names_a_proxy(one.strip())]
    advice = f"name each by its address, or its own net: {wide[0]!r} lets anybody say who they are" if wide else ""
    yield Requirement("proxies", not wide, proxies, advice)
    near = is_local(host)
    value = f"listens on {host}" + ("" if near else ": without TLS, to whoever reaches it")
    advice = "" if near else "a proxy with TLS is to be the only one that reaches it"
    yield Requirement("TLS", near, value, advice, needed=False)


def _names_a_proxy(text: str) -> bool:
    """Whether this is an address, or a net that one operator can own; proxies in the cloud have nets of up to /12."""
    try:
        net = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return net.prefixlen >= (8 if net.version == 4 else 16)


def _django() -> Iterator[Requirement]:
    from django.core import checks

    for problem in checks.run_checks(tags=[checks.Tags.security], include_deployment_checks=True):
        # W008: the proxy redirects to TLS. W021: a preload list is the owner's to choose.
        if problem.id not in ("security.W008", "security.W021", "security.W005"):
            yield Requirement(problem.id or "django", False, problem.msg, problem.hint or "")
