"""Fuzz the readers of files with Atheris (coverage-guided; `pip install atheris` in an environment of its own).

    python tests/fuzz/readers.py FORMAT [libFuzzer's options, e.g. -max_total_time=300]

FORMAT: listing, jsonl, json, arxiv-api, arxiv-oai, feed, or "any" to let the format be seen from the bytes. Without a
folder of inputs it begins with the documents that the tests' server makes. A finding is written to crash-…: put it into
tests/site/test_fuzz.py as bytes, and mend the reader.
"""

import sys
import tempfile
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "site")]

with atheris.instrument_imports(include=["paperlab.site.store", "feedparser", "xml"]):
    from reading import read

    from paperlab.site.store.sources import files  # noqa: F401  instrumented before it is used


def main() -> None:
    """Fuzz one format."""
    from samples import samples

    form = sys.argv[1]
    seeds = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for number, (of, content) in enumerate(samples()):
        if form in (of, "any"):
            (seeds / str(number)).write_bytes(content)

    def one(content: bytes) -> None:
        read(content, None if form == "any" else form)

    atheris.Setup([sys.argv[0], *sys.argv[2:], str(seeds)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
