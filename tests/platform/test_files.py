"""A file is there completely or not at all; what a killed writer left goes, what a writer at work holds stays."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trails.platform.files import replacing, sha256, write_atomic


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "ä\n")
    assert path.read_bytes() == "ä\n".encode()
    assert sha256(path) == hashlib.sha256("ä\n".encode()).hexdigest()

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == "ä\n".encode()
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "missing" / "a.json", b"")


def test_the_bytes_reach_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    sync, rename = os.fsync, Path.replace

    def fsync(number: int) -> None:
        seen.append(Path(f"/proc/self/fd/{number}").resolve().name.split(".")[0])
        sync(number)

    def replace(self: Path, target: Path) -> Path:
        seen.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_atomic(tmp_path / "name.bin", memoryview(b"bytes"))
    assert seen == ["name", "rename", tmp_path.name]


def test_leftovers_of_killed_writers_go_and_those_of_writers_at_work_stay(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom trails.platform.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as t:\n    t.write_text('half')\n    print(t.name, flush=True)\n"
        "    sys.stdin.read()\n"
    )

    def writer() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    killed, left = writer()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    working, held = writer()
    other = tmp_path / "rows.jsonl.readme.tmp"
    other.write_text("a user's own")
    assert not (tmp_path / left).exists()  # the second writer swept it
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert (tmp_path / held).exists()
    working.communicate("")
    assert path.read_text() == "half"  # the last to finish
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([path.name, other.name])
