"""What changed between two runs, transition by transition, compared with the noise of the same model measured twice.

Both runs measured the same chains with the same tokenizer (a base model, and the model with an adapter). Every difference is
``after - before``, so a negative surprisal change means: became easier. Chains are grouped (trained, not_fed, held_out,
unseen, unrelated; compared where nothing says what a training saw). Intervals are bootstraps over chains, because the tokens
of one chain are not independent. A change within the noise floor is reported as none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trails.analyses.score import span_text
from trails.analyses.statistics import bootstrap, finite
from trails.errors import UsageError
from trails.evaluate.groups import COMPARED
from trails.platform.text import counted
from trails.schema import Trace

GROUPS = ("compared", "trained", "not_fed", "held_out", "unseen", "unrelated")
COLLAPSE_ENTROPY = 0.5
"""Entropy on unrelated text below this share of the base's is called a collapse."""
COLLAPSE_REPETITION = 0.2
"""A rise of the repetition of greedy continuations by more than this is called a collapse."""


LEGENDS = {
    "groups": "before, after: surprisal in nats per token, mean over chains of each chain's mean; change: after - before, "
    "below 0 is easier, with its 95 % interval over chains; entropy: change of the entropy, taken in the same way; easier, "
    "harder: share of the transitions whose surprisal fell or rose by more than the noise floor (at all, where there is none)",
    "layers": "hidden, attention: mean absolute change of hidden_shift and attention_shift (1 - cosine, total variation); "
    "noise: the same between two measurements of the first run's model",
    "checkpoints": "surprisal, kl: nats per token, mean over chains of each chain's mean, kl from the base to the checkpoint; "
    "repetition: share of 4-grams of greedy continuations that occurred before; these are some of the chains (--kl), so their "
    "means are not those of the groups",
}
"""What the columns of the tables of a difference mean, by table."""


@dataclass(frozen=True, slots=True)
class GroupChange:
    """Mean change over the chains of a group, with a 95 % interval over chains.

    ``before``, ``after``, ``surprisal`` and ``entropy`` are means over chains of each chain's mean, nats per token: a long
    chain counts no more than a short one. ``easier`` is the share of transitions whose surprisal fell by more than
    the noise floor, ``harder`` the share that rose by more.
    """

    group: str
    chains: int
    tokens: int
    before: float
    after: float
    surprisal: float
    low: float
    high: float
    entropy: float
    easier: float
    harder: float


@dataclass(frozen=True, slots=True)
class Transition:
    """One transition that moved: the token it leads to, and surprisal before and after (nats)."""

    token: str
    piece: str
    context: str
    group: str
    before: float
    after: float

    @property
    def change(self) -> float:
        """after - before, nats."""
        return self.after - self.before


@dataclass(frozen=True, slots=True)
class LayerChange:
    """Mean absolute change of a layer's measures over all transitions, and the same between two runs of one model.

    ``hidden`` of hidden_shift (layer 0 = input embeddings), ``attention`` of attention_shift (NaN for layer 0).
    """

    layer: int
    hidden: float
    attention: float
    hidden_noise: float
    attention_noise: float


@dataclass(frozen=True, slots=True)
class DiffReport:
    """The comparison. ``noise`` is the largest absolute change of a surprisal between two measurements of the first run's
    model (nats), ``noise_mean`` the mean; NaN when it was not measured. ``alarms`` are collapses, in words. ``behind``
    tokens of trained chains lie behind the cut of the training and are in no group.
    """

    before: str
    after: str
    groups: tuple[GroupChange, ...]
    layers: tuple[LayerChange, ...]
    easier: tuple[Transition, ...]
    harder: tuple[Transition, ...]
    noise: float
    noise_mean: float
    alarms: tuple[str, ...]
    missing: int
    behind: int = 0


class _Group:
    def __init__(self) -> None:
        self.change: list[float] = []
        self.before: list[float] = []
        self.after: list[float] = []
        self.entropy: list[float] = []
        self.entropy_before: list[float] = []
        self.easier = self.harder = self.tokens = 0


def compare(
    before: Iterable[Trace],
    after: Mapping[str, Trace] | Iterable[Trace],
    groups: Mapping[str, str] | None = None,
    *,
    again: Iterable[Trace] = (),
    first_fed: Mapping[str, int] | None = None,
    top: int = 20,
) -> DiffReport:
    """Compare two runs on the chains they share.

    ``after`` is looked up by chain, so it is kept in memory; ``before`` streams. ``groups`` names the group of a chain
    (default ``compared``). ``first_fed`` says of chains that a training cut how many of their tokens it was fed: the
    others are in no group. ``again`` are chains of the first run measured once more: the noise floor. ``top`` transitions that
    moved most are named in each direction. Raises UsageError when the runs share no chain or differ in tokenizer.
    """
    later = after if isinstance(after, Mapping) else {trace.chain.id: trace for trace in after}
    repeated = {trace.chain.id: trace for trace in again}
    floors: list[npt.NDArray[np.float32]] = []
    found: dict[str, _Group] = {}
    moved: list[Transition] = []
    layers = _Layers()
    run_a = run_b = ""
    missing = 0
    held: list[tuple[Trace, Trace, str]] = []
    for first in before:
        second = later.get(first.chain.id)
        if second is None:
            missing += 1
            continue
        if first.tokenizer != second.tokenizer or not np.array_equal(first.token_ids, second.token_ids):
            raise UsageError(
                f"runs {first.run} and {second.run} cut chain {first.chain.id} into different tokens. A diff "
                f"needs one tokenizer."
            )
        run_a, run_b = first.run, second.run
        held.append((first, second, (groups or {}).get(first.chain.id, COMPARED)))
    if not held:
        raise UsageError("the two runs share no chain. Measure the same chains with both: trails ingest, trails diff")
    held.sort(key=lambda pair: pair[0].chain.id)
    for first, _, _ in held:
        if (noise := repeated.get(first.chain.id)) is not None:
            floors.append(np.abs(noise.surprisal - first.surprisal))
            layers.add_noise(first, noise)
    floor = float(np.nanmax(np.concatenate(floors))) if floors else math.nan
    floor_mean = float(np.nanmean(np.concatenate(floors))) if floors else math.nan
    threshold = floor if math.isfinite(floor) else 0.0
    behind = 0
    for first, second, name in held:
        group = found.setdefault(name, _Group())
        change = second.surprisal - first.surprisal
        fed = (first_fed or {}).get(first.chain.id) if name == "trained" else None
        if fed is not None:
            behind += int(np.isfinite(change[fed:]).sum())
            change[fed:] = np.nan
        valid = np.isfinite(change)
        if not valid.any():
            continue
        group.change.append(float(change[valid].mean()))
        group.before.append(float(first.surprisal[valid].mean()))
        group.after.append(float(second.surprisal[valid].mean()))
        group.entropy.append(float(np.nanmean((second.entropy - first.entropy)[:fed])))
        group.entropy_before.append(float(np.nanmean(first.entropy[:fed])))
        group.easier += int((change[valid] < -threshold).sum())
        group.harder += int((change[valid] > threshold).sum())
        group.tokens += int(valid.sum())
        layers.add(first, second)
        moved += _extremes(first, second, change, name, top)
    moved.sort(key=lambda t: (t.change, t.token))
    report_groups = tuple(
        _summary(name, found[name]) for name in [*GROUPS, *sorted(set(found) - set(GROUPS))] if name in found
    )
    return DiffReport(
        before=run_a,
        after=run_b,
        groups=report_groups,
        layers=layers.report(),
        easier=tuple(t for t in moved[:top] if t.change < -threshold),
        harder=tuple(t for t in moved[::-1][:top] if t.change > threshold),
        noise=floor,
        noise_mean=floor_mean,
        alarms=tuple(_alarms(found)),
        missing=missing,
        behind=behind,
    )


def _summary(name: str, group: _Group) -> GroupChange:
    mean, low, high = interval(group.change)
    n = max(group.tokens, 1)
    return GroupChange(
        group=name,
        chains=len(group.change),
        tokens=group.tokens,
        before=float(np.mean(group.before)),
        after=float(np.mean(group.after)),
        surprisal=mean,
        low=low,
        high=high,
        entropy=float(np.mean(group.entropy)),
        easier=group.easier / n,
        harder=group.harder / n,
    )


INTERVAL_DRAWS = 2000
"""Resamples behind an interval of a change."""


def interval(values: Sequence[float], draws: int = INTERVAL_DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """Mean and its 95 % percentile bootstrap interval; undefined (NaN) for fewer than five values, which cannot carry one."""
    data = finite(values)
    low, high = bootstrap(data, draws=draws, seed=seed) or (math.nan, math.nan)
    return (float(data.mean()) if len(data) else math.nan), low, high


def _extremes(first: Trace, second: Trace, change: npt.NDArray[np.float32], group: str, top: int) -> list[Transition]:
    order = np.argsort(np.where(np.isfinite(change), change, 0), kind="stable")
    chosen = dict.fromkeys([*order[:top].tolist(), *order[::-1][:top].tolist()])
    text, found = first.chain.text, []
    for position in chosen:
        if math.isfinite(float(change[position])):
            start = int(first.token_start[position])
            found.append(
                Transition(
                    first.token_id(position),
                    first.pieces[position],
                    text[max(start - 40, 0) : start],
                    group,
                    float(first.surprisal[position]),
                    float(second.surprisal[position]),
                )
            )
    return found


def _alarms(groups: Mapping[str, _Group]) -> list[str]:
    found = []
    for name, group in sorted(groups.items()):
        before = float(np.mean(group.entropy_before))
        after = before + float(np.mean(group.entropy))
        if before > 0 and after < COLLAPSE_ENTROPY * before and name in ("unrelated", "unseen"):
            found.append(
                f"entropy collapse on {name} text: {before:.3f} → {after:.3f} nats, below {COLLAPSE_ENTROPY:g} of the base, "
                f"on {counted(len(group.entropy), 'chain')}"
            )
    return found


class _Layers:
    def __init__(self) -> None:
        self.hidden: list[npt.NDArray[np.float64]] = []
        self.attention: list[npt.NDArray[np.float64]] = []
        self.hidden_noise: list[npt.NDArray[np.float64]] = []
        self.attention_noise: list[npt.NDArray[np.float64]] = []

    def add(self, a: Trace, b: Trace) -> None:
        self.hidden.append(_mean_change(a.hidden_shift, b.hidden_shift))
        self.attention.append(_mean_change(a.attention_shift, b.attention_shift))

    def add_noise(self, a: Trace, b: Trace) -> None:
        self.hidden_noise.append(_mean_change(a.hidden_shift, b.hidden_shift))
        self.attention_noise.append(_mean_change(a.attention_shift, b.attention_shift))

    def report(self) -> tuple[LayerChange, ...]:
        if not self.hidden or not len(self.hidden[0]):
            return ()
        count = len(self.hidden[0])
        hidden, attention = np.mean(self.hidden, 0), np.mean(self.attention, 0)
        hidden_noise = np.mean(self.hidden_noise, 0) if self.hidden_noise else np.full(count, np.nan)
        attention_noise = np.mean(self.attention_noise, 0) if self.attention_noise else np.full(count - 1, np.nan)
        return tuple(
            LayerChange(
                layer,
                float(hidden[layer]),
                float(attention[layer - 1]) if layer else math.nan,
                float(hidden_noise[layer]),
                float(attention_noise[layer - 1]) if layer else math.nan,
            )
            for layer in range(count)
        )


def _mean_change(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Mean absolute difference per layer over transitions where both are defined."""
    difference = np.abs(b.astype(np.float64) - a)
    difference = difference[np.isfinite(difference).all(1)] if difference.size else difference
    return difference.mean(0) if len(difference) else np.full(a.shape[1], np.nan)


def table(report: DiffReport) -> pa.Table:
    """Groups as rows."""
    return pa.Table.from_pylist(
        [{name: getattr(group, name) for name in GroupChange.__slots__} for group in report.groups]
    )


def repetition_alarm(before: float, after: float, chains: int) -> str:
    """Words for a rise of the repetition of greedy continuations of so many chains, empty if it stayed within bounds."""
    if after - before > COLLAPSE_REPETITION:
        return (
            f"repetition collapse: {before:.3f} → {after:.3f} of the 4-grams of greedy continuations occurred before, "
            f"on {counted(chains, 'chain')}"
        )
    return ""


def verdict(group: GroupChange, noise_mean: float) -> str:
    """One plain sentence about a group, with the interval where there is one."""
    if math.isfinite(noise_mean) and abs(group.surprisal) <= noise_mean:
        return f"{group.group}: no change beyond the noise floor"
    if math.isnan(group.low):
        return f"{group.group}: {counted(group.chains, 'chain is', 'chains are')} too few for an interval"
    if group.high < 0:
        span = f"95 % interval {span_text((-group.high, -group.low))}"
        return f"{group.group}: became easier by {-group.surprisal:.3f} nats per token ({span})"
    if group.low > 0:
        span = f"95 % interval {span_text((group.low, group.high))}"
        return f"{group.group}: became harder by {group.surprisal:.3f} nats per token ({span})"
    return f"{group.group}: no change that the 95 % interval {span_text((group.low, group.high))} tells from 0"
