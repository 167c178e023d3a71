"""Layout 1.0 captures IPv4 only, and so lets no inbound IPv6 pass beside the proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pod import APP, CLIENT, OUTSIDE, POD, REFUSED, Call, captured, direct, layout_1_0

if TYPE_CHECKING:
    from tests.traffic.conftest import Pods

SHUT = layout_1_0("-i", "*", "-b", "80")
INBOUND = Call(CLIENT, POD, 80)
OUTBOUND = Call(APP, OUTSIDE, 80)


def test_inbound_is_refused(pods: Pods) -> None:
    pod = pods.of(SHUT)

    pod.expect(INBOUND, "ipv6", REFUSED)
    pod.expect(INBOUND, "ipv4", captured(INBOUND, "ipv4", 15001))


def test_answers_to_the_pods_own_calls_pass(pods: Pods) -> None:
    pods.of(SHUT).expect(OUTBOUND, "ipv6", direct(OUTBOUND, "ipv6"))


# Any text counts as on, as in the original.
@pytest.mark.parametrize("text", ["true", "false"])
def test_inbound_is_open_when_it_is_enabled(pods: Pods, text: str) -> None:
    pod = pods.of(SHUT.with_env(ENABLE_INBOUND_IPV6=text))

    pod.expect(INBOUND, "ipv6", direct(INBOUND, "ipv6"))
    pod.expect(INBOUND, "ipv4", captured(INBOUND, "ipv4", 15001))


def test_an_empty_setting_does_not_enable_it(pods: Pods) -> None:
    pods.of(SHUT.with_env(ENABLE_INBOUND_IPV6="")).expect(INBOUND, "ipv6", REFUSED)
