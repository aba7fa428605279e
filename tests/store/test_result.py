"""What a query returns goes on: pandas, Arrow, networkx, a notebook; nothing is lost or changed on the way."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from html.parser import HTMLParser

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trails.errors import MissingPackageError, UsageError
from trails.store.base import Result
from trails.store.values import NodeValue, RelationshipValue

HOSTILE = "<script>alert(1)</script><img src=x onerror=y> & \x1b]8;;http://evil/\x1b\\ \u202egnp </td>"


class Page(HTMLParser):
    """Tags, attributes and cells of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.cells: list[str] = []
        self.caption = ""
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.inside = tag
        self.attributes |= {name for name, _ in attrs}
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.inside == "td":
            self.cells[-1] += data
        if self.inside == "caption":
            self.caption += data


def test_a_notebook_shows_text_and_runs_nothing() -> None:
    node = NodeValue({"id": "c1", "text": HOSTILE}, "7", ("Chain",))
    page = Result((HOSTILE, "n"), ((HOSTILE, node), ([HOSTILE, 1], None)))._repr_html_()
    read = Page(page)
    assert read.tags == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert not read.attributes
    assert read.cells[0].startswith("<script>alert(1)</script><img src=x onerror=y> & \\x1b]8;;http://evil/")
    assert "<script>alert(1)</script>" in read.cells[1]
    assert read.cells[3] == ""
    assert not {"\x1b", "\u202e"} & set(page)


def test_a_notebook_says_what_it_leaves_out() -> None:
    many = Result(("n",), tuple((n,) for n in range(60)), truncated=True)
    read = Page(many._repr_html_())
    assert read.cells == [str(n) for n in range(50)]
    assert read.caption == "50 of 60 rows; the query found more, which were left out"
    assert Page(Result(("n",), ()).html()).caption == "0 rows"
    long = Page(Result(("n",), (("x" * 5_000,),)).html())
    assert long.cells[0].endswith("x … (3,000 more characters)")


VALUES = st.one_of(
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)),
    st.lists(st.none() | st.floats(allow_nan=False)),
    st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]))),
    st.lists(st.none() | st.booleans()),
    st.lists(st.lists(st.integers(-9, 9))),
)


@pytest.mark.slow
@settings(deadline=None)  # the first call imports pandas
@given(VALUES)
def test_arrow_and_pandas_hold_what_the_query_returned(values: list[object]) -> None:
    result = Result(("x", "row"), tuple((value, number) for number, value in enumerate(values)))
    assert result.to_arrow()["x"].to_pylist() == values
    frame = result.to_pandas()
    assert list(frame.columns) == ["x", "row"]
    assert [None if isinstance(v, float) and math.isnan(v) else v for v in frame["x"].tolist()] == values
    assert frame["row"].tolist() == list(range(len(values)))


def test_numbers_are_numbers_and_large_integers_stay_exact() -> None:
    result = Result(("f", "i", "big"), ((0.5, 1, 2**60 + 1), (None, 2, None)))
    frame = result.to_pandas()
    assert [str(kind) for kind in frame.dtypes] == ["float64", "int64", "object"]
    assert frame["big"].tolist() == [2**60 + 1, None]
    assert result.to_arrow().schema.types == [pa.float64(), pa.int64(), pa.int64()]
    assert Result((), ()).to_pandas().empty
    assert list(Result(("a", "b"), ()).to_pandas().columns) == ["a", "b"]


@pytest.mark.parametrize("values", [(1, "a"), ("a", 1), (1, 2**70), ({"a": 1}, 3), ([1], ["b"])])
def test_values_that_no_arrow_column_holds_are_refused_by_name(values: tuple[object, object]) -> None:
    result = Result(("n", "mixed"), tuple((n, value) for n, value in enumerate(values)))
    with pytest.raises(UsageError, match=r"^column 'mixed' holds values that one Arrow column cannot hold \("):
        result.to_arrow()
    assert result.to_pandas()["mixed"].tolist() == list(values)


def test_a_graph_keeps_parallel_edges_loops_and_any_name_of_a_property() -> None:
    a = NodeValue({"id": "a", "key": 1, "node_for_adding": 2}, "1", ("Step", "Other"))
    b = NodeValue({"text": "without an id"}, "2", ("Note",))
    edges = [
        RelationshipValue({"key": 9, "u_for_edge": 8, "run": run}, str(n), "NEXT", *ends)
        for n, (run, ends) in enumerate([("r1", ("1", "2")), ("r2", ("1", "2")), ("r1", ("1", "1"))])
    ]
    graph = Result(("n", "r"), ((a, edges[0]), (b, edges), (None, []))).to_networkx()
    assert set(graph.nodes) == {"a", "2"}
    assert graph.nodes["a"] == {"id": "a", "key": 1, "node_for_adding": 2, "labels": ("Step", "Other")}
    assert sorted((u, v, data["run"]) for u, v, data in graph.edges(data=True)) == [
        ("a", "2", "r1"),
        ("a", "2", "r2"),
        ("a", "a", "r1"),
    ]
    assert {(data["key"], data["u_for_edge"], data["type"]) for *_, data in graph.edges(data=True)} == {(9, 8, "NEXT")}


def test_two_nodes_that_share_an_id_stay_two() -> None:
    nodes = [NodeValue({"id": "x"}, "1", ("A",)), NodeValue({"id": "x"}, "2", ("B",)), NodeValue({"id": "y"}, "3", ())]
    assert set(Result(("n",), tuple((node,) for node in nodes)).to_networkx().nodes) == {"1", "2", "y"}


def test_plain_rows_say_what_an_element_is_and_where_a_relationship_leads() -> None:
    a, b = NodeValue({"text": "x", "id": "a"}, "7", ("Step",)), NodeValue({"text": "no id"}, "8", ("Note", "Other"))
    edge = RelationshipValue({"type": "own", "run": "r1"}, "9", "NEXT", "7", "8")
    away = RelationshipValue({}, "10", "NEXT", "7", "99")
    result = Result(("n", "r", "m"), ((a, edge, {"nodes": [a, b], "relationships": [edge]}), (None, away, [b, 1])))
    node = {"id": "a", "labels": ["Step"], "properties": {"id": "a", "text": "x"}}
    note = {"id": "8", "labels": ["Note", "Other"], "properties": {"text": "no id"}}
    link = {"type": "NEXT", "start": "a", "end": "8", "properties": {"run": "r1", "type": "own"}}
    assert result.plain() == (
        (node, link, {"nodes": [node, note], "relationships": [link]}),
        (None, {"type": "NEXT", "start": "a", "end": None, "properties": {}}, [note, 1]),
    )
    assert json.dumps(result.plain()[0][0]["properties"]) == '{"id": "a", "text": "x"}', "in the order of their names"


def test_rows_as_edges() -> None:
    result = Result(("a", "b", "n"), (("x", "y", 1), ("x", "y", 2), (None, "y", 3)))
    graph = result.to_networkx(start="a", end="b")
    assert sorted((u, v, data["n"]) for u, v, data in graph.edges(data=True)) == [("x", "y", 1), ("x", "y", 2)]
    with pytest.raises(UsageError, match="there is no column 'c'. Columns: a, b, n"):
        result.to_networkx(start="a", end="c")
    with pytest.raises(UsageError, match="row 1 holds no plain value"):
        Result(("a", "b"), (({"id": 1}, 2),)).to_networkx(start="a", end="b")
    assert len(Result(("a",), ()).to_networkx()) == 0


@pytest.mark.parametrize("name", ["pandas", "networkx"])
def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=rf"^to_{name}\(\) needs the package {name} .*pip install {name}$"):
        getattr(Result(("a",), ((1,),)), f"to_{name}")()


@pytest.mark.slow
def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, trails.store.base, trails.analyses.report; print({'pandas', 'networkx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
