"""Signals that end a process as failures of a run, never in the middle of a step.

A signal handler that raises would do so anywhere, also between a change of the
kernel and the note that it was made. So these signals are held back while a run
lasts, and the run asks for them where it can still turn back.
"""

from __future__ import annotations

import _signal

from istio_init.errors import ApplyError
from istio_init.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

# Every signal whose default is the end of the process, but for those that cannot be
# held back, that Python ignores, or that tell of a fault of the process itself.
_SIGNALS = (
    *(_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM),
    *(_signal.SIGUSR1, _signal.SIGUSR2, _signal.SIGALRM, _signal.SIGVTALRM, _signal.SIGPROF),
    *(_signal.SIGXCPU, _signal.SIGIO, _signal.SIGPWR, _signal.SIGSTKFLT),
    *range(_signal.SIGRTMIN, _signal.SIGRTMAX + 1),
)


class SignalsHeld:
    """Holds the signals back for the length of a ``with`` block.

    One that nobody asked for inside the block came too late and is dropped.
    """

    def __enter__(self) -> None:
        self._before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _SIGNALS)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while _signal.sigtimedwait(_SIGNALS, 0):
            continue
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._before)


def check() -> None:
    """Do nothing, unless a signal that is held back wants this run to end.

    Raises:
        ApplyError: it does.
    """
    while found := _signal.sigtimedwait(_SIGNALS, 0):
        # Whoever started this run can have decided that it is not to be asked.
        if _signal.getsignal(found.si_signo) == _signal.SIG_IGN:
            continue
        raise ApplyError(
            f"stopped by {_name(found.si_signo)} before the end",
            where="this run",
            why="it was told to stop",
            remedy="the next run starts over",
        )


def _name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
