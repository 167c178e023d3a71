"""Every kind of workload, and what becomes of pods that are wrong."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.kubectl import (
    container,
    events,
    get,
    kubectl,
    names,
    namespace,
    pods,
    run,
    wait_for_pod,
)
from tests.cluster.process import wait_until
from tests.cluster.workloads import job_spec, pod, workload

if TYPE_CHECKING:
    from tests.cluster.injector import Injector
    from tests.cluster.kubectl import Object

NATIVE = {"sidecar.istio.io/nativeSidecar": "true"}
KINDS = ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "ReplicationController")
# What the API server and the kubelet add to a pod that is stored.
STORED = ("creationTimestamp", "generation", "uid", "resourceVersion", "managedFields", "namespace")


def ready_pods(where: str) -> list[Object]:
    """Return the pods of a namespace, once there are some and all are ready."""
    found = pods(where)
    for one in found:
        conditions = {c["type"]: c["status"] for c in one["status"].get("conditions", ())}
        if conditions.get("Ready") != "True":
            return []
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_workloads_that_serve(injector: Injector, kind: str) -> None:  # noqa: ARG001 - installed
    with namespace(istio_injection="enabled") as where:
        kubectl("apply", "-n", where, "-f", "-", given=workload(kind))
        (one,) = wait_until(f"{kind} is ready", lambda: ready_pods(where))
        assert names(one) == ["istio-init", "app", "istio-proxy"]


@pytest.mark.parametrize("kind", ["Job", "CronJob"])
def test_workloads_that_end(injector: Injector, kind: str) -> None:  # noqa: ARG001 - installed
    """A native sidecar ends with the application, so that the job does."""
    template = {"metadata": {"annotations": NATIVE}, "spec": job_spec()}
    with namespace(istio_injection="enabled") as where:
        kubectl("apply", "-n", where, "-f", "-", given=workload(kind, template=template))
        if kind == "CronJob":
            kubectl("create", "job", "web", "--from=cronjob/web", "-n", where)
        kubectl("wait", "-n", where, "job/web", "--for=condition=Complete", "--timeout=60s")
        (one,) = [pod for pod in pods(where) if pod["metadata"]["name"].startswith("web-")]
        assert names(one) == ["istio-init", "istio-proxy", "app"]
        assert kubectl("logs", "-n", where, one["metadata"]["name"], "-c", "app") == "done\n"


def test_a_bad_annotation_is_refused_with_every_reason(injector: Injector) -> None:  # noqa: ARG001
    bad = {
        "traffic.sidecar.istio.io/excludeOutboundIPRanges": "10.0.0.0/8, x",
        "traffic.sidecar.istio.io/excludeInboundPorts": "70000",
        "sidecar.istio.io/interceptionMode": "redirect",
    }
    with namespace(istio_injection="enabled") as where:
        done = run("apply", "-n", where, "-f", "-", given=pod("web", {"annotations": bad}))
        assert done.returncode == 1
        assert "denied the request" in done.stderr
        for key, value in bad.items():
            assert key in done.stderr
            assert value in done.stderr
        # Of a Deployment the ReplicaSet says it.
        template = workload("Deployment")["spec"]["template"]
        template["metadata"]["annotations"] = bad
        kubectl("apply", "-n", where, "-f", "-", given=workload("Deployment", template=template))

        def refusals() -> list[Object]:
            return [one for one in events(where, "InjectionRefused") if is_about_owner(one)]

        (event, *_) = wait_until("an event about the ReplicaSet", refusals)
        for key in bad:
            assert key in event["message"]


def is_about_owner(event: Object) -> bool:
    return bool(event["involvedObject"]["kind"] == "ReplicaSet")


def test_a_bad_flag_ends_in_the_pods_status(injector: Injector) -> None:  # noqa: ARG001 - installed
    """What the webhook cannot see, the user's own word on the init container, the pod says."""
    own = {
        "name": "istio-init",
        "image": "auto",
        "imagePullPolicy": "IfNotPresent",
        "args": ["istio-iptables", "-b", "70000"],
    }
    with namespace(istio_injection="enabled") as where:
        bare = pod("web", restartPolicy="Never", initContainers=[own])
        kubectl("create", "-n", where, "-f", "-", given=bare)

        def ended() -> Object | None:
            (status, *_) = get("pod", "web", where)["status"].get("initContainerStatuses", [{}])
            found: Object | None = status.get("state", {}).get("terminated")
            return found

        state = wait_until("the init container has ended", ended)
        assert state["exitCode"] == 2
        assert "-b" in state["message"]
        assert "'70000'" in state["message"]
        assert "Init:Error" in kubectl("get", "pods", "-n", where)


def test_pod_security_refuses_what_the_init_container_needs(injector: Injector) -> None:  # noqa: ARG001
    """The way out, as the documentation says: the namespace is privileged, or CNI does it."""
    with namespace(istio_injection="enabled") as where:
        kubectl("label", "namespace", where, "pod-security.kubernetes.io/enforce=baseline")
        done = run("create", "-n", where, "-f", "-", given=pod())
        assert done.returncode == 1
        assert 'violates PodSecurity "baseline:latest": non-default capabilities' in done.stderr
        assert "NET_ADMIN" in done.stderr
        kubectl(
            *("label", "namespace", where, "--overwrite"),
            "pod-security.kubernetes.io/enforce=privileged",
        )
        kubectl("create", "-n", where, "-f", "-", given=pod())


SKIPPED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "host network": ({}, {"hostNetwork": True}, "host network"),
    "annotation": ({"annotations": {"sidecar.istio.io/inject": "false"}}, {}, "is false"),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_who_is_not_injected_learns_why(injector: Injector, name: str) -> None:
    metadata, spec, why = SKIPPED[name]
    with namespace(istio_injection="enabled") as where:
        own = pod("web", metadata, **spec)
        dry = run("create", "-n", where, "--dry-run=server", "-f", "-", given=own)
        assert "Warning: not injected:" in dry.stderr
        done = run("create", "-n", where, "-f", "-", given=own)
        assert done.returncode == 0
        assert "Warning: not injected:" in done.stderr
        assert why in done.stderr
        assert names(get("pod", "web", where)) == ["app"]
        (event,) = wait_until("an event", lambda: events(where, "NotInjected"))
        assert why in event["message"]
        assert event["involvedObject"]["name"] == "web"
        # The dry run wrote none.
        assert event["count"] == 1
        logs = "".join(kubectl("logs", "-n", "istio-init", one) for one in injector.replicas())
        assert f"Pod {where}/web: skipped: not injected:" in logs
        reasons = [injector.get(one, "/metrics") for one in injector.replicas()]
        assert any("sidecar_injection_skip_total{reason=" in one for one in reasons)


def as_created(stored: Object) -> Object:
    """Return a stored pod as it was created, without what the cluster has added."""
    metadata = {k: v for k, v in stored["metadata"].items() if k not in STORED}
    spec = {k: v for k, v in stored["spec"].items() if k != "nodeName"}
    return {"metadata": metadata, "spec": spec}


def test_by_hand_it_is_the_same_pod(injector: Injector) -> None:  # noqa: ARG001 - installed
    """`istio-init inject` writes what the webhook would have, and the webhook leaves it alone."""
    manifest = json.dumps(pod())
    by_hand = subprocess.run(
        ["istio-init", "inject", "-f", "-"],
        input=manifest,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    create = ("create", "--dry-run=server", "-o", "json", "-f", "-")
    with namespace(istio_injection="enabled") as where, namespace() as unlabelled:
        by_webhook = json.loads(kubectl(*create, "-n", where, given=pod()))
        stored = subprocess.run(
            ["kubectl", *create, "-n", unlabelled],
            input=by_hand,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        again = subprocess.run(
            ["kubectl", *create, "-n", where],
            input=by_hand,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert without_token(json.loads(stored)) == without_token(by_webhook)
        assert without_token(json.loads(again)) == without_token(by_webhook)


def without_token(stored: Object) -> Object:
    """Return a pod without the volume of its service account, whose name is drawn anew."""
    found = as_created(stored)
    (token,) = [v["name"] for v in found["spec"]["volumes"] if v["name"].startswith("kube-api-")]
    text = json.dumps(found).replace(token, "kube-api-access")
    replaced: Object = json.loads(text)
    return replaced


def test_a_second_webhook_after_ours(injector: Injector) -> None:  # noqa: ARG001 - installed
    """Our own pod, created once more as it is stored, changes in nothing."""
    with namespace(istio_injection="enabled") as where:
        kubectl("create", "-n", where, "-f", "-", given=pod())
        once = wait_for_pod("web", where)
        copy = {"apiVersion": "v1", "kind": "Pod", **as_created(once)}
        copy["metadata"]["name"] = "copy"
        create = ("create", "-n", where, "--dry-run=server", "-o", "json", "-f", "-")
        twice = json.loads(kubectl(*create, given=copy))
        assert twice["spec"]["containers"] == once["spec"]["containers"]
        assert twice["spec"]["initContainers"] == once["spec"]["initContainers"]
        assert container(twice, "istio-init")["image"].startswith("istio-init:")
