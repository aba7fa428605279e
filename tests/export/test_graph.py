"""Graphs for other programs: networkx and pyarrow read back every node, relationship and property as the oracle has them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import networkx as nx
import pyarrow.parquet as pq
import pytest
from tests import oracle
from tests.cli.conftest import chains_file, trails  # noqa: F401  (fixtures)
from tests.store.factory import corpus, make_chain, make_run, make_trace

from trails.errors import StoreError, UsageError
from trails.export import graph as exported
from trails.export.graph import format_of, write_graph
from trails.export.subgraph import Part, Selection
from trails.platform import files
from trails.platform.files import replacing, replacing_folder

RUN = make_run()
ALL = Selection("all", None)
HOSTILE = 'If <a>&"b" then\r\nit is\x00 \x1b[31m \ufffe so. But ]]> \u2028 🙂 &amp; here. Therefore no.'
READ = {"gexf": nx.read_gexf, "graphml": nx.read_graphml}
NAMES = {"start": "text_start", "end": "text_end"}


def traces() -> list[Any]:
    return [*corpus(5, RUN), make_trace(make_chain("hostile", HOSTILE), RUN)]


def written(properties: dict[str, Any]) -> dict[str, Any]:
    """Properties as XML holds them, by the rules that the module names."""
    out = {}
    for name, value in properties.items():
        if isinstance(value, str):
            value = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", lambda m: f"\\u{ord(m[0]):04x}", value)
        if isinstance(value, (list, tuple)):
            value = json.dumps(list(value))
        out[NAMES.get(name, name)] = value
    return out


@pytest.mark.slow
@pytest.mark.parametrize("format", ["gexf", "graphml"])
def test_networkx_reads_back_every_node_and_relationship(format: Any, tmp_path: Path) -> None:
    path = tmp_path / f"g.{format}"
    made = write_graph(traces(), RUN, ALL, path, format)
    truth = oracle.build(traces(), {RUN.id: RUN})
    found = READ[format](path)
    labels = {node["id"]: node["label"] for _, node in truth.nodes(data=True)}
    assert sum(made.rows.values()) == made.elements == len(truth.nodes) + len(truth.edges)
    assert set(found.nodes) == set(labels)
    for name, properties in found.nodes(data=True):
        wanted = written({k: v for k, v in oracle.shown(truth.nodes[name]).items() if k != "id"})
        assert properties.pop("kind") == labels[name]
        assert properties.pop("label")
        assert properties == wanted
        assert {k: type(v) for k, v in properties.items()} == {k: type(v) for k, v in wanted.items()}
    edges = sorted(
        (
            (a, b, {k: v for k, v in edge.items() if k not in ("id", "label", "key")})
            for a, b, edge in found.edges(data=True)
        ),
        key=repr_of,
    )
    expected = sorted(
        ((a, b, {"kind": edge["type"]} | written(oracle.shown_edge(edge))) for a, b, edge in truth.edges(data=True)),
        key=repr_of,
    )
    assert len(edges) == len(expected)
    for (a, b, edge), (c, d, wanted) in zip(edges, expected, strict=True):
        assert (a, b, edge.keys()) == (c, d, wanted.keys())
        for name, value in edge.items():
            close = pytest.approx(wanted[name], rel=1e-12) if isinstance(value, float) else wanted[name]
            assert value == close, (a, b, name)
    if format == "gexf":
        assert 'xmlns="http://gexf.net/1.3"' in path.read_text(encoding="utf-8")


def repr_of(edge: tuple[str, str, dict[str, Any]]) -> tuple[str, ...]:
    return edge[0], edge[1], edge[2]["kind"], str(edge[2].get("run"))


def test_parquet_has_the_importer_s_headers_and_no_lists(tmp_path: Path) -> None:
    made = write_graph(traces(), RUN, ALL, tmp_path / "g", "parquet")
    truth = oracle.build(traces(), {RUN.id: RUN})
    steps = pq.read_table(tmp_path / "g" / "Step.parquet")
    assert steps.column_names[0] == "id:ID(Step)"
    assert "index:long" in steps.column_names
    assert set(steps["id:ID(Step)"].to_pylist()) == {node["id"] for node in oracle.nodes(truth, "Step")}
    following = pq.read_table(tmp_path / "g" / "NEXT.parquet")
    assert following.column_names[:2] == [":START_ID(Token)", ":END_ID(Token)"]
    found = dict(zip(following[":END_ID(Token)"].to_pylist(), following["surprisal:double"].to_pylist(), strict=True))
    wanted = {b["id"]: r["surprisal"] for _, r, b in oracle.edges(truth, "NEXT")}
    assert found == pytest.approx(wanted, rel=1e-12)
    assert made.left_out == ("ATTENDS_TO.mass", "MEASURED.hidden_baseline")
    assert {path.stem: pq.read_metadata(path).num_rows for path in (tmp_path / "g").iterdir()} == dict(made.rows)


def test_a_part_of_a_chain_has_its_steps_tokens_and_nothing_that_leads_out_of_it(tmp_path: Path) -> None:
    whole = traces()
    chain = whole[2].chain.id
    part = Selection("some", {chain: Part(chain, steps=(1,))})
    write_graph([whole[2]], RUN, part, tmp_path / "part.graphml", "graphml")
    found = nx.read_graphml(tmp_path / "part.graphml")
    kinds = dict(found.nodes(data="kind"))
    assert [name for name, kind in kinds.items() if kind == "Step"] == [f"{chain}:1"]
    first, last = whole[2].step_tokens[1].tolist()
    assert {name for name, kind in kinds.items() if kind == "Token"} == {
        whole[2].token_id(t) for t in range(first, last)
    }
    pairs = [(a, b) for a, b, kind in found.edges(data="kind") if kind == "NEXT"]
    assert len(pairs) == last - first - 1
    write_graph(whole, RUN, ALL, tmp_path / "steps.gexf", "gexf", tokens=False)
    bare = nx.read_gexf(tmp_path / "steps.gexf")
    assert "Token" not in {kind for _, kind in bare.nodes(data="kind")}
    assert "LEADS_TO" in {kind for _, _, kind in bare.edges(data="kind")}


def test_what_cannot_be_written_is_one_error_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there.gexf").write_text("mine")
    for target, said in ((tmp_path / "there.gexf", "exists"), (tmp_path / "no" / "g.gexf", "there is no folder")):
        with pytest.raises(UsageError, match=said):
            write_graph(traces(), RUN, ALL, target, "gexf")
    assert (tmp_path / "there.gexf").read_text() == "mine"
    with pytest.raises(UsageError, match="holds no chain"):
        write_graph([], RUN, Selection("chain:c0", {}), tmp_path / "g.gexf", "gexf")
    monkeypatch.setattr(exported, "MAX_ELEMENTS", 20)
    with pytest.raises(UsageError, match="--no-tokens"):
        write_graph(traces(), RUN, ALL, tmp_path / "g.gexf", "gexf")
    assert not (tmp_path / "g.gexf").exists()
    with pytest.raises(UsageError, match="names no format"):
        format_of(tmp_path / "graph.png")
    assert format_of(tmp_path / "graph.png", "gexf") == "gexf"


@pytest.mark.parametrize("format", ["gexf", "graphml", "parquet"])
def test_two_exports_to_one_place_at_once_are_one_export_and_one_error(format: Any, tmp_path: Path) -> None:
    path = tmp_path / "g[1]"
    held = replacing_folder(path) if format == "parquet" else replacing(path, alone=True)
    with held as made:
        if format != "parquet":
            made.write_text("first")
        with pytest.raises(StoreError, match=r"another process is writing .*g\[1\]. Wait until it has ended"):
            write_graph(traces(), RUN, ALL, path, format)
        assert not path.exists()
    assert path.exists()
    write_graph(traces(), RUN, ALL, path, format, overwrite=True)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("format", ["gexf", "graphml"])
def test_a_file_is_the_same_however_it_was_cut_into_blocks(
    format: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graph(traces(), RUN, ALL, tmp_path / "whole", format)
    told: list[int] = []
    monkeypatch.setattr(exported, "_TOKENS_PER_BATCH", 1)
    monkeypatch.setattr(exported, "_ROWS_AT_ONCE", 3)
    write_graph(traces(), RUN, ALL, tmp_path / "blocks", format, progress=told.append)
    assert told == [1] * len(traces())
    whole, blocks = (READ[format](tmp_path / name) for name in ("whole", "blocks"))
    assert dict(whole.nodes(data=True)) == dict(blocks.nodes(data=True))
    edges = [
        sorted(json.dumps([a, b, {k: v for k, v in edge.items() if k != "id"}], sort_keys=True) for a, b, edge in found)
        for found in (whole.edges(data=True), blocks.edges(data=True))
    ]
    assert edges[0] == edges[1]


ENDED = """
import os, signal, sys
from trails.__main__ import main
from trails.export import graph
real, graph._CHAINS_PER_BATCH = graph.graph_batch, 1
seen, name = [], sys.argv.pop()
def killing(*given):
    seen.append(1)
    if len(seen) == 3: os.kill(os.getpid(), signal.Signals[name])
    return real(*given)
graph.graph_batch = killing
main()
"""


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.parametrize("target", ["folder", "one.gexf"])
def test_an_export_that_is_ended_leaves_nothing(
    trails: Any,  # noqa: F811
    chains_file: Path,  # noqa: F811
    tmp_path: Path,
    target: str,
    name: str,
    status: int,
) -> None:
    trails("ingest", chains_file)
    before = sorted(path.name for path in tmp_path.iterdir())
    line = [sys.executable, "-c", ENDED, "export-graph", "all", "-o", str(tmp_path / target), name]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert "Traceback" not in done.stderr
    if name == "SIGINT":
        assert f"{target} was not written. Run the same command again to write it" in done.stderr


def test_ctrl_c_behind_the_last_write_says_that_the_file_is_whole(
    trails: Any,  # noqa: F811
    chains_file: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trails("ingest", chains_file)

    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(files, "_sync_folder", interrupted)
        said = trails("export-graph", "all", "-o", "one.graphml", code=130).err
    assert said == "interrupted; one.graphml is written and whole\n"
    assert nx.read_graphml(tmp_path / "one.graphml")
    with monkeypatch.context() as patched:
        patched.setattr(exported, "graph_batch", lambda *given: interrupted(tmp_path))
        said = trails("export-graph", "all", "-o", "one.graphml", "--overwrite", code=130).err
    assert said == "interrupted; one.graphml is as it was. Run the same command again to write it\n"


@pytest.mark.slow
def test_the_command_writes_what_is_selected(trails: Any, chains_file: Path, tmp_path: Path) -> None:  # noqa: F811
    trails("ingest", chains_file)
    chain = trails("chains", "--json").json()[0]["chain"]
    told = trails("export-graph", f"chain:{chain}", "-o", "one.graphml", "--json").json()
    found = nx.read_graphml(tmp_path / "one.graphml")
    assert told["elements"] == len(found.nodes) + len(found.edges)
    assert [name for name, kind in found.nodes(data="kind") if kind == "Chain"] == [chain]
    assert "reads no lists" in trails("export-graph", "all", "-o", "folder").err
    assert "exists" in trails("export-graph", "all", "-o", "folder", code=2).err
    (tmp_path / "home" / "graph.kgl").write_bytes(b"no graph")
    trails("export-graph", f"chain:{chain}", "-o", "again.graphml")  # the shards are enough
    assert (tmp_path / "again.graphml").read_bytes() == (tmp_path / "one.graphml").read_bytes()
    assert "names no format" in trails("export-graph", "all", "-o", "x.png", code=2).err
