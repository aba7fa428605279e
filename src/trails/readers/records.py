"""Readers of records: the native format, chat transcripts, and any record with a field that holds a chain.

In: one record (a mapping). Out: drafts of chains. :class:`RecordReader` does what they share: going through the container,
checking, counting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

from trails.errors import InputError
from trails.readers.base import BadRecordError, Draft, ReadOptions, ReadReport, SourceFile, as_text, finish, record_id
from trails.readers.containers import records
from trails.schema import Chain

QUESTION_FIELDS = ("question", "problem", "instruction", "prompt", "query", "input", "statement", "conclusion", "title")
CHAIN_FIELDS = (
    *("chain", "chain_of_thought", "cot", "reasoning", "reasoning_content", "thoughts", "thought", "thinking", "trace"),
    *(
        "trail",
        "steps",
        "rationale",
        "explanation",
        "solution",
        "proof",
        "response",
        "completion",
        "output",
        "text",
        "content",
    ),
    *("premises", "context", "answer"),
)
ANSWER_FIELDS = ("answer", "final_answer", "gold_answer", "correct", "target", "expected_answer")
ID_FIELDS = ("id", "uid", "unique_id", "uuid", "qid", "question_id", "example_id", "record_id", "idx", "index")
LANGUAGE_FIELDS = ("language", "lang")
MAX_FIELDS_SHOWN = 20

Make = Callable[[Mapping[str, Any], "Context"], Iterable[Draft]]


@dataclass(frozen=True, slots=True)
class Context:
    """What a record reader may need beside the record."""

    file: SourceFile
    options: ReadOptions
    report: ReadReport


def fields_found(record: Mapping[str, Any]) -> str:
    """Names of the record's fields for a message."""
    names = [str(name) if len(str(name)) <= 40 else f"{str(name)[:39]}…" for name in record]
    return (
        ", ".join(names[:MAX_FIELDS_SHOWN]) + (f", … {len(names)} in all" if len(names) > MAX_FIELDS_SHOWN else "")
        or "none"
    )


@dataclass(frozen=True, slots=True)
class RecordReader:
    """A reader of records in any container. ``recognise`` looks at the first record, ``drafts`` turns one record into chains.

    ``dataset`` is the name in front of the file's stem in the source name; empty: the file's own name.
    """

    name: str
    about: str
    recognise: Callable[[Mapping[str, Any]], bool]
    drafts: Make
    dataset: str = ""

    def can_read(self, file: SourceFile) -> bool:
        """Whether the first record has the shape that this reader knows."""
        first = file.first_record
        return first is not None and self.recognise(first)

    def source_name(self, file: SourceFile) -> str:
        """``gsm8k/train`` for a known data set, else the file's name."""
        return f"{self.dataset}/{file.stem}" if self.dataset and not file.dataset else file.name

    def read(self, file: SourceFile, options: ReadOptions, report: ReadReport) -> Iterator[Chain]:
        """Chains of all records."""
        context = Context(file, options, report)
        source = self.source_name(file)
        for place, record in records(file, report):
            try:
                if not isinstance(record, Mapping):
                    raise BadRecordError(f"a JSON object is needed, this is {_json_type(record)}.")
                for draft in self.drafts(record, context):
                    own = draft.metadata.pop("source", "") if self.name == "trails" else ""
                    draft.source_id = draft.source_id or record_id(record)
                    chain = finish(draft, file, options, own or source)
                    yield _native(chain, record, options) if self.name == "trails" else chain
            except BadRecordError as problem:
                report.bad_record(file.shown, place, str(problem))
            except (KeyError, TypeError, AttributeError, ValueError, IndexError) as problem:
                # a special reader trusts the shape of its data set; a record of another shape is a bad record
                if isinstance(problem, InputError) or self.name in ("records", "messages", "trails"):
                    raise
                report.bad_record(
                    file.shown,
                    place,
                    f"not a record that --reader {self.name} understands; fields found: {fields_found(record)}.",
                )


def _json_type(value: Any) -> str:
    names: dict[type, str] = {
        list: "an array",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)


# --- the native format ----------------------------------------------------------------------------------------------

_NATIVE = ("source", "source_id", "question", "text")


def chain_record(chain: Chain) -> dict[str, Any]:
    """A chain as the native JSON object; :func:`read` of it gives an equal chain."""
    record: dict[str, Any] = {key: getattr(chain, key) for key in _NATIVE}
    record |= {"answer": chain.answer, "language": chain.language, "boundaries": list(chain.boundaries)}
    record |= {"metadata": dict(chain.metadata), "source_sha256": chain.source_sha256, "licence": chain.licence}
    return record


def write_chains(chains: Iterable[Chain], out: IO[str]) -> int:
    """Write chains as native JSON Lines; return how many."""
    count = 0
    for chain in chains:
        out.write(json.dumps(chain_record(chain), ensure_ascii=False) + "\n")
        count += 1
    return count


def _native_drafts(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    missing = [key for key in _NATIVE if not isinstance(record.get(key), str)]
    if missing:
        raise BadRecordError(f"no text field {missing[0]!r}; fields found: {fields_found(record)}.")
    for key in ("answer", "language", "licence", "source_sha256"):
        if not isinstance(record.get(key, ""), str):
            raise BadRecordError(f"field {key!r} is {_json_type(record[key])}, text is needed.")
    boundaries, metadata = record.get("boundaries") or [], record.get("metadata") or {}
    if not isinstance(boundaries, Sequence) or not all(isinstance(b, int) for b in boundaries):
        raise BadRecordError("field 'boundaries' must be an array of character offsets.")
    if any(not 0 <= b < max(len(record["text"]), 1) for b in boundaries):
        raise BadRecordError(f"field 'boundaries' has an offset outside the text of {len(record['text'])} characters.")
    pairs = metadata.items() if isinstance(metadata, Mapping) else metadata  # Arrow maps come as pairs
    yield Draft(
        text=record["text"],
        question=record["question"],
        answer=record.get("answer") or "",
        source_id=record["source_id"],
        language=record.get("language") or "",
        boundaries=tuple(boundaries),
        metadata={"source": record["source"]} | {str(key): as_text(value) for key, value in pairs},
    )


def _native(chain: Chain, record: Mapping[str, Any], options: ReadOptions) -> Chain:
    """The native record's own provenance instead of that of the file it travelled in."""
    return replace(
        chain,
        source=options.source or record["source"],
        source_id=record["source_id"],
        boundaries=tuple(record.get("boundaries") or ()),
        source_sha256=record.get("source_sha256", chain.source_sha256),
        licence=options.licence or record.get("licence", chain.licence),
    )


# --- any record -----------------------------------------------------------------------------------------------------

_THOUGHT = re.compile(r"\s*<(think|thinking|thought|reasoning)>\s*", re.IGNORECASE)


def split_thought(text: str) -> tuple[str, str]:
    """``<think>chain</think>answer`` as (chain, answer); the text and an empty answer when it does not begin like that."""
    opened = _THOUGHT.match(text)
    if not opened:
        return text, ""
    closing = re.compile(rf"</{opened.group(1)}>", re.IGNORECASE).search(text, opened.end())
    if not closing:
        return text[opened.end() :], ""
    rest = text[closing.end() :].strip()
    output = re.fullmatch(r"<output>(.*?)(</output>)?", rest, re.IGNORECASE | re.DOTALL)
    return text[opened.end() : closing.start()], output.group(1).strip() if output else rest


def content_text(value: Any) -> str:
    """Text of a field: a string, a message, a list of strings or messages, or the text parts of a message."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return content_text(value.get("content", value.get("value", value.get("text"))))
    if isinstance(value, Sequence):
        return "\n".join(filter(None, (content_text(item) for item in value)))
    return as_text(value)


def _holds_text(value: Any) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return bool(value) and all(
            isinstance(item, str) or (isinstance(item, Mapping) and "content" in item) for item in value
        )
    return isinstance(value, str) or (isinstance(value, Mapping) and "content" in value)


def _guess(candidates: Sequence[str], record: Mapping[str, Any], taken: Iterable[str], *, scalar: bool = False) -> str:
    lowered = {str(key).lower(): str(key) for key in record}
    for candidate in candidates:
        key = lowered.get(candidate)
        if key is None or key in taken or record[key] in (None, "", []):
            continue
        if _holds_text(record[key]) or (scalar and type(record[key]) in (int, float)):
            return key
    return ""


def guess_fields(record: Mapping[str, Any], options: ReadOptions) -> dict[str, str]:
    """Which field holds which part: the user's mapping first, then the usual names. Raises BadRecordError without a chain."""
    for part in ("question", "chain", "answer", "id", "language"):
        name = options.mapped(part)
        if name and name not in record:
            raise BadRecordError(f"no field {name!r} for the {part}; fields found: {fields_found(record)}.")
    taken = list(options.fields.values())
    guess = {part: options.mapped(part) for part in ("question", "chain", "answer", "id", "language")}
    guess["chain"] = guess["chain"] or _guess(CHAIN_FIELDS, record, taken)
    if not guess["chain"]:
        raise BadRecordError(
            f"no field looks like a chain; fields found: {fields_found(record)}. Name it: --field chain=FIELD."
        )
    taken.append(guess["chain"])
    parts = (("question", QUESTION_FIELDS), ("answer", ANSWER_FIELDS), ("id", ID_FIELDS), ("language", LANGUAGE_FIELDS))
    for part, candidates in parts:
        guess[part] = guess[part] or _guess(candidates, record, taken, scalar=part in ("answer", "id"))
        taken.append(guess[part])
    return guess


def _any_drafts(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    guess = guess_fields(record, context.options)
    shown = ", ".join(f"{part} = {name!r}" for part, name in guess.items() if name)
    context.report.note(f"{context.file.shown}: {shown}; other fields become metadata. Change with --field PART=FIELD.")
    value = record[guess["chain"]]
    listed = isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(item, str) for item in value)
    boundaries: tuple[int, ...] = ()
    if listed:
        text, boundaries = join_lines([item.strip() for item in value])
    else:
        text = content_text(value)
    text, outcome = (text, "") if listed else split_thought(text)
    used = set(filter(None, guess.values()))
    answer = record.get(guess["answer"]) if guess["answer"] else None
    metadata = {str(key): as_text(item) for key, item in record.items() if key not in used and item is not None}
    if outcome and answer is not None:
        metadata["output"] = outcome
    identity = record.get(guess["id"]) if guess["id"] else None
    yield Draft(
        text=text if listed else text.strip(),
        question=content_text(record.get(guess["question"])).strip() if guess["question"] else "",
        answer=(answer if isinstance(answer, str) else as_text(answer)).strip() if answer is not None else outcome,
        source_id="" if identity is None else as_text(identity),
        language=content_text(record.get(guess["language"])) if guess["language"] else "",
        boundaries=boundaries,
        metadata=metadata,
    )


def join_lines(lines: Sequence[str]) -> tuple[str, tuple[int, ...]]:
    """Non-empty items as lines of one text, and the offset at which each begins."""
    kept = [line for line in lines if line.strip()]
    boundaries: list[int] = []
    at = 0
    for line in kept:
        boundaries.append(at)
        at += len(line) + 1
    return "\n".join(kept), tuple(boundaries)


# --- chat transcripts -----------------------------------------------------------------------------------------------

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant"}


def _turns(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = record.get("messages", record.get("conversations", record.get("conversation")))
    if (
        not isinstance(found, Sequence)
        or isinstance(found, str)
        or not all(isinstance(turn, Mapping) for turn in found)
    ):
        raise BadRecordError(f"no list of messages; fields found: {fields_found(record)}.")
    return list(found)


def _is_chat(record: Mapping[str, Any]) -> bool:
    try:
        turns = _turns(record)
    except BadRecordError:
        return False
    return bool(turns) and any(key in turns[0] for key in ("role", "from"))


def _chat_drafts(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    """One chain per assistant turn; the question is everything said before it."""
    said: list[tuple[str, str]] = []
    drafts: list[Draft] = []
    extra = {
        str(key): as_text(value)
        for key, value in record.items()
        if key not in ("messages", "conversations", "conversation", *ID_FIELDS) and value is not None
    }
    identity = next((as_text(record[key]) for key in ID_FIELDS if record.get(key) is not None), record_id(record))
    for turn in _turns(record):
        role = str(turn.get("role", turn.get("from", ""))).lower()
        role = _ROLES.get(role, role)
        if not role:
            raise BadRecordError(f"a message without a role; fields found: {fields_found(turn)}.")
        content = content_text(turn.get("content", turn.get("value")))
        thought = content_text(turn.get("reasoning_content") or turn.get("thinking") or turn.get("reasoning"))
        if role == "assistant" and (content.strip() or thought.strip()):
            chain, outcome = (thought, content) if thought.strip() else split_thought(content)
            # a lone user turn is the question itself; a longer history keeps its speakers
            question = said[0][1] if len(said) == 1 else "\n".join(f"{who}: {what}" for who, what in said)
            drafts.append(Draft(chain.strip(), question.strip(), outcome.strip(), metadata=dict(extra)))
            content = outcome or chain
        if content.strip():
            said.append((role, content.strip()))
    if not drafts:
        raise BadRecordError("no message of the assistant, so no chain.")
    for turn_number, draft in enumerate(drafts, 1):
        draft.source_id = identity if len(drafts) == 1 else f"{identity}#{turn_number}"
        yield draft


TRAILS = RecordReader(
    "trails",
    "trails' own JSON Lines: one chain per line, as the packaged sample and exports of chains use",
    lambda record: (
        all(isinstance(record.get(key), str) for key in _NATIVE) and ("boundaries" in record or "metadata" in record)
    ),
    _native_drafts,
)
MESSAGES = RecordReader(
    "messages",
    "chat transcripts: `messages` with role and content, `conversations` with from and value; one chain per assistant turn",
    _is_chat,
    _chat_drafts,
)
RECORDS = RecordReader(
    "records",
    "any records (JSON Lines, JSON, Parquet, Arrow, CSV) with a field for the chain; fields are guessed and told, or mapped",
    lambda record: True,
    _any_drafts,
)
