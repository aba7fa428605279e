"""The ways to score a seam: name, sign, unit and meaning of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SeamScore:
    """One way to score a seam. ``sign`` is +1 when a large value speaks for a gap, -1 when a small one does."""

    name: str
    model: bool
    sign: int
    unit: str
    meaning: str


SEAM_SCORES: tuple[SeamScore, ...] = (
    SeamScore("ungrounded", False, 1, "values", "values, results left out, found neither in the question nor earlier"),
    SeamScore(
        "underivable", False, 1, "values", "of these, the ones that no single operation on two known values gives"
    ),
    SeamScore("pending", False, 1, "values", "ungrounded values of later steps, which this seam may have lost too"),
    SeamScore("dangling", False, 1, "0..1", "share of the previous step's new values that no later step uses"),
    SeamScore("passed_over", False, 1, "0..1", "share of the previous step's new values that this step does not use"),
    SeamScore(
        "uncarried", False, 1, "0 or 1", "1 when no operand of this step is a value that the step before has found"
    ),
    SeamScore(
        "expected_here",
        False,
        1,
        "values",
        "ungrounded operands that, by the order of their expression, come from here",
    ),
    SeamScore(
        "from_previous", False, 1, "values", "ungrounded values, here or later, one operation from the last step's"
    ),
    SeamScore("from_unused", False, 1, "values", "the same from a value of the question that no step uses"),
    SeamScore(
        "skipped_values", False, 1, "values", "values of the question that the order of the steps passes over here"
    ),
    SeamScore(
        "question_jump", False, 1, "0..1", "share of the question between what the last step and this one speak of"
    ),
    SeamScore("new_words", False, 1, "0..1", "share of content words found neither in the question nor earlier"),
    SeamScore("unlinked", False, 1, "0..1", "share of words and values that the previous step does not have"),
    SeamScore("role_bigram", False, 1, "nats", "surprisal of the role given the role before, in the other chains"),
    SeamScore("surprisal_excess", True, 1, "nats per token", "surprisal minus that of the same tokens in other chains"),
    SeamScore("value_surprisal", True, 1, "nats per token", "mean surprisal of digits and names"),
    SeamScore("operand_surprisal", True, 1, "nats", "largest surprisal of a value, results left out"),
    SeamScore("ungrounded_surprisal", True, 1, "nats", "summed surprisal of the ungrounded values, 0 without any"),
    SeamScore("onset_surprisal", True, 1, "nats per token", "mean surprisal of the first five tokens"),
    SeamScore("context_gain", True, -1, "nats per token", "NLL given the question only minus NLL given everything"),
    SeamScore("premise_usefulness", True, -1, "nats per token", "NLL without the previous step minus NLL with it"),
    SeamScore("previous_attention", True, -1, "0..1", "attention mass on the previous step, mean over layers"),
)
NAMES = tuple(score.name for score in SEAM_SCORES)
NO_MODEL = tuple(score.name for score in SEAM_SCORES if not score.model)
MODEL = tuple(score.name for score in SEAM_SCORES if score.model)
SIGN = {score.name: score.sign for score in SEAM_SCORES}
