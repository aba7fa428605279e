"""What changes in a probe when a text stands before it: attention on the text, hidden states, predictions, likelihood.

The sequence is ``prefix + text + separator + question + infix + probe``, the probe alone is the same without text and
separator. Only the probe's own tokens are compared, each with itself. Every probe is run once alone, which gives the states
and predictions to compare with, then with all texts, in batches; nothing of size (layers × tokens × width) is kept beyond
the probe at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trails.errors import UnmeasurableError
from trails.measure.attention import LayerAttention, Layout, Recorder
from trails.measure.context import Row
from trails.measure.metrics import unit_rows
from trails.measure.model import Model
from trails.platform.arrays import Doubles, Ints
from trails.platform.text import counted

BATCH_TOKENS = 1024
"""Padded tokens of a batch on a CPU; on a GPU 16 times as many."""
_KEPT = 2**26
"""Probabilities of the probe alone that are kept; of a longer probe they are made again for every text."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """What R texts did to one probe of n tokens (L layers).

    ``attention`` (R, L): head-mean mass of the probe's tokens on the text (its first token left out where it is the first of
    the sequence). ``drift`` (R, L+1): mean 1 - cosine between the hidden states with the text and without; 0 = input
    embeddings. ``shift`` (R,): mean total variation between the predictive distributions, 0 to 1. ``nll`` (R,): NLL per
    token with the text minus without, nats; negative = the text makes the probe likelier.
    """

    attention: Doubles
    drift: Doubles
    shift: Doubles
    nll: Doubles


@dataclass
class _States(Recorder):
    """Keeps the states of the probe's tokens, unit length, as the layers run."""

    span: slice = field(default_factory=lambda: slice(0, 0))
    units: list[Tensor] = field(default_factory=list)

    def attention(self, layer: LayerAttention) -> None:
        """Nothing is asked of the probe alone."""

    def hidden(self, state: Tensor) -> None:
        """Take the residual stream (1, T, d)."""
        self.units.append(unit_rows(state[0, self.span]))


@dataclass
class _Reactions(Recorder):
    """Compares the states of a batch with those of the probe alone, as the layers run."""

    units: Sequence[Tensor] = ()
    places: Tensor | None = None  # (B, n) where the probe's tokens stand
    mass: list[Tensor] = field(default_factory=list)  # L × (B,)
    drift: list[Tensor] = field(default_factory=list)  # L+1 × (B,)

    def attention(self, layer: LayerAttention) -> None:
        """Mean mass of the probe's tokens on the text's bin."""
        assert isinstance(self.layout, Layout)
        sums = torch.bmm(self.layout.keep, layer.masses) if layer.steps is None else layer.steps
        self.mass.append(sums[:, 0, 2] / self.layout.keep[:, 0].sum(-1))

    def hidden(self, state: Tensor) -> None:
        """Half the squared distance of the unit vectors is 1 - cosine, exact near 0."""
        assert self.places is not None
        own = unit_rows(state.gather(1, self.places[:, :, None].expand(-1, -1, state.shape[-1])))
        self.drift.append((own - self.units[len(self.drift)]).square_().sum(-1).mean(-1).mul_(0.5))


def react(model: Model, probe: Row, texts: Sequence[Ints], max_tokens: int = 0) -> Reaction:
    """What each text, given as token ids with the separator, does to a probe. To be called inside ``model.measuring()``.

    Raises UnmeasurableError for a text that does not fit before the probe into one window (``max_tokens``; 0 = no limit), and
    for a probe of fewer than two tokens.
    """
    context, n = probe.context, len(probe.tokens)
    head, tail = list(context.prefix), [*context.question, *context.infix, *probe.tokens.ids.tolist()]
    longest = max((len(text) for text in texts), default=0) + len(head) + len(tail)
    if max_tokens and longest > max_tokens:
        raise UnmeasurableError(
            f"chain {probe.chain} has {counted(len(head) + len(tail), 'token')} with its context, with a "
            f"text before it {longest}, and "
            f"the window of {model.name} is {max_tokens}. Choose shorter spans or probes."
        )
    if n < 2:
        raise UnmeasurableError(f"chain {probe.chain} has {counted(n, 'token')}, a probe needs two. Leave it out.")
    alone = np.asarray([*head, *tail], np.int64)
    own = slice(len(alone) - n, len(alone))
    first = _States(_layout(model, [alone], [0], len(head), n), span=own)
    hidden = model.hidden(model.tensor(alone)[None], first)[0]
    # the first token of the probe is predicted by its context, where it has one
    before = hidden[own.start - 1 : own.stop - 1] if own.start else hidden[own.start : own.stop - 1]
    targets = model.tensor(np.ascontiguousarray(alone[own.stop - len(before) :]))[:, None]
    base = _Predictions(model, before, targets)
    found = Reaction(
        np.full((len(texts), model.n_layers), np.nan),
        np.full((len(texts), model.n_layers + 1), np.nan),
        np.full(len(texts), np.nan),
        np.full(len(texts), np.nan),
    )
    budget = BATCH_TOKENS if model.device.type == "cpu" else 16 * BATCH_TOKENS
    for batch in _batches([len(text) + len(alone) for text in texts], budget):
        rows = [np.asarray([*head, *texts[i].tolist(), *tail], np.int64) for i in batch]
        ends = np.array([len(row) for row in rows])
        ids = np.zeros((len(rows), ends.max()), np.int64)
        for line, row in zip(ids, rows, strict=True):
            line[: len(row)] = row
        places = model.tensor(ends[:, None] - n + np.arange(n))
        layout = _layout(model, rows, [len(texts[i]) for i in batch], len(head), n)
        recorder = _Reactions(layout, units=first.units, places=places)
        states = model.hidden(model.tensor(ids), recorder)
        found.attention[batch] = torch.stack(recorder.mass, 1).double().cpu().numpy()
        found.drift[batch] = torch.stack(recorder.drift, 1).double().cpu().numpy()
        for line, i in enumerate(batch):
            last = int(ends[line]) - 1
            found.shift[i], found.nll[i] = base.against(states[line, last - len(before) : last])
    return found


def trained(before: Model, probe: Row, after: Sequence[Model], max_tokens: int = 0) -> Reaction:
    """What trainings did to a probe: a row per model ``after``, compared with the model ``before`` on the probe alone. Nothing
    stands before the probe, so ``attention`` is NaN. To be called inside ``measuring()`` of every model.

    Raises UnmeasurableError for a probe of fewer than two tokens, or that does not fit into one window.
    """
    context, n = probe.context, len(probe.tokens)
    head = list(context.prefix)
    alone = np.asarray([*head, *context.question, *context.infix, *probe.tokens.ids.tolist()], np.int64)
    if max_tokens and len(alone) > max_tokens:
        raise UnmeasurableError(
            f"chain {probe.chain} has {counted(len(alone), 'token')} with its context, and the window of "
            f"{before.name} is {max_tokens}. "
            "Choose shorter probes."
        )
    if n < 2:
        raise UnmeasurableError(f"chain {probe.chain} has {counted(n, 'token')}, a probe needs two. Leave it out.")
    own = slice(len(alone) - n, len(alone))

    def run(model: Model) -> tuple[list[Tensor], Tensor]:
        states = _States(_layout(model, [alone], [0], len(head), n), span=own)
        hidden = model.hidden(model.tensor(alone)[None], states)[0]
        return states.units, hidden[own.start - 1 : own.stop - 1] if own.start else hidden[own.start : own.stop - 1]

    units, first = run(before)
    targets = before.tensor(np.ascontiguousarray(alone[own.stop - len(first) :]))[:, None]
    base = _Predictions(before, first, targets)
    found = Reaction(
        np.full((len(after), before.n_layers), np.nan),
        np.full((len(after), before.n_layers + 1), np.nan),
        np.full(len(after), np.nan),
        np.full(len(after), np.nan),
    )
    for line, model in enumerate(after):
        other, hidden = run(model)
        drift = [(a - b).square().sum(-1).mean(-1) * 0.5 for a, b in zip(other, units, strict=True)]
        found.drift[line] = torch.stack(drift).double().cpu().numpy()
        found.shift[line], found.nll[line] = base.against(hidden, model)
    return found


class _Predictions:
    """The predictive distributions of the probe alone, and what another run's differ by."""

    def __init__(self, model: Model, hidden: Tensor, targets: Tensor) -> None:
        self._model, self._hidden, self._targets = model, hidden, targets
        small = len(hidden) * model.vocab_size <= _KEPT
        self._kept = list(self._blocks(hidden, model)) if small else None

    def _blocks(self, hidden: Tensor, model: Model) -> Iterator[tuple[Tensor, Tensor]]:
        """Probabilities (rows, V) and NLL (rows,) of a few rows after the other, as many as stay in the processor's cache."""
        rows, together = self._model.tile()
        for start in range(0, len(hidden), rows):
            logits = model.logits(hidden[start : start + rows]).float()
            targets = self._targets[start : start + rows]
            for part, wanted in zip(torch.split(logits, together), torch.split(targets, together), strict=True):
                log_p = torch.log_softmax(part, -1)
                nll = -log_p.gather(1, wanted)[:, 0]
                yield log_p.exp_(), nll

    def against(self, hidden: Tensor, model: Model | None = None) -> tuple[float, float]:
        """Mean total variation and mean change of NLL of the same rows of another run, of another model where one is given."""
        base = self._kept or self._blocks(self._hidden, self._model)
        shift = change = 0.0
        for (p, nll), (q, other) in zip(base, self._blocks(hidden, model or self._model), strict=True):
            # a row adds up in its own numbers: a copy in double costs more than all the rest
            shift += float(q.sub_(p).abs_().sum(-1).sum(dtype=torch.float64)) / 2
            change += float((other - nll).sum(dtype=torch.float64))
        return min(shift / len(self._hidden), 1.0), change / len(self._hidden)


def _layout(model: Model, rows: Sequence[np.ndarray], sizes: Sequence[int], before: int, n: int) -> Layout:
    """Bins: 0 the first token, 1 the rest of the context, 2 the text, 3 the probe; queries are the probe's tokens."""
    length = max(map(len, rows))
    bins, keep = np.full((len(rows), length), -1, np.int64), np.zeros((len(rows), 2, length), np.float32)
    for line, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        bins[line, : len(row)] = 1
        bins[line, before : before + size] = 2
        bins[line, len(row) - n : len(row)] = 3
        bins[line, 0] = 0
        keep[line, 0, len(row) - n : len(row)] = 1
    pairs = np.zeros((len(rows), 0, 2), np.int64)
    return Layout(model.tensor(bins), model.tensor(keep), model.tensor(pairs))


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Numbers of the texts in groups of similar length, each of at most ``budget`` padded tokens."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
