"""Which items of a list are the same in another list, however much else differs."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from istio_init.inject.plain_data import PlainValue

# What names an item of a list, the first that an item has.
_ITEM_KEYS: Final = (
    "name",
    "containerPort",
    "mountPath",
    "devicePath",
    "ip",
    "topologyKey",
    "uid",
)
_LARGEST_COMPARISON: Final = 250_000


def _identity(item: PlainValue) -> object:
    """Return what two items of a list have in common if they are the same item."""
    if isinstance(item, dict):
        for key in _ITEM_KEYS:
            if isinstance(item.get(key), str | int):
                return key, item[key]
    return repr(item)


def alignment(old: list[PlainValue], new: list[PlainValue]) -> list[tuple[int, int]]:
    """Return the pairs of indices of items that stay, in order: as many as can."""
    left, right = [_identity(one) for one in old], [_identity(one) for one in new]
    places: dict[object, list[int]] = {}
    for index, identity in enumerate(right):
        places.setdefault(identity, []).append(index)
    pairs: list[tuple[int, int]] = []
    position = 0
    for index, identity in enumerate(left):
        of_this = places.get(identity, [])
        at = bisect_left(of_this, position)
        if at < len(of_this):
            pairs.append((index, of_this[at]))
            position = of_this[at] + 1
    if len(pairs) == len(left) or len(left) * len(right) > _LARGEST_COMPARISON:
        return pairs
    return _longest_common(left, right)


def _longest_common(left: list[object], right: list[object]) -> list[tuple[int, int]]:
    lengths = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i in range(len(left) - 1, -1, -1):
        for j in range(len(right) - 1, -1, -1):
            if left[i] == right[j]:
                lengths[i][j] = lengths[i + 1][j + 1] + 1
            else:
                lengths[i][j] = max(lengths[i + 1][j], lengths[i][j + 1])
    pairs: list[tuple[int, int]] = []
    i = j = 0
    while i < len(left) and j < len(right):
        if left[i] == right[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs
