"""Values of a pod: what their fields take, and how Go writes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.inject.pod_fields import (
    CONTAINER,
    POD,
    VOLUME,
    FieldType,
    Shape,
    fields_of,
    struct_type,
)
from istio_init.inject.pod_values import (
    MANIFEST,
    OLD_TEMPLATE,
    OVERLAY,
    REQUEST,
    Reading,
    go_json,
    go_text,
    go_value,
    read_value,
)
from istio_init.inject.problems import InjectionError
from tests.unit.settings import tried

if TYPE_CHECKING:
    from typing import Any

TEXTS = FieldType(Shape.LIST, FieldType(Shape.TEXT))


def test_every_type_that_a_pod_can_reach_is_in_the_table() -> None:
    seen: set[str] = set()
    left = ["Pod"]
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        for field in fields_of(name).values():
            kind = field.type
            while kind.element is not None:
                kind = kind.element
            if kind.struct:
                left.append(kind.struct)
    assert {"Container", "Volume", "Probe", "NodeSelectorTerm"} <= seen


def test_a_type_by_its_name() -> None:
    assert struct_type("Volume") == VOLUME
    with pytest.raises(KeyError):
        struct_type("Nothing")


@pytest.mark.parametrize("reading", [MANIFEST, REQUEST, OVERLAY, OLD_TEMPLATE])
def test_a_pod_of_the_right_types_stays(reading: Reading) -> None:
    pod = {
        "metadata": {"labels": {"a": "b"}, "annotations": {}},
        "spec": {
            "hostNetwork": False,
            "containers": [
                {
                    "name": "a",
                    "args": ["x"],
                    "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"cpu": "1", "memory": 5}},
                    "livenessProbe": {"httpGet": {"port": "http"}},
                }
            ],
        },
    }
    result = read_value(pod, POD, reading)
    assert result == pod
    assert result is not pod
    assert result["spec"]["containers"][0] is not pod["spec"]["containers"][0]  # type: ignore[index]


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (False, "false"), (8, "8"), (1.5, "1.5"), (1e6, "1e+06"), (1e5, "100000")],
)
def test_a_scalar_of_a_manifest_becomes_text_where_text_is_wanted(value: object, text: str) -> None:
    pod = {"metadata": {"labels": {"a": value}, "name": value}, "spec": {"hostname": value}}
    result = read_value(pod, POD, MANIFEST)
    assert result == {"metadata": {"labels": {"a": text}, "name": text}, "spec": {"hostname": text}}


@pytest.mark.parametrize("reading", [REQUEST, OVERLAY])
def test_elsewhere_it_is_refused_with_its_path_all_of_them_at_once(reading: Reading) -> None:
    pod = {
        "metadata": {"labels": {"a": True}},
        "spec": {"containers": [{"name": "a", "command": ["x", True], "image": 5}]},
    }
    with pytest.raises(InjectionError) as refused:
        read_value(pod, POD, reading)
    assert [one.where.path for one in refused.value.problems] == [
        "metadata.labels.a",
        "spec.containers[0].command[1]",
        "spec.containers[0].image",
    ]
    assert all("quote it" in one.remedy for one in refused.value.problems)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"hostNetwork": "yes"}, "spec.hostNetwork"),
        ({"hostNetwork": 1}, "spec.hostNetwork"),
        ({"containers": {}}, "spec.containers"),
        ({"containers": ["x"]}, "spec.containers[0]"),
        ({"nodeSelector": ["x"]}, "spec.nodeSelector"),
        ({"nodeSelector": {"a": []}}, "spec.nodeSelector.a"),
        ({"hostname": {}}, "spec.hostname"),
        ({"priority": "high"}, "spec.priority"),
        ({"priority": True}, "spec.priority"),
        ({"priority": 1.5}, "spec.priority"),
        ({"priority": 2**63}, "spec.priority"),
        ({"overhead": {"cpu": True}}, "spec.overhead.cpu"),
        ({"overhead": {"cpu": []}}, "spec.overhead.cpu"),
    ],
)
def test_a_wrong_type_is_refused_in_a_manifest_too(spec: dict[str, Any], path: str) -> None:
    with pytest.raises(InjectionError) as refused:
        read_value({"spec": spec}, POD, MANIFEST)
    assert [one.where.path for one in refused.value.problems] == [path]


def test_what_a_user_wrote_into_an_unknown_field_is_kept_and_what_a_template_wrote_is_not() -> None:
    pod = {"spec": {"containers": [{"name": "a", "own": {"x": [1]}}], "more": 1}, "third": None}
    assert read_value(pod, POD, MANIFEST) == pod
    assert read_value(pod, POD, REQUEST) == pod
    assert read_value(pod, POD, OVERLAY) == {"spec": {"containers": [{"name": "a"}]}}


def test_release_1_0_does_not_know_fields_that_came_later() -> None:
    container = {"name": "p", "restartPolicy": "Always", "startupProbe": {}, "tty": True}
    assert read_value(container, CONTAINER, OLD_TEMPLATE) == {"name": "p", "tty": True}
    assert read_value(container, CONTAINER, OVERLAY) == container


def test_nulls_and_directives_stay_in_a_patch_alone() -> None:
    patch = {"metadata": {"labels": {"$patch": "replace", "a": None}, "annotations": None}}
    assert read_value(patch, POD, OVERLAY) == patch
    assert read_value({"metadata": {"labels": {"a": None}, "name": None}}, POD, MANIFEST) == {
        "metadata": {"labels": {"a": ""}}
    }


def test_nulls_in_lists_are_zero() -> None:
    assert read_value([None, "a"], TEXTS, OLD_TEMPLATE) == ["", "a"]
    assert read_value([None], FieldType(Shape.LIST, CONTAINER), OLD_TEMPLATE) == [{}]
    assert read_value([None], FieldType(Shape.LIST, FieldType(Shape.NUMBER)), MANIFEST) == [None]


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert read_value({"spec": {"priority": 5.0}}, POD, REQUEST) == {"spec": {"priority": 5}}


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (15020, "15020"),
        (1e6, "1e+06"),
        (100000.0, "100000"),
        (123456789.0, "1.23456789e+08"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (-2.5e-7, "-2.5e-07"),
        (0.0, "0"),
        (1e22, "1e+22"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
    ],
)
def test_numbers_as_go_writes_them(number: float, text: str) -> None:
    assert go_text(number) == text


@tried
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_a_number_is_that_number(number: float) -> None:
    assert float(go_text(number)) == number


def test_a_container_as_go_writes_it() -> None:
    container = {
        "zebra": 1,
        "tty": False,
        "resources": {"limits": {"memory": "1024Mi", "cpu": 1.5}},
        "env": [{"value": "", "name": "A"}],
        "securityContext": {"runAsUser": 0, "privileged": False},
        "livenessProbe": {"initialDelaySeconds": 0, "httpGet": {"path": "/<&>"}},
        "args": [],
        "lifecycle": {},
        "name": "a",
    }
    assert go_json(go_value(container, CONTAINER)) == (
        '{"name":"a","env":[{"name":"A"}],"resources":{"limits":{"cpu":"1500m","memory":"1Gi"}},'
        '"livenessProbe":{"httpGet":{"path":"/\\u003c\\u0026\\u003e","port":0}},"lifecycle":{},'
        '"securityContext":{"privileged":false,"runAsUser":0},"zebra":1}'
    )


def test_fields_that_are_always_written_are() -> None:
    assert go_json(go_value({}, CONTAINER)) == '{"name":"","resources":{}}'
    assert go_value({"containers": None}, struct_type("PodSpec")) == {"containers": None}
    assert go_value({}, struct_type("GRPCAction")) == {"port": 0, "service": None}


@tried
@given(st.dictionaries(st.text(), st.text()))
def test_json_that_go_writes_is_json(data: dict[str, str]) -> None:
    text = go_json(data)
    assert json.loads(text) == data
    assert not set(text) & set("<>&\u2028\u2029")


def test_a_key_that_is_no_text_becomes_one() -> None:
    labels = {"metadata": {"labels": {5: "a", True: "b"}}}
    assert read_value(labels, POD, MANIFEST) == {"metadata": {"labels": {"5": "a", "true": "b"}}}
    fields: dict[str, Any] = {"metadata": {"managedFields": [{"fieldsV1": {"f:a": {}}}]}}
    assert read_value(fields, POD, REQUEST) == fields
