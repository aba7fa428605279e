"""The report of an experiment in Markdown: what was claimed, what was measured in every arm, and what came of each claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trails.experiments.base import (
    Experiment,
    Interval,
    Judged,
    Record,
    judge,
    looked,
    paired,
    smallest_effect,
    t_interval,
)
from trails.experiments.criteria import judged


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
    """The report at the latest planned look that ``records`` reach, after what is corrected of earlier versions."""
    scale = str(plan.get("scale", {}).get("name", "full"))
    seeds = looked(experiment, records)
    records = [r for r in records if int(r["seed"]) in seeds]
    number = f"Experiment {experiment.number}: " if experiment.number else "Experiment: "
    lines = [f"# {number}{experiment.title}", "", *corrected(experiment)]
    lines += [f"Claim, written down before the first run: {experiment.hypothesis}", "", "## Result", ""]
    verdicts = judge(experiment, records, scale)
    for verdict in verdicts:
        lines.append(f"- **{verdict.claim.name}** ({verdict.claim.kind}): {verdict.sentence}")
    units, chains = paired(experiment, records, seeds)
    effect = smallest_effect(len(set(chains)) or len(seeds), experiment.level)
    unit = "" if experiment.unit == "seed" else f" (each a {experiment.unit})"
    how = "paired by seed, {} % t intervals."
    if experiment.texts:
        how = f"paired by text: {len(units)} texts of {len(set(chains))} chains, {{}} % intervals of a bootstrap over chains."
    lines += ["", f"{len(seeds)} seeds{unit}, {how.format(f'{100 * experiment.level:g}')}"]
    if math.isfinite(effect):
        lines.append(
            f"A difference of {effect:.2f} standard deviations would be found with 80 % probability; *smallest effect* "
            f"below is "
            "that number in the metric's unit."
        )
    lines.append("")
    rows = []
    for verdict in verdicts:
        rows += [[verdict.claim.name, *_criterion(one, effect)] for one in verdict.judged]
    controls = [*((c, "positive control") for c in experiment.positive), *((c, "placebo") for c in experiment.placebo)]
    for criterion, word in controls:
        (one,) = judged((criterion,), units, experiment.level, chains)
        cells = _criterion(one, effect)
        if word == "placebo":
            apart = one.state != "none" and (one.interval.low > 0 or one.interval.high < 0)
            cells[-1] = "differs" if apart else "no difference seen"
        else:
            cells[-1] = "seen" if one.state == "met" else "not seen"
        rows.append([f"*{word}*", *cells])
    header = [
        "claim",
        "kind",
        "metric",
        "treatment",
        "against",
        f"difference, {100 * experiment.level:g} %",
        "δ",
        "smallest effect",
    ]
    lines += _table([*header, "criterion"], rows)
    rates_apart = _rates_apart(experiment, plan)
    if rates_apart:
        lines += ["", rates_apart]
    lines += ["", "## Arms", ""]
    lines += _table(["arm", "what it is"], [[arm.name, arm.meaning] for arm in experiment.arms])
    names = list(experiment.metrics)
    lines += ["", f"Mean over seeds with {100 * experiment.level:g} % t interval.", ""]
    lines += _table(
        ["metric", *(arm.name for arm in experiment.arms)],
        [
            [
                name,
                *(
                    _cell(t_interval([m[arm.name].get(name, math.nan) for m in seeds.values()], experiment.level))
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
        for k in (
            "model",
            "members",
            "layers",
            "parameters",
            "precision",
            "scale",
            "data",
            "roles",
            "code",
            "packages",
            "learning rates",
        )
        if k in plan
    }
    lines += [f"- {key}: {_words(value)}" for key, value in shown.items()]
    devices = sorted({str(r["device"]) for r in records if "device" in r})
    if devices:
        spent = sum(float(r["seconds"]) for r in records) / 60
        lines.append(f"- cost: {spent:.1f} minutes of {', '.join(devices)}, development not counted")
    lines += _sizes(plan)
    lines += [f"- {key}: {_words(value)}" for key, value in experiment.settings.items()]
    several = "Small models; nothing here says that larger ones behave alike."
    single = "One small model; nothing here says that a larger one behaves alike."
    lines += [f"- {experiment.limits}", f"- {several if 'members' in plan else single}", ""]
    lines += [
        "Run it again:",
        "",
        f"    trails experiment {experiment.name} --data FOLDER --out FOLDER"
        + " --member MODEL" * len(plan.get("members", ())),
        "",
    ]
    return "\n".join(lines)


def pending(experiment: Experiment) -> str:
    """The page of an experiment that has not been run, or not again since it was corrected."""
    number = f"Experiment {experiment.number}: " if experiment.number else "Experiment: "
    lines = [f"# {number}{experiment.title}", "", *corrected(experiment)]
    again = "It has not been run again under the present rules: no verdict stands beyond what is said above."
    lines += [
        again if experiment.correction else "It has not been run under the present rules: there is no verdict.",
        "",
    ]
    count, unit = (experiment.texts, "texts") if experiment.texts else (experiment.looks[0], "seeds")
    effect = smallest_effect(count, experiment.level)
    lines += ["## What is to be judged", "", experiment.hypothesis, ""]
    for claim in experiment.claims:
        deltas = ", ".join(dict.fromkeys(f"{c.metric} {c.delta:g}" for c in claim.criteria))
        lines.append(f"- **{claim.name}** ({claim.kind}): {claim.sentence}. Smallest effect of interest: {deltas}.")
    found = f"{count} {unit} find a difference of {effect:.2f} standard deviations with 80 % probability"
    lines += ["", f"{found}; `trails experiment {experiment.name} --power` prints what that is and costs.", ""]
    return "\n".join(lines)


def corrected(experiment: Experiment) -> list[str]:
    """What is corrected of earlier versions of the experiment, as lines; none if nothing is."""
    found = experiment.correction
    if found is None:
        return []
    return [
        "## Correction",
        "",
        f"- **What was claimed**: {found.claimed}",
        f"- **What is withdrawn**: {found.withdrawn}",
        f"- **What stands**: {found.stands}",
        "",
        f"The earlier page with its plan and rows: [archive/{experiment.name}.md](archive/{experiment.name}.md).",
        "",
    ]


def _criterion(one: Judged, effect: float) -> list[str]:
    c = one.criterion
    against = c.control or f"{c.against:g}"
    if c.null:
        against += f", beyond {c.null[0]} − {c.null[1]}"
    least = f"{effect * one.sd:.4f}" if math.isfinite(effect * one.sd) else "—"
    state = {"none": "no difference worth having"}.get(one.state, one.state)
    kind = f"{c.kind}, {c.direction}" if c.kind != "equivalent" else c.kind
    return [kind, c.metric, c.treatment, against, _cell(one.interval), f"{c.delta:g}", least, state]


def index_table(found: Mapping[str, Sequence[Record] | None]) -> str:
    """The table of the index from the rows of every experiment (None: not run under the present rules): verdict, kind, seeds, δ
    and smallest effect of the criterion that is hardest to see.
    """
    from trails.experiments import experiments

    rows = []
    for name, experiment in experiments().items():
        link = f"[{name}]({name}.md)"
        records = found.get(name)
        if records is None:
            state = "withdrawn or open, see the page" if experiment.correction else "not run yet"
            rows.append([link, experiment.title, "", f"not run under the present rules: {state}", "0", "", ""])
            continue
        seeds = looked(experiment, records)
        _, chains = paired(experiment, records, seeds)
        effect = smallest_effect(len(set(chains)) or len(seeds), experiment.level)
        for verdict in judge(experiment, records):
            known = [one for one in verdict.judged if math.isfinite(one.sd)]
            hardest = max(known, key=lambda one: one.sd / one.criterion.delta, default=verdict.judged[0])
            least = f"{effect * hardest.sd:.3g}" if math.isfinite(effect * hardest.sd) else "—"
            told = OUTCOMES[verdict.outcome] + (f": {verdict.reason}" if verdict.reason else "")
            cells = [link, verdict.claim.sentence, verdict.claim.kind, told, str(len(set(chains)) or len(seeds))]
            rows.append([*cells, f"{hardest.criterion.delta:g}", least])
    header = ["experiment", "claim", "kind", "verdict", "n", "δ", "smallest effect"]
    return "\n".join(_table(header, rows))


def failed_table(found: Mapping[str, Sequence[Record] | None]) -> str:
    """The table of the page of limits: every claim that did not hold, with the figures of the first criterion that decided."""
    from trails.experiments import experiments

    rows = []
    for name, experiment in experiments().items():
        for verdict in judge(experiment, records) if (records := found.get(name)) is not None else ():
            if verdict.outcome in ("did not hold", "no difference"):
                first, *others = verdict.decided
                more = (
                    "; another criterion failed, too" if len(others) == 1 else "; others failed, too" if others else ""
                )
                told = f"{OUTCOMES[verdict.outcome].replace('**not**', 'not')}. {first}{more}"
                rows.append([verdict.claim.sentence, told, f"[{name}](experiments/{name}.md)"])
    return "\n".join(_table(["idea", "what came out", "where"], rows))


SEVENTEEN = (
    # experiment, claim of the first version, what was the matter, the claim that stands for it now
    ("minimal-step", "safer", "rested on an arm that did not match", "safer"),
    ("minimal-step", "no worse than repeating", "used the criteria of the others again", "no worse than repeating"),
    ("anchor", "anchor", "open", "anchor"),
    ("anchor", "jump", "open", "jump"),
    ("same-loss", "different inside", "could not fail", "no more than a random edit"),
    ("same-loss", "beyond a random edit", "open", "beyond a random edit"),
    ("same-loss", "meaning shows", "open", "meaning shows"),
    ("volatility", "repetition", "open", "repetition"),
    ("volatility", "entropy", "followed from noise in the labels", "entropy"),
    ("capture", "captured", "planned after its result, without the null that it fails", "captured"),
    ("capture", "more than words", "planned after its result, without likelihoods", "more than words"),
    ("capture", "calibrated", "could not fail", "calibrated elsewhere"),
    ("capture", "not by connectives", "could not fail", "not by connectives"),
    ("cheap-paths", "cheap", "the paths were not equally frequent", "cheaper than untrained paths"),
    ("cheap-paths", "order", "open", "order"),
    ("mask-order", "rising order", "open, on different data", "rising order"),
    ("mask-order", "rhythm", "open, on different data", "rhythm"),
)
"""Claims of the first version that were left open or did not mean what they said."""


def first_claims(found: Mapping[str, Sequence[Record] | None]) -> str:
    """What became of :data:`SEVENTEEN`: their number decided (held, did not hold, no difference), and a table."""
    from trails.experiments import experiments

    rows, decided = [], 0
    for name, claim, matter, now in SEVENTEEN:
        records = found.get(name)
        verdicts = {v.claim.name: v for v in judge(experiments()[name], records)} if records is not None else {}
        outcome = verdicts[now].outcome if verdicts else ""
        decided += outcome in ("held", "did not hold", "no difference")
        rows.append([f"[{name}]({name}.md)", claim, matter, now, OUTCOMES[outcome] if outcome else "not run"])
    header = ["experiment", "claim then", "what was the matter", "claim now", "verdict now"]
    told = f"{decided} of these {len(SEVENTEEN)} are decided now; the others stayed open or are still to be run again."
    return "\n".join([told, "", *_table(header, rows)])


OUTCOMES = {
    "held": "**held**",
    "did not hold": "did **not** hold",
    "no difference": "did **not** hold: no difference worth having",
    "open": "open",
    "withheld": "not judged",
}


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _sizes(plan: Mapping[str, Any]) -> list[str]:
    """Realised sizes of the sets, from the plan: chains and tokens, least to largest over the seeds."""
    seeds = [found["sizes"] for found in plan.get("seeds", {}).values()]
    lines = []
    for name in seeds[0] if seeds else ():
        spans = []
        for what in ("chains", "tokens"):
            values = [one[name][what] for one in seeds]
            low, high = min(values), max(values)
            spans.append(f"{low:,} {what}" if low == high else f"{low:,} to {high:,} {what}")
        lines.append(f"- {name}: {', '.join(spans)} per seed")
    return lines


def _rates_apart(experiment: Experiment, plan: Mapping[str, Any]) -> str:
    """A sentence on the arms that are compared with each other at different learning rates; empty where none are."""
    rates = plan.get("learning rates", {})
    pairs = {
        frozenset((one.treatment, one.control)): (one.treatment, one.control)
        for claim in experiment.claims
        for one in claim.criteria
        if rates.get(one.treatment, 0.0) != rates.get(one.control, rates.get(one.treatment, 0.0))
    }
    if not pairs:
        return ""
    told = "; ".join(f"{a} {rates[a]:g} against {b} {rates[b]:g}" for a, b in pairs.values())
    return (
        f"Compared at different learning rates, each arm's own best on the development seeds: {told}. Such a difference is "
        "one of arm and rate together."
    )


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
