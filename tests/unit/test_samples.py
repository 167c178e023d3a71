"""Each rule of a plan has a packet that stands for its traffic, and goes where the plan says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from istio_init.config.values import address, network
from istio_init.diagnose.effects import LETS_PASS
from istio_init.diagnose.packet import LO
from istio_init.diagnose.samples import (
    PodNetwork,
    captured_elsewhere,
    deviation,
    routes_of,
    samples,
)
from istio_init.diagnose.trace import Rules, Tracer, trace
from istio_init.formats.save_reader import parse_rule
from istio_init.rules.model import (
    BUILTIN_CHAINS,
    Chain,
    ForeignRule,
    Rule,
    Ruleset,
    make_table,
    reason_of,
)
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6
from istio_init.rules.targets import Jump
from tests.cases import CALLS, Call
from tests.plans import plan_of
from tests.strategies import rules as any_rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.diagnose.samples import Sample
    from istio_init.rules.model import Plan, Table
    from istio_init.rules.ranges import Family

# No pattern of the calls names this interface.
POD = PodNetwork(("net0",), (network("10.5.0.9/32")[0], network("fd05::9/128")[0]))
# In these nothing is captured outbound, whatever their rules say.
NOTHING_OUTBOUND = {"1.30-owner-groups-none", "1.30-exclude-everything", "1.0-exclude-everything"}
BOTH = plan_of("istio-iptables", "-u", "1337", "-i", "*", "-b", "*", "--ipv6")


def met(plan: Plan, family: Family) -> set[Rule]:
    """Return the rules that packets of the samples meet."""
    ruleset = plan.ruleset(family)
    return {
        step.rule
        for sample in samples(plan, family, POD)
        for packet in sample.packets
        for step in trace((Rules(ruleset),), packet, routes_of(plan, family, POD)).steps
        if step.tried == "yes" and isinstance(step.rule, Rule)
    }


def led_to(table: Table) -> set[str]:
    """Return the chains of a table that packets can come to."""
    led = set(BUILTIN_CHAINS[table.name])
    while True:
        found = {
            rule.target.chain
            for chain in table.chains
            if chain.name in led
            for rule in chain.rules
            if isinstance(rule, Rule) and isinstance(rule.target, Jump)
        }
        if found <= led:
            return led
        led |= found


def working(plan: Plan, family: Family) -> Iterator[Rule]:
    """Yield the rules of a plan that do more than let pass, and do it themselves.

    Of those that lead to them some are behind others that take all of their packets.
    """
    for table in plan.ruleset(family).tables:
        led = led_to(table)
        for chain in table.chains:
            for rule in chain.rules if chain.name in led else ():
                if not isinstance(rule, Rule) or isinstance(rule.target, Jump):
                    continue
                if rule.reason.effect not in LETS_PASS:
                    yield rule


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_each_rule_that_works_has_a_packet(call: Call) -> None:
    plan = plan_of(*call.argv, env=call.env)
    for family in FAMILIES:
        found = met(plan, family)
        without = [one for one in working(plan, family) if one not in found]
        if call.name in NOTHING_OUTBOUND:
            without = [one for one in without if one.reason.effect != "captures outbound"]
        # Of many rules that are alike some stand for all.
        alike = [one.reason.effect for one in working(plan, family)]
        assert [one for one in without if alike.count(one.reason.effect) <= 8] == []


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_each_thing_that_a_plan_does_has_a_packet(call: Call) -> None:
    plan = plan_of(*call.argv, env=call.env)
    for family in FAMILIES:
        effects = {one.reason.effect for one in met(plan, family)}
        asked = {one.reason.effect for one in working(plan, family)}
        if call.name in NOTHING_OUTBOUND:
            asked.discard("captures outbound")
        assert asked <= effects


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_they_go_where_the_plan_sends_them(call: Call) -> None:
    plan = plan_of(*call.argv, env=call.env)
    for family in FAMILIES:
        ruleset = plan.ruleset(family)
        tracer = Tracer((Rules(ruleset, "legacy"),), routes_of(plan, family, POD), brief=True)
        for sample in samples(plan, family, POD):
            assert deviation(sample, (tracer,), ruleset, "legacy") is None


def of_effect(plan: Plan, effect: str, family: Family = IPV4, pod: PodNetwork = POD) -> Sample:
    """Return the first sample that is captured by rules with an effect."""
    return next(
        one
        for one in samples(plan, family, pod)
        if one.verdict.port and effect in {reason_of(rule).effect for _, rule in one.way[-2:]}
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_packet_is_as_most_are(family: Family) -> None:
    own = next(one.packed for one in POD.addresses if one.family == family)
    out = of_effect(BOTH, "captures outbound", family).packets[0]
    came = of_effect(BOTH, "captures inbound", family).packets[0]
    call = of_effect(BOTH, "self-call through the proxy", family).packets[0]

    assert (out.hook, out.oif, out.protocol, out.source) == ("OUTPUT", "net0", "tcp", own)
    assert out.destination != own
    assert out.uid not in (None, 0, 1337)
    assert (came.hook, came.iif, came.destination) == ("PREROUTING", "net0", own)
    assert came.source != own
    assert (call.oif, call.uid, call.source, call.destination) == (LO, 1337, own, own)


def test_a_pod_without_addresses_has_packets_too() -> None:
    for family in FAMILIES:
        assert of_effect(BOTH, "captures outbound", family, PodNetwork()).packets[0].source


@pytest.mark.parametrize(
    ("rule", "field", "values"),
    [
        ("-d 0.0.0.0/1 -j RETURN", "destination", {address("128.0.0.0").packed}),
        ("-p tcp -m tcp --dport 1:60000 -j RETURN", "dport", {60001}),
        ("-m owner --uid-owner 0-9999 -j RETURN", "uid", {10000}),
    ],
)
def test_what_others_treat_apart_is_tried_on_both_sides(
    rule: str, field: str, values: set[object]
) -> None:
    other = parse_rule(rule, IPV4)
    wide = of_effect(BOTH, "captures outbound")
    split = next(
        one
        for one in samples(BOTH, IPV4, POD, (other,))
        if one.way[-1] == wide.way[-1] and one.packets[0].oif == "net0"
    )
    (edge,) = values
    sides = {getattr(one, field) < edge for one in split.packets}

    assert sides == {True, False}


def test_a_rule_for_an_interface_that_the_pod_lacks_has_a_packet_by_it() -> None:
    plan = plan_of("istio-iptables", "-i", "*", "-k", "dind+", "--no-ipv6")

    assert of_effect(plan, "captures a virtual machine").packets[0].iif == "dind0"


def test_what_can_never_be_has_none() -> None:
    nothing = plan_of("istio-iptables", "-i", "*", "-x", "0.0.0.0/0", "--no-ipv6")

    for one in samples(nothing, IPV4, POD):
        assert one.verdict.port != 15001
    assert samples(nothing, IPV6, POD) == ()


# Rules of another backend, and the ports of the packets that they take from the plan's.
ELSEWHERE = [
    (["-A OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9999"], [80]),
    (["-A PREROUTING -p tcp -m tcp --dport 81 -j DNAT --to-destination 10.0.0.1:1"], [81]),
    (["-A OUTPUT -p tcp -j T", "-A T -p tcp -m tcp --dport 82 -j DNAT --to-destination :1"], [82]),
    (["-A OUTPUT -p tcp -m comment --comment x -m tcp --dport 83 -j REDIRECT --to-ports 9"], [83]),
    (["-A OUTPUT -p udp -m udp --dport 84 -j REDIRECT --to-ports 9"], []),
    (["-A OUTPUT -p tcp -m tcp --dport 85 -j RETURN"], []),
    (["-A OUTPUT -p tcp -m tcp --dport 86 -j LOG --log-prefix x"], []),
    (["-A POSTROUTING -p tcp -m tcp --dport 87 -j SNAT --to-source 10.0.0.1"], []),
    (["-A OUTPUT -m owner --uid-owner 1337 -j REDIRECT --to-ports 9"], []),
    # What no packet is.
    (["-A OUTPUT -d 127.0.0.1/32 -o net0 -p tcp -j REDIRECT --to-ports 9"], []),
    (["-A OUTPUT -o net0 -j T", "-A T ! -o net0 -p tcp -j REDIRECT --to-ports 9"], []),
    (["-A OUTPUT -p udp -j T", "-A T -p tcp -j REDIRECT --to-ports 9"], []),
    (["-A OUTPUT -d 10.0.0.0/8 -j T", "-A T -d 11.0.0.0/8 -p tcp -j REDIRECT --to-ports 9"], []),
    (
        [
            "-A OUTPUT -m conntrack --ctstate NEW -j T",
            "-A T -p tcp -m conntrack --ctstate INVALID -j REDIRECT --to-ports 9",
        ],
        [],
    ),
    (
        [
            "-A OUTPUT -p tcp -m mark --mark 0x1 -j T",
            "-A T -p tcp -m mark --mark 0x2 -j REDIRECT --to-ports 9",
        ],
        [],
    ),
]


def table_of(lines: list[str], family: Family = IPV4) -> Ruleset:
    chains: dict[str, Chain] = {}
    for line in lines:
        _, name, rule = line.split(" ", 2)
        chain = chains.get(name) or Chain(name, None if name == "T" else "ACCEPT")
        parsed = parse_rule(rule, family)
        if isinstance(parsed, ForeignRule) and parsed.jump not in ("", "T"):
            parsed = ForeignRule(rule)
        chains[name] = chain.replace(rules=(*chain.rules, parsed))
    return Ruleset(family, (make_table("nat", chains),))


@pytest.mark.parametrize(("lines", "ports"), ELSEWHERE)
def test_what_others_redirect_in_another_backend(lines: list[str], ports: list[int]) -> None:
    found = captured_elsewhere(BOTH, IPV4, POD, Rules(table_of(lines), "nft"))

    assert [one.packets[0].dport for one in found] == ports


def test_nothing_is_redirected_without_a_nat_table() -> None:
    assert list(captured_elsewhere(BOTH, IPV4, POD, Rules(Ruleset(IPV4, ()), "nft"))) == []


def test_chains_that_double_are_not_looked_through_for_ever() -> None:
    lines = ["-A OUTPUT -p tcp -j T"]
    rules = {f"c{at}": [f"-p tcp -j c{at + 1}"] * 2 for at in range(40)}
    chains = {
        name: Chain(name, None, tuple(parse_rule(one, IPV4) for one in of))
        for name, of in rules.items()
    }
    nat = table_of(lines).tables[0]
    start = Chain("T", None, (parse_rule("-p tcp -j c0", IPV4),))
    table = make_table("nat", {**{one.name: one for one in nat.chains}, "T": start, **chains})

    assert list(captured_elsewhere(BOTH, IPV4, POD, Rules(Ruleset(IPV4, (table,)), "nft"))) == []


@settings(max_examples=150)
@given(st.data())
def test_a_brief_way_ends_where_the_whole_one_ends(data: st.DataObject) -> None:
    family = data.draw(st.sampled_from(FAMILIES))
    planned = BOTH.ruleset(family)
    theirs = tuple(data.draw(st.lists(any_rules(family, "nat"), max_size=6)))
    nat = planned.table("nat")
    assert nat is not None
    chains = {one.name: one for one in nat.chains}
    for hook in ("PREROUTING", "OUTPUT"):
        chains[hook] = chains[hook].replace(rules=(*theirs, *chains[hook].rules))
    live = (Rules(planned.replace(tables=(make_table("nat", chains),)), "legacy"),)
    routes = routes_of(BOTH, family, POD)
    brief = Tracer(live, routes, brief=True)
    for sample in samples(BOTH, family, POD, theirs):
        for packet in sample.packets:
            short, long = brief.trace(packet), trace(live, packet, routes)
            assert (short.outcome, short.certain, short.end) == (
                *(long.outcome, long.certain, long.end),
            )
            kept = [one for one in long.steps if one.tried != "no"]
            assert [one for one in short.steps if one.tried != "no"] == kept
