"""Robust weight signatures: add to a clean network's first layers what another one learnt from corrupted images.

    a = theta_clean - theta_0        b_c = theta_c - theta_0             of one layer, as vectors; theta_0: the start
    signature_c = b_c - (a . b_c / a . a) a                              what is not clean training's own direction
    theta' = theta + lambda mean_c signature_c                           in the first layers; the others stay

theta may be another network that went on from theta_0, tuned on other data: the patch is carried over.

Cai, Zhang and Wang, "Robust weight signatures", arXiv 2302.12480; written from the authors' code (`model_patching.py`,
`tools.py`, github VITA-Group/Robust_Weight_Signatures @ 4c796da).
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    paper="robust-weight-signatures",
    family="merging",
    sources=("abstract", "code"),
    configuration="model_patching.py --keep_num 7 --alpha 1 (7 of VGG-16's 13 convolutions)",
    task="merge_robust",
    metric="robust_accuracy",
    expect="higher",
    margin=0.02,
    data="other",
    equal={"bytes": 0.0},
    method=Arm("robust-weight-signatures"),
    baseline=Arm("robust-weight-signatures", scale=0.0),
    ablation=Arm("robust-weight-signatures", project=False),
    gap="The paper patches VGG-16 and ResNet-50, pretrained on ImageNet, with the usual corruptions of CIFAR-10, "
    "CIFAR-100 and Tiny ImageNet. Here networks of 18 thousand weights on digits of 8 x 8 pixels, three corruptions, "
    "and the other data set is the other five digits. Not tested: the storage of a signature (13 x less), which needs "
    "its quantization, and continual updates of the patched network.",
    checks=(
        Check(
            claim="carried-to-other-data",
            says="A clean network is better on corrupted images once it is patched with a signature from other data.",
            beside=(Arm("robust-weight-signatures", layers=4),),
        ),
        Check(
            claim="on-its-own-data",
            says="A clean network is better on corrupted images once it is patched with a signature from its own data.",
            data="own",
        ),
        Check(
            claim="several-added-up",
            says="Signatures of three corruptions, added up with a factor chosen on validation images, make it better "
            "on the three.",
            data="several",
        ),
        Check(
            claim="clean-accuracy-kept",
            says="Does the patched network keep its accuracy on clean images?",
            metric="clean_accuracy",
            expect="no worse",
            role="question",
        ),
    ),
    departs=(
        "two of four layers are patched, about the share of the authors' seven of thirteen convolutions",
        "no batch normalisation, as in the authors' VGG-16; their ResNet-50 estimates its statistics anew on corrupted "
        "training images",
        "the start has seen 200 images of all ten digits, also of the other data set's; the authors' was pretrained "
        "elsewhere",
        "the paper's table also has a network trained with data augmentation, which is not here",
        "several signatures are averaged, then scaled; the code divides by their number twice",
        "signatures are not quantized",
    ),
)

UNTUNED = 1.0


def merge(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    layers: int = 2,
    project: bool = True,
    scale: float | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Weights by name of the start, and of the models -> (name, patched tensor), one tensor at a time.

    models: the one to be patched, a clean one, then one or more that were tuned like it on corrupted data; of two, the
    first is both patched and the clean one. layers: how
    many are patched, from the input on; a layer is what has a matrix or kernel called *.weight, and its bias. project:
    take out clean training's direction. scale: lambda; none: what the driver finds on validation data where there is
    any, else 1. Raises ValueError for fewer than two models, or less than one layer.
    """
    if len(models) < 2:
        raise ValueError("one model: give the clean one to patch, and at least one that was tuned on corrupted data")
    if layers < 1:
        raise ValueError(f"layers={layers}: at least the first one is patched")
    factor = UNTUNED if scale is None else scale
    patched, clean, *robust = models if len(models) > 2 else (models[0], *models)
    shallow = [name.removesuffix("weight") for name in base if name.endswith("weight") and base[name].dim() > 1][
        :layers
    ]
    for name in base:
        tensor = patched[name].float()
        if name.removesuffix("weight").removesuffix("bias") in shallow:
            start = base[name].float()
            own = (clean[name].float() - start).flatten() if project else torch.zeros(start.numel())
            total = sum(signature((model[name].float() - start).flatten(), own) for model in robust)
            tensor = tensor + factor / len(robust) * torch.as_tensor(total).reshape(start.shape)
        yield name, tensor


def signature(change: Tensor, own: Tensor) -> Tensor:
    """(n,) `change` without its part along `own`, (n,)."""
    length = own @ own
    return change - (own @ change / length if length > 0 else 0) * own
