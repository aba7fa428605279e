"""The response map: what spans do to unseen probes, beside length-matched spans and shuffled tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score
from trails.analyses.statistics import bootstrap, how_resampled
from trails.platform.arrays import Doubles
from trails.platform.text import beginning, counted, part_of, percent
from trails.schema import stable_hash
from trails.store.base import GraphBatch
from trails.store.rows import table_of

if TYPE_CHECKING:
    from trails.measure.respond import Reaction

CONTROLS = ("length-matched spans", "shuffled tokens")
"""What every span is compared with: spans of as many tokens, and its own tokens in random order."""
TRAININGS = ("training on other text", "training on shuffled steps")
"""What a training is compared with."""


@dataclass(frozen=True, slots=True)
class Span:
    """A text that is put before probes, or that a model was trained on (``kind`` ``adapter``: ``id`` is ``a`` + 16 hex digits,
    ``text`` says what it is). ``id`` is that of a step (``c…:3``) or a chain, or ``t`` + 16 hex digits of a text that
    is neither; ``chain`` is empty for such a text. ``control_chains`` are those that its length-matched controls are taken
    from.
    """

    id: str
    kind: str
    chain: str
    text: str
    n_tokens: int
    control_chains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Responses(Finding):
    """A row per span in ``table``, and a row per span and probe in ``reactions``. ``noise`` is what the probe alone, measured
    once more in a batch, differs from itself.
    """

    run: str
    probes: str
    chains: tuple[str, ...]
    table: pa.Table
    reactions: pa.Table
    noise: Mapping[str, float]
    scores: tuple[Score, ...]
    notes: tuple[str, ...]

    def sentences(self) -> list[str]:
        """Every span as one line."""
        return [sentence(row) for row in self.table.to_pylist()]

    def report(self) -> Report:
        """How many spans move unseen probes the same way, and the spans themselves."""
        rows = self.table.to_pylist()
        consistent = [row for row in rows if row["consistent"]]
        trained = any(row["kind"] == "adapter" for row in rows)
        against = "the training on other text" if trained else "length-matched spans"
        verdict = (
            f"{part_of(len(consistent), len(rows), 'span', 'moves', 'move')} "
            f"{counted(len(self.chains), 'unseen probe')} the same way, beyond {against}"
        )
        columns = {
            "span": "span", "text": "text", "layer": "layer", "attention": "attention", "attention_control": "control",
            "attention_mean": "over layers", "attention_mean_control": "its control",
            "drift_layer": "drift layer", "drift": "drift", "drift_chosen": "drift by choice",
            "logit_shift": "logit shift %", "logit_shift_control": "control %",
            "nll_change": "nats", "nll_change_control": "control nats", "nll_change_shuffled": "shuffled nats",
            "share": "share", "share_low": "its low", "share_high": "its high",
        }  # fmt: skip
        each = {
            "span": "span", "probe": "probe", "nll_change": "nats", "nll_change_control": "control nats",
            "nll_change_shuffled": "shuffled nats", "logit_shift": "logit shift %",
        }  # fmt: skip
        facts = {
            "run": self.run,
            "probes": self.probes,
            "n_spans": len(rows),
            "n_probes": len(self.chains),
            "noise": dict(self.noise),
            "sentences": self.sentences(),
        }
        tables = (
            ReportTable(
                "responses",
                self.table,
                "spans, the largest change of NLL against its control first",
                columns,
                ranked=(
                    "change against its control",
                    [abs(row["nll_change"] - row["nll_change_control"]) for row in rows],
                ),
            ),
            ReportTable("reactions", self.reactions, "every span and probe", each, detail=True),
        )
        return Report("respond", verdict, facts, tables, self.scores, notes=self.notes, evidence=(NLL,))

    def batch(self) -> GraphBatch | None:
        """``:Response`` nodes with ``OF`` and ``ON``."""
        rows, pairs = self.table.to_pylist(), self.reactions.to_pylist()
        if not rows:
            return None
        ids = {row["span"]: "p" + stable_hash(row["span"], self.run, *self.chains) for row in rows}
        names = [name for name in self.table.column_names if name != "control_chains"]
        nodes = {name: [row[name] for row in rows] for name in names}
        nodes |= {"id": list(ids.values()), "run": [self.run] * len(rows), "probes": [self.probes] * len(rows)}
        nodes |= {"sentence": self.sentences(), "chain": [row["chain"] or None for row in rows]}
        nodes |= {f"noise_{name}": [value] * len(rows) for name, value in self.noise.items()}
        relations = {
            "ON": {
                "start": [ids[pair["span"]] for pair in pairs],
                "end": [pair["probe"] for pair in pairs],
                **{
                    name: [pair[name] for pair in pairs] for name in ("nll_change", "nll_change_control", "logit_shift")
                },
            }
        }
        for name, kind in (("OF", "chain"), ("OF_STEP", "step")):
            of = [row for row in rows if row["kind"] == kind]
            relations[name] = {"start": [ids[row["span"]] for row in of], "end": [row["span"] for row in of]}
        return GraphBatch(
            {"Response": table_of("Response", nodes)},
            {name: table_of(name, columns) for name, columns in relations.items() if columns["start"]},
        )


NLL = "change of NLL"


def sentence(row: Mapping[str, Any]) -> str:
    """A row of the map in one line, every number with its unit and its control."""
    text = beginning(str(row["text"]), 60)
    word = "consistent" if row["consistent"] else "not consistent"
    if row["kind"] == "adapter":
        return (
            f"“{text}” → {_drifted(row, 'the training on other text')} → "
            f"logit shift {row['logit_shift']:.1f} % ({row['logit_shift_control']:.1f} %) → "
            f"{row['nll_change']:+.3f} nats a token ({row['nll_change_control']:+.3f}) → "
            f"reaction on {row['n_probes']} unseen samples = {word} ({percent(row['share'])} on one side of the training on "
            f"other text, 95 % {percent(row['share_low'])} to {percent(row['share_high'])}; of that on shuffled steps "
            f"{percent(row['share_shuffled'])})"
        )
    return (
        f"“{text}” → {_looked(row)} → {_drifted(row, 'those spans')} → "
        f"logit shift {row['logit_shift']:.1f} % ({row['logit_shift_control']:.1f} %) → "
        f"{row['nll_change']:+.3f} nats a token ({row['nll_change_control']:+.3f}) → "
        f"reaction on {row['n_probes']} unseen samples = {word} ({percent(row['share'])} on one side of the length-matched "
        f"spans, 95 % {percent(row['share_low'])} to {percent(row['share_high'])}; of its shuffled tokens "
        f"{percent(row['share_shuffled'])})"
    )


NO_CHOICE = "one control says nothing of the choice of the layer"


def _looked(row: Mapping[str, Any]) -> str:
    """Attention on a span in the layer where it exceeds its control most, beside what that choice gives for those."""
    layer, chosen, excess = row["layer"], row["attention_chosen"], row["attention"] - row["attention_control"]
    masses = f"{row['attention']:.3f}, length-matched spans {row['attention_control']:.3f}"
    alike = NO_CHOICE if chosen is None else f"chosen alike, one of those exceeds the others by {chosen:.3f}"
    if excess <= 0:
        said = f"attention in no layer above that on length-matched spans (layer {layer}: {masses})"
    elif chosen is not None and excess <= chosen:
        said = f"attention in no layer beyond what the choice of a layer gives (layer {layer}: {masses}; {alike})"
    else:
        said = f"attention in layer {layer} ({masses}; {alike})"
    return f"{said}, mean over layers {row['attention_mean']:.3f} ({row['attention_mean_control']:.3f})"


def _drifted(row: Mapping[str, Any], control: str) -> str:
    """Drift in the layer where it differs from its control most, beside what that choice gives for the control spans."""
    drift, chosen = f"{row['drift']:+.3f}", row["drift_chosen"]
    alike = NO_CHOICE if chosen is None else f"chosen alike, one of those differs from the others by {chosen:.3f}"
    if chosen is not None and abs(row["drift"]) <= chosen:
        said = (
            f"embedding drift in no layer beyond what the choice of a layer gives ({drift} in layer {row['drift_layer']} "
            f"against {control}; {alike})"
        )
    else:
        said = f"embedding drift {drift} in layer {row['drift_layer']} (against {control}; {alike})"
    return f"{said}, mean over layers {row['drift_mean']:.3f} ({row['drift_mean_control']:.3f})"


def share_interval(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n."""
    z = 1.959963984540054
    middle, half = (hits + z * z / 2) / (n + z * z), z * np.sqrt(hits * (n - hits) / n + z * z / 4) / (n + z * z)
    return float(max(middle - half, 0.0)), float(min(middle + half, 1.0))


def same_side(hits: int, n: int) -> bool:
    """Whether so many of n on the side that most are on are more than chance, by the sign test (binomial, two-sided, p below
    0.05). The side is the one that the values chose, so fewer than six of six are never enough.
    """
    from scipy.stats import binomtest

    return bool(binomtest(hits, n).pvalue < 0.05)


def responses(
    spans: Sequence[Span],
    reactions: Mapping[str, Reaction],
    run: str,
    *,
    probes: str,
    notes: Sequence[str] = (),
) -> Responses:
    """The map from the reactions of every probe, by chain: of each, first the probe alone once more (the noise floor), then for
    every span the span itself, its length-matched controls (the same number for every span), and its shuffled tokens.

    A span is *consistent* when more probes than chance have a change of NLL on the same side of that of the length-matched
    spans (their mean): :func:`same_side`.
    """
    order = sorted(reactions)
    attention, drift, shift, nll = (
        np.stack([getattr(reactions[chain], name) for chain in order])
        for name in ("attention", "drift", "shift", "nll")
    )
    noise = {
        "drift": float(np.nanmax(drift[:, 0])),
        "logit_shift": float(100 * shift[:, 0].max()),
        "nll": float(np.abs(nll[:, 0]).max()),
    }
    attention, drift, shift, nll = (_by_span(values, len(spans)) for values in (attention, drift, shift, nll))
    chosen = [_chosen(attention[:, i], drift[:, i]) for i in range(len(spans))]
    attention, drift, shift, nll = (_with_mean(values) for values in (attention, drift, shift, nll))
    rows: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for number, span in enumerate(spans):
        one = _row(attention[:, number], drift[:, number], shift[:, number], nll[:, number])
        described = {
            "span": span.id,
            "kind": span.kind,
            "chain": span.chain,
            "text": span.text,
            "n_tokens": span.n_tokens,
        }
        rows.append(described | one | chosen[number] | {"control_chains": list(span.control_chains)})
        for line, chain in enumerate(order):
            own, other, mixed = nll[line, number].tolist()
            pairs.append(
                {"span": span.id, "probe": chain, "nll_change": own, "nll_change_control": other}
                | {"nll_change_shuffled": mixed, "logit_shift": 100 * float(shift[line, number, 0])}
            )
    rows.sort(key=lambda row: (-abs(row["nll_change"] - row["nll_change_control"]), row["span"]))
    names = TRAININGS if any(span.kind == "adapter" for span in spans) else CONTROLS
    scores = (
        _score(NLL, "nats per token, negative = likelier", nll, names),
        _score("logit shift", "% total variation", 100 * shift, names),
        _score("hidden drift", "1 - cosine, mean over layers", drift[..., 1:].mean(-1), names),
        *(
            [_score("attention on the span", "0..1, mean over layers", attention.mean(-1), names)]
            if np.isfinite(attention).all()
            else []
        ),
    )
    return Responses(
        run,
        probes,
        tuple(order),
        pa.Table.from_pylist(rows),
        pa.Table.from_pylist(pairs),
        noise,
        scores,
        tuple(notes),
    )


def _by_span(values: Doubles, count: int) -> Doubles:
    """(probes, 1 + spans × (2 + controls), …) as (probes, spans, 2 + controls, …): the span, its controls, its shuffled
    tokens.
    """
    return values[:, 1:].reshape(len(values), count, -1, *values.shape[2:])


def _with_mean(parts: Doubles) -> Doubles:
    """(probes, spans, 2 + controls, …) as (probes, spans, 3, …): the mean of the controls in their place."""
    found: Doubles = np.stack((parts[:, :, 0], parts[:, :, 1:-1].mean(2), parts[:, :, -1]), 2)
    return found


def _chosen(attention: Doubles, drift: Doubles) -> dict[str, float | None]:
    """What choosing a layer gives where there is nothing to find: the choice that a row makes for its span, made for each of
    its K control spans against the mean of the others; the largest of the K. ``attention`` (P, 2+K, L), ``drift``
    (P, 2+K, L+1); None with one control.
    """
    found: dict[str, float | None] = {}
    for name, values, size in (("attention", attention, np.asarray), ("drift", drift, np.abs)):
        controls = values[:, 1:-1].mean(0)
        others = len(controls) - 1
        beyond = controls - (controls.sum(0) - controls) / others if others else np.full_like(controls, np.nan)
        largest = float(size(beyond).max())
        found[f"{name}_chosen"] = largest if np.isfinite(largest) else None
    return found


def _row(attention: Doubles, drift: Doubles, shift: Doubles, nll: Doubles) -> dict[str, Any]:
    """One span: ``attention`` (P, 3, L), ``drift`` (P, 3, L+1), ``shift`` and ``nll`` (P, 3), of span, control, shuffled."""
    masses, drifts, shifts, changes = attention.mean(0), drift.mean(0), 100 * shift.mean(0), nll.mean(0)
    looked = bool(np.isfinite(masses).all())  # of a training nothing stands before the probe
    layer = int((masses[0] - masses[1]).argmax()) if looked else 0
    beyond = drifts[0] - drifts[1]
    drift_layer = int(np.abs(beyond).argmax())
    found: dict[str, Any] = {
        "n_probes": len(nll),
        "layer": layer + 1 if looked else None,
        "attention": masses[0, layer] if looked else None,
        "attention_control": masses[1, layer] if looked else None,
        "attention_shuffled": masses[2, layer] if looked else None,
        **{
            f"attention_mean{of}": masses[i].mean() if looked else None
            for i, of in enumerate(("", "_control", "_shuffled"))
        },
        "drift_layer": drift_layer,
        "drift": beyond[drift_layer],
        "drift_shuffled": (drifts[2] - drifts[1])[drift_layer],
        "drift_by_layer": beyond.tolist(),
        **{f"drift_mean{of}": drifts[i, 1:].mean() for i, of in enumerate(("", "_control", "_shuffled"))},
    }
    for name, values in (("logit_shift", shifts), ("nll_change", changes)):
        found |= {name: values[0], f"{name}_control": values[1], f"{name}_shuffled": values[2]}
    for name, against in (("share", 1), ("share_shuffled", 2)):
        apart = nll[:, 0] - nll[:, against]
        hits = int(max((apart < 0).sum(), (apart > 0).sum()))
        low, high = share_interval(hits, len(apart))
        found |= {name: hits / len(apart), f"{name}_low": low, f"{name}_high": high}
        if name == "share":
            found["consistent"] = same_side(hits, len(apart))
    return {name: float(v) if isinstance(v, np.floating) else v for name, v in found.items()}


def _score(name: str, unit: str, values: Doubles, names: Sequence[str]) -> Score:
    """Mean over probes and spans, (P, S, 3), with the intervals that resampling probes gives."""
    by_probe = values.mean(1)
    again = how_resampled("probes")
    controls = tuple(
        Control(control, float(by_probe[:, i].mean()), bootstrap(by_probe[:, i]), f"one a span and probe; {again}")
        for i, control in enumerate(names, start=1)
    )
    return Score(name, float(by_probe[:, 0].mean()), unit, controls, bootstrap(by_probe[:, 0]), how=again)
