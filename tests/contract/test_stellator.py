"""A block selects the same as Cypher written by hand, on every store."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.contract.world import World

from trails.schema import Run, Step, Trace
from trails.stellator import compile_program
from trails.stellator.compiling import Compiled
from trails.stellator.explaining import explained
from trails.stellator.parsing import parse
from trails.stellator.zones import zones
from trails.store.base import GraphStore
from trails.store.rows import transition_values

TRANSITIONS = (
    "MATCH ()-[r:NEXT|BEGINS]->(t:Token), (s:Step), (c:Chain) WHERE r.run = $run AND "
    "s.id = t.chain + ':' + toString(t.step) AND c.id = t.chain AND "
)


def compiled(world: World, text: str) -> Compiled:
    run = next(iter(world.runs.values()))
    (found,) = compile_program(
        parse(text), run, traces=lambda: (t for t in world.traces if t.run == run.id), known=zones()
    )
    return found


CASES: list[tuple[str, str]] = [
    ("[ZONE: entropy > 3.5]", TRANSITIONS + "r.entropy > 3.5 RETURN DISTINCT t.id"),
    ("[ZONE: surprisal <= 1 bits]", TRANSITIONS + f"r.surprisal <= {math.log(2)!r} RETURN DISTINCT t.id"),
    ("[ZONE: logit_shift < 10 %]", TRANSITIONS + "r.logit_shift < 0.1 RETURN DISTINCT t.id"),
    ("[ZONE: rank <= 7]", TRANSITIONS + "r.rank <= 7 RETURN DISTINCT t.id"),
    (
        "[ZONE: attention_shift_late > 0.6 & NOT (hidden_shift < 0.5) | role = BUT, IF]",
        TRANSITIONS
        + "((r.attention_shift_late > 0.6 AND NOT (r.hidden_shift < 0.5)) OR s.role IN ['BUT', 'IF']) RETURN DISTINCT t.id",
    ),
    ("[ZONE: role != BUT & language = en]", TRANSITIONS + "s.role <> 'BUT' AND c.language = 'en' RETURN DISTINCT t.id"),
    ('[ZONE: source = "toy0.jsonl"]', TRANSITIONS + "c.source = 'toy0.jsonl' RETURN DISTINCT t.id"),
    (
        '[ZONE: family = "mine"]',
        "MATCH (f:Family {name: 'mine'})<-[:IN_FAMILY]-(c:Chain) MATCH (t:Token {chain: c.id})<-[r:NEXT|BEGINS]-() "
        "WHERE r.run = $run RETURN DISTINCT t.id",
    ),
    (
        "[ZONE: gap > 0.85]",
        "MATCH (g:Gap)-[:BEFORE]->(s:Step) WHERE g.run = $run AND g.score > 0.85 "
        "MATCH (t:Token {chain: s.chain, step: s.index})<-[r:NEXT|BEGINS]-() WHERE r.run = $run RETURN DISTINCT t.id",
    ),
    (
        "[ZONE: overlap = exact]",
        "MATCH (o:Overlap {kind: 'exact'})-[i:IN]->(c:Chain) MATCH (t:Token {chain: c.id})<-[r:NEXT|BEGINS]-() "
        "WHERE r.run = $run AND t.position >= i.first AND t.position < i.stop RETURN DISTINCT t.id",
    ),
    (
        "[ZONE: overlap = skeleton]",
        "MATCH (o:Overlap {kind: 'skeleton'})-[i:IN]->(c:Chain) MATCH (t:Token {chain: c.id})<-[r:NEXT|BEGINS]-() "
        "WHERE r.run = $run AND t.step >= i.first AND t.step < i.stop RETURN DISTINCT t.id",
    ),
    (
        "[ZONE: effect = logit-collapse]",
        "MATCH (e:Effect {name: 'logit-collapse'})-[i:SEEN_IN]->(s:Step) WHERE e.run = $run AND i.run = $run "
        "MATCH (t:Token {chain: s.chain, step: s.index})<-[r:NEXT|BEGINS]-() WHERE r.run = $run RETURN DISTINCT t.id",
    ),
    (
        "[ZONE: effect != logit-collapse, attention-divergence & role = BUT]",
        TRANSITIONS + "s.role = 'BUT' AND NOT (s.chain = $long AND s.index IN [1, 3]) RETURN DISTINCT t.id",
    ),
    (
        '[ZONE: all]\nSTEP → "rain", THEREFORE',
        "MATCH (s:Step), (t:Token) WHERE (s.text CONTAINS 'rain' OR s.role = 'THEREFORE') AND t.chain = s.chain AND "
        "t.step = s.index MATCH ()-[r:NEXT|BEGINS]->(t) WHERE r.run = $run RETURN DISTINCT s.id",
    ),
    (
        '[ZONE: entropy > 3.9]\nCHAIN → "grass"\nNOT STEP → BUT',
        TRANSITIONS + "c.text CONTAINS 'grass' AND r.entropy > 3.9 AND s.role <> 'BUT' RETURN DISTINCT c.id",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("text", "written"), CASES, ids=[re.sub(r"\s+", " ", text) for text, _ in CASES])
def test_a_block_equals_cypher_written_by_hand(full_store: GraphStore, world: World, text: str, written: str) -> None:
    one = compiled(world, text)
    run = next(iter(world.runs))
    long = next(t.chain.id for t in world.traces if t.chain.source == "long.txt")
    expected = sorted(row[0] for row in full_store.run(written, {"run": run, "long": long}, max_rows=100_000).rows)
    found = [row[0] for row in full_store.run(one.statement, one.parameters, max_rows=100_000).rows]
    assert found == expected
    assert found, "the case selects nothing, so it holds nothing"
    literals = re.findall(r"'[^']*'", one.statement)
    assert set(literals) <= {"':'", "'near'", "'skeleton'", "'exact'", "'masked'"}


def under(world: World, *texts: str, leave: tuple[str, ...] = ()) -> list[str]:
    """Tokens under the occurrences of texts, by the traces alone."""
    found = set()
    for trace in world.traces[: len(world.traces) // 2]:
        for sign, every in ((1, texts), (-1, leave)):
            for text in every:
                at = trace.chain.text.find(text)
                while at >= 0:
                    for t, (a, b) in enumerate(zip(trace.token_start, trace.token_end, strict=True)):
                        if a < at + len(text) and b > at:
                            (found.add if sign > 0 else found.discard)(trace.token_id(t))
                    at = trace.chain.text.find(text, at + len(text))
    return sorted(found)


@pytest.mark.parametrize("text", ["rain", "Но", "🍎", "e", "\\frac{1}{2}", "не генерация", "🙂 apples"])
def test_occurrences_of_a_text_are_those_of_the_chains(full_store: GraphStore, world: World, text: str) -> None:
    quoted = text.replace("\\", "\\\\")
    one = compiled(world, f'[ZONE: all]\nTOKEN → "{quoted}"')
    found = [row[0] for row in full_store.run(one.statement, one.parameters, max_rows=100_000).rows]
    assert found == under(world, text) != []


def test_a_text_can_be_left_out(full_store: GraphStore, world: World) -> None:
    one = compiled(world, '[ZONE: all]\nTOKEN → "e", "a"\nNOT TOKEN → "rain"')
    found = [row[0] for row in full_store.run(one.statement, one.parameters, max_rows=100_000).rows]
    assert found == under(world, "e", "a", leave=("rain",)) != under(world, "e", "a")


def test_percentiles_are_those_of_what_the_graph_holds(full_store: GraphStore, world: World) -> None:
    run = next(iter(world.runs))
    statement = "MATCH ()-[r:NEXT|BEGINS]->(:Token) WHERE r.run = $run AND r.{0} IS NOT NULL RETURN r.{0}"
    for name in ("surprisal", "attention_shift", "hidden_shift_late", "attention_entropy", "rank"):
        one = compiled(world, f"[ZONE: {name} > q90]")
        values = [row[0] for row in full_store.run(statement.format(name), {"run": run}, max_rows=100_000).rows]
        assert one.parameters[name] == pytest.approx(np.percentile(values, 90), rel=1e-12)


Told = Callable[[Trace, int], bool]
"""Whether a sentence holds of a token of a trace."""


def reading(sentence: str, one: Compiled, run: Run) -> Told:
    """What a sentence of ``explain`` says, as a person would take it, by the traces alone: no statement is looked at."""
    leaves = sentence.startswith("leaves out ")
    quoted = [json.loads(found) for found in re.findall(r'"(?:[^"\\]|\\.)*"', sentence)]
    if match := re.fullmatch(
        r"the zone is (\w+) (>|<) q\d+; percentiles are those of run (\w+), compared as \$(\w+) = (\S+)\.", sentence
    ):
        name, sign, of, parameter, number = match.groups()
        assert of == run.id
        limit = one.parameters[parameter]
        assert f"{limit:.4g}" == number, "the number that is printed is the one that is compared"

        def in_zone(trace: Trace, t: int) -> bool:
            value = float(np.asarray(transition_values(trace, run, name)[name])[t])
            return value > limit if sign == ">" else value < limit

        return in_zone
    if sentence == "the zone is all.":
        return lambda trace, t: True
    if match := re.fullmatch(r"the zone is role = (\w+(?:, \w+)*)\.", sentence):
        roles = match[1].split(", ")
        return lambda trace, t: step_of(trace, t).role in roles
    body = re.fullmatch(
        r"(?:selects|leaves out) (?:the (tokens) of every occurrence of .*, exactly as written"
        r"|(steps) that hold or have the role (.*)|(chains) that hold or are (.*))\.",
        sentence,
    )
    assert body is not None, sentence
    words = re.sub(r'"(?:[^"\\]|\\.)*"', "", body[3] or "").replace(" or ", " ").split()

    def holds(trace: Trace, t: int) -> bool:
        if body[1]:
            a, b = int(trace.token_start[t]), int(trace.token_end[t])
            found = any(
                a < m.start() + len(text) and b > m.start()
                for text in quoted
                for m in re.finditer(re.escape(text), trace.chain.text)
            )
        elif body[2]:
            step = step_of(trace, t)
            found = step.role in words or any(text in trace.chain.text[step.start : step.end] for text in quoted)
        else:
            found = any(text in trace.chain.text for text in quoted)
        return found != leaves

    return holds


def step_of(trace: Trace, t: int) -> Step:
    return trace.steps[next(n for n, (a, b) in enumerate(trace.step_tokens.tolist()) if a <= t < b)]


@pytest.mark.parametrize(
    "text",
    [
        '[ZONE: all]\nTOKEN → "rain", "grass"',
        '[ZONE: entropy > q50]\nTOKEN → "e"\nNOT TOKEN → "rain"',
        "[ZONE: surprisal < q25]",
        '[ZONE: role = BUT, IF]\nSTEP → "rain", THEREFORE, IF\nNOT CHAIN → "Late"',
        '[ZONE: entropy > q75]\nCHAIN → "grass"\nNOT STEP → BUT',
        '[ZONE: rank > q50]\nCHAIN → "rain"\nSTEP → BUT, THEN\nTOKEN → "e"',
    ],
)
def test_what_explain_says_is_what_the_statement_does(full_store: GraphStore, world: World, text: str) -> None:
    run = next(iter(world.runs.values()))
    one = compiled(world, text)
    *lines, (_, last) = explained(one, zones())
    told = [reading(sentence, one, run) for _, sentence in lines]
    kind = re.fullmatch(
        r"(token|step|chain)s (in the zone|with a token in the zone) that every selecting line names\.", last
    )
    assert kind is not None
    expected = set()
    for trace in (t for t in world.traces if t.run == run.id):
        for t in range(trace.n_tokens):
            if all(holds(trace, t) for holds in told):
                step = f"{trace.chain.id}:{step_of(trace, t).index}"
                expected.add({"token": trace.token_id(t), "step": step, "chain": trace.chain.id}[kind[1]])
    found = [row[0] for row in full_store.run(one.statement, one.parameters, max_rows=100_000).rows]
    assert found == sorted(expected) != []


def test_hostile_texts_stay_parameters(full_store: GraphStore, world: World) -> None:
    for text in ("' OR 1=1 //", "$run", "}) DETACH DELETE c //", "`", "\u0000"):
        one = compiled(world, f"[ZONE: source != {_json(text)}]\nCHAIN → {_json(text)}")
        assert text not in one.statement or text == "$run"
        assert isinstance(full_store.run(one.statement, one.parameters).rows, tuple)
    assert full_store.counts()["Chain"] == len({t.chain.id for t in world.traces})


def _json(text: str) -> Any:
    return json.dumps(text)
