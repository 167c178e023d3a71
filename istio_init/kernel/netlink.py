"""Netlink messages as a pod's start needs them.

A library for this costs more to import than the rest of a run together
(pyroute2: 0.3 s), and the messages are few and fixed.

Sources: linux/netlink.h, net/netlink/af_netlink.c.
"""

from __future__ import annotations

from _socket import AF_NETLINK, SOCK_RAW, socket
from _struct import Struct
from errno import E2BIG, EINTR

from istio_init.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUTE = 0
NETFILTER = 12

_REQUEST = 0x1
_ACK = 0x4
_DUMP = 0x300
_DUMP_INTERRUPTED = 0x10
_ERROR = 2
_DONE = 3

_HEADER = Struct("=IHHII")
_NUMBER = Struct("=i")
# The kernel fills no more than this with one answer of a dump.
_ROOM = 1 << 17
_TRIES = 100
# What a dump may hold: who owns a namespace can put any number of rules there.
MOST = 1 << 25


def dump(protocol: int, kind: int, payload: bytes) -> list[bytes]:
    """Return what stands behind the header of each message of a dump.

    A dump that a change interrupted may lack or repeat entries; it is asked for
    again.

    Raises:
        OSError: the kernel refused, or (EINTR) something changed during every try,
            or (E2BIG) there are more than ``MOST`` bytes.
    """
    for _ in range(_TRIES):
        found: list[bytes] = []
        whole = True
        size = 0
        for flags, body in _answers(protocol, kind, _REQUEST | _DUMP, payload):
            whole = whole and not flags & _DUMP_INTERRUPTED
            found.append(body)
            size += len(body)
            if size > MOST:
                raise OSError(E2BIG, "more than this program reads")
        if whole:
            return found
    raise OSError(EINTR, "what is listed does not stand still")


def ask(protocol: int, kind: int, payload: bytes) -> bytes:
    """Return what stands behind the header of the one message that answers.

    Raises:
        OSError: the kernel refused.
    """
    return next(body for _, body in _answers(protocol, kind, _REQUEST, payload))


def change(protocol: int, kind: int, flags: int, payload: bytes) -> None:
    """Have something changed, and wait until it is.

    Raises:
        OSError: the kernel refused.
    """
    for _ in _answers(protocol, kind, _REQUEST | _ACK | flags, payload):
        pass


def _answers(protocol: int, kind: int, flags: int, payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield flags and body of each answer, up to the end or the acknowledgement."""
    handle = socket(AF_NETLINK, SOCK_RAW, protocol)
    try:
        handle.send(_HEADER.pack(_HEADER.size + len(payload), kind, flags, 0, 0) + payload)
        while True:
            data = handle.recv(_ROOM)
            position = 0
            while position < len(data):
                length, answer, answer_flags, *_ = _HEADER.unpack_from(data, position)
                body = data[position + _HEADER.size : position + length]
                position += (length + 3) & ~3
                if answer == _DONE:
                    if answer_flags & _DUMP_INTERRUPTED:
                        yield answer_flags, b""
                    return
                if answer == _ERROR:
                    if number := -_NUMBER.unpack_from(body)[0]:
                        raise OSError(number, _text(number))
                    return
                yield answer_flags, body
    finally:
        handle.close()


def _text(number: int) -> str:
    from os import strerror

    return strerror(number)
