"""Words that the small languages share: selections, masks, weights, orders, and the lines of a stellator file.

A word means the same in all of them, in English and in Russian and in any case, and a wrong one is refused in the same words.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from trails.errors import UsageError
from trails.schema import Role

ROLES: dict[str, str] = {
    "ЕСЛИ": "IF",
    "ТОГДА": "THEN",
    "НО": "BUT",
    "ОДНАКО": "HOWEVER",
    "ПОТОМУ": "BECAUSE",
    "ПОЭТОМУ": "THEREFORE",
    "ВЫВОД": "THEREFORE",
    "КОГДА": "WHEN",
    "ВОПРОС": "QUESTION",
    "ОТВЕТ": "ANSWER",
}
"""Russian names of roles."""

MEASURES = {"surprisal": "неожиданность", "entropy": "энтропия"}
"""Measured numbers that masks and weights name, with their Russian names."""
MASK_WORDS = MEASURES | {"none": "нет", "role": "роль", "random": "случайно"}
WEIGHT_WORDS = MEASURES | {"uniform": "ровный", "both": "оба", "excess": "избыток"}
ORDER_WORDS = {
    "shuffled": "вперемешку",
    "rising": "по возрастанию",
    "falling": "по убыванию",
    "rhythm": "ритм",
    "source": "источник",
}

_HEAD = re.compile(r"\s*([^\W\d_]+(?:[ \t_-]+[^\W\d_]+)*)")


def english(text: str, words: Mapping[str, str]) -> str:
    """``text`` with the word that it begins with as it stands in ``words`` (English to Russian), where that word is known in
    either language and in any case, with _ for a blank or not; blanks around it go. Any other text comes back as it is.
    """
    found = _HEAD.match(text)
    if found is None or found[1] in words:
        return text
    said = re.sub(r"[ \t_]+", " ", found[1]).casefold()
    for name, russian in words.items():
        if said in (name, russian):
            return name + text[found.end() :].rstrip()
    return text


def not_known(kind: str, text: str, forms: Iterable[str], more: str = ".", *, many: bool = False) -> UsageError:
    """The error for a text that has none of the ``forms``: what it could be meant to be, and every form. The head of a form is
    what stands before its first sign; ``more`` ends the sentence, ``many`` says that ``kind`` is a plural.
    """
    forms = tuple(forms)
    heads = {re.split(r"[:<>]", form)[0].strip('"'): form for form in reversed(forms)}
    said = re.split(r"[:<>=]", text, maxsplit=1)[0].strip().casefold()
    near = difflib.get_close_matches(said, heads, 1, 0.7)
    hint = f" Did you mean {heads[near[0]]}?" if near else ""
    return UsageError(
        f"{kind} {text!r} {'are' if many else 'is'} not known.{hint} Write one of: {', '.join(forms)}{more}"
    )


def role_named(text: str) -> str:
    """The role that an English or Russian name means, in any case. Raises UsageError with what could be meant and all roles."""
    name = text.strip().upper()
    name = ROLES.get(name, name)
    if name not in Role.__members__:
        near = difflib.get_close_matches(name, [*Role.__members__, *ROLES], 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        every = ROLES if re.search("[А-ЯЁ]", name) else Role
        raise UsageError(f"role {text.strip()!r} does not exist.{hint} Roles: {', '.join(every)}.")
    return name
