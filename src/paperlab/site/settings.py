"""Django's settings. What a deployment may change is read from the environment; docs/howto names every variable.

PAPERLAB_DATABASE    postgresql://user:password@host:port/name; default: SQLite in PAPERLAB_HOME
PAPERLAB_SECRET_KEY  default: made once, kept in PAPERLAB_HOME
PAPERLAB_HOSTS       names that the site answers to, separated by commas; default: this machine only
PAPERLAB_TOKEN       "off": on a site for this machine alone, every user of it is the owner; default: asked for
PAPERLAB_RATE        API requests of one client: a second / at once; "off" for no limit; default: 10/60
PAPERLAB_URL         the site's address in letters; default: https:// and the first host, or where `up` last listened
PAPERLAB_SMTP        the mail relay, smtp://user:password@host:port?tls=start; default: files in PAPERLAB_HOME/outbox
PAPERLAB_FROM        who letters are from
PAPERLAB_FETCH       sources that the worker reads by itself, "off" for none; default: daily@1h, oai:cs@1d
PAPERLAB_PICTURES    "off": no small pictures on cards, and none is fetched; default: on
PAPERLAB_DIGEST_HOUR the hour from which yesterday's digest goes, and on Monday the week's; default: 6
PAPERLAB_TIMEZONE    where it is that hour, such as Europe/Berlin; default: UTC
PAPERLAB_RUN_HOURS   after which a full run is stopped, a quick one after a quarter of them; default: 4
PAPERLAB_WORKER_PATIENCE  seconds without a sign of life after which the worker is replaced; default: 1800
PAPERLAB_RUN_MEMORY  gigabytes that a run may take; default: three quarters of the machine's
PAPERLAB_REPLIES     how authors may show who they are to reply to verdicts: code, orcid, or both; default: no replies
PAPERLAB_REPOSITORIES  HOST=address of a file with {repository} and {file}, by spaces; default: GitHub's, GitLab's
PAPERLAB_ORCID_CLIENT, PAPERLAB_ORCID_SECRET  of the site's client at ORCID; PAPERLAB_ORCID: its address
"""

import os
import re
import secrets
from email.utils import parseaddr
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from paperlab.core import log
from paperlab.core.home import home
from paperlab.site.api import limits
from paperlab.site.store import timetable


class SettingError(ValueError):
    """A setting that cannot be used; the message says which and what is expected."""


def database(url: str | None, folder: Path) -> dict[str, Any]:
    """Django's entry for a database address; SQLite in `folder` without one. Raises SettingError."""
    if not url or url.startswith("sqlite:"):
        path = unquote(url.partition("://")[2]) if url else ""
        if url and not path:
            raise SettingError("PAPERLAB_DATABASE: expected sqlite:///absolute/path.db or sqlite://relative.db")
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": path or str(folder / "paperlab.sqlite3"),
            "OPTIONS": {
                # WAL: readers go on while one writes. NORMAL: a killed process loses nothing; only a power cut
                # may cost the last transactions, never the file.
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA mmap_size=268435456;",
                "transaction_mode": "IMMEDIATE",  # a writer waits at its start, not with a lock that it cannot raise
                "timeout": 30,
            },
        }
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/"):
        raise SettingError(
            f"PAPERLAB_DATABASE: {parts.scheme or 'no scheme'}://…: expected postgresql://user:password@host:port/name"
        )
    query = dict(parse_qsl(parts.query))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.strip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": query.pop("host", "") or unquote(parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "OPTIONS": query,
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
    }


def kept_secret(file: Path) -> str:
    """A secret in a file that only its owner reads, made at the first call. Raises SettingError."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        # Complete before it has its name, and only the first of two processes gives it that name.
        made = file.with_name(f"{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
        if not file.exists():
            with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                stream.write(secrets.token_urlsafe(50))
            try:
                os.link(made, file)
            except FileExistsError:
                pass
            finally:
                made.unlink()
        return file.read_text().strip()
    except OSError as error:
        raise SettingError(f"{file}: {error.strerror}; make it readable to yourself, or delete it") from error


def secret(folder: Path) -> str:
    """The key that signs sessions. Raises SettingError."""
    return os.environ.get("PAPERLAB_SECRET_KEY") or kept_secret(folder / "secret.key")


def token(text: str | None, folder: Path) -> str:
    """What the owner of a site for one machine shows at its door; "" where nothing is asked. Raises SettingError."""
    if text == "off" and os.environ.get("PAPERLAB_PROXIES"):
        raise SettingError(
            "PAPERLAB_TOKEN=off (--no-token) with PAPERLAB_PROXIES: whoever reaches the proxy would be the owner; "
            "leave one of them out"
        )
    if text == "off":
        return ""
    if text:
        raise SettingError("PAPERLAB_TOKEN: expected off, or nothing: the token is made, and kept in local.token")
    return kept_secret(folder / "local.token")


def rate(text: str | None) -> limits.Rate | None:
    """The rate limit of the API. Raises SettingError."""
    try:
        return limits.parse(text or "10/60")
    except (ValueError, OverflowError) as error:
        raise SettingError(f"PAPERLAB_RATE {text!r}: expected a second/at once, such as 10/60, or off") from error


def sender(text: str) -> str:
    """Who letters are from, as one header line can have it. Raises SettingError."""
    _, address = parseaddr(text)
    if not text.isprintable() or len(text) > 300 or not 0 < address.find("@") < len(address) - 1 or " " in address:
        raise SettingError(
            f"PAPERLAB_FROM {text[:80]!r}: expected one line such as paperlab <digest@papers.example.org>"
        )
    return text


def positive(name: str, default: float | None) -> float | None:
    """A number above zero. Raises SettingError."""
    text = os.environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise SettingError(f"{name} {text!r}: expected a number above zero")
    return value


def hour(name: str, default: float) -> float:
    """An hour of the day. Raises SettingError."""
    text = os.environ.get(name)
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value < 24:
        raise SettingError(f"{name} {text!r}: expected an hour of the day, from 0 on and below 24")
    return value


def fetched(text: str | None) -> dict[str, int]:
    """The sources that the worker reads by itself, with the seconds between two readings. Raises SettingError."""
    try:
        return timetable.parse(text)
    except timetable.BadTimetable as error:
        raise SettingError(f"PAPERLAB_FETCH: {error}") from error


def pictures(text: str | None) -> bool:
    """Whether cards have pictures. Raises SettingError."""
    if text not in (None, "", "on", "off"):
        raise SettingError(f"PAPERLAB_PICTURES {text!r}: expected off, or nothing")
    return text != "off"


def last_address(folder: Path) -> str:
    """Where `paperlab up` listened last, for the links in mail; its usual address if it never did."""
    try:
        text = (folder / "address").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        text = ""
    return text if text.startswith("http://") else "http://localhost:8000"


def timezone(name: str | None) -> str:
    """The name of a time zone. Raises SettingError."""
    try:
        return ZoneInfo(name).key if name and name != "UTC" else "UTC"
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise SettingError(f"PAPERLAB_TIMEZONE {name!r}: expected a name such as Europe/Berlin, or UTC") from error


def replies(text: str) -> tuple[str, ...]:
    """The ways in which authors may prove themselves. Raises SettingError."""
    ways = tuple(dict.fromkeys(text.replace(",", " ").split()))
    if strange := [way for way in ways if way not in ("code", "orcid")]:
        raise SettingError(f"PAPERLAB_REPLIES {strange[0]!r}: expected code, orcid, or both separated by a comma")
    return ways


def repositories(text: str) -> dict[str, str]:
    """Where the files of a host's repositories are read. Raises SettingError."""
    found = dict(one.partition("=")[::2] for one in text.split())
    for host, address in found.items():
        if not (
            host and address.startswith(("http://", "https://")) and {"{repository}", "{file}"} <= _fields(address)
        ):
            raise SettingError(f"PAPERLAB_REPOSITORIES {host!r}: expected HOST=https://…/{{repository}}/…/{{file}}")
    return found


def _fields(address: str) -> set[str]:
    return set(re.findall(r"\{\w*\}", address))


DATABASES = {"default": database(os.environ.get("PAPERLAB_DATABASE"), home())}
SECRET_KEY = secret(home())
DEBUG = False
ALLOWED_HOSTS = [name.strip() for name in os.environ.get("PAPERLAB_HOSTS", "").split(",") if name.strip()] or [
    "localhost",
    "127.0.0.1",
    "[::1]",
]
PAPERLAB_RATE = rate(os.environ.get("PAPERLAB_RATE"))
PAPERLAB_LOCAL = not os.environ.get("PAPERLAB_HOSTS")  # for whoever sits at this machine, and not limited for them
PAPERLAB_TOKEN = token(os.environ.get("PAPERLAB_TOKEN"), home()) if PAPERLAB_LOCAL else ""
PAPERLAB_SMTP = os.environ.get("PAPERLAB_SMTP", "")
PAPERLAB_URL = os.environ.get("PAPERLAB_URL") or (
    last_address(home()) if PAPERLAB_LOCAL else f"https://{ALLOWED_HOSTS[0].lstrip('.')}"
)
PAPERLAB_FROM = sender(os.environ.get("PAPERLAB_FROM") or "paperlab <paperlab@localhost>")
PAPERLAB_DIGEST_HOUR = hour("PAPERLAB_DIGEST_HOUR", 6.0)
PAPERLAB_FETCH = fetched(os.environ.get("PAPERLAB_FETCH"))
PAPERLAB_PICTURES = pictures(os.environ.get("PAPERLAB_PICTURES"))
PAPERLAB_TIMEZONE = timezone(os.environ.get("PAPERLAB_TIMEZONE"))
PAPERLAB_RUN_HOURS = positive("PAPERLAB_RUN_HOURS", 4.0)
PAPERLAB_WORKER_PATIENCE = positive("PAPERLAB_WORKER_PATIENCE", 1800.0)
PAPERLAB_RUN_MEMORY = positive("PAPERLAB_RUN_MEMORY", None)
PAPERLAB_REPLIES = replies(os.environ.get("PAPERLAB_REPLIES", ""))
PAPERLAB_REPOSITORIES = repositories(
    os.environ.get("PAPERLAB_REPOSITORIES")
    or "github.com=https://raw.githubusercontent.com/{repository}/HEAD/{file} "
    "gitlab.com=https://gitlab.com/{repository}/-/raw/HEAD/{file}"
)
PAPERLAB_ORCID = (os.environ.get("PAPERLAB_ORCID") or "https://orcid.org").rstrip("/")
PAPERLAB_ORCID_CLIENT = os.environ.get("PAPERLAB_ORCID_CLIENT", "")
PAPERLAB_ORCID_SECRET = os.environ.get("PAPERLAB_ORCID_SECRET", "")
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "paperlab.site.store",
    "paperlab.site.runs",  # these before the pages: they fill their places
    "paperlab.site.people",
    "paperlab.site.tokens",
    "paperlab.site.groups",
    "paperlab.site.replies",
    "paperlab.site.digest",
    "paperlab.site.pages",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "paperlab.site.pages.security.Headers",
    "paperlab.site.compression.Gzip",
    "paperlab.site.door.Door",
    "paperlab.site.api.guard.Guard",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "paperlab.site.people.who.Here",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "paperlab.site.urls"
WSGI_APPLICATION = "paperlab.site.wsgi.application"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {
        "django.request": {"handlers": ["stderr"], "level": "ERROR", "propagate": False},
        "paperlab": {"handlers": ["stderr"], "level": log.level("INFO")},
    },
}
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not PAPERLAB_LOCAL  # a public site has TLS in front
SECURE_HSTS_SECONDS = 0 if PAPERLAB_LOCAL else 30 * 86400
SESSION_COOKIE_AGE = 90 * 86400
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000_000
DATA_UPLOAD_MAX_NUMBER_FIELDS = 200
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
USE_TZ = True
LANGUAGE_CODE = "en"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
