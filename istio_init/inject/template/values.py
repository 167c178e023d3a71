"""The values of a template, and which Go type each stands for.

| Python | Go |
|---|---|
| ``None`` | nil, or nothing at all |
| ``bool``, ``str``, ``float``, ``complex`` | bool, string, float64, complex128 |
| ``int`` | int; ``Int64``, ``Int32``, ``Uint32`` ... the others |
| ``list`` | []interface {} |
| ``dict``, ``StringMap`` | map[string]interface {}, map[string]string |
| ``Struct`` | a struct, or a pointer to one |
| ``NilPointer`` | a pointer that is nil |

A Go string is bytes: bytes that are not UTF-8 stand in a ``str`` as surrogate
escapes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from istio_init.inject.template.errors import FunctionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Value: TypeAlias = object


class GoInt(int):
    """An integer of a type other than ``int``."""

    go_type: ClassVar[str] = "int"


class Int64(GoInt):
    """An int64."""

    __slots__ = ()
    go_type = "int64"


class Int32(GoInt):
    """An int32."""

    __slots__ = ()
    go_type = "int32"


class Uint8(GoInt):
    """A byte."""

    __slots__ = ()
    go_type = "uint8"


class Uint32(GoInt):
    """A uint32."""

    __slots__ = ()
    go_type = "uint32"


class Uint64(GoInt):
    """A uint64."""

    __slots__ = ()
    go_type = "uint64"


class Enum(Int32):
    """A member of a protobuf enum: a number that prints its name."""

    enum: str
    name: str

    go_methods: ClassVar[dict[str, Callable[[Enum], str]]] = {"String": lambda member: member.name}

    @classmethod
    def of(cls, enum: str, name: str, number: int) -> Enum:
        """Return the member ``name`` of ``enum``."""
        member = cls(number)
        member.enum = enum
        member.name = name
        return member


class StringMap(dict[str, str]):
    """A map[string]string: a key that it lacks gives the empty string to ``index``."""

    __slots__ = ()


class NilMap(dict[str, object]):
    """A map[string]interface {} that is nil: it has nothing, and takes nothing."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Member:
    """One field of a struct: its key in JSON, and how its value is read.

    ``read`` takes the JSON value (``None`` if absent) and where it stands, and
    returns the template's value. ``omit`` says when JSON leaves the field out: when
    it is ``zero``, when it is ``nil``, or never (``""``). A ``-`` for a key is an
    embedded struct, which reads the outer one's JSON object.
    """

    key: str
    read: Callable[[object, str], Value]
    omit: str = "zero"


@dataclass(frozen=True, slots=True, eq=False)
class StructType:
    """A Go struct type: fields and methods by their Go names.

    ``methods`` take the struct, or ``None`` for a nil pointer. ``show`` prints the
    struct as its String method would, ``encode`` returns its JSON data.
    """

    name: str
    members: Mapping[str, Member] = field(default_factory=dict)
    methods: Mapping[str, Callable[[Struct | None], Value]] = field(default_factory=dict)
    show: Callable[[Struct], str] | None = None
    encode: Callable[[Struct], Value] | None = None
    pointer: bool = False


class Struct:
    """A struct of type ``type`` over the JSON object ``data``, which stands at ``origin``.

    An empty origin says that the data is the operator's, not the pod's.
    """

    __slots__ = ("data", "known", "origin", "type")

    def __init__(self, kind: StructType, data: Mapping[str, object], origin: str) -> None:
        self.type = kind
        self.data = data
        self.origin = origin
        self.known: dict[str, Value] = {}

    def member(self, name: str) -> Value:
        """Return a field's value; raises KeyError for a name that the type lacks."""
        if name in self.known:
            return self.known[name]
        member = self.type.members[name]
        data = self.data if member.key == "-" else self.data.get(member.key)
        origin = self.origin and f"{self.origin}.{member.key.removeprefix('-')}"
        value = self.known[name] = member.read(data, origin)
        return value

    def mask(self, data: Value) -> Value:
        """Return JSON data of the struct as it may be shown: as it is."""
        return data


class StructList(list[Value]):
    """A slice of structs, of which ``item`` is the type."""

    __slots__ = ("item",)

    def __init__(self, item: StructType, values: list[Value]) -> None:
        super().__init__(values)
        self.item = item


@dataclass(frozen=True, slots=True)
class NilPointer:
    """A nil pointer to a value of Go type ``go_type``; ``struct`` is its type if it is a struct."""

    go_type: str
    struct: StructType | None = None


def type_name(value: Value) -> str:
    """Return the Go type of a value."""
    match value:
        case None:
            return "nil"
        case bool():
            return "bool"
        case Enum():
            return value.enum
        case GoInt():
            return value.go_type
        case int():
            return "int"
        case float():
            return "float64"
        case str():
            return "string"
        case complex():
            return "complex128"
        case StringMap():
            return "map[string]string"
        case dict():
            return "map[string]interface {}"
        case StructList():
            return f"[]{value.item.name}"
        case list():
            return "[]interface {}"
        case Struct():
            return f"*{value.type.name}" if value.type.pointer else value.type.name
        case NilPointer():
            return f"*{value.go_type}"
        case _:
            pass
    raise FunctionError(f"a {type(value).__name__} is no value of a template")


def kind_name(value: Value) -> str:
    """Return the Go kind of a value, as reflect names it."""
    match value:
        case None:
            return "invalid"
        case Enum():
            return "int32"
        case dict():
            return "map"
        case list():
            return "slice"
        case Struct():
            return "ptr" if value.type.pointer else "struct"
        case NilPointer():
            return "ptr"
        case _:
            pass
    return type_name(value)


def is_true(value: Value) -> bool:
    """Return whether ``if`` takes the value as true: not zero, empty or nil."""
    if type(value) is NilPointer:
        return False
    return isinstance(value, Struct) or bool(value)


def utf8(text: str) -> bytes:
    """Return the bytes of a Go string."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def from_utf8(data: bytes) -> str:
    """Return the Go string of some bytes."""
    return data.decode("utf-8", "surrogateescape")


def byte_length(text: str) -> int:
    """Return how many bytes a Go string has."""
    return len(text) if text.isascii() else len(utf8(text))
