"""Small whole models with one loud channel, as trained language models have, for tests of what folds scales away."""

import torch
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

LOUD = 5
DRAW = torch.Generator().manual_seed(0)
BATCHES = [{"input_ids": torch.randint(0, 60, (8, 16), generator=DRAW)} for _ in range(4)]
TEST = torch.randint(0, 60, (4, 16), generator=DRAW)


def loud(model: nn.Module) -> nn.Module:
    """Norms with one loud channel."""
    for name, parameter in model.named_parameters():
        if "norm" in name.lower() and parameter.dim() == 1 and name.endswith("weight"):
            nn.init.uniform_(parameter, 0.5, 2)
            with torch.no_grad():
                parameter[LOUD] *= 15
    return model.eval()


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
    )  # fmt: skip
    return loud(LlamaForCausalLM(config))


def bert() -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=60, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    return loud(BertModel(config))


def error(small: nn.Module, model: nn.Module) -> float:
    """Squared error of the outputs on TEST, relative to the outputs."""
    with torch.no_grad():
        wanted, got = model(TEST)[0], small(TEST)[0]
        if wanted.shape[2] == 64:  # hidden states: the loud channel would drown the others
            wanted, got = (x[..., torch.arange(64) != LOUD] for x in (wanted, got))
        return float((got - wanted).square().mean() / wanted.square().mean())


def assert_function_stays(small: nn.Module, model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    """At 12 bits: the outputs are close, the caller's model is as `before`, and yet the stored weights are others."""
    assert error(small, model) < 1e-4  # 12 bits are not exact; an unfolded scale would cost 0.1 and more
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert any(
        (value - before[name]).abs().max() > 1e-3
        for name, value in small.state_dict().items()
        if name in before and "norm" not in name.lower() and value.shape == before[name].shape
    )


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}
