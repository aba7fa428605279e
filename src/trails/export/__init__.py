"""Subgraph → training data: the canonical record, its masks, weights and order, and one writer per trainer.

    selection → records (record) → masks and weights (choose) → split and order → rows of a format (one file per writer)

Rows stream through temporary files beside the output, so memory does not grow with the corpus. The same selection of
the same traces with the same options gives the same bytes, in whatever order the traces were stored.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trails.errors import UsageError
from trails.export import axolotl, canonical, llama_factory, messages, ms_swift, prompt_completion, trl
from trails.export.card import Counts, card, findings
from trails.export.choose import apply_mask, apply_weights, parse_mask, parse_weights
from trails.export.files import SAVED, SUFFIXES, describe_saved, write_file
from trails.export.order import arrange, parse_order, stratified_spread
from trails.export.record import COLUMNS, IGNORED, RECORD, build, coalesce, ragged
from trails.export.spill import Spill
from trails.export.split import GramIndex, shared_grams
from trails.export.subgraph import Selection
from trails.export.variant_rows import largest_edits, stored_variants, variant_tables
from trails.export.writer import PROVENANCE, Writer
from trails.platform.files import write_atomic
from trails.platform.threads import ahead
from trails.schema import Run, fitting_runs
from trails.store.traces import TraceStore, id_numbers

WRITERS: dict[str, Writer] = {
    writer.name: writer
    for writer in (
        trl.WRITER,
        prompt_completion.WRITER,
        messages.WRITER,
        axolotl.WRITER,
        axolotl.SEGMENT_WRITER,
        llama_factory.WRITER,
        llama_factory.TOKEN_WRITER,
        ms_swift.WRITER,
        canonical.WRITER,
    )
}
"""Formats by name."""

BATCH_ROWS = 2_000

__all__ = ["WRITERS", "ExportOptions", "ExportReport", "export_selection"]


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to do with the selected tokens. See :mod:`trails.export.choose`, ``order`` and ``split`` for the values.

    ``layers`` are the layers that a LoRA shall change (0 = first), empty for all. ``split`` is the share to hold out.
    ``run`` names the run whose numbers count (an id or its beginning; by default the only one without an adapter).
    ``variants`` is the id (``v…``) of what ``trails variants`` stored in the home, or its file.
    """

    mask: str = "none"
    weights: str = "uniform"
    order: str = "shuffled"
    stratify: bool = True
    layers: tuple[int, ...] = ()
    split: float = 0.0
    variants: Path | None = None
    seed: int = 0
    lossy: bool = False
    overwrite: bool = False
    run: str | None = None


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written. ``files`` maps split names to paths; ``digest`` is the SHA-256 of the training rows' file.

    ``lost`` says what the format could not hold (only with ``lossy``), ``settings`` how to load the file from where we are.
    """

    files: dict[str, Path]
    card: Path
    digest: str
    counts: Counts
    lost: tuple[str, ...] = ()
    lint: tuple[str, ...] = ()
    writer: str = ""
    settings: str = field(default="", repr=False)


def export_selection(
    selection: Selection, traces: TraceStore, format: str, to: Path, options: ExportOptions | None = None, **given: Any
) -> ExportReport:
    """Write a selection as training data to the file ``to`` (``.jsonl`` or ``.parquet``) or into the folder ``to``.

    Options come as a record or as keywords. Held-out rows go to a second file, the card beside them. Raises UsageError for
    an unknown format or option, for an output that exists (without ``overwrite``), and for a format that would lose a mask,
    a weight or the order (without ``lossy``).
    """
    options = options or ExportOptions(**given)
    if options.variants and re.fullmatch(r"v[0-9a-f]{16}", str(options.variants)):
        options = replace(options, variants=stored_variants(traces, str(options.variants)))
    writer = writer_named(format)
    mask = parse_mask(options.mask)
    reference_run = parse_weights(options.weights)
    parse_order(options.order)
    if not 0 <= options.split < 1:
        raise UsageError(f"split {options.split} must lie in [0, 1). Write for example --split 0.1.")
    run = _run(traces, options.run)
    if run.n_layers and any(not 0 <= layer < run.n_layers for layer in options.layers):
        raise UsageError(
            f"layers {_layers(options.layers)} do not exist. This model has layers 0 to {run.n_layers - 1}."
        )
    files, card_file, beside = _places(to, writer, options)
    if options.weights != "uniform" and "weights" not in writer.keeps and not options.lossy:
        raise UsageError(_refusal(writer, f"the weights {options.weights!r}", "weights"))
    if options.order not in ("shuffled", "source") and "order" not in writer.keeps and not options.lossy:
        raise UsageError(_refusal(writer, f"the order {options.order!r}", "order"))

    card_file.parent.mkdir(parents=True, exist_ok=True)
    reference = _reference(traces, reference_run, selection)
    with (
        tempfile.TemporaryDirectory(prefix=".trails-export-", dir=card_file.parent) as folder,
        Spill(Path(folder), [*writer.schema.names, *writer.reads, *PROVENANCE]) as spill,
        GramIndex(Path(folder)) as grams,
    ):
        facts = _Facts(run, named=options.order == "source")
        for table in _records(selection, traces, run, options):
            table = apply_weights(apply_mask(table, mask, options.seed), options.weights, reference)
            facts.add(table, writer)
            if options.split:
                named = id_numbers(table["chain"]), id_numbers(table["parent"])
                grams.add(ragged(table["input_ids"], np.int32), *named)
            spill.add(table)
        if not facts.rows:
            raise UsageError(
                f"selection {selection.text!r} holds no chain that run {run.id} measured. Run: trails status"
            )
        if options.variants and not facts.variants:
            raise UsageError(
                f"no variant of {options.variants} is of a chain of the selection {selection.text!r}. "
                "Select the chains that the variants were made of."
            )
        if facts.labelled == 0:
            raise UsageError(f"mask {options.mask!r} leaves no token with loss. Choose another threshold.")
        if facts.unfit and not options.lossy:
            raise UsageError(_refusal(writer, f"the mask of {facts.unfit} of {facts.rows} rows", "mask"))
        held = np.zeros(facts.rows, dtype=bool)
        components, largest = 0, 0.0
        if options.split:
            found = grams.split(options.split, facts.ids, facts.families, options.seed)
            held, components, largest = found.held_out, found.components, found.largest
        order = arrange(
            options.order,
            facts.ids,
            facts.surprisal,
            facts.families,
            facts.names,
            seed=options.seed,
            stratify=options.stratify,
        )
        parts = {"train": order[~held[order]]}
        if options.split:
            parts["held_out"] = order[held[order]][np.sort(np.unique(order[held[order]], return_index=True)[1])]
        hashes: dict[str, str] = {}
        digests: dict[str, str] = {}
        shared = 0
        spill.read()
        for split, rows in parts.items():
            chunks = _chunks(spill, rows, split)
            digests[split] = write_file(map(writer.convert, chunks), writer.schema, files[split])
            hashes[_beside_card(files[split], card_file)] = digests[split]
            if beside:
                chunks = _chunks(spill, rows, split)
                schema = pa.schema([RECORD.field(name) for name in PROVENANCE])
                hashes[beside[split].name] = write_file((t.select(PROVENANCE) for t in chunks), schema, beside[split])
        if options.split and facts.rows <= 2_000:  # a second way to the same answer, where it fits in memory
            shared = _shared(spill, parts)
    if writer.folder:
        describe_saved(to, {files[split].parent.name: digest for split, digest in digests.items()})
    lost = _lost(writer, options, facts)
    lint = facts.lint()
    counts = facts.counts(order, held, components, largest, shared)
    if options.variants and counts.variants:
        counts = replace(counts, max_edits=largest_edits(options.variants, selection))
    # names as they lie beside the card, so that the same export into another folder gives the same card
    settings = writer.settings.replace("FILE", to.name if writer.folder else files["train"].name)
    typed = writer.settings.replace("FILE", str(to if writer.folder else files["train"]))
    text = card(
        title=to.name if writer.folder else files["train"].stem,
        files={split: _beside_card(path, card_file) for split, path in files.items()},
        run=run,
        selection=selection.text,
        statement=selection.statement,
        parameters=selection.parameters,
        digest=selection.digest,
        counts=counts,
        options={
            "mask": options.mask,
            "weights": options.weights,
            "order": options.order + ("" if options.stratify else ", not stratified"),
            "layers": _layers(options.layers) or "all",
            "split": str(options.split),
            "variants": options.variants.name if options.variants else "none",
            "seed": str(options.seed),
        },
        writer=writer.name,
        settings=settings,
        columns=writer.schema.names,
        lost=lost,
        lint=lint,
        negative=findings(options.mask, options.weights, options.order, options.stratify, options.layers),
        hashes=hashes,
    )
    write_atomic(card_file, text)
    return ExportReport(files, card_file, digests["train"], counts, tuple(lost), tuple(lint), writer.name, typed)


def writer_named(name: str) -> Writer:
    """The writer of a format. Raises UsageError naming those that exist."""
    if name not in WRITERS:
        raise UsageError(f"format {name!r} does not exist. Formats: {', '.join(WRITERS)}.")
    return WRITERS[name]


def parse_layers(text: str) -> tuple[int, ...]:
    """``10-19,25`` as numbers. Raises UsageError for anything else."""
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise UsageError(f"layers {text!r} cannot be read. Write for example 10-19 or 3,7,10-19.")
        found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def read_records(path: Path) -> Iterator[pa.Table]:
    """The rows of a canonical export (format ``trails``), in the order written.

    Raises UsageError for a file of another format.
    """
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        missing = set(RECORD.names) - set(file.schema_arrow.names)
        tables: Iterator[pa.Table] = (file.read_row_group(g) for g in range(file.num_row_groups))
    else:
        import pyarrow.json as pj

        table = pj.read_json(
            path, parse_options=pj.ParseOptions(explicit_schema=RECORD, unexpected_field_behavior="ignore")
        )
        with path.open(encoding="utf-8") as lines:
            first = lines.readline()
        missing = {name for name in RECORD.names if f'"{name}":' not in first}
        tables = iter([table])
    if missing:
        raise UsageError(
            f"{path} is not an export in the format 'trails' (without {', '.join(sorted(missing)[:3])}). Run:"
            " trails export --subgraph SELECTION --format trails -o FILE"
        )
    for table in tables:
        yield table.select(RECORD.names).cast(RECORD)


def _run(traces: TraceStore, name: str | None) -> Run:
    runs = traces.runs()
    fitting = fitting_runs(runs, name)
    if len(fitting) != 1:
        known = (
            ", ".join(f"{run.id} ({run.model})" for run in runs.values()) or "none; measure with: trails ingest PATH"
        )
        asked = f"run {name!r}" if name else "a run"
        raise UsageError(f"{asked} was asked for and {len(fitting)} fit. Runs: {known}. Choose with --run.")
    return fitting[0]


def _places(to: Path, writer: Writer, options: ExportOptions) -> tuple[dict[str, Path], Path, dict[str, Path]]:
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
        named = {split: to / path.parent.name for split, path in files.items()}
    else:
        files = {"train": folder / f"{stem}{suffix}", "held_out": folder / f"{stem}.held_out{suffix}"}
        named = {split: path.with_suffix("") for split, path in files.items()}
    if not options.split:
        del files["held_out"]
    beside = {k: named[k].with_name(f"{named[k].name}.graph.jsonl") for k in files} if writer.beside else {}
    if not options.overwrite:
        for path in (*files.values(), card_file, *beside.values()):
            if path.exists():
                raise UsageError(f"{path} exists. Choose another name, or add --overwrite.")
    return files, card_file, beside


def _beside_card(path: Path, card_file: Path) -> str:
    """A file's name as seen from the card."""
    return path.relative_to(card_file.parent).as_posix()


def _refusal(writer: Writer, what: str, kept: str) -> str:
    able = ", ".join(name for name, other in WRITERS.items() if kept in other.keeps)
    return (
        f"format {writer.name!r} ({writer.trainer}) would lose {what}. Formats that keep it: {able}."
        " Or add --lossy to write it without."
    )


def _lost(writer: Writer, options: ExportOptions, facts: _Facts) -> list[str]:
    lost = []
    if options.weights != "uniform" and "weights" not in writer.keeps:
        lost.append(f"The weights `{options.weights}`: every token with loss counts 1.")
    if facts.unfit:
        lost.append(f"The mask of {facts.unfit} rows: every token of the completion has loss.")
    return lost


def _records(selection: Selection, traces: TraceStore, run: Run, options: ExportOptions) -> Iterator[pa.Table]:
    tables = traces.tables(list(COLUMNS), run.id, selection.chains, rows=BATCH_ROWS)
    for table in ahead(coalesce(tables, BATCH_ROWS)):
        yield build(table, selection, run, layers=options.layers)
    if options.variants:
        whole = replace(selection, parts=None)  # variants have ids of their own: their parent is what was selected
        for table in variant_tables(options.variants, run):
            if selection.parts is not None:
                parents = [dict(item).get("parent") for item in table["metadata"].to_pylist()]
                table = table.filter(pa.array([parent in selection.parts for parent in parents], pa.bool_()))
            made = build(table, whole, run, layers=options.layers)
            asked = pa.array([selection.digest] * len(made), pa.string())
            yield made.set_column(RECORD.get_field_index("subgraph"), RECORD.field("subgraph"), asked)


def _reference(traces: TraceStore, name: str, selection: Selection) -> dict[str, npt.NDArray[np.float32]]:
    if not name:
        return {}
    run = _run(traces, name)
    found: dict[str, npt.NDArray[np.float32]] = {}
    for table in traces.tables(["chain", "surprisal"], run.id, selection.chains):
        rows = ragged(table["surprisal"], np.float32)
        for index, chain in enumerate(table["chain"].to_pylist()):
            found[chain] = rows.values[rows.offsets[index] : rows.offsets[index + 1]].copy()
    return found


class _Facts:
    """What is remembered of every row: a few numbers and names, never its tokens. ``named`` keeps source and record, too."""

    def __init__(self, run: Run, *, named: bool) -> None:
        self.run, self._named = run, named
        self.rows = 0
        self.variants = 0
        self.names: list[tuple[str, str]] = []
        self._ids: list[npt.NDArray[np.bytes_]] = []
        self._chains: list[npt.NDArray[np.uint64]] = []
        self._surprisal: list[npt.NDArray[np.float64]] = []
        self._sizes: list[npt.NDArray[np.int32]] = []  # tokens, labels, 1 for a variant
        self._codes: dict[str, int] = {}  # families in the order met
        self._families: list[npt.NDArray[np.int32]] = []
        self.sources: Counter[tuple[str, str, str]] = Counter()
        self.weightless = 0
        self.unfit = 0
        self.nats = 0.0
        self.labelled = 0
        self.largest_id = -1

    def add(self, table: pa.Table, writer: Writer) -> None:
        """Remember the rows of a table."""
        n = len(table)
        if not n:
            return
        labels = ragged(table["labels"], np.int32)
        on = labels.values != IGNORED
        surprisal = np.nan_to_num(ragged(table["surprisal"], np.float32).values.astype(np.float64)) * on
        per_row = np.bincount(labels.row_of, on, n)
        sums = np.bincount(labels.row_of, surprisal, n)
        weights = np.bincount(labels.row_of, ragged(table["loss_weights"], np.float32).values, n)
        self._surprisal.append(np.divide(sums, per_row, out=np.full(n, math.nan), where=per_row > 0))
        variants = np.asarray(pc.not_equal(table["variant"], "").to_numpy())
        self.variants += int(variants.sum())
        self._sizes.append(np.stack([labels.lengths, per_row, variants], axis=1).astype(np.int32))
        self.labelled += int(on.sum())
        self.nats += float(surprisal.sum())
        self.weightless += int((weights == 0).sum())
        ids = ragged(table["input_ids"], np.int32).values
        self.largest_id = max(self.largest_id, int(ids.max()) if len(ids) else -1)
        if "mask" not in writer.keeps:
            fit = np.asarray(table["suffix"].to_numpy(zero_copy_only=False), dtype=bool)
            if writer.chat:
                context = [f"{q}\n" if q else "" for q in table["question"].to_pylist()]
                fit = fit & np.array([p == c for p, c in zip(table["prompt"].to_pylist(), context, strict=True)])
            self.unfit += int((~fit).sum())
        self.rows += n
        self._ids.append(np.array(table["id"].to_pylist(), np.bytes_))
        codes = [self._codes.setdefault(name, len(self._codes)) for name in table["family"].to_pylist()]
        self._families.append(np.array(codes, np.int32))
        sources, licences = table["source"].to_pylist(), table["licence"].to_pylist()
        if self._named:
            self.names += list(zip(sources, table["source_id"].to_pylist(), strict=True))
        self.sources.update(zip(sources, licences, table["language"].to_pylist(), strict=True))
        self._chains.append(id_numbers(table["chain"])[~variants])

    @property
    def ids(self) -> npt.NDArray[np.bytes_]:
        """Id of each row."""
        return np.concatenate(self._ids)

    @property
    def families(self) -> npt.NDArray[np.int64]:
        """Family of each row, numbered in the order of their names."""
        rank = np.argsort(np.argsort(np.array(list(self._codes))))
        return rank[np.concatenate(self._families)]

    @property
    def surprisal(self) -> npt.NDArray[np.float64]:
        """Mean over the labelled tokens of each row, nats."""
        return np.concatenate(self._surprisal)

    def lint(self) -> list[str]:
        """Checks that hold for what was written. Raises UsageError for a token outside the base vocabulary."""
        found = []
        if self.run.vocab_size:
            if self.largest_id >= self.run.vocab_size:
                raise UsageError(
                    f"token {self.largest_id} lies outside the base vocabulary of {self.run.vocab_size} tokens of"
                    f" {self.run.model}. Measure the chains again with this model: trails ingest"
                )
            found.append(
                f"Every token id lies in the base vocabulary ({self.run.vocab_size} tokens; largest id used"
                f" {self.largest_id}): no token is added, embeddings keep their size."
            )
        if self.weightless:
            found.append(f"{self.weightless} rows have weight 0 on every token and teach nothing.")
        return found

    def counts(
        self,
        order: npt.NDArray[np.int64],
        held: npt.NDArray[np.bool_],
        components: int,
        largest: float,
        shared: int,
    ) -> Counts:
        """Counts over the rows that were written."""
        tokens, labelled, variants = np.concatenate(self._sizes)[order].sum(0, dtype=np.int64).tolist()
        return Counts(
            rows=int((~held[order]).sum() + held.sum()),
            held_out=int(held.sum()),
            tokens=tokens,
            labelled=labelled,
            weightless=self.weightless,
            chains=len(np.unique(np.concatenate(self._chains))),
            variants=variants,
            mean_surprisal=self.nats / max(self.labelled, 1),
            sources=dict(self.sources),
            components=components,
            largest_component=largest,
            shared_grams=shared,
            spread=stratified_spread(self.families, order),
        )


def _chunks(spill: Spill, rows: npt.NDArray[np.int64], split: str) -> Iterator[pa.Table]:
    """The rows in order, numbered, in tables of bounded size."""
    start = 0
    for table in spill.take(rows, BATCH_ROWS):
        n = len(table)
        own = {"order": pa.array(np.arange(start, start + n)), "split": pa.array([split] * n)}
        start += n
        for name, values in own.items():
            if name in spill.columns:
                table = table.set_column(spill.columns.index(name), table.schema.field(name), values)
        yield table


def _shared(spill: Spill, parts: dict[str, npt.NDArray[np.int64]]) -> int:
    sides = [np.unique(rows) for rows in parts.values()]
    if not all(len(rows) for rows in sides):
        return 0
    train, held = (ragged(pa.concat_tables(spill.take(rows, BATCH_ROWS))["input_ids"], np.int64) for rows in sides)
    return shared_grams(train, held)


def _layers(layers: Sequence[int]) -> str:
    """Layers as written: ``10-19,25``."""
    parts: list[str] = []
    start = 0
    for index in range(1, len(layers) + 1):
        if index == len(layers) or layers[index] != layers[index - 1] + 1:
            first, last = layers[start], layers[index - 1]
            parts.append(str(first) if first == last else f"{first}-{last}")
            start = index
    return ",".join(parts)
