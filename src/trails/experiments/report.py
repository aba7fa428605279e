"""The report of an experiment in Markdown: what was claimed, what was measured in every arm, and what came of each claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trails.experiments.base import Experiment, Interval, Record, by_seed, judge, t_interval


def _cell(interval: Interval) -> str:
    if not interval.n:
        return "—"
    digits = 0 if abs(interval.mean) >= 1000 else 4
    shown = f"{interval.mean:,.{digits}f}"
    if not math.isfinite(interval.low) or interval.high == interval.low:
        return shown
    return f"{shown} [{interval.low:,.{digits}f}, {interval.high:,.{digits}f}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def markdown(experiment: Experiment, records: Sequence[Record], plan: Mapping[str, Any], digest: str) -> str:
    """The report of the complete seeds among ``records`` (those with every arm)."""
    seeds = by_seed(experiment, records)
    number = f"Experiment {experiment.number}: " if experiment.number else "Experiment: "
    lines = [
        f"# {number}{experiment.title}",
        "",
        f"Claim, written down before the first run: {experiment.hypothesis}",
        "",
    ]
    lines += ["## Result", ""]
    if len(seeds) < 2:
        lines += [f"Not enough data: {len(seeds)} complete seeds, at least 2 are needed for a paired interval.", ""]
    else:
        verdicts = judge(experiment, records)
        for verdict in verdicts:
            lines.append(f"- **{verdict.claim.name}**: {verdict.sentence}")
        lines += ["", f"{len(seeds)} seeds, paired by seed, 95 % t intervals.", ""]
        rows = []
        for verdict in verdicts:
            for judged in verdict.judged:
                c = judged.criterion
                against = c.control or "0"
                if c.null:
                    against += f", beyond {c.null[0]} − {c.null[1]}"
                bound = -c.threshold if c.direction == "lower" and c.threshold else c.threshold
                sign = "<" if c.direction == "lower" else ">"
                wanted = f"{sign} {bound:g}" if c.role == "primary" else f"not wholly {'><'[sign == '>']} {bound:g}"
                rows.append(
                    [
                        verdict.claim.name,
                        c.role,
                        c.metric,
                        c.treatment,
                        against,
                        _cell(judged.interval),
                        wanted,
                        judged.state,
                    ]
                )
        lines += _table(
            ["claim", "role", "metric", "treatment", "against", "difference, 95 %", "wanted", "criterion"], rows
        )
    lines += ["", "## Arms", ""]
    lines += _table(["arm", "what it is"], [[arm.name, arm.meaning] for arm in experiment.arms])
    names = list(experiment.metrics)
    lines += ["", "Mean over seeds with 95 % t interval.", ""]
    lines += _table(
        ["metric", *(arm.name for arm in experiment.arms)],
        [
            [
                name,
                *(
                    _cell(t_interval([m[arm.name].get(name, math.nan) for m in seeds.values()]))
                    for arm in experiment.arms
                ),
            ]
            for name in names
        ],
    )
    tokens = _tokens(experiment, records)
    if tokens:
        lines += ["", "Tokens fed, mean over seeds: " + ", ".join(f"{arm} {n:,.0f}" for arm, n in tokens.items()) + "."]
    for metric, meaning in experiment.curve.items():
        lines += ["", f"### {metric} by step: {meaning}", ""]
        lines += _curve(experiment, records, metric)
    lines += ["", "What the metrics mean:", ""]
    lines += [f"- `{name}`: {meaning}" for name, meaning in experiment.metrics.items()]
    lines += ["", "## Circumstances and limits", ""]
    lines += [
        f"- plan `{digest}`, registered before the first run (first line of results.jsonl that names the experiment)"
    ]
    shown = {
        k: plan[k]
        for k in ("model", "layers", "parameters", "hardware", "precision", "scale", "data", "roles")
        if k in plan
    }
    lines += [f"- {key}: {_words(value)}" for key, value in shown.items()]
    lines += [f"- {key}: {_words(value)}" for key, value in experiment.settings.items()]
    lines += [f"- {experiment.limits}", "- One small model; nothing here says that a larger one behaves alike.", ""]
    lines += [
        "Run it again:",
        "",
        f"    trails experiment {experiment.name} --seeds {max(len(seeds), 5)} --data FOLDER --out FOLDER",
        "",
    ]
    return "\n".join(lines)


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tokens(experiment: Experiment, records: Sequence[Record]) -> dict[str, float]:
    found: dict[str, float] = {}
    for arm in experiment.arms:
        values = [float(r["tokens"]) for r in records if r["arm"] == arm.name and "tokens" in r]
        if values:
            found[arm.name] = sum(values) / len(values)
    return found


def _curve(experiment: Experiment, records: Sequence[Record], metric: str) -> list[str]:
    by_arm: dict[str, dict[float, list[float]]] = {}
    for record in records:
        for point in record.get("curve", ()):
            if point.get(metric) is not None:
                by_arm.setdefault(str(record["arm"]), {}).setdefault(float(point["step"]), []).append(
                    float(point[metric])
                )
    steps = sorted({step for points in by_arm.values() for step in points})
    rows = []
    for arm in experiment.arms:
        points = by_arm.get(arm.name, {})
        rows.append([arm.name, *(_cell(t_interval(points.get(step, []))) for step in steps)])
    return _table(["arm", *(f"{step:g}" for step in steps)], rows)
