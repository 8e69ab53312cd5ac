"""Make the table of look-alike characters that the site's names are compared by, from Unicode's confusables.txt.

    python recipes/confusables/make.py confusables.txt > src/paperlab/site/people/confusables.tsv

confusables.txt: https://www.unicode.org/Public/security/17.0.0/confusables.txt
Kept are the characters that a name may hold; the others are refused before names are compared. Letters that are newer
than this Python's Unicode are kept too, for a newer Python knows them.
"""

import sys
import unicodedata
from collections import defaultdict
from pathlib import Path

MAY = "0123456789'’.-_·"


def is_kept(sign: str) -> bool:
    """Whether a name may hold the character."""
    kind = unicodedata.category(sign)
    return unicodedata.normalize("NFKC", sign) == sign and (kind[0] in "LM" or kind == "Cn" or sign in MAY)


def main(file: Path) -> None:
    """Print the table: a heading, then lines of a prototype, a tab, and all that looks like it."""
    looks = defaultdict(list)
    said = file.read_text(encoding="utf-8-sig").splitlines()
    for line in said:
        parts = line.partition("#")[0].split(";")
        if len(parts) < 3:
            continue
        sign, prototype = ("".join(chr(int(code, 16)) for code in part.split()) for part in parts[:2])
        if is_kept(sign):
            looks[prototype].append(sign)
    version = next(line.partition("Version:")[2].strip() for line in said if "Version:" in line)
    print(f"# From confusables.txt {version} of Unicode Security Mechanisms (UTS #39), by recipes/confusables/make.py.")
    print("# © 2025 Unicode®, Inc. Unicode License V3: https://www.unicode.org/license.txt")
    for prototype, signs in sorted(looks.items()):
        print(f"{prototype}\t{''.join(signs)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
