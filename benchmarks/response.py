"""What suppressing attention and probing cost, against the bare passes that they need.

python -m benchmarks.response [--spans 8] [--probes 3] [--chains 40] [--lengths 20] [--steps 4] [--only respond]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from benchmarks import processor_seconds
from trails.config import load_settings
from trails.measure import open_scorer
from trails.measure.anchors import dependence
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.context import Bos
from trails.measure.huggingface import HuggingFaceScorer
from trails.measure.respond import BATCH_TOKENS, _batches, react
from trails.pipeline import IngestOptions
from trails.pipeline.consilium import ingest_many
from trails.pipeline.measuring import segmented
from trails.readers import read
from trails.schema import Chain, Step

STEPS = 12
WORDS = ["If", "the", "train", "is", "late", "then", "we", "wait", "here", "and", "read", "the", "book", "again", "."]


def chain(number: int, steps: int = STEPS) -> Segmented:
    """A chain of steps of equal length."""
    part = " ".join(WORDS) + " "
    text = part * steps
    spans = tuple(Step(i, i * len(part), (i + 1) * len(part)) for i in range(steps))
    return Segmented(Chain("bench", str(number), "", text), spans)


def best(work: Callable[[], object], rounds: int = 3) -> float:
    """Least CPU time of some rounds, seconds: other work on the machine hardly changes it."""
    found = []
    for _ in range(rounds):
        begin = processor_seconds()
        work()
        found.append(processor_seconds() - begin)
    return min(found)


def anchors(scorer: HuggingFaceScorer) -> None:
    """Tokens of all pairs of a chain of twelve steps, in passes over the chain, and their time."""
    item = chain(0)
    (trace,) = scorer.measure([item], MeasureOptions())
    sequence = scorer.sequence(item)
    found = dependence(scorer, trace, sequence)
    seconds = best(lambda: dependence(scorer, trace, sequence), 2)

    def bare() -> None:
        with scorer.model.measuring():
            scorer.model.logits(scorer.model.hidden(scorer.model.tensor(sequence.row.ids)[None])[0])

    print(
        f"anchors, {STEPS} steps, {found.own_tokens} tokens: {found.tokens / found.own_tokens:.2f} passes by tokens (goal 8)"
    )
    print(f"anchors, CPU time: {seconds / best(bare):.2f} passes over the chain with its logits")


def respond(scorer: HuggingFaceScorer, spans: int, probes: int, length: int, steps: int) -> None:
    """Probing against the same batches without any reduction: hidden states, and logits of the probe's tokens. Spans of
    ``length`` to ``length + 6`` tokens before probes of so many ``steps``.
    """
    model = scorer.model
    rows = [scorer.contexts.row(chain(i, steps)) for i in range(probes)]
    rng = np.random.default_rng(0)
    texts = [rng.integers(100, 40_000, length + i % 7).astype(np.int32) for i in range(3 * spans)]

    def probed() -> None:
        with model.measuring():
            for row in rows:
                react(model, row, texts)

    def bare() -> None:
        with model.measuring():
            for row in rows:
                own, n = row.ids, len(row.tokens)
                model.logits(model.hidden(model.tensor(own)[None])[0, -n:])
                for batch in _batches([len(text) + len(own) for text in texts], BATCH_TOKENS):
                    longest = max(len(texts[i]) for i in batch) + len(own)
                    ids = np.zeros((len(batch), longest), np.int64)
                    for line, i in zip(ids, batch, strict=True):
                        line[: len(texts[i]) + len(own)] = np.concatenate((texts[i], own))
                    hidden = model.hidden(model.tensor(ids))
                    for line, i in enumerate(batch):
                        end = len(texts[i]) + len(own)
                        model.logits(hidden[line, end - n : end])

    tokens = sum((len(texts) + 1) * len(row.ids) + sum(map(len, texts)) for row in rows)
    rounds = [(best(probed, 1), best(bare, 1)) for _ in range(3)]  # in turn, as the machine's state changes
    one, other = map(min, zip(*rounds, strict=True))
    print(f"respond, {spans} spans of {length} to {length + 6} tokens x {probes} probes of {len(rows[0].tokens)} tokens "
          f"with two controls, {tokens:,} tokens: {one / other:.2f} x the CPU time of "
          f"the bare passes (goal 1.2); {tokens / one:,.0f} tokens a CPU second")  # fmt: skip


def consilium(scorer: HuggingFaceScorer, chains: int) -> None:
    """CPU seconds of an ingest with four members, shards and graph written, against those of measuring alone."""
    items = [chain(i, 6 + i % 7) for i in range(chains)]

    def member(bos: Bos, window: Literal["refuse", "stride"]) -> HuggingFaceScorer:
        model, run = scorer.model, scorer.run
        return HuggingFaceScorer(
            model.module, model.tokenizer, name=run.model, revision=run.revision, bos=bos, window=window
        )

    members = {
        f"{bos}, {window}": member(bos, window) for bos in ("always", "never") for window in ("refuse", "stride")
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "chains.jsonl"
        rows = [{"id": item.chain.source_id, "text": f"{item.chain.source_id} {item.chain.text}"} for item in items]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = load_settings(home=Path(folder) / "home", store="embedded")
        own = [segmented(one) for one in read([file])]
        scorer.measure(own[:2], MeasureOptions())
        begin = processor_seconds()
        for one in members.values():
            one.measure(own, MeasureOptions())
        alone = processor_seconds() - begin
        begin = processor_seconds()
        done = ingest_many([file], settings, IngestOptions(), list(members), lambda of: members[of.model])
        spent = processor_seconds() - begin
    tokens = sum(one.summary.chain_tokens for one in done if one.summary)
    parts: dict[str, float] = {}
    for one in done:
        assert one.summary is not None, one.error
        for name, seconds in one.summary.seconds.items():
            parts[name] = parts.get(name, 0) + seconds
    print(f"consilium, {len(members)} members x {chains} chains, {tokens:,} tokens: {alone / spent:.2f} of the members' "
          f"own rate by CPU seconds (goal 0.95); {tokens / spent:,.0f} tokens a CPU second; by the clock "
          + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items()))  # fmt: skip


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=8)
    parser.add_argument("--probes", type=int, default=3)
    parser.add_argument("--chains", type=int, default=40)
    parser.add_argument("--lengths", type=int, nargs="+", default=[20], help="tokens of a span of respond")
    parser.add_argument("--steps", type=int, nargs="+", default=[4], help="steps of a probe of respond, 15 words each")
    parser.add_argument("--only", choices=["anchors", "respond", "consilium"], default="")
    options = parser.parse_args()
    scorer = open_scorer(device="cpu")
    assert isinstance(scorer, HuggingFaceScorer)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {scorer.run.model}")
    if options.only in ("", "anchors"):
        anchors(scorer)
    if options.only in ("", "respond"):
        for length in options.lengths:
            for steps in options.steps:
                respond(scorer, options.spans, options.probes, length, steps)
    if options.only in ("", "consilium"):
        consilium(scorer, options.chains)


if __name__ == "__main__":
    main()
