"""Templates and data for the tests of the template engine."""

from __future__ import annotations

from typing import Any, TypeAlias

from istio_init.inject.data import data_1_0, data_1_30
from istio_init.inject.template import Template, TemplateData

# Plain data, as JSON has it.
Json: TypeAlias = Any

PROXY_CONFIG: dict[str, Any] = {
    "configPath": "./etc/istio/proxy",
    "drainDuration": "75s",
    "terminationDrainDuration": "5s",
    "concurrency": 2,
    "interceptionMode": "TPROXY",
    "proxyMetadata": {"B": "2", "A": "1"},
    "holdApplicationUntilProxyStarts": True,
    "tracing": {"zipkin": {"address": "z:9411"}, "sampling": 12.5},
    "discoveryAddress": "istiod.istio-system.svc:15012",
}
MESH: dict[str, Any] = {
    "proxyListenPort": 15001,
    "trustDomain": "td",
    "defaultConfig": PROXY_CONFIG,
}
METADATA: dict[str, Any] = {
    "name": "web-1",
    "namespace": "shop",
    "labels": {"app": "web", "empty": ""},
    "annotations": {"a": "one", "json": '{"k":[1,"two"]}', "port": "8080"},
}
SPEC: dict[str, Any] = {
    "serviceAccountName": "web",
    "containers": [
        {
            "name": "web",
            "image": "registry/web:1.2",
            "ports": [
                {"containerPort": 80, "name": "http"},
                {"containerPort": 53, "protocol": "UDP"},
            ],
            "resources": {"limits": {"cpu": "1500m"}},
            "securityContext": {"runAsUser": 7},
            "readinessProbe": {"httpGet": {"port": "http", "path": "/ready"}},
        },
        {"name": "istio-proxy", "image": "auto", "ports": [{"containerPort": 15090}]},
    ],
    "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}],
}
VALUES: dict[str, Any] = {
    "global": {"port": 15020, "big": 1000000, "frac": 0.5, "hub": "h", "none": None, "list": [1]}
}


def pod_data(**changes: object) -> TemplateData:
    """Return the data of a pod for templates of 1.30."""
    given: dict[str, Any] = {
        "metadata": METADATA,
        "spec": SPEC,
        "mesh": MESH,
        "proxy_config": PROXY_CONFIG,
        "values": VALUES,
        "kind": "Deployment",
        "api_version": "apps/v1",
        "deployment_name": "web",
        "deployment_namespace": "shop",
        "proxy_image": "h/proxyv2:1",
    }
    return data_1_30(**{**given, **changes})


def old_pod_data(**changes: object) -> TemplateData:
    """Return the data of a pod for templates of 1.0."""
    given: dict[str, Any] = {
        "metadata": METADATA,
        "spec": SPEC,
        "mesh": {"proxyListenPort": 15001},
        "proxy_config": {"drainDuration": "2s", "interceptionMode": "REDIRECT"},
    }
    return data_1_0(**{**given, **changes})


def render(template: str, **changes: object) -> str:
    """Return what a template of 1.30 prints for the pod."""
    return Template.parse(template, "1.30").render(pod_data(**changes))


def render_old(template: str, **changes: object) -> str:
    """Return what a template of 1.0 prints for the pod."""
    return Template.parse(template, "1.0").render(old_pod_data(**changes))
