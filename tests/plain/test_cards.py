"""Method files read without import: shared fields, verbs by function, class and alias, and what is refused."""

import json
from pathlib import Path

import pytest

from paperlab.core import acts as act_files
from paperlab.core import methods as method_files
from paperlab.core.card import Arm, Card, CardError, Check, Gate, check_from, plain
from paperlab.core.methods import act_of, filled, find_method, identity, methods, read_method, snippet

FILE = '''"""A method: for this test."""
import a_package_that_is_not_there
from paperlab.core.card import Arm, Card, Check, Gate
CARD = {card}
{body}
'''
CHECKS = """Card(
    family="pruning", paper="some-paper", sources=("paper", "code"), task="lm_compress", metric="perplexity",
    expect="lower", margin=0.02, gap="another model", baseline=Arm("magnitude", sparsity=0.5), {more}
    checks=(
        Check(claim="one", says="It is better.", method=Arm("wanda", sparsity=0.5)),
        Check(claim="two", says="More so.", method=Arm("wanda", sparsity=0.7), margin=0.05, expect="higher"),
    ),
)"""
KEEP = "def keep(weight, input_norm, *, sparsity: float = 0.5) -> Tensor:\n    return weight"


def write(tmp_path: Path, body: str = KEEP, card: str = 'Card(family="pruning")', family: str = "pruning") -> Path:
    folder = tmp_path / family
    folder.mkdir(exist_ok=True)
    file = folder / "some_method.py"
    file.write_text(FILE.format(card=card, body=body))
    return file


def test_what_checks_share_stands_once(tmp_path: Path) -> None:
    one, two = read_method(write(tmp_path, card=CHECKS.format(more=""))).card.checks
    assert (one.task, one.expect, one.margin, one.gap) == ("lm_compress", "lower", 0.02, "another model")
    assert (two.expect, two.margin, two.baseline) == ("higher", 0.05, Arm("magnitude", sparsity=0.5))
    alone = Check(
        claim="one", says="It is better.", task="lm_compress", metric="perplexity", expect="lower", margin=0.02,
        method=Arm("wanda", sparsity=0.5), baseline=Arm("magnitude", sparsity=0.5), gap="another model",
    )  # fmt: skip
    assert one.hash == alone.hash


def test_a_check_without_a_metric_is_refused() -> None:
    with pytest.raises(CardError, match=r"'one' has no task, metric, .*neither has its card"):
        Card("pruning", "x", (Check(claim="one", method=Arm("a"), baseline=Arm("b")),))
    with pytest.raises(CardError, match="two checks are called one"):
        Card("pruning", "x", (Check("one"), Check("one")), task="t", metric="m", expect="lower", margin=0.0,
             gap="", method=Arm("a"), baseline=Arm("b"))  # fmt: skip
    with pytest.raises(CardError, match="sources are paper, code, abstract"):
        Card("pruning", sources=("blog",))  # type: ignore[arg-type]


def test_a_check_survives_json_with_all_it_can_say() -> None:
    check = Check(
        "full", "s", "t", "m", "lower", 0.02, Arm("gptq", bits=4, after=Arm("wanda", sparsity=0.5)), Arm("b"), "gap",
        data="code", trivial=Arm("c"), ablation=Arm("d"), gates=(Gate("the same", Arm("e"), Arm("b")),),
    )  # fmt: skip
    assert check_from(json.loads(json.dumps(plain(check)))) == check
    assert [str(arm) for arm in check.arms] == ["gptq(bits=4) after wanda(sparsity=0.5)", "b", "c", "d", "e"]


def test_fields_that_say_nothing_leave_an_older_check_its_hash() -> None:
    """The hash of a check as it was before data, ablation, gates and `after` existed."""
    known = find_method("easyquant").card.checks[1]
    assert not {"data", "trivial", "ablation", "gates"} & plain(known).keys()
    assert "after" not in json.dumps(plain(known))


@pytest.mark.parametrize(
    ("body", "verb", "asks"),
    [
        (KEEP, "keep", ("weight", "input_norm")),
        ("class Norm(nn.Module):\n    def __init__(self, width, *, eps: float = 1e-5): ...", "norm", ("width",)),
        (
            "class FeedForward(nn.Module):\n    def __init__(self, width, inner): ...",
            "feed_forward",
            ("width", "inner"),
        ),
        ("class Gate(nn.Module):\n    def __init__(self, width): ...\nnorm = Gate", "norm", ("width",)),
    ],
)
def test_functions_classes_and_aliases_are_verbs(tmp_path: Path, body: str, verb: str, asks: tuple[str, ...]) -> None:
    method = read_method(write(tmp_path, body))
    assert (method.verbs, method.asks[verb]) == ((verb,), asks)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (KEEP + "\ndef factor(weight) -> Factors: ...", "keep, factor all bear a verb's name; the card says"),
        ("def keep(weight) -> Quantized: ...", "return Quantized; its driver takes Tensor or Sparse"),
        ("def keep(weight): ...", "keep is annotated to return nothing"),
        ("def keep(weight, wieght) -> Tensor: ...", "keep asks for wieght; its driver supplies weight, name"),
        ("def keep(weight, *, bits: list = 4) -> Tensor: ...", "a parameter is bool, int"),
    ],
)
def test_a_verb_that_no_driver_can_use_is_refused_before_any_work(tmp_path: Path, body: str, says: str) -> None:
    file = write(tmp_path, body)
    with pytest.raises(CardError, match=says) as refused:
        read_method(file)
    assert str(file) in str(refused.value)


def test_a_card_chooses_among_candidates(tmp_path: Path) -> None:
    body = KEEP + "\ndef factor(weight) -> Factors: ..."
    assert read_method(write(tmp_path, body, 'Card(family="pruning", verbs=("keep",))')).verbs == ("keep",)
    both = "def linear(in_features, out_features, bias) -> Module: ...\n"
    both += "def rate(step, steps, *, warm: int = 3) -> float: ..."
    method = read_method(write(tmp_path, both, 'Card(family="pruning", verbs=("linear", "rate"))'))
    assert (method.verbs, [p.name for p in method.parameters]) == (("linear", "rate"), ["warm"])
    with pytest.raises(CardError, match="'merge' is not defined"):
        read_method(write(tmp_path, body, 'Card(family="pruning", verbs=("merge",))'))
    named = 'Card(family="pruning", verbs=("keep", "rate"))'
    with pytest.raises(CardError, match="no act knows all of keep, rate"):
        read_method(write(tmp_path, KEEP + "\ndef rate(step) -> float: ...", named))


def test_a_slug_has_one_spelling(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="a slug is written with '-': 'round-to-nearest'"):
        read_method(write(tmp_path, card=CHECKS.format(more='trivial=Arm("round_to_nearest"),')))
    old = {**plain(find_method("easyquant").card.checks[0]), "baseline": {"method": "round_to_nearest", "params": {}}}
    assert check_from(old).baseline.method == "round-to-nearest"


def test_filled_defaults_are_part_of_what_an_arm_is() -> None:
    assert identity(Arm("gptq")) == identity(Arm("gptq", bits=4))
    assert identity(Arm("gptq")) != identity(Arm("gptq", bits=3))
    assert identity(Arm("round_to_nearest", bits=4)) == identity(Arm("round-to-nearest"))
    chained = filled(Arm("gptq", after=Arm("round-to-nearest")))
    assert chained.after is not None
    assert chained.after.params["group"] is None
    assert identity(Arm("an-old-one", x=1)) == "an-old-one(x=1)"


def test_every_method_that_can_be_used_says_how() -> None:
    for method in methods().values():
        lines = snippet(method)
        assert (lines is None) == (not method.verbs)
        if lines:
            compile(lines, method.slug, "exec")
            assert f'paperlab.load("{method.slug}"' in lines
            assert ("calibration=" in lines) == bool(method.needs_data)
            assert act_of(method) is not None


def test_the_index_of_cards_is_only_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look parses nothing; a changed file is read again; a damaged index is thrown away."""
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path / "home"))
    file = write(tmp_path)
    monkeypatch.setattr(method_files, "_folders", lambda: [tmp_path])
    parsed: list[Path] = []
    real = method_files.read_method
    monkeypatch.setattr(method_files, "read_method", lambda path: parsed.append(path) or real(path))

    def look() -> dict[str, method_files.Method]:
        methods.cache_clear()
        return methods()

    try:
        first = look()
        assert look() == first
        assert parsed == [file]
        file.write_text(file.read_text().replace("0.5", "0.25"))
        assert look()["some-method"].parameters[0].default == 0.25
        (tmp_path / "home" / "cache" / "methods.json").write_text("{")
        assert look()["some-method"].parameters[0].default == 0.25
        assert len(parsed) == 3
    finally:
        methods.cache_clear()


def test_a_driver_s_table_must_be_whole(tmp_path: Path) -> None:
    file = tmp_path / "act.py"
    file.write_text('SAYS = "x"\nBUILDS = "Thing"\nVERBS = {}\n')
    with pytest.raises(CardError, match="STARTS_FROM is missing"):
        act_files._read(file)
    file.write_text('SAYS = "x"\nBUILDS = "Thing"\nSTARTS_FROM = ()\nVERBS = {"do": {"says": ""}}\n')
    with pytest.raises(CardError, match="verb 'do' has"):
        act_files._read(file)
    file.write_text('SAYS = "x"\nBUILDS = f()\nSTARTS_FROM = ()\nVERBS = {}\n')
    with pytest.raises(CardError, match=r"act\.py:2: BUILDS is not a literal"):
        act_files._read(file)
