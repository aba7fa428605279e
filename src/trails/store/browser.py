"""What Neo4j Browser needs to be a home for trails: favourites, a style sheet, a guide, and the address that opens it.

The Browser styles by label and relationship type only, never by a property: a step's role is its caption, and its colour once
it is a label, too (docs/neo4j.md).

The favourites are the files of ``cypher/``, each with ``:param`` lines whose values exist in the packaged sample. They travel
as a zip file, which Neo4j Browser takes when it is dropped on its window; so does the style sheet.
"""

from __future__ import annotations

import html
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from trails.errors import StoreError
from trails.schema import Role
from trails.store.queries import NamedQuery, named_queries

FAVOURITES = "trails-favourites.zip"
STYLE = "trails.grass"
GUIDE = "trails-guide.html"
BROWSER_PORT = 7474
NODE_COLOURS = {
    "Chain": ("#4c566a", "{id}", 70),
    "Step": ("#2f7ed8", "{role}", 60),
    "Token": ("#8bbc21", "{piece}", 50),
    "Run": ("#a0a0a0", "{model}", 50),
    "Source": ("#c0c0c0", "{name}", 50),
    "State": ("#f28f43", "{text}", 60),
    "Overlap": ("#910000", "{text}", 65),
    "Gap": ("#d62728", "gap {rank}", 60),
    "Variant": ("#17becf", "{kind}", 55),
    "TrailsStore": ("#e0e0e0", "trails", 30),
}
RELATIONSHIP_STYLES = {
    "NEXT": ("#8bbc21", 3, "{surprisal}"),
    "BEGINS": ("#8bbc21", 3, "{surprisal}"),
    "LEADS_TO": ("#2f7ed8", 4, "{roles}"),
    "ATTENDS_TO": ("#f2b84b", 2, ""),
    "HAS_STEP": ("#c8ccd4", 1, ""),
    "TRAIL": ("#f28f43", 3, "{count}"),
    "IN": ("#910000", 2, ""),
    "AT": ("#f28f43", 2, ""),
    "SIMILAR": ("#9467bd", 2, "{cosine}"),
}
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
ROLE_LABELS = "MATCH (s:Step) SET s:$(s.role)"
"""Gives every step its role as a second label, because the Browser colours by label only. For a person to type; whatever reads
the graph asks for the label Step and sees no difference."""


def favourite(query: NamedQuery) -> str:
    """One query as the Browser keeps it: title, what it answers, ``:param`` lines, the statement."""
    lines = [f"// {query.title}", f"// {query.description}"]
    for parameter in query.parameters:
        value = json.dumps(parameter.example, ensure_ascii=False)
        lines.append(f":param {parameter.name} => {value};")
    return "\n".join([*lines, query.statement.strip().rstrip(";") + ";"]) + "\n"


def style_sheet() -> str:
    """The style sheet in the Browser's own language (GraSS), from the tables above."""
    parts = ["node { diameter: 50px; color: #a5abb6; text-color-internal: #ffffff; font-size: 10px; }"]
    for label, (colour, caption, size) in NODE_COLOURS.items():
        parts.append(
            f"node.{label} {{\n  diameter: {size}px;\n  color: {colour};\n  border-color: {colour};\n  border-width: 2px;\n"
            f'  text-color-internal: #ffffff;\n  font-size: 10px;\n  caption: "{caption}";\n}}'
        )
    # later rules win: a step that has its role as a label takes the role's colour
    parts += [
        f"node.{role} {{\n  color: {colour};\n  border-color: {colour};\n}}" for role, colour in ROLE_COLOURS.items()
    ]
    parts.append(
        "relationship { color: #a5abb6; shaft-width: 1px; font-size: 8px; padding: 3px; text-color-external: #000000; "
        'text-color-internal: #ffffff; caption: "<type>"; }'
    )
    for kind, (colour, width, caption) in RELATIONSHIP_STYLES.items():
        parts.append(
            f"relationship.{kind} {{\n  color: {colour};\n  border-color: {colour};\n  shaft-width: {width}px;\n"
            f"  font-size: 8px;\n  padding: 3px;\n  text-color-external: #000000;\n  text-color-internal: #ffffff;\n"
            f'  caption: "{caption}";\n}}'
        )
    return "\n".join(parts) + "\n"


def guide(queries: Mapping[str, NamedQuery]) -> str:
    """A page that says how to read the pictures and lists the favourites."""
    rows = "".join(
        f"<tr><td><code>{html.escape(name)}</code></td><td><b>{html.escape(q.title)}</b><br>{html.escape(q.description)}</td></tr>"
        for name, q in queries.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>trails in Neo4j Browser</title>
<style>body{{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}td{{vertical-align:top;padding:.3em .6em}}
code{{background:#f0f0f0;padding:0 .2em}}</style></head><body>
<h1>Trails in Neo4j Browser</h1>
<ol>
<li>Drop <code>{FAVOURITES}</code> on the Browser's window: the folder <i>trails</i> appears under the star on the left.</li>
<li>Drop <code>{STYLE}</code> on it: captions and colours.</li>
<li>For steps in the colours of their roles, type <code>{html.escape(ROLE_LABELS)}</code> once: the Browser colours by label
only, so this makes each role a second label. Nothing else changes; take it back with
<code>MATCH (s:Step) REMOVE s:IF:THEN:BUT</code> and so on. Repeat it after loading more chains.</li>
<li>Click a favourite, change the <code>:param</code> lines, run it (Ctrl+Enter).</li>
</ol>
<p><b>The Browser connects in write mode.</b> A statement with CREATE, SET or DELETE changes the graph.
<code>trails rebuild --store neo4j --fresh</code> makes it again from the shards.</p>
<h2>What the picture shows</h2>
<p>A blue node is a step, captioned with its role; a thick blue arrow leads to the next step. A yellow arrow goes from a
later step to an earlier one that it attends to; click it for the attention mass (mean over layers and heads, and per layer).
The Browser also draws relationships that the query left out: switch off <i>Connect result nodes</i> in its settings. Green
nodes are tokens; the number on a green arrow is the surprisal of the token it points at, in nats. Orange nodes are states:
the same last tokens in different chains. Results are limited; raise <code>limit</code> when you need more; the Browser draws
300 nodes at first.</p>
<h2>Favourites</h2><table>{rows}</table></body></html>
"""


def save_files(folder: Path) -> list[Path]:
    """Write favourites, style sheet and guide into a folder; return their paths. Raises StoreError if that fails."""
    queries = named_queries()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / FAVOURITES, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, query in queries.items():
                # a fixed time: the same queries give the same file
                archive.writestr(zipfile.ZipInfo(f"trails/{name}.cypher", (2020, 1, 1, 0, 0, 0)), favourite(query))
        (folder / STYLE).write_text(style_sheet(), encoding="utf-8")
        (folder / GUIDE).write_text(guide(queries), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}") from None
    return [folder / name for name in (FAVOURITES, STYLE, GUIDE)]


def browser_address(uri: str, username: str, port: int = BROWSER_PORT) -> str:
    """Address of Neo4j Browser on the server behind a Bolt address, with the connection filled in (never the password)."""
    parts = urlsplit(uri)
    host = parts.hostname or "localhost"
    shown = f"[{host}]" if ":" in host else host
    scheme = "bolt" if parts.scheme not in ("neo4j", "bolt", "neo4j+s", "bolt+s") else parts.scheme
    dbms = f"{scheme}://{username}@{shown}:{parts.port or 7687}"
    return f"http://{shown}:{port}/browser/?dbms={quote(dbms, safe=':/@+[]')}"
