"""What every reader shares: options, the report of bad records, an input file, and the last check of a chain.

In: a :class:`SourceFile`. Out: :class:`~trails.schema.Chain` records, one at a time; only one record is in memory. A record
that cannot be read goes to :meth:`ReadReport.bad_record`, which raises once there are more than the user tolerates.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal, Protocol, runtime_checkable

from trails.errors import InputError, UsageError
from trails.readers.doubtful import no_chain
from trails.readers.streams import COMPRESSED_SUFFIXES, TEXT_SUFFIXES, FileError, not_data, open_bytes
from trails.schema import Chain, canonical_json, stable_hash

FIELD_NAMES = ("question", "chain", "answer", "id", "language")
"""What a user can map with ``--field NAME=FIELD``."""

HEAD_BYTES = 65_536
CONTAINER_NAMES = {"jsonl": "JSON Lines", "json": "JSON", "parquet": "a Parquet table", "arrow": "an Arrow table"}
"""Containers that are recognised by content, as a person calls them."""
KEPT_BAD_RECORDS = 100


REPAIR = "Repair it, or take it out."
"""What to do about a bad record, where a command goes past none."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read.

    ``fields`` maps ``question``, ``chain`` (or ``text``), ``answer``, ``id``, ``language`` to paths of fields in the input
    (``doc.question``, ``resps[0]``, ``steps[].text``); they come before what any reader knows. ``family`` is the path of the
    field that names what a chain is a version of; empty: chains with one question are one family. ``marks`` are further
    pairs of marks around a thought, opening and closing.
    ``limit`` bounds the chains over all inputs. ``bad_tolerance`` is the number of bad records to go past; the next one
    raises, and says what to do (``hint``).
    ``report_file`` receives every bad record as a JSON line. ``max_record_bytes`` bounds one line, record or
    paragraph. ``separator`` says what ends a chain in a text file: a blank line or heading (``paragraph``), a heading
    (``heading``), every line (``line``) or nothing but the end of the file (``file``); ``auto`` is ``paragraph``, or
    ``line`` for a long file without a blank line. ``source`` and ``licence`` replace what the reader finds.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    bad_tolerance: int = 0
    hint: str = REPAIR
    report_file: Path | None = None
    max_record_bytes: int = 16_000_000
    encoding: str = "utf-8"
    separator: Literal["auto", "paragraph", "heading", "line", "file"] = "auto"
    source: str = ""
    licence: str = ""
    family: str = ""
    marks: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Raises UsageError for an unknown field name, encoding or a negative number."""
        wrong = [name for name in self.fields if name not in (*FIELD_NAMES, "text")]
        if wrong:
            raise UsageError(f"--field {wrong[0]}=…: no such part of a chain. Parts: {', '.join(FIELD_NAMES)}.")
        if any(not opening.strip() or not closing.strip() for opening, closing in self.marks):
            raise UsageError("--think-marks: an opening and a closing mark are needed, e.g. --think-marks '<<' '>>'.")
        if self.max_record_bytes < 1:
            raise UsageError(f"--max-record-bytes {self.max_record_bytes}: a number of bytes, 1 or more.")
        if self.limit is not None and self.limit < 0:
            raise UsageError(f"--limit {self.limit}: a number of chains, 0 or more.")
        if self.bad_tolerance < 0:
            raise UsageError(f"--bad-tolerance {self.bad_tolerance}: a number of records, 0 or more.")
        try:
            "".encode(self.encoding)
        except LookupError:
            raise UsageError(
                f"--encoding {self.encoding}: no such encoding. Usual ones: utf-8, utf-16, cp1251, koi8-r, latin-1."
            ) from None

    def mapped(self, part: str) -> str:
        """The field that the user gave for a part of a chain, or an empty string."""
        if part == "chain":
            return self.fields.get("chain") or self.fields.get("text", "")
        return self.fields.get(part, "")


def parse_fields(pairs: Iterator[str] | tuple[str, ...] | list[str]) -> dict[str, str]:
    """``("chain=solution",)`` as a mapping. Raises UsageError for a pair without ``=``."""
    fields: dict[str, str] = {}
    for pair in pairs:
        part, equals, name = pair.partition("=")
        if not (part and equals and name):
            raise UsageError(f"--field {pair}: write PART=FIELD, for example --field chain=solution.")
        fields[part] = name
    return fields


class BadRecordError(Exception):
    """A record that is not a chain; the message says why. Never leaves this package."""


@dataclass(frozen=True, slots=True)
class BadEntry:
    """One bad record of a report: where it stands and what is wrong."""

    file: str
    line: int
    message: str


@dataclass(frozen=True, slots=True)
class Example:
    """The first chain of an input as it was read: what to look at before anything is measured.

    ``taken`` maps parts of a chain to the fields they came from, ``passed_over`` names the fields that became metadata or
    nothing; both are empty for a reader that knows its data set. ``given`` is the field of an answer that is the data's, where
    no field says what the chain came to.
    """

    file: str
    reader: str
    chain: Chain
    taken: Mapping[str, str]
    passed_over: tuple[str, ...]
    given: str = ""


@dataclass(slots=True)
class ReadReport:
    """What happened while reading: filled as the chains are drawn.

    ``chains`` counts the chains handed out, ``bad`` the bad records; ``entries`` keeps the first 100 of those, the
    report file all. ``notes`` are sentences for the user: the field guesses, what was skipped. ``examples`` holds the
    first chain of every input whose reader or fields differ from the one before.
    """

    chains: int = 0
    bad: int = 0
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    entries: list[BadEntry] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    tolerance: int = 0
    hint: str = REPAIR
    report_file: Path | None = None
    _fields: dict[str, tuple[Mapping[str, str], tuple[str, ...], str]] = field(default_factory=dict)

    def note(self, sentence: str) -> None:
        """Add a sentence once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def fields(self, file: str, taken: Mapping[str, str], passed_over: Sequence[str], given: str = "") -> None:
        """Remember which fields of a file were taken and which were not, for :attr:`examples`; ``given`` as there."""
        self._fields[file] = (dict(taken), tuple(passed_over), given)

    def example(self, file: str, reader: str, chain: Chain, family: str = "") -> None:
        """Keep the first chain of a file, unless the file before was read in the same way. ``family`` is the field that was
        asked for as the family.
        """
        taken, passed_over, given = self._fields.pop(file, ({}, (), ""))
        if taken and family:
            taken = {**taken, "family": family}
            passed_over = tuple(name for name in passed_over if name != family)
        last = self.examples[-1] if self.examples else None
        if last is None or (last.reader, last.taken) != (reader, taken):
            self.examples.append(Example(file, reader, chain, taken, passed_over, given))

    def bad_file(self, error: FileError, file: str) -> None:
        """Count a file that cannot be read, or not to its end. Raises the error when there is more than tolerated."""
        if self.tolerance == 0:
            self.bad += 1
            raise error
        found = re.match(re.escape(file) + r"(?::(\d+))?: (.*)", str(error), re.DOTALL)
        self.bad_record(file, int(found.group(1) or 0) if found else 0, found.group(2) if found else str(error))

    def bad_record(self, file: str, line: int, message: str) -> None:
        """Count a bad record. Raises InputError (``FILE:LINE: message``) when there are more than tolerated.

        ``line`` is 0 where no line is known.
        """
        self.bad += 1
        if len(self.entries) < KEPT_BAD_RECORDS:
            self.entries.append(BadEntry(file, line, message))
        if self.report_file is not None:
            entry = {"file": file, "line": line, "message": message}
            with self.report_file.open("w" if self.bad == 1 else "a", encoding="utf-8") as out:
                out.write(json.dumps(entry, ensure_ascii=True) + "\n")
        if self.bad > self.tolerance:
            hint = self.hint
            if self.tolerance:
                hint = f"This is bad record {self.bad}; --bad-tolerance {self.tolerance} allows no more."
            raise InputError(f"{file}:{line}: {message} {hint}" if line else f"{file}: {message} {hint}")


def strip_bom(data: bytes) -> bytes:
    """Bytes without a UTF-8 byte order mark."""
    return data[3:] if data.startswith(b"\xef\xbb\xbf") else data


@dataclass(eq=False)
class SourceFile:
    """One input file: ``path`` on disk, ``shown`` as the user knows it, and what was found beside it.

    ``container`` says how records lie in it: ``jsonl``, ``json`` (an array or one object), ``parquet``, ``arrow``, ``csv``,
    ``tsv`` or ``text``.
    """

    path: Path
    shown: str
    file_name: str
    licence: str = ""
    dataset: str = ""
    encoding: str = "utf-8"
    max_record_bytes: int = 16_000_000
    sha256_of: tuple[Path, ...] = ()
    sample: tuple[Mapping[str, Any], ...] | None = None  # first records, once somebody looked; see containers.sample

    @cached_property
    def sha256(self) -> str:
        """Hash of the file as it lies; over several shards the hash of their hashes in order."""
        hashes = [_file_sha256(path) for path in (self.sha256_of or (self.path,))]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

    @property
    def stem(self) -> str:
        """File name without any suffix that names a format."""
        return re.sub(
            r"(\.(gz|zst|xz|bz2|jsonl|ndjson|json|parquet|arrow|feather|txt|text|md|markdown|csv|tsv))+$",
            "",
            self.file_name,
        )

    @property
    def name(self) -> str:
        """Default source name: the data set's, else the file's base name without the suffix of a compression; never a path."""
        return self.dataset or self.plain_name

    @property
    def plain_name(self) -> str:
        """The file's base name without the suffix of a compression."""
        return next(
            (self.file_name.removesuffix(end) for end in COMPRESSED_SUFFIXES if self.file_name.endswith(end)),
            self.file_name,
        )

    @property
    def suffix(self) -> str:
        """Last part of the name, in lower case, without the suffix of a compression; empty when there is none."""
        return self.plain_name.rpartition(".")[2].lower() if "." in self.plain_name else ""

    def open(self) -> IO[bytes]:
        """The bytes, decompressed. Raises FileError when the file cannot be opened, or is damaged."""
        return open_bytes(self.path, self.shown)

    @cached_property
    def head(self) -> bytes:
        """The first 64 KiB, decompressed, without a byte order mark."""
        with self.open() as stream:
            return strip_bom(stream.read(HEAD_BYTES))

    @cached_property
    def text_encoding(self) -> str:
        """The encoding the user named, or the one that a byte order mark names."""
        marks = (
            (b"\xff\xfe\0\0", "utf-32"),
            (b"\0\0\xfe\xff", "utf-32"),
            (b"\xff\xfe", "utf-16"),
            (b"\xfe\xff", "utf-16"),
        )
        if self.encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
            return next((name for mark, name in marks if self.head.startswith(mark)), self.encoding)
        return self.encoding

    @cached_property
    def start(self) -> str:
        """The first 64 KiB as text, without leading blanks; what is not text in the encoding is replaced."""
        return self.head.decode(self.text_encoding, "replace").lstrip("\ufeff \t\r\n")

    @cached_property
    def container(self) -> str:
        """How the records lie in the file, from the first bytes and then from the name. FileError for what is no data."""
        head, last = self.head, self.suffix
        if head.startswith(b"PAR1"):
            return "parquet"
        if head.startswith(b"ARROW1"):
            return "arrow"
        known = not_data(head, last)
        if known:
            raise FileError(f"{self.shown}: this is {known}")
        if last == "parquet" and head:
            raise FileError(
                f"{self.shown}: a damaged table: a Parquet file begins with PAR1, this one with {head[:4]!r}. "
                "Download it again."
            )
        if last == "arrow":
            return last
        start = self.start
        if last in TEXT_SUFFIXES or last in ("csv", "tsv"):
            return _records_under_another_name(start, whole=len(head) < HEAD_BYTES) or (
                "text" if last in TEXT_SUFFIXES else last
            )
        line, _, more = start.partition("\n")
        if last in ("jsonl", "ndjson"):
            return "json" if _spread_over_lines(line, more) else "jsonl"
        if start.startswith("[") and (last == "json" or re.match(r"\[\s*[{\[\"\]]", start)):
            return "json"
        if start.startswith("{"):
            if _is_json(line):
                return "json" if last == "json" and not more.strip() else "jsonl"
            # a first line longer than the head is one record a line; a short one is a pretty-printed object
            return "jsonl" if not more and len(head) == HEAD_BYTES and last != "json" else "json"
        return "jsonl" if last == "json" else "text"


def _records_under_another_name(start: str, *, whole: bool) -> str:
    """``jsonl`` or ``json`` where a file with the name of a text or a table holds JSON objects and nothing else, else an empty
    string. ``start`` is the beginning of the file, or with ``whole`` all of it.
    """
    if not start.startswith(("{", "[")):
        return ""
    rows = [row for row in (start if whole else start.rpartition("\n")[0]).split("\n") if row.strip()]
    if rows and all(row.lstrip().startswith("{") and _is_json(row) for row in rows):
        return "jsonl"
    return "json" if whole and re.match(r"\[?\s*\{", start) and _is_json(start) else ""


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _spread_over_lines(line: str, more: str) -> bool:
    """Whether a file named JSON Lines holds one array, or objects of several lines each."""
    line = line.strip()
    if line in ("[", "{"):
        return True
    if re.match(r"\[\s*\{", line):
        return line.endswith(",") or not more.strip()
    return line.startswith("{") and line.endswith(("{", "[", ",")) and not more.lstrip().startswith("{")


def _file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(slots=True)
class Draft:
    """A chain before the last check: what a reader took out of one record."""

    text: str
    question: str = ""
    answer: str = ""
    source_id: str = ""
    language: str = ""
    boundaries: tuple[int, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    family: str | None = None  # None: not said, the question decides
    identity: str = ""  # of the record, where several chains come from one


@runtime_checkable
class Reader(Protocol):
    """Reads one format. A new one is a class with these members and a line in ``READERS``."""

    @property
    def name(self) -> str:
        """What the user types after ``--reader``."""

    @property
    def about(self) -> str:
        """One line for the list of readers."""

    def can_read(self, file: SourceFile) -> bool:
        """Whether the start of the file looks like this format; cheap, reads no more than the first record."""

    def read(self, file: SourceFile, options: ReadOptions, report: ReadReport) -> Iterator[Chain]:
        """Chains in file order. Bad records go to the report; a file that cannot be read at all raises InputError."""


def as_text(value: Any) -> str:
    """A value as the string that metadata holds: strings as they are, everything else as JSON."""
    return (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    )


def record_id(record: Any) -> str:
    """Identity of a record without an id field: 12 hex digits over its canonical JSON, so its place does not matter."""
    return stable_hash(json.dumps(record, ensure_ascii=True, sort_keys=True, default=str), length=12)


_SURROGATE = re.compile("[\ud800-\udfff]")


def family_of(question: str, source: str, identity: str) -> str:
    """Family of a chain that nobody gave one: chains with the same question are versions of one thing; without a question
    those of the same record are.
    """
    words = " ".join(question.split())
    return "f" + (stable_hash("question", words) if words else stable_hash("record", source, identity))


def check_unicode(part: str, text: str) -> None:
    """Raises BadRecordError for a ``part`` of a record that holds a lone surrogate."""
    if found := _SURROGATE.search(text):
        raise BadRecordError(
            f"the {part} holds a lone surrogate (U+{ord(found.group()):04X} at character {found.start()}), which is not "
            "Unicode text."
        )


def finish(draft: Draft, file: SourceFile, options: ReadOptions, source: str) -> Chain:
    """The chain of a draft. Raises BadRecordError for a text that is no chain (:func:`no_chain`) and for a lone surrogate."""
    if problem := no_chain(draft.text):
        raise BadRecordError(problem)
    check_unicode("chain", draft.text)
    check_unicode("question", draft.question)
    check_unicode("answer", draft.answer)
    # two of these could become one where a character of theirs was replaced
    check_unicode("id", draft.source_id)
    check_unicode("family", draft.family or "")
    for key in draft.metadata:
        check_unicode("name of a field", key)
    metadata = {key: _SURROGATE.sub("\ufffd", value) for key, value in draft.metadata.items()}
    messages = draft.messages
    if not messages or messages == [{"role": "user", "content": draft.question}]:
        messages = []
    boundaries = tuple(sorted({b for b in draft.boundaries if 0 < b < len(draft.text)}))
    if draft.boundaries:
        boundaries = (0, *boundaries)
    return Chain(
        source=options.source or source,
        source_id=draft.source_id,
        question=draft.question,
        text=draft.text,
        answer=draft.answer,
        language=draft.language,
        boundaries=boundaries,
        metadata=metadata,
        source_sha256=file.sha256,
        licence=options.licence or file.licence,
        messages=_SURROGATE.sub("\ufffd", canonical_json(messages)) if messages else "",
        family=family_of(draft.question, options.source or source, draft.identity or draft.source_id)
        if draft.family is None
        else draft.family,
    )
