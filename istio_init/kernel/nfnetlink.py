"""What nf_tables holds, asked of the kernel directly: names of tables and chains, and its age.

Nothing is executed, loaded or changed; this is how a backend is chosen before
any is touched.

Source: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

from errno import EINTR, EPERM

from istio_init.errors import ApplyError
from istio_init.kernel import netlink
from istio_init.lean import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

_NFNL_SUBSYS_NFTABLES = 10
_NFT_MSG_GETTABLE = 1
_NFT_MSG_GETCHAIN = 4
_NFT_MSG_GETRULE = 7
_NFT_MSG_GETSET = 10
_NFT_MSG_GETSETELEM = 13
_NFT_MSG_GETGEN = 16
_NFTA_TABLE = 1
_NFTA_GEN_ID = 1
_NFTA_CHAIN_NAME = 3
_NFTA_CHAIN_HOOK = 4
_NFTA_CHAIN_USE = 6
_NFTA_CHAIN_TYPE = 7
_NFTA_HOOK_HOOKNUM = 1
_NFTA_HOOK_PRIORITY = 2
_NFTA_RULE_CHAIN = 2
_NFTA_SET_NAME = 2
_NFTA_SETELEM_TABLE = 1
_NFTA_SETELEM_SET = 2
# The families of struct nfgenmsg that rules of ours can stand in.
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
_INET = 1
_NAT_HOOKS: dict[int, Literal["PREROUTING", "OUTPUT"]] = {0: "PREROUTING", 3: "OUTPUT"}
# struct nfgenmsg: family, version, and a part of the generation.
_GENERIC_SIZE = 4


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
    found = _places(_NFT_MSG_GETTABLE, _NFTA_TABLE)
    return None if found is None else frozenset((one.family, one.table) for one in found)


def generation() -> int | None:
    """Return a number that is another one after each change, or None without nf_tables."""
    try:
        body = netlink.ask(netlink.NETFILTER, _message(_NFT_MSG_GETGEN), bytes(_GENERIC_SIZE))
    except OSError:
        return None
    for kind, value in netlink.attributes(body[_GENERIC_SIZE:]):
        if kind == _NFTA_GEN_ID:
            return int.from_bytes(value, "big")
    return None


def chains() -> tuple[Place, ...] | None:
    """Return every chain of the families we write, or None without nf_tables.

    Raises:
        ApplyError: this process may not ask.
    """
    return _places(_NFT_MSG_GETCHAIN, _NFTA_CHAIN_NAME)


def rules() -> tuple[Place, ...] | None:
    """Return the chain of every rule, or None without nf_tables.

    Raises:
        ApplyError: this process may not ask.
    """
    return _places(_NFT_MSG_GETRULE, _NFTA_RULE_CHAIN)


class NatChain(Record):
    """A chain of nf_tables on one of the hooks on which destinations are chosen."""

    family: str
    table: str
    chain: str
    hook: Literal["PREROUTING", "OUTPUT"]
    priority: int


def nat_chains() -> Iterator[NatChain]:
    """Yield the chains of type nat, with any rule, on the hooks that choose destinations.

    Raises:
        ApplyError: this process may not ask.
    """
    for body in _dump(_NFT_MSG_GETCHAIN) or ():
        family = _FAMILIES.get(body[0])
        given = dict(netlink.attributes(body[_GENERIC_SIZE:]))
        nat = _unpacked(given.get(_NFTA_CHAIN_TYPE, b"")) == "nat"
        if family and nat and int.from_bytes(given[_NFTA_CHAIN_USE], "big"):
            hooked = dict(netlink.attributes(given[_NFTA_CHAIN_HOOK]))
            hook = _NAT_HOOKS.get(int.from_bytes(hooked[_NFTA_HOOK_HOOKNUM], "big"))
            if hook:
                priority = int.from_bytes(hooked[_NFTA_HOOK_PRIORITY], "big", signed=True)
                table, chain = _unpacked(given[_NFTA_TABLE]), _unpacked(given[_NFTA_CHAIN_NAME])
                yield NatChain(family, table, chain, hook, priority)


def uses() -> dict[Place, int]:
    """Return how many rules stand in each chain or lead to it.

    Raises:
        ApplyError: this process may not ask.
    """
    found = {}
    for body in _dump(_NFT_MSG_GETCHAIN) or ():
        family = _FAMILIES.get(body[0])
        if family:
            given = dict(netlink.attributes(body[_GENERIC_SIZE:]))
            place = Place(family, _unpacked(given[_NFTA_TABLE]), _unpacked(given[_NFTA_CHAIN_NAME]))
            found[place] = int.from_bytes(given[_NFTA_CHAIN_USE], "big")
    return found


def contents(names: frozenset[str]) -> tuple[bytes, ...]:
    """Return all that the kernel tells about inet tables of these names.

    Two answers are equal only if nobody changed one of the tables in between:
    what is written anew, even as it was, has another handle. A change of other
    tables makes no difference.

    Raises:
        ApplyError: this process may not ask.
    """
    found: list[bytes] = []
    for message in (_NFT_MSG_GETTABLE, _NFT_MSG_GETCHAIN, _NFT_MSG_GETRULE, _NFT_MSG_GETSET):
        for body in _dump(message) or ():
            named = _strings(body, last=_NFTA_SET_NAME)
            if body[0] != _INET or named.get(_NFTA_TABLE) not in names:
                continue
            found.append(body[_GENERIC_SIZE:])
            if message == _NFT_MSG_GETSET:
                elements = netlink.attribute(_NFTA_SETELEM_TABLE, _packed(named[_NFTA_TABLE]))
                elements += netlink.attribute(_NFTA_SETELEM_SET, _packed(named[_NFTA_SET_NAME]))
                answers = _dump(_NFT_MSG_GETSETELEM, _INET, elements) or ()
                found += (answer[_GENERIC_SIZE:] for answer in answers)
    return tuple(found)


def _packed(name: str) -> bytes:
    return name.encode() + b"\0"


def _unpacked(value: bytes) -> str:
    return value.partition(b"\0")[0].decode(errors="replace")


def _message(kind: int) -> int:
    return _NFNL_SUBSYS_NFTABLES << 8 | kind


def _places(message: int, chain_attribute: int) -> tuple[Place, ...] | None:
    bodies = _dump(message)
    if bodies is None:
        return None
    found = []
    for body in bodies:
        family = _FAMILIES.get(body[0])
        if family:
            names = _strings(body, last=chain_attribute)
            found.append(Place(family, names[_NFTA_TABLE], names[chain_attribute]))
    return tuple(found)


def _dump(message: int, family: int = 0, asked: bytes = b"") -> list[bytes] | None:
    """Return struct nfgenmsg and attributes of each answer, or None without nf_tables."""
    generic = bytes((family, 0, 0, 0))
    try:
        return netlink.dump(netlink.NETFILTER, _message(message), generic + asked)
    except OSError as error:
        if error.errno == EPERM:
            raise ApplyError(
                "may not look at the rules of this network namespace",
                where="nf_tables",
                why="the kernel says: operation not permitted",
                remedy="run as root with NET_ADMIN and, for the legacy backend, NET_RAW",
            ) from error
        if error.errno == EINTR:
            raise ApplyError(
                "cannot list the rules of this network namespace",
                where="nf_tables",
                why="another program changes them without a pause",
                remedy="stop that program, or let it pause",
            ) from error
        # The kernel has no nfnetlink, or no nf_tables behind it.
        return None


def _strings(body: bytes, last: int) -> dict[int, str]:
    """Return the attributes up to one as text; those that are none are not asked for.

    Names come first, before what may be long.
    """
    found = {}
    for kind, value in netlink.attributes(body[_GENERIC_SIZE:]):
        found[kind] = _unpacked(value)
        if kind == last:
            break
    return found
