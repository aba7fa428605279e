"""The picture of a chain is well-formed, shows every token with its value, and no text leaves its element."""

from __future__ import annotations

import math
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.cells import cell_len
from tests.report.test_report import HOSTILE, RUN
from tests.store.factory import make_chain, make_run, make_trace

from trails.errors import MissingPackageError, UsageError
from trails.report.svg import (
    CELL,
    ENDS,
    MARGIN,
    MAX_PIXELS,
    MAX_TOKENS,
    WIDTH,
    chain_svg,
    left_out,
    write_png,
    write_svg,
)

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


@pytest.mark.parametrize("name", ["short", "a long name of a record " * 20, "日本語" * 60])
def test_the_heading_ends_inside_the_picture_and_the_title_has_it_whole(name: str) -> None:
    chain = replace(make_chain(1, "If a then b."), source_id=name)
    root = ElementTree.fromstring(chain_svg(make_trace(chain, RUN), RUN))
    heading = next(text.text or "" for text in root.findall(f"{NS}text"))
    assert CELL * cell_len(heading) <= WIDTH - 2 * MARGIN
    assert heading.endswith(f"{RUN.model} · run {RUN.id}"), "what is cut is the name"
    title = root.findtext(f"{NS}title") or ""
    assert name in title
    assert ("…" in heading) == (name != "short")


def test_a_chain_in_which_nothing_shifts_is_drawn() -> None:
    trace = make_trace(1, RUN)
    still = replace(
        trace,
        hidden_shift=np.zeros_like(trace.hidden_shift),
        hidden_baseline=np.zeros_like(trace.hidden_baseline),
    )
    assert "hidden shift minus random pairs" in chain_svg(still, RUN)


@pytest.mark.slow
def test_no_text_leaves_its_element(tmp_path: Path) -> None:
    for number, text in enumerate(HOSTILE):
        chain = replace(make_chain(number, f"If {text} then {text}.", source=text), question=text)
        root = ElementTree.fromstring(chain_svg(make_trace(chain, RUN), replace(RUN, model=text)))
        tags = {element.tag.removeprefix(NS) for element in root.iter()}
        assert tags <= {"svg", "title", "rect", "g", "text"}
        assert not any(name.startswith("on") or "href" in name for e in root.iter() for name in e.attrib)


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_command_draws_one_chain(trails: Any, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    assert "bytes" in trails("show", "#1", "--svg", "one.svg").out
    ElementTree.parse(tmp_path / "one.svg")
    assert "exists" in trails("show", "#1", "--svg", "one.svg", code=2).err
    assert "draws one chain" in trails("show", "#1", "#2", "--svg", "two.svg", code=2).err
    assert "Give it: --svg FILE" in trails("show", "#1", "--first", 2, code=2).err
    assert "Choose one with --first" in trails("show", "#1", "--svg", "two.svg", "--first", 5000, code=2).err
    twice = trails("show", "#1", "--svg", "two.svg", "--png", tmp_path / "two.svg", "--overwrite", code=2)
    assert "--svg and --png both name two.svg. Give each a file of its own" in twice.err
    assert "exists" in trails("show", "#1", "--svg", "two.svg", "--png", "one.svg", code=2).err
    assert not (tmp_path / "two.svg").exists(), "nothing is written where one of two is refused"


def test_a_picture_of_a_long_chain_has_pages_and_says_how_to_get_the_rest(
    trails: Any, chains_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = tuple(f"w{i:04} " for i in range(2 * MAX_TOKENS + 7))
    trace = make_trace(make_chain("long", "".join(words)), RUN, words=words)
    pages = [chain_svg(trace, RUN, first=first) for first in (0, MAX_TOKENS, 2 * MAX_TOKENS)]
    drawn = [
        [r.get("data-value") for r in ElementTree.fromstring(p).iter(f"{NS}rect") if r.get("data-value")] for p in pages
    ]
    assert [len(one) for one in drawn] == [MAX_TOKENS, MAX_TOKENS, 7]
    np.testing.assert_allclose([float(v) for one in drawn for v in one], trace.surprisal, rtol=1e-6)
    assert max(len(page.encode()) for page in pages) < 1_000_000
    assert f">tokens 0 to 1,999 of 4,007; a picture holds 2,000, the next ones: --first {MAX_TOKENS}</text>" in pages[0]
    assert ">tokens 4,000 to 4,006 of 4,007; a picture holds 2,000, the first ones: --first 0</text>" in pages[2]
    assert f"tokens 0 to {trace.n_tokens - 1}; {ENDS}" in pages[2], "the map is of the whole chain"
    short = make_trace(1, RUN)
    assert left_out(short) == ""
    assert "--first" not in chain_svg(short, RUN)
    trails("ingest", chains_file)
    monkeypatch.setattr("trails.report.svg.MAX_TOKENS", 3)
    said = trails("show", "#1", "--svg", "p.svg", "--first", 3)
    assert "tokens 3 to 5 of" in said.err
    assert "tokens 3 to 5 of" in trails("show", "#1", "--svg", "q.svg", "--first", 3, "--json").json()["left_out"]


def pixels(data: bytes) -> tuple[int, int, bytes]:
    """Width, height and bytes of a PNG of 8 bits a channel with alpha, its filters undone."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, width, height = 8, b"", 0, 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            assert (depth, colour) == (8, 6)
        packed += body if kind == b"IDAT" else b""
        at += 12 + size
    raw, lines, above = zlib.decompress(packed), [], bytearray(4 * width)
    for row in range(height):
        start = row * (4 * width + 1)
        kind, line = raw[start], bytearray(raw[start + 1 : start + 1 + 4 * width])
        for i in range(4 * width):
            a, b, c = (line[i - 4], above[i], above[i - 4]) if i >= 4 else (0, above[i], 0)
            nearest = min((a, b, c), key=lambda v, p=a + b - c: abs(p - v))
            line[i] = (line[i] + (0, a, b, (a + b) // 2, nearest)[kind]) & 255
        lines.append(bytes(line))
        above = line
    return width, height, b"".join(lines)


@pytest.mark.slow
def test_a_bitmap_shows_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py", reason="the package resvg-py is not installed")
    trace = make_trace(1, RUN)
    file = tmp_path / "c.png"
    assert write_png(file, trace, RUN, measure="rank") == file.stat().st_size
    width, height, data = pixels(file.read_bytes())
    root = ElementTree.fromstring(chain_svg(trace, RUN, measure="rank"))
    assert (width, height) == (2 * 960, 2 * int(root.get("height")))
    token = next(r for r in root.iter(f"{NS}rect") if r.get("data-value"))
    # the lower left corner of the first token, beside its text, has the token's colour
    x, y = 2 * (float(token.get("x")) + float(token.get("width"))) - 3, 2 * float(token.get("y")) + 37
    place = 4 * (int(y) * width + int(x))
    assert data[place : place + 3].hex() == token.get("fill").removeprefix("#")
    assert len({data[i : i + 3] for i in range(0, len(data), 4)}) > 20
    with pytest.raises(UsageError, match="exists"):
        write_png(file, trace, RUN)
    monkeypatch.setattr("trails.report.svg.MAX_PIXELS", 10)
    with pytest.raises(UsageError, match="Write it with --svg"):
        write_png(tmp_path / "d.png", trace, RUN)
    assert MAX_PIXELS > 2_000


def test_without_the_package_the_line_to_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'trails\[png\]'"):
        write_png(tmp_path / "c.png", make_trace(1, RUN), RUN)


def test_show_writes_both_pictures(trails: Any, chains_file: Path) -> None:
    pytest.importorskip("resvg_py", reason="the package resvg-py is not installed")
    trails("ingest", chains_file)
    said = trails("show", "#1", "--svg", "a.svg", "--png", "a.png", "--json").json()
    assert [one["path"] for one in said] == ["a.svg", "a.png"]
    assert Path("a.png").stat().st_size == said[1]["bytes"]
    assert "--png draws one chain" in trails("show", "#1", "#2", "--png", "b.png", code=2).err
