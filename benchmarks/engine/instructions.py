"""Instructions and bytes per weight of the packed kernels at one token, and which of the two bounds them.

    python benchmarks/engine/instructions.py        # prints the tables of instructions.md

Counted, not estimated: each kernel of the library runs in a process that stops after every instruction (ptrace),
which gives the stream of instructions of two blocks of 16 rows: long ones are read side by side. llvm-mca (LLVM 17
or later knows the processor; --mca names it) says for how many cycles it takes each port, which is the least that
it can take. Rates are measured where the weights lie in the second-level cache, the clock by a chain of additions,
memory by plain loops. Virtual machines rarely have the counters that perf reads, and callgrind does not know
AVX-512. Needs Linux on x86-64, a C compiler, and llvm-objdump beside llvm-mca.
"""

import argparse
import ctypes
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paperlab.engine.native import call, instruction_sets, library, pointer

COLUMNS = 2048
PAIRS = 3  # of blocks of 16 rows, that are stepped through
TRACEME, PEEK, PEEKUSER, POKE, POKEUSER, CONTINUE, SINGLESTEP = 0, 1, 3, 4, 6, 7, 9  # ptrace's requests
RIP, RSP = 16 * 8, 19 * 8  # where it keeps registers


class Format(NamedTuple):
    """A packed matrix. group: columns to a scale; kept: the share of weights; dim: columns to a code (0: no book)."""

    name: str
    bits: int
    group: int = 64
    minima: bool = False
    kept: float = 1
    dim: int = 0


FORMATS = (
    Format("8 bits", 8),
    Format("4 bits", 4),
    Format("4 bits, groups of 32, minima", 4, 32, minima=True),
    Format("3 bits", 3),
    Format("2 bits", 2),
    Format("4 bits, half kept", 4, kept=0.5),
    Format("4 bits, quarter kept", 4, kept=0.25),
    Format("8 bits, half kept", 8, kept=0.5),
    Format("codebook, 4 bits", 4, dim=1),
    Format("codebook, 2 bits", 2, dim=1),
    Format("codebook, 8 bits for 2 weights", 8, dim=2),
    Format("codebook, 8 bits for 4 weights", 8, dim=4),
    Format("codebook, 4 bits for 2 weights", 4, dim=2),
)


class Kernel:
    """One token's product with a matrix of random codes. bytes: what is read of the matrix; run: computes it once."""

    def __init__(self, isa: str, kind: Format, rows: int, planes: int) -> None:
        random = np.random.default_rng(0)
        codes = random.integers(0, 1 << kind.bits, (rows, COLUMNS // max(kind.dim, 1))).astype(np.uint8)
        scales = np.full((rows, COLUMNS // kind.group), 0.01, np.float16)
        keep = None if kind.kept == 1 else (random.random((rows, COLUMNS)) < kind.kept).astype(np.uint8)
        if kind.dim:
            book = random.integers(-127, 128, (1 << kind.bits, kind.dim)).astype(np.int8)
            words = (rows, COLUMNS, kind.bits, kind.dim, kind.group, pointer(codes), pointer(scales), pointer(book))
            self.handle = call("lay_codebook", *words)
        else:
            parts = pointer(codes), pointer(scales), pointer(scales if kind.minima else None), pointer(keep)
            self.handle = call("lay", rows, COLUMNS, kind.bits, kind.group, *parts)
        where = ctypes.c_void_p()
        self.bytes = sum(call("tiles_part", self.handle, part, ctypes.byref(where)) for part in range(5))
        x = random.standard_normal((1, COLUMNS)).astype(np.float32)
        q, groups = np.empty((planes, COLUMNS), np.int8), COLUMNS // kind.group
        steps, sums = np.empty((planes, groups), np.float32), np.empty((planes, groups), np.int32)
        name, out = isa.encode(), (pointer(q), pointer(steps), pointer(sums))
        call("kernel_quantize", name, pointer(x), 1, COLUMNS, kind.group, planes, *out)
        y = np.empty((1, rows), np.float32)
        function, arguments = library().pl_kernel_matmul_q, (name, self.handle, *out, 1, planes, pointer(y))
        self.run: Callable[[], Any] = lambda: function(*arguments)
        self.alive = q, steps, sums, y


def executed(run: Callable[[], Any], function: Any, inside: range) -> list[int]:
    """Addresses of what a call of `function` in `run` executes in `inside`, in their order, as offsets into it."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.restype, ptrace.argtypes = ctypes.c_long, [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    entry = ctypes.cast(function, ctypes.c_void_p).value or 0
    run()
    child = os.fork()
    if not child:
        ptrace(TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        run()
        os._exit(0)
    os.waitpid(child, 0)
    try:
        first = ptrace(PEEK, child, entry, None) % (1 << 64)
        if ptrace(POKE, child, entry, first & ~0xFF | 0xCC) < 0:  # a trap at the function's beginning
            raise SystemExit("this system does not let a process be stepped through (ptrace)")
        ptrace(CONTINUE, child, None, None)
        os.waitpid(child, 0)
        ptrace(POKE, child, entry, first)
        ptrace(POKEUSER, child, RIP, entry)
        home = ptrace(PEEK, child, ptrace(PEEKUSER, child, RSP, None), None)
        out = []
        while (at := ptrace(PEEKUSER, child, RIP, None)) != home:
            if at in inside:
                out.append(at - inside.start)
            ptrace(SINGLESTEP, child, None, None)
            os.waitpid(child, 0)
        return out
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def text_of(path: Path) -> tuple[range, int]:
    """Where the library's code lies in this process, and how far from its beginning in the disassembly's addresses."""
    rows = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    own = [[int(part, 16) for part in row[0].split("-")] for row in rows if row[-1] == str(path)]
    code = [[int(part, 16) for part in row[0].split("-")] for row in rows if row[-1] == str(path) and "x" in row[1]]
    return range(*code[0]), code[0][0] - own[0][0]


def disassembled(path: Path, program: str) -> dict[int, str]:
    """The library's instructions by address, as an assembler takes them."""
    words = [program, "-d", "--no-show-raw-insn", str(path)]
    lines = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    found = (re.match(r"\s*([0-9a-f]+):\s+([^<#]+)", line) for line in lines)
    return {int(one[1], 16): one[2].strip() for one in found if one}


def one_pair(stream: list[int]) -> list[int]:
    """The last whole pair of blocks: what lies between two comings of what comes once in each pair, or block."""
    places: dict[int, list[int]] = {}
    for i, at in enumerate(stream):
        places.setdefault(at, []).append(i)
    first, last = max(
        ((found[-1 - len(found) // PAIRS], found[-1]) for found in places.values() if len(found) in (PAIRS, 2 * PAIRS)),
        key=lambda two: two[1] - two[0],
    )
    return stream[first:last]


def pressure(code: list[str], program: str, cpu: str) -> dict[str, float]:
    """The cycles that each port is taken for by one pass through the code."""
    words = [program, f"-mcpu={cpu}", "-iterations=20", "-json"]
    done = subprocess.run(words, input="\n".join(code), capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    names, used = (
        said["TargetInfo"]["Resources"],
        said["CodeRegions"][0]["ResourcePressureView"]["ResourcePressureInfo"],
    )
    ports = dict.fromkeys(names, 0.0)
    for one in used:
        if one["InstructionIndex"] == len(code):  # the sum of all
            ports[names[one["ResourceIndex"]]] = one["ResourceUsage"]
    return ports


PROBES = {  # what kernels are made of; R: one of 12 registers in turn (masks: 6), so that none waits for the other
    "vpaddd": "vpaddd %zmm30, %zmm31, %zmmR",
    "vpandd": "vpandd %zmm30, %zmm31, %zmmR",
    "vpdpbusd": "vpdpbusd %zmm30, %zmm31, %zmmR",
    "vpdpbusd of memory": "vpdpbusd (%rsp){1to16}, %zmm31, %zmmR",
    "vpexpandb": "vpexpandb %zmm30, %zmmR {%k1}",
    "kmovq": "kmovq %rax, %kM",
    "vpermb": "vpermb %zmm30, %zmm31, %zmmR",
    "vpermi2b": "vpermi2b %zmm30, %zmm31, %zmmR",
    "vpmovzxbw": "vpmovzxbw %ymm30, %zmmR",
}


def probed() -> tuple[float, dict[str, float]]:
    """The clock in Hz while 512-bit registers are at work, and cycles per instruction of each probe."""
    codes = ["vpaddd %zmm30, %zmm0, %zmm0; " * 96]  # a chain: one a cycle
    for text in PROBES.values():
        codes.append("".join(text.replace("R", str(r)).replace("M", str(2 + r % 6)) + "; " for r in range(12)) * 8)
    kept = ", ".join([f'"zmm{r}"' for r in range(12)] + [f'"k{r}"' for r in range(2, 8)])
    source = ""
    for i, code in enumerate(codes):
        escaped = code.replace("%", "%%").replace("{", "%{").replace("}", "%}")
        source += f'void probe{i}(long n) {{ for (; n; --n) asm volatile("{escaped}" ::: {kept}); }}\n'
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "probe.c").write_text(source)
        flags = ["-O1", "-mavx512f", "-mavx512bw", "-shared", "-fPIC", "-o", f"{place}/probe.so"]
        subprocess.run([os.environ.get("CC", "cc"), *flags, f"{place}/probe.c"], check=True)
        functions, rounds = ctypes.CDLL(f"{place}/probe.so"), 3000

        def each(i: int) -> float:
            function = getattr(functions, f"probe{i}")
            return best(lambda: function(ctypes.c_long(rounds)), 300) / rounds / 96

        clock = 1 / each(0)
        return clock, {name: each(i) * clock for i, name in enumerate(PROBES, 1)}


def best(run: Callable[[], Any], times: int) -> float:
    """Seconds of the fastest of some calls."""
    out = []
    for _ in range(times):
        begun = time.perf_counter()
        run()
        out.append(time.perf_counter() - begun)
    return min(out)


def rate(isa: str, kind: Format, planes: int) -> float:
    """Weights per second on one core, the weights in its second-level cache: 384 rows less what 128 take."""
    small, large = (Kernel(isa, kind, rows, planes) for rows in (128, 384))
    for kernel in (small, large):
        best(kernel.run, 50)
    return 256 * COLUMNS / (best(large.run, 1000) - best(small.run, 1000))


def bound(code: list[str], ports: dict[str, float], twice: bool) -> tuple[float, str]:
    """The least cycles that the code takes, and what takes them: the fullest port, or the front end.

    Moves between registers pass the front end like all else, if no port: six instructions a cycle, a comparison and its
    jump as one. twice: products have port 5 as well as port 0, where llvm-mca gives them port 0 alone.
    """
    taken = {f"port {int(name[-2:])}": cycles for name, cycles in ports.items() if name[-2:].isdigit()}
    if twice and taken["port 0"] > taken["port 5"]:
        taken["ports 0 and 5"] = (taken.pop("port 0") + taken.pop("port 5")) / 2
    taken["front end"] = sum(not re.match("j[^m]", text) for text in code) / 6
    name = max(taken, key=lambda one: taken[one])
    return taken[name], name


HEAD = "| format | bytes | instructions | of them moves | least cycles | bound by | ceiling | measured | memory |"


def main() -> None:
    """Count, simulate, measure; write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", default="avx512", choices=instruction_sets())
    parser.add_argument("--cpu", default="sapphirerapids", help="as llvm-mca calls it")
    parser.add_argument("--mca", default=shutil.which("llvm-mca-19") or "llvm-mca")
    words = parser.parse_args()
    path = Path(library()._name).resolve()
    inside, offset = text_of(path)
    code = disassembled(path, words.mca.replace("mca", "objdump"))
    clock, probes = probed()
    twice = probes["vpdpbusd"] < 0.75
    counted = {}
    for planes, kind in itertools.product((2, 1), FORMATS):
        kernel = Kernel(words.isa, kind, 32 * PAIRS, planes)
        stream = executed(kernel.run, library().pl_kernel_matmul_q, inside)
        block = [code[at + offset] for at in one_pair(stream)]
        size = kernel.bytes / (32 * PAIRS * COLUMNS) * 64
        counted[planes, kind] = block, pressure(block, words.mca, words.cpu), size
    cores = len(os.sched_getaffinity(0))
    memory = library().pl_test_read(cores, 144 << 20, 12) / cores
    rates = {(planes, kind): rate(words.isa, kind, planes) for planes, kind in counted}
    units, lines = 32 * COLUMNS / 64, []
    for planes in (2, 1):
        lines += [f"### Activations in {8 * planes} bits", "", HEAD, "|---" * HEAD.count(" | ") + "|---|"]
        for kind in FORMATS:
            code, ports, size = counted[planes, kind]
            cycles, by = bound(code, ports, twice)
            moves = sum(bool(re.match(r"vmovdq\S+\s+%zmm\d+, %zmm\d+$", text)) for text in code)
            counts = (size, len(code) / units, moves / units, cycles / units)
            speeds = (64 * clock / (cycles / units), rates[planes, kind], 64 * memory / size)
            cells = [kind.name, *(f"{x:.1f}" for x in counts), by, *(f"{x / 1e9:.0f}" for x in speeds)]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines += [
        f"{clock / 1e9:.2f} GHz, {memory / 1e9:.1f} GB/s per core where all {cores} read; cycles per instruction:"
    ]
    lines += [", ".join(f"{name} {cycles:.2f}" for name, cycles in probes.items())]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
