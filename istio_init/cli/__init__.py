"""The command line."""

from __future__ import annotations

import gc
import os
import sys

from istio_init.config import fast_arguments
from istio_init.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

# What a run makes goes with its last reference. Looking for cycles while modules
# load costs 2 ms; those that work for long get a collection all the same.
_OBJECTS_BETWEEN_COLLECTIONS = 100_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code.

    0 done, 1 could not apply or clean, 2 bad input, 126 validation failed.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        call = fast_arguments.read(words, os.environ)
        if call is None:
            # These take longer, and have things of their own to put away.
            _let_interrupts_raise()
            from istio_init.cli.click_app import run_with_click

            return run_with_click(words)
        from istio_init.cli.apply import run

        return run(*call)
    except KeyboardInterrupt:
        sys.stderr.write("istio-init: interrupted\n")
        return 1
    except BrokenPipeError:
        # Whoever read the output has gone; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        # A full disk behind the output, say.
        sys.stderr.write(f"istio-init: {error.strerror or error}\n")
        return 1


def _let_interrupts_raise() -> None:
    """Undo what the program's script did: from here on somebody catches KeyboardInterrupt."""
    import _signal

    if _signal.getsignal(_signal.SIGINT) == _signal.SIG_DFL:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def program() -> NoReturn:
    """Run as the program of this process, and end it with the exit code of ``main``.

    Taking the interpreter apart first would cost 3 ms.
    """
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    for name in ("stdout", "stderr"):
        # Missing where the process was started without it.
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif getattr(sys, name).errors == "strict":
            # A name in a rule may hold what the locale cannot write.
            getattr(sys, name).reconfigure(errors="backslashreplace")
    try:
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        # While main was saying that it was interrupted.
        code = 1
    except BaseException:  # noqa: BLE001 - nothing may pass by the end of the process
        sys.excepthook(*sys.exc_info())
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 1
    os._exit(code)


__all__ = ["main", "program"]
