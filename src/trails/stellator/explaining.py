"""Each line of a block in a plain sentence: what it selects, what it states, what it changes in training."""

from __future__ import annotations

from collections.abc import Mapping

from trails.export.options import layers_text
from trails.stellator.compiling import TRAINED, Compiled, zone_text
from trails.stellator.language import (
    Anchor,
    Content,
    Dampen,
    Drift,
    Phase,
    Select,
    Setting,
    Subgraph,
    content_text,
    expression_text,
    number_text,
    quoted,
)
from trails.stellator.words import word
from trails.stellator.zones import Zone

MEASURE_NAMES = {
    "attention_entropy": "the entropy of the attention (how widely it sweeps, nats)",
    "attention_shift": "the shift of the attention from one token to the next (0..1)",
    "attention_previous": "the attention on the token before (0..1)",
    "attention_sink": "the attention on the first token of the sequence (0..1)",
    "hidden_shift": "the shift of the hidden state from one token to the next (0..2)",
    "logit_shift": "the shift of the predicted distribution (total variation, 0..1)",
}
DEFAULT_TOLERANCE = 15.0
"""Degrees to both sides of an angle, where the line does not say."""

_SETTINGS = {
    "weights": "training: loss weights {} (export --weights)",
    "layers": "training: the adapter changes layers {} only (export --layers)",
    "objective": "training: the loss is {} (train --objective)",
    "variants": "training: the stored variants {} of the selected chains are rows, too (export --variants)",
    "variants_each": "training: of every chain {} of its stored variants at most (export --variants-each)",
    "order": "training: rows come in the order {} (export --order)",
    "mask": "training: of the selected tokens those with {} give loss (export --mask)",
}


def explained(compiled: Compiled, known: Mapping[str, Zone]) -> list[tuple[str, str]]:
    """The lines of a block as written, each with its sentence; the last one says what the block selects."""
    block = compiled.block
    zone = (
        f"the zone is {zone_text(block, known)}; percentiles are those of run {compiled.parameters['run']}, "
        f"compared as {_numbers(compiled)}"
        if _numbers(compiled)
        else f"the zone is {zone_text(block, known)}"
    )
    head = f"[{word('ZONE', block.language)}: {expression_text(block.zone, block.language)}]"
    found = [(head, f"{zone}.")]
    found += [(content_text(line.content, block.language), f"{sentence(line.content)}.") for line in block.lines]
    kind = {"TOKEN": "tokens", "STEP": "steps", "CHAIN": "chains"}[compiled.kind]
    inside = "in the zone" if compiled.kind == "TOKEN" else "with a token in the zone"
    return [*found, ("selects", f"{kind} {inside} that every selecting line names.")]


def _numbers(compiled: Compiled) -> str:
    return ", ".join(
        f"${name} = {value:.4g}" for name, value in compiled.parameters.items() if isinstance(value, float)
    )


def sentence(content: Content) -> str:
    """One line in a sentence, without the point."""
    match content:
        case Select(kind, of, negated):
            texts = [
                f"{quoted(text.text)} (or of a text that is the same but for numbers and names)"
                if text.masked
                else quoted(text.text)
                for text in of
                if text.quoted
            ]
            words = [text.text for text in of if not text.quoted]
            named = " or ".join([*texts, *words])
            what = {
                "TOKEN": f"the tokens of every occurrence of {named}, exactly as written",
                "STEP": f"steps that hold or have the role {named}",
                "CHAIN": f"chains that hold or are {named}",
            }[kind]
            return f"leaves out {what}" if negated else f"selects {what}"
        case Subgraph(selection):
            return f"keeps to what the selection {quoted(selection)} holds in this home (export --subgraph)"
        case Drift(measure, activates, layers, negated):
            where = f" at layer {layers_text(layers)}" if layers else ""
            side = "above" if activates else "below"
            no = "not " if negated else ""
            pulled = measure in TRAINED and not negated
            return (
                f"states that {MEASURE_NAMES[measure]}{where} at the selected places is {no}{side} what random spans of the "
                "same lengths nearby in the same chains have, beyond the noise floor of the run"
                + ("; with OBJECTIVE → attention a training pulls it there" if pulled else "")
            )
        case Anchor(text):
            return (
                f"states that from the selected places the chain leads to {quoted(text)} more cheaply than from random steps; "
                f"the bridge is re-scored as one text; in training {quoted(text)} is placed after each row"
            )
        case Phase(angle, tolerance, layer):
            import math

            claim = math.degrees(abs(angle.radians))
            wide = math.degrees(tolerance.radians) if tolerance else DEFAULT_TOLERANCE
            where = f"layer {layer}" if layer is not None else "the middle one of the stored layers"
            return (
                f"states that successive differences of step states there turn by {claim:.4g} ± {wide:.4g} degrees in the "
                f"whitened space of {where}, unlike random steps; an angle between vectors has no sign"
            )
        case Dampen(factor):
            return f"training: the loss of the selected tokens, and so their gradient, is multiplied by {number_text(factor)}"
        case Setting(name, value):
            return _SETTINGS[name].format(value)
