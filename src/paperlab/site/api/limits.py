"""Rate limits: a leaky bucket per client address, in a file that every process of the site shares.

A bucket is one number, the time at which it will be empty again (the "generic cell rate algorithm" of ATM networks),
so a request costs one statement. The file is SQLite without flushes: forgetting it costs nothing.
"""

import contextlib
import ipaddress
import logging
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

# A bucket fuller than full is of a clock that has since been set back: it counts as empty.
_FROM = "iif(empty_at > :now + :full + :gap, :now, max(empty_at, :now)) + :gap"
_TAKE = f"""
INSERT INTO bucket VALUES (:client, :now + :gap)
ON CONFLICT (client) DO UPDATE SET empty_at = {_FROM} WHERE {_FROM} <= :now + :full + 1e-9
RETURNING empty_at
"""
_SWEEP = 1_000  # requests between two removals of empty buckets


@dataclass(frozen=True)
class Rate:
    """So many requests a second on the long run, and so many at once."""

    per_second: float
    burst: int

    @property
    def policy(self) -> str:
        """The rate as the RateLimit-Policy header has it: a quota and the seconds in which it fills."""
        return f'"client";q={self.burst};w={max(1, round(self.burst / self.per_second))}'


@dataclass(frozen=True)
class Taken:
    """The decision on a request. remaining: requests that may follow at once. wait, full: seconds until one
    more may, and until all may."""

    allowed: bool
    remaining: int
    wait: float
    full: float


def parse(text: str) -> Rate | None:
    """The rate in "10/60" (ten a second, sixty at once); None for "off". Raises ValueError."""
    if text.strip().lower() == "off":
        return None
    first, _, second = text.partition("/")
    rate = Rate(float(first), int(second))
    if not (0 < rate.per_second < 1e6 and 0 < rate.burst < 1e6):
        raise ValueError(text)
    return rate


def client(address: str) -> str:
    """Who an address is: itself, or its /64 in IPv6, of which one household has a whole one."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


def is_loopback(address: str) -> bool:
    """Whether the client is this machine."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class Buckets:
    """The buckets in a file. If the file cannot be used, everybody is let through and the log says so once."""

    def __init__(self, file: Path, rate: Rate) -> None:
        self.file, self.rate = file, rate
        self._lock, self._count, self._complained = threading.Lock(), 0, False
        self._connection: sqlite3.Connection | None = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            made = sqlite3.connect(self.file, timeout=1, isolation_level=None, check_same_thread=False)
            for attempts in reversed(range(100)):
                try:
                    made.execute(
                        "PRAGMA journal_mode=WAL"
                    )  # while another process does the same, this waits for nobody
                    break
                except sqlite3.OperationalError:
                    if not attempts:
                        raise
                    time.sleep(0.01)
            made.execute("PRAGMA synchronous=OFF")
            made.execute("CREATE TABLE IF NOT EXISTS bucket (client TEXT PRIMARY KEY, empty_at REAL) WITHOUT ROWID")
            self._connection = made
        return self._connection

    def _forget(self) -> None:
        """Begin with a new file: the old one is broken, and nothing in it is worth keeping."""
        self._connection = None
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.file}{suffix}").unlink(missing_ok=True)

    def take(self, client: str, now: float | None = None) -> Taken:
        """Count one request of a client. now: seconds since 1970."""
        now = time.time() if now is None else now
        gap = 1 / self.rate.per_second
        full = gap * self.rate.burst
        try:
            with self._lock:
                known = {"client": client, "now": now, "gap": gap, "full": full}
                row = self._open().execute(_TAKE, known).fetchone()
                self._count += 1
                if self._count % _SWEEP == 0:
                    self._open().execute("DELETE FROM bucket WHERE empty_at < ?", (now,))
                if row is not None:
                    filled = row[0] - now
                    return Taken(True, int((full - filled) / gap + 1e-6), 0.0, filled)
                stored = self._open().execute("SELECT empty_at FROM bucket WHERE client = ?", (client,)).fetchone()
                filled = (stored[0] if stored else now) - now
                return Taken(False, 0, max(filled + gap - full, 0.0), filled)
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                with contextlib.suppress(OSError):
                    self._forget()
            if not self._complained:
                logger.error("%s: %s; requests are not limited", self.file, error)
                self._complained = True
            return Taken(True, self.rate.burst, 0.0, 0.0)
