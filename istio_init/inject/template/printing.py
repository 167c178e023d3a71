"""How Go's fmt prints values: ``%v`` and the verbs of Printf."""

from __future__ import annotations

from istio_init.inject.template.errors import LimitError
from istio_init.inject.template.values import (
    Enum,
    NilPointer,
    Struct,
    Value,
)

MAX_TEXT = 1 << 20

_SIMPLE_ESCAPES = {
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
}  # fmt: skip


class Printer:
    """Gathers printed text up to a limit, so that values which share parts cannot explode."""

    def __init__(self, limit: int = MAX_TEXT) -> None:
        self.parts: list[str] = []
        self.left = limit

    def put(self, text: str) -> None:
        """Append ``text``."""
        self.left -= len(text) + 1
        if self.left < 0:
            raise LimitError(f"the text would be longer than {MAX_TEXT} characters")
        self.parts.append(text)

    def value(self, value: Value, *, top: bool = False) -> None:
        """Append ``%v`` of a value; ``top`` says that it stands in no other."""
        match value:
            case str():
                self.put(value)
            case None:
                self.put("<nil>")
            case bool():
                self.put("true" if value else "false")
            case Enum():
                self.put(value.name)
            case int():
                self.put(int.__repr__(value))
            case float():
                self.put(float_text(value))
            case complex():
                self.put(complex_text(value))
            case dict():
                self.put("map[")
                for number, key in enumerate(sorted(value)):
                    self.put(f" {key}:" if number else f"{key}:")
                    self.value(value[key])
                self.put("]")
            case list():
                self.put("[")
                for number, item in enumerate(value):
                    if number:
                        self.put(" ")
                    self.value(item)
                self.put("]")
            case Struct():
                self.struct(value, top=top)
            case NilPointer():
                self.put("<nil>")
            case _:
                self.put(str(value))

    def struct(self, value: Struct, *, top: bool) -> None:
        """Append a struct: what its String method says, or its fields in braces."""
        if value.type.show is not None:
            self.put(value.type.show(value))
            return
        if value.type.pointer and not top:
            self.put("&")
        self.put("{")
        for number, name in enumerate(value.type.members):
            if number:
                self.put(" ")
            self.value(value.member(name))
        self.put("}")


def printed(value: Value) -> str:
    """Return ``%v`` of a value."""
    kind = type(value)
    if kind is str:
        return value  # type: ignore[return-value]
    if kind is int:
        return int.__repr__(value)
    printer = Printer()
    printer.value(value, top=True)
    return "".join(printer.parts)


def sprint(values: tuple[Value, ...]) -> str:
    """Return Go's Sprint: a space between two operands neither of which is a string."""
    printer = Printer()
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            printer.put(" ")
        printer.value(value, top=True)
    return "".join(printer.parts)


def digits_of(value: float) -> tuple[str, int]:
    """Return the shortest decimal digits of ``abs(value)`` and where the point stands in them."""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, part = mantissa.partition(".")
    if part == "0":
        part = ""
    point = len(whole) + int(exponent or 0)
    digits = whole + part
    stripped = digits.lstrip("0")
    point -= len(digits) - len(stripped)
    digits = stripped.rstrip("0")
    return (digits, point) if digits else ("0", 1)


def float_text(value: float) -> str:
    """Return ``%v`` of a float64: the shortest digits, an exponent from ``1e+06`` on."""
    if value != value:  # noqa: PLR0124
        return "NaN"
    if value in {float("inf"), float("-inf")}:
        return "+Inf" if value > 0 else "-Inf"
    digits, point = digits_of(value)
    sign = "-" if str(value).startswith("-") else ""
    if point < -3 or point > 6:
        return sign + exponent_text(digits, point - 1)
    return sign + positional(digits, point)


def exponent_text(digits: str, exponent: int) -> str:
    """Return digits in exponent form."""
    head = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{head}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def positional(digits: str, point: int) -> str:
    """Return digits with their point written out."""
    if point <= 0:
        return "0." + "0" * -point + digits
    if point >= len(digits):
        return digits + "0" * (point - len(digits))
    return f"{digits[:point]}.{digits[point:]}"


def complex_text(value: complex) -> str:
    """Return ``%v`` of a complex128."""
    imaginary = float_text(value.imag)
    if imaginary[0] not in "+-":
        imaginary = "+" + imaginary
    return f"({float_text(value.real)}{imaginary}i)"


def quoted(text: str, *, ascii_only: bool = False) -> str:
    """Return Go's ``%q`` of a string."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    out = ['"']
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        else:
            out.append(escaped(char, ascii_only=ascii_only))
    out.append('"')
    return "".join(out)


def escaped(char: str, *, ascii_only: bool) -> str:
    """Return one character as it stands between Go's quotes, but for quotes and backslashes."""
    code = ord(char)
    if char in _SIMPLE_ESCAPES:
        return _SIMPLE_ESCAPES[char]
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if char.isprintable() and (code < 0x80 or not ascii_only):
        return char
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    if 0xD800 <= code <= 0xDFFF:
        return "\\ufffd"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
