"""How YAML is laid out: writes plain data in block style, in the style of a given file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from istio_init.inject import scalars

if TYPE_CHECKING:
    from typing import Any, Final

# libyaml gives up a key that is longer than 1024 characters.
_LONGEST_KEY: Final = 1000


@dataclass(frozen=True, slots=True)
class Style:
    """How a file is laid out.

    ``indent`` is the width of one level, ``sequence_indent`` how far the dash
    of a list stands to the right of the key above it, ``newline`` the end of a
    line. ``sort_keys`` says whether written maps are sorted.
    """

    indent: int = 2
    sequence_indent: int = 0
    newline: str = "\n"
    sort_keys: bool = False


def block(value: Any, style: Style, column: int = 0) -> str:  # noqa: ANN401 - plain data
    """Return plain data in block style, whole lines that begin in ``column``."""
    lines: list[str] = []
    _write(value, style, column, lines)
    return style.newline.join(lines) + style.newline


def is_inline(value: Any) -> bool:  # noqa: ANN401 - plain data
    """Whether a value stands behind its key, on the same line."""
    return not (value and isinstance(value, dict | list))


def inline(value: Any, style: Style, column: int) -> list[str]:  # noqa: ANN401 - plain data
    """Return a scalar or an empty map or list: its first line, and those of a literal block.

    ``column`` is where the parent stands.
    """
    if isinstance(value, dict | list):
        return ["{}" if isinstance(value, dict) else "[]"]
    if isinstance(value, str) and scalars.is_literal(value):
        body = value.rstrip("\n")
        ends = len(value) - len(body)
        # A first line that is empty or begins with a blank hides where the block begins.
        width = style.indent
        hint = str(width) if body[:1] in (" ", "\n", "\t") else ""
        chomp = ("-", "", "+")[min(ends, 2)]
        lines = body.split("\n") + [""] * max(ends - 1, 0)
        pad = " " * (column + width)
        return [f"|{hint}{chomp}", *(pad + line if line else "" for line in lines)]
    return [scalars.written(value)]


def _write(value: Any, style: Style, column: int, lines: list[str]) -> None:  # noqa: ANN401
    pad = " " * column
    if is_inline(value):
        first, *rest = inline(value, style, column - style.indent)
        lines += [pad + first, *rest]
    elif isinstance(value, dict):
        for key in sorted(value) if style.sort_keys else value:
            _write_entry(key, value[key], style, column, lines)
    else:
        for item in value:
            _write_item(item, style, column, lines)


def _write_entry(key: str, value: Any, style: Style, column: int, lines: list[str]) -> None:  # noqa: ANN401
    pad = " " * column
    name = scalars.written(key)
    if len(name) > _LONGEST_KEY:
        lines.append(f"{pad}? {name}")
        name = ""
    if is_inline(value):
        first, *rest = inline(value, style, column)
        lines += [f"{pad}{name}: {first}", *rest]
        return
    lines.append(f"{pad}{name}:")
    step = style.sequence_indent if isinstance(value, list) else style.indent
    _write(value, style, column + step, lines)


def _write_item(item: Any, style: Style, column: int, lines: list[str]) -> None:  # noqa: ANN401
    """Write ``- `` and the item, whose first line stands behind the dash."""
    pad = " " * column
    if is_inline(item):
        # A literal block's indentation counts from the dash.
        first, *rest = inline(item, style, column)
        lines += [f"{pad}- {first}", *rest]
        return
    start = len(lines)
    _write(item, style, column + 2, lines)
    lines[start] = f"{pad}- {lines[start][column + 2 :]}"
