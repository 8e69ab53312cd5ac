"""MatFormer: train one transformer whose feed-forward layers work at several widths, the narrow ones inside the wide.

    loss = sum over widths m of cross-entropy with the first m units of every feed-forward layer

All other weights are shared. After training any width of any layer may be taken ("Mix'n'Match"). Devvrit et al.,
arXiv 2310.07707; written from the abstract and the authors' code, RAIVNLab/MatFormer-OLMo@4b96067, which adds up the
gradients of all widths {h, h/2, h/4, h/8} in each step; `per_step` may draw one of them instead.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.nested import Nested, sizes_of
from paperlab.kit.tuning import Batch

CARD = Card(
    family="elastic",
    paper="matformer",
    sources=("code", "abstract"),
    configuration="scripts/train.py --matformer_factor=8 with configs/pile-tiny.yaml",
    task="lm_nested",
    expect="no worse",
    margin=0.02,
    method=Arm("matformer"),
    equal={"steps": 0.0, "tokens": 0.0},
    gap="Decoders of up to 2.6B parameters, trained on billions of tokens; here 295 thousand that read 200 kB. So "
    "early in training a wide network is hardly better than a narrow one, and to work at four widths strains it "
    "little. Equal are steps and the bytes that each width reads; the one network takes four passes a step, as many as "
    "the four separate ones together. Nothing is timed, tasks are not scored, encoders of images are not tested.",
    checks=(
        Check(
            claim="smallest-as-good-as-trained-alone",
            says="The network with an eighth of the units predicts text no worse than one of that width trained alone "
            "for as many steps (paper: validation loss comparable to independently trained models).",
            metric="bits_eighth",
            baseline=Arm("separate-widths", sizes="0.125"),
            trivial=Arm("separate-widths", sizes="1"),
        ),
        Check(
            claim="half-as-good-as-trained-alone",
            says="So does that with half of the units.",
            metric="bits_half",
            baseline=Arm("separate-widths", sizes="0.5"),
            trivial=Arm("separate-widths", sizes="1"),
        ),
        Check(
            claim="whole-as-good-as-trained-alone",
            says="And the whole network.",
            metric="bits_full",
            baseline=Arm("separate-widths", sizes="1"),
            trivial=Arm("separate-widths", sizes="0.125"),
        ),
        Check(
            claim="mixture-as-good-as-trained-alone",
            says="A quarter of the units in two layers, a half and all in the others, never trained so, predict "
            "text no worse than that very network trained alone (paper: hundreds of accurate models that were never "
            "optimised).",
            metric="bits_mixed",
            baseline=Arm("separate-widths", sizes="0.25:0.25:0.5:1"),
            trivial=Arm("separate-widths", sizes="1"),
        ),
        Check(
            claim="drafts-accepted-more-often",
            says="Of what the smallest network drafts, the whole one accepts more than where both were trained alone "
            "(paper: consistent sub-models make speculative decoding faster).",
            metric="acceptance",
            expect="higher",
            baseline=Arm("separate-widths", sizes="1,0.125"),
        ),
        Check(
            claim="one-width-a-step",
            says="Is the smallest network no worse where each step trains one width, drawn at random, a quarter of the "
            "passes?",
            metric="bits_eighth",
            method=Arm("matformer", per_step="one"),
            baseline=Arm("matformer"),
            trivial=Arm("separate-widths", sizes="1"),
            role="question",
        ),
    ),
    departs=(
        "SwiGLU without biases for a layer of GELU with biases, rotary positions for ALiBi; the first units of gate, "
        "up and down are kept as those of both matrices are there",
        "AdamW without weight decay, a linear fall of the rate, which every arm chooses on validation data, and no "
        "clipping of gradients; there 0.01, a cosine, one rate and clipping of their sum",
        "a separately trained network begins with weights of the size that is usual for its width",
    ),
)


class Objective(nn.Module):
    """model: a `kit.nested.Nested`. sizes: as `kit.nested.sizes_of` reads them. per_step: "all" of them, or "one"."""

    def __init__(
        self,
        model: nn.Module,
        setting: Any,
        *,
        sizes: str = "1,0.5,0.25,0.125",
        per_step: Literal["all", "one"] = "all",
    ) -> None:
        super().__init__()
        if not isinstance(model, Nested):
            raise ValueError("matformer trains a decoder whose feed-forward layers can be cut, and this is none")
        self.model, self.per_step = model, per_step
        model.sizes = sizes_of(sizes, len(model.layers))

    def forward(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        """The sum of the cross-entropies of all sizes, or that of one."""
        sizes = self.model.sizes
        if self.per_step == "one":
            sizes = (sizes[int(torch.randint(len(sizes), ()))],)
        terms = [self.model.at(size)(inputs["ids"]) for size in sizes]
        return torch.stack([F.cross_entropy(logits.flatten(0, 1), labels.flatten()) for logits in terms]).sum()

    def result(self) -> nn.Module:
        """The network, which holds all others."""
        return self.model
