"""Compress a model of your own: python compress_a_model.py MODEL TEXT OUT

MODEL is a folder, a registered name or a Hugging Face id; TEXT a .txt or .jsonl file; OUT the folder to write.
"""

import sys

import paperlab

made = paperlab.compress(sys.argv[1], sys.argv[3], target="3x", within="400%", calibration=sys.argv[2], search="1s")

print(made.says)  # what it came to; or why it is not what was asked for
print(made.folder, made.report)  # None where the limit was not met: nothing is written then
print(made.figures["levels"])  # bits of each matrix; recipe.json in the folder has it all
