"""What every seam score is worth on a corpus: remove an interior step, and ask how high the true seam scores.

*The removed step is drawn uniformly from the interior, so that every seam of the shortened chain is equally likely to be the
true one: position alone then tells nothing by construction, and a score cannot profit from it.*
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trails.analyses.choice import (
    FOLDS,
    Rows,
    choose_ridge,
    cross_validated_choice,
    cross_validated_stack,
    fit_choice,
    fit_stacked,
    joined_rows,
)
from trails.analyses.gaps.kinds import MODEL, NAMES, NO_MODEL, SIGN
from trails.analyses.gaps.seams import background, seam_scores, unmeasured_scores
from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld, score_record, span_text, withheld_record
from trails.analyses.sequences import content_key, one_instrument
from trails.analyses.statistics import bootstrap, centred, how_resampled, spearman, within_group_auc, within_group_ranks
from trails.errors import UsageError
from trails.measure.base import MeasureOptions, Scorer, Segmented
from trails.platform.arrays import Doubles, Longs
from trails.platform.text import counted, part_of
from trails.schema import Trace

NOTE = "gap_calibration"
"""Name under which a run keeps its calibration among its notes."""

MIN_CHAINS = 20
"""Fewer chains than this with an interior step to remove: no AUC, no score."""


def without_step(item: Segmented, index: int) -> Segmented:
    """The chain without one step; the other steps keep their roles. Its source id says what was removed."""
    step = item.steps[index]
    width = step.end - step.start
    text = item.chain.text[: step.start] + item.chain.text[step.end :]
    chain = replace(item.chain, text=text, boundaries=(), source_id=f"{item.chain.source_id}#without-{index}")
    steps = [
        replace(
            s,
            index=number,
            start=s.start - (width if s.start >= step.end else 0),
            end=s.end - (width if s.start >= step.end else 0),
        )
        for number, s in enumerate(s for s in item.steps if s.index != step.index)
    ]
    return Segmented(chain, tuple(steps))


def removable(trace: Trace, seed: int = 0) -> int | None:
    """The interior step of this chain that calibration removes, drawn by the chain's id; None below four steps."""
    return _removable(Segmented(trace.chain, trace.steps), seed)


def _removable(item: Segmented, seed: int) -> int | None:
    n = len(item.steps)
    if n < 4:
        return None
    return 1 + int(content_key("removed step", item.chain.id, seed), 16) % (n - 2)


@dataclass(frozen=True, slots=True)
class Removed:
    """A step that calibration took out of a chain, and by every score the AUC of the true seam within this chain, 0..1: the
    mean over the chains is the value of the score. ``auc`` is empty for a chain that only weights were learnt from.
    """

    chain: str
    step: int
    auc: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Calibration(Finding):
    """What seam scores are worth on a corpus, and how to combine them.

    ``scores``: one per seam score and combination (``no model``, ``model``, ``all``), each the AUC of the removed step within
    its chain; the controls are position alone and the no-model combination. ``model's own share``: AUC of all scores minus
    AUC of those without a model; the control is the same with the model's scores shuffled within each chain. ``best`` is the
    combination with the largest AUC on this corpus, the one without a model where two are equal. ``features`` are its
    scores, ``weights`` combine their ranks within the chain (conditional logit over all chains, penalty by
    cross-validation, the scores without a model first:
    :func:`trails.analyses.choice.fit_stacked`). ``removed`` are the steps that were taken out, one a chain, in the order of the
    folds; ``learnt`` those of the further chains from which the weights of the scores without a model were learnt as well.
    """

    run: str
    n_chains: int
    features: tuple[str, ...]
    weights: tuple[float, ...]
    scores: tuple[Score, ...]
    withheld: tuple[Withheld, ...] = ()
    best: str = "no model"
    removed: tuple[Removed, ...] = ()
    learnt: tuple[Removed, ...] = ()

    def auc(self, name: str) -> float:
        """AUC of a score or combination; NaN if it was not calibrated."""
        return next((score.value for score in self.scores if score.name == name), math.nan)

    @property
    def calibrated(self) -> frozenset[str]:
        """Seam scores that have a control, and ``bridge_nats`` where its size was compared."""
        names = {score.name for score in self.scores}
        sizes = {"bridge_nats"} if "all" in names else set()
        return frozenset(names & set(NAMES)) | sizes

    @property
    def size_shown(self) -> bool:
        """Whether ``bridge_nats`` tells the size of what is missing better than its control does on this corpus."""
        return any(score.name == SIZE and score.beyond() for score in self.scores)

    def size_unshown(self) -> str:
        """Why the size of ``bridge_nats`` is not shown, in words; empty where it is shown or nothing was calibrated with a
        model."""
        if self.size_shown or "bridge_nats" not in self.calibrated:
            return ""
        found = next((score for score in self.scores if score.name == SIZE), None)
        read = "read it as the excess surprisal of the step after the seam"
        if found is None:
            return f"bridge_nats: its size was not shown on this corpus, no rank correlation could be had; {read}"
        own = f"{found.value:.2f}" + (
            f" ({found.interval[0]:.2f} to {found.interval[1]:.2f})" if found.interval else ""
        )
        return (
            "bridge_nats: its size was not shown on this corpus. Its rank correlation with the nats that a removed step had "
            f"saved is {own}, that of the step's length {found.control:.2f}; {read}"
        )

    def report(self) -> Report:
        """What every score is worth."""
        return Report(
            "gap calibration",
            self.worth(),
            {"run": self.run, "n_chains": self.n_chains, "best": self.best},
            (
                ReportTable(
                    "removed",
                    pa.table(
                        {
                            "chain": pa.array([one.chain for one in self.removed], pa.string()),
                            "step": pa.array([one.step for one in self.removed], pa.int64()),
                            "auc": pa.array([one.auc.get(self.best) for one in self.removed], pa.float64()),
                        }
                    ),
                    detail=True,
                ),
            ),
            scores=self.scores,
            withheld=self.withheld,
            evidence=(self.best, "model's own share"),
        )

    def worth(self) -> str:
        """What the ranking by the best combination is worth, in words."""
        score = next((one for one in self.scores if one.name == self.best), None)
        if score is None:
            return f"no seam can be ranked: {self.withheld[0].reason}" if self.withheld else "no seam can be ranked"
        named = {"all": "all scores together", "model": "the model's scores", "no model": "the scores without a model"}
        by = named[self.best]
        others = [f"{named[n]} {self.auc(n):.3f}" for n in named if n != self.best and math.isfinite(self.auc(n))]
        controls = "; ".join([f"position alone {score.strictest(POSITION).value:.3f}", *others])
        if score.beyond(POSITION):
            return f"ranked by {by}: AUC {score.value:.3f} for a removed step within its chain ({controls})"
        return f"not beyond chance: ranked by {by}, AUC {score.value:.3f} for a removed step ({controls})"

    def beside(self) -> str:
        """The same in few words, to stand beside a mark: the verdict, then AUC and control with their 95 % intervals. Empty
        where no seam can be ranked."""
        score = next((one for one in self.scores if one.name == self.best), None)
        if score is None:
            return ""
        control = score.strictest(POSITION)
        told = [
            f"{one.value:.3f}" + (f" ({span})" if (span := span_text(one.interval)) else "") for one in (score, control)
        ]
        beyond = "beyond chance" if score.beyond(POSITION) else "not beyond chance"
        return f"{beyond}: AUC {told[0]}, position alone {told[1]}"

    def stored(self) -> dict[str, Any]:
        """What a run keeps of it among its notes; :func:`calibration_from` reads it back."""
        return {
            "run": self.run,
            "n_chains": self.n_chains,
            "best": self.best,
            "features": list(self.features),
            "weights": list(self.weights),
            "scores": [score_record(score) for score in self.scores],
            "withheld": [withheld_record(item) for item in self.withheld],
            "removed": [{"chain": one.chain, "step": one.step, "auc": dict(one.auc)} for one in self.removed],
            "learnt": [{"chain": one.chain, "step": one.step} for one in self.learnt],
        }


SIZE = "bridge_nats against the nats the removed step had saved"
"""Name of the score that says whether ``bridge_nats`` tells a size."""
POSITION = "position only"
"""Name of the baseline of every score."""


def calibration_from(record: Mapping[str, Any]) -> Calibration:
    """A calibration from what a run keeps of it. One that was made before combinations were compared names none as the best:
    it ranks by all scores where a model measured, as it did then."""

    def interval(value: Any) -> tuple[float, float] | None:
        return (float(value[0]), float(value[1])) if value else None

    def score(entry: Mapping[str, Any]) -> Score:
        controls = tuple(
            Control(c["name"], float(c["value"]), interval(c["interval"]), c.get("how", "")) for c in entry["controls"]
        )
        return Score(
            entry["name"],
            float(entry["value"]),
            entry["unit"],
            controls,
            interval(entry["interval"]),
            entry["note"],
            entry.get("how", ""),
        )

    return Calibration(
        str(record["run"]),
        int(record["n_chains"]),
        tuple(record["features"]),
        tuple(record["weights"]),
        tuple(score(entry) for entry in record["scores"]),
        tuple(Withheld(entry["name"], entry["reason"]) for entry in record["withheld"]),
        record.get("best") or ("all" if any(name in MODEL for name in record["features"]) else "no model"),
        tuple(Removed(one["chain"], one["step"], one["auc"]) for one in record.get("removed", ())),
        tuple(Removed(one["chain"], one["step"]) for one in record.get("learnt", ())),
    )


@dataclass(frozen=True, slots=True)
class SeamTable:
    """Seams of many chains in rows."""

    values: dict[str, Doubles]
    chain: Longs
    step: Longs
    true: npt.NDArray[np.bool_]
    last: Longs  # last seam of the row's chain


def seam_table(entries: Iterable[tuple[dict[str, Doubles], int, int | None]]) -> SeamTable:
    """Rows of the seams from (scores, chain number, true seam or None)."""
    values: dict[str, list[Doubles]] = {name: [] for name in (*NAMES, "bridge_nats")}
    chain, step, true, last = [], [], [], []
    for scores, number, seam in entries:
        size = len(scores["ungrounded"])
        for name in values:
            values[name].append(scores[name][1:] * SIGN.get(name, 1))
        chain.append(np.full(size - 1, number))
        step.append(np.arange(1, size))
        true.append(np.arange(1, size) == (seam if seam is not None else -1))
        last.append(np.full(size - 1, size - 1))
    if not chain:
        empty = np.empty(0, np.int64)
        return SeamTable({name: np.empty(0) for name in values}, empty, empty, np.empty(0, np.bool_), empty)
    return SeamTable(
        {name: np.concatenate(parts) for name, parts in values.items()},
        np.concatenate(chain).astype(np.int64),
        np.concatenate(step).astype(np.int64),
        np.concatenate(true),
        np.concatenate(last).astype(np.int64),
    )


def shortened(
    traces: Sequence[Trace], *, limit: int | None = None, seed: int = 0
) -> list[tuple[Trace, Segmented, int]]:
    """For each chain with an interior step: the intact trace, the chain without that step, and its true seam.

    With ``limit``, the chains with the smallest hash of their id: the same ones in every order.
    """
    found = [(trace, removable(trace, seed)) for trace in traces]
    chosen = [(trace, index) for trace, index in found if index is not None]
    chosen.sort(key=lambda pair: content_key("calibration", pair[0].chain.id, seed))
    return [(trace, without_step(Segmented(trace.chain, trace.steps), index), index) for trace, index in chosen[:limit]]


DIVISIONS = 3
"""Divisions of the chains into folds over which a combination's AUC is averaged."""
MORE_CHAINS = 2_000
"""Further chains from which the scores without a model are weighed; they are shortened, not measured."""


def calibrate(
    traces: Iterable[Trace],
    scorer: Scorer | None = None,
    *,
    limit: int | None = 300,
    more: Iterable[Segmented] = (),
    seed: int = 0,
    block: int = 32,
) -> Calibration:
    """AUC of every seam score on this corpus, by removing one interior step of up to ``limit`` chains.

    Without a scorer only the scores that need no model are calibrated; the others are withheld. The scorer must be the
    instrument of the traces (UsageError otherwise). Combinations are cross-validated by chain; intervals resample chains.
    The weights of the scores without a model are learnt from up to :data:`MORE_CHAINS` further chains too: the
    traces beyond ``limit``, and ``more`` chains that no model has measured. No AUC is taken on those.
    """
    corpus = sorted(one_instrument(traces), key=lambda trace: trace.chain.id)
    run = corpus[0].run if corpus else ""
    if scorer is not None and corpus and scorer.run.id != run:
        raise UsageError(
            f"calibration was asked for with {scorer.run.model} (run {scorer.run.id}), the traces were measured by run {run}: "
            "give the model of that run with --model"
        )
    every = shortened(corpus, seed=seed)
    cases, rest = every[:limit], every[limit:] if limit is not None else []
    if len(cases) < MIN_CHAINS:
        reason = (
            f"{part_of(len(cases), len(corpus), 'chain', 'has', 'have')} four steps or more, a calibration "
            f"needs {MIN_CHAINS}: ingest more"
        )
        return Calibration(run, len(cases), (), (), (), tuple(Withheld(name, reason) for name in (*NAMES, "all")))
    known = background(corpus)
    measured: Iterator[Trace | Segmented] = iter(item for _, item, _ in cases)
    if scorer is not None:
        measured = _measured([item for _, item, _ in cases], scorer, block)
    entries = []
    nats, guess, tokens = [], [], []
    for number, ((intact, item, seam), new) in enumerate(zip(cases, measured, strict=True)):
        if isinstance(new, Trace):
            scores = seam_scores(new, known, intact)
            a, b = (int(x) for x in new.step_tokens[seam])
            c, d = (int(x) for x in intact.step_tokens[seam + 1])
            nats.append(float(np.nansum(new.surprisal[a:b]) - np.nansum(intact.surprisal[c:d])))
            guess.append(float(scores["bridge_nats"][seam]))
            tokens.append(float(intact.step_tokens[seam, 1] - intact.step_tokens[seam, 0]))
        else:
            scores = unmeasured_scores(item, known, intact.steps)
        entries.append((scores, number, seam))
    seen = {trace.chain.id for trace in corpus}
    spare = [(item, index) for item in more if item.chain.id not in seen and (index := _removable(item, seed))]
    others = [(item, seam, intact.steps) for intact, item, seam in rest]
    others += [(without_step(item, index), index, ()) for item, index in spare]
    learnt_from = [(intact.chain.id, seam) for intact, _, seam in rest] + [(item.chain.id, at) for item, at in spare]
    others = others[:MORE_CHAINS]
    learnt = seam_table(
        (unmeasured_scores(item, known, steps), number, seam) for number, (item, seam, steps) in enumerate(others)
    )
    places = [(intact.chain.id, seam) for intact, _, seam in cases]
    found = _calibration(seam_table(entries), learnt, run, places, scorer is not None, (nats, guess, tokens), seed)
    return replace(found, learnt=tuple(Removed(chain, seam) for chain, seam in learnt_from[:MORE_CHAINS]))


def _measured(items: Sequence[Segmented], scorer: Scorer, block: int) -> Iterator[Trace]:
    options = MeasureOptions(premises=True)
    for a in range(0, len(items), block):
        yield from scorer.measure(items[a : a + block], options)


def _calibration(
    table: SeamTable,
    learnt: SeamTable,
    run: str,
    places: Sequence[tuple[str, int]],
    with_model: bool,
    sizes: tuple[list[float], list[float], list[float]],
    seed: int,
) -> Calibration:
    def judged(values: Doubles) -> tuple[float, Doubles]:
        _, per_chain = within_group_auc(values, table.true, table.chain)
        return float(per_chain.mean()), per_chain

    def repeated(fit: Callable[[int], Doubles]) -> tuple[float, Doubles]:
        """AUC of out-of-fold values, mean over several divisions into folds: one alone moves it by 0.01."""
        per_chain = np.mean([judged(fit(seed + number))[1] for number in range(DIVISIONS)], axis=0)
        return float(per_chain.mean()), per_chain

    def columns(of: SeamTable, names: Sequence[str], *, shuffle: bool = False) -> Doubles:
        rng = np.random.default_rng(seed)
        found = []
        for name in names:
            values = of.values[name]
            if shuffle:
                order = np.lexsort((rng.random(len(values)), of.chain))
                moved = np.empty_like(values)
                moved[np.argsort(of.chain, kind="stable")] = values[order]
                values = moved
            found.append(ranked_in_chain(values, of.chain))
        return np.stack(found, axis=1)

    plain = [name for name in NO_MODEL if np.isfinite(table.values[name]).any()]
    text_columns = columns(table, plain)
    more: Rows | None = (columns(learnt, plain), learnt.true, learnt.chain) if len(learnt.chain) else None

    relative = table.step / np.maximum(table.last, 1)
    shape = np.stack(
        [centred(x, table.chain) for x in (relative, relative**2, (table.step == 1).astype(np.float64))], axis=1
    )
    position, position_chains = repeated(lambda s: cross_validated_choice(shape, table.true, table.chain, seed=s))
    text, text_chains = repeated(
        lambda s: cross_validated_choice(text_columns, table.true, table.chain, seed=s, more=more)
    )
    removed = f"an interior step of each of {counted(len(places), 'chain')} of four steps or more removed, seed {seed}"
    divided = f"mean of {DIVISIONS} divisions into {FOLDS} folds of chains, seeds {seed} to {seed + DIVISIONS - 1}"
    fitted = f"{removed}; conditional logit out of fold, {divided}"
    again = how_resampled(seed=seed)
    baselines = (
        Control(POSITION, position, bootstrap(position_chains, seed=seed), f"{fitted}; {again}"),
        Control("no model (all its scores)", text, bootstrap(text_chains, seed=seed), f"{fitted}; {again}"),
    )
    unit = "AUC within the chain"
    scores: list[Score] = []
    withheld: list[Withheld] = []
    usable: list[str] = []
    each: dict[str, Doubles] = {POSITION: position_chains, "no model": text_chains}
    for name in NAMES:
        if not np.isfinite(table.values[name]).any():
            if name in MODEL and not with_model:
                reason = "needs the model on shortened chains, run: trails gaps --calibrate"
            else:
                reason = "not defined anywhere in these chains (no values, no premises measured, or no attention)"
            withheld.append(Withheld(name, reason))
            continue
        usable.append(name)
        value, each[name] = judged(table.values[name])
        own = f"{removed}; {again}"
        scores.append(Score(name, value, unit, baselines, bootstrap(each[name], seed=seed), how=own))
    scores.append(
        Score("no model", text, unit, baselines[:1], bootstrap(text_chains, seed=seed), how=f"{fitted}; {again}")
    )
    best, features = "no model", tuple(plain)
    if with_model:
        model_names = [name for name in usable if name in MODEL]
        model_columns = columns(table, model_names)
        model, model_chains = repeated(lambda s: cross_validated_choice(model_columns, table.true, table.chain, seed=s))

        def stacked(second: Doubles) -> tuple[float, Doubles]:
            return repeated(
                lambda s: cross_validated_stack(text_columns, second, table.true, table.chain, seed=s, more=more)
            )

        everything, all_chains = stacked(model_columns)
        _, null_chains = stacked(columns(table, model_names, shuffle=True))
        combined = f"{fitted}; {again}"
        scores.append(Score("model", model, unit, baselines, bootstrap(model_chains, seed=seed), how=combined))
        scores.append(Score("all", everything, unit, baselines, bootstrap(all_chains, seed=seed), how=combined))
        each |= {"model": model_chains, "all": all_chains}
        share = all_chains - text_chains
        null = null_chains - text_chains
        scores.append(
            Score(
                "model's own share",
                float(share.mean()),
                "AUC of all minus AUC without a model",
                (
                    Control(
                        "the model's scores shuffled within the chain",
                        float(null.mean()),
                        bootstrap(null, seed=seed),
                        f"one shuffle of every score, seed {seed}; {combined}",
                    ),
                ),
                bootstrap(share, seed=seed),
                how=combined,
            )
        )
        nats, guess, tokens = sizes
        size, length = spearman(guess, nats), spearman(tokens, nats)
        if math.isfinite(size) and math.isfinite(length):
            pairs = np.stack([guess, nats], axis=1)
            scores.append(
                Score(
                    SIZE,
                    size,
                    "rank correlation",
                    (Control("length of the removed step", length, how="the same chains, nothing drawn"),),
                    bootstrap(pairs, lambda rows: spearman(rows[:, 0], rows[:, 1]), draws=200, seed=seed),
                    f"mean of the true size: {float(np.mean(nats)):.2f} nats",
                    f"{removed}; {how_resampled(draws=200, seed=seed)}",
                )
            )
        worth = {"no model": text, "all": everything, "model": model}
        best = max(worth, key=lambda name: worth[name])
    if best == "all":
        features = tuple(usable)
        weights = fit_stacked(text_columns, model_columns, table.true, table.chain, seed=seed, more=more)
    else:
        rows: Rows = joined_rows((text_columns, table.true, table.chain), more)
        if best == "model":
            features, rows = tuple(model_names), (model_columns, table.true, table.chain)
        weights = fit_choice(*rows, choose_ridge(*rows, seed=seed))
    weighed = tuple(float(weight) for weight in weights)
    taken = tuple(
        Removed(chain, step, {name: float(values[number]) for name, values in each.items()})
        for number, (chain, step) in enumerate(places)
    )
    return Calibration(run, len(places), features, weighed, tuple(scores), tuple(withheld), best, taken)


def ranked_in_chain(values: Doubles, chain: Longs) -> Doubles:
    """Ranks within the chain, from -0.5 to 0.5, undefined values in the middle: what the combinations are made of."""
    return within_group_ranks(values, chain) - 0.5
