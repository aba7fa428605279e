"""The words that the string grammars share with a stellator file: one table, both languages, one way to refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trails.errors import UsageError
from trails.export import ExportOptions
from trails.export.choose import MASKS, WEIGHTS, parse_mask, parse_weights
from trails.export.order import ORDERS, parse_order
from trails.export.subgraph import FORMS, is_selection
from trails.export.words import MASK_WORDS, ORDER_WORDS, WEIGHT_WORDS
from trails.genome.model import ORDERS as ORDERS_OF_BOOKS
from trails.genome.model import Book
from trails.stellator.parsing import parse


@pytest.mark.parametrize(
    ("russian", "english"),
    [
        ("неожиданность<0.92", "surprisal<0.92"),
        ("Энтропия >= 1 & НЕОЖИДАННОСТЬ<1", "entropy>=1&surprisal<1"),
        ("роль:но,вывод", "role:BUT,THEREFORE"),
        ("случайно:0.4", "random:0.4"),
        ("нет", "none"),
        ("None", "none"),
    ],
)
def test_a_mask_is_read_in_both_languages(russian: str, english: str) -> None:
    one, other = parse_mask(russian), parse_mask(english)
    assert (one.conditions, one.roles, one.share) == (other.conditions, other.roles, other.share)
    assert ExportOptions(mask=russian).mask.replace(" ", "") == one.text.replace(" ", "") == english


@pytest.mark.parametrize(
    ("kind", "name", "russian"),
    [("weights", *pair) for pair in WEIGHT_WORDS.items()] + [("order", *pair) for pair in ORDER_WORDS.items()],
)
def test_an_option_and_its_line_take_the_same_words(kind: str, name: str, russian: str) -> None:
    tail, line = {"excess": (":r12", " r12"), "rhythm": (":4", " 4")}.get(name, ("", ""))
    key, word = {"weights": ("ВЕС", "WEIGHT"), "order": ("ПОРЯДОК", "ORDER")}[kind]
    option = getattr(ExportOptions(**{kind: russian.upper() + tail}), kind)
    assert option == name + tail
    assert getattr(ExportOptions(**{kind: russian.replace(" ", "_") + tail}), kind) == option
    (first,), (second,) = (
        [one.content.value for one in parse(text).blocks[0].lines]  # type: ignore[union-attr]
        for text in (f"[ЗОНА: all]\n{key} → {russian}{line}", f"[ZONE: all]\n{word} -> {name}{line}")
    )
    assert first == second == option


@pytest.mark.parametrize("name", ORDERS_OF_BOOKS)
def test_a_book_of_a_course_takes_the_words_of_an_order(name: str) -> None:
    russian = ORDER_WORDS[name].replace(" ", "_")
    assert Book.model_validate({"select": "all", "order": russian}).order == parse_order(russian)[0] == name


def test_every_form_has_its_word() -> None:
    heads = {form.replace("<", ":").partition(":")[0] for form in (*MASKS, *WEIGHTS, *ORDERS)}
    assert heads == set(MASK_WORDS) | set(WEIGHT_WORDS) | set(ORDER_WORDS)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (parse_mask, "suprisal<1", "mask 'suprisal<1' is not known. Did you mean surprisal<X? Write one of: none, "),
        (parse_mask, "surprisal=1", "mask 'surprisal=1' is not known. Did you mean surprisal<X? Write one of: none, "),
        (parse_weights, "entropie", "weights 'entropie' are not known. Did you mean entropy? Write one of: uniform, "),
        (parse_weights, "excess:", "weights 'excess:' are not known. Did you mean excess:RUN? Write one of: uniform, "),
        (parse_order, "rythm:3", "order 'rythm:3' is not known. Did you mean rhythm:N? Write one of: shuffled, "),
        (parse_order, "ритм:1", "order 'rhythm:1' is not known. Did you mean rhythm:N? Write one of: shuffled, "),
    ],
)  # fmt: skip
def test_a_wrong_word_is_refused_with_what_could_be_meant(read: Callable[[str], Any], text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        read(text)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith('"')])
def test_every_form_of_a_selection_is_told_from_the_name_of_a_chain(form: str) -> None:
    assert is_selection(form)
    assert not is_selection("gsm8k:17")
