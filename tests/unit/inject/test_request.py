"""What a request names: the workload behind a pod, and the variables in the URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from istio_init.inject.request import PodRequest, Workload, environment_of_path, workload_of

if TYPE_CHECKING:
    from typing import Any


def owner(kind: str, name: str, version: str = "apps/v1", **fields: object) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "name": name, "controller": True, **fields}


@pytest.mark.parametrize(
    ("labels", "reference", "workload"),
    [
        ({}, owner("ReplicaSet", "web-6b"), ("apps/v1", "ReplicaSet", "web-6b")),
        (
            {"pod-template-hash": "6b"},
            owner("ReplicaSet", "web-6b"),
            ("apps/v1", "Deployment", "web"),
        ),
        (
            {"pod-template-hash": "7c"},
            owner("ReplicaSet", "web-6b"),
            ("apps/v1", "ReplicaSet", "web-6b"),
        ),
        (
            {"rollouts-pod-template-hash": "6b"},
            owner("ReplicaSet", "web-6b"),
            ("v1alpha1", "Rollout", "web"),
        ),
        (
            {"deploymentconfig": "web"},
            owner("ReplicationController", "web-1", "v1"),
            ("v1", "DeploymentConfig", "web"),
        ),
        ({}, owner("Job", "report-1700000000", "batch/v1"), ("batch/v1", "CronJob", "report")),
        ({}, owner("Job", "report-17", "batch/v1"), ("batch/v1", "Job", "report-17")),
        ({}, owner("StatefulSet", "db"), ("apps/v1", "StatefulSet", "db")),
        ({}, owner("StatefulSet", "db", controller=False), ("v1", "Pod", "")),
        ({}, "nobody", ("v1", "Pod", "")),
    ],
)
def test_a_pod_of_a_controller_is_the_controllers(
    labels: dict[str, str], reference: object, workload: tuple[str, str, str]
) -> None:
    metadata = {"generateName": "x-", "labels": labels, "ownerReferences": [reference]}
    request = PodRequest(metadata, {}, namespace="ns")
    assert workload_of(request) == Workload(*workload, "ns")


def test_a_pod_with_a_name_is_its_own() -> None:
    metadata = {"name": "a", "namespace": "own", "ownerReferences": [owner("Job", "b")]}
    assert workload_of(PodRequest(metadata, {}, namespace="ns")) == Workload(
        "v1", "Pod", "a", "own"
    )


def test_a_template_belongs_to_what_is_around_it() -> None:
    outer = Workload("apps/v1", "Deployment", "web", "shop")
    assert workload_of(PodRequest({"name": "x"}, {}, workload=outer)) is outer


@pytest.mark.parametrize(
    ("path", "variables"),
    [
        ("/inject", {}),
        ("/inject/", {}),
        ("/", {}),
        ("", {}),
        (
            "/inject/cluster/c-9/net/n1",
            {"ISTIO_META_CLUSTER_ID": "c-9", "ISTIO_META_NETWORK": "n1"},
        ),
        ("/inject/cluster/a--slash--b/", {"ISTIO_META_CLUSTER_ID": "a/b"}),
        ("/inject/foo/1/odd", {"FOO": "1"}),
        ("/inject/net", {}),
        (
            "/inject/:ENV:cluster=c:ENV:foo=:ENV:=x:ENV:bar",
            {"ISTIO_META_CLUSTER_ID": "c", "FOO": ""},
        ),
    ],
)
def test_variables_of_a_path(path: str, variables: dict[str, str]) -> None:
    assert environment_of_path(path) == variables
