"""What is wrong, or odd, with a manifest or a configuration file, and where.

Every check returns all of its problems at once; nothing is raised at the first.
Whoever can go no further raises an ``InjectionError`` with the whole tuple.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from istio_init.errors import IstioInitError, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# A value of a hostile manifest can be as long as the manifest.
_LONGEST = 400


class Severity(StrEnum):
    """How bad a problem is: an error stops the injection, a warning and a note do not.

    A warning works, but probably not as meant. A note says what was done.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


_ORDER = tuple(Severity)


@dataclass(frozen=True, slots=True)
class Where:
    """The place that a problem is about; ``""`` and 0 where something is not known.

    ``document`` and ``line`` count from 1. ``kind``, ``namespace`` and ``name``
    are those of the workload, ``path`` leads to a field of it
    (``spec.containers[0].ports``).
    """

    file: str = ""
    document: int = 0
    line: int = 0
    kind: str = ""
    namespace: str = ""
    name: str = ""
    annotation: str = ""
    path: str = ""

    @property
    def workload(self) -> str:
        """The kind and name as kubectl prints them: ``Deployment shop/web``."""
        name = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return " ".join(part for part in (self.kind, name) if part)

    @property
    def position(self) -> str:
        """File, line and document as a compiler prints them: ``app.yaml:12 (document 2)``."""
        position = self.file
        if self.line:
            position += f":{self.line}" if position else f"line {self.line}"
        if self.document:
            position += f" (document {self.document})" if position else f"document {self.document}"
        return position

    def filled(self, outer: Where) -> Where:
        """Return this place; what it does not know is taken from ``outer``."""
        own = asdict(self)
        return replace(outer, **{key: value for key, value in own.items() if value})


NOWHERE = Where()


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: what, where, why, and what to do about it."""

    severity: Severity
    what: str
    where: Where = NOWHERE
    why: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        """Return one line that a terminal can be given, whatever a manifest holds."""
        subject = [self.where.position, str(self.severity), self.where.workload]
        if self.where.annotation:
            subject.append(f"annotation {self.where.annotation}")
        elif self.where.path:
            subject.append(self.where.path)
        text = ": ".join([*(part for part in subject if part), self.what])
        if self.why:
            text += f": {self.why}"
        if self.remedy:
            text += f"; {self.remedy}"
        return printable(text)

    def within(self, outer: Where) -> Problem:
        """Return the problem with the parts of its place that only the caller knows."""
        return replace(self, where=self.where.filled(outer))

    def document(self) -> dict[str, Any]:
        """Return the problem as JSON data; keys are added, none changes its meaning."""
        return {
            "severity": str(self.severity),
            "what": self.what,
            "where": asdict(self.where),
            "why": self.why,
            "remedy": self.remedy,
        }


class InjectionError(IstioInitError):
    """Bad input of an injection, all of it; nothing was written."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.lines))

    @property
    def lines(self) -> tuple[str, ...]:
        """A line for each problem."""
        return tuple(str(problem) for problem in self.problems)

    def within(self, outer: Where) -> InjectionError:
        """Return the error with the parts of its problems' place that only the caller knows."""
        return InjectionError(problem.within(outer) for problem in self.problems)


def error(what: str, where: Where = NOWHERE, *, why: str = "", remedy: str = "") -> Problem:
    """Return a problem that stops the injection."""
    return Problem(Severity.ERROR, what, where, why, remedy)


def warning(what: str, where: Where = NOWHERE, *, why: str = "", remedy: str = "") -> Problem:
    """Return a problem that does not stop the injection."""
    return Problem(Severity.WARNING, what, where, why, remedy)


def note(what: str, where: Where = NOWHERE, *, why: str = "", remedy: str = "") -> Problem:
    """Return a remark on what was done."""
    return Problem(Severity.NOTE, what, where, why, remedy)


def has_errors(problems: Iterable[Problem]) -> bool:
    """Whether any of the problems stops the injection."""
    return any(problem.severity is Severity.ERROR for problem in problems)


def by_severity(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the problems, errors first; those of one severity keep their order."""
    return tuple(sorted(problems, key=lambda problem: _ORDER.index(problem.severity)))


def as_text(problems: Iterable[Problem]) -> str:
    """Return a line for each problem."""
    return "".join(f"{problem}\n" for problem in problems)


def as_json(problems: Sequence[Problem]) -> str:
    """Return the problems as a JSON list."""
    return json.dumps([problem.document() for problem in problems], indent=2) + "\n"


def quoted(value: object) -> str:
    """Return a value of somebody else's manifest for a sentence: quoted, escaped, cut."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}... ({len(text)} characters)"
    return printable(text)


__all__ = [
    "NOWHERE",
    "InjectionError",
    "Problem",
    "Severity",
    "Where",
    "as_json",
    "as_text",
    "by_severity",
    "error",
    "has_errors",
    "note",
    "printable",
    "quoted",
    "warning",
]
