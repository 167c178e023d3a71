"""What a test asks of the cluster, by kubectl, as a person would."""

from __future__ import annotations

import itertools
import json
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.cluster.images import SOCKET
from tests.cluster.process import call, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from subprocess import CompletedProcess

    Object = dict[str, Any]

_numbers = itertools.count()


def run(*arguments: str | Path, given: object = None) -> CompletedProcess[str]:
    """Run kubectl; objects are given to it on its input."""
    text = None if given is None else json.dumps(given)
    return subprocess.run(
        ["kubectl", *arguments],
        input=text,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        text=True,
        check=False,
    )


def kubectl(*arguments: str | Path, given: object = None) -> str:
    """Return what kubectl prints; a failure of it is one of the test."""
    done = run(*arguments, given=given)
    assert done.returncode == 0, f"kubectl {' '.join(map(str, arguments))}: {done.stderr}"
    return done.stdout


def get(kind: str, name: str, namespace: str = "default") -> Object:
    """Return an object."""
    found: Object = json.loads(kubectl("get", kind, name, "-n", namespace, "-o", "json"))
    return found


def pods(namespace: str, *arguments: str) -> list[Object]:
    """Return the pods of a namespace, those that are being deleted excepted."""
    listed = json.loads(kubectl("get", "pods", "-n", namespace, "-o", "json", *arguments))
    return [pod for pod in listed["items"] if "deletionTimestamp" not in pod["metadata"]]


@contextmanager
def namespace(**labels: str) -> Iterator[str]:
    """Give a namespace for the length of a ``with`` block; ``istio_injection`` has a hyphen."""
    name = f"test-{next(_numbers)}"
    own = {key.replace("_", "-"): value for key, value in labels.items()}
    make_namespace(name, own)
    try:
        yield name
    finally:
        # Not waited for: it takes as long as the slowest of its containers.
        kubectl("delete", "namespace", name, "--wait=false")
        run("delete", "pods", "-n", name, "--all", "--force", "--grace-period=0", "--wait=false")


def make_namespace(name: str, labels: dict[str, str]) -> None:
    """Create a namespace, and wait until pods can be created in it."""
    metadata = {"name": name, "labels": labels}
    kubectl(
        "create", "-f", "-", given={"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    )
    account = ("get", "serviceaccount", "default", "-n", name)
    wait_until(f"service account of {name}", lambda: run(*account).returncode == 0)


def wait_for_pod(name: str, where: str, condition: str = "Ready", seconds: int = 60) -> Object:
    """Wait for a pod, and return it."""
    done = run(
        "wait", "-n", where, f"pod/{name}", f"--for=condition={condition}", f"--timeout={seconds}s"
    )
    assert done.returncode == 0, (
        f"{done.stderr}\n{run('describe', 'pod', '-n', where, name).stdout}"
    )
    return get("pod", name, where)


def processes(container: str) -> int:
    """Return a process of a container, by its name as the pod's status has it."""
    listed = call("ctr", "--address", SOCKET, "--namespace", "k8s.io", "tasks", "list")
    identifier = container.removeprefix("containerd://")
    for line in listed.splitlines()[1:]:
        name, process, _ = line.split(maxsplit=2)
        if name == identifier:
            return int(process)
    raise AssertionError(f"{container} does not run:\n{listed}")


def container_process(pod: Object, name: str) -> int:
    """Return a process of a container of a pod."""
    statuses = pod["status"]["containerStatuses"]
    return processes(next(one["containerID"] for one in statuses if one["name"] == name))


def in_network_of(pod: Object, *command: str) -> str:
    """Return what a program of the node prints in the network namespace of a pod."""
    running = next(
        status["containerID"]
        for status in pod["status"]["containerStatuses"]
        if "running" in status["state"]
    )
    return call("nsenter", f"--target={processes(running)}", "--net", "--", *command)


def container(pod: Object, name: str) -> Object:
    """Return a container of a pod, init containers included."""
    found: Object = next(one for one in containers(pod) if one["name"] == name)
    return found


def containers(pod: Object) -> list[Object]:
    """Return all containers of a pod, init containers first."""
    spec = pod["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


def names(pod: Object) -> list[str]:
    """Return the names of all containers of a pod, init containers first."""
    return [one["name"] for one in containers(pod)]


def execute(pod: str, where: str, *command: str, container: str = "app") -> CompletedProcess[str]:
    """Run a command in a container."""
    return run("exec", "-n", where, pod, "-c", container, "--", *command)


def events(where: str, reason: str) -> Sequence[Object]:
    """Return the events of a namespace that have a reason."""
    listed = json.loads(
        kubectl("get", "events", "-n", where, f"--field-selector=reason={reason}", "-o", "json")
    )
    found: Sequence[Object] = listed["items"]
    return found
