"""An application, in every form in which people have theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.cluster.images import BUSYBOX

if TYPE_CHECKING:
    from tests.cluster.kubectl import Object

PORT = 8080
# It says its name, and in its log the address of whoever asks.
SERVE = "mkdir /tmp/www && hostname >/tmp/www/index.html && exec httpd -f -v -p {port} -h /tmp/www"


def app(**changes: Any) -> Object:  # noqa: ANN401 - whatever a container has
    """Return the container of an application that serves HTTP."""
    return {
        "name": "app",
        "image": BUSYBOX,
        "command": ["/bin/sh", "-c", SERVE.format(port=PORT)],
        "ports": [{"containerPort": PORT}],
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000},
        **changes,
    }


def pod_spec(**changes: Any) -> Object:  # noqa: ANN401 - whatever a pod has
    """Return the pod of an application, which ends at once when it is told to."""
    return {"terminationGracePeriodSeconds": 0, "containers": [app()], **changes}


def pod(name: str = "web", metadata: Object | None = None, **changes: Any) -> Object:  # noqa: ANN401
    """Return a pod of its own."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **(metadata or {})},
        "spec": pod_spec(**changes),
    }


def job_spec() -> Object:
    """Return the pod of a job: it asks itself once, and is done."""
    return pod_spec(
        restartPolicy="Never",
        containers=[app(command=["/bin/sh", "-c", "echo done"], ports=[])],
    )


def workload(kind: str, name: str = "web", template: Object | None = None) -> Object:
    """Return a workload; ``template`` is of its pods, metadata and spec."""
    labels = {"app": name}
    pods: Object = {"metadata": {"labels": labels}, "spec": pod_spec()}
    if kind in ("Job", "CronJob"):
        pods = {"metadata": {}, "spec": job_spec()}
    pods = {**pods, **(template or {})}
    selected = {"selector": {"matchLabels": labels}, "template": pods}
    job = {"spec": {"template": pods}}
    version, spec = {
        "Deployment": ("apps/v1", selected),
        "ReplicaSet": ("apps/v1", selected),
        "StatefulSet": ("apps/v1", {**selected, "serviceName": name}),
        "DaemonSet": ("apps/v1", selected),
        "ReplicationController": ("v1", {"selector": labels, "template": pods}),
        "Job": ("batch/v1", {"template": pods, "backoffLimit": 0}),
        "CronJob": ("batch/v1", {"schedule": "* * * * *", "jobTemplate": job}),
    }[kind]
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}
