"""The fields of a pod: their types in JSON, and the keys that lists are merged by.

The types are those of ``kubernetes_types``. Three things are read off them: whether a
value is of its field's type, how two lists are merged, and the JSON that Kubernetes' own
types would be written as.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from functools import cache

from istio_init.inject.schema import kubernetes_fields

# ``patchStrategy`` and ``patchMergeKey`` of core/v1 and meta/v1; ``""`` merges a list of
# texts as a set. All other lists replace.
_OF_CONTAINERS = {
    "ports": "containerPort",
    "env": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
}
MERGE_KEYS = {
    "PodSpec": {
        "volumes": "name",
        "initContainers": "name",
        "containers": "name",
        "ephemeralContainers": "name",
        "imagePullSecrets": "name",
        "hostAliases": "ip",
        "topologySpreadConstraints": "topologyKey",
        "schedulingGates": "name",
        "resourceClaims": "name",
    },
    "Container": _OF_CONTAINERS,
    "EphemeralContainer": _OF_CONTAINERS,
    "ObjectMeta": {"ownerReferences": "uid", "finalizers": ""},
}

# Younger than Kubernetes 1.11, whose types release 1.0 of Istio was built with.
_YOUNG = {
    "PodSpec": "ephemeralContainers runtimeClassName enableServiceLinks preemptionPolicy overhead"
    " topologySpreadConstraints setHostnameAsFQDN os hostUsers schedulingGates resourceClaims"
    " resources hostnameOverride workloadRef",
    "Container": "resizePolicy restartPolicy restartPolicyRules startupProbe",
    "VolumeMount": "recursiveReadOnly subPathExpr",
    "Probe": "grpc terminationGracePeriodSeconds",
    "Lifecycle": "stopSignal",
    "LifecycleHandler": "sleep",
    "SecurityContext": "windowsOptions procMount seccompProfile appArmorProfile",
    "PodSecurityContext": "windowsOptions supplementalGroupsPolicy fsGroupChangePolicy"
    " seccompProfile appArmorProfile seLinuxChangePolicy",
    "EnvVarSource": "fileKeyRef",
    "ResourceRequirements": "claims",
    "Volume": "csi ephemeral image",
    "VolumeProjection": "clusterTrustBundle podCertificate",
}


class Shape(Enum):
    """What a value looks like in JSON."""

    TEXT = auto()
    NUMBER = auto()
    TRUTH = auto()
    QUANTITY = auto()
    PORT = auto()
    ANY = auto()
    STRUCT = auto()
    LIST = auto()
    MAP = auto()


@dataclass(frozen=True, slots=True)
class FieldType:
    """A type: ``element`` is that of a list's or map's items, ``struct`` the name of a struct."""

    shape: Shape
    element: FieldType | None = None
    struct: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a struct.

    ``merge_key`` is None where a given list replaces the old one, and ``""`` for a list
    of texts that is merged as a set. ``always`` fields are written even when they are
    zero, ``pointer`` fields when they are given. ``young`` fields are unknown to release
    1.0 of Istio.
    """

    name: str
    type: FieldType
    merge_key: str | None = None
    always: bool = False
    pointer: bool = False
    young: bool = False


_SCALARS = {
    "string": Shape.TEXT,
    "v1.Time": Shape.TEXT,
    "bool": Shape.TRUTH,
    "int32": Shape.NUMBER,
    "int64": Shape.NUMBER,
    "resource.Quantity": Shape.QUANTITY,
    "intstr.IntOrString": Shape.PORT,
}


@cache
def _type(go_type: str) -> FieldType:
    kind = go_type.removeprefix("*")
    if kind.startswith("[]"):
        return FieldType(Shape.LIST, _type(kind[2:]))
    if kind.startswith("%"):
        return FieldType(Shape.MAP, _type(kind[1:]))
    if shape := _SCALARS.get(kind):
        return FieldType(shape)
    if kind.startswith("v1.") and kind != "v1.FieldsV1":
        return FieldType(Shape.STRUCT, None, kind.removeprefix("v1."))
    return FieldType(Shape.ANY)


@cache
def fields_of(struct: str) -> dict[str, Field]:
    """Return the fields of a struct by their names in JSON, in the API's order.

    Raises a KeyError for a struct that the API does not have.
    """
    if struct == "Pod":
        kinds = {"metadata": "v1.ObjectMeta", "spec": "v1.PodSpec"}
        return {name: Field(name, _type(kind), always=True) for name, kind in kinds.items()}
    keys = MERGE_KEYS.get(struct, {})
    young = frozenset(_YOUNG.get(struct, "").split())
    found: dict[str, Field] = {}
    for name, go_type, omitted in kubernetes_fields(f"v1.{struct}"):
        kind = _type(go_type)
        always = not omitted or (kind.shape is Shape.STRUCT and not go_type.startswith("*"))
        pointer = go_type.startswith("*")
        found[name] = Field(name, kind, keys.get(name), always, pointer, name in young)
    return found


def struct_type(name: str) -> FieldType:
    """Return the type of the struct ``name``; a KeyError for one that the API does not have."""
    fields_of(name)
    return FieldType(Shape.STRUCT, None, name)


POD = FieldType(Shape.STRUCT, None, "Pod")
CONTAINER = FieldType(Shape.STRUCT, None, "Container")
VOLUME = FieldType(Shape.STRUCT, None, "Volume")
PROBE = FieldType(Shape.STRUCT, None, "Probe")
HANDLER = FieldType(Shape.STRUCT, None, "LifecycleHandler")
