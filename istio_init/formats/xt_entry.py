"""A rule as the bytes the kernel keeps for it, and back.

These are the ``ipt_entry`` and ``ip6t_entry`` of the legacy tables, with the
extension revisions that iptables 1.8 chooses on every kernel since 3.15. Each
extension's writing and reading stand side by side; a live entry counts as
understood only when encoding it again gives the same bytes.

Sources: linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h,
linux/netfilter/xt_*.h.
"""

from __future__ import annotations

from _socket import inet_ntop
from struct import Struct
from struct import error as struct_error

from istio_init.errors import ParseError
from istio_init.formats.iptables import match_words, target_words
from istio_init.lean import TYPE_CHECKING, assert_never
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import ForeignRule, Rule
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

PROTOCOLS: dict[Protocol, int] = {"tcp": 6, "udp": 17}
_PROTOCOL_NAMES: dict[int, Protocol] = {6: "tcp", 17: "udp"}

# Source, destination, their masks, in and out interface, their masks, protocol,
# then per family: flags and inversions (IPv4); tos, flags, inversions (IPv6).
_HEADERS = {
    IPV4: Struct("=4s4s4s4s16s16s16s16sHBB"),
    IPV6: Struct("=16s16s16s16s16s16s16s16sHxBB3x"),
}
# Cache word, offset of the target, size of the entry, back pointer, counters.
_OFFSETS = {IPV4: Struct("=IHHIQQ"), IPV6: Struct("=IHHI4xQQ")}
_IPV6_HAS_PROTOCOL = 0x01

_INVERT_IN = 0x01
_INVERT_OUT = 0x02
_INVERT_SOURCE = 0x08
_INVERT_DESTINATION = 0x10
_INVERT_PROTOCOL = 0x40

_EXTENSION = Struct("=H29sB")
_STANDARD_DATA = bytes(8)

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

_ALL_PORTS = (0, 65535)
_MULTIPORT_KINDS = {"sport": 0, "dport": 1}
_MULTIPORT_ROOM = 15
_OWNER_KINDS = {"uid": 1, "gid": 2}
_CT_STATE = 0x0001
_CT_STATE_ALIAS = 0x2000
_NAT_PORTS = 0x2
_SAVE_MARK = 1
_RESTORE_MARK = 2
_GOTO = {IPV4: 0x02, IPV6: 0x04}
_FRAGMENT = {IPV4: 0x01, IPV6: 0}
# The protocol matches without a condition.
_IDLE = {
    "tcp": _TCP.pack(*_ALL_PORTS, *_ALL_PORTS, 0, 0, 0, 0),
    "udp": _UDP.pack(*_ALL_PORTS, *_ALL_PORTS, 0),
}
_PORT_UNREACHABLE = {IPV4: 3, IPV6: 4}
_VERDICTS: dict[str, t.Target] = {"ACCEPT": t.Accept(), "DROP": t.Drop(), "RETURN": t.Return()}


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _extension(name: str, revision: int, data: bytes) -> bytes:
    body = _aligned(data)
    return _EXTENSION.pack(_EXTENSION.size + len(body), name.encode(), revision) + body


def jump(name: str) -> bytes:
    """Return the target that leads to a chain, or the verdict of that name."""
    return _extension(name, 0, _STANDARD_DATA)


def encode(rule: Rule | ForeignRule, family: Family) -> bytes:
    """Return the entry's bytes, counters zero, as libiptc takes them.

    A jump is named, not resolved: libiptc turns the name into an offset.
    """
    if isinstance(rule, ForeignRule):
        if isinstance(rule.raw, str):
            raise ParseError(f"a rule that was read as text has no bytes: {rule.raw}")
        return rule.raw
    size = 4 if family == IPV4 else 16
    source = destination = source_mask = destination_mask = bytes(size)
    incoming = outgoing = incoming_mask = outgoing_mask = b""
    protocol = flags = inversions = 0
    extensions = b""
    for match in rule.matches:
        match match:
            case m.Source():
                source, source_mask = match.network.packed, _mask(match.network)
                inversions |= match.negated and _INVERT_SOURCE
            case m.Destination():
                destination, destination_mask = match.network.packed, _mask(match.network)
                inversions |= match.negated and _INVERT_DESTINATION
            case m.InInterface():
                incoming, incoming_mask = _interface(match.name)
                inversions |= match.negated and _INVERT_IN
            case m.OutInterface():
                outgoing, outgoing_mask = _interface(match.name)
                inversions |= match.negated and _INVERT_OUT
            case m.Proto():
                protocol = PROTOCOLS[match.name]
                flags |= family == IPV6 and _IPV6_HAS_PROTOCOL
                inversions |= match.negated and _INVERT_PROTOCOL
            case _:
                extensions += _encode_match(match)
    target = _encode_target(rule.target, family)
    addresses = (source, destination, source_mask, destination_mask)
    interfaces = (incoming, outgoing, incoming_mask, outgoing_mask)
    header = _HEADERS[family].pack(*addresses, *interfaces, protocol, flags, inversions)
    offsets = _OFFSETS[family]
    start = len(header) + offsets.size + len(extensions)
    return header + offsets.pack(0, start, start + len(target), 0, 0, 0) + extensions + target


def _mask(network: Network) -> bytes:
    bits = len(network.packed) * 8
    ones = (1 << bits) - (1 << (bits - network.prefix))
    return ones.to_bytes(bits // 8, "big")


def _interface(name: str) -> tuple[bytes, bytes]:
    """Return a name and its mask; without a wildcard the mask covers the final zero too."""
    raw = name.encode()
    compared = len(raw) - 1 if raw.endswith(b"+") else len(raw) + 1
    return raw, b"\xff" * compared


def _encode_match(match: m.Match) -> bytes:
    match match:
        case m.Ports():
            low_high = (match.ports.low, match.ports.high)
            source = match.side == "sport"
            ports = (*low_high, *_ALL_PORTS) if source else (*_ALL_PORTS, *low_high)
            inverted = match.negated and (1 if source else 2)
            if match.protocol == "tcp":
                return _extension("tcp", 0, _TCP.pack(*ports, 0, 0, 0, inverted))
            return _extension("udp", 0, _UDP.pack(*ports, inverted))
        case m.MultiPorts():
            return _extension("multiport", 1, _encode_multiport(match))
        case m.Owner():
            which = _OWNER_KINDS[match.kind]
            ids = (match.ids.low, match.ids.high)
            limits = (*ids, 0, 0) if match.kind == "uid" else (0, 0, *ids)
            return _extension("owner", 1, _OWNER.pack(*limits, which, match.negated and which))
        case m.CtState():
            flags = _CT_STATE | (match.module == "state" and _CT_STATE_ALIAS)
            inverted = match.negated and _CT_STATE
            states = sum(m.CT_STATES[state] for state in match.states)
            fields = (0, 0, 0, 0, 0, 0, 0, flags, inverted, states, 0, 0, 0, 0, 0)
            return _extension("conntrack", 3, _CONNTRACK.pack(*fields))
        case m.Mark():
            return _extension("mark", 1, _MARK.pack(match.value, match.mask, match.negated))
        case m.ConnMark():
            return _extension("connmark", 1, _MARK.pack(match.value, match.mask, match.negated))
        case m.Socket():
            return _extension("socket", 3, _SOCKET.pack(0))
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


def _encode_target(target: t.Target, family: Family) -> bytes:
    match target:
        case t.Jump():
            return jump(target.chain)
        case t.Return():
            return jump("RETURN")
        case t.Accept():
            return jump("ACCEPT")
        case t.Drop():
            return jump("DROP")
        case t.Reject():
            return _extension("REJECT", 0, _REJECT.pack(_PORT_UNREACHABLE[family]))
        case t.Redirect():
            one_range = (1, _NAT_PORTS) if family == IPV4 else (_NAT_PORTS,)
            ports = _PORTS.pack(target.port, target.port)
            return _extension("REDIRECT", 0, _REDIRECT[family].pack(*one_range) + ports)
        case t.Tproxy():
            marks = _TPROXY.pack(target.mask, target.mark)
            return _extension("TPROXY", 1, marks + _TPROXY_PORT.pack(target.port))
        case t.SetMark():
            return _extension("MARK", 2, _SET_MARK.pack(target.value, target.mask))
        case t.SaveMark():
            return _extension("CONNMARK", 2, _copy_mark(_SAVE_MARK))
        case t.RestoreMark():
            return _extension("CONNMARK", 2, _copy_mark(_RESTORE_MARK))
        case t.CtZone():
            return _extension("CT", 2, _CT.pack(0, target.zone, 0, 0, b"", b"", 0))
        case _:
            assert_never(target)


def _copy_mark(mode: int) -> bytes:
    return _COPY_MARK.pack(0, FULL_MASK, FULL_MASK, 0, 0, mode)


def extensions(rule: Rule, family: Family) -> tuple[tuple[str, int, bool], ...]:
    """Return name, revision and whether it is the target of each extension of a rule.

    Jumps and verdicts are the kernel's own and not listed.
    """
    entry = encode(rule, family)
    header, offsets = _HEADERS[family], _OFFSETS[family]
    position = header.size + offsets.size
    _, target, end, *_ = offsets.unpack_from(entry, header.size)
    found = []
    while position < end:
        size, name, revision = _EXTENSION.unpack_from(entry, position)
        data = entry[position + _EXTENSION.size : position + size]
        if position < target or revision or data != _STANDARD_DATA:
            found.append((_text(name), revision, position == target))
        position += size
    return tuple(found)


def normalised(entry: bytes, family: Family, target_name: str) -> bytes:
    """Return a live entry as ``encode`` writes it.

    The kernel fills counters, offsets and what follows a name's final zero with
    its own; all that is cleared. ``target_name`` is what libiptc calls the
    target: a chain or a verdict where the kernel keeps an offset.

    Raises:
        ParseError: the bytes are no entry.
    """
    try:
        return _normalised(entry, family, target_name)
    except (ValueError, struct_error) as error:
        raise ParseError("the kernel returned an entry that cannot be read") from error


def _normalised(entry: bytes, family: Family, target_name: str) -> bytes:
    header, offsets = _HEADERS[family], _OFFSETS[family]
    position = header.size + offsets.size
    _, target_offset, size, *_ = offsets.unpack_from(entry, header.size)
    matches = b""
    while position < target_offset:
        one = _renamed(entry[position:target_offset])
        matches += one
        position += len(one)
    target = _renamed(entry[target_offset:size])
    if not _text(_EXTENSION.unpack_from(target)[1]):
        target = jump(target_name)
    cleared = offsets.pack(0, target_offset, target_offset + len(target), 0, 0, 0)
    return entry[: header.size] + cleared + matches + target


def _renamed(data: bytes) -> bytes:
    """Return the extension that ``data`` begins with, nothing behind its name."""
    size, name, revision = _EXTENSION.unpack_from(data)
    if not _EXTENSION.size <= size <= len(data):
        raise ParseError("the kernel returned an entry whose extension runs over its end")
    return _EXTENSION.pack(size, _text(name).encode(), revision) + data[_EXTENSION.size : size]


def decode(entry: bytes, family: Family) -> Rule | ForeignRule:
    """Return the rule of a normalised entry; one with unknown parts stays bytes.

    Raises:
        ParseError: the bytes are no entry.
    """
    try:
        found = _decode(entry, family)
    except (ValueError, KeyError, IndexError, struct_error):
        found = None
    if found is not None and encode(found, family) == entry:
        return found
    return ForeignRule(entry, _jump_of(entry, family), spelled(entry, family))


def spelled(entry: bytes, family: Family) -> str:
    """Return a normalised entry as iptables prints it, as far as it is understood.

    Of a match that this program never writes only the name is there.
    """
    header, offsets = _HEADERS[family], _OFFSETS[family]
    protocol, flags, inversions = header.unpack_from(entry)[8:]
    words: list[str] = []
    for match in _header_matches(entry, family):
        if not _on_every_interface(match):
            words += match_words(match)
        mask = _mask_of(match, entry, family)
        if isinstance(match, m.Source | m.Destination) and mask != _mask(match.network):
            words[-1] = f"{match.network.address}/{inet_ntop(ADDRESS_FAMILY[family], mask)}"
    if protocol:
        bang = ["!"] if inversions & _INVERT_PROTOCOL else []
        words += [*bang, "-p", _PROTOCOL_NAMES.get(protocol, str(protocol))]
    if flags & _FRAGMENT[family]:
        words.append("-f")
    position = header.size + offsets.size
    end = offsets.unpack_from(entry, header.size)[1]
    while position < end:
        size, name, revision = _EXTENSION.unpack_from(entry, position)
        if size < _EXTENSION.size:
            break
        data = entry[position + _EXTENSION.size : position + size]
        words += _spelled_match(_text(name), revision, data)
        position += size
    name, revision, data = _target(entry, family)
    target = _spelled_target(name, revision, data, family)
    if flags & _GOTO[family] and target:
        target[0] = "-g"
    return " ".join((*words, *target))


def _spelled_match(name: str, revision: int, data: bytes) -> list[str]:
    try:
        found = _decode_match(name, revision, data)
        if _encode_match(found) == _extension(name, revision, data):
            return match_words(found)
    except (ValueError, KeyError, IndexError, struct_error):
        # One that this program never writes.
        pass
    if name == "comment":
        # No start of a pod without such rules of others pays for this.
        from istio_init.formats.xt_others import quoted

        return ["-m", name, "--comment", quoted(_text(data))]
    # A protocol's own match may ask for nothing; anything else asks for something.
    idle = name in _IDLE and data == _aligned(_IDLE[name])
    return ["-m", name] if idle else ["-m", name, "..."]


def _spelled_target(name: str, revision: int, data: bytes, family: Family) -> list[str]:
    if not name:
        return []
    try:
        found = _decode_target(name, revision, data, family)
        if _encode_target(found, family) == _extension(name, revision, data):
            return target_words(found, family)
    except (ValueError, KeyError, IndexError, struct_error):
        # One that this program never writes.
        pass
    from istio_init.formats.xt_others import other_target_words

    return other_target_words(name, revision, data, family)


def _jump_of(entry: bytes, family: Family) -> str:
    try:
        name, revision, data = _target(entry, family)
    except (ValueError, struct_error) as error:
        raise ParseError("the kernel returned an entry without a target") from error
    return name if revision == 0 and _is_chain(name, data) else ""


def _is_chain(target: str, data: bytes) -> bool:
    # A rule without a target has an empty name here.
    return data == _STANDARD_DATA and target not in (*_VERDICTS, "QUEUE", "")


def _target(entry: bytes, family: Family) -> tuple[str, int, bytes]:
    offset = _OFFSETS[family].unpack_from(entry, _HEADERS[family].size)[1]
    _, name, revision = _EXTENSION.unpack_from(entry, offset)
    return _text(name), revision, entry[offset + _EXTENSION.size :]


def _text(raw: bytes) -> str:
    # Bytes that are no text come from others; they do not survive encoding again.
    return raw.partition(b"\0")[0].decode(errors="replace")


def _decode(entry: bytes, family: Family) -> Rule:
    header, offsets = _HEADERS[family], _OFFSETS[family]
    protocol, _, inversions = header.unpack_from(entry)[8:]
    matches = _header_matches(entry, family)
    if any(_on_every_interface(match) for match in matches):
        raise ValueError("an interface; iptables prints nothing for this one")
    if protocol:
        negated = bool(inversions & _INVERT_PROTOCOL)
        matches.append(m.Proto(_PROTOCOL_NAMES[protocol], negated))
    position = header.size + offsets.size
    end = offsets.unpack_from(entry, header.size)[1]
    while position < end:
        size, name, revision = _EXTENSION.unpack_from(entry, position)
        if size < _EXTENSION.size:
            raise ValueError("the size of an extension")
        data = entry[position + _EXTENSION.size : position + size]
        matches.append(_decode_match(_text(name), revision, data))
        position += size
    return Rule(tuple(matches), _decode_target(*_target(entry, family), family))


def _header_matches(entry: bytes, family: Family) -> list[m.Match]:
    """Return what an entry's header asks for, but for the protocol."""
    fields = _HEADERS[family].unpack_from(entry)
    source, destination, source_mask, destination_mask, incoming, outgoing = fields[:6]
    inversions = fields[-1]
    matches: list[m.Match] = []
    if any(source_mask) or inversions & _INVERT_SOURCE:
        network = _network(family, source, source_mask)
        matches.append(m.Source(network, bool(inversions & _INVERT_SOURCE)))
    if any(destination_mask) or inversions & _INVERT_DESTINATION:
        network = _network(family, destination, destination_mask)
        matches.append(m.Destination(network, bool(inversions & _INVERT_DESTINATION)))
    if any(incoming):
        matches.append(m.InInterface(_text(incoming), bool(inversions & _INVERT_IN)))
    if any(outgoing):
        matches.append(m.OutInterface(_text(outgoing), bool(inversions & _INVERT_OUT)))
    return matches


def _network(family: Family, packed: bytes, mask: bytes) -> Network:
    # A mask with holes does not survive encoding again.
    return Network(family, packed, int.from_bytes(mask, "big").bit_count())


def _mask_of(match: m.Match, entry: bytes, family: Family) -> bytes:
    """Return the mask that an entry holds for its source or destination."""
    source_mask, destination_mask = _HEADERS[family].unpack_from(entry)[2:4]
    return bytes(source_mask if isinstance(match, m.Source) else destination_mask)


def _on_every_interface(match: m.Match) -> bool:
    return isinstance(match, m.InInterface | m.OutInterface) and match.name == "+"


def _port_range(low: int, high: int) -> PortRange:
    # Port 0 begins what a match without a port holds too.
    if low == 0:
        raise ValueError("ports from 1")
    return PortRange(low, high)


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
        case _, 0 if _is_chain(name, data):
            return t.Jump(name)
        case _:
            raise ValueError("a target this program writes")
