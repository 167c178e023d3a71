"""Kubernetes' strategic merge patch over the fields of a pod.

Nothing that is given is changed, and what the patch leaves alone is shared with the
result. The rules, the order of merged lists included, are those of Kubernetes'
``strategicpatch``, as the API server's PATCH and Istio's injector apply them.
"""

from __future__ import annotations

from typing import Any

from istio_init.inject.pod_fields import POD, FieldType, Shape, fields_of
from istio_init.inject.problems import InjectionError, Where, error, quoted

_PATCH = "$patch"
_RETAIN = "$retainKeys"

_ANY = FieldType(Shape.ANY)

JsonMap = dict[str, Any]


def strategic_merge(old: JsonMap, patch: JsonMap, kind: FieldType = POD) -> JsonMap:
    """Return ``old`` with ``patch`` laid over it.

    A null deletes; ``$patch: replace`` and ``delete``, and ``$retainKeys``, do what
    Kubernetes says. Raises an InjectionError for a directive that Kubernetes does not
    know, and for an item of a merged list without its key.
    """
    return _merge_map(old, patch, kind, "")


def _merge_map(old: JsonMap, patch: JsonMap, kind: FieldType, path: str) -> JsonMap:
    if _PATCH in patch:
        if patch[_PATCH] == "replace":
            return {key: without_nulls(item) for key, item in patch.items() if key != _PATCH}
        if patch[_PATCH] == "delete":
            return {}
        raise _refused(f"{_PATCH} is replace or delete, not {quoted(patch[_PATCH])}", path)
    result = _retained(old, patch, path) if _RETAIN in patch else dict(old)
    for key, item in patch.items():
        if key == _RETAIN:
            continue
        where = f"{path}.{key}" if path else str(key)
        if str(key).startswith("$"):
            raise _refused(f"the directive {quoted(key)} is not supported", where)
        if item is None:
            result.pop(key, None)
        elif key in result:
            result[key] = _merge_value(result[key], item, _field(kind, key), where)
        elif not _deletes(item):
            result[key] = without_nulls(item)
    return result


def _field(kind: FieldType, key: str) -> tuple[FieldType, str | None]:
    if kind.shape is Shape.STRUCT and (field := fields_of(kind.struct).get(key)):
        return field.type, field.merge_key
    return _ANY, None


def _merge_value(
    old: Any,  # noqa: ANN401 - JSON
    item: Any,  # noqa: ANN401 - JSON
    field: tuple[FieldType, str | None],
    path: str,
) -> Any:  # noqa: ANN401 - JSON
    kind, merge_key = field
    if isinstance(old, dict) and isinstance(item, dict):
        return _merge_map(old, item, kind, path)
    if isinstance(old, list) and isinstance(item, list) and merge_key is not None:
        if not merge_key:
            return _merge_set(old, item)
        return _merge_list(old, item, kind.element or _ANY, merge_key, path)
    return without_nulls(item)


def _retained(old: JsonMap, patch: JsonMap, path: str) -> JsonMap:
    keys = patch[_RETAIN]
    if not isinstance(keys, list):
        raise _refused(f"{_RETAIN} is a list of keys, not {quoted(keys)}", path)
    for key, item in patch.items():
        if item is not None and not key.startswith("$") and key not in keys:
            raise _refused(f"{_RETAIN} does not have the patch's own key {quoted(key)}", path)
    return {key: item for key, item in old.items() if key in keys}


def _merge_list(
    old: list[Any], patch: list[Any], element: FieldType, key: str, path: str
) -> list[Any]:
    """Merge two lists of maps by the value of ``key``."""
    old, patch, replace = _special_items(old, patch, key, path)
    if replace:
        return patch
    merged = list(old)
    position: dict[Any, int] = {}
    for index, item in enumerate(old):
        if isinstance(item, dict) and key in item:
            position.setdefault(item[key], index)
    for item in patch:
        name = item[key]
        if name in position:
            where = f"{path}[{name}]"
            merged[position[name]] = _merge_map(merged[position[name]], item, element, where)
        else:
            position[name] = len(merged)
            merged.append(without_nulls(item))
    return _ordered(merged, old, patch, key)


def _special_items(
    old: list[Any], patch: list[Any], key: str, path: str
) -> tuple[list[Any], list[Any], bool]:
    """Carry out the patch's ``$patch`` items; return both lists without them."""
    plain: list[Any] = []
    deleted: list[Any] = []
    replace = False
    for index, item in enumerate(patch):
        where = f"{path}[{index}]"
        if not isinstance(item, dict):
            raise _refused(f"expected a mapping and not {quoted(item)}", where)
        directive = item.get(_PATCH)
        if directive == "replace":
            replace = True
            continue
        if directive not in (None, "delete"):
            raise _refused(f"{_PATCH} is replace or delete, not {quoted(directive)}", where)
        if not isinstance(item.get(key), (str, int)):
            raise _refused(f"it has no {key}, by which this list is merged", where)
        if directive is None:
            plain.append(item)
        else:
            deleted.append(item[key])
    if replace:
        return [], [without_nulls(item) for item in plain], True
    if deleted:
        old = [item for item in old if not (isinstance(item, dict) and item.get(key) in deleted)]
    return old, plain, False


def _ordered(merged: list[Any], old: list[Any], patch: list[Any], key: str) -> list[Any]:
    """Return the merged items in Kubernetes' order.

    Old items that the patch lacks and the patch's items are walked side by side. The old
    one is taken only if both stood in the old list, and it stood first; so what the patch
    adds comes early.
    """
    order = _positions(patch, key)
    place = _positions(old, key)
    ours = [item for item in merged if _name(item, key) not in order]
    theirs = sorted(
        (item for item in merged if _name(item, key) in order),
        key=lambda item: order[_name(item, key)],
    )
    result: list[Any] = []
    left = right = 0
    while left < len(ours) and right < len(theirs):
        first, second = place.get(_name(ours[left], key)), place.get(_name(theirs[right], key))
        if first is not None and second is not None and first < second:
            result.append(ours[left])
            left += 1
        else:
            result.append(theirs[right])
            right += 1
    return result + ours[left:] + theirs[right:]


def _positions(items: list[Any], key: str) -> dict[Any, int]:
    positions: dict[Any, int] = {}
    for index, item in enumerate(items):
        positions.setdefault(_name(item, key), index)
    return positions


def _name(item: Any, key: str) -> Any:  # noqa: ANN401 - JSON
    name = item.get(key) if isinstance(item, dict) else None
    return name if isinstance(name, (str, int)) else None


def _merge_set(old: list[Any], patch: list[Any]) -> list[Any]:
    """Merge two lists of texts without doubles: the patch's come as early as they can."""
    named = [{"": item} for item in dict.fromkeys([*old, *patch])]
    ordered = _ordered(named, [{"": item} for item in old], [{"": item} for item in patch], "")
    return [item[""] for item in ordered]


def without_nulls(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a new part of the patch as a value: without nulls, directives and what they delete."""
    if isinstance(value, dict):
        kept = {}
        for key, item in value.items():
            if isinstance(item, (dict, list)):
                if not _deletes(item):
                    kept[key] = without_nulls(item)
            elif item is not None and key != _PATCH:
                kept[key] = item
        kept.pop(_RETAIN, None)
        return kept
    if isinstance(value, list):
        return [
            without_nulls(item) if isinstance(item, (dict, list)) else item
            for item in value
            if not _deletes(item)
        ]
    return value


def _deletes(item: Any) -> bool:  # noqa: ANN401 - JSON
    """Whether a part of the patch only takes something away."""
    if not isinstance(item, dict) or _PATCH not in item:
        return False
    return item[_PATCH] == "delete" or len(item) == 1


def _refused(what: str, path: str) -> InjectionError:
    return InjectionError([error(what, Where(path=path), why="it is no strategic merge patch")])
