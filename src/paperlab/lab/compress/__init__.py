"""One command from a model to a smaller one: `paperlab compress`.

settings   what is asked, read from words
preflight  what it will take, before it starts: architecture, memory, disk, time
windows    the text in parts, and a whole model's change measured on one of them
levels     the levels of a matrix, and rounding to them
search     which matrix gets which level
stages     the stages in order, each kept on the disk when it is done
result     packed, measured on the engine, exported
report     one page and a few lines
work       the work folder: one run at a time, finished pieces whole
"""

from paperlab.lab.compress.settings import Settings, budget_of, share_of, target_of
from paperlab.lab.compress.stages import Outcome, compress

__all__ = ["Outcome", "Settings", "budget_of", "compress", "share_of", "target_of"]
