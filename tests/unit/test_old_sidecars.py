"""What earlier sidecars left straight in built-in chains, and what only looks like it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from istio_init.config.model import LAYOUT_1_0, LAYOUT_1_30, Config, Facts
from istio_init.diagnose.leftovers import leftovers
from istio_init.planner import plan
from istio_init.rules import ownership
from istio_init.rules.model import ForeignRule, Ruleset, make_table
from istio_init.rules.ranges import IPV4, IPV6
from tests.unit.rule_lines import outside_ours, rules_of, state

if TYPE_CHECKING:
    from istio_init.rules.ranges import Family

NEW = Config(LAYOUT_1_30, ipv6=True)
DNS = NEW.replace(redirect_dns=True, capture_all_dns=True)
NAT_RULES = ("OUTPUT -j ISTIO_OUTPUT", "ISTIO_OUTPUT -j RETURN")


def after(live: Ruleset, config: Config | None, *beside: Ruleset) -> Ruleset:
    """Return what a run with a config leaves, or without one what ``clean`` leaves."""
    planned = plan(config or NEW, Facts())
    known = ownership.traces((live, *beside), planned.rulesets)
    wanted = planned.ruleset(live.family)
    return ownership.wanted(live, wanted, known, clean=config is None)


CERTAIN = [
    ("nat", "OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053"),
    ("nat", "OUTPUT -d 10.0.0.10/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053"),
    ("nat", "OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053 --random"),
    ("nat", "OUTPUT -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.1:15053"),
    ("nat", "POSTROUTING -p udp -m udp --dport 15053 -j SNAT --to-source 127.0.0.1"),
    ("nat", "POSTROUTING -p udp -m udp --sport 15053 -j SNAT --to-source 127.0.0.1"),
    ("nat", "INPUT -p udp -j SNAT --to-source 127.0.0.1:15053"),
    (
        "nat",
        "OUTPUT -p udp -m comment --comment -j -j DNAT --to-destination 127.0.0.1:15053",
    ),
    ("raw", "OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 7 -j CT --zone 1"),
    ("raw", "OUTPUT -p udp -m udp --sport 15053 -m owner --gid-owner 7 -j CT --zone 2"),
    ("raw", "OUTPUT -d 10.0.0.10/32 -p udp -m udp --dport 53 -j CT --zone 2"),
    ("raw", "PREROUTING -s 10.0.0.10/32 -p udp -m udp --sport 53 -j CT --zone 1"),
    ("raw", "PREROUTING -d 10.0.0.10/32 -p udp -m udp --sport 53 -j CT --zone 1"),
    (
        "nat",
        "OUTPUT -p tcp -j NFLOG --nflog-prefix JumpOutbound --nflog-group 1337 --nflog-size 20",
    ),
    ("mangle", 'PREROUTING -p tcp -j NFLOG --nflog-prefix "a b" --nflog-group 1337'),
    ("mangle", "PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP"),
    ("nat", 'OUTPUT -p tcp -m comment --comment "to the outbound chain" -j ISTIO_OUTPUT'),
]

NEAR = [
    ("nat", "OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 15054"),
    ("nat", "OUTPUT -p udp -m udp --dport 15053 -j REDIRECT --to-ports 53"),
    ("nat", "OUTPUT -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.1:53"),
    ("nat", "OUTPUT -p udp -m udp --dport 53 -j DNAT --to-destination 10.1.50.53:150530"),
    ("nat", "OUTPUT -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.1:15053-15059"),
    ("nat", "POSTROUTING -p udp -m udp ! --dport 15053 -j SNAT --to-source 127.0.0.1"),
    ("nat", "POSTROUTING -p udp -m udp --dport 15054 -j SNAT --to-source 127.0.0.1"),
    ("nat", "OUTPUT -p udp -m udp --dport 15053 -j RETURN"),
    ("nat", "OUTPUT -p udp -m udp --dport 15053 -j MASQUERADE --random"),
    ("nat", 'OUTPUT -m comment --comment "-j DNAT --to-destination 127.0.0.1:15053" -j ACCEPT'),
    ("nat", 'OUTPUT -m comment --comment "unbalanced :15053 -j ACCEPT'),
    ("nat", "OUTPUT -m comment --comment 15053"),
    ("nat", "OUTPUT -p tcp -j NFLOG --nflog-group 133"),
    ("nat", "OUTPUT -p tcp -j NFLOG --nflog-prefix 1337 --nflog-group 2"),
    ("nat", "OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j RETURN"),
    ("raw", "OUTPUT -p udp -m udp --dport 53 -j CT --zone 3"),
    ("raw", "OUTPUT -p udp -m udp ! --dport 53 -j CT --zone 1"),
    ("raw", "OUTPUT -p udp -m udp --dport 5353 -j CT --zone 1"),
    ("raw", "OUTPUT -p udp -m udp --dport 53:54 -j CT --zone 1"),
    ("raw", "OUTPUT -p tcp -m tcp --dport 53 -j CT --zone 1"),
    ("raw", "OUTPUT -p udp -j CT --zone 1"),
    ("raw", "OUTPUT -p udp -m udp --dport 53 -j CT --notrack"),
    ("raw", "MINE -p udp -m udp --dport 53 -j CT --zone 1"),
    ("nat", "MINE -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053"),
    ("filter", "INPUT -p tcp -j DROP"),
]
THEIRS = "OUTPUT -p tcp -m tcp --dport 7 -j RETURN"


@pytest.mark.parametrize("config", [NEW, DNS, None], ids=["run", "DNS", "clean"])
@pytest.mark.parametrize(("table", "line"), CERTAIN)
def test_what_only_a_sidecar_writes_goes(table: str, line: str, config: Config | None) -> None:
    live = state(table, IPV4, "ISTIO_OUTPUT", "ISTIO_DROP", THEIRS, line, THEIRS)

    left = outside_ours(after(live, config))
    assert [one for one in left if "ISTIO" not in one] == [THEIRS, THEIRS]
    assert line not in left or "-j ISTIO" in line


@pytest.mark.parametrize("config", [NEW, DNS, None], ids=["run", "DNS", "clean"])
@pytest.mark.parametrize(("table", "line"), NEAR)
def test_what_only_looks_like_it_stays(table: str, line: str, config: Config | None) -> None:
    live = state(table, IPV4, line)

    assert [one for one in outside_ours(after(live, config)) if "ISTIO" not in one] == [line]


@pytest.mark.parametrize(
    ("owner", "zones", "goes"),
    [
        ("--uid-owner 1337", (), True),
        ("--gid-owner 1337", (), True),
        ("--uid-owner 7", (), False),
        ("! --uid-owner 1337", (), False),
        ("--uid-owner 7", ("OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 7",), True),
        ("--uid-owner 8", ("OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 7",), False),
        ("--uid-owner 7", ("OUTPUT -p udp -m udp --dport 53 -m owner ! --uid-owner 7",), False),
        ("--uid-owner 7", ("OUTPUT -m owner --uid-owner 7",), False),
    ],
)
def test_exemption_of_the_agent_goes_with_the_redirect(
    owner: str, zones: tuple[str, ...], *, goes: bool
) -> None:
    line = f"OUTPUT -p udp -m udp --dport 53 -m owner {owner} -j RETURN"
    redirect = "OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053"
    raw = state("raw", IPV4, *(f"{zone} -j CT --zone 1" for zone in zones))

    left = outside_ours(after(state("nat", IPV4, line, redirect), None, raw))
    assert left == ([] if goes else [line])
    # Without the redirect it keeps nothing from anybody's.
    assert outside_ours(after(state("nat", IPV4, line), None, raw)) == [line]
    elsewhere = state("nat", IPV4, line.replace("OUTPUT", "PREROUTING"), redirect)
    assert outside_ours(after(elsewhere, None, raw)) == [line.replace("OUTPUT", "PREROUTING")]


def test_bytes_are_known_by_their_text() -> None:
    words = "-p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.1:15053"

    assert ownership.is_old_sidecars("nat", ForeignRule(b"entry", "", words))
    assert not ownership.is_old_sidecars("nat", ForeignRule(b"15053", "", "-p udp -j DNAT"))


AMBIENT = (
    *("PREROUTING -j ISTIO_PRERT", "OUTPUT -j ISTIO_OUTPUT"),
    "ISTIO_PRERT -s 169.254.7.127/32 -p tcp -j ACCEPT",
    "ISTIO_OUTPUT -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001",
)


@pytest.mark.parametrize("table", ["nat", "mangle"])
@pytest.mark.parametrize("config", [NEW, None], ids=["run", "clean"])
def test_chains_of_ambient_mode_are_not_ours(table: str, config: Config | None) -> None:
    live = state(table, IPV4, *AMBIENT, "ISTIO_REDIRECT -j RETURN")
    found = after(live, config)

    assert not ownership.has_ours(state(table, IPV4, *AMBIENT))
    assert rules_of(found, "ISTIO_OUTPUT") == rules_of(live, "ISTIO_OUTPUT")
    assert rules_of(found, "ISTIO_PRERT") == rules_of(live, "ISTIO_PRERT")
    assert "-j ISTIO_OUTPUT" in rules_of(found, "OUTPUT")
    assert ownership.has_ours(found) == (table == "nat" and config is not None)


def test_tables_in_which_ambient_mode_has_taken_a_name() -> None:
    planned = plan(NEW, Facts()).ruleset(IPV4)

    assert ownership.ambient_tables(state("nat", IPV4, *AMBIENT), planned) == ("nat",)
    # Nothing of ours is planned there.
    assert ownership.ambient_tables(state("mangle", IPV4, *AMBIENT), planned) == ()
    assert ownership.ambient_tables(state("nat", IPV4, *NAT_RULES), planned) == ()


PAIR = ("PREROUTING -i net1 -j RETURN", "OUTPUT -o net1 -j RETURN")
INPUT_SHUT = (
    "INPUT -m state --state ESTABLISHED -j ACCEPT",
    "INPUT -j REJECT --reject-with icmp6-port-unreachable",
)
LOOPBACK_IN = "INPUT -d ::1/128 -i lo -j ACCEPT"


def said(*live: Ruleset, config: Config = NEW) -> tuple[str, ...]:
    return leftovers(live, plan(config, Facts()))


def test_pair_that_nobody_claims_is_said_once_for_both_families() -> None:
    (sentence,) = said(state("nat", IPV4, *NAT_RULES, *PAIR), state("nat", IPV6, *NAT_RULES, *PAIR))

    assert "-A PREROUTING -i net1 -j RETURN and -A OUTPUT -o net1 -j RETURN" in sentence
    assert "(iptables -t nat, ip6tables -t nat)" in sentence
    assert "`istio-init clean -c net1`" in sentence


@pytest.mark.parametrize(
    ("lines", "config"),
    [
        (PAIR, NEW),
        ((*NAT_RULES, PAIR[0]), NEW),
        ((*NAT_RULES, PAIR[1]), NEW),
        ((*NAT_RULES, *PAIR), NEW.replace(exclude_interfaces=("net1",))),
        ((*NAT_RULES, "PREROUTING ! -i net1 -j RETURN", "OUTPUT ! -o net1 -j RETURN"), NEW),
    ],
)
def test_pair_is_not_said(lines: tuple[str, ...], config: Config) -> None:
    assert said(state("nat", IPV4, *lines), config=config) == ()


def test_pair_in_a_table_without_ours_is_not_said() -> None:
    nat, mangle = state("nat", IPV4, *NAT_RULES), state("mangle", IPV4, *PAIR)
    live = nat.replace(tables=(*mangle.tables, *nat.tables))

    assert said(live) == ()


def with_ours(family: Family, *filtered: str) -> Ruleset:
    """Return our chains in nat, and rules in filter."""
    tables = (state("nat", family, *NAT_RULES), state("filter", family, *filtered))
    return Ruleset(family, tuple(table for one in tables for table in one.tables))


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("chain", ["INPUT", "FORWARD", "OUTPUT"])
def test_guard_rail_is_said_with_what_removes_it(chain: str, protocol: str) -> None:
    (sentence,) = said(with_ours(IPV4, f"{chain} -p {protocol} -j DROP"))

    assert f"`iptables -t filter -D {chain} -p {protocol} -j DROP`" in sentence
    assert said(with_ours(IPV4, "MINE -p tcp -j DROP", "INPUT -j DROP")) == ()


@pytest.mark.parametrize("lines", [INPUT_SHUT, (INPUT_SHUT[0], LOOPBACK_IN, INPUT_SHUT[1])])
def test_shut_ipv6_is_said_unless_it_is_planned(lines: tuple[str, ...]) -> None:
    (sentence,) = said(with_ours(IPV6, "INPUT -p tcp -m tcp --dport 7 -j ACCEPT", *lines))

    for line in lines:
        assert f"ip6tables -t filter -D {line}" in sentence
    assert said(with_ours(IPV4, *lines)) == ()
    assert said(with_ours(IPV6, *lines[1:])) == ()
    shut = Config(LAYOUT_1_0, inbound_port=15001, ipv6=False)
    assert said(with_ours(IPV6, *lines), config=shut) == ()


def test_nothing_is_said_without_rules_of_ours() -> None:
    assert said(Ruleset(IPV4, (make_table("nat", {}),))) == ()
