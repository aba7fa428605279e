"""Take the pictures of the documentation from the present build, and write them over those of docs/images.

    python scripts/pictures.py                     every picture; makes the home that it shows, which takes minutes
    python scripts/pictures.py --home HOME NAME…   these pictures, of a home that an earlier call made
    python scripts/pictures.py --report-home HOME report-chain report-map

Pictures of Neo4j Browser (``browser-…``) show the home that the lines of docs/five-questions.md make. The window is 1,400 x
900; a picture is one frame of it, with the style sheet of ``trails browser --save``. Look at each before it is committed: a
layout differs from call to call. Pictures of the report (``report-…``) show the packaged sample after ``trails gaps
--calibrate``, or the texts of docs/thoughts, in the light theme, and are the same at every call on one machine. Needs what the
tests need: Node.js, Chromium, and for the Browser a JDK and Maven. Ends with 1 where a caption, the line in italics below a
picture, has a figure that its picture does not show.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.browser.test_neo4j_browser import drive
from tests.docs.blocks import PAGES, ROOT
from tests.docs.test_limits_page import figures
from tests.neo4j.servers import own
from tests.report.test_report import look

from trails.pipeline import Home
from trails.pipeline.stellate import SOURCE
from trails.store.browser import ROLE_LABELS, SETTINGS, STYLE, browser_address, inlined, save_files, values_of
from trails.store.queries import named_queries
from trails.store.traces import TraceStore

IMAGES = ROOT / "docs" / "images"
PAGE = ROOT / "docs" / "five-questions.md"
THOUGHTS = ROOT / "docs" / "thoughts"
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


class Page(NamedTuple):
    """A page of a report of some selections (none: all chains), and a token that the mouse points at. ``thoughts`` says that it
    is of the texts in docs/thoughts, not of the sample."""

    address: str
    size: tuple[int, int]
    hover: str = ""
    selections: tuple[str, ...] = ()
    thoughts: bool = False


REPORT = {
    "report-chain": Page("chain/cf159b6b3909ce9a3", (1400, 1000), " easy"),
    "report-map": Page("map", (1400, 880), selections=("source:trails/canonical",)),
    "report-ferry": Page("chain/c14e45047e64ad451", (1400, 1000), thoughts=True),
    "report-clock": Page("chain/cd7fb671a2347229a", (1400, 1000), thoughts=True),
}
"""Pictures of the report by name."""


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


def take_report(names: Sequence[str], home: Path, to: Path, work: Path, *, thoughts: bool = False) -> dict[str, str]:
    """Pictures of the report, and the text of each page. The home is made where it is missing: the sample, or the thoughts, as
    ``trails stellate`` measures them.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NEO4J_", "TRAILS_"))}
    environment |= {"PYTHONPATH": str(ROOT / "src")}
    if not (home / "trails.json").exists():
        for line in [["ingest", "--sample"], ["gaps", "--calibrate"]] if not thoughts else [thoughts_line(work)]:
            sys.stderr.write(f"$ trails {shlex.join(line)}\n")
            command = [sys.executable, "-m", "trails", *line, "--home", str(home)]
            subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    texts: dict[str, str] = {}
    with Home(home, store="embedded") as opened:
        for selections in dict.fromkeys(REPORT[name].selections for name in names):
            file = work / "report.html"
            opened.write_report(*selections, to=file, overwrite=True)
            plan = {
                name: {"hash": page.address, "size": page.size, "hover": page.hover}
                for name in names
                if (page := REPORT[name]).selections == selections
            }
            texts |= look(file, pictures=plan, folder=str(to))["pictures"]
    return texts


def thoughts_line(work: Path) -> list[str]:
    """The command that measures the texts of docs/thoughts, each as the chain that a loop makes of it."""
    file = work / "thoughts.jsonl"
    texts = [path.read_text(encoding="utf-8").strip() for path in sorted(THOUGHTS.glob("*.txt"))]
    rows = [{"id": sha256(text.encode()).hexdigest()[:12], "text": text} for text in texts]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return ["ingest", str(file), "--source", SOURCE]


def stale(name: str, text: str, pages: Iterable[Path] = PAGES) -> list[str]:
    """Figures of the captions of a picture (the line in italics below it) that its text does not show, a line for each page."""
    found = []
    caption = re.compile(rf"images/{re.escape(name)}\.png\)\n\n\*(.+?)\*\n", re.DOTALL)
    for page in pages:
        for said in caption.findall(page.read_text(encoding="utf-8")):
            if missing := _numbers(said) - _numbers(text):
                numbers = ", ".join(f"{number:g}" for number in sorted(missing))
                found.append(f"{page.name}: the picture {name} does not show {numbers}")
    return found


def _numbers(text: str) -> set[float]:
    return {float(number.replace(",", "").rstrip("/sx")) for number in figures(text)}


def main() -> int:
    """Take the pictures and print the end of what each shows."""
    known = [*REPORT, *BROWSER]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"pictures; default: all: {', '.join(known)}")
    parser.add_argument("--home", type=Path, help="where the home is, or is to be made (default: made and deleted)")
    parser.add_argument("--report-home", type=Path, help="the same for the pictures of the report")
    parser.add_argument("--to", type=Path, default=IMAGES, help="folder of the pictures (default: docs/images)")
    parser.add_argument("--settle", type=int, default=6000, help="milliseconds until a layout stands still")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(known)):
        parser.error(f"no picture {', '.join(unknown)}; there are: {', '.join(known)}")
    names = [name for name in known if name in options.names or not options.names]
    to = options.to.resolve()
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        home = (options.home or work / "home").resolve()
        texts: dict[str, str] = {}
        for thoughts in (False, True):
            place = (options.report_home or work / "report").resolve()
            place = place.with_name(f"{place.name}-thoughts") if thoughts else place
            if reports := [name for name in names if name in REPORT and REPORT[name].thoughts == thoughts]:
                texts |= take_report(reports, place, to, work, thoughts=thoughts)
        if frames := [name for name in names if name in BROWSER]:
            take_browser(frames, home, to, work, made=(home / "trails.json").exists(), settle=options.settle)
    wrong = [line for name, text in texts.items() for line in stale(name, text)]
    sys.stderr.write("".join(f"{line}\n" for line in wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
