"""What nf_tables holds, asked of the kernel directly: names of tables and chains, and its age.

Nothing is executed, loaded or changed; this is how a backend is chosen before
any is touched.
"""

from __future__ import annotations

import struct
from errno import EPERM
from socket import AF_NETLINK, SOCK_RAW, socket

from istio_init.errors import ApplyError
from istio_init.typed import Record

_NETLINK_NETFILTER = 12
_NFNL_SUBSYS_NFTABLES = 10
_NFT_MSG_GETTABLE = 1
_NFT_MSG_GETCHAIN = 4
_NFT_MSG_GETRULE = 7
_NFT_MSG_GETGEN = 16
_NLM_F_REQUEST = 0x1
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NFTA_TABLE = 1
_NFTA_GEN_ID = 1
_NFTA_CHAIN_NAME = 3
_NFTA_RULE_CHAIN = 2
# The families of struct nfgenmsg that rules of ours can stand in.
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}

_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct(">BBH")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF


class Place(Record):
    """A chain of nf_tables; ``family`` is ip, ip6 or inet."""

    family: str
    table: str
    chain: str


def tables() -> frozenset[tuple[str, str]] | None:
    """Return family and name of every table, even of empty ones, or None without nf_tables.

    Raises:
        ApplyError: this process may not ask.
    """
    found = _dump(_NFT_MSG_GETTABLE, _NFTA_TABLE)
    return None if found is None else frozenset((one.family, one.table) for one in found)


def generation() -> int | None:
    """Return a number that is another one after each change, or None without nf_tables."""
    try:
        with _asked(_NFT_MSG_GETGEN, _NLM_F_REQUEST) as handle:
            data = handle.recv(1 << 12)
    except OSError:
        return None
    body = _HEADER.size + _GENERIC.size
    while body < len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, body)
        if kind & _TYPE_MASK == _NFTA_GEN_ID:
            return int.from_bytes(data[body + _ATTRIBUTE.size : body + length], "big")
        body += (length + 3) & ~3
    return None


def chains() -> tuple[Place, ...] | None:
    """Return every chain of the families we write, or None without nf_tables.

    Raises:
        ApplyError: this process may not ask.
    """
    return _dump(_NFT_MSG_GETCHAIN, _NFTA_CHAIN_NAME)


def rules() -> tuple[Place, ...] | None:
    """Return the chain of every rule, or None without nf_tables.

    Raises:
        ApplyError: this process may not ask.
    """
    return _dump(_NFT_MSG_GETRULE, _NFTA_RULE_CHAIN)


def _dump(message: int, chain_attribute: int) -> tuple[Place, ...] | None:
    try:
        with _asked(message, _NLM_F_REQUEST_DUMP) as handle:
            return _answers(handle, chain_attribute)
    except OSError as error:
        if error.errno == EPERM:
            raise ApplyError(
                "may not look at the rules of this network namespace",
                where="nf_tables",
                why="the kernel says: operation not permitted",
                remedy="run as root with NET_ADMIN and, for the legacy backend, NET_RAW",
            ) from error
        # The kernel has no nfnetlink, or no nf_tables behind it.
        return None


def _asked(message: int, flags: int) -> socket:
    """Return a socket on which the kernel is going to answer."""
    handle = socket(AF_NETLINK, SOCK_RAW, _NETLINK_NETFILTER)
    try:
        kind = _NFNL_SUBSYS_NFTABLES << 8 | message
        handle.send(_HEADER.pack(_HEADER.size + _GENERIC.size, kind, flags, 0, 0) + bytes(4))
    except OSError:
        handle.close()
        raise
    return handle


def _answers(handle: socket, chain_attribute: int) -> tuple[Place, ...]:
    found: list[Place] = []
    while True:
        data = handle.recv(1 << 17)
        position = 0
        while position < len(data):
            length, kind, *_ = _HEADER.unpack_from(data, position)
            body = position + _HEADER.size
            if kind == _NLMSG_DONE:
                return tuple(found)
            if kind == _NLMSG_ERROR:
                number = -struct.unpack_from("=i", data, body)[0]
                raise OSError(number, "nf_tables")
            family = _FAMILIES.get(data[body])
            if family:
                names = _strings(data[body + _GENERIC.size : position + length])
                found.append(Place(family, names[_NFTA_TABLE], names[chain_attribute]))
            position += (length + 3) & ~3


def _strings(data: bytes) -> dict[int, str]:
    """Return the attributes as text; those that are none are not asked for."""
    found = {}
    position = 0
    while position < len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        value = data[position + _ATTRIBUTE.size : position + length]
        found[kind & _TYPE_MASK] = value.partition(b"\0")[0].decode(errors="replace")
        position += (length + 3) & ~3
    return found
