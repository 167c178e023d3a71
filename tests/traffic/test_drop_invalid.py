"""A segment that fits no tracked connection, with and without ``--drop-invalid``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pod import CLIENT, FAMILIES, POD, Call, layout_1_30

if TYPE_CHECKING:
    from tests.traffic.conftest import Pods

INBOUND = Call(CLIENT, POD, 80)
RESETS = layout_1_30("-b", "*")
DROPS = layout_1_30("-b", "*", "--drop-invalid")


# Connection tracking does not translate what it cannot place: a late segment of
# a captured connection reaches the application's port, where nobody knows of it.
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("within", [True, False], ids=["out of window", "no connection"])
def test_it_is_reset_unless_it_is_dropped(pods: Pods, family: str, *, within: bool) -> None:
    assert pods.of(RESETS).resets(INBOUND, family, within=within)
    assert not pods.of(DROPS).resets(INBOUND, family, within=within)
