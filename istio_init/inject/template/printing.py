"""How Go's fmt prints values: ``%v`` and the verbs of Printf."""

from __future__ import annotations

import re
from typing import TypeAlias

from istio_init.inject.template.errors import FunctionError, LimitError
from istio_init.inject.template.values import (
    Enum,
    NilPointer,
    Struct,
    Uint8,
    Value,
    kind_name,
    type_name,
    utf8,
)

MAX_TEXT = 1 << 20
MAX_WIDTH = 10_000

Flags: TypeAlias = frozenset[str]

_VERB = re.compile(r"%([-+# 0]*)(\*|[0-9]+)?(?:(\.)(\*|[0-9]+)?)?(.)?", re.DOTALL)
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

    def value(self, value: Value, top: bool = False) -> None:
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
                self.struct(value, top)
            case NilPointer():
                self.put("<nil>")
            case _:
                self.put(str(value))

    def struct(self, value: Struct, top: bool) -> None:
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
        return int.__repr__(value)  # type: ignore[arg-type]
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


def quoted(text: str, ascii_only: bool = False) -> str:
    """Return Go's ``%q`` of a string."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    out = ['"']
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        else:
            out.append(escaped(char, ascii_only))
    out.append('"')
    return "".join(out)


def escaped(char: str, ascii_only: bool) -> str:
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


# Printf


def sprintf(pattern: str, values: tuple[Value, ...]) -> str:
    """Return Go's Sprintf; wrong verbs and missing operands are text in it, as in Go."""
    printer = Printer()
    rest = list(values)
    taken = 0
    end = 0
    for found in _VERB.finditer(pattern):
        printer.put(pattern[end : found.start()])
        end = found.end()
        flags, width, point, precision, verb = found.groups()
        try:
            flags, width_number, taken = _star(flags, width, rest, taken)
            _, precision_number, taken = _star("", precision, rest, taken, bad="PREC")
        except _Bad as bad:
            printer.put(bad.text)
            continue
        if verb is None:
            printer.put("%!(NOVERB)")
            continue
        if verb == "%":
            printer.put("%")
            continue
        if taken >= len(rest):
            printer.put(f"%!{verb}(MISSING)")
            continue
        if point and precision_number is None:
            precision_number = 0
        value = rest[taken]
        taken += 1
        printer.put(formatted(verb, flags, width_number, precision_number, value))
    printer.put(pattern[end:])
    if taken < len(rest):
        printer.put("%!(EXTRA ")
        for number, value in enumerate(rest[taken:]):
            if number:
                printer.put(", ")
            if value is None:
                printer.put("<nil>")
            else:
                printer.put(f"{type_name(value)}=")
                printer.value(value, top=True)
        printer.put(")")
    return "".join(printer.parts)


class _Bad(Exception):  # noqa: N818
    """A width or precision that Printf complains about in its text."""

    def __init__(self, text: str) -> None:
        self.text = text


def _star(
    flags: str, text: str | None, values: list[Value], taken: int, bad: str = "WIDTH"
) -> tuple[str, int | None, int]:
    """Return flags, the width or precision of ``text``, and how many operands are taken."""
    if text is None:
        return flags, None, taken
    if text == "*":
        number = values[taken] if taken < len(values) else None
        if not isinstance(number, int) or isinstance(number, bool) or abs(number) > 1_000_000:
            raise _Bad(f"%!(BAD{bad})")
        taken += 1
        if number < 0:
            if bad == "PREC":
                raise _Bad("%!(BADPREC)")
            flags, number = flags + "-", -number
    else:
        number = int(text)
    if number > MAX_WIDTH:
        raise LimitError(f"printf pads to {MAX_WIDTH} characters at most, not {number}")
    return flags, number, taken


def formatted(verb: str, flags: str, width: int | None, precision: int | None, value: Value) -> str:
    """Return one operand under one verb."""
    if verb == "T":
        return padded("<nil>" if value is None else type_name(value), flags, width)
    if isinstance(value, Enum) and verb in "vsq":
        value = value.name
    if verb == "v" and "#" in flags:
        return padded(go_syntax(value), flags, width)
    match value:
        case None:
            return padded("<nil>" if verb == "v" else f"%!{verb}(<nil>)", flags, width)
        case bool():
            if verb in "tv":
                return padded("true" if value else "false", flags, width)
        case int():
            text = _integer(verb, flags, width, precision, value)
            if text is not None:
                return text
        case float():
            if verb in "veEfFgGxXb":
                return _float(verb, flags, width, precision, value)
        case str():
            if verb in "vsqxX":
                return _string(verb, flags, width, precision, value)
        case list() | dict() | Struct():
            return _compound(verb, flags, width, precision, value)
        case _:
            if verb in "vs":
                return padded(printed(value), flags, width)
    return f"%!{verb}({type_name(value)}={printed(value)})"


def padded(text: str, flags: str, width: int | None, zero: bool = False) -> str:
    """Return ``text`` in ``width`` characters."""
    if not width or len(text) >= width:
        return text
    if "-" in flags:
        return text.ljust(width)
    if zero and "0" in flags:
        sign = text[:1] if text[:1] in {"+", "-", " "} else ""
        return sign + text[len(sign) :].rjust(width - len(sign), "0")
    return text.rjust(width)


def _integer(
    verb: str, flags: str, width: int | None, precision: int | None, value: int
) -> str | None:
    """Return an integer under ``verb``, or ``None`` where integers have no such verb."""
    if verb == "c":
        char = chr(value) if 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000 else "\ufffd"
        return padded(char, flags, width)
    if verb == "q":
        char = chr(value) if 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000 else "\ufffd"
        inner = "\\" + char if char in "'\\" else escaped(char, "+" in flags)
        return padded(f"'{inner}'", flags, width)
    if verb == "U":
        return padded(f"U+{value:04X}", flags, width)
    spelled = {"v": "d", "d": "d", "b": "b", "o": "o", "O": "o", "x": "x", "X": "X"}.get(verb)
    if spelled is None:
        return None
    digits = format(abs(value), spelled)
    if precision is not None:
        digits = "" if precision == 0 and value == 0 else digits.rjust(precision, "0")
    prefix = {"O": "0o", "x": "0x", "X": "0X", "o": "0", "b": "0b"}.get(verb, "")
    if "#" not in flags and verb != "O":
        prefix = ""
    sign = "-" if value < 0 else "+" if "+" in flags else " " if " " in flags else ""
    if precision is None and "0" in flags and "-" not in flags and width:
        digits = digits.rjust(width - len(sign), "0")
    return padded(sign + prefix + digits, flags, width)


def _float(verb: str, flags: str, width: int | None, precision: int | None, value: float) -> str:
    """Return a float under ``verb``."""
    if value != value or value in {float("inf"), float("-inf")}:  # noqa: PLR0124
        text = float_text(value).lstrip("+") if "+" not in flags else float_text(value)
        return padded("+Inf" if text == "Inf" else text, flags, width)
    if verb in "xXb":
        raise FunctionError(f"printf cannot print a float with %{verb}")
    if precision is None and verb in "vgG":
        text = float_text(value)
    elif precision is None:
        text = f"{value:.6{verb}}"
    else:
        text = f"{value:{'#' if '#' in flags else ''}.{precision}{'g' if verb == 'v' else verb}}"
    if verb == "G":
        text = text.upper()
    if not text.startswith("-"):
        text = ("+" if "+" in flags else " " if " " in flags else "") + text
    return padded(text, flags, width, zero=True)


def _string(verb: str, flags: str, width: int | None, precision: int | None, value: str) -> str:
    """Return a string under ``verb``."""
    text = value if precision is None else value[:precision]
    if verb == "q":
        if "#" in flags and "`" not in text and all(c == "\t" or c.isprintable() for c in text):
            return padded(f"`{text}`", flags, width)
        return padded(quoted(text, "+" in flags), flags, width)
    if verb in "xX":
        data = utf8(value) if precision is None else utf8(value)[:precision]
        text = data.hex(" ") if " " in flags else data.hex()
        if "#" in flags and text:
            text = "0x" + text.replace(" ", " 0x")
        return padded(text.upper() if verb == "X" else text, flags, width)
    return padded(text, flags, width)


def _compound(verb: str, flags: str, width: int | None, precision: int | None, value: Value) -> str:
    """Return a map, slice or struct: the verb goes to each of its members."""

    def one(item: Value) -> str:
        if item is None and verb != "v":
            return f"%!{verb}(<nil>)"
        return formatted(verb, flags, width, precision, item)

    if isinstance(value, Struct):
        if value.type.show is not None and verb in "vsq":
            return formatted(verb, flags, width, precision, value.type.show(value))
        names = value.type.members
        text = " ".join(
            (f"{name}:" if "+" in flags else "") + one(value.member(name)) for name in names
        )
        return "{" + text + "}"
    if isinstance(value, dict):
        keys = sorted(value)
        return "map[" + " ".join(f"{one(key)}:{one(value[key])}" for key in keys) + "]"
    assert isinstance(value, list)  # noqa: S101
    return "[" + " ".join(one(item) for item in value) + "]"


def go_syntax(value: Value) -> str:
    """Return ``%#v`` of a value."""
    match value:
        case None:
            return "<nil>"
        case str():
            return quoted(value)
        case Uint8():
            return f"0x{int(value):x}"
        case float():
            return float_text(value)
        case dict():
            items = ", ".join(f"{quoted(k)}:{go_inner(value[k])}" for k in sorted(value))
            return f"{type_name(value)}{{{items}}}"
        case list():
            return f"{type_name(value)}{{{', '.join(go_inner(item) for item in value)}}}"
    if kind_name(value) in {"struct", "ptr"}:
        raise FunctionError(f"printf cannot print a {type_name(value)} with %#v")
    return printed(value)


def go_inner(value: Value) -> str:
    """Return ``%#v`` of what stands in a map or slice."""
    return "interface {}(nil)" if value is None else go_syntax(value)
