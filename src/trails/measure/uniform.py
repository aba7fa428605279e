"""A scorer that knows every answer: the uniform distribution over the 256 bytes. No model, no torch.

Every surprisal and every entropy is ln 256, every rank 0, every logit shift and every margin 0; the k most likely items are the
first k bytes, as all are equally likely. There is no attention and there are no hidden states (``n_layers`` = 0), so their
arrays are empty or NaN. Tests and dry runs use it in place of a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trails.errors import ModelError, UnmeasurableError
from trails.measure.base import MeasureOptions, Segmented, with_derived
from trails.measure.tokens import byte_piece, check_unicode, encode_bytes
from trails.schema import MEASURES, Measure, Run, Trace, stable_hash
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
        """Exact traces in the order of the items. Raises ModelError for hidden states and gradients: there are none."""
        if options.states:
            raise ModelError("the uniform scorer has no hidden states. Leave out --states, or give a model.")
        if options.gradients:
            raise ModelError("the uniform scorer has no gradients. Leave out --gradients, or give a model.")
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
        step_tokens = assign_tokens([(s.start, s.end) for s in item.steps], np.stack((tokens.start, tokens.end), 1))
        nats = np.float32(math.log(VOCABULARY))
        shift = np.zeros(n, np.float32)
        if not q:
            shift[0] = np.nan
        given = np.where(step_tokens[:, 1] > step_tokens[:, 0], nats, np.float32(np.nan)).astype(np.float32)
        without = given.copy()
        without[:1] = np.nan
        known: dict[str, npt.ArrayLike] = {
            "question_surprisal": nats,
            "surprisal": nats,
            "entropy": nats,
            "rank": 0,
            "logit_shift": shift,
            "top_id": np.where(np.arange(options.n_top) < VOCABULARY, np.arange(options.n_top), -1),
            "top_log_probability": np.where(np.arange(options.n_top) < VOCABULARY, -nats, np.float32(np.nan)),
            "margin": 0,
            "nll_given_all": given,
            "nll_given_question": given,
            "nll_without_previous": without,
        }
        axes = {"n": n, "q": q, "S": steps, "L": 0, "L+1": 1, "B": steps * (steps + 5) // 2}
        tokenised = {
            "token_ids": tokens.ids,
            "token_start": tokens.start,
            "token_end": tokens.end,
            "step_tokens": step_tokens,
            "question_token_ids": question.ids,
        }
        asked = {m.name: bool(getattr(options, m.request)) if m.request else not m.optional for m in MEASURES}
        taken = [m for m in MEASURES if asked[m.name] or (m.name in known and not m.request)]
        arrays = tokenised | {
            m.name: _filled(m, axes | {"k": getattr(options, m.request) if m.request else 0}, known.get(m.name))
            for m in taken
        }
        own = {name: values for name, values in arrays.items() if name in Trace.__dataclass_fields__}
        trace = Trace(
            chain=chain,
            steps=tuple(item.steps),
            run=self.run.id,
            tokenizer=self.run.tokenizer,
            n_layers=0,
            pieces=tokens.pieces,
            n_context=q,
            top_pieces=tuple(map(byte_piece, range(min(options.n_top, VOCABULARY)))),
            more={name: values for name, values in arrays.items() if name not in own},
            **own,
        )
        return with_derived(trace)


def _filled(measure: Measure, axes: Mapping[str, int], value: npt.ArrayLike | None) -> npt.NDArray[Any]:
    """The array of a measure: ``value`` where it is known, else undefined (NaN, or -1 of whole numbers)."""
    shape = tuple(int(axis) if axis.isdigit() else axes[axis] for axis in measure.axes)
    undefined = np.nan if measure.dtype == "float32" else -1
    filled: npt.NDArray[Any] = np.full(shape, undefined if value is None else value, measure.dtype)
    return filled
