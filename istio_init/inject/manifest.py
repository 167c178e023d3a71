"""Files of Kubernetes objects: text in, and out comes text with other values in it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from istio_init.inject.problems import InjectionError, Problem, Where, note
from istio_init.inject.record import has_records, match_record, record_of, text_before
from istio_init.inject.splice import Edit, NoSpliceError, apply, edits, line_end, same, text_end
from istio_init.inject.style import Style, block, json_style_of, json_text, style_of
from istio_init.inject.yaml import BOM, Document, decode, iterate_documents, load_documents

if TYPE_CHECKING:
    import re
    from collections.abc import Callable

_SOME_CHANGED: Final = "its other lines may have been laid out anew"


@dataclass(frozen=True, slots=True)
class ManifestDocument:
    """A document as a change of it sees it.

    ``value`` is its value: that before the last injection, if the text of that
    could be had back; ``live`` is what stands in the file. ``where`` names file,
    document and line.
    """

    value: Any
    live: Any
    where: Where

    @property
    def restored(self) -> bool:
        """Whether ``value`` is what a record gave back."""
        return self.value is not self.live


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A file's text after a change, the notes about it, and how many documents differ."""

    text: str
    notes: tuple[Problem, ...]
    changed: int


def rewrite(
    data: str | bytes,
    source: str,
    change: Callable[[ManifestDocument], Any],
    *,
    trust: Callable[[Any, Any], bool] = same,
    record: bool = False,
) -> Rewritten:
    """Return a file in which ``change`` gave each document another value.

    ``change`` returns the new value, or the old one if nothing changes; an
    ``InjectionError`` that it raises is kept until all documents have been seen.
    A record behind a document (``record.py``) gives the text before the last
    injection back if ``trust`` agrees that the live value and the one before
    belong together. With ``record`` such a record is left.

    Raises ``InjectionError`` with the problems of all documents.
    """
    text = decode(data, source)
    writer = _Writer(text, source, change, trust, record=record)
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


class _Writer:
    """Puts together a file from its documents, and from what stands between them."""

    def __init__(
        self,
        text: str,
        source: str,
        change: Callable[[ManifestDocument], Any],
        trust: Callable[[Any, Any], bool],
        *,
        record: bool,
    ) -> None:
        self.text, self.source, self.change, self.trust = text, source, change, trust
        self.leave_records = record
        self.newline = "\r\n" if text[: text.find("\n")].endswith("\r") else "\n"
        self.has_records = has_records(text)
        self.notes: list[Problem] = []
        self.changed = 0
        self._parts: list[str] = []
        self._position = 0

    def finished(self) -> str:
        """Return the whole text."""
        return "".join([*self._parts, self.text[self._position :]])

    def _put(self, start: int, end: int, text: str) -> None:
        self._parts += [self.text[self._position : start], text]
        self._position = end
        self.changed += 1

    def _note(self, where: Where, what: str, why: str) -> None:
        self.notes.append(note(what, where, why=why))

    def document(self, document: Document) -> None:
        """Write one document."""
        where = Where(file=self.source, document=document.number, line=document.line)
        if document.is_json or self._is_json(document):
            self._json(document, where)
        elif document.node is not None:
            self._yaml(document, where)

    def _is_json(self, document: Document) -> bool:
        """Whether a document among others in YAML is written in JSON."""
        if document.node is None or not getattr(document.node, "flow_style", False):
            return False
        try:
            json.loads(self.text[document.start : document.end])
        except (ValueError, RecursionError):
            return False
        return True

    def _json(self, document: Document, where: Where) -> None:
        new = self.change(ManifestDocument(document.value, document.value, where))
        if same(document.value, new):
            return
        before = self.text[document.start : document.end]
        style = json_style_of(before)
        if json_text(document.value, style) != before:
            self._note(where, "JSON was written anew", _SOME_CHANGED)
        self._put(document.start, document.end, json_text(new, style))

    def _yaml(self, document: Document, where: Where) -> None:
        end = line_end(self.text, text_end(self.text, document.node))
        base = _Base(document, self.text, document.start, end)
        rest = end
        record = match_record(self.text, end) if self.has_records else None
        if record:
            rest = record.end()
            if not record[2]:
                # The line break in front of the record came with it.
                base = replace(base, end=end - len(self.newline))
            base = self._restored(base, record) or base
        new = self.change(ManifestDocument(base.document.value, document.value, where))
        if same(base.document.value, new):
            if record:
                self._put(document.start, rest, base.content)
            return
        changes = self._edits(base, new, where)
        text = apply(base.content, changes)
        if self.leave_records:
            comment = record_of(base.content, changes)
            text += comment + self.newline if text.endswith("\n") else self.newline + comment
        self._put(document.start, rest, text)

    def _restored(self, live: _Base, record: re.Match[str]) -> _Base | None:
        """Return the document before the last injection, None if it cannot be had."""
        before = text_before(live.content, record)
        if before is None:
            return None
        # What precedes the document on its line, so that columns stay.
        column = live.document.node.start_mark.column
        text = " " * column + before
        try:
            documents = load_documents(text, self.source)
        except InjectionError:
            return None
        if len(documents) != 1 or documents[0].node is None:
            return None
        if not self.trust(live.document.value, documents[0].value):
            return None
        return _Base(documents[0], text, column, len(text))

    def _edits(self, base: _Base, new: Any, where: Where) -> list[Edit]:  # noqa: ANN401
        """Return the edits of the document's content."""
        document = base.document
        style = style_of(base.text, document.node, newline=self.newline)
        try:
            changes = edits(base.text, document.node, document.value, new, style)
        except NoSpliceError as problem:
            self._note(where, "the document was written anew, without comments", str(problem))
            changes = [_anew(base, new, style)]
        return [Edit(edit.start - base.start, edit.end - base.start, edit.text) for edit in changes]


def _anew(base: _Base, new: Any, style: Style) -> Edit:  # noqa: ANN401
    """Return the edit that replaces a whole document."""
    text, start = base.text, base.start
    column = start - text.rfind("\n", 0, start) - 1
    lines = block(new, style, column).removesuffix(style.newline)[column:]
    if text[start - column : start].strip():
        lines = style.newline + block(new, style).removesuffix(style.newline)
    return Edit(start, text_end(text, base.document.node), lines)
