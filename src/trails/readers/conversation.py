"""Conversations: any way of writing messages down, as one structure.

In: a message as some interface, log or data set writes it. Out: :class:`Turn` records with role, text, thought and tool calls
apart, and from a list of them one chain for every turn of the assistant that may be a target.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trails.readers.base import BadRecordError, Draft, as_text
from trails.readers.paths import fields_found, nested, opened
from trails.readers.thought import Written, take_apart

ROLES = {
    **dict.fromkeys(("human", "user", "prompter", "question", "humanmessage"), "user"),
    **dict.fromkeys(
        ("gpt", "bot", "assistant", "model", "chatgpt", "ai", "aimessage", "assistant_message"), "assistant"
    ),
    **dict.fromkeys(
        ("tool", "function", "observation", "tool_result", "function_response", "toolmessage", "ipython"), "tool"
    ),
    **dict.fromkeys(("system", "systemmessage"), "system"),
}
THOUGHT_ROLES = ("reasoning", "thinking", "thought", "analysis", "reasoner", "cot")
THOUGHT_FIELDS = (
    *("reasoning_content", "thinking", "reasoning", "reasoning_text", "thought", "thoughts", "think_content"),
    *("reasoning_details", "thinking_blocks", "chain_of_thought"),
)
LIST_FIELDS = (
    "messages",
    "conversations",
    "conversation",
    "dialog",
    "dialogue",
    "turns",
    "chat",
    "history",
    "conversation_list",
)
SYSTEM_FIELDS = ("system", "system_prompt", "system_message", "instructions")
_TEXT_TYPES = ("text", "input_text", "output_text", "summary_text", "reasoning_text", "markdown", "")
_THOUGHT_TYPES = ("thinking", "reasoning", "reasoning.text", "reasoning.summary", "thought")
_HIDDEN_TYPES = ("redacted_thinking", "reasoning.encrypted", "redacted_reasoning")
_CALL_TYPES = ("tool_use", "tool_call", "function_call", "server_tool_use", "custom_tool_call")
_ANSWER_TYPES = (
    "tool_result",
    "tool_call_response",
    "function_call_output",
    "custom_tool_call_output",
    "tool_response",
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. ``content`` is what was said, marks of thought included; ``thought`` what the data itself keeps apart."""

    role: str
    content: str = ""
    thought: str = ""
    name: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str = ""
    target: bool = True
    left_out: tuple[str, ...] = ()  # kinds of content that are no text: image, redacted_thinking
    metadata: Mapping[str, str] = field(default_factory=dict)


def content_text(value: Any) -> str:
    """Text of a field: a string, a message, a list of strings or messages, or the text parts of a message."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        for key in ("content", "value", "text", "parts", "thoughts", "summary"):
            if key in value:
                return content_text(value[key])
        return ""
    if isinstance(value, Sequence):
        return "\n".join(filter(None, (content_text(item) for item in value)))
    return as_text(value)


def role_of(message: Mapping[str, Any]) -> str:
    """``user``, ``assistant``, ``system``, ``tool``, or the role as it is written; empty when none is."""
    for key in ("role", "from", "speaker", "sender", "author"):
        value = message.get(key)
        if isinstance(value, Mapping):
            value = value.get("role")
        if isinstance(value, str) and value:
            return ROLES.get(value.lower(), value.lower())
    kind = message.get("type")
    if isinstance(kind, str) and kind.lower() in ROLES and ("content" in message or "data" in message):
        return ROLES[kind.lower()]
    return ""


def is_message(value: Any) -> bool:
    """Whether a value is a message: an object with a role, or one that wraps such an object."""
    return isinstance(value, Mapping) and bool(role_of(_unwrapped(value)))


def tree_path(record: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """Messages of a conversation that is kept as a tree (``mapping`` of nodes with ``parent``): the branch of ``current_node``,
    or the one that ends last. None for anything else.
    """
    nodes = record.get("mapping")
    if not isinstance(nodes, Mapping) or not all(isinstance(node, Mapping) for node in nodes.values()):
        return None
    at = record.get("current_node")
    if at not in nodes:
        at = next((key for key in reversed(list(nodes)) if isinstance(nodes[key].get("message"), Mapping)), None)
    path: list[Mapping[str, Any]] = []
    seen: set[Any] = set()
    while isinstance(at, str) and at in nodes and at not in seen:
        seen.add(at)
        message = nodes[at].get("message")
        if isinstance(message, Mapping) and role_of(message) and content_text(message.get("content")).strip():
            path.append(message)
        at = nodes[at].get("parent")
    return path[::-1] or None


def messages_in(value: Any) -> list[Mapping[str, Any]] | None:
    """A list of messages, also when it is written as a JSON string or inside ``{"messages": …}``; None for anything else."""
    value = opened(value)
    if isinstance(value, Mapping):
        if is_message(value):
            return [value]
        value = next((opened(value[key]) for key in LIST_FIELDS if key in value), None)
    if isinstance(value, Sequence) and not isinstance(value, str) and value and all(is_message(item) for item in value):
        return list(value)
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        inner = opened(value[0])  # a list of conversations that holds one
        if isinstance(inner, list) and inner and all(is_message(item) for item in inner):
            return list(inner)
    return None


def _unwrapped(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if any(str(key).startswith("message.") for key in message):
        return nested(message, "message.")
    for key in ("message", "data"):
        inner = message.get(key)
        if isinstance(inner, Mapping) and not any(name in message for name in ("role", "from", "content")):
            return inner if role_of(inner) else {**inner, "type": message.get("type")}
    return message


def turns_of(message: Mapping[str, Any]) -> list[Turn]:
    """The turns of one message: itself, and before it the answers of tools that some interfaces put into the user's message.

    Raises BadRecordError for a message without a role.
    """
    message = _unwrapped(message)
    role = role_of(message)
    if not role:
        raise BadRecordError(f"a message without a role; fields found: {fields_found(message)}.")
    said: list[str] = []
    thoughts: list[str] = []
    calls: list[Mapping[str, Any]] = []
    answers: list[Turn] = []
    left_out: list[str] = []
    content = next(
        (message[key] for key in ("content", "value", "text", "parts", "contents") if message.get(key) is not None),
        None,
    )
    if isinstance(content, Mapping) and "content_type" in content:
        thoughts += [content_text(content)] if content["content_type"] == "thoughts" else []
        content = content_text(content) if content["content_type"] in ("text", "multimodal_text", "code") else ""
    if isinstance(content, str) and role == "assistant" and _is_blocks(content):
        content = opened(content)
    for block in content if isinstance(content, Sequence) and not isinstance(content, str) else [content]:
        _block(block, said, thoughts, calls, answers, left_out)
    info = message.get("info")
    known = _thought_of(message) or (_thought_of(info) if isinstance(info, Mapping) else "")
    thought = known or "\n\n".join(filter(None, thoughts))
    given = opened(message.get("tool_calls"))
    for call in given if isinstance(given, list) else []:
        calls.append(_call(call))
    if isinstance(message.get("function_call"), Mapping):
        calls.append(_call(message["function_call"]))
    weight = message.get("weight")
    loss = message.get("train", message.get("trainable", message.get("loss")))
    metadata = {
        key: as_text(message[key])
        for key in ("weight", "finish_reason", "stop_reason", "reward", "score")
        if isinstance(message.get(key), str | int | float) and message[key] is not None
    }
    if isinstance(info, Mapping):
        metadata |= {
            key: as_text(value)
            for key, value in info.items()
            if value is not None
            and key not in ("think_content", "answer_content")
            and not isinstance(value, Mapping | list)
        }
    name = message.get("name")
    call_id = message.get("tool_call_id", message.get("tool_use_id", message.get("call_id")))
    text = "\n".join(filter(None, said))
    own = Turn(
        *(role, text, thought, name if isinstance(name, str) else "", tuple(calls)),
        tool_call_id=call_id if isinstance(call_id, str) else "",
        target=not (isinstance(weight, int | float) and weight == 0)
        and not (isinstance(loss, int | float) and loss == 0),
        left_out=tuple(left_out),
        metadata=metadata,
    )
    if answers and not (text.strip() or calls or thought):
        return answers
    return [*answers, own]


def _is_blocks(text: str) -> bool:
    value = opened(text)
    return (
        isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) and "type" in item for item in value)
    )


def _thought_of(message: Mapping[str, Any]) -> str:
    for key in THOUGHT_FIELDS:
        value = opened(message.get(key)) if key in ("reasoning_details", "thinking_blocks") else message.get(key)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, Mapping | list):
            found: list[str] = []
            for block in value if isinstance(value, list) else [value]:
                if isinstance(block, str):
                    found.append(block)
                elif isinstance(block, Mapping):
                    kind = str(block.get("type", ""))
                    if kind not in _HIDDEN_TYPES:
                        found.append(_first_text(block, ("text", "thinking", "summary", "content", "reasoning")))
            if any(part.strip() for part in found):
                return "\n\n".join(part for part in found if part.strip())
    return ""


def _first_text(block: Mapping[str, Any], keys: Iterable[str]) -> str:
    return next((text for text in (content_text(block.get(key)) for key in keys) if text.strip()), "")


def _block(
    block: Any,
    said: list[str],
    thoughts: list[str],
    calls: list[Mapping[str, Any]],
    answers: list[Turn],
    left_out: list[str],
) -> None:
    if not isinstance(block, Mapping):
        said.append(content_text(block))
        return
    kind = str(block.get("type") or "").lower()
    if block.get("thought") is True or kind in _THOUGHT_TYPES:
        text = _first_text(block, ("thinking", "reasoning", "text", "content", "summary"))
        if text or kind not in ("reasoning", "thinking"):
            thoughts.append(text)
        else:
            left_out.append("redacted_thinking")
    elif kind in _HIDDEN_TYPES:
        left_out.append("redacted_thinking")
    elif kind in _CALL_TYPES or "functionCall" in block:
        calls.append(_call(block.get("functionCall", block)))
    elif kind in _ANSWER_TYPES or "functionResponse" in block:
        said_by_tool = block.get("content", block.get("response", block.get("output", block.get("result"))))
        text = content_text(said_by_tool) or ("" if said_by_tool in (None, "", [], {}) else as_text(said_by_tool))
        identity = block.get("tool_use_id", block.get("call_id", block.get("id")))
        answers.append(Turn("tool", text, tool_call_id=identity if isinstance(identity, str) else ""))
    elif kind in _TEXT_TYPES or "text" in block:
        said.append(_first_text(block, ("text", "content", "value")))
    elif kind == "refusal":
        said.append(content_text(block.get("refusal")))
    else:
        left_out.append(kind or "part")


def _call(call: Any) -> dict[str, Any]:
    """A tool call in the one layout that chat templates know: id, type, function with name and arguments."""
    call = opened(call)
    if not isinstance(call, Mapping):
        return {"type": "function", "function": {"name": "", "arguments": as_text(call)}}
    inner = call.get("function", call.get("tool_call", call))
    if not isinstance(inner, Mapping):
        inner = {"name": str(inner), **call}
    arguments: Any = next(
        (inner[key] for key in ("arguments", "input", "args", "parameters") if inner.get(key) is not None), {}
    )
    made: dict[str, Any] = {
        "type": "function",
        "function": {"name": as_text(inner.get("name") or ""), "arguments": arguments},
    }
    identity = call.get("id", call.get("call_id", call.get("tool_call_id")))
    return {"id": as_text(identity), **made} if identity is not None else made


def parse(messages: Iterable[Any]) -> list[Turn]:
    """All turns of a list of messages. Raises BadRecordError for one without a role."""
    found: list[Turn] = []
    for message in messages:
        if not isinstance(message, Mapping):
            raise BadRecordError("a message that is not an object.")
        for turn in turns_of(message):
            if turn.role == "assistant" and found and found[-1].role in THOUGHT_ROLES:
                # the thought is a message of its own before the answer
                turn = replace(turn, thought="\n\n".join(filter(None, (found.pop().content, turn.thought))))
            found.append(turn)
    if found and found[-1].role in THOUGHT_ROLES:
        found[-1] = Turn("assistant", thought=found[-1].content)
    return found


def written(turn: Turn, marks: Sequence[tuple[str, str]]) -> Written:
    """The turn taken apart: what the data keeps as the thought, else what the marks in the text say."""
    if not turn.thought.strip():
        return take_apart(turn.content, marks)
    outside = take_apart(turn.content, marks)
    if outside.has_thought and outside.chain.split() == turn.thought.split():
        return outside  # the thought stands in both places
    kept = take_apart(turn.thought, marks)
    chain = kept.chain if kept.has_thought and not kept.answer else turn.thought.strip()
    if outside.answer:
        count = 2 if outside.has_thought else 1
        return Written(chain, outside.answer, between=outside.chain, kind="closed", thoughts=count, left=kept.left)
    return Written(chain, outside.chain.strip(), kind="closed", thoughts=1, left=kept.left)


def message_record(turn: Turn, apart: Written | None = None) -> dict[str, Any]:
    """A turn as it stands before a chain: role and content, and name, tool calls and thought where it has them."""
    record: dict[str, Any] = {"role": turn.role, "content": turn.content.strip()}
    if apart is not None and apart.has_thought:
        record |= {"content": apart.answer, "reasoning_content": apart.chain}
    if turn.name:
        record["name"] = turn.name
    if turn.tool_calls:
        record["tool_calls"] = [dict(call) for call in turn.tool_calls]
    if turn.tool_call_id:
        record["tool_call_id"] = turn.tool_call_id
    return record


def shown(said: Sequence[tuple[str, str]]) -> str:
    """A conversation as text: a lone turn is the question itself; a longer one keeps its speakers."""
    if len(said) == 1:
        return said[0][1]
    return "\n".join(f"{who}: {what}" for who, what in said)


@dataclass(frozen=True, slots=True)
class Said:
    """One chain of a conversation: the turn taken apart, and the messages before it."""

    apart: Written
    turn: Turn
    question: str
    messages: list[dict[str, Any]]
    known: Mapping[str, str] = field(default_factory=dict)  # what the messages before say beside their text

    def draft(self, metadata: Mapping[str, str]) -> Draft:
        """The chain with what its turn adds to the metadata of the record."""
        own = dict(metadata) | dict(self.known) | dict(self.turn.metadata) | self.apart.rest
        if self.turn.left_out:
            own["left_out"] = json.dumps(sorted(set(self.turn.left_out)))
        if self.turn.tool_calls:
            own["tool_calls"] = json.dumps([dict(call) for call in self.turn.tool_calls], ensure_ascii=False)
        if self.apart.kind in ("unfinished", "empty"):
            own["thought"] = self.apart.kind
        return Draft(
            *(self.apart.chain.strip(), self.question.strip(), self.apart.answer.strip()),
            metadata=own,
            messages=self.messages,
        )


def chains_of(turns: Sequence[Turn], marks: Sequence[tuple[str, str]], *, last_only: bool = False) -> list[Said]:
    """A chain for every turn of the assistant that says something and may be a target; the others are context."""
    said: list[tuple[str, str]] = []
    before: list[dict[str, Any]] = []
    found: list[Said] = []
    known: dict[str, str] = {}
    last = max((place for place, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
    for place, turn in enumerate(turns):
        content = turn.content
        apart: Written | None = None
        if turn.role != "assistant":
            known |= turn.metadata  # a reference answer beside the question
        if turn.role == "assistant" and (turn.content.strip() or turn.thought.strip()):
            apart = written(turn, marks)
            if turn.target and apart.chain.strip() and (place == last or not last_only):
                found.append(Said(apart, turn, shown(said), list(before), dict(known)))
            content = apart.answer or apart.chain
        if content.strip():
            said.append((turn.role, content.strip()))
        if content.strip() or turn.tool_calls or turn.tool_call_id:
            before.append(message_record(turn, apart))
    return found


def with_system(record: Mapping[str, Any], turns: list[Turn]) -> list[Turn]:
    """The turns behind the system prompt that the record holds beside its messages."""
    if any(turn.role in ("system", "developer") for turn in turns):
        return turns
    for key in SYSTEM_FIELDS:
        text = record.get(key)
        if isinstance(text, str) and text.strip():
            return [Turn("system", text.strip()), *turns]
    return turns


def untargeted(turns: Iterable[Turn]) -> list[Turn]:
    """The turns as context only."""
    return [replace(turn, target=False) for turn in turns]
