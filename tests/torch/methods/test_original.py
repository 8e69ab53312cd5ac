"""Original: nothing changes, and the size is that of an ordinary checkpoint."""

import torch
from loud_models import TEST, llama
from safetensors.torch import save

from paperlab.lab.drivers.compress import apply
from paperlab.methods.quantization.original import transform


def test_the_model_is_the_same_and_its_size_is_a_bfloat16_checkpoint_s() -> None:
    model = llama()
    small = apply({"transform": transform}, {}, model=model, calibration=[])
    assert small.model is not model
    for name, value in model.state_dict().items():
        assert torch.equal(small.model.state_dict()[name], value)
    with torch.no_grad():
        assert torch.equal(small.model(TEST).logits, model(TEST).logits)
    file = save({name: value.detach().bfloat16() for name, value in model.named_parameters()})
    header = int.from_bytes(file[:8], "little")
    assert small.totals()["bytes"] == len(file) - 8 - header  # a tied head is stored once
    assert small.totals()["bits_per_weight"] == 16
    assert not small.layers
