"""Canonical records, selections without a graph, writers: what is written is what was selected, token by token."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from trails.errors import UsageError
from trails.export import WRITERS, ExportOptions, export_selection, parse_layers, read_records
from trails.export.files import json_lines
from trails.export.record import IGNORED
from trails.export.spill import Spill
from trails.export.subgraph import Part, Selection, select
from trails.schema import Chain
from trails.store.traces import TraceStore


def rows_of(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".arrow":
        return pa.ipc.open_stream(path.read_bytes()).read_all().to_pylist()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def export(home, to: Path, selection: str | Selection = "all", format: str = "trails", **options):
    if format in WRITERS and WRITERS[format].folder:
        to = to.with_suffix("")
    with TraceStore(home.home) as traces:
        found = selection if isinstance(selection, Selection) else select(None, traces, selection)
        return export_selection(found, traces, format, to, ExportOptions(**options))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_record_holds_the_chain_and_points_back_to_the_graph(make_home, tmp_path: Path, suffix: str) -> None:
    home = make_home(12)
    report = export(home, tmp_path / f"out{suffix}")
    rows = rows_of(report.files["train"])
    traces = {trace.chain.id: trace for trace in home.traces}
    assert {row["chain"] for row in rows} == set(traces)
    assert [row["order"] for row in rows] == list(range(12))
    for row in rows:
        trace = traces[row["chain"]]
        question = trace.question_token_ids.tolist()
        assert row["input_ids"] == question + trace.token_ids.tolist()
        assert row["attention_mask"] == [1] * len(row["input_ids"])
        assert row["completion"] == trace.chain.text
        assert row["prompt"] == (trace.chain.question + "\n" if trace.chain.question else "")
        # labels: every chain token, but not the first of a sequence, which nothing predicts
        expected = [IGNORED] * len(question) + trace.token_ids.tolist()
        if not question:
            expected[0] = IGNORED
        assert row["labels"] == expected
        assert row["loss_weights"] == [float(label != IGNORED) for label in expected]
        place = row["token_ids_in_graph"]
        assert (place["offset"], place["count"]) == (len(question), trace.n_tokens)
        names = [f"{place['prefix']}{place['first'] + position}" for position in range(place["count"])]
        assert names == [trace.token_id(position) for position in range(trace.n_tokens)]
        spans = [(s["step"], s["start"] - len(question), s["end"] - len(question)) for s in row["step_spans"]]
        assert spans == [(i, a, b) for i, (a, b) in enumerate(trace.step_tokens.tolist())]
        np.testing.assert_allclose(
            np.array(row["surprisal"][len(question) :], float), trace.surprisal.astype(float), atol=1e-5
        )
        assert row["tokenizer_sha"] == trace.tokenizer
        assert row["model_sha"] == home.runs[0].revision


def test_steps_are_labelled_and_what_comes_before_is_context(make_home, tmp_path: Path) -> None:
    home = make_home(3)
    trace = home.traces[0]
    spans = trace.step_tokens
    part = Part(trace.chain.id, steps=(1, 2))
    report = export(home, tmp_path / "o.jsonl", Selection("two steps", {trace.chain.id: part}))
    (row,) = rows_of(report.files["train"])
    q = len(trace.question_token_ids)
    assert len(row["input_ids"]) == q + spans[2, 1]  # nothing after the last selected token
    on = [i - q for i, label in enumerate(row["labels"]) if label != IGNORED]
    assert on == list(range(spans[1, 0], spans[2, 1]))
    assert row["prompt"] + row["completion"] == trace.chain.question + "\n" + trace.chain.text[: trace.steps[2].end]
    assert row["completion"] == trace.chain.text[trace.steps[1].start : trace.steps[2].end]
    assert row["suffix"]


@pytest.mark.slow
def test_a_hole_between_selected_steps_needs_a_format_with_masks(make_home, tmp_path: Path) -> None:
    home = make_home(3)
    trace = home.traces[0]
    selection = Selection("holes", {trace.chain.id: Part(trace.chain.id, steps=(0, 2))})
    for name, writer in WRITERS.items():
        to = tmp_path / name / "o.jsonl"
        if "mask" in writer.keeps:
            export(home, to, selection, name)
            continue
        with pytest.raises(UsageError) as error:
            export(home, to, selection, name)
        assert str(error.value) == (
            f"format {name!r} ({writer.trainer}) would lose the mask of 1 of 1 row. Formats that keep it: trl, axolotl,"
            " llama-factory-tokens, ms-swift, trails. Or add --lossy to write it without."
        )
        assert not to.exists()
        report = export(home, to, selection, name, lossy=True)
        assert report.lost == ("The mask of 1 row: every token of the completion has loss.",)
        assert "## Lost on purpose" in report.card.read_text()


def test_a_mask_by_numbers_counts_as_a_mask_of_its_rows(make_home, tmp_path: Path) -> None:
    home = make_home(6)
    lower = min(float(np.nanmax(trace.surprisal)) for trace in home.traces)  # takes a token of every row
    with pytest.raises(UsageError, match="'prompt-completion' .* would lose the mask of 6 of 6 rows"):
        export(home, tmp_path / "o.jsonl", format="prompt-completion", mask=f"surprisal<{lower}")
    report = export(home, tmp_path / "o.jsonl", format="prompt-completion", mask="surprisal<1000000")
    assert report.lost == ()


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_every_format_writes_every_row_with_its_provenance(make_home, tmp_path: Path, name: str) -> None:
    home = make_home(10)
    report = export(home, tmp_path / "o.jsonl", format=name, order="source")
    rows = rows_of(report.files["train"])
    beside = tmp_path / ("o/train.graph.jsonl" if WRITERS[name].folder else "o.graph.jsonl")
    named = rows_of(beside) if beside.exists() else rows
    traces = {trace.chain.id: trace for trace in home.traces}
    assert len(rows) == len(named) == 10
    for row, origin in zip(rows, named, strict=True):
        trace = traces[origin["chain"]]
        place = origin["token_ids_in_graph"]
        assert f"{place['prefix']}{place['first']}" == trace.token_id(0)
        assert place["count"] == trace.n_tokens
        question, text = trace.chain.question, trace.chain.text
        match name:
            case "trl" | "axolotl" | "llama-factory-tokens" | "trails":
                assert row["input_ids"][place["offset"] :] == trace.token_ids.tolist()
                assert len(row["labels"]) == len(row["input_ids"])
            case "prompt-completion":
                assert (row["prompt"], row["completion"]) == (question + "\n" if question else "", text)
            case "messages":
                turns = [{"role": "user", "content": question}] if question else []
                assert row["messages"] == [*turns, {"role": "assistant", "content": text}]
            case "axolotl-segments":
                assert "".join(s["text"] for s in row["segments"] if s["label"]) == text
                assert "".join(s["text"] for s in row["segments"]) == (question + "\n" if question else "") + text
            case "llama-factory":
                assert (row["instruction"], row["output"]) == (question, text)
            case "ms-swift":
                user, assistant = row["messages"]
                assert user == {"role": "user", "content": question}
                assert assistant["content"]["token_ids"] == trace.token_ids.tolist()
                assert len(assistant["content"]["loss_scale"]) == trace.n_tokens
            case _:
                pytest.fail(f"say here what {name} writes")


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_weights_survive_or_the_format_refuses(make_home, tmp_path: Path, name: str) -> None:
    home = make_home(6)
    if "weights" in WRITERS[name].keeps:
        assert export(home, tmp_path / "o.jsonl", format=name, weights="surprisal").lost == ()
        return
    with pytest.raises(UsageError, match="would lose the weights 'surprisal'. Formats that keep it: ms-swift, trails"):
        export(home, tmp_path / "o.jsonl", format=name, weights="surprisal")
    report = export(home, tmp_path / "o.jsonl", format=name, weights="surprisal", lossy=True)
    assert report.lost == ("The weights `surprisal`: every token with loss counts 1.",)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_two_exports_are_byte_identical_whatever_the_order_of_storage(make_home, tmp_path: Path, name: str) -> None:
    first, second = make_home(20), make_home(20, name="other", shards=5, reverse=True)
    options = {"split": 0.2, "order": "rising", "seed": 3}
    a = export(first, tmp_path / "a" / "o.jsonl", format=name, **options)
    b = export(second, tmp_path / "b" / "o.jsonl", format=name, **options)
    assert a.card.read_bytes() == b.card.read_bytes()
    for split in a.files:
        assert a.files[split].read_bytes() == b.files[split].read_bytes()
        assert a.files[split].stat().st_size > 0
    for path in (p for p in (tmp_path / "a").rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_rows_of_many_small_batches_are_those_of_one(make_home, tmp_path: Path, name: str, monkeypatch) -> None:
    home = make_home(23)
    options = {"split": 0.2, "order": "rising", "mask": "random:0.7", "lossy": True}
    whole = export(home, tmp_path / "a" / "o.jsonl", format=name, **options)
    for module in ("preparing", "writing"):
        monkeypatch.setattr(f"trails.export.{module}.BATCH_ROWS", 4)
    monkeypatch.setattr("trails.export.spill.WINDOW_ROWS", 8)  # three windows
    parts = export(home, tmp_path / "b" / "o.jsonl", format=name, **options)
    for split in whole.files:  # Arrow files keep the batches
        assert rows_of(whole.files[split]) == rows_of(parts.files[split]) != []
        if whole.files[split].suffix == ".jsonl":
            assert whole.files[split].read_bytes() == parts.files[split].read_bytes()


def test_an_error_while_rows_are_made_is_the_caller_s_and_leaves_no_file(
    make_home, tmp_path: Path, monkeypatch
) -> None:
    import threading

    home = make_home(9)
    for module in ("preparing", "writing"):
        monkeypatch.setattr(f"trails.export.{module}.BATCH_ROWS", 2)

    take = Spill.take

    def fail(self, rows, batch):
        yield next(take(self, rows, batch))
        raise ValueError("torn")

    monkeypatch.setattr(Spill, "take", fail)
    with pytest.raises(ValueError, match="torn"):
        export(home, tmp_path / "o.jsonl", order="source")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert not [thread for thread in threading.enumerate() if thread.name == "trails-export"]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
VALUES = {
    pa.string(): TEXTS,
    pa.bool_(): st.booleans(),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.float32(): st.floats(width=32),
}


@st.composite
def any_column(draw) -> pa.Array:
    kind = draw(st.sampled_from(list(VALUES)))
    values = VALUES[kind]
    for _ in range(draw(st.integers(0, 2))):
        if draw(st.booleans()):
            kind, values = pa.list_(kind), st.lists(values, max_size=3)
        else:
            kind, values = pa.struct([("a", kind), ('ß"', kind)]), st.fixed_dictionaries({"a": values, 'ß"': values})
    rows = draw(st.lists(values, min_size=1, max_size=5))
    skip = draw(st.integers(0, len(rows) - 1))
    return pa.array(rows, kind).slice(skip)


def rounded(value):
    """As it must come back: floats to six places, what is not finite as null."""
    match value:
        case float():
            return round(value, 6) if np.isfinite(value) else None
        case list():
            return [rounded(item) for item in value]
        case dict():
            return {key: rounded(item) for key, item in value.items()}
    return value


@pytest.mark.slow
@given(any_column())
@settings(max_examples=300, deadline=None)
def test_json_made_by_column_is_read_back_by_the_standard_reader(values: pa.Array) -> None:
    table = pa.table({"x": values, "é": values})
    rows = [json.loads(line) for line in bytes(json_lines(table)).decode().split("\n")[:-1]]
    assert [list(row) for row in rows] == [["x", "é"]] * len(values)

    def same(found, wanted) -> None:
        assert type(found) is type(wanted)
        if isinstance(wanted, list):
            assert len(found) == len(wanted)
            for pair in zip(found, wanted, strict=True):
                same(*pair)
        elif isinstance(wanted, dict):
            assert found.keys() == wanted.keys()
            for key in wanted:
                same(found[key], wanted[key])
        elif isinstance(wanted, float):
            assert found == pytest.approx(wanted, rel=1e-12, abs=1e-6)
        else:
            assert found == wanted

    for row, value in zip(rows, values.to_pylist(), strict=True):
        same(row["x"], rounded(value))
        same(row["é"], rounded(value))


def test_numbers_are_written_without_an_exponent() -> None:
    values = [3.4e-6, -9e-6, 1e-5, 4e-7, 0.0, 1.0, 0.25, 1234567.125, float("nan"), float("inf")]
    table = pa.table({"x": pa.array([values, [], [2.0]], pa.list_(pa.float64())), "n": pa.array([[7, -1], [], [3]])})
    assert bytes(json_lines(table)).decode().splitlines() == [
        '{"x":[0.000003,-0.000009,0.00001,0.0,0.0,1.0,0.25,1234567.125,null,null],"n":[7,-1]}',
        '{"x":[],"n":[]}',
        '{"x":[2.0],"n":[3]}',
    ]
    assert json.loads(bytes(json_lines(table.slice(2)))) == {"x": [2.0], "n": [3]}


@pytest.mark.slow
def test_parquet_and_json_lines_hold_the_same_rows(make_home, tmp_path: Path) -> None:
    home = make_home(8)
    a = rows_of(export(home, tmp_path / "o.jsonl", weights="entropy").files["train"])
    export(home, tmp_path / "o.parquet", weights="entropy", overwrite=True)
    b = next(read_records(tmp_path / "o.parquet")).to_pylist()
    again = next(read_records(tmp_path / "o.jsonl")).to_pylist()
    for x, y, z in zip(a, b, again, strict=True):
        for key in x:
            if key in ("surprisal", "entropy", "loss_weights"):
                np.testing.assert_allclose(np.array(x[key], float), np.array(y[key], float), atol=1e-6)
                np.testing.assert_allclose(np.array(z[key], float), np.array(y[key], float), atol=1e-6)
            else:
                assert x[key] == y[key] == z[key]


def test_card_says_where_the_rows_came_from(make_home, tmp_path: Path) -> None:
    home = make_home(12)
    report = export(home, tmp_path / "folder", format="trl", split=0.25)
    assert report.files["train"].name == "train.parquet"
    text = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == ["mit", "other"]
    assert head["language"] == ["en", "ru"]
    assert head["configs"][0]["data_files"] == [
        {"split": "train", "path": "train.parquet"},
        {"split": "held_out", "path": "train.held_out.parquet"},
    ]
    assert "| set0.jsonl | public domain | en |" in text
    assert home.runs[0].id in text
    assert f"`{report.digest}`" in text
    assert "13-grams of tokens shared by train and held-out rows: 0." in text
    assert "Every token id lies in the base vocabulary (5000 tokens" in text
    assert str(tmp_path) not in text


@pytest.mark.slow
def test_a_token_outside_the_vocabulary_is_refused(make_home, tmp_path: Path) -> None:
    from dataclasses import replace

    home = make_home(2)
    with TraceStore(home.home, write=True) as store:
        run = replace(home.runs[0], model="small", vocab_size=10)
        store.put_run(run)
        store.write([replace(trace, run=run.id) for trace in home.traces])
    with pytest.raises(
        UsageError, match="lies outside the base vocabulary of 10 tokens of small. Measure the chains again"
    ):
        export(home, tmp_path / "o.jsonl", run=run.id)


def test_chain_selection(make_home, tmp_path: Path) -> None:
    home = make_home(4)
    a, b = home.chains[0].id, home.chains[1].id
    report = export(home, tmp_path / "o.jsonl", f"chain:{b},{a}")
    assert {row["chain"] for row in rows_of(report.files["train"])} == {a, b}


def test_text_with_a_character_of_several_tokens(make_home, tmp_path: Path) -> None:
    """A prompt never ends inside a character: the border moves to its edge."""
    home = make_home(chains=[Chain("s", "1", "", "Если так. То 🍎 здесь.", licence="")])
    trace = home.traces[0]
    selection = Selection("tail", {trace.chain.id: Part(trace.chain.id, tokens=((3, 5),))})
    (row,) = rows_of(export(home, tmp_path / "o.jsonl", selection).files["train"])
    assert row["prompt"] + row["completion"] == trace.chain.text
    assert row["completion"] == " 🍎 здесь."


WRONG = [
    (
        {"format": "nothing"},
        "format 'nothing' does not exist. Formats: trl, prompt-completion, messages, axolotl, axolotl-segments,"
        " llama-factory, llama-factory-tokens, ms-swift, trails.",
    ),
    (
        {"mask": "loud"},
        "mask 'loud' is not known. Write one of: none, surprisal<X, entropy<X, role:ROLE, random:SHARE.",
    ),
    ({"mask": "random:2"}, "mask 'random:2': the share must lie in (0, 1]. Write for example random:0.4."),
    ({"mask": "surprisal<0"}, "mask 'surprisal<0' leaves no token with loss. Choose another threshold."),
    (
        {"weights": "heavy"},
        "weights 'heavy' are not known. Write one of: uniform, surprisal, entropy, both, excess:RUN.",
    ),
    (
        {"order": "random"},
        "order 'random' is not known. Write one of: shuffled, rising, falling, rhythm:N, source (N from 2 to 64).",
    ),
    ({"split": 1.5}, "split 1.5 must lie in [0, 1). Write for example --split 0.1."),
    ({"layers": (3, 9)}, "layers 3,9 do not exist. This model has layers 1 to 4."),
    (
        {"selection": "chain:c0000000000000000"},
        "chain 'c0000000000000000' was asked for, no chain fits. All chains: trails chains",
    ),
    (
        {"selection": "overlap:x"},
        "selection 'overlap:x' asks the graph, and no graph is open. Run: trails rebuild",
    ),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[str(case[0]) for case in WRONG])
def test_wrong_use_gets_one_clear_message(make_home, tmp_path: Path, options: dict, message: str) -> None:
    home = make_home(3)
    with pytest.raises(UsageError) as error:
        export(home, tmp_path / "o.jsonl", **options)
    assert str(error.value) == message
    assert list(tmp_path.glob("o*")) == []
    assert list(tmp_path.glob(".trails*")) == []


@pytest.mark.slow
def test_an_existing_file_is_not_replaced(make_home, tmp_path: Path) -> None:
    home = make_home(3)
    to = tmp_path / "o.jsonl"
    export(home, to)
    with pytest.raises(UsageError, match=r"o\.jsonl exists\. Choose another name, or add --overwrite\."):
        export(home, to)
    export(home, to, overwrite=True)
    with (
        pytest.raises(
            UsageError, match=r"format 'llama-factory-tokens' is a folder\. Write a name without '\.jsonl'\."
        ),
        TraceStore(home.home) as traces,
    ):
        export_selection(select(None, traces, "all"), traces, "llama-factory-tokens", to)
    with pytest.raises(
        UsageError, match=r"ends in '\.csv'. Write a name that ends in \.jsonl or \.parquet, or a folder"
    ):
        export(home, tmp_path / "o.csv")


def test_layers_are_read_and_carried(make_home, tmp_path: Path) -> None:
    assert parse_layers("1-3, 6") == (1, 2, 3, 6)
    for wrong in ("a", "3-1", "1-", ",", "-1"):
        with pytest.raises(UsageError, match=r"cannot be read\. Write for example 10-19 or 3,7,10-19\."):
            parse_layers(wrong)
    home = make_home(2)
    rows = rows_of(export(home, tmp_path / "o.jsonl", layers=(2, 3)).files["train"])
    assert [row["layers_to_transform"] for row in rows] == [[1, 2], [1, 2]]
    assert "| layers | `2-3` |" in (tmp_path / "o.README.md").read_text()


@pytest.mark.slow
def test_versions_of_one_thing_stay_on_one_side_of_a_split(make_home, tmp_path: Path) -> None:
    from tests.export.conftest import chains_of

    chains = [replace(chain, family=f"story {i // 3}") for i, chain in enumerate(chains_of(24))]
    family = {chain.id: chain.family for chain in chains}
    alone = make_home(chains=[replace(chain, family="") for chain in chains], name="alone")
    sides = {}
    for name, home in (("family", make_home(chains=chains)), ("alone", alone)):
        report = export(home, tmp_path / f"{name}.parquet", split=0.4)
        sides[name] = [{family[row["chain"]] for row in rows_of(file)} for file in report.files.values()]
    assert not sides["family"][0] & sides["family"][1]
    assert sides["family"][1]
    assert sides["alone"][0] & sides["alone"][1]  # nothing else keeps them together


def test_the_card_names_the_largest_id_of_all_rows(make_home, tmp_path: Path) -> None:
    home = make_home(9)
    report = export(home, tmp_path / "o.jsonl")
    ids = [i for row in rows_of(tmp_path / "o.jsonl") for i in row["input_ids"]]
    assert f"largest id used {max(ids)})" in report.card.read_text(encoding="utf-8")


def test_a_home_without_a_run_says_what_to_run(tmp_path: Path) -> None:
    with TraceStore(tmp_path / "home", write=True) as store, pytest.raises(UsageError) as error:
        export_selection(Selection("all", None), store, "trails", tmp_path / "o.jsonl")
    assert "Runs: none; measure with: trails ingest PATH. Choose with --run ID." in str(error.value)
