"""Stellator: a small language of blocks that select a region of the graph, say how training treats it, and make claims.

words, grammar.lark   the words in English and Russian, and how a line is made of them
language              what a file says, as records, and its canonical spelling
parsing               text → records, line by line
hints                 what a line that cannot be read was probably meant to say
faults                what is wrong in a file, all of it, with line and column
zones                 named zones, a data file that a user can add to
compiling             a block → one Cypher statement with parameters, and the annotations of training
explaining            every line in a sentence
"""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path

from trails.errors import InputError
from trails.platform.files import first_bytes
from trails.readers.encodings import likely_encoding
from trails.schema import Run, Trace
from trails.stellator.compiling import Compiled, Distribution, Lookups, compile_block
from trails.stellator.faults import Faults
from trails.stellator.language import Place, Program
from trails.stellator.parsing import parse, read_blocks
from trails.stellator.zones import MAX_BYTES, Zone, zones


def read_file(file: Path) -> Program:
    """The blocks of a file. Raises InputError for a file that is missing, too large or no text, and StellatorError with every
    wrong line."""
    return parse(_text(file), str(file))


def _text(file: Path) -> str:
    try:
        data = first_bytes(file, MAX_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}). Write one with: trails stellator init {file}"
        ) from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{file}: larger than {MAX_BYTES:,} bytes. Split it into several files.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        wide = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        likely = "UTF-16" if wide else likely_encoding(data).upper()
        before = data[: error.start].decode("utf-8")
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        name = shlex.quote(str(file))
        faults = Faults(str(file))
        faults.add(
            place,
            f"not text in UTF-8 (byte {error.start}).",
            f"It looks like {likely}. Convert it: iconv -f {likely} -t UTF-8 {name} > new.stellator"
            if likely
            else "Save it as UTF-8.",
        )
        faults.check()
        raise


def check_file(file: Path, home: Path | None = None, more_zones: Path | None = None) -> Program:
    """As :func:`read_file`, and every zone, field, unit, role and kind of overlap exists. Percentiles and chains are not looked
    up: a file can be checked without a run. Raises one StellatorError with everything that is wrong."""
    faults = Faults(str(file))
    program = read_blocks(_text(file), faults)
    try:
        known = zones(home, more_zones)
    except InputError:
        faults.check()  # the file itself comes first
        raise
    for name, block in program.named():
        compile_block(name, block, known=known, run="", quantile=_as_written, file=str(file), faults=faults)
    faults.check()
    return program


def _as_written(_: str, percent: float) -> float:
    return percent


def compile_program(
    program: Program,
    run: Run,
    *,
    traces: Callable[[], Iterable[Trace]],
    known: Mapping[str, Zone],
    lookups: Lookups | None = None,
    file: str = "stellator",
) -> list[Compiled]:
    """Every block over one run. ``traces`` gives the traces of the run, for its percentiles. Raises StellatorError with
    everything that the run cannot answer."""
    quantile = Distribution(traces, run)
    faults = Faults(file)
    made = [
        compile_block(
            name, block, known=known, run=run.id, quantile=quantile, lookups=lookups, file=file, faults=faults
        )
        for name, block in program.named()
    ]
    faults.check()
    return made


def example(*, russian: bool = False) -> str:
    """A commented file to begin with."""
    name = f"example_{'ru' if russian else 'en'}.stellator"
    return resources.files("trails.stellator").joinpath(name).read_text("utf-8")
