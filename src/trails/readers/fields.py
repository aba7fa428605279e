"""Which field of a record is the chain: decided once for a file, from its first records and by what they hold.

In: a sample of records and the user's own mapping. Out: a :class:`Layout`: the field of every part, how the chain lies in its
field (one text, the source's own steps, alternatives), and what was passed over. Names come from the tables below; what the
fields hold decides between names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from trails.readers.base import ReadOptions, as_text
from trails.readers.conversation import content_text, is_message, messages_in
from trails.readers.paths import top_field, value_at
from trails.readers.thought import take_apart

QUESTION_FIELDS = (
    *("question", "problem", "instruction", "prompt", "query", "input", "statement", "conclusion", "title"),
    *("task", "user_prompt", "question_text", "problem_statement", "inputs", "user_input"),
)
THOUGHT_FIELDS = (
    *("chain", "chain_of_thought", "cot", "reasoning", "reasoning_content", "thoughts", "thought", "thinking", "trace"),
    *("trail", "thinking_trajectories", "thinking_trajectory", "deepseek_thinking_trajectory", "deepseek_reasoning"),
    *("reasoning_trace", "reasoning_chain", "reasoning_text", "thought_process", "think", "complex_cot", "long_cot"),
)
ALTERNATIVE_FIELDS = (
    *("thinking_trajectories", "generations", "responses", "samples", "candidates", "model_outputs", "outputs"),
    *("completions", "solutions", "rollouts", "attempts", "resps", "predictions", "choices"),
)
OTHER_CHAIN_FIELDS = (
    *("steps", "rationale", "explanation", "solution", "proof", "response", "completion", "generation", "model_output"),
    *("output", "text", "content", "chosen", "prediction", "generated_text", "model_response", "response_text"),
    *("output_text", "llm_output", "model_answer"),
)
LAST_CHAIN_FIELDS = ("premises", "context", "answer")
CHAIN_FIELDS = (*THOUGHT_FIELDS, *ALTERNATIVE_FIELDS, *OTHER_CHAIN_FIELDS, *LAST_CHAIN_FIELDS)
GOLD_FIELDS = ("gold_answer", "correct", "target", "expected_answer")
ANSWER_FIELDS = ("answer", "final_answer", *GOLD_FIELDS)
OWN_ANSWER_FIELDS = (
    *("model_answer", "predicted_answer", "extracted_answer", "parsed_answer", "model_prediction", "prediction"),
    *("predicted", "pred", "model_output", "model_response"),
)
"""What the chain itself came to, where a record keeps it beside an answer of the data."""
MODEL_FIELDS = frozenset(
    {
        *ALTERNATIVE_FIELDS,
        *(
            "generation",
            "model_output",
            "prediction",
            "generated_text",
            "model_response",
            "response_text",
            "output_text",
        ),
        *("llm_output", "model_answer"),
    }
) - {"solutions"}
"""Chains that a model wrote: an ``answer`` beside one is the data's."""
AFTER_THOUGHT_FIELDS = (
    "response",
    "attempt",
    "deepseek_attempt",
    "deepseek_solution",
    "output",
    "completion",
    "content",
)
"""Where the answer stands that a thought in its own field led to."""

ID_FIELDS = ("id", "uid", "unique_id", "uuid", "qid", "question_id", "example_id", "record_id", "idx", "index")
LANGUAGE_FIELDS = ("language", "lang")

MIN_ANSWER_WORDS = 3
"""A field named answer with fewer words (median) is an answer and no chain."""

MIN_SHARE = 0.2
"""A field that fewer of the records fill is not the chain."""

LONG_WORDS = 60
"""Items of a list with more words than this (median) are chains of their own, not steps of one."""

Kind = Literal["text", "steps", "alternatives", "conversation", "preference"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Which field holds which part. ``parallel`` are lists with one item for every item of the chain's list. ``also`` is a
    second field of the question (``input`` of an instruction), ``after`` the field with the answer that the thought led to.
    ``own`` is the field that says what the chain came to where ``answer`` is the data's answer.
    """

    chain: str
    kind: Kind = "text"
    question: str = ""
    answer: str = ""
    after: str = ""
    id: str = ""
    language: str = ""
    also: str = ""
    parallel: tuple[str, ...] = ()
    own: str = ""
    passed_over: tuple[str, ...] = field(default=(), compare=False)
    used: frozenset[str] = field(init=False, compare=False)
    """Paths that are a part of the chain and so no metadata."""

    def __post_init__(self) -> None:
        """What is used follows from the parts."""
        parts = (self.chain, self.question, self.answer, self.after, self.id, self.language, self.also, self.own)
        object.__setattr__(self, "used", frozenset(filter(None, (*parts, *self.parallel))))

    @property
    def taken(self) -> dict[str, str]:
        """Parts and the fields they come from."""
        answer = self.after or self.own or self.answer
        gold = self.answer if self.own and not self.after else ""
        parts = {"question": self.question, "chain": self.chain, "answer": answer, "gold_answer": gold}
        parts |= {"id": self.id, "language": self.language}
        taken = {part: name for part, name in parts.items() if name}
        if self.also:
            taken["question"] += f" + {self.also}"
        return taken

    @property
    def given(self) -> str:
        """The field of an answer that is the data's, where no field says what the chain came to; empty for none."""
        if not self.answer or self.after or self.own:
            return ""
        of_model = self.chain.lower().rpartition(".")[2].rstrip("[]0123456789") in MODEL_FIELDS
        return self.answer if of_model or self.answer.lower() in GOLD_FIELDS else ""


def empty(value: Any) -> bool:
    """Whether a field holds nothing."""
    return value is None or (isinstance(value, str | list | dict | tuple) and len(value) == 0)


_STEP_NAME = re.compile(r"(step|шаг)?[ _.-]*\d+", re.IGNORECASE)
_TEXT_KEYS = ("text", "content", "step", "value")


def items_of(value: Any) -> list[str] | None:
    """The texts of a list of strings, of objects with a text, of lists of strings, or of an object ``{"step 1": …}``.

    A list inside a list is one item. None for anything else.
    """
    if isinstance(value, Mapping) and value and all(_STEP_NAME.fullmatch(str(key)) for key in value):
        value = list(value.values())
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None
    found: list[str] = []
    for item in value:
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, Mapping) and any(isinstance(item.get(key), str) for key in _TEXT_KEYS):
            found.append(next(item[key] for key in _TEXT_KEYS if isinstance(item.get(key), str)))
        elif isinstance(item, Sequence) and item and all(isinstance(part, str) for part in item):
            found.append("\n".join(item))
        elif item is not None:
            return None
    return found


def _holds_lists(value: Any) -> bool:
    """Whether a list holds lists of several texts: alternatives, each with its own steps."""
    return isinstance(value, list) and any(isinstance(item, list) and len(item) > 1 for item in value)


def holds_text(value: Any) -> bool:
    """Whether a value can be a chain: text, texts, a message or messages."""
    if isinstance(value, str):
        return True
    if isinstance(value, Mapping) and any(isinstance(value.get(key), str) for key in _TEXT_KEYS):
        return True
    return items_of(value) is not None or messages_in(value) is not None


def _words(value: Any) -> int:
    texts = items_of(value)
    if texts is not None:
        return max((len(text.split()) for text in texts), default=0)
    return len(content_text(value).split())


class _Sample:
    """What the fields of the first records hold."""

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.records = records
        self.names: dict[str, str] = {}  # lower case -> as written
        self.values: dict[str, list[Any]] = {}
        for record in records:
            for key, value in record.items():
                name = str(key)
                self.names.setdefault(name.lower(), name)
                if not empty(value):
                    self.values.setdefault(name, []).append(value)

    def named(self, candidates: Iterable[str], taken: Iterable[str]) -> list[str]:
        """Fields of these names that hold anything, in the order of the names."""
        found = (self.names.get(candidate) for candidate in candidates)
        return [name for name in found if name and name in self.values and name not in taken]

    def share(self, name: str) -> float:
        """Share of the records that fill a field."""
        return len(self.values[name]) / len(self.records)

    def words(self, name: str) -> float:
        """Median number of words of a field (of the longest item of a list)."""
        return median(_words(value) for value in self.values[name])

    def marked(self, name: str, options: ReadOptions) -> bool:
        """Whether at least half of the values hold a thought in marks."""
        values = self.values[name]
        hits = sum(
            any(
                take_apart(text, options.marks).has_thought
                for text in ([value] if isinstance(value, str) else items_of(value) or [])
            )
            for value in values
        )
        return 2 * hits >= len(values) and hits > 0


def decide(records: Sequence[Mapping[str, Any]], options: ReadOptions) -> Layout | None:
    """The layout of a file, or None when no field looks like a chain. A part the user mapped is where the user says."""
    sample = _Sample(records)
    mapped = {part: options.mapped(part) for part in ("question", "chain", "answer", "id", "language")}
    taken = [
        *filter(None, mapped.values()),
        *(top_field(records[0], path) for path in mapped.values() if path and records),
    ]
    if not records:
        return None
    chain = mapped["chain"] or _chain(sample, taken, options)
    if not chain:
        return None
    taken.append(chain)
    values = [value for value in (_get(record, chain) for record in records) if not empty(value)]
    kind = _kind(chain, values, sample, options)
    if chain == sample.names.get("chosen") and "rejected" in sample.names:
        kind = "preference"
        taken.append(sample.names["rejected"])
    question = mapped["question"] or _first(sample, QUESTION_FIELDS, taken, _is_question)
    taken.append(question)
    also = ""
    if question.lower() == "instruction" and not mapped["question"]:
        also = _first(sample, ("input", "context"), taken, lambda value: isinstance(value, str))
        taken.append(also)
    after = ""
    if chain.lower() in THOUGHT_FIELDS and not mapped["answer"]:
        after = _first(sample, AFTER_THOUGHT_FIELDS, taken, lambda value: isinstance(value, str) or is_message(value))
        if chain.lower() == "deepseek_reasoning" and "deepseek_solution" in sample.names:
            after = sample.names["deepseek_solution"]
        if chain.lower() == "deepseek_thinking_trajectory" and "deepseek_attempt" in sample.names:
            after = sample.names["deepseek_attempt"]
        taken.append(after)
    own = "" if mapped["answer"] else _own_answer(sample, chain, taken)
    gold = GOLD_FIELDS if own else ()
    # true and false say whether an answer is right, unless the field is named the answer
    answer = mapped["answer"] or _first(sample, gold, taken, lambda v: _is_scalar(v) and not isinstance(v, bool))
    answer = answer or _first(sample, ANSWER_FIELDS[:2], taken, _is_scalar)
    answer = answer or _first(
        sample, ANSWER_FIELDS, taken, lambda value: _is_scalar(value) and not isinstance(value, bool)
    )
    if own and not answer:  # nothing of the data to tell it from
        answer, own = own, ""
    taken += [answer, own]
    identity = mapped["id"] or _first(sample, ID_FIELDS, taken, _is_scalar)
    taken.append(identity)
    language = mapped["language"] or _first(sample, LANGUAGE_FIELDS, taken, lambda value: isinstance(value, str))
    parallel = _parallel(chain, sample, taken) if kind in ("alternatives", "steps") else ()
    known = {
        name for name in (*taken, language, *parallel, *(top_field(records[0], path) for path in taken if path)) if name
    }
    return Layout(
        *(chain, kind, question, answer, after, identity, language, also, parallel, own),
        passed_over=tuple(name for name in sample.names.values() if name not in known),
    )


def _own_answer(sample: _Sample, chain: str, taken: Iterable[str]) -> str:
    """The field with what the chain came to: a value, and no output that holds the whole chain again."""
    for name in sample.named(OWN_ANSWER_FIELDS, taken):
        pairs = [(as_text(record.get(name)), content_text(_get(record, chain)).strip()) for record in sample.records]
        again = sum(bool(text) and text in said for said, text in pairs)
        fits = [_is_scalar(value) for value in sample.values[name]]
        if 2 * sum(fits) >= len(fits) and 2 * again < len(pairs):
            return name
    return ""


def _get(record: Mapping[str, Any], path: str) -> Any:
    try:
        return value_at(record, path)
    except LookupError:
        return None


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _is_question(value: Any) -> bool:
    return holds_text(value) or messages_in(value) is not None


def _first(sample: _Sample, candidates: Iterable[str], taken: Iterable[str], fits: Any) -> str:
    for name in sample.named(candidates, taken):
        values = sample.values[name]
        if 2 * sum(bool(fits(value)) for value in values) >= len(values):
            return name
    return ""


def _chain(sample: _Sample, taken: Iterable[str], options: ReadOptions) -> str:
    """The first name that its content bears out. A word or two is a switch (``reasoning: on``) where others hold text."""
    candidates = [
        name
        for name in sample.named(CHAIN_FIELDS, taken)
        if sample.share(name) >= MIN_SHARE
        and 2 * sum(map(holds_text, sample.values[name])) >= len(sample.values[name])
        and not (name.lower() == "answer" and sample.words(name) < MIN_ANSWER_WORDS)
    ]
    if not candidates:
        marked = [
            name
            for name in sample.values
            if name not in taken and sample.share(name) >= 0.5 and sample.marked(name, options)
        ]
        return marked[0] if len(marked) == 1 else ""
    wordy = [name for name in candidates if name.lower() not in LAST_CHAIN_FIELDS[:2] and sample.words(name) >= 5]
    chosen = candidates[0]
    if sample.words(chosen) <= 2 and wordy and wordy[0] != chosen:
        chosen = wordy[0]
    if chosen.lower() not in THOUGHT_FIELDS and not sample.marked(chosen, options):
        marked = [
            name
            for name in sample.values
            if name not in taken and name != chosen and sample.share(name) >= 0.5 and sample.marked(name, options)
        ]
        if len(marked) == 1:
            return marked[0]
    return chosen


def _kind(chain: str, values: Sequence[Any], sample: _Sample, options: ReadOptions) -> Kind:
    if values and 2 * sum(messages_in(value) is not None for value in values) > len(values):
        return "conversation"
    lists = [items for items in map(items_of, values) if items]
    if not lists or 2 * len(lists) <= len(values):
        return "text"
    several = [items for items in lists if len(items) > 1]
    if any(map(_holds_lists, values)):
        return "alternatives"
    name = chain.lower().rpartition(".")[2].rstrip("[]0123456789")
    texts = [text for items in lists for text in items]
    words = median(len(text.split()) for text in texts)
    if any(take_apart(text, options.marks).has_thought for text in texts[:64]):
        return "alternatives"
    if name in ALTERNATIVE_FIELDS and not (name in ("completions", "solutions", "outputs") and words < LONG_WORDS / 3):
        return "alternatives"
    if not several:
        return "text"
    graded = any(_is_grade(sample.records, other) for other in _parallel(chain, sample, (chain,)))
    return "alternatives" if words >= LONG_WORDS or (graded and words >= LONG_WORDS / 3) else "steps"


def _is_grade(records: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(
        isinstance(item, bool | int | float) or item is None
        for record in records
        if isinstance(record.get(name), list)
        for item in record[name]
    )


def _parallel(chain: str, sample: _Sample, taken: Iterable[str]) -> tuple[str, ...]:
    """Lists of scalars that are as long as the chain's list wherever both are there."""
    found = []
    for name in sample.names.values():
        if name in taken:
            continue
        pairs = []
        for record in sample.records:
            other, own = record.get(name), _get(record, chain)
            if isinstance(other, list) and isinstance(own, list):
                pairs.append((len(other), len(items_of(own) or own), other))
        if (
            pairs
            and all(a == b for a, b, _ in pairs)
            and all(_is_scalar(item) or item is None for *_, o in pairs for item in o)
        ):
            found.append(name)
    return tuple(found)
