"""Netlink attributes as bytes: the TLVs of which every message consists.

Sources: linux/netlink.h, net/netlink.h.
"""

from __future__ import annotations

from _struct import Struct

from istio_init.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ATTRIBUTE = Struct("=HH")
_pack, _unpack = _ATTRIBUTE.pack, _ATTRIBUTE.unpack_from
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
# Above these bits stand flags: nested, and in network byte order.
_TYPE_MASK = 0x3FFF
# The length of an attribute is a number of 16 bits.
MOST = 0xFFFF - 4


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute with its padding; ``value`` has at most ``MOST`` bytes."""
    return _pack(4 + len(value), kind) + value + _PADDING[len(value) & 3]


def read_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and value of each attribute, without the flags in the kind.

    Raises:
        ValueError: an attribute runs over the end of ``data``.
    """
    position, end = 0, len(data)
    while position + 4 <= end:
        length, kind = _unpack(data, position)
        if length < 4 or position + length > end:
            raise ValueError("an attribute that runs over the end of its message")
        yield kind & _TYPE_MASK, data[position + 4 : position + length]
        position += (length + 3) & ~3


def be32(number: int) -> bytes:
    """Return an unsigned number of 32 bits in network byte order."""
    return number.to_bytes(4, "big")


def be64(number: int) -> bytes:
    """Return an unsigned number of 64 bits in network byte order."""
    return number.to_bytes(8, "big")


def number(value: bytes) -> int:
    """Return the unsigned number that stands in network byte order."""
    return int.from_bytes(value, "big")


def packed_name(name: str) -> bytes:
    """Return a name as the kernel keeps it; bytes that are no text survive both ways."""
    return name.encode(errors="surrogateescape") + b"\0"


def name_of(value: bytes) -> str:
    """Return a name up to its final zero; bytes that are no text become surrogates."""
    return value.partition(b"\0")[0].decode(errors="surrogateescape")
