"""Where a result comes from: the commit, the packages, the code in use, the memory it took."""

import hashlib
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from paperlab.core.install import version as paperlab_version
from paperlab.lab.arms import OUTSIDE

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scikit-learn")


def code_hash() -> str:
    """Hash over every paperlab file and outside method that this process has loaded.

    It tells two runs of different code apart, but not what differs in which arm: `core.sources.arm_sources` does.
    """
    files = {
        Path(file).resolve()
        for name, module in list(sys.modules.items())
        if name.split(".")[0] in ("paperlab", OUTSIDE) and (file := getattr(module, "__file__", None))
    }
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(str(file.relative_to(ROOT) if file.is_relative_to(ROOT) else file.name).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def git_state() -> tuple[str | None, bool]:
    """Commit of the paperlab sources and whether they differ from it; (None, False) for an installed package."""

    def git(*words: str) -> str | None:
        with suppress(OSError):
            done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
            return done.stdout.strip() if done.returncode == 0 else None
        return None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None, False
    return commit, bool(git("status", "--porcelain", "--", ".", ":!data/records"))


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what is computed."""
    found = {"python": ".".join(map(str, sys.version_info[:3])), "paperlab": paperlab_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def reset_peak_memory() -> None:
    """Start `peak_memory` from what is resident now, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Highest resident size in bytes since `reset_peak_memory` (Linux), else since the process began."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
