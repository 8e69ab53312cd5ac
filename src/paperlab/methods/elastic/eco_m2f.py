"""ECO-M2F: a small gate looks at the image and says how many layers of the encoder it needs.

    A   train the network to be left after any layer:  L = (k / K) L_k,  k drawn for each image, one shared decoder
    B   for each training image the depth  k* = argmax_k  q_k - beta * k,     q_k: quality of its masks after k layers
    C   fit a linear gate on the mean of the features that enter the first layer to say k* (cross-entropy)

For another balance of quality and cost only B and C are done again. Yao, Aich, Suh, Roy-Chowdhury, Shelton and
Chandraker, "Efficient transformer encoders for Mask2Former-style models", arXiv 2404.15244. Of the paper only the
abstract could be read. The code, GYeow/ECO-M2F@291f1e1, has the targets of B and the training of C, but not A:
its weight k / K is our guess, so that the card counts as written from the abstract, and no verdict says "fails".
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.embedding import probe
from paperlab.kit.exits import SURE, Exits, at_each_depth, first_sure, layered
from paperlab.kit.tuning import Batch

CARD = Card(
    paper="eco-m2f",
    family="elastic",
    sources=("abstract",),
    task="image_segmentation",
    metric="quality",
    expect="higher",
    margin=0.02,
    method=Arm("eco-m2f"),
    equal={"steps": 0.0},
    gap="Panoptic segmentation of COCO and Cityscapes by Mask2Former with pretrained Swin backbones became the class "
    "of each pixel in scenes of one to three noisy digits, 20 x 20 pixels, an encoder of six residual convolutions in "
    "place of deformable attention, and 300 steps. That a new balance needs only the gate is so by construction and "
    "not measured. Detection is not tested. Layers of the encoder are counted, not the gate, backbone or decoder.",
    checks=(
        Check(
            claim="gate-better-than-one-depth-for-all",
            says="Choosing the depth for each image makes better masks than one depth for all at the same mean number "
            "of layers (abstract: in place of a one-size-fits-all approach). One depth: the two nearest to that mean, "
            "mixed at random, of the same network, which was trained to be left anywhere. Beside: networks trained at "
            "one depth alone; and the gate's depths dealt out at random, worse than one depth by concavity already.",
            baseline=Arm("eco-m2f", choose="fixed"),
            beside=(
                Arm("fixed-depth", depth=2),
                Arm("fixed-depth", depth=3),
                Arm("fixed-depth", depth=4),
                Arm("eco-m2f", choose="random"),
            ),
            equal={"steps": 0.0, "layers": 0.001},
        ),
        Check(
            claim="fewer-layers-at-kept-quality",
            says="With four layers of six on the mean, the gate's masks are no worse than those of the same network "
            "trained and used at all its layers (abstract: less computation at kept quality). Beta is the least with "
            "which the gate takes so few on the training scenes. Beside: four layers for all.",
            expect="no worse",
            method=Arm("eco-m2f", layers=4.0),
            baseline=Arm("fixed-depth"),
            trivial=Arm("fixed-depth", depth=1),
            beside=(Arm("eco-m2f", layers=4.0, choose="fixed"), Arm("fixed-depth", depth=4)),
        ),
        Check(
            claim="gate-better-than-stopping-when-sure",
            says="Is the gate, which looks once and before the first layer, better than stopping at the first depth "
            "whose masks hardly differ from those of the depth before, at no more layers?",
            baseline=Arm("eco-m2f", choose="agreement"),
            beside=(Arm("eco-m2f", choose="confidence"),),
            equal={"steps": 0.0, "layers": 0.02},
            role="question",
        ),
    ),
    departs=(
        "step A is a guess: that images are left at depths drawn evenly, each weighing k / K. The code has no such "
        "step. Its forward pass, where the gate is trained, multiplies all losses, the gate's too, by the layer's "
        "number plus 2 (`encoder.i_exit` counts the two ungated layers already), one for the whole batch",
        "all depths from 1 to 6; the authors' encoder stops after layer 2 at the earliest",
        "the gate has hard targets and cross-entropy, which the code has as a comment; as released, the loss is the "
        "mean squared error of soft targets and of softmax(gates, dim=0), which runs over the images of a batch",
        "the gate is a logistic regression, fitted to its end, on 1,000 scenes of the digits that trained the network; "
        "the authors' is trained by gradient steps on features of the lowest resolution, with all else frozen "
        "(train_net.py at 31989c5), as here",
        "quality is the mean IoU of the classes in a scene, not panoptic quality; beta is that of a released COCO "
        "configuration, 0.02, or is found for a number of layers, which no code of the authors does; the number is "
        "kept to on the training scenes, others may take a little more (4.04 for 4 on validation scenes of seed 100)",
        "not blind: one seed's test figures, of seed 0, which records use, were seen before the checks were last "
        "changed. The four layers were set later, before any run with them",
        "stopping when sure: the threshold is set on the scenes that are judged, without their labels, so that no more "
        "layers are taken than by the gate; its decoder runs at each depth, and is not counted",
        "every arm starts from a network that was trained at all its layers",
        "scenes, network and the measures of sureness were set on validation scenes of seed 100, which no record uses: "
        "with attention, with larger scenes or without a start the digits were not learnt in 300 steps; confidence "
        "over all pixels, or over those of digits, did worse than agreement",
    ),
)


class Objective(nn.Module):
    """model: a network with `embed(images)`, `layers` and `decode(hidden, pixels)`; setting: train (a Split of images
    and labels for steps B and C), loss and quality (logits, labels), each a figure for an image.

    beta: what a layer costs, in quality, at least 0. layers: in its place, the most layers that the gate may take on
    the mean of `train`, at least 1; 0 for none said. choose: who says the depth: "gate"; or, with the gate's mean
    number of layers, "fixed", one depth for all (two mixed), "random", its depths dealt out at random, "confidence" and
    "agreement", the first depth whose masks are sure enough, or enough like those of the depth before.
    """

    def __init__(
        self, model: nn.Module, setting: Any, *, beta: float = 0.02, layers: float = 0.0,
        choose: Literal["gate", "fixed", "random", "confidence", "agreement"] = "gate",
    ) -> None:  # fmt: skip
        super().__init__()
        if beta < 0:
            raise ValueError(f"beta={beta}: a layer costs nothing or more")
        if layers and layers < 1:
            raise ValueError(f"layers={layers}: at least 1; 0 where beta says what a layer costs")
        self.model = layered(model)
        self.setting, self.beta, self.most, self.choose = setting, beta, layers, choose

    def forward(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        """Images and the class of each pixel (n, side, side) -> the loss of a batch, a scalar; each image is left after
        a layer of its own, and weighs as the number of that layer."""
        count = len(self.model.layers)
        depth = torch.randint(1, count + 1, (len(labels),))
        hidden, pixels = self.model.embed(inputs["images"])
        left = torch.zeros_like(hidden)
        for number, layer in enumerate(self.model.layers[: int(depth.max())], 1):
            on = depth >= number  # the others have left, and cost nothing
            hidden = torch.zeros_like(hidden).index_put((on,), layer(hidden[on]))
            left = torch.where((depth == number)[:, None, None, None], hidden, left)
        return (depth / count * self.setting.loss(self.model.decode(left, pixels), labels)).mean()

    def result(self) -> nn.Module:
        """Steps B and C: the network with its gate."""
        (images,), labels = self.setting.train.inputs, self.setting.train.labels
        quality = torch.cat([
            torch.stack([self.setting.quality(logits, truth) for logits in at_each_depth(self.model, part)], 1)
            for part, truth in zip(images.split(250), labels.split(250), strict=True)
        ])  # fmt: skip
        with torch.no_grad():
            features = self.model.embed(images)[0].mean((2, 3))
        if self.most:
            gate = within(features, quality, self.most)
        else:
            gate = probe(features, best_depth(quality, self.beta), quality.shape[1])
        return Gated(self.model, gate, self.choose)


def within(features: Tensor, quality: Tensor, most: float, *, halvings: int = 12) -> nn.Linear:
    """Features (n, width), quality (n, depths), 0 to 1 -> the gate of the least beta with which it takes at most so
    many layers on the mean. Found by halving: a gate need not take fewer as beta grows, but the one given does."""
    low, high = 0.0, 1.0  # at 1 no further layer is worth its cost
    found = probe(features, best_depth(quality, high), quality.shape[1])
    for _ in range(halvings):
        middle = (low + high) / 2
        gate = probe(features, best_depth(quality, middle), quality.shape[1])
        with torch.no_grad():
            fits = gate(features).argmax(1).double().mean().item() + 1 <= most
        low, high, found = (low, middle, gate) if fits else (middle, high, found)
    return found


def best_depth(quality: Tensor, beta: float) -> Tensor:
    """Quality (n, depths) -> (n,): index of the depth that is worth most, each further layer costing beta."""
    return (quality - beta * torch.arange(quality.shape[1])).argmax(1)


class Gated(Exits):
    """A network whose layers share a decoder, and what says for each image how many of them it gets."""

    def __init__(self, model: Any, gate: nn.Linear, choose: str = "gate") -> None:
        super().__init__(model, tuple(range(1, len(model.layers) + 1)))
        self.gate, self.choose = gate, choose

    def forward(self, images: Tensor) -> Tensor:
        """(n, 1, side, side) -> logits (n, classes, side, side), each image at the depth with its largest share."""
        logits, depth = torch.stack(at_each_depth(self.model, images)), self.policy(images).argmax(1)
        return logits[depth, torch.arange(len(images))]

    @torch.no_grad()
    def policy(self, images: Tensor) -> Tensor:
        """(n, depths): the share that each depth gets of each image; rows sum to 1. All but "gate"
        look at all images that they are called with, so that they take as many layers as the gate."""
        count = len(self.layers)
        gate = F.one_hot(self.gate(self.embed(images)[0].mean((2, 3))).argmax(1), count).double()
        mean = (gate.sum(0) @ torch.arange(count, dtype=torch.double)).item() / len(images)
        if self.choose == "fixed":
            return two_nearest(mean, count).expand(len(images), -1)
        if self.choose == "random":
            return gate.mean(0).expand(len(images), -1)
        if self.choose in SURE:
            parts = [SURE[self.choose](at_each_depth(self.model, part)) for part in images.split(250)]
            return F.one_hot(first_sure(torch.cat(parts), mean), count).double()
        return gate


def two_nearest(mean: float, count: int) -> Tensor:
    """A mean index 0 to count - 1 -> (count,): shares of the two indices around it that have this mean."""
    return (1 - (torch.arange(count, dtype=torch.double) - mean).abs()).clamp(min=0)
