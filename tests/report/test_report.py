"""The offline report shows what is stored, runs nothing of it, asks for nothing, and says what it leaves out."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import subprocess
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.browser.test_neo4j_browser import playwright
from tests.store.factory import corpus, make_chain, make_run, make_trace

from trails.analyses.report import Report
from trails.analyses.score import Control, Score
from trails.analyses.sequences import token_corpus
from trails.analyses.statemap import build
from trails.errors import UsageError
from trails.report import html
from trails.report.analysis import write_analysis
from trails.report.html import Found, map_layout, write_report
from trails.report.svg import ENDS, chain_svg, scale_ends
from trails.report.terminal import control_line, gradient_control, step_links
from trails.report.words import filled, in_russian
from trails.schema import Run, Step, Trace

MEASURES = ("surprisal", "entropy", "rank", "logit_shift", "attention_shift", "hidden_shift")
RUN = make_run()


def look(file: Path, script: str = "report.mjs", **plan: Any) -> dict[str, Any]:
    """What a real browser shows of a report."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "headless Chromium is needed: apt-get install chromium"
    path = file.with_suffix(".plan.json")
    path.write_text(json.dumps({"file": str(file), "chromium": chromium, "library": str(playwright()), **plan}))
    file_of = Path(__file__).with_name(script)
    done = subprocess.run(["node", str(file_of), str(path)], capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def read_back(file: Path) -> tuple[dict[str, Any], bytes]:
    """Record and numbers of a report, read without its script."""
    data = re.search(r'<script type="text/plain" id="data">([^<]*)</script>', file.read_text(encoding="utf-8"))
    assert data
    raw = zlib.decompress(base64.b64decode(data.group(1)))
    size = int.from_bytes(raw[:4], "little")
    return json.loads(raw[4 : 4 + size]), raw[4 + size :]


def contents(file: Path) -> tuple[dict[str, Any], bytes]:
    """Record and numbers of a report that names no folder of this machine: every page that a test reads is held to that."""
    assert folders_named(file) == []
    return read_back(file)


def folders_named(file: Path) -> list[str]:
    """Folders of this machine that a page names anywhere: those of the user, of temporary files, of the page and of work."""
    page = file.read_text(encoding="utf-8") + json.dumps(read_back(file)[0], ensure_ascii=False)
    places = {str(one) for one in (file.parent, Path.home(), Path.cwd(), tempfile.gettempdir())}
    return sorted(place for place in places if re.search(rf"(?<![\w.]){re.escape(place)}\b", page))


def values(record: dict[str, Any], numbers: bytes, reference: list[int]) -> np.ndarray[Any, Any]:
    """The array that a reference of the record names, flat; of rows their rows one after another."""
    stream, first, size = reference
    kind, at, length, width = record["streams"][stream]
    if kind in "fis":
        found = np.frombuffer(numbers, {"f": "<f4"}.get(kind, "<i4"), length, at)[first : first + size]
        return np.cumsum(found) if kind == "s" else found
    low, high = np.frombuffer(numbers, np.uint8, 2 * length, at).reshape(2, length).astype(int)
    whole = low + 256 * high
    if kind == "d":
        rows = whole.reshape(width, -1).T.reshape(-1)[first : first + size].reshape(-1, width)
        signed = np.where(rows & 1, -(rows + 1) // 2, rows // 2)
        whole = np.cumsum(signed, axis=1).reshape(-1) % 65_536
    else:
        whole = whole[first : first + size]
    return np.where(whole == 65_535, np.nan, whole / 1000)


def stored(trace: Trace, measure: str) -> np.ndarray[Any, Any]:
    values = np.asarray(getattr(trace, measure), np.float64)
    if values.ndim == 2:
        values = np.rint(values * 1000) / 1000
        values = (values[:, 1:] if measure == "hidden_shift" else values).mean(axis=1)
    return np.where(values < 0, np.nan, values) if measure == "rank" else values


def _percent(log_probability: float) -> str:
    """A probability as the panel of a token writes it: what is above 0 is not shown as 0."""
    share = 100 * math.exp(log_probability)
    return "< 0.01 %" if share < 0.005 else f"{share:.2f} %"


@pytest.mark.browser
@pytest.mark.slow
def test_every_number_shown_is_the_stored_one(tmp_path: Path) -> None:
    traces = corpus(6, RUN)
    hard = traces[0].surprisal.copy()
    hard[1] = 15.5
    traces[0] = replace(traces[0], surprisal=hard)
    worth = "not beyond chance: AUC 0.812 (0.581 to 0.841), position alone 0.551 (0.388 to 0.609)"
    gap = {"step": 1, "rank": 0, "score": 0.875, "control_auc": 0.8123, "baseline_auc": 0.5511, "worth": worth}
    overlap = {
        **{"id": "o1", "kind": "exact", "text": "so", "n_tokens": 12, "n_chains": 2, "excess": -0.25, "control": 0.3},
        **{"control_name": "order-2 Markov resample", "first": 0, "stop": 3},
    }
    found = Found({traces[1].chain.id: [gap]}, {traces[n].chain.id: [overlap, overlap] for n in (1, 2)})
    file = tmp_path / "r.html"
    write_report(file, traces, RUN, found=found, woven=build(token_corpus(traces)), title="all <of> it")
    seen = look(file, chains=[t.chain.id for t in traces], measures=list(MEASURES), map=True)
    assert (seen["requests"], seen["console"], seen["dialogs"]) == ([], [], [])
    for trace in traces:
        shown = seen["chains"][trace.chain.id]
        for measure in MEASURES:
            assert len(shown["measures"][measure]) == trace.n_tokens
            values = np.array([math.nan if v[0] == "NaN" else float(v[0]) for v in shown["measures"][measure]])
            exact = measure in ("surprisal", "entropy", "rank", "logit_shift")
            np.testing.assert_allclose(
                values, stored(trace, measure), rtol=0, atol=0 if exact else 1e-6, err_msg=measure
            )
        for index, row in enumerate(shown["steps"]):
            step, (first, last) = trace.steps[index], trace.step_tokens[index]
            assert row[0] == str(index)
            assert row[1] == step.role.value
            assert row[3] == f"{np.nanmean(trace.surprisal[first:last].astype(np.float64)):.3f}"
        for index in range(min(3, trace.n_tokens)):
            detail = dict(shown["detail"][str(index)])
            value = trace.surprisal[index]
            assert detail["surprisal"] == (f"{value:.4f}" if np.isfinite(value) else "–")
            assert {
                "attention shift, mean of layers, total variation, 0 to 1",
                "hidden shift, mean of layers, 1 − cosine",
            } <= set(shown["named"][str(index)])
            assert "surprisal, nats" in shown["named"][str(index)]
            if np.isfinite(value):
                assert detail[""] == _percent(-value), "the probability of the token itself"
            assert detail["entropy"] == f"{trace.entropy[index]:.4f}"
            assert detail["rank"] == str(trace.rank[index])
            expected = []
            if trace.top_id is not None:
                assert detail["margin"] == f"{trace.margin[index]:.4f}"
                texts = trace.top_texts()
                for item, log_p in zip(trace.top_id[index], trace.top_log_probability[index], strict=True):
                    expected += [re.sub("^ ", "␣", texts[int(item)]), _percent(log_p)]
            assert shown["alternatives"][str(index)] == expected
    assert dict(seen["chains"][traces[0].chain.id]["detail"]["1"])[""] == "< 0.01 %"
    told = "of earlier steps, this step's tokens look most at step"
    for chain, trace in zip(contents(file)[0]["chains"], traces, strict=True):
        links = [link for link in step_links(trace, 10_000) if link.later == len(trace.steps) - 1]
        panel = seen["chains"][chain["id"]]["looks"]
        assert (told in panel) == bool(links)
        if links:
            most = max(links, key=lambda link: link.mass)
            assert f"{told} {most.earlier}: mean {most.mass:.4f} (an even spread {most.even:.4f})" in panel
    marked = seen["chains"][traces[1].chain.id]["steps"][1][2]
    assert "rank among all seams (0 to 1, one always has 1) 0.875" in marked
    assert gap["worth"] in marked, "the verdict and both intervals"
    assert gap["worth"] in seen["corpus"]
    mark = seen["chains"][traces[1].chain.id]["steps"][0][2]
    said = "exact repeat of 12 tokens in 2 chains; coverage of this kind 0.250 below its control"
    assert f"⟷ {said} · {traces[2].chain.id}" in mark
    assert "exact: 1 of 1 text is held by these chains" in seen["corpus"]
    assert "coverage 0.050, order-2 Markov resample 0.300; 0.250 below its control" in seen["corpus"]
    assert [href for text, href in seen["links"] if text == traces[1].chain.id[:8]] == [
        f"#chain/{traces[1].chain.id}"
    ], "two places in a chain are one link"
    mean = np.nanmean(np.concatenate([t.surprisal for t in traces]).astype(np.float64))
    assert f"{mean:.3f}" in seen["corpus"]
    assert f"{math.log(100):.3f}" in seen["corpus"], "the uniform guess stands beside the surprisal"
    assert seen["title"] == "all <of> it"
    assert "fitness" in seen["map"]
    assert seen["mapPixels"] != 0


def test_a_step_looks_most_at_the_one_with_the_largest_mass_also_below_an_even_spread(tmp_path: Path) -> None:
    traces = [make_trace(number, RUN, n_steps=6) for number in range(8)]
    write_report(tmp_path / "r.html", traces, RUN)
    by_mass = below = 0
    for trace, chain in zip(traces, contents(tmp_path / "r.html")[0]["chains"], strict=True):
        links = step_links(trace, 10_000)
        assert set(chain["looks"]) == {str(link.later) for link in links}
        for later, (earlier, mass, even) in chain["looks"].items():
            mine = [link for link in links if link.later == int(later)]
            most = max(mine, key=lambda link: link.mass)
            assert [earlier, mass, even] == [most.earlier, round(most.mass, 6), round(most.even, 6)]
            by_mass += earlier != mine[0].earlier
            below += mass < even
    assert by_mass, "the largest mass is not always the largest beside an even spread"
    assert below, "it is told where there is no arc, too"


# ruff: noqa: E501
HOSTILE = [
    "<script>window.__hit=1</script>", "</script><script>window.__hit=2</script>", "<img src=x onerror=window.__hit=3>",
    "<svg onload=window.__hit=4>", '"><iframe src=javascript:parent.__hit=5>', "javascript:window.__hit=6",
    "<!--<script>", "-->", "]]>", "&lt;script&gt;", "&#60;script&#62;", "\u2028window.__hit=7\u2029", "@@DATA@@", "@@SCRIPT@@",
    "{{constructor.constructor('window.__hit=8')()}}", "${window.__hit=9}", "<base href=http://x.invalid/>",
    "<link rel=stylesheet href=http://x.invalid/a.css>", "<meta http-equiv=refresh content=0;url=http://x.invalid>",
    "<a href=http://x.invalid>x</a>", "url(http://x.invalid/i.png)", "<style>@import 'http://x.invalid'</style>",
    "<form action=http://x.invalid><input>", "<object data=http://x.invalid>", "<embed src=http://x.invalid>",
    "\x1b]52;c;aGk=\x07", "\u202egnp.exe", "\u2066x\u2069", "\x00\x01\x02", "\x85\x9b31m", "𝕏🙂👩‍👩‍👧", "a\u0301\u0300", "İıſK",
    "__proto__", "constructor", "toString", "hasOwnProperty", "'; DROP TABLE chains; --", "%3Cscript%3E", "\\u003cscript\\u003e",
    "<math><mi//xlink:href='data:x,<script>window.__hit=10</script>'>", "<noscript><p title='</noscript><img src=x onerror=window.__hit=11>'>",
    "<textarea></textarea><script>window.__hit=12</script>", "<title></title><script>window.__hit=13</script>",
]  # fmt: skip


@pytest.mark.browser
@pytest.mark.slow
def test_no_text_of_a_chain_runs_or_asks_for_anything(tmp_path: Path) -> None:
    traces = []
    for number, text in enumerate(HOSTILE):
        chain = replace(
            make_chain(f"{text}{number}", f"If {text} then {text}.", source=text), question=text, answer=text
        )
        traces.append(make_trace(chain, RUN, n_steps=2))
    rows = {
        **{
            "id": "o",
            "kind": "exact",
            "n_tokens": 3,
            "n_chains": 2,
            "excess": 0.1,
            "control": 0.2,
            "first": 0,
            "stop": 1,
        },
        **{"text": "<img src=x onerror=window.__hit=20>", "control_name": "<script>window.__hit=21</script>"},
    }
    overlaps = {t.chain.id: [{**rows, "id": t.chain.source}] for t in traces}
    run = replace(RUN, model="<script>window.__hit=22</script>")
    traces = [replace(t, run=run.id) for t in traces]
    file = tmp_path / "r.html"
    write_report(
        file, traces, run, found=Found({}, overlaps), woven=build(token_corpus(traces)),
        title=HOSTILE[1], subtitle=HOSTILE[2], left_out=HOSTILE[:4],
    )  # fmt: skip
    assert len(HOSTILE) * 5 >= 120, "strings in text, question, answer, source and record"
    seen = look(file, chains=[t.chain.id for t in traces], map=True, find="<img")
    assert (seen["hits"], seen["requests"], seen["console"], seen["dialogs"]) == (0, [], [], [])
    for trace in traces:
        shown = "".join(piece for _, piece in seen["chains"][trace.chain.id]["measures"]["surprisal"])
        assert shown == _visible(trace.chain.text), trace.chain.source
    assert re.match(r"1 / [1-9]\d* states? · ", seen["found"]), "a search says how many states it found"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", seen["corpus"])


def _visible(text: str) -> str:
    return re.sub(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", lambda m: f"‹U+{ord(m[0]):04X}›", text
    )


@pytest.mark.browser
@pytest.mark.slow
def test_a_long_chain_keeps_few_live_tokens_and_a_matrix_for_arcs(tmp_path: Path) -> None:
    text = "".join(f"w{i:04} " for i in range(3000))
    trace = make_trace(make_chain("long", text), RUN, n_steps=60, words=tuple(f"w{i:04} " for i in range(3000)))
    file = tmp_path / "r.html"
    written = write_report(file, [trace], RUN)
    assert any("more than 40 steps" in note for note in written.left_out)
    seen = look(file, chains=[trace.chain.id])
    shown = seen["chains"][trace.chain.id]
    assert len(shown["measures"]["surprisal"]) == 3000, "walking through the strip shows every token"
    assert shown["live"] <= 500
    assert shown["arcs"] == 0
    assert seen["console"] == []


@pytest.mark.browser
@pytest.mark.slow
def test_two_runs_are_compared_token_by_token(tmp_path: Path) -> None:
    other = make_run("after")
    before, after = make_trace(0, RUN, alternatives=True), make_trace(0, other)
    after = replace(after, token_ids=before.token_ids)
    file = tmp_path / "r.html"
    write_report(file, [before], RUN, after={before.chain.id: after})
    shown = look(file, chains=[before.chain.id], measures=["change"])["chains"][before.chain.id]
    assert shown["first"] == "change", "what was asked for is seen first"
    assert "The model expected (before)" in shown["looks"], "they are of the first run alone"
    values = np.array([float(v[0]) for v in shown["measures"]["change"]], np.float32)
    np.testing.assert_array_equal(values, after.surprisal - before.surprisal)
    with pytest.raises(UsageError, match="other tokens in run"):
        write_report(
            tmp_path / "x.html", [before], RUN, after={before.chain.id: replace(after, token_ids=after.token_ids + 1)}
        )


@pytest.mark.browser
@pytest.mark.slow
def test_the_control_of_a_layer_is_that_of_the_layer_and_the_mean_is_reached_again(tmp_path: Path) -> None:
    trace = corpus(1, RUN)[0]
    file = tmp_path / "r.html"
    write_report(file, [trace], RUN)
    last = RUN.n_layers
    moves = [
        *[["hidden_shift", None, False], ["hidden_shift", 0, False], ["hidden_shift", last, False]],
        *[["hidden_shift", last, True], ["hidden_shift", -1, True], ["hidden_shift", 0, False]],
        *[["attention_shift", None, False], ["attention_shift", 1, False], ["attention_shift", 0, False]],
    ]
    seen = look(file, "layers.mjs", id=trace.chain.id, moves=moves)
    assert seen["console"] == []
    baseline = trace.hidden_baseline.astype(np.float64)
    hidden, drawn = np.rint(trace.hidden_shift.astype(np.float64) * 1000) / 1000, trace.attention_shift
    mean = baseline[1:].mean()
    assert min(abs(mean - baseline[layer]) for layer in (0, last)) > 1e-3, "a wrong control would be seen"
    pairs = "random pairs of positions of this chain: "
    wanted: list[tuple[str, str, Any]] = [
        ("mean of layers", f"{pairs}{mean:.4f} ·", hidden[:, 1:].mean(1)),
        ("0", f"{pairs}{baseline[0]:.4f} ·", hidden[:, 0]),
        (str(last), f"{pairs}{baseline[last]:.4f} ·", hidden[:, last]),
        (str(last), f"{pairs}{baseline[last]:.4f}, already subtracted ·", hidden[:, last] - baseline[last]),
        ("mean of layers", f"{pairs}{mean:.4f}, already subtracted ·", hidden[:, 1:].mean(1) - mean),
        ("0", f"{pairs}{baseline[0]:.4f} ·", hidden[:, 0]),
        ("mean of layers", "identical distributions: 0.0000 ·", drawn.mean(1)),
        ("1", "identical distributions: 0.0000 ·", drawn[:, 0]),
        ("mean of layers", "identical distributions: 0.0000 ·", drawn.mean(1)),
    ]
    for move, (shown, control, values), one in zip(moves, wanted, seen["moves"], strict=True):
        assert one["shown"] == f"Layer{shown}", move
        assert control in one["note"], move
        first = -1 if move[0] == "hidden_shift" else 0
        at = str(first) if shown.startswith("mean") else shown
        assert one["at"] == [str(first), str(last), "1", at], move
        painted = np.array([np.nan if value is None else value for value in one["values"]], np.float64)
        np.testing.assert_allclose(painted, values, atol=6e-4, err_msg=str(move))


def with_map(n_tokens: int = 40) -> Trace:
    """A trace that keeps a map: the sizes of its effect are those of the changes, its signs and its norm are not."""
    words = tuple(f"w{i:03} " for i in range(n_tokens))
    trace = make_trace(make_chain("map", "".join(words)), RUN, n_steps=2, words=words)
    size = np.linspace(0.5, 2.0, n_tokens, dtype=np.float32)
    replaced = np.arange(1, 17, dtype=np.int32)
    kept = {
        "gradient_effect": size * np.where(np.arange(n_tokens) % 2, 1, -1).astype(np.float32),
        "gradient_norm": size[::-1].copy(),
        "gradient_target": np.array([0, n_tokens - 4, n_tokens], np.int32),
        "gradient_replaced": replaced,
        "gradient_change": size[replaced],
    }
    return replace(trace, more={**trace.more, **kept})


def test_the_effect_is_judged_in_size_and_in_sign_and_the_norm_by_its_own_correlation(tmp_path: Path) -> None:
    trace = with_map()
    write_report(tmp_path / "r.html", [trace], RUN)
    controls = contents(tmp_path / "r.html")[0]["chains"][0]["controls"]
    effect, norm = (controls[f"gradient_{name}"]["name"] for name in ("effect", "norm"))
    shuffled = r"shuffled up to \d\.\d\d"
    wanted = (
        rf"target conclusion; agrees in size with what replacing 16 tokens does: rank correlation 1\.00, {shuffled}; "
    )
    wanted += rf"not shown to agree in sign: rank correlation -?\d\.\d\d, {shuffled}"
    assert re.fullmatch(wanted, effect), effect
    assert "in size with what replacing 16 tokens does: rank correlation -1.00" in norm
    assert norm.startswith("target conclusion; not shown to agree in size")
    assert "in sign" not in norm
    assert f"({effect.removeprefix('target conclusion; ')})" in control_line(trace, RUN, "gradient_effect", None)
    for text in (effect, norm):
        assert all(known for _, known in in_russian(text)), text
    few = replace(trace, more={**trace.more, "gradient_replaced": np.arange(1, 4), "gradient_change": np.ones(3)})
    told = gradient_control(few)
    assert told == "not judged: too few tokens before the target were replaced"
    assert all(known for _, known in in_russian(told))


@pytest.mark.browser
@pytest.mark.slow
def test_a_map_is_offered_once_on_the_page_of_an_analysis_and_the_norm_has_its_unit(tmp_path: Path) -> None:
    trace = with_map()
    other = {f"gradient {name}": np.linspace(-3, 3, trace.n_tokens, dtype=np.float32) for name in ("effect", "norm")}
    write_analysis(tmp_path / "a.html", Report("gradient", "agrees", maps={trace.chain.id: other}), RUN, [trace])
    seen = look(tmp_path / "a.html", "layers.mjs", id=trace.chain.id, moves=[["gradient effect", None, False]])
    assert [option for option in seen["options"] if "gradient" in option] == list(other)
    assert seen["moves"][0]["values"][0] == -3, "of the analysis, not the kept one"
    write_report(tmp_path / "r.html", [trace], RUN)
    moves = [["gradient_norm", None, False], ["gradient_effect", None, False]]
    norm, effect = look(tmp_path / "r.html", "layers.mjs", id=trace.chain.id, moves=moves)["moves"]
    assert "nats per unit of embedding" in norm["legend"]
    assert "rank correlation -1.00" in norm["note"]
    assert "rank correlation 1.00" in effect["note"]


@pytest.mark.browser
@pytest.mark.slow
def test_the_page_and_the_picture_end_their_colours_at_the_same_labelled_value(tmp_path: Path) -> None:
    trace = with_map(97)
    rng = np.random.default_rng(3)
    ranks = rng.integers(0, 90, trace.n_tokens).astype(np.int32)
    trace = replace(trace, surprisal=rng.gamma(2.0, 1.5, trace.n_tokens).astype(np.float32), rank=ranks)
    write_report(tmp_path / "r.html", [trace], RUN)
    measures = ["surprisal", "rank", "gradient_effect"]
    moves = [[measure, None, False] for measure in measures]
    seen = look(tmp_path / "r.html", "layers.mjs", id=trace.chain.id, moves=moves)
    for measure, one in zip(measures, seen["moves"], strict=True):
        values = np.asarray(trace.array(measure))
        low, high = scale_ends(values, signed=measure == "gradient_effect")
        assert high in np.abs(values), "a value of a token"
        sizes = np.abs(values) if measure == "gradient_effect" else values
        assert 0.98 <= (sizes <= high).mean() < 1, measure
        places = 0 if measure == "rank" else 3
        ends = [f"{low:.{places}f}", f"{high:.{places}f}"]
        assert one["legend"].startswith(f"{ends[0]}{ends[1]} "), measure
        assert ENDS in one["bar"], "what the end is"
        drawn = chain_svg(trace, RUN, measure=measure)
        assert f">{ends[0]}</text>" in drawn
        assert re.search(rf">{re.escape(ends[1])} [^<]*\({re.escape(ENDS)}\)</text>", drawn), measure
    assert scale_ends(np.full(3, np.nan, np.float32)) == (0.0, 0.0)


def test_the_policy_allows_the_packaged_script_and_style_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    write_report(file, corpus(2, RUN), RUN)
    text = file.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    rules = dict(part.strip().split(" ", 1) for part in policy.group(1).split(";"))
    assert rules["default-src"] == rules["connect-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]{44}'", rules["script-src"])
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]{44}'", rules["style-src"])
    assert "unsafe" not in policy.group(1)
    outside = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text))
    assert outside <= {"http://www.w3.org"}, "the name space of SVG is no address that is asked"


def test_of_chains_outside_the_report_only_their_number_is_in_it(tmp_path: Path) -> None:
    inside, outside = corpus(6, RUN)[:2], corpus(6, RUN)[2:]
    a, b, c, d = (trace.chain.id for trace in (*inside, *outside[:2]))
    gap = {"step": 1, "rank": 0, "score": 0.5, "control_auc": 0.8, "baseline_auc": 0.5}
    worse = {**gap, "score": 0.9}

    def row(name: str, kind: str, excess: float | None, at: int = 0) -> dict[str, Any]:
        control = None if excess is None else 0.3
        named = {"id": name, "kind": kind, "text": "SECRET of another chain", "n_tokens": 4, "n_chains": 3}
        return {**named, "excess": excess, "control": control, "control_name": "order-2 Markov resample"} | {
            "first": at,
            "stop": at + 2,
        }

    overlaps = {
        a: [row("o1", "masked", 0.125), row("o1", "masked", 0.125, 3), row("o2", "exact", -0.25)],
        b: [row("o1", "masked", 0.125, 1)],
        c: [row("o1", "masked", 0.125), row("o2", "exact", -0.25), row("o3", "exact", -0.25)],
        d: [row("o2", "exact", -0.25), row("o3", "exact", -0.25)],
    }
    write_report(tmp_path / "r.html", inside, RUN, found=Found({a: [gap], c: [worse], d: [worse, worse]}, overlaps))
    record, _ = contents(tmp_path / "r.html")
    told = json.dumps({name: record[name] for name in ("corpus", "chains")})
    assert "SECRET" not in told
    assert not [trace.chain.id for trace in outside if trace.chain.id in told]
    found = record["corpus"]
    assert found["seams"] == ["1 of 4 seams is of these chains", html._worth(gap), html.RANKED]
    assert [row["chain"] for row in found["gaps"]] == [a]
    assert found["shared"] == [
        "exact: 1 of 2 texts is held by these chains; coverage 0.050, order-2 Markov resample 0.300; 0.250 below its control",
        "masked: 1 of 1 text is held by these chains; coverage 0.425, order-2 Markov resample 0.300; 0.125 above its control",
    ]
    pieces = record["chains"][0]["pieces"]
    shown = [(row["kind"], row["text"], row["n_chains"], row["chains"]) for row in found["overlaps"]]
    text = "".join(pieces[:2])
    assert shown == [("exact", text, 3, [a]), ("masked", text, 3, [a, b])], "the text is that of the chain linked first"
    marks = [(row["said"], [other for other, _ in row["others"]]) for row in record["chains"][0]["overlaps"]]
    masked = "masked repeat of 4 symbols in 3 chains; coverage of this kind 0.125 above its control"
    exact = "exact repeat of 4 tokens in 3 chains; coverage of this kind 0.250 below its control"
    assert marks == [(masked, [b]), (masked, [b]), (exact, [])]


def test_a_mark_of_a_gap_carries_verdict_and_intervals(tmp_path: Path) -> None:
    (trace,) = corpus(1, RUN)
    worth = "not beyond chance: AUC 0.723 (0.581 to 0.841), position alone 0.497 (0.388 to 0.609)"
    rows = [{"step": n, "rank": n, "score": 1 - n / 2, "control_auc": 0.723, "baseline_auc": 0.497} for n in (0, 1)]
    for name, of, told in (
        ("new", [{**row, "worth": worth} for row in rows], worth),
        (
            "old",
            rows,
            "AUC 0.723, position alone 0.497; the graph holds no interval of them, so no verdict. Run: trails gaps",
        ),
    ):
        write_report(tmp_path / f"{name}.html", [trace], RUN, found=Found({trace.chain.id: of}, {}))
        record, _ = contents(tmp_path / f"{name}.html")
        assert record["chains"][0]["gaps"] == [{"step": 0, "score": 1.0, "worth": told}], "one mark a chain"
        assert record["corpus"]["seams"][1:] == [told, html.RANKED]
        assert "one seam always has 1" in html.RANKED
        for text in (told, html.RANKED):
            assert all(known for _, known in in_russian(text)), text


def test_the_head_of_a_map_has_its_intervals_and_a_verdict() -> None:
    for interval, reach, told in (
        (
            (0.5, 0.7),
            (0.1, 0.3),
            "(0.500 to 0.700) share of held-out transitions, held-out tokens shuffled 0.200 (0.100 to",
        ),
        ((0.2, 0.7), (0.1, 0.3), "not beyond chance"),
        (None, (0.1, 0.3), "0.300); above its control; too few held-out chains for an interval"),
        (None, None, "held-out tokens shuffled 0.200; above its control; too few held-out chains for an interval"),
        (None, (0.1, 0.7), "; not above its control; too few held-out chains for an interval"),
    ):
        control = Control("held-out tokens shuffled", 0.2, reach)
        said = html._beside_control(Score("fitness", 0.6, "share of held-out transitions", (control,), interval))
        assert told in said
        assert said.endswith("; beyond chance") == (interval == (0.5, 0.7))
        assert all(known for _, known in in_russian(said)), said


def test_a_comparison_says_what_is_of_the_first_run_alone(tmp_path: Path) -> None:
    traces = corpus(2, RUN)
    write_report(tmp_path / "one.html", traces, RUN)
    assert "first run alone" not in str(contents(tmp_path / "one.html")[0]["left_out"])
    second = f"r{'1' * 16}"
    write_report(tmp_path / "two.html", traces, RUN, after={t.chain.id: replace(t, run=second) for t in traces})
    (told,) = [note for note in contents(tmp_path / "two.html")[0]["left_out"] if "first run alone" in note]
    assert told.endswith(f"trails diff {RUN.id} {second}")
    assert all(known for _, known in in_russian(told.replace(RUN.id, second)))


def test_a_list_that_is_cut_says_of_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "LISTED", 2)
    (trace,) = corpus(1, RUN)
    rows = [{"step": n, "rank": n, "score": 1 / (1 + n), "control_auc": 0.8, "baseline_auc": 0.5} for n in range(3)]
    one = {"kind": "exact", "n_tokens": 4, "n_chains": 2, "excess": None, "control": None, "control_name": None}
    shared = [{**one, "id": f"o{n}", "first": 0, "stop": 1} for n in range(3)]
    found = Found({trace.chain.id: rows, "outside": rows}, {trace.chain.id: shared})
    write_report(tmp_path / "r.html", [trace], RUN, found=found)
    said = contents(tmp_path / "r.html")[0]["corpus"]
    assert said["seams"][0] == "3 of 6 seams are of these chains; 2 of 3 are listed"
    assert said["shared"] == [
        "exact: 3 of 3 texts are held by these chains; 2 of 3 are listed; too few chains for a control"
    ]
    assert [len(said[name]) for name in ("gaps", "overlaps")] == [2, 2]
    for text in (*said["seams"], *said["shared"]):
        assert all(known for _, known in in_russian(text)), text


def test_the_record_and_the_numbers_read_back(tmp_path: Path) -> None:
    traces = corpus(6, RUN)
    file = tmp_path / "r.html"
    written = write_report(file, traces, RUN)
    record, numbers = contents(file)
    assert (written.n_chains, written.n_tokens, written.n_bytes) == (
        6,
        sum(t.n_tokens for t in traces),
        file.stat().st_size,
    )
    for trace, chain in zip(traces, record["chains"], strict=True):
        held = {name: values(record, numbers, reference) for name, reference in chain["arrays"].items()}
        for name in ("surprisal", "entropy", "logit_shift", "rank", "token_ids", "margin", "hidden_baseline"):
            if (stored_values := trace.array(name)) is not None:
                np.testing.assert_array_equal(held[name], stored_values, err_msg=name)
        for name in ("attention_shift", "hidden_shift"):
            np.testing.assert_allclose(held[name], trace.array(name).ravel(), atol=0.0005001)
        assert (chain["text"] or "".join(chain["pieces"])) == trace.chain.text
        units = trace.chain.text.encode("utf-16-le")
        parts = [units[2 * s["start"] : 2 * s["end"]].decode("utf-16-le") for s in chain["steps"]]
        assert parts == [trace.chain.text[s.start : s.end] for s in trace.steps]
    pairs = {(f["from"], f["to"]): f for f in record["corpus"]["follows"]}
    total = sum(f["count"] for f in pairs.values())
    assert total == sum(len(t.steps) - 1 for t in traces)
    for (a, b), row in pairs.items():
        expected = sum(f["count"] for f in pairs.values() if f["from"] == a)
        expected *= sum(f["count"] for f in pairs.values() if f["to"] == b) / total
        assert row["expected"] == pytest.approx(expected)
    defined = sum(int(np.isfinite(t.surprisal).sum()) for t in traces)
    assert sum(record["corpus"]["histogram"]["counts"]) == defined


def test_a_reader_without_scripts_gets_the_main_numbers(tmp_path: Path) -> None:
    trace = make_trace(make_chain("<b>1</b>", source="<i>"), RUN)
    file = tmp_path / "r.html"
    write_report(file, [trace], RUN)
    fallback = re.search(r"<noscript>(.*)</noscript>", file.read_text(encoding="utf-8"), re.DOTALL)
    assert fallback
    assert trace.chain.id in fallback.group(1)
    assert f"{trace.surprisal.astype(np.float64).mean():.4f}" in fallback.group(1)
    assert f": 1 chain, {trace.n_tokens} tokens, mean surprisal" in fallback.group(1)
    assert "&lt;i&gt;" in fallback.group(1)
    assert "<i>" not in fallback.group(1)
    assert '<p lang="ru">Эту страницу рисует скрипт' in fallback.group(1)
    assert (
        f"1 цепочка, {filled('# [токен|токена|токенов]', [str(trace.n_tokens)])}, средняя неожиданность"
        in fallback.group(1)
    )
    for russian in ("цепочка", "источник", "токенов", "неожиданность, нат"):
        assert f'<span lang="ru">{russian}</span></th>' in fallback.group(1)


def test_what_cannot_be_written_is_one_message_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "r.html"
    with pytest.raises(UsageError, match="no chain is selected"):
        write_report(file, [], RUN)
    write_report(file, corpus(1, RUN), RUN)
    with pytest.raises(UsageError, match="exists"):
        write_report(file, corpus(1, RUN), RUN)
    before = file.read_bytes()
    monkeypatch.setattr(html, "MAX_BYTES", 1000)
    with pytest.raises(UsageError, match=r"the limit is 1,000"):
        write_report(file, corpus(1, RUN), RUN, overwrite=True)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_chains_beyond_the_limit_are_counted_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MAX_CHAINS", 2)
    traces = corpus(6, RUN)
    order = [t.chain.id for t in traces][::-1]
    written = write_report(tmp_path / "r.html", traces, RUN, order=order)
    assert written.n_chains == 2
    (note,) = [note for note in written.left_out if note.startswith("All 6 chains are counted")]
    assert "the first 2, in the order of trails chains, are drawn" in note
    assert "trails report source:NAME" in note, "how others are drawn"
    record, _ = contents(tmp_path / "r.html")
    assert record["corpus"]["n_chains"] == 6
    assert [chain["id"] for chain in record["chains"]] == order[:2], "those of the order, in its order"
    assert [c["id"] for c in contents_of(tmp_path, traces)["chains"]] == order[:-3:-1], "as read without an order"


def contents_of(folder: Path, traces: list[Trace]) -> dict[str, Any]:
    """Record of a report of traces in the order in which they are read."""
    write_report(folder / "read.html", traces, RUN)
    return contents(folder / "read.html")[0]


def test_chains_that_the_second_run_lacks_are_counted_and_a_run_without_any_is_refused(tmp_path: Path) -> None:
    before = corpus(3, RUN)
    after = {t.chain.id: t for t in before[1:]}
    written = write_report(tmp_path / "r.html", before, RUN, after=after)
    assert any(
        note.startswith("1 of 3 chains was not measured by the run to compare with") for note in written.left_out
    )
    assert [("surprisal_after" in c["arrays"]) for c in contents(tmp_path / "r.html")[0]["chains"]] == [
        False,
        True,
        True,
    ]
    with pytest.raises(UsageError, match="measured none of these chains"):
        write_report(tmp_path / "x.html", before, RUN, after={})
    assert not (tmp_path / "x.html").exists()


def test_the_map_puts_chains_that_share_states_beside_each_other() -> None:
    # chains 0 and 3 share every state, so do 1 and 2: the layout must not keep the order of their numbers
    chain = np.repeat(np.arange(4), 5)
    state = np.concatenate([np.arange(5), np.arange(5, 10), np.arange(5, 10), np.arange(5)])
    depth = np.tile(np.linspace(0, 1, 5), 4)
    x, y = map_layout(chain, state, depth, 10)
    np.testing.assert_allclose(x, np.tile(np.linspace(-1, 1, 5), 2))
    assert abs(y[:5].mean() - y[5:].mean()) > 0.5
    assert (np.abs(y) <= 1).all()
    assert np.ptp(y[:5]) < 0.31


def test_the_name_of_a_run_is_escaped_in_the_fallback(tmp_path: Path) -> None:
    run: Run = replace(RUN, model="<script>alert(1)</script>")
    traces = [replace(t, run=run.id) for t in corpus(1, RUN)]
    write_report(tmp_path / "r.html", traces, run)
    assert "<script>alert" not in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "connective", "found"),
    [
        ("\u0130zmir is wet, but dry", "but", "but"),  # its first letter has two characters in lower case
        ("\U0001d465 is wet. However, it", "however", "However"),  # its first letter is two units of UTF-16
        ("a (so) b", "(so)", "(so)"),
        ("as\n a result, b", "as a result", "as\n a result"),
        ("nothing here", "but", None),
        ("nothing here", "", None),
    ],
)
def test_the_connective_of_a_step_is_where_its_letters_are(text: str, connective: str, found: str | None) -> None:
    whole = "but " + text  # the same word before the step is not its connective
    place = html._connective(whole, Step(0, 4, len(whole), connective=connective))
    units = whole.encode("utf-16-le")
    assert (place and units[2 * place[0] : 2 * place[1]].decode("utf-16-le")) == found


def test_differences_along_a_row_keep_what_is_undefined_and_the_largest(tmp_path: Path) -> None:
    rows = np.array([[np.nan, 0.5, 0.25, 65.534], [0.0, np.nan, np.nan, 2.0], [65.534, 0.0, 99.0, 0.001]])
    blob = html.Blob()
    blob.along("a", rows[::-1])
    references = [blob.along("a", rows), blob.sums("b", [7, 7, -1, 2**30]), blob.thousandths("c", rows)]
    (tmp_path / "r.html").write_bytes(html.page(blob.text({}), "", "", ()))
    record, numbers = contents(tmp_path / "r.html")
    assert record["streams"][0] == ["d", 0, 24, 4], "one stream for both"
    for at in (0, 2):
        np.testing.assert_array_equal(values(record, numbers, references[at]), np.minimum(rows, 65.534).ravel())
    assert values(record, numbers, references[1]).tolist() == [7, 7, -1, 2**30]


def test_the_map_reads_back_and_its_labels_are_those_of_its_states(tmp_path: Path) -> None:
    traces = corpus(6, RUN)
    woven = build(token_corpus(traces))
    write_report(tmp_path / "r.html", traces, RUN, woven=woven)
    record, numbers = contents(tmp_path / "r.html")
    found = {k: values(record, numbers, record["map"][k]) for k in ("x", "y", "n_chains", "start", "end", "count")}
    pieces = {chain["id"]: chain["pieces"] for chain in record["chains"]}
    labels: dict[int, str] = {}
    for name, reference in record["map"]["paths"].items():
        for last, state in enumerate(values(record, numbers, reference).tolist(), 1):
            labels.setdefault(state, "".join(pieces[name][max(0, last - woven.k) : last]))
    labels |= {int(state): text for state, text in record["map"]["text"].items()}
    assert sorted(labels.values()) == sorted(woven.states["text"].to_pylist())
    text_of = dict(zip(woven.states["id"].to_pylist(), woven.states["text"].to_pylist(), strict=True))
    rows = woven.trails.select(["start", "end", "count"]).to_pylist()
    assert sorted(
        (labels[a], labels[b], n)
        for a, b, n in zip(*(found[k].tolist() for k in ("start", "end", "count")), strict=True)
    ) == sorted((text_of[row["start"]], text_of[row["end"]], row["count"]) for row in rows)
    held = {row["text"]: row["n_chains"] for row in woven.states.to_pylist()}
    assert {labels[at]: n for at, n in enumerate(found["n_chains"].tolist())} == held
    chain = woven.corpus.chain_of(np.arange(woven.corpus.n_tokens))
    size = np.diff(woven.corpus.offsets)
    depth = (np.arange(woven.corpus.n_tokens) - woven.corpus.offsets[:-1][chain]) / np.maximum(size[chain] - 1, 1)
    for name, place in zip("xy", map_layout(chain, woven.state_of, depth, len(woven.states)), strict=True):
        by_label = dict(zip(woven.states["text"].to_pylist(), place.tolist(), strict=True))
        shown = [found[name][at] / html.PLACES - 1 for at in range(len(by_label))]
        np.testing.assert_allclose(shown, [by_label[labels[at]] for at in range(len(by_label))], atol=2e-5)


def test_a_text_in_a_table_ends_between_words(tmp_path: Path) -> None:
    long = " ".join(f"incomprehensible{n}" for n in range(20))
    words = tuple(re.findall(r"\S+ ?", long))
    pair = [make_trace(make_chain(key, long), RUN, words=words) for key in ("a", "b")]
    overlap = {
        **{"id": "o1", "kind": "exact", "text": long, "n_tokens": 20, "n_chains": 2, "excess": 0.1, "control": 0.3},
        **{"control_name": "order-2 Markov resample", "first": 0, "stop": 20},
    }
    write_report(tmp_path / "r.html", pair, RUN, found=Found({}, {t.chain.id: [overlap] for t in pair}))
    record, _ = contents(tmp_path / "r.html")
    shown = [chain["begins"] for chain in record["chains"]] + [row["text"] for row in record["corpus"]["overlaps"]]
    assert len(shown) == 3
    for text, most in zip(shown, (90, 90, 160), strict=True):
        assert most - 30 < len(text) <= most
        assert text.endswith(" …")
        assert long.startswith(f"{text.removesuffix(' …')} ")


@pytest.mark.slow
def test_every_control_and_every_note_has_its_russian(tmp_path: Path) -> None:
    """What Python says on a page is known to the table, with its numbers as #."""
    assets = Path(html.__file__).parent / "assets"
    said, words = (json.loads((assets / name).read_text(encoding="utf-8")) for name in ("said.json", "words.json"))

    def template(text: str) -> str:
        return re.sub(r"\d[\d,.]*\d|\d", "#", text)

    long = make_trace(make_chain("long", "".join(f"w{i:04} " for i in range(500))), RUN, n_steps=60)
    file = tmp_path / "r.html"
    write_report(file, [long, *corpus(3, RUN)], RUN, woven=build(token_corpus(corpus(3, RUN))))
    record, _ = contents(file)
    texts = [*record["left_out"], *(c["name"] for chain in record["chains"] for c in chain["controls"].values())]
    assert len(texts) > 5
    for text in texts:
        assert template(text) in said, text
    assert all(len(pair) == 2 and pair[1] for pair in words.values())


@pytest.mark.browser
@pytest.mark.slow
def test_a_page_fits_every_width_language_theme_and_paper(tmp_path: Path) -> None:
    text = "".join(f"word{i:03} " for i in range(900))
    words = tuple(f"word{i:03} " for i in range(900))
    long = make_trace(make_chain("long", text, source="a/very/long/name_of_a_source"), RUN, n_steps=12, words=words)
    file = tmp_path / "r.html"
    gap = {"step": 2, "rank": 0, "score": 0.875, "control_auc": 0.8123, "baseline_auc": 0.5511}
    after = {long.chain.id: replace(long, run="rother", surprisal=long.surprisal[::-1].copy())}
    write_report(file, [long, *corpus(4, RUN)], RUN, found=Found({long.chain.id: [gap]}, {}), after=after)
    seen = look(file, "fit.mjs", id=long.chain.id)
    assert seen["console"] == []
    assert len(seen["sizes"]) == 24
    for one in seen["sizes"]:
        assert one["out"] <= 0, one
        assert not one["objects"], one
        assert one["wide"] <= 0, one
        assert one["lines"] < 1.9, one
        if one["name"] == "chain":
            assert one["colours"] > 5, one
            assert one["covered"] == [], one
            assert abs(one["arcs"]) <= 2, one
    first, last = seen["heights"]
    assert abs(first - last) <= 2, "the arcs do not hold the rows apart"
    assert seen["paper"] == {"tokens": 900, "background": "rgb(253, 253, 252)", "aside": "none"}
    assert seen["after"] == "", "the theme of before is on again"
