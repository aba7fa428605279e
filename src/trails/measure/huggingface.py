"""The scorer for Hugging Face causal language models: one forward pass, every measure reduced while the layers run.

In: segmented chains. Out: traces. The trunk of the model runs once with hooks on its layers and, where the model uses
transformers' attention interface, with the attention function of :mod:`trails.measure.attention`; other models run their
own eager attention and give their weights away one layer at a time. The logits come from the last hidden state in tiles.

Hidden state 0 is the input of the first layer (embeddings, with the position embedding where the model adds one), state l is
the output of layer l. The last one is therefore taken *before* the final norm, like all the others.
"""

from __future__ import annotations

import copy
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trails.errors import ModelError
from trails.measure import attention as on_the_fly
from trails.measure.attention import Layout, Recorder, recording
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.linear import fast_linear
from trails.measure.metrics import LogitStatistics, logit_statistics
from trails.measure.replay import Graphs
from trails.measure.tokens import Encoded, TextTokenizer, check_unicode
from trails.platform.arrays import Floats, Ints
from trails.schema import Chain, Run, Trace
from trails.segment.align import assign_tokens

logger = logging.getLogger(__name__)

REPLAY_FLOPS = 1e13
"""Batches of fewer operations are replayed from CUDA graphs when their shape comes again: about 20 ms on a large GPU, which is
what it takes to launch the kernels of a model of 30 layers one by one."""

BATCH_FLOPS = 3e13
"""Operations of a batch on a GPU, by default: 50 to 100 ms on a large one."""

BASELINE_PAIRS = 64
"""Random pairs of positions per chain for the anisotropy baseline."""

Ints64 = npt.NDArray[np.int64]

_LAYER_MEASURES = ("attention_shift", "attention_previous", "attention_sink", "attention_entropy")

_ANSWER = "\N{OBJECT REPLACEMENT CHARACTER}trails\N{OBJECT REPLACEMENT CHARACTER}"


@dataclass(slots=True)
class _Sequence:
    """One item as the model sees it: context (prefix, question, infix), then the chain's tokens."""

    item: Segmented
    context: list[int]
    question: slice  # of the context
    tokens: Encoded
    step_tokens: npt.NDArray[np.int32]  # (S, 2)
    chain_bins: npt.NDArray[np.int64]  # (n,) step of each chain token + 2
    pairs: npt.NDArray[np.int64] = field(init=False)  # (64, 2) of the whole chain

    def __post_init__(self) -> None:
        self.pairs = baseline_pairs(self.item.chain, len(self.tokens))

    @property
    def length(self) -> int:
        return len(self.context) + len(self.tokens)


@dataclass(slots=True)
class _Pass:
    """One row of a forward pass: the context and the chain's tokens ``begin`` … ``end``; measures are kept from ``keep`` on."""

    sequence: _Sequence
    begin: int
    keep: int
    end: int

    @property
    def context(self) -> int:
        return len(self.sequence.context)

    @property
    def length(self) -> int:
        return self.context + self.end - self.begin

    @property
    def question(self) -> bool:
        return bool(self.sequence.question.stop > self.sequence.question.start)

    def ids(self) -> npt.NDArray[np.int64]:
        chain = self.sequence.tokens.ids[self.begin : self.end].astype(np.int64)
        return np.concatenate((np.asarray(self.sequence.context, np.int64), chain))

    def write(self, ids: Ints64, bins: Ints64, queries: Ints64, pairs: Ints64) -> None:
        """Fill a row of a batch: tokens, bins as keys, steps as queries, each (T,), and the pairs (64, 2)."""
        c, end, count = self.context, self.length, self.end - self.keep
        ids[:c], ids[c:end] = self.sequence.context, self.sequence.tokens.ids[self.begin : self.end]
        bins[:c], bins[c:end] = 1, self.sequence.chain_bins[self.begin : self.end]
        bins[0] = 0
        queries[end - count : end] = self.sequence.chain_bins[self.keep : self.end] - 2
        whole = count == len(self.sequence.tokens)
        pairs[:] = self.sequence.pairs if whole else baseline_pairs(self.sequence.item.chain, count)
        pairs += end - count


@dataclass(slots=True)
class _Partial:
    """What the passes of one sequence have given so far (arrays over the chain's tokens; sums over a step's tokens)."""

    surprisal: Floats
    entropy: Floats
    rank: Ints
    logit_shift: Floats
    layers: dict[str, Floats]  # name → (n, L)
    hidden_shift: Floats  # (n, L+1)
    question_surprisal: Floats
    step_masses: npt.NDArray[Any]  # (S, S+2, L) sums
    baseline: list[Floats] = field(default_factory=list)  # one (L+1,) per pass
    states: npt.NDArray[np.float64] | None = None  # (S, len(states), d) sums
    attends_sum: Floats | None = None  # (n, S)
    attends_layer: Ints | None = None
    peak_token: Ints | None = None
    peak_mass: Floats | None = None
    peak_layer: Ints | None = None


@dataclass(slots=True)
class _Flight:
    """Reductions of one batch on their way to the host; whole when ``landed`` has happened."""

    batch: list[_Pass]
    found: dict[str, Tensor]  # see HuggingFaceScorer._observe
    statistics: list[LogitStatistics]
    landed: torch.cuda.Event | None = None


class HuggingFaceScorer:
    """Measures chains with a causal language model of the transformers library.

    ``model`` is the torch module, ``tokenizer`` the transformers tokenizer. Raises ModelError for a model whose attention
    cannot be observed exactly.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        revision: str,
        adapter: str = "",
        attention: Literal["sdpa", "eager"] = "sdpa",
        bos: Literal["auto", "always", "never"] = "auto",
        template: Literal["plain", "chat"] = "plain",
        window: Literal["refuse", "stride"] = "refuse",
    ) -> None:
        on_the_fly.install()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.text = TextTokenizer(tokenizer)
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        config = model.config.get_text_config()
        self._layers = _decoder_layers(model, config.num_hidden_layers)
        self._head = model.get_output_embeddings()
        self._trunk = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
        if self._trunk is None or self._trunk is model:
            self._trunk = model.base_model
        if self._head is None:
            raise ModelError(f"{type(model).__name__} has no language-model head, so tokens have no probability.")
        self._softcap = getattr(config, "final_logit_softcapping", None)
        self._logit_scale = _logit_scale(config)
        self._configs = _attention_configs(model)
        self.run = Run(
            model=name,
            revision=revision,
            tokenizer=self.text.hash,
            dtype=str(self.dtype).removeprefix("torch."),
            attention=attention,
            adapter=adapter,
            bos=bos,
            template=template,
            window=window,
            n_layers=config.num_hidden_layers,
            n_heads=config.num_attention_heads,
            d_model=config.hidden_size,
            vocab_size=self._head.weight.shape[0],
            max_tokens=_limit(config),
        )
        self._prefix, self._infix = self._context_parts()
        self._encoded: dict[str, _Sequence] = {}
        self._batch_tokens = 0
        self._parameters = sum(parameter.numel() for parameter in self._layers.parameters())
        self._graphs = Graphs()
        self._left_out: dict[torch.Size, tuple[bool, ...]] = {}
        self._observed: Literal["interface", "weights"] = self._inspect()
        self.run = replace(
            self.run,
            notes={
                "device": str(self.device),
                "device_name": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
                "torch": torch.__version__,
                "transformers": _version("transformers"),
                "architecture": type(model).__name__,
                "attention_observed": self._observed,
                # token ids around the question, so that an export can write the context that was measured
                "prefix_ids": list(self._prefix),
                "infix_ids": list(self._infix or ()),
            },
        )

    # ---------------------------------------------------------------------------------------------------- the text

    def _context_parts(self) -> tuple[list[int], list[int] | None]:
        """Ids before the question, and between question and chain (None: there is no template)."""
        bos = self.tokenizer.bos_token_id
        if self.run.template == "chat":
            return self._template_parts()
        if self.run.bos == "always" and bos is None:
            raise ModelError(
                f"--bos always was asked for, but the tokenizer of {self.run.model} has no beginning-of-sequence token. "
                "Use --bos auto or --bos never."
            )
        if self.run.bos == "always":
            return [bos], None
        if self.run.bos == "auto" and bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos]:
            return [bos], None
        return [], None

    def _template_parts(self) -> tuple[list[int], list[int]]:
        if not getattr(self.tokenizer, "chat_template", None):
            raise ModelError(
                f"--template chat was asked for, but the tokenizer of {self.run.model} has no chat template. "
                "Use --template plain."
            )
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": _ANSWER}], tokenize=False, add_generation_prompt=True
        )
        before, found, after = text.partition(_ANSWER)
        if not found:
            raise ModelError(
                f"the chat template of {self.run.model} does not show the question as it is, so the question's tokens "
                "cannot be told apart. Use --template plain."
            )
        prefix = self.text.ids(before)
        bos = self.tokenizer.bos_token_id
        if self.run.bos == "never" and prefix[:1] == [bos]:
            prefix = prefix[1:]
        if self.run.bos == "always" and bos is not None and prefix[:1] != [bos]:
            prefix = [bos, *prefix]
        return prefix, self.text.ids(after)

    def _sequence(self, item: Segmented) -> _Sequence:
        chain = item.chain
        known = self._encoded.get(chain.id)
        if known is not None and known.item == item:
            return known
        if chain.question:
            check_unicode(chain.question, f"the question of chain {chain.id}")
        # in a chat template the question stands inside a turn, in plain text on a line of its own
        question = (
            self.text.ids(chain.question if self._infix is not None else f"{chain.question}\n")
            if chain.question
            else []
        )
        tokens = self.text.encode(chain.text, f"chain {chain.id}")
        if not len(tokens):
            raise ModelError(f"chain {chain.id} has no tokens. Leave it out of the source.")
        spans = assign_tokens([(s.start, s.end) for s in item.steps], np.stack((tokens.start, tokens.end), 1))
        bins = np.repeat(np.arange(len(spans), dtype=np.int64), np.diff(spans, axis=1)[:, 0]) + 2
        begin = len(self._prefix)
        context = [*self._prefix, *question, *(self._infix or ())]
        sequence = _Sequence(item, context, slice(begin, begin + len(question)), tokens, spans, bins)
        if len(self._encoded) > 4096:
            self._encoded.clear()
        self._encoded[chain.id] = sequence
        return sequence

    def count_tokens(self, item: Segmented) -> int:
        """Length of the whole sequence (context and chain) in tokens."""
        return self._sequence(item).length

    # ---------------------------------------------------------------------------------------------------- measuring

    def measure(self, items: Sequence[Segmented], options: MeasureOptions) -> list[Trace]:
        """Traces in the order of the items; see :class:`trails.measure.base.Scorer`."""
        for layer in options.states:
            if not 0 <= layer <= self.run.n_layers:
                raise ModelError(
                    f"layer {layer} was asked for, {self.run.model} has states 0 (embeddings) to {self.run.n_layers}."
                )
        if self.dtype != torch.float32 and len(items) > 1 and "noise_floor" not in self.run.notes:
            floor = self.noise_floor(items)
            self.run = replace(self.run, notes={**self.run.notes, "noise_floor": floor})
        sequences = [self._sequence(item) for item in items]
        different = {id(sequence): sequence for sequence in sequences}.values()  # a chain may be named twice
        passes = [part for sequence in different for part in self._passes(sequence)]
        partial: dict[int, _Partial] = {}
        traces: dict[int, Trace] = {}
        left = Counter(id(part.sequence) for part in passes)

        def complete(batch: list[_Pass]) -> None:
            for sequence in (part.sequence for part in batch):
                left[id(sequence)] -= 1
                if not left[id(sequence)]:
                    found = partial.pop(id(sequence))
                    premises = self._premises(sequence, found) if options.premises else None
                    traces[id(sequence)] = self._trace(sequence, found, options, premises)

        with self._measuring():
            self._run_all(self._batches(passes, options), options, partial, complete)
        return [traces[id(sequence)] for sequence in sequences]

    def noise_floor(self, items: Sequence[Segmented], count: int = 8) -> dict[str, dict[str, float] | str]:
        """How far numbers move for no reason of the text, on up to ``count`` short chains of ``items``.

        ``batch``: one chain at a time against all together. ``float32``: this dtype against a float32 copy of the weights,
        where the copy fits into half of the free memory. Per measure the largest absolute difference; for surprisal also
        the mean.
        """
        limit = self.run.max_tokens or 10**9
        sample = [i for i in sorted(items, key=self.count_tokens) if self.count_tokens(i) <= limit][:count]
        if not sample:
            return {}
        tokens = sum(self.count_tokens(i) for i in sample) * len(sample)
        plain = MeasureOptions(batch_tokens=1)
        run, self.run = self.run, replace(self.run, notes={**self.run.notes, "noise_floor": {}})  # no recursion
        try:
            alone = self.measure(sample, plain)
            together = self.measure(sample, MeasureOptions(batch_tokens=tokens))
            result: dict[str, dict[str, float] | str] = {"batch": differences(alone, together)}
            result["float32"] = self._against_float32(sample, alone)
        finally:
            self.run = run
        return result

    def _against_float32(self, sample: Sequence[Segmented], alone: list[Trace]) -> dict[str, float] | str:
        size = 4 * sum(parameter.numel() for parameter in self.model.parameters())
        if self.device.type == "cuda" and size > torch.cuda.mem_get_info(self.device)[0] / 2:
            return f"not measured: a float32 copy takes {size / 1e9:.0f} GB"
        exact = HuggingFaceScorer(
            copy.deepcopy(self.model).float(),
            self.tokenizer,
            name=self.run.model,
            revision=self.run.revision,
            bos=self.run.bos,
            template=self.run.template,
            window=self.run.window,
        )
        return differences(alone, exact.measure(sample, MeasureOptions(batch_tokens=1)))

    def _passes(self, sequence: _Sequence) -> list[_Pass]:
        limit, n = self.run.max_tokens, len(sequence.tokens)
        if not limit or sequence.length <= limit:
            return [_Pass(sequence, 0, 0, n)]
        if self.run.window == "refuse":
            raise ModelError(
                f"chain {sequence.item.chain.id} has {sequence.length} tokens with its context, the window of "
                f"{self.run.model} is {limit}. Use --window stride to measure it in overlapping windows, or leave it out."
            )
        room = limit - len(sequence.context)
        if room < limit // 2 or room < 2:
            raise ModelError(
                f"chain {sequence.item.chain.id}: its context alone has {len(sequence.context)} tokens, more than half of "
                f"the window of {limit} tokens of {self.run.model}. Shorten the question, or leave the chain out."
            )
        # every window restates the context; from the second on, its first half only gives what came before
        passes, step = [_Pass(sequence, 0, 0, room)], room // 2
        while passes[-1].end < n:
            end = min(n, passes[-1].end + step)
            passes.append(_Pass(sequence, end - room, passes[-1].end, end))
        return passes

    def _batches(self, passes: list[_Pass], options: MeasureOptions) -> Iterator[list[_Pass]]:
        """Groups of passes of similar length, each of at most ``batch_tokens`` padded tokens."""
        budget = options.batch_tokens or self._default_batch_tokens()
        if budget <= 0:
            yield from ([part] for part in passes)
            return
        batch: list[_Pass] = []
        for part in sorted(passes, key=lambda p: -p.length):
            if batch and batch[0].length * (len(batch) + 1) > budget:
                yield batch
                batch = []
            batch.append(part)
        if batch:
            yield batch

    def _default_batch_tokens(self) -> int:
        """0 on a CPU: one chain at a time, bit-identical whatever else is measured.

        On a GPU enough work for one forward pass to hide what the host does with the batch before, within the free memory.
        """
        if self.device.type == "cpu":
            return 0
        if not self._batch_tokens:
            free, _ = torch.cuda.mem_get_info(self.device)
            work = min(65_536, max(8_192, BATCH_FLOPS / (2 * self._parameters)))
            self._batch_tokens = int(min(work, max(2_048, free / 3 / self._bytes_per_token())))
        return self._batch_tokens

    def _bytes_per_token(self) -> int:
        """Estimate of the memory that one token of a forward pass takes above the weights."""
        config = self.model.config.get_text_config()
        wide = max(getattr(config, "intermediate_size", None) or 4 * self.run.d_model, self.run.d_model)
        layers = self.run.n_layers * 6 * 4  # reductions, float32
        size = torch.finfo(self.dtype).bits // 8
        return int(size * (12 * self.run.d_model + 4 * wide) + 64 * 4 * (self.run.n_heads + 4) + layers)

    def _launched(self, batch: list[_Pass], options: MeasureOptions) -> Iterator[_Flight]:
        """Start a batch; out of memory halves it, and the following ones, and tries again."""
        try:
            yield self._launch(batch, options)
            return
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise ModelError(
                    f"chain {batch[0].sequence.item.chain.id} with {batch[0].length} tokens does not fit into the memory of "
                    f"{self.device} beside {self.run.model}. Use a smaller dtype, a smaller model, or --device cpu."
                ) from None
        # outside the handler: the traceback would keep the tensors of the failed pass alive
        if self.device.type == "cuda":
            self._graphs = Graphs()
            torch.cuda.empty_cache()
        half = (len(batch) + 1) // 2
        self._batch_tokens = batch[0].length * half
        logger.warning("out of memory with %d chains at once; going on with %d", len(batch), half)
        yield from self._launched(batch[:half], options)
        yield from self._launched(batch[half:], options)

    def _run_all(
        self,
        batches: Iterable[list[_Pass]],
        options: MeasureOptions,
        partial: dict[int, _Partial],
        complete: Callable[[list[_Pass]], None] = lambda batch: None,
    ) -> None:
        """Run batches; on a GPU the next one is started before the numbers of the last are put in place.

        ``complete`` is called with every batch whose numbers are in ``partial``.
        """
        waiting: _Flight | None = None

        def land() -> None:
            if waiting is not None:
                self._unpack(waiting, options, partial)
                complete(waiting.batch)

        for batch in batches:
            for flight in self._launched(batch, options):
                land()
                waiting = flight
                if self.device.type == "cpu":
                    land()
                    waiting = None
        land()

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        """No gradients, no dropout, and this run's attention implementation while inside."""
        wanted = on_the_fly.NAME if self.run.attention == "sdpa" and self._observed == "interface" else "eager"
        training = self.model.training
        fast = self.device.type == "cpu" and self.run.attention == "sdpa"  # eager stays as PyTorch has it
        linear = fast_linear(self.model) if fast else nullcontext()
        with self._attention(wanted), torch.inference_mode(), linear:
            self.model.eval()
            try:
                yield
            finally:
                self.model.train(training)

    @contextmanager
    def _attention(self, implementation: str) -> Iterator[None]:
        before = [config._attn_implementation for config in self._configs]
        for config in self._configs:
            config._attn_implementation = implementation
        try:
            yield
        finally:
            for config, value in zip(self._configs, before, strict=True):
                config._attn_implementation = value

    def logits(self, hidden: Tensor) -> Tensor:
        """Final logits (…, V) of last hidden states (…, d), in the model's dtype."""
        logits: Tensor = self._head(hidden)
        if self._logit_scale != 1.0:
            logits = logits * self._logit_scale
        if self._softcap:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    def _tile(self) -> tuple[int, int]:
        """Rows of logits that exist at once, and rows reduced together."""
        vocabulary = self.run.vocab_size
        if self.device.type == "cpu":
            return max(16, 50_000_000 // (4 * vocabulary)), max(1, 2**19 // vocabulary)
        rows = max(64, 2**27 // vocabulary)
        return rows, rows

    def _forward(self, ids: Tensor, recorder: Recorder | None, **extra: Any) -> Tensor:
        """Last hidden state (B, T, d) of the trunk; the recorder sees every layer."""
        with ExitStack() as stack:
            if recorder is not None:
                for handle in self._hooks(recorder):
                    stack.callback(handle.remove)
            stack.enter_context(recording(recorder))
            output = self._trunk(input_ids=ids, use_cache=False, **extra)
        hidden: Tensor = output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]
        return hidden

    def _hooks(self, recorder: Recorder) -> Iterator[Any]:
        def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            recorder.hidden(args[0] if args else kwargs["hidden_states"])

        def after(_: Any, __: Any, output: Any) -> None:
            recorder.hidden(output[0] if isinstance(output, tuple) else output)

        yield self._layers[0].register_forward_pre_hook(before, with_kwargs=True)
        for layer in self._layers:
            yield layer.register_forward_hook(after)
        if self.run.attention == "eager" or getattr(self, "_observed", "") == "weights":

            def weights(_: Any, __: Any, output: Any) -> Any:
                found = output[1] if isinstance(output, tuple) and len(output) > 1 else None
                if not isinstance(found, Tensor) or found.ndim != 4:
                    return output
                recorder.weights(found)
                return (output[0], None, *output[2:])  # let go of the weights at once

            for layer in self._layers:
                for name, module in layer.named_modules():
                    if "attention" in type(module).__name__.lower() and "." not in name:
                        yield module.register_forward_hook(weights)

    def _launch(self, batch: list[_Pass], options: MeasureOptions) -> _Flight:
        """Run a batch and send its reductions to the host; on a GPU nothing is waited for."""
        packed, length, steps = self._packed_batch(batch, options)
        words = self._tensor(packed)

        def observe(words: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return self._observe(words, length, steps, options)

        if self._launches_dominate(len(batch) * length):
            key = (len(batch), length, steps, replace(options, batch_tokens=0))
            hidden, found = self._graphs.run(key, words, observe)
        else:
            hidden, found = observe(words)
        flight = _Flight(
            batch,
            {name: self._to_host(values) for name, values in found.items()},
            self._statistics(batch, words[:, :length], hidden),
        )
        if self.device.type == "cuda":
            flight.landed = torch.cuda.Event()  # type: ignore[no-untyped-call]
            flight.landed.record()
        return flight

    def _observe(
        self, words: Tensor, length: int, steps: int, options: MeasureOptions
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Last hidden states (B, T, d) of a batch and its reductions.

        Per name of a layer measure, (B, T, L); ``hidden_shift`` (B, T, L+1), ``baseline`` (B, L+1), ``step_masses``
        (B, S, K, L); on request ``states`` (B, S, layers kept, d), ``attends_sum`` and ``attends_layer`` (B, T, K),
        ``peak_token``, ``peak_mass`` and ``peak_layer`` (B, T, k). The layers come last, as a trace has them.
        """
        layout, ids = _views(words, length, steps)
        recorded = words.is_cuda and torch.cuda.is_current_stream_capturing()
        recorder = Recorder(
            layout,
            peaks=options.peaks,
            token_attention=options.token_attention,
            state_layers=tuple(sorted(set(options.states))),
            known_left_out=self._left_out.get(ids.shape, ()) if recorded else (),
        )
        hidden = self._forward(ids, recorder)
        if self._launches_dominate(ids.numel()):
            self._left_out[ids.shape] = tuple(recorder.left_out)
        self._check_count(recorder)
        found = {name: torch.stack(getattr(recorder, name), -1) for name in _LAYER_MEASURES}
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
        fused = self.device.type == "cuda" and self.run.attention == "sdpa" and self._observed == "interface"
        return fused and 2 * self._parameters * tokens < REPLAY_FLOPS

    def _to_host(self, tensor: Tensor) -> Tensor:
        """A copy on the host that may still be on its way (see ``_Flight.landed``); the tensor itself on a CPU."""
        if not tensor.is_cuda:
            return tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)

    def _check_count(self, recorder: Recorder) -> None:
        layers = self.run.n_layers
        if len(recorder.attention_shift) != layers or len(recorder.hidden_shift) != layers + 1:
            raise ModelError(
                f"{self.run.notes.get('architecture', type(self.model).__name__)}: {len(recorder.attention_shift)} of {layers} "
                f"layers gave their attention and {len(recorder.hidden_shift) - 1} their hidden state. Its attention cannot "
                "be measured; use another model."
            )

    def _packed_batch(self, batch: list[_Pass], options: MeasureOptions) -> tuple[Ints64, int, int]:
        """All that the GPU is told about a batch as one array (see ``_views``), its length T and its steps S."""
        length = max(part.length for part in batch)
        steps = max(len(part.sequence.step_tokens) for part in batch)
        if self._launches_dominate(len(batch) * length):  # shapes that come again
            length = min(-(-length // 64) * 64, self.run.max_tokens or 2**31)
            steps = -(-steps // 8) * 8
        packed = np.zeros((len(batch), 3 * length + 2 * BASELINE_PAIRS), np.int64)
        packed[:, length : 3 * length] = -1
        for row, part in zip(packed, batch, strict=True):
            ids, bins, queries = row[: 3 * length].reshape(3, length)
            part.write(ids, bins, queries, row[3 * length :].reshape(-1, 2))
        return packed, length, steps

    def _layout(self, batch: list[_Pass]) -> tuple[Layout, Tensor]:
        packed, length, steps = self._packed_batch(batch, MeasureOptions())
        return _views(self._tensor(packed), length, steps)

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":  # a copy from ordinary memory would wait for all the work before it
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _statistics(self, batch: list[_Pass], ids: Tensor, hidden: Tensor) -> list[LogitStatistics]:
        """Per pass: statistics of every row; on a CPU only the surprisal before the last position of the context."""
        tile, block = self._tile()
        if self.device.type != "cpu":
            return self._statistics_together(batch, ids, hidden, tile)
        results = []
        for row, part in enumerate(batch):
            target = torch.cat((ids[row, 1 : part.length], ids.new_full((1,), -1)))
            first = max(0, part.context - 1)
            # nobody reads what predicts a template, or a context that an earlier window has measured
            skip = first if part.begin or not part.question else max(0, part.sequence.question.start - 1)
            stats = logit_statistics(
                self.logits,
                hidden[row, skip : part.length],
                target[skip:],
                tile=tile,
                block=block,
                full_from=first - skip,
            )
            results.append(stats.after(skip))
        return results

    def _statistics_together(self, batch: list[_Pass], ids: Tensor, hidden: Tensor, tile: int) -> list[LogitStatistics]:
        """All rows of the batch one after the other, without the padding: large products, few launches."""
        lengths = [part.length for part in batch]
        target = torch.cat((ids[:, 1:], ids.new_full((len(ids), 1), -1)), 1)
        if min(lengths) == ids.shape[1]:
            rows, targets = hidden.flatten(0, 1), target.flatten()
        else:
            starts = np.arange(len(batch)) * ids.shape[1]
            real = np.concatenate([np.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)])
            index = self._tensor(np.concatenate((real, starts + lengths - 1)))  # by number: a mask would be waited for
            target.view(-1).index_fill_(0, index[len(real) :], -1)
            rows, targets = hidden.flatten(0, 1)[index[: len(real)]], target.view(-1)[index[: len(real)]]
        stats = logit_statistics(self.logits, rows, targets, tile=tile, block=max(1, 2**25 // self.run.vocab_size))
        floats = self._to_host(torch.stack((stats.surprisal, stats.entropy, stats.shift)))
        ranks = self._to_host(stats.rank)
        edges = np.cumsum([0, *lengths])
        return [LogitStatistics(floats[0, a:b], floats[1, a:b], ranks[a:b], floats[2, a:b]) for a, b in pairwise(edges)]

    def _unpack(self, flight: _Flight, options: MeasureOptions, partial: dict[int, _Partial]) -> None:
        """Put the numbers of a batch where their chains are."""
        if flight.landed is not None:
            flight.landed.synchronize()
        found = {name: values.numpy() for name, values in flight.found.items()}
        for row, part in enumerate(flight.batch):
            sequence, n = part.sequence, len(part.sequence.tokens)
            steps = len(sequence.step_tokens)
            masses = found["step_masses"][row, :steps, : steps + 2]
            if id(sequence) not in partial:
                partial[id(sequence)] = _Partial(
                    surprisal=_nan(n),
                    entropy=_nan(n),
                    rank=np.full(n, -1, np.int32),
                    logit_shift=_nan(n),
                    # the passes of a chain cover all of its tokens
                    layers={name: np.empty((n, self.run.n_layers), np.float32) for name in _LAYER_MEASURES},
                    hidden_shift=np.empty((n, self.run.n_layers + 1), np.float32),
                    question_surprisal=_nan(sequence.question.stop - sequence.question.start),
                    step_masses=masses.copy(),
                )
                into = partial[id(sequence)]
            else:
                into = partial[id(sequence)]
                into.step_masses = into.step_masses.astype(np.float64) + masses
            chain = slice(part.keep, part.end)
            here = slice(part.context + part.keep - part.begin, part.length)  # the same tokens in the pass
            for name, values in into.layers.items():
                values[chain] = found[name][row, here]
            into.hidden_shift[chain] = found["hidden_shift"][row, here]
            pair_mean = found["baseline"][row]
            into.baseline.append(pair_mean.copy() if part.end - part.keep > 1 else np.full_like(pair_mean, np.nan))
            self._unpack_logits(part, here, chain, flight.statistics[row], into)
            if "states" in found:
                states = found["states"][row, :steps].astype(np.float64)
                into.states = states if into.states is None else into.states + states
            if "attends_sum" in found:
                if into.attends_sum is None or into.attends_layer is None:
                    into.attends_sum, into.attends_layer = _nan(n, steps), np.zeros((n, steps), np.int32)
                into.attends_sum[chain] = found["attends_sum"][row, here, 2 : steps + 2]
                into.attends_layer[chain] = found["attends_layer"][row, here, 2 : steps + 2]
            if "peak_token" in found:
                if into.peak_token is None or into.peak_mass is None or into.peak_layer is None:
                    into.peak_token = np.full((n, options.peaks), -1, np.int32)
                    into.peak_layer, into.peak_mass = into.peak_token.copy(), _nan(n, options.peaks)
                token, mass, layer = (found[f"peak_{name}"][row, here] for name in ("token", "mass", "layer"))
                seen = token >= 0
                into.peak_token[chain] = np.where(seen, token - part.context + part.begin, -1)
                into.peak_mass[chain] = np.where(seen, mass, np.nan)
                into.peak_layer[chain] = np.where(seen, layer, -1)

    @staticmethod
    def _unpack_logits(part: _Pass, here: slice, chain: slice, stats: LogitStatistics, into: _Partial) -> None:
        # the token at position p is predicted by row p - 1; without context the first token has no prediction
        positions = np.arange(here.start, here.stop)
        known = positions > 0
        rows = positions[known] - 1
        where = np.arange(chain.start, chain.stop)[known]
        surprisal = stats.surprisal.numpy()
        into.surprisal[where] = surprisal[rows]
        into.entropy[where] = stats.entropy.numpy()[rows]
        into.rank[where] = stats.rank.numpy()[rows]
        into.logit_shift[where] = stats.shift.numpy()[rows + 1]
        if part.begin == 0 and part.question:
            span = part.sequence.question
            first = max(1, span.start)
            into.question_surprisal[first - span.start :] = surprisal[first - 1 : span.stop - 1]

    # ---------------------------------------------------------------------------------------------------- the trace

    def _trace(
        self, sequence: _Sequence, found: _Partial, options: MeasureOptions, premises: tuple[Floats, Floats] | None
    ) -> Trace:
        item, spans, n = sequence.item, sequence.step_tokens, len(sequence.tokens)
        counts = np.diff(spans, axis=1)[:, 0]
        query, key = _step_pairs(len(spans))
        sums = found.step_masses[query, key].astype(np.float64)
        trace = Trace(
            chain=item.chain,
            steps=tuple(item.steps),
            run=self.run.id,
            tokenizer=self.run.tokenizer,
            n_layers=self.run.n_layers,
            token_ids=sequence.tokens.ids,
            token_start=sequence.tokens.start,
            token_end=sequence.tokens.end,
            pieces=sequence.tokens.pieces,
            step_tokens=spans,
            question_token_ids=np.asarray(sequence.context[sequence.question], np.int32),
            question_surprisal=found.question_surprisal,
            n_context=len(sequence.context),
            surprisal=found.surprisal,
            entropy=found.entropy,
            rank=found.rank,
            logit_shift=found.logit_shift,
            hidden_shift=found.hidden_shift,
            hidden_baseline=_mean_of_defined(np.stack(found.baseline)),
            step_attention=(sums / np.where(counts, counts, np.nan)[query, None]).astype(np.float32),
            attention_shift=found.layers["attention_shift"],
            attention_previous=found.layers["attention_previous"],
            attention_sink=found.layers["attention_sink"],
            attention_entropy=found.layers["attention_entropy"],
        )
        changes: dict[str, Any] = {}
        if options.token_attention and found.attends_sum is not None:
            changes |= self._attends(sequence, found)
        if options.peaks:
            changes |= {
                "peak_token": found.peak_token,
                "peak_mass": found.peak_mass,
                "peak_layer": found.peak_layer,
            }
        if options.states and found.states is not None:
            kept = tuple(sorted(set(options.states)))
            with np.errstate(invalid="ignore", divide="ignore"):
                states = found.states / np.where(counts, counts, np.nan)[:, None, None]
            changes |= {"state_layers": kept, "step_states": states.astype(np.float32)}
        if premises is not None:
            given = [_mean_of_defined(found.surprisal[a:b, None])[0] for a, b in spans]
            changes |= {
                "nll_given_all": np.asarray(given, np.float32),
                "nll_given_question": premises[0],
                "nll_without_previous": premises[1],
            }
        assert n == len(trace.surprisal)
        return replace(trace, **changes) if changes else trace

    def _attends(self, sequence: _Sequence, found: _Partial) -> dict[str, Any]:
        """The earlier step that each token looks at most, by the mean over layers."""
        assert found.attends_sum is not None
        assert found.attends_layer is not None
        n, steps = found.attends_sum.shape
        own = (sequence.chain_bins - 2)[:, None]
        mean = np.where(np.arange(steps) < own, found.attends_sum / self.run.n_layers, -1.0)
        best = mean.argmax(1)
        row = np.arange(n)
        none = mean[row, best] < 0
        return {
            "token_attends_step": np.where(none, -1, best).astype(np.int32),
            "token_attends_mass": np.where(none, np.nan, mean[row, best]).astype(np.float32),
            "token_attends_layer": np.where(none, -1, found.attends_layer[row, best]).astype(np.int32),
        }

    # ---------------------------------------------------------------------------------------------------- premises

    def _premises(self, sequence: _Sequence, found: _Partial) -> tuple[Floats, Floats]:
        """NLL per token of every step (S,) given the question alone, and given everything but the previous step."""
        spans, n = sequence.step_tokens, len(sequence.tokens)
        context, ids = sequence.context, sequence.tokens.ids
        alone, without = _nan(len(spans)), _nan(len(spans))
        if sequence.length > (self.run.max_tokens or math.inf):
            raise ModelError(
                f"chain {sequence.item.chain.id} has {sequence.length} tokens with its context: premises need the whole "
                f"chain in one window of {self.run.model} ({self.run.max_tokens} tokens). Leave out --premises for it."
            )
        conditions: list[tuple[Floats, int, int, int, int]] = []  # result, step, end of what is kept before, begin, end
        for step, (begin, end) in enumerate(spans.tolist()):
            if begin == end:
                continue
            if step == 0:
                alone[0] = _mean_of_defined(found.surprisal[begin:end, None])[0]
                continue
            conditions.append((alone, step, 0, begin, end))
            conditions.append((without, step, int(spans[step - 1, 0]), begin, end))
        if not conditions:
            return alone, without
        score = self._packed if self._packable(sequence) else self._separate
        for (result, step, *_), nll in zip(conditions, score(context, ids, n, conditions), strict=True):
            result[step] = nll
        return alone, without

    def _packable(self, sequence: _Sequence) -> bool:
        """Whether a 4-D mask and position ids say everything this model knows about order."""
        if self._observed != "interface" or self.run.attention == "eager":
            return False
        config = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
        return not (window and sequence.length > window)

    def _packed(
        self, context: list[int], ids: Ints, n: int, conditions: list[tuple[Floats, int, int, int, int]]
    ) -> Iterator[float]:
        """All conditions of a chain in one pass: copies of the steps that see only what their condition leaves them."""
        c = len(context)
        copies = sum(end - begin for *_, begin, end in conditions)
        total = c + n + copies
        sequence = np.empty(total, np.int64)
        sequence[:c], sequence[c : c + n] = context, ids
        position = np.arange(total)
        mask = torch.zeros(total, total, dtype=torch.bool, device=self.device)
        mask[: c + n, : c + n] = torch.ones(c + n, c + n, dtype=torch.bool, device=self.device).tril_()
        rows, targets, counts = [], [], []
        at = c + n
        for _, _, kept, begin, end in conditions:
            size = end - begin
            sequence[at : at + size] = ids[begin:end]
            position[at : at + size] = c + kept + np.arange(size)
            mask[at : at + size, : c + kept] = True
            mask[at : at + size, at : at + size] = torch.ones(size, size, dtype=torch.bool, device=self.device).tril_()
            before = [c + kept - 1] if c + kept else []  # what predicts the copy's first token
            predictors = [*before, *range(at, at + size - 1)]
            rows += predictors
            targets += ids[end - len(predictors) : end].tolist()
            counts.append(len(predictors))
            at += size
        hidden = self._forward(
            self._tensor(sequence)[None],
            None,
            attention_mask=mask[None, None],
            position_ids=self._tensor(position)[None],
        )
        tile, block = self._tile()
        nll = (
            logit_statistics(
                self.logits,
                hidden[0, self._tensor(np.asarray(rows))],
                self._tensor(np.asarray(targets)),
                tile=tile,
                block=block,
                full_from=len(rows),
            )
            .surprisal.cpu()
            .numpy()
        )
        start = 0
        for count in counts:
            yield float(nll[start : start + count].mean()) if count else math.nan
            start += count

    def _separate(
        self, context: list[int], ids: Ints, n: int, conditions: list[tuple[Floats, int, int, int, int]]
    ) -> Iterator[float]:
        """One sequence per condition: slower, for models whose order is not said by position ids."""
        tile, block = self._tile()
        for _, _, kept, begin, end in conditions:
            sequence = np.concatenate((np.asarray(context, np.int64), ids[:kept], ids[begin:end])).astype(np.int64)
            rows = len(context) + kept - 1 + np.arange(end - begin)
            rows = rows[rows >= 0]
            if not len(rows):
                yield math.nan
                continue
            hidden = self._forward(self._tensor(sequence)[None], None)
            stats = logit_statistics(
                self.logits,
                hidden[0, self._tensor(rows)],
                self._tensor(sequence[rows + 1]),
                tile=tile,
                block=block,
                full_from=len(rows),
            )
            yield float(stats.surprisal.mean())

    # ---------------------------------------------------------------------------------------------------- inspection

    def _inspect(self) -> Literal["interface", "weights"]:
        """Try the model on a few tokens: are all layers observed, and are numbers those of its own eager forward pass?

        Raises ModelError with the reason when they are not: a wrong number must not pass for a measurement.
        """
        generator = np.random.default_rng(0)
        ids = self._tensor(generator.integers(0, self.run.vocab_size, (1, 12)))
        bins = self._tensor(np.asarray([[0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4]]))
        keep = (bins.unsqueeze(1) == self._tensor(np.arange(2, 5)).view(1, 3, 1)).float()
        layout = Layout(bins, keep, self._tensor(np.zeros((1, 0, 2), np.int64)))
        name = type(self.model).__name__
        with torch.inference_mode():
            with self._attention("eager"):
                truth = Recorder(layout)
                self._observed = "weights"
                hidden = self._forward(ids, truth)
                whole = self.model(input_ids=ids, use_cache=False).logits
                begun = self._forward(ids[:, :6], None)
            tolerance = 1e-3 if self.dtype == torch.float32 else 0.1
            if not _close(begun, hidden[:, :6], tolerance):
                raise ModelError(
                    f"{name} is not causal: its tokens see later tokens, so a transition has no surprisal. Use a causal "
                    "language model."
                )
            self._check_count(truth)
            if not _close(self.logits(hidden), whole, tolerance):
                raise ModelError(
                    f"{name} changes its logits after the language-model head in a way that trails does not know, so "
                    "surprisals would be wrong. Use another model."
                )
            if self.run.attention == "eager":
                return "weights"
            self._observed = "interface"
            mine = Recorder(layout)
            with self._attention(on_the_fly.NAME):
                try:
                    self._forward(ids, mine)
                except (KeyError, ValueError):
                    return "weights"
            if len(mine.attention_shift) != self.run.n_layers:
                return "weights"  # the model does not use the attention interface: its own weights are read instead
            for kind in ("attention_shift", "attention_previous", "attention_entropy", "hidden_shift"):
                a, b = torch.stack(getattr(mine, kind)), torch.stack(getattr(truth, kind))
                if not _close(a, b, tolerance):
                    raise ModelError(
                        f"{name}: {kind} differs from the model's own eager attention by up to "
                        f"{float((a - b).abs().nan_to_num().max()):.2g}. Measure it with --attention eager."
                    )
        return "interface"


# -------------------------------------------------------------------------------------------------------------- helpers


def baseline_pairs(chain: Chain, count: int) -> npt.NDArray[np.int64]:
    """Pairs of different positions below ``count``, shape (64, 2), drawn from the chain's id alone; (0, 0) if count < 2."""
    if count < 2:
        return np.zeros((BASELINE_PAIRS, 2), np.int64)
    generator = np.random.Generator(np.random.PCG64(int(chain.id[1:], 16)))
    left = generator.integers(0, count, BASELINE_PAIRS)
    right = (left + generator.integers(1, count, BASELINE_PAIRS)) % count
    return np.stack((left, right), 1)


@lru_cache(maxsize=256)
def _step_pairs(steps: int) -> tuple[Ints64, Ints64]:
    """Step and bin of every entry of ``Trace.step_attention``: the bins up to a step's own, step after step."""
    query = np.repeat(np.arange(steps), np.arange(steps) + 3)
    return query, np.concatenate([np.arange(step + 3) for step in range(steps)] or [query])


def _views(words: Tensor, length: int, steps: int) -> tuple[Layout, Tensor]:
    """Layout and ids (B, T) of a packed batch: ids, bins as keys, steps as queries, then the pairs, in each row."""
    ids, bins, queries = words[:, : 3 * length].view(-1, 3, length).unbind(1)
    keep = (queries.unsqueeze(1) == torch.arange(steps, device=words.device)[:, None]).float()
    pairs = words[:, 3 * length :].reshape(-1, BASELINE_PAIRS, 2).contiguous()
    return Layout(bins, keep, pairs), ids


def differences(left: Sequence[Trace], right: Sequence[Trace]) -> dict[str, float]:
    """Largest absolute difference per measure over pairs of traces of the same chains, and the mean one of surprisal."""
    result = {}
    for name in ("surprisal", "entropy", "logit_shift", *_LAYER_MEASURES, "hidden_shift", "step_attention"):
        gaps = [np.abs(getattr(a, name) - getattr(b, name)).ravel() for a, b in zip(left, right, strict=True)]
        found = np.concatenate(gaps)
        result[name] = float(np.nanmax(found)) if not np.isnan(found).all() else 0.0
        if name == "surprisal" and not np.isnan(found).all():
            result["surprisal_mean"] = float(np.nanmean(found))
    return result


def _nan(*shape: int) -> Floats:
    return np.full(shape, np.nan, np.float32)


def _mean_of_defined(values: npt.NDArray[Any]) -> Floats:
    """Mean over the first axis without the NaN; NaN where nothing is defined."""
    defined = ~np.isnan(values)
    count = defined.sum(0)
    total = np.where(defined, values, 0).sum(0, dtype=np.float64)
    return np.where(count, total / np.maximum(count, 1), np.nan).astype(np.float32)


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Equal up to ``tolerance`` of the larger of 1 and the largest value; undefined together counts as equal."""
    a, b = a.float(), b.float()
    scale = max(1.0, float(b.nan_to_num().abs().max()))
    return bool((a.isnan() == b.isnan()).all()) and float((a - b).nan_to_num().abs().max()) <= tolerance * scale


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _limit(config: Any) -> int:
    """Longest sequence the model takes; 0 = it names no limit."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return 0


def _logit_scale(config: Any) -> float:
    """Factor between the head's output and the logits (Cohere multiplies, Granite divides)."""
    if getattr(config, "logits_scaling", None):
        return 1.0 / float(config.logits_scaling)
    if config.model_type.startswith("cohere") and getattr(config, "logit_scale", None):
        return float(config.logit_scale)
    return 1.0


def _decoder_layers(model: Any, count: int) -> Any:
    """The list of the model's layers."""
    found = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    for layers in found:
        if any("attention" in type(m).__name__.lower() for m in layers[0].modules()):
            return layers
    raise ModelError(
        f"{type(model).__name__} has no list of {count} attention layers that could be observed. Use another model."
    )


def _attention_configs(model: Any) -> list[Any]:
    """Every config object that the model's modules read the attention implementation from."""
    found = {
        id(m.config): m.config for m in model.modules() if hasattr(getattr(m, "config", None), "_attn_implementation")
    }
    return list(found.values())
