"""The parse tree: one class for each construct of the language.

``pos`` is an index into the template's text. ``str()`` of a node gives it back in
the language's own spelling, for messages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(slots=True)
class Text:
    """Text that is printed as it stands."""

    pos: int
    text: str


@dataclass(slots=True)
class Dot:
    """The current value, ``.``."""

    pos: int

    def __str__(self) -> str:
        return "."


@dataclass(slots=True)
class Nil:
    """The constant ``nil``."""

    pos: int

    def __str__(self) -> str:
        return "nil"


@dataclass(slots=True)
class Bool:
    """``true`` or ``false``."""

    pos: int
    value: bool

    def __str__(self) -> str:
        return "true" if self.value else "false"


@dataclass(slots=True)
class String:
    """A string constant; ``source`` has its quotes."""

    pos: int
    source: str
    value: str

    def __str__(self) -> str:
        return self.source


@dataclass(slots=True)
class Number:
    """A number constant, as every kind of number that it can be."""

    pos: int
    source: str
    integer: int | None
    float: float | None
    complex: complex | None

    def __str__(self) -> str:
        return self.source


@dataclass(slots=True)
class Field:
    """``.A.B``: fields of the current value."""

    pos: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return "".join(f".{name}" for name in self.names)


@dataclass(slots=True)
class Variable:
    """``$x.A.B``: a variable, and fields of its value."""

    pos: int
    variable: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.variable, *self.names))


@dataclass(slots=True)
class Identifier:
    """The name of a function."""

    pos: int
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(slots=True)
class FieldChain:
    """``(...).A.B`` or ``function.A.B``: fields of what an operand gives."""

    pos: int
    operand: Operand
    names: tuple[str, ...]

    def __str__(self) -> str:
        inner = f"({self.operand})" if isinstance(self.operand, Pipeline) else str(self.operand)
        return inner + "".join(f".{name}" for name in self.names)


@dataclass(slots=True)
class Command:
    """Operands with spaces between them: a function or method and its arguments."""

    pos: int
    operands: list[Operand] = field(default_factory=list)

    def __str__(self) -> str:
        return " ".join(
            f"({operand})" if isinstance(operand, Pipeline) else str(operand)
            for operand in self.operands
        )


@dataclass(slots=True)
class Pipeline:
    """Commands with ``|`` between them, and the variables that take the result."""

    pos: int
    variables: list[str] = field(default_factory=list)
    assigns: bool = False
    commands: list[Command] = field(default_factory=list)

    def __str__(self) -> str:
        text = " | ".join(str(command) for command in self.commands)
        if not self.variables:
            return text
        return f"{', '.join(self.variables)} {'=' if self.assigns else ':='} {text}"


@dataclass(slots=True)
class Action:
    """``{{ pipeline }}``: printed, unless it sets variables."""

    pos: int
    pipeline: Pipeline


@dataclass(slots=True)
class Branch:
    """``if``, ``with`` or ``range`` with both of its bodies."""

    kind: str
    pos: int
    pipeline: Pipeline
    body: list[Node]
    otherwise: list[Node] | None


@dataclass(slots=True)
class Jump:
    """``break`` or ``continue``."""

    kind: str
    pos: int


@dataclass(slots=True)
class Call:
    """``template "name" pipeline``, also where a ``block`` stands."""

    pos: int
    name: str
    pipeline: Pipeline | None


Operand: TypeAlias = (
    Dot | Nil | Bool | String | Number | Field | Variable | Identifier | FieldChain | Pipeline
)
Node: TypeAlias = Text | Action | Branch | Jump | Call
