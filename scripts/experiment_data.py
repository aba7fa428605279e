"""Choose the chains that the experiments of ``docs/experiments`` were run on, from folders of the original data sets.

    python scripts/experiment_data.py DATA --out FOLDER

``DATA`` holds gsm8k (MIT), marco_o1_long (Apache-2.0), llm_math_chains (Apache-2.0), ru_llm_answers (Apache-2.0),
pd_argument_prose (public domain) and plain_text (public domain, Wikipedia CC BY-SA 4.0). Writes ``chains.jsonl`` (native
records, each with its source and licence), below 3 MB.
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
    # file: (source, licence, chains at most)
    "marco_o1_long/cot_demo.jsonl": ("marco-o1", "Apache-2.0", 87),
    "llm_math_chains/qwen2.5-32b_math_l5.jsonl": ("math", "Apache-2.0", 160),
    "gsm8k/model_solutions_sample.jsonl": ("gsm8k-solutions", "MIT", 1000),
    "ru_llm_answers/answers.jsonl": ("ru-answers", "Apache-2.0", 156),
    "pd_argument_prose/spinoza_ethics_en.md": ("spinoza", "public domain", 120),
}
PLAIN = {
    "plain_text/wikipedia_en.txt": ("unrelated-wikipedia", "CC-BY-SA-4.0", 60),
    "plain_text/shakespeare_en.txt": ("unrelated-shakespeare", "public domain", 60),
}


def chains(data: Path) -> Iterator[Chain]:
    """All chosen chains, source by source."""
    for name, (source, licence, most) in TAKEN.items():
        found = [
            replace(chain, source=source, licence=licence, source_sha256="", metadata=_short(chain))
            for chain in read([data / name])
            if len(chain.text) >= 60
        ]
        if source == "gsm8k-solutions":  # whole questions
            order = sorted({c.question for c in found}, key=lambda q: stable_hash(q))[: most // 5]
            found = [c for c in found if c.question in set(order)]
        elif source == "ru-answers":  # longest first: questions with several answers stay together
            found.sort(key=lambda c: stable_hash(c.question, c.text))
        else:
            found.sort(key=lambda c: stable_hash(c.text))
        yield from found[:most]
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
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "chains.jsonl").open("w", encoding="utf-8") as file:
        count = write_chains(chains(arguments.data), file)
    size = (arguments.out / "chains.jsonl").stat().st_size
    print(f"{count} chains, {size / 1e6:.2f} MB in {arguments.out / 'chains.jsonl'}")


if __name__ == "__main__":
    main()
