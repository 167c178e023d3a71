"""MeshConfig and ProxyConfig of both generations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.inject.generation import GENERATIONS, NEW, OLD, Generation
from istio_init.inject.mesh import (
    duration_json,
    duration_seconds,
    merge_proxy_config,
    mesh_config,
    proxy_config,
    proxy_config_json,
    with_proxy_config,
)
from istio_init.inject.problems import InjectionError, Where

if TYPE_CHECKING:
    from typing import Any


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
    mesh = mesh_config({"extensionProviders": [{"name": "envoy", "x": 1}, {"name": "own"}]}, NEW)
    names = [provider["name"] for provider in mesh["extensionProviders"]]
    assert names == ["prometheus", "stackdriver", "envoy", "own"]
    assert mesh["extensionProviders"][2] == {"name": "envoy", "x": 1}


def test_1_30_keeps_unknown_fields_of_the_mesh_and_1_0_refuses_them() -> None:
    assert mesh_config({"someField": 1}, NEW)["someField"] == 1
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
        "tracing": {},
        "nosuchfield": 1,
        "meshId": None,
    }
    assert proxy_config(data) == {
        "concurrency": 2,
        "interceptionMode": "TPROXY",
        "statusPort": 15021,
        "extraStatTags": ["a"],
        "proxyMetadata": {"A": "1"},
        "tracing": {},
    }


def test_an_annotation_over_the_mesh() -> None:
    mesh = mesh_config(None, NEW)
    assert with_proxy_config(mesh, {}) is mesh
    changed = with_proxy_config(mesh, {"statusPort": 1})
    assert changed["defaultConfig"] == {**mesh["defaultConfig"], "statusPort": 1}
    assert mesh["defaultConfig"]["statusPort"] == 15020


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        ({}, "{}"),
        ({"drainDuration": "0m45s", "concurrency": 0}, '{"concurrency":0}'),
        ({"drainDuration": "1m30s"}, '{"drainDuration":"90s"}'),
        ({"holdApplicationUntilProxyStarts": False}, '{"holdApplicationUntilProxyStarts":false}'),
        ({"interceptionMode": "REDIRECT", "meshId": "", "extraStatTags": []}, "{}"),
        ({"interceptionMode": "NONE", "tracing": {}}, '{"interceptionMode":"NONE","tracing":{}}'),
        ({"proxyMetadata": {"B": "<", "A": "1"}}, '{"proxyMetadata":{"A":"1","B":"\\u003c"}}'),
        (
            {"image": {"imageType": "debug"}, "meshId": "m"},
            '{"meshId":"m","image":{"imageType":"debug"}}',
        ),
    ],
)
def test_what_differs_from_the_defaults_is_printed(given: dict[str, Any], printed: str) -> None:
    config = mesh_config({"defaultConfig": given}, NEW)["defaultConfig"]
    assert proxy_config_json(config) == printed


@pytest.mark.parametrize(
    ("text", "seconds", "printed"),
    [
        ("45s", 45, "45s"),
        ("1h30m1.5s", 5401.5, "5401.500s"),
        ("-1.5h", -5400, "-5400s"),
        ("0", 0, "0s"),
        ("1ms", 0.001, "0.001s"),
        ("1us", 0.000001, "0.000001s"),
        ("1ns", 1e-9, "0.000000001s"),
        (".5s", 0.5, "0.500s"),
    ],
)
def test_durations(text: str, seconds: float, printed: str) -> None:
    assert float(duration_seconds(text)) == seconds
    assert duration_json(text) == printed


@pytest.mark.parametrize("text", ["", "5", "s", "1 s", "1d", "1.s.", "x", "1s" * 40])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        duration_seconds(text)


@given(st.integers(-(10**12), 10**12))
def test_a_printed_duration_is_the_same_duration(nanoseconds: int) -> None:
    printed = duration_json(f"{nanoseconds}ns" if nanoseconds >= 0 else f"-{-nanoseconds}ns")
    assert duration_seconds(printed) * 10**9 == nanoseconds


@given(st.dictionaries(st.sampled_from(["meshId", "zipkinAddress", "configPath"]), st.text()))
def test_what_is_printed_can_be_read_back(given: dict[str, str]) -> None:
    config = mesh_config({"defaultConfig": given}, NEW)["defaultConfig"]
    again = mesh_config({"defaultConfig": json.loads(proxy_config_json(config))}, NEW)
    dropped = {key: value for key, value in config.items() if value}
    found = {key: value for key, value in again["defaultConfig"].items() if value}
    assert {**mesh_config(None, NEW)["defaultConfig"], **dropped} == found
