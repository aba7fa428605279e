"""Damaged inputs: nothing that a stranger sends may crash the reading, show a traceback or take the memory of the machine.

    python scripts/mutate_inputs.py --mutants 10000

Makes small inputs in every container and layout that the readers know, damages a copy of one (flipped bits, cut, repeated,
inserted and overwritten bytes, edited lengths), reads it in a process of its own, and counts: chains or a clear message that
begins with the file (good), any other exception, a dead process, more memory than allowed, no end within the time. Prints every
failure with the seed that repeats it (``--only SEED``); exits 1 when there was one.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import json
import lzma
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trails.errors import InputError
from trails.readers import ReadOptions, ReadReport, read

CASES = Path(__file__).parents[1] / "tests" / "readers" / "cases"
ROWS: list[dict[str, Any]] = [
    {
        "id": str(number),
        "question": f"Is {number} odd, and why?",
        "reasoning": f"If {number} is even, then {number + 1} is odd. " * (1 + number % 5) + "So it follows.",
        "answer": "yes" if number % 2 else "no",
        "scores": [0.5 * number, None, 1.0],
        "messages": [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": f"Because {number}. So yes."},
        ],
        "meta": {"level": number, "tags": ["a", "b" * (number % 3)]},
    }
    for number in range(300)
]


def arrow(compression: str | None, *, stream: bool, dictionary: bool = False) -> bytes:
    """The rows as an Arrow file or stream."""
    table = pa.Table.from_pylist(ROWS)
    if dictionary:
        place = table.schema.get_field_index("reasoning")
        table = table.set_column(place, "reasoning", table["reasoning"].dictionary_encode())
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(sink, table.schema, options=options) as writer:
        for batch in table.to_batches(max_chunksize=100):
            writer.write_batch(batch)
    return sink.getvalue()


def parquet(**options: Any) -> bytes:
    """The rows as Parquet."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=100, **options)
    return sink.getvalue()


def zipped(**members: bytes) -> bytes:
    """A zip archive; two underscores are a folder."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_DOT_", "."), data)
    return sink.getvalue()


def inputs() -> dict[str, bytes]:
    """Name and bytes of every input that is damaged."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    few = "".join(json.dumps(row) + "\n" for row in ROWS[:4]).encode()
    table = "question,reasoning,answer\n" + "".join(
        f'"{r["question"]}","{r["reasoning"]}",{r["answer"]}\n' for r in ROWS
    )
    made = {
        "a.jsonl": few,
        "b.json": json.dumps(ROWS[:20]).encode(),
        "c.json": json.dumps({"data": ROWS[:20], "version": 1}, indent=1).encode(),
        "d.csv": table.encode(),
        "e.tsv": table.replace(",", "\t").encode(),
        "f.parquet": parquet(),
        "g.parquet": parquet(compression="zstd", use_dictionary=False),
        "h.parquet": parquet(compression="gzip", data_page_version="2.0"),
        "i.parquet": parquet(compression="none", write_page_checksum=True),
        "j.arrow": arrow(None, stream=True),
        "k.arrow": arrow(None, stream=False),
        "l.arrow": arrow("zstd", stream=True),
        "m.arrow": arrow("lz4", stream=False),
        "n.arrow": arrow(None, stream=True, dictionary=True),
        "o.jsonl.gz": gzip.compress(lines),
        "p.jsonl.zst": pa.Codec("zstd").compress(lines, asbytes=True),
        "q.jsonl.xz": lzma.compress(lines),
        "r.jsonl.bz2": bz2.compress(lines),
        "s.zip": zipped(a_DOT_jsonl=few, b__c_DOT_csv=table.encode()),
        "t.eval": zipped(header_DOT_json=b"{}", samples__1_DOT_json=json.dumps(ROWS[0]).encode()),
        "u.jsonl": few.decode().encode("utf-16"),
        "v.txt": "\n\n".join(row["reasoning"] for row in ROWS[:20]).encode(),
        "w.md": "\n\n".join(f"# {row['question']}\n{row['reasoning']}" for row in ROWS[:20]).encode(),
    }
    for path in sorted(CASES.glob("*.*")):
        if path.is_file() and path.suffix in (".jsonl", ".json", ".parquet", ".csv"):
            made[path.name] = path.read_bytes()
    return made


EXTREMES = (
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    b"\x00\x00\x00\x00",
    b"\x00\x00\x00\x01",
    b"[[[[",
    b'{"a"',
    b"<thi",
)


def damage(data: bytes, chance: random.Random) -> bytes:
    """A damaged copy: one to four edits."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        at = chance.randrange(len(data))
        # headers and footers hold the lengths: half of the edits go there
        if chance.random() < 0.5:
            edge = min(len(data), 400)
            at = chance.choice((chance.randrange(edge), len(data) - 1 - chance.randrange(edge)))
        kind = chance.randrange(7)
        length = chance.choice((1, 2, 4, 8, 64, 1024))
        if kind <= 1:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            data[at : at + length] = chance.randbytes(length)
        elif kind == 3:
            data[at : at + 4] = chance.choice(EXTREMES)
        elif kind == 4:
            del data[at : at + length]
        elif kind == 5:
            data[at:at] = data[at : at + length] * chance.choice((1, 3, 50))
        else:
            del data[at:]
    return bytes(data)


def read_one(path: Path) -> str:
    """What reading came to: ``chains``, ``refused``, or a traceback."""
    report = ReadReport()
    try:
        for chain in read([path], options=ReadOptions(bad_tolerance=1_000_000), report=report):
            (chain.text + chain.question + chain.answer + chain.messages + chain.family).encode()
        return "chains" if report.chains else "bad records only"
    except InputError as error:
        return "refused" if str(error).startswith(str(path)) else f"message without the file: {error}"
    except BaseException:  # everything else is a failure to show
        return traceback.format_exc()


def attempt(task: Callable[[], str], seconds: int) -> tuple[str, int]:
    """The outcome of a task in a process of its own, and its largest resident memory in MB."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
        signal.alarm(seconds)
        with os.fdopen(into, "w") as pipe:
            pipe.write(task())
            pipe.flush()
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as pipe:
        said = pipe.read()
    _, status, usage = os.wait4(child, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        said = f"no end within {seconds} s" if name == "SIGALRM" else f"killed by {name}"
    return said or f"exit status {os.waitstatus_to_exitcode(status)}", usage.ru_maxrss // 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--only", type=int, help="read one mutant in this process and show what happens")
    parser.add_argument("--megabytes", type=int, default=500, help="largest resident memory of one reading")
    parser.add_argument("--seconds", type=int, default=30, help="longest time of one reading")
    options = parser.parse_args()
    made = inputs()
    names = list(made)
    counts: Counter[str] = Counter()
    largest = failed = 0
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="trails-mutants-"))
    seeds = [options.only] if options.only is not None else range(options.seed, options.seed + options.mutants)
    try:
        for seed in seeds:
            chance = random.Random(seed)
            name = names[seed % len(names)]
            path = folder / name
            path.write_bytes(damage(made[name], chance))
            if options.only is not None:
                print(name, read_one(path))
                return 0
            said, megabytes = attempt(lambda path=path: read_one(path), options.seconds)  # type: ignore[misc]
            largest = max(largest, megabytes)
            kind = said if said in ("chains", "bad records only", "refused") else "FAILED"
            if megabytes > options.megabytes:
                kind, said = "FAILED", f"{megabytes} MB"
            counts[kind] += 1
            if kind == "FAILED":
                failed += 1
                print(f"seed {seed} ({name}): {said}", flush=True)
            path.unlink()
            if sum(counts.values()) % 500 == 0:
                print(f"{sum(counts.values()):,} mutants, {failed} failed", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted; so far:")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    shown = ", ".join(f"{kind} {count:,}" for kind, count in counts.most_common())
    print(
        f"{sum(counts.values()):,} mutants of {len(names)} inputs in {time.monotonic() - began:.0f} s: {shown}; "
        f"largest memory {largest} MB; {failed} failed"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
