"""What stands before a chain, and a chain with its context as one row: built here, for everyone.

The scorer, recall, the probes of diff, the variants and the experiments' bench take a chain's context from one
:class:`Contexts`, so a chain is judged in the frame in which it was measured. An export writes the same frame from the
stored traces.

- ``HuggingFaceScorer.contexts`` (and ``load_scorer(...).contexts``) is the one of a run.
- ``contexts.of(chain)`` → :class:`Context`: prefix, question, infix as token ids.
- ``contexts.row(item)`` → :class:`Row`: context and chain with the token spans of the steps. ``labelled_from`` a step (recall:
  the last one), ``max_tokens`` cuts the end. ``row.record()`` is the mapping that training and probing take.

Plain policy: prefix = BOS where the policy asks for it; question = its text and a line feed; no infix. Chat policy: the model's
chat template around the conversation (:attr:`trails.schema.Chain.messages`; without one, a single user turn with the
question). The text of the last user turn is the question; what the template writes before and after it are prefix
and infix, tokenised apart, so that no token crosses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from trails.errors import ModelError, UnmeasurableError
from trails.measure.base import Segmented
from trails.measure.tokens import ControlTokens, Encoded, TextTokenizer, check_unicode
from trails.platform.arrays import Ints, Longs
from trails.schema import Chain, Run
from trails.segment.align import assign_tokens

IGNORED = -100
"""Label of a token that gives no loss, as in PyTorch's cross entropy."""

THINK = "<think>\n"
"""What opens the thought where ``--think`` is asked for and the template does not open one itself."""

_MARK = "\N{OBJECT REPLACEMENT CHARACTER}trails\N{OBJECT REPLACEMENT CHARACTER}"

Bos = Literal["auto", "always", "never"]
Template = Literal["plain", "chat"]


@dataclass(frozen=True, slots=True)
class Context:
    """Token ids before a chain: ``prefix + question + infix``."""

    prefix: tuple[int, ...] = ()
    question: tuple[int, ...] = ()
    infix: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prefix) + len(self.question) + len(self.infix)

    @property
    def ids(self) -> tuple[int, ...]:
        """All ids, in order."""
        return (*self.prefix, *self.question, *self.infix)

    @property
    def question_span(self) -> slice:
        """Where the question stands in :attr:`ids`."""
        return slice(len(self.prefix), len(self.prefix) + len(self.question))


@dataclass(frozen=True, slots=True)
class ContextPolicy:
    """What is put before a chain; part of a run's identity.

    ``think`` opens a thought where the chat template does not. ``control_tokens``: what to do with the name of a control token
    (``<|im_end|>``) in a question or a chain: take it for the ``token``, read it as ``text``, or ``refuse`` the chain.
    """

    bos: Bos = "auto"
    template: Template = "plain"
    think: bool = False
    control_tokens: ControlTokens = "token"

    @staticmethod
    def of(run: Run) -> ContextPolicy:
        """The policy of a run."""
        return ContextPolicy(run.bos, run.template, run.think, run.control_tokens)


@dataclass(frozen=True, slots=True)
class Row:
    """A chain in its context, as a model reads it: T tokens, of which the last n are the chain's.

    ``tokens`` are the chain's own (whole), ``length`` how many tokens of the sequence are taken, ``labelled_from`` the first
    position of the sequence that carries a label. The first token of a sequence never does: nothing predicts it.
    """

    chain: str
    context: Context
    tokens: Encoded
    step_tokens: Ints  # (S, 2) of the chain
    roles: tuple[str, ...]  # (S,)
    length: int
    labelled_from: int

    @property
    def ids(self) -> Longs:
        """Token ids of the sequence, (T,)."""
        whole = np.concatenate((np.asarray(self.context.ids, np.int64), self.tokens.ids.astype(np.int64)))
        return whole[: self.length]

    @property
    def labels(self) -> Longs:
        """The ids where they carry a label, else -100; not shifted. (T,)"""
        labels = self.ids
        labels[: self.labelled_from] = IGNORED
        return labels

    @property
    def spans(self) -> list[tuple[int, int, int]]:
        """Step, start and end of every step that has a token in the sequence; positions of the sequence."""
        offset = len(self.context)
        found = []
        for step, (start, end) in enumerate((self.step_tokens + offset).tolist()):
            if start < min(end, self.length):
                found.append((step, start, min(end, self.length)))
        return found

    def record(self) -> dict[str, Any]:
        """Plain lists under the names that :mod:`trails.train.data` uses; every labelled token has weight 1."""
        labels = self.labels.tolist()
        return {
            "input_ids": self.ids.tolist(),
            "labels": labels,
            "loss_weights": [float(label != IGNORED) for label in labels],
            "step_spans": [
                {"step": step, "start": start, "end": end, "role": self.roles[step]} for step, start, end in self.spans
            ],
            "offset": len(self.context),
            "chain": self.chain,
            "layers": [],
        }


class Contexts:
    """Builds the contexts and rows of one policy. ``name`` is the model's, for messages.

    Raises ModelError for a policy that the tokenizer cannot follow.
    """

    def __init__(self, text: TextTokenizer, policy: ContextPolicy, name: str) -> None:
        self.text, self.policy, self.name = text, policy, name
        self._tokenizer = text.tokenizer
        bos = self._tokenizer.bos_token_id
        self._single: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        if policy.template == "chat":
            if not getattr(self._tokenizer, "chat_template", None):
                raise ModelError(
                    f"--template chat was asked for, but the tokenizer of {name} has no chat template. "
                    "Use --template plain."
                )
            self._single = self._around([{"role": "user", "content": _MARK}])
            return
        if policy.think:
            raise ModelError("--think opens a thought inside a chat template. Give --template chat with it.")
        if policy.bos == "always" and bos is None:
            raise ModelError(
                f"--bos always was asked for, but the tokenizer of {name} has no beginning-of-sequence token. "
                "Use --bos auto or --bos never."
            )
        first = policy.bos == "always" or (
            policy.bos == "auto" and bos is not None and self._tokenizer("a")["input_ids"][:1] == [bos]
        )
        self._plain = (bos,) if first else ()

    @property
    def prefix(self) -> tuple[int, ...]:
        """Ids before a question that has no conversation around it."""
        return self._plain if self._single is None else self._single[0]

    @property
    def infix(self) -> tuple[int, ...]:
        """Ids between such a question and the chain."""
        return () if self._single is None else self._single[1]

    def of(self, chain: Chain) -> Context:
        """The context of a chain. Raises ModelError for text that the policy refuses or no tokenizer can encode."""
        if chain.question:
            check_unicode(chain.question, f"the question of chain {chain.id}")
        if self._single is None:
            question = f"{chain.question}\n" if chain.question else ""
            return Context(self._plain, self._ids(question, chain), ())
        if not chain.messages:
            # the question stands inside a turn, in plain text on a line of its own
            return Context(self._single[0], self._ids(chain.question, chain), self._single[1])
        return Context(*self._conversation(chain))

    def row(self, item: Segmented, *, labelled_from: int = 0, max_tokens: int = 0, max_question: int = 0) -> Row:
        """The chain in its context, labelled from the step ``labelled_from`` on, cut to ``max_tokens`` in all (0 = whole).

        ``max_question`` keeps the first so many tokens of the question (0 = all); what stands around it stays.
        Raises ModelError for a chain without a token, or text that cannot be encoded.
        """
        chain = item.chain
        context = self.of(chain)
        if max_question:
            context = replace(context, question=context.question[:max_question])
        tokens = self.text.encode(chain.text, f"chain {chain.id}", control_tokens=self.policy.control_tokens)
        if not len(tokens):
            raise UnmeasurableError(f"chain {chain.id} has no tokens. Leave it out of the source.")
        spans = assign_tokens([(s.start, s.end) for s in item.steps], np.stack((tokens.start, tokens.end), 1))
        whole = len(context) + len(tokens)
        length = min(whole, max_tokens) if max_tokens else whole
        first = len(context) + (int(spans[labelled_from, 0]) if labelled_from else 0)
        return Row(
            chain.id,
            context,
            tokens,
            spans,
            tuple(step.role.value for step in item.steps),
            length,
            min(max(first, 1), length),
        )

    def _ids(self, text: str, chain: Chain) -> tuple[int, ...]:
        """Ids of text that the source gave, under the policy for control tokens."""
        what = f"the question of chain {chain.id}"
        return tuple(self.text.ids(text, control_tokens=self.policy.control_tokens, what=what))

    def _conversation(self, chain: Chain) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        try:
            messages = json.loads(chain.messages)
        except ValueError as error:
            raise UnmeasurableError(
                f"the conversation of chain {chain.id} is not JSON: {error}. Ingest it again."
            ) from None
        if not isinstance(messages, list) or not all(isinstance(m, Mapping) for m in messages):
            raise UnmeasurableError(f"the conversation of chain {chain.id} is not a list of messages. Ingest it again.")
        turns = [i for i, m in enumerate(messages) if m.get("role") == "user" and isinstance(m.get("content"), str)]
        if not turns:
            before, _ = self._around(messages)
            return before, (), ()
        last = turns[-1]
        marked = [*messages[:last], {**messages[last], "content": _MARK}, *messages[last + 1 :]]
        before, after = self._around(marked)
        check_unicode(messages[last]["content"], f"the question of chain {chain.id}")
        return before, self._ids(messages[last]["content"], chain), after

    def _around(self, messages: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids of the rendered conversation before and after the mark; without a mark all of it is before."""
        marked = any(m.get("content") == _MARK for m in messages)
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except (
            Exception,
            RecursionError,
            MemoryError,
        ) as error:  # a template is a program of a stranger: anything may come
            raise UnmeasurableError(
                f"the chat template of {self.name} cannot be used for {_shape(messages)}: {_first_line(error)} Use "
                "--template plain, or repair chat_template in the model's folder."
            ) from None
        before, found, after = text.partition(_MARK)
        if marked and not found:
            raise UnmeasurableError(
                f"the chat template of {self.name} does not show the question unchanged, so the question's "
                f"tokens cannot be identified. Use --template plain."
            )
        if self.policy.think and not _thought_open(text):
            before, after = (before, after + THINK) if found else (before + THINK, after)
        prefix = self.text.ids(before)
        bos = self._tokenizer.bos_token_id
        if self.policy.bos == "never" and prefix[:1] == [bos]:
            prefix = prefix[1:]
        if self.policy.bos == "always" and bos is not None and prefix[:1] != [bos]:
            prefix = [bos, *prefix]
        return tuple(prefix), tuple(self.text.ids(after))


def _thought_open(text: str) -> bool:
    """Whether a rendered conversation ends inside a thought."""
    tail = text.rstrip()
    return tail.endswith("<think>")


def _shape(messages: Sequence[Mapping[str, Any]]) -> str:
    roles = [str(message.get("role", "?")) for message in messages]
    return f"a conversation of {len(roles)} ({', '.join(roles[:6])}{', …' if len(roles) > 6 else ''})"


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [""])[0][:200]
    kind = type(error).__name__
    return f"{kind}: {line}." if line and not line.endswith(".") else f"{kind}: {line}" if line else f"{kind}."
