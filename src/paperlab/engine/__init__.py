"""Run language models and sentence encoders on a CPU, in floats or in few bits, without torch.

    from paperlab import engine

    model = engine.load("my-model", bits=4)
    for piece in model.generate("Once upon a time", max_tokens=64):
        print(piece, end="")
    vectors = engine.load("my-encoder", bits=8).embed(["one text", "another"])
    engine.pack("my-model", "packed", engine.Layout(4))  # or engine.Tensors(config, arrays), without a folder

Needs the distribution `paperlab-engine` (the compiled part), numpy and tokenizers: the extra `engine`. Without numpy
the import raises MissingExtra, an ImportError with the command that helps.
"""

from paperlab.core.install import needs

with needs("engine"):
    from paperlab.engine.formats.export import export
    from paperlab.engine.formats.pack import pack
    from paperlab.engine.load import load
    from paperlab.engine.native import EngineError, available, instruction_sets
    from paperlab.engine.packing.layout import Codes, Layout, quantize
    from paperlab.engine.packing.tensors import Tensors


__all__ = [
    "Codes",
    "EngineError",
    "Layout",
    "Tensors",
    "available",
    "export",
    "instruction_sets",
    "load",
    "pack",
    "quantize",
]
