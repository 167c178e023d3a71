"""Sprig's functions over regular expressions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from istio_init.inject.template.errors import FunctionError, LimitError
from istio_init.inject.template.functions import Registry
from istio_init.inject.template.printing import MAX_TEXT
from istio_init.inject.template.regex import Search, compiled, expand

if TYPE_CHECKING:
    from collections.abc import Callable

FUNCTIONS = Registry()
_META = re.compile(r"([\\.+*?()|\[\]{}^$])")


@FUNCTIONS.add("regexMatch", "string; string", gives_text=False)
def _match(pattern: str, text: str) -> bool:
    try:
        return Search(compiled(pattern), text).first(0) is not None
    except LimitError:
        raise
    except FunctionError:
        return False


@FUNCTIONS.add("mustRegexMatch", "string; string", gives_text=False)
def _must_match(pattern: str, text: str) -> bool:
    return Search(compiled(pattern), text).first(0) is not None


@FUNCTIONS.add("regexFind mustRegexFind", "string; string")
def _find(pattern: str, text: str) -> str:
    place = Search(compiled(pattern), text).first(0)
    return text[place[0] : place[1]] if place else ""


@FUNCTIONS.add("regexFindAll mustRegexFindAll", "string; string; int")
def _find_all(pattern: str, text: str, count: int) -> list[str]:
    return [text[place[0] : place[1]] for place in Search(compiled(pattern), text).all(count)]


def _replaced(pattern: str, text: str, new: Callable[[list[int]], str]) -> str:
    out: list[str] = []
    size = end = 0
    for place in Search(compiled(pattern), text).all(-1):
        piece = new(place)
        out += [text[end : place[0]], piece]
        size += len(piece)
        if size > MAX_TEXT:
            raise LimitError(f"the text would be longer than {MAX_TEXT} characters")
        end = place[1]
    return "".join([*out, text[end:]])


@FUNCTIONS.add("regexReplaceAll mustRegexReplaceAll", "string; string; string")
def _replace_all(pattern: str, text: str, replacement: str) -> str:
    regex = compiled(pattern)
    return _replaced(pattern, text, lambda place: expand(replacement, regex, text, place))


@FUNCTIONS.add("regexReplaceAllLiteral mustRegexReplaceAllLiteral", "string; string; string")
def _replace_all_literal(pattern: str, text: str, replacement: str) -> str:
    return _replaced(pattern, text, lambda _: replacement)


@FUNCTIONS.add("regexSplit mustRegexSplit", "string; string; int")
def _split(pattern: str, text: str, count: int) -> list[str]:
    if count == 0:
        return []
    if pattern and not text:
        return [""]
    parts: list[str] = []
    begin = end = 0
    for place in Search(compiled(pattern), text).all(count):
        if 0 < count == len(parts) + 1:
            break
        end = place[0]
        if place[1]:
            parts.append(text[begin:end])
        begin = place[1]
    if end != len(text):
        parts.append(text[begin:])
    return parts


@FUNCTIONS.add("regexQuoteMeta", "string")
def _quote_meta(text: str) -> str:
    return _META.sub(r"\\\1", text)
