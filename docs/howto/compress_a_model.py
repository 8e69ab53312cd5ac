"""Compress a model of your own: python compress_a_model.py MODEL TEXT OUT [TARGET WITHIN SEARCH]

MODEL is a folder, a registered name or a Hugging Face id; TEXT a .txt or .jsonl file; OUT the folder to write. TARGET
is 4x unless given, WITHIN 2%, SEARCH one minute.
"""

import sys

import paperlab

model, texts, folder = sys.argv[1:4]
target, within, search = sys.argv[4:7] or ("4x", "2%", "1m")

made = paperlab.compress(model, folder, target=target, within=within, calibration=texts, search=search)

print(made.says)  # what it came to; or why it is not what was asked for
print(made.folder, made.report)  # None where the limit was not met: nothing is written then
print(made.figures["levels"])  # bits of each matrix; recipe.json in the folder has it all
