"""What the schema page says beside the declarations: which command writes a label or type, how many to expect, when a property
is null, one example, and which named query shows it.

``tests/docs/test_schema_page.py`` holds it to the declarations and to a graph with everything in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from trails.schema import MEASURE, RELATIONSHIPS, TRANSITION_MEASURES, Measure
from trails.store.queries import NamedQuery, named_queries

EXAMPLES = Path(__file__).parents[1] / "docs" / "schema-examples.json"
SHOWN = 2
"""Queries named for a property."""

WRITTEN: Mapping[str, tuple[str, str]] = {
    "Home": ("trails ingest", "one a home folder"),
    "Source": ("trails ingest", "one a data set and licence"),
    "Chain": ("trails ingest", "one a record"),
    "Family": ("trails ingest", "one a question, or a family that the data name"),
    "Step": ("trails ingest", "one a step: 6 to 7 a chain in the sample"),
    "Token": ("trails ingest", "one a token and tokenizer: 147 a chain in the sample"),
    "Run": ("trails ingest", "one a model, adapter and way of measuring"),
    "State": ("trails map", "at most one a token, fewer where chains say the same"),
    "Overlap": ("trails overlaps", "one a maximal repeat that two chains share"),
    "Gap": ("trails gaps", "one a seam: one fewer than the steps of a chain"),
    "Variant": ("trails variants CHAIN", "as many as the gate accepted"),
    "Disagreement": ("trails agreement", "one a span on which the members part most"),
    "Effect": ("trails effects scan", "one an entry of the registry and run"),
    "Response": ("trails respond SPANS --probes SELECTION", "one a span, run and selection of probes"),
    "HOLDS": ("trails ingest", "from a home: one a chain and run; to a chain: one a home and run"),
    "FROM": ("trails ingest", "one from each chain"),
    "IN_FAMILY": ("trails ingest", "none or one from each chain"),
    "HAS_STEP": ("trails ingest", "as many as n_steps from each chain, one to each step"),
    "NEXT_STEP": ("trails ingest", "one from each step but the last"),
    "MEASURED": ("trails ingest", "one a run from each chain"),
    "MEASURED_STEP": ("trails ingest", "one a run from each step"),
    "FIRST": ("trails ingest", "one a tokenizer from each step that has a token"),
    "BEGINS": ("trails ingest", "one a run from each chain"),
    "NEXT": ("trails ingest", "one a run from each token but the last"),
    "TOKEN_ATTENDS_TO": ("trails ingest --token-attention", "one a run from each token after the first step"),
    "LEADS_TO": ("trails ingest", "one a run from each step but the last"),
    "ATTENDS_TO": ("trails ingest", "one a run from each step to every earlier one (32 in chains of over 256 steps)"),
    "DEPENDS_ON": ("trails anchors CHAIN", "one a run from each step to every earlier one"),
    "AT": ("trails map", "at most one an analysis from each token"),
    "TRAIL": ("trails map", "one from a state to each state that follows it: 1 but at forks"),
    "IN": ("trails overlaps", "two or more from each overlap"),
    "SIMILAR": ("trails overlaps --kind near", "none for most steps"),
    "BEFORE": ("trails gaps", "one from each gap"),
    "SEEN_IN": ("trails effects scan", "one to each step that shows the effect"),
    "DISAGREEMENT_AT": ("trails agreement", "one from each disagreement"),
    "OF": ("trails respond SPANS --probes SELECTION", "one from the response of a chain"),
    "OF_STEP": ("trails respond SPANS --probes SELECTION", "one from the response of a step"),
    "ON": ("trails respond SPANS --probes SELECTION", "one from a response to each probe"),
    "VARIANT_OF": ("trails variants CHAIN", "one a run from each variant"),
}
"""Command that writes a label or a relationship, and how many to expect."""

_NO_TOKEN = "the step has no token"
_NOT_CORRECTED = "nobody corrected it"
_UNTOLD = "`author` is not set"
_CONTROL = "no control of that length could be drawn"
_OLD = "split by an earlier segmenter"
NULL: Mapping[str, str] = {
    "Chain.roles_implicit": _OLD,
    "Step.implicit_role": "role is not NONE, the step begins its chain, or the classifier has nothing to say",
    "Step.implicit_p": "implicit_role is null",
    "Step.automatic_role": _NOT_CORRECTED,
    "Step.corrected_by": _NOT_CORRECTED,
    "Step.corrected_at": _NOT_CORRECTED,
    "Step.scene": _OLD,
    "Step.source_line": _OLD,
    "Token.step": "another home gave the chain other steps since",
    "Run.alias": "nobody named it",
    "Run.intervention": "nothing was changed",
    "Gap.ungrounded": "it has no control on this corpus",
    "Gap.role_bigram": "it has no control on this corpus",
    "Gap.value_surprisal": "before `--calibrate`, or the step has no digit and no name",
    "Gap.context_gain": "before `--calibrate`, or ingested without `--premises`",
    "Gap.premise_usefulness": "before `--calibrate`, or ingested without `--premises`",
    "Gap.control_auc": "too few chains to calibrate",
    "Gap.baseline_auc": "too few chains to calibrate",
    "Gap.bridge_nats": "before `--calibrate`",
    "Overlap.coverage": "no control was drawn",
    "Overlap.control": "no control was drawn",
    "Overlap.excess": "no control was drawn",
    "Overlap.control_name": "no control was drawn",
    "Effect.after": "the effect looks at one run",
    "Response.chain": "the span is a text of its own",
    **dict.fromkeys(
        ("Response.attention_chosen", "Response.drift_chosen"), "one control says nothing of the choice of the layer"
    ),
    "MEASURED.nll": "no token was measured",
    "MEASURED.mean_surprisal": "no token was measured",
    "MEASURED.max_surprisal": "no token was measured",
    "MEASURED.edges_per_step": "every earlier step is there",
    "MEASURED_STEP.nll": _NO_TOKEN,
    "MEASURED_STEP.mean_surprisal": _NO_TOKEN,
    "MEASURED_STEP.max_surprisal": _NO_TOKEN,
    "MEASURED_STEP.mass_sink": _NO_TOKEN,
    "MEASURED_STEP.mass_question": _NO_TOKEN,
    "MEASURED_STEP.mass_own": _NO_TOKEN,
    "LEADS_TO.nll_given_all": _NO_TOKEN,
    "LEADS_TO.nll_given_question": "ingested without `--premises`",
    "LEADS_TO.premise_usefulness": "ingested without `--premises`",
    "DEPENDS_ON.random_nats": "the pair was not drawn",
    "DEPENDS_ON.sink_nats": "the pair was not drawn",
    **{f"{label}.author": _UNTOLD for label in ("State", "Overlap", "Gap")},
    **{f"VARIANT_OF.attention_drift{end}": "made without `--drift`" for end in ("", "_early", "_middle", "_late")},
    "VARIANT_OF.attention_drift_max_layer": "made without `--drift`",
    "VARIANT_OF.attention_drift_by_layer": "made without `--drift`",
}
"""When a property of a label or relationship is null; one that is not here never is. Transitions: :func:`when_null`."""

BY: Mapping[str, str] = {
    "Run.alias": "trails rename run",
    "Step.automatic_role": "trails roles import",
    "Step.corrected_by": "trails roles import",
    "Step.corrected_at": "trails roles import",
    "LEADS_TO.nll_given_question": "trails ingest --premises",
    "LEADS_TO.premise_usefulness": "trails ingest --premises",
}
"""Properties that another command writes than the rest of their label or type."""


def option_of(request: str) -> str:
    """The option of trails ingest that asks for a measure."""
    return "--top-k" if request == "n_top" else f"--{request.replace('_', '-')}"


def when_null(table: str, name: str) -> str:
    """When a property is null; empty where it never is."""
    if table in ("NEXT", "BEGINS") and (measure := _measure(name)):
        if measure.optional:
            return (
                f"ingested without `{option_of(measure.request)}`"
                if measure.request
                else "measured by an older version"
            )
        return "nothing stands before the token"
    if table == "Chain" and name.startswith("meta_"):
        return "the record does not say it"
    return NULL.get(f"{table}.{name}", "")


def written_by(table: str, name: str = "") -> str:
    """The command that writes a label or type, or one of its properties."""
    if table == "VARIANT_OF" and name.startswith("attention_drift"):
        return "trails variants CHAIN --drift"
    if table in ("NEXT", "BEGINS") and (measure := _measure(name)) and measure.request:
        return f"trails ingest {option_of(measure.request)}"
    return BY.get(f"{table}.{name}", WRITTEN[table][0])


def _measure(name: str) -> Measure | None:
    """The measure that a property of a transition comes from."""
    fitting = [m for m in TRANSITION_MEASURES if name == m.name or name.startswith(f"{m.name}_")]
    return MEASURE[max(fitting, key=lambda m: len(m.name)).name] if fitting else None


@cache
def _uses() -> dict[tuple[str, str], list[str]]:
    """Queries by table and property; the property is empty for those that name the label or type."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, query in named_queries().items():
        for use in sorted(uses_of(query)):
            found.setdefault(use, []).append(name)
    return found


def uses_of(query: NamedQuery) -> set[tuple[str, str]]:
    """(table, property) pairs that the statement of a query names, and (table, empty) for every label and type in it."""
    text = re.sub(r"'[^']*'", "''", query.statement)
    tables_of: dict[str, set[str]] = {}
    found = set()
    for variable, label in re.findall(r"\(\s*(\w*)\s*:\s*(\w+)", text):
        tables_of.setdefault(variable, set()).add(label)
        found.add((label, ""))
    for variable, types in re.findall(r"\[\s*(\w*)\s*:\s*([A-Z_|]+)", text):
        names = {r.name for r in RELATIONSHIPS if r.type in types.split("|")}
        tables_of.setdefault(variable, set()).update(names)
        found |= {(name, "") for name in names}
    for variable, name in re.findall(r"\b(\w+)\.(\w+)", text):
        found |= {(table, name) for table in tables_of.get(variable, ())}
    for label, inside in re.findall(r"[:|](\w+)\s*\{([^}]*)\}", text):
        names = {label} | {r.name for r in RELATIONSHIPS if r.type == label}
        found |= {(table, key) for key in re.findall(r"(\w+)\s*:", inside) for table in names}
    return found


def queries_for(table: str, name: str = "") -> list[str]:
    """Names of the queries that show a label or type, or one of its properties."""
    return _uses().get((table, name), [])


@cache
def examples() -> dict[str, dict[str, Any]]:
    """One row of each label and relationship, from the packaged sample; see ``scripts/schema_examples.py``."""
    found: dict[str, dict[str, Any]] = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    return found
