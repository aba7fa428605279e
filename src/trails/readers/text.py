"""Plain text and Markdown: a blank line, a rule or a heading separates chains.

In: a text file. Out: one chain per paragraph (or section, line, file); the Markdown heading above it goes to the metadata. One
paragraph is in memory at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from trails.platform.text import counted
from trails.readers.base import BadRecordError, Draft, ReadOptions, ReadReport, SourceFile, finish, record_id
from trails.readers.containers import lines
from trails.schema import Chain

_HEADING = re.compile(r" {0,3}#{1,6}\s+(?=\S)")
MAX_RULE_CHARS = 200
_RULE = re.compile(r"\s*([-=*_])(\s*\1){2,}\s*$")
_FENCE = re.compile(r"\s{0,3}(```|~~~)")
LINE_MODE_LINES = 50
"""A text whose first 64 KiB hold this many lines and no blank one is a list: one chain a line."""


def split_paragraphs(
    numbered: Iterator[tuple[int, str]], how: str, *, headings: bool
) -> Iterator[tuple[int, str, str]]:
    """``(line, heading, text)`` of every chain; ``how`` is a separator of :class:`ReadOptions` other than ``auto``."""
    block: list[str] = []
    first = 0
    heading = ""
    fence = ""
    for number, line in numbered:
        opened = _FENCE.match(line) if headings else None
        if opened and (not fence or opened.group(1) == fence):
            fence = "" if fence else opened.group(1)
        found = _HEADING.match(line) if headings and not fence else None
        ends = found or (
            not fence
            and how in ("paragraph", "line")
            and (not line.strip() or (len(line) < MAX_RULE_CHARS and _RULE.match(line)))
            and not opened
        )
        if (ends and how != "file") or (how == "line" and block):
            if any(part.strip() for part in block):
                yield first, heading, "\n".join(block).strip()
            block = []
        if found and how != "file":
            heading = line[found.end() :].rstrip().rstrip("#").rstrip()
        elif not ends or how == "file":
            if not block:
                first = number
            block.append(line)
    if any(part.strip() for part in block):
        yield first, heading, "\n".join(block).strip()


@dataclass(frozen=True, slots=True)
class TextReader:
    """Running text of any kind; the last resort for a file that is not made of records."""

    name: str = "text"
    about: str = "plain text and Markdown: a blank line or a heading separates chains"

    def can_read(self, file: SourceFile) -> bool:
        """Whether the file is text."""
        return file.container == "text"

    def read(self, file: SourceFile, options: ReadOptions, report: ReadReport) -> Iterator[Chain]:
        """Chains in file order; the question is empty."""
        how = options.separator
        if how == "auto":
            rows = file.head.decode(file.encoding, "replace").splitlines()
            listed = len(rows) >= LINE_MODE_LINES and all(row.strip() for row in rows)
            how = "line" if listed else "paragraph"
            if listed:
                report.note(
                    f"{file.shown}: no blank line, so every line is a chain. Change with --separator paragraph."
                )
        name = file.file_name.removesuffix(".gz")
        headings = how == "heading" or not name.endswith((".txt", ".text"))
        ornaments = 0
        for number, heading, text in split_paragraphs(lines(file, report), how, headings=headings):
            if not any(character.isalnum() for character in text):
                ornaments += 1  # asterisks or dots between parts of a running text are no mistake
                continue
            try:
                if len(text) > options.max_record_bytes:
                    raise BadRecordError(
                        f"the chain is longer than {counted(options.max_record_bytes, 'byte')} (max_record_bytes, "
                        "--max-record-bytes)."
                    )
                metadata = {"heading": heading} if heading else {}
                draft = Draft(text, metadata=metadata, source_id=record_id([heading, text]))
                yield replace(finish(draft, file, options, file.name), line=number)
            except BadRecordError as problem:
                report.bad_record(file.shown, number, str(problem))
        if ornaments:
            report.note(f"{file.shown}: passed over {counted(ornaments, 'paragraph')} without a letter or a digit.")


TEXT = TextReader()
