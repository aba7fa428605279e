"""What a training changed: two runs compared, the noise floor measured, and a light look at every checkpoint."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from typing import Any

import pyarrow as pa

from trails.analyses.report import Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.statistics import how_resampled
from trails.evaluate.diff import GROUPS, INTERVAL_DRAWS, LEGENDS, DiffReport, compare, repetition_alarm, verdict
from trails.evaluate.groups import COMPARED, Fed
from trails.evaluate.probe import chain_kl, chain_nll, continuations, probe, repetition
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.huggingface import HuggingFaceScorer
from trails.platform.text import counted
from trails.schema import Trace
from trails.train import check_adapter, put_adapter
from trails.train.check import check_base, read_json
from trails.train.data import Row

PROMPT, CONTINUATION = 32, 48
"""Tokens given and tokens decoded where the repetition of greedy text is measured."""

CONTINUED = 2
"""Chains of each group from which greedy text is decoded."""

MAX_TOKENS = 1024
"""Chains are cut to so many tokens for the look at checkpoints."""


_TITLES = {
    "groups": "surprisal by group, nats per token",
    "layers": "mean absolute change of hidden_shift and attention_shift by layer",
    "easier": "transitions that became easier",
    "harder": "transitions that became harder",
    "checkpoints": "by checkpoint (0 = base)",
}
_MOVED = {
    "token": "token",
    "context": "text before it",
    "piece": "its text",
    "group": "group",
    "before": "surprisal before, nats",
    "after": "after",
}
_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "groups": {
        "group": "group",
        "chains": "chains",
        "tokens": "tokens",
        "before": "before",
        "after": "after",
        "surprisal": "change",
        "low": "its low",
        "high": "its high",
        "entropy": "change of entropy",
        "easier": "share easier",
        "harder": "share harder",
    },
    "layers": {
        "layer": "layer",
        "hidden": "hidden shift",
        "hidden_noise": "noise floor of hidden shift",
        "attention": "attention shift",
        "attention_noise": "noise floor of attention shift",
    },
    "easier": _MOVED,
    "harder": _MOVED,
}
"""Headings of the tables of a comparison, as its page shows them."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What a training changed: the paired comparison of two runs, and what a light look at every checkpoint showed.

    A row of ``checkpoints`` has ``step`` (0 = base), ``surprisal GROUP`` and ``kl GROUP`` (nats per token, the mean over the
    chains looked at of each chain's mean, as in the comparison of the runs) and ``repetition`` (share of repeated 4-grams
    of greedy text). ``chains`` are those looked at, by group. ``alarms`` are collapses, in words.
    """

    report: DiffReport
    checkpoints: tuple[Mapping[str, Any], ...]
    alarms: tuple[str, ...]
    chains: Mapping[str, int]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the columns mean, of every table that there is, and what was left out."""
        report = self.report
        there = {"groups": True, "layers": bool(report.layers), "checkpoints": bool(self.checkpoints)}
        notes = tuple(LEGENDS[name] for name, shown in there.items() if shown)
        if report.missing:
            left = counted(report.missing, "chain was", "chains were")
            notes += (f"{left} measured by run {report.before} and not by {report.after}: left out",)
        if report.behind:
            left = counted(report.behind, "token lies", "tokens lie")
            notes += (f"{left} behind the cut of the training (--max-tokens), so in no group: not trained",)
        if never := next((group.chains for group in report.groups if group.group == "not_fed"), 0):
            notes += (
                f"not_fed: {counted(never, 'chain')} of the export that the training ended before, or cut to nothing",
            )
        if any(group.group == COMPARED for group in report.groups):
            notes += (f"{COMPARED}: without --export nothing says whether a training saw these chains",)
        return notes

    def verdicts(self) -> list[str]:
        """The alarms, then a sentence about every group: what a reader has to know first."""
        report = self.report
        return [f"alarm: {alarm}" for alarm in self.alarms] + [
            verdict(group, report.noise_mean) for group in report.groups
        ]

    def looked_at(self) -> str:
        """The heading of the checkpoints: over which chains they were looked at."""
        looked = ", ".join(f"{count} {group}" for group, count in self.chains.items())
        return _TITLES["checkpoints"] + (f", over the chains looked at ({looked})" if looked else "")

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        report = self.report
        rows = {
            name: [{n: getattr(row, n) for n in row.__slots__} for row in getattr(report, name)]
            for name in ("groups", "layers", "easier", "harder")
        }
        return {
            "before": report.before,
            "after": report.after,
            "noise": report.noise,
            "noise_mean": report.noise_mean,
            **rows,
            "checkpoints": [dict(row) for row in self.checkpoints],
            "checkpoint_chains": dict(self.chains),
            "missing": report.missing,
            "tokens_behind_the_cut": report.behind,
            "notes": list(self.notes),
            "alarms": list(self.alarms),
        }

    def told(self) -> Report:
        """The comparison as a report. A change of a group stands beside the noise floor; where that was not measured, the
        change is withheld and only its row is given."""
        report, rows = self.report, self.record()
        changes = [group for group in report.groups if math.isfinite(group.surprisal)]
        measured = math.isfinite(report.noise_mean)
        scores = tuple(
            Score(
                f"change of surprisal, {group.group}",
                group.surprisal,
                "nats per token",
                (
                    Control(
                        "the same model measured twice, mean", report.noise_mean, how="measured on some of the chains"
                    ),
                ),
                (group.low, group.high) if math.isfinite(group.low) else None,
                how=how_resampled(draws=INTERVAL_DRAWS),
            )
            for group in changes
            if measured
        )
        reason = "no noise floor was measured; give --noise 8"
        withheld = tuple(Withheld(f"change of surprisal, {g.group}", reason) for g in changes if not measured)
        tables = tuple(
            ReportTable(
                name,
                pa.Table.from_pylist(rows[name]),
                self.looked_at() if name == "checkpoints" else title,
                _COLUMNS.get(name, {}),
            )
            for name, title in _TITLES.items()
            if rows[name]
        )
        return Report(
            "diff",
            "; ".join(self.verdicts()) or "no chain was compared",
            facts={
                "before": report.before,
                "after": report.after,
                "noise": report.noise if measured else None,
                "noise_mean": report.noise_mean if measured else None,
            },
            tables=tables,
            scores=scores,
            withheld=withheld,
            notes=self.notes,
        )


def difference(
    before: Callable[[], Iterable[Trace]],
    after: Iterable[Trace],
    groups: Mapping[str, str],
    base: Callable[[], HuggingFaceScorer],
    *,
    adapter: Path | None = None,
    noise: int = 8,
    kl: int = 16,
    checkpoints: bool = False,
    top: int = 20,
    fed: Fed | None = None,
) -> Difference:
    """Compare two runs by their traces. ``base`` gives the model of ``before``; it is asked for only when ``noise`` chains are
    to be measured once more, or an ``adapter`` is to be looked at on ``kl`` chains of each group, in the frame of the run.
    ``fed`` says what the training was fed of its export.

    Raises ModelError when the adapter was trained on another model.
    """
    again: Sequence[Trace] = ()
    scorer = base() if noise or (adapter is not None and kl) else None
    if scorer is not None and noise:
        # together in batches, where the run measured them one by one
        items = [Segmented(trace.chain, trace.steps) for trace in nsmallest(noise, before(), key=_id)]
        again = scorer.measure(items, MeasureOptions(batch_tokens=4096))
    report = compare(before(), after, groups, again=again, first_fed=fed.first if fed else None, top=top)
    rows: list[dict[str, Any]] = []
    chosen: dict[str, list[Row]] = {}
    if scorer is not None and adapter is not None and kl:
        check_base(adapter, scorer.run)
        chosen = _chosen(scorer, before(), groups, kl, fed.max_tokens if fed else 0)
        rows = _by_checkpoint(scorer, adapter, chosen, checkpoints)
    alarms = list(report.alarms)
    if rows:
        continued = sum(len(of[:CONTINUED]) for of in chosen.values())
        if alarm := repetition_alarm(rows[0]["repetition"], rows[-1]["repetition"], continued):
            alarms.append(alarm)
    return Difference(report, tuple(rows), tuple(alarms), {group: len(found) for group, found in chosen.items()})


def _chosen(
    scorer: HuggingFaceScorer, traces: Iterable[Trace], groups: Mapping[str, str], count: int, fed: int = 0
) -> dict[str, list[Row]]:
    """The ``count`` chains with the smallest ids of every group as the run measured them, in their context, cut to
    :data:`MAX_TOKENS`, trained ones to the ``fed`` tokens of the training (0: whole). Chains may come in any order.
    """
    chosen: dict[str, list[tuple[str, Row]]] = {}
    for trace in traces:
        group = groups.get(trace.chain.id, COMPARED)
        rows = chosen.setdefault(group, [])
        if len(rows) < count or trace.chain.id < rows[-1][0]:
            longest = min(MAX_TOKENS, fed) if fed and group == "trained" else MAX_TOKENS
            row = scorer.contexts.row(Segmented(trace.chain, trace.steps), max_tokens=longest)
            if row.labelled_from < row.length:
                insort(rows, (trace.chain.id, row.record()), key=lambda one: one[0])
                del rows[count:]
    return {group: [row for _, row in chosen[group]] for group in sorted(chosen, key=GROUPS.index) if chosen[group]}


def _id(trace: Trace) -> str:
    return trace.chain.id


def _by_checkpoint(
    scorer: HuggingFaceScorer, adapter: Path, chosen: Mapping[str, Sequence[Row]], checkpoints: bool
) -> list[dict[str, Any]]:
    """Surprisal by group, KL from the base and repetition, for the base, every checkpoint and the adapter."""
    folders = {}
    if checkpoints:
        folders = {int(p.name.rpartition("-")[2]): p for p in (adapter / "checkpoints").glob("checkpoint-*")}
    record = read_json(adapter / "train.json") or {}
    folders[int(record.get("steps", 1))] = adapter
    prompts = [row["input_ids"][:PROMPT] for rows in chosen.values() for row in rows[:CONTINUED]]
    repeated = _repetition(scorer.model.module, prompts)
    found: list[dict[str, Any]] = [{"step": 0}]
    current: Any = scorer.model.module
    for step, folder in sorted(folders.items()):
        current = put_adapter(current, check_adapter(folder), f"s{step}")
        row: dict[str, Any] = {"step": step}
        for group, rows in chosen.items():
            probes = probe(current, rows, compare=True)
            if len(found) == 1:  # the comparison has measured the base, too
                found[0] |= {f"surprisal {group}": chain_nll(probes, base=True), f"kl {group}": 0.0}
            row |= {f"surprisal {group}": chain_nll(probes), f"kl {group}": chain_kl(probes)}
        row["repetition"] = _repetition(current, prompts)
        found.append(row)
    found[0]["repetition"] = repeated
    return found


def _repetition(model: Any, prompts: Sequence[Sequence[int]]) -> float:
    """Mean repetition of the greedy text after the prompts."""
    made = continuations(model, prompts, CONTINUATION)
    return sum(map(repetition, made)) / max(len(made), 1)
