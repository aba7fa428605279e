"""A chain is trained on, recalled and probed in the frame in which it was measured, under every context policy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.measure.reference import byte_tokenizer, item
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM

from trails.evaluate.probe import probe
from trails.evaluate.recall import conclusion_row, recall
from trails.experiments.bench import Bench
from trails.export import export_selection
from trails.export.subgraph import Part, Selection
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.context import ContextPolicy
from trails.measure.huggingface import HuggingFaceScorer
from trails.store.traces import TraceStore
from trails.train.data import load_rows

pytestmark = pytest.mark.train

TEMPLATE = (
    "{{ bos_token or '' }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)
TALK = json.dumps(
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "the first"},
        {"role": "assistant", "content": "is said"},
        {"role": "user", "content": "What is the sum?"},
    ]
)


def tokenizer_of(kind: str) -> Any:
    """``none``: without BOS; ``has``: with one that is not added; ``adds``: one that puts it before every text."""
    tokenizer = byte_tokenizer(bos=kind != "none")
    tokenizer.chat_template = TEMPLATE
    if kind == "adds":
        bos = tokenizer.bos_token_id
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
        assert tokenizer("a")["input_ids"][0] == bos
    return tokenizer


POLICIES = [
    ("none", {"template": "plain"}),
    ("none", {"template": "plain", "bos": "never"}),
    ("none", {"template": "chat"}),
    ("has", {"template": "plain", "bos": "always"}),
    ("has", {"template": "chat"}),
    ("has", {"template": "chat", "bos": "never"}),
    ("has", {"template": "chat", "bos": "always", "think": True}),
    ("adds", {"template": "plain"}),
    ("adds", {"template": "plain", "bos": "never"}),
    ("adds", {"template": "chat"}),
]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(byte_tokenizer(bos=True)),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def chains() -> list[Segmented]:
    plain = item()
    return [
        plain,
        Segmented(replace(plain.chain, source_id="2", question=""), plain.steps),
        Segmented(replace(plain.chain, source_id="3", question="What is the sum?", messages=TALK), plain.steps),
    ]


@pytest.mark.parametrize(("kind", "policy"), POLICIES)
def test_recall_and_probes_of_the_untrained_model_are_the_stored_surprisals(
    model: Any, tmp_path: Path, kind: str, policy: dict[str, Any]
) -> None:
    scorer = HuggingFaceScorer(model, tokenizer_of(kind), name="tiny", revision="0", **policy)
    items = chains()
    traces = scorer.measure(items, MeasureOptions())
    module = scorer.model.module
    for one, trace in zip(items, traces, strict=True):
        row = conclusion_row(scorer.contexts, one)
        assert row is not None
        first, last = trace.step_tokens[-1]
        (found,) = recall(module, [row], exact=False)
        assert found.nll == pytest.approx(float(trace.surprisal[first:last].mean()), abs=1e-5)
        (seen,) = probe(module, [scorer.contexts.row(one).record()])
        stored = trace.surprisal[np.isfinite(trace.surprisal)]
        np.testing.assert_allclose(seen.nll, stored, atol=1e-5)
    frames = {tuple(scorer.contexts.of(one.chain).ids) for one in items}
    assert len(frames) == 3

    with TraceStore(tmp_path / "home", write=True) as store:
        store.put_run(scorer.run)
        store.write(traces)
    alone = Selection("alone", {one.chain.id: Part(one.chain.id) for one in items[:2]})
    with TraceStore(tmp_path / "home") as store:
        export_selection(Selection("all", None), store, "trails", tmp_path / "all.parquet")
        report = export_selection(alone, store, "trails", tmp_path / "rows.parquet")
    for row in load_rows(report.files["train"]):
        one = next(one for one in items if one.chain.id == row["chain"])
        expected = scorer.contexts.row(one).record()
        assert {name: row[name] for name in ("input_ids", "labels", "offset")} == {
            name: expected[name] for name in ("input_ids", "labels", "offset")
        }


@pytest.mark.parametrize(("kind", "policy"), POLICIES)
def test_the_bench_of_the_experiments_reads_chains_as_the_run_measured_them(
    model: Any, tmp_path: Path, kind: str, policy: dict[str, Any]
) -> None:
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer_of(kind).save_pretrained(folder)
    bench = Bench(str(folder), device="cpu", policy=ContextPolicy(**policy))
    items = chains()
    for one, trace in zip(items, bench.scorer.measure(items, MeasureOptions()), strict=True):
        row = bench.row(one)
        context = bench.contexts.of(one.chain)
        assert row["offset"] == len(context)
        (seen,) = bench.probe(bench.model, [row])
        np.testing.assert_allclose(seen.nll, trace.surprisal[np.isfinite(trace.surprisal)], atol=1e-5)
        first, last = trace.step_tokens[-1]
        conclusion = bench.ids_row(
            row["input_ids"][row["offset"] + first :], row["input_ids"][: row["offset"] + first], chain=one.chain.id
        )
        (found,) = recall(bench.model, [conclusion], exact=False)
        assert found.nll == pytest.approx(float(trace.surprisal[first:last].mean()), abs=1e-5)
        if not one.chain.messages:
            assert bench.opened(one.chain.question, one.chain.text) == row["input_ids"]
        alone = bench.row(one, question=False)
        assert alone["offset"] == len(context.prefix) + len(context.infix) or one.chain.messages
        # of a long question the first quarter is kept, and what stands around it whole
        cut = bench.row(one, 48)
        assert cut["offset"] == len(context.prefix) + min(len(context.question), 12) + len(context.infix)
        assert len(cut["input_ids"]) <= 48
