"""The ``$ trails …`` blocks of the pages: what they say is printed, and what is printed.

Every block of commands with their output has a line before it::

    <!-- run: sample -->             the packaged sample, measured by the packaged model
    <!-- run: uniform -->            the packaged sample under the uniform scorer (no model)
    <!-- run: canonical -->          both packaged samples under the uniform scorer
    <!-- run: empty -->              a folder without a home
    <!-- run: page -->               one folder for the whole page: its blocks run one after another
    <!-- run: sample, 0.01 -->       numbers may differ by one per cent (default 0.002)
    <!-- run: sample, 0.002, 2 -->   the command ends with the exit code 2
    <!-- not run: WHY -->            what is printed was printed once, and WHY it is not run again

A file that the blocks of a page need stands on the page itself::

    <!-- file: NAME -->              what follows, a fenced block, is the file NAME in the folder of the commands

A line that is only ``…`` stands for any lines. Everything else is compared word by word; numbers up to the tolerance.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
KINDS = ("sample", "uniform", "canonical", "empty", "page")
_BLOCK = re.compile(r"^<!-- run: (\w+)(?:, ([0-9.e-]+))?(?:, (\d+))? -->\n```console\n(.*?)^```$", re.M | re.S)
_UNCHECKED = re.compile(r"^<!-- not run: (.+) -->\n```console\n(.*?)^```$", re.M | re.S)
_FILE = re.compile(r"^<!-- file: ([\w./-]+) -->\n```\w*\n(.*?)^```$", re.M | re.S)
_NUMBER = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """One block: the home that it runs in, its commands with what each prints, and the exit code of the last of them."""

    page: str
    line: int
    home: str
    tolerance: float
    code: int
    commands: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Session:
    """Blocks that run one after another in one folder, which holds ``files`` (name, text) at the beginning."""

    blocks: tuple[Block, ...]
    files: tuple[tuple[str, str], ...]


def blocks(page: Path) -> Iterator[Block]:
    """The checked blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        commands: list[tuple[str, tuple[str, ...]]] = []
        for part in re.split(r"^\$ ", match[4], flags=re.M)[1:]:
            typed, _, printed = re.sub(r" \\\n *", " ", part).partition("\n")
            commands.append((typed, tuple(printed.splitlines())))
        name = str(page.relative_to(ROOT))
        yield Block(
            name,
            text[: match.start()].count("\n") + 2,
            match[1],
            float(match[2] or 0.002),
            int(match[3] or 0),
            tuple(commands),
        )


def sessions(page: Path) -> Iterator[Session]:
    """The blocks of a page, each alone but those of kind ``page``, which are one session."""
    files = tuple((match[1], match[2]) for match in _FILE.finditer(page.read_text(encoding="utf-8")))
    found = list(blocks(page))
    yield from (Session((block,), files) for block in found if block.home != "page")
    if together := tuple(block for block in found if block.home == "page"):
        yield Session(together, files)


def unchecked(page: Path) -> Iterator[tuple[int, str]]:
    """Line and reason of every block of a page that is not run."""
    text = page.read_text(encoding="utf-8")
    for match in _UNCHECKED.finditer(text):
        yield text[: match.start()].count("\n") + 2, match[1]


def outside(page: Path) -> list[int]:
    """Lines of a page that show a command with its output and lie in no block that is run or says why it is not."""
    text = page.read_text(encoding="utf-8")
    inside: set[int] = set()
    for pattern in (_BLOCK, _UNCHECKED):
        for match in pattern.finditer(text):
            first = text[: match.start()].count("\n") + 1
            inside.update(range(first, first + match[0].count("\n") + 1))
    return [n for n, line in enumerate(text.splitlines(), 1) if re.match(r" *\$ trails\b", line) and n not in inside]


def differences(expected: tuple[str, ...], found: list[str], tolerance: float) -> str:
    """The first line of a block that is not what is printed; empty when all agree."""
    want = [line.rstrip() for line in expected if line.strip()]
    have = [line.rstrip() for line in found if line.strip()]
    at, anywhere = 0, False
    for line in want:
        if line.strip() == "…":
            anywhere = True
            continue
        while at < len(have) and not alike(line, have[at], tolerance):
            if not anywhere:
                return f"the page says\n  {line}\nand the command prints\n  {have[at]}"
            at += 1
        if at == len(have):
            return f"the page says\n  {line}\nand the command prints no such line"
        at, anywhere = at + 1, False
    if at < len(have) and not anywhere:
        return f"the page ends, and the command goes on with\n  {have[at]}"
    return ""


def alike(expected: str, found: str, tolerance: float) -> bool:
    """Whether two lines say the same, numbers up to a relative tolerance (an absolute one below 1)."""
    if _NUMBER.sub("#", expected).split() != _NUMBER.sub("#", found).split():
        return False
    for a, b in zip(_NUMBER.findall(expected), _NUMBER.findall(found), strict=True):
        x, y = (float(n.replace(",", "").replace("−", "-")) for n in (a, b))
        if abs(x - y) > tolerance * max(1.0, abs(x)):
            return False
    return True
