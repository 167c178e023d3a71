"""The steps between two rule sets lead from the one to the other, and touch no more than needed."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.diff import Change, changes
from istio_init.rules.model import TABLES, Chain, ForeignRule, Reason, Rule, Ruleset, make_table
from istio_init.rules.ranges import IPV4
from tests import strategies
from tests.unit.kernel_model import ModelTable, RefusedError, after
from tests.unit.settings import tried, tried_less

if TYPE_CHECKING:
    from istio_init.rules.model import Table
    from istio_init.rules.ranges import Family

    AnyRule = Rule | ForeignRule


def numbered(number: int) -> Rule:
    return Rule((m.Mark(number),), t.Return())


def nat(*output: AnyRule, own: dict[str, tuple[AnyRule, ...]] | None = None) -> Ruleset:
    """Return a rule set of one table with these rules in OUTPUT, and chains of its own."""
    chains = {name: Chain(name, None, rules) for name, rules in (own or {}).items()}
    chains["OUTPUT"] = Chain("OUTPUT", "ACCEPT", output)
    return Ruleset(IPV4, (make_table("nat", chains),))


def steps(live: Ruleset, wanted: Ruleset) -> list[tuple[str, str, int]]:
    """Return the steps of the only table as verb, chain and index, taken to see that they hold."""
    found = changes(live, wanted)
    if not found:
        assert live == wanted
        return []
    (one,) = found
    assert (one.family, one.table) == (live.family, live.tables[0].name)
    assert one.result == wanted.tables[0]
    assert after(live.tables[0], one.steps).table() == wanted.tables[0]
    return [(step.verb, step.chain, step.index) for step in one.steps]


A, B, C, D = (numbered(number) for number in range(1, 5))
INTO = Rule((), t.Jump("X"))


@pytest.mark.parametrize(
    ("before", "wanted", "taken"),
    [
        ((), (), []),
        ((A, B), (A, B), []),
        ((), (A, B), [("insert", "OUTPUT", 0), ("insert", "OUTPUT", 1)]),
        ((A, B), (), [("delete", "OUTPUT", 1), ("delete", "OUTPUT", 0)]),
        ((A,), (A, B), [("insert", "OUTPUT", 1)]),
        ((A, B), (A,), [("delete", "OUTPUT", 1)]),
        ((B,), (A, B), [("insert", "OUTPUT", 0)]),
        ((A, B), (B,), [("delete", "OUTPUT", 0)]),
        ((A, C), (A, B, C), [("insert", "OUTPUT", 1)]),
        ((A, B, C), (A, C), [("delete", "OUTPUT", 1)]),
        ((A, B), (A, C), [("delete", "OUTPUT", 1), ("insert", "OUTPUT", 1)]),
        ((A, A, A), (A,), [("delete", "OUTPUT", 2), ("delete", "OUTPUT", 1)]),
        (
            (A, B, C, D),
            (B, INTO, D),
            [
                ("create-chain", "X", 0),
                ("delete", "OUTPUT", 2),
                ("delete", "OUTPUT", 0),
                ("insert", "OUTPUT", 1),
            ],
        ),
    ],
)
def test_shared_chain_changes_rule_by_rule(
    before: tuple[AnyRule, ...], wanted: tuple[AnyRule, ...], taken: list[tuple[str, str, int]]
) -> None:
    own: dict[str, tuple[AnyRule, ...]] = {"X": ()} if INTO in wanted else {}

    assert steps(nat(*before), nat(*wanted, own=own)) == taken


def test_chains_come_before_the_rules_that_lead_to_them_and_go_after_those() -> None:
    empty = nat()
    full = nat(INTO, own={"X": (Rule((), t.Jump("Y")),), "Y": (A,)})

    assert steps(empty, full) == [
        ("create-chain", "X", 0),
        ("create-chain", "Y", 0),
        ("insert", "OUTPUT", 0),
        ("append", "X", 0),
        ("append", "Y", 0),
    ]
    assert steps(full, empty) == [
        ("delete", "OUTPUT", 0),
        ("flush", "X", 0),
        ("flush", "Y", 0),
        ("delete-chain", "X", 0),
        ("delete-chain", "Y", 0),
    ]


def test_chains_that_lead_to_each_other_can_go_together() -> None:
    def chained(*names: str) -> dict[str, tuple[AnyRule, ...]]:
        return {one: (Rule((), t.Jump(other)),) for one, other in pairwise(names)}

    own = {**chained("Z", "Y", "X"), "X": (A,)}
    assert steps(nat(own=own), nat())[-3:] == [
        ("delete-chain", "X", 0),
        ("delete-chain", "Y", 0),
        ("delete-chain", "Z", 0),
    ]


def test_chain_of_its_own_is_written_afresh() -> None:
    assert steps(nat(own={"X": (A, B)}), nat(own={"X": (A, C)})) == [
        ("flush", "X", 0),
        ("append", "X", 0),
        ("append", "X", 0),
    ]
    assert steps(nat(own={"X": ()}), nat(own={"X": (A,)})) == [("append", "X", 0)]
    assert steps(nat(own={"X": (A,)}), nat(own={"X": ()})) == [("flush", "X", 0)]
    assert steps(nat(own={"X": ()}), nat()) == [("delete-chain", "X", 0)]


def test_rules_without_what_the_kernel_can_read_are_the_same() -> None:
    planned = A.replace(reason=Reason("-t"))

    assert changes(nat(A), nat(planned)) == ()
    assert changes(nat(own={"X": (A,)}), nat(own={"X": (planned,)})) == ()


def test_foreign_rules_are_compared_by_their_bytes() -> None:
    one, other = ForeignRule(b"\0" * 112), ForeignRule(b"\1" * 112)

    assert changes(nat(one), nat(one)) == ()
    assert steps(nat(one), nat(other)) == [("delete", "OUTPUT", 0), ("insert", "OUTPUT", 0)]


def test_policies_are_left_alone() -> None:
    live = make_table("filter", {"INPUT": Chain("INPUT", "DROP")})
    wanted = make_table("filter", {"INPUT": Chain("INPUT", "ACCEPT")})

    assert changes(Ruleset(IPV4, (live,)), Ruleset(IPV4, (wanted,))) == ()


def test_tables_that_differ_come_in_table_order_and_others_not_at_all() -> None:
    def ruleset(*names: str) -> Ruleset:
        return Ruleset(
            IPV4,
            tuple(
                make_table(
                    name,
                    {"OUTPUT": Chain("OUTPUT", "ACCEPT", (A,) if name in names else ())},
                )
                for name in TABLES
            ),
        )

    found = changes(ruleset(), ruleset("filter", "raw", "nat"))

    assert [one.table for one in found] == ["raw", "nat", "filter"]
    # A table of which nothing is wanted stays as it is.
    assert changes(ruleset("nat"), Ruleset(IPV4, ())) == ()


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Table, Table]:
    """Two tables of one name, with the same policies."""
    family, name = draw(strategies.families), draw(st.sampled_from(TABLES))
    before, wanted = (draw(strategies.tables(family, name)) for _ in range(2))
    policies = {chain.name: chain.policy for chain in before.chains}
    chains = {
        chain.name: chain.replace(policy=policies[chain.name] if chain.policy else None)
        for chain in wanted.chains
    }
    return before, make_table(name, chains)


@given(pairs(), strategies.families)
@tried_less
def test_steps_lead_from_any_table_to_any_other(pair: tuple[Table, Table], family: Family) -> None:
    before, wanted = pair
    live = Ruleset(family, (before,))

    steps(live, Ruleset(family, (wanted,)))
    assert changes(live, live) == ()


SMALL = st.lists(st.sampled_from((A, B, C, D, ForeignRule(b"\0" * 112))), max_size=7).map(tuple)


@given(SMALL, SMALL)
@tried
def test_steps_lead_from_any_chain_to_any_other(
    before: tuple[AnyRule, ...], wanted: tuple[AnyRule, ...]
) -> None:
    steps(nat(*before), nat(*wanted))
    steps(nat(own={"X": before}), nat(own={"X": wanted}))


@given(
    st.lists(
        st.tuples(st.sampled_from(("stays", "comes", "goes")), st.integers(0, 0xFFFF)),
        max_size=8,
        unique_by=lambda one: one[1],
    )
)
@tried
def test_rules_that_stay_are_not_touched(drawn: list[tuple[str, int]]) -> None:
    """A rule that is not touched keeps its counters."""
    before = tuple(numbered(number) for what, number in drawn if what != "comes")
    wanted = tuple(numbered(number) for what, number in drawn if what != "goes")
    staying = [what for what, _ in drawn if what == "stays"]
    live = nat(*before)

    found = changes(live, nat(*wanted))

    model = after(live.tables[0], found[0].steps if found else ())
    counters = model.counters("OUTPUT")
    assert len(counters) == len(wanted)
    assert sum(counters) == len(staying)
    assert sum(len(one.steps) for one in found) == len(before) + len(wanted) - 2 * len(staying)


@pytest.mark.parametrize(
    "step",
    [
        Change("create-chain", "X"),
        Change("delete-chain", "X"),
        Change("delete-chain", "Y"),
        Change("delete-chain", "OUTPUT"),
        Change("delete-chain", "NONE"),
        Change("flush", "NONE"),
        Change("append", "X"),
        Change("append", "X", rule=Rule((), t.Jump("NONE"))),
        Change("append", "X", rule=ForeignRule(b"", "NONE")),
        Change("insert", "X", 2, Rule((), t.Accept())),
        Change("insert", "X", -1, Rule((), t.Accept())),
        Change("delete", "X", 1),
    ],
)
def test_model_refuses_what_a_kernel_refuses(step: Change) -> None:
    model = ModelTable(nat(Rule((), t.Jump("Y")), own={"X": (A,), "Y": ()}).tables[0])

    with pytest.raises(RefusedError):
        model.take(step)
