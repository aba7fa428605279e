"""One offline HTML file: chains with every token, the corpus, and the map. Opens by double click and asks for nothing.

Everything that comes from outside goes, deflated and as base64, into one data element that no browser executes and no text
can leave; the script inflates it and writes text only as ``textContent``. A Content-Security-Policy allows exactly the
packaged script and style, by hash, and no connection. Numbers of one value per token are the stored float32; those per layer
are rounded to thousandths, which is said on the page.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from trails.analyses.score import Score, span_text
from trails.analyses.statemap import StateMap
from trails.errors import StoreError, UsageError
from trails.measure.targets import has_map, kept_target
from trails.platform.arrays import Doubles, Floats, Longs
from trails.platform.files import refused, write_atomic
from trails.platform.text import agreeing, beginning, counted, jsonable, part_of
from trails.report.drawings import histogram_drawing, roles_drawing
from trails.report.portable import without_folders
from trails.report.terminal import gradient_control, step_links
from trails.report.words import filled, russian_html, sentences
from trails.schema import Run, Step, Trace
from trails.store.outputs import check_output

MAX_BYTES = 50_000_000
"""A larger file is refused: browsers open it slowly and mail servers not at all."""

PARTS_MARK = "/* PARTS */\n"
"""Line of ``page.js`` at which the views come in that a page has, each a file of its own."""

MAX_CHAINS = 1_000
"""Chains that a report draws; the rest is named as left out."""

ARC_STEPS = 40
"""Up to this many steps every pair is kept; above it the strongest :data:`LINKS_PER_STEP` of each step."""

LINKS_PER_STEP = 6
MAX_STATES = 100_000
MAX_TRAILS = 200_000
MAX_LABELS = 20_000
"""States whose text can be shown and found."""

PLACES = 32.767
"""Places of states, -1 to 1, are whole numbers of so many thousandths: 65,534 from edge to edge."""

BEGINS, REPEATED = 90, 160
"""Characters of a chain and of a repeat that a table shows."""

FALLBACK_ROWS = 200
"""Chains in the table for readers whose browser runs no script."""

SCALARS = ("surprisal", "entropy", "logit_shift", "margin", "gradient_effect", "gradient_norm")


@dataclass(frozen=True, slots=True)
class Found:
    """What analyses found and wrote into the graph, by chain: rows of the graph's own properties. It may hold other chains
    than a report has: of those only their number reaches the page.
    """

    gaps: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    overlaps: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """What a report holds. ``left_out`` says in sentences what it does not hold."""

    path: Path
    n_bytes: int
    n_chains: int
    n_tokens: int
    left_out: tuple[str, ...]


class Blob:
    """The numbers of a report. Arrays of one name, of all chains, stand end to end in one stream, because what is alike
    compresses well beside its like. A reference to an array is [stream, first value, length].
    """

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str, int], list[Any]] = {}
        self._held: Counter[tuple[str, str, int]] = Counter()

    def floats(self, name: str, values: Any) -> list[int]:
        """float32, exactly as stored."""
        return self._put(name, "f", np.asarray(values, "<f4").reshape(-1))

    def integers(self, name: str, values: Any) -> list[int]:
        """int32."""
        return self._put(name, "i", np.asarray(values, "<i4").reshape(-1))

    def sums(self, name: str, values: Any) -> list[int]:
        """int32 that mostly rise by little: each value less the one before it."""
        return self._put(name, "s", np.diff(np.asarray(values, "<i4").reshape(-1), prepend=np.int32(0)))

    def thousandths(self, name: str, values: Any) -> list[int]:
        """Values from 0 to 65.534 rounded to thousandths; NaN is kept."""
        return self._put(name, "t", _thousandths(values).reshape(-1))

    def along(self, name: str, values: Any) -> list[int]:
        """The same of rows (n, L) whose neighbours along a row are alike, as states of neighbouring layers are: each value less
        the one before it, zigzag (0, -1, 1, -2 … as 0, 1, 2, 3 …). The stream has them column by column.
        """
        rows = _thousandths(values)
        steps = np.diff(rows.astype(np.int32), axis=1, prepend=0).astype(np.int16).astype(np.int32)
        return self._put(name, "d", ((steps << 1) ^ (steps >> 15)).astype(np.uint16), rows.shape[1])

    def _put(self, name: str, kind: str, values: Any, width: int = 0) -> list[int]:
        key = (name, kind, width)
        self._streams.setdefault(key, []).append(values)
        at = self._held[key]
        self._held[key] += values.size
        return [list(self._streams).index(key), at, values.size]

    def text(self, record: Mapping[str, Any]) -> str:
        """The length of the record's JSON (4 bytes), the JSON and the streams, deflated, as base64.

        The record gains ``streams``: [kind, byte offset, length, L], L = 0 but for :meth:`along`. Thousandths have their low
        bytes before their high bytes.
        """
        streams: list[list[Any]] = []
        bodies: list[bytes] = []
        at = 0
        for (_, kind, width), parts in self._streams.items():
            values = np.concatenate(parts)
            streams.append([kind, at, values.size, width])
            values = np.ascontiguousarray(values.T if width else values).reshape(-1)
            if kind in "td":
                values = np.stack([values & 255, values >> 8]).astype(np.uint8)
            bodies.append(values.tobytes())
            at += len(bodies[-1])
        told = jsonable({**record, "streams": streams})
        head = json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")
        whole = b"".join([len(head).to_bytes(4, "little"), head, *bodies])
        return base64.b64encode(zlib.compress(whole, 6)).decode("ascii")


def _thousandths(values: Any) -> Any:
    """uint16 thousandths; 65535 stands for NaN."""
    array = np.asarray(values, np.float64)
    return np.where(np.isfinite(array), np.clip(np.rint(array * 1000), 0, 65_534), 65_535).astype(np.uint16)


def write_report(
    path: Path,
    traces: Iterable[Trace],
    run: Run,
    *,
    found: Found | None = None,
    after: Mapping[str, Trace] | None = None,
    woven: StateMap | None = None,
    order: Sequence[str] | None = None,
    title: str = "trails",
    subtitle: str = "",
    left_out: Sequence[str] = (),
    overwrite: bool = False,
) -> Written:
    """Write the report of the traces of one run.

    ``after`` holds traces of the same chains by another run: tokens are then compared one by one. ``woven`` is the map of
    the chains. ``order`` holds the ids of the chains, as they stand on the page; without it they stand as they are read. The
    first :data:`MAX_CHAINS` are drawn, and all are counted. The file appears whole or not at all. Raises UsageError for no
    chain at all, a file that exists, and a report above :data:`MAX_BYTES`.
    """
    check_free(path, overwrite=overwrite)
    blob, notes, whole = Blob(), [without_folders(note) for note in left_out], 0
    chains: list[dict[str, Any]] = []
    places = None if order is None else {chain: place for place, chain in enumerate(order[:MAX_CHAINS])}
    facts = _Facts(run)
    expected: dict[int, str] = {}
    for trace in traces:
        whole += 1
        facts.add(trace)
        if len(chains) < MAX_CHAINS if places is None else trace.chain.id in places:
            expected |= trace.top_texts()
            chains.append(chain_record(trace, run, blob, (after or {}).get(trace.chain.id)))
    if not chains:
        raise UsageError("no chain is selected, so there is nothing to report. Chains are listed by: trails chains")
    if after is not None and (lacking := sum("surprisal_after" not in chain["arrays"] for chain in chains)):
        if lacking == len(chains):
            raise UsageError(
                "the run to compare with measured none of these chains. Chains of a run: trails chains --run RUN"
            )
        notes.append(
            f"{part_of(lacking, len(chains), 'chain', 'was', 'were')} not measured by the run to "
            f"compare with: {agreeing(lacking, 'it shows', 'they show')} no change."
        )
    if after:
        second = next(iter(after.values())).run
        notes.append(
            "Every other measure, the attention, the expected tokens and the summaries of the corpus are of the first run "
            f"alone. What changed, by group and beside the noise floor, is told by: trails diff {run.id} {second}"
        )
        if "surprisal" not in noise_of(run):
            notes.append(
                f"The noise floor of the change is not measured. It is measured by: trails diff {run.id} {second}"
            )
    if places is not None:
        chains.sort(key=lambda chain: places[chain["id"]])
    if whole > len(chains):
        notes.append(
            f"All {counted(whole, 'chain is', 'chains are')} counted on the page of the corpus; the first {len(chains):,}, in "
            "the order of trails "
            "chains, are drawn. Others are drawn by a selection: trails report source:NAME, roles:IF>THEN or selected:NAME "
            "(trails select chooses)."
        )
    if any(len(chain["steps"]) > ARC_STEPS for chain in chains):
        notes.append(
            f"Of chains with more than {ARC_STEPS} steps the {LINKS_PER_STEP} strongest attention links of each step are kept."
        )
    notes.append(
        "Values per layer are rounded to thousandths, probabilities of alternatives to hundredths of a per cent; values of one "
        "number per token are as stored."
    )
    record = {
        "title": without_folders(title),
        "subtitle": without_folders(subtitle),
        "left_out": notes,
        "run": run_record(run),
        "corpus": facts.record() | _placed(found or Found(), chains),
        "chains": chains,
        "pieces": expected,
        "map": map_record(woven, blob, {chain["id"]: chain["pieces"] for chain in chains}, notes)
        if woven is not None
        else None,
    }
    size = write_page(path, record, blob, fallback=_fallback(record), overwrite=overwrite)
    return Written(path, size, len(chains), facts.n_tokens, tuple(notes))


def check_free(path: Path, *, overwrite: bool = False) -> None:
    """Raises UsageError for a file that exists, unless it may be overwritten, for a folder that does not exist, and for what no
    output may replace (:func:`~trails.store.outputs.check_output`)."""
    check_output(path)
    if (path.exists() or path.is_symlink()) and not overwrite:
        raise UsageError(f"{path} exists. Choose another name, or overwrite it with --overwrite")
    if not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {path.parent}. Make it, or choose another file")


def write_page(path: Path, record: Mapping[str, Any], blob: Blob, *, fallback: str, overwrite: bool) -> int:
    """Write the page of a record and give its size in bytes. ``fallback`` is HTML for readers without a script."""
    check_free(path, overwrite=overwrite)
    views = [name for name in ("corpus", "report", "drawn", "map") if record.get(name) is not None]
    told = {**record, "words": json.loads(_asset("words.json")), "said": sentences()}
    data = page(blob.text(told), record["title"], fallback, views)
    if len(data) > MAX_BYTES:
        raise UsageError(
            f"the report of {counted(len(record['chains']), 'chain')} has {counted(len(data), 'byte')}; "
            f"the limit is {MAX_BYTES:,}. "
            "Select fewer chains, for example chain:ID, family:ID or roles:IF>THEN"
        )
    try:
        write_atomic(path, data)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {refused(error)}") from error
    return len(data)


def script(views: Sequence[str]) -> str:
    """The script of a page with these views (``corpus``, ``report``, ``map``; ``drawn`` for tables that are pictures) beside
    that of a chain: the files as they are written, less indentation, the lines that are comments, and blanks that separate
    nothing (:func:`_squeezed`)."""
    before, _, after = _asset("page.js").partition(PARTS_MARK)
    whole = before + "".join(_asset(f"{name}.js") for name in views) + after
    lines = (line.strip() for line in whole.splitlines())
    kept = "\n".join(line for line in lines if line and not line.startswith("//")) + "\n"
    # a line that ends with one of these goes on, and the last statement of a block needs no end; no literal goes over two lines
    return re.sub(r"(?<=[;{,(])\n", "", re.sub(r";\n(?=})", "", _squeezed(kept)))


_LITERAL = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<regex>(?<=[(,=:\[!&|?{};+])\s*/(?![/*])(?:\\.|\[(?:\\.|[^\]\\])*\]|[^/\\\n])+/)"""
    r"""|(?P<template>`)|(?P<blank> +)|(?P<brace>[{}])"""
)
_TEMPLATE = re.compile(r"(?:\\.|\$(?!\{)|[^`\\$])*(`|\$\{)")


def _squeezed(code: str) -> str:
    """JavaScript less the blanks beside a sign, outside of texts, templates and regular expressions. A blank between two words,
    or between two signs that would become another one (``+ +``, ``/ /``), is kept. Nor has the last statement of a block its
    semicolon: no loop of these files has an empty body."""
    out: list[str] = []
    # of each template that is open, how many braces of its present expression are
    braces: list[int] = []
    at = 0
    while found := _LITERAL.search(code, at):
        out.append(code[at : found.start()])
        at = found.end()
        kind, text = found.lastgroup, found[0]
        if kind == "blank":
            left, right = code[found.start() - 1], code[at]
            word = all(sign.isalnum() or sign in "_$" for sign in (left, right))
            text = " " if word or (left == right and left in "+-/") else ""
        elif kind == "brace":
            if text == "}":
                out = ["".join(out).removesuffix(";")]
            if braces:
                braces[-1] += 1 if text == "{" else -1
        elif kind == "regex":
            text = text.lstrip()
        out.append(text)
        if kind == "template" or (kind == "brace" and text == "}" and braces and braces[-1] < 0):
            if kind == "brace":
                braces.pop()
            rest = _TEMPLATE.match(code, at)
            assert rest is not None, "a template ends"
            out.append(rest[0])
            at = rest.end()
            if rest[1] != "`":
                braces.append(0)
    return "".join([*out, code[at:]])


def _asset(name: str) -> str:
    return (resources.files("trails.report") / "assets" / name).read_text(encoding="utf-8")


def page(data: str, title: str, fallback: str, views: Sequence[str]) -> bytes:
    """The HTML file around ``data``, the text of a :class:`Blob`, with the script of its views."""
    code, style, template = script(views), _asset("page.css"), _asset("page.html")
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (code, style)]
    policy = (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; img-src data:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "CSP": policy,
        "TITLE": html.escape(title),
        "STYLE": style,
        "FALLBACK": fallback,
        "DATA": data,
        "SCRIPT": code,
    }
    # the template is cut once and joined by position: no part is searched for another part's mark
    out = []
    for number, piece in enumerate(template.split("@@")):
        out.append(parts[piece] if number % 2 else piece)
    return "".join(out).encode("utf-8")


def static_page(body: str, title: str) -> bytes:
    """An HTML file around ``body``, HTML whose texts are escaped: no script, and nothing is loaded from anywhere."""
    style = _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title><style>{style}</style>'
    )
    return f"<!doctype html><html><head>{head}</head><body><main>{body}</main></body></html>\n".encode()


NOISE_NOTE = "noise_repeated"
"""Note of a run: how far surprisal moved when ``trails diff`` measured some of its chains once more, nats; ``surprisal`` is the
largest difference, ``surprisal_mean`` the mean, ``chains`` how many were asked for."""


def noise_of(run: Run) -> dict[str, float]:
    """Noise floors by measure: those that the run measured itself, and of surprisal else that of a diff."""
    noise = run.notes.get("noise_floor")
    floor = noise.get("batch", noise) if isinstance(noise, Mapping) else {}
    found = {k: float(v) for k, v in floor.items() if isinstance(v, int | float)} if isinstance(floor, Mapping) else {}
    repeated = run.notes.get(NOISE_NOTE)
    if isinstance(repeated, Mapping) and isinstance(of := repeated.get("surprisal"), int | float):
        found.setdefault("surprisal", float(of))
    return found


def run_record(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "model": without_folders(run.model),
        "adapter": run.adapter,
        "dtype": run.dtype,
        "n_layers": run.n_layers,
        "uniform": math.log(run.vocab_size) if run.vocab_size else math.nan,
        "noise": noise_of(run),
    }


def chain_record(trace: Trace, run: Run, blob: Blob, after: Trace | None) -> dict[str, Any]:
    chain, spans = trace.chain, trace.step_tokens
    links, looks = _links(trace)
    pieces = [chain.text[a:b] for a, b in zip(trace.token_start.tolist(), trace.token_end.tolist(), strict=True)]
    arrays = {name: blob.floats(name, values) for name in SCALARS if (values := trace.array(name)) is not None}
    if not has_map(trace):
        arrays = {name: place for name, place in arrays.items() if not name.startswith("gradient_")}
    arrays |= {"rank": blob.integers("rank", trace.rank), "token_ids": blob.integers("token_ids", trace.token_ids)}
    if trace.top_id is not None:
        # what is shown, hundredths of a per cent, needs half the room of ln p
        shares = 10 * np.exp(np.asarray(trace.top_log_probability, np.float64))
        arrays |= {"top_id": blob.integers("top_id", trace.top_id), "top_share": blob.thousandths("top_share", shares)}
    if trace.n_layers:
        arrays |= {
            "attention_shift": blob.thousandths("attention_shift", trace.attention_shift),
            "hidden_shift": blob.along("hidden_shift", trace.hidden_shift),
            "hidden_baseline": blob.floats("hidden_baseline", trace.hidden_baseline),
        }
    if after is not None:
        if after.token_ids.tolist() != trace.token_ids.tolist():
            raise UsageError(
                f"chain {chain.id} has other tokens in run {after.run} than in run {trace.run}. "
                "Compare runs of one tokenizer"
            )
        arrays["surprisal_after"] = blob.floats("surprisal_after", after.surprisal)
    steps = [
        {
            "role": step.role.value,
            "connective": _connective(chain.text, step),
            "explicit": step.explicit,
            "start": _utf16(chain.text, step.start),
            "end": _utf16(chain.text, step.end),
            "tok": [int(first), int(last)],
            "surprisal": _mean(trace.surprisal[first:last]),
            "after": None if after is None else _mean(after.surprisal[first:last]),
        }
        for step, (first, last) in zip((s.as_corrected for s in trace.steps), spans.tolist(), strict=True)
    ]
    return {
        "id": chain.id,
        "source": chain.source,
        "source_id": chain.source_id,
        "language": chain.language,
        "question": chain.question,
        "answer": chain.answer,
        "begins": beginning(chain.text, BEGINS),
        # the pieces of most chains are their text
        "text": None if "".join(pieces) == chain.text else chain.text,
        "pieces": pieces,
        "steps": steps,
        "mean_surprisal": _mean(trace.surprisal),
        "mean_after": None if after is None else _mean(after.surprisal),
        "controls": _controls(trace, run),
        "links": links,
        "looks": looks,
        "gaps": [],
        "overlaps": [],
        "maps": [],
        "arrays": arrays,
    }


def _connective(text: str, step: Step) -> list[int] | None:
    """Where the connective of a step stands, as offsets of its first unit and of the one behind it; None where it has none.

    Found in the text itself: lower case may have another length ("İ" has two characters in it).
    """
    words = r"\s+".join(map(re.escape, step.connective.split()))
    found = words and re.compile(words, re.IGNORECASE).search(text, step.start, step.end)
    return [_utf16(text, place) for place in found.span()] if found else None


def _utf16(text: str, offset: int) -> int:
    """An offset in characters as the browser counts it, in UTF-16 units."""
    return offset + sum(character > "\uffff" for character in text[:offset])


def _mean(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.astype(np.float64).mean()) if len(finite) else math.nan


def _controls(trace: Trace, run: Run) -> dict[str, dict[str, Any]]:
    """What each measure would be if nothing were there."""
    found: dict[str, dict[str, Any]] = {}
    if run.vocab_size:
        uniform = {"name": f"a uniform guess over {run.vocab_size:,} tokens", "value": math.log(run.vocab_size)}
        found |= {"surprisal": uniform, "entropy": uniform}
        found["margin"] = {"name": "a uniform guess", "value": 0.0}
        found["rank"] = {"name": "a uniform guess", "value": (run.vocab_size - 1) / 2}
    found["logit_shift"] = found["attention_shift"] = {"name": "identical distributions", "value": 0.0}
    if len(trace.hidden_baseline) > 1:
        found["hidden_shift"] = {
            "name": "random pairs of positions of this chain",
            "value": _mean(trace.hidden_baseline[1:]),
        }
    if has_map(trace):
        for name in ("gradient_effect", "gradient_norm"):
            told = f"target {kept_target(trace)}; {gradient_control(trace, name)}"
            found[name] = {"name": told, "value": None}
    return found


def _links(trace: Trace) -> tuple[list[list[float]], dict[int, list[float]]]:
    """(later step, earlier step, mass, even spread) of :func:`trails.report.terminal.step_links`, and of every later step the
    earlier one with the largest mass: (earlier step, mass, even spread). Masses are means over the tokens of the later step."""
    count = len(trace.steps)
    links = step_links(trace, limit=count * count)
    looks: dict[int, list[float]] = {}
    for link in links:
        if link.later not in looks or link.mass > looks[link.later][1]:
            looks[link.later] = [link.earlier, round(link.mass, 6), round(link.even, 6)]
    if count > ARC_STEPS:
        kept: Counter[int] = Counter()
        strongest = []
        for link in links:
            kept[link.later] += 1
            if kept[link.later] <= LINKS_PER_STEP:
                strongest.append(link)
        links = strongest
    return [[link.later, link.earlier, round(link.mass, 6), round(link.even, 6)] for link in links], looks


class _Facts:
    """Counts over all chains, each read once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.n_chains = self.n_tokens = 0
        self._sum = 0.0
        self._defined = 0
        self._roles: Counter[str] = Counter()
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._nats: dict[tuple[str, str], list[float]] = {}
        self._sources: dict[str, list[float]] = {}
        self._edges = np.concatenate([np.arange(0, 8, 0.5), np.arange(8, 25, 1.0)])
        self._counts = np.zeros(len(self._edges) - 1, np.int64)

    def add(self, trace: Trace) -> None:
        """Count one chain."""
        values = trace.surprisal[np.isfinite(trace.surprisal)].astype(np.float64)
        self.n_chains += 1
        self.n_tokens += trace.n_tokens
        self._sum += float(values.sum())
        self._defined += len(values)
        self._counts += np.histogram(np.clip(values, 0, self._edges[-1]), self._edges)[0]
        source = self._sources.setdefault(trace.chain.source, [0, 0, 0.0, 0])
        for place, value in enumerate((1, trace.n_tokens, float(values.sum()), len(values))):
            source[place] += value
        roles = [step.role.value for step in trace.steps]
        self._roles.update(roles)
        for place, pair in enumerate(pairwise(roles), 1):
            self._pairs[pair] += 1
            first, last = trace.step_tokens[place].tolist()
            if last > first:
                self._nats.setdefault(pair, []).append(_mean(trace.surprisal[first:last]))

    def record(self) -> dict[str, Any]:
        """The corpus page. ``expected`` is the count of a pair of roles if neighbours were independent."""
        total = sum(self._pairs.values())
        before: Counter[str] = Counter()
        behind: Counter[str] = Counter()
        for (a, b), count in self._pairs.items():
            before[a] += count
            behind[b] += count
        follows = [
            {
                "from": a,
                "to": b,
                "count": count,
                "expected": before[a] * behind[b] / total,
                "surprisal": float(np.nanmean(nats)) if (nats := self._nats.get((a, b), [])) else math.nan,
            }
            for (a, b), count in sorted(self._pairs.items(), key=lambda item: (-item[1], item[0]))
        ]
        roles = [{"role": role, "count": count} for role, count in self._roles.most_common()]
        mean = self._sum / self._defined if self._defined else math.nan
        uniform = math.log(self._run.vocab_size) if self._run.vocab_size else math.nan
        edges, counts = self._edges.tolist(), self._counts.tolist()
        return {
            "n_chains": self.n_chains,
            "n_tokens": self.n_tokens,
            "mean_surprisal": mean,
            "roles": roles,
            "follows": follows,
            "histogram": {"edges": edges, "counts": counts},
            "drawn_roles": roles_drawing(roles, follows),
            "drawn_histogram": histogram_drawing(edges, counts, uniform, mean),
            "sources": [
                {"source": name, "n_chains": int(n), "n_tokens": int(k), "surprisal": s / d if d else math.nan}
                for name, (n, k, s, d) in sorted(self._sources.items(), key=lambda item: (-item[1][0], item[0]))
            ],
        }


LISTED = 30
"""Seams, and texts of each kind, that the page of the corpus lists."""


def _placed(found: Found, chains: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put what was found into the records of the chains of a report, and give its part of the page of the corpus.

    The report may be mailed: of chains that are not in it, no id and no text reaches the page, only how many there are.
    """
    gaps = []
    # of each overlap the chains of the report, each with its own text and its first token
    holders: dict[str, dict[str, tuple[str, int]]] = {}
    repeats = {chain["id"]: _in_tokens(found.overlaps.get(chain["id"], ()), chain["steps"]) for chain in chains}
    for chain in chains:
        chain["gaps"] = gap_marks(found.gaps.get(chain["id"], ()))
        gaps += [{"chain": chain["id"], **row} for row in found.gaps.get(chain["id"], ())]
        for row in repeats[chain["id"]]:
            text = row.get("roles") or "".join(chain["pieces"][row["first"] : row["stop"]])
            holders.setdefault(str(row["id"]), {}).setdefault(chain["id"], (text, row["first"]))
    for chain in chains:
        rows = sorted(repeats[chain["id"]], key=lambda row: (row["kind"] == SKELETON, -row["n_tokens"]))
        chain["overlaps"] = [
            {
                "first": row["first"],
                "stop": row["stop"],
                "kind": row["kind"],
                "said": _mark(row),
                "others": [
                    [other, first] for other, (_, first) in holders[str(row["id"])].items() if other != chain["id"]
                ][:LINKED],
                "more": len(holders[str(row["id"])]) - 1 - LINKED,
            }
            for row in _apart(rows)
        ]
    gaps.sort(key=lambda row: (-row["score"], row["chain"], row["step"]))
    whole = {str(row["id"]): row for rows in found.overlaps.values() for row in rows}
    shared, overlaps = [], []
    for kind in dict.fromkeys(sorted(row["kind"] for row in whole.values())):
        rows = [row for row in whole.values() if row["kind"] == kind]
        here = sorted(
            (row for row in rows if str(row["id"]) in holders),
            key=lambda row: (-row["n_tokens"] * row["n_chains"], str(row["id"])),
        )
        held = part_of(len(here), len(rows), "text", "is", "are")
        shared.append(f"{kind}: {held} held by these chains{_listed(len(here))}; {_coverage(rows[0])}")
        overlaps += [
            {
                "kind": kind,
                "text": text if kind == SKELETON or len(text) <= REPEATED else beginning(text, REPEATED),
                "n_tokens": row["n_tokens"],
                "n_chains": row["n_chains"],
                "chains": list(holders[str(row["id"])])[:LINKED],
                "more": len(holders[str(row["id"])]) - LINKED,
            }
            for row in here[:LISTED]
            for text, _ in list(holders[str(row["id"])].values())[:1]
        ]
    n_gaps = sum(map(len, found.gaps.values()))
    seams = [f"{part_of(len(gaps), n_gaps, 'seam', 'is', 'are')} of these chains{_listed(len(gaps))}"] if n_gaps else []
    if gaps:
        seams += [_worth(gaps[0]), RANKED]
    listed = [{name: row[name] for name in ("chain", "step", "score")} for row in gaps[:LISTED]]
    return {"seams": seams, "gaps": listed, "shared": shared, "overlaps": overlaps}


LINKED = 4
"""Chains of a repeat that are links; the page says how many more it holds."""

SKELETON = "skeleton"
"""Kind of the repeats of roles: they are counted in steps, and their text is names of roles."""


def _in_tokens(rows: Iterable[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The repeats of a chain with their places in tokens. The graph has those of roles in steps: they gain the roles of these
    steps, ``roles``."""
    found: list[Mapping[str, Any]] = []
    for row in rows:
        if row["kind"] == SKELETON and (held := steps[row["first"] : row["stop"]]):
            places = {"first": held[0]["tok"][0], "stop": held[-1]["tok"][1]}
            row = {**row, **places, "roles": ">".join(step["role"] for step in held)}
        found.append(row)
    return found


def _apart(rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The repeats of a chain in their order, less the repeats of roles that touch an earlier one: brackets beside the steps
    that overlap could not be told apart."""
    taken: list[tuple[int, int]] = []
    for row in rows:
        if row["kind"] == SKELETON:
            if any(row["first"] < stop and first < row["stop"] for first, stop in taken):
                continue
            taken.append((row["first"], row["stop"]))
        yield row


RANKED = "score: rank among all seams of this corpus, 0 to 1; one seam always has 1"
"""What the score of a seam is: it is no probability."""


def gap_marks(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The seams of a chain that its page marks: the most gap-like, with what the ranking is worth."""
    return [{"step": row["step"], "score": row["score"], "worth": _worth(row)} for row in rows if row.get("rank") == 0]


def _worth(row: Mapping[str, Any]) -> str:
    """Verdict and intervals of the ranking of seams; an earlier version wrote the two AUCs alone."""
    if row.get("worth"):
        return str(row["worth"])
    return (
        f"AUC {row['control_auc']:.3f}, position alone {row['baseline_auc']:.3f}; the graph holds no interval of them, "
        "so no verdict. Run: trails gaps"
    )


def _listed(count: int) -> str:
    return f"; {LISTED} of {count:,} are listed" if count > LISTED else ""


def _beside(row: Mapping[str, Any]) -> str:
    """How far the coverage of a kind is from its control, on the side on which it is."""
    return f"{abs(row['excess']):.3f} {'above' if row['excess'] > 0 else 'below'} its control"


def _mark(row: Mapping[str, Any]) -> str:
    """A repeat in a chain. Coverage and control are those of all repeats of the kind: one repeat has none of its own."""
    unit = {SKELETON: "step", "masked": "symbol"}.get(row["kind"], "token")
    what = f"{row['kind']} repeat of {counted(row['n_tokens'], unit)} in {counted(row['n_chains'], 'chain')}"
    if row.get("excess") is None:
        return f"{what}; too few chains for a control"
    return f"{what}; coverage of this kind {_beside(row)}"


def _coverage(row: Mapping[str, Any]) -> str:
    if row.get("excess") is None:
        return "too few chains for a control"
    return f"coverage {row['control'] + row['excess']:.3f}, {row['control_name']} {row['control']:.3f}; {_beside(row)}"


def map_layout(chain: Longs, state: Longs, depth: Doubles, n_states: int, rounds: int = 12) -> tuple[Doubles, Doubles]:
    """Places of states from -1 to 1: ``x`` by the mean place in their chains, ``y`` by which chains share them.

    ``chain``, ``state`` and ``depth`` (0 at a chain's beginning, 1 at its end) stand for every token. ``y`` is the barycentre
    method of layered drawing (Sugiyama, Tagawa and Toda, 1981) between chains and states, spread by rank, so chains that share
    states lie near each other. Deterministic; linear in the tokens for each round.
    """
    visits = np.maximum(np.bincount(state, minlength=n_states), 1)
    x = 2 * np.bincount(state, depth, n_states) / visits - 1
    n_chains = int(chain.max(initial=-1)) + 1
    shared = np.bincount(state, minlength=n_states)[state] > 1
    row = np.linspace(-1, 1, max(n_chains, 1))
    for _ in range(rounds):
        y = np.bincount(state, row[chain], n_states) / visits
        weight = np.where(shared, 1.0, 1e-6)
        mean = np.bincount(chain, y[state] * weight, n_chains) / np.maximum(np.bincount(chain, weight, n_chains), 1e-12)
        order = np.lexsort((np.arange(n_chains), mean))
        row = np.empty(n_chains)
        row[order] = np.linspace(-1, 1, max(n_chains, 1))
    y = np.bincount(state, row[chain], n_states) / visits
    # states of one chain lie on one line: let them swing a little, by their own number, so that a label finds room
    swing = np.sin(np.arange(n_states) * 2.399963)
    return x, np.clip(y + swing * min(0.03, 0.6 / max(n_chains, 1)), -1, 1)


def map_record(woven: StateMap, blob: Blob, drawn: Mapping[str, Sequence[str]], notes: list[str]) -> dict[str, Any]:
    """The map of the chains; ``drawn`` holds the pieces of those that the page draws."""
    corpus = woven.corpus
    chain = corpus.chain_of(np.arange(corpus.n_tokens))
    size = np.diff(corpus.offsets)
    depth = (np.arange(corpus.n_tokens) - corpus.offsets[:-1][chain]) / np.maximum(size[chain] - 1, 1)
    n_states = len(woven.states)
    x, y = map_layout(chain, woven.state_of, depth.astype(np.float64), n_states)
    n_chains = np.asarray(woven.states["n_chains"].to_numpy(), np.int64)
    count = np.asarray(woven.states["n_occurrences"].to_numpy(), np.int64)
    # states of a chain stand behind each other: their places, and ways from one to the next, are then alike
    met = np.zeros(n_states, np.int64)
    met[woven.state_of[::-1]] = np.arange(corpus.n_tokens)[::-1]
    order = np.lexsort((met, -count, -n_chains))[:MAX_STATES]
    place = np.full(n_states, -1, np.int64)
    place[order] = np.arange(len(order))
    row_of = {name: number for number, name in enumerate(woven.states["id"].to_pylist())}
    start = place[[row_of[name] for name in woven.trails["start"].to_pylist()]]
    end = place[[row_of[name] for name in woven.trails["end"].to_pylist()]]
    weight = np.asarray(woven.trails["count"].to_numpy(), np.int64)
    inside = (start >= 0) & (end >= 0)
    strongest = np.lexsort((end, start, -weight))
    strongest = strongest[inside[strongest]][:MAX_TRAILS]
    if n_states > len(order) or int(inside.sum()) > len(strongest):
        notes.append(
            f"The map keeps {len(order):,} of {counted(n_states, 'state')} and {len(strongest):,} of "
            f"{counted(len(weight), 'trail')}."
        )
    texts = woven.states["text"].to_pylist()
    labels: dict[int, str] = {at: texts[state] for at, state in enumerate(order[:MAX_LABELS].tolist())}
    paths = {}
    visits: dict[str, tuple[Longs, Longs]] = {}
    number = {name: at for at, name in enumerate(corpus.chains)}
    passed: set[int] = set()
    for name, pieces in drawn.items():
        if (at := number.get(name)) is None:
            continue
        passing = woven.state_of[corpus.offsets[at] : corpus.offsets[at + 1]]
        path = place[passing]
        paths[name] = blob.sums("paths", path)
        visits[name] = (passing, path)
        for last, here in enumerate(path.tolist(), 1):
            # the page makes the text of a state from the first chain that passes it, and this where that is another one
            if here not in passed and labels.get(here) == "".join(pieces[max(0, last - woven.k) : last]):
                del labels[here]
            passed.add(here)
    meets = _meetings(visits, {name: drawn[name] for name in visits}, woven.k)
    first = woven.scores[0] if woven.scores else None
    held: dict[str, list[str]] = {}
    for one in woven.withheld:
        held.setdefault(one.reason, []).append(one.name)
    verdict = (
        _beside_control(first)
        if first
        else "; ".join(f"{', '.join(names)}: {reason}" for reason, names in held.items()) + "."
    )
    return {
        "x": blob.along("x", [(x[order] + 1) * PLACES]),
        "y": blob.along("y", [(y[order] + 1) * PLACES]),
        "n_chains": blob.integers("n_chains", n_chains[order]),
        "start": blob.sums("start", start[strongest]),
        "end": blob.sums("end", end[strongest]),
        "count": blob.integers("count", weight[strongest]),
        "k": woven.k,
        "text": labels,
        "paths": paths,
        "meets": meets[:LISTED],
        "cut": f"{LISTED} of {len(meets):,} are listed" if len(meets) > LISTED else None,
        "verdict": verdict,
    }


def _meetings(
    visits: Mapping[str, tuple[Longs, Longs]], drawn: Mapping[str, Sequence[str]], k: int
) -> list[dict[str, Any]]:
    """Where drawn chains meet: stretches of states that the same two or more of them pass in one order, the largest first
    (chains times tokens). Every chain of a stretch has the place of its first token there. ``visits`` holds of every chain its
    states and their places on the map (n,).
    """
    holders: dict[int, dict[str, list[int]]] = {}
    paths = {name: states.tolist() for name, (states, _) in visits.items()}
    for name, path in paths.items():
        for at, state in enumerate(path):
            holders.setdefault(state, {}).setdefault(name, []).append(at)
    found: list[dict[str, Any]] = []
    told: dict[int, list[list[int]]] = {}
    for name, path in paths.items():
        begin = 0
        while begin < len(path):
            starts = holders[path[begin]]
            end = begin + 1
            if len(starts) == 1:
                begin = end
                continue
            known = [one for one in told.get(path[begin], ()) if path[begin : begin + len(one)] == one]
            over = begin + max(map(len, known), default=0)
            # a stretch that is told goes on here only where the same chains pass the next state
            if known and (over == len(path) or holders[path[over]].keys() != starts.keys()):
                begin = over
                continue
            # the stretch goes on while all of its chains, and no other, pass the next state behind it
            while end < len(path) and holders[path[end]].keys() == starts.keys():
                further = {
                    other: [at for at in places if paths[other][at + end - begin : at + end - begin + 1] == [path[end]]]
                    for other, places in starts.items()
                }
                if not all(further.values()):
                    break
                starts, end = further, end + 1
            if (stretch := path[begin:end]) in known:
                begin = end
                continue
            first = max(0, begin + 1 - k)
            pieces = drawn[name][first:end]
            found.append(
                {
                    "text": "".join(pieces),
                    "n_tokens": len(pieces),
                    "n_chains": len(starts),
                    "chains": [
                        [other, places[0] - (begin - first)] for other, places in list(starts.items())[:MEETING_CHAINS]
                    ],
                    "state": int(visits[name][1][begin]),
                }
            )
            told.setdefault(path[begin], []).append(stretch)
            begin = end
    return sorted(found, key=lambda row: (-row["n_chains"] * row["n_tokens"], row["text"]))


MEETING_CHAINS = 8
"""Chains of a meeting that are named; all are counted."""


def _beside_control(score: Score) -> str:
    """A score and its control with their 95 % intervals, and whether it is beyond that; without an interval, whether above."""
    control = score.controls[0]
    value, chance = (
        f"{one.value:.3f}" + (f" ({span})" if (span := span_text(one.interval)) else "") for one in (score, control)
    )
    if not span_text(score.interval):
        judged = f"{'above' if score.beyond() else 'not above'} its control; too few held-out chains for an interval"
    else:
        judged = "beyond chance" if score.beyond() else "not beyond chance"
    return f"{score.name} {value} {score.unit}, {control.name} {chance}; {judged}"


def _fallback(record: Mapping[str, Any]) -> str:
    """The main numbers, in English and in Russian, for a reader whose browser runs no script."""
    run, corpus, chains = record["run"], record["corpus"], record["chains"]
    rows = "".join(
        f"<tr><td>{html.escape(chain['id'])}</td><td>{html.escape(chain['source'])} {html.escape(chain['source_id'])}</td>"
        f"<td>{len(chain['pieces'])}</td><td>{chain['mean_surprisal']:.4f}</td></tr>"
        for chain in chains[:FALLBACK_ROWS]
    )
    of = f"{html.escape(run['model'])}, run {html.escape(run['id'])}"
    mean, uniform = f"{corpus['mean_surprisal']:.4f}", f"{run['uniform']:.4f}"
    n_chains, n_tokens = f"{corpus['n_chains']:,}", f"{corpus['n_tokens']:,}"
    some = len(chains) > FALLBACK_ROWS
    told = {
        "en": "This page is drawn by a script, and this browser runs none. "
        f"{of}: {counted(corpus['n_chains'], 'chain')}, {counted(corpus['n_tokens'], 'token')}, "
        f"mean surprisal {mean} nats per token (a uniform guess: {uniform})."
        + (f" The table has the first {FALLBACK_ROWS} chains." if some else ""),
        "ru": "Эту страницу рисует скрипт, а в этом браузере скрипты выключены. "
        f"{of}: {filled('# [цепочка|цепочки|цепочек]', [n_chains])}, {filled('# [токен|токена|токенов]', [n_tokens])}"
        f", средняя неожиданность {mean} нат на токен "
        f"(равномерное угадывание: {uniform})." + (f" В таблице первые {FALLBACK_ROWS} цепочек." if some else ""),
    }
    heads = {"chain": "цепочка", "source": "источник", "tokens": "токенов", "surprisal, nats": "неожиданность, нат"}
    return (
        "".join(f'<p lang="{language}">{text}</p>' for language, text in told.items())
        + "<table><tr>"
        + "".join(f'<th>{english}<br><span lang="ru">{russian}</span></th>' for english, russian in heads.items())
        + f"</tr>{rows}</table>"
        + "".join(f"<p>{html.escape(note)}<br>{russian_html(note)}</p>" for note in record["left_out"])
    )
