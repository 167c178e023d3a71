"""The webhook in the cluster."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tests.cluster.kubectl import kubectl, namespace, pods, run
from tests.cluster.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        shown = run(
            *("create", "--dry-run=server", "-n", where, "-f", "-"),
            *("-o", "jsonpath={.spec.initContainers[*].name}"),
            given=PROBE,
        )
        return "istio-init" in shown.stdout

    def is_called(self) -> bool:
        """Say whether a replica is there for the API server to call."""
        slices = json.loads(
            kubectl(
                *("get", "endpointslices", "-n", NAMESPACE, "-o", "json"),
                *("-l", f"kubernetes.io/service-name={NAME}"),
            )
        )
        return any(one.get("endpoints") for one in slices["items"])

    def configuration(self) -> dict[str, str]:
        """Return the configuration as the manifests have it."""
        text = (MANIFESTS / "configuration.yaml").read_text(encoding="utf-8")
        data: dict[str, str] = yaml.safe_load(text)["data"]
        return data

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
            for which in ("--previous", "--previous=false"):
                sys.stderr.write(run("logs", "-n", NAMESPACE, name, which).stdout)


@contextmanager
def restored_registrations() -> Iterator[None]:
    """Leave the API server to a test's own webhook; afterwards register the installed one."""
    yield
    if run("get", "deployment", "-n", NAMESPACE, NAME).returncode == 0:
        Injector().install()
