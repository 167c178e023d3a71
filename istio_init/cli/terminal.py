"""Lines for people: coloured on a terminal, plain anywhere else."""

from __future__ import annotations

import sys

from istio_init.errors import printable
from istio_init.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, TextIO

    from istio_init.diagnose.text import StyledLine

# What a piece of a line is about, and how a terminal shows it.
STYLES = {
    "": "",
    "head": "bold cyan",
    "yes": "green",
    "no": "dim",
    "unknown": "yellow",
    "faint": "dim",
    "good": "bold green",
    "warn": "bold yellow",
    "bad": "bold red",
    "added": "red",
    "removed": "green",
}


class Page:
    """Writes lines to a stream; rich is loaded for a terminal alone, and not needed even there."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._console: Any = None
        if self._stream.isatty():
            try:
                from rich.console import Console
            except ImportError:
                # An image in which nobody looks at a terminal may do without.
                return
            self._console = Console(file=self._stream, highlight=False)

    def line(self, text: str = "", style: str = "") -> None:
        """Write a line of one style."""
        self.pieces(((text, style),))

    def pieces(self, line: Iterable[tuple[str, str]]) -> None:
        """Write a line of pieces, each with a style of STYLES."""
        shown = [(printable(text), style) for text, style in line]
        if self._console is None:
            self._stream.write("".join(text for text, _ in shown).rstrip() + "\n")
            return
        from rich.text import Text

        # Never as markup, and no line is broken but by the terminal: rules are
        # copied and searched for, and what they say may come from somebody else.
        styled = ((text, STYLES.get(style, "")) for text, style in shown)
        self._console.print(Text.assemble(*styled), soft_wrap=True)

    def flush(self) -> None:
        """Hand over everything that was written."""
        self._stream.flush()


def write(lines: Iterable[StyledLine]) -> None:
    """Write lines to standard output."""
    page = Page()
    for line in lines:
        page.pieces(line)
    page.flush()


def progress(names: Sequence[str], noun: str) -> Iterator[str]:
    """Yield names; show on standard error, a terminal, how many of them are done."""
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        yield from names
        return
    console = Console(stderr=True)
    yield from track(names, noun, console=console, transient=True)
