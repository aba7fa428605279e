"""Readers that understand the layout of published data sets, wherever their records lie (JSON Lines, JSON, Parquet, Arrow).

In: one record of the data set. Out: chains with question, text and answer apart; marks that the data set puts into the
text are taken out and kept in the metadata with their place in the cleaned text. Step boundaries are set only where the
data set itself marks steps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trails.readers.base import BadRecordError, Draft, ReadOptions, ReadReport, SourceFile, as_text, finish, record_id
from trails.readers.containers import lines
from trails.readers.records import Context, RecordReader, join_lines, split_thought
from trails.schema import Chain


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# --- GSM8K ----------------------------------------------------------------------------------------------------------

_ANSWER_MARKS = ("####", "A:")
_SUBQUESTION = "**"


def split_calculations(text: str) -> tuple[str, list[dict[str, Any]]]:
    """Text without ``<<48/2=24>>`` marks, and each mark with the offset where it stood in the text that is left."""
    marks: list[dict[str, Any]] = []
    pieces: list[str] = []
    at = kept = 0
    while True:
        start = text.find("<<", at)
        end = text.find(">>", start + 2) if start >= 0 else -1
        if end < 0:
            break
        pieces.append(text[at:start])
        kept += start - at
        marks.append({"at": kept, "text": text[start + 2 : end]})
        at = end + 2
    pieces.append(text[at:])
    return "".join(pieces), marks


def _gsm8k_solution(solution: str) -> tuple[str, str, tuple[int, ...], dict[str, str]]:
    """(text, answer, boundaries, metadata) of a worked solution: one step a line, sub-questions a step of their own."""
    answer = ""
    body, _, last = solution.rstrip().rpartition("\n")
    for mark in _ANSWER_MARKS:
        if last.lstrip().startswith(mark):
            solution, answer = body, last.lstrip().removeprefix(mark).strip()
    marks: list[dict[str, Any]] = []
    pieces: list[str] = []
    length = 0
    boundaries: list[int] = []
    socratic: list[int] = []
    for line in solution.split("\n"):
        parts = [part.strip() for part in line.split(_SUBQUESTION, 1) if part.strip()]
        for number, part in enumerate(parts):
            if pieces:
                pieces.append(" " if number else "\n")
                length += 1
            boundaries.append(length)
            if number:
                socratic.append(length)
            clean, found = split_calculations(part)
            marks += [{"at": mark["at"] + length, "text": mark["text"]} for mark in found]
            pieces.append(clean)
            length += len(clean)
    metadata = {}
    if marks:
        metadata["calculator"] = _json(marks)
    if socratic:
        metadata["socratic"] = _json(socratic)
    return "".join(pieces), answer, tuple(boundaries), metadata


def _is_gsm8k(record: Mapping[str, Any]) -> bool:
    answer = record.get("answer")
    return (
        isinstance(record.get("question"), str) and isinstance(answer, str) and bool(re.search(r"(^|\n)####\s", answer))
    )


def _gsm8k(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    text, answer, boundaries, metadata = _gsm8k_solution(record["answer"])
    yield Draft(text, record["question"].strip(), answer, record_id(record), "", boundaries, metadata)


def _is_gsm8k_solutions(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("ground_truth"), str) and any(
        isinstance(value, Mapping) and "solution" in value for value in record.values()
    )


def _gsm8k_solutions(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    """The written solution and every model's own, told apart by ``solver`` and ``is_correct``."""
    question = record["question"].strip()
    identity = record_id([question, record["ground_truth"]])
    solutions: list[tuple[str, str, bool]] = [("ground_truth", record["ground_truth"], True)]
    solutions += [
        (str(key), value["solution"], bool(value.get("is_correct")))
        for key, value in record.items()
        if isinstance(value, Mapping) and isinstance(value.get("solution"), str)
    ]
    for solver, solution, correct in solutions:
        text, answer, boundaries, metadata = _gsm8k_solution(solution)
        metadata |= {"solver": solver, "is_correct": as_text(correct)}
        yield Draft(text, question, answer, f"{identity}:{solver}", "", boundaries, metadata)


# --- BIG-Bench Hard -------------------------------------------------------------------------------------------------

_SO_THE_ANSWER = re.compile(r"\b[Ss]o the (?:final )?answer is:?\s*(.+?)\.?\s*$", re.DOTALL)


def _claimed(text: str) -> str:
    """What the chain itself concludes, in its closing words; the words stay in the text."""
    found = _SO_THE_ANSWER.search(text, max(0, len(text) - 400))
    return found.group(1).strip() if found else ""


def _is_bbh(record: Mapping[str, Any]) -> bool:
    return all(isinstance(record.get(key), str) for key in ("task", "question", "chain", "target"))


def _bbh(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    text = record["chain"].strip()
    metadata = {"task": record["task"], "target": record["target"], "index": as_text(record.get("index"))}
    identity = f"{record['task']}:{record['index']}" if "index" in record else ""
    yield Draft(text, record["question"].strip(), _claimed(text), identity, "en", metadata=metadata)


_BBH_RULE = "\n-----\n"
_LEAD_IN = re.compile(r"\s*Let's think step by step\.\s*")


@dataclass(frozen=True, slots=True)
class BbhPrompts:
    """The few-shot prompt files of BIG-Bench Hard: a canary line, a task line, then ``Q: … A: Let's think step by step. …``."""

    name: str = "bbh-prompts"
    about: str = "BIG-Bench Hard prompt files (`Q:` and `A: Let's think step by step.`)"

    def can_read(self, file: SourceFile) -> bool:
        """Whether the text has the rule, a question and an answer."""
        if file.container != "text":
            return False
        head = file.head.decode("utf-8", "replace").replace("\r\n", "\n")
        rule = head.find(_BBH_RULE)
        question = head.find("\nQ: ", rule)
        return 0 <= rule < question < head.find("\nA: ", question)

    def read(self, file: SourceFile, options: ReadOptions, report: ReadReport) -> Iterator[Chain]:
        """One chain per worked example; the canary and the task description go to the metadata."""
        canary: list[str] = []
        task: list[str] = []
        parts: dict[str, list[str]] = {}
        part = "canary"
        first = 0

        def example() -> Iterator[Chain]:
            if not parts:
                return
            question, text = "\n".join(parts["Q"]).strip(), "\n".join(parts.get("A", [])).strip()
            text = _LEAD_IN.sub("", text, count=1) if _LEAD_IN.match(text) else text
            metadata = {"task": file.stem, "description": " ".join(task).strip(), "canary": " ".join(canary).strip()}
            try:
                draft = Draft(text, question, _claimed(text), record_id([question, text]), "en", metadata=metadata)
                yield finish(draft, file, options, file.dataset or f"bbh/{file.stem}")
            except BadRecordError as problem:
                report.bad_record(file.shown, first, str(problem))

        for number, line in lines(file, report):
            if part == "canary":
                if re.fullmatch(r"-{5}\s*", line):
                    part = "task"
                else:
                    canary.append(line)
            elif line.startswith("Q: "):
                yield from example()
                parts, part, first = {"Q": [line[3:]]}, "Q", number
            elif line.startswith("A: ") and part == "Q":
                parts["A"], part = [line[3:]], "A"
            elif part == "task":
                task.append(line)
            else:
                parts[part].append(line)
        yield from example()


# --- ProntoQA and the prompt files of Logic-LLM ---------------------------------------------------------------------


def _is_prontoqa(record: Mapping[str, Any]) -> bool:
    explanation = record.get("explanation")
    return isinstance(record.get("context"), str) and isinstance(explanation, list) and "question" in record


def _prontoqa(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    text, boundaries = join_lines([item.strip() for item in record["explanation"]])
    question = f"{record['context'].strip()}\n{record['question'].strip()}"
    metadata = {"options": as_text(record["options"])} if "options" in record else {}
    yield Draft(text, question, as_text(record.get("answer", "")), as_text(record["id"]), "en", boundaries, metadata)


_LOGIC_HEAD = re.compile(r"^-{6}\s*\nContext:\s*\n", re.MULTILINE)
_LOGIC_PART = re.compile(r"(Context|Question|Options|Reasoning|The correct option is):\s*(.*)")


@dataclass(frozen=True, slots=True)
class LogicPrompts:
    """Few-shot files of Logic-LLM: blocks of ``Context: Question: Options: Reasoning:`` between lines of six hyphens."""

    name: str = "logic-prompts"
    about: str = "Logic-LLM prompt files (`Context:`, `Question:`, `Options:`, `Reasoning:`)"

    def can_read(self, file: SourceFile) -> bool:
        """Whether the text has such a block."""
        return file.container == "text" and bool(_LOGIC_HEAD.search(file.head.decode("utf-8", "replace")))

    def read(self, file: SourceFile, options: ReadOptions, report: ReadReport) -> Iterator[Chain]:
        """One chain per block that has a reasoning; templates with ``[[…]]`` are passed over."""
        parts: dict[str, list[str]] = {}
        part = ""
        first = 0

        def block() -> Iterator[Chain]:
            got = {key: "\n".join(value).strip() for key, value in parts.items()}
            text = got.get("Reasoning", "")
            if "Context" not in got or not text or "[[" in got["Context"]:
                return
            question = f"{got['Context']}\n{got.get('Question', '')}".strip()
            metadata = {"options": got["Options"]} if "Options" in got else {}
            draft = Draft(text, question, got.get("The correct option is", ""), record_id([question, text]), "en")
            draft.metadata = metadata
            try:
                yield finish(draft, file, options, file.dataset or f"logic-llm/{file.stem}")
            except BadRecordError as problem:
                report.bad_record(file.shown, first, str(problem))

        for number, line in lines(file, report):
            if re.fullmatch(r"-{6,}\s*", line):
                yield from block()
                parts, part, first = {}, "", number + 1
                continue
            found = _LOGIC_PART.match(line)
            if found:
                part = found.group(1)
                parts[part] = [found.group(2)]
            elif part:
                parts[part].append(line)
        yield from block()


# --- EntailmentBank -------------------------------------------------------------------------------------------------

_SENTENCE = re.compile(r"\b((?:sent|int)\d+|hypothesis):\s*")
_FIELD = re.compile(r"\$(\w+)\$\s*(?:=|;)\s*")


def parse_proof(proof: str) -> list[dict[str, Any]]:
    """``sent1 & sent3 -> int1: …; int1 & sent2 -> hypothesis;`` as a list of inferences."""
    inferences: list[dict[str, Any]] = []
    for step in proof.split(";"):
        if not step.strip():
            continue
        premises, arrow, conclusion = step.partition("->")
        if not arrow:
            raise BadRecordError(f"the proof step {step.strip()!r} has no arrow.")
        name, _, said = conclusion.strip().partition(":")
        inferences.append(
            {
                "premises": [part.strip() for part in premises.split("&")],
                "conclusion": name.strip(),
                "text": said.strip(),
            }
        )
    if not inferences:
        raise BadRecordError("the proof is empty.")
    return inferences


def _named_sentences(context: str) -> dict[str, str]:
    parts = _SENTENCE.split(context)
    return {name: said.strip() for name, said in zip(parts[1::2], parts[2::2], strict=True)}


def _entailment_parts(record: Mapping[str, Any]) -> tuple[str, str, str, dict[str, str], str]:
    """(question, answer, hypothesis, sentences, proof) of either file layout."""
    if isinstance(record.get("proof"), str):
        sentences = record.get("sentences") or _named_sentences(record["context"])
        return record["question"], record["answer"], record["hypothesis"], dict(sentences), record["proof"]
    pieces = _FIELD.split(record["input"])
    given = {
        name: said.strip().removesuffix(";").strip() for name, said in zip(pieces[1::2], pieces[2::2], strict=True)
    }
    proof = _FIELD.sub("", record["output"], count=1)
    return given["question"], given["answer"], given["hypothesis"], _named_sentences(given["context"]), proof


def _is_entailment(record: Mapping[str, Any]) -> bool:
    if isinstance(record.get("proof"), str) and "hypothesis" in record:
        return "->" in record["proof"]
    return str(record.get("input", "")).startswith("$proof$") and "->" in str(record.get("output", ""))


def _entailment(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    """Inference by inference: new premises, then the conclusion, each a step; an earlier conclusion is not said again.

    The linking words are those of the data set's own ``[BECAUSE] … [AND] … [INFER]`` wording. ``tree`` in the metadata is the
    gold tree: for every inference the step indices of its premises and of its conclusion.
    """
    question, answer, hypothesis, sentences, proof = _entailment_parts(record)
    text = ""
    boundaries: list[int] = []
    step_of: dict[str, int] = {}
    tree: list[dict[str, Any]] = []

    def say(words: str, name: str) -> None:
        nonlocal text
        step_of[name] = len(boundaries)
        boundaries.append(len(text))
        text += words

    for inference in parse_proof(proof):
        new = [name for name in inference["premises"] if name not in step_of]
        for number, name in enumerate(new):
            if name not in sentences:
                raise BadRecordError(f"the proof uses {name!r}, which is not among the sentences.")
            say(f"{'and' if number else 'because'} {sentences[name]}, ", name)
        name = inference["conclusion"]
        said = hypothesis if name == "hypothesis" else inference["text"]
        say(f"therefore {said}.\n", name)
        premises = [step_of[premise] for premise in inference["premises"]]
        tree.append({"premises": premises, "conclusion": step_of[name], "names": [*inference["premises"], name]})
    metadata = {"tree": _json(tree), "hypothesis": hypothesis}
    distractors = [said for name, said in sentences.items() if name not in step_of]
    if distractors:
        metadata["unused"] = _json(distractors)
    yield Draft(
        text.rstrip("\n"), question.strip(), answer.strip(), as_text(record["id"]), "en", tuple(boundaries), metadata
    )


# --- the rest -------------------------------------------------------------------------------------------------------


def _is_marco(record: Mapping[str, Any]) -> bool:
    response = record.get("response")
    return isinstance(record.get("instruction"), str) and isinstance(response, str) and "<Thought>" in response


def _marco(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    """The thought is the chain, the output the answer."""
    text, answer = split_thought(record["response"])
    yield Draft(text.strip(), record["instruction"].strip(), answer, as_text(record.get("id", "")), "")


def _is_strategyqa(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("facts"), list) and isinstance(record.get("decomposition"), list)


def _strategyqa(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    """Facts, then the sub-questions that use them; ``#1`` in a sub-question is the answer of the first one."""
    text, boundaries = join_lines([item.strip() for item in (*record["facts"], *record["decomposition"])])
    metadata = {key: as_text(record[key]) for key in ("term", "description") if record.get(key)}
    metadata["n_facts"] = str(len([fact for fact in record["facts"] if fact.strip()]))
    answer = as_text(record.get("answer", ""))
    answer = {"true": "yes", "false": "no"}.get(answer, answer)
    yield Draft(text, record["question"].strip(), answer, as_text(record["qid"]), "en", boundaries, metadata)


def _is_ru_answers(record: Mapping[str, Any]) -> bool:
    return {"question_id", "model", "question", "chain"} <= set(record)


def _ru_answers(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    """One model's answer to one question; the same question comes from several models."""
    metadata = {key: as_text(record[key]) for key in ("model", "connectives") if key in record}
    identity = f"{record['question_id']}:{record['model']}"
    yield Draft(record["chain"].strip(), record["question"].strip(), "", identity, metadata=metadata)


_MGSM_LEAD = re.compile(r"(?:Задача|Question|Пошаговое решение|Step-by-Step Answer):\s*")
_MGSM_ANSWER = re.compile(r"\s*(?:Ответ\s*[—-]|The answer is)\s*(.+?)\.?\s*$")


def _is_mgsm(record: Mapping[str, Any]) -> bool:
    return {"lang", "n", "question", "chain"} <= set(record)


def _mgsm(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    """The lead words of the prompt are dropped; what the chain concludes is the answer, and stays in the text."""
    text = _MGSM_LEAD.sub("", record["chain"], count=1).strip()
    found = _MGSM_ANSWER.search(text[-200:])
    question = _MGSM_LEAD.sub("", record["question"], count=1).strip()
    identity = f"{record['lang']}:{record['n']}"
    yield Draft(text, question, found.group(1) if found else "", identity, record["lang"])


def _is_folio(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("premises"), list) and "conclusion" in record and "label" in record


def _folio(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    """The premises are the chain, the conclusion to be judged is the question, the label the answer."""
    text, boundaries = join_lines([item.strip() for item in record["premises"]])
    metadata = {key: as_text(record[key]) for key in ("premises-FOL", "story_id", "source") if key in record}
    identity = as_text(record["example_id"]) if "example_id" in record else ""
    yield Draft(text, record["conclusion"].strip(), as_text(record["label"]), identity, "en", boundaries, metadata)


def _is_game24(record: Mapping[str, Any]) -> bool:
    steps = record.get("steps")
    return isinstance(steps, list) and bool(steps) and isinstance(steps[0], Mapping) and "new_ys" in steps[0]


def _game24(record: Mapping[str, Any], context: Context) -> Iterable[Draft]:
    """Every final path of the search tree that was kept: one arithmetic step a line."""
    puzzle = str(record["steps"][0]["x"])
    for number, path in enumerate(record["ys"]):
        text, boundaries = join_lines(path.strip().split("\n"))
        found = re.search(r"(?:^|\n)Answer:\s*(.+)$", text)
        good = [bool(info.get("r")) for info in record.get("infos", []) if isinstance(info, Mapping)]
        metadata = {"is_correct": as_text(good[number])} if number < len(good) else {}
        identity = f"{record.get('idx', record_id(record))}:{number}"
        question = f"Use numbers and basic arithmetic operations to obtain 24: {puzzle}"
        yield Draft(text, question, found.group(1) if found else "", identity, "en", boundaries, metadata)


GSM8K = RecordReader("gsm8k", "GSM8K: `<<…>>` taken out, `#### answer`, sub-questions", _is_gsm8k, _gsm8k, "gsm8k")
GSM8K_SOLUTIONS = RecordReader(
    *(
        "gsm8k-solutions",
        "GSM8K solutions by several models, right and wrong",
        _is_gsm8k_solutions,
        _gsm8k_solutions,
        "gsm8k",
    )
)
BBH = RecordReader("bbh", "BIG-Bench Hard chains (task, question, chain, target)", _is_bbh, _bbh, "bbh")
BBH_PROMPTS = BbhPrompts()
PRONTOQA = RecordReader("prontoqa", "ProntoQA: a list of sentences, each a step", _is_prontoqa, _prontoqa, "prontoqa")
LOGIC_PROMPTS = LogicPrompts()
ENTAILMENT_BANK = RecordReader(
    "entailment-bank",
    "EntailmentBank trees as text, with the gold tree",
    _is_entailment,
    _entailment,
    "entailment-bank",
)
MARCO = RecordReader("marco-o1", "Marco-o1 traces: `<Thought>` and `<Output>`", _is_marco, _marco, "marco-o1")
STRATEGYQA = RecordReader(
    "strategyqa", "StrategyQA: facts, then sub-questions", _is_strategyqa, _strategyqa, "strategyqa"
)
RU_ANSWERS = RecordReader(
    "ru-answers",
    "Russian arena answers (question_id, model, question, chain)",
    _is_ru_answers,
    _ru_answers,
    "ru-answers",
)
MGSM = RecordReader("mgsm", "MGSM exemplars (lang, n, question, chain)", _is_mgsm, _mgsm, "mgsm")
FOLIO = RecordReader("folio", "FOLIO: premises, conclusion, label", _is_folio, _folio, "folio")
GAME24 = RecordReader("game24", "Tree-of-Thoughts logs of the game of 24", _is_game24, _game24, "game24")
