"""What stands between two states of the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from istio_init.apply import stages
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import Rule, Ruleset, rule
from istio_init.rules.ranges import IPV4
from tests.plans import plan_of

if TYPE_CHECKING:
    from istio_init.rules.model import ForeignRule

OLD = ("-p", "15001", "-u", "1337", "-i", "*", "-b", "*")
NEW = ("istio-iptables", "-u", "1337", "-i", "*", "-b", "*", "--no-ipv6")
TPROXY = ("-m", "TPROXY")
TCP = m.Proto("tcp")
LEAVE_MARKED = rule(TCP, m.Mark(1337), target=t.Return())
LEAVE_KNOWN = rule(TCP, m.CtState(("RELATED", "ESTABLISHED")), target=t.Return())


def rules(*argv: str) -> Ruleset:
    """Return what a call plans, with both tables: an empty one stands there all the same."""
    found = plan_of(*argv).ruleset(IPV4)
    names = {one.name for one in found.tables}
    both = plan_of(*OLD, *TPROXY).ruleset(IPV4)
    empty = tuple(
        one.replace(chains=tuple(chain.replace(rules=()) for chain in one.chains if chain.policy))
        for one in both.tables
        if one.name not in names
    )
    tables = sorted((*found.tables, *empty), key=lambda one: ("mangle", "nat").index(one.name))
    return found.replace(tables=tuple(tables))


def inbound(ruleset: Ruleset, name: str) -> tuple[Rule | ForeignRule, ...]:
    table = ruleset.table(name)
    chain = table.chain("ISTIO_INBOUND") if table else None
    return chain.rules if chain else ()


def test_from_redirect_to_tproxy_both_stand_for_a_while() -> None:
    before, after = rules(*OLD), rules(*OLD, *TPROXY)
    first, second, third = stages.between_modes(before, after)

    assert inbound(first, "nat") == (LEAVE_MARKED, *inbound(before, "nat"))
    assert first.table("mangle") == before.table("mangle")
    assert inbound(second, "mangle") == (LEAVE_KNOWN, *inbound(after, "mangle"))
    assert second.table("nat") == first.table("nat")
    assert third.table("nat") == after.table("nat")
    assert third.table("mangle") == second.table("mangle")


def test_and_back() -> None:
    before, after = rules(*OLD, *TPROXY), rules(*NEW)
    first, second = stages.between_modes(before, after)

    assert inbound(first, "nat") == (LEAVE_MARKED, *inbound(after, "nat"))
    assert first.table("mangle") == before.table("mangle")
    assert second.table("mangle") == after.table("mangle")
    assert second.table("nat") == first.table("nat")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (OLD, OLD),
        (OLD, NEW),
        ((*OLD, *TPROXY), (*OLD, *TPROXY)),
        ((*OLD, *TPROXY), (*NEW, *TPROXY)),
        (NEW, (*NEW, *TPROXY)),
        ((*NEW, *TPROXY), NEW),
        ((*OLD, *TPROXY, "-b", ""), OLD),
    ],
)
def test_nothing_stands_between_others(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    assert stages.between_modes(rules(*before), rules(*after)) == ()


def test_marks_are_saved_over_lo_only_while_two_backends_do_it() -> None:
    plan = plan_of(*NEW, *TPROXY).ruleset(IPV4)
    roomy = stages.for_two_backends(plan)

    assert stages.saves_marks(plan)
    assert stages.saves_marks(roomy)
    changed = [
        (one, two)
        for table, other in zip(plan.tables, roomy.tables, strict=True)
        for chain, like in zip(table.chains, other.chains, strict=True)
        for one, two in zip(chain.rules, like.rules, strict=True)
        if one != two
    ]
    (one, two) = changed[0]
    assert len(changed) == 1
    assert one == rule(TCP, m.Mark(1337), target=t.SaveMark())
    assert two == rule(m.InInterface("lo"), TCP, m.Mark(1337), target=t.SaveMark())
    assert stages.for_two_backends(roomy) == roomy
    assert not stages.saves_marks(plan_of(*NEW).ruleset(IPV4))
    assert stages.for_two_backends(plan_of(*NEW).ruleset(IPV4)) == plan_of(*NEW).ruleset(IPV4)
