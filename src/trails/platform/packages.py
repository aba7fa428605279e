"""Packages that are imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

from trails.errors import MissingPackageError


def package(name: str, need: str) -> Any:
    """The package ``name``, imported now. Raises MissingPackageError that says what ``need`` is and how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(f"{need} needs the package {name} ({error}). Run: pip install {name}") from None
