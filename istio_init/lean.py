"""What the types of this package stand on, without the standard library's costs.

On Debian's Python 3.11 it takes more than twice the start of a bare interpreter
to make thirty frozen dataclasses, and about one start to make thirty of
``typing.NamedTuple``; thirty records take a seventh of one. This program starts
before every container of a pod, so its values are such records: tuples with named
fields, immutable, hashable and compared in C.
"""

from __future__ import annotations

from _operator import itemgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Never, Self, dataclass_transform

    @dataclass_transform(frozen_default=True, eq_default=True)
    class Record:
        """An immutable value with named fields; see the run-time class below."""

        __match_args__: tuple[str, ...] = ()

        def replace(self, **changes: Any) -> Self: ...

    def assert_never(value: Never) -> Never: ...

else:

    class _RecordType(type):
        def __new__(mcs, name, bases, namespace):
            fields = tuple(namespace.get("__annotations__", ()))
            defaults = {field: namespace.pop(field) for field in fields if field in namespace}
            namespace["__slots__"] = ()
            namespace["__match_args__"] = fields
            # Item 0 is the class itself, so that two kinds of record with equal
            # fields (Return() and Accept()) never compare equal.
            for position, field in enumerate(fields, 1):
                namespace[field] = property(itemgetter(position))
            cls = super().__new__(mcs, name, bases, namespace)
            cls._defaults = defaults
            # Those of the fields behind the last one without a default.
            cls._trailing = ()
            for field in reversed(fields):
                if field not in defaults:
                    break
                cls._trailing = (defaults[field], *cls._trailing)
            return cls

    class Record(tuple, metaclass=_RecordType):  # noqa: SLOT001 - the metaclass adds them
        """An immutable value with named fields, compared and hashed by them."""

        def __new__(cls, *values, **named):
            fields = cls.__match_args__
            absent = len(fields) - len(values)
            if not named and 0 < absent <= len(cls._trailing):
                return tuple.__new__(cls, (cls, *values, *cls._trailing[-absent:]))
            if named or absent:
                given = dict(zip(fields, values, strict=False))
                if len(values) > len(fields) or given.keys() & named or named.keys() - set(fields):
                    raise TypeError(f"{cls.__name__}: fields are {', '.join(fields)}")
                full = {**cls._defaults, **given, **named}
                missing = [field for field in fields if field not in full]
                if missing:
                    raise TypeError(f"{cls.__name__}: missing {', '.join(missing)}")
                values = [full[field] for field in fields]
            return tuple.__new__(cls, (cls, *values))

        def replace(self, **changes):
            """Return a copy with the named fields changed."""
            cls, *values = self
            for position, field in enumerate(cls.__match_args__):
                if field in changes:
                    values[position] = changes.pop(field)
            if changes:
                raise TypeError(f"{cls.__name__}: has no {', '.join(changes)}")
            return tuple.__new__(cls, (cls, *values))

        def __repr__(self):
            named = zip(self.__match_args__, self[1:], strict=True)
            fields = ", ".join(f"{name}={value!r}" for name, value in named)
            return f"{type(self).__name__}({fields})"

        def __reduce__(self):
            return type(self), self[1:]

    def assert_never(value):
        """Fail on a case that the type checker proved cannot come up."""
        raise AssertionError(f"unexpected {value!r}")
