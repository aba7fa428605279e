"""The same selection of the same traces gives the same bytes, from one version of the program to the next.

The digests are those of version 0.1.0. A change of one is a change of what people have trained on: it needs an entry in the
changelog.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from trails.export import WRITERS, ExportOptions, export_selection
from trails.export.files import json_lines
from trails.export.subgraph import Part, Selection
from trails.store.traces import TraceStore

CASES: dict[str, dict[str, object]] = {
    "plain": {},
    "split": {"split": 0.25, "seed": 3},
    "rising": {"order": "rising", "weights": "both", "mask": "surprisal<2.5", "lossy": True},
    "falling": {"order": "falling", "stratify": False, "weights": "excess:r2", "layers": (2, 3), "lossy": True},
    "rhythm": {"order": "rhythm:3", "mask": "random:0.5", "split": 0.2, "weights": "entropy", "lossy": True},
    "source": {"order": "source", "mask": "role:IF,THEN,BUT", "lossy": True},
}

DIGESTS: dict[str, dict[str, str]] = {
    "axolotl": {
        "plain": "e71e53dda857",
        "split": "54f0f9c6b9a6",
        "rising": "96594ee50205",
        "falling": "45c0e5179261",
        "rhythm": "bf0d125c783f",
        "source": "bc2a34067e6b",
    },
    "axolotl-segments": {
        "plain": "9bf79386d4d2",
        "split": "adc564321a76",
        "rising": "8a9ddea048c1",
        "falling": "66ef5660bcf8",
        "rhythm": "2e01e8184cae",
        "source": "0c15ce02e197",
    },
    "llama-factory": {
        "plain": "f1470d92f115",
        "split": "a58fa422f094",
        "rising": "3817dcc292eb",
        "falling": "de386c45c75c",
        "rhythm": "14fa97654697",
        "source": "1ed5382f58e5",
    },
    "llama-factory-tokens": {
        "plain": "151e62ef8886",
        "split": "6cc5d3ecd045",
        "rising": "8220b186e44f",
        "falling": "218a8ece4b21",
        "rhythm": "113a2271a6ef",
        "source": "6ad0c2aa00ad",
    },
    "messages": {
        "plain": "b2bd59ae4cd8",
        "split": "9de50f5ddffd",
        "rising": "7d7b70ad7adf",
        "falling": "f02f822b3e20",
        "rhythm": "8d2f68784761",
        "source": "274ad7d0777a",
    },
    "ms-swift": {
        "plain": "ca42b1a33617",
        "split": "c5973af2e3fd",
        "rising": "5878d1769093",
        "falling": "564787aa83f1",
        "rhythm": "1637ae22b9c5",
        "source": "541223b26ab0",
    },
    "prompt-completion": {
        "plain": "c76cfde50345",
        "split": "a6ad25e31fa6",
        "rising": "6ab9e432eacd",
        "falling": "651929c5e350",
        "rhythm": "770217e030a9",
        "source": "ba723c89d22d",
    },
    "trails": {
        "plain": "8f521e5fc37d",
        "split": "06c3482e4a8c",
        "rising": "c95540cfa63c",
        "falling": "c2ebbbd6a4d3",
        "rhythm": "d02ceeee65e9",
        "source": "53115f588a2f",
    },
    "trl": {
        "plain": "c6710b16a61e",
        "split": "7feec828fa69",
        "rising": "b319bd0a53d1",
        "falling": "bc4c14b1ee37",
        "rhythm": "5801d58a4b7e",
        "source": "5dce1602ac3f",
    },
}


def exported(home, to: Path, format: str, case: str) -> str:
    """One digest over all files of rows of an export."""
    options = dict(CASES[case])
    if str(options.get("weights", "")).startswith("excess:"):
        options["weights"] = f"excess:{home.runs[1].id}"
    parts = {}
    for index, chain in enumerate(home.chains):
        if index % 3 == 1:
            parts[chain.id] = Part(chain.id, steps=(1, 2))
        elif index % 3 == 2:
            parts[chain.id] = Part(chain.id, tokens=((2, 9),))
        else:
            parts[chain.id] = Part(chain.id)
    selection = Selection("all", None) if case in ("plain", "split") else Selection("parts", parts)
    to = to / case if WRITERS[format].folder else to / f"{case}.jsonl"
    with TraceStore(home.home) as traces:
        report = export_selection(selection, traces, format, to, ExportOptions(run=home.runs[0].id, **options))
    files = sorted(p for p in to.parent.rglob("*") if p.is_file() and p.suffix in (".jsonl", ".arrow"))
    assert report.files["train"] in files
    digest = hashlib.sha256()
    for path in files:
        if case in path.relative_to(to.parent).parts[0]:
            # the bytes of an Arrow file name the version of Arrow, its rows do not
            arrow = path.suffix == ".arrow"
            digest.update(json_lines(pa.ipc.open_stream(path.read_bytes()).read_all()) if arrow else path.read_bytes())
    return digest.hexdigest()[:12]


@pytest.mark.slow
@pytest.mark.parametrize("format", sorted(WRITERS))
def test_the_bytes_are_those_of_the_version_before(make_home, tmp_path: Path, format: str) -> None:
    home = make_home(24, runs=("toy", "reference"))
    found = {case: exported(home, tmp_path / format, format, case) for case in CASES}
    assert found == DIGESTS[format]
