"""Sprig's functions that look at the words and letters of a string."""

from __future__ import annotations

import unicodedata

from istio_init.inject.template.functions import Registry
from istio_init.inject.template.values import utf8

FUNCTIONS = Registry()
_CONNECTORS = frozenset("-_ \t\n\v\f\r\x85\xa0")


def _is_space(char: str) -> bool:
    """Return whether a letter is white space to Go."""
    return char.isspace() and not "\x1c" <= char <= "\x1f"


def _up(char: str) -> str:
    return char.upper() if len(char.upper()) == 1 else char


def _down(char: str) -> str:
    return char.lower() if len(char.lower()) == 1 else char


@FUNCTIONS.add("title", "string")
def _title(text: str) -> str:
    out, before = [], " "
    for char in text:
        starts = _separates(before) and len(char.title()) == 1
        out.append(char.title() if starts else char)
        before = char
    return "".join(out)


def _separates(char: str) -> bool:
    """Return whether a letter ends a word: ASCII that is no letter, digit or underscore; blanks."""
    if char < "\x80":
        return not (char.isalnum() or char == "_")
    return _is_space(char)


@FUNCTIONS.add("untitle", "string")
def _untitle(text: str) -> str:
    out, starts = [], True
    for char in text:
        if _is_space(char):
            starts = True
        elif starts:
            char, starts = _down(char), False  # noqa: PLW2901
        out.append(char)
    return "".join(out)


@FUNCTIONS.add("swapcase", "string")
def _swapcase(text: str) -> str:
    out, after_space = [], True
    for char in text:
        category = unicodedata.category(char)
        if category in {"Lu", "Lt"}:
            out.append(_down(char))
            after_space = False
        elif char.islower() and category == "Ll":
            title = char.title()
            out.append((title if len(title) == 1 else char) if after_space else _up(char))
            after_space = False
        else:
            out.append(char)
            after_space = _is_space(char)
    return "".join(out)


@FUNCTIONS.add("nospace", "string")
def _nospace(text: str) -> str:
    letters = _latin(text)
    kept = "".join(char for char in letters if not _is_space(char))
    return text if len(kept) == len(letters) else kept


@FUNCTIONS.add("initials", "string")
def _initials(text: str) -> str:
    out, after_space = [], True
    for char in _latin(text):
        if _is_space(char):
            after_space = True
        elif after_space:
            out.append(char)
            after_space = False
    return "".join(out)


def _latin(text: str) -> str:
    """Return a text whose letters are the bytes of the other: sprig takes it so."""
    return text if text.isascii() else utf8(text).decode("latin-1")


@FUNCTIONS.add("camelcase", "string")
def _camelcase(text: str) -> str:
    lead = len(text) - len(text.lstrip("".join(_CONNECTORS)))
    out = list(text[:lead])
    letters = text[lead:]
    if not letters:
        # The original writes the last connector once more.
        return text + text[-1:]
    was_upper = letters[0].isupper()
    current = _up(letters[0])
    for char in letters[1:]:
        before, current = current, char
        if current in _CONNECTORS and before in _CONNECTORS:
            out.append(before)
            continue
        if before in _CONNECTORS:
            was_upper = current.isupper()
            current = _up(current)
        else:
            if was_upper:
                if current.isupper():
                    current = _down(current)
                else:
                    was_upper = False
            out.append(before)
    out.append(current)
    return "".join(out)


@FUNCTIONS.add("snakecase", "string")
def _snakecase(text: str) -> str:
    return _CaseSplitter(text, "_").joined()


@FUNCTIONS.add("kebabcase", "string")
def _kebabcase(text: str) -> str:
    return _CaseSplitter(text, "-").joined()


class _CaseSplitter:
    """Splits CamelCase into words and joins them with one connector."""

    def __init__(self, text: str, connector: str) -> None:
        self.text = text
        self.pos = 0
        self.connector = connector
        self.out: list[str] = []

    @property
    def ends(self) -> bool:
        """Whether the whole text has been read."""
        return self.pos >= len(self.text)

    def next(self) -> tuple[str, str]:
        """Return the kind and text of the next word; ``("", "")`` at the end."""
        if self.ends:
            return "", ""
        text, start = self.text, self.pos
        kind = _kind(text[start])
        end = start + 1
        if kind == "upper":
            end = self.upper_end()
        else:
            while end < len(text) and _continues(kind, text[end]):
                end += 1
        self.pos = end
        return kind, text[start:end]

    def upper_end(self) -> int:
        """Return where a word ends that begins with a capital: ``HTTP|Status``, ``Http``."""
        text, end = self.text, self.pos + 1
        if end == len(text):
            return end
        if text[end].isupper():
            while end < len(text) and text[end].isupper():
                end += 1
            return end - 1 if end < len(text) and text[end].isalpha() else end
        while end < len(text) and text[end].isalpha() and not text[end].isupper():
            end += 1
        return end

    def put(self, kind: str, word: str) -> None:
        """Write a word in small letters."""
        if kind not in {"upper", "connector"}:
            self.out.append(word)
            return
        for char in word:
            self.out.append(self.connector if char in _CONNECTORS else _down(char))

    def connect_before(self, kind: str) -> None:
        """Write a connector unless the next word brings its own."""
        if kind not in {"connector", "punctuation"}:
            self.out.append(self.connector)

    def joined(self) -> str:
        """Return the words, joined."""
        kind, word = self.next()
        while not self.ends:
            if kind != "connector":
                self.put(kind, word)
            before, last = kind, word
            kind, word = self.next()
            if before == "number":
                kind, word = self.run_on(kind, word)
            elif before == "connector":
                self.put(before, last)
            elif before == "punctuation":
                pass
            elif kind != "number":
                self.connect_before(kind)
            elif not self.ends:
                kind, word = self.number(word)
        self.put(kind, word)
        return "".join(self.out)

    def run_on(self, kind: str, word: str) -> tuple[str, str]:
        """Write small letters and numbers as one word; return what follows."""
        while kind in {"alphabet", "number"}:
            self.put(kind, word)
            kind, word = self.next()
        if kind not in {"", "punctuation", "connector"}:
            self.out.append(self.connector)
        return kind, word

    def number(self, digits: str) -> tuple[str, str]:
        """Write a number behind a word: part of it, unless small letters follow."""
        kind, word = self.next()
        if kind != "alphabet":
            self.put("number", digits)
            self.connect_before(kind)
            return kind, word
        self.out.append(self.connector)
        self.put("number", digits)
        return self.run_on(kind, word)


def _kind(char: str) -> str:
    """Return what kind of word a letter begins."""
    if char in _CONNECTORS:
        return "connector"
    if unicodedata.category(char).startswith("P"):
        return "punctuation"
    if char.isupper():
        return "upper"
    if char.isalpha():
        return "alphabet"
    return "number" if unicodedata.category(char).startswith("N") else "other"


def _continues(kind: str, char: str) -> bool:
    """Return whether a letter belongs to a word of that kind."""
    if kind == "alphabet":
        return char.isalpha() and not char.isupper()
    if kind == "other":
        return _kind(char) == "other"
    return _kind(char) == kind
