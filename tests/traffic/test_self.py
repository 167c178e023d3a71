"""Calls that never leave the pod."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.pod import (
    APP,
    LOOPBACK,
    OTHER_LOOPBACK,
    OUTSIDE,
    PASSTHROUGH,
    POD,
    PROXY,
    Actor,
    Call,
    layout_1_0,
    layout_1_30,
)
from tests.traffic.rows import Row, table

if TYPE_CHECKING:
    from tests.traffic.conftest import Pods

SECOND = Actor("second", uid=1338, gid=1338)
BY_GROUP = Actor("by-group", uid=1000, gid=1337)

APP_TO_SELF = Call(APP, POD, 80)
PROXY_TO_SELF = Call(PROXY, POD, 80)

OLD = layout_1_0("-i", "*", "-b", "80")
OLD_LISTED = layout_1_0("-i", OUTSIDE.cidrs)

LAYOUT_1_0 = (
    Row("by the pod's address", OLD, Call(APP, LOOPBACK, 80), APP_TO_SELF, 15001),
    # Captured though the list of destinations does not name it.
    Row("whatever -i says", OLD_LISTED, Call(APP, LOOPBACK, 80), APP_TO_SELF, 15001),
    Row("loopback", OLD, Call(APP, LOOPBACK, 80), Call(APP, OTHER_LOOPBACK, 80), 15001),
    Row("the proxy by loopback", OLD, Call(PROXY, LOOPBACK, 80), PROXY_TO_SELF, 15001),
)

NEW = layout_1_30("-i", "*", "-b", "*")
TWO_USERS = layout_1_30("-i", "*", users=("-u", "1337,1338", "-g", "1337"))

LAYOUT_1_30 = (
    Row("the application", NEW, APP_TO_SELF, PROXY_TO_SELF, 15006),
    Row(
        "the proxy delivers", NEW, replace(PROXY_TO_SELF, source=PASSTHROUGH), PROXY_TO_SELF, 15006
    ),
    Row("the proxy by loopback", NEW, Call(PROXY, LOOPBACK, 80), PROXY_TO_SELF, 15006),
    Row("the application by loopback", NEW, Call(APP, LOOPBACK, 80), PROXY_TO_SELF, 15006),
    Row(
        "the proxy to its tunnel",
        NEW,
        Call(PROXY, POD, 15008),
        Call(PROXY, POD, 15009),
        15006,
        spared_by="proxy",
    ),
    # The proxy is known by its user here, as in Istio: a group alone does not make one ...
    Row("the proxy's group", NEW, Call(BY_GROUP, POD, 80), PROXY_TO_SELF, 15006),
    # ... and of several users the first hides the others.
    Row("the second user", TWO_USERS, Call(SECOND, POD, 80), PROXY_TO_SELF, 15006),
)

IPV4_LISTED = replace(layout_1_30("-i", "127.0.0.0/8,10.1.0.0/24", "--no-ipv6"), families=("ipv4",))
IPV6_LISTED = replace(layout_1_30("-i", "::1/128,fd00:1::/64"), families=("ipv6",))
WIDE = replace(
    layout_1_30("-i", "*").with_env(ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR="127.0.0.0/8"),
    families=("ipv4",),
)
NARROW = replace(layout_1_30("-i", "*"), families=("ipv4",))
BY_LOOPBACK = Call(APP, LOOPBACK, 80)

LOOPBACK_RANGES = (
    # A loopback range among the destinations: what the application sends to
    # itself is captured like the rest, but for the pod's own loopback address.
    Row("-i holds it", IPV4_LISTED, BY_LOOPBACK, Call(APP, OTHER_LOOPBACK, 80), 15001),
    Row("-i holds it, by address", IPV4_LISTED, BY_LOOPBACK, APP_TO_SELF, 15001),
    Row("-i holds it", IPV6_LISTED, BY_LOOPBACK, APP_TO_SELF, 15001),
    Row("one address", NARROW, BY_LOOPBACK, Call(PROXY, OTHER_LOOPBACK, 80), 15006),
    Row("all of it", WIDE, Call(PROXY, OTHER_LOOPBACK, 80), PROXY_TO_SELF, 15006),
)


@pytest.mark.parametrize(("row", "family"), table(LAYOUT_1_0))
def test_layout_1_0(pods: Pods, row: Row, family: str) -> None:
    row.check(pods.of(row.setup), family)


@pytest.mark.parametrize(("row", "family"), table(LAYOUT_1_30))
def test_layout_1_30(pods: Pods, row: Row, family: str) -> None:
    row.check(pods.of(row.setup), family)


@pytest.mark.parametrize(("row", "family"), table(LOOPBACK_RANGES))
def test_loopback_range(pods: Pods, row: Row, family: str) -> None:
    row.check(pods.of(row.setup), family)
