"""Drift: how far hidden states move, by layer and position, and the layer where it sets in.

Of one chain: hidden_shift minus the run's own anisotropy baseline (random pairs of positions are far from orthogonal, so a raw
cosine says little). Of two measurements of the same tokens (before and after training, with and without an intervention):
the absolute change of hidden_shift, where everything before the onset is noise.

The onset is a change point of the mean curve over layers. It is named only when the jump is larger than in 95 of 100 curves
with the same trend whose deviations were shuffled between layers (a tie is not larger); its confidence is how often resampled
positions give the same layer within one, compared with the same share on shuffled layers.

Between two measurements, layers that did not change at all are no evidence and stay out of the statistic: a training that
leaves the input embeddings alone cannot move layer 0. Where the first layers of the transformer itself are equal bit by
bit and every later one is not, the onset is a fact and needs no statistic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.text import Text

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.statistics import LEVEL, spread, step_change
from trails.errors import UsageError
from trails.platform.arrays import Bools, Doubles, Longs
from trails.platform.text import counted, percent
from trails.schema import Trace

MIN_POSITIONS = 8
"""Fewer positions than this cannot be resampled."""
MIN_LAYERS = 4
NOISE = 1e-5
"""Changes of hidden_shift below this are rounding in float32."""
DRAWS = 400
RESAMPLES = 200
"""Resamples of positions behind the place of an onset."""
TIE = 1e-6
"""Two jumps that differ by less than this share of themselves are equal: sums of the same numbers in another order do."""


@dataclass(frozen=True, slots=True)
class Drift(Finding):
    """Drift of one chain. ``values`` (n, L+1) is by position and layer (0 = input embeddings), ``curve`` (L+1,) its mean.

    ``n_tokens`` counts the chain's tokens, of which the first may have no
    value. ``onset`` is the first layer of the new level, None when no change point stands out. ``paired`` tells whether two
    measurements were compared.
    """

    chain: str
    run: str
    other: str
    paired: bool
    values: npt.NDArray[np.float64]
    curve: npt.NDArray[np.float64]
    baseline: npt.NDArray[np.float64]
    onset: int | None
    scores: tuple[Score, ...]
    withheld: tuple[Withheld, ...]
    pieces: tuple[str, ...]
    n_tokens: int
    notes: tuple[str, ...] = field(default_factory=tuple)

    def report(self) -> Report:
        """The curve by layer with its baseline, not every position."""
        layers = range(len(self.curve))
        by_layer = pa.table({"layer": pa.array(layers, pa.int64()), "drift": self.curve, "random pairs": self.baseline})
        return Report(
            "drift",
            self._verdict(),
            {
                "chain": self.chain,
                "run": self.run,
                "other_run": self.other or None,
                "paired": self.paired,
                "n_positions": len(self.values),
                "curve": [float(value) for value in self.curve],
                "baseline": [float(value) for value in self.baseline],
                "onset": self.onset,
            },
            (ReportTable("layers", by_layer, "mean over positions", detail=True),),
            self.scores,
            self.withheld,
            self.notes,
            layers={self.chain: self._by_token()} if self.paired else {},
        )

    def _by_token(self) -> Doubles:
        """The values of every token (n, L+1); NaN where one has none."""
        values = np.full((self.n_tokens, len(self.curve)), np.nan)
        values[self.n_tokens - len(self.values) :] = self.values
        return values

    def _verdict(self) -> str:
        what = f"the change between runs {self.run} and {self.other}" if self.paired else "drift"
        names = {score.name: score for score in self.scores}
        if not names:
            reason = self.withheld[0].reason if self.withheld else "nothing was compared"
            return f"no onset is named: {reason}"
        if EXACT in names:
            last = (self.onset or 1) - 1
            return (
                f"{what} begins at layer {self.onset}: layers 0 to {last} are equal bit by bit, every later one is not"
            )
        jump, confidence = names[JUMP], names[CONFIDENCE]
        compared = f"jump {jump.value:.3g}, with the layers shuffled up to {jump.control:.3g}"
        if self.onset is None:
            return f"no onset: no layer stands out ({compared})"
        return (
            f"{what} sets in at layer {self.onset} ({compared}; {percent(confidence.value)} of resamples agree within one "
            f"layer, {percent(confidence.control)} by chance)"
        )


JUMP, CONFIDENCE, EXACT = "jump at the onset", "confidence of the onset", "change from the onset on"
"""Names of the scores."""


def drift(trace: Trace, against: Trace | None = None, *, seed: int = 0) -> Drift:
    """Drift of a chain, or with ``against`` its change between two measurements of the same tokens.

    Raises UsageError when the two do not have the same tokens and layers, or when the run has no hidden states.
    """
    if trace.n_layers < 1 or trace.hidden_shift.shape[1] < MIN_LAYERS:
        raise UsageError(
            f"drift was asked for, and run {trace.run} has {counted(trace.n_layers, 'layer')}; {MIN_LAYERS - 1} are needed. "
            "Measure the chain with a transformer: trails ingest PATH --model NAME"
        )
    shift = trace.hidden_shift.astype(np.float64)
    if against is None:
        values = shift - trace.hidden_baseline.astype(np.float64)
        note = "hidden_shift minus the mean of random pairs of positions; negative = neighbours are closer than random pairs"
    else:
        if not np.array_equal(trace.token_ids, against.token_ids) or against.hidden_shift.shape != shift.shape:
            raise UsageError(
                f"chain {trace.chain.id} and chain {against.chain.id} do not have the same tokens and layers; drift between "
                "two measurements needs the same chain, tokenizer and number of layers"
            )
        values = np.abs(against.hidden_shift.astype(np.float64) - shift)
        note = f"absolute change of hidden_shift between the two measurements; below {NOISE:g} is rounding"
    values = values[np.isfinite(values).all(axis=1)]
    pieces = trace.pieces[len(trace.pieces) - len(values) :]
    curve = values.mean(axis=0) if len(values) else np.full(shift.shape[1], np.nan)
    onset, scores, withheld = _onset(values, against is not None, seed)
    return Drift(
        trace.chain.id,
        trace.run,
        against.run if against else "",
        against is not None,
        values,
        curve,
        trace.hidden_baseline.astype(np.float64),
        onset,
        scores,
        withheld,
        pieces,
        trace.n_tokens,
        (note,),
    )


def _without_trend(curves: Doubles) -> Doubles:
    """Each curve minus its least-squares line."""
    place = np.arange(curves.shape[1], dtype=np.float64)
    place -= place.mean()
    slope = curves @ place / (place @ place)
    level = curves.mean(axis=1)
    left: Doubles = curves - level[:, None] - slope[:, None] * place
    return left


def onset_of(values: Doubles, *, paired: bool) -> tuple[int, float]:
    """Change point of the mean over positions: (first layer of the new level, squared error removed / left).

    Paired changes are compared on a logarithmic scale above the rounding noise, because they grow by factors; the drift of one
    chain is compared after its linear trend over the layers is taken out, because a steady slope is no onset.
    """
    mean = values.mean(axis=0, keepdims=True)
    return _change(np.log(mean + NOISE) if paired else mean, paired)


def _change(curve: Doubles, paired: bool) -> tuple[int, float]:
    if paired:
        return step_change(curve)
    return trend_change(curve[0])


def trend_change(curve: Doubles, *, margin: int = 2) -> tuple[int, float]:
    """Best jump on top of a straight line: (first place of the new level, squared error that the jump removes from the line's,
    relative to what is left)."""
    size = len(curve)
    place = np.arange(size, dtype=np.float64)
    plain = np.stack([np.ones(size), place], axis=1)
    basis, _ = np.linalg.qr(plain)
    residual = curve - basis @ (basis.T @ curve)
    total = float(residual @ residual)
    at = np.arange(margin, size - margin + 1)
    jumps = (place[None, :] >= at[:, None]).astype(np.float64)
    jumps -= (jumps @ basis) @ basis.T
    gain = (jumps @ residual) ** 2 / (jumps**2).sum(axis=1)
    best = int(gain.argmax())
    remaining = total - float(gain[best]) + 1e-12 * (total + 1e-300)
    return int(at[best]), float(gain[best]) / remaining if total > 0 else 0.0


def _exact_onset(changed: Bools) -> int | None:
    """First layer that changed, where layers 0 and 1 at least did not change at all and every layer from there on did."""
    first = int(changed.argmax())
    return first if changed.any() and first > 1 and changed[first:].all() else None


def _onset(values: Doubles, paired: bool, seed: int) -> tuple[int | None, tuple[Score, ...], tuple[Withheld, ...]]:
    if len(values) < MIN_POSITIONS:
        reason = (
            f"{counted(len(values), 'position is', 'positions are')} too few to resample; "
            f"{MIN_POSITIONS} are needed: give a longer chain"
        )
        return None, (), (Withheld("onset", reason),)
    layers = np.arange(values.shape[1])
    if paired:
        if float(values.mean(axis=0).max()) <= NOISE:
            reason = f"no layer changed by more than rounding ({NOISE:g}): the two measurements are equal"
            return None, (), (Withheld("onset", reason),)
        changed: Bools = np.asarray(values.any(axis=0))
        exact = _exact_onset(changed)
        if exact is not None:
            unit = "absolute change of hidden_shift"
            value = float(values[:, exact:].mean())
            before = Control(
                f"layers 0 to {exact - 1}", float(values[:, :exact].mean()), how="the same positions, nothing drawn"
            )
            return exact, (Score(EXACT, value, unit, (before,), note=f"layer {exact}"),), ()
        layers = layers[changed]
        if len(layers) < MIN_LAYERS:
            reason = f"{counted(len(layers), 'layer')} changed at all, a change point needs {MIN_LAYERS}"
            return None, (), (Withheld("onset", reason),)
        values = values[:, changed]
    rng = np.random.default_rng(seed)
    place, statistic = onset_of(values, paired=paired)
    mean = values.mean(axis=0, keepdims=True)
    curve = np.log(mean + NOISE) if paired else mean
    trend = curve - (curve - curve.mean() if paired else _without_trend(curve))
    deviation = curve - trend
    null = []
    for _ in range(DRAWS):
        null.append(_change(trend + deviation[:, rng.permutation(curve.shape[1])], paired)[1])
    high = float(np.quantile(null, 0.95))
    picks = rng.integers(0, len(values), (RESAMPLES, len(values)))
    again = np.array([onset_of(values[pick], paired=paired)[0] for pick in picks])
    order = rng.permutation(curve.shape[1])
    mixed = values[:, order]
    target = onset_of(mixed, paired=paired)[0]
    shuffled = np.array([onset_of(mixed[pick][:, rng.permutation(len(order))], paired=paired)[0] for pick in picks])
    layer = int(layers[place])
    scores = (
        Score(
            JUMP,
            statistic,
            "squared error removed / left",
            (
                Control(
                    "largest jump with the layers shuffled, 95 % quantile",
                    high,
                    spread(null),
                    f"95 % quantile and central 95 % of {DRAWS} permutations of the layers, seed {seed}",
                ),
            ),
            note=f"layer {layer}",
        ),
        Score(
            CONFIDENCE,
            float((np.abs(again - place) <= 1).mean()),
            "share of resamples within one layer",
            (
                Control(
                    "the same with the layers shuffled",
                    float((np.abs(shuffled - target) <= 1).mean()),
                    how=f"the same {RESAMPLES} resamples, the layers permuted again in each, seed {seed}",
                ),
            ),
            how=f"{RESAMPLES} bootstrap resamples of positions, seed {seed}",
            note=_resampled(layers[again]),
        ),
    )
    larger = statistic > high and not math.isclose(statistic, high, rel_tol=TIE)
    return (layer if larger else None), scores, ()


def _resampled(onsets: Longs) -> str:
    """Where resamples put the onset, in words: the layers that hold their central 95 %."""
    inside = np.quantile(np.arange(len(onsets)), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = np.sort(onsets)[[int(np.floor(inside[0])), int(np.ceil(inside[1]))]].tolist()
    where = f"between layers {low} and {high}" if low < high else f"in layer {low}"
    return f"the central {percent(LEVEL)} of resampled positions put it {where}"


# --------------------------------------------------------------------------------------------------------------------
# The picture
# --------------------------------------------------------------------------------------------------------------------

_SHADES = " ·░▒▓█"
_COLOURS = ("grey35", "grey62", "cyan", "green", "yellow", "red")


def picture(found: Drift, *, width: int = 100, height: int = 32) -> Text:
    """Layer × position as shaded cells, last layer on top; the onset's row is marked. Works without colour.

    Neighbouring positions and layers share a cell where there are more than fit; cells show means, shaded by the quantiles
    of all cells.
    """
    n, layers = found.values.shape
    if not n:
        return Text("no position has a hidden shift")
    columns, rows = min(width, n), min(height, layers)
    across = np.add.reduceat(found.values, np.arange(columns) * n // columns, axis=0)
    across /= np.diff(np.append(np.arange(columns) * n // columns, n))[:, None]
    begins = np.arange(rows) * layers // rows
    cells = np.add.reduceat(across, begins, axis=1) / np.diff(np.append(begins, layers))[None, :]
    bounds = np.quantile(cells, np.arange(1, len(_SHADES)) / len(_SHADES))
    shade = np.searchsorted(bounds, cells, side="right")
    text = Text()
    for row in range(rows - 1, -1, -1):
        last = (begins[row + 1] if row + 1 < rows else layers) - 1
        marked = found.onset is not None and begins[row] <= found.onset <= last
        text.append(f"{begins[row]:>4} ", style="bold" if marked else "dim")
        for column in range(columns):
            level = int(shade[column, row])
            text.append(_SHADES[level], style=_COLOURS[level])
        text.append(" ← drift sets in\n" if marked else "\n")
    text.append("layer; positions from left to right, ", style="dim")
    text.append(f"{n} in {counted(columns, 'column')}; shades are sixths of all cells, from ", style="dim")
    text.append(f"{float(cells.min()):.3f} to {float(cells.max()):.3f}\n", style="dim")
    return text
