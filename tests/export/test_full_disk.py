"""A disk that is full in the middle of an export: one message, no half-written file, and what was there stays."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from trails.errors import StoreError, UsageError
from trails.export import export_selection
from trails.export.subgraph import Selection
from trails.pipeline import Home
from trails.platform.files import scratch_folder
from trails.store.traces import TraceStore

LIMITED = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
"""For a process whose files are limited: Python keeps a compiled module that was cut off, and no later process can load it."""

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
        ("export-graph", "all", "-o", small / "o.parquet", "--home", home),
        ("export-graph", "all", "-o", small / "o.gexf", "--home", home),
        ("bulk", small / "o.bulk", "--home", home),
        ("export", "--subgraph", "all", "--format", "trl", "-o", small / "o.parquet", "--home", home),
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
    assert codes[2:8] == ["code 5"] * 6, done.stdout + done.stderr
    assert done.stderr.count("Free some space") >= 6, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    assert done.stderr.count("Error: ") == len(lines), done.stderr
    assert set(done.stdout.splitlines()) - {"browser"} >= {"filler"}
    assert not [name for name in done.stdout.splitlines() if name.startswith(("o.", "home"))], done.stdout


def test_the_limit_of_a_file_is_no_full_disk_and_the_same_command_works_after_it(make_home, tmp_path: Path) -> None:
    home = make_home(n=60).home
    lines = [
        ("export-graph", "all", "-o", tmp_path / "o.parquet", "--home", home),
        ("export-graph", "all", "-o", tmp_path / "o.graphml", "--home", home),
        ("bulk", tmp_path / "o.bulk", "--home", home),
        ("export", "--subgraph", "all", "--format", "trails", "-o", tmp_path / "o.jsonl", "--home", home),
        ("report", "--home", home, "-o", tmp_path / "o.html"),
    ]
    before = sorted(path.name for path in tmp_path.iterdir())
    for line in lines:
        command = shlex.join([sys.executable, "-m", "trails", *map(str, line)])
        done = subprocess.run(
            ["bash", "-c", f"ulimit -f 4; {command}"], capture_output=True, text=True, env=LIMITED, timeout=300
        )
        assert done.returncode == 5, done.stderr
        (said,) = done.stderr.splitlines()
        assert "File too large. This is the limit of the size of a file, not the space" in said
        assert "Free some space" not in said
        assert sorted(path.name for path in tmp_path.iterdir()) == before, line
        again = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
        assert again.returncode == 0, again.stderr
        before = sorted(path.name for path in tmp_path.iterdir())


def test_a_full_standard_output_is_named(make_home, tmp_path: Path) -> None:
    home = make_home(n=6).home
    target = tmp_path / "o.jsonl"
    line = ["export", "--subgraph", "all", "--format", "trails", "-o", str(target), "--home", str(home)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "trails", *line], stdout=full, stderr=subprocess.PIPE, text=True, timeout=300
        )
    assert done.returncode == 5
    assert done.stderr.splitlines() == [
        "Error: standard output: No space left on device. Free some space and run the same command again"
    ]
    assert len(target.read_text().splitlines()) == 6


def test_what_is_piped_in_names_the_folder_that_is_full(tmp_path: Path) -> None:
    command = shlex.join([sys.executable, "-m", "trails", "ingest", "-", "--home", str(tmp_path / "home"), "--dry-run"])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 4; head -c 100000 /dev/zero | {command}"],
        capture_output=True,
        text=True,
        env={**LIMITED, "TMPDIR": str(scratch)},
        timeout=300,
    )
    assert done.returncode == 5, done.stderr
    assert str(scratch) in done.stderr
    assert "or name another folder in TMPDIR" in done.stderr


def test_a_graph_replaces_only_a_graph(make_home, tmp_path: Path) -> None:
    with Home(make_home(n=6).home, store="embedded") as home:
        target = tmp_path / "graph"
        first = home.export_graph("all", target, "parquet")
        assert first.rows["Chain"] == 6
        with pytest.raises(UsageError, match="exists. Choose another name, or give --overwrite"):
            home.export_graph("all", target, "parquet")
        home.export_graph("all", target, "parquet", tokens=False, overwrite=True)
        assert not (target / "Token.parquet").exists()
        (target / "mine.txt").write_text("mine")
        with pytest.raises(UsageError, match=r"holds what this command did not write \(mine.txt\)"):
            home.export_graph("all", target, "parquet", overwrite=True)
        assert (target / "mine.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_folders_of_killed_exports_are_cleared_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    hold = (
        "import sys, time, pathlib; from trails.platform.files import scratch_folder\n"
        "with scratch_folder(pathlib.Path(sys.argv[1]), '.trails-export-') as f:\n"
        "    (f / 'rows').write_text('rows'); print(f.name, flush=True); time.sleep(600)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        names = [process.stdout.readline().strip() for process in started if process.stdout]
        assert {path.name for path in tmp_path.iterdir()} == set(names)
        started[0].kill()
        started[0].wait()
        with scratch_folder(tmp_path, ".trails-export-") as mine:
            assert {path.name for path in tmp_path.iterdir()} == {names[1], mine.name}
        assert {path.name for path in tmp_path.iterdir()} == {names[1]}
    finally:
        for process in started:
            process.kill()
            process.wait()


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
    assert not [path.name for path in tmp_path.iterdir() if "tmp" in path.name or "trails-export" in path.name]
