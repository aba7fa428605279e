"""The canonical training record: one row per training example, every token traceable to the graph.

A row is a chain's context (its question, as the run measured it) followed by the chain up to the last selected token. Only
selected tokens carry a label; what comes before them is context. Built column by column for a whole batch of rows, so the
cost per row is that of copying its numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trails.errors import UsageError
from trails.export.files import one_array
from trails.export.subgraph import Part, Selection
from trails.schema import Run, family_key

IGNORED = -100
"""Label of a token that gives no loss, as in PyTorch's cross entropy."""

_ids = pa.list_(pa.int32())
_numbers = pa.list_(pa.float32())

_SPAN = pa.struct([("step", pa.int32()), ("start", pa.int32()), ("end", pa.int32()), ("role", pa.string())])

RECORD = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("question", pa.string()),
        ("input_ids", _ids),
        ("attention_mask", pa.list_(pa.int8())),
        ("labels", _ids),
        ("loss_weights", _numbers),
        ("surprisal", _numbers),
        ("entropy", _numbers),
        ("order", pa.int64()),
        ("chain", pa.string()),
        ("step_spans", pa.list_(_SPAN)),
        (
            "token_ids_in_graph",
            pa.struct([("prefix", pa.string()), ("first", pa.int32()), ("count", pa.int32()), ("offset", pa.int32())]),
        ),
        ("layers_to_transform", _ids),
        ("tokenizer_sha", pa.string()),
        ("model_sha", pa.string()),
        ("subgraph", pa.string()),
        ("split", pa.string()),
        ("run", pa.string()),
        ("source", pa.string()),
        ("source_id", pa.string()),
        ("licence", pa.string()),
        ("language", pa.string()),
        ("family", pa.string()),
        ("parent", pa.string()),
        ("variant", pa.string()),
        ("suffix", pa.bool_()),
    ]
)
"""Columns of the record.

``prompt`` is the question with a line feed and then the chain up to the first selected token; ``completion`` the chain from
there to the last one. ``labels`` equal ``input_ids`` where the token gives loss and -100 elsewhere; not shifted.
``loss_weights`` are 0 where there is no label. ``surprisal`` and ``entropy`` are in nats (NaN where undefined).
``step_spans`` count from the start of ``input_ids``. ``token_ids_in_graph``: the token at ``input_ids[offset + i]`` is the
node ``prefix + str(first + i)``, for ``i < count``; what lies before ``offset`` is context without a node.
``layers_to_transform`` is empty for all layers. ``suffix`` says that exactly ``completion`` carries labels, so that prompt
and completion lose nothing. ``family`` is a stratum: what the record's metadata call so, else the source. ``parent`` and
``variant`` are empty unless the row is a microvariant of the chain ``parent``.
"""

DRIFT = "drift"
"""Further column of a record that lines DRIFT of a stellator file have targets for (:data:`DRIFT_FIELD`)."""

DRIFT_FIELD = pa.field(
    DRIFT,
    pa.list_(
        pa.struct(
            [
                ("start", pa.int32()),
                ("end", pa.int32()),
                ("measure", pa.string()),
                ("layers", pa.list_(pa.int32())),
                ("above", pa.bool_()),
                ("bound", pa.float64()),
            ]
        )
    ),
)
"""The mean of ``measure`` over the tokens ``start`` … ``end`` of ``input_ids`` and over ``layers`` (from 1, none: all) shall be
above ``bound``, or below it."""

HELD = pa.schema([*RECORD, ("messages", pa.string())])
"""What a writer can ask for: the record, and the conversation before the chain as JSON, empty where there is none."""

TOKEN_COLUMNS = ("input_ids", "labels", "loss_weights", "surprisal", "entropy")
"""Columns with a number for every token of a row, which masks and weights work on."""

COLUMNS = (
    "chain",
    "run",
    "source",
    "source_id",
    "licence",
    "language",
    "question",
    "text",
    "metadata",
    "tokenizer",
    "token_ids",
    "token_start",
    "token_end",
    "step_tokens",
    "steps",
    "question_token_ids",
    "question_surprisal",
    "surprisal",
    "entropy",
)
"""Columns of a shard that a record is made from."""

VERSIONS = "versions"
"""Column of :attr:`Batch.rest` with the family whose version a chain is; not of the record, whose ``family`` is a stratum."""

CONVERSATION = ("messages", "prefix_token_ids", "infix_token_ids")
"""Further ones, null for a chain without a conversation before it: the messages, and what stands around the question there."""

Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of different lengths: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""

    offsets: Int64  # (rows + 1,)
    values: npt.NDArray[Any]

    @property
    def lengths(self) -> Int64:
        """Length of every row."""
        return np.diff(self.offsets)

    @property
    def row_of(self) -> Int64:
        """Row index of every value."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)

    def after(self, first: Int64) -> Ragged:
        """Every row from its value ``first[row]`` on."""
        keep = np.arange(len(self.values)) >= np.repeat(self.offsets[:-1] + first, self.lengths)
        lengths = np.maximum(self.lengths - first, 0)
        return Ragged(np.concatenate([[0], np.cumsum(lengths)]), self.values[keep])

    def arrow(self, kind: pa.DataType) -> pa.Array:
        """As an Arrow list array whose values have the type ``kind``."""
        return pa.ListArray.from_arrays(pa.array(self.offsets.astype(np.int32)), pa.array(self.values, type=kind))


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of some rows before they are written: what masks and weights change, and ``rest``, the other columns.

    The ragged columns share their offsets; ``suffix`` (rows,) says that exactly the completion carries labels.
    """

    input_ids: Ragged
    labels: Ragged
    loss_weights: Ragged
    surprisal: Ragged
    entropy: Ragged
    suffix: Mask
    rest: pa.Table

    def __len__(self) -> int:
        return len(self.suffix)

    @property
    def labelled(self) -> Mask:
        """Which tokens carry a label, flat."""
        return np.asarray(self.labels.values != IGNORED)

    def ids_of(self, name: str) -> list[str]:
        """A column of text of :attr:`rest`."""
        return list(self.rest[name].to_pylist())

    def place(self, name: str) -> Int64:
        """A field of ``token_ids_in_graph``, (rows,)."""
        return np.asarray(one_array(self.rest["token_ids_in_graph"]).field(name).to_numpy(), np.int64)

    def keep(self, rows: Mask) -> Batch:
        """The batch without the rows that are False."""
        if rows.all():
            return self
        values = np.repeat(rows, self.labels.lengths)
        offsets = np.concatenate([[0], np.cumsum(self.labels.lengths[rows])])
        return replace(
            self,
            **{name: Ragged(offsets, getattr(self, name).values[values]) for name in TOKEN_COLUMNS},
            suffix=self.suffix[rows],
            rest=self.rest.filter(pa.array(rows)),
        )

    def arrow(self, name: str) -> pa.Array:
        """A column of :data:`HELD`."""
        kind = HELD.field(name).type
        if name in TOKEN_COLUMNS:
            found: Ragged = getattr(self, name)
            return found.arrow(kind.value_type)
        if name == "attention_mask":
            offsets = self.labels.offsets
            return Ragged(offsets, np.ones(offsets[-1], np.int8)).arrow(kind.value_type)
        return pa.array(self.suffix) if name == "suffix" else one_array(self.rest[name])


@dataclass(frozen=True, slots=True)
class Ending:
    """What the text of a row is completed with, for formats that hold texts.

    ``think`` are the marks around the chain, empty for none. ``answers`` are final answers by chain (None: not asked for); a
    row of another chain, or with an empty answer, ends without one; its chain is in ``missing``.
    """

    think: tuple[str, str] = ("", "")
    answers: dict[str, str] | None = None
    missing: list[str] = field(default_factory=list)

    def completed(self, table: pa.Table, parts: Sequence[Part], completions: Sequence[str]) -> list[str]:
        """The completions with marks and answer. Raises UsageError for a part of a chain, which has no end."""
        if not all(part.whole for part in parts):
            raise UsageError(
                "--think-tags and --answer complete whole chains, and the selection holds parts of chains. Select whole chains,"
                " or leave both out."
            )
        opened, closed = self.think
        found = []
        roots = _described(table, "parent").to_pylist()
        for chain, root, text in zip(table["chain"].to_pylist(), roots, completions, strict=True):
            whole = f"{opened}{text}{closed}"
            if self.answers is not None:
                answer = self.answers.get(root or chain, "")
                if answer:
                    whole += ("" if whole.endswith("\n") else "\n") + ("\n" if closed else "") + answer
                else:
                    self.missing.append(chain)
            found.append(whole)
        return found


def ragged(column: pa.ChunkedArray | pa.Array, dtype: npt.DTypeLike) -> Ragged:
    """A list column as flat values and offsets from 0."""
    array = one_array(column) if isinstance(column, pa.ChunkedArray) else column
    offsets = array.offsets.to_numpy().astype(np.int64)
    values = array.values.slice(offsets[0], offsets[-1] - offsets[0]).to_numpy(zero_copy_only=False)
    return Ragged(offsets - offsets[0], np.asarray(values, dtype=dtype))


def _join(first: Ragged, second: Ragged) -> tuple[Int64, Int64, Int64]:
    """Offsets of the rows ``first[i] + second[i]``, and where the values of both go."""
    offsets = np.concatenate([[0], np.cumsum(first.lengths + second.lengths)])
    to_first = np.arange(len(first.values)) + np.repeat(offsets[:-1] - first.offsets[:-1], first.lengths)
    to_second = np.arange(len(second.values)) + np.repeat(
        offsets[:-1] + first.lengths - second.offsets[:-1], second.lengths
    )
    return offsets, to_first, to_second


def _selected(table: pa.Table, tokens: Ragged, parts: Sequence[Part]) -> Mask:
    """Which chain tokens are selected, flat."""
    mask = np.zeros(len(tokens.values), dtype=bool)
    steps = ragged(table["step_tokens"], np.int64)
    for row, part in enumerate(parts):
        start, end = tokens.offsets[row], tokens.offsets[row + 1]
        if part.whole:
            mask[start:end] = True
            continue
        spans = steps.values[steps.offsets[row] : steps.offsets[row + 1]].reshape(-1, 2)
        for step in part.steps:
            if step < len(spans):
                mask[start + spans[step, 0] : start + spans[step, 1]] = True
        for first, last in part.tokens:
            mask[min(start + first, end) : min(start + last, end)] = True
    return mask


def _described(table: pa.Table, name: str) -> pa.Array:
    """One entry of every row's metadata, empty where there is none."""
    found = [""] * len(table)
    metadata = one_array(table["metadata"])
    places = np.flatnonzero(pc.equal(metadata.keys, name).to_numpy(zero_copy_only=False))
    rows = np.searchsorted(metadata.offsets.to_numpy(), places, side="right") - 1
    for row, value in zip(rows.tolist(), metadata.items.take(pa.array(places)).to_pylist(), strict=True):
        if 0 <= row < len(found):
            found[row] = value
    return pa.array(found, pa.string())


def build(
    table: pa.Table,
    selection: Selection,
    run: Run,
    *,
    layers: Sequence[int] = (),
    ending: Ending | None = None,
) -> Batch | None:
    """Records of a table of shard rows (columns :data:`COLUMNS`); rows outside the selection are left out.
    None where nothing of the table is selected.

    Labels follow the selection alone, weights are 1 where there is a label; :mod:`trails.export.choose` narrows both.
    The first token of a sequence without context has no prediction and so no label. ``layers`` count from 1. ``ending`` puts
    the marks of a thought and the answer around the text of whole chains.
    """
    parts = selection.of(table["chain"].to_pylist())
    if any(part is None for part in parts):
        table = table.take(pa.array([row for row, part in enumerate(parts) if part is not None], pa.int64()))
    kept = [part for part in parts if part is not None]
    n = len(kept)
    if not n:
        return None
    question = ragged(table["question_token_ids"], np.int32)
    tokens = ragged(table["token_ids"], np.int32)
    if all(part.whole for part in kept):
        keep: Mask | slice = slice(None)
        last, cut, selected = tokens.lengths - 1, tokens, np.ones(len(tokens.values), bool)
    else:
        selected = _selected(table, tokens, kept)
        last = np.full(n, -1, np.int64)  # last selected token of each row
        row_of, places = tokens.row_of, np.flatnonzero(selected)
        last[row_of[places]] = places - tokens.offsets[row_of[places]]  # rising, so the last one stays
        keep = np.arange(len(tokens.values)) - tokens.offsets[row_of] <= last[row_of]
        cut = Ragged(np.concatenate([[0], np.cumsum(last + 1)]), tokens.values[keep])
        selected = selected[keep]
    context, context_surprisal = _context(table, question, ragged(table["question_surprisal"], np.float32), run)
    _check_frame(table, context)
    offsets, to_question, to_chain = _join(context, cut)
    size = int(offsets[-1])

    def merged(before: npt.NDArray[Any], chain: npt.NDArray[Any], kind: npt.DTypeLike) -> Ragged:
        values = np.empty(size, dtype=kind)
        values[to_question], values[to_chain] = before, chain
        return Ragged(offsets, values)

    input_ids = merged(context.values, cut.values, np.int32)
    nothing = np.full(len(context.values), np.nan, np.float32)
    surprisal = merged(
        context_surprisal.values,
        ragged(table["surprisal"], np.float32).values[keep],
        np.float32,
    )
    entropy = merged(nothing, ragged(table["entropy"], np.float32).values[keep], np.float32)
    labelled = merged(np.zeros(len(context.values), bool), selected, bool)
    labelled.values[offsets[:-1][offsets[:-1] < offsets[1:]]] = False  # nothing predicts the first token of a sequence
    labels = np.where(labelled.values, input_ids.values, IGNORED).astype(np.int32)
    questions = [
        text if length else "" for text, length in zip(table["question"].to_pylist(), question.lengths, strict=True)
    ]
    prompts, completions, suffix = _texts(table, kept, cut, selected, questions)
    if ending is not None:
        completions = ending.completed(table, kept, completions)
    prefixes = pc.binary_join_element_wise(
        table["chain"], pc.utf8_slice_codeunits(table["tokenizer"], 0, 8), pa.scalar(""), ":"
    )
    run_id = run.id  # a hash: once per table, not per row
    chains = table["chain"].to_pylist()
    families, parents, variants = (_described(table, name) for name in ("family", "parent", "variant"))
    layer_values = np.tile(np.asarray(layers, np.int32) - 1, n)  # PEFT counts from 0
    spans = {
        "prefix": one_array(prefixes),
        "first": pa.array(np.zeros(n, np.int32)),
        "count": pa.array((last + 1).astype(np.int32)),
        "offset": pa.array(context.lengths.astype(np.int32)),
    }
    columns = {
        "id": pa.array(
            [example_id(chain, part, run_id) for chain, part in zip(chains, kept, strict=True)], pa.string()
        ),
        "prompt": pa.array(prompts, pa.string()),
        "completion": pa.array(completions, pa.string()),
        "question": pa.array(questions, pa.string()),
        "order": pa.array(np.arange(n, dtype=np.int64)),
        "chain": pa.array(chains, pa.string()),
        "step_spans": _step_spans(table, last, context.lengths),
        "token_ids_in_graph": pa.StructArray.from_arrays(
            list(spans.values()), fields=list(RECORD.field("token_ids_in_graph").type)
        ),
        "layers_to_transform": Ragged(np.arange(n + 1) * len(layers), layer_values).arrow(pa.int32()),
        "tokenizer_sha": table["tokenizer"],
        "model_sha": pa.array([run.revision] * n, pa.string()),
        "subgraph": pa.array([selection.digest] * n, pa.string()),
        "split": pa.array(["train"] * n, pa.string()),
        "run": pa.array([run_id] * n, pa.string()),
        **{name: table[name] for name in ("source", "source_id", "licence", "language")},
        "family": pc.if_else(pc.equal(families, ""), one_array(table["source"]), families),
        "parent": parents,
        "variant": variants,
        "messages": pc.fill_null(one_array(table["messages"]), "")
        if "messages" in table.column_names
        else pa.array([""] * n),
    }
    rest = pa.table(columns, schema=pa.schema([HELD.field(name) for name in columns]))
    if "family" in table.column_names:
        keys = [family_key(name or "") for name in table["family"].to_pylist()]
        rest = rest.append_column(VERSIONS, pa.array(keys, pa.string()))
    return Batch(
        input_ids,
        Ragged(offsets, labels),
        Ragged(offsets, labelled.values.astype(np.float32)),
        surprisal,
        entropy,
        np.asarray(suffix, bool),
        rest,
    )


def as_placed(text: str, word: str) -> str:
    """A word as it is placed behind a text: with a space before it where the text ends with none; empty where the text ends
    with the word.
    """
    return "" if not word or text.endswith(word) else word if text[-1:].isspace() else f" {word}"


def targets_at(spans: Iterable[tuple[int, int, str, Sequence[int], bool, float]], offset: int) -> list[dict[str, Any]]:
    """Targets of a chain (:class:`trails.export.subgraph.Part`) as :data:`DRIFT_FIELD` has them, for a row in which the chain's
    first token stands at ``offset``.
    """
    return [
        {"start": offset + a, "end": offset + b, "measure": measure, "layers": layers, "above": above, "bound": bound}
        for a, b, measure, layers, above, bound in spans
    ]


def placed(batch: Batch, words: Sequence[str], spelled: Mapping[str, Sequence[int]]) -> Batch:
    """The batch with a text behind every row (empty: none), whose tokens carry a label of weight 1; a row that ends with its
    text stays as it is. ``spelled`` are the tokens of every text as it stands behind a letter and behind a space.
    """
    before = batch.ids_of("completion")
    texts = [as_placed(text, word) for text, word in zip(before, words, strict=True)]
    ids = [np.asarray(spelled[text] if text else (), np.int32) for text in texts]
    more = Ragged(np.concatenate([[0], np.cumsum([len(own) for own in ids])]), np.concatenate(ids))
    unknown, ones = (np.full(len(more.values), value, np.float32) for value in (np.nan, 1.0))
    behind = {
        "input_ids": more.values,
        "labels": more.values,
        "loss_weights": ones,
        "surprisal": unknown,
        "entropy": unknown,
    }
    columns: dict[str, Any] = {
        name: _joined(getattr(batch, name), Ragged(more.offsets, own)) for name, own in behind.items()
    }
    place = batch.rest.column_names.index("completion")
    whole = pa.array([a + b for a, b in zip(before, texts, strict=True)], pa.string())
    return replace(batch, **columns, rest=batch.rest.set_column(place, batch.rest.schema.field(place), whole))


def _context(table: pa.Table, question: Ragged, surprisal: Ragged, run: Run) -> tuple[Ragged, Ragged]:
    """Question tokens and their surprisal, with what stood around the question (BOS, chat template, conversation)."""
    before = _around(table, "prefix_token_ids", run.notes.get("prefix_ids", ()))
    after = _around(table, "infix_token_ids", run.notes.get("infix_ids", ()))
    if not len(before.values) and not len(after.values):
        return question, surprisal
    unknown = [Ragged(part.offsets, np.full(len(part.values), np.nan, np.float32)) for part in (before, after)]
    return _joined(before, question, after), _joined(unknown[0], surprisal, unknown[1])


def _around(table: pa.Table, name: str, usual: Sequence[int]) -> Ragged:
    """Tokens on one side of the question of every row: those of the row where it has its own, else ``usual`` ones."""
    ids = np.asarray(usual, np.int32)
    n = len(table)
    if name not in table.column_names or table[name].null_count == n:
        return Ragged(np.arange(n + 1) * len(ids), np.tile(ids, n))
    rows = [ids if own is None else np.asarray(own, np.int32) for own in table[name].to_pylist()]
    return Ragged(np.concatenate([[0], np.cumsum([len(row) for row in rows])]), np.concatenate(rows))


def _joined(*parts: Ragged) -> Ragged:
    """Row by row one part after the other."""
    made = parts[0]
    for part in parts[1:]:
        offsets, to_first, to_second = _join(made, part)
        values = np.empty(int(offsets[-1]), part.values.dtype)
        values[to_first], values[to_second] = made.values, part.values
        made = Ragged(offsets, values)
    return made


def _check_frame(table: pa.Table, context: Ragged) -> None:
    """Raises UsageError where the context put together is not as long as the one that was measured."""
    if "n_context" not in table.column_names:
        return
    other = np.flatnonzero(table["n_context"].to_numpy() != context.lengths)
    if len(other):
        raise UsageError(
            f"chain {table['chain'][int(other[0])].as_py()} (and {len(other) - 1} more) was measured after a conversation by a "
            "version of trails that did not keep its tokens: the row would be trained in a frame other than the "
            "measured one. Remove "
            "these chains (trails remove) and ingest them again, or leave them out of the selection."
        )


def example_id(chain: str, part: Part, run: str) -> str:
    """``e`` + 16 hex digits over the chain, what is selected of it, and the run."""
    what = "whole" if part.whole else f"{part.steps} {part.tokens}"
    return "e" + hashlib.sha256(f"{chain} {run} {what}".encode()).hexdigest()[:16]


def _texts(
    table: pa.Table, parts: Sequence[Part], cut: Ragged, selected: Mask, questions: Sequence[str]
) -> tuple[list[str], list[str], list[bool]]:
    """Prompt and completion of each row as text, and whether the labels are exactly the completion.

    The completion runs from the first to the last selected token. A boundary inside a character moves out to its edge.
    """
    texts = table["text"].to_pylist()
    if all(part.whole for part in parts):
        return [question + "\n" if question else "" for question in questions], texts, [True] * len(parts)
    starts, ends = ragged(table["token_start"], np.int64), ragged(table["token_end"], np.int64)
    prompts, completions, suffix = [], [], []
    for row, part in enumerate(parts):
        text = texts[row]
        context = questions[row] + "\n" if questions[row] else ""
        if part.whole:
            prompts.append(context)
            completions.append(text)
            suffix.append(True)
            continue
        mine = selected[cut.offsets[row] : cut.offsets[row + 1]]
        if not len(mine):
            prompts.append(context)
            completions.append("")
            suffix.append(False)
            continue
        first = int(np.argmax(mine))
        begin = int(starts.values[starts.offsets[row] + first])
        end = int(ends.values[ends.offsets[row] + len(mine) - 1])
        prompts.append(context + text[:begin])
        completions.append(text[begin:end])
        suffix.append(bool(mine[first:].all()))
    return prompts, completions, suffix


def _step_spans(table: pa.Table, last: Int64, question: Int64) -> pa.Array:
    spans = ragged(table["step_tokens"], np.int64)
    rows = spans.row_of[::2]
    pairs = spans.values.reshape(-1, 2)
    index = np.arange(len(pairs)) - np.repeat(spans.offsets[:-1] // 2, spans.lengths // 2)
    keep = pairs[:, 0] <= last[rows]
    end = np.minimum(pairs[:, 1], (last + 1)[rows])
    counts = np.bincount(rows[keep], minlength=len(last)) if len(rows) else np.zeros(len(last), np.int64)
    values = pa.StructArray.from_arrays(
        [
            pa.array(index[keep].astype(np.int32)),
            pa.array((pairs[:, 0] + question[rows])[keep].astype(np.int32)),
            pa.array((end + question[rows])[keep].astype(np.int32)),
            _roles(table).filter(pa.array(keep)),
        ],
        fields=list(_SPAN),
    )
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)), values)


def _roles(table: pa.Table) -> pa.Array:
    """Role of every step, flat."""
    return one_array(table["steps"]).flatten().field("role")


def coalesce(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of at least ``rows`` rows (the last may be smaller)."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        held.append(table)
        count += len(table)
        if count >= rows:
            yield pa.concat_tables(held)
            held, count = [], 0
    if held:
        yield pa.concat_tables(held)


def lists(column: pa.ChunkedArray, *, digits: int | None = None) -> list[list[int] | list[float | None]]:
    """A list column as Python lists; floats rounded to ``digits`` decimals, NaN as None."""
    array = ragged(column, np.float64 if digits is not None else np.int64)
    if digits is None:
        flat = array.values.tolist()
    else:
        flat = np.round(array.values.astype(np.float64), digits).tolist()
        if np.isnan(array.values.astype(np.float64)).any():
            flat = [None if value != value else value for value in flat]
    offsets = array.offsets.tolist()
    return [flat[a:b] for a, b in pairwise(offsets)]


def two_parts(has_first: pa.ChunkedArray) -> tuple[Int64, pa.Array]:
    """For rows of a first part, if ``has_first``, and a second one: places in all first parts followed by all second ones, and
    the offsets of the rows' lists."""
    has = np.asarray(has_first.to_numpy(), dtype=bool)
    both = np.stack([np.arange(len(has)), np.arange(len(has)) + len(has)], axis=1)
    keep = np.stack([has, np.ones(len(has), bool)], axis=1)
    return both[keep], pa.array(np.concatenate([[0], np.cumsum(has + 1)]).astype(np.int32))
