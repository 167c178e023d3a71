"""The audit of a node, as its DaemonSet, over pods that the webhook has injected."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.cluster.images import SOCKET
from tests.cluster.kubectl import (
    get,
    in_network_of,
    kubectl,
    namespace,
    pods,
    run,
    wait_for_pod,
)
from tests.cluster.process import call, wait_until
from tests.cluster.test_story import DEBUG, check_traffic
from tests.cluster.workloads import pod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.injector import Injector
    from tests.cluster.kubectl import Object

MANIFEST = Path(__file__).parents[2] / "container/kubernetes/audit.yaml"
# In place of a folder of the machine's own disk.
METRICS = Path("/run/textfile_collector")
OPTED_OUT = {"labels": {"sidecar.istio.io/inject": "false"}}


@pytest.fixture
def auditor() -> Iterator[str]:
    """Give the pod that audits the node."""
    (daemon_set,) = yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))
    (volume,) = daemon_set["spec"]["template"]["spec"]["volumes"]
    volume["hostPath"]["path"] = str(METRICS)
    with namespace() as where:
        kubectl("create", "-n", where, "-f", "-", given=daemon_set)
        kubectl("rollout", "status", "daemonset/istio-init-audit", "-n", where, "--timeout=60s")
        (one,) = pods(where)
        yield f"{where}/{one['metadata']['name']}"


def audit(auditor: str, column: str = "verdict") -> tuple[int, dict[str, str]]:
    """Return the exit code of an audit, and its verdict on each pod, or something else of it."""
    where, name = auditor.split("/")
    done = run("exec", "-n", where, name, "--", "istio-init", "audit", "--all", "--format", "json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {row["pod"]: row[column] for row in rows}


def restart_sandbox(one: Object) -> None:
    """End the process that keeps a pod's namespaces."""
    uid = one["metadata"]["uid"]
    for line in call("ctr", "--address", SOCKET, "-n", "k8s.io", "tasks", "list").splitlines()[1:]:
        process = line.split()[1]
        command = Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8")
        if uid in Path(f"/proc/{process}/cgroup").read_text(encoding="utf-8") and (
            command.startswith("/pause")
        ):
            os.kill(int(process), signal.SIGKILL)
            return
    raise AssertionError("there is no sandbox of this pod")


def test_the_node(injector: Injector, auditor: str) -> None:  # noqa: ARG001 - installed
    with namespace(istio_injection="enabled") as where:
        kubectl("create", "-n", where, "-f", "-", given=pod("outside", OPTED_OUT))
        for name in ("good", "tampered"):
            metadata = {"annotations": DEBUG}
            kubectl("create", "-n", where, "-f", "-", given=pod(name, metadata))
        outside = wait_for_pod("outside", where)
        good, tampered = (wait_for_pod(name, where) for name in ("good", "tampered"))

        code, verdicts = audit(auditor)
        assert verdicts["good"] == verdicts["tampered"] == "ok"
        assert verdicts["outside"] == "none"
        assert code == 0
        wait_until("metrics are there", (METRICS / "istio_init.prom").exists)

        _, backends = audit(auditor, "backend")
        iptables = f"iptables-{backends['tampered']}"
        in_network_of(tampered, iptables, "-t", "nat", "-D", "ISTIO_OUTPUT", "1")
        code, verdicts = audit(auditor)
        assert (verdicts["good"], verdicts["tampered"]) == ("ok", "drift")
        assert code == 3

        # Whatever has become of its rules, with its namespace they are gone, and made again.
        restart_sandbox(tampered)
        before = tampered["metadata"]["uid"], tampered["status"]["podIP"]

        def is_back() -> bool:
            found = get("pod", "tampered", where)
            ready = {c["type"]: c["status"] for c in found["status"]["conditions"]}["Ready"]
            restarts = [c["restartCount"] for c in found["status"]["containerStatuses"]]
            return bool(ready == "True" and min(restarts) > 0)

        wait_until("the sandbox is another one", is_back)
        again = get("pod", "tampered", where)
        assert again["metadata"]["uid"] == before[0]
        code, verdicts = audit(auditor)
        assert verdicts["tampered"] == "ok"
        check_traffic(where, again, outside)
        check_traffic(where, good, outside)
