"""One chain in the terminal: steps with roles, every token by a measure, the strongest step-to-step attention.

Each number is shown with what it would be if nothing were there: surprisal with ln V (a uniform guess), hidden shift
with random pairs of positions of the same chain, attention with an even spread over the visible tokens.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult  # noqa: TID251  # types
from rich.text import Text

from trails.analyses.gradient import kept_agreement
from trails.analyses.score import Score
from trails.errors import UsageError
from trails.measure.targets import kept_target
from trails.platform.arrays import Floats
from trails.platform.text import counted, one_line, visible
from trails.platform.ties import tie
from trails.report.table import Prose, Rows
from trails.schema import IMPLICIT_LEAST, MEASURE, TRANSITION_MEASURES, Role, Run, Trace

SCALARS = tuple(measure.name for measure in TRANSITION_MEASURES if measure.graph == "scalar")
PER_LAYER = tuple(measure.name for measure in TRANSITION_MEASURES if measure.graph != "scalar")
MEASURES = SCALARS + PER_LAYER
"""Measures that can be shown token by token."""

# from calm to hot: ANSI 256 colours that stay readable on dark and on light backgrounds
_SCALE = ("grey62", "dark_sea_green4", "yellow3", "dark_orange", "red3")

_QUESTION = 400
"""Characters of a question that are shown."""


@dataclass(frozen=True, slots=True)
class StepLink:
    """Attention from a later step to an earlier one.

    ``mass``: mean over layers, heads and the later step's tokens, 0..1. ``even``: the control, what the earlier step would
    get if all mass that does not fall on the first token of the sequence (the sink) were spread evenly over the visible
    tokens. ``layer``: where the mass is largest, 1 … L.
    """

    later: int
    earlier: int
    mass: float
    even: float
    layer: int


def token_values(trace: Trace, measure: str, layer: int | None = None) -> Floats:
    """One value per token, shape (n,). A per-layer measure is averaged over layers unless ``layer`` is given; the input
    embeddings (layer 0 of hidden_shift) are no layer of the model and stay out of the mean, as in the graph. ``layer``
    counts 1 … L as everywhere, 0 … L for hidden_shift: layer l of a measure without embeddings is column l - 1.

    Raises UsageError for an unknown measure or a layer that the run does not have.
    """
    if measure not in MEASURES:
        raise UsageError(f"measure {measure!r} does not exist. Measures: {', '.join(MEASURES)}.")
    found = trace.array(measure)
    if found is None:
        raise UsageError(f"{measure} was not measured for chain {trace.chain.id}. Measures: {', '.join(MEASURES)}.")
    values = np.asarray(found, dtype=np.float32)
    if measure in SCALARS:
        if layer is not None:
            raise UsageError(f"{measure} has no layers. Leave out --layer, or show one of: {', '.join(PER_LAYER)}.")
        return np.where(values < 0, np.nan, values) if MEASURE[measure].dtype == "int32" else values
    embeddings = MEASURE[measure].first_layer
    if layer is None:
        layers = values[:, embeddings:]
        return layers.mean(axis=1) if layers.shape[1] else np.full(len(values), np.nan, np.float32)
    if not values.shape[1]:
        raise UsageError(f"layer {layer} of {measure} does not exist. This run has no layers. Leave out --layer.")
    first, last = 1 - embeddings, values.shape[1] - embeddings
    if not first <= layer <= last:
        zero = " (0 = input embeddings)" if embeddings else ""
        raise UsageError(f"layer {layer} of {measure} does not exist. This run has layers {first} to {last}{zero}.")
    return values[:, layer - first]


LINKS = 5
"""Links between steps that are shown."""


def step_links(trace: Trace, limit: int = LINKS) -> list[StepLink]:
    """The pairs of steps with the most attention relative to an even spread, strongest first (by mass / even)."""
    links: list[StepLink] = []
    if not trace.n_layers:
        return links
    spans = trace.step_tokens
    for later in range(1, len(trace.steps)):
        first, last = int(spans[later, 0]), int(spans[later, 1])
        if last <= first:
            continue
        visible = trace.n_context + np.arange(first, last)  # tokens that each query row can see, the sink left out
        masses = trace.step_masses(later)
        even_per_token = (1.0 - float(masses[0].mean())) * float(np.mean(1.0 / np.maximum(visible, 1)))
        for earlier in range(later):
            length = int(spans[earlier, 1] - spans[earlier, 0])
            if earlier == 0 and not trace.n_context:
                length -= 1  # the chain's first token is the sink
            row = masses[earlier + 2]
            mass = float(row.mean())
            if length > 0 and math.isfinite(mass):
                links.append(StepLink(later, earlier, mass, length * even_per_token, int(np.argmax(row)) + 1))
    links.sort(key=lambda link: (-link.mass / link.even, link.later, link.earlier))
    return links[:limit]


def _bands(values: Floats) -> tuple[float, ...]:
    """Four thresholds between five colours: the 50th, 75th, 90th and 97th percentile of the chain's own values."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return (math.inf,) * 4
    return tuple(float(np.percentile(finite, p)) for p in (50, 75, 90, 97))


def _coloured(trace: Trace, span: tuple[int, int], values: Floats, bands: tuple[float, ...]) -> Text:
    text = Text()
    for position in range(*span):
        piece = trace.chain.text[trace.token_start[position] : trace.token_end[position]]
        if not piece:
            continue  # part of a character: the token that completes it shows it
        piece = visible(piece).replace("\r\n", "\n").replace("\t", "⇥")
        shown = piece.replace("\n", "⏎\n") if piece.strip("\n") == "" else piece
        text.append(shown, style=_style(float(values[position]), bands))
    return text


def _style(value: float, bands: tuple[float, ...]) -> str:
    level = sum(value > band for band in bands) if math.isfinite(value) else 0
    return _SCALE[level] + (" bold" if level >= 3 else "")


def visible_piece(piece: str) -> str:
    """A token so that it can be seen on its own: white space as ␣, ⏎ and ⇥, a mark that combines with the letter before it on
    a dotted circle, and what has no width written out.
    """
    shown = visible(piece).replace("\r\n", "⏎").replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    if shown and unicodedata.combining(shown[0]):
        shown = "◌" + shown
    return "".join(f"\\u{ord(c):04x}" if not cell_len(c) and not unicodedata.combining(c) else c for c in shown)


@dataclass(frozen=True, slots=True)
class Gloss:
    """Tokens with their value below each, column under column, in as many pairs of lines as the width needs."""

    pieces: tuple[Text, ...]
    values: tuple[str, ...]
    indent: int = 4

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A pair of lines for as many tokens as fit; a token is never divided."""
        upper, lower = Text(" " * self.indent), Text(" " * self.indent)
        for piece, value in zip(self.pieces, self.values, strict=True):
            width = max(piece.cell_len, len(value)) + 1
            if upper.cell_len + width > options.max_width and upper.cell_len > self.indent:
                yield from (upper, lower)
                upper, lower = Text(" " * self.indent), Text(" " * self.indent)
            upper.append_text(piece).append(" " * (width - piece.cell_len))
            lower.append(value, style="dim").append(" " * (width - len(value)))
        yield from (upper, lower)


def _gloss(trace: Trace, span: tuple[int, int], values: Floats, bands: tuple[float, ...]) -> Gloss:
    pieces, numbers = [], []
    for position in range(*span):
        value = float(values[position])
        text = trace.chain.text[trace.token_start[position] : trace.token_end[position]] or trace.pieces[position]
        pieces.append(Text(visible_piece(text) or "∅", style=_style(value, bands)))
        numbers.append("–" if not math.isfinite(value) else f"{value:.2f}")
    return Gloss(tuple(pieces), tuple(numbers))


def control_line(trace: Trace, run: Run, measure: str, layer: int | None) -> str:
    """The mean of a measure over a chain beside its control, as a line of text."""
    values = token_values(trace, measure, layer)
    finite = values[np.isfinite(values)]
    if not len(finite) and measure in PER_LAYER and not trace.n_layers:
        return f"{measure}: not measured by this run (its model has no layers)"
    if not len(finite):
        return f"{measure}: not measured (no token of this chain has a value{'' if layer is None else f' in layer {layer}'})"
    mean = float(finite.mean())
    at = f", layer {layer}" if layer is not None else (", mean over layers" if measure in PER_LAYER else "")
    if measure in ("surprisal", "entropy"):
        uniform = f"a uniform guess over {run.vocab_size:,} tokens: {math.log(run.vocab_size):.3f}"
        return f"{measure} {mean:.3f} nats/token{at} ({uniform})"
    if measure == "hidden_shift":
        baseline = trace.hidden_baseline[1:] if layer is None else trace.hidden_baseline[layer : layer + 1]
        baseline = baseline[np.isfinite(baseline)]
        if not len(baseline):
            return f"hidden_shift {mean:.3f}{at} (random pairs of positions of this chain: not measured)"
        return f"hidden_shift {mean:.3f}{at} (random pairs of positions of this chain: {float(baseline.mean()):.3f})"
    visible = trace.n_context + np.arange(trace.n_tokens) + 1
    if measure == "attention_entropy":
        return f"attention_entropy {mean:.3f} nats{at} (an even spread: {float(np.log(visible).mean()):.3f})"
    if measure in ("attention_previous", "attention_sink"):
        return f"{measure} {mean:.3f}{at} (an even spread: {float((1 / visible).mean()):.3f})"
    if measure == "margin":
        return f"margin {mean:.3f} nats (a uniform guess: 0)"
    if measure == "rank":
        return f"rank {mean:.1f} mean (a uniform guess: {(run.vocab_size - 1) / 2:,.1f})"
    if measure in ("logit_shift", "attention_shift"):
        return f"{measure} {mean:.3f}{at} (identical distributions: 0)"
    if measure == "gradient_effect":
        target, agrees = kept_target(trace), gradient_control(trace)
        return f"gradient_effect {mean:.3f} nats, of the log-likelihood of the target {target} ({agrees})"
    unit = f" {MEASURE[measure].unit}" if MEASURE[measure].unit else ""
    return f"{measure} {mean:.3f}{unit}{at} (no control is known for this measure)"


def gradient_control(trace: Trace, measure: str = "gradient_effect") -> str:
    """How far the map that a trace keeps agrees with what replacing tokens does, beside the same of shuffled maps: the gradient
    effect in size and in sign, the gradient norm (which has no sign) in size.
    """

    def told(score: Score, of: str) -> str:
        verdict = "agrees" if score.beyond() else "not shown to agree"
        return f"{verdict} {of}: rank correlation {score.value:.2f}, shuffled up to {score.controls[0].reach:.2f}"

    norm = measure == "gradient_norm"
    size = kept_agreement(trace, "norm" if norm else "size")
    if size is None:
        return "not judged: too few tokens before the target were replaced"
    replaced = counted(len(trace.more["gradient_replaced"]), "token")
    by_size = told(size, f"in size with what replacing {replaced} does")
    sign = None if norm else kept_agreement(trace, "sign")
    return by_size if sign is None else f"{by_size}; {told(sign, 'in sign')}"


_MAIN_CLAUSES = {Role.THEN: "a condition", Role.THEREFORE: "a cause", Role.BUT: "a concession"}
"""What the clause says beside which a main clause without a connective has a role: docs/segmenter.md, rule 5."""


def _implied(trace: Trace) -> str:
    """What gave the roles of the steps without a connective, as the segmenter gives them."""
    roles = {step.role for step in trace.steps if not step.explicit} - {Role.NONE}
    clauses = [clause for role, clause in _MAIN_CLAUSES.items() if role in roles]
    said = [f"the segmenter's rule (main clause beside {' or '.join(clauses)})"] if clauses else []
    if Role.QUESTION in roles:
        said.append("the question mark at the end")
    if roles - {*_MAIN_CLAUSES, Role.QUESTION}:  # this segmenter gives no other role without a connective
        said.append("the source or another segmenter")
    return " or ".join(said)


def alternatives(trace: Trace) -> list[list[tuple[int, str, float]]]:
    """Of every token the items that the model held most likely at its place, most likely first: id, text, ln p in nats.

    Empty where nothing precedes the token. Raises UsageError when they were not measured.
    """
    if trace.top_id is None or trace.top_log_probability is None:
        raise UsageError(
            f"the shards hold no alternatives of chain {trace.chain.id}. Add them to it: trails ingest PATH --top-k 5, with "
            "the PATH and the options that it was measured with."
        )
    texts = trace.top_texts()
    rows = zip(trace.top_id.tolist(), trace.top_log_probability.tolist(), strict=True)
    return [[(item, texts[item], log_p) for item, log_p in zip(*row, strict=True) if item >= 0] for row in rows]


def _alternatives_table(trace: Trace, run: Run) -> Rows:
    rows = []
    for position, found in enumerate(alternatives(trace)):
        value, margin = float(trace.surprisal[position]), trace.margin
        rows.append(
            [
                position,
                visible_piece(trace.pieces[position]) or "∅",
                int(trace.rank[position]) if found else "–",
                f"{value:.3f}" if math.isfinite(value) else "–",
                f"{margin[position]:.3f}" if found and margin is not None else "–",
                ", ".join(f"{visible_piece(text) or '∅'} {_percent(log_p)}" for _, text, log_p in found),
            ]
        )
    title = f"what the model expected at every token (a uniform guess gives each item {_percent(-math.log(run.vocab_size))})"
    return Rows(["#", "token", "rank", "surprisal", "margin, nats", "most likely items"], rows, title)


def _percent(log_p: float) -> str:
    share = 100 * math.exp(log_p)
    return f"{share:.2f} %" if share >= 0.01 else f"{share:.1g} %"


def render_chain(
    trace: Trace,
    run: Run,
    *,
    measure: str = "surprisal",
    layer: int | None = None,
    numbers: bool = False,
    implicit: bool = False,
    expected: bool = False,
) -> RenderableType:
    """The chain as a rich renderable. ``measure`` colours the tokens; ``numbers`` prints it below every token; ``implicit``
    adds implicit roles to steps that have none; ``expected`` adds the alternatives of every token.

    Raises UsageError for an unknown measure or layer, and for alternatives that were not measured.
    """
    values = token_values(trace, measure, layer)
    bands = _bands(values)
    chain = trace.chain
    head = Text()
    head.append(f"{chain.id}", style="bold")
    origin = one_line(f"{chain.source} · {chain.source_id} · {chain.language}")
    head.append(f"  {origin} · {counted(len(trace.steps), 'step')} · {counted(trace.n_tokens, 'token')}\n")
    head.append(f"run {run.id}  {one_line(run.model)} · {run.dtype}\n")
    lines = [control_line(trace, run, "surprisal", None)]
    if measure != "surprisal":
        lines.append(control_line(trace, run, measure, layer))
    head.append("\n".join(lines) + "\n")
    if chain.question:
        question = chain.question
        if len(question) > _QUESTION:
            question = f"{question[:_QUESTION].rsplit(None, 1)[0]} … ({counted(len(question), 'character')} in all)"
        head.append(f"\nQ: {visible(question)}\n", style="italic")

    rows: list[list[Text | str]] = []
    glosses: list[RenderableType] = []
    for step in trace.steps:
        first, last = (int(x) for x in trace.step_tokens[step.index])
        part = values[first:last]
        finite = part[np.isfinite(part)]
        mean = f"{float(finite.mean()):.2f}" if len(finite) else "–"
        role = step.role.value + ("" if step.explicit or step.role.value == "NONE" else "*")
        if step.automatic_role not in ("", step.role.value):
            role = step.role.value + "†"
        elif implicit and step.role_with_implicit() is not step.role:
            role = f"({step.implicit_role} {step.implicit_p:.2f})"
        if numbers:
            heading = Text(f"{step.index} {role}  mean {measure} {mean}", style="bold")
            glosses += [heading, _gloss(trace, (first, last), values, bands)]
        else:
            body = _coloured(trace, (first, last), values, bands)
            body.rstrip()
            rows.append([str(step.index), role, mean, body])

    steps = Rows(["#", "role", f"mean {measure}", f"step (colour: {measure})"], rows, boxed=False)
    parts: list[RenderableType] = [Prose(head), *(glosses if numbers else [steps])]
    if corrected := {step.corrected_by for step in trace.steps if step.automatic_role not in ("", step.role.value)}:
        parts.append(Prose(Text(f"† corrected by {', '.join(sorted(corrected))}", style="dim")))
    if implicit:
        parts.append(Prose(Text(f"(role p) implicit, from a classifier, p of {IMPLICIT_LEAST} or more", style="dim")))
    if any(not step.explicit and not step.automatic_role and step.role.value != "NONE" for step in trace.steps):
        parts.append(Prose(Text(f"* {_implied(trace)} gave the role, not a connective", style="dim")))
    if chain.answer:
        parts.append(Prose(Text(f"A: {visible(chain.answer)}", style="italic")))
    if expected:
        parts.append(_alternatives_table(trace, run))
    links = step_links(trace)
    if links:
        title = "strongest step-to-step attention, against an even spread of what the first token leaves"
        columns = ["later", "earlier", "mass", "even spread", "ratio", "strongest layer"]
        pairs = [[k.later, k.earlier, k.mass, k.even, round(k.mass / k.even, 2), k.layer] for k in links]
        parts.append(Rows(columns, pairs, title))
        if said := tie([k.mass / k.even for k in links], None, "ratio", more=len(links) == LINKS):
            parts.append(Prose(Text(said, style="dim")))
    return Group(*parts)


def trace_record(
    trace: Trace, run: Run, *, measure: str = "surprisal", layer: int | None = None, expected: bool = False
) -> dict[str, Any]:
    """The same as plain values for JSON: steps, tokens with surprisal and the measure, links with their control."""

    likely = alternatives(trace) if expected else []

    def more(position: int) -> dict[str, Any]:
        if not expected:
            return {}
        found = [{"id": i, "text": s, "log_probability": p} for i, s, p in likely[position]]
        return {"margin": float(trace.margin[position]) if trace.margin is not None else None, "alternatives": found}

    chain = trace.chain
    values = token_values(trace, measure, layer)
    return {
        "chain": chain.id,
        "source": chain.source,
        "source_id": chain.source_id,
        "language": chain.language,
        "question": chain.question,
        "text": chain.text,
        "answer": chain.answer,
        "run": run.id,
        "model": run.model,
        "measure": measure,
        "layer": layer,
        "control": control_line(trace, run, measure, layer),
        "steps": [
            {
                "index": step.index,
                "role": step.role.value,
                "connective": step.connective,
                "sense": step.sense,
                "explicit": step.explicit,
                "implicit_role": step.implicit_role or None,
                "implicit_p": step.implicit_p if step.implicit_role else None,
                "automatic_role": step.automatic_role or None,
                "scene": step.scene if step.scene >= 0 else None,
                "source_line": step.source_line or None,
                "text": chain.text[step.start : step.end],
                "tokens": [int(x) for x in trace.step_tokens[step.index]],
            }
            for step in (step.as_corrected for step in trace.steps)
        ],
        "tokens": [
            {"position": t, "piece": trace.pieces[t], "surprisal": float(trace.surprisal[t]), measure: float(values[t])}
            | more(t)
            for t in range(trace.n_tokens)
        ],
        "attention": [
            {"later": k.later, "earlier": k.earlier, "mass": k.mass, "even_spread": k.even, "strongest_layer": k.layer}
            for k in step_links(trace)
        ],
    }


def comparison(first: Trace, second: Trace) -> list[tuple[str, float, float, float]]:
    """(what, first, second, difference) of two chains measured by one run: tokens, positions they share, and the mean of
    every measure. Both chains are measured by the same deterministic pass, so equal text gives a difference of exactly 0.
    """
    shared = sum(a == b for a, b in zip(first.token_ids.tolist(), second.token_ids.tolist(), strict=False))
    rows = [
        ("characters", float(len(first.chain.text)), float(len(second.chain.text))),
        ("tokens", float(first.n_tokens), float(second.n_tokens)),
        ("same token at the same position", float(shared), float(shared)),
        ("nll of the text, nats", float(np.nansum(first.surprisal)), float(np.nansum(second.surprisal))),
    ]
    for measure in MEASURES:
        if first.array(measure) is None or second.array(measure) is None:
            continue
        means = []
        for trace in (first, second):
            values = token_values(trace, measure)
            means.append(float(np.nanmean(values)) if np.isfinite(values).any() else math.nan)
        rows.append((f"mean {measure}", means[0], means[1]))
    return [(name, a, b, b - a) for name, a, b in rows]


def render_comparison(first: Trace, second: Trace) -> RenderableType:
    """Two chains side by side as a table."""
    rows = [
        [name, *("–" if not math.isfinite(x) else f"{x:.4g}" for x in values)]
        for name, *values in comparison(first, second)
    ]
    return Rows(["", first.chain.id, second.chain.id, "difference"], rows, "side by side")
