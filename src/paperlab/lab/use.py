"""What `paperlab.load` gives: each method as its driver promises it, with its parameters set."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from paperlab.core.card import Arm
from paperlab.core.methods import act_of, find_method
from paperlab.lab.arms import driver, functions_of
from paperlab.lab.describe import dress
from paperlab.lab.errors import RunError
from paperlab.lab.state import random_state_kept


def load(name: str, **params: Any) -> Callable[..., Any]:
    """The method `name` with its parameters set, ready to be plugged into one's own code.

        small = load("gptq", bits=4, group=64)(model, calibration=texts)     a compressed copy of the model
        value = load("focal", gamma=2.0)(logits, labels)                     a loss
        layer = load("bitnet-1-58-bottom-up")(64, 128, True)                 a module
        merged = load("ties")(base, [model_a, model_b])                      one model of several

    `paperlab show NAME` prints the lines for each. Raises UnknownMethod, ParameterError, or RunError for a study.
    """
    method = find_method(name)
    functions = functions_of(Arm(method.slug, params))
    act = act_of(method)
    if act is None:
        raise RunError(f"{method.slug} is a study: it compares methods and has none of its own")
    made = driver(act.name).use(method, functions, params)
    return dress(_without_traces(made) if "adapter" in method.verbs and callable(made) else made, method, params)


def _without_traces(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, after which random states are what they were: new layers draw their first values."""

    @wraps(function)
    def call(*values: Any, **named: Any) -> Any:
        with random_state_kept():
            return function(*values, **named)

    return call
