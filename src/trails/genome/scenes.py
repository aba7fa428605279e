"""Scenes of conflict: a chain to train on for each, an item to evaluate with, and a detector of the expected resolution.

The training scene is the chain that matches level and trigger best, or the text that the author gives (which has to be measured
like every chain). The detector looks at an answer in two ways: ``rules`` (it turns against something, and it uses the words of
the expected resolution) and, where a model is there, ``likelihood``: how much likelier the answer makes the expected resolution
than the resolutions of other scenes (controls), beyond what the prompt alone makes of them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trails.genome.model import ConflictScene, Scene
from trails.genome.shelf import Shelf
from trails.genome.words import stems
from trails.schema import Chain, stable_hash

MATCH = 0.4
"""A chain is a scene's if it holds so much of the trigger's words, weighted by rarity, and a word of the level."""

COVERED = 0.3
"""Share of the words of the expected resolution that an answer must use; chosen on half of the labelled answers."""

LogLikelihood = Callable[[str, str], float]
"""Mean log-probability per token of a text (second) after another (first), nats."""

_TURN = re.compile(
    r"\b(but|however|yet|instead|rather|although|though|nevertheless|nonetheless|in fact|actually|on the contrary|despite|"
    r"whereas|unlike|not [^.]{1,80}?\bbut|"
    r"но|однако|зато|напротив|наоборот|вместо|тем не менее|хотя|на самом деле|всё же|все же|несмотря|а не|не [^.]{1,80}?, а)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Placed:
    """A scene of the course. ``chain`` is its number in the shelf; ``match`` the share of the trigger that it holds (1 for a
    text of the author)."""

    id: str
    name: str
    scene: ConflictScene
    chain: int
    match: float


def scene_id(scene: ConflictScene) -> str:
    """``s`` and 16 hex digits over the three keys."""
    return "s" + stable_hash("scene", scene.level, scene.trigger, scene.resolution_expected)


def authored(scene: Scene, genome: str) -> Chain:
    """The chain of a scene whose text the author gives."""
    return Chain(f"genome/{genome}", scene_id(scene.conflict_scene), scene.question, scene.text)


def match_scenes(shelf: Shelf, scenes: Sequence[ConflictScene]) -> list[tuple[int, float]]:
    """For every scene the best chain and how much of the trigger it holds (0 … 1); -1 and 0 where no chain has a word of it.

    A chain counts if it has a word of the level in its text, question, source or metadata, or is in a language without one.
    """
    wanted = [(frozenset(stems(scene.level)), frozenset(stems(scene.trigger))) for scene in scenes]
    vocabulary = frozenset().union(*(trigger for _, trigger in wanted)) if wanted else frozenset()
    counts: Counter[str] = Counter()
    kept: list[tuple[int, frozenset[str], list[bool]]] = []
    everything = np.arange(len(shelf))
    for row, item in shelf.texts(everything) if vocabulary else ():
        said = frozenset(stems(f"{item['question']} {item['text']}"))
        shared = said & vocabulary
        counts.update(shared)
        if shared:
            described = " ".join(f"{value}" for _, value in item["metadata"] or ())
            around = said | frozenset(stems(f"{shelf.sources[shelf.source[row]]} {described}".replace("/", " ")))
            kept.append((row, shared, [bool(level & around) for level, _ in wanted]))
    weight = {word: math.log((len(shelf) + 1) / (counts[word] + 0.5)) for word in vocabulary}
    best: list[tuple[int, float]] = []
    for number, (_, trigger) in enumerate(wanted):
        total = sum(weight[word] for word in trigger) or 1.0
        found = (-1, 0.0)
        for row, shared, levels in sorted(kept):
            score = sum(weight[word] for word in shared & trigger) / total
            if levels[number] and score > found[1] + 1e-12:
                found = (row, score)
        best.append(found)
    return best


@dataclass(frozen=True, slots=True)
class Resolution:
    """What the detector says of one answer. ``turn`` and ``covered`` are the rules; ``margin`` is the likelihood of the
    expected resolution beyond its controls and beyond the prompt alone, nats per token, NaN without a model.
    """

    turn: bool
    covered: float
    margin: float
    resolved: bool


def detect(
    answer: str,
    scene: ConflictScene,
    *,
    likelihood: LogLikelihood | None = None,
    controls: Sequence[str] = (),
) -> Resolution:
    """Does an answer resolve the conflict as expected? By rules; with ``likelihood`` and ``controls`` (the resolutions of other
    scenes) an answer that only paraphrases it counts, too, where the margin is above :data:`MARGIN`.
    """
    expected = frozenset(stems(scene.resolution_expected))
    said = frozenset(stems(answer))
    covered = len(expected & said) / len(expected) if expected else 0.0
    turn = _TURN.search(answer) is not None
    margin = math.nan
    if likelihood is not None and controls and answer.strip():
        prompt = prompt_of(scene)
        lifts = [
            likelihood(f"{prompt}{answer.strip()}\n", text) - likelihood(prompt, text)
            for text in (scene.resolution_expected, *controls)
        ]
        margin = lifts[0] - sum(lifts[1:]) / len(controls)
    resolved = (turn and covered >= COVERED) or (margin > MARGIN and (turn or covered > 0))
    return Resolution(turn, covered, margin, resolved)


MARGIN = 0.5
"""Nats per token above which the likelihood alone counts."""


def prompt_of(scene: ConflictScene) -> str:
    """What a model is asked in the evaluation item of a scene."""
    return f"{scene.level}. {scene.trigger}.\n"


def items(placed: Iterable[Placed], shelf: Shelf) -> list[Mapping[str, object]]:
    """The evaluation items of scenes: the three keys, the prompt, and the resolutions of the other scenes as controls."""
    scenes = list(placed)
    found: list[Mapping[str, object]] = []
    for one in scenes:
        others = [
            o.scene.resolution_expected for o in scenes if o.scene.resolution_expected != one.scene.resolution_expected
        ]
        found.append(
            {
                "id": one.id,
                "name": one.name,
                "level": one.scene.level,
                "trigger": one.scene.trigger,
                "resolution_expected": one.scene.resolution_expected,
                "prompt": prompt_of(one.scene),
                "controls": others,
                "trained_on": shelf.id(one.chain),
                "match": round(one.match, 6),
                "rules": {"turn": True, "words": sorted(set(stems(one.scene.resolution_expected))), "share": COVERED},
            }
        )
    return found


def f1(truth: Sequence[bool], said: Sequence[bool]) -> tuple[float, float, float]:
    """Precision, recall and F1; 0 where nothing was found."""
    hit = int(np.sum(np.logical_and(truth, said)))
    precision = hit / max(sum(said), 1)
    recall = hit / max(sum(truth), 1)
    return precision, recall, 2 * hit / max(sum(said) + sum(truth), 1)
