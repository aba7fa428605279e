"""Subgraph → training data: the canonical record, its masks, weights and order, and one writer per trainer.

    selection → records (record) → masks and weights (choose) → split and order → rows of a format (one file per writer)

Rows stream through temporary files beside the output, so memory does not grow with the corpus. The same selection of
the same traces with the same options gives the same bytes, in whatever order the traces were stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trails.errors import InputError, StoreError, UsageError
from trails.export.formats import WRITERS, refusal, writer_named
from trails.export.options import ExportOptions, ExportReport, parse_layers
from trails.export.planning import Arrangement, Facts, plan, plan_arranged
from trails.export.preparing import Prepared, batches, prepare
from trails.export.record import DRIFT, DRIFT_FIELD, RECORD, VERSIONS
from trails.export.spill import Spill
from trails.export.split import GramIndex
from trails.export.subgraph import Selection
from trails.export.writer import PROVENANCE
from trails.export.writing import describe, write
from trails.platform.files import refused, scratch_folder, text_lines
from trails.platform.text import counted
from trails.store.traces import TraceStore, id_numbers

__all__ = [
    "WRITERS",
    "Arrangement",
    "ExportOptions",
    "ExportReport",
    "export_selection",
    "parse_layers",
    "read_records",
    "writer_named",
]


def export_selection(
    selection: Selection,
    traces: TraceStore,
    format: str,
    to: Path,
    options: ExportOptions | None = None,
    *,
    arrangement: Arrangement | None = None,
    **given: Any,
) -> ExportReport:
    """Write a selection as training data to the file ``to`` (``.jsonl`` or ``.parquet``) or into the folder ``to``.

    Options come as a record or as keywords; an ``arrangement`` says the order in
    place of the options. Held-out rows go to a second file, the card beside them. Raises UsageError for
    an unknown format or option, for an output that exists (without ``overwrite``), and for a format that would lose a mask,
    a weight, the order or a conversation (without ``lossy``).
    """
    try:
        return _export(selection, traces, format, to, options or ExportOptions(**given), arrangement)
    except OSError as error:
        raise StoreError(f"{to} cannot be written: {refused(error)}") from error


def _export(
    selection: Selection,
    traces: TraceStore,
    format: str,
    to: Path,
    options: ExportOptions,
    arrangement: Arrangement | None,
) -> ExportReport:
    prepared = prepare(selection, traces, format, to, options, arrangement)
    writer, options = prepared.writer, prepared.options
    prepared.card.parent.mkdir(parents=True, exist_ok=True)
    with (
        scratch_folder(prepared.card.parent, f".{prepared.card.name}.trails-export-", alone_on=to) as folder,
        Spill(folder, [*writer.schema.names, *writer.reads, *PROVENANCE]) as spill,
        GramIndex(folder) as grams,
    ):
        facts = _collect(prepared, spill, grams, folder, ordered=arrangement is None)
        planned = plan_arranged(facts, arrangement) if arrangement is not None else plan(facts, grams, options)
        written = write(prepared, facts, planned, spill, to)
        return describe(prepared, facts, planned, written, to, arrangement)


def _collect(prepared: Prepared, spill: Spill, grams: GramIndex, folder: Path, *, ordered: bool) -> Facts:
    """Read every row once, to the disk. Raises UsageError where nothing is left, or the format cannot hold what is."""
    selection, options, writer = prepared.selection, prepared.options, prepared.writer
    gone: set[str] = set()
    facts = Facts(prepared.run, selection, folder, ordered=ordered, named=ordered and options.order == "source")
    for batch in batches(prepared):
        carries = np.bincount(batch.labels.row_of, batch.labelled, len(batch)) > 0
        facts.unlabelled += int((~carries).sum())
        kept = batch.keep(carries)
        if prepared.ending is not None and len(kept) < len(batch):
            gone |= set(batch.ids_of("chain")) - set(kept.ids_of("chain"))
        facts.add(kept, writer)
        if options.split:
            names = [name for name in ("chain", "parent", VERSIONS) if name in kept.rest.column_names]
            grams.add(kept.input_ids, *(id_numbers(kept.rest[name]) for name in names))
        spill.add(kept)
    if prepared.ending is not None and gone:
        prepared.ending.missing[:] = [chain for chain in prepared.ending.missing if chain not in gone]
    if not facts.rows:
        if facts.unlabelled:
            raise UsageError(f"mask {options.mask!r} leaves no token with loss. Choose another threshold.")
        raise UsageError(
            f"selection {selection.text!r} holds no chain that run {prepared.run.id} measured. Run: trails status"
        )
    if options.variants and not facts.variants:
        raise UsageError(
            f"no variant of {options.variants} is of a chain of the selection {selection.text!r}. "
            "Select the chains that the variants were made of."
        )
    if facts.unfit and not options.lossy:
        raise refusal(writer, f"the mask of {facts.unfit:,} of {counted(facts.rows, 'row')}", "mask")
    if facts.conversations and not options.lossy:
        what = f"the conversation before the question of {facts.conversations:,} of {counted(facts.rows, 'row')}"
        raise refusal(writer, what, "conversation")
    return facts


def read_records(path: Path) -> Iterator[pa.Table]:
    """The rows of a canonical export (format ``trails``), in the order written, with the column :data:`DRIFT` where it has one.

    Raises UsageError for a file of another format, InputError for one that cannot be read, which names the line of a text.
    """
    try:
        yield from _records(path)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        if path.suffix != ".parquet":
            for number, line in text_lines(path):
                try:
                    json.loads(line)
                except ValueError as wrong:
                    raise InputError(f"{path}:{number}: not JSON ({wrong}).") from None
        raise InputError(f"{path} cannot be read as an export ({' '.join(str(error).split())}).") from None


def _records(path: Path) -> Iterator[pa.Table]:
    record = RECORD
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        missing = set(RECORD.names) - set(file.schema_arrow.names)
        if DRIFT in file.schema_arrow.names:
            record = RECORD.append(DRIFT_FIELD)
        tables: Iterator[pa.Table] = (file.read_row_group(g) for g in range(file.num_row_groups))
    else:
        import pyarrow.json as pj

        with path.open(encoding="utf-8") as lines:
            first = lines.readline()
        if not path.stat().st_size:
            return
        if f'"{DRIFT}":' in first:
            record = RECORD.append(DRIFT_FIELD)
        table = pj.read_json(
            path, parse_options=pj.ParseOptions(explicit_schema=record, unexpected_field_behavior="ignore")
        )
        missing = {name for name in RECORD.names if f'"{name}":' not in first}
        tables = iter([table])
    if missing:
        raise UsageError(
            f"{path} is not an export in the format 'trails' (without {', '.join(sorted(missing)[:3])}). Run:"
            " trails export --subgraph SELECTION --format trails -o FILE"
        )
    for table in tables:
        yield table.select(record.names).cast(record)
