"""What a person sees of work: an estimate that says what it rests on, the model's loading, and no wait for a typo."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from trails.cli import COMMANDS, STAGES, cli
from trails.cli.common import BarProgress, home_option, with_home


def progress_of(steps: list[tuple[float, int, int]], total: int, capsys: pytest.CaptureFixture[str], **options) -> str:
    """What stderr shows of work in ``steps`` (seconds since the beginning, units, tokens)."""
    now = [0.0]
    with BarProgress(quiet=False, clock=lambda: now[0], **options) as bar:
        bar.begin("measuring", total)
        for seconds, units, tokens in steps:
            now[0] = seconds
            bar.advance(units, tokens=tokens)
    return capsys.readouterr().err


def test_the_estimate_says_what_it_rests_on(capsys: pytest.CaptureFixture[str]) -> None:
    # behind the first piece 3,000 of 160,000 characters hold 750 tokens and take 3 s: 40,000 tokens in all, 156 s to go
    shown = progress_of([(1, 1_000, 250), (4, 3_000, 750), (8, 4_000, 1_000)], 160_000, capsys)
    assert shown == ("about 40,000 tokens in all, about 3 min of measuring to go (750 tokens took 3 s, 250 tokens/s)\n")


def test_what_comes_before_the_first_piece_is_not_taken_for_the_speed(capsys: pytest.CaptureFixture[str]) -> None:
    # half a minute of reading and segmenting, then 1,000 characters a second: 96 s for the rest, not 48 minutes
    shown = progress_of([(30, 1_000, 250), (31, 1_000, 250), (34, 3_000, 750)], 101_000, capsys)
    assert shown.startswith("about 25,000 tokens in all, about 2 min of measuring to go (1,000 tokens took 4 s")


def test_the_time_that_is_left_follows_from_the_tokens_that_are_left(capsys: pytest.CaptureFixture[str]) -> None:
    # two units of 100 tokens at 50 tokens/s behind the first one, and 37 of 500 to go: 370 s by tokens, 74 by units
    now = [0.0]
    with BarProgress(quiet=False, clock=lambda: now[0]) as bar:
        bar.begin("probing", 40, tokens=300 + 37 * 500)
        for seconds in (2, 4, 6):
            now[0] = seconds
            bar.advance(1, tokens=100)
    shown = capsys.readouterr().err
    assert shown == "about 19,000 tokens in all, about 6 min of measuring to go (200 tokens took 4 s, 50 tokens/s)\n"


def test_an_estimate_that_turns_out_wrong_is_told_anew(capsys: pytest.CaptureFixture[str]) -> None:
    # ten units a second and 200 to go, told at 4 s; then one a second. At 6 s 31 s are to go where 18 were told,
    # at 11 s 52 where 26 were, at 20 s 76 where 43 were; at 29 s 89 where 67 were is near enough
    steps = [(1, 10, 10), (4, 30, 30), (6, 2, 2), (11, 5, 5), (20, 9, 9), (29, 9, 9)]
    shown = progress_of(steps, 240, capsys)
    left = re.findall(r"about (\S+ \S+) of measuring", shown)
    assert left == ["20 s", "31 s", "52 s", "76 s"]
    # 200 s were told, and it takes 193
    assert progress_of([(1, 10, 10), (4, 30, 30), (184, 1_870, 1_870)], 2_040, capsys).count("of measuring") == 1


@pytest.mark.parametrize(
    ("steps", "total"), [([(4, 900, 900)], 1_000), ([(1, 10, 10)], 100_000), ([(5, 10, 0), (9, 10, 0)], 100_000)]
)
def test_no_estimate_for_what_is_soon_done_or_not_yet_measured(
    steps: list[tuple[float, int, int]], total: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert progress_of(steps, total, capsys) == ""


def test_lines_to_run_carry_the_home_that_was_given() -> None:
    @click.command()
    @home_option
    def asked(home: Path | None) -> None:
        text = (
            "Run: trails query chains-by-roles --limit 20, or trails ingest PATH; "
            "trails experiment and trails diffs stay."
        )
        print(with_home(text), end="")

    from click.testing import CliRunner

    from trails.cli.common import forget_home

    forget_home()
    plain = CliRunner().invoke(asked, []).output
    assert "--home" not in plain
    given = CliRunner().invoke(asked, ["--home", "my home"]).output
    assert given == (
        "Run: trails query --home 'my home' chains-by-roles --limit 20, or trails ingest --home 'my home' PATH; "
        "trails experiment and trails diffs stay."
    )
    forget_home()


@pytest.mark.slow
def test_an_error_names_the_home_in_its_line_to_run(trails, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file, "--home", tmp_path / "other")
    shown = trails("show", "cffff", "--home", tmp_path / "other", code=2).err
    assert f"--home {tmp_path / 'other'}" in shown
    trails("ingest", chains_file)
    assert "--home" not in trails("show", "cffff", code=2).err, "the environment names it already"


def test_every_command_stands_in_one_stage(trails) -> None:
    names = [name for commands in STAGES.values() for name in commands]
    assert names == list(COMMANDS) == cli.list_commands(click.Context(cli))
    assert len(set(names)) == len(names)
    shown = trails("--help").out
    assert all(f"\n{stage}:\n" in shown for stage in STAGES)


WRONG = [
    "ingest", "ingest nowhere.jsonl", "ingest {file} --reader nope", "ingest {file} --states a",
    "ingest {file} --model ./nomodel", "ingest {file} --model smollm2 --device tpu", "show nope", "show c --run nope",
    "show c --measure nope", "cypher MATCH", "cypher x --param y", "query nope", "query chain-steps --param chian=c",
    "overlaps --run nope", "overlaps --kind nope", "map --run nope", "gaps --run nope", "bridge a b", "capture nofile.txt",
    "capture text --run nope", "drift nope", "export --subgraph all --format nope -o x",
    "export --subgraph nope --format trl -o x", "export --subgraph all --format trl -o x --mask nope",
    "variants nope", "variants all", "variants all --kinds loud", "variants all --count 0", "variants all --run nope",
    "variants v0123456789abcdef", "export --subgraph all --format trl -o x --refuse nope",
    "train nope.parquet -o x", "diff a b", "recall nope --adapter .",
    "recall all --run nope --adapter .",
    "experiment", "rebuild --store nope", "verify --home none", "bulk", "browser --port x", "doctor --store nope",
]  # fmt: skip


@pytest.mark.slow
def test_a_wrong_argument_is_told_before_the_model_libraries_are_imported(
    trails, chains_file: Path, tmp_path: Path
) -> None:
    trails("ingest", chains_file)
    script = (
        "import json, sys\n"
        "from trails.__main__ import main\n"
        "for line in json.loads(sys.argv.pop()):\n"
        "    sys.argv[1:] = line.split()\n"
        "    try: main()\n"
        "    except SystemExit as stop: code = stop.code\n"
        "    heavy = [name for name in ('torch', 'transformers', 'peft', 'trl', 'datasets') if name in sys.modules]\n"
        "    print(json.dumps([line, code, heavy]))\n"
        "    assert not heavy, line\n"
    )
    lines = json.dumps([line.replace("{file}", str(chains_file)) for line in WRONG])
    done = subprocess.run([sys.executable, "-c", script, lines], capture_output=True, text=True, env=os.environ)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(results) == len(WRONG)
    assert [(line, code) for line, code, _ in results if code in (0, 1)] == []
