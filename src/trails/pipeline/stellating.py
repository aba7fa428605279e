"""Blocks of a stellator file on a home: compiled over one of its runs, selected, measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trails.stellator import compile_program, read_file
from trails.stellator.compiling import Compiled
from trails.stellator.zones import Zone, zones

if TYPE_CHECKING:
    from trails.pipeline.home import Home


def zones_of(home: Home, file: Path | None = None) -> dict[str, Zone]:
    """Named zones: those of trails, of ``zones.toml`` in the home, and of a file."""
    return zones(home.settings.home, file)


def compiled(home: Home, file: Path, *, more_zones: Path | None = None, run: str | None = None) -> list[Compiled]:
    """The blocks of a file over a run. Raises InputError ``FILE:LINE:COLUMN`` for what is wrong."""
    of = home.run(run)
    return compile_program(
        read_file(file),
        of,
        traces=lambda: home.traces(of.id),
        known=zones_of(home, more_zones),
        chain=lambda text: home.names.chain(text, of.id),
        file=str(file),
    )
