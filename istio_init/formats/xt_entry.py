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
from istio_init.formats.iptables import match_words
from istio_init.formats.xt_extensions import (
    BYTES,
    STANDARD_DATA,
    is_chain,
    match_parts,
    read_match,
    read_target,
    spelled_match,
    spelled_target,
    target_parts,
    text_of,
)
from istio_init.lean import TYPE_CHECKING
from istio_init.rules import matches as m
from istio_init.rules.model import ForeignRule, Rule
from istio_init.rules.ranges import (
    ADDRESS_FAMILY,
    IPV4,
    IPV6,
    Network,
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

_GOTO = {IPV4: 0x02, IPV6: 0x04}
_FRAGMENT = {IPV4: 0x01, IPV6: 0}


def _extension(name: str, revision: int, data: bytes) -> bytes:
    return _EXTENSION.pack(_EXTENSION.size + len(data), name.encode(errors=BYTES), revision) + data


def jump(name: str) -> bytes:
    """Return the target that leads to a chain, or the verdict of that name."""
    return _extension(name, 0, STANDARD_DATA)


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
                extensions += _extension(*match_parts(match))
    target = _extension(*target_parts(rule.target, family))
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
    raw = name.encode(errors=BYTES)
    compared = len(raw) - 1 if raw.endswith(b"+") else len(raw) + 1
    return raw, b"\xff" * compared


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
        if position < target or revision or data != STANDARD_DATA:
            found.append((text_of(name), revision, position == target))
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


def without_counts(entry: bytes, family: Family) -> bytes:
    """Return what of a live entry stays as it is while nobody writes it anew."""
    start = _HEADERS[family].size
    return entry[:start] + entry[start + _OFFSETS[family].size :]


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
    if not text_of(_EXTENSION.unpack_from(target)[1]):
        target = jump(target_name)
    cleared = offsets.pack(0, target_offset, target_offset + len(target), 0, 0, 0)
    return entry[: header.size] + cleared + matches + target


def _renamed(data: bytes) -> bytes:
    """Return the extension that ``data`` begins with, nothing behind its name."""
    size, name, revision = _EXTENSION.unpack_from(data)
    if not _EXTENSION.size <= size <= len(data):
        raise ParseError("the kernel returned an entry whose extension runs over its end")
    return (
        _EXTENSION.pack(size, text_of(name).encode(errors=BYTES), revision)
        + data[_EXTENSION.size : size]
    )


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

    Of a match or target that this program never writes only the name is there.
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
        words += spelled_match(text_of(name), revision, data)
        position += size
    name, revision, data = _target(entry, family)
    target = spelled_target(name, revision, data, family)
    if flags & _GOTO[family] and target:
        target[0] = "-g"
    return " ".join((*words, *target))


def _jump_of(entry: bytes, family: Family) -> str:
    try:
        name, revision, data = _target(entry, family)
    except (ValueError, struct_error) as error:
        raise ParseError("the kernel returned an entry without a target") from error
    return name if revision == 0 and is_chain(name, data) else ""


def _target(entry: bytes, family: Family) -> tuple[str, int, bytes]:
    offset = _OFFSETS[family].unpack_from(entry, _HEADERS[family].size)[1]
    _, name, revision = _EXTENSION.unpack_from(entry, offset)
    return text_of(name), revision, entry[offset + _EXTENSION.size :]


def _decode(entry: bytes, family: Family) -> Rule:
    header, offsets = _HEADERS[family], _OFFSETS[family]
    protocol, _, inversions = header.unpack_from(entry)[8:]
    matches = _header_matches(entry, family)
    interfaces = [one.name for one in matches if isinstance(one, m.InInterface | m.OutInterface)]
    if not all(name.isprintable() for name in interfaces):
        raise ValueError("an interface whose name is no text")
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
        matches.append(read_match(text_of(name), revision, data))
        position += size
    return Rule(tuple(matches), read_target(*_target(entry, family), family))


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
        matches.append(m.InInterface(text_of(incoming), bool(inversions & _INVERT_IN)))
    if any(outgoing):
        matches.append(m.OutInterface(text_of(outgoing), bool(inversions & _INVERT_OUT)))
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
