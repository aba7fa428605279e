"""What a gradient explains: the names of targets, where they lie in a chain, and which of them a trace keeps. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from trails.errors import UsageError
from trails.platform.arrays import Ints
from trails.schema import Trace

KINDS = ("conclusion", "answer", "token")
"""Kinds of targets, in the order of their numbers in the shards."""


class NoTargetError(UsageError):
    """The chain does not have the target that is asked for. Exit code 2."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is explained: ``name`` in words; tokens ``start`` to ``end`` of the chain, or those after it that are its answer."""

    name: str
    start: int
    end: int


def kind_of(asked: str) -> int:
    """The number of a target's kind in the shards. Raises UsageError for what is no target."""
    if asked in KINDS[:2]:
        return KINDS.index(asked)
    if asked.isascii() and asked.isdigit():
        return 2
    raise UsageError(f"target {asked!r} does not exist. Targets: conclusion, answer, or a token's position.")


def target_of(chain: str, step_tokens: Ints, n_tokens: int, asked: str, answer_tokens: int) -> Target:
    """The target by its name: ``conclusion`` (the last step), ``answer`` (what follows the chain), or a token's position.

    Raises UsageError for what is no target, and NoTargetError for one that the chain does not have.
    """
    kind = KINDS[kind_of(asked)]
    if kind == "conclusion":
        start, end = (int(at) for at in step_tokens[-1])
        if len(step_tokens) < 2 or end <= start:
            raise NoTargetError(
                f"chain {chain} has no conclusion after other steps. Give --target answer or a token's position."
            )
        return Target(f"the conclusion (step {len(step_tokens) - 1})", start, end)
    if kind == "answer":
        if not answer_tokens:
            raise NoTargetError(
                f"chain {chain} has no answer beside its text. Give --target conclusion or a token's position."
            )
        return Target("the answer", n_tokens, n_tokens + answer_tokens)
    at = int(asked)
    if not 0 < at < n_tokens:
        raise NoTargetError(
            f"token {at} was asked for, chain {chain} has targets 1 to {n_tokens - 1} (token 0 has none before)."
        )
    return Target(f"token {at}", at, at + 1)


def kept_target(trace: Trace) -> str:
    """The target whose map a trace keeps, as :func:`target_of` names it; empty where none is kept."""
    kept = trace.array("gradient_target")
    if kept is None:
        return ""
    kind, start, _ = kept.tolist()
    return KINDS[kind] if kind < 2 else str(start)


def has_map(trace: Trace) -> bool:
    """Whether a trace keeps a map: it was asked for, and the chain has the target."""
    kept = trace.array("gradient_target")
    return kept is not None and int(kept[2]) >= 0
