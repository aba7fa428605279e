"""How fast chains are read and split, and how well (``--gold``).

Speed: beside a splitter that knows nothing, one regular expression that splits at a full stop, question or exclamation mark
followed by a blank. Input: the packaged sample, repeated. CPU time of one process, best of five.

``--gold``: precision and recall of every role with the labelled borders given, and F1 of the borders, on the labelled steps of
``tests/segment/gold.jsonl``, with intervals that resample excerpts; by source; Cohen's kappa of the two labellings; ``--wrong``
lists every case.

``--data FOLDER``: of every data set that is there the share of steps without a role, with and without implicit roles, what kind
of steps those are, and the commonest pairs of directly following roles: the edges of its directly-follows graph.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trails.analyses.roles import Labelled, RoleAgreement, score_roles
from trails.analyses.statistics import Interval
from trails.readers import ReadOptions, read, write_chains
from trails.sample import path
from trails.schema import Chain, Role
from trails.segment import described, segment

GOAL_MB_PER_S = 1.5
BASELINE = re.compile(r"(?<=[.!?])\s+")


def best(work: Callable[[], object], repeats: int = 5) -> float:
    """Smallest CPU time of ``work`` in seconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def row(name: str, chains: list[Chain]) -> None:
    """Print one line of the table."""
    size = sum(len(chain.text.encode()) for chain in chains) / 1e6
    ours = best(lambda: [segment(chain) for chain in chains])
    base = best(lambda: [BASELINE.split(chain.text) for chain in chains])
    steps = sum(len(segment(chain)) for chain in chains)
    pieces = sum(len(BASELINE.split(chain.text)) for chain in chains)
    print(
        f"| {name} | {len(chains):,} | {size:.2f} | {steps:,} / {pieces:,} | {size / ours:.2f} | {size / base:.0f} | "
        f"{base / ours:.3f} | {GOAL_MB_PER_S} |"
    )


GOLD = Path(__file__).parents[1] / "tests" / "segment" / "gold.jsonl"

RECALL_GOALS = {
    "en": {"BUT": 0.70, "BECAUSE": 0.45, "THEREFORE": 0.65, "IF": 0.90, "THEN": 0.80},
    "ru": {"BUT": 0.80, "BECAUSE": 0.60, "THEREFORE": 0.60, "IF": 0.80, "THEN": 0.70},
}
PRECISION_GOAL = 0.88
BORDER_GOAL = 0.92


def gold_rows() -> list[dict[str, Any]]:
    """The labelled excerpts: text in steps, each with the adjudicated role and those of the two labellings."""
    with GOLD.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def labelled(rows: Iterable[Mapping[str, Any]]) -> list[Labelled]:
    """Excerpts as chains without borders of their own, with the labelled steps."""
    items = []
    for row in rows:
        texts = [step["text"] for step in row["steps"]]
        starts = tuple([0, *accumulate(map(len, texts))][:-1])
        chain = Chain(row["source"], row["id"], "", "".join(texts), language=row["language"])
        items.append(Labelled(chain, starts, tuple(Role(step["role"]) for step in row["steps"])))
    return items


def kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """Cohen's kappa of two labellings (Cohen, 1960)."""
    n = len(pairs)
    same = sum(a == b for a, b in pairs) / n
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(first[name] * second[name] for name in first) / n**2
    return (same - chance) / (1 - chance)


def _span(interval: Interval | None) -> str:
    return f"{interval[0]:.2f}–{interval[1]:.2f}" if interval else "–"


def print_gold(*, wrong: bool) -> None:
    """Print the tables of ``--gold``."""
    rows = gold_rows()
    found: RoleAgreement = score_roles(labelled(rows))
    for language in sorted({row["language"] for row in rows}):
        steps = [step for row in rows if row["language"] == language for step in row["steps"]]
        pairs = [(step["first"] or "no border", step["second"] or "no border") for step in steps]
        print(f"{language}: {len(steps)} steps, kappa of the two labellings {kappa(pairs):.3f}")
    print("\n| language | role | labelled | found | right | precision | 95 % | goal | recall | 95 % | goal |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for one in found.roles:
        goal = RECALL_GOALS[one.language].get(one.role)
        print(
            f"| {one.language} | {one.role} | {one.labelled} | {one.found} | {one.right} | {one.precision:.2f} | "
            f"{_span(one.precision_interval)} | {PRECISION_GOAL if goal else ''} | {one.recall:.2f} | "
            f"{_span(one.recall_interval)} | {goal or ''} |"
        )
    print("\n| score | value | 95 % | control | its value | goal |\n|---|---|---|---|---|---|")
    for score in found.scores:
        control = score.controls[0]
        reach = BORDER_GOAL if "borders" in score.name else ""
        print(
            f"| {score.name} | {score.value:.3f} | {_span(score.interval)} | {control.name} | {control.value:.3f} | {reach} |"
        )
    print("\n| source | steps | roles right | macro F1 | border F1 |\n|---|---|---|---|---|")
    for source in sorted({row["source"] for row in rows}):
        part = labelled(row for row in rows if row["source"] == source)
        one_source = score_roles(part, draws=10)
        steps_n = sum(one_source.n_steps.values())
        role_errors = sum(case.kind == "role" for case in one_source.wrong)
        values = " | ".join(f"{score.value:.2f}" for score in one_source.scores[:2]) or "– | –"
        print(f"| {source} | {steps_n} | {1 - role_errors / steps_n:.2f} | {values} |")
    if wrong:
        print("\n| language | excerpt | kind | labelled | found | text |\n|---|---|---|---|---|---|")
        names = {item.chain.id: item.chain.source_id for item in labelled(rows)}
        for case in found.wrong:
            text = case.text.replace("|", "‖")[:100]
            print(f"| {case.language} | {names[case.chain]} | {case.kind} | {case.labelled} | {case.found} | {text} |")


DATA_SETS: Mapping[str, tuple[str, Mapping[str, str]]] = {  # name: (file or folder, fields that no reader knows)
    "GSM8K": ("gsm8k/train.jsonl", {}),
    "FOLIO": ("folio/folio-train.jsonl", {}),
    "MATH": ("math500/math_300.jsonl", {}),
    "Qwen": ("llm_math_chains/qwen2.5-32b_math_l5.jsonl", {}),
    "Marco-o1": ("marco_o1_long/cot_demo.jsonl", {}),
    "Stacks": ("stacks_proofs", {}),
    "Spinoza": ("pd_argument_prose/spinoza_ethics_en.md", {}),
    "Russian answers": ("ru_llm_answers/answers.jsonl", {}),
    "BBH": ("bbh_cot/model_chains.jsonl", {}),
    "ToT, game of 24": ("tot_game24/bfs_logs.jsonl", {}),
    "MGSM, Russian and English": ("mgsm_ru/cot_exemplars.jsonl", {}),
    "RuSuperGLUE, RCB": ("ru_superglue_pairs/rcb.jsonl", {"chain": "premise", "question": "hypothesis"}),
    "RuSuperGLUE, LiDiRus": ("ru_superglue_pairs/lidirus.jsonl", {"chain": "sent1", "question": "sent2"}),
}
MOST_CHAINS = 1_500
LIKELY = 0.6
_FORM = re.compile(r"\s*(?:[-*•–—]\s|\(?\d{1,3}[.)]\s|#{1,6}\s|\*\*[^*\n]+\*\*:?\s*$|\|)")


def kind_of(text: str) -> str:
    """What a step without a role is: a heading or list item, a few words, a line of symbols, or a clause."""
    if _FORM.match(text):
        return "heading or list item"
    words = re.findall(r"[^\W\d_]{2,}", text)
    if len(words) < 4:
        return "symbols or less than four words"
    return "clause"


def print_data(folder: Path) -> None:
    """Print the table of ``--data``."""
    print(
        "| data set | chains | steps | NONE | NONE, implicit counted | of these: heading or list item | few words | clause |"
    )
    print("|---|---|---|---|---|---|---|---|")
    edges = []
    for name, (file, fields) in DATA_SETS.items():
        if not (folder / file).exists():
            continue
        steps = none = chains = 0
        left: Counter[str] = Counter()
        pairs: Counter[tuple[str, str]] = Counter()
        for chain in read([folder / file], options=ReadOptions(fields=fields, limit=MOST_CHAINS)):
            chains += 1
            found = described(chain, segment(chain))
            steps += len(found)
            none += sum(step.role is Role.NONE for step in found)
            for step in found:
                if step.role is Role.NONE and not (step.implicit_role and step.implicit_p >= LIKELY):
                    left[kind_of(chain.text[step.start : step.end])] += 1
            pairs.update((a.role.value, b.role.value) for a, b in pairwise(found))
        rest = sum(left.values())
        shares = " | ".join(
            f"{left[kind] / max(rest, 1):.2f}"
            for kind in ("heading or list item", "symbols or less than four words", "clause")
        )
        print(f"| {name} | {chains:,} | {steps:,} | {none / steps:.2f} | {rest / steps:.2f} | {shares} |")
        total = sum(pairs.values())
        told = [f"{a}>{b} {n / total:.0%}" for (a, b), n in pairs.most_common() if n >= 0.01 * total]
        edges.append(f"| {name} | {total:,} | {'; '.join(told[:8])} |")
    print("\n| data set | pairs | the commonest pairs of directly following roles |\n|---|---|---|")
    print("\n".join(edges))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--gold", action="store_true", help="roles and borders against labelled steps instead of speed")
    parser.add_argument("--data", type=Path, help="roles of the data sets in this folder instead of speed")
    parser.add_argument("--wrong", action="store_true", help="with --gold: list every case")
    options = parser.parse_args()
    if options.gold:
        print_gold(wrong=options.wrong)
        return
    if options.data:
        print_data(options.data)
        return
    copies = options.copies
    sample = list(read([path()]))
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    print("| chains | number | MB | steps / baseline pieces | MB/s | baseline MB/s | ratio | goal MB/s |")
    print("|---|---|---|---|---|---|---|---|")
    for name in ("gsm8k/train", "spinoza/ethics", "ru-answers/answers", "marco-o1/cot_demo"):
        row(name, [chain for chain in sample if chain.source == name] * copies)
    row("all", sample * copies)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "chains.jsonl"
        with file.open("w", encoding="utf-8") as out:
            write_chains(sample * copies, out)
        seconds = best(lambda: sum(1 for _ in read([file])))
        print(f"\nreading native JSON Lines: {file.stat().st_size / 1e6 / seconds:.1f} MB/s")


if __name__ == "__main__":
    main()
