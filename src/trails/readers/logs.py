"""Readers of what interfaces answer and tools log: completions, batches, spans, observations, evaluation samples, sessions.

In: one record of a log. Out: its conversation as turns, and from there chains as of any chat. A record of the log that is no
generation is passed over and counted; a request that failed is a bad record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trails.readers.base import BadRecordError, Draft, ReadOptions, ReadReport, SourceFile, as_text, finish, record_id
from trails.readers.containers import records, sample
from trails.readers.conversation import (
    Turn,
    chains_of,
    content_text,
    is_message,
    messages_in,
    parse,
    turns_of,
    untargeted,
)
from trails.readers.fields import ID_FIELDS, QUESTION_FIELDS, items_of
from trails.readers.paths import fields_found, nested, opened, value_at
from trails.readers.records import (
    Context,
    RecordReader,
    Skip,
    chat_drafts,
    documented,
    first_wrong,
    join_lines,
    talk_in,
)
from trails.schema import Chain


def _mapping(value: Any) -> Mapping[str, Any]:
    value = opened(value)
    return value if isinstance(value, Mapping) else {}


# --- completions and batches ----------------------------------------------------------------------------------------


def _answer_in(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The object that an interface answered, wherever a batch or a log puts it."""
    result = _mapping(record.get("result"))
    response = _mapping(record.get("response"))
    for candidate in (
        _mapping(response.get("body")),
        response,
        _mapping(result.get("message")),
        result,
        _mapping(record.get("completion")),
        _mapping(record.get("raw_response")),
        record,
    ):
        if _is_answer(candidate):
            return candidate
    return None


def _is_answer(value: Mapping[str, Any]) -> bool:
    choices, output = value.get("choices"), value.get("output")
    if isinstance(choices, list) and choices:
        return all(isinstance(choice, Mapping) and ("message" in choice or "text" in choice) for choice in choices)
    if isinstance(output, list) and output and all(isinstance(item, Mapping) for item in output):
        return any(item.get("type") in ("message", "reasoning", "function_call") for item in output)
    if isinstance(value.get("candidates"), list) and value["candidates"]:
        return all(isinstance(item, Mapping) and "content" in item for item in value["candidates"])
    return (
        value.get("type") == "message"
        and value.get("role") == "assistant"
        and "content" in value
        and "stop_reason" in value
    )


def _failed(record: Mapping[str, Any]) -> str:
    """Why a line of a batch holds no answer; empty when it does not say."""
    result = _mapping(record.get("result"))
    error = (
        record.get("error")
        or result.get("error")
        or _mapping(_mapping(record.get("response")).get("body")).get("error")
    )
    if error is not None and error != {}:
        inner = _mapping(error).get("error") or error
        return content_text(_mapping(inner).get("message")) or as_text(inner)
    return str(result.get("type", "")) if result.get("type") in ("errored", "canceled", "expired") else ""


def _is_completion(record: Mapping[str, Any]) -> bool:
    if talk_in(record) is not None and "response" not in record and "choices" not in record:
        return False
    batch = "custom_id" in record and any(key in record for key in ("response", "result", "error", "body"))
    return batch or _answer_in(record) is not None


def _request(record: Mapping[str, Any], answer: Mapping[str, Any]) -> list[Turn]:
    """The conversation that was sent, where the log has it beside the answer."""
    for holder in (
        _mapping(_mapping(record.get("request")).get("body")),
        _mapping(record.get("request")),
        _mapping(record.get("body")),
        _mapping(record.get("params")),
        _mapping(record.get("kwargs")),
        _mapping(record.get("input")),
        record,
        answer,
    ):
        for key in ("messages", "input", "contents", "prompt"):
            value = opened(holder.get(key))
            talk = messages_in(value)
            if talk is not None:
                turns = parse(talk)
            elif isinstance(value, str) and value.strip():
                turns = [Turn("user", value.strip())]
            else:
                continue
            system = content_text(holder.get("system", holder.get("instructions"))).strip()
            return untargeted([Turn("system", system), *turns] if system else turns)
    system = content_text(answer.get("instructions")).strip()
    return [Turn("system", system)] if system else []


def _alternatives(answer: Mapping[str, Any]) -> list[tuple[list[Turn], dict[str, str]]]:
    """Turns and metadata of every alternative that an interface answered."""
    found: list[tuple[list[Turn], dict[str, str]]] = []
    if isinstance(answer.get("choices"), list) and answer["choices"]:
        for choice in answer["choices"]:
            message = choice.get("message")
            turns = (
                turns_of(message)
                if isinstance(message, Mapping)
                else [Turn("assistant", content_text(choice.get("text")))]
            )
            about = {"finish_reason": as_text(choice["finish_reason"])} if choice.get("finish_reason") else {}
            logprobs = _mapping(choice.get("logprobs"))
            if logprobs:
                about["logprobs"] = as_text(choice["logprobs"])
            found.append((turns, about))
        return found
    if isinstance(answer.get("candidates"), list) and answer["candidates"]:
        for choice in answer["candidates"]:
            turns = (
                turns_of({"role": "assistant", **choice["content"]}) if isinstance(choice["content"], Mapping) else []
            )
            about = {"finish_reason": as_text(choice["finishReason"])} if choice.get("finishReason") else {}
            found.append((turns, about))
        return found
    if isinstance(answer.get("output"), list) and answer["output"]:
        return [
            (
                _response_turns(answer["output"]),
                {"finish_reason": as_text(answer["status"])} if answer.get("status") else {},
            )
        ]
    about = {"finish_reason": as_text(answer["stop_reason"])} if answer.get("stop_reason") else {}
    return [(turns_of(answer), about)]


def _response_turns(items: Sequence[Any]) -> list[Turn]:
    """Items of a Responses answer or a session: reasoning, message and calls of one turn stand side by side."""
    turns: list[Turn] = []
    for item in items:
        if not isinstance(item, Mapping):
            continue
        kind = item.get("type")
        if kind == "reasoning":
            blocks = (
                [*(item.get("content") or []), *(item.get("summary") or [])]
                if not isinstance(item.get("content"), str)
                else []
            )
            text = "\n\n".join(filter(None, map(content_text, blocks))) or content_text(
                item.get("text") or item.get("content")
            )
            hidden = () if text else ("redacted_thinking",)
            _join(turns, Turn("assistant", thought=text, left_out=hidden))
        elif kind in ("function_call", "custom_tool_call", "local_shell_call"):
            (turn,) = turns_of({"role": "assistant", "content": [{**item, "type": "function_call"}]})
            _join(turns, turn)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            turns += turns_of({"role": "user", "content": [item]})
        elif is_message(item):
            for turn in turns_of(item):
                _join(turns, turn)
    return turns


def _join(turns: list[Turn], turn: Turn) -> None:
    """Put a piece of the assistant's turn to the piece before it; another role begins a turn."""
    if turn.role == "assistant" and turns and turns[-1].role == "assistant":
        last = turns[-1]
        turns[-1] = replace(
            last,
            content="\n".join(filter(None, (last.content, turn.content))),
            thought="\n\n".join(filter(None, (last.thought, turn.thought))),
            tool_calls=(*last.tool_calls, *turn.tool_calls),
            left_out=(*last.left_out, *turn.left_out),
            metadata={**last.metadata, **turn.metadata},
        )
    else:
        turns.append(turn)


def _completions(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    """A chain for every alternative; what the log says of the request is the context."""
    answer = _answer_in(record)
    identity = as_text(
        next((record[key] for key in ("custom_id", *ID_FIELDS) if record.get(key) not in (None, "")), "")
    )
    if answer is None:
        failed = _failed(record)
        if failed:
            raise BadRecordError(f"the request {identity} failed: {failed[:200]}")
        if "body" in record or "params" in record:
            raise BadRecordError(f"a request ({identity}) without its answer, so no chain.")
        raise BadRecordError(f"no answer of a model; fields found: {fields_found(record)}.")
    before = _request(record, answer)
    if not before:
        context.counts["the log holds the answer only, so the chain has no question"] += 1
    metadata = {
        key: as_text(answer[key]) for key in ("model", "created") if isinstance(answer.get(key), str | int | float)
    }
    identity = identity or as_text(answer.get("id") or "") or record_id(record)
    alternatives = _alternatives(answer)
    for number, (turns, about) in enumerate(alternatives):
        several = {"alternative": str(number)} if len(alternatives) > 1 else {}
        yield from chat_drafts(
            [*before, *turns],
            record,
            context,
            identity=f"{identity}:{number}" if several else identity,
            metadata=metadata | about | several,
        )


COMPLETIONS = RecordReader(
    "completions",
    "answers of interfaces and batches: chat completions, Responses, Anthropic messages; a chain per alternative",
    _is_completion,
    _completions,
    takes=(("question", "request"), ("chain", "answer of the model")),
)

# --- spans and observations -----------------------------------------------------------------------------------------

_SPAN_MARKS = ("llm.", "gen_ai.", "openinference.", "traceloop.")
_LISTS_IN = ("llm.input_messages", "gen_ai.input.messages", "gen_ai.prompt", "gen_ai.request.messages")
_LISTS_OUT = ("llm.output_messages", "gen_ai.output.messages", "gen_ai.completion", "gen_ai.response.messages")


def _attributes(record: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a span under their dotted names, however the export lays them out."""
    held = opened(record.get("attributes"))
    flat: dict[str, Any] = {}
    if isinstance(held, Mapping):
        flat |= {str(key): value for key, value in held.items()}
    elif isinstance(held, list):
        for pair in held:
            if isinstance(pair, Mapping) and isinstance(pair.get("key"), str):
                flat[pair["key"]] = _otlp(pair.get("value"))
    flat |= {
        str(key).removeprefix("attributes."): value
        for key, value in record.items()
        if str(key).startswith("attributes.")
    }
    return flat


def _otlp(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "arrayValue" in value:
        return [_otlp(item) for item in _mapping(value["arrayValue"]).get("values", [])]
    if "kvlistValue" in value:
        return {pair["key"]: _otlp(pair.get("value")) for pair in _mapping(value["kvlistValue"]).get("values", [])}
    return next(iter(value.values()), None)


def _spans(record: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """The spans of an OTLP export, or None when the record is no such export."""
    if not isinstance(record.get("resourceSpans"), list):
        return None
    return [
        span
        for resource in record["resourceSpans"]
        for scope in _mapping(resource).get("scopeSpans", _mapping(resource).get("instrumentationLibrarySpans", []))
        for span in _mapping(scope).get("spans", [])
        if isinstance(span, Mapping)
    ]


def _is_span(record: Mapping[str, Any]) -> bool:
    if _spans(record) is not None:
        return True
    names = _attributes(record)
    if any(name.startswith(_SPAN_MARKS) or name in ("llm", "gen_ai", "openinference") for name in names):
        return True
    return bool(names) and any(key in record for key in ("span_id", "context.span_id", "spanId", "trace_id", "traceId"))


def _talk_at(flat: Mapping[str, Any], tree: Mapping[str, Any], names: Iterable[str]) -> list[Turn] | None:
    for name in names:
        value: Any = flat.get(name)
        if value is None:
            try:
                value = value_at(tree, name)
            except LookupError:
                continue
        value = opened(value)
        if isinstance(value, Mapping) and value and all(str(key).isdecimal() for key in value):
            value = [value[key] for key in sorted(value, key=int)]
        talk = messages_in(value)
        if talk is not None:
            return parse(talk)
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            # a completion of a span may leave its role out
            return parse([{"role": "assistant", **item} for item in value])
    return None


def _span_drafts(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    """One chain per span of a model that answered; other spans are passed over."""
    spans = _spans(record)
    if spans is not None:
        good = 0
        for span in spans:
            try:
                yield from _one_span(span, context)
                good += 1
            except Skip as passed:
                context.counts[str(passed)] += 1
        if not good:
            raise BadRecordError("no span of a model that answered, so no chain.")
        return
    yield from _one_span(record, context)


def _one_span(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    flat = _attributes(record)
    tree = nested(flat)
    said = _talk_at(flat, tree, _LISTS_OUT)
    before = _talk_at(flat, tree, _LISTS_IN) or []
    for event in record.get("events") or [] if isinstance(record.get("events"), list) else []:
        about = _mapping(_mapping(event).get("attributes")) or _attributes(_mapping(event))
        for key, value in about.items():
            talk = messages_in(value)
            if talk is None:
                continue
            if "completion" in key or "output" in key:
                said = said or parse(talk)
            elif "prompt" in key or "input" in key:
                before = before or parse(talk)
    system = messages_in([{"role": "system", "content": opened(flat.get("gen_ai.system_instructions"))}])
    if flat.get("gen_ai.system_instructions") and system and not any(turn.role == "system" for turn in before):
        before = [*parse(system), *before]
    if said is None:
        kind = record.get("span_kind", flat.get("openinference.span.kind", flat.get("gen_ai.operation.name", "")))
        raise Skip(f"a span that is not an answer of a model was passed over ({as_text(kind) or 'no kind'})")
    identity = next(
        (
            as_text(record[key])
            for key in ("context.span_id", "span_id", "spanId", "id")
            if record.get(key) not in (None, "")
        ),
        as_text(_mapping(record.get("context")).get("span_id") or "") or record_id(record),
    )
    metadata = {
        key: as_text(value)
        for key, value in (
            ("name", record.get("name")),
            ("model", flat.get("llm.model_name", flat.get("gen_ai.request.model"))),
            ("finish_reason", flat.get("gen_ai.response.finish_reasons", flat.get("llm.finish_reason"))),
        )
        if isinstance(value, str) and value
    }
    yield from chat_drafts([*untargeted(before), *said], record, context, identity=identity, metadata=metadata)


SPANS = RecordReader(
    "spans",
    "spans of OpenTelemetry (gen_ai) and OpenInference, flat, nested or as OTLP; a chain per answer of a model",
    _is_span,
    _span_drafts,
    takes=(("question", "input messages"), ("chain", "output messages")),
)

_OBSERVATIONS = (
    "GENERATION",
    "SPAN",
    "EVENT",
    "AGENT",
    "TOOL",
    "CHAIN",
    "RETRIEVER",
    "EVALUATOR",
    "EMBEDDING",
    "GUARDRAIL",
)


def _is_observation(record: Mapping[str, Any]) -> bool:
    if isinstance(record.get("observations"), list):
        return any(_is_observation(_mapping(item)) for item in record["observations"])
    ids = any(key in record for key in ("traceId", "trace_id", "startTime", "start_time", "parentObservationId"))
    return ids and record.get("type") in _OBSERVATIONS and ("input" in record or "output" in record)


def _observation_drafts(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    """One chain per generation, of an export of observations or of traces that hold theirs."""
    if isinstance(record.get("observations"), list):
        found = [item for item in map(_mapping, record["observations"]) if item.get("type") == "GENERATION"]
        if not found:
            raise Skip("a trace without a generation was passed over")
        for item in found:
            yield from _observation_drafts(item, context)
        return
    if record.get("type") != "GENERATION":
        raise Skip(f"an observation that is not a generation was passed over ({as_text(record.get('type'))})")
    given, said = opened(record.get("input")), opened(record.get("output"))
    talk = messages_in(given)
    before = parse(talk) if talk is not None else []
    if talk is None and content_text(given).strip():
        before = [Turn("user", content_text(given).strip())]
    answer = said if isinstance(said, Mapping) and _is_answer(said) else None
    if answer is not None:
        turns = _alternatives(answer)[0][0]
    else:
        spoken = messages_in(said)
        if spoken is None and isinstance(said, Mapping) and ("content" in said or "completion" in said):
            spoken = (
                [{"role": "assistant", **said}]
                if "content" in said
                else [{"role": "assistant", "content": said["completion"]}]
            )
        turns = parse(spoken) if spoken is not None else [Turn("assistant", content_text(said))]
    metadata = {
        key: as_text(record[key])
        for key in ("traceId", "trace_id", "name", "model", "level", "startTime", "start_time", "sessionId", "userId")
        if record.get(key) not in (None, "")
    }
    metadata |= {
        str(key): as_text(value) for key, value in _mapping(record.get("metadata")).items() if value is not None
    }
    for score in record.get("scores") or [] if isinstance(record.get("scores"), list) else []:
        if isinstance(score, Mapping) and score.get("name") and score.get("value") is not None:
            metadata[f"score_{score['name']}"] = as_text(score["value"])
    identity = as_text(record.get("id") or "") or record_id(record)
    yield from chat_drafts([*untargeted(before), *turns], record, context, identity=identity, metadata=metadata)


OBSERVATIONS = RecordReader(
    "observations",
    "exports of Langfuse: observations, or traces with their observations; a chain per generation",
    _is_observation,
    _observation_drafts,
    takes=(("question", "input"), ("chain", "output")),
)

# --- evaluations ----------------------------------------------------------------------------------------------------


def _is_eval_sample(record: Mapping[str, Any]) -> bool:
    return isinstance(opened(record.get("doc")), Mapping) and isinstance(opened(record.get("resps")), list)


def _eval_samples(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    """A chain per response of one document; what the filter took from it is the answer, the target the gold answer."""
    doc = _mapping(record["doc"])
    responses = opened(record["resps"])
    flat = [text for item in responses for text in (item if isinstance(item, list) else [item])]
    if flat and all(isinstance(item, list | tuple) for item in flat):
        flat = [text for item in flat for text in item]
    if not flat or not all(isinstance(text, str) for text in flat) or _are_likelihoods(flat):
        raise BadRecordError("the responses are log-likelihoods of choices, not text, so no chain.")
    filtered = [text for text in (items_of(opened(record.get("filtered_resps"))) or []) if isinstance(text, str)]
    prompt = ""
    arguments = opened(record.get("arguments"))
    while isinstance(arguments, Mapping | list) and arguments:
        arguments = next(iter(arguments.values())) if isinstance(arguments, Mapping) else arguments[0]
    if isinstance(arguments, str):
        prompt = arguments
    talk = messages_in(prompt)
    names = {str(key).lower(): str(key) for key in doc}
    question = next(
        (content_text(doc[names[key]]).strip() for key in QUESTION_FIELDS if key in names and doc[names[key]]), ""
    )
    before = parse(talk) if talk is not None else [Turn("user", question or prompt.strip())]
    metadata = {
        key: as_text(value)
        for key, value in record.items()
        if isinstance(value, str | int | float)
        and key not in ("target", "doc_id", "prompt_hash", "doc_hash", "target_hash")
    }
    if prompt and prompt.strip() != question and talk is None:
        metadata["prompt"] = prompt
    if "correct" not in metadata:
        metric = next(
            (
                record[key]
                for key in ("exact_match", "acc", "pass@1", "math_verify")
                if isinstance(record.get(key), int | float)
            ),
            None,
        )
        if metric in (0, 1):
            metadata["correct"] = "true" if metric else "false"
    target = content_text(record.get("target")).strip()
    identity = as_text(record["doc_id"]) if record.get("doc_id") is not None else record_id(record)
    same_filter = record.get("filter")
    identity = (
        f"{identity}:{same_filter}" if isinstance(same_filter, str) and same_filter not in ("none", "") else identity
    )
    for number, text in enumerate(flat):
        several = {"alternative": str(number)} if len(flat) > 1 else {}
        (draft,) = chat_drafts(
            [*untargeted(before), Turn("assistant", text)],
            record,
            context,
            identity=f"{identity}:{number}" if several else identity,
            metadata=metadata | several,
        )
        if not draft.answer and number < len(filtered) and filtered[number] not in ("[invalid]", text):
            draft.answer = filtered[number].strip()
        if target and target != draft.answer:
            draft.metadata["gold_answer"] = target
        yield draft


def _are_likelihoods(texts: Sequence[str]) -> bool:
    return all(re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?|-?inf|True|False", text) for text in texts)


EVAL_SAMPLES = RecordReader(
    "eval-samples",
    "samples of lm-evaluation-harness (`doc`, `resps`, `target`); a chain per response",
    _is_eval_sample,
    _eval_samples,
    takes=(("question", "doc"), ("chain", "resps"), ("answer", "filtered_resps")),
)


def _is_inspect(record: Mapping[str, Any]) -> bool:
    return (
        "epoch" in record
        and "input" in record
        and isinstance(record.get("output"), Mapping)
        and "choices" in record["output"]
    )


def _inspect(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    """The last turn of the assistant of one sample; scores go to the metadata, ``C`` and ``I`` also as ``correct``."""
    talk = messages_in(record.get("messages"))
    if talk is None:
        given = messages_in(record["input"])
        before = parse(given) if given is not None else [Turn("user", content_text(record["input"]))]
        turns = [*untargeted(before), *_alternatives(record["output"])[0][0]] if record["output"]["choices"] else before
    else:
        turns = parse(talk)
    metadata = {"epoch": as_text(record["epoch"]), "model": as_text(record["output"].get("model") or "")}
    target = record.get("target")
    target = target[0] if isinstance(target, list) and len(target) == 1 else target
    if target not in (None, "", []):
        metadata["gold_answer"] = as_text(target)
    for name, score in _mapping(record.get("scores")).items():
        value = _mapping(score).get("value")
        if value is not None:
            metadata[f"score_{name}"] = as_text(value)
            if value in ("C", "I") or isinstance(value, bool):
                metadata.setdefault("correct", "true" if value in ("C", True) else "false")
    metadata |= {
        str(k): as_text(v) for k, v in _mapping(record.get("metadata")).items() if isinstance(v, str | int | float)
    }
    reason = _mapping((record["output"]["choices"] or [{}])[0]).get("stop_reason")
    metadata |= {"finish_reason": as_text(reason)} if reason else {}
    identity = f"{as_text(record.get('id') or record_id(record))}:{metadata['epoch']}"
    yield from chat_drafts(turns, record, context, identity=identity, metadata={k: v for k, v in metadata.items() if v})


INSPECT = RecordReader(
    "inspect",
    "samples of inspect logs (`.eval`, or its JSON): messages, scores, target; a chain per turn of the assistant",
    _is_inspect,
    _inspect,
    takes=(("messages", "messages"),),
)

# --- process supervision --------------------------------------------------------------------------------------------


def _is_prm800k(record: Mapping[str, Any]) -> bool:
    return (
        isinstance(record.get("question"), Mapping)
        and "problem" in record["question"]
        and isinstance(record.get("label"), Mapping)
        and isinstance(record["label"].get("steps"), list)
    )


def _prm800k(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    """The path that was chosen, and a chain for every other completion of a step, which shares what came before it.

    ``ratings`` holds the rating of every step of the chain (1, 0, -1, null), ``branch`` the step at which an alternative
    leaves the chosen path, ``first_wrong_step`` the first step rated -1.
    """
    asked, label = record["question"], record["label"]
    path: list[tuple[str, Any]] = []
    branches: list[tuple[int, list[tuple[str, Any]]]] = []
    for number, step in enumerate(label["steps"]):
        completions = [
            item
            for item in step.get("completions") or []
            if isinstance(item, Mapping) and isinstance(item.get("text"), str)
        ]
        human = step.get("human_completion")
        chosen = step.get("chosen_completion")
        taken: tuple[str, Any] | None = None
        if isinstance(chosen, int) and 0 <= chosen < len(completions):
            taken = completions[chosen]["text"], completions[chosen].get("rating")
        elif human:
            taken = content_text(human), 1
        elif len(completions) == 1:
            taken = completions[0]["text"], completions[0].get("rating")
        for item in completions:
            pair = item["text"], item.get("rating")
            if pair != taken:
                branches.append((number, [*path, pair]))
        if taken is None:
            break
        path.append(taken)
    question = content_text(asked["problem"]).strip()
    shared = {
        key: as_text(record[key])
        for key in ("generation", "is_initial_screening_question")
        if record.get(key) is not None
    }
    shared |= {"finish_reason": as_text(label["finish_reason"])} if label.get("finish_reason") else {}
    gold = content_text(asked.get("ground_truth_answer")).strip()
    shared |= {"gold_answer": gold} if gold else {}
    identity = record_id([question, record.get("labeler"), record.get("timestamp"), label])
    chains = ([(len(path), path)] if path else []) + branches
    if not chains:
        raise BadRecordError("no step has a text, so no chain.")
    for number, (branch, steps) in enumerate(chains):
        text, boundaries = join_lines([step.strip() for step, _ in steps])
        ratings = [rating for _, rating in steps]
        metadata = shared | {"ratings": json.dumps(ratings), "first_wrong_step": first_wrong(ratings)}
        if steps is not path:
            metadata |= {"branch": str(branch), "alternative": str(number)}
        yield Draft(
            *(text, question, "", f"{identity}:{number}" if len(chains) > 1 else identity),
            boundaries=boundaries,
            metadata={key: value for key, value in metadata.items() if value},
            identity=identity,
        )


PRM800K = RecordReader(
    "prm800k",
    "step-by-step ratings with alternatives (PRM800K): the chosen path, and a chain per alternative that leaves it",
    _is_prm800k,
    _prm800k,
    takes=(("question", "question.problem"), ("chain", "label.steps[].completions[].text")),
)

# --- sessions -------------------------------------------------------------------------------------------------------

_SESSION_FIELDS = ("sessionId", "session_id", "conversation_id", "thread_id", "chat_id")


@dataclass(frozen=True, slots=True)
class Sessions:
    """Logs of one message a line: sessions of coding agents, and chats that are written turn by turn."""

    name: str = "sessions"
    about: str = (
        "logs with one message a line (sessions of agents, chats turn by turn); the lines before are the context"
    )

    def can_read(self, file: SourceFile) -> bool:
        """Whether most of the first records are single messages, and no record holds a conversation."""
        first = sample(file)
        hits = sum(_line_message(record) is not None for record in first)
        roles = {turn.role for record in first for turn in _line_message(record) or ()}
        return bool(first) and 2 * hits >= len(first) and "assistant" in roles and not any(map(talk_in, first))

    def read(self, file: SourceFile, options: ReadOptions, report: ReadReport) -> Iterator[Chain]:
        """A chain per turn of the assistant; pieces of one turn on several lines are joined, sessions are kept apart."""
        context = Context(file, options, report)
        report.fields(file.shown, {"messages": "one a line"}, ())
        talks: dict[str, tuple[list[Turn], dict[int, int]]] = {}
        for place, record in records(file, report):
            if not isinstance(record, Mapping):
                report.bad_record(file.shown, place, "a JSON object is needed.")
                continue
            try:
                turns = _line_message(record)
            except BadRecordError as problem:
                report.bad_record(file.shown, place, str(problem))
                continue
            if turns is None:
                kind = _mapping(record.get("payload")).get("type") or record.get("type") or "no message"
                context.counts[f"a line that is not a message was passed over ({as_text(kind)[:40]})"] += 1
                continue
            side = "side" if record.get("isSidechain") else ""
            session = next((as_text(record[key]) for key in _SESSION_FIELDS if record.get(key)), "") + side
            said, lines_of = talks.setdefault(session, ([], {}))
            for turn in turns:
                _join(said, turn)
                lines_of.setdefault(len(said) - 1, place)
        for session, (said, lines_of) in talks.items():
            for number, found in enumerate(chains_of(said, options.marks), 1):
                context.told(found)
                draft = found.draft({"session": session} if session else {})
                draft.identity = session or file.name
                draft.source_id = f"{session}#{number}" if session else f"#{number}"
                try:
                    yield finish(documented_draft(draft), file, options, file.name)
                except BadRecordError as problem:
                    report.bad_record(file.shown, lines_of.get(said.index(found.turn), 0), str(problem))
        for sentence, count in context.counts.items():
            report.note(f"{file.shown}: {f'{count:,} times' if count > 1 else 'once'}: {sentence}.")


def documented_draft(draft: Draft) -> Draft:
    """The draft with the documented names in its metadata."""
    documented(draft.metadata)
    return draft


def _line_message(record: Mapping[str, Any]) -> list[Turn] | None:
    """Turns of a line that is one message; None for a line of another kind (a summary, a snapshot, a header)."""
    payload = record.get("payload")
    if isinstance(payload, Mapping) and record.get("type") in ("response_item", "message", "item"):
        turns = _response_turns([payload])
        return [turn for turn in turns if turn.role not in ("developer",)] or None
    if record.get("isMeta") or record.get("type") in ("summary", "session_meta", "turn_context", "event_msg"):
        return None
    inner = record.get("message")
    if (
        isinstance(inner, Mapping)
        and is_message(inner)
        and record.get("type") in ("user", "assistant", "system", None, "message")
    ):
        return turns_of(inner)
    if is_message(record) and any(key in record for key in ("content", "value", "text", "parts")):
        return turns_of(record)
    return None


SESSIONS = Sessions()
