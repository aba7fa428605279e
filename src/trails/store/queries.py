"""The library of named queries: the files of ``cypher/``, each one statement that runs unchanged on every graph store.

A file begins with comment lines::

    // Title in a few words
    // One or two lines that say what the query answers.
    // $chain: string = "c0123456789abcdef" | a chain's id
    // $run: string = "rd24d03ce8f154ddc" | a run's id
    // $limit: integer := 20 | rows at most
    // returns surprisal: float, nats

then the statement follows. A parameter's value after ``=`` is an example that works; one written after ``:=`` is used when
the parameter is not given. The rest of the line after ``|`` describes it.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from trails.errors import QueryError, UsageError
from trails.platform.ties import tie
from trails.schema import Run, fitting_runs
from trails.store.base import DEFAULT_MAX_ROWS, DEFAULT_TIMEOUT_S, GraphStore, Result
from trails.store.resolve import MeasuredRuns, Names, measured_runs, named_parameters, run_of, tell_default
from trails.store.traces import TraceStore

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "float": (float, int),
    "boolean": (bool,),
    "strings": (list,),
}
_PARAMETER = re.compile(r"\$(\w+): (\w+) (:?=) (.+?)(?: \| (.*))?$")
_RANKING = re.compile(r"(?:(abs|coalesce)\((\w+)[^)]*\)|(\w+))( DESC)?\s*(?:,|\n|$)")
_RETURNS = re.compile(r"returns (\w+): (\w+)(?:, (.*))?$")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a named query. ``example`` is a value that works on the packaged sample where one exists;
    ``default`` says whether it is used when the parameter is not given.
    """

    name: str
    type: str
    example: Any
    default: bool
    meaning: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the result; ``unit`` is empty for a plain number or text."""

    name: str
    type: str
    unit: str


@dataclass(frozen=True, slots=True)
class NamedQuery:
    """One file of ``cypher/``. ``statement`` is Cypher without the header; ``text`` the whole file."""

    name: str
    title: str
    description: str
    parameters: tuple[Parameter, ...]
    columns: tuple[Column, ...]
    statement: str
    text: str

    def bind(
        self,
        given: Mapping[str, Any],
        runs: Mapping[str, Run] | None = None,
        home: str = "",
        another: str = "--param run=ID",
    ) -> dict[str, Any]:
        """Parameters for the statement: what is given, then ``home`` and the only run if there is one, then defaults.
        ``another`` is how the user names a run, for the line that says which was taken.

        Strings are turned into the declared type. Raises UsageError that names what is missing, unknown or of another type.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise UsageError(f"query {self.name} has no parameter {', '.join(unknown)}. {self._usage()}")
        bound: dict[str, Any] = {}
        missing = []
        for parameter in self.parameters:
            if parameter.name in given:
                bound[parameter.name] = _typed(self.name, parameter, given[parameter.name])
            elif parameter.name == "run" and runs is not None and len(default := fitting_runs(runs)) == 1:
                bound["run"] = default[0].id
                which = "the only one that is not a training or an intervention"
                tell_default(default[0], runs, which, another)
            elif parameter.name == "home" and home:
                bound["home"] = home
            elif parameter.default:
                bound[parameter.name] = parameter.example
            else:
                missing.append(parameter.name)
        if missing == ["run"] and runs:
            listed = ", ".join(
                f"{run.id} ({run.model}{' + adapter' if run.adapter else ''}"
                f"{' + intervention' if run.intervention else ''})"
                for run in runs.values()
            )
            raise UsageError(f"query {self.name} asks one run and there are {len(runs)}: {listed}. Add --param run=ID")
        if missing == ["run"] and isinstance(runs, MeasuredRuns) and not runs and runs.without_chains:
            run_of(runs, None, another)
        if missing:
            raise UsageError(f"query {self.name} needs {', '.join(missing)}. {self._usage()}")
        return bound

    def execute(
        self,
        store: GraphStore,
        given: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_rows: int = DEFAULT_MAX_ROWS,
    ) -> Result:
        """Run the query on a store. Raises UsageError for parameters, QueryError for a statement that fails."""
        bound = self.bind(given or {})
        found = store.run(self.statement, bound, timeout_s=timeout_s, max_rows=max_rows, trusted=True)
        # an engine may not name the columns of no rows
        return found if found.rows else Result(tuple(column.name for column in self.columns), ())

    @property
    def ranked_by(self) -> tuple[str, str, bool]:
        """The column that puts the rows in order, its type, and whether its size counts without its sign: a measure
        (``float``) in either direction, a count (``integer``) where the largest comes first. The column is empty where the
        order is that of names, places or runs.
        """
        key = _RANKING.match(self.statement.rpartition("ORDER BY ")[2])
        name = (key[2] or key[3]) if key else ""
        kind = next((column.type for column in self.columns if column.name == name), "")
        if key is None or not (kind == "float" or (kind == "integer" and key[4])):
            return "", "", False
        return name, kind, key[1] == "abs"

    def tie(self, result: Result, bound: Mapping[str, Any]) -> str:
        """Where the order of the rows says nothing, as a sentence (:func:`trails.platform.ties.tie`). ``bound`` are the
        parameters that the statement got: where as many rows came as its limit allows, there may be more.
        """
        name, kind, by_size = self.ranked_by
        cut = result.truncated or bound.get("limit") == len(result.rows)
        if name not in result.columns or (kind == "integer" and not cut):
            return ""
        at = result.columns.index(name)
        values = [row[at] for row in result.rows if isinstance(row[at], int | float)]
        values = [abs(value) for value in values] if by_size else values
        return tie(values, None, name, more=cut) if len(values) == len(result.rows) else ""

    def _usage(self) -> str:
        if not self.parameters:
            return "It has no parameters"
        parts = [f"--param {p.name}={_shown(p.example)}" for p in self.parameters if not p.default]
        optional = [p.name for p in self.parameters if p.default]
        usage = f"Run: trails query {self.name} {' '.join(parts)}".rstrip()
        return usage + (f" (optional: {', '.join(optional)})" if optional else "")


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}'" if re.search(r"[^\w.:-]", text) else text


def _typed(query: str, parameter: Parameter, value: Any) -> Any:
    wanted = _TYPES[parameter.type]
    if isinstance(value, wanted) and not (isinstance(value, bool) and bool not in wanted):
        return value
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = [part.strip() for part in value.split(",")] if parameter.type == "strings" else None
        if isinstance(parsed, wanted) and not (isinstance(parsed, bool) and bool not in wanted):
            return parsed
    raise UsageError(
        f"query {query}: {parameter.name} is {value!r} and must be {'an' if parameter.type == 'integer' else 'a'} "
        f"{parameter.type}, for example {_shown(parameter.example)}"
    )


def folder() -> Path:
    """Where the files are: in the installed package, else in the repository that this file is part of."""
    package = Path(__file__).parents[1] / "cypher"
    return package if package.is_dir() else Path(__file__).parents[3] / "cypher"


@cache
def named_queries() -> Mapping[str, NamedQuery]:
    """All queries of the library by name (the file's name without ``.cypher``), sorted."""
    return {path.stem: parse(path.stem, path.read_text(encoding="utf-8")) for path in sorted(folder().glob("*.cypher"))}


def named_query(name: str) -> NamedQuery:
    """The query of this name. Raises UsageError that suggests similar names."""
    queries = named_queries()
    if name not in queries:
        near = difflib.get_close_matches(name, queries, 3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "Names are listed by: trails query --list"
        raise UsageError(f"there is no query {name!r}. {hint}")
    return queries[name]


def parse(name: str, text: str) -> NamedQuery:
    """Read one file. Raises QueryError naming the line that is not as described above."""
    header: list[str] = []
    body: list[str] = []
    for line in text.splitlines():
        (header if line.startswith("//") and not any(body) else body).append(line)
    lines = [line[2:].strip() for line in header]
    if len(lines) < 2:
        raise QueryError(f"cypher/{name}.cypher: the header needs a title and a description")
    parameters, columns, described = [], [], []
    for line in lines[1:]:
        if match := _PARAMETER.match(line):
            try:
                example = json.loads(match[4])
            except ValueError:
                raise QueryError(f"cypher/{name}.cypher: {line!r}: the example is no JSON value") from None
            if match[2] not in _TYPES:
                raise QueryError(f"cypher/{name}.cypher: {line!r}: type must be one of {', '.join(_TYPES)}")
            parameters.append(Parameter(match[1], match[2], example, match[3] == ":=", match[5] or ""))
        elif match := _RETURNS.match(line):
            columns.append(Column(match[1], match[2], match[3] or ""))
        elif line.startswith(("$", "returns ")):
            raise QueryError(f"cypher/{name}.cypher: {line!r} is neither a parameter nor a column")
        else:
            described.append(line)
    statement = "\n".join(body).strip()
    return NamedQuery(name, lines[0], " ".join(described).strip(), tuple(parameters), tuple(columns), statement, text)


def described(query: NamedQuery) -> dict[str, Any]:
    """A query as plain values, for machines."""
    return {
        "name": query.name,
        "title": query.title,
        "description": query.description,
        "parameters": [asdict(parameter) for parameter in query.parameters],
        "columns": [asdict(column) for column in query.columns],
        "cypher": query.statement,
    }


def bound_parameters(
    query: NamedQuery,
    given: Mapping[str, Any],
    traces: TraceStore,
    names: Names | None = None,
    another: str = "--param run=ID",
) -> dict[str, Any]:
    """Parameters of a named query as every way of asking it binds them: what is given (:func:`named_parameters`), then the only
    run of the home and the home itself, then defaults. ``home=""`` asks every home of the graph. ``another`` is how the user
    names a run, for the line that says which was taken.

    Raises UsageError as :meth:`NamedQuery.bind` and :func:`named_parameters` do.
    """
    runs = measured_runs(traces)
    asks_home = "home" not in given and any(parameter.name == "home" for parameter in query.parameters)
    home = traces.identity().id if asks_home else ""
    return query.bind(named_parameters(given, names or Names(traces), runs), runs, home, another)
