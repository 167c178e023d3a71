"""The results: as they are written to the JSON file, and for a person."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NotRequired, TypedDict

from tests.benchmark.goals import Figures, Goal, goals
from tests.benchmark.processes import say
from tests.benchmark.visits import Times

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class RowResult(TypedDict):
    """A row of the table of times; what it was not compared with is missing."""

    median_ms: float
    quartiles_ms: list[float]
    runs: int
    times_bare: NotRequired[float]
    times_script: NotRequired[float]
    peer_ms: NotRequired[float]


class Machine(TypedDict):
    """Where it was measured."""

    cores: int
    kernel: str
    python: str


class Results(TypedDict):
    """What stands in the JSON file; files of former releases have no key that is not required."""

    machine: Machine
    peer: NotRequired[str]
    rows: dict[str, RowResult]
    goals: list[Goal]
    peak_memory_mb: dict[str, float]
    peer_peak_memory_mb: NotRequired[dict[str, float]]
    connections_per_second: dict[str, int]
    webhook: NotRequired[dict[str, float | str]]


@dataclass(slots=True)
class Measured:
    """Everything that was measured, as it came; see ``goals.Figures`` for the units."""

    times: Times = field(default_factory=Times)
    memory: dict[str, float] = field(default_factory=dict)
    peer_memory: dict[str, float] = field(default_factory=dict)
    rates: dict[int, list[float]] = field(default_factory=dict)
    webhook: dict[str, float | str] = field(default_factory=dict)


def quartiles(times: Sequence[float]) -> tuple[float, float]:
    """Return the 25th and the 75th percentile; of fewer than three times the least and the most."""
    if len(times) < 3:
        return min(times), max(times)
    first, _, third = statistics.quantiles(times, n=4)
    return first, third


def results(measured: Measured, peer: str = "") -> Results:
    """Return all results; ``peer`` is the name of what ours was compared with."""
    medians = {row: statistics.median(times) for row, times in measured.times.ours.items()}
    rates = {number: statistics.median(found) for number, found in measured.rates.items()}
    numbers = {
        name: figure
        for name, figure in measured.webhook.items()
        if isinstance(figure, (int, float))
    }
    found: Results = {
        "machine": {
            "cores": os.cpu_count() or 1,
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "rows": {
            row: _row_result(row, times, medians, measured.times.peer.get(row))
            for row, times in measured.times.ours.items()
        },
        "goals": goals(Figures(medians, measured.memory, rates, numbers)),
        "peak_memory_mb": _rounded(measured.memory),
        "connections_per_second": {str(number): round(rate) for number, rate in rates.items()},
    }
    if peer:
        found["peer"] = peer
    if measured.peer_memory:
        found["peer_peak_memory_mb"] = _rounded(measured.peer_memory)
    if measured.webhook:
        found["webhook"] = measured.webhook
    return found


def _row_result(
    row: str, times: Sequence[float], medians: dict[str, float], peer: Sequence[float] | None
) -> RowResult:
    found: RowResult = {
        "median_ms": round(medians[row], 2),
        "quartiles_ms": [round(one, 2) for one in quartiles(times)],
        "runs": len(times),
    }
    if "bare" in medians:
        found["times_bare"] = round(medians[row] / medians["bare"], 2)
    if "script" in medians:
        found["times_script"] = round(medians[row] / medians["script"], 2)
    if peer:
        found["peer_ms"] = round(statistics.median(peer), 2)
    return found


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in values.items()}


def print_results(found: Results) -> None:
    """Print the tables for a person."""
    peer = f"{found.get('peer', 'peer')}, ms"
    heads = f"{'median ms':>10}{'quartiles':>16}{'x bare':>8}{'x script':>9}"
    say(f"{'':50}{heads}{peer:>{len(peer) + 2}}")
    for name, row in found["rows"].items():
        low, high = row["quartiles_ms"]
        times = f"{row['median_ms']:>10.1f}{f'{low:.1f}-{high:.1f}':>16}"
        compared = (
            number(row.get("times_bare"), 8, 2),
            number(row.get("times_script"), 9, 2),
            number(row.get("peer_ms"), len(peer) + 2, 1),
        )
        say(f"{name:50}{times}{''.join(compared)}".rstrip())
    say()
    others = found.get("peer_peak_memory_mb", {})
    for name, peak in found["peak_memory_mb"].items():
        beside = number(others.get(name), len(peer) + 2, 1)
        say(f"{f'{name}: peak memory, MB':66}{peak:>10.1f}{beside}".rstrip())
    for name, figure in found.get("webhook", {}).items():
        say(f"{f'webhook: {name}':66}{figure:>10}")
    say()
    say_goals(found["goals"])


def say_goals(found: Iterable[Goal]) -> None:
    """Print each goal on a line."""
    for goal in found:
        verdict = "met" if goal["met"] else "missed"
        bound = f"{'at least' if goal['at_least'] else 'at most'} {goal['limit']:g}"
        say(f"{goal['what']:66}{goal['measured']:>10.2f}  goal: {bound:<14} {verdict}")


def number(value: float | None, width: int, digits: int) -> str:
    """Return a cell: the number, or nothing where there is none."""
    return " " * width if value is None else f"{value:>{width}.{digits}f}"
