"""Bridges: paths against brute force, and a glued path whose glue is bad is reported bad."""

from __future__ import annotations

import itertools
import re
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trails.analyses import bridge
from trails.errors import UsageError
from trails.measure.base import Segmented
from trails.measure.uniform import UniformScorer
from trails.schema import Trace

EDGES = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 6), st.integers(0, 6)), min_size=0, max_size=16
)


def csr(edges: list[tuple[int, int, int, int]], n: int = 6) -> tuple[Any, Any, Any, Any]:
    edges = sorted(edges)
    tails = [e[0] for e in edges]
    begin = np.concatenate([[0], np.cumsum(np.bincount(tails, minlength=n))]).astype(np.int64)
    worst = np.array([e[2] for e in edges], np.float64)
    total = worst + np.array([e[3] for e in edges], np.float64)
    return begin, np.array([e[1] for e in edges], np.int64), worst, total


def simple_paths(edges: list[tuple[int, int, int, int]], start: int, goal: int) -> list[list[int]]:
    """Edge numbers of all simple paths."""
    edges = sorted(edges)
    found = []

    def walk(node: int, seen: set[int], path: list[int]) -> None:
        if node == goal:
            found.append(path)
            return
        for number, (tail, head, _, _) in enumerate(edges):
            if tail == node and head not in seen:
                walk(head, seen | {head}, [*path, number])

    walk(start, {start}, [])
    return found


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(EDGES)
def test_minimax_is_the_best_of_all_simple_paths(edges: list[tuple[int, int, int, int]]) -> None:
    begin, target, worst, total = csr(edges)
    got = bridge.minimax_path(begin, target, worst, total, 0, 5)
    paths = simple_paths(edges, 0, 5)
    if not paths:
        assert got == []
        return
    best = min((max(worst[p]), sum(total[p])) for p in paths)
    assert (max(worst[got]), sum(total[got])) == best


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(EDGES, st.integers(1, 6))
def test_fewest_is_the_shortest_under_the_budget(edges: list[tuple[int, int, int, int]], budget: int) -> None:
    begin, target, worst, total = csr(edges)
    got = bridge.cheapest_path(begin, target, worst, total, 0, 5, budget=budget, fewest=True)
    paths = [p for p in simple_paths(edges, 0, 5) if max(worst[p]) <= budget]
    if not paths:
        assert got == []
        return
    assert (len(got), sum(total[got])) == min((len(p), sum(total[p])) for p in paths)


def test_the_cheapest_of_the_best_is_not_lost_to_a_lucky_start() -> None:
    # over node 1 the path so far is better (worst 1), but costs more; the last edge makes the worst equal
    edges = [(0, 1, 1, 9), (1, 3, 1, 9), (0, 2, 3, 0), (2, 3, 1, 0), (3, 5, 5, 0)]
    begin, target, worst, total = csr(edges)
    path = bridge.minimax_path(begin, target, worst, total, 0, 5)
    assert [int(target[e]) for e in path] == [2, 3, 5]


class PairScorer:
    """A closed-form model: 1 nat for a pair of words that its corpus has, 9 nats for any other, 2 for a first word."""

    def __init__(self, build: Any, texts: list[list[str]]) -> None:
        self.run = UniformScorer().run
        self.build = build
        self.known: set[tuple[str, str]] = set()
        for steps in texts:
            words = [piece.strip() for piece in build(steps).pieces]
            self.known |= set(itertools.pairwise(words))

    def count_tokens(self, item: Segmented) -> int:
        return len(item.chain.text)

    def trace(self, steps: list[str], name: str) -> Trace:
        words = [piece.strip() for piece in self.build(steps).pieces]
        nats = [2.0] + [1.0 if pair in self.known else 9.0 for pair in itertools.pairwise(words)]
        return self.build(steps, name=name, surprisal=nats, run=self.run.id)

    def measure(self, items: Any, options: Any) -> list[Trace]:
        return [
            self.trace([item.chain.text[s.start : s.end] for s in item.steps], item.chain.source_id) for item in items
        ]


def corpus_with_glue(build: Any) -> tuple[PairScorer, list[Trace]]:
    """Two chains that share a similar middle step; walking over from one to the other joins words never seen together."""
    texts = [
        ["alpha opens. ", "shared middle words walk. ", "gamma closes. "],
        ["delta opens. ", "shared middle words halt! ", "omega closes. "],
    ]
    for number in range(30):
        texts.append([f"filler{n}w{number} runs on. " for n in range(4)])
    scorer = PairScorer(build, texts)
    return scorer, [scorer.trace(steps, str(n)) for n, steps in enumerate(texts)]


def test_bad_glue_is_reported_bad(make: Any) -> None:
    scorer, traces = corpus_with_glue(make)
    graph = bridge.step_graph(traces)
    found = bridge.find_bridge(graph, scorer, f"{traces[0].chain.id}:0", f"{traces[1].chain.id}:2")
    assert found.minimax is not None
    assert found.minimax.glued == (False, True)
    score = found.minimax.scores[0]
    controls = {control.name: control.value for control in score.controls}
    # ". omega" follows ". shared middle words walk" in no chain: the claim of 1 nat is false
    assert controls["claimed by the path"] == 1.0
    assert score.value == 9.0
    assert score.value > controls["real spans of 2 steps"]
    assert any(name.startswith("random splice") for name in controls)
    assert "goal directly after the start" in controls


def test_a_real_span_is_its_own_bridge_and_keeps_its_claim(make: Any) -> None:
    scorer, traces = corpus_with_glue(make)
    graph = bridge.step_graph(traces)
    found = bridge.find_bridge(graph, scorer, f"{traces[5].chain.id}:0", f"{traces[5].chain.id}:3", budget=1.5)
    assert found.minimax is not None
    assert found.minimax.glued == (False, False, False)
    score = found.minimax.scores[0]
    assert score.value == score.control == 1.0
    assert found.fewest is not None
    assert found.fewest.n_extra == 2
    assert found.fewest.keeps_budget is True
    tight = bridge.find_bridge(graph, scorer, f"{traces[5].chain.id}:0", f"{traces[5].chain.id}:3", budget=0.5)
    assert tight.fewest is None
    assert any("0.5" in note for note in tight.notes)


def test_no_path_is_said_and_not_scored(make: Any) -> None:
    scorer, traces = corpus_with_glue(make)
    graph = bridge.step_graph(traces, neighbours=0)
    found = bridge.find_bridge(graph, scorer, traces[3].chain.id, traces[4].chain.id)
    assert found.minimax is None
    assert found.scores == ()
    assert found.withheld
    assert found.notes[-1] == "to glue more steps, raise --neighbours, which is 0"
    assert found.notes[0].endswith("steps can be reached"), "without a path nothing is said of paths"
    assert found.report().verdict.startswith("no bridge: no way leads from")
    inside = bridge.find_bridge(graph, scorer, f"{traces[3].chain.id}:0", f"{traces[3].chain.id}:1")
    assert inside.notes[0].startswith(f"3 of {graph.n_nodes} steps can be reached")


def test_links_from_near_overlaps_are_glue(make: Any) -> None:
    scorer, traces = corpus_with_glue(make)
    one, two = traces[3].chain.id, traces[4].chain.id
    graph = bridge.step_graph(traces, neighbours=0, links=[(f"{one}:1", f"{two}:1", 0.9)])
    found = bridge.find_bridge(graph, scorer, f"{one}:0", f"{two}:2")
    assert found.minimax is not None
    assert found.minimax.steps == (f"{one}:1", f"{two}:2")


def test_the_order_of_chains_does_not_matter(make: Any) -> None:
    _, traces = corpus_with_glue(make)
    one, two = bridge.step_graph(traces), bridge.step_graph(traces[::-1])
    assert one.target.tolist() == two.target.tolist()
    assert one.begin.tolist() == two.begin.tolist()


def test_unknown_and_equal_ends_are_refused(make: Any) -> None:
    scorer, traces = corpus_with_glue(make)
    graph = bridge.step_graph(traces)
    name = traces[0].chain.id
    with pytest.raises(UsageError, match="0 chains fit"):
        bridge.find_bridge(graph, scorer, "nothing", name)
    with pytest.raises(UsageError, match="steps 0 to 2"):
        bridge.find_bridge(graph, scorer, f"{name}:7", name)
    with pytest.raises(UsageError, match="two different steps"):
        bridge.find_bridge(graph, scorer, f"{name}:1", f"{name}:1")


def test_another_instrument_is_refused(make: Any) -> None:
    graph = bridge.step_graph([make(["a. ", "b. "], name="1"), make(["c. ", "d. "], name="2")])
    with pytest.raises(UsageError, match="--model"):
        bridge.find_bridge(graph, UniformScorer(), graph.chains[0].id, graph.chains[1].id)


def test_a_spliced_text_has_no_border_that_its_chains_do_not_have(make: Any) -> None:
    chains = [make(["one. ", "two.\n\n", "three."], name="1"), make(["four; ", "five.\n", "six. ", "seven."], name="2")]
    graph = bridge.step_graph(chains, neighbours=0)
    first, second = graph.first[[next(n for n, c in enumerate(graph.chains) if c.id == t.chain.id) for t in chains]]
    one, two, three = first, first + 1, first + 2
    four, five, six, seven = second, second + 1, second + 2, second + 3

    def text(start: int, *nodes: int) -> list[str]:
        item, at = bridge.spliced(graph, start, nodes, "x")
        assert "".join(item.chain.text[s.start : s.end] for s in item.steps) == item.chain.text
        assert [s.index for s in item.steps] == list(range(len(item.steps)))
        return [item.chain.text[s.start : s.end] for s in item.steps[at:]]

    assert text(one, two) == ["two.\n\n", "three."]  # what follows it in its chain, so that its end is cut as it was
    assert text(one, six) == ["six. ", "seven."]
    assert text(two, seven) == ["seven."]  # nothing follows the last step
    item, _ = bridge.spliced(graph, three, [six], "x")
    assert item.chain.text == "one. two.\n\nthree.\nsix. seven."  # the line break that stands before six in its chain
    item, _ = bridge.spliced(graph, three, [four], "x")
    assert item.chain.text.startswith("one. two.\n\nthree.\nfour; ")  # neither chain has a border there
    item, _ = bridge.spliced(graph, seven, [two, five], "x")
    assert item.chain.text.endswith("seven. two.\n\nfive.\nsix. ")


class BorderScorer:
    """A closed-form model whose numbers depend on every character: nats from a hash of each piece and the one before it, white
    space with them. Pieces are a word or a mark with the white space before it, and a last piece of white space of its own."""

    def __init__(self, build: Any) -> None:
        self.run = UniformScorer().run
        self.build = build

    def count_tokens(self, item: Segmented) -> int:
        return len(item.chain.text)

    def trace(self, steps: list[str], name: str) -> Trace:
        text = "".join(steps)
        pieces = re.findall(r"\s*(?:\w+|[^\w\s]+\n*)|\s+$", text)
        assert "".join(pieces) == text
        nats = [1 + zlib.crc32("|".join(pair).encode()) % 1000 / 100 for pair in itertools.pairwise(["", *pieces])]
        ends = np.cumsum([len(piece) for piece in pieces])
        made = self.build(steps, name=name, run=self.run.id, surprisal=0.0)
        bounds = np.searchsorted(ends, [step.end for step in made.steps], side="right")
        bounds[-1] = len(pieces)
        return replace(
            made,
            token_ids=np.zeros(len(pieces), np.int32),
            token_start=np.concatenate([[0], ends[:-1]]).astype(np.int32),
            token_end=ends.astype(np.int32),
            pieces=tuple(pieces),
            step_tokens=np.stack([np.concatenate([[0], bounds[:-1]]), bounds], axis=1).astype(np.int32),
            surprisal=np.array(nats, np.float32),
        )

    def measure(self, items: Any, options: Any) -> list[Trace]:
        return [
            self.trace([item.chain.text[s.start : s.end] for s in item.steps], item.chain.source_id) for item in items
        ]


STEPS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["ab", "so", "it", "x1"]), min_size=1, max_size=3),
        st.sampled_from([".", "!", ";", ""]),
    )
    .map(lambda made: " ".join(made[0]) + made[1])
    .flatmap(lambda text: st.sampled_from([" ", "\n", "\n\n", "  "]).map(lambda blank: text + blank)),
    min_size=2,
    max_size=6,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(STEPS, st.booleans())
def test_adjacent_stored_steps_rescore_to_exactly_what_is_stored(steps: list[str], blank_at_the_end: bool) -> None:
    from tests.analyses.conftest import build_trace

    if not blank_at_the_end:
        steps = [*steps[:-1], steps[-1].rstrip()]
    scorer = BorderScorer(build_trace)
    stored = scorer.trace(steps, "stored")
    graph = bridge.step_graph([stored])
    for index in range(len(steps) - 1):
        found = bridge.find_bridge(graph, scorer, f"{stored.chain.id}:{index}", f"{stored.chain.id}:{index + 1}")
        assert found.minimax is not None
        a, b = stored.step_tokens[index + 1]
        worst, whole = found.minimax.scores
        assert worst.value == worst.strictest("claimed").value == float(stored.surprisal[a:b].max())
        assert whole.value == pytest.approx(float(stored.surprisal[a:b].astype(np.float64).sum()))


def test_the_search_goes_on_with_what_rescoring_taught(make: Any) -> None:
    """The way over another chain claims 1 nat and costs 9 when re-scored; the real one claims 2 and costs 2."""
    texts = [["start here! ", "dear middle. ", "goal reached. "], ["other begin. ", "cheap way. ", "end there. "]]
    texts += [[f"filler{n}w{number} runs on. " for n in range(4)] for number in range(3)]

    class Dear(PairScorer):
        def trace(self, steps: list[str], name: str) -> Trace:
            found = super().trace(steps, name)
            at = [piece.strip() for piece in found.pieces]
            nats = [
                2.0 if word == "middle" else value for word, value in zip(at, found.surprisal.tolist(), strict=True)
            ]
            return self.build(steps, name=name, surprisal=nats, run=self.run.id)

    scorer = Dear(make, texts)
    traces = [scorer.trace(steps, str(number)) for number, steps in enumerate(texts)]
    one, two = traces[0].chain.id, traces[1].chain.id
    links = [(f"{one}:0", f"{two}:0", 0.9), (f"{two}:1", f"{one}:1", 0.9)]
    graph = bridge.step_graph(traces, neighbours=0, links=links)
    found = bridge.find_bridge(graph, scorer, f"{one}:0", f"{one}:2")
    assert found.minimax is not None
    assert found.verified is not None
    assert found.minimax.steps == (f"{two}:1", f"{one}:2")
    assert (found.minimax.rescored.strictest("claimed").value, found.minimax.rescored.value) == (1.0, 9.0)
    assert found.verified.steps == (f"{one}:1", f"{one}:2")
    assert (found.verified.rescored.strictest("claimed").value, found.verified.rescored.value) == (2.0, 2.0)
    only = bridge.find_bridge(graph, scorer, f"{one}:0", f"{one}:2", rounds=1)
    assert only.verified == only.minimax
    # the goal right after the start joins two words that no chain has
    assert found.report().verdict.startswith(
        "a bridge of 1 extra step has a worst transition of 2.00 nats, going straight 9.00"
    )
    assert "no bridge is better than going straight" in only.report().verdict


@pytest.mark.model
def test_the_real_model_rescores_a_glued_path_higher_than_it_claims(smollm2: Any) -> None:
    from trails.measure.base import MeasureOptions
    from trails.schema import Chain
    from trails.segment import segment

    texts = [
        (
            "How many apples?",
            "Tom has 3 bags with 4 apples each. So he has 3 * 4 = 12 apples. He eats 2, so 12 - 2 = 10 are left.",
        ),
        (
            "Is it raining?",
            "The street is wet. So he has either rain or a sprinkler. The sky is clear, so it was the sprinkler.",
        ),
    ]
    items = []
    for number, (question, text) in enumerate(texts):
        chain = Chain("made", str(number), question, text, language="en")
        items.append(Segmented(chain, segment(chain)))
    traces = smollm2.measure(items, MeasureOptions())
    one, two = (trace.chain.id for trace in traces)
    graph = bridge.step_graph(traces, neighbours=0, links=[(f"{one}:1", f"{two}:1", 0.9)])
    found = bridge.find_bridge(graph, smollm2, f"{one}:0", f"{two}:2", splices=2)
    assert found.minimax is not None
    score = found.minimax.scores[0]
    assert score.value > score.control  # the sky is clear, after apples
    assert {item.name for item in found.minimax.withheld} == {"random splice", "real span"}
    # what follows a step in its own chain costs what is stored, whatever blank or mark ends it
    for trace in traces:
        for index in range(len(trace.steps) - 1):
            ends = f"{trace.chain.id}:{index}", f"{trace.chain.id}:{index + 1}"
            way = bridge.find_bridge(graph, smollm2, *ends, splices=1).minimax
            assert way is not None
            for score in way.scores:
                assert score.value == pytest.approx(score.strictest("claimed").value, abs=1e-3), ends
