"""What nobody here writes: expressions, objects and sets that are kept and not followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from istio_init.apply import nftables
from istio_init.diagnose.findings import findings
from istio_init.formats.netlink import attribute, be32, packed_name, read_attributes
from istio_init.formats.nf_tables import expressions as e
from istio_init.formats.nf_tables import iptables, messages, native
from istio_init.formats.nf_tables.messages import Contents, KernelChain, KernelRule, KernelTable
from istio_init.formats.nf_tables.own_tables import named_set
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import Chain, ForeignRule, Oddity, Ruleset, make_table, rule
from istio_init.rules.names import NATIVE_TABLES
from istio_init.rules.ranges import IPV4, IPV6, PortRange
from istio_init.rules.sets import AddressField, InSet, OwnerField, PortField

if TYPE_CHECKING:
    from istio_init.rules.model import Table

REGISTER = be32(1)
TCP = e.meta(e.META_L4PROTO) + e.compare("==", b"\6")
IPV4_ONLY = e.meta(e.META_NFPROTO) + e.compare("==", b"\2")
DROP = e.verdict(e.DROP)
TO_PORT = e.payload(2, 2, 2)
TO_ADDRESS = e.payload(1, 16, 4)


def opaque(name: str, *given: tuple[int, bytes]) -> bytes:
    return e.expression(name, *(attribute(kind, value) for kind, value in given))


# Expressions that are not followed, and what each is called.
UNFOLLOWED = {
    "a direction": (opaque("ct", (1, REGISTER), (2, be32(8)), (3, b"\0")), "ct"),
    "a key of the connection": (opaque("ct", (1, REGISTER), (2, be32(13))), "ct"),
    "a key set for a direction": (opaque("ct", (4, REGISTER), (2, be32(3)), (3, b"\0")), "ct"),
    "a key set to nothing known": (e.set_meta(e.META_MARK), "meta"),
    "a socket's mark": (opaque("socket", (1, be32(1)), (2, REGISTER)), "socket"),
    "several numbers": (
        e.meta(3) + opaque("byteorder", (1, REGISTER), (2, REGISTER), (3, be32(1)), (4, be32(4))),
        "byteorder",
    ),
    "numbers of two sizes": (
        e.meta(3)
        + opaque(
            "byteorder",
            *((1, REGISTER), (2, REGISTER), (3, be32(1)), (4, be32(4)), (5, be32(2))),
        ),
        "byteorder",
    ),
    "a header's number": (TO_PORT + e.network_order(2), "byteorder"),
    "a shift": (
        e.meta(3) + opaque("bitwise", (1, REGISTER), (2, REGISTER), (6, be32(1))),
        "bitwise",
    ),
    "a mask for nothing known": (e.masked(bytes(4)), "bitwise"),
    "a map": (
        e.meta(3) + opaque("lookup", (1, b"m\0"), (2, REGISTER), (3, REGISTER)),
        "lookup",
    ),
    "a lookup of nothing known": (e.lookup("s", negated=False), "lookup"),
    "ends of two sizes": (
        TO_PORT
        + e.expression(
            "range",
            *(attribute(1, REGISTER), attribute(2, be32(0))),
            *(attribute(3, attribute(1, b"\0\1")), attribute(4, attribute(1, b"\1"))),
        ),
        "range",
    ),
    "two ports": (
        opaque("redir", (1, REGISTER), (2, be32(2)), (3, be32(2))),
        "redir",
    ),
    "a port that is not known": (opaque("redir", (1, REGISTER), (3, be32(2))), "redir"),
    "an address to go to": (opaque("tproxy", (1, be32(2)), (2, REGISTER), (3, REGISTER)), "tproxy"),
    "a socket at no known port": (opaque("tproxy", (1, be32(2)), (3, REGISTER)), "tproxy"),
    "a register for verdicts": (
        opaque("meta", (2, be32(3)), (1, be32(0))),
        "meta",
    ),
}


@pytest.mark.parametrize(("expressions", "name"), UNFOLLOWED.values(), ids=UNFOLLOWED)
def test_what_is_not_followed_is_opaque(expressions: bytes, name: str) -> None:
    assert e.Reader().statements(expressions)[-1] == e.Opaque(name)
    assert isinstance(iptables.Reader(IPV4).rule(expressions + DROP), ForeignRule)


def test_what_a_lost_register_held_is_not_known_any_more() -> None:
    read = e.Reader().statements(e.meta(3) + opaque("hash") + e.compare("==", bytes(4)))

    assert read == (e.Opaque("hash"), e.Opaque("cmp"))


# Rules that can be followed and are none of the model's.
BEYOND = {
    "less": TCP + TO_PORT + e.compare("<", b"\0\7") + DROP,
    "a range that holds nothing": TCP + TO_PORT + e.within(b"\0\7", b"\0\1", negated=False) + DROP,
    "a range of marks": (
        e.meta(3) + e.network_order(4) + e.within(bytes(4), b"\0\0\0\1", negated=False) + DROP
    ),
    "a range of interfaces": e.meta(4) + e.within(bytes(4), b"\0\0\0\1", negated=False) + DROP,
    "the time to live": e.payload(1, 8, 1) + e.compare("==", b"\1") + DROP,
    "too long an address": e.payload(1, 12, 6) + e.compare("==", bytes(6)) + DROP,
    "port 0": TCP + TO_PORT + e.compare("==", b"\0\0") + DROP,
    "half a port": TCP + e.payload(2, 2, 1) + e.compare("==", b"\0") + DROP,
    "sequence numbers": TCP + e.payload(2, 4, 2) + e.compare("==", b"\0\1") + DROP,
    "every interface": e.meta(6) + e.compare("==", b"") + DROP,
    "an interface with a plus": e.meta(6) + e.compare("==", b"a+\0") + DROP,
    "an interface that is no text": e.meta(6) + e.compare("==", b"\xff\0") + DROP,
    "another protocol": e.meta(16) + e.compare("==", b"\x84") + DROP,
    "flags of the connection": e.ct(0) + e.masked(b"\x40\0\0\0") + e.compare("!=", bytes(4)) + DROP,
    "a mark that is flipped": (
        e.meta(3) + e.masked(b"\xff" * 4, b"\1\0\0\0") + e.compare("==", bytes(4)) + DROP
    ),
    "half a mark": e.immediate(b"\0\1") + e.set_meta(3),
    "a mark made of another": e.ct(3) + e.masked(b"\1\0\0\0") + e.set_meta(3),
    "zone 0": e.immediate(b"\0\0") + e.set_ct(17),
    "half a zone": e.immediate(b"\0") + e.set_ct(17),
    "a zone of the packet's": e.meta(3) + e.set_ct(17),
    "another answer": e.reject(0, 1),
    "a reset": e.reject(1, 0),
    "a port of another protocol": TCP + e.xt_match("udp", 0, b"\1\0\1\0\1\0\2\0" + bytes(8)) + DROP,
    "a match of another revision": e.xt_match("mark", 9, bytes(16)) + DROP,
    "a target of another revision": e.xt_target("MARK", 9, bytes(8)),
    "half a match": e.xt_match("owner", 1, bytes(3)) + DROP,
}


@pytest.mark.parametrize("expressions", BEYOND.values(), ids=BEYOND)
def test_what_is_beyond_the_model_is_kept(expressions: bytes) -> None:
    found = iptables.Reader(IPV4).rule(expressions)

    assert isinstance(found, ForeignRule)
    assert iptables.kept(found) == (expressions, b"")


def test_the_first_port_is_a_port_and_half_of_a_pattern_s_is_not() -> None:
    reader = iptables.Reader(IPV4)
    for port in (b"\0\1", b"\0\0", b"\0\2"):
        found = reader.rule(TCP + TO_PORT + e.compare("==", port) + e.COUNTER + DROP)
        assert isinstance(found, ForeignRule) == (port == b"\0\0")


def test_patterns_of_one_length_are_few() -> None:
    reader = iptables.Reader(IPV4)
    for mark in range(20):
        written = iptables.encode(rule(m.ConnMark(mark), m.Mark(mark), target=t.Drop()), IPV4)
        native_mark = e.meta(3) + e.compare("==", mark.to_bytes(4, "little")) + DROP
        assert reader.rule(written) == rule(m.ConnMark(mark), m.Mark(mark), target=t.Drop())
        assert reader.rule(native_mark) == rule(m.Mark(mark), target=t.Drop())
    between = e.payload(2, 2, 2) + e.within(b"\0\1", b"\0\2", negated=False)
    for _ in range(2):
        assert reader.rule(TCP + between + DROP) == rule(
            m.Proto("tcp"), m.Ports("tcp", "dport", PortRange(1, 2)), target=t.Drop()
        )


# Objects of a table of our own.

TABLE = NATIVE_TABLES["nat"]


def contents(
    *rules: bytes,
    chain: str = "istio-output",
    sets: tuple[tuple[messages.KernelSet, tuple[bytes, ...]], ...] = (),
    others: tuple[tuple[int, bytes], ...] = (),
) -> Contents:
    chains = (KernelChain("inet", TABLE, chain, None),)
    table = KernelTable("inet", TABLE, 0)
    told = tuple(KernelRule("inet", TABLE, chain, at, one, b"") for at, one in enumerate(rules))
    return Contents(1, (table,), chains, told, sets, others, ())


def set_of(one: InSet, **changes: int) -> tuple[messages.KernelSet, tuple[bytes, ...]]:
    """Return a set as the kernel tells of it; it has the name ``s``."""
    image = tuple(nftables._set_messages("nat", named_set(one)))
    found = messages.read_set(image[0].body).replace(name="s", **changes)
    return found, tuple(message.body for message in image[1:])


NETWORKS = InSet(AddressField("daddr", IPV4), ((1, 5), (7, 9)))
PORTS = InSet(PortField("dport", "tcp"), ((1, 1), (3, 3)))
IDS = InSet(OwnerField("uid"), ((1, 1), (3, 3)))
ID_RANGES = InSet(OwnerField("uid"), ((1, 1000), (3000, 5000)))
IN_S = e.lookup("s", negated=False)

ODD_LOOKUPS = {
    "no such set": (TCP + TO_PORT + IN_S, ()),
    "a set of something else": (TCP + TO_PORT + IN_S, (set_of(NETWORKS),)),
    "a set of marks": (TCP + TO_PORT + IN_S, (set_of(PORTS, key_type=19),)),
    "a set with a time-out": (TCP + TO_PORT + IN_S, (set_of(PORTS, flags=0x10),)),
    "an empty set": (TCP + TO_PORT + IN_S, ((set_of(PORTS)[0], ()),)),
    "elements of another size": (
        IPV4_ONLY + TO_ADDRESS + IN_S,
        ((set_of(NETWORKS)[0], set_of(PORTS)[1]),),
    ),
    "an address of either family": (TO_ADDRESS + IN_S, (set_of(NETWORKS),)),
    "an address under a mask": (
        IPV4_ONLY + TO_ADDRESS + e.masked(b"\xff" * 4) + IN_S,
        (set_of(NETWORKS),),
    ),
    "half an address": (IPV4_ONLY + e.payload(1, 16, 2) + IN_S, (set_of(NETWORKS),)),
    "a port of either protocol": (TO_PORT + IN_S, (set_of(PORTS),)),
    "a place behind the ports": (TCP + e.payload(2, 4, 2) + IN_S, (set_of(PORTS),)),
    "an interface": (e.meta(6) + IN_S, (set_of(PORTS),)),
    "ids the wrong way round": (e.meta(10) + e.network_order(4) + IN_S, (set_of(IDS),)),
    "ranges of ids the wrong way round": (e.meta(10) + IN_S, (set_of(ID_RANGES),)),
    "two sets of values": (
        TCP + TO_PORT + IN_S + e.payload(2, 0, 2) + IN_S,
        (set_of(PORTS),),
    ),
    "addresses from last to first": (
        IPV4_ONLY + TO_ADDRESS + e.within(b"\0\0\0\2", b"\0\0\0\1", negated=False),
        (),
    ),
    "two families": (IPV4_ONLY + e.meta(15) + e.compare("==", b"\x0a"), ()),
}


@pytest.mark.parametrize(("asked", "sets"), ODD_LOOKUPS.values(), ids=ODD_LOOKUPS)
def test_a_lookup_that_is_none_of_ours_is_kept(
    asked: bytes, sets: tuple[tuple[messages.KernelSet, tuple[bytes, ...]], ...]
) -> None:
    both = native.read_table("nat", contents(asked + DROP, sets=sets), e.Reader())

    assert both is not None
    chain = both[IPV4].chain("ISTIO_OUTPUT")
    assert chain is not None
    assert [type(one) for one in chain.rules] == [ForeignRule]


@pytest.mark.parametrize(
    ("asked", "one"),
    [
        (TCP + TO_PORT, PORTS),
        (e.meta(10), IDS),
        (e.meta(11), InSet(OwnerField("gid"), ((1, 1), (3, 3)))),
        (e.meta(10) + e.network_order(4), ID_RANGES),
        (IPV4_ONLY + TO_ADDRESS, NETWORKS),
        (IPV4_ONLY + e.payload(1, 12, 4), NETWORKS.replace(field=AddressField("saddr", IPV4))),
    ],
)
def test_and_ours_are_read(asked: bytes, one: InSet) -> None:
    found = native.read_table("nat", contents(asked + IN_S + DROP, sets=(set_of(one),)), e.Reader())

    assert found is not None
    chain = found[IPV4].chain("ISTIO_OUTPUT")
    assert chain is not None
    assert len(chain.rules) > 1
    assert not any(isinstance(rule_, ForeignRule) for rule_ in chain.rules)
    assert found[IPV4].oddities == ()


def test_what_no_rule_of_ours_uses_is_an_oddity() -> None:
    mine = set_of(PORTS)
    nameless = (mine[0].replace(name="__set0", flags=messages.ANONYMOUS), mine[1])
    both = native.read_table(
        "nat",
        contents(DROP, sets=(mine, nameless), others=((messages.NEW_OBJECT, b""),)),
        e.Reader(),
    )

    assert both is not None
    assert [one.name for one in both[IPV6].oddities] == ["set s", "objects"]


def test_a_jump_to_chains_of_others_and_a_socket_chain_of_nobody() -> None:
    found = native.read_table("nat", contents(e.verdict(e.JUMP, "theirs")), e.Reader())
    assert found is not None
    chain = found[IPV4].chain("ISTIO_OUTPUT")
    assert chain is not None
    assert [one.jump for one in chain.rules if isinstance(one, ForeignRule)] == ["theirs"]

    # The chain behind -m socket, to which nothing leads.
    alone = contents(*native.socket_rules("istio-divert"), chain="istio-socket")
    read = native.read_table("nat", alone, e.Reader())
    assert read is not None
    assert [one.name for one in read[IPV4].oddities] == ["chain istio-socket"]


def test_sockets_are_no_condition_of_a_line() -> None:
    with pytest.raises(AssertionError, match="chain of its own"):
        native._condition(m.Socket())


# Messages.


def test_objects_of_others_are_deleted_and_made_again() -> None:
    body = messages.asked("inet", TABLE, "c") + attribute(3, be32(1)) + attribute(4, b"data")

    assert messages.name_in(body) == "c"
    assert messages.replayed(messages.NEW_OBJECT, body).body == body
    gone = messages.deleted(messages.NEW_OBJECT, body)
    assert gone.kind == messages.DELETE_OBJECT
    assert dict(read_attributes(gone.body[4:])).keys() == {1, 2, 3}
    flow = messages.deleted(messages.NEW_FLOWTABLE, body)
    assert flow.kind == messages.DELETE_FLOWTABLE
    assert dict(read_attributes(flow.body[4:])).keys() == {1, 2}
    for message in (
        messages.delete_table("inet", TABLE),
        messages.delete_chain("inet", TABLE, "c"),
        messages.flush_chain("inet", TABLE, "c"),
        messages.delete_rule("inet", TABLE, "c", 7),
        messages.delete_set("inet", TABLE, "s"),
    ):
        assert messages.read_table(message.body).name == TABLE


def test_a_set_is_made_again_and_found_by_its_number() -> None:
    one, elements = set_of(PORTS)
    nameless = one.replace(name="__set7", flags=messages.ANONYMOUS)
    made, filled = messages.set_again(nameless, (*elements, messages.generic("inet")), 3)

    told = dict(read_attributes(made.body[4:]))
    assert (told[2], told[10]) == (b"__set%d\0", be32(3))
    assert dict(read_attributes(filled.body[4:]))[4] == be32(3)
    looked_up = e.with_set_numbers(TO_PORT + e.lookup("__set7", negated=True) + DROP, {"__set7": 3})
    assert b"__set%d\0" in looked_up
    (_, lookup, _) = [value for _, value in read_attributes(looked_up)]
    given = dict(read_attributes(dict(read_attributes(lookup))[2]))
    assert given == {1: packed_name("__set%d"), 2: REGISTER, 4: be32(3), 5: be32(1)}
    assert e.with_set_numbers(looked_up, {}) == looked_up


def test_many_elements_go_into_several_messages() -> None:
    parts = [messages.element(number.to_bytes(16, "big")) for number in range(5000)]
    made = list(messages.new_elements("inet", TABLE, "s", parts))

    assert len(made) == 3
    assert all(len(one.body) < 1 << 16 for one in made)
    found = [element for one in made for element in messages.read_elements(one.body)]
    assert [int.from_bytes(one.key, "big") for one in found] == list(range(5000))


@pytest.mark.parametrize("text", ["-j RETURN", "-d 10.0.0.1/32 -j DROP"])
def test_bytes_that_are_no_expressions_are_still_a_rule(text: str) -> None:
    found = iptables.Reader(IPV4).rule(b"\3\0" + text.encode())

    assert isinstance(found, ForeignRule)
    assert found.text == '-m nft:"?" ...'


def test_what_a_batch_asks_for_is_read_as_it_was_meant() -> None:
    hooked = messages.hook_of("nat", "POSTROUTING")
    made = messages.new_chain("inet", TABLE, "c", hooked)
    written = messages.new_rule("inet", TABLE, "c", DROP, notes=b"\0\2x\0", before=7)
    compatible = messages.new_rule("inet", TABLE, "c", DROP, protocol=(6, True))

    assert messages.read_table(messages.new_table("inet", TABLE, 1).body).flags == 1
    assert messages.read_chain(made.body) == KernelChain("inet", TABLE, "c", hooked)
    assert hooked.priority == 100
    assert dict(read_attributes(written.body[4:]))[6] == (7).to_bytes(8, "big")
    assert written.flags & messages.APPEND == 0
    assert dict(read_attributes(dict(read_attributes(compatible.body[4:]))[5])) == {
        1: be32(6),
        2: be32(2),
    }
    assert compatible.flags & messages.APPEND
    assert messages.read_generation(messages.generic() + attribute(1, be32(9))) == 9
    assert messages.family_of(b"") == messages.family_of(b"\7\0\0\0") == ""


def test_counters_of_what_this_program_wrote_make_no_difference() -> None:
    one = rule(m.Proto("tcp", negated=True), m.InInterface("lo"), target=t.Accept())
    reader = iptables.Reader(IPV4)
    written = reader.expect(one)
    counted = written.replace(attribute(1, bytes(8)), attribute(1, b"\0\0\0\0\0\0\0\7"))

    assert counted != written
    assert reader.rule(counted) is one


def test_what_nat_of_iptables_does_is_spelled() -> None:
    ends = bytes((10, 0, 0, 0)), bytes((10, 255, 255, 255))
    netmap = be32(0) + (1).to_bytes(4, "little") + ends[0] + ends[1] + bytes(4)
    plain = (3).to_bytes(4, "little") + (ends[0] + bytes(12)) * 2 + b"\0\x05\0\x07" + bytes(8)
    random = (7).to_bytes(4, "little") + plain[4:]

    def text(name: str, revision: int, data: bytes) -> str:
        found = iptables.Reader(IPV4).rule(e.COUNTER + e.xt_target(name, revision, data))
        assert isinstance(found, ForeignRule)
        return found.text

    assert text("NETMAP", 0, netmap) == "-j NETMAP --to 10.0.0.0/8"
    assert text("DNAT", 2, plain) == "-j DNAT --to-destination 10.0.0.0:5-7"
    assert text("SNAT", 2, random) == "-j SNAT --to-source 10.0.0.0:5-7 --random"
    assert text("DNAT", 2, b"\1") == "-j DNAT"
    rule6 = iptables.Reader(IPV6).rule(e.COUNTER + e.xt_target("DNAT", 2, plain))
    assert isinstance(rule6, ForeignRule)
    assert rule6.text == "-j DNAT --to-destination [a00::]:5-7"


def test_an_oddity_is_a_finding_where_a_run_would_mend_it_or_ours_do_nothing() -> None:
    asleep, more = Oddity("flags dormant", "no effect", idle=True), Oddity("set s", "nothing")
    ours = make_table("nat", {"ISTIO_OUTPUT": Chain("ISTIO_OUTPUT", None)})
    theirs = make_table("nat", {})

    def names(live: Table, wanted: Table) -> list[str]:
        rulesets = (Ruleset(IPV4, (live,)), Ruleset(IPV4, (wanted,)))
        found = findings(*rulesets, Ruleset(IPV4, ()))
        return [one.rule for one in found if one.kind == "extra"]

    both = (asleep, more)
    assert names(ours.replace(oddities=both), ours) == ["flags dormant", "set s"]
    assert names(ours.replace(oddities=both), ours.replace(oddities=both)) == ["flags dormant"]
    assert names(theirs.replace(oddities=both), theirs.replace(oddities=both)) == []
