"""Words of a text as gaps and scenes compare them: lower-case beginnings of words that carry content, Russian and English."""

from __future__ import annotations

import re

STEM = 6
"""Letters of a word that count: a crude stem, the same for both languages."""

_WORD = re.compile(r"\w+")
_EMPTY = frozenset(
    """
    the a an of to in on at by for with from into over under than then thus that this these those there here
    it its is are was were be been being do does did has have had will would can could may might must should
    not no nor and or but if so as also however therefore hence because since when while although though which
    who whom whose what where why how all any each every some more most less least very only just about after
    before between through without within during you your we our they their he his she her them him one two
    upon such same other another и в во на с со к ко по за из от до для о об обо при над под не ни а но же ли
    бы то что чтобы как так это этот эта эти этого этой этом этих тот та те того той тех он она оно они его её
    их ему ей им мы вы я ты нас вас мне нам вам быть был была было были есть будет если тогда значит однако
    поэтому следовательно потому поскольку когда пока хотя который которая которое которые которого которой
    чем где куда откуда почему всё все весь вся всех каждый любой только лишь уже ещё или либо тоже также
    вывод можно нужно надо должен должна себя свой своя свои своего без через между после перед
    """.split()  # noqa: SIM905
)
"""Words that carry no content."""


def words(text: str) -> list[str]:
    """Every word and number of a text, in lower case, in order."""
    return _WORD.findall(text.lower())


def stems(text: str) -> list[str]:
    """The words that carry content, cut to :data:`STEM` letters, in order; numbers stay whole."""
    return [
        word if word[0].isdigit() else word[:STEM]
        for word in words(text)
        if word not in _EMPTY and (len(word) > 2 or word[0].isdigit())
    ]
