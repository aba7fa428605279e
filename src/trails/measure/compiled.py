"""The layers of a model, compiled one by one: the work between the products of matrices in few kernels instead of many.

One graph serves all layers of a kind and all shapes: batch and length are symbols in it. Attention is one opaque operator
inside (:func:`trails.measure.attention.trails_attention`), and what observes a layer stays outside of it, so that a recorder
sees the same states. Rounding differs from the plain path, which remains the reference: whatever was newly compiled is run
beside it and used only where both agree.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from trails.errors import TrailsError

logger = logging.getLogger(__name__)

Compile = Literal["auto", "on", "off"]
Result = tuple[Tensor, dict[str, Tensor]]

COMPILE_AFTER = 1e16
"""Operations of the layers after which ``auto`` compiles them: about half a minute of measuring on a large GPU, which is what
compiling takes when nothing is in PyTorch's cache. So it never costs more than the work before it did."""

TOLERANCE = 0.2
"""Largest relative distance ‖compiled - plain‖ / ‖plain‖ of a reduction at which both agree. Rounding to bfloat16 alone gave
0.07 in the last state of 32 random layers; what is computed wrongly has nothing in common with the plain path."""

_graphs = 0


def _inductor(graph: Any, inputs: list[Tensor]) -> Callable[..., Any]:
    """PyTorch's compiler; counts the graphs, so that the first run of each can be checked."""
    global _graphs
    _graphs += 1
    from torch._inductor.compile_fx import compile_fx

    compiled: Any = compile_fx(graph, inputs)
    return compiled  # type: ignore[no-any-return]


def graphs() -> int:
    """Graphs that this process has compiled so far."""
    return _graphs


class CompiledLayers:
    """The compiled forward of a model's ``layers``. ``usable`` turns False, with a warning, when compiling fails or gives other
    numbers than the plain path.
    """

    def __init__(self, layers: Iterable[torch.nn.Module]) -> None:
        self.layers = list(layers)
        self.usable = not any("forward" in vars(layer) for layer in self.layers)  # somebody else's forward: left alone
        self._functions: dict[type, Callable[..., Any]] = {}
        self._unchecked = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """The layers run compiled while inside; their hooks stay outside of what is compiled."""
        for layer in self.layers:
            kind = type(layer)
            if kind not in self._functions:
                self._functions[kind] = torch.compile(kind.forward, backend=_inductor, fullgraph=True, dynamic=True)
            layer.forward = partial(self._functions[kind], layer)
        try:
            # sizes that happen to be equal, as 64 sequences of 64 tokens, are not taken to be always equal
            with torch.fx.experimental._config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
                yield
        finally:
            for layer in self.layers:
                del layer.forward

    def run(self, function: Callable[[], Result]) -> Result:
        """``function()`` with the layers compiled; plainly where that fails. A pass for which something was compiled is
        compared with a plain one.
        """
        if not self.usable:
            return function()
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            with self.running():
                return function()
        before = graphs()
        try:
            with self.running():
                result = function()
        except (torch.OutOfMemoryError, TrailsError):
            raise
        except (
            Exception
        ) as error:  # whatever a model's code or the compiler may raise; the plain path has the last word
            self._give_up((str(error).strip().splitlines() or [type(error).__name__])[0])
            return function()
        self._unchecked |= graphs() != before
        if not self._unchecked:
            return result
        plain = function()
        wrong = disagreement(result, plain)
        self._unchecked = False
        if wrong:
            self._give_up(wrong)
            return plain
        return result

    def _give_up(self, reason: str) -> None:
        self.usable = False
        logger.warning("the layers are not compiled, the plain path runs instead: %s", reason)


def disagreement(found: Result, plain: Result) -> str:
    """What differs by more than rounding, in words; empty where nothing does. Places that are undefined must be the same."""
    pairs = {"the last hidden state": (found[0], plain[0])} | {
        name: (values, plain[1][name]) for name, values in found[1].items() if values.is_floating_point()
    }
    for name, (a, b) in pairs.items():
        if not torch.equal(a.isnan(), b.isnan()):
            return f"{name} is undefined at other places than in the plain path"
        a, b = a.nan_to_num().double(), b.nan_to_num().double()
        gap, size = float(torch.linalg.vector_norm(a - b)), float(torch.linalg.vector_norm(b))
        if not gap <= TOLERANCE * size + 1e-6 * a.numel() ** 0.5:
            return f"{name} differs from the plain path by {gap / max(size, 1e-30):.2g} of its length"
    return ""
