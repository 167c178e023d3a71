"""MeshConfig and ProxyConfig of both generations."""

from __future__ import annotations

import pytest

from istio_init.inject.generation import GENERATIONS, NEW, OLD, Generation
from istio_init.inject.mesh import (
    merge_proxy_config,
    mesh_config,
    proxy_config,
    with_proxy_config,
)
from istio_init.inject.problems import InjectionError, Where


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("data", [None, {}, {"defaultConfig": None}, {"defaultConfig": {}}])
def test_without_settings_the_defaults_remain(generation: Generation, data: object) -> None:
    assert mesh_config(data, generation) == mesh_config(None, generation)


def test_the_defaults_of_1_30() -> None:
    mesh = mesh_config(None, NEW)
    proxy = mesh["defaultConfig"]
    assert (mesh["proxyListenPort"], mesh["proxyInboundListenPort"]) == (15001, 15006)
    assert mesh["enablePrometheusMerge"] is True
    assert (proxy["statusPort"], proxy["drainDuration"]) == (15020, "45s")
    assert "concurrency" not in proxy
    assert "interceptionMode" not in proxy


def test_the_defaults_of_1_0() -> None:
    mesh = mesh_config(None, OLD)
    assert mesh["proxyListenPort"] == 15001
    assert mesh["defaultConfig"]["discoveryAddress"] == "istio-pilot:15007"
    assert mesh["defaultConfig"]["interceptionMode"] == "REDIRECT"


def test_a_given_field_replaces_and_metadata_is_merged() -> None:
    old = {"proxyMetadata": {"A": "1", "B": "1"}, "image": {"imageType": "debug"}, "meshId": "m"}
    new = {"proxyMetadata": {"B": "2"}, "image": {}}
    assert merge_proxy_config(old, new) == {
        "proxyMetadata": {"A": "1", "B": "2"},
        "image": {},
        "meshId": "m",
    }


def test_the_later_name_of_a_service_counts() -> None:
    merged = merge_proxy_config(
        {"serviceCluster": "a"}, {"tracingServiceName": "CANONICAL_NAME_ONLY"}
    )
    assert merged == {"tracingServiceName": "CANONICAL_NAME_ONLY"}


def test_providers_are_merged_by_name() -> None:
    mesh = mesh_config(
        {"extensionProviders": [{"name": "envoy", "prometheus": {}}, {"name": "own"}]}, NEW
    )
    names = [provider["name"] for provider in mesh["extensionProviders"]]
    assert names == ["prometheus", "stackdriver", "envoy", "own"]
    assert mesh["extensionProviders"][2] == {"name": "envoy", "prometheus": {}}


def test_1_30_passes_over_unknown_fields_and_1_0_refuses_them() -> None:
    assert mesh_config({"someField": 1}, NEW) == mesh_config(None, NEW)
    assert (
        "nosuchfield"
        not in mesh_config({"defaultConfig": {"nosuchfield": 1}}, NEW)["defaultConfig"]
    )
    with pytest.raises(InjectionError) as refused:
        mesh_config({"someField": 1, "defaultConfig": {"statusPort": 1}}, OLD)
    assert [one.what.split(":")[0] for one in refused.value.problems] == [
        "someField",
        "defaultConfig.statusPort",
    ]


def test_the_spelling_of_protobuf_is_read_too() -> None:
    mesh = mesh_config({"proxy_listen_port": 1, "default_config": {"drain_duration": "1m"}}, NEW)
    assert mesh["proxyListenPort"] == 1
    assert mesh["defaultConfig"]["drainDuration"] == "1m"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("concurrency", "two"),
        ("concurrency", 2**31),
        ("concurrency", True),
        ("drainDuration", "soon"),
        ("drainDuration", 5),
        ("interceptionMode", "tproxy"),
        ("interceptionMode", 9),
        ("interceptionMode", []),
        ("proxyMetadata", ["A"]),
        ("proxyMetadata", {"A": 1}),
        ("extraStatTags", "a"),
        ("extraStatTags", [1]),
        ("tracing", {"sampling": "much"}),
        ("tracing", {"maxPathTagLength": -1}),
        ("image", "debug"),
        ("meshId", 5),
        ("holdApplicationUntilProxyStarts", "yes"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_by_its_name(field: str, value: object) -> None:
    where = Where(annotation="a")
    with pytest.raises(InjectionError, match=field) as refused:
        proxy_config({field: value}, where)
    assert all(problem.where == where for problem in refused.value.problems)
    with pytest.raises(InjectionError, match=f"defaultConfig.{field}"):
        mesh_config({"defaultConfig": {field: value}}, NEW)


@pytest.mark.parametrize("data", ["text", ["a"], 5])
def test_a_config_is_a_mapping(data: object) -> None:
    with pytest.raises(InjectionError, match="a mapping"):
        proxy_config(data)
    with pytest.raises(InjectionError, match="a mapping"):
        mesh_config({"defaultConfig": data}, NEW)


def test_good_values() -> None:
    data = {
        "concurrency": "2",
        "interceptionMode": 1,
        "statusPort": 15021.0,
        "extraStatTags": ["a"],
        "proxyMetadata": {"A": "1"},
        "tracing": {"sampling": 1.5},
        "nosuchfield": 1,
        "meshId": None,
    }
    assert proxy_config(data) == {
        "concurrency": 2,
        "interceptionMode": "TPROXY",
        "statusPort": 15021,
        "extraStatTags": ["a"],
        "proxyMetadata": {"A": "1"},
        "tracing": {"sampling": 1.5},
    }


def test_an_annotation_over_the_mesh() -> None:
    mesh = mesh_config(None, NEW)
    assert with_proxy_config(mesh, {}) is mesh
    changed = with_proxy_config(mesh, {"statusPort": 1})
    assert changed["defaultConfig"] == {**mesh["defaultConfig"], "statusPort": 1}
    assert mesh["defaultConfig"]["statusPort"] == 15020


def test_free_fields_are_taken_as_they_are() -> None:
    labels = {"a": "%A%", "b": [1]}
    provider = {"name": "log", "envoyFileAccessLog": {"logFormat": {"labels": labels}}}
    assert (
        mesh_config({"extensionProviders": [provider]}, NEW)["extensionProviders"][-1] == provider
    )
