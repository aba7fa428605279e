"""Microvariants with a tiny random model and a real tokenizer: edits, ladders, volatility, the gate, the file."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trails.errors import ModelError, UsageError
from trails.export import ExportOptions, export_selection
from trails.export.record import COLUMNS
from trails.export.subgraph import select
from trails.export.variant_rows import read_refusals
from trails.measure import open_scorer
from trails.measure.base import MeasureOptions, Segmented
from trails.schema import Chain, Role, Step, stable_hash
from trails.store.traces import TraceStore
from trails.variants import KINDS, VariantOptions
from trails.variants.edits import aligned, flaw, levenshtein
from trails.variants.files import variant_table, write_variants
from trails.variants.measuring import make_variants
from trails.variants.stored import marked_edits, read_variant_run, variant_run_id

TEXT = (
    "If the shop sold 12 apples in May, then it sold 24 apples in June. But the owner wants to know the sum.\n"
    "Therefore we add 12 and 24 and find 36 apples in all."
)


def item(text: str = TEXT) -> Segmented:
    cuts = [0, text.find(" then"), text.find(" But"), text.find("Therefore"), len(text)]
    roles = (Role.IF, Role.THEN, Role.BUT, Role.THEREFORE)
    steps = tuple(Step(i, a, b, roles[i]) for i, (a, b) in enumerate(itertools.pairwise(cuts)))
    return Segmented(Chain("s.jsonl", "1", "How many apples?", text, language="en", licence="MIT"), steps)


@pytest.fixture(scope="module")
def scorer():
    """A random Llama of two layers with the tokenizer of the packaged model."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from trails.errors import MissingPackageError
    from trails.measure.huggingface import HuggingFaceScorer
    from trails.measure.packaged import packaged_model

    try:
        tokenizer = AutoTokenizer.from_pretrained(packaged_model(), local_files_only=True)
    except MissingPackageError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    return HuggingFaceScorer(LlamaForCausalLM(config), tokenizer, name="tiny", revision="0")


@pytest.fixture(scope="module")
def report(scorer):
    return make_variants(scorer, item(), VariantOptions(count=40, budget=None, drift=False))


@pytest.mark.model
def test_every_variant_is_within_the_bound_of_its_parent(report, scorer) -> None:
    ids = {report.chain: scorer.model.text.ids(TEXT)} | {v.chain.id: v.token_ids.tolist() for v in report.variants}
    assert len(report.accepted) == 40
    assert {v.kind for v in report.accepted} >= set(KINDS) - {"synonym"}
    for v in report.accepted:
        assert scorer.model.text.ids(v.chain.text) == v.token_ids.tolist()
        assert levenshtein(ids[v.parent], ids[v.chain.id]) == v.edits <= 2
        assert levenshtein(ids[report.chain], ids[v.chain.id]) == v.distance
        assert v.steps[0].start == 0
        assert v.steps[-1].end == len(v.chain.text)
        assert all(a.end == b.start for a, b in zip(v.steps, v.steps[1:], strict=False))
        assert v.step_tokens[0, 0] == 0
        assert v.step_tokens[-1, 1] == len(v.token_ids)
        assert (v.token_ids < scorer.run.vocab_size).all()
    assert len({v.chain.text for v in report.accepted}) == 40
    assert sum(report.dropped.values()) > 0


@pytest.mark.model
def test_plain_is_the_chain_and_does_not_drift(report) -> None:
    (plain,) = [v for v in report.variants if v.kind == "plain"]
    assert plain.chain.text == TEXT
    assert plain.edits == 0
    assert plain.volatility <= 1e-6
    assert plain.hidden_drift.max() <= 1e-5
    assert report.noise_floor < 1e-5
    assert max(v.volatility for v in report.variants) > 100 * report.noise_floor


@pytest.mark.model
def test_volatility_is_the_divergence_of_full_forward_passes(report, scorer) -> None:
    """Against a fresh pass of every text from its beginning, in float64."""
    context = scorer.model.text.ids("How many apples?\n")

    def distributions(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            logits = scorer.model.module(input_ids=torch.tensor([[*context, *ids]])).logits[0, len(context) :]
        return torch.softmax(logits.double(), -1)

    base_ids = scorer.model.text.ids(TEXT)
    base = distributions(base_ids)
    for v in report.variants[:: max(len(report.variants) // 8, 1)]:
        ids = v.token_ids.tolist()
        other = distributions(ids)
        pairs = aligned(base_ids, ids)
        p, q = base[[a for a, _ in pairs]], other[[b for _, b in pairs]]
        m = (p + q) / 2
        js = ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2
        assert v.volatility == pytest.approx(float(js.mean()), abs=1e-5)
        assert v.logit_drift == pytest.approx(float((p - q).abs().sum(-1).mean() / 2), abs=1e-5)
        with torch.no_grad():
            logits = scorer.model.module(input_ids=torch.tensor([[*context, *ids]])).logits[0].double()
        log_p = torch.log_softmax(logits, -1)
        nll = [-float(log_p[len(context) - 1 + i, token]) for i, token in enumerate(ids)]
        np.testing.assert_allclose(v.surprisal, nll, atol=1e-3)


@pytest.mark.model
def test_the_gate_rejects_with_a_reason_and_rungs_need_their_parent(scorer, report, tmp_path: Path) -> None:
    budget = float(np.median([v.volatility for v in report.variants]))
    gated = make_variants(scorer, item(), VariantOptions(count=40, budget=budget))
    accepted = {v.chain.id for v in gated.accepted}
    rungs = {v.chain.id for v in gated.variants if v.reason.startswith("a rung on the way: ")}
    assert 0 < len(accepted) < len(gated.variants)
    for v in gated.variants:
        if v.accepted:
            assert v.volatility <= budget
            assert v.parent == gated.chain or v.parent in accepted | rungs
            assert v.reason == ""
        else:
            assert v.reason.startswith(("volatility ", "its parent was not", "enough variants", "a rung on the way: "))
    # those measured in place of rejected ones have the numbers that a longer list gives them at once
    longer = make_variants(scorer, item(), VariantOptions(count=48, budget=None))
    assert len(gated.variants) > 40
    assert len(report.accepted) == 40
    for one, two in zip(gated.variants, longer.variants, strict=True):
        assert one.chain.id == two.chain.id
        assert one.volatility == pytest.approx(two.volatility, abs=1e-6)
        np.testing.assert_allclose(one.hidden_drift, two.hidden_drift, atol=1e-5)
    table = variant_table(gated, scorer.run.id, scorer.run.tokenizer, scorer.model.text.ids("How many apples?\n"))
    rejected = write_variants([table], [gated], tmp_path / "v.parquet")
    lines = [json.loads(line) for line in rejected.read_text(encoding="utf-8").splitlines()]
    assert sum("variant" in line for line in lines) == len(gated.variants) - len(accepted)
    assert pq.read_table(tmp_path / "v.parquet").num_rows == len(accepted)
    made = Counter(v.kind for v in gated.variants)
    taken = Counter(v.kind for v in gated.accepted)
    kinds = read_variant_run(tmp_path / "v.parquet").kinds
    assert {kind.kind: (kind.made, kind.accepted) for kind in kinds} == {k: (made[k], taken[k]) for k in made}


@pytest.mark.model
def test_variants_are_the_same_on_a_second_run_and_become_rows(scorer, tmp_path: Path) -> None:
    options = VariantOptions(count=10, budget=None)
    question = scorer.model.text.ids("How many apples?\n")
    for name in "ab":
        found = make_variants(scorer, item(), options)
        table = variant_table(found, scorer.run.id, scorer.run.tokenizer, question)
        write_variants([table], [found], tmp_path / f"{name}.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()

    def broken():
        yield table.slice(0, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # what lies there stays whole
        write_variants(broken(), [found], tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    with TraceStore(tmp_path / "home", write=True) as store:
        store.put_run(scorer.run)
        store.write(scorer.measure([item()], MeasureOptions()))
    with TraceStore(tmp_path / "home") as store:
        report = export_selection(
            select(None, store, "all"),
            store,
            "trails",
            tmp_path / "o.parquet",
            ExportOptions(variants=tmp_path / "a.parquet"),
        )
    rows = pq.read_table(report.files["train"]).to_pylist()
    assert report.counts.variants == 9  # the plain one is the chain, which is there already
    assert len(rows) == 10
    parents = {row["parent"] for row in rows}
    assert parents == {"", item().chain.id}
    assert all(row["input_ids"][: len(question)] == question for row in rows)


@pytest.mark.model
def test_attention_drift_of_the_chain_itself_is_zero(scorer) -> None:
    found = make_variants(scorer, item(), VariantOptions(count=6, budget=None, drift=True))
    for v in found.accepted:
        if v.attention_drift is not None:
            assert v.attention_drift.shape == (2,)
            assert (v.attention_drift.max() < 1e-5) == (v.kind == "plain")


@pytest.mark.model
def test_a_refused_variant_is_accepted_by_hand_and_nothing_else_changes(scorer) -> None:
    options = VariantOptions(count=9, budget=0.01, kinds=("highlight", "json"))
    before = make_variants(scorer, item(), options).variants
    refused = [v.chain.id for v in before if v.reason.startswith("volatility")]
    after = make_variants(scorer, item(), replace(options, accept=(refused[-1],))).variants
    assert [v.chain.id for v in after] == [v.chain.id for v in before]
    changed = [(new, old) for new, old in zip(after, before, strict=True) if new.accepted != old.accepted]
    assert [new.chain.id for new, _ in changed] == [refused[-1]]
    assert changed[0][0].reason == f"accepted by hand; the gate: {changed[0][1].reason}"
    asked = (
        '{"budget": 0.1, "count": 50, "drift": false, "kinds": ["plain", "highlight", "summary", "drop_last", "json", '
    )
    asked += '"synonym"], "max_edits": 2, "seed": 0, "whole": true}'
    assert variant_run_id("r", VariantOptions(), ["c1"]) == "v" + stable_hash("r", asked, "c1")  # as before the option
    assert variant_run_id("r", options, ["c1"]) != variant_run_id("r", replace(options, accept=("c2",)), ["c1"])


@pytest.mark.model
def test_wrong_use(scorer) -> None:
    with pytest.raises(UsageError, match="kind 'loud' does not exist. Kinds: plain, highlight, summary"):
        make_variants(scorer, item(), VariantOptions(kinds=("loud",)))
    with pytest.raises(ModelError, match="variants need a language model; this scorer has none"):
        make_variants(open_scorer("uniform"), item())


@pytest.mark.slow
@given(st.lists(st.integers(0, 3), max_size=9), st.lists(st.integers(0, 3), max_size=9))
@settings(max_examples=300, deadline=None)
def test_edit_distance_and_alignment(a: list[int], b: list[int]) -> None:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0, :] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            swap = table[i - 1, j - 1] + (a[i - 1] != b[j - 1])
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, swap)
    assert levenshtein(a, b) == table[-1, -1] == levenshtein(b, a)
    pairs = aligned(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert all(p[0] < q[0] and p[1] < q[1] for p, q in itertools.pairwise(pairs))
    if a == b:
        assert pairs == [(i, i) for i in range(len(a))]


@pytest.mark.parametrize(
    ("text", "variant", "reason"),
    [
        ("It is. Thus we add.", "It is. → summary: Thus we add.", ""),
        ("It is. Thus we add.", "It is. → summaryThus we add.", "it joins two words"),
        ("It is. Thus we add.", "It is. [HIGHLIGHThus we add.", "it joins two words"),
        ("this will be so.", "this will* be so.", "its mark has no partner"),
        ("this will be so.", "this *will* be so.", ""),
        ("One line.\nTwo words here.", "One line.\nTwo wor", "it ends inside a word"),
        ("One line.\nTwo words here.", "One line.\nTwo words", "it ends inside a sentence"),
        ("One line.\nTwo words here.", "One line.", ""),
        ("a line\nTwo words here.", "a line", ""),
        ("It is. Thus we add.", 'It is. {"Thus we add."}', ""),
        ("It is.", "It is.", ""),
    ],
)
def test_what_breaks_a_word_or_a_sentence_is_named(text: str, variant: str, reason: str) -> None:
    assert flaw(text, variant) == reason


@pytest.mark.model
def test_broken_rungs_are_made_refused_and_explained(scorer) -> None:
    kinds = ("highlight", "summary", "drop_last", "json")
    report = make_variants(scorer, item(), VariantOptions(count=20, budget=None, kinds=kinds))
    assert report.accepted
    assert all(flaw(TEXT, v.chain.text) == "" for v in report.accepted)
    refused = [v for v in report.variants if v.reason.startswith("a rung on the way: ")]
    assert {v.reason for v in refused} >= {"a rung on the way: it joins two words"}
    assert {v.parent for v in report.accepted} & {
        v.chain.id for v in refused
    }  # a whole edit stands on its broken rungs
    anyway = make_variants(scorer, item(), VariantOptions(count=20, budget=None, kinds=kinds, whole=False))
    assert any(flaw(TEXT, v.chain.text) for v in anyway.accepted)
    assert not any("rung on the way" in v.reason for v in anyway.variants)


def test_edits_are_marked_and_unchanged_text_is_cut() -> None:
    text = "a" * 100 + " we add 12 " + "b" * 100
    changed = text.replace(" add ", " find ")
    assert marked_edits(text, changed, 8) == " … aaaa we [-add-]{+find+} 12 bbbb … "
    assert marked_edits("one two", "one two") == "one two"
    assert marked_edits(text, text, 4) == "aaaa … bbbb"


def test_refused_variants_are_left_out_of_an_export(tmp_path: Path) -> None:
    import pyarrow as pa

    stored, file = tmp_path / "v.parquet", tmp_path / "refuse.txt"
    names = ["c1", "c2"]
    pq.write_table(pa.table({"chain": names}), stored)
    file.write_text("c1\n")
    with pytest.raises(UsageError, match=r"v.parquet is not a file of variants. Run: trails variants"):
        read_refusals(file, stored)
    pq.write_table(pa.table(dict.fromkeys(COLUMNS, names)), stored)
    file.write_text("# seen by hand\n\nc2 reads badly\n")
    assert read_refusals(file, stored) == {"c2"}
    file.write_text("c1\nc3\n")
    with pytest.raises(UsageError, match=r"refuse.txt:2: variant 'c3' is not stored"):
        read_refusals(file, stored)
