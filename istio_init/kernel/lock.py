"""The lock that iptables takes around every change of the legacy tables."""

from __future__ import annotations

import os
from errno import EACCES, ENOENT, ENXIO, EPERM, EROFS

from istio_init.errors import ApplyError
from istio_init.kernel import signals
from istio_init.kernel.files import open_regular
from istio_init.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

LOCK_VARIABLE = "XTABLES_LOCKFILE"
LOCK_FILE = "/run/xtables.lock"
# The namespace's own inode: readable where nothing is writable, and the same
# file for every mount namespace that shares the rules.
NAMESPACE_FILE = "/proc/self/ns/net"

_UNUSABLE = frozenset({EROFS, EACCES, EPERM, ENOENT, ENXIO})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1


class XtablesLock:
    """Holds the xtables lock for the length of a ``with`` block.

    The file is the one iptables uses: $XTABLES_LOCKFILE, else /run/xtables.lock.
    Where that cannot be opened (a read-only root) the network namespace's inode
    stands in for it. Waits up to ``wait`` seconds.

    Raises:
        ApplyError: the lock was not free in time.
    """

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self._handle = -1
        self.path = ""

    def __enter__(self) -> Self:
        self._handle = self._open()
        try:
            self._take()
        except BaseException:
            os.close(self._handle)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._handle)

    def _open(self) -> int:
        self.path = os.environ.get(LOCK_VARIABLE) or LOCK_FILE
        try:
            return open_regular(self.path, os.O_CREAT)
        except OSError as error:
            if error.errno not in _UNUSABLE:
                raise ApplyError(
                    "cannot open the xtables lock",
                    where=self.path,
                    why=error.strerror or str(error),
                    remedy=f"point {LOCK_VARIABLE} at a regular file that can be opened",
                ) from error
        self.path = NAMESPACE_FILE
        return open_regular(self.path)

    def _take(self) -> None:
        import fcntl
        import time

        deadline = time.monotonic() + self._wait
        pause = _FIRST_PAUSE
        while True:
            signals.check()
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._timed_out() from None
                time.sleep(min(pause, left))
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                # The programs that a run starts keep it too: when the run is killed
                # the next one waits until they have written what they still write.
                os.set_inheritable(self._handle, True)  # noqa: FBT003 - takes no name
                return

    def _timed_out(self) -> ApplyError:
        return ApplyError(
            "another program holds the xtables lock",
            where=self.path,
            why=f"still held by {self._holder()} after {self._wait:g} s",
            remedy="wait for it to end, or raise --wait",
        )

    def _holder(self) -> str:
        """Return who holds the lock, as far as /proc says."""
        return holder(os.fstat(self._handle)) or "a process of another namespace"


def holder(status: os.stat_result) -> str:
    """Return who holds the lock on a file, as far as /proc says; ``""`` for nobody it knows."""
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        with open("/proc/locks", encoding="utf-8") as lines:
            for line in lines:
                fields = line.split()
                if "->" not in fields and fields[1] == "FLOCK" and fields[5] == wanted:
                    return f"pid {fields[4]}"
    except OSError:
        pass
    return ""
