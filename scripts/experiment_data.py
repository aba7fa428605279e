"""Choose the chains that the experiments of ``docs/experiments`` were run on, from folders of the original data sets.

    python scripts/experiment_data.py DATA --out FOLDER [--course]

``DATA`` holds gsm8k (MIT), strategyqa (MIT), prontoqa (Apache-2.0), bbh_cot (MIT) and plain_text (public domain, Wikipedia
CC BY-SA 4.0). Writes ``chains.jsonl`` (native records, each with its source and licence): every chain that a family has.
``--only SOURCE`` (repeated) writes some sources; entailment_bank (Apache-2.0, source entailment-bank) and folio (CC BY-SA 4.0)
are written where they are named only. ``--course`` writes the books of a course instead, for the experiments on
courses: entailment_bank (Apache-2.0), strategyqa, gsm8k (with the attempts of models, source gsm8k-attempts), math500,
react_trails (MIT), prontoqa, llm_math_chains (Apache-2.0), folio (CC BY-SA 4.0), stacks_proofs (GNU FDL 1.2), pd_argument_prose
(public domain), and the same plain_text.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
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
NAMED = {
    # written only where they are named
    "entailment_bank/train_task1.jsonl": ("entailment-bank", "Apache-2.0"),
    "folio/folio-train.jsonl": ("folio", "CC-BY-SA-4.0"),
}
COURSE = {
    # of the same files, and of others
    "gsm8k/train.jsonl": ("gsm8k", "MIT"),
    "strategyqa/train.jsonl": ("strategyqa", "MIT"),
    "entailment_bank/train_task1.jsonl": ("entailment-bank", "Apache-2.0"),
    "entailment_bank/dev_task1.jsonl": ("entailment-bank", "Apache-2.0"),
    "gsm8k/model_solutions_sample.jsonl": ("gsm8k-attempts", "MIT"),
    "math500/math_300.jsonl": ("math500", "MIT"),
    "folio/folio-train.jsonl": ("folio", "CC-BY-SA-4.0"),
    "prontoqa/prontoqa.json": ("prontoqa", "Apache-2.0"),
    "react_trails/react_base.jsonl": ("react", "MIT"),
    "llm_math_chains/qwen2.5-32b_math_l5.jsonl": ("llm-math", "Apache-2.0"),
    "stacks_proofs/proofs.jsonl": ("stacks-proofs", "GFDL-1.2"),
    "pd_argument_prose/spinoza_ethics_en.md": ("ethics", "public domain"),
}
PLAIN = {
    "plain_text/wikipedia_en.txt": ("unrelated-wikipedia", "CC-BY-SA-4.0", 160),
    "plain_text/shakespeare_en.txt": ("unrelated-shakespeare", "public domain", 160),
}


def chains(data: Path, taken: Mapping[str, tuple[str, str]]) -> Iterator[Chain]:
    """All chosen chains, file by file, and the plain text."""
    for name, (source, licence) in taken.items():
        found = [
            replace(chain, source=source, licence=licence, source_sha256="", metadata=_short(chain))
            for chain in read([data / name])
            if len(chain.text) >= 40 and not (source == "gsm8k-attempts" and _by_people(chain))
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


def _by_people(chain: Chain) -> bool:
    """Whether a solution is the one that people wrote, beside those of models."""
    return chain.metadata.get("solver") == "ground_truth"


def _short(chain: Chain) -> dict[str, str]:
    return {key: value for key, value in chain.metadata.items() if key == "tree" or len(value) <= 80}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[], help="a source to write; may be repeated")
    parser.add_argument("--course", action="store_true", help="write the books of a course")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "chains.jsonl").open("w", encoding="utf-8") as file:
        taken = COURSE if arguments.course else TAKEN | {k: v for k, v in NAMED.items() if v[0] in arguments.only}
        chosen = (c for c in chains(arguments.data, taken) if not arguments.only or c.source in arguments.only)
        count = write_chains(chosen, file)
    size = (arguments.out / "chains.jsonl").stat().st_size
    print(f"{count} chains, {size / 1e6:.2f} MB in {arguments.out / 'chains.jsonl'}")


if __name__ == "__main__":
    main()
