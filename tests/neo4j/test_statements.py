"""No Cypher in src is built from data, and what is sent is judged by the planner."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from trails.errors import StoreError
from trails.schema import NODES, RELATIONSHIPS
from trails.store.neo4j import Neo4jStore, judge, statements
from trails.store.neo4j import store as module

SOURCE = Path(module.__file__).parents[2]
CYPHER = re.compile(r"\s*(OPTIONAL MATCH|MATCH|MERGE|CREATE|UNWIND|DETACH|RETURN|CALL|WITH|EXPLAIN)\b[\s(`]")
BUILDERS = {
    "_name",
    "_map",
    "_list",
    "_ends",
    "_other_run_check",
    "_create_group",
    "_merge_nodes",
    "_merge_relationships",
    "_read_nodes",
    "_read_relationships",
    "_more_index",
}
"""Functions of neo4j/statements.py that make Cypher from declarations of schema.py. :func:`_name` refuses other names."""


def made_of(node: ast.expr) -> set[str]:
    """Names that an interpolated expression is made of: calls by their function, the rest by the variable."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BUILDERS:
        return set()
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)} or {ast.unparse(node)}


REVIEWED = {
    # ids that are hashes of content, in a statement printed for the user to run
    "overlaps.py": {"chains", "overlap"},
    # labels, types and property names of the schema's declarations
    "loading.py": {"there", "label", "key"},
    # and a clause that compares with the parameter $home, or nothing where no home is asked for
    "results.py": {"of", "node", "columns", "where", "_of_home", "home"},
    "removing.py": {"label", "relationship", "declared", "own", "match"},
    # labels of a dashboard's choices, written in the module
    "dashboard.py": {"label"},
    # the names of roles
    "browser.py": {"_LABELS"},
    # results of the builders above and loop variables over the schema
    "statements.py": {
        *("table", "rows", "one", "key", "rest", "ends", "label", "scope", "body", "anchor", "measured", "n", "e"),
        *("WRITES", "name"),
        *("match", "columns", "_CHAIN_KEY", "target", "on", "index"),
        # MATCH … RETURN and the list of a declaration's properties
        *("_name", "p", "node", "properties_of", "per_layer", "r"),
    },
    # EXPLAIN before the user's own statement
    "store.py": {"query"},
    # labels of a constant
    "opened.py": {"label"},
    # declarations of the schema, labels checked against it, and lists of such
    "embedded.py": {"declared", "label", "ends", "values", "same", "key", "name", "i", "enumerate", "pattern"},
    # a label of two, an operator that a pattern matched, numbers of parameters
    "subgraph.py": {"label", "match", "i", "range", "len", "set", "names", "held"},
    # constants of the module
    "resegmenting.py": {"where"},
    # a letter of three, the name of a parameter, a constant
    "compiling.py": {"letter", "texts", "_FIRST"},
}
"""What may stand in a Cypher string, by file; every entry was read by a person."""


def interpolations() -> list[tuple[str, int, str]]:
    """Every expression put into a string that looks like Cypher, outside the builders' allowance."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
                if not CYPHER.match(text):
                    continue
                for part in node.values:
                    if isinstance(part, ast.FormattedValue):
                        names = made_of(part.value) - REVIEWED.get(path.name, set())
                        if names:
                            found.append((path.name, node.lineno, ast.unparse(part.value)))
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod | ast.Add):
                left = node.left
                cypher = isinstance(left, ast.Constant) and isinstance(left.value, str) and CYPHER.match(left.value)
                if cypher and made_of(node.right) - REVIEWED.get(path.name, set()):
                    found.append((path.name, node.lineno, ast.unparse(node.right)))
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("format", "replace")
                and isinstance(node.func.value, ast.Constant)
                and CYPHER.match(str(node.func.value.value))
            ):
                found.append((path.name, node.lineno, ast.unparse(node)))
    return found


@pytest.mark.slow
def test_no_cypher_is_built_from_data() -> None:
    assert interpolations() == []


def test_the_check_finds_what_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.py").write_text('def f(x):\n    return f"MATCH (n) WHERE n.id = {x} RETURN n"\n')
    monkeypatch.setattr(f"{__name__}.SOURCE", tmp_path)
    assert [entry[2] for entry in interpolations()] == ["x"]


def test_the_driver_is_only_given_constants_or_the_users_own_statement() -> None:
    """Every statement handed to the driver is a constant of the module, a parameter named so, or the user's query."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    given = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "run":
            first = node.args[0]
            given.add(ast.unparse(first.value if isinstance(first, ast.Subscript) else first))
    constants = {name for name in given if name.isupper()}
    assert given - constants == {
        "statement",
        "query",
        "'EXPLAIN ' + query",
        "'PROFILE ' + query",
        "neo4j.Query(query, timeout=max(timeout_s, 0.001))",
        "neo4j.Query(statement, timeout=3600.0)",
    }
    assert constants <= set(vars(module))


@pytest.mark.parametrize("name", ["a b", "a`b", "", "1a", "a-b", "x) DETACH DELETE n //", "é"])
def test_names_that_are_no_identifiers_are_refused(name: str) -> None:
    with pytest.raises(ValueError):
        statements._name(name)


def test_every_declared_name_is_in_the_statements() -> None:
    for node in NODES:
        assert f"`{node.label}`" in statements.MERGE_NODES[node.label]
    for r in RELATIONSHIPS:
        assert f"[x:`{r.type}`" in statements.MERGE_RELATIONSHIPS[r.name, False]


def step(operator: str, details: str = "", *children: dict[str, object]) -> dict[str, object]:
    """A plan's operator."""
    return {"operatorType": operator, "args": {"Details": details}, "children": list(children)}


@pytest.mark.parametrize(
    ("kind", "plan", "refused"),
    [
        ("r", step("ProduceResults@neo4j", "n", step("AllNodesScan@neo4j", "n")), ""),
        ("r", step("ProduceResults@neo4j", "x", step("LoadCSV@neo4j", "l")), "LOAD CSV"),
        ("r", step("Projection@neo4j", '[x IN [1] | COUNT { LOAD CSV FROM "http://x" AS l RETURN l }]'), "LOAD CSV"),
        ("r", step("Projection@neo4j", "COUNT { LOAD CSV WITH HEADERS FROM x AS l RETURN l }"), "LOAD CSV"),
        ("r", step("ProcedureCall@neo4j", "db.labels() :: (label :: STRING)"), ""),
        ("r", step("ProcedureCall@neo4j", "dbms.listConfig() :: (name :: STRING)"), "dbms.listConfig"),
        (
            "r",
            step("Projection@neo4j", "COUNT { CALL db.stats.retrieve($x) YIELD a RETURN a }"),
            "inside an expression",
        ),
        ("r", step("Projection@neo4j", "COUNT { ResolvedCall(db.x() ...) }"), "inside an expression"),
        ("r", step("ShowTransactions@neo4j"), "administers"),
        ("r", step("TerminateTransactions@neo4j"), "administers"),
        ("r", step("ShowSettings@neo4j"), "administers"),
        ("r", step("ShowIndexes@neo4j"), ""),
        ("r", step("AllNodesScan@system", "n"), "database 'system'"),
        ("rw", step("Create@neo4j"), "writes"),
        ("w", step("Create@neo4j"), "writes"),
        ("s", step("CreateIndex@neo4j"), "schema"),
        (None, None, "no query"),
        ("r", None, "no plan"),
    ],
)
def test_what_the_planner_says_decides(kind: str | None, plan: dict[str, object] | None, refused: str) -> None:
    verdict = judge(kind, plan, "neo4j")
    assert (refused in verdict) if refused else verdict == ""


def test_addresses_and_passwords_stay_apart() -> None:
    with pytest.raises(StoreError, match="holds a user or a password") as error:
        Neo4jStore("bolt+s://someone:hush@db.example:7687")
    assert "hush" not in str(error.value)
    store = Neo4jStore("bolt+s://db.example:7687", "someone", "hush-hush")
    assert "hush" not in repr(store) + str({k: v for k, v in vars(store).items() if k != "_driver"})
    store.close()
