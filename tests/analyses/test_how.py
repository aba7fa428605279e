"""Every control says how it was made, in words from which another program makes the same numbers again."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trails.analyses import overlaps, statemap
from trails.analyses.report import Report, method_lines
from trails.analyses.score import Control, Score, methods
from trails.analyses.sequences import ROLES, role_corpus, token_corpus
from trails.schema import Role

SOURCE = Path(__file__).parents[2] / "src" / "trails"
PLACE = {"Control": 3, "Score": 6}
"""Number of the argument ``how``."""


def _calls() -> list[tuple[str, ast.Call]]:
    found = []
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(SOURCE.rglob("*.py"))}
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text)) if "Control(" in text or "Score(" in text else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PLACE:
                found.append((f"{path.relative_to(SOURCE)}:{node.lineno}", node))
    return found


@pytest.mark.slow
def test_no_control_and_no_interval_of_a_score_is_made_without_saying_how() -> None:
    silent, seen = [], Counter()
    for place, call in _calls():
        kind = call.func.id  # type: ignore[attr-defined]
        given = {word.arg for word in call.keywords}
        has_interval = len(call.args) > 4 or "interval" in given
        told = "how" in given or len(call.args) > PLACE[kind]
        seen[kind] += 1
        if not told and not any(isinstance(arg, ast.Starred) for arg in call.args):
            bare = isinstance(call.args[4], ast.Constant) if len(call.args) > 4 else not has_interval
            if kind == "Control" or not bare:
                silent.append(place)
    assert not silent
    assert seen["Control"] > 40
    assert seen["Score"] > 25


def _drawn(how: str) -> tuple[int, int]:
    """Draws and first seed as they stand in the words."""
    found = re.fullmatch(r"mean and central 95 % of ([\d,]+) .*, seeds? (\d+)(?: to (\d+))?", how)
    assert found, how
    draws, first = int(found[1].replace(",", "")), int(found[2])
    assert found[3] is None or int(found[3]) - first + 1 == draws
    return draws, first


def _resampled(how: str) -> tuple[int, int]:
    found = re.fullmatch(r"95 %: percentiles of ([\d,]+) bootstrap resamples of .*, seed (\d+)", how)
    assert found, how
    return int(found[1].replace(",", "")), int(found[2])


def _covered(chains: list[list[int]], size: int) -> list[int]:
    """By chain, how many places lie in a window of ``size`` that stands in two chains or more: by counting."""
    holders: dict[tuple[int, ...], set[int]] = {}
    for number, chain in enumerate(chains):
        for at in range(len(chain) - size + 1):
            holders.setdefault(tuple(chain[at : at + size]), set()).add(number)
    result = []
    for chain in chains:
        under = [False] * len(chain)
        for at in range(len(chain) - size + 1):
            if len(holders[tuple(chain[at : at + size])]) > 1:
                under[at : at + size] = [True] * size
        result.append(sum(under))
    return result


def _share(chains: list[list[int]], size: int) -> float:
    return sum(_covered(chains, size)) / sum(map(len, chains))


def _cut(flat: Any, lengths: list[int]) -> list[list[int]]:
    ends = np.cumsum(lengths)
    return [list(flat[end - length : end]) for end, length in zip(ends, lengths, strict=True)]


def _central(values: Any) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _again(per_chain: list[int], lengths: list[int], how: str) -> tuple[float, float]:
    """The interval of a share, chains drawn with replacement, sum over sum."""
    draws, seed = _resampled(how)
    rng, hit, size, values = np.random.default_rng(seed), np.array(per_chain), np.array(lengths), []
    for _ in range(draws):
        pick = rng.integers(0, len(size), len(size))
        values.append(hit[pick].sum() / size[pick].sum())
    return _central(values)


def _markov(chains: list[list[int]], order: int, seed: int) -> list[list[int]]:
    """As docs/analyses.md tells it: walkers side by side, each going from place to place of the corpus."""
    flat = [symbol for chain in chains for symbol in chain]
    starts = np.concatenate([[0], np.cumsum([len(chain) for chain in chains])])
    heads, last = starts[:-1], set((starts[1:] - 1).tolist())
    context, places = [], {}
    for number, chain in enumerate(chains):
        for at in range(len(chain)):
            key = (min(at + 1, order), tuple(chain[max(at + 1 - order, 0) : at + 1]))
            context.append(key)
            places.setdefault(key, []).append(int(starts[number]) + at)
    n = len(flat)
    rounds = min(max(int(np.ceil(np.sqrt(n))), 64), 2048, n)
    walkers = -(-n // rounds)
    rng = np.random.default_rng(seed)
    walks: list[list[tuple[int, bool]]] = [[(int(heads[i]), True)] for i in rng.integers(0, len(heads), walkers)]
    for _ in range(1, rounds):
        chance, fresh = rng.random(walkers), rng.integers(0, len(heads), walkers)
        for walk, u, head in zip(walks, chance, fresh, strict=True):
            alike = places[context[walk[-1][0]]]
            twin = alike[int(u * len(alike))]
            walk.append((int(heads[head]), True) if twin in last else (twin + 1, False))
    drawn: list[list[int]] = []
    for place, opens in [step for walk in walks for step in walk][:n]:
        if opens:
            drawn.append([])
        drawn[-1].append(flat[place])
    return drawn


def test_the_skeleton_control_can_be_made_again_from_what_is_printed(make: Any, random_texts: Any) -> None:
    rng = np.random.default_rng(7)
    texts = random_texts(40, 30, seed=2, vocabulary=12)
    traces = []
    for number, text in enumerate(texts):
        words = text.split()
        parts = [" ".join(words[i : i + 5]) for i in range(0, 25 + 5 * int(rng.integers(0, 2)), 5)]
        roles = [list(Role)[int(rng.integers(0, 5))] for _ in parts]
        traces.append(make([part + ". " for part in parts], name=str(number), roles=roles))
    found = overlaps.skeleton(traces, 3)
    corpus, _ = role_corpus(traces)
    chains = [corpus.tokens[a:b].tolist() for a, b in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)]
    assert len({ROLES[symbol] for chain in chains for symbol in chain}) > 1
    lengths = [len(chain) for chain in chains]
    score, variants = found.scores
    assert score.value == pytest.approx(_share(chains, 3))
    draws, first = _drawn(score.controls[0].how)
    flat = np.array([symbol for chain in chains for symbol in chain])
    mixed = [_cut(np.random.default_rng(first + i).permutation(flat), lengths) for i in range(draws)]
    null = [_share(one, 3) for one in mixed]
    assert score.controls[0].value == pytest.approx(np.mean(null))
    assert score.controls[0].interval == pytest.approx(_central(null))
    assert score.interval == pytest.approx(_again(_covered(chains, 3), lengths, score.how))
    distinct = [len({tuple(chain) for chain in one}) for one in mixed]
    assert variants.controls[0].value == pytest.approx(np.mean(distinct))
    assert variants.controls[0].interval == pytest.approx(_central(distinct))
    assert max(null) - min(null) > 0.01  # the draws differ, so the numbers above could have been others


def test_the_markov_controls_can_be_made_again_from_what_is_printed(make: Any, random_texts: Any) -> None:
    traces = [make([text], name=str(n)) for n, text in enumerate(random_texts(25, 50, seed=3, vocabulary=5))]
    corpus = token_corpus(traces)
    found = overlaps.exact(corpus, 5)
    chains = [corpus.tokens[a:b].tolist() for a, b in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)]
    (score,) = found.scores
    assert score.value == pytest.approx(_share(chains, 5))
    for order, control in zip((1, 2), score.controls, strict=True):
        assert f"order-{order}" in control.how
        draws, first = _drawn(control.how)
        null = [_share(_markov(chains, order, first + i), 5) for i in range(draws)]
        assert control.value == pytest.approx(np.mean(null))
        assert control.interval == pytest.approx(_central(null))
    assert score.interval == pytest.approx(_again(_covered(chains, 5), [len(c) for c in chains], score.how))


def test_json_tells_how_for_every_control_and_a_line_each_way_once(corpus_of: Any, random_texts: Any) -> None:
    report = overlaps.exact(corpus_of(random_texts(40, 60, seed=1, vocabulary=4)), 5).report()
    (record,) = report.record()["scores"]
    assert record["how"].endswith("seed 0")
    assert [bool(control["how"]) for control in record["controls"]] == [True, True]
    lines = method_lines(report.scores)
    assert lines[0].startswith("coverage: 95 %: percentiles of 500 bootstrap resamples")
    assert lines[1].startswith("order-1 Markov resample: mean and central 95 % of 5 ")
    assert all(line in report.html() for line in lines)
    one, two = Control("shuffle", 0.1, how="the same way"), Control("splice", 0.2, how="the same way")
    few = Score("c", 1.0, "share", (one,), how="of an interval that could not be had")
    scores = [Score("a", 1.0, "share", (one,)), Score("b", 2.0, "share", (one, two)), few]
    assert methods(scores) == {"the same way": ("shuffle", "splice")}


def test_the_map_tells_how_many_were_drawn(corpus_of: Any, random_texts: Any) -> None:
    built = statemap.build(corpus_of(random_texts(40, 60, seed=1, vocabulary=6)))
    scores = built.scores
    assert {name: bool(score.how) for score in scores if (name := score.name)} == {
        "fitness": True,
        "branching perplexity": False,  # nothing of it is resampled, so it has no interval
        "walk is real": True,
    }
    assert all(control.how for score in scores for control in score.controls)
    assert _drawn(scores[0].controls[0].how) == (5, 0)
    assert _drawn(scores[1].controls[0].how) == (3, 0)


def test_a_report_without_scores_has_no_line() -> None:
    assert method_lines(Report("nothing", "no verdict").scores) == []
