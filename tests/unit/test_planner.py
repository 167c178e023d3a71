"""From wishes and facts to rules: the decisions between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.config.model import (
    LAYOUT_1_0,
    LAYOUT_1_30,
    LAYOUTS,
    REDIRECT,
    TPROXY,
    Config,
    Facts,
)
from istio_init.config.options import OPTIONS
from istio_init.config.values import address, network
from istio_init.formats.iptables import rule_words
from istio_init.planner import plan
from istio_init.planner.layout_1_30 import ipv6_on
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import (
    BUILTIN_CHAINS,
    HEAD,
    LAYOUT,
    TABLES,
    TAIL,
    Plan,
    PolicyRoute,
    Rule,
)
from istio_init.rules.names import OWN_CHAINS, PASSTHROUGH
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6, IdRange, PortRange
from tests.strategies import S4, S6, configs
from tests.unit.flags import ids, networks, ports
from tests.unit.settings import tried

if TYPE_CHECKING:
    from typing import Any

    from istio_init.rules.model import Reason
    from istio_init.rules.ranges import Family, Network

V4, V6 = address("10.0.0.5"), address("fd00::5")
OLD = Config(LAYOUT_1_0, inbound_port=15001)
NEW = Config(LAYOUT_1_30, ipv6=False)
DUAL = Config(LAYOUT_1_30, ipv6=True)
NOTHING_KNOWN = Facts()


def rules(found: Plan, family: Family, table: str, chain: str) -> list[str]:
    """Return the rules of a chain as text; none where there is no such chain."""
    held = found.ruleset(family).table(table)
    named = held.chain(chain) if held else None
    return [" ".join(rule_words(rule, family)) for rule in named.rules] if named else []


def planned(config: Config, facts: Facts = NOTHING_KNOWN) -> Plan:
    return plan(config, facts)


@pytest.mark.parametrize(
    ("flag", "dual_stack", "addresses", "on"),
    [
        (None, False, (), False),
        (None, False, (V4,), False),
        (None, False, (V6,), True),
        (None, False, (V4, V6), False),
        (None, False, (V6, V4), True),
        (None, True, (), False),
        (None, True, (V4,), False),
        (None, True, (V4, V6), True),
        (None, True, (V4, V4, V6), True),
        (True, False, (), True),
        (True, False, (V4,), True),
        (False, False, (V6,), False),
        (False, True, (V4, V6), False),
    ],
)
def test_ipv6_by_flag_else_first_address_else_any_with_dual_stack(
    *, flag: bool | None, dual_stack: bool, addresses: tuple[Network, ...], on: bool
) -> None:
    config = Config(LAYOUT_1_30, ipv6=flag, dual_stack=dual_stack)

    assert ipv6_on(config, Facts(addresses)) is on
    found = planned(config, Facts(addresses))
    assert bool(found.ruleset(IPV6).tables) is on
    assert found.addresses == ((PASSTHROUGH[IPV6],) if on else ())
    assert found.ruleset(IPV4).tables


def test_layout_1_0_shuts_ipv6_unless_it_is_enabled() -> None:
    shut = planned(OLD.replace(ipv6=False))

    assert rules(shut, IPV6, "filter", "INPUT") == [
        "-m state --state ESTABLISHED -j ACCEPT",
        "-j REJECT --reject-with icmp6-port-unreachable",
    ]
    assert [table.name for table in shut.ruleset(IPV6).tables] == ["filter"]
    head = shut.ruleset(IPV6).tables[0].chains[0].rules
    assert [rule.place for rule in head if isinstance(rule, Rule)] == [HEAD, HEAD]
    assert not planned(OLD.replace(ipv6=True)).ruleset(IPV6).tables
    # Unlike the other layout, this one asks no address.
    assert planned(OLD, Facts((V6,))) == planned(OLD)
    assert shut.addresses == ()


def test_ports_go_where_the_flags_say() -> None:
    for config in (OLD, NEW):
        found = planned(config.replace(outbound_port=1, inbound_port=2))
        assert rules(found, IPV4, "nat", "ISTIO_REDIRECT") == ["-p tcp -j REDIRECT --to-ports 1"]
        assert rules(found, IPV4, "nat", "ISTIO_IN_REDIRECT") == ["-p tcp -j REDIRECT --to-ports 2"]


def test_tunnel_port_is_spared_even_where_nothing_jumps() -> None:
    for config in (NEW, NEW.replace(mode=TPROXY), NEW.replace(mode=TPROXY, inbound_all=True)):
        found = planned(config.replace(tunnel_port=15018))
        first, *_ = rules(found, IPV4, "nat", "ISTIO_INBOUND")
        assert first == "-p tcp -m tcp --dport 15018 -j RETURN"
        assert "-j ISTIO_INBOUND" not in rules(found, IPV4, "nat", "PREROUTING")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (OLD, []),
        (OLD.replace(inbound_ports=ports(80)), ["-p tcp -m tcp --dport 80 -j ISTIO_IN_REDIRECT"]),
        # -d counts with -b '*' alone.
        (
            OLD.replace(inbound_ports=ports(80), inbound_exclude_ports=ports(80, 81)),
            ["-p tcp -m tcp --dport 80 -j ISTIO_IN_REDIRECT"],
        ),
        (
            OLD.replace(inbound_all=True, inbound_exclude_ports=ports(81)),
            [
                "-p tcp -m tcp --dport 22 -j RETURN",
                "-p tcp -m tcp --dport 81 -j RETURN",
                "-p tcp -j ISTIO_IN_REDIRECT",
            ],
        ),
        (
            NEW.replace(inbound_all=True, inbound_exclude_ports=ports(81)),
            [
                "-p tcp -m tcp --dport 15008 -j RETURN",
                "-p tcp -m tcp --dport 81 -j RETURN",
                "-p tcp -j ISTIO_IN_REDIRECT",
            ],
        ),
        (
            NEW.replace(inbound_ports=(PortRange(80, 90), PortRange(70, 70))),
            [
                "-p tcp -m tcp --dport 15008 -j RETURN",
                "-p tcp -m tcp --dport 80:90 -j ISTIO_IN_REDIRECT",
                "-p tcp -m tcp --dport 70 -j ISTIO_IN_REDIRECT",
            ],
        ),
    ],
)
def test_inbound_ports_by_redirect(config: Config, expected: list[str]) -> None:
    found = planned(config)

    assert rules(found, IPV4, "nat", "ISTIO_INBOUND") == expected
    jumps = rules(found, IPV4, "nat", "PREROUTING")
    assert jumps == (["-p tcp -j ISTIO_INBOUND"] if config.captures_inbound else [])
    assert found.routes == ()


TPROXY_HEAD = [
    "-p tcp -m mark --mark 0x539 -j RETURN",
    "-s 127.0.0.6/32 -i lo -p tcp -j RETURN",
    "-i lo -p tcp -m mark ! --mark 0x53a -j RETURN",
]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            OLD.replace(inbound_ports=ports(80)),
            [
                "-p tcp -m tcp --dport 80 -m socket -j ISTIO_DIVERT",
                "-p tcp -m tcp --dport 80 -m socket -j ISTIO_DIVERT",
                "-p tcp -m tcp --dport 80 -j ISTIO_TPROXY",
            ],
        ),
        (
            OLD.replace(inbound_all=True, inbound_exclude_ports=ports(81)),
            [
                "-p tcp -m tcp --dport 22 -j RETURN",
                "-p tcp -m tcp --dport 81 -j RETURN",
                "-p tcp -m socket -j ISTIO_DIVERT",
                "-p tcp -j ISTIO_TPROXY",
            ],
        ),
        (NEW, TPROXY_HEAD),
        (
            NEW.replace(inbound_ports=ports(80)),
            [
                *TPROXY_HEAD,
                (
                    "-p tcp -m tcp --dport 80 -m conntrack --ctstate RELATED,ESTABLISHED "
                    "-j ISTIO_DIVERT"
                ),
                "-p tcp -m tcp --dport 80 -j ISTIO_TPROXY",
            ],
        ),
        (
            NEW.replace(inbound_all=True, inbound_exclude_ports=ports(81)),
            [
                *TPROXY_HEAD,
                "-p tcp -m tcp --dport 81 -j RETURN",
                "-p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT",
                "-p tcp -j ISTIO_TPROXY",
            ],
        ),
    ],
)
def test_inbound_ports_by_tproxy(config: Config, expected: list[str]) -> None:
    found = planned(config.replace(mode=TPROXY))

    assert rules(found, IPV4, "mangle", "ISTIO_INBOUND") == expected
    assert rules(found, IPV4, "nat", "PREROUTING") == []
    captures = config.captures_inbound
    assert ("-p tcp -j ISTIO_INBOUND" in rules(found, IPV4, "mangle", "PREROUTING")) is captures
    assert found.routes == ((PolicyRoute(IPV4, 1337, 133),) if captures else ())


def test_tproxy_goes_to_the_outbound_port_in_layout_1_0_and_to_the_inbound_in_1_30() -> None:
    def target(config: Config) -> list[str]:
        wished = config.replace(mode=TPROXY, inbound_all=True, outbound_port=1, inbound_port=2)
        return rules(planned(wished.replace(tproxy_mark=42)), IPV4, "mangle", "ISTIO_TPROXY")

    ending = "--on-ip 0.0.0.0 --tproxy-mark 0x2a/0xffffffff"
    assert target(OLD) == [f"! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 1 {ending}"]
    assert target(NEW) == [f"! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 2 {ending}"]


def test_tproxy_routes_are_for_each_family_that_is_on() -> None:
    wished = {"mode": TPROXY, "inbound_all": True, "tproxy_mark": 42, "tproxy_table": 7}

    assert planned(OLD.replace(**wished, ipv6=True)).routes == (PolicyRoute(IPV4, 42, 7),)
    assert planned(NEW.replace(**wished)).routes == (PolicyRoute(IPV4, 42, 7),)
    assert planned(DUAL.replace(**wished)).routes == (
        PolicyRoute(IPV4, 42, 7),
        PolicyRoute(IPV6, 42, 7),
    )


def test_tproxy_marks_carry_on_whatever_ports_are_captured() -> None:
    config = NEW.replace(mode=TPROXY, proxy_uids=ids(1, 2), proxy_gids=ids(3))

    for wished in (config, config.replace(inbound_all=True)):
        found = planned(wished)
        assert rules(found, IPV4, "mangle", "PREROUTING")[-1] == (
            "-p tcp -m mark --mark 0x539 -j CONNMARK --save-mark "
            "--nfmask 0xffffffff --ctmask 0xffffffff"
        )
        assert rules(found, IPV4, "mangle", "OUTPUT") == [
            "-o lo -p tcp -m mark --mark 0x539 -j RETURN",
            *(
                f"! -d 127.0.0.1/32 -o lo -p tcp -m owner --{owner} "
                "-j MARK --set-xmark 0x53a/0xffffffff"
                for owner in ("uid-owner 1", "uid-owner 2", "gid-owner 3")
            ),
            (
                "-p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark "
                "--nfmask 0xffffffff --ctmask 0xffffffff"
            ),
        ]
    assert not planned(NEW).ruleset(IPV4).table("mangle")


def test_outbound_of_layout_1_0() -> None:
    config = OLD.replace(
        proxy_uids=ids(1, 2),
        proxy_gids=ids(3),
        outbound_cidrs=networks("10.0.0.0/8", "fd00::/8", "10.9.0.0/16"),
        outbound_exclude_cidrs=networks("10.1.0.0/16", "fd01::/16"),
    )
    found = planned(config)

    assert rules(found, IPV4, "nat", "OUTPUT") == ["-p tcp -j ISTIO_OUTPUT"]
    assert rules(found, IPV4, "nat", "ISTIO_OUTPUT") == [
        "! -d 127.0.0.1/32 -o lo -j ISTIO_REDIRECT",
        "-m owner --uid-owner 1 -j RETURN",
        "-m owner --uid-owner 2 -j RETURN",
        "-m owner --gid-owner 3 -j RETURN",
        "-d 127.0.0.1/32 -j RETURN",
        "-d 10.1.0.0/16 -j RETURN",
        "-d 10.0.0.0/8 -j ISTIO_REDIRECT",
        "-d 10.9.0.0/16 -j ISTIO_REDIRECT",
        "-j RETURN",
    ]
    assert rules(planned(OLD.replace(outbound_all=True)), IPV4, "nat", "ISTIO_OUTPUT")[-1] == (
        "-j ISTIO_REDIRECT"
    )
    assert rules(planned(OLD), IPV4, "nat", "ISTIO_OUTPUT")[-1] == "-d 127.0.0.1/32 -j RETURN"


def test_outbound_of_layout_1_30() -> None:
    config = NEW.replace(
        proxy_uids=ids(1),
        proxy_gids=(IdRange(3, 5),),
        outbound_cidrs=networks("10.0.0.0/8", "fd00::/8"),
        outbound_exclude_cidrs=networks("10.1.0.0/16", "fd01::/16"),
        outbound_ports=ports(90),
        outbound_exclude_ports=(PortRange(20, 25),),
    )
    found = planned(config)

    assert rules(found, IPV4, "nat", "OUTPUT") == ["-j ISTIO_OUTPUT"]
    assert rules(found, IPV4, "nat", "ISTIO_OUTPUT") == [
        "-p tcp -m tcp --dport 20:25 -j RETURN",
        "-p udp -m udp --dport 20:25 -j RETURN",
        "-s 127.0.0.6/32 -o lo -j RETURN",
        (
            "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1 "
            "-j ISTIO_IN_REDIRECT"
        ),
        "-o lo -m owner ! --uid-owner 1 -j RETURN",
        "-m owner --uid-owner 1 -j RETURN",
        (
            "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 3-5 "
            "-j ISTIO_IN_REDIRECT"
        ),
        "-o lo -m owner ! --gid-owner 3-5 -j RETURN",
        "-m owner --gid-owner 3-5 -j RETURN",
        "-d 127.0.0.1/32 -j RETURN",
        "-d 10.1.0.0/16 -j RETURN",
        "-p tcp -m tcp --dport 90 -j ISTIO_REDIRECT",
        "-d 10.0.0.0/8 -j ISTIO_REDIRECT",
    ]


def test_ipv6_is_the_same_with_its_own_addresses() -> None:
    config = DUAL.replace(
        outbound_cidrs=networks("10.0.0.0/8", "fd00::/8"),
        outbound_exclude_cidrs=networks("10.1.0.0/16", "fd01::/16"),
    )
    found = rules(planned(config), IPV6, "nat", "ISTIO_OUTPUT")

    assert found == [
        line.replace("127.0.0.1/32", "::1/128")
        .replace("127.0.0.6/32", "::6/128")
        .replace("10.0.0.0/8", "fd00::/8")
        .replace("10.1.0.0/16", "fd01::/16")
        for line in rules(planned(config), IPV4, "nat", "ISTIO_OUTPUT")
    ]


def test_loopback_range_is_ipv4s_alone() -> None:
    config = DUAL.replace(loopback=network("127.0.0.0/8")[0])

    assert "-d 127.0.0.0/8 -j RETURN" in rules(planned(config), IPV4, "nat", "ISTIO_OUTPUT")
    assert "-d ::1/128 -j RETURN" in rules(planned(config), IPV6, "nat", "ISTIO_OUTPUT")


@pytest.mark.parametrize(
    ("cidrs", "captured"),
    [
        ((), False),
        (("10.0.0.0/8",), False),
        (("127.0.0.1/32",), True),
        (("127.5.0.0/16",), True),
        (("127.0.0.0/8", "10.0.0.0/8"), True),
        (("10.0.0.0/8", "127.0.0.0/8"), True),
        (("0.0.0.0/0",), False),
        (("126.0.0.0/7",), False),
        (("::1/128",), True),
        (("::/0",), False),
        (("fd00::/8",), False),
    ],
)
def test_loopback_in_the_captured_ranges_lets_the_application_call_itself_through_the_proxy(
    cidrs: tuple[str, ...], *, captured: bool
) -> None:
    found = planned(DUAL.replace(outbound_cidrs=networks(*cidrs)))

    for family in FAMILIES:
        lines = rules(found, family, "nat", "ISTIO_OUTPUT")
        for owner in ("uid", "gid"):
            assert (f"-o lo -m owner ! --{owner}-owner 1337 -j RETURN" in lines) is not captured
            assert f"-m owner --{owner}-owner 1337 -j RETURN" in lines


@pytest.mark.parametrize(
    ("included", "excluded", "expected"),
    [
        (None, (), []),
        (None, ids(202, 203), ["--gid-owner 202", "--gid-owner 203"]),
        ((), (), [""]),
        ((), ids(202), [""]),
        (ids(1), ids(202), ["! --gid-owner 1"]),
        (ids(1, 2), (), ["! --gid-owner 1 -m owner ! --gid-owner 2"]),
        ((IdRange(1, 9),), (), ["! --gid-owner 1-9"]),
    ],
)
def test_owner_groups(
    included: tuple[IdRange, ...] | None, excluded: tuple[IdRange, ...], expected: list[str]
) -> None:
    config = DUAL.replace(owner_groups=included, owner_groups_exclude=excluded, outbound_all=True)

    for family, local in ((IPV4, "127.0.0.1/32"), (IPV6, "::1/128")):
        lines = rules(planned(config), family, "nat", "ISTIO_OUTPUT")
        start = lines.index("-m owner --gid-owner 1337 -j RETURN") + 1
        found = lines[start : lines.index(f"-d {local} -j RETURN")]
        assert found == [f"-m owner {one} -j RETURN".replace("-m owner  ", "") for one in expected]


def test_64_owner_groups_are_one_rule() -> None:
    found = planned(NEW.replace(owner_groups=ids(*range(64))))

    (line,) = [
        line for line in rules(found, IPV4, "nat", "ISTIO_OUTPUT") if "! --gid-owner 63" in line
    ]
    assert line.count("-m owner ! --gid-owner ") == 64


def test_excluded_interfaces_are_spared_first_and_in_both_directions() -> None:
    config = NEW.replace(exclude_interfaces=("eth8", "eth+"), inbound_all=True)

    for mode, tables in ((REDIRECT, ["nat"]), (TPROXY, ["nat", "mangle"])):
        found = planned(config.replace(mode=mode))
        for table in ("nat", "mangle"):
            expected = ["-i eth8 -j RETURN", "-i eth+ -j RETURN"] if table in tables else []
            assert rules(found, IPV4, table, "PREROUTING")[:2] == expected
            expected = ["-o eth8 -j RETURN", "-o eth+ -j RETURN"] if table in tables else []
            assert rules(found, IPV4, table, "OUTPUT")[:2] == expected


def test_virtual_interfaces_are_inserted_later_ones_above() -> None:
    config = DUAL.replace(
        virtual_interfaces=("eth1", "eth2"),
        exclude_interfaces=("eth8",),
        inbound_all=True,
        outbound_cidrs=networks("10.0.0.0/8", "10.9.0.0/16"),
    )
    found = planned(config)

    assert rules(found, IPV4, "nat", "PREROUTING") == [
        "-d 10.9.0.0/16 -i eth2 -j ISTIO_REDIRECT",
        "-d 10.9.0.0/16 -i eth1 -j ISTIO_REDIRECT",
        "-d 10.0.0.0/8 -i eth2 -j ISTIO_REDIRECT",
        "-d 10.0.0.0/8 -i eth1 -j ISTIO_REDIRECT",
        "-i eth2 -j RETURN",
        "-i eth1 -j RETURN",
        "-i eth8 -j RETURN",
        "-p tcp -j ISTIO_INBOUND",
    ]
    # No range of this family is captured: nothing is redirected.
    assert rules(found, IPV6, "nat", "PREROUTING")[:2] == ["-i eth2 -j RETURN", "-i eth1 -j RETURN"]
    everything = planned(config.replace(outbound_all=True, outbound_cidrs=()))
    assert rules(everything, IPV6, "nat", "PREROUTING")[:4] == [
        "-i eth2 -j ISTIO_REDIRECT",
        "-i eth1 -j ISTIO_REDIRECT",
        "-i eth2 -j RETURN",
        "-i eth1 -j RETURN",
    ]
    chain = found.ruleset(IPV4).tables[0].chains[0]
    places = [rule.place for rule in chain.rules if isinstance(rule, Rule)]
    assert places == [HEAD] * 6 + [TAIL] * 2


def test_invalid_packets_are_dropped_in_mangle() -> None:
    found = planned(DUAL.replace(drop_invalid=True))

    for family in FAMILIES:
        assert rules(found, family, "mangle", "PREROUTING") == [
            "-m conntrack --ctstate INVALID -j ISTIO_DROP"
        ]
        assert rules(found, family, "mangle", "ISTIO_DROP") == ["-j DROP"]


@pytest.mark.parametrize(
    ("redirect", "everything", "flag", "known", "on", "captured"),
    [
        (False, False, None, (S4, S6), False, ()),
        (False, True, None, (S4, S6), False, ()),
        (True, False, None, (), False, ()),
        (True, False, None, (S4,), True, (IPV4,)),
        (True, False, None, (S6,), True, (IPV6,)),
        (True, False, None, (S4, S6), True, (IPV4, IPV6)),
        (True, False, (S6,), (S4,), True, (IPV6,)),
        (True, False, (), (S4,), False, ()),
        (True, True, None, (), True, (IPV4, IPV6)),
        (True, True, (S4,), (), True, (IPV4, IPV6)),
    ],
)
def test_dns_is_on_for_the_pod_and_captured_by_family(
    *,
    redirect: bool,
    everything: bool,
    flag: tuple[Network, ...] | None,
    known: tuple[Network, ...],
    on: bool,
    captured: tuple[Family, ...],
) -> None:
    config = DUAL.replace(redirect_dns=redirect, capture_all_dns=everything, dns_servers=flag)
    found = planned(config, Facts((), known))

    for family in FAMILIES:
        lines = rules(found, family, "nat", "ISTIO_OUTPUT")
        own = "-m multiport ! --dports 53,15008" if on else "-m tcp ! --dport 15008"
        loopback = "::1/128" if family == IPV6 else "127.0.0.1/32"
        assert (
            f"! -d {loopback} -o lo -p tcp {own} -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT"
            in lines
        )
        # The group's rule stays as it is.
        assert (
            f"! -d {loopback} -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 1337 "
            "-j ISTIO_IN_REDIRECT" in lines
        )
        for owner in ("uid", "gid"):
            spared = "-p tcp -m tcp ! --dport 53 " if on else ""
            assert f"-o lo {spared}-m owner ! --{owner}-owner 1337 -j RETURN" in lines
        assert ("-j ISTIO_OUTPUT_DNS" in lines) is (family in captured)
        assert bool(rules(found, family, "nat", "ISTIO_OUTPUT_DNS")) is (family in captured)
        assert (rules(found, family, "raw", "OUTPUT") == ["-j ISTIO_OUTPUT_DNS"]) is on
        assert (rules(found, family, "raw", "PREROUTING") == ["-j ISTIO_INBOUND"]) is (
            family in captured
        )
        zones = rules(found, family, "raw", "ISTIO_OUTPUT_DNS")
        assert zones[:4] == (
            [
                "-p udp -m udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1",
                "-p udp -m udp --sport 15053 -m owner --uid-owner 1337 -j CT --zone 2",
                "-p udp -m udp --dport 53 -m owner --gid-owner 1337 -j CT --zone 1",
                "-p udp -m udp --sport 15053 -m owner --gid-owner 1337 -j CT --zone 2",
            ]
            if on
            else []
        )
        assert len(zones) == (5 if family in captured else 4 if on else 0)


def test_dns_redirects_are_tcp_first_then_udp_server_by_server() -> None:
    config = NEW.replace(redirect_dns=True, dns_servers=(S4, S6, address("10.96.0.11")))
    found = planned(config)

    assert rules(found, IPV4, "nat", "ISTIO_OUTPUT_DNS") == [
        f"-d {server}/32 -p {proto} -m {proto} --dport 53 -j REDIRECT --to-ports 15053"
        for proto in ("tcp", "udp")
        for server in ("10.96.0.10", "10.96.0.11")
    ]
    assert rules(found, IPV4, "raw", "ISTIO_OUTPUT_DNS")[4:] == [
        "-d 10.96.0.10/32 -p udp -m udp --dport 53 -j CT --zone 2",
        "-d 10.96.0.11/32 -p udp -m udp --dport 53 -j CT --zone 2",
    ]
    assert rules(found, IPV4, "raw", "ISTIO_INBOUND") == [
        "-s 10.96.0.10/32 -p udp -m udp --sport 53 -j CT --zone 1",
        "-s 10.96.0.11/32 -p udp -m udp --sport 53 -j CT --zone 1",
    ]
    everything = planned(config.replace(capture_all_dns=True))
    assert rules(everything, IPV4, "nat", "ISTIO_OUTPUT_DNS") == [
        "-p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053",
        "-p udp -m udp --dport 53 -j REDIRECT --to-ports 15053",
    ]
    assert rules(everything, IPV4, "raw", "ISTIO_INBOUND") == [
        "-p udp -m udp --sport 53 -j CT --zone 1"
    ]


def test_dns_jump_stands_between_the_owner_groups_and_loopback() -> None:
    config = NEW.replace(redirect_dns=True, capture_all_dns=True, owner_groups=ids(7))
    lines = rules(planned(config), IPV4, "nat", "ISTIO_OUTPUT")

    start = lines.index("-m owner ! --gid-owner 7 -j RETURN")
    assert lines[start + 1 : start + 3] == ["-j ISTIO_OUTPUT_DNS", "-d 127.0.0.1/32 -j RETURN"]


@pytest.mark.parametrize(
    ("config", "facts", "text"),
    [
        (OLD.replace(inbound_exclude_ports=ports(81)), Facts(), "-d does nothing without -b '*'"),
        (
            OLD.replace(outbound_exclude_cidrs=networks("0.0.0.0/0")),
            Facts(),
            "-x 0.0.0.0/0 leaves all outbound traffic of its family alone",
        ),
        (
            NEW.replace(outbound_exclude_cidrs=networks("::/0")),
            Facts(),
            "-x ::/0 leaves all outbound traffic of its family alone",
        ),
        (NEW.replace(exclude_interfaces=("+",)), Facts(), "-c + means every interface"),
        (NEW.replace(virtual_interfaces=("eth0", "+")), Facts(), "-k + means every interface"),
        (
            NEW.replace(proxy_uids=ids(7, 8)),
            Facts(),
            (
                "-u lists several users: the loopback rules of 7 hide those of the others, whose "
                "calls to the pod's own address are not captured"
            ),
        ),
        (
            NEW.replace(mode=TPROXY),
            Facts(),
            (
                "in TPROXY mode a proxy that runs as a user of -u catches its own upstream "
                "connections; run it as uid 0 with a group of -g"
            ),
        ),
        (
            NEW.replace(owner_groups=()),
            Facts(),
            "ISTIO_OUTBOUND_OWNER_GROUPS is empty: no outbound traffic of any group is captured",
        ),
        (
            NEW.replace(owner_groups=ids(1), owner_groups_exclude=ids(2)),
            Facts(),
            (
                "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE counts only while "
                "ISTIO_OUTBOUND_OWNER_GROUPS is *"
            ),
        ),
        (
            NEW.replace(redirect_dns=True),
            Facts(),
            "there is no DNS server in resolv.conf: DNS is not captured",
        ),
        (
            NEW.replace(capture_all_dns=True),
            Facts(),
            "--capture-all-dns does nothing without --redirect-dns",
        ),
    ],
)
def test_what_is_seldom_meant_is_warned_of(config: Config, facts: Facts, text: str) -> None:
    assert planned(config, facts).warnings == (text,)


def test_virtual_machines_in_tproxy_mode_are_warned_of() -> None:
    config = NEW.replace(mode=TPROXY, virtual_interfaces=("eth1",))
    (usual,) = planned(config).warnings
    first, second = planned(config.replace(inbound_all=True)).warnings

    assert first == usual
    assert second.startswith("-k in TPROXY mode: ")


def test_usual_wishes_are_not_warned_of() -> None:
    usual = {
        "inbound_all": True,
        "inbound_exclude_ports": ports(15090),
        "outbound_all": True,
        "outbound_exclude_cidrs": networks("10.0.0.0/8"),
    }

    assert planned(OLD.replace(**usual)).warnings == ()
    assert planned(DUAL.replace(**usual, redirect_dns=True, dns_servers=(S4,))).warnings == ()


def test_match_on_everything_is_left_out() -> None:
    config = DUAL.replace(outbound_cidrs=networks("0.0.0.0/0", "::/0"), exclude_interfaces=("+",))

    for family in FAMILIES:
        assert rules(planned(config), family, "nat", "ISTIO_OUTPUT")[-1] == "-j ISTIO_REDIRECT"
        assert rules(planned(config), family, "nat", "PREROUTING") == ["-j RETURN"]


FLAGS = {
    *(f"--{option.name}" for option in OPTIONS),
    *(f"-{option.short}" for option in OPTIONS if option.short),
    "--no-ipv6",
}


def assert_reason(reason: Reason, config: Config) -> None:
    """Fail unless a reason says all that the tools and the documentation tell of a rule."""
    assert reason.flag in FLAGS
    assert reason.effect != "not known"
    assert reason.text[0].isupper()
    assert reason.text.endswith(".")
    assert ". " not in reason.text
    assert ("proxy_init 1.0.2" if config.layout == "1.0" else "istio 1.30") in reason.source
    if reason.flag == LAYOUT:
        assert reason.value == config.layout


@given(st.sampled_from(LAYOUTS).flatmap(configs))
@tried
def test_every_plan_is_well_formed(config: Config) -> None:
    found = planned(config, Facts((V4, V6), (S4, S6)))

    assert found == planned(config, Facts((V4, V6), (S4, S6)))
    assert tuple(ruleset.family for ruleset in found.rulesets) == FAMILIES
    for ruleset in found.rulesets:
        names = [table.name for table in ruleset.tables]
        assert names == [name for name in TABLES if name in names]
        for table in ruleset.tables:
            builtin = BUILTIN_CHAINS[table.name]
            own = [chain.name for chain in table.chains[len(builtin) :]]
            assert tuple(chain.name for chain in table.chains[: len(builtin)]) == builtin
            assert own == sorted(own)
            assert set(own) <= OWN_CHAINS
            for chain in table.chains:
                assert (chain.policy is None) is (chain.name in own)
                # No chain of ours is empty, no jump leads nowhere, every rule says why.
                assert chain.rules or chain.policy
                places = []
                for rule in chain.rules:
                    assert isinstance(rule, Rule)
                    assert_reason(rule.reason, config)
                    places.append(rule.place)
                    if isinstance(rule.target, t.Jump):
                        assert rule.target.chain in own
                    for match in rule.matches:
                        if isinstance(match, m.Source | m.Destination):
                            assert match.network.family == ruleset.family
                assert places == sorted(places)


def test_loopback_traffic_of_the_application_returns_before_it_is_redirected() -> None:
    lines = rules(planned(NEW.replace(outbound_all=True)), IPV4, "nat", "ISTIO_OUTPUT")

    assert lines.index("-d 127.0.0.1/32 -j RETURN") < lines.index("-j ISTIO_REDIRECT")


def test_layouts_are_two() -> None:
    unknown: Any = "2.0"

    with pytest.raises(AssertionError):
        plan(Config(unknown), NOTHING_KNOWN)


def test_unknown_family_of_a_plan_is_empty() -> None:
    assert Plan("1.30", ()).ruleset(IPV6).tables == ()
    assert planned(NEW).ruleset(IPV4).table("filter") is None
    nat = planned(NEW).ruleset(IPV4).table("nat")
    assert nat is not None
    assert nat.chain("NONE") is None
