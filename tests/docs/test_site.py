"""The pages build as a site without a warning, and the site asks nobody for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.blocks import PAGES, ROOT


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--quiet"]
    command += ["-f", str(ROOT / ".ci" / "mkdocs.yml"), "-d", str(tmp_path / "site")]
    done = subprocess.run(
        command, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES)
    start, listed = ((tmp_path / "site" / name).read_text("utf-8") for name in ("index.html", "all-pages.html"))
    assert 'id="try-it"' in start, "the README is the start"
    assert "Four kinds of pages" in listed
    assert 'href="all-pages.html"' in start
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]+src=[\"']?(https?:[^\"' >]+)", text)
        loaded += re.findall(r"<link[^>]+href=[\"']?(https?:[^\"' >]+)", text)
        assert loaded == [], page.name
