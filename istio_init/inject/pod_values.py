"""Values of a pod, checked against their fields' types, and as Go writes them in JSON.

Istio reads pods and templates into Kubernetes' own types. What those accept, change or
refuse is decided here, by the table in ``pod_fields``; unlike there, what a user wrote
into an unknown field is kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from istio_init.inject.pod_fields import Field, FieldType, Shape, fields_of
from istio_init.inject.problems import InjectionError, Problem, Where, error, quoted
from istio_init.inject.quantity import canonical_quantity
from istio_init.inject.template.printing import float_text

if TYPE_CHECKING:
    from typing import Any

_WANTED = {
    Shape.TEXT: "text",
    Shape.NUMBER: "a whole number",
    Shape.TRUTH: "true or false",
    Shape.QUANTITY: "a quantity",
    Shape.PORT: "a port's number or name",
    Shape.STRUCT: "a mapping",
    Shape.LIST: "a list",
    Shape.MAP: "a mapping",
}
_ANY = FieldType(Shape.ANY)
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class Reading:
    """How strictly values are read.

    ``coerce``: a number or truth value becomes text where text is wanted, as YAML read by
    Kubernetes' tools does; JSON does not. ``keep_unknown``: fields that the API does not
    know stay. ``patch``: nulls and ``$`` directives stay, for a strategic merge patch.
    ``old``: fields younger than release 1.0 of Istio are unknown.
    """

    coerce: bool = False
    keep_unknown: bool = False
    patch: bool = False
    old: bool = False


MANIFEST = Reading(coerce=True, keep_unknown=True)
REQUEST = Reading(keep_unknown=True)
OVERLAY = Reading(patch=True)
OLD_TEMPLATE = Reading(coerce=True, old=True)


def read_value(value: Any, kind: FieldType, reading: Reading, path: str = "") -> Any:  # noqa: ANN401 - JSON
    """Return a copy of ``value`` as ``kind`` reads it.

    Raises an InjectionError that names every value of a wrong type with its path.
    """
    reader = _Reader(reading, [])
    result = reader.read(value, kind, path)
    if reader.problems:
        raise InjectionError(reader.problems)
    return result


@dataclass(frozen=True, slots=True)
class _Reader:
    reading: Reading
    problems: list[Problem]

    def read(self, value: Any, kind: FieldType, path: str) -> Any:  # noqa: ANN401 - JSON
        """Return the value as its type reads it, or None and a problem."""
        shape = kind.shape
        if value is None:
            return None
        if shape is Shape.TEXT and isinstance(value, str):
            return value
        if shape is Shape.STRUCT and isinstance(value, dict):
            return self._struct(value, kind.struct, path)
        if shape is Shape.LIST and isinstance(value, list):
            return self._list(value, kind, path)
        if shape is Shape.MAP and isinstance(value, dict):
            return self._map(value, kind, path)
        return self._scalar(value, shape, path)

    def _struct(self, value: dict[Any, Any], name: str, path: str) -> dict[str, Any]:
        fields, reading = fields_of(name), self.reading
        result: dict[str, Any] = {}
        for key, item in value.items():
            field = fields.get(key)
            if field is None or (field.young and reading.old):
                if reading.keep_unknown or (reading.patch and str(key).startswith("$")):
                    result[key] = item
            elif item is not None or reading.patch:
                result[key] = self.read(item, field.type, f"{path}.{key}" if path else key)
        return result

    def _list(self, value: list[Any], kind: FieldType, path: str) -> list[Any]:
        element = kind.element or _ANY
        zero: Any = "" if element.shape is Shape.TEXT else {} if element.struct else None
        return [
            zero if item is None else self.read(item, element, f"{path}[{index}]")
            for index, item in enumerate(value)
        ]

    def _map(self, value: dict[Any, Any], kind: FieldType, path: str) -> dict[str, Any]:
        element = kind.element or _ANY
        reading = self.reading
        result: dict[str, Any] = {}
        for key, item in value.items():
            name = key if isinstance(key, str) else self._scalar(key, Shape.TEXT, f"{path}.{key}")
            if reading.patch and (item is None or str(key).startswith("$")):
                result[name] = item
            elif item is None and element.shape is Shape.TEXT:
                result[name] = ""
            else:
                result[name] = self.read(item, element, f"{path}.{key}")
        return result

    def _scalar(self, value: Any, shape: Shape, path: str) -> Any:  # noqa: ANN401 - JSON
        match shape:
            case Shape.ANY:
                return value
            case Shape.TEXT if self.reading.coerce and isinstance(value, (bool, int, float)):
                return go_text(value)
            case Shape.TRUTH if isinstance(value, bool):
                return value
            case Shape.NUMBER | Shape.PORT if (number := _whole(value)) is not None:
                return number
            case Shape.PORT | Shape.QUANTITY if isinstance(value, str):
                return value
            case Shape.QUANTITY if isinstance(value, (int, float)) and not isinstance(value, bool):
                return value
        self.problems.append(
            error(
                f"expected {_WANTED[shape]} and not {quoted(value)}",
                Where(path=path),
                remedy="quote it" if shape is Shape.TEXT and not _nested(value) else "",
            )
        )
        return None


def _nested(value: object) -> bool:
    return isinstance(value, (dict, list))


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float):
        if not value.is_integer():
            return None
        value = int(value)
    return value if _SMALLEST <= value <= _LARGEST else None


def go_text(value: bool | float) -> str:  # noqa: FBT001 - the value itself
    """Return a scalar as Go's strconv writes it: ``true``, ``15001``, ``1.5``, ``1e+06``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else float_text(value)


def go_value(value: Any, kind: FieldType) -> Any:  # noqa: ANN401 - JSON
    """Return a value as Go writes it: fields in the API's order, without those that are zero.

    Fields that the API does not know come last. Quantities get Kubernetes' spelling.
    """
    if kind.shape is Shape.STRUCT and isinstance(value, dict):
        return _go_struct(value, kind.struct)
    if kind.element is not None and isinstance(value, list):
        return [go_value(item, kind.element) for item in value]
    if kind.element is not None and isinstance(value, dict):
        return {key: go_value(value[key], kind.element) for key in sorted(value)}
    if kind.shape is Shape.QUANTITY and value is not None:
        return canonical_quantity(value if isinstance(value, str) else go_text(value))
    return value


def _go_struct(value: dict[str, Any], name: str) -> dict[str, Any]:
    fields = fields_of(name)
    result: dict[str, Any] = {}
    for field in fields.values():
        item = value.get(field.name)
        if field.always:
            result[field.name] = _zero(field) if item is None else go_value(item, field.type)
        elif item is None or (
            not item and not field.pointer and field.type.shape is not Shape.STRUCT
        ):
            continue
        else:
            result[field.name] = go_value(item, field.type)
    result.update((key, item) for key, item in value.items() if key not in fields)
    return result


_ZEROS: dict[Shape, Any] = {
    Shape.TEXT: "",
    Shape.QUANTITY: "",
    Shape.NUMBER: 0,
    Shape.PORT: 0,
    Shape.TRUTH: False,
}


def _zero(field: Field) -> Any:  # noqa: ANN401 - JSON
    if field.pointer:
        return None
    return {} if field.type.shape is Shape.STRUCT else _ZEROS.get(field.type.shape)


_ESCAPED = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


def go_json(value: Any) -> str:  # noqa: ANN401 - JSON
    """Return JSON as Go's encoding/json writes it: compact, and safe inside HTML."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).translate(_ESCAPED)
