"""Kill `trails ingest` at random instants, resume, and compare with an ingest that nobody disturbed.

    python scripts/kill_test.py [--kills 200] [--model uniform] [--limit 60] [--seed 0] [--workers 2] [--graph after] [PATH...]

PATH defaults to the packaged sample. With --workers every second kill hits one of the workers instead of the process that
started them; that ingest must go on and end well. After every kill the shards must be whole; after the last resume the digests
of shards and graph must be those of the undisturbed home. Prints one line per home and exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from trails.config import load_settings
from trails.errors import TrailsError
from trails.pipeline import verify
from trails.store.traces import TraceStore

SRC = Path(__file__).parents[1] / "src"


def ingest(arguments: list[str], home: Path) -> subprocess.Popen[bytes]:
    """Start an ingest."""
    command = [sys.executable, "-m", "trails", "ingest", *arguments, "--home", str(home), "--store", "embedded"]
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def children_of(parent: int) -> list[int]:
    """Processes that a process started: the workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, of = path.read_text().rsplit(")", 1)[1].split()[:2]
            if int(of) == parent and state != "Z":
                found.append(int(path.parent.name))
    return sorted(found)


def main() -> int:
    """Kill until the number is reached, then compare every home."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument(
        "--model", default="uniform", help="uniform needs no torch and is fast; empty = the packaged model"
    )
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="processes that measure; 0 = none but the one")
    parser.add_argument("--graph", choices=["during", "after"], help="when the graph is loaded")
    parser.add_argument("path", nargs="*")
    options = parser.parse_args()
    arguments = [*(options.path or ["--sample"]), "--limit", str(options.limit)]
    if options.model:
        arguments += ["--model", options.model]
    if options.graph:
        arguments += ["--graph", options.graph]
    workers = ["--workers", str(options.workers)] if options.workers else []

    folder = Path(tempfile.mkdtemp(prefix="trails-kill-"))
    try:
        undisturbed = folder / "undisturbed"
        begin = time.monotonic()
        process = ingest(arguments, undisturbed)
        _, problem = process.communicate()
        if process.returncode:
            sys.stderr.write(problem.decode())
            return 1
        longest = time.monotonic() - begin
        if workers:  # the digest is that of one process, the time that of what is killed
            begin = time.monotonic()
            ingest([*arguments, *workers], folder / "timed").communicate()
            longest = time.monotonic() - begin
        arguments += workers
        expected = verify(load_settings(home=undisturbed, store="embedded"))
        print(f"undisturbed ingest: {longest:.1f} s, {expected.chains} chains, content {expected.content[:16]}")

        rng, kills, failures, homes, of_workers = random.Random(options.seed), 0, 0, 0, 0
        while kills < options.kills:
            home, here, done = folder / f"home{homes}", 0, False
            homes += 1
            while kills < options.kills and not done:
                begin = time.monotonic()
                process = ingest(arguments, home)
                try:
                    process.wait(rng.uniform(0.3 * longest, longest))
                except subprocess.TimeoutExpired:
                    kills, here = kills + 1, here + 1
                    if kills % 2 and (found := children_of(process.pid)):
                        of_workers += 1
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(rng.choice(found), signal.SIGKILL)
                    else:
                        process.send_signal(signal.SIGKILL)
                _, problem = process.communicate()
                if process.returncode not in (0, -signal.SIGKILL):
                    failures += 1
                    print(f"home {homes}: exit code {process.returncode}: {problem.decode().strip()}")
                done = process.returncode == 0
                if done and not here:  # the first found cold files; the instants must fall into the work
                    longest = min(longest, time.monotonic() - begin)
                if (home / "trails.json").exists():
                    with TraceStore(home) as shards:
                        if damaged := shards.damaged():
                            failures += 1
                            print(f"home {homes}: damaged after a kill: {', '.join(damaged)}")
            process = ingest(arguments, home)
            _, problem = process.communicate()
            try:
                found = verify(load_settings(home=home, store="embedded"))
            except TrailsError as error:
                failures += 1
                print(f"home {homes}: {error}")
                continue
            same = (found.content, found.values, found.graph) == (expected.content, expected.values, expected.graph)
            failures += not same or bool(found.differences)
            print(
                f"home {homes}: {here} kills, {'as undisturbed' if same else 'DIFFERS'} {'; '.join(found.differences)}"
            )
            shutil.rmtree(home)
        hit = f" ({of_workers} of them of workers)" if workers else ""
        print(f"{kills} kills{hit} in {homes} homes, {failures} failures")
        return 1 if failures else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
