"""MatFormer: train one transformer whose feed-forward layers work at several widths, the narrow ones inside the wide.

    loss = sum over widths m of cross-entropy with the first m units of every feed-forward layer

All other weights are shared. After training any width of any layer may be taken ("Mix'n'Match"). Devvrit et al.,
arXiv 2310.07707; written from the abstracts and the authors' code, RAIVNLab/MatFormer-OLMo@4b96067, which adds up the
gradients of all widths {h, h/2, h/4, h/8} in each step; `per_step="one"` draws one of them instead.
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
    margin=0.01,
    method=Arm("matformer"),
    equal={"steps": 0.0, "tokens": 0.0},
    gap="Decoders of up to 2.6B parameters, trained on billions of tokens; here 295 thousand that read 200 kB at "
    "quick scale, 1 MB at full. So early in training a wide network is hardly better than a narrow one: trained alone, "
    "all units and an eighth of them were 2.8 % apart, of which the margin is a third, and to work at four widths "
    "strains a network little. Equal are steps and the bytes that each width reads; the one network takes as many "
    "passes as four separate ones together. Nothing is timed, tasks are not scored, encoders are not tested.",
    checks=(
        Check(
            claim="smallest-as-good-as-trained-alone",
            says="The network with an eighth of the units predicts text no more than 1 % worse than one of that width "
            "trained alone for as many steps (paper, first version: validation loss comparable to independently "
            "trained models; second: better).",
            metric="bits_eighth",
            baseline=Arm("separate-widths", sizes="0.125"),
            trivial=Arm("separate-widths", sizes="1"),
        ),
        Check(
            claim="half-as-good-as-trained-alone",
            says="So does that with half of the units, and a network with an eighth, trained alone, does not.",
            metric="bits_half",
            baseline=Arm("separate-widths", sizes="0.5"),
            trivial=Arm("separate-widths", sizes="0.125"),
        ),
        Check(
            claim="whole-as-good-as-trained-alone",
            says="So does the whole network, and one with an eighth of the units, trained alone, does not.",
            metric="bits_full",
            baseline=Arm("separate-widths", sizes="1"),
            trivial=Arm("separate-widths", sizes="0.125"),
        ),
        Check(
            claim="mixture-as-good-as-trained-alone",
            says="One mixture, chosen by hand: a quarter of the units in two layers, a half and all in the others, "
            "never trained so, predicts text no more than 1 % worse than that network trained alone (paper: hundreds "
            "of accurate models that were never optimised). A half in every layer, as many units, stands beside.",
            metric="bits_mixed",
            baseline=Arm("separate-widths", sizes="0.25:0.25:0.5:1"),
            trivial=Arm("separate-widths", sizes="0.125"),
            beside=(Arm("separate-widths", sizes="0.5"),),
        ),
        Check(
            claim="drafts-agree-more",
            says="The smallest and the whole network agree more than where both were trained alone, the whole ones "
            "within 1 % of one another: expected on real text, more drafts are accepted (paper: consistent sub-models "
            "make speculative decoding faster). Beside is what agrees at no merit: one network as both.",
            metric="acceptance",
            expect="higher",
            margin=0.02,
            baseline=Arm("separate-widths", sizes="1,0.125"),
            beside=(Arm("separate-widths", sizes="0.125"),),
            equal={"steps": 0.0, "tokens": 0.0, "whole": 0.01},
        ),
        Check(
            claim="drawn-smallest-as-good-as-trained-alone",
            says="Where each step trains one width, drawn at random: is the smallest network as good as in four "
            "separate ones of which each step trains one? Equal passes, a quarter of those above.",
            metric="bits_eighth",
            method=Arm("matformer", per_step="one"),
            baseline=Arm("separate-widths", per_step="one"),
            trivial=Arm("separate-widths", sizes="1"),
            equal={"steps": 0.0, "tokens": 0.0, "passes": 0.0},
            role="question",
        ),
        Check(
            claim="drawn-half-as-good-as-trained-alone",
            says="And that with half of the units, while a network with an eighth, trained as long, is not?",
            metric="bits_half",
            method=Arm("matformer", per_step="one"),
            baseline=Arm("separate-widths", per_step="one"),
            trivial=Arm("separate-widths", sizes="0.125,0.125,0.125,0.125", per_step="one"),
            equal={"steps": 0.0, "tokens": 0.0, "passes": 0.0},
            role="question",
        ),
        Check(
            claim="drawn-whole-as-good-as-trained-alone",
            says="And the whole network?",
            metric="bits_full",
            method=Arm("matformer", per_step="one"),
            baseline=Arm("separate-widths", per_step="one"),
            trivial=Arm("separate-widths", sizes="0.125,0.125,0.125,0.125", per_step="one"),
            equal={"steps": 0.0, "tokens": 0.0, "passes": 0.0},
            role="question",
        ),
    ),
    departs=(
        "the paper's text was not read, and its versions differ: the first one's abstract says comparable, of a model "
        "of 2.6B, the second's better, of 582M to 850M. The code sums all widths in each step; a summary by others has "
        "one width drawn a step, which the questions follow",
        "SwiGLU without biases for GELU with them, RMS norm for layer norm, keys and values of its own in each head "
        "for multi-query attention, rotary positions for ALiBi, bytes for subwords, a feed-forward layer of 4 times "
        "the width for 8, torch's usual first weights for those of deviation 0.02; the first units of gate, up and "
        "down are kept as those of both matrices are there",
        "AdamW without weight decay, its second beta 0.999, a linear fall of the rate to 0, which every arm chooses on "
        "validation data, and no clipping of gradients; there 0.01, 0.95, a cosine to a tenth, one rate and clipping",
        "separate networks begin with the same drawn weights, scaled as is usual for their width, and see the same "
        "batches, so that they agree more than independent ones would; those of a drawn step share one rate, as the "
        "nested one does",
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
        model.passes = len(model.sizes) if per_step == "all" else 1

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
