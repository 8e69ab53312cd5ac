"""Early exits in a speech recogniser, trained together from scratch: one model that can be left after any of them.

    L = sum over exits m of CTC(log_softmax(W_m h_m), transcript)      h_m: what the block before exit m leaves
    leave at the first exit that is sure enough: posterior of the transcript, or entropy of the frames, over a threshold

Exits weigh the same, and each has a linear map of its own. Wright, Cappellazzo, Zaiem, Desh Raj, Ondel Yang, Falavigna,
Ali and Brutti, arXiv 2309.09546. The authors' code for the Conformer, augustgw/early-exit-transformer@7adad07 (the two
rules: e8fbb92), and for the pretrained models, augustgw/wav2vec2-ee, were read; of the paper the abstract, and figures
of its tables as others cite them.
"""

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit import ctc
from paperlab.kit.embedding import sizes_from
from paperlab.kit.exits import stops
from paperlab.kit.tuning import Batch

HALF = 0.5  # of the steps: before exits are added to a model

CARD = Card(
    paper="early-exit-asr",
    family="elastic",
    sources=("code", "abstract"),
    task="asr",
    metric="error_6",
    expect="lower",
    margin=0.02,
    method=Arm("early-exit-asr"),
    baseline=Arm("early-exit-asr", exits="6"),
    equal={"steps": 0.0},
    gap="LibriSpeech, TED-LIUM and VoxPopuli, twelve Conformer layers of 31M parameters in all, subwords and a beam "
    "with a lexicon became strings of two to four digits, said by one synthetic voice in noise, six blocks of 0.2M, "
    "whole words and the best path; 12 minutes of speech. The 600 steps of quick scale are far from convergence: a "
    "model that starts to speak later looks worse there whatever it ends at, so that only the 6,000 of full decide "
    "between trainings. Pretrained models, wav2vec 2.0 and WavLM, of thousands of hours of other speech, and decoders "
    "with attention are not tested. Blocks are counted, not time; a rule's own cost is not.",
    checks=(
        Check(
            claim="last-exit-better-than-single-exit-model",
            least_scale="full",
            says="All six blocks of the model with exits make fewer errors than a model trained at its end alone "
            "(abstract: enhanced accuracy compared to single-exit models; on LibriSpeech test-clean / test-other 5.1 / "
            "15.1 against 6.5 / 17.7 % of words, Conformer-CTC, as cited by others. For wav2vec 2.0 tuned alike the "
            "authors' log has the reverse, 4.4 / 12.2 against 3.7 / 9.9).",
        ),
        Check(
            claim="four-blocks-on-the-mean-as-good-as-single-exit-six",
            least_scale="full",
            says="Left when the posterior is high enough, at four blocks of six on the mean, the model is no worse "
            "than the single-exit model with all six (abstract: performance is preserved with fewer encoder layers). "
            "Beside: a single-exit model of four blocks, which costs as much.",
            metric="error",
            expect="no worse",
            beside=(Arm("early-exit-asr", exits="4"),),
            trivial=Arm("early-exit-asr", exits="2"),
        ),
        Check(
            claim="posterior-no-worse-than-entropy",
            says="At four blocks on the mean, leaving by the posterior of the transcript makes no more errors than "
            "leaving by the entropy of the frames (abstract: an alternative to it).",
            metric="error",
            expect="no worse",
            baseline=Arm("early-exit-asr", choose="entropy"),
            trivial=Arm("early-exit-asr", choose="random"),
            beside=(Arm("early-exit-asr", choose="fixed"),),
            equal={"steps": 0.0, "layers": 0.02},
        ),
        Check(
            claim="four-blocks-better-than-single-exit-four",
            least_scale="full",
            says="Are four blocks of the model with exits better than a model of four blocks?",
            metric="error_4",
            baseline=Arm("early-exit-asr", exits="4"),
            role="question",
        ),
        Check(
            claim="first-exit-better-than-single-exit-model",
            least_scale="full",
            says="Are the first two better than a model of two? As cited by others, they are worse in the paper: 23.9 "
            "/ 43.8 against 17.6 / 36.1 %.",
            metric="error_2",
            baseline=Arm("early-exit-asr", exits="2"),
            role="question",
        ),
        Check(
            claim="exits-from-the-start-better-than-added",
            least_scale="full",
            says="At its two early exits, is it better than a model that half of the steps trained at its end alone, "
            "before exits were added? (abstract: better than fine-tuned pretrained models; Splitformer's card has at "
            "layers 2, 4 and 8 31.0 / 51.0, 11.7 / 27.8 and 7.9 / 21.2 % for the Conformer of this code, and WavLM "
            "ahead at layer 2, 28.0 / 48.5, and from layer 8 on.) Beside: the first model frozen.",
            metric="error_early",
            baseline=Arm("early-exit-asr", start="pretrained"),
            beside=(Arm("early-exit-asr", start="frozen"),),
            role="question",
        ),
    ),
    departs=(
        "the posterior is that of the best path's transcript, all its alignments summed, over all transcripts, which "
        "sum to 1; the authors normalise the scores of the N best of a beam, with a lexicon",
        "an utterance's entropy is the mean over its frames without padding, over its largest value; the authors' code "
        "scores utterances one by one, over frames times symbols, which orders the same",
        "one threshold for all exits, set so that the utterances at hand take a given number of blocks on the mean; "
        "how the paper sets it could not be read",
        "three exits behind six blocks for six behind twelve. Theirs read what their blocks' last norm leaves; a "
        "norm at each exit, tried later, let nothing be learned at quick (97 to 100 % errors) "
        "and was taken out again. And the depthwise kernel is 31 (3 here), feed-forward parts 8 times as wide "
        "(2), subsampling by 4 (8), with a length mask in the attention (none)",
        "added exits: pretraining is supervised, on the same strings, and the rate falls on from where it was; the "
        "last map is copied to all, as theirs, whose list is one module six times, so that theirs stay one, and ours "
        "part. Their release tunes a model that had been tuned with transcripts (wav2vec2-base-960h), its feature "
        "encoder frozen; here everything learns. The frozen arm is our catalogue's, not the paper's",
        "AdamW with a short warm-up and linear decay, the better of the task's two rates for the last exit, no decay "
        "of weights and no mean of checkpoints; theirs: Noam's schedule, decay of 5e-4, clip at 1 and average, "
        "and weights start as PyTorch's layers do, not by Xavier",
        "a Conformer without positions, batch norm or a norm behind each block (see the task); padding is heard as "
        "noise, and as in the authors' loss counts among the frames",
        "the task was set by the error of single-exit models on seed 100, which no record uses: 16 to 23 % of words, "
        "the less the deeper they are",
        "not blind: on that seed, at one rate, the model with exits had 21, 21 and 19 % "
        "errors at its exits, single-exit models of two and six blocks 19 and 17, exits added in the middle 19, 17 and "
        "17; after 2,400 steps 8.1 at the last exit, against 7.9. It had been behind in an earlier form of the task "
        "too (less noise, residual branches zero at first), also after 1,500 steps: 4.3 %, against 3.5 and 2.4",
    ),
)


class Objective(nn.Module):
    """model: a recogniser with `front(features)`, `blocks` and `output`; setting: loss(logits, labels), a figure for
    each utterance.

    exits: blocks from 1, rising, with commas; nothing: every second, and the last. One alone is a single-exit model,
    and has no blocks beyond it. start: whether all exits are trained from "scratch", or are added to a model that half
    of the steps trained at its last exit alone: "pretrained", which is then trained on with all, or "frozen". choose:
    who says, once it is trained, at which exit an utterance is left: the "posterior" of its transcript, the "entropy"
    of its frames, "random", the posterior's exits dealt out at random, or "fixed", the exits nearest to `layers`.
    layers: the most blocks on the mean of the utterances at hand.
    """

    def __init__(
        self, model: nn.Module, setting: Any, *, exits: str = "",
        start: Literal["scratch", "pretrained", "frozen"] = "scratch",
        choose: Literal["posterior", "entropy", "random", "fixed"] = "posterior", layers: float = 4.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if not all(hasattr(model, name) for name in ("front", "blocks", "output")):
            raise ValueError("exits are put behind the blocks of a recogniser, and this network is none")
        network: Any = model
        count = len(network.blocks)
        depths = sizes_from(exits, count) if exits.strip() else tuple(sorted({*range(2, count + 1, 2), count}))
        if layers < depths[0] and len(depths) > 1:
            raise ValueError(f"layers={layers}: at least the first exit, {depths[0]}")
        if start != "scratch" and len(depths) == 1:
            raise ValueError(f"start={start!r}: a model with one exit has none to add")
        self.setting, self.start = setting, start
        self.network = EarlyExits(network, depths, choose, layers)
        self.added = start == "scratch"

    def forward(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        """Features and labels -> the sum over exits of the CTC loss, the mean over utterances."""
        if self.start != "scratch" and share < HALF:
            return self.losses(self.network.exits(inputs["features"])[-1:], labels)
        if not self.added:
            self.network.copy_output()
            self.added = True
        if self.start != "frozen":
            return self.losses(self.network.exits(inputs["features"]), labels)
        with torch.no_grad():
            states = self.network.states(inputs["features"])
        return self.losses(self.network.read(states)[:-1], labels)

    def losses(self, told: list[Tensor], labels: Tensor) -> Tensor:
        """Logits of each exit -> their losses, summed with equal weights."""
        return torch.stack([self.setting.loss(logits, labels).mean() for logits in told]).sum()

    def result(self) -> nn.Module:
        """The network with its exits."""
        return self.network


class EarlyExits(nn.Module):
    """A recogniser up to its last exit, with a linear map to the symbols at each; the last is the network's own."""

    def __init__(self, model: Any, depths: tuple[int, ...], choose: str, layers: float) -> None:
        super().__init__()
        self.front, self.blocks = model.front, nn.ModuleList(list(model.blocks)[: depths[-1]])
        self.outputs = nn.ModuleList([*(fresh(model.output) for _ in depths[1:]), model.output])
        self.depths, self.choose, self.layers = depths, choose, layers

    def states(self, features: Tensor) -> list[Tensor]:
        """(n, frames, mels) -> what the block before each exit leaves, each (n, frames / 8, width)."""
        hidden, found = self.front(features), []
        for number, block in enumerate(self.blocks, 1):
            hidden = block(hidden)
            if number in self.depths:
                found.append(hidden)
        return found

    def read(self, states: list[Tensor]) -> list[Tensor]:
        """The states -> logits of each exit, each (n, frames / 8, symbols)."""
        return [output(state) for output, state in zip(self.outputs, states, strict=True)]

    def exits(self, features: Tensor) -> list[Tensor]:
        """Logits of each exit, the first first."""
        return self.read(self.states(features))

    def forward(self, features: Tensor) -> Tensor:
        """Logits of the last exit."""
        return self.exits(features)[-1]

    @torch.no_grad()
    def copy_output(self) -> None:
        """The last exit's map becomes that of all."""
        for output in self.outputs[:-1]:
            output.load_state_dict(self.outputs[-1].state_dict())

    @torch.no_grad()
    def policy(self, features: Tensor, frames: Tensor) -> Tensor:
        """(n, frames, mels), (n,) frames behind the front that are not padding -> (n, exits): the share that each exit
        gets of each utterance; rows sum to 1. One threshold for all exits, the highest with which these utterances take
        at most `layers` blocks on the mean; no label is looked at."""
        depths = torch.tensor(self.depths, dtype=torch.double)
        if self.choose == "fixed" or len(depths) == 1:
            return between(depths, self.layers).expand(len(features), -1)
        rule = ctc.certainty if self.choose == "entropy" else ctc.posterior
        parts = zip(features.split(100), frames.split(100), strict=True)
        sure = torch.cat([
            torch.stack([rule(logits.log_softmax(-1), lengths) for logits in self.exits(part)], 1)
            for part, lengths in parts
        ])  # fmt: skip
        shares = F.one_hot(first_sure(sure, depths, self.layers), len(depths)).double()
        return shares.mean(0).expand(len(features), -1) if self.choose == "random" else shares


def fresh(output: nn.Module) -> nn.Module:
    """Another exit of the same kind, newly drawn."""
    made: Any = copy.deepcopy(output)
    for module in made.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return made


def first_sure(sure: Tensor, depths: Tensor, layers: float) -> Tensor:
    """How sure (n, exits), depths (exits,) rising -> (n,): index of the first exit that reaches a threshold, else of
    the last; the highest threshold whose mean depth is at most `layers`, the lowest where none is."""

    thresholds = sure[:, :-1].flatten().unique()
    low, high = 0, len(thresholds) - 1
    while low < high:
        middle = (low + high + 1) // 2
        within = depths[stops(sure, thresholds[middle])].mean() <= layers
        low, high = (middle, high) if within else (low, middle - 1)
    return stops(sure, thresholds[low])


def between(depths: Tensor, layers: float) -> Tensor:
    """Exits (exits,), rising, and a number of blocks -> (exits,): shares of the two around it whose mean it is; of one
    end where it lies beyond."""
    wanted = min(max(layers, depths[0].item()), depths[-1].item())
    shares = torch.zeros_like(depths)
    upper = int((depths < wanted).sum())
    if depths[upper] == wanted:
        shares[upper] = 1.0
    else:
        shares[upper] = (wanted - depths[upper - 1]) / (depths[upper] - depths[upper - 1])
        shares[upper - 1] = 1 - shares[upper]
    return shares
