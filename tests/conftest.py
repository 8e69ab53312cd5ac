"""Each process of a test run has a data folder of its own; what was fetched into it is shared, and nothing of the
user's is touched."""

import os
from collections.abc import Iterator
from pathlib import Path

# Read when torch, NumPy and the engine are loaded, so it stands before any test imports them. The processes of one run
# share two cores, and a second thread changes the order of sums, and with it the last bits of a result.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("PAPERLAB_FETCH", "off")  # no test's worker asks anybody but a server of its own

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# No timing decides a test: on a busy machine drawing examples is slow too.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

FETCHED = ("models", "texts")


@pytest.fixture(scope="session", autouse=True)
def paperlab_home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """PAPERLAB_HOME for this process: in the folder named by PAPERLAB_TEST_HOME (kept, so a second run fetches
    nothing), else in a temporary one. Beside other processes (pytest -n), a folder of its own with links to one place
    for models and texts, so that each is fetched once."""
    kept = os.environ.get("PAPERLAB_TEST_HOME")
    worker = getattr(request.config, "workerinput", {}).get("workerid")  # not from the environment: tests run pytest
    if worker is None:
        folder = Path(kept) if kept else tmp_path_factory.mktemp("paperlab-home")
    else:
        shared = Path(kept) if kept else tmp_path_factory.getbasetemp().parent / "paperlab-home"
        folder = shared / worker
        folder.mkdir(parents=True, exist_ok=True)
        for name in FETCHED:
            (shared / name).mkdir(exist_ok=True)
            if not (folder / name).exists():
                (folder / name).symlink_to(Path("..") / name)
    before = {name: os.environ.get(name) for name in ("PAPERLAB_HOME", "PAPERLAB_ONLINE", "PAPERLAB_TOKEN")}
    os.environ["PAPERLAB_HOME"] = str(folder)
    os.environ["PAPERLAB_TOKEN"] = "off"  # tests of the door set one
    os.environ.pop("PAPERLAB_ONLINE", None)
    yield folder
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
