"""The façade: what ``import trails`` offers, and that it costs nothing until used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import trails


def test_every_public_name_exists_and_is_documented() -> None:
    for name in trails.__all__:
        assert getattr(trails, name).__doc__, name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = trails.nothing


def test_import_is_light() -> None:
    code = "import trails, sys; print([m for m in ('torch', 'kglite', 'pyarrow', 'numpy') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.slow
def test_analyses_and_stores_are_imported_without_torch_or_scipy() -> None:
    code = (
        "import importlib, pkgutil, sys\n"
        "for room in ('readers', 'segment', 'store', 'analyses', 'report'):\n"
        "    found = importlib.import_module(f'trails.{room}')\n"
        "    for module in pkgutil.walk_packages(found.__path__, f'trails.{room}.'):\n"
        "        importlib.import_module(module.name)\n"
        "print([m for m in ('torch', 'transformers', 'scipy', 'networkx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
