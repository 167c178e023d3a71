"""The script for nft."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from istio_init.config.values import network
from istio_init.errors import UnsupportedError
from istio_init.formats.nft_script import render, script
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import Chain, ForeignRule, Plan, Rule, Ruleset, make_table, rule
from istio_init.rules.names import (
    ISTIO_DIVERT,
    ISTIO_INBOUND,
    ISTIO_OUTPUT,
)
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6, IdRange
from istio_init.rules.sets import canonical
from tests.plans import plan_of

if TYPE_CHECKING:
    from istio_init.rules.ranges import Family

SIDECAR = ("istio-iptables", "-u", "1337", "-i", "*", "-b", "*", "-d", "15090,15021,15020")

SIDECAR_SCRIPT = """\
add table inet istio-proxy-nat
delete table inet istio-proxy-nat
table inet istio-proxy-nat {
	set ports-HASH {
		type inet_service
		flags constant
		elements = {
			15008,
			15020,
			15021,
			15090,
		}
	}

	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		meta nfproto ipv4 meta l4proto tcp counter jump istio-inbound
	}

	chain output {
		type nat hook output priority -100; policy accept;
		meta nfproto ipv4 counter jump istio-output
	}

	chain istio-inbound {
		meta nfproto ipv4 tcp dport @ports-HASH counter return
		meta nfproto ipv4 meta l4proto tcp counter jump istio-in-redirect
	}

	chain istio-in-redirect {
		meta nfproto ipv4 meta l4proto tcp counter redirect to :15006
	}

	chain istio-output {
		ip saddr 127.0.0.6 oifname "lo" counter return
		ip daddr != 127.0.0.1 oifname "lo" tcp dport != 15008 meta skuid 1337 counter jump istio-in-redirect
		meta nfproto ipv4 oifname "lo" meta skuid != 1337 counter return
		meta nfproto ipv4 meta skuid 1337 counter return
		ip daddr != 127.0.0.1 oifname "lo" tcp dport != 15008 meta skgid 1337 counter jump istio-in-redirect
		meta nfproto ipv4 oifname "lo" meta skgid != 1337 counter return
		meta nfproto ipv4 meta skgid 1337 counter return
		ip daddr 127.0.0.1 counter return
		meta nfproto ipv4 counter jump istio-redirect
	}

	chain istio-redirect {
		meta nfproto ipv4 meta l4proto tcp counter redirect to :15001
	}
}
"""  # noqa: E501


def unhashed(text: str) -> str:
    """Return a script with the names of its sets as if they all held the same."""
    return re.sub(r"\b(addresses|ports|users|groups)-[0-9a-f]{12}\b", r"\1-HASH", text)


def lines_of(text: str, chain: str, table: str = "nat") -> list[str]:
    """Return the lines of one chain of a script, without their counters."""
    block = text.partition(f"table inet istio-proxy-{table} {{\n")[2].partition("\n}\n")[0]
    lines = block.partition(f"\tchain {chain} {{\n")[2].partition("\t}")[0].splitlines()
    return [unhashed(line.strip()).replace("counter ", "") for line in lines]


def in_chain(*rules: Rule, family: Family = IPV4, chain: str = ISTIO_OUTPUT) -> list[str]:
    """Return the lines of a chain that one family alone has."""
    table = make_table("nat", {chain: Chain(chain, None, rules)})
    text = script("nat", (canonical(Ruleset(family, (table,))),))
    return lines_of(text, chain.lower().replace("_", "-"))


def test_script_of_a_sidecar() -> None:
    text = render(plan_of(*SIDECAR, "--no-ipv6"))

    assert unhashed(text) == SIDECAR_SCRIPT


def test_what_both_families_have_is_written_once() -> None:
    text = render(plan_of(*SIDECAR, "--ipv6"))
    to_self = 'oifname "lo" tcp dport != 15008'

    assert lines_of(text, "istio-output") == [
        'ip saddr 127.0.0.6 oifname "lo" return',
        f"ip daddr != 127.0.0.1 {to_self} meta skuid 1337 jump istio-in-redirect",
        'ip6 saddr ::6 oifname "lo" return',
        f"ip6 daddr != ::1 {to_self} meta skuid 1337 jump istio-in-redirect",
        'oifname "lo" meta skuid != 1337 return',
        "meta skuid 1337 return",
        f"ip daddr != 127.0.0.1 {to_self} meta skgid 1337 jump istio-in-redirect",
        f"ip6 daddr != ::1 {to_self} meta skgid 1337 jump istio-in-redirect",
        'oifname "lo" meta skgid != 1337 return',
        "meta skgid 1337 return",
        "ip daddr 127.0.0.1 return",
        "ip6 daddr ::1 return",
        "jump istio-redirect",
    ]
    assert "nfproto" not in text


def test_families_whose_rules_are_in_different_orders_each_keep_theirs() -> None:
    lines = {
        name: rule(m.InInterface(name), target=target)
        for name, target in (("a", t.Return()), ("b", t.Accept()), ("c", t.Drop()))
    }
    orders = {IPV4: "abca", IPV6: "bac"}
    rulesets = []
    for family, order in orders.items():
        chain = Chain(ISTIO_OUTPUT, None, tuple(lines[name] for name in order))
        rulesets.append(Ruleset(family, (make_table("nat", {ISTIO_OUTPUT: chain}),)))
    found = lines_of(script("nat", tuple(rulesets)), "istio-output")

    for family, order in orders.items():
        (other,) = set(FAMILIES) - {family}
        kept = [line for line in found if other not in line]
        assert "".join(line.partition('iifname "')[2][0] for line in kept) == order
    assert len(found) < len("abca" + "bac")


def test_tproxy_drops_what_it_finds_no_socket_for() -> None:
    text = render(plan_of(*SIDECAR, "--no-ipv6", "-m", "TPROXY"))
    tcp = "ip daddr != 127.0.0.1 meta l4proto tcp"

    assert lines_of(text, "istio-tproxy", "mangle") == [
        f"{tcp} tproxy ip to :15006 meta mark set 0x00000539 accept",
        f"{tcp} drop",
    ]
    assert lines_of(text, "istio-divert", "mangle") == [
        "meta nfproto ipv4 meta mark set 0x00000539",
        "meta nfproto ipv4 accept",
    ]
    assert lines_of(text, "output", "mangle")[0].startswith("type route hook output priority -150;")
    assert lines_of(text, "prerouting", "mangle") == [
        "type filter hook prerouting priority -150; policy accept;",
        "meta nfproto ipv4 meta l4proto tcp jump istio-inbound",
        "meta nfproto ipv4 meta l4proto tcp meta mark == 0x00000539 ct mark set meta mark",
    ]


def test_routes_stand_as_comments() -> None:
    text = render(plan_of(*SIDECAR, "--no-ipv6", "-m", "TPROXY"))

    assert text.splitlines()[-2:] == [
        "# ip rule add fwmark 1337 lookup 133",
        "# ip route add local default dev lo table 133",
    ]


def test_thousand_listed_tproxy_ports_are_four_lines() -> None:
    ports = ",".join(str(number) for number in range(1, 2000, 2))
    text = render(plan_of("istio-iptables", "-m", "TPROXY", "-b", ports, "--no-ipv6"))

    assert lines_of(text, "istio-inbound", "mangle")[3:] == [
        "meta nfproto ipv4 tcp dport @ports-HASH ct state related,established jump istio-divert",
        "meta nfproto ipv4 tcp dport @ports-HASH jump istio-tproxy",
    ]


def test_sockets_are_told_apart_in_a_chain_of_their_own() -> None:
    text = render(plan_of("-u", "1337", "-m", "TPROXY", "-b", "80", "--no-ipv6"))

    assert lines_of(text, "istio-inbound", "mangle") == [
        "meta nfproto ipv4 tcp dport 80 jump istio-socket",
        "meta nfproto ipv4 tcp dport 80 jump istio-tproxy",
    ]
    assert lines_of(text, "istio-socket", "mangle") == [
        "socket wildcard 1 return",
        "socket transparent 0-1 jump istio-divert",
    ]


def test_inbound_ipv6_is_shut_in_the_old_layout() -> None:
    text = render(plan_of("-u", "1337", "-b", "80"))

    assert lines_of(text, "input", "filter") == [
        "type filter hook input priority 0; policy accept;",
        "meta nfproto ipv6 ct state established accept",
        "meta nfproto ipv6 reject with icmpx port-unreachable",
    ]


def test_dns_of_one_family_leaves_the_other_its_jump_and_its_zones() -> None:
    servers = ("--redirect-dns", "--dns-servers", "10.0.0.2,10.0.0.9")
    text = render(plan_of(*SIDECAR, "--ipv6", *servers))

    assert lines_of(text, "istio-output-dns") == [
        "ip daddr @addresses-HASH tcp dport 53 redirect to :15053",
        "ip daddr @addresses-HASH udp dport 53 redirect to :15053",
    ]
    assert "meta nfproto ipv4 jump istio-output-dns" in lines_of(text, "istio-output")
    assert lines_of(text, "output", "raw")[1:] == ["jump istio-output-dns"]
    assert lines_of(text, "prerouting", "raw")[1:] == ["meta nfproto ipv4 jump istio-inbound"]
    assert lines_of(text, "istio-output-dns", "raw") == [
        "udp dport 53 meta skuid 1337 ct zone set 1",
        "udp sport 15053 meta skuid 1337 ct zone set 2",
        "udp dport 53 meta skgid 1337 ct zone set 1",
        "udp sport 15053 meta skgid 1337 ct zone set 2",
        "ip daddr @addresses-HASH udp dport 53 ct zone set 2",
    ]
    elements = (
        "type ipv4_addr\n\t\tflags constant\n\t\telements = {\n\t\t\t10.0.0.2,\n\t\t\t10.0.0.9,\n"
    )
    assert elements in text


def test_sixty_four_groups_are_one_set() -> None:
    groups = ",".join(str(1000 + 2 * number) for number in range(64))
    env = {"ISTIO_OUTBOUND_OWNER_GROUPS": groups}
    text = render(plan_of("istio-iptables", "-i", "*", "--no-ipv6", env=env))

    assert "meta nfproto ipv4 meta skgid != @groups-HASH return" in lines_of(text, "istio-output")
    assert text.count("\t\t\t1") == 64


def test_tables_without_rules_are_deleted_and_never_created() -> None:
    assert script("raw", ()) == (
        "add table inet istio-proxy-raw\ndelete table inet istio-proxy-raw\n"
    )


@pytest.mark.parametrize(
    ("match", "spelled"),
    [
        (m.InInterface("eth0"), 'iifname "eth0"'),
        (m.InInterface("eth+", negated=True), 'iifname != "eth*"'),
        (m.OutInterface("eth*"), 'oifname "eth\\*"'),
        (m.OutInterface("a$b{#"), 'oifname "a$b{#"'),
        (m.Proto("udp", negated=True), "meta l4proto != udp"),
        (m.Owner("uid", IdRange(5, 9)), "meta skuid 5-9"),
        (m.Mark(1, 0xFF, negated=True), "meta mark & 0x000000ff != 0x00000001"),
        (m.CtState(("INVALID",)), "ct state invalid"),
        (m.CtState(("NEW", "RELATED"), negated=True), "ct state & (new | related) == 0"),
    ],
)
def test_matches(match: m.Match, spelled: str) -> None:
    assert in_chain(rule(match, target=t.Return())) == [f"meta nfproto ipv4 {spelled} return"]


@pytest.mark.parametrize(
    ("cidrs", "spelled"),
    [
        (["10.0.0.0/8"], "ip daddr 10.0.0.0/8"),
        (["10.0.0.1/32"], "ip daddr 10.0.0.1"),
        (["10.0.0.1/32", "10.0.0.2/32"], "ip daddr 10.0.0.1-10.0.0.2"),
        (["0.0.0.0/1", "128.0.0.0/1"], "meta nfproto ipv4"),
        (["fd00::/8"], "ip6 daddr fd00::/8"),
        (["fd00::1/128", "fd00::2/128"], "ip6 daddr fd00::1-fd00::2"),
    ],
)
def test_destinations(cidrs: list[str], spelled: str) -> None:
    rules = [rule(m.Destination(network(cidr)[0]), target=t.Return()) for cidr in cidrs]
    family = network(cidrs[0])[0].family

    assert in_chain(*rules, family=family) == [f"{spelled} return"]


def test_a_mark_under_a_mask_keeps_the_other_bits() -> None:
    assert in_chain(rule(target=t.SetMark(0x10, 0xFF))) == [
        "meta nfproto ipv4 meta mark set meta mark & 0xffffff00 ^ 0x00000010"
    ]


@pytest.mark.parametrize(
    "name", ["a\\+", "a\\*", "\\+"], ids=["wildcard", "star", "nothing before it"]
)
def test_interfaces_that_nft_cannot_name_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match="interface"):
        in_chain(rule(m.InInterface(name), target=t.Return()))


def test_sockets_can_lead_to_one_chain_only() -> None:
    with pytest.raises(UnsupportedError, match="one chain"):
        in_chain(rule(m.Socket(), target=t.Accept()))
    with pytest.raises(UnsupportedError, match="one chain"):
        in_chain(
            rule(m.Socket(), target=t.Jump(ISTIO_DIVERT)),
            rule(m.Socket(), target=t.Jump(ISTIO_INBOUND)),
        )


def test_rules_of_others_are_not_written() -> None:
    table = make_table("nat", {ISTIO_OUTPUT: Chain(ISTIO_OUTPUT, None, (ForeignRule(b""),))})

    with pytest.raises(UnsupportedError, match="does not write"):
        script("nat", (Ruleset(IPV4, (table,)),))


def test_a_plan_for_nothing_is_an_empty_script() -> None:
    assert render(Plan("1.30", (Ruleset(IPV4, ()), Ruleset(IPV6, ())))) == ""
