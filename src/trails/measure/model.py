"""One forward path for a causal language model of the transformers library.

:class:`Model` is what the scorer, premises, variants, recall, probes and the experiments' bench run a model through:

- ``model.hidden(ids)`` → last hidden states (B, T, d), after the final norm; ``model.logits(hidden)`` → final logits (…, V),
  with the scale and soft cap that the model applies. Take the rows that are needed between the two: the head costs most.
- ``model.hidden(ids, recorder)`` lets a :class:`~trails.measure.attention.Recorder` see every layer.
- ``model.states(ids, cache)`` → the hidden states of every layer, continued from a cache.
- ``with model.measuring():`` no gradients, no dropout, this model's device, fast linear layers on a CPU.
- ``with model.differentiable(), model.embedded(leaf):`` gradients at the input embeddings.
- ``with model.changed(layer, site, function):`` an intervention: what a block, its attention or its MLP gives is replaced.
- ``model.module`` is the torch module (with the LoRA layers of a PEFT model, if it was made from one), ``model.text`` and
  ``model.tokenizer`` its tokenizer, ``model.device`` and ``model.dtype`` where and in which numbers it runs.

Layers count from 1 to L, state 0 is the input of layer 1; see docs/measuring.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trails.errors import ModelError
from trails.measure import attention as on_the_fly
from trails.measure.attention import Recorder, recording
from trails.measure.caching import handed_back, kept_by
from trails.measure.linear import fast_linear
from trails.measure.tokens import TextTokenizer
from trails.platform.text import counted

Attention = Literal["sdpa", "eager"]
Observed = Literal["interface", "weights"]
Site = Literal["block_output", "attention_output", "mlp_output"]

_MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe")


class Model:
    """A causal language model and its tokenizer. ``module`` is the torch module or a PEFT model around it, ``name`` its name
    in messages.

    ``attention`` says how it is measured: ``sdpa`` (reduced on the fly) or ``eager`` (its own weights). ``observed`` says how
    its attention is seen: through transformers' attention interface, or by the weights that its layers give away; see
    :mod:`trails.measure.inspection`. Raises ModelError for a model without a language-model head or attention layers.
    """

    def __init__(self, module: Any, tokenizer: Any, *, name: str, attention: Attention = "sdpa") -> None:
        on_the_fly.install()
        inner = module.get_base_model() if hasattr(module, "get_base_model") else module
        self.module = inner
        self.tokenizer = tokenizer
        self.text = TextTokenizer(tokenizer)
        self.name, self.attention = name, attention
        self.observed: Observed = "weights"
        self.device: torch.device = next(inner.parameters()).device
        self.dtype: torch.dtype = next(inner.parameters()).dtype
        config = inner.config.get_text_config()
        self.config = config
        self.layers = _decoder_layers(inner, config.num_hidden_layers)
        self.n_layers: int = config.num_hidden_layers
        self.n_heads: int = config.num_attention_heads
        self.d_model: int = config.hidden_size
        self.max_tokens = _limit(config)
        self._head = inner.get_output_embeddings()
        if self._head is None:
            raise ModelError(f"{type(inner).__name__} has no language-model head, so tokens have no probability.")
        self.vocab_size: int = self._head.weight.shape[0]
        self._trunk = inner.get_decoder() if hasattr(inner, "get_decoder") else inner.base_model
        if self._trunk is None or self._trunk is inner:
            self._trunk = inner.base_model
        self._softcap = getattr(config, "final_logit_softcapping", None)
        self._logit_scale = _logit_scale(config)
        self._configs = _attention_configs(inner)
        self.changes = 0
        """Interventions in force: a pass that is replayed from a CUDA graph would not see them."""
        self.fast_linear = True
        """Whether linear layers on a CPU go through oneDNN; PyTorch's compiler has its own."""
        self.layer_parameters = sum(parameter.numel() for parameter in self.layers.parameters())

    @property
    def architecture(self) -> str:
        """Name of the model's class."""
        return type(self.module).__name__

    @property
    def fused(self) -> bool:
        """Whether attention is reduced while it runs (the eager reference gives its weights away instead)."""
        return self.attention == "sdpa" and self.observed == "interface"

    # ------------------------------------------------------------------------------------------------------ forward

    def hidden(self, ids: Tensor, recorder: Recorder | None = None, **extra: Any) -> Tensor:
        """Last hidden states (B, T, d) of token ids (B, T), after the final norm; the recorder sees every layer.

        ``extra`` goes to the model: ``attention_mask``, ``position_ids``.
        """
        with ExitStack() as stack:
            if recorder is not None:
                for handle in self._observers(recorder):
                    stack.callback(handle.remove)
            stack.enter_context(recording(recorder))
            output = self._trunk(input_ids=ids, use_cache=False, **extra)
        hidden: Tensor = output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]
        return hidden

    def states(self, ids: Tensor, cache: Any = None) -> tuple[list[Tensor], Any]:
        """Hidden states of every layer, L+1 tensors (B, T, d), the last after the final norm, and the cache to go on with."""
        output = self._trunk(
            input_ids=ids, use_cache=True, output_hidden_states=True, **handed_back(self._trunk, cache)
        )
        return [*output.hidden_states[:-1], output.last_hidden_state], kept_by(output)

    def logits(self, hidden: Tensor) -> Tensor:
        """Final logits (…, V) of last hidden states (…, d), in the model's dtype."""
        logits: Tensor = self._head(hidden)
        if self._logit_scale != 1.0:
            logits = logits * self._logit_scale
        if self._softcap:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    def embeddings(self) -> Tensor:
        """The input embeddings of the vocabulary, (V, d)."""
        weight: Tensor = self.module.get_input_embeddings().weight
        return weight

    def tile(self) -> tuple[int, int]:
        """Rows of logits that exist at once, and rows reduced together."""
        if self.device.type == "cpu":
            return max(16, 50_000_000 // (4 * self.vocab_size)), max(1, 2**19 // self.vocab_size)
        rows = max(64, 2**27 // self.vocab_size)
        return rows, rows

    def tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """An array on the model's device; on a GPU the copy may still be on its way, in the order of the stream."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":  # a copy from ordinary memory would wait for all the work before it
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    # ----------------------------------------------------------------------------------------------------- contexts

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """No gradients, no dropout, this model's device and attention implementation while inside."""
        training = self.module.training
        # telling a thousand modules what they know takes longer than looking
        switched = any(module.training for module in self.module.modules())
        # eager stays as PyTorch has it
        fast = self.device.type == "cpu" and self.attention == "sdpa" and self.fast_linear
        linear = fast_linear(self.module) if fast else nullcontext()
        wanted = on_the_fly.NAME if self.fused else "eager"
        with self.on_device(), self.attending(wanted), torch.inference_mode(), linear:
            if switched:
                self.module.eval()
            try:
                yield
            finally:
                if switched:
                    self.module.train(training)

    @contextmanager
    def differentiable(self) -> Iterator[None]:
        """Gradients of what is computed inside, but none of the weights; no dropout, this model's device. Attention is
        PyTorch's own: exact, and never the kernels that only measure. Of every layer only its input is kept, and the layer
        runs again when its gradient is taken, so that memory grows with the layers' inputs and not with what is inside."""
        training = self.module.training
        weights = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        soft = getattr(self.config, "attn_logit_softcapping", None)
        wanted = on_the_fly.NAME if self.fused and not soft else "eager"
        with self.on_device(), self.attending(wanted), torch.enable_grad():
            self.module.eval()
            for parameter in weights:
                parameter.requires_grad_(False)
            for layer in self.layers:
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
            try:
                yield
            finally:
                for layer in self.layers:
                    del layer.forward  # the instance's; the class has its own
                for parameter in weights:
                    parameter.requires_grad_(True)
                self.module.train(training)

    @contextmanager
    def embedded(self, embeddings: Tensor) -> Iterator[None]:
        """While inside, the input embeddings of the tokens are ``embeddings`` (B, T, d)."""
        handle = self.module.get_input_embeddings().register_forward_hook(lambda *_: embeddings)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """The model's GPU is the current one while inside: kernels start there, and events are recorded in its stream."""
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            yield

    @contextmanager
    def attending(self, implementation: str) -> Iterator[None]:
        """The layers use this attention implementation while inside."""
        before = [config._attn_implementation for config in self._configs]
        for config in self._configs:
            config._attn_implementation = implementation
        try:
            yield
        finally:
            for config, value in zip(self._configs, before, strict=True):
                config._attn_implementation = value

    @contextmanager
    def changed(self, layer: int, site: Site, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """While inside, what the site of a layer (1 … L) gives, (B, T, d), is replaced by ``function`` of it.

        ``attention_output`` and ``mlp_output`` are what is added to the residual stream, ``block_output`` is the stream after
        the layer. Raises ModelError for a layer or a site that the model does not have.
        """

        def replace(_: Any, __: Any, output: Any) -> Any:
            return (function(output[0]), *output[1:]) if isinstance(output, tuple) else function(output)

        handles = [module.register_forward_hook(replace) for module in self._modules(layer, site)]
        with self._changed(handles):
            yield

    @contextmanager
    def masks(self, mask_of: Callable[[int], Tensor]) -> Iterator[None]:
        """While inside, the attention of layer l (1 … L) runs under the mask ``mask_of(l)``: additive, (B, 1, T, T). It is
        asked for when the layer begins.

        Raises ModelError for a model whose attention takes no mask of its own.
        """

        def hook(layer: int) -> Callable[..., Any]:
            def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                if "attention_mask" not in kwargs:
                    raise ModelError(
                        f"{self.architecture} gives its attention no mask by name, so no step can be hidden."
                    )
                return args, {**kwargs, "attention_mask": mask_of(layer)}

            return before

        handles = [
            module.register_forward_pre_hook(hook(layer), with_kwargs=True)
            for layer in range(1, self.n_layers + 1)
            for module in self._modules(layer, "attention_output")
        ]
        with self._changed(handles):
            yield

    @contextmanager
    def _changed(self, handles: Sequence[Any]) -> Iterator[None]:
        """Counts as a change while inside; takes the hooks away at the end."""
        self.changes += 1
        try:
            yield
        finally:
            self.changes -= 1
            for handle in handles:
                handle.remove()

    def _modules(self, layer: int, site: Site) -> list[Any]:
        if not 1 <= layer <= self.n_layers:
            raise ModelError(f"layer {layer} was asked for, {self.name} has layers 1 to {self.n_layers}.")
        block = self.layers[layer - 1]
        if site == "block_output":
            return [block]
        if site == "attention_output":
            found = _attention_modules(block)
        else:
            found = [child for name, child in block.named_children() if name in _MLP]
        if len(found) != 1:
            raise ModelError(f"{self.architecture} has no single module that gives the {site} of layer {layer}.")
        return found

    def _observers(self, recorder: Recorder) -> Iterator[Any]:
        """Handles of the hooks through which a recorder sees the layers."""

        def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            recorder.hidden(args[0] if args else kwargs["hidden_states"])

        def after(_: Any, __: Any, output: Any) -> None:
            recorder.hidden(output[0] if isinstance(output, tuple) else output)

        yield self.layers[0].register_forward_pre_hook(before, with_kwargs=True)
        for layer in self.layers:
            yield layer.register_forward_hook(after)
        if self.attention == "eager" or self.observed == "weights":

            def weights(_: Any, __: Any, output: Any) -> Any:
                found = output[1] if isinstance(output, tuple) and len(output) > 1 else None
                if not isinstance(found, Tensor) or found.ndim != 4:
                    return output
                recorder.weights(found)
                return (output[0], None, *output[2:])  # let go of the weights at once

            for layer in self.layers:
                for module in _attention_modules(layer):
                    yield module.register_forward_hook(weights)

    def check_observed(self, recorder: Recorder) -> None:
        """Raises ModelError unless every layer gave its attention and its hidden state."""
        layers = self.n_layers
        if len(recorder.attention_shift) != layers or len(recorder.hidden_shift) != layers + 1:
            raise ModelError(
                f"{self.architecture}: {len(recorder.attention_shift)} of {layers} "
                f"layers gave their attention and {len(recorder.hidden_shift) - 1} their hidden state. Its attention cannot "
                "be measured; use another model."
            )


def _attention_modules(layer: Any) -> list[Any]:
    return [
        module
        for name, module in layer.named_modules()
        if "attention" in type(module).__name__.lower() and "." not in name
    ]


_NO_NUMBER = frozenset(
    (
        *(
            "transformers_version",
            "architectures",
            "dtype",
            "torch_dtype",
            "use_cache",
            "return_dict",
            "attn_implementation",
        ),
        *("bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id", "num_labels", "tie_word_embeddings"),
    )
)


def settings_of(config: Any) -> dict[str, Any]:
    """What a configuration says that can change a number, as JSON values: its differences from the defaults of its class."""
    told = {name: value for name, value in config.to_diff_dict().items() if not name.startswith("_")}
    kept = {name: value for name, value in told.items() if name not in _NO_NUMBER and not name.startswith("output_")}
    found: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return found


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
        f"{type(model).__name__} has no list of {counted(count, 'attention layer')} that could be observed. Use another model."
    )


def _attention_configs(model: Any) -> list[Any]:
    """Every config object that the model's modules read the attention implementation from."""
    found = {
        id(m.config): m.config for m in model.modules() if hasattr(getattr(m, "config", None), "_attn_implementation")
    }
    return list(found.values())
