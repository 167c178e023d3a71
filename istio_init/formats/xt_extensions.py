"""The matches and targets of iptables as the data that the kernel keeps for them, and back.

The same bytes stand in the entries of the legacy tables and in the ``match`` and
``target`` expressions of nf_tables. These are the revisions that iptables 1.8
chooses on every kernel since 3.15. Writing and reading stand side by side; data
count as understood only when they would be written the same again.

Source: linux/netfilter/xt_*.h.
"""

from __future__ import annotations

from _socket import inet_ntop
from struct import Struct
from struct import error as struct_error

from istio_init.formats.iptables import match_words, target_words
from istio_init.lean import TYPE_CHECKING, assert_never
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.ranges import (
    ADDRESS_FAMILY,
    FULL_MASK,
    IPV4,
    IPV6,
    IdRange,
    Network,
    PortRange,
)

if TYPE_CHECKING:
    from istio_init.rules.ranges import Family, Protocol

    # Name, revision and data of a match or target.
    Extension = tuple[str, int, bytes]

# What the kernel keeps for a verdict, or a jump whose chain is named elsewhere.
STANDARD_DATA = bytes(8)
# Names are bytes to the kernel: those that are no UTF-8 go through text and back unchanged.
BYTES = "surrogateescape"

_TCP = Struct("=HHHHBBBB")
_UDP = Struct("=HHHHB3x")
_MULTIPORT = Struct("=BB15H15BB")
_OWNER = Struct("=IIIIBB2x")
_MARK = Struct("=IIB3x")
_CONNTRACK = Struct("=128xIIHHHHHHHHHHHHH2x")
_SOCKET = Struct("=B3x")
_REDIRECT = {IPV4: Struct("=II8x"), IPV6: Struct("=I32x")}
_PORTS = Struct(">HH")
_SET_MARK = Struct("=II")
_COPY_MARK = Struct("=IIIBBBx")
_TPROXY = Struct("=II16x")
_TPROXY_PORT = Struct(">H2x")
_CT = Struct("=HHII16s32s4xQ")
_REJECT = Struct("=I")
_PORT = Struct("=H")

_ALL_PORTS = (0, 65535)
_MULTIPORT_KINDS = {"sport": 0, "dport": 1}
_MULTIPORT_ROOM = 15
_OWNER_KINDS = {"uid": 1, "gid": 2}
_CT_STATE = 0x0001
_CT_STATE_ALIAS = 0x2000
_NAT_PORTS = 0x2
_SAVE_MARK = 1
_RESTORE_MARK = 2
# The protocol matches without a condition.
_IDLE = {
    "tcp": _TCP.pack(*_ALL_PORTS, *_ALL_PORTS, 0, 0, 0, 0),
    "udp": _UDP.pack(*_ALL_PORTS, *_ALL_PORTS, 0),
}
_PORT_UNREACHABLE = {IPV4: 3, IPV6: 4}
_VERDICTS: dict[str, t.Target] = {"ACCEPT": t.Accept(), "DROP": t.Drop(), "RETURN": t.Return()}


def text_of(raw: bytes) -> str:
    """Return a name up to its final zero."""
    return raw.partition(b"\0")[0].decode(errors=BYTES)


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def match_parts(match: m.Match) -> Extension:
    """Return name, revision and data of a match that is no part of a rule's header."""
    name, revision, data = _match_parts(match)
    return name, revision, _aligned(data)


def _match_parts(match: m.Match) -> Extension:
    match match:
        case m.Ports():
            low_high = (match.ports.low, match.ports.high)
            source = match.side == "sport"
            ports = (*low_high, *_ALL_PORTS) if source else (*_ALL_PORTS, *low_high)
            inverted = match.negated and (1 if source else 2)
            if match.protocol == "tcp":
                return "tcp", 0, _TCP.pack(*ports, 0, 0, 0, inverted)
            return "udp", 0, _UDP.pack(*ports, inverted)
        case m.MultiPorts():
            return "multiport", 1, _encode_multiport(match)
        case m.Owner():
            which = _OWNER_KINDS[match.kind]
            ids = (match.ids.low, match.ids.high)
            limits = (*ids, 0, 0) if match.kind == "uid" else (0, 0, *ids)
            return "owner", 1, _OWNER.pack(*limits, which, match.negated and which)
        case m.CtState():
            flags = _CT_STATE | (match.module == "state" and _CT_STATE_ALIAS)
            inverted = match.negated and _CT_STATE
            states = sum(m.CT_STATES[state] for state in match.states)
            fields = (0, 0, 0, 0, 0, 0, 0, flags, inverted, states, 0, 0, 0, 0, 0)
            return "conntrack", 3, _CONNTRACK.pack(*fields)
        case m.Mark():
            return "mark", 1, _MARK.pack(match.value, match.mask, match.negated)
        case m.ConnMark():
            return "connmark", 1, _MARK.pack(match.value, match.mask, match.negated)
        case m.Socket():
            return "socket", 3, _SOCKET.pack(0)
        case m.Source() | m.Destination() | m.InInterface() | m.OutInterface() | m.Proto():
            raise AssertionError(f"{match!r} is part of the header")
        case _:
            assert_never(match)


def _encode_multiport(match: m.MultiPorts) -> bytes:
    numbers: list[int] = []
    ranges: list[int] = []
    for ports in match.ports:
        pair = (ports.low,) if ports.low == ports.high else (ports.low, ports.high)
        numbers += pair
        ranges += (len(pair) - 1, 0)[: len(pair)]
    spare = [0] * (_MULTIPORT_ROOM - len(numbers))
    kind = _MULTIPORT_KINDS[match.side]
    return _MULTIPORT.pack(kind, len(numbers), *numbers, *spare, *ranges, *spare, match.negated)


def target_parts(target: t.Target, family: Family) -> Extension:
    """Return name, revision and data of a target; a jump has the name of its chain."""
    name, revision, data = _target_parts(target, family)
    return name, revision, _aligned(data)


def _target_parts(target: t.Target, family: Family) -> Extension:
    match target:
        case t.Jump():
            return target.chain, 0, STANDARD_DATA
        case t.Return():
            return "RETURN", 0, STANDARD_DATA
        case t.Accept():
            return "ACCEPT", 0, STANDARD_DATA
        case t.Drop():
            return "DROP", 0, STANDARD_DATA
        case t.Reject():
            return "REJECT", 0, _REJECT.pack(_PORT_UNREACHABLE[family])
        case t.Redirect():
            one_range = (1, _NAT_PORTS) if family == IPV4 else (_NAT_PORTS,)
            ports = _PORTS.pack(target.port, target.port)
            return "REDIRECT", 0, _REDIRECT[family].pack(*one_range) + ports
        case t.Tproxy():
            marks = _TPROXY.pack(target.mask, target.mark)
            return "TPROXY", 1, marks + _TPROXY_PORT.pack(target.port)
        case t.SetMark():
            return "MARK", 2, _SET_MARK.pack(target.value, target.mask)
        case t.SaveMark():
            return "CONNMARK", 2, _copy_mark(_SAVE_MARK)
        case t.RestoreMark():
            return "CONNMARK", 2, _copy_mark(_RESTORE_MARK)
        case t.CtZone():
            return "CT", 2, _CT.pack(0, target.zone, 0, 0, b"", b"", 0)
        case _:
            assert_never(target)


def _copy_mark(mode: int) -> bytes:
    return _COPY_MARK.pack(0, FULL_MASK, FULL_MASK, 0, 0, mode)


def is_chain(name: str, data: bytes) -> bool:
    """Whether a target of revision 0 leads to a chain of its name."""
    # A rule without a target has an empty name here.
    return data == STANDARD_DATA and name not in (*_VERDICTS, "QUEUE", "")


def spelled_match(name: str, revision: int, data: bytes) -> list[str]:
    """Return the words of a match; of one that this program never writes only the name."""
    try:
        return match_words(read_match(name, revision, data))
    except ValueError:
        # One that this program never writes.
        pass
    if name == "comment":
        return ["-m", name, "--comment", _quoted(text_of(data))]
    # A protocol's own match may ask for nothing; anything else asks for something.
    idle = name in _IDLE and data == _aligned(_IDLE[name])
    return ["-m", name] if idle else ["-m", name, "..."]


def _quoted(text: str) -> str:
    if text.replace("_", "").replace("-", "").isalnum():
        return text
    return '"' + "".join(f"\\{char}" if char in "\"'\\" else char for char in text) + '"'


def spelled_target(name: str, revision: int, data: bytes, family: Family) -> list[str]:
    """Return the words of a target; of one that is not understood only the name."""
    if not name:
        return []
    try:
        return target_words(read_target(name, revision, data, family), family)
    except ValueError:
        pass
    try:
        if name == "NFLOG":
            return _spelled_nflog(data)
        return ["-j", name, *_nat_words(name, revision, data, family)]
    except (KeyError, ValueError, struct_error):
        # Nothing that translates addresses or reports.
        return ["-j", name]


# How much of a packet, the group, the threshold, flags and the prefix.
_NFLOG = Struct("=IHHHxx64s")
_NFLOG_SIZE = 0x1
_NFLOG_THRESHOLD = 1


def _spelled_nflog(data: bytes) -> list[str]:
    size, group, threshold, flags, prefix = _NFLOG.unpack_from(data)
    # A size without the flag is a range, which the kernel does not heed.
    size = size if flags & _NFLOG_SIZE else 0
    return nflog_words(group, text_of(prefix), size, threshold)


def nflog_words(group: int, prefix: str, size: int, threshold: int) -> list[str]:
    """Return the words of a target that sends packets to a group."""
    words = ["-j", "NFLOG"]
    words += ["--nflog-prefix", _quoted(prefix)] if prefix else []
    words += ["--nflog-group", str(group)] if group else []
    words += ["--nflog-size", str(size)] if size else []
    return words + (["--nflog-threshold", str(threshold)] if threshold > _NFLOG_THRESHOLD else [])


# What translates addresses: the option that tells the new ones, and the revisions
# in which IPv4 has a layout of its own.
_NAT_OPTIONS = {
    "DNAT": ("--to-destination", {0}),
    "SNAT": ("--to-source", {0}),
    "NETMAP": ("--to", {0}),
    "REDIRECT": ("--to-ports", {0}),
}
# Flags, first and last address, first and last port.
_OLD_NAT = Struct("=4xI4s4sHH")
_NAT = Struct("=I16s16sHH")
_NAT_ADDRESSES = 0x1
_NAT_SWITCHES = {0x4: "--random", 0x8: "--persistent", 0x10: "--random-fully"}
_NETMAP = "NETMAP"


def _nat_words(name: str, revision: int, data: bytes, family: Family) -> list[str]:
    """Return the options of a target that translates addresses, as far as they are plain."""
    option, old = _NAT_OPTIONS[name]
    layout = _OLD_NAT if family == IPV4 and revision in old else _NAT
    flags, *ends, first, last = layout.unpack_from(data)
    size = 4 if family == IPV4 else 16
    low, high = (end[:size] for end in ends)
    if name == _NETMAP:
        mask = int.from_bytes(low, "big") ^ int.from_bytes(high, "big")
        network = Network(family, low, 8 * size - mask.bit_length())
        return [option, str(network)]
    if flags & ~(_NAT_ADDRESSES | _NAT_PORTS | sum(_NAT_SWITCHES)):
        return ["..."]
    text = ""
    if flags & _NAT_ADDRESSES:
        words = dict.fromkeys(inet_ntop(ADDRESS_FAMILY[family], end) for end in (low, high))
        text = "-".join(words)
    if flags & _NAT_PORTS:
        ports = dict.fromkeys(str(int.from_bytes(_PORT.pack(one), "big")) for one in (first, last))
        text = f"[{text}]" if family == IPV6 and text else text
        text += f"{'' if name == 'REDIRECT' else ':'}{'-'.join(ports)}"
    switches = [word for bit, word in _NAT_SWITCHES.items() if flags & bit]
    return [*([option, text] if text else []), *switches]


def _port_range(low: int, high: int) -> PortRange:
    # Port 0 begins what a match without a port holds too.
    if low == 0:
        raise ValueError("ports from 1")
    return PortRange(low, high)


def read_match(name: str, revision: int, data: bytes) -> m.Match:
    """Return the match that ``match_parts`` takes apart like this.

    Raises:
        ValueError: it is none that this program writes.
    """
    try:
        found = _decode_match(name, revision, data)
    except (KeyError, IndexError, struct_error) as error:
        raise ValueError("a match this program writes") from error
    if match_parts(found) != (name, revision, data):
        raise ValueError("a match as this program writes it")
    return found


def read_target(name: str, revision: int, data: bytes, family: Family) -> t.Target:
    """Return the target that ``target_parts`` takes apart like this.

    Raises:
        ValueError: it is none that this program writes.
    """
    try:
        found = _decode_target(name, revision, data, family)
    except (KeyError, IndexError, struct_error) as error:
        raise ValueError("a target this program writes") from error
    if target_parts(found, family) != (name, revision, data):
        raise ValueError("a target as this program writes it")
    return found


def _decode_match(name: str, revision: int, data: bytes) -> m.Match:
    match name, revision:
        case (("tcp" | "udp"), 0):
            source_low, source_high, low, high = _UDP.unpack_from(data)[:4]
            flags = data[11] if name == "tcp" else data[8]
            protocol: Protocol = "tcp" if name == "tcp" else "udp"
            if (source_low, source_high) != _ALL_PORTS:
                ports = _port_range(source_low, source_high)
                return m.Ports(protocol, "sport", ports, bool(flags & 1))
            return m.Ports(protocol, "dport", _port_range(low, high), bool(flags & 2))
        case "multiport", 1:
            return _decode_multiport(data)
        case "owner", 1:
            uid_low, uid_high, gid_low, gid_high, which, inverted = _OWNER.unpack_from(data)
            if which == _OWNER_KINDS["uid"]:
                return m.Owner("uid", IdRange(uid_low, uid_high), bool(inverted))
            return m.Owner("gid", IdRange(gid_low, gid_high), bool(inverted))
        case "conntrack", 3:
            flags, inverted, bits = _CONNTRACK.unpack_from(data)[7:10]
            states = tuple(state for state, bit in m.CT_STATES.items() if bits & bit)
            module = "state" if flags & _CT_STATE_ALIAS else "conntrack"
            return m.CtState(states, "state" if module == "state" else "conntrack", bool(inverted))
        case "mark", 1:
            value, mask, inverted = _MARK.unpack_from(data)
            return m.Mark(value, mask, bool(inverted))
        case "connmark", 1:
            value, mask, inverted = _MARK.unpack_from(data)
            return m.ConnMark(value, mask, bool(inverted))
        case "socket", 3:
            return m.Socket()
        case _:
            raise ValueError("a match this program writes")


def _decode_multiport(data: bytes) -> m.MultiPorts:
    kind, count, *rest = _MULTIPORT.unpack_from(data)
    numbers, ranges = rest[:_MULTIPORT_ROOM], rest[_MULTIPORT_ROOM : 2 * _MULTIPORT_ROOM]
    found: list[PortRange] = []
    position = 0
    while position < count:
        width = 2 if ranges[position] else 1
        found.append(_port_range(numbers[position], numbers[position + width - 1]))
        position += width
    return m.MultiPorts("sport" if kind == 0 else "dport", tuple(found), bool(rest[-1]))


def _decode_target(name: str, revision: int, data: bytes, family: Family) -> t.Target:
    match name, revision:
        case (("ACCEPT" | "DROP" | "RETURN"), 0):
            return _VERDICTS[name]
        case "REJECT", 0:
            return t.Reject()
        case "REDIRECT", 0:
            return t.Redirect(_PORTS.unpack_from(data, _REDIRECT[family].size)[0])
        case "TPROXY", 1:
            mask, mark = _TPROXY.unpack_from(data)
            return t.Tproxy(_TPROXY_PORT.unpack_from(data, _TPROXY.size)[0], mark, mask)
        case "MARK", 2:
            return t.SetMark(*_SET_MARK.unpack_from(data))
        case "CONNMARK", 2:
            return (
                t.SaveMark() if _COPY_MARK.unpack_from(data)[5] == _SAVE_MARK else t.RestoreMark()
            )
        case "CT", 2 if zone := _CT.unpack_from(data)[1]:
            # Zone 0 is everyone's, and what a target for other purposes holds.
            return t.CtZone(zone)
        case _, 0 if is_chain(name, data):
            return t.Jump(name)
        case _:
            raise ValueError("a target this program writes")
