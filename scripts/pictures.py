"""Take every picture of the library in a running Neo4j Browser, as docs/five-questions.md shows them.

    python scripts/pictures.py FOLDER [--home HOME] [--only NAME,NAME]

Needs a server that NEO4J_URI names, without a password, with the home and its analyses loaded; Node.js and Chromium. The window
is 1,400 x 900; every picture is one frame of the Browser, with the style sheet of ``trails browser --save``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.browser.test_neo4j_browser import drive

from trails.config import load_settings
from trails.store.browser import (
    ROLE_LABELS,
    ROLE_LABELS_UNDO,
    SETTINGS,
    STYLE,
    browser_address,
    inlined,
    is_picture,
    save_files,
    values_of,
)
from trails.store.neo4j import open_neo4j
from trails.store.queries import named_queries
from trails.store.traces import TraceStore


def main() -> int:
    """Take the pictures and print what each frame says of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--home", type=Path)
    parser.add_argument(
        "--only", default="", help="names of pictures or tables, joined by commas; default: every picture"
    )
    parser.add_argument("--settle", type=int, default=6000, help="milliseconds until a layout stands still")
    parser.add_argument(
        "--role-labels", action="store_true", help="steps in the colours of their roles, for these pictures"
    )
    options = parser.parse_args()
    settings = load_settings(home=options.home)
    with TraceStore(settings.home) as traces:
        values: dict[str, Any] = values_of(traces)
    with open_neo4j(settings) as graph:
        port = graph.browser_port()
    queries = named_queries()
    names = options.only.split(",") if options.only else [name for name, query in queries.items() if is_picture(query)]
    address = browser_address(settings.neo4j_uri or "bolt://localhost:7687", settings.neo4j_username, port or 7474)
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        files = save_files(Path(temporary), values)
        plan = {
            "address": f"{address}&preselectAuthMethod=NO_AUTH",
            "files": [str(path) for path in files if path.name == STYLE],
            "statements": [
                {"name": "settings", "text": SETTINGS},
                *([{"name": "role-labels", "text": ROLE_LABELS}] if options.role_labels else []),
                *({"name": name, "text": inlined(queries[name], values)} for name in names),
                *([{"name": "no-role-labels", "text": ROLE_LABELS_UNDO}] if options.role_labels else []),
            ],
            "pictures": str(options.folder),
            "settle": options.settle,
        }
        seen = drive(plan, Path(temporary))
    for name in names:
        sys.stdout.write(f"{name}: {' '.join(seen['frames'][name].split())[:300]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
