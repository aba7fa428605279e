"""A disk that is full in the middle of an export: one message, no half-written file, and what was there stays."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from trails.errors import StoreError
from trails.export import export_selection
from trails.export.subgraph import Selection
from trails.store.traces import TraceStore

UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]


def may_mount() -> bool:
    """Whether this machine lets a user mount a small file system of his own."""
    try:
        return subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="no user namespaces here")
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_an_export_on_a_full_disk(make_home, tmp_path: Path, name: str) -> None:
    made = make_home(n=60)
    small = tmp_path / "small"
    small.mkdir()
    arguments = [
        "export",
        "--home",
        made.home,
        "--subgraph",
        "all",
        "--format",
        "trails",
        "-o",
        small / name,
        "--overwrite",
    ]
    command = shlex.join([sys.executable, "-m", "trails", *map(str, arguments)])
    # 16 kB are left; the file that was there before is to stay
    script = (
        f"mount -t tmpfs -o size=32k none {shlex.quote(str(small))} && cd {shlex.quote(str(small))} && echo before > {name} "
        f"&& head -c 12000 /dev/zero > filler; {command}; echo code $?; ls -A; cat {name}"
    )
    done = subprocess.run([*UNSHARE, "sh", "-c", script], capture_output=True, text=True, env=os.environ, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert f"{name} cannot be written" in said
    assert "No space left on device" in said
    assert done.stdout.splitlines() == ["code 5", "filler", name, "before"]


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="no user namespaces here")
def test_commands_on_a_full_disk_end_with_one_line_and_leave_nothing_half_made(make_home, tmp_path: Path) -> None:
    home = make_home(n=60).home
    small = tmp_path / "small"
    small.mkdir()
    lines = (
        ("roles", "export", "#1", "-o", small / "o.jsonl", "--home", home),
        ("stellator", "init", small / "o.stellator"),
        ("report", "--home", home, "-o", small / "o.html"),
        ("show", "#1", "--svg", small / "o.svg", "--home", home),
        ("browser", "--save", small / "browser", "--home", home),
        ("genome", "init", small / "o.genome.yaml", "--from", home),
        ("ingest", "--sample", "--model", "uniform", "--home", small / "home", "--store", "embedded"),
    )
    commands = "; ".join(
        f"{shlex.join([sys.executable, '-m', 'trails', *map(str, line)])}; echo code $?" for line in lines
    )
    script = (
        f"mount -t tmpfs -o size=8k none {shlex.quote(str(small))} && cd {shlex.quote(str(small))} && "
        f"head -c 9000 /dev/zero > filler; {commands}; ls -A"
    )
    done = subprocess.run([*UNSHARE, "sh", "-c", script], capture_output=True, text=True, env=os.environ, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    codes = [line for line in done.stdout.splitlines() if line.startswith("code ")]
    assert len(codes) == len(lines)
    assert "code 0" not in codes, done.stdout + done.stderr
    assert done.stderr.count("Error: ") == len(lines), done.stderr
    assert set(done.stdout.splitlines()) - {"browser"} >= {"filler"}
    assert not [name for name in done.stdout.splitlines() if name.startswith(("o.", "home"))], done.stdout


def test_an_export_that_fails_at_the_last_write_leaves_what_was_there(
    make_home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_home(n=6)
    target = tmp_path / "rows.jsonl"
    target.write_text("before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"), TraceStore(made.home) as traces:
        export_selection(Selection("all", None), traces, "trails", target, overwrite=True)
    assert target.read_text() == "before"
    assert not [
        path.name for path in tmp_path.iterdir() if "tmp" in path.name or path.name.startswith(".trails-export")
    ]
