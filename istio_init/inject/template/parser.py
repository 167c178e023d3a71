"""Tokens to parse trees, by the rules of Go's text/template."""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn

from istio_init.inject.template.errors import TemplateError
from istio_init.inject.template.lexer import Token, place, tokenize
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

MAX_NESTING = 60
MAX_INT64 = 2**63 - 1
MIN_INT64 = -(2**63)
MAX_UINT64 = 2**64 - 1

_CONSTANTS = (BoolNode, DotNode, NilNode, NumberNode, StringNode)
_STARTS_OPERAND = frozenset(
    {
        "bool", "char", "dot", "field", "name", "number", "nil", "raw", "string", "variable",
        "open",
    }
)  # fmt: skip
_ESCAPES = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\",
}  # fmt: skip
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\])|(['\"])|([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.?))",
    re.DOTALL,
)
_INTEGER = re.compile(
    r"[+-]?(?:0[xX](?:_?[0-9a-fA-F])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+|0(?:_?[0-7])*|[1-9](?:_?[0-9])*)"
)
_DIGITS = r"[0-9](?:_?[0-9])*"
_FLOAT = re.compile(rf"[+-]?(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?")
_HEX_FLOAT = re.compile(
    r"[+-]?0[xX](?:[0-9a-fA-F_]+\.?[0-9a-fA-F_]*|\.[0-9a-fA-F_]+)[pP][+-]?[0-9]+"
)


class Parsed(NamedTuple):
    """The bodies of a text by template name, and the names of the functions they use."""

    trees: dict[str, list[Node]]
    used: set[str]


def parse(name: str, text: str, delimiters: tuple[str, str], functions: frozenset[str]) -> Parsed:
    """Return the template's body under its own name, and all that it defines.

    Raises:
        TemplateError: the text is no template; only the first mistake is named.
    """
    tokens = tokenize(name, text, *delimiters)
    trees: dict[str, list[Node]] = {}
    parser = _Parser(name, text, tokens, functions, trees)
    try:
        parser.top()
    except RecursionError:
        parser.fail(tokens[0].pos, "the actions are nested too deeply")
    return Parsed(trees, parser.used)


class _Parser:
    """One walk over the tokens.

    ``variables`` are those that the text has declared so far, and ``loops`` is how
    many ``range`` are open; a definition begins with neither.
    """

    def __init__(
        self,
        name: str,
        text: str,
        tokens: list[Token],
        functions: frozenset[str],
        trees: dict[str, list[Node]],
    ) -> None:
        self.name = name
        self.text = text
        self.tokens = tokens
        self.functions = functions
        self.trees = trees
        self.used: set[str] = set()
        self.next = 0
        self.variables = ["$"]
        self.loops = 0
        self.parens = 0
        self.blocks = 0

    # Where things are

    def fail(self, pos: int, message: str) -> NoReturn:
        line, column = place(self.text, pos)
        raise TemplateError(self.name, line, column, message, stage="parse")

    def unexpected(self, token: Token, context: str) -> NoReturn:
        if token.kind == "eof":
            self.fail(token.pos, f"the text ends in the middle of {context}")
        self.fail(token.pos, f"{token.text!r} cannot stand in {context}")

    def take(self) -> Token:
        token = self.tokens[self.next]
        self.next += 1
        return token

    def peek(self) -> Token:
        return self.tokens[self.next]

    def expect(self, kind: str, context: str) -> Token:
        token = self.take()
        if token.kind != kind:
            self.unexpected(token, context)
        return token

    # Bodies

    def top(self) -> None:
        """Read the whole text."""
        body: list[Node] = []
        while (token := self.peek()).kind != "eof":
            if token.kind == "left" and self.tokens[self.next + 1].kind == "define":
                self.next += 2
                self.definition(token)
                continue
            node = self.item()
            if isinstance(node, Token):
                self.fail(node.pos, f"{{{{{node.kind}}}}} belongs to nothing")
            body.append(node)
        self.add(self.name, body, 0)

    def add(self, name: str, body: list[Node], pos: int) -> None:
        """Keep a body; a second one under the same name may only be blank, or replace a blank."""
        known = self.trees.get(name)
        if known is None or _is_blank(known):
            self.trees[name] = body
        elif not _is_blank(body):
            self.fail(pos, f'the template "{name}" is defined twice')

    def definition(self, start: Token) -> None:
        """Read a ``define``, whose keyword has been read."""
        name = self.template_name("a define")
        self.expect("right", "a define")
        self.body_of(name, start)

    def body_of(self, name: str, start: Token) -> None:
        """Read the body of a ``define`` or ``block``, which has variables of its own."""
        outer = self.variables, self.loops
        self.variables, self.loops = ["$"], 0
        body, end = self.items(start)
        if end.kind != "end":
            self.fail(end.pos, f'{{{{else}}}} cannot stand in the definition of "{name}"')
        self.variables, self.loops = outer
        self.add(name, body, start.pos)

    def items(self, start: Token) -> tuple[list[Node], Token]:
        """Return the nodes up to an ``end`` or ``else``, and the token of that."""
        self.blocks += 1
        if self.blocks > MAX_NESTING:
            self.fail(start.pos, f"more than {MAX_NESTING} blocks are nested")
        body: list[Node] = []
        while self.peek().kind != "eof":
            node = self.item()
            if isinstance(node, Token):
                self.blocks -= 1
                return body, node
            body.append(node)
        self.fail(start.pos, "the text ends before the {{end}} of this block")

    def item(self) -> Node | Token:
        """Return the next node; for ``end`` and ``else`` their token."""
        token = self.take()
        if token.kind == "text":
            return TextNode(token.pos, token.text)
        if token.kind != "left":
            self.unexpected(token, "the text")
        word = self.take()
        match word.kind:
            case "if" | "with" | "range":
                return self.branch(word)
            case "end":
                self.expect("right", "{{end}}")
                return word
            case "else":
                if self.peek().kind not in {"if", "with"}:
                    self.expect("right", "{{else}}")
                return word
            case "break" | "continue":
                self.expect("right", f"{{{{{word.kind}}}}}")
                if not self.loops:
                    self.fail(word.pos, f"{{{{{word.kind}}}}} needs a {{{{range}}}} around it")
                return JumpNode(word.kind, word.pos)
            case "template":
                name = self.template_name("a template action")
                if self.peek().kind == "right":
                    self.next += 1
                    return CallNode(word.pos + 9, name, None)
                return CallNode(word.pos + 9, name, self.pipeline("a template action"))
            case "block":
                name = self.template_name("a block")
                pipeline = self.pipeline("a block")
                self.body_of(name, token)
                return CallNode(word.pos + 6, name, pipeline)
            case _:
                pass
        self.next -= 1
        return ActionNode(word.pos, self.pipeline("an action"))

    def branch(self, word: Token) -> BranchNode:
        """Read an ``if``, ``with`` or ``range`` whose keyword has been read."""
        declared = len(self.variables)
        pipeline = self.pipeline(f"a {word.kind}")
        self.loops += word.kind == "range"
        body, end = self.items(word)
        self.loops -= word.kind == "range"
        otherwise: list[Node] | None = None
        if end.kind == "else":
            again = self.peek()
            if again.kind == word.kind and word.kind != "range":
                self.next += 1
                otherwise = self.otherwise(again)
            else:
                otherwise, end = self.items(word)
                if end.kind != "end":
                    self.fail(end.pos, "a second {{else}} stands where {{end}} must be")
        del self.variables[declared:]
        return BranchNode(word.kind, pipeline.pos, pipeline, body, otherwise)

    def otherwise(self, word: Token) -> list[Node]:
        """Return the chain of ``else if`` or ``else with`` that begins at ``word``."""
        self.blocks += 1
        node = self.branch(word)
        self.blocks -= 1
        return [node]

    def template_name(self, context: str) -> str:
        token = self.take()
        if token.kind not in {"string", "raw"}:
            self.unexpected(token, context)
        return self.unquoted(token)

    # Pipelines

    def pipeline(self, context: str, end: str = "right") -> PipelineNode:
        """Read commands up to the token ``end``, with the variables before them."""
        start = self.peek()
        pipe = PipelineNode(start.pos)
        if start.kind == "variable":
            self.declarations(pipe, context)
        while True:
            token = self.peek()
            if token.kind == end:
                self.next += 1
                break
            if token.kind not in _STARTS_OPERAND:
                self.unexpected(token, context)
            pipe.commands.append(self.command())
        if not pipe.commands:
            self.fail(start.pos, f"{context} needs a value")
        for command in pipe.commands[1:]:
            if isinstance(command.operands[0], _CONSTANTS):
                self.fail(command.pos, f"{command.operands[0]} cannot take the value before the |")
        return pipe

    def declarations(self, pipe: PipelineNode, context: str) -> None:
        """Read ``$x :=``, ``$x =`` and, in a range, ``$i, $x :=``."""
        while self.peek().kind == "variable":
            variable, after = self.peek(), self.tokens[self.next + 1]
            if after.kind in {"assign", "declare"}:
                pipe.assigns = after.kind == "assign"
            elif after.text != ",":
                if pipe.variables:
                    self.unexpected(after, context)
                return
            elif context != "a range" or pipe.variables:
                self.fail(after.pos, f"{context} cannot set so many variables")
            self.next += 2
            pipe.variables.append(variable.text)
            self.variables.append(variable.text)
            if after.text != ",":
                return
            if self.peek().kind not in {"variable", "right", "shut"}:
                self.unexpected(self.peek(), "the variables of a range")

    def command(self) -> CommandNode:
        """Read operands up to a ``|``, which is taken, or the end of the pipeline."""
        command = CommandNode(self.peek().pos)
        while True:
            operand = self.operand()
            if operand is not None:
                command.operands.append(operand)
            token = self.peek()
            if token.kind in {"right", "shut"}:
                break
            if token.kind == "pipe":
                self.next += 1
                break
            if operand is None or not token.spaced:
                self.unexpected(token, "an action")
        if not command.operands:
            self.fail(command.pos, "nothing stands here to be called")
        return command

    def operand(self) -> Operand | None:
        """Read one operand with the fields behind it, or nothing."""
        operand = self.term()
        token = self.peek()
        if operand is None or token.kind != "field" or token.spaced:
            return operand
        names = []
        while self.peek().kind == "field" and not self.peek().spaced:
            names.append(self.take().text[1:])
        if isinstance(operand, FieldNode):
            return FieldNode(token.pos, operand.names + tuple(names))
        if isinstance(operand, VariableNode):
            return VariableNode(token.pos, operand.variable, operand.names + tuple(names))
        if isinstance(operand, _CONSTANTS):
            self.fail(token.pos, f"{operand} has no fields")
        return FieldChainNode(token.pos, operand, tuple(names))

    def term(self) -> Operand | None:
        """Read a constant, variable, field, function or parenthesis, or nothing."""
        token = self.peek()
        if token.kind not in _STARTS_OPERAND:
            return None
        self.next += 1
        text, pos = token.text, token.pos
        match token.kind:
            case "field":
                return FieldNode(pos, (text[1:],))
            case "name":
                if text not in self.functions:
                    self.fail(pos, f'there is no function "{text}"')
                self.used.add(text)
                return IdentifierNode(pos, text)
            case "string" | "raw":
                return StringNode(pos, text, self.unquoted(token))
            case "variable":
                if text not in self.variables:
                    self.fail(pos, f"the variable {text} is not declared")
                return VariableNode(pos, text, ())
            case "dot":
                return DotNode(pos)
            case "bool":
                return BoolNode(pos, text == "true")
            case "nil":
                return NilNode(pos)
            case "open":
                self.parens += 1
                if self.parens > MAX_NESTING:
                    self.fail(pos, f"more than {MAX_NESTING} parentheses are nested")
                inner = self.pipeline("a parenthesis", "shut")
                self.parens -= 1
                return inner
            case "char":
                value = ord(self.unquoted(token))
                return NumberNode(pos, text, value, float(value), None)
            case _:
                pass
        return self.number(token)

    # Constants

    def unquoted(self, token: Token) -> str:
        """Return what a quoted string or a character constant stands for."""
        if token.kind == "raw":
            return token.text[1:-1].replace("\r", "")
        quote, inner = token.text[0], token.text[1:-1]
        if "\\" in inner:
            inner = self.unescaped(token, inner, quote)
        if token.kind == "char" and len(inner) != 1:
            self.fail(token.pos, f"{token.text} must be one character")
        return inner

    def unescaped(self, token: Token, inner: str, quote: str) -> str:
        def one(found: re.Match[str]) -> str:
            letter, mark, octal, byte, short, long, _ = found.groups()
            if letter:
                return _ESCAPES[letter]
            if mark == quote:
                return mark
            if octal or byte:
                value = int(octal, 8) if octal else int(byte, 16)
                if value < 0x80 or (value < 0x100 and quote == "'"):
                    return chr(value)
                if value < 0x100:
                    return bytes([value]).decode("utf-8", "surrogateescape")
            if short or long:
                value = int(short or long, 16)
                if value < 0xD800 or 0xDFFF < value <= 0x10FFFF:
                    return chr(value)
            self.fail(token.pos, f"{found.group()} in {token.text} is no escape")

        text = _ESCAPE.sub(one, inner)
        # Bytes that were written one by one may be a character together.
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")

    def number(self, token: Token) -> NumberNode:
        text, pos = token.text, token.pos
        if text.endswith("i"):
            return self.complex_number(token)
        if _INTEGER.fullmatch(text):
            digits = text.replace("_", "")
            plain = digits.lstrip("+-")
            base = 8 if len(plain) > 1 and plain[0] == "0" and plain[1].isdigit() else 0
            value = int(digits, base)
            if value > MAX_UINT64 or value < MIN_INT64:
                self.fail(pos, f"{text} does not fit in 64 bits")
            # Beyond the largest int it is still a float.
            return NumberNode(pos, text, value if value <= MAX_INT64 else None, float(value), None)
        bare = text.replace("_", "")
        try:
            if _HEX_FLOAT.fullmatch(text):
                value_float = float.fromhex(bare)
            elif _FLOAT.fullmatch(text) and set(".eE") & set(bare):
                value_float = float(bare)
            else:
                self.fail(pos, f"{text} is not a number")
        except OverflowError:
            self.fail(pos, f"{text} does not fit in 64 bits")
        if value_float in {float("inf"), float("-inf")}:
            self.fail(pos, f"{text} does not fit in 64 bits")
        whole = value_float.is_integer() and MIN_INT64 <= value_float <= MAX_INT64
        return NumberNode(pos, text, int(value_float) if whole else None, value_float, None)

    def complex_number(self, token: Token) -> NumberNode:
        try:
            value = complex(token.text.replace("_", "")[:-1] + "j")
        except ValueError:
            self.fail(token.pos, f"{token.text} is not a number")
        if value.imag:
            return NumberNode(token.pos, token.text, None, None, value)
        whole = int(value.real) if value.real.is_integer() else None
        return NumberNode(token.pos, token.text, whole, value.real, value)


def _is_blank(body: list[Node]) -> bool:
    """Return whether a body prints nothing but blanks."""
    return all(isinstance(node, TextNode) and not node.text.strip() for node in body)
