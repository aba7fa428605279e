"""What of a record counts, and how much: masks and loss weights.

Both work on the measured numbers of the tokens that the selection labelled; they never add a label.

Masks (``--mask``) keep a label where the condition holds:

- ``none``: every selected token
- ``surprisal<0.92``, ``entropy>=1.5``, ``rank``-free comparisons of a measured number in nats (``<``, ``<=``, ``>``, ``>=``)
- ``surprisal<1&entropy<1``: conditions joined by ``&``
- ``role:THEREFORE,BUT``: tokens of steps with one of these roles
- ``random:0.4``: a random share of the tokens keeps its loss; the control of a mask that keeps as many

Weights (``--weights``) are scaled to a mean of 1 over the labelled tokens of each row, so that the loss of a row keeps its
size: ``uniform``; ``surprisal`` (s); ``entropy`` (H); ``both`` (the geometric mean of s and H); ``excess:RUN``
(max(0, s - s_RUN), the excess loss of arXiv 2404.07965 against a reference run). A row whose weights would all be 0 keeps
weight 0 and teaches nothing; the export reports how many there are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trails.errors import UsageError
from trails.export.files import one_array
from trails.export.record import IGNORED, Batch, Ragged
from trails.export.words import MASK_WORDS, WEIGHT_WORDS, english, not_known, role_named
from trails.platform.arrays import Floats

MASKS = ("none", "surprisal<X", "entropy<X", "role:ROLE", "random:SHARE")
WEIGHTS = ("uniform", "surprisal", "entropy", "both", "excess:RUN")
_CONDITION = re.compile(r"(surprisal|entropy)\s*(<=|>=|<|>)\s*([0-9.eE+-]+)")
_COMPARE = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}


@dataclass(frozen=True, slots=True)
class Masking:
    """A parsed mask. ``text`` is the mask in English, ``conditions`` are (measure, comparison, threshold in nats)."""

    text: str
    conditions: tuple[tuple[str, str, float], ...] = ()
    roles: frozenset[str] = frozenset()
    share: float | None = None


def parse_mask(text: str) -> Masking:
    """Read a mask, with its words in English or Russian. Raises UsageError naming what can be written."""
    text = "&".join(english(part, MASK_WORDS) for part in text.split("&"))
    if text == "none":
        return Masking(text)
    if text.startswith("role:"):
        try:
            roles = [role_named(part) for part in text[5:].split(",")]
        except UsageError as error:
            raise UsageError(f"mask {text!r}: {error}") from None
        return Masking(f"role:{','.join(roles)}", roles=frozenset(roles))
    if text.startswith("random:"):
        try:
            share = float(text[7:])
        except ValueError:
            share = -1.0
        if not 0 < share <= 1:
            raise UsageError(f"mask {text!r}: the share must lie in (0, 1]. Write for example random:0.4.")
        return Masking(text, share=share)
    conditions = [_CONDITION.fullmatch(part.strip()) for part in text.split("&")]
    try:
        if all(conditions):
            return Masking(text, tuple((m[1], m[2], float(m[3])) for m in conditions if m))
    except ValueError:
        pass
    raise not_known("mask", text, MASKS)


def parse_weights(text: str) -> str:
    """Check the name of a weighting, English or Russian; return the reference run of ``excess:RUN``, else an empty string."""
    text = english(text, WEIGHT_WORDS)
    if text in ("uniform", "surprisal", "entropy", "both"):
        return ""
    if text.startswith("excess:") and text[7:]:
        return text[7:]
    raise not_known("weights", text, WEIGHTS, many=True)


def apply_mask(batch: Batch, mask: Masking, seed: int) -> Batch:
    """Records with fewer labels.

    The random mask draws from the row's id and the seed, so that it does not depend on the order of rows.
    """
    if mask.text == "none":
        return batch
    labels = batch.labels
    keep = batch.labelled
    for measure, sign, threshold in mask.conditions:
        numbers: Ragged = getattr(batch, measure)
        with np.errstate(invalid="ignore"):
            keep &= _COMPARE[sign](numbers.values, np.float32(threshold))
    if mask.roles:
        keep &= _in_roles(batch, mask.roles)
    if mask.share is not None:
        keep &= _uniform(batch.ids_of("id"), labels, seed) < mask.share
    values = np.where(keep, labels.values, IGNORED).astype(np.int32)
    lost = np.zeros(len(batch), dtype=bool)  # a row that lost a label is no longer prompt + completion
    lost[np.unique(labels.row_of[values != labels.values])] = True
    weights = np.where(keep, batch.loss_weights.values, 0).astype(np.float32)
    return replace(
        batch,
        labels=Ragged(labels.offsets, values),
        loss_weights=Ragged(labels.offsets, weights),
        suffix=batch.suffix & ~lost,
    )


def _uniform(ids: list[str], rows: Ragged, seed: int) -> npt.NDArray[np.float64]:
    """A number in [0, 1) per value, from the row's id (17 characters), the place in the row and the seed alone (SplitMix64)."""
    place = np.arange(len(rows.values)) - np.repeat(rows.offsets[:-1], rows.lengths)
    row = np.array([int(name[1:], 16) for name in ids], np.uint64)
    start = np.random.default_rng(seed).integers(0, 2**64, dtype=np.uint64)
    state = (row ^ start)[rows.row_of] + (place.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _in_roles(batch: Batch, wanted: frozenset[str]) -> npt.NDArray[np.bool_]:
    """Which tokens lie in steps with one of the roles."""
    lists, offsets = one_array(batch.rest["step_spans"]), batch.labels.offsets
    spans = lists.flatten()
    row = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
    chosen = np.flatnonzero(pc.is_in(spans.field("role"), pa.array(sorted(wanted))).to_numpy(zero_copy_only=False))
    begins, ends = (offsets[row] + spans.field(name).to_numpy() for name in ("start", "end"))
    edges = np.zeros(offsets[-1] + 1, np.int64)
    np.add.at(edges, begins[chosen], 1)
    np.add.at(edges, ends[chosen], -1)
    return np.asarray(np.cumsum(edges)[:-1] > 0)


def apply_weights(batch: Batch, weights: str, reference: Mapping[str, Floats]) -> Batch:
    """Records with loss weights. ``reference`` holds the surprisal of each chain in the reference run (``excess:``).

    Raises UsageError for a chain that the reference run has not measured.
    """
    if weights == "uniform":
        return batch
    labels, labelled = batch.labels, batch.labelled
    surprisal, entropy = batch.surprisal.values, batch.entropy.values
    if weights == "surprisal":
        raw = surprisal
    elif weights == "entropy":
        raw = entropy
    elif weights == "both":
        raw = np.sqrt(np.maximum(surprisal, 0) * np.maximum(entropy, 0))
    else:
        raw = surprisal - _reference(batch, reference, weights)
    raw = np.where(labelled & np.isfinite(raw), np.maximum(raw, 0), 0).astype(np.float64)
    rows = len(batch)
    total = np.bincount(labels.row_of, raw, rows)
    count = np.bincount(labels.row_of, labelled, rows)
    scale = np.divide(count, total, out=np.zeros(rows), where=total > 0)
    scaled = (raw * scale[labels.row_of]).astype(np.float32)
    return replace(batch, loss_weights=Ragged(labels.offsets, scaled))


def scale_rows(batch: Batch, factors: Floats) -> Batch:
    """Records with every loss weight of a row multiplied by its factor (rows,)."""
    if (factors == 1).all():
        return batch
    weights = batch.loss_weights
    return replace(batch, loss_weights=Ragged(weights.offsets, weights.values * factors[weights.row_of]))


def damp_spans(batch: Batch, spans: Sequence[Sequence[tuple[int, int, float]]]) -> Batch:
    """Records with the loss weights of spans multiplied by their factors: for each row spans of the chain's token positions."""
    if not any(spans):
        return batch
    weights = batch.loss_weights
    values = weights.values.copy()
    begins = weights.offsets[:-1] + batch.place("offset") - batch.place("first")
    for begin, end, row in zip(begins.tolist(), weights.offsets[1:].tolist(), spans, strict=True):
        for start, stop, factor in row:
            values[begin + start : min(begin + stop, end)] *= np.float32(factor)
    return replace(batch, loss_weights=Ragged(weights.offsets, values))


def _reference(batch: Batch, reference: Mapping[str, Floats], weights: str) -> Floats:
    found = np.full(len(batch.labels.values), np.nan, np.float32)
    starts = (batch.labels.offsets[:-1] + batch.place("offset")).tolist()
    firsts, counts = batch.place("first").tolist(), batch.place("count").tolist()
    for chain, start, first, count in zip(batch.ids_of("chain"), starts, firsts, counts, strict=True):
        if chain not in reference:
            raise UsageError(
                f"weights {weights!r}: run {weights[7:]} has not measured chain {chain}. Run: trails ingest"
            )
        found[start : start + count] = reference[chain][first : first + count]
    return found
