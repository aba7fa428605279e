"""The registry of effects: planted cases are found and little else, chance is said to be chance, flags reach graph and
selections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.report.test_report import contents

from trails.analyses.effects import Effects, effect_of, registry, scan
from trails.errors import UsageError
from trails.pipeline import Home
from trails.platform.text import percent
from trails.schema import Trace

Trails = Callable[..., Any]
STEPS, WORDS = 8, 12


def plain(make: Any, rng: np.random.Generator, number: int) -> Trace:
    """A chain of eight steps of twelve tokens whose numbers are noise."""
    trace = make([" ".join(f"w{i}" for i in range(WORDS)) + " " for _ in range(STEPS)], name=str(number))
    n = trace.n_tokens
    entropy = rng.gamma(4.0, 0.5, n).astype(np.float32)
    surprisal = (entropy * rng.gamma(4.0, 0.25, n)).astype(np.float32)
    return replace(trace, entropy=entropy, surprisal=surprisal, rank=rng.geometric(0.05, n).astype(np.int32) - 1)


def rates(found: Effects, planted: set[tuple[str, int]]) -> tuple[float, float]:
    """Precision and recall."""
    (one,) = found.found
    flagged = {one.steps[i] for i in one.flagged}
    return len(flagged & planted) / max(len(flagged), 1), len(flagged & planted) / len(planted)


@pytest.mark.slow
def test_planted_collapse_is_found_and_easy_text_is_not(make: Any) -> None:
    rng = np.random.default_rng(0)
    traces, planted = [], set()
    for number in range(80):
        trace = plain(make, rng, number)
        step, easy = rng.choice(STEPS, 2, replace=False)
        entropy, surprisal, rank = trace.entropy.copy(), trace.surprisal.copy(), trace.rank.copy()
        for place, collapsed in ((step, True), (easy, False)):
            span = slice(*trace.step_tokens[place])
            entropy[span] = rng.uniform(0.01, 0.1, WORDS)
            rank[span] = 4 if collapsed else 0
            if not collapsed:
                surprisal[span] = rng.uniform(0.0, 0.1, WORDS)
        planted.add((trace.chain.id, int(step)))
        traces.append(replace(trace, entropy=entropy, surprisal=surprisal, rank=rank))
    found = scan(lambda: traces, ["logit-collapse"], run="r")
    precision, recall = rates(found, planted)
    assert precision >= 0.9
    assert recall >= 0.9
    assert found.report().scores[0].beyond()
    nothing = scan(lambda: [plain(make, rng, i) for i in range(80)], ["logit-collapse"], run="r")
    assert nothing.found[0].share < 0.02
    (score,) = nothing.report().scores
    assert score.interval is not None
    own, chance, low, high = (percent(x) for x in (score.value, score.control, *score.interval))
    assert nothing.report().verdict.endswith(f" ({own}, 95 %: {low} to {high}), not beyond chance ({chance})")
    assert ", beyond chance (" in found.report().verdict


def looking(make: Any, rng: np.random.Generator, family: int, number: int, profiles: Any, turned: set[int]) -> Trace:
    """A version of a family whose steps look where the family's do, but for those in ``turned``."""
    trace = make(["a b c. "] * STEPS, name=f"{family}:{number}", question=f"of {family}")
    chain = replace(trace.chain, family=f"family {family}")
    masses = np.zeros_like(trace.step_attention)
    for step in range(STEPS):
        start = step * (step + 5) // 2
        where = rng.dirichlet(np.full(step, 0.3)) if step in turned and step else profiles[step]
        noisy = np.abs(where + rng.normal(0, 0.01, step)) if step else where
        masses[start + 2 : start + 2 + step] = noisy[:, None]
    return replace(trace, chain=chain, step_attention=masses.astype(np.float32))


@pytest.mark.slow
def test_planted_divergence_is_found(make: Any) -> None:
    rng = np.random.default_rng(1)
    traces, planted = [], set()
    for family in range(30):
        profiles = [rng.dirichlet(np.full(step, 0.3)) if step else np.zeros(0) for step in range(STEPS)]
        turned = {int(rng.integers(4, STEPS))} if family % 2 else set()
        versions = [looking(make, rng, family, number, profiles, turned) for number in range(3)]
        planted |= {(trace.chain.id, step) for trace in versions for step in turned}
        traces += versions
    found = scan(lambda: traces, ["attention-divergence"], run="r")
    precision, recall = rates(found, planted)
    assert precision >= 0.9
    assert recall >= 0.9
    assert "of unrelated ones 95 %" in found.report().verdict
    aligned = scan(lambda: [t for i, t in enumerate(traces) if i // 3 % 2 == 0], ["attention-divergence"], run="r")
    assert aligned.found[0].share == 0
    assert aligned.found[0].by_chance == pytest.approx(0.95, abs=0.01)


@pytest.mark.slow
def test_planted_phantoms_are_found(make: Any) -> None:
    rng = np.random.default_rng(2)
    before, after, planted = [], [], set()
    for number in range(60):
        trace = plain(make, rng, number)
        shift = rng.normal(0.2, 0.02, (trace.n_tokens, 5)).astype(np.float32)
        later = (shift + rng.normal(0, 0.01, shift.shape)).astype(np.float32)
        step, lasting = rng.choice(STEPS, 2, replace=False)
        for place in (step, lasting):
            shift[slice(*trace.step_tokens[place])] += 0.3
        later[slice(*trace.step_tokens[lasting])] += 0.3
        planted.add((trace.chain.id, int(step)))
        before.append(replace(trace, hidden_shift=shift))
        after.append(replace(trace, hidden_shift=later, run="rtuned"))
    found = scan(lambda: before, ["embedding-phantom"], run="r", after=lambda: after, after_run="rtuned")
    precision, recall = rates(found, planted)
    assert precision >= 0.9
    assert recall >= 0.9
    same = scan(lambda: before, ["embedding-phantom"], run="r", after=lambda: before, after_run="rtuned")
    assert same.found[0].share == 0
    alone = scan(lambda: before, run="r")
    assert "embedding-phantom" in {item.name for item in alone.withheld}


def test_the_registry_says_what_it_holds(tmp_path: Path) -> None:
    assert set(registry()) == {"logit-collapse", "attention-divergence", "embedding-phantom"}
    for effect in registry().values():
        assert effect.example
        assert effect.counter_example
        assert 0 < min(c.quantile for c in effect.conditions) < 1
    with pytest.raises(UsageError, match="effect 'x' was asked for. There are: logit-collapse"):
        effect_of("x")
    (tmp_path / "bad.toml").write_text("version = 1\n[a]\nmeaning = 1\n")
    with pytest.raises(UsageError, match=r"bad\.toml is not a registry of effects"):
        registry(tmp_path / "bad.toml")


@pytest.mark.slow
def test_flags_reach_the_graph_and_are_a_selection(
    trails: Trails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [row["effect"] for row in trails("effects", "list", "--json").json()] == list(registry())
    assert "no example" in trails("effects", "explain", "logit-collapse").out
    import trails.analyses.effects as module

    wide = replace(
        effect_of("logit-collapse"),
        conditions=tuple(replace(c, quantile=0.6) for c in effect_of("logit-collapse").conditions),
    )
    monkeypatch.setattr(module, "registry", lambda path=None: {"logit-collapse": wide})
    file = tmp_path / "page.html"
    found = trails("effects", "scan", "logit-collapse", "--json", "--limit", 999, "--html", file).json()
    page, _ = contents(file)
    assert page["report"]["verdict"] == found["verdict"]
    assert {row["id"] for row in page["chains"]} == {row["chain"] for row in found["flagged"]}
    steps = {f"{row['chain']}:{row['step']}" for row in found["flagged"]}
    assert steps
    again = trails("effects", "scan", "logit-collapse", "--json", "--limit", 999).json()
    assert again == found
    with Home() as home:
        selected = home.select("effect:logit-collapse")
        assert {f"{chain}:{step}" for chain, part in selected.parts.items() for step in part.steps} == steps
        (row,) = home.cypher("MATCH (e:Effect) RETURN e.share, e.by_chance, e.n_steps").rows
    assert row[:2] == (found["scores"][0]["value"], found["scores"][0]["controls"][0]["value"])
    assert row[0] == pytest.approx(len(steps) / row[2])
    assert "Run: trails effects scan" in trails("variants", "effect:none", code=6).error
    assert "effect 'none' was asked for" in trails("effects", "scan", "none", code=2).error
