"""A compressing method on the user's own model: paperlab.load("easyquant", bits=3)(model, calibration=texts)."""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paperlab.core.methods import Method
from paperlab.kit.compressed import Compressed
from paperlab.kit.opening import can_open
from paperlab.kit.walk import Batch, block_linears
from paperlab.lab.drivers._common import Progress, silent
from paperlab.lab.drivers.compress import apply
from paperlab.lab.errors import RunError
from paperlab.lab.ship import Packable

LENGTH = 512  # tokens of a calibration text that are used


def on_own_model(
    method: Method, functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any]
) -> Callable[..., nn.Module]:
    """The method with its parameters set, ready to be called on a model.

        small = load("easyquant", bits=3)(model)
        small = load("gptq", bits=4, group=64)(model, calibration=texts)
        small.compressed.totals()          # bits per weight, bytes

    The returned function takes any transformers model whose blocks are made of nn.Linear, of GPT-2's Conv1D or of fused
    experts; all its stacks of blocks are compressed. The model itself is copied, never changed. calibration: a list of
    texts, of token id tensors (t,) or (b, t), or of dicts of model inputs; needed only by methods that look at data.
    Padding in a dict counts as text. The decoder of an encoder-decoder reads the same tokens, shifted, where a dict
    does not say other ones.
    tokenizer: for texts; by default the one in the folder of the model's weights. seed: of methods that draw.
    progress: called with what is at work, how many are done, and of how many.

    It returns the compressed model, a module like the one given: same class, dtype and device, in evaluation mode,
    with `.compressed` (paperlab.lab.ship.Packable): its size, its layers, and `.pack(folder)` for the CPU engine.
    The work is done on the CPU in float32. Some methods work on some layouts only and say so with a ValueError.
    A model that another method returned may be given again: what was pruned stays pruned. Random states are left as
    they were.

    `save_pretrained` writes the weights at their full width. What a method does while the model runs
    (rounding activations or the cache, rotating hidden states) and tensors that it adds (biases) have no place in
    a checkpoint; the `save_pretrained` of such a model raises a RunError instead of writing another model.

    Raises RunError for a model or calibration that cannot be used.
    """
    needs = method.needs_data

    def on(
        model: nn.Module,
        calibration: Sequence[Any] | None = None,
        *,
        tokenizer: Any = None,
        seed: int = 0,
        progress: Progress = silent,
    ) -> nn.Module:
        _refuse(model)
        if needs and (calibration is None or len(calibration) == 0):  # a tensor has no truth value
            raise RunError(f"{method.slug} looks at data ({', '.join(needs)}): pass calibration=[texts]")
        batches = _batches(model, [] if calibration is None else calibration, tokenizer)
        start, here = getattr(model, "compressed", None), model
        if any(t.device.type != "cpu" or t.dtype != torch.float32 for t in model.parameters()):
            here = copy.deepcopy(model).to("cpu", torch.float32)
        if start is not None:
            start = copy.copy(start)
            start.model = here
        compressed: Compressed = apply(
            functions,
            params,
            model=here,
            calibration=batches,
            seed=seed,
            start=start,
            progress=progress,
            disposable=here is not model,
        )
        small = _like(model, compressed.model)
        lost = _lost(model, small)
        small.compressed = Packable.of(compressed, method.slug, lost, small)  # type: ignore[assignment]
        if lost:
            small.save_pretrained = _no_saving(method.slug, lost)  # type: ignore[assignment]
        return small

    return on


def _refuse(model: nn.Module) -> None:
    """RunError for what is no transformers model, or one that cannot be compressed whole."""
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise RunError(
            f"a {type(model).__name__} is no transformers model; load one with AutoModelForCausalLM or AutoModel "
            "(of a SentenceTransformer take model[0].auto_model)"
        )
    devices = {str(parameter.device) for parameter in model.parameters()}
    if len(devices) > 1 or "meta" in devices:
        raise RunError(
            f"the model lies on {', '.join(sorted(devices))}; put it whole on one device, without offloading"
        )
    if any(can_open(module) for module in model.modules()):
        return  # its matrices are linear layers only in the copy that is compressed
    packed = [name for name, layer in block_linears(model).items() if not layer.weight.is_floating_point()]
    if packed:
        raise RunError(
            f"{packed[0]} holds codes, not weights: the model is quantized already; load it in full precision"
        )


def _batches(model: nn.Module, calibration: Sequence[Any], tokenizer: Any) -> list[Batch]:
    """Texts, id tensors or dicts as model inputs on the CPU, one text a batch so that nothing is padded."""
    if isinstance(calibration, str | Tensor | Mapping):
        raise RunError("calibration is a list: of texts, of token id tensors, or of dicts of model inputs")
    if any(isinstance(one, str) for one in calibration) and tokenizer is None:
        tokenizer = _tokenizer_of(model)
    takes = inspect.signature(model.forward).parameters
    length = min(LENGTH, getattr(model.config, "max_position_embeddings", None) or LENGTH)
    batches = []
    for number, one in enumerate(calibration):
        if isinstance(one, str | Tensor) and "input_ids" not in takes:
            raise RunError(f"{type(model).__name__} takes no token ids: pass dicts of its inputs as calibration")
        if isinstance(one, str):
            encoded = tokenizer(one, return_tensors="pt", truncation=True, max_length=length)
            batch = {name: value for name, value in encoded.items() if name in takes}
            if batch["input_ids"].shape[1] < 2:
                continue  # an empty text says nothing about activations
        elif isinstance(one, Tensor):
            batch = {"input_ids": one if one.dim() == 2 else one[None]}
        elif isinstance(one, Mapping):
            batch = dict(one)
        else:
            raise RunError(f"calibration[{number}] is a {type(one).__name__}: pass a text, a token id tensor or a dict")
        wrong = [name for name, value in batch.items() if not isinstance(value, Tensor)]
        if wrong:
            raise RunError(f"calibration[{number}][{wrong[0]!r}] is no tensor; use the tokenizer's return_tensors='pt'")
        if "input_ids" in batch and (batch["input_ids"].is_floating_point() or batch["input_ids"].dim() != 2):
            raise RunError(f"calibration[{number}]: token ids are whole numbers of shape (t,) or (b, t)")
        batches.append(_with_target(model, {name: value.cpu() for name, value in batch.items()}))
    if calibration and not batches:
        raise RunError("every calibration text is empty")
    return batches


def _with_target(model: Any, batch: Batch) -> Batch:
    """What an encoder-decoder's decoder reads, where the batch does not say: the encoder's tokens, shifted."""
    given = {"decoder_input_ids", "decoder_inputs_embeds", "labels"} & batch.keys()
    if not getattr(model.config, "is_encoder_decoder", False) or given:
        return batch
    if "input_ids" not in batch or not hasattr(model, "prepare_decoder_input_ids_from_labels"):
        raise RunError(f"{type(model).__name__} has a decoder: pass dicts with decoder_input_ids as calibration")
    labels = batch["input_ids"].to(model.device)
    return batch | {"decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels=labels).cpu()}


def _tokenizer_of(model: nn.Module) -> Any:
    from transformers import AutoTokenizer

    where = getattr(model.config, "_name_or_path", "")
    try:
        if where:
            return AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError):
        pass
    raise RunError(
        f"no tokenizer in the folder of the model ({where or 'it has no name'}): pass tokenizer=, or calibration as "
        "token ids"
    )


def _like(model: nn.Module, small: nn.Module) -> nn.Module:
    """`small` on the device of `model`, each tensor in the dtype that it has there; new ones in that of the first."""
    first = next(model.parameters())
    dtypes = {name: tensor.dtype for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    for name, tensor in (*small.named_parameters(), *small.named_buffers()):
        tensor.data = tensor.data.to(dtypes.get(name, first.dtype if tensor.is_floating_point() else tensor.dtype))
    return small.to(first.device)


def _lost(before: nn.Module, after: nn.Module) -> list[str]:
    """What of `after` a checkpoint in the layout of `before` would not hold: added tensors, modules with hooks."""
    hooks = {name: _hooks(module) for name, module in before.named_modules()}
    added = [name for name in after.state_dict() if name not in before.state_dict()]
    return added + [name for name, module in after.named_modules() if _hooks(module) > hooks.get(name, 0)]


def _hooks(module: nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def _no_saving(slug: str, lost: list[str]) -> Callable[..., None]:
    def save_pretrained(*_: Any, **__: Any) -> None:
        raise RunError(
            f"{slug} left parts in the model that a checkpoint cannot hold ({lost[0]}"
            f"{f' and {len(lost) - 1} more' if lost[1:] else ''}): what is read back would be another model"
        )

    return save_pretrained
