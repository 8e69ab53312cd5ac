"""The engine behind lm-evaluation-harness: its numbers are those of the harness's own transformers model."""

import json

import pytest

torch = pytest.importorskip("torch")
lm_eval = pytest.importorskip("lm_eval")

from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from test_measure import perturbed  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from paperlab import engine  # noqa: E402
from paperlab.assets.models import model_folder  # noqa: E402
from paperlab.cli import app  # noqa: E402
from paperlab.engine.harness import harness_model, scores  # noqa: E402
from paperlab.engine.native import EngineError  # noqa: E402

QUESTIONS = [
    ("We propose a method to", ["train neural networks", "bake a cake", "sing"], 0),
    ("Experiments show that our", ["dog barks", "approach outperforms the baselines", "table is red"], 1),
    ("Large language", ["models", "seas", "shoes of a running man"], 0),
    ("We prove that the", ["algorithm converges", "moon", "cheese is old"], 0),
    ("The code is", ["eaten", "a big green tree", "available at"], 2),
] * 4
CHOICE = """\
task: choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
WRITE = """\
task: write
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 12, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""
ROLL = """\
task: roll
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}} {{{{choices[0]}}}}"
metric_list: [{{metric: word_perplexity}}]
"""


@pytest.fixture
def tasks(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"text": t, "choices": [f" {c}" for c in cs], "answer": a} for t, cs, a in QUESTIONS]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("choice", CHOICE), ("write", WRITE), ("roll", ROLL)):
        (folder / f"{name}.yaml").write_text(text.format(data=folder / "data.jsonl"))
    return folder


def test_it_says_what_the_harness_s_own_model_says(tasks):
    folder, _ = model_folder("abstracts-lm")
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    both = [
        lm_eval.simple_evaluate(one, tasks=["choice", "write", "roll"], task_manager=manager, bootstrap_iters=0)
        for one in (
            HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=1),
            harness_model(engine.load(folder)),
        )
    ]
    for task in ("choice", "write", "roll"):
        theirs, ours = (found["samples"][task] for found in both)
        assert len(ours) == len(QUESTIONS)
        for a, b in zip(theirs, ours, strict=True):
            if task == "write":
                assert a["filtered_resps"] == b["filtered_resps"]
                assert b["filtered_resps"][0].strip()
                continue
            for x, y in zip(a["filtered_resps"], b["filtered_resps"], strict=True):
                x, y = (r if isinstance(r, tuple | list) else (r, True) for r in (x, y))
                assert float(x[0]) == pytest.approx(float(y[0]), rel=1e-4, abs=1e-4)
                assert x[1] == y[1]
        figures = [{k: v for k, v in found["results"][task].items() if isinstance(v, float)} for found in both]
        assert figures[0] == pytest.approx(figures[1], rel=1e-4, nan_ok=True)
    assert both[1]["results"]["choice"]["acc,none"] > 0.5


def test_pairs_and_the_command(tasks, tmp_path):
    folder, _ = model_folder("abstracts-lm")
    perturbed(folder, tmp_path / "b", size=0.7)
    source, same, other = scores(folder, [folder, tmp_path / "b"], ["choice"], folder=tasks, threads=1)
    assert [(one.task, one.metric) for one in source] == [("choice", "acc"), ("choice", "acc_norm")]
    assert (same[0].value, same[0].change.value, same[0].flips) == (source[0].value, 0, 0)
    assert other[0].flips >= abs(other[0].value.value - source[0].value.value)
    with pytest.raises(EngineError, match="could not run no_such_task"):
        scores(folder, [], ["no_such_task"], folder=tasks)
    command = ["eval", "-q", str(tmp_path / "b"), "--against", "abstracts-lm", "--tokens", "64", "--window", "32"]
    more = ["--threads", "1", "--tasks", "choice", "--tasks-from", str(tasks), "-o", str(tmp_path / "r.json")]
    done = CliRunner().invoke(app, [*command, *more])
    assert done.exit_code == 0, done.output
    assert "acc_norm" in done.stdout
    row = json.loads((tmp_path / "r.json").read_text())["models"][1]
    assert row["tasks"][0]["value"] == other[0].value.value
