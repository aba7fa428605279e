"""What is wrong with a training is said before a model is loaded, and a model of other weights is not trained silently."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from trails.cli import cli
from trails.errors import ModelError, UsageError
from trails.export.record import RECORD
from trails.schema import Run
from trails.train.check import check_base, check_model, check_output, export_head, identity_of
from trails.train.options import TrainOptions, check_options, said

RUN = Run("toy", "a" * 64, "b" * 64, n_layers=4)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    names = {"run": RUN.id, "model_sha": RUN.revision, "tokenizer_sha": RUN.tokenizer}
    row = {field.name: names.get(field.name) for field in RECORD}
    pq.write_table(pa.Table.from_pylist([row], schema=RECORD), path)
    return path


def test_other_weights_are_refused_unless_forced_and_another_tokenizer_always(export: Path) -> None:
    head = export_head(export)
    assert (head.run, head.model_sha) == (RUN.id, RUN.revision)
    check_model(head, RUN)
    other = replace(RUN, revision="c" * 64)
    with pytest.raises(UsageError, match=r"measured with other weights \(aaaaaaaaaaaa\).*\(cccccccccccc\).*--force"):
        check_model(head, other)
    check_model(head, other, force=True)
    with pytest.raises(UsageError, match="made with tokenizer bbbbbbbb, the model toy has cccccccc"):
        check_model(head, replace(RUN, tokenizer="c" * 64), force=True)


def test_a_folder_of_something_else_is_refused_and_leftovers_do_not_count(export: Path, tmp_path: Path) -> None:
    identity, folder, options = identity_of(export_head(export)), tmp_path / "adapter", TrainOptions()
    check_output(folder, identity, options)
    folder.mkdir()
    (folder / "train.json.0123abcd.tmp").write_text("{")
    check_output(folder, identity, options)
    (folder / "train.json").write_text(json.dumps({"identity": {"export": "other"}, "title": "other.parquet"}))
    check_output(folder, identity, options)  # it ended before anything was kept
    (folder / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"another training \(of other.parquet\): it was trained on another export"):
        check_output(folder, identity, options)
    check_output(folder, identity, options, overwrite=True)
    (folder / "train.json").write_text(json.dumps({"identity": identity, "finished": True}))
    check_output(folder, identity, options)
    (folder / "train.json").unlink()
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="is not empty, and holds no training"):
            check_output(folder, identity, options, overwrite=overwrite)


def test_what_differs_from_a_training_that_is_kept_is_said(export: Path, tmp_path: Path) -> None:
    head, folder, journal = export_head(export), tmp_path / "adapter", tmp_path / "journal.jsonl"
    folder.mkdir()
    journal.write_text("{}")
    asked = TrainOptions(rank=4, layers=(2, 1))
    record = said(asked) | {"steps": 25, "layers": [1, 2]}
    identity = identity_of(head) | {"revision": "w" * 64}
    again = identity_of(head, replay=journal)

    def kept(identity: dict[str, str]) -> None:
        known = {"identity": identity, "options": record, "title": "rows", "finished": True}
        (folder / "train.json").write_text(json.dumps(known))

    kept(identity)
    check_output(folder, identity, asked)
    check_output(folder, identity_of(head), replace(asked, layers=None))  # what only the rows and the model tell
    for given, options, what in (
        (identity, replace(asked, rank=8), "its rank is 4, and 8 was asked for"),
        (identity, replace(asked, journal=0.5), "its journal is the default, and 0.5 was asked for"),
        (identity, replace(asked, layers=(1,)), "its layers is 1,2, and 1 was asked for"),
        (identity, replace(asked, steps=7), "its steps is 25, and 7 was asked for"),
        (identity | {"revision": "v" * 64}, asked, "it was trained with other weights"),
        (again, asked, "another journal, or none, was fed again"),
        (identity_of(head, keep={"c1"}), asked, "it was trained on other rows"),
    ):
        with pytest.raises(
            UsageError, match=rf"holds another training \(of rows\): {what}\. Choose another folder, or add"
        ):
            check_output(folder, given, options)
        check_output(folder, given, options, overwrite=True)
    kept(again | {"replay": f"12 {again['replay']}"})
    check_output(folder, again, asked)
    for given in (identity_of(head), identity_of(head, replay=journal, replay_at_random=True)):
        with pytest.raises(UsageError, match="another journal, or none"):
            check_output(folder, given, asked)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    check_base(tmp_path, RUN)  # no record: believed
    (tmp_path / "train.json").write_text(json.dumps({"identity": {"model": "toy", "revision": RUN.revision}}))
    check_base(tmp_path, RUN)
    with pytest.raises(ModelError, match="was trained on toy with weights aaaaaaaaaaaa; toy has cccccccccccc"):
        check_base(tmp_path, replace(RUN, revision="c" * 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "lmm"}, "objective 'lmm' does not exist"),
        ({"learning_rate": 0.0}, "a learning rate of 0 trains nothing"),
        ({"learning_rate": float("nan")}, "a learning rate of nan"),
        ({"lm_share": -1.0, "objective": "attention"}, "an lm share of -1"),
        ({"lm_share": 0.5}, "--lm-share goes with the objectives attention and loop"),
        ({"targets": "q_proj,"}, "targets 'q_proj,' name no module"),
    ],
)
def test_options_that_no_training_can_have(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_options(TrainOptions(**options))
    check_options(TrainOptions())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.parquet", "-o", "out"], "missing.parquet does not exist. Run: trails export"),
        (["{export}", "-o", "out", "--layers", "3-x"], "layers '3-x' cannot be read"),
        (["{export}", "-o", "out", "--objective", "attention"], "needs stored maps"),
        (["{export}", "-o", "out", "--teacher", "r1"], "Add --objective attention"),
        (["{export}", "-o", "{home}"], "is not empty"),
        (["{export}", "-o", "out", "--model", "uniform"], "the uniform scorer cannot be trained"),
        (["{export}", "-o", "out", "--learning-rate", "-1"], "a learning rate of -1"),
    ],
)
def test_a_typo_is_told_without_loading_a_model_library(
    export: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    given = [a.format(export=export, home=export.parent) for a in arguments]
    result = CliRunner().invoke(cli, ["train", *given, "--home", str(tmp_path / "none")])
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


@pytest.mark.slow
def test_the_checks_of_a_training_import_no_model_library() -> None:
    code = (
        "import sys, trails.cli.train, trails.train, trails.train.check, trails.pipeline.training, trails.evaluate\n"
        "print([name for name in ('torch', 'transformers', 'trl', 'peft') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
