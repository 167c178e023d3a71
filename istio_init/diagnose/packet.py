"""A packet as rules look at it, and what each match says of it.

A match is true, false or, where it asks for something that is not known of the
packet, neither. What is then taken for true is kept: later matches that ask for
the same are answered from it.

Sources: linux/net/netfilter, xt_owner.c, xt_connmark.c, xt_multiport.c and
nft_meta.c.
"""

from __future__ import annotations

from _socket import inet_ntop

from istio_init.formats.iptables import match_negated
from istio_init.lean import TYPE_CHECKING, Record, assert_never
from istio_init.rules import matches as m
from istio_init.rules.names import LOOPBACK_IPV6
from istio_init.rules.ranges import ADDRESS_FAMILY, IPV4
from istio_init.rules.sets import joined

if TYPE_CHECKING:
    from typing import Literal

    from istio_init.rules.ranges import Family, Network
    from istio_init.rules.sets import Span

    # None where it depends on something that is not known.
    Truth = bool | None
    Hook = Literal["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]
    ConntrackState = Literal["NEW", "ESTABLISHED", "RELATED", "INVALID"]

LO = "lo"

_PORT_PROTOCOLS = ("tcp", "udp")
# Every id and every port lies in here.
_ANYTHING = ((0, 0xFFFFFFFF),)


class Packet(Record):
    """One packet as it enters the first hook, ``OUTPUT`` or ``PREROUTING``.

    Addresses are packed; ports, ids and marks are host integers. None stands for
    what is not known. ``protocol`` is a name as iptables prints it. Interfaces
    are ``""`` where the packet has none. ``owned`` says that a local socket sends
    it, ``connmark`` is the mark of its connection, ``zone`` the conntrack zone
    that was chosen for it, and ``socket`` whether a socket bound to its very
    destination is waiting for it.
    """

    family: Family
    hook: Hook
    protocol: str
    source: bytes | None
    destination: bytes | None
    sport: int | None = None
    dport: int | None = None
    iif: str | None = ""
    oif: str | None = ""
    owned: bool = True
    uid: int | None = None
    gid: int | None = None
    mark: int | None = 0
    connmark: int | None = 0
    state: ConntrackState = "NEW"
    zone: int = 0
    socket: bool | None = None


class Assumed(Record):
    """What is taken for true of a packet, as far as rules look at it.

    ``spans`` holds the users, groups or ports that are still possible, ``facts``
    other matches, not negated, and whether they are taken to hold.
    """

    spans: tuple[tuple[str, tuple[Span, ...]], ...] = ()
    facts: frozenset[tuple[m.Match, bool]] = frozenset()


NOTHING = Assumed()


def taken_for(match: m.Match, assumed: Assumed) -> Truth:
    """Return what has been assumed of a match, None if nothing."""
    negated = match_negated(match)
    numbers = _numbers(match)
    if numbers is None:
        for truth in (True, False):
            if (_positive(match), truth) in assumed.facts:
                return truth != negated
        return None
    field, spans = numbers
    possible = dict(assumed.spans).get(field, _ANYTHING)
    within = _meet(possible, spans)
    if within and within != possible:
        return None
    return bool(within) != negated


def assume(assumed: Assumed, match: m.Match, *, holds: bool) -> Assumed:
    """Return what is assumed with this match taken to hold, or not to."""
    inside = holds != match_negated(match)
    numbers = _numbers(match)
    if numbers is None:
        return assumed.replace(facts=assumed.facts | {(_positive(match), inside)})
    field, spans = numbers
    possible = dict(assumed.spans)
    kept = spans if inside else _gaps(spans)
    possible[field] = _meet(possible.get(field, _ANYTHING), kept)
    return assumed.replace(spans=tuple(sorted(possible.items())))


def _numbers(match: m.Match) -> tuple[str, tuple[Span, ...]] | None:
    """Return the field and the values of a match on numbers."""
    match match:
        case m.Owner():
            return match.kind, ((match.ids.low, match.ids.high),)
        case m.Ports():
            return match.side, ((match.ports.low, match.ports.high),)
        case m.MultiPorts():
            return match.side, joined((one.low, one.high) for one in match.ports)
        case _:
            return None


def _meet(some: tuple[Span, ...], others: tuple[Span, ...]) -> tuple[Span, ...]:
    both = ((max(a, c), min(b, d)) for a, b in some for c, d in others)
    return tuple(sorted((low, high) for low, high in both if low <= high))


def _gaps(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    """Return the values that are in none of the spans."""
    start, end = _ANYTHING[0]
    gaps = []
    for low, high in spans:
        gaps.append((start, low - 1))
        start = high + 1
    return tuple((low, high) for low, high in (*gaps, (start, end)) if low <= high)


def _positive(match: m.Match) -> m.Match:
    return match if isinstance(match, m.Socket) else match.replace(negated=False)


def holds(match: m.Match, packet: Packet, *, native: bool = False) -> Truth:
    """Return whether one match holds for a packet; ``native`` as tables of nft's own have it."""
    match match:
        case m.Source():
            return _flipped(_within(packet.source, match.network), match.negated)
        case m.Destination():
            inside = _within(packet.destination, match.network)
            if (
                inside is None
                and is_loopback(match.network.family, match.network.packed)
                and packet.iif not in ("", None, LO)
            ):
                # The kernel takes no such packet from any other interface.
                inside = False
            return _flipped(inside, match.negated)
        case m.InInterface():
            return _flipped(_named(packet.iif, match.name), match.negated)
        case m.OutInterface():
            return _flipped(_named(packet.oif, match.name), match.negated)
        case m.Proto():
            return (packet.protocol == match.name) != match.negated
        case m.Ports():
            if packet.protocol != match.protocol:
                return False
            number = packet.sport if match.side == "sport" else packet.dport
            return _flipped(_between(number, match.ports.low, match.ports.high), match.negated)
        case m.MultiPorts():
            if packet.protocol not in _PORT_PROTOCOLS:
                return False
            number = packet.sport if match.side == "sport" else packet.dport
            if number is None:
                return None
            return any(one.low <= number <= one.high for one in match.ports) != match.negated
        case m.Owner():
            if not packet.owned:
                # Where there is no socket nft does not compare at all.
                return match.negated and not native
            owner = packet.uid if match.kind == "uid" else packet.gid
            return _flipped(_between(owner, match.ids.low, match.ids.high), match.negated)
        case m.CtState():
            return (packet.state in match.states) != match.negated
        case m.Mark():
            return _flipped(_masked(packet.mark, match.mask, match.value), match.negated)
        case m.ConnMark():
            if packet.state == "INVALID":
                return False
            return _flipped(_masked(packet.connmark, match.mask, match.value), match.negated)
        case m.Socket():
            return packet.socket
        case _:
            assert_never(match)


def actual(match: m.Match, packet: Packet) -> str:
    """Return what a packet has where a match looks, as part of a sentence."""
    match match:
        case m.Source():
            return f"it comes from {address(packet.family, packet.source)}"
        case m.Destination():
            return f"it goes to {address(packet.family, packet.destination)}"
        case m.InInterface():
            return f"it came in by {_interface(packet.iif)}"
        case m.OutInterface():
            return f"it leaves by {_interface(packet.oif)}"
        case m.Proto():
            return f"it is {packet.protocol}"
        case m.Ports() if packet.protocol != match.protocol:
            return f"it is {packet.protocol}"
        case m.Ports() | m.MultiPorts():
            side = "source" if match.side == "sport" else "destination"
            number = packet.sport if match.side == "sport" else packet.dport
            return f"its {side} port is {'not known' if number is None else number}"
        case m.Owner():
            if not packet.owned:
                return "no local socket sent it"
            what, owner = ("user", packet.uid) if match.kind == "uid" else ("group", packet.gid)
            return f"its {what} is {'not known' if owner is None else owner}"
        case m.CtState():
            return f"it is {packet.state}"
        case m.Mark():
            return f"its mark is {mark_text(packet.mark)}"
        case m.ConnMark() if packet.state == "INVALID":
            return "it is of no connection"
        case m.ConnMark():
            return f"the mark of its connection is {mark_text(packet.connmark)}"
        case m.Socket():
            if packet.socket is None:
                return "whether a socket is bound to this very address and port is not known"
            bound = "a" if packet.socket else "no"
            return f"{bound} socket is bound to this very address and port"
        case _:
            assert_never(match)


def address(family: Family, packed: bytes | None) -> str:
    """Return an address as text."""
    if packed is None:
        return "an address that is not known"
    return inet_ntop(ADDRESS_FAMILY[family], packed)


def _interface(name: str | None) -> str:
    if name is None:
        return "an interface that is not known"
    return name or "no interface"


def mark_text(mark: int | None) -> str:
    """Return a mark as iptables prints it."""
    return "not known" if mark is None else f"{mark:#x}"


def _flipped(truth: Truth, negated: bool) -> Truth:  # noqa: FBT001 - a match's own field
    return None if truth is None else truth != negated


def _within(packed: bytes | None, network: Network) -> Truth:
    if network.everything:
        return True
    if packed is None:
        return None
    shift = len(packed) * 8 - network.prefix
    return int.from_bytes(packed, "big") >> shift == int.from_bytes(network.packed, "big") >> shift


def _named(name: str | None, pattern: str) -> Truth:
    if name is None:
        return None
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern


def _between(number: int | None, low: int, high: int) -> Truth:
    return None if number is None else low <= number <= high


def _masked(mark: int | None, mask: int, value: int) -> Truth:
    return None if mark is None else mark & mask == value


def is_loopback(family: Family, packed: bytes) -> bool:
    """Whether an address is one by which every host talks to itself."""
    return packed[0] == 127 if family == IPV4 else packed == LOOPBACK_IPV6.packed
