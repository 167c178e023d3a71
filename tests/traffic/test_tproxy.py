"""What TPROXY adds: the proxy may speak to the application in the client's name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.pod import (
    APP,
    CLIENT,
    CLIENT_HOST,
    LOOPBACK,
    OUTSIDE,
    PASSTHROUGH,
    POD,
    PROXY,
    Call,
    layout_1_0,
    layout_1_30,
)
from tests.traffic.rows import Row, table

if TYPE_CHECKING:
    from tests.traffic.conftest import Pods

INBOUND = Call(CLIENT, POD, 80)
TO_SELF = Call(PROXY, POD, 80)
IN_CLIENTS_NAME = replace(TO_SELF, source=CLIENT_HOST, mark=1337)

OLD = layout_1_0("-i", "*", "-b", "*", mode="TPROXY")
NEW = layout_1_30("-i", "*", "-b", "*", mode="TPROXY")
LISTED = layout_1_30("-i", "*", "-b", "80", mode="TPROXY")
OUTBOUND_ONLY = layout_1_30("-i", "*", mode="TPROXY")
OTHER_MARK = layout_1_30("-b", "*", "-t", "0x10", "-r", "200", mode="TPROXY")
OLD_OTHER_MARK = layout_1_0("-b", "*", "-t", "0x10", "-r", "200", mode="TPROXY")

ROWS = (
    Row(
        "1.0 outbound",
        OLD,
        Call(PROXY, OUTSIDE, 80),
        Call(APP, OUTSIDE, 80),
        15001,
        how="redirect",
    ),
    Row("1.0 the proxy delivers", OLD, Call(PROXY, LOOPBACK, 80), INBOUND, 15001),
    Row("1.0 mark and table", OLD_OTHER_MARK, Call(CLIENT, POD, 22), INBOUND, 15001),
    Row("outbound", NEW, Call(PROXY, OUTSIDE, 80), Call(APP, OUTSIDE, 80), 15001),
    Row("outbound alone", OUTBOUND_ONLY, INBOUND, Call(APP, OUTSIDE, 80), 15001),
    Row("the proxy delivers", NEW, replace(TO_SELF, source=PASSTHROUGH), TO_SELF, 15006),
    Row("the proxy delivers in the client's name", NEW, IN_CLIENTS_NAME, TO_SELF, 15006),
    Row("the same to a listed port", LISTED, IN_CLIENTS_NAME, TO_SELF, 15006),
    Row("the proxy by loopback", NEW, Call(PROXY, LOOPBACK, 80), TO_SELF, 15006),
    Row("the application calls itself", NEW, Call(APP, POD, 80), TO_SELF, 15006),
    Row("mark and table", OTHER_MARK, replace(IN_CLIENTS_NAME, mark=16), INBOUND, 15006),
)


@pytest.mark.parametrize(("row", "family"), table(ROWS))
def test_tproxy(pods: Pods, row: Row, family: str) -> None:
    row.check(pods.of(row.setup), family)
