"""What an export can be told, and what it reports."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from trails.errors import UsageError
from trails.export.card import Counts
from trails.export.choose import parse_mask
from trails.export.words import ORDER_WORDS, WEIGHT_WORDS, english


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to do with the selected tokens. See :mod:`trails.export.choose`, ``order`` and ``split`` for the values.

    ``layers`` are the layers that a LoRA is to change, 1 … L as everywhere (the record's column ``layers_to_transform`` counts
    from 0, as PEFT does), empty for all. ``split`` is the share to hold out.
    ``run`` names the run whose numbers count (an id or its beginning; by default the only one without an adapter).
    ``variants`` is the id (``v…``) of what ``trails variants`` stored in the home, or its file, and ``variants_each`` how many
    of every chain are taken, the first of the file (0: all). ``answer`` ends the text of a
    chain with its final answer, ``think_tags`` puts ``<think>`` and ``</think>`` around it (or the two marks given,
    with a comma between); both for formats of texts and whole chains only. ``refuse`` is a file with
    ids of variants to leave out, one a line.
    """

    mask: str = "none"
    weights: str = "uniform"
    order: str = "shuffled"
    stratify: bool = True
    layers: tuple[int, ...] = ()
    split: float = 0.0
    variants: Path | None = None
    variants_each: int = 0
    seed: int = 0
    lossy: bool = False
    overwrite: bool = False
    run: str | None = None
    answer: bool = False
    think_tags: str = ""
    refuse: Path | None = None

    def __post_init__(self) -> None:
        """Mask, weights and order are kept in English, in whichever language they were given."""
        with suppress(UsageError):  # what is wrong is refused where it is used, with everything else
            object.__setattr__(self, "mask", parse_mask(self.mask).text)
        object.__setattr__(self, "weights", english(self.weights, WEIGHT_WORDS))
        object.__setattr__(self, "order", english(self.order, ORDER_WORDS))


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written. ``files`` maps split names to paths; ``digest`` is the SHA-256 of the training rows' file.

    ``lost`` says what the format could not hold (only with ``lossy``), ``settings`` how to load the file from where we are,
    ``ends`` what a row ends with, ``loads`` what these settings train on. ``earlier`` rows have earlier turns of the assistant;
    ``answered`` rows end with a final answer (None: not asked for). ``gone`` are selected chains whose shard is missing.
    """

    files: dict[str, Path]
    card: Path
    digest: str
    counts: Counts
    lost: tuple[str, ...] = ()
    lint: tuple[str, ...] = ()
    writer: str = ""
    settings: str = field(default="", repr=False)
    ends: str = ""
    loads: tuple[str, ...] = ()
    earlier: int = 0
    answered: int | None = None
    gone: tuple[str, ...] = ()


def parse_layers(text: str, *, first: int = 1) -> tuple[int, ...]:
    """``10-19,25`` as numbers, of ``first`` or more. Raises UsageError for anything else."""
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        start, dash, last = part.partition("-")
        digits = all(number.isascii() and number.isdigit() and len(number) < 6 for number in (start, last or start))
        if not digits or (dash and (not last or int(last) < int(start))):
            raise UsageError(f"layers {text!r} cannot be read. Write for example 10-19 or 3,7,10-19.")
        found.update(range(int(start), int(last or start) + 1))
    if min(found) < first:
        raise UsageError(f"layer {min(found)} does not exist. Layers count from {first}.")
    return tuple(sorted(found))


def layers_text(layers: Sequence[int]) -> str:
    """Layers as written: ``10-19,25``."""
    parts: list[str] = []
    start = 0
    for index in range(1, len(layers) + 1):
        if index == len(layers) or layers[index] != layers[index - 1] + 1:
            first, last = layers[start], layers[index - 1]
            parts.append(str(first) if first == last else f"{first}-{last}")
            start = index
    return ",".join(parts)
