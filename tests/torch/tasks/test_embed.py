"""Search with embeddings: pairs, splits, what arms share, a good arm against planted bad ones, the user's own data."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from paperlab.assets.pairs import MODULES, _pair, fold_groups, load_pairs
from paperlab.assets.texts import TextError
from paperlab.kit.embedding import Embedder, Labelled, Ladder, Pairs, in_batch, probe, ranks
from paperlab.kit.states import depths
from paperlab.lab.drivers.embed import build, tune
from paperlab.tasks import embed, embed_classify

TUNED = {"rate": 3e-3, "validation": {}}


def states(rows: int, seed: int) -> Pairs:
    """Pairs that share a hidden vector, which the last layer shows in coordinates 300 and up, mixed with noise."""
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 24, generator=draw)
    turn = torch.randn(2, 24, 384, generator=torch.Generator().manual_seed(1))
    turn[..., :300] *= 0.1
    sides = [hidden @ one + 2 * torch.randn(rows, 384, generator=draw) for one in turn]
    return Pairs(*(side[:, None] * torch.linspace(0.5, 1, 6)[:, None] for side in sides))


@pytest.fixture(scope="module")
def setting() -> embed.Setting:
    every = states(600, 0)
    return embed.Setting(every, torch.arange(600) % 20, 5, every, every, every, {}, 60, rates=(3e-3,))


def mrr(setting: embed.Setting, name: str, seed: int = 0, **functions: object) -> float:
    arm = build(functions, {}, setting=setting, seed=seed, tuned=TUNED)  # type: ignore[arg-type]
    rows = list(embed.score(arm, setting))
    assert len(rows) == embed.items(setting) == 1
    assert rows[0].keys() == embed.METRICS.keys()
    return rows[0][name]


def test_a_good_arm_beats_planted_bad_ones_and_shifted_seeds_show_the_floor(setting: embed.Setting) -> None:
    def loss(queries: Tensor, documents: Tensor) -> Tensor:
        return in_batch(queries, documents)

    def wrong(queries: Tensor, documents: Tensor) -> Tensor:
        return in_batch(queries, documents.roll(1, 0))

    def short(queries: Tensor, documents: Tensor) -> Tensor:
        return in_batch(queries[:, :16], documents[:, :16])

    one = embed.remake(setting, 0)
    good = mrr(one, "mrr", loss=loss)
    assert good == mrr(one, "mrr", loss=loss)
    assert good > mrr(one, "mrr", loss=wrong) + 0.05
    assert good > mrr(one, "mrr") + 0.05  # nothing trained
    assert mrr(one, "mrr_16", loss=short) > mrr(one, "mrr_16", loss=loss)
    assert 0 < abs(good - mrr(one, "mrr", seed=1, loss=loss)) < 0.1


def test_every_seed_has_its_own_test_part_and_no_group_on_two_sides(setting: embed.Setting) -> None:
    marked = replace(setting, pairs=Pairs(torch.arange(600)[:, None], torch.arange(600)[:, None]))
    seen: list[int] = []
    for seed in range(5):
        one = embed.remake(marked, seed)
        parts = [set((part.queries[:, 0] % 20).tolist()) for part in (one.train, one.validation, one.test)]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
        seen += one.test.queries[:, 0].tolist()
    assert sorted(seen) == list(range(600))


def test_the_path_begins_at_the_encoder_and_a_deep_exit_uses_what_lies_below() -> None:
    torch.manual_seed(0)
    path, x = Ladder(6, 16, 8, 0.5), torch.randn(3, 6, 16)
    assert torch.equal(path(x), x.transpose(0, 1))
    for layer in path.out:
        nn.init.normal_(layer.weight)
    path.eval()
    path(x)[2].sum().backward()
    used = [layer.weight.grad is not None and layer.weight.grad.abs().sum().item() > 0 for layer in path.out]
    assert used == [True, True, True, False, False, False]


def test_ranks_by_hand() -> None:
    documents = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    queries = torch.tensor([[2.0, 0.1], [1.0, 0.1], [1.0, 1.0]])
    assert ranks(queries, documents).tolist() == [1, 3, 1]
    assert ranks(torch.ones(3, 2), torch.ones(3, 2)).tolist() == [3, 3, 3]  # level: the right one stands last


def test_the_rate_is_the_one_that_finds_most_whatever_the_loss_says(setting: embed.Setting) -> None:
    one = replace(embed.remake(setting, 0), rates=(1e-6, 3e-3), steps=20)
    losses: list[float] = []

    def right(queries: Tensor, documents: Tensor) -> Tensor:
        return in_batch(queries, documents)

    def wrong(queries: Tensor, documents: Tensor) -> Tensor:
        value = -in_batch(queries, documents)
        losses.append(value.item())
        return value

    found = tune({"loss": right}, {}, setting=one)
    assert found["rate"] == 3e-3
    assert found["validation"]["0.003"] > found["validation"]["1e-06"]
    assert found == tune({"loss": right}, {}, setting=replace(one, test=one.train))  # no test item decides
    assert found != tune({"loss": right}, {}, setting=replace(one, validation=one.test))
    found = tune({"loss": wrong}, {}, setting=one)
    assert losses[39] < losses[19] - 0.1  # the high rate has the lower loss
    assert found["rate"] == 1e-6
    assert tune({}, {}, setting=one) == {"rate": 0.0, "validation": {}}


def test_what_the_rate_is_chosen_by_is_the_mean_over_layers_and_sizes(setting: embed.Setting) -> None:
    one = embed.remake(setting, 0)
    arm = build({}, {}, setting=one)
    (row,) = embed.score(arm, replace(one, test=one.validation))
    names = ["mrr", *(f"mrr_{size}" for size in (8, 16, 32, 64, 128, 256)), *(f"mrr_layer_{n}" for n in range(1, 6))]
    names += ["mrr_layer_1_16", "mrr_layer_2_32", "mrr_layer_3_64", "mrr_layer_4_128", "mrr_layer_5_256"]
    assert one.validate(arm) == pytest.approx(sum(row[name] for name in names) / 17)
    assert one.validate(arm) != pytest.approx(sum(next(embed.score(arm, one))[name] for name in names) / 17)


def test_functions_are_masked_and_split_by_module() -> None:
    pairs = load_pairs("functions")
    assert len(pairs) > 2000
    assert len(set(pairs.queries) | set(pairs.documents)) == 2 * len(pairs)
    assert set(pairs.groups) <= set(MODULES)
    assert all(document.startswith(("def function", "async def function", "@")) for document in pairs.documents)
    folds = fold_groups(pairs.groups, 20)
    assert len({(group, fold) for group, fold in zip(pairs.groups, folds, strict=True)}) == len(set(pairs.groups))
    sizes = [folds.count(fold) for fold in range(20)]
    assert max(sizes) < 1.5 * min(sizes)


def test_a_name_is_masked_in_both_texts() -> None:
    import ast

    source = '''def splice(rope, other):
    """Splice rope and other; splice returns the longer one."""
    if not rope:
        return other  # nothing to do
    return splice(rope[1:], other + rope[:1])
'''
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    found = _pair(node)
    assert found is not None
    query, document = found
    assert query == "Splice rope and other; function returns the longer one."
    assert "splice" not in document
    assert "nothing to do" not in document


def test_abstracts_and_a_user_s_own_pairs(tmp_path: Path) -> None:
    pairs = load_pairs("abstracts")
    assert len(pairs) > 1400
    assert all(len(title) < len(text) for title, text in zip(pairs.queries, pairs.documents, strict=True))
    file = tmp_path / "own.jsonl"
    rows = [{"query": f"question {n}", "document": f"answer {n}", "group": str(n // 2)} for n in range(80)]
    file.write_text("\n".join(map(json.dumps, [*rows, rows[0]])))
    mine = load_pairs(str(file))
    assert len(mine) == 80
    assert len(set(mine.groups)) == 40
    file.with_name("short.jsonl").write_text("\n".join(map(json.dumps, rows[:5])))
    with pytest.raises(TextError, match="at least 60"):
        load_pairs(str(tmp_path / "short.jsonl"))
    file.with_name("bad.jsonl").write_text('{"query": 3}')
    with pytest.raises(TextError, match=r"bad\.jsonl:1"):
        load_pairs(str(tmp_path / "bad.jsonl"))
    with pytest.raises(TextError, match="not there"):
        load_pairs(str(tmp_path / "none.jsonl"))


def test_a_record_names_model_and_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With an encoder of six small layers: what `make` gives, and the names that listings join with dots."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=50, hidden_size=288, num_hidden_layers=6, num_attention_heads=2, intermediate_size=16
    )
    encoder = BertModel(config, add_pooling_layer=False).eval()
    about = {"id": "small", "sha256": "x", "pooling": "mean"}

    def tokenizer(texts: list[str], **_: object) -> dict[str, Tensor]:
        ids = torch.tensor([[ord(letter) % 50 for letter in text[:8].ljust(8)] for text in texts])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(json.dumps({"query": f"{n} ask", "document": f"{n} say"}) for n in range(80)))
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path))
    monkeypatch.setattr(embed, "load_encoder", lambda name: (encoder, tokenizer, about))
    own = SimpleNamespace(id="own", texts=("a",) * 50, labels=("x", "y") * 25, sha256="z")
    monkeypatch.setattr(embed_classify, "labelled", lambda name: own)
    for module, data, size in ((embed, str(file), 80), (embed_classify, None, 50)):
        setting = module.make(1, "quick", data=data)
        told = module.describe(setting)
        assert told["model"] == "small"
        assert isinstance(told["data"]["id"], str)
        assert told["train"] + told["validation"] + told["test"] == size
        assert told["depths"] == [1, 2, 3, 4, 5, 6]
        arm = build({}, {}, setting=setting)
        assert set(module.AXES) <= module.totals(arm, setting).keys()


def test_depths() -> None:
    assert depths(6, 6) == (1, 2, 3, 4, 5, 6)
    assert depths(12, 6) == (2, 4, 6, 8, 10, 12)
    with pytest.raises(ValueError, match="deeper"):
        depths(3, 6)


# Classification


@pytest.fixture(scope="module")
def labelled() -> embed_classify.Setting:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(8, (500,), generator=draw)
    centres = torch.randn(8, 384, generator=draw)
    x = centres[labels] + 6 * torch.randn(500, 384, generator=draw)
    every = Labelled(x[:, None].repeat(1, 6, 1), labels)
    setting = embed_classify.Setting(every, 5, every, every, every, 8, {}, 60, rates=(3e-3,))
    return embed_classify.remake(setting, 0)


def test_classification_sees_training_and_wrong_labels(labelled: embed_classify.Setting) -> None:
    def loss(queries: Tensor, documents: Tensor) -> Tensor:
        return in_batch(queries, documents)

    def figures(setting: embed_classify.Setting, **functions: object) -> dict[str, float]:
        arm = build(functions, {}, setting=setting, tuned=TUNED)  # type: ignore[arg-type]
        (row,) = embed_classify.score(arm, setting)
        assert row.keys() == embed_classify.METRICS.keys()
        return row

    good = figures(labelled, loss=loss)
    spoilt = Labelled(labelled.train.texts, labelled.train.labels.roll(1))
    bad = figures(replace(labelled, train=spoilt), loss=loss)
    assert good["accuracy"] > bad["accuracy"] + 0.2
    assert good["accuracy_8"] > figures(labelled)["accuracy_8"]


def test_the_rate_of_a_classifier_is_chosen_by_accuracy_on_validation_texts(labelled: embed_classify.Setting) -> None:
    functions = {"loss": lambda queries, documents: in_batch(queries, documents)}
    one = replace(labelled, rates=(1e-6, 3e-3))
    found = tune(functions, {}, setting=one)
    arm = build(functions, {}, setting=one, tuned={"rate": 3e-3, "validation": {}})
    (row,) = embed_classify.score(arm, replace(one, test=one.validation))
    assert found["validation"]["0.003"] == row["accuracy_sizes"]
    assert found["rate"] == 3e-3
    assert found == tune(functions, {}, setting=replace(one, test=one.train))


def test_a_probe_is_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (200,), generator=draw)
    x = torch.randn(3, 5, generator=draw)[labels] + torch.randn(200, 5, generator=draw) * torch.linspace(0.5, 3, 5)
    scaled = (x - x.mean(0)) / x.std(0)
    theirs = LogisticRegression(C=1 / (2 * 200 * 1e-3), max_iter=500, tol=1e-8).fit(scaled.numpy(), labels.numpy())
    mine = probe(x, labels, 3, steps=200)(x).softmax(-1)
    torch.testing.assert_close(
        mine.double(), torch.tensor(theirs.predict_proba(scaled.numpy())).double(), atol=2e-3, rtol=0
    )


def test_an_arm_without_classifiers_of_its_own_is_probed(labelled: embed_classify.Setting) -> None:
    arm = Embedder(labelled.network().eval(), nn.Identity(), None, 0.0)
    assert list(embed_classify.score(arm, labelled)) == list(embed_classify.score(arm, labelled))
