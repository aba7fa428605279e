"""The report of an experiment in Markdown: what was claimed, what was measured in every arm, and what came of each claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trails.experiments import committed
from trails.experiments.base import (
    SHARE,
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
from trails.experiments.criteria import DRAW_SEED, DRAWS, SMALL, Verdict, cluster_interval, difference, judged
from trails.experiments.rates import Elsewhere, elsewhere, how_chosen, of_controls, rates_apart


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


def markdown(
    experiment: Experiment,
    records: Sequence[Record],
    plan: Mapping[str, Any],
    digest: str,
    tried: Sequence[Record] = (),
    commit: committed.Commit | None = None,
) -> str:
    """The report at the latest planned look that ``records`` reach, after what is corrected of earlier versions.

    ``tried`` are the development rows; ``commit`` is that of the plan, where it is known.
    """
    scale = str(plan.get("scale", {}).get("name", "full"))
    seeds = looked(experiment, records)
    measured = records
    records = [r for r in records if int(r["seed"]) in seeds]
    number = f"Experiment {experiment.number}: " if experiment.number else "Experiment: "
    lines = [f"# {number}{experiment.title}", ""]
    late = committed.note(measured, commit)
    lines += [late, ""] if late else []
    lines += corrected(experiment)
    lines += [f"Claim, written down before the first run: {experiment.hypothesis}", "", "## Result", ""]
    verdicts = judge(experiment, records, scale)
    for verdict in verdicts:
        lines.append(f"- **{verdict.claim.name}** ({verdict.claim.kind}): {verdict.sentence}")
    if experiment.afterwards:
        lines += [
            "",
            "To be read beside the verdicts (written after the rows; no part of the plan, and it changes no verdict):",
            "",
        ]
        lines += [f"- {note}" for note in experiment.afterwards]
    units, chains = paired(experiment, records, seeds)
    effect = smallest_effect(len(set(chains)) or len(seeds), experiment.level)
    unit = "" if experiment.unit == "seed" else f" (each a {experiment.unit})"
    how = "paired by seed, {} % t intervals."
    if experiment.texts:
        how = f"paired by text: {len(units)} texts of {len(set(chains))} chains, {{}} % percentile intervals of "
        how += f"a bootstrap over chains ({DRAWS:,} draws, seed {DRAW_SEED})."
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
    for told in (rates_apart(experiment, plan, tried), _moved_by_draws(experiment, units, chains)):
        lines += ["", told] if told else []
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
    lines += _equal_gain(experiment, records)
    lines += ["", "## Circumstances and limits", ""]
    lines += [f"- plan `{digest}`, registered before the first run (its line with `plan` in results.jsonl)"]
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
    told = how_chosen(experiment)
    lines += [f"- learning rates, how chosen: {told}"] if told else []
    told = of_controls(experiment, plan)
    lines += [f"- learning rates of the controls: {told}"] if told else []
    devices = sorted({str(r["device"]) for r in measured if "device" in r})
    if devices:
        spent = sum(float(r["seconds"]) for r in measured) / 60
        left = len(measured) - len(records)
        more = f", {left} rows of seeds that are not judged counted" if left else ""
        lines.append(
            f"- cost: {spent:.1f} minutes of {', '.join(devices)}{more}: the times of the arms added up, of which several "
            "may have run side by side; development not counted"
        )
    lines += _sizes(plan, seeds)
    lines += [f"- {key}: {_words(value)}" for key, value in experiment.settings.items()]
    several = "Small models; nothing here says that larger ones behave alike."
    single = "One small model; nothing here says that a larger one behaves alike."
    lines += [f"- {experiment.limits}", f"- {several if 'members' in plan else single}", ""]
    lines += _other_rates(elsewhere(experiment, plan, tried))
    lines += again(experiment.name, plan, commit, gpu=any("NVIDIA" in device for device in devices))
    return "\n".join(lines)


def again(name: str, plan: Mapping[str, Any], commit: committed.Commit | None, *, gpu: bool) -> list[str]:
    """How an experiment is run again, as lines: the code of its plan where the commit is known, the plan, the rows."""
    code = (commit or {}).get("code")
    steps = [f"git checkout {code}"] if code else []
    steps += [f"{command(name, plan)} {step}{' --device cuda' if gpu else ''}" for step in ("--register", "--resume")]
    why = "The first line takes the code of this plan; other code makes another plan." if code else ""
    told = " ".join(filter(None, ("Run it again on [its data](index.md#data).", why)))
    return [told, "", *(f"    {step}" for step in steps), ""]


def command(name: str, plan: Mapping[str, Any]) -> str:
    """The command that runs an experiment with the roles of its plan."""
    roles = plan.get("roles", {})
    given = [("trained", roles.get("trained")), ("unseen", roles.get("unseen"))]
    given += [("unrelated", one) for one in roles.get("unrelated", ())]
    options = "".join(f" --{role} {source}" for role, source in given if source)
    members = " --member MODEL" * len(plan.get("members", ()))
    return f"trails experiment {name}{options} --data FOLDER --out FOLDER{members}"


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
    state = {"none": "no difference worth having"}.get(one.state, one.state) + (", below δ" if one.small else "")
    kind = f"{c.kind}, {c.direction}" if c.kind != "equivalent" else c.kind
    return [kind, c.metric, c.treatment, against, _cell(one.interval), f"{c.delta:g}", least, state]


def index_table(
    found: Mapping[str, Sequence[Record] | None],
    plans: Mapping[str, Mapping[str, Any]],
    tried: Mapping[str, Sequence[Record]],
) -> str:
    """The table of the index from the rows, plans and development rows of every experiment (None: not run under the present
    rules): verdict, kind, seeds, δ and smallest effect of the criterion that is hardest to see.
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
        others = elsewhere(experiment, plans[name], tried.get(name, ()))
        less = {one.claim.name for one in others if one.shrinks}
        for verdict in judge(experiment, records):
            known = [one for one in verdict.judged if math.isfinite(one.sd)]
            hardest = max(known, key=lambda one: one.sd / one.criterion.delta, default=verdict.judged[0])
            least = f"{effect * hardest.sd:.3g}" if math.isfinite(effect * hardest.sd) else "—"
            told = OUTCOMES[verdict.outcome] + (f": {verdict.reason}" if verdict.reason else "")
            told += f", {SMALL}" if verdict.small else ""
            if verdict.outcome == "held" and verdict.claim.name in less:
                told += f", [less than half of it at other rates]({name}.md#what-other-rates-give)"
            if _turned(verdict, others):
                told += f", [the other way at other rates]({name}.md#what-other-rates-give)"
            cells = [link, verdict.claim.sentence, verdict.claim.kind, told, str(len(set(chains)) or len(seeds))]
            rows.append([*cells, f"{hardest.criterion.delta:g}", least])
    header = ["experiment", "claim", "kind", "verdict", "n", "δ", "smallest effect"]
    return "\n".join(_table(header, rows))


def _turned(verdict: Verdict, others: Sequence[Elsewhere]) -> bool:
    """Whether a criterion that broke the claim has a difference of the other sign at its arms' best rates."""
    broken = {one.criterion for one in verdict.judged if one.state == "broken"}
    return any(one.turns and one.claim.name == verdict.claim.name and one.criterion in broken for one in others)


def failed_table(
    found: Mapping[str, Sequence[Record] | None],
    plans: Mapping[str, Mapping[str, Any]],
    tried: Mapping[str, Sequence[Record]],
) -> str:
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
                apart = rates_apart(experiment, plans[name], (), (verdict.claim,))
                told += f". {apart.removesuffix('.')}" if apart else ""
                if _turned(verdict, elsewhere(experiment, plans[name], tried.get(name, ()))):
                    told += f". [The other way at other rates](experiments/{name}.md#what-other-rates-give)"
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


def roles_table(plans: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of the index: which experiments were registered with which sources in which part."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, plan in plans.items():
        roles = plan["roles"]
        key = (str(roles["trained"]), str(roles["unseen"]), ", ".join(roles["unrelated"]))
        groups.setdefault(key, []).append(f"[{name}]({name}.md)")
    rows = [[*key, ", ".join(names)] for key, names in groups.items()]
    return "\n".join(_table(["trained", "unseen", "unrelated", "experiments"], rows))


def commits_table(found: Mapping[str, Sequence[Record] | None], commits: Mapping[str, committed.Commit]) -> str:
    """The table of the index: when the plan of each experiment was committed, and how many rows are older than that."""
    rows = committed.table({name: of for name, of in found.items() if of}, commits)
    header = ["experiment", "commit of the plan", "its time (UTC)", "first row (UTC)", "rows before the commit"]
    return "\n".join(_table(header, rows))


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
    waiting = any(row[-1] == "not run" for row in rows)
    others = (
        "the others stayed open or are still to be run again"
        if waiting
        else "the others were run again and stayed open"
    )
    told = f"{decided} of these {len(SEVENTEEN)} are decided now; {others}."
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


def _sizes(plan: Mapping[str, Any], judged_seeds: Mapping[int, Any]) -> list[str]:
    """Realised sizes of the sets, from the plan: chains and tokens, least to largest over the seeds that are judged; over all
    of the plan before the first.
    """
    planned = plan.get("seeds", {})
    seeds = [found["sizes"] for seed, found in planned.items() if not judged_seeds or int(seed) in judged_seeds]
    lines = []
    for name in seeds[0] if seeds else ():
        spans = []
        for what in ("chains", "tokens"):
            values = [one[name][what] for one in seeds]
            low, high = min(values), max(values)
            spans.append(f"{low:,} {what}" if low == high else f"{low:,} to {high:,} {what}")
        lines.append(f"- {name}: {', '.join(spans)} per seed")
    return lines


def _other_rates(found: Sequence[Elsewhere]) -> list[str]:
    """A section on criteria whose arms have other best rates by the judged metric."""
    if not found:
        return []

    def arms(pair: tuple[tuple[float, float], tuple[float, float]]) -> str:
        return " against ".join(f"{mean:.4f}" + (f" at {rate:g}" if rate else "") for rate, mean in pair)

    lines = [
        "### What other rates give",
        "",
        "A caution from the development rows (two seeds, never judged). It is no part of the plan and changes no verdict. By "
        "the judged metric itself an arm has another best rate than the one that it was given; a difference that shrinks or "
        "turns there may be damage that the rate did to one arm.",
        "",
    ]
    rows = []
    for one in found:
        c = one.criterion
        at, best = (pair[0][1] - pair[1][1] for pair in (one.used, one.best))
        between = f"{c.treatment} against {c.control}"
        seen = "0.0000" not in (f"{abs(at):.4f}", f"{abs(best):.4f}")
        shrinks = " **the other way**" if one.turns and seen else " **less than half**" if one.shrinks else ""
        rows.append(
            [one.claim.name, c.metric, between, arms(one.used), f"{at:+.4f}", arms(one.best), f"{best:+.4f}{shrinks}"]
        )
    header = [
        "claim",
        "metric",
        "arms",
        "at their rates",
        "difference",
        "at their best by this metric",
        "difference there",
    ]
    return [*lines, *_table(header, rows), ""]


def _equal_gain(experiment: Experiment, records: Sequence[Record]) -> list[str]:
    """How *at equal gain* is taken, where a metric is."""
    steps = sorted({float(point["step"]) for record in records for point in record.get("curve", ())})
    if not steps or not any(name.endswith("_at_equal_gain") for name in experiment.metrics):
        return []
    points = ", ".join(f"{step:g}" for step in steps)
    return [
        f"- *at equal gain*: where an arm first reaches {100 * SHARE:g} % of the smallest of the largest gains of the arms "
        f"compared, on straight lines between the {len(steps)} points of its curve (steps {points})"
    ]


_NEAR = 0.05
"""Share of an interval's length within which another draw of the bootstrap may move a bound over 0."""
_AGAIN = 100
"""Bootstraps with other seeds that are then drawn."""


def _moved_by_draws(experiment: Experiment, units: Mapping[int, Mapping[str, Any]], chains: Sequence[str]) -> str:
    """A sentence on the criteria of which a bound lies so near to 0 that it hangs on the seed of the bootstrap; or nothing."""
    told = []
    checks = [
        *((one, "placebo") for one in experiment.placebo),
        *((one, "positive control") for one in experiment.positive),
    ]
    checks += [(one, claim.name) for claim in experiment.claims for one in claim.criteria]
    for criterion, of in checks if chains else ():
        values = [difference(criterion, metrics) for metrics in units.values()]
        interval, _ = cluster_interval(values, chains, experiment.level)
        if min(abs(interval.low), abs(interval.high)) > _NEAR * (interval.high - interval.low):
            continue
        again = [cluster_interval(values, chains, experiment.level, seed=seed)[0] for seed in range(1, _AGAIN + 1)]
        apart = sum(one.low > 0 or one.high < 0 for one in again)
        within = all(-criterion.delta < one.low and one.high < criterion.delta for one in again)
        sentence = (
            f"A bound of the {of} `{criterion.metric}` hangs on the seed of the bootstrap: in {apart} of {_AGAIN} others its "
            "whole interval lies on one side of 0"
        )
        if of == "placebo":
            sentence += (
                ". It lies within ±δ in all of them, which counts as no difference: no verdict hangs on it"
                if within
                else ", and then nothing would be judged"
            )
        told.append(sentence + ".")
    return " ".join(told)


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
        rows.append([arm.name, *(_cell(t_interval(points.get(step, []), experiment.level)) for step in steps)])
    return _table(["arm", *(f"{step:g}" for step in steps)], rows)
