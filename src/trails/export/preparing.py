"""Everything that can be refused before a row is read, and the batches of rows that are read then."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from trails.errors import UsageError
from trails.export.choose import (
    Masking,
    apply_mask,
    apply_weights,
    damp_spans,
    parse_mask,
    parse_weights,
    scale_rows,
)
from trails.export.files import SAVED, SUFFIXES
from trails.export.formats import WRITERS, refusal, writer_named
from trails.export.options import ExportOptions, layers_text
from trails.export.order import parse_order
from trails.export.planning import Arrangement
from trails.export.record import COLUMNS, CONVERSATION, Batch, Ending, build, coalesce, placed, ragged
from trails.export.subgraph import Selection
from trails.export.variant_rows import read_refusals, stored_variants, variant_tables
from trails.export.writer import Writer
from trails.platform.arrays import Floats
from trails.platform.text import counted
from trails.platform.threads import ahead
from trails.schema import SHARD_SCHEMA, Run
from trails.store.outputs import check_output
from trails.store.resolve import measured_runs, run_of, undescribed
from trails.store.traces import TraceStore

logger = logging.getLogger(__name__)

BATCH_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Prepared:
    """An export that was found possible. ``files`` are its rows by split, ``beside`` their provenance where the format has no
    room for it; ``reference`` holds surprisals by chain for the weights ``excess:RUN``.
    """

    selection: Selection
    traces: TraceStore
    writer: Writer
    options: ExportOptions
    mask: Masking
    run: Run
    files: dict[str, Path]
    card: Path
    beside: dict[str, Path]
    reference: dict[str, Floats]
    ending: Ending | None

    def ends(self, rows: int) -> str:
        """What the ``rows`` end with, in words."""
        if self.ending is None:
            return (
                "A row ends where the selection ends: no end-of-sequence token is added, and the final answer is not in it "
                "(--answer adds it in formats of texts)."
            )
        tags = (
            f"the marks {' and '.join(repr(mark.strip()) for mark in self.ending.think)} stand around the chain"
            if any(self.ending.think)
            else ""
        )
        without = len(self.ending.missing)
        if not self.options.answer:
            answer = "a row ends after the chain, without its answer"
        elif not without:
            answer = "a row ends with the final answer"
        elif without == rows:
            answer = "no row has a final answer, so a row ends after the chain"
        else:
            ended = counted(rows - without, "row ends", "rows end")
            bare = counted(without, "has none and stops", "have none and stop")
            answer = f"{ended} with the final answer, {bare} after the chain"
        whole = "; ".join(filter(None, (tags, answer)))
        return f"{whole[0].upper()}{whole[1:]}; no end-of-sequence token is added."


def prepare(
    selection: Selection,
    traces: TraceStore,
    format: str,
    to: Path,
    options: ExportOptions,
    arrangement: Arrangement | None = None,
) -> Prepared:
    """Check everything that can be checked before a row is read. Raises UsageError with what to write instead."""
    if options.variants and re.fullmatch(r"v[0-9a-f]{16}", str(options.variants)):
        options = replace(options, variants=stored_variants(traces, str(options.variants)))
    if options.refuse and not options.variants:
        raise UsageError(
            "--refuse leaves out variants, but none were asked for. Add --variants, or leave out --refuse."
        )
    if options.variants_each and not options.variants:
        raise UsageError(
            "--variants-each says how many variants of a chain are taken, but none were asked for. Add "
            "--variants v…, or the "
            'line VARIANTS → "v…" of a block.'
        )
    writer = writer_named(format)
    mask = parse_mask(options.mask)
    reference_run = parse_weights(options.weights)
    parse_order(options.order)
    if not 0 <= options.split < 1:
        raise UsageError(f"split {options.split} must lie in [0, 1). Write for example --split 0.1.")
    for line in undescribed(traces, traces.nameless()):
        logger.warning(line)
    run = run_of(measured_runs(traces), options.run)
    if any(layer < 1 or (run.n_layers and layer > run.n_layers) for layer in options.layers):
        last = run.n_layers or "the last one"
        raise UsageError(f"layers {layers_text(options.layers)} do not exist. This model has layers 1 to {last}.")
    ending = _ending(options, writer)
    files, card, beside = _places(to, writer, options, tuple(arrangement.parts) if arrangement is not None else ())
    if options.weights != "uniform" and "weights" not in writer.keeps and not options.lossy:
        raise refusal(writer, f"the weights {options.weights!r}", "weights")
    if selection.weighted and "weights" not in writer.keeps and not options.lossy:
        raise refusal(writer, "the weights of the selection", "weights")
    if options.order not in ("shuffled", "source") and "order" not in writer.keeps and not options.lossy:
        raise refusal(writer, f"the order {options.order!r}", "order")
    if options.variants and selection.damped:
        raise UsageError(
            "a span of a chain is damped, but variants have other tokens, so the span does not fit them. Leave "
            "out the variants, "
            "or the line GRADIENT DAMPEN."
        )
    if selection.targeted and not writer.open:
        raise UsageError(
            f"lines DRIFT are targets of the attention objective, and format {writer.name!r} has no room for them. Write "
            "--format trails, or leave OBJECTIVE → attention out of the block."
        )
    if (selection.staged or arrangement is not None) and "order" not in writer.keeps and not options.lossy:
        raise refusal(writer, "the stages of the selection", "order")
    reference = _reference(traces, reference_run, selection)
    return Prepared(selection, traces, writer, options, mask, run, files, card, beside, reference, ending)


def batches(prepared: Prepared) -> Iterator[Batch]:
    """The rows of an export with their masks and weights, in bounded batches."""
    selection, options = prepared.selection, prepared.options
    for batch in _records(prepared):
        made = apply_weights(apply_mask(batch, prepared.mask, options.seed), options.weights, prepared.reference)
        if selection.weighted:
            roots = zip(made.ids_of("chain"), made.ids_of("parent"), strict=True)
            factors = np.array([selection.root(chain, parent).weight for chain, parent in roots], np.float32)
            made = scale_rows(made, factors)
            parts = (selection.part(chain) for chain in made.ids_of("chain"))
            made = damp_spans(made, [part.damped if part is not None else () for part in parts])
        if selection.anchored and len(made):
            roots = zip(made.ids_of("chain"), made.ids_of("parent"), strict=True)
            made = placed(made, [selection.root(chain, parent).anchor for chain, parent in roots], selection.spelled)
        yield made


def _records(prepared: Prepared) -> Iterator[Batch]:
    selection, run, options, ending = prepared.selection, prepared.run, prepared.options, prepared.ending
    columns = [
        *COLUMNS,
        *CONVERSATION,
        "n_context",
        *(["answer"] if options.answer else []),
        *(["family"] if options.split else []),
    ]
    before: dict[str, tuple[object, ...]] = {}  # what stands before chains after a conversation, for their variants
    tables = prepared.traces.tables(columns, run.id, selection.numbers, rows=BATCH_ROWS)
    for table in ahead(coalesce(tables, BATCH_ROWS)):
        if ending is not None and ending.answers is not None:
            if not options.variants:
                ending.answers.clear()
            ending.answers.update(zip(table["chain"].to_pylist(), table["answer"].to_pylist(), strict=True))
        if options.variants:
            rows = zip(*(table[name].to_pylist() for name in ("chain", *CONVERSATION)), strict=True)
            before |= {chain: own for chain, *own in rows if any(part is not None for part in own)}
        made = build(table, selection, run, layers=options.layers, ending=ending)
        if made is not None:
            yield made
    if options.variants:
        refused = read_refusals(options.refuse, options.variants) if options.refuse else set()
        whole = replace(selection, parts=None)  # variants have ids of their own: their parent is what was selected
        for table in variant_tables(options.variants, run, options.variants_each):
            # the plain variant is the chain itself, which is there already
            kinds = [dict(item).get("variant") for item in table["metadata"].to_pylist()]
            names = table["chain"].to_pylist()
            own = [kind != "plain" and name not in refused for kind, name in zip(kinds, names, strict=True)]
            table = table.filter(pa.array(own, pa.bool_()))
            if selection.parts is not None:
                parents = [dict(item).get("parent") for item in table["metadata"].to_pylist()]
                table = table.filter(pa.array([parent in selection.parts for parent in parents], pa.bool_()))
            parents = [dict(item).get("parent") for item in table["metadata"].to_pylist()]
            for place, name in enumerate(CONVERSATION):
                values = [before[parent][place] if parent in before else None for parent in parents]
                table = table.append_column(name, pa.array(values, SHARD_SCHEMA.field(name).type))
            made = build(table, whole, run, layers=options.layers, ending=ending)
            if made is not None:
                asked = pa.array([selection.digest] * len(made), pa.string())
                rest = made.rest.set_column(
                    made.rest.column_names.index("subgraph"), made.rest.field("subgraph"), asked
                )
                yield replace(made, rest=rest)


def _ending(options: ExportOptions, writer: Writer) -> Ending | None:
    if not options.answer and not options.think_tags:
        return None
    if not writer.texts:
        able = ", ".join(name for name, other in WRITERS.items() if other.texts)
        raise UsageError(
            f"format {writer.name!r} holds token ids as they were measured, and the answer and the marks of a thought were not "
            f"measured. Formats of texts: {able}. Or leave out --answer and --think-tags."
        )
    opened, comma, closed = options.think_tags.partition(",")
    if options.think_tags and not (comma and opened.strip() and closed.strip()):
        raise UsageError(
            f"think tags {options.think_tags!r} cannot be read. Write two marks with a comma: --think-tags '<think>,</think>'."
        )
    marks = (f"{opened.strip()}\n", f"\n{closed.strip()}\n") if comma else ("", "")
    return Ending(marks, {} if options.answer else None)


def _places(
    to: Path, writer: Writer, options: ExportOptions, further: Sequence[str] = ()
) -> tuple[dict[str, Path], Path, dict[str, Path]]:
    """Files of the splits, of the card, and of the provenance beside them."""
    raw_json = any((writer_field.metadata or {}).get(b"json") for writer_field in writer.schema)
    if to.suffix and to.suffix not in SUFFIXES:
        raise UsageError(f"{to} ends in {to.suffix!r}. Write a name that ends in {' or '.join(SUFFIXES)}, or a folder.")
    if to.suffix and writer.folder:
        raise UsageError(f"format {writer.name!r} is a folder. Write a name without {to.suffix!r}.")
    if to.suffix == ".parquet" and raw_json:
        raise UsageError(f"format {writer.name!r} has rows that Parquet cannot hold. Write a name that ends in .jsonl.")
    if to.suffix:
        stem, folder, suffix, card_file = to.stem, to.parent, to.suffix, to.with_name(f"{to.stem}.README.md")
    else:
        stem, folder, suffix, card_file = "train", to, ".jsonl" if raw_json else ".parquet", to / "README.md"
    if writer.folder:  # the names that trainers look for
        files = {"train": to / "train" / SAVED, "held_out": to / "validation" / SAVED}
        files |= {name: to / name / SAVED for name in further}
        named = {split: to / path.parent.name for split, path in files.items()}
    else:
        files = {"train": folder / f"{stem}{suffix}", "held_out": folder / f"{stem}.held_out{suffix}"}
        files |= {name: folder / f"{stem}.{name}{suffix}" for name in further}
        named = {split: path.with_suffix("") for split, path in files.items()}
    if not options.split:
        del files["held_out"]
    for path in (*files.values(), card_file):
        check_output(path)
    beside = {k: named[k].with_name(f"{named[k].name}.graph.jsonl") for k in files} if writer.beside else {}
    if not options.overwrite:
        for path in (*files.values(), card_file, *beside.values()):
            if path.exists():
                raise UsageError(f"{path} exists. Choose another name, or add --overwrite.")
    return files, card_file, beside


def _reference(traces: TraceStore, name: str, selection: Selection) -> dict[str, Floats]:
    if not name:
        return {}
    run = run_of(measured_runs(traces), name)
    found: dict[str, Floats] = {}
    for table in traces.tables(["chain", "surprisal"], run.id, selection.numbers):
        rows = ragged(table["surprisal"], np.float32)
        for index, chain in enumerate(table["chain"].to_pylist()):
            found[chain] = rows.values[rows.offsets[index] : rows.offsets[index + 1]].copy()
    return found
