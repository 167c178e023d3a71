"""The picture of the results."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from tests.benchmark.report import quartiles
from tests.benchmark.visits import SIZES
from tests.namespace import BACKENDS

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from tests.benchmark.visits import Times

_COLOURS = {"bare": "0.7", "dry run": "tab:green", "script": "tab:red"}


def draw(times: Times, peer: str, path: Path) -> None:
    """Draw the time by backend, and the time by the number of rules; what has a peer beside it."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "istio-init"
    from matplotlib import pyplot as plt

    figure, (bars, lines) = plt.subplots(1, 2, figsize=(11, 4))
    _draw_backends(bars, times, peer)
    _draw_ranges(lines, times, peer)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _draw_backends(axes: Axes, times: Times, peer: str) -> None:
    names = [name for name in ("bare", "dry run", *BACKENDS, "script") if name in times.ours]
    both = any(name in times.peer for name in names)
    width = 0.4 if both else 0.8
    for place, name in enumerate(names):
        beside = name in times.peer
        left = place - width / 2 if beside else place
        colour = _COLOURS.get(name, "tab:blue")
        _bar(axes, left, times.ours[name], colour, width)
        if beside:
            _bar(axes, place + width / 2, times.peer[name], "tab:orange", width)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("ms, whole process")
    axes.set_title(f"One start of a pod (orange: {peer})" if both else "One start of a pod")


def _bar(axes: Axes, place: float, found: list[float], colour: str, width: float) -> None:
    low, high = quartiles(found)
    middle = median(found)
    error = [[middle - low], [high - middle]]
    axes.bar([place], [middle], width, yerr=error, color=colour, capsize=3)


def _draw_ranges(axes: Axes, times: Times, peer: str) -> None:
    def line(rows: dict[str, list[float]], name: str, label: str, style: str = "-") -> None:
        points = {
            size: median(rows[row])
            for size in (0, *SIZES)
            if (row := f"{name}, {size} ranges" if size else name) in rows
        }
        if points:
            colour = "tab:red" if name == "script" else f"C{BACKENDS.index(name)}"
            axes.plot(
                *zip(*points.items(), strict=True), style, marker="o", color=colour, label=label
            )

    for backend in BACKENDS:
        line(times.ours, backend, backend)
        line(times.peer, backend, f"{backend}, {peer}", "--")
    line(times.ours, "script", "script")
    axes.set_yscale("log")
    axes.set_xlabel("ranges")
    axes.set_ylabel("ms, whole process")
    axes.set_title("By the number of rules")
    axes.legend()
