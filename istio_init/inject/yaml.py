"""YAML and JSON as Kubernetes reads them, from files that may be hostile.

``load_documents`` returns each document of a file with its value and with the
nodes of PyYAML, which know the place of everything in the text. Whatever is
wrong is an ``InjectionError`` that names file, document, line and column.
Time and memory are bounded by the limits below.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import yaml

from istio_init.inject import scalars
from istio_init.inject.composer import (
    MAX_DEPTH,
    MAX_DOCUMENTS,
    MAX_NODES,
    MAX_NODES_OF_FILE,
    SPLIT,
    TOO_MANY_DOCUMENTS,
    TOO_MANY_NODES,
    TOO_MANY_NODES_IN_FILE,
    RefusedError,
    nodes,
)
from istio_init.inject.problems import InjectionError, Where, error, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from istio_init.inject.plain_data import PlainValue, YamlNode

# Kubernetes takes no object of more than 1.5 MB, so these are thousands of objects.
MAX_BYTES: Final = 32 * 1024 * 1024

BOM: Final = "\ufeff"

_OTHER_ENCODINGS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_STANDARD = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file.

    ``number`` counts from 1. ``node`` is PyYAML's root node, whose marks count
    characters of the file's text without its byte order mark; None for JSON
    and for a document without content. ``start`` and ``end`` are the offsets of
    the value in that text, ``line`` is the line of ``start``, from 1.
    """

    source: str
    number: int
    value: PlainValue
    node: YamlNode
    start: int
    end: int
    line: int
    is_json: bool = False


def load_documents(data: str | bytes, source: str = "") -> tuple[Document, ...]:
    """Return the documents of a file in YAML or JSON, in order.

    ``source`` names the file in errors. Raises ``InjectionError`` for text that
    Kubernetes would refuse, for duplicate keys, and for more than the limits.
    """
    return tuple(iterate_documents(decode(data, source), source))


def iterate_documents(text: str, source: str = "") -> Iterator[Document]:
    """Yield the documents of a text without byte order mark, one at a time.

    As ``load_documents``, but only one document need be in memory, and the
    error of a later document comes after the documents before it.
    """
    if text.lstrip()[:1] in ("{", "["):
        documents = _json_documents(text, source)
        if documents is not None:
            yield from documents
            return
    yield from _yaml_documents(text, source)


def load(data: str | bytes, source: str = "") -> PlainValue:
    """Return the value of a file that holds at most one document; None for an empty file.

    Raises ``InjectionError`` as ``load_documents`` does, and for a second
    document.
    """
    documents = load_documents(data, source)
    if len(documents) > 1:
        where = Where(file=source, document=2, line=documents[1].line)
        raise InjectionError([error("a second document", where, why="one is expected here")])
    return documents[0].value if documents else None


def decode(data: str | bytes, source: str = "") -> str:
    """Return the text of a file without its byte order mark.

    Raises ``InjectionError`` for what is too long and for what is not UTF-8.
    """
    if len(data) > MAX_BYTES:
        why = f"{len(data):,} bytes, at most {MAX_BYTES:,} are read"
        raise InjectionError([error("too long", Where(file=source), why=why, remedy=SPLIT)])
    if isinstance(data, str):
        return data.removeprefix(BOM)
    for mark, name in _OTHER_ENCODINGS:
        if data.startswith(mark):
            _not_utf8(source, f"its byte order mark says {name}", 0)
    try:
        return data.decode().removeprefix(BOM)
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        column = problem.start - data.rfind(b"\n", 0, problem.start)
        why = f"column {column}: byte 0x{data[problem.start]:02x}"
        _not_utf8(source, why, line)


def _not_utf8(source: str, why: str, line: int) -> NoReturn:
    where = Where(file=source, line=line)
    raise InjectionError([error("not UTF-8", where, why=why, remedy="save it as UTF-8")]) from None


def _yaml_documents(text: str, source: str) -> Iterator[Document]:
    number = 1
    try:
        for node in nodes(text):
            value = _Constructor().value(node)
            start, end = node.start_mark, node.end_mark
            yield Document(source, number, value, node, start.index, end.index, start.line + 1)
            number += 1
    except UnicodeEncodeError as problem:
        _invalid(source, number, text.count("\n", 0, problem.start) + 1, "half of a character")
    except RefusedError as problem:
        mark = problem.mark
        why = f"column {mark.column + 1}: {problem}" if mark else str(problem)
        _invalid(source, number, mark.line + 1 if mark else 0, why, problem.remedy)
    except yaml.MarkedYAMLError as problem:
        _syntax_error(source, number, text, problem)
    except yaml.reader.ReaderError as problem:
        before = text.encode()[: problem.position]
        column = len(before[before.rfind(b"\n") + 1 :].decode(errors="ignore")) + 1
        why = f"column {column}: {problem.reason}"
        _invalid(source, number, before.count(b"\n") + 1, why, "remove the character")


def _invalid(source: str, number: int, line: int, why: str, remedy: str = "") -> NoReturn:
    where = Where(file=source, document=number, line=line)
    raise InjectionError([error("invalid YAML", where, why=why, remedy=remedy)]) from None


def _syntax_error(source: str, number: int, text: str, problem: yaml.MarkedYAMLError) -> NoReturn:
    mark = problem.problem_mark or problem.context_mark
    why = str(problem.problem or problem.context)
    remedy = ""
    if problem.context and problem.problem:
        began = problem.context_mark
        where = f" that begins on line {began.line + 1}" if began and mark != began else ""
        why = f"{problem.problem} {problem.context}{where}"
    if mark is None:
        _invalid(source, number, 0, why)
    if text[mark.index : mark.index + 1] == "\t":
        why, remedy = "a tab stands where only spaces may stand", "indent with spaces"
    _invalid(source, number, mark.line + 1, f"column {mark.column + 1}: {why}", remedy)


class _Constructor:
    """Makes plain data of the nodes of one document.

    What an alias stands for is made anew at each place, so that nobody who
    changes the one changes the other; the limit counts it each time.
    """

    def __init__(self) -> None:
        self._made = 0
        self._open: set[int] = set()

    def value(self, node: YamlNode) -> PlainValue:
        """Return the value of a node."""
        self._made += 1
        if self._made > MAX_NODES:
            raise RefusedError(
                f"{TOO_MANY_NODES} when its aliases are written out", node.start_mark
            )
        kind = node.__class__
        if kind is yaml.ScalarNode:
            return node.value if node.tag == "!" else _scalar(node)
        if id(node) in self._open:
            raise RefusedError("an anchor contains an alias of itself", node.start_mark)
        self._open.add(id(node))
        if len(self._open) > MAX_DEPTH:
            raise RefusedError(f"more than {MAX_DEPTH} levels deep", node.start_mark)
        value: PlainValue
        if kind is yaml.SequenceNode:
            value = [self.value(item) for item in node.value]
        else:
            value = self._map(node)
        self._open.discard(id(node))
        return value

    def _map(self, node: YamlNode) -> dict[str, PlainValue]:
        value: dict[str, PlainValue] = {}
        merged: set[str] = set()
        for key_node, value_node in node.value:
            if key_node.value == "<<" and is_merge(key_node):
                from_others = self._merged(value_node)
                merged |= from_others.keys() - value.keys()
                value |= from_others
                continue
            key = self._key(key_node)
            if key in value:
                if key not in merged:
                    raise RefusedError(f"duplicate key {quoted(key)}", key_node.start_mark)
                merged.discard(key)
            value[key] = self.value(value_node)
        return value

    def _key(self, node: YamlNode) -> str:
        if node.__class__ is not yaml.ScalarNode:
            raise RefusedError("a map or list is the key of a map", node.start_mark)
        key = scalar_key(node)
        if key is None:
            raise RefusedError("null is the key of a map", node.start_mark, 'write "null" or "~"')
        return key

    def _merged(self, node: YamlNode) -> dict[str, PlainValue]:
        """Return what the value of a merge key adds; of several maps the first wins."""
        several = node.__class__ is yaml.SequenceNode
        maps = node.value if several else [node]
        merged: dict[str, PlainValue] = {}
        for one in reversed(maps):
            if one.__class__ is not yaml.MappingNode:
                raise RefusedError("<< takes a map or a list of maps", one.start_mark)
            merged |= self.value(one)
        return merged


def scalar_key(node: YamlNode) -> str | None:
    """Return the key that a scalar's node is in JSON; None for null."""
    return node.value if node.tag == "!" else scalars.key_text(_raw_scalar(node))


def is_merge(node: YamlNode) -> bool:
    """Whether a key's node is the merge key ``<<``."""
    return (
        node.__class__ is yaml.ScalarNode
        and node.value == "<<"
        and node.tag in (None, f"{_STANDARD}merge")
    )


def _scalar(node: YamlNode) -> scalars.Scalar:
    """Return the value of a scalar, with numbers as JSON has them."""
    value = _raw_scalar(node)
    if value.__class__ is float:
        try:
            return scalars.json_number(value)
        except ValueError as problem:
            raise RefusedError(str(problem), node.start_mark, "quote it") from None
    return value


def _raw_scalar(node: YamlNode) -> scalars.Scalar:
    tag, text = node.tag, node.value
    if tag is None:
        return scalars.resolve(text)
    if tag == f"{_STANDARD}binary":
        return _from_base64(node)
    check = _TAGS.get(tag.removeprefix(_STANDARD) if tag.startswith(_STANDARD) else "")
    if check is None:
        # Go leaves the text of a tag that it does not know alone.
        return str(text)
    value = scalars.resolve(text)
    if not check(value):
        raise RefusedError(f"{quoted(text)} is not of the type that its tag names", node.start_mark)
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TAGS: dict[str, Callable[[scalars.Scalar], bool]] = {
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: _is_number(value) and isinstance(value, int),
    "float": _is_number,
    "null": lambda value: value is None,
}


def _from_base64(node: YamlNode) -> str:
    import binascii

    try:
        return binascii.a2b_base64(node.value).decode(errors="replace")
    except binascii.Error:
        raise RefusedError("!!binary holds no base64", node.start_mark) from None


def _json_documents(text: str, source: str) -> list[Document] | None:
    """Return the documents of a file of JSON objects, None if it is not JSON throughout."""
    if sum(map(text.count, ",[{")) > MAX_NODES_OF_FILE:
        where, why = Where(file=source), TOO_MANY_NODES_IN_FILE
        raise InjectionError([error("invalid JSON", where, why=why, remedy=SPLIT)])
    decoder = json.JSONDecoder(
        object_pairs_hook=_unique, parse_int=_json_integer, parse_constant=_no_constant
    )
    documents: list[Document] = []
    start, line, last = _skip_blanks(text, 0), 1, 0
    while start < len(text):
        line += text.count("\n", last, start)
        where = Where(file=source, document=len(documents) + 1, line=line)
        try:
            value, end = decoder.raw_decode(text, start)
        except RefusedError as problem:
            raise InjectionError([error("invalid JSON", where, why=str(problem))]) from None
        except RecursionError:
            value, end = None, start
        except ValueError:
            return None
        if len(documents) >= MAX_DOCUMENTS:
            raise InjectionError([error("invalid JSON", where, why=TOO_MANY_DOCUMENTS)])
        if end == start or _too_deep(value):
            why = f"more than {MAX_DEPTH} levels deep"
            raise InjectionError([error("invalid JSON", where, why=why)])
        number = len(documents) + 1
        documents.append(Document(source, number, value, None, start, end, line, is_json=True))
        last, start = start, _skip_blanks(text, end)
    return documents


def _skip_blanks(text: str, start: int) -> int:
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
    return start


def _unique(pairs: list[tuple[str, PlainValue]]) -> dict[str, PlainValue]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RefusedError(f"duplicate key {quoted(key)}")
            seen.add(key)
    return value


def _json_integer(digits: str) -> int | float:
    if len(digits) > 20:
        number = float(digits)
        if math.isinf(number):
            raise RefusedError(f"the number {quoted(digits)} is too large")
        return number
    return scalars.whole(int(digits))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _too_deep(value: object, depth: int = 1) -> bool:
    if isinstance(value, dict):
        values = [one for one in value.values() if one.__class__ in (dict, list)]
    elif isinstance(value, list):
        values = [one for one in value if one.__class__ in (dict, list)]
    else:
        return False
    return depth > MAX_DEPTH or any(_too_deep(one, depth + 1) for one in values)


def dump(value: PlainValue, *, sort_keys: bool = True) -> str:
    """Return plain data as YAML in block style, which every reader takes for the same data.

    Strings that YAML 1.1 or Go would read otherwise are quoted. Keys are
    sorted, or keep their order.
    """
    from istio_init.inject.style import Style, block

    return block(value, Style(sort_keys=sort_keys))
