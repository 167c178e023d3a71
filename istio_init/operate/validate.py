"""Does a real connection come to the proxy? The check behind --run-validation.

The listeners stand where the proxy's own will, so it has to be done before the
proxy starts. The rules treat the proxy's connections as no one else's: those to
an address of the pod's own come in again by the inbound listener, which is what
is tried here. No capability is needed, nothing is written and no rule is read.
"""

from __future__ import annotations

import errno
import os
import struct
from contextlib import ExitStack
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IP,
    IPPROTO_IPV6,
    SO_ERROR,
    SO_REUSEADDR,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    inet_ntop,
    socket,
)

from istio_init.config.model import LAYOUT_1_0
from istio_init.errors import ProbeError
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules.names import ISTIO_OUTPUT, NAT, PASSTHROUGH
from istio_init.rules.ranges import ADDRESS_FAMILY, FAMILIES, IPV4, IPV6

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from istio_init.config.model import Config
    from istio_init.rules.model import Plan
    from istio_init.rules.ranges import Family

# SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST, which answer with a sockaddr.
_ORIGINAL_DESTINATION = 80
_LEVEL = {AF_INET: IPPROTO_IP, AF_INET6: IPPROTO_IPV6}
_SOCKADDR_SIZE = {AF_INET: 16, AF_INET6: 28}
_OWN_ADDRESS = {IPV4: "127.0.0.1", IPV6: "::1"}
_LONGEST_ANSWER = 1 << 16


class Path(Record):
    """One connection that is tried, from ``source`` to port ``port`` of ``to``.

    It is let in at any of ``listeners``, ports of ``source``; ``expected`` is the
    one to which the rules lead it.
    """

    family: Family
    source: str
    to: str
    port: int
    listeners: tuple[int, ...]
    expected: int

    def __str__(self) -> str:
        where = f"{_spelled(self.to, self.port)} to {_spelled(self.source, self.expected)}"
        return f"{self.family}, {where}"


def paths(config: Config, plan: Plan, port: int) -> tuple[Path, ...]:
    """Return the connection to try for each family whose outbound traffic is captured."""
    expected = config.outbound_port if config.layout == LAYOUT_1_0 else config.inbound_port
    return tuple(
        Path(
            family,
            _OWN_ADDRESS[family],
            PASSTHROUGH[family].address,
            port,
            tuple(dict.fromkeys((config.outbound_port, config.inbound_port))),
            expected,
        )
        for family in FAMILIES
        if (nat := plan.ruleset(family).table(NAT)) and nat.chain(ISTIO_OUTPUT)
    )


def validate(tried: tuple[Path, ...], *, uid: int, gid: int, seconds: float) -> None:
    """Try every path as the proxy's user, each for ``seconds`` at most.

    Root becomes ``uid`` and ``gid`` for it, in a process of its own; anybody else
    tries it as who they are.

    Raises:
        ProbeError: a path failed; every one that did is named, with the reason.
    """

    def try_all() -> str:
        failed = [(path, why) for path in tried if (why := _why_not(path, seconds))]
        return "; ".join(f"{path}: {why}" for path, why in failed)

    as_root = os.geteuid() == 0
    if as_root and (uid, gid) != (os.geteuid(), os.getegid()):
        failure = _as_user(uid, gid, try_all)
    else:
        failure = try_all()
    if failure:
        who = f"as uid {uid}, gid {gid}"
        if not as_root and (os.geteuid(), os.getegid()) != (uid, gid):
            who = (
                f"as uid {os.geteuid()}, gid {os.getegid()}, though the proxy's connections "
                f"are those of uid {uid}, gid {gid}"
            )
        raise ProbeError(f"validation failed ({who}): {failure}")


def _why_not(path: Path, seconds: float) -> str:
    """Return why the connection did not arrive, ``""`` if it did."""
    with ExitStack() as stack:
        listeners = []
        for port in path.listeners:
            listener = stack.enter_context(_new_socket(path))
            try:
                listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
                listener.bind((path.source, port))
                listener.listen()
            except OSError as error:
                return _cannot_listen(path, port, error)
            listeners.append(listener)
        client = stack.enter_context(_new_socket(path))
        try:
            # By itself a connection to ::6 would come from ::6, as only those do
            # by which the proxy delivers to the application.
            client.bind((path.source, 0))
            failed = client.connect_ex((path.to, path.port))
        except OSError as error:
            failed = error.errno or errno.EIO
        if failed not in (0, errno.EINPROGRESS):
            return _not_connected(failed)
        return _arrival(path, client, listeners, seconds)


def _new_socket(path: Path) -> socket:
    return socket(ADDRESS_FAMILY[path.family], SOCK_STREAM | SOCK_NONBLOCK)


def _cannot_listen(path: Path, port: int, error: OSError) -> str:
    text = f"cannot listen at {_spelled(path.source, port)}: {error.strerror}"
    if error.errno == errno.EADDRINUSE:
        text += ", a proxy runs already: validate before it starts"
    elif error.errno == errno.EADDRNOTAVAIL:
        text += ", is lo up and has it that address?"
    elif error.errno == errno.EACCES:
        text += ", this user may not listen below net.ipv4.ip_unprivileged_port_start"
    return text


def _not_connected(number: int) -> str:
    why = os.strerror(number)
    if number == errno.ECONNREFUSED:
        return f"{why}, no rule led it to the proxy; istio-init audit names the rule"
    if number in (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EHOSTUNREACH):
        return f"{why}, there is no way to that address; is lo up, with ::6 on it for IPv6?"
    return f"{why}; istio-init audit names rules that are wrong"


def _arrival(path: Path, client: socket, listeners: list[socket], seconds: float) -> str:
    """Return why the connection of ``client`` does not come to a listener, ``""`` if it does."""
    import select
    import time

    poll = select.poll()
    for listener in listeners:
        poll.register(listener, select.POLLIN)
    poll.register(client, select.POLLOUT)
    by_handle = {listener.fileno(): listener for listener in listeners}
    why = "no answer, something drops the packets"
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        for handle, _ in poll.poll(left * 1000):
            if handle in by_handle:
                arrived, wrong = _accepted(path, by_handle[handle], client)
                if arrived:
                    return wrong
                continue
            number = client.getsockopt(SOL_SOCKET, SO_ERROR)
            if number:
                return _not_connected(number)
            poll.unregister(client)
            why = "somebody else answered, at none of the proxy's ports"
    return f"{why}, for {seconds:g} s; istio-init audit names rules that are wrong"


def _accepted(path: Path, listener: socket, client: socket) -> tuple[bool, str]:
    """Return whether the client's connection arrived, and what is wrong with it."""
    try:
        arrived, peer = listener.accept()
    except OSError:
        return False, ""
    with arrived:
        if peer[:2] != client.getsockname()[:2]:
            return False, ""
        at = _spelled(*arrived.getsockname()[:2])
        original = _original_destination(arrived)
    if original is None:
        return True, f"it came to {at}, but the kernel does not know where it was going"
    if original[1] != path.port:
        return True, f"it came to {at} as a connection to {_spelled(*original)}"
    return True, ""


def _original_destination(arrived: socket) -> tuple[str, int] | None:
    """Return address and port that the connection was made to, None if nothing changed them."""
    size = _SOCKADDR_SIZE[arrived.family]
    try:
        data = arrived.getsockopt(_LEVEL[arrived.family], _ORIGINAL_DESTINATION, size)
    except OSError:
        return None
    (port,) = struct.unpack_from("!H", data, 2)
    packed = data[4:8] if arrived.family == AF_INET else data[8:24]
    return inet_ntop(arrived.family, packed), port


def _spelled(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _as_user(uid: int, gid: int, action: Callable[[], str]) -> str:
    """Return what ``action`` returns in a process of that user."""
    answer, write = os.pipe()
    pid = os.fork()
    if not pid:
        _answer(uid, gid, action, write)
    os.close(write)
    with os.fdopen(answer, "rb") as lines:
        data = lines.read(_LONGEST_ANSWER)
    os.waitpid(pid, 0)
    word, _, text = data.decode(errors="replace").partition(":")
    return text if word else "the process that tries the path ended before it answered"


def _answer(uid: int, gid: int, action: Callable[[], str], write: int) -> NoReturn:
    """Become that user, write what ``action`` returns, and end this process."""
    try:
        try:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        except OSError as error:
            text = (
                f"cannot become that user: {error.strerror}; run the validation as uid {uid}, "
                "or give this one the capabilities SETUID and SETGID"
            )
        else:
            text = action()
        os.write(write, f"answer:{text}".encode(errors="replace"))
    finally:
        # Nothing of the process that this is a copy of is to run a second time.
        os._exit(0)
