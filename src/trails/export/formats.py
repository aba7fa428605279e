"""Formats by name."""

from __future__ import annotations

from trails.errors import UsageError
from trails.export import axolotl, canonical, llama_factory, messages, ms_swift, prompt_completion, trl
from trails.export.writer import Kept, Writer

WRITERS: dict[str, Writer] = {
    writer.name: writer
    for writer in (
        trl.WRITER,
        prompt_completion.WRITER,
        messages.WRITER,
        axolotl.WRITER,
        axolotl.SEGMENT_WRITER,
        llama_factory.WRITER,
        llama_factory.TOKEN_WRITER,
        ms_swift.WRITER,
        canonical.WRITER,
    )
}
"""Formats by name."""


def writer_named(name: str) -> Writer:
    """The writer of a format. Raises UsageError naming those that exist."""
    if name not in WRITERS:
        raise UsageError(f"format {name!r} does not exist. Formats: {', '.join(WRITERS)}.")
    return WRITERS[name]


def refusal(writer: Writer, what: str, kept: Kept) -> UsageError:
    """The error for a format that would lose something, naming those that keep it."""
    able = ", ".join(name for name, other in WRITERS.items() if kept in other.keeps)
    return UsageError(
        f"format {writer.name!r} ({writer.trainer}) would lose {what}. Formats that keep it: {able}."
        " Or add --lossy to write it without."
    )
