"""Interfaces that are left alone, and such that a virtual machine stands behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pod import (
    APP,
    CLIENT,
    ELSEWHERE,
    FAMILIES,
    NEIGHBOUR,
    OUTSIDE,
    OUTSIDE_ETH1,
    POD,
    POD_ETH1,
    POD_VM0,
    VM,
    Call,
    captured,
    direct,
    layout_1_30,
)
from tests.traffic.rows import Row, table

if TYPE_CHECKING:
    from tests.traffic.conftest import Pods

IN_ETH0 = Call(NEIGHBOUR, POD, 80)
IN_ETH1 = Call(NEIGHBOUR, POD_ETH1, 80)
OUT_ETH0 = Call(APP, OUTSIDE, 80)
OUT_ETH1 = Call(APP, OUTSIDE_ETH1, 80)


def _rows(mode: str) -> tuple[Row, ...]:
    one = layout_1_30("-i", "*", "-b", "*", "-c", "eth1", mode=mode)
    several = layout_1_30("-i", "*", "-b", "*", "-c", "nothere,eth1", mode=mode)
    wildcard = layout_1_30("-i", "*", "-b", "*", "-c", "eth+", mode=mode)
    return (
        Row("in", one, IN_ETH1, IN_ETH0, 15006),
        Row("out", one, OUT_ETH1, OUT_ETH0, 15001),
        Row("in, last of a list", several, IN_ETH1, IN_ETH0, 15006),
        Row("out, last of a list", several, OUT_ETH1, OUT_ETH0, 15001),
        Row("in, wildcard", wildcard, IN_ETH0, Call(VM, POD_VM0, 80), 15006),
        Row("in, wildcard, another", wildcard, IN_ETH1, Call(VM, POD_VM0, 80), 15006),
    )


@pytest.mark.parametrize(("row", "family"), table([*_rows("REDIRECT"), *_rows("TPROXY")]))
def test_excluded_interface(pods: Pods, row: Row, family: str) -> None:
    row.check(pods.of(row.setup), family)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_interface_is_captured_unless_it_is_excluded(pods: Pods, family: str) -> None:
    pod = pods.of(layout_1_30("-i", "*", "-b", "*"))

    pod.expect(IN_ETH1, family, captured(IN_ETH1, family, 15006))
    pod.expect(OUT_ETH1, family, captured(OUT_ETH1, family, 15001))


OF_THE_VM = Call(VM, OUTSIDE, 80)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_virtual_machine_calls_out_through_the_proxy(pods: Pods, family: str) -> None:
    pod = pods.of(layout_1_30("-i", "*", "-b", "*", "-k", "vm0"))
    inbound = Call(CLIENT, POD, 80)

    pod.expect(OF_THE_VM, family, captured(OF_THE_VM, family, 15001))
    pod.expect(inbound, family, captured(inbound, family, 15006))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_virtual_machine_sends_is_inbound_unless_it_is_named(
    pods: Pods, family: str
) -> None:
    pod = pods.of(layout_1_30("-i", "*", "-b", "*"))

    pod.expect(OF_THE_VM, family, captured(OF_THE_VM, family, 15006))


@pytest.mark.parametrize("family", FAMILIES)
def test_of_a_virtual_machine_only_listed_destinations_are_captured(
    pods: Pods, family: str
) -> None:
    pod = pods.of(layout_1_30("-i", ELSEWHERE.cidrs, "-b", "*", "-k", "vm0"))
    listed = Call(VM, ELSEWHERE, 80)

    pod.expect(OF_THE_VM, family, direct(OF_THE_VM, family))
    pod.expect(listed, family, captured(listed, family, 15001))
