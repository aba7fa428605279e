"""Roles that a person corrected, kept beside the automatic ones in the home's file ``corrections.json``.

By chain id: who, when, and all steps of the chain as (start, end, role); ``kept`` names the steps that stay as somebody
corrected them earlier. The shards keep what the segmenter found; what is read from a home has the corrected roles, where the
steps have the same borders. The file knows chains, not runs, so corrections survive that a chain is removed and ingested again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trails.errors import StoreError
from trails.platform.text import counted
from trails.schema import Role, Step, Trace

NAME = "corrections.json"


@dataclass(frozen=True, slots=True)
class Correction:
    """All steps of one chain as people left them: (first character, one past the last, role); who was the last and when (ISO
    8601). ``kept`` has who and when of the steps, by borders, that the last person left as an earlier one had made them.
    """

    by: str
    at: str
    steps: tuple[tuple[int, int, Role], ...]
    kept: Mapping[tuple[int, int], tuple[str, str]] = field(default_factory=dict)

    def mark(self, start: int, end: int) -> tuple[str, str]:
        """Who checked the step of these borders, and when."""
        return self.kept.get((start, end), (self.by, self.at))


def read_corrections(home: Path) -> dict[str, Correction]:
    """The corrections of a home by chain; none where nobody corrected. Raises StoreError for a file that cannot be read."""
    path = home / NAME
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {
            chain: Correction(
                str(one["by"]),
                str(one["at"]),
                tuple((int(a), int(b), Role(role)) for a, b, role in one["steps"]),
                {(int(a), int(b)): (str(by), str(at)) for a, b, by, at in one.get("kept", ())},
            )
            for chain, one in table.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"{path} cannot be read ({error}). Restore it, or move it away and run: trails roles import FILE --home {home}"
        ) from error


def corrections_json(corrections: Mapping[str, Correction]) -> str:
    """The text of the file."""
    table = {
        chain: {"by": one.by, "at": one.at, "steps": [[a, b, role.value] for a, b, role in one.steps]}
        | ({"kept": [[*span, *mark] for span, mark in sorted(one.kept.items())]} if one.kept else {})
        for chain, one in sorted(corrections.items())
    }
    return json.dumps(table, ensure_ascii=False, indent=0) + "\n"


def fitting(correction: Correction, borders: Iterable[tuple[int, int]]) -> int:
    """How many steps of a correction have the borders of a step of the home: these have effect there."""
    own = set(borders)
    return sum((start, end) in own for start, end, _ in correction.steps)


def fitting_line(fitting: int, steps: int) -> str:
    """How many corrected steps have effect and how many do not, as a person reads it."""
    if fitting == steps:
        return f"all {counted(steps, 'corrected step')} have the borders of the home's steps and are applied"
    return (
        f"{fitting:,} of {counted(steps, 'corrected step')} have the borders of the home's steps and are applied; the other "
        f"{steps - fitting:,} are kept and count in trails roles score only"
    )


def corrected(trace: Trace, corrections: Mapping[str, Correction]) -> Trace:
    """The trace with corrected roles; steps with other borders than the person's stay as they are."""
    found = corrections.get(trace.chain.id) if corrections else None
    if found is None:
        return trace
    roles = {(a, b): role for a, b, role in found.steps}
    steps = tuple(
        replace(
            step,
            role=roles[step.start, step.end],
            automatic_role=step.automatic_role or step.role.value,
            corrected_by=found.mark(step.start, step.end)[0],
            corrected_at=found.mark(step.start, step.end)[1],
        )
        if (step.start, step.end) in roles
        else step
        for step in trace.steps
    )
    return replace(trace, steps=steps)


def automatic(step: Step) -> Step:
    """The step as the segmenter made it."""
    if not step.automatic_role:
        return step
    return replace(step, role=Role(step.automatic_role), automatic_role="", corrected_by="", corrected_at="")
