"""What the contract tests of all drivers share: which methods at which settings, and small models to try them on."""

import copy
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import paperlab
from paperlab.core.acts import acts
from paperlab.core.card import Arm
from paperlab.core.methods import Method, act_of, find_method, methods, parameters
from paperlab.core.signature import CALIBRATION
from paperlab.lab.arms import functions_of

PACKAGE = Path(paperlab.__file__).parent
SHORT = {"steps": 2, "iterations": 3}  # parameters that only make a method's search or training longer
WIDTH, VOCABULARY = 64, 96


@dataclass(frozen=True)
class Case:
    """A method of the registry at one setting, or what a test plants. first: the first setting of its method."""

    name: str
    verbs: tuple[str, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    first: bool = True
    planted: Mapping[str, Callable[..., Any]] | None = None

    def functions(self) -> Mapping[str, Callable[..., Any]]:
        """Its verbs, imported only now: collecting tests imports no method."""
        return self.planted if self.planted is not None else functions_of(Arm(self.name))

    def __str__(self) -> str:
        return str(Arm(self.name, self.params))


def cases(act: str, planted: Mapping[str, Callable[..., Any]]) -> list[Case]:
    """Every method of an act at its defaults and at the first arm of any card that sets parameters, and for each verb
    of the act a planted sample, so that no verb goes without a try."""
    assert planted.keys() == acts()[act].verbs.keys(), f"{act}: a sample for each verb"
    found = [
        Case(method.slug, method.verbs, params, first=number == 0)
        for method in methods().values()
        if method.verbs and act_of(method).name == act
        for number, params in enumerate(settings(method))
    ]
    return found + [Case(f"planted-{verb}", (verb,), planted={verb: function}) for verb, function in planted.items()]


def settings(method: Method) -> list[dict[str, Any]]:
    """The parameters of the defaults and of a card's arm, with few steps; one where both are the same."""
    shorter = {p.name: min(SHORT[p.name], p.default) for p in parameters(method) if p.name in SHORT}
    found = []
    for params in [{}, *set_by_cards().get(method.slug, [])[:1]]:
        inner = {name: value for name, value in {**shorter, **params}.items() if name != CALIBRATION.name}
        if inner not in found:
            found.append(inner)
    return found


@cache
def set_by_cards() -> dict[str, list[dict[str, Any]]]:
    """By method, the parameters that arms of cards set."""
    found: dict[str, list[dict[str, Any]]] = {}
    for method in methods().values():
        for check in method.card.checks:
            for arm in check.arms:
                for one in arm.chain:
                    if one.params:
                        found.setdefault(find_method(one.method).slug, []).append(dict(one.params))
    return found


def refused(error: ValueError) -> bool:
    """Whether our own code raised it, with a message that explains."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return type(error) is ValueError and Path(frame.filename).is_relative_to(PACKAGE) and len(str(error).split()) >= 5


@cache
def tiny(layout: str) -> nn.Module:
    """A small model of two blocks, "Llama" or "BERT"; one for all tests, which may not change it."""
    common = {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 32,
    }  # fmt: skip
    torch.manual_seed(0)
    model = (
        LlamaForCausalLM(LlamaConfig(**common, num_key_value_heads=1))
        if layout == "Llama"
        else BertModel(BertConfig(**common))
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases are not left at ones and zeros
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@cache
def state(layout: str) -> dict[str, Tensor]:
    """The weights of `tiny(layout)` as they were made."""
    return copy.deepcopy(tiny(layout).state_dict())


def batches() -> list[dict[str, Tensor]]:
    ids = torch.randint(3, VOCABULARY, (4, 16), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": rows} for rows in ids.split(2)]


def output(model: nn.Module, device: str = "cpu") -> Tensor:
    with torch.no_grad():
        out = model(input_ids=batches()[0]["input_ids"].to(device))
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def assert_same(state: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in before)


def hooks(model: nn.Module) -> int:
    """How many; transformers leaves some of its own on a model that was once asked for hidden states."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def kinds(model: nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


def assert_moves(module: nn.Module, run: Callable[[nn.Module, str], Tensor], shape: tuple[int, ...]) -> None:
    """A tensor that a hook or closure holds on the CPU would stop a module on a GPU; the device `meta` shows it
    anywhere."""
    out = run(copy.deepcopy(module).to("meta", torch.bfloat16), "meta")
    assert out.device.type == "meta"
    assert out.dtype is torch.bfloat16
    assert out.shape == shape
