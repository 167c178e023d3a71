"""Values as YAML text, in the way of go-yaml and Kubernetes' yaml library.

Keys stand in natural order, sequences are not indented in mappings, long scalars are
folded at blanks, and strings are quoted that YAML 1.1 would read as something else.
"""

from __future__ import annotations

import re
from datetime import date
from functools import cmp_to_key, lru_cache

from istio_init.inject.template.errors import FunctionError, LimitError
from istio_init.inject.template.plain import json_float, plain
from istio_init.inject.template.printing import MAX_TEXT, float_text
from istio_init.inject.template.values import Value, byte_length, type_name, utf8

_RESERVED = frozenset(
    word
    for words in (
        "y Y yes Yes YES true True TRUE on On ON n N no No NO false False FALSE off Off OFF",
        "~ null Null NULL .nan .NaN .NAN .inf .Inf .INF +.inf +.Inf +.INF -.inf -.Inf -.INF",
    )
    for word in words.split()
)
_INTEGER = re.compile(
    r"[+-]?(?:0[xX][0-9a-fA-F]+|0[oO]?[0-7]*|0[bB][01]+|[1-9][0-9]*)|[+-]?0b[+-]?[01]+"
)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_TIMESTAMP = re.compile(
    r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})"
    r"(?:[Tt]([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})([.,][0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})"
    r"| ([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})([.,][0-9]+)?)?"
)
_YAML_ESCAPES = {
    0x00: "0", 0x07: "a", 0x08: "b", 0x09: "t", 0x0A: "n", 0x0B: "v", 0x0C: "f", 0x0D: "r",
    0x1B: "e", 0x22: '"', 0x5C: "\\", 0x85: "N", 0xA0: "_", 0x2028: "L", 0x2029: "P",
}  # fmt: skip
_BREAKS = frozenset("\n\r\x85\u2028\u2029")
_MAX_SIMPLE_KEY = 128
MAX_COLUMN = 80
# What go-yaml does not read, and JSON does not escape.
_FORBIDDEN = re.compile("[\x7f-\x84\x86-\x9f\ufffe\uffff]")


def yaml_text(value: Value) -> str:
    """Return a value as YAML with a final newline."""
    writer = YamlWriter()
    writer.root(plain(value))
    return "".join(writer.parts)


class YamlWriter:
    """Gathers YAML text up to a limit; ``column`` is where the text ends."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.left = MAX_TEXT
        self.column = 0

    def put(self, text: str) -> None:
        """Append text."""
        self.left -= len(text) + 1
        if self.left < 0:
            raise LimitError(f"the text would be longer than {MAX_TEXT} characters")
        self.parts.append(text)
        line_end = text.rfind("\n")
        self.column = self.column + len(text) if line_end < 0 else len(text) - line_end - 1

    def root(self, value: Value) -> None:
        """Append a document."""
        if isinstance(value, dict) and value:
            self.mapping(value, 0)
        elif isinstance(value, list) and value:
            self.sequence(value, 0)
        else:
            self.scalar(value, 0)

    def mapping(self, value: dict[str, Value], indent: int) -> None:
        """Append a mapping whose first key stands where the text ends."""
        for number, key in enumerate(natural_order(value)):
            if number:
                self.put(" " * indent)
            if byte_length(key) > _MAX_SIMPLE_KEY or _BREAKS & set(key):
                self.put("? ")
                self.scalar(key, indent)
                self.put(" " * indent + ":")
            else:
                self.put(string(key, indent, 0, is_key=True) + ":")
            item = plain(value[key])
            if isinstance(item, dict) and item:
                self.put("\n" + " " * (indent + 2))
                self.mapping(item, indent + 2)
            elif isinstance(item, list) and item:
                self.put("\n" + " " * indent)
                self.sequence(item, indent)
            else:
                self.put(" ")
                self.scalar(item, indent)

    def sequence(self, value: list[Value], indent: int) -> None:
        """Append a sequence whose first dash stands where the text ends."""
        for number, element in enumerate(value):
            item = plain(element)
            self.put(" " * indent + "- " if number else "- ")
            if isinstance(item, dict) and item:
                self.mapping(item, indent + 2)
            elif isinstance(item, list) and item:
                self.sequence(item, indent + 2)
            else:
                self.scalar(item, indent)

    def scalar(self, value: Value, indent: int) -> None:
        """Append what is no mapping or sequence with anything in it, and a line end."""
        if isinstance(value, str):
            text = string(value, indent, self.column)
        elif isinstance(value, float):
            text = _yaml_float(value)
        elif isinstance(value, bool):
            text = "true" if value else "false"
        elif isinstance(value, int):
            text = int.__repr__(value)
        elif isinstance(value, dict | list):
            text = "[]" if isinstance(value, list) else "{}"
        elif value is None:
            text = "null"
        else:
            raise FunctionError(f"a {type_name(value)} has no form in YAML")
        self.put(text + "\n")


def _yaml_float(value: float) -> str:
    """Return a float: through JSON, where a whole number has no point."""
    text = json_float(value)
    if _INTEGER.fullmatch(text) and -(2**63) <= int(text) < 2**64:
        return str(int(text))
    return float_text(value)


@lru_cache(maxsize=1024)
def resolves(text: str) -> bool:
    """Return whether YAML 1.1 would read a bare text as something other than a string."""
    if not text or text in _RESERVED:
        return True
    first = text[0]
    if first == ".":
        return _is_float(text)
    if first not in "+-0123456789":
        return False
    if _is_timestamp(text):
        return True
    bare = text.replace("_", "")
    if _INTEGER.fullmatch(bare) or (_FLOAT.fullmatch(bare) and _is_float(bare)):
        return True
    return _SEXAGESIMAL.fullmatch(text) is not None


def _is_float(text: str) -> bool:
    """Return whether Go reads a text as a float64 that is not too large."""
    if not _FLOAT.fullmatch(text):
        return False
    return abs(float(text)) != float("inf")


def _is_timestamp(text: str) -> bool:
    """Return whether a text is a date, or a date and time, that exists."""
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        return False
    numbers = [int(part) for part in found.groups()[:3]]
    clock = [part for part in found.group(4, 5, 6, 8, 9, 10) if part is not None]
    try:
        date(max(numbers[0], 1), numbers[1], numbers[2])
    except ValueError:
        return False
    limits = (23, 59, 59)
    return all(int(part) <= limit for part, limit in zip(clock, limits, strict=False))


def string(text: str, indent: int, column: int, *, is_key: bool = False) -> str:
    """Return a string as a scalar in the style that go-yaml chooses.

    It begins at ``column``; lines after the first are indented by two more than ``indent``.

    Raises:
        FunctionError: YAML cannot hold one of its characters.
    """
    if text.isascii() and text.isalnum() and not resolves(text):
        return text
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        from base64 import b64encode

        return f"!!binary {b64encode(utf8(text)).decode()}"
    forbidden = _FORBIDDEN.search(text)
    if forbidden:
        raise FunctionError(f"YAML cannot hold the character {forbidden.group()!r}")
    style = Analysis(text)
    fold = None if is_key else Folder(column, indent + 2)
    if "\n" in text:
        if style.block and not is_key:
            return _literal(text, indent)
        return _double_quoted(text, fold)
    if resolves(text):
        return _double_quoted(text, fold)
    if style.plain:
        return fold.folded(text) if fold else text
    if style.single and not (is_key and style.multiline):
        text = text.replace("'", "''")
        return f"'{fold.folded(text, quote=1) if fold else text}'"
    return _double_quoted(text, fold)


class Folder:
    """Breaks scalars at the first single blank beyond ``MAX_COLUMN``."""

    def __init__(self, column: int, indent: int) -> None:
        self.column = column
        self.pad = "\n" + " " * indent

    def folded(self, text: str, quote: int = 0) -> str:
        """Return a plain or single-quoted scalar in lines; ``quote`` is the quote's width."""
        if self.column + len(text) <= MAX_COLUMN or " " not in text:
            return text
        out = []
        column = self.column + quote
        before = ""
        for place, char in enumerate(text):
            inside = not quote or 0 < place < len(text) - 1
            lone = char == " " != before and text[place + 1 : place + 2] != " "
            if lone and inside and column > MAX_COLUMN:
                out.append(self.pad)
                column = len(self.pad) - 1
            else:
                out.append(char)
                column += 1
            before = char
        return "".join(out)


class Analysis:
    """Which styles can hold a text."""

    __slots__ = ("block", "multiline", "plain", "single")

    def __init__(self, text: str) -> None:
        first, last = text[:1], text[-1:]
        special = not text.isascii() or not text.isprintable()
        special = special and not all(_printable(char) for char in text)
        breaks = bool(_BREAKS & set(text))
        break_space = bool(re.search(r"[\n\r\x85\u2028\u2029] ", text))
        space_break = bool(re.search(r" [\n\r\x85\u2028\u2029]", text))
        indicator = (
            text.startswith(("---", "..."))
            or first in set("#,[]{}&*!|>'\"%@`")
            or (first in {"?", ":", "-"} and text[1:2] in {"", " ", "\t"})
            or bool(re.search(r":(?=[ \t]|\Z)|(?<=[ \t\n\r\x85\u2028\u2029])#", text[1:]))
            or bool(re.match(r"[ \t\n\r\x85\u2028\u2029]#", text))
        )
        edges = first == " " or last == " " or first in _BREAKS or last in _BREAKS
        self.multiline = breaks
        self.plain = not (indicator or edges or breaks or special or break_space or space_break)
        self.single = not (break_space or space_break or special)
        self.block = not (last == " " or space_break or special)


def _printable(char: str) -> bool:
    """Return whether go-yaml takes a character as printable."""
    code = ord(char)
    if code < 0x80:
        return code == 0x0A or 0x20 <= code <= 0x7E
    if code == 0xFEFF or 0xD800 <= code <= 0xDFFF or code in {0xFFFE, 0xFFFF}:
        return False
    return code >= 0xA0 and code <= 0xFFFF


def _double_quoted(text: str, fold: Folder | None) -> str:
    out = ['"']
    column = fold.column + 1 if fold else 0
    before = ""
    for place, char in enumerate(text):
        piece = char
        if char in '"\\' or char in _BREAKS or not _printable(char):
            piece = "\\" + _yaml_escape(ord(char))
        elif char == " " != before and fold and 0 < place < len(text) - 1 and column > MAX_COLUMN:
            # A blank at the start of a line needs a backslash to count.
            piece = fold.pad + ("\\" if text[place + 1] == " " else "")
            column = -1
        out.append(piece)
        column += len(piece)
        before = char if len(piece) == 1 or piece.startswith("\n") else ""
    out.append('"')
    return "".join(out)


def _yaml_escape(code: int) -> str:
    """Return what stands behind the backslash of an escaped character."""
    letter = _YAML_ESCAPES.get(code)
    if letter is not None:
        return letter
    if code <= 0xFF:
        return f"x{code:02X}"
    return f"u{code:04X}" if code <= 0xFFFF else f"U{code:08X}"


def _literal(text: str, indent: int) -> str:
    """Return a text of several lines as a block scalar, without its final newline."""
    hint = "2" if text[0] == " " or text[0] in _BREAKS else ""
    chomp = ""
    if text[-1] not in _BREAKS:
        chomp = "-"
    elif len(text) == 1 or text[-2] in _BREAKS:
        chomp = "+"
    pad = " " * (indent + 2)
    lines = [pad + line if line else "" for line in text.split("\n")]
    body = "\n".join(lines)
    if text[-1] == "\n":
        body = body[:-1]
    return f"|{hint}{chomp}\n{body}"


def natural_order(keys: dict[str, Value]) -> list[str]:
    """Return the keys in the order in which go-yaml writes them: numbers by their value."""
    found = sorted(keys)
    if all(key.isascii() and key.isalpha() for key in found):
        return found
    return sorted(found, key=cmp_to_key(_compare))


def _compare(first: str, second: str) -> int:
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one == other:
            continue
        if one.isalpha() and other.isalpha():
            return -1 if one < other else 1
        if one.isalpha() or other.isalpha():
            return -1 if other.isalpha() else 1
        return _compare_numbers(first, second, index)
    return len(first) - len(second)


def _compare_numbers(first: str, second: str, index: int) -> int:
    """Compare two keys that differ first at ``index``, where neither has a letter."""
    lead = 0
    if "0" in {first[index], second[index]}:
        back = index - 1
        while back >= 0 and first[back].isdecimal():
            if first[back] != "0":
                lead = 1
                break
            back -= 1
    numbers = []
    for text in (first, second):
        end = index
        number = lead
        while end < len(text) and text[end].isdecimal():
            number = number * 10 + ord(text[end]) - ord("0")
            end += 1
        numbers.append((number, end))
    if numbers[0] != numbers[1]:
        return -1 if numbers[0] < numbers[1] else 1
    return -1 if first[index] < second[index] else 1
