"""Readers: files of any kind in, chains out, one at a time.

In: paths of files and folders, ``-`` for standard input. Out: :class:`~trails.schema.Chain` records with question, chain and
answer apart, and a :class:`ReadReport` of what was guessed, skipped or wrong. A new format is a class with the members of
:class:`Reader` and a line in :data:`READERS`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from trails.errors import InputError, StoreError, UsageError
from trails.platform.files import refused
from trails.platform.text import counted
from trails.readers import datasets, logs, records, text
from trails.readers.base import (
    CONTAINER_NAMES,
    BadEntry,
    Example,
    Reader,
    ReadOptions,
    ReadReport,
    SourceFile,
    parse_fields,
)
from trails.readers.doubtful import doubt
from trails.readers.records import chain_record, write_chains
from trails.readers.streams import (
    COMPRESSED_SUFFIXES,
    TEXT_SUFFIXES,
    ZIP_MAGIC,
    FileError,
    members,
    told_passed_over,
    why_passed_over,
)
from trails.schema import Chain

__all__ = [
    "READERS",
    "BadEntry",
    "Example",
    "ReadOptions",
    "ReadReport",
    "Reader",
    "SourceFile",
    "chain_record",
    "parse_fields",
    "read",
    "write_chains",
]

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        # in the order in which they are asked; the last two take everything
        records.TRAILS,
        records.EXPORTS,
        logs.INSPECT,
        logs.SPANS,
        logs.OBSERVATIONS,
        logs.COMPLETIONS,
        logs.EVAL_SAMPLES,
        logs.PRM800K,
        records.MESSAGES,
        logs.SESSIONS,
        datasets.GSM8K,
        datasets.GSM8K_SOLUTIONS,
        datasets.BBH,
        datasets.BBH_PROMPTS,
        datasets.PRONTOQA,
        datasets.LOGIC_PROMPTS,
        datasets.ENTAILMENT_BANK,
        datasets.MARCO,
        datasets.STRATEGYQA,
        datasets.RU_ANSWERS,
        datasets.MGSM,
        datasets.FOLIO,
        datasets.GAME24,
        text.TEXT,
        records.RECORDS,
    )
}

SUFFIXES = ("jsonl", "ndjson", "json", "parquet", "arrow", "csv", "tsv", "txt", "text", "md", "markdown")
MAX_IDS = 200_000
"""Records of a file whose ids are compared."""

_LICENCE_FILE = re.compile(r"(licen[cs]e|copying)\b.*", re.IGNORECASE)
_LICENCE_LINE = re.compile(r"^licen[cs]e:\s*(.+)$", re.IGNORECASE | re.MULTILINE)
_KNOWN_LICENCES = (
    # phrases near the top of a licence text, the narrower first
    ("Apache License", "Apache-2.0"),
    ("MIT License", "MIT"),
    ("Attribution-NonCommercial-ShareAlike 4.0", "CC-BY-NC-SA-4.0"),
    ("Attribution-NonCommercial 4.0", "CC-BY-NC-4.0"),
    ("Attribution-ShareAlike 4.0", "CC-BY-SA-4.0"),
    ("Attribution-ShareAlike 3.0", "CC-BY-SA-3.0"),
    ("Attribution 4.0", "CC-BY-4.0"),
    ("CC0 1.0", "CC0-1.0"),
    ("GNU Free Documentation License", "GFDL-1.2"),
)


def read(
    paths: Sequence[str | Path],
    *,
    reader: str | None = None,
    options: ReadOptions | None = None,
    report: ReadReport | None = None,
) -> Iterator[Chain]:
    """Chains of all inputs, files in the order given, folders walked in sorted order.

    ``paths`` are files, folders or ``-`` (standard input). ``reader`` is a name of :data:`READERS`; None lets every file be
    recognised by its content. ``report`` is filled as the chains are drawn.

    Raises UsageError for an unknown reader, and InputError at once for a path that does not exist or holds no chains, later for
    the first bad record beyond ``options.bad_tolerance`` (the message starts with ``FILE:LINE:``).
    """
    options = options or ReadOptions()
    report = report if report is not None else ReadReport()
    report.tolerance, report.hint, report.report_file = options.bad_tolerance, options.hint, options.report_file
    if reader is not None and reader not in READERS:
        raise UsageError(f"--reader {reader}: no such reader. Readers: {', '.join(READERS)}.")
    if not paths:
        raise UsageError("nothing to read: name files or folders, or - for standard input.")
    if options.report_file is not None:
        try:
            options.report_file.write_text("", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--report-file {options.report_file}: cannot be written ({error.strerror}).") from None
    # every path is looked at before the first chain is measured
    inputs = [(str(path), _find(str(path), report)) for path in paths]
    return _chains(inputs, reader, options, report)


def _chains(
    inputs: list[tuple[str, list[Path]]], name: str | None, options: ReadOptions, report: ReadReport
) -> Iterator[Chain]:
    shas: dict[str, str] = {}
    for number, (shown, found) in enumerate(inputs):
        if options.limit is not None and report.chains >= options.limit:
            _note_unread([name for name, _ in inputs[number:]], options.limit, report)
            return
        with tempfile.TemporaryDirectory(prefix="trails-") as scratch:
            before = report.chains, report.bad
            without: list[str] = []
            for file in _open(shown, found, options, Path(scratch), report):
                opened = next((n for n, path in enumerate(found) if file.shown.startswith(str(path))), len(found))
                at = report.chains, report.bad
                for chain in _of_file(file, name, options, report):
                    if options.limit is not None and report.chains >= options.limit:
                        begun = report.chains > at[0]  # some of this file was read
                        inside = [str(path) for path in found[opened + begun :]] if len(found) > 1 else []
                        _note_unread([*inside, *(name for name, _ in inputs[number + 1 :])], options.limit, report)
                        return
                    if shas.setdefault(chain.source, chain.source_sha256) != chain.source_sha256:
                        report.note(
                            f"several inputs have the source name {chain.source!r}; tell them apart with --source."
                        )
                    report.chains += 1
                    yield chain
                if (report.chains, report.bad) == at:
                    without.append(file.shown)
            if without and (report.chains, report.bad) != before:
                named = ", ".join(without[:5]) + (", …" if len(without) > 5 else "")
                report.note(f"{shown}: no chains in {len(without)} of its files ({named}).")
            if (report.chains, report.bad) == before:
                if len(inputs) == 1:
                    raise InputError(f"{shown}: no chains in it.")
                report.bad_file(FileError(f"{shown}: no chains in it."), shown)


def _note_unread(names: Sequence[str], limit: int, report: ReadReport) -> None:
    if names:
        shown = ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
        report.note(
            f"--limit {limit} was reached, so {counted(len(names), 'file was', 'files were')} not read: {shown}."
        )


def _of_file(file: SourceFile, name: str | None, options: ReadOptions, report: ReadReport) -> Iterator[Chain]:
    """Chains of one file; one that cannot be read, or not to its end, is one bad record, and the next file follows."""
    ids: dict[str, int] = {}
    doubtful: dict[str, list[int]] = {}
    try:
        reader = READERS[name] if name else _recognise(file, options)
        report.files.append(file.shown)
        if not name and file.suffix in (*TEXT_SUFFIXES, "csv", "tsv") and file.container in CONTAINER_NAMES:
            report.note(
                f"{file.shown}: the name ends in .{file.suffix}, the content is {CONTAINER_NAMES[file.container]} and is read "
                "as that."
            )
        first = True
        for chain in reader.read(file, options, report):
            if first:
                report.example(file.shown, reader.name, chain, options.family)
            first = False
            if what := doubt(chain.text):
                doubtful.setdefault(what, []).append(chain.line)
            if len(ids) < MAX_IDS and ids.setdefault(chain.source_id, hash(chain.text)) != hash(chain.text):
                report.note(
                    f"{file.shown}: different records have the id {chain.source_id[:40]!r}; they stay apart by their text."
                )
            yield chain
    except FileError as error:
        report.bad_file(error, file.shown)
    except (RecursionError, MemoryError) as error:
        report.bad_file(FileError(f"{file.shown}: cannot be read ({type(error).__name__})."), file.shown)
    finally:
        for what, places in doubtful.items():
            at = f", the first in line {places[0]}" if places[0] else ""
            report.note(f"{file.shown}: {counted(len(places), 'chain')} {what}{at}.")


def _recognise(file: SourceFile, options: ReadOptions) -> Reader:
    if options.fields:
        if file.container == "text":
            raise FileError(f"{file.shown}: this is text and has no fields for --field {next(iter(options.fields))}.")
        if options.mapped("chain"):
            return records.RECORDS  # what the user says comes before what any reader knows
    # a file of records without a first record to look at: the general reader says what is wrong
    return next((reader for reader in READERS.values() if reader.can_read(file)), records.RECORDS)


def _find(shown: str, report: ReadReport) -> list[Path]:
    """Data files of one input; empty for a stream that must be spooled. Raises InputError."""
    if shown == "-":
        return []
    if not shown.strip():
        raise InputError(
            "an input without a name was given. Name a file, a folder (. for this one), or - for standard input."
        )
    path = Path(shown)
    if not path.exists():
        raise InputError(f"{shown}: no such file or folder. Name a file, a folder, or - for standard input.")
    if not path.is_dir():
        return [path] if path.is_file() else []
    found: list[Path] = []
    others: dict[str, list[str]] = {}

    def locked(error: OSError) -> None:
        report.bad_file(FileError(f"{error.filename}: cannot be opened ({error.strerror})."), str(error.filename))

    for folder, folders, names in os.walk(path, onerror=locked):
        inside = Path(folder).relative_to(path)
        for name in sorted(folders):
            why = (
                "hidden" if name.startswith(".") else "a link to a folder" if (Path(folder) / name).is_symlink() else ""
            )
            if why:
                others.setdefault(why, []).append(f"{inside / name}/")
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            why_not = why_passed_over(name, (*SUFFIXES, "zip", "eval"))
            if why_not is None and not (Path(folder) / name).is_file():
                why_not = "no regular file"  # a pipe or a socket would be waited for
            if why_not is None:
                found.append(Path(folder) / name)
            else:
                others.setdefault(why_not, []).append(str(inside / name))
    told = told_passed_over(others, "file")
    if not found:
        raise InputError(
            f"{shown}: no chains in this folder ({told or 'it is empty'}). Files read: {', '.join('.' + s for s in SUFFIXES)}, "
            f"also {', '.join(COMPRESSED_SUFFIXES)}, .zip and .eval."
        )
    if told:
        report.note(f"{shown}: {told}.")
    unlisted = [file for file in found if not _is_listed(file)]
    if unlisted:
        shown_names = ", ".join(str(file.relative_to(path)) for file in unlisted[:3])
        report.note(
            f"{shown}: passed over {counted(len(unlisted), 'file')} that state.json does not list ({shown_names})."
        )
    return sorted(set(found) - set(unlisted), key=lambda file: file.relative_to(path).parts)


@cache
def _listed(folder: Path) -> frozenset[str] | None:
    """Names of the files that a saved data set consists of; None where ``state.json`` does not say."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return frozenset(str(item["filename"]) for item in state["_data_files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_listed(file: Path) -> bool:
    names = _listed(file.parent)
    return names is None or file.name in names


def _open(
    shown: str, found: list[Path], options: ReadOptions, scratch: Path, report: ReadReport
) -> Iterator[SourceFile]:
    if not found:
        yield from _members(_spool(shown, options, scratch), scratch, report)
        return
    root = Path(shown)
    folder_info = _dataset_info(root) if root.is_dir() else {}
    groups: dict[str, tuple[Path, ...]] = {}
    names: dict[Path, str] = {}
    for path in found:
        name = _dataset_name(path, root, folder_info)
        names[path] = name
        if name:
            groups[name] = (*groups.get(name, ()), path)
    for path in found:
        file = SourceFile(
            path=path,
            shown=str(path),
            file_name=path.name,
            licence=_licence(path, root, folder_info),
            dataset=names[path],
            encoding=options.encoding,
            max_record_bytes=options.max_record_bytes,
            sha256_of=groups.get(names[path], ()),
        )
        yield from _members(file, scratch, report)


def _members(file: SourceFile, scratch: Path, report: ReadReport) -> Iterator[SourceFile]:
    """The file itself, or the data files of a zip archive. An evaluation log is one file under the archive's own name."""
    try:
        with file.path.open("rb") as stream:
            is_zip = stream.read(4) == ZIP_MAGIC
        if not is_zip:
            yield file
            return
        found = 0
        for member in members(file.path, file.shown, scratch, SUFFIXES, report.note):
            found += 1
            whole = member.name == "samples.json"
            yield replace(
                file,
                path=member.path,
                shown=file.shown if whole else f"{file.shown}/{member.name}",
                file_name=file.file_name if whole else Path(member.name).name,
                sha256_of=(file.path,),
                sample=None,
            )
        if not found:
            kinds = ", ".join("." + suffix for suffix in SUFFIXES)
            raise FileError(f"{file.shown}: a zip archive without data in it. Members read: {kinds}.")
    except OSError as error:
        report.bad_file(FileError(f"{file.shown}: cannot be opened ({error.strerror})."), file.shown)
    except FileError as error:
        report.bad_file(error, file.shown)


def _spool(shown: str, options: ReadOptions, scratch: Path) -> SourceFile:
    """Standard input or a pipe as a file: readers look at the start first, and the hash comes before the first chain."""
    path = scratch / "stdin"
    try:
        with path.open("wb") as out:
            if shown == "-":
                if sys.stdin is None:
                    raise InputError("-: standard input is closed, so there is nothing to read. Name a file.")
                shutil.copyfileobj(sys.stdin.buffer, out)
            else:
                with Path(shown).open("rb") as pipe:
                    shutil.copyfileobj(pipe, out)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(
                f"{shown}: it is kept in {scratch.parent} while it is read, and cannot be written there: {refused(error)}, or "
                "name another folder in TMPDIR"
            ) from None
        raise InputError(f"{shown}: cannot be read ({error.strerror}).") from None
    return SourceFile(
        path=path,
        shown="<stdin>" if shown == "-" else shown,
        file_name="stdin",
        encoding=options.encoding,
        max_record_bytes=options.max_record_bytes,
    )


# --- Hugging Face folders and licences ------------------------------------------------------------------------------

_SHARD = re.compile(r"^(?P<split>[A-Za-z][\w.]*?)?-?\d{4,5}-of-\d{4,5}(-[0-9a-f]+)?\.(parquet|arrow)$")


def _dataset_info(folder: Path) -> dict[str, Any]:
    """``dataset_info.json`` of a data set folder, from the folder or, for one with splits, its first split."""
    for path in (folder / "dataset_info.json", *sorted(folder.glob("*/dataset_info.json"))):
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(info, dict):
            return info
    return {}


def _dataset_name(path: Path, root: Path, info: dict[str, Any]) -> str:
    """``dataset/split`` for a shard of a Hugging Face data set, else an empty string: the file's own name will do."""
    shard = _SHARD.match(path.name)
    saved = (path.parent / "state.json").is_file() or (path.parent / "dataset_info.json").is_file()
    if not shard and not (saved and path.suffix == ".arrow"):
        return ""
    split = (shard.group("split") if shard else "") or ""
    inside = list(path.relative_to(root).parts[:-1]) if root.is_dir() else [path.parent.name]
    if split in ("", "data"):
        split = inside.pop() if len(inside) else ""
    dataset = str(info.get("dataset_name") or (root.resolve().name if root.is_dir() else path.parent.name))
    return f"{dataset}/{split}" if split and split != dataset else dataset


def _licence(path: Path, root: Path, info: dict[str, Any]) -> str:
    """Licence of a file: what the data set's info says, else the licence file or the note beside it or, inside the folder that
    the user named, above it."""
    if info.get("license"):
        return str(info["license"])
    folder = path.parent
    while True:
        found = _folder_licence(folder)
        if found or not root.is_dir() or folder == root or root not in folder.parents:
            return found
        folder = folder.parent


def _folder_licence(folder: Path) -> str:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    names: list[str] = []
    for file in files:
        if _LICENCE_FILE.fullmatch(file.name) and file.suffix not in (".py", ".json"):
            name = _licence_name(file)
            if name and name not in names:
                names.append(name)
    if names:
        return "; ".join(names)
    for file in files:
        if file.name.lower().startswith("readme"):
            said = _LICENCE_LINE.search(_start(file))
            if said:
                return said.group(1).strip().strip("\"'").rstrip(".")
    return ""


def _licence_name(file: Path) -> str:
    """A short name where the text is a well-known licence, else its first line."""
    start = _start(file)
    for phrase, name in _KNOWN_LICENCES:
        if phrase.lower() in start[:1500].lower():
            return name
    return next((line.strip()[:200] for line in start.splitlines() if line.strip()), "")


def _start(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(8192).decode("utf-8", "replace")
