"""Bridges: the cheapest way from one step to another over the steps of all chains, always re-scored as one text.

The graph: steps are nodes. A *measured* edge leads to the next step of the same chain; a *glued* edge leads from a step to what
follows a similar step of another chain. Both claim what was measured there: the worst transition (largest surprisal of a
token, nats) of the later step in its own chain. A claim over glue is not a measurement: the model never saw that text. So every
bridge is measured again as one text, and four things stand side by side: the claimed worst transition, the re-scored one, a
random splice of as many steps, and real spans of as many steps.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trails.analyses.neighbours import hashed_words, nearest_others
from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.sequences import content_words, one_instrument
from trails.analyses.statistics import how_drawn, spread
from trails.errors import UsageError
from trails.measure.base import MeasureOptions, Scorer, Segmented
from trails.platform.arrays import Doubles, Floats, Longs
from trails.platform.text import counted, whole_number
from trails.schema import Chain, Step, Trace, step_key

REAL_SPANS = 500
MIN_REAL_SPANS = 20
"""Fewer real spans of the bridge's length than this are no control."""


@dataclass(frozen=True, slots=True)
class StepGraph:
    """Steps of all chains as nodes, in CSR form: node ``u`` has edges ``begin[u]:begin[u+1]``, edge ``e`` to ``target[e]``."""

    run: str
    chains: tuple[Chain, ...]
    steps: tuple[tuple[Step, ...], ...]
    chain: Longs  # (n,) chain number of each node
    index: Longs  # (n,) step index
    first: Longs  # (C+1,) node of each chain's first step
    worst: Doubles  # (n,) largest surprisal in the step, nats
    total: Doubles  # (n,) summed surprisal of the step, nats
    begin: Longs  # (n+1,)
    target: Longs  # (E,)
    glued: npt.NDArray[np.bool_]  # (E,)
    neighbours: int = 4  # similar steps that glue was looked for at, at most

    @property
    def n_nodes(self) -> int:
        """Number of steps."""
        return len(self.chain)

    def key(self, node: int) -> str:
        """Id of a step."""
        return step_key(self.chains[self.chain[node]].id, int(self.index[node]))

    def text(self, node: int) -> str:
        """Text of a step."""
        chain = int(self.chain[node])
        step = self.steps[chain][int(self.index[node])]
        return self.chains[chain].text[step.start : step.end]

    def space_before(self, node: int) -> str:
        """White space that stands before a step in its chain; a line break before a chain's first step."""
        if not self.index[node]:
            return "\n"
        before = self.text(node - 1)
        return before[len(before.rstrip()) :]

    def node(self, name: str, *, last: bool) -> int:
        """Node of a step id (``CHAIN:INDEX``), or the last or first step of a chain id. Unique beginnings of ids will do.

        Raises UsageError when no or several chains fit, or the chain has no such step.
        """
        chain_name, _, place = name.partition(":")
        fitting = [number for number, chain in enumerate(self.chains) if chain.id.startswith(chain_name)]
        if len(fitting) != 1 or not chain_name:
            raise UsageError(
                f"step or chain {name!r} was asked for and "
                f"{counted(len(fitting), 'chain fits', 'chains fit')}. Give a chain id or CHAIN:STEP; "
                "they are listed by: trails chains"
            )
        number = fitting[0]
        size = len(self.steps[number])
        if not place:
            return int(self.first[number]) + (size - 1 if last else 0)
        step = whole_number(place)
        if step is None or step >= size:
            raise UsageError(
                f"step {place!r} of chain {self.chains[number].id} was asked for; it has steps 0 to {size - 1}"
            )
        return int(self.first[number]) + step


def step_graph(
    traces: Iterable[Trace],
    *,
    neighbours: int = 4,
    min_cosine: float = 0.3,
    links: Sequence[tuple[str, str, float]] = (),
) -> StepGraph:
    """The graph of a run's steps. Glue comes from similar steps of other chains: the ``neighbours`` nearest by content
    words (tf-idf, cosine at least ``min_cosine``), and ``links`` (step id, step id, cosine), such as near overlaps. Raises
    UsageError for two runs or no trace.
    """
    kept = sorted(one_instrument(traces), key=lambda trace: trace.chain.id)
    if not kept:
        raise UsageError("no chain to build bridges from: ingest some with 'trails ingest PATH'")
    sizes = np.array([len(trace.steps) for trace in kept], np.int64)
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    n = int(first[-1])
    chain = np.repeat(np.arange(len(kept)), sizes)
    index = np.arange(n) - first[:-1][chain]
    worst, total = np.full(n, np.nan), np.full(n, np.nan)
    words = []
    for number, trace in enumerate(kept):
        for step in trace.steps:
            node = int(first[number]) + step.index
            a, b = trace.step_tokens[step.index].tolist()
            part = trace.surprisal[a:b].astype(np.float64)
            part = part[np.isfinite(part)]
            if len(part):
                worst[node], total[node] = float(part.max()), float(part.sum())
            words.append(content_words(trace.chain.text[step.start : step.end]))
    source = [np.flatnonzero(index[1:] > 0)]
    target = [source[0] + 1]
    glued = [np.zeros(len(source[0]), np.bool_)]
    pairs: set[tuple[int, int]] = set()
    if neighbours and len(kept) > 1:
        vectors: Floats = hashed_words(words)
        # hashed words have no leading coordinates: the clusters are made of all
        found, cosine = nearest_others(vectors, chain, neighbours, lead=vectors.shape[1])
        near, best = np.nonzero(cosine >= min_cosine)
        pairs.update(zip(near.tolist(), found[near, best].tolist(), strict=True))
    number_of = {trace.chain.id: number for number, trace in enumerate(kept)}
    for one, two, _ in links:
        ends = []
        for name in (one, two):
            chain_id, _, place = name.rpartition(":")
            if chain_id in number_of:
                ends.append(int(first[number_of[chain_id]]) + int(place))
        if len(ends) == 2:
            pairs.update([(ends[0], ends[1]), (ends[1], ends[0])])
    # The twin's successor follows; a twin that ends its chain leads nowhere.
    glue = sorted({(node, twin + 1) for node, twin in pairs if twin + 1 < n and chain[twin + 1] == chain[twin]})
    glue = [(a, b) for a, b in glue if chain[a] != chain[b]]
    if glue:
        source.append(np.array([a for a, _ in glue], np.int64))
        target.append(np.array([b for _, b in glue], np.int64))
        glued.append(np.ones(len(glue), np.bool_))
    tails, heads, kinds = np.concatenate(source), np.concatenate(target), np.concatenate(glued)
    order = np.lexsort((heads, tails))
    begin = np.concatenate([[0], np.cumsum(np.bincount(tails, minlength=n))]).astype(np.int64)
    return StepGraph(
        kept[0].run,
        tuple(trace.chain for trace in kept),
        tuple(trace.steps for trace in kept),
        chain,
        index,
        first,
        worst,
        total,
        begin,
        heads[order],
        kinds[order],
        neighbours,
    )


# --------------------------------------------------------------------------------------------------------------------
# Paths
# --------------------------------------------------------------------------------------------------------------------


def minimax_path(begin: Longs, target: Longs, worst: Doubles, total: Doubles, start: int, goal: int) -> list[int]:
    """Edges of the path whose worst edge is smallest, of those the one with the smallest total, then fewest edges; [] if none.

    Two passes: the bottleneck value by a heap on the worst edge so far, then the cheapest path over the edges that do
    not exceed it. (One pass ordered by worst and total together can miss the cheapest of the best.) NaN edges are unusable.
    """
    bottleneck = _bottleneck(begin, target, worst, start, goal)
    if not math.isfinite(bottleneck):
        return []
    return cheapest_path(begin, target, worst, total, start, goal, budget=bottleneck)


def _bottleneck(begin: Longs, target: Longs, worst: Doubles, start: int, goal: int) -> float:
    if start == goal:
        return -math.inf
    best = np.full(len(begin) - 1, np.inf)
    best[start] = -math.inf
    heap = [(-math.inf, start)]
    while heap:
        value, node = heapq.heappop(heap)
        if node == goal:
            return value
        if value > best[node]:
            continue
        a, b = int(begin[node]), int(begin[node + 1])
        if a == b:
            continue
        reach = np.maximum(worst[a:b], value)
        better = np.flatnonzero(reach < best[target[a:b]])  # NaN compares false
        for edge in better.tolist():
            head = int(target[a + edge])
            if reach[edge] < best[head]:
                best[head] = reach[edge]
                heapq.heappush(heap, (float(reach[edge]), head))
    return math.inf


def cheapest_path(
    begin: Longs,
    target: Longs,
    worst: Doubles,
    total: Doubles,
    start: int,
    goal: int,
    *,
    budget: float,
    fewest: bool = False,
) -> list[int]:
    """Edges of the path with the smallest total over edges whose worst is at most ``budget``; with ``fewest``, of those with
    the fewest edges; [] if there is none. Totals are non-negative.
    """
    best: dict[int, tuple[float, float]] = {start: (0.0, 0.0)}
    came: dict[int, int] = {}
    heap: list[tuple[float, float, int]] = [(0.0, 0.0, start)]
    while heap:
        one, two, node = heapq.heappop(heap)
        if node == goal:
            break
        if (one, two) > best[node]:
            continue
        for edge in range(int(begin[node]), int(begin[node + 1])):
            if not worst[edge] <= budget:
                continue
            head = int(target[edge])
            cost = float(total[edge])
            key = (one + 1, two + cost) if fewest else (one + cost, two + 1)
            if key < best.get(head, (math.inf, math.inf)):
                best[head], came[head] = key, edge
                heapq.heappush(heap, (*key, head))
    if goal not in came or start == goal:
        return []
    path = []
    node = goal
    while node != start:
        edge = came[node]
        path.append(edge)
        node = int(np.searchsorted(begin, edge, side="right")) - 1
    return path[::-1]


# --------------------------------------------------------------------------------------------------------------------
# Bridges
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Crossing(Finding):
    """One bridge: ids and texts of its steps after the start, the last one being the goal; which of them follow glue."""

    steps: tuple[str, ...]
    texts: tuple[str, ...]
    glued: tuple[bool, ...]
    scores: tuple[Score, ...]
    withheld: tuple[Withheld, ...]
    keeps_budget: bool | None = None
    """Whether the re-scored worst transition is within the budget; None when no budget was given."""

    @property
    def n_extra(self) -> int:
        """Steps between start and goal."""
        return len(self.steps) - 1

    @property
    def rescored(self) -> Score:
        """The worst transition, measured on the whole text."""
        return self.scores[0]

    def report(self) -> Report:
        """The steps of the way, and its scores."""
        claimed = self.rescored.strictest(CLAIMED).value
        glue = f"{sum(self.glued):,} of {counted(len(self.glued), 'edge')} glued"
        budget = {None: "", True: ", within the budget", False: ", over the budget"}[self.keeps_budget]
        kinds = ["glued" if glued else "measured" for glued in self.glued]
        edges = pa.table(
            {
                "edge": pa.array(kinds, pa.string()),
                "step": pa.array(self.steps, pa.string()),
                "text": pa.array(self.texts, pa.string()),
            }
        )
        return Report(
            "crossing",
            f"{counted(self.n_extra, 'extra step')}, {glue}: worst transition {self.rescored.value:.2f} nats re-scored, "
            f"{claimed:.2f} claimed{budget}",
            {
                "steps": list(self.steps),
                "texts": list(self.texts),
                "glued": list(self.glued),
                "n_extra": self.n_extra,
                "keeps_budget": self.keeps_budget,
            },
            (ReportTable("edges", edges, "the way"),),
            self.scores,
            self.withheld,
        )


@dataclass(frozen=True, slots=True)
class Bridge(Finding):
    """Ways from ``start`` to ``goal``. ``minimax`` is the path that claims the smallest worst transition, ``verified`` the best
    one after re-scoring (the search goes on with what re-scoring taught), ``fewest`` the one with the fewest extra steps that
    claims to stay under the budget; None where there is none.
    """

    run: str
    start: str
    goal: str
    start_text: str
    goal_text: str
    minimax: Crossing | None
    verified: Crossing | None
    fewest: Crossing | None
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def scores(self) -> tuple[Score, ...]:
        """Scores of the path that claims least."""
        return self.minimax.scores if self.minimax else ()

    @property
    def withheld(self) -> tuple[Withheld, ...]:
        """What could not be scored."""
        if self.minimax is None:
            return (Withheld("worst transition", "no path: there is nothing to re-score"),)
        return self.minimax.withheld

    @property
    def best(self) -> Crossing | None:
        """The way with the smallest worst transition after re-scoring; None where there is no way."""
        ways = [way for way in (self.verified, self.minimax, self.fewest) if way is not None]
        return min(ways, key=lambda way: way.rescored.value) if ways else None

    def report(self) -> Report:
        """The best way after re-scoring first, then what claimed least and what claimed to keep the budget."""
        return Report(
            "bridge",
            self._verdict(),
            {
                "run": self.run,
                "start": self.start,
                "goal": self.goal,
                "start_text": self.start_text,
                "goal_text": self.goal_text,
            },
            withheld=self.withheld if self.minimax is None else (),
            notes=self.notes,
            parts={
                name: way.report() if way is not None else None
                for name, way in (("verified", self.verified), ("minimax", self.minimax), ("fewest", self.fewest))
            },
        )

    def _verdict(self) -> str:
        best = self.best
        if best is None:
            return f"no bridge: no way leads from {self.start} to {self.goal} over measured and glued steps"
        straight = best.rescored.strictest(DIRECT).value
        value = best.rescored.value
        random = next((c for c in best.rescored.controls if c.name.startswith(SPLICE)), None)
        if not best.n_extra:
            place = f", a random step in its place {random.value:.2f}" if random is not None else ""
            return f"going straight is best: the goal right after the start has a worst transition of {value:.2f} nats{place}"
        if not value < straight:
            return (
                f"no bridge is better than going straight: the best has a worst transition of {value:.2f} nats, "
                f"the goal right after the start {straight:.2f}"
            )
        found = f"a bridge of {counted(best.n_extra, 'extra step')} has a worst transition of {value:.2f} nats"
        if random is None:
            return f"{found}, going straight {straight:.2f}; whether random steps do as well is open"
        low = random.interval[0] if random.interval else random.value
        if not value < low:
            return f"{found}, going straight {straight:.2f}, but random steps do as well ({random.value:.2f})"
        return f"{found}, going straight {straight:.2f}, random steps {random.value:.2f}"


CLAIMED = "claimed by the path"
DIRECT = "goal directly after the start"
SPLICE = "random splice"
"""Names of the controls of a crossing."""


def spliced(graph: StepGraph, start: int, nodes: Sequence[int], name: str) -> tuple[Segmented, int]:
    """The text of the start's chain up to and including the start, then the steps ``nodes``, then what follows the last of
    them in its own chain; with it the index of the first of the nodes.

    No step gets a border that its chain does not have: white space before a step is what stands before it in its own chain
    or what ends the step before it here, and the last node is followed by its own next step, so that a blank or a token
    across its end is cut as it was when it was measured. Only where neither chain has one (a chain's first step after a chain's
    last) a line break is set. The question is that of the start's chain.
    """
    number = int(graph.chain[start])
    chain = graph.chains[number]
    here = int(graph.index[start])
    walk = [*range(start - here, start + 1), *nodes]
    last = walk[-1]
    if last + 1 < graph.n_nodes and graph.chain[last + 1] == graph.chain[last]:
        walk.append(last + 1)
    steps: list[Step] = []
    text = ""
    for position, node in enumerate(walk):
        part = graph.text(node)
        follows = position and node == walk[position - 1] + 1 and graph.index[node]
        if position and not follows and text and not text[-1].isspace() and not part[:1].isspace():
            steps[-1] = replace(steps[-1], end=steps[-1].end + len(graph.space_before(node)))
            text += graph.space_before(node)
        step = graph.steps[int(graph.chain[node])][int(graph.index[node])]
        steps.append(replace(step, index=position, start=len(text), end=len(text) + len(part)))
        text += part
    new = replace(chain, text=text, answer="", boundaries=(), metadata={}, source_id=f"{chain.source_id}#{name}")
    return Segmented(new, tuple(steps)), here + 1


def worst_of_steps(trace: Trace, first: int, count: int) -> tuple[float, float, tuple[float, ...]]:
    """Largest and summed surprisal of ``count`` steps from ``first`` on, and the largest of each step, in nats."""
    spans = trace.step_tokens[first : first + count].tolist()
    surprisal = trace.surprisal[spans[0][0] : spans[-1][1]].astype(np.float64)
    each = []
    for a, b in spans:
        part = trace.surprisal[a:b]
        each.append(float(np.nanmax(part)) if np.isfinite(part).any() else math.nan)
    return float(np.nanmax(surprisal)), float(np.nansum(surprisal)), tuple(each)


def find_bridge(
    graph: StepGraph,
    scorer: Scorer,
    start: str,
    goal: str,
    *,
    budget: float | None = None,
    splices: int = 8,
    rounds: int = 4,
    seed: int = 0,
) -> Bridge:
    """Bridges between two steps or chains (from the last step of the first to the first step of the second).

    Raises UsageError for unknown ends, equal ends, or a scorer that is not the run's instrument. ``budget`` in nats;
    ``rounds`` bounds how often the search is repeated with what re-scoring taught.
    """
    if scorer.run.id != graph.run:
        raise UsageError(
            f"a bridge was asked for with {scorer.run.model} (run {scorer.run.id}), the steps were measured by run "
            f"{graph.run}: give the model of that run with --model"
        )
    a, b = graph.node(start, last=True), graph.node(goal, last=False)
    if a == b:
        raise UsageError(f"a bridge from {graph.key(a)} to itself was asked for; give two different steps")
    worst, total = graph.worst[graph.target].copy(), graph.total[graph.target].copy()
    judge = _Judge(graph, scorer, a, b, splices, seed)
    path = minimax_path(graph.begin, graph.target, worst, total, a, b)
    reached = _reachable(graph, a)
    little = ": that a path exists says little" if 2 * reached > graph.n_nodes else ""
    notes = [f"{reached} of {graph.n_nodes} steps can be reached{little}"]
    minimax = judge.crossing(path, None) if path else None
    verified, best = minimax, judge.rescored(path) if path else math.inf
    tried = {tuple(path)}
    for _ in range(rounds - 1 if path else 0):
        # What re-scoring found on the glued edges replaces their claim; the next path may avoid them.
        for edge, value in zip(path, judge.each(path), strict=True):
            if math.isfinite(value):
                worst[edge] = max(worst[edge], value)
        path = minimax_path(graph.begin, graph.target, worst, total, a, b)
        if not path or tuple(path) in tried or max(worst[path]) >= best:
            break
        tried.add(tuple(path))
        if judge.rescored(path) < best:
            best, verified = judge.rescored(path), judge.crossing(path, None)
    fewest = None
    if budget is not None:
        claimed_worst, claimed_total = graph.worst[graph.target], graph.total[graph.target]
        path = cheapest_path(graph.begin, graph.target, claimed_worst, claimed_total, a, b, budget=budget, fewest=True)
        fewest = judge.crossing(path, budget) if path else None
        if not path:
            notes.append(f"no path claims to keep every transition at or under {budget:g} nats")
    if minimax is None:
        notes.append(f"to glue more steps, raise --neighbours, which is {graph.neighbours}")
    return Bridge(
        graph.run, graph.key(a), graph.key(b), graph.text(a), graph.text(b), minimax, verified, fewest, tuple(notes)
    )


def bridging(traces: Callable[[], Iterable[Trace]], scorer: Callable[[], Scorer]) -> Callable[[str, str], float]:
    """Two step ids → the worst transition of the best way from one to the other over the steps of these traces, nats,
    re-scored as one text; NaN without a way. Traces and scorer are asked for at the first question.
    """
    made: list[tuple[StepGraph, Scorer]] = []

    def bridge(start: str, goal: str) -> float:
        if not made:
            made.append((step_graph(traces()), scorer()))
        best = find_bridge(*made[0], start, goal, splices=0, rounds=1).best
        return math.nan if best is None else best.rescored.value

    return bridge


def _reachable(graph: StepGraph, start: int) -> int:
    seen = np.zeros(graph.n_nodes, np.bool_)
    seen[start] = True
    frontier = np.array([start])
    while len(frontier):
        size = graph.begin[frontier + 1] - graph.begin[frontier]
        edges = np.repeat(graph.begin[frontier] - np.cumsum(size) + size, size) + np.arange(int(size.sum()))
        heads = np.unique(graph.target[edges])
        frontier = heads[~seen[heads]]
        seen[frontier] = True
    return int(seen.sum()) - 1


class _Judge:
    """Re-scores paths, each once, and builds the controls."""

    def __init__(self, graph: StepGraph, scorer: Scorer, start: int, goal: int, splices: int, seed: int) -> None:
        self.graph, self.scorer, self.start, self.goal = graph, scorer, start, goal
        self.splices, self.seed = splices, seed
        self._seen: dict[tuple[int, ...], tuple[float, float, tuple[float, ...]]] = {}
        self._spliced: dict[int, list[float]] = {}

    def _measure(self, walks: list[list[int]], names: list[str]) -> list[tuple[float, float, tuple[float, ...]]]:
        made = [spliced(self.graph, self.start, nodes, name) for nodes, name in zip(walks, names, strict=True)]
        traces = self.scorer.measure([item for item, _ in made], MeasureOptions())
        return [
            worst_of_steps(trace, first, len(nodes))
            for trace, (_, first), nodes in zip(traces, made, walks, strict=True)
        ]

    def _rescore(self, path: Sequence[int]) -> tuple[float, float, tuple[float, ...]]:
        key = tuple(path)
        if key not in self._seen:
            self._seen[key] = self._measure([[int(self.graph.target[edge]) for edge in path]], ["bridge"])[0]
        return self._seen[key]

    def rescored(self, path: Sequence[int]) -> float:
        """Worst transition of the path, measured as one text."""
        return self._rescore(path)[0]

    def each(self, path: Sequence[int]) -> tuple[float, ...]:
        """Worst transition of each step of the path, measured as one text."""
        return self._rescore(path)[2]

    def _random(self, size: int) -> list[float]:
        """Worst transitions of random splices: as many random steps of other chains, then the goal."""
        if size not in self._spliced:
            graph = self.graph
            rng = np.random.default_rng(self.seed)
            others = np.flatnonzero((graph.chain != graph.chain[self.start]) & (graph.chain != graph.chain[self.goal]))
            walks: list[list[int]] = []
            if len(others) and size > 1:
                walks = [[*rng.choice(others, size - 1).tolist(), self.goal] for _ in range(self.splices)]
            elif len(others):
                # No step between: a random splice is another step in the goal's place.
                walks = [[pick] for pick in rng.choice(others, min(self.splices, len(others))).tolist()]
            names = [f"splice-{number}" for number in range(len(walks))]
            self._spliced[size] = [value for value, _, _ in self._measure(walks, names)] if walks else []
        return self._spliced[size]

    def _real(self, size: int) -> list[float]:
        """Worst transitions of real spans of ``size`` consecutive steps that follow a step."""
        graph = self.graph
        nodes = np.flatnonzero(graph.index > 0)
        ends = nodes + size - 1
        nodes = nodes[(ends < graph.n_nodes)]
        nodes = nodes[graph.chain[nodes + size - 1] == graph.chain[nodes]]
        rng = np.random.default_rng(self.seed)
        nodes = np.sort(rng.permutation(nodes)[:REAL_SPANS])
        spans = graph.worst[nodes[:, None] + np.arange(size)]
        return [float(value) for value in spans.max(axis=1) if math.isfinite(value)]

    def crossing(self, path: Sequence[int], budget: float | None) -> Crossing:
        """The path with its scores."""
        graph = self.graph
        nodes = [int(graph.target[edge]) for edge in path]
        value, total, _ = self._rescore(path)
        claimed = float(graph.worst[nodes].max())
        random, real = self._random(len(path)), self._real(len(path))
        direct = self._direct()
        stored = "stored values of the same steps, nothing drawn"
        controls = [Control(CLAIMED, claimed, how=stored)]
        withheld = []
        if random:
            how = how_drawn("random splices, measured as one text each", len(random), self.seed)
            controls.append(
                Control(f"{SPLICE} of {counted(len(path) - 1, 'step')}", float(np.mean(random)), spread(random), how)
            )
        else:
            withheld.append(Withheld(SPLICE, "there is no step outside the two chains: ingest more"))
        if len(real) >= MIN_REAL_SPANS:
            how = how_drawn(f"stored spans (at most {REAL_SPANS} are drawn)", len(real), self.seed)
            controls.append(
                Control(f"real spans of {counted(len(path), 'step')}", float(np.mean(real)), spread(real), how)
            )
        else:
            reason = (
                f"{counted(len(real), 'real span')} of {counted(len(path), 'step exists', 'steps exist')} "
                f"and {MIN_REAL_SPANS} are needed: ingest more"
            )
            withheld.append(Withheld("real span", reason))
        controls.append(Control(DIRECT, direct[0], how="the goal right after the start, measured, nothing drawn"))
        claimed_total = float(graph.total[nodes].sum())
        scores = (
            Score("worst transition, re-scored", value, "nats", tuple(controls)),
            Score("whole bridge, re-scored", total, "nats", (Control(CLAIMED, claimed_total, how=stored),)),
        )
        return Crossing(
            tuple(graph.key(node) for node in nodes),
            tuple(graph.text(node) for node in nodes),
            tuple(bool(graph.glued[edge]) for edge in path),
            scores,
            tuple(withheld),
            None if budget is None else value <= budget,
        )

    def _direct(self) -> tuple[float, float, tuple[float, ...]]:
        key = (-1,)
        if key not in self._seen:
            self._seen[key] = self._measure([[self.goal]], ["direct"])[0]
        return self._seen[key]
