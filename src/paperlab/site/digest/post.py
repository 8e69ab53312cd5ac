"""Send a letter: to a relay (PAPERLAB_SMTP), or as a file into the outbox.

What a relay has not answered may have been sent. So there are three outcomes, and only one of them may be tried again:
handed over, surely not handed over, and unsure. Of a refusal the code's class says little: "554 5.7.1" refuses this
site, "552 5.2.2" a full mailbox, and only 5.1.1 and its like say that there is nobody at the address.
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
from typing import NoReturn, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from paperlab.core.home import home

TIMEOUT = 30.0  # seconds for one answer of the relay


class SmtpError(ValueError):
    """PAPERLAB_SMTP cannot be used; the message says what is expected."""


class Away(OSError):
    """The relay cannot be reached or will not talk: nothing was handed over, later may be better."""


class Refusing(Away):
    """The relay refuses this site rather than one letter: the next one would fare no better."""


# RFC 3463 and 7505: no such mailbox, no such domain, no such form of address, moved away, takes no mail. The other
# 5.1.x are about the sender.
_GONE = re.compile(r"5\.1\.(1|2|3|6|10)(?!\d)")
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}(?!\d)")
# Relays without such a status say it in words.
_NOBODY = re.compile(
    r"\b(no such|unknown|invalid|non-?existent)\b.{0,40}\b(user|mailbox|recipient|account)\b"
    r"|\b(user|mailbox|recipient|account|address)\b.{0,60}"
    r"\b(unknown|does(n't| not) exist|not found|no longer exists)\b",
    re.IGNORECASE,
)


def is_gone(status: str) -> bool:
    """Whether an enhanced status code (RFC 3463) says that there is nobody at an address."""
    return bool(_GONE.match(status.strip()))


class NotTaken(Exception):
    """The relay refused this letter. kind: the command that it refused and its codes, to know equal refusals by.
    gone: there is nobody at the address."""

    def __init__(self, step: str, code: int, reply: str) -> None:
        status = _STATUS.match(reply)
        self.kind = f"{step} {code} {status[0] if status else ''}".strip()
        if status:
            self.gone = 500 <= code < 600 and is_gone(status[0])
        else:
            self.gone = code in (550, 551, 553) and bool(_NOBODY.search(reply)) and "sender" not in reply.lower()
        super().__init__(f"{code} {reply}".strip())


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
        sender, to = address(letter, "From"), address(letter, "To")
        relay = self._open()
        try:
            relay.ehlo_or_helo_if_needed()
            for step, words, wanted in (
                ("MAIL", f"FROM:<{sender}>", (250,)),
                ("RCPT", f"TO:<{to}>", (250, 251)),
                ("DATA", "", (354,)),
            ):
                code, reply = relay.docmd(step, words)
                if code not in wanted:
                    self._refused(relay, step, code, reply)
        except Away:
            raise
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
            self._refused(relay, "text", code, reply)

    def _refused(self, relay: smtplib.SMTP, step: str, code: int, reply: bytes) -> NoReturn:
        """Raises Away where the relay closes, Refusing where it will have nothing from us, else NotTaken."""
        text = " ".join(reply.decode("utf-8", "replace").split())
        if code == 421 or not 400 <= code < 600:
            self.close()
            raise Away(f"the relay {self.host}:{self.port}: {code} {text}")
        try:
            if step != "text":
                relay.rset()
        except (OSError, smtplib.SMTPException):  # it has said what it had to say, and hung up
            self.close()
        if step == "MAIL" or code in (454, 530, 535, 538):  # the sender, or who we are: nothing to do with who reads it
            raise Refusing(f"the relay {self.host}:{self.port} refuses mail of this site: {code} {text}")
        raise NotTaken(step, code, text)

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


def address(letter: EmailMessage, header: str) -> str:
    """The one address of a header as the envelope has it. Raises ValueError where there is not one.

    By the header's own parser: in "x<victim@example.org"@evil.org the angle bracket is a letter of a name.
    """
    found = [one.addr_spec for one in getattr(letter[header], "addresses", ())]
    if len(found) != 1 or not found[0].isascii() or letter[header].defects:
        raise ValueError(f"{header}: expected one address in ASCII, not {str(letter[header])[:80]!r}")
    return str(found[0])


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
