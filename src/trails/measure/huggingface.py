"""The scorer for Hugging Face causal language models: one forward pass, every measure reduced while the layers run.

In: segmented chains. Out: traces. :class:`~trails.measure.context.Contexts` puts the context before a chain,
:class:`~trails.measure.model.Model` runs it, a recorder reduces the layers while they run, the logits come from the last
hidden state in tiles, and a :class:`~trails.measure.collector.Collector` puts the numbers where their chains are. Here:
batches, what is in flight on a GPU, and the noise floor.

Hidden state 0 is the input of the first layer (embeddings, with the position embedding where the model adds one), state l is
the output of layer l. The last one is therefore taken *before* the final norm, like all the others.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trails.errors import ModelError, UnmeasurableError
from trails.measure import hopper
from trails.measure.attention import Recorder
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.collector import LAYER_MEASURES, Collector, Flight, Partial, kept_top, mean_of_defined
from trails.measure.compiled import COMPILE_AFTER, Compile, CompiledLayers
from trails.measure.context import Bos, ContextPolicy, Contexts, Template
from trails.measure.gradient import gradient_arrays
from trails.measure.inspection import inspect
from trails.measure.metrics import LogitStatistics, logit_statistics
from trails.measure.model import Attention, Model, settings_of
from trails.measure.passes import Pass, TokenSequence, pack, passes_of, unpacked
from trails.measure.premises import premises
from trails.measure.replay import Graphs
from trails.measure.tokens import ControlTokens
from trails.platform.text import counted
from trails.schema import Run, Trace, with_arrays

logger = logging.getLogger(__name__)

REPLAY_FLOPS = 1e13
"""Batches of fewer operations are replayed from CUDA graphs when their shape comes again: about 20 ms on a large GPU, which is
what it takes to launch the kernels of a model of 30 layers one by one."""

BATCH_FLOPS = 3e13
"""Operations of a batch on a GPU, by default: 50 to 100 ms on a large one."""


class HuggingFaceScorer:
    """Measures chains with a causal language model of the transformers library.

    ``module`` is the torch module (or a PEFT model around it), ``tokenizer`` the transformers tokenizer. :attr:`model` is the
    forward path, :attr:`contexts` builds what stands before a chain. ``compile``: whether the layers are compiled when chains
    are measured, see :func:`trails.measure.open_scorer`. Raises ModelError for a model whose attention cannot be observed
    exactly.
    """

    def __init__(
        self,
        module: Any,
        tokenizer: Any,
        *,
        name: str,
        revision: str,
        adapter: str = "",
        attention: Attention = "sdpa",
        bos: Bos = "auto",
        template: Template = "plain",
        window: Literal["refuse", "stride"] = "refuse",
        think: bool = False,
        control_tokens: ControlTokens = "token",
        compile: Compile = "auto",
    ) -> None:
        self.model = Model(module.eval(), tokenizer, name=name, attention=attention)
        self.run = Run(
            model=name,
            revision=revision,
            tokenizer=self.model.text.hash,
            dtype=str(self.model.dtype).removeprefix("torch."),
            attention=attention,
            adapter=adapter,
            bos=bos,
            template=template,
            window=window,
            think=think,
            control_tokens=control_tokens,
            n_layers=self.model.n_layers,
            n_heads=self.model.n_heads,
            d_model=self.model.d_model,
            vocab_size=self.model.vocab_size,
            max_tokens=self.model.max_tokens,
        )
        self.contexts = Contexts(self.model.text, ContextPolicy.of(self.run), name)
        self._encoded: dict[str, TokenSequence] = {}
        self._batch_tokens = 0
        self._graphs = Graphs()
        self._left_out: dict[torch.Size, tuple[bool, ...]] = {}
        inspect(self.model)
        self.compile: Compile = compile
        self._layers = CompiledLayers(self.model.layers)
        self._compiling = self._paused = self._floor_due = False
        self._work = 0.0  # operations of the layers so far
        if compile == "on" and not self.model.fused:
            raise ModelError(
                f"--compile on was asked for, but the attention of {name} is not reduced while it runs "
                f"({'--attention eager' if attention == 'eager' else self.model.architecture}). Use --compile auto."
            )
        device = self.model.device
        self.run = replace(
            self.run,
            notes={
                "device": str(device),
                "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                "torch": str(torch.__version__),
                "transformers": _version("transformers"),
                "architecture": self.model.architecture,
                "attention_observed": self.model.observed,
                # the weights alone do not say it, see TraceStore.check_run
                "config": settings_of(self.model.config),
                # token ids around the question, so that an export can write the context that was measured
                "prefix_ids": list(self.contexts.prefix),
                "infix_ids": list(self.contexts.infix),
            },
        )

    def sequence(self, item: Segmented) -> TokenSequence:
        """The chain in its context as it is measured; kept for the next call."""
        chain = item.chain
        known = self._encoded.get(chain.id)
        if known is not None and known.item == item:
            return known
        sequence = TokenSequence(item, self.contexts.row(item))
        if len(self._encoded) > 4096:
            self._encoded.clear()
        self._encoded[chain.id] = sequence
        return sequence

    def count_tokens(self, item: Segmented) -> int:
        """Length of the whole sequence (context and chain) in tokens."""
        return self.sequence(item).length

    def control_tokens_named(self, item: Segmented) -> int:
        """How many names of control tokens stand in the question and the text of a chain."""
        return self.model.text.names_in(item.chain.question) + self.model.text.names_in(item.chain.text)

    # ---------------------------------------------------------------------------------------------------- measuring

    def measure(self, items: Sequence[Segmented], options: MeasureOptions) -> list[Trace]:
        """Traces in the order of the items; see :class:`trails.measure.base.Scorer`."""
        for layer in options.states:
            if not 0 <= layer <= self.run.n_layers:
                raise ModelError(
                    f"layer {layer} was asked for, {self.run.model} has states 0 (embeddings) to {self.run.n_layers}."
                )
        self._floor_due |= self._compile_now()
        if self.model.dtype != torch.float32 and len(items) > 1:
            due, self._floor_due = self._floor_due, False  # the floor is measured with this method, too
            if due or "noise_floor" not in self.run.notes:
                self.run = replace(self.run, notes={**self.run.notes, "noise_floor": self.noise_floor(items)})
        sequences = [self.sequence(item) for item in items]
        different = {id(sequence): sequence for sequence in sequences}.values()  # a chain may be named twice
        passes = [part for sequence in different for part in passes_of(sequence, self.run)]
        batches = list(self.batches(passes, options))
        traces = {id(sequence): trace for sequence, trace in self.measure_batches(batches, options)}
        if options.gradients:
            traces = {
                key: with_arrays(trace, gradient_arrays(self.model, known.row, known.item.chain, options.gradients))
                for key, trace in traces.items()
                for known in [self.sequence(Segmented(trace.chain, trace.steps))]
            }
        return [traces[id(sequence)] for sequence in sequences]

    def measure_batches(
        self, batches: Sequence[list[Pass]], options: MeasureOptions
    ) -> Iterator[tuple[TokenSequence, Trace]]:
        """Run batches of passes; a sequence comes with its trace as soon as all of its passes are done."""
        collector = Collector(self.run, options, [part for batch in batches for part in batch], self.model.text)
        with self.model.measuring():
            for flight in self._flights(batches, options):
                for sequence, found in collector.take(flight):
                    yield sequence, self._trace(collector, sequence, found, options)

    def _trace(self, collector: Collector, sequence: TokenSequence, found: Partial, options: MeasureOptions) -> Trace:
        given = None
        if options.premises:
            begin, end = sequence.row.step_tokens[0].tolist() if len(sequence.row.step_tokens) else (0, 0)
            given = premises(self.model, sequence, mean_of_defined(found.surprisal[begin:end, None])[0])
        trace = collector.trace(sequence, found, given)
        if not found.finite:
            check_finite(trace, self.run)
        return trace

    def _compile_now(self) -> bool:
        """Compile the layers from now on, if it is time to. True when it begins with this call: its numbers round otherwise."""
        if self._compiling or self.compile == "off" or not self.model.fused:
            return False
        usual = self.model.device.type == "cuda" and self.model.dtype != torch.float32
        if self.compile == "auto" and not (usual and self._work >= COMPILE_AFTER):
            return False
        self._compiling, self.model.fast_linear = True, False
        self._graphs = Graphs()  # those of the plain path are not replayed any more
        return True

    @property
    def _compiled(self) -> bool:
        """Whether the next pass runs compiled layers: an intervention inside of a layer would not be seen by them."""
        return self._compiling and not self._paused and self._layers.usable and not self.model.changes

    def noise_floor(self, items: Sequence[Segmented], count: int = 8) -> dict[str, dict[str, float] | str]:
        """How far numbers move for no reason of the text, on up to ``count`` short chains of ``items``.

        ``batch``: one chain at a time against all together. ``float32``: this dtype against a float32 copy of the weights,
        where the copy fits into half of the free memory. ``compiled``, where the layers are compiled: compiled against plain
        layers. Per measure the largest absolute difference; for surprisal also the mean.
        """
        limit = self.run.max_tokens or 10**9
        sample = [i for i in sorted(items, key=self.count_tokens) if self.count_tokens(i) <= limit][:count]
        if not sample:
            return {}
        tokens = sum(self.count_tokens(i) for i in sample) * len(sample)
        plain = MeasureOptions(batch_tokens=1, top_k=0)
        run, self.run = self.run, replace(self.run, notes={**self.run.notes, "noise_floor": {}})  # no recursion
        try:
            alone = self.measure(sample, plain)
            together = self.measure(sample, replace(plain, batch_tokens=tokens))
            result: dict[str, dict[str, float] | str] = {"batch": differences(alone, together)}
            result["float32"] = self._against_float32(sample, alone)
            if self._compiled:
                self._paused = True
                try:
                    result["compiled"] = differences(alone, self.measure(sample, plain))
                finally:
                    self._paused = False
        finally:
            self.run = run
        return result

    def _against_float32(self, sample: Sequence[Segmented], alone: list[Trace]) -> dict[str, float] | str:
        size = 4 * sum(parameter.numel() for parameter in self.model.module.parameters())
        if self.model.device.type == "cuda" and size > torch.cuda.mem_get_info(self.model.device)[0] / 2:
            return f"not measured: a float32 copy takes {size / 1e9:.0f} GB"
        exact = HuggingFaceScorer(
            copy.deepcopy(self.model.module).float(),
            self.model.tokenizer,
            name=self.run.model,
            revision=self.run.revision,
            bos=self.run.bos,
            template=self.run.template,
            window=self.run.window,
            think=self.run.think,
            control_tokens=self.run.control_tokens,
        )
        return differences(alone, exact.measure(sample, MeasureOptions(batch_tokens=1, top_k=0)))

    def batches(self, passes: list[Pass], options: MeasureOptions) -> Iterator[list[Pass]]:
        """Groups of passes of similar length, each of at most ``batch_tokens`` padded tokens."""
        budget = options.batch_tokens or self._default_batch_tokens()
        if budget <= 0:
            yield from ([part] for part in passes)
            return
        batch: list[Pass] = []
        for part in sorted(passes, key=lambda p: -p.length):
            full = bool(batch) and batch[0].length * (len(batch) + 1) > budget
            if full or (batch and batch[0].sequence.near != part.sequence.near):
                yield batch
                batch = []
            batch.append(part)
        if batch:
            yield batch

    def _default_batch_tokens(self) -> int:
        """0 on a CPU: one chain at a time, bit-identical whatever else is measured.

        On a GPU enough work for one forward pass to hide what the host does with the batch before, within the free memory.
        """
        if self.model.device.type == "cpu":
            return 0
        if not self._batch_tokens:
            free, _ = torch.cuda.mem_get_info(self.model.device)
            work = min(65_536, max(8_192, BATCH_FLOPS / (2 * self.model.layer_parameters)))
            self._batch_tokens = int(min(work, max(2_048, free / 3 / self._bytes_per_token())))
        return self._batch_tokens

    def _bytes_per_token(self) -> int:
        """Estimate of the memory that one token of a forward pass takes above the weights."""
        config = self.model.config
        wide = max(getattr(config, "intermediate_size", None) or 4 * self.run.d_model, self.run.d_model)
        layers = self.run.n_layers * 6 * 4  # reductions, float32
        size = torch.finfo(self.model.dtype).bits // 8
        return int(size * (12 * self.run.d_model + 4 * wide) + 64 * 4 * (self.run.n_heads + 4) + layers)

    def _launched(self, batch: list[Pass], options: MeasureOptions) -> Iterator[Flight]:
        """Start a batch; out of memory halves it, and the following ones, and tries again."""
        try:
            yield self._launch(batch, options)
            return
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise UnmeasurableError(
                    f"chain {batch[0].sequence.item.chain.id} with {counted(batch[0].length, 'token')} does not "
                    "fit into the memory of "
                    f"{self.model.device} next to {self.run.model}. Use a smaller dtype, a smaller model, or --device cpu."
                ) from None
        # outside the handler: the traceback would keep the tensors of the failed pass alive
        if self.model.device.type == "cuda":
            self._graphs = Graphs()
            torch.cuda.empty_cache()
        half = (len(batch) + 1) // 2
        self._batch_tokens = batch[0].length * half
        logger.warning("out of memory with %d chains at once; going on with %d", len(batch), half)
        yield from self._launched(batch[:half], options)
        yield from self._launched(batch[half:], options)

    def _flights(self, batches: Iterable[list[Pass]], options: MeasureOptions) -> Iterator[Flight]:
        """Run batches; on a GPU the next one is started before the last is given, so that the host works while the GPU does."""
        waiting: Flight | None = None
        for batch in batches:
            for flight in self._launched(batch, options):
                if self.model.device.type == "cpu":
                    yield flight
                    continue
                if waiting is not None:
                    yield waiting
                waiting = flight
        if waiting is not None:
            yield waiting

    def _launch(self, batch: list[Pass], options: MeasureOptions) -> Flight:
        """Run a batch and send its reductions to the host; on a GPU nothing is waited for."""
        length, steps = self._shape(batch)
        self._work += 2.0 * self.model.layer_parameters * length * len(batch)
        near = batch[0].sequence.near
        packed = pack(batch, length)
        words = self.model.tensor(packed)
        narrow = not near and hopper.fits(packed[:, length : 2 * length])

        def observe(words: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return self._observe(words, length, steps, near, narrow, options)

        if not near and self._launches_dominate(len(batch) * length):
            # what is recorded
            key = (len(batch), length, steps, replace(options, batch_tokens=0, top_k=0), self._compiled, narrow)
            hidden, found = self._graphs.run(key, words, observe)
        else:
            hidden, found = observe(words)
        on_host = {name: self._to_host(values) for name, values in found.items()}
        reduced = self._event()
        statistics = self.statistics(batch, words[:, :length], hidden, kept_top(options))
        return Flight(batch, on_host, statistics, reduced, self._event())

    def _observe(
        self, words: Tensor, length: int, steps: int, near: int, narrow: bool, options: MeasureOptions
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Last hidden states (B, T, d) of a batch and its reductions (see :class:`Flight`)."""
        once = partial(self._pass, words, length, steps, near, narrow, options)
        return self._layers.run(once) if self._compiled else once()

    def _pass(
        self, words: Tensor, length: int, steps: int, near: int, narrow: bool, options: MeasureOptions
    ) -> tuple[Tensor, dict[str, Tensor]]:
        layout, ids = unpacked(words, length, steps, near, narrow)
        recorded = words.is_cuda and torch.cuda.is_current_stream_capturing()
        recorder = Recorder(
            layout,
            peaks=options.peaks,
            token_attention=options.token_attention,
            state_layers=tuple(sorted(set(options.states))),
            known_left_out=self._left_out.get(ids.shape, ()) if recorded else (),
        )
        hidden = self.model.hidden(ids, recorder)
        if not near and self._launches_dominate(ids.numel()):
            self._left_out[ids.shape] = tuple(recorder.left_out)
        self.model.check_observed(recorder)
        found = {name: torch.stack(getattr(recorder, name), -1) for name in LAYER_MEASURES}
        found["hidden_shift"] = torch.stack(recorder.hidden_shift, -1)
        found["baseline"] = torch.stack(recorder.baseline, 1).mean(-1)
        found["step_masses"] = torch.stack(recorder.step_masses, -1)
        if recorder.states:
            found["states"] = torch.stack(recorder.states, 2)
        if recorder.mass_sum is not None and recorder.mass_layer is not None:
            found |= {"attends_sum": recorder.mass_sum, "attends_layer": recorder.mass_layer}
        if recorder.peak is not None:
            peak = recorder.peak
            found |= {"peak_token": peak.token, "peak_mass": peak.mass, "peak_layer": peak.layer}
        return hidden, found

    def _launches_dominate(self, tokens: int) -> bool:
        """Whether starting the kernels of a batch takes the host about as long as the GPU needs to run them."""
        fused = self.model.device.type == "cuda" and self.model.fused and not self.model.changes
        return fused and 2 * self.model.layer_parameters * tokens < REPLAY_FLOPS

    def _to_host(self, tensor: Tensor) -> Tensor:
        """A copy on the host that may still be on its way (see :class:`Flight`); the tensor itself on a CPU."""
        if not tensor.is_cuda:
            return tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)

    def _event(self) -> torch.cuda.Event | None:
        """Happens when everything that was started before is done; None on a CPU, where it is."""
        if self.model.device.type != "cuda":
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.model.device))
        return event

    def _shape(self, batch: list[Pass]) -> tuple[int, int]:
        """Length T of a batch and its steps S."""
        length = max(part.length for part in batch)
        steps = max(part.steps.stop - part.steps.start for part in batch)
        if self._launches_dominate(len(batch) * length):  # shapes that come again
            length = min(-(-length // 64) * 64, self.run.max_tokens or 2**31)
            steps = -(-steps // 8) * 8
        elif length >= hopper.SHORTEST and hopper.meant_for(self.model.device, self.model.dtype):
            # whole blocks of keys: what one pass gains is more than what the padding costs
            length = min(-(-length // hopper.BLOCK) * hopper.BLOCK, self.run.max_tokens or 2**31)
        return length, steps

    def statistics(self, batch: list[Pass], ids: Tensor, hidden: Tensor, top: int = 0) -> LogitStatistics:
        """Statistics of every row with its ``top`` most likely items, pass after pass without the padding; on a CPU only the
        surprisal before the last position of the context."""
        tile, block = self.model.tile()
        if self.model.device.type != "cpu":
            return self._statistics_together(batch, ids, hidden, tile, top)
        results = []
        for row, part in enumerate(batch):
            target = torch.cat((ids[row, 1 : part.length], ids.new_full((1,), -1)))
            first = max(0, part.context - 1)
            # nobody reads what predicts a template, or a context that an earlier window has measured
            skip = (
                first if part.begin or not part.question else max(0, part.sequence.row.context.question_span.start - 1)
            )
            stats = logit_statistics(
                self.model.logits,
                hidden[row, skip : part.length],
                target[skip:],
                tile=tile,
                block=block,
                full_from=first - skip,
                top=top,
            )
            results.append(stats.after(skip))
        return results[0] if len(results) == 1 else LogitStatistics.joined(results)

    def _statistics_together(
        self, batch: list[Pass], ids: Tensor, hidden: Tensor, tile: int, top: int
    ) -> LogitStatistics:
        """All rows of the batch one after the other, without the padding: large products, few launches."""
        lengths = [part.length for part in batch]
        target = torch.cat((ids[:, 1:], ids.new_full((len(ids), 1), -1)), 1)
        if min(lengths) == ids.shape[1]:
            rows, targets = hidden.flatten(0, 1), target.flatten()
        else:
            starts = np.arange(len(batch)) * ids.shape[1]
            real = np.concatenate([np.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)])
            index = self.model.tensor(
                np.concatenate((real, starts + lengths - 1))
            )  # by number: a mask would be waited for
            target.view(-1).index_fill_(0, index[len(real) :], -1)
            rows, targets = hidden.flatten(0, 1)[index[: len(real)]], target.view(-1)[index[: len(real)]]
        stats = logit_statistics(
            self.model.logits, rows, targets, tile=tile, block=max(1, 2**25 // self.run.vocab_size), top=top
        )
        floats = self._to_host(torch.stack((stats.surprisal, stats.entropy, stats.shift)))
        ranks, items, log_p = (self._to_host(values) for values in (stats.rank, stats.top, stats.top_log_p))
        return LogitStatistics(floats[0], floats[1], ranks, floats[2], items, log_p)


def check_finite(trace: Trace, run: Run) -> None:
    """Raises ModelError for a trace in which a number is infinite, or undefined where it must be defined."""
    known = slice(0 if trace.n_context else 1, None)  # nothing precedes the first token of a sequence
    for name in ("surprisal", "entropy", "logit_shift", "hidden_shift", *LAYER_MEASURES):
        values = getattr(trace, name)[known]
        if np.isfinite(values).all():
            continue
        wrong = ~np.isfinite(values.reshape(len(values), -1)).all(1)
        token = int(wrong.argmax()) + known.start
        raise UnmeasurableError(
            f"chain {trace.chain.id}: {name} of {int(wrong.sum())} of its "
            f"{counted(trace.n_tokens, 'token')} is not finite, first of "
            f"token {token} ({trace.pieces[token]!r}). {run.model} in {run.dtype} overflows or its weights are damaged: "
            "use --dtype float32, or leave the chain out."
        )


def differences(left: Sequence[Trace], right: Sequence[Trace]) -> dict[str, float]:
    """Largest absolute difference per measure over pairs of traces of the same chains, and the mean one of surprisal."""
    result = {}
    for name in ("surprisal", "entropy", "logit_shift", *LAYER_MEASURES, "hidden_shift", "step_attention"):
        gaps = [np.abs(getattr(a, name) - getattr(b, name)).ravel() for a, b in zip(left, right, strict=True)]
        found = np.concatenate(gaps)
        result[name] = float(np.nanmax(found)) if not np.isnan(found).all() else 0.0
        if name == "surprisal" and not np.isnan(found).all():
            result["surprisal_mean"] = float(np.nanmean(found))
    return result


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
