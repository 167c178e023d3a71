"""What becomes of a pod, and what its creator is told."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from istio_init.inject.admission import BAD_ANNOTATION, BAD_POD, admit_by_files
from istio_init.inject.webhook import Admission, AdmissionRequest, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

APP = {"name": "app", "image": "app:1"}


@cache
def admit() -> Callable[[AdmissionRequest], Admission]:
    return admit_by_files(None, None, None, revision="", environment={})


def admission(
    metadata: dict[str, Any] | None = None,
    namespace: str = "shop",
    **spec: Any,  # noqa: ANN401 - of a pod
) -> Admission:
    pod = {"metadata": metadata or {"name": "web"}, "spec": {"containers": [APP], **spec}}
    return admit()(AdmissionRequest("1", pod, namespace))


def test_an_injected_pod() -> None:
    found = admission()

    assert (found.outcome, found.reason) == (Outcome.INJECTED, "policy-enabled")
    assert found.warnings == ()
    assert found.pod is not None
    assert [one["name"] for one in found.pod["spec"]["containers"]] == ["app", "istio-proxy"]


SKIPPED: dict[str, tuple[dict[str, Any], str]] = {
    "host-network": ({"hostNetwork": True}, "host network"),
    "reserved-namespace": ({"namespace": "kube-system"}, "kube-system"),
    "annotation-false": (
        {"metadata": {"annotations": {"sidecar.istio.io/inject": "false"}}},
        "annotation sidecar.istio.io/inject",
    ),
    "label-false": (
        {"metadata": {"labels": {"sidecar.istio.io/inject": "false"}}},
        "label sidecar.istio.io/inject",
    ),
}


@pytest.mark.parametrize("reason", SKIPPED)
def test_a_pod_that_is_let_through_says_why_and_what_to_do(reason: str) -> None:
    settings, why = SKIPPED[reason]
    found = admission(**settings)

    assert (found.outcome, found.reason, found.pod) == (Outcome.SKIPPED, reason, None)
    assert found.message.startswith("not injected: ")
    assert why in found.message
    assert found.warnings[0] == found.message


def test_a_bad_policy_lets_everybody_through() -> None:
    text = "policy: always\ntemplates: {sidecar: ''}\n"
    own = admit_by_files((text, "config"), None, None, revision="", environment={})
    pod = {"metadata": {"name": "web"}, "spec": {"containers": [APP]}}
    found = own(AdmissionRequest("1", pod, "shop"))

    assert (found.outcome, found.reason) == (Outcome.SKIPPED, "policy-invalid")
    assert "always" in found.message


def test_a_refused_pod_names_every_annotation() -> None:
    bad = {
        "traffic.sidecar.istio.io/excludeInboundPorts": "70000",
        "sidecar.istio.io/interceptionMode": "redirect",
    }
    found = admission({"name": "web", "annotations": bad})

    assert (found.outcome, found.reason, found.pod) == (Outcome.REFUSED, BAD_ANNOTATION, None)
    for key, value in bad.items():
        assert key in found.message
        assert value in found.message


def test_a_pod_that_is_no_pod() -> None:
    found = admission(initContainers=[{"name": "istio-init", "env": 3}])

    assert (found.outcome, found.reason) == (Outcome.REFUSED, BAD_POD)


def test_what_will_not_work_is_a_warning() -> None:
    found = admission(securityContext={"runAsUser": 1337})

    assert found.outcome is Outcome.INJECTED
    (warning,) = found.warnings
    assert "bypasses the proxy" in warning


def test_a_job_that_never_ends_is_a_warning() -> None:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "once", "uid": "1"}
    metadata = {"generateName": "once-", "ownerReferences": [{**owner, "controller": True}]}
    found = admission(metadata, restartPolicy="Never")

    assert found.outcome is Outcome.INJECTED
    assert "never completes" in " ".join(found.warnings)
