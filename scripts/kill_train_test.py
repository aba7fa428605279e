"""Kill variants, export, train, diff and report at random instants, run each again, and compare with an undisturbed run.

    python scripts/kill_train_test.py [--kills 20] [--only variants,export,train,diff,report] [--seed 0]

A tiny random model is made in a temporary folder. Every command is killed with SIGKILL until it got the wanted number of kills,
each time at a random instant between 0.3 of its undisturbed time and the whole; after each kill what lies under the final names
must be readable, and the run that follows must end as the undisturbed one did. Prints one line a command and exits with 1 if
anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import pyarrow.parquet as pq

from trails.config import load_settings
from trails.errors import TrailsError
from trails.pipeline import verify
from trails.platform.files import TEMPORARY, sha256
from trails.store.traces import TraceStore

ROOT = Path(__file__).parents[1]

MODEL = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from tests.measure.reference import byte_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
tokenizer = byte_tokenizer()
config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)
LlamaForCausalLM(config).save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
"""


@dataclass(frozen=True)
class Case:
    """A command of the program, what must be readable after a kill, and the result that is compared."""

    name: str
    arguments: Callable[[Path], list[str]]
    whole: Callable[[Path], str]
    result: Callable[[Path], str]


def environment() -> dict[str, str]:
    """Variables of the child processes."""
    return os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start the program."""
    command = [sys.executable, "-m", "trails", *arguments]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finished(arguments: list[str]) -> float:
    """Run the program to its end; its seconds. Raises SystemExit with what it printed."""
    began = time.monotonic()
    process = start(arguments)
    _, problem = process.communicate()
    if process.returncode:
        raise SystemExit(problem.decode())
    return time.monotonic() - began


def base(folder: Path) -> None:
    """A model, a home measured by it, and an export to train on."""
    model = [sys.executable, "-c", MODEL, str(folder / "model"), str(ROOT)]
    subprocess.run(model, env=environment(), check=True, capture_output=True)
    letters = random.Random(0)

    def words(n: int) -> str:
        return " ".join("".join(letters.choices("abcdefgh", k=4)) for _ in range(n))

    answers = [f"{words(3)}.\nSo {words(3)}.\nThus {words(3)}." for _ in range(24)]
    rows = [{"question": "Why?", "answer": answer, "thing": f"thing {i}"} for i, answer in enumerate(answers)]
    (folder / "chains.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    home = ["--home", str(folder / "home")]
    model = ["--model", str(folder / "model"), "--store", "embedded", "--family", "thing"]
    finished(["ingest", str(folder / "chains.jsonl"), *home, *model])
    finished(["export", "--subgraph", "all", "--format", "trails", "-o", str(folder / "rows.parquet"), *home])


def tables(folder: Path) -> str:
    """What is wrong with the tables under their final names; empty if nothing is."""
    for path in folder.rglob("*.parquet"):
        try:
            pq.read_table(path)
        except Exception as error:
            return f"{path.name} is damaged ({error})"
    return ""


def adapters(folder: Path) -> str:
    """As :func:`tables`, for an adapter whose record says that it is finished."""
    from safetensors import safe_open

    record = folder / "adapter" / "train.json"
    try:
        if record.is_file() and json.loads(record.read_text(encoding="utf-8")).get("finished"):
            with safe_open(folder / "adapter" / "adapter_model.safetensors", "numpy"):
                pass
    except Exception as error:
        return f"the adapter is damaged ({error})"
    return tables(folder)


def shards(folder: Path) -> str:
    """As :func:`tables`, for the shards of a home."""
    with TraceStore(folder / "home") as store:
        return ", ".join(store.damaged())


def pages(folder: Path) -> str:
    """As :func:`tables`, for the offline report."""
    page = folder / "report.html"
    if page.exists() and not page.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        return "report.html is cut"
    return ""


def digest_of(*names: str) -> Callable[[Path], str]:
    """SHA-256 of the files that fit the patterns."""
    return lambda folder: " ".join(sha256(path)[:16] for name in names for path in sorted(folder.glob(name)))


def digest_of_home(folder: Path) -> str:
    """Content and values of shards and graph, and what differs between them."""
    found = verify(load_settings(home=folder / "home", store="embedded"))
    return " ".join((found.content, found.values, found.graph, *found.differences))


def model_of(folder: Path) -> list[str]:
    """Options that every command of this test shares."""
    return ["--home", str(folder / "home"), "--model", str(folder / "model"), "--device", "cpu"]


CASES = (
    Case(
        "variants",
        lambda f: ["variants", "all", "--count", "8", "-o", str(f / "variants.parquet"), *model_of(f)],
        tables,
        digest_of("variants.parquet", "variants.rejected.jsonl"),
    ),
    Case(
        "export",
        lambda f: [
            *("export", "--subgraph", "all", "--format", "trails", "--split", "0.2", "--overwrite"),
            *("-o", str(f / "out.parquet"), "--home", str(f / "home")),
        ],
        tables,
        digest_of("out.parquet", "out.held_out.parquet", "out.README.md"),
    ),
    Case(
        "train",
        lambda f: [
            *("train", str(f / "rows.parquet"), "-o", str(f / "adapter"), "--steps", "30", "--checkpoint-every", "3"),
            *model_of(f),
        ],
        adapters,
        digest_of("adapter/adapter_model.safetensors"),
    ),
    Case(
        "diff",
        lambda f: ["diff", "--adapter", str(f / "adapter"), "--noise", "2", "--kl", "2", *model_of(f)],
        shards,
        digest_of_home,
    ),
    Case(
        "report",
        lambda f: ["report", "-o", str(f / "report.html"), "--overwrite", "--home", str(f / "home")],
        pages,
        digest_of("report.html"),
    ),
)


def killed(case: Case, clean: Path, work: Path, kills: int, draw: random.Random) -> int:
    """Kill a command until it got its kills; the number of failures. ``clean`` is copied for every start from nothing."""
    undisturbed = work / "undisturbed"
    shutil.copytree(clean, undisturbed)
    longest = finished(case.arguments(undisturbed))
    expected = case.result(undisturbed)
    done = failures = rounds = left = 0
    while done < kills:
        folder = work / f"round{rounds}"
        rounds += 1
        shutil.copytree(clean, folder)
        over = False
        while done < kills and not over:
            process = start(case.arguments(folder))
            try:
                process.wait(draw.uniform(0.3 * longest, longest))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                done += 1
            _, problem = process.communicate()
            over = process.returncode == 0
            if process.returncode not in (0, -signal.SIGKILL):
                failures += 1
                print(f"{case.name}: exit code {process.returncode}: {problem.decode().strip()}")
                over = True
            try:
                found = case.whole(folder)
            except TrailsError as error:
                found = str(error)
            if found:
                failures += 1
                print(f"{case.name}: after a kill: {found}")
        finished(case.arguments(folder))
        if case.result(folder) != expected:
            failures += 1
            print(f"{case.name}: the result DIFFERS from the undisturbed one")
        left += sum(1 for path in folder.rglob(f"*{TEMPORARY}"))
        shutil.rmtree(folder)
    print(
        f"{case.name}: {done} kills in {rounds} rounds, {failures} failures, {left} temporary files left behind "
        f"(undisturbed: {longest:.1f} s)",
        flush=True,
    )
    return failures


def main() -> int:
    """Run every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only", default=",".join(case.name for case in CASES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = options.only.split(",")
    folder = Path(tempfile.mkdtemp(prefix="trails-kill-"))
    try:
        clean = folder / "clean"
        clean.mkdir()
        base(clean)
        failures = 0
        for case in CASES:
            if case.name not in chosen:
                continue
            start_from = folder / f"{case.name}-clean"
            shutil.copytree(clean, start_from)
            if case.name == "diff":
                finished(CASES[2].arguments(start_from))
            work = folder / case.name
            work.mkdir()
            failures += killed(case, start_from, work, options.kills, random.Random(options.seed))
        return 1 if failures else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
