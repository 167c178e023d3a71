"""Requests through a real Envoy, led there by the image under runc and by the program."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.container.envoy import SELF, Answer, EnvoyPod
from tests.namespace import BACKENDS
from tests.pod import (
    APP,
    CLIENT,
    CLIENT_HOST,
    ELSEWHERE,
    FAMILIES,
    LOOPBACK,
    OUTSIDE,
    PASSTHROUGH,
    POD,
    PROXY,
    Call,
    Setup,
    layout_1_0,
    layout_1_30,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.container.runtime import Runtime

# Everything is captured but what the flags name.
EXCEPT = ("-i", "*", "-b", "*", "-d", "8081", "-o", "3306", "-x", ELSEWHERE.cidrs)
INWARD, SPARED_INWARD = Call(CLIENT, POD, 80), Call(CLIENT, POD, 8081)
OUTWARD = Call(APP, OUTSIDE, 80)
SPARED_BY_ADDRESS, SPARED_BY_PORT = Call(APP, ELSEWHERE, 80), Call(APP, OUTSIDE, 3306)
PROXYS_OWN = Call(PROXY, OUTSIDE, 80)
TO_ITSELF = Call(APP, POD, 80)


def direct(call: Call, family: str) -> Answer:
    """Return the answer to a request that does not touch Envoy."""
    return Answer(f"{call.to.owner}:{call.port}", call.peer(family))


def way(name: str, call: Call, family: str) -> str:
    """Return what Envoy has to know about a request at one of its listeners."""
    return f"{name} {call.to.spelled(family, call.port)} {call.peer(family)}"


def inward(call: Call, family: str, peer: str, *more: str) -> Answer:
    return Answer("app:80", peer, (way("inbound", call, family), *more))


def outward(family: str) -> Answer:
    """Return the answer to ``OUTWARD``, which goes on in the pod's name in every mode."""
    return Answer("outside:80", POD.address(family), (way("outbound", OUTWARD, family),))


@pytest.fixture(scope="module")
def redirect(runtime: Runtime) -> Iterator[EnvoyPod]:
    with EnvoyPod(layout_1_30(*EXCEPT), runtime) as pod:
        yield pod


@pytest.fixture(scope="module")
def tproxy(runtime: Runtime) -> Iterator[EnvoyPod]:
    with EnvoyPod(layout_1_30(*EXCEPT, mode="TPROXY"), runtime) as pod:
        yield pod


@pytest.fixture(scope="module")
def old(runtime: Runtime) -> Iterator[EnvoyPod]:
    with EnvoyPod(layout_1_0("-i", "*", "-b", "80", "-x", ELSEWHERE.cidrs), runtime) as pod:
        yield pod


EVERY_WAY = pytest.mark.parametrize(("backend", "by"), [*product(BACKENDS, ("image", "program"))])


def check_spared(pod: EnvoyPod, family: str) -> None:
    """Make the requests that must not touch Envoy in either mode."""
    for call in (SPARED_INWARD, SPARED_BY_ADDRESS, SPARED_BY_PORT, TO_ITSELF):
        pod.expect_answer(call, family, direct(call, family))


@EVERY_WAY
def test_redirect(redirect: EnvoyPod, backend: str, by: str) -> None:
    redirect.apply(backend, by)

    for family in FAMILIES:
        # The source by which the rules know what Envoy has let in.
        passed = PASSTHROUGH.address(family)
        redirect.expect_answer(INWARD, family, inward(INWARD, family, passed))
        redirect.expect_answer(OUTWARD, family, outward(family))
        through = way("outbound", OUTWARD, family)
        to_itself = inward(TO_ITSELF, family, passed, through)
        redirect.expect_answer(OUTWARD, family, to_itself, SELF[family])
        redirect.expect_answer(PROXYS_OWN, family, direct(PROXYS_OWN, family))
        check_spared(redirect, family)


@EVERY_WAY
def test_tproxy_keeps_the_clients_address(tproxy: EnvoyPod, backend: str, by: str) -> None:
    tproxy.apply(backend, by)

    for family in FAMILIES:
        client = CLIENT_HOST.address(family)
        tproxy.expect_answer(INWARD, family, inward(INWARD, family, client))
        tproxy.expect_answer(OUTWARD, family, outward(family))
        check_spared(tproxy, family)


@EVERY_WAY
def test_layout_1_0(old: EnvoyPod, backend: str, by: str) -> None:
    old.apply(backend, by)

    family = "ipv4"
    old.expect_answer(INWARD, family, inward(INWARD, family, LOOPBACK.ipv4))
    old.expect_answer(OUTWARD, family, outward(family))
    # In this layout what the application calls of its own goes in by the listener.
    old.expect_answer(TO_ITSELF, family, inward(TO_ITSELF, family, LOOPBACK.ipv4))
    for call in (SPARED_INWARD, SPARED_BY_ADDRESS, PROXYS_OWN):
        old.expect_answer(call, family, direct(call, family))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pod_of_one_family(runtime: Runtime, backend: str, family: str) -> None:
    """Which family is captured follows from the pod's addresses."""
    other = "-6" if family == "ipv4" else "-4"
    setup = Setup(("istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", *EXCEPT))
    with EnvoyPod(setup, runtime) as pod:
        pod.namespace.run("ip", other, "address", "flush", "scope", "global")
        pod.apply(backend, "image")

        pod.expect_answer(INWARD, family, inward(INWARD, family, PASSTHROUGH.address(family)))
        pod.expect_answer(OUTWARD, family, outward(family))
        check_spared(pod, family)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_dual_stack_the_second_family_is_left_alone(runtime: Runtime, backend: str) -> None:
    setup = Setup(("istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", *EXCEPT))
    with EnvoyPod(setup, runtime) as pod:
        pod.apply(backend, "image")

        pod.expect_answer(OUTWARD, "ipv4", outward("ipv4"))
        for call in (INWARD, OUTWARD):
            pod.expect_answer(call, "ipv6", direct(call, "ipv6"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_after_clean_nothing_touches_envoy(
    redirect: EnvoyPod, runtime: Runtime, backend: str
) -> None:
    redirect.apply(backend, "image")
    done = runtime.run("clean", pod=redirect.namespace)
    assert done.returncode == 0, done.stderr

    for family in FAMILIES:
        for call in (INWARD, OUTWARD, TO_ITSELF):
            redirect.expect_answer(call, family, direct(call, family))
