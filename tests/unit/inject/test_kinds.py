"""Which objects carry a pod, in each generation, and where in them it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from istio_init.inject.generation import NEW, OLD
from istio_init.inject.kinds import ALL_PLACES, PLACES, pod_carriers
from istio_init.inject.problems import InjectionError

if TYPE_CHECKING:
    from istio_init.inject.generation import Generation
    from istio_init.inject.plain_data import PlainValue

_APPS = ("apps/v1", "apps/v1beta2", "apps/v1beta1", "extensions/v1beta1")
KNOWN = {
    ("v1", "Pod"),
    ("v1", "ReplicationController"),
    ("batch/v1", "Job"),
    *((version, "CronJob") for version in ("batch/v1", "batch/v1beta1", "batch/v2alpha1")),
    *((version, "DeploymentConfig") for version in ("apps.openshift.io/v1", "v1")),
    *((version, kind) for version in _APPS for kind in ("Deployment", "DaemonSet")),
    *((version, kind) for version in _APPS for kind in ("ReplicaSet", "StatefulSet")),
}


@pytest.mark.parametrize("places", [PLACES[OLD], PLACES[NEW], ALL_PLACES])
def test_both_generations_know_the_kinds_in_every_version(
    places: dict[tuple[str, str], object],
) -> None:
    assert set(places) == KNOWN


def with_template(version: str, kind: str) -> PlainValue:
    pod = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": "x", "namespace": "n"},
        "spec": {"template": pod},
    }


@pytest.mark.parametrize("generation", [OLD, NEW])
def test_metadata_and_spec_are_those_of_the_template(generation: Generation) -> None:
    for version, kind in PLACES[generation]:
        if kind in ("Pod", "CronJob"):
            continue
        document = with_template(version, kind)
        (carrier,) = pod_carriers(document, PLACES[generation])
        assert carrier.metadata == {"labels": {"a": "b"}}
        assert carrier.spec == {"containers": []}
        assert (carrier.where.workload, carrier.is_pod) == (f"{kind} n/x", False)
        new = carrier.replaced(document, {"labels": {}}, {"containers": [1]})
        assert new["spec"]["template"] == {"metadata": {"labels": {}}, "spec": {"containers": [1]}}
        assert document == with_template(version, kind)
        assert new["metadata"] is document["metadata"]


def test_a_pod_is_its_own_template() -> None:
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-"}, "spec": {}}
    (carrier,) = pod_carriers(document, PLACES[NEW])
    assert (carrier.is_pod, carrier.object_name) == (True, "p-")
    assert carrier.replaced(document, {"name": "p"}, {"a": 1}) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"a": 1},
    }


@pytest.mark.parametrize(("generation", "version"), [(OLD, "batch/v2alpha1"), (NEW, "batch/v1")])
def test_the_metadata_of_a_cron_job_is_the_jobs(generation: Generation, version: str) -> None:
    template = {"metadata": {"labels": {"of": "pods"}}, "spec": {"containers": []}}
    job = {"metadata": {"labels": {"of": "job"}}, "spec": {"template": template}}
    document = {"apiVersion": version, "kind": "CronJob", "spec": {"jobTemplate": job}}
    (carrier,) = pod_carriers(document, PLACES[generation])
    assert carrier.metadata == {"labels": {"of": "job"}}
    assert carrier.spec == {"containers": []}
    assert carrier.metadata_path == ("spec", "jobTemplate", "metadata")


OTHERS: tuple[PlainValue, ...] = (
    None,
    "text",
    [],
    {},
    {"kind": "Deployment"},
    {"apiVersion": 1, "kind": "Pod"},
    {"apiVersion": "apps/v2", "kind": "Deployment", "spec": 3},
    {"apiVersion": "v1", "kind": ["Pod"]},
    {"apiVersion": "v1", "kind": "List", "items": 3},
    {"apiVersion": "v1", "kind": "List", "items": [None, 1, {}]},
    {"apiVersion": "v1", "kind": "Service", "spec": {"template": {}}},
)


@pytest.mark.parametrize("document", OTHERS)
def test_everything_else_carries_no_pod(document: PlainValue) -> None:
    assert list(pod_carriers(document, PLACES[NEW])) == []


def test_lists_may_hold_lists() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"a": 1}}
    inner = {"apiVersion": "v1", "kind": "List", "items": [1, pod]}
    outer = {"apiVersion": "v1", "kind": "List", "items": [pod, inner]}
    first, second = pod_carriers(outer, PLACES[NEW])
    assert (first.path, second.path) == (("items", 0), ("items", 1, "items", 1))
    new = second.replaced(outer, second.metadata, {"b": 2})
    assert new["items"][1]["items"] == [1, {**pod, "spec": {"b": 2}}]
    assert new["items"][0] is pod


def test_what_is_missing_is_empty_and_stays_away() -> None:
    document = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": None}}
    (carrier,) = pod_carriers(document, PLACES[NEW])
    assert (carrier.metadata, carrier.spec) == ({}, {})
    assert carrier.replaced(document, {}, {"a": 1})["spec"] == {"template": {"spec": {"a": 1}}}


def test_a_replication_controller_without_template_is_refused() -> None:
    document = {"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "rc"}}
    for spec in (None, {}, {"template": None}):
        with pytest.raises(InjectionError, match="ReplicationController rc: no pod template"):
            list(pod_carriers({**document, "spec": spec}, PLACES[NEW]))


@pytest.mark.parametrize(
    "spec", [3, {"template": []}, {"template": {"spec": "x"}}, {"template": {"metadata": [1]}}]
)
def test_a_template_of_another_type_is_refused(spec: PlainValue) -> None:
    document = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": spec}
    with pytest.raises(InjectionError, match="not a map"):
        list(pod_carriers(document, PLACES[NEW]))
