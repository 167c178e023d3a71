"""What a template sees of a pod, its owner, the mesh and the settings.

The values have Go's field names and types over plain data: pods in Kubernetes' JSON
form, ``MeshConfig`` and ``ProxyConfig`` as protobuf's JSON with all defaults filled in.
A field that a type lacks is an error, one that is absent has its type's zero value.

Strings of the pod, of its owner and of its proxy configuration (an annotation can
change that) are tainted; those of the mesh, the values and the settings are not.
"""

from __future__ import annotations

from collections.abc import Mapping

from istio_init.inject.schema import MESSAGES_1_0, MESSAGES_1_30, kubernetes_type, read_string
from istio_init.inject.template import TemplateData
from istio_init.inject.template.values import Int64, Member, Struct, StructType, Value
from istio_init.rules.names import DEFAULT_PROXY_ID


class Values(dict[str, Value]):
    """Settings of the installation, whose numbers are floats as in JSON."""

    __slots__ = ()


def prepare_values(values: Mapping[str, object]) -> Values:
    """Return settings as templates see them; to be done once for many pods."""
    if isinstance(values, Values):
        return values
    return Values({str(key): _as_json(item) for key, item in values.items()})


def _as_json(value: object) -> Value:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return value


def _given(value: object, _origin: str) -> Value:
    return value


def _type(name: str, *fields: str) -> StructType:
    return StructType(name, {field: Member(field, _given) for field in fields}, pointer=True)


_DATA_1_0 = _type("inject.SidecarTemplateData", "ObjectMeta", "Spec", "ProxyConfig", "MeshConfig")
_DATA_1_30 = _type(
    "inject.SidecarTemplateData",
    "TypeMeta", "DeploymentMeta", "ObjectMeta", "Spec", "ProxyConfig", "MeshConfig", "Values",
    "Revision", "NativeSidecars", "ProxyImage", "ProxyUID", "ProxyGID",
    "InboundTrafficPolicyMode", "CompliancePolicy",
)  # fmt: skip


def _full_name(struct: Struct) -> str:
    return f"{struct.data.get('Namespace') or ''}/{struct.data.get('Name') or ''}"


_NAMESPACED_NAME = StructType(
    "types.NamespacedName",
    {"Namespace": Member("Namespace", read_string, ""), "Name": Member("Name", read_string, "")},
    {"String": lambda struct: _full_name(struct) if struct else ""},
    show=_full_name,
)


def data_1_0(
    *,
    metadata: Mapping[str, object],
    spec: Mapping[str, object],
    mesh: Mapping[str, object],
    proxy_config: Mapping[str, object],
) -> TemplateData:
    """Return the data of a template of Istio 1.0.

    ``mesh`` and ``proxy_config`` have their defaults filled in.
    """
    root = {
        "ObjectMeta": Struct(kubernetes_type("v1.ObjectMeta"), metadata, "metadata"),
        "Spec": Struct(kubernetes_type("v1.PodSpec"), spec, "spec"),
        "ProxyConfig": Struct(MESSAGES_1_0.type("ProxyConfig"), proxy_config, ""),
        "MeshConfig": Struct(MESSAGES_1_0.type("MeshConfig"), mesh, ""),
    }
    return TemplateData(Struct(_DATA_1_0, root, "data"))


def data_1_30(
    *,
    metadata: Mapping[str, object],
    spec: Mapping[str, object],
    mesh: Mapping[str, object],
    proxy_config: Mapping[str, object],
    values: Mapping[str, object],
    kind: str = "",
    api_version: str = "",
    deployment_name: str = "",
    deployment_namespace: str = "",
    revision: str = "",
    native_sidecars: bool = False,
    proxy_image: str = "",
    proxy_uid: int = DEFAULT_PROXY_ID.low,
    proxy_gid: int = DEFAULT_PROXY_ID.low,
    compliance_policy: str = "",
    environment: Mapping[str, str] | None = None,
) -> TemplateData:
    """Return the data of a template of Istio 1.30.

    ``kind``, ``api_version``, ``deployment_name`` and ``deployment_namespace`` are those of
    the pod's owner. ``mesh`` and ``proxy_config`` have their defaults filled in, the latter
    also what the annotation ``proxy.istio.io/config`` says. ``environment`` is what the
    function ``env`` may read.
    """
    owner = {"Namespace": deployment_namespace, "Name": deployment_name}
    policy = mesh.get("inboundTrafficPolicy")
    localhost = isinstance(policy, Mapping) and policy.get("mode") in {"LOCALHOST", 1}
    root: dict[str, Value] = {
        "TypeMeta": Struct(
            kubernetes_type("v1.TypeMeta"), {"kind": kind, "apiVersion": api_version}, "the owner"
        ),
        "DeploymentMeta": Struct(_NAMESPACED_NAME, owner, "the owner"),
        "ObjectMeta": Struct(kubernetes_type("v1.ObjectMeta"), metadata, "metadata"),
        "Spec": Struct(kubernetes_type("v1.PodSpec"), spec, "spec"),
        "ProxyConfig": Struct(
            MESSAGES_1_30.type("ProxyConfig"), proxy_config, "the annotation proxy.istio.io/config"
        ),
        "MeshConfig": Struct(MESSAGES_1_30.type("MeshConfig"), mesh, ""),
        "Values": prepare_values(values),
        "Revision": revision,
        "NativeSidecars": native_sidecars,
        "ProxyImage": read_string(proxy_image, "the annotation sidecar.istio.io/proxyImageType"),
        "ProxyUID": Int64(proxy_uid),
        "ProxyGID": Int64(proxy_gid),
        "InboundTrafficPolicyMode": "localhost" if localhost else "passthrough",
        "CompliancePolicy": compliance_policy,
    }
    return TemplateData(Struct(_DATA_1_30, root, "data"), environment or {})
