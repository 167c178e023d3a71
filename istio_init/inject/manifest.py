"""Files of Kubernetes objects: text in, and out comes text with other values in it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import yaml

from istio_init.inject.problems import InjectionError, Problem, Where, note
from istio_init.inject.record import has_records, match_record, record_of, text_before
from istio_init.inject.splice import (
    Edit,
    NoSpliceError,
    apply,
    edits,
    ends_in_block_scalar,
    line_end,
    same,
    text_end,
)
from istio_init.inject.style import Style, block, json_style_of, json_text, style_of
from istio_init.inject.yaml import BOM, Document, decode, iterate_documents, load_documents

if TYPE_CHECKING:
    import re
    from collections.abc import Callable

    from istio_init.inject.kinds import Path
    from istio_init.inject.plain_data import PlainValue, YamlNode

_SOME_CHANGED: Final = "its other lines may have been laid out anew"


@dataclass(frozen=True, slots=True)
class ManifestDocument:
    """A document as a change of it sees it.

    ``value`` is its value: that before the last injection, if the text of that
    could be had back; ``live`` is what stands in the file. ``where`` names file,
    document and line.
    """

    value: PlainValue
    live: PlainValue
    where: Where
    node: YamlNode = None

    def line_of(self, path: Path) -> int:
        """Return the line on which a value of the document stands; of what is not there, near it.

        The live text has what a record gave back in other lines, too: then it
        is the document's line.
        """
        line, node = self.where.line, self.node
        for step in path if self.value is self.live else ():
            found = _child(node, step)
            if found is None:
                break
            line, node = found
        return line


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A file's text after a change, the notes about it, and how many documents differ."""

    text: str
    notes: tuple[Problem, ...]
    changed: int


def rewrite(
    data: str | bytes,
    source: str,
    change: Callable[[ManifestDocument], PlainValue],
    *,
    trust: Callable[[ManifestDocument], bool] | None = None,
    recover: Callable[[ManifestDocument], PlainValue] | None = None,
    record: bool = False,
) -> Rewritten:
    """Return a file in which ``change`` gave each document another value.

    ``change`` returns the new value, or the old one if nothing changes; an
    ``InjectionError`` that it raises is kept until all documents have been seen.
    A record behind a document (``record.py``) gives the text before the last
    injection back, if ``trust`` agrees; otherwise it goes. Where there is none,
    ``recover`` returns the value from which to begin, if that is not the live
    one. With ``record`` a record is left.

    Raises ``InjectionError`` with the problems of all documents.
    """
    text = decode(data, source)
    writer = _Writer(text, source, _Calls(change, trust, recover), record=record)
    problems: list[Problem] = []
    try:
        for document in iterate_documents(text, source):
            try:
                writer.document(document)
            except InjectionError as problem:
                where = Where(file=source, document=document.number, line=document.line)
                problems += problem.within(where).problems
    except InjectionError as problem:
        problems += problem.problems
    if problems:
        raise InjectionError(problems)
    start = data[:3] if isinstance(data, bytes) else data[:1].encode()
    bom = BOM if start == BOM.encode() else ""
    return Rewritten(bom + writer.finished(), tuple(writer.notes), writer.changed)


@dataclass(frozen=True, slots=True)
class _Base:
    """The document that is changed, and where in which text it stands."""

    document: Document
    text: str
    start: int
    end: int

    @property
    def content(self) -> str:
        """The text of the document, with the rest of its last line."""
        return self.text[self.start : self.end]


@dataclass(frozen=True, slots=True)
class _Calls:
    """What ``rewrite`` was given to call."""

    change: Callable[[ManifestDocument], PlainValue]
    trust: Callable[[ManifestDocument], bool] | None
    recover: Callable[[ManifestDocument], PlainValue] | None


class _Writer:
    """Puts together a file from its documents, and from what stands between them."""

    def __init__(
        self,
        text: str,
        source: str,
        calls: _Calls,
        *,
        record: bool,
    ) -> None:
        self.source, self.calls = source, calls
        self.leave_records = record
        self.newline = "\r\n" if text[: text.find("\n")].endswith("\r") else "\n"
        # Every line is whole while the text is put together.
        self.is_bare = not text.endswith("\n")
        self.text = text + self.newline if self.is_bare else text
        self.has_records = has_records(text)
        self.notes: list[Problem] = []
        self.changed = 0
        self._parts: list[str] = []
        self._position = 0

    def finished(self) -> str:
        """Return the whole text."""
        text = "".join([*self._parts, self.text[self._position :]])
        return text.removesuffix(self.newline) if self.is_bare else text

    def _put(self, start: int, end: int, text: str) -> None:
        self._parts += [self.text[self._position : start], text]
        self._position = end
        self.changed += 1

    def _note(self, where: Where, what: str, why: str) -> None:
        self.notes.append(note(what, where, why=why))

    def document(self, document: Document) -> None:
        """Write one document."""
        where = Where(file=self.source, document=document.number, line=document.line)
        if document.is_json:
            self._json(document, where)
        elif document.node is not None:
            end = line_end(self.text, text_end(self.text, document.node))
            record = match_record(self.text, end) if self.has_records else None
            if record or not self._is_json(document):
                self._yaml(document, where, end, record)
            else:
                self._json(document, where)

    def _is_json(self, document: Document) -> bool:
        """Whether a document among others in YAML is written in JSON."""
        if not getattr(document.node, "flow_style", False):
            return False
        try:
            json.loads(self.text[document.start : document.end])
        except (ValueError, RecursionError):
            return False
        return True

    def _json(self, document: Document, where: Where) -> None:
        new = self.calls.change(ManifestDocument(document.value, document.value, where))
        if same(document.value, new):
            return
        before = self.text[document.start : document.end]
        style = json_style_of(before)
        if json_text(document.value, style) != before:
            self._note(where, "JSON was written anew", _SOME_CHANGED)
        self._put(document.start, document.end, json_text(new, style))

    def _yaml(
        self, document: Document, where: Where, end: int, record: re.Match[str] | None
    ) -> None:
        base = _Base(document, self.text, document.start, end)
        rest = end
        live = ManifestDocument(document.value, document.value, where, document.node)
        if record:
            rest = record.end()
            base = replace(base, end=record.start("line"))
        base = (
            (record and self._restored(base, record, live)) or self._recovered(base, live) or base
        )
        seen = live if base.document is document else replace(live, value=base.document.value)
        new = self.calls.change(seen)
        if same(base.document.value, new):
            if record or base.document is not document:
                self._put(document.start, rest, base.content)
            return
        changes = self._edits(base, new, where)
        if not changes and not record and base.document is document:
            return
        text = apply(base.content, changes)
        if self.leave_records:
            text += record_of(base.content, changes) + self.newline
        self._put(document.start, rest, text)

    def _restored(self, base: _Base, record: re.Match[str], live: ManifestDocument) -> _Base | None:
        """Return the document before the last injection, None if it cannot be had."""
        before = text_before(base.content, record)
        restored = None if before is None else self._parsed(base, before)
        if restored is None or self.calls.trust is None:
            return restored
        seen = replace(live, value=restored.document.value)
        return restored if self.calls.trust(seen) else None

    def _recovered(self, base: _Base, live: ManifestDocument) -> _Base | None:
        """Return the document with the value of ``recover``, None if that is the live one."""
        value = self.calls.recover(live) if self.calls.recover else live.value
        if same(value, live.value):
            return None
        return self._parsed(base, apply(base.content, self._edits(base, value, live.where)))

    def _parsed(self, base: _Base, content: str) -> _Base | None:
        """Return another text as a document in the place of ``base``."""
        # What precedes the document on its line, so that columns stay.
        column = base.document.node.start_mark.column
        text = " " * column + content
        try:
            documents = load_documents(text, self.source)
        except InjectionError:
            return None
        if len(documents) != 1 or documents[0].node is None:
            return None
        return _Base(documents[0], text, column, len(text))

    def _edits(self, base: _Base, new: PlainValue, where: Where) -> list[Edit]:
        """Return the edits of the document's content."""
        document = base.document
        style = style_of(base.text, document.node, newline=self.newline)
        try:
            if self.is_bare and ends_in_block_scalar(document.node):
                raise NoSpliceError("its last line is a text without a line break")  # noqa: TRY301
            changes = edits(base.text, document.node, document.value, new, style)
        except NoSpliceError as problem:
            self._note(where, "the document was written anew, without comments", str(problem))
            changes = [_anew(base, new, style)]
        return [Edit(edit.start - base.start, edit.end - base.start, edit.text) for edit in changes]


def _child(node: YamlNode, step: str | int) -> tuple[int, YamlNode] | None:
    """Return the line of a value in a map or list, and its node."""
    if node.__class__ is yaml.MappingNode:
        for key, value in node.value:
            if key.__class__ is yaml.ScalarNode and key.value == step:
                return key.start_mark.line + 1, value
    elif node.__class__ is yaml.SequenceNode and isinstance(step, int) and step < len(node.value):
        value = node.value[step]
        return value.start_mark.line + 1, value
    return None


def _anew(base: _Base, new: PlainValue, style: Style) -> Edit:
    """Return the edit that replaces a whole document."""
    text, start = base.text, base.start
    column = start - text.rfind("\n", 0, start) - 1
    lines = block(new, style, column).removesuffix(style.newline)[column:]
    if text[start - column : start].strip():
        lines = style.newline + block(new, style).removesuffix(style.newline)
    return Edit(start, text_end(text, base.document.node), lines)
