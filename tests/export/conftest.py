"""Hand-made traces in a real trace store: words are tokens, sentences are steps, numbers come from a seeded generator."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from trails.schema import Chain, Role, Run, Step, Trace, stable_hash
from trails.store.traces import TraceStore

VOCAB = 5_000
TOKENIZER = "ab12cd34" * 8


def _run_of(model: str = "toy", layers: int = 4) -> Run:
    return Run(
        model, f"rev-{model}", TOKENIZER, n_layers=layers, n_heads=2, d_model=8, vocab_size=VOCAB, max_tokens=4096
    )


def token_of(piece: str) -> int:
    return int(stable_hash(piece)[:8], 16) % VOCAB


def words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


def _trace_of(chain: Chain, run: Run, roles: tuple[Role, ...] = ()) -> Trace:
    """A trace whose steps are the sentences of the text; ``roles`` are given to them in order."""
    rng = np.random.default_rng(int(stable_hash(chain.id, run.id)[:12], 16))
    pieces = words(chain.text)
    ends = np.cumsum([len(piece) for piece in pieces]).astype(np.int32)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int32)
    last = [i for i, piece in enumerate(pieces) if piece.endswith(".") or i == len(pieces) - 1]
    first = [0, *(i + 1 for i in last[:-1])]
    spans = np.array(list(zip(first, [i + 1 for i in last], strict=True)), np.int32)
    steps = tuple(
        Step(i, int(starts[a]), int(ends[b - 1]), roles[i] if i < len(roles) else Role.NONE)
        for i, (a, b) in enumerate(spans)
    )
    question = np.array([token_of(piece) for piece in words(chain.question)], np.int32)
    n, layers, s = len(pieces), run.n_layers, len(steps)
    surprisal = rng.gamma(2.0, 1.0, n).astype(np.float32)
    if not len(question):
        surprisal[0] = np.nan
    asked = rng.gamma(2.0, 1.0, len(question)).astype(np.float32)
    asked[:1] = np.nan
    return Trace(
        chain=chain,
        steps=steps,
        run=run.id,
        tokenizer=run.tokenizer,
        n_layers=layers,
        token_ids=np.array([token_of(piece) for piece in pieces], np.int32),
        token_start=starts,
        token_end=ends,
        pieces=tuple(pieces),
        step_tokens=spans,
        question_token_ids=question,
        question_surprisal=asked,
        n_context=len(question),
        surprisal=surprisal,
        entropy=rng.gamma(2.0, 1.0, n).astype(np.float32),
        rank=np.zeros(n, np.int32),
        logit_shift=rng.random(n, np.float32),
        attention_shift=np.zeros((n, layers), np.float32),
        attention_previous=np.zeros((n, layers), np.float32),
        attention_sink=np.zeros((n, layers), np.float32),
        attention_entropy=np.zeros((n, layers), np.float32),
        hidden_shift=np.zeros((n, layers + 1), np.float32),
        hidden_baseline=np.zeros(layers + 1, np.float32),
        step_attention=np.zeros((s * (s + 5) // 2, layers), np.float32),
    )


TOPICS = ("rain", "apples", "proof", "chemistry", "Москва", "music")
ROLES = (Role.IF, Role.THEN, Role.BUT, Role.THEREFORE)


def chains_of(n: int) -> list[Chain]:
    """Chains that differ in every sentence, in two families; every fifth has no question."""
    rng = np.random.default_rng(n)
    chains = []
    for i in range(n):
        sentences = [
            f"{role.value.lower()} {TOPICS[i % len(TOPICS)]} "
            + " ".join(f"w{x}" for x in rng.integers(0, 10**9, int(rng.integers(4, 12))))
            + "."
            for role in ROLES
        ]
        question = "" if i % 5 == 4 else f"What of {TOPICS[i % len(TOPICS)]} number {i}?"
        chains.append(
            Chain(
                f"set{i % 2}.jsonl",
                str(i),
                question,
                " ".join(sentences),
                answer="42",
                language="ru" if i % 6 == 4 else "en",
                licence="MIT" if i % 2 else "public domain",
            )
        )
    return chains


@pytest.fixture
def make_home(tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """``make_home(n=12, runs=("toy",), chains=…, shards=2)`` fills a home and returns its folder, chains, runs, traces."""

    def make(
        n: int = 12,
        *,
        runs: tuple[str, ...] = ("toy",),
        chains: list[Chain] | None = None,
        shards: int = 2,
        name: str = "home",
        reverse: bool = False,
    ) -> SimpleNamespace:
        folder = tmp_path / name
        chains = chains_of(n) if chains is None else chains
        found = SimpleNamespace(home=folder, chains=chains, runs=[_run_of(model) for model in runs], traces=[])
        with TraceStore(folder, write=True) as store:
            for run in found.runs:
                store.put_run(run)
                traces = [_trace_of(chain, run, ROLES) for chain in chains]
                found.traces += traces
                ordered = traces[::-1] if reverse else traces
                for part in range(shards):
                    store.write(ordered[part::shards])
        return found

    return make


@pytest.fixture
def run_of() -> Callable[..., Run]:
    """``run_of(model="toy", layers=4)``."""
    return _run_of


@pytest.fixture
def trace_of() -> Callable[..., Trace]:
    """``trace_of(chain, run, roles)``: sentences are steps, words are tokens."""
    return _trace_of
