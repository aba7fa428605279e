"""The command line as a whole: every command is reachable, quick to start, and documented."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from trails.analyses import ANALYSES
from trails.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_and_a_page(name: str, trails) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert isinstance(command, click.Command)
    assert command.name == name
    shown = trails(name, "--help").out
    assert shown.startswith(f"Usage: trails {name} ")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} --{parameter.name} has no help"
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    assert f"trails {name}" in pages, f"no page in docs/ shows how to use trails {name}"


def test_no_command_file_is_left_out() -> None:
    files = {path.stem.replace("_", "-") for path in (ROOT / "src/trails/cli").glob("*.py")}
    assert (files - {"--init--", "analysis", "common", "completion", "scores", "values"}) | set(ANALYSES) == set(
        COMMANDS
    )


def test_a_bar_that_never_began_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    from trails.cli.common import BarProgress

    with BarProgress(quiet=False):
        pass
    assert capsys.readouterr() == ("", "")


def test_help_starts_without_torch_or_an_engine() -> None:
    code = (
        "import sys; from trails.cli import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'kglite', 'neo4j', 'pandas') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in COMMANDS)


def test_unknown_command_and_option_exit_with_two(trails) -> None:
    assert "No such command 'ingset'" in trails("ingset", code=2).err
    assert "No such option" in trails("ingest", "--lmit", "3", code=2).err


def test_shell_completion_knows_the_commands() -> None:
    from click.shell_completion import ShellComplete

    completions = ShellComplete(cli, {}, "trails", "_TRAILS_COMPLETE").get_completions([], "re")
    assert {item.value for item in completions} >= {"rebuild", "recall"}


@pytest.mark.slow
def test_equal_values_are_no_ranking(trails, chains_file: Path) -> None:
    """To a uniform guess nothing is more surprising than anything else."""
    trails("ingest", chains_file)
    assert "most-surprising" not in trails("status").out
    for cut in ((), ("--json",), ("--limit", "5")):
        found = trails("query", "most-surprising", *cut)
        assert "have the same surprisal (5.545): none of them comes first" in found.err
    chain = trails("chains", "--json").json()[0]["chain"]
    assert "have the same" in trails("query", "most-surprising-in-chain", "-p", f"chain={chain}").err
    assert "have the same" not in trails("query", "chain-steps", "-p", f"chain={chain}").err
    chosen = trails("select", "--budget", "80", "--by", "perplexity", "--json").json()
    assert any("the choice among them is random (seed 0)" in note for note in chosen["notes"])
