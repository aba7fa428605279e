"""Hand-made traces: every field filled, values from a seeded generator, no model.

The numbers are consistent where the graph relies on it (spans partition the text, attention bins sum to 1), random
otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from trails.schema import Chain, Role, Run, Step, Trace, stable_hash

ROLES = (Role.IF, Role.THEN, Role.BUT, Role.THEREFORE, Role.NEXT, Role.NONE)


def make_run(model: str = "toy", *, n_layers: int = 4, tokenizer: str = "feedc0de" * 8) -> Run:
    """A run; another ``model`` is another run."""
    return Run(
        model, f"rev-{model}", tokenizer, n_layers=n_layers, n_heads=2, d_model=8, vocab_size=100, max_tokens=512
    )


def make_chain(
    key: int | str,
    text: str = "If it rains then the grass is wet. But it is dry. Therefore no rain.",
    *,
    source: str = "toy.jsonl",
) -> Chain:
    """A chain whose identity follows from its key and text."""
    number = hash_of(str(key))
    return Chain(
        source,
        str(key),
        f"Question {key}?",
        text,
        answer="42",
        language="en",
        source_sha256="ab",
        licence="MIT",
        family=("", "mine", "f0123456789abcdef")[number % 3],
        metadata={
            "correct": ("true", "false", "perhaps")[number % 3],
            "grade": ("1", "0.5", "A", "NaN")[number % 4],
            "first_wrong_step": ("-1", "2", "2.5")[number % 3],
            "weight": ("1.0", "null")[number % 2],
            **dict.fromkeys(
                ("label", "finish_reason", "gold_answer", "difficulty", "subject", "split", "model"), "text"
            ),
            "more": "not declared",
        },
    )


def make_trace(
    chain: Chain | int | str,
    run: Run | None = None,
    *,
    n_steps: int = 4,
    seed: int | None = None,
    token_attention: bool = False,
    peaks: int = 0,
    premises: bool = True,
    states: tuple[int, ...] = (),
    roles: tuple[Role, ...] | None = None,
    words: tuple[str, ...] | None = None,
    strongest: int | None = None,
    alternatives: bool = False,
) -> Trace:
    """A trace of ``chain`` as ``run`` could have measured it. Tokens are characters in groups of up to three. Of the earlier
    steps that each step attends to, only the ``strongest`` are kept (all if None).
    """
    run = run or make_run()
    chain = chain if isinstance(chain, Chain) else make_chain(chain)
    text = chain.text
    rng = np.random.default_rng(abs(hash_of(chain.id + run.id)) if seed is None else seed)
    if words is None:
        pieces = tuple(text[i : i + 3] for i in range(0, len(text), 3))
    else:
        assert "".join(words) == text
        pieces = words
    ends = np.cumsum([len(p) for p in pieces], dtype=np.int32) if pieces else np.zeros(0, np.int32)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int32) if pieces else np.zeros(0, np.int32)
    n, layers = len(pieces), run.n_layers
    n_steps = max(1, min(n_steps, n))
    cut = [round(i * n / n_steps) for i in range(n_steps + 1)]
    edges = [0, *(int(ends[c - 1]) for c in cut[1:-1]), len(text)]
    roles = roles or tuple(ROLES[i % len(ROLES)] for i in range(n_steps))
    steps = tuple(
        Step(
            i,
            edges[i],
            edges[i + 1],
            roles[i],
            roles[i].lower() if roles[i] else "",
            "Contingency",
            roles[i] != Role.NONE,
            scene=i // 2,
            source_line=i + 1,
            implicit_role="THEREFORE" if i == 2 else "",
            implicit_p=0.625 if i == 2 else 0.0,
        )
        for i in range(n_steps)
    )

    def floats(*shape: int) -> np.ndarray:
        return rng.random(shape, dtype=np.float32)

    bins = []
    for s in range(n_steps):
        raw = floats(s + 3, layers) + 1e-3
        bins.append(raw / raw.sum(0, keepdims=True))
    kept = [
        [-2, -1, *sorted(range(s), key=lambda k, s=s: -bins[s][k + 2].sum())[:strongest], s] for s in range(n_steps)
    ]
    kept = [[*row[:2], *sorted(row[2:])] for row in kept]
    if strongest is not None:
        bins = [masses[[key + 2 for key in row]] for masses, row in zip(bins, kept, strict=True)]
    surprisal = floats(n) * 5
    token_step = np.searchsorted(np.array(cut[1:]), np.arange(n), side="right").astype(np.int32)
    return Trace(
        chain=chain,
        steps=steps,
        run=run.id,
        tokenizer=run.tokenizer,
        n_layers=layers,
        token_ids=np.array([hash_of(p) % 97 for p in pieces], np.int32),
        token_start=starts,
        token_end=ends,
        pieces=pieces,
        step_tokens=np.array([[cut[i], cut[i + 1]] for i in range(n_steps)], np.int32),
        question_token_ids=np.arange(5, dtype=np.int32),
        question_surprisal=np.concatenate([[np.nan], floats(4)]).astype(np.float32),
        n_context=6,
        surprisal=surprisal,
        entropy=floats(n) * 4,
        rank=rng.integers(0, 100, n).astype(np.int32),
        logit_shift=floats(n),
        attention_shift=floats(n, layers),
        attention_previous=floats(n, layers),
        attention_sink=floats(n, layers),
        attention_entropy=floats(n, layers),
        hidden_shift=floats(n, layers + 1),
        hidden_baseline=floats(layers + 1),
        step_attention=np.concatenate(bins).astype(np.float32)
        if layers
        else np.zeros((sum(map(len, bins)), 0), np.float32),
        step_keys=None if strongest is None else np.array([key for row in kept for key in row], np.int32),
        token_attends_step=(token_step - 1) if token_attention else None,
        token_attends_mass=floats(n) if token_attention else None,
        token_attends_layer=rng.integers(0, max(layers, 1), n).astype(np.int32) if token_attention else None,
        peak_token=rng.integers(-1, n, (n, peaks)).astype(np.int32) if peaks else None,
        peak_mass=floats(n, peaks) if peaks else None,
        peak_layer=rng.integers(0, max(layers, 1), (n, peaks)).astype(np.int32) if peaks else None,
        nll_given_all=floats(n_steps) if premises else None,
        nll_given_question=floats(n_steps) if premises else None,
        nll_without_previous=np.concatenate([[np.nan], floats(n_steps - 1)]).astype(np.float32) if premises else None,
        state_layers=states,
        step_states=floats(n_steps, len(states), 8) if states else None,
        **(_alternatives(rng, n) if alternatives else {}),
    )


def _alternatives(rng: np.random.Generator, n: int, k: int = 3) -> dict[str, Any]:
    items = rng.permuted(np.tile(np.arange(90, dtype=np.int32), (n, 1)), axis=1)[:, :k]
    log_p = np.sort(np.log(rng.random((n, k), dtype=np.float32) / k + 1e-3), axis=1)[:, ::-1].astype(np.float32)
    return {
        "top_id": items,
        "top_log_probability": log_p,
        "margin": log_p[:, 0] - log_p[:, 1],
        "top_pieces": tuple(f"w{item}" for item in np.unique(items)),
    }


def hash_of(text: str) -> int:
    """A stable small number for a text."""
    return int(stable_hash(text, length=8), 16)


def same(a: Trace, b: Trace) -> bool:
    """Whether two traces are equal to the bit, dtypes and shapes included."""
    from dataclasses import fields

    for field in fields(Trace):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray) or isinstance(y, np.ndarray):
            if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray)):
                return False
            if x.shape != y.shape or x.dtype != y.dtype or x.tobytes() != y.tobytes():
                return False
        elif x != y:
            return False
    return True


def corpus(n: int = 6, run: Run | None = None) -> list[Trace]:
    """Several different traces: lengths, languages, optional measures."""
    texts = (
        "If it rains then the grass is wet. But it is dry. Therefore no rain.",
        "Мышление — это не генерация текста. Но генерация похожа на мышление. Значит, судят по следу.",
        "Tom has 3 apples 🍎. He buys 4. So he has 7 🙂 apples.",
        "A",
        "Because x = 0.5\u0000 and \\frac{1}{2} agree, we stop.",
        "If a then b. If b then c. But not c. Therefore not a. Next: d.",
    )
    traces = []
    for i in range(n):
        trace = make_trace(
            make_chain(i, texts[i % len(texts)], source=f"toy{i % 2}.jsonl"),
            run,
            n_steps=1 + i % 5,
            token_attention=i % 2 == 0,
            peaks=i % 3,
            premises=i % 2 == 1,
            states=(1, 3) if i % 3 == 0 else (),
            strongest=2 if i % 5 == 4 else None,
            alternatives=i % 2 == 1,
        )
        traces.append(trace)
    if traces:
        first = traces[0]
        surprisal = first.surprisal.copy()
        surprisal[0] = np.nan
        traces[0] = replace(first, surprisal=surprisal)
    return traces
