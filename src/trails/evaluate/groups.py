"""Which chain was trained on: groups of chains by the export that an adapter was trained on, and by their sources."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trails.errors import UsageError
from trails.measure.base import Segmented
from trails.platform.files import sha256
from trails.platform.text import counted
from trails.schema import Run
from trails.train.check import check_adapter, check_base, read_json


def exported_chains(path: Path) -> set[str]:
    """Ids of the chains in an export. Raises UsageError for a file that does not name them."""
    try:
        if path.suffix == ".parquet":
            return set(pq.read_table(path, columns=["chain"])["chain"].to_pylist())
        with path.open(encoding="utf-8", newline="\n") as lines:  # other line ends may lie inside a text
            return {json.loads(line)["chain"] for line in lines if line.strip()}
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        why = str(error).partition("\n")[0]
        raise UsageError(
            f"{path} is not an export that names its chains ({type(error).__name__}: {why}). Give the file that was trained "
            "on: trails export --subgraph SELECTION --format trails -o FILE"
        ) from None


COMPARED = "compared"
"""Group of chains of which nothing says whether a training saw them."""


@dataclass(frozen=True, slots=True)
class Fed:
    """What a training was fed of its export. ``never`` are chains of the export of which no row was; ``first`` is, for chains
    that were cut, how many of their tokens were fed, from the first on; ``max_tokens`` the length of the cut (0: none).
    """

    never: frozenset[str] = frozenset()
    first: Mapping[str, int] = field(default_factory=dict)
    max_tokens: int = 0


def fed_of(exported: Path | None, adapter: Path | None) -> Fed:
    """What an adapter was fed of the export that it was trained on, by its record and by the order of the rows.

    Where the record names no number of rows, or other rows than the export's, everything is believed to have been fed; of
    shuffled steps no token is told from another.
    """
    record = (read_json(adapter / "train.json") or {}) if adapter is not None else {}
    options = record.get("options", {})
    longest, rows_there = int(options.get("max_tokens", 0)), int(record.get("rows", 0))
    seen = int(record.get("seen", rows_there))
    if exported is None or "rows" in record.get("identity", {}) or not (longest or seen < rows_there):
        return Fed()
    from trails.train.data import cut_rows, load_rows, shuffled_steps

    rows = load_rows(exported)
    every = {row["chain"] for row in rows}
    whole = shuffled_steps(rows, int(options.get("seed", 0))) if options.get("shuffle_steps") else rows
    lengths = {row["order"]: len(row["input_ids"]) for row in whole}
    first: dict[str, int] = {}
    fed = cut_rows(whole, longest, Counter())[: seen or None]
    uncut = {row["chain"] for row in fed if len(row["input_ids"]) == lengths[row["order"]]}
    for row in fed:
        if row["chain"] not in uncut and not options.get("shuffle_steps"):
            tokens = row["first"] + len(row["input_ids"]) - row["offset"]
            first[row["chain"]] = max(first.get(row["chain"], 0), tokens)
    return Fed(frozenset(every - {row["chain"] for row in fed}), first, longest if first else 0)


def groups_of(
    sources: Mapping[str, str], exported: Path | None, unrelated: Collection[str], never: Collection[str] = ()
) -> dict[str, str]:
    """Group of every chain, by its source: trained and held out by the export's files, unseen (another source than the
    trained ones), unrelated by name, and not_fed: chains ``never`` fed of the export. Without an export nothing says what a
    training saw: every chain that is not unrelated is :data:`COMPARED`.

    Raises UsageError for a name in ``unrelated`` that fits no source, and for a source of which a chain was trained on: its
    other chains are held out, and a loss on them is no damage to text of another kind.
    """
    for name in unrelated:
        if not any(_named(source, name) for source in sources.values()):
            known = ", ".join(sorted(set(sources.values())))
            raise UsageError(f"--unrelated {name!r} fits no source of this run. Sources: {known}")
    trained: set[str] = set()
    held: set[str] = set()
    if exported is not None:
        trained = exported_chains(exported)
        beside = exported.with_name(f"{exported.stem}.held_out{exported.suffix}")
        held = exported_chains(beside) if beside.is_file() else set()
    families = {sources[chain] for chain in trained if chain in sources}
    for name in unrelated:
        both = sorted(source for source in families if _named(source, name))
        if both:
            count = sum(sources.get(chain) in both for chain in trained)
            raise UsageError(
                f"--unrelated {name!r} was asked for, and {count} {'chain' if count == 1 else 'chains'} of {', '.join(both)} "
                f"{'is' if count == 1 else 'are'} in {exported}, so this source was trained on. Name a source that was not, "
                "or train without it, e.g. trails export --subgraph source:NAME"
            )
    groups = {}
    for chain, source in sources.items():
        if chain in trained:
            groups[chain] = "not_fed" if chain in never else "trained"
        elif any(_named(source, name) for name in unrelated):
            groups[chain] = "unrelated"
        elif exported is None:
            groups[chain] = COMPARED
        elif chain in held or source in families or not trained:
            groups[chain] = "held_out"
        else:
            groups[chain] = "unseen"
    return groups


def _named(source: str, name: str) -> bool:
    return source == name or source.endswith(f"/{name}")


def check_trained(adapters: Sequence[Path], run: Run, exported: Path | None) -> None:
    """Raises ModelError for an adapter that is damaged or was trained on other weights than those of ``run``, and UsageError
    when its record names another export than ``exported``. Needs no model.
    """
    for folder in adapters:
        check_base(check_adapter(folder), run)
    if exported is not None:
        check_export(exported, adapters)


def not_trained_on(items: Sequence[Segmented], exported: Path | None) -> tuple[list[Segmented], int | None]:
    """Chains that are not in the export that was trained on, in the order of their ids, and how many were left out: all of them
    and None without an export.
    """
    items = sorted(items, key=lambda item: item.chain.id)
    if exported is None:
        return items, None
    trained = exported_chains(exported)
    left = [item for item in items if item.chain.id not in trained]
    return left, len(items) - len(left)


def said_left_out(trained_on: int | None) -> str:
    """What a report notes about chains that were trained on; None: no export was given to look into."""
    if trained_on is None:
        return "not checked: whether these chains were trained on. Give the export: --export FILE"
    return f"{counted(trained_on, 'chain was', 'chains were')} trained on and left out of the selection"


def check_export(exported: Path, adapters: Sequence[Path]) -> None:
    """Raises UsageError when the record of an adapter names another export. One without a record is believed."""
    try:
        digest = sha256(exported)
    except OSError as error:
        raise UsageError(f"{exported} cannot be read ({error}). Give the file that was trained on.") from None
    for folder in adapters:
        known = (read_json(folder / "train.json") or {}).get("identity", {}).get("export")
        if known not in (None, digest):
            raise UsageError(
                f"{folder} was trained on another export than {exported} (SHA-256 {known[:12]}, not {digest[:12]}). "
                "Give the export that it was trained on."
            )
