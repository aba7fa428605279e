"""What one attention layer gives away, reduced while the layer runs.

:func:`install` registers an attention function under the name ``trails`` with transformers' attention interface. With no
:class:`Recorder` active it is plain scaled dot-product attention. With one, it computes the same output in blocks of
queries and reduces each block's weights at once: nothing of size T × T outlives a block.

The weights of a block are needed in full (softmax over all keys), the heads only as their mean, and the keys only as bins:
position 0 (sink), the rest of the context, step 0, step 1, …
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, library

from trails.errors import ModelError
from trails.measure import hopper, kernels
from trails.measure.metrics import attention_shift, hidden_shift, unit_rows

NAME = "trails"
_LAYERS_AT_ONCE = 32
_MASKED = -1e30  # finite, so that weight × score is 0 and not NaN where the weight is 0


@dataclass(slots=True)
class Layout:
    """What the positions of a padded batch are.

    ``bins`` (B, T): bin of each position as a key: 0 = first token of the sequence, 1 = rest of the context, s + 2 = step s;
    padding has -1. ``keep`` (B, S, T): weight 1 where a position counts as a query of step s.
    ``pairs`` (B, P, 2): random pairs of positions for the anisotropy baseline. ``narrow``: few bins in every block of keys, see
    :func:`trails.measure.hopper.fits`.
    """

    bins: Tensor
    keep: Tensor
    pairs: Tensor
    narrow: bool = False
    _plain: Tensor | None = None
    _kernel: tuple[Tensor, Tensor, Tensor] | None = None
    _one_pass: tuple[Tensor, Tensor] | None = None

    @property
    def count(self) -> int:
        """K, the number of bins."""
        return int(self.keep.shape[1]) + 2

    def by_step(self, values: Tensor) -> Tensor:
        """Sums (B, S, w) of ``values`` (B, T, w) over the queries of each step."""
        return torch.bmm(self.keep, values)

    @property
    def one_hot(self) -> Tensor:
        """(B, T, K) float32: 1 where a key lies in a bin."""
        if self._plain is None:
            self._plain = self._one_hot(self.count, torch.float32)
        return self._plain

    def _one_hot(self, width: int, dtype: torch.dtype) -> Tensor:
        return (self.bins.unsqueeze(-1) == torch.arange(width, device=self.bins.device)).to(dtype)

    def for_kernel(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """For the CUDA kernel: one-hot bins in its width and dtype, the first key of each chunk of bins, and the positions
        (B, S, 2) that count as queries of each step (they are consecutive).
        """
        if self._kernel is None:
            width = kernels.padded_bins(self.count)
            kept = self.keep > 0
            first = kept.int().argmax(-1)
            spans = torch.stack((first, first + kept.sum(-1)), -1).int().contiguous()
            self._kernel = (self._one_hot(width, dtype), kernels.chunk_edges(self.bins, width), spans)
        return self._kernel

    def for_one_pass(self) -> tuple[Tensor, Tensor]:
        """For the kernel of one pass: first bins of the blocks of keys, and one-hot bins from there on."""
        if self._one_pass is None:
            self._one_pass = hopper.block_bins(self.bins)
        return self._one_pass


@dataclass(slots=True)
class NearLayout:
    """As :class:`Layout`, for chains of very many steps: of every step the masses on the first two bins and on the nearest
    ``near`` steps are kept, its own as the last. Nothing of size T × S is made; the masses on all steps exist for a block of
    queries at a time.

    ``bins`` (B, T) as there; ``queries`` (B, T): the step that a position counts as a query of, -1 = none; ``steps``: S.
    """

    bins: Tensor
    queries: Tensor
    pairs: Tensor
    steps: int
    near: int

    @property
    def count(self) -> int:
        """K, the number of bins."""
        return self.steps + 2

    def by_step(self, values: Tensor) -> Tensor:
        """Sums (B, S, w) of ``values`` (B, T, w) over the queries of each step."""
        sums = values.new_zeros(len(values), self.steps + 1, values.shape[-1])
        self.add(sums, values, 0)
        return sums[:, :-1]

    def add(self, sums: Tensor, values: Tensor, start: int) -> None:
        """Add the ``values`` (B, n, w) of the positions from ``start`` on to ``sums`` (B, S + 1, w) of their steps; what counts
        for no step goes to the last place.
        """
        step = self.queries[:, start : start + values.shape[1]]
        step = torch.where(step < 0, self.steps, step)
        sums.scatter_add_(1, step.unsqueeze(-1).expand_as(values), values)


@dataclass(slots=True)
class NearMasses:
    """The masses of one layer of a :class:`NearLayout`, block after block of queries.

    ``masses`` (B, T, near + 2): of each query the first two bins, then the steps up to its own; places before step 0 hold
    numbers that nobody reads. ``shift`` (B, T) over all bins; ``sums`` (B, S + 1, near + 2) of the masses by step.
    """

    layout: NearLayout
    masses: Tensor
    shift: Tensor
    sums: Tensor
    _last: Tensor | None = None  # all masses of the query before the block

    @staticmethod
    def empty(layout: NearLayout) -> NearMasses:
        """Before the first block."""
        (batch, length), width = layout.bins.shape, layout.near + 2
        masses = torch.empty(batch, length, width, device=layout.bins.device)
        sums = masses.new_zeros(batch, layout.steps + 1, width)
        return NearMasses(layout, masses, masses.new_full((batch, length), torch.nan), sums)

    def take(self, mean: Tensor, start: int) -> None:
        """Take the head-mean weights (B, n, keys) of the queries from ``start`` on."""
        layout, (batch, n, keys) = self.layout, mean.shape
        bins = layout.bins.clamp_min(0)
        whole = mean.new_zeros(batch, n, layout.count)
        whole.scatter_add_(2, bins[:, None, :keys].expand_as(mean), mean)
        before = whole[:, :-1] if self._last is None else torch.cat((self._last, whole[:, :-1]), 1)
        first = n - before.shape[1]  # position 0 has no previous token
        self.shift[:, start + first : start + n] = (whole[:, first:] - before).abs_().sum(-1).mul_(0.5)
        own = (bins[:, start : start + n, None] - 2).clamp_min(0)
        near = (own + torch.arange(1 - layout.near, 1, device=own.device)).clamp_min(0) + 2
        kept = whole.gather(2, torch.cat((torch.zeros_like(own), torch.ones_like(own), near), 2))
        self.masses[:, start : start + n] = kept
        layout.add(self.sums, kept, start)
        self._last = whole[:, -1:].clone()

    def layer(self, previous: Tensor, entropy: Tensor) -> LayerAttention:
        """The layer, after the last block."""
        return LayerAttention(
            self.masses, previous, entropy, self.shift, self.masses[:, :, 0].clone(), self.sums[:, :-1]
        )


@dataclass(slots=True)
class LayerAttention:
    """Head means of one layer: bin masses (B, T, K), mass on the previous position and row entropy (B, T). The masses of a
    :class:`NearLayout` are (B, T, near + 2).

    ``shift`` and ``sink`` (B, T) and the sums of the masses over each step's queries, ``steps`` (B, S, K), are set where
    a kernel has computed them already.
    """

    masses: Tensor
    previous: Tensor
    entropy: Tensor
    shift: Tensor | None = None
    sink: Tensor | None = None
    steps: Tensor | None = None


@dataclass
class Recorder:
    """Collects the reductions of one forward pass, layer by layer. L grows as the layers run."""

    layout: Layout | NearLayout
    peaks: int = 0
    token_attention: bool = False
    state_layers: tuple[int, ...] = ()
    attention_shift: list[Tensor] = field(default_factory=list)  # L × (B, T)
    attention_previous: list[Tensor] = field(default_factory=list)
    attention_sink: list[Tensor] = field(default_factory=list)
    attention_entropy: list[Tensor] = field(default_factory=list)
    step_masses: list[Tensor] = field(
        default_factory=list
    )  # L × (B, S, K or near + 2): sums over the queries of a step
    hidden_shift: list[Tensor] = field(default_factory=list)  # L+1 × (B, T)
    baseline: list[Tensor] = field(default_factory=list)  # L+1 × (B, P)
    states: list[Tensor] = field(default_factory=list)  # len(state_layers) × (B, S, d): sums over the kept positions
    mass_sum: Tensor | None = None  # (B, T, K or near + 2) over layers
    mass_top: Tensor | None = None  # largest over layers
    mass_layer: Tensor | None = None
    peak: Peaks | None = None
    _room: dict[str, Tensor] = field(default_factory=dict)  # on a CPU: memory of the layers to come
    known_left_out: tuple[bool, ...] = ()  # the masks to be left out, see trails_mask
    left_out: list[bool] = field(default_factory=list)  # for every mask of the pass, whether it was

    def attention(self, layer: LayerAttention) -> None:
        """Take one attention layer."""
        index = len(self.attention_shift)
        self._keep("attention_shift", attention_shift(layer.masses) if layer.shift is None else layer.shift)
        self._keep("attention_previous", layer.previous)
        self._keep("attention_sink", layer.masses[:, :, 0].clone() if layer.sink is None else layer.sink)
        self._keep("attention_entropy", layer.entropy)
        self._keep("step_masses", self.layout.by_step(layer.masses) if layer.steps is None else layer.steps)
        if self.token_attention:
            if self.mass_sum is None or self.mass_top is None or self.mass_layer is None:
                self.mass_sum, self.mass_top = layer.masses.clone(), layer.masses.clone()
                self.mass_layer = torch.zeros_like(layer.masses, dtype=torch.int32)
            else:
                self.mass_sum += layer.masses
                self.mass_layer.masked_fill_(layer.masses > self.mass_top, index)
                torch.maximum(self.mass_top, layer.masses, out=self.mass_top)

    def _keep(self, name: str, values: Tensor) -> None:
        """Append to the list ``name``. On a CPU a copy, in memory taken for many layers at once: a small tensor that stays
        behind every layer would break the heap into pieces too short for the next (0.2 GB at 2,048 tokens).
        """
        kept: list[Tensor] = getattr(self, name)
        if values.device.type != "cpu":
            kept.append(values)
            return
        place = len(kept) % _LAYERS_AT_ONCE
        if not place:
            self._room[name] = values.new_empty(_LAYERS_AT_ONCE, *values.shape)
        kept.append(self._room[name][place].copy_(values))

    def hidden(self, state: Tensor) -> None:
        """Take the residual stream before layer 0, then after each layer: (B, T, d)."""
        index = len(self.hidden_shift)
        if index in self.state_layers:
            self.states.append(self.layout.by_step(state.float()))
        if kernels.usable(state):
            try:
                shift, pairs = kernels.hidden_shift(state, self.layout.pairs)
                self.hidden_shift.append(shift)
                self.baseline.append(pairs)
                return
            except Exception as error:  # Triton's errors have no common base
                kernels.failed(error)
        unit = unit_rows(state)
        self._keep("hidden_shift", hidden_shift(unit))
        if self.layout.pairs.shape[1]:
            row = torch.arange(len(unit), device=unit.device).unsqueeze(1)
            left, right = unit[row, self.layout.pairs[..., 0]], unit[row, self.layout.pairs[..., 1]]
            self._keep("baseline", (left - right).square().sum(-1).mul_(0.5))
        else:
            self._keep("baseline", unit.new_full((len(unit), 1), torch.nan))

    def weights(self, weights: Tensor) -> None:
        """Take a layer whose head weights (B, H, T, T) the model itself computed."""
        weights = weights.float()
        previous = torch.full_like(weights[:, 0, :, 0], torch.nan)
        mean = weights.mean(1)
        previous[:, 1:] = mean.diagonal(offset=-1, dim1=1, dim2=2)
        entropy = torch.special.entr(weights).sum(-1).mean(1)
        if isinstance(self.layout, Layout):
            self.attention(LayerAttention(torch.bmm(mean, self.layout.one_hot), previous, entropy))
        else:
            near, (batch, heads, length, _) = NearMasses.empty(self.layout), weights.shape
            rows, _ = _block(batch, heads, heads, length, mean.device)
            for start in range(0, mean.shape[1], rows):
                near.take(mean[:, start : start + rows], start)
            self.attention(near.layer(previous, entropy))
        if self.peaks:
            self.take_peaks(mean, 0, len(self.attention_shift) - 1)

    def take_peaks(self, mean: Tensor, first: int, layer: int) -> None:
        """Merge the strongest keys of a block of queries (``first`` …) of one layer into the running peaks."""
        if self.peak is None:
            self.peak = Peaks.empty(self.layout.bins, self.peaks)
        self.peak.merge(mean, self.layout.bins >= 2, first, layer)


@dataclass(slots=True)
class Peaks:
    """For every query the k chain tokens of largest head-mean weight in any layer, beyond itself, the previous and the first.

    A key among the k best over all layers is among the k best of the layer where it is strongest, so merging the k best
    of each layer is exact.
    """

    token: Tensor  # (B, T, k) position, -1 = none
    mass: Tensor  # (B, T, k)
    layer: Tensor  # (B, T, k)

    @staticmethod
    def empty(bins: Tensor, k: int) -> Peaks:
        """No peaks yet, for a batch of the shape of ``bins``."""
        token = torch.full((*bins.shape, k), -1, dtype=torch.int64, device=bins.device)
        return Peaks(token, torch.full(token.shape, -1.0, device=bins.device), token.clone())

    def merge(self, mean: Tensor, chain: Tensor, first: int, layer: int) -> None:
        """``mean`` (B, q, keys): head-mean weights of queries ``first`` … in ``layer``; ``chain`` (B, T): may be a peak."""
        k, (_, queries, keys) = self.token.shape[-1], mean.shape
        row = torch.arange(first, first + queries, device=mean.device).unsqueeze(1)
        column = torch.arange(keys, device=mean.device)
        # candidates: tokens of the chain (a context-free first token counts as the sink), earlier than the previous one
        mean = mean.masked_fill((column >= row - 1) | ~chain[:, None, :keys], -1.0)
        best = mean.topk(min(k, keys), dim=-1)
        span = slice(first, first + queries)
        mass = torch.cat((self.mass[:, span], best.values), -1)
        token = torch.cat((self.token[:, span], torch.where(best.values >= 0, best.indices, -1)), -1)
        depth = torch.cat((self.layer[:, span], torch.full_like(best.indices, layer)), -1)
        order = mass.argsort(dim=-1, descending=True, stable=True)
        mass, token, depth = (x.gather(-1, order) for x in (mass, token, depth))
        # the same key may come from two layers: keep its stronger entry, which is the earlier one
        twin = (token.unsqueeze(-1) == token.unsqueeze(-2)).tril(-1).any(-1) | (token < 0)
        mass = mass.masked_fill(twin, -1.0)
        kept = mass.topk(k, dim=-1)
        self.mass[:, span] = kept.values
        self.token[:, span] = torch.where(kept.values >= 0, token.gather(-1, kept.indices), -1)
        self.layer[:, span] = torch.where(kept.values >= 0, depth.gather(-1, kept.indices), -1)


def _block(batch: int, heads: int, groups: int, keys: int, device: torch.device) -> tuple[int, int]:
    """Queries and key heads per block.

    On a GPU all heads, scores of 256 MB. On a CPU all heads where 32 queries have scores of 0.5 MB; with longer chains one
    key head at a time, 2 MB of scores: that many queries keep two threads busy in every product.
    """
    if device.type != "cpu":
        return max(32, 2**26 // max(1, batch * heads * keys)), groups
    rows = 2**17 // max(1, batch * heads * keys)
    if rows >= 32:
        return rows, groups
    return max(32, 2**19 // (batch * (heads // groups) * keys)), 1


def _later(rows: int, device: torch.device) -> Tensor:
    """(rows, rows): 0 where a key is not later than its query, a very negative number where it is."""
    return torch.full((rows, rows), _MASKED, device=device).triu_(1)


def blocked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    softcap: float | None,
    recorder: Recorder | None,
) -> tuple[Tensor, LayerAttention | None]:
    """Causal attention in blocks of queries and heads, with the reductions of each block.

    ``query`` (B, H, T, d), ``key`` (B, G, T, d) and ``value`` (B, G, T, e), G dividing H (grouped-query heads are not
    copied). ``mask``: None = causal, bool (True = may attend) or additive, broadcastable to (B, H, T, T); it must not
    let a query see a later key.
    Returns the output (B, H, T, e) and, with a recorder, the layer's reductions.
    """
    B, H, T, d = query.shape
    G = key.shape[1]
    out = query.new_empty(B, T, H, value.shape[-1]).transpose(1, 2)
    layer = near = None
    if recorder is not None:
        near = None if isinstance(recorder.layout, Layout) else NearMasses.empty(recorder.layout)
        masses = query.new_empty(B, T, recorder.layout.count, dtype=torch.float32) if near is None else near.masses
        layer = LayerAttention(masses, masses.new_full((B, T), torch.nan), masses.new_empty(B, T))
    rows, together = _block(B, H, G, T, query.device)
    rows = min(rows, T)
    later = _later(rows, query.device)
    for start in range(0, T, rows):
        end = min(T, start + rows)
        n = end - start
        mean = entropy = None  # sums over heads
        for group in range(0, G, together):
            groups = slice(group, min(G, group + together))
            g, heads = groups.stop - group, slice(group * H // G, groups.stop * H // G)
            h = heads.stop - heads.start
            q = (query[:, heads, start:end] * scaling).reshape(B, g, h // g * n, d)
            k, v = key[:, groups, :end], value[:, groups, :end]
            scores = _product(q, k.transpose(-1, -2)).float()
            scores = scores.view(B, h, n, end)
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            if mask is None:
                scores[..., start:] += later[:n, :n]
            else:
                seen = mask[:, heads if mask.shape[1] > 1 else slice(None), start:end, :end]
                if mask.dtype == torch.bool:
                    scores.masked_fill_(~seen, _MASKED)
                else:
                    scores += seen
                    scores.clamp_min_(_MASKED)
            weights = torch.softmax(scores, -1)
            mixed = _product(weights.to(value.dtype).view(B, g, -1, end), v)
            out[:, heads, start:end] = mixed.view(B, h, n, -1)
            if recorder is None:
                continue
            # entropy = logsumexp - Σ weight × score; the logsumexp from the largest weight and its score
            log_sum = scores.amax(-1) - weights.amax(-1).log_()
            part = (log_sum - scores.mul_(weights).sum(-1)).sum(1)
            entropy = part if entropy is None else entropy.add_(part)
            mean = weights.sum(1) if mean is None else mean.add_(weights.sum(1))
        if recorder is None or layer is None or mean is None or entropy is None:
            continue
        mean /= H  # (B, n, keys)
        layer.entropy[:, start:end] = entropy / H
        if isinstance(recorder.layout, Layout):
            layer.masses[:, start:end] = torch.bmm(mean, recorder.layout.one_hot[:, :end])
        elif near is not None:
            near.take(mean, start)
        first = max(start, 1)  # position 0 has no previous token
        layer.previous[:, first:end] = mean[:, first - start :].diagonal(offset=first - 1, dim1=1, dim2=2)
        if recorder.peaks:
            recorder.take_peaks(mean, start, len(recorder.attention_shift))
    if layer is not None and near is not None:
        layer = near.layer(layer.previous, layer.entropy)
    return out, layer


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product of (B, g, …) pairs. A single pair is multiplied as such: a batch is given to threads whole."""
    if left.shape[:2] != (1, 1):
        return torch.matmul(left, right)
    return torch.mm(left[0, 0], right[0, 0])[None, None]


_active: Recorder | None = None


@contextmanager
def recording(recorder: Recorder | None) -> Iterator[None]:
    """While inside, attention layers report to ``recorder``."""
    global _active
    before, _active = _active, recorder
    try:
        yield
    finally:
        _active = before


def trails_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function under the name ``trails``; the signature is transformers'. Returns (B, T, H, e).

    Raises ModelError for a variant that it does not compute exactly.
    """
    for name in ("s_aux", "sinks", "position_bias"):
        if kwargs.get(name) is not None:
            raise ModelError(
                f"{type(module).__name__} adds {name!r} to its attention, which trails does not measure exactly. "
                "Use another model."
            )
    if is_causal is False or not getattr(module, "is_causal", True):
        raise ModelError(
            f"{type(module).__name__} is not causal: its tokens see later tokens, so a transition has no surprisal. "
            "Use a causal language model."
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if torch.compiler.is_compiling():
        output: Tensor = torch.ops.trails.observed_attention(query, key, value, attention_mask, scale, softcap)
        return output, None
    if _active is None and softcap is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scale, is_causal=is_causal
        )
        return output, None
    return _observed_attention(query, key, value, attention_mask, scale, softcap), None


def _observed_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """Output (B, T, H, e); the active recorder, if any, takes the layer's reductions."""
    recorder = _active
    if recorder is None and softcap is None:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, mask, is_causal=mask is None, scale=scale, enable_gqa=True
        )
        return out.transpose(1, 2).contiguous()
    if recorder is not None and mask is None and softcap is None and not recorder.peaks:
        fused = None
        if isinstance(recorder.layout, Layout):  # the kernel's masses are those on all bins
            fused = _fused_attention(query, key, value, scale, recorder, recorder.layout)
        if fused is not None:
            return fused
    out, layer = blocked_attention(query, key, value, mask, scale, softcap, recorder)
    if recorder is not None and layer is not None:
        recorder.attention(layer)
    return out.transpose(1, 2).contiguous()


# The operator that a compiled layer calls. That it reports to the recorder is hidden from the compiler, and may be: its output
# is used, once, so that it is neither left out nor called twice, and a layer waits for the layer before.
_library = library.Library("trails", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "observed_attention(Tensor query, Tensor key, Tensor value, Tensor? mask, float scale, float? softcap) -> Tensor"
)
_library.impl("observed_attention", _observed_attention, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]


@library.register_fake("trails::observed_attention", lib=_library)  # type: ignore[untyped-decorator]
def _observed_attention_shape(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    B, H, T, _ = query.shape
    return query.new_empty(B, T, H, value.shape[-1])


def _fused_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, recorder: Recorder, layout: Layout
) -> Tensor | None:
    """The CUDA kernel's output (B, T, H, e), its reductions given to the recorder; None where it does not apply."""
    if not kernels.usable(query) or not kernels.attention_fits(query, key, value):
        return None
    found = None
    one_hot, edges, spans = layout.for_kernel(query.dtype)
    if layout.narrow and hopper.usable(query, key, value):
        try:
            found = hopper.attention(query, key, value, scale, *layout.for_one_pass(), spans, one_hot.shape[-1])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # Gluon's errors have no common base
            hopper.failed(error, query.device)
    if found is None:
        try:
            found = kernels.attention(query, key, value, scale, one_hot, edges, spans)
        except Exception as error:  # Triton's errors have no common base
            kernels.failed(error)
            return None
    out, masses, steps, rows = found
    shift, previous, sink, entropy = rows.unbind()
    recorder.attention(LayerAttention(masses[..., : layout.count], previous, entropy, shift, sink, steps))
    return out


def trails_mask(**kwargs: Any) -> Tensor | None:
    """transformers' mask for scaled dot-product attention; None = plainly causal.

    Up to 5.17 transformers cannot look at a tensor while a CUDA graph is recorded and then writes out a plainly causal mask,
    which would send the layers down the block path. So an ordinary pass notes for each of its masks whether it was left out
    (``Recorder.left_out``), and a recorded pass of the same shape leaves out the same ones.
    """
    from transformers.masking_utils import sdpa_mask

    recorder = _active
    if recorder is not None and recorder.known_left_out[len(recorder.left_out) :][:1] == (True,):
        mask: Tensor | None = None
    else:
        mask = sdpa_mask(**kwargs)
    if recorder is not None:
        recorder.left_out.append(mask is None)
    return mask


def install() -> None:
    """Register the attention function and its mask with transformers; doing it twice is harmless."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, trails_attention)
    AttentionMaskInterface.register(NAME, trails_mask)
