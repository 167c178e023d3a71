"""The parse tree: one class for each construct of the language.

``pos`` is an index into the template's text. ``str()`` of a node gives it back in
the language's own spelling, for messages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias


@dataclass(slots=True)
class TextNode:
    """Text that is printed as it stands."""

    pos: int
    text: str


@dataclass(slots=True)
class DotNode:
    """The current value, ``.``."""

    pos: int

    def __str__(self) -> str:
        return "."


@dataclass(slots=True)
class NilNode:
    """The constant ``nil``."""

    pos: int

    def __str__(self) -> str:
        return "nil"


@dataclass(slots=True)
class BoolNode:
    """``true`` or ``false``."""

    pos: int
    value: bool

    def __str__(self) -> str:
        return "true" if self.value else "false"


@dataclass(slots=True)
class StringNode:
    """A string constant; ``source`` has its quotes."""

    pos: int
    source: str
    value: str

    def __str__(self) -> str:
        return self.source


@dataclass(slots=True)
class NumberNode:
    """A number constant, as every kind of number that it can be."""

    pos: int
    source: str
    integer: int | None
    float: float | None
    complex: complex | None

    def __str__(self) -> str:
        return self.source


@dataclass(slots=True)
class FieldNode:
    """``.A.B``: fields of the current value."""

    pos: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return "".join(f".{name}" for name in self.names)


@dataclass(slots=True)
class VariableNode:
    """``$x.A.B``: a variable, and fields of its value."""

    pos: int
    variable: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.variable, *self.names))


@dataclass(slots=True)
class IdentifierNode:
    """The name of a function."""

    pos: int
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(slots=True)
class FieldChainNode:
    """``(...).A.B`` or ``function.A.B``: fields of what an operand gives."""

    pos: int
    operand: Operand
    names: tuple[str, ...]

    def __str__(self) -> str:
        inner = f"({self.operand})" if isinstance(self.operand, PipelineNode) else str(self.operand)
        return inner + "".join(f".{name}" for name in self.names)


@dataclass(slots=True)
class CommandNode:
    """Operands with spaces between them: a function or method and its arguments."""

    pos: int
    operands: list[Operand] = field(default_factory=list)

    def __str__(self) -> str:
        return " ".join(
            f"({operand})" if isinstance(operand, PipelineNode) else str(operand)
            for operand in self.operands
        )


@dataclass(slots=True)
class PipelineNode:
    """Commands with ``|`` between them, and the variables that take the result."""

    pos: int
    variables: list[str] = field(default_factory=list)
    assigns: bool = False
    commands: list[CommandNode] = field(default_factory=list)

    def __str__(self) -> str:
        text = " | ".join(str(command) for command in self.commands)
        if not self.variables:
            return text
        return f"{', '.join(self.variables)} {'=' if self.assigns else ':='} {text}"


@dataclass(slots=True)
class ActionNode:
    """``{{ pipeline }}``: printed, unless it sets variables."""

    pos: int
    pipeline: PipelineNode


@dataclass(slots=True)
class BranchNode:
    """``if``, ``with`` or ``range`` with both of its bodies."""

    kind: str
    pos: int
    pipeline: PipelineNode
    body: list[Node]
    otherwise: list[Node] | None


@dataclass(slots=True)
class JumpNode:
    """``break`` or ``continue``."""

    kind: str
    pos: int


@dataclass(slots=True)
class CallNode:
    """``template "name" pipeline``, also where a ``block`` stands."""

    pos: int
    name: str
    pipeline: PipelineNode | None


Operand: TypeAlias = (
    DotNode
    | NilNode
    | BoolNode
    | StringNode
    | NumberNode
    | FieldNode
    | VariableNode
    | IdentifierNode
    | FieldChainNode
    | PipelineNode
)
Node: TypeAlias = TextNode | ActionNode | BranchNode | JumpNode | CallNode
