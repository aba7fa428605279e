"""Every picture of docs/images is made by scripts/pictures.py and stands on a page."""

from __future__ import annotations

import importlib.util
import re
import struct
from pathlib import Path
from types import ModuleType

import pytest
from tests.docs.blocks import PAGES, ROOT

IMAGES = ROOT / "docs" / "images"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "scripts" / "pictures.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_makes_every_picture(script: ModuleType) -> None:
    assert {path.stem for path in IMAGES.iterdir()} == {*script.REPORT, *script.BROWSER}
    assert {path.suffix for path in IMAGES.iterdir()} == {".png"}


def test_every_picture_stands_on_a_page_and_every_page_shows_one_that_there_is() -> None:
    shown = {
        (page.parent / link).resolve()
        for page in [*PAGES, ROOT / "README.ru.md"]
        for link in re.findall(r"!\[[^\]]*\]\(([^)#]*images/[^)]*)\)", page.read_text(encoding="utf-8"))
    }
    assert shown == set(IMAGES.iterdir())


def test_a_picture_of_the_report_has_the_size_that_the_script_takes(script: ModuleType) -> None:
    for name, page in script.REPORT.items():
        header = (IMAGES / f"{name}.png").read_bytes()[16:24]
        assert struct.unpack(">II", header) == page.size, name


def test_a_caption_with_a_figure_that_the_picture_lacks_is_named(script: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("![x](images/one.png)\n\n*Score .801, control .537 of 1,200.*\n", encoding="utf-8")
    assert script.stale("one", "0.801 (0.537), 1,200 tokens", [page]) == []
    assert script.stale("one", "0.801 (0.536), 1,200 tokens", [page]) == [
        "page.md: the picture one does not show 0.537"
    ]
    assert script.stale("two", "", [page]) == []
    said = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"images/report-chain\.png\)\n\n\*.+\*\n", said), (
        "the picture of README has a caption that is checked"
    )
