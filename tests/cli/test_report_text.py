"""What `trails show` says of attention, on a trace whose answer is worked out by hand."""

from __future__ import annotations

import io
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console  # a place to print to

from trails.cli.variants import drift_picture
from trails.errors import UsageError
from trails.pipeline import IngestSummary, summary_lines
from trails.report.terminal import render_chain, step_links, token_values, trace_record
from trails.schema import Chain, Role, Run, Step, Trace


def hand_made() -> Trace:
    """Two steps of two tokens after a context of two; one layer. Step 1 puts 0.4 on the sink, 0.1 on the rest of the
    context, 0.3 on step 0 and 0.2 on itself.
    """
    n = 4
    nothing = np.full((n, 1), np.nan, np.float32)
    row = np.asarray
    return Trace(
        chain=Chain("s", "1", "q", "ab cd"),
        steps=(Step(0, 0, 3), Step(1, 3, 5)),
        run="r",
        tokenizer="t" * 16,
        n_layers=1,
        token_ids=np.arange(n, dtype=np.int32),
        token_start=row([0, 1, 3, 4], np.int32),
        token_end=row([1, 3, 4, 5], np.int32),
        pieces=("a", "b ", "c", "d"),
        step_tokens=row([[0, 2], [2, 4]], np.int32),
        question_token_ids=row([7, 8], np.int32),
        question_surprisal=row([np.nan, 1.0], np.float32),
        n_context=2,
        surprisal=row([1, 2, 3, 4], np.float32),
        entropy=row([1, 1, 1, 1], np.float32),
        rank=row([-1, 0, 5, 9], np.int32),
        logit_shift=row([0, 0, 0, 0], np.float32),
        attention_shift=nothing,
        attention_previous=nothing,
        attention_sink=nothing,
        attention_entropy=nothing,
        hidden_shift=np.full((n, 2), 0.5, np.float32),
        hidden_baseline=row([0.4, 0.4], np.float32),
        step_attention=row([[0.5], [0.2], [0.3], [0.4], [0.1], [0.3], [0.2]], np.float32),
    )


def test_attention_is_held_against_what_the_first_token_leaves() -> None:
    (link,) = step_links(hand_made())
    assert (link.later, link.earlier, link.layer) == (1, 0, 1)
    assert link.mass == pytest.approx(0.3)
    # rows see 4 and 5 tokens beside the sink; step 0 has 2 of them; 0.6 of the mass is left
    assert link.even == pytest.approx(0.6 * 2 * (1 / 4 + 1 / 5) / 2)


def test_undefined_rank_is_not_a_number_and_wrong_measures_are_refused() -> None:
    trace = hand_made()
    assert np.isnan(token_values(trace, "rank")[0])
    with pytest.raises(
        UsageError,
        match=r"This run has layers 0 to 1 \(0 = input embeddings\)\.$",
    ):
        token_values(trace, "hidden_shift", 2)
    with pytest.raises(
        UsageError, match=r"^surprisal has no layers. Leave out --layer, or show one of: attention_shift"
    ):
        token_values(trace, "surprisal", 0)
    with pytest.raises(UsageError, match=r"^measure 'loss' does not exist. Measures: surprisal, entropy"):
        token_values(trace, "loss")


def test_layers_of_attention_count_from_one() -> None:
    trace = hand_made()
    trace = replace(trace, n_layers=3, attention_sink=np.tile(np.float32([0.1, 0.2, 0.3]), (trace.n_tokens, 1)))
    assert [float(token_values(trace, "attention_sink", layer)[0]) for layer in (1, 2, 3)] == pytest.approx(
        [0.1, 0.2, 0.3]
    )
    for wrong in (0, 4, -1):
        with pytest.raises(
            UsageError, match=f"^layer {wrong} of attention_sink does not exist. This run has layers 1 to 3.$"
        ):
            token_values(trace, "attention_sink", wrong)
    without = replace(trace, n_layers=0, attention_sink=np.zeros((trace.n_tokens, 0), np.float32))
    with pytest.raises(UsageError, match="This run has no layers. Leave out --layer.$"):
        token_values(without, "attention_sink", 1)
    run = Run("m", "rev", "t" * 16, n_layers=1, vocab_size=10)
    assert trace_record(hand_made(), run)["attention"][0]["strongest_layer"] == 1
    said = trace_record(without, run, measure="attention_sink")["control"]
    assert said == "attention_sink: not measured by this run (its model has no layers)"
    blind = replace(hand_made(), hidden_baseline=np.full(2, np.nan, np.float32))
    assert (
        "(random pairs of positions of this chain: not measured)"
        in trace_record(blind, run, measure="hidden_shift")["control"]
    )


def test_what_gave_a_role_without_a_connective_is_named() -> None:
    trace = hand_made()
    run = Run("m", "rev", "t" * 16, n_layers=1, vocab_size=10)
    console = Console(width=120, file=io.StringIO())
    for first, second in ((Role.NONE, Role.THEN), (Role.THEN, Role.QUESTION)):
        steps = (replace(trace.steps[0], role=first), replace(trace.steps[1], role=second))
        console.print(render_chain(replace(trace, steps=steps), run))
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "* the segmenter's rule (main clause beside a condition) gave the role, not a connective" in written
    for second, because in (
        (Role.THEREFORE, "the segmenter's rule (main clause beside a cause)"),
        (Role.BUT, "the segmenter's rule (main clause beside a concession)"),
        (Role.OR, "the source or another segmenter"),
    ):
        steps = (replace(trace.steps[0], role=Role.NONE), replace(trace.steps[1], role=second))
        console = Console(width=120, file=io.StringIO())
        console.print(render_chain(replace(trace, steps=steps), run))
        assert f"* {because} gave the role, not a connective" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "(main clause beside a condition) or the question mark at the end gave the role" in written


def test_the_summary_of_an_ingest_lists_every_role() -> None:
    roles = Counter({role.value: place for place, role in enumerate(Role, 1)})
    (line,) = [one for one in summary_lines(IngestSummary(steps=roles.total(), roles=roles)) if one.startswith("steps")]
    assert sum(int(count) for count in re.findall(r" [A-Z]+ (\d+)", line)) == roles.total()


@pytest.mark.parametrize(
    ("seconds", "workers", "says"),
    [
        ({"reading": 1.04, "measuring": 4.0}, 0, "reading 1.0 s, measuring 4.0 s, the rest 2.0 s; 7.0 s in all"),
        ({"measuring": 6.0, "graph": 3.0}, 0, "measuring 6.0 s, graph 3.0 s, some of them side by side; 7.0 s in all"),
        ({"measuring": 6.0}, 3, "measuring 6.0 s; 7.0 s in all; 3 workers, whose seconds are added up"),
    ],
)
def test_the_seconds_of_an_ingest_add_up_or_say_why_not(seconds: dict[str, float], workers: int, says: str) -> None:
    summary = IngestSummary(
        measured=1, sequence_tokens=70, vocab_size=256, workers=workers, seconds=seconds | {"total": 7.0}
    )
    (line,) = [line for line in summary_lines(summary) if line.startswith("speed")]
    assert line == f"speed       10 tokens/s with context; {says}"


def test_the_picture_of_variants_names_the_layer_that_moved_most() -> None:
    moved = {"paraphrase": [0.0, 0.1, 0.3]}
    assert drift_picture(moved, 0).plain.endswith("at most 0.3 in layer 2")  # states begin with the embeddings
    assert drift_picture(moved, 1).plain.endswith("at most 0.3 in layer 3")


def test_a_measure_without_a_value_is_said_to_be_not_measured() -> None:
    trace = hand_made()
    run = Run("m", "rev", "t" * 16, n_layers=1, vocab_size=10)
    nothing = replace(trace, hidden_shift=np.zeros((trace.n_tokens, 0), np.float32))
    said = trace_record(nothing, run, measure="hidden_shift")["control"]
    assert said == "hidden_shift: not measured (no token of this chain has a value)"
    assert trace_record(trace, run, measure="hidden_shift")["control"].startswith("hidden_shift 0.500")
