"""Rules as the kernel's bytes and back; what is not this program's stays bytes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.apply.entry import decode, encode, jump, normalised
from istio_init.errors import ParseError
from istio_init.model import (
    FAMILIES,
    IPV4,
    IPV6,
    Accept,
    CtState,
    CtZone,
    Destination,
    Drop,
    ForeignRule,
    IdRange,
    InInterface,
    Jump,
    Mark,
    MultiPorts,
    OutInterface,
    Owner,
    PortRange,
    Ports,
    Proto,
    Redirect,
    Reject,
    Return,
    Rule,
    SaveMark,
    SetMark,
    Socket,
    Tproxy,
    rule,
)
from istio_init.values import network
from tests import strategies
from tests.unit.settings import tried

if TYPE_CHECKING:
    from typing import Any

    from istio_init.model import Family

# Size of what stands before the matches, and in it the place of the target's offset.
HEADER = {IPV4: 112, IPV6: 168}
OFFSET = {IPV4: 88, IPV6: 140}
EXTENSION = 32

TEN = network("10.0.0.0/8")[0]


def drawn_rules() -> st.SearchStrategy[tuple[Family, Rule]]:
    return strategies.families.flatmap(lambda one: st.tuples(st.just(one), strategies.rules(one)))


def sizes(entry: bytes, family: Family) -> tuple[int, int]:
    """Return what an entry says about the offset of its target and its own size."""
    target, size = struct.unpack_from("=HH", entry, OFFSET[family])
    return int(target), int(size)


@given(drawn_rules())
@tried
def test_rules_come_back_from_their_bytes(drawn: tuple[Family, Rule]) -> None:
    family, one = drawn
    entry = encode(one, family)

    assert decode(entry, family) == one
    target, size = sizes(entry, family)
    assert size == len(entry)
    assert size % 8 == target % 8 == 0
    assert HEADER[family] <= target <= size - EXTENSION


@given(drawn_rules())
@tried
def test_what_the_kernel_fills_in_is_cleared(drawn: tuple[Family, Rule]) -> None:
    """Counters, offsets and what follows a name's zero are the kernel's own."""
    family, one = drawn
    entry = encode(one, family)
    target, size = sizes(entry, family)
    live = bytearray(entry)
    # The cache word; behind the offsets the back pointer and the counters.
    live[OFFSET[family] - 4 : OFFSET[family]] = b"\xff" * 4
    live[OFFSET[family] + 4 : OFFSET[family] + 8] = b"\xff" * 4
    live[HEADER[family] - 16 : HEADER[family]] = b"\xff" * 16
    position = HEADER[family]
    while position < size:
        name = bytes(live[position + 2 : position + 31]).partition(b"\0")[0]
        dirty = b"\xee" * (28 - len(name)) if len(name) < 28 else b""
        live[position + 3 + len(name) : position + 31] = dirty
        position += struct.unpack_from("=H", live, position)[0]
    chain = "" if entry[target + EXTENSION :] != bytes(8) else name_at(entry, target)
    if chain:
        # The kernel keeps an offset or a verdict in place of the name.
        live[target + 2 : target + 31] = bytes(29)
        live[target + EXTENSION : target + EXTENSION + 4] = b"\xf0\xff\xff\xff"

    assert normalised(bytes(live), family, chain) == entry


def name_at(entry: bytes, target: int) -> str:
    return entry[target + 2 : target + 31].partition(b"\0")[0].decode()


def test_jump_is_named() -> None:
    assert len(jump("ISTIO_OUTPUT")) == EXTENSION + 8
    assert b"ISTIO_OUTPUT\0" in jump("ISTIO_OUTPUT")


def test_foreign_bytes_are_written_as_they_were_read() -> None:
    assert encode(ForeignRule(b"as it was", "X"), IPV4) == b"as it was"


def test_foreign_text_has_no_bytes() -> None:
    with pytest.raises(ParseError, match="-j LOG"):
        encode(ForeignRule("-j LOG"), IPV4)


def test_plain_rule_byte_for_byte() -> None:
    assert encode(Rule((), Accept()), IPV4) == (
        bytes(84)
        + struct.pack("=IHHIQQ", 0, 112, 152, 0, 0, 0)
        + struct.pack("=H29sB", 40, b"ACCEPT", 0)
        + bytes(8)
    )


def test_interface_masks_cover_the_zero_unless_there_is_a_wildcard() -> None:
    plain = encode(Rule((InInterface("lo"),), Accept()), IPV4)
    wild = encode(Rule((OutInterface("eth+"),), Accept()), IPV4)

    assert plain[16:32] == b"lo".ljust(16, b"\0")
    assert plain[48:64] == (b"\xff" * 3).ljust(16, b"\0")
    assert wild[32:48] == b"eth+".ljust(16, b"\0")
    assert wild[64:80] == (b"\xff" * 3).ljust(16, b"\0")


def put(entry: bytes, position: int, data: bytes) -> bytes:
    return entry[:position] + data + entry[position + len(data) :]


def with_target(entry: bytes, family: Family, name: bytes, revision: int, data: bytes) -> bytes:
    """Return an entry with another target."""
    start, _ = sizes(entry, family)
    body = data + bytes(-len(data) % 8)
    target = struct.pack("=H29sB", EXTENSION + len(body), name, revision) + body
    return put(entry[:start], OFFSET[family] + 2, struct.pack("=H", start + len(target))) + target


PLAIN = rule(Proto("tcp"), Ports("tcp", "dport", PortRange(80, 80)), then=Jump("ISTIO_INBOUND"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("name", "revision", "data"),
    [
        (b"LOG", 0, b"\4\0prefix".ljust(32, b"\0")),
        (b"DNAT", 2, bytes(40)),
        (b"MASQUERADE", 0, bytes(16)),
        (b"REJECT", 0, struct.pack("=I", 1)),
        (b"REDIRECT", 0, bytes(16)),
        (b"REDIRECT", 1, bytes(16)),
        (b"REDIRECT", 0, b""),
        (b"TPROXY", 0, bytes(16)),
        (b"MARK", 1, bytes(16)),
        (b"MARK", 2, b""),
        (b"CONNMARK", 2, struct.pack("=IIIBBBx", 0, 1, 2, 0, 0, 1)),
        (b"CONNMARK", 2, struct.pack("=IIIBBBx", 5, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, 0)),
        (b"CT", 2, bytes(100)),
        (b"CT", 1, bytes(100)),
        (b"ACCEPT", 1, bytes(8)),
        (b"QUEUE", 0, bytes(8)),
        (b"", 0, bytes(8)),
        (b"ISTIO_OUTPUT", 0, bytes(16)),
    ],
)
def test_other_targets_stay_bytes_and_lead_nowhere(
    family: Family, name: bytes, revision: int, data: bytes
) -> None:
    entry = with_target(encode(PLAIN, family), family, name, revision, data)

    assert decode(entry, family) == ForeignRule(entry, "")


@pytest.mark.parametrize("family", FAMILIES)
def test_other_matches_stay_bytes_and_their_jump_is_known(family: Family) -> None:
    entry = encode(PLAIN, family)
    start = HEADER[family]

    for changed in (
        # Another extension, another revision, and what iptables would not spell.
        put(entry, start + 2, b"ttl\0"),
        put(entry, start + 31, b"\1"),
        put(entry, start + EXTENSION + 4, struct.pack("=HH", 0, 80)),
        put(entry, start + EXTENSION, struct.pack("=HHHH", 1, 2, 3, 4)),
        put(entry, start + EXTENSION + 8, b"\1"),
        put(entry, start + EXTENSION + 11, b"\4"),
        # A fragment flag, a protocol by number, an unknown inversion, a name's own mask.
        put(entry, start - 30 if family == IPV4 else 131, b"\x80"),
    ):
        assert decode(changed, family) == ForeignRule(changed, "ISTIO_INBOUND")


def test_masks_with_holes_stay_bytes() -> None:
    entry = encode(Rule((Destination(TEN),), Jump("X")), IPV4)

    for mask in (b"\xff\0\xff\0", b"\0\0\0\xff"):
        changed = put(entry, 12, mask)
        assert decode(changed, IPV4) == ForeignRule(changed, "X")


def test_interfaces_that_do_not_print_stay_bytes() -> None:
    entry = encode(Rule((InInterface("eth0"),), Jump("X")), IPV4)

    for name, mask in ((b"+", b"\xff\0\0\0\0"), (b"\xff\xfe", b"\xff" * 3), (b"eth0", b"\xff" * 4)):
        changed = put(put(entry, 16, name.ljust(5, b"\0")), 48, mask.ljust(5, b"\0"))
        assert decode(changed, IPV4) == ForeignRule(changed, "X")


@pytest.mark.parametrize(
    "one",
    [
        Rule((Proto("tcp"), MultiPorts("dport", (PortRange(80, 80), PortRange(90, 99)))), Drop()),
        Rule((Owner("gid", IdRange(1, 2), negated=True),), Return()),
        Rule((CtState(("INVALID", "NEW"), "state", negated=True),), Accept()),
        Rule((Mark(1, 2, negated=True), Socket()), SaveMark()),
        Rule((Proto("tcp"),), Redirect(15001)),
        Rule((Proto("tcp"),), Tproxy(15001, 1337)),
        Rule((), CtZone(2)),
        Rule((), SetMark(1)),
        Rule((), Reject()),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_byte_counts(family: Family, one: Rule) -> None:
    """No other bytes are taken for a rule: what differs in one byte is another rule, or foreign."""
    entry = encode(one, family)

    assert decode(entry, family) == one
    for position in range(len(entry)):
        changed = put(entry, position, bytes((entry[position] ^ 0x40,)))
        try:
            found = decode(changed, family)
        except ParseError:
            # The place of the target is wrong, and what stands there unreadable.
            assert OFFSET[family] <= position < OFFSET[family] + 2
            continue
        assert found != one
        assert encode(found, family) == changed


@given(strategies.families, st.binary(max_size=400))
@tried
def test_any_bytes_are_an_entry_or_refused(family: Family, entry: bytes) -> None:
    for read in (lambda: decode(entry, family), lambda: normalised(entry, family, "X")):
        refused = "no"
        try:
            read()
        except ParseError as error:
            refused = str(error)
        assert refused


@given(
    drawn_rules(),
    st.lists(st.tuples(st.integers(0, 600), st.binary(min_size=1, max_size=4)), max_size=4),
    st.integers(0, 600),
)
@tried
def test_any_damage_is_found(
    drawn: tuple[Family, Rule], damages: list[tuple[int, bytes]], length: int
) -> None:
    family, one = drawn
    entry = encode(one, family)
    for position, data in damages:
        entry = put(entry, position % len(entry), data)
    entry = entry[: max(length, 1)]

    found: Any = None
    try:
        found = decode(entry, family)
        normalised(entry, family, "X")
    except ParseError:
        pass
    if found is not None:
        assert encode(found, family) == entry


def test_header_matches_are_no_extensions() -> None:
    nonsense: Any = Rule((Jump("X"),), Accept())  # type: ignore[arg-type]

    with pytest.raises(AssertionError):
        encode(nonsense, IPV6)
    nonsense = Rule((), Proto("tcp"))  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        encode(nonsense, IPV6)
