"""Where the order of a list says nothing, the list says so."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from trails.analyses.budget import Pool, chosen
from trails.analyses.gaps import Calibration, Gaps
from trails.analyses.report import Report, ReportTable
from trails.platform.ties import leading, tie
from trails.store.base import Result
from trails.store.queries import named_queries, named_query


@pytest.mark.parametrize(
    ("values", "shown", "more", "says"),
    [
        ([2.0, 2.0, 2.0], 2, False, "all 3 rows have the same nats (2): none of them comes first"),
        ([2.0, 2.0, 2.0], None, True, "all 3 rows shown have the same nats (2): none of them comes first"),
        ([2.0, 2.0 + 1e-15], None, False, "all 2 rows have the same nats (2): none of them comes first"),
        ([3.0, 2.0, 2.0, 2.0, 1.0], 3, False, "rows 2 to 4 have the same nats (2): which of them are shown says nothing"),
        ([3.0, 2.0, 2.0, 2.0, 1.0], 2, False, "rows 2 to 4 have the same nats (2): which of them are shown says nothing"),
        ([3, 2, 2], None, True, "rows 2 to 3 and perhaps more have the same nats (2): which of them are shown says nothing"),
        ([3.0, 2.0, 2.0, 2.0, 1.0], 4, False, ""),
        ([3.0, 2.0, 2.0], None, False, ""),
        ([3.0, 2.0, 1.0], 2, True, ""),
        ([5.5451774, 5.5451776], None, False, "all 2 rows have the same nats (5.545): none of them comes first"),
        ([2.0, 2.001], None, False, ""),
        ([2.0], None, True, ""),
        ([], None, True, ""),
        ([2.0, math.nan], None, False, ""),
    ],
)  # fmt: skip
def test_a_tie_is_said(values: Sequence[float], shown: int | None, more: bool, says: str) -> None:
    assert tie(values, shown, "nats", more=more) == says


def test_leading() -> None:
    assert [leading(values) for values in ([], [1.0], [1.0, 1.0, 0.5, 1.0])] == [0, 1, 2]


def test_a_table_of_a_report_says_it_in_json_and_on_a_page() -> None:
    data = pa.table({"step": [0, 1, 2, 3], "score": [0.5, 0.5, 0.5, 0.1]})
    table = ReportTable("steps", data, ranked=("score", [0.5, 0.5, 0.5, 0.1]), shown=[True, True, True, False])
    report = Report("test", "a verdict", tables=(table,), notes=("a note",))
    said = "steps: all 3 rows have the same score (0.5): none of them comes first"
    assert report.record(2)["notes"] == ["a note", said]
    assert said in report.html()
    assert ReportTable("steps", data, ranked=("score", [0.5, 0.4, 0.3, 0.1])).tie(2) == ""
    assert ReportTable("steps", data).tie() == ""


def seams(scores: Sequence[float]) -> Gaps:
    size = len(scores)
    table = pa.table(
        {
            "chain": pa.array([f"c{n}" for n in range(size)]),
            "step": pa.array([1] * size),
            "score": pa.array(list(scores)),
            "bridge_nats": pa.array([None] * size, pa.float64()),
            "ungrounded_values": pa.array([[]] * size, pa.list_(pa.string())),
        }
    )
    return Gaps("r", size, table, Calibration("r", 3, (), (), ()))


def test_no_seam_is_named_first_where_all_are_alike() -> None:
    assert (
        seams([0.5, 0.5, 0.5]).report().verdict.startswith("no seam is the most gap-like: all 3 have the same score; ")
    )
    assert "the seam before step 1 of c0 (as gap-like as 1 more)" in seams([0.9, 0.9, 0.5]).report().verdict
    assert "as gap-like as" not in seams([0.9, 0.8, 0.5]).report().verdict


def pool(surprisal: Sequence[float]) -> Pool:
    size = len(surprisal)
    nothing = tuple(np.array([n], np.uint64) for n in range(size))
    names = tuple(f"c{n}" for n in range(size))
    return Pool(names, np.full(size, 10), np.array(surprisal), ("s",) * size, nothing, np.full(size, np.nan))


@pytest.mark.parametrize(
    ("surprisal", "says"),
    [
        ([5.5] * 4, "all 4 chains are alike by perplexity, so the choice among them is random (seed 7)"),
        ([1.0, 2.0, 2.0, 3.0], "1 chain that was left out is alike by perplexity with chosen ones; chance decided (seed 7)"),
        ([1.0, 2.0, 3.0, 3.0], ""),
    ],
)  # fmt: skip
def test_a_choice_among_equal_chains_is_called_random(surprisal: Sequence[float], says: str) -> None:
    assert chosen(pool(surprisal), "perplexity", 20, "r", seed=7).notes == ((says,) if says else ())


def test_what_a_query_is_ordered_by_is_read_from_its_statement() -> None:
    by = {name: query.ranked_by for name, query in named_queries().items()}
    assert by["most-surprising"] == ("surprisal", "float", False)
    assert by["moved-chains"] == ("change", "float", True)
    assert by["easier-transitions"] == ("change", "float", False)
    assert by["useful-premises"][0] == "premise_usefulness"
    assert by["overlaps-top"] == ("saved", "integer", False)
    assert by["shared-transitions"][0] == ""  # a sum of two columns
    assert by["chain-steps"] == by["runs"] == by["chain-trail"] == ("", "", False)


def test_a_query_says_where_its_order_says_nothing() -> None:
    query = named_query("most-surprising")
    columns = tuple(column.name for column in query.columns)
    at = columns.index("surprisal")

    def result(*values: float | None) -> Result:
        return Result(columns, tuple(tuple(v if n == at else None for n in range(len(columns))) for v in values))

    assert query.tie(result(5.5, 5.5), {"limit": 2}).startswith("all 2 rows shown have the same surprisal (5.5)")
    assert query.tie(result(5.5, 5.5), {"limit": 20}).startswith("all 2 rows have the same surprisal (5.5)")
    assert query.tie(result(6.0, 5.5, 5.5), {"limit": 3}).startswith("rows 2 to 3 and perhaps more")
    assert query.tie(result(6.0, 5.5, 5.5), {"limit": 4}) == query.tie(result(6.0, None), {"limit": 2}) == ""
