"""Models beside their source: against torch in float32, and what must be exactly nothing or be refused."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from test_models import SMALL, logits_of, make  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from tokenizers.models import WordLevel  # noqa: E402
from tokenizers.pre_tokenizers import Split, Whitespace  # noqa: E402
from tokenizers.processors import TemplateProcessing  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from paperlab import engine  # noqa: E402
from paperlab.assets.models import model_folder  # noqa: E402
from paperlab.assets.texts import load_text, split_documents  # noqa: E402
from paperlab.cli import app  # noqa: E402
from paperlab.engine.measure import compare, size_of  # noqa: E402
from paperlab.engine.native import EngineError  # noqa: E402
from paperlab.engine.packing.container import Weights, write  # noqa: E402

WINDOW = 24
STREAM = np.random.default_rng(5).integers(3, 517, 40 * WINDOW).tolist()
HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "compare_models.md"


def words(folder, first="w", *, start=False, characters=False):
    """A tokenizer for a small model: words of one kind, the unknown word for all others, or single characters."""
    names = ["<unk>", "<s>", "</s>", *(chr(i) if characters else f"{first}{i}" for i in range(3, SMALL["vocab_size"]))]
    made = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, "<unk>"))
    made.pre_tokenizer = Split("", "isolated") if characters else Whitespace()
    if start:
        made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>").save_pretrained(folder)


def text_of(ids):
    return " ".join(f"w{i}" for i in ids)


def perturbed(folder, out, size=0.02):
    """The same model with a little noise on its weights; in float32 as transformers loads it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += size * parameter.data.std() * torch.randn_like(parameter)
    model.save_pretrained(out)
    for file in folder.glob("tokenizer*"):
        shutil.copyfile(file, out / file.name)
    return model


def by_torch(truth, other, windows, first=1):
    """Perplexities, KL by token (windows, tokens) and flips of two models, in double precision."""
    nats, kl, flips = [[], []], [], []
    for ids in windows:
        a, b = (
            torch.tensor(logits_of(model, ids)).double().log_softmax(-1)[first - 1 : -1] for model in (truth, other)
        )
        for sums, part in zip(nats, (a, b), strict=True):
            sums.append(-part.gather(1, torch.tensor(ids[first:])[:, None]).mean().item())
        kl.append(torch.nn.functional.kl_div(b, a, reduction="none", log_target=True).sum(1).numpy())
        flips.append((a.argmax(1) != b.argmax(1)).double().mean().item())
    return [math.exp(np.mean(sums)) for sums in nats], np.array(kl), np.array(flips), np.array(nats)


@pytest.mark.parametrize("logits", [13_000_000, 517 * 10])  # the whole window, and ten tokens at a time
@pytest.mark.parametrize("start", [False, True])
def test_a_known_perturbation_gives_what_torch_computes(start, logits, tmp_path, monkeypatch):
    monkeypatch.setattr("paperlab.engine.measure._LOGITS", logits)
    model = make(tmp_path / "a")
    words(tmp_path / "a", start=start)
    other = perturbed(tmp_path / "a", tmp_path / "b")
    documents = [text_of(STREAM[:100]), text_of(STREAM[100:])]
    found = compare(tmp_path / "a", [tmp_path / "b"], documents, tokens=20 * WINDOW, window=WINDOW, generate=3)
    length = WINDOW - start
    windows = [[1] * start + STREAM[i * length : (i + 1) * length] for i in range(20)]
    perplexity, kl, flips, nats = by_torch(model, other, windows)
    [one] = found.models
    assert (found.items, found.window, found.tokens) == (20, WINDOW, 20 * (WINDOW - 1))
    assert found.source.perplexity.value == pytest.approx(perplexity[0], rel=1e-5)
    assert one.perplexity.value == pytest.approx(perplexity[1], rel=1e-5)
    assert one.change.value == pytest.approx(perplexity[1] / perplexity[0] - 1, rel=1e-3, abs=1e-6)
    assert one.kl.value == pytest.approx(kl.mean(), rel=1e-3)
    assert one.kl_p99 == pytest.approx(np.quantile(kl, 0.99), rel=1e-3)
    assert one.flips.value == pytest.approx(flips.mean())
    assert 0 < one.kl.low < one.kl.value < one.kl.high
    assert one.change.low < one.change.value < one.change.high
    spread = (nats[1] - nats[0]).std(ddof=1) / math.sqrt(20)  # t and bootstrap-t of 20 windows are close to this
    assert one.change.high - one.change.low == pytest.approx(2 * 2.093 * spread, rel=0.35)
    assert one.same_tokens
    assert min(one.scoring, one.generating, found.source.generating) > 0


def test_the_shipped_model_against_transformers(tmp_path):
    folder, _ = model_folder("abstracts-lm")
    truth = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    engine.pack(folder, tmp_path / "packed", engine.Layout(4, 32, False))
    engine.export(tmp_path / "packed", tmp_path / "hf", "hf")
    small = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    documents = split_documents(load_text("abstracts"), "held-out")[:2]
    stream = [i for text in documents for i in [*tokenizer(text)["input_ids"], 0]]
    windows = [stream[i * 128 : (i + 1) * 128] for i in range(3)]
    perplexity, kl, flips, _ = by_torch(truth, small, windows)
    found = compare(folder, [tmp_path / "packed", tmp_path / "hf"], documents, tokens=384, window=128, generate=0)
    assert found.source.perplexity.value == pytest.approx(perplexity[0], rel=1e-4)
    exact = found.models[1]  # the same weights as floats: activations are not rounded on their way
    assert exact.perplexity.value == pytest.approx(perplexity[1], rel=1e-4)
    assert exact.kl.value == pytest.approx(kl.mean(), rel=1e-3)
    assert exact.flips.value == pytest.approx(flips.mean(), abs=1.01 / 381)
    assert found.models[0].perplexity.value == pytest.approx(perplexity[1], rel=2e-3)
    assert found.models[0].kl.value == pytest.approx(kl.mean(), rel=0.05)
    assert 5 < found.models[0].bits_per_weight < 5.1  # 4 bits, a scale and a minimum of 16 bits for 32 columns
    assert found.models[0].bytes == (tmp_path / "packed" / "model.safetensors").stat().st_size
    assert math.isnan(found.models[0].generating)


def test_an_identical_model_changes_exactly_nothing(tmp_path):
    make(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    found = compare(tmp_path / "a", [tmp_path / "b", engine.load(tmp_path / "b")], [STREAM], window=WINDOW, generate=2)
    for one in found.models:
        assert (one.kl.value, one.kl.low, one.kl.high, one.kl_p99) == (0, 0, 0, 0)
        assert (one.change.value, one.change.low, one.change.high) == (0, 0, 0)
        assert (one.flips.value, one.flips.low) == (0, 0)
        assert one.flips.high < 4 / found.tokens * 1.1
        assert one.perplexity == found.source.perplexity
        assert not one.worse_than(0)
    assert math.isnan(found.source.kl.value)


def test_gguf_and_shards_are_measured_alike(tmp_path):
    model = make(tmp_path / "a", hidden_size=96)
    engine.export(tmp_path / "a", tmp_path / "a.gguf", "gguf", dtype="F32")
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    found = compare(tmp_path / "a", [tmp_path / "a.gguf", tmp_path / "shards"], [STREAM], window=WINDOW, generate=0)
    for one in found.models:
        assert one.kl.value < 1e-9
        assert one.bits_per_weight == pytest.approx(32, rel=0.05)
    assert size_of(tmp_path / "a.gguf")[0] == (tmp_path / "a.gguf").stat().st_size
    assert size_of(tmp_path / "shards")[0] == sum(f.stat().st_size for f in (tmp_path / "shards").glob("*.safetensors"))


def test_other_tokens_are_compared_in_bits_per_byte(tmp_path):
    model = make(tmp_path / "a", bos_token_id=None)
    words(tmp_path / "a", start=True)
    perturbed(tmp_path / "a", tmp_path / "same")
    letters = make(tmp_path / "c", seed=3)
    words(tmp_path / "c", characters=True)
    document = text_of(STREAM)
    found = compare(tmp_path / "a", [tmp_path / "same", tmp_path / "c"], [document], tokens=160, window=16, generate=0)
    slices = [document[i * 64 : (i + 1) * 64] for i in range(10)]
    same, other = found.models
    assert (same.same_tokens, other.same_tokens) == (True, False)
    assert same.kl.value > 0
    assert math.isnan(other.kl.value)
    bits = []
    for one, start in ((model, [1]), (letters, [])):
        folder = tmp_path / ("a" if one is model else "c")
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        nats = 0.0
        for part in slices:
            ids = [*start, *tokenizer(part, add_special_tokens=False)["input_ids"]]
            logs = torch.tensor(logits_of(one, ids)).double().log_softmax(-1)
            nats -= logs[:-1].gather(1, torch.tensor(ids[1:])[:, None]).sum().item()
            nats += 0 if start else math.log(517)
        bits.append(nats / math.log(2) / 640)
    assert found.source.bits_per_byte.value == pytest.approx(bits[0], rel=1e-5)
    assert other.bits_per_byte.value == pytest.approx(bits[1], rel=1e-5)
    tokens = found.tokens / 640  # of the source, for a byte
    assert found.source.perplexity.value == pytest.approx(2 ** (bits[0] / tokens), rel=1e-5)
    assert other.change.value == pytest.approx(2 ** ((bits[1] - bits[0]) / tokens) - 1, rel=1e-4)


def encoder(folder, seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = transformers.BertConfig(vocab_size=517, max_position_embeddings=128, **sizes)
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    model.save_pretrained(folder)
    words(folder)
    return model


def test_encoders_by_cosine_and_neighbours(tmp_path):
    model = encoder(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    noisy = transformers.BertModel.from_pretrained(tmp_path / "a", add_pooling_layer=False).eval()
    torch.manual_seed(2)
    for parameter in noisy.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    noisy.save_pretrained(tmp_path / "c")
    words(tmp_path / "c")
    documents = [text_of(STREAM[i * 9 : i * 9 + 9 + i % 5]) for i in range(40)]
    found = compare(tmp_path / "a", [tmp_path / "b", tmp_path / "c"], documents, tokens=40 * 8, window=8)
    assert (found.kind, found.items, found.tokens) == ("encoder", 40, 320)
    same, other = found.models
    assert (same.cosine.value, same.cosine.low, same.neighbours.value) == (1, 1, 1)
    vectors = []
    for one in (model, noisy):
        with torch.no_grad():
            states = [one(torch.tensor([STREAM[i * 9 : i * 9 + 8]])).last_hidden_state[0].mean(0) for i in range(40)]
        vectors.append(torch.nn.functional.normalize(torch.stack(states).double(), dim=1))
    cosine = (vectors[0] * vectors[1]).sum(1)
    assert other.cosine.value == pytest.approx(cosine.mean().item(), abs=1e-5)
    top = [set() for _ in range(80)]
    for m, unit in enumerate(vectors):
        alike = (unit @ unit.T).fill_diagonal_(-2)
        for i, row in enumerate(alike.topk(10).indices.tolist()):
            top[m * 40 + i] = set(row)
    shared = np.mean([len(top[i] & top[40 + i]) / 10 for i in range(40)])
    assert other.neighbours.value == pytest.approx(shared, abs=0.003)
    assert other.neighbours.low < shared < other.neighbours.high < 1
    with pytest.raises(EngineError, match=r"makes 7 texts .* needs 20"):
        compare(tmp_path / "a", [], documents[:7], window=128)


def damaged(folder, out, name):
    """A model with a NaN in one of its tensors."""
    shutil.copytree(folder, out)
    weights = Weights(folder)
    tensors = {name: (weights.kind(name), np.array(weights.raw(name))) for name in weights.names()}
    tensors[name][1].flat[0] = np.nan
    write(out / "model.safetensors", tensors, {})


def test_bad_input_is_refused_in_one_sentence(tmp_path):
    make(tmp_path / "a")
    words(tmp_path / "a")
    damaged(tmp_path / "a", tmp_path / "nan", "model.layers.0.mlp.down_proj.weight")
    damaged(tmp_path / "a", tmp_path / "norm", "model.norm.weight")
    make(tmp_path / "other", vocab_size=99)
    encoder(tmp_path / "bert")
    (tmp_path / "text.txt").write_text(text_of(STREAM))
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "short.txt").write_text("w3 w4 w5")
    a, text = str(tmp_path / "a"), str(tmp_path / "text.txt")
    for arguments, message in (
        ([a, str(tmp_path / "nowhere")], "no such folder"),
        ([a, text], "text.txt"),
        ([a, "--data", str(tmp_path / "nowhere.txt")], "is not there"),
        ([a, "--data", str(tmp_path / "empty.txt")], "is empty"),
        ([a, "--data", str(tmp_path / "short.txt")], "the text has 3 tokens, and one window takes 256"),
        ([a, str(tmp_path / "nan"), "--data", text], "nan gives logits that are not finite"),
        ([a, str(tmp_path / "norm"), "--data", text], "norm: model.norm.weight holds NaN"),
        ([a, str(tmp_path / "bert"), "--data", text], "bert is an encoder and"),
        ([str(tmp_path / "bert"), a, "--data", text], "is a language model and"),
        ([a, "--data", text, "--window", "300"], "reads at most 256 tokens"),
        ([a, "--data", text, "--within", "200%"], "such as 2%"),
        ([a, "--data", text, "-o", "report.pdf"], "ends in .html"),
        ([a, "--data", text, "-o", str(tmp_path / "no" / "r.html")], "there is no folder"),
        (
            [str(tmp_path / "bert"), "--data", text, "--window", "8", "--within", "2%"],
            "an encoder, which has no perplexity",
        ),
    ):
        done = CliRunner().invoke(app, ["eval", "-q", *arguments])
        assert done.exit_code == 2, (arguments, done.output)
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    for texts, message in (
        ([[3] * 300, [600] * 300], "600"),
        ("text", "in a list"),
        ([], "empty"),
    ):
        with pytest.raises(EngineError, match=message):
            compare(a, [], texts, generate=0)
    with pytest.raises(EngineError, match="different sizes"):
        compare(a, [tmp_path / "other"], [STREAM])
    with pytest.raises(EngineError, match="no tokenizer"):
        compare(tmp_path / "other", [], ["a text"])


@pytest.fixture
def pair(tmp_path):
    """A folder of a model, one of the same with much noise, and a text."""
    make(tmp_path / "a")
    words(tmp_path / "a")
    # What the model itself says: for it the text is likely, so noise makes it worse.
    model = engine.load(tmp_path / "a")
    ids = list(model.generate_ids([5], max_tokens=200, temperature=1.0, ignore_end=True, seed=1))
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": text_of(ids)}))
    perturbed(tmp_path / "a", tmp_path / "b", size=0.5)
    return tmp_path


def test_the_command_warns_and_gates(pair):
    command = [
        "eval",
        str(pair / "b"),
        "--against",
        str(pair / "a"),
        "--data",
        str(pair / "text.jsonl"),
        "--window",
        "20",
    ]
    done = CliRunner().invoke(app, [*command, "--json", "-o", str(pair / "r.json")])
    assert done.exit_code == 0, done.output
    source, row = json.loads(done.stdout)
    assert (source["source"], row["source"], row["model"]) == (True, False, str(pair / "b"))
    assert row["change_low"] > 0.02
    assert row["kl_low"] > 0
    assert source["kl"] is None
    assert f"warning: {pair / 'b'} is worse than {pair / 'a'} by more than 2 %" in done.stderr
    kept = json.loads((pair / "r.json").read_text())
    assert kept["models"] == [source, row]
    assert kept["data"]["part"] == "all"
    gated = CliRunner().invoke(app, [*command, "--within", "2%", "-o", str(pair / "r.html")])
    assert gated.exit_code == 1
    assert gated.stderr.strip().splitlines()[-1] == f"paperlab: worse than {pair / 'a'} by more than 2 %: {pair / 'b'}"
    assert "KL, nats/token" in gated.stdout
    page = (pair / "r.html").read_text()
    assert "<script" not in page
    assert page.count("<tr id=") == 2
    assert str(pair / "b") in page
    between = f"{(row['change_low'] + row['change']) / 2:.4f}"
    unsure = CliRunner().invoke(app, [*command, "--within", between])
    assert unsure.exit_code == 0
    assert f"undecided: the perplexity of {pair / 'b'} may be worse" in unsure.stderr
    alone = CliRunner().invoke(app, [*command[:2], *command[4:], "--within", "2%"])
    assert alone.exit_code == 0
    assert "change" not in alone.stdout.splitlines()[0]


def test_the_first_model_is_the_source_where_none_is_named(pair):
    done = CliRunner().invoke(
        app, ["eval", str(pair / "a"), str(pair / "b"), "--data", str(pair / "text.jsonl"), "--window", "20"]
    )
    assert done.exit_code == 0, done.output
    assert f"compared with {pair / 'a'}, the first one" in done.stderr
    assert done.stdout.splitlines()[1].startswith(str(pair / "a"))


def test_progress_ends_where_it_said(pair):
    steps = []
    compare(pair / "a", [pair / "b"], [STREAM], tokens=200, window=20, progress=lambda *at: steps.append(at))
    assert steps[-1] == (26, 26)
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})


def test_the_howto(pair, monkeypatch):
    page = HOWTO.read_text(encoding="utf-8")
    assert len(page.splitlines()) <= 60
    monkeypatch.chdir(pair)
    (pair / "a").rename("my-model")
    (pair / "b").rename("packed")
    (pair / "my-text.txt").write_text(json.loads((pair / "text.jsonl").read_text())["text"] * 3)
    names = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    assert names["found"].models[0].kl.value > 0
    for line in page.split("```sh\n")[1].split("```")[0].splitlines():
        command = line.split("#")[0].split()
        if "my-text.txt" in command:
            done = CliRunner().invoke(app, command[1:])
            assert done.exit_code in (0, 1), done.output
            assert not done.exception or isinstance(done.exception, SystemExit)
