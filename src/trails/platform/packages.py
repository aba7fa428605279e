"""Packages that are imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

from trails.errors import MissingPackageError
from trails.platform.files import lacking


def package(name: str, need: str, extra: str = "") -> Any:
    """The module ``name``, imported now. Raises MissingPackageError that says what ``need`` is and how to install it: as the
    ``extra`` of trails that holds it, where there is one."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if lacking(error):
            raise  # it is there, and there is no memory for it
        line = f"'trails[{extra}]'" if extra else name
        raise MissingPackageError(
            f"{need} needs the package {name.partition('.')[0]} ({error}). Run: pip install {line}"
        ) from None
