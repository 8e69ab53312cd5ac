"""Whole models against transformers in float32: small ones with random weights, the real ones where available."""

import json

import numpy as np
import pytest
from engine_kernels import Laid

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from paperlab import engine  # noqa: E402
from paperlab.engine.native import EngineError, round_to_nearest  # noqa: E402
from paperlab.engine.packing.codebook import cluster  # noqa: E402
from paperlab.engine.packing.container import FILL, Weights  # noqa: E402
from paperlab.engine.packing.layout import Layout  # noqa: E402
from paperlab.engine.packing.pack import pack, pack_matrix  # noqa: E402

SMALL = {
    "vocab_size": 517,
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {"type": "longrope", "short_factor": [1 + i / 10 for i in range(8)], "long_factor": [2.0] * 8}
GRANITE = {"embedding_multiplier": 3.0, "logits_scaling": 4.0, "residual_multiplier": 0.3, "attention_multiplier": 0.1}
EXPERTS = {"head_dim": 32, "moe_intermediate_size": 48, "num_experts": 6, "num_experts_per_tok": 3}
KINDS = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-wide-heads": ("Llama", {"head_dim": 32, "attention_bias": True, "mlp_bias": True}),
    "llama3-rope": ("Llama", {"rope_parameters": LLAMA3}),
    "linear-rope": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}}),
    "yarn-rope": ("Llama", {"rope_parameters": YARN}),
    "yarn-gain": ("Qwen3", {"head_dim": 32, "rope_parameters": YARN | {"attention_factor": 1.4, "beta_fast": 8.0}}),
    "yarn-scales": ("Llama", {"rope_parameters": YARN | {"mscale": 0.8, "mscale_all_dim": 0.5, "beta_slow": 2.0}}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 30}),
    "qwen2": ("Qwen2", {}),
    "qwen2-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 5}),
    "granite": ("Granite", GRANITE),
    "gemma": ("Gemma", {"head_dim": 32}),
    "gemma2": ("Gemma2", {"head_dim": 32, "query_pre_attn_scalar": 20, "sliding_window": 70}),
    "gemma3": ("Gemma3", {"num_hidden_layers": 7, "head_dim": 32, "query_pre_attn_scalar": 20, "sliding_window": 24}),
    "phi3": ("Phi3", {"sliding_window": 40}),
    "phi3-long": ("Phi3", {"original_max_position_embeddings": 160, "rope_scaling": LONGROPE}),
    "olmo2": ("Olmo2", {}),
    "cohere": ("Cohere", {"tie_word_embeddings": True}),
    "stablelm": ("StableLm", {"use_qkv_bias": True}),
    "stablelm-parallel": ("StableLm", {"use_parallel_residual": True, "num_key_value_heads": 6}),
    "starcoder2": ("Starcoder2", {"sliding_window": 30}),
    "phi": ("Phi", {"num_key_value_heads": 6}),
    "gpt-neox": ("GPTNeoX", {}),
    "gpt-neox-in-turn": ("GPTNeoX", {"use_parallel_residual": False}),
    "gpt2": ("GPT2", {"tie_word_embeddings": True}),
    "opt": ("OPT", {"ffn_dim": 200, "word_embed_proj_dim": 96}),
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
    "qwen3-moe": ("Qwen3Moe", EXPERTS),
    "qwen3-moe-summed": ("Qwen3Moe", EXPERTS | {"norm_topk_prob": True}),
}
WINDOWED = [kind for kind, (_, more) in KINDS.items() if more.get("sliding_window")]
ROUTED = [kind for kind in KINDS if "num_experts" in KINDS[kind][1] or kind == "mixtral"]


def make(folder, kind="llama", dtype=torch.float32, seed=0, **sizes):
    """A small model with random weights, saved as a folder; the same in float32."""
    name, more = KINDS[kind]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}{'Text' if name == 'Gemma3' else ''}Config")(**{**SMALL, **more, **sizes})
    model = getattr(transformers, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(config)
    for key, parameter in model.named_parameters():
        if key.endswith(("norm.weight", "layernorm.weight", "bias")):
            one = "norm" in key and not name.startswith("Gemma")  # whose norms multiply by 1 + weight
            torch.nn.init.normal_(parameter, float(one), 0.1)
        else:
            torch.nn.init.normal_(parameter, 0.0, 0.15)
    model.to(dtype).save_pretrained(folder)
    return type(model).from_pretrained(folder, dtype=torch.float32).eval()  # .float() would leave rotary tables rounded


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def relative(mine, truth):
    return np.abs(mine - truth).max() / np.abs(truth).max()


ENCODERS = ("Roberta", "XLMRoberta", "Camembert", "DistilBert", "MPNet")
IDS = np.random.default_rng(3).integers(0, 517, 70).tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("isa", engine.instruction_sets())
def test_logits_in_float32(kind, isa, tmp_path):
    truth = logits_of(make(tmp_path, kind), IDS + IDS)
    model = engine.load(tmp_path, isa=isa)
    assert relative(model.forward([(model.session(cache_bits=32), IDS + IDS)], every=True), truth) < (
        1e-4 if "gemma" in kind else 1e-5
    )
    if kind not in ROUTED:  # a rounded score may choose another expert
        assert relative(model.forward([(model.session(cache_bits=16), IDS + IDS)], every=True), truth) < 3e-2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith(("llama", "linear", "yarn"))])
def test_every_architecture_one_by_one_in_parts_and_packed(kind, tmp_path):
    truth = logits_of(make(tmp_path / "source", kind), IDS + IDS)
    model = engine.load(tmp_path / "source", bits=8)
    whole = model.forward([(model.session(), IDS + IDS)], every=True)
    session = model.session()
    assert (np.concatenate([model.forward([(session, [token])]) for token in IDS + IDS]) == whole).all()
    session = model.session()
    parts = [
        model.forward([(session, (IDS + IDS)[i:j])], every=True) for i, j in ((0, 63), (63, 64), (64, 101), (101, 140))
    ]
    assert (np.concatenate(parts) == whole).all()
    if kind not in ROUTED:
        assert np.linalg.norm(whole - truth) < 0.2 * np.linalg.norm(truth)
    assert pack(tmp_path / "source", tmp_path / "packed", Layout(8))["left"] == 0
    packed = engine.load(tmp_path / "packed")
    assert (packed.forward([(packed.session(), IDS + IDS)], every=True) == whole).all()


def test_gpt2_in_memory_with_its_matrices_turned_gives_the_same_file(tmp_path):
    from paperlab.kit.opening import opened
    from paperlab.lab.ship import tensors_of

    model = make(tmp_path / "source", "gpt2")
    pack(tmp_path / "source", tmp_path / "a", Layout(4))
    pack(tensors_of(model), tmp_path / "b", Layout(4))
    pack(tensors_of(opened(model)), tmp_path / "c", Layout(4))
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("kind", WINDOWED)
def test_a_window_forgets(kind, tmp_path):
    """With one block, what is farther than the window changes nothing; what is nearer does."""
    make(tmp_path, kind, num_hidden_layers=1, layer_types=["sliding_attention"], max_window_layers=0)
    model, window = engine.load(tmp_path), KINDS[kind][1]["sliding_window"]
    ids = IDS + IDS
    last = lambda tokens: model.forward([(model.session(cache_bits=32), tokens)])  # noqa: E731
    far, near = ids.copy(), ids.copy()
    far[-window - 1], near[-window] = 7, 7
    assert (last(far) == last(ids)).all()
    assert (last(near) != last(ids)).any()


@pytest.mark.parametrize(
    ("kind", "setting", "message"),
    [
        ("cohere", {"use_qk_norm": True}, "use_qk_norm"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before"),
        ("opt", {"word_embed_proj_dim": 32}, "word_embed_proj_dim"),
        ("qwen3-moe", {"mlp_only_layers": [1]}, "mlp_only_layers"),
        ("gemma3", {"layer_types": ["chunked_attention"] * 7}, 'block 0 is "chunked_attention"'),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ("phi", {"hidden_act": "quick_gelu"}, "quick_gelu"),
        ("phi3", {"partial_rotary_factor": 0.2}, "cannot turn in pairs"),
        ("phi3-long", {"rope_scaling": LONGROPE | {"short_factor": [1.0]}}, "should hold 8 numbers"),
        ("granite", {"residual_multiplier": 0.0}, "a multiplier is 0"),
        ("mixtral", {"num_experts_per_tok": 5}, "num_experts_per_tok is 5; 1 to 4"),
    ],
)
def test_settings_that_are_not_obeyed_are_refused_by_name(kind, setting, message, tmp_path):
    make(tmp_path, kind)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | setting))
    with pytest.raises(EngineError, match=message):
        engine.load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_logits_from_16_bit_files(dtype, tmp_path):
    truth = logits_of(make(tmp_path, dtype=dtype), IDS)
    model = engine.load(tmp_path)
    assert relative(model.forward([(model.session(cache_bits=32), IDS)], every=True), truth) < 1e-5


def test_tokens_one_by_one_in_parts_and_in_batches_are_the_same_text(tmp_path):
    make(tmp_path)
    ids = IDS + IDS  # attention goes by stretches of 64 positions
    model = engine.load(tmp_path, bits=4)
    whole = model.forward([(model.session(), ids)], every=True)
    session = model.session()
    single = np.concatenate([model.forward([(session, [token])]) for token in ids])
    assert (whole == single).all()
    session, other = model.session(), model.session()
    model.forward([(session, ids[:20])])
    both = model.forward([(session, ids[20:50]), (other, ids[:5])], every=True)
    assert (both == np.concatenate([whole[20:50], whole[:5]])).all()
    session.truncate(33)
    assert (model.forward([(session, ids[33:])], every=True) == whole[33:]).all()
    assert len(session) == len(ids)


def test_a_cache_of_few_bits(tmp_path):
    make(tmp_path, head_dim=48)
    model = engine.load(tmp_path)
    losses = {bits: -model.score(IDS, cache_bits=bits).mean() for bits in (32, 16, 8, 4)}
    assert abs(losses[8] - losses[32]) < 0.01
    assert abs(losses[4] - losses[32]) < 0.3
    for bits, per_value in ((32, 4), (16, 2), (8, 1 + 2 / 48), (4, 0.5 + 2 / 48)):
        session = model.session(cache_bits=bits)
        whole = model.forward([(session, IDS)], every=True)
        assert session.bytes == round(2 * 3 * 2 * len(IDS) * 48 * per_value)
        session.truncate(33)
        assert session.bytes == round(2 * 3 * 2 * 33 * 48 * per_value)
        model.forward([(session, IDS[:10])])
        session.truncate(33)
        assert (model.forward([(session, IDS[33:])], every=True) == whole[33:]).all()
        single = model.session(cache_bits=bits)
        assert (np.concatenate([model.forward([(single, [token])]) for token in IDS]) == whole).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_no_bit(threads, tmp_path):
    make(tmp_path)
    a, b = (engine.load(tmp_path, bits=8, threads=n) for n in (2, threads))
    assert (a.forward([(a.session(), IDS)], every=True) == b.forward([(b.session(), IDS)], every=True)).all()


def dequantized(model, layout):
    """Put into a transformers model the weights that our codes stand for."""
    seen = {id(model.get_output_embeddings())}
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)] + [model.get_input_embeddings()]
    assert seen
    for module in linear:
        weight = module.weight.detach().numpy().copy()
        arrays = pack_matrix(weight, layout)
        rows = len(weight)
        rest, exact = weight.copy(), np.zeros_like(weight, bool)
        if layout.outliers:
            starts, column = arrays["outliers.starts"], arrays["outliers.columns"]
            exact[np.repeat(np.arange(rows), np.diff(starts)), column] = True
            assert exact.sum() == round(weight.size * layout.outliers)
            rest[exact] = 0
        keep = layout.mask(rest)
        if layout.codebook:
            codes, scales, book = cluster(rest, layout.bits, layout.codebook, layout.group_size)
            size = weight.shape[1] // scales.shape[1] if layout.group == "row" else layout.group
            result = book[codes].reshape(weight.shape) * scales.repeat(size, 1)[:, : weight.shape[1]].astype(np.float32)
        else:
            codes, scales, mins = round_to_nearest(
                rest, layout.bits, layout.group_size, symmetric=layout.symmetric, keep=keep
            )
            with Laid(codes, scales, mins, keep, layout.bits, layout.group_size) as laid:
                result = laid.read()
        if layout.rank:
            before = np.linalg.norm((rest - result)[~exact])
            left = arrays["low_rank.b"].reshape(-1, layout.rank, 16).transpose(0, 2, 1).reshape(-1, layout.rank)[:rows]
            result += left.astype(np.float32) @ arrays["low_rank.a"].astype(np.float32)
            assert np.linalg.norm((rest - result)[~exact]) < before
        module.weight.data = torch.from_numpy(np.where(exact, weight, result))
    return model


LAYOUTS = [
    Layout(8),
    Layout(8, group="row"),
    Layout(4),
    Layout(4, group=32, symmetric=False),
    Layout(3),
    Layout(2, symmetric=False),
    Layout(8, keep=0.5),
    Layout(4, keep=0.25),
    Layout(4, pattern="2:4"),
    Layout(4, outliers=0.01),
    Layout(3, symmetric=False, rank=5),
    Layout(2, outliers=0.02, rank=8),
    Layout(8, keep=0.5, outliers=0.005, rank=1),
    Layout(4, codebook=1),
    Layout(4, 32, codebook=2, outliers=0.01),
    Layout(8, "row", codebook=4, rank=2),
]


@pytest.mark.parametrize("isa", engine.instruction_sets())
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_packed_logits_equal_the_dequantized_model(layout, isa, tmp_path):
    model = dequantized(make(tmp_path / "a"), layout)
    report = pack(tmp_path / "a", tmp_path / "b", layout)
    mine = engine.load(tmp_path / "b", isa=isa)
    logits = mine.forward([(mine.session(cache_bits=32), IDS)], every=True)
    assert relative(logits, logits_of(model, IDS)) < 3e-4  # activations keep 15 bits per group
    corrections = 80 * layout.outliers + layout.rank * 16 * 2 / 96
    assert (
        report["bits_per_weight"]
        < layout.bits / (layout.codebook or 1) * 1.4 + (layout.codebook > 1) + 2 + layout.sparse + corrections
    )
    size = mine.about["bytes_per_token"] * 8 / mine.about["weights_per_token"]
    assert size == pytest.approx(report["bits_per_weight"] * 1.05, rel=0.15)


def test_a_recipe_may_differ_by_matrix(tmp_path):
    make(tmp_path / "a")
    recipe = [("*", Layout(4)), ("*.down_proj", Layout(8)), ("lm_head", Layout(16)), ("*.o_proj", Layout(8, keep=0.5))]
    pack(tmp_path / "a", tmp_path / "b", recipe)
    mine = engine.load(tmp_path / "b")
    assert np.isfinite(mine.forward([(mine.session(), IDS)])).all()
    with pytest.raises(EngineError, match="already holds a model"):
        pack(tmp_path / "a", tmp_path / "b", recipe)
    with pytest.raises(EngineError, match="packed already"):
        pack(tmp_path / "b", tmp_path / "c", recipe)
    with pytest.raises(EngineError, match="matches the recipe"):
        pack(tmp_path / "a", tmp_path / "c", [("nothing", Layout(4))])


def test_scores_are_log_probabilities(tmp_path):
    truth = torch.tensor(logits_of(make(tmp_path), IDS)).log_softmax(-1)
    wanted = truth[torch.arange(len(IDS) - 1), torch.tensor(IDS[1:])].numpy()
    np.testing.assert_allclose(engine.load(tmp_path).score(IDS, cache_bits=32), wanted, atol=2e-4)


def test_greedy_text_equals_transformers(tmp_path):
    model = make(tmp_path)
    with torch.no_grad():
        out = model.generate(torch.tensor([IDS[:9]]), max_new_tokens=40, do_sample=False)[0, 9:].tolist()
    mine = list(engine.load(tmp_path).generate_ids(IDS[:9], max_tokens=40, cache_bits=32))
    assert mine == (out[: out.index(2)] if 2 in out else out)


def test_the_same_seed_draws_the_same_text(tmp_path):
    make(tmp_path)
    model = engine.load(tmp_path)
    draw = lambda seed: list(model.generate_ids(IDS[:5], max_tokens=30, temperature=1.5, top_p=0.9, seed=seed))  # noqa: E731
    assert draw(1) == draw(1) != draw(2)
    assert list(model.generate_ids(IDS[:5], max_tokens=10, temperature=2.0, top_k=1)) == list(
        model.generate_ids(IDS[:5], max_tokens=10)
    )


@pytest.mark.parametrize("isa", engine.instruction_sets())
@pytest.mark.parametrize(
    ("name", "activation", "heads"),
    [("Bert", "gelu", 3), ("Bert", "gelu_new", 6), *((name, "gelu", 6) for name in ENCODERS)],
)
def test_encoder_against_transformers(isa, name, activation, heads, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 3, "num_attention_heads": heads}
    if name == "DistilBert":
        sizes = {"dim": 96, "hidden_dim": 200, "n_layers": 3, "n_heads": heads}
    config = getattr(transformers, f"{name}Config")(
        vocab_size=517, max_position_embeddings=128, hidden_act=activation, **sizes
    )
    options = {} if name == "DistilBert" else {"add_pooling_layer": False}
    model = getattr(transformers, f"{name}Model")(config, **options).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    model.save_pretrained(tmp_path)
    texts = [IDS[:n] for n in (1, 7, 16, 33, 70)]
    with torch.no_grad():
        states = [model(torch.tensor([ids])).last_hidden_state[0].numpy() for ids in texts]
    mine = engine.load(tmp_path, isa=isa)
    for pooling, wanted in (("mean", [s.mean(0) for s in states]), ("cls", [s[0] for s in states])):
        vectors = mine.embed_ids(texts, pooling=pooling, normalize=False)
        assert relative(vectors, np.stack(wanted)) < 1e-5
        unit = mine.embed_ids(texts, pooling=pooling)
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    packed = engine.load(tmp_path, isa=isa, bits=8, threads=2)
    assert (packed.embed_ids(texts) * mine.embed_ids(texts)).sum(1).min() > 0.999
    for encoder in (mine, packed):  # nor does it depend on how threads share the texts
        alone = np.concatenate([encoder.embed_ids([ids]) for ids in texts])
        assert (encoder.embed_ids(texts) == alone).all()
        assert (encoder.embed_ids(texts * 3) == np.tile(alone, (3, 1))).all()


@pytest.mark.parametrize("repeated", [False, True])
def test_a_head_that_is_there_is_the_head_whatever_the_flag_says(repeated, tmp_path):
    model = make(tmp_path / "a")
    if repeated:
        model.lm_head.weight.data = model.model.embed_tokens.weight.data.clone()
        model.save_pretrained(tmp_path / "a")
    truth = logits_of(model, IDS)
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert relative(logits_of(again, IDS), truth) < 1e-6
    engine.export(tmp_path / "a", tmp_path / "hf", "hf")
    engine.export(tmp_path / "a", tmp_path / "m.gguf", "gguf")
    for folder in ("a", "hf", "m.gguf"):
        mine = engine.load(tmp_path / folder)
        assert relative(mine.forward([(mine.session(cache_bits=32), IDS)], every=True), truth) < 1e-5
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert relative(logits_of(other, IDS), truth) < 1e-6
    assert ("lm_head.weight" in Weights(tmp_path / "hf").names()) != repeated
    pack(tmp_path / "a", tmp_path / "p", Layout(8, "row"))
    assert ("lm_head.codes" in Weights(tmp_path / "p").names()) != repeated
    assert json.loads((tmp_path / "p" / "config.json").read_text())["tie_word_embeddings"] is repeated
    engine.export(tmp_path / "p", tmp_path / "c", "compressed-tensors")
    for folder in ("p", "c"):
        mine = engine.load(tmp_path / folder)
        assert relative(mine.forward([(mine.session(cache_bits=32), IDS)], every=True), truth) < 0.3


def test_a_sharded_folder(tmp_path):
    model = make(tmp_path)
    truth = logits_of(model, IDS)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    mine = engine.load(tmp_path)
    assert relative(mine.forward([(mine.session(cache_bits=32), IDS)], every=True), truth) < 1e-5


@pytest.fixture(scope="module")
def smollm2():
    from paperlab.assets.loading import load_causal_lm
    from paperlab.assets.models import model_folder
    from paperlab.assets.packages import PackageError

    try:
        folder, _ = model_folder("smollm2-135m")
    except PackageError as error:
        pytest.skip(str(error))
    model, tokenizer, _ = load_causal_lm("smollm2-135m")
    return folder, model, tokenizer


TEXT = "The capital of France is Paris. The capital of Italy is Rome, and 2024 was a leap year."


def test_smollm2_in_float32_and_from_its_gguf_file(smollm2):
    folder, model, tokenizer = smollm2
    mine = engine.load(folder)
    ids = mine.ids(TEXT)
    assert ids == tokenizer(TEXT)["input_ids"]
    truth = logits_of(model, ids)
    assert relative(mine.forward([(mine.session(cache_bits=32), ids)], every=True), truth) < 1e-5
    packed = engine.load(next(folder.glob("*.gguf")))
    assert relative(packed.forward([(packed.session(cache_bits=32), ids)], every=True), truth) < 1e-3
    chat = mine.ids([{"role": "user", "content": "What is the capital of Italy?"}])
    wanted = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of Italy?"}], add_generation_prompt=True
    )
    assert chat == list(wanted["input_ids"] if hasattr(wanted, "keys") else wanted)
    with torch.no_grad():
        out = model.generate(torch.tensor([chat]), max_new_tokens=40, do_sample=False)[0, len(chat) :].tolist()
    text = tokenizer.decode(out, skip_special_tokens=True)
    assert "".join(mine.generate(chat, max_tokens=40, cache_bits=32)) == text
    assert packed.ids(TEXT) == ids
    assert packed.ids([{"role": "user", "content": "What is the capital of Italy?"}]) == chat
    assert "".join(packed.generate(chat, max_tokens=40, cache_bits=32)) == text


def test_minilm_in_float32_and_in_8_bits():
    from paperlab.assets.loading import load_encoder
    from paperlab.assets.models import model_folder
    from paperlab.assets.packages import PackageError

    try:
        folder, _ = model_folder("minilm-l6")
    except PackageError as error:
        pytest.skip(str(error))
    model, tokenizer, _ = load_encoder("minilm-l6")
    texts = ["A cat sits on the mat.", "quantum", TEXT, "low-rank adapters for language models " * 30]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    truth = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy()
    mine = engine.load(folder)
    assert np.abs(mine.embed(texts) - truth).max() < 1e-6
    assert (engine.load(folder, bits=8).embed(texts) * truth).sum(1).min() > 0.999
    assert mine.longest == json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]


def test_the_safetensors_package_reads_packed_files(tmp_path):
    from safetensors import safe_open

    make(tmp_path / "m")
    engine.pack(tmp_path / "m", tmp_path / "p", engine.Layout(4, 32, keep=0.5))
    with safe_open(tmp_path / "p" / "model.safetensors", "np") as file:
        names = set(file.keys())
        assert {"model.layers.0.mlp.up_proj.codes", "model.layers.0.mlp.up_proj.masks", "model.norm.weight"} <= names
        assert np.array_equal(file.get_tensor("model.norm.weight"), Weights(tmp_path / "p").raw("model.norm.weight"))
    assert any(name.startswith(FILL) for name in names)
    assert not any(name.startswith(FILL) for name in Weights(tmp_path / "p").names())
