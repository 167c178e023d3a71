"""Fields and methods of values that are no maps."""

from __future__ import annotations

from istio_init.inject.template.errors import FunctionError
from istio_init.inject.template.frame import NIL_ELEMENT
from istio_init.inject.template.values import NilPointer, Struct, Value, type_name


def field_of(value: Value, name: str) -> Value:
    """Return the field or method ``name`` of a value that is no map.

    Raises:
        FunctionError: the value has no such field, or is a nil pointer.
    """
    if isinstance(value, Struct):
        method = value.type.methods.get(name)
        if method is not None:
            return method(value)
        if name in value.type.members:
            return value.member(name)
        raise FunctionError(f'a {value.type.name} has no field "{name}"')
    if value is NIL_ELEMENT:
        raise FunctionError(f'nil has no field "{name}"')
    if isinstance(value, NilPointer):
        if value.struct is not None:
            method = value.struct.methods.get(name)
            if method is not None:
                return method(None)
            if name not in value.struct.members:
                raise FunctionError(f'a {value.struct.name} has no field "{name}"')
        raise FunctionError(f'the {value.go_type} is nil: there is no "{name}" to read')
    method = getattr(value, "go_methods", {}).get(name)
    if method is not None:
        return method(value)
    raise FunctionError(f'a {type_name(value)} has no field "{name}"')
