"""Text that stands where a chain should stand and is none: placeholders, blobs, what a server said when it failed.

In: the text of a chain. Out: why it is no chain (the record is bad), or what is doubtful about it (it is measured, and the user
is told how often).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from trails.platform.text import beginning, counted

PLACEHOLDERS = frozenset(
    (
        *("nan", "null", "none", "nil", "n/a", "na", "<na>", "#n/a", "nat", "undefined", "inf", "-inf", "infinity"),
        *("[deleted]", "[removed]", "[object object]", "#value!", "#ref!", "#name?", "#div/0!", "#error!", "{}", "[]"),
        *("todo", "tbd", "tba", "placeholder", "[empty]", "<empty>", "(empty)", "[redacted]"),
    )
)
"""What programs write where there is no text, in lower case."""

SHORT = 600
"""A text with more characters is never taken for a message of a server."""

_STATUS = "|".join(
    phrase.replace(" ", r"\s")
    for phrase in (
        *("bad request", "unauthori[sz]ed", "forbidden", "not found", "request timeout", "payload too large"),
        *("too many requests", "internal server error", "bad gateway", "service (?:temporarily )?unavailable"),
        "gateway time-?out",
    )
)
_CODE = r"[45]\d\d\b"
_FAILED = re.compile(
    rf"""
    traceback\s\(most\srecent\scall\slast\)
    | \W*(?:[a-z_][\w.]*\.)?(?-i:[A-Z]\w*(?:Error|Exception|Timeout))\s*[:(]                # openai.RateLimitError: …
    | (?:http(?:/\d(?:\.\d)?)?\s+)?(?:error\s+)?{_CODE}[\s:–-]+(?:{_STATUS})\b              # HTTP 502 Bad Gateway
    | (?:error\s+code|http\s+error|status\s+code)\s*[:=]?\s*{_CODE}                         # Error code: 429 - …
    | http\s+{_CODE}\W*$
    | (?:{_STATUS})\W*$
    | \W*(?:api|http|server|network|connection|internal|upstream|fatal|request)\s+error\s*(?:[:(\[]|\W*$)
    | \[error\] | <error>
    | (?:the\s)?(?:request\stimed\sout|server\shad\san\serror|model\sis\s(?:currently\s)?overloaded)
    | (?:your\s)?rate\slimit\s(?:exceeded|reached) | you\s(?:have\s)?exceeded\syour\scurrent\squota
    | connection\s(?:reset|refused|timed\sout|aborted) | incorrect\sapi\skey
    | error\s*:(?=.*\b(?:time(?:d\s|-)?out|rate\slimit|quota|connection|status|api|http|server|unauthori[sz]ed|
        overloaded|context\slength|exceeded)\b)
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_REASONS = re.compile(r"\b(?:so|therefore|because|thus|hence)\b", re.IGNORECASE)
"""A text that draws a conclusion may speak about an error without being its message."""
_TAG = re.compile(
    r"</?(?:p|br|div|span|a|b|i|em|strong|ul|ol|li|table|tr|td|th|tbody|thead|h[1-6]|img|pre|code|font|script|style|html|body|"
    r"head|meta|hr|sup|sub|blockquote|section|article|nav|button|form|input|label)\b[^<>]{0,300}/?>",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:[a-z]{2,8}|#\d{1,6}|#x[0-9a-f]{1,5});", re.IGNORECASE)
_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w=-]+)*;base64,", re.IGNORECASE)
_BLOB_PIECE = re.compile(r"[A-Za-z0-9+/_-]{24,}={0,2}")
MIN_BLOB = 64
"""A run of letters and digits of this length without a blank is a blob, where its kinds of characters are mixed as in one."""
_BLOB_RUN = re.compile(rf"[A-Za-z0-9+/_-]{{{MIN_BLOB},}}={{0,2}}")

LOOKED_AT = 20_000
"""Characters of a chain that are looked at for what is doubtful."""

SERVED = frozenset(
    (
        *("error", "errors", "message", "detail", "status", "code", "statuscode", "status_code", "type", "request_id"),
        *("title", "documentation_url", "timestamp", "path", "success", "trace_id", "requestid"),
    )
)
"""Keys of what a server answers instead of data."""
_SAYS = ("error", "errors", "message", "detail")
_CODES = frozenset(("status", "code", "statuscode", "status_code", "documentation_url", "request_id", "requestid"))


def served(record: Mapping[str, Any]) -> Any:
    """What a server says in an object that it answers instead of data; None for any other object."""
    names = {str(key).lower() for key in record}
    if not names <= SERVED or not names & set(_SAYS):
        return None
    failed = bool(names & ({"error", "errors"} | _CODES)) or names == {"detail"} or record.get("success") is False
    return next(value for key, value in record.items() if str(key).lower() in _SAYS) if failed else None


def no_chain(text: str) -> str:
    """Why a text is no chain, as a sentence without its subject's name; empty for a chain."""
    line = text.strip()
    if not line:
        return "the chain is empty."
    if line.lower().strip("\"'`") in PLACEHOLDERS:
        return f"the chain is {line!r}, which programs write where there is no text."
    if not any(character.isalnum() for character in line):
        return f"the chain is {_start(line)!r}, without a letter or a digit."
    bare = _ENTITY.sub(" ", _TAG.sub(" ", line)) if "<" in line or "&" in line else line
    if bare is not line and not any(character.isalnum() for character in bare):
        return f"the chain is {_start(line)!r}: tags of HTML without text."
    if _is_blob(line):
        return (
            f"the chain is {_start(line)!r}: {counted(len(line), 'character')} of encoded data (base64 "
            "or hexadecimal), no text."
        )
    if len(line) <= SHORT and ((_FAILED.match(line) and not _REASONS.search(line)) or _is_served(line)):
        return f"the chain is {_start(line)!r}: what a server or a program says when it failed."
    return ""


def doubt(text: str) -> str:
    """What is doubtful about a chain that is measured all the same, as words that go behind ``a chain``; empty for most."""
    if "<" in text and len({tag.lower() for tag in _TAG.findall(text[:LOOKED_AT])}) > 1:
        return "with tags of HTML, which are measured as text"
    line = text.strip()
    if len(line) <= SHORT and (_FAILED.match(line) or re.match(r"error\s*[:!]", line, re.IGNORECASE)):
        return "beginning like what a server or a program says when it failed"
    if any(_is_blob(run) for run in _BLOB_RUN.findall(text, 0, LOOKED_AT)):
        return "with encoded data (base64 or hexadecimal), which is measured as text"
    return ""


def _start(text: str) -> str:
    return beginning(text, 60)


def _is_blob(text: str) -> bool:
    """Whether a whole text is base64 or hexadecimal, in one piece or in lines of equal length."""
    found = _DATA_URL.match(text)
    if found:
        return not re.search(r"\s\S", text[found.end() :].strip())
    pieces = text.split()
    if sum(map(len, pieces)) < MIN_BLOB or not all(map(_BLOB_PIECE.fullmatch, pieces[:-1] or pieces)):
        return False
    if len({len(piece) for piece in pieces[:-1]}) > 1 or len(pieces[-1]) > len(pieces[0]):
        return False
    whole = "".join(pieces).rstrip("=")
    kinds = [sum(map(test, whole)) / len(whole) for test in (str.isdigit, str.isupper, str.islower)]
    if re.fullmatch(r"[0-9a-f]+|[0-9A-F]+", whole):
        return kinds[0] > 0.2 and kinds[0] < 1 and len(set(whole)) > 8
    return min(kinds) > 0.03 and len(set(whole)) > 20


def _is_served(text: str) -> bool:
    if not text.startswith("{"):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, Mapping) and served(value) is not None
