"""Minimal edits of YAML text that turn the value of a document into another.

PyYAML's nodes know which text belongs to which value. Only the text of what
differs is replaced, added or removed; comments, order, quotes, anchors and
blank lines around it stay as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import yaml

from istio_init.inject import scalars
from istio_init.inject.alignment import alignment
from istio_init.inject.style import Style, block, flow, is_inline
from istio_init.inject.yaml import is_merge, scalar_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from istio_init.inject.plain_data import PlainValue, YamlNode

_PROPERTIES = re.compile(r"(?:[&!][^\s,\[\]{}]*\s+)+")
# Possessive: whatever a comment holds, it is looked at once.
_GAP: Final = r"(?:\s++|#[^\n]*+)*+"
_BLANKS_AND_COMMENTS = re.compile(_GAP)
_COLON = re.compile(rf"{_GAP}:")
_ALIAS = re.compile(rf"{_GAP}:?{_GAP}-?{_GAP}(\*[^\s,\[\]{{}}]+)")


@dataclass(frozen=True, slots=True)
class Edit:
    """The text from ``start`` to ``end`` becomes ``text``."""

    start: int
    end: int
    text: str


class NoSpliceError(Exception):
    """The change cannot be made by edits; the text says why."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value stands.

    ``column`` is that of its key or dash, ``after`` the offset behind the colon
    or dash, ``in_flow`` whether it stands in a flow collection, ``in_list``
    whether it is an item.
    """

    column: int
    after: int
    in_flow: bool = False
    in_list: bool = False


@dataclass(frozen=True, slots=True)
class _Item:
    """The text of an item of a list, or of an entry of a map: from its dash or key on."""

    start: int
    end: int


def edits(text: str, node: YamlNode, old: PlainValue, new: PlainValue, style: Style) -> list[Edit]:
    """Return the edits of ``text`` after which its document is ``new``, in order.

    A null that ``new`` lacks stays. ``text`` ends in a line break. ``node`` is
    the root node of the document, ``old`` its value. Raises ``NoSpliceError`` if
    text that has to change means something elsewhere, too.
    """
    splicer = _Splicer(text, style, _shared(node) if "*" in text else frozenset())
    splicer.change(node, old, new, _Place(node.start_mark.column - style.indent, -1))
    # What is added in front of something that goes comes first.
    return sorted(splicer.edits, key=lambda edit: (edit.start, edit.end))


def apply(text: str, changes: Sequence[Edit]) -> str:
    """Return the text after edits that are in order and do not overlap."""
    parts: list[str] = []
    position = 0
    for edit in changes:
        parts += [text[position : edit.start], edit.text]
        position = edit.end
    return "".join([*parts, text[position:]])


def same(one: PlainValue, other: PlainValue) -> bool:
    """Whether two values are equal; unlike in Python, ``True`` is not 1."""
    if one is other:
        return True
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and len(one) == len(other)
            and all(key in other and same(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, list):
        return (
            isinstance(other, list)
            and len(one) == len(other)
            and all(same(left, right) for left, right in zip(one, other, strict=True))
        )
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def equivalent(one: PlainValue, other: PlainValue) -> bool:
    """Whether two values are the same to Kubernetes, to which a null is nothing."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(equivalent(one.get(key), other.get(key)) for key in {**one, **other})
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equivalent, one, other))
    return same(one, other)


def text_end(text: str, node: YamlNode) -> int:
    """Return the offset behind the last character that belongs to a document's root node."""
    return _Splicer(text, Style(), frozenset()).end(node, -1)


def ends_in_block_scalar(node: YamlNode) -> bool:
    """Whether the last value of a root node is a literal or folded block."""
    while node.__class__ is not yaml.ScalarNode and node.value and not node.flow_style:
        node = node.value[-1] if node.__class__ is yaml.SequenceNode else node.value[-1][1]
    return node.__class__ is yaml.ScalarNode and node.style in ("|", ">")


def line_end(text: str, offset: int) -> int:
    """Return the offset of the line behind ``offset``; the end of the text if there is none."""
    if offset and text[offset - 1] == "\n":
        return offset
    newline = text.find("\n", offset)
    return len(text) if newline < 0 else newline + 1


def _shared(node: YamlNode) -> frozenset[int]:
    """Return the ids of the nodes that aliases use."""
    seen: set[int] = set()
    shared: set[int] = set()
    stack = [node]
    while stack:
        here = stack.pop()
        if id(here) in seen:
            shared.add(id(here))
            continue
        seen.add(id(here))
        if here.__class__ is yaml.SequenceNode:
            stack += here.value
        elif here.__class__ is yaml.MappingNode:
            stack += [one for pair in here.value for one in pair]
    return frozenset(shared)


class _Splicer:
    def __init__(self, text: str, style: Style, shared: frozenset[int]) -> None:
        self.text, self.style, self.shared = text, style, shared
        self.edits: list[Edit] = []
        self._ends: dict[int, int] = {}

    def change(self, node: YamlNode, old: PlainValue, new: PlainValue, place: _Place) -> None:
        """Add the edits that make ``new`` of a node whose value is ``old``."""
        if same(old, new):
            return
        if _is_alias(node, place.after):
            self._write_out(node, new, place)
            return
        if id(node) in self.shared:
            raise NoSpliceError("an alias elsewhere uses the value that changes")
        kind = node.__class__
        if kind is yaml.MappingNode and isinstance(new, dict) and new:
            self._change_map(node, old, new)
        elif kind is yaml.SequenceNode and isinstance(new, list) and new:
            self._change_list(node, old, new, place)
        else:
            self._replace(node, new, place)

    def _goes(self, *nodes: YamlNode) -> None:
        """Check that the text of nodes may go: that no alias elsewhere needs it."""
        if not self.shared:
            return
        start, stack = nodes[0].start_mark.index, list(nodes)
        while stack:
            node = stack.pop()
            if node.start_mark.index < start:
                continue
            if id(node) in self.shared:
                raise NoSpliceError("an alias elsewhere uses what goes")
            if node.__class__ is yaml.SequenceNode:
                stack += node.value
            elif node.__class__ is yaml.MappingNode:
                stack += [one for pair in node.value for one in pair]

    # Places in the text.

    def end(self, node: YamlNode, after: int) -> int:
        """Return the offset behind the last character of a node; ``after`` as in ``_Place``."""
        if _is_alias(node, after):
            return self._alias(after).end(1)
        known = self._ends.get(id(node))
        if known is None:
            known = self._ends[id(node)] = self._end(node, after)
        return known

    def _end(self, node: YamlNode, after: int) -> int:
        start, end = node.start_mark.index, int(node.end_mark.index)
        if node.__class__ is yaml.ScalarNode:
            if node.style in ("|", ">"):
                header, _, _ = self.text[start:end].partition("\n")
                if "+" not in header:
                    # The blank lines behind it are counted as its own.
                    return int(start) + len(self.text[start:end].rstrip("\r\n"))
            if start == end and after >= 0 and "\n" in self.text[after:start]:
                return after
            return end
        if node.flow_style or not node.value:
            return end
        if node.__class__ is yaml.SequenceNode:
            return self._items(node)[-1].end
        return self._entries(node)[-1].end

    def _alias(self, after: int) -> re.Match[str]:
        match = _ALIAS.match(self.text, max(after, 0))
        if match is None:
            raise NoSpliceError("an alias stands where it cannot be told apart")
        return match

    def _behind_colon(self, key: YamlNode) -> int:
        """Return the offset behind a key's colon, behind the key if it has none."""
        end = int(key.end_mark.index)
        colon = _COLON.match(self.text, end)
        return colon.end() if colon else end

    def _items(self, node: YamlNode) -> list[_Item]:
        """Return the items of a list in the text."""
        start = int(node.start_mark.index)
        properties = _PROPERTIES.match(self.text, start)
        position = properties.end() if properties else start
        if node.flow_style:
            position += 1
        items: list[_Item] = []
        for item in node.value:
            match = _BLANKS_AND_COMMENTS.match(self.text, position)
            dash = match.end() if match else position
            if not node.flow_style and not self.text.startswith("-", dash):
                raise NoSpliceError("a list is laid out in a way that cannot be edited")
            position = self.end(item, dash if node.flow_style else dash + 1)
            items.append(_Item(dash, position))
            if node.flow_style:
                comma = _BLANKS_AND_COMMENTS.match(self.text, position)
                if comma and self.text.startswith(",", comma.end()):
                    position = comma.end() + 1
        return items

    def _entries(self, node: YamlNode) -> list[_Item]:
        """Return the entries of a map in the text."""
        if any(_is_alias(key, node.start_mark.index) for key, _ in node.value):
            raise NoSpliceError("a key is an alias")
        return [
            _Item(self._key_start(key), self.end(value, self._behind_colon(key)))
            for key, value in node.value
        ]

    def _key_start(self, key: YamlNode) -> int:
        """Return the offset of a key, or of the question mark in front of it."""
        start = int(key.start_mark.index)
        before = self.text[self._line_start(start) : start].rstrip(" ")
        return self._line_start(start) + len(before) - 1 if before.endswith("?") else start

    def _line_start(self, offset: int) -> int:
        return self.text.rfind("\n", 0, offset) + 1

    def _begins_line(self, offset: int) -> bool:
        return not self.text[self._line_start(offset) : offset].strip()

    # Edits.

    def _insert_lines(self, offset: int, lines: str) -> None:
        self.edits.append(Edit(offset, offset, lines))

    def _delete_lines(self, item: _Item) -> None:
        start, end = self._line_start(item.start), line_end(self.text, item.end)
        self.edits.append(Edit(start, end, ""))

    def _change_map(self, node: YamlNode, old: PlainValue, new: PlainValue) -> None:
        keys = [None if is_merge(key) else scalar_key(key) for key, _ in node.value]
        merged = None in keys
        entries = self._entries(node)
        column = entries[0].start - self._line_start(entries[0].start) if entries else 0
        gone: set[int] = set()
        written: set[str] = set()
        for index, key in enumerate(keys):
            if key is None:
                continue
            key_node, value_node = node.value[index]
            if key not in new:
                if old[key] is None:
                    # To Kubernetes null is nothing.
                    continue
                self._goes(key_node, value_node)
                gone.add(index)
                continue
            written.add(key)
            if same(old[key], new[key]):
                continue
            if merged and None in keys[index:]:
                raise NoSpliceError("a merge key follows the key that changes")
            after = self._behind_colon(key_node)
            if not self.text.startswith(":", after - 1):
                raise NoSpliceError("a key has no colon")
            place = _Place(column, after, bool(node.flow_style))
            self.change(value_node, old[key], new[key], place)
        if merged and any(key not in new and old[key] is not None for key in old):
            raise NoSpliceError("a merge key has what goes")
        added = {
            key: value
            for key, value in new.items()
            if key not in written and not (merged and key in old and same(old[key], value))
        }
        if node.flow_style:
            self._change_flow(
                node, entries, gone, {len(entries): [_entry(*one) for one in added.items()]}
            )
        else:
            self._change_block_map(entries, gone, added, column)

    def _change_block_map(
        self, entries: list[_Item], gone: set[int], added: dict[str, PlainValue], column: int
    ) -> None:
        rest = list(added.items())
        for index in sorted(gone):
            entry = entries[index]
            if rest and self._begins_line(entry.start):
                # What comes in the place of something else stands in its place.
                key, value = rest.pop(0)
                lines = block({key: value}, self.style, column)
                start, end = self._line_start(entry.start), line_end(self.text, entry.end)
                self.edits.append(Edit(start, end, lines))
            elif self._begins_line(entry.start):
                self._delete_lines(entry)
            elif index + 1 < len(entries) and index + 1 not in gone:
                self.edits.append(Edit(entry.start, entries[index + 1].start, ""))
            else:
                raise NoSpliceError("the first entries of an item go")
        if rest:
            self._insert_lines(
                line_end(self.text, entries[-1].end), block(dict(rest), self.style, column)
            )

    def _change_list(self, node: YamlNode, old: PlainValue, new: PlainValue, place: _Place) -> None:
        items = self._items(node)
        gone: set[int] = set()
        added: dict[int, list[PlainValue]] = {}
        before = -1, -1
        in_flow = bool(node.flow_style)
        for here in [*alignment(old, new), (len(old), len(new))]:
            # What lies between two items that stay is changed item by item as far as it goes.
            olds, news = range(before[0] + 1, here[0]), range(before[1] + 1, here[1])
            pairs = list(zip(olds, news, strict=False))
            if here[0] < len(old):
                pairs.append(here)
            for left, right in pairs:
                dash = items[left].start
                after = dash if in_flow else dash + 1
                column = 0 if in_flow else dash - self._line_start(dash)
                item_place = _Place(column, after, in_flow, in_list=True)
                self.change(node.value[left], old[left], new[right], item_place)
            for left in olds[len(news) :]:
                if not _is_alias(node.value[left], items[left].start):
                    self._goes(node.value[left])
                gone.add(left)
            if len(news) > len(olds):
                added[here[0]] = [new[right] for right in news[len(olds) :]]
            before = here
        if in_flow:
            written = {at: [flow(one) for one in several] for at, several in added.items()}
            self._change_flow(node, items, gone, written)
        else:
            self._change_block_list(items, gone, added, place)

    def _change_block_list(
        self, items: list[_Item], gone: set[int], added: dict[int, list[PlainValue]], place: _Place
    ) -> None:
        for index in sorted(gone):
            if not self._begins_line(items[index].start):
                raise NoSpliceError("a list begins on the line of another")
            self._delete_lines(items[index])
        column = items[0].start - self._line_start(items[0].start)
        for at, values in added.items():
            if at:
                offset = line_end(self.text, items[at - 1].end)
            elif place.after >= 0 and "\n" in self.text[place.after : items[0].start]:
                offset = line_end(self.text, place.after)
            elif self._begins_line(items[0].start):
                offset = self._line_start(items[0].start)
            else:
                raise NoSpliceError("a list begins on the line of another")
            self._insert_lines(offset, block(values, self.style, column))

    def _change_flow(
        self,
        node: YamlNode,
        entries: list[_Item],
        gone: set[int],
        added: dict[int, list[str]],
    ) -> None:
        kept = [index for index in range(len(entries)) if index not in gone]
        for index in sorted(gone):
            entry = entries[index]
            if kept and kept[0] < index:
                self.edits.append(Edit(entries[index - 1].end, entry.end, ""))
            elif index + 1 < len(entries):
                self.edits.append(Edit(entry.start, entries[index + 1].start, ""))
            else:
                self.edits.append(Edit(entry.start, entry.end, ""))
        for at, written in added.items():
            if not written:
                continue
            joined = ", ".join(written)
            if any(index < at for index in kept):
                offset = entries[at - 1].end
                # A key without value and a comma would be one word.
                glue = " , " if self.text[offset - 1] == ":" else ", "
                self.edits.append(Edit(offset, offset, glue + joined))
            elif at < len(entries) and kept:
                offset = entries[at].start
                self.edits.append(Edit(offset, offset, f"{joined}, "))
            else:
                offset = entries[0].start if entries else node.end_mark.index - 1
                self.edits.append(Edit(offset, offset, joined))

    def _write_out(self, node: YamlNode, new: PlainValue, place: _Place) -> None:
        """Replace an alias by a value of its own."""
        del node
        match = self._alias(place.after)
        self._put(match.start(1), match.end(1), new, place, flow_text=_scalar_text(new))

    def _replace(self, node: YamlNode, new: PlainValue, place: _Place) -> None:
        if place.after < 0:
            raise NoSpliceError("the whole document changes")
        self._goes(node)
        start, end = int(node.start_mark.index), self.end(node, place.after)
        if node.__class__ is yaml.ScalarNode:
            if properties := _PROPERTIES.match(self.text, start, end):
                start = properties.end()
            if start == end:
                start = end = min(place.after, start)
            self._put(start, end, new, place, flow_text=_scalar_text(new, node.style))
        elif node.flow_style:
            self._put(start, end, new, place, flow_text=_scalar_text(new))
        elif is_inline(new):
            self.edits.append(Edit(place.after, end, f" {flow(new)}"))
        else:
            raise NoSpliceError("a map takes the place of a list")

    def _put(self, start: int, end: int, new: PlainValue, place: _Place, *, flow_text: str) -> None:
        """Replace the text of a scalar, an alias or a flow collection."""
        if is_inline(new) or place.in_flow or place.in_list:
            blank = "" if start > place.after and self.text[start - 1].isspace() else " "
            if place.in_flow and place.in_list:
                blank = ""
            self.edits.append(Edit(start, end, blank + flow_text))
            return
        step = self.style.sequence_indent if isinstance(new, list) else self.style.indent
        lines = block(new, self.style, place.column + step)
        if start < end:
            self.edits.append(Edit(place.after, end, ""))
        self._insert_lines(line_end(self.text, end), lines)


def _is_alias(node: YamlNode, after: int) -> bool:
    """Whether a node that should begin behind ``after`` begins before it: an alias uses it."""
    return bool(node.start_mark.index < after)


def _entry(key: str, value: PlainValue) -> str:
    return flow({key: value})[1:-1]


def _scalar_text(value: PlainValue, style: str | None = None) -> str:
    """Return a value on one line; a string in the quotes that the old one had."""
    if isinstance(value, str):
        if style == '"':
            return scalars.quoted(value)
        if style == "'" and scalars.is_single_line(value):
            return "'" + value.replace("'", "''") + "'"
    return flow(value)
