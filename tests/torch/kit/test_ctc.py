"""CTC against all alignments written out, edits against another library, how sure a network is worked by hand."""

import itertools
import random

import pytest
import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from paperlab.kit import ctc


def log_probs(count: int, frames: int, symbols: int) -> Tensor:
    logits = torch.randn(count, frames, symbols, generator=torch.Generator().manual_seed(0)).double()
    return (2 * logits).log_softmax(-1)


def transcript(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)


def everything(one: Tensor) -> dict[tuple[int, ...], float]:
    """The probability of each transcript: of all paths (frames, symbols) that give it."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(one.shape[1]), repeat=one.shape[0]):
        probability = one[range(one.shape[0]), path].sum().exp().item()
        found[transcript(path)] = found.get(transcript(path), 0.0) + probability
    return found


def test_the_probability_of_labels_is_that_of_all_their_alignments() -> None:
    told = log_probs(3, 5, 3)
    labels = torch.tensor([[1, 2, 0], [1, 1, 2], [2, 0, 0]])
    for found, one, row in zip(ctc.nats(told, labels).exp(), told, labels.tolist(), strict=True):
        assert 1 / found.item() == pytest.approx(everything(one)[tuple(s for s in row if s)])


def test_the_posterior_is_of_the_best_paths_transcript_among_all_transcripts() -> None:
    told = log_probs(6, 5, 3)
    for found, one in zip(ctc.posterior(told, torch.full((len(told),), told.shape[1])), told, strict=True):
        every = everything(one)
        assert sum(every.values()) == pytest.approx(1)  # so that no beam has to be normalised
        assert found.item() == pytest.approx(every[transcript(tuple(one.argmax(-1).tolist()))])


def test_nothing_said_has_a_posterior_too() -> None:
    told = torch.tensor([[[0.9, 0.1], [0.8, 0.2]]]).log()
    assert ctc.best_path(told).tolist() == [[0, 0]]
    assert ctc.posterior(told, torch.full((len(told),), told.shape[1])).item() == pytest.approx(0.72)


def test_the_best_path_merges_repeats_and_drops_blanks() -> None:
    path = torch.tensor([[1, 1, 0, 1, 2, 2, 0], [0, 0, 0, 0, 0, 0, 3], [3, 2, 3, 3, 0, 0, 3]])
    told = torch.nn.functional.one_hot(path, 4).double().add(1e-3).log()
    assert ctc.best_path(told).tolist() == [[1, 1, 2, 0, 0, 0, 0], [3] + 6 * [0], [3, 2, 3, 3, 0, 0, 0]]


def test_edits_are_the_levenshtein_distance_of_another_library() -> None:
    draw = random.Random(0)
    for _ in range(300):
        one, other = ([draw.randrange(1, 4) for _ in range(draw.randrange(0, 7))] for _ in range(2))
        assert ctc.edits(one, other) == Levenshtein.distance(one, other)


def test_words_wrong_are_counted_without_padding() -> None:
    path = torch.tensor([[1, 0, 2, 2], [3, 0, 0, 0]])
    told = torch.nn.functional.one_hot(path, 4).double().add(1e-3).log()
    assert ctc.wrong(told, torch.tensor([[1, 2, 0], [1, 2, 3]])).tolist() == [0, 2]


def test_certainty_is_one_less_the_share_of_the_largest_entropy() -> None:
    told = torch.tensor([[[0.25] * 4, [0.25] * 4], [[0.25] * 4, [0.5, 0.5, 1e-12, 1e-12]]]).log()
    torch.testing.assert_close(ctc.certainty(told, torch.tensor([2, 2])), torch.tensor([0.0, 0.25]))
