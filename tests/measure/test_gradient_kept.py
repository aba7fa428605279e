"""Gradients kept at ingest: stored, added later, shown beside their control, and never mixed with another target's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import tiny
from reference import scorer_of

from trails.config import load_settings
from trails.errors import UsageError
from trails.measure.base import MeasureOptions
from trails.pipeline import Home, IngestOptions, ingest
from trails.pipeline.measuring import summary_lines
from trails.report.html import write_report
from trails.report.svg import chain_svg
from trails.report.terminal import control_line, token_values
from trails.store.traces import TraceStore

TEXTS = (
    "If it rains, then the grass is wet. But the cat sleeps on the dry stone. Therefore it did not rain today.",
    "A line without any step after it",
)


def asked(target: str) -> IngestOptions:
    return IngestOptions(measure=MeasureOptions(gradients=target))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "chains.jsonl"
    path.write_text("".join(json.dumps({"chain": text}) + "\n" for text in TEXTS))
    return path


@pytest.mark.slow
def test_gradients_are_added_to_what_was_measured_before(source: Path, tmp_path: Path) -> None:
    scorer: Any = scorer_of(tiny("gpt2", n_positions=256))
    settings = load_settings(home=tmp_path / "home")
    plain = ingest([source], settings, scorer=scorer)
    assert (plain.measured, plain.gradients, plain.gradient_without) == (2, None, 0)
    with TraceStore(settings.home) as store:
        before = {trace.chain.text: trace for trace in store.traces()}
    added = ingest([source], settings, asked("conclusion"), scorer=scorer)
    assert (added.measured, added.added, added.gradient_chains, added.gradient_without) == (0, 2, 1, 1)
    assert added.gradients is not None
    line = next(line for line in summary_lines(added) if line.startswith("gradients"))
    assert f"correlation {added.gradients.value:.2f}, shuffled maps reach {added.gradients.control:.0f}"[:30] in line
    assert ("were not shown to agree" in line) == (not added.gradients.beyond())
    assert "1 chain without one that can be judged" in line
    assert json.loads(json.dumps(added.record()["gradients"]))["value"] == added.gradients.value
    again = ingest([source], settings, asked("conclusion"), scorer=scorer)
    assert (again.measured, again.added) == (0, 0), "also the chain without a conclusion is not looked at again"
    with TraceStore(settings.home) as store:
        after = {trace.chain.text: trace for trace in store.traces()}
    for text, trace in after.items():
        assert trace.surprisal.tobytes() == before[text].surprisal.tobytes()
        assert trace.top_pieces == before[text].top_pieces
    whole, none = (after[text] for text in TEXTS)
    assert np.isnan(none.array("gradient_effect")).all()
    with pytest.raises(UsageError, match="keeps those of the target conclusion"):
        ingest([source], settings, asked("5"), scorer=scorer)
    with Home(tmp_path / "home") as home:
        rows = home.cypher(
            "MATCH (:Token)-[r:NEXT]->(t:Token) WHERE t.chain = $chain RETURN t.position, r.gradient_effect",
            {"chain": whole.chain.id},
        ).rows
        assert len(rows) == whole.n_tokens - 1
        for position, effect in rows:
            assert effect == whole.array("gradient_effect")[position]
        run = home.run()
    assert token_values(whole, "gradient_effect").tobytes() == whole.array("gradient_effect").tobytes()
    told = control_line(whole, run, "gradient_effect", None)
    assert "the target conclusion" in told
    assert "shuffled up to" in told
    assert "gradient_effect: not measured" in control_line(none, run, "gradient_effect", None)
    assert told.replace("'", "&#x27;") in chain_svg(whole, run, measure="gradient_effect")
    from tests.report.test_report import contents, values

    write_report(tmp_path / "r.html", [whole, none], run)
    record, data = contents(tmp_path / "r.html")
    first, second = record["chains"]
    kept = values(record, data, first["arrays"]["gradient_effect"])
    assert kept.tobytes() == whole.array("gradient_effect").tobytes()
    assert "shuffled up to" in first["controls"]["gradient_effect"]["name"]
    assert "gradient_effect" not in second["arrays"]
    assert "gradient_effect" not in second["controls"]


@pytest.mark.slow
def test_gradients_measured_at_once_are_those_added_later(source: Path, tmp_path: Path) -> None:
    scorer: Any = scorer_of(tiny("gpt2", n_positions=256))
    kept = []
    for name, steps in (("once", ["conclusion"]), ("later", ["", "conclusion"])):
        for step in steps:
            summary = ingest([source], load_settings(home=tmp_path / name), asked(step), scorer=scorer)
        assert (summary.gradient_chains, summary.gradient_without) == (1, 1)
        with TraceStore(tmp_path / name) as store:
            kept.append(
                {
                    trace.chain.id: [trace.array(f"gradient_{part}").tobytes() for part in ("effect", "norm", "change")]
                    for trace in store.traces()
                }
            )
    assert kept[0] == kept[1]
