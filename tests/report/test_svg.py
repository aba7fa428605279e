"""The picture of a chain is well-formed, shows every token with its value, and no text leaves its element."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from tests.report.test_report import HOSTILE, RUN
from tests.store.factory import make_chain, make_run, make_trace

from trails.errors import UsageError
from trails.report.svg import chain_svg, write_svg

NS = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("measure", ["surprisal", "hidden_shift", "rank"])
def test_every_token_has_its_value_and_the_map_is_that_of_the_trace(measure: str) -> None:
    trace = make_trace(1, RUN)
    root = ElementTree.fromstring(chain_svg(trace, RUN, measure=measure))
    values = [float(r.get("data-value")) for r in root.iter(f"{NS}rect") if r.get("data-value")]
    wanted = np.asarray(getattr(trace, measure), np.float64)
    wanted = wanted[:, 1:].mean(1) if wanted.ndim == 2 else wanted
    assert values == pytest.approx(wanted.tolist(), rel=1e-6)
    words = "".join(text.text or "" for group in root.iter(f"{NS}g") for text in group.iter(f"{NS}text"))
    assert words == "".join(piece.strip() for piece in trace.pieces)
    # the map: one row of rectangles for every layer, together as wide as the tokens
    rows: dict[str, float] = {}
    for rect in root.findall(f"{NS}rect"):
        if rect.get("height") == "7.0":
            rows[rect.get("y")] = rows.get(rect.get("y"), 0) + float(rect.get("width"))
    assert len(rows) == RUN.n_layers + 1
    assert set(map(round, rows.values())) == {880}


def test_no_text_leaves_its_element(tmp_path: Path) -> None:
    for number, text in enumerate(HOSTILE):
        chain = replace(make_chain(number, f"If {text} then {text}.", source=text), question=text)
        root = ElementTree.fromstring(chain_svg(make_trace(chain, RUN), replace(RUN, model=text)))
        tags = {element.tag.removeprefix(NS) for element in root.iter()}
        assert tags <= {"svg", "title", "rect", "g", "text"}
        assert not any(name.startswith("on") or "href" in name for e in root.iter() for name in e.attrib)


def test_a_long_chain_has_a_map_of_bounded_size_and_a_run_without_layers_none(tmp_path: Path) -> None:
    words = tuple(f"w{i:04} " for i in range(1500))
    trace = make_trace(make_chain("long", "".join(words)), RUN, words=words)
    drawn = chain_svg(trace, RUN)
    assert "a column is the mean of 4 tokens" in drawn
    assert math.ceil(1500 / 4) <= 440
    bare = make_run("bare", n_layers=0)
    assert "hidden shift" not in chain_svg(make_trace(1, bare), bare)
    file = tmp_path / "c.svg"
    assert write_svg(file, trace, RUN) == file.stat().st_size
    with pytest.raises(UsageError, match="exists"):
        write_svg(file, trace, RUN)


def test_the_command_draws_one_chain(trails: Any, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    assert "bytes" in trails("show", "#1", "--svg", "one.svg").out
    ElementTree.parse(tmp_path / "one.svg")
    assert "exists" in trails("show", "#1", "--svg", "one.svg", code=2).err
    assert "draws one chain" in trails("show", "#1", "#2", "--svg", "two.svg", code=2).err
