"""Parse trees to Python closures, which are then run for each pod.

A closure takes the frame of the rendering and the current value (``.``). Variables
are resolved to slots of the frame once, here. What Go finds out while it runs (an
argument of the wrong type, an unknown field) is a TemplateError at run time here too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from istio_init.inject.template.errors import FunctionError, LimitError, TemplateError
from istio_init.inject.template.fields import field_of
from istio_init.inject.template.frame import BREAK, NIL_ELEMENT, Body, Eval, Exec, Frame
from istio_init.inject.template.functions import CHECKS, Function, constant
from istio_init.inject.template.lexer import place
from istio_init.inject.template.nodes import (
    ActionNode,
    BoolNode,
    BranchNode,
    CallNode,
    CommandNode,
    DotNode,
    FieldChainNode,
    FieldNode,
    IdentifierNode,
    JumpNode,
    NilNode,
    Node,
    NumberNode,
    Operand,
    PipelineNode,
    StringNode,
    TextNode,
    VariableNode,
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
    Value,
    is_true,
    type_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from istio_init.inject.template.library import Library


# A line on which nothing but dashes and a key stands before the quotes.
_OPENS_QUOTES = re.compile(r'\n *(?:- +)*(?:[A-Za-z0-9_./-]+: +)?"\Z')


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

    def failing(self, node: Operand | CommandNode, message: str) -> Eval:
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
            if isinstance(node, TextNode):
                steps.append(node.text)
                size += len(node.text)
                continue
            steps.append(self.node(node, in_quotes=_in_quotes(nodes, index)))
            jumps = jumps or isinstance(node, JumpNode | BranchNode)
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
                        return jump
            return None

        return run_with_jumps if jumps else run

    def node(self, node: ActionNode | BranchNode | JumpNode | CallNode, *, in_quotes: bool) -> Exec:
        """Compile one node that is not text."""
        match node:
            case ActionNode():
                return self.action(node, in_quotes=in_quotes)
            case BranchNode(kind="range"):
                return self.range(node)
            case BranchNode():
                return self.branch(node)
            case JumpNode():
                kind = node.kind
                return lambda _frame, _dot: kind
            case CallNode():
                return self.call(node)

    def action(self, node: ActionNode, *, in_quotes: bool) -> Exec:
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
                    if not is_safe(value, in_quotes=in_quotes):  # type: ignore[arg-type]
                        frame.suspects[len(frame.parts)] = value  # type: ignore[assignment]
                elif value is None:
                    text = "<no value>"
                else:
                    text = printed(value)
                    if origin := source(value):
                        whole = Tainted.of(text, origin, lambda: printed(harmless(value)))
                        if not is_safe(whole, in_quotes=in_quotes):
                            frame.suspects[len(frame.parts)] = whole
                frame.grow(len(text))
            except FunctionError as error:
                raise self.error(node.pos, node.pipeline, str(error)) from None
            frame.parts.append(text)

        return show

    def branch(self, node: BranchNode) -> Exec:
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

    def range(self, node: BranchNode) -> Exec:
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

    def call(self, node: CallNode) -> Exec:
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

    def pipeline(self, pipe: PipelineNode) -> Eval:
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

    def command(self, command: CommandNode, final: Eval | None) -> Eval:
        """Compile a command; ``final`` gives its last argument."""
        first = command.operands[0]
        match first:
            case IdentifierNode():
                return self.function(first, command, command.operands[1:], final)
            case FieldNode() | VariableNode() | FieldChainNode() if (
                not isinstance(first, VariableNode) or first.names
            ):
                if len(command.operands) > 1 or final is not None:
                    return self.with_arguments(first, command, final)
                return self.operand(first)
            case _:
                if len(command.operands) > 1 or final is not None:
                    blamed = command if isinstance(first, PipelineNode) else first
                    return self.failing(blamed, f"{first} is no function and takes no argument")
                if isinstance(first, NilNode):
                    return self.failing(first, "nil is no command")
                return self.operand(first)

    def operand(self, operand: Operand) -> Eval:
        """Compile an operand that stands for a value."""
        match operand:
            case DotNode():
                return lambda _frame, dot: None if dot is NIL_ELEMENT else dot
            case NilNode():
                return lambda _frame, _dot: None
            case BoolNode() | StringNode():
                value: Value = operand.value
                return lambda _frame, _dot: value
            case NumberNode():
                try:
                    number = constant(operand, "any")
                except FunctionError as error:
                    return self.failing(operand, str(error))
                return lambda _frame, _dot: number
            case FieldNode():
                return self.fields(lambda _frame, dot: dot, operand.names, operand)
            case VariableNode():
                return self.variable(operand)
            case IdentifierNode():
                return self.function(operand, operand, [], None)
            case FieldChainNode():
                if isinstance(operand.operand, NilNode):
                    return self.failing(operand, "nil has no fields")
                inner = self.operand(operand.operand)
                return self.fields(inner, operand.names, self.last(operand.operand))
            case PipelineNode():
                return self.pipeline(operand)

    def variable(self, operand: VariableNode) -> Eval:
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

    def fields(self, inner: Eval, names: tuple[str, ...], node: Operand | CommandNode) -> Eval:
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

    def with_arguments(self, first: Operand, command: CommandNode, final: Eval | None) -> Eval:
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
        name: IdentifierNode,
        command: IdentifierNode | CommandNode,
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
            case BoolNode() | StringNode() | NumberNode() | NilNode():
                try:
                    value = constant(operand, wanted)
                except FunctionError as error:
                    return self.failing(operand, str(error))
                return lambda _frame, _dot: value
            case _:
                pass
        return self.checked(self.operand(operand), wanted, self.last(operand))

    def checked(self, value_of: Eval, wanted: str, node: Operand | CommandNode) -> Eval:
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
        command: IdentifierNode | CommandNode,
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

    def short_circuit(
        self, name: IdentifierNode, operands: list[Operand], final: Eval | None
    ) -> Eval:
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

    def last(self, node: Operand | CommandNode) -> Operand | CommandNode:
        """Return the node that was evaluated last when ``node`` has been: Go blames it."""
        match node:
            case PipelineNode():
                return self.last(node.commands[-1])
            case CommandNode():
                first = node.operands[0]
                if isinstance(first, IdentifierNode):
                    return self.last(node.operands[-1])
                return self.last(first)
            case FieldChainNode():
                return self.last(node.operand)
            case _:
                pass
        return node


def _taken(_frame: Frame, value: Value) -> Value:
    """Return the value that stands where the current value does otherwise."""
    return value


def _after(
    value_of: Eval,
    error: Callable[[int, object, str], TemplateError],
    node: Operand | CommandNode,
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
    if not isinstance(before, TextNode) or not isinstance(behind, TextNode):
        return False
    return behind.text.startswith('"') and _OPENS_QUOTES.search(before.text) is not None


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
