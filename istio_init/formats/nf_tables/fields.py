"""What statements ask for and do, as the matches and targets of the model.

iptables-nft and nft look at the same fields of a packet; what only one of them
writes stands in the modules ``iptables`` and ``native``.
"""

from __future__ import annotations

from _struct import Struct

from istio_init.formats.nf_tables import expressions as e
from istio_init.lean import TYPE_CHECKING
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.ranges import FULL_MASK, IPV4, IPV6, IdRange, Network, PortRange

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from istio_init.formats.nf_tables.expressions import Operand, Statement
    from istio_init.rules.ranges import Family, Protocol

# The kernel's numbers.
NFPROTO = {IPV4: 2, IPV6: 10}
PROTOCOLS: dict[Protocol, int] = {"tcp": 6, "udp": 17}
_PROTOCOL_NAMES: dict[int, Protocol] = {6: "tcp", 17: "udp"}
# Where the addresses stand in the network header, and how long they are.
SOURCE_OFFSET = {IPV4: 12, IPV6: 8}
DESTINATION_OFFSET = {IPV4: 16, IPV6: 24}
ADDRESS_SIZE = {IPV4: 4, IPV6: 16}
_IPV4_PROTOCOL_OFFSET = 9
PORT_OFFSET: dict[m.Side, int] = {"sport": 0, "dport": 2}
_SIDES: dict[int, m.Side] = {0: "sport", 2: "dport"}
PORT_SIZE = 2

WORD = Struct("=I")
NO_MARK = bytes(4)
_EXACT = ("==", "!=")

_DECISIONS: dict[int, t.Target] = {
    e.ACCEPT: t.Accept(),
    e.DROP: t.Drop(),
    e.RETURN: t.Return(),
}
_PORT_UNREACHABLE = {IPV4: 3, IPV6: 4}
_META_MARK = e.Operand("meta", e.META_MARK, 0, 4, b"", b"", False)  # noqa: FBT003
_CT_MARK = e.Operand("ct", e.CT_MARK, 0, 4, b"", b"", False)  # noqa: FBT003


def interface_data(name: str) -> bytes:
    """Return an interface name as it is compared: up to a wildcard, or with its final zero."""
    raw = name.encode()
    return raw[:-1] if name.endswith("+") else raw + b"\0"


def network_mask(network: Network) -> bytes:
    """Return the mask of a range's addresses."""
    bits = 8 * len(network.packed)
    return ((1 << bits) - (1 << (bits - network.prefix))).to_bytes(bits // 8, "big")


def apart(statement: Statement, family: Family | None) -> tuple[Statement, ...]:
    """Return the comparisons of one field each that nft merged into one of several.

    ``family`` is whose addresses stand in the network header, None where that is
    not known.
    """
    if not isinstance(statement, e.Comparison) or statement.operator != "==":
        return (statement,)
    operand = statement.operand
    if operand.source != "payload" or operand.mask:
        return (statement,)
    size = 0
    if operand.key == e.TRANSPORT_HEADER and operand.offset == 0:
        size = PORT_SIZE
    elif family and operand.key == e.NETWORK_HEADER and operand.offset == SOURCE_OFFSET[family]:
        size = ADDRESS_SIZE[family]
    if not size or operand.length != 2 * size:
        return (statement,)
    return tuple(
        e.Comparison(
            operand.replace(offset=operand.offset + start, length=size),
            "==",
            statement.data[start : start + size],
        )
        for start in (0, size)
    )


def match_of(statement: Statement, family: Family | None, protocol: Protocol | None) -> m.Match:
    """Return what a statement asks of one packet.

    ``protocol`` is what the rule asked for before, for ports say nothing without.

    Raises:
        ValueError: the model has no such match.
    """
    if isinstance(statement, e.Comparison):
        return _compared(statement, family, protocol)
    if isinstance(statement, e.RangeCheck):
        return _ranged(statement, protocol)
    raise ValueError("a comparison")


def _compared(statement: e.Comparison, family: Family | None, protocol: Protocol | None) -> m.Match:
    operand, data = statement.operand, statement.data
    if statement.operator not in _EXACT:
        raise ValueError("equal or not")
    negated = statement.operator == "!="
    match operand.source, operand.key:
        case "payload", e.NETWORK_HEADER:
            return _in_header(operand, data, family, negated=negated)
        case "payload", e.TRANSPORT_HEADER:
            port = int.from_bytes(data, "big")
            return _ports(operand, port, port, protocol, negated=negated)
        case "meta", (e.META_IIFNAME | e.META_OIFNAME) if not operand.mask:
            kind = m.InInterface if operand.key == e.META_IIFNAME else m.OutInterface
            return kind(_interface(data), negated)
        case "meta", e.META_L4PROTO if not operand.mask:
            return m.Proto(_protocol(data), negated)
        case "meta", e.META_MARK if not _flipped(operand):
            return m.Mark(_host_number(data), _mask(operand), negated)
        case "meta", (e.META_SKUID | e.META_SKGID) if not operand.mask:
            value = int.from_bytes(data, "big") if operand.swapped else _host_number(data)
            return m.Owner(_owned(operand), IdRange(value, value), negated)
        case "ct", e.CT_MARK if not _flipped(operand):
            return m.ConnMark(_host_number(data), _mask(operand), negated)
        case "ct", e.CT_STATE if operand.mask and not _flipped(operand) and data == NO_MARK:
            return _ct_state(_mask(operand), negated=not negated)
        case _:
            raise ValueError("a field that the model has")


def _ranged(statement: e.RangeCheck, protocol: Protocol | None) -> m.Match:
    operand = statement.operand
    low, high = (int.from_bytes(one, "big") for one in (statement.low, statement.high))
    if low > high:
        raise ValueError("a range that holds something")
    if operand.source == "payload" and operand.key == e.TRANSPORT_HEADER:
        return _ports(operand, low, high, protocol, negated=statement.negated)
    if operand.source == "meta" and operand.swapped:
        return m.Owner(_owned(operand), IdRange(low, high), statement.negated)
    raise ValueError("ports or ids")


def _in_header(operand: Operand, data: bytes, family: Family | None, *, negated: bool) -> m.Match:
    offset, length = operand.offset, operand.length
    if family == IPV4 and (offset, length) == (_IPV4_PROTOCOL_OFFSET, 1) and not operand.mask:
        return m.Proto(_protocol(data), negated)
    if family is None or not 0 < length <= ADDRESS_SIZE[family]:
        raise ValueError("an address")
    network = _network(operand, data, family)
    if offset == SOURCE_OFFSET[family]:
        return m.Source(network, negated)
    if offset == DESTINATION_OFFSET[family]:
        return m.Destination(network, negated)
    raise ValueError("an address")


def _network(operand: Operand, data: bytes, family: Family) -> Network:
    size = ADDRESS_SIZE[family]
    # Bytes that a prefix leaves out need not be loaded at all.
    packed = data + bytes(size - len(data))
    if not operand.mask:
        return Network(family, packed, 8 * len(data))
    mask = int.from_bytes(operand.mask, "big") << 8 * (size - len(data))
    prefix = mask.bit_count()
    found = Network(family, packed, prefix)
    if _flipped(operand) or int.from_bytes(network_mask(found), "big") != mask:
        raise ValueError("a prefix")
    if int.from_bytes(packed, "big") & ~mask:
        raise ValueError("a range with addresses")
    return found


def _ports(
    operand: Operand, low: int, high: int, protocol: Protocol | None, *, negated: bool
) -> m.Match:
    side = _SIDES.get(operand.offset)
    if side is None or operand.length != PORT_SIZE or operand.mask or protocol is None:
        raise ValueError("a port of a protocol")
    if not low:
        raise ValueError("ports from 1")
    return m.Ports(protocol, side, PortRange(low, high), negated)


def _interface(data: bytes) -> str:
    raw, zero, _ = data.partition(b"\0")
    name = raw.decode()
    if not name or (zero and name.endswith("+")):
        raise ValueError("an interface that the model can name")
    return name if zero else f"{name}+"


def _protocol(data: bytes) -> Protocol:
    found = _PROTOCOL_NAMES.get(data[0]) if len(data) == 1 else None
    if found is None:
        raise ValueError("tcp or udp")
    return found


def _owned(operand: Operand) -> m.Owned:
    if operand.key == e.META_SKUID:
        return "uid"
    if operand.key == e.META_SKGID:
        return "gid"
    raise ValueError("a user or a group")


def _flipped(operand: Operand) -> bool:
    return any(operand.flip)


def _mask(operand: Operand) -> int:
    return _host_number(operand.mask) if operand.mask else FULL_MASK


def _host_number(data: bytes) -> int:
    if len(data) != WORD.size:
        raise ValueError("a number of 32 bits")
    return int(WORD.unpack(data)[0])


def _ct_state(bits: int, *, negated: bool) -> m.CtState:
    states = tuple(state for state, bit in m.CT_STATES.items() if bits & bit)
    if sum(m.CT_STATES[state] for state in states) != bits:
        raise ValueError("conntrack states")
    return m.CtState(states, "conntrack", negated)


def target_of(statements: Sequence[Statement], families: Sequence[Family]) -> t.Target:
    """Return what the last statements of a rule do; jumps lead to the chain as it is called.

    ``families`` are those of the packets that get there.

    Raises:
        ValueError: the model has no such target.
    """
    match statements:
        case [e.Decision(code, chain)]:
            if code == e.JUMP:
                return t.Jump(chain)
            if code in _DECISIONS:
                return _DECISIONS[code]
        case [e.LocalRedirect(port)] if port:
            return t.Redirect(int.from_bytes(port, "big"))
        case [e.Rejection(kind, code)] if _is_port_unreachable(kind, code, families):
            return t.Reject()
        case [e.Assignment(source, key, value)]:
            return _assigned(source, key, value)
        case [
            e.LocalProxy(family, port),
            e.Assignment("meta", e.META_MARK, value),
            e.Decision(e.ACCEPT, _),
        ] if [NFPROTO[one] for one in families] == [family]:
            flip, mask = _made_of_mark(value)
            return t.Tproxy(int.from_bytes(port, "big"), flip, mask)
        case _:
            pass
    raise ValueError("a target that the model has")


def _is_port_unreachable(kind: int, code: int, families: Sequence[Family]) -> bool:
    if kind == e.REJECT_ICMPX:
        return code == e.ICMPX_PORT_UNREACHABLE
    return kind == e.REJECT_ICMP and all(_PORT_UNREACHABLE[one] == code for one in families)


def _assigned(source: e.Source, key: int, value: bytes | Operand) -> t.Target:
    if (source, key) == ("ct", e.CT_ZONE) and isinstance(value, bytes):
        (zone,) = _ZONE.unpack(value) if len(value) == _ZONE.size else (0,)
        if zone:
            return t.CtZone(zone)
    elif (source, key, value) == ("ct", e.CT_MARK, _META_MARK):
        return t.SaveMark()
    elif (source, key, value) == ("meta", e.META_MARK, _CT_MARK):
        return t.RestoreMark()
    elif (source, key) == ("meta", e.META_MARK):
        return t.SetMark(*_made_of_mark(value))
    raise ValueError("a key that the model sets")


_ZONE = Struct("=H")


def zone_data(zone: int) -> bytes:
    """Return a conntrack zone as its key takes it."""
    return _ZONE.pack(zone)


def _made_of_mark(value: bytes | Operand) -> tuple[int, int]:
    """Return a new mark made of the old one as value and mask of MARK --set-xmark."""
    if isinstance(value, bytes):
        return _host_number(value), FULL_MASK
    if value.replace(mask=b"", flip=b"") != _META_MARK:
        raise ValueError("the packet's own mark")
    return _host_number(value.flip or NO_MARK), _mask(value) ^ FULL_MASK


def protocol_of(matches: Sequence[m.Match]) -> Protocol | None:
    """Return the one protocol that matches ask for."""
    for one in matches:
        if isinstance(one, m.Proto) and not one.negated:
            return one.name
    return None


def comparisons(statements: Sequence[Statement]) -> Iterator[Statement]:
    """Yield the statements before the first that does something."""
    for one in statements:
        if not isinstance(one, e.Comparison | e.RangeCheck | e.SetLookup | e.XtMatch):
            return
        yield one
