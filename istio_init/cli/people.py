"""Lines for people: coloured where a terminal shows them, plain everywhere else."""

from __future__ import annotations

import sys

from istio_init.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TextIO

# What a line is about, and how a terminal shows it.
STYLES = {
    "bad": "bold red",
    "good": "green",
    "note": "yellow",
    "title": "bold",
    "added": "red",
    "removed": "green",
    "where": "cyan",
    "": "",
}


class Page:
    """Writes to a stream; rich is loaded for a terminal alone, and not needed even there."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._console: Any = None
        if self._stream.isatty():
            try:
                from rich.console import Console
            except ImportError:
                # An image that nobody looks into may do without it.
                return
            self._console = Console(file=self._stream, highlight=False, soft_wrap=True)

    def line(self, text: str = "", style: str = "") -> None:
        """Write one line, in a style of STYLES."""
        if self._console is None:
            self._stream.write(f"{text}\n")
        else:
            # Never as markup: what it says may come from somebody's rule.
            self._console.print(text, style=STYLES[style], markup=False, emoji=False)

    def table(self, rows: list[tuple[str, ...]], style: str = "") -> None:
        """Write rows with their columns aligned."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.line("  ".join(cells).rstrip(), style)

    def flush(self) -> None:
        """Hand over everything that was written."""
        self._stream.flush()
