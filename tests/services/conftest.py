"""Real servers for tests: started here, private, gone afterwards. A server whose programs are missing skips its tests;
PAPERLAB_REQUIRE_SERVICES=1, which the CI script sets, makes that a failure."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from local_server import free_port


def missing(what: str) -> None:
    """Skip, or fail where services are required."""
    if os.environ.get("PAPERLAB_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{what}; PAPERLAB_REQUIRE_SERVICES=1 requires it")
    pytest.skip(what)


def program(name: str) -> str | None:
    """PostgreSQL's programs: on the path, or where Debian keeps them, the newest."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(places[-1]) if places else shutil.which(name)


class Postgres:
    """A PostgreSQL server of our own, without a password. address: of its database."""

    def __init__(self, folder: Path, port: int, user: list[str]) -> None:
        self.data, self.user, self.folder = folder / "data", user, folder
        self.options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
        self.address = f"postgresql://paperlab@127.0.0.1:{port}/postgres"

    def run(self, name: str, *words: str) -> None:
        done = subprocess.run(
            [*self.user, str(program(name)), "-D", str(self.data), *words],
            capture_output=True, text=True, cwd="/", timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{name} {' '.join(words)}: {done.stdout}{done.stderr}"

    def make(self) -> None:
        self.run("initdb", "-U", "paperlab", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

    def start(self) -> None:
        self.run("pg_ctl", "-o", self.options, "-l", str(self.folder / "log"), "-w", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-m", "immediate", "-w", "stop")

    def kill(self) -> None:
        """kill -9 of every process of it, as when the machine's memory is gone."""
        first = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        family = [first, *first.children(recursive=True)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family, timeout=30)


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """A server with an empty database, on a free port of this machine, until the block ends."""
    if not (program("initdb") and program("pg_ctl")):
        missing("PostgreSQL is not installed (Debian: apt-get install postgresql)")
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
    server = Postgres(folder, free_port(), user)
    try:
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of an empty PostgreSQL database."""
    with running() as server:
        yield server.address


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A server of the test's own, which it may kill."""
    with running() as one:
        yield one


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
