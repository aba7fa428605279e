"""A Russian page says in Russian what the program says, and marks as English what it cannot say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.report.test_report import RUN, look
from tests.store.factory import corpus, make_chain, make_trace

from trails.analyses.drift import drift
from trails.analyses.report import Report, method_lines
from trails.analyses.sequences import token_corpus
from trails.analyses.statemap import build
from trails.evaluate.diff import GroupChange, verdict
from trails.platform.ties import tie
from trails.report import html
from trails.report.analysis import write_analysis
from trails.report.html import Found, script, write_report

ASSETS = Path(html.__file__).parent / "assets"
SLOT = re.compile(r"\b[a-z][0-9a-f]{16}\b|\d[\d,.]*\d|\d")
NOTE = "стоят по-английски"


def known() -> dict[str, str]:
    found: dict[str, str] = json.loads((ASSETS / "said.json").read_text(encoding="utf-8"))
    return found


def in_russian(text: str) -> bool:
    """Whether the table of the page has a text whole or clause by clause, as the script looks it up."""
    template = SLOT.sub(lambda found: "@" if len(found[0]) == 17 else "#", text)
    if template in known() or not re.search("[a-z]{2}", SLOT.sub("", text), re.IGNORECASE):
        return True
    clauses = next((c for c in (re.split("[;:] | · ", text), re.split(", ", text)) if len(c) > 1), [])
    return bool(clauses) and all(map(in_russian, clauses))


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
    gap = {"step": 1, "rank": 0, "score": 0.875, "control_auc": 0.8123, "baseline_auc": 0.5511}
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
        assert left_in_english(seen[view]["texts"], (RUN.model,)) == [], view
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
        assert in_russian(judged), told


@pytest.mark.parametrize("noise", [0.01, 1.0])
@pytest.mark.parametrize(
    ("change", "low", "high"), [(-0.5, -0.7, -0.2), (0.5, 0.2, 0.7), (0.5, -0.1, 0.7), (0.5, float("nan"), 1.0)]
)
def test_the_verdict_of_a_group_is_in_the_table(noise: float, change: float, low: float, high: float) -> None:
    for name in ("trained", "held_out", "unseen", "unrelated"):
        said = verdict(GroupChange(name, 4, 90, 2.0, 1.5, change, low, high, 1.0, 0.5, 0.1), noise)
        assert in_russian(said), said


def test_the_verdict_of_a_drift_is_in_the_table() -> None:
    judged = [drift(trace).report().verdict for trace in corpus(3, RUN)]
    assert judged[0].startswith("no onset")
    for said in judged:
        assert in_russian(said), said


def test_how_the_map_was_drawn_and_ties_are_in_the_table() -> None:
    rng = np.random.default_rng(2)
    words = [tuple(f"w{n} " for n in row) for row in rng.integers(0, 3, (60, 40)).tolist()]
    chains = [make_chain(f"n{number}", "".join(one)) for number, one in enumerate(words)]
    traces = [make_trace(chain, RUN, n_steps=2, words=one) for chain, one in zip(chains, words, strict=True)]
    lines = method_lines(build(token_corpus(traces)).scores)
    assert len(lines) > 3
    for line in lines:
        assert in_russian(line.partition(": ")[2]), line
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
            assert in_russian(tie(values, 2, name)), name
    removed = "an interior step of each of 300 chains of four steps or more removed, seed 0"
    assert in_russian(
        f"{removed}; conditional logit out of fold, mean of 3 divisions into 5 folds of chains, seeds 0 to 2"
    )


def test_a_text_that_is_not_in_the_table_is_not_held_for_russian() -> None:
    assert not in_russian("nobody put this in a table")
    assert not in_russian("not beyond chance: nobody put this in a table")
    assert in_russian("not beyond chance: layer 3")


def test_every_line_of_the_table_keeps_its_numbers_and_ids() -> None:
    table = known()
    assert len(table) > 200
    for text, told in table.items():
        assert (text.count("#"), text.count("@")) == (told.count("#"), told.count("@")), text
        assert not SLOT.search(text), f"{text}: a number stands as #"
        assert told.strip(), text


@pytest.mark.parametrize("views", [("corpus", "map"), ("corpus",), ("report",)])
def test_the_script_of_a_page_has_at_most_30_kilobytes(views: tuple[str, ...]) -> None:
    code = script(views)
    assert 15_000 < len(code.encode()) <= 30_000
    assert not [line for line in code.splitlines() if line.startswith("//") or line != line.strip()]
    for view in ("corpus", "report", "map"):
        assert (f"views.{view} =" in code) == (view in views), view
