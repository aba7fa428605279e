"""What a read on a genuine server may call, what it says when the connection drops, and a rebuild that finds kept results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.neo4j.proxy import Proxy
from tests.neo4j.servers import Server, shared
from tests.store.factory import corpus, make_run
from tests.store.test_rebuild import SCOPE, Noted, results

from trails.config import load_settings
from trails.errors import QueryError, StoreError
from trails.pipeline import rebuild, verify
from trails.pipeline.loading import keep_results
from trails.store import open_graph
from trails.store.neo4j import Neo4jStore
from trails.store.neo4j.reading import READ_PROCEDURES
from trails.store.traces import TraceStore

pytestmark = [pytest.mark.neo4j, pytest.mark.xdist_group("neo4j-lts")]


@pytest.fixture
def server() -> Iterator[Server]:
    """The shared server, emptied."""
    found = shared("LTS")
    found.empty()
    yield found
    found.empty()


def test_the_procedures_that_a_refusal_lists_are_those_that_run(server: Server) -> None:
    with server.open() as store:
        store.ensure_schema()
        with pytest.raises(QueryError) as error:
            store.run("CALL dbms.components()")
        said, _, rest = str(error.value).partition(" is not on the list of harmless ones (")
        assert said.endswith("procedure dbms.components")
        listed = rest.partition(")")[0].split(", ")
        assert listed == sorted(READ_PROCEDURES)
        for name in listed:
            if ".queryNodes" not in name and ".queryRelationships" not in name:
                store.run(f"CALL {name}()")
                continue
            # it is let through to the server, which has no such index
            given = "'none', 'word'" if "fulltext" in name else "'none', 1, [1.0]"
            with pytest.raises(QueryError, match="no such"):
                store.run(f"CALL {name}({given})")


def test_a_connection_dropped_in_a_read_speaks_of_reading(server: Server) -> None:
    with Proxy(server.uri) as proxy, Neo4jStore(proxy.uri) as store:
        assert store.run("RETURN size($text) AS n", {"text": "x" * 100_000}).rows == ((100_000,),)
        proxy.mode, proxy.after, proxy.carried = "cut", 2_000, 0
        with pytest.raises(StoreError, match="no answer from Neo4j") as error:
            store.run("RETURN size($text) AS n", {"text": "x" * 100_000})
        assert "The query only read: nothing was changed, and it can be asked again" in str(error.value)
        assert "rebuild" not in str(error.value)


def test_results_that_an_interrupted_rebuild_left_in_the_home_come_back(server: Server, tmp_path: Path) -> None:
    run = make_run("one")
    settings = load_settings(home=tmp_path, store="neo4j", neo4j_uri=server.uri, neo4j_password="")
    with TraceStore(tmp_path, write=True) as shards:
        shards.put_run(run)
        shards.write(corpus(4, run))
        home = shards.identity().id
    rebuild(settings)
    with open_graph(settings) as graph:
        graph.write([results(replace(SCOPE, home=home))])
        before = graph.counts()
        keep_results(tmp_path, graph, home)
    assert (tmp_path / "results").is_dir()
    server.empty()  # the rebuild was interrupted after it had cleared the graph
    noted = Noted()
    rebuild(settings, fresh=True, progress=noted)
    assert noted.notes == ["results of analyses kept: 2 State, 1 Overlap, 2 Gap"]
    assert not (tmp_path / "results").exists()
    with open_graph(settings) as graph:
        assert graph.counts() == before
        assert graph.run("MATCH (o:Overlap)-[:IN]->(c:Chain) RETURN count(c) AS n").rows == ((2,),)
    assert verify(settings).differences == ()
