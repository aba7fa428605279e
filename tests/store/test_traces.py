"""The trace store: round trips to the bit, digests, the lock, and every way in which writing can fail."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.store.factory import corpus, make_chain, make_run, make_trace, same

from trails.errors import InputError, StoreError
from trails.schema import ADDED_COLUMNS, OPTIONAL_COLUMNS, SHARD_SCHEMA, Chain, Role, Step, Trace
from trails.store import shards
from trails.store import traces as module
from trails.store.shards import decode_shard, encode_shard, to_table
from trails.store.traces import TraceStore

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SLOW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def any_trace(draw: st.DrawFn) -> Trace:
    """A trace of any shape, text and bit pattern."""
    n = draw(st.integers(0, 6))
    layers = draw(st.integers(0, 3))
    n_steps = draw(st.integers(1, 4))
    bits = random.Random(draw(st.integers(0, 2**32)))

    def floats(*shape: int) -> np.ndarray:
        return np.frombuffer(bits.randbytes(4 * int(np.prod(shape))), np.float32).reshape(shape)

    def ints(*shape: int) -> np.ndarray:
        return np.frombuffer(bits.randbytes(4 * int(np.prod(shape))), np.int32).reshape(shape)

    flags = [draw(st.booleans()) for _ in range(6)]
    width = draw(st.integers(1, 3))
    # with no token at all the width of per-token lists is not known; a chain without tokens has no peaks
    peaks = width if n else 0
    state_layers = tuple(range(draw(st.integers(1, 2)))) if flags[3] else ()
    chain = Chain(
        source=draw(TEXT),
        source_id=draw(TEXT),
        question=draw(TEXT),
        text=draw(TEXT),
        answer=draw(TEXT),
        language=draw(TEXT),
        boundaries=tuple(draw(st.lists(st.integers(0, 2**31 - 1), max_size=3))),
        metadata=draw(st.dictionaries(TEXT, TEXT, max_size=3)),
        source_sha256=draw(TEXT),
        licence=draw(TEXT),
        messages=draw(TEXT),
        family=draw(TEXT),
    )
    small = st.integers(0, 9)
    kept = [
        [-2, -1, *sorted(draw(st.sets(st.integers(0, max(s - 1, 0)), max_size=s and 2))), s] for s in range(n_steps)
    ]
    keys = np.array([key for row in kept for key in row], np.int32) if flags[5] else None
    described = draw(st.booleans())

    def placed(i: int) -> dict[str, object]:
        """What later versions added to a step: of all steps or of none, as an older shard has it."""
        if not described:
            return {}
        role = draw(st.sampled_from(["", "BUT", "THEREFORE"]))
        return {"scene": i, "source_line": i + 1, "implicit_role": role, "implicit_p": 0.25 if role else 0.0}

    steps = tuple(
        Step(
            i,
            draw(small),
            draw(small),
            draw(st.sampled_from(Role)),
            draw(TEXT),
            draw(TEXT),
            draw(st.booleans()),
            **placed(i),
        )
        for i in range(n_steps)
    )
    return Trace(
        chain=chain,
        steps=steps,
        run=draw(TEXT),
        tokenizer=draw(TEXT),
        n_layers=layers,
        token_ids=ints(n),
        token_start=ints(n),
        token_end=ints(n),
        pieces=tuple(draw(TEXT) for _ in range(n)),
        step_tokens=ints(n_steps, 2),
        question_token_ids=ints(2),
        question_surprisal=floats(2),
        n_context=draw(st.integers(0, 99)),
        surprisal=floats(n),
        entropy=floats(n),
        rank=ints(n),
        logit_shift=floats(n),
        attention_shift=floats(n, layers),
        attention_previous=floats(n, layers),
        attention_sink=floats(n, layers),
        attention_entropy=floats(n, layers),
        hidden_shift=floats(n, layers + 1),
        hidden_baseline=floats(layers + 1),
        step_attention=floats(n_steps * (n_steps + 5) // 2 if keys is None else len(keys), layers),
        step_keys=keys,
        token_attends_step=ints(n) if flags[0] else None,
        token_attends_mass=floats(n) if flags[0] else None,
        token_attends_layer=ints(n) if flags[0] else None,
        peak_token=ints(n, peaks) if flags[1] else None,
        peak_mass=floats(n, peaks) if flags[1] else None,
        peak_layer=ints(n, peaks) if flags[1] else None,
        nll_given_all=floats(n_steps) if flags[2] else None,
        nll_given_question=floats(n_steps) if flags[2] else None,
        nll_without_previous=floats(n_steps) if flags[2] else None,
        state_layers=state_layers,
        step_states=floats(n_steps, len(state_layers), 5) if flags[3] else None,
    )


@pytest.mark.slow
@SLOW
@given(st.lists(any_trace(), max_size=5))
def test_parquet_gives_back_every_bit(traces: list[Trace]) -> None:
    import pyarrow.parquet as pq

    data = bytes(encode_shard(traces)) if traces else None
    back = list(decode_shard(pq.read_table(io.BytesIO(data)))) if data else []
    assert len(back) == len(traces)
    assert all(same(a, b) for a, b in zip(traces, back, strict=True))
    sliced = to_table(traces).slice(1)
    assert all(same(a, b) for a, b in zip(traces[1:], decode_shard(sliced), strict=True))


@pytest.mark.slow
@settings(SLOW, max_examples=12)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_the_digest_depends_on_what_is_stored_only(
    tmp_path_factory: pytest.TempPathFactory, picks: list[int], rng: random.Random
) -> None:
    traces = corpus(12)
    wanted = {traces[i].chain.id: traces[i] for i in picks}
    digests = set()
    for order in (picks, rng.sample(picks, len(picks)), sorted(set(picks))):
        with TraceStore(tmp_path_factory.mktemp("digest"), write=True) as store:
            while order:
                size = rng.randint(1, len(order))
                store.write([traces[i] for i in order[:size]])
                order = order[size:]
            digests.add(store.digest())
            assert {trace.chain.id for trace in store.traces()} == set(wanted)
    assert len(digests) == 1
    assert digests.pop().n_traces == len(wanted)


@pytest.mark.slow
def test_the_digest_notices_every_change(tmp_path: Path) -> None:
    trace = corpus(1)[0]
    seen = {}
    step = replace(trace.steps[0], connective="other")
    surprisal = trace.surprisal.copy()
    surprisal[-1] = np.nextafter(surprisal[-1], np.float32(99))
    variants = {
        "same": trace,
        "answer": replace(trace, chain=replace(trace.chain, answer="43")),
        "metadata": replace(trace, chain=replace(trace.chain, metadata={"a": "b"})),
        "step": replace(trace, steps=(step, *trace.steps[1:])),
        "piece": replace(trace, pieces=("x", *trace.pieces[1:])),
        "token": replace(trace, token_ids=trace.token_ids + 1),
        "run": replace(trace, run="r2"),
        "measured": replace(trace, token_attends_mass=None, token_attends_step=None, token_attends_layer=None),
        "bit": replace(trace, surprisal=surprisal),
    }
    for name, variant in variants.items():
        with TraceStore(tmp_path / name, write=True) as store:
            store.write([variant])
            seen[name] = store.digest()
    assert len({digest.values for digest in seen.values()}) == len(variants)
    assert {name for name, digest in seen.items() if digest.content == seen["same"].content} == {"same", "bit"}


@pytest.mark.slow
def test_the_first_shard_by_name_counts(tmp_path: Path) -> None:
    trace = corpus(1)[0]
    other = replace(trace, surprisal=trace.surprisal + 1)
    with TraceStore(tmp_path, write=True) as store:
        names = {store.write([trace]): trace, store.write([other]): other}
        assert len(names) == 2
        (found,) = store.traces()
        assert same(found, names[min(names)])
        assert store.done(trace.run) == {trace.chain.id}
        assert store.digest().n_traces == 1
        assert store.write([trace]) in names


def shard_of(table: pa.Table, folder: Path) -> Path:
    """A table as a shard that an earlier version could have written: without checksums, named by its hash."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data = sink.getvalue().to_pybytes()
    path = folder / f"{hashlib.sha256(data).hexdigest()[:32]}.parquet"
    path.write_bytes(data)
    return path


def test_a_shard_of_an_earlier_version_is_read_and_keeps_its_digest(tmp_path: Path) -> None:
    chains = [replace(make_chain(key), family="") for key in range(2)]
    made = [make_trace(chain, premises=False) for chain in chains]
    # what a step of that version held
    written = [replace(t, steps=tuple(Step(*dataclasses.astuple(s)[:7]) for s in t.steps)) for t in made]
    with TraceStore(tmp_path / "new", write=True) as store:
        store.write(written)
        digest = store.digest()
    with TraceStore(tmp_path / "old", write=True) as store:
        earlier = to_table(written).replace_schema_metadata().drop_columns(sorted(OPTIONAL_COLUMNS))
        shard_of(earlier, store.home / "shards")
        assert [same(*pair) for pair in zip(store.traces(), written, strict=True)] == [True, True]
        assert store.digest() == digest
        assert store.keys() == {(trace.chain.id, trace.run) for trace in written}
        (table,) = store.tables(["chain", "messages"])
        assert table["messages"].null_count == 2


def test_the_columns_that_every_version_wrote_are_these() -> None:
    """A new column must be optional: a shard that was written without it is whole."""
    first = (
        "chain run source source_id source_sha256 licence question text answer language boundaries metadata steps tokenizer "
        "n_layers n_context token_ids token_start token_end pieces step_tokens question_token_ids question_surprisal "
        "surprisal entropy rank logit_shift attention_shift attention_previous attention_sink attention_entropy hidden_shift "
        "hidden_baseline step_attention state_layers"
    )
    assert set(SHARD_SCHEMA.names) - OPTIONAL_COLUMNS == set(first.split())
    assert set(ADDED_COLUMNS) < OPTIONAL_COLUMNS


def test_alternatives_that_do_not_fit_together_are_a_damaged_row() -> None:
    trace = make_trace(1, alternatives=True)
    table = to_table([trace])
    assert same(next(iter(decode_shard(table))), trace)
    assert trace.top_texts()[int(trace.top_id[0, 0])] == f"w{trace.top_id[0, 0]}"
    for name, value in (("top_pieces", []), ("top_log_probability", None), ("top_id", None)):
        at = table.column_names.index(name)
        wrong = table.set_column(at, name, pa.array([value], table.schema.field(name).type))
        with pytest.raises(ValueError, match="do not fit together"):
            list(decode_shard(wrong))


def test_a_trace_that_could_not_be_read_back_is_refused(tmp_path: Path) -> None:
    trace = corpus(1)[0]
    wrong = {
        "surprisal of chain": replace(trace, surprisal=trace.surprisal[1:]),
        "holds 'toy', which MEASURES": replace(trace, more={"toy": trace.surprisal}),
        "not one for every item of top_id": replace(make_trace(1, alternatives=True), top_pieces=()),
        "are not numbered": replace(trace, steps=trace.steps[:1] * 2, step_tokens=trace.step_tokens[[0, 0]]),
    }
    with TraceStore(tmp_path, write=True) as store:
        for message, bad in wrong.items():
            with pytest.raises(StoreError, match=message):
                store.write([bad])
        assert not store.keys()


@pytest.mark.slow
def test_selection_by_run_and_chain_and_columns(tmp_path: Path) -> None:
    one, two = make_run("one"), make_run("two")
    with TraceStore(tmp_path, write=True) as store:
        store.write([*corpus(4, one), *corpus(3, two)])
        store.write(corpus(6, one)[4:])
        assert store.done(one.id) == {t.chain.id for t in corpus(6)}
        assert len(store.done(two.id)) == 3
        assert store.done("r-unknown") == set()
        wanted = [corpus(6)[i].chain.id for i in (1, 5)]
        assert sorted(t.chain.id for t in store.traces(one.id, wanted)) == sorted(wanted)
        tables = list(store.tables(["surprisal", "chain"], two.id))
        assert [t.column_names for t in tables] == [["surprisal", "chain"]] * len(tables)
        assert sum(map(len, tables)) == 3
        stats = store.stats()
        assert stats.chains == {one.id: 6, two.id: 3}
        assert stats.n_chains == 6
        assert sum(stats.roles.values()) == sum(len(t.steps) for t in corpus(6))


def test_no_more_shards_are_opened_than_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = make_run("one"), make_run("two")
    with TraceStore(tmp_path, write=True) as store:
        for run in (one, two, make_run("three")):
            store.put_run(run)
        for trace in corpus(8, one):
            store.write([trace])
        last = corpus(1, two)
        store.write(last)
    opened: list[str] = []
    found = module.open_shard

    def open_shard(path: Path) -> pq.ParquetFile:
        opened.append(path.name)
        return found(path)

    monkeypatch.setattr(module, "open_shard", open_shard)
    with TraceStore(tmp_path) as store:
        assert store.measured() == {run for _, run in store.keys()} == {one.id, two.id}  # noqa: SIM118  # no mapping
    (tmp_path / "runs" / f"{make_run('three').id}.json").unlink()
    with TraceStore(tmp_path) as store:
        names = store.shard_names()
        runs = [store.shard_keys(name)[0][1] for name in names]
    opened.clear()
    with TraceStore(tmp_path) as store:
        assert store.measured() == {one.id, two.id}
        assert len(opened) == max(runs.index(one.id), runs.index(two.id)) + 1  # a third run would have all of them read
    opened.clear()
    with TraceStore(tmp_path) as store:
        # the rows of one chain: the keys of every shard, and once more the shards that hold it
        wanted = corpus(8)[5].chain.id
        rows = [row for table in store.tables(["chain"], None, [wanted]) for row in table.to_pylist()]
        assert rows == [{"chain": wanted}]
        assert len(opened) == len(names) + 1
        opened.clear()
        list(store.tables(["chain"], None, [wanted]))
        assert len(opened) == 1


def test_long_shards_are_read_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_TOKENS", 40)
    with TraceStore(tmp_path, write=True) as store:
        store.write(corpus(12))
        assert len(list(store.tables(["chain"]))) >= 4
        assert [same(a, b) for a, b in zip(corpus(12), store.traces(), strict=True)] == [True] * 12


def test_chains_that_were_asked_for_come_once_whatever_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = make_run("one"), make_run("two")
    with TraceStore(tmp_path, write=True) as store:
        store.put_run(one)
        store.write([*corpus(5, one), *corpus(3, two)])
        store.write([*corpus(6, one)[::-1], *corpus(4, two)])  # most of it again
    wanted = sorted(trace.chain.id for trace in corpus(6))[:4]
    expected = sorted((t.chain.id, t.run) for t in (*corpus(6, one), *corpus(4, two)) if t.chain.id in wanted)
    for kept in (0, 2**20):
        monkeypatch.setattr(module, "KEPT_NUMBERS", kept)
        with TraceStore(tmp_path) as store:
            for _ in range(2):
                rows = [row for table in store.tables(["chain", "run"], None, wanted) for row in table.to_pylist()]
                assert sorted((row["chain"], row["run"]) for row in rows) == expected
            assert store.nameless() == {(t.chain.id, two.id) for t in corpus(4, two)}


@pytest.mark.slow
def test_row_groups_read_together_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_TOKENS", 40)
    one, two = make_run("one"), make_run("two")
    with TraceStore(tmp_path, write=True) as store:
        store.write([*corpus(9, one), *corpus(7, two)])
        store.write([*corpus(12, one)[::-1], *corpus(3, two)])  # most of it again
        keys = [(row["chain"], row["run"]) for table in store.tables(["chain", "run"]) for row in table.to_pylist()]
        assert len(keys) == len(set(keys)) == 12 + 7
        for run, chains in (
            (None, None),
            (one.id, None),
            (two.id, None),
            (one.id, [t.chain.id for t in corpus(12)[::4]]),
        ):
            single = list(store.tables(["chain", "run", "token_ids"], run, chains))
            for rows in (5, 1000):
                joined = list(store.tables(["chain", "run", "token_ids"], run, chains, rows=rows))
                assert pa.concat_tables(joined).to_pylist() == pa.concat_tables(single).to_pylist()
                assert len(joined) < len(single)


def test_an_id_is_a_number() -> None:
    ids = ["c0123456789abcdef", "r" + "f" * 16]
    assert module.id_numbers(pa.chunked_array([ids])).tolist() == [0x0123456789ABCDEF, 2**64 - 1]
    odd = module.id_numbers(pa.chunked_array([["", "c1", "cABCDEF0123456789", *ids, "c0123456789abcdef0"]])).tolist()
    assert odd[0] == 0
    assert odd[3:5] == [0x0123456789ABCDEF, 2**64 - 1]
    assert len(set(odd)) == len(odd)


def test_runs_keep_their_notes(tmp_path: Path) -> None:
    run = make_run()
    with TraceStore(tmp_path, write=True) as store:
        store.put_run(replace(run, notes={"device": "cpu"}))
        store.put_run(replace(run, notes={"device": "cuda", "noise": 0.5}))
        assert store.runs()[run.id].notes == {"device": "cpu", "noise": 0.5}
        store.update_run_notes(run.id, {"device": "cuda"})
        assert store.runs()[run.id].notes == {"device": "cuda", "noise": 0.5}
        with pytest.raises(StoreError, match=f"holds no run r0. Its runs: {run.id}"):
            store.update_run_notes("r0", {})


@pytest.mark.slow
def test_a_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from trails.store.traces import TraceStore\n"
        "try: TraceStore(Path(sys.argv[1]), write=True)\nexcept Exception as error: print(type(error).__name__, error)"
    )
    with TraceStore(tmp_path, write=True):
        found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == (
        f"StoreError {tmp_path} is being written by process {os.getpid()}. Wait until it ends, or choose another folder"
        " with --home"
    )
    with TraceStore(tmp_path, write=True) as store, TraceStore(tmp_path) as reader:
        store.write(corpus(1))
        assert len(list(reader.traces())) == 1


def test_leftovers_of_killed_writers_are_swept(tmp_path: Path) -> None:
    with TraceStore(tmp_path, write=True) as store:
        store.write(corpus(2))
    for name in ("trails.json.1a2b.tmp", "shards/abc.parquet.1a2b.tmp", "runs/r1.json.1a2b.tmp"):
        (tmp_path / name).write_bytes(b"half")
    with TraceStore(tmp_path) as store:
        assert len(store.keys()) == 2
    with TraceStore(tmp_path, write=True) as store:
        assert len(store.keys()) == 2
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    with TraceStore(tmp_path, write=True) as store:
        store.write(corpus(1))

        def full(_: int) -> None:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(StoreError) as error:
                store.write(corpus(2))
        assert str(error.value).startswith(f"the disk is full: {tmp_path}/shards/")
        assert str(error.value).endswith(
            "was not written. Free some space and run the same command again; everything written before is kept"
        )
        assert not list(tmp_path.rglob("*.tmp"))
        assert len(store.keys()) == 1
        store.write(corpus(2))
        assert len(store.keys()) == 2


def test_homes_that_cannot_be_read_say_what_to_do(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    with pytest.raises(StoreError) as error:
        TraceStore(missing)
    assert str(error.value) == f"{missing} holds no trails. Run: trails ingest PATH --home {missing}"
    with TraceStore(tmp_path, write=True) as store:
        store.write(corpus(1))
        (shard,) = (tmp_path / "shards").iterdir()
    manifest = tmp_path / "trails.json"
    good = manifest.read_text()
    manifest.write_text(json.dumps({"format": 99}))
    for write in (False, True):
        with pytest.raises(StoreError) as error:
            TraceStore(tmp_path, write=write)
        assert str(error.value) == (
            f"{tmp_path} was written by a newer trails (format 99, this one knows 1). Run: pip install --upgrade trails"
        )
    manifest.write_text("{")
    with pytest.raises(StoreError, match="trails.json cannot be read"):
        TraceStore(tmp_path)
    manifest.write_text(good)
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with TraceStore(tmp_path) as store:
        assert store.damaged() == [shard.name]
        with pytest.raises(StoreError, match="Set it aside: trails verify --set-aside"):
            list(store.traces())
    flipped = bytearray(whole)
    flipped[len(flipped) // 3] ^= 1
    shard.write_bytes(flipped)
    with TraceStore(tmp_path) as store:
        assert store.damaged() == [shard.name]
    with TraceStore(tmp_path) as store, pytest.raises(StoreError, match="opened for reading"):
        store.write(corpus(1))


def test_another_segmenter_is_refused_once_there_are_chains(tmp_path: Path) -> None:
    with TraceStore(tmp_path, write=True) as store:
        store.set_segmenter("one")
        store.set_segmenter("two")
        assert store.segmenter == "two"
        store.write(corpus(1))
        store.set_segmenter("two")
        with pytest.raises(StoreError, match=r"split by another version of the segmenter \(two, now three\)"):
            store.set_segmenter("three")


def test_half_a_surrogate_pair_is_refused_with_the_record(tmp_path: Path) -> None:
    chain = make_chain("7")
    bad = replace(make_trace(chain), chain=replace(chain, text="a\ud83d"))
    with TraceStore(tmp_path, write=True) as store, pytest.raises(InputError, match="toy.jsonl 7: the text holds half"):
        store.write([*corpus(1), bad])
    with TraceStore(tmp_path) as store:
        assert store.keys() == set()


@pytest.mark.slow
def test_no_flipped_bit_is_read_as_other_data(tmp_path: Path) -> None:
    """All ways of reading, 150 bits of a shard as it is written now and of one without checksums."""
    home = tmp_path / "new"
    with TraceStore(home, write=True) as store:
        store.write(corpus(4))
    old = tmp_path / "old"
    with TraceStore(old, write=True) as store:
        shard_of(to_table(corpus(4)).replace_schema_metadata().drop_columns(list(ADDED_COLUMNS)), old / "shards")
    rng = random.Random(7)
    ways = {
        "traces": lambda store: store.digest(),
        "keys": lambda store: store.keys(),
        "counts": lambda store: store.stats(),
        "columns": lambda store: pa.concat_tables(store.tables(["chain", "rank"])).to_pylist(),
    }
    for folder in (home, old):
        (shard,) = (folder / "shards").iterdir()
        whole = shard.read_bytes()
        with TraceStore(folder) as store:
            expected = {name: read(store) for name, read in ways.items()}
        caught = dict.fromkeys(ways, 0)
        for place in [0, 4, len(whole) - 1, *rng.sample(range(len(whole)), 147)]:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << rng.randrange(8)
            shard.write_bytes(damaged)
            for name, read in ways.items():
                with TraceStore(folder) as store:
                    try:
                        assert read(store) == expected[name]
                    except StoreError as error:
                        caught[name] += f"shard {shard} is damaged" in str(error)
            with TraceStore(folder) as store:
                assert store.damaged() == [shard.name]
        assert caught["traces"] == caught["columns"] == caught["counts"] == 150
        assert caught["keys"] > 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("adapter", "null"),
            ("attention", "{}"),
            ("bos", '"sometimes"'),
            ("dtype", "1e400"),
            ("control_tokens", "[]"),
        ),
        *(("d_model", "-1"), ("d_model", "1e400"), ("n_heads", "true"), ("think", "0"), ("notes", "[1]")),
        ("notes", '{"a":' * 100_000),
    ],
)
def test_a_run_of_wrong_types_is_one_error_that_names_the_file(tmp_path: Path, name: str, value: str) -> None:
    run = make_run("one")
    with TraceStore(tmp_path, write=True) as store:
        store.put_run(run)
        assert store.runs() == {run.id: run}
        path = tmp_path / "runs" / f"{run.id}.json"
        fields = {key: json.dumps(held) for key, held in json.loads(path.read_text()).items()} | {name: value}
        path.write_text("{" + ",".join(f'"{key}":{held}' for key, held in fields.items()) + "}")
        with pytest.raises(StoreError, match=rf"{run.id}\.json cannot be read"):
            store.runs()


@pytest.mark.parametrize("text", ['{"format":1e400}', "[" * 100_000])
def test_a_manifest_of_a_stranger_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "trails.json").write_text(text)
    with pytest.raises(StoreError, match=r"trails\.json cannot be read"):
        TraceStore(tmp_path)
