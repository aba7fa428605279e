"""A scorer that knows every answer: the uniform distribution over the 256 bytes. No model, no torch.

Every surprisal and every entropy is ln 256, every rank 0, every logit shift 0. There is no attention and there are no
hidden states (``n_layers`` = 0), so their arrays are empty or NaN. Tests and dry runs use it in place of a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trails.errors import ModelError, UnmeasurableError
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.tokens import check_unicode, encode_bytes
from trails.schema import Run, Trace, stable_hash
from trails.segment.align import assign_tokens

VOCABULARY = 256


class UniformScorer:
    """See the module. ``run.model`` is ``uniform``; the tokens are the UTF-8 bytes."""

    def __init__(self) -> None:
        self.run = Run(
            model="uniform",
            revision="1",
            tokenizer=stable_hash("utf-8 bytes", length=64),
            attention="none",
            bos="never",
            vocab_size=VOCABULARY,
            notes={"device": "cpu"},
        )

    def count_tokens(self, item: Segmented) -> int:
        """Bytes of the question, its line break, and the chain."""
        question = item.chain.question
        return len(item.chain.text.encode()) + (len(f"{question}\n".encode()) if question else 0)

    def measure(self, items: Sequence[Segmented], options: MeasureOptions) -> list[Trace]:
        """Exact traces in the order of the items. Raises ModelError if hidden states are asked for: there are none."""
        if options.states:
            raise ModelError("the uniform scorer has no hidden states. Leave out --states, or give a model.")
        return [self._trace(item, options) for item in items]

    def _trace(self, item: Segmented, options: MeasureOptions) -> Trace:
        chain = item.chain
        check_unicode(chain.question, f"the question of chain {chain.id}")
        check_unicode(chain.text, f"chain {chain.id}")
        question = encode_bytes(f"{chain.question}\n" if chain.question else "")
        tokens = encode_bytes(chain.text)
        n, q, steps = len(tokens), len(question), len(item.steps)
        if not n:
            raise UnmeasurableError(f"chain {chain.id} has no text. Leave it out of the source.")
        nats = np.float32(math.log(VOCABULARY))
        shift = np.zeros(n, np.float32)
        if not q:
            shift[0] = np.nan
        step_tokens = assign_tokens([(s.start, s.end) for s in item.steps], np.stack((tokens.start, tokens.end), 1))
        given = np.where(step_tokens[:, 1] > step_tokens[:, 0], nats, np.float32(np.nan)).astype(np.float32)
        without = given.copy()
        without[:1] = np.nan
        nowhere, undefined = np.full(n, -1, np.int32), np.full(n, np.nan, np.float32)
        k = options.peaks
        return Trace(
            chain=chain,
            steps=tuple(item.steps),
            run=self.run.id,
            tokenizer=self.run.tokenizer,
            n_layers=0,
            token_ids=tokens.ids,
            token_start=tokens.start,
            token_end=tokens.end,
            pieces=tokens.pieces,
            step_tokens=step_tokens,
            question_token_ids=question.ids,
            question_surprisal=np.full(q, nats, np.float32),
            n_context=q,
            surprisal=np.full(n, nats, np.float32),
            entropy=np.full(n, nats, np.float32),
            rank=np.zeros(n, np.int32),
            logit_shift=shift,
            attention_shift=np.zeros((n, 0), np.float32),
            attention_previous=np.zeros((n, 0), np.float32),
            attention_sink=np.zeros((n, 0), np.float32),
            attention_entropy=np.zeros((n, 0), np.float32),
            hidden_shift=np.full((n, 1), np.nan, np.float32),
            hidden_baseline=np.full(1, np.nan, np.float32),
            step_attention=np.zeros((steps * (steps + 5) // 2, 0), np.float32),
            token_attends_step=nowhere if options.token_attention else None,
            token_attends_mass=undefined if options.token_attention else None,
            token_attends_layer=nowhere if options.token_attention else None,
            peak_token=np.full((n, k), -1, np.int32) if k else None,
            peak_mass=np.full((n, k), np.nan, np.float32) if k else None,
            peak_layer=np.full((n, k), -1, np.int32) if k else None,
            nll_given_all=given if options.premises else None,
            nll_given_question=given if options.premises else None,
            nll_without_previous=without if options.premises else None,
        )
