"""``axolotl`` (token ids and labels) and ``axolotl-segments`` (texts with and without loss) for Axolotl.

A pre-tokenised data set may hold no other columns, so the provenance lies in a file beside it, line by line. Segments are
tokenised again one by one: tokens that would join across a border differ, so the pre-tokenised form is the exact one.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from trails.export.files import one_array
from trails.export.record import IGNORED, RECORD, two_parts
from trails.export.writer import PROVENANCE, Writer, pick

SCHEMA = pa.schema([RECORD.field(name) for name in ("input_ids", "attention_mask", "labels")])
SEGMENTS = pa.list_(pa.struct([("label", pa.bool_()), ("text", pa.string())]))
SEGMENT_SCHEMA = pa.schema([("segments", SEGMENTS), *(RECORD.field(name) for name in PROVENANCE)])

_CURRICULUM = "curriculum_sampling: true\nshuffle_merged_datasets: false\nsample_packing: false"


def _tokens(table: pa.Table) -> pa.Table:
    return pick(table, SCHEMA)


def _segments(table: pa.Table) -> pa.Table:
    places, lists = two_parts(pc.not_equal(table["prompt"], ""))
    texts = pa.concat_arrays([one_array(table["prompt"]), one_array(table["completion"])]).take(pa.array(places))
    items = pa.StructArray.from_arrays([pa.array(places >= len(table)), texts], fields=list(SEGMENTS.value_type))
    columns = {"segments": pa.ListArray.from_arrays(lists, items)} | {name: table[name] for name in PROVENANCE}
    return pa.table(columns, schema=SEGMENT_SCHEMA)


assert IGNORED == -100  # the value that Axolotl ignores too

WRITER = Writer(
    name="axolotl",
    trainer="Axolotl, pre-tokenised",
    convert=_tokens,
    schema=SCHEMA,
    keeps=frozenset({"mask", "order", "conversation"}),
    settings=f"datasets:\n  - path: FILE\n    ds_type: json\n    type:\nsequence_len: LONGEST\n{_CURRICULUM}",
    beside=True,
)

SEGMENT_WRITER = Writer(
    name="axolotl-segments",
    trainer="Axolotl, template-free segments",
    convert=_segments,
    schema=SEGMENT_SCHEMA,
    keeps=frozenset({"order"}),
    settings=(
        "datasets:\n  - path: FILE\n    ds_type: json\n    type: input_output\ntrain_on_inputs: false\nsequence_len: ROOM\n"
        f"{_CURRICULUM}"
    ),
    reads=("prompt", "completion"),
)
