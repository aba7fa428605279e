"""What trails stores: the records that flow through it, the columns of a shard, and the graph.

Records are frozen dataclasses without engine code. Character offsets count Unicode code points of ``Chain.text``, token
positions count the chain's own tokens from 0, natural logarithms everywhere (nats). Shapes: ``n`` tokens of the chain,
``S`` steps, ``L`` layers of the model, ``V`` vocabulary size.

The declarations below are the only place where names of measures, columns, labels, relationship types and properties are
written: :data:`MEASURES` (and :data:`SHARD_SCHEMA`, which follows from it), :data:`NODES` and :data:`RELATIONSHIPS`.
Constraints, indexes, the schema page, digests and the checks come from them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trails.platform.arrays import Floats, Ints
from trails.platform.text import named

FORMAT_VERSION = 1
"""Version of the home folder's layout. A home with a larger number is refused, not guessed at."""

GRAPH_FORMAT = 2
"""Version of the graph. Every command refuses a graph of another one: an older graph is made again from the shards."""


class Role(StrEnum):
    """What a step does in its chain, read from its connective; NONE when no connective is found."""

    IF = "IF"
    THEN = "THEN"
    BUT = "BUT"
    HOWEVER = "HOWEVER"
    BECAUSE = "BECAUSE"
    THEREFORE = "THEREFORE"
    WHEN = "WHEN"
    UNLESS = "UNLESS"
    AND = "AND"
    OR = "OR"
    NEXT = "NEXT"
    PURPOSE = "PURPOSE"
    EXAMPLE = "EXAMPLE"
    RESTATE = "RESTATE"
    QUESTION = "QUESTION"
    ANSWER = "ANSWER"
    NONE = "NONE"


def stable_hash(*parts: str, length: int = 16) -> str:
    """First ``length`` hex digits of SHA-256 over the parts, each preceded by its length so that no two lists collide."""
    return stable_hash_of(parts, length)


def stable_hash_of(parts: Iterable[str], length: int = 16) -> str:
    """:func:`stable_hash` of parts that are made one by one and need not be held."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:length]


@dataclass(frozen=True, slots=True)
class HomeIdentity:
    """A home folder among others that share a graph: ``h`` + 16 hex digits, drawn once, and a name for people."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Chain:
    """One reasoning chain as a reader found it; question, chain and answer kept apart.

    ``text`` is the chain alone: no question, no final answer line. ``boundaries`` are character offsets in ``text``
    where the source itself starts a step (a list item, a line); empty when the source does not say. ``metadata`` holds
    what the reader took out of the text or found beside it (strings; JSON where structured). ``source`` names the data
    set (by default the file's name, never a path), ``source_id`` the record in it.
    """

    source: str
    source_id: str
    question: str
    text: str
    answer: str = ""
    language: str = ""
    boundaries: tuple[int, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    source_sha256: str = ""
    licence: str = ""
    messages: str = ""
    family: str = ""
    line: int = field(default=0, compare=False)
    """Line or number of the record in its file, from 1; 0 where none is known. Where it was found, not what it is: the same
    records in another order are the same chains.
    """

    @property
    def id(self) -> str:
        """``c`` + 16 hex digits over source, source id, question and text: the same record always gives the same id."""
        return "c" + stable_hash(self.source, self.source_id, self.question, self.text)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a chain. The spans of a chain's steps partition its text: no hole, no overlap, in order.

    ``connective`` is the cue as written (empty if none), ``sense`` its PDTB-3 sense (``Contingency.Cause.Result``) or
    empty, ``explicit`` whether the role comes from a connective in the text (False: a rule of the
    segmenter gave it, or there is none).

    ``scene`` (from 0; -1 unknown) and ``source_line`` (from 1; 0 unknown) say what the step is a part of: see
    :mod:`trails.segment.scenes`. ``implicit_role`` with its probability ``implicit_p`` is what a classifier thinks of a step
    whose role is NONE (empty: it was not asked, or has nothing to say); it is never mixed into ``role``. Where a person
    corrected the role, ``automatic_role`` is what the segmenter found, and who corrected it when.
    """

    index: int
    start: int
    end: int
    role: Role = Role.NONE
    connective: str = ""
    sense: str = ""
    explicit: bool = False
    scene: int = -1
    source_line: int = 0
    implicit_role: str = ""
    implicit_p: float = 0.0
    automatic_role: str = ""
    corrected_by: str = ""
    corrected_at: str = ""

    @property
    def as_corrected(self) -> Step:
        """The step without what the segmenter says of its own role, where a person gave another one: no connective, no sense,
        not explicit, no implicit role. Any other step is itself.
        """
        if self.automatic_role in ("", self.role.value):
            return self
        return replace(self, connective="", sense="", explicit=False, implicit_role="", implicit_p=0.0)

    def role_with_implicit(self, least: float | None = None) -> Role:
        """The role, or the implicit one where the role is NONE and its probability is at least ``least``
        (:data:`IMPLICIT_LEAST` by default).
        """
        enough = IMPLICIT_LEAST if least is None else least
        if self.role is Role.NONE and self.implicit_role and self.implicit_p >= enough:
            return Role(self.implicit_role)
        return self.role


IMPLICIT_LEAST = 0.6
"""Probability from which an implicit role counts where somebody asks for implicit roles."""


@dataclass(frozen=True, slots=True)
class Run:
    """One measuring instrument. Every measured number belongs to a run.

    The identity (:attr:`id`) covers what changes a number: model, weights, adapter, tokenizer, dtype, attention
    implementation, the context policy, and what was changed inside the model (``intervention``: JSON, empty if nothing). The
    rest describes.
    """

    model: str
    revision: str
    tokenizer: str
    dtype: str = "float32"
    attention: str = "sdpa"
    adapter: str = ""
    bos: Literal["auto", "always", "never"] = "auto"
    template: Literal["plain", "chat"] = "plain"
    window: Literal["refuse", "stride"] = "refuse"
    think: bool = False
    control_tokens: Literal["token", "text", "refuse"] = "token"
    intervention: str = ""
    n_layers: int = 0
    n_heads: int = 0
    d_model: int = 0
    vocab_size: int = 0
    max_tokens: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Measured facts about the instrument that are not its identity: noise floor, device, library versions."""

    @property
    def id(self) -> str:
        """``r`` + 16 hex digits over everything that changes a number.

        A policy that was added later counts only where it changes the number of a chain, so that earlier runs keep their ids.
        """
        identity = (self.model, self.revision, self.tokenizer, self.dtype, self.attention, self.adapter)
        later = (
            *(("think",) if self.think else ()),
            *(("control tokens as text",) if self.control_tokens == "text" else ()),
            *(("intervention", self.intervention) if self.intervention else ()),
        )
        return "r" + stable_hash(*identity, self.bos, self.template, self.window, *later)

    @property
    def name(self) -> str:
        """The name that somebody gave the run; empty if none."""
        return str(self.notes.get("name", ""))

    @property
    def tokenizer_id(self) -> str:
        """First 8 hex digits of the tokenizer's hash: the part of a token id that names the tokenizer."""
        return self.tokenizer[:8]


def checked_run(run: Run) -> Run:
    """The run, as a file of a stranger may hold it. Raises ValueError naming a field whose value is of another type, is not one
    of those declared, or is a number below 0 or beyond 64 bits.
    """
    for name, kind in get_type_hints(Run).items():
        value = getattr(run, name)
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        if choices:
            fits = isinstance(value, str) and value in choices
        elif kind is int:
            fits = type(value) is int and 0 <= value < 2**63
        else:
            fits = isinstance(value, kind if isinstance(kind, type) else Mapping)
        if not fits:
            wanted = (
                f"one of {', '.join(choices)}" if choices else "a whole number" if kind is int else "of another type"
            )
            raise ValueError(f"{name} is {str(value)[:40]!r} and must be {wanted}")
    return run


def fitting_runs(runs: Mapping[str, Run], name: str | None = None) -> list[Run]:
    """Runs whose id begins with ``name``, or the one that has this name.

    Without a name (None) a run with an adapter or an intervention gives way: it is a change of another run, so
    the only run without either is the default. Raises UsageError for an empty name.
    """
    if name is not None:
        name = named("run", name)
        of_name = [run for run in runs.values() if run.name == name]
        return of_name or [run for run_id, run in runs.items() if run_id.startswith(name)]
    plain = [run for run in runs.values() if not run.adapter and not run.intervention]
    return plain if len(plain) == 1 else list(runs.values())


@dataclass(frozen=True, slots=True)
class Trace:
    """One chain measured by one run: the unit that shards hold and graphs are loaded from.

    A transition ``t`` leads from token ``t-1`` to token ``t``; transition 0 leads from the context (question, template,
    BOS) into the chain. NaN means undefined (no context before the first token, no previous token), never zero.

    Attention masses are head means. ``step_attention`` holds, for each query step ``s`` in order, the bins
    ``[first token of the sequence (sink), rest of the context (question), step 0, …, step s]`` (``s + 3`` bins, summing
    to 1 in every layer), so its first axis has ``S * (S + 5) / 2`` rows. A chain of more than 1,024 steps keeps only the
    nearest 64 steps of each, its own among them: then ``step_keys`` names the bin of every row (:data:`SINK`,
    :data:`QUESTION`, or a step, in this order), and the mass on the others is what is missing to 1. :meth:`step_masses`
    unpacks one query step either way. A step without a token of its own has NaN there.
    """

    chain: Chain
    steps: tuple[Step, ...]
    run: str
    tokenizer: str
    n_layers: int
    token_ids: Ints  # (n,)
    token_start: Ints  # (n,) characters; starts and ends partition the text (a token that ends inside a character is
    token_end: Ints  # (n,) empty, the token that completes the character owns it)
    pieces: tuple[str, ...]  # (n,) the token as shown: its text, or <0xD0> for a part of a character
    step_tokens: Ints  # (S, 2) token span of each step; a token belongs to the step of its last character
    question_token_ids: Ints  # (q,) the question's tokens: context, measured but not part of the trail
    question_surprisal: Floats  # (q,) nats
    n_context: int  # all tokens before the chain: BOS, template, question
    surprisal: Floats  # (n,) nats
    entropy: Floats  # (n,) nats, of the distribution that predicts token t
    rank: Ints  # (n,) vocabulary items more likely than token t; 0 = most likely; -1 = undefined
    logit_shift: Floats  # (n,) total variation between the predictive distributions after t-1 and after t
    attention_shift: Floats  # (n, L) total variation between the binned attention of t-1 and of t
    attention_previous: Floats  # (n, L) mass from t on t-1
    attention_sink: Floats  # (n, L) mass from t on the first token of the sequence
    attention_entropy: Floats  # (n, L) nats, mean over heads of the entropy of the attention row of t
    hidden_shift: Floats  # (n, L+1) 1 - cosine between the hidden states of t-1 and t; 0 = input embeddings
    hidden_baseline: Floats  # (L+1,) mean 1 - cosine of random pairs of positions in this chain (anisotropy baseline)
    step_attention: Floats  # (B, L); B = S*(S+5)/2, or the length of step_keys
    step_keys: Ints | None = None  # (B,) what each row of step_attention stands for; None: every earlier step is there
    # the context of a chain after a conversation; None: what the run puts around every question (its notes have it)
    prefix_token_ids: Ints | None = None  # (p,)
    infix_token_ids: Ints | None = None  # (i,)
    # on request; None when not measured
    token_attends_step: Ints | None = None  # (n,) earlier step with the largest mass, -1 in step 0
    token_attends_mass: Floats | None = None  # (n,) that mass, mean over layers
    token_attends_layer: Ints | None = None  # (n,) layer in which the mass on that step is largest
    peak_token: Ints | None = (
        None  # (n, k) chain positions of the k strongest earlier tokens beyond self, previous, sink
    )
    peak_mass: Floats | None = None  # (n, k) largest head-mean mass over layers
    peak_layer: Ints | None = None  # (n, k)
    nll_given_all: Floats | None = None  # (S,) nats per token, everything before the step as context
    nll_given_question: Floats | None = None  # (S,) nats per token, only the question as context
    nll_without_previous: Floats | None = None  # (S,) nats per token, everything but the previous step
    state_layers: tuple[int, ...] = ()  # layers kept in step_states (0 = input embeddings)
    step_states: Floats | None = None  # (S, len(state_layers), d_model) mean hidden state of the step's tokens
    # by default; None when not measured
    top_id: Ints | None = (
        None  # (n, k) the k most likely vocabulary items at the token's place, most likely first; -1 = none
    )
    top_log_probability: Floats | None = None  # (n, k) nats, never above 0
    margin: Floats | None = None  # (n,) nats, log-probability of the most likely item minus that of the second
    top_pieces: tuple[str, ...] = ()  # text of every item of top_id, by ascending id
    more: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Measures of :data:`MEASURES` that have no field of their own, by name."""

    def array(self, name: str) -> npt.NDArray[Any] | None:
        """A measure by its name in :data:`MEASURES`; None when it was not taken. Raises KeyError for an unknown name."""
        if name in _TRACE_FIELDS:
            found: npt.NDArray[Any] | None = getattr(self, name)
            return found
        return self.more.get(MEASURE[name].name)

    def top_texts(self) -> dict[int, str]:
        """Vocabulary item → its text, for every item of ``top_id``; empty when that was not measured."""
        if self.top_id is None:
            return {}
        return dict(zip(np.unique(self.top_id[self.top_id >= 0]).tolist(), self.top_pieces, strict=True))

    @property
    def n_tokens(self) -> int:
        """Number of tokens of the chain, context not counted."""
        return len(self.token_ids)

    def token_id(self, position: int) -> str:
        """Identity of the token at ``position``: chain + tokenizer + position."""
        return token_key(self.chain.id, self.tokenizer[:8], position)

    def step_masses(self, step: int) -> Floats:
        """Attention bins of one query step, shape ``(step + 3, L)``: sink, question, step 0 … step ``step``; NaN for an
        earlier step that was not kept.
        """
        if self.step_keys is None:
            start = step * (step + 5) // 2
            return self.step_attention[start : start + step + 3]
        first, last = (int(at) for at in bin_starts(self.step_keys)[step : step + 2])
        masses = np.full((step + 3, self.step_attention.shape[1]), np.nan, np.float32)
        masses[self.step_keys[first:last] + 2] = self.step_attention[first:last]
        return masses


SINK, QUESTION = -2, -1
"""Keys of the first two attention bins of every step: the first token of the sequence, the rest of the context."""


def bin_starts(step_keys: Ints) -> npt.NDArray[np.int64]:
    """Row at which the bins of every query step begin, and the number of rows: ``S + 1`` numbers."""
    return np.append(np.flatnonzero(step_keys == SINK), len(step_keys))


def token_key(chain: str, tokenizer: str, position: int) -> str:
    """Identity of a token occurrence."""
    return f"{chain}:{tokenizer}:{position}"


_FAMILY_ID = re.compile(r"f[0-9a-f]{16}")


def family_key(family: str) -> str:
    """Identity of a family: what readers made from a question as it is, a name as the hash of it; empty for none."""
    if not family or _FAMILY_ID.fullmatch(family):
        return family
    return "f" + stable_hash("family", family)


def step_key(chain: str, index: int) -> str:
    """Identity of a step."""
    return f"{chain}:{index}"


# --------------------------------------------------------------------------------------------------------------------
# Measures: everything that a trace holds as an array
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measure:
    """One array of a trace. Its column in the shards, its properties in the graph, what can be shown of it and its line in
    the documentation follow from here.

    ``shape`` names the axes, joined by spaces: ``n`` tokens, ``q`` tokens of the question, ``S`` steps, ``L`` layers,
    ``L+1`` layers and the input embeddings before them, ``s`` kept layers, ``B`` attention bins of all steps, a number, or
    another letter for a width that follows from the row itself. ``graph`` says how a measure over tokens reaches the
    transitions: ``scalar`` as it is, ``mean`` as its mean over layers, ``thirds`` also as the means of the early, middle and
    late layers and the layer of the largest value; ``none`` is not there, or is there by a rule of its own. ``by_layer`` also
    puts the array on the transition where ``--per-layer`` asks for it. ``optional`` measures may be missing (null) in a row,
    and their column may be missing in a shard that an earlier version wrote: a new measure is optional. ``request`` names the
    option of :class:`trails.measure.MeasureOptions` that asks for it; without one it is taken of every chain where it exists.
    ``of`` names the function of a trace (``module:function``) that gives a measure which follows from the others; it is empty
    for what a scorer takes itself.
    """

    name: str
    dtype: Literal["float32", "int32"]
    shape: str
    unit: str
    meaning: str
    graph: Literal["scalar", "mean", "thirds", "none"] = "none"
    by_layer: bool = False
    optional: bool = False
    request: Literal["", "token_attention", "peaks", "premises", "states", "n_top", "gradients"] = ""
    of: str = ""

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes."""
        return tuple(self.shape.split())

    @property
    def first_layer(self) -> int:
        """Column of the first layer of the model: the input embeddings before it are no layer."""
        return int(self.axes[-1] == "L+1")

    @property
    def shown(self) -> bool:
        """Whether it can be shown token by token: those that reach the transitions of the graph."""
        return self.graph != "none"


TOKENISATION: tuple[Measure, ...] = (
    Measure("token_ids", "int32", "n", "", "tokens of the chain"),
    Measure("token_start", "int32", "n", "characters", "first character of each token"),
    Measure("token_end", "int32", "n", "characters", "one past the last; starts and ends partition the text"),
    Measure("step_tokens", "int32", "S 2", "tokens", "token span of each step"),
    Measure("question_token_ids", "int32", "q", "", "tokens of the question"),
    Measure(
        "prefix_token_ids",
        "int32",
        "p",
        "",
        "tokens before the question, where a conversation stands before the chain; null: those of the run",
        optional=True,
    ),
    Measure(
        "infix_token_ids",
        "int32",
        "i",
        "",
        "tokens between question and chain there; null: those of the run",
        optional=True,
    ),
)
"""What the tokenizer made of the text."""

MEASURES: tuple[Measure, ...] = (
    Measure("question_surprisal", "float32", "q", "nats", "-ln p of each token of the question"),
    Measure("surprisal", "float32", "n", "nats", "-ln p(token | context)", "scalar"),
    Measure("entropy", "float32", "n", "nats", "entropy of the distribution that predicts the token", "scalar"),
    Measure(
        "rank",
        "int32",
        "n",
        "",
        "vocabulary items more likely than the token; 0 = most likely, -1 = undefined",
        "scalar",
    ),
    Measure(
        "logit_shift",
        "float32",
        "n",
        "0..1",
        "total variation between the predictive distributions before and after the token",
        "scalar",
    ),
    Measure(
        "attention_shift",
        "float32",
        "n L",
        "0..1",
        "total variation between the binned attention of the two tokens",
        "thirds",
        by_layer=True,
    ),
    Measure("attention_previous", "float32", "n L", "0..1", "attention mass on the previous token", "mean"),
    Measure("attention_sink", "float32", "n L", "0..1", "attention mass on the first token of the sequence", "mean"),
    Measure(
        "attention_entropy",
        "float32",
        "n L",
        "nats",
        "entropy of the attention row, mean over heads",
        "mean",
        by_layer=True,
    ),
    Measure(
        "hidden_shift",
        "float32",
        "n L+1",
        "0..2",
        "1 - cosine between the hidden states of the two tokens, input embeddings left out",
        "thirds",
        by_layer=True,
    ),
    Measure(
        "hidden_baseline", "float32", "L+1", "0..2", "1 - cosine of random pairs of positions of the chain, per layer"
    ),
    Measure(
        "step_attention",
        "float32",
        "B L",
        "0..1",
        "attention of each step: first token of the sequence, question, earlier steps, itself",
    ),
    Measure(
        "step_keys",
        "int32",
        "B",
        "",
        "what each bin of step_attention stands for (-2 first token, -1 question, else a step); null: every earlier step",
        optional=True,
    ),
    Measure(
        "token_attends_step",
        "int32",
        "n",
        "",
        "earlier step with the largest mass, -1 in step 0",
        optional=True,
        request="token_attention",
    ),
    Measure(
        "token_attends_mass",
        "float32",
        "n",
        "0..1",
        "that mass; mean over layers",
        optional=True,
        request="token_attention",
    ),
    Measure(
        "token_attends_layer",
        "int32",
        "n",
        "layer",
        "layer in which it is largest",
        optional=True,
        request="token_attention",
    ),
    Measure(
        "peak_token",
        "int32",
        "n k",
        "tokens",
        "positions of the k strongest earlier tokens",
        optional=True,
        request="peaks",
    ),
    Measure(
        "peak_mass", "float32", "n k", "0..1", "largest head-mean mass over layers", optional=True, request="peaks"
    ),
    Measure("peak_layer", "int32", "n k", "layer", "layer of that mass", optional=True, request="peaks"),
    Measure(
        "nll_given_all",
        "float32",
        "S",
        "nats per token",
        "everything before the step as context",
        optional=True,
        request="premises",
    ),
    Measure(
        "nll_given_question",
        "float32",
        "S",
        "nats per token",
        "only the question as context",
        optional=True,
        request="premises",
    ),
    Measure(
        "nll_without_previous",
        "float32",
        "S",
        "nats per token",
        "everything but the previous step",
        optional=True,
        request="premises",
    ),
    Measure(
        "step_states", "float32", "S s d", "", "mean hidden state of the step's tokens", optional=True, request="states"
    ),
    Measure(
        "top_id",
        "int32",
        "n k",
        "",
        "the k vocabulary items most likely at the token's place, most likely first; -1 = undefined",
        optional=True,
        request="n_top",
    ),
    Measure(
        "top_log_probability",
        "float32",
        "n k",
        "nats",
        "ln p of these items",
        optional=True,
        request="n_top",
    ),
    Measure(
        "margin",
        "float32",
        "n",
        "nats",
        "ln p of the most likely item minus ln p of the second",
        "scalar",
        optional=True,
        request="n_top",
    ),
    Measure(
        "gradient_effect",
        "float32",
        "n",
        "nats",
        "gradient x input of the log-likelihood of the target at the token's embedding; 0 = no token of the target sees it",
        "scalar",
        optional=True,
        request="gradients",
    ),
    Measure(
        "gradient_norm",
        "float32",
        "n",
        "nats per unit",
        "length of that gradient",
        optional=True,
        request="gradients",
    ),
    Measure(
        "gradient_target",
        "int32",
        "3",
        "tokens",
        "kind of the target (0 conclusion, 1 answer, 2 token), its first token and one past its last; -1: the chain has none",
        optional=True,
        request="gradients",
    ),
    Measure(
        "gradient_replaced",
        "int32",
        "r",
        "tokens",
        "positions of the tokens that were replaced as the control",
        optional=True,
        request="gradients",
    ),
    Measure(
        "gradient_change",
        "float32",
        "r",
        "nats",
        "change of the log-likelihood of the target when that token is replaced",
        optional=True,
        request="gradients",
    ),
)
"""Everything that is measured, in storage order. A new measure is a line here and the function that takes it."""

ARRAYS: tuple[Measure, ...] = TOKENISATION + MEASURES
MEASURE: Mapping[str, Measure] = {measure.name: measure for measure in ARRAYS}
TRANSITION_MEASURES: tuple[Measure, ...] = tuple(measure for measure in MEASURES if measure.shown)
"""Measures with one value, or one row of layers, per transition; they reach the graph and can be shown."""

_TRACE_FIELDS = frozenset(f.name for f in fields(Trace))


def with_arrays(trace: Trace, arrays: Mapping[str, npt.NDArray[Any] | None]) -> Trace:
    """The trace with these arrays in place of its own, by their names in :data:`MEASURES`; None takes one away."""
    own: dict[str, Any] = {name: values for name, values in arrays.items() if name in _TRACE_FIELDS}
    more = dict(trace.more) | {MEASURE[name].name: values for name, values in arrays.items() if name not in own}
    return replace(trace, **own, more={name: values for name, values in more.items() if values is not None})


# --------------------------------------------------------------------------------------------------------------------
# Shards: one row per trace. Matrices are stored row by row in one list; their width follows from n_layers.
# --------------------------------------------------------------------------------------------------------------------

_STEP = pa.struct(
    [
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("role", pa.string()),
        ("connective", pa.string()),
        ("sense", pa.string()),
        ("explicit", pa.bool_()),
    ]
)
_ARROW_LIST = {"float32": pa.list_(pa.float32()), "int32": pa.list_(pa.int32())}

STEP_COLUMNS: Mapping[str, tuple[str, pa.DataType]] = {
    "step_scene": ("scene", pa.int32()),
    "step_source_line": ("source_line", pa.int32()),
    "step_implicit_role": ("implicit_role", pa.string()),
    "step_implicit_p": ("implicit_p", pa.float64()),
}
"""Columns with one value a step that shards of earlier versions do not hold, and the field of the step each fills."""

CHAIN_TEXTS = ("source", "source_id", "source_sha256", "licence", "question", "text", "answer", "language")
"""Texts of a chain that every shard holds."""

ADDED_COLUMNS = ("messages", "family")
"""Texts of a chain that shards of earlier versions do not hold; null there, and read as empty."""

SHARD_SCHEMA = pa.schema(
    [
        ("chain", pa.string()),
        ("run", pa.string()),
        *((name, pa.string()) for name in CHAIN_TEXTS),
        ("boundaries", pa.list_(pa.int32())),
        ("metadata", pa.map_(pa.string(), pa.string())),
        ("steps", pa.list_(_STEP)),
        ("tokenizer", pa.string()),
        ("n_layers", pa.int32()),
        ("n_context", pa.int32()),
        ("pieces", pa.list_(pa.string())),
        ("state_layers", pa.list_(pa.int32())),
        *((measure.name, _ARROW_LIST[measure.dtype]) for measure in ARRAYS),
        *((name, pa.string()) for name in ADDED_COLUMNS),
        ("line", pa.int32()),
        *((name, pa.list_(kind)) for name, (_, kind) in STEP_COLUMNS.items()),
        ("top_pieces", pa.list_(pa.string())),
    ],
    metadata={"trails_format": str(FORMAT_VERSION)},
)

OPTIONAL_COLUMNS = frozenset(
    ("line", "top_pieces", *STEP_COLUMNS, *ADDED_COLUMNS, *(measure.name for measure in ARRAYS if measure.optional))
)
"""Columns that a shard may lack: null in every row. All others are in every shard that any version wrote."""

# --------------------------------------------------------------------------------------------------------------------
# The graph
# --------------------------------------------------------------------------------------------------------------------

PropertyType = Literal["string", "integer", "float", "boolean", "strings", "floats", "integers"]


@dataclass(frozen=True, slots=True)
class Property:
    """One property of a node or relationship: its type, what it means, its unit. ``indexed`` asks the engine for an index."""

    name: str
    type: PropertyType
    meaning: str
    unit: str = ""
    indexed: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """A label. ``id`` is always a unique string property and the merge key."""

    label: str
    meaning: str
    properties: tuple[Property, ...]

    @property
    def scoped(self) -> bool:
        """Whether these are results of an analysis, written under a scope (:data:`SCOPE`)."""
        return any(p.name == "scope" for p in self.properties)


@dataclass(frozen=True, slots=True)
class Relationship:
    """A relationship type from ``start`` to ``end``. ``key`` names the properties that, with both ends, identify it:
    measured relationships have one per run, so ``run`` is in their key.
    """

    type: str
    start: str
    end: str
    meaning: str
    properties: tuple[Property, ...] = ()
    key: tuple[str, ...] = ()
    table: str = ""
    """Name of its rows in a batch; the type unless the same type also joins two other labels."""

    @property
    def name(self) -> str:
        """Unique name of the declaration."""
        return self.table or self.type

    @property
    def scoped(self) -> bool:
        """Whether these are results of an analysis with a scope of their own (:data:`SCOPE`)."""
        return any(p.name == "scope" for p in self.properties)


def _p(name: str, type: PropertyType, meaning: str, unit: str = "", *, indexed: bool = False) -> Property:
    return Property(name, type, meaning, unit, indexed)


_ID = _p("id", "string", "deterministic identity", indexed=True)
_RUN = _p("run", "string", "id of the run that measured this")

SCOPE: tuple[Property, ...] = (
    _p(
        "scope",
        "string",
        "what wrote it: home, analysis, run and parameters; writing replaces the same only",
        indexed=True,
    ),
    _p("home", "string", "id of the home that it was found in"),
    _p("parameters", "string", "options of the analysis, JSON"),
    _p("author", "string", "who wrote it: author of the configuration"),
    _p("date", "string", "when it was written, ISO 8601, UTC"),
)
"""Properties of every result of an analysis. The ``id`` of such a node is its ``key`` with the scope's id behind it."""
_KEY = _p("key", "string", "the find itself: the same in every home and run")


def _thirds(name: str, meaning: str, unit: str) -> tuple[Property, ...]:
    """A per-layer measure as scalars: mean, means of the early, middle and late third, layer of the largest value."""
    return (
        _p(name, "float", f"{meaning}; mean over layers", unit),
        _p(f"{name}_early", "float", f"{meaning}; mean over the first third of the layers", unit),
        _p(f"{name}_middle", "float", f"{meaning}; mean over the middle third of the layers", unit),
        _p(f"{name}_late", "float", f"{meaning}; mean over the last third of the layers", unit),
        _p(f"{name}_max_layer", "integer", f"layer of the largest {name}", "layer"),
    )


def _transition(measure: Measure) -> tuple[Property, ...]:
    """The scalars by which a measure reaches the transitions."""
    if measure.graph == "thirds":
        return _thirds(measure.name, measure.meaning, measure.unit)
    over = "; mean over layers" if measure.graph == "mean" else ""
    whole = measure.dtype == "int32" and measure.graph == "scalar"
    return (_p(measure.name, "integer" if whole else "float", measure.meaning + over, measure.unit),)


TRANSITION: tuple[Property, ...] = (_RUN, *(p for measure in TRANSITION_MEASURES for p in _transition(measure)))
"""Scalars of one measured transition, in storage order."""

TRANSITION_ARRAYS: tuple[Property, ...] = tuple(
    _p(
        f"{measure.name}_by_layer",
        "floats",
        f"{measure.name} in every layer" + (", 0 = input embeddings" if measure.first_layer else ""),
        measure.unit,
    )
    for measure in TRANSITION_MEASURES
    if measure.by_layer
)
"""Arrays that ``--per-layer`` adds to a transition."""


def _beside(name: str, meaning: str, unit: str) -> tuple[Property, ...]:
    """A number of a span with those of its two controls."""
    return (
        _p(name, "float", meaning, unit),
        _p(f"{name}_control", "float", "the same of the control", unit),
        _p(f"{name}_shuffled", "float", "the same of its shuffled tokens", unit),
    )


META: tuple[Property, ...] = (
    _p("meta_correct", "boolean", "whether the record says that the answer is correct"),
    _p("meta_grade", "float", "grade, score or reward of the chain in the record"),
    _p("meta_first_wrong_step", "integer", "index of the first wrong step in the record; -1 = none"),
    _p("meta_label", "string", "label of the chain in the record"),
    _p("meta_finish_reason", "string", "why the generation ended"),
    _p("meta_gold_answer", "string", "reference answer"),
    _p("meta_weight", "float", "weight of the chain's turn in the record"),
    _p("meta_difficulty", "string", "difficulty or level of the question"),
    _p("meta_subject", "string", "subject or domain of the question"),
    _p("meta_split", "string", "part of the data set"),
    _p("meta_model", "string", "model that wrote the chain"),
)
"""Metadata of a record by name (``meta_NAME``) as properties of its chain; absent where the record does not say it, or says it
in another type. The shards hold all metadata; ``meta:NAME=VALUE`` selects by any of it.
"""

NODES: tuple[Node, ...] = (
    Node(
        "Home",
        "a home folder that chains were loaded from",
        (_ID, _p("name", "string", "name of the home: that of its folder, unless it was renamed")),
    ),
    Node(
        "Source",
        "a file or data set that chains came from",
        (_ID, _p("name", "string", "name of the data set"), _p("licence", "string", "licence of the text, if known")),
    ),
    Node(
        "Chain",
        "one reasoning chain",
        (
            _ID,
            _p("source", "string", "name of the data set", indexed=True),
            _p("source_id", "string", "record in the data set", indexed=True),
            _p("question", "string", "what the chain answers; context, not part of the trail"),
            _p("text", "string", "the chain"),
            _p("answer", "string", "final answer, kept apart from the chain"),
            _p("language", "string", "ISO 639-1 code: what the source says, else the lexicon that fits the script"),
            _p("roles", "string", "roles of its steps, joined by >"),
            _p(
                "roles_implicit",
                "string",
                "the same with implicit roles of p >= 0.6 where a step has none; absent: unknown",
            ),
            _p("n_steps", "integer", "number of steps"),
            *META,
        ),
    ),
    Node(
        "Family",
        "versions of one thing: chains with the same question, or of one family as the data says",
        (_ID, _p("name", "string", "the family as the data names it; its id where the same question made it")),
    ),
    Node(
        "Step",
        "one step of a chain",
        (
            _ID,
            _p("chain", "string", "id of its chain", indexed=True),
            _p("index", "integer", "place in the chain, from 0"),
            _p("text", "string", "text of the step"),
            _p("role", "string", "what the step does", indexed=True),
            _p("connective", "string", "the cue as written"),
            _p("sense", "string", "PDTB-3 sense of the connective"),
            _p("explicit", "boolean", "whether a connective in the text gave the role"),
            _p(
                "implicit_role",
                "string",
                "what a classifier thinks of a step whose role is NONE; never mixed into role",
            ),
            _p("implicit_p", "float", "its probability", "0..1"),
            _p("automatic_role", "string", "the segmenter's role, where a person corrected it"),
            _p("corrected_by", "string", "who corrected it"),
            _p("corrected_at", "string", "when, ISO 8601"),
            _p("scene", "integer", "scene of the chain, from 0: headings, turns, reflections, speakers"),
            _p("source_line", "integer", "the source's own step or line it came from, from 1"),
            _p("start", "integer", "first character in the chain's text", "characters"),
            _p("end", "integer", "one past the last character", "characters"),
        ),
    ),
    Node(
        "Token",
        "one token occurrence: a node per token of each chain",
        (
            _ID,
            _p("chain", "string", "id of its chain", indexed=True),
            _p("step", "integer", "index of its step"),
            _p("tokenizer", "string", "first 8 hex digits of the tokenizer's hash"),
            _p("position", "integer", "place in the chain, from 0"),
            _p("token_id", "integer", "number in the tokenizer's vocabulary"),
            _p("piece", "string", "the token as shown", indexed=True),
            _p("start", "integer", "first character in the chain's text", "characters"),
            _p("end", "integer", "one past the last character", "characters"),
        ),
    ),
    Node(
        "Run",
        "one measuring instrument",
        (
            _ID,
            _p("alias", "string", "name that somebody gave the run: trails rename run"),
            _p("model", "string", "model id or folder name"),
            _p("revision", "string", "revision or hash of the weights"),
            _p(
                "adapter",
                "string",
                "digest of the adapter (its configuration and weights), as on its card; empty if none",
            ),
            _p("tokenizer", "string", "hash of the tokenizer"),
            _p("dtype", "string", "number format of the forward pass"),
            _p("attention", "string", "attention implementation"),
            _p("bos", "string", "BOS policy"),
            _p("template", "string", "context policy: plain or chat template"),
            _p("window", "string", "what happens to chains longer than the model's window"),
            _p("intervention", "string", "what was changed inside the model, as JSON; absent if nothing"),
            _p("n_layers", "integer", "layers"),
            _p("n_heads", "integer", "attention heads per layer"),
        ),
    ),
    Node(
        "State",
        "merged node of the map: the same last k tokens in different chains",
        (
            _ID,
            _KEY,
            _p("run", "string", "id of the run whose chains were woven"),
            _p("tokenizer", "string", "first 8 hex digits of the tokenizer's hash"),
            _p("k", "integer", "tokens that identify the state"),
            _p("text", "string", "the tokens as text"),
            _p("n_occurrences", "integer", "token occurrences merged here"),
            _p("n_chains", "integer", "chains that pass here"),
            *SCOPE,
        ),
    ),
    Node(
        "Overlap",
        "a maximal repeat shared by at least two chains",
        (
            _ID,
            _KEY,
            _p("run", "string", "id of the run whose chains were compared"),
            _p("kind", "string", "exact, masked, near or skeleton", indexed=True),
            _p("text", "string", "the shared tokens, or roles for a skeleton"),
            _p("n_tokens", "integer", "length", "tokens (symbols for masked, steps for skeleton and near)"),
            _p("n_chains", "integer", "chains that share it"),
            _p("coverage", "float", "share of the corpus covered by overlaps of this kind", "0..1"),
            _p("control", "float", "the same share on the control (resample or shuffle)", "0..1"),
            _p("excess", "float", "coverage minus control", "-1..1"),
            _p("control_name", "string", "what the control is"),
            *SCOPE,
        ),
    ),
    Node(
        "Gap",
        "a seam where a step seems to be missing",
        (
            _ID,
            _KEY,
            _p("chain", "string", "id of its chain", indexed=True),
            _p("run", "string", "id of the run that measured it"),
            _p("step", "integer", "index of the step after the seam"),
            _p(
                "score",
                "float",
                "combined seam score as a rank among all seams of the run: share of the others below it, a tie half",
                "0..1",
            ),
            _p("rank", "integer", "place within the chain, 0 = most gap-like"),
            _p(
                "bridge_nats",
                "float",
                "excess surprisal of the step after the seam: estimated size of the bridge",
                "nats",
            ),
            _p("ungrounded", "float", "values of the step not found in question or earlier steps"),
            _p("value_surprisal", "float", "mean surprisal of digits and names", "nats"),
            _p("context_gain", "float", "NLL(question only) - NLL(everything)", "nats per token"),
            _p("premise_usefulness", "float", "NLL without the previous step - NLL with it", "nats per token"),
            _p("role_bigram", "float", "surprisal of the role pair", "nats"),
            _p("control_auc", "float", "removed-step AUC of the score on this corpus", "0..1"),
            _p("baseline_auc", "float", "the same AUC of the position-only baseline", "0..1"),
            _p(
                "worth", "string", "whether the ranking is beyond chance: both AUCs with their 95 % intervals, in words"
            ),
            *SCOPE,
        ),
    ),
    Node(
        "Variant",
        "a microvariant of a chain that the gate accepted",
        (
            _ID,
            _p("chain", "string", "id of the chain that it is a variant of", indexed=True),
            _p("kind", "string", "plain, highlight, summary, drop_last, json or synonym", indexed=True),
            _p("detail", "string", "the edit, in words"),
            _p("text", "string", "the chain as edited"),
            _p("parent", "string", "id of the chain or of the rung before, which it differs from by edits"),
            _p("edits", "integer", "token edit distance to the parent", "tokens"),
            _p("distance", "integer", "token edit distance to the chain", "tokens"),
        ),
    ),
    Node(
        "Disagreement",
        "a span that some members of a consilium find hard and others easy",
        (
            _ID,
            _p("chain", "string", "id of its chain", indexed=True),
            _p("start", "integer", "first character in the chain's text", "characters"),
            _p("end", "integer", "one past the last character", "characters"),
            _p("text", "string", "the span"),
            _p("measure", "string", "what was compared, per character"),
            _p("members", "strings", "ids of the runs"),
            _p("values", "floats", "what each of them gave", "nats per character"),
            _p("statistic", "float", "standard deviation of the ranks that the members give it", "0..0.5"),
            _p("chance", "float", "median of it with the spans shifted within their chain", "0..0.5"),
            _p("hardest_for", "string", "member that ranks it highest"),
            _p("easiest_for", "string", "member that ranks it lowest"),
        ),
    ),
    Node(
        "Effect",
        "an entry of the registry of effects, as it was looked for in a run",
        (
            _ID,
            _p("name", "string", "its name", indexed=True),
            _p("version", "integer", "version of the registry"),
            _p("meaning", "string", "what it is"),
            _p("definition", "string", "its conditions"),
            _RUN,
            _p("after", "string", "id of the run after a training, for an effect that compares two"),
            _p("thresholds", "floats", "the quantiles of the control that the conditions name, in their order"),
            _p("share", "float", "share of the steps that are flagged", "0..1"),
            _p("by_chance", "float", "the same share of the control", "0..1"),
            _p("n_steps", "integer", "steps that were looked at"),
            _p("value_unit", "string", "what the value of a flagged step is"),
        ),
    ),
    Node(
        "Response",
        "what a span does to unseen probes when it stands before them; _control = the mean of spans of as many tokens"
        ", of other sources where there are any, _shuffled = its own tokens in random order",
        (
            _ID,
            _p("span", "string", "id of the step or chain; t and 16 hex digits for a text, a and 16 for a training"),
            _p("kind", "string", "step, chain, text, or adapter: a training on it, with nothing before the probes"),
            _p("chain", "string", "id of its chain; absent for a text", indexed=True),
            _p("text", "string", "the span"),
            _p("n_tokens", "integer", "its length", "tokens"),
            _RUN,
            _p("probes", "string", "selection that chose the probes"),
            _p("n_probes", "integer", "probes measured"),
            _p("sentence", "string", "the row in words"),
            _p("layer", "integer", "layer where attention on the span exceeds that on the control most", "layer"),
            *_beside("attention", "head-mean mass of the probes' tokens on the span in that layer", "0..1"),
            _p(
                "attention_chosen",
                "float",
                "control of the choice of the layer: the largest excess of a control span over the others in the layer chosen "
                "for it; absent with one control",
                "0..1",
            ),
            *_beside("attention_mean", "mean over the layers of the mass on the span", "0..1"),
            _p(
                "drift_layer",
                "integer",
                "layer of the largest drift against the control, 0 = input embeddings",
                "layer",
            ),
            _p("drift", "float", "1 - cosine of the probes' states with and without it, minus the control's", "-2..2"),
            _p("drift_shuffled", "float", "the same of its shuffled tokens", "-2..2"),
            _p(
                "drift_chosen",
                "float",
                "control of the choice of the layer: the largest difference of a control span from the others in the layer "
                "chosen for it; absent with one control",
                "0..2",
            ),
            *_beside(
                "drift_mean", "mean over the layers of 1 - cosine of the probes' states with and without it", "0..2"
            ),
            _p("drift_by_layer", "floats", "drift in every layer, 0 = input embeddings", "-2..2"),
            *_beside("logit_shift", "mean total variation of the probes' predictions with and without it", "%"),
            *_beside("nll_change", "NLL of the probes with it minus without; negative = likelier", "nats per token"),
            _p("share", "float", "probes on the same side of the control", "0..1"),
            _p("share_low", "float", "lower end of its 95 % interval", "0..1"),
            _p("share_high", "float", "upper end", "0..1"),
            _p("share_shuffled", "float", "probes on the same side of the shuffled tokens", "0..1"),
            _p("share_shuffled_low", "float", "lower end of its 95 % interval", "0..1"),
            _p("share_shuffled_high", "float", "upper end", "0..1"),
            _p(
                "consistent",
                "boolean",
                "whether more probes than chance are on that side: a two-sided sign test, p below 0.05",
            ),
            _p("noise_drift", "float", "noise floor: a probe against itself", "0..2"),
            _p("noise_logit_shift", "float", "noise floor", "%"),
            _p("noise_nll", "float", "noise floor", "nats per token"),
        ),
    ),
)

RELATIONSHIPS: tuple[Relationship, ...] = (
    Relationship(
        "HOLDS",
        "Home",
        "Chain",
        "the home's shards hold the chain, measured by the run",
        (_p("run", "string", "id of the run that measured the chain"),),
        ("run",),
    ),
    Relationship("FROM", "Chain", "Source", "where the chain came from"),
    Relationship("IN_FAMILY", "Chain", "Family", "what the chain is a version of"),
    Relationship("HAS_STEP", "Chain", "Step", "structure"),
    Relationship("NEXT_STEP", "Step", "Step", "the next step of the chain, whatever measured it"),
    Relationship(
        "MEASURED",
        "Chain",
        "Run",
        "what a run measured over the whole chain",
        (
            _RUN,
            _p("n_tokens", "integer", "tokens of the chain"),
            _p("nll", "float", "-ln p(chain | context)", "nats"),
            _p(
                "mean_surprisal",
                "float",
                "nll / tokens with a prediction: the first of a chain without a context has none",
                "nats per token",
            ),
            _p("max_surprisal", "float", "largest surprisal in the chain", "nats"),
            _p("hidden_baseline", "floats", "1 - cosine of random pairs of positions, per layer", "0..2"),
            _p(
                "edges_per_step",
                "integer",
                "strongest earlier steps that each step keeps as ATTENDS_TO, for a chain of many steps; absent: all",
            ),
        ),
        ("run",),
    ),
    Relationship(
        "MEASURED_STEP",
        "Step",
        "Run",
        "what a run measured over one step",
        (
            _RUN,
            _p("n_tokens", "integer", "tokens of the step"),
            _p("nll", "float", "-ln p(step | everything before)", "nats"),
            _p(
                "mean_surprisal",
                "float",
                "nll / tokens with a prediction: the first of a chain without a context has none",
                "nats per token",
            ),
            _p("max_surprisal", "float", "largest surprisal in the step", "nats"),
            _p("mass_sink", "float", "attention on the first token; mean over layers and heads", "0..1"),
            _p("mass_question", "float", "attention on the rest of the context; mean over layers and heads", "0..1"),
            _p("mass_own", "float", "attention within the step; mean over layers and heads", "0..1"),
        ),
        ("run",),
    ),
    Relationship(
        "FIRST",
        "Step",
        "Token",
        "first token of the step, one per tokenizer",
        (_p("tokenizer", "string", "first 8 hex digits of the tokenizer's hash"),),
    ),
    Relationship(
        "BEGINS", "Chain", "Token", "the measured transition from the context into the chain", TRANSITION, ("run",)
    ),
    Relationship("NEXT", "Token", "Token", "the measured transition between consecutive tokens", TRANSITION, ("run",)),
    Relationship(
        "ATTENDS_TO",
        "Token",
        "Step",
        "on request: the earlier step that the token looks at most",
        (
            _RUN,
            _p("mean", "float", "attention mass; mean over layers and heads", "0..1"),
            _p("layer", "integer", "layer of the largest mass", "layer"),
        ),
        ("run",),
        "TOKEN_ATTENDS_TO",
    ),
    Relationship(
        "LEADS_TO",
        "Step",
        "Step",
        "consecutive steps",
        (
            _RUN,
            _p("roles", "string", "role pair, joined by >"),
            _p("nll_given_all", "float", "NLL of the later step given everything before", "nats per token"),
            _p("nll_given_question", "float", "NLL of the later step given the question only", "nats per token"),
            _p("premise_usefulness", "float", "NLL without the earlier step - NLL with it", "nats per token"),
        ),
        ("run",),
    ),
    Relationship(
        "ATTENDS_TO",
        "Step",
        "Step",
        "attention from a later step to an earlier one; none where both were never in one window of the model",
        (
            _RUN,
            _p("mean", "float", "mass; mean over layers, heads and the later step's tokens", "0..1"),
            _p("mass", "floats", "the mass in every layer", "0..1"),
        ),
        ("run",),
    ),
    Relationship(
        "DEPENDS_ON",
        "Step",
        "Step",
        "what the later step loses when its tokens may not attend to the earlier one",
        (
            _RUN,
            _p(
                "nats",
                "float",
                "change of its NLL, the first token left out; positive = it needs the step",
                "nats per token",
            ),
            _p("kl", "float", "mean divergence of its predictive distributions", "nats"),
            _p("mass", "float", "attention mass on the step; mean over the layers, heads and tokens", "0..1"),
            _p("layers", "string", "layers in which attention was suppressed; all"),
            _p(
                "random_nats", "float", "control on drawn pairs: nats for an equally long random span", "nats per token"
            ),
            _p(
                "sink_nats",
                "float",
                "control on drawn pairs: nats for as much mass of the first token",
                "nats per token",
            ),
        ),
        ("run",),
    ),
    Relationship("AT", "Token", "State", "the state of the map that the token is merged into"),
    Relationship(
        "TRAIL",
        "State",
        "State",
        "a transition of the map",
        (
            _p("count", "integer", "token transitions merged here"),
            _p("n_chains", "integer", "chains that walk it"),
            _p("mean_surprisal", "float", "mean over the merged transitions", "nats"),
        ),
    ),
    Relationship(
        "IN",
        "Overlap",
        "Chain",
        "an occurrence of the overlap",
        (
            _p("first", "integer", "first token position (step for a skeleton or a near overlap)"),
            _p("stop", "integer", "one past the last"),
        ),
        ("first",),
    ),
    Relationship(
        "SIMILAR",
        "Step",
        "Step",
        "near overlap in whitened hidden space",
        (
            _RUN,
            SCOPE[0],
            SCOPE[1],
            _p("layer", "integer", "layer of the hidden states"),
            _p("cosine", "float", "cosine after whitening", "-1..1"),
            _p("excess", "float", "cosine minus the control's quantile", "-2..2"),
        ),
        ("run", "scope"),
    ),
    Relationship("BEFORE", "Gap", "Step", "the step after the seam"),
    Relationship(
        "SEEN_IN",
        "Effect",
        "Step",
        "a step that shows the effect",
        (_RUN, _p("value", "float", "how strongly; the effect says in which unit")),
        ("run",),
    ),
    Relationship("AT", "Disagreement", "Step", "the step in which the span ends", (), (), "DISAGREEMENT_AT"),
    Relationship("OF", "Response", "Chain", "the chain that is the span"),
    Relationship("OF", "Response", "Step", "the step that is the span", (), (), "OF_STEP"),
    Relationship(
        "ON",
        "Response",
        "Chain",
        "a probe, and what the span did to it",
        (
            _p("nll_change", "float", "NLL with the span minus without", "nats per token"),
            _p("nll_change_control", "float", "the same of the control", "nats per token"),
            _p("logit_shift", "float", "mean total variation of its predictions", "%"),
        ),
    ),
    Relationship(
        "VARIANT_OF",
        "Variant",
        "Chain",
        "how far the variant drifts from the chain, at the tokens they have in common",
        (
            _RUN,
            _p("volatility", "float", "mean Jensen-Shannon divergence of the predictive distributions", "nats"),
            _p("noise_floor", "float", "the same of the chain against itself", "nats"),
            _p("logit_drift", "float", "mean total variation of the predictive distributions", "0..1"),
            *_thirds("hidden_drift", "1 - cosine between the hidden states, input embeddings left out", "0..2"),
            *_thirds(
                "attention_drift", "on request: total variation between the binned attention of the steps", "0..1"
            ),
            _p("hidden_drift_by_layer", "floats", "hidden_drift in every layer, 0 = input embeddings", "0..2"),
            _p("attention_drift_by_layer", "floats", "attention_drift in every layer", "0..1"),
        ),
        ("run",),
    ),
)


@dataclass(frozen=True, slots=True)
class Index:
    """An index of a server that is made on request: what asks for it, and at what cost for loading, is said in docs/neo4j.md.
    ``on`` is a label or a relationship type.
    """

    kind: Literal["range", "text", "fulltext"]
    on: str
    properties: tuple[str, ...]


MORE_INDEXES: tuple[Index, ...] = (
    Index("range", "Token", ("chain", "step")),
    Index("text", "Step", ("text",)),
    Index("fulltext", "Step", ("text",)),
    Index("range", "State", ("text",)),
    Index("range", "NEXT", ("run", "surprisal")),
)

NODE = {node.label: node for node in NODES}
RELATIONSHIP = {relationship.name: relationship for relationship in RELATIONSHIPS}


def properties_of(name: str, *, per_layer: bool = False) -> tuple[Property, ...]:
    """Properties of a label or relationship, with the per-layer arrays of a transition where asked for."""
    if name in NODE:
        return NODE[name].properties
    extra = TRANSITION_ARRAYS if per_layer and name in ("NEXT", "BEGINS") else ()
    return RELATIONSHIP[name].properties + extra


def canonical_json(value: Any) -> str:
    """JSON of one spelling: keys sorted, no blanks, Unicode as it is."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
