"""A plain Deployment, injected with the built-in configuration, intercepts.

The program and Envoy run with the arguments, and as the users, of the injected
pod's containers.
"""

from __future__ import annotations

import http.client
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from istio_init.inject import builtin
from tests.container.envoy import Answer, Envoy, EnvoyPod
from tests.inside import inside
from tests.namespace import BACKENDS, PROGRAM
from tests.pod import (
    APP,
    CLIENT,
    CLIENT_HOST,
    ELSEWHERE,
    FAMILIES,
    OUTSIDE,
    PASSTHROUGH,
    POD,
    PROXY,
    Actor,
    Call,
    Setup,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

T = "traffic.sidecar.istio.io/"
INWARD, OUTWARD = Call(CLIENT, POD, 80), Call(APP, OUTSIDE, 80)
PROXYS_OWN = Call(PROXY, OUTSIDE, 80)
SPARED = (Call(CLIENT, POD, 8081), Call(APP, OUTSIDE, 3306), Call(APP, ELSEWHERE, 80))
EXCEPT = {
    f"{T}excludeInboundPorts": "8081",
    f"{T}excludeOutboundPorts": "3306",
    f"{T}excludeOutboundIPRanges": f"{ELSEWHERE.ipv4}/32,{ELSEWHERE.ipv6}/128",
}
READY_PORT = 15021


@dataclass(frozen=True)
class Containers:
    """The two containers of an injected pod."""

    init: dict[str, Any]
    proxy: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """Envoy's configuration, which is its last argument."""
        config: dict[str, Any] = yaml.safe_load(self.proxy["args"][-1])
        return config

    @property
    def setup(self) -> Setup:
        argv = tuple(self.init["args"])
        return Setup(argv, transparent=15006 if "TPROXY" in argv else 0)

    @property
    def user(self) -> Actor:
        context = self.proxy["securityContext"]
        return Actor("proxy", uid=context["runAsUser"], gid=context["runAsGroup"])


def injected(
    folder: Path, annotations: dict[str, str], families: str, *, native: bool = False
) -> Containers:
    """Return the containers that the pods of a plain Deployment get, by the command line."""
    values, ours = builtin.text(builtin.VALUES), "ipFamilies: IPv4\n"
    assert ours in values
    (folder / "values.yaml").write_text(values.replace(ours, f"ipFamilies: {families}\n"))
    web = [{"name": "web", "image": "web", "ports": [{"containerPort": 80}]}]
    template = {
        "metadata": {"labels": {"app": "web"}, "annotations": annotations},
        "spec": {"containers": web},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template},
    }
    (folder / "web.yaml").write_text(yaml.safe_dump(deployment))
    flags = ("--values", folder / "values.yaml", "--native-sidecars", str(native).lower())
    done = subprocess.run(
        [PROGRAM, "inject", "-f", folder / "web.yaml", *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    spec = yaml.safe_load(done.stdout)["spec"]["template"]["spec"]
    everyone = [*spec["initContainers"], *spec["containers"]]
    init, proxy = (
        next(one for one in everyone if one["name"] == name)
        for name in ("istio-init", "istio-proxy")
    )
    return Containers(init, proxy)


class InjectedPod(EnvoyPod):
    """A pod in which those containers run, but for the image that the first is made of."""

    def __init__(self, containers: Containers) -> None:
        super().__init__(containers.setup, config=containers.config)
        self._containers = containers

    def _envoy(self, argv: Sequence[str], ports: Sequence[int]) -> Envoy:
        del argv
        own = self._containers
        envoy = Envoy(self.namespace, own.user, own.proxy["args"], ports)
        self._stack.callback(envoy.close)
        return envoy

    def fails(self, call: Call, family: str) -> None:
        """Make a request that must get no answer."""
        with pytest.raises(AssertionError, match=r"ConnectionRefusedError|TimeoutError|timed out"):
            self.get(replace(call, seconds=1.0), family)

    def ready(self, family: str) -> int:
        """Return what the proxy answers to a probe of the kubelet's."""

        def action() -> int:
            connection = http.client.HTTPConnection(POD.address(family), READY_PORT, timeout=10)
            connection.request("GET", "/healthz/ready")
            return connection.getresponse().status

        return inside(self._places["client"], action)


def direct(call: Call, family: str) -> Answer:
    return Answer(f"{call.to.owner}:{call.port}", call.peer(family))


def check(pod: InjectedPod, families: Sequence[str], *, keeps_client: bool = False) -> None:
    """Make requests that go through the proxy, and some that do not."""
    for family in families:
        peer = (CLIENT_HOST if keeps_client else PASSTHROUGH).address(family)
        pod.expect_answer(INWARD, family, Answer("app:80", peer))
        pod.expect_answer(OUTWARD, family, Answer("outside:80", POD.address(family)))
        for call in (*SPARED, PROXYS_OWN):
            pod.expect_answer(call, family, direct(call, family))
        assert pod.ready(family) == 200


def check_that_it_was_the_proxy(pod: InjectedPod, families: Sequence[str]) -> None:
    """End the proxy: what went through it fails, and nothing else."""
    pod.envoy.close()
    for family in families:
        for call in (INWARD, OUTWARD):
            pod.fails(call, family)
        for call in SPARED:
            pod.expect_answer(call, family, direct(call, family))


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_redirect(backend: str, tmp_path: Path, *, native: bool) -> None:
    with InjectedPod(injected(tmp_path, EXCEPT, "IPv4", native=native)) as pod:
        pod.apply(backend, "program")

        check(pod, ("ipv4",))
        # The pod's first address is of IPv4: IPv6 is none of the proxy's business.
        for call in (INWARD, OUTWARD):
            pod.expect_answer(call, "ipv6", direct(call, "ipv6"))
        check_that_it_was_the_proxy(pod, ("ipv4",))


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_families(backend: str, tmp_path: Path) -> None:
    with InjectedPod(injected(tmp_path, EXCEPT, '"IPv4,IPv6"')) as pod:
        pod.apply(backend, "program")

        check(pod, FAMILIES)
        check_that_it_was_the_proxy(pod, FAMILIES)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pod_of_ipv6(backend: str, tmp_path: Path) -> None:
    with InjectedPod(injected(tmp_path, EXCEPT, "IPv6")) as pod:
        pod.namespace.run("ip", "-4", "address", "flush", "scope", "global")
        pod.apply(backend, "program")

        check(pod, ("ipv6",))
        check_that_it_was_the_proxy(pod, ("ipv6",))


@pytest.mark.parametrize("backend", BACKENDS)
def test_tproxy_keeps_the_clients_address(backend: str, tmp_path: Path) -> None:
    annotations = {**EXCEPT, "sidecar.istio.io/interceptionMode": "TPROXY"}
    with InjectedPod(injected(tmp_path, annotations, '"IPv4,IPv6"')) as pod:
        pod.apply(backend, "program")

        check(pod, FAMILIES, keeps_client=True)
        check_that_it_was_the_proxy(pod, FAMILIES)
