"""How YAML and JSON are laid out: writes plain data in the style of a given file."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from istio_init.inject import scalars

if TYPE_CHECKING:
    from typing import Final

    from istio_init.inject.plain_data import PlainValue, YamlNode

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


def block(value: PlainValue, style: Style, column: int = 0) -> str:
    """Return plain data in block style, whole lines that begin in ``column``."""
    lines: list[str] = []
    _write(value, style, column, lines)
    return style.newline.join(lines) + style.newline


def is_inline(value: PlainValue) -> bool:
    """Whether a value stands behind its key, on the same line."""
    return not (value and isinstance(value, dict | list))


def inline(value: PlainValue, style: Style, column: int) -> list[str]:
    """Return a scalar or an empty map or list: its first line, and those of a literal block.

    ``column`` is where the parent stands.
    """
    if isinstance(value, str):
        if "\n" in value and scalars.is_literal(value):
            return _literal(value, style, column)
    elif isinstance(value, dict | list):
        return ["{}" if isinstance(value, dict) else "[]"]
    return [scalars.written(value)]


def _literal(value: str, style: Style, column: int) -> list[str]:
    body = value.rstrip("\n")
    ends = len(value) - len(body)
    # A first line that is empty or begins with a blank hides where the block begins.
    width = style.indent
    hint = str(width) if body[:1] in (" ", "\n", "\t") else ""
    chomp = ("-", "", "+")[min(ends, 2)]
    lines = body.split("\n") + [""] * max(ends - 1, 0)
    pad = " " * (column + width)
    return [f"|{hint}{chomp}", *(pad + line if line else "" for line in lines)]


def _write(value: PlainValue, style: Style, column: int, lines: list[str]) -> None:
    if is_inline(value):
        first, *rest = inline(value, style, column - style.indent)
        lines += [" " * column + first, *rest]
    elif isinstance(value, dict):
        _write_map(value, style, column, lines)
    else:
        _write_list(value, style, column, lines)


def _write_map(value: dict[str, PlainValue], style: Style, column: int, lines: list[str]) -> None:
    pad = " " * column
    for key in sorted(value) if style.sort_keys else value:
        name, one = scalars.written(key), value[key]
        if len(name) > _LONGEST_KEY:
            lines.append(f"{pad}? {name}")
            name = ""
        if one and isinstance(one, dict):
            lines.append(f"{pad}{name}:")
            _write_map(one, style, column + style.indent, lines)
        elif one and isinstance(one, list):
            lines.append(f"{pad}{name}:")
            _write_list(one, style, column + style.sequence_indent, lines)
        else:
            first, *rest = inline(one, style, column)
            lines.append(f"{pad}{name}: {first}")
            lines += rest


def _write_list(value: list[PlainValue], style: Style, column: int, lines: list[str]) -> None:
    """Write the items, each with its first line behind a dash."""
    pad = " " * column
    for item in value:
        if is_inline(item):
            # A literal block's indentation counts from the dash.
            first, *rest = inline(item, style, column)
            lines.append(f"{pad}- {first}")
            lines += rest
            continue
        start = len(lines)
        _write(item, style, column + 2, lines)
        lines[start] = f"{pad}- {lines[start][column + 2 :]}"


def flow(value: PlainValue) -> str:
    """Return plain data on one line, in flow style."""
    if isinstance(value, dict):
        entries = (f"{_flow_scalar(key)}: {flow(one)}" for key, one in value.items())
        return "{" + ", ".join(entries) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(one) for one in value) + "]"
    return _flow_scalar(value)


def _flow_scalar(value: PlainValue) -> str:
    if isinstance(value, str) and (_FLOW_INDICATORS & set(value) or value[:1] in "-?:"):
        return scalars.in_quotes(value)
    return scalars.written(value)


_FLOW_INDICATORS = frozenset(",[]{}:\"'")


def style_of(text: str, node: YamlNode, *, newline: str = "\n") -> Style:
    """Return the style of a document of ``text`` whose root node is ``node``.

    What it does not show is taken from what most manifests do: two columns a
    level, and lists that begin in the column of their key.
    """
    import yaml

    indent = sequence_indent = None
    stack = [node]
    while stack and (indent is None or sequence_indent is None):
        here = stack.pop()
        if here.__class__ is yaml.SequenceNode:
            stack += reversed(here.value)
        elif here.__class__ is yaml.MappingNode and not here.flow_style:
            for key, value in reversed(here.value):
                stack.append(value)
                after = key.end_mark.index
                if value.__class__ is yaml.ScalarNode or value.start_mark.index < after:
                    continue
                # An anchor in front of the value stands on the line of the key.
                if value.flow_style or "\n" not in text[after : value.start_mark.index]:
                    continue
                step = value.start_mark.column - key.start_mark.column
                if value.__class__ is yaml.SequenceNode:
                    sequence_indent = step
                elif step > 0:
                    indent = step
    return Style(indent or 2, sequence_indent or 0, newline)


@dataclass(frozen=True, slots=True)
class JsonStyle:
    """How a JSON text is laid out: as ``json.dumps`` takes it, and Go's habit of escaping HTML."""

    indent: int | str | None
    separators: tuple[str, str]
    newline: str
    is_ascii: bool
    escapes_html: bool


def json_style_of(text: str) -> JsonStyle:
    """Return the style of a JSON text."""
    lines = text.split("\n", 2)
    indent: int | str | None = None
    if len(lines) > 1:
        blanks = lines[1][: len(lines[1]) - len(lines[1].lstrip(" \t"))]
        indent = "\t" if blanks.startswith("\t") else len(blanks)
    colon = _JSON_COLON.search(text)
    comma = "," if indent is not None or not _JSON_COMMA.search(text) else ", "
    return JsonStyle(
        indent,
        (comma, ": " if colon is None or colon[1] else ":"),
        "\r\n" if lines[0].endswith("\r") else "\n",
        is_ascii=text.isascii(),
        escapes_html=bool(_HTML_ESCAPE.search(text)) and not _HTML.search(text),
    )


def json_text(value: PlainValue, style: JsonStyle) -> str:
    """Return plain data as JSON in a style."""
    text = json.dumps(
        value, indent=style.indent, separators=style.separators, ensure_ascii=style.is_ascii
    )
    if style.escapes_html:
        # Outside of strings JSON has none of these.
        text = _HTML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return text if style.newline == "\n" else text.replace("\n", style.newline)


_JSON_COLON = re.compile(r'"\s*:( ?)')
_JSON_COMMA = re.compile(r'[\]}"0-9el], ["\[{0-9tfn-]')
_HTML = re.compile(r"[<>&]")
_HTML_ESCAPE = re.compile(r"\\u00(?:3[cCeE]|26)")
