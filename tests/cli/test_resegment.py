"""trails rebuild --segment: steps of this version, tokens and what was measured of them as they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trails.config import load_settings
from trails.pipeline import segmented
from trails.pipeline.resegmenting import resegment
from trails.schema import Role, Step, Trace
from trails.segment import segmenter_hash
from trails.segment.align import assign_tokens
from trails.store.base import GraphBatch
from trails.store.embedded import EmbeddedStore
from trails.store.rows import table_of
from trails.store.scope import owned
from trails.store.traces import TraceStore

TEXTS = [
    "If it rains, the street is wet. But it is dry.",
    "Tom has 5 apples. He buys 3 more. So he has 8 apples.",
]
TOKEN_MEASURES = (
    "token_ids",
    "token_start",
    "token_end",
    "surprisal",
    "entropy",
    "rank",
    "logit_shift",
    "hidden_shift",
)


def as_earlier(trace: Trace) -> Trace:
    """The first text with one step and its states; the second with its steps, without what later versions added."""
    if not trace.chain.text.startswith("If"):
        plain = (Step(s.index, s.start, s.end, Role.NONE) for s in trace.steps)
        return replace(trace, steps=tuple(plain))
    spans = np.stack([trace.token_start, trace.token_end], axis=1)
    whole = ((0, len(trace.chain.text)),)
    bins = np.full((3, trace.n_layers), 1 / 3, np.float32)
    return replace(
        trace,
        steps=(Step(0, 0, len(trace.chain.text)),),
        step_tokens=assign_tokens(whole, spans),
        step_attention=bins,
        nll_given_all=None if trace.nll_given_all is None else trace.nll_given_all[:1],
        nll_given_question=None if trace.nll_given_question is None else trace.nll_given_question[:1],
        nll_without_previous=None if trace.nll_without_previous is None else trace.nll_without_previous[:1],
    )


@pytest.fixture
def home(trails: Any, tmp_path: Path) -> Any:
    """A home as an earlier segmenter left it."""
    lines = [json.dumps({"id": str(i), "question": "q", "chain": text}) for i, text in enumerate(TEXTS)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines), encoding="utf-8")
    trails("ingest", "c.jsonl", "--premises")
    with TraceStore(tmp_path / "home", write=True) as store:
        (name,) = store.shard_names()
        store.rewrite(name, [as_earlier(trace) for trace in store.shard(name)])
        store.resegmented("0123456789abcdef")
    trails("rebuild", "--fresh")
    return trails


def traces(tmp_path: Path) -> dict[str, Trace]:
    with TraceStore(tmp_path / "home") as store:
        return {trace.chain.source_id: trace for trace in store.traces()}


@pytest.mark.slow
def test_steps_are_new_and_tokens_keep_their_values_to_the_bit(home: Any, tmp_path: Path) -> None:
    before = traces(tmp_path)
    assert "another version of the segmenter" in " ".join(home("ingest", "c.jsonl", code=None).err.split())
    said = " ".join(home("rebuild", "--segment").err.split())
    after = traces(tmp_path)
    for name in before:
        for measure in TOKEN_MEASURES:
            assert before[name].array(measure).tobytes() == after[name].array(measure).tobytes(), measure
    first, second = (next(t for t in after.values() if t.chain.text == text) for text in TEXTS)
    assert [s.role.value for s in first.steps] == ["IF", "THEN", "BUT"]
    assert [s.role.value for s in second.steps] == ["NONE", "NONE", "THEREFORE"]
    assert first.step_tokens.tolist() == [[0, 13], [13, 32], [32, 46]]  # a token of the uniform model is a byte
    assert np.isnan(first.attention_shift).all()
    assert np.isnan(first.step_attention).all()
    assert first.nll_given_all is None
    # steps with the same borders keep everything
    old = before[second.chain.source_id]
    assert old.step_attention.tobytes() == second.step_attention.tobytes()
    assert old.nll_given_all is not None
    assert old.nll_given_all.tobytes() == second.nll_given_all.tobytes()
    assert second.steps[0].source_line == 1
    assert "1 measured chain has other steps" in said
    assert "attention_shift" in said
    assert "nll_given_all" in said
    with TraceStore(tmp_path / "home") as store:
        assert store.segmenter == segmenter_hash()
    assert home("verify").code == 0
    rows = json.loads(home("cypher", "MATCH (c:Chain) RETURN c.roles AS roles ORDER BY roles", "--json").out)
    assert [row["roles"] for row in rows] == ["IF>THEN>BUT", "NONE>NONE>THEREFORE"]
    # what an ingest can add is added; the home goes on
    assert "added" in home("ingest", "c.jsonl", "--premises").err
    assert traces(tmp_path)[first.chain.source_id].nll_given_all is not None


@pytest.mark.slow
def test_a_second_time_changes_nothing(home: Any, tmp_path: Path) -> None:
    home("rebuild", "--segment")
    with TraceStore(tmp_path / "home") as store:
        digest, names = store.digest(), store.shard_names()
    assert "2 measured chains keep their steps" in " ".join(home("rebuild", "--segment").err.split())
    with TraceStore(tmp_path / "home") as store:
        assert (store.digest(), store.shard_names()) == (digest, names)


@pytest.mark.parametrize(
    "killed", ["before the new shard", "between the two shards", "after the old shard", "at the end"]
)
def test_the_call_after_a_killed_one_tells_what_both_changed(
    home: Any, tmp_path: Path, killed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two shards: one with the chain that gets other steps, one with that which gets other roles. Wherever the first call dies
    while it replaces the first or the second, the next one says what one call would have said, and clears the same results."""
    with TraceStore(tmp_path / "home", write=True) as store:
        (name,) = store.shard_names()
        for trace in list(store.shard(name)):
            store.write([trace])
        (tmp_path / "home" / "shards" / name).unlink()
    with TraceStore(tmp_path / "home") as store, EmbeddedStore(tmp_path / "home") as graph:
        every = [trace.chain.id for trace in store.traces()]
        gaps = {"id": ["g", "h"], "chain": sorted(every), "home": [store.identity().id] * 2}
        graph.write([GraphBatch({"Gap": table_of("Gap", gaps)})])
        graph.save()

    class KilledError(Exception):
        pass

    rewrite, resegmented = TraceStore.rewrite, TraceStore.resegmented
    done: list[str] = []

    def dies(self: TraceStore, name: str, rows: Any) -> str:
        if killed == "before the new shard" and done:
            raise KilledError
        if killed == "between the two shards":
            self.write(rows)
            raise KilledError
        done.append(rewrite(self, name, rows))
        if killed == "after the old shard":
            raise KilledError
        return done[-1]

    def ends(self: TraceStore, value: str) -> None:
        raise KilledError

    settings = load_settings(home=tmp_path / "home", store="embedded")
    monkeypatch.setattr(TraceStore, "rewrite", dies)
    if killed == "at the end":
        monkeypatch.setattr(TraceStore, "resegmented", ends)
    with pytest.raises(KilledError):
        resegment(settings)
    monkeypatch.setattr(TraceStore, "rewrite", rewrite)
    monkeypatch.setattr(TraceStore, "resegmented", resegmented)
    found = resegment(settings)
    assert (found.same, found.roles, found.changed) == (1, 1, 1)
    assert set(found.lost) == {"attention_shift", "step_attention", "nll_given_all"}
    assert set(found.lost.values()) == {1}
    assert found.cleared == ("Gap",)
    if killed == "at the end":
        assert found.before == 1
        assert "other steps (1 of them since an earlier run, which was stopped)" in " ".join(found.lines())
    with EmbeddedStore(tmp_path / "home") as graph:
        assert graph.run("MATCH (n:Gap) RETURN count(n) AS n").rows[0][0] == 0, "chains with other roles, too"
    assert not (tmp_path / "home" / "resegmenting").exists()
    again = resegment(settings)
    assert (again.same, again.roles, again.changed, again.before) == (2, 0, 0, 0)


@pytest.mark.slow
def test_results_about_steps_that_change_go_and_the_others_stay(home: Any, tmp_path: Path) -> None:
    found = traces(tmp_path)
    changed, same = (
        next(t.chain.id for t in found.values() if t.chain.text.startswith(word)) for word in ("If", "Tom")
    )
    (run,) = {trace.run for trace in found.values()}
    with TraceStore(tmp_path / "home", write=True) as store:
        (name,) = store.shard_names()
        now = [replace(t, steps=segmented(t.chain).steps) if t.chain.id == same else t for t in store.shard(name)]
        store.rewrite(name, now)
    home("rebuild", "--fresh")
    pairs = {"start": [f"{same}:1", f"{changed}:0"], "end": [f"{same}:0", f"{changed}:0"], "run": [run, run]}
    with TraceStore(tmp_path / "home") as store:
        me = store.identity().id
    rows = GraphBatch(
        {
            "Effect": table_of("Effect", {"id": ["e"], "run": [run], "share": [0.5]}),
            "Disagreement": table_of("Disagreement", {"id": ["d", "x"], "chain": [changed, same]}),
            "Response": table_of("Response", {"id": ["r", "q"], "chain": [changed, same], "run": [run, run]}),
        },
        {"DEPENDS_ON": table_of("DEPENDS_ON", {**pairs, "nats": [0.5, 1.5]})},
    )
    near = table_of("SIMILAR", {**pairs, "scope": ["s", "s"], "home": [me, me], "layer": [1, 1]})
    with EmbeddedStore(tmp_path / "home") as graph:
        graph.write([owned(rows, me), GraphBatch({}, {"SIMILAR": near})])
        graph.save()
    said = " ".join(home("rebuild", "--segment").err.split())
    assert "counted steps are gone: Effect, Disagreement, Response, DEPENDS_ON, SIMILAR" in said
    with EmbeddedStore(tmp_path / "home") as graph:
        counts = graph.counts()
        assert "Effect" not in counts
        for label, left in (("Disagreement", "x"), ("Response", "q")):
            assert graph.run(f"MATCH (n:{label}) RETURN n.id").rows == ((f"{left}@{me[:9]}",),)
        for kind in ("DEPENDS_ON", "SIMILAR"):
            assert graph.run(f"MATCH (a:Step)-[:{kind}]->(:Step) RETURN a.chain").rows == ((same,),)


@pytest.mark.slow
def test_corrections_that_do_not_fit_the_new_borders_are_counted(home: Any) -> None:
    rows = home("roles", "export").out
    Path("roles.jsonl").write_text(rows, encoding="utf-8")
    home("roles", "import", "roles.jsonl", "--by", "anna")
    assert "all 4 corrected steps" in " ".join(home("status").out.split())
    said = " ".join(home("rebuild", "--segment").err.split())
    told = "3 of 4 corrected steps have the borders of the home's steps and are applied; the other 1"
    assert told in said
    assert told in " ".join(home("status").out.split())
    assert json.loads(home("status", "--json").out)["corrections"] == {"applied": 3, "steps": 4}
    score = json.loads(home("roles", "score", "--json").out)
    assert (score["n_stored"], score["n_steps"]) == (3, 4)


@pytest.mark.slow
@pytest.mark.parametrize("first", [(), ("--keep-source-steps",)])
def test_the_other_choice_of_source_steps_is_an_option_and_no_version(trails: Any, first: tuple[str, ...]) -> None:
    Path("c.jsonl").write_text(json.dumps({"id": "0", "question": "q", "chain": TEXTS[0]}), encoding="utf-8")
    Path("d.jsonl").write_text(json.dumps({"id": "1", "question": "q", "chain": TEXTS[1]}), encoding="utf-8")
    trails("ingest", "c.jsonl", *first)
    other = () if first else ("--keep-source-steps",)
    said = " ".join(trails("ingest", "d.jsonl", *other, code=None).err.split())
    word = "with" if first else "without"
    assert f"was made {word} --keep-source-steps: run the same command {word} --keep-source-steps" in said
    assert "rebuild --segment" not in said
    assert trails("ingest", "d.jsonl", *first).code == 0
