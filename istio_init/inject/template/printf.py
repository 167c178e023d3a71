"""Go's Printf.

A verb that a value does not have, an operand that is missing or one too many are no
errors: they are text in the result, as in Go.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import NamedTuple

from istio_init.inject.template.budget import PartCounter
from istio_init.inject.template.errors import FunctionError, LimitError
from istio_init.inject.template.printing import Printer, escaped, float_text, printed, quoted
from istio_init.inject.template.values import (
    Enum,
    Struct,
    Uint8,
    Value,
    kind_name,
    type_name,
    utf8,
)

MAX_WIDTH = 10_000
MAX_STAR = 1_000_000

_INDEX = r"(?:\[([^\]]*)\])?"
_VERB = re.compile(
    rf"%([-+# 0]*){_INDEX}(\*|[0-9]+)?(?:(\.){_INDEX}(\*|[0-9]+)?)?{_INDEX}(.)?", re.DOTALL
)


class Verb(NamedTuple):
    """A verb with what stands between it and the ``%``."""

    letter: str
    flags: str
    width: int | None
    precision: int | None

    def padded(self, text: str, *, zeros: bool = False) -> str:
        """Return ``text`` in the verb's width; ``zeros`` allows them as padding."""
        width, flags = self.width, self.flags
        if not width or len(text) >= width:
            return text
        if "-" in flags:
            return text.ljust(width)
        if zeros and "0" in flags:
            sign = text[:1] if text[:1] in {"+", "-", " "} else ""
            return sign + text[len(sign) :].rjust(width - len(sign), "0")
        return text.rjust(width)

    def signed(self, text: str) -> str:
        """Return a number with the sign that the flags want."""
        if text.startswith("-"):
            return text
        return ("+" if "+" in self.flags else " " if " " in self.flags else "") + text


def sprintf(pattern: str, values: tuple[Value, ...]) -> str:
    """Return Go's Sprintf."""
    return _Format(values).text(pattern)


class _Format:
    """One call of Sprintf; ``taken`` is the index of the next operand."""

    def __init__(self, values: tuple[Value, ...]) -> None:
        self.values = values
        self.printer = Printer()
        self.taken = 0
        self.reordered = False

    def text(self, pattern: str) -> str:
        """Return the pattern with the operands in it."""
        put = self.printer.put
        end = 0
        for found in _VERB.finditer(pattern):
            put(pattern[end : found.start()])
            end = found.end()
            self.one(found)
        put(pattern[end:])
        if not self.reordered and self.taken < len(self.values):
            self.extra()
        return "".join(self.printer.parts)

    def one(self, found: re.Match[str]) -> None:
        """Print one verb."""
        flags, width_index, width, point, precision_index, precision, index, verb = found.groups()
        put = self.printer.put
        good = self.jump(width_index)
        flags, width_number = self.width(flags, width)
        good &= self.jump(precision_index)
        precision_number = self.precision(precision) if point else None
        good &= self.jump(index)
        if verb is None:
            put("%!(NOVERB)")
        elif verb == "%":
            put("%")
        elif not good:
            put(f"%!{verb}(BADINDEX)")
        elif self.taken >= len(self.values):
            put(f"%!{verb}(MISSING)")
        else:
            self.taken += 1
            value = self.values[self.taken - 1]
            put(formatted(Verb(verb, flags, width_number, precision_number), value, PartCounter()))

    def jump(self, index: str | None) -> bool:
        """Go to the operand of ``[index]``; return whether there is one."""
        if index is None:
            return True
        self.reordered = True
        number = int(index[:9]) if index.isdecimal() and index.isascii() else 0
        if not 1 <= number <= len(self.values):
            return False
        self.taken = number - 1
        return True

    def number(self, text: str, complaint: str) -> int | None:
        """Return a width or precision; ``*`` takes it from the operands."""
        if text != "*":
            number: Value = int(text[:9])
        else:
            number = self.values[self.taken] if self.taken < len(self.values) else None
            self.taken += 1
        if not isinstance(number, int) or isinstance(number, bool) or abs(number) > MAX_STAR:
            self.printer.put(complaint)
            return None
        if abs(number) > MAX_WIDTH:
            raise LimitError(f"printf pads to {MAX_WIDTH} characters at most, not {number}")
        return number

    def width(self, flags: str, text: str | None) -> tuple[str, int | None]:
        """Return the flags and the width; a negative one stands for the flag ``-``."""
        number = self.number(text, "%!(BADWIDTH)") if text else None
        if number is not None and number < 0:
            return flags + "-", -number
        return flags, number

    def precision(self, text: str | None) -> int | None:
        """Return the precision behind a point: zero where nothing stands."""
        if text is None:
            return 0
        number = self.number(text, "%!(BADPREC)")
        if number is not None and number < 0:
            self.printer.put("%!(BADPREC)")
            return None
        return number

    def extra(self) -> None:
        """Print the operands that no verb took."""
        self.printer.put("%!(EXTRA ")
        for number, value in enumerate(self.values[self.taken :]):
            if number:
                self.printer.put(", ")
            if value is None:
                self.printer.put("<nil>")
            else:
                self.printer.put(f"{type_name(value)}=")
                self.printer.value(value, top=True)
        self.printer.put(")")


def formatted(verb: Verb, value: Value, parts: PartCounter) -> str:
    """Return one operand under one verb."""
    parts.one()
    letter = verb.letter
    if letter == "T":
        return verb.padded("<nil>" if value is None else type_name(value))
    if isinstance(value, Enum) and letter in "vsq":
        value = value.name
    if letter == "v" and "#" in verb.flags:
        return verb.padded(go_syntax(value, parts))
    names = letter == "v" and "+" in verb.flags
    if names:
        verb = verb._replace(flags=verb.flags.replace("+", ""))
    text: str | None = None
    match value:
        case None:
            return verb.padded("<nil>" if letter == "v" else f"%!{letter}(<nil>)")
        case bool():
            if letter in "tv":
                text = verb.padded("true" if value else "false")
        case int():
            text = _integer(verb, value)
        case float():
            if letter in "veEfFgGxXb":
                text = _float(verb, value)
        case str():
            if letter in "vsqxX":
                text = _string(verb, value)
        case list() | dict() | Struct():
            text = _compound(verb, value, parts, names=names)
        case _:
            if letter in "vs":
                text = verb.padded(printed(value))
    return f"%!{letter}({type_name(value)}={printed(value)})" if text is None else text


def _integer(verb: Verb, value: int) -> str | None:
    """Return an integer, or ``None`` where integers have no such verb."""
    letter, flags, width, precision = verb
    if letter in "cq":
        known = 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000
        char = chr(value) if known else "\ufffd"
        if letter == "c":
            return verb.padded(char)
        inner = "\\" + char if char in "'\\" else escaped(char, ascii_only="+" in flags)
        return verb.padded(f"'{inner}'")
    if letter == "U":
        return verb.padded(f"U+{value:04X}")
    spelled = {"v": "d", "d": "d", "b": "b", "o": "o", "O": "o", "x": "x", "X": "X"}.get(letter)
    if spelled is None:
        return None
    digits = format(abs(value), spelled)
    if precision is not None:
        digits = "" if precision == 0 and value == 0 else digits.rjust(precision, "0")
    prefix = {"O": "0o", "x": "0x", "X": "0X", "o": "0", "b": "0b"}.get(letter, "")
    if "#" not in flags and letter != "O":
        prefix = ""
    sign = "-" if value < 0 else verb.signed("")
    if precision is None and "0" in flags and "-" not in flags and width:
        digits = digits.rjust(width - len(sign), "0")
    return verb.padded(sign + prefix + digits)


def _float(verb: Verb, value: float) -> str:
    letter, flags, _, precision = verb
    if not isfinite(value):
        text = float_text(value)
        return verb.padded(text.lstrip("+") if text == "NaN" else text)
    if letter == "b":
        raise FunctionError("printf cannot print a float with %b")
    if letter in "xX":
        text = _hex_float(verb, value)
    elif precision is None and letter in "vgG":
        text = float_text(value)
    elif precision is None:
        text = f"{value:.6{letter}}"
    else:
        spelled = "g" if letter == "v" else letter
        text = f"{value:{'#' if '#' in flags else ''}.{precision}{spelled}}"
    return verb.padded(verb.signed(text.upper() if letter in "GX" else text), zeros=True)


def _hex_float(verb: Verb, value: float) -> str:
    if verb.precision is not None:
        raise FunctionError("printf cannot print a float with %x and a precision")
    mantissa, _, exponent = value.hex().partition("p")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    power = int(exponent)
    return f"{mantissa}p{'-' if power < 0 else '+'}{abs(power):02}"


def _string(verb: Verb, value: str) -> str:
    letter, flags, _, precision = verb
    text = value if precision is None else value[:precision]
    if letter == "q":
        if "#" in flags and "`" not in text and all(c == "\t" or c.isprintable() for c in text):
            return verb.padded(f"`{text}`")
        return verb.padded(quoted(text, ascii_only="+" in flags))
    if letter in "xX":
        data = utf8(value) if precision is None else utf8(value)[:precision]
        text = data.hex(" ") if " " in flags else data.hex()
        if "#" in flags and text:
            text = "0x" + text.replace(" ", " 0x")
        return verb.padded(text.upper() if letter == "X" else text)
    return verb.padded(text)


def _compound(verb: Verb, value: Value, parts: PartCounter, *, names: bool) -> str:
    """Return a map, slice or struct: the verb goes to each of its members."""

    def one(item: Value) -> str:
        return "<nil>" if item is None else formatted(verb, item, parts)

    if isinstance(value, Struct):
        if value.type.show is not None and verb.letter in "vsq":
            return formatted(verb, value.type.show(value), parts)
        members = [
            (f"{name}:" if names else "") + one(value.member(name)) for name in value.type.members
        ]
        return "{" + " ".join(members) + "}"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{one(key)}:{one(value[key])}' for key in sorted(value))}]"
    items = value if isinstance(value, list) else []
    return f"[{' '.join(one(item) for item in items)}]"


def go_syntax(value: Value, parts: PartCounter) -> str:
    """Return ``%#v`` of a value."""
    parts.one()
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Uint8):
        return f"0x{int(value):x}"
    if isinstance(value, dict):
        items = [f"{quoted(key)}:{_go_part(value[key], parts)}" for key in sorted(value)]
        return f"{type_name(value)}{{{', '.join(items)}}}"
    if isinstance(value, list):
        return f"{type_name(value)}{{{', '.join(_go_part(item, parts) for item in value)}}}"
    if kind_name(value) in {"struct", "ptr"}:
        raise FunctionError(f"printf cannot print a {type_name(value)} with %#v")
    return "<nil>" if value is None else printed(value)


def _go_part(value: Value, parts: PartCounter) -> str:
    """Return ``%#v`` of what stands in a map or slice."""
    return "interface {}(nil)" if value is None else go_syntax(value, parts)
