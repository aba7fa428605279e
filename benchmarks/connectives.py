"""Do a model's scores of connectives tell roles, beyond the classifier that needs no model?

python -m benchmarks.connectives --data FOLDER [--sample 150] [--language en] [--model MODEL] [--scores FILE] [--seconds N]

FOLDER holds the data sets of ``scripts/train_implicit.py``. Only chains of its test part are taken, which the classifier has
not seen, and of them a sample in each language. The model is the packaged one unless another is named. ``--scores`` keeps the
model's numbers in a file, a line a step; another call goes on with it. After ``--seconds`` scoring stops and nothing is judged.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trails.measure.connectives import BEFORE_CHARS, behind_connectives
from trails.platform.arrays import Doubles

ROOT = Path(__file__).parents[1]


class Kept:
    """Scores of a model, those known from a file among them. Raises TimeoutError where time is up."""

    def __init__(self, score: Any, model: str, file: Path | None, seconds: float) -> None:
        self.score, self.model, self.file, self.end = score, model, file, time.monotonic() + seconds
        self.known: dict[str, list[list[float]]] = {}
        self.cpu = 0.0
        if file is not None and file.exists():
            rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
            self.known = {row["key"]: row["scores"] for row in rows}

    def __call__(self, before: str, words: str, connectives: Sequence[str]) -> Doubles:
        """The scores of :func:`behind_connectives`."""
        told = json.dumps([self.model, before[-BEFORE_CHARS - 1 :], words, list(connectives)])
        key = hashlib.sha256(told.encode()).hexdigest()[:24]
        if key not in self.known:
            if time.monotonic() > self.end:
                raise TimeoutError
            began = time.process_time()
            self.known[key] = self.score(before, words, connectives).tolist()
            self.cpu += time.process_time() - began
            if self.file is not None:
                with self.file.open("a", encoding="utf-8") as out:
                    print(json.dumps({"key": key, "scores": self.known[key]}), file=out)
        return np.array(self.known[key])


def main() -> None:
    """Print the scores of both languages with their controls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sample", type=int, default=150, help="chains of a language")
    parser.add_argument("--language", choices=("en", "ru"), help="one language instead of both")
    parser.add_argument("--model", default="")
    parser.add_argument("--scores", type=Path, help="file that keeps the model's scores")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop scoring after so long")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "scripts"))
    from trails.analyses.connectives import judge
    from trails.measure import open_scorer
    from trails.pipeline.connecting import connected
    from trails.segment import detect_language, segment
    from train_implicit import chains

    scorer = open_scorer(options.model, device="cpu")
    model = scorer.model
    kept = Kept(
        partial(behind_connectives, model.module, model.tokenizer), scorer.run.model, options.scores, options.seconds
    )
    unseen = [c for c in chains(options.data) if int(hashlib.sha256(c.id.encode()).hexdigest()[:8], 16) % 10 >= 8]
    print(f"{scorer.run.model}; {len(unseen):,} chains of the test part\n")
    print(
        "| language | steps | score | value | 95 % | control | its value | its 95 % |\n|---|---|---|---|---|---|---|---|"
    )
    verdicts = []
    for language in (options.language,) if options.language else ("en", "ru"):
        mine = [c for c in unseen if (c.language or detect_language(c.text)) == language]
        mine = random.Random(0).sample(mine, min(options.sample, len(mine)))
        try:
            roles, steps = connected(((c, segment(c)) for c in mine), language, kept)
        except TimeoutError:
            sys.exit(f"{len(kept.known):,} steps are scored; call again to go on")
        found = judge(steps, language, roles)
        for score in found.scores:
            for control in score.controls:
                spans = [f"{s[0]:.3f} to {s[1]:.3f}" if s else "" for s in (score.interval, control.interval)]
                print(
                    f"| {language} | {len(steps)} | {score.name} | {score.value:.3f} | {spans[0]} | {control.name} |"
                    f" {control.value:.3f} | {spans[1]} |"
                )
        per_role = ", ".join(f"{role} {n}" for role, n in zip(roles, found.counts, strict=True))
        verdicts.append(f"{language}: {found.report().verdict} ({len(mine)} chains, {per_role})")
    print("\n" + "\n".join(verdicts))
    print(f"\n{kept.cpu:.0f} CPU seconds of the model in this call")


if __name__ == "__main__":
    main()
