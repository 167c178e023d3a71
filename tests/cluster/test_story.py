"""The whole way, as a person goes it: label a namespace, apply a workload, send a request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.cluster.kubectl import (
    execute,
    get,
    in_network_of,
    kubectl,
    names,
    namespace,
    pods,
    wait_for_pod,
)
from tests.cluster.process import wait_until
from tests.cluster.workloads import PORT, pod, workload

if TYPE_CHECKING:
    from tests.cluster.injector import Injector
    from tests.cluster.kubectl import Object

# Where the rules let pass what Envoy has let in.
PASSTHROUGH = "127.0.0.6"
DEBUG = {"sidecar.istio.io/logLevel": "debug"}
BACKENDS = {
    "legacy": [{"name": "FORCE_IPTABLES_BINARY", "value": "legacy"}],
    "nft": [{"name": "FORCE_IPTABLES_BINARY", "value": "nft"}],
    "nftables": [{"name": "NATIVE_NFTABLES", "value": "true"}],
}
# What shows the rules, and what has to be among them.
SHOWN = {
    "legacy": ("iptables-legacy", "-t", "nat", "-S"),
    "nft": ("iptables-nft", "-t", "nat", "-S"),
    "nftables": ("nft", "list", "ruleset"),
}
REDIRECTS = {
    "legacy": "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006",
    "nft": "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006",
    "nftables": "redirect to :15006",
}


def fetch(where: str, name: str, url: str) -> str:
    """Return what the application of a pod is answered."""
    done = execute(name, where, "timeout", "5", "wget", "-q", "-O", "-", url)
    return done.stdout.strip() or done.stderr.strip()


def check_traffic(where: str, injected: Object, outside: Object) -> None:
    """Send a request in and one out; both must go through Envoy, and arrive where they should."""
    name, address = injected["metadata"]["name"], injected["status"]["podIP"]
    other, elsewhere = outside["metadata"]["name"], outside["status"]["podIP"]

    def asked(by: str) -> list[str]:
        log = kubectl("logs", "-n", where, name if by == other else other, "-c", "app")
        return re.findall(r"\[?(?:::ffff:)?([\d.]+)\]?:\d+", log)

    wait_until("Envoy passes on", lambda: fetch(where, other, f"http://{address}:{PORT}") == name)
    assert PASSTHROUGH in asked(other)
    assert elsewhere not in asked(other)
    assert fetch(where, name, f"http://{elsewhere}:{PORT}") == other
    assert asked(name)[-1] == address
    # Envoy's own word for where the application's connection was going.
    proxy = kubectl("logs", "-n", where, name, "-c", "istio-proxy")
    assert f"{elsewhere}:{PORT}" in proxy


def test_the_way_of_a_deployment(injector: Injector) -> None:  # noqa: ARG001 - installed
    with namespace() as where:
        kubectl("create", "-f", "-", "-n", where, given=pod("outside"))
        kubectl("label", "namespace", where, "istio-injection=enabled")
        template = workload("Deployment")["spec"]["template"]
        template["metadata"]["annotations"] = DEBUG
        kubectl("apply", "-f", "-", "-n", where, given=workload("Deployment", template=template))
        kubectl("rollout", "status", "deployment/web", "-n", where, "--timeout=60s")

        (one,) = [found for found in pods(where) if found["metadata"]["name"] != "outside"]
        name = one["metadata"]["name"]
        shown = kubectl("get", "pods", "-n", where)
        assert re.search(rf"{name}\s+2/2\s+Running", shown)
        assert names(one) == ["istio-init", "app", "istio-proxy"]
        described = kubectl("describe", "pod", "-n", where, name)
        assert re.search(r"istio-init:(.|\n)*?Reason:\s+Completed\s+Exit Code:\s+0", described)
        rules = in_network_of(one, "iptables-legacy", "-t", "nat", "-S") + in_network_of(
            one, "iptables-nft", "-t", "nat", "-S"
        )
        assert REDIRECTS["legacy"] in rules
        check_traffic(where, one, wait_for_pod("outside", where))


@pytest.mark.parametrize("native", [False, True], ids=["container", "native"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_backend(injector: Injector, backend: str, *, native: bool) -> None:  # noqa: ARG001
    """The user's own fields of the init container are laid over the template's."""
    # Of an image without a tag the API server takes the policy to be Always.
    own = {
        "name": "istio-init",
        "image": "auto",
        "imagePullPolicy": "IfNotPresent",
        "env": BACKENDS[backend],
    }
    annotations = {**DEBUG, "sidecar.istio.io/nativeSidecar": str(native).lower()}
    with namespace(istio_injection="enabled") as where:
        opted_out = {"labels": {"sidecar.istio.io/inject": "false"}}
        kubectl("create", "-f", "-", "-n", where, given=pod("outside", opted_out))
        wanted = pod("web", {"annotations": annotations}, initContainers=[own])
        kubectl("create", "-f", "-", "-n", where, given=wanted)
        one = wait_for_pod("web", where)

        init = (
            ["istio-init", "istio-proxy", "app"] if native else ["istio-init", "app", "istio-proxy"]
        )
        assert names(one) == init
        rules = in_network_of(one, *SHOWN[backend])
        assert REDIRECTS[backend] in rules
        for other in BACKENDS.keys() - {backend, *(["nftables"] if backend == "nft" else [])}:
            assert REDIRECTS[other] not in in_network_of(one, *SHOWN[other])
        check_traffic(where, get("pod", "web", where), wait_for_pod("outside", where))
