"""How sprig turns any value into a number, a string or a list."""

from __future__ import annotations

import re

from istio_init.inject.template.budget import PartCounter
from istio_init.inject.template.errors import FunctionError, LimitError
from istio_init.inject.template.printing import MAX_TEXT, printed
from istio_init.inject.template.values import (
    Int64,
    NilPointer,
    Struct,
    Value,
    is_true,
    kind_name,
)

MAX_ITEMS = 100_000
_INTEGER = re.compile(
    r"[+-]?(?:0[xX](?:_?[0-9a-fA-F])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+|0(?:_?[0-7])*|[1-9](?:_?[0-9])*)"
)
_DIGITS = r"[0-9](?:_?[0-9])*"
_FLOAT = re.compile(rf"[+-]?(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?")
_HEX_FLOAT = re.compile(r"[+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)[pP][+-]?[0-9]+")
_ZERO_FRACTION = re.compile(r"(.*?)\.0*", re.DOTALL)


def wrapped(number: int) -> Int64:
    """Return a number as an int64, which starts again at its other end."""
    return Int64((number + 2**63) % 2**64 - 2**63)


def integer(value: Value) -> int:
    """Return a value as a number of 64 bits; what is no number is 0."""
    match value:
        case bool():
            return int(value)
        case int():
            return int(value)
        case float():
            if value != value or abs(value) >= 2**63:  # noqa: PLR0124
                return -(2**63)
            return int(value)
        case str():
            found = _ZERO_FRACTION.fullmatch(value)
            return parse_integer(found[1] if found else value, default=0)
        case _:
            pass
    return 0


def parse_integer(text: str, default: int) -> int:
    """Return the number that a text spells in Go's syntax, or ``default``."""
    if len(text) > 100 or not _INTEGER.fullmatch(text):
        return default
    digits = text.replace("_", "")
    bare = digits.lstrip("+-")
    octal = len(bare) > 1 and bare[0] == "0" and bare[1].isdigit()
    number = int(digits, 8 if octal else 0)
    return number if -(2**63) <= number < 2**63 else default


def floating(value: Value) -> float:
    """Return a value as a float; what is no number is 0."""
    match value:
        case bool() | int():
            return float(value)
        case float():
            return value
        case str() if len(value) < 400:
            return parse_float(value)
    return 0.0


def parse_float(text: str) -> float:
    """Return the float that a text spells in Go's syntax, or 0."""
    word = text.lstrip("+-").lower()
    if len(text) - len(word) <= 1 and word in {"inf", "infinity", "nan"}:
        return float(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if abs(number) != float("inf") else 0.0
    if _HEX_FLOAT.fullmatch(text):
        try:
            return float.fromhex(text)
        except OverflowError:
            return 0.0
    return 0.0


def string(value: Value) -> str:
    """Return a value as sprig prints it."""
    return value if isinstance(value, str) else printed(value)


def strings(value: Value) -> list[str]:
    """Return a list's items as strings, without nil; anything else as a list of one."""
    if isinstance(value, list):
        return [string(item) for item in value if item is not None]
    return [] if value is None else [string(value)]


def items(value: Value, what: str) -> list[Value]:
    """Return the items of a list.

    Raises:
        FunctionError: it is no list; ``what`` says what cannot be done with it.
    """
    if isinstance(value, list):
        return list(value)
    kind = "nil" if value is None else kind_name(value)
    raise FunctionError(f"it can only {what} a list, not a {kind}")


def is_empty(value: Value) -> bool:
    """Return whether a value is zero, empty or nil."""
    return not is_true(value)


def few(found: list[Value]) -> list[Value]:
    """Return a list that is not too long.

    Raises:
        LimitError: it is.
    """
    if len(found) > MAX_ITEMS:
        raise LimitError(f"the list would have more than {MAX_ITEMS} items")
    return found


def room_for(size: int) -> None:
    """Raise LimitError if a text of ``size`` characters is too long."""
    if size > MAX_TEXT:
        raise LimitError(f"the text would be longer than {MAX_TEXT} characters")


def deep_equal(first: Value, second: Value, parts: PartCounter | None = None) -> bool:
    """Return whether two values are of the same types and equal all through."""
    parts = parts or PartCounter()
    parts.one()
    if isinstance(first, str) and isinstance(second, str):
        return first == second
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(
            deep_equal(first[key], second[key], parts) for key in first
        )
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(
            deep_equal(one, other, parts) for one, other in zip(first, second, strict=True)
        )
    if isinstance(first, Struct) and isinstance(second, Struct):
        return first.type is second.type and first.data == second.data
    if isinstance(first, NilPointer) or isinstance(second, NilPointer):
        return first == second
    return type(first) is type(second) and first == second


def deep_copy(value: Value, parts: PartCounter | None = None) -> Value:
    """Return a copy that shares no map or list with the original."""
    parts = parts or PartCounter()
    parts.one()
    if isinstance(value, dict):
        copied = type(value)()
        for key, item in value.items():
            copied[key] = deep_copy(item, parts)
        return copied
    if type(value) is list:
        return [deep_copy(item, parts) for item in value]
    return value
