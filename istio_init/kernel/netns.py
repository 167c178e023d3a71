"""Entering another network namespace, without running a program."""

from __future__ import annotations

import os

from istio_init.errors import ApplyError
from istio_init.lean import Record

NAMED = "/run/netns"
# PROC_PID_INIT_INO. Source: linux/proc_ns.h.
_FIRST_PID_NAMESPACE = 0xEFFFFFFC


def enter(namespace: str) -> None:
    """Move this process into a network namespace.

    ``namespace`` is a path, a name known to ``ip netns``, or a PID. A name that
    is all digits means a PID.

    Raises:
        ApplyError: there is no such namespace, or it may not be entered.
    """
    path = path_of(namespace)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot("open", namespace, path, error) from error
    from pyroute2.netns import setns

    try:
        setns(handle)
    except OSError as error:
        raise _cannot("enter", namespace, path, error) from error
    finally:
        os.close(handle)


def names() -> tuple[str, ...]:
    """Return the names that ``ip netns`` lists."""
    try:
        return tuple(sorted(os.listdir(NAMED)))
    except OSError:
        return ()


def load() -> None:
    """Import what ``enter`` needs, for a process that is going to be copied for many namespaces."""
    import pyroute2.netns  # noqa: F401 - for enter


def path_of(namespace: str) -> str:
    """Return the file that stands for a namespace."""
    if "/" in namespace:
        return namespace
    if namespace.isascii() and namespace.isdigit():
        return f"/proc/{namespace}/ns/net"
    return f"{NAMED}/{namespace}"


def _cannot(verb: str, namespace: str, path: str, error: OSError) -> ApplyError:
    remedy = "give a path, a name that ip netns lists, or the PID of a process in the pod"
    if isinstance(error, PermissionError):
        remedy = "entering a namespace takes SYS_ADMIN: run as root on the node"
    return ApplyError(
        f"cannot {verb} the network namespace {namespace}",
        where=path,
        why=error.strerror or "it is not a network namespace",
        remedy=remedy,
    )


class Found(Record):
    """A network namespace: its inode, and the lowest PID of a process in it."""

    inode: int
    pid: int


def of_pods() -> tuple[Found, ...]:
    """Return every network namespace that a process is in, but the node's own, by PID.

    The node's is that of PID 1. Processes that end meanwhile are passed over.

    Raises:
        ApplyError: this process may not see in which namespaces the others are.
    """
    own = _inode(1)
    if own is None:
        raise ApplyError(
            "cannot tell the pods' network namespaces from the node's",
            where="/proc/1/ns/net",
            why="permission denied",
            remedy="run as root in the node's PID namespace (hostPID: true), with SYS_PTRACE",
        )
    found: dict[int, int] = {}
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        inode = _inode(pid)
        if inode is not None and inode != own:
            found.setdefault(inode, pid)
    return tuple(Found(inode, pid) for inode, pid in found.items())


def sees_whole_node() -> bool:
    """Whether this process is in the PID namespace of the machine, from which all are seen."""
    return os.stat("/proc/self/ns/pid").st_ino == _FIRST_PID_NAMESPACE


def _inode(pid: int) -> int | None:
    """Return the inode of a process's network namespace, None for one that is not to be seen."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None
