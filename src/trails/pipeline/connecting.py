"""``trails roles connectives``: do the model's scores of connectives tell roles on these chains?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from trails.analyses.connectives import Connected, Connectives, judge
from trails.errors import UsageError
from trails.measure.connectives import CONNECTIVES, behind_connectives
from trails.pipeline.progress import Progress, Silent
from trails.platform.arrays import Doubles
from trails.schema import Chain, Role, Step
from trails.segment import detect_language
from trails.segment.implicit import classifiers, features

if TYPE_CHECKING:
    from trails.pipeline.opened import OpenHome

_SAME = {Role.HOWEVER: Role.BUT}


def connected(
    items: Iterable[tuple[Chain, Sequence[Step]]],
    language: str,
    score: Callable[[str, str, Sequence[str]], Doubles],
    progress: Progress | None = None,
) -> tuple[tuple[str, ...], list[Connected]]:
    """Roles that can be told, and every step of chains in ``language`` with a connective of one of them, which is deleted.

    ``score`` gives the log-likelihoods, shape (connectives, 2), of the text before a step, its words and the connectives. The
    first step of a chain is left out, and one that holds nothing but its connective.
    """
    progress = progress or Silent()
    known = classifiers()[language]
    words = CONNECTIVES[language]
    roles = tuple(role for role in known.roles if Role(role) in words)
    picked = [known.roles.index(role) for role in roles]
    found = []
    for chain, steps in items:
        progress.advance(1)
        if (chain.language or detect_language(chain.text)) != language:
            continue
        for step in steps:
            role = _SAME.get(step.role, step.role).value
            if not (step.index and step.explicit and step.connective and role in roles):
                continue
            body = chain.text[step.start : step.end]
            at = body.find(step.connective)
            left = (body[:at] + body[at + len(step.connective) :].lstrip(" ,:")).strip()
            if not left:
                continue
            shares = known.probabilities(features(chain.text, steps, language, {step.index: left})[[step.index]])[0][
                picked
            ]
            scores = score(chain.text[: step.start], left, [words[Role(name)] for name in roles])
            found.append(Connected(chain.id, roles.index(role), shares / shares.sum(), scores))
    return roles, found


def connectives(
    home: OpenHome,
    chains: str = "all",
    *,
    language: str = "en",
    sample: int = 60,
    seed: int = 0,
    run: str | None = None,
    progress: Progress | None = None,
) -> Connectives:
    """Judge the scores of the model of a run on at most ``sample`` chains of a selection (drawn by ``seed``).

    Raises UsageError for a language without connectives or classifier, and for a run whose model gives no likelihood.
    """
    import random

    if language not in CONNECTIVES or language not in classifiers():
        raise UsageError(
            f"language {language!r} has no connectives to score. Languages: {', '.join(sorted(CONNECTIVES))}."
        )
    known = home.run(run)
    wanted = home.chosen(chains, known.id)
    if len(wanted) > sample:
        wanted = sorted(random.Random(seed).sample(sorted(wanted), sample))
    scorer = home.language_model(known.id)
    progress = progress or Silent()
    progress.begin("scoring connectives", len(wanted))
    items = ((trace.chain, trace.steps) for trace in home.shards.traces(known.id, wanted))
    score = partial(behind_connectives, scorer.model.module, scorer.model.tokenizer)
    roles, steps = connected(items, language, score, progress)
    return judge(steps, language, roles, seed=seed)
