"""Every picture of the library, on the packaged sample with its analyses: nodes, and fewer than 60, on every store."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.contract.conftest import STORES

from trails.config import load_settings
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.uniform import UniformScorer
from trails.pipeline import Home, IngestOptions, ingest
from trails.pipeline.again import measure_again
from trails.pipeline.loading import load_missing, load_variants
from trails.pipeline.progress import Silent
from trails.pipeline.results import restore_results, results_of
from trails.schema import Chain, Trace, properties_of
from trails.store.base import GraphBatch, GraphStore
from trails.store.browser import is_picture, values_of
from trails.store.dashboard import CAPTIONS, COLUMNS, VERSION, dashboard
from trails.store.queries import named_queries
from trails.store.rows import table_of
from trails.store.traces import TraceStore
from trails.variants.base import Variant, VariantReport
from trails.variants.files import variant_table, write_variants

PICTURES = sorted(name for name in named_queries() if name.endswith("-graph"))
MOST = 60
"""Nodes of a picture: more are a disc, not an answer."""


class Trained(UniformScorer):
    """What stands for a training: the same instrument with an adapter, to which every token is another surprise."""

    def __init__(self) -> None:
        super().__init__()
        self.run = replace(self.run, adapter="c0ffee" * 10)

    def measure(self, items: Sequence[Segmented], options: MeasureOptions) -> list[Trace]:
        """The uniform traces, with surprisals from a generator that the chain seeds."""
        return [
            replace(trace, surprisal=self._rng(trace.chain.id).exponential(4.0, trace.n_tokens).astype(np.float32))
            for trace in super().measure(items, options)
        ]

    @staticmethod
    def _rng(chain: str) -> np.random.Generator:
        return np.random.default_rng(int(chain[1:], 16))


def variants_of(trace: Trace, n: int = 70) -> tuple[pa.Table, VariantReport]:
    """Stored variants of a chain; making genuine ones takes a model."""
    made = [
        Variant(
            chain=Chain("variants", str(i), "", f"{trace.chain.text} {i}", metadata={"parent": trace.chain.id}),
            steps=trace.steps,
            root=trace.chain.id,
            parent=trace.chain.id,
            kind="json",
            detail=f"number {i}",
            edits=1,
            distance=1,
            token_ids=trace.token_ids,
            token_start=trace.token_start,
            token_end=trace.token_end,
            step_tokens=trace.step_tokens,
            surprisal=trace.surprisal,
            entropy=trace.entropy,
            volatility=0.01 * i,
            volatility_after=0.01 * i,
            logit_drift=0.01 * i,
            hidden_drift=np.zeros(1, np.float32),
            accepted=True,
        )
        for i in range(n)
    ]
    report = VariantReport(trace.chain.id, tuple(made), noise_floor=0.0, passes=1.0)
    return variant_table(report, trace.run, trace.tokenizer, trace.question_token_ids.tolist()), report


def near_steps(graph: GraphStore, run: str) -> None:
    """Steps that are near each other; their states would take a model."""
    pairs = "MATCH (a:Step {index: 0}) RETURN a.id ORDER BY a.id LIMIT 50"
    steps = [row[0] for row in graph.run(pairs).rows]
    near = {"start": steps[:25], "end": steps[25:], "run": [run] * 25, "scope": ["near"] * 25}
    near["excess"] = [0.01 * i for i in range(25)]
    graph.write([GraphBatch({}, {"SIMILAR": table_of("SIMILAR", near)})])


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> TraceStore:
    """The packaged sample, ingested and analysed as docs/five-questions.md says, with the uniform scorer; then variants of a
    chain, which is not the longest, and all chains measured again after a training.
    """
    settings = load_settings(home=tmp_path_factory.mktemp("sample") / "home", store="embedded", model="uniform")
    path = Path(__file__).parents[2] / "src" / "trails" / "sample" / "chains.jsonl"
    ingest([path], settings, IngestOptions(), scorer=UniformScorer())
    with Home(settings.home, store="embedded") as home:
        for find in (home.overlaps, home.map, home.gaps):
            find()
        first = home.run()
    measure_again(settings, first, Trained())
    traces = TraceStore(settings.home)
    several = [trace for trace in traces.traces(first.id) if len(trace.steps) == 4]
    table, report = variants_of(min(several, key=lambda trace: trace.chain.id))
    write_variants([table], [report], traces.variant_file("v0"))
    return traces


@pytest.fixture(scope="module", params=STORES)
def graph(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sample: TraceStore
) -> Iterator[GraphStore]:
    """The sample in a store, with the results of its analyses and its variants."""
    from trails.store.embedded import EmbeddedStore

    with request.param(request, tmp_path_factory.mktemp("pictures")) as opened, EmbeddedStore(sample.home) as made:
        store = opened()
        store.ensure_schema()
        load_missing(sample, store)
        restore_results(results_of(made), store, Silent())
        load_variants(store, sample.variant_file("v0"))
        near_steps(store, values_of(sample)["run"])
        store.save()
        yield store
        store.close()


def test_there_are_ten_pictures() -> None:
    assert len(PICTURES) >= 10
    assert {name for name, query in named_queries().items() if is_picture(query)} == set(PICTURES)


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_has_nodes_and_is_no_disc(name: str, graph: GraphStore, sample: TraceStore) -> None:
    query = named_queries()[name]
    # what the Browser's favourites and guide hold
    values = values_of(sample) | ({"home": ""} if name == "similar-graph" else {})
    given = {parameter.name: values.get(parameter.name, parameter.example) for parameter in query.parameters}
    found = query.execute(graph, given)
    drawn = found.to_networkx()
    assert 2 <= drawn.number_of_nodes() < MOST, drawn.number_of_nodes()
    assert drawn.number_of_edges() > 0
    assert not found.truncated
    # as JSON: what a relationship is and where it leads is what the graph holds
    rows = [value for row in found.plain() for value in row if isinstance(value, dict)]
    rows += [edge for value in rows for edge in value.get("relationships", ())]
    links = {(edge["start"], edge["type"], edge["end"]) for edge in rows if "type" in edge}
    assert links == {(u, data["type"], v) for u, v, data in drawn.edges(data=True)}
    start, kind, end = min(links)
    there = f"MATCH (a {{id: $start}})-[r:{kind}]->(b {{id: $end}}) RETURN count(r) > 0"
    assert graph.run(there, {"start": start, "end": end}).rows == ((True,),)


@pytest.mark.slow
def test_a_chain_of_many_steps_is_drawn_whole(graph: GraphStore, sample: TraceStore) -> None:
    run = values_of(sample)["run"]
    longest = max(sample.traces(run), key=lambda trace: (len(trace.steps), trace.chain.id)).chain.id
    steps = graph.run("MATCH (s:Step {chain: $chain}) RETURN count(s)", {"chain": longest}).rows[0][0]
    drawn = named_queries()["chain-graph"].execute(graph, {"chain": longest, "run": run}).to_networkx()
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


@pytest.mark.slow
def test_every_card_of_the_dashboard_answers(graph: GraphStore, sample: TraceStore) -> None:
    """NeoDash itself is not here: its file has the declared shape, and each of its queries runs with its parameters."""
    made = json.loads(dashboard(named_queries(), values_of(sample)))
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
            assert found.rows, card["title"]
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
