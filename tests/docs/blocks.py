"""The ``$ trails …`` blocks of the pages: what they say is printed, and what is printed.

A block that is checked has a line before it::

    <!-- run: sample -->             the packaged sample, measured by the packaged model
    <!-- run: uniform -->            the packaged sample under the uniform scorer (no model)
    <!-- run: sample, 0.01 -->       numbers may differ by one per cent (default 0.002)

A line that is only ``…`` stands for any lines. Everything else is compared word by word; numbers up to the tolerance.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^<!-- run: (\w+)(?:, ([0-9.e-]+))? -->\n```console\n(.*?)^```$", re.M | re.S)
_NUMBER = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """One block: the home that it runs in, and its commands with what each prints."""

    page: str
    line: int
    home: str
    tolerance: float
    commands: tuple[tuple[str, tuple[str, ...]], ...]


def blocks(page: Path) -> Iterator[Block]:
    """The checked blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        commands: list[tuple[str, tuple[str, ...]]] = []
        for part in re.split(r"^\$ ", match[3], flags=re.M)[1:]:
            typed, _, printed = re.sub(r" \\\n *", " ", part).partition("\n")
            commands.append((typed, tuple(printed.splitlines())))
        name = str(page.relative_to(ROOT))
        yield Block(name, text[: match.start()].count("\n") + 2, match[1], float(match[2] or 0.002), tuple(commands))


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
