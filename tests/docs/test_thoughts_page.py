"""docs/thoughts.md tells what the artefacts beside it hold, and these are what the loop makes of the texts today."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.docs.blocks import ROOT

from trails.pipeline.stellate import FILES, _proposed, _thought
from trails.platform.text import json_text

PAGE = (ROOT / "docs" / "thoughts.md").read_text(encoding="utf-8")
FOLDERS = [ROOT / "docs" / "thoughts" / name for name in ("ferry", "clock")]
AGAIN = "Make the loop again (trails stellate docs/thoughts/NAME.txt -o NAME) and print the page from it."


def held(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def rows(folder: Path) -> list[str]:
    """The lines of the page's tables that follow from a folder."""
    distilled, reaction, check = (held(folder, name) for name in ("distilled.json", "reaction.json", "check.json"))
    (block,) = (part for part in reaction["before"].values() if isinstance(part, dict) and "lines" in part)
    found = [
        f"| {line['line']} | {line['verdict']} | {number(line['value'])} | {number(line['control'])} | {line['said']} |"
        for line in block["lines"]
    ]
    layers = ", ".join(map(str, distilled["layers"]["beyond_other_chains"])) or "none"
    found.append(
        f"{len(distilled['steps'])} steps, {distilled['n_tokens']:,} tokens, {distilled['nats_per_token']:.3f} nats a token; "
        f"layers whose states shift more than in 97.5 % of the other chains: {layers}"
    )
    response, change = distilled["response"], reaction["intervention"]
    found += [response.get("sentence") or response["withheld"], change.get("verdict") or change["withheld"]]
    before = check["before"]
    found.append(
        f"{before['on_this_path']} of {before['texts']} other texts walk this path (95 % {100 * before['low']:.0f} % to "
        f"{100 * before['high']:.0f} %, by chance one in {1 / before['by_chance']:.0f}); {before['caught']} are caught by some "
        "trail beyond every null"
    )
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_page_says_what_the_artefacts_hold(folder: Path) -> None:
    plain = " ".join(PAGE.split())
    for row in rows(folder):
        assert " ".join(row.split()) in plain, f"{row}\n{AGAIN}"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_artefact_has_its_hash_and_follows_from_the_text_today(folder: Path) -> None:
    record = held(folder, "loop.json")
    assert set(record) == set(FILES)
    for name in FILES:
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert record[name]["sha256"] == found, name
        assert found[:12] in PAGE
    text = folder.with_suffix(".txt").read_text(encoding="utf-8").strip()
    assert (folder / "thought.json").read_text(encoding="utf-8").strip() == json_text(_thought(text)).strip(), AGAIN
    block = _proposed(held(folder, "thought.json"), held(folder, "distilled.json"))
    assert (folder / "block.stellator").read_text(encoding="utf-8").strip() == block.strip(), AGAIN
    assert 400 <= len(text.split()) <= 600  # a page each
