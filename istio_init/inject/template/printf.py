"""Go's Printf.

A verb that a value does not have, an operand that is missing or one too many are no
errors: they are text in the result, as in Go.
"""

from __future__ import annotations

import re

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

_INDEX = r"(?:\[([0-9]*)\])?"
_VERB = re.compile(
    rf"%([-+# 0]*){_INDEX}(\*|[0-9]+)?(?:(\.){_INDEX}(\*|[0-9]+)?)?{_INDEX}(.)?", re.DOTALL
)


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
            put(formatted(verb, flags, width_number, precision_number, value))

    def jump(self, index: str | None) -> bool:
        """Go to the operand of ``[index]``; return whether there is one."""
        if index is None:
            return True
        self.reordered = True
        number = int(index[:9] or "0")
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


def formatted(verb: str, flags: str, width: int | None, precision: int | None, value: Value) -> str:
    """Return one operand under one verb."""
    if verb == "T":
        return padded("<nil>" if value is None else type_name(value), flags, width)
    if isinstance(value, Enum) and verb in "vsq":
        value = value.name
    names = False
    if verb == "v" and "#" in flags:
        return padded(go_syntax(value), flags, width)
    if verb == "v" and "+" in flags:
        flags, names = flags.replace("+", ""), True
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
            return _compound(verb, flags, width, precision, value, names=names)
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
    if verb == "b":
        raise FunctionError("printf cannot print a float with %b")
    if verb in "xX":
        return padded(_hex_float(verb, flags, precision, value), flags, width, zero=True)
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


def _hex_float(verb: str, flags: str, precision: int | None, value: float) -> str:
    """Return a float in hexadecimal digits."""
    if precision is not None:
        raise FunctionError("printf cannot print a float with %x and a precision")
    mantissa, _, exponent = value.hex().partition("p")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    power = int(exponent)
    text = f"{mantissa}p{'-' if power < 0 else '+'}{abs(power):02}"
    if not text.startswith("-"):
        text = ("+" if "+" in flags else " " if " " in flags else "") + text
    return text.upper() if verb == "X" else text


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


def _compound(
    verb: str,
    flags: str,
    width: int | None,
    precision: int | None,
    value: Value,
    *,
    names: bool,
) -> str:
    """Return a map, slice or struct: the verb goes to each of its members."""

    def one(item: Value) -> str:
        if item is None:
            return "<nil>"
        return formatted(verb, flags, width, precision, item)

    if isinstance(value, Struct):
        if value.type.show is not None and verb in "vsq":
            return formatted(verb, flags, width, precision, value.type.show(value))
        text = " ".join(
            (f"{name}:" if names else "") + one(value.member(name)) for name in value.type.members
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
