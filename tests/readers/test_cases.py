"""Inputs of every shape: what each is read as, by a table; and what is refused, with the sentence that says why.

``cases/`` holds shapes of real files, rebuilt with sentences of our own (CC0); ``OWN`` adds more of the same kinds. The table
is written by hand: a reading is right when the text that a person would call the chain is the chain.
"""

from __future__ import annotations

import gzip
import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trails.errors import InputError
from trails.readers import ReadOptions, ReadReport, read
from trails.readers.thought import ANSWER_MARKS, THOUGHT_MARKS, take_apart

CASES = Path(__file__).parent / "cases"

SQUARE_Q = "A square has area 49. How long is its side?"
SQUARE = (
    "Let the side be s. If the area is 49, then s squared is 49. But s could be negative, so I check the sign. "
    "A side is positive, therefore s = 7."
)
SQUARE_SHORT = (
    "Let the side be s. If the area is 49, then s squared is 49. But s could be negative, so I check. Therefore s = 7."
)
SIDE = "The side is $\\boxed{7}$."
EGGS_Q = "A box has 12 eggs, 5 break, 2 are bought. How many?"
EGGS = (
    "There are 12 eggs. First I take away 5, because they broke. So 7 eggs remain. However, two more are bought, "
    "therefore there are 9."
)
EGGS_RU = EGGS + " Также: если дождь, то мокро."
NINE = "**9** eggs."
EVEN_Q = "If n is even, is n + 1 odd?"
EVEN = "Suppose n is even. Then n = 2k. Hmm, but wait, the question asks about n + 1. So n + 1 = 2k + 1, which is odd."
CAREFUL = "You are a careful assistant."


@dataclass(frozen=True)
class C:
    """A chain as it must be read. ``messages`` None: one user turn, the question. ``metadata`` is a part of the metadata."""

    question: str
    text: str
    answer: str = ""
    messages: list[dict[str, Any]] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    boundaries: tuple[int, ...] = ()
    id: str | None = None


@dataclass(frozen=True)
class Case:
    """What a file must give. ``bad``: line and words of the message of every bad record; line 0 is the file itself."""

    reader: str
    chains: tuple[C, ...] = ()
    bad: tuple[tuple[int, str], ...] = ()
    note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def turns(*said: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in said]


def system(question: str, prompt: str = CAREFUL, role: str = "system") -> dict[str, Any]:
    """Question and messages of a user turn behind a system prompt."""
    return {"question": f"{role}: {prompt}\nuser: {question}", "messages": turns((role, prompt), ("user", question))}


PAIR = (C(SQUARE_Q, SQUARE, "7"), C(EGGS_Q, EGGS_RU, "9"))
THOUGHTS = (C(SQUARE_Q, SQUARE, SIDE), C(EGGS_Q, EGGS, NINE))
FIRST_CALL = {"id": "call_1", "type": "function", "function": {"name": "calc", "arguments": '{"x": "7*7"}'}}
TESTS_7 = "If the area is 49, then I can test 7 with the tool."
TABLE = (
    "I look at the table.\n\n| n | n^2 |\n|---|-----|\n| 7 | 49  |\n| 8 | 64  |\n\nIf the area is 49, then the row is n = 7. "
    "But I check it by code:\n\n```python\n# if it fails, then stop\nfor n in range(10):\n    if n * n == 49:\n\n"
    "        print(n)\n```\n\n"
    "Therefore:\n\n$$\ns = \\sqrt{49} = 7\n$$\n\n\\[\n\\begin{aligned}\ns &= 7 \\\\\n  &> 0\n\\end{aligned}\n\\]\n\n"
    "1. First, s is positive.\n2. Then s = 7.\n\n**Final answer**: \\(\\boxed{7}\\)"
)

TABLE_OF_CASES: dict[str, Case] = {
    "array_named_jsonl.jsonl": Case("records", PAIR),
    "batch_output.jsonl": Case(
        "completions",
        (C("", SQUARE, SIDE, metadata={"finish_reason": "stop"}, id="own-1"),),
        ((2, "the request own-2 failed: failed"),),
        "the log holds the answer only, so the chain has no question",
    ),
    "begin_of_thought.json": Case(
        "messages",
        (
            C(**system(SQUARE_Q, "Think first."), text=SQUARE, answer=SIDE),
            C(**system(EGGS_Q, "Think first."), text=EGGS, answer=NINE),
        ),
    ),
    "bom.jsonl": Case("records", PAIR),
    "bom_array.json": Case("records", PAIR),
    "c.jsonl.gz": Case("records", PAIR),
    "c.jsonl.zst": Case("records", PAIR),
    "chat_strings.jsonl": Case("messages", THOUGHTS),
    "columns_lists.json": Case("records", PAIR),
    "comma_multiline.csv": Case(
        "records",
        (
            C(SQUARE_Q, SQUARE + '\n\n"Quoted", with comma.', "7"),
            C(EGGS_Q, EGGS_RU + '\n\n"Quoted", with comma.', "9"),
        ),
    ),
    "concatenated.json": Case("records", PAIR),
    "cp1251.jsonl": Case("records", bad=((1, "is not UTF-8. Name the encoding (--encoding cp1251)"),)),
    "crlf.jsonl": Case("records", PAIR),
    "developer_and_name.jsonl": Case("messages", (C(**system(SQUARE_Q, role="developer"), text=SQUARE, id="7"),)),
    "double_header.csv": Case("records", bad=((1, "two columns are named 'reasoning'"),)),
    "duplicate_ids.jsonl": Case(
        "records",
        (C(SQUARE_Q, SQUARE, "7", id="same"), C(EGGS_Q, EGGS, "9", id="same"), C(SQUARE_Q, SQUARE, "7", id="same")),
        note="different records have the id 'same'",
    ),
    "empty_think.jsonl": Case(
        "messages",
        (
            C(f"{SQUARE_Q} /no_think", SQUARE, metadata={"thought": "empty"}),
            C(f"{EGGS_Q} /think", EGGS, NINE),
        ),
        note="once: the marks of the thought are empty",
    ),
    "eval_samples.jsonl": Case(
        "eval-samples",
        (
            C(SQUARE_Q, SQUARE, "7", metadata={"correct": "true", "prompt": f"Q: {SQUARE_Q}\nA:"}),
            C(EGGS_Q, EGGS, "9", metadata={"exact_match": "1.0", "filter": "strict-match"}),
        ),
    ),
    "excel.csv": Case(
        "records",
        (
            C(SQUARE_Q, SQUARE + "\nSecond line; with a mark.", "7"),
            C(EGGS_Q, EGGS_RU + "\nSecond line; with a mark.", "9"),
        ),
    ),
    "first_row_null.parquet": Case("messages", (C(SQUARE_Q, SQUARE_SHORT),), ((1, "the field 'messages' is empty"),)),
    "generations_list.jsonl": Case(
        "records",
        (
            C(
                SQUARE_Q,
                SQUARE,
                SIDE,
                metadata={"correct": "true", "alternative": "0", "gold_answer": "7"},
                id="own-1:0",
            ),
            C(SQUARE_Q, EVEN, SIDE, metadata={"correct": "false", "finish_reason": "stop"}, id="own-1:1"),
            C(EGGS_Q, EGGS, NINE, metadata={"correct": "true", "gold_answer": "9", "solution": "9"}, id="own-2"),
        ),
    ),
    "hf_dataset_dict": Case(
        "records",
        (
            C(EVEN_Q, EVEN, "Yes, n + 1 is odd.", id="p2"),
            C(SQUARE_Q, SQUARE, SIDE, id="p0"),
            C(EGGS_Q, EGGS, NINE, id="p1"),
        ),
    ),
    "hf_selected": Case("messages", (C(SQUARE_Q, SQUARE, SIDE), C(EVEN_Q, EVEN, "Yes, n + 1 is odd."))),
    "id_zero_and_empty.jsonl": Case(
        "records",
        (C(SQUARE_Q, SQUARE, id="0"), C(EGGS_Q, EGGS), C(EVEN_Q, EVEN), C(EVEN_Q, SQUARE)),
    ),
    "instruction_input_output.json": Case(
        "records",
        (
            C("Say whether the statement is odd or even, step by step.\nn + 1 for even n", EVEN),
            C(
                f"user: Hello\nassistant: Hi\nuser: Compute, step by step.\n{EGGS_Q}",
                EGGS,
                messages=turns(("user", "Hello"), ("assistant", "Hi"), ("user", f"Compute, step by step.\n{EGGS_Q}")),
            ),
        ),
    ),
    "keyed_object.json": Case("records", (C(SQUARE_Q, SQUARE, "7", id="q1"), C(EGGS_Q, EGGS_RU, "9", id="q2"))),
    "lead_before_think.jsonl": Case(
        "messages",
        (C(SQUARE_Q, SQUARE, SIDE, metadata={"text_before": "Sure, let me work on it."}), C(EGGS_Q, EGGS, NINE)),
    ),
    "lfs_clone": Case("", bad=((0, "this is a Git LFS pointer, not the data. Fetch the data: git lfs pull."),)),
    "list_of_struct.parquet": Case("messages", THOUGHTS),
    "markup_and_escapes.jsonl": Case(
        "records",
        (
            C(
                "[bold red]q[/]",
                "If [red]x[/red] holds, then [/bold] closes nothing. But \x1b[31mthis\x1b[0m is an escape and "
                "[link=http://a.b]l[/link] too. So \x1b]0;title\x07 done. Therefore [1, 2] is a list.",
                "[/]",
            ),
        ),
    ),
    "messages_and_prompt.jsonl": Case("messages", (C(SQUARE_Q, SQUARE, metadata={"prompt_id": "p1"}),)),
    "messages_struct.parquet": Case("messages", THOUGHTS),
    "mixed_language.jsonl": Case(
        "records",
        (
            C(
                "数列的和是多少？",
                "首先，如果 n 是偶数，那么 n+1 是奇数。但是等一下，我需要检查。Wait, let me check this again. "
                "Если n чётно, то n+1 нечётно. 所以答案是奇数。 Therefore, odd. 👩‍👩‍👧 ok.",
                "奇数",
            ),
        ),
    ),
    "mixed_types.jsonl": Case(
        "records",
        (
            C(SQUARE_Q, SQUARE, "7", metadata={"age": "36"}),
            C(EGGS_Q, EGGS, "9", metadata={"age": "over 80"}),
            C(EVEN_Q, EVEN, "true"),
        ),
    ),
    "nan_inf.jsonl": Case(
        "records",
        (
            C("q one", SQUARE, metadata={"score": "NaN", "logprob": "-Infinity"}),
            C("q two", EGGS, metadata={"score": "1.5", "grade": "1.5"}),
        ),
    ),
    "no_question.jsonl": Case("records", (C("", SQUARE), C("", EGGS), C("", EVEN))),
    "null_reasoning.jsonl": Case(
        "records",
        (C(SQUARE_Q, SQUARE, "7"), C(EVEN_Q, EVEN, "yes")),
        ((2, "the field 'reasoning', which holds the chain in this file, is empty"),),
    ),
    "observations.json": Case(
        "observations",
        (
            C(**system(SQUARE_Q), text=SQUARE, answer=SIDE, metadata={"traceId": "t1"}, id="o1"),
            C(**system(EGGS_Q), text=EGGS, answer=NINE, metadata={"traceId": "t2", "model": "m"}, id="o2"),
        ),
        note="once: an observation that is not a generation was passed over (SPAN)",
    ),
    "one_chat_pretty.json": Case("messages", (C(SQUARE_Q, SQUARE_SHORT),)),
    "plain_small.jsonl": Case(
        "records",
        (
            C(SQUARE_Q, SQUARE, SIDE, id="p0"),
            C(EGGS_Q, EGGS, NINE, id="p1"),
            C(EVEN_Q, EVEN, "Yes, n + 1 is odd.", id="p2"),
        ),
    ),
    "prompt_chosen_rejected.jsonl": Case(
        "records",
        (
            C(SQUARE_Q, SQUARE, metadata={"preference": "chosen"}),
            C(SQUARE_Q, "It is 8.", metadata={"preference": "rejected"}),
            C(EGGS_Q, EGGS, metadata={"preference": "chosen"}),
            C(EGGS_Q, "It is 7.", metadata={"preference": "rejected"}),
        ),
        note="chosen and rejected answers are a chain each",
    ),
    "prompt_completion_messages.jsonl": Case(
        "records",
        (C(**system(SQUARE_Q), text=SQUARE, answer=SIDE), C(**system(EGGS_Q), text=EGGS, answer=NINE)),
    ),
    "prompt_completions_labels.jsonl": Case(
        "records",
        (
            C(
                SQUARE_Q,
                "Let the side be s.\nIf the area is 49, then s = 7.\nSo the side is 7.",
                boundaries=(0, 19, 50),
                metadata={"labels": "[true,true,true]", "first_wrong_step": "-1"},
            ),
            C(EGGS_Q, "12 - 5 = 7.\nSo 7.", boundaries=(0, 12), metadata={"first_wrong_step": "1"}),
        ),
    ),
    "reasoning_details.jsonl": Case("messages", (C(SQUARE_Q, SQUARE, SIDE),)),
    "reasoning_is_a_switch.jsonl": Case(
        "records",
        (
            C(**system(SQUARE_Q, "detailed thinking on"), text=SQUARE, answer=SIDE, metadata={"reasoning": "on"}),
            C(**system(EGGS_Q, "detailed thinking off"), text=EGGS, metadata={"reasoning": "off", "category": "math"}),
        ),
    ),
    "rich_types.parquet": Case(
        "records", (C(SQUARE_Q, SQUARE, metadata={"emb": "[0.1,0.2]"}), C(EGGS_Q, EGGS, metadata={"emb": "[NaN,1.0]"}))
    ),
    "spans_flat.jsonl": Case("spans", (C(SQUARE_Q, SQUARE, SIDE, id="s0"), C(EGGS_Q, EGGS, NINE, id="s1"))),
    "spans_flat.parquet": Case("spans", (C(SQUARE_Q, SQUARE, SIDE, id="s0"), C(EGGS_Q, EGGS, NINE, id="s1"))),
    "steps_and_label.jsonl": Case(
        "records",
        (
            C(
                SQUARE_Q,
                "Let the side be s.\nIf the area is 49, then s squared is 49.\nSo s = 8.",
                boundaries=(0, 19, 60),
                metadata={"first_wrong_step": "2", "correct": "false"},
                id="own-0",
            ),
            C(
                EGGS_Q,
                "12 - 5 = 7.\nSo 9 remain.",
                boundaries=(0, 12),
                metadata={"first_wrong_step": "-1", "correct": "true"},
                id="own-1",
            ),
        ),
    ),
    "table_code_latex.jsonl": Case("records", (C(SQUARE_Q, TABLE, "7"),)),
    "think_answer_tags.jsonl": Case("records", (C(SQUARE_Q, SQUARE, "7"), C(EGGS_Q, EGGS, "9"))),
    "think_content_info.jsonl": Case(
        "messages", (C(SQUARE_Q, SQUARE, SIDE, metadata={"gold_answer": "7", "source": "own"}),)
    ),
    "think_no_open_tag.jsonl": Case("messages", THOUGHTS, note="2 times: a thought has only its closing mark"),
    "thinking_blocks.jsonl": Case("messages", THOUGHTS, note="2 times: redacted_thinking was left out"),
    "thinking_trajectories.jsonl": Case(
        "records",
        (
            C(SQUARE_Q, SQUARE, SIDE, metadata={"solution": "49 = 7^2", "cot_type": "math"}),
            C(EGGS_Q, EGGS, NINE, metadata={"solution": "9"}),
        ),
    ),
    "tool_calls.jsonl": Case(
        "messages",
        (
            C(**system(SQUARE_Q), text=TESTS_7),
            C(
                f"system: {CAREFUL}\nuser: {SQUARE_Q}\nassistant: {TESTS_7}\ntool: 49",
                "The tool says 49, therefore 7 is right.",
                SIDE,
                messages=[
                    *turns(("system", CAREFUL), ("user", SQUARE_Q)),
                    {"role": "assistant", "content": "", "reasoning_content": TESTS_7, "tool_calls": [FIRST_CALL]},
                    {"role": "tool", "content": "49", "tool_call_id": "call_1"},
                ],
                metadata={"tools": '[{"type":"function","function":{"name":"calc"}}]'},
            ),
        ),
    ),
    "trailing_spaces.jsonl": Case("records", (C(SQUARE_Q, f"{SQUARE}   \n\n\n  {EVEN}", "7"),)),
    "two_lists.json": Case("records", (C(SQUARE_Q, SQUARE_SHORT),), note="the records are those of the list 'data'"),
    "utf16_bom.jsonl": Case("records", PAIR),
    "weight_zero_turn.jsonl": Case(
        "messages",
        (
            C(
                f"user: {SQUARE_Q}\nassistant: Wrong guess: 8.\nuser: Try again.",
                SQUARE,
                messages=turns(("user", SQUARE_Q), ("assistant", "Wrong guess: 8."), ("user", "Try again.")),
                metadata={"weight": "1"},
            ),
        ),
    ),
}


def check(path: Path, case: Case) -> None:
    """Read an input with every bad record tolerated, compare all of it; then once more with none tolerated."""
    report = ReadReport()
    chains = list(read([path], options=ReadOptions(bad_tolerance=100, **case.options), report=report))
    assert [chain.text for chain in chains] == [expected.text for expected in case.chains]
    for chain, expected in zip(chains, case.chains, strict=True):
        assert chain.question == expected.question
        assert chain.answer == expected.answer
        assert (json.loads(chain.messages) if chain.messages else None) == expected.messages
        assert {key: chain.metadata.get(key) for key in expected.metadata} == expected.metadata
        assert chain.boundaries == expected.boundaries
        assert expected.id in (None, chain.source_id)
        assert chain.family
    assert len({chain.id for chain in chains}) == len({(c.question, c.text, c.id) for c in case.chains})
    assert [(entry.line, entry.file) for entry in report.entries] == [
        (line, str(path) if path.is_file() else entry.file)
        for (line, _), entry in zip(case.bad, report.entries, strict=True)
    ]
    for entry, (_, words) in zip(report.entries, case.bad, strict=True):
        assert words in entry.message
    assert [example.reader for example in report.examples] == ([case.reader] if case.chains else [])
    assert case.note in "\n".join(report.notes)
    if case.bad:
        with pytest.raises(InputError) as caught:
            list(read([path], options=ReadOptions(**case.options)))
        assert case.bad[0][1] in str(caught.value)
        assert str(caught.value).startswith(f"{report.entries[0].file}:")


def test_every_case_has_a_line() -> None:
    files = {path.name for path in CASES.iterdir()} - {"README.md", ".gitattributes"}
    assert files == set(TABLE_OF_CASES)
    said = (CASES / "README.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in said for name in files)


@pytest.mark.parametrize("name", TABLE_OF_CASES)
def test_case(name: str) -> None:
    check(CASES / name, TABLE_OF_CASES[name])


def test_windows_1251_when_it_is_named() -> None:
    chains = list(read([CASES / "cp1251.jsonl"], options=ReadOptions(encoding="cp1251")))
    assert [(chain.question, chain.text) for chain in chains] == [
        ("Чётно ли?", "Если n чётно, то n + 1 нечётно. Но 7 нечётно, поэтому нет.")
    ]


@pytest.mark.slow
def test_twenty_thousand_records_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "one_huge_line.json"
    records = [{"question": f"q{n}", "reasoning": f"If {n} then {n + 1}. So {n + 2}."} for n in range(20_000)]
    path.write_text(json.dumps(records), encoding="utf-8")
    chains = list(read([path]))
    assert len(chains) == 20_000
    assert (chains[-1].question, chains[-1].text) == ("q19999", "If 19999 then 20000. So 20001.")


def test_a_chain_of_many_steps(tmp_path: Path) -> None:
    path = tmp_path / "long_chain.jsonl"
    text = " ".join(f"Step {n}: if {n} is tested, then {n * n} is not 49. But wait, so I go on." for n in range(600))
    path.write_text(json.dumps({"question": SQUARE_Q, "reasoning": text, "answer": "7"}), encoding="utf-8")
    (chain,) = read([path])
    assert (chain.question, chain.text, chain.answer) == (SQUARE_Q, text, "7")


# --- further shapes -------------------------------------------------------------------------------------------------

LONG = " ".join([SQUARE] * 3)
"""More than sixty words: an item of this length is a chain of its own."""

ASSISTANT = {"role": "assistant", "content": f"<think>\n{SQUARE}\n</think>\n{SIDE}"}
USER = {"role": "user", "content": SQUARE_Q}
SIGHT = C(SQUARE_Q, SQUARE, SIDE)


def chat(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [USER, {"role": "assistant", "content": content, **more}]}


def generation(**fields: Any) -> dict[str, Any]:
    return {"id": "o1", "traceId": "t", "type": "GENERATION", "startTime": "2025-01-01T00:00:00Z", **fields}


def otlp(**attributes: Any) -> dict[str, Any]:
    return {
        "resourceSpans": [
            {
                "scopeSpans": [
                    {
                        "spans": [
                            {
                                "spanId": "ab",
                                "attributes": [
                                    {"key": key.replace("__", "."), "value": {"stringValue": json.dumps(value)}}
                                    for key, value in attributes.items()
                                ],
                            },
                            {"spanId": "cd", "attributes": [{"key": "http.method", "value": {"stringValue": "GET"}}]},
                        ]
                    }
                ]
            }
        ]
    }


# name: (records, what they must be read as)
OWN: dict[str, tuple[list[dict[str, Any]], Case]] = {
    # the thought
    "mistral": ([chat(f"[THINK]{SQUARE}[/THINK]{SIDE}")], Case("messages", (SIGHT,))),
    "channels": (
        [
            chat(
                f"<|channel|>analysis<|message|>{SQUARE}<|end|><|start|>assistant<|channel|>final<|message|>{SIDE}<|return|>"
            )
        ],
        Case("messages", (SIGHT,)),
    ),
    "cohere": (
        [chat(f"<|START_THINKING|>{SQUARE}<|END_THINKING|><|START_RESPONSE|>{SIDE}<|END_RESPONSE|>")],
        Case("messages", (SIGHT,)),
    ),
    "kimi": ([chat(f"◁think▷{SQUARE}◁/think▷{SIDE}")], Case("messages", (SIGHT,))),
    "two_thoughts": (
        [chat(f"<think>{SQUARE}</think>I look again.<think>{EVEN}</think>{SIDE}")],
        Case(
            "messages",
            (C(SQUARE_Q, f"{SQUARE}\n\n{EVEN}", SIDE, metadata={"text_between": "I look again."}),),
            note="several thoughts in one turn",
        ),
    ),
    "unfinished_thought": (
        [chat(f"<think>\n{SQUARE}")],
        Case("messages", (C(SQUARE_Q, SQUARE, metadata={"thought": "unfinished"}),), note="no closing mark"),
    ),
    "mark_inside": (
        [chat(f"<think>The tag <answer> is odd. {SQUARE}</think>{SIDE}")],
        Case(
            "messages",
            (C(SQUARE_Q, f"The tag <answer> is odd. {SQUARE}", SIDE),),
            note="marks stay inside the chain (<answer>)",
        ),
    ),
    "own_marks": (
        [{"question": SQUARE_Q, "response": f"((deep)){SQUARE}((/deep)){SIDE}"}],
        Case("records", (SIGHT,), options={"marks": (("((deep))", "((/deep))"),)}),
    ),
    "answer_without_thought": (
        [{"prompt": SQUARE_Q, "response": f"{SQUARE}\n<answer>7</answer>"}],
        Case("records", (C(SQUARE_Q, SQUARE, "7"),)),
    ),
    "thought_and_content": (
        [chat(SIDE, reasoning=SQUARE)],
        Case("messages", (SIGHT,)),
    ),
    "marked_field_of_any_name": (
        [{"question": SQUARE_Q, "solution": "s = 7", "gen": f"<think>{SQUARE}</think>{SIDE}"}],
        Case("records", (C(SQUARE_Q, SQUARE, SIDE, metadata={"solution": "s = 7"}),)),
    ),
    # which field
    "empty_reasoning_and_a_page": (
        [
            {"question": SQUARE_Q, "reasoning": SQUARE, "context": "A page that was found. It is long enough."},
            {"question": EGGS_Q, "reasoning": "", "context": "Another page that was found. It is long too."},
        ],
        Case(
            "records",
            (C(SQUARE_Q, SQUARE),),
            ((2, "the field 'reasoning', which holds the chain in this file, is empty"),),
        ),
    ),
    "a_missing_field": (
        [{"question": SQUARE_Q, "cot": SQUARE}, {"question": EGGS_Q, "text": EGGS}],
        Case(
            "records", (C(SQUARE_Q, SQUARE),), ((2, "the field 'cot', which holds the chain in this file, is missing"),)
        ),
    ),
    "reasoning_effort": (
        [{"problem": SQUARE_Q, "thinking": "high", "completion": SQUARE}],
        Case("records", (C(SQUARE_Q, SQUARE, metadata={"thinking": "high"}),)),
    ),
    "reasoning_is_true": (
        [{"problem": SQUARE_Q, "reasoning": True, "output": SQUARE}],
        Case("records", (C(SQUARE_Q, SQUARE, metadata={"reasoning": "true"}),)),
    ),
    "a_path": (
        [{"doc": {"question": SQUARE_Q, "gold": "7"}, "out": [[SQUARE]]}],
        Case(
            "records",
            (C(SQUARE_Q, SQUARE, "7"),),
            options={"fields": {"question": "doc.question", "chain": "out[0]", "answer": "doc.gold"}},
        ),
    ),
    "a_path_through_a_list": (
        [{"q": SQUARE_Q, "label": {"steps": [{"text": "Let s be it."}, {"text": "So s = 7."}]}}],
        Case(
            "records",
            (C(SQUARE_Q, "Let s be it.\nSo s = 7.", boundaries=(0, 13)),),
            options={"fields": {"question": "q", "chain": "label.steps[].text"}},
        ),
    ),
    "field_before_a_known_reader": (
        [{**chat("never"), "note": SQUARE}],
        Case("records", (C("", SQUARE),), options={"fields": {"chain": "note"}}),
    ),
    "field_that_is_not_there": (
        [{"question": "q", "answer": "a\n#### 5"}],
        Case(
            "",
            bad=((1, "no field 'nope' for the chain; fields found: question, answer."),),
            options={"fields": {"chain": "nope"}},
        ),
    ),
    "question_of_a_known_reader": (
        [{**chat(SQUARE), "title": "Squares"}],
        Case("messages", (C("Squares", SQUARE),), options={"fields": {"question": "title"}}),
    ),
    # lists
    "long_alternatives": (
        [{"question": SQUARE_Q, "reasoning": [LONG, EGGS + " " + LONG], "scores": [0.5, 1.0]}],
        Case(
            "records",
            (
                C(SQUARE_Q, LONG, metadata={"alternative": "0", "scores": "0.5"}),
                C(SQUARE_Q, EGGS + " " + LONG, metadata={"alternative": "1", "scores": "1.0"}),
            ),
        ),
    ),
    "graded_responses": (
        [{"prompt": SQUARE_Q, "responses": ["It is 7.", "It is 8."], "is_correct": [True, False], "answer": "7"}],
        Case(
            "records",
            (
                C(SQUARE_Q, "It is 7.", "7", metadata={"correct": "true", "alternative": "0"}),
                # the right answer is not put behind a wrong text
                C(SQUARE_Q, "It is 8.", "", metadata={"correct": "false", "gold_answer": "7"}),
            ),
        ),
    ),
    # what a chain came to and what the data have are kept apart
    "own_answer_beside_the_gold_one": (
        [
            {"problem": SQUARE_Q, "chain": SQUARE, "model_answer": "7", "gold_answer": "7"},
            {"problem": SQUARE_Q, "chain": "It is 8.", "model_answer": "8", "gold_answer": "7"},
            {"problem": SQUARE_Q, "chain": EVEN, "model_answer": "7 + x", "gold_answer": "x + 7"},
            {"problem": SQUARE_Q, "chain": EGGS, "model_answer": None, "gold_answer": "9"},
        ],
        Case(
            "records",
            (
                C(SQUARE_Q, SQUARE, "7", metadata={"correct": "true", "gold_answer": "7"}),
                C(SQUARE_Q, "It is 8.", "8", metadata={"correct": "false", "gold_answer": "7"}),
                C(SQUARE_Q, EVEN, "7 + x", metadata={"gold_answer": "x + 7"}),
                # others of the file say what they came to, this one does not
                C(SQUARE_Q, EGGS, "", metadata={"gold_answer": "9"}),
            ),
        ),
    ),
    "prediction_beside_the_answer": (
        [{"question": SQUARE_Q, "reasoning": "It is 8.", "prediction": 8, "answer": 7}],
        Case("records", (C(SQUARE_Q, "It is 8.", "8", metadata={"correct": "false", "gold_answer": "7"}),)),
    ),
    "short_output_beside_the_answer": (
        [{"question": SQUARE_Q, "cot": SQUARE, "model_output": "7", "answer": "7"}],
        Case("records", (C(SQUARE_Q, SQUARE, "7", metadata={"correct": "true", "gold_answer": "7"}),)),
    ),
    "output_that_repeats_the_chain": (
        [{"question": SQUARE_Q, "cot": SQUARE, "model_output": f"{SQUARE} So 7.", "answer": "7"}],
        Case("records", (C(SQUARE_Q, SQUARE, "7", metadata={"model_output": f"{SQUARE} So 7."}),)),
    ),
    "wrong_chain_with_the_gold_answer_only": (
        [{"question": SQUARE_Q, "solution": "It is 8.", "is_correct": False, "answer": "7"}],
        Case("records", (C(SQUARE_Q, "It is 8.", "", metadata={"correct": "false", "gold_answer": "7"}),)),
    ),
    "steps_as_objects": (
        [{"problem": SQUARE_Q, "steps": [{"text": "Let s be it.", "rating": 1}, {"text": "So s = 7.", "rating": 1}]}],
        Case("records", (C(SQUARE_Q, "Let s be it.\nSo s = 7.", boundaries=(0, 13)),)),
    ),
    "two_teachers": (
        [{"question": SQUARE_Q, "deepseek_thinking_trajectory": SQUARE, "deepseek_attempt": SIDE, "solution": "7"}],
        Case("records", (C(SQUARE_Q, SQUARE, SIDE, metadata={"solution": "7"}),)),
    ),
    "prm800k": (
        [
            {
                "labeler": "l",
                "timestamp": "t",
                "question": {"problem": SQUARE_Q, "ground_truth_answer": "7"},
                "label": {
                    "steps": [
                        {"completions": [{"text": "Let s be it.", "rating": 1}], "chosen_completion": 0},
                        {
                            "completions": [{"text": "So s = 8.", "rating": -1}, {"text": "So s = 7.", "rating": 1}],
                            "chosen_completion": 1,
                        },
                    ],
                    "finish_reason": "solution",
                },
            }
        ],
        Case(
            "prm800k",
            (
                C(
                    SQUARE_Q,
                    "Let s be it.\nSo s = 7.",
                    boundaries=(0, 13),
                    metadata={"ratings": "[1, 1]", "first_wrong_step": "-1", "gold_answer": "7"},
                ),
                C(
                    SQUARE_Q,
                    "Let s be it.\nSo s = 8.",
                    boundaries=(0, 13),
                    metadata={
                        "ratings": "[1, -1]",
                        "first_wrong_step": "1",
                        "branch": "1",
                        "finish_reason": "solution",
                    },
                ),
            ),
        ),
    ),
    # interfaces and logs
    "chat_completion": (
        [
            {
                "request": {"messages": [{"role": "system", "content": CAREFUL}, USER]},
                "response": {"choices": [{"index": 0, "message": ASSISTANT, "finish_reason": "length"}], "model": "m"},
            }
        ],
        Case(
            "completions",
            (C(**system(SQUARE_Q), text=SQUARE, answer=SIDE, metadata={"finish_reason": "length", "model": "m"}),),
        ),
    ),
    "two_choices": (
        [
            {
                "custom_id": "x",
                "messages": [USER],
                "response": {
                    "body": {"choices": [{"message": ASSISTANT}, {"message": {"role": "assistant", "content": EGGS}}]}
                },
            }
        ],
        Case(
            "completions",
            (C(SQUARE_Q, SQUARE, SIDE, id="x:0"), C(SQUARE_Q, EGGS, metadata={"alternative": "1"}, id="x:1")),
        ),
    ),
    "responses_interface": (
        [
            {
                "id": "resp_1",
                "object": "response",
                "status": "completed",
                "instructions": CAREFUL,
                "output": [
                    {"type": "reasoning", "summary": [{"type": "summary_text", "text": SQUARE}]},
                    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": SIDE}]},
                ],
            }
        ],
        Case("completions", (C(CAREFUL, SQUARE, SIDE, messages=turns(("system", CAREFUL)), id="resp_1"),)),
    ),
    "anthropic_batch": (
        [
            {
                "custom_id": "a",
                "result": {
                    "type": "succeeded",
                    "message": {
                        "type": "message",
                        "role": "assistant",
                        "stop_reason": "end_turn",
                        "content": [{"type": "thinking", "thinking": SQUARE}, {"type": "text", "text": SIDE}],
                    },
                },
            },
            {"custom_id": "b", "result": {"type": "errored", "error": {"type": "overloaded", "message": "too busy"}}},
        ],
        Case(
            "completions",
            (C("", SQUARE, SIDE, metadata={"finish_reason": "end_turn"}, id="a"),),
            ((2, "the request b failed: too busy"),),
        ),
    ),
    "anthropic_tools": (
        [
            {
                "system": CAREFUL,
                "messages": [
                    USER,
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "thinking", "thinking": TESTS_7},
                            {"type": "tool_use", "id": "call_1", "name": "calc", "input": {"x": "7*7"}},
                        ],
                    },
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "49"}]},
                    {"role": "assistant", "content": [{"type": "text", "text": SQUARE}]},
                ],
            }
        ],
        Case(
            "messages",
            (
                C(**system(SQUARE_Q), text=TESTS_7),
                C(
                    f"system: {CAREFUL}\nuser: {SQUARE_Q}\nassistant: {TESTS_7}\ntool: 49",
                    SQUARE,
                    messages=[
                        *turns(("system", CAREFUL), ("user", SQUARE_Q)),
                        {
                            "role": "assistant",
                            "content": "",
                            "reasoning_content": TESTS_7,
                            "tool_calls": [
                                {
                                    "id": "call_1",
                                    "type": "function",
                                    "function": {"name": "calc", "arguments": {"x": "7*7"}},
                                }
                            ],
                        },
                        {"role": "tool", "content": "49", "tool_call_id": "call_1"},
                    ],
                ),
            ),
        ),
    ),
    "gemini": (
        [
            {
                "contents": [{"role": "user", "parts": [{"text": SQUARE_Q}]}],
                "response": {
                    "candidates": [
                        {
                            "content": {"role": "model", "parts": [{"text": SQUARE, "thought": True}, {"text": SIDE}]},
                            "finishReason": "STOP",
                        }
                    ]
                },
            }
        ],
        Case("completions", (C(SQUARE_Q, SQUARE, SIDE, metadata={"finish_reason": "STOP"}),)),
    ),
    "langchain": (
        [
            {
                "messages": [
                    {"type": "human", "content": SQUARE_Q},
                    {"type": "ai", "data": {"content": ASSISTANT["content"]}},
                ]
            }
        ],
        Case("messages", (SIGHT,)),
    ),
    "span_nested": (
        [
            {
                "context": {"span_id": "n1"},
                "attributes": {
                    "llm": {
                        "input_messages": [{"message": USER}],
                        "output_messages": [{"message": ASSISTANT}],
                    }
                },
            }
        ],
        Case("spans", (C(SQUARE_Q, SQUARE, SIDE, id="n1"),)),
    ),
    "span_numbered": (
        [
            {
                "span_id": "n2",
                "attributes": {
                    "gen_ai.prompt.0.role": "user",
                    "gen_ai.prompt.0.content": SQUARE_Q,
                    "gen_ai.completion.0.role": "assistant",
                    "gen_ai.completion.0.content": ASSISTANT["content"],
                    "gen_ai.request.model": "m",
                },
            }
        ],
        Case("spans", (C(SQUARE_Q, SQUARE, SIDE, metadata={"model": "m"}, id="n2"),)),
    ),
    "span_otlp": (
        [
            otlp(
                gen_ai__input__messages=[{"role": "user", "parts": [{"type": "text", "content": SQUARE_Q}]}],
                gen_ai__output__messages=[
                    {
                        "role": "assistant",
                        "parts": [{"type": "reasoning", "content": SQUARE}, {"type": "text", "content": SIDE}],
                    }
                ],
            )
        ],
        Case(
            "spans",
            (C(SQUARE_Q, SQUARE, SIDE, id="ab"),),
            note="a span that is not an answer of a model was passed over",
        ),
    ),
    "observation_strings": (
        [
            generation(
                input=json.dumps([USER]),
                output=json.dumps(ASSISTANT),
                scores=[{"name": "helpful", "value": 0.5}],
            )
        ],
        Case("observations", (C(SQUARE_Q, SQUARE, SIDE, metadata={"score_helpful": "0.5"}, id="o1"),)),
    ),
    "trace_with_observations": (
        [
            {
                "id": "t",
                "observations": [
                    generation(input={"messages": [USER]}, output=ASSISTANT),
                    generation(type="SPAN", input={}),
                ],
            }
        ],
        Case("observations", (C(SQUARE_Q, SQUARE, SIDE, id="o1"),)),
    ),
    "inspect_sample": (
        [
            {
                "id": 1,
                "epoch": 2,
                "input": SQUARE_Q,
                "target": "7",
                "messages": [
                    USER,
                    {
                        "role": "assistant",
                        "content": [{"type": "reasoning", "reasoning": SQUARE}, {"type": "text", "text": SIDE}],
                    },
                ],
                "output": {"model": "m", "choices": [{"stop_reason": "stop"}]},
                "scores": {"match": {"value": "I"}},
            }
        ],
        Case(
            "inspect",
            (
                C(
                    SQUARE_Q,
                    SQUARE,
                    SIDE,
                    metadata={"correct": "false", "gold_answer": "7", "score_match": "I", "finish_reason": "stop"},
                    id="1:2",
                ),
            ),
        ),
    ),
    "eval_likelihoods": (
        [{"doc_id": 0, "doc": {"question": "q"}, "target": 0, "resps": [[["-1.5", "False"]], [["-2.5", "True"]]]}],
        Case("", bad=((1, "the responses are log-likelihoods of choices, not text"),)),
    ),
    "session_of_an_agent": (
        [
            {"type": "summary", "summary": "A square."},
            {"type": "user", "sessionId": "S", "message": {"role": "user", "content": SQUARE_Q}},
            {
                "type": "assistant",
                "sessionId": "S",
                "message": {"role": "assistant", "content": [{"type": "thinking", "thinking": SQUARE}]},
            },
            {
                "type": "assistant",
                "sessionId": "S",
                "message": {"role": "assistant", "content": [{"type": "text", "text": SIDE}]},
            },
        ],
        Case(
            "sessions",
            (C(SQUARE_Q, SQUARE, SIDE, id="S#1"),),
            note="a line that is not a message was passed over (summary)",
        ),
    ),
    "session_items": (
        [
            {"type": "session_meta", "payload": {"id": "1"}},
            {
                "type": "response_item",
                "payload": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": SQUARE_Q}]},
            },
            {
                "type": "response_item",
                "payload": {"type": "reasoning", "summary": [{"type": "summary_text", "text": SQUARE}]},
            },
            {
                "type": "response_item",
                "payload": {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": SIDE}]},
            },
        ],
        Case("sessions", (C(SQUARE_Q, SQUARE, SIDE),)),
    ),
    "one_message_a_line": ([USER, ASSISTANT], Case("sessions", (SIGHT,))),
    "preference_messages": (
        [{"chosen": [USER, ASSISTANT], "rejected": [USER, {"role": "assistant", "content": "It is 8."}]}],
        Case(
            "records",
            (
                C(SQUARE_Q, SQUARE, SIDE, metadata={"preference": "chosen"}),
                C(SQUARE_Q, "It is 8.", metadata={"preference": "rejected"}),
            ),
        ),
    ),
    "only_weight_zero": (
        [chat("A guess.", weight=0)],
        Case("", bad=((1, "every message of the assistant has weight 0"),)),
    ),
    "a_picture": (
        [
            {
                "messages": [
                    USER,
                    {
                        "role": "assistant",
                        "content": [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": SQUARE}],
                    },
                ]
            }
        ],
        Case("messages", (C(SQUARE_Q, SQUARE, metadata={"left_out": '["image_url"]'}),), note="image_url was left out"),
    ),
    "names": (
        [
            {
                "messages": [
                    {"role": "user", "name": "ann", "content": SQUARE_Q},
                    {"role": "assistant", "content": SQUARE},
                ]
            }
        ],
        Case("messages", (C(SQUARE_Q, SQUARE, messages=[{"role": "user", "content": SQUARE_Q, "name": "ann"}]),)),
    ),
    # more than one place for the same thing
    "generations_beside_messages": (
        [
            {
                "problem": SQUARE_Q,
                "generations": [ASSISTANT["content"], f"<think>{EVEN}</think>It is 8."],
                "correctness_math_verify": [True, False],
                "messages": [USER, ASSISTANT],
                "answer": "7",
            }
        ],
        Case(
            "records",
            (
                C(SQUARE_Q, SQUARE, SIDE, metadata={"correct": "true", "alternative": "0"}),
                C(SQUARE_Q, EVEN, "It is 8.", metadata={"correct": "false", "gold_answer": "7"}),
            ),
        ),
    ),
    "thought_beside_messages": (
        [{"messages": [USER, {"role": "assistant", "content": SIDE}], "reasoning": SQUARE, "effort": "high"}],
        Case("messages", (C(SQUARE_Q, SQUARE, SIDE, metadata={"effort": "high"}),)),
    ),
    "switch_beside_messages": (
        [{"messages": [USER, ASSISTANT], "reasoning": "on"}],
        Case("messages", (C(SQUARE_Q, SQUARE, SIDE, metadata={"reasoning": "on"}),)),
    ),
    "thought_as_a_message": (
        [{"messages": [USER, {"role": "reasoning", "content": SQUARE}, {"role": "assistant", "content": SIDE}]}],
        Case("messages", (SIGHT,)),
    ),
    "conversation_tree": (
        [
            {
                "id": "t1",
                "current_node": "d",
                "mapping": {
                    "a": {"message": None, "parent": None},
                    "b": {
                        "parent": "a",
                        "message": {
                            "author": {"role": "user"},
                            "content": {"content_type": "text", "parts": [SQUARE_Q]},
                        },
                    },
                    "c": {"parent": "b", "message": {"author": {"role": "assistant"}, "content": {"parts": ["Left."]}}},
                    "d": {
                        "parent": "b",
                        "message": {
                            "author": {"role": "assistant"},
                            "content": {"content_type": "text", "parts": [SQUARE]},
                        },
                    },
                },
            }
        ],
        Case("messages", (C(SQUARE_Q, SQUARE, id="t1"),)),
    ),
    "steps_by_name": (
        [{"question": SQUARE_Q, "cot": {"step 1": "Let s be it.", "step 2": "So s = 7."}, "answer": "7"}],
        Case("records", (C(SQUARE_Q, "Let s be it.\nSo s = 7.", "7", boundaries=(0, 13)),)),
    ),
    "solutions_with_their_own_steps": (
        [{"question": SQUARE_Q, "solutions": [["Let s be it.", "So s = 7."], ["Try 8.", "No."]]}],
        Case(
            "records",
            (
                C(SQUARE_Q, "Let s be it.\nSo s = 7.", boundaries=(0, 13), metadata={"alternative": "0"}),
                C(SQUARE_Q, "Try 8.\nNo.", boundaries=(0, 7), metadata={"alternative": "1"}),
            ),
        ),
    ),
    "thought_as_an_object": (
        [{"question": SQUARE_Q, "reasoning": {"text": SQUARE, "tokens": 9}, "answer": "7"}],
        Case("records", (C(SQUARE_Q, SQUARE, "7"),)),
    ),
    "a_short_answer_is_no_chain": (
        [{"question": SQUARE_Q, "answer": "7"}, {"question": EGGS_Q, "answer": "9"}],
        Case("", bad=((1, "no field looks like a chain"), (2, "no field looks like a chain"))),
    ),
    "passage_of_an_instruction": (
        [{"instruction": "Say whether it is odd.", "context": "n + 1 for even n", "response": EVEN}],
        Case("records", (C("Say whether it is odd.\nn + 1 for even n", EVEN),)),
    ),
    "generated_text": ([{"inputs": SQUARE_Q, "generated_text": SQUARE}], Case("records", (C(SQUARE_Q, SQUARE),))),
    "outputs_of_a_server": (
        [{"prompt": SQUARE_Q, "outputs": [{"text": ASSISTANT["content"], "finish_reason": "stop"}]}],
        Case("records", (C(SQUARE_Q, SQUARE, SIDE, metadata={"finish_reason": "stop"}),)),
    ),
    "loss_off": (
        [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hm.", "loss": False}]}],
        Case("", bad=((1, "every message of the assistant has weight 0"),)),
    ),
    "chosen_alone": (
        [
            {"prompt": SQUARE_Q, "chosen": SQUARE, "rejected": "It is 8."},
            {"prompt": EGGS_Q, "chosen": EGGS},
        ],
        Case("records", (C(SQUARE_Q, SQUARE), C(SQUARE_Q, "It is 8."), C(EGGS_Q, EGGS))),
    ),
    # what is not data
    "error_object": (
        [{"error": {"message": "Invalid username or password."}}],
        Case("", bad=((1, "this is an error message of a server, not data"),)),
    ),
    "a_message_that_is_the_chain": (
        [{"title": "Squares", "message": SQUARE, "code": 1}],
        Case("records", (C("Squares", SQUARE),), options={"fields": {"chain": "message"}}),
    ),
    "own_export": (
        [
            {
                "prompt": SQUARE_Q,
                "completion": SQUARE,
                "id": "r1",
                "chain": "c0123456789abcdef",
                "token_ids_in_graph": {},
            }
        ],
        Case("", bad=((1, "a row of trails' own export: column 'chain' is the id c0123456789abcdef"),)),
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_own_case(tmp_path: Path, name: str) -> None:
    records, case = OWN[name]
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    check(path, case)


PLAIN = b'{"question": "q", "chain": "If it rains then it is wet."}\n'
WET = Case("records", (C("q", "If it rains then it is wet."),))


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_json", ".json"), data)
    return path


def test_compressions(tmp_path: Path) -> None:
    import bz2
    import lzma

    for suffix, compress in (("gz", gzip.compress), ("xz", lzma.compress), ("bz2", bz2.compress)):
        path = tmp_path / f"a.jsonl.{suffix}"
        path.write_bytes(compress(PLAIN) + compress(PLAIN.replace(b"wet", b"dry")))  # two frames
        chains = list(read([path]))
        assert [chain.text[-4:] for chain in chains] == ["wet.", "dry."]
        assert {chain.source for chain in chains} == {"a.jsonl"}


def test_zip_archives(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", b__two_jsonl=PLAIN, a_one_jsonl=PLAIN, readme=b"no")
    report = ReadReport()
    chains = list(read([path], report=report))
    assert [chain.source for chain in chains] == ["a_one.jsonl", "two.jsonl"]
    assert report.files == [f"{path}/a_one.jsonl", f"{path}/b/two.jsonl"]
    log = zipped(
        tmp_path / "log.eval",
        header_json=b"{}",
        samples__1_epoch_1_json=json.dumps(OWN["inspect_sample"][0][0]).encode(),
        samples__2_epoch_1_json=json.dumps(OWN["inspect_sample"][0][0] | {"id": 2}).encode(),
    )
    chains = list(read([log]))
    assert [(chain.source_id, chain.source) for chain in chains] == [("1:2", "log.eval"), ("2:2", "log.eval")]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\n", "a Git LFS pointer"),
        ("a.jsonl", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "an HTML page, not data"),
        ("a.csv", b"\n <html><head></head></html>", "an HTML page, not data"),
        ("a.txt", b"<!doctype html><p>Sign in", "an HTML page, not text"),
        (
            "a.md",
            b"<!-- saved -->\r\n<!-- twice -->\n<html lang=en><body>Sign in</body></html>",
            "an HTML page, not text",
        ),
        ("a.text", b"\xef\xbb\xbf \n<HTML><HEAD><TITLE>502</TITLE></HEAD>", "measure it with its tags: --reader text"),
        ("a.markdown", b"<html>" + b"<p>x" * 10_000 + b"</p></html>", "an HTML page, not text"),
        ("a.txt", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
        ("a.json", b"<?xml version='1.0'?><a/>", "an XML document"),
        ("a.parquet", b"nothing of the kind", "a damaged table: a Parquet file begins with PAR1"),
        ("a.jsonl", b"SQLite format 3\x00" + b"\0" * 99, "an SQLite database"),
        ("a.jsonl", b"a" * 257 + b"ustar" + b"\0" * 99, "a tar archive"),
        ("a.zip", b"PK\x03\x04 no archive", "the zip archive is damaged"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\x00\x00 no frame", "the zstd data is damaged"),
        ("a.jsonl.xz", b"\xfd7zXZ\x00 no frame at all", "the xz data is damaged"),
    ],
)
def test_what_is_no_data_is_named_and_the_rest_is_read(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "z.jsonl").write_bytes(PLAIN)
    with pytest.raises(InputError) as caught:
        list(read([tmp_path / name]))
    assert str(caught.value).startswith(f"{tmp_path / name}:")
    assert words in str(caught.value)
    report = ReadReport()
    chains = list(read([tmp_path], options=ReadOptions(bad_tolerance=1), report=report))
    assert [chain.text for chain in chains] == ["If it rains then it is wet."]
    assert [entry.file for entry in report.entries] == [str(tmp_path / name)]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "page", "a.html"])
def test_a_page_under_the_name_of_a_text_is_read_with_its_tags_when_asked(tmp_path: Path, name: str) -> None:
    page = "<!DOCTYPE html>\n<html><body>If it rains then it is wet.</body></html>"
    (tmp_path / name).write_text(page)
    with pytest.raises(InputError, match="an HTML page, not text.*--reader text"):
        list(read([tmp_path / name]))
    assert [chain.text for chain in read([tmp_path / name], reader="text")] == [page]


@pytest.mark.parametrize(
    "start", ["<html> is the outer element, <body> is in it.", "<thought>It rains.</thought>", "<htmlx></htmlx>"]
)
def test_a_text_that_speaks_of_html_stays_text(tmp_path: Path, start: str) -> None:
    (tmp_path / "a.txt").write_text(start)
    assert [chain.text for chain in read([tmp_path / "a.txt"])] == [start]


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        ('{"question": "a", "reasoning": "If a."}\n\n{"question": "b", "reasoning": "So b."}\n', ["If a.", "So b."]),
        ('[{"question": "a", "reasoning": "If a then b."}]', ["If a then b."]),
        ('{\n "question": "a",\n "reasoning": "If a then b."\n}\n', ["If a then b."]),
        ('{"a": 1} is a set of one pair.\n\nSo it has one key.', ['{"a": 1} is a set of one pair.', "So it has one key."]),
        ("[1, 2] is a list.", ["[1, 2] is a list."]),
    ],
)  # fmt: skip
def test_records_under_the_name_of_a_text_are_records(tmp_path: Path, data: str, texts: list[str]) -> None:
    (tmp_path / "a.txt").write_text(data)
    assert [chain.text for chain in read([tmp_path / "a.txt"])] == texts
    assert "".join(chain.text for chain in read([tmp_path / "a.txt"], reader="text")).startswith(data[:12].strip())


def test_a_long_file_of_records_under_the_name_of_a_text(tmp_path: Path) -> None:
    rows = [json.dumps({"question": f"q{n}", "reasoning": f"If {n} then {n + 1}."}) for n in range(3_000)]
    (tmp_path / "a.txt").write_text("\n".join(rows))
    assert len(list(read([tmp_path / "a.txt"]))) == 3_000


def test_a_member_compressed_with_zstandard(tmp_path: Path) -> None:
    # the standard library cannot write one: a stored member whose method is then changed to 93
    packed = pa.Codec("zstd").compress(PLAIN, asbytes=True)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jsonl", packed)
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    for method, size in ((8, 22), (central + 10, central + 24)):
        data[method : method + 2] = (93).to_bytes(2, "little")
        data[size : size + 4] = len(PLAIN).to_bytes(4, "little")
    path.write_bytes(data)
    assert [chain.text for chain in read([path])] == ["If it rains then it is wet."]


def test_only_the_files_of_the_state_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    shutil.copytree(CASES / "hf_selected", folder)
    shutil.copy(folder / "data-00000-of-00001.arrow", folder / "cache-1234.arrow")
    report = ReadReport()
    assert len(list(read([folder], report=report))) == 2
    assert "passed over 1 file that state.json does not list (cache-1234.arrow)" in report.notes[0]


def test_a_family_is_said_or_follows_from_the_question(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"question": "Why?", "chain": "One.", "thing": 7},
        {"question": "Why? ", "chain": "Two.", "thing": 7},
        {"question": "How?", "chain": "Three.", "thing": 7},
        {"chain": "Four.", "thing": 8},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    first, second, third, fourth = (chain.family for chain in read([path]))
    assert first == second
    assert len({first, third, fourth}) == 3
    assert [chain.family for chain in read([path], options=ReadOptions(family="thing"))] == ["7", "7", "7", "8"]


# --- the marks ------------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<>[]|◁▷"), min_size=1).map(str.strip).filter(bool)


@pytest.mark.slow
@given(st.sampled_from(THOUGHT_MARKS), st.sampled_from(ANSWER_MARKS), WORDS, WORDS, WORDS, WORDS)
def test_every_pair_of_marks_takes_a_text_apart(
    thought: tuple[str, str], answer: tuple[str, str], before: str, chain: str, said: str, after: str
) -> None:
    opening, closing = thought
    whole = take_apart(f"{before}\n{opening}\n{chain}\n{closing}\n{answer[0]}{said}{answer[1]}\n{after}")
    assert (whole.before, whole.chain, whole.answer, whole.after) == (before, chain, said, after)
    assert (whole.kind, whole.thoughts, whole.left) == ("closed", 1, ())
    lone = take_apart(f"{chain}{closing}{said}")
    assert (lone.chain, lone.answer, lone.kind) == (chain, said, "opened-by-template")
    cut = take_apart(f"{opening}{chain}")
    assert (cut.chain, cut.answer, cut.kind) == (chain, "", "unfinished")


@pytest.mark.slow
@given(
    st.lists(st.sampled_from([mark for pair in (*THOUGHT_MARKS, *ANSWER_MARKS) for mark in pair] + ["\n", "a", "b c"]))
)
def test_no_word_is_lost_whatever_the_marks(pieces: list[str]) -> None:
    apart = take_apart("".join(pieces))
    kept = " ".join((apart.chain, apart.answer, apart.before, apart.between, apart.after))
    for letter in "abc":
        # marks may hold these letters themselves, so the words are counted with the marks taken out
        assert kept.count(letter) >= sum(piece.count(letter) for piece in pieces if piece in ("a", "b c"))


def test_two_answers_are_compared_where_they_can_be(tmp_path: Path) -> None:
    """Numbers, letters, yes and no; texts that may say the same in two ways give no verdict."""
    pairs = {
        ("7", "7.0"): "true",
        ("1,015", "1015"): "true",
        ("Yes", "yes"): "true",
        ("7", "8"): "false",
        ("A", "b"): "false",
        ("7", "yes"): "false",
        ("7 + x", "x + 7"): None,
        ("\\frac{1}{2}", "0.5"): None,
        ("None", "10"): None,
    }
    rows = [{"question": SQUARE_Q, "chain": SQUARE, "model_answer": a, "gold_answer": b} for a, b in pairs]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = list(read([path]))
    assert [(chain.answer, chain.metadata["gold_answer"]) for chain in found] == list(pairs)
    assert [chain.metadata.get("correct") for chain in found] == list(pairs.values())
