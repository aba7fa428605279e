"""Opens pages of a report in headless Chromium and times them: seconds to the first tokens, time between frames.

    python benchmarks/frames.py FOLDER [--gpu [vulkan|vulkan-angle|gl-egl]] [--whole] [--json FILE] [--picture FILE]

FOLDER is what ``python -m benchmarks.report --pages FOLDER`` wrote, here or on another machine. The standard library is enough:
this file runs by itself where nothing of the project is installed. Without ``--gpu`` Chromium renders in software; with it the
figures are refused where WebGL, which draws the map, runs in software all the same. The renderer is named either way.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import json
import os
import select
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SOFTWARE = ("swiftshader", "llvmpipe", "softpipe", "lavapipe", "software", "basic render", "none")
BACKENDS = {
    "vulkan": ("--use-gl=angle", "--use-angle=vulkan", "--enable-features=Vulkan", "--disable-vulkan-surface"),
    "vulkan-angle": ("--use-gl=angle", "--use-angle=vulkan", "--disable-vulkan-surface"),
    "gl-egl": ("--use-gl=angle", "--use-angle=gl-egl"),
}
ON_GPU = ("--ignore-gpu-blocklist", "--enable-gpu", "--enable-gpu-rasterization", "--disable-software-rasterizer")
IN_SOFTWARE = ("--disable-gpu", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
FLAGS = (
    *(
        "--headless",
        "--no-sandbox",
        "--no-first-run",
        "--hide-scrollbars",
        "--mute-audio",
        "--force-color-profile=srgb",
    ),
    *("--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows"),
    *("--disable-renderer-backgrounding", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
)
READY = """new MutationObserver(() => {
  if (document.body && document.body.dataset.ready && document.querySelector('#strip .tok') && !window.__ready) {
    requestAnimationFrame(() => { window.__ready = performance.now() })
  }
}).observe(document, { subtree: true, childList: true, attributes: true })"""
RENDERER = """(() => {
  const g = document.createElement('canvas').getContext('webgl2'), e = g && g.getExtension('WEBGL_debug_renderer_info')
  return e ? g.getParameter(e.UNMASKED_RENDERER_WEBGL) : 'none'
})()"""
# what the last frame drew: a map draws fewer edges where a frame takes long, unless the whole is asked for
COUNT = """((states, transitions) => {
  const draw = WebGL2RenderingContext.prototype.drawArrays
  window.__drawn = {}
  WebGL2RenderingContext.prototype.drawArrays = function (kind, first, count) {
    if (window.__whole) count = kind === this.LINES ? 2 * transitions : states
    if (kind === this.LINES) window.__drawn.edges = count / 2
    if (kind === this.POINTS) window.__drawn.nodes = count
    return draw.call(this, kind, first, count)
  }
})"""
MOTION = """(async (motion) => {
  const gaps = [], strip = document.getElementById('strip'), box = document.querySelector('.mapbox')
  let last = await new Promise(requestAnimationFrame)
  for (let i = 0; i < 90; i++) {
    if (motion === 'scroll') strip.scrollTop += 120
    else box.dispatchEvent(new KeyboardEvent('keydown', { key: i % 2 ? 'ArrowLeft' : 'ArrowRight' }))
    const now = await new Promise(requestAnimationFrame)
    gaps.push(now - last); last = now
  }
  return gaps.sort((a, b) => a - b)
})"""


class RefusedError(Exception):
    """Chromium did not do what was asked."""


class Chromium:
    """A Chromium that is driven through a pair of pipes, and its one page of 1400 x 900 pixels."""

    def __init__(self, file: str, flags: tuple[str, ...], folder: Path, log: Path, limit: float) -> None:
        """Start it with a profile in ``folder``; what it prints goes to ``log``. ``limit``: seconds for one answer."""
        self.limit, self.log, self.number, self.rest, self.ended = limit, log, 0, b"", False
        # Chromium reads descriptor 3 and writes descriptor 4: the ends of the pipes are moved out of their way first
        (theirs, self.to), (self.back, their_back) = os.pipe(), os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in (theirs, their_back)]
        arguments = [file, *FLAGS, *flags, f"--user-data-dir={folder}", "about:blank"]
        actions = [
            (os.POSIX_SPAWN_DUP2, high[0], 3),
            (os.POSIX_SPAWN_DUP2, high[1], 4),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        self.process = os.posix_spawn(file, arguments, os.environ, file_actions=actions, setpgroup=0)
        for end in (theirs, their_back, *high):
            os.close(end)
        self.session: str | None = None

    def open(self) -> None:
        """Open the page that the other calls mean."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=1400, height=900, deviceScaleFactor=1, mobile=False)

    def message(self, until: float) -> dict[str, Any]:
        """The next message; RefusedError when none comes in time or Chromium has ended."""
        while b"\0" not in self.rest:
            if not select.select([self.back], [], [], max(0.0, until - time.monotonic()))[0]:
                raise RefusedError(f"Chromium gave no answer in {self.limit:.0f} s; its messages: {self.log}")
            more = os.read(self.back, 1 << 20)
            if not more:
                raise RefusedError(f"Chromium ended; its messages: {self.log}")
            self.rest += more
        one, self.rest = self.rest.split(b"\0", 1)
        found: dict[str, Any] = json.loads(one)
        return found

    def call(self, method: str, browser: bool = False, **parameters: Any) -> dict[str, Any]:
        """The answer to a command of the DevTools protocol, to the page or to the whole browser."""
        self.number += 1
        command: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session and not browser:
            command["sessionId"] = self.session
        try:
            os.write(self.to, json.dumps(command).encode() + b"\0")
        except BrokenPipeError:
            raise RefusedError(f"Chromium ended; its messages: {self.log}") from None
        until = time.monotonic() + self.limit
        while (found := self.message(until)).get("id") != self.number:
            pass
        if "error" in found:
            raise RefusedError(f"{method}: {found['error']['message']}")
        answer: dict[str, Any] = found["result"]
        return answer

    def value(self, expression: str) -> Any:
        """What an expression is in the page, awaited."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            thrown = found["exceptionDetails"]
            raise RefusedError(thrown.get("exception", {}).get("description") or thrown["text"])
        return found["result"].get("value")

    def go(self, address: str, ready: str) -> Any:
        """Open an address from an empty page and wait until an expression of it is true; its value."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=address)
        until = time.monotonic() + self.limit
        while not (found := self.value(ready)):
            if time.monotonic() > until:
                raise RefusedError(f"{address} was not ready in {self.limit:.0f} s")
            time.sleep(0.05)
        return found

    def close(self) -> None:
        """End it and all its processes."""
        if self.ended:
            return
        self.ended = True
        with suppress(RefusedError):
            self.limit = min(self.limit, 5)
            self.call("Browser.close", browser=True)
        for _ in range(50):
            if os.waitpid(self.process, os.WNOHANG)[0]:
                break
            time.sleep(0.1)
        else:
            os.killpg(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        os.close(self.to)
        os.close(self.back)


@contextmanager
def chromium(file: str, flags: tuple[str, ...], log: Path, limit: float) -> Iterator[Chromium]:
    """A started Chromium with an open page, ended afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        found = Chromium(file, flags, Path(name), log, limit)
        try:
            found.open()
            yield found
        finally:
            found.close()


def on_gpu(renderer: str) -> bool:
    """Whether the renderer that WebGL names is a GPU; ``none`` (no WebGL) is not."""
    return not any(word in renderer.lower() for word in SOFTWARE)


def timed(
    folder: Path,
    *,
    gpu: str | None = None,
    file: str | None = None,
    log: Path = Path(os.devnull),
    picture: Path | None = None,
    limit: float = 120,
    whole: bool = False,
) -> dict[str, Any]:
    """Times of the pages of a folder.

    The answer has ``version``, ``renderer``, ``compositor``, ``backend``, ``open`` (three times to the first tokens) and the
    frames of ``scroll`` and ``pan`` (90 gaps each), all times in milliseconds and in ascending order, and ``drawn``, the nodes
    and edges of the last frame. With ``whole`` the map is moved once more while every frame draws all states and transitions
    (``pan_whole``, ``drawn_whole``): the page by itself draws as many as its time allows. RefusedError when ``gpu`` is given
    and the rendering is software: a figure of it would pass for one of a GPU.
    """
    pages = json.loads((folder / "pages.json").read_text())
    file = file or shutil.which("chromium") or shutil.which("google-chrome")
    if not file:
        raise RefusedError("headless Chromium is needed: apt-get install chromium")
    flags = (*ON_GPU, *BACKENDS[gpu]) if gpu else IN_SOFTWARE
    with chromium(file, flags, log, limit) as page:
        version = page.call("Browser.getVersion", browser=True)["product"].split("/")[-1]
        renderer = page.value(RENDERER)
        known = page.call("SystemInfo.getInfo", browser=True)["gpu"]
        compositor = known.get("featureStatus", {}).get("gpu_compositing", "unknown")
        seen: dict[str, Any] = {"version": version, "renderer": renderer, "compositor": compositor}
        seen["backend"] = gpu or "software"
        if gpu and not on_gpu(renderer):
            raise RefusedError(f"{gpu}: not rendered on a GPU: WebGL is {renderer}, the compositor {compositor}")
        page.call("Page.addScriptToEvaluateOnNewDocument", source=READY)
        long, plan = (folder / "long.html").resolve().as_uri(), (folder / "map.html").resolve().as_uri()
        seen["open"] = sorted(page.go(f"{long}#chain/{pages['chain']}", "window.__ready") for _ in range(3))
        seen["scroll"] = page.value(f"{MOTION}('scroll')")
        page.go(f"{plan}#map", "document.body && document.body.dataset.ready === 'map'")
        page.value(f"{COUNT}({pages['states']}, {pages['transitions']})")
        # the first frames set how much is drawn
        page.value(f"{MOTION}('pan')")
        seen["pan"] = page.value(f"{MOTION}('pan')")
        seen["drawn"] = page.value("window.__drawn")
        seen["draw"] = page.value("+[...document.querySelectorAll('.mapbox canvas')].pop().dataset.frame")
        if whole:
            page.value("window.__whole = true")
            seen["pan_whole"] = page.value(f"{MOTION}('pan')")
            seen["drawn_whole"] = page.value("window.__drawn")
        if picture:
            picture.write_bytes(base64.b64decode(page.call("Page.captureScreenshot", format="png")["data"]))
    return seen | {"pages": pages}


def told(seen: dict[str, Any]) -> Iterator[str]:
    """The figures as lines."""
    pages = seen["pages"]
    yield f"Chromium {seen['version']}, {seen['renderer']}, compositor {seen['compositor']}"
    yield f"  a chain of {pages['tokens']:,} tokens: {seen['open'][1] / 1000:.2f} s to its first tokens (goal 1)"
    moving = f"moving the map of {pages['states']:,} states"
    for what, key in (("scrolling it", "scroll"), (moving, "pan"), (f"{moving}, all drawn", "pan_whole")):
        if gaps := seen.get(key):
            yield (
                f"  {what}: median frame {statistics.median(gaps):.0f} ms, slowest of {len(gaps)} {gaps[-1]:.0f} ms, "
                f"{1000 * len(gaps) / sum(gaps):.0f} frames a second"
            )
        if key != "scroll" and (drawn := seen.get(key.replace("pan", "drawn"))):
            yield (
                f"    its last frame drew {drawn.get('nodes', 0):,} of {pages['states']:,} states and "
                f"{drawn.get('edges', 0):,.0f} of {pages['transitions']:,} transitions"
            )


def main() -> None:
    """Time the pages of a folder and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--gpu", nargs="?", const="vulkan", choices=sorted(BACKENDS), help="render on a GPU, through this"
    )
    parser.add_argument(
        "--whole", action="store_true", help="move the map once more with everything drawn in every frame"
    )
    parser.add_argument("--chromium", help="the program, by default chromium or google-chrome")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--picture", type=Path, help="write a picture of the map here")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="append Chromium's messages to this file")
    parser.add_argument("--limit", type=float, default=120, help="seconds to wait for one answer of Chromium")
    given = parser.parse_args()
    # a time limit from outside ends Chromium too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped before the figures were taken"))
    try:
        seen = timed(
            given.folder,
            gpu=given.gpu,
            file=given.chromium,
            log=given.log,
            picture=given.picture,
            limit=given.limit,
            whole=given.whole,
        )
    except RefusedError as refused:
        sys.exit(str(refused))
    if given.json:
        given.json.write_text(json.dumps(seen) + "\n")
    for line in told(seen):
        print(line)


if __name__ == "__main__":
    main()
