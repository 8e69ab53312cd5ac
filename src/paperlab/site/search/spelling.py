"""Normalise British to American spelling, so that "quantisation" finds "quantization" and the other way round."""

import re

# Words in -ise that are no verbs in -ize, by their ends ("noise", "otherwise", "supervised", "compromise").
_KEPT = ("ois", "ais", "uis", "wis", "cis", "vis", "promis", "premis", "demis", "compris", "surpris", "enterpris",
         "upris", "sunris", "franchis", "expertis", "treatis", "merchandis", "paradis")  # fmt: skip
_WHOLE = ("aris", "ris", "pris", "mis", "dis", "vis", "wis", "bis", "this")
_BRITISH = re.compile(
    r"\b(?P<is>[a-z]{2,40}is)(?P<end>e|ed|es|er|ers|ing|ation|ations|able|ability)\b"
    r"|\b(?P<lys>[a-z]{2,40}lys)(?=(?:e|ed|ing|er|ers)\b)"
    r"|\b(?P<our>[a-z]{3,40}ou)(?=r(?:s|ed|ing|al|ally|able|ably|hood|hoods|ful|less|ite|ites)?\b)",
    re.IGNORECASE,
)


# What every such word has within, in small letters, that far from its beginning and its end: looked for first, as
# trying every word of a text takes ten times as long. What abstracts are full of ("our", "source", "analysis") is left
# out. Each begins with letters of its own, which makes three searches a third of one for any of them.
_WITHIN = (
    re.compile(r"is(?<=\w\wis)(?:e(?=\w{0,2}\b)|ing\b|a[tb](?=\w{2,5}\b))"),
    re.compile(r"lys(?!is)(?<=\w\wlys)(?=\w{1,3}\b)"),
    re.compile(r"our(?![bcdgjkm-rt-z])(?<=\w\w\wour)(?=\w{0,5}\b)"),
)
_HEAD = re.compile(r"(?<!\w)\w{1,44}\Z")  # the word before that; longer ones are none


def american(text: str) -> str:
    """The text as an American writes it, as far as an index needs: -ize, -yze and -or for -ise, -yse and -our."""
    parts, done = [], 0
    small = text.replace("İ", "I").lower()  # of the same length: no other letter is two in small
    for at in sorted(within.start() for pattern in _WITHIN for within in pattern.finditer(small)):
        head = _HEAD.search(text, max(0, at - 44), at)
        match = _BRITISH.match(text, head.start()) if head and head.start() >= done else None
        if match:
            parts += [text[done : match.start()], _folded(match)]
            done = match.end()
    return "".join([*parts, text[done:]]) if parts else text


def _folded(match: re.Match[str]) -> str:
    if match["our"]:
        return match["our"][:-1]
    if match["lys"]:
        return match["lys"][:-1] + _like(match["lys"][-1])
    stem, end = match["is"], match["end"]
    lower = stem.lower()
    if not end.lower().startswith("at") and (lower in _WHOLE or lower.endswith(_KEPT)):
        return match[0]
    return stem[:-1] + _like(stem[-1]) + end


def _like(letter: str) -> str:
    return "Z" if letter.isupper() else "z"
