"""The page of an analysis shows what the report says, runs nothing of it, and links to the chains that it holds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.cli.test_names import commands as commands_of
from tests.report.test_report import HOSTILE, RUN, _visible, contents, look, values
from tests.store.factory import corpus

from trails.analyses.report import Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.sequences import token_corpus
from trails.analyses.statemap import build
from trails.cli import cli
from trails.report.analysis import named_chains, write_analysis


def report_of(texts: list[str], chain: str, n_tokens: int) -> Report:
    """Every text in every field of a report."""
    table = pa.table(
        {"chain": [f"{chain}:{i}" for i in range(len(texts))], "text": texts, "value": [1e-7] * len(texts)}
    )
    return Report(
        texts[0],
        f"{texts[1]} in {chain}",
        facts={"fact": texts[2], "whole": 7},
        tables=(ReportTable("rows", table, texts[3]), ReportTable("more", table, "more", detail=True)),
        scores=(
            *(Score(text, 0.25, text, (Control(text, 0.125),), (0.0, 1.0), text) for text in texts),
            Score("variants", 18.0, "distinct role sequences", (Control("shuffled", 17.5, (16.0, 19.0)),)),
        ),
        withheld=tuple(Withheld(text, text) for text in texts),
        notes=tuple(texts),
        commands=tuple((text, text) for text in texts),
        parts={"part": Report(texts[0], texts[4], tables=(ReportTable("inner", table),))},
        maps={chain: {"gradient effect": np.linspace(-1, 1, n_tokens, dtype=np.float32)}},
    )


@pytest.mark.browser
@pytest.mark.slow
def test_a_page_shows_the_report_and_runs_nothing_of_it(tmp_path: Path) -> None:
    traces = corpus(2, RUN)
    held, absent = traces[1].chain.id, "c" + 16 * "0"
    report = report_of([*HOSTILE, f"see {absent} and {held}."], held, traces[1].n_tokens)
    assert named_chains(report) == [held, absent]
    file = tmp_path / "page.html"
    written = write_analysis(file, report, RUN, [traces[1]], subtitle=HOSTILE[1])
    assert (written.n_chains, written.n_bytes) == (1, file.stat().st_size)
    seen = look(file, home="report", chains=[held], measures=["gradient effect"])
    assert (seen["hits"], seen["requests"], seen["console"], seen["dialogs"]) == (0, [], [], [])
    assert seen["title"] == f"trails {HOSTILE[0]}"
    cells: list[list[str]] = seen["cells"]
    for text in HOSTILE:
        assert [_visible(text), "0.2500", "0.000 to 1.000", _visible(text), _visible(text), "0.1250", ""] in cells
    assert ["variants", "18", "", "distinct role sequences", "shuffled", "17.5000", "16 to 19"] in cells, (
        "a count is whole"
    )
    assert [f"{held}:0", _visible(HOSTILE[0]), "1.0e-7"] in cells
    assert {href for text, href in seen["links"] if text == held} == {f"#chain/{held}"}
    assert seen["chains"][held]["first"] == "gradient effect"
    painted = [float(value) for value, _ in seen["chains"][held]["measures"]["gradient effect"]]
    np.testing.assert_array_equal(np.float32(painted), report.maps[held]["gradient effect"])
    assert absent not in [text for text, _ in seen["links"]]


@pytest.mark.browser
@pytest.mark.slow
def test_a_table_wider_than_the_page_has_its_rows_as_blocks(tmp_path: Path) -> None:
    trace = corpus(1, RUN)[0]
    wide = ReportTable("wide", pa.table({f"quantity {n}": [n + 0.5] for n in range(18)}))
    narrow = ReportTable("narrow", pa.table({"one": [0.5], "two": [1.5]}))
    lists = ReportTable("lists", pa.table({"ways": [["", ", and Carl"]], "in": [["c1", "c2"]]}))
    write_analysis(tmp_path / "r.html", Report("odd", "odd", tables=(wide, narrow, lists)), RUN, [trace])
    seen = look(tmp_path / "r.html", home="report", size=[800, 900])
    assert len(seen["wide"]) >= 2
    assert max(seen["wide"]) <= 0
    assert ["0.5000", "1.5000"] in seen["cells"]
    assert ["∅ | , and Carl", "c1, c2"] in seen["cells"], "texts of a list are told apart"


@pytest.mark.slow
def test_every_analysis_writes_its_page(trails: Any, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    text = "If it rains, then it is wet. So it is wet."
    commands = (("overlaps", "--min-tokens", 5), ("map",), ("capture", text), ("gaps",))
    for command in commands:
        file = tmp_path / f"{command[0]}.html"
        told = trails(*command, "--json", "--html", file).json()
        shown = contents(file)[0]["report"]
        assert shown["verdict"] == told["verdict"]
        assert len(shown["scores"]) == sum(len(score["controls"]) for score in told["scores"])
        assert sorted(name for _, names in shown["withheld"] for name in names.split(", ")) == sorted(
            item["name"] for item in told["withheld"]
        )
        assert f"<strong>{told['verdict'][:20]}" in file.read_text(encoding="utf-8"), "without a script"
    woven = contents(tmp_path / "map.html")[0]
    assert woven["map"]["paths"].keys() == {chain["id"] for chain in woven["chains"]} != set(), "a map holds its chains"
    told = trails("overlaps", "--min-tokens", 5, "--json").json()
    sharing = {chain for overlap in told["overlaps"] for chain in overlap["chains"]}
    assert len(sharing) >= 2
    assert {chain["id"] for chain in contents(tmp_path / "overlaps.html")[0]["chains"]} == sharing
    before = file.read_bytes()
    assert "exists. Choose another name" in trails(*command, "--html", file, code=2).err
    assert file.read_bytes() == before
    trails(*command, "--html", file, "--overwrite")
    assert "Give it: --html FILE" in trails("map", "--open", code=2).err
    with_a_page = {name for name, command in commands_of(cli) if "page" in {one.name for one in command.params}}
    assert with_a_page >= {
        *("agreement", "anchors", "basin", "bridge", "capture", "diff", "drift", "effects scan", "gaps", "gradient"),
        *("intervene", "map", "overlaps", "patterns", "recall", "respond", "select", "stellate", "stellator run"),
        "variants",
    }
    (tmp_path / "t.stellator").write_text(
        "[ZONE: all]\nSTEP → BUT\nDRIFT → activates attention sweep\n", encoding="utf-8"
    )
    told = trails("stellator", "run", tmp_path / "t.stellator", "--no-model", "--json", "--html", "t.html").json()
    assert contents(tmp_path / "t.html")[0]["report"]["verdict"] == told["verdict"]
    assert "there is no folder" in trails("map", "--html", tmp_path / "no" / "x.html", code=2).err


def test_what_a_training_did_is_told_with_its_controls(tmp_path: Path) -> None:
    from trails.evaluate.diff import LEGENDS, DiffReport, GroupChange, LayerChange
    from trails.evaluate.difference import Difference
    from trails.variants.stored import KindDrift, Shown, VariantRun

    group = GroupChange("trained", 4, 90, 2.0, 1.5, -0.5, -0.75, -0.25, 1.0, 0.5, 0.1)
    alone = GroupChange("unseen", 1, 9, 2.0, 2.5, 0.5, math.nan, math.nan, 1.0, 0.5, 0.1)
    layers = (LayerChange(0, 0.0, math.nan, 0.0, math.nan),)
    for noise, scores, withheld in ((0.01, 2, 0), (math.nan, 0, 2)):
        compared = DiffReport("ra", "rb", (group, alone), layers, (), (), noise, noise, ("collapse",), 0)
        told = Difference(compared, ({"step": 0},), ("collapse",), {"trained": 2, "held_out": 1}).told()
        assert (len(told.scores), len(told.withheld)) == (scores, withheld)
        assert told.verdict == (
            "alarm: collapse; trained: became easier by 0.500 nats per token (95 % interval 0.250 to 0.750); "
            "unseen: 1 chain is too few for an interval"
        )
        assert told.notes == (LEGENDS["groups"], LEGENDS["layers"], LEGENDS["checkpoints"])
        assert "their means are not those of the groups" in LEGENDS["checkpoints"]
        assert told.facts["noise"] == (0.01 if scores else None)
        assert told.to_arrow("groups")["surprisal"].to_pylist() == [-0.5, 0.5]
    before = corpus(2, RUN)
    moved = {t.chain.id: replace(t, surprisal=t.surprisal + np.float32(0.5)) for t in before[:1]}
    told = replace(told, facts={**told.facts, "noise": 0.25})
    write_analysis(tmp_path / "d.html", told, RUN, before, after=moved)
    record, numbers = contents(tmp_path / "d.html")
    assert record["run"]["noise"]["surprisal"] == 0.25
    changed = [chain for chain in record["chains"] if "surprisal_after" in chain["arrays"]]
    assert [chain["id"] for chain in changed] == [before[0].chain.id]
    after = values(record, numbers, changed[0]["arrays"]["surprisal_after"])
    np.testing.assert_array_equal(after, before[0].surprisal + np.float32(0.5))
    kind = KindDrift("plain", 5, 3, 1, 2, 0.04, 0.09, 0.1, (0.0, 0.5), None)
    shown = Shown("e1", "c" + 16 * "1", "synonym", "saw", 1, 2, 0.04, "He [-saw-]{+saws+}")
    told = VariantRun("v1", tmp_path, tmp_path, "ra", 1e-6, (kind,)).told([shown])
    assert told.verdict == "3 of 5 variants were accepted"
    how = "the largest of the chains, measured again"
    assert told.scores[0].controls == (Control("the chain against itself", 1e-6, how=how),)
    assert told.to_arrow("hidden_drift")["mean"].to_pylist() == [0.0, 0.5]
    assert told.to_arrow("variants")["text"].to_pylist() == ["He [-saw-]{+saws+}"]
    assert named_chains(told) == [shown.chain], "the page holds the chain of its variants"
    assert json.dumps(told.record())


@pytest.mark.browser
@pytest.mark.slow
def test_a_token_that_changed_is_a_link_to_it(tmp_path: Path) -> None:
    from trails.evaluate.diff import DiffReport, Transition
    from trails.evaluate.difference import Difference

    before = corpus(2, RUN)
    moved = {t.chain.id: replace(t, surprisal=t.surprisal + np.float32(0.5)) for t in before}
    trace, absent = before[1], "c" + 16 * "0"
    names = [trace.token_id(5), f"{absent}:{trace.token_id(5)[18:]}"]
    lines = tuple(Transition(name, "a", "b", "unseen", 1.0, 2.0) for name in names)
    told = Difference(DiffReport("ra", "rb", (), (), (), lines, 0.1, 0.1, (), 0), (), (), {}).told()
    places = pa.table({"chain": [trace.chain.id], "position": [7], "change": [0.5]})
    told = replace(told, tables=(*told.tables, ReportTable("places", places)))
    file = tmp_path / "d.html"
    write_analysis(file, told, RUN, before, after=moved)
    links = dict(look(file, home="report")["links"])
    assert links[names[0]] == f"#chain/{trace.chain.id}/5"
    assert links[f"{trace.chain.id}/7"] == f"#chain/{trace.chain.id}/7"
    assert links[trace.chain.id] == f"#chain/{trace.chain.id}"
    assert names[1] not in links, "the page does not hold that chain"
    seen = look(
        file, "act.mjs", hash=links[names[0]][1:], acts=[{"tell": "document.querySelector('.tok.on').dataset.i"}]
    )
    assert seen["told"] == ["5"]


@pytest.mark.browser
@pytest.mark.slow
def test_the_page_of_a_map_opens_with_the_map(tmp_path: Path) -> None:
    traces = corpus(6, RUN)
    woven = build(token_corpus(traces))
    report = woven.report()
    file = tmp_path / "m.html"
    write_analysis(file, report, RUN, traces[:3])
    seen = look(file, home="report", map=True, find="the")
    assert (seen["requests"], seen["console"]) == ([], [])
    assert report.verdict.split(":")[0] in seen["report"]
    shown = f"{len(woven.states):,} states, {len(woven.trails):,} transitions"
    assert shown in seen["map"]
    assert seen["mapPixels"] > 0
    assert "1 /" in seen["found"]
    here = {"tell": "[document.body.dataset.ready, location.hash, document.querySelectorAll('#follow option').length]"}
    assert look(file, "act.mjs", hash="map", acts=[here])["told"] == [["map", "#map", 4]]
    first = "(location.hash = '', new Promise(done => setTimeout(() => done(document.body.dataset.ready), 300)))"
    assert look(file, "act.mjs", hash="report", acts=[{"tell": first}])["told"] == ["map"], (
        "without a place the map opens"
    )
    write_analysis(tmp_path / "plain.html", replace(report, woven=None), RUN, traces[:3])
    assert contents(tmp_path / "plain.html")[0]["map"] is None


def test_a_list_of_texts_keeps_its_members_apart() -> None:
    ways = pa.table({"ways": pa.array([["", ", and Carl", "so"], []], pa.list_(pa.string()))})
    told = Report("odd", "a verdict", tables=(ReportTable("ways", ways),)).html()
    assert "<td>∅ | , and Carl | so</td>" in told


@pytest.mark.browser
@pytest.mark.slow
def test_a_table_of_a_part_that_is_drawn_is_a_picture(tmp_path: Path) -> None:
    rows = pa.table({"kind": ["a", "a", "b"], "layer": [0, 1, 1], "mean": [0.25, 0.5, 1.0]})
    part = Report("inner", "inner", tables=(ReportTable("mean", rows, drawn=("kind", "layer", "mean")),))
    write_analysis(tmp_path / "r.html", Report("odd", "odd", parts={"part": part}), RUN, corpus(1, RUN))
    cells = {"tell": "[...document.querySelectorAll('svg rect title')].map(t => t.textContent)"}
    seen = look(tmp_path / "r.html", "act.mjs", hash="report", acts=[cells])
    assert seen == {"console": [], "told": [["a, layer 0: 0.2500", "a, layer 1: 0.5000", "b, layer 1: 1.0000"]]}
