"""Programs of every shape that the language can hold."""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st

from trails.schema import Role
from trails.stellator.language import (
    MEASURE_WORDS,
    Anchor,
    Angle,
    Block,
    Condition,
    Dampen,
    Drift,
    Joined,
    Line,
    Not,
    Number,
    Phase,
    Program,
    Quantile,
    Select,
    Setting,
    Subgraph,
    Text,
    ZoneName,
)

_letters = st.characters(codec="utf-8", exclude_categories=("Cs",))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


texts = st.text(_letters, min_size=1, max_size=12).map(_nfc).filter(lambda text: bool(text.strip()))
comments = st.one_of(
    st.just(""),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=12)
    .map(_nfc)
    .map(str.strip)
    .filter(lambda text: text == _nfc("# " + text)[2:]),
)
befores = st.lists(comments, max_size=2).map(tuple)
sizes = st.floats(0, 1e9, allow_nan=False) | st.integers(0, 10**6).map(float)
positive = st.floats(1e-3, 1e6, allow_nan=False)
layers = st.lists(st.integers(1, 99), min_size=1, max_size=5, unique=True).map(lambda found: tuple(sorted(found)))
words = st.sampled_from(("exact", "gsm8k", "c0123456789abcdef", "ru", "мой-источник", "a.b:c"))
names = st.sampled_from(("unstable", "smooth", "моя_зона", "z-1"))

values = st.one_of(
    st.builds(Number, sizes, st.sampled_from(("", "nats", "bits", "%"))),
    st.builds(Quantile, st.integers(0, 99).map(float)),
    st.builds(Text, texts),
    st.builds(Text, words, st.just(False)),
)
conditions = st.one_of(
    st.builds(
        Condition,
        st.sampled_from(("entropy", "gap", "rank")),
        st.sampled_from(("<", "<=", ">", ">=")),
        st.tuples(values),
    ),
    st.builds(
        Condition,
        st.sampled_from(("source", "family")),
        st.sampled_from(("=", "!=")),
        st.lists(values, min_size=1, max_size=3).map(tuple),
    ),
)
expressions = st.recursive(
    st.builds(ZoneName, names) | conditions,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(Joined, st.sampled_from(("&", "|")), st.lists(inner, min_size=2, max_size=3).map(tuple))
    ),
    max_leaves=6,
)
claims = st.builds(Angle, st.just("pi"), st.floats(0, 1), st.floats(1, 1e6)) | st.builds(
    Angle, st.just("degrees"), st.floats(-180, 180)
)
tolerances = st.builds(Angle, st.sampled_from(("pi", "degrees", "radians")), positive, st.just(1.0)).filter(
    lambda angle: angle.radians < 3.14
)
roles = st.builds(Text, st.sampled_from([str(role) for role in Role]), st.just(False))
quoted = st.builds(Text, texts) | st.builds(Text, texts, st.just(True), st.booleans())
selects = st.one_of(
    st.builds(Select, st.just("TOKEN"), st.lists(quoted, min_size=1, max_size=3).map(tuple), st.booleans()),
    st.builds(Select, st.just("STEP"), st.lists(quoted | roles, min_size=1, max_size=3).map(tuple), st.booleans()),
    st.builds(
        Select,
        st.just("CHAIN"),
        st.lists(quoted | st.builds(Text, words, st.just(False)), min_size=1, max_size=3).map(tuple),
        st.booleans(),
    ),
)
drifts = st.builds(
    Drift,
    st.sampled_from([name for name in MEASURE_WORDS if name != "logit_shift"]),
    st.booleans(),
    st.just(()) | layers,
    st.booleans(),
) | st.builds(Drift, st.just("logit_shift"), st.booleans(), st.just(()), st.booleans())
settings = st.one_of(
    st.builds(Setting, st.just("weights"), st.sampled_from(("uniform", "surprisal", "both", "excess:r12"))),
    st.builds(Setting, st.just("order"), st.sampled_from(("shuffled", "rising", "source", "rhythm", "rhythm:7"))),
    st.builds(Setting, st.just("objective"), st.sampled_from(("lm", "dft", "attention"))),
    st.builds(Setting, st.just("layers"), st.sampled_from(("3", "3-7", "1,4-9"))),
    st.builds(Setting, st.just("mask"), st.sampled_from(("surprisal<1", "role:BUT", "random:0.4"))),
    st.builds(Setting, st.just("variants"), texts),
    st.builds(Setting, st.just("variants_each"), st.integers(1, 10**5).map(str)),
)
contents = st.one_of(
    selects,
    drifts,
    st.builds(Anchor, texts),
    st.builds(Subgraph, texts),
    st.builds(Phase, claims, st.none() | tolerances, st.none() | st.integers(1, 99)),
    st.builds(Dampen, st.floats(0, 1)),
    settings,
)


def _key(line: Line) -> object:
    content = line.content
    if isinstance(content, Setting):
        return content.name
    return type(content) if isinstance(content, Anchor | Phase | Dampen | Subgraph) else content


lines = st.builds(Line, contents, befores, comments)
blocks = st.builds(
    Block,
    expressions,
    st.lists(lines, max_size=6, unique_by=_key).map(tuple),
    st.just(""),
    st.sampled_from(("en", "ru")),
    befores,
    comments,
)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """One to three blocks, some of them with a name."""
    from dataclasses import replace

    found = []
    for number in range(draw(st.integers(1, 3))):
        block = draw(blocks)
        if draw(st.booleans()):
            block = replace(
                block, name=f"{number} {draw(texts)}", name_before=draw(befores), name_comment=draw(comments)
            )
        found.append(block)
    return Program(tuple(found), draw(befores))
