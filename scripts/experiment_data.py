"""Choose the chains that the experiments of ``docs/experiments`` were run on, from folders of the original data sets.

    python scripts/experiment_data.py DATA --out FOLDER

``DATA`` holds gsm8k (MIT), strategyqa (MIT), prontoqa (Apache-2.0), bbh_cot (MIT) and plain_text (public domain, Wikipedia
CC BY-SA 4.0). Writes ``chains.jsonl`` (native records, each with its source and licence): every chain that a family has.
``--only SOURCE`` (repeated) writes some sources.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from trails.readers import read, write_chains
from trails.schema import Chain, stable_hash

TAKEN = {
    # file: (source, licence)
    "gsm8k/train.jsonl": ("gsm8k", "MIT"),
    "gsm8k/model_solutions_sample.jsonl": ("gsm8k-solutions", "MIT"),
    "strategyqa/train.jsonl": ("strategyqa", "MIT"),
    "prontoqa/prontoqa.json": ("prontoqa", "Apache-2.0"),
    "bbh_cot/model_chains.jsonl": ("bbh", "MIT"),
}
PLAIN = {
    "plain_text/wikipedia_en.txt": ("unrelated-wikipedia", "CC-BY-SA-4.0", 160),
    "plain_text/shakespeare_en.txt": ("unrelated-shakespeare", "public domain", 160),
}


def chains(data: Path) -> Iterator[Chain]:
    """All chosen chains, source by source."""
    for name, (source, licence) in TAKEN.items():
        found = [
            replace(chain, source=source, licence=licence, source_sha256="", metadata=_short(chain))
            for chain in read([data / name])
            if len(chain.text) >= 40
        ]
        found.sort(key=lambda c: stable_hash(c.question, c.text))
        yield from found
    for name, (source, licence, most) in PLAIN.items():
        text = (data / name).read_text(encoding="utf-8")
        blocks = [" ".join(b.split()) for b in re.split(r"\n\s*\n", text)]
        if sum(len(b) >= 300 for b in blocks) < most:  # few or short paragraphs: running text in blocks of sentences
            lines = [s.strip() for line in text.splitlines() for s in re.split(r"(?<=[.!?]) ", line) if s.strip()]
            blocks, block = [], ""
            for line in lines:
                block = f"{block} {line}".strip()
                if len(block) >= 800:
                    blocks.append(block)
                    block = ""
        blocks = [b[:1600] for b in blocks if len(b) >= 300]
        step = max(1, len(blocks) // most)
        for number, block in enumerate(blocks[::step][:most]):
            yield Chain(source, str(number), "", block, language="en", licence=licence)


def _short(chain: Chain) -> dict[str, str]:
    return {key: value for key, value in chain.metadata.items() if len(value) <= 80}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[], help="a source to write; may be repeated")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "chains.jsonl").open("w", encoding="utf-8") as file:
        chosen = (c for c in chains(arguments.data) if not arguments.only or c.source in arguments.only)
        count = write_chains(chosen, file)
    size = (arguments.out / "chains.jsonl").stat().st_size
    print(f"{count} chains, {size / 1e6:.2f} MB in {arguments.out / 'chains.jsonl'}")


if __name__ == "__main__":
    main()
