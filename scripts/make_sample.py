"""Make the packaged sample from the published data sets.

    python scripts/make_sample.py DATA_FOLDER [OUTPUT_FOLDER]

DATA_FOLDER holds gsm8k/, marco_o1_long/, ru_llm_answers/ and pd_argument_prose/ as published (see NOTICE). The choice is a
rule over the records, without chance and without a model, so the same data give the same file byte for byte.
"""
# ruff: noqa: E501 (the texts below are read more easily in long lines)

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from trails.readers import ReadOptions, read, write_chains
from trails.sample import CANONICAL_SOURCE, PAIR_SOURCE
from trails.schema import Chain

OWN_LICENCE = "Apache-2.0"

CANONICAL: dict[str, dict[str, str]] = {
    # one thought, five ways to write it; every version keeps the connectives and their order
    "ru": {
        "plain": "Если модель видит знакомое начало, тогда она легко продолжает фразу. Но лёгкое продолжение ещё не "
        "понимание. Однако без знакомого начала цепочка часто обрывается. Вывод: проверять надо весь путь, а не одну фразу.",
        "synonyms": "Если начало текста модели известно, тогда продолжение даётся ей без труда. Но продолжать без труда ещё не "
        "значит понимать. Однако без такого начала ход мысли нередко прерывается. Вывод: смотреть надо на весь ход мысли, а не "
        "на отдельную фразу.",
        "lines": "Если: модель видит знакомое начало.\nТогда: она легко продолжает фразу.\nНо: лёгкое продолжение ещё не "
        "понимание.\nОднако: без знакомого начала цепочка часто обрывается.\nВывод: проверять надо весь путь, а не одну фразу.",
        "expanded": "Если модель видит начало, которое много раз встречалось ей при обучении, тогда она легко продолжает фразу "
        "слово за словом. Но лёгкое продолжение ещё не понимание: заученное можно повторить и без смысла. Однако без знакомого "
        "начала цепочка часто обрывается уже на втором шаге. Вывод: проверять надо весь путь от начала до конца, а не одну фразу.",
        "terse": "Если начало знакомо, тогда фраза продолжится. Но это не понимание. Однако без начала цепочка рвётся. "
        "Вывод: проверять надо путь.",
    },
    "en": {
        "plain": "If the model sees a familiar beginning, then it easily continues the phrase. But easy continuation is not yet "
        "understanding. However, without a familiar beginning the chain often breaks. Conclusion: check the whole path, not "
        "one phrase.",
        "synonyms": "If the model knows how a text begins, then going on costs it no effort. But going on without effort is not "
        "the same as understanding. However, without such a beginning the line of thought is often cut. Conclusion: look at the "
        "whole line of thought, not at a single phrase.",
        "lines": "If: the model sees a familiar beginning.\nThen: it easily continues the phrase.\nBut: easy continuation is not "
        "yet understanding.\nHowever: without a familiar beginning the chain often breaks.\nConclusion: check the whole path, "
        "not one phrase.",
        "expanded": "If the model sees a beginning that it met many times in training, then it easily continues the phrase word "
        "by word. But easy continuation is not yet understanding: what was learnt by heart can be repeated without sense. "
        "However, without a familiar beginning the chain often breaks at the second step. Conclusion: check the whole path from "
        "beginning to end, not one phrase.",
        "terse": "If the beginning is familiar, then the phrase goes on. But this is not understanding. However, without it the "
        "chain breaks. Conclusion: check the path.",
    },
}
PAIR = {"not-equal": "Мышление не равно генерации текста.", "is-not": "Мышление — это не генерация текста."}

CONNECTIVES = re.compile(r"\b(if|because|but|however|therefore|since|unless|otherwise)\b", re.IGNORECASE)
# Jokes about harm, praise of weapons, persons: nothing a stranger should meet in a sample
LEFT_OUT = re.compile(r"бомб|Хиросим|убий|оружи|секс|политик|Путин|расист|самоуб|наркот", re.IGNORECASE)


def gsm8k(data: Path) -> Iterator[Chain]:
    """Forty short solutions as they come, then twenty that argue with connectives."""
    chains = [chain for chain in read([data / "gsm8k" / "train.jsonl"]) if 90 <= len(chain.text) <= 380]
    plain, rest = chains[:40], chains[40:]
    yield from plain
    yield from islice((chain for chain in rest if len(CONNECTIVES.findall(chain.text)) >= 2), 20)


def marco(data: Path) -> Iterator[Chain]:
    """Five long traces with self-correction."""
    chains = [chain for chain in read([data / "marco_o1_long"]) if "```" not in chain.text]
    yield from islice(
        (c for c in chains if 2_000 <= len(c.text) <= 2_900 and len(CONNECTIVES.findall(c.text)) >= 10), 4
    )
    yield from islice(
        (c for c in chains if 3_300 <= len(c.text) <= 4_200 and len(CONNECTIVES.findall(c.text)) >= 15), 1
    )


def russian(data: Path) -> Iterator[Chain]:
    """The twelve shortest Russian answers that are fit for a sample, one per question."""
    seen: set[str] = set()
    found = []
    for chain in sorted(read([data / "ru_llm_answers"]), key=lambda chain: (len(chain.text), chain.id)):
        if chain.question not in seen and not LEFT_OUT.search(chain.question + chain.text):
            seen.add(chain.question)
            found.append(chain)
    yield from found[:12]


def spinoza(data: Path) -> Iterator[Chain]:
    """Thirty proofs of the Ethics that argue with connectives."""
    options = ReadOptions(source="spinoza/ethics")
    proofs = (
        chain
        for chain in read([data / "pd_argument_prose"], options=options)
        if chain.text.startswith("Proof") and 250 <= len(chain.text) <= 700 and CONNECTIVES.search(chain.text)
    )
    yield from islice(proofs, 30)


def own() -> Iterator[Chain]:
    """The canonical chain and the pair."""
    for language, versions in CANONICAL.items():
        for version, text in versions.items():
            metadata = {"version": version}
            yield Chain(
                CANONICAL_SOURCE,
                f"{language}:{version}",
                "",
                text,
                language=language,
                metadata=metadata,
                licence=OWN_LICENCE,
            )
    for version, text in PAIR.items():
        yield Chain(PAIR_SOURCE, version, "", text, language="ru", metadata={"version": version}, licence=OWN_LICENCE)


def main(data: Path, folder: Path) -> None:
    """Write chains.jsonl and the licence texts."""
    with (folder / "chains.jsonl").open("w", encoding="utf-8", newline="\n") as out:
        for part in (own(), gsm8k(data), spinoza(data), russian(data), marco(data)):
            write_chains(part, out)
    licences = folder / "LICENCES"
    licences.mkdir(exist_ok=True)
    for name, source in (
        ("gsm8k-MIT.txt", "gsm8k/LICENSE"),
        ("marco-o1-Apache-2.0.txt", "marco_o1_long/LICENSE"),
        ("ru-answers-Apache-2.0.txt", "ru_llm_answers/LICENSE"),
    ):
        shutil.copyfile(data / source, licences / name)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    default = Path(__file__).resolve().parent.parent / "src" / "trails" / "sample"
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else default)
