"""Every converted tensor of SmolLM2 against transformers' own reading of the same file."""

import pytest
import torch
from transformers import LlamaForCausalLM

from paperlab.assets.loading import load_causal_lm
from paperlab.assets.models import MODELS, model_folder

pytestmark = pytest.mark.slow


def test_smollm2_weights_equal_transformers_own_reading_of_the_gguf() -> None:
    """transformers.modeling_gguf_pytorch_utils (another un-permutation, other names) reads the same file."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    model, _, provenance = load_causal_lm("smollm2-135m")
    folder, _ = model_folder("smollm2-135m")
    gguf = folder / MODELS["smollm2-135m"].gguf
    with torch.device("meta"):
        empty = LlamaForCausalLM(model.config)
    theirs = load_gguf_checkpoint(gguf, return_tensors=True, model_to_load=empty)["tensors"]
    ours = dict(model.named_parameters())
    assert provenance["parameters"] == 134_515_008
    assert set(ours) <= set(theirs)
    for name, weight in ours.items():
        assert torch.equal(weight, torch.as_tensor(theirs[name]).float()), name
