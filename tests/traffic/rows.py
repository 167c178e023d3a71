"""A table's row: two calls that differ in one thing, and land in different places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.pod import Call, Setup, captured, direct

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _pytest.mark.structures import ParameterSet

    from tests.pod import Landing, Pod


@dataclass(frozen=True)
class Row:
    """Under one set-up, a call that is left alone and one that the proxy gets.

    The second proves that the first is left alone for what it is, and not
    because nothing is captured at all. ``port`` is the proxy's. Two things need
    saying only where they are unusual: ``spared_by``, who answers the first
    call if not the owner of the address, and ``how`` the second is captured.
    """

    name: str
    setup: Setup
    spared: Call
    captured: Call
    port: int
    spared_by: str | None = None
    how: str | None = None

    def check(self, pod: Pod, family: str) -> None:
        __tracebackhide__ = True
        pod.expect(self.spared, family, direct(self.spared, family, by=self.spared_by))
        pod.expect(self.captured, family, self.caught(family))

    def caught(self, family: str) -> Landing:
        usual = "tproxy" if self.port == self.setup.transparent else "redirect"
        return captured(self.captured, family, self.port, how=self.how or usual)


def table(rows: Iterable[Row]) -> list[ParameterSet]:
    """Return the rows as parameters, each in every family of its layout."""
    return [
        pytest.param(row, family, id=f"{row.name}, {family}")
        for row in rows
        for family in row.setup.families
    ]
