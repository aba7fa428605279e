"""Pre-registered experiments: a claim, its arms and controls at matched tokens and steps, a sentence on what came out.

Each experiment is declared before it runs (:class:`trails.experiments.base.Experiment`): hypothesis, arms, criteria with
direction and threshold. The plan with its hash is written first, then one JSON line per (arm, seed); a report in Markdown
compares arms seed by seed. Experiments 1 (minimal steps), 2 (anchor), 3 (depth-limited LoRA), 4 (same loss, different
inside), 5 (paradoxical neutrality), 6 (volatility), 7 (flags of effects), 8 (data chosen by reaction), 9 (capture), 10
(cheap paths), 11 (stages), 12 (bridges), 13 (roles), 14 (loop loss), 15 (initiation) and 16 (what carries over), one on
masks and orders, and two on training with a stellator block.
"""

from __future__ import annotations

from trails.experiments.base import Arm, Claim, Criterion, Experiment, Scale

__all__ = ["Arm", "Claim", "Criterion", "Experiment", "Scale", "experiments", "named"]


def experiments() -> dict[str, Experiment]:
    """Every experiment by its name, in the order of their numbers."""
    from trails.experiments import (
        anchor,
        block,
        block_anchor,
        bridges,
        capture,
        cheap_paths,
        depth,
        flags,
        initiation,
        loop_loss,
        mask_order,
        minimal_step,
        neutrality,
        reaction,
        roles,
        same_loss,
        stages,
        transfer,
        volatility,
    )

    found = (
        minimal_step.EXPERIMENT,
        anchor.EXPERIMENT,
        depth.EXPERIMENT,
        same_loss.EXPERIMENT,
        neutrality.EXPERIMENT,
        volatility.EXPERIMENT,
        flags.EXPERIMENT,
        reaction.EXPERIMENT,
        capture.EXPERIMENT,
        cheap_paths.EXPERIMENT,
        stages.EXPERIMENT,
        bridges.EXPERIMENT,
        roles.EXPERIMENT,
        loop_loss.EXPERIMENT,
        initiation.EXPERIMENT,
        transfer.EXPERIMENT,
        mask_order.EXPERIMENT,
        block.EXPERIMENT,
        block_anchor.EXPERIMENT,
    )
    return {experiment.name: experiment for experiment in found}


def named(name: str) -> tuple[Experiment, ...]:
    """The experiment with this name or number, several joined by commas, or ``all``. UsageError lists what there is."""
    from trails.errors import UsageError

    known = experiments()
    if name == "all":
        return tuple(known.values())
    if "," in name:
        return tuple(experiment for part in name.split(",") for experiment in named(part.strip()))
    for experiment in known.values():
        if name in (experiment.name, experiment.number):
            return (experiment,)
    listed = ", ".join(f"{e.name} ({e.number})" if e.number else e.name for e in known.values())
    raise UsageError(f"experiment {name!r} does not exist. Experiments: {listed}, or all.")
