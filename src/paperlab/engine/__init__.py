"""The CPU engine: language models and sentence encoders, in floats or in few bits, without torch.

    from paperlab import engine

    model = engine.load("my-model", bits=4)
    for piece in model.generate("Once upon a time", max_tokens=64):
        print(piece, end="")
    vectors = engine.load("my-encoder", bits=8).embed(["one text", "another"])

Needs the distribution `paperlab-engine` (the compiled part), numpy and tokenizers: the extra `engine`. Without numpy
the import raises MissingExtra, an ImportError with the command that helps.
"""

from paperlab.core.install import needs

with needs("engine"):
    from paperlab.engine.export import export
    from paperlab.engine.load import load
    from paperlab.engine.native import EngineError, available, instruction_sets
    from paperlab.engine.pack import Codes, Layout, pack

__all__ = ["Codes", "EngineError", "Layout", "available", "export", "instruction_sets", "load", "pack"]
