"""Make the canonical chains: 100 families of "if → then → but → however → conclusion" in seven versions each.

    python scripts/make_canonical.py [--check]

Reads scripts/canonical_parts.toml (50 topics, each in English and in Russian, five clauses in two wordings) and writes
src/trails/sample/canonical.jsonl. The same parts give the same file byte for byte. With --check nothing is written: exit
status 1 if the packaged file differs from what the parts give.
"""

from __future__ import annotations

import io
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from trails.readers import write_chains
from trails.sample import HUNDRED_SOURCE, canonical_path
from trails.schema import Chain

PARTS = Path(__file__).with_name("canonical_parts.toml")

# A version names its text with the clauses a … e in the first wording and A … E in the second; a clause behind a full stop
# or a line break begins with a capital.
VERSIONS: dict[str, dict[str, str]] = {
    "en": {
        "plain": "If {a}, then {b}. But {c}. However, {d}. Therefore, {e}.",
        "reworded": "If {A}, then {B}. But {C}. However, {D}. Therefore, {E}.",
        "joined": "If {a}, then {B}, but {C}. However, {d}. So {E}.",
        "without-then": "If {A}, {b}. But {C}. Nevertheless, {D}. Consequently, {e}.",
        "supposed": "Suppose that {a}. Then {B}. But {c}. Still, {D}. Hence {e}.",
        "assumed": "Assume that {A}. In that case {b}. On the other hand, {C}. However, {d}. Thus {E}.",
        "lines": "If: {a}.\nThen: {b}.\nBut: {c}.\nHowever: {d}.\nConclusion: {e}.",
    },
    "ru": {
        "plain": "Если {a}, то {b}. Но {c}. Однако {d}. Вывод: {e}.",
        "reworded": "Если {A}, то {B}. Но {C}. Однако {D}. Вывод: {E}.",
        "joined": "Если {a}, тогда {B}, но {C}. Однако {d}. Значит, {E}.",
        "without-then": "Если {A}, {b}. Но {C}. Тем не менее {D}. Следовательно, {e}.",
        "supposed": "Предположим, что {a}. Тогда {B}. Но {c}. И всё же {D}. Поэтому {e}.",
        "assumed": "Допустим, что {A}. В таком случае {b}. С другой стороны, {C}. Однако {d}. Таким образом, {E}.",
        "lines": "Если: {a}.\nТогда: {b}.\nНо: {c}.\nОднако: {d}.\nВывод: {e}.",
    },
}


def chains() -> Iterator[Chain]:
    """Every version of every family, topic by topic. ``family`` and the version's name stand in the chain."""
    with PARTS.open("rb") as file:
        topics = tomllib.load(file)["topic"]
    for topic in topics:
        for language, versions in VERSIONS.items():
            clauses = topic[language]
            if len(clauses) != 5 or any(len(clause) != 2 for clause in clauses):
                raise SystemExit(f"{PARTS.name}: topic {topic['id']}: {language} needs five clauses in two wordings")
            words = {name: clause[0] for name, clause in zip("abcde", clauses, strict=True)}
            words |= {name: clause[1] for name, clause in zip("ABCDE", clauses, strict=True)}
            family = f"{language}:{topic['id']}"
            for version, pattern in versions.items():
                yield Chain(
                    source=HUNDRED_SOURCE,
                    source_id=f"{family}:{version}",
                    question="",
                    text=pattern.format(**words),
                    language=language,
                    metadata={"version": version, "topic": topic["id"]},
                    licence="CC0-1.0",
                    family=family,
                )


def main() -> int:
    """Write the file, or compare it."""
    text = io.StringIO()
    write_chains(chains(), text)
    path = canonical_path()
    if "--check" in sys.argv[1:]:
        return int(not path.is_file() or path.read_text(encoding="utf-8") != text.getvalue())
    path.write_text(text.getvalue(), encoding="utf-8")
    print(f"{path.name}: {text.getvalue().count(chr(10))} chains")
    return 0


if __name__ == "__main__":
    sys.exit(main())
