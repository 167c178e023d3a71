"""Rules as words, and plans as text: the formats and what reads them back."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.config.model import LAYOUT_1_30
from istio_init.config.values import network
from istio_init.formats import commands, documents, listing, save
from istio_init.formats.iptables import match_negated, match_words, rule_words, target_words
from istio_init.formats.save_reader import parse_rule, parse_rules, parse_save
from istio_init.lean import Record
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import (
    HEAD,
    Chain,
    ForeignRule,
    Plan,
    PolicyRoute,
    Reason,
    Rule,
    Ruleset,
    make_table,
    rule,
)
from istio_init.rules.names import PASSTHROUGH
from istio_init.rules.ranges import FAMILIES, FULL_MASK, IPV4, IPV6, IdRange, PortRange
from tests import strategies
from tests.unit.settings import tried, tried_less

if TYPE_CHECKING:
    from typing import Any

    from istio_init.rules.ranges import Family, Network

TEN = network("10.0.0.0/8")[0]
FD = network("fd00::/8")[0]
PORT, PORT_RANGE = PortRange(80, 80), PortRange(8000, 9000)

MATCHES: tuple[tuple[m.Match, str, str], ...] = (
    (m.Source(TEN), "-s 10.0.0.0/8", "! -s 10.0.0.0/8"),
    (m.Source(FD), "-s fd00::/8", "! -s fd00::/8"),
    (m.Destination(TEN), "-d 10.0.0.0/8", "! -d 10.0.0.0/8"),
    (m.InInterface("eth0"), "-i eth0", "! -i eth0"),
    (m.OutInterface("eth+"), "-o eth+", "! -o eth+"),
    (m.Proto("tcp"), "-p tcp", "! -p tcp"),
    (m.Proto("udp"), "-p udp", "! -p udp"),
    (m.Ports("tcp", "dport", PORT), "-m tcp --dport 80", "-m tcp ! --dport 80"),
    (m.Ports("tcp", "sport", PORT), "-m tcp --sport 80", "-m tcp ! --sport 80"),
    (
        m.Ports("udp", "dport", PORT_RANGE),
        "-m udp --dport 8000:9000",
        "-m udp ! --dport 8000:9000",
    ),
    (
        m.MultiPorts("dport", (PORT, PORT_RANGE)),
        "-m multiport --dports 80,8000:9000",
        "-m multiport ! --dports 80,8000:9000",
    ),
    (
        m.MultiPorts("sport", (PORT,)),
        "-m multiport --sports 80",
        "-m multiport ! --sports 80",
    ),
    (m.Owner("uid", IdRange(7, 7)), "-m owner --uid-owner 7", "-m owner ! --uid-owner 7"),
    (m.Owner("gid", IdRange(7, 9)), "-m owner --gid-owner 7-9", "-m owner ! --gid-owner 7-9"),
    (
        m.CtState(("RELATED", "ESTABLISHED")),
        "-m conntrack --ctstate RELATED,ESTABLISHED",
        "-m conntrack ! --ctstate RELATED,ESTABLISHED",
    ),
    (
        m.CtState(("NEW",), "state"),
        "-m state --state NEW",
        "-m state ! --state NEW",
    ),
    (m.Mark(1337), "-m mark --mark 0x539", "-m mark ! --mark 0x539"),
    (m.Mark(1, 0xFF), "-m mark --mark 0x1/0xff", "-m mark ! --mark 0x1/0xff"),
    (m.ConnMark(0), "-m connmark --mark 0x0", "-m connmark ! --mark 0x0"),
    (m.ConnMark(1, 0), "-m connmark --mark 0x1/0x0", "-m connmark ! --mark 0x1/0x0"),
)

COPIED = "--nfmask 0xffffffff --ctmask 0xffffffff"
TARGETS: tuple[tuple[t.Target, str], ...] = (
    (t.Jump("ISTIO_OUTPUT"), "-j ISTIO_OUTPUT"),
    (t.Return(), "-j RETURN"),
    (t.Accept(), "-j ACCEPT"),
    (t.Drop(), "-j DROP"),
    (t.Redirect(15001), "-j REDIRECT --to-ports 15001"),
    (t.SetMark(1338), "-j MARK --set-xmark 0x53a/0xffffffff"),
    (t.SetMark(0, 1), "-j MARK --set-xmark 0x0/0x1"),
    (t.SaveMark(), f"-j CONNMARK --save-mark {COPIED}"),
    (t.RestoreMark(), f"-j CONNMARK --restore-mark {COPIED}"),
    (t.CtZone(2), "-j CT --zone 2"),
)


@pytest.mark.parametrize(("match", "plain", "negated"), MATCHES)
def test_words_of_each_match(match: m.Match, plain: str, negated: str) -> None:
    assert " ".join(match_words(match)) == plain
    assert not match_negated(match)
    assert " ".join(match_words(match.replace(negated=True))) == negated
    assert match_negated(match.replace(negated=True))


def test_words_of_the_match_that_cannot_be_negated() -> None:
    assert match_words(m.Socket()) == ["-m", "socket"]
    assert not match_negated(m.Socket())


@pytest.mark.parametrize(("target", "words"), TARGETS)
def test_words_of_each_target(target: t.Target, words: str) -> None:
    for family in FAMILIES:
        assert " ".join(target_words(target, family)) == words


def test_words_of_the_targets_that_differ_by_family() -> None:
    def words(target: t.Target) -> list[str]:
        return [" ".join(target_words(target, family)) for family in FAMILIES]

    assert words(t.Reject()) == [
        "-j REJECT --reject-with icmp-port-unreachable",
        "-j REJECT --reject-with icmp6-port-unreachable",
    ]
    assert words(t.Tproxy(15001, 1337)) == [
        "-j TPROXY --on-port 15001 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff",
        "-j TPROXY --on-port 15001 --on-ip :: --tproxy-mark 0x539/0xffffffff",
    ]
    assert words(t.Tproxy(1, 2, 3))[0].endswith("--tproxy-mark 0x2/0x3")


def test_words_of_foreign_rules() -> None:
    assert rule_words(ForeignRule("-m comment --comment x -j LOG"), IPV4) == [
        "-m comment --comment x -j LOG"
    ]
    assert rule_words(ForeignRule(b"\0" * 112, text="-p sctp"), IPV4) == ["-p sctp"]


def test_nothing_else_has_words() -> None:
    class Unknown(Record):
        negated: bool = False

    nothing: Any = Unknown()

    with pytest.raises(AssertionError):
        match_words(nothing)
    with pytest.raises(AssertionError):
        target_words(nothing, IPV4)


def test_rule_puts_its_matches_in_printing_order_and_drops_those_on_everything() -> None:
    everything, nowhere = network("0.0.0.0/0")[0], network("::/0")[0]
    made = rule(
        m.Owner("uid", IdRange(1, 1)),
        m.Proto("tcp"),
        m.OutInterface("lo"),
        m.Mark(1),
        m.InInterface("eth0"),
        m.Destination(TEN),
        m.Source(TEN),
        m.Destination(everything),
        m.Source(nowhere),
        m.InInterface("+"),
        m.OutInterface("+"),
        target=t.Return(),
    )

    assert " ".join(rule_words(made, IPV4)) == (
        "-s 10.0.0.0/8 -d 10.0.0.0/8 -i eth0 -o lo -p tcp "
        "-m owner --uid-owner 1 -m mark --mark 0x1 -j RETURN"
    )
    # Its negative matches nothing, which is not the same as everything.
    assert rule(m.Source(everything, negated=True), target=t.Drop()).matches
    assert rule(m.InInterface("+", negated=True), target=t.Drop()).matches


def plan_of(
    *rulesets: Ruleset,
    routes: tuple[PolicyRoute, ...] = (),
    addresses: tuple[Network, ...] = (),
    warnings: tuple[str, ...] = (),
) -> Plan:
    return Plan(LAYOUT_1_30, rulesets, routes, addresses, warnings)


def chain(name: str, *held: Rule) -> Chain:
    return Chain(name, "ACCEPT" if name.isupper() and "_" not in name else None, held)


def ruleset(family: Family, table: str, *chains: Chain) -> Ruleset:
    return Ruleset(family, (make_table(table, {one.name: one for one in chains}),))


TO_PROXY = rule(m.Proto("tcp"), target=t.Redirect(15001), reason=Reason("-p", 15001, text="so"))
INTO = rule(target=t.Jump("ISTIO_OUTPUT"), reason=Reason("-i"))
FIRST = rule(m.InInterface("a$b"), target=t.Return(), place=HEAD, reason=Reason("-k", "a$b"))
SECOND = rule(m.InInterface("eth1"), target=t.Return(), place=HEAD, reason=Reason("-k", "eth1"))
NAT4 = ruleset(
    IPV4, "nat", chain("PREROUTING", FIRST, SECOND, INTO), chain("ISTIO_OUTPUT", TO_PROXY)
)
FILTER6 = ruleset(IPV6, "filter", chain("INPUT", rule(target=t.Reject(), place=HEAD)))


def test_rules_of_routes_and_addresses() -> None:
    found = plan_of(
        routes=(PolicyRoute(IPV4, 1337, 133), PolicyRoute(IPV6, 0x10, 300)),
        addresses=(PASSTHROUGH[IPV6],),
    )

    assert listing.render(found) == (
        "# ip -4 rule show\n32765: from all fwmark 0x539 lookup 133\n"
        "# ip -4 route show table 133\nlocal default dev lo scope host\n"
        "# ip -6 rule show\n32765: from all fwmark 0x10 lookup 300\n"
        "# ip -6 route show table 300\nlocal default dev lo metric 1024 pref medium\n"
        "# ip addr show dev lo\ninet6 ::6/128 scope global\n"
    )
    assert commands.render(found) == (
        "ip rule add fwmark 1337 lookup 133\n"
        "ip route add local default dev lo table 133\n"
        "ip -6 rule add fwmark 16 lookup 300\n"
        "ip -6 route add local default dev lo table 300\n"
        "ip -6 addr add ::6/128 dev lo\n"
    )
    assert save.render(found) == "".join(
        f"# {line}\n" for line in commands.render(found).splitlines()
    )


def test_empty_plan_prints_nothing() -> None:
    for found in (plan_of(), plan_of(Ruleset(IPV4, ()), Ruleset(IPV6, ()))):
        assert listing.render(found) == save.render(found) == commands.render(found) == ""
        assert parse_rules(listing.render(found)) == (Ruleset(IPV4, ()), Ruleset(IPV6, ()))


def test_save_of_ipv4_alone_has_no_marks() -> None:
    assert save.render(plan_of(NAT4)) == (
        "*nat\n"
        "-N ISTIO_OUTPUT\n"
        "-I PREROUTING 1 -i a$b -j RETURN\n"
        "-I PREROUTING 2 -i eth1 -j RETURN\n"
        "-A PREROUTING -j ISTIO_OUTPUT\n"
        "-A ISTIO_OUTPUT -p tcp -j REDIRECT --to-ports 15001\n"
        "COMMIT\n"
    )


def test_save_with_ipv6_is_marked_and_in_table_order() -> None:
    text = save.render(plan_of(NAT4, FILTER6))

    assert text.startswith("*nat\n-4 -N ISTIO_OUTPUT\n-4 -I PREROUTING 1 ")
    assert text.endswith(
        "*filter\n-6 -I INPUT 1 -j REJECT --reject-with icmp6-port-unreachable\nCOMMIT\n"
    )
    # Without the marks iptables-restore would take this for its own.
    assert "\n-6 -I INPUT 1 " in save.render(plan_of(Ruleset(IPV4, ()), FILTER6))


def test_commands_are_quoted_for_a_shell() -> None:
    text = commands.render(plan_of(NAT4))

    assert "iptables -t nat -I PREROUTING 1 -i 'a$b' -j RETURN\n" in text
    (words,) = [shlex.split(line) for line in text.splitlines() if "PREROUTING 1" in line]
    assert words[words.index("-i") + 1] == "a$b"
    negated = ruleset(
        IPV6, "nat", chain("OUTPUT", rule(m.Proto("tcp", negated=True), target=t.Drop()))
    )
    assert commands.render(plan_of(negated)) == "ip6tables -t nat -A OUTPUT ! -p tcp -j DROP\n"


def test_document() -> None:
    text = documents.render(
        plan_of(
            NAT4,
            Ruleset(IPV6, ()),
            routes=(PolicyRoute(IPV4, 1337, 133),),
            addresses=(PASSTHROUGH[IPV6],),
            warnings=("mind",),
        )
    )
    found = json.loads(text)

    assert text.endswith("}\n")
    assert list(found) == [
        *("version", "layout", "families", "routes", "addresses", "warnings"),
    ]
    assert (found["version"], found["layout"]) == (1, "1.30")
    assert found["families"]["ipv6"] == {}
    nat = found["families"]["ipv4"]["nat"]
    assert list(nat) == ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING", "ISTIO_OUTPUT"]
    assert nat["INPUT"] == {"policy": "ACCEPT", "rules": []}
    assert nat["ISTIO_OUTPUT"] == {
        "policy": None,
        "rules": [
            {
                "spec": "-p tcp -j REDIRECT --to-ports 15001",
                "place": "tail",
                "why": "so",
                "flag": "-p",
            }
        ],
    }
    assert nat["PREROUTING"]["rules"][0]["place"] == "head"
    assert found["routes"] == [{"family": "ipv4", "mark": 1337, "table": 133}]
    assert found["addresses"] == ["::6/128"]
    assert found["warnings"] == ["mind"]


def test_document_holds_foreign_rules_too() -> None:
    foreign = Chain("OUTPUT", "ACCEPT", (ForeignRule("-j LOG"),))
    found = json.loads(documents.render(plan_of(ruleset(IPV4, "nat", foreign))))

    assert found["families"]["ipv4"]["nat"]["OUTPUT"]["rules"] == [
        {"spec": "-j LOG", "place": "", "why": "", "flag": ""}
    ]


@given(strategies.families.flatmap(lambda one: st.tuples(st.just(one), strategies.rules(one))))
@tried
def test_rules_come_back_from_their_words(drawn: tuple[Family, Rule]) -> None:
    family, made = drawn

    assert parse_rule(" ".join(rule_words(made, family)), family) == made


@given(strategies.rulesets(IPV4), strategies.rulesets(IPV6))
@tried_less
def test_rule_sets_come_back_from_the_rules_format(one: Ruleset, other: Ruleset) -> None:
    found = plan_of(one, other, routes=(PolicyRoute(IPV4, FULL_MASK, 133),))

    assert parse_rules(listing.render(found)) == found.rulesets


@given(strategies.families.flatmap(strategies.rulesets))
@tried_less
def test_rule_sets_come_back_from_iptables_save(wanted: Ruleset) -> None:
    lines = []
    for table in wanted.tables:
        lines.append(f"*{table.name}")
        lines += [f":{one.name} {one.policy or '-'} [0:0]" for one in table.chains]
        lines += [line for line in listing.table_lines(table, wanted.family) if line[:2] == "-A"]
        lines.append("COMMIT")

    assert parse_save("\n".join(lines), wanted.family) == wanted
