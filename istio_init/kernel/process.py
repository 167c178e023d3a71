"""Programs that are run: without a shell, without a locale, and never for ever.

The standard library's subprocess costs 5 ms to import, half of what running one
of these programs costs.
"""

from __future__ import annotations

import os

from istio_init.errors import ApplyError, UnsupportedError
from istio_init.lean import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Where Debian puts them; an init container's PATH may be empty.
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_SECONDS = 60
_CHUNK = 1 << 16
# What a program may write: 250,000 rules are 20 MB; of complaints the first ones tell enough.
_MOST_OUTPUT = 1 << 26
_MOST_COMPLAINTS = 4096


# Source: linux/prctl.h.
_PR_SET_PDEATHSIG = 1

# The C library's prctl, in a process that dies with its parent.
_prctl: Callable[[int, int, int, int, int], int] | None = None


def die_with_parent() -> None:
    """End this process when its parent ends, by SIGKILL, also where that one is killed.

    The programs that this process runs end with it in the same way. That costs 2 ms for
    ctypes, and a fork for each: it is for the operator's tools, which may be killed in a
    hostile namespace. On a pod's start the programs keep the lock instead.
    """
    import ctypes

    global _prctl  # noqa: PLW0603 - set once, before any program is run
    _prctl = ctypes.CDLL(None).prctl
    _prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)


class Finished(Record):
    """How a program ended: its exit code (negative: a signal) and what it wrote."""

    code: int
    output: str
    complaints: str

    @property
    def denied(self) -> bool:
        """Whether it complains about rights that it lacks."""
        return "ermission denied" in self.complaints or "not permitted" in self.complaints


def execute(arguments: Sequence[str], text: str = "", *, where: str, instead: str) -> Finished:
    """Run a program with ``text`` on its standard input.

    ``where`` and ``instead`` say for errors what it is run for, and what else
    would serve.

    Raises:
        UnsupportedError: it is not installed.
        ApplyError: it did not come to an end, or wrote more than 64 MiB.
    """
    program = arguments[0]
    # The input lies whole in memory: a program that does not read it, or writes
    # first, cannot get stuck with this one.
    given = os.memfd_create("input")
    out, out_end = os.pipe2(os.O_CLOEXEC)
    complaints, complaints_end = os.pipe2(os.O_CLOEXEC)
    try:
        # A comment in somebody's rule may hold any bytes.
        _write(given, text.encode(errors="surrogateescape"))
        os.lseek(given, 0, os.SEEK_SET)
        try:
            pid = _start(arguments, (given, out_end, complaints_end))
        finally:
            for handle in (given, out_end, complaints_end):
                os.close(handle)
        if pid is None:
            raise UnsupportedError(
                f"{program} is not installed, or may not be run ({where})", remedy=instead
            )
        written = _collect(out, complaints)
        if isinstance(written, str):
            os.killpg(pid, 9)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(out)
        os.close(complaints)
    if isinstance(written, str):
        raise ApplyError(f"{program} did not come to an end", where=where, why=written)
    output, said = (data.decode(errors="surrogateescape") for data in written)
    return Finished(code, output, said[:_MOST_COMPLAINTS])


def _start(arguments: Sequence[str], handles: tuple[int, int, int]) -> int | None:
    """Start a program with these as input, output and errors; return its pid, or None."""
    path = os.environ.get("PATH", "")
    path = f"{path}:{_PATH}" if path else _PATH
    environment = {"PATH": path, "LC_ALL": "C"}
    start = _spawn if _prctl is None else _fork
    for folder in path.split(":"):
        program = os.path.join(folder, arguments[0])
        # Whatever lies in the current folder is not meant, and a process started in
        # vain costs 1 ms.
        if not program.startswith("/") or not os.access(program, os.X_OK):
            continue
        try:
            return start(program, list(arguments), environment, handles)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
    return None


def _spawn(
    program: str,
    arguments: list[str],
    environment: Mapping[str, str],
    handles: tuple[int, int, int],
) -> int:
    import _signal

    return os.posix_spawn(
        program,
        arguments,
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, handle, place) for place, handle in enumerate(handles)],
        # What Python ignores, and what a run holds back, would be inherited.
        setsigdef=[_signal.SIGPIPE, _signal.SIGXFSZ],
        setsigmask=[],
        # A terminal's signals are for the run, which decides what to undo.
        setpgroup=0,
    )


def _fork(
    program: str,
    arguments: list[str],
    environment: Mapping[str, str],
    handles: tuple[int, int, int],
) -> int:
    """Start a program that ends with this process."""
    import _signal

    this = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)
        if os.getppid() == this:
            os.setpgid(0, 0)
            for place, handle in enumerate(handles):
                os.dup2(handle, place)
            for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
                _signal.signal(number, _signal.SIG_DFL)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
            os.execve(program, arguments, environment)  # noqa: S606 - none is wanted
    finally:
        # As a shell says of a program that cannot be run.
        os._exit(126)


def _collect(*handles: int) -> list[bytes] | str:
    """Return all that comes from each pipe, or why it has no end."""
    import select
    import time

    deadline = time.monotonic() + _SECONDS
    found: dict[int, list[bytes]] = {handle: [] for handle in handles}
    ready = select.poll()
    for handle in handles:
        ready.register(handle, select.POLLIN)
    left = len(handles)
    room = _MOST_OUTPUT
    while left:
        events = ready.poll(max(0, (deadline - time.monotonic()) * 1000))
        if not events:
            return f"still running after {_SECONDS} s"
        for handle, _ in events:
            data = os.read(handle, _CHUNK)
            found[handle].append(data)
            room -= len(data)
            if room < 0:
                return f"it wrote more than {_MOST_OUTPUT >> 20} MiB"
            if not data:
                ready.unregister(handle)
                left -= 1
    return [b"".join(parts) for parts in found.values()]


def _write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
