"""The expressions of a rule: written one by one, and read as statements.

The kernel runs a rule as a program: an expression loads a field of the packet
into a register, others change or compare what is there. ``statements`` follows
the registers, so that it does not matter which of them a program chose, or how
it laid out what it asks for.

What is written has the bytes that the kernel gives back, so that a rule which
this program wrote is known again without being taken apart.

Source: linux/netfilter/nf_tables.h, nft_*.c.
"""

from __future__ import annotations

from istio_init.formats.netlink import (
    attribute,
    be32,
    name_of,
    number,
    packed_name,
    read_attributes,
)
from istio_init.formats.nf_tables.messages import template_of
from istio_init.lean import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from typing import Literal

    Operator = Literal["==", "!=", "<", "<=", ">", ">="]
    Source = Literal["meta", "ct", "payload", "socket"]

# enum nft_meta_keys
META_MARK = 3
META_IIFNAME = 6
META_OIFNAME = 7
META_SKUID = 10
META_SKGID = 11
META_NFPROTO = 15
META_L4PROTO = 16
# enum nft_ct_keys
CT_STATE = 0
CT_MARK = 3
CT_ZONE = 17
# enum nft_payload_bases
NETWORK_HEADER = 1
TRANSPORT_HEADER = 2
# enum nft_socket_keys
SOCKET_TRANSPARENT = 0
SOCKET_WILDCARD = 2
# enum nft_reject_types, nft_reject_inet_code
REJECT_ICMP = 0
REJECT_ICMPX = 2
ICMPX_PORT_UNREACHABLE = 1
# enum nf_verdict, nft_verdicts
DROP = 0
ACCEPT = 1
JUMP = -3
GOTO = -4
RETURN = -5
# NF_NAT_RANGE_PROTO_SPECIFIED
NAT_PORTS = 2

_OPERATORS: tuple[Operator, ...] = ("==", "!=", "<", "<=", ">", ">=")
_NEGATED: dict[Operator, Operator] = {"==": "!=", "!=": "=="}

# The one register that is written: 16 bytes, the first behind the verdict's.
_REGISTER = be32(1)
_VERDICT_REGISTER = 0
# Registers of 16 bytes are numbered from 1 to 4, those of 4 bytes from 8 on; the
# first are the same memory as the second. Counted here in those of 4 bytes.
_FIRST_SHORT = 8
_SHORT_IN_LONG = 4
_WORD = 4
_IFNAME_SIZE = 16
_LONG_META = (META_IIFNAME, META_OIFNAME)

_LIST_ELEMENT = 1
_EXPR_NAME = 1
_EXPR_DATA = 2
_DATA_VALUE = 1
_DATA_VERDICT = 2
_VERDICT_CODE = 1
_VERDICT_CHAIN = 2

# The head of a counter as the kernel writes it; bytes and packets follow.
COUNTER_SIZE = 44
_COUNTER_HEAD = b"\x2c\0\x01\0\x0c\0\x01\0counter\0\x1c\0\x02\0"


class Operand(Record):
    """A field of the packet or its connection, as a register holds it.

    ``key`` is the kernel's number of a meta, ct or socket key, or the base of a
    payload, with ``offset`` and ``length`` in bytes. ``mask`` and ``flip`` are
    what the field was combined with by "and", then by exclusive "or"; empty for
    the field as it is. ``swapped`` says that a host integer was brought into
    network byte order.
    """

    source: Source
    key: int
    offset: int
    length: int
    mask: bytes
    flip: bytes
    swapped: bool


class Comparison(Record):
    """The rule goes on if a field compares as told with ``data``."""

    operand: Operand
    operator: Operator
    data: bytes


class RangeCheck(Record):
    """The rule goes on if a field is within two values, both included, or is not."""

    operand: Operand
    low: bytes
    high: bytes
    negated: bool


class SetLookup(Record):
    """The rule goes on if a set holds a field's value, or does not."""

    operand: Operand
    name: str
    negated: bool


class Assignment(Record):
    """A meta or ct key is set, to bytes or to what a register held."""

    source: Source
    key: int
    value: bytes | Operand


class Decision(Record):
    """A verdict; ``chain`` is where a jump or goto leads."""

    code: int
    chain: str


class XtMatch(Record):
    """A match of iptables, with the data that a legacy entry would hold."""

    name: str
    revision: int
    data: bytes


class XtTarget(Record):
    """A target of iptables, with the data that a legacy entry would hold."""

    name: str
    revision: int
    data: bytes


class LocalRedirect(Record):
    """The connection is redirected to a local port, where one is told in network byte order."""

    port: bytes


class LocalProxy(Record):
    """tproxy: the packet goes to a local transparent socket; ``family`` is a kernel number."""

    family: int
    port: bytes


class Rejection(Record):
    """The packet is discarded and answered."""

    kind: int
    code: int


class Report(Record):
    """The packet is sent to an NFLOG group; ``size`` is how much of it in bytes, 0 for all."""

    group: int
    prefix: str
    size: int
    threshold: int


class Opaque(Record):
    """An expression that is not followed; ``name`` is what the kernel calls it."""

    name: str


Statement = (
    Comparison
    | RangeCheck
    | SetLookup
    | Assignment
    | Decision
    | XtMatch
    | XtTarget
    | LocalRedirect
    | LocalProxy
    | Rejection
    | Report
    | Opaque
)


# Writing.


def expression(name: str, *given: bytes) -> bytes:
    """Return one element of a rule's list of expressions."""
    body = attribute(_EXPR_NAME, packed_name(name)) + attribute(_EXPR_DATA, b"".join(given))
    return attribute(_LIST_ELEMENT, body)


COUNTER = expression("counter", attribute(1, bytes(8)), attribute(2, bytes(8)))


def meta(key: int) -> bytes:
    """Return what loads a meta key."""
    return expression("meta", attribute(2, be32(key)), attribute(1, _REGISTER))


def set_meta(key: int) -> bytes:
    """Return what sets a meta key to what was loaded."""
    return expression("meta", attribute(2, be32(key)), attribute(3, _REGISTER))


def ct(key: int) -> bytes:
    """Return what loads a key of the connection."""
    return expression("ct", attribute(1, _REGISTER), attribute(2, be32(key)))


def set_ct(key: int) -> bytes:
    """Return what sets a key of the connection to what was loaded."""
    return expression("ct", attribute(4, _REGISTER), attribute(2, be32(key)))


def payload(base: int, offset: int, length: int) -> bytes:
    """Return what loads bytes of a header."""
    numbers = (attribute(kind, be32(one)) for kind, one in enumerate((base, offset, length), 2))
    return expression("payload", attribute(1, _REGISTER), *numbers)


def socket(key: int) -> bytes:
    """Return what loads a property of the socket that waits for the packet."""
    return expression("socket", attribute(1, be32(key)), attribute(2, _REGISTER))


def immediate(data: bytes) -> bytes:
    """Return what loads a constant."""
    return expression("immediate", attribute(1, _REGISTER), attribute(2, _value(data)))


def masked(mask: bytes, flip: bytes = b"") -> bytes:
    """Return what combines the register with ``mask`` by "and", then with ``flip``."""
    return expression(
        "bitwise",
        attribute(1, _REGISTER),
        attribute(2, _REGISTER),
        attribute(3, be32(len(mask))),
        attribute(6, be32(0)),
        attribute(4, _value(mask)),
        attribute(5, _value(flip or bytes(len(mask)))),
    )


def network_order(length: int) -> bytes:
    """Return what brings a host integer of ``length`` bytes into network byte order."""
    numbers = (attribute(3, be32(1)), attribute(4, be32(length)), attribute(5, be32(length)))
    return expression("byteorder", attribute(1, _REGISTER), attribute(2, _REGISTER), *numbers)


def compare(operator: Operator, data: bytes) -> bytes:
    """Return what compares the register with a constant."""
    code = be32(_OPERATORS.index(operator))
    return expression(
        "cmp", attribute(1, _REGISTER), attribute(2, code), attribute(3, _value(data))
    )


def within(low: bytes, high: bytes, *, negated: bool) -> bytes:
    """Return what compares the register with a range."""
    ends = attribute(3, _value(low)) + attribute(4, _value(high))
    return expression("range", attribute(1, _REGISTER), attribute(2, be32(negated)), ends)


def lookup(name: str, *, negated: bool) -> bytes:
    """Return what looks the register up in a set."""
    set_name = attribute(1, packed_name(name))
    return expression("lookup", set_name, attribute(2, _REGISTER), attribute(5, be32(negated)))


def verdict(code: int, chain: str = "") -> bytes:
    """Return what decides, or leads to a chain."""
    given = attribute(_VERDICT_CODE, code.to_bytes(4, "big", signed=True))
    if chain:
        given += attribute(_VERDICT_CHAIN, packed_name(chain))
    return expression(
        "immediate", attribute(1, be32(_VERDICT_REGISTER)), attribute(2, attribute(2, given))
    )


def xt_match(name: str, revision: int, data: bytes) -> bytes:
    """Return a match of iptables; ``data`` is aligned as in a legacy entry."""
    return _xt("match", name, revision, data)


def xt_target(name: str, revision: int, data: bytes) -> bytes:
    """Return a target of iptables; ``data`` is aligned as in a legacy entry."""
    return _xt("target", name, revision, data)


def _xt(kind: str, name: str, revision: int, data: bytes) -> bytes:
    given = attribute(1, packed_name(name)), attribute(2, be32(revision)), attribute(3, data)
    return expression(kind, *given)


def redirect(port: int) -> bytes:
    """Return what redirects the connection to a local port."""
    ends = attribute(1, _REGISTER) + attribute(2, _REGISTER)
    to_port = expression("redir", ends, attribute(3, be32(NAT_PORTS)))
    return immediate(port.to_bytes(2, "big")) + to_port


def tproxy(family: int, port: int) -> bytes:
    """Return what gives the packet to a local transparent socket on ``port``."""
    to_port = expression("tproxy", attribute(1, be32(family)), attribute(3, _REGISTER))
    return immediate(port.to_bytes(2, "big")) + to_port


def reject(kind: int, code: int) -> bytes:
    """Return what discards the packet and answers."""
    return expression("reject", attribute(1, be32(kind)), attribute(2, bytes((code,))))


def _value(data: bytes) -> bytes:
    return attribute(_DATA_VALUE, data)


# Reading.


def without_counts(expressions: bytes) -> bytes:
    """Return a rule's expressions with its counters at zero, so that they can be compared.

    Raises:
        ValueError: the bytes are no list of attributes.
    """
    start = expressions.find(_COUNTER_HEAD)
    if start < 0:
        return expressions
    # As a rule there is one, behind everything of variable length but the verdict.
    found = bytearray(expressions)
    position = 0
    for _, value in read_attributes(expressions):
        if expressions.startswith(_COUNTER_HEAD, position):
            found[position + 24 : position + COUNTER_SIZE] = COUNTER[24:]
        position += 4 + len(value) + (-len(value) & 3)
    return bytes(found)


# Where expressions name a set: the numbers of its name's attribute, and its number's.
_SET_NAMES = {"lookup": (1, 4), "dynset": (1, 2), "objref": (4, 5)}


def with_set_numbers(expressions: bytes, numbers: dict[str, int]) -> bytes:
    """Return expressions that find sets without a name by their numbers in a batch.

    Raises:
        ValueError: the bytes are no list of attributes.
    """
    found = []
    for kind, value in read_attributes(expressions):
        outer = dict(read_attributes(value))
        place = _SET_NAMES.get(name_of(outer.get(_EXPR_NAME, b"")))
        given = dict(read_attributes(outer.get(_EXPR_DATA, b""))) if place else {}
        name = name_of(given.get(place[0], b"")) if place else ""
        if place is not None and name in numbers:
            given[place[0]] = packed_name(template_of(name))
            given[place[1]] = be32(numbers[name])
            outer[_EXPR_DATA] = b"".join(attribute(*one) for one in given.items())
        found.append(attribute(kind, b"".join(attribute(*one) for one in outer.items())))
    return b"".join(found)


class Reader:
    """Reads rules as statements; expressions that many rules have in common are read once."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[object, ...]] = {}

    def statements(self, expressions: bytes) -> tuple[Statement, ...]:
        """Return what a rule asks for and does; counters, which do neither, are left out.

        Whatever the bytes are, this returns: what it cannot follow is ``Opaque``.
        """
        machine = _Machine()
        known = self._known
        try:
            for _, value in read_attributes(expressions):
                operation = known.get(value)
                if operation is None:
                    operation = _operation(value)
                    if len(known) < _MOST_KNOWN:
                        known[value] = operation
                machine.run(operation)
        except ValueError:
            machine.found.append(Opaque("?"))
        return tuple(machine.found)


# An expression takes about 1 kB here.
_MOST_KNOWN = 4096


class _Machine:
    """The registers while a rule is followed, and the statements so far."""

    def __init__(self) -> None:
        self.found: list[Statement] = []
        # By the number of its first 4 bytes: what a register holds, and how many
        # times 4 bytes.
        self._registers: dict[int, tuple[Operand | bytes, int]] = {}

    def run(self, operation: tuple[object, ...]) -> None:
        """Follow one expression."""
        action, *given = operation
        action(self, *given)  # type: ignore[operator]

    def load(self, register: int, value: Operand | bytes, size: int) -> None:
        """Put something into a register; what it overwrites is known no more."""
        registers = self._registers
        for other, (_, length) in tuple(registers.items()):
            if other < register + size and register < other + length:
                del registers[other]
        registers[register] = value, size

    def value(self, register: int) -> Operand | bytes | None:
        """Return what a register holds, None where that is not known."""
        held = self._registers.get(register)
        return held[0] if held else None

    def operand(self, register: int, length: int) -> Operand | None:
        """Return the field that a register holds in its first ``length`` bytes."""
        held = self.value(register)
        if not isinstance(held, Operand):
            return None
        if held.length == length:
            return held
        # An interface name is compared up to a wildcard.
        shorter = held.source == "meta" and held.key in _LONG_META and not held.mask
        return held if shorter and length < held.length else None

    def lose(self, name: str) -> None:
        """Note an expression that is not followed: what registers hold is not known any more."""
        self._registers.clear()
        self.found.append(Opaque(name))


def _operation(value: bytes) -> tuple[object, ...]:
    """Return what an expression does, as a method of the machine and what it is given."""
    name = "?"
    try:
        outer = dict(read_attributes(value))
        name = name_of(outer[_EXPR_NAME])
        reader = _READERS.get(name)
        if reader is not None:
            return reader(dict(read_attributes(outer.get(_EXPR_DATA, b""))))
    except (ValueError, KeyError, IndexError):
        # Not as any kernel writes it that this program knows.
        pass
    return _Machine.lose, name


def _register(value: bytes) -> int:
    """Return the number of a register's first 4 bytes."""
    found = number(value)
    if found == _VERDICT_REGISTER:
        raise ValueError("a register for data")
    return found if found >= _FIRST_SHORT else _FIRST_SHORT + (found - 1) * _SHORT_IN_LONG


def _words(length: int) -> int:
    return (length + _WORD - 1) // _WORD


def _read_meta(given: dict[int, bytes]) -> tuple[object, ...]:
    key = number(given[2])
    if 3 in given:
        return _assign, _register(given[3]), "meta", key
    length = _IFNAME_SIZE if key in _LONG_META else _WORD
    # A protocol is one byte of its register.
    compared = 1 if key in (META_NFPROTO, META_L4PROTO) else length
    operand = Operand("meta", key, 0, compared, b"", b"", False)  # noqa: FBT003 - for speed
    return _Machine.load, _register(given[1]), operand, _words(length)


def _read_ct(given: dict[int, bytes]) -> tuple[object, ...]:
    key = number(given[2])
    if 4 in given:
        if 3 in given:
            raise ValueError("no direction")
        return _assign, _register(given[4]), "ct", key
    if 3 in given or key not in (CT_STATE, CT_MARK):
        raise ValueError("a key of 4 bytes")
    operand = Operand("ct", key, 0, _WORD, b"", b"", False)  # noqa: FBT003
    return _Machine.load, _register(given[1]), operand, 1


def _read_payload(given: dict[int, bytes]) -> tuple[object, ...]:
    base, offset, length = (number(given[kind]) for kind in (2, 3, 4))
    operand = Operand("payload", base, offset, length, b"", b"", False)  # noqa: FBT003
    return _Machine.load, _register(given[1]), operand, _words(length)


def _read_socket(given: dict[int, bytes]) -> tuple[object, ...]:
    key = number(given[1])
    if key not in (SOCKET_TRANSPARENT, SOCKET_WILDCARD):
        raise ValueError("a key of one byte")
    operand = Operand("socket", key, 0, 1, b"", b"", False)  # noqa: FBT003
    return _Machine.load, _register(given[2]), operand, 1


def _read_immediate(given: dict[int, bytes]) -> tuple[object, ...]:
    data = dict(read_attributes(given[2]))
    if number(given[1]) == _VERDICT_REGISTER:
        decided = dict(read_attributes(data[_DATA_VERDICT]))
        code = int.from_bytes(decided[_VERDICT_CODE], "big", signed=True)
        return _state, Decision(code, name_of(decided.get(_VERDICT_CHAIN, b"")))
    constant = data[_DATA_VALUE]
    return _Machine.load, _register(given[1]), constant, _words(len(constant))


def _read_bitwise(given: dict[int, bytes]) -> tuple[object, ...]:
    if number(given.get(6, b"")):
        raise ValueError("no shift")
    return _combine, _register(given[1]), _register(given[2]), _data(given[4]), _data(given[5])


def _read_byteorder(given: dict[int, bytes]) -> tuple[object, ...]:
    length, size = number(given[4]), number(given[5])
    if number(given[3]) not in (0, 1) or length != size:
        raise ValueError("one number")
    return _swap, _register(given[1]), _register(given[2]), length


def _read_cmp(given: dict[int, bytes]) -> tuple[object, ...]:
    return _compare, _register(given[1]), _OPERATORS[number(given[2])], _data(given[3])


def _read_range(given: dict[int, bytes]) -> tuple[object, ...]:
    negated = (False, True)[number(given[2])]
    return _range, _register(given[1]), _data(given[3]), _data(given[4]), negated


def _read_lookup(given: dict[int, bytes]) -> tuple[object, ...]:
    if 3 in given:
        raise ValueError("a set, no map")
    negated = (False, True)[number(given.get(5, b""))]
    return _lookup, _register(given[2]), name_of(given[1]), negated


def _read_counter(_given: dict[int, bytes]) -> tuple[object, ...]:
    return (_nothing,)


def _read_match(given: dict[int, bytes]) -> tuple[object, ...]:
    return _state, XtMatch(name_of(given[1]), number(given[2]), given.get(3, b""))


def _read_target(given: dict[int, bytes]) -> tuple[object, ...]:
    return _state, XtTarget(name_of(given[1]), number(given[2]), given.get(3, b""))


def _read_redir(given: dict[int, bytes]) -> tuple[object, ...]:
    if not given:
        return _state, LocalRedirect(b"")
    if given.get(2, given[1]) != given[1] or number(given[3]) != NAT_PORTS:
        raise ValueError("one port")
    return _redirect, _register(given[1])


def _read_tproxy(given: dict[int, bytes]) -> tuple[object, ...]:
    if 2 in given:
        raise ValueError("a port alone")
    return _tproxy, number(given[1]), _register(given[3])


def _read_reject(given: dict[int, bytes]) -> tuple[object, ...]:
    return _state, Rejection(number(given[1]), number(given.get(2, b"")))


def _read_log(given: dict[int, bytes]) -> tuple[object, ...]:
    # Without a group the kernel's own log is meant.
    size, threshold = given.get(3, b""), given.get(4, b"")
    report = Report(number(given[1]), name_of(given.get(2, b"")), number(size), number(threshold))
    return _state, report


_READERS = {
    "meta": _read_meta,
    "ct": _read_ct,
    "payload": _read_payload,
    "socket": _read_socket,
    "immediate": _read_immediate,
    "bitwise": _read_bitwise,
    "byteorder": _read_byteorder,
    "cmp": _read_cmp,
    "range": _read_range,
    "lookup": _read_lookup,
    "counter": _read_counter,
    "match": _read_match,
    "target": _read_target,
    "redir": _read_redir,
    "tproxy": _read_tproxy,
    "reject": _read_reject,
    "log": _read_log,
}


def _data(given: bytes) -> bytes:
    return dict(read_attributes(given))[_DATA_VALUE]


# What an operation does with the machine.


def _nothing(_machine: _Machine) -> None:
    pass


def _state(machine: _Machine, statement: Statement) -> None:
    machine.found.append(statement)


def _assign(machine: _Machine, register: int, source: Source, key: int) -> None:
    value = machine.value(register)
    if value is None:
        machine.lose(source)
    else:
        machine.found.append(Assignment(source, key, value))


def _combine(machine: _Machine, register: int, to: int, mask: bytes, flip: bytes) -> None:
    held = machine.operand(register, len(mask))
    if held is None or held.swapped or len(mask) != len(flip):
        machine.lose("bitwise")
        return
    if held.mask:
        # (x & a ^ b) & c ^ d is x & (a & c) ^ (b & c ^ d).
        both = number(held.mask) & number(mask), number(held.flip) & number(mask) ^ number(flip)
        mask, flip = (one.to_bytes(len(mask), "big") for one in both)
    changed = Operand(
        held.source,
        held.key,
        held.offset,
        held.length,
        mask,
        flip,
        False,  # noqa: FBT003
    )
    machine.load(to, changed, _words(len(mask)))


def _swap(machine: _Machine, register: int, to: int, length: int) -> None:
    held = machine.operand(register, length)
    if held is None or held.mask or held.source == "payload":
        machine.lose("byteorder")
    else:
        machine.load(to, held.replace(swapped=not held.swapped), _words(length))


def _compare(machine: _Machine, register: int, operator: Operator, data: bytes) -> None:
    operand = machine.operand(register, len(data))
    if operand is None:
        machine.lose("cmp")
        return
    found = machine.found
    before = found[-1] if found else None
    if (
        operator == "<="
        and isinstance(before, Comparison)
        and before.operator == ">="
        and before.operand == operand
        and len(before.data) == len(data)
    ):
        # Two comparisons are how older programs write a range.
        found[-1] = RangeCheck(operand, before.data, data, False)  # noqa: FBT003
    else:
        found.append(Comparison(operand, operator, data))


def _range(machine: _Machine, register: int, low: bytes, high: bytes, negated: bool) -> None:  # noqa: FBT001
    operand = machine.operand(register, len(low))
    if operand is None or len(low) != len(high):
        machine.lose("range")
    else:
        machine.found.append(RangeCheck(operand, low, high, negated))


def _lookup(machine: _Machine, register: int, name: str, negated: bool) -> None:  # noqa: FBT001
    held = machine.value(register)
    if isinstance(held, Operand):
        machine.found.append(SetLookup(held, name, negated))
    else:
        machine.lose("lookup")


def _redirect(machine: _Machine, register: int) -> None:
    port = machine.value(register)
    if isinstance(port, bytes):
        machine.found.append(LocalRedirect(port))
    else:
        machine.lose("redir")


def _tproxy(machine: _Machine, family: int, register: int) -> None:
    port = machine.value(register)
    if isinstance(port, bytes):
        machine.found.append(LocalProxy(family, port))
    else:
        machine.lose("tproxy")
