"""Rules of others that take packets from ours are told apart from those that take some."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from istio_init.diagnose.interception import obstacles
from istio_init.diagnose.samples import PodNetwork
from istio_init.diagnose.trace import Rules
from istio_init.formats.save_reader import parse_rule, parse_save
from istio_init.rules.model import Chain, Ruleset, Table
from istio_init.rules.ranges import IPV4, IPV6
from tests.plans import plan_of

if TYPE_CHECKING:
    from istio_init.rules.model import Plan

PLAN = plan_of("istio-iptables", "-i", "*", "-b", "*", "--no-ipv6")
WITH_DNS = plan_of("istio-iptables", "-i", "*", "--no-ipv6", "--redirect-dns", "--capture-all-dns")
OLD = plan_of("-i", "*", "-b", "80", "-u", "1337")
TPROXY = plan_of("istio-iptables", "-b", "*", "-m", "TPROXY", "--no-ipv6", "--drop-invalid")
VIRTUAL = plan_of("istio-iptables", "-i", "*", "-k", "dind0", "--no-ipv6")

OUTBOUND = "outbound TCP does not reach the proxy"
INBOUND = "inbound TCP does not reach the proxy"
DNS = "DNS queries over UDP do not reach the agent"
CHAINS = """
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:ENDS - [0:0]
:RETURNS - [0:0]
:ENDS_SOME - [0:0]
:RETURNS_SOME - [0:0]
:DEEPER - [0:0]
:RETURNS_ALL - [0:0]
-A ENDS -p udp -j RETURN
-A ENDS -j LOG
-A ENDS -j ACCEPT
-A RETURNS -j RETURN
-A RETURNS -j ACCEPT
-A ENDS_SOME -s 10.0.0.0/8 -j ACCEPT
-A RETURNS_SOME -s 10.0.0.0/8 -j RETURN
-A RETURNS_SOME -j ACCEPT
-A DEEPER -j RETURNS
-A DEEPER -j ENDS
COMMIT
"""


def sentences(live: Ruleset, plan: Plan) -> tuple[str, ...]:
    """Return what apply warns of."""
    found = obstacles(plan, live.family, (Rules(live, "legacy"),), PodNetwork(), lambda: None)
    return tuple(str(one) for one in found if one.certain)


def live(plan: Ruleset, table: str, chain: str, *rules: str, first: bool = True) -> Ruleset:
    """Return the rules of a plan with others before (or behind) ours in one chain."""
    theirs = tuple(parse_rule(one, plan.family) for one in rules)
    extra = parse_save(CHAINS, plan.family).tables[0]
    tables = []
    for one in plan.tables:
        chains: list[Chain] = []
        for found in one.chains:
            if one.name == table and found.name == chain:
                both = (*theirs, *found.rules) if first else (*found.rules, *theirs)
                chains.append(found.replace(rules=both))
            else:
                chains.append(found)
        if one.name == "nat":
            chains += [found for found in extra.chains if found.policy is None]
        tables.append(Table(one.name, tuple(chains)))
    return plan.replace(tables=tuple(tables))


WIDE = [
    "-j RETURN",
    "-j ACCEPT",
    "-p tcp -j RETURN",
    "! -p udp -j ACCEPT",
    "-p tcp -m tcp -j RETURN",
    '-p tcp -m comment --comment "not ours" -j ACCEPT',
    "-m comment --comment theirs -p tcp -j ACCEPT",
    "-p tcp -j REDIRECT --to-ports 1",
    "-p tcp -j DNAT --to-destination 192.0.2.1:80",
    "-p tcp -j QUEUE",
    "-j NFQUEUE --queue-num 1",
    "-p tcp -j SOMETHING --new",
    "-j ENDS",
    "-g RETURNS",
    "-p tcp -j DEEPER",
    "-j RETURNS_SOME",
    # Whatever it asks for, it is true of most of the traffic.
    '-m comment --comment "some" -m state --state NEW -j ACCEPT',
    "-p tcp -m conntrack --ctstate NEW,RELATED -j RETURN",
    "! -s 192.0.2.0/24 -p tcp -j ACCEPT",
    "! -d 192.0.2.0/24 -p tcp -j ACCEPT",
    "-p tcp -m tcp ! --dport 22 -j ACCEPT",
    "-m mark --mark 0x0 -j RETURN",
]
NARROW = [
    "-p udp -j RETURN",
    "-p icmp -j ACCEPT",
    "! -p tcp -j ACCEPT",
    "-p tcp -m tcp --dport 80 -j RETURN",
    "-p tcp -m multiport --dports 80,81 -j RETURN",
    "-d 192.0.2.0/24 -j RETURN",
    "-o eth7 -j ACCEPT",
    "-m owner --uid-owner 7 -j ACCEPT",
    "-p tcp -m mark --mark 0x7 -j ACCEPT",
    "-m statistic --mode random --probability 0.5 -j ACCEPT",
    "-p tcp -j LOG --log-prefix x",
    "-j MARK --set-xmark 0x7/0xffffffff",
    "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    "-p tcp -j TCPMSS --set-mss 1400",
    "-p tcp",
    "-j RETURNS",
    "-j ENDS_SOME",
    "-s 10.0.0.0/8 -j RETURNS_ALL",
    "-p tcp -f -j ACCEPT",
]


@pytest.mark.parametrize("rule", WIDE)
def test_a_rule_that_ends_the_chain_for_all_tcp_is_reported(rule: str) -> None:
    planned = PLAN.ruleset(IPV4)

    assert sentences(live(planned, "nat", "OUTPUT", rule), PLAN) == (
        f"iptables -t nat: the rule -A OUTPUT {rule} stands above ours: {OUTBOUND}",
    )
    assert sentences(live(planned, "nat", "PREROUTING", rule), PLAN) == (
        f"iptables -t nat: the rule -A PREROUTING {rule} stands above ours: {INBOUND}",
    )


@pytest.mark.parametrize("rule", NARROW)
def test_a_rule_for_some_packets_is_taken_for_meant(rule: str) -> None:
    planned = PLAN.ruleset(IPV4)

    assert sentences(live(planned, "nat", "OUTPUT", rule), PLAN) == ()


@pytest.mark.parametrize("rule", WIDE)
def test_behind_ours_a_rule_takes_nothing(rule: str) -> None:
    planned = PLAN.ruleset(IPV4)

    assert sentences(live(planned, "nat", "OUTPUT", rule, first=False), PLAN) == ()


def test_rules_in_other_chains_and_tables_take_nothing() -> None:
    planned = PLAN.ruleset(IPV4)

    assert sentences(live(planned, "nat", "POSTROUTING", "-j ACCEPT"), PLAN) == ()
    assert sentences(planned, PLAN) == ()


def test_each_rule_is_reported_once_in_their_order() -> None:
    planned = PLAN.ruleset(IPV4)
    found = sentences(live(planned, "nat", "OUTPUT", "-p tcp -j ACCEPT", "-j ACCEPT"), PLAN)

    assert [one.partition(" -A ")[2].partition(" stands")[0] for one in found] == [
        "OUTPUT -p tcp -j ACCEPT",
        "OUTPUT -j ACCEPT",
    ]


@pytest.mark.parametrize(
    ("plan", "table", "chain", "rule", "said"),
    [
        (WITH_DNS, "nat", "OUTPUT", "-p udp -j RETURN", DNS),
        (WITH_DNS, "nat", "OUTPUT", "-p tcp -j RETURN", OUTBOUND),
        (WITH_DNS, "nat", "OUTPUT", "-p icmp -j RETURN", None),
        (WITH_DNS, "raw", "OUTPUT", "-p udp -j ACCEPT", "are not kept apart"),
        (WITH_DNS, "raw", "PREROUTING", "-j ACCEPT", "are not kept apart"),
        (WITH_DNS, "raw", "OUTPUT", "-p tcp -j ACCEPT", None),
        (OLD, "nat", "OUTPUT", "-p tcp -j ACCEPT", OUTBOUND),
        (OLD, "nat", "OUTPUT", "-p udp -j ACCEPT", None),
        (TPROXY, "mangle", "PREROUTING", "-p tcp -j ACCEPT", "invalid packets are not dropped"),
        (
            TPROXY,
            "mangle",
            "PREROUTING",
            "-m conntrack --ctstate INVALID -j ACCEPT",
            "invalid packets are not dropped",
        ),
        (TPROXY, "mangle", "OUTPUT", "-j ACCEPT", "do not find their way back"),
        (VIRTUAL, "nat", "PREROUTING", "-j ACCEPT", "TCP from dind0 does not reach the proxy"),
        (
            VIRTUAL,
            "nat",
            "PREROUTING",
            "-i dind0 -j ACCEPT",
            "TCP from dind0 does not reach the proxy",
        ),
        (VIRTUAL, "nat", "PREROUTING", "-i dind1 -j ACCEPT", None),
    ],
)
def test_what_is_lost_is_named(
    plan: Plan, table: str, chain: str, rule: str, said: str | None
) -> None:
    planned = plan.ruleset(IPV4)
    found = sentences(live(planned, table, chain, rule), plan)

    if said is None:
        assert found == ()
    else:
        assert len(found) == 1
        assert said in found[0]


@pytest.mark.parametrize(
    ("rule", "reported"), [("-j ACCEPT", True), ("-p tcp -j ACCEPT", True), ("-j DROP", False)]
)
def test_inbound_ipv6_that_is_let_in_before_it_is_refused(rule: str, reported: bool) -> None:  # noqa: FBT001
    planned = OLD.ruleset(IPV6)
    found = sentences(live(planned, "filter", "INPUT", rule), OLD)

    assert bool(found) == reported
    assert all(one.startswith("ip6tables -t filter: ") for one in found)
    assert all(one.endswith("inbound IPv6 bypasses the proxy") for one in found)


def test_both_families_are_looked_at_with_their_own_programs() -> None:
    both = plan_of("istio-iptables", "-i", "*", "--ipv6")
    for family, program in ((IPV4, "iptables"), (IPV6, "ip6tables")):
        planned = both.ruleset(family)
        found = sentences(live(planned, "nat", "OUTPUT", "-j ACCEPT"), both)
        assert [one.split()[0] for one in found] == [program]
