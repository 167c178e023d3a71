"""Entering another network namespace, without running a program."""

from __future__ import annotations

import os

from istio_init.errors import ApplyError

NAMED = "/run/netns"


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
