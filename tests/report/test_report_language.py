"""A Russian page says in Russian what the program says, and marks as English what it cannot say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.report.test_report import RUN, look
from tests.store.factory import corpus, make_chain, make_trace

from trails.analyses.agreement import Member, agreement
from trails.analyses.drift import drift
from trails.analyses.effects import DRAWN, NEEDS, Effects, Flagged, Quantities, flag, registry, scan
from trails.analyses.report import Report, method_lines
from trails.analyses.respond import sentence
from trails.analyses.score import Withheld, span_text
from trails.analyses.sequences import token_corpus
from trails.analyses.statemap import build
from trails.evaluate import difference
from trails.evaluate.diff import DiffReport, GroupChange, LayerChange, repetition_alarm, verdict
from trails.evaluate.difference import Difference
from trails.evaluate.recall import Recall, Recalled, summary
from trails.evaluate.recall import verdict as verdict_of_recall
from trails.pipeline.stellating import COMPARED, COMPARED_COLUMNS
from trails.platform.text import counted
from trails.platform.ties import tie
from trails.report import html
from trails.report.analysis import write_analysis
from trails.report.html import Found, script, write_report
from trails.report.words import SLOT, filled, in_russian, sentences
from trails.variants.stored import KIND_COLUMNS, VARIANT_COLUMNS

ASSETS = Path(html.__file__).parent / "assets"
NOTE = "стоят по-английски"


def told_whole(text: str) -> bool:
    """Whether the table of the page has a text whole or clause by clause."""
    return all(known for _, known in in_russian(text))


def left_in_english(texts: list[str], names: tuple[str, ...]) -> list[str]:
    """Texts that have a word in Latin letters beside names, the heading "id" and the name of a measure of the graph."""
    found = []
    for text in texts:
        rest = text
        for name in names:
            rest = rest.replace(name, "")
        rest = re.sub(r"\b(id|canvas|[crov][0-9a-f]{16}|\w+_\w+)\b", "", rest)
        if re.search("[a-z]{2}", rest):
            found.append(text)
    return found


@pytest.mark.browser
@pytest.mark.slow
def test_no_text_of_the_interface_is_left_in_english(tmp_path: Path) -> None:
    traces = [replace(t, chain=replace(t.chain, question="Why?", answer="So.")) for t in corpus(6, RUN)]
    first = traces[0].chain.id
    worth = "not beyond chance: AUC 0.812 (0.581 to 0.841), position alone 0.551 (0.388 to 0.609)"
    gap = {"step": 1, "rank": 0, "score": 0.875, "control_auc": 0.8123, "baseline_auc": 0.5511, "worth": worth}
    overlap = {
        **{"id": "o1", "kind": "exact", "text": "so", "n_tokens": 12, "n_chains": 2, "excess": -0.25, "control": 0.3},
        **{"control_name": "order-2 Markov resample", "first": 0, "stop": 3, "others": [traces[2].chain.id]},
    }
    file = tmp_path / "r.html"
    after = {t.chain.id: t for t in traces}
    write_report(
        file, traces, RUN, found=Found({first: [gap]}, {first: [overlap]}), after=after,
        woven=build(token_corpus(traces)), title="trails: all chains", subtitle=f"all chains · {RUN.model}",
    )  # fmt: skip
    views = ["corpus", "map", f"chain/{first}"]
    seen = look(file, "language.mjs", views=views)
    assert seen["console"] == []
    for view in views:
        assert len(seen[view]["texts"]) > 8, view
        assert left_in_english(seen[view]["texts"], (RUN.model, "trails diff")) == [], view
        assert seen[view]["english"] == [], view
        assert NOTE not in seen[view]["note"], view
    english = look(file, "language.mjs", views=views, locale="en-GB")
    assert len(left_in_english(english["corpus"]["texts"], (RUN.model,))) > 8, "the measure sees English"


@pytest.mark.browser
@pytest.mark.slow
def test_what_the_page_cannot_say_in_russian_is_marked_and_named(tmp_path: Path) -> None:
    trace = corpus(1, RUN)[0]
    told = Report("odd", f"not beyond chance: nobody put this in a table, {trace.chain.id}", notes=("layer 3",))
    file = tmp_path / "r.html"
    write_analysis(file, told, RUN, [trace])
    without_script = file.read_text(encoding="utf-8").partition('<div lang="ru">')[2].partition("</noscript>")[0]
    assert 'не сверх случайного: <span lang="en">nobody put this in a table</span>, ' in without_script
    assert "слой 3" in without_script
    seen = look(file, "language.mjs", views=["report"])["report"]
    assert seen["verdict"] == ["nobody put this in a table"]
    assert NOTE in seen["note"]
    assert "не сверх случайного" in seen["texts"]
    assert "слой 3" in seen["texts"]
    assert left_in_english(seen["texts"], ()) == []
    english = look(file, "language.mjs", views=["report"], locale="en-GB")["report"]
    assert english["english"] == []
    assert english["note"] == told.verdict, "no note stands before the verdict"


@pytest.mark.slow
def test_the_verdicts_of_the_commands_are_in_the_table(trails: Any, chains_file: Path) -> None:
    trails("ingest", chains_file)
    text = "If it rains, then it is wet. So it is wet."
    for command in (("overlaps", "--min-tokens", 5), ("map",), ("capture", text), ("gaps",)):
        told = trails(*command, "--json").json()["verdict"]
        # a reason that nothing was judged is told in the words of what is missing
        judged = told.split(": ")[0] if "open" in told or told.startswith("no ") else told
        assert told_whole(judged), told


@pytest.mark.parametrize("noise", [0.01, 1.0])
@pytest.mark.parametrize(
    ("change", "low", "high"), [(-0.5, -0.7, -0.2), (0.5, 0.2, 0.7), (0.5, -0.1, 0.7), (0.5, float("nan"), 1.0)]
)
def test_the_verdict_of_a_group_is_in_the_table(noise: float, change: float, low: float, high: float) -> None:
    for name in ("compared", "trained", "not_fed", "held_out", "unseen", "unrelated"):
        group = GroupChange(name, 4, 90, 2.0, 1.5, change, low, high, 1.0, 0.5, 0.1)
        layers = (LayerChange(0, 0.0, float("nan"), 0.0, float("nan")),)
        runs = (f"r{'0' * 16}", f"r{'1' * 16}")
        compared = DiffReport(*runs, (group,), layers, (), (), noise, noise, (), missing=1, behind=2)
        alarm = repetition_alarm(0.1, 0.9, 4)
        told = Difference(compared, ({"step": 0},), (alarm,), {"trained": 2, "held_out": 3}).told()
        assert told.verdict.startswith(f"alarm: {alarm}; ")
        titles = [table.title for table in told.tables]
        assert titles[-1].endswith("over the chains looked at (2 trained, 3 held_out)")
        for said in (told.verdict, *(score.name for score in told.scores), *told.notes, *titles):
            assert told_whole(said), said


def test_the_headings_of_variants_and_of_a_comparison_are_in_the_table() -> None:
    headings = {*KIND_COLUMNS.values(), *VARIANT_COLUMNS.values()}
    headings |= {heading for columns in difference._COLUMNS.values() for heading in columns.values()}
    headings |= {*COMPARED_COLUMNS.values(), COMPARED}
    headings |= {
        f"{turned} of {lines} {verb} another verdict after the training"
        for turned, lines, verb in (
            *((0, "1 judged line", "have"), (1, "1 judged line", "has")),
            *((1, "2 judged lines", "has"), (2, "12 judged lines", "have")),
        )
    }
    for heading in sorted(headings | set(difference._TITLES.values())):
        assert told_whole(heading), heading


@pytest.mark.parametrize("lower", [-1.0, 1.0, 0.0])
@pytest.mark.parametrize("shuffled", [-1.0, 1.0, 0.0, None])
def test_the_verdict_of_recall_is_in_the_table(lower: float, shuffled: float | None) -> None:
    def moved(by: float) -> list[Recalled]:
        return [Recalled(2.0 + i + by + (0.01 if i % 2 else -0.01) * (by == 0.0), 0.1, False) for i in range(6)]

    trained = [Recalled(2.0 + i, 0.1, False) for i in range(6)]
    others = {"untrained": moved(lower)} | ({} if shuffled is None else {"shuffled": moved(shuffled)})
    report = Recall(tuple(summary({"trained": trained, **others})), 2).report()
    for text in (report.verdict, *report.notes, *(item.reason for item in report.withheld)):
        assert told_whole(text), text
    few = verdict_of_recall(summary({"trained": trained[:3], "untrained": trained[:3]}))
    assert told_whole(few), few


def test_the_verdict_of_a_drift_is_in_the_table() -> None:
    judged = [drift(trace).report().verdict for trace in corpus(3, RUN)]
    assert judged[0].startswith("no onset")
    for said in judged:
        assert told_whole(said), said


def texts_of(report: Report) -> list[str]:
    """What a page says of a report beside the cells of its tables."""
    notes = [score.note for score in report.scores if score.note]
    names = [name for score in report.scores for name in (score.name, *(one.name for one in score.controls))]
    withheld = [text for item in report.withheld for text in (item.name, item.reason)]
    headings = [text for table in report.tables for text in (table.title, *table.view(1)[0])]
    return [report.verdict, *names, *notes, *withheld, *headings, *report.notes, *method_lines(report.scores)]


@pytest.mark.parametrize("share", [0.0, 0.0003, 0.4, 0.9997, 1.0])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("chosen", [None, 0.01, 0.5])
@pytest.mark.parametrize("kind", ["step", "adapter"])
def test_every_sentence_of_a_response_is_in_the_table(kind: str, chosen: float | None, sign: int, share: float) -> None:
    row = {"text": "If it rains, then: so; but → not, yes", "kind": kind, "n_probes": 6, "layer": 2, "drift_layer": 0}
    row |= {"attention": 0.3, "attention_control": 0.3 - sign * 0.1, "consistent": sign > 0, "drift": sign * 0.02}
    row |= dict.fromkeys(("share", "share_low", "share_high", "share_shuffled"), share)
    row |= {"logit_shift": 39.5, "logit_shift_control": 40.0, "nll_change": sign * 0.12}
    row |= {"attention_chosen": chosen, "drift_chosen": chosen if kind == "step" else None}
    row |= {f"{of}_mean{end}": 0.2 for of in ("attention", "drift") for end in ("", "_control")}
    for other in (-0.1, 0.1):
        said = sentence(row | {"nll_change_control": other})
        told = in_russian(said)
        assert all(known for _, known in told), said
        assert "“If it rains, then: so; but → not, yes” → " in "".join(part for part, _ in told), "a quotation stays"


def test_the_verdicts_of_effects_and_their_reasons_are_in_the_table() -> None:
    for share in (0, 1, 30, 3000):
        for by_chance in (0.0, 0.0002, 0.3, 1.0):
            for chains in (1, 2):
                steps = tuple((f"c{n % chains:016x}", n) for n in range(3000))
                found = tuple(
                    Flagged(effect, steps, tuple(range(share)), np.zeros(3000), (0.5,), by_chance, 900)
                    for effect in registry().values()
                )
                for text in texts_of(Effects("r", "", found, (), {}).report()):
                    assert told_whole(text), text
    assert DRAWN.keys() == NEEDS.keys()
    for effect in registry().values():
        for n in (1, 12):
            few = flag(effect, Quantities([("c", i) for i in range(n)], {}, {}))
            assert isinstance(few, Withheld)
            for text in texts_of(Effects("r", "", (), (few,), {}).report()):
                assert told_whole(text), text
    alone = scan(lambda: [], ["embedding-phantom"], run="r").report()
    for text in texts_of(alone):
        assert told_whole(text), text


@pytest.mark.parametrize("by", ["span", "step", "chain"])
@pytest.mark.parametrize("measure", ["surprisal", "entropy"])
def test_an_agreement_is_in_the_table_and_its_headings_are_words(by: Any, measure: Any) -> None:
    rng = np.random.default_rng(1)
    names = [f"c{n:016x}" for n in range(40)]
    ends = {name: np.arange(3, 63, 3) for name in names}
    members = [
        Member(
            f"r{n}",
            f"model {n}",
            "t",
            ends,
            {name: rng.random(20) for name in names},
            dict.fromkeys(names, np.array([30, 60])),
        )
        for n in range(3)
    ]
    words = dict.fromkeys(names, "abc" * 20)
    report = agreement(members, words, by=by, measure=measure, draws=20).report()
    assert report.scores
    flat = replace(members[0], values={name: np.full(20, 2.0) for name in names})
    alike = [replace(members[0], name=name) for name in ("a", "b")]
    far = [replace(one, values={k: v * 99**i for k, v in one.values.items()}) for i, one in enumerate(alike)]
    others = [
        agreement(some, words, by=by, measure=measure, draws=20).report()
        for some in (alike, far, [*alike, flat], [members[0], flat], [flat, flat])
    ]
    for text in (text for one in (report, *others) for text in texts_of(one)):
        assert told_whole(text), text
    headings = [heading for table in report.tables for heading in table.view(1)[0]]
    assert [heading for heading in headings if "_" in heading] == []


def test_how_the_map_was_drawn_and_ties_are_in_the_table() -> None:
    rng = np.random.default_rng(2)
    words = [tuple(f"w{n} " for n in row) for row in rng.integers(0, 3, (60, 40)).tolist()]
    chains = [make_chain(f"n{number}", "".join(one)) for number, one in enumerate(words)]
    traces = [make_trace(chain, RUN, n_steps=2, words=one) for chain, one in zip(chains, words, strict=True)]
    lines = method_lines(build(token_corpus(traces)).scores)
    assert len(lines) > 3
    for line in lines:
        assert told_whole(line.partition(": ")[2]), line
    for name in (
        "score",
        "cosine",
        "size",
        "size of the change",
        "loss in nats",
        "spread of ranks",
        "change against its control",
    ):
        for values in ([1.0, 1.0, 1.0], [2.0, 1.0, 1.0]):
            assert told_whole(tie(values, 2, name)), name
    removed = "an interior step of each of 300 chains of four steps or more removed, seed 0"
    assert told_whole(
        f"{removed}; conditional logit out of fold, mean of 3 divisions into 5 folds of chains, seeds 0 to 2"
    )


@pytest.mark.parametrize(
    ("number", "told"),
    [("1", "переход"), ("2", "перехода"), ("4", "перехода"), ("5", "переходов"), ("11", "переходов"), ("0", "переходов"),
     ("12", "переходов"), ("21", "переход"), ("101", "переход"), ("111", "переходов"), ("1,022", "перехода"),
     ("0.5", "перехода"), ("1,000", "переходов")],
)  # fmt: skip
def test_a_counted_noun_has_the_form_of_its_number(number: str, told: str) -> None:
    shown = number.replace(",", "\u00a0")
    assert russian(f"{number} trail" if number == "1" else f"{number} trails") == f"{shown} {told}"


def russian(text: str) -> str:
    """A text as a Russian page says it."""
    return "".join(part for part, _ in in_russian(text))


def test_a_word_before_its_number_has_its_form_too() -> None:
    assert russian("1 chain selected") == "выбрана 1 цепочка"
    assert russian("22 chains selected") == "выбраны 22 цепочки"
    assert russian("1 step of 21 chains selected") == "выбран 1 шаг из 21 цепочки"


@pytest.mark.parametrize("chains", ["0 of 1 chain has", "1 of 30 chains has", "19 of 30 chains have"])
def test_too_few_chains_for_a_calibration_are_told(chains: str) -> None:
    verdict = f"no seam can be ranked: {chains} four steps or more, a calibration needs 20: ingest more"
    assert told_whole(verdict)
    assert "а для калибровки надо 20" in russian(verdict)


def test_no_counted_noun_of_the_table_stands_in_one_form_alone() -> None:
    """Behind a number stands the noun in its forms, or a word that goes with every number."""
    free = "из|до|для|к|и|не|нет|нат|у|в|во|ко|только|равны|даёт|копирует|заявлено|выше|ниже|отличает|значит|косинус"
    free += "|одна|один|одно|цепочки(?= @)"
    for text, told in sentences().items():
        assert not re.search(rf"# (?!(?:{free})\b)[а-яё]+", told), text
        assert not re.search(r"(цепочек|токенов|шагов|мест|блоков|переходов|состояний|швов):? #(?! %)", told), text


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 2, 11, 21])
def test_the_page_gives_a_counted_noun_the_form_that_python_gives(tmp_path: Path, tokens: int) -> None:
    words = tuple(f"w{n} " for n in range(tokens))
    trace = make_trace(make_chain("n", "".join(words)), RUN, n_steps=1, words=words)
    write_analysis(tmp_path / "r.html", Report("odd", f"{tokens} trails"), RUN, [trace])
    for locale, told, steps in (
        ("ru-RU", filled("# [токен|токена|токенов]", [str(tokens)]), "1 шаг"),
        ("en-GB", counted(tokens, "token"), "1 step"),
    ):
        seen = look(tmp_path / "r.html", "language.mjs", views=["report", f"chain/{trace.chain.id}"], locale=locale)
        said = " ".join(seen[f"chain/{trace.chain.id}"]["texts"])
        assert f"· {told} · {steps} ·" in said
        if locale == "ru-RU":
            assert russian(f"{tokens} trails") in seen["report"]["texts"]


def test_an_interval_is_written_in_one_way() -> None:
    for low, high in ((-0.015, 0.003), (0.0, 0.3), (-0.3, 0.0)):
        said = russian(verdict(GroupChange("unseen", 9, 90, 2.0, 1.5, 0.1, low, high, 1.0, 0.5, 0.1), 0.01))
        assert f"от {low:.3f} до {high:.3f}" in said
        assert russian(span_text((low, high))).replace("\u00a0", " ") == f"от {low:.3f} до {high:.3f}"


def test_a_text_that_is_not_in_the_table_is_not_held_for_russian() -> None:
    assert not told_whole("nobody put this in a table")
    assert not told_whole("not beyond chance: nobody put this in a table")
    assert told_whole("not beyond chance: layer 3")


def test_every_line_of_the_table_keeps_its_numbers_and_ids() -> None:
    table = sentences()
    assert len(table) > 200
    for text, told in table.items():
        assert (text.count("#"), text.count("@")) == (told.count("#"), told.count("@")), text
        assert not SLOT.search(text), f"{text}: a number stands as #"
        assert told.strip(), text


@pytest.mark.parametrize("views", [("corpus", "map"), ("corpus",), ("report", "drawn"), ("report", "map")])
def test_the_script_of_a_page_has_at_most_30_kilobytes(views: tuple[str, ...]) -> None:
    code = script(views)
    assert 15_000 < len(code.encode()) <= 30_000
    assert not [line for line in code.splitlines() if line.startswith("//") or line != line.strip()]
    for view in ("corpus", "report", "map"):
        assert (f"views.{view}=" in code) == (view in views), view
    assert ("function drawn(" in code) == ("drawn" in views)
