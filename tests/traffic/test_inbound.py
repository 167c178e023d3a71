"""What comes into the pod, and whether the proxy gets it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pod import (
    APP,
    CLIENT,
    FAMILIES,
    OUTSIDE,
    POD,
    PROXY,
    VM,
    Call,
    captured,
    direct,
    layout_1_0,
    layout_1_30,
)
from tests.traffic.rows import Row, table

if TYPE_CHECKING:
    from tests.pod import Setup
    from tests.traffic.conftest import Pods


def to_pod(port: int) -> Call:
    return Call(CLIENT, POD, port)


def _rows(mode: str) -> tuple[Row, ...]:
    """Return what both ways of capturing must have in common."""
    old_all = layout_1_0("-b", "*", mode=mode)
    old_list = layout_1_0("-b", "80,8080", mode=mode)
    old_spared = layout_1_0("-b", "*", "-d", "8081,443", mode=mode)
    new_list = layout_1_30("-b", "80,8080", mode=mode)
    new_range = layout_1_30("-b", "8080:8089", mode=mode)
    new_spared = layout_1_30("-b", "*", "-d", "8081,443", mode=mode)
    pointless = layout_1_30("-b", "80", "-d", "80", mode=mode)
    return (
        Row("1.0 SSH under *", old_all, to_pod(22), to_pod(80), 15001),
        Row("1.0 port off the list", old_list, to_pod(8081), to_pod(8080), 15001),
        Row("1.0 first of the list", old_list, to_pod(22), to_pod(80), 15001),
        Row("1.0 -d", old_spared, to_pod(8081), to_pod(80), 15001),
        Row("1.0 last of -d", old_spared, to_pod(443), to_pod(8080), 15001),
        Row("1.30 port off the list", new_list, to_pod(8081), to_pod(8080), 15006),
        Row("1.30 first of the list", new_list, to_pod(22), to_pod(80), 15006),
        Row("1.30 below a range", new_range, to_pod(80), to_pod(8080), 15006),
        Row("1.30 above a range", new_range, to_pod(8090), to_pod(8089), 15006),
        # Unlike layout 1.0, this one captures SSH too.
        Row("1.30 -d", new_spared, to_pod(8081), to_pod(22), 15006),
        Row("1.30 last of -d", new_spared, to_pod(443), to_pod(80), 15006),
        Row("1.30 -d beside a list", pointless, to_pod(8080), to_pod(80), 15006),
    )


@pytest.mark.parametrize(("row", "family"), table(_rows("REDIRECT")))
def test_redirect(pods: Pods, row: Row, family: str) -> None:
    row.check(pods.of(row.setup), family)


@pytest.mark.parametrize(("row", "family"), table(_rows("TPROXY")))
def test_tproxy(pods: Pods, row: Row, family: str) -> None:
    row.check(pods.of(row.setup), family)


TUNNEL = (
    Row(
        "the tunnel port",
        layout_1_30("-b", "*"),
        to_pod(15008),
        to_pod(15009),
        15006,
        spared_by="proxy",
    ),
    Row(
        "a tunnel port of one's own",
        layout_1_30("-b", "*", "-e", "15009"),
        to_pod(15009),
        to_pod(15008),
        15006,
    ),
)


@pytest.mark.parametrize(("row", "family"), table(TUNNEL))
def test_tunnel_port_is_not_captured(pods: Pods, row: Row, family: str) -> None:
    row.check(pods.of(row.setup), family)


def test_layout_1_0_sends_inbound_to_the_port_of_its_own(pods: Pods) -> None:
    pod = pods.of(layout_1_0("-z", "15006", "-i", "*", "-b", "80"))
    inbound, outbound = to_pod(80), Call(APP, OUTSIDE, 80)

    pod.expect(inbound, "ipv4", captured(inbound, "ipv4", 15006))
    pod.expect(outbound, "ipv4", captured(outbound, "ipv4", 15001))


@pytest.mark.parametrize("setup", [layout_1_0("-i", "*"), layout_1_30("-i", "*")], ids=str)
def test_without_inbound_ports_only_outbound_is_captured(pods: Pods, setup: Setup) -> None:
    pod = pods.of(setup)
    inbound, outbound = to_pod(80), Call(APP, OUTSIDE, 80)

    for family in setup.families:
        pod.expect(inbound, family, direct(inbound, family))
        pod.expect(outbound, family, captured(outbound, family, 15001))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "call",
    [
        to_pod(80),
        to_pod(15009),
        Call(APP, OUTSIDE, 80),
        Call(PROXY, OUTSIDE, 80),
        Call(APP, POD, 80),
        Call(VM, OUTSIDE, 80),
    ],
    ids=str,
)
def test_without_rules_every_call_is_direct(pods: Pods, call: Call, family: str) -> None:
    pods.of(None).expect(call, family, direct(call, family))
