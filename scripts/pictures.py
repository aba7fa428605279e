"""Take the pictures of the documentation from the present build, and write them over those of docs/images.

    python scripts/pictures.py                     every picture; makes the home that it shows, which takes minutes
    python scripts/pictures.py --home HOME NAME…   these pictures, of a home that an earlier call made

The home is made by the lines of docs/five-questions.md. Needs what the tests need: a JDK and Maven for Neo4j, Node.js and
Chromium. The window is 1,400 x 900; a picture of Neo4j Browser is one frame of it, with the style sheet of ``trails browser
--save``. Look at each before it is committed: a layout differs from call to call.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.browser.test_neo4j_browser import drive
from tests.neo4j.servers import own

from trails.store.browser import ROLE_LABELS, SETTINGS, STYLE, browser_address, inlined, save_files, values_of
from trails.store.queries import named_queries
from trails.store.traces import TraceStore

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
PAGE = ROOT / "docs" / "five-questions.md"
BROWSER = {
    "browser-chain-graph": "chain-graph",
    "browser-surprise-graph": "surprise-graph",
    "browser-most-surprising-in-chain": "most-surprising-in-chain",
    "browser-surprisal-by-role": "surprisal-by-role",
    "browser-overlap-graph": "overlap-graph",
    "browser-map-graph": "map-graph",
    "browser-gap-graph": "gap-graph",
    "browser-gaps-top": "gaps-top",
    "browser-change-graph": "change-graph",
    "browser-moved-by-source": "moved-by-source",
    "browser-variants-graph": "variants-graph",
    # the last: its steps have their roles as labels
    "browser-roles": "chain-graph",
}
"""Pictures of Neo4j Browser by name, and the named query that each shows."""


def lines() -> list[list[str]]:
    """The commands of the page that make the home and load it, without ``trails`` before them."""
    found = re.findall(r"^trails (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line) for line in found if not line.startswith("browser")]


def run_lines(work: Path, home: Path, server: str, *, load_only: bool) -> None:
    """Run the commands of the page in a folder. ``load_only`` leaves out those that measure or train."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NEO4J_", "TRAILS_"))}
    environment |= {"NEO4J_URI": server, "PYTHONPATH": str(ROOT / "src")}
    for line in lines():
        if load_only and "--store" not in line:
            continue
        sys.stderr.write(f"$ trails {shlex.join(line)}\n")
        command = [sys.executable, "-m", "trails", *line, "--home", str(home)]
        subprocess.run(
            command, cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True
        )


def take_browser(names: Sequence[str], home: Path, to: Path, work: Path, *, made: bool, settle: int) -> None:
    """Pictures of Neo4j Browser on a server of its own, which holds the home. ``made`` says that the home is there."""
    queries = named_queries()
    with own("LTS") as server:
        run_lines(work, home, server.uri, load_only=made)
        with TraceStore(home) as traces:
            values = values_of(traces)
        style = next(path for path in save_files(work / "browser-files", values) if path.name == STYLE)
        statements = [{"name": "settings", "text": SETTINGS}]
        for name in names:
            if name == "browser-roles":
                statements.append({"name": "labels", "text": ROLE_LABELS})
            statements.append({"name": name, "text": inlined(queries[BROWSER[name]], values)})
        port = int(server.browser.split(":")[2].split("/")[0])
        plan = {
            "address": browser_address(server.uri, "neo4j", port) + "&preselectAuthMethod=NO_AUTH",
            "files": [str(style)],
            "statements": statements,
            "pictures": str(work),
            "settle": settle,
        }
        seen = drive(plan, work)
    for name in names:
        shutil.copyfile(work / f"{name}.png", to / f"{name}.png")
        sys.stdout.write(f"{name}: {' '.join(seen['frames'][name].split())[-200:]}\n")


def main() -> int:
    """Take the pictures and print the end of what each shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"pictures; default: all: {', '.join(BROWSER)}")
    parser.add_argument("--home", type=Path, help="where the home is, or is to be made (default: made and deleted)")
    parser.add_argument("--to", type=Path, default=IMAGES, help="folder of the pictures (default: docs/images)")
    parser.add_argument("--settle", type=int, default=6000, help="milliseconds until a layout stands still")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(BROWSER)):
        parser.error(f"no picture {', '.join(unknown)}; there are: {', '.join(BROWSER)}")
    names = [name for name in BROWSER if name in options.names or not options.names]
    options.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        home = (options.home or work / "home").resolve()
        made = (home / "trails.json").exists()
        take_browser(names, home, options.to.resolve(), work, made=made, settle=options.settle)
    return 0


if __name__ == "__main__":
    sys.exit(main())
