"""No rule can go, come or move without being named, whatever was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from istio_init.diagnose.findings import difference, findings, not_intercepted, notes
from istio_init.formats.iptables import rule_line
from istio_init.formats.save_reader import parse_rule
from istio_init.rules import matches as m
from istio_init.rules import ownership
from istio_init.rules import targets as t
from istio_init.rules.model import BUILTIN_CHAINS, Chain, Rule, Ruleset, make_table
from istio_init.rules.names import OWN_CHAINS
from istio_init.rules.ranges import FAMILIES, IPV4
from tests.cases import CALLS, Call
from tests.plans import plan_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.diagnose.findings import Finding
    from istio_init.rules.model import ForeignRule, Plan, Table
    from istio_init.rules.ranges import Family

    Rules = tuple[Rule | ForeignRule, ...]

NEW = plan_of("istio-iptables", "-u", "1337", "-i", "*", "-b", "*", "--no-ipv6")


def found(plan: Plan, live: Ruleset) -> list[Finding]:
    planned = plan.ruleset(live.family)
    known = ownership.traces((live, *plan.rulesets), plan.rulesets)
    wanted = ownership.wanted(live, planned, known, clean=False)
    assert bool(list(difference(live, wanted, "legacy"))) == (live != wanted)
    return list(findings(live, wanted, planned))


def with_chain(ruleset: Ruleset, table: Table, chain: Chain, rules: Rules) -> Ruleset:
    chains = {one.name: one for one in table.chains}
    chains[chain.name] = chain.replace(rules=rules)
    tables = tuple(
        make_table(one.name, chains) if one.name == table.name else one for one in ruleset.tables
    )
    return ruleset.replace(tables=tables)


def chains(plan: Plan) -> Iterator[tuple[Ruleset, Table, Chain]]:
    for ruleset in plan.rulesets:
        for table in ruleset.tables:
            for chain in table.chains:
                yield ruleset, table, chain


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_each_rule_that_is_missing_is_named_with_a_consequence(call: Call) -> None:
    plan = plan_of(*call.argv, env=call.env)
    for ruleset, table, chain in chains(plan):
        assert found(plan, ruleset) == []
        for number, rule in enumerate(chain.rules):
            rest = chain.rules[:number] + chain.rules[number + 1 :]
            (one,) = found(plan, with_chain(ruleset, table, chain, rest))
            assert (one.kind, one.family, one.table) == ("missing", ruleset.family, table.name)
            assert one.rule == rule_line(chain.name, rule, ruleset.family)
            assert one.consequence
            assert one.why
            assert one.flag
            assert one.drift


@pytest.mark.parametrize("call", CALLS[::3], ids=str)
def test_each_rule_that_moves_is_named(call: Call) -> None:
    plan = plan_of(*call.argv, env=call.env)
    for ruleset, table, chain in chains(plan):
        if chain.name in BUILTIN_CHAINS[table.name]:
            continue
        for number in range(1, len(chain.rules)):
            first, second = chain.rules[number - 1 : number + 1]
            swapped = (*chain.rules[: number - 1], second, first, *chain.rules[number + 1 :])
            if first == second:
                continue
            (one,) = found(plan, with_chain(ruleset, table, chain, swapped))
            assert one.kind == "reordered"
            assert one.rule in {rule_line(chain.name, rule, ruleset.family) for rule in swapped}
            assert one.consequence


@pytest.mark.parametrize(
    ("chain", "rule", "consequence"),
    [
        ("ISTIO_OUTPUT", Rule((), t.Drop()), "outbound to anything is dropped"),
        (
            "ISTIO_INBOUND",
            Rule((m.Proto("tcp", negated=True),), t.Accept()),
            "inbound ! -p tcp bypasses the proxy",
        ),
        (
            "ISTIO_OUTPUT",
            Rule((m.Mark(7),), t.Return()),
            "outbound with mark 0x7 bypasses the proxy",
        ),
        (
            "ISTIO_OUTPUT",
            Rule((m.Proto("tcp"), m.Mark(7)), t.Jump("ISTIO_REDIRECT")),
            "outbound TCP with mark 0x7 is redirected to the proxy, though no flag asks for it",
        ),
        ("ISTIO_OUTPUT", Rule((), t.SetMark(7)), "packets are marked, though no flag asks for it"),
        (
            "ISTIO_OUTPUT",
            Rule((), t.CtZone(7)),
            "connections are kept in a conntrack zone, though no flag asks for it",
        ),
        (
            "ISTIO_OUTPUT",
            Rule((), t.Jump("ISTIO_INBOUND")),
            "outbound to anything is sent to ISTIO_INBOUND, though no flag asks for it",
        ),
    ],
)
def test_each_rule_that_is_too_much_says_what_it_does(
    chain: str, rule: Rule, consequence: str
) -> None:
    ruleset = NEW.rulesets[0]
    table = ruleset.tables[0]
    stands = table.chain(chain)
    assert stands is not None

    (one,) = found(NEW, with_chain(ruleset, table, stands, (rule, *stands.rules)))

    assert (one.kind, one.number, one.consequence) == ("extra", 1, consequence)


def test_a_chain_of_another_configuration_is_named_with_what_leads_there() -> None:
    ruleset = NEW.rulesets[0]
    table = ruleset.tables[0]
    left = Chain("ISTIO_OUTPUT_DNS", None, (Rule((), t.Return()),))
    output = table.chain("ISTIO_OUTPUT")
    assert output is not None
    assert left.name in OWN_CHAINS

    alone = with_chain(ruleset, table, left, left.rules)
    (one,) = found(NEW, alone)
    led = with_chain(alone, alone.tables[0], output, (Rule((), t.Jump(left.name)), *output.rules))
    more = found(NEW, led)

    assert (one.kind, one.rule) == ("extra", "-N ISTIO_OUTPUT_DNS")
    assert one.consequence == "no rule jumps to it: left over from another configuration"
    assert [two.consequence for two in more] == [
        "outbound to anything is redirected to the proxy, though no flag asks for it",
        "packets are sent to it from ISTIO_OUTPUT, though no flag asks for it",
    ]


def test_a_chain_that_has_gone_is_one_finding() -> None:
    ruleset = NEW.rulesets[0]
    table = ruleset.tables[0]
    kept = {one.name: one for one in table.chains if one.name != "ISTIO_REDIRECT"}
    less = ruleset.replace(tables=(make_table(table.name, kept),))

    (one,) = found(NEW, less)

    assert (one.kind, one.rule) == ("missing", "-N ISTIO_REDIRECT")
    assert one.consequence == "outbound TCP does not reach the proxy"


BOTH = plan_of("istio-iptables", "-u", "1337", "-i", "*", "-b", "*", "--ipv6", "-m", "TPROXY")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_without_any_of_our_rules_is_one_finding(family: Family) -> None:
    empty = Ruleset(family, tuple(make_table(one, {}) for one in ("mangle", "nat")))

    (one,) = found(BOTH, empty)

    assert (one.kind, one.family, one.rule) == ("absent", family, "every rule of ours")
    assert one.consequence.split("; ") == [
        "inbound TCP does not reach the proxy",
        "calls of uid 1337 to the pod's own address bypass the proxy",
        "calls of gid 1337 to the pod's own address bypass the proxy",
        "outbound TCP does not reach the proxy",
        "answers of captured connections do not find their way back to the proxy",
    ]
    assert str(one) == f"{family}: absent every rule of ours: {one.consequence}"


@pytest.mark.parametrize(
    ("rule", "consequence"),
    [
        ("-p tcp -m tcp --dport 81 -j DROP", "outbound TCP to port 81 is dropped"),
        (
            "-p tcp -m tcp --dport 81 -j REDIRECT --to-ports 9",
            "outbound TCP to port 81 goes elsewhere",
        ),
        ("-d 10.8.0.0/16 -j RETURN", "outbound to 10.8.0.0/16 bypasses the proxy"),
        ("-p tcp -m multiport --sports 1,2 -j ACCEPT", "outbound TCP from ports 1, 2 bypasses the"),
        ("-d 10.8.0.1/32 -j THEIRS", "packets that it takes do not reach them"),
        ("-m time --timestart 01:00 -j DROP", "packets that it takes do not reach them"),
        ("-j LOG", ""),
    ],
)
def test_a_rule_of_others_above_ours_is_a_note(rule: str, consequence: str) -> None:
    ruleset = NEW.rulesets[0]
    table = ruleset.tables[0]
    output = table.chain("OUTPUT")
    assert output is not None
    theirs = parse_rule(rule, IPV4)
    stands = with_chain(ruleset, table, output, (theirs, *output.rules))

    assert found(NEW, stands) == []
    above = list(notes(stands, ruleset))
    assert [(one.kind, one.number, one.drift) for one in above] == [
        ("shadowed", 1, False) for _ in ("it",) if consequence
    ]
    assert all(one.consequence.startswith("stands above") for one in above)
    assert all(consequence in one.consequence for one in above)


@pytest.mark.parametrize(
    ("table", "chain", "rule", "consequence"),
    [
        ("nat", "ISTIO_OUTPUT", "-m time --timestart 01:00 -j DROP", "this program does not know"),
        ("nat", "ISTIO_OUTPUT", "-p tcp -j REDIRECT --to-ports 9", "outbound TCP to anything is"),
        ("mangle", "ISTIO_OUTPUT", "-j ACCEPT", "changes nothing: no rule below it captures"),
        ("nat", "OUTPUT", "-j ISTIO_OUTPUT", "packets enter ISTIO_OUTPUT a second time"),
    ],
)
def test_what_a_further_rule_does_is_told_by_its_target(
    table: str, chain: str, rule: str, consequence: str
) -> None:
    ruleset = BOTH.ruleset(IPV4)
    of_table = ruleset.table(table)
    assert of_table is not None
    stands = of_table.chain(chain) or Chain(chain, None)
    further = parse_rule(rule, IPV4)
    live = with_chain(ruleset, of_table, stands, (*stands.rules, further))
    planned = with_chain(ruleset, of_table, stands, stands.rules)

    (one,) = findings(live, planned, planned)

    assert one.kind == "extra"
    assert one.consequence.startswith(consequence)
    assert (one.why, one.flag) == ("", "")


def test_where_nothing_is_planned_a_chain_of_ours_is_left_over() -> None:
    ruleset = NEW.rulesets[0]
    none = ruleset.replace(tables=(make_table("nat", {}),))

    left = list(findings(ruleset, none, none))

    assert {one.kind for one in left} == {"extra"}
    assert [one.rule for one in left if one.rule.startswith("-N")] == [
        *("-N ISTIO_INBOUND", "-N ISTIO_IN_REDIRECT", "-N ISTIO_OUTPUT", "-N ISTIO_REDIRECT")
    ]


@pytest.mark.parametrize("inbound", [True, False])
def test_ipv6_that_is_up_but_not_captured(*, inbound: bool) -> None:
    one = not_intercepted(["fd00::5", "fd00::6"], inbound=inbound, drift=inbound)

    which = "inbound and outbound IPv6" if inbound else "outbound IPv6"
    assert str(one) == (
        f"ipv6: not-intercepted: {which} bypasses the proxy, and the pod has fd00::5, fd00::6"
    )
    assert one.drift == inbound
