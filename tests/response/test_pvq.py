"""Vectors in a file: to the bit there and back, every wrong file refused by what is wrong, and read by what needs a vector."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trails.cli import cli
from trails.errors import InputError, UsageError
from trails.measure import pvq
from trails.measure.intervene import read_vector

RNG = np.random.default_rng(0)
MADE = pvq.Vectors(
    "toy", "f" * 40, "0" * 64, "r0", 3, ("c1:0", "c1:1"), ("If «a»,", "then\nb."), RNG.normal(size=(2, 5)).astype(np.float32),
    pvq.White(np.arange(5, dtype=np.float32), RNG.normal(size=(5, 2)).astype(np.float32), 77),
)  # fmt: skip
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def same(one: pvq.Vectors, two: pvq.Vectors) -> bool:
    plain = replace(one, vectors=two.vectors, whitening=two.whitening)
    alike = all(
        getattr(plain, n) == getattr(two, n) for n in ("model", "revision", "tokenizer", "run", "layer", "ids", "texts")
    )
    if (one.whitening is None) != (two.whitening is None):
        return False
    pairs = [(one.vectors, two.vectors)]
    if one.whitening is not None and two.whitening is not None:
        pairs += [(one.whitening.mean, two.whitening.mean), (one.whitening.components, two.whitening.components)]
        alike = alike and one.whitening.n == two.whitening.n
    return alike and all(a.dtype == b.dtype == np.float32 and a.tobytes() == b.tobytes() for a, b in pairs)


@pytest.mark.slow
@given(arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 4)), elements=floats), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_float32_reads_back_to_the_bit(tmp_path_factory: Any, vectors: np.ndarray, white: bool) -> None:
    path = tmp_path_factory.mktemp("pvq") / "a.pvq.json"
    ids = tuple(f"c:{i}" for i in range(len(vectors)))
    whitening = pvq.White(vectors[0], vectors.T.copy(), 3) if white else None
    made = replace(MADE, ids=ids, texts=ids, vectors=vectors, whitening=whitening)
    assert pvq.write_pvq(made, path) == [path]
    assert same(pvq.read_pvq(path), made)


def test_many_numbers_lie_beside_it_and_a_changed_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "big.pvq.json"
    exact = MADE.vectors.nbytes + MADE.whitening.mean.nbytes + MADE.whitening.components.nbytes
    monkeypatch.setattr(pvq, "INLINE", exact)
    assert pvq.write_pvq(MADE, path) == [path]
    monkeypatch.setattr(pvq, "INLINE", exact - 1)
    assert pvq.write_pvq(MADE, path) == [path, tmp_path / "big.pvq.safetensors"]
    assert json.loads(path.read_text("utf-8"))["entries"][0]["vector"] is None
    assert same(pvq.read_pvq(path), MADE)
    data = bytearray((tmp_path / "big.pvq.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "big.pvq.safetensors").write_bytes(data)
    with pytest.raises(InputError, match="another hash"):
        pvq.read_pvq(path)
    (tmp_path / "big.pvq.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        pvq.read_pvq(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, '"format" is not "pvq"'),
        ({"version": 2}, "reads 1"),
        ({"layer": "3"}, "'layer' must be a whole number"),
        ({"layer": True}, "'layer' must be a whole number"),
        ({"model": None}, "'model' must be a text"),
        ({"more": 1}, "unknown key 'more'"),
        ({"entries": []}, "holds no vector"),
        ({"width": 4}, "entry 0 must be 4 numbers"),
        ({"file": "../x.safetensors"}, "a file beside it"),
        ({"whitening": {"n": 1}}, "must have n"),
        ({"whitening": {"n": 1, "mean": [0.0] * 5, "components": [[1.0]] * 4}}, "must be 5 rows"),
        ({"entries": [{"id": "a", "text": "", "vector": [1, 2, 3, 4, 1e39]}]}, "a float32 cannot"),
        ({"entries": [{"id": "a", "text": "", "vector": [1, 2, 3, 4, "5"]}]}, "5 numbers"),
        ({"entries": [{"id": "a", "vector": [1, 2, 3, 4, 5]}]}, "must have id, text and vector"),
        ({"entries": [{"id": "a", "text": "", "vector": [0] * 5}] * 2}, "'a' is there twice"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_what_is_wrong(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "a.pvq.json"
    pvq.write_pvq(MADE, path)
    record = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(record | change), "utf-8")
    with pytest.raises(InputError) as raised:
        pvq.read_pvq(path)
    assert words in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[1]", '{"format": NaN}', "nothing"])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"a\.json"):
        pvq.read_pvq(path)


def test_an_intervention_reads_one_of_several_by_its_id(tmp_path: Path) -> None:
    path = tmp_path / "a.pvq.json"
    pvq.write_pvq(MADE, path)
    assert read_vector(Path(f"{path}#c1:1")).tobytes() == MADE.vectors[1].tobytes()
    with pytest.raises(UsageError, match=r"2 vectors and none was named.*c1:0, c1:1"):
        read_vector(path)
    with pytest.raises(UsageError, match="'c1:9' was asked for"):
        read_vector(Path(f"{path}#c1:9"))
    pvq.write_pvq(replace(MADE, ids=("a",), texts=("b",), vectors=MADE.vectors[:1]), path)
    assert read_vector(path).tobytes() == MADE.vectors[0].tobytes()
    with pytest.raises(UsageError, match="NaN or infinity"):
        pvq.write_pvq(replace(MADE, vectors=np.full((2, 5), np.nan, np.float32)), path)


# --------------------------------------------------------------------------------------------------------------------
# The command, on a real home
# --------------------------------------------------------------------------------------------------------------------


def run(home: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, [*words, "--home", str(home)], catch_exceptions=False)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    """Thirty chains whose step states of layer 1 are kept."""
    folder = tmp_path_factory.mktemp("pvq-home")
    words = ["rain", "grass", "stone", "river", "cloud", "wind", "light", "dust"]
    rows = [
        {
            "id": str(n),
            "chain": f"If {words[n % 8]} {n} falls, then the {words[(n * 3 + 1) % 8]} is wet. But it is {n}.",
        }
        for n in range(30)
    ]
    source = folder / "chains.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    run(folder / "home", "ingest", str(source), "--model", str(toy_model), "--states", "1")
    return folder / "home"


@pytest.mark.model
def test_a_selection_is_written_and_looked_up_in(states: Path, tmp_path: Path, toy_model: Path) -> None:
    model = ("--model", str(toy_model))
    file = tmp_path / "but.pvq.json"
    assert "30 vectors" in run(states, "pvq", "write", "roles:BUT", "-o", str(file), "--whiten").output
    found = pvq.read_pvq(file)
    from trails import Home

    with Home(states) as home:
        trace = next(home.traces())
        step = next(i for i, s in enumerate(trace.steps) if s.role == "BUT")
        name = f"{trace.chain.id}:{step}"
        assert found.one(name).tobytes() == np.asarray(trace.step_states[step, 0], np.float32).tobytes()
        assert (found.layer, found.revision, found.run) == (1, home.run().revision, home.run().id)
        text = trace.chain.text[trace.steps[step].start : trace.steps[step].end]
    assert found.texts[found.ids.index(name)] == text
    told = json.loads(run(states, "pvq", "search", str(file), name, "--json").output)
    assert len(told["nearest"]) == 10
    assert name not in {row["id"] for row in told["nearest"]}, "a step is not looked up in itself"
    cosines = [row["cosine"] for row in told["nearest"]]
    assert cosines == sorted(cosines, reverse=True)
    assert told["scores"][0]["controls"][0]["name"] == "coordinates from random entries"
    assert "is nearest to" in run(states, "pvq", "search", str(file), "But the stone is dry today.", *model).output
    one = tmp_path / "one.pvq.json"
    run(states, "pvq", "write", name, "-o", str(one))
    done = run(
        states, "intervene", trace.chain.id, "--layer", "1", "--vector", str(one), "--strength", "0", *model, "--json"
    )
    assert json.loads(done.stdout)["scores"][0]["value"] == 0


@pytest.mark.model
def test_what_has_no_state_or_another_model_is_refused(states: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"layer 2 were asked for.*keeps states of layer 1 .*--states 2"):
        run(states, "pvq", "write", "all", "-o", str(tmp_path / "x.json"), "--layer", "2")
    assert not (tmp_path / "x.json").exists()
    other = tmp_path / "other.pvq.json"
    pvq.write_pvq(MADE, other)
    with pytest.raises(UsageError, match="cannot be compared"):
        run(states, "pvq", "search", str(other), "But it is dry.")
    with pytest.raises(UsageError, match="exists"):
        run(states, "pvq", "write", "all", "-o", str(other))
