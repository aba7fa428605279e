"""What stands before a chain: every policy, conversations, thoughts, control tokens; and the row that everyone is given."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny
from reference import QUESTION, TEXT, assert_same, byte_tokenizer, item, measured_slowly, scorer_of

from trails.errors import ModelError, UnmeasurableError, UsageError
from trails.export import ExportOptions, export_selection
from trails.export.subgraph import Selection
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.context import IGNORED, Context
from trails.store.traces import TraceStore

PLAIN = MeasureOptions()
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}<bot>"
POLICIES: list[dict[str, Any]] = [
    {"bos": "auto"},
    {"bos": "always"},
    {"bos": "never"},
    {"template": "chat"},
    {"template": "chat", "bos": "always"},
    {"template": "chat", "think": True},
    {"control_tokens": "text"},
]
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": QUESTION},
]


def chatty(template: str = TEMPLATE) -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": ["<|end|>"]})
    return tokenizer


def conversing(messages: Any = CONVERSATION) -> Segmented:
    one = item()
    return Segmented(replace(one.chain, messages=json.dumps(messages)), one.steps)


def text_of(scorer: Any, ids: Any) -> str:
    return str(scorer.model.tokenizer.decode(list(ids), skip_special_tokens=False))


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_row_is_judged_in_the_frame_in_which_the_chain_is_measured(policy: dict[str, Any]) -> None:
    """The untrained model gives a row's labels exactly the surprisals that a trace stores."""
    scorer = scorer_of(tiny("qwen2"), tokenizer=chatty(), **policy)
    (trace,) = scorer.measure([item()], PLAIN)
    last = len(trace.steps) - 1
    row = scorer.contexts.row(item(), labelled_from=last)
    assert row.context.question == tuple(trace.question_token_ids.tolist())
    ids = torch.from_numpy(row.ids)[None]
    with scorer.model.measuring():
        log_p = torch.log_softmax(scorer.model.logits(scorer.model.hidden(ids)[0]).double(), -1)
    labels = row.labels
    places = np.flatnonzero(labels != IGNORED)
    found = [-float(log_p[place - 1, labels[place]]) for place in places]
    assert places[0] == trace.n_context + trace.step_tokens[last, 0]
    np.testing.assert_allclose(found, trace.surprisal[trace.step_tokens[last, 0] :], atol=1e-4)


def test_the_first_token_of_a_sequence_is_no_label_and_a_row_is_cut_at_its_end() -> None:
    scorer = scorer_of(tiny("qwen2"), bos="never")
    row = scorer.contexts.row(item(question=""))
    assert row.labels[0] == IGNORED
    assert (row.labels[1:] == row.ids[1:]).all()
    cut = scorer.contexts.row(item(), max_tokens=20)
    assert len(cut.ids) == len(cut.labels) == 20
    record = cut.record()
    assert record["input_ids"] == cut.ids.tolist()
    assert record["offset"] == len(cut.context) == len(scorer.model.text.ids(f"{QUESTION}\n"))
    assert record["step_spans"][-1]["end"] == 20
    assert record["loss_weights"] == [float(label != IGNORED) for label in record["labels"]]
    assert scorer.contexts.row(item(), labelled_from=3, max_tokens=20).record()["labels"] == [IGNORED] * 20


@pytest.mark.slow
def test_a_conversation_goes_through_the_chat_template() -> None:
    model = tiny("qwen2")
    scorer = scorer_of(model, tokenizer=chatty(), template="chat")
    context = scorer.contexts.of(conversing().chain)
    assert text_of(scorer, context.ids) == (
        f"<system>Be brief.</><user>Hi</><assistant>Hello.</><user>{QUESTION}</><bot>"
    )
    assert text_of(scorer, context.question) == QUESTION
    (trace,) = scorer.measure([conversing()], PLAIN)
    assert_same(trace, measured_slowly(model, trace, list(context.ids)))
    # one user turn with the question is what a chain without a conversation has
    single = conversing([{"role": "user", "content": QUESTION}])
    assert scorer.contexts.of(single.chain) == scorer.contexts.of(item().chain)
    # plain policy: the question as it is displayed
    plain = scorer_of(model, tokenizer=chatty())
    assert plain.contexts.of(conversing().chain) == plain.contexts.of(item().chain)


TOOLS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Is it wet?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "look", "arguments": {"at": "яма"}}}],
    },
    {"role": "tool", "content": "rain", "tool_call_id": "1"},
    {"role": "user", "content": QUESTION},
]


def stored(home: Path, scorer: Any, traces: Any) -> Any:
    with TraceStore(home, write=True) as shards:
        shards.put_run(scorer.run)
        shards.write(traces)
    return TraceStore(home)


def exported(shards: Any, format: str, to: Path, **options: Any) -> dict[str, Any]:
    """Rows by chain."""
    export_selection(Selection("all", None), shards, format, to, ExportOptions(**options))
    return {row["chain"]: row for row in map(json.loads, to.read_text(encoding="utf-8").splitlines())}


@pytest.mark.slow
def test_a_chain_after_a_conversation_is_exported_in_the_frame_in_which_it_was_measured(tmp_path: Path) -> None:
    scorer = scorer_of(tiny("qwen2"), tokenizer=chatty(), template="chat")
    talk, alone = conversing(TOOLS), item(source_id="2")
    traces = scorer.measure([talk, alone], PLAIN)
    with stored(tmp_path / "home", scorer, traces) as shards:
        kept = {trace.chain.id: trace for trace in shards.traces()}
        rows = exported(shards, "trails", tmp_path / "rows.jsonl")
        tokens = exported(shards, "trl", tmp_path / "trl.jsonl")
        turns = exported(shards, "messages", tmp_path / "messages.jsonl")
        for one in (talk, alone):
            chain = one.chain.id
            trace, row, context = kept[chain], rows[chain], scorer.contexts.of(one.chain)
            assert row["input_ids"] == tokens[chain]["input_ids"] == scorer.contexts.row(one).ids.tolist()
            assert row["token_ids_in_graph"]["offset"] == len(context) == trace.n_context
            asked = [math.nan if nats is None else nats for nats in row["surprisal"][context.question_span]]
            np.testing.assert_allclose(asked, trace.question_surprisal, atol=1e-6)
            assert row["surprisal"][: context.question_span.start] == [None] * context.question_span.start
        context = scorer.contexts.of(talk.chain)
        assert kept[talk.chain.id].prefix_token_ids.tolist() == list(context.prefix)
        assert kept[talk.chain.id].infix_token_ids.tolist() == list(context.infix)
        assert kept[alone.chain.id].prefix_token_ids is None  # it is that of the run
        answer = {"role": "assistant", "content": TEXT}
        before = [turn | {"weight": 0} if turn["role"] == "assistant" else turn for turn in TOOLS]
        assert turns[talk.chain.id]["messages"] == [*before, answer | {"weight": 1}]
        assert turns[alone.chain.id]["messages"] == [{"role": "user", "content": QUESTION}, answer]
        # a format of texts begins with the question, so it says what it would lose
        with pytest.raises(UsageError, match="would lose the conversation before the question of 1 of 2 rows"):
            exported(shards, "prompt-completion", tmp_path / "texts.jsonl")
        lossy = exported(shards, "prompt-completion", tmp_path / "texts.jsonl", lossy=True)
        assert lossy[talk.chain.id]["prompt"] == f"{QUESTION}\n"
        assert "The conversation before the question of 1 row" in (tmp_path / "texts.README.md").read_text("utf-8")
    # shards of a version that kept no tokens of the context
    older = [replace(trace, prefix_token_ids=None, infix_token_ids=None) for trace in traces]
    with (
        stored(tmp_path / "older", scorer, older) as shards,
        pytest.raises(UsageError, match=r"measured after a conversation .*trails remove"),
    ):
        exported(shards, "trails", tmp_path / "older.jsonl")


def test_a_conversation_without_a_user_turn_is_all_prefix() -> None:
    scorer = scorer_of(tiny("qwen2"), tokenizer=chatty(), template="chat")
    context = scorer.contexts.of(conversing([{"role": "system", "content": "Go."}]).chain)
    assert context == Context(prefix=tuple(scorer.model.text.ids("<system>Go.</><bot>")))
    assert not context.question_span.stop - context.question_span.start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (TEMPLATE, "<bot><think>\n"),
        (TEMPLATE + "<think>", "<bot><think>"),
        (TEMPLATE + "<think></think>", "</think><think>\n"),
    ],
)
def test_think_opens_a_thought_where_the_template_does_not(template: str, expected: str) -> None:
    scorer = scorer_of(tiny("qwen2"), tokenizer=chatty(template), template="chat", think=True)
    for one in (item(), conversing()):
        assert text_of(scorer, scorer.contexts.of(one.chain).ids).endswith(expected)
    assert scorer.run.id != scorer_of(tiny("qwen2"), tokenizer=chatty(template), template="chat").run.id
    with pytest.raises(ModelError) as error:
        scorer_of(tiny("qwen2"), think=True)
    assert str(error.value) == "--think opens a thought inside a chat template. Give --template chat with it."


@pytest.mark.slow
def test_control_tokens_in_plain_text_follow_the_policy() -> None:
    text = f"{TEXT[:8]}<|end|>{TEXT[8:]}"
    runs = {p: scorer_of(tiny("qwen2"), tokenizer=chatty(), control_tokens=p) for p in ("token", "text", "refuse")}
    token, plain = (runs[p].contexts.row(item(text, "<|end|>?", ())) for p in ("token", "text"))
    special = runs["token"].model.tokenizer.convert_tokens_to_ids("<|end|>")
    assert runs["token"].model.text.control_tokens(token.ids.tolist()) == [special, special]
    assert runs["text"].model.text.control_tokens(plain.ids.tolist()) == []
    assert text_of(runs["text"], plain.tokens.ids) == text_of(runs["token"], token.tokens.ids) == text
    with pytest.raises(UnmeasurableError) as error:
        runs["refuse"].contexts.row(item(text, "", ()))
    assert "names 1 control token of the model (<|end|>), which --control-tokens refuse keeps out." in str(error.value)
    # text is another reading; a refused chain has no number, so the others are the same run
    assert runs["token"].run.id == runs["refuse"].run.id != runs["text"].run.id
    for run in runs.values():
        assert run.contexts.row(item()).ids.tolist() == runs["token"].contexts.row(item()).ids.tolist()


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[9].content }}{{ nothing.at.all }}",
        "{% for",
        "{{ ''.__class__.__mro__ }}",
        "{{ raise_exception('no') }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 1 / 0 }}",
        "fixed",
    ],
)
def test_a_hostile_template_gives_one_message(template: str) -> None:
    with pytest.raises(ModelError) as error:
        scorer_of(tiny("qwen2"), tokenizer=chatty(template), template="chat")
    said = str(error.value)
    assert said.startswith("the chat template of tiny ")
    assert "--template plain" in said
    assert "\n" not in said


@pytest.mark.parametrize("messages", ["{", "{}", "[1]"])
def test_a_damaged_conversation_is_named(messages: str) -> None:
    scorer = scorer_of(tiny("qwen2"), tokenizer=chatty(), template="chat")
    with pytest.raises(UnmeasurableError, match=f"the conversation of chain {item().chain.id} is not "):
        scorer.contexts.of(replace(item().chain, messages=messages))


@pytest.mark.slow
def test_a_chain_that_cannot_be_measured_is_one_bad_record(tmp_path: Path) -> None:
    from trails.config import load_settings
    from trails.pipeline import IngestOptions, ingest
    from trails.readers import ReadOptions

    lines = [{"id": str(i), "text": f"{TEXT} {i}."} for i in range(4)]
    lines[2]["text"] = "Let <|end|> be. So it is."
    path = tmp_path / "chains.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    scorer = scorer_of(tiny("qwen2"), tokenizer=chatty(), control_tokens="refuse")
    options = IngestOptions(read=ReadOptions(bad_tolerance=1))
    summary = ingest([path], load_settings(home=tmp_path / "home", store="embedded"), options, scorer=scorer)
    assert (summary.measured, summary.refused, summary.bad) == (3, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "measured", "said"),
    [
        (
            "token",
            3,
            "3 control tokens named in questions and chains (--control-tokens token; each is taken for the token",
        ),
        ("text", 3, "3 control tokens named in questions and chains (--control-tokens text; each is read as text)"),
        (
            "refuse",
            1,
            "3 control tokens named in questions and chains (--control-tokens refuse; their chains are left out)",
        ),
    ],
)
def test_an_ingest_counts_the_control_tokens_that_plain_text_names(
    tmp_path: Path, policy: Any, measured: int, said: str
) -> None:
    from trails.config import load_settings
    from trails.pipeline import IngestOptions, ingest, summary_lines
    from trails.readers import ReadOptions

    source = tmp_path / "one.jsonl"
    records = [
        {"question": "Wet?", "chain": "It rains. So it is wet."},
        {"question": "What is <|end|>?", "chain": "It rains. So it is <|end|"},  # the second one is no name
        {"question": "Wet?", "chain": "It rains<|end|>. So it is <s>wet."},
    ]
    source.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    scorer = scorer_of(tiny("qwen2"), tokenizer=chatty(), control_tokens=policy)
    settings = load_settings(home=tmp_path / "home", store="embedded")
    options = IngestOptions(read=ReadOptions(bad_tolerance=5))
    summary = ingest([source], settings, options, scorer=scorer)
    assert (summary.measured, summary.control_tokens, summary.control_policy) == (measured, 3, policy)
    assert [line for line in summary_lines(summary) if said in line]
    assert summary.record()["control_tokens"] == 3


@pytest.mark.slow
def test_the_rest_of_a_batch_is_measured_without_the_chain_that_fails() -> None:
    from trails.pipeline.blocks import measured

    scorer = scorer_of(tiny("gpt2", n_positions=64))
    items = [item(f"{n} is {n}. So.", "", (), source_id=str(n)) for n in range(5)] + [item("a" * 90, "", ())]
    refused: list[str] = []
    portions = measured(items, scorer, MeasureOptions(batch_tokens=4096), lambda one, why: refused.append(why))
    assert [trace.chain.id for portion in portions for trace in portion] == [one.chain.id for one in items[:5]]
    assert len(refused) == 1
    assert "has 90 tokens with its context" in refused[0]
