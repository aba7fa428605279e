"""From the reductions of forward passes to traces: every number put where its chain is.

A GPU waits for nothing but this on the last batch, and a small model waits for it on every batch. So what can be done for a
whole batch is: its numbers are copied, converted and checked at once, and a pass takes views of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trails.measure.base import MeasureOptions, with_derived
from trails.measure.metrics import LogitStatistics
from trails.measure.passes import Pass, TokenSequence
from trails.measure.premises import Premises
from trails.measure.tokens import TextTokenizer
from trails.platform.arrays import Doubles, Floats, Ints, Longs
from trails.schema import Run, Trace


def kept_top(options: MeasureOptions) -> int:
    """Most likely items to take of every row: the margin needs two, whatever is stored."""
    return max(2, options.n_top) if options.n_top else 0


LAYER_MEASURES = ("attention_shift", "attention_previous", "attention_sink", "attention_entropy")


@dataclass(slots=True)
class Flight:
    """Reductions of one batch on their way to the host: ``found`` is whole when ``reduced`` has happened, and the statistics,
    which the GPU makes while the host takes the others, when ``landed`` has.

    ``found``: per name of a layer measure, (B, T, L); ``hidden_shift`` (B, T, L+1), ``baseline`` (B, L+1), ``step_masses``
    (B, S, K, L); on request ``states`` (B, S, layers kept, d), ``attends_sum`` and ``attends_layer`` (B, T, K); K is near + 2
    for chains of very many steps;
    ``peak_token``, ``peak_mass`` and ``peak_layer`` (B, T, k). The layers come last, as a trace has them. ``statistics``: the
    rows of all passes one after the other, without the padding.
    """

    batch: list[Pass]
    found: dict[str, Tensor]
    statistics: LogitStatistics
    reduced: torch.cuda.Event | None = None
    landed: torch.cuda.Event | None = None


@dataclass(slots=True)
class Partial:
    """What a pass has given of the tokens that it keeps, or all passes of a sequence together: n tokens, arrays over them."""

    surprisal: Floats
    entropy: Floats
    rank: Ints
    logit_shift: Floats
    layers: dict[str, Floats]  # name → (n, L)
    hidden_shift: Floats  # (n, L+1)
    baseline: Floats  # (L+1,)
    question_surprisal: Floats
    # sums over the tokens of a step: (B, L), bin after bin as a trace has them; of a pass near the steps (S, near+2, L)
    step_masses: npt.NDArray[Any]
    finite: bool  # every number that must be; False: somewhere in the batch one is not
    bins: tuple[Longs, Longs] | None = None  # step and near bin of every row of step_masses; None: all bins are kept
    states: Doubles | None = None  # (S, len(states), d) sums
    attends: tuple[Ints, Floats, Ints] | None = None  # step, mass, layer, each (n,)
    top: tuple[Ints, Floats, Floats] | None = None  # items (n, k), log-probabilities (n, k), margin (n,)
    peaks: tuple[Ints, Floats, Ints] | None = None  # token, mass, layer, each (n, k)


class Collector:
    """Takes the passes of many sequences in any order; a sequence is complete when all of its passes were taken."""

    def __init__(self, run: Run, options: MeasureOptions, passes: Sequence[Pass], text: TextTokenizer) -> None:
        self.run, self.options, self._run_id, self._text = run, options, run.id, text
        self._left = Counter(id(part.sequence) for part in passes)
        self._taken: defaultdict[int, list[tuple[Pass, Partial]]] = defaultdict(list)

    def take(self, flight: Flight) -> Iterator[tuple[TokenSequence, Partial]]:
        """Put the numbers of a batch where their chains are; gives the sequences that are complete with it."""
        for part, given in zip(flight.batch, self._cut(flight), strict=True):
            key = id(part.sequence)
            self._taken[key].append((part, given))
            self._left[key] -= 1
            if not self._left[key]:
                yield part.sequence, _joined(self._taken.pop(key))

    def _cut(self, flight: Flight) -> list[Partial]:
        """What each pass of a batch has given; views of arrays over all tokens that the batch keeps, N."""
        batch, stats = flight.batch, flight.statistics
        found = {name: values.numpy() for name, values in flight.found.items()}
        # where the kept tokens are in their pass, in the arrays over the batch, and in the rows of the statistics
        here = [slice(part.context + part.keep - part.begin, part.length) for part in batch]
        edges = np.cumsum([0, *(at.stop - at.start for at in here)]).tolist()
        starts = np.cumsum([0, *(part.length for part in batch)]).tolist()
        # without a context nothing precedes the first token of a chain
        first = [edge for edge, at in zip(edges[:-1], here, strict=True) if at.start == 0 and at.stop]

        def kept(name: str) -> npt.NDArray[Any]:
            values = found[name]
            return np.concatenate([values[row, at] for row, at in enumerate(here)])

        if flight.reduced is not None:
            flight.reduced.synchronize()
        layers, hidden_shift = {name: kept(name) for name in LAYER_MEASURES}, kept("hidden_shift")
        finite = all(_finite(values, first) for values in (hidden_shift, *layers.values()))
        baseline = found["baseline"].copy()
        baseline[[part.end - part.keep < 2 for part in batch]] = np.nan
        near = batch[0].sequence.near  # the same in a whole batch
        attends = peaks = None
        if "attends_sum" in found:
            own = np.concatenate([part.sequence.chain_bins[part.keep : part.end] for part in batch]) - 2
            began = np.repeat([part.steps.start for part in batch], np.diff(edges))
            step, mass, column = _attends(kept("attends_sum")[:, 2:], own - began, self.run.n_layers, near)
            places = np.repeat(np.arange(len(batch)), np.diff(edges)), np.concatenate([np.r_[at] for at in here])
            layer = found["attends_layer"][(*places, column + 2)]
            none = step < 0
            step[~none] += began[~none]
            mass[none] = np.nan
            attends = (step.astype(np.int32), mass, np.where(none, -1, layer).astype(np.int32))
        if "peak_token" in found:
            token = kept("peak_token")
            seen = token >= 0
            moved = np.repeat([part.context - part.begin for part in batch], np.diff(edges))[:, None]
            peaks = (
                np.where(seen, token - moved, -1).astype(np.int32),
                np.where(seen, kept("peak_mass"), np.nan).astype(np.float32),
                np.where(seen, kept("peak_layer"), -1).astype(np.int32),
            )
        sums, states = [], []
        for row, part in enumerate(batch):
            steps, masses = part.steps.stop - part.steps.start, found["step_masses"][row]
            if near:
                sums.append(masses[:steps].copy())
            else:
                sums.append(masses.reshape(-1, masses.shape[-1]).take(_step_rows(steps, masses.shape[1]), 0))
            states.append(found["states"][row, :steps].astype(np.float64) if "states" in found else None)
        if flight.landed is not None:
            flight.landed.synchronize()
        rows = np.concatenate(
            [np.arange(begin + at.start, begin + at.stop) for begin, at in zip(starts, here, strict=False)]
        )
        before = rows - 1  # the row that predicts the token
        surprisals = stats.surprisal.numpy()
        surprisal, entropy = surprisals[before], stats.entropy.numpy()[before]
        rank, logit_shift = stats.rank.numpy()[before].astype(np.int32), stats.shift.numpy()[rows]
        for values in (surprisal, entropy, logit_shift):
            values[first] = np.nan
        rank[first] = -1
        top = None
        if stats.top.shape[1]:
            items, log_p = stats.top.numpy()[before].astype(np.int32), stats.top_log_p.numpy()[before]
            items[first], log_p[first] = -1, np.nan
            n = self.options.n_top
            top = (np.ascontiguousarray(items[:, :n]), np.ascontiguousarray(log_p[:, :n]), log_p[:, 0] - log_p[:, 1])
        finite = finite and all(_finite(values, first) for values in (surprisal, entropy, logit_shift))
        given = []
        for row, part in enumerate(batch):
            chain, question = slice(edges[row], edges[row + 1]), _nan(0)
            if part.begin == 0 and part.question:
                span = part.sequence.row.context.question_span
                known, start = max(1, span.start), starts[row] - 1
                question = _nan(len(part.sequence.row.context.question))
                question[known - span.start :] = surprisals[start + known : start + span.stop]
            given.append(
                Partial(
                    surprisal=surprisal[chain],
                    entropy=entropy[chain],
                    rank=rank[chain],
                    logit_shift=logit_shift[chain],
                    layers={name: values[chain] for name, values in layers.items()},
                    hidden_shift=hidden_shift[chain],
                    baseline=baseline[row],
                    question_surprisal=question,
                    step_masses=sums[row],
                    finite=finite,
                    states=states[row],
                    attends=_over(attends, chain),
                    top=_over(top, chain),
                    peaks=_over(peaks, chain),
                )
            )
        return given

    def trace(self, sequence: TokenSequence, found: Partial, premises: Premises | None) -> Trace:
        """The trace of a complete sequence."""
        item, row, options = sequence.item, sequence.row, self.options
        spans, tokens, counts = row.step_tokens, row.tokens, sequence.step_sizes
        if found.bins is None:
            step_keys, query = None, _step_pairs(len(spans))[0]
        else:
            query, key = found.bins
            step_keys = np.where(key < 2, key - 2, query + key - 1 - sequence.near).astype(np.int32)
        sums = found.step_masses
        # in float32 the quotient is the same: rounded to 53 digits and then to 24 it is what it is rounded to 24
        per_step = np.where(counts, counts, np.nan).astype(sums.dtype)[query, None]
        changes: dict[str, Any] = {}
        if item.chain.messages and self.run.template == "chat":
            changes |= {
                "prefix_token_ids": np.asarray(row.context.prefix, np.int32),
                "infix_token_ids": np.asarray(row.context.infix, np.int32),
            }
        if found.attends is not None:
            step, mass, layer = found.attends
            changes |= {"token_attends_step": step, "token_attends_mass": mass, "token_attends_layer": layer}
        if found.top is not None:
            items, log_p, margin = found.top
            changes |= {"top_id": items, "top_log_probability": log_p, "margin": margin}
            changes["top_pieces"] = self._text.pieces(_distinct(items))
        if found.peaks is not None:
            token, mass, layer = found.peaks
            changes |= {"peak_token": token, "peak_mass": mass, "peak_layer": layer}
        if found.states is not None:
            with np.errstate(invalid="ignore", divide="ignore"):
                states = found.states / np.where(counts, counts, np.nan)[:, None, None]
            changes |= {
                "state_layers": tuple(sorted(set(options.states))),
                "step_states": states.astype(np.float32),
            }
        if premises is not None:
            given = [mean_of_defined(found.surprisal[a:b, None])[0] for a, b in spans]
            changes |= {
                "nll_given_all": np.asarray(given, np.float32),
                "nll_given_question": premises.given_question,
                "nll_without_previous": premises.without_previous,
            }
        trace = Trace(
            chain=item.chain,
            steps=tuple(item.steps),
            run=self._run_id,
            tokenizer=self.run.tokenizer,
            n_layers=self.run.n_layers,
            token_ids=tokens.ids,
            token_start=tokens.start,
            token_end=tokens.end,
            pieces=tokens.pieces,
            step_tokens=spans,
            question_token_ids=np.asarray(row.context.question, np.int32),
            question_surprisal=found.question_surprisal,
            n_context=len(row.context),
            surprisal=found.surprisal,
            entropy=found.entropy,
            rank=found.rank,
            logit_shift=found.logit_shift,
            hidden_shift=found.hidden_shift,
            hidden_baseline=found.baseline,
            step_attention=(sums / per_step).astype(np.float32, copy=False),
            step_keys=step_keys,
            attention_shift=found.layers["attention_shift"],
            attention_previous=found.layers["attention_previous"],
            attention_sink=found.layers["attention_sink"],
            attention_entropy=found.layers["attention_entropy"],
            **changes,
        )
        return with_derived(trace)


def _joined(taken: Sequence[tuple[Pass, Partial]]) -> Partial:
    """What the passes of a sequence have given together; ``taken`` in any order, which the sums follow."""
    sequence = taken[0][0].sequence
    near = sequence.near
    if len(taken) == 1 and not near:
        return taken[0][1]
    given = [one for _, one in taken]
    ordered = [one for _, one in sorted(taken, key=lambda pair: pair[0].keep)]  # together they keep every token once
    tokens: dict[str, Any] = {
        name: np.concatenate([getattr(one, name) for one in ordered])
        for name in ("surprisal", "entropy", "rank", "logit_shift", "hidden_shift")
    }
    whole = replace(
        ordered[0],  # the only one that has seen the question
        **tokens,
        layers={name: np.concatenate([one.layers[name] for one in ordered]) for name in LAYER_MEASURES},
        baseline=mean_of_defined(np.stack([one.baseline for one in given])),
        finite=all(one.finite for one in given),
        attends=_together([one.attends for one in ordered]),
        top=_together([one.top for one in ordered]),
        peaks=_together([one.peaks for one in ordered]),
    )
    states = [one.states for one in given if one.states is not None]
    if not near:
        # every pass sees all steps, those of other windows as 0
        whole.step_masses = sum((one.step_masses for one in given[1:]), given[0].step_masses.astype(np.float64))
        whole.states = sum(states[1:], states[0]) if states else None
        return whole
    steps = len(sequence.row.step_tokens)
    sums = np.zeros((steps, *given[0].step_masses.shape[1:]))
    seen = np.zeros(sums.shape[:2], bool)  # bins that were in a window with the step
    whole.states = np.zeros((steps, *states[0].shape[1:])) if states else None
    for part, one in taken:
        # of the near steps those before the first one of the pass are not there
        there = np.arange(near + 2) >= np.maximum(near + 1 - np.arange(len(one.step_masses)), 2)[:, None]
        there[:, :2] = True
        sums[part.steps] += np.where(there[..., None], one.step_masses, 0)
        seen[part.steps] |= there
        if whole.states is not None and one.states is not None:
            whole.states[part.steps] += one.states
    query, key = np.nonzero(seen)
    whole.bins, whole.step_masses = (query, key), sums[query, key]
    return whole


def _over(arrays: Any, tokens: slice) -> Any:
    """Every array of a tuple over some of the tokens; None of None."""
    return None if arrays is None else tuple(values[tokens] for values in arrays)


def _together(parts: Sequence[Any]) -> Any:
    """The tuples of arrays of several passes one after the other; None of None."""
    return None if parts[0] is None else tuple(np.concatenate(values) for values in zip(*parts, strict=True))


def _distinct(items: Ints) -> Ints:
    """The different items, ascending, without the undefined (-1): np.unique in a tenth of its time."""
    items = np.sort(items, axis=None)
    new = items >= 0
    new[1:] &= items[1:] != items[:-1]
    return items[new]


def _finite(values: Floats, but: Sequence[int]) -> bool:
    """Whether everything is finite in all rows but some."""
    known = np.isfinite(values)
    known[but] = True
    return bool(known.all())


def _attends(sums: Floats, own: Longs, layers: int, near: int) -> tuple[Longs, Floats, Longs]:
    """The earlier step that each token looks at most, by the mean over layers: step (-1: there is none), mass and column, each
    (n,). ``sums`` are overwritten.

    ``sums`` (n, k) over layers, ``own`` (n,) each token's step. The columns are step 0, step 1, … or, with ``near``, the steps
    up to the token's own, of which those below 0 are not there.
    """
    first = own + (1 - near) if near else np.zeros_like(own)  # step of the first column
    columns, end = np.arange(sums.shape[1], dtype=np.int32), (own - first).astype(np.int32)
    sums /= layers
    np.copyto(sums, -1, where=columns >= end[:, None])
    if near:
        np.copyto(sums, -1, where=columns < -first[:, None])
    best = sums.argmax(1)
    mass = sums[np.arange(len(sums)), best]
    return np.where(mass < 0, -1, best + first), mass, best


@lru_cache(maxsize=256)
def _step_pairs(steps: int) -> tuple[Longs, Longs]:
    """Step and bin of every entry of ``Trace.step_attention``: the bins up to a step's own, step after step."""
    query = np.repeat(np.arange(steps), np.arange(steps) + 3)
    return query, np.concatenate([np.arange(step + 3) for step in range(steps)] or [query])


@lru_cache(maxsize=256)
def _step_rows(steps: int, width: int) -> Longs:
    """The same entries among the masses of all steps on ``width`` bins, numbered row by row."""
    query, key = _step_pairs(steps)
    return query * width + key


def _nan(*shape: int) -> Floats:
    return np.full(shape, np.nan, np.float32)


def mean_of_defined(values: npt.NDArray[Any]) -> Floats:
    """Mean over the first axis without the NaN; NaN where nothing is defined."""
    defined = ~np.isnan(values)
    count = defined.sum(0)
    total = np.where(defined, values, 0).sum(0, dtype=np.float64)
    return np.where(count, total / np.maximum(count, 1), np.nan).astype(np.float32)
