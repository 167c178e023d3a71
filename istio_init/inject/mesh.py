"""MeshConfig and ProxyConfig: defaults of both generations, checks, and how files are merged.

Plain data with protobuf's JSON names. From Istio's ``mesh/v1alpha1`` (``proxy.proto``,
``config.proto``), releases 1.0 and 1.30.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from istio_init.inject.generation import NEW, OLD
from istio_init.inject.pod_values import go_json
from istio_init.inject.problems import NOWHERE, InjectionError, Problem, Where, error, quoted
from istio_init.rules.names import INBOUND_PORT, OUTBOUND_PORT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.inject.generation import Generation

JsonMap = dict[str, Any]

# Types: s text, i whole number, I the same or unset, b truth value, B the same or unset,
# d duration, [s] list of texts, {s} map of texts, m message, [m] list of messages, f number;
# words between bars are an enum's. In the order of the protobuf declaration.
_PROXY_1_30 = """
configPath:s binaryPath:s serviceCluster:s
tracingServiceName:APP_LABEL_AND_NAMESPACE|CANONICAL_NAME_ONLY|CANONICAL_NAME_AND_NAMESPACE
drainDuration:d parentShutdownDuration:d discoveryAddress:s discoveryRefreshDelay:d
zipkinAddress:s statsdUdpAddress:s envoyMetricsServiceAddress:s proxyAdminPort:i
availabilityZone:s controlPlaneAuthPolicy:NONE|MUTUAL_TLS|INHERIT customConfigFile:s
statNameLength:i concurrency:I proxyBootstrapTemplatePath:s
interceptionMode:REDIRECT|TPROXY|NONE tracing:m sds:m envoyAccessLogService:m
envoyMetricsService:m proxyMetadata:{s} runtimeValues:{s} statusPort:i extraStatTags:[s]
gatewayTopology:m terminationDrainDuration:d meshId:s readinessProbe:m proxyStatsMatcher:m
holdApplicationUntilProxyStarts:B caCertificatesPem:[s] image:m privateKeyProvider:m
proxyHeaders:m fileFlushInterval:d fileFlushMinSizeKb:I statsEvictionInterval:d
statsCompression:B
"""
_PROXY_1_0 = """
configPath:s binaryPath:s serviceCluster:s drainDuration:d parentShutdownDuration:d
discoveryAddress:s discoveryRefreshDelay:d zipkinAddress:s connectTimeout:d statsdUdpAddress:s
proxyAdminPort:i availabilityZone:s controlPlaneAuthPolicy:NONE|MUTUAL_TLS|INHERIT
customConfigFile:s statNameLength:i concurrency:i proxyBootstrapTemplatePath:s
interceptionMode:REDIRECT|TPROXY
"""
_MESH_1_30 = """
proxyListenPort:i proxyInboundListenPort:i proxyHttpPort:i connectTimeout:d trustDomain:s
trustDomainAliases:[s] rootNamespace:s enablePrometheusMerge:B inboundTrafficPolicy:m
outboundTrafficPolicy:m extensionProviders:[m] defaultProviders:m defaultConfig:m
accessLogFile:s accessLogFormat:s enableTracing:b ingressClass:s ingressService:s
"""
_MESH_1_0 = """
mixerCheckServer:s mixerReportServer:s disablePolicyChecks:b policyCheckFailOpen:b
proxyListenPort:i proxyHttpPort:i connectTimeout:d ingressClass:s ingressService:s
ingressControllerMode:OFF|DEFAULT|STRICT authPolicy:NONE|MUTUAL_TLS|INHERIT rdsRefreshDelay:d
enableTracing:b accessLogFile:s defaultConfig:m mixerAddress:s outboundTrafficPolicy:m
enableClientSidePolicyCheck:b sdsUdsPath:s sdsRefreshDelay:d configSources:[m]
"""


def _fields(table: str) -> dict[str, str]:
    return dict(word.split(":", 1) for word in table.split())


_PROXY = {NEW: _fields(_PROXY_1_30), OLD: _fields(_PROXY_1_0)}
_MESH = {NEW: _fields(_MESH_1_30), OLD: _fields(_MESH_1_0)}

_DEFAULT_PROXY: dict[Generation, JsonMap] = {
    NEW: {
        "configPath": "./etc/istio/proxy",
        "binaryPath": "/usr/local/bin/envoy",
        "serviceCluster": "istio-proxy",
        "drainDuration": "45s",
        "terminationDrainDuration": "5s",
        "proxyAdminPort": 15000,
        "controlPlaneAuthPolicy": "MUTUAL_TLS",
        "discoveryAddress": "istiod.istio-system.svc:15012",
        "statNameLength": 189,
        "statusPort": 15020,
    },
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
# Types whose zero is not the same as nothing at all.
_KEEP_ZERO = ("I", "B", "m")
# Of the names of a service for tracing, the last one that is given counts.
_ONE_OF = {"serviceCluster": "tracingServiceName", "tracingServiceName": "serviceCluster"}

_DURATION = re.compile(r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:h|ms|m|s|us|µs|μs|ns))+|0")
_PART = re.compile(r"([0-9]*\.?[0-9]*)(h|ms|m|s|us|µs|μs|ns)")
_SECONDS = {
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),
    "μs": Fraction(1, 10**6),
    "ns": Fraction(1, 10**9),
}
_LONGEST_DURATION = 64


def mesh_config(data: object, generation: Generation) -> JsonMap:
    """Return the MeshConfig of a file's data over the generation's defaults.

    ``defaultConfig`` is merged field by field, its ``proxyMetadata`` key by key, and
    ``extensionProviders`` by name; any other field replaces the default. Raises an
    InjectionError for values of a wrong type, and for unknown fields in 1.0.
    """
    reader = _Messages(generation)
    given = reader.message(data, _MESH[generation], "")
    proxy = reader.message(given.pop("defaultConfig", None), _PROXY[generation], "defaultConfig")
    reader.finish()
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
    reader = _Messages(NEW, where)
    given = reader.message(data, _PROXY[NEW], "")
    reader.finish()
    return given


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


def proxy_config_json(config: Mapping[str, Any]) -> str:
    """Return what Istio's ``protoToJSON`` prints of a ProxyConfig.

    Fields that equal the defaults of 1.30, and zero ones, are left out; the others stand
    in the protobuf's order.
    """
    default = _DEFAULT_PROXY[NEW]
    result: JsonMap = {}
    for key, kind in _PROXY[NEW].items():
        value = config.get(key)
        if value is None or (key in default and _same(value, default[key], kind)):
            continue
        if kind == "d":
            result[key] = duration_json(value)
        elif kind == "{s}":
            result[key] = dict(sorted(value.items()))
        elif kind in _KEEP_ZERO or (value and value != kind.split("|")[0]):
            result[key] = value
    return go_json(
        {key: value for key, value in result.items() if value or _PROXY[NEW][key] in _KEEP_ZERO}
    )


def _same(value: object, default: object, kind: str) -> bool:
    if kind == "d" and isinstance(value, str) and isinstance(default, str):
        return duration_seconds(value) == duration_seconds(default)
    return value == default


def duration_seconds(text: str) -> Fraction:
    """Return the seconds of a duration in Go's spelling (``1h30m``, ``1.5s``).

    Raises ValueError for other text.
    """
    if len(text) > _LONGEST_DURATION or not _DURATION.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no duration such as 45s or 1m30s")
    seconds = sum(
        (
            Fraction(f"0{number}0" if "." in number else number) * _SECONDS[unit]
            for number, unit in _PART.findall(text)
        ),
        Fraction(0),
    )
    return -seconds if text.startswith("-") else seconds


def duration_json(text: str) -> str:
    """Return a duration as protobuf's JSON has it: seconds with 0, 3, 6 or 9 places."""
    nanoseconds = int(duration_seconds(text) * 10**9)
    sign = "-" if nanoseconds < 0 else ""
    seconds, rest = divmod(abs(nanoseconds), 10**9)
    if not rest:
        return f"{sign}{seconds}s"
    places = f"{rest:09d}"
    while places.endswith("000"):
        places = places[:-3]
    return f"{sign}{seconds}.{places}s"


def _by_name(old: list[JsonMap], new: list[JsonMap]) -> list[JsonMap]:
    named = {item.get("name"): item for item in old}
    named.update((item.get("name"), item) for item in new)
    return list(named.values())


class _Messages:
    """Reads protobuf messages from plain data and collects what is wrong with them."""

    def __init__(self, generation: Generation, where: Where = NOWHERE) -> None:
        self._generation = generation
        self._where = where
        self._problems: list[Problem] = []

    def finish(self) -> None:
        """Raise an InjectionError if anything was wrong."""
        if self._problems:
            raise InjectionError(self._problems)

    def message(self, data: object, fields: dict[str, str], path: str) -> JsonMap:
        """Return a message's known fields, nulls left out, in their JSON names."""
        if data is None:
            return {}
        if not isinstance(data, dict):
            self._wrong(path, "a mapping", data)
            return {}
        result: JsonMap = {}
        for key, value in data.items():
            name = _camel(str(key))
            place = f"{path}.{name}" if path else name
            if name not in fields:
                if self._generation == OLD:
                    self._unknown(place)
                elif fields is _MESH[NEW]:
                    result[name] = value
            elif value is not None:
                result[name] = self._value(value, fields[name], place)
        return result

    def _value(self, value: object, kind: str, path: str) -> Any:  # noqa: ANN401 - JSON
        match kind:
            case "s" if isinstance(value, str):
                return value
            case "b" | "B" if isinstance(value, bool):
                return value
            case "i" | "I" if (number := _int32(value)) is not None:
                return number
            case "d" if isinstance(value, str):
                try:
                    duration_seconds(value)
                except ValueError:
                    self._wrong(path, "a duration such as 45s or 1m30s", value)
                return value
            case "{s}" if isinstance(value, dict):
                return {key: self._value(item, "s", f"{path}.{key}") for key, item in value.items()}
            case "[s]" if isinstance(value, list):
                return [self._value(item, "s", f"{path}[{n}]") for n, item in enumerate(value)]
            case "[m]" if isinstance(value, list) and all(isinstance(one, dict) for one in value):
                return value
            case "m" if isinstance(value, dict):
                return value
            case _ if "|" in kind:
                return self._enum(value, kind.split("|"), path)
            case _:
                self._wrong(path, _WANTED[kind], value)
                return value

    def _enum(self, value: object, names: list[str], path: str) -> object:
        if value in names:
            return value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
            return names[value]
        self._wrong(path, f"{' or '.join(names)}, in this spelling", value)
        return value

    def _wrong(self, path: str, wanted: str, value: object) -> None:
        what = (
            f"{path}: expected {wanted} and not {quoted(value)}"
            if path
            else (f"expected {wanted} and not {quoted(value)}")
        )
        self._problems.append(error(what, self._where))

    def _unknown(self, path: str) -> None:
        what = f"{path}: release {self._generation} of Istio has no such field"
        self._problems.append(error(what, self._where, remedy="remove it"))


_WANTED = {
    "s": "text",
    "b": "true or false",
    "B": "true or false",
    "i": "a whole number of 32 bits",
    "I": "a whole number of 32 bits",
    "d": "a duration such as 45s or 1m30s",
    "{s}": "a mapping of texts",
    "[s]": "a list of texts",
    "[m]": "a list of mappings",
    "m": "a mapping",
}


def _camel(key: str) -> str:
    """Return the JSON name of a field; protobuf's readers take ``drain_duration`` too."""
    first, *rest = key.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def _int32(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,10}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if -(2**31) <= value < 2**31 else None
