"""What leaves the pod, and whether the proxy gets it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pod import (
    APP,
    ELSEWHERE,
    OUTSIDE,
    PROXY,
    RESOLVER,
    Actor,
    Call,
    layout_1_0,
    layout_1_30,
)
from tests.traffic.rows import Row, table

if TYPE_CHECKING:
    from tests.traffic.conftest import Pods

ROOT = Actor("root")
# The proxy's user in another group, and another user in the proxy's group.
BY_USER = Actor("by-user", uid=1337, gid=1000)
BY_GROUP = Actor("by-group", uid=1000, gid=1337)
SECOND = Actor("second", uid=1338, gid=1338)
MEMBER = Actor("member", uid=1000, gid=2000)
OTHER_MEMBER = Actor("other-member", uid=1000, gid=2001)

BY_APP = Call(APP, OUTSIDE, 80)
QUERY = Call(APP, RESOLVER, 53, "udp")

OLD = layout_1_0("-i", "*")
OLD_OWNERS = layout_1_0("-i", "*", users=("-u", "1337,1338", "-g", "2000"))
OLD_DEFAULT_OWNERS = layout_1_0("-i", "*", users=())
OLD_EXCLUDED = layout_1_0("-i", "*", "-x", ELSEWHERE.cidrs)
OLD_LISTED = layout_1_0("-i", ELSEWHERE.cidrs)

LAYOUT_1_0 = (
    Row("the proxy's user", OLD, Call(BY_USER, OUTSIDE, 80), BY_APP, 15001),
    Row("the group of that number", OLD, Call(BY_GROUP, OUTSIDE, 80), BY_APP, 15001),
    Row("root is an application", OLD, Call(PROXY, OUTSIDE, 80), Call(ROOT, OUTSIDE, 80), 15001),
    Row("second user of -u", OLD_OWNERS, Call(SECOND, OUTSIDE, 80), BY_APP, 15001),
    Row("group of -g", OLD_OWNERS, Call(MEMBER, OUTSIDE, 80), Call(BY_GROUP, OUTSIDE, 80), 15001),
    Row("root without -u", OLD_DEFAULT_OWNERS, Call(ROOT, OUTSIDE, 80), BY_APP, 15001),
    Row("1337 without -u", OLD_DEFAULT_OWNERS, Call(PROXY, OUTSIDE, 80), BY_APP, 15001),
    Row("-x", OLD_EXCLUDED, Call(APP, ELSEWHERE, 80), BY_APP, 15001),
    Row("off the -i list", OLD_LISTED, BY_APP, Call(APP, ELSEWHERE, 80), 15001),
    Row("UDP", OLD, QUERY, BY_APP, 15001),
)

NEW = layout_1_30("-i", "*")
EXCLUDED = layout_1_30("-i", "*", "-x", ELSEWHERE.cidrs)
LISTED = layout_1_30("-i", ELSEWHERE.cidrs)
BOTH_LISTS = layout_1_30("-i", "10.1.0.0/24,fd00:1::/64", "-x", ELSEWHERE.cidrs)
PORT_EXCLUDED = layout_1_30("-i", "*", "-o", "3306,443")
PORT_INCLUDED = layout_1_30("-q", "443")
PORT_AND_LIST = layout_1_30("-i", ELSEWHERE.cidrs, "-q", "443")
PORT_IN_EXCLUDED = layout_1_30("-x", ELSEWHERE.cidrs, "-q", "443")
PORT_TWICE = layout_1_30("-q", "443,8080", "-o", "443")
OWNERS = layout_1_30("-i", "*", users=("-u", "1337,1338", "-g", "2000"))
GROUPS = NEW.with_env(ISTIO_OUTBOUND_OWNER_GROUPS="2000,2001")
GROUPS_EXCLUDED = NEW.with_env(ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE="2000,2001")

LAYOUT_1_30 = (
    Row("the proxy's user", NEW, Call(BY_USER, OUTSIDE, 80), BY_APP, 15001),
    Row("the proxy's group", NEW, Call(BY_GROUP, OUTSIDE, 80), BY_APP, 15001),
    Row("root is an application", NEW, Call(PROXY, OUTSIDE, 80), Call(ROOT, OUTSIDE, 80), 15001),
    Row("second user of -u", OWNERS, Call(SECOND, OUTSIDE, 80), BY_APP, 15001),
    Row("group of -g", OWNERS, Call(MEMBER, OUTSIDE, 80), Call(BY_GROUP, OUTSIDE, 80), 15001),
    Row("-x", EXCLUDED, Call(APP, ELSEWHERE, 80), BY_APP, 15001),
    Row("off the -i list", LISTED, BY_APP, Call(APP, ELSEWHERE, 80), 15001),
    Row("-x inside -i", BOTH_LISTS, Call(APP, ELSEWHERE, 80), BY_APP, 15001),
    Row("first of -o", PORT_EXCLUDED, Call(APP, OUTSIDE, 3306), BY_APP, 15001),
    Row("last of -o", PORT_EXCLUDED, Call(APP, OUTSIDE, 443), Call(APP, OUTSIDE, 8080), 15001),
    Row("off -q", PORT_INCLUDED, BY_APP, Call(APP, OUTSIDE, 443), 15001),
    Row("off -q, elsewhere", PORT_INCLUDED, BY_APP, Call(APP, ELSEWHERE, 443), 15001),
    Row("off -q and -i", PORT_AND_LIST, BY_APP, Call(APP, OUTSIDE, 443), 15001),
    Row("-q adds to -i", PORT_AND_LIST, BY_APP, Call(APP, ELSEWHERE, 80), 15001),
    Row(
        "-x before -q",
        PORT_IN_EXCLUDED,
        Call(APP, ELSEWHERE, 443),
        Call(APP, OUTSIDE, 443),
        15001,
    ),
    Row("-o before -q", PORT_TWICE, Call(APP, OUTSIDE, 443), Call(APP, OUTSIDE, 8080), 15001),
    Row("no captured group", GROUPS, BY_APP, Call(MEMBER, OUTSIDE, 80), 15001),
    Row("second captured group", GROUPS, BY_APP, Call(OTHER_MEMBER, OUTSIDE, 80), 15001),
    Row("excluded group", GROUPS_EXCLUDED, Call(MEMBER, OUTSIDE, 80), BY_APP, 15001),
    Row("second excluded", GROUPS_EXCLUDED, Call(OTHER_MEMBER, OUTSIDE, 80), BY_APP, 15001),
    Row("UDP", NEW, QUERY, BY_APP, 15001),
)


@pytest.mark.parametrize(("row", "family"), table(LAYOUT_1_0))
def test_layout_1_0(pods: Pods, row: Row, family: str) -> None:
    row.check(pods.of(row.setup), family)


@pytest.mark.parametrize(("row", "family"), table(LAYOUT_1_30))
def test_layout_1_30(pods: Pods, row: Row, family: str) -> None:
    row.check(pods.of(row.setup), family)
