"""Sprig's functions over maps. Where Go's order is random, it is by key here."""

from __future__ import annotations

from istio_init.inject.template.budget import PartCounter
from istio_init.inject.template.errors import FunctionError
from istio_init.inject.template.functions import Registry
from istio_init.inject.template.sprig.convert import deep_copy, is_empty, string
from istio_init.inject.template.values import NilMap, StringMap, Value, kind_name

FUNCTIONS = Registry()


@FUNCTIONS.add("dict", "...any")
def _dict(*values: Value) -> dict[str, Value]:
    pairs = [*values, ""] if len(values) % 2 else values
    return {string(key): value for key, value in zip(pairs[::2], pairs[1::2], strict=True)}


@FUNCTIONS.add("get", "map[string]any; string", gives_text=False)
def _get(values: dict[str, Value], key: str) -> Value:
    return values.get(key, "")


@FUNCTIONS.add("set", "map[string]any; string; any", gives_text=False)
def _set(values: dict[str, Value], key: str, value: Value) -> dict[str, Value]:
    if isinstance(values, NilMap):
        raise FunctionError("nil is no map that could be changed")
    if _holds(value, values, PartCounter()):
        raise FunctionError("a map cannot be put into itself")
    values[key] = value
    return values


def _holds(value: Value, wanted: Value, parts: PartCounter) -> bool:
    """Return whether ``wanted`` is ``value`` or somewhere in it."""
    parts.one()
    if value is wanted:
        return True
    if isinstance(value, dict):
        return any(_holds(item, wanted, parts) for item in value.values())
    return isinstance(value, list) and any(_holds(item, wanted, parts) for item in value)


@FUNCTIONS.add("unset", "map[string]any; string", gives_text=False)
def _unset(values: dict[str, Value], key: str) -> dict[str, Value]:
    values.pop(key, None)
    return values


@FUNCTIONS.add("hasKey", "map[string]any; string", gives_text=False)
def _has_key(values: dict[str, Value], key: str) -> bool:
    return key in values


@FUNCTIONS.add("pluck", "string; ...map[string]any")
def _pluck(key: str, *maps: dict[str, Value]) -> list[Value]:
    return [values[key] for values in maps if key in values]


@FUNCTIONS.add("keys", "...map[string]any")
def _keys(*maps: dict[str, Value]) -> list[str]:
    return [key for values in maps for key in sorted(values)]


@FUNCTIONS.add("values", "map[string]any")
def _values(values: dict[str, Value]) -> list[Value]:
    return [values[key] for key in sorted(values)]


@FUNCTIONS.add("pick", "map[string]any; ...string")
def _pick(values: dict[str, Value], *keys: str) -> dict[str, Value]:
    return {key: values[key] for key in keys if key in values}


@FUNCTIONS.add("omit", "map[string]any; ...string")
def _omit(values: dict[str, Value], *keys: str) -> dict[str, Value]:
    return {key: value for key, value in values.items() if key not in keys}


def _merge(
    into: dict[str, Value], source: dict[str, Value], parts: PartCounter, *, overwrite: bool
) -> None:
    """Put what ``source`` has into ``into``: only what is missing or empty, or everything."""
    for key, value in source.items():
        parts.one()
        known = into.get(key)
        if isinstance(known, dict) and isinstance(value, dict) and known:
            _merge(known, value, parts, overwrite=overwrite)
        elif overwrite or key not in into or is_empty(known):
            into[key] = deep_copy(value, parts) if isinstance(value, dict) else value


@FUNCTIONS.add("merge mustMerge", "map[string]any; ...map[string]any", gives_text=False)
def _merge_maps(into: dict[str, Value], *sources: dict[str, Value]) -> dict[str, Value]:
    parts = PartCounter()
    for source in sources:
        if source is not into:
            _merge(into, source, parts, overwrite=False)
    return into


@FUNCTIONS.add(
    "mergeOverwrite mustMergeOverwrite", "map[string]any; ...map[string]any", gives_text=False
)
def _merge_overwrite(into: dict[str, Value], *sources: dict[str, Value]) -> dict[str, Value]:
    parts = PartCounter()
    for source in sources:
        if source is not into:
            _merge(into, source, parts, overwrite=True)
    return into


@FUNCTIONS.add("deepCopy mustDeepCopy", "any", gives_text=False)
def _deep_copy(value: Value) -> Value:
    if value is None:
        raise FunctionError("nil cannot be copied")
    return deep_copy(value)


@FUNCTIONS.add("dig", "...any")
def _dig(*arguments: Value) -> Value:
    if len(arguments) < 3:
        raise FunctionError("it takes at least 3 arguments: keys, a default and a map")
    *keys, default, found = arguments
    for key in keys:
        if not isinstance(key, str):
            raise FunctionError(f"a {kind_name(key)} is no key")
        if not isinstance(found, dict) or isinstance(found, StringMap):
            raise FunctionError(f'there is no map in which "{key}" could be')
        if key not in found:
            return default
        found = found[key]
    return found
