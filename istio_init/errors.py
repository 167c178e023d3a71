"""Everything that can go wrong, each kind with its exit code.

    IstioInitError
    ├── ConfigError        2    bad input; nothing was changed
    ├── ParseError         1    text or bytes that are not a rule set
    ├── UnsupportedError   1    this kernel or build cannot do what was asked
    ├── ApplyError         1    the kernel refused; prior state restored
    └── ProbeError         126  validation failed

Drift that an audit finds is a value, not an error; the command line returns 3.
"""

from __future__ import annotations

from istio_init.lean import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from typing import Self


def printable(text: str) -> str:
    """Return text whose control characters, line ends and lone bytes are spelled out.

    Names and comments may come from anybody; on a terminal or in a log they are
    to do nothing but be read.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


class Location(Record):
    """What of the kernel's rules an error is about; ``""`` where that is not known.

    ``rule`` is spelled as its backend prints it, ``flag`` is the one that asked
    for it.
    """

    backend: str = ""
    family: str = ""
    table: str = ""
    rule: str = ""
    flag: str = ""


class IstioInitError(Exception):
    """An error whose text is meant for the person who has to act on it.

    ``missing`` names the tables, matches and targets that the kernel lacks, or
    most probably does. ``location`` and ``remedy`` are part of the text too.
    """

    exit_code = 1
    missing: frozenset[str] = frozenset()
    location = Location()
    remedy = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """The text in lines, without a control character in any of them."""
        return (printable(str(self)),)

    def at(self, location: Location) -> Self:
        """Note what the error is about; return the error."""
        self.location = location
        return self


class BadValue(Record):
    """One bad input value.

    ``flag`` names where it came from as the user would write it (``-b
    --istio-inbound-ports``, ``env ISTIO_INBOUND_PORTS``), ``annotation`` the pod
    annotation that feeds it, or ``""``. A value that is refused for another reason
    than its form has that ``reason``, and ``expected`` is empty.
    """

    flag: str
    value: str
    expected: str
    annotation: str = ""
    reason: str = ""

    @property
    def why(self) -> str:
        """The reason of the refusal, in words."""
        return self.reason or f"expected {self.expected}"

    def __str__(self) -> str:
        line = f"{self.flag}: {self.value!r}: {self.why}"
        if self.annotation:
            line += f" (pod annotation {self.annotation})"
        return line


class ConfigError(IstioInitError):
    """Every bad input value of one call, reported together."""

    exit_code = 2

    def __init__(self, problems: tuple[BadValue, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(self.lines))

    @property
    def lines(self) -> tuple[str, ...]:
        """How many values are bad, then a line for each."""
        count = "1 bad value" if len(self.problems) == 1 else f"{len(self.problems)} bad values"
        return (
            f"{count}, nothing was changed",
            *(f"  {printable(str(problem))}" for problem in self.problems),
        )


class ParseError(IstioInitError):
    """Text or bytes that do not have the form of a rule set."""


class UnsupportedError(IstioInitError):
    """Something the plan needs is missing from this kernel or this build."""

    def __init__(
        self, what: str, *, remedy: str = "", missing: frozenset[str] = frozenset()
    ) -> None:
        self.what, self.remedy, self.missing = what, remedy, missing
        super().__init__(f"{what}: {remedy}" if remedy else what)


class ApplyError(IstioInitError):
    """The kernel's state could not be read or changed.

    ``rolled_back`` is None when nothing had been changed yet, True when prior
    state was put back, False when putting it back failed too.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str,
        why: str,
        remedy: str = "",
        rolled_back: bool | None = None,
    ) -> None:
        self.what, self.where, self.why, self.remedy = what, where, why, remedy
        self.rolled_back = rolled_back
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.what} ({self.where}): {self.why}"
        if self.remedy:
            text += f"; {self.remedy}"
        if self.rolled_back is True:
            text += "; rolled back to the state before this run"
        elif self.rolled_back is False:
            text += "; ROLL BACK FAILED, the state is neither old nor new: run istio-init again"
        else:
            text += "; nothing was changed"
        return text


class ProbeError(IstioInitError):
    """The rules are in place but do not lead a connection where they should."""

    exit_code = 126
