"""check-inject says of a manifest what the cluster then does."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.cluster.injector import NAME, NAMESPACE
from tests.cluster.kubectl import kubectl, namespace
from tests.cluster.workloads import pod

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.injector import Injector
    from tests.cluster.kubectl import Object

INJECT = "sidecar.istio.io/inject"
WORDS: tuple[dict[str, str], ...] = ({}, {INJECT: "true"}, {INJECT: "false"})


def pods() -> list[Object]:
    """Return a pod for everything that a pod can say of itself."""
    said = product(WORDS, WORDS, (False, True))
    return [
        pod(
            f"web-{number}",
            {"labels": labels, "annotations": annotations},
            hostNetwork=host_network,
        )
        for number, (labels, annotations, host_network) in enumerate(said)
    ]


def answers(manifest: Path, where: str, *flags: str) -> dict[str, bool]:
    """Return for each pod of a manifest whether the program says that it would be injected."""
    command = (sys.executable, "-m", "istio_init", "check-inject", "--from-cluster", *flags)
    done = subprocess.run(
        [*command, "-f", manifest, "-n", where, "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    workloads = json.loads(done.stdout)["workloads"]
    return {one["where"]["name"]: one["injected"] for one in workloads}


def injected(manifest: Path, where: str) -> dict[str, bool]:
    """Return the same as the cluster has it; nothing is created."""
    command = ("create", "--dry-run=server", "-n", where, "-o", "json", "-f", manifest)
    text, created = kubectl(*command), []
    while text.strip():
        one, end = json.JSONDecoder().raw_decode(text.lstrip())
        text = text.lstrip()[end:]
        created.append(one)
    return {
        one["metadata"]["name"]: any(
            container["name"] == "istio-init" for container in one["spec"].get("initContainers", ())
        )
        for one in created
    }


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"istio_injection": "enabled"},
        {"istio_injection": "disabled"},
        {"istio_injection": "yes"},
        {"istio.io__rev": "default"},
        {"istio.io__rev": "other"},
        {"istio_injection": "enabled", "istio.io__rev": "other"},
    ],
)
def test_the_answer_is_what_the_cluster_does(
    injector: Injector, labels: dict[str, str], tmp_path: Path
) -> None:
    assert injector.replicas()
    manifest = tmp_path / "pods.json"
    items = {"apiVersion": "v1", "kind": "List", "items": pods()}
    manifest.write_text(json.dumps(items), encoding="utf-8")
    named = ("--istioNamespace", NAMESPACE, "--injectConfigMapName", NAME)

    with namespace(**labels) as where:
        expected = injected(manifest, where)

        assert len(expected) == len(pods())
        assert answers(manifest, where) == expected
        assert answers(manifest, where, *named) == expected
