"""Gaps: seams where a step seems to be missing (the literature's *thought leap*, arXiv 2505.14684).

A seam lies before every step but the first. It gets a vector of scores (:mod:`~trails.analyses.gaps.kinds`): what the text
alone says (:mod:`~trails.analyses.gaps.text`), and what the corpus and the model say (:mod:`~trails.analyses.gaps.seams`).
They are compared within a chain only, because easy and hard chains differ more than seams do. Every score's worth is
measured on the user's own corpus (:mod:`~trails.analyses.gaps.calibration`): remove one interior step of each chain,
measure what is left, and ask how often the true seam scores above another seam of the same chain (AUC, 0.5 = chance). Two
baselines are reported with it: the position alone, and all scores that need no model. :mod:`~trails.analyses.gaps.find` ranks
the seams by what is worth most.
"""

from __future__ import annotations

from trails.analyses.gaps.calibration import (
    MIN_CHAINS,
    NOTE,
    SIZE,
    Calibration,
    Removed,
    calibrate,
    calibration_from,
    removable,
    shortened,
    without_step,
)
from trails.analyses.gaps.find import Gaps, find_gaps
from trails.analyses.gaps.kinds import MODEL, NAMES, NO_MODEL, SEAM_SCORES, SeamScore
from trails.analyses.gaps.seams import (
    Background,
    background,
    premise_matrix,
    seam_scores,
    step_nll,
    unmeasured_scores,
)
from trails.analyses.gaps.text import text_scores

__all__ = [
    "MIN_CHAINS",
    "MODEL",
    "NAMES",
    "NOTE",
    "NO_MODEL",
    "SEAM_SCORES",
    "SIZE",
    "Background",
    "Calibration",
    "Gaps",
    "Removed",
    "SeamScore",
    "background",
    "calibrate",
    "calibration_from",
    "find_gaps",
    "premise_matrix",
    "removable",
    "seam_scores",
    "shortened",
    "step_nll",
    "text_scores",
    "unmeasured_scores",
    "without_step",
]
