"""Truth values in annotations, as Go's strconv reads them."""

from __future__ import annotations

_WORDS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


def parse_boolean(text: str) -> bool | None:
    """Return the truth value that a text stands for; None if it stands for none."""
    return _WORDS.get(text)
