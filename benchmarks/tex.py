"""How much raw TeX readers still see in titles and abstracts; writes tex.md.

    python benchmarks/tex.py FILE [FILE ...] [--show 5]

FILE: JSON lines with `title` and `abstract`, maybe compressed. Each text becomes HTML as a paper's page makes it; a
parser of the standard library takes from it what a reader sees. What is left is sorted by the sign that gives it away.
Prices ($5) and a backslash in a quoted program ("\\n") are no TeX. The goal: at most 0.2 % of abstracts.
"""

import argparse
import re
import time
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path

GOAL = 0.2  # percent of abstracts
KINDS = {
    "a formula that could not be read, shown as written": re.compile("\0"),
    "a command": re.compile(r"\\(?!n\b)[a-zA-Z]+|\\[^\sn\w]"),
    "a dollar sign that encloses nothing": re.compile(r"\$(?!\s?[\d.]|[A-Z]\b)(?<!US\$)(?<!A\$)"),
    "quotes of TeX": re.compile(r"``|''"),
    "two hyphens": re.compile(r"--"),
    "a tie": re.compile(r"\w~\w"),
    "an index in braces": re.compile(r"[_^]\{"),
}
BRACE = re.compile(r"[{}]")
BEFORE = re.compile(r"\\(?!n\b)[a-zA-Z]|\\[^\sn\w]|\$.*\$|``|''|--|[_^]\{", re.DOTALL)
_ADDRESS = re.compile(r"https?://\S+")


class Seen(HTMLParser):
    """What a reader sees of HTML. A formula in letters is dropped: it was read; one that was not is a zero."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Enter a formula."""
        if tag == "math":
            self.inside = "math"
        elif ("class", "tex") in attrs:
            self.inside = "tex"
            self.parts.append("\0")

    def handle_endtag(self, tag: str) -> None:
        """Leave it."""
        if tag == self.inside or (self.inside == "tex" and tag == "code"):
            self.inside = ""

    def handle_data(self, data: str) -> None:
        """Keep what is read."""
        if not self.inside or (self.inside == "math" and "\\" in data):
            self.parts.append(data)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--show", type=int, default=0, help="examples of each kind to print")
    options = parser.parse_args()
    from paperlab.site.start import configure

    configure()
    from paperlab.site.pages.text import paragraphs, rich
    from paperlab.site.store.sources import files

    lines, examples = [], defaultdict(list)
    for file in options.files:
        counts: dict[str, int] = defaultdict(int)
        with open(file, "rb") as stream:
            items = [item for page in files.source(stream, name=file.name).pages({}, {}) for item in page.items]
        seconds = 0.0
        for item in items:
            began = time.process_time()
            made = {"title": rich(item.title), "abstract": paragraphs(item.abstract)}
            seconds += time.process_time() - began
            for field, html in made.items():
                seen = _ADDRESS.sub("", "".join(Seen(html).parts))
                found = {kind: match for kind, sign in KINDS.items() if (match := sign.search(seen))}
                counts[f"{field} before"] += bool(BEFORE.search(getattr(item, field)))
                counts[field] += bool(found)
                counts[f"{field} brace"] += bool(BRACE.search(seen)) and not found
                for kind, match in found.items():
                    counts[kind] += field == "abstract"
                    examples[kind].append((item.arxiv, seen[max(0, match.start() - 60) : match.end() + 40]))
        share = {name: f"{counts[name]:,} ({100 * counts[name] / len(items):.2f} %)" for name in ("title", "abstract")}
        lines += [
            f"## {file.name}",
            "",
            f"{len(items):,} papers; {1000 * seconds / len(items):.2f} ms of a processor for each, title and abstract.",
            "",
            "| | titles | abstracts |",
            "|---|---:|---:|",
            f"| hold TeX as they come | {counts['title before']:,} | {counts['abstract before']:,} |",
            f"| **show TeX to a reader** | {share['title']} | {share['abstract']} |",
            f"| show braces: a set, or one alone | {counts['title brace']:,} | {counts['abstract brace']:,} |",
            "",
            "| what the abstracts show | abstracts |",
            "|---|---:|",
            *(f"| {kind} | {counts[kind]:,} |" for kind in KINDS if counts[kind]),
            "",
        ]
        print(file.name, share, f"goal {GOAL} %:", "met" if counts["abstract"] <= GOAL / 100 * len(items) else "MISSED")
    for kind, rows in examples.items():
        for name, text in rows[: options.show]:
            print(f"{kind}: {name}: {text!r}")
    head = f"# Raw TeX that readers see\n\nWritten by `benchmarks/tex.py`. The goal: at most {GOAL} % of abstracts.\n\n"
    Path(__file__).with_suffix(".md").write_text(head + "\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
