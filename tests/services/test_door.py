"""A site of one's own on a machine that others use too: a real `paperlab up`, and a real second user who tries it."""

# ruff: noqa: F401, F811 (fixtures of another file)

import json
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.services.conftest import missing
from tests.services.test_up import Up, start


def stranger(*command: str) -> subprocess.CompletedProcess[str]:
    """What another user of this machine gets."""
    if os.getuid() != 0 or not shutil.which("setpriv") or not shutil.which("curl"):
        missing("a second user needs root, setpriv and curl")
    other = pwd.getpwnam("nobody")
    as_other = ["setpriv", f"--reuid={other.pw_uid}", f"--regid={other.pw_gid}", "--clear-groups"]
    return subprocess.run([*as_other, *command], capture_output=True, text=True, cwd="/", timeout=30)


def asked(*words: str) -> tuple[int, str]:
    """The status and the body that another user's curl gets."""
    done = stranger("curl", "-s", "-w", "\n%{http_code}", *words)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A data folder in a place that everybody can look into, as an older version left it."""
    place = Path(tempfile.mkdtemp(prefix="paperlab-door-"))
    place.chmod(0o755)
    home = place / "home"
    (home / "outbox").mkdir(parents=True)
    (home / "outbox" / "old.eml").write_text("a letter with a link that signs in")
    for path in (home, home / "outbox", home / "outbox" / "old.eml"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield home
    shutil.rmtree(place)


def raw(up: Up, request: bytes) -> bytes:
    """The answer to bytes as they are."""
    with socket.create_connection(("127.0.0.1", int(up.address.rsplit(":", 1)[1].strip("/"))), 20) as line:
        line.sendall(request)
        got = b""
        while part := line.recv(65536):
            got += part
    return got


def test_another_user_of_the_machine_gets_nothing(open_home: Path) -> None:
    up = Up(open_home, PAPERLAB_TOKEN="")
    try:
        assert len(up.token) >= 40
        for path in ("", "account/export.json", "papers/easyquant", "runs/", "api/papers", "api/export/papers.jsonl",
                     "feeds/daily.atom", "admin/login/", "runs.json", "search?q=x&token=guess"):  # fmt: skip
            status, body = asked(up.address + path)
            assert status == 401, path
            assert "EasyQuant" not in body
        assert json.loads(asked(up.address + "api/papers")[1])["status"] == 401
        for header in (f"Authorization: Bearer {up.token[:-1]}", "Cookie: paperlab=1", "Authorization: Bearer "):
            assert asked("-H", header, up.address + "account/export.json")[0] == 401
        assert asked("-d", "method=easyquant", up.address + "papers/easyquant/run")[0] == 401
        assert asked("-d", "word=delete", up.address + "account/delete")[0] == 401
        # Nor do the files tell: every one, also those that were open, is the owner's.
        modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (open_home, *open_home.rglob("*"))}
        assert not [path for path, mode in modes.items() if mode & 0o077]
        assert {modes[open_home], modes[open_home / "local.token"]} == {0o700, 0o600}
        assert stat.S_IMODE((open_home / "paperlab.sqlite3").stat().st_mode) == 0o600
        for name in ("local.token", "secret.key", "paperlab.sqlite3", "outbox/old.eml"):
            done = stranger("cat", str(open_home / name))
            assert (done.returncode, done.stdout) == (1, "")
            assert "Permission denied" in done.stderr
        command = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
        assert up.token not in command  # which everybody may read
        # What tells nothing is free: whether it lives, and the files of the package.
        assert asked(up.address + "health") == (200, "ok\n")
        style = re.search(r'rel="stylesheet" href="/([^"]+)"', asked(up.address)[1])
        assert style
        assert asked(up.address + style[1])[0] == 200
    finally:
        assert up.end() == 0


def test_the_owner_comes_in_once_and_stays(start: Callable[..., Up]) -> None:
    up = start(PAPERLAB_TOKEN="")
    with httpx.Client(base_url=up.address, headers={"Accept": "text/html,*/*"}, timeout=30) as browser:
        page = browser.get("search?q=quantization")
        assert page.status_code == 401
        assert 'name="token"' in page.text
        assert 'name="q" value="quantization"' in page.text  # the form at the door leads where one wanted to go
        came = browser.get(f"search?q=quantization&token={up.token}")
        assert (came.status_code, came.headers["Location"]) == (302, "/search?q=quantization")
        cookie = came.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert up.token not in cookie
        assert browser.get(came.headers["Location"]).status_code == 200
        assert browser.get("account/export.json").json()["account"]["email"] is None
        assert browser.get("api/papers?limit=1").status_code == 200
    for how in ({"headers": {"Authorization": f"Bearer {up.token}"}}, {"params": {"token": up.token}}):
        assert httpx.get(up.address + "api/papers", **how).status_code == 200
        assert httpx.get(up.address + "feeds/new.atom", **how).text.startswith("<?xml")
    listed = httpx.get(up.address + "api/papers", params={"limit": 1, "token": up.token})
    assert up.token not in listed.text + str(listed.headers)
    assert up.end() == 0
    again = start(PAPERLAB_TOKEN="")
    assert again.token == up.token  # a browser that knows it need not be told again
    assert again.end() == 0


@pytest.mark.parametrize("token", ["", "off"])
def test_what_a_proxy_passes_on_is_refused(start: Callable[..., Up], token: str) -> None:
    up = start(PAPERLAB_TOKEN=token)
    known = {"Authorization": f"Bearer {up.token}"} if up.token else {}
    assert up.get("account", headers=known).status_code == 200
    for name, value in (("Forwarded", "for=203.0.113.9"), ("X-Forwarded-For", "203.0.113.9"), ("Via", "1.1 nginx"),
                        ("X-Forwarded-Host", "papers.example.org"), ("X-Real-IP", "203.0.113.9"),
                        ("X-Forwarded-For", "127.0.0.1")):  # fmt: skip
        answer = up.get("account", headers={**known, name: value})
        assert answer.status_code == 403, name
        assert "PAPERLAB_HOSTS" in answer.text
        assert up.get("api/papers", headers={**known, name: value}).json()["status"] == 403
    for host in ("papers.example.org", "169.254.169.254", "localhost.example.org"):
        assert up.get("account", headers={**known, "Host": host}).status_code == 400
        assert up.get("api/papers", headers={**known, "Host": host}).json()["status"] == 400
    # nginx's `proxy_pass` as it comes: the address that it was told as the host, and HTTP/1.0.
    plain = f"GET /account/export.json HTTP/1.0\r\nHost: {up.address.split('/')[2]}\r\nConnection: close\r\n\r\n"
    assert raw(up, plain.encode()).startswith(b"HTTP/1.1 401" if up.token else b"HTTP/1.1 403")
    assert up.end() == 0
    named = start(PAPERLAB_TOKEN="", PAPERLAB_PROXIES="127.0.0.1")
    proxied = {"X-Forwarded-For": "203.0.113.9"}
    assert named.get("account", headers=proxied).status_code == 401
    assert named.get("account", headers={**proxied, "Authorization": f"Bearer {named.token}"}).status_code == 200
    assert named.end() == 0
