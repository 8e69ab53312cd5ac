"""Send a letter: to a relay (PAPERLAB_SMTP), or as a file into the outbox.

What a relay has not answered may have been sent. So there are three outcomes, and only one of them may be tried again:
handed over, surely not handed over, and unsure.
"""

import os
import re
import smtplib
import socket
import ssl
import time
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from paperlab.core.home import home

TIMEOUT = 30.0  # seconds for one answer of the relay


class SmtpError(ValueError):
    """PAPERLAB_SMTP cannot be used; the message says what is expected."""


class Away(OSError):
    """The relay cannot be reached or will not talk: nothing was handed over, later may be better."""


class NotTaken(Exception):
    """The relay refused this letter. for_good: its address takes no mail (5xx)."""

    def __init__(self, message: str, *, for_good: bool) -> None:
        self.for_good = for_good
        super().__init__(message)


class Unsure(Exception):
    """The relay went away after it had the letter and before it confirmed that."""


class Post(Protocol):
    """Where letters are handed over."""

    def hand_over(self, letter: EmailMessage) -> None:
        """Raises Away, NotTaken, Unsure."""

    def close(self) -> None:
        """No more letters for now."""


@dataclass
class Outbox:
    """A folder with a file for each letter, named by its Message-ID: the same letter is one file."""

    folder: Path

    def hand_over(self, letter: EmailMessage) -> None:
        """Write the file, whole or not at all."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = str(letter["Message-ID"]).strip("<>").replace("/", "_")
            made = self.folder / f".{name}.{os.getpid()}"
            made.write_bytes(letter.as_bytes())
            made.rename(self.folder / f"{name}.eml")
        except OSError as error:
            raise Away(f"{self.folder}: {error.strerror}") from error

    def close(self) -> None:
        """There is nothing to close."""


@dataclass
class Smtp:
    """A relay; one connection for many letters, opened when the first one comes."""

    host: str
    port: int
    user: str = ""
    password: str = ""
    tls: str = "none"  # none, start or whole
    timeout: float = TIMEOUT
    _held: smtplib.SMTP | None = None

    def _open(self) -> smtplib.SMTP:
        if self._held is not None:
            return self._held
        try:
            if self.tls == "whole":
                made: smtplib.SMTP = smtplib.SMTP_SSL(
                    self.host, self.port, timeout=self.timeout, context=ssl.create_default_context()
                )
            else:
                made = smtplib.SMTP(self.host, self.port, timeout=self.timeout)
            if made.sock is not None:
                made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls == "start":
                made.starttls(context=ssl.create_default_context())
            if self.user:
                made.login(self.user, self.password)
        except (OSError, smtplib.SMTPException) as error:
            raise Away(f"the relay {self.host}:{self.port}: {' '.join(str(error).split())}") from error
        self._held = made
        return made

    def try_(self) -> None:
        """Connect, sign in and leave. Raises Away."""
        self._open()
        self.close()

    def hand_over(self, letter: EmailMessage) -> None:
        """One transaction. Until the text has begun to flow, nothing can have been sent."""
        relay = self._open()
        try:
            relay.ehlo_or_helo_if_needed()
            for step, words in (("mail", str(letter["From"])), ("rcpt", str(letter["To"]))):
                address = words.rpartition("<")[2].rstrip(">")
                code, reply = relay.mail(address) if step == "mail" else relay.rcpt(address)
                if code == 421:
                    raise smtplib.SMTPServerDisconnected(reply.decode("utf-8", "replace"))
                if code not in (250, 251):
                    relay.rset()
                    text = f"{code} {reply.decode('utf-8', 'replace')}"
                    # A sender that is refused says nothing about who was to get the letter.
                    raise NotTaken(text, for_good=step == "rcpt" and 500 <= code < 600)
            relay.putcmd("data")
            code, reply = relay.getreply()
            if code != 354:
                raise NotTaken(f"{code} {reply.decode('utf-8', 'replace')}", for_good=False)
        except (OSError, smtplib.SMTPException) as error:
            self.close()
            raise Away(f"the relay {self.host}:{self.port}: {' '.join(str(error).split())}") from error
        try:
            body = letter.as_bytes(policy=letter.policy.clone(linesep="\r\n")).rstrip(b"\r\n")
            relay.send(re.sub(rb"(?m)^\.", b"..", body) + b"\r\n.\r\n")
            code, reply = relay.getreply()
        except (OSError, smtplib.SMTPException) as error:
            self.close()
            raise Unsure(f"the relay {self.host}:{self.port} went away: {' '.join(str(error).split())}") from error
        if code != 250:
            raise NotTaken(f"{code} {reply.decode('utf-8', 'replace')}", for_good=False)

    def close(self) -> None:
        """End the connection."""
        if self._held is not None:
            try:
                self._held.quit()
            except (OSError, smtplib.SMTPException):
                self._held.close()
            self._held = None


def read(url: str) -> Smtp | None:
    """The relay in smtp://user:password@host:port?tls=start, or smtps://…; None for "". Raises SmtpError."""
    if not url:
        return None
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        port = host = None
    else:
        tls = parse_qs(parts.query).get("tls", ["none"])[0]
        if parts.scheme in ("smtp", "smtps") and host and tls in ("none", "start") and not parts.path.strip("/"):
            whole = parts.scheme == "smtps"
            user, password = unquote(parts.username or ""), unquote(parts.password or "")
            usual = 465 if whole else 587 if user else 25
            return Smtp(host, port or usual, user, password, "whole" if whole else tls)
    raise SmtpError("PAPERLAB_SMTP: expected smtp://user:password@host:port?tls=start, or smtps://user:password@host")


def post(folder: Path | None = None) -> Post:
    """Where letters go: a folder, if one is named, else the relay of the settings, else the outbox."""
    from django.conf import settings

    if folder is not None:
        return Outbox(folder)
    return read(settings.PAPERLAB_SMTP) or Outbox(home() / "outbox")


def moment() -> str:
    """Now, as a letter's Date has it."""
    from email.utils import formatdate

    return formatdate(time.time(), localtime=False)
