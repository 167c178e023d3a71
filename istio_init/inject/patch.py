"""The JSON patch (RFC 6902) that makes the injected pod of the original one.

Own code: for a pod of Istio's default template it takes 0.07 ms, the library jsonpatch 0.36 ms,
which is a tenth of a core at 300 pods a second. And where istio-proxy comes first and the user's
container changes too, jsonpatch removes that container and adds it again, with 4 operations in
place of 2.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Json = Any
    Operation = dict[str, Json]

# The fields that tell items of a pod's lists apart; the first that an item has.
_IDENTITIES = ("name", "mountPath", "devicePath", "containerPort", "ip", "topologyKey", "uid")
# The longest common subsequence takes the product of both lengths, this much in 12 ms. Where
# more of a list has changed than that, all of it is replaced.
_MOST_COMPARISONS = 1 << 16


def json_patch(original: Json, wanted: Json) -> list[Operation]:
    """Return the operations that turn ``original`` into ``wanted``, in their order.

    Equal values have no operations. Numbers are equal only when they are written the same way:
    ``1`` is neither ``1.0`` nor ``true``.
    """
    return list(_changes("", original, wanted))


def is_same(one: Json, other: Json) -> bool:
    """Say whether two JSON values are equal, types included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return bool(one == other)


def _changes(path: str, original: Json, wanted: Json) -> Iterator[Operation]:
    if isinstance(original, dict) and isinstance(wanted, dict):
        yield from _object_changes(path, original, wanted)
    elif isinstance(original, list) and isinstance(wanted, list):
        yield from _list_changes(path, original, wanted)
    elif not is_same(original, wanted):
        yield {"op": "replace", "path": path, "value": wanted}


def _object_changes(
    path: str, original: dict[str, Json], wanted: dict[str, Json]
) -> Iterator[Operation]:
    for key in original:
        if key not in wanted:
            yield {"op": "remove", "path": f"{path}/{_escaped(key)}"}
    for key, value in wanted.items():
        below = f"{path}/{_escaped(key)}"
        if key in original:
            yield from _changes(below, original[key], value)
        else:
            yield {"op": "add", "path": below, "value": value}


def _list_changes(path: str, original: list[Json], wanted: list[Json]) -> Iterator[Operation]:
    """Yield the changes of a list; each position counts what the changes before it have done."""
    pairs = _pairs([_identity(item) for item in original], [_identity(item) for item in wanted])
    if pairs is None:
        if not is_same(original, wanted):
            yield {"op": "replace", "path": path, "value": wanted}
        return
    position = done = taken = 0
    for old, new in (*pairs, (len(original), len(wanted))):
        for _ in range(taken, old):
            yield {"op": "remove", "path": f"{path}/{position}"}
        for item in wanted[done:new]:
            yield {"op": "add", "path": f"{path}/{position}", "value": item}
            position += 1
        if old < len(original):
            yield from _changes(f"{path}/{position}", original[old], wanted[new])
        position, done, taken = position + 1, new + 1, old + 1


def _identity(item: Json) -> str:
    """Return what an item is recognised by: a name, or all of it."""
    if isinstance(item, dict):
        for field in _IDENTITIES:
            if field in item:
                return json.dumps([field, item[field]], sort_keys=True)
    return json.dumps(item, sort_keys=True)


def _pairs(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]] | None:
    """Return the positions of a longest common subsequence, or None where it would take long."""
    start, shorter = 0, min(len(old), len(new))
    while start < shorter and old[start] == new[start]:
        start += 1
    end = 0
    while end < shorter - start and old[-1 - end] == new[-1 - end]:
        end += 1
    first, second = old[start : len(old) - end], new[start : len(new) - end]
    if len(first) * len(second) > _MOST_COMPARISONS:
        return None
    return [
        *((position, position) for position in range(start)),
        *((start + one, start + other) for one, other in _common(first, second)),
        *((len(old) - position, len(new) - position) for position in range(end, 0, -1)),
    ]


def _common(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the positions of a longest common subsequence, by dynamic programming."""
    # lengths[i][j] is that of what is common from i and j on.
    lengths = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i in range(len(old) - 1, -1, -1):
        for j in range(len(new) - 1, -1, -1):
            if old[i] == new[j]:
                lengths[i][j] = lengths[i + 1][j + 1] + 1
            else:
                lengths[i][j] = max(lengths[i + 1][j], lengths[i][j + 1])
    i = j = 0
    while i < len(old) and j < len(new):
        if old[i] == new[j]:
            yield i, j
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1


def _escaped(key: str) -> str:
    """Return a key as a JSON pointer (RFC 6901) spells it."""
    return key.replace("~", "~0").replace("/", "~1")
