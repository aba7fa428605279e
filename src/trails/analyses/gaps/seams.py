"""What the corpus and the model say of a seam, and all of its scores together."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trails.analyses.gaps.kinds import MODEL
from trails.analyses.gaps.text import stated_values, text_scores, values_in
from trails.analyses.sequences import name_words
from trails.measure.base import Segmented
from trails.platform.arrays import Doubles
from trails.schema import Role, Step, Trace


@dataclass(slots=True)
class Background:
    """What other chains make one expect: surprisal of each token type, role pairs, names.

    Built once over the corpus; a chain's own share is taken out again where its seams are scored.
    """

    names: frozenset[str]
    total: Doubles  # (V,) summed surprisal of each token type
    count: Doubles  # (V,)
    pairs: npt.NDArray[np.float64]  # (roles, roles) transitions from role to role
    n_chains: int

    def expected(self, trace: Trace, own: Trace | None) -> Doubles:
        """Expected surprisal (n,) of each token from its type in the other chains, shrunk to the mean of all tokens."""
        total, count = self.total, self.count
        if own is not None:
            size = len(total)
            good = np.isfinite(own.surprisal)
            ids = own.token_ids[good]
            total = total - np.bincount(ids, weights=own.surprisal[good].astype(np.float64), minlength=size)[:size]
            count = count - np.bincount(ids, minlength=size)[:size]
        mean = total.sum() / max(count.sum(), 1.0)
        ids = trace.token_ids
        prior = 5.0
        expected: Doubles = (total[ids] + prior * mean) / (np.maximum(count[ids], 0) + prior)
        return expected

    def role_surprisal(self, before: int, after: int, own: npt.NDArray[np.float64] | None) -> float:
        """-ln p(role | role before), add-one smoothed, in nats."""
        row = self.pairs[before] - (own[before] if own is not None else 0)
        return float(-np.log((row[after] + 1) / (row.sum() + len(row))))


_ROLE = {role: number for number, role in enumerate(Role)}


def _role_pairs(steps: Sequence[Step]) -> npt.NDArray[np.float64]:
    pairs = np.zeros((len(_ROLE), len(_ROLE)))
    for one, two in itertools.pairwise(steps):
        pairs[_ROLE[one.role], _ROLE[two.role]] += 1
    return pairs


def background(traces: Sequence[Trace]) -> Background:
    """Background of a corpus."""
    size = max((int(trace.token_ids.max(initial=0)) for trace in traces), default=0) + 1
    total, count = np.zeros(size), np.zeros(size)
    pairs = np.zeros((len(_ROLE), len(_ROLE)))
    for trace in traces:
        good = np.isfinite(trace.surprisal)
        np.add.at(total, trace.token_ids[good], trace.surprisal[good].astype(np.float64))
        np.add.at(count, trace.token_ids[good], 1.0)
        pairs += _role_pairs(trace.steps)
    return Background(name_words(trace.chain.text for trace in traces), total, count, pairs, len(traces))


def seam_scores(trace: Trace, known: Background, own: Trace | None = None) -> dict[str, Doubles]:
    """All scores of a trace's seams: ``name → (S,)``, plus ``bridge_nats``; NaN at step 0 and where undefined.

    ``own`` is the chain whose share is taken out of the background (the trace itself, or the intact one of a shortened
    chain); None when the trace is no part of it.
    """
    steps, text = trace.steps, trace.chain.text
    n = len(steps)
    result = text_scores(trace.chain, steps)
    for name in ("role_bigram", *MODEL, "bridge_nats"):
        result[name] = np.full(n, np.nan)
    pairs = _role_pairs(own.steps) if own is not None else None
    excess = trace.surprisal.astype(np.float64) - known.expected(trace, own)
    named = [m.span() for m in re.finditer(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text) if m.group() in known.names]
    for index in range(1, n):
        role = _ROLE[steps[index].role]
        result["role_bigram"][index] = known.role_surprisal(_ROLE[steps[index - 1].role], role, pairs)
        first, last = (int(x) for x in trace.step_tokens[index])
        if last <= first:
            continue
        surprisal = trace.surprisal[first:last].astype(np.float64)
        if not np.isfinite(surprisal).any():
            continue
        result["surprisal_excess"][index] = np.nanmean(excess[first:last])
        result["bridge_nats"][index] = np.nansum(excess[first:last])
        result["onset_surprisal"][index] = np.nanmean(surprisal[:5])
        spans = [(value.start, value.end) for value in values_in(text, steps[index].start, steps[index].end)]
        spans += [span for span in named if steps[index].start <= span[0] < steps[index].end]
        marked = _tokens_under(trace, first, last, spans)
        if marked.any():
            result["value_surprisal"][index] = np.nanmean(surprisal[marked])
        largest = math.nan
        known_values = stated_values(trace.chain.question) | stated_values(text[: steps[index].start])
        if result["ungrounded"][index] >= 0:
            result["ungrounded_surprisal"][index] = 0.0
        for value in values_in(text, steps[index].start, steps[index].end):
            if value.result:
                continue
            under = _tokens_under(trace, first, last, [(value.start, value.end)])
            nats = float(np.nansum(surprisal[under]))
            largest = nats if math.isnan(largest) else max(largest, nats)
            if value.value not in known_values:
                result["ungrounded_surprisal"][index] += nats
        result["operand_surprisal"][index] = largest
        if trace.nll_given_all is not None and trace.nll_given_question is not None:
            result["context_gain"][index] = trace.nll_given_question[index] - trace.nll_given_all[index]
        if trace.nll_given_all is not None and trace.nll_without_previous is not None:
            result["premise_usefulness"][index] = trace.nll_without_previous[index] - trace.nll_given_all[index]
        if trace.n_layers and len(trace.step_attention) == n * (n + 5) // 2:
            result["previous_attention"][index] = float(np.mean(trace.step_masses(index)[1 + index]))
    return result


def _tokens_under(trace: Trace, first: int, last: int, spans: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """Which tokens of ``first:last`` touch one of the character spans."""
    start, end = trace.token_start[first:last], trace.token_end[first:last]
    marked = np.zeros(last - first, np.bool_)
    for a, b in spans:
        marked |= (start < b) & (end > a)
    return marked


def unmeasured_scores(item: Segmented, known: Background, own: Sequence[Step]) -> dict[str, Doubles]:
    """Scores of a chain that no model has measured; ``own`` steps are taken out of the role pairs."""
    scores = text_scores(item.chain, item.steps)
    pairs = _role_pairs(own)
    roles = [_ROLE[step.role] for step in item.steps]
    bigrams = [known.role_surprisal(a, b, pairs) for a, b in itertools.pairwise(roles)]
    scores["role_bigram"] = np.array([math.nan, *bigrams])
    return scores | {name: np.full(len(item.steps), np.nan) for name in (*MODEL, "bridge_nats")}


def premise_matrix(trace: Trace, shorter: Sequence[Trace]) -> Doubles:
    """(S, S) nats per token that step ``i`` costs more when step ``j`` is missing, at ``[i, j]`` for j < i; NaN elsewhere.

    ``shorter[j]`` is the measured chain without step j (:func:`without_step`).
    """
    n = len(trace.steps)
    result = np.full((n, n), np.nan)
    whole = step_nll(trace)
    for j, other in enumerate(shorter):
        part = step_nll(other)
        for i in range(j + 1, n):
            result[i, j] = part[i - 1] - whole[i]
    return result


def step_nll(trace: Trace) -> Doubles:
    """Mean surprisal of each step's tokens (S,), nats per token; NaN for a step without measured tokens."""
    result = np.full(len(trace.steps), np.nan)
    for index, (a, b) in enumerate(trace.step_tokens.tolist()):
        part = trace.surprisal[a:b]
        if np.isfinite(part).any():
            result[index] = float(np.nanmean(part))
    return result
