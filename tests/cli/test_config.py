"""Settings: what wins, what is refused, and that the password stays out of files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Outcome

from trails.config import load_settings
from trails.errors import UsageError


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("TRAILS_HOME", "TRAILS_MODEL", "TRAILS_STORE", "NEO4J_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_flags_beat_environment_beats_file_beats_defaults(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().model == ""
    (empty_folder / "trails.toml").write_text('model = "from-file"\n')
    assert load_settings().model == "from-file"
    monkeypatch.setenv("TRAILS_MODEL", "from-environment")
    assert load_settings().model == "from-environment"
    assert load_settings(model="from-flag").model == "from-flag"
    assert load_settings(model=None).model == "from-environment"


def test_a_server_in_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().store_name == "embedded"
    monkeypatch.setenv("NEO4J_URI", "bolt://localhost:7687")
    assert load_settings().store_name == "neo4j"
    assert load_settings(store="embedded").store_name == "embedded"


def test_an_unknown_entry_is_named(empty_folder: Path) -> None:
    (empty_folder / "trails.toml").write_text('hme = "x"\n')
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert str(caught.value) == (
        "settings cannot be used: hme: Extra inputs are not permitted. They come from flags, variables TRAILS_… and "
        "NEO4J_…, and trails.toml here or in ~/.config/trails."
    )


def test_a_broken_file_is_named(empty_folder: Path) -> None:
    (empty_folder / "trails.toml").write_text("x = = \n")
    with pytest.raises(
        UsageError, match=r"^the config file trails.toml cannot be read: Invalid value \(at line 1, column 5\)$"
    ):
        load_settings()


def test_a_password_in_the_file_is_refused_without_showing_it(empty_folder: Path) -> None:
    (empty_folder / "trails.toml").write_text('neo4j_password = "hunter2"\n')
    with pytest.raises(UsageError, match="holds a password") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_the_password_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEO4J_PASSWORD", "hunter2")
    settings = load_settings()
    assert settings.neo4j_password.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()


EVIL = "bolt://graphs.example.org:7687"


def test_a_password_does_not_follow_an_address_of_the_current_folder(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEO4J_PASSWORD", "hunter2-canary")
    (empty_folder / "trails.toml").write_text(f'neo4j_uri = "{EVIL}"\n')
    settings = load_settings()
    assert settings.project == {"neo4j_uri": EVIL}
    with pytest.raises(UsageError, match=r"^trails\.toml in this folder sets neo4j_uri to bolt://graphs") as caught:
        settings.credentials()
    assert f"export NEO4J_URI={EVIL}" in str(caught.value)
    assert "canary" not in str(caught.value)
    from trails.store import open_graph

    # refused before any name is looked up
    with pytest.raises(UsageError, match=r"is not sent to an address that a file in the current folder names"):
        open_graph(settings)


@pytest.mark.parametrize("uri", ["bolt://localhost:7687", "bolt://[::1]:7687"])
def test_a_password_goes_to_this_machine(empty_folder: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("NEO4J_PASSWORD", "secret-1")
    (empty_folder / "trails.toml").write_text(f'neo4j_uri = "{uri}"\n')
    assert load_settings().credentials() == ("neo4j", "secret-1")


@pytest.mark.parametrize(
    "uri",
    [
        *("bolt://localhost.example.org", "bolt://127.0.0.1.example.org", "bolt://10.0.0.1"),
        *("neo4j://127.0.0.1", "neo4j+s://localhost", "NEO4J://[::1]:7687"),  # a routing server names others
        "bolt://[::1",
    ],
)
def test_what_only_looks_like_this_machine_is_another(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("NEO4J_PASSWORD", "secret-1")
    (empty_folder / "trails.toml").write_text(f'neo4j_uri = "{uri}"\n')
    with pytest.raises(UsageError, match="is not sent to an address that a file in the current folder names"):
        load_settings().credentials()


def test_a_password_goes_where_the_user_said(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEO4J_PASSWORD", "secret-1")
    own = empty_folder / ".config" / "trails"
    own.mkdir(parents=True)
    (own / "trails.toml").write_text(f'neo4j_uri = "{EVIL}"\n')
    assert load_settings().credentials() == ("neo4j", "secret-1")
    (empty_folder / "trails.toml").write_text(f'neo4j_uri = "{EVIL}"\n')
    assert load_settings(neo4j_uri=EVIL).credentials() == ("neo4j", "secret-1")
    monkeypatch.setenv("NEO4J_URI", EVIL)
    settings = load_settings()
    assert settings.project == {}
    assert settings.credentials() == ("neo4j", "secret-1")


def test_without_a_password_nothing_is_withheld(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEO4J_PASSWORD", raising=False)
    (empty_folder / "trails.toml").write_text(f'neo4j_uri = "{EVIL}"\n')
    assert load_settings().credentials() == ("neo4j", "")


@pytest.mark.slow
def test_what_a_project_file_sets_is_shown(
    empty_folder: Path, trails: Callable[..., Outcome], chains_file: Path
) -> None:
    (empty_folder / "trails.toml").write_text('dtype = "float32"\nmodel = "elsewhere"\n')
    trails("ingest", chains_file)
    line = "the file in this folder sets dtype = float32"
    assert f"trails.toml {line}\n" in trails("status").out
    assert trails("status", "--json").json()["project"] == {"dtype": "float32"}
    assert line in trails("doctor", code=None).out


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, f'home = "{"x" * 5000}"', f'model = "{"x" * 5000}"'])
def test_a_config_file_of_a_stranger_is_one_error(empty_folder: Path, text: str) -> None:
    (empty_folder / "trails.toml").write_text(text)
    with pytest.raises(UsageError, match="cannot be read|is too long"):
        load_settings()
