"""One chain of every input as it was read, before anything is measured: what a wrong reading is seen by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trails.platform.text import beginning, counted, one_line
from trails.readers import Example

SHOWN_EXAMPLES = 4
"""Inputs of different layout of which one chain is shown."""


def shortened(text: str, width: int = 160) -> str:
    """A text on one line; of a long one the beginning and the end, and how much is between."""
    line = " ".join(text.split())
    if len(line) <= width:
        return line
    head = beginning(line, width * 2 // 3)
    tail = beginning(line[::-1], width // 3)[::-1]
    between = len(line) - len(head) - len(tail) + 4
    return f"{head} ({counted(between, 'character')}) {tail}"


def example_lines(example: Example) -> Iterator[str]:
    """One chain as it was read, for a person to check: reader, fields taken and passed over, question, chain, answer."""
    chain = example.chain
    yield f"read as     {one_line(Path(example.file).name)}: reader {example.reader}"
    taken = ", ".join(f"{part} = {name!r}" for part, name in example.taken.items())
    others = ", ".join(example.passed_over[:12]) + (" …" if len(example.passed_over) > 12 else "")
    if taken or others:
        passed = f"passed over (metadata): {others}" if others else "no field passed over"
        yield f"  fields    {'; '.join(filter(None, (taken, passed)))}. Change with --field PART=FIELD."
    yield f"  question  {shortened(chain.question) or '(none)'}"
    if chain.messages:
        roles = [message["role"] for message in json.loads(chain.messages)]
        yield f"  messages  {len(roles)} before the chain: {shortened(', '.join(roles))}"
    yield f"  chain     {shortened(chain.text)}"
    if "family" in example.taken:
        yield f"  family    {shortened(chain.family)}"
    yield f"  answer    {shortened(chain.answer) or '(none)'}{_whose(example)}"


def _whose(example: Example) -> str:
    """Says of an answer that is the data's that the record does not call it the chain's own."""
    if not example.given or not example.chain.answer or "gold_answer" in example.chain.metadata:
        return ""
    return f" (the data's, of the field {example.given!r}: no field says what the chain came to)"


def example_record(example: Example) -> dict[str, Any]:
    """The same as plain values, for JSON."""
    chain = example.chain
    record: dict[str, Any] = {"file": example.file, "reader": example.reader, "taken": dict(example.taken)}
    record |= {"passed_over": list(example.passed_over), "question": chain.question, "chain": chain.text}
    record |= {"answer_of_the_data": example.given} if _whose(example) else {}
    return record | {"answer": chain.answer, "messages": json.loads(chain.messages or "[]"), "family": chain.family}
