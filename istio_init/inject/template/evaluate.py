"""Parse trees to Python closures, which are then run for each pod.

A closure takes the frame of the rendering and the current value (``.``). Variables
are resolved to slots of the frame once, here. What Go finds out while it runs (an
argument of the wrong type, an unknown field) is a TemplateError at run time here too.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from istio_init.inject.template.errors import FunctionError, LimitError, TemplateError
from istio_init.inject.template.functions import CHECKS, Function, constant
from istio_init.inject.template.lexer import place
from istio_init.inject.template.library import Library
from istio_init.inject.template.nodes import (
    Action,
    Bool,
    Branch,
    Call,
    Command,
    Dot,
    Field,
    FieldChain,
    Identifier,
    Jump,
    Nil,
    Node,
    Number,
    Operand,
    Pipeline,
    String,
    Text,
    Variable,
)
from istio_init.inject.template.printing import printed
from istio_init.inject.template.taint import (
    Tainted,
    harmless,
    hidden_origin,
    is_safe,
    marked_origin,
    taint,
)
from istio_init.inject.template.values import (
    NilPointer,
    Struct,
    Value,
    is_true,
    type_name,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one rendering may use.

    ``output`` and ``memory`` count characters, of the result and of all longer values
    on the way; ``steps`` are nodes that are run, ``depth`` is templates in templates.
    """

    output: int = 1 << 20
    memory: int = 64 << 20
    steps: int = 200_000
    seconds: float = 2.0
    depth: int = 50


# A line on which nothing but dashes and a key stands before the quotes.
_OPENS_QUOTES = re.compile(r'\n *(?:- +)*(?:[A-Za-z0-9_./-]+: +)?"\Z')


class _NilElement:
    """A nil that stands in a list or map: it prints like nothing, and has no fields."""

    __slots__ = ()


NIL_ELEMENT = _NilElement()
BREAK, CONTINUE = "break", "continue"
CHECK_CLOCK_EVERY = 500
SMALL = 1024
BYTES_OF_ITEM = 16


class Frame:
    """The state of one rendering."""

    __slots__ = (
        "depth", "environment", "limits", "memory", "next_check", "parts", "size", "slots", "start", "steps",
        "suspects", "trees",
    )  # fmt: skip

    def __init__(
        self, limits: Limits, environment: Mapping[str, str], trees: Mapping[str, Body]
    ) -> None:
        self.limits = limits
        self.environment = environment
        self.trees = trees
        self.parts: list[str] = []
        self.suspects: dict[int, Tainted] = {}
        self.slots: list[Value] = []
        self.size = 0
        self.memory = 0
        self.steps = 0
        self.depth = 0
        self.next_check = CHECK_CLOCK_EVERY
        self.start = time.monotonic()

    def tick(self, steps: int) -> None:
        """Count steps; raises LimitError when a limit is passed."""
        self.steps += steps
        if self.steps >= self.next_check:
            self.next_check = self.steps + CHECK_CLOCK_EVERY
            if self.steps > self.limits.steps:
                raise LimitError(f"the template needs more than {self.limits.steps} steps")
            self.check_clock()

    def check_clock(self) -> None:
        """Raise LimitError if the time is over."""
        if time.monotonic() - self.start > self.limits.seconds:
            raise LimitError(f"the template runs for more than {self.limits.seconds} seconds")

    def grow(self, size: int) -> None:
        """Count characters of output; raises LimitError when there are too many."""
        self.size += size
        if self.size > self.limits.output:
            raise LimitError(f"the output is longer than {self.limits.output} characters")

    def spend(self, value: Value) -> None:
        """Count what a long value takes; raises LimitError when all take too much."""
        size = len(value) if isinstance(value, str) else 0
        if isinstance(value, list | dict):
            size = len(value) * BYTES_OF_ITEM
        if size < SMALL:
            return
        self.check_clock()
        self.memory += size
        if self.memory > self.limits.memory:
            raise LimitError(f"the values are longer than {self.limits.memory} characters together")


Eval: TypeAlias = Callable[[Frame, Value], Value]
Exec: TypeAlias = Callable[[Frame, Value], str | None]


@dataclass(frozen=True, slots=True)
class Body:
    """A compiled template: what runs it, and how many variables it has."""

    run: Exec
    slots: int


class Compiler:
    """Compiles the templates of one text."""

    def __init__(self, name: str, text: str, functions: Library, *, mutates: bool) -> None:
        self.name = name
        self.text = text
        self.functions = functions
        # Where maps can change, what is in one is looked up each time.
        self.source = hidden_origin if mutates else marked_origin
        self.scope: list[tuple[str, int]] = []
        self.slots = 0
        self.template = name

    def body(self, template: str, nodes: list[Node]) -> Body:
        """Compile one template; slot 0 is ``$``."""
        self.template = template
        self.scope, self.slots = [("$", 0)], 1
        run = self.nodes(nodes)
        return Body(run, self.slots)

    # Errors

    def error(self, pos: int, fragment: object, message: str) -> TemplateError:
        """Return the error of something that failed while running."""
        line, column = place(self.text, pos)
        return TemplateError(self.name, line, column, message, fragment=str(fragment))

    def failing(self, node: Operand | Command, message: str) -> Eval:
        """Return a closure that fails at ``node``."""

        def fail(_frame: Frame, _dot: Value) -> NoReturn:
            raise self.error(node.pos, node, message)

        return fail

    # Bodies

    def nodes(self, nodes: list[Node]) -> Exec:
        """Compile a list of nodes; it returns ``break`` or ``continue`` if one was met."""
        steps: list[str | Exec] = []
        size = 0
        jumps = False
        for index, node in enumerate(nodes):
            if isinstance(node, Text):
                steps.append(node.text)
                size += len(node.text)
                continue
            steps.append(self.node(node, _in_quotes(nodes, index)))
            jumps = jumps or isinstance(node, Jump | Branch)
        count = len(steps) + 1
        first_pos = nodes[0].pos if nodes else 0

        def limit(error: LimitError) -> TemplateError:
            return self.error(first_pos, "", str(error))

        def run(frame: Frame, dot: Value) -> str | None:
            try:
                frame.tick(count)
                frame.grow(size)
            except LimitError as error:
                raise limit(error) from None
            put = frame.parts.append
            for step in steps:
                if step.__class__ is str:
                    put(step)
                else:
                    step(frame, dot)  # type: ignore[operator]
            return None

        def run_with_jumps(frame: Frame, dot: Value) -> str | None:
            try:
                frame.tick(count)
                frame.grow(size)
            except LimitError as error:
                raise limit(error) from None
            put = frame.parts.append
            for step in steps:
                if step.__class__ is str:
                    put(step)
                else:
                    jump = step(frame, dot)  # type: ignore[operator]
                    if jump is not None:
                        return jump  # type: ignore[no-any-return]
            return None

        return run_with_jumps if jumps else run

    def node(self, node: Node, in_quotes: bool) -> Exec:
        """Compile one node that is not text."""
        match node:
            case Action():
                return self.action(node, in_quotes)
            case Branch(kind="range"):
                return self.range(node)
            case Branch():
                return self.branch(node)
            case Jump():
                kind = node.kind
                return lambda _frame, _dot: kind
            case Call():
                return self.call(node)
            case Text():
                text = node.text
                return lambda frame, _dot: frame.parts.append(text)

    def action(self, node: Action, in_quotes: bool) -> Exec:
        """Compile an action: its value is printed unless it sets variables."""
        value_of = self.pipeline(node.pipeline)
        source = self.source
        if node.pipeline.variables:

            def declare(frame: Frame, dot: Value) -> None:
                value_of(frame, dot)

            return declare

        def show(frame: Frame, dot: Value) -> None:
            value = value_of(frame, dot)
            kind = type(value)
            try:
                if kind is str:
                    text: str = value  # type: ignore[assignment]
                elif kind is Tainted:
                    text = value  # type: ignore[assignment]
                    if not is_safe(value, in_quotes):  # type: ignore[arg-type]
                        frame.suspects[len(frame.parts)] = value  # type: ignore[assignment]
                elif value is None:
                    text = "<no value>"
                else:
                    text = printed(value)
                    if origin := source(value):
                        whole = Tainted.of(text, origin, lambda: printed(harmless(value)))
                        if not is_safe(whole, in_quotes):
                            frame.suspects[len(frame.parts)] = whole
                frame.grow(len(text))
            except FunctionError as error:
                raise self.error(node.pos, node.pipeline, str(error)) from None
            frame.parts.append(text)

        return show

    def branch(self, node: Branch) -> Exec:
        """Compile ``if`` and ``with``."""
        declared = len(self.scope)
        value_of = self.pipeline(node.pipeline)
        body = self.nodes(node.body)
        otherwise = self.nodes(node.otherwise) if node.otherwise else None
        del self.scope[declared:]

        def run_if(frame: Frame, dot: Value) -> str | None:
            value = value_of(frame, dot)
            if value if value.__class__ is bool else is_true(value):
                return body(frame, dot)
            return otherwise(frame, dot) if otherwise is not None else None

        def run_with(frame: Frame, dot: Value) -> str | None:
            value = value_of(frame, dot)
            if is_true(value):
                return body(frame, value)
            return otherwise(frame, dot) if otherwise is not None else None

        return run_with if node.kind == "with" else run_if

    def range(self, node: Branch) -> Exec:
        """Compile ``range`` over a list, a map or a number."""
        declared = len(self.scope)
        pipeline = node.pipeline
        value_of = self.pipeline(pipeline)
        slots = [self.slot(name) for name in pipeline.variables]
        body = self.nodes(node.body)
        otherwise = self.nodes(node.otherwise) if node.otherwise else None
        del self.scope[declared:]
        last = self.last(pipeline)
        key_slot = slots[0] if len(slots) == 2 else None
        item_slot = slots[-1] if slots else None

        def run(frame: Frame, dot: Value) -> str | None:
            value = value_of(frame, dot)
            pairs: list[tuple[Value, Value]]
            match value:
                case list():
                    pairs = list(enumerate(value))
                case dict():
                    pairs = [(key, value[key]) for key in sorted(value)]
                case None | NilPointer():
                    pairs = []
                case int() if not isinstance(value, bool):
                    if key_slot is not None:
                        raise self.error(last.pos, last, f"a range over {value} has one variable")
                    if value > frame.limits.steps:
                        raise self.error(
                            last.pos, last, f"more than {frame.limits.steps} steps are needed"
                        )
                    pairs = [(None, type(value)(number)) for number in range(value)]
                case _:
                    raise self.error(last.pos, last, f"range cannot go over a {type_name(value)}")
            if not pairs:
                return otherwise(frame, dot) if otherwise is not None else None
            slots = frame.slots
            for key, found in pairs:
                item = NIL_ELEMENT if found is None else found
                if item_slot is not None:
                    slots[item_slot] = item
                    if key_slot is not None:
                        slots[key_slot] = key
                if body(frame, item) == BREAK:
                    break
            return None

        return run

    def call(self, node: Call) -> Exec:
        """Compile ``template``."""
        value_of = self.pipeline(node.pipeline) if node.pipeline else None
        name = node.name
        shown = f'template "{name}"'

        def run(frame: Frame, dot: Value) -> None:
            body = frame.trees.get(name)
            if body is None:
                raise self.error(node.pos, shown, f'no template is called "{name}"')
            if frame.depth >= frame.limits.depth:
                raise self.error(
                    node.pos, shown, f"templates call each other more than {frame.depth} deep"
                )
            value = value_of(frame, dot) if value_of is not None else None
            outer = frame.slots
            frame.slots = [None] * body.slots
            frame.slots[0] = value
            frame.depth += 1
            body.run(frame, value)
            frame.depth -= 1
            frame.slots = outer

        return run

    # Variables

    def slot(self, name: str) -> int | None:
        """Return the slot of the innermost variable of that name."""
        for known, slot in reversed(self.scope):
            if known == name:
                return slot
        return None

    def declare(self, name: str) -> int:
        """Return a new slot for a variable."""
        slot = self.slots
        self.slots += 1
        self.scope.append((name, slot))
        return slot

    # Pipelines

    def pipeline(self, pipe: Pipeline) -> Eval:
        """Compile a pipeline, with the variables that it sets."""
        value_of = self.command(pipe.commands[0], None)
        for command in pipe.commands[1:]:
            value_of = self.command(command, value_of)
        if not pipe.variables:
            return value_of
        if pipe.assigns:
            slots = []
            for name in pipe.variables:
                slot = self.slot(name)
                if slot is None:
                    last = self.last(pipe)
                    return _after(
                        value_of, self.error, last, f"the variable {name} is not declared"
                    )
                slots.append(slot)
        else:
            slots = [self.declare(name) for name in pipe.variables]

        def assign(frame: Frame, dot: Value) -> Value:
            value = value_of(frame, dot)
            for slot in slots:
                frame.slots[slot] = value
            return value

        return assign

    def command(self, command: Command, final: Eval | None) -> Eval:
        """Compile a command; ``final`` gives its last argument."""
        first = command.operands[0]
        match first:
            case Identifier():
                return self.function(first, command, command.operands[1:], final)
            case Field() | Variable() | FieldChain() if (
                not isinstance(first, Variable) or first.names
            ):
                if len(command.operands) > 1 or final is not None:
                    return self.with_arguments(first, command, final)
                return self.operand(first)
            case _:
                if len(command.operands) > 1 or final is not None:
                    blamed = command if isinstance(first, Pipeline) else first
                    return self.failing(blamed, f"{first} is no function and takes no argument")
                if isinstance(first, Nil):
                    return self.failing(first, "nil is no command")
                return self.operand(first)

    def operand(self, operand: Operand) -> Eval:
        """Compile an operand that stands for a value."""
        match operand:
            case Dot():
                return lambda _frame, dot: None if dot is NIL_ELEMENT else dot
            case Nil():
                return lambda _frame, _dot: None
            case Bool() | String():
                value: Value = operand.value
                return lambda _frame, _dot: value
            case Number():
                try:
                    number = constant(operand, "any")
                except FunctionError as error:
                    return self.failing(operand, str(error))
                return lambda _frame, _dot: number
            case Field():
                return self.fields(lambda _frame, dot: dot, operand.names, operand)
            case Variable():
                return self.variable(operand)
            case Identifier():
                return self.function(operand, operand, [], None)
            case FieldChain():
                if isinstance(operand.operand, Nil):
                    return self.failing(operand, "nil has no fields")
                inner = self.operand(operand.operand)
                return self.fields(inner, operand.names, self.last(operand.operand))
            case Pipeline():
                return self.pipeline(operand)

    def variable(self, operand: Variable) -> Eval:
        """Compile a variable, with the fields behind it."""
        slot = self.slot(operand.variable)
        if slot is None:
            return self.failing(operand, f"the variable {operand.variable} is not declared")
        if operand.names:
            return self.fields(lambda frame, _dot: frame.slots[slot], operand.names, operand)

        def value_of(frame: Frame, _dot: Value) -> Value:
            value = frame.slots[slot]
            return None if value is NIL_ELEMENT else value

        return value_of

    def fields(self, inner: Eval, names: tuple[str, ...], node: Operand) -> Eval:
        """Compile a chain of fields."""
        error = self.error

        def value_of(frame: Frame, dot: Value) -> Value:
            value = inner(frame, dot)
            for name in names:
                if isinstance(value, dict):
                    if name not in value:
                        # A key that is missing has nothing in it either, however deep.
                        return None
                    value = value[name]
                    if value is None:
                        value = NIL_ELEMENT
                    continue
                if value is None:
                    return None
                try:
                    value = field_of(value, name)
                except FunctionError as problem:
                    raise error(node.pos, node, str(problem)) from None
            return None if value is NIL_ELEMENT else value

        return value_of

    def with_arguments(self, first: Operand, command: Command, final: Eval | None) -> Eval:
        """Compile a field that has arguments: only a method could take them, and none does."""
        value_of = self.operand(first)
        count = len(command.operands) - 1 + (final is not None)

        def run(frame: Frame, dot: Value) -> Value:
            if final is not None:
                final(frame, dot)
            value_of(frame, dot)
            raise self.error(first.pos, first, f"it takes no arguments, but gets {count}")

        return run

    # Functions

    def function(
        self,
        name: Identifier,
        command: Identifier | Command,
        operands: list[Operand],
        final: Eval | None,
    ) -> Eval:
        """Compile the call of a function."""
        function = self.functions[name.name]
        if name.name in {"and", "or"}:
            return self.short_circuit(name, operands, final)
        count = len(operands) + (final is not None)
        problem = function.wrong_count(count)
        if problem:
            if final is not None:
                return _after(final, self.error, name, problem)
            return self.failing(name, problem)
        arguments = [
            self.argument(operand, function.type_of(index))
            for index, operand in enumerate(operands)
        ]
        if final is None:
            return self.invoke(function, command, arguments, None, None)
        last = self.last(operands[-1]) if operands else name
        checked = self.checked(_taken, function.type_of(count - 1), last)
        return self.invoke(function, command, arguments, final, checked)

    def argument(self, operand: Operand, wanted: str) -> Eval:
        """Compile an operand as an argument of type ``wanted``."""
        match operand:
            case Bool() | String() | Number() | Nil():
                try:
                    value = constant(operand, wanted)
                except FunctionError as error:
                    return self.failing(operand, str(error))
                return lambda _frame, _dot: value
        return self.checked(self.operand(operand), wanted, self.last(operand))

    def checked(self, value_of: Eval, wanted: str, node: Operand | Command) -> Eval:
        """Return a closure that checks a value's type as well."""
        check = CHECKS.get(wanted)
        if check is None:
            return value_of
        error = self.error

        def run(frame: Frame, dot: Value) -> Value:
            value = value_of(frame, dot)
            try:
                return check(value)
            except FunctionError as problem:
                raise error(node.pos, node, str(problem)) from None

        return run

    def invoke(
        self,
        function: Function,
        command: Identifier | Command,
        arguments: list[Eval],
        final: Eval | None,
        checked: Eval | None,
    ) -> Eval:
        """Return the closure that calls a function whose arguments are compiled.

        ``final`` gives the value before the ``|``; ``checked`` checks it when all
        other arguments have been evaluated.
        """
        call, name, error, source = function.call, function.name, self.error, self.source
        wants_frame, gives_text, json = function.wants_frame, function.gives_text, function.json

        def run(frame: Frame, dot: Value) -> Value:
            if final is None or checked is None:
                values = [argument(frame, dot) for argument in arguments]
            else:
                last = final(frame, dot)
                values = [argument(frame, dot) for argument in arguments]
                values.append(checked(frame, last))
            try:
                result = call(frame, *values) if wants_frame else call(*values)
                if gives_text:
                    frame.spend(result)
                    for value in values:
                        if origin := source(value):
                            return tainted_result(result, origin, values, call, json=json)
            except FunctionError as problem:
                raise error(command.pos, command, f"{name}: {problem}") from None
            except RecursionError:
                raise error(command.pos, command, f"{name}: a value is too deep") from None
            return result

        return run

    def short_circuit(self, name: Identifier, operands: list[Operand], final: Eval | None) -> Eval:
        """Compile ``and`` and ``or``, which stop at the first argument that decides."""
        if not operands and final is None:
            return self.failing(name, f"{name} needs an argument")
        arguments = [self.argument(operand, "value") for operand in operands]
        stop = name.name == "or"

        def run(frame: Frame, dot: Value) -> Value:
            last = final(frame, dot) if final is not None else None
            value: Value = None
            for argument in arguments:
                value = argument(frame, dot)
                if is_true(value) is stop:
                    return value
            return last if final is not None else value

        return run

    def last(self, node: Operand | Command) -> Operand | Command:
        """Return the node that was evaluated last when ``node`` has been: Go blames it."""
        match node:
            case Pipeline():
                return self.last(node.commands[-1])
            case Command():
                first = node.operands[0]
                if isinstance(first, Identifier):
                    return self.last(node.operands[-1])
                return self.last(first)
            case FieldChain():
                return self.last(node.operand)
        return node


def _taken(_frame: Frame, value: Value) -> Value:
    """Return the value that stands where the current value does otherwise."""
    return value


def _after(
    value_of: Eval,
    error: Callable[[int, object, str], TemplateError],
    node: Operand | Command,
    message: str,
) -> Eval:
    """Return a closure that evaluates something and then fails."""

    def run(frame: Frame, dot: Value) -> NoReturn:
        value_of(frame, dot)
        raise error(node.pos, node, message)

    return run


def _in_quotes(nodes: list[Node], index: int) -> bool:
    """Return whether a node is the whole inside of a double-quoted scalar."""
    if not 0 < index < len(nodes) - 1:
        return False
    before, behind = nodes[index - 1], nodes[index + 1]
    if not isinstance(before, Text) or not isinstance(behind, Text):
        return False
    return behind.text.startswith('"') and _OPENS_QUOTES.search(before.text) is not None


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
        return method(value)  # type: ignore[no-any-return]
    raise FunctionError(f'a {type_name(value)} has no field "{name}"')


def tainted_result(
    result: Value, origin: str, values: list[Value], call: Callable[..., Value], *, json: bool
) -> Value:
    """Return the result of a function that was given a value from ``origin``, tainted."""
    if isinstance(result, str):
        if type(result) is Tainted:
            return result

        def again() -> Value:
            return call(*[harmless(value) for value in values])

        return Tainted.of(result, origin, again, json=json)
    if isinstance(result, dict | list):
        return taint(result, origin)
    return result
