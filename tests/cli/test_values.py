"""What no command takes: empty values, numbers that are none, streams that are closed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from trails.cli import COMMANDS, cli
from trails.cli.scores import text_or_file
from trails.errors import InputError
from trails.measure.intervene import read_vector


def leaves(command: click.Command, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        return [leaf for name, part in command.commands.items() for leaf in leaves(part, (*path, name))]
    return [(path, command)]


def every_option() -> list[tuple[tuple[str, ...], click.Option]]:
    context = click.Context(cli)
    commands = [leaf for name in COMMANDS for leaf in leaves(cli.get_command(context, name), (name,))]  # type: ignore[arg-type]
    return [
        (path, option)
        for path, command in commands
        for option in command.params
        if isinstance(option, click.Option) and not option.is_flag and not option.count
    ]


def told(arguments: list[str]) -> tuple[int, str]:
    done = CliRunner().invoke(cli, arguments)
    assert isinstance(done.exception, SystemExit | None), (arguments, done.exception)
    return done.exit_code, " ".join(done.output.split())


@pytest.mark.slow
def test_no_option_of_any_command_takes_an_empty_value() -> None:
    options = every_option()
    assert len(options) > 200
    for path, option in options:
        value = ["" if n == 0 else "x" for n in range(option.nargs)]
        code, said = told([*path, option.opts[0], *value])
        assert code == 2, (path, option.opts)
        assert f"Invalid value for '{option.opts[0]}'" in said, (path, said)
        assert "is empty: give it a value, or leave it out." in said, (path, said)


@pytest.mark.slow
def test_no_option_of_any_command_takes_a_number_that_is_none() -> None:
    seen = {int: 0, float: 0}
    for path, option in every_option():
        kinds: dict[Any, tuple[str, ...]] = {
            float: ("nan", "inf", "-inf"),
            int: (f"1{30 * '0'}",),
        }
        kind = {"float": float, "integer": int}.get(option.type.name.removesuffix(" range"))
        for value in kinds.get(kind, ()):
            seen[kind] += 1  # type: ignore[index]
            code, said = told([*path, option.opts[0], value])
            assert code == 2, (path, option.opts, value)
            assert f"Invalid value for '{option.opts[0]}': {value} is " in said, (path, said)
    assert seen[int] > 50
    assert seen[float] > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", ""], "is empty: give it a value."),
        (["capture", " \n"], "is empty: give it a value."),
        (["remove", "run", " "], "is empty: give it a value."),
        (["cypher", "RETURN 1", "--timeout", "1e300"], "is not in the range"),
        (["ingest", "x.jsonl", "--peaks", "-1"], "is not in the range"),
        (["ingest", "x.jsonl", "--batch-tokens", "-5"], "is not in the range"),
    ],
)
def test_a_value_that_is_none_is_refused(arguments: list[str], message: str) -> None:
    code, said = told(arguments)
    assert code == 2
    assert message in said


def redirected(line: str, redirection: str, home: Path) -> subprocess.CompletedProcess[str]:
    command = f'"{sys.executable}" -m trails {line} --home "{home}" {redirection}'
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_stream_that_is_closed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    path.write_text('{"chain": "If it rains, the grass is wet. It is dry."}\n')
    none = redirected("ingest - --model uniform", "<&-", tmp_path / "home")
    assert none.returncode == 3
    assert "-: standard input is closed, so there is nothing to read. Name a file." in none.stderr
    assert "Traceback" not in none.stderr
    assert redirected(f"ingest {path} --model uniform", "", tmp_path / "home").returncode == 0
    mute = redirected("chains", ">&-", tmp_path / "home")
    assert (mute.returncode, mute.stderr) == (
        2,
        "Error: standard output is closed, so nothing can be printed. Send it to a file, or to /dev/null\n",
    )
    blind = redirected("chains", "2>&-", tmp_path / "home")
    assert blind.returncode == 0
    assert "chains" in blind.stdout
    # as a shell script has it that was started with 2>&-: itself, open for reading; chains says a line on standard error
    read_only = redirected("chains", "2</dev/null", tmp_path / "home")
    assert (read_only.returncode, read_only.stdout) == (0, blind.stdout)
    code = (
        "import os, sys; sys.argv = ['trails', '--version']; from trails import __main__ as program; program._run(); "
    )
    code += "print(os.fstat(2).st_rdev)"
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "{code}" 2>&-'], capture_output=True, text=True, timeout=300, check=True
    )
    assert int(done.stdout.split()[-1]) == Path(os.devnull).stat().st_rdev, "no file of ours gets what libraries say"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux keeps to a limit of address space")
def test_a_limit_of_memory_is_one_line_that_says_what_is_needed(tmp_path: Path) -> None:
    for command in ("status", "genome check x.yaml", "capture text"):
        line = f'ulimit -v 300000; "{sys.executable}" -m trails {command}'
        done = subprocess.run(
            ["sh", "-c", line], capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False
        )
        assert (done.returncode, done.stdout) == (5, "")
        assert done.stderr == (
            "Error: the limit of memory is too small. This process may have 0.3 GB (ulimit -v); a command takes about 1 GB, "
            "and 6 GB with a small model. Raise the limit (ulimit -v unlimited) and run the same command again\n"
        )
    line = f'ulimit -v 300000; "{sys.executable}" -m trails status --help'
    assert subprocess.run(["sh", "-c", line], capture_output=True, timeout=300, check=False).returncode == 0
    code = "from trails.platform.packages import package; package('torch', 'a test')"
    line = f'ulimit -v 600000; "{sys.executable}" -c "{code}"'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=300, check=False)
    assert "pip install" not in done.stderr, "it is there, and has no memory"


class PanicError(BaseException):
    """As a native library panics."""


@pytest.mark.parametrize(
    ("error", "code", "begins"),
    [
        (MemoryError(), 5, "Error: Cannot allocate memory. Close other programs, or raise the limit"),
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object"),
            5,
            "Error: Cannot allocate memory. Close",
        ),
        (
            OSError("libcublasLt.so.13: failed to map segment from shared object"),
            5,
            "Error: Cannot allocate memory. Close",
        ),
        (ImportError("no module named x"), 1, "Traceback"),
        (RuntimeError("can't start new thread"), 5, "Error: Resource temporarily unavailable. Close other programs"),
        (
            PanicError('ThreadPoolBuildError: "Resource temporarily unavailable"'),
            5,
            "Error: Resource temporarily unavail",
        ),
        (PanicError("index out of bounds"), 1, "Traceback"),
        (ValueError("No space left on device"), 1, "Traceback"),
    ],
)
def test_what_the_system_refuses_is_no_bug_and_a_bug_is_none_of_its_refusals(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, error: BaseException, code: int, begins: str
) -> None:
    from trails import __main__ as program

    def raises(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "main", raises)
    assert program._run() == code
    assert capsys.readouterr().err.startswith(begins)


def test_every_seed_is_a_number_that_every_generator_takes() -> None:
    seeds = [(name, option.type) for name, option in every_option() if "--seed" in option.opts]
    assert len(seeds) > 15
    assert [name for name, kind in seeds if not (isinstance(kind, click.IntRange) and kind.min == 0)] == []
    done = CliRunner().invoke(cli, ["select", "3", "--seed", "-1"])
    assert done.exit_code == 2
    assert "-1 is not in the range 0<=x<=4294967295" in done.output


def test_a_closed_input_and_half_of_a_character_are_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="character 2"):
        text_or_file("a\udcff b")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        text_or_file("-")


def test_a_vector_of_a_stranger_is_refused_in_own_words(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    np.save(tmp_path / "large.npy", np.array([1.0, 1e300]))
    with pytest.raises(InputError, match="too large for 32 bits"):
        read_vector(tmp_path / "large.npy")
    (tmp_path / "text.npy").write_text("hello", encoding="utf-8")
    with pytest.raises(InputError, match=r"this is no \.npy file"):
        read_vector(tmp_path / "text.npy")
    assert not recwarn.list
