"""A second run finds nothing to write, and every rule of others stays, whatever stood there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from istio_init.config.model import LAYOUT_1_0, LAYOUT_1_30, TPROXY, Config, Facts
from istio_init.config.values import address
from istio_init.formats.listing import table_lines
from istio_init.formats.save_reader import parse_table
from istio_init.planner import plan
from istio_init.rules.model import BUILTIN_CHAINS, TABLES, Ruleset
from istio_init.rules.ownership import traces, wanted
from istio_init.rules.ranges import FAMILIES
from tests.shapes import ANYBODYS, DEPENDING, HALVES, SIDECARS
from tests.strategies import configs
from tests.unit.settings import tried

if TYPE_CHECKING:
    from istio_init.rules.model import Plan
    from istio_init.rules.ranges import Family

    Placed = tuple[Family, tuple[str, str]]

FACTS = Facts((), (address("10.96.0.10"), address("fd00::a")))
HINTS = plan(Config(LAYOUT_1_30, mode=TPROXY, inbound_all=True, ipv6=True), Facts())
# Ways into chains of ours, from chains that are shared and from those of others; none of
# these chains need be of the plan.
LEADING = (
    ("nat", "OUTPUT -p tcp -j ISTIO_OUTPUT"),
    ("nat", "PREROUTING -i net1 -j ISTIO_REDIRECT"),
    ("nat", "MINE -p tcp -j ISTIO_OUTPUT"),
    ("nat", "MINE -j ISTIO_REDIRECT"),
    ("filter", "INPUT -j ISTIO_DROP"),
    ("mangle", "PREROUTING -g ISTIO_INBOUND"),
)
OWN = ("ISTIO_OUTPUT", "ISTIO_REDIRECT", "ISTIO_DROP", "ISTIO_INBOUND")
LINES = st.lists(
    st.tuples(
        st.sampled_from(FAMILIES),
        st.sampled_from((*ANYBODYS, *HALVES, *HALVES, *SIDECARS, *DEPENDING, *LEADING)),
    ),
    max_size=16,
)


def _near_the_lines(config: Config, *, claims: bool, marks: bool) -> Config:
    """Return a config that may name an interface, and a mark, of these lines."""
    if claims and config.layout == LAYOUT_1_30:
        config = config.replace(exclude_interfaces=("net1",))
    return config.replace(tproxy_mark=7) if marks else config


CONFIGS = st.builds(
    _near_the_lines,
    st.sampled_from((LAYOUT_1_0, LAYOUT_1_30)).flatmap(configs),
    claims=st.booleans(),
    marks=st.booleans(),
)


def built(placed: list[Placed]) -> tuple[Ruleset, ...]:
    """Return both families with lines in every table; chains of ours stand where led to."""

    def lines(family: Family, table: str) -> list[str]:
        given = [line for where, (name, line) in placed if (where, name) == (family, table)]
        text = "".join(f"{line} " for line in given)
        made = [f"-N {name}" for name in ("MINE", *OWN) if f"{name} " in text]
        return [
            *(f"-P {name} ACCEPT" for name in BUILTIN_CHAINS[table]),
            *made,
            *(f"-A {line}" for line in given),
        ]

    return tuple(
        Ruleset(
            family,
            tuple(parse_table(lines(family, table), table, family) for table in TABLES),
        )
        for family in FAMILIES
    )


def converged(
    live: tuple[Ruleset, ...], planned: Plan, *, clean: bool = False
) -> tuple[Ruleset, ...]:
    known = traces(live, planned.rulesets)
    return tuple(wanted(one, planned.ruleset(one.family), known, clean=clean) for one in live)


def standing(live: tuple[Ruleset, ...], lines: tuple[tuple[str, str], ...]) -> list[str]:
    """Return which of the lines stand, table by table in their order."""
    return [
        f"{one.family} {table.name} {line}"
        for one in live
        for table in one.tables
        for line in table_lines(table, one.family)
        if (table.name, line.removeprefix("-A ")) in lines
    ]


def unplanned(live: tuple[Ruleset, ...], planned: Plan) -> list[str]:
    """Return the rules that anybody could have written and that the plan does not have."""
    claimed = standing(planned.rulesets, ANYBODYS)
    return [line for line in standing(live, ANYBODYS) if line not in claimed]


@given(LINES, CONFIGS)
@tried
def test_second_run_writes_nothing_over_rules_shaped_like_ours(
    placed: list[Placed], config: Config
) -> None:
    start = built(placed)
    planned = plan(config, FACTS)

    once = converged(start, planned)
    assert converged(once, planned) == once
    assert unplanned(once, planned) == unplanned(start, planned)
    assert standing(once, SIDECARS) == []
    if not traces(start).layout_1_0 and config.layout == LAYOUT_1_30:
        assert standing(once, HALVES) == standing(start, HALVES)

    cleaned = converged(once, HINTS, clean=True)
    assert converged(cleaned, HINTS, clean=True) == cleaned
    assert standing(cleaned, ANYBODYS) == standing(once, ANYBODYS)
    assert standing(cleaned, SIDECARS) == []


@given(LINES, CONFIGS, CONFIGS)
@tried
def test_second_run_writes_nothing_after_another_configuration(
    placed: list[Placed], first: Config, second: Config
) -> None:
    before = converged(built(placed), plan(first, FACTS))
    planned = plan(second, FACTS)

    once = converged(before, planned)
    assert converged(once, planned) == once
    assert unplanned(once, planned) == unplanned(before, planned)
