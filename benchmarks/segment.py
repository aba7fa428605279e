"""How fast chains are read and split, and how well (``--gold``).

Speed: beside a splitter that knows nothing, one regular expression that splits at a full stop, question or exclamation mark
followed by a blank. Input: the packaged sample, repeated. CPU time of one process, best of five.

``--gold``: precision and recall of every role with the labelled borders given, and F1 of the borders, on the labelled steps of
``tests/segment/gold.jsonl``, with intervals that resample excerpts; by source; Cohen's kappa of the two labellings; ``--wrong``
lists every case.

``--data FOLDER``: of every data set that is there the share of steps without a role, with and without implicit roles, what kind
of steps those are, and its directly-follows graph: every role of at least 2 % of the steps with what follows it, as shares.
``--rest NAME`` draws 50 steps of one of these sets that have no role and no likely implicit one.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trails.analyses.roles import Labelled, RoleAgreement, score_roles
from trails.analyses.statistics import Interval
from trails.readers import ReadOptions, read, write_chains
from trails.sample import path
from trails.schema import Chain, Role, Step
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
    "ProntoQA": ("prontoqa/prontoqa.json", {}),
    "StrategyQA": ("strategyqa/train.jsonl", {}),
    "AQuA": ("aqua/dev.json", {}),
    "ReAct": ("react_trails/react_base.jsonl", {}),
    "ProofWriter": ("proofwriter_rules/proofwriter_sample.json", {}),
    "EntailmentBank": ("entailment_bank/dev_task1.jsonl", {}),
    "Tolstoy": ("ru_argument_prose/tolstoy_voyna_i_mir_arguments.txt", {}),
    "Dostoevsky": ("ru_argument_prose/dostoevsky_prestuplenie_dense.jsonl", {}),
    "Turgenev": ("plain_text/turgenev_ottsy_i_deti_ru.txt", {}),
    "Shakespeare": ("plain_text/shakespeare_en.txt", {}),
    "Wikipedia, English": ("plain_text/wikipedia_en.txt", {}),
    "Wikipedia, Russian sentences": ("plain_text/wikipedia_ru_sentences.txt", {}),
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


def _chains(folder: Path, name: str) -> Iterator[Chain]:
    """Chains of a data set, a repeated one once, as a home holds them."""
    file, fields = DATA_SETS[name]
    seen: set[str] = set()
    for chain in read([folder / file], options=ReadOptions(fields=fields, limit=MOST_CHAINS)):
        if chain.id not in seen:
            seen.add(chain.id)
            yield chain


def _is_left(step: Step) -> bool:
    """Whether a step has no role and no implicit one that counts."""
    return step.role is Role.NONE and not (step.implicit_role and step.implicit_p >= LIKELY)


LEAST_ROLE = 0.02
LEAST_EDGE = 0.1


def follows(chains: Iterable[Sequence[str]]) -> list[tuple[str, float, list[tuple[str, float]]]]:
    """The directly-follows graph of sequences of roles: (role, its share of all, (next role, share of what follows the role)).

    Commonest first; roles of less than 2 % and edges of less than 10 % are left out. A role that ends its chain is followed
    by nothing.
    """
    roles: Counter[str] = Counter()
    pairs: dict[str, Counter[str]] = {}
    for chain in chains:
        roles.update(chain)
        for a, b in pairwise(chain):
            pairs.setdefault(a, Counter())[b] += 1
    total = sum(roles.values())
    found = []
    for role, n in sorted(roles.items(), key=lambda item: (-item[1], item[0])):
        if n >= LEAST_ROLE * total:
            after = pairs.get(role, Counter())
            edges = sorted(((b, k / after.total()) for b, k in after.items()), key=lambda edge: (-edge[1], edge[0]))
            found.append((role, n / total, [edge for edge in edges if edge[1] >= LEAST_EDGE]))
    return found


def print_data(folder: Path) -> None:
    """Print the tables of ``--data``."""
    print(
        "| data set | chains | steps | explicit | NONE | NONE, implicit counted | first of its chain | heading or list item "
        "| few words | clause | roles, implicit counted |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    graphs, counts = [], []
    for name, (file, _) in DATA_SETS.items():
        if not (folder / file).exists():
            continue
        none, steps, explicit = 0, 0, 0
        left: Counter[str] = Counter()
        told: Counter[str] = Counter()
        rows = []
        for chain in _chains(folder, name):
            found = described(chain, segment(chain))
            steps += len(found)
            none += sum(step.role is Role.NONE for step in found)
            explicit += sum(step.explicit for step in found)
            for step in found:
                if _is_left(step):
                    left["first" if step.index == 0 else kind_of(chain.text[step.start : step.end])] += 1
                else:
                    told[step.role.value if step.role is not Role.NONE else step.implicit_role] += 1
            rows.append([step.role.value for step in found])
        kinds = ("first", "heading or list item", "symbols or less than four words", "clause")
        shares = " | ".join(f"{left[kind] / steps:.2f}" for kind in kinds)
        common = ", ".join(f"{role} {n / steps:.0%}" for role, n in told.most_common(4))
        print(
            f"| {name} | {len(rows):,} | {steps:,} | {explicit / steps:.2f} | {none / steps:.2f} | "
            f"{left.total() / steps:.2f} | {shares} | {common} |"
        )
        of = Counter(role for row in rows for role in row)
        counts.append(f"| {name} | " + " | ".join(f"{of[role.value]:,}" for role in Role) + " |")
        for role, share, edges in follows(rows):
            said = ", ".join(f"{after} {part:.0%}" for after, part in edges)
            graphs.append(f"| {name} | {role} {share:.0%} | {said} |")
    print("\n| data set | " + " | ".join(role.value for role in Role) + " |\n|---|" + "---|" * len(Role))
    print("\n".join(counts))
    print("\n| data set | role | followed by |\n|---|---|---|")
    print("\n".join(graphs))


def print_rest(folder: Path, name: str, n: int = 50) -> None:
    """Print ``n`` steps of a data set without a role and without a likely implicit one, drawn with seed 0."""
    rest = [
        (step.index, step.implicit_role or "-", step.implicit_p, chain.text[step.start : step.end])
        for chain in _chains(folder, name)
        for step in described(chain, segment(chain))
        if _is_left(step)
    ]
    print(f"{n} of {len(rest):,} steps of {name}\n\n| kind | likeliest, p | step |\n|---|---|---|")
    for index, role, p, text in random.Random(0).sample(rest, min(n, len(rest))):
        kind = "first of its chain" if index == 0 else kind_of(text)
        print(f"| {kind} | {role} {p:.2f} | {' '.join(text.split())[:110].replace('|', '‖')} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--gold", action="store_true", help="roles and borders against labelled steps instead of speed")
    parser.add_argument("--data", type=Path, help="roles of the data sets in this folder instead of speed")
    parser.add_argument("--rest", choices=DATA_SETS, help="with --data: draw steps without a role of this set")
    parser.add_argument("--wrong", action="store_true", help="with --gold: list every case")
    options = parser.parse_args()
    if options.gold:
        print_gold(wrong=options.wrong)
        return
    if options.data and options.rest:
        print_rest(options.data, options.rest)
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
