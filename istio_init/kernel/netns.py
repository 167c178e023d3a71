"""Network namespaces: entering one without running a program, and those of a node's pods."""

from __future__ import annotations

import errno
import os
import sys

from istio_init.errors import ApplyError
from istio_init.lean import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Iterator

# Source: linux/sched.h.
_CLONE_NEWNET = 0x40000000
_CLONE_NEWUTS = 0x04000000

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
    try:
        _setns(handle, _CLONE_NEWNET)
    except OSError as error:
        raise _cannot("enter", namespace, path, error) from error
    finally:
        os.close(handle)


def _setns(handle: int, kind: int) -> None:
    """Move this process into the namespace behind an open file.

    ``kind`` is the namespace's flag of clone(2); the kernel refuses a file of any
    other kind.

    Raises:
        OSError: it is no such namespace, or may not be entered.
    """
    if sys.version_info >= (3, 12):
        os.setns(handle, kind)
        return
    # 1.5 ms; pyroute2 would cost 113 ms for this one system call.
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(handle, kind):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def names() -> tuple[str, ...]:
    """Return the names that ``ip netns`` lists."""
    try:
        return tuple(sorted(os.listdir(NAMED)))
    except OSError:
        return ()


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
    why = error.strerror or str(error)
    if error.errno == errno.EINVAL:
        why = "this is not a network namespace"
    return ApplyError(
        f"cannot {verb} the network namespace {namespace}", where=path, why=why, remedy=remedy
    )


class PodNamespace(Record):
    """A pod's network namespace, held open: nobody else gets its number meanwhile.

    ``pid`` is the lowest of a process that was seen in it. ``network`` and ``host``
    are open files that stand for the namespaces of its network and its host name;
    ``host`` is -1 where there is none to be had. ``close`` lets both go.
    """

    inode: int
    pid: int
    network: int
    host: int

    def close(self) -> None:
        """Let the namespaces go."""
        for handle in (self.network, self.host):
            if handle >= 0:
                os.close(handle)


def of_pods() -> Iterator[PodNamespace]:
    """Yield every network namespace that a process is in, but the node's own, by PID.

    The node's is that of PID 1. Each is opened the moment it is seen, by whichever of
    its processes is still there: the others may end at any time. Whoever takes one
    closes it.

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
    return _unlike(own)


def _unlike(own: int) -> Iterator[PodNamespace]:
    seen = {own}
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        if _inode(pid) in (None, *seen):
            continue
        network = _opened(pid, "net")
        if network < 0:
            continue
        inode = os.fstat(network).st_ino
        if inode in seen:
            # The PID is another process's by now.
            os.close(network)
            continue
        seen.add(inode)
        yield PodNamespace(inode, pid, network, _opened(pid, "uts"))


def count_of_pods() -> int:
    """Return how many network namespaces ``of_pods`` would find now."""
    inodes = {_inode(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return len(inodes - {None, _inode(1)})


def _opened(pid: int, kind: str) -> int:
    """Return an open file that stands for a namespace of a process, -1 where it has gone."""
    try:
        return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return -1


def enter_pod(pod: PodNamespace) -> str:
    """Move this process into a pod's network, and where its host name is; return that name.

    Returns ``""`` where the name is the one that this process had already: a pod has a
    name of its own, a node's daemon has not.

    Raises:
        ApplyError: the network namespace may not be entered.
    """
    own = os.uname().nodename
    try:
        if pod.host >= 0:
            _setns(pod.host, _CLONE_NEWUTS)
    except OSError:
        # Only the name remains unknown.
        pass
    name = os.uname().nodename
    try:
        _setns(pod.network, _CLONE_NEWNET)
    except OSError as error:
        raise _cannot("enter", str(pod.pid), f"/proc/{pod.pid}/ns/net", error) from error
    return "" if name == own else name


def sees_whole_node() -> bool:
    """Whether this process is in the PID namespace of the machine, from which all are seen."""
    return os.stat("/proc/self/ns/pid").st_ino == _FIRST_PID_NAMESPACE


def _inode(pid: int) -> int | None:
    """Return the inode of a process's network namespace, None for one that is not to be seen."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None
