"""Linear layers on a CPU by oneDNN instead of MKL.

PyTorch multiplies float32 matrices with MKL, which on a processor of another maker runs at 0.6 to 0.85 of the rate of oneDNN
(measured on an AMD EPYC with AVX-512; not measured on others). Both are part of PyTorch and both compute in float32; they
add up in another order, so results differ in the last digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.nn.functional import linear

FEWEST_ROWS = 256
"""Fewer rows stay with ``linear``: ordering the weights again for every product then costs as much as it gains."""


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether oneDNN's product exists in this PyTorch and computes what ``linear`` computes."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*size, generator=generator) for size in ((1, 40, 24), (48, 24), (48,)))
    try:
        return torch.allclose(_product(x, weight, bias), linear(x, weight, bias), atol=1e-4)
    except (AttributeError, RuntimeError, TypeError):  # the operator is not part of PyTorch's stable interface
        return False


def _forward(module: torch.nn.Linear, x: Tensor) -> Tensor:
    """Powers of two of rows at a time: oneDNN keeps about 0.7 MB for every number of rows and shape of weights that it has met,
    so chains of all lengths would fill a gigabyte.
    """
    rows = x.numel() // x.shape[-1]
    if x.dtype != torch.float32 or rows < FEWEST_ROWS or torch.is_grad_enabled():
        return linear(x, module.weight, module.bias)
    if rows & (rows - 1) == 0:
        return _product(x, module.weight, module.bias)
    flat, parts, start = x.reshape(rows, -1), [], 0
    while rows - start >= FEWEST_ROWS:
        end = start + (1 << (rows - start).bit_length() - 1)
        parts.append(_product(flat[start:end], module.weight, module.bias))
        start = end
    if start < rows:
        parts.append(linear(flat[start:], module.weight, module.bias))
    return torch.cat(parts).view(*x.shape[:-1], -1)


@contextmanager
def fast_linear(model: torch.nn.Module) -> Iterator[None]:
    """While inside, the float32 linear layers of ``model`` on a CPU use oneDNN where it is available.

    Layers of derived classes and layers whose ``forward`` somebody has replaced already stay as they are.
    """
    changed: list[torch.nn.Linear] = []
    if available():
        for module in model.modules():
            if (
                not isinstance(module, torch.nn.Linear)
                or type(module) is not torch.nn.Linear
                or "forward" in vars(module)
            ):
                continue
            if module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
                forward: Callable[[Tensor], Tensor] = partial(_forward, module)
                module.forward = forward  # type: ignore[method-assign, assignment]
                changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward
