"""Teasers: fetched once from a real server, whatever it sends; small, ours alone, gone with their paper."""

import contextlib
import io
import json
import random
import re
import stat
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from page_check import Page
from PIL import Image, ImageDraw

DAY = date(2026, 8, 17)


def figure(width: int = 1200, height: int = 648, form: str = "PNG", **more: Any) -> bytes:
    """A picture of words, boxes and noise, as figures are."""
    chance = random.Random(width)
    picture = Image.effect_noise((width, height), 60).convert("RGB")
    pen = ImageDraw.Draw(picture)
    for n in range(40):
        x, y = chance.randrange(width), chance.randrange(height)
        pen.rectangle((x, y, x + 120, y + 60), fill=tuple(chance.randrange(256) for _ in range(3)))  # type: ignore[arg-type]
        pen.text((x, y), f"stage {n}", fill="black")
    out = io.BytesIO()
    picture.save(out, form, **more)
    return out.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that says, and holds, side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pack = zlib.compressobj(9)
    rows = b"".join(pack.compress(b"\0" * (side // 8 + 1) * 100) for _ in range(side // 100)) + pack.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@dataclass
class Pictures:
    """A server of pictures. bodies: {path: (type, bytes)}; asked: the paths, in order."""

    url: str = ""
    bodies: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


def handler(server: Pictures) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append(self.path)
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", server.url.replace("localhost", "127.0.0.1") + "/good.png")
                self.end_headers()
                return
            if self.path == "/drip.png":
                self.send_response(200)
                self.send_header("Content-Type", "image/png")
                self.end_headers()
                try:
                    for one in server.bodies["/good.png"][1]:
                        self.wfile.write(bytes([one]))
                        time.sleep(0.05)
                except OSError:
                    pass
                return
            if self.path == "/head-drip.png":
                try:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                    for n in range(400):
                        self.wfile.write(f"X-{n}: a\r\n".encode())
                        time.sleep(0.05)
                except OSError:
                    pass
                return
            if self.path not in server.bodies:
                self.send_error(404)
                return
            kind, body = server.bodies[self.path]
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[Pictures]:
    made = Pictures()
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(made))
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    made.url = f"http://localhost:{http.server_address[1]}"
    made.bodies = {
        "/good.png": ("image/png", figure()),
        "/photo.jpg": ("image/jpeg", figure(900, 1400, "JPEG", comment=b"taken at home", exif=_exif())),
        "/moving.gif": ("image/gif", figure(300, 300, "GIF")),
        "/huge.png": ("image/png", figure(64, 64) + b"\0" * 9_000_000),
        "/endless.jpg": ("image/jpeg", b"\xff\xd8\xff" + b"\0" * 9_000_000),
        "/drawn.svg": ("image/svg+xml", b'<svg xmlns="http://www.w3.org/2000/svg" width="400" height="300"/>'),
        "/page.png": ("text/html", b"<!doctype html><title>Log in</title><script>alert(1)</script>"),
        "/bomb.png": ("image/png", bomb(20_000)),
        "/great-bomb.png": ("image/png", bomb(6_000)[:8] + bomb(40_000)[8:33] + bomb(6_000)[33:]),
        "/cut.png": ("image/png", figure()[:2000]),
        "/dot.gif": ("image/gif", figure(1, 1, "GIF")),
    }
    yield made
    http.shutdown()
    http.server_close()
    thread.join()


def _exif() -> Image.Exif:
    made = Image.Exif()
    made[0x010E], made[0x8298] = "secret place", "somebody"
    return made


@pytest.fixture
def folder(store: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from paperlab.site.store import teasers

    monkeypatch.setenv("PAPERLAB_INSIDE", "localhost")
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path))
    return teasers.folder()


def take(*rows: tuple[int, list[str]]) -> None:
    """Papers with pictures, as the daily list brings them."""
    from paperlab.site.store import write
    from paperlab.site.store.sources import rows as daily

    listed = [
        {
            "paper": {"id": f"2608.{number:05d}", "title": f"Paper {number}", "publishedAt": "2026-08-16T00:00:00.000Z",
                      "summary": f"We study {number}.", "upvotes": 9},
            "thumbnail": addresses[-1],
            "mediaUrls": [*addresses[:-1], "https://cdn.example.org/film.mp4"],
        }
        for number, addresses in rows
    ]  # fmt: skip
    write.take(daily.daily_page(json.loads(json.dumps(listed)), DAY, "test"), write.Run("daily-papers"))


def fetch(most: int = 50) -> int:
    """Let the job fetch what is due; how many papers it had."""
    from paperlab.site.store import teasers

    asks = replace(teasers.client(), gap=0.0, timeout=2.0, deadline=1.5)
    run = teasers.due(lambda: asks)
    return next(n for n in range(most + 1) if not run())


def row(number: int) -> Any:
    from paperlab.site.store.models import Teaser

    return Teaser.objects.get(paper__arxiv=f"2608.{number:05d}")


def client() -> Any:
    from django.test import Client

    return Client(headers={"host": "localhost"}, REMOTE_ADDR="127.0.0.1")


def test_a_picture_is_drawn_small_and_served_from_here(server: Pictures, folder: Path) -> None:
    take(
        (1, [server.url + "/good.png"]), (2, [server.url + "/photo.jpg"]), (3, [server.url + "/moving.gif"]), (4, [""])
    )
    assert fetch() == 3
    assert sorted(server.asked) == ["/good.png", "/moving.gif", "/photo.jpg"]
    files = sorted(folder.iterdir())
    assert len(files) == 3
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    text = client().get(f"/?date={DAY}").content.decode()
    assert Page(text).wrong == []
    shown = re.findall(r'<img src="([^"]+)" width="160" height="90" alt="" loading="lazy" decoding="async">', text)
    assert len(shown) == text.count("<img") == 3
    assert "localhost" not in text.replace("http://localhost/", "")
    for address in shown:
        answer = client().get(address)
        body = answer.content
        assert body[:4] + body[8:12] == b"RIFFWEBP"
        assert len(body) <= 12_000
        assert b"EXIF" not in body
        assert b"secret place" not in body
        assert b"ICCP" not in body
        with Image.open(io.BytesIO(body)) as picture:
            assert (picture.size, picture.format, picture.mode) == ((320, 180), "WEBP", "RGB")
        assert answer.headers["Content-Type"] == "image/webp"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert re.fullmatch(r"(public|private), max-age=31536000, immutable", answer.headers["Cache-Control"])
        assert "Set-Cookie" not in answer.headers
        file = folder / address.rpartition("/")[2]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_bytes() == body
    assert client().post(shown[0]).status_code in (403, 405)
    for wrong in (
        "/teasers/1-0000000000000000.webp",
        "/teasers/..%2f..%2fsecret.key",
        "/teasers/secret.key",
        "/teasers/",
    ):
        assert client().get(wrong).status_code == 404
    assert fetch() == 0


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/huge.png", "more than 8 MB"),
        ("/endless.jpg", "more than 8 MB"),
        ("/drawn.svg", "no picture"),
        ("/page.png", "a web page instead"),
        ("/bomb.png", "pixels"),
        ("/great-bomb.png", "pixels"),
        ("/cut.png", "no picture"),
        ("/dot.gif", "at least"),
        ("/drip.png", "no whole answer"),
        ("/head-drip.png", "[Tt]imeout|no whole answer"),
        ("/away", "redirects to"),
        ("/nothing.png", "status 404"),
    ],
)
def test_what_is_no_picture_is_left_and_hardly_asked_for_again(
    server: Pictures, folder: Path, path: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.utils import timezone

    from paperlab.site.store.models import Teaser

    take((1, [server.url + path]))
    began = time.monotonic()
    assert fetch() == 1
    assert time.monotonic() - began < 30
    assert re.search(why, row(1).error), row(1).error
    assert not folder.exists() or not list(folder.iterdir())
    text = client().get(f"/?date={DAY}").content.decode()
    assert "Paper 1" in text
    assert "<img" not in text
    asked = len(server.asked)
    assert asked == 1
    began, now = timezone.now(), timezone.now
    for hours in range(0, 24 * 30, 6):
        monkeypatch.setattr(timezone, "now", lambda hours=hours: began + timedelta(hours=hours))
        take((1, [server.url + path]))  # the list is read again and again
        fetch()
    assert len(server.asked) == 3  # after a day, and after a week
    monkeypatch.setattr(timezone, "now", now)
    assert Teaser.objects.get().next_try is None
    take((1, [server.url + "/good.png"]))  # another address is another picture
    assert fetch() == 1
    assert row(1).file


def test_the_first_address_that_has_a_picture_counts(server: Pictures, folder: Path) -> None:
    take((1, [server.url + "/cut.png", server.url + "/photo.jpg", server.url + "/good.png"]))
    assert fetch() == 1
    assert server.asked == ["/cut.png", "/photo.jpg"]
    assert row(1).file


def test_addresses_inside_are_not_asked(server: Pictures, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAPERLAB_INSIDE")
    take((1, [server.url + "/good.png"]), (2, ["http://169.254.169.254/latest/x.png"]), (3, ["http://[::1]:9/x.png"]))
    assert fetch() == 3
    assert server.asked == []
    assert all("inside" in row(n).error for n in (1, 2, 3))


def test_a_picture_stays_and_goes_with_its_paper(
    server: Pictures, folder: Path, django_capture: Callable[[], Any]
) -> None:
    from api_papers import item
    from api_papers import take as store

    from paperlab.site.store.models import Paper, Teaser

    take((1, [server.url + "/good.png"]), (2, [server.url + "/photo.jpg"]))
    fetch()
    first = row(1).file
    take((1, [server.url + "/good.png"]), (2, [server.url + "/moving.gif"]))
    store([item(1, arxiv="2608.00001", title="Paper 1", as_of="2027-01-01")])
    assert fetch() == 0
    assert row(1).file == first
    with django_capture():
        Paper.objects.filter(arxiv="2608.00001").delete()
    assert [file.name for file in folder.iterdir()] == [row(2).file]
    assert Teaser.objects.count() == 1
    (folder / row(2).file).unlink()  # restored from a backup that has no pictures
    assert fetch() == 1
    assert (folder / row(2).file).exists()


def test_two_rows_that_are_one_paper_keep_the_picture(server: Pictures, folder: Path) -> None:
    from api_papers import item
    from api_papers import take as store

    from paperlab.site.store.models import Paper, Teaser

    store([item(1, arxiv=None, title="The only one")])
    nameless = Paper.objects.get()
    Teaser.objects.create(paper=nameless, addresses=[server.url + "/good.png"], file="1-0123456789abcdef.webp")
    store([item(2, arxiv="2608.00002", title="Another")])
    store([item(2, arxiv="2608.00002", title="The only one", as_of="2027-01-01")])
    kept = Teaser.objects.get()
    assert kept.file == "1-0123456789abcdef.webp"


def test_pictures_can_be_off(server: Pictures, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    from paperlab.site.settings import SettingError, pictures

    take((1, [server.url + "/good.png"]))
    fetch()
    address = f"/teasers/{row(1).file}"
    assert client().get(address).status_code == 200
    monkeypatch.setattr(settings, "PAPERLAB_PICTURES", False)
    take((2, [server.url + "/photo.jpg"]))
    assert fetch() == 0
    assert server.asked == ["/good.png"]
    assert "<img" not in client().get(f"/?date={DAY}").content.decode()
    assert client().get(address).status_code == 404
    assert [pictures(text) for text in (None, "", "on", "off")] == [True, True, True, False]
    with pytest.raises(SettingError, match="PAPERLAB_PICTURES"):
        pictures("perhaps")


def test_a_page_of_pictures_is_not_thirty_requests_of_the_limit(server: Pictures, folder: Path) -> None:
    from django.conf import settings
    from django.test import Client

    take((1, [server.url + "/good.png"]))
    fetch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "PAPERLAB_LOCAL", False)
        stranger = Client(headers={"host": "localhost"}, REMOTE_ADDR="203.0.113.77")
        assert {stranger.get(f"/teasers/{row(1).file}").status_code for _ in range(300)} == {200}


@pytest.fixture
def django_capture() -> Callable[[], Any]:
    """What waits for the end of the transaction is done: the store's tests never come to it."""
    from django.test import TestCase

    return lambda: TestCase.captureOnCommitCallbacks(execute=True)


def test_a_file_of_a_real_list_names_pictures() -> None:
    from paperlab.site.store.sources import rows

    row = {
        "paper": {"id": "2608.00220", "title": "T"},
        "thumbnail": "https://cdn.example.org/p/2608.00220.png",
        "mediaUrls": ["https://up.example.org/a.qt", "https://up.example.org/B.PNG", "javascript:a.png"],
    }
    assert rows.item(row, "x").pictures == [
        "https://up.example.org/B.PNG",
        "https://cdn.example.org/p/2608.00220.png",
    ]
    assert rows.item({"title": "T", "thumbnail": ["x"]}, "x").pictures == []
