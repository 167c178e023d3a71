"""The goals, and what was measured of each. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict, TypeVar

from tests.benchmark import fleet, injection
from tests.benchmark.visits import FOREIGN_SIZES, SIZES
from tests.namespace import BACKENDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_Name = TypeVar("_Name", int, str)

# By backend: a first run in units of bare Python, and as a part of the script's time.
_FIRST_RUN = {"legacy": 2.0, "nft": 1.9, "nftables": 1.8}
_OF_SCRIPT = {"legacy": 0.65, "nft": 0.5, "nftables": 0.5}
# By backend: a run with so many ranges, in units of one without.
_RANGES = {
    SIZES[0]: {"legacy": 1.3, "nft": 1.6, "nftables": 1.4},
    SIZES[1]: {"legacy": 2.5, "nft": 4.0, "nftables": 3.0},
}
_FOREIGN_RUNS = ("first run", "rerun", "audit")
# Milliseconds by the number of Deployments.
_INJECT = {1: 180.0, 500: 1500.0}


class Goal(TypedDict):
    """A goal, what was measured, and whether that is good enough."""

    what: str
    measured: float
    limit: float
    at_least: bool
    met: bool


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured; a name that is missing was not.

    Medians in ms and peaks of memory in MiB, by row; connections a second by the number
    of ranges; and what ``scripts/bench-webhook`` writes.
    """

    times: Mapping[str, float]
    memory: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[int, float] = field(default_factory=dict)
    webhook: Mapping[str, float] = field(default_factory=dict)


class _Goals:
    """Goals as they are added; one of which some part was not measured is left out."""

    def __init__(self) -> None:
        self.found: list[Goal] = []

    def add(
        self, what: str, limit: float, measured: Callable[[], float], *, at_least: bool = False
    ) -> None:
        """Add a goal; ``measured`` raises a KeyError where it cannot say."""
        try:
            value = measured()
        except KeyError:
            return
        met = value >= limit if at_least else value <= limit
        rounded = round(value, 2)
        self.found.append(
            Goal(what=what, measured=rounded, limit=limit, at_least=at_least, met=met)
        )


def _value(table: Mapping[str, float], name: str) -> Callable[[], float]:
    return lambda: table[name]


def _ratio(table: Mapping[_Name, float], one: _Name, other: _Name) -> Callable[[], float]:
    return lambda: table[one] / table[other]


def _more(table: Mapping[str, float], one: str, other: str) -> Callable[[], float]:
    """Return how much longer one row takes than the other, in units of bare Python."""
    return lambda: (table[one] - table[other]) / table["bare"]


def goals(figures: Figures) -> list[Goal]:
    """Return each goal of which every part was measured."""
    found = _Goals()
    times, memory = figures.times, figures.memory
    for backend in BACKENDS:
        _add_backend(found, backend, figures)
    for row in ("dry run", "--skip-rule-apply"):
        found.add(f"{row} / bare", 2.0, _ratio(times, row, "bare"))
    few, many = 1, SIZES[0]
    what = f"nftables: connections/s, {many} ranges / {few}"
    found.add(what, 0.95, _ratio(figures.rates, many, few), at_least=True)
    found.add(f"{fleet.ROW}: ms", 5000.0, _value(times, fleet.ROW))
    found.add(f"{fleet.ROW}: memory of all, MB", 80.0, _value(memory, fleet.ROW))
    for kind in (injection.BUILT_IN, injection.GIVEN):
        for number in injection.DEPLOYMENTS:
            row = injection.row(number, kind)
            found.add(f"{row}: ms", _INJECT[number], _value(times, row))
            found.add(f"{row}: peak memory, MB", 80.0, _value(memory, row))
    webhook = figures.webhook
    what = "webhook: reviews/s"
    found.add(what, 300.0, _value(webhook, "reviews_per_second"), at_least=True)
    found.add("webhook: 99th percentile at 100 reviews/s, ms", 25.0, _value(webhook, "p99_ms"))
    found.add("webhook: memory, MB", 120.0, _value(webhook, "memory_mib"))
    return found.found


def _add_backend(found: _Goals, backend: str, figures: Figures) -> None:
    """Add the goals of a backend."""
    times, memory = figures.times, figures.memory
    both, tproxy = f"{backend}, both families", f"{backend}, TPROXY, both families"
    found.add(f"{backend} / script", _OF_SCRIPT[backend], _ratio(times, backend, "script"))
    found.add(f"{backend} / bare", _FIRST_RUN[backend], _ratio(times, backend, "bare"))
    rerun = _ratio(times, f"{backend}, rerun", backend)
    found.add(f"{backend}: rerun / first run", 1.0, rerun)
    found.add(f"{backend}: (both families - one) / bare", 0.25, _more(times, both, backend))
    what = f"{backend}: (TPROXY and routes - REDIRECT) / bare"
    found.add(what, 0.25, _more(times, tproxy, both))
    for size, limits in _RANGES.items():
        many = _ratio(times, f"{backend}, {size} ranges", backend)
        found.add(f"{backend}: {size} ranges / none", limits[backend], many)
    first = f"{SIZES[0]} ranges"
    of_script = _ratio(times, f"{backend}, {first}", f"script, {first}")
    found.add(f"{backend}: {first} / script", 0.05, of_script)
    fewer, more = FOREIGN_SIZES
    for run in _FOREIGN_RUNS:
        few, many_rules = (f"{backend}, {size} foreign rules, {run}" for size in FOREIGN_SIZES)
        found.add(f"{few}: ms", 250.0, _value(times, few))
        # Time that grows with the number of rules, and no faster.
        found.add(f"{many_rules} / {fewer}", more / fewer, _ratio(times, many_rules, few))
    found.add(f"{backend}: peak memory, MB", 12.0, _value(memory, backend))
    last = f"{backend}, {SIZES[-1]} ranges"
    found.add(f"{last}: peak memory, MB", 150.0, _value(memory, last))
