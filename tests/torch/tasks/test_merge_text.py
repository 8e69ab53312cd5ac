"""Merging tuned encoders, on a small random encoder and made-up texts: splits, the cache, good arms and planted bad
ones, what `apart` and `sweep` keep apart, and the judges that methods may ask for."""

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from paperlab.assets.labelled import Labelled
from paperlab.core.card import Arm
from paperlab.lab.arms import build_arm
from paperlab.lab.drivers._common import silent
from paperlab.tasks import merge_text as task

KINDS = {
    "movie-reviews": ("bad", "good"), "amazon-reviews": ("bad", "good"), "sms": ("ham", "spam"),
    "questions": ("HUM:ind", "LOC:city", "NUM:date"),
}  # fmt: skip
WORDS = [f"w{i}" for i in range(60)]


def made_up(name: str) -> Labelled:
    """Texts whose label shows in two thirds of their words."""
    draw, kinds = random.Random(name), KINDS[name]
    texts, labels = [], []
    for number in range(300):
        kind = number % len(kinds)
        first = 20 * (sorted(KINDS).index(name) % 3) + 6 * kind
        own = WORDS[first : first + 6]
        texts.append(" ".join(draw.choice(own if draw.random() < 0.66 else WORDS) for _ in range(draw.randint(4, 12))))
        labels.append(kinds[kind])
    return Labelled(name, tuple(texts), tuple(labels), f"{name} made up")


def encoder(name: str) -> tuple[Any, Any, dict[str, Any]]:
    torch.manual_seed(0)
    config: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64}
    model = BertModel(BertConfig(num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=64, **config))
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    return model.eval(), fast, {"id": "tiny", "sha256": "tiny"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("siblings")


@pytest.fixture
def make(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., task.Setting]:
    monkeypatch.setenv("PAPERLAB_HOME", str(home))
    monkeypatch.setattr(task, "load_encoder", encoder)
    monkeypatch.setattr(task, "labelled", made_up)
    for name, value in {"TEST": 60, "VALIDATION": 40, "TRAIN": {"quick": 200}, "RATE": 3e-3, "LARGE": 1e-2}.items():
        monkeypatch.setattr(task, name, value)
    monkeypatch.setattr(task, "SWEEP", ((1e-3, 1), (3e-3, 1), (3e-3, 2)))
    return lambda seed=0, data=None: task.make(seed, "quick", data=data)


def build(arm: Arm, setting: task.Setting) -> Any:
    return build_arm(arm, "merge_text", setting, 0, silent)


def figure(arm: Arm, setting: task.Setting, key: str = "correct") -> float:
    rows = list(task.score(build(arm, setting), setting))
    assert len(rows) == task.items(setting)
    return sum(row[key] for row in rows) / len(rows)


def test_test_texts_are_the_same_for_all_seeds_and_in_no_other_split(make: Callable[..., task.Setting]) -> None:
    one, two = make(0), make(1)
    for first, second in zip(one.parts, two.parts, strict=True):
        assert torch.equal(first.test.states, second.test.states)
        assert not torch.equal(first.validation.states, second.validation.states)
        rows = torch.cat([first.test.states, first.validation.states, first.unlabelled.states]).flatten(1)
        assert len(rows.unique(dim=0)) == len(rows)


def test_good_arms_beat_planted_bad_ones(make: Callable[..., task.Setting]) -> None:
    apart, together = make(data="apart"), make()
    whole, base = (figure(Arm("task-arithmetic", scale=scale), apart) for scale in (1.0, 0.0))
    assert whole > base + 0.2
    assert figure(Arm("task-arithmetic", scale=-1.0), apart) < whole - 0.2
    assert abs(figure(Arm("dare-super-mario", sparsity=0.5), apart) - whole) < 0.1
    assert figure(Arm("dare-super-mario", sparsity=0.1, of="weights"), apart) < whole
    assert figure(Arm("task-arithmetic"), together) > figure(Arm("task-arithmetic", scale=0.0), together) + 0.1
    assert build(Arm("task-arithmetic"), together).scale in task.SCALES


def test_apart_each_task_is_read_by_its_own_blocks(make: Callable[..., task.Setting]) -> None:
    apart, alone = make(data="apart"), make(data="questions")
    assert [part.top for part in apart.parts] == list(task.TASKS)
    mine = apart.models[0].tops["questions"].state_dict()
    assert all(torch.equal(mine[name], value) for name, value in alone.models[0].tops["all"].state_dict().items())
    assert figure(Arm("task-arithmetic", scale=1.0), apart, "correct_questions") == figure(
        Arm("task-arithmetic", scale=1.0), alone
    )
    assert len(apart.models) == 1
    assert not apart.scales


def test_a_larger_rate_moves_the_model_farther(make: Callable[..., task.Setting]) -> None:
    near, far = (task.describe(make(data=data))["mean_change"] for data in ("movie-reviews", "movie-reviews-large"))
    assert far > 1.5 * near


def test_the_sweep_is_judged_on_another_domain_and_merges_heads(make: Callable[..., task.Setting]) -> None:
    sweep = make(data="sweep")
    assert len(sweep.models) == 3
    heads = [model.heads["movie-reviews"].weight for model in (sweep.base, *sweep.models)]
    assert all(not torch.equal(heads[0], head) for head in heads[1:])
    assert sweep.parts[0].head is None
    soup, best = build(Arm("model-soups"), sweep), build(Arm("best-single"), sweep)
    scores = [sweep.validate(model) for model in sweep.models]
    assert sweep.validate(best.model) == max(scores)
    assert sweep.validate(soup.model) >= max(scores)
    assert set(next(task.score(soup, sweep))) >= {"wrong", "wrong_shifted", "correct", "nats"}


def test_distance_is_nothing_for_the_tuned_model_and_grows(make: Callable[..., task.Setting]) -> None:
    setting = make(data="questions")
    assert setting.distance(setting.models[0]) == 0
    half = build(Arm("task-arithmetic", scale=0.5), setting).model
    assert 0 < setting.distance(half) < setting.distance(setting.base)


def test_scores_can_be_resumed_and_siblings_are_trained_once(
    make: Callable[..., task.Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = make()
    arm = build(Arm("uniform-average"), setting)
    rows = list(task.score(arm, setting))
    assert list(task.score(arm, setting, start=50)) == rows[50:]
    assert task.totals(arm, setting)["models"] == 3
    assert task.totals(build(Arm("task-arithmetic", scale=0.0), setting), setting)["density"] == 0
    monkeypatch.setattr(task, "_tune", lambda *_: pytest.fail("trained again"))
    again = make()
    for one, two in zip(setting.models, again.models, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_other_data_and_other_models_are_refused(
    make: Callable[..., task.Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="apart"):
        make(data="news")
    monkeypatch.setattr(task, "load_encoder", lambda name: (SimpleNamespace(), None, {}))
    with pytest.raises(ValueError, match="BERT's layout"):
        make()
