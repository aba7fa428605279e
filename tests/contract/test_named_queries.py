"""Every file of cypher/, unchanged, on every store, against the networkx oracle."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests import oracle
from tests.contract.world import World

from trails.errors import UsageError
from trails.store.base import GraphStore
from trails.store.queries import named_queries, parse

CHAIN = -14  # the long chain, as measured by the base run
CASES: dict[str, list[dict[str, Any]]] = {
    "chains-by-roles": [
        {},
        {"pattern": "IF>THEN>BUT"},
        {"pattern": "IF>BUT>THEREFORE", "in_order": True},
        {"pattern": "IF>THEN>BUT>THEREFORE", "in_order": True},
        {"pattern": "IF>THEN>BUT>THEREFORE"},
        {"pattern": "THEREFORE>IF", "in_order": True},
        {"limit": 3},
    ],
    "chains-by-text": [
        {"text": "rain"},
        {"text": "Мышление"},
        {"text": "🍎"},
        {"text": "no such"},
        {"text": "' OR 1=1 //"},
    ],
    "token-neighbourhood": [{"piece": " so"}, {"piece": "e r"}, {"piece": "the"}, {"run": "two", "piece": "ain"}],
    "overlaps-top": [{}, {"home": "h1"}, {"home": "h2"}, {"home": "h3"}, {"kind": "skeleton"}],
    "overlap-graph": [{}, {"home": "h1"}, {"home": "h2"}],
    "gaps-top": [{"rank": 5}, {"rank": 0}, {"run": "two", "rank": 1}, {"home": "h2", "rank": 5}],
    "states-branching": [{}, {"home": "h1", "least": 1}, {"home": "h1", "limit": 1}],
    "map-around-chain": [{}, {"home": "h1"}, {"home": "h2"}],
    "chain-graph": [{}, {"run": "two"}, {"limit": 2}],
    "most-surprising": [{"limit": 7}, {"limit": 20}, {"run": "two", "limit": 1}],
    "steps-nobody-needs": [{}, {"run": "one", "least": 0.2}, {"least": 9.0, "limit": 3}],
    "conclusions-without-premises": [{}, {"least": 9.0}, {"run": "one", "least": 9.0}],
    "effects-seen": [{}, {"effect": "logit-collapse"}, {"effect": "logit-collapse", "run": "one"}],
    "response-map": [{}, {"run": "one"}, {"consistent": True}, {"limit": 1}],
    "easier-transitions": [{"chains": 3}, {"chains": 100, "limit": 500}],
}


def cases(name: str, world: World) -> list[dict[str, Any]]:
    """Parameter sets of one query: one with everything chosen, another run, the special ones, and runs that are none."""
    one, two = list(world.runs)
    long = next(trace.chain.id for trace in world.traces if trace.chain.source_id == "long")
    late = world.traces[-1].chain.id
    chosen: dict[str, Any] = {
        "chain": long,
        "step": f"{long}:1",
        "first": long,
        "second": late,
        "before": one,
        "after": two,
        "piece": "ain",
        "text": "rain",
        "run": "one",
    }
    found = []
    homes = [{"home": home} for home in ("h1", "h2", "h3")] + [{"home": "h1", "run": "two"}]
    for case in [*CASES.get(name, [{}, {"run": "two"}]), {"run": "none"}, {"run": ""}, *homes]:
        bound = {}
        for parameter in named_queries()[name].parameters:
            value = case.get(parameter.name, chosen.get(parameter.name, parameter.example))
            bound[parameter.name] = (
                {"one": one, "two": two, "none": "r0"}.get(value, value) if parameter.name == "run" else value
            )
        if bound not in found:
            found.append(bound)
    return found


def close(a: Any, b: Any) -> bool:
    """Equal; floats within rounding of another order of adding."""
    if isinstance(a, float) and isinstance(b, float | int):
        return a == pytest.approx(b, rel=1e-9, abs=1e-12)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(close, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(oracle.ANSWERS))
def test_query_answers_as_the_oracle(name: str, full_store: GraphStore, world: World) -> None:
    query, graph = named_queries()[name], world.graph()
    answered = 0
    for parameters in cases(name, world):
        result = query.execute(full_store, parameters)
        expected = oracle.ANSWERS[name](graph, **parameters)
        assert result.columns == tuple(column.name for column in query.columns)
        got = list(result.rows)
        assert len(got) == len(expected), parameters
        for have, want in zip(got, expected, strict=True):
            assert close(list(have), list(want)), parameters
        answered += len(got)
    assert answered, "no case of this query has an answer"


def test_the_oracle_knows_every_query() -> None:
    """But for pictures, whose nodes are counted on the documented home (tests/contract/test_pictures.py)."""
    assert {name for name in set(named_queries()) - set(oracle.ANSWERS) if not name.endswith("-graph")} == set()
    assert set(oracle.ANSWERS) <= set(named_queries())


@pytest.mark.parametrize("name", sorted(named_queries()))
def test_every_file_describes_itself(name: str, world: World) -> None:
    query = named_queries()[name]
    assert query.title
    assert query.description.endswith(".")
    assert query.statement.splitlines()[-1] == "LIMIT $limit"
    assert ";" not in query.statement
    assert set(re.findall(r"\$(\w+)", query.statement)) == {parameter.name for parameter in query.parameters}
    optional = {parameter.name for parameter in query.parameters if parameter.default}
    assert "limit" in optional
    assert "run" not in optional
    written = re.search(r":(State|Overlap|Gap|SIMILAR)\b", query.statement)
    # what names no chain is about all of them: those of one home, unless it is asked otherwise
    named = {"chain", "step", "first"} & {parameter.name for parameter in query.parameters}
    about_all = not named and name != "home-graph"
    assert bool(written or about_all) == any(parameter.name == "home" for parameter in query.parameters)
    if (written or re.search(r"\.run = ", query.statement)) and name != "home-graph":
        assert {"run", "before"} & {parameter.name for parameter in query.parameters}


def test_bind_fills_the_only_run_and_names_what_is_missing(world: World) -> None:
    query = named_queries()["chain-steps"]
    one = dict(list(world.runs.items())[:1])
    assert query.bind({"chain": "c1"}, one) == {"chain": "c1", "run": next(iter(one)), "limit": 500}
    with pytest.raises(UsageError, match="needs run"):
        query.bind({"chain": "c1"})
    assert query.bind({"chain": "c1", "limit": "7"}, one)["limit"] == 7
    with pytest.raises(UsageError) as error:
        query.bind({}, one)
    assert str(error.value) == (
        "query chain-steps needs chain. Run: trails query chain-steps --param chain=ce254d5f805b7567c "
        "--param run=rd24d03ce8f154ddc (optional: limit)"
    )
    with pytest.raises(UsageError, match="asks one run and there are 2: .*Add --param run=ID"):
        query.bind({"chain": "c1"}, world.runs)
    with pytest.raises(UsageError, match="has no parameter chian"):
        query.bind({"chian": "c1"}, one)
    with pytest.raises(UsageError, match="limit is 'many' and must be an integer, for example 500"):
        query.bind({"chain": "c1", "limit": "many"}, one)
    with pytest.raises(UsageError, match="limit is True"):
        query.bind({"chain": "c1", "limit": True}, one)


def test_a_header_that_cannot_be_read_is_named() -> None:
    with pytest.raises(Exception, match=r"cypher/x.cypher: '\$limit = 3' is neither a parameter nor a column"):
        parse("x", "// Title\n// Text.\n// $limit = 3\nRETURN 1\n")
