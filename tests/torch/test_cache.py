"""The cache of what tasks prepare: made once, whole or not at all, never stale."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from paperlab.assets.cache import cached, cached_tensors, prepared, prepared_folder

CODE = "def make():\n    return 1\n"


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path / "home"))
    (tmp_path / "maker.py").write_text(CODE)
    return tmp_path / "maker.py"


def test_tensors_are_made_once_for_a_key(code: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, torch.Tensor]:
        made.append(1)
        return {"a": torch.arange(6.0).view(2, 3).T}

    first = cached_tensors("planted", {"seed": 0}, make, code=code)
    again = cached_tensors("planted", {"seed": 0}, make, code=code)
    assert torch.equal(first["a"], torch.arange(6.0).view(2, 3).T)
    assert torch.equal(again["a"], first["a"])
    assert len(made) == 1
    cached_tensors("planted", {"seed": 1}, make, code=code)
    assert len(made) == 2
    assert prepared()["planted"] > 0
    keys = [json.loads(file.read_text())["key"]["seed"] for file in prepared_folder().glob("planted/*/key.json")]
    assert sorted(keys) == [0, 1]


def test_changed_code_makes_it_again_and_a_comment_does_not(code: Path) -> None:
    from paperlab.core.sources import forget

    def folder() -> Path:
        forget()
        return cached("planted", {}, lambda into: (into / "x").touch(), code=code)

    before = folder()
    code.write_text("# a comment\n" + CODE)
    assert folder() == before
    code.write_text(CODE.replace("1", "2"))
    assert folder() != before


def test_a_maker_that_fails_leaves_nothing(code: Path) -> None:
    def fails(into: Path) -> None:
        (into / "half").write_text("half")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        cached("planted", {}, fails, code=code)
    assert not [path for path in prepared_folder().glob("planted/*") if not path.name.endswith(".lock")]
    assert cached("planted", {}, lambda into: (into / "x").touch(), code=code).is_dir()


def test_two_processes_make_it_once_and_a_killed_one_leaves_nothing(code: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = f"""
import time
from pathlib import Path
from paperlab.assets.cache import cached

def make(into):
    with open({str(log)!r}, "a") as file:
        file.write("made\\n")
    (into / "half").write_text("half")
    time.sleep(1)
    (into / "whole").write_text("whole")

folder = cached("planted", {{"n": 1}}, make, code={str(code)!r})
assert (folder / "whole").read_text() == "whole"
"""
    processes = [subprocess.Popen([sys.executable, "-c", program], env=os.environ) for _ in range(2)]
    while not log.exists():
        assert all(process.poll() is None for process in processes)
    assert [process.wait(60) for process in processes] == [0, 0]
    assert log.read_text() == "made\n"

    program = program.replace('"n": 1', '"n": 2')
    killed = subprocess.Popen([sys.executable, "-c", program], env=os.environ)
    while log.read_text() == "made\n":
        assert killed.poll() is None
    killed.kill()
    killed.wait()
    assert subprocess.run([sys.executable, "-c", program], env=os.environ).returncode == 0
    assert not list(prepared_folder().glob("planted/.*partial*"))
