"""Every command at 60, 80 and 140 columns of a real terminal: nothing is cut, running text stays within the width, and no
control disappears."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import struct
import sys
import termios
from pathlib import Path

import pytest

from trails.cli import COMMANDS
from trails.sample import path as sample

LINES = """
chains --limit 3
chains --limit 2 --json
status
show {a}
show {a} {b} --numbers
query --list
query most-surprising --limit 2
query chain-steps --param chain={a}
query corpus
cypher "MATCH (c:Chain) RETURN c.id, c.roles, c.text LIMIT 2"
overlaps --no-graph --limit 2
overlaps --kind skeleton --no-graph --limit 2 --details
map --no-graph
gaps --no-graph --limit 2
bridge {a}:0 {a}:2
capture "If it rains, the street is wet. But it is dry. Therefore it did not rain at all."
drift {a}
variants {a} --count 1
export --subgraph roles:THEREFORE --format trl -o rows.jsonl --overwrite
remove chain {a} {b} --dry-run
rename run {run} base
rebuild
verify
bulk folder{width}
browser
doctor
report {a} -o page{width}.html
ingest {sample} --dry-run
ingest {sample} --limit 3
experiment
diff {run} {run}
recall all --adapter nowhere
repairs all --adapter nowhere
train nowhere.jsonl -o adapter
intervene {a}
"""
"""What is run. A command that needs a model is refused here: its message counts too. One without a line shows its help."""

CONTROLS = {
    "overlaps": ("order-2 Markov resample", "order-1 Markov resample"),
    "map": ("held-out tokens shuffled",),
    "gaps": ("position",),
    "bridge": ("goal right after the start", "random splice"),
    "capture": ("own tokens shuffled", "connectives masked"),
    "show": ("a uniform guess",),
}
"""What must stand beside the scores, whatever the width."""

RUN_ALL = """
import json, sys
from trails.__main__ import main
for line in json.loads(open(sys.argv[1]).read()):
    print("\\x1e" + json.dumps(line), flush=True)
    sys.argv[1:] = line
    try: main()
    except SystemExit: pass
"""

UNBROKEN = re.compile(r"Error: |Usage: |Try |neo4j-admin |trails |[\w -]+: (?:trails|export|pip) ")
"""Errors, and lines to run: they are there to be copied."""


def on_terminal(script: Path, lines: Path, width: int) -> dict[str, str]:
    """What each line prints to a terminal of this width."""
    child, terminal = pty.fork()
    if child == 0:
        # the size must be there before anything asks for it
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        os.environ |= {"TERM": "xterm", "NO_COLOR": "1"}
        os.environ.pop("COLUMNS", None)
        os.execv(sys.executable, [sys.executable, str(script), str(lines)])
    shown = bytearray()
    try:
        while part := os.read(terminal, 65536):
            shown += part
    except OSError:  # the child has gone
        pass
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown.decode(errors="replace")[-2000:]
    parts = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode().replace("\r\n", "\n")).split("\x1e")[1:]
    return {shlex.join(json.loads(head)): body for head, _, body in (part.partition("\n") for part in parts)}


@pytest.fixture
def home(trails, tmp_path: Path) -> dict[str, str]:
    """A home of packaged chains; the names of two chains and of the run."""
    small = tmp_path / "sample.jsonl"
    with sample().open(encoding="utf-8") as whole:
        rows = [line for line in whole if 200 < len(line) < 900 and line.count(". ") > 3]
    small.write_text("".join(rows[:26]), encoding="utf-8")
    trails("ingest", small)
    rows = [row for row in trails("chains", "--json").json() if row["steps"] > 3]
    return {"a": rows[0]["chain"], "b": rows[1]["chain"], "run": rows[0]["run"], "sample": str(small)}


def values(text: str) -> set[str]:
    """Ids and numbers with three digits or more."""
    return set(re.findall(r"\b[cror][0-9a-f]{16}\b|\b\d+\.\d{3,}\b|\b\d{1,3}(?:,\d{3})+\b", text))


@pytest.mark.slow
def test_nothing_is_cut_at_60_80_and_140_columns(home: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "run_all.py"
    script.write_text(RUN_ALL)
    seen: dict[int, dict[str, str]] = {}
    for width in (60, 80, 140):
        lines = [shlex.split(line.format(width=width, **home)) for line in LINES.strip().splitlines()]
        lines += [[name, "--help"] for name in COMMANDS if name not in {line[0] for line in lines}]
        (tmp_path / "lines.json").write_text(json.dumps(lines))
        seen[width] = {
            line.replace(f"{width}.html", ".html").removesuffix(str(width)): text
            for line, text in on_terminal(script, tmp_path / "lines.json", width).items()
        }
    for line, text in seen[80].items():
        command = line.split()[0]
        assert "Traceback" not in text, line
        narrow, wide = seen[60][line], seen[140][line]
        if command not in ("ingest", "doctor", "rebuild", "verify", "bulk", "status", "report"):  # speeds, sizes
            assert values(narrow) == values(text) == values(wide), line
        for width, at in ((60, narrow), (80, text), (140, wide)):
            if "--json" in line:
                json.loads(at)
                continue
            for control in CONTROLS.get(command, ()):
                told = control in " ".join(at.split())
                assert told or "Error:" in at or "--kind" in line, (line, width, control)
            for shown in at.splitlines():
                alone = re.fullmatch(r"(?:. )?(?:[\w-]+  +| *)\S+", shown)  # a path, an id
                whole = UNBROKEN.search(shown) or alone
                assert len(shown) <= width or whole, (line, width, shown)
