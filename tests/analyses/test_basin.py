"""The attraction zone: planted trails lose their texts where they must, and every control stays where it belongs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from trails.analyses import basin
from trails.cli import cli
from trails.errors import UsageError


def corpus(make: Any, random_texts: Any, count: int = 60, source: str = "made", seed: int = 0) -> list[Any]:
    return [
        make([text], name=f"{source}{n}", source=source)
        for n, text in enumerate(random_texts(count, 50, seed=seed, vocabulary=200))
    ]


def shares(found: basin.Basin, way: str) -> dict[float, dict[str, Any]]:
    return {row["distance"]: row for row in found.table.to_pylist() if row["way"] == way}


def test_shares_fall_from_all_to_nothing_and_order_carries_them(make: Any, random_texts: Any) -> None:
    traces = corpus(make, random_texts)
    found = basin.basin(iter(traces), [trace.chain.id for trace in traces])
    for way in (basin.RANDOM, basin.DELETED):
        rows = shares(found, way)
        assert list(rows) == list(basin.LEVELS)
        assert rows[0.0]["captured"] == 1.0
        assert rows[1.0]["captured"] < 0.1
        assert rows[0.0]["mixed"] < 0.4, "the same tokens in random order are no trail"
        assert rows[0.0]["rewired"] == 0
        assert rows[0.0]["others"] is None
    assert {item.name for item in found.withheld} >= {basin.HALF + basin.LIKELY}
    assert "one source" in found.notes[0]
    score = next(s for s in found.scores if s.name == basin.HALF + basin.RANDOM)
    assert score.interval is not None
    assert score.interval[0] < score.value < score.interval[1]
    assert score.controls[0].name == basin.BAG


def test_where_nothing_of_a_text_is_left_any_map_holds_as_much(make: Any, random_texts: Any) -> None:
    """With few words every map has windows of a random text, so the controls reach what the map reaches."""
    traces = [
        make([text], name=f"{source}{n}", source=source)
        for source in ("a", "b")
        for n, text in enumerate(random_texts(30, 50, seed=len(source), vocabulary=8))
    ]
    rows = shares(basin.basin(iter(traces), [t.chain.id for t in traces]), basin.RANDOM)
    assert rows[0.0]["rewired"] == 0
    assert rows[1.0]["captured"] < 0.2
    assert rows[1.0]["rewired"] > 0.3
    assert rows[1.0]["others"] > 0.2


@pytest.mark.slow
def test_the_same_seed_gives_the_same_zone_and_another_seed_another(make: Any, random_texts: Any) -> None:
    traces = corpus(make, random_texts)
    name = [traces[3].chain.id]
    one, two, other = (basin.basin(iter(traces), name, seed=seed) for seed in (1, 1, 2))
    assert one == two
    assert one.table != other.table
    assert {row["texts"] for row in one.table.to_pylist()} == {basin.LEAST_TEXTS}
    assert "not over chains" in one.notes[0]


def test_a_half_capture_distance_lies_on_the_line_between_two_levels() -> None:
    assert basin.half_distance(np.array([1.0, 0.75, 0.25, 0.0]), (0.0, 0.2, 0.4, 1.0)) == pytest.approx(0.3)
    assert basin.half_distance(np.array([0.8, 0.8, 0.8]), (0.0, 0.5, 1.0)) == 1.0
    assert basin.half_distance(np.array([0.0, 0.0]), (0.0, 1.0)) == 0.0


def test_edit_distance_is_levenshtein(random_texts: Any) -> None:
    def slow(a: str, b: str) -> int:
        row = list(range(len(b) + 1))
        for i, x in enumerate(a, start=1):
            last, row[0] = row[0], i
            for j, y in enumerate(b, start=1):
                last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
        return row[-1]

    rng = np.random.default_rng(0)
    for _ in range(200):
        one, two = ("".join(rng.choice(list("abc"), rng.integers(0, 9))) for _ in range(2))
        codes = [np.array([ord(c) for c in text], np.int32) for text in (one, two)]
        assert basin.edit_distance(*codes) * max(len(one), len(two), 1) == pytest.approx(slow(one, two))


def holding(trace: Any, ids: Any) -> Any:
    """The trace with these items (n, k), each held likely at its place."""
    ids = np.asarray(ids, np.int32)
    pieces = tuple(f" x{i}" for i in np.unique(ids))
    return replace(trace, top_id=ids, top_log_probability=np.zeros(ids.shape, np.float32), top_pieces=pieces)


@pytest.mark.slow
def test_likely_tokens_come_from_the_run_and_from_the_run_after_a_training(make: Any, random_texts: Any) -> None:
    traces = [holding(t, np.full((t.n_tokens, 1), 29_999)) for t in corpus(make, random_texts)]
    chosen = [trace.chain.id for trace in traces[:30]]
    back = {t.chain.id: holding(t, t.token_ids[::-1].reshape(-1, 1)) for t in traces[:30]}
    found = basin.basin(iter(traces), chosen, after=back)
    before, after = shares(found, basin.LIKELY), shares(found, basin.AFTER)
    assert before[1.0]["captured"] == 0, "one word in every place is no trail"
    assert before[0.2]["captured"] > 0.9
    assert after[1.0]["captured"] < 0.5
    assert {s.name for s in found.scores} >= {basin.HALF + basin.LIKELY, basin.HALF + basin.AFTER}
    # after this "training" the model holds nothing but the token itself likely, so nothing can be put in its place
    same = {t.chain.id: holding(t, np.stack([t.token_ids, t.token_ids], 1)) for t in traces[:30]}
    none = basin.basin(iter(traces), chosen, after=same)
    assert basin.HALF + basin.AFTER in {item.name for item in none.withheld}


def test_versions_are_held_against_the_map_without_themselves(make: Any, random_texts: Any) -> None:
    traces = corpus(make, random_texts)

    def of(trace: Any, family: str) -> Any:
        return replace(trace, chain=replace(trace.chain, family=family))

    words = [trace.chain.text.split() for trace in traces[:10]]
    near = [
        of(make([" ".join([*w[:30], "new", "words", *w[34:]])], name=f"v{n}"), f"en:{n}") for n, w in enumerate(words)
    ]
    traces[:10] = [of(trace, f"en:{n}") for n, trace in enumerate(traces[:10])]
    foreign = [
        of(make([text], name=f"r{n}"), f"ru:{n}")
        for n, text in enumerate(random_texts(10, 50, seed=9, vocabulary=4000))
    ]
    every = [*traces, *near, *foreign]
    found = basin.basin(iter(every), [trace.chain.id for trace in near])
    rows = [row for row in found.table.to_pylist() if row["way"] == basin.VERSIONS]
    assert sum(row["texts"] for row in rows) == 10
    assert all(row["captured"] == 1 for row in rows)
    assert all(row["distance"] == pytest.approx(4 / 50) for row in rows)
    other = [row for row in found.table.to_pylist() if row["way"] == basin.LANGUAGES]
    assert sum(row["texts"] for row in other) == 10
    assert all(row["captured"] == 0 for row in other), "no window is shared with the other language"


def test_without_anything_captured_there_is_no_score(make: Any, random_texts: Any) -> None:
    traces = corpus(make, random_texts, count=30)
    found = basin.basin(iter(traces), [trace.chain.id for trace in traces], k=100_000)
    assert not found.scores
    assert "nothing is captured even undisturbed: no text holds a window of 100,000 tokens" in found.report().verdict


def test_what_has_no_zone_is_refused(make: Any, random_texts: Any) -> None:
    traces = corpus(make, random_texts)
    with pytest.raises(UsageError, match="20 are needed"):
        basin.basin(iter(traces[:5]), [traces[0].chain.id])
    with pytest.raises(UsageError, match="trails chains"):
        basin.basin(iter(traces), ["c0"])
    short = make(["too short"], name="short")
    with pytest.raises(UsageError, match="Choose longer ones"):
        basin.basin(iter([*traces, short]), [short.chain.id])


@pytest.mark.slow
def test_the_command_takes_a_chain_a_family_and_a_selection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"id": str(n), "chain": " ".join(f"w{rng.integers(60)}" for _ in range(20)), "family": f"pair{n // 2}"}
        for n in range(24)
    ]
    source = tmp_path / "chains.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    home = str(tmp_path / "home")

    def run(*words: str) -> Any:
        return CliRunner().invoke(cli, [*words, "--home", home], catch_exceptions=False)

    run("ingest", str(source), "--model", "uniform", "--family", "family")
    for chosen, size in (("3", 1), ("pair4", 2), ("family:pair4", 2), ("all", 24)):
        found = json.loads(run("basin", chosen, "--json").output)
        assert found["n_chains"] == size, chosen
        assert found["shares"][0]["captured"] == 1
    told = run("basin", "pair4").output
    assert "half of what is captured is left at a distance of: random tokens" in told
    assert "bag of words" in told
    # of a curve the first rows say least: a limit keeps those where it falls, in their order
    rows = [row for row in found["shares"] if row["texts"]]
    kept = json.loads(run("basin", "all", "--limit", "5", "--json").output)
    assert len(kept["shares"]) == 5
    assert kept["cut"] == {"shares": len(rows)}
    away = sorted(abs(row["captured"] - 0.5) for row in rows)
    assert sorted(abs(row["captured"] - 0.5) for row in kept["shares"]) == away[:5]
    assert kept["shares"] == [row for row in rows if row in kept["shares"]]
    for columns, most in (("60", 90), ("80", 70), ("140", 40)):
        monkeypatch.setenv("COLUMNS", columns)
        done = run("basin", "all")
        assert len(done.stdout.splitlines()) <= most, done.stdout
        assert f"shares: 10 of {len(rows)}, those nearest to a half; more with --limit" in done.stderr
    with pytest.raises(UsageError, match="no chain fits"):
        run("basin", "pair99")
