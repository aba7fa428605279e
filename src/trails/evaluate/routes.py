"""Does it pay to send a row to the adapter of its role? Beside one adapter of as many parameters, and beside routes at random.

A row counts with the mean surprisal of its labelled tokens, nats. Every row is scored once with every adapter of a folder that
``trails train --roles`` wrote; the rest is choosing. Routed, a row takes the adapter of its own role. A random route gives the
same roles to the rows in random order, so that every adapter has as many rows as before: where that does as well, the roles say
nothing, and the adapters are only several.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.statistics import Interval, bootstrap, how_drawn, how_resampled, spread
from trails.errors import UsageError
from trails.evaluate.probe import probe
from trails.platform.arrays import Doubles
from trails.platform.text import counted
from trails.train import check_adapter, put_adapter
from trails.train.check import damaged, read_json
from trails.train.data import Row

LEAST = 20
"""Chains below which no score is given."""

DRAWS = 1000
UNTRAINED, ONE, MIXED = "untrained", "one", "mixed"
GAIN = "routed by role, gain over one adapter"


@dataclass(frozen=True, slots=True)
class Folders:
    """The adapters of ``trails train --roles``: by role, the one of as many parameters, and the weighted sum."""

    roles: Mapping[str, Path]
    one: Path
    mixed: Path


def folders_of(adapters: Path) -> Folders:
    """What ``routes.json`` of a folder names. Raises UsageError for another folder, ModelError where an adapter is missing."""
    path = adapters / "routes.json"
    record = read_json(path)
    if record is None:
        raise UsageError(
            f"{adapters} has no routes.json. Give the folder of adapters by role: trails train course/train.jsonl --roles -o"
            " FOLDER"
        )
    try:
        roles = {str(role): adapters / name for role, name in record["routes"].items()}
        found = Folders(roles, adapters / record["one"], adapters / record["mixed"])
    except (AttributeError, KeyError, TypeError) as error:
        raise damaged(path, error) from None
    for folder in (*roles.values(), found.one, found.mixed):
        check_adapter(folder)
    return found


@dataclass(frozen=True, slots=True)
class Routed(Finding):
    """Mean surprisal of rows, nats per token: ``nll[name]`` (rows,) with the adapter of a role, or ``one``, ``mixed``,
    ``untrained``; ``roles`` and ``chains`` of the rows.

    ``left_out`` chains were trained on; None where nobody said what was. ``trained``: the rows are those of the training.
    """

    nll: Mapping[str, Doubles]
    roles: tuple[str, ...]
    chains: tuple[str, ...]
    left_out: int | None = None
    trained: bool = False

    def routed(self, roles: Sequence[str]) -> Doubles:
        """Surprisal of every row with the adapter of the role given for it."""
        return np.array([self.nll[role][row] for row, role in enumerate(roles)])

    def _per_chain(self, values: Doubles) -> Doubles:
        """Means over the rows of each chain: a chain that comes more than once is one unit."""
        chain = np.unique(self.chains, return_inverse=True)[1]
        return np.asarray(np.bincount(chain, values) / np.bincount(chain))

    def gain(self, values: Doubles) -> tuple[float, Interval | None]:
        """How much less surprised than the one adapter, mean over chains, with its interval."""
        each = self._per_chain(self.nll[ONE] - values)
        return float(each.mean()), bootstrap(each)

    def at_random(self, seed: int = 0) -> Doubles:
        """Gains of :data:`DRAWS` random routes: the same roles in random order."""
        rng = np.random.default_rng(seed)
        roles = np.array(self.roles)
        return np.array([self.gain_of(rng.permutation(roles).tolist()) for _ in range(DRAWS)])

    def gain_of(self, roles: Sequence[str]) -> float:
        """Mean gain of one route over the one adapter."""
        return float(self._per_chain(self.nll[ONE] - self.routed(roles)).mean())

    def report(self) -> Report:
        """The verdict, the surprisal of every role's rows with every adapter, and the gain beside its controls."""
        named = sorted(set(self.roles))
        rows = [
            {
                "role": role,
                "rows": int(mine.sum()),
                **{name: round(float(values[mine].mean()), 4) for name, values in self.nll.items()},
            }
            for role in named
            for mine in [np.array(self.roles) == role]
        ]
        n = len(set(self.chains))
        reason = ""
        if self.trained:
            reason = (
                "these are the rows that the adapters were trained on. Give rows of other chains: trails genome export"
            )
        elif len(named) < 2:
            reason = f"all rows have the role {named[0]}; two roles are needed"
        elif n < LEAST:
            reason = f"{counted(n, 'chain')}; {LEAST} are needed"
        scores: tuple[Score, ...] = ()
        withheld: tuple[Withheld, ...] = ()
        if reason:
            withheld = (Withheld(GAIN, reason),)
            verdict = f"routes are shown, not judged: {reason}"
        else:
            score = self._score()
            scores, verdict = (score,), _verdict(score)
        left = self.left_out
        return Report(
            "routes",
            verdict,
            facts={"left_out_as_trained_on": left},
            tables=(
                ReportTable(
                    "rows",
                    pa.Table.from_pylist(rows),
                    "surprisal of the rows of a role with every adapter, nats per token; a row is routed to that of its role",
                    {"role": "rows of the role", "rows": "rows", **{name: name for name in self.nll}},
                ),
            ),
            scores=scores,
            withheld=withheld,
            notes=(
                "not checked: whether these chains were trained on. Give the export: --export FILE"
                if left is None
                else f"{counted(left, 'chain was', 'chains were')} trained on and left out",
            ),
        )

    def _score(self) -> Score:
        drawn = self.at_random()
        value, interval = self.gain(self.routed(self.roles))
        return Score(
            GAIN,
            value,
            "nats per token",
            (
                Control(
                    RANDOM,
                    float(drawn.mean()),
                    spread(drawn),
                    how_drawn("routes, the roles given to the rows at random", DRAWS, 0),
                ),
                Control("the weighted sum of the roles", *self.gain(self.nll[MIXED]), how_resampled()),
                Control("the untrained model", *self.gain(self.nll[UNTRAINED]), how_resampled()),
            ),
            interval,
            how=how_resampled(),
        )


RANDOM = "routes at random"


def _verdict(score: Score) -> str:
    low, high = score.interval or (math.nan, math.nan)
    one = "better than" if low > 0 else "worse than" if high < 0 else "not shown to differ from"
    by_chance = score.strictest(RANDOM)
    beyond = "beyond" if score.value > by_chance.reach else "not beyond"
    return (
        f"routing by role is {one} one adapter of as many parameters ({score.value:+.4f} nats per token, {low:+.4f} to"
        f" {high:+.4f}) and {beyond} routes at random ({by_chance.value:+.4f}, up to {by_chance.reach:+.4f})"
    )


def routes_of(
    rows: Mapping[str, Sequence[Row]],
    model: Any,
    folders: Folders,
    *,
    left_out: int | None = None,
    trained: bool = False,
) -> Routed:
    """Score rows, given by role, with every adapter. Raises UsageError for a role without an adapter, and for no rows."""
    flat = [(role, row) for role, of in rows.items() for row in of]
    if not flat:
        raise UsageError(
            "no row of a role is left that was not trained on. Give rows of other chains: trails genome export"
        )
    if unknown := sorted({role for role, _ in flat} - set(folders.roles)):
        raise UsageError(
            f"no adapter was trained for the role {', '.join(unknown)}; there are {', '.join(folders.roles)}. Train one:"
            " trails train EXPORT --roles"
        )

    def scored(with_: Any) -> Doubles:
        return np.array([found.nll.mean(dtype=np.float64) for found in probe(with_, [row for _, row in flat])])

    nll = {UNTRAINED: scored(model)}
    for name, folder in {**folders.roles, ONE: folders.one, MIXED: folders.mixed}.items():
        model = put_adapter(model, folder, name)
        nll[name] = scored(model)
    return Routed(nll, tuple(role for role, _ in flat), tuple(row["chain"] for _, row in flat), left_out, trained)
