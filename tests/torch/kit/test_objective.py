"""Divergences between logits by hand; shuffled windows; losses of decoders."""

import math
from itertools import islice

import pytest
import torch
from layout_models import inputs, make

from paperlab.kit import objective
from paperlab.kit.objective import kl, kl_top, shuffled


def test_kl_top_by_hand() -> None:
    teacher = torch.tensor([[math.log(3.0), 0.0, -5.0]])
    student = torch.tensor([[0.0, 0.0, 7.0]])  # the third logit is not among the teacher's two largest
    p, q = teacher.softmax(-1)[0, :2].tolist(), 1 / (2 + math.exp(7.0))  # over all three
    expected = sum(each * math.log(each / q) for each in p)
    assert kl_top(student, teacher, 2).item() == pytest.approx(expected, rel=1e-5)
    assert kl_top(student, teacher, 5).item() > 5
    assert kl_top(teacher, teacher, 2).item() == pytest.approx(0, abs=1e-7)


def test_kl_by_hand() -> None:
    teacher = torch.tensor([[[math.log(3.0), 0.0], [0.0, 0.0]]])
    student = torch.tensor([[[1.0, 1.0], [2.0, 2.0]]])  # both positions: one half each
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2  # the second position agrees
    assert kl(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert kl_top(student, teacher, 2).item() == pytest.approx(expected, rel=1e-5)


def test_shuffled_windows_are_all_met_before_one_comes_again() -> None:
    batches = [{"input_ids": torch.arange(5)[:, None]}, {"input_ids": torch.arange(5, 8)[:, None]}]
    draw = shuffled(batches, 2, torch.Generator().manual_seed(0))
    sizes, seen = [], []
    for batch in islice(draw, 5):  # 2 + 2 + 1 and 2 + 1 rows
        sizes.append(len(batch["input_ids"]))
        seen += batch["input_ids"].flatten().tolist()
    assert sorted(sizes) == [1, 1, 2, 2, 2]
    assert sorted(seen) == list(range(8))
    assert len(list(islice(draw, 5))) == 5


def test_a_decoder_s_loss_is_that_of_its_own_tokens() -> None:
    model = make("T5")
    labels = inputs("T5", 1, seed=0)[0]["decoder_input_ids"]
    shifted = model.prepare_decoder_input_ids_from_labels(labels=labels)
    batch = {"input_ids": labels.flip(1), "attention_mask": torch.ones_like(labels), "decoder_input_ids": shifted}
    last = labels.clone()
    last[:, -1] = -100  # what the last position predicts is not read again
    wanted = model(input_ids=labels.flip(1), labels=last).loss
    torch.testing.assert_close(objective.loss(model, batch, None), wanted)


def test_a_batch_without_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no text in the calibration data \(pixel_values\)"):
        objective.sample(inputs("ViT", 1, seed=0), 8)
