"""The codec of nf_tables on bytes: what is written is read back, and garbage harms nobody."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.apply import nftables
from istio_init.errors import ParseError, UnsupportedError
from istio_init.formats.iptables import rule_words
from istio_init.formats.netlink import attribute, be32, be64, read_attributes
from istio_init.formats.nf_tables import expressions as e
from istio_init.formats.nf_tables import fields, iptables, messages, native
from istio_init.formats.nf_tables.messages import Contents, KernelChain, KernelRule, KernelTable
from istio_init.formats.nf_tables.own_tables import SOCKET_CHAIN, SetType, spans_of
from istio_init.formats.save_reader import parse_rule
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import Chain, ForeignRule, Oddity, Rule, Ruleset, make_table, rule
from istio_init.rules.names import ISTIO_DIVERT, ISTIO_INBOUND, ISTIO_OUTPUT, NATIVE_TABLES
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6, Network, PortRange
from istio_init.rules.sets import canonical
from tests import strategies
from tests.captured import CALLS, CAPTURES
from tests.plans import plan_of

if TYPE_CHECKING:
    from pathlib import Path

    from istio_init.apply.nftables import _Image
    from istio_init.rules.model import Table
    from istio_init.rules.ranges import Family

TEN = Network(IPV4, bytes((10, 0, 0, 0)), 8)
TCP = m.Proto("tcp")


# Attributes.


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))))
def test_attributes_survive(wished: list[tuple[int, bytes]]) -> None:
    data = b"".join(attribute(kind, value) for kind, value in wished)

    assert list(read_attributes(data)) == wished
    assert len(data) % 4 == 0


@pytest.mark.parametrize("data", [b"\3\0\1\0", b"\0\0\0\0", b"\x09\0\1\0aaaa"])
def test_an_attribute_stays_within_its_message(data: bytes) -> None:
    with pytest.raises(ValueError, match="over the end"):
        list(read_attributes(data))


# Rules of iptables-nft.


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_a_rule_of_iptables_is_read_as_it_was_written(family: Family, data: st.DataObject) -> None:
    one = data.draw(strategies.rules(family))
    written = iptables.encode(one, family)

    assert iptables.Reader(family).rule(written) == one
    knowing = iptables.Reader(family)
    assert knowing.expect(one) == written
    assert knowing.rule(written) is one


@given(data=st.data())
def test_counters_make_no_difference(data: st.DataObject) -> None:
    one = data.draw(strategies.rules(IPV4))
    counted = e.expression("counter", attribute(1, be64(7)), attribute(2, be64(700)))
    written = iptables.encode(one, IPV4)
    live = written.replace(e.COUNTER, counted)

    assert live != written
    assert e.without_counts(live) == written
    assert iptables.Reader(IPV4).rule(live) == one


def test_what_looks_like_a_counter_in_a_comment_stays_as_it_is() -> None:
    inside = e.expression("counter", attribute(1, be64(7)), attribute(2, be64(700)))
    comment = e.xt_match("comment", 0, inside.ljust(256, b"\0"))
    found = comment + e.COUNTER + e.verdict(e.RETURN)

    assert e.without_counts(found) == found


def reported(group: int, prefix: bytes = b"", size: int = 0, threshold: int = 0) -> bytes:
    """Return the expression that sends packets to an NFLOG group."""
    given = [attribute(1, group.to_bytes(2, "big"))]
    given += [attribute(2, prefix + b"\0")] if prefix else []
    given += [attribute(3, size.to_bytes(4, "big"))] if size else []
    given += [attribute(4, threshold.to_bytes(2, "big"))] if threshold else []
    return e.expression("log", *given)


DNAT = e.xt_target("DNAT", 2, bytes(48))
TO_PORT_22 = e.payload(2, 2, 2) + e.compare("==", b"\0\x16")
L4_TCP = e.meta(e.META_L4PROTO) + e.compare("==", b"\6")
ADDRESS = e.payload(1, 16, 4)


@pytest.mark.parametrize(
    ("expressions", "jump", "text"),
    [
        (L4_TCP + TO_PORT_22 + e.COUNTER + DNAT, "", "-p tcp -m tcp --dport 22 -j DNAT"),
        (TO_PORT_22 + e.COUNTER + e.verdict(e.DROP), "", "-m nft:payload ... -j DROP"),
        (L4_TCP + e.COUNTER + e.verdict(e.GOTO, "FOO"), "FOO", "-p tcp -g FOO"),
        (L4_TCP + e.COUNTER, "", "-p tcp"),
        (e.COUNTER + e.verdict(7), "", "-j 7"),
        (
            e.meta(e.META_L4PROTO) + e.compare("!=", b"\1") + e.verdict(e.DROP),
            "",
            "! -p 1 -j DROP",
        ),
        (
            ADDRESS + e.lookup("bad guys", negated=True) + e.verdict(e.DROP),
            "",
            '-m nft:payload ! --set "bad guys" -j DROP',
        ),
        (
            e.xt_match("comment", 0, b'half a " quote'.ljust(256, b"\0")) + e.verdict(e.ACCEPT),
            "",
            '-m comment --comment "half a \\" quote" -j ACCEPT',
        ),
        (e.expression("limit") + e.verdict(e.ACCEPT), "", "-m nft:limit ... -j ACCEPT"),
        (L4_TCP + e.immediate(b"\0\x09") + e.expression("nat"), "", "-p tcp -j DNAT"),
        (
            L4_TCP + reported(group=7, prefix=b"J", size=20, threshold=2),
            "",
            "-p tcp -j NFLOG --nflog-prefix J --nflog-group 7 --nflog-size 20 --nflog-threshold 2",
        ),
        (reported(group=7) + L4_TCP, "", "-m nft:log ... -p tcp"),
        (L4_TCP + e.expression("log"), "", "-p tcp -j LOG"),
        (e.expression("log") + e.verdict(e.DROP), "", "-m nft:log ... -j DROP"),
        (
            L4_TCP + e.redirect(80) + e.verdict(e.DROP),
            "",
            "-p tcp -j REDIRECT --to-ports 80 -j DROP",
        ),
        (L4_TCP + e.expression("redir"), "", "-p tcp -j REDIRECT"),
        (L4_TCP + e.reject(1, 0), "", "-p tcp -j REJECT"),
        (e.immediate(b"\0\1") + e.set_meta(15), "", "-m nft:meta ..."),
        (e.tproxy(2, 80), "", "-m nft:tproxy ..."),
        # A prefix with holes, and one with addresses that are not in it.
        (
            ADDRESS + e.masked(b"\xff\0\xff\0") + e.compare("==", b"\1\0\3\0") + e.verdict(e.DROP),
            "",
            "-m nft:payload ... -j DROP",
        ),
        (
            ADDRESS + e.masked(b"\xff\0\0\0") + e.compare("==", b"\1\1\1\1") + e.verdict(e.DROP),
            "",
            "-m nft:payload ... -j DROP",
        ),
        # What was in the register is not known behind an expression that is not.
        (
            e.meta(e.META_MARK) + e.expression("hash") + e.compare("==", bytes(4)),
            "",
            "-m nft:hash ... -m nft:cmp ...",
        ),
        # The same part of the header twice, which iptables has once.
        (L4_TCP + L4_TCP + e.verdict(e.DROP), "", "-p tcp -p tcp -j DROP"),
        (
            e.immediate(b"\0\0\0\5") + e.set_meta(15) + e.verdict(e.DROP),
            "",
            "-m nft:meta ... -j DROP",
        ),
    ],
)
def test_a_rule_of_others_is_kept_and_shown(expressions: bytes, jump: str, text: str) -> None:
    found = iptables.Reader(IPV4).rule(expressions)

    assert isinstance(found, ForeignRule)
    assert (found.jump, found.text) == (jump, text)
    assert iptables.kept(found) == (expressions, b"")


def test_a_note_of_nft_makes_a_rule_somebody_elses() -> None:
    expressions = e.COUNTER + e.verdict(e.JUMP, ISTIO_OUTPUT)
    note = b"\0\x06hello\0"
    found = iptables.Reader(IPV4).rule(expressions, note)

    assert isinstance(found, ForeignRule)
    assert found.text == "-m comment --comment hello -j ISTIO_OUTPUT"
    assert found.jump == ISTIO_OUTPUT
    assert iptables.kept(found) == (expressions, note)
    assert messages.comment_in(b"\7\1\0") == "..."
    assert messages.comment_in(b"") == ""


@pytest.mark.parametrize("raw", ["-j RETURN", b"\1", b""])
def test_rules_that_come_from_elsewhere_cannot_be_written(raw: str | bytes) -> None:
    with pytest.raises(ParseError, match="does not come from nf_tables"):
        iptables.kept(ForeignRule(raw))


def test_protocols_are_told_to_the_kernel() -> None:
    udp = ForeignRule(attribute(4, e.meta(e.META_L4PROTO) + e.compare("!=", b"\x11")))

    assert iptables.protocol_of(rule(TCP, target=t.Return())) == (6, False)
    assert iptables.protocol_of(rule(target=t.Return())) == (0, False)
    assert iptables.protocol_of(udp) == (17, True)
    assert iptables.protocol_of(ForeignRule(attribute(4, e.COUNTER))) == (0, False)


def _mangled(data: bytes, cuts: list[tuple[int, int]]) -> bytes:
    found = bytearray(data)
    for position, value in cuts:
        found[position % len(found)] = value
    return bytes(found)


mangled_rules = st.builds(
    _mangled,
    strategies.rules(IPV4).map(lambda one: iptables.encode(one, IPV4)),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=6),
)


@given(data=st.data(), family=st.sampled_from(FAMILIES))
def test_rules_of_one_pattern_are_read_like_the_first_of_them(
    data: st.DataObject, family: Family
) -> None:
    first = data.draw(strategies.rules(family))
    reader = iptables.Reader(family)
    for one in data.draw(st.lists(_alike(first, family), min_size=1, max_size=6)):
        written = iptables.encode(one, family)
        assert reader.rule(written) == iptables.Reader(family).rule(written) == one


@st.composite
def _alike(draw: st.DrawFn, first: Rule, family: Family) -> Rule:
    """Return a rule whose addresses and ports are others."""
    changed: list[m.Match] = []
    for match in first.matches:
        match match:
            case m.Source(network) | m.Destination(network) if network.prefix:
                wished = draw(strategies.networks(family, network.prefix))
                kept = wished if wished.prefix == network.prefix else network
                changed.append(match.replace(network=kept))
            case m.Ports():
                changed.append(match.replace(ports=draw(strategies.port_ranges)))
            case _:
                changed.append(match)
    return rule(*changed, target=first.target)


@given(mangled_rules, st.data())
def test_what_only_looks_like_a_known_pattern_is_read_by_itself(
    mangled: bytes, data: st.DataObject
) -> None:
    reader = iptables.Reader(IPV4)
    for one in data.draw(st.lists(strategies.rules(IPV4), max_size=5)):
        reader.rule(iptables.encode(one, IPV4))

    assert reader.rule(mangled) == iptables.Reader(IPV4).rule(mangled)


@given(data=st.data())
def test_a_byte_more_or_less_in_a_known_rule_is_seen(data: st.DataObject) -> None:
    one = data.draw(strategies.rules(IPV4))
    written = iptables.encode(one, IPV4)
    reader = iptables.Reader(IPV4)
    reader.rule(written)
    changed = _mangled(written, [(data.draw(st.integers(0, 4000)), data.draw(st.integers(0, 255)))])

    assert reader.rule(changed) == iptables.Reader(IPV4).rule(changed)


OTHER_WAYS = {
    "the protocol from the header": (
        e.payload(1, 9, 1) + e.compare("==", b"\6") + e.COUNTER + e.verdict(e.ACCEPT),
        rule(TCP, target=t.Accept()),
    ),
    "two ports at once": (
        L4_TCP + e.payload(2, 0, 4) + e.compare("==", b"\0\1\0\2") + e.verdict(e.ACCEPT),
        rule(
            TCP,
            m.Ports("tcp", "sport", PortRange(1, 1)),
            m.Ports("tcp", "dport", PortRange(2, 2)),
            target=t.Accept(),
        ),
    ),
    "two addresses at once": (
        e.payload(1, 12, 8)
        + e.compare("==", bytes((10, 0, 0, 1, 10, 0, 0, 2)))
        + e.verdict(e.DROP),
        rule(
            m.Source(Network(IPV4, bytes((10, 0, 0, 1)), 32)),
            m.Destination(Network(IPV4, bytes((10, 0, 0, 2)), 32)),
            target=t.Drop(),
        ),
    ),
    "a range as two comparisons": (
        L4_TCP
        + e.payload(2, 2, 2)
        + e.compare(">=", b"\0\1")
        + e.compare("<=", b"\0\2")
        + e.verdict(e.DROP),
        rule(TCP, m.Ports("tcp", "dport", PortRange(1, 2)), target=t.Drop()),
    ),
    "a short prefix under a mask": (
        e.payload(1, 16, 2)
        + e.masked(b"\xff\x80")
        + e.compare("==", b"\x0a\x80")
        + e.verdict(e.DROP),
        rule(m.Destination(Network(IPV4, bytes((10, 128, 0, 0)), 9)), target=t.Drop()),
    ),
    "masks one behind the other": (
        e.meta(e.META_MARK)
        + e.masked(fields.WORD.pack(0xFF))
        + e.masked(fields.WORD.pack(0x0F))
        + e.compare("==", fields.WORD.pack(5))
        + e.verdict(e.DROP),
        rule(m.Mark(5, 0x0F), target=t.Drop()),
    ),
}


@pytest.mark.parametrize(("expressions", "found"), OTHER_WAYS.values(), ids=OTHER_WAYS)
def test_the_same_said_in_another_way(expressions: bytes, found: Rule) -> None:
    assert iptables.Reader(IPV4).rule(expressions) == found


def test_long_and_short_registers_are_the_same_memory() -> None:
    short = be32(8)
    loaded = e.expression("meta", attribute(2, be32(e.META_MARK)), attribute(1, short))
    compared = e.meta(e.META_MARK).replace(b"meta", b"meta") + e.expression(
        "cmp", attribute(1, short), attribute(2, be32(0)), attribute(3, attribute(1, bytes(4)))
    )
    lost = loaded + e.payload(1, 12, 4) + compared[len(e.meta(e.META_MARK)) :]

    assert iptables.Reader(IPV4).rule(compared + e.verdict(e.DROP)) == rule(
        m.Mark(0), target=t.Drop()
    )
    # The second load overwrote what the first one left.
    assert iptables.Reader(IPV4).rule(lost + e.verdict(e.DROP)) == rule(
        m.Source(Network(IPV4, bytes(4), 32)), target=t.Drop()
    )


# Garbage.


@given(st.one_of(st.binary(max_size=300), mangled_rules), st.binary(max_size=20))
def test_no_bytes_make_the_reader_fail(expressions: bytes, notes: bytes) -> None:
    found = iptables.Reader(IPV4).rule(expressions, notes)

    assert isinstance(found, Rule | ForeignRule)
    assert " ".join(rule_words(found, IPV4)) or isinstance(found, ForeignRule)
    live = KernelRule("inet", NATIVE_TABLES["nat"], "output", 1, expressions, notes)
    chain = KernelChain("inet", NATIVE_TABLES["nat"], "output", messages.hook_of("nat", "OUTPUT"))
    both = native.read_table("nat", _contents("nat", (chain,), (live,)), e.Reader())
    assert both is not None
    for family in FAMILIES:
        output = both[family].chain("OUTPUT")
        assert output is not None


@given(st.binary(max_size=200))
def test_no_message_makes_more_than_a_known_error(body: bytes) -> None:
    for read in (messages.read_table, messages.read_chain, messages.read_rule, messages.read_set):
        with suppress(ValueError, KeyError):
            read(body)
    with suppress(ValueError, KeyError):
        list(messages.read_elements(body))


# Tables of our own.


def _contents(
    name: str,
    chains: tuple[KernelChain, ...],
    rules: tuple[KernelRule, ...],
    sets: tuple[tuple[messages.KernelSet, tuple[bytes, ...]], ...] = (),
    flags: int = 0,
) -> Contents:
    table = KernelTable("inet", NATIVE_TABLES[name], flags)
    return Contents(1, (table,), chains, rules, sets, (), ())


def contents_of(image: _Image) -> Contents:
    """Return what the kernel would tell of a table that was made like this."""
    table = NATIVE_TABLES[image.name]
    chains = tuple(
        KernelChain("inet", table, name, hooked) for name, hooked in image.chains.items()
    )
    rules = [
        KernelRule("inet", table, chain, 0, written, notes)
        for chain, some in image.rules.items()
        for written, notes, _ in some
    ]
    sets = tuple(
        (messages.read_set(made[0].body), tuple(one.body for one in made[1:]))
        for made in image.sets.values()
    )
    return _contents(image.name, chains, tuple(rules), sets)


def read_back(name: str, rulesets: tuple[Ruleset, ...]) -> dict[Family, Table]:
    image = nftables._as_planned(name, rulesets)
    found = native.read_table(name, contents_of(image), e.Reader())
    assert found is not None
    return found


@given(data=st.data())
def test_a_table_of_our_own_is_read_as_it_was_written(data: st.DataObject) -> None:
    rulesets = []
    for family in FAMILIES:
        drawn = data.draw(st.lists(strategies.rules(family), min_size=1, max_size=12))
        # A chain that has nothing for a family is only the other's.
        inbound = [*filter(_can_be_native, drawn), rule(target=t.Return())]
        divert = Chain(ISTIO_DIVERT, None, (rule(target=t.SetMark(1)), rule(target=t.Accept())))
        chains = {
            ISTIO_DIVERT: divert,
            ISTIO_INBOUND: Chain(ISTIO_INBOUND, None, tuple(inbound)),
            "PREROUTING": Chain("PREROUTING", "ACCEPT", (rule(target=t.Jump(ISTIO_INBOUND)),)),
        }
        rulesets.append(canonical(Ruleset(family, (make_table("mangle", chains),))))
    found = read_back("mangle", tuple(rulesets))

    for ruleset in rulesets:
        (table,) = ruleset.tables
        read = found[ruleset.family]
        assert read.oddities == ()
        for chain in table.chains:
            live = read.chain(chain.name)
            assert live is not None
            assert live.rules == chain.rules


def _can_be_native(one: Rule) -> bool:
    """Whether a rule is one that is written to our own tables."""
    if isinstance(one.target, t.Jump):
        return False
    if any(isinstance(match, m.Socket) for match in one.matches):
        return False
    # Two protocols in one rule match nothing, and two sets of values are none of ours.
    try:
        table = make_table("mangle", {ISTIO_INBOUND: Chain(ISTIO_INBOUND, None, (one,))})
        ruleset = canonical(Ruleset(IPV4, (table,)))
    except ValueError:
        return False
    return len(ruleset.tables[0].chains[-1].rules) == 1 and not _is_odd(one)


def _is_odd(one: Rule) -> bool:
    negated_proto = any(isinstance(match, m.Proto) and match.negated for match in one.matches)
    ports = any(isinstance(match, m.Ports | m.MultiPorts) for match in one.matches)
    zero_zone = isinstance(one.target, t.CtZone) and not one.target.zone
    return (negated_proto and ports) or zero_zone


def test_rules_of_others_go_back_as_they_were() -> None:
    odd = ForeignRule(attribute(4, e.expression("hash") + e.verdict(e.DROP)))
    chain = Chain(ISTIO_INBOUND, None, (odd, rule(target=t.Accept())))
    rulesets = tuple(
        Ruleset(family, (make_table("nat", {ISTIO_INBOUND: chain}),)) for family in FAMILIES
    )
    image = nftables._as_planned("nat", rulesets)

    # Written once, though both families have it.
    assert len(image.rules["istio-inbound"]) == 2
    for family, table in read_back("nat", rulesets).items():
        live = table.chain(ISTIO_INBOUND)
        assert live is not None
        assert [getattr(one, "raw", one) for one in live.rules] == [
            odd.raw,
            rule(target=t.Accept()),
        ], family


def test_sockets_are_decided_in_a_chain_of_their_own() -> None:
    inbound = Chain(ISTIO_INBOUND, None, (rule(m.Socket(), target=t.Jump(ISTIO_DIVERT)),))
    divert = Chain(ISTIO_DIVERT, None, (rule(target=t.Accept()),))
    table = make_table("mangle", {ISTIO_INBOUND: inbound, ISTIO_DIVERT: divert})
    rulesets = (Ruleset(IPV4, (table,)), Ruleset(IPV6, (table,)))

    assert SOCKET_CHAIN in nftables._as_planned("mangle", rulesets).chains
    assert read_back("mangle", rulesets)[IPV4].chain(ISTIO_INBOUND) == inbound
    elsewhere = inbound.replace(rules=(rule(m.Socket(), target=t.Drop()),))
    odd = Ruleset(IPV4, (make_table("mangle", {ISTIO_INBOUND: elsewhere}),))
    with pytest.raises(UnsupportedError, match="one chain"):
        nftables._as_planned("mangle", (odd,))


PLAIN = KernelChain("inet", NATIVE_TABLES["nat"], "istio-output", None)


@pytest.mark.parametrize(
    ("chains", "flags", "names"),
    [
        ((), 0, ["nothing"]),
        ((PLAIN,), 1, ["flags dormant"]),
        ((PLAIN,), 2, ["flags"]),
        ((PLAIN, PLAIN.replace(name="theirs")), 0, ["chain theirs"]),
        ((PLAIN.replace(name="output"),), 0, ["chain output"]),
        (
            (PLAIN.replace(name="output", hooked=messages.hook_of("mangle", "OUTPUT")),),
            0,
            ["nothing", "chain output"],
        ),
        (
            (PLAIN.replace(name="output", hooked=messages.hook_of("nat", "OUTPUT")),),
            0,
            ["nothing"],
        ),
    ],
)
def test_what_else_is_in_a_table_is_an_oddity(
    chains: tuple[KernelChain, ...], flags: int, names: list[str]
) -> None:
    found = native.read_table("nat", _contents("nat", chains, (), (), flags), e.Reader())

    assert found is not None
    for table in found.values():
        assert [one.name for one in table.oddities] == names
        assert all(isinstance(one, Oddity) and one.consequence for one in table.oddities)
    assert native.read_table("raw", _contents("nat", chains, ()), e.Reader()) is None


@given(st.lists(st.tuples(st.integers(0, 255), st.booleans(), st.booleans()), max_size=6))
def test_elements_are_values_or_an_error(drawn: list[tuple[int, bool, bool]]) -> None:
    elements = [messages.Element(bytes((key,)), ends, plain) for key, ends, plain in drawn]
    kind = SetType("byte", 0, 1, host_order=False)
    try:
        spans = spans_of(elements, kind, intervals=True)
    except ValueError:
        return
    assert all(low <= high for low, high in spans)
    assert spans == sorted(spans)


# What the kernel held of what the tools of some release wrote.

OURS = "1.8.7"
IPTABLES = sorted(CAPTURES.glob("iptables-*.txt"))
NFT = sorted(CAPTURES.glob("nft-*.json"))


def test_there_are_captures_of_three_releases() -> None:
    assert [path.stem for path in IPTABLES] == [
        "iptables-1.8.11",
        f"iptables-{OURS}",
        "iptables-1.8.9",
    ]
    assert [path.stem for path in NFT] == ["nft-0.9.8", "nft-1.0.6", "nft-1.1.3"]


@pytest.mark.parametrize("path", IPTABLES, ids=lambda path: path.stem)
def test_what_iptables_nft_wrote_is_read_as_it_was_meant(path: Path) -> None:
    readers = {family: iptables.Reader(family) for family in FAMILIES}
    for line in path.read_text(encoding="utf-8").splitlines():
        family, bytes_, words = line.split(" ", 2)
        known = IPV4 if family == IPV4 else IPV6
        wished = parse_rule(words, known)
        live = bytes.fromhex(bytes_)
        assert readers[known].rule(live) == wished, words
        assert iptables.Reader(known).rule(live) == wished, words
        assert isinstance(wished, Rule)
        if path.stem.endswith(OURS):
            assert iptables.encode(wished, known) == e.without_counts(live), words


def told(body: dict[str, list[str]], elements: list[list[str]]) -> Contents:
    """Return what the kernel told, as it is read."""
    bodies = {kind: [bytes.fromhex(one) for one in some] for kind, some in body.items()}
    sets = [messages.read_set(one) for one in bodies["sets"]]
    return Contents(
        1,
        tuple(map(messages.read_table, bodies["tables"])),
        tuple(map(messages.read_chain, bodies["chains"])),
        tuple(map(messages.read_rule, bodies["rules"])),
        tuple(
            (one, tuple(bytes.fromhex(body) for body in some))
            for one, some in zip(sets, elements, strict=True)
        ),
        (),
        (),
    )


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("path", NFT, ids=lambda path: path.stem)
def test_what_nft_made_of_our_script_is_what_was_planned(path: Path, name: str) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))[name]
    elements = found.pop("elements")
    contents = told(found, elements)
    plan = plan_of(*CALLS[name])
    for ruleset in map(canonical, plan.rulesets):
        for table in ruleset.tables:
            read = native.read_table(table.name, contents, e.Reader())
            assert read is not None
            assert read[ruleset.family] == table
