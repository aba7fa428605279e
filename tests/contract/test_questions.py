"""The fourteen questions of somebody who types Cypher, on every store, against a plain reading of the traces."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from benchmarks.questions import QUESTIONS
from tests.contract.test_named_queries import close
from tests.contract.world import World

from trails.schema import Trace
from trails.store.base import GraphStore

Row = tuple[Any, ...]
RUN = "base"


def chains(world: World) -> list[Trace]:
    """One trace of every chain."""
    return list({trace.chain.id: trace for trace in world.traces}.values())


def of_run(world: World, run: str) -> list[Trace]:
    return [trace for trace in world.traces if trace.run == run]


def step_text(trace: Trace, index: int) -> str:
    step = trace.steps[index]
    return trace.chain.text[step.start : step.end]


def step_nats(trace: Trace, index: int) -> float | None:
    first, stop = trace.step_tokens[index]
    values = [float(x) for x in trace.surprisal[first:stop] if not math.isnan(x)]
    return sum(values) / len(values) if values else None


def pairs(traces: list[Trace], role: str) -> Iterator[tuple[Trace, int]]:
    """Steps of a role that another step follows."""
    for trace in traces:
        for step in trace.steps[:-1]:
            if step.role == role:
                yield trace, step.index


def answers(world: World, given: dict[str, Any]) -> dict[str, list[Row]]:
    """Every answer, by loops over traces."""
    every = chains(world)
    measured = of_run(world, given["run"])
    (mine,) = (trace for trace in measured if trace.chain.id == given["chain"])
    ways = [
        (trace.chain.id, a.index)
        for trace in every
        for a in trace.steps
        for b in trace.steps
        if a.role == "IF" and b.role == "THEREFORE" and 1 <= b.index - a.index <= 4
    ]
    above = [
        (trace.chain.id, t, float(trace.surprisal[t]))
        for trace in measured
        for t in range(1, trace.n_tokens)
        if trace.surprisal[t] > given["least"]
    ]
    last = len(mine.steps) - 1
    looks = []
    for earlier in range(last):
        tokens = int(np.diff(mine.step_tokens[earlier])[0])
        mass = [float(x) for x in mine.step_masses(last)[earlier + 2]]
        looks.append((earlier, sum(mass) / len(mass) / tokens))
    follows: dict[str, list[float]] = defaultdict(list)
    for trace in measured:
        for t in range(1, trace.n_tokens):
            if trace.pieces[t - 1] == given["piece"]:
                follows[trace.pieces[t]].append(float(trace.surprisal[t]))
    hardest = [
        (t.chain.id, float(np.nanmean(t.surprisal.astype(float))))
        for t in measured
        if t.chain.source == given["source"]
    ]
    conclusions = [
        (f"{trace.chain.id}:{i + 1}", step_nats(trace, i + 1))
        for trace, i in pairs(measured, "BUT")
        if trace.steps[i + 1].role == "THEREFORE"
    ]
    roles = Counter(trace.steps[i + 1].role.value for trace, i in pairs(every, "BUT"))
    return {
        "ways from IF to THEREFORE within four steps": [(len(ways), len(set(ways)))],
        "the chain of a record": sorted(
            (t.chain.source, t.chain.id, ">".join(s.role for s in t.steps))
            for t in every
            if t.chain.source_id == given["record"]
        ),
        "tokens of one step": [(t, mine.pieces[t]) for t in range(*mine.step_tokens[1].tolist())],
        "steps that say something": sorted(
            (t.chain.id, s.index) for t in every for s in t.steps if given["text"] in step_text(t, s.index)
        ),
        "transitions above a surprisal": sorted(above, key=lambda row: (-row[2], row[0], row[1])),
        "chains by a run of roles": [(sum("IF>THEN>BUT" in ">".join(s.role for s in t.steps) for t in every),)],
        "what the last step looks at, token for token": sorted(looks, key=lambda row: (-row[1], row[0])),
        "roles that follow BUT": sorted(roles.items(), key=lambda row: (-row[1], row[0])),
        "surprisal of the steps of a chain": [(s.index, s.role.value, step_nats(mine, s.index)) for s in mine.steps],
        "tokens that follow a token": sorted(
            ((piece, len(nats), sum(nats) / len(nats)) for piece, nats in follows.items()),
            key=lambda row: (-row[1], row[0]),
        )[:10],
        "the hardest chains of a source": sorted(hardest, key=lambda row: (-row[1], row[0]))[:10],
        "how each step of a chain begins": [
            (
                s.index,
                mine.pieces[int(mine.step_tokens[s.index][0])],
                float(mine.surprisal[int(mine.step_tokens[s.index][0])]),
            )
            for s in mine.steps
        ],
        "runs that measured a chain": sorted(
            (t.run, t.n_tokens, float(np.nansum(t.surprisal.astype(float))))
            for t in world.traces
            if t.chain.id == given["chain"]
        ),
        "the hardest THEREFORE after a BUT": sorted(conclusions, key=lambda row: (-(row[1] or 0), row[0]))[:10],
    }


def parameters(world: World) -> dict[str, Any]:
    """What is asked about: the long chain, the first run, and what occurs in them."""
    long = next(trace for trace in world.traces if trace.chain.source_id == "long")
    return {
        "chain": long.chain.id,
        "run": long.run,
        "record": "3",
        "text": "the grass",
        "least": 4.5,
        "piece": "the",
        "source": "toy0.jsonl",
    }


def asked(statement: str, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters that a statement names."""
    return {name: given[name] for name in re.findall(r"\$(\w+)", statement)}


def test_there_are_fourteen(world: World) -> None:
    assert len(QUESTIONS) == 14
    assert set(answers(world, parameters(world))) == set(QUESTIONS)


@pytest.mark.parametrize("question", sorted(QUESTIONS))
def test_a_question_is_answered_as_the_traces_say(question: str, full_store: GraphStore, world: World) -> None:
    given = parameters(world)
    expected = answers(world, given)[question]
    found = list(full_store.run(QUESTIONS[question], asked(QUESTIONS[question], given)).rows)
    assert expected
    assert len(found) == len(expected)
    for have, want in zip(found, expected, strict=True):
        assert close(list(have), list(want)), (have, want)


def test_roles_are_a_list_by_one_call(full_store: GraphStore, world: World) -> None:
    """What docs/graph.md says: a single role is looked for in the list, because as text OR is a part of THEREFORE."""
    roles = [[step.role.value for step in trace.steps] for trace in chains(world)]
    for role in ("OR", "THEREFORE", "BUT"):
        found = full_store.run(
            "MATCH (c:Chain) WHERE $role IN split(c.roles, '>') RETURN count(c)", {"role": role}
        ).rows
        assert found == ((sum(role in of for of in roles),),), role
    assert not any("OR" in of for of in roles)
    assert full_store.run("MATCH (c:Chain) WHERE c.roles CONTAINS 'OR' RETURN count(c)").rows[0][0] > 0
