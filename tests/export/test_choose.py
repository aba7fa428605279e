"""Masks, weights, order and split: known answers and properties."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trails.errors import UsageError
from trails.export import ExportOptions, export_selection
from trails.export.order import arrange, parse_order, stratified_spread
from trails.export.record import COLUMNS, IGNORED, Ragged
from trails.export.split import GRAM, GramIndex, gram_hashes, shared_grams
from trails.export.subgraph import select
from trails.schema import Chain
from trails.store.traces import TraceStore


def export(home, to: Path, **options) -> list[dict]:
    with TraceStore(home.home) as traces:
        report = export_selection(select(None, traces, "all"), traces, "trails", to, ExportOptions(**options))
    return [json.loads(line) for line in report.files["train"].read_text(encoding="utf-8").splitlines()]


def by_chain(rows: list[dict]) -> dict[str, dict]:
    return {row["chain"]: row for row in rows}


@pytest.mark.slow
def test_masks_keep_what_they_say(make_home, tmp_path: Path) -> None:
    home = make_home(10)
    plain = by_chain(export(home, tmp_path / "a.jsonl"))
    low = by_chain(export(home, tmp_path / "b.jsonl", mask="surprisal<1.5&entropy>=1"))
    role = by_chain(export(home, tmp_path / "c.jsonl", mask="role:THEREFORE,BUT"))
    for chain, row in plain.items():
        for i, label in enumerate(row["labels"]):
            s, h = row["surprisal"][i], row["entropy"][i]
            kept = label != IGNORED and s is not None and s < 1.5 and h is not None and h >= 1
            assert low[chain]["labels"][i] == (label if kept else IGNORED)
            step = next((x["step"] for x in row["step_spans"] if x["start"] <= i < x["end"]), None)
            assert role[chain]["labels"][i] == (label if step in (2, 3) else IGNORED)
            assert role[chain]["loss_weights"][i] == float(role[chain]["labels"][i] != IGNORED)


@pytest.mark.slow
def test_random_mask_has_its_share_and_depends_on_the_seed_only(make_home, tmp_path: Path) -> None:
    home, other = make_home(60), make_home(60, name="other", reverse=True, shards=4)
    a = export(home, tmp_path / "a.jsonl", mask="random:0.3")
    b = export(other, tmp_path / "b.jsonl", mask="random:0.3")
    c = export(home, tmp_path / "c.jsonl", mask="random:0.3", seed=1)
    assert a == b
    assert [row["labels"] for row in a] != [row["labels"] for row in c]
    on = sum(label != IGNORED for row in a for label in row["labels"])
    all_ = sum(label != IGNORED for row in export(home, tmp_path / "d.jsonl") for label in row["labels"])
    assert 0.25 < on / all_ < 0.35


@pytest.mark.parametrize("weights", ["surprisal", "entropy", "both", "excess:"])
def test_weights_have_mean_one_and_the_stated_proportions(make_home, tmp_path: Path, weights: str) -> None:
    home = make_home(8, runs=("toy", "reference"))
    first, reference = home.runs
    if weights == "excess:":
        weights += reference.id
    rows = export(home, tmp_path / "o.jsonl", weights=weights, run=first.id)
    other = {t.chain.id: t for t in home.traces if t.run == reference.id}
    for row in rows:
        on = np.array(row["labels"]) != IGNORED
        s, h = np.array(row["surprisal"], float), np.array(row["entropy"], float)
        match weights[:6]:
            case "surpri":
                raw = s
            case "entrop":
                raw = h
            case "both":
                raw = np.sqrt(s * h)
            case _:
                offset = row["token_ids_in_graph"]["offset"]
                raw = np.full(len(s), np.nan)
                raw[offset:] = np.maximum(s[offset:] - other[row["chain"]].surprisal, 0)
        w = np.array(row["loss_weights"])
        assert (w[~on] == 0).all()
        np.testing.assert_allclose(w[on], raw[on] / raw[on].mean(), rtol=1e-3, atol=1e-4)


def test_excess_against_a_run_that_lacks_a_chain(make_home, tmp_path: Path) -> None:
    home = make_home(4)
    with TraceStore(home.home, write=True) as store:
        from dataclasses import replace

        run = replace(home.runs[0], model="reference")
        store.put_run(run)
        store.write([replace(home.traces[0], run=run.id)])
    with pytest.raises(UsageError, match="has not measured chain c[0-9a-f]{16}. Run: trails ingest"):
        export(home, tmp_path / "o.jsonl", weights=f"excess:{run.id}", run=home.runs[0].id)
    with pytest.raises(UsageError, match="a run was asked for and 2 fit. .* Choose with --run ID."):
        export(home, tmp_path / "o.jsonl")


# ---------------------------------------------------------------------------------------------------------------- order

FAMILIES = ["a"] * 6 + ["b"] * 3
IDS = [f"e{i}" for i in range(9)]
NATS = np.array([5.0, 1, 3, 2, 4, 6, 0.5, 0.1, 0.9])
NAMES = [("s", str(i)) for i in range(9)]


def test_rising_is_sorted_within_each_family_and_families_stay_in_proportion() -> None:
    order = arrange("rising", IDS, NATS, FAMILIES, NAMES)
    for family in "ab":
        values = [NATS[i] for i in order if FAMILIES[i] == family]
        assert values == sorted(values)
    assert stratified_spread(FAMILIES, order) < 0.2
    plain = arrange("rising", IDS, NATS, FAMILIES, NAMES, stratify=False)
    assert NATS[plain].tolist() == sorted(NATS)
    assert stratified_spread(FAMILIES, plain) > 0.6
    falling = arrange("falling", IDS, NATS, FAMILIES, NAMES, stratify=False)
    assert NATS[falling].tolist() == sorted(NATS, reverse=True)
    assert arrange("source", IDS, NATS, FAMILIES, [("s", str(9 - i)) for i in range(9)]).tolist() == list(
        range(8, -1, -1)
    )


def test_the_spread_of_strata_is_its_definition_at_every_place() -> None:
    rng = np.random.default_rng(3)
    families = rng.integers(0, 7, 70_000).astype(np.int32)
    order = rng.permutation(len(families))[: 2**16 + 100]  # more than is looked at at a time
    order[:500] = np.flatnonzero(families == 2)[:500]
    sequence = families[order]
    largest = 0.0
    for family in np.unique(sequence):
        mine = sequence == family
        seen, all_seen = np.cumsum(mine) / mine.sum(), np.arange(1, len(order) + 1) / len(order)
        largest = max(largest, float(np.abs(seen - all_seen).max()))
    assert stratified_spread(families, order) == pytest.approx(largest, abs=1e-12)
    assert stratified_spread([f"f{family}" for family in families], order) == stratified_spread(families, order)


def test_rows_without_a_measured_token_come_last() -> None:
    nats = NATS.copy()
    nats[3] = np.nan
    assert arrange("rising", IDS, nats, ["a"] * 9, NAMES)[-1] == 3
    assert arrange("falling", IDS, nats, ["a"] * 9, NAMES)[-1] == 3


def test_rhythm_repeats_each_row_at_growing_distance() -> None:
    order = arrange("rhythm:4", [f"e{i}" for i in range(40)], np.zeros(40), ["a"] * 40, [("s", "1")] * 40).tolist()
    assert sorted(order) == sorted(list(range(40)) * 4)
    for row in range(40):
        places = [i for i, x in enumerate(order) if x == row]
        gaps = np.diff(places)
        assert len(places) == 4
        assert gaps[0] < gaps[2]
    assert parse_order("rhythm") == ("rhythm", 3)
    for wrong in ("rhythm:1", "rhythm:x", "up"):
        with pytest.raises(UsageError, match=f"order '{wrong}' is not known"):
            parse_order(wrong)


@pytest.mark.slow
@given(st.permutations(range(9)), st.sampled_from(["shuffled", "rising", "falling", "rhythm:3", "source"]))
@settings(max_examples=50, deadline=None)
def test_order_does_not_depend_on_storage(permutation: list[int], name: str) -> None:
    p = np.array(permutation)
    plain = [IDS[i] for i in arrange(name, IDS, NATS, FAMILIES, NAMES, seed=7)]
    ids = [IDS[i] for i in p]
    moved = arrange(name, ids, NATS[p], [FAMILIES[i] for i in p], [NAMES[i] for i in p], seed=7)
    assert [ids[i] for i in moved] == plain


# ---------------------------------------------------------------------------------------------------------------- split


def rows_to_ragged(rows: list[list[int]]) -> Ragged:
    return Ragged(
        np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64),
        np.array([x for r in rows for x in r], np.int64),
    )


def split(rows: list[list[int]], share: float = 0.3, gram: int = GRAM):
    with GramIndex(gram=gram) as index:
        half = len(rows) // 2
        for part, first in ((rows[:half], 0), (rows[half:], half)):
            index.add(rows_to_ragged(part), np.arange(first + 1, first + 1 + len(part), dtype=np.uint64))
        return index.split(share, [f"e{i}" for i in range(len(rows))], ["f"] * len(rows), 0)


@pytest.mark.slow
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=2, max_size=14))
@settings(max_examples=200, deadline=None)
def test_parts_share_no_gram(rows: list[list[int]]) -> None:
    found = split(rows, gram=3)
    train = [row for row, held in zip(rows, found.held_out, strict=True) if not held]
    held = [row for row, held in zip(rows, found.held_out, strict=True) if held]
    assert shared_grams(rows_to_ragged(train), rows_to_ragged(held), 3) == 0
    assert train


@pytest.mark.slow
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=18), min_size=1, max_size=10),
    st.sampled_from([1, 3, 4, 13]),
)
@settings(max_examples=200, deadline=None)
def test_equal_grams_meet_and_others_do_not(rows: list[list[int]], gram: int) -> None:
    hashes, row_of = gram_hashes(rows_to_ragged(rows), gram)
    assert len(hashes) == len(row_of)
    known: dict[tuple[int, ...], int] = {}
    for index, row in enumerate(rows):
        width = min(gram, len(row))
        grams = [tuple(row[i : i + width]) for i in range(len(row) - width + 1)]
        mine = hashes[row_of == index].tolist()
        assert len(mine) == len(grams)
        for name, value in zip(grams, mine, strict=True):
            assert known.setdefault(name, value) == value
    assert len(set(known.values())) == len(known)


@pytest.mark.slow
def test_a_variant_stays_on_the_side_of_its_parent() -> None:
    rows = [list(range(20 * i, 20 * i + 20)) for i in range(6)]  # no gram in common
    chains = np.arange(1, 7, dtype=np.uint64)
    parents = np.array([0, 0, 0, 1, 2, 1], np.uint64)
    sides = []
    for seed in range(8):
        with GramIndex() as index:
            index.add(rows_to_ragged(rows[:3]), chains[:3], parents[:3])
            index.add(rows_to_ragged(rows[3:]), chains[3:], parents[3:])
            found = index.split(0.4, [f"e{i}" for i in range(6)], ["f"] * 6, seed)
        assert found.components == 3
        assert found.held_out[0] == found.held_out[3] == found.held_out[5]
        assert found.held_out[1] == found.held_out[4]
        sides.append(found.held_out.tolist())
    assert sum(map(any, sides)) > 4


@pytest.mark.slow
def test_a_group_takes_as_much_of_the_share_as_it_has_rows() -> None:
    rows = [list(range(20 * i, 20 * i + 20)) for i in range(9)]
    rows += [rows[0], rows[0]]  # three rows that belong together, and eight alone
    sizes = []
    for seed in range(40):
        with GramIndex() as index:
            index.add(rows_to_ragged(rows), np.arange(1, 12, dtype=np.uint64))
            held = index.split(0.3, [f"e{i:02}" for i in range(11)], ["f"] * 11, seed).held_out
        assert held[0] == held[9] == held[10]
        assert held.sum() <= 0.3 * 11 + 0.5
        sizes.append((int(held[0]), int(held.sum())))
    # 3.3 rows of 11: the group alone leaves room for no other, and without it three rows are held out
    assert set(sizes) == {(1, 3), (0, 3)}


def test_a_family_gives_no_more_than_its_own_share() -> None:
    rows = [list(range(20 * i, 20 * i + 20)) for i in range(10)]
    families = ["a"] * 8 + ["b"] * 2
    for seed in range(12):
        with GramIndex() as index:
            index.add(rows_to_ragged(rows), np.arange(1, 11, dtype=np.uint64))
            held = index.split(0.25, [f"e{i}" for i in range(10)], families, seed).held_out
        assert (int(held[:8].sum()), int(held[8:].sum())) == (2, 1)


@pytest.mark.slow
def test_exported_variants_stay_on_the_side_of_their_parent(make_home, tmp_path: Path) -> None:
    home = make_home(12)

    def words(i: int) -> str:  # nothing in common with the parent but the name
        return " ".join(f"v{i}x{j}" for j in range(20)) + "."

    parents = home.chains
    variants = [
        Chain(c.source, f"{c.source_id}-v", "", words(i), metadata={"parent": c.id, "variant": "synonym"})
        for i, c in enumerate(parents)
    ]
    other = make_home(chains=variants, name="variants")
    with TraceStore(other.home) as store:
        pq.write_table(pa.concat_tables(list(store.tables(list(COLUMNS)))), tmp_path / "variants.parquet")
    for seed in range(3):
        rows = export(home, tmp_path / f"{seed}.jsonl", split=0.4, seed=seed, variants=tmp_path / "variants.parquet")
        lines = (tmp_path / f"{seed}.held_out.jsonl").read_text(encoding="utf-8").splitlines()
        held = [json.loads(line) for line in lines]
        assert len(rows) + len(held) == 24
        assert held
        for side in (rows, held):
            assert {row["parent"] for row in side if row["parent"]} == {r["chain"] for r in side if not r["parent"]}


@pytest.mark.slow
def test_split_of_real_looking_rows(make_home, tmp_path: Path) -> None:
    shared = " ".join(f"s{i}" for i in range(20))
    chains = [
        Chain("s.jsonl", str(i), "", (shared if i < 5 else "") + " " + " ".join(f"u{i}x{j}" for j in range(30)))
        for i in range(30)
    ]
    home = make_home(chains=chains)
    rows = export(home, tmp_path / "o.jsonl", split=0.2)
    held = [json.loads(line) for line in (tmp_path / "o.held_out.jsonl").read_text().splitlines()]
    assert len(rows) + len(held) == 30
    assert 4 <= len(held) <= 7
    linked = {chain.id for chain in chains[:5]}
    sides = {row["chain"] in linked for row in held if row["chain"] in linked}
    assert not sides or len({row["chain"] for row in held} & linked) == 5
    assert {row["split"] for row in rows} == {"train"}
    assert {row["split"] for row in held} == {"held_out"}
    card = (tmp_path / "o.README.md").read_text()
    assert "26 groups of rows without a shared 13-gram; the largest holds 17 % of the rows." in card


def test_rows_that_all_hang_together_leave_nothing_to_hold_out(make_home, tmp_path: Path) -> None:
    text = " ".join(f"s{i}" for i in range(20))
    home = make_home(chains=[Chain("s", str(i), "", f"{text} n{i}") for i in range(10)])
    rows = export(home, tmp_path / "o.jsonl", split=0.2)
    assert len(rows) == 10
    assert (tmp_path / "o.held_out.jsonl").read_text() == ""
    card = (tmp_path / "o.README.md").read_text()
    assert "13-grams of tokens shared by train and held-out rows: 0." in card
    assert "1 group of rows without a shared 13-gram; the largest holds 100 % of the rows." in card
