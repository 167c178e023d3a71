"""What nf_tables holds, asked of the kernel directly, and batches of changes to it.

Nothing is executed. Looking changes nothing and loads nothing; a batch is one
transaction of the kernel: all of it, or nothing.

Source: linux/netfilter/nfnetlink.h, nfnetlink.c, nf_tables_api.c.
"""

from __future__ import annotations

from _socket import AF_NETLINK, SOCK_RAW, socket
from _struct import Struct
from errno import E2BIG, EINTR, EMSGSIZE, ENOBUFS, EPERM, ERESTART

from istio_init.errors import ApplyError
from istio_init.formats.netlink import attribute, be32
from istio_init.formats.nf_tables import messages as objects
from istio_init.kernel import netlink
from istio_init.lean import TYPE_CHECKING
from istio_init.rules.model import BUILTIN_CHAINS
from istio_init.rules.names import NATIVE_TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from istio_init.formats.nf_tables.messages import (
        Contents,
        KernelChain,
        KernelRule,
        KernelSet,
        KernelTable,
        Message,
    )

    T = TypeVar("T")
    # Family (ip, ip6 or inet) and name of a table.
    TablePlace = tuple[str, str]

# The tables of iptables-nft, and our own.
IPTABLES_PLACES: frozenset[TablePlace] = frozenset(
    (family, name) for family in ("ip", "ip6") for name in BUILTIN_CHAINS
)
NATIVE_PLACES: frozenset[TablePlace] = frozenset(("inet", name) for name in NATIVE_TABLES.values())

_SUBSYSTEM = 10
_BATCH_BEGIN = 0x10
_BATCH_END = 0x11
_BATCH_GENERATION = 1
_REQUEST = 0x1
_ACK = 0x4
_ERROR = 2
_HEADER = Struct("=IHHII")
# The error's number, and the header of the message that it is about.
_ERROR_BODY = Struct("=iIHHI")
_AF_UNSPEC = 0
_GENERIC = Struct(">BBH")
_MSG_DONTWAIT = 0x40
# SO_SNDBUFFORCE takes rights over the whole machine, SO_SNDBUF has a limit.
_SOL_SOCKET, _SO_SNDBUF, _SO_SNDBUFFORCE = 1, 7, 32
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
# What a socket takes without being told.
_DEFAULT_BUFFER = 1 << 17
_ROOM = 1 << 17


class RefusedError(Exception):
    """The kernel refused a batch; nothing of it was done.

    ``message`` is the first that it refused, None where it does not say.
    """

    def __init__(self, number: int, message: Message | None) -> None:
        from os import strerror

        super().__init__(strerror(number))
        self.number = number
        self.message = message


class MovedError(Exception):
    """Something in nf_tables changed since the generation that a batch was made for."""


def generation() -> int | None:
    """Return a number that is another one after each change, or None without nf_tables."""
    try:
        body = netlink.ask(netlink.NETFILTER, _kind(objects.GET_GENERATION), objects.generic())
        return objects.read_generation(body)
    except (OSError, ValueError, KeyError):
        return None


def tables() -> tuple[KernelTable, ...] | None:
    """Return every table of the families we write, even an empty one, or None without nf_tables.

    Raises:
        ApplyError: this process may not ask.
    """
    bodies = _dump(objects.GET_TABLE)
    return None if bodies is None else _read(bodies, objects.read_table)


def chains() -> tuple[KernelChain, ...] | None:
    """Return every chain of the families we write, or None without nf_tables.

    Raises:
        ApplyError: this process may not ask.
    """
    bodies = _dump(objects.GET_CHAIN)
    return None if bodies is None else _read(bodies, objects.read_chain)


def has_rules(place: TablePlace) -> bool:
    """Whether a table has any rule.

    Raises:
        ApplyError: this process may not ask.
    """
    return bool(_dump(objects.GET_RULE, objects.asked(*place)))


def contents(places: frozenset[TablePlace], now: int | None, *, sets: bool) -> Contents | None:
    """Return what stands in tables, or None without nf_tables.

    Those that are not there are left out. Only with ``sets`` are sets and objects
    of other kinds looked at. It is of one moment if ``generation`` was ``now``
    before and is so afterwards.

    Raises:
        ApplyError: this process may not ask.
    """
    raw: list[bytes] = []
    found = _in(places, objects.GET_TABLE, objects.read_table, raw)
    if found is None:
        return None
    present = sorted({(one.family, one.name) for one in found})
    if not present:
        return objects.Contents(now, (), (), (), (), (), ())
    chains = _in(places, objects.GET_CHAIN, objects.read_chain, raw) or ()
    rules: list[KernelRule] = []
    for place in present:
        bodies = _dump(objects.GET_RULE, objects.asked(*place)) or []
        rules += _read(bodies, objects.read_rule)
        raw += bodies
    with_elements: list[tuple[KernelSet, tuple[bytes, ...]]] = []
    others: list[tuple[int, bytes]] = []
    if sets:
        for one in _in(places, objects.GET_SET, objects.read_set, raw) or ():
            asked = objects.asked(one.family, one.table, one.name)
            elements = tuple(_dump(objects.GET_ELEMENT, asked) or ())
            with_elements.append((one, elements))
            raw += elements
        for get in (objects.GET_OBJECT, objects.GET_FLOWTABLE):
            others += ((get - 1, body) for body in _of(places, get))
        raw += (body for _, body in others)
    return objects.Contents(
        now, found, chains, tuple(rules), tuple(with_elements), tuple(others), tuple(raw)
    )


def _in(
    places: frozenset[TablePlace],
    get: int,
    read: Callable[[bytes], T],
    raw: list[bytes],
) -> tuple[T, ...] | None:
    """Return the objects of one kind in some tables; ``raw`` takes what the kernel told."""
    bodies = _dump(get)
    if bodies is None:
        return None
    found: list[T] = []
    for body in bodies:
        for one in _read([body], read):
            name = one.name if get == objects.GET_TABLE else one.table  # type: ignore[attr-defined]
            if (objects.family_of(body), name) in places:
                found.append(one)
                raw.append(body)
    return tuple(found)


def _of(places: frozenset[TablePlace], get: int) -> list[bytes]:
    """Return the messages about objects of one kind in some tables."""
    return [
        body
        for body in _dump(get) or ()
        for one in _read([body], objects.read_table)
        if (one.family, one.name) in places
    ]


def _read(bodies: Sequence[bytes], read: Callable[[bytes], T]) -> tuple[T, ...]:
    """Return what messages tell of, but for those of families that are not ours."""
    try:
        return tuple(read(body) for body in bodies if objects.family_of(body))
    except (ValueError, KeyError) as error:
        raise ApplyError(
            "cannot read what the kernel tells of its rules",
            where="nf_tables",
            why=f"a message is not as any known kernel sends it: {error}",
        ) from error


def _kind(message: int) -> int:
    return _SUBSYSTEM << 8 | message


def _dump(message: int, asked: bytes = b"") -> list[bytes] | None:
    """Return struct nfgenmsg and attributes of each answer, or None without nf_tables."""
    try:
        return netlink.dump(netlink.NETFILTER, _kind(message), asked or objects.generic())
    except OSError as error:
        if error.errno == EPERM:
            raise _denied("look at") from error
        if error.errno == EINTR:
            raise ApplyError(
                "cannot list the rules of this network namespace",
                where="nf_tables",
                why="another program changes them without a pause",
                remedy="stop that program, or let it pause",
            ) from error
        if error.errno == E2BIG:
            raise ApplyError(
                "cannot list the rules of this network namespace",
                where="nf_tables",
                why=f"there are more than {netlink.MOST >> 20} MiB of them",
                remedy="find out with nft list ruleset who makes that many",
            ) from error
        # The kernel has no nfnetlink, or no nf_tables behind it; or the table,
        # or set, that was asked for is gone.
        return None


def _denied(verb: str) -> ApplyError:
    return ApplyError(
        f"may not {verb} the rules of this network namespace",
        where="nf_tables",
        why="the kernel says: operation not permitted",
        remedy="run as root with NET_ADMIN and, for the legacy backend, NET_RAW",
    )


def commit(batch: Sequence[Message], made_for: int | None = None) -> None:
    """Have the kernel take a batch, all of it or nothing.

    With ``made_for`` only if nothing changed since that generation.

    Raises:
        RefusedError: the kernel refused it.
        MovedError: it is another generation now.
        ApplyError: this process may not change anything.
    """
    if not batch:
        return
    data = _packed(batch, made_for)
    handle = socket(AF_NETLINK, SOCK_RAW, netlink.NETFILTER)
    try:
        # Of a message that is refused its header comes back, not all of it.
        handle.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        if len(data) > _DEFAULT_BUFFER // 2:
            _widen(handle, 2 * len(data))
        try:
            handle.send(data)
        except OSError as error:
            if error.errno == EPERM:
                raise _denied("change") from error
            raise RefusedError(error.errno or EMSGSIZE, None) from error
        _settle(_answers(handle), batch)
    finally:
        handle.close()


def _packed(batch: Sequence[Message], made_for: int | None) -> bytes:
    generic = _GENERIC.pack(_AF_UNSPEC, 0, _SUBSYSTEM)
    tied = b"" if made_for is None else attribute(_BATCH_GENERATION, be32(made_for))
    begin = generic + tied
    parts = [_HEADER.pack(_HEADER.size + len(begin), _BATCH_BEGIN, _REQUEST, 0, 0), begin]
    last = len(batch)
    for number, one in enumerate(batch, 1):
        # Each part of a message is padded to 4 bytes, so all of it is.
        flags = _REQUEST | one.flags | (number == last and _ACK)
        size = _HEADER.size + len(one.body)
        parts += (_HEADER.pack(size, _kind(one.kind), flags, number, 0), one.body)
    end = _HEADER.pack(_HEADER.size + len(generic), _BATCH_END, _REQUEST, last + 1, 0)
    return b"".join((*parts, end, generic))


def _widen(handle: socket, size: int) -> None:
    """Let a socket take messages of that size, as far as this process may."""
    try:
        handle.setsockopt(_SOL_SOCKET, _SO_SNDBUFFORCE, size)
    except OSError:
        handle.setsockopt(_SOL_SOCKET, _SO_SNDBUF, size)


def _answers(handle: socket) -> dict[int, int] | None:
    """Return the error number for each answered message, None where answers were lost.

    The kernel works while a batch is sent: all answers are there when that returns.
    """
    found: dict[int, int] = {}
    lost = False
    while True:
        try:
            data = handle.recv(_ROOM, _MSG_DONTWAIT)
        except BlockingIOError:
            return None if lost and not any(found.values()) else found
        except OSError as error:
            if error.errno != ENOBUFS:
                raise
            lost = True
            continue
        position = 0
        while position + _HEADER.size + _ERROR_BODY.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, position)
            if kind == _ERROR:
                number, *_, answered = _ERROR_BODY.unpack_from(data, position + _HEADER.size)
                found.setdefault(answered, -number)
            position += max(_HEADER.size, (length + 3) & ~3)


def _settle(answers: dict[int, int] | None, batch: Sequence[Message]) -> None:
    """Return if a batch was taken."""
    if answers is None:
        raise RefusedError(ENOBUFS, None)
    errors = {one: number for one, number in answers.items() if number}
    if ERESTART in errors.values() or EINTR in errors.values():
        raise MovedError
    if EPERM in errors.values() and min(errors) == 0:
        raise _denied("change")
    if errors:
        # Those behind the first may fail for the lack of what it would have made.
        first = min(errors)
        raise RefusedError(errors[first], batch[first - 1] if 0 < first <= len(batch) else None)
    if len(batch) not in answers:
        raise RefusedError(ENOBUFS, None)
