"""Labels and annotations that Istio's templates set, told from the user's by their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from istio_init.inject.containers import containers, metadata_map, variable, with_metadata_map
from istio_init.inject.names import INTERCEPTION_MODE, PROXY, REVISION, STATUS_PORT, VALIDATION

if TYPE_CHECKING:
    from istio_init.inject.status import InjectionStatus

JsonMap = dict[str, Any]

_DEFAULT_CONTAINER = (
    "kubectl.kubernetes.io/default-container",
    "kubectl.kubernetes.io/default-logs-container",
)
_CANONICAL_NAME = "service.istio.io/canonical-name"
_CANONICAL_REVISION = "service.istio.io/canonical-revision"
_TLS_MODE = "security.istio.io/tlsMode"
_TUNNEL = "networking.istio.io/tunnel"
_TRAFFIC = "traffic.sidecar.istio.io/"
_EXCLUDED_PORTS = f"{_TRAFFIC}excludeInboundPorts"
_NETWORKS = "k8s.v1.cni.cncf.io/networks"
_CNI = "default/istio-cni"
_CNI_JSON = '{"name": "istio-cni", "namespace": "default"}'
_STATUS_PORT = "15020"
_LONGEST_NAME = 63


def without_template_metadata(pod: JsonMap, status: InjectionStatus, proxy: JsonMap) -> JsonMap:
    """Return the pod without labels and annotations of the values that templates give them.

    ``pod`` has the user's containers alone, ``proxy`` is the container that was injected.
    A user who wrote the same value gets it back with the next injection.
    """
    if status.version:
        return pod
    for field, set_by_templates in (
        ("labels", _labels(pod, proxy)),
        ("annotations", _annotations(pod, status)),
    ):
        old = metadata_map(pod, field)
        kept = {key: value for key, value in old.items() if set_by_templates.get(key) != value}
        if len(kept) != len(old):
            pod = with_metadata_map(pod, field, kept)
    return _without_cni_additions(pod) if VALIDATION in status.of("initContainers") else pod


def _labels(pod: JsonMap, proxy: JsonMap) -> dict[str, str]:
    labels = metadata_map(pod, "labels")
    name = (
        labels.get("app.kubernetes.io/name")
        or labels.get("app")
        or variable(proxy, "ISTIO_META_WORKLOAD_NAME")
        or ""
    )
    revision = labels.get("app.kubernetes.io/version") or labels.get("version") or "latest"
    found = {_TLS_MODE: "istio", _CANONICAL_REVISION: revision}
    for canonical in (name, name[:_LONGEST_NAME].removesuffix("-")):
        if labels.get(_CANONICAL_NAME) == canonical:
            found[_CANONICAL_NAME] = canonical
    if variable(proxy, "ISTIO_META_ENABLE_HBONE") == "true":
        found[_TUNNEL] = "http"
    return found


def _annotations(pod: JsonMap, status: InjectionStatus) -> dict[str, str]:
    first = next((one.get("name", "") for one in containers(pod) if one.get("name") != PROXY), "")
    found = {**dict.fromkeys(_DEFAULT_CONTAINER, first)}
    if status.revision:
        found[REVISION] = status.revision
    if VALIDATION in status.of("initContainers"):
        found |= {
            INTERCEPTION_MODE: "REDIRECT",
            f"{_TRAFFIC}includeOutboundIPRanges": "*",
            f"{_TRAFFIC}includeInboundPorts": "*",
        }
    return found


def _without_cni_additions(pod: JsonMap) -> JsonMap:
    """Return the pod without what templates append to a user's own lists for Istio's CNI."""
    old = metadata_map(pod, "annotations")
    port = old.get(STATUS_PORT, _STATUS_PORT)
    kept = dict(old)
    for key, endings in (
        (_EXCLUDED_PORTS, {port: "", f",{port}": ""}),
        (_NETWORKS, {_CNI: "", f", {_CNI}": "", f", {_CNI_JSON}]": "]", f"[{_CNI_JSON}]": "[]"}),
    ):
        text = old.get(key, "")
        for ending, left in endings.items():
            if text == ending or (ending[0] == "," and text.endswith(ending)):
                kept[key] = text.removesuffix(ending) + left
    for key in (_EXCLUDED_PORTS, _NETWORKS):
        if old.get(key) and not kept[key]:
            del kept[key]
    return with_metadata_map(pod, "annotations", kept) if kept != old else pod
