"""Every statement that the store sends, made from the declarations of :mod:`trails.schema` and nothing else.

A statement takes its rows as columns: a parameter per table, a list per column, and a number of rows in ``$counts``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from trails import schema
from trails.schema import NODE, NODES, RELATIONSHIP, RELATIONSHIPS, Index, Node, Relationship, properties_of

LOADED = "loaded"
"""Property of a MEASURED relationship that says: everything of this (chain, run) is in the graph. Not part of the digest."""
STORE_LABEL = "TrailsStore"
"""Label of the single node that holds the format version."""

SHARED_NODES = ("Source", "Run", "Family")
CHAIN_NODES = ("Chain", "Step", "Token")
STRUCTURE = ("FROM", "IN_FAMILY", "HAS_STEP", "NEXT_STEP", "FIRST")
MEASURED = ("MEASURED", "MEASURED_STEP", "BEGINS", "NEXT", "TOKEN_ATTENDS_TO", "LEADS_TO", "ATTENDS_TO")
WRITES = dict.fromkeys(RELATIONSHIP, "CREATE") | {"IN_FAMILY": "MERGE"}


def _name(name: str) -> str:
    """A label, type or key of the schema, quoted."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(name)
    return f"`{name}`"


def _map(declaration: Node | Relationship, per_layer: bool, skip: Sequence[str] = (), group: bool = False) -> str:
    """``{`key`: $Table.`key`[i], …}``: one row of the columns in the parameter named like the table.

    In a ``group``, which is of one run, run and tokenizer are one parameter each, and chains are places in the list of the
    group's chains.
    """
    table = declaration.label if isinstance(declaration, Node) else declaration.name
    keys = [_name(p.name) for p in properties_of(table, per_layer=per_layer) if p.name not in skip]
    values = {key: f"${_name(table)}.{key}[i]" for key in keys}
    if group:
        values |= {key: f"${key.strip('`')}" for key in ("`run`", "`tokenizer`") if key in values}
        values |= {key: f"$Chain.id[{values[key]}]" for key in ("`chain`",) if key in values}
    return "{" + ", ".join(f"{key}: {value}" for key, value in values.items()) + "}"


def _list(label: str) -> str:
    """Name of the variable that holds a group's nodes of this label."""
    return _name(f"{label}_list")


def _create_group(steps_exist: bool, tokens_exist: bool, per_layer: bool) -> str:
    """One statement that writes a group of (chain, run) pairs.

    Nodes that exist are matched by id, the others created; either way they become lists, and the columns ``start`` and
    ``end`` of the relationships are places in these lists. The chains themselves are there (and locked) already. A chain that
    is there may learn of its family from a later run.
    """
    parts = []
    exist = {**dict.fromkeys(("Chain", *SHARED_NODES), True), "Step": steps_exist, "Token": tokens_exist}
    for label, there in exist.items():
        table = _name(label)
        rows = f"UNWIND range(0, $counts.{table} - 1) AS i"
        one = (
            f"MATCH (n:{table} {{id: ${table}.id[i]}})"
            if there
            else f"CREATE (n:{table} {_map(NODE[label], False, (), True)})"
        )
        # rows arrive in the order of i; the sort makes that a promise instead of an observation
        parts.append(f"CALL () {{ {rows} {one} WITH n, i ORDER BY i RETURN collect(n) AS {_list(label)} }}")
    written = list(MEASURED)
    if not tokens_exist:
        written.insert(0, "FIRST")
    if not steps_exist:
        written = ["FROM", "HAS_STEP", "NEXT_STEP", *written]
    for name in ("IN_FAMILY", *written):
        r = RELATIONSHIP[name]
        table = _name(name)
        body = _map(r, per_layer, group=True) if r.properties else ""
        if name == "MEASURED":
            body = body[:-1] + f", {_name(LOADED)}: true}}"
        scope = ", ".join(dict.fromkeys((_list(r.start), _list(r.end))))
        parts.append(
            f"CALL ({scope}) {{ UNWIND range(0, $counts.{table} - 1) AS i "
            f"WITH {_list(r.start)}[${table}.start[i]] AS a, {_list(r.end)}[${table}.end[i]] AS b, i "
            f"{WRITES[name]} (a)-[:{_name(r.type)} {body}]->(b) }}"
        )
    return "\n".join([*parts, "RETURN 1"])


def _merge_nodes(node: Node) -> str:
    """Rows of a label, written over what is there."""
    table = _name(node.label)
    return (
        f"UNWIND range(0, $counts.{table} - 1) AS i MERGE (n:{table} {{id: ${table}.id[i]}}) "
        f"SET n += {_map(node, False, ('id',))}"
    )


def _merge_relationships(r: Relationship, per_layer: bool) -> str:
    """Rows of a relationship, written over what is there; the ends are looked up. Returns how many rows found both ends."""
    table = _name(r.name)
    key = ", ".join(f"{_name(k)}: ${table}.{_name(k)}[i]" for k in r.key)
    rest = f"SET x += {_map(r, per_layer, r.key)}" if len(r.properties) > len(r.key) else ""
    ends = [f"MATCH ({n}:{_name(label)} {{id: ${table}.{e}[i]}})" for n, label, e in _ends(r)]
    return (
        f"UNWIND range(0, $counts.{table} - 1) AS i {' '.join(ends)} "
        f"MERGE (a)-[x:{_name(r.type)} {{{key}}}]->(b) {rest} RETURN count(*) AS n"
    )


def _ends(r: Relationship) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    return ("a", r.start, "`start`"), ("b", r.end, "`end`")


def _other_run_check() -> str:
    """What is there of chains that another run has measured. ``tokenized``: whether tokens of this tokenizer are there.
    ``measured``: whether any relationship of this run is there. ``borders``: place, start and end of every step.
    """
    parts = []
    for name in MEASURED:
        r = RELATIONSHIP[name]
        tail = f"-[:{_name(r.type)} {{run: $run}}]->(:{_name(r.end)})"
        if r.start == "Chain":
            parts.append(f"EXISTS {{ (c){tail} }}")
        else:
            start = _name(r.start)
            parts.append(f"EXISTS {{ MATCH (s:{start} {{chain: c.id}}){tail} USING INDEX SEEK s:{start}(chain) }}")
    measured = " OR ".join(parts)
    return (
        "UNWIND $ids AS id MATCH (c:Chain {id: id}) RETURN c.id AS id, "
        "EXISTS { MATCH (t:Token {chain: c.id}) USING INDEX SEEK t:Token(chain) WHERE t.id STARTS WITH c.id + $tokenizer } "
        f"AS tokenized, {measured} AS measured, COLLECT {{ MATCH (s:Step {{chain: c.id}}) USING INDEX SEEK s:Step(chain) "
        "RETURN [s.index, s.start, s.`end`] } AS borders"
    )


LOCK_CHAINS = (
    "UNWIND range(0, $counts.Chain - 1) AS i MERGE (n:Chain {id: $Chain.id[i]}) "
    f"SET n += {_map(NODE['Chain'], False, ('id',))}"
)
# what is there of each chain of a group: runs that are whole, with their tokenizers, and anything that a first load would
# create. The hints matter: planned while the graph is small, the checks would scan an index and go on doing so
FRESH_CHECK = (
    "UNWIND $ids AS id MATCH (c:Chain {id: id}) RETURN c.id AS id, "
    f"[(c)-[m:MEASURED]->(r:Run) WHERE m.{_name(LOADED)} | [r.id, r.tokenizer]] AS runs, EXISTS {{ (c)--() }} "
    "OR EXISTS { MATCH (s:Step {chain: c.id}) USING INDEX SEEK s:Step(chain) } "
    "OR EXISTS { MATCH (t:Token {chain: c.id}) USING INDEX SEEK t:Token(chain) } AS begun"
)
OTHER_RUN_CHECK = _other_run_check()
CREATE_GROUP = {
    (steps, tokens, per_layer): _create_group(steps, tokens, per_layer)
    for steps, tokens in ((False, False), (True, False), (True, True))
    for per_layer in (False, True)
}
MERGE_NODES = {node.label: _merge_nodes(node) for node in NODES}
MERGE_RELATIONSHIPS = {
    (r.name, per_layer): _merge_relationships(r, per_layer) for r in RELATIONSHIPS for per_layer in (False, True)
}
MARK_LOADED = (
    "UNWIND $pairs AS pair MATCH (c:Chain {id: pair[0]})-[m:MEASURED {run: pair[1]}]->(:Run) "
    f"SET m.{_name(LOADED)} = true RETURN count(*) AS n"
)
LOADED_PAIRS = (
    f"MATCH (c:Chain)-[m:MEASURED]->(r:Run) WHERE m.{_name(LOADED)} RETURN r.id AS run, collect(c.id) AS chains"
)
CONSTRAINTS = {
    node.label: f"CREATE CONSTRAINT {_name(f'trails_{node.label}_id')} IF NOT EXISTS FOR (n:{_name(node.label)}) "
    "REQUIRE n.id IS UNIQUE"
    for node in NODES
}
ID_INDEXES = {
    node.label: f"CREATE INDEX {_name(f'trails_{node.label}_id_index')} IF NOT EXISTS FOR (n:{_name(node.label)}) ON (n.id)"
    for node in NODES
}
"""Where nodes of somebody else share the label and forbid the constraint."""
INDEXES = tuple(
    f"CREATE INDEX {_name(f'trails_{node.label}_{p.name}')} IF NOT EXISTS FOR (n:{_name(node.label)}) ON (n.{_name(p.name)})"
    for node in NODES
    for p in node.properties
    if p.indexed and p.name != "id"
) + tuple(
    f"CREATE INDEX {_name(f'trails_{r.name}_{p.name}')} IF NOT EXISTS FOR ()-[r:{_name(r.type)}]-() ON (r.{_name(p.name)})"
    for r in RELATIONSHIPS
    for p in r.properties
    if p.indexed
)


def _more_index(index: Index) -> str:
    """The statement that makes an index of :data:`trails.schema.MORE_INDEXES`."""
    name = _name("_".join(("trails", index.kind, index.on, *index.properties)))
    target = f"(x:{_name(index.on)})" if index.on in NODE else f"()-[x:{_name(index.on)}]-()"
    properties = ", ".join(f"x.{_name(property_)}" for property_ in index.properties)
    on = f"EACH [{properties}]" if index.kind == "fulltext" else f"({properties})"
    return f"CREATE {index.kind.upper()} INDEX {name} IF NOT EXISTS FOR {target} ON {on}"


MORE_INDEXES = tuple(map(_more_index, schema.MORE_INDEXES))
READ_FORMAT = f"MATCH (s:{_name(STORE_LABEL)}) RETURN max(s.format) AS format"
WRITE_FORMAT = f"MERGE (s:{_name(STORE_LABEL)} {{id: 'trails'}}) SET s.format = $format"
COUNT_NODES = {node.label: f"MATCH (n:{_name(node.label)}) RETURN count(n) AS n" for node in NODES}


def _count(r: Relationship) -> str:
    """How many there are. One end is without a label, because the server answers such a count from its statistics; a type that
    leads from one label to several has both.
    """
    several = sum((other.type, other.start) == (r.type, r.start) for other in RELATIONSHIPS) > 1
    if several:
        return f"MATCH (:{_name(r.start)})-[r:{_name(r.type)}]->(:{_name(r.end)}) RETURN count(r) AS n"
    return f"MATCH (:{_name(r.start)})-[r:{_name(r.type)}]->() RETURN count(r) AS n"


COUNT_RELATIONSHIPS = {r.name: _count(r) for r in RELATIONSHIPS}
_CHAIN_KEY = {"Chain": "id", "Step": "chain", "Token": "chain"}


def _read_nodes(node: Node, of_chains: bool) -> str:
    """Every row of a label; with ``of_chains`` those of the chains in ``$ids``."""
    columns = ", ".join(f"n.{_name(p.name)} AS {_name(p.name)}" for p in properties_of(node.label))
    match = f"MATCH (n:{_name(node.label)})"
    if of_chains:
        match = f"UNWIND $ids AS id MATCH (n:{_name(node.label)} {{{_name(_CHAIN_KEY[node.label])}: id}})"
    return f"{match} RETURN {columns}"


def _read_relationships(r: Relationship, per_layer: bool, of_chains: bool) -> str:
    """Every row of a relationship; with ``of_chains`` those that begin at the chains in ``$ids`` or at what is part of them."""
    columns = ", ".join(
        ["a.id AS `start`", "b.id AS `end`"]
        + [f"r.{_name(p.name)} AS {_name(p.name)}" for p in properties_of(r.name, per_layer=per_layer)]
    )
    match = f"MATCH (a:{_name(r.start)})"
    if of_chains:
        match = f"UNWIND $ids AS id MATCH (a:{_name(r.start)} {{{_name(_CHAIN_KEY[r.start])}: id}})"
    return f"{match}-[r:{_name(r.type)}]->(b:{_name(r.end)}) RETURN {columns}"


READ_NODES = {
    (node.label, of_chains): _read_nodes(node, of_chains)
    for node in NODES
    for of_chains in ((False, True) if node.label in _CHAIN_KEY else (False,))
}
READ_RELATIONSHIPS = {
    (r.name, per_layer, of_chains): _read_relationships(r, per_layer, of_chains)
    for r in RELATIONSHIPS
    for per_layer in (False, True)
    for of_chains in ((False, True) if r.start in _CHAIN_KEY else (False,))
}
HAS_ARRAYS = "MATCH (:Token)-[r:NEXT]->() RETURN r.hidden_shift_by_layer IS NOT NULL AS arrays LIMIT 1"
DELETE_PARTS = tuple(
    # what trails writes has an id; a node of somebody else that bears the label stays
    f"UNWIND $ids AS id MATCH (n:{_name(node.label)} {{chain: id}}) WHERE n.id IS NOT NULL DETACH DELETE n"
    for node in NODES
    if any(p.name == "chain" for p in node.properties)
)
# a load locks its chains in the same way before it marks them as held
HELD_BY_NOBODY_ELSE = (
    "UNWIND $ids AS id MATCH (c:Chain {id: id}) SET c.id = c.id "
    "WITH c WHERE NOT EXISTS { (c)<-[:HOLDS]-(h:Home) WHERE h.id <> $home } RETURN c.id AS id"
)
DELETE_CHAINS = "UNWIND $ids AS id MATCH (n:Chain {id: id}) DETACH DELETE n"
UNMARK_CHAINS = "UNWIND $ids AS id MATCH (n:Chain {id: id})-[m:MEASURED]->() DELETE m"
CLEAR = tuple(
    f"MATCH (n:{_name(node.label)}) WHERE n.scope IN $ids CALL (n) {{ DETACH DELETE n }} IN TRANSACTIONS OF 5000 ROWS"
    for node in NODES
    if node.scoped
) + tuple(
    f"MATCH (:{_name(r.start)})-[r:{_name(r.type)}]->(:{_name(r.end)}) WHERE r.scope IN $ids "
    "CALL (r) { DELETE r } IN TRANSACTIONS OF 5000 ROWS"
    for r in RELATIONSHIPS
    if r.scoped
)
HTTP_ADDRESS = "SHOW SETTINGS 'server.http.listen_address' YIELD value RETURN value"
# nodes of somebody else may bear these labels
HELD_PAIRS = (
    "MATCH (h:Home)-[r:HOLDS]->(c:Chain) WHERE h.id IS NOT NULL AND r.run IS NOT NULL "
    "RETURN h.id AS home, r.run AS run, collect(c.id) AS chains"
)
# the chain is locked, so nobody else writes this relationship meanwhile; seen from the home it is one of very many
HOLD = (
    "UNWIND $holds AS pair MATCH (c:Chain {id: pair[1]}), (h:Home {id: pair[0]}) "
    "WHERE NOT EXISTS { (c)<-[:HOLDS {run: $run}]-(h) } CREATE (h)-[:HOLDS {run: $run}]->(c)"
)
UPGRADE = (
    "MATCH (t:Token) WHERE t.tokenizer IS NULL AND t.id IS NOT NULL "
    "CALL (t) { SET t.tokenizer = split(t.id, ':')[1] } IN TRANSACTIONS OF 5000 ROWS",
    "MATCH (:Step)-[f:FIRST]->(t:Token) WHERE f.tokenizer IS NULL "
    "CALL (f, t) { SET f.tokenizer = t.tokenizer } IN TRANSACTIONS OF 5000 ROWS",
    "MATCH (a:Step)-[:LEADS_TO]->(b:Step) WITH DISTINCT a, b "
    "CALL (a, b) { MERGE (a)-[:NEXT_STEP]->(b) } IN TRANSACTIONS OF 5000 ROWS",
)
"""From format 1 to 2, for the chains of homes that are not here to be loaded again."""
