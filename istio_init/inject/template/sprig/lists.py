"""Sprig's functions over lists, and those that choose among values."""

from __future__ import annotations

from istio_init.inject.template.budget import PartCounter
from istio_init.inject.template.errors import FunctionError
from istio_init.inject.template.functions import Registry
from istio_init.inject.template.sprig.convert import (
    deep_equal,
    few,
    integer,
    is_empty,
    items,
    string,
    strings,
)
from istio_init.inject.template.values import Value, kind_name, type_name, utf8

FUNCTIONS = Registry()


@FUNCTIONS.add("list tuple", "...any")
def _list(*values: Value) -> list[Value]:
    return [*values]


@FUNCTIONS.add("append push mustAppend mustPush", "any; any")
def _append(value: Value, item: Value) -> list[Value]:
    return few([*items(value, "append to"), item])


@FUNCTIONS.add("prepend mustPrepend", "any; any")
def _prepend(value: Value, item: Value) -> list[Value]:
    return few([item, *items(value, "prepend to")])


@FUNCTIONS.add("first mustFirst", "any")
def _first(value: Value) -> Value:
    found = items(value, "take the first of")
    return found[0] if found else None


@FUNCTIONS.add("last mustLast", "any")
def _last(value: Value) -> Value:
    found = items(value, "take the last of")
    return found[-1] if found else None


@FUNCTIONS.add("rest mustRest", "any")
def _rest(value: Value) -> list[Value]:
    return items(value, "take the rest of")[1:]


@FUNCTIONS.add("initial mustInitial", "any")
def _initial(value: Value) -> list[Value]:
    return items(value, "take the initial part of")[:-1]


@FUNCTIONS.add("reverse mustReverse", "any")
def _reverse(value: Value) -> list[Value]:
    return items(value, "reverse")[::-1]


@FUNCTIONS.add("compact mustCompact", "any")
def _compact(value: Value) -> list[Value]:
    return [item for item in items(value, "compact") if not is_empty(item)]


@FUNCTIONS.add("uniq mustUniq", "any")
def _uniq(value: Value) -> list[Value]:
    parts = PartCounter()
    found: list[Value] = []
    for item in items(value, "take the distinct items of"):
        if not any(deep_equal(item, known, parts) for known in found):
            found.append(item)
    return found


@FUNCTIONS.add("without mustWithout", "any; ...any")
def _without(value: Value, *omitted: Value) -> list[Value]:
    parts = PartCounter()
    return [
        item
        for item in items(value, "leave items out of")
        if not any(deep_equal(item, known, parts) for known in omitted)
    ]


@FUNCTIONS.add("has mustHas", "any; any", gives_text=False)
def _has(needle: Value, value: Value) -> bool:
    if value is None:
        return False
    parts = PartCounter()
    return any(deep_equal(needle, item, parts) for item in items(value, "look through"))


@FUNCTIONS.add("slice mustSlice", "any; ...any")
def _slice(value: Value, *indexes: Value) -> Value:
    found = items(value, "take a slice of")
    if not found:
        return None
    start = integer(indexes[0]) if indexes else 0
    end = integer(indexes[1]) if len(indexes) > 1 else len(found)
    if not 0 <= start <= end <= len(found):
        raise FunctionError(f"the indexes {start} and {end} are out of range")
    return found[start:end]


@FUNCTIONS.add("concat", "...any")
def _concat(*values: Value) -> list[Value]:
    found: list[Value] = []
    for value in values:
        found.extend(items(value, "concatenate"))
        few(found)
    return found


@FUNCTIONS.add("chunk mustChunk", "int; any")
def _chunk(size: int, value: Value) -> list[Value]:
    found = items(value, "chunk")
    if size < 1:
        raise FunctionError(f"a chunk has at least 1 item, not {size}")
    return [found[start : start + size] for start in range(0, len(found), size)]


@FUNCTIONS.add("sortAlpha", "any")
def _sort_alpha(value: Value) -> list[str]:
    if isinstance(value, list):
        return sorted(strings(value), key=utf8)
    return [string(value)]


# Choices


@FUNCTIONS.add("default", "any; ...any", gives_text=False)
def _default(default: Value, *given: Value) -> Value:
    return default if not given or is_empty(given[0]) else given[0]


@FUNCTIONS.add("empty", "any", gives_text=False)
def _empty(value: Value) -> bool:
    return is_empty(value)


@FUNCTIONS.add("coalesce", "...any", gives_text=False)
def _coalesce(*values: Value) -> Value:
    return next((value for value in values if not is_empty(value)), None)


@FUNCTIONS.add("all", "...any", gives_text=False)
def _all(*values: Value) -> bool:
    return not any(is_empty(value) for value in values)


@FUNCTIONS.add("any", "...any", gives_text=False)
def _any(*values: Value) -> bool:
    return any(not is_empty(value) for value in values)


@FUNCTIONS.add("ternary", "any; any; bool", gives_text=False)
def _ternary(yes: Value, no: Value, condition: bool) -> Value:  # noqa: FBT001
    return yes if condition else no


# Types


@FUNCTIONS.add("typeOf", "any", gives_text=False)
def _type_of(value: Value) -> str:
    return "<nil>" if value is None else type_name(value)


@FUNCTIONS.add("typeIs", "string; any", gives_text=False)
def _type_is(name: str, value: Value) -> bool:
    return name == _type_of(value)


@FUNCTIONS.add("typeIsLike", "string; any", gives_text=False)
def _type_is_like(name: str, value: Value) -> bool:
    return _type_of(value) in {name, f"*{name}"}


@FUNCTIONS.add("kindOf", "any", gives_text=False)
def _kind_of(value: Value) -> str:
    return kind_name(value)


@FUNCTIONS.add("kindIs", "string; any", gives_text=False)
def _kind_is(name: str, value: Value) -> bool:
    return name == kind_name(value)


@FUNCTIONS.add("deepEqual", "any; any", gives_text=False)
def _deep_equal(first: Value, second: Value) -> bool:
    return deep_equal(first, second)
