"""The image, user and group of the injected proxy."""

from __future__ import annotations

import pytest

from istio_init.inject.proxy_image import (
    openshift_ids,
    proxy_image,
    value_at,
    without_shared_user,
)
from tests.unit.inject.pods import PROXY, Json, container, pod

VALUES = {"global": {"hub": "h/i", "tag": "1.30.3", "proxy": {"image": "px"}}}


def test_the_image_is_made_of_hub_name_and_tag() -> None:
    assert proxy_image(VALUES, {}, pod()) == "h/i/px:1.30.3"
    assert proxy_image({}, {}, pod()) == "/proxyv2:"
    assert proxy_image({"global": {"hub": "h", "tag": 5.0}}, {}, pod()) == "h/proxyv2:5"


@pytest.mark.parametrize(
    ("tag", "value", "config", "annotation", "wanted"),
    [
        ("1", "debug", None, None, "1-debug"),
        ("1", "debug", "distroless", None, "1-distroless"),
        ("1", "debug", "distroless", "default", "1"),
        ("1-debug", "", None, "distroless", "1-distroless"),
        ("1-debug", "", None, None, "1-debug"),
        ("1-distroless", "", None, "default", "1"),
        ("1-distroless", "debug", None, "", "1-distroless"),
        ("1", "", None, "own", "1-own"),
    ],
)
def test_the_variant(
    tag: str, value: str, config: str | None, annotation: str | None, wanted: str
) -> None:
    values = {"global": {"hub": "h", "tag": tag, "variant": value}}
    given = {} if annotation is None else {"sidecar.istio.io/proxyImageType": annotation}
    proxy_config = {} if config is None else {"image": {"imageType": config}}
    image = proxy_image(values, proxy_config, pod(annotations=given))
    assert image == f"h/proxyv2:{wanted}"


def test_a_value_that_is_not_there() -> None:
    assert value_at({"a": {"b": 1}}, "a", "b") == 1
    assert value_at({"a": 5}, "a", "b") is None
    assert value_at({}, "a", "b") is None


@pytest.mark.parametrize(
    ("annotations", "ids"),
    [
        ({}, (1337, 1337)),
        ({"uid-range": "1000/100"}, (1099, 1099)),
        ({"uid-range": "1000-1010", "supplemental-groups": "5/2,9/9"}, (1010, 6)),
        ({"uid-range": "1000/100", "supplemental-groups": ""}, (1099, 1337)),
        ({"uid-range": "all", "supplemental-groups": "x"}, (1337, 1337)),
        ({"uid-range": 5}, (1337, 1337)),
        ({"uid-range": "1-9999999999"}, (1337, 1337)),
    ],
)
def test_the_ids_of_an_openshift_namespace(annotations: Json, ids: tuple[int, int]) -> None:
    named = {f"openshift.io/sa.scc.{key}": value for key, value in annotations.items()}
    assert openshift_ids({"metadata": {"annotations": named}}) == ids


def test_without_a_namespace_they_are_the_usual() -> None:
    assert openshift_ids(None) == openshift_ids({"metadata": {}}) == (1337, 1337)


def running_as(user: object, **fields: object) -> Json:
    return {"securityContext": {"runAsUser": user, **fields}}


@pytest.mark.parametrize(
    ("application", "proxy", "left"),
    [
        (running_as(7), running_as(7, runAsGroup=7, privileged=False), {"privileged": False}),
        (running_as(7), running_as(8), {"runAsUser": 8}),
        (running_as(7), {"securityContext": {"runAsGroup": 1}}, {"runAsGroup": 1}),
        ({}, {"securityContext": {"runAsGroup": 1}}, {}),
    ],
)
def test_a_user_that_the_application_has_is_taken_from_the_proxy(
    application: Json, proxy: Json, left: Json
) -> None:
    original = pod(container(**application), {**PROXY, **proxy})
    result = without_shared_user(original)
    assert result["spec"]["containers"][1]["securityContext"] == left


def test_a_pod_without_a_proxy_of_its_own_stays() -> None:
    for original in (pod(container(**running_as(0))), pod(container(), PROXY)):
        assert without_shared_user(original) is original
