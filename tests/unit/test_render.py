"""Rules as words, and plans as text: the formats and what reads them back."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.config import LAYOUT_1_30
from istio_init.model import (
    FAMILIES,
    FULL_MASK,
    HEAD,
    IPV4,
    IPV6,
    Accept,
    Chain,
    ConnMark,
    CtState,
    CtZone,
    Destination,
    Drop,
    ForeignRule,
    IdRange,
    InInterface,
    Jump,
    Mark,
    MultiPorts,
    OutInterface,
    Owner,
    Plan,
    PolicyRoute,
    PortRange,
    Ports,
    Proto,
    Redirect,
    Reject,
    RestoreMark,
    Return,
    Rule,
    Ruleset,
    SaveMark,
    SetMark,
    Socket,
    Source,
    Tproxy,
    make_table,
    rule,
)
from istio_init.parse.save import parse_rule, parse_rules, parse_save
from istio_init.planner.shared import PASSTHROUGH
from istio_init.render import commands, document, rules, save
from istio_init.render.words import match_negated, match_words, rule_words, target_words
from istio_init.typed import Record
from istio_init.values import network
from tests import strategies
from tests.unit.settings import tried, tried_less

if TYPE_CHECKING:
    from typing import Any

    from istio_init.model import Family, Match, Network, Target

TEN = network("10.0.0.0/8")[0]
FD = network("fd00::/8")[0]
PORT, PORT_RANGE = PortRange(80, 80), PortRange(8000, 9000)

MATCHES: tuple[tuple[Match, str, str], ...] = (
    (Source(TEN), "-s 10.0.0.0/8", "! -s 10.0.0.0/8"),
    (Source(FD), "-s fd00::/8", "! -s fd00::/8"),
    (Destination(TEN), "-d 10.0.0.0/8", "! -d 10.0.0.0/8"),
    (InInterface("eth0"), "-i eth0", "! -i eth0"),
    (OutInterface("eth+"), "-o eth+", "! -o eth+"),
    (Proto("tcp"), "-p tcp", "! -p tcp"),
    (Proto("udp"), "-p udp", "! -p udp"),
    (Ports("tcp", "dport", PORT), "-m tcp --dport 80", "-m tcp ! --dport 80"),
    (Ports("tcp", "sport", PORT), "-m tcp --sport 80", "-m tcp ! --sport 80"),
    (
        Ports("udp", "dport", PORT_RANGE),
        "-m udp --dport 8000:9000",
        "-m udp ! --dport 8000:9000",
    ),
    (
        MultiPorts("dport", (PORT, PORT_RANGE)),
        "-m multiport --dports 80,8000:9000",
        "-m multiport ! --dports 80,8000:9000",
    ),
    (
        MultiPorts("sport", (PORT,)),
        "-m multiport --sports 80",
        "-m multiport ! --sports 80",
    ),
    (Owner("uid", IdRange(7, 7)), "-m owner --uid-owner 7", "-m owner ! --uid-owner 7"),
    (Owner("gid", IdRange(7, 9)), "-m owner --gid-owner 7-9", "-m owner ! --gid-owner 7-9"),
    (
        CtState(("RELATED", "ESTABLISHED")),
        "-m conntrack --ctstate RELATED,ESTABLISHED",
        "-m conntrack ! --ctstate RELATED,ESTABLISHED",
    ),
    (
        CtState(("NEW",), "state"),
        "-m state --state NEW",
        "-m state ! --state NEW",
    ),
    (Mark(1337), "-m mark --mark 0x539", "-m mark ! --mark 0x539"),
    (Mark(1, 0xFF), "-m mark --mark 0x1/0xff", "-m mark ! --mark 0x1/0xff"),
    (ConnMark(0), "-m connmark --mark 0x0", "-m connmark ! --mark 0x0"),
    (ConnMark(1, 0), "-m connmark --mark 0x1/0x0", "-m connmark ! --mark 0x1/0x0"),
)

COPIED = "--nfmask 0xffffffff --ctmask 0xffffffff"
TARGETS: tuple[tuple[Target, str], ...] = (
    (Jump("ISTIO_OUTPUT"), "-j ISTIO_OUTPUT"),
    (Return(), "-j RETURN"),
    (Accept(), "-j ACCEPT"),
    (Drop(), "-j DROP"),
    (Redirect(15001), "-j REDIRECT --to-ports 15001"),
    (SetMark(1338), "-j MARK --set-xmark 0x53a/0xffffffff"),
    (SetMark(0, 1), "-j MARK --set-xmark 0x0/0x1"),
    (SaveMark(), f"-j CONNMARK --save-mark {COPIED}"),
    (RestoreMark(), f"-j CONNMARK --restore-mark {COPIED}"),
    (CtZone(2), "-j CT --zone 2"),
)


@pytest.mark.parametrize(("match", "plain", "negated"), MATCHES)
def test_words_of_each_match(match: Match, plain: str, negated: str) -> None:
    assert " ".join(match_words(match)) == plain
    assert not match_negated(match)
    assert " ".join(match_words(match.replace(negated=True))) == negated
    assert match_negated(match.replace(negated=True))


def test_words_of_the_match_that_cannot_be_negated() -> None:
    assert match_words(Socket()) == ["-m", "socket"]
    assert not match_negated(Socket())


@pytest.mark.parametrize(("target", "words"), TARGETS)
def test_words_of_each_target(target: Target, words: str) -> None:
    for family in FAMILIES:
        assert " ".join(target_words(target, family)) == words


def test_words_of_the_targets_that_differ_by_family() -> None:
    def words(target: Target) -> list[str]:
        return [" ".join(target_words(target, family)) for family in FAMILIES]

    assert words(Reject()) == [
        "-j REJECT --reject-with icmp-port-unreachable",
        "-j REJECT --reject-with icmp6-port-unreachable",
    ]
    assert words(Tproxy(15001, 1337)) == [
        "-j TPROXY --on-port 15001 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff",
        "-j TPROXY --on-port 15001 --on-ip :: --tproxy-mark 0x539/0xffffffff",
    ]
    assert words(Tproxy(1, 2, 3))[0].endswith("--tproxy-mark 0x2/0x3")


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
        Owner("uid", IdRange(1, 1)),
        Proto("tcp"),
        OutInterface("lo"),
        Mark(1),
        InInterface("eth0"),
        Destination(TEN),
        Source(TEN),
        Destination(everything),
        Source(nowhere),
        InInterface("+"),
        OutInterface("+"),
        then=Return(),
    )

    assert " ".join(rule_words(made, IPV4)) == (
        "-s 10.0.0.0/8 -d 10.0.0.0/8 -i eth0 -o lo -p tcp "
        "-m owner --uid-owner 1 -m mark --mark 0x1 -j RETURN"
    )
    # Its negative matches nothing, which is not the same as everything.
    assert rule(Source(everything, negated=True), then=Drop()).matches
    assert rule(InInterface("+", negated=True), then=Drop()).matches


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


TO_PROXY = rule(Proto("tcp"), then=Redirect(15001), why="so", flag="-p")
INTO = rule(then=Jump("ISTIO_OUTPUT"), why="in", flag="-i")
FIRST = rule(InInterface("a$b"), then=Return(), place=HEAD, why="first", flag="-k")
SECOND = rule(InInterface("eth1"), then=Return(), place=HEAD, why="second", flag="-k")
NAT4 = ruleset(
    IPV4, "nat", chain("PREROUTING", FIRST, SECOND, INTO), chain("ISTIO_OUTPUT", TO_PROXY)
)
FILTER6 = ruleset(IPV6, "filter", chain("INPUT", rule(then=Reject(), place=HEAD)))


def test_rules_of_routes_and_addresses() -> None:
    found = plan_of(
        routes=(PolicyRoute(IPV4, 1337, 133), PolicyRoute(IPV6, 0x10, 300)),
        addresses=(PASSTHROUGH[IPV6],),
    )

    assert rules.render(found) == (
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
        assert rules.render(found) == save.render(found) == commands.render(found) == ""
        assert parse_rules(rules.render(found)) == (Ruleset(IPV4, ()), Ruleset(IPV6, ()))


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
    negated = ruleset(IPV6, "nat", chain("OUTPUT", rule(Proto("tcp", negated=True), then=Drop())))
    assert commands.render(plan_of(negated)) == "ip6tables -t nat -A OUTPUT ! -p tcp -j DROP\n"


def test_document() -> None:
    text = document.render(
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
    found = json.loads(document.render(plan_of(ruleset(IPV4, "nat", foreign))))

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

    assert parse_rules(rules.render(found)) == found.rulesets


@given(strategies.families.flatmap(strategies.rulesets))
@tried_less
def test_rule_sets_come_back_from_iptables_save(wanted: Ruleset) -> None:
    lines = []
    for table in wanted.tables:
        lines.append(f"*{table.name}")
        lines += [f":{one.name} {one.policy or '-'} [0:0]" for one in table.chains]
        lines += [line for line in rules.table_lines(table, wanted.family) if line[:2] == "-A"]
        lines.append("COMMIT")

    assert parse_save("\n".join(lines), wanted.family) == wanted
