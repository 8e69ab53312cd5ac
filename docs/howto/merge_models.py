"""Merge models that were tuned from one base: python merge_models.py BASE OUT MODEL MODEL ..."""

import sys

from transformers import AutoModelForCausalLM

import paperlab

base, out, *models = sys.argv[1:]

ties = paperlab.load("ties", density=0.2, weights=",".join(["1"] * len(models)))
folder = ties(base, models, out=out)

dare = paperlab.load("dare-super-mario", sparsity=0.9)
loaded = [AutoModelForCausalLM.from_pretrained(model) for model in models]
merged = dare(AutoModelForCausalLM.from_pretrained(base), loaded, seed=0)


def score(model):
    """How good a model is on data that none was tuned on; higher is better. Here a stand-in."""
    return -float(model.lm_head.weight.std())


soup = paperlab.load("model-soups")(loaded[0], loaded, validate=score)

print(folder, sum(p.numel() for p in merged.parameters()), type(soup).__name__)
