"""Real servers for tests: started here, private, gone afterwards. A server whose programs are missing skips its tests;
PAPERLAB_REQUIRE_SERVICES=1, which the CI script sets, makes that a failure."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def missing(what: str) -> None:
    """Skip, or fail where services are required."""
    if os.environ.get("PAPERLAB_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{what}; PAPERLAB_REQUIRE_SERVICES=1 requires it")
    pytest.skip(what)


def program(name: str) -> str | None:
    """PostgreSQL's programs: on the path, or where Debian keeps them, the newest."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(places[-1]) if places else shutil.which(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of an empty PostgreSQL database of our own, without a password, on a free port of this machine."""
    initdb, control = program("initdb"), program("pg_ctl")
    if not (initdb and control):
        missing("PostgreSQL is not installed (Debian: apt-get install postgresql)")
        return
    # The server refuses to run as root, and its user cannot look into pytest's folder.
    folder = Path(tempfile.mkdtemp(prefix="paperlab-postgres-"))
    user: list[str] = []
    if os.getuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            missing("PostgreSQL does not run as root, and there is no user postgres")
        shutil.chown(folder, "postgres")
        user = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(*words: str) -> None:
        done = subprocess.run([*user, *words], capture_output=True, text=True, cwd="/", timeout=120)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"

    data, options = folder / "data", f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
    try:
        run(initdb, "-D", str(data), "-U", "paperlab", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        run(control, "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield f"postgresql://paperlab@127.0.0.1:{port}/postgres"
        finally:
            run(control, "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(postgres: str) -> Iterator[str]:
    """The address of a new database on that server."""
    import psycopg

    name = f"test_{os.urandom(6).hex()}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres.rsplit("/", 1)[0] + f"/{name}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
