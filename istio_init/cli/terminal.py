"""Lines for people: coloured on a terminal, plain anywhere else."""

from __future__ import annotations

import sys

from istio_init.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.render.trace import Line

_STYLES = {
    "head": "bold cyan",
    "yes": "green",
    "no": "dim",
    "unknown": "yellow",
    "faint": "dim",
    "good": "bold green",
    "warn": "bold yellow",
}


def write(lines: Iterable[Line]) -> None:
    """Write lines to standard output; what is no terminal gets their text alone."""
    if not sys.stdout.isatty() or not _write_coloured(lines):
        sys.stdout.writelines("".join(text for text, _ in line).rstrip() + "\n" for line in lines)
    sys.stdout.flush()


def _write_coloured(lines: Iterable[Line]) -> bool:
    """Write lines in colour; return False, with nothing written, where rich is missing."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        # An image in which nobody looks at a terminal may do without.
        return False
    console = Console(file=sys.stdout, highlight=False)
    for line in lines:
        pieces = ((text, _STYLES.get(style, "")) for text, style in line)
        # Rules are copied and searched for: no line is broken but by the terminal.
        console.print(Text.assemble(*pieces), soft_wrap=True)
    return True
