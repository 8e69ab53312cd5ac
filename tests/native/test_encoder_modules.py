"""Sentence encoders by what sentence-transformers keeps in their folders, beside its semantics written out in torch."""

import json

import numpy as np
import pytest
from serving import WORDS, encoder, served

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import save_file  # noqa: E402

from paperlab import engine  # noqa: E402
from paperlab.engine import EngineError, Layout  # noqa: E402

TEXTS = ["w1 w2 w3", "w7", " ".join(WORDS[:40]), "w9 w9 w2 w30 w1"]
KEYS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
PACKAGE = "sentence_transformers.models"


def states(folder, texts):
    """(tokens, width) double for each text, by transformers."""
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval().double()
    ids = engine.load(folder).tokens.encode_all(texts, 48)
    with torch.no_grad():
        return [model(torch.tensor([one])).last_hidden_state[0] for one in ids]


def pooled(state, name):
    """One vector of a text's states, (tokens, width), as sentence_transformers/models/Pooling.py has it."""
    n = len(state)
    weights = torch.arange(1, n + 1, dtype=state.dtype)[:, None]
    return {
        "cls": lambda: state[0],
        "max": lambda: state.max(0).values,
        "mean": lambda: state.sum(0) / n,
        "mean_sqrt_len_tokens": lambda: state.sum(0) / n**0.5,
        "weightedmean": lambda: (state * weights).sum(0) / weights.sum(),
        "lasttoken": lambda: state[-1],
    }[name]()


def wanted(folder, texts, names, after=lambda x: x):
    vectors = [after(torch.cat([pooled(state, name) for name in names])) for state in states(folder, texts)]
    return torch.stack(vectors).numpy()


def modules(folder, *listed):
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": kind if "." in kind else f"{PACKAGE}.{kind}"}
        for i, (kind, path) in enumerate(listed)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))


def pooling(folder, place="1_Pooling", *names, **more):
    (folder / place).mkdir(exist_ok=True)
    config = {"word_embedding_dimension": 32, **{key: name in names for name, key in KEYS.items()}, **more}
    (folder / place / "config.json").write_text(json.dumps(config))


def dense(folder, place, sizes, activation="torch.nn.modules.activation.Tanh", bias=True, seed=0, **more):
    """A Dense module; the same in torch."""
    torch.manual_seed(seed)
    layer = torch.nn.Linear(*sizes, bias=bias)
    config = {"in_features": sizes[0], "out_features": sizes[1], "bias": bias, "activation_function": activation}
    (folder / place).mkdir(exist_ok=True)
    (folder / place / "config.json").write_text(json.dumps({**config, **more}))
    save_file({f"linear.{k}": v.detach() for k, v in layer.state_dict().items()}, folder / place / "model.safetensors")
    act = getattr(torch.nn, activation.rpartition(".")[2])()
    return lambda x: act(layer.double()(x)).detach()


@pytest.fixture
def folder(tmp_path):
    return encoder(tmp_path / "small")


def close(mine, truth):
    assert mine.shape == truth.shape
    assert np.abs(mine - truth).max() / np.abs(truth).max() < 2e-5


@pytest.mark.parametrize("place", ["1_Pooling", "2_Pooling", "pool/first"])
@pytest.mark.parametrize(
    "names",
    [["cls"], ["max"], ["mean"], ["mean_sqrt_len_tokens"], ["weightedmean"], ["lasttoken"], ["mean", "cls"], [*KEYS]],
)
def test_poolings(folder, names, place):
    (folder / place).parent.mkdir(exist_ok=True)
    pooling(folder, place, *names)
    modules(folder, ("Transformer", ""), ("Pooling", place))
    truth = wanted(folder, TEXTS, [name for name in KEYS if name in names])
    model = engine.load(folder)
    assert model.width == 32 * len(names)
    close(model.embed(TEXTS, normalize=False), truth)
    close(model.embed(TEXTS), truth / np.linalg.norm(truth, axis=1, keepdims=True))
    assert (engine.load(folder, threads=2).embed(TEXTS) == np.concatenate([model.embed([t]) for t in TEXTS])).all()
    close(model.embed(TEXTS, pooling="lasttoken", normalize=False), wanted(folder, TEXTS, ["lasttoken"]))
    close(model.embed(TEXTS, pooling=["mean", "cls"], normalize=False), wanted(folder, TEXTS, ["cls", "mean"]))
    for odd in ("median", [], ["cls", "x"]):
        with pytest.raises(EngineError, match="pooling"):
            model.embed(TEXTS, pooling=odd)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"pooling_mode": "max"}, ["max"]),
        ({"pooling_mode": "Mean", "embedding_dimension": 32}, ["mean"]),
        ({"pooling_mode": ["mean", "cls"]}, ["cls", "mean"]),
        ({"word_embedding_dimension": 32}, ["mean"]),
        ({"pooling_mode_cls_token": True}, ["cls", "mean"]),  # its own default is the mean
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "include_prompt": False}, ["cls"]),
    ],
    ids=str,
)
def test_poolings_by_other_keys_and_defaults(folder, config, names):
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    for listed in (False, True):
        if listed:
            modules(folder, ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
        close(engine.load(folder).embed(TEXTS, normalize=False), wanted(folder, TEXTS, names))


@pytest.mark.parametrize("activation", ["Tanh", "ReLU", "GELU", "SiLU", "Sigmoid", "Identity"])
def test_a_dense_layer(folder, activation):
    pooling(folder, "1_Pooling", "mean", "max")
    package = "torch.nn.modules.linear" if activation == "Identity" else "torch.nn.modules.activation"
    layer = dense(folder, "2_Dense", (64, 24), f"{package}.{activation}", bias=activation != "ReLU")
    modules(folder, ("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_Normalize"))
    truth = wanted(folder, TEXTS, ["max", "mean"], layer)
    model = engine.load(folder)
    assert model.width == 24
    close(model.embed(TEXTS, normalize=False), truth)
    close(model.embed(TEXTS), truth / np.linalg.norm(truth, axis=1, keepdims=True))
    assert (model.embed(TEXTS * 3) == np.tile(np.concatenate([model.embed([t]) for t in TEXTS]), (3, 1))).all()
    assert model.embed([]).shape == (0, 24)
    with pytest.raises(EngineError, match="1 poolings; this model takes 2"):
        model.embed(TEXTS, pooling="cls")


def test_modules_in_their_order(folder):
    pooling(folder, "1_Pooling", "mean")
    first, second = dense(folder, "2_Dense", (32, 20)), dense(folder, "5_Dense", (20, 40), seed=1)
    unit = lambda x: x / x.norm()  # noqa: E731
    listed = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "n"), ("Dense", "2_Dense")]
    modules(folder, *listed, ("Dropout", "4_Dropout"), ("Normalize", "n"), ("Dense", "5_Dense"))
    truth = wanted(folder, TEXTS, ["mean"], lambda x: second(unit(first(unit(x)))))
    close(engine.load(folder).embed(TEXTS, normalize=False), truth)


def test_a_packed_and_an_exported_encoder_keep_their_modules(folder, tmp_path):
    pooling(folder, "2_Pooling", "max")
    dense(folder, "3_Dense", (32, 16))
    modules(folder, ("Transformer", ""), ("Pooling", "2_Pooling"), ("Dense", "3_Dense"))
    vectors = engine.load(folder).embed(TEXTS)
    engine.pack(folder, tmp_path / "p", Layout(8))
    engine.export(folder, tmp_path / "hf", "hf")
    assert np.abs(engine.load(tmp_path / "hf").embed(TEXTS) - vectors).max() < 1e-6
    assert (engine.load(tmp_path / "p").embed(TEXTS) * vectors).sum(1).min() > 0.99
    with served(tmp_path / "hf") as server, server.client() as client:
        out = client.embeddings.create(model="hf", input=TEXTS, encoding_format="float")
        np.testing.assert_allclose([one.embedding for one in out.data], vectors, atol=1e-6)


def test_prompts_lowering_and_length(folder):
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "w5 W6 ", "passage": ""}, "default_prompt_name": "query"})
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True, "max_seq_length": 10}))
    model = engine.load(folder)
    plain = encoder(folder.parent / "plain")
    (plain / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10}))
    other = engine.load(plain)
    assert other.longest == model.longest == 10
    assert (model.embed(["W1", " ".join(WORDS)]) == other.embed(["w5 w6 w1", "w5 w6 " + " ".join(WORDS)])).all()
    with served(folder) as server, server.client() as client:
        out = client.embeddings.create(model="small", input="W1", encoding_format="float")
        np.testing.assert_allclose(out.data[0].embedding, model.embed(["W1"])[0], atol=1e-7)
    (plain / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert engine.load(plain).longest == 48


REFUSED = {
    "LSTM": ([("Transformer", ""), ("LSTM", "1_LSTM"), ("Pooling", "1_Pooling")], {}, "the module LSTM"),
    "after": ([("Transformer", ""), ("Pooling", "1_Pooling"), ("LayerNorm", "2")], {}, "the module LayerNorm"),
    "own code": ([("custom_st.Transformer", ""), ("Pooling", "1_Pooling")], {}, r"the module custom_st\.Transformer"),
    "words": ([("Transformer", ""), ("WordWeights", "1"), ("Pooling", "1_Pooling")], {}, "the module WordWeights"),
    "no pooling": ([("Transformer", "")], {}, "names no Pooling"),
    "two": ([("Transformer", ""), ("Pooling", "1_Pooling"), ("Pooling", "1_Pooling")], {}, "the module Pooling"),
    "elsewhere": ([("Transformer", "0_Transformer"), ("Pooling", "1_Pooling")], {}, "has its Transformer in"),
    "outside": ([("Transformer", ""), ("Pooling", "../x")], {}, "a folder outside its own"),
    "missing": ([("Transformer", ""), ("Pooling", "7_Pooling")], {}, "is missing: nothing says"),
    "mode": (
        [("Transformer", ""), ("Pooling", "1_Pooling")],
        {"pooling_mode_new": True},
        "pooling_mode_new is not obeyed",
    ),
    "name": ([("Transformer", ""), ("Pooling", "1_Pooling")], {"pooling_mode": "median"}, "pooling 'median'"),
    "none": ([("Transformer", ""), ("Pooling", "1_Pooling")], {}, "asks for no pooling at all"),
    "pickled": ([("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "p")], {}, "pickled weights"),
    "sizes": (
        [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "wide")],
        {},
        "takes 48 numbers, and there are 32",
    ),
    "activation": (
        [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "odd")],
        {},
        "activation torch.* is not known",
    ),
    "other input": (
        [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "in")],
        {},
        "module_input_name is not obeyed",
    ),
    "prompt": ([("Transformer", ""), ("Pooling", "1_Pooling")], {"include_prompt": False}, "include_prompt false"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_obeyed_is_refused_by_name(folder, name):
    listed, config, message = REFUSED[name]
    pooling(folder, "1_Pooling", *(["mean"] if name != "none" else []), **config)
    modules(folder, *listed)
    dense(folder, "wide", (48, 16))
    dense(folder, "odd", (32, 16))
    odd = json.loads((folder / "odd" / "config.json").read_text()) | {"activation_function": "torch.nn.Softshrink"}
    (folder / "odd" / "config.json").write_text(json.dumps(odd))
    dense(folder, "in", (32, 16), module_input_name="token_embeddings")
    dense(folder, "p", (32, 16))
    (folder / "p" / "model.safetensors").rename(folder / "p" / "pytorch_model.bin")
    if name == "prompt":
        (folder / "config_sentence_transformers.json").write_text(
            json.dumps({"prompts": {"q": "w1"}, "default_prompt_name": "q"})
        )
    with pytest.raises(EngineError, match=message) as caught:
        engine.load(folder)
    assert "\n" not in str(caught.value)


def test_a_damaged_list_of_modules(folder):
    for text in ("{", "[1]", '[{"path": ""}]', "{}3"):
        (folder / "modules.json").write_text(text)
        with pytest.raises(EngineError, match="is no list of modules"):
            engine.load(folder)
    (folder / "modules.json").unlink()
    (folder / "config_sentence_transformers.json").write_text('{"default_prompt_name": "x", "prompts": {}}')
    with pytest.raises(EngineError, match="default prompt 'x' is not among its prompts"):
        engine.load(folder)


def test_the_lab_refuses_what_it_does_not_run(folder):
    from paperlab.assets.loading import ModelError, _pooling

    assert _pooling(folder) == "mean"
    pooling(folder, "2_Pooling", "cls")
    modules(folder, ("Transformer", ""), ("Pooling", "2_Pooling"), ("Normalize", "n"))
    assert _pooling(folder) == "cls"
    pooling(folder, "2_Pooling", "cls", "max")
    with pytest.raises(ModelError, match="pools by cls and max; mean and cls are known"):
        _pooling(folder)
    modules(folder, ("Transformer", ""), ("Pooling", "2_Pooling"), ("Dense", "3_Dense"))
    with pytest.raises(ModelError, match="names the module Dense"):
        _pooling(folder)
