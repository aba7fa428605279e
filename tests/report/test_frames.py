"""Frames are timed with the renderer named; figures of a GPU are refused where software draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import frames

SEEN = {
    "version": "1.2",
    "renderer": "ANGLE (NVIDIA, Vulkan 1.4 (NVIDIA H200))",
    "compositor": "enabled",
    "open": [400.0, 500.0, 900.0],
    "scroll": [10.0, 20.0, 30.0],
    "pan": [10.0, 10.0, 40.0],
    "drawn": {"nodes": 50, "edges": 60},
    "pages": {"chain": "c", "tokens": 1000, "states": 100, "transitions": 200},
}


@pytest.mark.parametrize(
    ("renderer", "gpu"),
    [
        ("ANGLE (NVIDIA Corporation, NVIDIA H200/PCIe/SSE2, OpenGL ES 3.2 NVIDIA 580.159.04)", True),
        ("ANGLE (Intel, Mesa Intel(R) UHD Graphics 620 (KBL GT2), OpenGL 4.6)", True),
        ("ANGLE (Google, Vulkan 1.3.0 (SwiftShader Device (Subzero) (0x0000C0DE)), SwiftShader driver)", False),
        ("ANGLE (Mesa, llvmpipe (LLVM 15.0.6 256 bits), OpenGL 4.5)", False),
        ("none", False),
    ],
)
def test_a_renderer_in_software_is_known_by_its_name(renderer: str, gpu: bool) -> None:
    assert frames.on_gpu(renderer) is gpu


def test_the_lines_name_the_renderer_and_what_was_drawn() -> None:
    text = "\n".join(frames.told(SEEN))
    assert "NVIDIA H200" in text
    assert "0.50 s to its first tokens" in text
    # 3 frames in 60 ms
    assert "median frame 10 ms, slowest of 3 40 ms, 50 frames a second" in text
    assert "drew 50 of 100 states and 60 of 200 transitions" in text


@pytest.mark.browser
@pytest.mark.parametrize("flags", [("--use-angle=swiftshader", "--enable-unsafe-swiftshader"), ("--disable-gpu",)])
def test_figures_of_a_gpu_are_refused_where_software_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    (tmp_path / "pages.json").write_text(json.dumps(SEEN["pages"]))
    monkeypatch.setitem(frames.BACKENDS, "vulkan", flags)
    monkeypatch.setattr(frames, "ON_GPU", ())
    with pytest.raises(frames.RefusedError, match="not rendered on a GPU: WebGL is (ANGLE .*SwiftShader|none)"):
        frames.timed(tmp_path, gpu="vulkan")
