"""Struct types from the tables of ``kubernetes_types`` and ``istio_types``.

A type is made when a template first reaches it. What comes from the pod is checked
as it is read: a number where a string must be is an error that says where it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING

from istio_init.inject.istio_types import ISTIO_1_0, ISTIO_1_30
from istio_init.inject.kubernetes_types import KUBERNETES
from istio_init.inject.template.durations import NANOSECONDS, duration_text, parse_duration
from istio_init.inject.template.errors import FunctionError
from istio_init.inject.template.plain import plain
from istio_init.inject.template.taint import (
    Tainted,
    TaintedList,
    TaintedStringMap,
    taint,
)
from istio_init.inject.template.values import (
    Enum,
    Int32,
    Int64,
    Member,
    NilPointer,
    StringMap,
    Struct,
    StructList,
    StructType,
    Uint8,
    Uint32,
    Uint64,
    Value,
)

if TYPE_CHECKING:
    from typing import TypeAlias

Read: TypeAlias = Callable[[object, str], Value]

_NUMBERS: dict[str, type[int]] = {
    "int": int, "int32": Int32, "int64": Int64, "uint8": Uint8, "uint32": Uint32,
    "uint64": Uint64,
}  # fmt: skip


def _wrong(origin: str, wanted: str, value: object) -> FunctionError:
    where = origin or "a setting of the mesh"
    return FunctionError(f"{where} must be a {wanted}, not {value!r:.60}")


# Scalars


def read_string(value: object, origin: str) -> Value:
    """Return a string; one that is absent is empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong(origin, "string", value)
    return Tainted.of(value, origin) if origin else value


def read_bool(value: object, origin: str) -> Value:
    """Return a bool; one that is absent is false."""
    if value is None or isinstance(value, bool):
        return value or False
    raise _wrong(origin, "boolean", value)


def _number(kind: type[int]) -> Read:
    def read(value: object, origin: str) -> Value:
        if value is None:
            return kind(0)
        if isinstance(value, float) and value.is_integer():
            return kind(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return kind(value)
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,19}", value):
            return kind(value)
        raise _wrong(origin, "whole number", value)

    return read


def _float(value: object, origin: str) -> Value:
    if value is None:
        return 0.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise _wrong(origin, "number", value)


def _any(value: object, origin: str) -> Value:
    return taint(value, origin) if origin else value


def _pointer(go_type: str, read: Read) -> Read:
    nil = NilPointer(go_type)

    def read_pointer(value: object, origin: str) -> Value:
        return nil if value is None else read(value, origin)

    return read_pointer


# Compounds


def string_map(value: object, origin: str, what: str = "") -> Value:
    """Return a map[string]string; ``what`` names one of its entries, ``annotation`` for one."""
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise _wrong(origin, "map", value)
    for key, item in value.items():
        if not isinstance(key, str) or not isinstance(item, str):
            raise _wrong(f"{what} {key}" if what else f"{origin}.{key}", "string", item)
    if not origin:
        return StringMap(value)
    name = f"the {what} " if what else f"{origin}."
    found = TaintedStringMap()
    for key, item in value.items():
        where = f"{name}{key}"
        found[Tainted.of(key, where)] = Tainted.of(item, where)
    found.origin = origin
    return found


def _list(read: Read) -> Read:
    def read_list(value: object, origin: str) -> Value:
        if value is None:
            return []
        if not isinstance(value, list):
            raise _wrong(origin, "list", value)
        items = [
            read(item, f"{origin}[{number}]" if origin else "") for number, item in enumerate(value)
        ]
        return TaintedList(items) if origin else items

    return read_list


def _structs(kind: Callable[[], StructType]) -> Read:
    def read_structs(value: object, origin: str) -> Value:
        if value is None:
            return StructList(kind(), [])
        if not isinstance(value, list):
            raise _wrong(origin, "list", value)
        items: list[Value] = [
            _struct(kind, item, f"{origin}[{number}]" if origin else "")
            for number, item in enumerate(value)
        ]
        return StructList(kind(), items)

    return read_structs


def _struct(kind: Callable[[], StructType], value: object, origin: str) -> Struct:
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise _wrong(origin, "map", value)
    return Struct(kind(), value, origin)


def _map_of(read: Read) -> Read:
    def read_map(value: object, origin: str) -> Value:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise _wrong(origin, "map", value)
        found = {
            str(key): read(item, f"{origin}.{key}" if origin else "") for key, item in value.items()
        }
        return taint(found, origin) if origin else found

    return read_map


# Kubernetes


def _raw(struct: Struct) -> Value:
    raw = struct.data.get("raw")
    return _any(raw, struct.origin)


QUANTITY = StructType(
    "resource.Quantity",
    methods={"String": lambda struct: _raw(struct) if struct else ""},
    show=lambda struct: str(struct.data.get("raw")),
    encode=_raw,
)
INT_OR_STRING = StructType(
    "intstr.IntOrString",
    members={
        "Type": Member("type", lambda value, _: Int64(isinstance(value, str))),
        "IntVal": Member("raw", lambda value, _: Int32(value if isinstance(value, int) else 0)),
        "StrVal": Member("raw", lambda value, o: read_string(value, o) if _is_text(value) else ""),
    },
    methods={"String": lambda struct: str(struct.data.get("raw")) if struct else ""},
    show=lambda struct: str(struct.data.get("raw")),
    encode=_raw,
)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _special(kind: StructType) -> Read:
    def read(value: object, origin: str) -> Value:
        if value is None:
            value = 0
        if not isinstance(value, str | int | float):
            raise _wrong(origin, kind.name, value)
        return Struct(kind, {"raw": value, "type": value}, origin)

    return read


_SPECIAL: dict[str, Read] = {
    "resource.Quantity": _special(QUANTITY),
    "intstr.IntOrString": _special(INT_OR_STRING),
    "v1.Time": read_string,
    "v1.MicroTime": read_string,
    "v1.FieldsV1": _any,
    "bytes": _any,
}


@cache
def _entries(table: str) -> dict[str, str]:
    """Return the fields of each type by its name, with blanks between them."""
    found = {}
    for entry in re.split(r"\n(?! )", table.strip()):
        name, *fields = entry.split()
        found[name] = " ".join(fields)
    return found


def _kubernetes_reader(text: str) -> Read:
    """Return what reads a field of that type."""
    if text.startswith("*"):
        inner = text[1:]
        if inner in _entries(KUBERNETES):
            return _message(lambda: kubernetes_type(inner), inner)
        return _pointer(inner, _kubernetes_reader(inner))
    if text.startswith("[]"):
        inner = text[2:]
        if inner in _entries(KUBERNETES):
            return _structs(lambda: kubernetes_type(inner))
        return _list(_kubernetes_reader(inner))
    if text == "%string":
        return string_map
    if text.startswith("%"):
        return _map_of(_kubernetes_reader(text[1:]))
    if text in _entries(KUBERNETES):
        return lambda value, origin: _struct(lambda: kubernetes_type(text), value, origin)
    return _SPECIAL.get(text) or _scalar(text)


def _scalar(text: str) -> Read:
    if text in _NUMBERS:
        return _number(_NUMBERS[text])
    return {"string": read_string, "bool": read_bool, "float64": _float, "double": _float}[text]


def _message(kind: Callable[[], StructType], name: str) -> Read:
    def read(value: object, origin: str) -> Value:
        return NilPointer(name, kind()) if value is None else _struct(kind, value, origin)

    return read


@cache
def kubernetes_type(name: str) -> StructType:
    """Return the type of that Go name; raises KeyError if the tables lack it."""
    members: dict[str, Member] = {}
    for text in _entries(KUBERNETES)[name].split():
        go_name, _, rest = text.partition(":")
        key, _, kind = rest.partition(":")
        if key == "-":
            # An embedded struct: its fields are among those of the outer one as well.
            members[go_name] = _embedded(kind)
            continue
        omit = key.endswith("?")
        key = key.rstrip("?") or go_name[0].lower() + go_name[1:]
        kind = kind or "string"
        members[go_name] = Member(key, _kubernetes_reader(kind), _omit(kind, omit=omit))
    methods: dict[str, Callable[[Struct | None], Value]] = {}
    if name == "v1.ObjectMeta":
        members |= _METADATA
        methods = {f"Get{go_name}": _getter(go_name) for go_name in members}
    return StructType(name, members, methods)


def kubernetes_fields(name: str) -> Iterator[tuple[str, str, bool]]:
    """Yield the fields of a type as JSON has them: key, Go type, and whether zero is left out.

    Raises KeyError if the tables lack the type.
    """
    for text in _entries(KUBERNETES)[name].split():
        go_name, _, rest = text.partition(":")
        key, _, kind = rest.partition(":")
        if key != "-":
            json_name = key.rstrip("?") or go_name[0].lower() + go_name[1:]
            yield json_name, kind or "string", key.endswith("?")


def _embedded(kind: str) -> Member:
    return Member("-", lambda value, origin: _struct(lambda: kubernetes_type(kind), value, origin))


def _omit(kind: str, *, omit: bool) -> str:
    """Return when JSON leaves out a field of that type."""
    if not omit:
        return ""
    if kind.startswith("*"):
        return "nil"
    return "" if kind in _entries(KUBERNETES) or kind == "v1.Time" else "zero"


def _getter(go_name: str) -> Callable[[Struct | None], Value]:
    return lambda struct: struct.member(go_name) if struct else ""


_METADATA = {
    "Labels": Member("labels", lambda value, origin: string_map(value, origin, "label")),
    "Annotations": Member(
        "annotations", lambda value, origin: string_map(value, origin, "annotation")
    ),
}


# Protobuf


def _nanoseconds(struct: Struct | None) -> int:
    value = struct.data.get("nanoseconds") if struct else 0
    return value if isinstance(value, int) else 0


def _duration_json(nanoseconds: int) -> str:
    """Return a duration as protobuf's JSON has it: seconds, with 0, 3, 6 or 9 digits."""
    seconds, rest = divmod(abs(nanoseconds), NANOSECONDS)
    text = f"{'-' if nanoseconds < 0 else ''}{seconds}"
    if not rest:
        return f"{text}s"
    digits = f"{rest:09}"
    for size in (3, 6):
        if not digits[size:].strip("0"):
            digits = digits[:size]
            break
    return f"{text}.{digits}s"


def _duration_shown(struct: Struct) -> str:
    seconds, rest = divmod(_nanoseconds(struct), NANOSECONDS)
    parts = [f"seconds:{seconds}"] if seconds else []
    return " ".join([*parts, f"nanos:{rest}"] if rest else parts)


DURATION = StructType(
    "durationpb.Duration",
    methods={
        "GetSeconds": lambda struct: Int64(_nanoseconds(struct) // NANOSECONDS),
        "GetNanos": lambda struct: Int32(_nanoseconds(struct) % NANOSECONDS),
        "AsDuration": lambda struct: duration_text(_nanoseconds(struct)),
        "String": lambda struct: _duration_shown(struct) if struct else "<nil>",
    },
    show=_duration_shown,
    encode=lambda struct: _duration_json(_nanoseconds(struct)),
    pointer=True,
)


def _duration(value: object, origin: str) -> Value:
    if value is None:
        return NilPointer("durationpb.Duration", DURATION)
    nanoseconds = parse_duration(value) if isinstance(value, str) else None
    if nanoseconds is None:
        raise _wrong(origin, "duration such as 45s", value)
    return Struct(DURATION, {"nanoseconds": nanoseconds}, "")


def _wrapper(name: str, read: Read) -> Read:
    """Return what reads a wrapper: a message with one scalar, which may be absent."""

    def value_of(struct: Struct | None) -> Value:
        return read(struct.data.get("value"), struct.origin) if struct else read(None, "")

    def encoded(struct: Struct) -> Value:
        value = value_of(struct)
        return str(int(value)) if isinstance(value, Int64) else value

    kind = StructType(
        f"wrapperspb.{name}",
        members={"Value": Member("value", read)},
        methods={"GetValue": value_of},
        show=lambda struct: f"value:{plain(value_of(struct))}".replace("True", "true"),
        encode=encoded,
        pointer=True,
    )

    def read_wrapper(value: object, origin: str) -> Value:
        if value is None:
            return NilPointer(kind.name, kind)
        return Struct(kind, {"value": value}, origin)

    return read_wrapper


_WELL_KNOWN: dict[str, Read] = {
    "pb.Duration": _duration,
    "pb.BoolValue": _wrapper("BoolValue", read_bool),
    "pb.Int32Value": _wrapper("Int32Value", _number(Int32)),
    "pb.Int64Value": _wrapper("Int64Value", _number(Int64)),
    "pb.UInt32Value": _wrapper("UInt32Value", _number(Uint32)),
    "pb.DoubleValue": _wrapper("DoubleValue", _float),
    "pb.StringValue": _wrapper("StringValue", read_string),
    "pb.Struct": _any,
}


class Messages:
    """The message types of one generation, by the names of its table."""

    def __init__(self, table: str, defaults: Mapping[str, object]) -> None:
        self.entries = _entries(table)
        self.defaults = defaults
        self.types: dict[str, StructType] = {}

    def type(self, name: str) -> StructType:
        """Return a message type; raises KeyError if the table lacks it."""
        known = self.types.get(name)
        if known is None:
            known = self.types[name] = self.make(name)
        return known

    def make(self, name: str) -> StructType:
        """Return a message type from its entry in the table."""
        members: dict[str, Member] = {}
        encoded: list[tuple[str, Member]] = []
        methods: dict[str, Callable[[Struct | None], Value]] = {}
        for text in self.entries[name].split():
            label, _, kind = text.partition(":")
            key, _, choice = label.partition("!")
            member = Member(key, self.reader(kind or "string"))
            go_name = key[0].upper() + key[1:]
            encoded.append((key, member))
            methods[f"Get{go_name}"] = _get(member, go_name)
            if not choice:
                members[go_name] = member
        defaults = self.defaults if name == "ProxyConfig" else {}
        return StructType(
            f"v1alpha1.{name.removeprefix('net.')}",
            members,
            methods,
            show=lambda struct: _shown(struct, encoded),
            encode=lambda struct: _encoded(struct, encoded, defaults),
            pointer=True,
        )

    def reader(self, text: str) -> Read:
        """Return what reads a field of that type."""
        if text.startswith("="):
            return self.enum(text[1:])
        if text.startswith("*"):
            name = text[1:]
            return _WELL_KNOWN.get(name) or _message(lambda: self.type(name), f"v1alpha1.{name}")
        if text.startswith("[]*"):
            name = text[3:]
            return _structs(lambda: self.type(name))
        if text.startswith("[]"):
            return _list(self.reader(text[2:]))
        if text == "%string":
            return string_map
        if text.startswith("%"):
            return _map_of(self.reader(text[1:]))
        return _scalar(text)

    def enum(self, name: str) -> Read:
        """Return what reads a member of an enum."""
        numbers = {
            word: int(number)
            for word, _, number in (
                part.partition("=") for part in self.entries[f"={name}"].split()
            )
        }
        names = {number: word for word, number in numbers.items()}
        go_type = f"v1alpha1.{name.replace('.', '_')}"

        def read(value: object, origin: str) -> Value:
            if isinstance(value, str) and value in numbers:
                return Enum.of(go_type, value, numbers[value])
            number = 0 if value is None else value
            if isinstance(number, int) and not isinstance(number, bool) and number in names:
                return Enum.of(go_type, names[number], number)
            raise _wrong(origin, f"one of {', '.join(numbers)}", value)

        return read


def _get(member: Member, go_name: str) -> Callable[[Struct | None], Value]:
    def get(struct: Struct | None) -> Value:
        if struct is None:
            return member.read(None, "")
        origin = f"{struct.origin}.{go_name}" if struct.origin else ""
        return member.read(struct.data.get(member.key), origin)

    return get


def _encoded(
    struct: Struct, fields: list[tuple[str, Member]], defaults: Mapping[str, object]
) -> Value:
    """Return a message as JSON data without what is zero or equal to a default."""
    from istio_init.inject.template.plain import Ordered

    found = Ordered()
    for key, member in fields:
        raw = struct.data.get(key)
        if raw is None:
            continue
        value = member.read(raw, struct.origin)
        if not isinstance(value, Struct) and not value:
            continue
        item = str(int(value)) if isinstance(value, Int64 | Uint64) else plain(value)
        if isinstance(value, Enum):
            item = value.name
        default = defaults.get(key)
        if default is not None and item == plain(member.read(default, "")):
            continue
        if default is not None and isinstance(value, Enum) and item == default:
            continue
        found[key] = item
    return found


def _shown(struct: Struct, fields: list[tuple[str, Member]]) -> str:
    """Return a message in the text form of protobuf, nearly."""
    from istio_init.inject.template.printing import printed, quoted

    parts = []
    for key, member in fields:
        raw = struct.data.get(key)
        value = member.read(raw, "") if raw is not None else None
        if value is None or (not isinstance(value, Struct) and not value):
            continue
        name = re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), key)
        if isinstance(value, str):
            parts.append(f"{name}:{quoted(value)}")
        elif isinstance(value, Struct):
            parts.append(f"{name}:{{{printed(value)}}}")
        else:
            parts.append(f"{name}:{printed(value)}")
    return "  ".join(parts)


# What protoToJSON leaves out of a ProxyConfig.
DEFAULT_PROXY_CONFIG: dict[str, object] = {
    "configPath": "./etc/istio/proxy",
    "binaryPath": "/usr/local/bin/envoy",
    "serviceCluster": "istio-proxy",
    "drainDuration": "45s",
    "terminationDrainDuration": "5s",
    "discoveryAddress": "istiod.istio-system.svc:15012",
    "proxyAdminPort": 15000,
    "controlPlaneAuthPolicy": "MUTUAL_TLS",
    "statNameLength": 189,
    "statusPort": 15020,
}

MESSAGES_1_30 = Messages(ISTIO_1_30, DEFAULT_PROXY_CONFIG)
MESSAGES_1_0 = Messages(ISTIO_1_0, {})
