"""The lock of a writer, against a genuine second process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trails.platform.locks import HeldError, WriterLock

HOLD = (
    "import sys, time; from pathlib import Path; from trails.platform.locks import WriterLock\n"
    "lock = WriterLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
)


def test_who_comes_second_is_told_who_holds_it_and_a_dead_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        for _ in range(2):  # asking does not wipe out the name
            with pytest.raises(HeldError, match=f"^{holder.pid}$"):
                WriterLock(path)
        holder.send_signal(signal.SIGKILL)
    lock = WriterLock(path)
    assert path.read_text() == str(os.getpid())
    with pytest.raises(HeldError, match=f"^{os.getpid()}$"):
        WriterLock(path)
    lock.release()
    lock.release()
    WriterLock(path).release()
    assert path.stat().st_mode & 0o077 == 0
