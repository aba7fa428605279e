"""Every control says how it was made, in words from which another program makes the same numbers again."""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trails.analyses import overlaps, statemap
from trails.analyses.gaps import calibrate
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
    assert _drawn(scores[0].controls[0].how.split("; ")[1]) == (5, 0)
    assert _drawn(scores[1].controls[0].how) == (3, 0)


def test_a_report_without_scores_has_no_line() -> None:
    assert method_lines(Report("nothing", "no verdict").scores) == []


def _key(*parts: object) -> int:
    """As docs/analyses.md tells it, as a number."""
    digest = hashlib.sha256()
    for part in parts:
        data = str(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return int(digest.hexdigest()[:16], 16)


def test_fitness_of_the_map_and_its_control_can_be_made_again(corpus_of: Any, random_texts: Any) -> None:
    k = 2
    corpus = corpus_of(random_texts(140, 40, seed=4, vocabulary=6))
    score = statemap.build(corpus, k).scores[0]
    chains = [corpus.tokens[a:b].tolist() for a, b in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)]
    assert list(corpus.chains) == sorted(corpus.chains)
    out = [(_key("held out", name) >> 32) % 10 == 0 for name in corpus.chains]
    assert 0 < sum(out) < len(out)

    def ways(chain: list[int]) -> list[tuple[int, ...]]:
        return [(min(t, k), *chain[max(t - k, 0) : t + 1]) for t in range(1, len(chain))]

    known = {way for chain, left in zip(chains, out, strict=True) if not left for way in ways(chain)}
    new = [chain for chain, left in zip(chains, out, strict=True) if left]

    def hits(of: list[list[int]]) -> list[int]:
        return [sum(way in known for way in ways(chain)) for chain in of]

    sizes = [len(chain) - 1 for chain in new]
    assert score.value == pytest.approx(sum(hits(new)) / sum(sizes))
    held, words = score.how.split("; ")
    control, shuffles = score.controls[0].how.split("; ")
    assert held == control == "one chain in ten held out by a key of its id"
    assert score.interval == pytest.approx(_again(hits(new), sizes, words))
    draws, first = _drawn(shuffles)
    null = []
    for i in range(draws):
        flat, owner = np.concatenate(new), np.repeat(np.arange(len(new)), [len(chain) for chain in new])
        mixed = flat[np.lexsort((np.random.default_rng(first + i).random(len(flat)), owner))]
        null.append(sum(hits(_cut(mixed, [len(chain) for chain in new]))) / sum(sizes))
    assert score.controls[0].value == pytest.approx(np.mean(null))
    assert score.controls[0].interval == pytest.approx(_central(null))
    assert 0 < score.controls[0].value < 1


def test_the_walks_of_the_map_can_be_made_again(corpus_of: Any, random_texts: Any) -> None:
    size = 2
    corpus = corpus_of(random_texts(60, 40, seed=4, vocabulary=2))
    score = next(one for one in statemap.build(corpus, size).scores if one.name == "walk is real")
    chains = [corpus.tokens[a:b].tolist() for a, b in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)]
    at = [(number, t) for number, chain in enumerate(chains) for t in range(len(chain))]
    for k, how, value, interval in (
        (size, score.how, score.value, score.interval),
        (1, score.controls[0].how, score.controls[0].value, score.controls[0].interval),
    ):
        said = re.match(
            r"([\d,]+) of ([\d,]+) walks of (\d+) steps did not reach the end of a chain, seed (\d+); (.*)", how
        )
        assert said, how
        kept, walks, steps, seed = (int(part.replace(",", "")) for part in said.groups()[:4])
        alike: dict[tuple[int, ...], list[int]] = {}
        for place, (number, t) in enumerate(at):
            alike.setdefault((min(t + 1, k), *chains[number][max(t + 1 - k, 0) : t + 1]), []).append(place)
        starts = [place for place, (_, t) in enumerate(at) if t >= k - 1]
        rng = np.random.default_rng(seed)
        here = [starts[i] for i in rng.integers(0, len(starts), walks)]
        path = [chains[at[place][0]][at[place][1] - k + 1 : at[place][1] + 1] for place in here]
        ended = [False] * walks
        for _ in range(steps):
            for walk, u in enumerate(rng.random(walks).tolist()):
                number, t = at[here[walk]]
                twins = alike[(min(t + 1, k), *chains[number][max(t + 1 - k, 0) : t + 1])]
                twin = twins[int(u * len(twins))]
                last = at[twin][1] == len(chains[at[twin][0]]) - 1
                ended[walk] |= last
                here[walk] = twin if last else twin + 1
                path[walk] = [*path[walk], chains[at[here[walk]][0]][at[here[walk]][1]]]
        held = {tuple(chain[t : t + k + steps]) for chain in chains for t in range(len(chain) - k - steps + 1)}
        real = np.array([float(tuple(one) in held) for one, left in zip(path, ended, strict=True) if not left])
        assert len(real) == kept
        assert value == pytest.approx(real.mean())
        draws, first = _resampled(said[5])
        pick = np.random.default_rng(first).integers(0, len(real), (draws, len(real)))
        assert interval == pytest.approx(_central(real[pick].mean(axis=1)))
        assert 0 < value < 1


def _fitted(x: Any, true: list[int], ridge: float) -> Any:
    """Weights of a conditional logit: ``x`` has the seams of each chain, ``true`` the number of the true one."""
    w = np.zeros(x[0].shape[1])
    for _ in range(100):
        gradient, hessian = ridge * w, ridge * np.eye(len(w))
        for rows, one in zip(x, true, strict=True):
            p = np.exp(rows @ w - (rows @ w).max())
            p = p / p.sum()
            mean = p @ rows
            gradient = gradient + mean - rows[one]
            hessian = hessian + (rows * p[:, None]).T @ rows - np.outer(mean, mean)
        step = np.linalg.solve(hessian, gradient)
        w = w - step
        if abs(step).max() < 1e-10:
            break
    return w


def _auc(values: Any, one: int) -> float:
    others = np.delete(values, one)
    return float(((values[one] > others) + 0.5 * (values[one] == others)).mean())


@pytest.mark.slow
def test_the_position_control_of_gaps_can_be_made_again(make: Any) -> None:
    rng = np.random.default_rng(11)
    traces = []
    for number in range(60):
        texts = [
            f"Then {int(rng.integers(2, 99))} more are {int(rng.integers(2, 99))}. "
            for _ in range(int(rng.integers(3, 9)))
        ]
        traces.append(make(texts, name=f"n{number}", roles=[Role.THEN] * len(texts)))
    found = calibrate(traces, limit=40)
    by_chain = {trace.chain.id: trace for trace in traces}
    for one in found.removed:  # what the calibration names is what it says that it drew
        assert one.step == 1 + _key("removed step", one.chain, 0) % (len(by_chain[one.chain].steps) - 2)
    control = next(score for score in found.scores if score.name == "no model").controls[0]
    said = re.fullmatch(
        r"an interior step of each of (\d+) chains of four steps or more removed, seed (\d+); conditional logit out of fold, "
        r"mean of (\d+) divisions into (\d+) folds of chains, seeds (\d+) to (\d+); (.*)",
        control.how,
    )
    assert said, control.how
    count, seed, divisions, folds, first, end = map(int, said.groups()[:6])
    assert (count, end - first + 1) == (40, divisions)
    able = sorted(
        (t for t in traces if len(t.steps) >= 4), key=lambda t: f"{_key('calibration', t.chain.id, seed):016x}"
    )
    assert [one.chain for one in found.removed] == [trace.chain.id for trace in able[:count]]
    assert [one.chain for one in found.learnt] == [trace.chain.id for trace in able[count:]]
    for score in found.scores:
        if score.unit == "AUC within the chain":
            assert np.mean([one.auc[score.name] for one in found.removed]) == pytest.approx(score.value, abs=1e-12)
    assert np.mean([one.auc["position only"] for one in found.removed]) == pytest.approx(control.value, abs=1e-12)
    true, place = [], []
    for trace in able[:count]:
        steps = len(trace.steps)
        true.append(_key("removed step", trace.chain.id, seed) % (steps - 2))  # seam 1 + this, counted from 0 here
        place.append(np.arange(1, steps - 1))
    raw = [np.stack([p / p[-1], (p / p[-1]) ** 2, (p == 1).astype(float)], axis=1) for p in place]
    middle = [rows - rows.mean(0) for rows in raw]
    spread = np.concatenate(middle).std(0)
    x = [rows / spread for rows in middle]

    def parts(names: list[int], of: int) -> list[tuple[list[int], list[int]]]:
        fold = np.random.default_rng(of).permutation(len(names)) % folds
        return [
            (
                [n for n, f in zip(names, fold, strict=True) if f != i],
                [n for n, f in zip(names, fold, strict=True) if f == i],
            )
            for i in range(folds)
        ]

    def out_of_fold(names: list[int], of: int, ridge: float | None) -> dict[int, float]:
        result = {}
        for train, test in parts(names, of):
            penalty = ridge
            if penalty is None:
                worth = {r: np.mean(list(out_of_fold(train, of + 1, r).values())) for r in (100.0, 10.0, 1.0)}
                penalty = max(worth, key=lambda r: worth[r])
            w = _fitted([x[n] for n in train], [true[n] for n in train], penalty)
            result |= {n: _auc(x[n] @ w, true[n]) for n in test}
        return result

    every = [out_of_fold(list(range(count)), first + i, None) for i in range(divisions)]
    each = np.array([np.mean([one[n] for one in every]) for n in range(count)])
    assert control.value == pytest.approx(each.mean())
    draws, start = _resampled(said[7])
    pick = np.random.default_rng(start).integers(0, count, (draws, count))
    assert control.interval == pytest.approx(_central(each[pick].mean(axis=1)))
    assert len(set(each.tolist())) > 3
