"""Rules with sets of values do with every packet what the rules they are made of do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, assert_never

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from istio_init.config.values import network
from istio_init.planner.draft import TCP, UDP
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import Chain, ForeignRule, Reason, Rule, make_table, reason_of, rule
from istio_init.rules.ranges import IPV4, IPV6, IdRange, Network, PortRange
from istio_init.rules.sets import canonical_table, compact, expand, joined, networks, span_of
from tests.unit.settings import tried_less

if TYPE_CHECKING:
    from istio_init.rules.model import Table

START = "PREROUTING"


@dataclass(frozen=True)
class Packet:
    """A packet and what a chain may change about it."""

    proto: str
    source: int
    destination: int
    sport: int
    dport: int
    uid: int
    gid: int
    interface: str
    ct_state: str
    socket: bool
    mark: int = 0
    connection_mark: int = 0
    zone: int | None = field(default=None)


def walk(table: Table, packet: Packet) -> tuple[str, Packet]:
    """Return what becomes of a packet, and its marks and zone in the end."""
    return _walk(table, START, packet)


def _walk(table: Table, name: str, packet: Packet) -> tuple[str, Packet]:
    chain = table.chain(name)
    for one in chain.rules if chain else ():
        assert isinstance(one, Rule)
        if not all(_holds(match, packet) for match in one.matches):
            continue
        match one.target:
            case t.Jump(to):
                verdict, packet = _walk(table, to, packet)
                if verdict != "on":
                    return verdict, packet
            case t.Return():
                return "on", packet
            case t.Accept() | t.Drop() | t.Reject() | t.Redirect() | t.Tproxy():
                return repr(one.target), packet
            case t.SetMark(value, mask):
                packet = replace(packet, mark=packet.mark & ~mask ^ value)
            case t.SaveMark():
                packet = replace(packet, connection_mark=packet.mark)
            case t.RestoreMark():
                packet = replace(packet, mark=packet.connection_mark)
            case t.CtZone(zone):
                # The first one counts.
                packet = replace(packet, zone=zone if packet.zone is None else packet.zone)
            case _:
                assert_never(one.target)
    return "on", packet


def _holds(match: m.Match, packet: Packet) -> bool:
    match match:
        case m.Source():
            low, high = span_of(match.network)
            found = low <= packet.source <= high
        case m.Destination():
            low, high = span_of(match.network)
            found = low <= packet.destination <= high
        case m.InInterface() | m.OutInterface():
            found = match.name == packet.interface
        case m.Proto():
            found = match.name == packet.proto
        case m.Ports():
            ports = match.ports
            found = ports.low <= getattr(packet, match.side) <= ports.high
            if packet.proto != match.protocol:
                return False
        case m.MultiPorts():
            port = getattr(packet, match.side)
            found = any(one.low <= port <= one.high for one in match.ports)
        case m.Owner():
            found = match.ids.low <= getattr(packet, match.kind) <= match.ids.high
        case m.CtState():
            found = packet.ct_state in match.states
        case m.Mark():
            found = packet.mark & match.mask == match.value
        case m.ConnMark():
            found = packet.connection_mark & match.mask == match.value
        case m.Socket():
            return packet.socket
        case _:
            assert_never(match)
    return found != match.negated


# Few values, so that rules overlap, touch and hide each other all the time. They
# are drawn from pools: hypothesis takes long to make up records of its own.
_ADDRESSES = range(16)
_SMALL = range(1, 7)
_MARKS = range(4)
_SPANS = [(low, high) for low in _SMALL for high in _SMALL if low <= high]
_PORTS = [PortRange(*span) for span in _SPANS]
_IDS = [IdRange(*span) for span in _SPANS]
_NETWORKS = [
    Network(IPV4, low.to_bytes(4, "big"), prefix)
    for prefix in (28, 29, 30, 31, 32)
    for low in range(0, 16, 1 << (32 - prefix))
] + [network(cidr)[0] for cidr in ("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1")]
_INTERFACES = ("lo", "eth0")
_STATES = tuple(m.CT_STATES)

_DESTINATIONS: list[m.Match] = [m.Destination(one) for one in _NETWORKS]
_DPORTS: list[m.Match] = [m.Ports("tcp", "dport", one) for one in _PORTS]
_OWNERS: list[m.Match] = [m.Owner("gid", one) for one in _IDS]
_BANG = (False, True)
_POOLS: list[list[m.Match]] = [
    [m.Source(one, bang) for one in _NETWORKS for bang in _BANG],
    [m.Destination(one, bang) for one in _NETWORKS for bang in _BANG],
    [m.InInterface(one, bang) for one in _INTERFACES for bang in _BANG],
    [m.OutInterface(one, bang) for one in _INTERFACES for bang in _BANG],
    [m.Ports("tcp", "sport", one, bang) for one in _PORTS for bang in _BANG],
    [m.Ports("tcp", "dport", one, bang) for one in _PORTS for bang in _BANG],
    [m.MultiPorts("dport", (a, b), bang) for a in _PORTS for b in _PORTS for bang in _BANG],
    [m.Owner("uid", one, bang) for one in _IDS for bang in _BANG],
    [m.Owner("gid", one, bang) for one in _IDS for bang in _BANG],
    [m.CtState((a, b), "state", bang) for a in _STATES for b in _STATES for bang in _BANG],
    [m.Mark(one, 3, bang) for one in _MARKS for bang in _BANG],
    [m.ConnMark(one, 3, bang) for one in _MARKS for bang in _BANG],
    [m.Socket()],
]
_MATCHES = st.sampled_from(_POOLS).flatmap(st.sampled_from)
_ENDS: list[t.Target] = [
    t.Return(),
    t.Accept(),
    t.Drop(),
    t.Reject(),
    t.Redirect(1),
    t.Redirect(2),
    t.Tproxy(1, 1),
    t.SaveMark(),
    t.RestoreMark(),
    t.CtZone(1),
    t.CtZone(2),
    *(t.SetMark(value, mask) for value in _MARKS for mask in _MARKS),
]


def _made(matches: list[m.Match], protocol: m.Proto | None, target: t.Target) -> Rule:
    ports = any(isinstance(match, m.Ports | m.MultiPorts) for match in matches)
    found = TCP if ports else protocol
    return rule(*([found] if found else []), *matches, target=target)


def _rules(*jumps: str) -> st.SearchStrategy[Rule]:
    targets: list[t.Target] = [t.Jump(name) for name in jumps for _ in range(4)]
    return st.builds(
        _made,
        st.lists(_MATCHES, max_size=3),
        st.sampled_from([None, TCP, UDP]),
        st.sampled_from([*targets, *_ENDS]),
    )


@st.composite
def _runs(draw: st.DrawFn, *jumps: str) -> list[Rule]:
    """Return rules of which many differ in one value only, as planned ones do."""
    patterns = draw(st.lists(_rules(*jumps), min_size=1, max_size=3))
    values = draw(st.sampled_from([_DESTINATIONS, _DPORTS, _OWNERS]))
    chosen = st.tuples(st.sampled_from(patterns), st.sampled_from(values))
    return [
        _made([*pattern.matches, value], None, pattern.target)
        for pattern, value in draw(st.lists(chosen, max_size=8))
    ]


@st.composite
def _tables(draw: st.DrawFn) -> Table:
    chains = {}
    for name, jumps in ((START, ("A", "B")), ("A", ("B",)), ("B", ())):
        some = st.one_of(_runs(*jumps), st.lists(_rules(*jumps), max_size=2))
        rules = (*draw(some), *draw(some))
        chains[name] = Chain(name, "ACCEPT" if name == START else None, rules)
    return make_table("mangle", chains)


_packets = st.builds(
    Packet,
    proto=st.sampled_from(["tcp", "udp"]),
    source=st.sampled_from(_ADDRESSES),
    destination=st.sampled_from([*_ADDRESSES, 1 << 31]),
    sport=st.sampled_from(_SMALL),
    dport=st.sampled_from(_SMALL),
    uid=st.sampled_from(_SMALL),
    gid=st.sampled_from(_SMALL),
    interface=st.sampled_from(_INTERFACES),
    ct_state=st.sampled_from(_STATES),
    socket=st.booleans(),
    mark=st.sampled_from(_MARKS),
    connection_mark=st.sampled_from(_MARKS),
)
# How long it takes to make an example up says nothing about the code.
_unhurried = settings(tried_less, suppress_health_check=[HealthCheck.too_slow])


@_unhurried
@given(_tables(), st.lists(_packets, min_size=10, max_size=10))
def test_every_packet_fares_the_same(table: Table, packets: list[Packet]) -> None:
    form = canonical_table(table)

    for packet in packets:
        assert walk(form, packet) == walk(table, packet)


@_unhurried
@given(_tables())
def test_canonical_form_is_stable_and_no_longer(table: Table) -> None:
    form = canonical_table(table)

    assert canonical_table(form) == form
    for before, after in zip(table.chains, form.chains, strict=True):
        groups = compact(after.rules, form)
        assert tuple(one for group in groups for one in expand(group)) == after.rules
        assert len(after.rules) <= sum(len(_alone(one)) for one in before.rules)


def _alone(one: Rule | ForeignRule) -> tuple[Rule | ForeignRule, ...]:
    """Return the rules of iptables that a rule stands for; multiport counts for each port."""
    return tuple(
        written for group in compact((one,), make_table("nat", {})) for written in expand(group)
    )


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_networks_are_exactly_the_span(one: int, other: int) -> None:
    low, high = sorted((one, other))

    spans = [span_of(network) for network in networks((low, high), IPV4)]

    assert joined(spans) == ((low, high),)
    assert all(before[1] + 1 == after[0] for before, after in pairwise(spans))


def test_networks_of_everything() -> None:
    assert [str(one) for one in networks((0, 2**128 - 1), IPV6)] == ["::/0"]
    assert [str(one) for one in networks((1, 6), IPV4)] == [
        "0.0.0.1/32",
        "0.0.0.2/31",
        "0.0.0.4/31",
        "0.0.0.6/32",
    ]


def _grouped(*rules: Rule, others: dict[str, Chain] | None = None) -> list[str]:
    """Return the groups of a chain in short: their values, and where they lead."""
    table = make_table("nat", {START: Chain(START, "ACCEPT", rules), **(others or {})})
    form = canonical_table(table).chain(START)
    assert form is not None
    return [repr(one) for one in form.rules]


def _leave(cidr: str) -> Rule:
    return rule(m.Destination(network(cidr)[0]), target=t.Return())


def _ports(low: int, high: int, *, target: str, established: bool = False) -> Rule:
    state = (m.CtState(("ESTABLISHED",)),) if established else ()
    return rule(TCP, m.Ports("tcp", "dport", PortRange(low, high)), *state, target=t.Jump(target))


def _length(*rules: Rule | ForeignRule, **chains: tuple[Rule, ...]) -> int:
    """Return how many groups a chain comes down to."""
    others = {name: Chain(name, None, found) for name, found in chains.items()}
    table = canonical_table(make_table("nat", {START: Chain(START, "ACCEPT", rules), **others}))
    chain = table.chain(START)
    assert chain is not None
    return len(compact(chain.rules, table))


def test_networks_that_overlap_or_touch_are_joined() -> None:
    rules = [_leave(cidr) for cidr in ("10.1.0.0/16", "10.0.0.0/16", "10.0.3.0/24", "9.0.0.0/8")]

    assert _grouped(*rules) == _grouped(_leave("9.0.0.0/8"), _leave("10.0.0.0/15"))


def test_halves_of_everything_are_everything() -> None:
    assert _grouped(_leave("0.0.0.0/1"), _leave("128.0.0.0/1")) == _grouped(rule(target=t.Return()))


def test_ports_of_two_protocols_become_two_groups() -> None:
    rules = []
    for number in (53, 80, 443):
        ports = PortRange(number, number)
        rules.append(rule(TCP, m.Ports("tcp", "dport", ports), target=t.Return()))
        rules.append(rule(UDP, m.Ports("udp", "dport", ports), target=t.Return()))

    assert _length(*rules) == 2


def test_pairs_of_rules_for_different_ports_become_two_groups() -> None:
    rules = []
    for number in range(1000, 2000, 2):
        rules.append(_ports(number, number, target="DIVERT", established=True))
        rules.append(_ports(number, number, target="TPROXY"))

    assert _length(*rules) == 2


def test_pairs_of_rules_for_ports_that_overlap_stay_in_order() -> None:
    rules = []
    for low, high in ((80, 90), (85, 85)):
        rules.append(_ports(low, high, target="DIVERT", established=True))
        rules.append(_ports(low, high, target="TPROXY"))

    assert _length(*rules) == 4


def test_a_chain_that_marks_packets_is_not_entered_once_instead_of_twice() -> None:
    twice = (_ports(80, 90, target="A"), _ports(85, 95, target="A"))
    marks = (rule(m.Mark(1), target=t.SetMark(2)), rule(target=t.SetMark(1)))

    assert _length(*twice, A=marks) == 2
    assert _length(*twice, A=(*marks, rule(target=t.Accept()))) == 1
    assert (
        _length(*twice, A=(rule(m.Mark(3), target=t.Return()), *marks, rule(target=t.Accept())))
        == 2
    )
    assert _length(*twice, A=(rule(target=t.Redirect(1)),)) == 1
    assert _length(_ports(80, 84, target="A"), _ports(85, 95, target="A"), A=marks) == 1


def test_chains_that_lead_into_each_other_are_not_followed_for_ever() -> None:
    twice = (_ports(80, 90, target="A"), _ports(85, 95, target="A"))

    assert _length(*twice, A=(rule(target=t.Jump("B")),), B=(rule(target=t.Jump("A")),)) == 2


def test_nothing_moves_past_a_rule_of_others() -> None:
    foreign = ForeignRule("something")

    assert _length(_leave("10.0.0.0/8"), foreign, _leave("11.0.0.0/8")) == 3


def test_groups_that_are_excluded_become_one_condition() -> None:
    listed = [m.Owner("gid", IdRange(gid, gid), negated=True) for gid in (7, 3, 4, 3)]

    assert _grouped(rule(*listed, target=t.Return())) == _grouped(
        rule(
            m.Owner("gid", IdRange(3, 4), negated=True),
            m.Owner("gid", IdRange(7, 7), negated=True),
            target=t.Return(),
        )
    )


def test_ports_are_of_one_protocol() -> None:
    ports = m.MultiPorts("dport", (PortRange(1, 1), PortRange(3, 3)))

    assert _length(rule(TCP, ports, target=t.Return())) == 1
    with pytest.raises(ValueError, match="protocol"):
        _length(rule(ports, target=t.Return()))


def test_what_a_rule_is_for_stays_with_it() -> None:
    one, nine = PortRange(1, 1), PortRange(9, 9)
    rules = (
        rule(TCP, m.Ports("tcp", "dport", one), target=t.Return(), reason=Reason("-d", one)),
        rule(TCP, m.Ports("tcp", "dport", nine), target=t.Return(), reason=Reason("-e", nine)),
    )
    table = make_table("nat", {START: Chain(START, "ACCEPT", rules)})
    chain = canonical_table(table).chain(START)

    assert chain is not None
    assert [reason_of(one) for one in chain.rules] == [Reason("-d", one)] * 2
