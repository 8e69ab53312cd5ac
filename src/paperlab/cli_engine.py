"""The face of the engine: packing a model, and talking with one."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paperlab.engine.language import LanguageModel
    from paperlab.engine.pack import Recipe


def place(name: str) -> Path:
    """The folder or .gguf file that a word on the command line means: a path, a registered name, a Hugging Face id."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    from paperlab.assets.models import model_folder

    return model_folder(name)[0]


def read_recipe(file: Path) -> "Recipe":
    """[{"match": "*.down_proj", "bits": 8, …}, …] with the fields of `Layout`; the last match counts."""
    from paperlab.engine import EngineError, Layout

    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return [(row.pop("match"), Layout(**row)) for row in rows]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        fields = ", ".join(Layout.__dataclass_fields__)
        raise EngineError(
            f'{file}: a recipe is a list of {{"match": PATTERN}} with any of {fields} ({error})'
        ) from None


def pack(model: str, out: Path, recipe: "Recipe") -> dict[str, Any]:
    """Pack and report; progress on standard error where a terminal watches."""
    from paperlab.engine import pack as work

    def tell(name: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{name}", end="", file=sys.stderr, flush=True)

    report = work(place(model), out, recipe, tell)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    return report


def chat(model: "LanguageModel", options: dict[str, Any]) -> None:
    """Read lines, answer each; an empty line or the end of the input leaves."""
    messages: list[dict[str, str]] = []
    watched = sys.stdin.isatty()
    while True:
        if watched:
            print("> ", end="", flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        messages.append({"role": "user", "content": line})
        said = ""
        for piece in model.generate(messages, **options):
            print(piece, end="", flush=True)
            said += piece
        print(flush=True)
        messages.append({"role": "assistant", "content": said})
