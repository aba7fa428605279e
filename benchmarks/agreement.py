"""What members with nothing in common agree on: the packaged model, a byte-level model trained here, and what else is given.

python -m benchmarks.agreement FOLDER [--model FOLDER_OR_ID ...] [--gguf FILE ...] [--chains 40] [--steps 400]

FOLDER gets the input, the byte-level model and a home, and is resumed. A GGUF file is converted into FOLDER once, to float32.
Prints the tables of ``trails agreement`` by span, by step and by chain. The byte-level model (a llama of 4 layers, 256 items,
no merges) is trained on the canonical families and on those chains of the sample that are not measured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trails.config import load_settings
from trails.experiments.small import byte_tokenizer, small_model, train_small
from trails.pipeline import Home, IngestOptions
from trails.pipeline.consilium import ingest_many
from trails.pipeline.measuring import scorer_from
from trails.sample import canonical_path, path

MAX_BYTES = 700
"""Bytes of question and chain of a text that is measured: it fits into the window of the byte-level model."""
WINDOW = 768


def drawn(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Lines of the sample that are measured, and those that are not."""
    lines = path().read_text("utf-8").splitlines()
    short = [i for i, line in enumerate(lines) if _bytes(json.loads(line)) <= MAX_BYTES]
    picked = {short[i] for i in np.random.default_rng(seed).permutation(len(short))[:count]}
    # the sample's own families are left out of the training: a version of a measured chain may be among the others
    rest = [
        line for i, line in enumerate(lines) if i not in picked and not json.loads(line)["source"].startswith("trails/")
    ]
    return [lines[i] for i in sorted(picked)], rest


def _bytes(row: dict[str, Any]) -> int:
    return len((row.get("question", "") + row["text"]).encode("utf-8"))


def trained(folder: Path, rest: Sequence[str], steps: int) -> None:
    """A byte-level language model, saved as a folder that trails loads."""
    tokenizer = byte_tokenizer()
    rows = [json.loads(line) for line in (*rest, *canonical_path().read_text("utf-8").splitlines())]
    text = "\n".join(f"{row.get('question', '')}\n{row['text']}\n" for row in rows)
    ids = torch.tensor(tokenizer(text)["input_ids"])
    model = small_model(256, WINDOW)
    begin = time.perf_counter()
    losses = train_small(model, ids, steps=steps, window=WINDOW)
    last = float(np.mean(losses[-20:]))
    print(
        f"byte-level model: {len(ids):,} bytes, {steps} steps of 2 x {WINDOW}, {time.perf_counter() - begin:.0f} s, "
        f"{last:.2f} nats a byte of its training text in the last 20 steps (untrained {losses[0]:.2f})"
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def converted(file: Path, folder: Path) -> None:
    """The model of a GGUF file as a folder of float32 weights with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    of: dict[str, Any] = {"gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **of)
    fresh = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    fresh.load_state_dict(model.state_dict())
    if hasattr(fresh.config, "quantization_config"):  # the weights are plain numbers from here on
        del fresh.config.quantization_config
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, **of).save_pretrained(folder)


def main() -> None:
    """Measure with every member what is missing, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--gguf", action="append", type=Path, default=[])
    parser.add_argument("--chains", type=int, default=40)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    measured, rest = drawn(options.chains)
    (folder / "chains.jsonl").write_text("\n".join(measured) + "\n", encoding="utf-8")
    if not (folder / "bytes" / "tokenizer.json").is_file():
        trained(folder / "bytes", rest, options.steps)
    models = ["", str(folder / "bytes"), *options.model]
    for file in options.gguf:
        if not (folder / file.stem / "tokenizer.json").is_file():
            converted(file, folder / file.stem)
        models.append(str(folder / file.stem))
    settings = load_settings(home=folder / "home", store="embedded", device="cpu")
    for done in ingest_many([folder / "chains.jsonl"], settings, IngestOptions(), models, scorer_from):
        if done.error is not None:
            raise done.error
    with Home(folder / "home", store="embedded") as home:
        for by in ("span", "step", "chain"):
            found = home.agreement(by=by, write=False).report().record(50)  # type: ignore[arg-type]
            print(
                json.dumps(
                    {key: found[key] for key in ("verdict", "n_units", "n_chains", "members", "pairs", "left_out")}
                )
            )
            for score in found["scores"]:
                print(json.dumps(score))


if __name__ == "__main__":
    main()
