"""No rule can go, come or move without being named, whatever was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from istio_init.diagnose.findings import difference, findings
from istio_init.formats.iptables import rule_line
from istio_init.rules import matches as m
from istio_init.rules import ownership
from istio_init.rules import targets as t
from istio_init.rules.model import BUILTIN_CHAINS, Chain, Rule, Ruleset, make_table
from istio_init.rules.names import OWN_CHAINS
from tests.cases import CALLS, Call
from tests.plans import plan_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.diagnose.findings import Finding
    from istio_init.rules.model import ForeignRule, Plan, Table

    Rules = tuple[Rule | ForeignRule, ...]

NEW = plan_of("istio-iptables", "-u", "1337", "-i", "*", "-b", "*", "--no-ipv6")


def found(plan: Plan, live: Ruleset) -> list[Finding]:
    planned = plan.ruleset(live.family)
    known = ownership.traces((live, *plan.rulesets))
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
            "outbound to anything is led into ISTIO_INBOUND, though no flag asks for it",
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
    assert one.consequence == "nothing leads into it: left over from another configuration"
    assert [two.consequence for two in more] == [
        "outbound to anything is redirected to the proxy, though no flag asks for it",
        "packets are led into it from ISTIO_OUTPUT, though no flag asks for it",
    ]


def test_a_chain_that_has_gone_is_one_finding() -> None:
    ruleset = NEW.rulesets[0]
    table = ruleset.tables[0]
    kept = {one.name: one for one in table.chains if one.name != "ISTIO_REDIRECT"}
    less = ruleset.replace(tables=(make_table(table.name, kept),))

    (one,) = found(NEW, less)

    assert (one.kind, one.rule) == ("missing", "-N ISTIO_REDIRECT")
    assert one.consequence == "outbound TCP does not reach the proxy"
