"""Queries whose SQL Django writes once, for what every page asks: to write it takes several times as long as the
database takes to answer."""

from collections.abc import Callable, Sequence
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import QuerySet

Given = int | str | date | None | Sequence[int]
Kind = type | int | None  # of what is given: int, str, date; of a list its length


class _Written(NamedTuple):
    """A query as SQL. parameters: for each the place among the values that are given, or -1 and a value of its own.
    columns: the names of the model's columns, for objects."""

    sql: str
    parameters: list[tuple[int, Any]]
    converters: Any
    model: Any
    columns: list[str]


class Prepared:
    """A query by numbers, words, days and lists of numbers.

    build: gives the query for such values, and for words that make it another one, as an order or a limit. It has to
    put the values in as they are, and may put each in several times. None is a value that makes it another query too.
    """

    def __init__(self, build: Callable[..., "QuerySet[Any, Any]"]) -> None:
        self.build = build
        self._written = lru_cache(maxsize=256)(self._write)

    def _write(self, kinds: tuple[Kind, ...], words: tuple[tuple[str, Any], ...]) -> _Written:
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
        query = self.build(*stands, **dict(words)).query
        compiler = query.get_compiler(connection=connection)
        sql, params = compiler.as_sql()
        places = {_adapted(value): place for place, value in enumerate(values)}
        if missing := set(places).difference(params):
            raise ValueError(f"a prepared query leaves out {len(missing)} of its {len(places)} values")
        columns = [column[0] for column in compiler.select]
        names = [column.target.attname for column in columns if hasattr(column, "target")]
        parameters = [(places.get(value, -1), value) for value in params]
        return _Written(sql, parameters, compiler.get_converters(columns), query.model, names)

    def _run(self, given: tuple[Given, ...], words: dict[str, Any]) -> tuple[_Written | None, list[Any]]:
        kinds: list[Kind] = []
        values: list[Any] = []
        for one in given:
            if one is None:
                kinds.append(None)
            elif isinstance(one, int | str | date):
                kinds.append(next(kind for kind in (int, str, date) if isinstance(one, kind)))
                values.append(_adapted(one))
            else:
                kinds.append(len(one))
                values += one
        if 0 in kinds:
            return None, []
        written = self._written(tuple(kinds), tuple(words.items()))
        with connection.cursor() as cursor:
            cursor.execute(written.sql, [own if place < 0 else values[place] for place, own in written.parameters])
            found = cursor.fetchall()
        return written, _converted(found, written.converters) if written.converters else found

    def rows(self, *given: Given, **words: Any) -> list[Any]:
        """The rows, each as a sequence; none where a list is empty. A list holds no value twice."""
        return self._run(given, words)[1]

    def column(self, *given: Given, **words: Any) -> list[Any]:
        """The first column of the rows."""
        return [row[0] for row in self.rows(*given, **words)]

    def objects(self, *given: Given, **words: Any) -> list[Any]:
        """The objects of a query of a model without `values_list`; what it defers is read when it is looked at."""
        written, found = self._run(given, words)
        if written is None:
            return []
        return [written.model.from_db(connection.alias, written.columns, row) for row in found]


def _stand_in(kind: type, number: int) -> Any:
    """A value that no query holds by itself, to see where a value goes."""
    if kind is date:
        return date.fromordinal(date(8000, 1, 1).toordinal() + number)
    return f"the value {number} of a prepared query" if kind is str else 7_400_000_000_000 + number


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
