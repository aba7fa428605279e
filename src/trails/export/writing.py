"""The rows in their files, and the card beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa

from trails.export.card import card, findings
from trails.export.files import describe_saved, write_file
from trails.export.options import ExportOptions, ExportReport, layers_text
from trails.export.planning import Arrangement, Facts, Plan
from trails.export.preparing import BATCH_ROWS, Prepared
from trails.export.record import RECORD, ragged
from trails.export.spill import Spill
from trails.export.split import shared_grams
from trails.export.subgraph import lost_line
from trails.export.variant_rows import largest_edits
from trails.export.writer import PROVENANCE, Writer
from trails.platform.arrays import Whole
from trails.platform.files import write_atomic
from trails.platform.text import counted

CHECKED = 2_000
"""Up to so many rows, train and held-out part are compared gram by gram once more: a second way to the same answer."""


ROOM = 2
"""So many times the tokens of the longest row a trainer has room for that tokenises its text again, with a template."""


@dataclass(frozen=True, slots=True)
class Written:
    """SHA-256 of the rows' file of every split, and of every file as named on the card; grams found in both parts."""

    digests: dict[str, str]
    hashes: dict[str, str]
    shared: int


def write(prepared: Prepared, facts: Facts, plan: Plan, spill: Spill, to: Path) -> Written:
    """Write the rows of every split, and their provenance where the format has no room for it."""
    writer, hashes, digests = prepared.writer, dict[str, str](), dict[str, str]()
    spill.read()
    for split, rows in plan.parts.items():
        file = prepared.files[split]
        digests[split] = write_file(_rows(writer, spill, rows, split, plan), _schema(writer, plan), file)
        hashes[_beside_card(file, prepared.card)] = digests[split]
        if beside := prepared.beside.get(split):
            schema = pa.schema([RECORD.field(name) for name in PROVENANCE])
            hashes[beside.name] = write_file(
                (table.select(PROVENANCE) for table, _ in _chunks(spill, rows, split)), schema, beside
            )
    shared = _shared(spill, plan.parts) if prepared.options.split and facts.rows <= CHECKED else 0
    if writer.folder:
        describe_saved(to, {prepared.files[split].parent.name: digest for split, digest in digests.items()})
    return Written(digests, hashes, shared)


def describe(
    prepared: Prepared, facts: Facts, plan: Plan, written: Written, to: Path, arrangement: Arrangement | None = None
) -> ExportReport:
    """Write the card and report what was written."""
    writer, options, selection, files = prepared.writer, prepared.options, prepared.selection, prepared.files
    ends = prepared.ends(facts.rows)
    lost, lint = _lost(writer, prepared, facts), [*facts.lint(), ends]
    if prepared.ending is not None and prepared.ending.missing:
        lint.append(f"{counted(len(prepared.ending.missing), 'row has', 'rows have')} no final answer to end with.")
    gone = [chain for chain, run in selection.lost if run == prepared.run.id]
    if gone:
        lint.append(lost_line(gone, prepared.run.id))
    loads = _loads(writer, facts)
    lint += loads
    counts = facts.counts(plan, written.shared)
    if options.variants and counts.variants:
        counts = replace(counts, max_edits=largest_edits(options.variants, selection))
    # names as they lie beside the card, so that the same export into another folder gives the same card
    room = {"LONGEST": facts.longest, "ROOM": ROOM * facts.longest}
    lines = (writer.settings_of_last if facts.earlier else "") or writer.settings
    lines = reduce(lambda text, name: text.replace(name, str(room[name])), room, lines)
    settings = lines.replace("FILE", to.name if writer.folder else files["train"].name)
    typed = lines.replace("FILE", str(to if writer.folder else files["train"]))
    text = card(
        title=to.name if writer.folder else files["train"].stem,
        files={split: _beside_card(path, prepared.card) for split, path in files.items()},
        run=prepared.run,
        # a card travels with the rows: a file of a statement is named without its folder
        selection=Path(selection.text).name if selection.text.endswith(".cypher") else selection.text,
        statement=selection.statement,
        parameters=selection.parameters,
        digest=selection.digest,
        counts=counts,
        options=_options(options) | ({"order": arrangement.name} if arrangement is not None else {}),
        writer=writer.name,
        settings=settings,
        columns=_schema(writer, plan).names,
        lost=lost,
        lint=lint,
        negative=findings(options.mask, options.weights, options.order, options.stratify, options.layers),
        hashes=written.hashes,
        told=arrangement.told if arrangement is not None else (),
    )
    write_atomic(prepared.card, text, sweep=True)
    digest = written.digests["train"]
    return ExportReport(
        *(files, prepared.card, digest, counts, tuple(lost), tuple(lint), writer.name, typed, ends, tuple(loads)),
        earlier=facts.earlier,
        gone=tuple(gone),
        answered=facts.rows - len(prepared.ending.missing) if options.answer and prepared.ending is not None else None,
    )


def _options(options: ExportOptions) -> dict[str, str]:
    """Options as the card names them."""
    return {
        "mask": options.mask,
        "weights": options.weights,
        "order": options.order + ("" if options.stratify else ", not stratified"),
        "layers": layers_text(options.layers) or "all",
        "split": str(options.split),
        "variants": options.variants.name if options.variants else "none",
        **({"variants of a chain": str(options.variants_each)} if options.variants_each else {}),
        "seed": str(options.seed),
        **({"think tags": options.think_tags} if options.think_tags else {}),
        **({"answer": "at the end"} if options.answer else {}),
    }


def _beside_card(path: Path, card_file: Path) -> str:
    """A file's name as seen from the card."""
    return path.relative_to(card_file.parent).as_posix()


def _lost(writer: Writer, prepared: Prepared, facts: Facts) -> list[str]:
    lost = []
    if "weights" not in writer.keeps:
        if prepared.options.weights != "uniform":
            lost.append(f"The weights `{prepared.options.weights}`: every token with loss counts 1.")
        if prepared.selection.weighted:
            lost.append("The weights of the selection: every row counts the same.")
    if facts.unfit:
        lost.append(f"The mask of {counted(facts.unfit, 'row')}: every token of the completion has loss.")
    if facts.conversations:
        lost.append(
            f"The conversation before the question of {counted(facts.conversations, 'row')}: they begin with the question."
        )
    return lost


def _loads(writer: Writer, facts: Facts) -> list[str]:
    """What the settings of the format train on, where that is not what the count of tokens with loss says by itself."""
    found = []
    if facts.earlier:
        found.append(
            f"{counted(facts.earlier, 'row has', 'rows have')} earlier turns of the assistant, of weight 0: context"
            " without loss. The settings train the last turn alone. A trainer of every assistant turn that reads no `weight`"
            " trains on them, too; trl, axolotl and llama-factory-tokens hold the labels themselves."
        )
        if facts.bare:
            found.append(
                f"{counted(facts.bare, 'row has', 'rows have')} one turn and no prompt: the settings leave"
                f" {'it' if facts.bare == 1 else 'them'} out, because TRL takes no empty prompt."
            )
    if writer.texts:
        found.append(
            "The trainer tokenises the texts again: marks, answers and end tokens carry loss, too, and are not in the count of"
            " tokens with loss."
        )
    return found


def _schema(writer: Writer, plan: Plan) -> pa.Schema:
    """Columns of a row; further ones are there where the plan has them and the format takes any column."""
    return pa.schema([*writer.schema, *plan.further.schema]) if writer.open and plan.further else writer.schema


def _rows(writer: Writer, spill: Spill, rows: Whole, split: str, plan: Plan) -> Iterator[pa.Table]:
    for table, start in _chunks(spill, rows, split):
        made = writer.convert(table)
        if writer.open and plan.further:
            more = plan.further.of(split, start, start + len(made))
            for name in plan.further.schema.names:
                made = made.append_column(plan.further.schema.field(name), more[name])
        yield made


def _chunks(spill: Spill, rows: Whole, split: str) -> Iterator[tuple[pa.Table, int]]:
    """The rows in order, numbered, in tables of bounded size, each with the number of its first row."""
    start = 0
    named = "held_out" if split == "held_out" else "train"
    for table in spill.take(rows, BATCH_ROWS):
        n = len(table)
        own = {"order": pa.array(np.arange(start, start + n)), "split": pa.array([named] * n)}
        for name, values in own.items():
            if name in spill.columns:
                table = table.set_column(spill.columns.index(name), table.schema.field(name), values)
        yield table, start
        start += n


def _shared(spill: Spill, parts: Mapping[str, Whole]) -> int:
    sides = [np.unique(rows) for rows in parts.values()]
    if not all(len(rows) for rows in sides):
        return 0
    train, held = (ragged(pa.concat_tables(spill.take(rows, BATCH_ROWS))["input_ids"], np.int64) for rows in sides)
    return shared_grams(train, held)
