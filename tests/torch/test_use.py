"""paperlab.load on a user's own model: what comes back, what can be saved, what is refused and in which words."""

from pathlib import Path
from typing import Any

import pytest
import torch
from layout_models import make
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    GemmaConfig,
    GemmaForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

import paperlab
from paperlab.kit.walk import block_linears
from paperlab.lab.errors import RunError

IDS = torch.arange(3, 27)[None]


def llama(**more: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, **more
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["round-to-nearest", "gptq", "awq", "rtn-activations"])
def test_the_model_s_dtype_is_kept(name: str, dtype: torch.dtype) -> None:
    model = llama().to(dtype)
    small = paperlab.load(name)(model, calibration=[IDS])
    assert {parameter.dtype for parameter in small.parameters()} == {dtype}
    assert type(small) is type(model)
    with torch.no_grad():
        out, wanted = small(IDS).logits, model(IDS).logits
    assert out.dtype is dtype
    assert (out - wanted).norm() < 0.5 * wanted.norm()
    assert not torch.equal(out, wanted)


def test_a_model_in_training_mode_is_compressed_without_dropout() -> None:
    model = llama(attention_dropout=0.5).train()
    small, again = (paperlab.load("gptq")(model, calibration=[IDS]) for _ in range(2))
    assert model.training
    assert not small.training
    assert torch.equal(small(IDS).logits, again(IDS).logits)
    assert torch.equal(small(IDS).logits, paperlab.load("gptq")(llama(), calibration=[IDS])(IDS).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_reads_back_as_the_same(dtype: torch.dtype, tmp_path: Path) -> None:
    llama(tie_word_embeddings=True).save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=dtype)
    small = paperlab.load("gptq", bits=3)(model, calibration=[IDS])
    small.save_pretrained(tmp_path / "small")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=dtype)
    with torch.no_grad():
        assert torch.equal(reloaded(IDS).logits, small(IDS).logits)


@pytest.mark.parametrize("name", ["rtn-activations", "outlier-suppression-plus", "random-rotation"])
def test_what_a_checkpoint_cannot_hold_is_not_saved(name: str, tmp_path: Path) -> None:
    small = paperlab.load(name)(llama(), calibration=[IDS])
    with pytest.raises(RunError, match=f"{name} left parts in the model that a checkpoint cannot hold"):
        small.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_compressed_model_can_be_compressed_again() -> None:
    once = paperlab.load("round-to-nearest", bits=8)(llama())
    twice = paperlab.load("round-to-nearest", bits=4)(once)
    assert twice.compressed.totals()["layer_bits"] < once.compressed.totals()["layer_bits"]
    assert once.compressed.model is once
    assert twice.compressed.model is twice


def test_encoders_take_dicts_and_tensors_alike() -> None:
    torch.manual_seed(0)
    model = DistilBertModel(DistilBertConfig(vocab_size=32, dim=64, n_layers=2, n_heads=2, hidden_dim=128)).eval()
    one = paperlab.load("gptq")(model, calibration=[IDS[0], IDS])
    two = paperlab.load("gptq")(model, calibration=[{"input_ids": IDS}, {"input_ids": IDS}])
    assert torch.equal(one(IDS).last_hidden_state, two(IDS).last_hidden_state)


def offloaded() -> nn.Module:
    model = llama()
    model.model.layers[1].to("meta")
    return model


def gemma() -> nn.Module:
    return GemmaForCausalLM(
        GemmaConfig(vocab_size=32, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
                    num_key_value_heads=1, head_dim=32)
    )  # fmt: skip


def electra() -> nn.Module:
    return ElectraModel(
        ElectraConfig(vocab_size=32, hidden_size=64, embedding_size=32, intermediate_size=128, num_hidden_layers=2,
                      num_attention_heads=2)
    )  # fmt: skip


def packed() -> nn.Module:
    model = llama()
    for layer in block_linears(model).values():
        layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    return model


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: "smollm2-135m", "a str is no transformers model; load one with AutoModelForCausalLM"),
        (lambda: nn.Linear(4, 4), "a Linear is no transformers model"),
        (
            lambda: GptOssForCausalLM(
                GptOssConfig(vocab_size=32, hidden_size=64, intermediate_size=64, num_hidden_layers=2, head_dim=32,
                             num_attention_heads=2, num_key_value_heads=1, num_local_experts=2)
            ),
            "GptOssExperts, not in nn.Linear",
        ),
        (offloaded, "the model lies on cpu, meta; put it whole on one device"),
        (packed, "holds codes, not weights: the model is quantized already"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_compressed_whole_is_refused(build: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        paperlab.load("round-to-nearest")(build())


def test_a_decoder_reads_the_text_shifted_where_nothing_else_is_said() -> None:
    model = make("T5")
    one = paperlab.load("gptq", group=8)(model, calibration=[IDS])
    shifted = torch.cat([torch.zeros(1, 1, dtype=torch.long), IDS[:, :-1]], 1)  # 0: T5's first token
    two = paperlab.load("gptq", group=8)(model, calibration=[{"input_ids": IDS, "decoder_input_ids": shifted}])
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "says"),
    [("ViT", "ViTModel takes no token ids: pass dicts"), ("Whisper", "takes no token ids: pass dicts")],
)
def test_text_for_a_model_that_reads_none_is_refused(name: str, says: str) -> None:
    with pytest.raises(RunError, match=says):
        paperlab.load("gptq", group=8)(make(name), calibration=[IDS])


@pytest.mark.parametrize(
    ("name", "build", "says"),
    [
        ("ostquant", gemma, "this needs RMS norms as Llama's; GemmaDecoderLayer has other norms"),
        ("smoothquant", electra, "its first block does not read embeddings.LayerNorm"),
    ],
)
def test_a_layout_in_which_a_fold_would_change_the_function_is_refused(name: str, build: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        paperlab.load(name)(build(), calibration=[IDS])


@pytest.mark.parametrize(
    ("calibration", "says"),
    [
        (None, "gptq looks at data \\(hessian\\): pass calibration"),
        ([], "pass calibration"),
        ("one text", "calibration is a list"),
        ({"input_ids": IDS}, "calibration is a list"),
        (IDS, "calibration is a list"),
        (["a text"], "no tokenizer in the folder of the model"),
        ([[3, 4, 5]], "calibration\\[0\\] is a list: pass a text"),
        ([{"input_ids": [[3, 4]]}], "calibration\\[0\\]\\['input_ids'\\] is no tensor; .*return_tensors='pt'"),
        ([IDS, IDS.float()], "calibration\\[1\\]: token ids are whole numbers"),
        ([IDS[None]], "of shape \\(t,\\) or \\(b, t\\)"),
    ],
)
def test_calibration_that_cannot_be_used_is_refused(calibration: Any, says: str) -> None:
    with pytest.raises(RunError, match=says):
        paperlab.load("gptq")(llama(), calibration=calibration)


def test_a_part_of_a_network_is_a_factory() -> None:
    layer = paperlab.load("bitnet-1-58-bottom-up", scale="median")(8, 4, True)
    assert isinstance(layer, nn.Linear)
    assert layer(torch.ones(2, 8)).shape == (2, 4)


def test_a_study_has_nothing_to_load() -> None:
    with pytest.raises(RunError, match="study"):
        paperlab.load("qwen3-quantization-study")
