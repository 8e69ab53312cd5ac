"""Tasks of lm-evaluation-harness with the engine as their model: `paperlab eval --tasks arc_easy,hellaswag`.

Prompts, answers and metrics are the harness's own; what a model says to them comes from the engine. Needs the extra
`tasks`. Most tasks fetch their data from the Hugging Face hub at first use; a folder of one's own tasks needs none.
"""

import contextlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paperlab.core.figures import NOTHING, Value, interval
from paperlab.core.install import needs
from paperlab.core.statistics import flips, is_right_wrong, relative_gain
from paperlab.engine.language import LanguageModel, Session
from paperlab.engine.load import load
from paperlab.engine.native import EngineError

if TYPE_CHECKING:
    from lm_eval.api.model import LM

MOST = 256  # tokens of a generated answer, where a task does not say


@dataclass(frozen=True)
class Score:
    """A model's figure in one task. value: by `metric`, the mean over questions. change: relative to the source's,
    paired by question; flips: share of questions [0, 1] whose right/wrong is another than the source's, NaN where
    answers are not right or wrong. Both are nothing for the source."""

    task: str
    metric: str
    value: Value
    change: Value = NOTHING
    flips: float = float("nan")


def scores(
    source: str | Path | LanguageModel,
    models: Sequence[str | Path | LanguageModel],
    tasks: Sequence[str],
    *,
    folder: Path | None = None,
    limit: int | None = None,
    cache_bits: int = 32,
    **loading: Any,
) -> list[list[Score]]:
    """Ask a source and models all questions of tasks: [model][task and metric], the source first.

    tasks: names of the harness, or with `folder` of the tasks in its YAML files. limit: questions of each, None all.
    loading: as `engine.load`. Raises EngineError: an unknown task, data that cannot be fetched, an encoder.
    """
    with needs("tasks"):
        import lm_eval
        from lm_eval.tasks import TaskManager
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=None if folder is None else str(folder), include_defaults=folder is None)
    seen = []
    for model in (source, *models):
        opened = model if isinstance(model, LanguageModel) else load(model, **loading)
        if not isinstance(opened, LanguageModel):
            raise EngineError(f"{model} is an encoder; tasks are for language models")
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # standard output is for results
                found = lm_eval.simple_evaluate(
                    harness_model(opened, cache_bits),
                    tasks=list(tasks),
                    limit=limit,
                    bootstrap_iters=0,  # the intervals are ours
                    task_manager=manager,
                )
        except EngineError:
            raise
        except Exception as error:  # the harness and its data sets raise all kinds
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise EngineError(f"lm-evaluation-harness could not run {', '.join(tasks)}: {why}") from error
        seen.append(found["samples"])
    return [_scores(samples, seen[0]) for samples in seen]


def _scores(samples: dict[str, list[dict]], base: dict[str, list[dict]]) -> list[Score]:
    out = []
    for task, answers in samples.items():
        for metric in answers[0]["metrics"] if answers else ():
            given: list[list[Any]] = [[answer.get(metric) for answer in of[task]] for of in (samples, base)]
            if not all(isinstance(x, int | float | np.number) and np.isfinite(x) for values in given for x in values):
                continue  # of whole texts, not of questions
            mine, theirs = ([float(x) for x in values] for values in given)
            value = interval(mine, bounded=True)
            if samples is base:
                out.append(Score(task, metric, value))
                continue
            gain = relative_gain(mine, theirs, expect="higher")
            both = is_right_wrong(mine) and is_right_wrong(theirs)
            changed = flips(mine, theirs) if both else float("nan")
            out.append(Score(task, metric, value, Value(gain.gain, gain.low, gain.high, gain.n), changed))
    return out


def harness_model(model: LanguageModel, cache_bits: int = 32) -> "LM":
    """The model as lm-evaluation-harness takes it: `lm_eval.simple_evaluate(harness_model(model), tasks=[…])`."""
    with needs("tasks"):
        from lm_eval.api.model import TemplateLM
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class Engine(TemplateLM):
        """The engine behind the harness's interface."""

        @property
        def eot_token_id(self) -> int:
            return min(model.tokens.ends, default=0)

        @property
        def prefix_token_id(self) -> int:
            tokenizer = model.tokens.tokenizer
            begin = tokenizer.token_to_id(model.tokens.specials.get("bos_token") or "") if tokenizer else None
            return self.eot_token_id if begin is None else begin

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return model.tokens.encode(string, special=add_special_tokens is not False)

        def _loglikelihood_tokens(self, requests: list, **_: Any) -> list[tuple[float, bool]]:
            given: list[int] = []
            session: Session | None = None
            out = []
            for _words, context, continuation in requests:
                room = model.about["context"] + 1 - len(continuation)
                if room < 1:
                    raise EngineError(f"an answer of {len(continuation)} tokens does not fit the model's context")
                before = context[-room:]
                if session is None or before != given:  # the answers to one question share its prompt
                    session, given = model.session(model.about["context"], cache_bits), before
                    if len(before) > 1:
                        model.forward([(session, before[:-1])])
                session.truncate(len(before) - 1)
                logits = model.forward([(session, [before[-1], *continuation[:-1]])], every=True).astype(np.float64)
                logits -= logits.max(1, keepdims=True)
                logits -= np.log(np.exp(logits).sum(1, keepdims=True))
                chosen = logits[np.arange(len(continuation)), continuation]
                out.append((float(chosen.sum()), bool((logits.argmax(1) == continuation).all())))
            return out

        def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
            out = []
            for request in requests:
                ids = self.tok_encode(request.args[0], add_special_tokens=False)
                parts = get_rolling_token_windows(ids, self.prefix_token_id, model.about["context"], 1)
                pairs = [("", *make_disjoint_window(part)) for part in parts]
                out.append(sum(score for score, _ in self._loglikelihood_tokens(pairs)))
            return out

        def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
            out = []
            for request in requests:
                prompt, how = request.args
                until = how.get("until") or []
                most = int(how.get("max_gen_toks") or MOST)
                ids = model.ids(prompt)[-max(1, model.about["context"] - most) :]
                temperature = float(how.get("temperature") or 0.0) if how.get("do_sample") else 0.0
                stop = [until] if isinstance(until, str) else [word for word in until if word]
                pieces = model.generate(ids, stop=stop, max_tokens=most, temperature=temperature, cache_bits=cache_bits)
                out.append("".join(pieces))
            return out

    return Engine()
