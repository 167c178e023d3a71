"""What is ours in a live rule set, and what becomes of it and of everybody else's."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.config.model import LAYOUT_1_0, LAYOUT_1_30, TPROXY, Config, Facts
from istio_init.config.values import address
from istio_init.planner import plan
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import (
    BUILTIN_CHAINS,
    TABLES,
    Chain,
    ForeignRule,
    Plan,
    Rule,
    Ruleset,
    make_table,
    rule,
)
from istio_init.rules.names import OWN_CHAINS
from istio_init.rules.ownership import (
    OwnershipEvidence,
    has_ours,
    leads_into_ours,
    restored,
    traces,
    wanted,
)
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6
from tests.strategies import configs
from tests.unit.flags import networks, ports
from tests.unit.rule_lines import outside_ours as left_in
from tests.unit.rule_lines import rules_of as rules
from tests.unit.rule_lines import state
from tests.unit.settings import tried_less

if TYPE_CHECKING:
    from istio_init.rules.ranges import Family

    AnyRule = Rule | ForeignRule

OLD = Config(LAYOUT_1_0, inbound_port=15001, ipv6=True)
NEW = Config(LAYOUT_1_30, ipv6=False)
FACTS = Facts((), (address("10.96.0.10"), address("fd00::a")))

F1 = "-m comment --comment one -j ACCEPT"
F2 = "-p tcp -m tcp --dport 22 -j ACCEPT"
F3 = "-j LOG --log-prefix three"
J = "-j ISTIO_OUTPUT"


def nat(*lines: str) -> Ruleset:
    return state("nat", IPV4, *lines)


def applied(live: Ruleset, config: Config, *beside: Ruleset) -> Ruleset:
    """Return what a run leaves; ``beside`` are the rules of the other family before it."""
    planned = plan(config, FACTS)
    after = planned.ruleset(live.family)
    found = wanted(live, after, traces((live, *beside), planned.rulesets), clean=False)
    again = wanted(found, after, traces((found,), planned.rulesets), clean=False)
    assert again == found
    return found


def cleaned(live: Ruleset, config: Config | None = None, *beside: Ruleset) -> Ruleset:
    """Return what cleaning leaves, without flags or with those of ``config``."""
    hints = (config or Config(LAYOUT_1_30)).replace(
        layout=LAYOUT_1_30, mode=TPROXY, inbound_all=True, ipv6=True
    )
    planned = plan(hints, Facts())
    after = planned.ruleset(live.family)
    found = wanted(live, after, traces((live, *beside), planned.rulesets), clean=True)
    assert wanted(found, after, OwnershipEvidence(), clean=True) == found
    return found


SPARED = NEW.replace(exclude_interfaces=("eth9",))
PAIR = "-o eth9 -j RETURN"
SPARED_RULE = Rule((m.OutInterface("eth9"),), t.Return())


@pytest.mark.parametrize(
    ("before", "config", "after"),
    [
        # Nothing of ours: it goes to the end.
        ((), NEW, (J,)),
        ((F1, F2), NEW, (F1, F2, J)),
        # Ours in order: nothing moves, whatever stands before, between or after.
        ((J,), NEW, (J,)),
        ((F1, J, F2), NEW, (F1, J, F2)),
        ((F1, PAIR, F2, J, F3), SPARED, (F1, PAIR, F2, J, F3)),
        # Half of ours: what was missing comes where the last of ours stood.
        ((F1, J, F2), SPARED, (F1, PAIR, J, F2)),
        ((PAIR, F1), SPARED, (PAIR, J, F1)),
        # More than ours: what is too much goes.
        ((J, F1, J, F2), NEW, (F1, J, F2)),
        ((J, J, J), NEW, (J,)),
        # In another order.
        ((F1, J, F2, PAIR, F3), SPARED, (F1, F2, PAIR, J, F3)),
        # Of the other layout, or anybody's way into our chains.
        ((F1, "-p tcp -j ISTIO_OUTPUT", F2), NEW, (F1, J, F2)),
        ((F1, J, F2), OLD, (F1, "-p tcp -j ISTIO_OUTPUT", F2)),
        ((F1, "-p udp -j ISTIO_OUTPUT", F2, J), NEW, (F1, F2, J)),
        (("-m ttl --ttl-eq 1 -j ISTIO_OUTPUT", F1), NEW, (J, F1)),
        (("-g ISTIO_OUTPUT", F1), NEW, (J, F1)),
        ((J, F1, "-j ISTIO_REDIRECT"), NEW, (J, F1)),
    ],
)
def test_shared_chain_becomes_as_planned_around_everybody_elses(
    before: tuple[str, ...], config: Config, after: tuple[str, ...]
) -> None:
    live = nat("ISTIO_OUTPUT", "ISTIO_REDIRECT", *(f"OUTPUT {one}" for one in before))

    found = applied(live, config)

    assert rules(found, "OUTPUT") == list(after)
    planned = plan(config, FACTS).ruleset(IPV4).table("nat")
    assert planned is not None
    for chain in planned.chains:
        if chain.policy is None:
            assert found.tables[0].chain(chain.name) == chain
    others = [one for one in before if one in (F1, F2, F3)]
    assert rules(cleaned(found, config if config == SPARED else None), "OUTPUT") == others
    # Without the flag that names it, -c leaves rules that anybody could have written.
    left = [one for one in found.tables[0].chains[2].rules if one == SPARED_RULE]
    assert len(rules(cleaned(found), "OUTPUT")) == len(others) + len(left)


def test_heads_go_above_everybody_elses_and_tails_below() -> None:
    config = NEW.replace(virtual_interfaces=("eth1",), outbound_all=True, inbound_all=True)
    heads = ["-i eth1 -j ISTIO_REDIRECT", "-i eth1 -j RETURN"]
    tail = "-p tcp -j ISTIO_INBOUND"

    found = applied(nat(f"PREROUTING {F1}", f"PREROUTING {F2}"), config)

    assert rules(found, "PREROUTING") == [*heads, F1, F2, tail]
    # Nothing moves when others come in between.
    between = nat(
        *("ISTIO_INBOUND", "ISTIO_REDIRECT"),
        *(f"PREROUTING {one}" for one in (F3, heads[0], F1, heads[1], F2, tail, F3)),
    )
    assert rules(applied(between, config), "PREROUTING") == rules(between, "PREROUTING")
    assert rules(cleaned(between), "PREROUTING") == [F3, F1, F2, F3]
    # Without -k the tail stays where it was.
    plain = config.replace(virtual_interfaces=())
    assert rules(applied(between, plain), "PREROUTING") == [F3, F1, F2, tail, F3]


def test_chains_of_ours_are_exactly_the_plans() -> None:
    live = nat(
        "OUTPUT -j ISTIO_OUTPUT",
        f"ISTIO_OUTPUT {F1}",
        "ISTIO_OUTPUT -j RETURN",
        "ISTIO_OUTPUT_DNS -j RETURN",
        "ISTIO_DIVERT",
        "OTHER -j RETURN",
    )
    found = applied(live, NEW)
    planned = plan(NEW, FACTS).ruleset(IPV4).table("nat")

    assert planned is not None
    assert [chain for chain in found.tables[0].chains if chain.name.startswith("ISTIO_")] == [
        chain for chain in planned.chains if chain.policy is None
    ]
    assert rules(found, "OTHER") == ["-j RETURN"]
    assert has_ours(live)
    assert not has_ours(cleaned(live))
    assert rules(cleaned(live), "OTHER") == ["-j RETURN"]


def test_chains_with_similar_names_are_not_ours() -> None:
    live = nat("OUTPUT -j ISTIO_OUTPUT_MINE", "ISTIO_OUTPUT_MINE -j RETURN", "ISTIO -j RETURN")

    assert cleaned(live) == live
    assert rules(applied(live, NEW), "OUTPUT") == ["-j ISTIO_OUTPUT_MINE", J]


def test_foreign_chain_loses_its_way_into_chains_that_go_and_keeps_all_else() -> None:
    live = nat(
        "OUTPUT -j MINE",
        "ISTIO_OUTPUT",
        "ISTIO_OUTPUT_DNS",
        f"MINE {F1}",
        "MINE -j ISTIO_OUTPUT",
        "MINE -m ttl --ttl-eq 1 -j ISTIO_OUTPUT_DNS",
        f"MINE {F2}",
    )

    # This plan has the one chain and not the other.
    assert rules(applied(live, NEW), "MINE") == [F1, J, F2]
    assert rules(applied(live, NEW), "OUTPUT") == ["-j MINE", J]
    assert rules(cleaned(live), "MINE") == [F1, F2]
    assert rules(cleaned(live), "OUTPUT") == ["-j MINE"]


def test_tables_that_are_not_planned_keep_nothing_of_ours() -> None:
    raw = state(
        "raw",
        IPV4,
        *("OUTPUT -j ISTIO_OUTPUT_DNS", f"OUTPUT {F1}", "ISTIO_OUTPUT_DNS -j RETURN"),
    )

    assert rules(applied(raw, NEW), "OUTPUT") == [F1]
    assert not has_ours(applied(raw, NEW))


def test_tables_that_are_not_live_stay_absent() -> None:
    assert applied(Ruleset(IPV4, ()), NEW) == Ruleset(IPV4, ())


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        # -c spares an interface in both directions; so may anybody.
        (("PREROUTING -i eth9 -j RETURN", "OUTPUT -o eth9 -j RETURN"), True),
        (("PREROUTING -i eth+ -j RETURN", "OUTPUT -o eth+ -j RETURN"), True),
        # Nobody else leads what comes in by an interface into a chain of ours.
        (("PREROUTING -i eth1 -j ISTIO_REDIRECT", "PREROUTING -i eth1 -j RETURN"), False),
        (
            ("PREROUTING -d 10.0.0.0/8 -i eth1 -j ISTIO_REDIRECT", "PREROUTING -i eth1 -j RETURN"),
            False,
        ),
        (("PREROUTING -i eth9 -j RETURN",), True),
        (("OUTPUT -o eth9 -j RETURN",), True),
        (("PREROUTING -i eth9 -j RETURN", "OUTPUT -o eth8 -j RETURN"), True),
        (("PREROUTING ! -i eth9 -j RETURN", "OUTPUT ! -o eth9 -j RETURN"), True),
        (("PREROUTING -i eth9 -p tcp -j RETURN", "OUTPUT -o eth9 -p tcp -j RETURN"), True),
        (("PREROUTING -i eth9 -j ACCEPT", "OUTPUT -o eth9 -j ACCEPT"), True),
        (("INPUT -i eth9 -j RETURN", "POSTROUTING -o eth9 -j RETURN"), True),
    ],
)
def test_interfaces_left_alone_by_an_earlier_call(lines: tuple[str, ...], *, kept: bool) -> None:
    installed = ("OUTPUT -j ISTIO_OUTPUT", "ISTIO_OUTPUT -j RETURN", "ISTIO_REDIRECT")
    live = nat(*installed, *lines)

    for found in (applied(live, NEW), cleaned(live)):
        left = [
            f"{chain} {one}"
            for chain in BUILTIN_CHAINS["nat"]
            for one in rules(found, chain)
            if one != J
        ]
        assert sorted(left) == (sorted(lines) if kept else [])


def test_pair_is_ours_only_by_the_flag_that_names_it() -> None:
    live = nat("PREROUTING -i eth9 -j RETURN", "OUTPUT -o eth9 -j RETURN")

    assert cleaned(live) == live
    assert rules(applied(live, NEW), "PREROUTING") == ["-i eth9 -j RETURN"]
    assert rules(applied(live, NEW), "OUTPUT") == [PAIR, J]
    assert rules(applied(applied(live, SPARED), NEW), "OUTPUT") == [PAIR, J]
    assert rules(applied(live, SPARED.replace(exclude_interfaces=("eth8",))), "OUTPUT") == [
        *(PAIR, "-o eth8 -j RETURN", J)
    ]
    assert rules(cleaned(live, SPARED), "PREROUTING") == []
    assert rules(cleaned(live, SPARED), "OUTPUT") == []


def test_traces_of_one_family_tell_about_the_other() -> None:
    """-k redirects only where -i names a destination of the family."""
    v4 = nat(
        *("PREROUTING -i eth1 -j ISTIO_REDIRECT", "PREROUTING -i eth1 -j RETURN"),
        *("ISTIO_REDIRECT", "ISTIO_OUTPUT"),
    )
    v6 = state(
        "nat", IPV6, "PREROUTING -i eth1 -j RETURN", "OUTPUT -j ISTIO_OUTPUT", "ISTIO_OUTPUT"
    )

    alone, known = traces((v6,)), traces((v4, v6))

    assert (alone.interfaces, known.interfaces) == (frozenset(), frozenset({"eth1"}))
    assert rules(wanted(v6, Ruleset(IPV6, ()), alone, clean=True), "PREROUTING") == [
        "-i eth1 -j RETURN"
    ]
    assert rules(wanted(v6, Ruleset(IPV6, ()), known, clean=True), "PREROUTING") == []


COPIED = "--nfmask 0xffffffff --ctmask 0xffffffff"


def shapes(mark: str) -> tuple[str, ...]:
    """Return what layout 1.30 puts into mangle's own chains in TPROXY mode."""
    return (
        f"PREROUTING -p tcp -m mark --mark {mark} -j CONNMARK --save-mark {COPIED}",
        # As it stands while rules move from one backend to another.
        f"PREROUTING -i lo -p tcp -m mark --mark {mark} -j CONNMARK --save-mark {COPIED}",
        f"OUTPUT -o lo -p tcp -m mark --mark {mark} -j RETURN",
        (
            "OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 7 "
            "-j MARK --set-xmark 0x53a/0xffffffff"
        ),
        (
            "OUTPUT ! -d 127.0.0.0/8 -o lo -p tcp -m owner --gid-owner 7 "
            "-j MARK --set-xmark 0x53a/0xffffffff"
        ),
        f"OUTPUT -p tcp -m connmark --mark {mark} -j CONNMARK --restore-mark {COPIED}",
    )


@pytest.mark.parametrize(
    ("mark", "others"),
    [
        ("0x539", ()),
        ("0x2a", ("ISTIO_DIVERT -j MARK --set-xmark 0x2a/0xffffffff",)),
        (
            "0x2a",
            (
                (
                    "ISTIO_TPROXY -p tcp -j TPROXY --on-port 1 --on-ip 0.0.0.0 "
                    "--tproxy-mark 0x2a/0xffffffff"
                ),
            ),
        ),
        ("0x2a", ("ISTIO_INBOUND -p tcp -m mark --mark 0x2a -j RETURN",)),
    ],
)
def test_tproxy_shapes_by_the_default_mark_or_that_of_our_chains(
    mark: str, others: tuple[str, ...]
) -> None:
    foreign = f"OUTPUT {F2}"
    live = state("mangle", IPV4, *shapes(mark), foreign, *others)

    assert left_in(cleaned(live)) == [foreign]
    assert left_in(applied(live, NEW)) == [foreign]


@pytest.mark.parametrize(
    "line",
    [
        *(one for one in shapes("0x2a") if "0x53a" not in one),
        *(one.replace("0x53a", "0x53b") for one in shapes("0x2a") if "0x53a" in one),
        f"PREROUTING -p udp -m mark --mark 0x539 -j CONNMARK --save-mark {COPIED}",
        f"PREROUTING ! -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark {COPIED}",
        f"PREROUTING -p tcp -m mark ! --mark 0x539 -j CONNMARK --save-mark {COPIED}",
        f"PREROUTING -p tcp -m mark --mark 0x539/0xfff -j CONNMARK --save-mark {COPIED}",
        f"PREROUTING -i eth0 -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark {COPIED}",
        f"OUTPUT -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark {COPIED}",
        f"PREROUTING -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark {COPIED}",
        f"OUTPUT -p tcp -m connmark --mark 0x539/0xfff -j CONNMARK --restore-mark {COPIED}",
        "OUTPUT -o eth0 -p tcp -m mark --mark 0x539 -j RETURN",
        "OUTPUT -o lo -p tcp -m mark --mark 0x539/0xfff -j RETURN",
        "OUTPUT -o lo -p tcp -m mark --mark 0x539 -j ACCEPT",
        (
            "OUTPUT -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 7 "
            "-j MARK --set-xmark 0x53a/0xffffffff"
        ),
        (
            "OUTPUT ! -d 127.0.0.1/32 -o eth0 -p tcp -m owner --uid-owner 7 "
            "-j MARK --set-xmark 0x53a/0xffffffff"
        ),
        (
            "OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m mark --mark 0x7 "
            "-j MARK --set-xmark 0x53a/0xffffffff"
        ),
        "OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -j MARK --set-xmark 0x53a/0xffffffff",
    ],
)
def test_what_looks_like_a_tproxy_shape_and_is_none_stays(line: str) -> None:
    live = state(
        "mangle", IPV4, line, "ISTIO_INBOUND -j RETURN", "OTHER -j MARK --set-xmark 0x2a/0xff"
    )

    assert left_in(cleaned(live))[0] == line
    assert left_in(applied(live, NEW))[0] == line


def test_tproxy_shapes_count_in_mangle_alone() -> None:
    live = nat("OUTPUT -o lo -p tcp -m mark --mark 0x539 -j RETURN", "ISTIO_OUTPUT -j RETURN")

    assert left_in(cleaned(live)) == ["OUTPUT -o lo -p tcp -m mark --mark 0x539 -j RETURN"]


ESTABLISHED = "INPUT -m state --state ESTABLISHED -j ACCEPT"
REJECT = "INPUT -j REJECT --reject-with icmp6-port-unreachable"


# What tells that layout 1.0 stands in the other family.
BESIDE_1_0 = nat("OUTPUT -p tcp -j ISTIO_OUTPUT", "ISTIO_OUTPUT -j RETURN")
SHUT = OLD.replace(ipv6=False)


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        ((ESTABLISHED, REJECT), ()),
        ((ESTABLISHED, REJECT, ESTABLISHED, REJECT), ()),
        ((ESTABLISHED, REJECT, f"INPUT {F1}"), (f"INPUT {F1}",)),
        # One alone is what was left of the two.
        ((ESTABLISHED,), ()),
        ((REJECT,), ()),
        ((ESTABLISHED, REJECT, ESTABLISHED), (ESTABLISHED,)),
        ((ESTABLISHED, REJECT, REJECT), (REJECT,)),
        # Not at the head, or not in order: any firewall may have these.
        (
            (f"INPUT {F2}", ESTABLISHED, REJECT, f"INPUT {F1}"),
            (f"INPUT {F2}", ESTABLISHED, REJECT, f"INPUT {F1}"),
        ),
        ((REJECT, ESTABLISHED), (REJECT, ESTABLISHED)),
        ((ESTABLISHED, f"INPUT {F2}", REJECT), (ESTABLISHED, f"INPUT {F2}", REJECT)),
        (
            ("OUTPUT -m state --state ESTABLISHED -j ACCEPT", REJECT.replace("INPUT", "OUTPUT")),
            ("OUTPUT -m state --state ESTABLISHED -j ACCEPT", REJECT.replace("INPUT", "OUTPUT")),
        ),
    ],
)
def test_shut_ipv6_is_ours_at_the_head_beside_chains_of_layout_1_0(
    lines: tuple[str, ...], left: tuple[str, ...]
) -> None:
    live = state("filter", IPV6, *lines)

    assert left_in(cleaned(live, None, BESIDE_1_0)) == list(left)
    assert left_in(applied(live, NEW, BESIDE_1_0)) == list(left)
    # Without these chains it is anybody's. With them, and a run that leaves them there, the
    # next run could not tell whether this one had left the two.
    assert left_in(cleaned(live)) == list(lines)
    assert left_in(applied(live, NEW)) == list(lines)
    assert left_in(applied(live, OLD)) == list(lines)
    assert left_in(applied(live, OLD, BESIDE_1_0)) == list(lines)


@pytest.mark.parametrize(
    ("lines", "shut"),
    [
        ((), (ESTABLISHED, REJECT)),
        ((ESTABLISHED, REJECT), (ESTABLISHED, REJECT)),
        ((ESTABLISHED, REJECT, ESTABLISHED, REJECT), (ESTABLISHED, REJECT)),
        ((ESTABLISHED,), (ESTABLISHED, REJECT, ESTABLISHED)),
        ((REJECT, ESTABLISHED), (ESTABLISHED, REJECT, REJECT, ESTABLISHED)),
        ((f"INPUT {F2}", ESTABLISHED, REJECT), (f"INPUT {F2}", ESTABLISHED, REJECT)),
        # What stood between the two was ours, and goes.
        ((ESTABLISHED, "INPUT -j ISTIO_DROP", REJECT), (ESTABLISHED, REJECT)),
        (
            (ESTABLISHED, ESTABLISHED, "INPUT -j ISTIO_DROP", REJECT, REJECT, f"INPUT {F1}"),
            (ESTABLISHED, REJECT, f"INPUT {F1}"),
        ),
    ],
)
def test_shut_ipv6_that_is_planned_is_ours_wherever_it_stands(
    lines: tuple[str, ...], shut: tuple[str, ...]
) -> None:
    live = state("filter", IPV6, "ISTIO_DROP", *lines)

    assert left_in(applied(live, SHUT)) == list(shut)


def test_the_same_two_rules_of_ipv4_are_somebody_elses() -> None:
    live = state(
        "filter",
        IPV4,
        *(ESTABLISHED, REJECT.replace("icmp6", "icmp")),
    )

    assert cleaned(live) == live
    assert applied(live, OLD.replace(ipv6=False)) == live


def test_half_of_the_two_beside_layout_1_0_is_what_was_left_of_them() -> None:
    for half in (ESTABLISHED, REJECT):
        v6 = state("filter", IPV6, half)
        assert left_in(applied(v6, SHUT, BESIDE_1_0)) == [ESTABLISHED, REJECT]


def test_layout_1_0_is_told_by_chains_of_ours_alone() -> None:
    others = nat("MINE -p tcp -j ISTIO_OUTPUT", "ISTIO_OUTPUT -j RETURN")

    assert traces((BESIDE_1_0,)).layout_1_0
    assert not traces((others,)).layout_1_0
    assert traces((), (BESIDE_1_0,)).plans_layout_1_0


def test_traces_of_nothing() -> None:
    assert traces(()) == OwnershipEvidence(frozenset({1337}), frozenset())
    assert not has_ours(Ruleset(IPV4, ()))


# A match that no rule of ours has: what carries it is somebody else's.
NOT_OURS = m.ConnMark(7, 7, negated=True)
OTHERS = ("OTHER", "ISTIO_LIKE")
SOMEBODY_ELSES: tuple[AnyRule, ...] = (
    *(ForeignRule(f"-m comment --comment {number} -j ACCEPT") for number in range(3)),
    ForeignRule("-m comment --comment into -g OTHER", "OTHER"),
    rule(NOT_OURS, target=t.Jump("ISTIO_LIKE")),
    rule(NOT_OURS, target=t.Return()),
    rule(m.InInterface("eth0"), NOT_OURS, target=t.Return()),
    rule(m.Proto("tcp"), m.Mark(1337), NOT_OURS, target=t.SaveMark()),
)


PLACES = tuple(
    (family, table, chain)
    for family in FAMILIES
    for table in TABLES
    for chain in (*BUILTIN_CHAINS[table], *OTHERS)
)


def foreign(placed: list[tuple[tuple[Family, str, str], AnyRule]]) -> tuple[Ruleset, ...]:
    """Return both families with rules of other people's in every table's chains."""

    def chain(family: Family, table: str, name: str) -> Chain:
        held = tuple(one for place, one in placed if place == (family, table, name))
        return Chain(name, None if name in OTHERS else "ACCEPT", held)

    return tuple(
        Ruleset(
            family,
            tuple(
                make_table(
                    table,
                    {
                        name: chain(family, table, name)
                        for name in (*BUILTIN_CHAINS[table], *OTHERS)
                    },
                )
                for table in TABLES
            ),
        )
        for family in FAMILIES
    )


FOREIGN = st.lists(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(SOMEBODY_ELSES)), max_size=20
).map(foreign)
ANY_CONFIG = st.sampled_from((LAYOUT_1_0, LAYOUT_1_30)).flatmap(configs)


def converge(
    live: tuple[Ruleset, ...], planned: Plan, *, clean: bool = False
) -> tuple[Ruleset, ...]:
    known = traces(live, planned.rulesets)
    return tuple(wanted(one, planned.ruleset(one.family), known, clean=clean) for one in live)


def is_ours(one: AnyRule) -> bool:
    return isinstance(one, Rule) and NOT_OURS not in one.matches


def check(live: tuple[Ruleset, ...], before: tuple[Ruleset, ...], planned: Plan) -> None:
    """Assert that ours are exactly the plan's and that everybody else's stayed in order."""
    for one, other in zip(live, before, strict=True):
        assert one.family == other.family
        for table, was in zip(one.tables, other.tables, strict=True):
            plan_table = planned.ruleset(one.family).table(table.name)
            for chain in table.chains:
                of_plan = plan_table.chain(chain.name) if plan_table else None
                ours = tuple(one for one in chain.rules if is_ours(one))
                assert ours == (of_plan.rules if of_plan else ())
                then = was.chain(chain.name)
                assert [one for one in chain.rules if not is_ours(one)] == [
                    one for one in (then.rules if then else ()) if not is_ours(one)
                ]
            own = {chain.name for chain in table.chains} & OWN_CHAINS
            assert own == (
                {chain.name for chain in plan_table.chains} & OWN_CHAINS if plan_table else set()
            )


def leaves_no_trace(config: Config) -> bool:
    """Whether nothing that a config puts in place could be anybody's.

    That of -c could; so could that of -k without -i, or with ranges of no family.
    """
    told = config.virtual_interfaces == () or config.outbound_all
    return told and config.exclude_interfaces == ()


def shuts(config: Config) -> bool:
    """Whether a config shuts IPv6 by two rules that any firewall may have."""
    return config.layout == LAYOUT_1_0 and not config.ipv6


@given(FOREIGN, ANY_CONFIG, ANY_CONFIG)
@tried_less
def test_one_run_ends_with_the_plan_whatever_was_there(
    start: tuple[Ruleset, ...], first: Config, second: Config
) -> None:
    one, other = plan(first, FACTS), plan(second, FACTS)

    after_first = converge(start, one)
    check(after_first, start, one)
    assert converge(after_first, one) == after_first

    after_second = converge(after_first, other)
    assert converge(after_second, other) == after_second
    if leaves_no_trace(first) and not (shuts(first) and second.layout == LAYOUT_1_0):
        check(after_second, start, other)


@given(FOREIGN, ANY_CONFIG)
@tried_less
def test_cleaning_leaves_what_was_there_before(start: tuple[Ruleset, ...], config: Config) -> None:
    there = converge(start, plan(config, FACTS))
    flags = config.replace(layout=LAYOUT_1_30, mode=TPROXY, inbound_all=True, ipv6=True)
    no_flags = Config(LAYOUT_1_30, mode=TPROXY, inbound_all=True, ipv6=True)

    assert converge(there, plan(flags, Facts()), clean=True) == start
    if leaves_no_trace(config):
        assert converge(there, plan(no_flags, Facts()), clean=True) == start
    assert converge(start, plan(no_flags, Facts()), clean=True) == start


@st.composite
def damaged(draw: st.DrawFn, there: tuple[Ruleset, ...]) -> tuple[Ruleset, ...]:
    """Rule sets of which some rules of ours are gone, doubled, or elsewhere in their chain."""
    result = []
    for ruleset in there:
        tables = []
        for table in ruleset.tables:
            chains = {}
            for chain in table.chains:
                held = list(chain.rules)
                for one in [one for one in held if is_ours(one)]:
                    fate = draw(st.sampled_from(("stays", "stays", "goes", "doubled", "moved")))
                    if fate in ("goes", "moved"):
                        held.remove(one)
                    if fate in ("doubled", "moved"):
                        held.insert(draw(st.integers(0, len(held))), one)
                chains[chain.name] = chain.replace(rules=tuple(held))
            tables.append(make_table(table.name, chains))
        result.append(ruleset.replace(tables=tuple(tables)))
    return tuple(result)


# Half of what shuts IPv6 may be anybody's.
MENDABLE = st.one_of(
    configs(LAYOUT_1_30), configs(LAYOUT_1_0).map(lambda config: config.replace(ipv6=True))
)


@given(FOREIGN, MENDABLE, st.data())
@tried_less
def test_damage_is_mended(start: tuple[Ruleset, ...], config: Config, data: st.DataObject) -> None:
    planned = plan(config, FACTS)
    broken = data.draw(damaged(converge(start, planned)))

    mended = converge(broken, planned)

    check(mended, start, planned)
    assert converge(mended, planned) == mended


def test_foreign_rules_keep_their_place_relative_to_ours() -> None:
    """Where a rule of ours stood is where it stands again."""
    live = nat("ISTIO_OUTPUT", *(f"OUTPUT {one}" for one in (F1, J, F2)))

    found = applied(
        live, NEW.replace(outbound_cidrs=networks("10.0.0.0/8"), inbound_ports=ports(80))
    )

    assert rules(found, "OUTPUT") == [F1, J, F2]
    for one, other in pairwise([F1, J, F2]):
        assert rules(found, "OUTPUT").index(one) < rules(found, "OUTPUT").index(other)
    assert isinstance(found.tables[0].chains[2].rules[1], Rule)
    assert found.tables[0].chains[2].rules[1] == Rule((), t.Jump("ISTIO_OUTPUT"))


def taken_back(
    live: tuple[Ruleset, ...], before: tuple[Ruleset, ...], planned: Plan
) -> tuple[Ruleset, ...]:
    known = traces((*live, *before), planned.rulesets)
    return tuple(
        restored(one, other, planned.ruleset(one.family), known)
        for one, other in zip(live, before, strict=True)
    )


@given(FOREIGN, ANY_CONFIG, ANY_CONFIG)
@tried_less
def test_run_taken_back_leaves_what_was_there_before(
    start: tuple[Ruleset, ...], first: Config, second: Config
) -> None:
    before = converge(start, plan(first, FACTS))
    planned = plan(second, FACTS)

    assert taken_back(converge(before, planned), before, planned) == before
    assert taken_back(before, before, planned) == before
    cleaned_up = converge(before, planned, clean=True)
    assert taken_back(cleaned_up, before, planned) == before


@given(FOREIGN, ANY_CONFIG, ANY_CONFIG, st.sampled_from(PLACES), st.integers(0, 9))
@tried_less
def test_what_others_wrote_meanwhile_stays_when_a_run_is_taken_back(
    start: tuple[Ruleset, ...],
    first: Config,
    second: Config,
    place: tuple[Family, str, str],
    position: int,
) -> None:
    planned = plan(second, FACTS)
    before = converge(start, plan(first, FACTS))
    after = converge(before, planned)
    family, name, chain_name = place
    meanwhile = ForeignRule("-m comment --comment meanwhile -j ACCEPT")

    def with_one_more(ruleset: Ruleset) -> Ruleset:
        if ruleset.family != family:
            return ruleset
        tables = []
        for table in ruleset.tables:
            chains = {one.name: one for one in table.chains}
            if table.name == name:
                held = list(chains[chain_name].rules)
                held.insert(min(position, len(held)), meanwhile)
                chains[chain_name] = chains[chain_name].replace(rules=tuple(held))
            tables.append(make_table(table.name, chains))
        return ruleset.replace(tables=tuple(tables))

    live = tuple(with_one_more(one) for one in after)

    for one, then, other in zip(taken_back(live, before, planned), live, before, strict=True):
        for table, live_table, old_table in zip(one.tables, then.tables, other.tables, strict=True):
            assert {chain.name for chain in table.chains} == {
                *(chain.name for chain in old_table.chains)
            }
            for chain in table.chains:
                old, now = old_table.chain(chain.name), live_table.chain(chain.name)
                assert old is not None
                ours = [one for one in chain.rules if is_ours(one)]
                assert ours == [one for one in old.rules if is_ours(one)]
                others = [one for one in chain.rules if not is_ours(one)]
                assert others == [one for one in (now.rules if now else ()) if not is_ours(one)]


def test_way_into_our_chains_comes_back_with_them() -> None:
    before = nat(
        *("OUTPUT -j MINE", "OUTPUT -j ISTIO_OUTPUT", "ISTIO_OUTPUT -j RETURN"),
        *(f"MINE {F1}", "MINE -j ISTIO_OUTPUT", f"MINE {F2}"),
    )
    nothing = Ruleset(IPV4, ())
    after = wanted(before, nothing, traces((before,)), clean=True)

    assert rules(after, "MINE") == [F1, F2]
    assert restored(after, before, nothing, traces((before,))) == before
    # Who changed the chain meanwhile is not overruled.
    changed = nat("OUTPUT -j MINE", f"MINE {F2}")
    again = restored(changed, before, nothing, traces((before,)))
    assert rules(again, "MINE") == [F2]
    assert rules(again, "OUTPUT") == rules(before, "OUTPUT")


def test_table_that_was_not_there_before_is_emptied_of_ours() -> None:
    live = nat("OUTPUT -j ISTIO_OUTPUT", f"OUTPUT {F1}", "ISTIO_OUTPUT -j RETURN")

    found = restored(live, Ruleset(IPV4, ()), plan(NEW, FACTS).ruleset(IPV4), traces((live,)))

    assert rules(found, "OUTPUT") == [F1]
    assert not has_ours(found)


def test_rules_that_lead_into_our_chains() -> None:
    assert leads_into_ours(Rule((), t.Jump("ISTIO_OUTPUT")))
    assert leads_into_ours(ForeignRule(b"", "ISTIO_OUTPUT"))
    assert not leads_into_ours(Rule((), t.Jump("MINE")))
    assert not leads_into_ours(Rule((), t.Return()))
    assert not leads_into_ours(ForeignRule(b""))
