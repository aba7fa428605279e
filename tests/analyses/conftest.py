"""Hand-made traces for the analyses: tokens are words, every number is chosen by the test."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from trails.analyses.sequences import SymbolCorpus, token_corpus
from trails.schema import Chain, Role, Step, Trace, stable_hash

TOKENIZER = stable_hash("words", length=64)


def word_id(word: str) -> int:
    """Token id of a word (with its leading white space): a hash, so that every test agrees."""
    return zlib.crc32(word.encode()) % 30_000


def build_trace(
    steps: Sequence[str],
    *,
    name: str = "0",
    question: str = "",
    source: str = "made",
    roles: Sequence[Role] | None = None,
    connectives: Sequence[str] | None = None,
    surprisal: Sequence[float] | float = 1.0,
    run: str = "rmade",
    tokenizer: str = TOKENIZER,
    n_layers: int = 4,
    hidden_shift: Any = None,
    hidden_baseline: Any = None,
    states: Any = None,
    state_layers: tuple[int, ...] = (),
    premises: tuple[Any, Any, Any] | None = None,
) -> Trace:
    """A trace whose steps are the given texts; tokens are words with the white space before them."""
    text = "".join(steps)
    spans, start = [], 0
    for number, part in enumerate(steps):
        role = roles[number] if roles else Role.NONE
        cue = connectives[number] if connectives else ""
        spans.append(Step(number, start, start + len(part), role, cue, "", bool(cue)))
        start += len(part)
    pieces = re.findall(r"\s*(?:\w+|[^\w\s])", text)
    rest = len(text) - sum(map(len, pieces))
    if rest and pieces:
        pieces[-1] += text[-rest:]
    ends = np.cumsum([len(p) for p in pieces]).astype(np.int32)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int32)
    n, size = len(pieces), len(steps)
    bounds = np.searchsorted(ends, [step.end for step in spans], side="right")
    step_tokens = np.stack([np.concatenate([[0], bounds[:-1]]), bounds], axis=1).astype(np.int32)
    layers = np.zeros((n, n_layers), np.float32)
    attention = np.concatenate([np.full((s + 3, n_layers), 1 / (s + 3), np.float32) for s in range(size)])
    nats = np.full(n, surprisal, np.float32) if np.isscalar(surprisal) else np.asarray(surprisal, np.float32)
    assert len(nats) == n, (len(nats), pieces)
    given: dict[str, Any] = {}
    if premises is not None:
        keys = ("nll_given_all", "nll_given_question", "nll_without_previous")
        given = {key: np.asarray(value, np.float32) for key, value in zip(keys, premises, strict=True)}
    return Trace(
        chain=Chain(source, name, question, text),
        steps=tuple(spans),
        run=run,
        tokenizer=tokenizer,
        n_layers=n_layers,
        token_ids=np.array([word_id(p.strip()) for p in pieces], np.int32),
        token_start=starts,
        token_end=ends,
        pieces=tuple(pieces),
        step_tokens=step_tokens,
        question_token_ids=np.empty(0, np.int32),
        question_surprisal=np.empty(0, np.float32),
        n_context=0,
        surprisal=nats,
        entropy=np.ones(n, np.float32),
        rank=np.zeros(n, np.int32),
        logit_shift=np.zeros(n, np.float32),
        attention_shift=layers,
        attention_previous=layers,
        attention_sink=layers,
        attention_entropy=layers,
        hidden_shift=np.zeros((n, n_layers + 1), np.float32) if hidden_shift is None else hidden_shift,
        hidden_baseline=np.zeros(n_layers + 1, np.float32) if hidden_baseline is None else hidden_baseline,
        step_attention=attention,
        state_layers=state_layers,
        step_states=states,
        **given,
    )


@pytest.fixture
def make() -> Callable[..., Trace]:
    """Factory of traces, see :func:`build_trace`."""
    return build_trace


@pytest.fixture
def corpus_of() -> Callable[..., SymbolCorpus]:
    """SymbolCorpus of several texts, one step each."""

    def build(texts: Sequence[str], **options: Any) -> SymbolCorpus:
        return token_corpus(build_trace([text], name=str(number), **options) for number, text in enumerate(texts))

    return build


@pytest.fixture
def random_texts() -> Callable[..., list[str]]:
    """Texts of random words without digits, which share no long repeat."""

    def build(count: int, words: int, seed: int, vocabulary: int = 400) -> list[str]:
        rng = np.random.default_rng(seed)
        letters = "abcdefghijklmnopqrstuvwxyz"
        names = [f"{letters[i // 26 % 26]}o{letters[i % 26]}u" for i in range(vocabulary)]
        return [" ".join(names[rng.integers(vocabulary)] for _ in range(words)) for _ in range(count)]

    return build
