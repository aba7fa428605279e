"""Keys and values that a model keeps: transformers renamed the argument and the field from ``past_key_values`` to ``cache``.

In: a module and what it kept. Out: the arguments that hand it back, under the name that this module knows.
"""

from __future__ import annotations

import inspect
from functools import cache as remembered
from typing import Any

OLD, NEW = "past_key_values", "cache"


def handed_back(module: Any, kept: Any) -> dict[str, Any]:
    """The keyword arguments of a forward pass that goes on from what ``kept`` holds; empty for None."""
    if kept is None:
        return {}
    inner = (
        module.get_base_model() if hasattr(module, "get_base_model") else module
    )  # an adapter's forward names nothing
    kind: Any = type(inner)
    return {_name(kind): kept}


def kept_by(output: Any) -> Any:
    """What a forward pass kept; None where the model keeps no keys and values."""
    found = getattr(output, NEW, None)
    return found if found is not None else getattr(output, OLD, None)


@remembered
def _name(kind: Any) -> str:
    return NEW if NEW in inspect.signature(kind.forward).parameters else OLD
