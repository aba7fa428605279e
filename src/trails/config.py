"""Settings: flags over environment over config file over defaults.

Environment variables start with ``TRAILS_`` (``TRAILS_HOME``, ``TRAILS_MODEL``, …); those of Neo4j keep their usual names
(``NEO4J_URI``, ``NEO4J_USERNAME``, ``NEO4J_PASSWORD``, ``NEO4J_DATABASE``). The config file is ``trails.toml`` in the
current folder, else ``~/.config/trails/trails.toml``; it never holds a password. A file in the current folder may have come
with the folder: :attr:`Settings.project` names what it set, and credentials do not follow it (:meth:`Settings.credentials`).
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from trails.errors import UsageError
from trails.platform.text import counted

CONFIG_FILES = (Path("trails.toml"), Path("~/.config/trails/trails.toml"))

_SOURCES = "flags, variables TRAILS_… and NEO4J_…, and trails.toml here or in ~/.config/trails"


def config_file() -> Path | None:
    """The config file in use: the first of :data:`CONFIG_FILES` that exists."""
    return next((path.expanduser() for path in CONFIG_FILES if path.expanduser().is_file()), None)


class Settings(BaseSettings):
    """Everything that a command can be told outside its flags."""

    model_config = SettingsConfigDict(env_prefix="TRAILS_", extra="forbid", populate_by_name=True)

    home: Path = Field(default=Path(".trails"), description="folder of the trace store and the embedded graph")
    model: str = Field(default="", description="Hugging Face id or folder; empty = the packaged SmolLM2-135M-Instruct")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, …")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    store: Literal["auto", "embedded", "neo4j"] = Field(
        default="auto", description="auto = neo4j when NEO4J_URI is set, else embedded"
    )
    author: str = Field(default="", description="who writes results of analyses; shown beside them in a shared graph")
    neo4j_uri: str = Field(default="", validation_alias=AliasChoices("neo4j_uri", "NEO4J_URI"))
    neo4j_username: str = Field(default="neo4j", validation_alias=AliasChoices("neo4j_username", "NEO4J_USERNAME"))
    neo4j_password: SecretStr = Field(
        default=SecretStr(""), validation_alias=AliasChoices("NEO4J_PASSWORD"), repr=False
    )
    neo4j_database: str = Field(default="neo4j", validation_alias=AliasChoices("neo4j_database", "NEO4J_DATABASE"))

    _project: dict[str, Any] = PrivateAttr(default_factory=dict)

    @field_validator("home", mode="before")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        """An empty path would be the current folder."""
        if isinstance(value, str) and not value.strip():
            raise ValueError("it is empty, as a variable that is not set is; name a folder")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the first config file that exists."""
        found = config_file()
        toml = (TomlConfigSettingsSource(settings_cls, found),) if found else ()
        return (init_settings, env_settings, *toml)

    @property
    def project(self) -> dict[str, Any]:
        """What ``trails.toml`` in the current folder decided: names and values that no flag and no variable overrode."""
        return dict(self._project)

    def credentials(self) -> tuple[str, str]:
        """User and password for :attr:`neo4j_uri`.

        Raises UsageError where the password could go to another machine that only a file in the current folder names: such a
        file may have come with the folder, and the password was not meant for it. A server asked by ``neo4j://`` names others
        to ask, so of such a file only ``bolt://`` on this machine gets the password.
        """
        password = self.neo4j_password.get_secret_value()
        if password and "neo4j_uri" in self._project and not _is_bolt_here(self.neo4j_uri):
            raise UsageError(
                f"trails.toml in this folder sets neo4j_uri to {self.neo4j_uri}, and NEO4J_PASSWORD of the environment "
                "is not sent to an address that a file in the current folder names. If it is yours, run: "
                f"export NEO4J_URI={shlex.quote(self.neo4j_uri)}  (or set it in ~/.config/trails/trails.toml)"
            )
        return self.neo4j_username, password

    @property
    def store_name(self) -> Literal["embedded", "neo4j"]:
        """The graph store in use."""
        if self.store == "auto":
            return "neo4j" if self.neo4j_uri else "embedded"
        return self.store


def load_settings(**flags: Any) -> Settings:
    """Settings with the flags that were given (``None`` means: not given). Raises UsageError naming the wrong entry."""
    given = {name: value for name, value in flags.items() if value is not None}
    found = config_file()
    if found is not None and re.search(r"^\s*[\"']?neo4j_password", found.read_text("utf-8", "replace"), re.I | re.M):
        raise UsageError(
            f"{found} holds a password. Remove it and run: export NEO4J_PASSWORD=…  (a file is easily shared)"
        )
    try:
        settings = Settings(**given)
        settings._project = _decided_by_project(given)
        for name in ("home", "model"):
            _check_length(name, str(getattr(settings, name)))
        return settings
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise UsageError(f"settings cannot be used: {'; '.join(lines)}. They come from {_SOURCES}.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the config file {found or ''} cannot be read: {error}") from None


def _check_length(name: str, path: str) -> None:
    """Raise UsageError for a path that no file system takes."""
    try:
        Path(path).stat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(
                f"{name} is a path of {counted(len(path), 'character')} ({path[:40]}…), which is too long"
            ) from None


def _decided_by_project(given: dict[str, Any]) -> dict[str, Any]:
    """Entries of ``trails.toml`` in the current folder that neither a flag nor a variable overrides."""
    here, own = (path.expanduser() for path in CONFIG_FILES)
    if not here.is_file() or (own.is_file() and here.samefile(own)):
        return {}
    entries = tomllib.loads(here.read_text("utf-8"))
    variables = {name.upper() for name in os.environ}
    return {
        name.lower(): value
        for name, value in entries.items()
        if name.lower() not in given and not {name.upper(), f"TRAILS_{name.upper()}"} & variables
    }


def _is_bolt_here(uri: str) -> bool:
    """Whether an address is one server on this machine, which sends nobody on to another (``bolt://`` does not route)."""
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme not in ("bolt", "bolt+s", "bolt+ssc"):
        return False
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
