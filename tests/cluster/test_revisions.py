"""Two injectors side by side, as for an upgrade: a label decides whose a pod is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.cluster.injector import MANIFESTS, NAMESPACE
from tests.cluster.kubectl import kubectl, namespace, run
from tests.cluster.process import wait_until
from tests.cluster.workloads import pod

if TYPE_CHECKING:
    from tests.cluster.injector import Injector

CANARY = MANIFESTS.with_name("injector-revision")
STATUS = "sidecar.istio.io/status"


def revision_of(where: str, own: dict[str, str] | None = None) -> str:
    """Return the revision that would inject a pod, or ``""``."""
    done = run(
        *("create", "--dry-run=server", "-n", where, "-o", "json", "-f", "-"),
        given=pod("web", {"labels": own or {}}),
    )
    if done.returncode:
        return ""
    annotations = json.loads(done.stdout)["metadata"].get("annotations", {})
    return str(json.loads(annotations.get(STATUS, "{}")).get("revision", ""))


def test_a_second_revision(injector: Injector) -> None:  # noqa: ARG001 - installed
    kubectl("apply", "-k", CANARY)
    rollout = ("rollout", "status", "deployment/istio-init-injector-canary", "-n", NAMESPACE)
    try:
        kubectl(*rollout, "--timeout=90s")
        with (
            namespace(istio_injection="enabled") as default,
            namespace(**{"istio.io/rev": "canary"}) as canary,
            namespace() as unlabelled,
        ):
            wait_until("canary injects", lambda: revision_of(canary) == "canary")
            assert revision_of(default) == "default"
            # The namespace's word counts, not the pod's.
            assert revision_of(default, {"istio.io/rev": "canary"}) == "default"
            assert revision_of(unlabelled) == ""
            assert revision_of(unlabelled, {"istio.io/rev": "canary"}) == "canary"
            kubectl("label", "namespace", default, "istio-injection-", "istio.io/rev=canary")
            wait_until("the namespace has moved", lambda: revision_of(default) == "canary")
    finally:
        kubectl("delete", "deployment", "istio-init-injector-canary", "-n", NAMESPACE)
        kubectl("delete", "mutatingwebhookconfiguration", "istio-init-injector-canary")


def test_a_tag_is_a_registration() -> None:
    shown = kubectl("apply", "--dry-run=server", "-k", MANIFESTS.with_name("injector-tag"))

    assert shown == (
        "mutatingwebhookconfiguration.admissionregistration.k8s.io/istio-init-tag-prod created "
        "(server dry run)\n"
    )
