"""Commands of the CPU engine: models packed, exported, talked with and served."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from paperlab.cli import complete
from paperlab.cli.shell import Json, Misuse
from paperlab.cli.verbosity import note, takes_verbosity

commands = typer.Typer()

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a .gguf file, a registered name, a hub id.")]
Group = Annotated[
    int | None,
    typer.Option(metavar="N", help="Columns per scale (group size); 0: whole rows. Else 64 in 8 bits, 32 below."),
]
Asymmetric = Annotated[
    bool | None,
    typer.Option(
        "--asymmetric/--symmetric",
        show_default=False,
        help="Store a minimum for each group as well as a scale, or not. Else in 4 bits alone.",
    ),
]
RecipeFile = Annotated[
    Path | None,
    typer.Option("--recipe", metavar="FILE", exists=True, dir_okay=False, help="JSON: a layout per name pattern."),
]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="SLUG",
        autocompletion=complete.methods,
        help="A paper's quantizer; what it does not quantize stays as it is.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", autocompletion=complete.settings, help="A parameter of --method."),
]
Data = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="A text file or name, for a --method that looks at data; else `abstracts`."),
]
Documents = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Documents of the text that the --method is calibrated on; else 32."),
]
Rounded = Annotated[int | None, typer.Option("--bits", metavar="N", help="Round float weights: 8, 4, 3 or 2 bits.")]
ActivationBits = Annotated[
    int, typer.Option(metavar="N", help="Activations in 16 or 8 bits; 8 is faster and a little less exact.")
]
Threads = Annotated[int | None, typer.Option(metavar="N", min=1, help="Number of threads; else one per core.")]
CacheBits = Annotated[int, typer.Option(metavar="N", help="KV cache in 32, 16, 8 or 4 bits.")]


@commands.command()
@takes_verbosity
def pack(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a .gguf file, a registered name, a hub id.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.")],
    bits: Annotated[int, typer.Option(metavar="N", help="Bits per weight: 8, 4, 3 or 2.")] = 8,
    group: Group = None,
    asymmetric: Asymmetric = None,
    keep: Annotated[
        float,
        typer.Option(
            metavar="PART", help="The share of the blocks' weights to keep, e.g. 0.5; zeros of a pruned model stay."
        ),
    ] = 1.0,
    pattern: Annotated[
        Literal["unstructured", "2:4", "rows", "columns", "channels"],
        typer.Option(
            metavar="PATTERN", help="What --keep leaves out: unstructured, 2:4, rows, columns, channels (MLPs')."
        ),
    ] = "unstructured",
    outliers: Annotated[
        float, typer.Option(metavar="PART", help="The share of weights to store exactly, e.g. 0.005.")
    ] = 0.0,
    rank: Annotated[int, typer.Option(metavar="N", help="Add a low-rank correction of the quantization error.")] = 0,
    codebook: Annotated[
        int, typer.Option(metavar="N", help="Use a k-means codebook with this many weights per code: 1, 2 or 4.")
    ] = 0,
    tables: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Bits of embeddings and output head: 8, 4, 3, 2, or 16 to leave them as they are. Else as --bits, and "
            "8 where --method alone leaves them in floats.",
        ),
    ] = None,
    recipe: RecipeFile = None,
    method: Method = None,
    settings: Settings = None,
    data: Data = None,
    documents: Documents = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure",
            help="Run both models on a little text, and say what packing cost.",
            show_default=False,
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Pack a model in few bits or sparse, for the CPU engine."""
    from paperlab.cli import models
    from paperlab.engine import Layout
    from paperlab.engine.packing.layout import tables as tables_in

    rounded = Layout(bits, _columns(group), _unless(asymmetric), keep, pattern, outliers, rank, codebook)
    if (recipe or method) and rounded != Layout():
        raise Misuse("--recipe or --method says how matrices are stored; leave --bits, --keep and the like out")
    if recipe and tables is not None:
        raise Misuse("--recipe says how every matrix is stored; leave --tables out")
    layouts = models.read_recipe(recipe) if recipe else [] if method else [("*", rounded)]
    if not method and (tables is not None or keep < 1 or pattern == "2:4"):  # weights are left out of the blocks alone
        layouts = [*layouts, *tables_in(bits if tables is None else tables)]
    applied = _applied(method, settings, data, documents)
    report = models.pack(model, out, layouts, applied, 8 if tables is None else tables)
    if measure:
        found = models.cost(model, out)
        report = {**report, **found, "notes": [*report["notes"], *found["notes"]]}
    if as_json:
        from paperlab.cli.text import write_json

        return write_json([{"out": str(out), **report}])
    size = report["bytes"] / 1e6
    typer.echo(f"{out}: {size:.1f} MB, {report['bits_per_weight']:.3f} bits per weight of {report['weights']:,}")
    for remark in report["notes"]:
        typer.echo(f"  {remark}")


def _columns(group: int | None) -> Any:
    """--group as `Layout` takes it."""
    return "row" if group == 0 else group


def _unless(asymmetric: bool | None) -> Any:
    """--asymmetric or --symmetric as `Layout` takes it."""
    return None if asymmetric is None else not asymmetric


def _applied(method: str | None, settings: list[str] | None, data: str | None, documents: int | None) -> Any:
    """What --method asks for; None without it. Raises Misuse for options that are for a method."""
    from paperlab.cli import models

    if method:
        return models.Applied(method, settings or [], data, documents or models.CALIBRATION)
    if settings or data or documents:
        raise Misuse("--set, --data and --documents are for a --method; give one, or leave them out")
    return None


@commands.command()
@takes_verbosity
def export(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A folder (packed or not), a .gguf file, a registered name, a hub id."),
    ],
    to: Annotated[
        Literal["hf", "compressed-tensors", "gguf"],
        typer.Option(metavar="hf|compressed-tensors|gguf", help="For transformers; for vLLM; for llama.cpp."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The folder, or the .gguf file, to write.")],
    bits: Annotated[int | None, typer.Option(metavar="N", help="Quantize on the way: 8, 4, 3 or 2 bits.")] = None,
    group: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Columns per scale (group size); 0: whole rows. Else 64 in 8 bits, 32 below and in GGUF."
        ),
    ] = None,
    asymmetric: Asymmetric = None,
    recipe: RecipeFile = None,
    method: Method = None,
    settings: Settings = None,
    data: Data = None,
    documents: Documents = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--type", metavar="TYPE", help="Type of float tensors: F32, F16, BF16; for GGUF also Q8_0, Q4_0, Q4_1."
        ),
    ] = None,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Quantize again what GGUF has no format for.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a model for transformers, vLLM or llama.cpp."""
    from paperlab.cli import models
    from paperlab.engine import Layout

    layouts = models.read_recipe(recipe) if recipe else None
    if bits:
        if recipe or method:
            raise Misuse("--bits quantizes every matrix alike; give it, or --recipe, or --method")
        columns = 32 if to == "gguf" and group is None else _columns(group)
        layouts = [("*", Layout(bits, columns, _unless(asymmetric)))]
    elif group is not None or asymmetric is not None:
        raise Misuse("--group and --asymmetric say how --bits are grouped; give --bits too")
    applied = _applied(method, settings, data, documents)
    report = models.export(model, out, to, applied, recipe=layouts, dtype=dtype, requantize=requantize)
    if as_json:
        from paperlab.cli.text import write_json

        return write_json([{"out": str(out), **report}])
    typer.echo(f"{out}: {report['bytes'] / 1e6:.1f} MB, {report['tensors']} tensors")
    for remark in report["notes"]:
        typer.echo(f"  {remark}")


@commands.command()
@takes_verbosity
def chat(
    model: Model,
    bits: Rounded = None,
    activation_bits: ActivationBits = 16,
    threads: Threads = None,
    temperature: Annotated[
        float, typer.Option(metavar="T", min=0, help="Sampling temperature; 0: always the most likely token.")
    ] = 0.7,
    top_p: Annotated[
        float,
        typer.Option(metavar="P", min=0, max=1, help="Sample from the most likely tokens with total probability P."),
    ] = 0.9,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed: the same seed gives the same answers.")] = 0,
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Maximum number of tokens in an answer.")] = 512,
    cache_bits: CacheBits = 16,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the model is told first: the system message.")
    ] = None,
    variables: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A variable of the chat template: enable_thinking=false. Repeatable."
        ),
    ] = None,
    allow_control_tokens: Annotated[
        bool, typer.Option("--allow-control-tokens", help="Obey control tokens in what is typed; else they are text.")
    ] = False,
) -> None:
    """Talk with a language model on the CPU engine. An empty line leaves, ctrl-C ends an answer."""
    import sys

    from paperlab.cli import models, talk
    from paperlab.engine import load
    from paperlab.engine.language import LanguageModel

    path, interactive = models.place(model), sys.stdin.isatty()
    if interactive:
        note(f"loading {path.name} …")
    loaded = load(path, bits=bits, activation_bits=activation_bits, threads=threads)
    if not isinstance(loaded, LanguageModel):
        raise Misuse(f"{model} is an encoder of texts; chat takes a language model")
    how: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "seed": seed}
    template = {"chat_template_kwargs": talk.variables(variables or []), "control_tokens": allow_control_tokens}
    more: dict[str, Any] = {"system": system, "cache_bits": cache_bits, "max_tokens": max_tokens, **template}
    conversation = talk.Talk(loaded, **more, **how)
    if interactive:
        note("an empty line or ctrl-D leaves, ctrl-C ends an answer")
    talk.chat(conversation)


@commands.command("serve-model")
@takes_verbosity
def serve_model(
    model: Model,
    host: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="The address to listen on: 0.0.0.0 is open to everybody; then set a key."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="The port; 0 takes a free one.")] = 8080,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model's name in requests; else its file's name.")
    ] = None,
    bits: Rounded = None,
    activation_bits: ActivationBits = 16,
    context: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Context length in tokens, prompt included; else up to 4096.")
    ] = None,
    slots: Annotated[
        int, typer.Option(metavar="N", min=1, max=256, help="Texts that are generated at the same time.")
    ] = 8,
    queue: Annotated[
        int, typer.Option(metavar="N", min=1, help="Requests that may wait; further ones get status 429.")
    ] = 128,
    cache_bits: CacheBits = 16,
    threads: Threads = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            envvar="PAPERLAB_API_KEY",
            show_envvar=False,
            help="Key that clients must send; better set PAPERLAB_API_KEY, since others can see the command.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", metavar="URL", help="A site whose pages may call this server. Repeatable."),
    ] = None,
) -> None:
    """Serve a model to OpenAI's clients, on the CPU engine. A language model or an encoder; ctrl-C stops it."""
    from paperlab.cli import models

    models.serve(
        model,
        {"bits": bits, "activation_bits": activation_bits, "threads": threads},
        {"name": name, "context": context, "slots": slots, "queue": queue, "cache_bits": cache_bits},
        {"host": host, "port": port, "key": api_key or None, "origins": allow_origin or ()},
    )
