"""A block selects the same as Cypher written by hand, on every store."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from tests.contract.world import World

from trails.stellator import compile_program
from trails.stellator.compiling import Compiled
from trails.stellator.parsing import parse
from trails.stellator.zones import zones
from trails.store.base import GraphStore

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
    expected = sorted(row[0] for row in full_store.run(written, {"run": run}, max_rows=100_000).rows)
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


def test_hostile_texts_stay_parameters(full_store: GraphStore, world: World) -> None:
    for text in ("' OR 1=1 //", "$run", "}) DETACH DELETE c //", "`", "\u0000"):
        one = compiled(world, f"[ZONE: source != {_json(text)}]\nCHAIN → {_json(text)}")
        assert text not in one.statement or text == "$run"
        assert isinstance(full_store.run(one.statement, one.parameters).rows, tuple)
    assert full_store.counts()["Chain"] == len({t.chain.id for t in world.traces})


def _json(text: str) -> Any:
    import json

    return json.dumps(text)
