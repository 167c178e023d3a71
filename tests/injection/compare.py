"""Whether Kubernetes reads two objects as equal, as the conformance data defines it."""

from __future__ import annotations

import json

from istio_init.inject.quantity import canonical_quantity

_AMOUNTS = frozenset({"limits", "requests", "overhead"})
_NO_ORDER = ("", 0, False, None)


def comparable(value: object, field: str = "") -> object:
    """Return a value without what does not count.

    Nulls, Go's zero values, the spelling of quantities, and the layout of JSON in texts;
    the order of lists counts.
    """
    if isinstance(value, dict):
        amounts = field in _AMOUNTS
        items = {
            key: canonical_quantity(str(one)) if amounts else comparable(one, key)
            for key, one in value.items()
        }
        return {key: one for key, one in items.items() if not _is_zero(one)}
    if isinstance(value, list):
        return [comparable(one) for one in value]
    if isinstance(value, str):
        return _text(value)
    return value


def _is_zero(value: object) -> bool:
    return value is None or value in ({}, [], "") or (type(value) in (int, bool) and not value)


def _text(text: str) -> object:
    if text[:1] not in ("{", "["):
        return text
    try:
        return comparable(json.loads(text))
    except ValueError:
        return text
