"""Queries whose SQL Django writes once, for what every page asks: to write it takes several times as long as the
database takes to answer."""

from collections.abc import Callable, Sequence
from datetime import date
from functools import lru_cache
from typing import Any

from django.db import connection
from django.db.models import QuerySet

Given = int | str | date | None | Sequence[int]


def _stand_in(kind: type, number: int) -> Any:
    """A value that no query holds by itself, to see where a value goes."""
    if kind is date:
        return date.fromordinal(date(8000, 1, 1).toordinal() + number)
    return f"the value {number} of a prepared query" if kind is str else 7_400_000_000_000 + number


class Prepared:
    """A query of columns (`values_list`), by numbers, words, days and lists of numbers.

    build: gives the query for such values, and for words that make it another one, as an order or a limit. It has to
    put the values in as they are, and may put each in several times. None is a value that makes it another query too.
    """

    def __init__(self, build: Callable[..., "QuerySet[Any, Any]"]) -> None:
        self.build = build
        self._written = lru_cache(maxsize=256)(self._write)

    def _write(
        self, kinds: tuple[type | int | None, ...], words: tuple[tuple[str, Any], ...]
    ) -> tuple[str, list[tuple[int, Any]], Any]:
        """The SQL; its parameters, each the place of a value or -1 and a value of its own; Django's converters."""
        values: list[Any] = []
        stands: list[Any] = []
        for kind in kinds:
            if kind is None:
                stands.append(None)
            elif isinstance(kind, int):
                stands.append([_stand_in(int, len(values) + n) for n in range(kind)])
                values += stands[-1]
            else:
                stands.append(_stand_in(kind, len(values)))
                values.append(stands[-1])
        compiler = self.build(*stands, **dict(words)).query.get_compiler(connection=connection)
        sql, params = compiler.as_sql()
        places = {_adapted(value): place for place, value in enumerate(values)}
        if missing := set(places).difference(params):
            raise ValueError(f"a prepared query leaves out {len(missing)} of its {len(places)} values")
        converters = compiler.get_converters([column[0] for column in compiler.select])
        return sql, [(places.get(value, -1), value) for value in params], converters

    def rows(self, *given: Given, **words: Any) -> list[Any]:
        """The rows, each as a sequence; none where a list is empty. A list holds no value twice."""
        kinds: list[type | int | None] = []
        values: list[Any] = []
        for one in given:
            if one is None:
                kinds.append(None)
            elif isinstance(one, int | str | date):
                kinds.append(type(one))
                values.append(_adapted(one))
            else:
                kinds.append(len(one))
                values += one
        if 0 in kinds:
            return []
        sql, places, converters = self._written(tuple(kinds), tuple(words.items()))
        with connection.cursor() as cursor:
            cursor.execute(sql, [fixed if place < 0 else values[place] for place, fixed in places])
            found = cursor.fetchall()
        return _converted(found, converters) if converters else found

    def column(self, *given: Given, **words: Any) -> list[Any]:
        """The first column of the rows."""
        return [row[0] for row in self.rows(*given, **words)]


def _adapted(value: Any) -> Any:
    """A value as the database's driver takes it."""
    return connection.ops.adapt_datefield_value(value) if isinstance(value, date) else value


def _converted(found: Sequence[Sequence[Any]], converters: Any) -> list[list[Any]]:
    """What the driver gave as what Django makes of it: days, lists."""
    rows = [list(row) for row in found]
    for place, (functions, expression) in converters.items():
        for convert in functions:
            for row in rows:
                row[place] = convert(row[place], expression, connection)
    return rows
