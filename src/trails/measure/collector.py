"""From the reductions of forward passes to traces: every number put where its chain is, pass after pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
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
from trails.platform.arrays import Bools, Doubles, Floats, Ints, Longs
from trails.schema import Run, Trace


def kept_top(options: MeasureOptions) -> int:
    """Most likely items to take of every row: the margin needs two, whatever is stored."""
    return max(2, options.n_top) if options.n_top else 0


LAYER_MEASURES = ("attention_shift", "attention_previous", "attention_sink", "attention_entropy")


@dataclass(slots=True)
class Flight:
    """Reductions of one batch on their way to the host; whole when ``landed`` has happened.

    ``found``: per name of a layer measure, (B, T, L); ``hidden_shift`` (B, T, L+1), ``baseline`` (B, L+1), ``step_masses``
    (B, S, K, L); on request ``states`` (B, S, layers kept, d), ``attends_sum`` and ``attends_layer`` (B, T, K); K is near + 2
    for chains of very many steps;
    ``peak_token``, ``peak_mass`` and ``peak_layer`` (B, T, k). The layers come last, as a trace has them.
    """

    batch: list[Pass]
    found: dict[str, Tensor]
    statistics: list[LogitStatistics]
    landed: torch.cuda.Event | None = None


@dataclass(slots=True)
class Partial:
    """What the passes of one sequence have given so far (arrays over the chain's tokens; sums over a step's tokens)."""

    surprisal: Floats
    entropy: Floats
    rank: Ints
    logit_shift: Floats
    layers: dict[str, Floats]  # name → (n, L)
    hidden_shift: Floats  # (n, L+1)
    question_surprisal: Floats
    step_masses: npt.NDArray[Any]  # (S, S+2 or near+2, L) sums
    seen: Bools | None = (
        None  # (S, near+2) which of the near bins were in a window with the step; None: all bins are kept
    )
    baseline: list[Floats] = field(default_factory=list)  # one (L+1,) per pass
    states: Doubles | None = None  # (S, len(states), d) sums
    attends: tuple[Ints, Floats, Ints] | None = None  # step, mass, layer, each (n,)
    top: tuple[Ints, Floats] | None = None  # items and log-probabilities, each (n, k)
    peak_token: Ints | None = None
    peak_mass: Floats | None = None
    peak_layer: Ints | None = None


class Collector:
    """Takes the passes of many sequences in any order; a sequence is complete when all of its passes were taken."""

    def __init__(self, run: Run, options: MeasureOptions, passes: Sequence[Pass]) -> None:
        self.run, self.options = run, options
        self._left = Counter(id(part.sequence) for part in passes)
        self._partial: dict[int, Partial] = {}

    def take(self, flight: Flight) -> Iterator[tuple[TokenSequence, Partial]]:
        """Put the numbers of a batch where their chains are; gives the sequences that are complete with it."""
        if flight.landed is not None:
            flight.landed.synchronize()
        found = {name: values.numpy() for name, values in flight.found.items()}
        for row, part in enumerate(flight.batch):
            self._put(part, found, row, flight.statistics[row])
        for sequence in (part.sequence for part in flight.batch):
            self._left[id(sequence)] -= 1
            if not self._left[id(sequence)]:
                yield sequence, self._partial.pop(id(sequence))

    def _put(self, part: Pass, found: dict[str, npt.NDArray[Any]], row: int, statistics: LogitStatistics) -> None:
        sequence, n = part.sequence, len(part.sequence.row.tokens)
        steps, layers, at = len(sequence.row.step_tokens), self.run.n_layers, part.steps
        here_steps, near = at.stop - at.start, sequence.near
        masses = found["step_masses"][row, :here_steps, : (near or here_steps) + 2]
        if id(sequence) not in self._partial:
            self._partial[id(sequence)] = Partial(
                surprisal=_nan(n),
                entropy=_nan(n),
                rank=np.full(n, -1, np.int32),
                logit_shift=_nan(n),
                # the passes of a chain cover all of its tokens
                layers={name: np.empty((n, layers), np.float32) for name in LAYER_MEASURES},
                hidden_shift=np.empty((n, layers + 1), np.float32),
                question_surprisal=_nan(len(sequence.row.context.question)),
                step_masses=np.zeros((steps, near + 2, layers)) if near else masses.copy(),
                seen=np.zeros((steps, near + 2), bool) if near else None,
            )
            into = self._partial[id(sequence)]
        else:
            into = self._partial[id(sequence)]
            if not near:
                into.step_masses = into.step_masses.astype(np.float64) + masses
        if into.seen is not None:
            # of the near steps those before the first one of the pass are not there
            there = np.arange(near + 2) >= np.maximum(near + 1 - np.arange(here_steps), 2)[:, None]
            there[:, :2] = True
            into.step_masses[at] += np.where(there[..., None], masses, 0)
            into.seen[at] |= there
        chain = slice(part.keep, part.end)
        here = slice(part.context + part.keep - part.begin, part.length)  # the same tokens in the pass
        for name, values in into.layers.items():
            values[chain] = found[name][row, here]
        into.hidden_shift[chain] = found["hidden_shift"][row, here]
        pair_mean = found["baseline"][row]
        into.baseline.append(pair_mean.copy() if part.end - part.keep > 1 else np.full_like(pair_mean, np.nan))
        _put_logits(part, here, chain, statistics, into)
        if "states" in found:
            states = found["states"][row, :here_steps].astype(np.float64)
            if near:
                if into.states is None:
                    into.states = np.zeros((steps, *states.shape[1:]))
                into.states[at] += states
            else:
                into.states = states if into.states is None else into.states + states
        if "attends_sum" in found:
            if into.attends is None:
                into.attends = (np.full(n, -1, np.int32), _nan(n), np.full(n, -1, np.int32))
            kept = slice(2, (near or here_steps) + 2)
            sums, strongest = (found[name][row, here, kept] for name in ("attends_sum", "attends_layer"))
            own = sequence.chain_bins[chain] - 2 - at.start
            keys = own[:, None] + np.arange(1 - near, 1) if near else np.arange(here_steps)[None]
            step, mass, layer = _attends(sums, strongest, keys, own, layers, at.start)
            into.attends[0][chain], into.attends[1][chain], into.attends[2][chain] = step, mass, layer
        if "peak_token" in found:
            if into.peak_token is None or into.peak_mass is None or into.peak_layer is None:
                into.peak_token = np.full((n, self.options.peaks), -1, np.int32)
                into.peak_layer, into.peak_mass = into.peak_token.copy(), _nan(n, self.options.peaks)
            token, mass, layer = (found[f"peak_{name}"][row, here] for name in ("token", "mass", "layer"))
            seen = token >= 0
            into.peak_token[chain] = np.where(seen, token - part.context + part.begin, -1)
            into.peak_mass[chain] = np.where(seen, mass, np.nan)
            into.peak_layer[chain] = np.where(seen, layer, -1)

    def trace(self, sequence: TokenSequence, found: Partial, premises: Premises | None) -> Trace:
        """The trace of a complete sequence."""
        item, row, options = sequence.item, sequence.row, self.options
        spans, tokens = row.step_tokens, row.tokens
        counts = np.diff(spans, axis=1)[:, 0]
        if found.seen is None:
            step_keys, (query, key) = None, _step_pairs(len(spans))
        else:
            query, key = np.nonzero(found.seen)
            step_keys = np.where(key < 2, key - 2, query + key - 1 - sequence.near).astype(np.int32)
        sums = found.step_masses[query, key].astype(np.float64)
        trace = Trace(
            chain=item.chain,
            steps=tuple(item.steps),
            run=self.run.id,
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
            hidden_baseline=mean_of_defined(np.stack(found.baseline)),
            step_attention=(sums / np.where(counts, counts, np.nan)[query, None]).astype(np.float32),
            step_keys=step_keys,
            attention_shift=found.layers["attention_shift"],
            attention_previous=found.layers["attention_previous"],
            attention_sink=found.layers["attention_sink"],
            attention_entropy=found.layers["attention_entropy"],
        )
        changes: dict[str, Any] = {}
        if item.chain.messages and self.run.template == "chat":
            changes |= {
                "prefix_token_ids": np.asarray(row.context.prefix, np.int32),
                "infix_token_ids": np.asarray(row.context.infix, np.int32),
            }
        if options.token_attention and found.attends is not None:
            step, mass, layer = found.attends
            changes |= {"token_attends_step": step, "token_attends_mass": mass, "token_attends_layer": layer}
        if found.top is not None:
            items, log_p = found.top
            changes |= {
                "top_id": np.ascontiguousarray(items[:, : options.n_top]),
                "top_log_probability": np.ascontiguousarray(log_p[:, : options.n_top]),
                "margin": log_p[:, 0] - log_p[:, 1],
            }
        if options.peaks:
            changes |= {
                "peak_token": found.peak_token,
                "peak_mass": found.peak_mass,
                "peak_layer": found.peak_layer,
            }
        if options.states and found.states is not None:
            kept = tuple(sorted(set(options.states)))
            with np.errstate(invalid="ignore", divide="ignore"):
                states = found.states / np.where(counts, counts, np.nan)[:, None, None]
            changes |= {"state_layers": kept, "step_states": states.astype(np.float32)}
        if premises is not None:
            given = [mean_of_defined(found.surprisal[a:b, None])[0] for a, b in spans]
            changes |= {
                "nll_given_all": np.asarray(given, np.float32),
                "nll_given_question": premises.given_question,
                "nll_without_previous": premises.without_previous,
            }
        return with_derived(replace(trace, **changes) if changes else trace)


def _attends(
    sums: Floats, strongest: Ints, keys: Longs, own: Longs, layers: int, first: int
) -> tuple[Ints, Floats, Ints]:
    """The earlier step that each token looks at most, by the mean over layers: step, mass and layer, each (n,).

    ``sums`` (n, k) over layers, ``strongest`` (n, k) the layer of the largest mass, ``keys`` (n or 1, k) the step of each
    column, ``own`` (n,) each token's step; steps count from ``first``, those below 0 are not there.
    """
    row = np.arange(len(sums))
    keys = np.broadcast_to(keys, sums.shape)
    mean = np.where((keys >= 0) & (keys < own[:, None]), sums / layers, -1.0)
    best = mean.argmax(1)
    none = mean[row, best] < 0
    return (
        np.where(none, -1, keys[row, best] + first).astype(np.int32),
        np.where(none, np.nan, mean[row, best]).astype(np.float32),
        np.where(none, -1, strongest[row, best]).astype(np.int32),
    )


def _put_logits(part: Pass, here: slice, chain: slice, stats: LogitStatistics, into: Partial) -> None:
    # the token at position p is predicted by row p - 1; without context the first token has no prediction
    positions = np.arange(here.start, here.stop)
    known = positions > 0
    rows = positions[known] - 1
    where = np.arange(chain.start, chain.stop)[known]
    surprisal = stats.surprisal.numpy()
    into.surprisal[where] = surprisal[rows]
    into.entropy[where] = stats.entropy.numpy()[rows]
    into.rank[where] = stats.rank.numpy()[rows]
    into.logit_shift[where] = stats.shift.numpy()[rows + 1]
    if k := stats.top.shape[1]:
        if into.top is None:
            into.top = (np.full((len(into.rank), k), -1, np.int32), _nan(len(into.rank), k))
        into.top[0][where], into.top[1][where] = stats.top.numpy()[rows], stats.top_log_p.numpy()[rows]
    if part.begin == 0 and part.question:
        span = part.sequence.row.context.question_span
        first = max(1, span.start)
        into.question_surprisal[first - span.start :] = surprisal[first - 1 : span.stop - 1]


@lru_cache(maxsize=256)
def _step_pairs(steps: int) -> tuple[Longs, Longs]:
    """Step and bin of every entry of ``Trace.step_attention``: the bins up to a step's own, step after step."""
    query = np.repeat(np.arange(steps), np.arange(steps) + 3)
    return query, np.concatenate([np.arange(step + 3) for step in range(steps)] or [query])


def _nan(*shape: int) -> Floats:
    return np.full(shape, np.nan, np.float32)


def mean_of_defined(values: npt.NDArray[Any]) -> Floats:
    """Mean over the first axis without the NaN; NaN where nothing is defined."""
    defined = ~np.isnan(values)
    count = defined.sum(0)
    total = np.where(defined, values, 0).sum(0, dtype=np.float64)
    return np.where(count, total / np.maximum(count, 1), np.nan).astype(np.float32)
