"""What a reader finds by looking: what changed, what is shared, where chains meet, and what a cell of a map of layers is."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.report.test_report import contents, look
from tests.store.factory import corpus, make_chain, make_run, make_trace

from trails.analyses.drift import drift
from trails.analyses.gaps.kinds import SEAM_SCORES
from trails.analyses.report import Report
from trails.analyses.sequences import token_corpus
from trails.analyses.statemap import build
from trails.report.analysis import write_analysis
from trails.report.drawings import histogram_drawing, roles_drawing
from trails.report.html import Found, _squeezed, script, write_report
from trails.report.svg import ENDS, chain_svg, scale_ends
from trails.report.words import filled, in_russian, sentences
from trails.schema import Trace

RUN = make_run()
TOKENS = "[...document.querySelectorAll('#strip .tok')]"
ON = f"{TOKENS}.findIndex(t => t.classList.contains('on'))"
READ = "document.querySelector('canvas.cells').closest('section').querySelector('[aria-live]').textContent"
STILL = "document.getElementById('next').disabled"
BOX = "(s => document.querySelector(s).getBoundingClientRect())"


def act(file: Path, hash_: str, *acts: dict[str, Any], **plan: Any) -> list[Any]:
    """What the expressions among some acts are on a page, on which no script failed."""
    seen = look(file, "act.mjs", hash=hash_, acts=acts, **plan)
    assert seen["console"] == []
    told: list[Any] = seen["told"]
    return told


def last(selector: str, begin: int, end: str = "") -> str:
    """The texts of some cells of the rows of a table."""
    cells = f"[...r.cells].slice({begin}{end}).map(c => c.textContent.trim())"
    return f"[...document.querySelectorAll({selector!r})].map(r => {cells})"


def tell(expression: str) -> dict[str, Any]:
    return {"tell": expression}


@pytest.mark.browser
@pytest.mark.slow
def test_a_comparison_shows_both_runs_and_the_change_beside_the_noise_floor(tmp_path: Path) -> None:
    run = replace(RUN, notes={**RUN.notes, "noise_floor": {"surprisal": 0.3}})
    before = make_trace(0, run)
    by = np.where(np.arange(before.n_tokens) % 3 == 0, 0.5, 0.125).astype(np.float32)
    after = replace(before, run="rother", surprisal=before.surprisal + by)
    other = make_trace(1, run)
    file = tmp_path / "r.html"
    write_report(file, [before, other], run, after={before.chain.id: after})
    caption = "document.querySelector('canvas').closest('section').querySelector('h2').textContent"
    curve = """(() => {
      const c = document.querySelector('canvas'), x = c.getContext('2d'), found = {}
      const probe = document.createElement('canvas').getContext('2d')
      const p = x.getImageData(0, 0, c.width, c.height).data
      for (const ink of ['mark', 'dim', 'warn']) {
        probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--' + ink)
        const [r, g, b] = probe.fillStyle.match(/[0-9a-f]{2}/g).map(h => parseInt(h, 16))
        let top = 1e9, low = -1
        for (let i = 0; i < p.length; i += 4) {
          if (p[i] !== r || p[i + 1] !== g || p[i + 2] !== b || p[i + 3] !== 255) continue
          const y = Math.floor(i / 4 / c.width)
          top = Math.min(top, y)
          low = Math.max(low, y)
        }
        found[ink] = [top, low]
      }
      return [c.height, found]
    })()"""
    rows = last("tr[data-step]", -3)
    note = "document.getElementById('note').textContent"
    told = act(
        file, f"chain/{before.chain.id}", tell(note), tell(rows), tell(curve),
        {"go": f"chain/{other.chain.id}"}, tell(curve),
        {"go": "corpus"}, tell(last("section:first-child tr", -2)),
        {"go": f"chain/{before.chain.id}"}, tell(caption),
    )  # fmt: skip
    finite = np.isfinite(before.surprisal)
    beyond = int((by[finite] > 0.3).sum())
    assert (
        f"noise floor: 3.0e-1 · {beyond} of {int(finite.sum())} tokens changed by more than the noise floor" in told[0]
    )
    for (first, stop), cells in zip(before.step_tokens, told[1], strict=True):
        was, now = (np.nanmean(t.surprisal[first:stop].astype(np.float64)) for t in (before, after))
        assert cells == [f"{was:.3f}", f"{now:.3f}", f"{now - was:.3f}"]
    assert "the grey band is the noise floor" in told[5]
    bare = replace(run, notes={**run.notes, "noise_floor": {}})
    write_report(tmp_path / "bare.html", [before], bare, after={before.chain.id: after})
    unmeasured = act(tmp_path / "bare.html", f"chain/{before.chain.id}", tell(caption), tell(note))
    assert "bars: after − before in nats" in unmeasured[0]
    assert "noise floor" not in unmeasured[0], "no band is named where none was measured"
    assert "noise floor: not measured" in unmeasured[1]
    (height, inks), (alone, one) = told[2], told[3]
    assert (height, alone) == (250, 150), "a chain of one run has no room for a change"
    assert inks["warn"][0] > 150, "what became harder stands below the curves"
    assert inks["mark"][1] <= 150, "and nothing became easier"
    assert one["warn"][1] == -1
    means = [np.nanmean(t.surprisal.astype(np.float64)) for t in (before, after)]
    assert told[4][0] == ["after", "after − before"]
    assert [f"{means[1]:.4f}", f"{means[1] - means[0]:.4f}"] in told[4]
    assert ["", ""] in told[4], "the other chain was not measured again"


@pytest.mark.browser
@pytest.mark.slow
def test_a_bar_beyond_the_axis_of_the_change_has_a_mark_at_its_end(tmp_path: Path) -> None:
    words = tuple(f"w{i} " for i in range(100))
    before = make_trace(make_chain("bars", "".join(words)), RUN, words=words)
    by = np.full(100, 0.5, np.float32)
    # the axis ends at the 98th percentile of the sizes, 0.5: one bar of a hundred goes beyond it
    by[40] = 4.0
    surprisal = np.full(100, 1.0, np.float32)
    before = replace(before, surprisal=surprisal)
    marks = """(() => {
      const c = document.querySelector('canvas'), x = c.getContext('2d'), r = devicePixelRatio, found = []
      const probe = document.createElement('canvas').getContext('2d')
      probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--fg')
      const ink = probe.fillStyle.match(/[0-9a-f]{2}/g).map(h => parseInt(h, 16)).join()
      const row = x.getImageData(0, 158 * r, c.width, 1).data
      for (let i = 0; i < c.width; i++)
        if (row.slice(4 * i, 4 * i + 3).join() === ink) found.push((i / r - 34) / (c.width / r - 44))
      return found
    })()"""
    for name, change, place in (("beyond", by, 40 / 99), ("even", np.full(100, 0.5, np.float32), None)):
        after = replace(before, run="rother", surprisal=surprisal + change)
        write_report(tmp_path / f"{name}.html", [before], RUN, after={before.chain.id: after})
        (found,) = act(tmp_path / f"{name}.html", f"chain/{before.chain.id}", tell(marks))
        assert bool(found) == (place is not None), name
        assert all(abs(one - place) < 0.01 for one in found), found


def test_a_repeat_says_how_many_chains_it_does_not_link(tmp_path: Path) -> None:
    traces = [make_trace(number, RUN) for number in range(7)]
    rows = {trace.chain.id: [shared("exact", 0, 2) | {"n_chains": 7}] for trace in traces}
    write_report(tmp_path / "r.html", traces, RUN, found=Found({}, rows))
    record, _ = contents(tmp_path / "r.html")
    (row,) = record["corpus"]["overlaps"]
    assert (len(row["chains"]), row["more"]) == (4, 3)
    for chain in record["chains"]:
        (mark,) = chain["overlaps"]
        assert (len(mark["others"]), mark["more"]) == (4, 2)


def shared(kind: str, first: int, stop: int, n: int = 3) -> dict[str, Any]:
    return {
        **{"id": f"o{kind}{first}", "kind": kind, "n_tokens": n, "n_chains": 2, "excess": 0.25, "control": 0.3},
        **{"control_name": "role-frequency shuffle" if kind == "skeleton" else "order-2 Markov resample"},
        **{"first": first, "stop": stop},
    }


@pytest.mark.browser
@pytest.mark.slow
def test_every_kind_of_repeat_has_its_own_mark_and_leads_to_its_place_in_the_other_chain(tmp_path: Path) -> None:
    traces = [make_trace(number, RUN) for number in range(3)]
    a, b = traces[0], traces[1]
    rows = {
        a.chain.id: [shared("exact", 1, 3), shared("masked", 2, 5), shared("skeleton", 1, 3, 2)],
        b.chain.id: [
            shared("exact", 1, 3) | {"first": 4, "stop": 6},
            shared("skeleton", 1, 3, 2) | {"first": 0, "stop": 2},
        ],
    }
    file = tmp_path / "r.html"
    write_report(file, traces, RUN, found=Found({}, rows))
    classes = f"{TOKENS}.map(t => ['exact', 'masked', 'skeleton'].filter(k => t.classList.contains(k)).join(' '))"
    style = "(k => getComputedStyle(document.querySelector('#strip .' + k)))"
    drawn = f"(k => [{style}(k).borderBottomStyle, {style}(k).textDecorationStyle])"
    told = act(
        file, f"chain/{a.chain.id}", tell(classes), tell(f"[{drawn}('exact:not(.masked)'), {drawn}('masked:not(.exact)')]"),
        tell("[...document.querySelectorAll('tr[data-step]')].map(r => r.className)"),
        {"click": f"a[href='#chain/{b.chain.id}/4']"}, tell(f"[location.hash, {ON}]"),
        {"go": "corpus"}, tell("[...document.querySelectorAll('td')].map(t => t.textContent)"),
    )  # fmt: skip
    roles = (int(a.step_tokens[1][0]), int(a.step_tokens[2][1]))
    for i, found in enumerate(told[0]):
        expected = [
            k for k, first, stop in (("exact", 1, 3), ("masked", 2, 5), ("skeleton", *roles)) if first <= i < stop
        ]
        assert found == " ".join(expected), i
    assert told[1] == [["solid", "solid"], ["none", "dotted"]], "the two kinds look different"
    assert told[2][:4] == ["", "held begins", "held ends", *[""][: len(a.steps) - 3]]
    assert told[3] == [f"#chain/{b.chain.id}/4", 4]
    cells = told[4]
    assert ">".join(step.role.value for step in a.steps[1:3]) in cells, "a repeat of roles is told by its roles"
    assert "2 steps" in cells


def test_brackets_beside_the_steps_do_not_overlap(tmp_path: Path) -> None:
    trace = make_trace(0, RUN)
    rows = {trace.chain.id: [shared("skeleton", 1, 3, 2), shared("skeleton", 0, 3, 3), shared("exact", 0, 1)]}
    write_report(tmp_path / "r.html", [trace], RUN, found=Found({}, rows))
    held = contents(tmp_path / "r.html")[0]["chains"][0]["overlaps"]
    assert [(o["kind"], o["first"], o["stop"]) for o in held] == [
        ("exact", 0, 1),
        ("skeleton", 0, int(trace.step_tokens[2][1])),
    ]
    assert held[1]["said"].startswith("skeleton repeat of 3 steps in 2 chains; ")
    record, _ = contents(tmp_path / "r.html")
    told = [*(o["said"] for o in held), *record["corpus"]["shared"]]
    assert all(known for text in told for _, known in in_russian(text))


@pytest.mark.browser
@pytest.mark.slow
def test_a_cell_of_the_map_of_layers_is_read_by_pointing_and_by_keys(tmp_path: Path) -> None:
    trace = corpus(1, RUN)[0]
    file = tmp_path / "r.html"
    write_report(file, [trace], RUN)
    layers, n = RUN.n_layers, trace.n_tokens
    wide = max(2, min(10, 1100 // n))
    told = act(
        file, f"chain/{trace.chain.id}",
        tell("(e => [e.role, e.ariaLabel, e.tabIndex])(document.querySelector('canvas.cells'))"),
        tell("[...document.querySelectorAll('.axis span')].map(e => e.textContent)"),
        tell("document.querySelector('.layers').previousSibling.textContent"),
        {"hover": ["canvas.cells", 3 * wide + 1, 1]}, tell(READ),
        {"press": ["canvas.cells", "ArrowRight"]}, tell(READ), {"press": ["canvas.cells", "ArrowDown"]}, tell(READ),
        {"press": ["canvas.cells", "ArrowUp", 99]}, tell(READ), {"press": ["canvas.cells", "ArrowLeft", 200]}, tell(READ),
    )  # fmt: skip
    values = np.rint(trace.attention_shift.astype(np.float64) * 1000) / 1000

    def cell(token: int, layer: int) -> str:
        value = values[token, layer - 1]
        return f": {value:.3f} (" if np.isfinite(value) else ": – ("

    assert told[0][0] == "img"
    assert "attention shift" in told[0][1]
    assert "total variation, 0 to 1" in told[0][1]
    assert told[0][2] == 0, "the keyboard reaches it"
    assert told[1] == [str(layers), str(1 + (layers >> 1)), "1"]
    assert "attention shift, total variation, 0 to 1" in told[2], "a key with its unit"
    for found, token, layer in zip(
        told[3:], (3, 4, 4, 4, 0), (layers, layers, layers - 1, layers, layers), strict=True
    ):
        assert found.startswith(f"Layer {layer} · position {token} ")
        assert cell(token, layer) in found


@pytest.mark.browser
@pytest.mark.slow
def test_the_map_of_the_drift_ends_its_colours_on_the_page_where_the_picture_does(tmp_path: Path) -> None:
    words = tuple(f"w{i} " for i in range(97))
    trace = make_trace(make_chain("drift", "".join(words)), RUN, words=words)
    rng = np.random.default_rng(4)
    shift = rng.uniform(0.4, 0.6, trace.hidden_shift.shape).astype(np.float32)
    # 1.5 % of the values lie far to each side: 98 % on one side are no 98 % in size; the largest in size is below 0
    side = shift.size * 3 // 200
    far = rng.permutation(shift.size)[: 2 * side]
    shift.reshape(-1)[far[:side]] = 0.9
    shift.reshape(-1)[far[side:]] = 0.1
    shift[50, 2] = 0.0
    trace = replace(trace, hidden_shift=shift, hidden_baseline=np.full_like(trace.hidden_baseline, 0.5))
    low, high = scale_ends(shift - np.float32(0.5), signed=True)
    assert 0.98 <= (np.abs(shift - np.float32(0.5)) <= high).mean() < 1
    assert (low, high) == (-high, pytest.approx(0.4))
    write_report(tmp_path / "r.html", [trace], RUN)
    choose = """(() => {
      document.getElementById('minus').checked = true
      const pick = document.getElementById('measure')
      pick.value = 'hidden_shift'
      pick.dispatchEvent(new Event('change'))
    })()"""
    legend = "document.querySelector('canvas.cells').closest('section').querySelector('.bar').textContent"
    told = act(tmp_path / "r.html", f"chain/{trace.chain.id}", tell(choose), tell(legend), tell(READ))
    assert f"{low:.3f}{high:.3f}" in told[1]
    assert ENDS in told[1]
    assert told[2].startswith("point at a cell or move with the arrow keys; largest in size: Layer 2 · position 50 ")
    drawn = chain_svg(trace, RUN)
    assert f"from {low:.3f} (blue) to {high:.3f} (orange)" in drawn
    assert drawn.count(ENDS) == 2, "of the strip and of the map"


def drifting(n: int = 40) -> tuple[Trace, Trace]:
    """A chain, and the same measured with states that moved from the fourth layer on."""
    run = make_run(n_layers=8)
    words = tuple(f"w{i} " for i in range(n))
    trace = make_trace(make_chain("drift", "".join(words)), run, words=words)
    moved = trace.hidden_shift.copy()
    moved[:, 4:] += np.float32(0.002) * np.arange(1, n + 1, dtype=np.float32)[:, None]
    return trace, replace(trace, run="r" + 16 * "b", hidden_shift=moved)


@pytest.mark.browser
@pytest.mark.slow
def test_the_page_of_a_drift_has_its_map_with_the_onset(tmp_path: Path) -> None:
    trace, moved = drifting()
    found = drift(trace, moved)
    assert found.onset == 4
    run = make_run(n_layers=8)
    file = tmp_path / "d.html"
    write_analysis(file, found.report(), run, [trace])
    place = f"{BOX}('.room hr').top - {BOX}('canvas.cells').top"
    told = act(
        file, "report", tell(place), tell("document.querySelector('.warn').textContent"),
        {"hover": ["canvas.cells", 101, 1]}, {"press": ["canvas.cells", "ArrowRight", 10]}, tell(READ),
        {"go": f"chain/{trace.chain.id}"}, tell("document.querySelectorAll('.room hr').length"),
    )  # fmt: skip
    # layers 4 to 8, six pixels each, lie above the line
    assert abs(told[0] - 5 * 6) < 2.5
    assert told[1] == "┅ drift sets in at layer 4"
    change = abs(float(moved.hidden_shift[20, 8]) - float(trace.hidden_shift[20, 8]))
    assert re.fullmatch(rf"Layer 8 · position 20 .*: {change:.3f} \(1 − cosine\)", told[2])
    assert told[3] == 1, "and the chain's own page too"
    record, _ = contents(file)
    assert record["report"]["layers"]["values"] is not None
    write_analysis(tmp_path / "one.html", drift(trace).report(), run, [trace])
    one = contents(tmp_path / "one.html")[0]["report"]["layers"]
    assert (one["chain"], one["values"]) == (trace.chain.id, None), "what a chain holds is not stored twice"


def test_the_same_drift_under_two_names_is_told_once() -> None:
    first, again = (drift(*drifting()).report() for _ in range(2))
    parts = {"a": first, "b": again, "c": None}
    assert [names for names, _ in Report("all", "two parts", parts=parts).distinct_parts()] == [["a", "b"]]


@pytest.mark.browser
@pytest.mark.slow
def test_the_map_goes_from_match_to_match_and_lists_where_chains_meet(tmp_path: Path) -> None:
    texts = ["a b c d e f x y g h i j k", "q r c d e f s t g h i j w", "c d e f z"]
    traces = []
    for number, text in enumerate(texts):
        words = tuple(f"{word} " for word in text.split())
        traces.append(make_trace(make_chain(str(number), "".join(words)), RUN, words=words, n_steps=2))
    file = tmp_path / "r.html"
    write_report(file, traces, RUN, woven=build(token_corpus(traces)))
    meets = contents(file)[0]["map"]["meets"]
    ids = [t.chain.id for t in traces]
    assert meets[0]["text"] == "c d e f "
    assert [(row["text"], row["n_chains"]) for row in meets] == [("c d e f ", 3), ("g h i j ", 2)], (
        "no state of one chain"
    )
    places = dict(meets[0]["chains"])
    assert [places[name] for name in ids] == [2, 2, 0], "the first token of the stretch"
    info = "document.querySelector('.bar > span.small').textContent"
    told = act(
        file, "map", tell(last("section + section tbody tr", 0, ", 4")),
        {"fill": ["#find", "c d e f"]}, tell(info), tell(STILL),
        {"fill": ["#find", "e"]}, tell(info), {"press": ["#find", "Enter"]}, tell(info), {"click": "#next"}, tell(info),
        {"fill": ["#find", "zzz"]}, tell(info), tell(STILL),
        {"click": "section + section button"}, tell(info),
        {"click": f"section + section a[href='#chain/{ids[1]}/2']"}, tell(ON),
    )  # fmt: skip
    assert told[0][0] == ["c d e f", "4", "3", " ".join(name[:8] for name in places)]
    assert told[1].startswith("1 / 1 state · ")
    assert told[2] is True, "there is no other match"
    count = int(re.match(r"1 / (\d+) states", told[3])[1])  # type: ignore[index]
    assert count > 2
    assert [int(found.split(" /")[0]) for found in told[3:6]] == [1, 2, 3]
    assert told[6] == "0 states"
    assert told[7] is True
    assert told[8] == "1 / 1 state · c d e f  · 3 chains"
    assert told[9] == 2


def test_a_place_where_chains_meet_holds_the_whole_stretch_in_each_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a b c d stands twice in the first chain, and only its second place goes on as in the other
    texts = ["p a b c d q r a b c d e f g s", "t a b c d e f g a b c d u", "k l m n o p1 q1", "k l m n o p2"]
    traces = []
    for number, text in enumerate(texts):
        words = tuple(f"{word} " for word in text.split())
        traces.append(make_trace(make_chain(str(number), "".join(words)), RUN, words=words, n_steps=2))
    file = tmp_path / "r.html"
    write_report(file, traces, RUN, woven=build(token_corpus(traces)))
    record = contents(file)[0]
    pieces = {chain["id"]: chain["pieces"] for chain in record["chains"]}
    meets = record["map"]["meets"]
    assert [row["text"] for row in meets] == ["a b c d e f g ", "k l m n o ", "a b c d "]
    for row in meets:
        assert len(row["chains"]) == row["n_chains"] == 2
        for chain, at in row["chains"]:
            assert "".join(pieces[chain][at : at + row["n_tokens"]]) == row["text"], (row["text"], chain, at)
    assert record["map"]["cut"] is None
    monkeypatch.setattr("trails.report.html.LISTED", 1)
    write_report(tmp_path / "cut.html", traces, RUN, woven=build(token_corpus(traces)))
    cut = contents(tmp_path / "cut.html")[0]["map"]
    assert (len(cut["meets"]), cut["cut"]) == (1, "1 of 3 are listed")


@pytest.mark.browser
@pytest.mark.slow
def test_the_arrow_down_goes_to_the_token_below(tmp_path: Path) -> None:
    words = tuple(f"word{i} " for i in range(120))
    trace = make_trace(make_chain("long", "".join(words)), RUN, words=words)
    file = tmp_path / "r.html"
    write_report(file, [trace], RUN)
    box = f"(b => [{ON}, b.left, b.right, Math.round(b.top)])({BOX}('#strip .on'))"
    told = act(
        file, f"chain/{trace.chain.id}", {"press": ["#strip", "ArrowRight", 6]}, tell(box),
        {"press": ["#strip", "ArrowDown"]}, tell(box), {"press": ["#strip", "ArrowUp"]}, tell(box),
        {"press": ["#strip", "ArrowUp"]}, tell(box), {"press": ["#strip", "End"]}, tell(box), size=[800, 900],
    )  # fmt: skip
    start, down, back, top, end = told
    assert down[0] > start[0] + 3
    assert down[3] > start[3]
    assert down[1] <= start[1] < down[2], "it stands below"
    assert down[3] - start[3] < 40, "in the next line"
    assert back[3] == top[3] == start[3], "from the first line there is no way up"
    assert end[0] == 119


def test_an_arrow_ends_at_the_circle_and_the_picture_fits(tmp_path: Path) -> None:
    roles = [{"role": name, "count": n} for name, n in (("IF", 40), ("THEN", 30), ("BUT", 20), ("SO", 10))]
    pairs = [("IF", "THEN", 30, 12.0), ("THEN", "BUT", 10, 20.0), ("BUT", "BUT", 5, 1.0), ("BUT", "IF", 2, 1.0)]
    follows = [{"from": a, "to": b, "count": n, "expected": e} for a, b, n, e in pairs]
    drawing = roles_drawing(roles, follows)
    circles = [part[1] for part in drawing["parts"] if part[0] == "circle"]
    heads = [part for part in drawing["parts"] if part[1].get("class") == "head"]
    assert len(heads) == 3, "an arrow for each pair of two roles"
    for part, (_, there, *_) in zip(heads, (pairs[0], pairs[1], pairs[3]), strict=True):
        circle = circles[[row["role"] for row in roles].index(there)]
        x, y = map(float, re.match(r"M(\S+) (\S+)L", part[1]["d"]).groups())  # type: ignore[union-attr]
        assert abs(np.hypot(x - circle["cx"], y - circle["cy"]) - circle["r"]) < 1.5, "the head touches the circle"
    pale = [part[1]["fill-opacity"] for part in heads]
    assert pale[0] > pale[1] < pale[2], "pale: not more than if neighbours were independent"
    texts = [part[3] for part in drawing["parts"] if part[0] == "text"]
    assert texts == ["30", "10", "2", "IF 40", "THEN 30", "BUT 20", "SO 10"]
    places = [(p[1]["x"], p[1]["y"]) for p in drawing["parts"] if p[0] == "text"]
    assert all(20 < x < drawing["size"][0] - 20 and 10 < y < drawing["size"][1] for x, y in places)


def test_a_bar_of_the_histogram_has_the_height_that_its_axis_says() -> None:
    edges, counts = [0.0, 1.0, 2.0, 8.0], [2_000, 500, 0]
    drawing = histogram_drawing(edges, counts, 6.0, float("nan"))
    bars = [part for part in drawing["parts"] if part[0] == "rect"]
    marks = {
        part[3]: part[1]["y"] - 4 for part in drawing["parts"] if part[0] == "text" and part[1]["text-anchor"] == "end"
    }
    for count, bar in zip(counts, bars, strict=True):
        share = (marks["0"] - bar[1]["y"]) / (marks["0"] - marks["2,000"])
        assert abs(share - count / 2_000) < 0.01
        assert bar[1]["y"] + bar[1]["height"] == pytest.approx(marks["0"], abs=0.2)
    assert [bar[3] for bar in bars] == ["0.0–1.0: 2,000", "1.0–2.0: 500", "2.0–8.0: 0"]
    assert [part[3] for part in drawing["parts"] if part[2] == "uniform"] == ["6.000"]
    assert not [part for part in drawing["parts"] if part[2] == "average"], "no line for what is not known"


@pytest.mark.browser
@pytest.mark.slow
def test_a_russian_page_parts_thousands_by_a_blank(tmp_path: Path) -> None:
    assert filled("# [токен|токена|токенов]", ["1,234,567"]) == "1\u00a0234\u00a0567 токенов"
    assert "".join(part for part, _ in in_russian("12,345")) == "12\u00a0345"
    assert in_russian("trails overlaps --limit 1,000") == [("trails overlaps --limit 1,000", True)]
    file = tmp_path / "r.html"
    words = tuple(f"w{i} " for i in range(1_100))
    trace = make_trace(make_chain("long", "".join(words)), RUN, words=words)
    write_report(file, [trace], RUN, left_out=["All 12,345 chains are counted on the page of the corpus; the first 1,000, in "
        "the order of trails chains, are drawn. Others are drawn by a selection: trails report source:NAME, roles:IF>THEN or "
        "selected:NAME (trails select chooses)."])  # fmt: skip
    for locale, parted in (("ru-RU", ("1\u00a0100", "12\u00a0345")), ("en-GB", ("1,100", "12,345"))):
        (text,) = act(file, "corpus", tell("document.querySelector('main').textContent"), locale=locale)
        assert all(number in text for number in parted), locale


def test_every_way_to_score_a_seam_has_a_russian_name() -> None:
    lacking = [score.name for score in SEAM_SCORES if score.name not in sentences()]
    assert lacking == []


@pytest.mark.browser
@pytest.mark.slow
def test_a_finger_drags_the_map_and_not_the_page(tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    traces = corpus(6, RUN)
    write_report(file, traces, RUN, woven=build(token_corpus(traces)))
    drawn = """(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]
      .reduce((sum, v, i) => (31 * sum + (i % 97 ? 0 : v)) % 1000003, 0))(document.querySelectorAll('.mapbox canvas')[1])"""
    drag = {"drag": [".mapbox", 60, -200]}
    before, after, scrolled = act(
        file, "map", tell(drawn), drag, tell(drawn), tell("scrollY"), size=[800, 900], touch=True
    )
    assert before != after
    assert scrolled == 0


def test_blanks_go_where_they_part_nothing_and_stay_in_texts_and_between_words() -> None:
    code = (
        'const a = `x = ${b ? `{ ${c + 1} }` : " = "} ;`, r = /[ /] + "/ , s = \'a  b\';\nreturn a + +b - -c / d / e;\n'
    )
    squeezed = _squeezed(code)
    assert squeezed == 'const a=`x = ${b?`{ ${c+1} }`:" = "} ;`,r=/[ /] + "/,s=\'a  b\';\nreturn a+ +b- -c/d/e;\n'
    assert _squeezed("if (a) { b(`;}`); c = { d: 1 }; }\n") == "if(a){b(`;}`);c={d:1}}\n", (
        "the last one needs no semicolon"
    )
    for views in (("corpus", "map"), ("corpus",), ("report",), ("report", "drawn"), ("report", "map")):
        done = subprocess.run(
            ["node", "--check", "-"], input=script(views), text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("half", ["chain/%E0%A4%A", "%", "map/%"])
def test_a_link_that_was_cut_off_opens_the_first_page(tmp_path: Path, half: str) -> None:
    file = tmp_path / "r.html"
    traces = [make_trace(number, RUN) for number in range(2)]
    write_report(file, traces, RUN)
    here = tell("document.querySelector('nav [aria-current=page]').textContent")
    before, _, after = act(file, f"chain/{traces[1].chain.id}", here, tell(f"location.hash = '#{half}'"), here)
    assert (before, after) == ("Chains", "Corpus")
