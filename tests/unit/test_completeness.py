"""What a test draws, and what the program knows, leaves no kind of rule and no setting out.

A new kind of match or target, or a new field of the settings, fails here until
the strategies draw it; from then on every property that uses them holds for it.
"""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import strategies as st

from istio_init import planner
from istio_init.config.model import LAYOUTS, Config, Facts
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import Rule
from istio_init.rules.ranges import IPV4, IPV6
from tests.strategies import S4, S6, configs, drawn, rules
from tests.unit.test_planner import V4, V6

RULES = [*drawn(rules(IPV4), 400), *drawn(rules(IPV6), 200)]
CONFIGS = drawn(st.sampled_from(LAYOUTS).flatmap(configs), 400)


@pytest.mark.parametrize("kind", get_args(m.Match))
def test_every_kind_of_match_is_drawn(kind: type) -> None:
    assert any(isinstance(match, kind) for rule in RULES for match in rule.matches)


@pytest.mark.parametrize("kind", get_args(t.Target))
def test_every_kind_of_target_is_drawn(kind: type) -> None:
    assert any(isinstance(rule.target, kind) for rule in RULES)


@pytest.mark.parametrize("kind", [one for one in get_args(m.Match) if one is not m.Socket])
def test_every_kind_of_match_is_drawn_negated_and_not(kind: type) -> None:
    negations = {
        match.negated  # type: ignore[union-attr]  # Socket is left out above
        for rule in RULES
        for match in rule.matches
        if isinstance(match, kind)
    }

    assert negations == {False, True}


@pytest.mark.parametrize("field", Config.__match_args__)
def test_every_setting_is_drawn_with_several_values(field: str) -> None:
    assert len({getattr(config, field) for config in CONFIGS}) > 1


def test_every_kind_that_a_plan_holds_is_drawn() -> None:
    kinds = {
        type(part)
        for config in CONFIGS
        for ruleset in planner.plan(config, Facts((V4, V6), (S4, S6))).rulesets
        for table in ruleset.tables
        for chain in table.chains
        for rule in chain.rules
        if isinstance(rule, Rule)
        for part in (*rule.matches, rule.target)
    }

    assert kinds <= {*get_args(m.Match), *get_args(t.Target)}
