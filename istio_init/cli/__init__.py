"""The command line."""

from __future__ import annotations

import os
import sys

from istio_init.cli import startup
from istio_init.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code.

    0 done, 1 could not apply or clean, 2 bad input, 126 validation failed.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        call = startup.read(words, os.environ)
        if call is None:
            from istio_init.cli.commands import run_with_click

            return run_with_click(words)
        from istio_init.cli.actions import run

        return run(*call)
    except KeyboardInterrupt:
        sys.stderr.write("istio-init: interrupted\n")
        return 1
    except BrokenPipeError:
        # Whoever read the output has gone; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


__all__ = ["main"]
