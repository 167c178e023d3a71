"""What a process that serves another one asks of the kernel."""

from __future__ import annotations

# Source: linux/prctl.h.
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """End this process when its parent ends, by SIGKILL, also where that one is killed.

    It is for the operator's tools, which may be killed in a hostile namespace: ctypes
    costs 2 ms.
    """
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)
