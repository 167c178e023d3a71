"""Defaults of the API server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from istio_init.inject.api_defaults import with_defaults

if TYPE_CHECKING:
    from tests.unit.inject.pods import Json

TERMINATION = {
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
}
PROBE = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("", "Always"),
        ("p", "Always"),
        ("reg:5000/p", "Always"),
        ("p:latest", "Always"),
        ("p:1", "IfNotPresent"),
        ("reg:5000/p:1", "IfNotPresent"),
        ("p@sha256:ab", "IfNotPresent"),
    ],
)
@pytest.mark.parametrize("field", ["containers", "initContainers"])
def test_a_container_is_pulled_by_its_tag(field: str, image: str, policy: str) -> None:
    result = with_defaults({field: [{"name": "a", "image": image}]})[field]
    assert result == [{"name": "a", "image": image, "imagePullPolicy": policy, **TERMINATION}]


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        ({"ports": [{"containerPort": 1}]}, {"ports": [{"containerPort": 1, "protocol": "TCP"}]}),
        ({"ports": [{"protocol": "UDP"}]}, {"ports": [{"protocol": "UDP"}]}),
        (
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]},
            {
                "env": [
                    {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x", "apiVersion": "v1"}}}
                ]
            },
        ),
        ({"env": [{"name": "A", "value": "b"}]}, {"env": [{"name": "A", "value": "b"}]}),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"key": "k"}}}]},
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"key": "k"}}}]},
        ),
        (
            {"livenessProbe": {"httpGet": {"port": 1}, "periodSeconds": 3}},
            {
                "livenessProbe": {
                    **PROBE,
                    "periodSeconds": 3,
                    "httpGet": {"port": 1, "path": "/", "scheme": "HTTP"},
                }
            },
        ),
        ({"readinessProbe": {"exec": {}}}, {"readinessProbe": {**PROBE, "exec": {}}}),
        (
            {"lifecycle": {"preStop": {"httpGet": {"port": 1, "path": "/p"}}}},
            {"lifecycle": {"preStop": {"httpGet": {"port": 1, "path": "/p", "scheme": "HTTP"}}}},
        ),
        (
            {"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1m"}}},
            {
                "resources": {
                    "limits": {"cpu": "1", "memory": "1Gi"},
                    "requests": {"cpu": "1m", "memory": "1Gi"},
                }
            },
        ),
        ({"imagePullPolicy": "Never"}, {"imagePullPolicy": "Never"}),
    ],
)
def test_fields_of_a_container(given: Json, filled: Json) -> None:
    (result,) = with_defaults({"containers": [{"image": "p:1", **given}]})["containers"]
    wanted = {"image": "p:1", "imagePullPolicy": "IfNotPresent", **TERMINATION, **filled}
    assert result == wanted


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        ({}, {"emptyDir": {}}),
        ({"emptyDir": {"medium": "Memory"}}, {"emptyDir": {"medium": "Memory"}}),
        ({"secret": {}}, {"secret": {"defaultMode": 420}}),
        ({"configMap": {"defaultMode": 256}}, {"configMap": {"defaultMode": 256}}),
        (
            {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "x"}}]}},
            {
                "downwardAPI": {
                    "defaultMode": 420,
                    "items": [{"path": "l", "fieldRef": {"fieldPath": "x", "apiVersion": "v1"}}],
                }
            },
        ),
        (
            {"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"secret": {}}]}},
            {
                "projected": {
                    "defaultMode": 420,
                    "sources": [
                        {"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}},
                        {"secret": {}},
                    ],
                }
            },
        ),
    ],
)
def test_volumes(given: Json, filled: Json) -> None:
    result = with_defaults({"volumes": [{"name": "v", **given}]})["volumes"]
    assert result == [{"name": "v", **filled}]


def test_other_lists_have_none() -> None:
    secrets = {"imagePullSecrets": [{"name": "s"}]}
    assert with_defaults(secrets) == secrets
