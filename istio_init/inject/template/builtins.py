"""The functions that every Go template has."""

from __future__ import annotations

from istio_init.inject.template.errors import FunctionError, LimitError
from istio_init.inject.template.functions import Registry
from istio_init.inject.template.printing import MAX_TEXT, printed, sprint
from istio_init.inject.template.values import (
    NilPointer,
    StringMap,
    Struct,
    Uint8,
    Value,
    byte_length,
    from_utf8,
    is_true,
    kind_name,
    type_name,
    utf8,
)

BUILTINS = Registry()
_BASIC = {bool: "bool", int: "int", float: "float", str: "string", complex: "complex"}
_HTML = str.maketrans(
    {"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"}
)
_JS = {
    "\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026",
    "=": "\\u003D",
}  # fmt: skip


@BUILTINS.add("and or", "value; ...value")
def _never(*_values: Value) -> Value:
    """Stand for what the evaluator does itself, because it may not look at all arguments."""
    raise AssertionError


@BUILTINS.add("not", "value", gives_text=False)
def _not(value: Value) -> bool:
    return not is_true(value)


def basic_kind(value: Value) -> str:
    """Return in which way a value compares, or ``""`` for what has no order."""
    kind = _BASIC.get(type(value))
    if kind is not None:
        return kind
    for base, name in _BASIC.items():
        if isinstance(value, base):
            return name
    return ""


def equal(first: Value, *others: Value) -> bool:
    """Return whether the first value equals any of the others, as Go's ``eq`` decides."""
    if not others:
        raise FunctionError("there is nothing to compare with")
    kind = basic_kind(first)
    return any(_equal(kind, first, other) for other in others)


BUILTINS.add("eq", "value; ...value", gives_text=False)(equal)


def _equal(kind: str, first: Value, other: Value) -> bool:
    if kind != basic_kind(other):
        if first is None or other is None:
            return False
        raise FunctionError(f"{type_name(first)} and {type_name(other)} cannot be compared")
    if kind:
        return first == other
    nil, other_nil = _is_nil(first), _is_nil(other)
    if first is not None and other is not None and kind_name(first) != kind_name(other):
        raise FunctionError(f"{type_name(first)} and {type_name(other)} cannot be compared")
    if nil or other_nil:
        return nil is other_nil
    if isinstance(other, dict | list):
        raise FunctionError(f"{type_name(other)} cannot be compared")
    if isinstance(first, Struct) and isinstance(other, Struct) and not first.type.pointer:
        return first.type is other.type and first.data == other.data
    return first is other


def _is_nil(value: Value) -> bool:
    return value is None or isinstance(value, NilPointer)


@BUILTINS.add("ne", "value; value", gives_text=False)
def _not_equal(first: Value, second: Value) -> bool:
    return not equal(first, second)


def less(first: Value, second: Value) -> bool:
    """Return whether the first value is less than the second, as Go's ``lt`` decides."""
    kind, other = basic_kind(first), basic_kind(second)
    for value, name in ((first, kind), (second, other)):
        if not name:
            raise FunctionError(f"{type_name(value)} has no order")
    if kind != other:
        raise FunctionError(f"{type_name(first)} and {type_name(second)} cannot be compared")
    if kind in {"bool", "complex"}:
        raise FunctionError(f"{type_name(first)} has no order")
    if kind == "string":
        return utf8(str(first)) < utf8(str(second))
    return first < second  # type: ignore[operator, no-any-return]


@BUILTINS.add("lt", "value; value", gives_text=False)
def _lt(first: Value, second: Value) -> bool:
    return less(first, second)


@BUILTINS.add("le", "value; value", gives_text=False)
def _le(first: Value, second: Value) -> bool:
    return less(first, second) or equal(first, second)


@BUILTINS.add("gt", "value; value", gives_text=False)
def _gt(first: Value, second: Value) -> bool:
    return not _le(first, second)


@BUILTINS.add("ge", "value; value", gives_text=False)
def _ge(first: Value, second: Value) -> bool:
    return not less(first, second)


@BUILTINS.add("len", "value", gives_text=False)
def _len(value: Value) -> int:
    if isinstance(value, str):
        return byte_length(value)
    if isinstance(value, dict | list):
        return len(value)
    if _is_nil(value):
        raise FunctionError("nil has no length")
    raise FunctionError(f"a {type_name(value)} has no length")


def position(index: Value, limit: int) -> int:
    """Return an index as a number from 0 to ``limit``."""
    if index is None:
        raise FunctionError("nil is no index")
    if not isinstance(index, int) or isinstance(index, bool):
        raise FunctionError(f"a {type_name(index)} is no index")
    if not 0 <= index <= limit:
        raise FunctionError(f"the index {int(index)} is out of range")
    return int(index)


@BUILTINS.add("index", "value; ...value")
def _index(value: Value, *indexes: Value) -> Value:
    if value is None:
        raise FunctionError("nil has no elements")
    for index in indexes:
        if isinstance(value, dict):
            value = _of_map(value, index)
        elif isinstance(value, list):
            at = position(index, len(value))
            if at == len(value):
                raise FunctionError(f"the index {at} is out of range")
            value = value[at]
        elif isinstance(value, str):
            data = utf8(value)
            at = position(index, len(data))
            if at == len(data):
                raise FunctionError(f"the index {at} is out of range")
            value = Uint8(data[at])
        elif _is_nil(value):
            raise FunctionError("nil has no elements")
        else:
            raise FunctionError(f"a {type_name(value)} has no elements")
    return value


def _of_map(value: dict[str, Value], key: Value) -> Value:
    if not isinstance(key, str):
        if key is None:
            raise FunctionError("nil is no key; it should be of type string")
        raise FunctionError(f"a {type_name(key)} is no key; it should be of type string")
    return value.get(key, "" if isinstance(value, StringMap) else None)


@BUILTINS.add("slice", "value; ...value")
def cut(value: Value, *indexes: Value) -> Value:
    """Return a part of a string or list."""
    if _is_nil(value):
        raise FunctionError("nil has no parts")
    if len(indexes) > 3:
        raise FunctionError(f"a slice has at most 3 indexes, not {len(indexes)}")
    if not isinstance(value, str | list):
        raise FunctionError(f"a {type_name(value)} has no parts")
    if isinstance(value, str) and len(indexes) == 3:
        raise FunctionError("a string takes no third index")
    data: bytes | list[Value] = utf8(value) if isinstance(value, str) else value
    numbers = [position(index, len(data)) for index in indexes]
    bounds = [*numbers, *[0, len(data), len(data)][len(numbers) :]]
    for low, high in ((bounds[0], bounds[1]), (bounds[1], bounds[2])):
        if low > high:
            raise FunctionError(f"the index {low} is greater than {high}")
    part = data[bounds[0] : bounds[1]]
    return from_utf8(part) if isinstance(part, bytes) else part


@BUILTINS.add("call", "value; ...value")
def _call(function: Value, *_arguments: Value) -> Value:
    if function is None:
        raise FunctionError("nil is no function")
    raise FunctionError(f"a {type_name(function)} is no function")


# Printing


@BUILTINS.add("print", "...any")
def _print(*values: Value) -> str:
    return sprint(values)


@BUILTINS.add("println", "...any")
def _println(*values: Value) -> str:
    return " ".join(printed(value) for value in values) + "\n"


@BUILTINS.add("printf", "string; ...any")
def _printf(pattern: str, *values: Value) -> str:
    from istio_init.inject.template.printf import sprintf

    return sprintf(pattern, values)


def joined(values: tuple[Value, ...]) -> str:
    """Return the printed arguments of an escaping function."""
    if len(values) == 1:
        return "<no value>" if values[0] is None else printed(values[0])
    return sprint(tuple("<no value>" if value is None else value for value in values))


def bounded(text: str) -> str:
    """Return a text that is not too long.

    Raises:
        LimitError: it is.
    """
    if len(text) > MAX_TEXT:
        raise LimitError(f"the text would be longer than {MAX_TEXT} characters")
    return text


@BUILTINS.add("html", "...any")
def _html(*values: Value) -> str:
    return bounded(joined(values).translate(_HTML))


@BUILTINS.add("js", "...any")
def _js(*values: Value) -> str:
    out = []
    for char in joined(values):
        if char in _JS:
            out.append(_JS[char])
        elif char < " " or (char >= "\x7f" and not char.isprintable()):
            code = "00" + f"{ord(char):02X}" if char < " " else f"{ord(char):04X}"
            out.append(f"\\u{code}")
        else:
            out.append(char)
    return bounded("".join(out))


@BUILTINS.add("urlquery", "...any")
def _urlquery(*values: Value) -> str:
    from urllib.parse import quote_plus

    return bounded(quote_plus(utf8(joined(values)), safe="~"))
