"""What the shell may complete a word to: slugs, families, claims, parameters, names of models. Nothing heavy is loaded.

Each function takes what was typed so far and returns candidates; typer keeps those that begin so. An error gives none:
a shell has no place to show it.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import typer


def _or_nothing(candidates: Callable[..., list[str]]) -> Callable[..., list[str]]:
    @wraps(candidates)
    def guarded(*given: Any, **named: Any) -> list[str]:
        try:
            return candidates(*given, **named)
        except Exception:
            return []

    return guarded


@_or_nothing
def papers(incomplete: str) -> list[str]:
    """Slugs of the catalogue and of methods that no paper describes."""
    from paperlab.core.methods import methods
    from paperlab.core.paper import papers

    return sorted({*papers(), *methods()})


@_or_nothing
def runnable(incomplete: str) -> list[str]:
    """Slugs of the methods that have checks."""
    from paperlab.core.methods import methods

    return sorted(slug for slug, method in methods().items() if method.card.checks)


@_or_nothing
def methods(incomplete: str) -> list[str]:
    """Slugs of all methods."""
    from paperlab.core.methods import methods

    return sorted(methods())


@_or_nothing
def families_and_methods(incomplete: str) -> list[str]:
    """Families that have methods, and slugs of methods."""
    from paperlab.core.methods import methods

    known = methods()
    return sorted({*known, *(method.card.family for method in known.values())})


@_or_nothing
def families(incomplete: str) -> list[str]:
    """All families of the catalogue."""
    from paperlab.core.paper import FAMILIES

    return list(FAMILIES)


@_or_nothing
def kinds(incomplete: str) -> list[str]:
    """All kinds of papers."""
    from paperlab.core.paper import KINDS

    return list(KINDS)


@_or_nothing
def verdicts(incomplete: str) -> list[str]:
    """All words of a verdict."""
    from paperlab.core.standings import MIXED, NOT_RUN
    from paperlab.core.verdict import WORDS

    return [*WORDS, MIXED, NOT_RUN]


@_or_nothing
def claims(ctx: typer.Context, incomplete: str) -> list[str]:
    """The claims of the method that is on the command line."""
    from paperlab.core.methods import find_method

    return [check.claim for check in find_method(_slug(ctx)).card.checks]


@_or_nothing
def settings(ctx: typer.Context, incomplete: str) -> list[str]:
    """Parameters of the method that is on the command line, up to the sign of equality."""
    from paperlab.core.methods import find_method

    slug = ctx.params.get("method") or _slug(ctx)
    return [f"{parameter.name}=" for parameter in find_method(slug).parameters]


def _slug(ctx: typer.Context) -> str:
    """The positional SLUG. Behind an option that still lacks its value it is not parsed into `params`."""
    return ctx.params.get("slug") or ctx.args[0]
