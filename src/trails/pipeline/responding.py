"""``trails respond``: spans before unseen probes, each beside length-matched spans and its own tokens shuffled."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from trails.analyses.respond import Responses, Span, responses
from trails.errors import UnmeasurableError, UsageError
from trails.export.split import GRAM, grams
from trails.export.subgraph import is_selection
from trails.measure.base import Segmented
from trails.measure.respond import Reaction, react, trained
from trails.pipeline.opened import OpenHome
from trails.pipeline.progress import Progress, Silent
from trails.platform.arrays import Ints
from trails.platform.text import agreeing, counted, part_of
from trails.schema import Trace, stable_hash, step_key
from trails.train.check import check_adapter, check_base

SEPARATOR = "\n\n"
"""What stands between a span and the probe's question."""


def respond(
    home: OpenHome,
    spans: str,
    *,
    probes: str,
    controls: int = 3,
    adapter: Path | None = None,
    adapter_control: Path | None = None,
    adapter_shuffled: Path | None = None,
    seed: int = 0,
    run: str | None = None,
    write: bool = True,
    progress: Progress | None = None,
) -> Responses:
    """Put spans before probes and measure what changes there, with the model of a run; write ``:Response``.

    ``spans`` is a selection (its steps, or its whole chains), a chain, a step (``CHAIN:STEP``), or a text. ``probes`` is a
    selection of whole chains, ``controls`` the number of length-matched spans of every span. A probe that shares a 13-gram
    of tokens with a span, or is its chain, is left out.

    With ``adapter`` nothing is put before a probe: it is what a model trained on the spans does to it, beside one trained on as
    much other text (``adapter_control``) and one trained on the same rows with their steps shuffled (``adapter_shuffled``);
    both are needed. Raises UsageError where fewer than two probes are left, and where
    nothing is there to take length-matched controls from.
    """
    progress = progress or Silent()
    known = home.run(run)
    given = (adapter, adapter_control, adapter_shuffled)
    if any(given) and not all(given):
        raise UsageError(
            "the effect of a training on probes is compared with two others: --adapter-control FOLDER, trained "
            "on as much text of "
            "another source, and --adapter-shuffled FOLDER (trails train EXPORT --shuffle-steps). Give all three."
        )
    for folder in filter(None, given):
        check_base(check_adapter(folder), known)
    if write:
        home.check_graph()
    wanted = home.chosen(probes, known.id)
    found = _spans(home, spans, known.id)
    if any(not len(ids) for _, ids in found):  # a text of its own: its tokens are those of the run's tokenizer
        words = home.language_model(known.id).model.text
        found = [(span, ids if len(ids) else words.encode(span.text, "the span").ids) for span, ids in found]
    own = {span.chain for span, _ in found}
    taken = set().union(*(grams(ids.tolist()) for _, ids in found))
    kept: list[Trace] = []
    for trace in home.shards.traces(known.id, wanted):
        context = trace.question_token_ids.tolist()
        if trace.chain.id not in own and not taken & (
            grams(context + trace.token_ids.tolist()) | grams(trace.token_ids.tolist())
        ):
            kept.append(trace)
    notes = []
    if left := len(wanted) - len(kept):
        notes.append(
            f"{left:,} of {counted(len(wanted), 'probe')} {agreeing(left, 'is', 'are')} a span's own chain or "
            f"{agreeing(left, 'shares', 'share')} {GRAM} tokens in a row with a span: left out"
        )
    if len(kept) < 2:
        raise UsageError(
            f"{len(kept):,} of {counted(len(wanted), 'probe')} of {probes!r} share no {GRAM} tokens in a "
            "row with a span and are not its "
            "chain; two are needed, and an interval of twenty says more. Choose other probes with --probes."
        )
    if adapter and adapter_control and adapter_shuffled:
        folders = (adapter, adapter_control, adapter_shuffled)
        result = _trained(home, known.id, kept, folders, spans, probes, notes, progress)
        batch = result.batch() if write else None
        if batch is not None:
            home.put(batch)
        return result
    scorer = home.language_model(known.id)
    text = scorer.model.text
    beside, said = _with_controls(home, found, known.id, {trace.chain.id for trace in kept}, controls, seed)
    notes += said
    separator = text.encode(SEPARATOR, "the separator").ids
    rng = np.random.default_rng([seed, 2])
    texts: list[Ints] = [np.zeros(0, np.int32)]  # the probe alone once more: the noise floor
    for _, ids, others in beside:
        for tokens in (ids, *others, rng.permutation(ids)):
            texts.append(np.concatenate((tokens, separator)))
    reactions: dict[str, Reaction] = {}
    # every probe goes through the model once alone, and once more with each text
    per_probe, per_token = sum(map(len, texts)), len(texts) + 1
    progress.begin("probing", len(kept), tokens=sum(per_probe + per_token * _length(trace) for trace in kept))
    too_long = []
    with scorer.model.measuring():
        for trace in kept:
            row = scorer.contexts.row(Segmented(trace.chain, trace.steps))
            try:
                reactions[trace.chain.id] = react(scorer.model, row, texts, known.max_tokens)
            except UnmeasurableError as error:
                too_long.append(f"left out: {error}")
            progress.advance(1, tokens=per_probe + per_token * _length(trace))
    if len(reactions) < 2:
        raise UsageError(
            f"{counted(len(reactions), 'probe')} could be measured, two are needed. {too_long[0] if too_long else ''}"
        )
    result = responses([span for span, _, _ in beside], reactions, known.id, probes=probes, notes=(*notes, *too_long))
    batch = result.batch() if write else None
    if batch is not None:
        home.put(batch)
    return result


def _length(trace: Trace) -> int:
    """Tokens of a chain with what stands before it."""
    return trace.n_context + trace.n_tokens


def _trained(
    home: OpenHome,
    run: str,
    kept: Sequence[Trace],
    folders: tuple[Path, Path, Path],
    spans: str,
    probes: str,
    notes: Sequence[str],
    progress: Progress,
) -> Responses:
    """The map of one training: memory holds the model four times."""
    scorer = home.language_model(run)
    after = [home.trained_model(folder, run) for folder in folders]
    reactions: dict[str, Reaction] = {}
    too_long = []
    progress.begin("probing", len(kept), tokens=sum(5 * _length(trace) for trace in kept))
    with ExitStack() as measuring:
        for model in (scorer.model, *(one.model for one in after)):
            measuring.enter_context(model.measuring())
        for trace in kept:
            row = scorer.contexts.row(Segmented(trace.chain, trace.steps))
            try:
                models = [scorer.model, *(one.model for one in after)]
                reactions[trace.chain.id] = trained(scorer.model, row, models, scorer.run.max_tokens)
            except UnmeasurableError as error:
                too_long.append(f"left out: {error}")
            progress.advance(1, tokens=5 * _length(trace))
    if len(reactions) < 2:
        raise UsageError(
            f"{counted(len(reactions), 'probe')} could be measured, two are needed. {too_long[0] if too_long else ''}"
        )
    name = after[0].run.adapter
    span = Span("a" + stable_hash(name), "adapter", "", f"a training on {spans}", 0, ())
    said = (
        f"the adapter {folders[0].name} against {folders[1].name} (other text) and {folders[2].name} (shuffled steps)",
    )
    return responses([span], reactions, run, probes=probes, notes=(*notes, *said, *too_long))


def _spans(home: OpenHome, spans: str, run: str) -> list[tuple[Span, Ints]]:
    """Spans with their tokens; a text that is neither a selection nor a name has none yet."""
    pieces: dict[str, tuple[int, ...]] = {}
    if is_selection(spans):
        selection = home.select(spans)
        pieces = {chain: part.steps if (part := selection.part(chain)) else () for chain in home.chosen(spans, run)}
    else:
        try:
            name = home.names.place(spans)
        except UsageError:
            if not any(character.isspace() for character in spans.strip()):
                raise  # one word that names nothing is a slip, not a text
            own = spans.strip()
            return [(Span("t" + stable_hash(own), "text", "", own, 0, ()), np.zeros(0, np.int32))]
        chain, _, place = name.partition(":")
        pieces = {chain: (int(place),) if place else ()}
    found = []
    for trace in home.shards.traces(run, sorted(pieces)):
        chain = trace.chain.id
        for step in pieces[chain]:
            if step >= len(trace.steps):
                raise UsageError(
                    f"step {step} of chain {chain} was asked for, it has steps 0 to {len(trace.steps) - 1}."
                )
            first, stop = trace.step_tokens[step]
            own = trace.chain.text[trace.steps[step].start : trace.steps[step].end]
            if stop > first:
                ids = trace.token_ids[first:stop]
                found.append((Span(step_key(chain, step), "step", chain, own, len(ids), ()), ids))
        if not pieces[chain]:
            found.append((Span(chain, "chain", chain, trace.chain.text, trace.n_tokens, ()), trace.token_ids))
    found.sort(key=lambda pair: (pair[0].chain, pair[0].id))
    if not found:
        raise UsageError(f"{spans!r} names no span that run {run} measured. Run: trails status")
    return found


def _with_controls(
    home: OpenHome, found: list[tuple[Span, Ints]], run: str, probes: set[str], count: int, seed: int
) -> tuple[list[tuple[Span, Ints, list[Ints]]], list[str]]:
    """Every span with ``count`` spans of as many tokens of chains of other sources, drawn at random; and where they come
    from. A text of its own has no source: any source is another one.
    """
    pool: dict[str, list[tuple[str, Ints]]] = {}
    source_of: dict[str, str] = {}
    for table in home.shards.tables(["chain", "source", "token_ids"], run, rows=1_000):
        columns = [table[name].to_pylist() for name in ("chain", "source", "token_ids")]
        for chain, source, tokens in zip(*columns, strict=True):
            source_of[chain] = source
            if chain not in probes:
                pool.setdefault(source, []).append((chain, np.asarray(tokens, np.int32)))
    own = {span.chain for span, _ in found}
    rng = np.random.default_rng([seed, 3])
    result: list[tuple[Span, Ints, list[Ints]]] = []
    same = 0
    for span, ids in found:
        mine = source_of.get(span.chain, "")
        other = [entry for source, entries in sorted(pool.items()) if source != mine for entry in entries]
        able = [entry for entry in other if len(entry[1]) >= len(ids) and entry[0] not in own]
        if not able:
            same += 1
            able = [e for entries in pool.values() for e in entries if len(e[1]) >= len(ids) and e[0] not in own]
        if not able:
            raise UsageError(
                f"no chain outside the spans and probes has {counted(len(ids), 'token')}, so span {span.id} "
                "has no length-matched "
                "control. Choose shorter spans or fewer probes."
            )
        able.sort(key=lambda entry: entry[0])
        picks = [able[int(i)] for i in rng.choice(len(able), count, replace=len(able) < count)]
        begins = [int(rng.integers(len(tokens) - len(ids) + 1)) for _, tokens in picks]
        others = [tokens[begin : begin + len(ids)] for (_, tokens), begin in zip(picks, begins, strict=True)]
        described = Span(span.id, span.kind, span.chain, span.text, len(ids), tuple(chain for chain, _ in picks))
        result.append((described, ids, others))
    if any(span.chain for span, _ in found):
        where = "length-matched spans come from other sources"
    else:
        where = "the span has no source: its length-matched spans come from any source of the home"
    if same:
        where += (
            f"; of {same} of {len(found)} from other chains of the same source, because no other has as many tokens"
        )
    of_probes = {source_of[chain] for chain in probes}
    drawn = [source_of[chain] in of_probes for span, _, _ in result for chain in span.control_chains]
    if any(drawn):
        alike = part_of(sum(drawn), len(drawn), "length-matched span", "is", "are")
        return result, [where, f"{alike} from a source of the probes"]
    return result, [where]
