"""Make the bundled text `abstracts-8k`: what the text `abstracts` has, and so many more papers that it is 8,000.

    python recipes/abstracts_text/make.py --abstracts arxiv.jsonl.xz

Input: JSON lines (.xz) with `id`, `title`, `abstract` and `categories`; arXiv's metadata are CC0. The further papers
are those with the lowest hash of their id among the papers that abstracts-lm was trained on (its recipe holds out the
others). Written: data/texts/abstracts_more.jsonl.xz, rows of `id`, `text` and `category`, the paper's first.
"""

import argparse
import hashlib
import json
import lzma
from pathlib import Path

TEXTS = Path(__file__).resolve().parents[2] / "src" / "paperlab" / "data" / "texts"
PAPERS = 8000


def main() -> None:
    """Read the arguments, choose, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--abstracts", type=Path, required=True)
    arguments = parser.parse_args()
    with lzma.open(TEXTS / "abstracts.jsonl.xz", "rt", encoding="utf-8") as lines:
        known = {json.loads(line)["id"] for line in lines}
    found = []
    with lzma.open(arguments.abstracts, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            digest = hashlib.sha256(str(row["id"]).encode()).digest()
            if row["id"] not in known and digest[0] * 256 + digest[1] >= 655:
                text = f"{row['title']}\n{row['abstract']}"
                found.append((digest.hex(), {"id": row["id"], "category": row["categories"][0], "text": text}))
    found.sort(key=lambda pair: pair[0])
    rows = [row for _, row in found[: PAPERS - len(known)]]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    file = TEXTS / "abstracts_more.jsonl.xz"
    file.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    print(f"{len(known)} papers and {len(rows)} more; {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
