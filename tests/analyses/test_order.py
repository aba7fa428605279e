"""Every analysis of many chains finds the same in whatever order the chains come.

The analyses are found in the package: a public function of ``analyses``, ``evaluate`` or ``stellator`` that takes many
chains, or what was made of each, and has no case here makes the first test fail. Whole records are compared; floats to 1e-9,
because a sum in another order may have another last bit.
"""

from __future__ import annotations

import inspect
import math
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.store.factory import make_chain, make_run, make_trace

import trails.analyses
import trails.evaluate
import trails.stellator
from trails.analyses import (
    agreement,
    anchors,
    basin,
    bridge,
    budget,
    capture,
    connectives,
    effects,
    gaps,
    gradient,
    intervention,
    overlaps,
    patterns,
    respond,
    roles,
    sequences,
    statemap,
)
from trails.analyses.report import Finding, Report
from trails.analyses.whitening import Whitening
from trails.evaluate import diff
from trails.evaluate.groups import not_trained_on
from trails.measure.anchors import Dependence
from trails.measure.base import Segmented
from trails.measure.respond import Reaction
from trails.schema import Trace
from trails.stellator import compile_program
from trails.stellator.language import Drift
from trails.stellator.parsing import parse
from trails.stellator.verdicts import Instruments, Selected, distance, judge, target, zone_share
from trails.stellator.zones import zones

pytestmark = pytest.mark.slow

RUN, AFTER = make_run("order", n_layers=4), make_run("order after", n_layers=4)
WORDS = [f"{a}o{b}u{c}" for a in "bdfgk" for b in "lmnp" for c in "rst"]
STOCK = (
    "Therefore the sum of 12 and 30 is 42. ",
    "But that is not what Virginia asked for. ",
    "Because it is so, we stop. ",
)


def chains(run: Any = RUN, shift: float = 0.0) -> list[Trace]:
    """30 chains of 8 steps in two sources, three versions a family, with states, alternatives, premises and a map each."""
    found = []
    for number in range(30):
        rng = np.random.default_rng([4, number])
        text = "".join(
            " ".join(rng.choice(WORDS, 7)) + ". " + (STOCK[(number + step) % 3] if step % 2 else "")
            for step in range(8)
        )
        chain = replace(
            make_chain(f"order {number}", text, source=("one", "two")[number % 2]),
            family=f"en:family {number // 3}",
        )
        trace = make_trace(chain, run, n_steps=8, states=(1, 3), alternatives=True)
        few = np.arange(0, trace.n_tokens, 9, dtype=np.int32)[:12]
        found.append(
            replace(
                trace,
                surprisal=trace.surprisal + np.float32(shift),
                more={
                    **trace.more,
                    "gradient_effect": rng.normal(size=trace.n_tokens).astype(np.float32),
                    "gradient_replaced": few,
                    "gradient_change": rng.normal(size=len(few)).astype(np.float32),
                },
            )
        )
    return found


def orders(traces: Sequence[Trace]) -> Iterator[list[Trace]]:
    """The chains as they are, reversed and shuffled."""
    yield list(traces)
    yield traces[::-1]
    yield [traces[i] for i in np.random.default_rng(0).permutation(len(traces))]


def made_of(chain: str) -> np.random.Generator:
    """What a stand-in for a measurement of a chain is drawn from."""
    return np.random.default_rng(int(chain[1:9], 16))


def white(layer: int) -> Whitening:
    """A whitening that was fitted elsewhere."""
    return Whitening(np.zeros(8, np.float32), np.eye(8, dtype=np.float32), 100)


def anchored(traces: list[Trace]) -> Any:
    def of(trace: Trace) -> Dependence:
        size, draw = len(trace.steps), made_of(trace.chain.id)
        lower = np.where(np.tri(size, k=-1) > 0, 1.0, np.nan)
        lower[4:] = np.nan
        return Dependence(trace.chain.id, *(draw.normal(size=(size, size)).round(1) * lower for _ in range(6)), 10, 5)

    return anchors.anchored([(trace, of(trace)) for trace in traces], RUN.id)


def connected(traces: list[Trace]) -> Any:
    steps = []
    for trace in traces:
        draw = made_of(trace.chain.id)
        for step in range(4):
            known = draw.dirichlet(np.ones(3))
            steps.append(connectives.Connected(trace.chain.id, step % 3, known, draw.normal(size=(3, 2))))
    return connectives.judge(steps, "en", ("BUT", "THEN", "BECAUSE"))


def intervened(traces: list[Trace]) -> Any:
    def changed(trace: Trace, draw: np.random.Generator) -> Trace:
        moved = trace.surprisal + draw.normal(size=trace.n_tokens).round(1).astype(np.float32)
        return replace(trace, surprisal=np.asarray(moved, np.float32))

    how = {
        "operation": "add",
        "vector": "",
        "strength": 1.0,
        "positions": "all",
        "component": "block_output",
        "layer": 1,
    }
    draws = [made_of(trace.chain.id) for trace in traces]
    pairs = [(trace, changed(trace, draw), 3) for trace, draw in zip(traces, draws, strict=True)]
    controls = [[(changed(trace, draw), 5) for trace, draw in zip(traces, draws, strict=True)] for _ in range(3)]
    return intervention.intervened("r2", RUN.id, how, pairs, "other places", controls)


def responded(traces: list[Trace]) -> Any:
    spans = [respond.Span(f"t{n}", "text", "", f"span {n}", 4, ()) for n in range(2)]
    reactions = {}
    for trace in traces:
        draw = made_of(trace.chain.id)
        parts = (draw.random((9, 4)), draw.random((9, 5)), draw.random(9), draw.normal(size=9))
        reactions[trace.chain.id] = Reaction(*parts)
    return respond.responses(spans, reactions, RUN.id, probes="all")


def labelled(traces: list[Trace]) -> Any:
    def of(trace: Trace) -> roles.Labelled:
        return roles.Labelled(trace.chain, tuple(s.start for s in trace.steps), tuple(s.role for s in trace.steps))

    return roles.score_roles([of(trace) for trace in traces], draws=100)


def kept_maps(traces: list[Trace]) -> Any:
    maps = gradient.Agreements(50)
    for trace in traces:
        maps.add(trace)
    return maps.score()


def members(traces: list[Trace]) -> list[agreement.Member]:
    others = {trace.chain.id: trace for trace in LATER}
    return [
        agreement.member("a", "a", traces),
        agreement.member("b", "b", [others[trace.chain.id] for trace in traces]),
    ]


def agreed(traces: list[Trace]) -> Any:
    return agreement.agreement(members(traces), {t.chain.id: t.chain.text for t in traces}, draws=20)


def chosen(traces: list[Trace]) -> Any:
    value = {trace.chain.id: float(made_of(trace.chain.id).integers(4)) for trace in traces}  # with ties
    states = {trace.chain.id: np.asarray(trace.step_states[0, 0]) for trace in traces if trace.step_states is not None}
    pool = budget.pool_of(traces, value, states)
    return [budget.chosen(pool, by, 400, RUN.id, seed=1) for by in budget.WAYS]


def bridged(traces: list[Trace]) -> Any:
    graph = bridge.step_graph(traces)
    return [getattr(graph, one.name) for one in fields(graph)]


def judged(traces: list[Trace]) -> Any:
    text = '[ZONE: all]\nDRIFT → activates attention sweep on layer 2\nPHASE → 90° on layer 3\nANCHOR → "Virginia"\n'
    (one,) = compile_program(parse(text), RUN, traces=lambda: traces, known=zones())

    def way(start: str, goal: str) -> float:
        return float(made_of(start).random() + made_of(goal).random())

    return judge(one, of_tokens(traces), Instruments(RUN, lambda: traces, way, white))


def of_tokens(traces: list[Trace]) -> Selected:
    ids = tuple(sorted(t.token_id(i) for t in traces for i in range(40, 44)))
    return Selected("TOKEN", ids, ids, ids)


def of_steps(traces: list[Trace]) -> Selected:
    steps = sorted(f"{t.chain.id}:{i}" for t in traces for i in (1, 4))
    zone = sorted(t.token_id(i) for t in traces for i in range(0, t.n_tokens, 11))
    return Selected("STEP", tuple(steps[::3]), tuple(steps), tuple(zone))


def by_id(traces: list[Trace]) -> list[Trace]:
    return sorted(traces, key=lambda trace: trace.chain.id)


def aimed(traces: list[Trace]) -> Any:
    (drift,) = [
        line.content
        for line in parse("[ZONE: all]\nDRIFT → activates attention sweep on layer 2\n").blocks[0].lines
        if isinstance(line.content, Drift)
    ]
    return target(drift, of_tokens(traces), lambda: traces, RUN)


def compared(traces: list[Trace]) -> Any:
    groups = {trace.chain.id: ("held_out", "unseen")[int(trace.chain.id[1:3], 16) % 2] for trace in traces}
    again = [replace(trace, surprisal=trace.surprisal + np.float32(0.01)) for trace in traces[:30]]
    return diff.compare(traces, LATER, groups, again=again)


def mixed_layers(traces: list[Trace]) -> list[Trace]:
    """Some chains keep the states of one layer only."""

    def one_layer(trace: Trace) -> Trace:
        return replace(trace, state_layers=(3,), step_states=np.asarray(trace.step_states)[:, 1:])

    return [one_layer(trace) if int(trace.chain.id[1:5], 16) % 4 == 0 else trace for trace in traces]


def ids_of(traces: list[Trace], count: int) -> list[str]:
    return sorted(trace.chain.id for trace in traces)[:count]


LATER = chains(AFTER, 0.1)
NEW = make_trace(make_chain("a new text", STOCK[0] + STOCK[1] + "bolur mopus. "), RUN, n_steps=3, states=(1, 3))

CASES: dict[str, Callable[[list[Trace]], Any]] = {
    "trails.analyses.agreement:member": members,
    "trails.analyses.agreement:aligned": lambda t: agreement.aligned(members(t), "span"),
    "trails.analyses.agreement:agreement": agreed,
    "trails.analyses.anchors:anchored": anchored,
    "trails.analyses.basin:basin": lambda t: basin.basin(t, ids_of(t, 6), after={x.chain.id: x for x in LATER}),
    "trails.analyses.bridge:step_graph": bridged,
    "trails.analyses.budget:pool_of": chosen,
    "trails.analyses.capture:retrieve": lambda t: capture.retrieve(t, NEW),
    "trails.analyses.connectives:judge": connected,
    "trails.analyses.effects:step_quantities": effects.step_quantities,
    "trails.analyses.effects:family_quantities": effects.family_quantities,
    "trails.analyses.effects:training_quantities": lambda t: effects.training_quantities(
        t, {x.chain.id: x for x in LATER}
    ),
    "trails.analyses.effects:scan": lambda t: effects.scan(
        lambda: t, run=RUN.id, after=lambda: LATER, after_run="later"
    ),
    "trails.analyses.gaps.calibration:shortened": lambda t: [
        (item.chain.id, seam) for _, item, seam in gaps.shortened(t, limit=7)
    ],
    "trails.analyses.gaps.calibration:calibrate": gaps.calibrate,
    "trails.analyses.gaps.find:find_gaps": gaps.find_gaps,
    "trails.analyses.gaps.seams:background": gaps.background,
    "trails.analyses.gradient:Agreements": kept_maps,
    "trails.analyses.intervention:intervened": intervened,
    "trails.analyses.overlaps:find_overlaps": lambda t: [
        overlaps.find_overlaps(kind, t) for kind in ("exact", "masked")
    ],
    "trails.analyses.overlaps:near": overlaps.near,
    "trails.analyses.overlaps:skeleton": overlaps.skeleton,
    "trails.analyses.patterns:patterns": lambda t: [patterns.patterns(t), patterns.patterns(mixed_layers(t))],
    "trails.analyses.respond:responses": responded,
    "trails.analyses.roles:score_roles": labelled,
    "trails.analyses.sequences:role_corpus": sequences.role_corpus,
    "trails.analyses.sequences:token_corpus": lambda t: (
        corpus := sequences.token_corpus(t),
        capture.capture(corpus, capture.query_of(NEW)),
    ),
    "trails.analyses.statemap:woven_map": statemap.woven_map,
    "trails.evaluate.diff:compare": compared,
    "trails.evaluate.groups:not_trained_on": lambda t: [
        item.chain.id for item in not_trained_on([Segmented(x.chain, x.steps) for x in t], None)[0]
    ],
    "trails.stellator.verdicts:distance": lambda t: [
        distance(aimed(t)[0], t),
        *(distance(aimed(t)[0], [x]) for x in by_id(t)),
    ],
    "trails.stellator.verdicts:judge": judged,
    "trails.stellator.verdicts:target": aimed,
    "trails.stellator.verdicts:zone_share": lambda t: zone_share(of_steps(t), lambda: t),
    "trails.stellator:compile_program": lambda t: compile_program(
        parse("[ZONE: surprisal > q90]\n"), RUN, traces=lambda: t, known=zones()
    ),
}

LEFT = {
    "trails.stellator.faults:Faults": "collects faults of a file, and reads no chains",
    "trails.analyses.bridge:bridging": "needs a model; its graph is that of bridge:step_graph",
    "trails.analyses.gaps.seams:premise_matrix": "its chains are one chain without each of its steps, in their order",
    "trails.analyses.overlaps:role_and_place": "a row for every step, in the order of what was given",
    "trails.analyses.sequences:one_instrument": "passes the chains on",
    "trails.analyses.whitening:Moments": "vectors, not chains; sums",
    "trails.evaluate.difference:difference": "needs a model; what it compares is diff:compare",
    "trails.evaluate.recall:recall_of": "needs a model; its chains are those of groups:not_trained_on",
    "trails.evaluate.repairs:repairs_of": "needs a model; its chains are those of groups:not_trained_on",
}
"""What takes many chains and is not compared here, and why."""

MANY = re.compile(
    r"(Iterable|Sequence|Collection|Mapping|list|dict|tuple)\[.*\b(Trace|Segmented|Member|Connected|Labelled|Reaction)\b|Instruments"
)


def taking_many() -> dict[str, object]:
    """Public functions that take many chains, or what was made of each, and classes that take one after another."""
    found = {}
    for package in (trails.analyses, trails.evaluate, trails.stellator):
        inside = [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
        for module in (import_module(name) for name in (package.__name__, *inside)):
            for name, one in vars(module).items():
                if name.startswith("_") or getattr(one, "__module__", "") != module.__name__:
                    continue
                if inspect.isfunction(one):
                    kinds = [str(p.annotation) for p in inspect.signature(one).parameters.values()]
                    if any(MANY.search(kind) for kind in kinds):
                        found[f"{module.__name__}:{name}"] = one
                elif inspect.isclass(one) and "add" in vars(one):
                    found[f"{module.__name__}:{name}"] = one
    return found


def plain(value: Any) -> Any:
    """A result as plain values, whole."""
    if isinstance(value, Finding):
        value = (value.report(), value.batch())
    if isinstance(value, Report):
        return plain(value.record())
    if isinstance(value, pa.Table):
        return plain(value.to_pydict())
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(map(plain, value))
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Places at which two plain values differ; floats by more than 1e-9, relative."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [line for name in one for line in differences(one[name], other[name], f"{place}.{name}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [line for n, (a, b) in pairs for line in differences(a, b, f"{place}[{n}]")]
    if isinstance(one, float) and isinstance(other, float):
        same = math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9) or (math.isnan(one) and math.isnan(other))
        return [] if same else [f"{place}: {one} and {other}"]
    return [] if type(one) is type(other) and one == other else [f"{place}: {one!r} and {other!r}"]


def leaves(value: Any) -> Iterable[Any]:
    """Every value inside plain values."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from leaves(one)
    else:
        yield value


def test_every_analysis_of_many_chains_has_a_case_or_a_reason() -> None:
    there = set(taking_many())
    assert there == {*CASES, *LEFT}
    assert len(there) > 30
    assert all(LEFT.values())


@pytest.mark.parametrize("name", CASES)
def test_an_analysis_finds_the_same_in_every_order(name: str) -> None:
    first, *others = (plain(CASES[name](traces)) for traces in orders(chains()))
    counts = Counter(type(leaf).__name__ for leaf in leaves(first))
    assert counts["float"] + counts["int"] + counts["str"] > 3, counts
    for other in others:
        assert not differences(first, other)[:5]
