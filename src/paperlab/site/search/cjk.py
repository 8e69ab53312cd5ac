"""Chinese, Japanese and Korean: a run of letters without spaces becomes its overlapping pairs, on both sides.

"量子化モデル" is indexed, and asked for, as "量子 子化 化モ モデ デル", as Lucene's CJKAnalyzer does it: a text then
holds every pair of any part of it, and "in quotes" the pairs stand in a row, so that quoted words are found as
substrings. A letter alone is looked for among the letters of a text (see `letters`). Widths are one: "ＢＥＲＴ" is
"BERT", "ﾓﾃﾞﾙ" is "モデル" (NFKC). Text of other scripts stays as it is, to the bit.
"""

import re
from unicodedata import normalize

# Han, kana with their marks, bopomofo, Hangul: letters only, as the index's tokenizer cuts at everything else.
LETTERS = (
    "\u1100-\u11ff\u3005-\u3007\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f"
    "\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb"
    "\U00020000-\U000323af"
)
# And what NFKC makes into such letters, or into narrow ones: radicals, squared words, forms of other widths.
_FORMS = "\u2e80-\u2fdf\u3131-\u318e\u3200-\u33ff\uf900-\ufaff\uff01-\uffdc\U0002f800-\U0002fa1f"
_ANY = re.compile(f"[{LETTERS}{_FORMS}]+")
_RUN = re.compile(f"[{LETTERS}]+")


def pairs(text: str) -> str:
    """The text with the letters of every run in overlapping pairs, a letter between others alone. Twice is as once."""
    if text.isascii() or not _ANY.search(text):
        return text
    return _RUN.sub(_paired, _narrow(text))


def letters(text: str) -> list[str]:
    """The different letters of a text, by which a letter alone finds it."""
    if text.isascii() or not _ANY.search(text):
        return []
    return list(dict.fromkeys("".join(_RUN.findall(_narrow(text)))))


def blank(text: str) -> str:
    """The text with a space in place of each of these letters, beside which other words begin and end."""
    return text if text.isascii() or not _ANY.search(text) else _RUN.sub(lambda run: " " * len(run[0]), text)


def _narrow(text: str) -> str:
    return _ANY.sub(lambda run: normalize("NFKC", run[0]), text)


def _paired(run: re.Match[str]) -> str:
    letters = run[0]
    cut = [letters[at : at + 2] for at in range(len(letters) - 1)] or [letters]
    return f" {' '.join(cut)} "


def matching(terms: list[str]) -> str:
    """A pattern for the letters of pairs and single letters, neighbouring pairs as one; "" without any."""
    alone = [re.escape(term) for term in terms if len(term) == 1]
    chained = "|".join(f"{term[0]}(?={term[1]})" for term in terms if len(term) == 2)
    return "|".join([*([f"(?:{chained})+."] if chained else []), *alone])


def is_cjk(term: str) -> bool:
    """Whether a term of the index is such a pair or letter."""
    return bool(_RUN.fullmatch(term))
