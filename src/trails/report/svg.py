"""A chain as vector graphics for papers: every token coloured by a measure, and the drift of its hidden states by layer.

Text is set in a monospaced font with a fixed length per token, so a picture looks the same wherever it is opened. Nothing is
loaded from elsewhere, and no text can leave its element. A bitmap is made of it by resvg.
"""

from __future__ import annotations

from html import escape
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.cells import cell_len

from trails.errors import StoreError, UsageError
from trails.platform.arrays import Doubles, Floats
from trails.platform.files import refused, write_atomic
from trails.platform.packages import package
from trails.platform.text import counted, visible
from trails.report.html import check_free
from trails.report.terminal import MEASURES, control_line, token_values
from trails.schema import MEASURE, Run, Trace

WIDTH = 960
CELL, LINE = 8.0, 26.0
MARGIN = 20.0
ZOOM = 2
"""Pixels of a bitmap per unit of the picture."""

MAX_PIXELS = 30_000
"""Height of a bitmap; few programs open a higher one."""

MAX_TOKENS = 2_000
"""Tokens that the strip of a picture holds: some pages of paper, and less than a megabyte."""

MAP_COLUMNS = 440
"""Columns of the drift map; a longer chain shows the mean of neighbouring tokens."""

_SCALE = ((253, 253, 252), (255, 234, 150), (240, 190, 90), (214, 130, 70), (160, 70, 80), (90, 30, 80))
_DIVERGING = ((30, 90, 170), (140, 180, 220), (253, 253, 252), (245, 190, 130), (190, 90, 10))
_LEVELS = 48
ENDS = "at least 98 % of the values lie between the ends"
"""What the ends of a scale are, here and on the page."""

_FONT = "ui-monospace,'DejaVu Sans Mono','Liberation Mono',monospace"


def write_svg(
    path: Path,
    trace: Trace,
    run: Run,
    *,
    measure: str = "surprisal",
    layer: int | None = None,
    first: int = 0,
    overwrite: bool = False,
) -> int:
    """Write the picture of a chain and give its size in bytes. Raises UsageError for a file that exists and cannot be
    overwritten, for a measure or a layer that the run does not have, and for a ``first`` token that the chain does not have.
    """
    check_free(path, overwrite=overwrite)
    return _write(path, chain_svg(trace, run, measure=measure, layer=layer, first=first).encode("utf-8"))


def write_png(
    path: Path,
    trace: Trace,
    run: Run,
    *,
    measure: str = "surprisal",
    layer: int | None = None,
    first: int = 0,
    overwrite: bool = False,
) -> int:
    """Write the same picture as a bitmap of twice the width and height, and give its size in bytes. Text is set in the fonts of
    this machine. Raises MissingPackageError without the extra ``png``, and UsageError as :func:`write_svg`, also for a picture
    higher than :data:`MAX_PIXELS`.
    """
    check_free(path, overwrite=overwrite)
    painter = package("resvg_py", "a PNG picture", "png")
    picture = chain_svg(trace, run, measure=measure, layer=layer, first=first)
    height = int(float(picture.partition('height="')[2].partition('"')[0]) * ZOOM)
    if height > MAX_PIXELS:
        raise UsageError(
            f"the picture of chain {trace.chain.id} would be {height:,} pixels high, at most {MAX_PIXELS:,} are drawn. "
            "Write it with --svg"
        )
    return _write(path, bytes(painter.svg_to_bytes(svg_string=picture, zoom=ZOOM)))


def _write(path: Path, data: bytes) -> int:
    try:
        write_atomic(path, data)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {refused(error)}") from error
    return len(data)


def left_out(trace: Trace, first: int = 0) -> str:
    """What a picture that begins with the token ``first`` lacks of a chain, and how to get it; empty where it has all."""
    stop = min(trace.n_tokens, first + MAX_TOKENS)
    if stop - first == trace.n_tokens:
        return ""
    following = stop if stop < trace.n_tokens else 0
    return (
        f"tokens {first:,} to {stop - 1:,} of {trace.n_tokens:,}; a picture holds {MAX_TOKENS:,}, "
        f"{'the next ones' if following else 'the first ones'}: --first {following}"
    )


def chain_svg(trace: Trace, run: Run, *, measure: str = "surprisal", layer: int | None = None, first: int = 0) -> str:
    """The strip of a chain, and below it the drift map where the run has layers. The strip holds :data:`MAX_TOKENS` tokens from
    ``first`` on, in the colours of the whole chain; where that is not all, it says so. The map is of the whole chain.
    """
    if not 0 <= first < max(trace.n_tokens, 1):
        raise UsageError(
            f"token {first} was asked for, chain {trace.chain.id} has tokens 0 to {trace.n_tokens - 1}. Choose one with --first"
        )
    values = token_values(trace, measure, layer)
    if not np.isfinite(values).any():
        raise UsageError(f"there is nothing to draw: {_undefined(trace, run, measure)}")
    chain = trace.chain
    parts: list[str] = []
    y = MARGIN + 14
    tail = f" · {counted(trace.n_tokens, 'token')} · {run.model} · run {run.id}"
    name = f"{chain.source} · {chain.source_id}"
    head = f"{chain.id}  {name}{tail}"
    room = int((WIDTH - 2 * MARGIN) / CELL) - cell_len(f"{chain.id}  {tail}")
    shown = _fitting(f"{chain.id}  {_fitting(name, room)}{tail}", int((WIDTH - 2 * MARGIN) / CELL))
    parts.append(_label(MARGIN, y, shown, bold=True))
    y += 20
    parts.append(_label(MARGIN, y, control_line(trace, run, measure, layer)))
    y += 14
    signed = measure == "gradient_effect"
    low, high = scale_ends(values, signed=signed)
    scale, whole = _DIVERGING if signed else _SCALE, MEASURE[measure].dtype == "int32"
    parts.append(_legend(y, low, high, MEASURE[measure].unit, scale, 0 if whole else 3))
    strip, y = _strip(trace, values, low, high, scale, y + 42, first)
    parts += strip
    if told := left_out(trace, first):
        y += 14
        parts.append(_label(MARGIN, y, told))
    if trace.n_layers:
        drift, y = _drift(trace, y + 30)
        parts += drift
    height = y + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'font-family="{_FONT}" font-size="13"><title>{_escaped(head)}</title>'
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _undefined(trace: Trace, run: Run, measure: str) -> str:
    """Why no token of a chain has a value of a measure, and what can be drawn."""
    why = (
        f"run {run.id} ({run.model}) has no layers"
        if not trace.n_layers
        else f"the chain has {counted(trace.n_tokens, 'token')}"
    )
    drawn = []
    for name in MEASURES:
        if trace.array(name) is not None and np.isfinite(token_values(trace, name)).any():
            drawn.append(name)
    rest = f"With values: {', '.join(drawn)}" if drawn else "No other measure has a value there"
    return f"{measure} is undefined at every token of chain {trace.chain.id}, as {why}. {rest}"


def _fitting(text: str, room: int) -> str:
    """A text of at most ``room`` cells, 8 or more; what was left out at its end is marked. The title of the picture has all."""
    if cell_len(text) <= max(room, 8):
        return text
    while cell_len(text) > max(room, 8) - 1:
        text = text[:-1]
    return f"{text}…"


def _strip(
    trace: Trace, values: Floats, low: float, high: float, scale: tuple[tuple[int, int, int], ...], y: float, first: int
) -> tuple[list[str], float]:
    """Tokens in lines of the picture's width; a step begins with a line on its left."""
    parts: list[str] = []
    x = MARGIN
    begins = {int(begin) for begin, last in trace.step_tokens.tolist() if last > begin}
    for position, value in enumerate(values[first : first + MAX_TOKENS].tolist(), first):
        text = trace.chain.text[trace.token_start[position] : trace.token_end[position]]
        shown = visible(text).replace("\r\n", "\n").replace("\n", "⏎").replace("\t", "⇥")
        width = CELL * cell_len(shown)
        if x + width > WIDTH - MARGIN and x > MARGIN:
            x, y = MARGIN, y + LINE
        fill, ink = _colour(_share(value, low, high), scale)
        number = f"{value:.4g}" if np.isfinite(value) else "–"
        parts.append(
            f"<g><title>{_escaped(f'{position} {shown!r}: {number}')}</title>"
            f'<rect x="{x:.1f}" y="{y - 15:.1f}" width="{width:.1f}" height="20" fill="{fill}" data-value="{value!r}"/>'
        )
        if position in begins:
            parts.append(f'<rect x="{x:.1f}" y="{y - 15:.1f}" width="1.5" height="20" fill="#111"/>')
        if shown.strip():
            lead = CELL * (len(shown) - len(shown.lstrip()))
            inner = shown.strip()
            parts.append(
                f'<text x="{x + lead:.1f}" y="{y:.1f}" textLength="{CELL * cell_len(inner):.1f}" '
                f'lengthAdjust="spacingAndGlyphs" fill="{ink}">{_escaped(inner)}</text>'
            )
        parts.append("</g>")
        x += width
        if "\n" in text:
            x, y = MARGIN, y + LINE
    return parts, y + 10


def _drift(trace: Trace, y: float) -> tuple[list[str], float]:
    """Hidden shift minus the chain's baseline of random pairs: layers from below to above, tokens from left to right."""
    excess = trace.hidden_shift.astype(np.float64) - trace.hidden_baseline.astype(np.float64)
    group = -(-trace.n_tokens // MAP_COLUMNS)
    edges = np.arange(0, trace.n_tokens, group)
    defined = np.isfinite(excess)
    sums = np.add.reduceat(np.where(defined, excess, 0.0), edges)
    counts = np.add.reduceat(defined.astype(np.float64), edges)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    # where nothing shifts at all every cell is the middle of any scale
    most = scale_ends(excess, signed=True)[1] or 1.0
    left, wide, tall = MARGIN + 40, (WIDTH - 2 * MARGIN - 40) / len(means), 7.0
    said = f"hidden shift minus random pairs of positions of this chain, from -{most:.3f} (blue) to {most:.3f} (orange)"
    parts = [_label(MARGIN, y, said + (f"; a column is the mean of {counted(group, 'token')}" if group > 1 else ""))]
    y += 10
    layers = means.shape[1]
    for layer in range(layers):
        top = y + (layers - 1 - layer) * tall
        # neighbours of one colour are one rectangle
        levels = [None if not np.isfinite(v) else round(_LEVELS * _share(v, -most, most)) for v in means[:, layer]]
        at = 0
        for level, run in groupby(levels):
            count = len(list(run))
            if level is not None:
                fill, _ = _colour(level / _LEVELS, _DIVERGING)
                parts.append(
                    f'<rect x="{left + at * wide:.2f}" y="{top:.1f}" width="{count * wide:.2f}" height="{tall}" fill="{fill}"/>'
                )
            at += count
        if layer in (0, layers - 1):
            parts.append(_label(MARGIN, top + 7, str(layer)))
    bottom = y + layers * tall
    parts.append(
        _label(
            left, bottom + 14, f"layers 0 (input embeddings) to {layers - 1} × tokens 0 to {trace.n_tokens - 1}; {ENDS}"
        )
    )
    return parts, bottom + 18


def _legend(y: float, low: float, high: float, unit: str, scale: tuple[tuple[int, int, int], ...], places: int) -> str:
    cells = "".join(
        f'<rect x="{MARGIN + 70 + 24 * i:.0f}" y="{y:.0f}" width="24" height="12" stroke="#ccc" '
        f'fill="{_colour(i / 5, scale)[0]}"/>'
        for i in range(6)
    )
    end = f"{high:.{places}f} {unit}".rstrip() + f" ({ENDS})"
    return _label(MARGIN, y + 11, f"{low:.{places}f}") + cells + _label(MARGIN + 222, y + 11, end)


def scale_ends(values: Floats | Doubles, *, signed: bool = False) -> tuple[float, float]:
    """The ends of a scale of colours, as the page has them: from the lowest value to the first at or below which 98 % of the
    defined values lie; of values with a sign as far to both sides as that value of their sizes.
    0 and 0 where no value is defined.
    """
    defined = values[np.isfinite(values)]
    finite = np.sort(np.abs(defined) if signed else defined)
    if not len(finite):
        return 0.0, 0.0

    def at(share: float) -> float:
        return float(finite[min(len(finite) - 1, int(share * len(finite)))])

    return (-at(0.98) if signed else at(0.0)), at(0.98)


def _share(value: float, low: float, high: float) -> float:
    if not np.isfinite(value):
        return np.nan
    return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.0


def _colour(share: float, scale: tuple[tuple[int, int, int], ...]) -> tuple[str, str]:
    """Fill and ink of a share from 0 to 1; white where it is undefined."""
    if not np.isfinite(share):
        return "#fff", "#111"
    at = share * (len(scale) - 1)
    first = min(len(scale) - 2, int(at))
    red, green, blue = (round(a + (b - a) * (at - first)) for a, b in zip(scale[first], scale[first + 1], strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}", "#111" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#fff"


def _label(x: float, y: float, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12"{weight} fill="#111">{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    return escape(
        "".join(c if c in "\t\n" or (c >= " " and c not in "\ufffe\uffff") else "\ufffd" for c in visible(text))
    )
