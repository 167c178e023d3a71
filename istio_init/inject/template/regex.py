"""Regular expressions in Go's syntax, in time that grows with pattern times text.

Python's ``re`` backtracks without an end: ``(a*)*b`` over thirty letters would keep an
injector busy for minutes, and its syntax is another one. Here a pattern becomes a
program of a few instructions, and no instruction is tried twice at one place of the
text. Of the matches that begin leftmost, the one that a backtracking search finds
first is taken, as in Go.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from istio_init.inject.template.errors import FunctionError, LimitError

if TYPE_CHECKING:
    from typing import NoReturn, TypeAlias

MAX_PATTERN = 1_000
MAX_PROGRAM = 5_000
MAX_REPEAT = 1_000
MAX_STEPS = 400_000
MAX_GROUPS = 50

Test: TypeAlias = Callable[[str], bool]

_CLASSES: dict[str, str] = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "ascii": "\0-\x7f", "blank": "\t ",
    "cntrl": "\0-\x1f\x7f", "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~",
    "punct": "!-/:-@[-`{-~", "space": "\t\n\v\f\r ", "upper": "A-Z", "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}  # fmt: skip
_PERL = {"d": "0-9", "w": "0-9A-Za-z_", "s": "\t\n\f\r "}
_LETTERS = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_REPEAT = re.compile(r"\{([0-9]+)(,([0-9]*))?\}")
_FLAGS = re.compile(r"\?([imsU]*)(?:-([imsU]+))?([:)])")
_NAMED = re.compile(r"\?P?<([A-Za-z0-9_]+)>")


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a pattern: what it is, what it tests, and its parts."""

    kind: str
    test: Test | None = None
    parts: tuple[Piece, ...] = ()
    number: int = 0
    most: int | None = None
    lazy: bool = False


EMPTY = Piece("empty")


def _ranges(text: str) -> list[tuple[str, str]]:
    """Return the ranges of a compact spelling: ``a-z_``."""
    found = []
    pos = 0
    while pos < len(text):
        if text[pos + 1 : pos + 2] == "-" and pos + 2 < len(text):
            found.append((text[pos], text[pos + 2]))
            pos += 3
        else:
            found.append((text[pos], text[pos]))
            pos += 1
    return found


def _one_of(ranges: list[tuple[str, str]], tests: list[Test]) -> Test:
    """Return a test for letters in any of the ranges, or that pass any of the tests."""
    singles = frozenset(low for low, high in ranges if low == high)
    wide = [(low, high) for low, high in ranges if low != high]

    def test(char: str) -> bool:
        return (
            char in singles
            or any(low <= char <= high for low, high in wide)
            or any(inner(char) for inner in tests)
        )

    return test


def _folded(test: Test) -> Test:
    """Return a test that does not look at the letters' case."""
    return lambda char: test(char) or test(char.lower()) or test(char.upper())


def _not(test: Test) -> Test:
    return lambda char: not test(char)


class _PatternReader:
    """Reads a pattern."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.pos = 0
        self.groups = 0
        self.names: dict[str, int] = {}
        self.fold = self.multiline = self.dotall = self.ungreedy = False

    def fail(self, why: str) -> NoReturn:
        shown = self.pattern if len(self.pattern) <= 60 else self.pattern[:57] + "..."
        raise FunctionError(f"the regular expression `{shown}` is wrong: {why}")

    def parse(self) -> Piece:
        if len(self.pattern) > MAX_PATTERN:
            raise LimitError(f"a regular expression has at most {MAX_PATTERN} characters")
        node = self.alternatives()
        if self.pos < len(self.pattern):
            self.fail("a ) has no (")
        return node

    def alternatives(self) -> Piece:
        flags = self.fold, self.multiline, self.dotall, self.ungreedy
        branches = [self.sequence()]
        while self.pattern.startswith("|", self.pos):
            self.pos += 1
            branches.append(self.sequence())
        self.fold, self.multiline, self.dotall, self.ungreedy = flags
        return branches[0] if len(branches) == 1 else Piece("either", parts=tuple(branches))

    def sequence(self) -> Piece:
        parts: list[Piece] = []
        while self.pos < len(self.pattern) and self.pattern[self.pos] not in "|)":
            node = self.atom()
            if node is None:
                continue
            parts.extend(self.repeated(node))
        return Piece("sequence", parts=tuple(parts))

    def repeated(self, node: Piece) -> list[Piece]:
        """Return an atom with the repetitions behind it; a quoted text is several."""
        before = list(node.parts[:-1]) if node.kind == "quoted" else []
        if node.kind == "quoted":
            if not node.parts:
                return []
            node = node.parts[-1]
        times = 0
        while self.pos < len(self.pattern):
            char = self.pattern[self.pos]
            found = _REPEAT.match(self.pattern, self.pos) if char == "{" else None
            if char in "*+?":
                low, most = (1 if char == "+" else 0), (1 if char == "?" else None)
                self.pos += 1
            elif found:
                low = int(found[1][:6])
                most = low if found[2] is None else int(found[3][:6]) if found[3] else None
                if low > MAX_REPEAT or (most is not None and not low <= most <= MAX_REPEAT):
                    self.fail(f"the repetition {found[0]} is out of range")
                self.pos = found.end()
            else:
                break
            times += 1
            if times > 1:
                self.fail("a repetition is repeated")
            lazy = self.pattern.startswith("?", self.pos)
            self.pos += lazy
            node = Piece("repeat", parts=(node,), number=low, most=most, lazy=lazy != self.ungreedy)
        return [*before, node]

    def atom(self) -> Piece | None:
        char = self.pattern[self.pos]
        self.pos += 1
        match char:
            case "(":
                return self.group()
            case "[":
                return Piece("char", self.char_class())
            case ".":
                return Piece("char", (lambda _: True) if self.dotall else lambda c: c != "\n")
            case "^":
                return Piece("assert", number=ord("^" if self.multiline else "A"))
            case "$":
                return Piece("assert", number=ord("$" if self.multiline else "z"))
            case "\\":
                return self.escape()
            case "*" | "+" | "?":
                self.fail(f"there is nothing for {char} to repeat")
            case _:
                pass
        return self.literal(char)

    def literal(self, char: str) -> Piece:
        def test(found: str) -> bool:
            return found == char

        return Piece("char", _folded(test) if self.fold else test)

    def group(self) -> Piece | None:
        number = 0
        if self.pattern.startswith("?", self.pos):
            named = _NAMED.match(self.pattern, self.pos)
            flags = _FLAGS.match(self.pattern, self.pos)
            if named:
                self.groups += 1
                number = self.groups
                self.names.setdefault(named[1], number)
                self.pos = named.end()
            elif flags and (flags[1] or flags[2] or flags[3] == ":"):
                return self.flags(flags)
            else:
                self.fail("Go has no such group")
        else:
            self.groups += 1
            number = self.groups
        if self.groups > MAX_GROUPS:
            raise LimitError(f"a regular expression has at most {MAX_GROUPS} groups")
        node = self.alternatives()
        self.close()
        return Piece("group", parts=(node,), number=number)

    def close(self) -> None:
        if not self.pattern.startswith(")", self.pos):
            self.fail("a ( is not closed")
        self.pos += 1

    def flags(self, found: re.Match[str]) -> Piece | None:
        """Set flags up to the end of the group that they stand in, or for their own."""
        before = self.fold, self.multiline, self.dotall, self.ungreedy
        self.pos = found.end()
        for letters, value in ((found[1], True), (found[2] or "", False)):
            for letter in letters:
                name = {"i": "fold", "m": "multiline", "s": "dotall", "U": "ungreedy"}[letter]
                setattr(self, name, value)
        if found[3] == ")":
            return None
        node = self.alternatives()
        self.close()
        self.fold, self.multiline, self.dotall, self.ungreedy = before
        return Piece("sequence", parts=(node,))

    # Escapes and classes

    def escape(self) -> Piece:
        char = self.pattern[self.pos : self.pos + 1]
        if not char:
            self.fail("a \\ stands at its end")
        if char in "AzbB":
            self.pos += 1
            return Piece("assert", number=ord(char))
        if char == "Q":
            end = self.pattern.find("\\E", self.pos)
            text = self.pattern[self.pos + 1 : end if end >= 0 else None]
            self.pos = end + 2 if end >= 0 else len(self.pattern)
            return Piece("quoted", parts=tuple(self.literal(letter) for letter in text))
        test = self.class_escape()
        if test is not None:
            return Piece("char", test)
        return self.literal(self.escaped_char())

    def class_escape(self) -> Test | None:
        r"""Return the test of ``\\d``, ``\\pL`` and the like, or ``None``."""
        char = self.pattern[self.pos : self.pos + 1]
        if char and char.lower() in _PERL:
            self.pos += 1
            test = _one_of(_ranges(_PERL[char.lower()]), [])
            return _not(test) if char.isupper() else test
        if char not in {"p", "P"}:
            return None
        self.pos += 1
        found = re.compile(r"\{(\^?)(\w+)\}|(\w)").match(self.pattern, self.pos)
        if found is None:
            self.fail("\\p needs a class of characters")
        self.pos = found.end()
        name = found[2] or found[3]
        if not re.fullmatch(r"[CLMNPSZ][a-z]?", name):
            self.fail(f"the class {name} is not known here: only general categories are")

        def in_category(letter: str) -> bool:
            return unicodedata.category(letter).startswith(name)

        test = _folded(in_category) if self.fold else in_category
        return _not(test) if (char == "P") != bool(found[1]) else test

    def escaped_char(self) -> str:
        """Return the character that an escape stands for."""
        rest = self.pattern[self.pos :]
        char = rest[:1]
        if char in _LETTERS:
            self.pos += 1
            return _LETTERS[char]
        found = re.match(
            r"x([0-9A-Fa-f]{2})|x\{([0-9A-Fa-f]{1,8})\}|(0[0-7]{0,2}|[1-7][0-7]{1,2})", rest
        )
        if found:
            self.pos += found.end()
            code = int(found[3], 8) if found[3] else int(found[1] or found[2], 16)
            if code > 0x10FFFF:
                self.fail("a character is out of range")
            return chr(code)
        if char and char < "\x80" and not char.isalnum():
            self.pos += 1
            return char
        self.fail(f"\\{char} is no escape")

    def char_class(self) -> Test:
        negated = self.pattern.startswith("^", self.pos)
        self.pos += negated
        ranges: list[tuple[str, str]] = []
        tests: list[Test] = []
        first = True
        while first or not self.pattern.startswith("]", self.pos):
            if self.pos >= len(self.pattern):
                self.fail("a [ is not closed")
            first = False
            if self.posix(ranges, tests):
                continue
            if self.pattern[self.pos] == "\\":
                self.pos += 1
                test = self.class_escape()
                if test is not None:
                    tests.append(test)
                    continue
                self.pos -= 1
            low = self.class_char()
            high = low
            if self.pattern.startswith("-", self.pos) and self.pattern[
                self.pos + 1 : self.pos + 2
            ] not in {"]", ""}:
                self.pos += 1
                high = self.class_char()
                if high < low:
                    self.fail(f"the range {low}-{high} runs backwards")
            ranges.append((low, high))
        self.pos += 1
        test = _one_of(ranges, tests)
        if self.fold:
            test = _folded(test)
        return _not(test) if negated else test

    def posix(self, ranges: list[tuple[str, str]], tests: list[Test]) -> bool:
        """Read ``[:alpha:]``; return whether it stood there."""
        found = re.compile(r"\[:(\^?)(\w+):\]").match(self.pattern, self.pos)
        if found is None:
            return False
        if found[2] not in _CLASSES:
            self.fail(f"the class {found[2]} is not known")
        inner = _ranges(_CLASSES[found[2]])
        if found[1]:
            tests.append(_not(_one_of(inner, [])))
        else:
            ranges.extend(inner)
        self.pos = found.end()
        return True

    def class_char(self) -> str:
        char = self.pattern[self.pos : self.pos + 1]
        if not char:
            self.fail("a [ is not closed")
        self.pos += 1
        return self.escaped_char() if char == "\\" else char


# Programs: (what, test or number, where else to go)

Instruction: TypeAlias = tuple[str, Test | int | None, int]


class _Assembler:
    """Turns nodes into instructions."""

    def __init__(self) -> None:
        self.program: list[Instruction] = []

    def put(self, what: str, argument: Test | int | None = None, target: int = 0) -> int:
        if len(self.program) >= MAX_PROGRAM:
            raise LimitError("the regular expression is too large")
        self.program.append((what, argument, target))
        return len(self.program) - 1

    def aim(self, at: int, argument: int | None = None, target: int | None = None) -> None:
        what, known, known_target = self.program[at]
        self.program[at] = (
            what,
            known if argument is None else argument,
            known_target if target is None else target,
        )

    def node(self, node: Piece) -> None:
        match node.kind:
            case "char":
                self.put("char", node.test)
            case "assert":
                self.put("assert", node.number)
            case "sequence":
                for part in node.parts:
                    self.node(part)
            case "group":
                self.put("save", 2 * node.number)
                self.node(node.parts[0])
                self.put("save", 2 * node.number + 1)
            case "either":
                self.either(node.parts)
            case "repeat":
                self.repeat(node)
            case _:
                pass

    def either(self, parts: tuple[Piece, ...]) -> None:
        jumps = []
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            split = None if last else self.put("split")
            if split is not None:
                self.aim(split, argument=split + 1)
            self.node(part)
            if split is not None:
                jumps.append(self.put("jump"))
                self.aim(split, target=len(self.program))
        for jump in jumps:
            self.aim(jump, argument=len(self.program))

    def split(self, *, lazy: bool) -> Callable[[int, int], None]:
        """Put a choice; return what sets its two ways: into the part, and past it."""
        at = self.put("split")

        def set_ways(into: int, past: int) -> None:
            self.aim(at, argument=past if lazy else into, target=into if lazy else past)

        return set_ways

    def repeat(self, node: Piece) -> None:
        part = node.parts[0]
        for _ in range(node.number):
            self.node(part)
        if node.most is None:
            start = len(self.program)
            ways = self.split(lazy=node.lazy)
            self.node(part)
            self.put("jump", start)
            ways(start + 1, len(self.program))
            return
        choices = []
        for _ in range(node.most - node.number):
            choices.append((self.split(lazy=node.lazy), len(self.program)))
            self.node(part)
        for ways, into in choices:
            ways(into, len(self.program))


@dataclass(frozen=True, slots=True)
class Regex:
    """A compiled pattern."""

    program: tuple[Instruction, ...]
    groups: int
    names: dict[str, int]


@lru_cache(maxsize=64)
def compiled(pattern: str) -> Regex:
    """Return the program of a pattern.

    Raises:
        FunctionError: it is no pattern of Go's, or too large.
    """
    parser = _PatternReader(pattern)
    try:
        node = parser.parse()
        assembler = _Assembler()
        assembler.node(node)
    except RecursionError:
        raise LimitError("the regular expression is nested too deeply") from None
    assembler.put("match")
    return Regex(tuple(assembler.program), parser.groups, parser.names)


class Search:
    """Searches in one text, which together may take ``MAX_STEPS`` steps."""

    def __init__(self, regex: Regex, text: str) -> None:
        self.regex = regex
        self.text = text
        self.steps = 0

    def all(self, limit: int) -> list[list[int]]:
        """Return the places of all matches, at most ``limit`` unless it is below zero."""
        found: list[list[int]] = []
        pos, before = 0, -1
        while limit < 0 or len(found) < limit:
            place = self.first(pos)
            if place is None:
                break
            start, end = place[0], place[1]
            if start < end or start != before:
                found.append(place)
            before = end
            pos = end if end > pos or end > start else end + 1
            if start == end:
                pos = end + 1
            if pos > len(self.text):
                break
        return found

    def first(self, pos: int) -> list[int] | None:
        """Return the place of the leftmost match from ``pos`` on: its start, end and groups."""
        visited: set[int] = set()
        for start in range(pos, len(self.text) + 1):
            place = self.at(start, visited)
            if place is not None:
                return place
        return None

    def at(self, start: int, visited: set[int]) -> list[int] | None:
        """Return the match that begins at ``start``."""
        program, text = self.regex.program, self.text
        size = len(program)
        saved = [-1] * (2 * self.regex.groups + 2)
        saved[0] = start
        # Entries below zero restore what a group had before.
        todo: list[tuple[int, int]] = [(0, start)]
        while todo:
            at, pos = todo.pop()
            if at < 0:
                saved[-at] = pos
                continue
            while True:
                key = pos * size + at
                if key in visited:
                    break
                visited.add(key)
                what, argument, target = program[at]
                if what == "char":
                    if pos >= len(text) or not argument(text[pos]):  # type: ignore[operator,misc]
                        break
                    at, pos = at + 1, pos + 1
                elif what == "split":
                    todo.append((target, pos))
                    at = argument  # type: ignore[assignment]
                elif what == "jump":
                    at = argument  # type: ignore[assignment]
                elif what == "save":
                    todo.append((-argument, saved[argument]))  # type: ignore[operator,index]
                    saved[argument] = pos  # type: ignore[index]
                    at += 1
                elif what == "assert":
                    if not _holds(argument, text, pos):  # type: ignore[arg-type]
                        break
                    at += 1
                else:
                    saved[1] = pos
                    return saved
            self.steps += 1
            if len(visited) + self.steps > MAX_STEPS:
                raise LimitError("the regular expression takes too long over this text")
        self.steps += len(visited) // 64
        return None


def _holds(kind: int, text: str, pos: int) -> bool:
    """Return whether an assertion holds between two characters."""
    match chr(kind):
        case "A":
            return pos == 0
        case "z":
            return pos == len(text)
        case "^":
            return pos == 0 or text[pos - 1] == "\n"
        case "$":
            return pos == len(text) or text[pos] == "\n"
        case _:
            pass
    before = pos > 0 and _is_word(text[pos - 1])
    behind = pos < len(text) and _is_word(text[pos])
    return (before != behind) is (chr(kind) == "b")


def _is_word(char: str) -> bool:
    return char < "\x80" and (char.isalnum() or char == "_")


_REFERENCE = re.compile(r"\$(?:\$|(\w+)|\{(\w+)\})?", re.ASCII)


def expand(template: str, regex: Regex, text: str, place: list[int]) -> str:
    """Return a replacement with ``$1``, ``${1}`` and ``$name`` filled in."""

    def one(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if not name:
            return "$"
        number = int(name) if name.isdigit() and len(name) < 9 else regex.names.get(name, -1)
        if not 0 <= number <= regex.groups or place[2 * number] < 0:
            return ""
        return text[place[2 * number] : place[2 * number + 1]]

    return _REFERENCE.sub(one, template)
