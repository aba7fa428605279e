"""trails stellator: every subcommand on a home, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trails.cli import cli
from trails.errors import InputError, UsageError

CHAINS = [
    {
        "id": "one",
        "question": "Is it?",
        "chain": "If it rains then the grass is wet. But the grass is dry. Therefore no rain.",
    },
    {"id": "two", "question": "И?", "chain": "Если идёт дождь, то трава мокрая. Но трава сухая. Значит, дождя нет."},
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two chains, measured by the uniform scorer."""
    folder = tmp_path_factory.mktemp("stellator")
    source = folder / "chains.jsonl"
    source.write_text("\n".join(json.dumps(chain, ensure_ascii=False) for chain in CHAINS), encoding="utf-8")
    run("ingest", str(source), "--model", "uniform", "--home", str(folder / "home"))
    return folder / "home"


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, words, catch_exceptions=False)


@pytest.mark.slow
def test_init_check_format_explain_compile(home: Path, tmp_path: Path) -> None:
    for russian in (False, True):
        file = tmp_path / f"{russian}.stellator"
        run("stellator", "init", str(file), *(["--russian"] if russian else []))
        assert (
            f"{file}: 1 blocks, 7 lines, no error" in run("stellator", "check", str(file), "--home", str(home)).output
        )
        before = file.read_text("utf-8")
        run("stellator", "format", str(file), "--write")
        again = run("stellator", "format", str(file)).output
        assert again == file.read_text("utf-8") != ""
        assert again.count("#") == before.count("#")
        told = run("stellator", "explain", str(file), "--home", str(home)).output
        assert "percentiles are those of run" in told
        assert "$entropy = 5.545" in told  # every token of the uniform scorer has ln 256 nats
        (found,) = json.loads(run("stellator", "compile", str(file), "--home", str(home), "--json").output)
        assert found["parameters"]["step_role"] == ["BUT", "HOWEVER"]
        assert found["annotations"] == {
            "order": "rhythm:3", "layers": "11-20", "dampen": 0.1, "anchor": "значит" if russian else "therefore"
        }  # fmt: skip
        assert found["returns"] == "ids of steps"


def test_a_zone_of_the_home_replaces_that_of_trails(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.stellator"
    file.write_text('[ZONE: unstable & mine]\nTOKEN → "rain"', encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.stellator:1:19: there is no zone 'mine'.*zones\.toml"):
        run("stellator", "compile", str(file), "--home", str(home))
    zones = tmp_path / "zones.toml"
    zones.write_text('[mine]\nexpression = "role = BUT | unstable"\n[unstable]\nexpression = "rank > 3"\n', "utf-8")
    (found,) = json.loads(
        run("stellator", "compile", str(file), "--home", str(home), "--zones", str(zones), "--json").output
    )
    assert "r.rank > $rank AND (s.role IN $role OR r.rank > $rank)" in found["cypher"]
    zones.write_text('[mine]\nexpression = "unstable"\n[unstable]\nexpression = "NOT mine"\n', "utf-8")
    with pytest.raises(InputError, match="in a circle: unstable → mine → unstable"):
        run("stellator", "check", str(file), "--home", str(home), "--zones", str(zones))
    zones.write_text('[mine]\nexpression = "entropy >"\n', "utf-8")
    with pytest.raises(InputError, match=r"zones\.toml: zone mine:1:17: "):
        run("stellator", "check", str(file), "--home", str(home), "--zones", str(zones))
    zones.write_text("[mine\n", "utf-8")
    with pytest.raises(InputError, match="not TOML"):
        run("stellator", "check", str(file), "--home", str(home), "--zones", str(zones))


@pytest.mark.parametrize(
    ("zone", "words"),
    [
        ("entropi > 1", "1:8: 'entropi' is nothing that is measured or known. Did you mean entropy?"),
        ("entropy > 5 %", "entropy is measured in nats, % was given. It takes nats or bits"),
        ("attention_shift > 1 nats", "It takes %"),
        ("role = BAT", "role 'BAT' does not exist"),
        ("overlap = total", "overlap 'total' does not exist"),
        ("role > BUT", "role is a name"),
        ("entropy = many", "entropy is a number"),
        ("gap > q90", "write gap > 0.9"),
    ],
)
def test_check_refuses_what_means_nothing(tmp_path: Path, zone: str, words: str) -> None:
    file = tmp_path / "b.stellator"
    file.write_text(f"[ZONE: {zone}]\n", encoding="utf-8")
    with pytest.raises(InputError) as raised:
        run("stellator", "check", str(file), "--home", str(tmp_path))
    assert words in str(raised.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trails stellator init"):
        run("stellator", "check", str(tmp_path / "none.stellator"))
    file = tmp_path / "binary.stellator"
    file.write_bytes(b"[ZONE: \xff]")
    with pytest.raises(InputError, match="byte 7"):
        run("stellator", "check", str(file))
    with pytest.raises(UsageError, match="exists"):
        run("stellator", "init", str(file))


def test_format_keeps_links_and_modes_and_says_what_it_wrote(tmp_path: Path) -> None:
    file, link = tmp_path / "a.stellator", tmp_path / "b.stellator"
    file.write_text("[zone: all]\nstep -> BUT\n", encoding="utf-8")
    file.chmod(0o600)
    link.symlink_to(file)
    done = CliRunner().invoke(cli, ["stellator", "format", str(link), "--write"], catch_exceptions=False)
    assert "written" in done.stderr
    assert link.is_symlink()
    assert "STEP → BUT" in file.read_text(encoding="utf-8")
    assert file.stat().st_mode & 0o777 == 0o600
