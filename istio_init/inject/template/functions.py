"""What a template function is: its name, the types of its parameters, and its code.

A signature is written as Go's types with commas between them, ``...`` before the
last one if it may be repeated: ``"int, string"``, ``"string, ...any"``. ``any`` and
``value`` take everything; a constant becomes an ``int`` or ``float64`` for them by
the way it is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from istio_init.inject.template.errors import FunctionError
from istio_init.inject.template.nodes import BoolNode, NilNode, NumberNode, StringNode
from istio_init.inject.template.values import (
    GoInt,
    NilMap,
    NilPointer,
    StringMap,
    Struct,
    StructList,
    Value,
    type_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Function:
    """A function of templates.

    ``repeats`` says that the last parameter takes any number of arguments.
    ``gives_text`` says that the result may hold text of the arguments, ``json`` that
    it is JSON. ``wants_frame`` functions get the frame of the rendering first.
    """

    name: str
    call: Callable[..., Value]
    parameters: tuple[str, ...]
    repeats: bool = False
    gives_text: bool = True
    json: bool = False
    wants_frame: bool = False

    def type_of(self, index: int) -> str:
        """Return the type of the argument at ``index``."""
        return self.parameters[min(index, len(self.parameters) - 1)]

    def wrong_count(self, count: int) -> str:
        """Return what is wrong with so many arguments, or ``""``."""
        least = len(self.parameters) - self.repeats
        if count < least or (count > least and not self.repeats):
            more = "at least " if self.repeats else ""
            return f"{self.name} takes {more}{least} arguments, not {count}"
        return ""


class Registry(dict[str, Function]):
    """Functions by name, filled by a decorator."""

    def add(
        self,
        names: str,
        signature: str = "",
        *,
        gives_text: bool = True,
        json: bool = False,
        wants_frame: bool = False,
    ) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
        """Return a decorator that registers a function under each of ``names``."""
        parameters = tuple(part.strip() for part in signature.split(";")) if signature else ()
        repeats = bool(parameters) and parameters[-1].startswith("...")
        if repeats:
            parameters = (*parameters[:-1], parameters[-1][3:])

        def register(call: Callable[..., Value]) -> Callable[..., Value]:
            for name in names.split():
                self[name] = Function(
                    name, call, parameters, repeats, gives_text, json, wants_frame
                )
            return call

        return register


# Types of arguments


def refuse_type(wanted: str, value: Value) -> FunctionError:
    """Return the error of a value that is of another type than ``wanted``."""
    if value is None:
        return FunctionError(f"there is no value here, but a {wanted} must be")
    return FunctionError(f"a {type_name(value)} stands where a {wanted} must be")


def _string(value: Value) -> Value:
    if isinstance(value, str):
        return value
    raise refuse_type("string", value)


def _int(value: Value) -> Value:
    if isinstance(value, int) and not isinstance(value, bool | GoInt):
        return value
    raise refuse_type("int", value)


def _float64(value: Value) -> Value:
    if isinstance(value, float):
        return value
    raise refuse_type("float64", value)


def _bool(value: Value) -> Value:
    if isinstance(value, bool):
        return value
    raise refuse_type("bool", value)


def _string_map(value: Value) -> Value:
    if isinstance(value, StringMap):
        return value
    if value is None:
        return StringMap()
    raise refuse_type("map[string]string", value)


def _map(value: Value) -> Value:
    if isinstance(value, dict) and not isinstance(value, StringMap):
        return value
    if value is None:
        return NilMap()
    raise refuse_type("map[string]interface {}", value)


def _containers(value: Value) -> Value:
    if isinstance(value, StructList) and value.item.name == "v1.Container":
        return value
    if value is None:
        return []
    raise refuse_type("[]v1.Container", value)


def _object_meta(value: Value) -> Value:
    if isinstance(value, Struct) and value.type.name == "v1.ObjectMeta":
        return value
    raise refuse_type("v1.ObjectMeta", value)


def _message(value: Value) -> Value:
    if value is None or (isinstance(value, Struct | NilPointer) and is_message(value)):
        return value
    raise refuse_type("protoreflect.ProtoMessage", value)


def is_message(value: Struct | NilPointer) -> bool:
    """Return whether a value is a pointer to a protobuf message."""
    kind = value.struct if isinstance(value, NilPointer) else value.type
    return kind is not None and kind.pointer


def _pointer_to(name: str) -> Callable[[Value], Value]:
    def check(value: Value) -> Value:
        if value is None or (isinstance(value, NilPointer) and value.go_type == name):
            return None
        if isinstance(value, Struct) and value.type.name == name:
            return value
        raise refuse_type(f"*{name}", value)

    return check


CHECKS: dict[str, Callable[[Value], Value]] = {
    "string": _string,
    "int": _int,
    "float64": _float64,
    "bool": _bool,
    "map[string]string": _string_map,
    "map[string]any": _map,
    "[]v1.Container": _containers,
    "v1.ObjectMeta": _object_meta,
    "message": _message,
    "*durationpb.Duration": _pointer_to("durationpb.Duration"),
    "*v1alpha1.MeshConfig": _pointer_to("v1alpha1.MeshConfig"),
}
_NO_NIL = frozenset({"string", "int", "float64", "bool", "v1.ObjectMeta"})
_GO_NAMES = {"map[string]any": "map[string]interface {}"}


def constant(node: BoolNode | StringNode | NumberNode | NilNode, wanted: str) -> Value:
    """Return the value of a constant where a ``wanted`` must be.

    Raises:
        FunctionError: it is a constant of another kind.
    """
    if isinstance(node, NilNode):
        if wanted in _NO_NIL:
            raise FunctionError(f"nil stands where a {wanted} must be")
        check = CHECKS.get(wanted)
        return check(None) if check else None
    match wanted:
        case "any" | "value":
            return _ideal(node) if isinstance(node, NumberNode) else node.value
        case "string" if isinstance(node, StringNode):
            return node.value
        case "bool" if isinstance(node, BoolNode):
            return node.value
        case "int" if isinstance(node, NumberNode) and node.integer is not None:
            return node.integer
        case "float64" if isinstance(node, NumberNode) and node.float is not None:
            return node.float
    raise FunctionError(f"{node} stands where a {_GO_NAMES.get(wanted, wanted)} must be")


def _ideal(node: NumberNode) -> Value:
    """Return a number whose type only its spelling tells."""
    source = node.source
    if node.complex is not None:
        return node.complex
    is_char, is_hex = source[0] == "'", source[:2] in {"0x", "0X"} and not {*"pP"} & {*source}
    if node.float is not None and not is_char and not is_hex and {*".eEpP"} & {*source}:
        return node.float
    if node.integer is None:
        raise FunctionError(f"{source} does not fit in an int")
    return node.integer
