"""The compose file: what the container may do, and a health check that says the truth without a password."""

from __future__ import annotations

import socket
import subprocess
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from tests.neo4j.servers import shared

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    """The one service of the file."""
    (found,) = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"].values()
    return dict(found)


def healthy(service: dict[str, Any], port: int) -> bool:
    """Run the health check of the file, as the container would, against another port."""
    kind, *command = service["healthcheck"]["test"]
    assert kind == "CMD"
    command[-1] = command[-1].replace("/7687", f"/{port}")
    return subprocess.run(command, capture_output=True, timeout=30).returncode == 0


def test_the_container_may_do_no_more_than_it_needs(service: dict[str, Any]) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert set(service["cap_add"]) <= {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert not any("PASSWORD" in part or "AUTH" in part for part in service["healthcheck"]["test"])


def test_the_health_check_fails_where_nobody_or_somebody_else_answers(service: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(20)
                connection.sendall(bytes(4))  # Bolt for: no version in common

        thread = threading.Thread(target=refuse)
        thread.start()
        assert not healthy(service, port)
        thread.join()
    assert not healthy(service, port)


@pytest.mark.neo4j
@pytest.mark.xdist_group("neo4j-lts")
def test_the_health_check_passes_on_a_genuine_server(service: dict[str, Any]) -> None:
    port = urlsplit(shared("LTS").uri).port
    assert port is not None
    assert healthy(service, port)
