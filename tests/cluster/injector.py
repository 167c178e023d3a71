"""The webhook in the cluster."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.cluster.kubectl import kubectl, namespace, pods, run
from tests.cluster.process import wait_until

MANIFESTS = Path(__file__).parents[2] / "container/kubernetes/injector"
NAMESPACE = "istio-init"
NAME = "istio-init-injector"
PROBE = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "probe"},
    "spec": {"containers": [{"name": "app", "image": "app:1"}]},
}


class Injector:
    """The webhook as its manifests install it."""

    def install(self) -> None:
        """Do what a person does, and wait until pods are injected."""
        kubectl("apply", "-k", MANIFESTS)
        self.wait()
        with namespace(istio_injection="enabled") as where:
            wait_until("the API server calls the webhook", lambda: self.injects(where))

    def wait(self) -> None:
        """Wait for all replicas."""
        done = run("rollout", "status", "deployment", NAME, "-n", NAMESPACE, "--timeout=90s")
        if done.returncode:
            self.show_logs()
            describe = run("describe", "pods", "-n", NAMESPACE).stdout
            raise AssertionError(f"{done.stderr}\n{describe}")

    def injects(self, where: str) -> bool:
        """Say whether a pod of a namespace would be injected now."""
        done = run("create", "--dry-run=server", "-n", where, "-o", "name", "-f", "-", given=PROBE)
        shown = run(
            *("create", "--dry-run=server", "-n", where, "-f", "-"),
            *("-o", "jsonpath={.spec.initContainers[*].name}"),
            given=PROBE,
        )
        return done.returncode == 0 and "istio-init" in shown.stdout

    def replicas(self) -> list[str]:
        """Return the names of the pods that are to serve."""
        return [pod["metadata"]["name"] for pod in pods(NAMESPACE, "-l", f"app={NAME}")]

    def get(self, replica: str, path: str, port: int = 15014) -> str:
        """Return what a replica answers to a request for health or metrics."""
        return run(
            *("get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{replica}:{port}/proxy{path}")
        ).stdout

    def show_logs(self) -> None:
        """Print what the replicas say, for whoever reads a failure."""
        for name in self.replicas():
            sys.stderr.write(run("logs", "-n", NAMESPACE, name).stdout)
