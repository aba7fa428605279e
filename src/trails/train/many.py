"""Many small adapters side by side on one frozen model.

Every linear layer of the decoder gets the low-rank updates of ``R`` adapters added, as batched products; the rows of a
batch belong to the adapters in equal parts, those of the first adapter first. The frozen weights are read once for all
adapters, the losses are those of :mod:`trails.train.loss`, and no adapter sees another one's rows or gradients. A test holds
each adapter equal to the one that :func:`trails.train.loop.fit` trains alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trails.errors import UsageError
from trails.platform.text import counted
from trails.train.attention import attending, tapped, target_terms
from trails.train.data import Collator, Row
from trails.train.loop import batches
from trails.train.loss import labelled_logits, shifted, token_loss, token_nll

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Those of AdamW in :func:`trails.train.loop.fit`."""


@dataclass(frozen=True, slots=True)
class Job:
    """One adapter to train: its rows in the order fed, the seed of its first weights, its learning rate.

    ``layers`` are the only ones it has, 1 … L (empty: all); ``rank`` is its own (0: that of the options, the most there is).
    ``start`` are weights (P,) to begin with instead of those that the seed draws: an adapter's row of :attr:`Adapters.flat`.
    """

    rows: Sequence[Row]
    seed: int
    learning_rate: float
    layers: tuple[int, ...] = ()
    rank: int = 0
    start: Tensor | None = None


class SideBySide(nn.Module):
    """A frozen linear layer with the updates of all adapters; without ``pair`` it is the layer alone."""

    def __init__(self, base: nn.Linear, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.pair: tuple[Tensor, Tensor] | None = None  # (R, r, in), (R, out, r)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (R · b, T, in), or any shape whose first dimension divides by R."""
        y: Tensor = self.base(x)
        if self.pair is None:
            return y
        a, b = self.pair
        if x.shape[0] % len(a):
            raise ValueError(
                f"{counted(x.shape[0], 'row')} cannot be divided among {counted(len(a), 'adapter')} in equal parts"
            )
        rows = x.reshape(len(a), -1, x.shape[-1])  # (R, b · T, in)
        update = torch.bmm(torch.bmm(rows, a.mT), b.mT)
        return y + self.scale * update.reshape(y.shape)


class Adapters:
    """``R`` adapters in all linear layers of a model's decoder, as PEFT's ``all-linear`` chooses them.

    Their weights are one tensor ``flat`` (R, P): for each layer ``A`` (r, in), then ``B`` (out, r). ``A`` begins as PEFT's does
    for the same seed, ``B`` at 0, so that every adapter begins as the model itself. Where a job has no adapter, or a lower
    rank, both are 0: their gradients are then 0 as well, and they stay so. ``alpha`` over ``rank`` is the scale of all.
    """

    def __init__(self, model: Any, jobs: Sequence[Job], *, rank: int = 8, alpha: int = 16) -> None:
        self.model, self.count, self.rank = model, len(jobs), rank
        self.device = next(model.parameters()).device
        head = model.get_output_embeddings()
        self.places: list[tuple[nn.Module, str, nn.Linear]] = []
        self.names: list[str] = []
        owners = dict(model.named_modules())
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and module is not head:
                parent, _, child = name.rpartition(".")
                self.places.append((owners[parent], child, module))
                self.names.append(name)
        if not self.places:
            raise UsageError("the model has no linear layer below its head that an adapter could be added to")
        self.layers = [SideBySide(base, alpha / rank) for _, _, base in self.places]
        self.sizes: list[int] = []
        for _, _, base in self.places:
            self.sizes += [rank * base.in_features, base.out_features * rank]
        shapes = [(base.in_features + base.out_features, _layer(name)) for name, base in self._linear()]
        self.trainable = [
            sum(size * (job.rank or rank) for size, layer in shapes if not job.layers or layer in job.layers)
            for job in jobs
        ]
        """Trained numbers of every adapter."""
        self.flat = torch.stack([self._start(job).to(self.device) for job in jobs]).requires_grad_(True)

    def _linear(self) -> list[tuple[str, nn.Linear]]:
        return [(name, base) for name, (_, _, base) in zip(self.names, self.places, strict=True)]

    def _start(self, job: Job) -> Tensor:
        """First weights of one adapter (P,): the draws that PEFT makes for this seed, these layers and this rank, in its order.

        Raises UsageError for a rank above that of the others, and for a layer that the model does not have.
        """
        if job.start is not None:
            return job.start.detach().clone()
        rank = job.rank or self.rank
        missing = set(job.layers) - {_layer(name) for name in self.names}
        if rank > self.rank or missing:
            what = f"rank {rank}, of {self.rank}" if rank > self.rank else f"layer {min(missing)}, which does not exist"
            raise UsageError(f"an adapter was asked for with {what}. Choose fewer")
        generator = torch.get_rng_state()
        torch.manual_seed(job.seed)
        parts = []
        for name, base in self._linear():
            first = torch.zeros(self.rank, base.in_features)
            if not job.layers or _layer(name) in job.layers:
                a = nn.Linear(base.in_features, rank, bias=False)
                nn.Linear(rank, base.out_features, bias=False)  # PEFT draws B before it sets it to 0
                nn.init.kaiming_uniform_(a.weight, a=math.sqrt(5))
                first[:rank] = a.weight.detach()
            parts += [first.reshape(-1), torch.zeros(base.out_features * self.rank)]
        torch.set_rng_state(generator)
        return torch.cat(parts)

    def set(self, on: bool = True) -> None:
        """Use the adapters, or the frozen model alone."""
        if not on:
            for layer in self.layers:
                layer.pair = None
            return
        parts = torch.split(self.flat, self.sizes, dim=1)
        for number, layer in enumerate(self.layers):
            base = layer.base
            a = parts[2 * number].reshape(self.count, self.rank, base.in_features)
            b = parts[2 * number + 1].reshape(self.count, base.out_features, self.rank)
            layer.pair = (a.to(base.weight.dtype), b.to(base.weight.dtype))

    def state(self, index: int) -> dict[str, Tensor]:
        """One adapter as PEFT names its weights."""
        found = {}
        parts = torch.split(self.flat.detach()[index], self.sizes)
        for number, (name, layer) in enumerate(zip(self.names, self.layers, strict=True)):
            prefix = f"base_model.model.{name}"
            found[f"{prefix}.lora_A.weight"] = parts[2 * number].reshape(self.rank, layer.base.in_features).clone()
            found[f"{prefix}.lora_B.weight"] = parts[2 * number + 1].reshape(layer.base.out_features, self.rank).clone()
        return found

    @contextmanager
    def installed(self) -> Iterator[Adapters]:
        """Put the layers into the model; the model is as it was afterwards."""
        frozen = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)
        for (owner, child, _), layer in zip(self.places, self.layers, strict=True):
            setattr(owner, child, layer)
        try:
            yield self
        finally:
            for (owner, child, base), layer in zip(self.places, self.layers, strict=True):
                layer.pair = None
                setattr(owner, child, base)
            for parameter in frozen:
                parameter.requires_grad_(True)


def _layer(name: str) -> int:
    """Number of the decoder layer that a module belongs to, from 1; 0 outside of them."""
    found = re.search(r"\blayers?\.(\d+)\.", name)
    return int(found.group(1)) + 1 if found else 0


class Adam:
    """AdamW without decay on (R, P), each adapter with its own rate, its gradient cut to a norm of at most ``most``."""

    def __init__(self, flat: Tensor, rates: Sequence[float], most: float) -> None:
        self.flat, self.most, self.steps = flat, most, 0
        self.rates = torch.tensor(rates, dtype=flat.dtype, device=flat.device)[:, None]
        self.first, self.second = torch.zeros_like(flat), torch.zeros_like(flat)

    @torch.no_grad()
    def step(self) -> None:
        """One step on ``flat.grad``, which is cleared."""
        gradient = self.flat.grad
        assert gradient is not None
        norm = gradient.norm(dim=1, keepdim=True)
        gradient = gradient * (self.most / (norm + 1e-6)).clamp(max=1.0)
        self.steps += 1
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        size = self.rates / (1 - BETAS[0] ** self.steps)
        below = (self.second / (1 - BETAS[1] ** self.steps)).sqrt_().add_(EPSILON)
        self.flat.sub_(size * self.first / below)
        self.flat.grad = None


def mixed(adapters: Adapters, ranks: Sequence[int], chosen: Sequence[int], weights: Sequence[float]) -> Adapters:
    """One adapter whose change of every weight is the weighted sum of those of the ``chosen`` ones, as
    :func:`trails.train.adapter.mix_adapters` makes it of folders: their factors side by side. ``ranks`` are those of the
    chosen; the scale of an update, alpha over rank, is that of ``adapters``.
    """
    scale = adapters.layers[0].scale
    rank = sum(ranks)
    found = Adapters(adapters.model, [Job((), 0, 0.0)], rank=rank)
    parts = torch.split(adapters.flat.detach(), adapters.sizes, dim=1)
    whole = []
    for number, layer in enumerate(adapters.layers):
        a = parts[2 * number].reshape(adapters.count, adapters.rank, layer.base.in_features)
        b = parts[2 * number + 1].reshape(adapters.count, layer.base.out_features, adapters.rank)
        whole.append(torch.cat([a[k, :r] for k, r in zip(chosen, ranks, strict=True)]).reshape(-1))
        share = [w * b[k, :, :r] for k, r, w in zip(chosen, ranks, weights, strict=True)]
        whole.append(torch.cat(share, 1).reshape(-1))
    found.flat = torch.cat(whole)[None]
    for layer in found.layers:
        layer.scale = scale
    return found


@contextmanager
def fit_many(
    model: Any,
    jobs: Sequence[Job],
    options: Any,
    *,
    on_step: Callable[[int, list[float], Adapters], None] | None = None,
    feed: Callable[[int, list[list[Row]], Adapters], list[list[Row]]] | None = None,
    tokens: int = 16384,
) -> Iterator[Adapters]:
    """Train one adapter for each job, ``options.steps`` steps of ``options.batch`` rows; within the block they are in use.

    ``on_step`` is called after every step with its number, the losses and the adapters in use; ``feed`` before every step with
    its number, each adapter's rows and the adapters in use, and gives the rows that are trained on. ``tokens`` is the largest
    number of padded tokens of one forward pass: a step of more is done in parts of some rows of every adapter, with the same
    gradient. The learning rate is constant and the model is as it was afterwards.

    An adapter whose job has rows with targets (:class:`trails.train.attention.Target`) is trained by the objective attention
    with ``options.lm_share`` of the language-model loss, every other one by the language-model loss alone.
    """
    adapters = Adapters(model, jobs, rank=options.rank, alpha=options.alpha)
    optimiser = Adam(adapters.flat, [job.learning_rate for job in jobs], options.max_grad_norm)
    feeds = [batches(job.rows, options.batch) for job in jobs]
    aimed = [any(row.get("targets") for row in job.rows) for job in jobs]
    parts = torch.tensor([options.lm_share if one else 1.0 for one in aimed], device=adapters.device)
    training = model.training
    with adapters.installed():
        adapters.set(on=True)
        with attending(model) if any(aimed) else nullcontext():
            for step in range(1, options.steps + 1):
                rows = [next(mine) for mine in feeds]
                rows = rows if feed is None else feed(step, rows, adapters)
                model.train()
                losses = _step(adapters, rows, tokens, parts)
                optimiser.step()
                adapters.set(on=True)
                model.eval()
                if on_step is not None:
                    on_step(step, losses, adapters)
        model.train(training)
        yield adapters


def _step(adapters: Adapters, rows: Sequence[Sequence[Row]], tokens: int, parts: Tensor) -> list[float]:
    """Losses and gradients of one step. Each adapter's loss is the sum over its labelled tokens, over their number, times its
    share of ``parts`` (R,), and the mean over its targets.
    """
    count = len(rows)
    asked = [sum(len(row.get("targets") or ()) for row in mine) for mine in rows]
    labelled = [max(sum(label != -100 for row in mine for label in row["labels"][1:]), 1) for mine in rows]
    share = parts / torch.tensor(labelled, dtype=torch.float32, device=adapters.device)
    total = torch.zeros(count, device=adapters.device)
    size = max(map(len, rows))
    longest = max(len(row["input_ids"]) for mine in rows for row in mine)
    per = max(1, tokens // (count * longest))
    collate = Collator(bins=any(asked))
    for start in range(0, size, per):
        # a feed that ends its pass has fewer rows: an empty row keeps the parts equal and carries no label
        width = min(per, size - start)
        part = [row for mine in rows for row in _filled(mine[start : start + width], width)]
        collated = collate(part)
        batch = {k: v.to(adapters.device) for k, v in collated.items() if torch.is_tensor(v)}
        predicts, targets, weights = shifted(batch["labels"], batch["loss_weights"])
        adapters.set(on=True)
        with ExitStack() as stack:
            tap = stack.enter_context(tapped(None, collated["targets"])) if any(asked) else None
            stack.enter_context(labelled_logits(adapters.model, predicts))
            out = adapters.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        owner = torch.nonzero(predicts)[:, 0] // width
        loss = token_loss(token_nll(out.logits[0], targets), weights, "lm") * share[owner]
        if tap is not None and (away := target_terms(tap)):
            whose = [row // width for row, _ in away]
            more = torch.stack([term / asked[one] for one, (_, term) in zip(whose, away, strict=True)])
            loss, owner = torch.cat([loss, more]), torch.cat([owner, torch.tensor(whose, device=owner.device)])
        torch.autograd.backward(loss.sum())
        total.index_add_(0, owner, loss.detach())
    return [float(value) for value in total]


def _filled(rows: Sequence[Row], width: int) -> list[Row]:
    empty = {"input_ids": [0], "labels": [-100], "loss_weights": [0.0], "step_spans": [], "offset": 0, "chain": ""}
    return [*rows, *[empty] * (width - len(rows))]
