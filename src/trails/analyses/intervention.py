"""What a change inside the model did to the chains that were measured with it, beside the same change with a control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.statistics import bootstrap, how_resampled, spread
from trails.platform.arrays import Doubles
from trails.schema import Trace

SIZE, CHANGE = "size of the effect", "change of surprisal"
"""Names of the scores."""


@dataclass(frozen=True, slots=True)
class Intervened(Finding):
    """Tokens after the changed place: ``sizes`` and ``changes`` (chains,) are the means over them of the absolute and of the
    signed change of surprisal, nats per token; ``control_sizes`` and ``control_changes`` (draws, chains) those of the controls.

    ``how`` says how the controls were drawn.

    ``before`` is the largest change of a token that the intervention cannot reach: anything but 0 is noise of the device.
    """

    run: str
    other: str
    intervention: Mapping[str, Any]
    chains: tuple[str, ...]
    sizes: Doubles
    changes: Doubles
    control: str
    control_sizes: Doubles
    control_changes: Doubles
    before: float
    tokens: pa.Table
    how: str = ""

    def report(self) -> Report:
        """Whether the change did more than its control, and to which tokens most."""
        what = described(self.intervention)
        facts: dict[str, Any] = {
            "run": self.run,
            "other_run": self.other,
            "intervention": dict(self.intervention),
            "n_chains": len(self.chains),
            "largest_change_before": self.before,
        }
        commands = [("compare the runs", f"trails diff {self.other} {self.run}")]
        if len(self.chains) == 1:
            commands.append(
                ("by layer", f"trails drift {self.chains[0]} --run {self.other} --against {self.run}"),
            )
        ranked = ("size of the change", [abs(change) for change in self.tokens["change"].to_pylist()])
        table = ReportTable("tokens", self.tokens, "tokens that changed most", columns=_HEADINGS, ranked=ranked)
        if not np.isfinite(self.sizes).any():
            reason = "no token stands after the changed place. Change an earlier one"
            return Report("intervention", f"{what}: {reason}", facts, withheld=(Withheld(SIZE, reason),))
        size, change = float(np.nanmean(self.sizes)), float(np.nanmean(self.changes))
        moved = f"{what}: later tokens become {'harder' if change > 0 else 'easier'} by {abs(change):.3g} nats a token"
        if change == 0:
            moved = f"{what}: later tokens do not change"
        if not len(self.control_sizes):
            reason = (
                "the whole chain is changed and there is no vector, so there is no other place and no random direction"
            )
            return Report("intervention", f"{moved}; no control: {reason}", facts, (table,), (), (Withheld(SIZE, reason),),
                          commands=tuple(commands))  # fmt: skip
        scores = tuple(
            Score(
                name,
                float(np.nanmean(own)),
                "nats per token",
                (Control(self.control, float(np.nanmean(other)), spread(np.nanmean(other, axis=1)), self.how),),
                bootstrap(own[np.isfinite(own)]) if np.isfinite(own).sum() > 1 else None,
                how=how_resampled(),
            )
            for name, own, other in (
                (SIZE, self.sizes, self.control_sizes),
                (CHANGE, self.changes, self.control_changes),
            )
        )
        reach = scores[0].controls[0]
        said = "more than its control" if scores[0].beyond() else "no more than its control"
        verdict = f"{moved}; {size:.3g} nats a token in absolute value, {said} ({self.control}: {reach.value:.3g})"
        return Report("intervention", verdict, facts, (table,), scores, commands=tuple(commands))


_HEADINGS = {"chain": "chain", "position": "token", "piece": "piece", "before": "nats before", "after": "after",
             "change": "change"}  # fmt: skip


def described(intervention: Mapping[str, Any]) -> str:
    """An intervention in words."""
    by = f" {intervention['vector']}" if intervention["vector"] else ""
    at = intervention["positions"]
    place = "all tokens" if at == "all" else at.replace(":", " ") if at.startswith("step") else f"token {at}"
    site = intervention["component"].replace("_", " ")
    return f"{intervention['operation']}{by} x {intervention['strength']:g} at {place}, {site} of layer {intervention['layer']}"


def effect_of(before: Trace, after: Trace, first: int) -> tuple[float, float, float]:
    """Mean absolute and mean signed change of surprisal (nats per token) of the tokens after position ``first``, and the
    largest absolute change of those up to it; NaN where there are none.
    """
    change = after.surprisal.astype(np.float64) - before.surprisal.astype(np.float64)
    reached, rest = change[first + 1 :], change[: first + 1]
    rest = rest[np.isfinite(rest)]
    if not len(reached):
        return np.nan, np.nan, float(np.abs(rest).max(initial=0.0))
    return float(np.abs(reached).mean()), float(reached.mean()), float(np.abs(rest).max(initial=0.0))


def intervened(
    run: str,
    other: str,
    intervention: Mapping[str, Any],
    pairs: Sequence[tuple[Trace, Trace, int]],
    control: str,
    controls: Sequence[Sequence[tuple[Trace, int]]],
    *,
    how: str = "",
    top: int = 100,
) -> Intervened:
    """What an intervention did. ``pairs`` are (as it is, changed, first changed token) of every chain; ``controls`` for every
    draw the changed trace and its first changed token of every chain, in the same order; ``how`` says how they were drawn.
    Chains may come in any order.
    """
    order = sorted(range(len(pairs)), key=lambda i: pairs[i][0].chain.id)
    pairs = [pairs[i] for i in order]
    controls = [[draw[i] for i in order] for draw in controls]
    own = np.array([effect_of(*pair) for pair in pairs], np.float64).reshape(len(pairs), 3)
    drawn = np.array(
        [[effect_of(pair[0], trace, first)[:2] for pair, (trace, first) in zip(pairs, draw, strict=True)] for draw in controls],
        np.float64,
    ).reshape(len(controls), len(pairs), 2)  # fmt: skip
    rows = []
    for before, after, first in pairs:
        change = after.surprisal - before.surprisal
        for place in np.argsort(-np.abs(change[first + 1 :]), kind="stable")[:top] + first + 1:
            rows.append(
                {
                    "chain": before.chain.id,
                    "position": int(place),
                    "piece": before.pieces[place],
                    "before": float(before.surprisal[place]),
                    "after": float(after.surprisal[place]),
                    "change": float(change[place]),
                }
            )
    rows.sort(key=lambda row: -abs(row["change"]))
    schema = pa.schema(
        [("chain", pa.string()), ("position", pa.int64()), ("piece", pa.string())]
        + [(name, pa.float64()) for name in ("before", "after", "change")]
    )
    return Intervened(
        run,
        other,
        intervention,
        tuple(before.chain.id for before, _, _ in pairs),
        own[:, 0],
        own[:, 1],
        control,
        drawn[:, :, 0],
        drawn[:, :, 1],
        float(own[:, 2].max(initial=0.0)),
        pa.Table.from_pylist(rows[:top], schema=schema),
        how,
    )
