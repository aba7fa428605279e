"""Which spans are protected from splitting, to the character."""

from __future__ import annotations

import pytest

from trails.segment.mask import FILL, mask

HIDDEN = "\x02"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # a quotation, and what is none: a letter before or behind it, a blank inside
        ('"a b" c', f"{FILL * 5} c"),
        ('a x"c. D"', None),
        ('"a. B"c', None),
        ('" a. B"', None),
        # only a mark that ends the quotation's last sentence is seen
        ('"Stop. I go on far"', FILL * 19),
        ('"I go on far. Stop."', f"{FILL * 18}.{HIDDEN}"),
        ("“Go. Stop.” He", f"{FILL * 9}.{HIDDEN} He"),
        # dollars as in Pandoc: no digit behind, no blank inside
        ("$a$1", None),
        ("$ a$", None),
        ("$a. B$ c", f"{FILL * 6} c"),
        ("$$a. B$$ c", f"{FILL * 8} c"),
        ("\\[a. B\\] c", f"{FILL * 8} c"),
        # code in one line; a fence begins a line, with at most three blanks before it
        ("`a.\nB`", None),
        ("x ```a. B``` c", None),
        ("   ```a. B``` c", f"   {FILL * 10} c"),
        ("\n    ```a. B``` c", None),
    ],
)
def test_what_is_protected(text: str, expected: str | None) -> None:
    """None: nothing is."""
    assert mask(text) == (text if expected is None else expected)
