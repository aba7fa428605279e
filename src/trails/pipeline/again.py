"""After a training: measure the chains of a run once more with the adapter, compare, recall."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trails.config import Settings
from trails.errors import UsageError
from trails.evaluate.diff import GROUPS, DiffReport, compare, repetition_alarm
from trails.evaluate.probe import continuations, mean_kl, mean_nll, probe, repetition, text_row
from trails.evaluate.recall import RecallRow, conclusion_row, recall, summary, verdict
from trails.measure.base import MeasureOptions, Scorer, Segmented
from trails.pipeline.measuring import IngestOptions, IngestSummary, measure_and_write
from trails.pipeline.progress import Progress, Silent
from trails.readers import ReadReport
from trails.schema import Run
from trails.store import open_graph
from trails.store.traces import TraceStore
from trails.train import check_adapter, put_adapter

PROMPT, CONTINUATION = 32, 48
"""Tokens given and tokens decoded where the repetition of greedy text is measured."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What a training changed: the paired comparison of two runs, and what a light look at every checkpoint showed.

    A row of ``checkpoints`` has ``step`` (0 = base), ``nll GROUP`` and ``kl GROUP`` (nats per token) and ``repetition`` (share
    of repeated 4-grams of greedy text). ``alarms`` are collapses, in words.
    """

    report: DiffReport
    checkpoints: tuple[Mapping[str, Any], ...]
    alarms: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        report = self.report
        rows = {
            name: [{n: getattr(row, n) for n in row.__slots__} for row in getattr(report, name)]
            for name in ("groups", "layers", "easier", "harder")
        }
        return {
            "before": report.before,
            "after": report.after,
            "noise": report.noise,
            "noise_mean": report.noise_mean,
            **rows,
            "checkpoints": [dict(row) for row in self.checkpoints],
            "alarms": list(self.alarms),
        }


@dataclass(frozen=True, slots=True)
class Recall:
    """How well conclusions of unseen chains were recalled, one row per model, and the verdict in words. ``trained_on`` chains
    of the selection were left out because the export holds them; None when no export was given to compare with.
    """

    rows: tuple[RecallRow, ...]
    verdict: str
    trained_on: int | None

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        rows = [{n: getattr(row, n) for n in row.__slots__} for row in self.rows]
        return {"rows": rows, "verdict": self.verdict, "left_out_as_trained_on": self.trained_on}


def exported_chains(path: Path) -> set[str]:
    """Ids of the chains in an export. Raises UsageError for a file that does not name them."""
    try:
        if path.suffix == ".parquet":
            return set(pq.read_table(path, columns=["chain"])["chain"].to_pylist())
        with path.open(encoding="utf-8", newline="\n") as lines:  # other line ends may lie inside a text
            return {json.loads(line)["chain"] for line in lines if line.strip()}
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        why = str(error).partition("\n")[0]
        raise UsageError(
            f"{path} is not an export that names its chains ({type(error).__name__}: {why}). Give the file that was trained "
            "on: trails export --subgraph SELECTION --format trails -o FILE"
        ) from None


def groups_of(sources: Mapping[str, str], exported: Path | None, unrelated: Collection[str]) -> dict[str, str]:
    """Group of every chain, by its source: trained and held out by the export's files, unseen (another source than the
    trained ones), unrelated by name. Without an export every chain that is not unrelated is held out. Raises UsageError
    for a name in ``unrelated`` that fits no source.
    """
    for name in unrelated:
        if not any(_named(source, name) for source in sources.values()):
            known = ", ".join(sorted(set(sources.values())))
            raise UsageError(f"--unrelated {name!r} fits no source of this run. Sources: {known}")
    trained: set[str] = set()
    held: set[str] = set()
    if exported is not None:
        trained = exported_chains(exported)
        beside = exported.with_name(f"{exported.stem}.held_out{exported.suffix}")
        held = exported_chains(beside) if beside.is_file() else set()
    families = {sources[chain] for chain in trained if chain in sources}
    groups = {}
    for chain, source in sources.items():
        if chain in trained:
            groups[chain] = "trained"
        elif any(_named(source, name) for name in unrelated):
            groups[chain] = "unrelated"
        elif chain in held or source in families or not trained:
            groups[chain] = "held_out"
        else:
            groups[chain] = "unseen"
    return groups


def _named(source: str, name: str) -> bool:
    return source == name or source.endswith(f"/{name}")


def measure_again(settings: Settings, first: Run, scorer: Scorer, progress: Progress | None = None) -> None:
    """Measure every chain of the run ``first`` that ``scorer`` has not measured, into the shards and the graph."""
    with TraceStore(settings.home, write=True) as shards, open_graph(settings) as graph:
        graph.ensure_schema()
        shards.put_run(scorer.run)
        missing = shards.done(first.id) - shards.done(scorer.run.id)
        items = [Segmented(trace.chain, trace.steps) for trace in shards.traces(first.id, missing)]
        progress = progress or Silent()
        progress.begin("measuring with the adapter", sum(len(item.chain.text) for item in items))
        measure_and_write(items, scorer, shards, graph, IngestOptions(), IngestSummary(), progress, ReadReport())
        graph.save()


def difference(
    shards: TraceStore,
    before: Run,
    after: str,
    groups: Mapping[str, str],
    base: Callable[[], Scorer],
    *,
    adapter: Path | None = None,
    noise: int = 8,
    kl: int = 16,
    checkpoints: bool = False,
    top: int = 20,
) -> Difference:
    """Compare two runs of the shards. ``base`` gives the model of ``before``; it is asked for only when ``noise`` chains are to
    be measured once more, or an ``adapter`` is to be looked at on ``kl`` chains of each group.
    """
    again = []
    scorer: Any = base() if noise or (adapter and kl) else None
    if noise:
        sample = [trace for _, trace in zip(range(noise), shards.traces(before.id), strict=False)]
        # together in batches, where the run measured them one by one
        items = [Segmented(trace.chain, trace.steps) for trace in sample]
        again = scorer.measure(items, MeasureOptions(batch_tokens=4096))
    report = compare(shards.traces(before.id), shards.traces(after), groups, again=again, top=top)
    rows = _by_checkpoint(scorer, adapter, shards, before.id, groups, kl, checkpoints) if adapter and kl else []
    alarms = list(report.alarms)
    if rows and (alarm := repetition_alarm(rows[0]["repetition"], rows[-1]["repetition"])):
        alarms.append(alarm)
    return Difference(report, tuple(rows), tuple(alarms))


def _by_checkpoint(
    base: Any,
    adapter: Path,
    shards: TraceStore,
    run: str,
    groups: Mapping[str, str],
    count: int,
    checkpoints: bool,
) -> list[dict[str, Any]]:
    """Surprisal by group, KL from the base and repetition, for the base, every checkpoint and the adapter."""
    chosen: dict[str, list[Any]] = {}
    for trace in shards.traces(run):
        group = groups.get(trace.chain.id, "held_out")
        if len(chosen.setdefault(group, [])) < count:
            chosen[group].append(
                text_row(base.model.tokenizer, trace.chain.text, trace.chain.question, max_tokens=1024)
            )
    folders = (
        {int(p.name.rpartition("-")[2]): p for p in (adapter / "checkpoints").glob("checkpoint-*")}
        if checkpoints
        else {}
    )
    steps = json.loads((adapter / "train.json").read_text())["steps"] if (adapter / "train.json").is_file() else 1
    folders[steps] = adapter
    prompts = [row["input_ids"][:PROMPT] for rows in chosen.values() for row in rows[:2]]
    groups_of_rows = sorted(chosen, key=GROUPS.index)
    repeated = _repetition(base.model.module, prompts)
    found: list[dict[str, Any]] = [{"step": 0}]
    current: Any = base.model.module
    for step, folder in sorted(folders.items()):
        current = put_adapter(current, folder, f"s{step}")
        row: dict[str, Any] = {"step": step}
        for group in groups_of_rows:
            probes = probe(current, chosen[group], compare=True)
            if len(found) == 1:  # the comparison has measured the base, too
                found[0] |= {f"nll {group}": mean_nll(probes, base=True), f"kl {group}": 0.0}
            row |= {f"nll {group}": mean_nll(probes), f"kl {group}": mean_kl(probes)}
        row["repetition"] = _repetition(current, prompts)
        found.append(row)
    found[0]["repetition"] = repeated
    return found


def _repetition(model: Any, prompts: Sequence[Sequence[int]]) -> float:
    """Mean repetition of the greedy text after the prompts."""
    made = continuations(model, prompts, CONTINUATION)
    return sum(map(repetition, made)) / max(len(made), 1)


def recall_of(
    items: Sequence[Segmented],
    scorer: Any,
    adapter: Path,
    *,
    shuffled: Path | None = None,
    exported: Path | None = None,
    max_tokens: int = 1024,
) -> Recall:
    """Score the conclusions of chains with the untrained model, the adapter, and the control trained on shuffled steps.

    With ``exported``, the export that the adapter was trained on, its chains are left out; UsageError when it is another
    export than the one in the adapter's record. Raises UsageError when no chain is left.
    """
    for folder in filter(None, (adapter, shuffled)):
        check_adapter(folder)
    left = list(items)
    if exported is not None:
        check_export(exported, [adapter, *([shuffled] if shuffled else [])])
        trained = exported_chains(exported)
        left = [item for item in items if item.chain.id not in trained]
    rows = [row for item in left if (row := conclusion_row(scorer.model.tokenizer, item, max_tokens)) is not None]
    if not rows:
        raise UsageError(
            f"of {len(items)} chains {len(left)} were not trained on, and none of those has two steps or more within "
            f"{max_tokens} tokens. Give another selection, or --max-tokens 0."
        )
    results = {"untrained": recall(scorer.model.module, rows)}
    model = put_adapter(scorer.model.module, adapter, "trained")
    results["trained"] = recall(model, rows)
    if shuffled is not None:
        model = put_adapter(model, shuffled, "shuffled")
        results["shuffled"] = recall(model, rows)
    found = summary(results)
    sentence = verdict(found, "trained", [name for name in results if name != "trained"])
    return Recall(tuple(found), sentence, len(items) - len(left) if exported is not None else None)


def check_export(exported: Path, adapters: Sequence[Path]) -> None:
    """Raises UsageError when the record of an adapter names another export. One without a record is believed."""
    from trails.platform.files import sha256

    try:
        digest = sha256(exported)
    except OSError as error:
        raise UsageError(f"{exported} cannot be read ({error}). Give the file that was trained on.") from None
    for folder in adapters:
        record = folder / "train.json"
        known = json.loads(record.read_text(encoding="utf-8"))["identity"].get("export") if record.is_file() else None
        if known not in (None, digest):
            raise UsageError(
                f"{folder} was trained on another export than {exported} (SHA-256 {known[:12]}, not {digest[:12]}). "
                "Give the export that it was trained on."
            )
