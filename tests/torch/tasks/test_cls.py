"""Fine-tuning classifiers: the lower blocks run once, splits, good and bad arms, teachers, and what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from text_settings import WORDS, encoder, make_small
from torch import Tensor, nn

from paperlab.assets.labelled import Labelled
from paperlab.kit.classifier import Classifier, Given, Teacher, padded, states_after, upper
from paperlab.kit.tuning import Tuned
from paperlab.lab.drivers.finetune import build
from paperlab.methods.pruning.masking_finetuning import adapter
from paperlab.tasks import cls, cls_distill


def texts(name: str) -> Labelled:
    """Good where "good" comes before "bad": the order of words decides, which no average of them knows."""
    draw = torch.Generator().manual_seed(sum(map(ord, name)))
    found: dict[str, str] = {}
    while len(found) < 800:
        words = [WORDS[i] for i in torch.randint(2, len(WORDS), (6,), generator=draw).tolist()]
        first, second = sorted(torch.randperm(6, generator=draw)[:2].tolist())
        good = bool(torch.rand(1, generator=draw) < 0.5)
        words[first], words[second] = ("good", "bad") if good else ("bad", "good")
        found[" ".join(words)] = "good" if good else "bad"
    return Labelled(name, tuple(found), tuple(found.values()), name)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_small(monkeypatch, tmp_path, texts)
    monkeypatch.setattr(cls, "TEACHER_RATE", 3e-3)
    monkeypatch.setitem(cls.TEACHER_STEPS, "quick", 150)
    monkeypatch.setitem(cls.STEPS, "quick", 150)
    monkeypatch.setitem(cls.RATES, "quick", (3e-3,))


def share(model: nn.Module, setting: cls.Setting) -> float:
    (row,) = cls.score(Tuned(model, 0.0), setting)
    return row["correct"]


def test_blocks_that_were_run_before_say_what_the_whole_encoder_says() -> None:
    whole = encoder()
    rows = [[1, 4, 5], [1, 6, 7, 8, 9], [1, 3]]
    states = states_after(whole, rows, (2, 4))
    ids, mask = padded(rows)
    with torch.no_grad():
        known = whole(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        for depth in (2, 4):
            cut = upper(whole, depth)
            said = cut(inputs_embeds=states[depth].of(torch.arange(3), 5), attention_mask=mask).last_hidden_state
            assert ((said - known.last_hidden_state) * mask[..., None]).abs().max() < 5e-3  # half precision
    assert isinstance(upper(whole, 2).embeddings, Given)
    assert len(whole.encoder.layer) == 6
    assert whole.config.num_hidden_layers == 6


def test_a_head_on_the_mean_of_tokens_ignores_padding() -> None:
    model = Classifier(encoder(num_hidden_layers=2), 3).eval()
    alone = model(*padded([[1, 4, 5]])).logits
    beside = model(*padded([[1, 4, 5], [1, 4, 5, 6, 7, 8]])).logits[:1]
    torch.testing.assert_close(alone, beside)
    assert model(*padded([[1, 4]])).hidden_states is None
    assert len(model(*padded([[1, 4]]), output_hidden_states=True).hidden_states) == 3


def test_splits_are_disjoint_whole_and_drawn_by_the_seed() -> None:
    made = [cls.make(seed, "quick", data="movie-reviews") for seed in range(5)]
    for one in made:
        parts = torch.cat([one.train, one.validation, one.test])
        assert torch.equal(parts.sort().values, torch.arange(800))
        assert int(one.shifted.min()) == 800
    tests = torch.cat([one.test for one in made])
    assert torch.equal(tests.sort().values, torch.arange(800))
    assert torch.equal(cls.remake(made[0], 3).train, made[3].train)


def test_a_good_arm_beats_a_planted_bad_one_and_the_probe() -> None:
    setting = cls.make(0, "quick", data="movie-reviews")

    def wrong(student: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(student, labels.roll(1))

    before = setting.model.get_parameter("head.weight").clone()
    good = build({}, {}, setting=setting, seed=0)
    bad = build({"loss": wrong}, {}, setting=setting, seed=0)
    assert share(good.model, setting) > 0.85
    assert share(setting.model, setting) < 0.75
    assert share(bad.model, setting) < 0.75
    assert torch.equal(setting.model.get_parameter("head.weight"), before)
    again = build({}, {}, setting=setting, seed=0)
    assert list(cls.score(again, setting)) == list(cls.score(good, setting))  # A/A: the floor is zero
    told = cls.totals(good, setting)
    whole = sum(p.numel() for p in encoder().parameters()) + 2 * 33
    assert told["parameters"] == whole
    assert told["trained"] < whole / 2
    assert told["bytes"] == 4 * whole
    assert told["bytes_per_task"] == 4 * told["trained"]
    masks = build({"adapter": adapter}, {}, setting=setting, seed=0, tuned={"rate": 0.0, "validation": {}})
    told = cls.totals(masks, setting)
    assert told["bytes_per_task"] == told["trained"] / 8
    assert told["bytes"] == 4 * whole + told["bytes_per_task"]


def test_a_student_has_half_the_blocks_and_a_teacher_that_was_tuned() -> None:
    setting = cls_distill.make(1, "quick", data="movie-reviews")
    assert (setting.depth, setting.frozen) == (3, 1)
    assert isinstance(setting.teacher, Teacher)
    assert setting.pretrained is not None
    assert share(setting.teacher, setting) > 0.85 > share(setting.pretrained, setting)
    inputs, _ = next(setting.batches(1))
    assert setting.teacher.known[inputs["rows"]].isfinite().all()
    assert not setting.teacher.known[setting.test].isfinite().any()
    looked_up = setting.teacher(**inputs).logits
    computed = setting.teacher(**inputs, output_hidden_states=True)
    torch.testing.assert_close(looked_up, computed.logits, atol=1e-4, rtol=1e-4)
    assert len(computed.hidden_states) == 7
    again = cls_distill.make(1, "quick", data="movie-reviews")  # from the cache
    assert isinstance(again.teacher, Teacher)
    assert torch.equal(again.teacher.known.nan_to_num(), setting.teacher.known.nan_to_num())


def test_general_texts_have_no_labels_and_are_none_of_the_others() -> None:
    setting = cls.make(0, "quick", data="movie-reviews")
    draws: Iterator[dict[str, Any]] = setting.general(0)
    assert int(next(draws)["rows"].min()) >= 1600


def test_a_file_of_labelled_lines(tmp_path: Path) -> None:
    known = texts("movie-reviews")
    file = tmp_path / "own.txt"
    file.write_text("\n".join(f"{label} {text}" for label, text in zip(known.labels, known.texts, strict=True)))
    setting = cls.make(0, "quick", data=str(file))
    assert setting.corpus.names == ("bad", "good")
    assert len(setting.shifted) == 0
    assert set(next(iter(cls.score(Tuned(setting.model, 0.0), setting)))) == {"correct", "nats"}
    with pytest.raises(ValueError, match="no such file"):
        cls.make(0, "quick", data=str(tmp_path / "absent.txt"))
    file.write_text("one two\n" * 3)
    with pytest.raises(ValueError, match="at least 100 lines"):
        cls.make(0, "quick", data=str(file))


def test_pooling_that_is_neither_is_refused() -> None:
    with pytest.raises(ValueError, match="'mean' or 'cls'"):
        Classifier(encoder(num_hidden_layers=2), 2, "max")
