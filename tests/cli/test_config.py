"""Settings: what wins, what is refused, and that the password stays out of files."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    with pytest.raises(UsageError, match=r"^the config file cannot be read: Invalid value \(at line 1, column 5\)$"):
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
