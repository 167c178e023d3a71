"""The packet that ``explain`` follows, read from its flags."""

from __future__ import annotations

from istio_init.config import values
from istio_init.config.options import Option
from istio_init.diagnose.packet import LO, Packet, is_loopback
from istio_init.errors import BadValue
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules.ranges import IPV4, IPV6, Network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Literal, TypeVar

    from istio_init.config.model import Host
    from istio_init.diagnose.packet import ConntrackState, Hook
    from istio_init.rules.ranges import Family

    T = TypeVar("T")
    Direction = Literal["outbound", "inbound"]

OUTBOUND: Direction = "outbound"
INBOUND: Direction = "inbound"
DIRECTIONS: tuple[Direction, ...] = (OUTBOUND, INBOUND)

GROUP = "The packet"
USUAL_INTERFACE = "eth0"

_STATES: tuple[ConntrackState, ...] = ("NEW", "ESTABLISHED", "RELATED", "INVALID")
_HOOKS: dict[Direction, Hook] = {OUTBOUND: "OUTPUT", INBOUND: "PREROUTING"}
_WITH_PORTS = ("tcp", "udp")
_ICMP = {IPV4: "icmp", IPV6: "ipv6-icmp"}
# As iptables prints the protocols that other people's rules are most often about.
_PROTOCOLS = (*_WITH_PORTS, "icmp", "sctp")

_TO = Option(
    "to",
    "",
    GROUP,
    "Destination: ADDRESS or ADDRESS:PORT; with a port, IPv6 stands in brackets.",
    metavar="ADDRESS[:PORT]",
)
_FROM = Option("from", "", GROUP, "Source, in the same form.", metavar="ADDRESS[:PORT]")
_TO_PORT = Option("to-port", "", GROUP, "Destination port in the pod.", metavar="PORT")
_UID = Option("uid", "", GROUP, "User of the process that sends it.", "not known", metavar="UID")
_GID = Option("gid", "", GROUP, "Group of that process.", "same number as --uid", metavar="GID")
_PROTO = Option("proto", "", GROUP, "Protocol: tcp, udp, icmp or sctp.", "tcp", metavar="PROTOCOL")
_UDP = Option("udp", "", GROUP, "Same as --proto udp.", switch=True)
_MARK = Option("mark", "", GROUP, "Packet mark, decimal or 0x hexadecimal.", "none", metavar="MARK")
_CONNMARK = Option("connmark", "", GROUP, "Connection mark.", "none", metavar="MARK")
_STATE = Option(
    "state",
    "",
    GROUP,
    "State in connection tracking: NEW, ESTABLISHED, RELATED or INVALID.",
    "NEW",
    metavar="STATE",
)


def _via(what: str, default: str) -> Option:
    return Option("via", "", GROUP, what, default, metavar="NIC")


FLAGS: dict[Direction, tuple[Option, ...]] = {
    OUTBOUND: (
        _TO,
        _FROM,
        _UID,
        _GID,
        _PROTO,
        _UDP,
        _via(
            "Interface that it leaves by.",
            "lo for loopback addresses and TPROXY's mark, else eth0; with --live as the kernel "
            "routes it",
        ),
        _MARK,
        _CONNMARK,
        _STATE,
    ),
    INBOUND: (
        _FROM,
        _TO_PORT,
        _TO,
        _PROTO,
        _UDP,
        _via("Interface that it comes in by.", USUAL_INTERFACE),
        _MARK,
        _CONNMARK,
        _STATE,
    ),
}


class PacketQuery(Record):
    """The packet; ``via`` tells whether its interface was given."""

    packet: Packet
    via: bool


class _Ends(Record):
    """An address with its port, as far as they are given."""

    host: Network | None = None
    port: int | None = None


class _Texts:
    """Reads the flags' values, and collects what is wrong with them."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self.problems: list[BadValue] = []

    def value(self, name: str, parse: Callable[[str], T], default: T) -> T:
        text = self._texts.get(name)
        if text is None:
            return default
        try:
            return parse(text)
        except ValueError as error:
            self.refuse(name, str(error))
            return default

    def refuse(self, name: str, expected: str = "", *, reason: str = "") -> None:
        text = self._texts.get(name, "")
        self.problems.append(BadValue(f"--{name}", text, expected, reason=reason))

    def given(self, name: str) -> bool:
        return name in self._texts


def read(
    direction: Direction, texts: Mapping[str, str], host: Host
) -> tuple[PacketQuery, tuple[BadValue, ...]]:
    """Return the packet that the flags describe, and everything that is wrong with them."""
    entries = _Texts(texts)
    to = entries.value("to", _end, _Ends())
    source = entries.value("from", _end, _Ends())
    family = _family(entries, direction, to, source)
    protocol = _protocol(entries, family)
    port = entries.value("to-port", values.port, to.port)
    if to.port is not None and entries.given("to-port"):
        entries.refuse("to-port", reason="contradicts the port of --to")
    for name, end in (("to", port), ("from", source.port)):
        if end is not None and protocol not in _WITH_PORTS:
            flag = "to-port" if name == "to" and entries.given("to-port") else name
            entries.refuse(flag, reason=f"{protocol} has no ports")
    uid = entries.value("uid", _single(host.uid, "passwd"), None)
    gid = entries.value("gid", _single(host.gid, "group"), uid)
    mark = entries.value("mark", _mark, 0)
    state = entries.value("state", _state, _STATES[0])
    via = entries.value("via", _interface, None)
    outbound = direction == OUTBOUND
    if not outbound and via == LO:
        entries.refuse("via", reason="packets on lo were sent by the pod; use explain outbound")
    destination = to.host.packed if to.host else None
    interface = via or _usual_interface(to.host, outbound=outbound)
    packet = Packet(
        family,
        _HOOKS[direction],
        protocol,
        source.host.packed if source.host else _usual_source(to.host, interface, outbound=outbound),
        destination,
        source.port,
        port,
        iif="" if outbound else interface,
        oif=interface if outbound else "",
        owned=outbound,
        uid=uid,
        gid=gid,
        mark=mark,
        connmark=entries.value("connmark", _mark, 0),
        state=state,
        # A connection that exists has its socket.
        socket=True if state == "ESTABLISHED" else None,
    )
    return PacketQuery(packet, via is not None), tuple(entries.problems)


def _family(entries: _Texts, direction: Direction, to: _Ends, source: _Ends) -> Family:
    needed = "to" if direction == OUTBOUND else "from"
    if not entries.given(needed):
        entries.refuse(needed, "an address; this flag is required")
    if to.host and source.host and to.host.family != source.host.family:
        entries.refuse("from", f"an address of the same family as --to, {to.host.family}")
    host = to.host or source.host
    return host.family if host else IPV4


def _protocol(entries: _Texts, family: Family) -> str:
    if entries.value("udp", values.boolean, default=False):
        if entries.given("proto"):
            entries.refuse("proto", reason="contradicts --udp")
        return "udp"
    protocol = entries.value("proto", _known_protocol, "tcp")
    return _ICMP[family] if protocol == "icmp" else protocol


def _known_protocol(text: str) -> str:
    word = text.strip().lower()
    if word not in _PROTOCOLS:
        raise ValueError(" or ".join(_PROTOCOLS))
    return word


def _end(text: str) -> _Ends:
    host, number = _split(text)
    try:
        end = _Ends(values.address(host), None if number is None else values.port(number))
    except ValueError:
        raise ValueError(
            f"an address such as 10.1.2.3:443 or [fd00::1]:443, not {text!r}"
        ) from None
    return end


def _split(text: str) -> tuple[str, str | None]:
    """Return the text of an address and that of its port, None without one."""
    host, bracket, rest = text.removeprefix("[").partition("]")
    # Brackets are for IPv6 alone, whose colons they keep apart from the port's.
    if text.startswith("[") and bracket and ":" in host and rest[:1] in ("", ":"):
        return host, rest[1:] if rest else None
    if text.count(":") == 1:
        host, _, number = text.partition(":")
        return host, number
    return text, None


def _single(lookup: Callable[[str], int | None], file: str) -> Callable[[str], int | None]:
    def parse(text: str) -> int | None:
        ids = values.id_range(text, lookup, file)
        if ids.low != ids.high:
            raise ValueError("one id, not a range")
        return ids.low

    return parse


def _mark(text: str) -> int:
    return values.number(text.strip(), 0, values.MAX_U32, hexadecimal=True)


def _state(text: str) -> ConntrackState:
    for state in _STATES:
        if state == text.strip().upper():
            return state
    raise ValueError(" or ".join(_STATES))


def _interface(text: str) -> str | None:
    if text.endswith("+"):
        raise ValueError("the name of one interface; + has no meaning here")
    return values.interface(text)


def _usual_interface(to: Network | None, *, outbound: bool) -> str:
    return (
        LO if outbound and to is not None and is_loopback(to.family, to.packed) else USUAL_INTERFACE
    )


def _usual_source(to: Network | None, interface: str, *, outbound: bool) -> bytes | None:
    """Return the source that the kernel gives a packet that does not leave this namespace."""
    if not outbound or to is None or interface != LO:
        return None
    return (
        b"\x7f\x00\x00\x01"
        if to.family == IPV4 and is_loopback(to.family, to.packed)
        else to.packed
    )
