"""What Neo4j Browser needs to be a home for trails: favourites, a style sheet, a guide, and the address that opens it.

The Browser styles by label and relationship type only, never by a property: a step's role is its caption, and its colour once
it is a label, too (docs/neo4j.md).

The favourites are the files of ``cypher/``, each with ``:param`` lines whose values exist in the user's home. They travel
as a zip file, which Neo4j Browser takes when it is dropped on its window; so does the style sheet.
"""

from __future__ import annotations

import html
import json
import re
import zipfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from trails.errors import StoreError
from trails.platform.files import write_atomic
from trails.schema import Role, Run
from trails.store.dashboard import dashboard
from trails.store.queries import NamedQuery, Parameter, named_queries
from trails.store.resolve import measured_runs, run_of, tell_default
from trails.store.traces import TraceStore

FAVOURITES = "trails-favourites.zip"
STYLE = "trails.grass"
GUIDE = "trails-guide.html"
DASHBOARD = "trails-neodash.json"
BROWSER_PORT = 7474
NODE_COLOURS = {
    "Home": ("#8a6d3b", "{name}", 70),
    "Chain": ("#4c566a", "{source} {source_id}", 110),
    "Family": ("#7a5c99", "{name}", 60),
    "Step": ("#2f7ed8", "{index} {role} {text}", 100),
    "Token": ("#5f8c12", "{piece}", 60),
    "Run": ("#707070", "{model}", 80),
    "Source": ("#8a8a8a", "{name}", 70),
    "State": ("#c2601a", "{text}", 80),
    "Overlap": ("#910000", "{text}", 90),
    "Gap": ("#d62728", "gap before step {step}", 70),
    "Variant": ("#0e8a98", "{kind} {detail}", 90),
    "TrailsStore": ("#e0e0e0", "trails", 30),
}
RELATIONSHIP_STYLES = {
    "NEXT": ("#5f8c12", 3, "{surprisal}"),
    "BEGINS": ("#5f8c12", 3, "{surprisal}"),
    "NEXT_STEP": ("#2f7ed8", 4, ""),
    "LEADS_TO": ("#9ec4ee", 1, ""),
    "ATTENDS_TO": ("#f2b84b", 3, ""),
    "HAS_STEP": ("#c8ccd4", 1, ""),
    "HOLDS": ("#8a6d3b", 1, ""),
    "MEASURED": ("#a0a0a0", 1, ""),
    "FROM": ("#c0c0c0", 1, ""),
    "IN_FAMILY": ("#7a5c99", 2, ""),
    "BEFORE": ("#d62728", 3, ""),
    "TRAIL": ("#c2601a", 3, "{count}"),
    "IN": ("#910000", 2, ""),
    "AT": ("#c2601a", 2, ""),
    "SIMILAR": ("#9467bd", 2, "{cosine}"),
    "VARIANT_OF": ("#0e8a98", 2, "{logit_drift}"),
}
FONT = 12
"""Size of captions. The Browser shrinks a picture until it fits its frame, so what is readable depends on how many nodes
there are: about twenty at this size.
"""
ROLE_COLOURS = {
    Role.IF: "#1f5fa8",
    Role.WHEN: "#4a90c2",
    Role.UNLESS: "#6a51a3",
    Role.THEN: "#2ca25f",
    Role.THEREFORE: "#006d2c",
    Role.BECAUSE: "#b8860b",
    Role.BUT: "#cb181d",
    Role.HOWEVER: "#ef6548",
    Role.AND: "#5f7f8c",
    Role.OR: "#8c6bb1",
    Role.NEXT: "#41a6a6",
    Role.PURPOSE: "#9c7a1d",
    Role.EXAMPLE: "#dd8452",
    Role.RESTATE: "#937860",
    Role.QUESTION: "#c2569b",
    Role.ANSWER: "#222222",
    Role.NONE: "#9a9a9a",
}
ROLE_LABELS = (
    "MATCH (s:Step) WHERE s.chain IS NOT NULL SET s:$('Role' + left(s.role, 1) + toLower(substring(s.role, 1)))"
)
"""Gives every step its role as a second label (``RoleIf``), because the Browser colours by label only. Whatever reads the graph
asks for the label Step and sees no difference.
"""
_LABELS = ":".join(f"Role{role.capitalize()}" for role in Role)
ROLE_LABELS_UNDO = f"MATCH (s:Step) REMOVE s:{_LABELS}"
SETTINGS = ":config autoComplete: false"
"""What stops the Browser from drawing relationships between the nodes of a picture that the picture leaves out."""


def values_of(traces: TraceStore, run: str | None = None) -> dict[str, Any]:
    """Values for the parameters of the named queries from a home: a run, a chain of it, another run of the same chains, the
    home. Empty for a home without chains.

    ``run`` names the run; without it that is the latest without an adapter or an intervention, since analyses and variants are
    of such a run unless one was named; the other one is the latest with the same tokens, one with an adapter first. The chain
    is one that has variants, where there are any, long enough to show something and short enough to read it at once.
    """
    measured = measured_runs(traces)
    by_age = sorted(
        measured, key=lambda run: ((traces.home / "runs" / f"{run}.json").stat().st_mtime_ns, run), reverse=True
    )
    if not by_age:
        return {}
    if run is None:
        run = next((name for name in by_age if not _is_change(measured[name])), by_age[0])
        tell_default(measured[run], measured, "the latest that is not a training or an intervention", "--run ID")
    else:
        run = run_of(measured, run).id
    others = [name for name in by_age if name != run and measured[name].tokenizer == measured[run].tokenizer]
    other = next((name for name in others if measured[name].adapter), others[0] if others else None)
    again = traces.done(other) if other else set()
    varied = _varied(traces, run)
    sizes: dict[str, int] = {}
    for table in traces.tables(["chain", "steps"], run, rows=10_000):
        sizes |= {row["chain"]: len(row["steps"]) for row in table.to_pylist()}
    order = sorted(
        sizes, key=lambda chain: (chain not in varied, chain not in again, sizes[chain] > 12, -sizes[chain], chain)
    )
    chain, second = order[0], order[min(1, len(order) - 1)]
    found = {"run": run, "home": traces.identity().id, "chain": chain, "first": chain, "second": second}
    found["step"] = f"{chain}:{min(1, sizes[chain] - 1)}"
    if other:
        earlier = not _is_change(measured[other]) and by_age.index(other) > by_age.index(run)
        found["before"], found["after"] = (other, run) if earlier else (run, other)
    return found


def _is_change(run: Run) -> bool:
    return bool(run.adapter or run.intervention)


def _varied(traces: TraceStore, run: str) -> set[str]:
    """Chains with variants that a run measured and the home keeps. A damaged file counts for nothing: what loads it says so."""
    found: set[str] = set()
    for path in sorted((traces.home / "variants").glob("v*.parquet")):
        try:
            rows = pq.read_table(path, columns=["run", "metadata"]).to_pylist()
        except (OSError, pa.ArrowException):
            continue
        found |= {dict(row["metadata"]).get("parent", "") for row in rows if row["run"] == run}
    return found


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _value(parameter: Parameter, values: Mapping[str, Any]) -> Any:
    wanted = values.get(parameter.name)
    return parameter.example if wanted is None else wanted


def favourite(query: NamedQuery, values: Mapping[str, Any] | None = None) -> str:
    """One query as the Browser keeps it: title, what it answers, ``:param`` lines, the statement. ``values`` are those of
    :func:`values_of`; without them the values are those of the packaged sample.
    """
    lines = [f"// {query.title}", f"// {query.description}"]
    for parameter in query.parameters:
        lines.append(f":param {parameter.name} => {_literal(_value(parameter, values or {}))};")
    return "\n".join([*lines, query.statement.strip().rstrip(";") + ";"]) + "\n"


def inlined(query: NamedQuery, values: Mapping[str, Any] | None = None) -> str:
    """The statement with the values of its parameters in it: what a click can run."""
    given = {parameter.name: _literal(_value(parameter, values or {})) for parameter in query.parameters}
    return re.sub(r"\$(\w+)", lambda found: given[found[1]], query.statement.strip().rstrip(";"))


def style_sheet() -> str:
    """The style sheet in the Browser's own language (GraSS), from the tables above."""
    parts = ["node { diameter: 50px; color: #a5abb6; text-color-internal: #ffffff; font-size: 10px; }"]
    for label, (colour, caption, size) in NODE_COLOURS.items():
        parts.append(
            f"node.{label} {{\n  diameter: {size}px;\n  color: {colour};\n  border-color: {colour};\n  border-width: 2px;\n"
            f'  text-color-internal: #ffffff;\n  font-size: {FONT}px;\n  caption: "{caption}";\n}}'
        )
    # later rules win: a step that has its role as a label takes the role's colour; a rule without a caption shows an id
    parts += [
        f"node.Role{role.capitalize()} {{\n  diameter: {NODE_COLOURS['Step'][2]}px;\n  color: {colour};\n"
        f"  border-color: {colour};\n  text-color-internal: #ffffff;\n  font-size: {FONT}px;\n"
        f'  caption: "{NODE_COLOURS["Step"][1]}";\n}}'
        for role, colour in ROLE_COLOURS.items()
    ]
    parts.append(
        "relationship { color: #a5abb6; shaft-width: 1px; font-size: 8px; padding: 3px; text-color-external: #000000; "
        'text-color-internal: #ffffff; caption: "<type>"; }'
    )
    for kind, (colour, width, caption) in RELATIONSHIP_STYLES.items():
        parts.append(
            f"relationship.{kind} {{\n  color: {colour};\n  border-color: {colour};\n  shaft-width: {width}px;\n"
            f"  font-size: {FONT}px;\n  padding: 3px;\n  text-color-external: #000000;\n  text-color-internal: #ffffff;\n"
            f'  caption: "{caption}";\n}}'
        )
    return "\n".join(parts) + "\n"


def is_picture(query: NamedQuery) -> bool:
    """Whether the query returns a picture: nodes and relationships."""
    return any(column.type in ("node", "path") for column in query.columns)


def guide(queries: Mapping[str, NamedQuery], values: Mapping[str, Any] | None = None) -> str:
    """A page for the Browser (``:play``) whose statements run by a click, with the values of a home in them. It is HTML without
    scripts, and can be read in any browser, too.
    """

    def slide(title: str, inner: str) -> str:
        return f'<slide class="row-fluid"><h3>{html.escape(title)}</h3>{inner}</slide>'

    def runnable(statement: str) -> str:
        return f'<figure><pre class="pre-scrollable code runnable">{html.escape(statement)}</pre></figure>'

    pictures = {name: query for name, query in queries.items() if is_picture(query)}
    tables = {name: query for name, query in queries.items() if not is_picture(query)}
    slides = [
        slide(
            "Trails in Neo4j Browser",
            "<p>Click a statement to run it. Run this first, so that the Browser draws what a picture asks for and no other "
            f"relationships:</p>{runnable(SETTINGS)}"
            "<p><b>The Browser connects in write mode.</b> A statement with CREATE, SET or DELETE changes the graph; "
            "<code>trails rebuild --repair --store neo4j</code> writes again what differs from the shards.</p>"
            "<p>Blue nodes are steps, captioned with their place, role and first words; a blue arrow leads to the next step, a "
            "yellow one to an earlier step that it looks at. Green nodes are tokens; the number on a green arrow is the "
            "surprisal of the token that it leads to, in nats. Orange nodes are states: the same last tokens in different "
            "chains.</p>",
        )
    ]
    for name, query in pictures.items():
        said = f"<p>{html.escape(query.description)} (<code>{html.escape(name)}</code>)</p>"
        slides.append(slide(query.title, said + runnable(inlined(query, values))))
    rows = "".join(
        f"<p><b>{html.escape(query.title)}</b> (<code>{html.escape(name)}</code>). {html.escape(query.description)}</p>"
        f"{runnable(inlined(query, values))}"
        for name, query in tables.items()
    )
    slides.append(slide("Tables", rows))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Trails in Neo4j Browser</title></head><body>\n'
        '<article class="guide"><carousel class="deck container-fluid">' + "\n".join(slides) + "</carousel></article>\n"
        "</body></html>\n"
    )


def serve(page: str, port: int = 0) -> ThreadingHTTPServer:
    """A server on the loopback interface that answers every address with the page, to a Browser from any address (it holds no
    more than the graph that the Browser shows). Not started: the caller runs ``serve_forever``.
    """
    data = page.encode("utf-8")

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(data)

        def do_HEAD(self) -> None:
            self._answer(b"")

        def do_OPTIONS(self) -> None:
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Access-Control-Allow-Origin", "*")
            self.send_header("Access-Control-Allow-Private-Network", "true")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Nothing is said of requests."""

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Page)
    except OSError as error:
        raise StoreError(f"port {port} of 127.0.0.1 cannot be used ({error.strerror}); choose another") from None


def save_files(folder: Path, values: Mapping[str, Any] | None = None) -> list[Path]:
    """Write favourites, style sheet, guide and a dashboard for NeoDash into a folder, with the values of a home; return their
    paths. Raises StoreError if that fails.
    """
    queries = named_queries()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / FAVOURITES, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, query in queries.items():
                # a fixed time: the same queries give the same file
                archive.writestr(
                    zipfile.ZipInfo(f"trails/{name}.cypher", (2020, 1, 1, 0, 0, 0)), favourite(query, values)
                )
        write_atomic(folder / STYLE, style_sheet())
        write_atomic(folder / GUIDE, guide(queries, values))
        write_atomic(folder / DASHBOARD, dashboard(queries, values))
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}") from None
    return [folder / name for name in (FAVOURITES, STYLE, GUIDE, DASHBOARD)]


def browser_address(uri: str, username: str, port: int = BROWSER_PORT) -> str:
    """Address of Neo4j Browser on the server behind a Bolt address, with the connection filled in (never the password)."""
    parts = urlsplit(uri)
    host = parts.hostname or "localhost"
    shown = f"[{host}]" if ":" in host else host
    scheme = "bolt" if parts.scheme not in ("neo4j", "bolt", "neo4j+s", "bolt+s") else parts.scheme
    dbms = f"{scheme}://{username}@{shown}:{parts.port or 7687}"
    return f"http://{shown}:{port}/browser/?dbms={quote(dbms, safe=':/@+[]')}"
