"""Open a model folder or a GGUF file."""

import json
from pathlib import Path
from typing import Literal

from paperlab.engine.encoder import Encoder
from paperlab.engine.formats import sentence
from paperlab.engine.formats.tokenizer import Tokens
from paperlab.engine.language import LanguageModel
from paperlab.engine.native import EngineError, call, library, whole
from paperlab.engine.packing.layout import Layout


def load(
    path: str | Path,
    *,
    bits: int | None = None,
    group: int | Literal["row"] | None = None,
    symmetric: bool | None = None,
    activation_bits: int = 16,
    threads: int | None = None,
    isa: str | None = None,
) -> LanguageModel | Encoder:
    """Open a language model or a sentence encoder: a folder (config.json, *.safetensors, tokenizer.json) or a .gguf.

    bits: None computes with the weights as the files hold them; 8, 4, 3 or 2 rounds those that are floats, in groups
    of `group` input columns ("row": whole rows), symmetric or with a minimum beside each scale. None: as `Layout` has
    them for that width; encoders in 8 bits take whole rows. activation_bits: 16 or
    8, to what activations are rounded, group by group, before they meet weights in few bits (8 is faster, and costs
    a language model some 0.3 % of perplexity). threads: None takes one per core. isa: one of `instruction_sets()`,
    None the best. Raises EngineError.
    """
    if bits not in (None, 8, 4, 3, 2):
        raise EngineError(f"{bits} bits per weight; known are 8, 4, 3 and 2, and None for the weights as they are")
    if threads is not None and whole("threads", threads, most=2**31 - 1) < 1:
        raise EngineError(f"{threads} threads; at least 1 is needed, and None takes one per core")
    if activation_bits not in (8, 16):
        raise EngineError(f"activations of {activation_bits} bits; 8 and 16 are possible")
    name = isa.encode() if isa else None
    layout = Layout(bits or 16, group, symmetric)  # type: ignore[arg-type]
    columns = -1 if group is None and bits in (None, 8) else layout.group_size
    words = (bits or 0, columns, int(layout.symmetric), activation_bits, threads or 0, name)
    handle = call("load", str(path).encode(), *words)
    try:
        about = json.loads(library().pl_info(handle))
        tokens = Tokens.of(Path(path))
        if about["kind"] == "bert":
            return Encoder(handle, about, tokens, sentence.of(Path(path)))
        return LanguageModel(handle, about, tokens)
    except BaseException:
        library().pl_free(handle)
        raise
