"""ECO-M2F: a small gate looks at the image and says how many layers of the encoder it needs.

    A   train the network to be left after any layer:  L = (k / K) L_k,  k drawn for each image, one shared decoder
    B   for each training image the depth  k* = argmax_k  q_k - beta * k,     q_k: quality of its masks after k layers
    C   fit a linear gate on the mean of the features that enter the first layer to say k* (cross-entropy)

For another balance of quality and cost only B and C are done again. Yao, Aich, Suh, Roy-Chowdhury, Shelton and
Chandraker, "Efficient transformer encoders for Mask2Former-style models", arXiv 2404.15244. Code read:
GYeow/ECO-M2F@291f1e1 (mask2former: maskformer_model.py, modeling/criterion.py, modeling/pixel_decoder/).
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
    sources=("abstract", "code"),
    configuration="configs/ecom2f_swin_tiny_beta_0.02_coco.yaml",
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
            "mixed at random, of the same network.",
            baseline=Arm("eco-m2f", choose="fixed"),
            ablation=Arm("eco-m2f", choose="random"),
            beside=(Arm("eco-m2f", choose="agreement"), Arm("eco-m2f", choose="confidence")),
            equal={"steps": 0.0, "layers": 0.001},
        ),
        Check(
            claim="fewer-layers-at-kept-quality",
            says="Where a layer costs little, the gate's masks are as good as those of the same network trained and "
            "used at all its layers (README, COCO: 52.06 PQ at 202 GFLOPs with beta 0.0005, 50.79 at 182 with 0.02).",
            expect="no worse",
            method=Arm("eco-m2f", beta=0.0005),
            baseline=Arm("fixed-depth"),
            trivial=Arm("fixed-depth", depth=1),
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
        "the paper's text was seen in its abstract only; the rest is from the code, in which step A is left as the "
        "factor on losses alone: the number of the layer after which the batch was left",
        "a depth is drawn evenly for each image in a batch; how the authors draw it is not in the code",
        "all depths from 1 to 6; the authors' encoder stops after layer 2 at the earliest",
        "the gate has hard targets, as the code says of the paper's main method; the released one has soft ones",
        "the gate is a logistic regression, fitted to its end, on 1,000 scenes of the digits that trained the network; "
        "the authors' is trained by gradient steps on features of the lowest resolution",
        "quality is the mean IoU of the classes in a scene, not panoptic quality; beta has the released COCO values",
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

    beta: what a layer costs, in quality, at least 0. choose: who says the depth: "gate"; or, with the gate's mean
    number of layers, "fixed", one depth for all (two mixed), "random", its depths dealt out at random, "confidence" and
    "agreement", the first depth whose masks are sure enough, or enough like those of the depth before.
    """

    def __init__(
        self, model: nn.Module, setting: Any, *, beta: float = 0.02,
        choose: Literal["gate", "fixed", "random", "confidence", "agreement"] = "gate",
    ) -> None:  # fmt: skip
        super().__init__()
        if beta < 0:
            raise ValueError(f"beta={beta}: a layer costs nothing or more")
        self.model = layered(model)
        self.setting, self.beta, self.choose = setting, beta, choose

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
        gate = probe(features, best_depth(quality, self.beta), len(self.model.layers))
        return Gated(self.model, gate, self.choose)


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
