"""A report is told once: terminal, JSON, Arrow, pandas and a notebook are made from it; none loses the verdict or a control."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from trails.analyses.report import Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.cli.scores import print_report
from trails.errors import UsageError
from trails.platform.text import percent

HOSTILE = "<script>alert(1)</script> & \x1b[31m \u202egnp"


def told(**changes: Any) -> Report:
    table = pa.table({"id": ["o1", "o2", "o3"], "text": [HOSTILE, "b", "c"], "n": [3, 2, 1]})
    given: dict[str, Any] = {
        "analysis": "toy",
        "verdict": "shared beyond chance: 12 %",
        "facts": {"kind": "exact", "n_chains": 3},
        "tables": (
            ReportTable("overlaps", table, "3 overlaps", {"id": "overlap", "text": "text"}, shown=[True, False, True]),
            ReportTable("states", table, "states", detail=True),
        ),
        "scores": (
            Score(
                "coverage", 0.12, "share", (Control("shuffle", 0.03, (0.02, 0.04), "20 draws"),), (0.1, 0.14), "a note"
            ),
            Score("variants", 5.0, "sequences", (Control("shuffle", 9.0),)),
        ),
        "withheld": (Withheld("retrieval", "no states"),),
        "notes": ("one source",),
        "commands": (("export it", "trails export --subgraph overlap:o1"),),
        "parts": {"minimax": Report("part", "claims 1 nat"), "fewest": None},
        "evidence": ("coverage",),
    }
    return Report(**{**given, **changes})


def test_the_record_holds_everything_and_rows_up_to_a_limit() -> None:
    found = told().record(2)
    assert list(found)[:2] == ["analysis", "verdict"]
    assert found["kind"] == "exact"
    assert found["scores"][0]["controls"] == [
        {"name": "shuffle", "value": 0.03, "interval": (0.02, 0.04), "how": "20 draws"}
    ]
    assert found["withheld"] == [{"name": "retrieval", "reason": "no states"}]
    assert [row["id"] for row in found["overlaps"]] == ["o1", "o2"]
    assert len(found["states"]) == 2
    assert found["cut"] == {"overlaps": 3, "states": 3}
    assert "cut" not in told().record(3)
    assert "cut" not in told().record()
    assert found["minimax"]["verdict"] == "claims 1 nat"
    assert found["fewest"] is None
    assert found["notes"] == ["one source"]
    assert found["commands"] == [{"does": "export it", "run": "trails export --subgraph overlap:o1"}]


def test_one_of_a_kind_is_told_in_the_singular(capsys: pytest.CaptureFixture[str]) -> None:
    one = pa.table({"id": ["o1"]})
    report = told(facts={"n_chains": 1, "n_families": 2}, tables=(ReportTable("states", one, detail=True),))
    print_report(report)
    assert "More with --details: 1 more score, 1 state." in capsys.readouterr().err
    print_report(report, details=True)
    assert "1 chain, 2 families" in capsys.readouterr().out


def test_tables_are_whole_in_arrow_and_pandas() -> None:
    report = told()
    assert report.to_arrow().num_rows == 3
    assert report.to_pandas("states").shape == (3, 3)
    with pytest.raises(UsageError, match="Tables: overlaps, states"):
        report.to_arrow("nothing")


class Tags(HTMLParser):
    """Names of all tags, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data + "|"


def test_a_tree_is_nested_and_an_empty_table_left_out() -> None:
    names, depths = ["a", "  <b>", "     c", "  d", "e"], [0, 1, 2, 1, 0]
    data = pa.table({"tree": names, "rows": [1, 2, None, 4, 5]})
    empty = ReportTable("none", pa.table({"x": pa.array([], pa.int64())}), "nothing here")
    page = Report("t", "v", tables=(ReportTable("tree", data, "all", depths=depths), empty)).html()
    assert "nothing here" not in page
    lists = re.sub(r"</?strong>|</?summary>", "", page[page.index("<ul>") : page.rindex("</ul>") + 5])
    assert lists == (
        "<ul><li><details open>a: rows 1<ul><li><details open>&lt;b&gt;: rows 2<ul><li> c: </li></ul></details></li>"
        "<li>d: rows 4</li></ul></details></li><li>e: rows 5</li></ul>"
    )


def test_html_is_static_and_escaped() -> None:
    page = told()._repr_html_()
    read = Tags()
    read.feed(page)
    assert not read.tags & {"script", "style", "img", "a", "iframe", "link"}
    assert read.attributes <= {"class"}
    assert "<script>alert(1)</script> & " in read.text
    assert "\x1b" not in page
    assert "\u202e" not in page
    for text in ("shared beyond chance", "shuffle", "0.03", "no states", "one source", "overlap:o1", "claims 1 nat"):
        assert text in read.text, text
    assert "|o2|" not in read.text.partition("states")[0]  # only the rows that a person is shown
    assert "(1 of 2 rows)" in told().html(rows=1)


def test_the_terminal_begins_with_the_verdict_and_keeps_the_control(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(told(), home=Path("my home"))
    printed = capsys.readouterr()
    assert printed.out.startswith("shared beyond chance: 12 %\n")
    assert "o3" in printed.out
    assert "o2" not in printed.out
    assert "shuffle" in printed.out
    assert "variants" not in printed.out
    assert "no score for retrieval: no states" in printed.out
    assert "trails export --subgraph overlap:o1 --home 'my home'" in printed.out
    assert "minimax: claims 1 nat" in printed.out
    assert "1 more score, 3 states" in printed.err
    print_report(told(), details=True)
    printed = capsys.readouterr()
    assert "variants" in printed.out
    assert "3 chains" in printed.out
    assert "--details" not in printed.err


def test_a_report_needs_a_verdict_and_distinct_names() -> None:
    with pytest.raises(ValueError, match="no verdict"):
        told(verdict=" ")
    with pytest.raises(ValueError, match="twice: overlaps"):
        told(facts={"overlaps": 3})
    with pytest.raises(ValueError, match="twice: scores"):
        told(parts={"scores": None})


def test_equal_parts_are_told_once() -> None:
    part = Report("part", "one way")
    report = told(parts={"verified": part, "minimax": Report("part", "one way"), "fewest": Report("part", "another")})
    assert [names for names, _ in report.distinct_parts()] == [["verified", "minimax"], ["fewest"]]


@pytest.mark.parametrize(
    ("value", "interval", "control", "beyond"),
    [
        (0.5, (0.4, 0.6), Control("null", 0.1, (0.05, 0.3)), True),
        (0.5, (0.3, 0.6), Control("null", 0.1, (0.05, 0.3)), False),  # a tie is not beyond
        (0.5, None, Control("null", 0.5), False),
        (0.5, None, Control("null", 0.1, (0.05, 0.7)), False),
        (0.5, None, Control("null", 0.1), True),
    ],
)
def test_beyond_compares_the_lower_end_with_what_the_control_reaches(
    value: float, interval: Any, control: Control, beyond: bool
) -> None:
    score = Score("s", value, "share", (Control("other", 0.0), control), interval)
    assert score.beyond() is beyond
    assert score.beyond("other") is True
    assert score.strictest() == control
    with pytest.raises(ValueError, match="no control named nothing"):
        score.strictest("nothing")


def test_shares_in_words_do_not_round_something_to_nothing() -> None:
    told_ = [percent(x) for x in (0, 0.0001, 0.005, 0.0549, 0.1, 0.84, 0.9949, 0.998, 0.99999, 1)]
    assert told_ == ["0 %", "under 0.1 %", "0.5 %", "5.5 %", "10 %", "84 %", "99 %", "99.8 %", "over 99.9 %", "100 %"]
    beyond = [percent(x) for x in (-0.2, -0.016, -0.0099, -0.004, -0.0001, -1e-9, 1.0001, 1.004, 1.016, 1.4)]
    assert beyond == [
        *("-20 %", "-2 %", "-1.0 %", "-0.4 %", "under 0 %", "under 0 %", "over 100 %", "100.4 %", "102 %", "140 %")
    ]
    assert percent(-0.0) == "0 %"
    assert percent(float("nan")) == "an unknown share"
