"""Where the parts of a transformer block lie: one table of architectures, and what is read out of it.

A block is a list of branches. Each reads the residual stream, mostly through a norm, and writes back to it:

    norm -> readers ... -> writer        between the last reader's rows and the writer stands `via`

Folds of scales (`paperlab.kit.fold`) and rotations (`paperlab.kit.rotate`) follow from that. A row of LAYOUTS fits a
block that has modules at all its paths, and no other norms or weights but INNER; classes' names are never looked at.
Paths are written as in a shell: "self_attn.{q,k,v}_proj" are three, "experts.*.down_proj" one for each expert.

Fused experts and GPT-2's transposed matrices are linear layers after `paperlab.kit.opening.opened`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

HEADS = "heads"  # attention: the last reader's outputs are values, averaged with weights that sum to 1
STACKED = "heads, stacked"  # the same from one matrix: all queries, all keys, all values
GROUPED = "heads, grouped"  # … for each value head in turn its queries, its key, its value
PRODUCT = "product"  # the last reader's outputs are multiplied by those of a gate
HALVES = "product, halves"  # the same from one matrix: gate above, up below
OPAQUE = ""  # nothing passes; any other `via` is the path of an activation function
BEFORE = "<"  # as a norm: the one that ends the block before


@dataclass(frozen=True)
class Branch:
    """One way from the residual stream and back.

    norm: what the readers read; "" for the stream itself. reads: linear layers. via: what is between the last of them
    and `writes`, the linear layers that write to the stream. value: layers whose last stands for the last reader there.
    also: other modules that read the norm (routers of experts). bare: why no norm feeds it whose scale could change,
    where that is not plain from `norm`.
    residual: where the norm's output is also the residual (post-norm blocks), a module whose second argument it is;
    after: or the norm behind the sum of both.
    """

    norm: str
    reads: str
    via: str
    writes: str
    value: str = ""
    also: str = ""
    residual: str = ""
    after: str = ""
    bare: str = ""


@dataclass(frozen=True)
class Layout:
    """A row of the table. begin, end: where the stream begins and ends. In pre-norm models these are modules beside the
    stack: those whose outputs are added (nothing: the input embedding), and the last norm; in post-norm models the norm
    that the first block reads, and the one in each block that the next reads.

    beside: a module that must stand beside the stack. also: other parts of a block that have weights. unless: an
    attribute in the block that must not be there, or be false. still: why the stream cannot be rotated, "" if it can.
    """

    name: str
    branches: tuple[Branch, ...]
    begin: str = ""
    end: str = "norm"
    beside: str = ""
    also: str = ""
    unless: str = ""
    still: str = ""


_A, _M = "input_layernorm", "post_attention_layernorm"
_NORMED = "it norms what its branches return, channel by channel"
_SCALED = "it scales what its branches return, channel by channel"
_UNNAMED = "models with such blocks add positions to their input in different ways"
_BARE = "its branches read the residual stream without a norm"


def _attention(norm: str = _A) -> Branch:
    return Branch(norm, "self_attn.{q,k,v}_proj", HEADS, "self_attn.o_proj")


def _gated(norm: str = _M) -> Branch:
    return Branch(norm, "mlp.{gate,up}_proj", PRODUCT, "mlp.down_proj")


_EXPERTS = Branch(_M, "mlp.experts.*.gate_up_proj", HALVES, "mlp.experts.*.down_proj", also="mlp.gate")
_SHARED = Branch(
    _M, "mlp.shared_expert.{gate,up}_proj", PRODUCT, "mlp.shared_expert.down_proj", also="mlp.shared_expert_gate"
)


def _opt(norm: str, *, post: bool = False, cross: bool = False) -> tuple[Branch, ...]:
    """OPT's blocks and those of encoders and decoders like it. norm: of the first branch."""
    own, other, last = "self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"
    norms = (own, other, last) if not post else (norm, own, other) if cross else (norm, "", own)
    after = (own, other, last) if post else ("", "", "")
    rows = [Branch(norms[0], "self_attn.{q,k,v}_proj", HEADS, "self_attn.out_proj", after=after[0])]
    if cross:
        value = "encoder_attn.{k,v}_proj"
        rows += [Branch(norms[1], "encoder_attn.q_proj", HEADS, "encoder_attn.out_proj", value, after=after[1])]
    return (*rows, Branch(norms[2], "fc1", "activation_fn", "fc2", after=after[2]))


def _bert(reads: str, via: str = HEADS, bare: str = "") -> tuple[Branch, ...]:
    residual, norm = ("", "") if bare else ("attention.output", BEFORE)
    return (
        Branch(norm, f"attention.self.{reads}", via, "attention.output.dense", residual=residual, bare=bare),
        Branch("attention.output.LayerNorm", "intermediate.dense", OPAQUE, "output.dense", residual="output"),
    )


def _t5(number: int, reads: str, via: str) -> Branch:
    at = f"layer.{number}.DenseReluDense"
    return Branch(f"layer.{number}.layer_norm", f"{at}.{reads}", via if via == PRODUCT else f"{at}.{via}", f"{at}.wo")


_T5_OWN = Branch("layer.0.layer_norm", "layer.0.SelfAttention.{q,k,v}", HEADS, "layer.0.SelfAttention.o")
_T5_OTHER = Branch(
    "layer.1.layer_norm",
    "layer.1.EncDecAttention.q",
    HEADS,
    "layer.1.EncDecAttention.o",
    "layer.1.EncDecAttention.{k,v}",
)
_RELU, _GATED = ("wi", "act"), ("wi_{0,1}", PRODUCT)
_POST = {"begin": "embeddings.LayerNorm", "end": "output.LayerNorm"}
_T5 = {"begin": "embed_tokens", "end": "final_layer_norm"}

# fmt: off
LAYOUTS = (
    Layout("Gemma 2", (_attention(), _gated("pre_feedforward_layernorm")),
           also="post_attention_layernorm post_feedforward_layernorm", still=_NORMED),
    Layout("GLM 4", (_attention(), Branch(_M, "mlp.gate_up_proj", HALVES, "mlp.down_proj")),
           also="post_self_attn_layernorm post_mlp_layernorm", still=_NORMED),
    Layout("OLMo 2", (_attention(""), _gated("")),
           also="post_attention_layernorm post_feedforward_layernorm", still=_BARE),
    Layout("Llama", (_attention(), _gated())),
    Layout("Cohere", (_attention(), _gated(_A))),
    Layout("GLM", (_attention(), Branch(_M, "mlp.gate_up_proj", HALVES, "mlp.down_proj"))),
    Layout("Phi 3", (Branch(_A, "self_attn.qkv_proj", STACKED, "self_attn.o_proj"),
                     Branch(_M, "mlp.gate_up_proj", HALVES, "mlp.down_proj"))),
    Layout("Qwen2-MoE", (_attention(), _EXPERTS, _SHARED)),
    Layout("Mixtral", (_attention(), _EXPERTS)),
    Layout("StarCoder 2", (_attention(), Branch(_M, "mlp.c_fc", "mlp.act", "mlp.c_proj"))),
    Layout("Nemotron", (_attention(), Branch(_M, "mlp.up_proj", "mlp.act_fn", "mlp.down_proj"))),
    Layout("Phi", (Branch(_A, "self_attn.{q,k,v}_proj", HEADS, "self_attn.dense"),
                   Branch(_A, "mlp.fc1", "mlp.activation_fn", "mlp.fc2")), end="final_layernorm"),
    Layout("Persimmon", (Branch(_A, "self_attn.query_key_value", GROUPED, "self_attn.dense"),
                         Branch(_M, "mlp.dense_h_to_4h", "mlp.act", "mlp.dense_4h_to_h")), end="final_layernorm"),
    Layout("GPT-NeoX", (Branch(_A, "attention.query_key_value", GROUPED, "attention.dense"),
                        Branch(_M, "mlp.dense_h_to_4h", "mlp.act", "mlp.dense_4h_to_h")), end="final_layer_norm"),
    Layout("Bloom", (Branch(_A, "self_attention.query_key_value", GROUPED, "self_attention.dense"),
                     Branch(_M, "mlp.dense_h_to_4h", "mlp.gelu_impl", "mlp.dense_4h_to_h")),
           begin="word_embeddings_layernorm", end="ln_f", unless="apply_residual_connection_post_layernorm"),
    Layout("Falcon", (Branch(_A, "self_attention.query_key_value", GROUPED, "self_attention.dense"),
                      Branch(_M, "mlp.dense_h_to_4h", "mlp.act", "mlp.dense_4h_to_h")), end="ln_f"),
    Layout("Falcon", (Branch(_A, "self_attention.query_key_value", GROUPED, "self_attention.dense"),
                      Branch(_A, "mlp.dense_h_to_4h", "mlp.act", "mlp.dense_4h_to_h")), end="ln_f"),
    Layout("Falcon", (Branch("ln_attn", "self_attention.query_key_value", GROUPED, "self_attention.dense"),
                      Branch("ln_mlp", "mlp.dense_h_to_4h", "mlp.act", "mlp.dense_4h_to_h")), end="ln_f"),
    Layout("MPT", (Branch("norm_1", "attn.Wqkv", STACKED, "attn.out_proj"),
                   Branch("norm_2", "ffn.up_proj", "ffn.act", "ffn.down_proj")), end="norm_f"),
    Layout("GPT-2", (Branch("ln_1", "attn.c_attn", STACKED, "attn.c_proj"),
                     Branch("ln_2", "mlp.c_fc", "mlp.act", "mlp.c_proj")),
           begin="wte wpe", end="ln_f", unless="attn.kv_heads"),
    Layout("GPTBigCode", (Branch("ln_1", "attn.c_attn", GROUPED, "attn.c_proj"),
                          Branch("ln_2", "mlp.c_fc", "mlp.act", "mlp.c_proj")), begin="wte wpe", end="ln_f"),
    Layout("GPT-Neo", (Branch("ln_1", "attn.attention.{q,k,v}_proj", HEADS, "attn.attention.out_proj"),
                       Branch("ln_2", "mlp.c_fc", "mlp.act", "mlp.c_proj")), begin="wte wpe", end="ln_f"),
    Layout("GPT-J", (Branch("ln_1", "attn.{q,k,v}_proj", HEADS, "attn.out_proj"),
                     Branch("ln_1", "mlp.fc_in", "mlp.act", "mlp.fc_out")), end="ln_f"),
    Layout("OPT", _opt("self_attn_layer_norm"),
           begin="embed_tokens embed_positions", end="final_layer_norm", beside="final_layer_norm"),
    Layout("Whisper or mBART decoder", _opt("self_attn_layer_norm", cross=True), beside="layer_norm", still=_UNNAMED),
    Layout("Whisper or mBART encoder", _opt("self_attn_layer_norm"), beside="layer_norm", still=_UNNAMED),
    Layout("BART decoder", _opt(BEFORE, post=True, cross=True), "layernorm_embedding", "final_layer_norm"),
    Layout("BART encoder", _opt(BEFORE, post=True), "layernorm_embedding", "final_layer_norm"),
    Layout("T5 decoder", (_T5_OWN, _T5_OTHER, _t5(2, *_RELU)), **_T5),
    Layout("T5 decoder", (_T5_OWN, _T5_OTHER, _t5(2, *_GATED)), **_T5),
    Layout("T5 encoder", (_T5_OWN, _t5(1, *_RELU)), **_T5),
    Layout("T5 encoder", (_T5_OWN, _t5(1, *_GATED)), **_T5),
    Layout("Mamba", (Branch("norm", "mixer.in_proj", OPAQUE, "mixer.out_proj"),), begin="embeddings", end="norm_f"),
    Layout("ModernBERT", (Branch("attn_norm", "attn.Wqkv", STACKED, "attn.Wo"),
                          Branch("mlp_norm", "mlp.Wi", HALVES, "mlp.Wo")),
           end="final_norm", still="its first block reads the embedding without a norm"),
    Layout("ViT", (Branch("layernorm_before", "attention.{q,k,v}_proj", HEADS, "attention.o_proj"),
                   Branch("layernorm_after", "mlp.fc1", "mlp.activation_fn", "mlp.fc2")),
           begin="embeddings", end="layernorm"),
    Layout("DINOv2", (Branch("norm1", "attention.{q,k,v}_proj", HEADS, "attention.o_proj"),
                      Branch("norm2", "mlp.fc1", "mlp.activation_fn", "mlp.fc2")),
           also="layer_scale1 layer_scale2", end="layernorm", still=_SCALED),
    Layout("CLIP", (Branch("layer_norm1", "self_attn.{q,k,v}_proj", HEADS, "self_attn.out_proj"),
                    Branch("layer_norm2", "mlp.fc1", "mlp.activation_fn", "mlp.fc2")),
           still="what its image tower returns is not normed"),
    Layout("BERT", _bert("{query,key,value}"), **_POST),
    Layout("DeBERTa v2", _bert("{query,key,value}_proj"), unless="attention.self.share_att_key", **_POST),
    Layout("DeBERTa v2", _bert("{query,key,value}_proj", bare="its queries and keys project positions, too"), **_POST),
    Layout("DeBERTa", _bert("in_proj", OPAQUE), **_POST),
    Layout("MPNet", (Branch(BEFORE, "attention.attn.{q,k,v}", HEADS, "attention.attn.o", after="attention.LayerNorm"),
                     Branch("attention.LayerNorm", "intermediate.dense", OPAQUE, "output.dense", residual="output")),
           **_POST),
    Layout("DistilBERT", (Branch(BEFORE, "attention.{q,k,v}_lin", HEADS, "attention.out_lin", after="sa_layer_norm"),
                          Branch("sa_layer_norm", "ffn.lin1", OPAQUE, "ffn.lin2", after="output_layer_norm")),
           "embeddings.LayerNorm", "output_layer_norm"),
)
# fmt: on


CLIPS = "clip_qkv"  # the setting of an attention that cuts values off: neither scales nor rotations pass

INNER = (
    "q_norm", "k_norm", "q_layernorm", "k_layernorm", "relative_attention_bias",
    "pos_proj", "pos_q_proj", "pos_key_proj", "pos_query_proj", "conv1d", "x_proj", "dt_proj",
)  # fmt: skip
"""Parts with weights that a branch may have between its readers and its writer: they touch no pair, nor the stream."""

QUERIES_AND_KEYS = (
    "q_proj", "k_proj", "query", "key", "query_proj", "key_proj", "q_lin", "k_lin", ".q", ".k",
    "qkv_proj", "query_key_value", "Wqkv", "c_attn", "self.in_proj",
)  # fmt: skip
"""How the names of layers end that make queries and keys, whose products clipping harms."""


@dataclass(frozen=True)
class Pair:
    """A linear layer whose output channels scale inputs of another.

    rows: those of `source` that count, None for all. index: for each input channel of `reader` which of them it is,
    None where they are the same. size: of a head, 0 outside attention. shiftable: a constant passes, too.
    """

    name: str
    source: nn.Linear
    reader: nn.Linear
    rows: Tensor | None = None
    index: Tensor | None = None
    size: int = 0
    shiftable: bool = False


@dataclass(frozen=True)
class Fed:
    """All that reads one norm. name: role in the block. others: readers that are no layers to compress. scope: the
    module whose output shows the harm of rounding the readers. before: the norm lies in the block before.

    residual: modules whose second argument is the norm's output; after: (writer, norm of the sum of its output and the
    residual). norm: None where they read the stream itself; `bare` then says why.
    """

    name: str
    norm: Any
    readers: tuple[nn.Linear, ...]
    others: tuple[Any, ...]
    scope: nn.Module
    before: bool = False
    residual: tuple[nn.Module, ...] = ()
    after: tuple[tuple[nn.Linear, Any], ...] = ()
    bare: str = ""


@dataclass(frozen=True)
class Block:
    """A block as the table sees it: what reads each norm, in order, each followed by its pairs; who writes."""

    name: str
    layout: Layout
    parts: tuple[tuple[Fed, tuple[Pair, ...]], ...]
    writers: tuple[nn.Linear, ...]

    @property
    def fed(self) -> list[Fed]:
        """What reads each norm."""
        return [fed for fed, _ in self.parts]

    @property
    def pairs(self) -> list[Pair]:
        """All pairs."""
        return [pair for _, pairs in self.parts for pair in pairs]


def table(model: nn.Module, stem: str, stack: nn.ModuleList) -> list[Block]:
    """The blocks of one stack as the table sees them. Raises ValueError for blocks that no row fits."""
    around = list(above(model, stem))
    made: list[Block] = []
    before: Any = None
    for index, block in enumerate(stack):
        layout = layout_of(block, around)
        if layout is None:
            raise ValueError(
                f"{type(model).__name__} has blocks ({type(block).__name__}) that fit no row of paperlab.kit.layouts: "
                "no scales or rotations can be folded into it"
            )
        post = post_norm(layout)
        if post and index == 0:
            before = beside(around, layout.begin)
            if before is None or before.weight.shape != block.get_submodule(layout.end).weight.shape:
                raise ValueError(
                    f"{type(model).__name__} is built as {layout.name}, but its first block does not read "
                    f"{layout.begin}: no folds are known for it"
                )
        made.append(_resolved(f"{stem}.{index}", block, layout, before))
        before = block.get_submodule(layout.end) if post else None
    return made


def pairs_of(block: nn.Module) -> list[Pair]:
    """The pairs of one block. Raises ValueError for one that no row fits."""
    layout = layout_of(block)
    if layout is None:
        raise ValueError(f"no layout is known for blocks of type {type(block).__name__}")
    return [pair for row in layout.branches for pair in _pairs("", block, row)]


def layout_of(block: nn.Module, around: Sequence[nn.Module] = ()) -> Layout | None:
    """The first row that fits a block. around: the modules that the stack lies in, the nearest first."""
    return next((row for row in LAYOUTS if _fits(row, block, around)), None)


def _fits(layout: Layout, block: nn.Module, around: Sequence[nn.Module]) -> bool:
    if layout.unless and _attribute(block, layout.unless):
        return False
    if layout.beside and around and beside(around[:1], layout.beside) is None:
        return False
    known = set(layout.also.split()) | ({layout.end} if post_norm(layout) else set())
    if any(_at(block, path) is None for path in known):
        return False
    for row in layout.branches:
        norm = "" if row.norm == BEFORE else row.norm
        act = row.via if row.via not in (HEADS, STACKED, GROUPED, PRODUCT, HALVES) else ""
        for pattern in filter(None, (norm, row.reads, row.writes, row.value, row.also, row.residual, row.after, act)):
            found = list(_paths(pattern, block))
            if not found or any(_at(block, path) is None for path in found):
                return False
            known |= set(found)
    return all(_known(name, known) for name, module in block.named_modules() if _matters(name, module))


def _matters(name: str, module: nn.Module) -> bool:
    """Whether a module has weights of its own, or is a norm without."""
    norm = "norm" in name.rpartition(".")[2].lower() and not any(True for _ in module.children())
    return norm or any(True for _ in module.parameters(recurse=False))


def _known(name: str, known: set[str]) -> bool:
    """Whether a part of a block is one of the known ones, holds or lies in one, or is INNER."""
    inner = any(part in INNER for part in name.split("."))
    return inner or any(f"{path}.".startswith(f"{name}.") or name.startswith(f"{path}.") for path in known)


def post_norm(layout: Layout) -> bool:
    """Whether norms stand behind the residual sums."""
    return any(row.norm == BEFORE or row.after or row.residual for row in layout.branches)


def beside(around: Iterable[nn.Module], path: str) -> Any:
    """The module at `path` in the nearest of these that has one there, or None."""
    return next((found for module in around if (found := _at(module, path)) is not None), None)


def above(model: nn.Module, stem: str) -> Iterator[nn.Module]:
    """The modules that a stack lies in, the nearest first."""
    while stem:
        stem = stem.rpartition(".")[0]
        yield model.get_submodule(stem)


def _at(module: nn.Module, path: str) -> Any:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _attribute(block: nn.Module, path: str) -> Any:
    where, _, name = path.rpartition(".")
    return getattr(_at(block, where), name, None)


def _paths(pattern: str, block: nn.Module) -> Iterator[str]:
    """The paths that a pattern stands for, in order."""
    brace = re.search(r"\{(.*?)\}", pattern)
    if brace:
        for choice in brace[1].split(","):
            yield from _paths(pattern[: brace.start()] + choice + pattern[brace.end() :], block)
    elif ".*." in pattern:
        stem, rest = pattern.split(".*.", 1)
        many = _at(block, stem)
        yield from (f"{stem}.{i}.{rest}" for i in range(len(many) if isinstance(many, nn.ModuleList) else 0))
    else:
        yield pattern


def _resolved(name: str, block: nn.Module, layout: Layout, before: Any) -> Block:
    """A block with its modules in the place of paths. Branches of one norm are one `Fed`."""

    def get(pattern: str) -> tuple[Any, ...]:
        return tuple(block.get_submodule(path) for path in _paths(pattern, block)) if pattern else ()

    parts: list[tuple[Fed, tuple[Pair, ...]]] = []
    for row in layout.branches:
        same = [other for other in layout.branches if other.norm == row.norm] if row.norm else [row]
        if same[0] is not row:
            continue  # came with the first
        reads = [path for other in same for path in _paths(other.reads, block)]
        others = [path for other in same for path in _paths(other.also, block) if path]
        role, scope = _role(same, reads, reads + others)
        modules = [block.get_submodule(path) for path in reads + others]
        fed = Fed(
            f"{name}.{role}",
            before if row.norm == BEFORE else next(iter(get(row.norm)), None),
            tuple(module for module in modules if isinstance(module, nn.Linear)),
            tuple(module for module in modules if not isinstance(module, nn.Linear)),
            block.get_submodule(scope),
            row.norm == BEFORE,
            get(row.residual),
            tuple((writer, norm) for norm in get(row.after) for writer in get(row.writes)),
            row.bare or ("" if row.norm else "it reads the residual stream without a norm"),
        )
        parts.append((fed, tuple(pair for other in same for pair in _pairs(name, block, other))))
    writers = tuple(layer for row in layout.branches for layer in get(row.writes))
    return Block(name, layout, tuple(parts), writers)


def _role(rows: list[Branch], reads: list[str], every: list[str]) -> tuple[str, str]:
    """The name of what reads a norm, and the path of its scope: the nearest module that holds all the readers, or a
    single reader whose outputs meet no others of its kind. every: `reads` and those that are not compressed.
    """
    if len(every) == 1 and rows[0].via not in (HEADS, STACKED, GROUPED, HALVES):
        return reads[0], reads[0]
    parents = [path.split(".")[:-1] for path in every]
    shared = 0
    while all(len(parent) > shared and parent[shared] == parents[0][shared] for parent in parents):
        shared += 1
    scope = ".".join(parents[0][:shared])
    if len(rows) > 1:
        return rows[0].norm, scope
    if len(reads) == 1:
        return reads[0], scope
    return f"{scope.removesuffix('.self')}.{'qkv' if rows[0].via == HEADS else 'gate_up'}", scope


def _pairs(name: str, block: nn.Module, row: Branch) -> Iterator[Pair]:
    """The pairs of a branch; none where nothing passes, nor where values are clipped (OLMo's clip_qkv)."""
    writes = list(_paths(row.writes, block))
    reads = list(_paths(row.value or row.reads, block))
    for source_path, path in zip(reads[-len(writes) :], writes, strict=True):
        source: Any = block.get_submodule(source_path)
        reader: Any = block.get_submodule(path)
        full = f"{name}.{path}"
        at, outs, ins = source.weight.device, source.out_features, reader.in_features
        if row.via in (HEADS, STACKED, GROUPED):
            attention: Any = block.get_submodule(source_path.rpartition(".")[0])
            if any(getattr(holder, CLIPS, None) for holder in (attention, getattr(attention, "config", None))):
                continue
            size = _head_size(attention)
            rows = None
            if row.via == STACKED:
                outs = (outs - ins) // 2
                rows = torch.arange(ins + outs, ins + 2 * outs, device=at)
            if row.via == GROUPED:
                heads = ins // size
                shared = (outs // size - heads) // 2
                rows = torch.arange(outs, device=at).view(shared, heads // shared + 2, size)[:, -1].flatten()
                outs = shared * size
            index = None
            if outs != ins:  # heads that share a value head
                channels = torch.arange(outs, device=at).view(-1, 1, size)
                index = channels.expand(-1, ins // outs, size).reshape(-1)
            yield Pair(full, source, reader, rows, index, size, shiftable=True)
        elif row.via == PRODUCT:
            yield Pair(full, source, reader)
        elif row.via == HALVES:
            yield Pair(full, source, reader, torch.arange(outs // 2, outs, device=at))
        elif row.via and _homogeneous(block.get_submodule(row.via)):
            yield Pair(full, source, reader)


def _head_size(attention: Any) -> int:
    for name in ("head_dim", "attention_head_size", "head_size", "key_value_proj_dim"):
        if isinstance(size := getattr(attention, name, None), int):
            return size
    raise ValueError(f"{type(attention).__name__} does not say how large its heads are: no folds are known for it")


@torch.no_grad()
def _homogeneous(act: nn.Module) -> bool:
    """Whether a positive scale passes through an activation, as through ReLU."""
    x = torch.linspace(-2, 2, 9)
    return torch.allclose(act(3 * x), 3 * act(x), atol=1e-5)
