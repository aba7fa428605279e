"""Every picture of the library, on the packaged sample with its analyses: nodes, and fewer than 60, on every store."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.conftest import STORES

from trails.config import load_settings
from trails.measure.uniform import UniformScorer
from trails.pipeline import Home, IngestOptions, ingest
from trails.pipeline.loading import load_missing
from trails.pipeline.progress import Silent
from trails.pipeline.results import restore_results, results_of
from trails.schema import properties_of
from trails.store.base import GraphBatch, GraphStore
from trails.store.browser import is_picture
from trails.store.dashboard import CAPTIONS, COLUMNS, VERSION, dashboard
from trails.store.queries import named_queries
from trails.store.rows import table_of
from trails.store.traces import TraceStore

PICTURES = sorted(name for name in named_queries() if name.endswith("-graph"))
MOST = 60
"""Nodes of a picture: more are a disc, not an answer."""


def variants_and_another_run(graph: GraphStore, chain: str, run: str) -> None:
    """What a model would have to be run for: microvariants of a chain, a second run of its transitions, steps that are near."""
    n = 70
    ids, drifts = [f"v{i:016x}" for i in range(n)], [0.01 * i for i in range(n)]
    drift = table_of("VARIANT_OF", {"start": ids, "end": [chain] * n, "run": [run] * n, "logit_drift": drifts})
    made = table_of("Variant", {"id": ids, "chain": [chain] * n, "kind": ["json"] * n})
    graph.write([GraphBatch({"Variant": made}, {"VARIANT_OF": drift})])
    pairs = "MATCH (a:Step {index: 0}) RETURN a.id ORDER BY a.id LIMIT 50"
    steps = [row[0] for row in graph.run(pairs).rows]
    near = {"start": steps[:25], "end": steps[25:], "run": [run] * 25, "scope": ["near"] * 25, "excess": drifts[:25]}
    graph.write([GraphBatch({}, {"SIMILAR": table_of("SIMILAR", near)})])
    statement = "MATCH (a:Token {chain: $chain})-[:NEXT]->(b:Token) RETURN a.id, b.id, b.position"
    start, end, position = (list(side) for side in zip(*graph.run(statement, {"chain": chain}).rows, strict=True))
    second = {"run": ["after"] * len(start), "surprisal": list(map(float, position))}
    graph.write([GraphBatch({}, {"NEXT": table_of("NEXT", {"start": start, "end": end, **second})})])


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> TraceStore:
    """The packaged sample, ingested and analysed as docs/five-questions.md says, with the uniform scorer."""
    settings = load_settings(home=tmp_path_factory.mktemp("sample") / "home", store="embedded", model="uniform")
    path = Path(__file__).parents[2] / "src" / "trails" / "sample" / "chains.jsonl"
    ingest([path], settings, IngestOptions(), scorer=UniformScorer())
    with Home(settings.home, store="embedded") as home:
        for find in (home.overlaps, home.map, home.gaps):
            find()
    return TraceStore(settings.home)


@pytest.fixture(scope="module", params=STORES)
def graph(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sample: TraceStore
) -> Iterator[GraphStore]:
    """The sample in a store, with the results of its analyses."""
    from trails.store.embedded import EmbeddedStore

    with request.param(request, tmp_path_factory.mktemp("pictures")) as opened, EmbeddedStore(sample.home) as made:
        store = opened()
        store.ensure_schema()
        load_missing(sample, store)
        restore_results(results_of(made), store, Silent())
        values = picture_values(sample)
        variants_and_another_run(store, values["chain"], values["run"])
        store.save()
        yield store
        store.close()


def picture_values(sample: TraceStore) -> dict[str, str]:
    """The longest chain, the run, and the home."""
    (run,) = sample.runs()
    longest = max(sample.traces(), key=lambda trace: (len(trace.steps), trace.chain.id))
    return {"chain": longest.chain.id, "run": run, "home": sample.identity().id, "before": run, "after": "after"}


def test_there_are_ten_pictures() -> None:
    assert len(PICTURES) >= 10
    assert {name for name, query in named_queries().items() if is_picture(query)} == set(PICTURES)


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_has_nodes_and_is_no_disc(name: str, graph: GraphStore, sample: TraceStore) -> None:
    query = named_queries()[name]
    values = picture_values(sample) | ({"home": ""} if name == "similar-graph" else {})
    given = {parameter.name: values.get(parameter.name, parameter.example) for parameter in query.parameters}
    found = query.execute(graph, given)
    drawn = found.to_networkx()
    assert 2 <= drawn.number_of_nodes() < MOST, drawn.number_of_nodes()
    assert drawn.number_of_edges() > 0
    assert not found.truncated


@pytest.mark.slow
def test_a_chain_of_many_steps_is_drawn_whole(graph: GraphStore, sample: TraceStore) -> None:
    values = picture_values(sample)
    steps = graph.run("MATCH (s:Step {chain: $chain}) RETURN count(s)", {"chain": values["chain"]}).rows[0][0]
    drawn = (
        named_queries()["chain-graph"].execute(graph, {"chain": values["chain"], "run": values["run"]}).to_networkx()
    )
    assert drawn.number_of_nodes() == min(steps, 51)
    assert not any("Chain" in labels for _, labels in drawn.nodes(data="labels"))


def boxes(page: dict[str, Any]) -> list[tuple[int, int]]:
    """Every unit of a page that a card covers."""
    return [
        (x, y)
        for card in page["reports"]
        for x in range(card["x"], card["x"] + card["width"])
        for y in range(card["y"], card["y"] + card["height"])
    ]


def test_every_card_of_the_dashboard_answers(graph: GraphStore, sample: TraceStore) -> None:
    """NeoDash itself is not here: its file has the declared shape, and each of its queries runs with its parameters."""
    made = json.loads(dashboard(named_queries(), picture_values(sample)))
    assert made["version"] == VERSION
    assert len(made["pages"]) == 6
    parameters = made["settings"]["parameters"]
    seen = set()
    for page in made["pages"]:
        covered = boxes(page)
        assert len(covered) == len(set(covered))
        assert max(x for x, _ in covered) < COLUMNS
        for card in page["reports"]:
            assert {"id", "title", "query", "type", "x", "y", "width", "height", "selection", "settings"} == set(card)
            seen.add(card["id"])
            named = set(re.findall(r"\$(\w+)", card["query"]))
            given = {name: value for name, value in (parameters | {"input": ""}).items() if name in named}
            assert set(given) == named, card["title"]
            found = graph.run(card["query"], given)
            # chains of a second run would have to be measured whole
            assert found.rows or card["title"] == "Change by source", card["title"]
            if card["type"] == "graph":
                assert found.to_networkx().number_of_edges() > 0, card["title"]
            if card["type"] == "select":
                assert card["settings"]["parameterName"] in parameters
                assert found.columns == ("value",)
                assert parameters[card["settings"]["parameterName"]] in {
                    row[0]
                    for row in graph.run(card["query"], {"input": parameters[card["settings"]["parameterName"]]}).rows
                }
    assert len(seen) == sum(len(page["reports"]) for page in made["pages"])
    # what a graph card shows of a node is a property that it has
    for label, name in CAPTIONS.items():
        assert name in {p.name for p in properties_of(label)}
