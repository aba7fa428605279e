"""Make ``src/trails/segment/implicit.json``: the classifier of implicit roles, from steps whose connective is deleted.

    python scripts/train_implicit.py --data FOLDER            # train, print the tables, write the file
    python scripts/train_implicit.py --data FOLDER --check    # the file is what training gives

FOLDER holds the data sets of SOURCES, all under permissive licences or in the public domain. A step with a connective of a
relation that can also stand without one is an example: its features are taken from its text without the connective, and from
the explicit roles around it. Chains are drawn into training (60 %), calibration (20 %) and test (20 %) by a hash of their id;
chains that hold a text of ``tests/segment/gold.jsonl`` are left out of all three. Deterministic.

Printed on the test part, with intervals that resample chains: macro F1 and accuracy beside the majority and the neighbours-only
baseline, a reliability table, and what it does on the labelled steps without a connective.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from trails.analyses.statistics import bootstrap
from trails.readers import read
from trails.sample import canonical_path
from trails.schema import Chain, Role, Step
from trails.segment import detect_language, segment
from trails.segment.implicit import N_STRUCTURE, Classifier, feature_names, features

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "src" / "trails" / "segment" / "implicit.json"
GOLD = ROOT / "tests" / "segment" / "gold.jsonl"

SOURCES = {  # file: (licence, chains at most)
    "gsm8k/train.jsonl": ("MIT", 4000),
    "gsm8k/model_solutions_sample.jsonl": ("MIT", 800),
    "math500/math_300.jsonl": ("MIT", 300),
    "strategyqa/train.jsonl": ("MIT", 2061),
    "aqua/dev.json": ("Apache-2.0", 254),
    "llm_math_chains/qwen2.5-32b_math_l5.jsonl": ("Apache-2.0", 457),
    "marco_o1_long/cot_demo.jsonl": ("Apache-2.0", 87),
    "react_trails/react_base.jsonl": ("MIT", 320),
    "pd_argument_prose/spinoza_ethics_en.md": ("public domain", 1100),
    "ru_llm_answers/answers.jsonl": ("Apache-2.0", 156),
    "ru_argument_prose/dostoevsky_prestuplenie_dense.jsonl": ("public domain", 150),
    "ru_argument_prose/tolstoy_voyna_i_mir_arguments.txt": ("public domain", 70),
    "plain_text/turgenev_ottsy_i_deti_ru.txt": ("public domain", 400),
}
MERGED = {Role.HOWEVER: Role.BUT}
CLASSES = (Role.THEREFORE, Role.BECAUSE, Role.BUT, Role.AND, Role.NEXT, Role.RESTATE, Role.EXAMPLE)
LEAST_SHARE = 0.05
"""Share of the training examples below which a language does without a class: AND and RESTATE had F1 of .05 and 0 with them."""
LEFT_OUT = {"en": (Role.AND,)}
"""Classes that a language does without although they are frequent. English AND, mostly a deleted "also", had F1 of .33 with
it, and the mean of the other four fell.
"""
RIDGE = 3.0


@dataclass
class Rows:
    """Examples: features, class numbers, chain of each."""

    x: np.ndarray
    y: np.ndarray
    group: np.ndarray


def chains(folder: Path) -> list[Chain]:
    """The chains of all sources, and the packaged canonical families; without those that hold a labelled text."""
    gold = [json.loads(line) for line in GOLD.read_text(encoding="utf-8").splitlines()]
    marks = {" ".join("".join(s["text"] for s in row["steps"]).split())[:60] for row in gold}
    found: list[Chain] = []
    for name, (_, most) in SOURCES.items():
        for number, chain in enumerate(read([folder / name])):
            if number == most:
                break
            flat = " ".join(chain.text.split())
            if not any(mark in flat for mark in marks):
                found.append(chain)
    return [*found, *list(read([canonical_path()]))[::7]]


def without_connective(text: str, step: Step) -> str:
    """The step's text with its connective and the comma behind it deleted."""
    body = text[step.start : step.end]
    at = body.find(step.connective)
    return (body[:at] + body[at + len(step.connective) :].lstrip(" ,:")).strip()


def examples(all_chains: list[Chain]) -> dict[str, dict[str, Rows]]:
    """Rows by language and part."""
    parts: dict[tuple[str, str], list[tuple[np.ndarray, int, str]]] = defaultdict(list)
    for chain in all_chains:
        language = chain.language or detect_language(chain.text)
        if language not in ("en", "ru"):
            continue
        steps = segment(chain)
        kinds = {s.index: MERGED.get(s.role, s.role) for s in steps if s.explicit and s.connective and s.index > 0}
        wanted = {i: kind for i, kind in kinds.items() if kind in CLASSES}
        if not wanted:
            continue
        number = int(hashlib.sha256(chain.id.encode()).hexdigest()[:8], 16) % 10
        part = "train" if number < 6 else "calibrate" if number < 8 else "test"
        for i, kind in wanted.items():  # one at a time: the neighbours keep their words
            row = features(chain.text, steps, language, {i: without_connective(chain.text, steps[i])})[i]
            parts[language, part].append((row, CLASSES.index(kind), chain.id))
    result: dict[str, dict[str, Rows]] = defaultdict(dict)
    for (language, part), rows in parts.items():
        result[language][part] = Rows(
            np.array([r for r, _, _ in rows]), np.array([y for _, y, _ in rows]), np.array([g for _, _, g in rows])
        )
    return result


def fit(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """Multinomial logistic regression with a ridge on all but the constant; weights (features + 1, k)."""
    x1 = np.column_stack([x, np.ones(len(x))])
    onehot = np.eye(k)[y]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(x1.shape[1], k)
        scores = x1 @ w
        scores -= scores.max(axis=1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        gradient = x1.T @ (np.exp(logs) - onehot)
        gradient[:-1] += RIDGE * w[:-1]
        return float(-(onehot * logs).sum() + RIDGE / 2 * (w[:-1] ** 2).sum()), gradient.ravel()

    found = minimize(loss, np.zeros(x1.shape[1] * k), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return np.round(found.x.reshape(x1.shape[1], k), 3)


def calibrated(weights: np.ndarray, rows: Rows, roles: tuple[str, ...]) -> float:
    """The temperature with the least log loss on ``rows``."""
    grid = np.round(np.arange(0.6, 3.01, 0.1), 1)
    picked = np.arange(len(rows.y))
    losses = [
        -np.log(Classifier(roles, weights, float(t)).probabilities(rows.x)[picked, rows.y] + 1e-12).mean() for t in grid
    ]
    return float(grid[int(np.argmin(losses))])


def counts(rows: Rows, predicted: np.ndarray, k: int) -> np.ndarray:
    """Right, found and labelled of every class by chain: (chains, k, 3)."""
    names, at = np.unique(rows.group, return_inverse=True)
    table = np.zeros((len(names), k, 3))
    np.add.at(table, (at, rows.y, 2), 1)
    np.add.at(table, (at, predicted, 1), 1)
    right = rows.y == predicted
    np.add.at(table, (at[right], rows.y[right], 0), 1)
    return table


def macro(table: np.ndarray) -> float:
    """Mean F1 of the classes that occur."""
    right, found, labelled = table.sum(axis=0).T
    there = labelled > 0
    return float(np.mean(2 * right[there] / (found + labelled)[there]))


def keep(rows: Rows, classes: list[int]) -> Rows:
    """The rows of these classes, renumbered."""
    mask = np.isin(rows.y, classes)
    return Rows(rows.x[mask], np.array([classes.index(int(y)) for y in rows.y[mask]]), rows.group[mask])


def show(name: str, rows: Rows, predicted: np.ndarray, k: int) -> None:
    """A line of the table: macro F1 and accuracy with intervals."""
    table = counts(rows, predicted, k)
    span = bootstrap(table, macro, draws=400)
    accuracy = bootstrap(table, lambda t: float(t[:, :, 0].sum() / t[:, :, 2].sum()), draws=400)
    right = float((rows.y == predicted).mean())
    spans = [f"{s[0]:.3f}–{s[1]:.3f}" if s else "–" for s in (span, accuracy)]
    print(f"| {name} | {macro(table):.3f} | {spans[0]} | {right:.3f} | {spans[1]} |")


def gold_table(language: str, known: Classifier) -> None:
    """What the classifier does on labelled steps without a connective: none of it was trained on."""
    said: Counter[tuple[str, str]] = Counter()
    for line in GOLD.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["language"] != language:
            continue
        texts = [s["text"] for s in row["steps"]]
        edges = [0, *accumulate(map(len, texts))]
        steps = [Step(i, edges[i], edges[i + 1], Role(s["role"])) for i, s in enumerate(row["steps"])]
        shares = known.probabilities(features("".join(texts), steps, language))
        for step, label, share in zip(steps, row["steps"], shares, strict=True):
            if step.role is Role.NONE and step.index:
                best = int(share.argmax())
                found = known.roles[best] if share[best] >= 0.6 else "none at p >= .6"
                said[label.get("implied") or "nothing clear", found] += 1
    print(f"\n| {language}: implied, as labelled | found | steps |\n|---|---|---|")
    for (label, found), n in sorted(said.items(), key=lambda item: (item[0][0], -item[1])):
        print(f"| {label} | {found} | {n} |")


def main() -> None:
    """Train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    made: dict[str, object] = {}
    for language, parts in sorted(examples(chains(options.data)).items()):
        held = Counter(parts["train"].y.tolist())
        frequent = [k for k in range(len(CLASSES)) if held[k] >= LEAST_SHARE * len(parts["train"].y)]
        classes = [k for k in frequent if CLASSES[k] not in LEFT_OUT.get(language, ())]
        roles = tuple(CLASSES[k].value for k in classes)
        train, calibrate, test = (keep(parts[part], classes) for part in ("train", "calibrate", "test"))
        k = len(classes)
        weights = fit(train.x, train.y, k)
        temperature = calibrated(weights, calibrate, roles)
        known = Classifier(roles, weights, temperature)
        structure = fit(train.x[:, :N_STRUCTURE], train.y, k)
        common = int(np.bincount(train.y).argmax())
        print(
            f"\n{language}: {len(train.y):,} examples to train, {len(calibrate.y):,} to calibrate, {len(test.y):,} to test"
        )
        print(", ".join(f"{role} {int((test.y == i).sum())}" for i, role in enumerate(roles)), "in the test part\n")
        print("| connective deleted | macro F1 | 95 % | accuracy | 95 % |\n|---|---|---|---|---|")
        show(f"every step {roles[common]}", test, np.full(len(test.y), common), k)
        show(
            "position and neighbours only",
            test,
            Classifier(roles, structure, 1.0).probabilities(test.x[:, :N_STRUCTURE]).argmax(1),
            k,
        )
        shares = known.probabilities(test.x)
        show("with content", test, shares.argmax(1), k)
        table = counts(test, shares.argmax(1), k).sum(axis=0)
        print(
            "F1 by role: "
            + ", ".join(f"{r} {2 * a / (b + c) if b + c else 0:.2f}" for r, (a, b, c) in zip(roles, table, strict=True))
        )
        best = shares.max(1)
        right = shares.argmax(1) == test.y
        print("\n| probability | steps | mean probability | right |\n|---|---|---|---|")
        for low in np.arange(0.2, 1.0, 0.1):
            inside = (best >= low) & (best < low + 0.1 + 1e-9 * (low > 0.85))
            if inside.any():
                print(
                    f"| {low:.1f} to {low + 0.1:.1f} | {inside.sum()} | {best[inside].mean():.2f} | "
                    f"{right[inside].mean():.2f} |"
                )
        gold_table(language, known)
        made[language] = {"roles": roles, "temperature": temperature, "weights": weights.tolist()}
    text = (
        json.dumps({"features": feature_names(), "languages": made}, ensure_ascii=False, separators=(",", ":")) + "\n"
    )
    if options.check:
        if TARGET.read_text(encoding="utf-8") != text:
            sys.exit(f"{TARGET.name} is not what this training gives. Run without --check")
        return
    TARGET.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
