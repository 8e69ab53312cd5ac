"""How fast the packed kernels of each instruction set are on this machine, one token, one core, in turns.

    python benchmarks/engine/sets.py                       # prints the tables of sets.md
    python benchmarks/engine/sets.py --before OLD/libpaperlab.so    # beside an earlier library, in a process of its own

The weights lie in the second-level cache, so that the kernels are measured and not the memory. Instruction sets and
libraries take turns, five rounds; the best of each counts.
"""

import argparse
import json
import os
import subprocess
import sys

from instructions import FORMATS, rate

from paperlab.engine.native import instruction_sets

ROUNDS = 5


def measured(sets: list[str]) -> dict[str, dict[str, float]]:
    """Weights per second by format and instruction set, activations in 16 bits: the best of one round."""
    return {kind.name: {isa: rate(isa, kind, 2) for isa in sets} for kind in FORMATS}


def asked(file: str | None, sets: list[str]) -> dict[str, dict[str, float]]:
    """The same by a library of another file, in a process that has it alone."""
    environment = os.environ | ({"PAPERLAB_LIBRARY": file} if file else {})
    words = [sys.executable, __file__, "--json", *sets]
    return json.loads(subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="the compiled library of an earlier version")
    parser.add_argument("--json", nargs="+", metavar="ISA", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.json:
        print(json.dumps(measured(words.json)))
        return
    sets = [isa for isa in instruction_sets() if isa not in ("ref", "amx")]  # AMX has AVX-512's for one token
    found: dict[str, dict[str, float]] = {kind.name: {} for kind in FORMATS}
    for _ in range(ROUNDS):
        rounds = {"": asked(None, sets)}
        if words.before:
            rounds[" before"] = asked(words.before, ["avx2"])
        for when, table in rounds.items():
            for name, rates in table.items():
                for isa, speed in rates.items():
                    found[name][isa + when] = max(speed, found[name].get(isa + when, 0))
    heads = list(found[FORMATS[0].name])
    print(f"| G weights/s | {' | '.join(heads)} |")
    print("|---" * (len(heads) + 1) + "|")
    for name, rates in found.items():
        print(f"| {name} | {' | '.join(f'{rates[head] / 1e9:.1f}' for head in heads)} |")


if __name__ == "__main__":
    main()
