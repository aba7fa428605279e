"""An oracle for the named queries: the graph in networkx, built from traces by plain loops, and every query as plain Python.

It shares no code with the stores: it reads records, not rows, and computes means, thirds and largest layers by itself.
``ANSWERS[name](graph, **parameters)`` gives the rows that the query of that name must return, in order.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import networkx as nx
import numpy as np

from trails.schema import Chain, Run, Trace, stable_hash

Row = tuple[Any, ...]
Graph = nx.MultiDiGraph


def clean(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Properties without nulls and NaN: absent."""
    return {
        name: value
        for name, value in properties.items()
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    }


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of what is there; None for nothing."""
    found = [value for value in values if value is not None and not math.isnan(value)]
    return sum(found) / len(found) if found else None


def number(value: Any) -> float | None:
    """A float, or None for NaN."""
    return None if math.isnan(float(value)) else float(value)


def thirds(name: str, layers: list[float]) -> dict[str, Any]:
    """Mean, means of three parts (the earlier parts take the remainder), number of the largest layer."""
    parts = np.array_split(np.array(layers, np.float64), 3)
    out: dict[str, Any] = {name: sum(layers) / len(layers) if layers else None}
    for part, values in zip(("early", "middle", "late"), parts, strict=True):
        out[f"{name}_{part}"] = sum(values.tolist()) / len(values) if len(values) else None
    known = [i for i, value in enumerate(layers) if not math.isnan(value)]
    out[f"{name}_max_layer"] = max(known, key=lambda i: (layers[i], -i)) if known else None
    return out


def transition(trace: Trace, t: int) -> dict[str, Any]:
    """What the run measured on the transition that leads to token t."""
    hidden = [float(x) for x in trace.hidden_shift[t]]
    shift = thirds("attention_shift", [float(x) for x in trace.attention_shift[t]])
    drift = thirds("hidden_shift", hidden[1:])
    if drift["hidden_shift_max_layer"] is not None:
        drift["hidden_shift_max_layer"] += 1  # layer 0 is the embeddings
    return clean(
        {
            "run": trace.run,
            "surprisal": float(trace.surprisal[t]),
            "entropy": float(trace.entropy[t]),
            "rank": int(trace.rank[t]) if trace.rank[t] >= 0 else None,
            "logit_shift": float(trace.logit_shift[t]),
            "margin": None if trace.margin is None else float(trace.margin[t]),
            "gradient_effect": float(trace.more["gradient_effect"][t]) if "gradient_effect" in trace.more else None,
            "attention_previous": mean(map(float, trace.attention_previous[t])),
            "attention_sink": mean(map(float, trace.attention_sink[t])),
            "attention_entropy": mean(map(float, trace.attention_entropy[t])),
            **shift,
            **drift,
            "hidden_shift_by_layer": hidden,
        }
    )


def described(chain: Chain) -> dict[str, Any]:
    """The declared metadata of a chain, each in its type."""

    def number(name: str) -> float | None:
        text = chain.metadata.get(name, "")
        return float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else None

    first = number("first_wrong_step")
    correct = chain.metadata.get("correct")
    texts = ("label", "finish_reason", "gold_answer", "difficulty", "subject", "split", "model")
    return {
        "meta_correct": correct == "true" if correct in ("true", "false") else None,
        "meta_grade": number("grade"),
        "meta_weight": number("weight"),
        "meta_first_wrong_step": None if first is None or first % 1 else int(first),
        **{f"meta_{name}": chain.metadata.get(name) for name in texts},
    }


def most_kept(trace: Trace) -> int:
    """The largest number of earlier steps that a step of a trace keeps."""
    masses = [trace.step_masses(step)[2 : step + 2] for step in range(len(trace.steps))]
    return max(sum(not any(math.isnan(x) for x in row) for row in rows) for rows in masses)


def build(traces: Iterable[Trace], runs: Mapping[str, Run]) -> Graph:
    """The graph of some traces."""
    graph = nx.MultiDiGraph()
    for run in runs.values():
        fields = ("model", "revision", "adapter", "tokenizer", "dtype", "attention", "bos", "template", "window")
        numbers = ("n_layers", "n_heads")
        graph.add_node(run.id, label="Run", id=run.id, **{name: getattr(run, name) for name in fields + numbers})
    for trace in traces:
        _add(graph, trace)
    return graph


def _add(graph: Graph, trace: Trace) -> None:
    chain, run = trace.chain, trace.run
    source = "s" + stable_hash(chain.source, chain.licence)
    graph.add_node(source, label="Source", id=source, name=chain.source, licence=chain.licence)
    graph.add_node(
        chain.id,
        label="Chain",
        id=chain.id,
        source=chain.source,
        source_id=chain.source_id,
        question=chain.question,
        text=chain.text,
        answer=chain.answer,
        language=chain.language,
        roles=">".join(step.role.value for step in trace.steps),
        n_steps=len(trace.steps),
        **clean(described(chain) | {"roles_implicit": _with_implicit(trace)}),
    )
    if chain.family:
        made = re.fullmatch("f[0-9a-f]{16}", chain.family)
        family = chain.family if made else "f" + stable_hash("family", chain.family)
        graph.add_node(family, label="Family", id=family, name=chain.family)
        graph.add_edge(chain.id, family, key="IN_FAMILY", type="IN_FAMILY")
    graph.add_edge(chain.id, source, key="FROM", type="FROM")
    known = [float(s) for s in trace.surprisal if not math.isnan(s)]
    graph.add_edge(
        chain.id,
        run,
        key=("MEASURED", run),
        type="MEASURED",
        **clean(
            {
                "run": run,
                "n_tokens": trace.n_tokens,
                "nll": sum(known) if known else None,
                "mean_surprisal": mean(known),
                "max_surprisal": max(known, default=None),
                "hidden_baseline": [float(x) for x in trace.hidden_baseline],
                "edges_per_step": None if trace.step_keys is None else most_kept(trace),
            }
        ),
    )
    token = [f"{chain.id}:{trace.tokenizer[:8]}:{t}" for t in range(trace.n_tokens)]
    for t in range(trace.n_tokens):
        step = next(s for s, (a, b) in enumerate(trace.step_tokens) if a <= t < b)
        graph.add_node(
            token[t],
            label="Token",
            id=token[t],
            chain=chain.id,
            step=step,
            position=t,
            tokenizer=trace.tokenizer[:8],
            token_id=int(trace.token_ids[t]),
            piece=trace.pieces[t],
            start=int(trace.token_start[t]),
            end=int(trace.token_end[t]),
        )
        if t == 0:
            graph.add_edge(chain.id, token[0], key=("BEGINS", run), type="BEGINS", **transition(trace, 0))
        else:
            graph.add_edge(token[t - 1], token[t], key=("NEXT", run), type="NEXT", **transition(trace, t))
    for step in trace.steps:
        _add_step(graph, trace, step.index, token)


def _with_implicit(trace: Trace) -> str | None:
    """Roles of the steps; where one is NONE, an implicit one of 0.6 or more. None where no step was described so."""
    if all(step.scene < 0 for step in trace.steps):
        return None
    return ">".join(
        step.implicit_role
        if step.role.value == "NONE" and step.implicit_role and step.implicit_p >= 0.6
        else step.role.value
        for step in trace.steps
    )


def _add_step(graph: Graph, trace: Trace, index: int, token: list[str]) -> None:
    chain, run, step = trace.chain, trace.run, trace.steps[index]
    node = f"{chain.id}:{index}"
    graph.add_node(
        node,
        label="Step",
        id=node,
        chain=chain.id,
        index=index,
        text=chain.text[step.start : step.end],
        role=step.role.value,
        connective=step.connective,
        sense=step.sense,
        explicit=step.explicit,
        start=step.start,
        end=step.end,
        **clean(
            {
                "scene": None if step.scene < 0 else step.scene,
                "source_line": step.source_line or None,
                "implicit_role": step.implicit_role or None,
                "implicit_p": step.implicit_p if step.implicit_role else None,
            }
        ),
    )
    graph.add_edge(chain.id, node, key="HAS_STEP", type="HAS_STEP")
    first, last = (int(x) for x in trace.step_tokens[index])
    if last > first:
        graph.add_edge(node, token[first], key=("FIRST", trace.tokenizer), type="FIRST", tokenizer=trace.tokenizer[:8])
    known = [float(s) for s in trace.surprisal[first:last] if not math.isnan(s)]
    bins = trace.step_masses(index)
    masses = [mean(map(float, row)) for row in bins]
    graph.add_edge(
        node,
        run,
        key=("MEASURED_STEP", run),
        type="MEASURED_STEP",
        **clean(
            {
                "run": run,
                "n_tokens": last - first,
                "nll": sum(known) if known else None,
                "mean_surprisal": mean(known),
                "max_surprisal": max(known, default=None),
                "mass_sink": masses[0],
                "mass_question": masses[1],
                "mass_own": masses[2 + index],
            }
        ),
    )
    for earlier in range(index):
        if masses[2 + earlier] is not None:
            graph.add_edge(
                node,
                f"{chain.id}:{earlier}",
                key=("ATTENDS_TO", run),
                type="ATTENDS_TO",
                run=run,
                mean=masses[2 + earlier],
                mass=[float(x) for x in bins[2 + earlier]],
            )
    if index:
        graph.add_edge(f"{chain.id}:{index - 1}", node, key="NEXT_STEP", type="NEXT_STEP")
        given = trace.nll_given_all
        without, question = trace.nll_without_previous, trace.nll_given_question
        graph.add_edge(
            f"{chain.id}:{index - 1}",
            node,
            key=("LEADS_TO", run),
            type="LEADS_TO",
            **clean(
                {
                    "run": run,
                    "roles": f"{trace.steps[index - 1].role.value}>{step.role.value}",
                    "nll_given_all": mean(known) if given is None else float(given[index]),
                    "nll_given_question": None if question is None else float(question[index]),
                    "premise_usefulness": None
                    if without is None or given is None
                    else float(without[index]) - float(given[index]),
                }
            ),
        )
    if trace.token_attends_step is not None and trace.token_attends_mass is not None:
        assert trace.token_attends_layer is not None
        for t in range(first, last):
            target = int(trace.token_attends_step[t])
            if target >= 0:
                graph.add_edge(
                    token[t],
                    f"{chain.id}:{target}",
                    key=("ATTENDS_TO", run),
                    type="ATTENDS_TO",
                    run=run,
                    mean=float(trace.token_attends_mass[t]),
                    layer=int(trace.token_attends_layer[t]),
                )


# --------------------------------------------------------------------------------------------------------------------
# walking
# --------------------------------------------------------------------------------------------------------------------


def nodes(graph: Graph, label: str, **wanted: Any) -> list[dict[str, Any]]:
    """Properties of the nodes of a label that have these values."""
    return [
        props
        for _, props in graph.nodes(data=True)
        if props["label"] == label and all(props.get(name) == value for name, value in wanted.items())
    ]


def edges(
    graph: Graph, type_: str, start: str | None = None, end: str | None = None
) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """(start, relationship, end) of a type; ``start`` and ``end`` are labels."""
    for a, b, props in graph.edges(data=True):
        x, y = graph.nodes[a], graph.nodes[b]
        if props["type"] == type_ and start in (None, x["label"]) and end in (None, y["label"]):
            yield x, props, y


def take(props: Mapping[str, Any], names: str) -> Row:
    """Values of the properties named in ``names``, None where absent."""
    return tuple(props.get(name) for name in names.split())


def of_run(props: Mapping[str, Any], run: str) -> bool:
    """Whether the relationship belongs to the run."""
    return bool(run == props["run"])


def held(graph: Graph, home: str, chain: str, run: str = "") -> bool:
    """Whether a home (any for an empty one) holds a chain, by this run (by any for an empty one)."""
    links = (graph.get_edge_data(home, chain) or {}).values()
    return not home or any(link["type"] == "HOLDS" and run in ("", link["run"]) for link in links)


def of_home(answer: Mapping[str, Any], home: str) -> bool:
    """Whether an answer is a home's (any home's for an empty one)."""
    return not home or bool(answer["id"].rpartition("@")[2] == home[:9])


def newest(rows: Iterable[Mapping[str, Any]], run: str, home: str) -> str:
    """The scope that was written last, of the results of a run and of a home (of any for an empty one)."""
    dates = defaultdict(list)
    for row in rows:
        if row["run"] == run and home in ("", row["home"]):
            dates[row["scope"]].append(row["date"])
    return min(dates, key=lambda scope: (-int(re.sub(r"[^0-9]", "", max(dates[scope]))), scope), default="")


def shown(node: Mapping[str, Any]) -> dict[str, Any]:
    """A node as a query returns it."""
    return {name: value for name, value in node.items() if name != "label"}


def shown_edge(props: Mapping[str, Any]) -> dict[str, Any]:
    """A relationship as a query returns it (without the arrays that only --per-layer loads)."""
    return {name: value for name, value in props.items() if name not in ("type", "hidden_shift_by_layer")}


def transitions(graph: Graph, run: str, chain: str | None = None) -> Iterator[tuple[dict, dict, dict]]:
    """BEGINS and NEXT."""
    for kind in ("BEGINS", "NEXT"):
        for a, r, t in edges(graph, kind):
            if of_run(r, run) and chain in (None, t["chain"]):
                yield a, r, t


# --------------------------------------------------------------------------------------------------------------------
# one function per named query
# --------------------------------------------------------------------------------------------------------------------


def runs(graph: Graph, home: str, limit: int) -> list[Row]:
    rows = []
    for run in nodes(graph, "Run"):
        found = [
            m for c, m, r in edges(graph, "MEASURED") if r["id"] == run["id"] and held(graph, home, c["id"], run["id"])
        ]
        if found:
            tokens = sum(m["n_tokens"] for m in found)
            surprisal = mean(m.get("mean_surprisal") for m in found)
            rows.append(
                (run["id"], run["model"], run["adapter"], run["dtype"], run["n_layers"], len(found), tokens, surprisal)
            )
    return sorted(rows)[:limit]


def corpus(graph: Graph, home: str, limit: int) -> list[Row]:
    groups = defaultdict(list)
    for chain in nodes(graph, "Chain"):
        if held(graph, home, chain["id"]):
            groups[chain["source"], chain["language"]].append(chain["n_steps"])
    rows = [(s, lang, len(n), sum(n), sum(n) / len(n)) for (s, lang), n in groups.items()]
    return sorted(rows, key=lambda row: (-row[2], row[0], row[1]))[:limit]


def chain_trail(graph: Graph, chain: str, run: str, limit: int) -> list[Row]:
    names = [
        "surprisal",
        "entropy",
        "rank",
        "logit_shift",
        "attention_shift",
        "attention_previous",
        "attention_sink",
        "hidden_shift",
        "run",
    ]
    rows = [
        (t["position"], t["piece"], t["step"], *(r.get(name) for name in names))
        for _, r, t in transitions(graph, run, chain)
    ]
    return sorted(rows, key=lambda row: (row[-1], row[0]))[:limit]


def chain_steps(graph: Graph, chain: str, run: str, limit: int) -> list[Row]:
    rows = [
        (
            s["index"],
            s["role"],
            s["connective"],
            s["explicit"],
            s["text"],
            *tuple(
                m.get(n)
                for n in ("n_tokens", "mean_surprisal", "max_surprisal", "mass_sink", "mass_question", "mass_own")
            ),
            m["run"],
        )
        for s, m, _ in edges(graph, "MEASURED_STEP")
        if s["chain"] == chain and of_run(m, run)
    ]
    return sorted(rows, key=lambda row: (row[-1], row[0]))[:limit]


def chain_graph(graph: Graph, chain: str, run: str, limit: int) -> list[Row]:
    rows = []
    for step in sorted(nodes(graph, "Step", chain=chain), key=lambda s: s["index"])[:limit]:
        held = []
        for s, r, back in edges(graph, "ATTENDS_TO", "Step", "Step"):
            if s["id"] == step["id"] and of_run(r, run):
                held.append((r, back, graph.edges[back["id"], run, ("MEASURED_STEP", run)]["n_tokens"]))
        held = [(r, back, tokens) for r, back, tokens in held if tokens]
        most = max((r["mean"] / tokens for r, _, tokens in held), default=0.0)
        even = sum(r["mean"] for r, _, _ in held) / max(1, sum(tokens for _, _, tokens in held))
        looks = [(shown_edge(r), shown(back)) for r, back, n in held if r["mean"] / n == most and most > 1.0001 * even]
        after = [shown(b) for a, _, b in edges(graph, "NEXT_STEP") if a["id"] == step["id"]]
        follows, following = ({}, after[0]) if after else (None, None)
        rows += [(shown(step), follows, following, *look) for look in looks or [(None, None)]]
    return rows


def most_surprising(graph: Graph, run: str, home: str, limit: int) -> list[Row]:
    rows = [
        (
            t["chain"],
            t["position"],
            a.get("piece"),
            t["piece"],
            r["surprisal"],
            r.get("entropy"),
            r.get("rank"),
            t["step"],
            r["run"],
        )
        for a, r, t in transitions(graph, run)
        if "surprisal" in r and held(graph, home, t["chain"], run)
    ]
    return sorted(rows, key=lambda row: (-row[4], row[0], row[1], row[8]))[:limit]


def most_surprising_in_chain(graph: Graph, chain: str, run: str, limit: int) -> list[Row]:
    return [row[1:] for row in most_surprising(graph, run, "", 10**9) if row[0] == chain][:limit]


def most_attended_steps(graph: Graph, chain: str, run: str, limit: int) -> list[Row]:
    groups = defaultdict(list)
    for _, a, k in edges(graph, "ATTENDS_TO", "Step", "Step"):
        if k["chain"] == chain and of_run(a, run):
            groups[k["id"], a["run"]].append(a["mean"])
    rows = []
    for (step, of), masses in groups.items():
        node, received = graph.nodes[step], sum(masses) / len(masses)
        tokens = graph.edges[step, of, ("MEASURED_STEP", of)]["n_tokens"]
        rows.append(
            (node["index"], node["role"], node["text"], received, received / tokens, len(masses), max(masses), of)
        )
    return sorted(rows, key=lambda row: (-row[3], row[0], row[-1]))[:limit]


def attention_arcs(graph: Graph, chain: str, run: str, limit: int) -> list[Row]:
    rows = []
    for q, a, k in edges(graph, "ATTENDS_TO", "Step", "Step"):
        if q["chain"] == chain and of_run(a, run):
            layer = a["mass"].index(max(a["mass"]))
            rows.append((q["index"], k["index"], q["role"], k["role"], a["mean"], layer, a["mass"][layer], a["run"]))
    return sorted(rows, key=lambda row: (-row[4], row[0], row[1], row[-1]))[:limit]


def shared_transitions(graph: Graph, first: str, second: str, run: str, limit: int) -> list[Row]:
    groups: dict[tuple[int, int], dict[str, list]] = defaultdict(lambda: defaultdict(list))
    names: dict[tuple[int, int], list[tuple[str, str]]] = defaultdict(list)
    for chain in (first, second):
        for a, r, b in edges(graph, "NEXT"):
            if a["chain"] == chain and of_run(r, run):
                groups[a["token_id"], b["token_id"]][chain].append(r.get("surprisal"))
                names[a["token_id"], b["token_id"]].append((a["piece"], b["piece"]))
    rows = []
    for pair, held in groups.items():
        if held[first] and held[second]:
            x, y = mean(held[first]), mean(held[second])
            piece, following = (min(side) for side in zip(*names[pair], strict=True))
            difference = None if x is None or y is None else y - x
            # a chain asked against itself counts every occurrence once per mention
            n = [len(held[first]), len(held[second])]
            rows.append((pair, (piece, following, *n, x, y, difference)))
    rows.sort(key=lambda row: (-row[1][2] - row[1][3], row[0]))
    return [row for _, row in rows[:limit]]


def chains_by_roles(graph: Graph, pattern: str, in_order: bool, home: str, limit: int) -> list[Row]:
    wanted = pattern.split(">") if pattern else []
    rows = []
    for c in nodes(graph, "Chain"):
        roles = c["roles"].split(">")
        if in_order:
            place = iter(roles)
            fits = all(role in place for role in wanted)
        else:
            fits = any(roles[i : i + len(wanted)] == wanted for i in range(len(roles) - len(wanted) + 1))
        if fits and held(graph, home, c["id"]):
            rows.append((c["id"], c["source"], c["source_id"], c["language"], c["roles"], c["n_steps"], c["text"][:80]))
    return sorted(rows, key=lambda row: (row[1], row[2], row[0]))[:limit]


def chains_by_text(graph: Graph, text: str, home: str, limit: int) -> list[Row]:
    rows = [
        (c["id"], c["source"], c["source_id"], c["roles"], c["question"][:80], c["text"][:80])
        for c in nodes(graph, "Chain")
        if (text in c["text"] or text in c["question"]) and held(graph, home, c["id"])
    ]
    return sorted(rows, key=lambda row: (row[1], row[2], row[0]))[:limit]


def directly_follows(graph: Graph, run: str, home: str, limit: int) -> list[Row]:
    pairs = [
        (a["role"], b["role"], r)
        for a, r, b in edges(graph, "LEADS_TO")
        if of_run(r, run) and held(graph, home, a["chain"], run)
    ]
    rows = []
    for pair in {(x, y) for x, y, _ in pairs}:
        of_pair = [r for x, y, r in pairs if (x, y) == pair]
        expected = sum(x == pair[0] for x, _, _ in pairs) * sum(y == pair[1] for _, y, _ in pairs) / len(pairs)
        nll, useful = (mean(r.get(name) for r in of_pair) for name in ("nll_given_all", "premise_usefulness"))
        rows.append((*pair, len(of_pair), expected, nll, useful))
    return sorted(rows, key=lambda row: (-row[2], row[0], row[1]))[:limit]


def surprisal_by_role(graph: Graph, run: str, home: str, limit: int) -> list[Row]:
    found = [
        (s, m)
        for s, m, _ in edges(graph, "MEASURED_STEP")
        if of_run(m, run) and m.get("mean_surprisal") is not None and held(graph, home, s["chain"], run)
    ]
    rows = []
    for role in {s["role"] for s, _ in found}:
        later = [m for s, m in found if s["role"] == role and s["index"] > 0]
        first = [m for s, m in found if s["role"] == role and s["index"] == 0]
        rows.append(
            (
                role,
                len(later),
                mean(m["mean_surprisal"] for m in later),
                mean(m.get("mass_own") for m in later),
                len(first),
                mean(m["mean_surprisal"] for m in first),
            )
        )
    return sorted(rows, key=lambda row: (-row[1], row[0]))[:limit]


def useful_premises(graph: Graph, chain: str, run: str, limit: int) -> list[Row]:
    rows = []
    for a, r, b in edges(graph, "LEADS_TO"):
        if a["chain"] == chain and of_run(r, run):
            given, question = r.get("nll_given_all"), r.get("nll_given_question")
            gain = None if given is None or question is None else question - given
            rows.append((b["index"], r["roles"], given, question, gain, r.get("premise_usefulness"), r["run"]))
    return sorted(rows, key=lambda row: (1e6 if row[5] is None else -row[5], row[0], row[-1]))[:limit]


def _dependences(graph: Graph, run: str) -> Iterator[tuple[dict, dict, dict]]:
    return ((a, d, b) for a, d, b in edges(graph, "DEPENDS_ON") if of_run(d, run))


def _last_step(graph: Graph, step: Mapping[str, Any]) -> bool:
    return step["index"] == max(other["index"] for other in nodes(graph, "Step", chain=step["chain"]))


def conclusion_depends_on(graph: Graph, chain: str, run: str, limit: int) -> list[Row]:
    rows = [
        (b["index"], b["role"], b["text"], d["nats"], d["kl"], d["mass"], d.get("random_nats"), d["run"])
        for a, d, b in _dependences(graph, run)
        if a["chain"] == chain and _last_step(graph, a)
    ]
    return sorted(rows, key=lambda row: (-row[3], row[0], row[-1]))[:limit]


def _largest(graph: Graph, run: str, end: int) -> dict[tuple[str, str], tuple[dict, float, int]]:
    """By step (0 = the later, 1 = the earlier one) and run: the step, the largest loss, and how many were measured."""
    found: dict[tuple[str, str], tuple[dict, float, int]] = {}
    for a, d, b in _dependences(graph, run):
        step = b if end else a
        _, most, count = found.get((step["id"], d["run"]), (step, -math.inf, 0))
        found[step["id"], d["run"]] = (step, max(most, d["nats"]), count + 1)
    return found


def steps_nobody_needs(graph: Graph, run: str, least: float, home: str, limit: int) -> list[Row]:
    rows = [
        (step["chain"], step["index"], step["role"], step["text"], most, count, of)
        for (_, of), (step, most, count) in _largest(graph, run, 1).items()
        if most < least and held(graph, home, step["chain"], run)
    ]
    return sorted(rows, key=lambda row: (row[4], row[0], row[1], row[-1]))[:limit]


def conclusions_without_premises(graph: Graph, run: str, least: float, home: str, limit: int) -> list[Row]:
    rows = [
        (step["chain"], step["text"], most, count, of)
        for (_, of), (step, most, count) in _largest(graph, run, 0).items()
        if most < least and _last_step(graph, step) and held(graph, home, step["chain"], run)
    ]
    return sorted(rows, key=lambda row: (row[2], row[0], row[-1]))[:limit]


def disagreements(graph: Graph, home: str, limit: int) -> list[Row]:
    rows = [
        (d["chain"], s["index"], s["role"], *take(d, "text statistic chance hardest_for easiest_for measure"))
        for d, _, s in edges(graph, "AT", start="Disagreement")
        if of_home(d, home)
    ]
    return sorted(rows, key=lambda row: (-row[4], row[0], row[1], row[3]))[:limit]


def tensions(graph: Graph, run: str, home: str, limit: int) -> list[Row]:
    steps = {(n["chain"], n["index"]): n["text"] for _, n in graph.nodes(data=True) if "index" in n and "role" in n}
    rows = [
        (s["id"], s["chain"], s["role"], steps[s["chain"], s["index"] - 1], s["text"], m["mean_surprisal"], m["run"])
        for s, m, _ in edges(graph, "MEASURED_STEP")
        if of_run(m, run) and m.get("mean_surprisal") is not None and s["role"] in ("BUT", "HOWEVER") and s["index"] > 0
        if held(graph, home, s["chain"], run)
    ]
    return sorted(rows, key=lambda row: (-row[5], row[0], row[6]))[:limit]


def tensions_parted(graph: Graph, home: str, limit: int) -> list[Row]:
    groups = defaultdict(list)
    for d, _, s in edges(graph, "AT", start="Disagreement"):
        if s["role"] in ("BUT", "HOWEVER") and of_home(d, home):
            groups[s["id"], s["chain"], s["role"], s["text"]].append(d["statistic"])
    rows = [(*of, max(found), len(found)) for of, found in groups.items()]
    return sorted(rows, key=lambda row: (-row[4], row[0]))[:limit]


def effects_seen(graph: Graph, effect: str, run: str, home: str, limit: int) -> list[Row]:
    rows = [
        (e["name"], s["id"], s["text"], r["value"], e["share"], e["by_chance"], r["run"])
        for e, r, s in edges(graph, "SEEN_IN")
        if effect in ("", e["name"]) and of_run(r, run) and of_home(e, home)
    ]
    return sorted(rows, key=lambda row: (row[0], -row[3], row[1], row[-1]))[:limit]


def response_map(graph: Graph, run: str, consistent: bool, home: str, limit: int) -> list[Row]:
    names = (
        "sentence span layer attention attention_control attention_shuffled attention_chosen attention_mean "
        "attention_mean_control drift_layer drift drift_shuffled drift_chosen drift_mean drift_mean_control logit_shift "
        "logit_shift_control logit_shift_shuffled nll_change nll_change_control nll_change_shuffled share share_low "
        "share_high share_shuffled n_probes run"
    )
    rows = [
        tuple(take(r, names))
        for r in nodes(graph, "Response")
        if of_run(r, run) and (r["consistent"] or not consistent) and of_home(r, home)
    ]
    return sorted(rows, key=lambda row: (-row[22], row[1], row[-1]))[:limit]


def token_neighbourhood(graph: Graph, piece: str, run: str, home: str, limit: int) -> list[Row]:
    groups = defaultdict(list)
    for t in (t for t in nodes(graph, "Token", piece=piece) if held(graph, home, t["chain"], run)):
        for a, _, r in graph.in_edges(t["id"], data=True):
            for _, b, q in graph.out_edges(t["id"], data=True):
                if r["type"] == q["type"] == "NEXT" and r["run"] == q["run"] and of_run(r, run):
                    groups[graph.nodes[a]["piece"], graph.nodes[b]["piece"]].append(
                        (r.get("surprisal"), q.get("surprisal"))
                    )
    rows = [(*pair, len(v), mean(x for x, _ in v), mean(y for _, y in v)) for pair, v in groups.items()]
    return sorted(rows, key=lambda row: (-row[2], row[0], row[1]))[:limit]


def drift_by_layer(graph: Graph, chain: str, run: str, limit: int) -> list[Row]:
    rows = []
    for c, m, r in edges(graph, "MEASURED"):
        if c["id"] != chain or not of_run(m, run):
            continue
        baseline = m["hidden_baseline"][1:]
        for step in nodes(graph, "Step", chain=chain):
            here = [x for _, x, t in transitions(graph, r["id"], chain) if t["step"] == step["index"]]
            if here:
                means = {
                    f"{kind}_{part}": mean(x.get(f"{kind}_shift_{part}") for x in here)
                    for kind in ("hidden", "attention")
                    for part in ("early", "middle", "late")
                }
                hidden = [means[f"hidden_{part}"] for part in ("early", "middle", "late")]
                attention = [means[f"attention_{part}"] for part in ("early", "middle", "late")]
                random = sum(baseline) / len(baseline)
                rows.append((step["index"], step["role"], *hidden, random, *attention, r["id"]))
    return sorted(rows, key=lambda row: (row[-1], row[0]))[:limit]


def drift_every_layer(graph: Graph, chain: str, run: str, limit: int) -> list[Row]:
    rows = []
    for c, m, r in edges(graph, "MEASURED"):
        if c["id"] == chain and of_run(m, run):
            held = [
                x["hidden_shift_by_layer"]
                for a, x, _ in edges(graph, "NEXT")
                if a["chain"] == chain and x["run"] == r["id"]
            ]
            for layer, baseline in enumerate(m["hidden_baseline"] if held else []):
                rows.append((layer, mean(x[layer] for x in held), baseline, len(held), r["id"]))
    return sorted(rows, key=lambda row: (row[-1], row[0]))[:limit]


def tokens_looking_at_step(graph: Graph, step: str, run: str, limit: int) -> list[Row]:
    rows = [
        (t["position"], t["piece"], t["step"], a["mean"], a["layer"], a["run"])
        for t, a, s in edges(graph, "ATTENDS_TO", "Token")
        if s["id"] == step and of_run(a, run)
    ]
    return sorted(rows, key=lambda row: (-row[3], row[0], row[-1]))[:limit]


def overlaps_of_chain(graph: Graph, chain: str, run: str, home: str, limit: int) -> list[Row]:
    here = [o for o, _, c in edges(graph, "IN") if c["id"] == chain]
    scopes = {kind: newest((o for o in here if o["kind"] == kind), run, home) for kind in {o["kind"] for o in here}}
    rows = [
        (
            o["id"],
            o["kind"],
            o["text"],
            o["n_tokens"],
            o["n_chains"],
            i["first"],
            i["stop"],
            *tuple(o.get(name) for name in ("coverage", "control", "control_name")),
        )
        for o, i, c in edges(graph, "IN")
        if c["id"] == chain and o["scope"] == scopes[o["kind"]]
    ]
    return sorted(rows, key=lambda row: (-row[3], row[5], row[0]))[:limit]


def overlaps_top(graph: Graph, kind: str, run: str, home: str, limit: int) -> list[Row]:
    scope = newest(nodes(graph, "Overlap", kind=kind), run, home)
    rows = [
        (
            o["id"],
            o["text"],
            o["n_tokens"],
            o["n_chains"],
            o["n_tokens"] * (o["n_chains"] - 1),
            *tuple(o.get(name) for name in ("coverage", "control", "control_name")),
        )
        for o in nodes(graph, "Overlap", scope=scope)
    ]
    return sorted(rows, key=lambda row: (-row[4], row[0]))[:limit]


def overlap_graph(graph: Graph, kind: str, run: str, home: str, limit: int) -> list[Row]:
    top = {row[0] for row in overlaps_top(graph, kind, run, home, 10)}
    rows = [(shown(o), shown_edge(i), shown(c)) for o, i, c in edges(graph, "IN") if o["id"] in top]
    return sorted(rows, key=lambda row: (row[0]["id"], row[2]["id"], row[1]["first"]))[:limit]


def similar_steps(graph: Graph, step: str, run: str, home: str, limit: int) -> list[Row]:
    rows = []
    for a, r, b in edges(graph, "SIMILAR"):
        if step in (a["id"], b["id"]) and of_run(r, run) and home in ("", r["home"]):
            other = b if a["id"] == step else a
            rows.append((other["id"], other["role"], other["text"], r["cosine"], r["excess"], r["layer"], r["run"]))
    return sorted(rows, key=lambda row: (-row[3], row[0], row[-1]))[:limit]


def variants_of_chain(graph: Graph, chain: str, run: str, limit: int) -> list[Row]:
    own = ("id", "kind", "detail", "edits", "distance")
    drifts = ["logit_drift", "volatility", "noise_floor", "hidden_drift", "hidden_drift_max_layer", "attention_drift"]
    drifts += ["attention_drift_max_layer", "run"]
    rows = [
        (*(v[name] for name in own), *(r.get(name) for name in drifts))
        for v, r, c in edges(graph, "VARIANT_OF")
        if c["id"] == chain and of_run(r, run)
    ]
    return sorted(rows, key=lambda row: (-row[5], row[0], row[-1]))[:limit]


def drift_map(graph: Graph, chain: str, run: str, limit: int) -> list[Row]:
    rows = []
    for v, r, c in edges(graph, "VARIANT_OF"):
        if c["id"] == chain and of_run(r, run):
            attention = [None, *r.get("attention_drift_by_layer", [None] * (len(r["hidden_drift_by_layer"]) - 1))]
            for layer, (hidden, seen) in enumerate(zip(r["hidden_drift_by_layer"], attention, strict=True)):
                rows.append((v["id"], v["kind"], layer, hidden, seen, r["logit_drift"], r["run"]))
    return sorted(rows, key=lambda row: (-row[3], row[0], row[2], row[-1]))[:limit]


def gaps_top(graph: Graph, run: str, home: str, rank: int, limit: int) -> list[Row]:
    scope = newest(nodes(graph, "Gap"), run, home)
    names = "bridge_nats ungrounded value_surprisal premise_usefulness run"
    rows = [
        (g["chain"], g["step"], *take(g, "score control_auc baseline_auc"), s["text"], *take(g, names))
        for g, _, s in edges(graph, "BEFORE")
        if g["scope"] == scope and g["rank"] <= rank
    ]
    return sorted(rows, key=lambda row: (-row[2], row[0], row[1], row[-1]))[:limit]


def gaps_of_chain(graph: Graph, chain: str, run: str, home: str, limit: int) -> list[Row]:
    scope = newest(nodes(graph, "Gap", chain=chain), run, home)
    names = "bridge_nats ungrounded value_surprisal context_gain premise_usefulness role_bigram run"
    rows = [
        (g["rank"], g["step"], s["role"], *take(g, "score control_auc baseline_auc"), s["text"], *take(g, names))
        for g, _, s in edges(graph, "BEFORE")
        if g["chain"] == chain and g["scope"] == scope
    ]
    return sorted(rows, key=lambda row: (row[0], row[1], row[-1]))[:limit]


def states_branching(graph: Graph, run: str, home: str, least: int, limit: int) -> list[Row]:
    rows = []
    for s in nodes(graph, "State", scope=newest(nodes(graph, "State"), run, home)):
        ways = [t for a, t, _ in edges(graph, "TRAIL") if a["id"] == s["id"]]
        if s["n_chains"] >= least and ways:
            walked = sum(t["count"] for t in ways)
            surprisal = sum(t["count"] * t["mean_surprisal"] for t in ways) / walked
            rows.append((s["id"], s["text"], s["n_chains"], s["n_occurrences"], len(ways), surprisal))
    return sorted(rows, key=lambda row: (-row[4], -row[2], row[0]))[:limit]


def map_around_chain(graph: Graph, chain: str, run: str, home: str, limit: int) -> list[Row]:
    rows = []
    scope = newest((s for t, _, s in edges(graph, "AT", start="Token") if t["chain"] == chain), run, home)
    for t, _, s in edges(graph, "AT", start="Token"):
        if t["chain"] == chain and s["scope"] == scope:
            branches = sum(1 for a, _, _ in edges(graph, "TRAIL") if a["id"] == s["id"])
            rows.append((t["position"], t["piece"], s["id"], s["n_chains"], branches))
    return sorted(rows, key=lambda row: (row[0], row[2]))[:limit]


def _both(graph: Graph, before: str, after: str, home: str) -> Iterator[tuple[dict, dict, dict]]:
    for c in nodes(graph, "Chain"):
        x = graph.get_edge_data(c["id"], before, ("MEASURED", before))
        y = graph.get_edge_data(c["id"], after, ("MEASURED", after))
        if x and y and held(graph, home, c["id"], before) and held(graph, home, c["id"], after):
            yield c, x, y


def moved_chains(graph: Graph, before: str, after: str, home: str, limit: int) -> list[Row]:
    rows = [
        (
            c["id"],
            c["source"],
            x["mean_surprisal"],
            y["mean_surprisal"],
            y["mean_surprisal"] - x["mean_surprisal"],
            y["n_tokens"],
        )
        for c, x, y in _both(graph, before, after, home)
    ]
    return sorted(rows, key=lambda row: (-abs(row[4]), row[0]))[:limit]


def moved_by_source(graph: Graph, before: str, after: str, home: str, limit: int) -> list[Row]:
    groups = defaultdict(list)
    for c, x, y in _both(graph, before, after, home):
        groups[c["source"]].append((x["mean_surprisal"], y["mean_surprisal"]))
    rows = []
    for source, pairs in groups.items():
        change = [y - x for x, y in pairs]
        spread = statistics.stdev(change) if len(change) > 1 else None
        rows.append((source, len(pairs), mean(x for x, _ in pairs), mean(y for _, y in pairs), mean(change), spread))
    return sorted(rows, key=lambda row: (row[4], row[0]))[:limit]


def _moves(graph: Graph, chain: str, before: str, after: str) -> Iterator[tuple[dict, dict, dict]]:
    for a, b, key, r in graph.edges(data=True, keys=True):
        if key == ("NEXT", before) and graph.nodes[b]["chain"] == chain and graph.has_edge(a, b, ("NEXT", after)):
            yield graph.nodes[b], r, graph.edges[a, b, ("NEXT", after)]


def easier_transitions(graph: Graph, before: str, after: str, home: str, chains: int, limit: int) -> list[Row]:
    both = _both(graph, before, after, home)
    opened = sorted((y["mean_surprisal"] - x["mean_surprisal"], c["id"]) for c, x, y in both)[:chains]
    rows = [
        (
            b["chain"],
            b["position"],
            b["piece"],
            r["surprisal"],
            q["surprisal"],
            q["surprisal"] - r["surprisal"],
            q["hidden_shift"] - r["hidden_shift"],
        )
        for _, chain in opened
        for b, r, q in _moves(graph, chain, before, after)
    ]
    return sorted(rows, key=lambda row: (row[5], row[0], row[1]))[:limit]


def transitions_before_after(graph: Graph, chain: str, before: str, after: str, limit: int) -> list[Row]:
    rows = [
        (
            b["position"],
            b["piece"],
            r["surprisal"],
            q["surprisal"],
            q["surprisal"] - r["surprisal"],
            q["attention_shift"] - r["attention_shift"],
            q["hidden_shift"] - r["hidden_shift"],
        )
        for b, r, q in _moves(graph, chain, before, after)
    ]
    return sorted(rows, key=lambda row: (-abs(row[4]), row[0]))[:limit]


ANSWERS: dict[str, Callable[..., list[Row]]] = {
    answer.__name__.replace("_", "-"): answer
    for answer in (
        runs,
        corpus,
        chain_trail,
        chain_steps,
        chain_graph,
        most_surprising,
        most_surprising_in_chain,
        most_attended_steps,
        attention_arcs,
        shared_transitions,
        chains_by_roles,
        conclusion_depends_on,
        disagreements,
        effects_seen,
        response_map,
        steps_nobody_needs,
        conclusions_without_premises,
        chains_by_text,
        directly_follows,
        surprisal_by_role,
        tensions,
        tensions_parted,
        useful_premises,
        token_neighbourhood,
        drift_by_layer,
        drift_every_layer,
        tokens_looking_at_step,
        overlaps_of_chain,
        overlaps_top,
        overlap_graph,
        similar_steps,
        variants_of_chain,
        drift_map,
        gaps_top,
        gaps_of_chain,
        states_branching,
        map_around_chain,
        moved_chains,
        moved_by_source,
        easier_transitions,
        transitions_before_after,
    )
}
