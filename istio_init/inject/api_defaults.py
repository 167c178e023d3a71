"""The values that Kubernetes' API server gives to fields of containers and volumes.

Istio 1.0's webhook gives them to what it adds. From Kubernetes' core/v1 defaults, release
1.11.
"""

from __future__ import annotations

from typing import Any

JsonMap = dict[str, Any]

_PROBE = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
_HTTP = {"path": "/", "scheme": "HTTP"}
_TERMINATION = {
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
}
_TOKEN = {"expirationSeconds": 3600}
_MODE = {"defaultMode": 0o644}
_WITH_MODE = ("secret", "configMap", "downwardAPI", "projected")


def with_defaults(lists: dict[str, list[JsonMap]]) -> dict[str, list[JsonMap]]:
    """Return lists of a pod's spec, its containers and volumes with their defaults."""
    functions = {
        "initContainers": _container,
        "containers": _container,
        "volumes": _volume,
    }
    return {
        field: [functions[field](item) for item in items] if field in functions else items
        for field, items in lists.items()
    }


def _filled(values: JsonMap, defaults: JsonMap) -> JsonMap:
    """Return values with the defaults of those that are missing or zero."""
    return {**values, **{key: one for key, one in defaults.items() if not values.get(key)}}


def _container(container: JsonMap) -> JsonMap:
    pull = "Always" if _is_latest(container.get("image") or "") else "IfNotPresent"
    result = _filled(container, {**_TERMINATION, "imagePullPolicy": pull})
    if container.get("env"):
        result["env"] = [_variable(one) for one in container["env"]]
    if container.get("ports"):
        result["ports"] = [_filled(port, {"protocol": "TCP"}) for port in container["ports"]]
    for field in ("livenessProbe", "readinessProbe"):
        if container.get(field):
            result[field] = _handler(_filled(container[field], _PROBE))
    if container.get("lifecycle"):
        result["lifecycle"] = {
            hook: _handler(handler) for hook, handler in container["lifecycle"].items()
        }
    resources = container.get("resources") or {}
    if resources.get("limits"):
        requests = {**resources["limits"], **(resources.get("requests") or {})}
        result["resources"] = {**resources, "requests": requests}
    return result


def _is_latest(image: str) -> bool:
    """Whether an image has no tag of its own, and no digest."""
    _, _, tag = image.rpartition("/")[2].partition(":")
    return "@" not in image and tag in ("", "latest")


def _handler(handler: JsonMap) -> JsonMap:
    if not handler.get("httpGet"):
        return handler
    return {**handler, "httpGet": _filled(handler["httpGet"], _HTTP)}


def _variable(variable: JsonMap) -> JsonMap:
    source = variable.get("valueFrom")
    return {**variable, "valueFrom": _with_field(source)} if source else variable


def _with_field(source: JsonMap) -> JsonMap:
    """Return something that refers to a field of the pod, with the field's API version."""
    if not source.get("fieldRef"):
        return source
    return {**source, "fieldRef": _filled(source["fieldRef"], {"apiVersion": "v1"})}


def _volume(volume: JsonMap) -> JsonMap:
    if not any(value is not None for key, value in volume.items() if key != "name"):
        return {**volume, "emptyDir": {}}
    result = dict(volume)
    for field in _WITH_MODE:
        if volume.get(field) is not None:
            result[field] = _projection(_filled(volume[field], _MODE))
    return result


def _projection(source: JsonMap) -> JsonMap:
    result = dict(source)
    if source.get("items"):
        result["items"] = [_with_field(item) for item in source["items"]]
    if source.get("sources"):
        result["sources"] = [
            {kind: _projected(kind, one) for kind, one in item.items()}
            for item in source["sources"]
        ]
    return result


def _projected(kind: str, source: JsonMap) -> JsonMap:
    return _filled(source, _TOKEN) if kind == "serviceAccountToken" else _projection(source)
