"""Made-up reductions of batches, put in place at once, against the same token by token."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from families import VOCABULARY, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import QUESTION, TEXT, byte_tokenizer, item, scorer_of

from trails.errors import UnmeasurableError
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.collector import LAYER_MEASURES, Collector, Flight, kept_top
from trails.measure.context import Context, Row
from trails.measure.huggingface import check_finite
from trails.measure.metrics import LogitStatistics
from trails.measure.passes import Pass, TokenSequence, pack
from trails.measure.passes import passes_of as passes_of_run
from trails.measure.tokens import Encoded, TextTokenizer
from trails.schema import Chain, Run, Step, Trace

LAYERS, WIDTH = 3, 4
PIECES = TextTokenizer(byte_tokenizer())
RUN = Run("made up", "0", PIECES.hash, n_layers=LAYERS, vocab_size=VOCABULARY)
Given = list[
    tuple[Flight, int, int]
]  # the passes of a sequence as they came: flight, row, first of its rows of statistics


def sequence_of(random: np.random.Generator, name: str) -> TokenSequence:
    n = int(random.integers(1, 9))
    edges = [0, *sorted(random.integers(0, n + 1, random.integers(0, 4)).tolist()), n]  # a step may be empty
    spans = np.asarray(list(pairwise(edges)), np.int32)
    sizes = random.integers(0, 3, 3).tolist() if random.random() < 0.7 else [0, 0, 0]
    context = Context(*(tuple(range(size)) for size in sizes))
    ids = random.integers(0, 256, n).astype(np.int32)
    at = np.arange(n, dtype=np.int32)
    tokens = Encoded(ids, at, at + 1, ("x",) * n)
    item = Segmented(
        Chain("made up", name, "", "x" * n), tuple(Step(i, int(a), int(b)) for i, (a, b) in enumerate(spans))
    )
    row = Row(item.chain.id, context, tokens, spans, ("NONE",) * len(spans), len(context) + n, 1)
    return TokenSequence(item, row)


def passes_of(random: np.random.Generator, sequence: TokenSequence) -> list[Pass]:
    """One pass, or windows that overlap: only the first one keeps its first token."""
    n = len(sequence.row.tokens)
    edges = sorted({0, n, *random.integers(0, n + 1, random.integers(0, 3)).tolist()})
    return [Pass(sequence, int(random.integers(0, max(1, keep))), keep, end) for keep, end in pairwise(edges)]


def flight_of(random: np.random.Generator, batch: list[Pass], options: MeasureOptions) -> Flight:
    """Numbers of the right shape; what nobody may read is undefined."""
    length = max(part.length for part in batch) + int(random.integers(0, 3))
    steps = max(len(part.sequence.row.step_tokens) for part in batch) + int(random.integers(0, 3))
    size, rows = len(batch), sum(part.length for part in batch)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.random(shape, np.float32))

    found = {name: drawn(size, length, LAYERS) for name in LAYER_MEASURES}
    found |= {"hidden_shift": drawn(size, length, LAYERS + 1), "baseline": drawn(size, LAYERS + 1)}
    found["step_masses"] = drawn(size, steps, steps + 2, LAYERS)
    if options.states:
        found["states"] = drawn(size, steps, len(options.states), WIDTH)
    if options.token_attention:
        found["attends_sum"] = drawn(size, length, steps + 2)
        found["attends_layer"] = torch.from_numpy(random.integers(0, LAYERS, (size, length, steps + 2), np.int32))
    if options.peaks:
        shape = (size, length, options.peaks)
        found["peak_token"] = torch.from_numpy(random.integers(-1, length, shape))
        found |= {"peak_mass": drawn(*shape), "peak_layer": torch.from_numpy(random.integers(0, LAYERS, shape))}
    for row, part in enumerate(batch):
        for name in (*LAYER_MEASURES, "hidden_shift", "attends_sum"):
            if name in found:
                found[name][row, part.length :] = torch.nan
        found["step_masses"][row, len(part.sequence.row.step_tokens) :] = torch.nan
    k = kept_top(options)
    items = random.integers(-1, VOCABULARY, (rows, k))
    log_p = np.where(items < 0, np.nan, -random.random((rows, k), np.float32)).astype(np.float32)
    statistics = LogitStatistics(
        drawn(rows), drawn(rows), torch.from_numpy(random.integers(0, VOCABULARY, rows)), drawn(rows),
        torch.from_numpy(items), torch.from_numpy(log_p),
    )  # fmt: skip
    ends = np.cumsum([part.length for part in batch]) - 1
    statistics.surprisal[ends] = torch.nan  # the last row of a pass has no target
    return Flight(batch, found, statistics)


class Arrival:
    """An event with which numbers come to the host, and others go."""

    def __init__(self, place: list[torch.Tensor], numbers: list[torch.Tensor], leaving: list[torch.Tensor]) -> None:
        self.place, self.numbers, self.leaving = place, numbers, leaving

    def synchronize(self) -> None:
        for place, numbers in zip(self.place, self.numbers, strict=True):
            place.copy_(numbers)
        for place in self.leaving:
            place.fill_(9)


def on_its_way(flight: Flight) -> Flight:
    """The same numbers, the reductions there before the statistics; they are put in place while the statistics are made."""
    names, rows = list(flight.found), [getattr(flight.statistics, name) for name in LogitStatistics.__slots__]
    found, arriving = ([torch.full_like(x, 9) for x in of] for of in (flight.found.values(), rows))
    events: tuple[Any, Any] = Arrival(found, list(flight.found.values()), []), Arrival(arriving, rows, found)
    return Flight(flight.batch, dict(zip(names, found, strict=True)), LogitStatistics(*arriving), *events)


def slowly(sequence: TokenSequence, given: Given, options: MeasureOptions) -> dict[str, Any]:
    """The arrays of a trace, number by number."""
    row_of, n, nan = sequence.row, len(sequence.row.tokens), np.float32(np.nan)
    wanted: dict[str, list[Any]] = {}

    def put(name: str, value: Any) -> None:
        wanted.setdefault(name, []).append(value)

    for t in range(n):
        flight, row, start, part = next(
            (*one, p) for one in given for p in [one[0].batch[one[1]]] if p.keep <= t < p.end
        )
        at, found, rows = part.context + t - part.begin, flight.found, flight.statistics
        before = start + at - 1
        for name in (*LAYER_MEASURES, "hidden_shift"):
            put(name, found[name][row, at].numpy())
        put("surprisal", rows.surprisal[before].item() if at else nan)
        put("entropy", rows.entropy[before].item() if at else nan)
        put("rank", rows.rank[before].item() if at else -1)
        put("logit_shift", rows.shift[before + 1].item() if at else nan)
        if options.n_top:
            top = rows.top[before].numpy() if at else np.full(rows.top.shape[1], -1)
            log_p = rows.top_log_p[before].numpy() if at else np.full(rows.top.shape[1], nan)
            put("top_id", top[: options.n_top])
            put("top_log_probability", log_p[: options.n_top])
            put("margin", log_p[0] - log_p[1])
        if options.token_attention:
            own = int(sequence.chain_bins[t]) - 2
            means = [found["attends_sum"][row, at, step + 2].numpy() / np.float32(LAYERS) for step in range(own)]
            best = int(np.argmax(means)) if means else -1
            put("token_attends_step", best)
            put("token_attends_mass", means[best] if means else nan)
            put("token_attends_layer", found["attends_layer"][row, at, best + 2].item() if means else -1)
        if options.peaks:
            peaks = [(found[f"peak_{name}"][row, at].tolist()) for name in ("token", "mass", "layer")]
            for name, undefined, values in zip(("token", "mass", "layer"), (-1, nan, -1), peaks, strict=True):
                moved = part.begin - part.context if name == "token" else 0
                put(f"peak_{name}", [v + moved if p >= 0 else undefined for v, p in zip(values, peaks[0], strict=True)])
    spans = row_of.step_tokens.tolist()
    sums = [
        [sum(np.float64(f.found["step_masses"][row, s, k].numpy()) for f, row, _ in given) for k in range(s + 3)]
        for s in range(len(spans))
    ]
    masses = [np.float32(total / (b - a)) if b > a else [nan] * LAYERS for (a, b), of in zip(spans, sums, strict=True)
              for total in of]  # fmt: skip
    baselines = [
        f.found["baseline"][row].numpy() for f, row, _ in given if f.batch[row].end - f.batch[row].keep > 1
    ] or [np.full(LAYERS + 1, nan)]
    mean = sum(map(np.float64, baselines)) / len(baselines)
    result = wanted | {"step_attention": masses, "hidden_baseline": mean.astype(np.float32)}
    if options.states:
        states = [
            sum(np.float64(f.found["states"][row, s].numpy()) for f, row, _ in given) / (b - a)
            if b > a else np.full((len(options.states), WIDTH), nan)
            for s, (a, b) in enumerate(spans)
        ]  # fmt: skip
        result["step_states"] = np.float32(states)
    flight, row, start = next(one for one in given if one[0].batch[one[1]].keep == 0)
    places = range(len(row_of.context))[row_of.context.question_span]
    if flight.batch[row].begin == 0:
        result["question_surprisal"] = [
            flight.statistics.surprisal[start + at - 1].item() if at else nan for at in places
        ]
    return result


def same(trace: Trace, wanted: dict[str, Any]) -> None:
    for name, values in wanted.items():
        found = trace.array(name)
        assert found is not None, name
        expected = np.asarray(values, found.dtype).reshape(found.shape)
        assert np.array_equal(found, expected, equal_nan=found.dtype.kind == "f"), name
        assert found.flags.c_contiguous, name
    if trace.top_id is not None:
        items = sorted({item for row in trace.top_id.tolist() for item in row} - {-1})
        assert trace.top_pieces == PIECES.pieces(items)


def test_statistics_of_a_batch_are_those_of_its_passes() -> None:
    """All rows together, as on a GPU, and pass by pass, as on a CPU, where rows that nobody reads are left out."""
    scorer = scorer_of(tiny("llama (grouped-query)"))
    items = [item(TEXT * n, QUESTION, (), source_id=str(n)) for n in (2, 1)]
    batch = [part for one in items for part in passes_of_run(scorer.sequence(one), scorer.run)]
    length = max(part.length for part in batch)
    with scorer.model.measuring():
        ids = torch.from_numpy(pack(batch, length))[:, :length]
        hidden = scorer.model.hidden(ids)
        together, apart = (
            scorer._statistics_together(batch, ids, hidden, 50, 3),
            scorer.statistics(batch, ids, hidden, 3),
        )
    start = 0
    for part in batch:
        read = slice(start + part.context, start + part.length - 1)
        for name in LogitStatistics.__slots__:
            found, expected = getattr(together, name), getattr(apart, name)
            assert len(found) == len(expected) == sum(one.length for one in batch)
            torch.testing.assert_close(found[read], expected[read], atol=1e-5, rtol=0)
        start += part.length


def test_measuring_leaves_a_model_as_it_was() -> None:
    scorer = scorer_of(tiny("llama (grouped-query)"))
    for training in (False, True):
        scorer.model.module.train(training)
        with scorer.model.measuring():
            assert not any(module.training for module in scorer.model.module.modules())
        assert all(module.training == training for module in scorer.model.module.modules())


OPTIONS = st.builds(
    MeasureOptions,
    token_attention=st.booleans(),
    peaks=st.sampled_from([0, 2]),
    states=st.sampled_from([(), (0, 2)]),
    top_k=st.sampled_from([0, 1, 3]),
)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), options=OPTIONS, wrong=st.booleans())
def test_batches_are_put_in_place_as_token_by_token(seed: int, options: MeasureOptions, wrong: bool) -> None:
    """With and without a context, in windows that come in any order, in padded batches; empty steps, single tokens. A number
    that is not finite is told of the chain that has it and of no other.
    """
    random = np.random.default_rng(seed)
    sequences = [sequence_of(random, str(n)) for n in range(random.integers(1, 5))]
    parts = [part for sequence in sequences for part in passes_of(random, sequence)]
    order = random.permutation(len(parts)).tolist()
    cuts = sorted({0, len(parts), *random.integers(0, len(parts), 2).tolist()})
    flights = [flight_of(random, [parts[i] for i in order[a:b]], options) for a, b in pairwise(cuts)]
    bad = -1
    if wrong:
        flight = flights[int(random.integers(len(flights)))]
        row = int(random.integers(len(flight.batch)))
        part = flight.batch[row]
        name = (*LAYER_MEASURES, "hidden_shift")[random.integers(5)]
        at = part.context + part.keep - part.begin
        if at:  # what nothing precedes may be undefined
            flight.found[name][row, at, 0] = torch.inf
            bad = id(part.sequence)
    given: dict[int, Given] = {}
    for flight in flights:
        start = 0
        for row, part in enumerate(flight.batch):
            given.setdefault(id(part.sequence), []).append((flight, row, start))
            start += part.length
    collector = Collector(RUN, options, parts, PIECES)
    seen = []
    for flight in flights:
        for sequence, found in collector.take(on_its_way(flight)):
            seen.append(id(sequence))
            trace = collector.trace(sequence, found, None)
            same(trace, slowly(sequence, given[id(sequence)], options))
            assert found.finite or bad >= 0
            if id(sequence) == bad:
                assert not found.finite
                with pytest.raises(UnmeasurableError, match=sequence.item.chain.id):
                    check_finite(trace, RUN)
            elif not found.finite:
                check_finite(trace, RUN)
    assert sorted(seen) == sorted(given)
