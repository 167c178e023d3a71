"""The comment behind an injected document that says how to get its text back.

The annotations that Istio leaves name what was added, but not where a quote or
a blank line was. The comment has the edits and a checksum of the text before:
whoever changed the document since gets it back by its values, not by its text.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from istio_init.inject.plain_data import PlainValue
    from istio_init.inject.splice import Edit

_PREFIX: Final = "# istio-init uninject: "
_LINE = re.compile(
    r"(?:[ \t]*(?:#[^\r\n]*)?\r?\n)*?"
    rf"(?P<line>{_PREFIX}(?P<data>\[[^\r\n]*\])[ \t]*(?P<newline>\r?\n|\Z))"
)


def record_of(before: str, changes: Sequence[Edit]) -> str:
    """Return the comment for a document's text and the edits that were made to it.

    The edits are in order, and count from the beginning of ``before``.
    """
    shift = 0
    entries: list[list[int | str]] = []
    for edit in changes:
        was = before[edit.start : edit.end]
        entry: list[int | str] = [edit.start + shift, len(edit.text)]
        entries.append([*entry, was] if was else entry)
        shift += len(edit.text) - len(was)
    data = [_checksum(before), *entries]
    return _PREFIX + json.dumps(data, separators=(",", ":"))


def match_record(text: str, position: int) -> re.Match[str] | None:
    """Return the first such comment behind ``position``; only comments may precede it.

    Its groups are ``line``, ``data`` and ``newline``.
    """
    return _LINE.match(text, position)


def has_records(text: str) -> bool:
    """Whether a text may hold such a comment."""
    return _PREFIX in text


def text_before(after: str, record: re.Match[str]) -> str | None:
    """Return a document's text before the edits that a record lists.

    None if the record is damaged, or the text was changed since.
    """
    try:
        data = json.loads(record["data"])
    except (ValueError, RecursionError):
        return None
    if not data:
        return None
    parts: list[str] = []
    position = 0
    for entry in data[1:]:
        match entry:
            case [int(start), int(length), *was] if position <= start <= len(after) and length >= 0:
                parts.append(after[position:start])
                parts += [one for one in was[:1] if isinstance(one, str)]
                position = start + length
            case _:
                return None
    before = "".join([*parts, after[position:]])
    return before if data[0] == _checksum(before) else None


def _checksum(text: str) -> PlainValue:
    return f"{zlib.crc32(text.encode()):08x}"
