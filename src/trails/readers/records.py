"""Readers of records: the native format, exports of trails, chat transcripts, and any record with a field that holds a chain.

In: one record (a mapping). Out: drafts of chains. :class:`RecordReader` does what they share: going through the container,
putting the user's own fields in front, checking, counting.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any

from trails.errors import InputError
from trails.platform.text import counted
from trails.readers.base import (
    BadRecordError,
    Draft,
    ReadOptions,
    ReadReport,
    SourceFile,
    as_text,
    check_unicode,
    finish,
    record_id,
)
from trails.readers.containers import records, sample
from trails.readers.conversation import (
    LIST_FIELDS,
    SYSTEM_FIELDS,
    Said,
    Turn,
    chains_of,
    content_text,
    messages_in,
    parse,
    shown,
    tree_path,
    untargeted,
    with_system,
)
from trails.readers.doubtful import served
from trails.readers.fields import ALTERNATIVE_FIELDS, ID_FIELDS, THOUGHT_FIELDS, Layout, decide, empty, items_of
from trails.readers.paths import fields_found, opened, top_field, value_at
from trails.readers.thought import Written, take_apart
from trails.schema import Chain, stable_hash

MIN_THOUGHT_WORDS = 4
"""A field beside the messages that is named as a thought and has no more words is a switch (``reasoning: on``)."""

Make = Callable[[Mapping[str, Any], "Context"], Iterable[Draft]]


class Skip(Exception):  # noqa: N818 - it is no error
    """A record that is no chain and no mistake: a span that is no generation, a header of a log. The message says what."""


@dataclass(slots=True)
class Context:
    """What a record reader may need beside the record. ``counts`` are sentences for the user and how often each applies."""

    file: SourceFile
    options: ReadOptions
    report: ReadReport
    layout: Layout | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def told(self, said: Said | Written) -> None:
        """Count what the user should know about how a turn was taken apart."""
        apart = said.apart if isinstance(said, Said) else said
        sentences = {
            "opened-by-template": "a thought has only its closing mark, so it begins where the text begins",
            "unfinished": "a thought has no closing mark, so it goes to the end of the text (thought = unfinished)",
            "empty": "the marks of the thought are empty, so the text after them is the chain (thought = empty)",
        }
        if apart.kind in sentences:
            self.counts[sentences[apart.kind]] += 1
        if apart.thoughts > 1:
            self.counts[
                "several thoughts in one turn, joined by a blank line; the text between is in text_between"
            ] += 1
        if apart.left:
            self.counts[f"marks stay inside the chain ({', '.join(sorted(set(apart.left))[:3])})"] += 1
        if isinstance(said, Said):
            for kind in sorted(set(said.turn.left_out)):
                self.counts[f"{kind} was left out"] += 1


@dataclass(frozen=True, slots=True)
class RecordReader:
    """A reader of records in any container. ``recognise`` looks at a record, ``drafts`` turns one record into chains.

    ``dataset`` is the name in front of the file's stem in the source name; empty: the file's own name. ``plan`` says whether
    the layout of the fields is decided from the first records; ``takes`` names the fields of one that is always the same.
    """

    name: str
    about: str
    recognise: Callable[[Mapping[str, Any]], bool]
    drafts: Make
    dataset: str = ""
    plan: bool = False
    takes: tuple[tuple[str, str], ...] = ()

    def can_read(self, file: SourceFile) -> bool:
        """Whether at least half of the first records have the shape that this reader knows."""
        first = sample(file)
        return bool(first) and 2 * sum(_safely(self.recognise, record) for record in first) >= len(first)

    def source_name(self, file: SourceFile) -> str:
        """``gsm8k/train`` for a known data set, else the file's name."""
        return f"{self.dataset}/{file.stem}" if self.dataset and not file.dataset else file.name

    def read(self, file: SourceFile, options: ReadOptions, report: ReadReport) -> Iterator[Chain]:
        """Chains of all records."""
        context = Context(file, options, report)
        if self.plan:
            context.layout = decide(sample(file), options)
            if context.layout is not None:
                report.fields(file.shown, context.layout.taken, context.layout.passed_over, context.layout.given)
        if self.takes:
            report.fields(file.shown, dict(self.takes), ())
        source = self.source_name(file)
        for place, record in records(file, report):
            try:
                if not isinstance(record, Mapping):
                    raise BadRecordError(f"a JSON object is needed, this is {_json_type(record)}.")
                if not options.fields:
                    _check_served(record)
                for draft in self._drafts(record, context):
                    own = draft.metadata.pop("source", "") if self.name in ("trails", "exports") else ""
                    draft.source_id = draft.source_id or record_id(record)
                    if options.family:
                        draft.family = as_text(_at(record, options.family, "family"))
                    chain = replace(finish(draft, file, options, own or source), line=place)
                    yield _native(chain, record, options) if self.name == "trails" else chain
            except Skip as passed:
                context.counts[str(passed)] += 1
            except BadRecordError as problem:
                report.bad_record(file.shown, place, str(problem))
            except RecursionError:
                report.bad_record(file.shown, place, "nested too deep.")
            except (KeyError, TypeError, AttributeError, ValueError, IndexError) as problem:
                # a special reader trusts the shape of its data set; a record of another shape is a bad record
                if isinstance(problem, InputError) or self.name in ("records", "messages", "trails"):
                    raise
                report.bad_record(
                    file.shown,
                    place,
                    f"not a record that --reader {self.name} understands; fields found: {fields_found(record)}.",
                )
        for sentence, count in context.counts.items():
            report.note(f"{file.shown}: {f'{count:,} times' if count > 1 else 'once'}: {sentence}.")

    def _drafts(self, record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
        """The reader's chains with the parts that the user mapped. A mapped chain is read as a record of any kind."""
        options = context.options
        if self.plan or not options.fields:
            yield from self.drafts(record, context)
            return
        if options.mapped("chain"):
            if context.layout is None:
                context.layout = decide(sample(context.file), options)
                if context.layout is not None:
                    context.report.fields(
                        *(context.file.shown, context.layout.taken, context.layout.passed_over, context.layout.given)
                    )
            yield from _any_drafts(record, context)
            return
        parts = {part: _at(record, options.fields[part], part) for part in options.fields}
        context.report.fields(context.file.shown, dict(options.fields), ())
        drafts = list(self.drafts(record, context))
        for number, draft in enumerate(drafts):
            if "question" in parts:
                draft.question, draft.messages = content_text(parts["question"]).strip(), []
            if "answer" in parts:
                draft.answer = content_text(parts["answer"]).strip()
            if "language" in parts:
                draft.language = content_text(parts["language"])
            if "id" in parts:
                draft.source_id = as_text(parts["id"]) + (f"#{number + 1}" if len(drafts) > 1 else "")
            yield draft


def _safely(recognise: Callable[[Mapping[str, Any]], bool], record: Mapping[str, Any]) -> bool:
    try:
        return bool(recognise(record))
    except (RecursionError, KeyError, TypeError, AttributeError, ValueError, IndexError):
        return False


def _at(record: Mapping[str, Any], path: str, part: str) -> Any:
    """The value at a path that the user named. Raises BadRecordError when it is not there."""
    try:
        return value_at(record, path)
    except LookupError:
        raise BadRecordError(f"no field {path!r} for the {part}; fields found: {fields_found(record)}.") from None


def _check_served(record: Mapping[str, Any]) -> None:
    """Raises BadRecordError for what a server answers instead of data."""
    said = served(record)
    if said is not None and not messages_in(record):
        raise BadRecordError(f"this is an error message of a server, not data: {as_text(said)[:120]!r}.")


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
    record |= {key: getattr(chain, key) for key in ("messages", "family") if getattr(chain, key)}
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
    for key in ("answer", "language", "licence", "source_sha256", "messages", "family"):
        if not isinstance(record.get(key, ""), str):
            raise BadRecordError(f"field {key!r} is {_json_type(record[key])}, text is needed.")
    for key in ("source", "language", "licence", "source_sha256", "messages"):
        check_unicode(key, record.get(key) or "")
    boundaries, metadata = record.get("boundaries") or [], record.get("metadata") or {}
    if not isinstance(boundaries, Sequence) or not all(isinstance(b, int) for b in boundaries):
        raise BadRecordError("field 'boundaries' must be an array of character offsets.")
    if any(not 0 <= b < max(len(record["text"]), 1) for b in boundaries):
        raise BadRecordError(
            f"field 'boundaries' has an offset outside the text of {counted(len(record['text']), 'character')}."
        )
    pairs = metadata.items() if isinstance(metadata, Mapping) else metadata  # Arrow maps come as pairs
    yield Draft(
        text=record["text"],
        question=record["question"],
        answer=record.get("answer") or "",
        source_id=record["source_id"],
        language=record.get("language") or "",
        boundaries=tuple(boundaries),
        metadata={"source": record["source"]} | {str(key): as_text(value) for key, value in pairs},
        family=record.get("family") or "",
    )


def _native(chain: Chain, record: Mapping[str, Any], options: ReadOptions) -> Chain:
    """The native record's own provenance instead of that of the file it travelled in."""
    return replace(
        chain,
        source=options.source or record["source"],
        source_id=chain.source_id if options.fields.get("id") else record["source_id"],
        boundaries=tuple(record.get("boundaries") or ()),
        source_sha256=record.get("source_sha256", chain.source_sha256),
        licence=options.licence or record.get("licence", chain.licence),
        messages=record.get("messages") or "",
    )


# --- any record -----------------------------------------------------------------------------------------------------

DOCUMENTED = {
    # name in the metadata: names that data sets give it
    "correct": (
        *("correct", "is_correct", "correctness", "correctness_math_verify", "correctness_llama"),
        *("final_answer_correct", "verified", "passed", "is_reasoning_correct"),
    ),
    "finish_reason": ("finish_reason", "stop_reason", "finish_reasons"),
    "gold_answer": ("gold_answer", "reference_answer", "ground_truth", "ground_truth_answer"),
    "grade": ("grade", "score", "reward", "rating", "overall_score"),
}
"""Metadata of one name and one spelling, whatever the data set calls it; its own name stays beside it."""


def documented(metadata: dict[str, str]) -> dict[str, str]:
    """The metadata with :data:`DOCUMENTED` names added where the record says the same under another name."""
    for name, others in DOCUMENTED.items():
        if name in metadata:
            continue
        value = next((metadata[other] for other in others if other in metadata), None)
        if value is None or value in ("null", "None", ""):
            continue
        if name == "correct":
            value = {
                "true": "true",
                "1": "true",
                "1.0": "true",
                "c": "true",
                "false": "false",
                "0": "false",
                "0.0": "false",
            }.get(value.lower(), "false" if value == "I" else "")
        if value and not value.startswith(("[", "{")):
            metadata[name] = value
    return metadata


def extras(record: Mapping[str, Any], used: Iterable[str]) -> dict[str, str]:
    """The fields of a record that are no part of the chain, as metadata."""
    used = set(used)
    return {str(key): as_text(value) for key, value in record.items() if str(key) not in used and value is not None}


def first_wrong(labels: Sequence[Any]) -> str:
    """Index of the first wrong step, ``-1`` for none, of a list of verdicts; empty when they are no verdicts."""
    said = [label for label in labels if label is not None]
    if not said:
        return ""
    if all(isinstance(label, bool) for label in said):
        bad: tuple[Any, ...] = (False,)
    elif all(type(label) is int and -1 <= label <= 1 for label in said):
        bad = (-1,) if -1 in said else (0,)  # +1, 0 and -1, or 1 and 0
    elif all(label in ("+", "-") for label in said if isinstance(label, str)) and all(isinstance(x, str) for x in said):
        bad = ("-",)
    else:
        return ""
    wrong = [place for place, label in enumerate(labels) if label is not None and label in bad]
    return str(wrong[0]) if wrong else "-1"


def split_thought(text: str) -> tuple[str, str]:
    """``<think>chain</think>answer`` as (chain, answer); the text and an empty answer when nothing is marked."""
    apart = take_apart(text)
    return apart.chain, apart.answer


def _any_drafts(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    layout, options = context.layout, context.options
    for part, path in options.fields.items():
        _at(record, path, "chain" if part == "text" else part)
    if layout is None:
        raise BadRecordError(
            f"no field looks like a chain; fields found: {fields_found(record)}. Name it: --field chain=FIELD."
        )
    try:
        value = value_at(record, layout.chain)
    except LookupError:
        value = None
    if empty(value):
        what = "empty" if top_field(record, layout.chain) in record else "missing"
        raise BadRecordError(
            f"the field {layout.chain!r}, which holds the chain in this file, is {what}; fields found: {fields_found(record)}."
        )
    before, question = _before(record, layout)
    used = {top_field(record, path) for path in layout.used} | (
        set(SYSTEM_FIELDS) if before and before[0].role == "system" else set()
    )
    metadata = extras(record, used)
    gold, said = _scalar(record, layout.answer), _scalar(record, layout.own)
    after = content_text(_maybe(record, layout.after)) if layout.after else ""
    identity = _scalar(record, layout.id) or ""
    language = content_text(_maybe(record, layout.language)) if layout.language else ""
    drafts: list[Draft]
    if layout.kind == "preference":
        drafts = []
        other = [key for key in record if str(key).lower() == "rejected" and not empty(record[key])]
        for name in (layout.chain, *other):
            drafts += _of_item(
                record[name], before, question, dict(metadata) | {"preference": str(name).lower()}, context
            )
            metadata.pop("rejected", None)
        for draft in drafts:
            draft.metadata.pop("rejected", None)
        context.counts["chosen and rejected answers are a chain each; metadata preference tells them apart"] += 1
    elif layout.kind == "steps" and (items := items_of(value)) and len(items) > 1:
        text, boundaries = join_lines([item.strip() for item in items])
        for name in layout.parallel:
            given = record.get(name)
            if given is not None:
                metadata[name] = as_text(given)
                metadata |= (
                    {"first_wrong_step": wrong}
                    if (wrong := first_wrong(given)) and "first_wrong_step" not in metadata
                    else {}
                )
        label = record.get("label")
        if type(label) is int and -1 <= label < len(items) and "first_wrong_step" not in metadata:
            metadata["first_wrong_step"] = str(label)
        drafts = [Draft(text, question, boundaries=boundaries, metadata=metadata, messages=_context(before))]
    elif layout.kind == "alternatives" and isinstance(value, Sequence) and not isinstance(value, str):
        items = [item for item in value if item is not None]
        drafts = []
        problems: list[str] = []
        for number, item in enumerate(items):
            own = dict(metadata)
            for name in layout.parallel:
                given = record.get(name)
                if isinstance(given, list) and number < len(given) and given[number] is not None:
                    own[name] = as_text(given[number])
            if isinstance(item, Mapping):
                own |= {str(k): as_text(v) for k, v in item.items() if k not in ("text", "content") and v is not None}
            if len(items) > 1:
                own["alternative"] = str(number)
            try:
                drafts += _of_item(item, before, question, own, context)
            except BadRecordError as problem:
                problems.append(f"alternative {number}: {problem}")
        if not drafts:
            raise BadRecordError(problems[0] if problems else "the chain is empty.")
        for left_out in problems:
            context.counts[f"left out: {left_out}".rstrip(".")] += 1
    else:
        drafts = _of_item(value, before, question, metadata, context)
    several = len(drafts) > 1
    identity = identity or (record_id(record) if several else "")
    for number, draft in enumerate(drafts):
        draft.source_id = f"{identity}:{number}" if several else identity
        draft.identity, draft.language = identity, language
        documented(draft.metadata)
        _answer(draft, gold, said, after, layout)
        yield draft


def _answer(draft: Draft, gold: str | None, said: str | None, after: str, layout: Layout) -> None:
    """The answer is what the text came to, by its own marks, the field behind the thought or the field that says it (``said``).
    The data's own answer (``gold``) stands in where no field says that, but not behind a chain that is known to be wrong.
    """
    own = draft.answer
    if after.strip():
        apart = take_apart(after)
        if own:
            draft.metadata["output"] = own
        own = (apart.answer or apart.chain).strip()
    own, gold = own or (said or "").strip(), (gold or "").strip()
    wrong = draft.metadata.get("correct") == "false"
    wrong = wrong or draft.metadata.get("preference") == "rejected" or bool(layout.own)
    draft.answer = own or ("" if wrong else gold)
    if gold and (gold != draft.answer or layout.own) and "gold_answer" not in draft.metadata:
        draft.metadata["gold_answer"] = gold
    if layout.own and gold and own and "correct" not in draft.metadata:
        same = same_answer(own, gold)
        if same is not None:
            draft.metadata["correct"] = "true" if same else "false"


_PLAIN = re.compile(r"[-+]?\d+(\.\d+)?|[a-z]|true|false|yes|no")


def same_answer(said: str, gold: str) -> bool | None:
    """Whether two answers are the same; None where the texts differ and one of them is no plain number, letter, yes or no, so
    that both may say the same in two ways.
    """
    one, other = (re.sub(r"(?<=\d),(?=\d{3}\b)", "", " ".join(text.split()).casefold()) for text in (said, gold))
    if one == other:
        return True
    if not (_PLAIN.fullmatch(one) and _PLAIN.fullmatch(other)):
        return None
    return one[-1].isdigit() and other[-1].isdigit() and float(one) == float(other)


def _maybe(record: Mapping[str, Any], path: str) -> Any:
    try:
        return value_at(record, path)
    except LookupError:
        return None


def _scalar(record: Mapping[str, Any], path: str) -> str | None:
    value = _maybe(record, path) if path else None
    if value is None or value == "":
        return None
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | int | float):
        value = value[0]
    return value if isinstance(value, str) else as_text(value)


def _before(record: Mapping[str, Any], layout: Layout) -> tuple[list[Turn], str]:
    """What stands before the chain: turns, and the same as text. Alpaca's ``input``, ``history``, ``system`` belong to it."""
    value = _maybe(record, layout.question) if layout.question else None
    talk = messages_in(value)
    if talk is not None:
        turns = untargeted(parse(talk))
    else:
        text = content_text(value).strip()
        more = content_text(record.get(layout.also)).strip() if layout.also else ""
        text = "\n".join(filter(None, (text, more)))
        turns = [Turn("user", text)] if text else []
        turns = [*_history(record), *turns]
    turns = with_system(record, turns) if turns and layout.chain not in SYSTEM_FIELDS else turns
    return turns, shown([(turn.role, turn.content.strip()) for turn in turns if turn.content.strip()])


def _history(record: Mapping[str, Any]) -> list[Turn]:
    """Earlier turns as pairs of question and answer."""
    history = opened(record.get("history"))
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        return []
    turns = []
    for asked, said in history:
        turns += [Turn("user", content_text(asked)), Turn("assistant", content_text(said), target=False)]
    return turns


def _context(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The turns as messages: what a turn of the assistant behind them would stand on. Empty for the question alone."""
    if not turns or (len(turns) == 1 and turns[0].role == "user" and not turns[0].name):
        return []
    return chains_of([*turns, Turn("assistant", "x")], ())[-1].messages


def _of_item(value: Any, before: list[Turn], question: str, metadata: dict[str, str], context: Context) -> list[Draft]:
    """Chains of one value: a text, a message, or a conversation that goes on from what stands before."""
    talk = messages_in(value)
    if talk is not None:
        turns = parse(talk)
        if before and [(t.role, t.content) for t in turns[: len(before)]] == [(t.role, t.content) for t in before]:
            turns = turns[len(before) :]  # the whole conversation again, as preference data may have it
        found = chains_of([*before, *turns], context.options.marks)
        if not found:
            raise BadRecordError("no message of the assistant, so no chain.")
        for said in found:
            context.told(said)
        return [said.draft(metadata) for said in found]
    if isinstance(value, Sequence | Mapping) and not isinstance(value, str):
        items = items_of(value)
        if items is not None and len(items) == 1:
            value = items[0]
        elif items is not None:
            text, boundaries = join_lines([item.strip() for item in items])
            return [Draft(text, question, boundaries=boundaries, metadata=metadata, messages=_context(before))]
    apart = take_apart(content_text(value), context.options.marks)
    context.told(apart)
    metadata = metadata | apart.rest | ({"thought": apart.kind} if apart.kind in ("unfinished", "empty") else {})
    draft = Draft(apart.chain.strip(), question, apart.answer.strip(), metadata=metadata, messages=_context(before))
    return [draft]


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


def talk_in(record: Mapping[str, Any]) -> tuple[str, list[Mapping[str, Any]]] | None:
    """The field of a record that holds its messages, and the messages."""
    for key in LIST_FIELDS[:-1]:
        if key in record:
            found = messages_in(record[key])
            if found is not None:
                return key, found
    path = tree_path(record)
    return ("mapping", path) if path is not None else None


def _is_chat(record: Mapping[str, Any]) -> bool:
    return talk_in(record) is not None and not _has_alternatives(record)


def _has_alternatives(record: Mapping[str, Any]) -> bool:
    """Whether the record holds several thoughts beside its messages, which then repeat one of them."""
    return any(
        isinstance(record.get(name), list)
        and any(isinstance(item, str) and take_apart(item).has_thought for item in record[name])
        for name in ALTERNATIVE_FIELDS
    )


def chat_drafts(
    turns: Sequence[Turn],
    record: Mapping[str, Any],
    context: Context,
    *,
    used: Iterable[str] = (),
    identity: str | None = None,
    metadata: Mapping[str, str] | None = None,
    last_only: bool = False,
) -> list[Draft]:
    """A chain for every turn of the assistant that may be a target; the question is everything said before it."""
    found = chains_of(turns, context.options.marks, last_only=last_only)
    if not found:
        spoke = any(turn.role == "assistant" and (turn.content.strip() or turn.thought.strip()) for turn in turns)
        raise BadRecordError(
            "every message of the assistant has weight 0, so no chain."
            if spoke
            else "no message of the assistant, so no chain."
        )
    extra = dict(metadata) if metadata is not None else extras(record, {*used, *ID_FIELDS})
    if identity is None:
        identity = next(
            (as_text(record[key]) for key in ID_FIELDS if record.get(key) not in (None, "")), record_id(record)
        )
    drafts = []
    for number, said in enumerate(found, 1):
        context.told(said)
        draft = said.draft(extra)
        draft.source_id = identity if len(found) == 1 else f"{identity}#{number}"
        draft.identity = identity
        documented(draft.metadata)
        drafts.append(draft)
    return drafts


def _chat(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    found = talk_in(record)
    if found is None:
        blank = next((key for key in LIST_FIELDS[:-1] if key in record and empty(record[key])), "")
        what = f"the field {blank!r} is empty" if blank else "no list of messages"
        raise BadRecordError(f"{what}; fields found: {fields_found(record)}.")
    field_name, talk = found
    turns, thought_field = _with_thought(record, with_system(record, parse(talk)))
    used = {
        field_name,
        thought_field,
        *(key for key in SYSTEM_FIELDS if turns[0].role == "system" and record.get(key) == turns[0].content),
    }
    context.report.fields(
        context.file.shown,
        {"messages": field_name} | ({"thought": thought_field} if thought_field else {}),
        [str(key) for key in record if str(key) not in used and str(key) not in ID_FIELDS],
    )
    return chat_drafts(turns, record, context, used=used)


def _with_thought(record: Mapping[str, Any], turns: list[Turn]) -> tuple[list[Turn], str]:
    """The turns, the last answer with the thought that the record keeps beside its messages, and the field of that thought."""
    last = max((place for place, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
    if last < 0 or turns[last].thought or take_apart(turns[last].content).has_thought:
        return turns, ""
    for name in THOUGHT_FIELDS:
        value = record.get(name)
        if isinstance(value, str) and len(value.split()) > MIN_THOUGHT_WORDS:
            return [*turns[:last], replace(turns[last], thought=value), *turns[last + 1 :]], name
    return turns, ""


# --- exports of trails ----------------------------------------------------------------------------------------------

_CHAIN_ID = re.compile(r"c[0-9a-f]{16}")


def is_export(record: Mapping[str, Any]) -> bool:
    """Whether a record is a row of ``trails export``: it names its chain and the graph elements of its tokens."""
    chain = record.get("chain")
    return (
        isinstance(chain, str)
        and bool(_CHAIN_ID.fullmatch(chain))
        and ("token_ids_in_graph" in record or "step_spans" in record)
    )


def _export_drafts(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    """The chain of an exported row, where the row holds the whole of it: then its text gives the id that the row names."""
    if not is_export(record):
        raise BadRecordError(f"not a row of an export; fields found: {fields_found(record)}.")
    wanted = record["chain"]
    parts = [record.get(key) for key in ("question", "source", "source_id", "prompt", "completion")]
    question, source, source_id, prompt, completion = (part if isinstance(part, str) else None for part in parts)
    if (
        question is not None
        and source is not None
        and source_id is not None
        and prompt is not None
        and completion is not None
    ):
        text = (prompt + completion)[len(question) + 1 if question else 0 :]
        if "c" + stable_hash(source, source_id, question, text) == wanted:
            yield Draft(
                *(text, question, "", source_id, record.get("language") or ""),
                metadata={"source": source, "exported": wanted},
                family=record.get("family") or None,
            )
            return
    raise BadRecordError(
        f"a row of trails' own export: column 'chain' is the id {wanted}, and the row does not hold that whole chain. "
        "Ingest the data the export was made from, or the export of whole chains with --format trails."
    )


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
    _chat,
)
EXPORTS = RecordReader(
    "exports",
    "rows of `trails export`: read where they hold a whole chain, refused otherwise",
    is_export,
    _export_drafts,
)
RECORDS = RecordReader(
    "records",
    "any records (JSON Lines, JSON, Parquet, Arrow, CSV) with a field for the chain; fields are guessed and told, or mapped",
    lambda record: True,
    _any_drafts,
    plan=True,
)
