"""The nft script, and what is read back from nft's listings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from istio_init.config.values import network
from istio_init.errors import ParseError, UnsupportedError
from istio_init.formats.nft_json import parse_tables
from istio_init.formats.nft_script import render, script
from istio_init.planner.draft import TCP, UDP
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import Chain, ForeignRule, Plan, Rule, Ruleset, Table, make_table, rule
from istio_init.rules.names import (
    ISTIO_DIVERT,
    ISTIO_INBOUND,
    ISTIO_OUTPUT,
    ISTIO_REDIRECT,
    ISTIO_TPROXY,
)
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6, IdRange, Network, PortRange
from istio_init.rules.sets import canonical
from tests.plans import plan_of

if TYPE_CHECKING:
    from istio_init.rules.ranges import Family

SIDECAR = ("istio-iptables", "-u", "1337", "-i", "*", "-b", "*", "-d", "15090,15021,15020")

SIDECAR_SCRIPT = """\
add table inet istio-proxy-nat
delete table inet istio-proxy-nat
table inet istio-proxy-nat {
	set ports-1 {
		type inet_service
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
		meta nfproto ipv4 tcp dport @ports-1 counter return
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


def lines_of(text: str, chain: str, table: str = "nat") -> list[str]:
    """Return the lines of one chain of a script, without their counters."""
    block = text.partition(f"table inet istio-proxy-{table} {{\n")[2].partition("\n}\n")[0]
    lines = block.partition(f"\tchain {chain} {{\n")[2].partition("\t}")[0].splitlines()
    return [line.strip().replace("counter ", "") for line in lines]


def in_chain(*rules: Rule, family: Family = IPV4, chain: str = ISTIO_OUTPUT) -> list[str]:
    """Return the lines of a chain that one family alone has."""
    table = make_table("nat", {chain: Chain(chain, None, rules)})
    text = script("nat", (canonical(Ruleset(family, (table,))),))
    return lines_of(text, chain.lower().replace("_", "-"))


def test_script_of_a_sidecar() -> None:
    text = render(plan_of(*SIDECAR, "--no-ipv6"))

    assert text == SIDECAR_SCRIPT


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
        "meta nfproto ipv4 tcp dport @ports-1 ct state related,established jump istio-divert",
        "meta nfproto ipv4 tcp dport @ports-1 jump istio-tproxy",
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
        "ip daddr @addresses-1 tcp dport 53 redirect to :15053",
        "ip daddr @addresses-1 udp dport 53 redirect to :15053",
    ]
    assert "meta nfproto ipv4 jump istio-output-dns" in lines_of(text, "istio-output")
    assert lines_of(text, "output", "raw")[1:] == ["jump istio-output-dns"]
    assert lines_of(text, "prerouting", "raw")[1:] == ["meta nfproto ipv4 jump istio-inbound"]
    assert lines_of(text, "istio-output-dns", "raw") == [
        "udp dport 53 meta skuid 1337 ct zone set 1",
        "udp sport 15053 meta skuid 1337 ct zone set 2",
        "udp dport 53 meta skgid 1337 ct zone set 1",
        "udp sport 15053 meta skgid 1337 ct zone set 2",
        "ip daddr @addresses-1 udp dport 53 ct zone set 2",
    ]
    assert "type ipv4_addr\n\t\telements = {\n\t\t\t10.0.0.2,\n\t\t\t10.0.0.9,\n" in text


def test_sixty_four_groups_are_one_set() -> None:
    groups = ",".join(str(1000 + 2 * number) for number in range(64))
    env = {"ISTIO_OUTBOUND_OWNER_GROUPS": groups}
    text = render(plan_of("istio-iptables", "-i", "*", "--no-ipv6", env=env))

    assert "meta nfproto ipv4 meta skgid != @groups-1 return" in lines_of(text, "istio-output")
    assert text.count("\t\t\t1") == 64


@pytest.mark.parametrize("absent", [False, True])
def test_tables_without_rules_are_deleted_and_never_created(*, absent: bool) -> None:
    assert script("raw", (), absent=absent) == (
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
        (m.CtState(("NEW", "RELATED"), negated=True), "ct state != { new, related }"),
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
    table = make_table("nat", {ISTIO_OUTPUT: Chain(ISTIO_OUTPUT, None, (ForeignRule("[]"),))})

    with pytest.raises(UnsupportedError, match="does not write"):
        script("nat", (Ruleset(IPV4, (table,)),))


def test_a_plan_for_nothing_is_an_empty_script() -> None:
    assert render(Plan("1.30", (Ruleset(IPV4, ()), Ruleset(IPV6, ())))) == ""


# What nft lists.

_ACCEPT: dict[str, Any] = {"accept": None}
_META_MARK = {"meta": {"key": "mark"}}
_TPROXY = {"tproxy": {"family": "ip", "port": 1}}
_MARKED = {"mangle": {"key": _META_MARK, "value": 5}}


def match(left: dict[str, Any], right: object, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str, right: object, op: str = "==") -> dict[str, Any]:
    return match({"meta": {"key": key}}, right, op)


def payload(protocol: str, field: str, right: object, op: str = "==") -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": field}}, right, op)


def listing(
    *objects: dict[str, Any], chains: tuple[str, ...] = ("istio-inbound",), **table: object
) -> str:
    declared = [{"chain": {"name": name}} for name in chains]
    head: dict[str, Any] = {"table": {"name": "istio-proxy-mangle", **table}}
    all_objects: list[dict[str, Any]] = [head, *declared, *objects]
    for one in all_objects[1:]:
        for found in one.values():
            found["table"] = "istio-proxy-mangle"
    for one in all_objects:
        for found in one.values():
            found["family"] = "inet"
    return json.dumps({"nftables": [{"metainfo": {}}, *all_objects]})


def line(*statements: dict[str, Any], chain: str = "istio-inbound") -> dict[str, Any]:
    counter = {"counter": {"packets": 7, "bytes": 700}}
    return {"rule": {"chain": chain, "expr": [*statements[:-1], counter, *statements[-1:]]}}


def rules_of(
    *lines: list[dict[str, Any]], family: Family = IPV4, sets: tuple[dict[str, Any], ...] = ()
) -> tuple[Rule | ForeignRule, ...]:
    """Return the rules of a chain of these lines."""
    text = listing(*({"set": one} for one in sets), *(line(*one) for one in lines))
    chain = tables_of(text)[family].chain(ISTIO_INBOUND)
    return chain.rules if chain else ()


def tables_of(text: str) -> dict[Family, Table]:
    return parse_tables(text)["mangle"]


def chain_names(text: str) -> list[str]:
    """Return the names of the chains that are not built in."""
    return [chain.name for chain in tables_of(text)[IPV4].chains if chain.policy is None]


def test_a_line_without_family_is_for_both() -> None:
    for family in FAMILIES:
        assert rules_of([_ACCEPT], family=family) == (rule(target=t.Accept()),)


def test_a_line_for_one_family_is_for_that_only() -> None:
    lines = [[meta("nfproto", "ipv4"), _ACCEPT], [payload("ip", "saddr", "10.0.0.1"), _ACCEPT]]

    assert len(rules_of(*lines)) == 2
    assert rules_of(*lines, family=IPV6) == ()


@pytest.mark.parametrize(
    "values",
    [
        {"set": ["10.0.0.5", {"prefix": {"addr": "10.0.0.0", "len": 30}}, "10.0.0.4"]},
        {"range": ["10.0.0.0", "10.0.0.5"]},
        "@some",
    ],
    ids=["anonymous set", "range", "named set"],
)
def test_every_value_of_a_set_is_a_rule(values: object) -> None:
    some = {
        "name": "some",
        "flags": ["interval"],
        "elem": [{"range": ["10.0.0.0", "10.0.0.4"]}, "10.0.0.5"],
    }

    assert rules_of([payload("ip", "daddr", values), _ACCEPT], sets=(some,)) == tuple(
        rule(m.Destination(network(cidr)[0]), target=t.Accept())
        for cidr in ("10.0.0.0/30", "10.0.0.4/31")
    )


@pytest.mark.parametrize(
    ("family", "kind", "understood"),
    [
        ("ipv4", "icmpx", True),
        ("ipv4", "icmp", True),
        ("ipv4", "icmpv6", False),
        ("ipv6", "icmpx", True),
        ("ipv6", "icmpv6", True),
        ("ipv6", "icmp", False),
    ],
)
def test_a_family_is_answered_in_its_own_words(
    family: Family, kind: str, *, understood: bool
) -> None:
    reject = {"reject": {"type": kind, "expr": "port-unreachable"}}
    (found,) = rules_of([meta("nfproto", family), reject], family=family)

    assert (found == rule(target=t.Reject())) == understood


@pytest.mark.parametrize(
    ("value", "mark", "mask"),
    [
        (5, 5, 0xFFFFFFFF),
        ({"&": [_META_MARK, 0xFFFFFF00]}, 0, 0xFF),
        ({"|": [_META_MARK, 0x3]}, 0x3, 0x3),
        ({"^": [_META_MARK, 0x10001]}, 0x10001, 0),
        ({"^": [{"&": [_META_MARK, 0xFFFFFF00]}, 1]}, 1, 0xFF),
        # The same, as nft puts it.
        ({"|": [{"&": [_META_MARK, 0xFFFFFF01]}, 1]}, 1, 0xFF),
        ({"|": [{"^": [{"&": [_META_MARK, 0xFFFFFF01]}, 0x10000]}, 1]}, 0x10001, 0xFF),
        (_META_MARK, 0, 0),
    ],
)
def test_marks_made_of_the_old_mark(value: object, mark: int, mask: int) -> None:
    found = rules_of([{"mangle": {"key": _META_MARK, "value": value}}])

    assert found == (rule(target=t.SetMark(mark, mask)),)


def test_tproxy_and_what_drops_behind_it_are_one_rule() -> None:
    local = [payload("ip", "daddr", "127.0.0.1", "!="), meta("l4proto", "tcp")]
    lines = [[*local, _TPROXY, _MARKED, _ACCEPT], [*local, {"drop": None}]]

    assert rules_of(*lines) == (
        rule(
            m.Destination(Network(IPV4, b"\x7f\0\0\1", 32), negated=True),
            TCP,
            target=t.Tproxy(1, 5),
        ),
    )
    assert isinstance(rules_of(lines[0])[0], ForeignRule)
    assert isinstance(rules_of(lines[0], [{"drop": None}])[0], ForeignRule)
    assert isinstance(rules_of(lines[0], [*local, _ACCEPT])[0], ForeignRule)


_CT_MARK = {"ct": {"key": "mark"}}
_CT_STATE = {"ct": {"key": "state"}}
_LINES: dict[str, tuple[list[dict[str, Any]], Rule]] = {
    "interfaces": (
        [meta("iifname", "eth*"), meta("oifname", "eth\\*", "!="), _ACCEPT],
        rule(m.InInterface("eth+"), m.OutInterface("eth*", negated=True), target=t.Accept()),
    ),
    "owners": (
        [meta("skuid", 5), meta("skgid", {"range": [6, 7]}, "!="), _ACCEPT],
        rule(
            m.Owner("uid", IdRange(5, 5)),
            m.Owner("gid", IdRange(6, 7), negated=True),
            target=t.Accept(),
        ),
    ),
    "a protocol": (
        [meta("l4proto", "udp", "!="), {"return": None}],
        rule(m.Proto("udp", negated=True), target=t.Return()),
    ),
    "marks": (
        [meta("mark", 5, "!="), match(_CT_MARK, 6), {"drop": None}],
        rule(m.Mark(5, negated=True), m.ConnMark(6), target=t.Drop()),
    ),
    "masked marks": (
        [match({"&": [_META_MARK, 255]}, 5), match({"&": [_CT_MARK, 255]}, 6), _ACCEPT],
        rule(m.Mark(5, 255), m.ConnMark(6, 255), target=t.Accept()),
    ),
    "states": (
        [match(_CT_STATE, ["new", "related"], "in"), _ACCEPT],
        rule(m.CtState(("NEW", "RELATED")), target=t.Accept()),
    ),
    "a state": (
        [match(_CT_STATE, "invalid", "in"), _ACCEPT],
        rule(m.CtState(("INVALID",)), target=t.Accept()),
    ),
    "no such states": (
        [match(_CT_STATE, {"set": ["established", "new"]}, "!="), _ACCEPT],
        rule(m.CtState(("NEW", "ESTABLISHED"), negated=True), target=t.Accept()),
    ),
    "no such ports": (
        [payload("udp", "sport", {"set": [5, {"range": [7, 9]}]}, "!="), _ACCEPT],
        rule(
            UDP,
            m.MultiPorts("sport", (PortRange(5, 5), PortRange(7, 9)), negated=True),
            target=t.Accept(),
        ),
    ),
    "a redirect": (
        [payload("tcp", "dport", 5), {"redirect": {"port": 6}}],
        rule(TCP, m.Ports("tcp", "dport", PortRange(5, 5)), target=t.Redirect(6)),
    ),
    "a jump": ([{"jump": {"target": "istio-redirect"}}], rule(target=t.Jump(ISTIO_REDIRECT))),
    "a saved mark": (
        [{"mangle": {"key": _CT_MARK, "value": _META_MARK}}],
        rule(target=t.SaveMark()),
    ),
    "a restored mark": (
        [{"mangle": {"key": _META_MARK, "value": _CT_MARK}}],
        rule(target=t.RestoreMark()),
    ),
    "a zone": (
        [{"mangle": {"key": {"ct": {"key": "zone"}}, "value": 2}}],
        rule(target=t.CtZone(2)),
    ),
}


@pytest.mark.parametrize(("statements", "found"), _LINES.values(), ids=_LINES)
def test_what_is_written_is_understood(statements: list[dict[str, Any]], found: Rule) -> None:
    assert rules_of(statements) == (found,)


_ODD_LINES: dict[str, list[dict[str, Any]]] = {
    "nothing to do": [meta("l4proto", "tcp")],
    "two verdicts": [_ACCEPT, _ACCEPT],
    "a match behind": [_ACCEPT, meta("l4proto", "tcp")],
    "another match": [meta("cpu", 1), _ACCEPT],
    "another comparison": [meta("mark", 1, "<"), _ACCEPT],
    "in, but not ct state": [meta("mark", 1, "in"), _ACCEPT],
    "another protocol": [meta("l4proto", "sctp"), _ACCEPT],
    "not a family": [meta("nfproto", "ipv4", "!="), _ACCEPT],
    "another family": [meta("nfproto", "arp"), _ACCEPT],
    "another field": [payload("tcp", "flags", 1), _ACCEPT],
    "another header": [payload("icmp", "type", 1), _ACCEPT],
    "a raw payload": [match({"payload": {"base": "th", "offset": 0, "len": 16}}, 1), _ACCEPT],
    "a name for an address": [payload("ip", "saddr", "example"), _ACCEPT],
    "a name for a port": [payload("tcp", "dport", "ssh"), _ACCEPT],
    "true for a port": [payload("tcp", "dport", right=True), _ACCEPT],
    "an element with a timeout": [
        payload("tcp", "dport", {"set": [{"elem": {"val": 1, "timeout": 5}}]}),
        _ACCEPT,
    ],
    "an unknown set": [payload("tcp", "dport", "@unknown"), _ACCEPT],
    "an empty set": [payload("tcp", "dport", {"set": []}), _ACCEPT],
    "a plus at the end of an interface": [meta("iifname", "eth+"), _ACCEPT],
    "an interface by number": [meta("iifname", 1), _ACCEPT],
    "two sets": [
        payload("ip", "saddr", {"range": ["10.0.0.1", "10.0.0.2"]}),
        payload("tcp", "dport", {"set": [1, 3]}),
        _ACCEPT,
    ],
    "the sum of two states": [match({"ct": {"key": "state"}}, ["new", "related"]), _ACCEPT],
    "an unknown state": [match({"ct": {"key": "state"}}, "untracked", "in"), _ACCEPT],
    "a state by number": [match({"ct": {"key": "state"}}, [8], "in"), _ACCEPT],
    "no family at all": [meta("nfproto", "ipv6"), payload("ip", "saddr", "10.0.0.1"), _ACCEPT],
    "a chain of others": [{"jump": {"target": "theirs"}}],
    "a built-in chain": [{"jump": {"target": "output"}}],
    "goto": [{"goto": {"target": "istio-redirect"}}],
    "a redirect with flags": [{"redirect": {"port": 1, "flags": "random"}}],
    "a redirect to the same port": [{"redirect": None}],
    "another reject": [{"reject": {"type": "tcp reset"}}],
    "a reject for one of two families": [
        {"reject": {"type": "icmp", "expr": "port-unreachable"}},
    ],
    "another address to tproxy": [
        payload("ip", "saddr", "10.0.0.1"),
        {"tproxy": {"family": "ip", "addr": "10.0.0.1", "port": 1}},
        _MARKED,
        _ACCEPT,
    ],
    "tproxy for both": [_TPROXY, _MARKED, _ACCEPT],
    "another thing to mangle": [{"mangle": {"key": {"meta": {"key": "priority"}}, "value": 1}}],
    "a mark from elsewhere": [{"mangle": {"key": _META_MARK, "value": {"numgen": {}}}}],
    "a counter with a name": [{"counter": "theirs"}, _ACCEPT],
    "half a comparison": [{"match": {"left": _META_MARK, "right": 1}}, _ACCEPT],
    "a log": [{"log": {"prefix": "x"}}],
}


@pytest.mark.parametrize("statements", _ODD_LINES.values(), ids=_ODD_LINES)
def test_what_is_not_understood_is_kept_as_it_is(statements: list[dict[str, Any]]) -> None:
    found = [rules_of(statements, family=family) for family in FAMILIES]

    assert any(found)
    assert all(isinstance(one, ForeignRule) for rules in found for one in rules)


@pytest.mark.parametrize(
    ("some", "understood"),
    [
        ({"elem": [1]}, True),
        ({"elem": 1}, True),
        ({"elem": [1], "flags": ["constant"]}, True),
        ({"elem": [1], "flags": ["dynamic"]}, False),
        ({"elem": [1], "timeout": 5}, False),
        ({}, False),
    ],
    ids=["plain", "one alone", "constant", "dynamic", "timeout", "empty"],
)
def test_only_plain_sets_are_understood(some: dict[str, Any], *, understood: bool) -> None:
    (found,) = rules_of(
        [payload("tcp", "dport", "@some"), _ACCEPT], sets=({"name": "some", **some},)
    )

    assert isinstance(found, Rule) == understood


def test_a_jump_that_is_not_understood_still_says_where_it_leads() -> None:
    odd = {"log": {"prefix": "x"}}

    found = [
        one
        for target in ("istio-redirect", "theirs")
        for one in rules_of([odd, {"jump": {"target": target}}])
    ]

    assert [one.jump for one in found if isinstance(one, ForeignRule)] == [ISTIO_REDIRECT, "theirs"]


def test_a_chain_of_one_family_only_is_only_that_family_s() -> None:
    found = tables_of(listing(line(meta("nfproto", "ipv6"), _ACCEPT)))

    assert found[IPV4].chain(ISTIO_INBOUND) is None
    assert found[IPV6].chain(ISTIO_INBOUND) is not None


_SOCKET_CHAIN = (
    line(match({"socket": {"key": "wildcard"}}, 1), {"return": None}, chain="istio-socket"),
    line(
        match({"socket": {"key": "transparent"}}, {"range": [0, 1]}),
        {"jump": {"target": "istio-divert"}},
        chain="istio-socket",
    ),
)


def test_the_chain_behind_socket_is_part_of_its_rules() -> None:
    to_socket = line({"jump": {"target": "istio-socket"}})
    chains = ("istio-inbound", "istio-socket")

    text = listing(to_socket, *_SOCKET_CHAIN, chains=chains)
    inbound = tables_of(text)[IPV4].chain(ISTIO_INBOUND)
    assert inbound is not None
    assert inbound.rules == (rule(m.Socket(), target=t.Jump(ISTIO_DIVERT)),)
    assert chain_names(text) == [ISTIO_INBOUND]

    assert "chain istio-socket" in chain_names(listing(*_SOCKET_CHAIN, chains=chains))
    for parts in (_SOCKET_CHAIN[1:], (_SOCKET_CHAIN[1], _SOCKET_CHAIN[1]), _SOCKET_CHAIN[:1] * 2):
        wrong = listing(to_socket, *parts, chains=chains)
        assert "chain istio-socket" in chain_names(wrong)
    other_target = line(
        match({"socket": {"key": "transparent"}}, 1),
        {"jump": {"target": "istio-divert"}},
        chain="istio-socket",
    )
    wrong = listing(to_socket, _SOCKET_CHAIN[0], other_target, chains=chains)
    assert "chain istio-socket" in chain_names(wrong)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (listing(chains=()), "nothing"),
        (listing(flags=["dormant"]), "flags"),
        # What nft 1.0 prints for them is garbage.
        (listing(flags="Lester"), "flags"),
        (listing({"map": {"name": "m"}}), "map m"),
        (listing({"set": {"name": "unused", "elem": [1]}}), "set unused"),
        (listing(chains=("theirs",)), "chain theirs"),
        (listing(chains=("ISTIO_DROP",)), "chain ISTIO_DROP"),
        (listing(chains=("output",)), "chain output"),
        (listing({"chain": {"name": "istio-output", "hook": "output"}}), "chain istio-output"),
    ],
)
def test_what_else_is_in_a_table_counts_as_a_chain(text: str, name: str) -> None:
    assert name in chain_names(text)


@pytest.mark.parametrize(
    ("declared", "understood"),
    [
        ({}, True),
        ({"type": "filter"}, False),
        ({"prio": -151}, False),
        ({"hook": "prerouting"}, False),
        ({"policy": "drop"}, False),
    ],
)
def test_built_in_chains_have_to_be_where_they_belong(
    declared: dict[str, Any], *, understood: bool
) -> None:
    as_written = {"name": "output", "type": "route", "hook": "output", "prio": -150}
    as_written |= {"policy": "accept", **declared}
    text = listing({"chain": as_written}, line(_ACCEPT, chain="output"))
    chain = tables_of(text)[IPV4].chain("OUTPUT")

    assert chain is not None
    assert bool(chain.rules) == understood
    assert ("chain output" in chain_names(text)) == (not understood)


def test_an_echo_is_read_like_a_listing() -> None:
    ports = {"name": "p", "type": "inet_service", "handle": 1, "flags": ["interval"]}
    of_set = match({"payload": {"protocol": "tcp", "field": "dport"}}, "@p")
    written = (line(of_set, _ACCEPT), line(meta("l4proto", "udp"), _ACCEPT))
    elements: list[Any] = [80, {"range": [8000, 8080]}]
    listed = json.loads(listing({"set": {**ports, "elem": elements}}, *written))
    one_by_one = ({"element": {"name": "p", "elem": {"set": [one]}}} for one in elements)
    echoed = json.loads(listing({"set": ports}, *one_by_one, *written))
    of_others = {"family": "inet", "table": "istio-proxy-mangle-too", "chain": "istio-inbound"}
    echoed["nftables"] = [{"add": one} for one in echoed["nftables"][1:]]
    echoed["nftables"].append({"add": {"rule": {**of_others, "expr": [_ACCEPT]}}})

    assert parse_tables(json.dumps(echoed)) == parse_tables(json.dumps(listed))
    assert len(rules_of([of_set, _ACCEPT], sets=({**ports, "elem": elements},))) == 2


@pytest.mark.parametrize(
    "text", ["", "[", "[]", "{}", '{"nftables": [3]}', '{"nftables": [{"rule": {}}]}']
)
def test_what_is_no_listing_is_refused(text: str) -> None:
    with pytest.raises(ParseError, match="nft -j"):
        parse_tables(text)


def test_redirect_and_unknown_target_names_round_trip() -> None:
    assert in_chain(rule(TCP, target=t.Redirect(1)), rule(target=t.Jump(ISTIO_TPROXY))) == [
        "meta nfproto ipv4 meta l4proto tcp redirect to :1",
        "meta nfproto ipv4 jump istio-tproxy",
    ]
