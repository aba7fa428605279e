"""What the log-likelihood of some tokens owes to every token before them: gradients at the input embeddings.

Plain autograd through the one forward path of :class:`trails.measure.model.Model`. Sequences are of T tokens; ``rows`` are the
positions whose logits predict the target, so row p predicts token p + 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trails.errors import UnmeasurableError
from trails.measure.context import Row
from trails.measure.model import Model
from trails.measure.targets import NoTargetError, Target, kind_of, target_of
from trails.platform.arrays import Doubles, Floats, Ints, Longs
from trails.platform.text import counted
from trails.schema import Chain

BATCH_TOKENS = 2_048
"""Tokens of one forward pass over changed sequences."""

REPLACED = 16
"""Tokens that are replaced as the control of a map that is kept with the trace."""


@dataclass(frozen=True, slots=True)
class InputGradient:
    """``value``: log-likelihood of the target, nats. ``effect`` (T,): gradient × input of every token, nats: the slope of the
    value as the token's embedding is scaled. ``norm`` (T,): length of the gradient, nats per unit of embedding.
    """

    value: float
    effect: Doubles
    norm: Doubles


def input_gradient(model: Model, ids: Longs, rows: slice) -> InputGradient:
    """Gradient of the log-likelihood of the tokens that ``rows`` predict at the input embeddings of ``ids`` (T,)."""
    with model.differentiable():
        leaf = _embedded(model, ids).requires_grad_()
        value = _log_likelihood(model, ids, rows, leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
    wide = gradient[0].double()
    effect, norm = (wide * leaf[0].detach().double()).sum(-1), wide.norm(dim=-1)
    return InputGradient(float(value.detach()), effect.cpu().numpy(), norm.cpu().numpy())


@dataclass(frozen=True, slots=True)
class Integrated:
    """Integrated gradients: ``effect`` (T,) in nats, over ``steps`` points. ``deficit``: what they lack of the change of the
    log-likelihood between the baseline and the text, as a share of it; 0 = complete.
    """

    effect: Doubles
    steps: int
    deficit: float
    change: float


def integrated_gradients(model: Model, ids: Longs, rows: slice, changed: slice, most: int) -> Iterator[Integrated]:
    """Integrated gradients from the zero embedding to the text along a straight line, by the midpoint rule, with 8, 16, …
    steps up to ``most``. Only the tokens of ``changed`` leave their embedding; the others keep it.

    Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", 2017.
    """
    with model.differentiable():
        whole = _embedded(model, ids)
        base = whole.clone()
        base[:, changed] = 0
        with torch.no_grad():
            change = float(_log_likelihood(model, ids, rows, whole) - _log_likelihood(model, ids, rows, base))
        steps = 8
        while steps <= most:
            total = torch.zeros_like(whole, dtype=torch.float64)
            for number in range(steps):
                leaf = (base + (whole - base) * ((number + 0.5) / steps)).requires_grad_()
                (gradient,) = torch.autograd.grad(_log_likelihood(model, ids, rows, leaf), leaf)
                total += gradient.double() / steps
            effect = (total * (whole - base).double())[0].sum(-1)
            lacking = abs(float(effect.sum()) - change) / abs(change) if change else np.inf
            yield Integrated(effect.cpu().numpy(), steps, lacking, change)
            steps *= 2


def likelihoods(model: Model, sequences: Sequence[Longs], rows: slice) -> Doubles:
    """Log-likelihood, nats, of what ``rows`` predict in every sequence; all sequences have the same length."""
    found: list[float] = []
    size = max(1, BATCH_TOKENS // max(1, len(sequences[0]) if len(sequences) else 1))
    with model.measuring():
        for start in range(0, len(sequences), size):
            ids = model.tensor(np.stack(sequences[start : start + size]))
            log_p = _log_p(model, model.hidden(ids)[:, rows])
            targets = ids[:, rows.start + 1 : rows.stop + 1]
            found += log_p.gather(2, targets[..., None]).double().sum((1, 2)).tolist()
    return np.asarray(found)


def likeliest_others(model: Model, ids: Longs, positions: Longs) -> Longs:
    """For every position ≥ 1 the vocabulary item that the model holds most likely there, of those that are not the token."""
    with model.measuring():
        hidden = model.hidden(model.tensor(ids[None]))[0, model.tensor(positions - 1)]
        logits = _log_p(model, hidden)
        logits.scatter_(1, model.tensor(ids[positions])[:, None], -torch.inf)
        best: npt.NDArray[np.int64] = logits.argmax(1).cpu().numpy()
    return best


def _embedded(model: Model, ids: Longs) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.module.get_input_embeddings()(model.tensor(ids[None])).clone()
    return found


def _log_p(model: Model, hidden: Tensor) -> Tensor:
    logits = model.logits(hidden)
    return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), -1)


def _log_likelihood(model: Model, ids: Longs, rows: slice, embeddings: Tensor) -> Tensor:
    with model.embedded(embeddings):
        hidden = model.hidden(model.tensor(ids[None]))
    log_p = _log_p(model, hidden[0, rows])
    targets = model.tensor(ids[rows.start + 1 : rows.stop + 1])
    return log_p.gather(1, targets[:, None]).sum()


@dataclass(frozen=True, slots=True)
class Explained:
    """The map of a target over the n tokens of a chain, beside what replacing tokens really does.

    ``effect`` (n,) nats and ``norm`` (n,) as in :class:`InputGradient`; ``replaced`` (m,) positions, ``others`` (m,) the
    vocabulary items put there, ``change`` (m,) the target's log-likelihood minus what it was, nats. ``ids`` (T,) and ``rows``
    are the sequence and the positions that predict the target, ``first`` is where the target begins in it.
    """

    target: Target
    value: float
    effect: Floats
    norm: Floats
    replaced: Longs
    others: Longs
    change: Doubles
    ids: Longs
    rows: slice
    first: int


def explain(model: Model, row: Row, chain: Chain, asked: str, replace: int) -> Explained:
    """The map of a target over a chain in its context; the answer follows the chain after a line feed.

    ``replace`` tokens before the target, evenly spread, are replaced by the item that the model holds most likely at their
    place of those that are not the token. Raises UsageError and NoTargetError as :func:`target_of`, and UnmeasurableError for
    a sequence longer than the model's window.
    """
    answer = model.text.ids(f"\n{chain.answer}") if kind_of(asked) == 1 and chain.answer else []
    n, before = len(row.tokens), len(row.context)
    aim = target_of(chain.id, row.step_tokens, n, asked, len(answer))
    ids = np.concatenate((row.ids, np.asarray(answer, np.int64)))
    if model.max_tokens and len(ids) > model.max_tokens:
        raise UnmeasurableError(
            f"chain {chain.id} has {counted(len(ids), 'token')} with context and target, the window of {model.name} is "
            f"{model.max_tokens}. Choose a shorter chain."
        )
    first = before + aim.start
    rows = slice(first - 1, before + aim.end - 1)
    found = input_gradient(model, ids, rows)
    able = np.arange(max(before, 1), first)
    places = able[np.unique(np.linspace(0, len(able) - 1, min(replace, len(able))).round().astype(np.int64))]
    others = likeliest_others(model, ids, places) if len(places) else places
    changed = [np.where(np.arange(len(ids)) == place, other, ids) for place, other in zip(places, others, strict=True)]
    change = likelihoods(model, [ids, *changed], rows)
    here = slice(before, before + n)
    return Explained(
        target=aim,
        value=found.value,
        effect=found.effect[here].astype(np.float32),
        norm=found.norm[here].astype(np.float32),
        replaced=places - before,
        others=others,
        change=change[1:] - change[0],
        ids=ids,
        rows=rows,
        first=first,
    )


def gradient_arrays(model: Model, row: Row, chain: Chain, asked: str) -> dict[str, Floats | Ints]:
    """What a trace keeps of the map of a target; undefined (NaN, no replaced token) where the chain does not have the target,
    or does not fit into one window with it. Raises UsageError for what is no target.
    """
    kind = kind_of(asked)
    try:
        found = explain(model, row, chain, asked, REPLACED)
    except (NoTargetError, UnmeasurableError):
        undefined = np.full(len(row.tokens), np.nan, np.float32)
        return {
            "gradient_effect": undefined,
            "gradient_norm": undefined.copy(),
            "gradient_target": np.array([kind, int(asked) if kind == 2 else -1, -1], np.int32),
            "gradient_replaced": np.zeros(0, np.int32),
            "gradient_change": np.zeros(0, np.float32),
        }
    return {
        "gradient_effect": found.effect,
        "gradient_norm": found.norm,
        "gradient_target": np.array([kind, found.target.start, found.target.end], np.int32),
        "gradient_replaced": found.replaced.astype(np.int32),
        "gradient_change": found.change.astype(np.float32),
    }
