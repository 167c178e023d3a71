"""Structs as plain data, and values as JSON in the way of Go's encoding/json."""

from __future__ import annotations

import re

from istio_init.inject.template.errors import FunctionError, LimitError
from istio_init.inject.template.printing import (
    MAX_TEXT,
    digits_of,
    exponent_text,
    float_text,
    positional,
)
from istio_init.inject.template.values import (
    NilPointer,
    Struct,
    StructList,
    Value,
    is_true,
    type_name,
)

# Structs


class Ordered(dict[str, Value]):
    """JSON data of a struct, whose keys keep their order."""

    __slots__ = ()


def plain(value: Value) -> Value:
    """Return a struct, or a list of structs, as JSON data; anything else as it is."""
    match value:
        case Struct():
            return plain_struct(value)
        case StructList():
            return [plain(item) for item in value]
        case NilPointer():
            return None
        case _:
            pass
    return value


def plain_struct(struct: Struct) -> Value:
    """Return a struct as JSON data, in the order of its fields."""
    if struct.type.encode is not None:
        return struct.mask(struct.type.encode(struct))
    found = Ordered()
    for name, member in struct.type.members.items():
        if member.key == "-":
            continue
        value = struct.member(name)
        if member.omit == "zero":
            empty = not is_true(value)
        else:
            empty = member.omit == "nil" and struct.data.get(member.key) is None
        if empty:
            continue
        found[member.key] = plain(value)
    return struct.mask(found)


# JSON

_ESCAPES = {
    '"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f",
    "\u2028": "\\u2028", "\u2029": "\\u2029",
}  # fmt: skip
_MARKUP = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
_PLAIN_STRING = re.compile(r"[ !#-%\'-;=?-\[\]-~]*")


class JsonWriter:
    """Gathers JSON text up to a limit; ``indent`` makes it one item a line."""

    def __init__(self, *, markup: bool = True, indent: str = "") -> None:
        self.parts: list[str] = []
        self.left = MAX_TEXT
        self.markup = markup
        self.indent = indent

    def put(self, text: str) -> None:
        """Append text."""
        self.left -= len(text) + 1
        if self.left < 0:
            raise LimitError(f"the text would be longer than {MAX_TEXT} characters")
        self.parts.append(text)

    def value(self, value: Value, depth: int = 0) -> None:
        """Append a value."""
        match value:
            case None | NilPointer():
                self.put("null")
            case bool():
                self.put("true" if value else "false")
            case str():
                self.string(value)
            case int():
                self.put(int.__repr__(value))
            case float():
                self.put(json_float(value))
            case dict():
                items = [(key, value[key]) for key in sorted(value)]
                self.block("{", "}", items, depth)
            case list():
                self.block("[", "]", [(None, item) for item in value], depth)
            case Struct():
                found = plain(value)
                if isinstance(found, dict):
                    self.block("{", "}", list(found.items()), depth)
                else:
                    self.value(found, depth)
            case _:
                raise FunctionError(f"a {type_name(value)} has no form in JSON")

    def block(
        self, start: str, end: str, items: list[tuple[str | None, Value]], depth: int
    ) -> None:
        """Append an object or array."""
        self.put(start)
        for number, (key, item) in enumerate(items):
            if number:
                self.put(",")
            if self.indent:
                self.put("\n" + self.indent * (depth + 1))
            if key is not None:
                self.string(key)
                self.put(": " if self.indent else ":")
            if type(item) is Ordered:
                self.block("{", "}", list(item.items()), depth + 1)
            else:
                self.value(item, depth + 1)
        if self.indent and items:
            self.put("\n" + self.indent * depth)
        self.put(end)

    def string(self, text: str) -> None:
        """Append a string."""
        if _PLAIN_STRING.fullmatch(text):
            self.put(f'"{text}"')
            return
        out = ['"']
        for char in text:
            code = ord(char)
            if char in _ESCAPES:
                out.append(_ESCAPES[char])
            elif self.markup and char in _MARKUP:
                out.append(_MARKUP[char])
            elif code < 0x20:
                out.append(f"\\u{code:04x}")
            elif 0xD800 <= code <= 0xDFFF:
                out.append("\\ufffd")
            else:
                out.append(char)
        out.append('"')
        self.put("".join(out))


def json_float(value: float) -> str:
    """Return a float as encoding/json writes it."""
    if value != value or value in {float("inf"), float("-inf")}:  # noqa: PLR0124
        raise FunctionError(f"{float_text(value)} has no form in JSON")
    digits, point = digits_of(value)
    sign = "-" if str(value).startswith("-") else ""
    if value and not 1e-6 <= abs(value) < 1e21:
        text = exponent_text(digits, point - 1)
        # Negative exponents below ten lose their zero.
        return sign + re.sub(r"e-0(\d)$", r"e-\1", text)
    return sign + positional(digits, point)


def json_text(value: Value, *, markup: bool = True, indent: str = "") -> str:
    """Return a value as JSON; ``markup`` escapes ``<``, ``>`` and ``&``."""
    writer = JsonWriter(markup=markup, indent=indent)
    writer.value(value)
    return "".join(writer.parts)
