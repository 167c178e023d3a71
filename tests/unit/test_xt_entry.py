"""Rules as the kernel's bytes and back; what is not this program's stays bytes."""

from __future__ import annotations

import struct
from itertools import pairwise
from socket import AF_INET, AF_INET6, inet_pton
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.config.values import network
from istio_init.errors import ParseError
from istio_init.formats.iptables import rule_words
from istio_init.formats.xt_entry import decode, encode, extensions, jump, normalised, spelled
from istio_init.formats.xt_extensions import match_parts
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import ForeignRule, Rule, rule
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6, IdRange, PortRange
from tests import strategies
from tests.unit.settings import tried

if TYPE_CHECKING:
    from typing import Any

    from istio_init.rules.ranges import Family

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
    chain = ""
    if isinstance(one.target, t.Jump | t.Return | t.Accept | t.Drop):
        chain = name_at(entry, target)
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
    assert encode(Rule((), t.Accept()), IPV4) == (
        bytes(84)
        + struct.pack("=IHHIQQ", 0, 112, 152, 0, 0, 0)
        + struct.pack("=H29sB", 40, b"ACCEPT", 0)
        + bytes(8)
    )


def test_interface_masks_cover_the_zero_unless_there_is_a_wildcard() -> None:
    plain = encode(Rule((m.InInterface("lo"),), t.Accept()), IPV4)
    wild = encode(Rule((m.OutInterface("eth+"),), t.Accept()), IPV4)

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


PLAIN = rule(
    m.Proto("tcp"), m.Ports("tcp", "dport", PortRange(80, 80)), target=t.Jump("ISTIO_INBOUND")
)


# Targets that this program never writes: what becomes of their words.
TARGETS = {
    "LOG": (b"LOG", 0, b"\4\0prefix".ljust(32, b"\0"), "-j LOG"),
    "DNAT": (b"DNAT", 2, bytes(40), "-j DNAT"),
    "MASQUERADE": (b"MASQUERADE", 0, bytes(16), "-j MASQUERADE"),
    "REJECT otherwise": (b"REJECT", 0, struct.pack("=I", 1), "-j REJECT"),
    "REDIRECT without ports": (b"REDIRECT", 0, bytes(16), "-j REDIRECT"),
    "REDIRECT, revised": (b"REDIRECT", 1, bytes(16), "-j REDIRECT"),
    "REDIRECT, empty": (b"REDIRECT", 0, b"", "-j REDIRECT"),
    "TPROXY, revised": (b"TPROXY", 0, bytes(16), "-j TPROXY"),
    "MARK, revised": (b"MARK", 1, bytes(16), "-j MARK"),
    "MARK, empty": (b"MARK", 2, b"", "-j MARK"),
    "CONNMARK, masked": (
        *(b"CONNMARK", 2),
        struct.pack("=IIIBBBx", 0, 1, 2, 0, 0, 1),
        "-j CONNMARK",
    ),
    "CONNMARK, set": (
        *(b"CONNMARK", 2),
        struct.pack("=IIIBBBx", 5, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, 0),
        "-j CONNMARK",
    ),
    "CT without a zone": (b"CT", 2, bytes(100), "-j CT"),
    "CT, revised": (b"CT", 1, bytes(100), "-j CT"),
    "ACCEPT, revised": (b"ACCEPT", 1, bytes(8), "-j ACCEPT"),
    "QUEUE": (b"QUEUE", 0, bytes(8), "-j QUEUE"),
    "none": (b"", 0, bytes(8), ""),
    "a chain with data": (b"ISTIO_OUTPUT", 0, bytes(16), "-j ISTIO_OUTPUT"),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "revision", "data", "words"), TARGETS.values(), ids=list(TARGETS))
def test_other_targets_stay_bytes_and_lead_nowhere(
    family: Family, name: bytes, revision: int, data: bytes, words: str
) -> None:
    entry = with_target(encode(PLAIN, family), family, name, revision, data)

    text = f"-p tcp -m tcp --dport 80 {words}".strip()
    assert decode(entry, family) == ForeignRule(entry, "", text)


def nat_range(flags: int, low: str, high: str, ports: tuple[int, int]) -> bytes:
    """Return the range of addresses and ports that DNAT and SNAT hold since IPv6 has them."""
    packed = [inet_pton(AF_INET6 if ":" in one else AF_INET, one) for one in (low, high)]
    addresses = b"".join(one.ljust(16, b"\0") for one in packed)
    return struct.pack("=I", flags) + addresses + struct.pack(">HH", *ports)


def first_range(flags: int, low: str, high: str, ports: tuple[int, int]) -> bytes:
    """Return the range of addresses and ports as IPv4 had it at first."""
    addresses = inet_pton(AF_INET, low) + inet_pton(AF_INET, high)
    return struct.pack("=II", 1, flags) + addresses + struct.pack(">HH", *ports)


def nflog(size: int, group: int, threshold: int, flags: int, prefix: bytes) -> bytes:
    return struct.pack("=IHHHxx64s", size, group, threshold, flags, prefix)


# Targets of others of which more than the name is read.
OPTIONS = [
    (IPV4, "DNAT", 2, nat_range(3, "127.0.0.1", "127.0.0.1", (15053, 15053)), "127.0.0.1:15053"),
    (IPV4, "DNAT", 0, first_range(3, "127.0.0.1", "127.0.0.1", (15053, 15053)), "127.0.0.1:15053"),
    (IPV4, "DNAT", 0, first_range(1, "10.0.0.1", "10.0.0.9", (0, 0)), "10.0.0.1-10.0.0.9"),
    (IPV6, "DNAT", 2, nat_range(3, "::1", "::1", (15053, 15053)), "[::1]:15053"),
    (IPV6, "DNAT", 2, nat_range(1, "::1", "::1", (0, 0)), "::1"),
    (IPV4, "DNAT", 2, nat_range(6, "0.0.0.0", "0.0.0.0", (1, 9)), ":1-9 --random"),
    (IPV4, "SNAT", 0, first_range(1, "127.0.0.1", "127.0.0.1", (0, 0)), "127.0.0.1"),
    (IPV6, "SNAT", 1, nat_range(25, "::1", "::2", (0, 0)), "::1-::2 --persistent --random-fully"),
    (IPV4, "REDIRECT", 0, first_range(6, "0.0.0.0", "0.0.0.0", (15053, 15053)), "15053 --random"),
    (IPV4, "REDIRECT", 0, first_range(2, "0.0.0.0", "0.0.0.0", (80, 90)), "80-90"),
    (IPV6, "REDIRECT", 0, nat_range(2, "::", "::", (80, 90)), "80-90"),
]


@pytest.mark.parametrize(("family", "name", "revision", "data", "words"), OPTIONS)
def test_where_others_send_connections_is_read(
    family: Family, name: str, revision: int, data: bytes, words: str
) -> None:
    entry = with_target(encode(PLAIN, family), family, name.encode(), revision, data)
    option = {"DNAT": "destination", "SNAT": "source", "REDIRECT": "ports"}[name]

    text = f"-p tcp -m tcp --dport 80 -j {name} --to-{option} {words}"
    assert decode(entry, family) == ForeignRule(entry, "", text)


def test_where_others_send_connections_by_later_means_is_not_guessed() -> None:
    data = nat_range(1 << 9, "::1", "::1", (80, 80))
    entry = with_target(encode(PLAIN, IPV6), IPV6, b"DNAT", 2, data)

    assert decode(entry, IPV6) == ForeignRule(entry, "", "-p tcp -m tcp --dport 80 -j DNAT ...")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            nflog(20, 1337, 1, 1, b"JumpOutbound"),
            " --nflog-prefix JumpOutbound --nflog-group 1337 --nflog-size 20",
        ),
        (
            nflog(64, 2, 5, 0, b'say "x"'),
            ' --nflog-prefix "say \\"x\\"" --nflog-group 2 --nflog-threshold 5',
        ),
        (nflog(0, 0, 1, 0, b""), ""),
        (b"", ""),
    ],
)
def test_where_others_report_packets_is_read(data: bytes, words: str) -> None:
    entry = with_target(encode(PLAIN, IPV4), IPV4, b"NFLOG", 0, data)

    text = f"-p tcp -m tcp --dport 80 -j NFLOG{words}"
    assert decode(entry, IPV4) == ForeignRule(entry, "", text)


# What is put where, counted from the end of the header, and the words for it.
MATCHES = {
    "another name": (2, b"ttl\0", "-p tcp -m ttl ..."),
    "another revision": (31, b"\1", "-p tcp -m tcp ..."),
    "ports from 0": (EXTENSION + 4, struct.pack("=HH", 0, 80), "-p tcp -m tcp ..."),
    "both sides": (EXTENSION, struct.pack("=HHHH", 1, 2, 3, 4), "-p tcp -m tcp ..."),
    "an option": (EXTENSION + 8, b"\1", "-p tcp -m tcp ..."),
    "another inversion": (EXTENSION + 11, b"\4", "-p tcp -m tcp ..."),
    "every port": (EXTENSION + 4, struct.pack("=HH", 0, 65535), "-p tcp -m tcp"),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("position", "data", "words"), MATCHES.values(), ids=list(MATCHES))
def test_other_matches_stay_bytes_and_their_jump_is_known(
    family: Family, position: int, data: bytes, words: str
) -> None:
    entry = put(encode(PLAIN, family), HEADER[family] + position, data)

    assert decode(entry, family) == ForeignRule(entry, "ISTIO_INBOUND", f"{words} -j ISTIO_INBOUND")


@pytest.mark.parametrize(
    ("family", "position", "byte", "text"),
    [
        (IPV4, 82, 0x80, "-p tcp -m tcp --dport 80 -j ISTIO_INBOUND"),
        (IPV4, 82, 0x01, "-p tcp -f -m tcp --dport 80 -j ISTIO_INBOUND"),
        (IPV4, 82, 0x02, "-p tcp -m tcp --dport 80 -g ISTIO_INBOUND"),
        (IPV4, 80, 1, "-p 1 -m tcp --dport 80 -j ISTIO_INBOUND"),
        (IPV4, 80, 132, "-p 132 -m tcp --dport 80 -j ISTIO_INBOUND"),
        (IPV6, 131, 0x80, "-p tcp -m tcp --dport 80 -j ISTIO_INBOUND"),
        (IPV6, 131, 0x05, "-p tcp -m tcp --dport 80 -g ISTIO_INBOUND"),
        (IPV6, 128, 58, "-p 58 -m tcp --dport 80 -j ISTIO_INBOUND"),
    ],
)
def test_other_headers_stay_bytes_and_their_jump_is_known(
    family: Family, position: int, byte: int, text: str
) -> None:
    entry = put(encode(PLAIN, family), position, bytes((byte,)))

    assert decode(entry, family) == ForeignRule(entry, "ISTIO_INBOUND", text)


def test_negated_protocols_by_number() -> None:
    entry = put(encode(Rule((m.Proto("tcp", negated=True),), t.Jump("X")), IPV4), 80, b"\x84")

    assert decode(entry, IPV4) == ForeignRule(entry, "X", "! -p 132 -j X")


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (b"\xff\0\xff\0", "-d 10.0.0.0/255.0.255.0"),
        (b"\0\0\0\xff", "-d 10.0.0.0/0.0.0.255"),
        (b"\xff\xff\0\0", "-d 10.0.0.0/16"),
    ],
)
def test_masks_with_holes_stay_bytes_and_are_spelled_as_they_are(mask: bytes, words: str) -> None:
    entry = put(encode(Rule((m.Destination(TEN), m.Mark(7)), t.Jump("X")), IPV4), 12, mask)
    # A flag that makes it foreign whatever the mask is.
    entry = put(entry, 82, b"\x80")

    assert decode(entry, IPV4) == ForeignRule(entry, "X", f"{words} -m mark --mark 0x7 -j X")


def test_mask_of_the_other_family_with_holes() -> None:
    entry = encode(Rule((m.Source(network("fd00::/16")[0], negated=True),), t.Jump("X")), IPV6)
    entry = put(entry, 32 + 15, b"\xff")

    assert decode(entry, IPV6) == ForeignRule(entry, "X", "! -s fd00::/ffff::ff -j X")


@pytest.mark.parametrize(
    ("name", "mask", "words"),
    [
        (b"+", b"\xff\0\0\0\0", ""),
        (b"\xff\xfe", b"\xff" * 3, "-i \udcff\udcfe "),
        (b"eth0", b"\xff" * 4, "-i eth0 "),
    ],
)
def test_interfaces_that_do_not_print_stay_bytes(name: bytes, mask: bytes, words: str) -> None:
    entry = encode(Rule((m.InInterface("eth0"),), t.Jump("X")), IPV4)
    changed = put(put(entry, 16, name.ljust(5, b"\0")), 48, mask.ljust(5, b"\0"))

    assert decode(changed, IPV4) == ForeignRule(changed, "X", f"{words}-j X")


@pytest.mark.parametrize(
    ("comment", "words"),
    [
        ("plain-word_7", "plain-word_7"),
        ("two words", '"two words"'),
        ("", '""'),
        ('say "hi"', r'"say \"hi\""'),
        ("it's", r'"it\'s"'),
        ("a\\b", r'"a\\b"'),
        ("-j X", '"-j X"'),
    ],
)
def test_comments_are_spelled(comment: str, words: str) -> None:
    plain = encode(Rule((), t.Jump("X")), IPV4)
    body = comment.encode().ljust(256, b"\0")
    match = struct.pack("=H29sB", EXTENSION + 256, b"comment", 0) + body
    entry = plain[: HEADER[IPV4]] + match + plain[HEADER[IPV4] :]
    end = HEADER[IPV4] + len(match)
    entry = put(entry, OFFSET[IPV4], struct.pack("=HH", end, len(entry)))

    assert decode(entry, IPV4) == ForeignRule(entry, "X", f"-m comment --comment {words} -j X")


@given(drawn_rules())
@tried
def test_rules_are_spelled_as_their_words(drawn: tuple[Family, Rule]) -> None:
    family, one = drawn

    assert spelled(encode(one, family), family) == " ".join(rule_words(one, family))


@given(drawn_rules())
@tried
def test_extensions_of_a_rule_are_those_of_its_words(drawn: tuple[Family, Rule]) -> None:
    family, one = drawn
    words = rule_words(one, family)
    renamed = {"state": "conntrack"}
    matches = [renamed.get(after, after) for word, after in pairwise(words) if word == "-m"]
    built_in = isinstance(one.target, t.Jump | t.Return | t.Accept | t.Drop)
    targets = [] if built_in else [words[words.index("-j") + 1]]

    found = extensions(one, family)

    assert [name for name, _, is_target in found if not is_target] == matches
    assert [name for name, _, is_target in found if is_target] == targets


def test_extension_without_any_data_is_one_too() -> None:
    one = rule(m.Proto("tcp"), m.Socket(), target=t.SetMark(0, 0))

    assert extensions(one, IPV4) == (("socket", 3, False), ("MARK", 2, True))


@pytest.mark.parametrize(
    "one",
    [
        Rule(
            (m.Proto("tcp"), m.MultiPorts("dport", (PortRange(80, 80), PortRange(90, 99)))),
            t.Drop(),
        ),
        Rule((m.Owner("gid", IdRange(1, 2), negated=True),), t.Return()),
        Rule((m.CtState(("INVALID", "NEW"), "state", negated=True),), t.Accept()),
        Rule((m.Mark(1, 2, negated=True), m.Socket()), t.SaveMark()),
        Rule((m.Proto("tcp"),), t.Redirect(15001)),
        Rule((m.Proto("tcp"),), t.Tproxy(15001, 1337)),
        Rule((), t.CtZone(2)),
        Rule((), t.SetMark(1)),
        Rule((), t.Reject()),
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


def test_target_that_looks_like_a_chain_by_its_bytes_is_none_by_its_revision() -> None:
    entry = encode(Rule((m.Proto("tcp"),), t.SetMark(0, 0)), IPV4)
    foreign = put(entry, HEADER[IPV4] - 30, b"\x80")

    assert entry.endswith(bytes(8))
    assert decode(entry, IPV4) == Rule((m.Proto("tcp"),), t.SetMark(0, 0))
    assert decode(foreign, IPV4) == ForeignRule(foreign, "", "-p tcp -j MARK --set-xmark 0x0/0x0")


@pytest.mark.parametrize(
    "one",
    [
        m.Source(TEN),
        m.Destination(TEN),
        m.InInterface("lo"),
        m.OutInterface("lo"),
        m.Proto("tcp"),
        t.Jump("X"),
    ],
)
def test_only_extensions_are_encoded_as_such(one: m.Match | t.Jump) -> None:
    match: Any = one

    with pytest.raises(AssertionError):
        match_parts(match)


def test_only_targets_are_encoded_as_such() -> None:
    nonsense: Any = m.Proto("tcp")

    with pytest.raises(AssertionError):
        encode(Rule((), nonsense), IPV6)
