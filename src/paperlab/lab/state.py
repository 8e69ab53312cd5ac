"""What belongs to the whole process and is left as it was found: random states, and torch's number of threads."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def _torch() -> Any:
    """Torch, where it is loaded: nothing here is a reason to load it."""
    return sys.modules.get("torch")


@contextmanager
def random_state_kept() -> Iterator[None]:
    """The global states of `random`, NumPy and torch after the block are those from before it."""
    torch, numpy = _torch(), sys.modules.get("numpy")
    plain = random.getstate()
    array = numpy.random.get_state() if numpy else None
    tensor = torch.get_rng_state() if torch else None
    try:
        yield
    finally:
        random.setstate(plain)
        if numpy:
            numpy.random.set_state(array)
        if torch:
            torch.set_rng_state(tensor)


def seed_all(seed: int) -> None:
    """Seed `random`, NumPy and torch, where they are loaded: what an arm draws depends on its seed alone, not on what
    ran before in the same process."""
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)
    if torch := _torch():
        torch.manual_seed(seed)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes in one thread: the last bits of its sums then do not depend on the number of cores."""
    torch = _torch()
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
