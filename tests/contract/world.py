"""What the contract suite puts into a store: hand-made traces of two runs, and rows of every analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests import oracle
from tests.store.factory import corpus, make_chain, make_run, make_trace

from trails.schema import NODE, RELATIONSHIP, Role, Run, Trace
from trails.store.base import GraphBatch
from trails.store.rows import graph_batch, table_of

LONG = "If a then b. Then c is not d. But the rain is the rain. And so on. Therefore the grass is the grass."


@dataclass(frozen=True)
class World:
    """Traces with their runs; ``rows`` are analysis results by label or relationship name."""

    traces: tuple[Trace, ...]
    runs: Mapping[str, Run]
    rows: Mapping[str, Sequence[Mapping[str, Any]]]

    def batch(self) -> GraphBatch:
        """The traces as rows, with per-layer arrays."""
        return graph_batch(self.traces, self.runs, per_layer=True)

    def analyses(self) -> GraphBatch:
        """The analysis results as rows."""
        tables = {}
        for name, rows in self.rows.items():
            columns = {key: [row.get(key) for row in rows] for key in rows[0] if key != "ends"}
            if "ends" in rows[0]:
                columns["start"], columns["end"] = ([row["ends"][i] for row in rows] for i in (0, 1))
            tables[name] = table_of(name, columns)
        return GraphBatch(
            {name: table for name, table in tables.items() if name in NODE},
            {name: table for name, table in tables.items() if name in RELATIONSHIP},
        )

    def graph(self) -> oracle.Graph:
        """The oracle's graph of all of it."""
        graph = oracle.build(self.traces, self.runs)
        for name, rows in self.rows.items():
            for index, row in enumerate(rows):
                values = oracle.clean(row)
                if name in NODE:
                    graph.add_node(row["id"], label=name, **values)
                else:
                    graph.add_edge(*values.pop("ends"), key=(name, index), type=RELATIONSHIP[name].type, **values)
        return graph


def scope_of(label: str, row: Mapping[str, Any], run: str) -> dict[str, Any]:
    """Whose a result is: two homes, and one that wrote the same again later with other options."""
    late = row["id"] in ("o2", "s3")
    return {
        "key": row["id"],
        "run": row.get("run", run),
        "scope": f"a-{label}-{row.get('run', run)}-{row.get('kind', '')}" + ("-late" if late else ""),
        "home": "h2" if late else "h1",
        "parameters": "{}",
        "author": None if late else "Ann",
        "date": "2026-02-01T00:00:00.000Z" if late else "2026-01-01T00:00:00.000Z",
    }


def answer_id(key: str) -> str:
    """The id of an answer, which ends with its home: those with an odd number are the second home's."""
    return f"{key}@h{1 + int(key[1:]) % 2}"


def make_world() -> World:
    """Twelve short chains and one long, measured by two runs; one chain by the second run only."""
    one, two = make_run("base"), make_run("tuned")
    roles = (Role.IF, Role.THEN, Role.BUT, Role.AND, Role.THEREFORE)
    long = make_chain("long", LONG, source="long.txt")
    late = make_chain("late", LONG + " Late.", source="long.txt")
    traces = [*corpus(12, one), make_trace(long, one, n_steps=5, roles=roles, token_attention=True)]
    traces += [*corpus(12, two), make_trace(long, two, n_steps=5, roles=roles, token_attention=True)]
    traces.append(make_trace(late, two, n_steps=5, roles=(*roles[:2], Role.BUT, Role.THEREFORE, Role.NONE)))
    first, second = traces[0].chain.id, long.id
    scores = {
        "ungrounded": 1.0,
        "value_surprisal": 2.5,
        "context_gain": 0.25,
        "premise_usefulness": 0.5,
        "role_bigram": 1.5,
    }
    rows: dict[str, list[dict[str, Any]]] = {
        "Overlap": [
            {"id": "o1", "kind": "exact", "text": "the rain is", "n_tokens": 4, "n_chains": 2, "coverage": 0.25}
            | {"control": 0.125, "excess": 0.125, "control_name": "order-2 Markov"},
            {"id": "o2", "kind": "exact", "text": "the grass is", "n_tokens": 3, "n_chains": 3, "coverage": 0.25}
            | {"control": 0.125, "excess": 0.125, "control_name": "order-2 Markov"},
            {"id": "o3", "kind": "skeleton", "text": "IF>THEN", "n_tokens": 2, "n_chains": 2, "coverage": None},
        ],
        "Gap": [
            {"id": f"g{i}", "chain": second, "run": run.id, "step": step, "score": 0.9 - 0.1 * i, "rank": step - 1}
            | {"bridge_nats": 3.0 + i, "control_auc": 0.75, "baseline_auc": 0.625, **scores}
            for i, (run, step) in enumerate([(one, 1), (one, 2), (two, 1), (two, 2)])
        ],
        "State": [
            {
                "id": f"s{i}",
                "tokenizer": one.tokenizer_id,
                "k": 4,
                "text": f"state {i}",
                "n_occurrences": 9 - i,
                "n_chains": 4 - i,
            }
            for i in range(4)
        ],
        "Variant": [
            {
                "id": f"cv{i}",
                "chain": chain,
                "kind": kind,
                "detail": f"edit {i}",
                "text": f"{LONG} {i}",
                "parent": chain,
            }
            | {"edits": i, "distance": 2 * i}
            for i, (chain, kind) in enumerate(
                [(second, "plain"), (second, "synonym"), (second, "json"), (first, "json")]
            )
        ],
    }
    scoped = {
        label: [row | scope_of(label, row, one.id) for row in rows[label]] for label in ("Overlap", "Gap", "State")
    }
    rows |= scoped
    # two homes share chains: one holds the base run's but for the long chain's, the other half of them and the tuned run's
    rows["Home"] = [{"id": "h1", "name": "mine"}, {"id": "h2", "name": "theirs"}]
    holds = [("h1", t) for t in traces if t.run == one.id and t.chain.id != second]
    holds += [("h2", t) for i, t in enumerate(traces) if t.run == two.id or i % 2 == 0]
    holds += [("h1", t) for t in traces if t.run == two.id and t.chain.id in (first, second)]
    rows["Response"] = [
        {
            "id": answer_id(f"p{i}"),
            "span": span,
            "kind": kind,
            "chain": second if kind != "text" else None,
            "text": f"span {i}",
        }
        | {
            "run": run.id,
            "sentence": f"span {i} → …",
            "n_probes": 12,
            "layer": 2,
            "attention": 0.1 * i,
            "attention_control": 0.05 * i,
            "attention_chosen": 0.02 * i if i else None,
            "attention_mean": 0.06 * i,
            "drift_chosen": 0.03 * i,
            "drift_mean_control": 0.04 * i,
            "nll_change_shuffled": -0.05 * i,
            "drift_layer": 3,
        }
        | {"drift": 0.01 * i, "drift_by_layer": [0.0, 0.01 * i], "logit_shift": 4.0 + i, "logit_shift_control": 2.0}
        | {
            "nll_change": -0.1 * i,
            "nll_change_control": 0.0,
            "share": 0.75,
            "share_low": 0.4 + 0.1 * i,
            "consistent": i > 1,
        }
        for i, (span, kind, run) in enumerate(
            [(second, "chain", one), (f"{second}:1", "step", one), ("t1", "text", two), (f"{second}:2", "step", two)]
        )
    ]
    rows["Disagreement"] = [
        {
            "id": answer_id(f"d{i}"),
            "chain": second,
            "start": 3 * i,
            "end": 3 * i + 3,
            "text": f"part {i}",
            "measure": "surprisal",
        }
        | {"members": [one.id, two.id], "values": [0.5, 1.0 + i], "statistic": 0.4 - 0.1 * (i // 2), "chance": 0.2}
        | {"hardest_for": "tuned", "easiest_for": "base"}
        for i in range(3)
    ]
    rows["Effect"] = [
        {
            "id": answer_id(f"e{i}"),
            "name": name,
            "version": 1,
            "meaning": "it is",
            "definition": "x <= y",
            "run": run.id,
        }
        | {"thresholds": [0.5, 1.0], "share": 0.1 * (i + 1), "by_chance": 0.02, "n_steps": 50, "value_unit": "nats"}
        for i, (name, run) in enumerate(
            [("logit-collapse", one), ("attention-divergence", one), ("logit-collapse", two)]
        )
    ]
    tokens = [f"{second}:{one.tokenizer_id}:{t}" for t in range(6)]
    links: dict[str, list[dict[str, Any]]] = {
        "HOLDS": [{"ends": (home, t.chain.id), "run": t.run} for home, t in holds],
        "IN": [
            {"ends": ("o1", first), "first": 2, "stop": 6},
            {"ends": ("o1", second), "first": 0, "stop": 4},
            {"ends": ("o1", second), "first": 10, "stop": 14},
            {"ends": ("o2", second), "first": 4, "stop": 7},
            {"ends": ("o3", second), "first": 0, "stop": 2},
        ],
        "BEFORE": [{"ends": (gap["id"], f"{second}:{gap['step']}")} for gap in rows["Gap"]],
        "DISAGREEMENT_AT": [{"ends": (answer_id(f"d{i}"), f"{second}:{i}")} for i in range(3)],
        "SEEN_IN": [
            {"ends": (effect["id"], f"{second}:{step}"), "run": effect["run"], "value": 0.5 * step}
            for effect in rows["Effect"]
            for step in (1, 3)
        ],
        "OF": [{"ends": (answer_id("p0"), second)}],
        "OF_STEP": [{"ends": (answer_id(p), f"{second}:{i}")} for i, p in ((1, "p1"), (2, "p3"))],
        "ON": [{"ends": (answer_id("p2"), first), "nll_change": -0.2, "nll_change_control": 0.0, "logit_shift": 6.0}],
        "AT": [{"ends": (token, f"s{t % 3}")} for t, token in enumerate(tokens)],
        "TRAIL": [
            {"ends": (f"s{a}", f"s{b}"), "count": a + b, "n_chains": b, "mean_surprisal": 0.5 * a + b}
            for a, b in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
        ],
        "SIMILAR": [
            {
                "ends": (f"{second}:{a}", f"{second}:{b}"),
                "run": run.id,
                "layer": 2,
                "cosine": 0.5 + 0.1 * b + 0.01 * i,
                "excess": 0.1,
                "scope": f"a-near-{i}",
                "home": "h1",
            }
            for i, run in enumerate((one, two))
            for a, b in [(0, 1), (0, 2), (3, 0)]
        ],
        "DEPENDS_ON": [
            {
                "ends": (f"{second}:{b}", f"{second}:{a}"),
                "run": run.id,
                "nats": 0.1 * (b - a) - 0.15 + 0.01 * i,
                "kl": 0.2,
            }
            | {"mass": 0.05 * b, "layers": "all", "random_nats": 0.01 if a == 0 else None, "sink_nats": None}
            for i, run in enumerate((one, two))
            for b in range(1, 5)
            for a in range(b)
        ],
        "VARIANT_OF": [
            {"ends": (v["id"], v["chain"]), "run": run.id, "volatility": 0.01 * i, "noise_floor": 1e-6}
            | {"logit_drift": 0.1 * i + 0.01 * r, "hidden_drift": 0.2 * i, "hidden_drift_max_layer": 1 + i % 2}
            | {"hidden_drift_by_layer": [0.0, 0.1 * i, 0.3 * i], "attention_drift": 0.05 if i == 1 else None}
            | {"attention_drift_max_layer": 1 if i == 1 else None}
            | {"attention_drift_by_layer": [0.04, 0.06] if i == 1 else None}
            for r, run in enumerate((one, two))
            for i, v in enumerate(rows["Variant"])
        ],
    }
    return World(tuple(traces), {one.id: one, two.id: two}, {**rows, **links})
