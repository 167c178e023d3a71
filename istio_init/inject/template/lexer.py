"""Template text to tokens, by the rules of Go's text/template."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple, NoReturn

from istio_init.inject.template.errors import TemplateError

SPACES = " \t\r\n"
KEYWORDS = frozenset(
    {
        "block", "break", "continue", "define", "else", "end",
        "if", "nil", "range", "template", "with",
    }
)  # fmt: skip


class Token(NamedTuple):
    """One token; ``spaced`` says that blanks stand before it."""

    kind: str
    text: str
    pos: int
    spaced: bool


def place(text: str, pos: int) -> tuple[int, int]:
    """Return the line (from 1) and the number of bytes before ``pos`` in it."""
    start = text.rfind("\n", 0, pos) + 1
    line = text.count("\n", 0, pos) + 1
    return line, len(text[start:pos].encode("utf-8", "replace"))


def tokenize(name: str, text: str, left: str, right: str) -> list[Token]:
    """Return the tokens of a template whose actions stand between ``left`` and ``right``.

    Raises:
        TemplateError: an action, a comment, a string or a parenthesis is not closed, or
            a character has no meaning.
    """
    lexer = _Lexer(name, text, left, right)
    lexer.run()
    return lexer.tokens


@cache
def _inside(right: str) -> re.Pattern[str]:
    """Return the pattern of everything that can stand in an action."""
    close = re.escape(right)
    ends = rf"(?=[ \t\r\n.,|:)(]|\Z|{close})"
    return re.compile(
        rf"(?P<close>(?:[ \t\r\n]+-)?{close})"
        r"|(?P<space>[ \t\r\n]+)"
        rf"|(?P<field>\.[^\W\d]\w*{ends})"
        r"|(?P<string>\"(?:[^\"\\\n]|\\[^\n])*\")"
        r"|(?P<raw>`[^`]*`)"
        r"|(?P<char>'(?:[^'\\\n]|\\[^\n])*')"
        rf"|(?P<variable>\$\w*{ends})"
        rf"|(?P<dot>\.{ends})"
        r"|(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]*(?:\.[0-9a-fA-F_]*)?(?:[pP][+-]?[0-9_]*)?"
        r"|0[oO][0-7_]*(?:\.[0-7_]*)?|0[bB][01_]*(?:\.[01_]*)?"
        r"|(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9_]*)?)"
        r"(?P<imaginary>i|[+-][0-9_.eE]+i)?(?!\w))"
        rf"|(?P<name>[^\W\d]\w*{ends})"
        r"|(?P<declare>:=)|(?P<assign>=)|(?P<pipe>\|)|(?P<open>\()|(?P<shut>\))"
        r"|(?P<other>[!-~])"
    )


class _Lexer:
    """The walk over one text."""

    def __init__(self, name: str, text: str, left: str, right: str) -> None:
        self.name = name
        self.text = text
        self.left = left
        self.right = right
        self.tokens: list[Token] = []

    def run(self) -> None:
        text, left, tokens = self.text, self.left, self.tokens
        pos = 0
        while True:
            start = text.find(left, pos)
            if start < 0:
                if pos < len(text):
                    tokens.append(Token("text", text[pos:], pos, spaced=False))
                tokens.append(Token("eof", "", len(text), spaced=False))
                return
            inside = start + len(left)
            trim = text.startswith("-", inside) and text[inside + 1 : inside + 2] in {*SPACES}
            piece = text[pos:start]
            if trim:
                piece = piece.rstrip(SPACES)
                inside += 2
            if piece:
                tokens.append(Token("text", piece, pos, spaced=False))
            if text.startswith("/*", inside):
                pos = self.comment(inside)
            else:
                tokens.append(Token("left", left, start, spaced=False))
                pos = self.action(inside)

    def comment(self, start: int) -> int:
        """Return the index behind the comment that begins at ``start``."""
        end = self.text.find("*/", start + 2)
        if end < 0:
            self.fail(start, "the comment is not closed")
        end += 2
        if self.text.startswith(self.right, end):
            return end + len(self.right)
        spaced = self.text[end : end + 1] in {*SPACES} and self.text[end + 1 : end + 2] == "-"
        if spaced and self.text.startswith(self.right, end + 2):
            return self.trimmed(end + 2 + len(self.right))
        self.fail(start, f"the comment must end right before {self.right}")

    def trimmed(self, pos: int) -> int:
        """Return the index of the first character from ``pos`` on that is no blank."""
        text = self.text
        while pos < len(text) and text[pos] in SPACES:
            pos += 1
        return pos

    def action(self, pos: int) -> int:
        """Take the tokens of one action; return the index behind it."""
        match = _inside(self.right).match
        text, tokens = self.text, self.tokens
        begin = pos
        depth = 0
        spaced = True
        while True:
            found = match(text, pos)
            if found is None:
                self.refuse(pos, begin)
            kind = found.lastgroup
            if kind == "space":
                spaced = True
                pos = found.end()
                continue
            word = found.group()
            if kind == "close":
                if depth:
                    self.fail(pos, "a left parenthesis is not closed")
                tokens.append(Token("right", word, pos, spaced))
                pos = found.end()
                return pos if len(word) == len(self.right) else self.trimmed(pos)
            if kind == "name" and (word in KEYWORDS or word in {"true", "false"}):
                kind = word if word in KEYWORDS else "bool"
            elif kind == "open":
                depth += 1
            elif kind == "shut":
                depth -= 1
                if depth < 0:
                    self.fail(pos, "a right parenthesis has no left one")
            elif kind == "other" and word in "\"'`.$+-0123456789":
                self.refuse(pos, begin)
            tokens.append(Token(kind or "", word, pos, spaced))
            spaced = False
            pos = found.end()

    def refuse(self, pos: int, begin: int) -> NoReturn:
        """Say why nothing that the language knows begins at ``pos``."""
        char = self.text[pos : pos + 1]
        if not char:
            self.fail(begin, f"the action is not closed with {self.right}")
        if char in "\"'`":
            what = {'"': "quoted string", "'": "character constant", "`": "raw string"}[char]
            self.fail(pos, f"the {what} is not closed")
        word = re.compile(r"[.$+-]?\w*").match(self.text, pos)
        end = word.end() if word else pos
        text = self.text[pos:end]
        if char.isdigit() or char in "+-" or text[1:2].isdigit():
            self.fail(pos, f'"{text}" is not a number')
        if len(text) > (char in ".$"):
            self.fail(pos, f'"{self.text[end : end + 1]}" cannot follow "{text}"')
        if char == ".":
            self.fail(pos, f'"{self.text[pos + 1 : pos + 2]}" cannot follow "."')
        self.fail(pos, f"the character {char!r} has no meaning here")

    def fail(self, pos: int, message: str) -> NoReturn:
        line, column = place(self.text, pos)
        raise TemplateError(self.name, line, column, message, stage="parse")
