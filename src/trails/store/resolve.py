"""What somebody may write for a chain, a step, a run, a source or a family, and the one place where it is looked up.

=============  =====================================================================================
chain          its id, a beginning of it that no other has, SOURCE:RECORD, SOURCE:LINE, RECORD, or #N of ``trails chains``
step           CHAIN:STEP, the chain in any of these ways
run            its id, a beginning of it, or the name that ``trails rename run`` gave
source         its name, or the last part of it
family         its id, a beginning of it, or its name
=============  =====================================================================================

What is not there, or could be several, is a UsageError that says what there is. Nothing is looked up in the graph.
"""

from __future__ import annotations

import difflib
import logging
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from trails.errors import UsageError
from trails.platform.text import counted, named, whole_number
from trails.schema import Run, family_key, fitting_runs
from trails.store.traces import TraceStore

LEAST_BEGINNING = 2
"""Characters of an id that name it where no other begins so: every chain and every family begins with the same one."""
_TOO_SHORT = f"the beginning of an id needs {LEAST_BEGINNING} characters or more"
logger = logging.getLogger(__name__)
_COLUMNS = ("chain", "run", "source", "source_id", "family", "line")


class Names:
    """The chains of a home by everything that names them. The columns of names are read at the first question."""

    def __init__(self, traces: TraceStore) -> None:
        self._traces = traces
        self._rows: list[tuple[str, str, str, str]] | None = None  # source, record, id, family
        self._line: dict[str, int] = {}
        self._runs_of: dict[str, set[str]] = {}
        self._read_from: tuple[str, ...] = ()

    @property
    def rows(self) -> list[tuple[str, str, str, str]]:
        """(source, record, id, family) of every chain, sorted; records that are numbers sort as numbers."""
        there = self._traces.shard_names()
        if self._rows is None or self._read_from != there:
            self._read_from, self._runs_of, self._line = there, {}, {}
            found: dict[str, tuple[str, str, str, str]] = {}
            for table in self._traces.tables(_COLUMNS, rows=10_000):
                for row in table.to_pylist():
                    found[row["chain"]] = (
                        row["source"],
                        row["source_id"],
                        row["chain"],
                        family_key(row["family"] or ""),
                    )
                    self._runs_of.setdefault(row["chain"], set()).add(row["run"])
                    self._line[row["chain"]] = row["line"] or 0
            self._rows = sorted(found.values(), key=lambda row: (row[0], _sortable(row[1]), row[2]))
        return self._rows

    def chain(self, text: str, run: str | None = None) -> str:
        """Id of the chain that ``text`` names; with ``run`` among the chains of this run only."""
        fitting = self._fitting(named("chain", text), run)
        if len(fitting) == 1:
            return fitting[0]
        of = f" in run {run}" if run else ""
        if fitting:
            shown = ", ".join(fitting[:5]) + (" …" if len(fitting) > 5 else "")
            raise UsageError(
                f"chain {text!r} was asked for, {counted(len(fitting), 'chain fits', 'chains fit')}{of}: "
                f"{shown}. Write more of the id."
            )
        hint = self._hint(text.strip())
        raise UsageError(f"chain {text!r} was asked for, no chain fits{of}.{hint} All chains: trails chains")

    def _hint(self, text: str) -> str:
        """What else has the name ``text``, with the line that lists its chains; why a number or a beginning names none; else
        what is written much like it.
        """
        if text.startswith("#"):
            number = whole_number(text[1:])
            if number is None:
                return " Write # and a number with the digits 0 to 9."
            if not 1 <= number <= len(self.rows):
                return f" Chains have the numbers #1 to #{len(self.rows)}."
            return " It is a chain of another run."
        if 0 < len(text) < LEAST_BEGINNING and any(row[2].startswith(text) for row in self.rows):
            return f" {_TOO_SHORT[0].upper()}{_TOO_SHORT[1:]}."
        if text in {name for row in self.rows for name in (row[0], _last(row[0]))}:
            return f" It is a source. Its chains: trails chains --source {shlex.quote(text)}"
        if text and family_key(text) in {row[3] for row in self.rows}:
            return f" It is a family. Its chains: trails chains --family {shlex.quote(text)}"
        if text in set().union(*self._runs_of.values()):
            return f" It is a run. Its chains: trails chains --run {text}"
        near = difflib.get_close_matches(text, [f"{row[0]}:{row[1]}" for row in self.rows], 2)
        return f" Did you mean {' or '.join(near)}?" if near else ""

    def _fitting(self, text: str, run: str | None) -> list[str]:
        rows = [row for row in self.rows if run is None or run in self._runs_of[row[2]]]
        if not text:
            return []
        number = whole_number(text[1:]) if text.startswith("#") else None
        if number is not None:
            return [self.rows[number - 1][2]] if 1 <= number <= len(self.rows) and self.rows[number - 1] in rows else []
        exact = [row[2] for row in rows if row[2] == text]
        named = [row[2] for row in rows if text in (f"{row[0]}:{row[1]}", f"{_last(row[0])}:{row[1]}")]
        source, _, last = text.rpartition(":")
        line = whole_number(last) or 0
        lined = [row[2] for row in rows if self._line[row[2]] == line > 0 and source in (row[0], *_short(row[0]))]
        begins = [row[2] for row in rows if len(text) >= LEAST_BEGINNING and row[2].startswith(text)]
        records = [row[2] for row in rows if row[1] == text]
        return exact or named or lined or begins or records

    def chains(self, texts: Sequence[str]) -> list[str]:
        """Ids of several chains, each once."""
        return list(dict.fromkeys(self.chain(text) for text in texts))

    def step(self, text: str, run: str | None = None) -> tuple[str, int]:
        """Chain and index of a step ``CHAIN:STEP``; chain as in :meth:`chain`. Nobody looks whether it has the step."""
        chain, _, index = text.rpartition(":")
        number = whole_number(index)
        if not chain or number is None:
            raise UsageError(
                f"{text!r} is not a step. Write CHAIN:STEP, for example {self.rows[0][2] if self.rows else 'c…'}:3"
            )
        return self.chain(chain, run), number

    def place(self, text: str) -> str:
        """``CHAIN`` or ``CHAIN:STEP`` with the chain's whole id, for a chain or a step named in any way."""
        if self._fitting(text.strip(), None) or ":" not in text:
            return self.chain(text)
        chain, step = self.step(text)
        return f"{chain}:{step}"

    def of_source(self, text: str) -> list[str]:
        """Chains of a source, sorted."""
        text = named("source", text)
        found = sorted(row[2] for row in self.rows if text in (row[0], _last(row[0])))
        if not found:
            known = ", ".join(dict.fromkeys(row[0] for row in self.rows)) or "none"
            raise UsageError(f"source {text!r} was asked for, and there is none. There are: {known}")
        return found

    def of_family(self, text: str) -> list[str]:
        """Chains of a family, sorted."""
        text = named("family", text)
        key = family_key(text)
        found = {row[3] for row in self.rows if row[3]}
        begins = {value for value in found if len(text) >= LEAST_BEGINNING and value.startswith(text)}
        wanted = {key} & found or (begins if len(begins) == 1 else set())
        if not wanted:
            said = (
                f"{counted(len(begins), 'family fits', 'families fit')}: {', '.join(sorted(begins)[:5])}"
                if begins
                else "no family fits"
            )
            if not begins and text and any(value.startswith(text) for value in found):
                said += f": {_TOO_SHORT}"
            raise UsageError(f"family {text!r} was asked for, {said}. Families of chains: trails chains")
        return sorted(row[2] for row in self.rows if row[3] in wanted)


def _last(source: str) -> str:
    """``test`` of ``gsm8k/test``."""
    return source.rsplit("/", 1)[-1]


def _short(source: str) -> tuple[str, str, str]:
    """``chains`` and, as the file may have been called, ``chains.jsonl`` and ``chains.json``."""
    last = _last(source)
    return last, f"{last}.jsonl", f"{last}.json"


def _sortable(record: str) -> tuple[int, int, str]:
    return (0, int(record), record) if record.isdecimal() and len(record) < 19 else (1, 0, record)


def run_of(runs: Mapping[str, Run], text: str | None, another: str = "--run ID") -> Run:
    """The run with this id, unique beginning of an id, or name; without one the only run, or the only one without adapter,
    which is told where there are others. ``another`` is how the user names one.

    Raises UsageError when there is none, or more than one fits.
    """
    found = fitting_runs(runs, text)
    if len(found) == 1:
        if text is None:
            tell_default(found[0], runs, "the only one that is not a training or an intervention", another)
        return found[0]
    asked = "a run" if text is None else f"run {text!r}"
    if not found and isinstance(runs, MeasuredRuns) and runs.without_chains:
        lost = fitting_runs(runs.without_chains, text) or ([] if runs else list(runs.without_chains.values()))
        if lost:
            raise UsageError(f"{asked} was asked for: {without_chains(lost)}")
    known = ", ".join(f"{run.id} ({run.name or run.model})" for run in runs.values()) or (
        "none; measure with: trails ingest PATH"
    )
    raise UsageError(f"{asked} was asked for and {len(found)} fit. Runs: {known}. Choose with {another}.")


def tell_default(run: Run, runs: Mapping[str, Run], which: str, another: str) -> None:
    """Log which run was taken where nobody named one and there are several, and how another is named; once a command."""
    if len(runs) > 1:
        logger.info(
            "run %s (%s) was taken of %d, %s; another: %s",
            *(run.id, run.name or run.model, len(runs), which, another),
            extra={"once": True},
        )


class MeasuredRuns(dict[str, Run]):
    """Runs that measured a chain, by id. ``without_chains``: those that the home describes and that no shard has a chain of."""

    def __init__(self, runs: Mapping[str, Run], measured: Collection[str]) -> None:
        super().__init__({name: run for name, run in runs.items() if name in measured})
        self.without_chains = {name: run for name, run in runs.items() if name not in measured}


def measured_runs(traces: TraceStore) -> MeasuredRuns:
    """The runs that measured a chain of this home: one without chains is no run."""
    return MeasuredRuns(traces.runs(), traces.measured())


def without_chains(runs: Collection[Run]) -> str:
    """What to say about runs that a home describes and that no shard of it has a chain of."""
    names = ", ".join(f"{run.id} ({run.name or run.model})" for run in runs)
    which = f"{counted(len(runs), 'run')}, {names}, and no shard has a chain of {'it' if len(runs) == 1 else 'them'}"
    return (
        f"the home describes {which}. If chains were measured, shards are missing: put them back, or ingest the same input "
        "again, which measures only what is missing: trails ingest PATH"
    )


def chains_without_shard(count: int) -> str:
    """What to say about chains that the graph holds as this home's and no shard does."""
    return (
        f"{counted(count, 'measured chain of this home is', 'measured chains of this home are')} in the graph and in no shard: "
        "a shard is missing. Put it back, or ingest the same input again: only what is missing is measured"
    )


def undescribed(traces: TraceStore, keys: Collection[tuple[str, str]]) -> list[str]:
    """A sentence for every run that measured chains of this home and that no file of the home describes any more. ``keys`` are
    those of the home's shards (:meth:`TraceStore.keys`), or of such runs alone (:meth:`TraceStore.nameless`)."""
    known = traces.runs()
    of = Counter(run for _, run in keys if run not in known)
    return [
        f"{counted(count, 'chain belongs', 'chains belong')} to run {run}, which the home does not describe: "
        f"runs/{run}.json is missing, and they are left out. {DESCRIBE_AGAIN}"
        for run, count in sorted(of.items())
    ]


DESCRIBE_AGAIN = (
    "Restore the file, or ingest with the same model again: nothing is measured twice, and the file is written again"
)


def chain_rows(traces: TraceStore, names: Names) -> pa.Table:
    """What ``trails chains`` lists: one row a chain and run, with its steps, its nats, and its nats per measured
    token."""
    numbers = {row[2]: number for number, row in enumerate(names.rows, start=1)}
    columns = ("chain", "run", "source", "source_id", "line", "family", "text", "steps", "surprisal")
    rows = []
    for table in traces.tables(columns, rows=1_000):
        for row in table.to_pylist():
            if row["chain"] not in numbers:
                continue  # it came while the names were read; the next time it has a number
            known = [value for value in row["surprisal"] if value == value]
            rows.append(
                {
                    "number": numbers[row["chain"]],
                    "chain": row["chain"],
                    "source": row["source"],
                    "record": row["source_id"],
                    "line": row["line"],
                    "family": family_key(row["family"] or ""),
                    "run": row["run"],
                    "steps": len(row["steps"]),
                    "tokens": len(row["surprisal"]),
                    "nats": sum(known) if known else None,
                    "nats_per_token": sum(known) / len(known) if known else None,
                    "words": " ".join(row["text"].split()),
                }
            )
    rows.sort(key=lambda row: (row["number"], row["run"]))
    schema = pa.schema(
        [
            *(("number", pa.int64()), ("chain", pa.string()), ("source", pa.string()), ("record", pa.string())),
            ("line", pa.int64()),
            *(("family", pa.string()), ("run", pa.string()), ("steps", pa.int64()), ("tokens", pa.int64())),
            *(("nats", pa.float64()), ("nats_per_token", pa.float64()), ("words", pa.string())),
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)


KINDS_OF_OVERLAP = ("exact", "masked", "near", "skeleton")


def named_parameters(given: Mapping[str, Any], names: Names, runs: Mapping[str, Run]) -> dict[str, Any]:
    """The parameters of a named query with chains, steps and runs as whole ids, however they were written.

    Raises UsageError for one that does not exist: an empty table would say that it exists and nothing was found.
    """
    found = dict(given)
    for name, value in given.items():
        if not isinstance(value, str):
            continue
        if name in ("chain", "first", "second"):
            found[name] = names.chain(value)
        elif name == "step":
            chain, index = names.step(value)
            found[name] = f"{chain}:{index}"
        elif name in ("run", "before", "after"):
            found[name] = run_of(runs, value).id
        elif name == "kind" and value not in KINDS_OF_OVERLAP:
            raise UsageError(f"kind is {value!r} and must be one of {', '.join(KINDS_OF_OVERLAP)}.")
    return found
