"""Words that the small languages share: selections, masks, and the lines of a stellator file name roles in the same way."""

from __future__ import annotations

import difflib

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


def role_named(text: str) -> str:
    """The role that an English or Russian name means, in any case. Raises UsageError with what could be meant and all roles."""
    name = text.strip().upper()
    name = ROLES.get(name, name)
    if name not in Role.__members__:
        near = difflib.get_close_matches(name, [*Role.__members__, *ROLES], 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"role {text.strip()!r} does not exist.{hint} Roles: {', '.join(Role)}.")
    return name
