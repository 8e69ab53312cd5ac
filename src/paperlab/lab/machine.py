"""What this machine is: told once beside its records, and a short id that names their folder."""

import hashlib
import json
import os
import platform
import re
import resource
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from paperlab.core.files import write_atomically

# The features that decide which kernels can run; the names are those of Linux's /proc/cpuinfo.
FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_vbmi2", "avx512_bf16", "avx512_fp16",
         "avx_vnni", "amx_bf16", "amx_int8", "neon", "asimd", "asimddp", "i8mm", "bf16", "sve")  # fmt: skip
_NOISE = {"intel", "amd", "cpu", "processor", "apple", "core", "with", "radeon", "graphics", "gen", "r", "tm"}


def _cpuinfo() -> dict[str, str]:
    """The first processor's block of /proc/cpuinfo; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _sysctl(name: str) -> str:
    try:
        return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _cores() -> int:
    """Cores that this process may use, which in a container or a job is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's where that is less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        try:
            import psutil

            total = psutil.virtual_memory().total
        except ImportError:
            return 0
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


@cache
def machine() -> dict[str, Any]:
    """CPU model, cores, flags (the subset FLAGS), memory in bytes, system and Python. No name of host or user."""
    info = _cpuinfo()
    model = info.get("model name") or _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()
    flags = set(f"{info.get('flags', '')} {info.get('features', '')}".split())
    if not flags and platform.system() == "Darwin":
        flags = {"neon", "asimd"} if platform.machine() == "arm64" else set()
        flags |= set(_sysctl("machdep.cpu.leaf7_features").lower().split())
    return {
        "cpu": " ".join(model.split()),
        "cpu_revision": "-".join(info.get(key, "") for key in ("cpu family", "model", "stepping")).strip("-"),
        "architecture": platform.machine(),
        "cores": _cores(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def machine_id() -> str:
    """Short, stable, readable: "xeon-2c-24g-1a2b3c" from CPU model, cores and memory (whole GiB)."""
    here = machine()
    plain = re.sub(r"\(.*?\)|@.*|\d+-core|\d+(?:st|nd|rd|th) gen", " ", here["cpu"].lower())
    name = [word for word in re.findall(r"[a-z0-9]+", plain) if word not in _NOISE][:2] or [
        here["architecture"].lower()
    ]
    gib = round(here["memory"] / 2**30)
    said = f"{here['cpu']}|{here['cpu_revision']}|{','.join(here['flags'])}|{here['cores']}|{gib}"
    return f"{'-'.join(name)}-{here['cores']}c-{gib}g-{hashlib.sha256(said.encode()).hexdigest()[:6]}"


def describe_machine(folder: Path) -> Path:
    """Write machine.json into this machine's records folder, once. Returns its path."""
    file = folder / "machine.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(machine(), indent=2).encode() + b"\n")
    return file


def physical_cores() -> int:
    """Cores that do work of their own, of those that this process may use; two threads of one core count once."""
    usable, limit = _cores(), _quota()
    try:
        import psutil

        usable = min(usable, psutil.cpu_count(logical=False) or usable)
    except ImportError:
        pass
    return max(1, min(usable, limit or usable))


def _quota() -> int:
    """Whole cores that the control group grants; 0 where it sets no limit."""
    try:
        granted, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return 0
    return max(1, int(granted) // int(period)) if granted.isdigit() else 0


def memory_left() -> int:
    """Bytes that this process and those that it started may still take: of the machine's, its control group's and its
    own limit (RLIMIT_DATA) the least. A large number where that cannot be seen."""
    try:
        import psutil
    except ImportError:
        return 1 << 62
    left = psutil.virtual_memory().available
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = (group / "memory.max").read_text().strip(), (group / "memory.current").read_text().strip()
        left = min(left, int(limit) - int(used)) if limit.isdigit() else left
    except (OSError, ValueError):
        pass
    soft = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if soft != resource.RLIM_INFINITY:
        me = psutil.Process()
        taken = me.memory_info().rss
        for child in me.children(recursive=True):
            with suppress(psutil.Error):
                taken += child.memory_info().rss
        left = min(left, soft - taken)
    return left
