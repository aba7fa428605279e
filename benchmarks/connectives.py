"""Do a model's scores of connectives tell roles, beyond the classifier that needs no model?

python -m benchmarks.connectives --data FOLDER [--sample 150] [--model MODEL]

FOLDER holds the data sets of ``scripts/train_implicit.py``. Only chains of its test part are taken, which the classifier has
not seen, and of them a sample in each language. The model is the packaged one unless another is named.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Print the scores of both languages with their controls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sample", type=int, default=150, help="chains of a language")
    parser.add_argument("--model", default="")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "scripts"))
    from trails.analyses.connectives import judge
    from trails.measure import open_scorer
    from trails.pipeline.connecting import connected
    from trails.segment import detect_language, segment
    from train_implicit import chains

    scorer = open_scorer(options.model, device="cpu")
    unseen = [c for c in chains(options.data) if int(hashlib.sha256(c.id.encode()).hexdigest()[:8], 16) % 10 >= 8]
    print(f"{scorer.run.model}; {len(unseen):,} chains of the test part\n")
    print(
        "| language | steps | score | value | 95 % | control | its value | its 95 % |\n|---|---|---|---|---|---|---|---|"
    )
    verdicts = []
    for language in ("en", "ru"):
        mine = [c for c in unseen if (c.language or detect_language(c.text)) == language]
        mine = random.Random(0).sample(mine, min(options.sample, len(mine)))
        began = time.process_time()
        roles, steps = connected(((c, segment(c)) for c in mine), language, scorer.model.module, scorer.model.tokenizer)
        found = judge(steps, language, roles)
        for score in found.scores:
            for control in score.controls:
                spans = [f"{s[0]:.3f} to {s[1]:.3f}" if s else "" for s in (score.interval, control.interval)]
                print(
                    f"| {language} | {len(steps)} | {score.name} | {score.value:.3f} | {spans[0]} | {control.name} |"
                    f" {control.value:.3f} | {spans[1]} |"
                )
        took = time.process_time() - began
        per_role = ", ".join(f"{role} {n}" for role, n in zip(roles, found.counts, strict=True))
        verdicts.append(
            f"{language}: {found.report().verdict} ({len(mine)} chains, {per_role}; {took:.0f} CPU seconds)"
        )
    print("\n" + "\n".join(verdicts))


if __name__ == "__main__":
    main()
