"""The messages by which tables, chains, rules and sets are told of, made and deleted.

Source: linux/netfilter/nf_tables.h, nf_tables_api.c.
"""

from __future__ import annotations

from _struct import Struct

from istio_init.formats.netlink import (
    MOST,
    attribute,
    be32,
    be64,
    name_of,
    number,
    packed_name,
    read_attributes,
)
from istio_init.lean import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# enum nf_tables_msg_types
NEW_TABLE, GET_TABLE, DELETE_TABLE = 0, 1, 2
NEW_CHAIN, GET_CHAIN, DELETE_CHAIN = 3, 4, 5
NEW_RULE, GET_RULE, DELETE_RULE = 6, 7, 8
NEW_SET, GET_SET, DELETE_SET = 9, 10, 11
NEW_ELEMENT, GET_ELEMENT, DELETE_ELEMENT = 12, 13, 14
GET_GENERATION = 16
NEW_OBJECT, GET_OBJECT, DELETE_OBJECT = 18, 19, 20
NEW_FLOWTABLE, GET_FLOWTABLE, DELETE_FLOWTABLE = 22, 23, 24

# What a message asks for besides: NLM_F_*.
CREATE = 0x400
EXCLUSIVE = 0x200
APPEND = 0x800

# The families of struct nfgenmsg that rules of ours can stand in.
INET = 1
FAMILY_NAMES = {INET: "inet", 2: "ip", 10: "ip6"}
FAMILY_NUMBERS = {name: found for found, name in FAMILY_NAMES.items()}

# What a table may be: NFT_TABLE_F_*.
DORMANT = 1
OWNED = 2
# What a set may be: NFT_SET_*.
ANONYMOUS = 0x1
CONSTANT = 0x2
INTERVAL = 0x4
MAP = 0x8
# What an element may be: NFT_SET_ELEM_*.
INTERVAL_END = 1
# enum nf_inet_hooks
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")

_TABLE, _NAME = 1, 2
_LIST_ELEMENT = 1
_DATA_VALUE = 1
_GENERIC_SIZE = 4
# NFT_RULE_COMPAT_F_INV
_COMPAT_NEGATED = 2
# The notes of nft's own beside an object: type, length, value.
_NOTE_OF_RULE_COMMENT = 0
_NOTE_OF_SET_ORDER = 0
_NOTE_OF_ELEMENT_FLAGS = 1
_NOTE = Struct("=BBI")
_OPEN_ENDED = _NOTE.pack(_NOTE_OF_ELEMENT_FLAGS, 4, 1)
HOST_ORDER, NETWORK_ORDER = 1, 2
# As many bytes of elements go into one message.
_ELEMENTS_AT_ONCE = MOST - 1024


class Message(Record):
    """One message of a batch: its kind, its flags and what stands behind the header.

    ``about`` is what the message is for, to be named when the kernel refuses it.
    """

    kind: int
    flags: int
    body: bytes
    about: object = None


class KernelTable(Record):
    """A table as the kernel tells of it; ``family`` is ip, ip6 or inet."""

    family: str
    name: str
    flags: int


class Hooked(Record):
    """Where a base chain stands: ``type`` filter, nat or route; ``policy`` 1 accepts."""

    type: str
    hook: str
    priority: int
    policy: int


# Where the chains of a table stand, and where those do that translate sources.
_PRIORITIES = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0}
_SOURCE_NAT = 100
ACCEPTS = 1


def hook_of(table: str, chain: str) -> Hooked:
    """Return where iptables and this program put a built-in chain, with the policy to accept."""
    kind = "filter"
    priority = _PRIORITIES[table]
    if table == "nat":
        kind = "nat"
        priority = _SOURCE_NAT if chain in ("INPUT", "POSTROUTING") else priority
    elif table == "mangle" and chain == "OUTPUT":
        # Of type filter, a packet that is marked here would keep its old route.
        kind = "route"
    return Hooked(kind, chain.lower(), priority, ACCEPTS)


class KernelChain(Record):
    """A chain as the kernel tells of it; ``hooked`` is None for one that is jumped to."""

    family: str
    table: str
    name: str
    hooked: Hooked | None


class KernelRule(Record):
    """A rule as the kernel tells of it; ``notes`` are those of nft's own beside it."""

    family: str
    table: str
    chain: str
    handle: int
    expressions: bytes
    notes: bytes


class KernelSet(Record):
    """A set as the kernel tells of it, or a map; ``body`` is the whole message."""

    family: str
    table: str
    name: str
    flags: int
    key_type: int
    key_length: int
    body: bytes


class Element(Record):
    """An element of a set; ``plain`` says that nothing but a key is in it."""

    key: bytes
    ends: bool
    plain: bool


class Contents(Record):
    """What stands in some tables, as of one moment.

    ``others`` are objects of kinds that this program never makes, with the
    kind of message that makes one; ``raw`` is all that the kernel told.
    """

    generation: int | None
    tables: tuple[KernelTable, ...]
    chains: tuple[KernelChain, ...]
    rules: tuple[KernelRule, ...]
    sets: tuple[tuple[KernelSet, tuple[bytes, ...]], ...]
    others: tuple[tuple[int, bytes], ...]
    raw: tuple[bytes, ...]


# Reading: what stands behind the header of each message of a dump.


def family_of(body: bytes) -> str:
    """Return the family of an object, ``""`` for one in which no rule of ours can stand."""
    return FAMILY_NAMES.get(body[0], "") if body else ""


def read_table(body: bytes) -> KernelTable:
    """Return the table that a message tells of.

    Raises:
        ValueError, KeyError: the message is not as any known kernel sends it.
    """
    given = _given(body)
    return KernelTable(family_of(body), name_of(given[_TABLE]), number(given.get(2, b"")))


def read_chain(body: bytes) -> KernelChain:
    """Return the chain that a message tells of.

    Raises:
        ValueError, KeyError: as ``read_table``.
    """
    given = _given(body)
    hooked = None
    if 4 in given:
        hook = dict(read_attributes(given[4]))
        place = number(hook[1])
        name = HOOKS[place] if place < len(HOOKS) else str(place)
        priority = int.from_bytes(hook[2], "big", signed=True)
        hooked = Hooked(name_of(given[7]), name, priority, number(given[5]))
    return KernelChain(family_of(body), name_of(given[_TABLE]), name_of(given[3]), hooked)


def read_rule(body: bytes) -> KernelRule:
    """Return the rule that a message tells of.

    Raises:
        ValueError, KeyError: as ``read_table``.
    """
    given = _given(body)
    return KernelRule(
        family_of(body),
        name_of(given[_TABLE]),
        name_of(given[2]),
        number(given[3]),
        given.get(4, b""),
        given.get(7, b""),
    )


def read_set(body: bytes) -> KernelSet:
    """Return the set or map that a message tells of.

    Raises:
        ValueError, KeyError: as ``read_table``.
    """
    given = _given(body)
    flags, key_type, key_length = (number(given.get(kind, b"")) for kind in (3, 4, 5))
    names = name_of(given[_TABLE]), name_of(given[_NAME])
    return KernelSet(family_of(body), *names, flags, key_type, key_length, body)


def read_elements(body: bytes) -> Iterator[Element]:
    """Yield the elements that a message tells of.

    Raises:
        ValueError, KeyError: as ``read_table``.
    """
    for kind, value in read_attributes(body[_GENERIC_SIZE:]):
        if kind != 3:
            continue
        for _, element in read_attributes(value):
            given = dict(read_attributes(element))
            flags = number(given.get(3, b""))
            key = dict(read_attributes(given.get(1, b""))).get(_DATA_VALUE, b"")
            # Key, flags, padding and what nft noted down.
            plain = given.keys() <= {1, 3, 6} and flags in (0, INTERVAL_END)
            yield Element(key, flags == INTERVAL_END, plain)


def read_generation(body: bytes) -> int:
    """Return the number that is another one after each change of nf_tables.

    Raises:
        ValueError, KeyError: as ``read_table``.
    """
    return number(_given(body)[1])


def name_in(body: bytes) -> str:
    """Return the name of an object or flowtable of a table."""
    return name_of(_given(body).get(_NAME, b""))


def _given(body: bytes) -> dict[int, bytes]:
    return dict(read_attributes(body[_GENERIC_SIZE:]))


def comment_in(notes: bytes) -> str:
    """Return the comment among nft's notes beside a rule, ``...`` where there are others alone."""
    position = 0
    while position + 2 <= len(notes):
        kind, length = notes[position], notes[position + 1]
        value = notes[position + 2 : position + 2 + length]
        if kind == _NOTE_OF_RULE_COMMENT:
            return value.partition(b"\0")[0].decode(errors="backslashreplace")
        position += 2 + length
    return "..." if notes else ""


# Asking and writing.


def generic(family: str = "") -> bytes:
    """Return struct nfgenmsg: the family (all of them without one), and a version."""
    return bytes((FAMILY_NUMBERS.get(family, 0), 0, 0, 0))


def asked(family: str, table: str, name: str = "") -> bytes:
    """Return a request for what is in a table, or in its set or chain ``name``."""
    found = generic(family) + attribute(_TABLE, packed_name(table))
    return found + attribute(_NAME, packed_name(name)) if name else found


def new_table(family: str, name: str, flags: int = 0, about: object = None) -> Message:
    """Make a table, or give one that is there these flags."""
    body = asked(family, name) + attribute(2, be32(flags))
    return Message(NEW_TABLE, CREATE, body, about)


def delete_table(family: str, name: str) -> Message:
    """Delete a table with all that is in it."""
    return Message(DELETE_TABLE, 0, asked(family, name))


def new_chain(
    family: str, table: str, name: str, hooked: Hooked | None = None, about: object = None
) -> Message:
    """Make a chain; one that is there stays, with the policy of ``hooked``."""
    body = asked(family, table) + attribute(3, packed_name(name))
    if hooked is not None:
        place = attribute(1, be32(HOOKS.index(hooked.hook)))
        place += attribute(2, hooked.priority.to_bytes(4, "big", signed=True))
        body += attribute(4, place) + attribute(5, be32(hooked.policy))
        body += attribute(7, packed_name(hooked.type))
    return Message(NEW_CHAIN, CREATE, body, about)


def delete_chain(family: str, table: str, name: str) -> Message:
    """Delete a chain; its rules have to be gone, and those that lead to it."""
    return Message(DELETE_CHAIN, 0, asked(family, table) + attribute(3, packed_name(name)))


def flush_chain(family: str, table: str, name: str) -> Message:
    """Delete all rules of a chain."""
    return Message(DELETE_RULE, 0, asked(family, table, name))


def new_rule(
    family: str,
    table: str,
    chain: str,
    expressions: bytes,
    *,
    notes: bytes = b"",
    before: int = 0,
    protocol: tuple[int, bool] = (0, False),
    about: object = None,
) -> Message:
    """Make a rule at the end of a chain, or before the one with the handle ``before``.

    ``notes`` are nft's own beside it, as they were read. ``protocol`` is the
    number of the protocol that the rule asks for, and whether it is negated: the
    matches and targets of iptables in it need to know.
    """
    body = asked(family, table, chain) + attribute(4, expressions)
    if protocol[0]:
        compat = attribute(1, be32(protocol[0]))
        body += attribute(5, compat + attribute(2, be32(protocol[1] and _COMPAT_NEGATED)))
    if before:
        body += attribute(6, be64(before))
    if notes:
        body += attribute(7, notes)
    # A rule is put behind another one with NLM_F_APPEND, before it without.
    return Message(NEW_RULE, CREATE if before else CREATE | APPEND, body, about)


def delete_rule(family: str, table: str, chain: str, handle: int) -> Message:
    """Delete the rule with a handle."""
    return Message(DELETE_RULE, 0, asked(family, table, chain) + attribute(3, be64(handle)))


def new_set(
    family: str, table: str, name: str, *, flags: int, key: tuple[int, int], size: int, order: int
) -> Message:
    """Make a set; ``key`` is the type, by nft's number, and the length of its values.

    ``size`` is how many elements it is to hold, ``order`` is noted down for nft:
    whether values are in host or network order.
    """
    note = _NOTE.pack(_NOTE_OF_SET_ORDER, 4, order)
    body = asked(family, table, name)
    body += attribute(3, be32(flags)) + attribute(4, be32(key[0])) + attribute(5, be32(key[1]))
    body += attribute(9, attribute(1, be32(size)))
    # A number by which the batch could refer to the set; nothing does.
    body += attribute(10, be32(1)) + attribute(13, note)
    return Message(NEW_SET, CREATE | EXCLUSIVE, body)


def delete_set(family: str, table: str, name: str) -> Message:
    """Delete a set or map that no rule uses."""
    return Message(DELETE_SET, 0, asked(family, table, name))


def new_elements(family: str, table: str, name: str, parts: Iterable[bytes]) -> Iterator[Message]:
    """Yield what puts elements into a set, in as few messages as they fit in."""
    head = asked(family, table, name)
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        if size + len(part) > _ELEMENTS_AT_ONCE:
            yield Message(NEW_ELEMENT, CREATE, head + attribute(3, b"".join(waiting)))
            waiting, size = [], 0
        waiting.append(part)
        size += len(part)
    if waiting:
        yield Message(NEW_ELEMENT, CREATE, head + attribute(3, b"".join(waiting)))


def element(key: bytes, *, ends: bool = False, open_ended: bool = False) -> bytes:
    """Return a value of a set, or where an interval begins or, with ``ends``, has ended.

    The last interval has no end if it holds the last value: it is ``open_ended``.
    """
    body = attribute(1, attribute(_DATA_VALUE, key))
    if ends:
        body += attribute(3, be32(INTERVAL_END))
    if open_ended:
        body += attribute(6, _OPEN_ENDED)
    return attribute(_LIST_ELEMENT, body)


def template_of(name: str) -> str:
    """Return what the kernel makes the name of a set without one of."""
    return name.rstrip("0123456789") + "%d"


def replayed(kind: int, body: bytes) -> Message:
    """Return what makes an object again from the message that told of it."""
    return Message(kind, CREATE, body)


_ONLY_READ = frozenset({14, 16, 19, 20})


def set_again(found: KernelSet, elements: Iterable[bytes], number: int) -> Iterator[Message]:
    """Yield what makes a set again, with what the kernel told of its elements.

    A set without a name is found by ``number`` in the batch that makes it.
    """
    renamed = {_NAME: packed_name(template_of(found.name))} if found.flags & ANONYMOUS else {}
    head = found.body[:_GENERIC_SIZE]
    # Its handle, and what newer kernels tell of how they keep it, are not to be told.
    told = {kind: value for kind, value in _given(found.body).items() if kind not in _ONLY_READ}
    given = told | renamed | {10: be32(number)}
    yield Message(NEW_SET, CREATE, head + b"".join(attribute(*one) for one in given.items()))
    for body in elements:
        if any(read_elements(body)):
            held = _given(body) | renamed | {4: be32(number)}
            parts = b"".join(attribute(*one) for one in held.items())
            yield Message(NEW_ELEMENT, CREATE, head + parts)


def deleted(kind: int, body: bytes) -> Message:
    """Return what deletes an object of others, from the message that told of it.

    ``kind`` is that of the message that makes one.
    """
    given = _given(body)
    # Of an object its kind belongs to its name.
    kept = (1, 2, 3) if kind == NEW_OBJECT else (1, 2)
    named = b"".join(attribute(one, given[one]) for one in kept if one in given)
    return Message(kind + 2, 0, body[:_GENERIC_SIZE] + named)
