"""``trails stellate``: a thought through five steps, each an artefact with a hash, resumed where it stopped.

=====  ================  ===============  =======================================================================
step   file              phase            what it holds
=====  ================  ===============  =======================================================================
1      thought.json      potential        the text as a chain: language, steps, roles
2      distilled.json    field            its tokens, what they cost, which layers move, what it does to other chains
3      block.stellator   activation       a block proposed from these numbers, to be edited
4      reaction.json     activation       the block judged; a change inside the model at its places; a training, if asked
5      check.json        coalescence      do other texts enter this path and walk it: capture with its nulls
=====  ================  ===============  =======================================================================

The phases are labels, nothing is computed from them. ``loop.json`` has the hash of every file and of what it was made from. A
file whose inputs are what they were is not made again; a block that somebody edited is kept, and what follows from it is made
again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from trails.analyses.capture import MIN_CHAINS, MIN_QUERY, NULLS
from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.respond import share_interval
from trails.analyses.statistics import spread
from trails.errors import InputError, TrailsError, UsageError
from trails.measure.base import MeasureOptions
from trails.pipeline.measuring import IngestOptions, ingest, segmented
from trails.pipeline.progress import Progress, Silent
from trails.platform.files import write_atomic
from trails.platform.text import counted, json_text, jsonable, part_of, percent
from trails.readers import ReadOptions
from trails.schema import Chain, Trace, step_key
from trails.stellator.language import (
    Anchor,
    Block,
    Condition,
    Dampen,
    Drift,
    Line,
    Program,
    Quantile,
    Select,
    Text,
    printed,
)
from trails.stellator.parsing import parse
from trails.stellator.verdicts import LINES, lines_table
from trails.store.outputs import check_output

if TYPE_CHECKING:
    from trails.pipeline.home import Home

FILES = ("thought.json", "distilled.json", "block.stellator", "reaction.json", "check.json")
PHASES = ("potential", "field", "activation", "activation", "coalescence")
SOURCE = "stellate"
"""Source of the thought in the home."""
PROBES = 12
"""Chains that the thought is put before."""
OTHERS = 40
"""Texts of the home that are held against the path, where none are named."""


@dataclass(frozen=True, slots=True)
class Loop(Finding):
    """What a loop made: a row per step in ``table``, a row per judged line in ``lines``; ``made`` are the steps made now,
    ``run`` and ``chain`` the thought as it was measured."""

    folder: Path
    table: pa.Table
    lines: pa.Table
    made: tuple[int, ...]
    said: tuple[str, ...]
    run: str
    chain: str

    def report(self) -> Report:
        """What the thought is, what it did, and whether other texts walk its path."""
        done = f"steps made now: {', '.join(map(str, self.made))}" if self.made else "every step was there already"
        return Report(
            "stellate",
            self.said[-1],
            {"folder": str(self.folder), "run": self.run, "chain": self.chain},
            (
                ReportTable("steps", self.table, "the five steps"),
                lines_table(self.lines),
            ),
            notes=(
                *self.said[:-1],
                done,
                "the thought is a chain of the home now: numbers over all chains that are measured later move a little with it",
                f"to go on, edit this file and run the same line again: {self.folder / FILES[2]}",
            ),
        )


def stellate(
    home: Home,
    text: str,
    folder: Path,
    *,
    others: Sequence[tuple[str, str]] | None = None,
    train: int = 0,
    seed: int = 0,
    run: str | None = None,
    progress: Progress | None = None,
    after: Callable[[int], None] = lambda _: None,
) -> Loop:
    """Take a thought through the five steps; the artefacts lie in ``folder``.

    ``others`` are labels and texts to be held against the path (default: :data:`OTHERS` chains of the home, drawn by ``seed``).
    ``train`` trains an adapter for so many steps on the block's export and measures again. ``after`` is told each step once
    its file is there. The thought becomes a chain of the home. Raises UsageError for an empty text, for a folder that holds
    another thought, and for a run without a model; InputError for a block that somebody edited and that cannot be read.
    """
    of = home.run(run)
    if not text.strip():
        raise UsageError("an empty thought was given. Give a text, or the name of a file that holds one.")
    if not of.n_layers:
        raise UsageError(f"run {of.id} was measured by {of.model}, which is not a language model. Choose with --run.")
    progress = progress or Silent()
    check_output(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept = _record(folder)
    if not kept and (foreign := next((name for name in FILES if (folder / name).exists()), None)):
        same = folder / FILES[0]  # of a loop whose record was lost
        if not same.is_file() or same.read_bytes() != f"{json_text(_thought(text.strip()))}\n".encode():
            raise UsageError(
                f"{folder} has a {foreign} of something else than this thought, and no loop.json. Choose another folder: "
                "-o FOLDER"
            )
    made: list[int] = []
    hashes: list[str] = []
    options: Mapping[int, Any] = {
        1: {"text": text.strip()},
        2: {"run": of.id, "seed": seed},
        3: {},
        4: {"train": train, "seed": seed},
        5: {"others": None if others is None else [list(pair) for pair in others], "seed": seed, "train": train},
    }
    works: Mapping[int, Callable[[], str]] = {
        1: lambda: json_text(_thought(text.strip())),
        2: lambda: json_text(jsonable(_distilled(home, _read(folder, 1), of.id, seed, progress))),
        3: lambda: _proposed(_read(folder, 1), _read(folder, 2)),
        4: lambda: json_text(jsonable(_reaction(home, folder, of.id, train, seed, progress))),
        5: lambda: json_text(jsonable(_check(home, folder, of.id, others, train, seed))),
    }
    for number, name in enumerate(FILES, start=1):
        inputs = _hash(json_text({"step": number, "before": hashes, "options": options[number]}))
        path, known = folder / name, kept.get(name, {})
        there = _hash(path.read_text("utf-8")) if path.is_file() else ""
        edited = number == 3 and bool(there) and there != known.get("sha256")
        if number == 1 and known and known.get("inputs") != inputs:
            raise UsageError(f"{folder} holds another thought. Choose another folder, or give the thought of {path}.")
        if edited:
            _checked(path, home.settings.home)
        elif known.get("inputs") != inputs or there != known.get("sha256"):
            progress.note(f"step {number} of 5: {name}")
            told = works[number]()
            write_atomic(path, told if told.endswith("\n") else told + "\n")
            made.append(number)
            there = _hash(path.read_text("utf-8"))
        kept[name] = {"sha256": there, "inputs": inputs, "phase": PHASES[number - 1]}
        write_atomic(folder / "loop.json", json_text(kept) + "\n")
        hashes.append(there)
        after(number)
    rows = [
        {"step": n, "file": name, "phase": PHASES[n - 1], "sha256": kept[name]["sha256"][:12]}
        for n, name in enumerate(FILES, start=1)
    ]
    return Loop(
        folder,
        pa.Table.from_pylist(rows),
        _lines(_read(folder, 4)),
        tuple(made),
        tuple(_told(folder)),
        of.id,
        str(_read(folder, 1)["chain"]),
    )


def _lines(reaction: Mapping[str, Any]) -> pa.Table:
    """The judged lines of every block of the reaction."""
    blocks = (part for part in reaction["before"].values() if isinstance(part, Mapping) and "lines" in part)
    return pa.Table.from_pylist([line for block in blocks for line in block["lines"]], LINES)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _record(folder: Path) -> dict[str, Any]:
    path = folder / "loop.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
        return {name: dict(found[name]) for name in FILES if name in found}
    except (ValueError, TypeError, OSError) as error:
        raise InputError(
            f"{path} cannot be read ({error}). Delete it, and run the command again, which makes the loop again."
        ) from None


def _read(folder: Path, number: int) -> Any:
    return json.loads((folder / FILES[number - 1]).read_text("utf-8"))


def _checked(path: Path, home: Path) -> None:
    """The block that somebody edited, read and compiled without a run. Raises StellatorError with every fault."""
    from trails.stellator import check_file

    check_file(path, home)


# --------------------------------------------------------------------------------------------------------------------
# 1 and 2: thought and distillation
# --------------------------------------------------------------------------------------------------------------------


def _chain(text: str) -> Chain:
    return Chain(SOURCE, hashlib.sha256(text.encode("utf-8")).hexdigest()[:12], "", text)


def _thought(text: str) -> dict[str, Any]:
    item = segmented(_chain(text))
    steps = [
        {"step": step.index, "role": str(step.role), "connective": step.connective, "text": text[step.start : step.end]}
        for step in item.steps
    ]
    return {"phase": PHASES[0], "chain": item.chain.id, "language": item.chain.language, "text": text, "steps": steps}


def _distilled(home: Home, thought: Mapping[str, Any], run: str, seed: int, progress: Progress) -> dict[str, Any]:
    """The thought as a measured chain of the home: tokens, steps, the layers that move, and what it does to other chains."""
    trace = _measured(home, thought, run, progress)
    moved = _moving(home, trace, run)
    others = sorted(home.shards.done(run) - {trace.chain.id})
    rng = np.random.default_rng(seed)
    probes = [others[i] for i in sorted(rng.permutation(len(others))[:PROBES].tolist())]
    response: dict[str, Any]
    try:
        found = home.respond(trace.chain.id, probes=f"chain:{','.join(probes)}", seed=seed, run=run, write=False)
        (row,) = found.table.to_pylist()
        response = {"sentence": found.sentences()[0], "layer": row["layer"], "drift_layer": row["drift_layer"]}
        response |= {"consistent": row["consistent"], "notes": list(found.notes)}
    except UsageError as error:
        response = {"withheld": str(error)}
    finite = trace.surprisal[np.isfinite(trace.surprisal)]
    return {
        "phase": PHASES[1],
        "run": run,
        "n_tokens": trace.n_tokens,
        "nats_per_token": float(finite.mean()),
        "steps": [
            {
                "step": step_key(trace.chain.id, step.index),
                "role": str(step.role),
                "tokens": [int(a), int(b)],
                "nats_per_token": _mean(trace.surprisal[a:b]),
                "entropy": _mean(trace.entropy[a:b]),
            }
            for step, (a, b) in zip(trace.steps, trace.step_tokens.tolist(), strict=True)
        ],
        "layers": moved,
        "response": response,
        "tokens": [
            {"piece": piece, "nats": float(nats) if np.isfinite(nats) else None}
            for piece, nats in zip(trace.pieces, trace.surprisal, strict=True)
        ],
    }


def _mean(values: Any) -> float | None:
    good = np.asarray(values, np.float64)
    good = good[np.isfinite(good)]
    return float(good.mean()) if len(good) else None


def _measured(home: Home, thought: Mapping[str, Any], run: str, progress: Progress) -> Trace:
    """The trace of the thought, which is measured into the home by the run's instrument where it is not there."""
    name = str(thought["chain"])
    if name not in home.shards.done(run):
        states = home.state_layers(run)
        scorer = home.scorer(run)
        file = home.settings.home / "thoughts" / f"{name}.jsonl"
        chain = _chain(str(thought["text"]))
        row = {"id": chain.source_id, "text": chain.text}
        home.shards.keep(file, (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))
        home.close_graph()  # the embedded graph has one writer
        options = IngestOptions(read=ReadOptions(source=SOURCE), measure=MeasureOptions(states=states))
        ingest([file], home.settings, options, scorer=scorer, progress=progress)
    return home.trace(name, run)


def _moving(home: Home, trace: Trace, run: str) -> dict[str, Any]:
    """Where the hidden states of the thought shift more from token to token than those of 97.5 % of the other chains: shift
    minus the chain's own baseline, mean over tokens, by layer.
    """

    def drift(one: Trace) -> Any:
        return np.nanmean(one.hidden_shift.astype(np.float64), axis=0) - one.hidden_baseline

    own = drift(trace)
    rest = np.array([drift(one) for one in home.traces(run) if one.chain.id != trace.chain.id and one.n_tokens > 1])
    rows: list[dict[str, Any]] = []
    for layer in range(1, len(own)):
        low, high = spread(rest[:, layer]) or (None, None) if len(rest) else (None, None)
        rows.append({"layer": layer, "shift": float(own[layer]), "others_low": low, "others_high": high})
    beyond = [row["layer"] for row in rows if row["others_high"] is not None and row["shift"] > row["others_high"]]
    return {"beyond_other_chains": beyond, "others": len(rest), "by_layer": rows}


# --------------------------------------------------------------------------------------------------------------------
# 3: modulation
# --------------------------------------------------------------------------------------------------------------------


def _proposed(thought: Mapping[str, Any], distilled: Mapping[str, Any]) -> str:
    """A block: the thought's own steps where the model was least sure, the layer that moves, the anchor at its end."""
    say = "ru" if thought["language"] == "ru" else "en"
    steps = list(thought["steps"])
    roles = list(dict.fromkeys(s["role"] for s in steps if s["role"] in ("BUT", "HOWEVER", "BECAUSE", "IF", "THEN")))
    turns = [role for role in roles if role in ("BUT", "HOWEVER")] or roles
    ends = [s for s in steps if s["role"] in ("THEREFORE", "ANSWER")]
    last = ends[-1] if ends else steps[-1]
    word = last["connective"] or " ".join(last["text"].split()[:2])
    beyond = distilled["layers"]["beyond_other_chains"]
    by_layer: list[dict[str, Any]] = distilled["layers"]["by_layer"]
    most = max(by_layer, key=_shift)["layer"] if by_layer else 0
    layer = beyond[-1] if beyond else most
    lines = [Line(Select("CHAIN", (Text(str(thought["chain"]), False),)))]
    if turns:
        lines.append(Line(Select("STEP", tuple(Text(role, False) for role in turns))))
    why = (
        f"layers whose states shift more than in 97.5 % of {counted(distilled['layers']['others'], 'other chain')}: "
        f"{', '.join(map(str, beyond)) or 'none'}"
    )
    if layer:
        lines.append(Line(Drift("attention_entropy", True, (layer,)), (why,)))
        lines.append(Line(Drift("hidden_shift", True, (layer,))))
    lines += [Line(Anchor(word)), Line(Dampen(0.1), ("the gradient of the selected tokens in training",))]
    zone = Condition("entropy", ">", (Quantile(50.0),))
    before = ("proposed by trails stellate from distilled.json; edit it and run the same line again",)
    block = Block(zone, tuple(lines), f"thought {thought['chain']}", say, before)  # type: ignore[arg-type]
    text = printed(Program((block,)))
    parse(text)
    return text


def _shift(row: Mapping[str, Any]) -> float:
    return float(row["shift"])


# --------------------------------------------------------------------------------------------------------------------
# 4 and 5: reaction and check
# --------------------------------------------------------------------------------------------------------------------


def _reaction(home: Home, folder: Path, run: str, train: int, seed: int, progress: Progress) -> dict[str, Any]:
    from trails.pipeline.stellating import compared, judged

    block, thought, distilled = folder / FILES[2], _read(folder, 1), _read(folder, 2)
    found: dict[str, Any] = {"phase": PHASES[3], "before": judged(home, block, run=run, seed=seed).record()}
    for name in ("file", "commands"):  # an artefact names no folder of the machine that made it
        found["before"].pop(name, None)
    layer, step = _site(distilled)
    try:
        done = home.intervene(thought["chain"], layer=layer, operation="ablate", at=f"step:{step}", seed=seed, run=run)
        record = done.report().record()
        found["intervention"] = {"layer": layer, "step": step, "verdict": record["verdict"], "scores": record["scores"]}
    except TrailsError as error:
        found["intervention"] = {"layer": layer, "step": step, "withheld": str(error)}
    if not train:
        found["training"] = {"withheld": "no training was asked for: --train STEPS"}
        return found
    adapter, said = _trained(home, folder, block, run, train, seed, progress)
    difference = home.diff(run, adapter=adapter, noise=0, kl=0, progress=progress)
    found["training"] = {
        "steps": train,
        "said": list(said),
        "verdict": difference.told().verdict,
        "after": difference.report.after,
        "assertions": compared(home, block, run, difference.report.after, adapter=adapter, seed=seed).record(),
    }
    return found


def _site(distilled: Mapping[str, Any]) -> tuple[int, int]:
    """Layer and step of the change: the layer that moves most, the step that the model was least sure in."""
    rows = distilled["layers"]["by_layer"]
    beyond = set(distilled["layers"]["beyond_other_chains"])
    layer = max((row for row in rows if not beyond or row["layer"] in beyond), key=_shift)["layer"]
    steps = [(row["entropy"] or 0.0, -n) for n, row in enumerate(distilled["steps"][:-1] or distilled["steps"])]
    return int(layer), -max(steps)[1]


def _trained(
    home: Home, folder: Path, block: Path, run: str, steps: int, seed: int, progress: Progress
) -> tuple[Path, tuple[str, ...]]:
    """The adapter of a short training on what the block exports, and what became of its lines ANCHOR and DRIFT; an interrupted
    one goes on where it stopped."""
    from trails.export import ExportOptions, export_selection
    from trails.pipeline.stellating import exported
    from trails.pipeline.training import train_export
    from trails.train.options import TrainOptions

    rows = folder / "rows.parquet"
    told = exported(home, block, ExportOptions(run=run, overwrite=True, seed=seed))
    export_selection(told.selection, home.shards, "trails", rows, options=told.options)
    home.close_graph()
    progress.begin("training", steps)
    train_export(
        home.settings,
        rows,
        folder / "adapter",
        TrainOptions(steps=steps, seed=seed, batch=1, objective=told.objective or "lm"),  # type: ignore[arg-type]
        overwrite=True,
        on_step=lambda *_: progress.advance(1),
    )
    return folder / "adapter", told.said


def _check(
    home: Home, folder: Path, run: str, others: Sequence[tuple[str, str]] | None, train: int, seed: int
) -> dict[str, Any]:
    """Of other texts, which are caught beyond every null, and which of them on the trail of the thought."""
    thought = _read(folder, 1)
    there = sorted(home.shards.done(run) - {thought["chain"]})
    if len(there) < MIN_CHAINS:
        return {
            "phase": PHASES[4],
            "withheld": f"{counted(len(there), 'other chain')}, {MIN_CHAINS} are needed for the nulls",
        }
    if others is None:
        rng = np.random.default_rng(seed)
        picked = [there[i] for i in sorted(rng.permutation(len(there))[:OTHERS].tolist())]
        texts: dict[str, str] = {}
        for table in home.shards.tables(["chain", "text"], run, picked):
            texts |= dict(zip(table["chain"].to_pylist(), table["text"].to_pylist(), strict=True))
        others = [(name, texts[name]) for name in picked]
    found: dict[str, Any] = {"phase": PHASES[4], "before": _walks(home, others, thought["chain"], run)}
    found["after"] = (
        {"withheld": "no training was asked for: --train STEPS"}
        if not train
        else _written(home, folder, others, thought["chain"], run)
    )
    return found


def _walks(home: Home, texts: Sequence[tuple[str, str]], chain: str, run: str) -> dict[str, Any]:
    """How many texts are caught, and how many of them by this chain, with every null of each."""
    told = home.captures(texts, run=run)
    rows = []
    for label, one in zip(told.labels, told.found, strict=True):
        if one is None:
            continue
        score = next((s for s in one.scores if s.name == "caught"), None)
        nulls = {c.name: c.value for c in score.controls} if score else {}
        rows.append(
            {
                "text": label,
                "caught": one.is_caught,
                "trail": one.trail,
                "on_this_path": one.trail == chain,
                "share": score.value if score else None,
                "chance": score.strictest(*NULLS).reach if score else None,
                "nulls": nulls,
            }
        )
    on = sum(bool(row["caught"]) and bool(row["on_this_path"]) for row in rows)
    low, high = share_interval(on, len(rows)) if rows else (0.0, 0.0)
    return {
        "texts": len(rows),
        "caught": sum(bool(row["caught"]) for row in rows),
        "on_this_path": on,
        "share": on / len(rows) if rows else None,
        "low": low,
        "high": high,
        "by_chance": 1 / max(len(home.shards.done(run)), 1),
        "rows": rows,
    }


def _written(home: Home, folder: Path, others: Sequence[tuple[str, str]], chain: str, run: str) -> dict[str, Any]:
    """What the model writes after the beginnings of the other texts, before the training and after it, held against the
    path: the same beginnings, greedy, as many tokens.
    """
    from trails.evaluate.probe import continuations
    from trails.train import put_adapter

    scorer = home.own_model(run)
    tokenizer: Any = scorer.model.tokenizer
    begun = []
    for label, text in others[:PROBES]:
        words = text.split()
        head = " ".join(words[: max(len(words) // 3, 4)])
        begun.append((label, tokenizer(head, add_special_tokens=False)["input_ids"]))
    result: dict[str, Any] = {}
    model = scorer.model.module
    for name in ("untrained", "trained"):
        if name == "trained":
            model = put_adapter(model, folder / "adapter", "stellate")
        texts = []
        for (label, _), ids in zip(begun, continuations(model, [ids for _, ids in begun], 4 * MIN_QUERY), strict=True):
            texts.append((label, tokenizer.decode(ids, skip_special_tokens=True)))
        able = [(label, text) for label, text in texts if text.strip()]
        result[name] = _walks(home, able, chain, run) if able else {"withheld": "the model wrote nothing"}
    return result


def _told(folder: Path) -> list[str]:
    """The loop in sentences; the last one is the answer."""
    thought, distilled, reaction, check = (_read(folder, n) for n in (1, 2, 4, 5))
    said = [
        f"the thought has {counted(len(thought['steps']), 'step')} and {counted(distilled['n_tokens'], 'token')}, "
        f"{distilled['nats_per_token']:.3f} nats a token; layers beyond other chains: "
        f"{', '.join(map(str, distilled['layers']['beyond_other_chains'])) or 'none'}",
        distilled["response"].get("sentence", f"no response: {distilled['response'].get('withheld')}"),
        f"the block: {reaction['before']['verdict']}",
        *(note for part in reaction["before"].values() if isinstance(part, dict) for note in part.get("notes", ())),
        reaction["intervention"].get("verdict", f"no intervention: {reaction['intervention'].get('withheld')}"),
        reaction["training"].get("verdict", f"no training: {reaction['training'].get('withheld')}"),
    ]
    if "withheld" in check:
        return [*said, f"whether other texts walk this path is open: {check['withheld']}"]
    before = check["before"]
    answer = (
        f"{part_of(before['on_this_path'], before['texts'], 'other text', 'walks', 'walk')} this path beyond chance (95 % "
        f"{percent(before['low'])} to {percent(before['high'])}; one trail in {1 / before['by_chance']:.0f} by chance)"
    )
    if "untrained" in check["after"]:
        parts = [
            f"{name} model {walk['on_this_path']} of {walk['texts']}" if "texts" in walk else f"{name} model: nothing"
            for name, walk in check["after"].items()
        ]
        answer += f"; of what the model writes after their beginnings: {', '.join(parts)}"
    return [*said, answer]
