"""MeshConfig and ProxyConfig: defaults of both generations, checks, and how files are merged.

Plain data with protobuf's JSON names; the fields are those of the tables in
``istio_types``. Defaults: Istio's ``mesh`` package, releases 1.0 and 1.30.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from istio_init.inject.generation import NEW, OLD
from istio_init.inject.problems import NOWHERE, InjectionError, Problem, Where, error, quoted
from istio_init.inject.schema import DEFAULT_PROXY_CONFIG, MESSAGES_1_0, MESSAGES_1_30
from istio_init.inject.template.durations import parse_duration
from istio_init.rules.names import INBOUND_PORT, OUTBOUND_PORT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.inject.generation import Generation

JsonMap = dict[str, Any]

_DEFAULT_PROXY: dict[Generation, JsonMap] = {
    NEW: DEFAULT_PROXY_CONFIG,
    OLD: {
        "configPath": "/etc/istio/proxy",
        "binaryPath": "/usr/local/bin/envoy",
        "serviceCluster": "istio-proxy",
        "drainDuration": "2s",
        "parentShutdownDuration": "3s",
        "discoveryAddress": "istio-pilot:15007",
        "discoveryRefreshDelay": "1s",
        "zipkinAddress": "",
        "connectTimeout": "1s",
        "statsdUdpAddress": "",
        "proxyAdminPort": 15000,
        "concurrency": 0,
        "controlPlaneAuthPolicy": "NONE",
        "interceptionMode": "REDIRECT",
    },
}
_DEFAULT_MESH: dict[Generation, JsonMap] = {
    NEW: {
        "proxyListenPort": OUTBOUND_PORT,
        "proxyInboundListenPort": INBOUND_PORT,
        "trustDomain": "cluster.local",
        "rootNamespace": "istio-system",
        "enablePrometheusMerge": True,
        "inboundTrafficPolicy": {"mode": "PASSTHROUGH"},
        "extensionProviders": [
            {"name": "prometheus", "prometheus": {}},
            {"name": "stackdriver", "stackdriver": {}},
            {"name": "envoy", "envoyFileAccessLog": {"path": "/dev/stdout"}},
        ],
    },
    OLD: {"proxyListenPort": OUTBOUND_PORT},
}
# Of the names of a service for tracing, the last one that is given counts.
_ONE_OF = {"serviceCluster": "tracingServiceName", "tracingServiceName": "serviceCluster"}


def mesh_config(data: object, generation: Generation) -> JsonMap:
    """Return the MeshConfig of a file's data over the generation's defaults.

    ``defaultConfig`` is merged field by field, its ``proxyMetadata`` key by key, and
    ``extensionProviders`` by name; any other field replaces the default. Raises an
    InjectionError for values of a wrong type, and for unknown fields in 1.0.
    """
    given = _read(data, "MeshConfig", generation, NOWHERE)
    proxy = given.pop("defaultConfig", {})
    mesh = {**_DEFAULT_MESH[generation], **given}
    if "extensionProviders" in given:
        default = _DEFAULT_MESH[generation].get("extensionProviders", [])
        mesh["extensionProviders"] = _by_name(default, given["extensionProviders"])
    mesh["defaultConfig"] = merge_proxy_config(_DEFAULT_PROXY[generation], proxy)
    return mesh


def proxy_config(data: object, where: Where = NOWHERE) -> JsonMap:
    """Return the ProxyConfig that the data of an annotation ``proxy.istio.io/config`` holds.

    Unknown fields are left out, as Istio 1.30 does. Raises an InjectionError, whose
    problems stand at ``where``, for values of a wrong type.
    """
    return _read(data, "ProxyConfig", NEW, where)


def merge_proxy_config(old: Mapping[str, Any], new: Mapping[str, Any]) -> JsonMap:
    """Return ``old`` with ``new`` laid over it: a given field replaces, metadata is merged."""
    merged = {**old, **new}
    for key in new:
        if key in _ONE_OF:
            merged.pop(_ONE_OF[key], None)
    if "proxyMetadata" in new and "proxyMetadata" in old:
        merged["proxyMetadata"] = {**old["proxyMetadata"], **new["proxyMetadata"]}
    return merged


def with_proxy_config(mesh: JsonMap, given: Mapping[str, Any]) -> JsonMap:
    """Return the mesh with an annotation's ProxyConfig laid over its ``defaultConfig``."""
    if not given:
        return mesh
    return {**mesh, "defaultConfig": merge_proxy_config(mesh["defaultConfig"], given)}


def _by_name(old: list[JsonMap], new: list[JsonMap]) -> list[JsonMap]:
    named = {item.get("name"): item for item in old}
    named.update((item.get("name"), item) for item in new)
    return list(named.values())


def _read(data: object, message: str, generation: Generation, where: Where) -> JsonMap:
    reader = _Messages(generation, where)
    result = reader.message(data, message, "")
    if reader.problems:
        raise InjectionError(reader.problems)
    return result


class _Messages:
    """Reads protobuf messages from plain data and collects what is wrong with them."""

    def __init__(self, generation: Generation, where: Where) -> None:
        self._generation = generation
        self._where = where
        self._tables = MESSAGES_1_0 if generation == OLD else MESSAGES_1_30
        self.problems: list[Problem] = []

    def message(self, data: object, name: str, path: str) -> JsonMap:
        """Return a message's known fields, nulls left out, in their JSON names."""
        if data is None:
            return {}
        if not isinstance(data, dict):
            self._wrong(path, "a mapping", data)
            return {}
        fields = self._fields(name)
        result: JsonMap = {}
        for key, value in data.items():
            field = _camel(str(key))
            place = f"{path}.{field}" if path else field
            if field in fields:
                if value is not None:
                    result[field] = self._value(value, fields[field], place)
            elif self._generation == OLD:
                what = f"{place}: release {OLD} of Istio has no such field"
                self.problems.append(error(what, self._where, remedy="remove it"))
        return result

    def _fields(self, name: str) -> dict[str, str]:
        words = (word.partition(":") for word in self._tables.entries[name].split())
        return {label.partition("!")[0]: kind or "string" for label, _, kind in words}

    def _value(self, value: object, kind: str, path: str) -> Any:  # noqa: ANN401 - JSON
        if kind.startswith("[]"):
            if isinstance(value, list):
                inner = kind[2:]
                return [
                    self._value(one, inner, f"{path}[{index}]") for index, one in enumerate(value)
                ]
            return self._wrong(path, "a list", value)
        if kind.startswith("%"):
            if isinstance(value, dict):
                return {
                    key: self._value(one, kind[1:], f"{path}.{key}") for key, one in value.items()
                }
            return self._wrong(path, "a mapping", value)
        if kind.startswith("="):
            return self._enum(value, kind, path)
        if kind.startswith("*") and not kind.startswith("*pb."):
            return self.message(value, kind[1:], path)
        return self._scalar(value, _WRAPPED.get(kind, kind), path)

    def _scalar(self, value: object, kind: str, path: str) -> Any:  # noqa: ANN401 - JSON
        match kind:
            case "string" if isinstance(value, str):
                return value
            case "bool" if isinstance(value, bool):
                return value
            case "double" if isinstance(value, (int, float)) and not isinstance(value, bool):
                return value
            case "*pb.Duration" if isinstance(value, str) and parse_duration(value) is not None:
                return value
            case "*pb.Struct":
                return value
            case _ if kind in _RANGES and (number := _whole(value)) is not None:
                if number in _RANGES[kind]:
                    return number
        return self._wrong(path, _WANTED.get(kind, "another value"), value)

    def _enum(self, value: object, kind: str, path: str) -> object:
        words = (word.partition("=") for word in self._tables.entries[kind].split())
        numbers = {name: int(number) for name, _, number in words}
        if isinstance(value, str) and value in numbers:
            return value
        number = _whole(value)
        for name, own in numbers.items():
            if own == number:
                return name
        return self._wrong(path, f"{' or '.join(numbers)}, in this spelling", value)

    def _wrong(self, path: str, wanted: str, value: object) -> Any:  # noqa: ANN401 - None
        field = f"{path}: " if path else ""
        what = f"{field}expected {wanted} and not {quoted(value)}"
        self.problems.append(error(what, self._where))
        return None


_WRAPPED = {
    "*pb.BoolValue": "bool",
    "*pb.Int32Value": "int32",
    "*pb.Int64Value": "int64",
    "*pb.UInt32Value": "uint32",
    "*pb.DoubleValue": "double",
    "*pb.StringValue": "string",
}
_RANGES = {
    "int32": range(-(2**31), 2**31),
    "uint32": range(2**32),
    "int64": range(-(2**63), 2**63),
    "uint64": range(2**64),
}
_WANTED = {
    "string": "text",
    "bool": "true or false",
    "double": "a number",
    "*pb.Duration": "a duration such as 45s or 1m30s",
    **{kind: f"a whole number of {kind.strip('uint')} bits" for kind in _RANGES},
}


def _camel(key: str) -> str:
    """Return the JSON name of a field; protobuf's readers take ``drain_duration`` too."""
    first, *rest = key.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def _whole(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
