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
from trails.train.check import check_base, check_model, check_output, export_head
from trails.train.options import TrainOptions, check_options

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
    head, folder = export_head(export), tmp_path / "adapter"
    check_output(folder, head)
    folder.mkdir()
    (folder / "train.json.0123abcd.tmp").write_text("{")
    check_output(folder, head)
    (folder / "train.json").write_text(json.dumps({"identity": {"export": "other"}, "title": "other.parquet"}))
    check_output(folder, head)  # it ended before anything was kept
    (folder / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"another training \(of other.parquet\)"):
        check_output(folder, head)
    check_output(folder, head, overwrite=True)
    (folder / "train.json").write_text(json.dumps({"identity": {"export": head.digest}, "finished": True}))
    check_output(folder, head)
    (folder / "train.json").unlink()
    with pytest.raises(UsageError, match="is not empty"):
        check_output(folder, head)


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
