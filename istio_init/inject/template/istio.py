"""The functions that Istio's injector adds to templates.

Istio 1.0 has two of them, 1.30 all; INJECTION's table of them is the source. Where
sprig has a function of the same name, these win.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from istio_init.inject.template.budget import PartCounter
from istio_init.inject.template.durations import MAX_DURATION, duration_text
from istio_init.inject.template.errors import FunctionError, LimitError
from istio_init.inject.template.functions import Registry
from istio_init.inject.template.goyaml import yaml_text
from istio_init.inject.template.plain import json_text
from istio_init.inject.template.printing import MAX_TEXT, printed, sprint
from istio_init.inject.template.values import (
    NilPointer,
    StringMap,
    Struct,
    StructList,
    Value,
)

if TYPE_CHECKING:
    from istio_init.inject.template.frame import Frame

ISTIO_1_0 = Registry()
ISTIO_1_30 = Registry()

# What the environment of the injector may tell a template.
ENVIRONMENT = frozenset(
    {
        "CLUSTER_ID",
        "ENABLE_NATIVE_SIDECARS",
        "ISTIO_HUB",
        "ISTIO_TAG",
        "PILOT_CERT_PROVIDER",
        "PLATFORM",
        "POD_NAMESPACE",
        "REVISION",
        "TRUST_DOMAIN",
    }
)


def _nanoseconds(duration: Struct | None) -> int:
    if duration is None:
        return 0
    value = duration.data.get("nanoseconds")
    return max(-MAX_DURATION, min(MAX_DURATION, value)) if isinstance(value, int) else 0


@ISTIO_1_0.add("formatDuration", "*durationpb.Duration", gives_text=False)
def _format_duration_1_0(duration: Struct | None) -> str:
    return "1s" if duration is None else duration_text(_nanoseconds(duration))


@ISTIO_1_30.add("formatDuration", "*durationpb.Duration", gives_text=False)
def _format_duration(duration: Struct | None) -> str:
    return duration_text(_nanoseconds(duration))


@ISTIO_1_0.add("isset", "map[string]string; string", gives_text=False)
@ISTIO_1_30.add("isset", "map[string]string; string", gives_text=False)
def _isset(values: StringMap, key: str) -> bool:
    return key in values


@ISTIO_1_30.add("annotation", "v1.ObjectMeta; string; any", gives_text=False)
def _annotation(meta: Struct, name: str, default: Value) -> Value:
    annotations = meta.member("Annotations")
    if isinstance(annotations, dict) and name in annotations:
        return annotations[name]
    if isinstance(default, str):
        return default
    return sprint((default,))


@ISTIO_1_30.add("valueOrDefault", "any; any", gives_text=False)
def _value_or_default(value: Value, default: Value) -> Value:
    return default if value is None or (isinstance(value, str) and not value) else value


# Ports


@ISTIO_1_30.add("excludeInboundPort", "any; string")
def _exclude_inbound_port(port: Value, excluded: str) -> str:
    text = printed(port).strip()
    if text in {"", "0"}:
        return excluded
    known = excluded.split(",")
    if text in known:
        return excluded
    kept = [item.strip() for item in known if item.strip()]
    return ",".join([*kept, text])


def _ports(containers: list[Value], *, with_proxy: bool) -> str:
    found = []
    for container in containers:
        if not isinstance(container, Struct):
            continue
        if not with_proxy and container.member("Name") == "istio-proxy":
            continue
        ports = container.member("Ports")
        found += [
            printed(port.member("ContainerPort"))
            for port in (ports if isinstance(ports, StructList) else [])
            if isinstance(port, Struct) and port.member("Protocol") not in {"UDP", "SCTP"}
        ]
    return ",".join(found)


@ISTIO_1_30.add("includeInboundPorts", "[]v1.Container", gives_text=False)
def _include_inbound_ports(containers: list[Value]) -> str:
    return _ports(containers, with_proxy=True)


@ISTIO_1_30.add("applicationPorts", "[]v1.Container", gives_text=False)
def _application_ports(containers: list[Value]) -> str:
    return _ports(containers, with_proxy=False)


@ISTIO_1_30.add("kubevirtInterfaces excludeInterfaces", "string")
def _same(text: str) -> str:
    return text


# YAML and JSON


@ISTIO_1_30.add("toYaml", "any")
def _to_yaml(value: Value) -> str:
    return yaml_text(value)


@ISTIO_1_30.add("toJSON", "map[string]string", json=True)
def _to_json(values: StringMap) -> str:
    return json_text(values)


@ISTIO_1_30.add("toJsonMap", "...map[string]string", json=True)
def _to_json_map(*maps: StringMap) -> str:
    return json_text(_merged(maps))


@ISTIO_1_30.add("structToJSON", "any", json=True)
def _struct_to_json(value: Value) -> str:
    return "{}" if value is None else json_text(value)


@ISTIO_1_30.add("protoToJSON", "message", json=True)
def _proto_to_json(message: Value) -> str:
    if message is None or isinstance(message, NilPointer):
        return "{}"
    return json_text(message, markup=False)


def read_json(text: str) -> Value:
    """Return JSON as Go reads it into an interface: every number is a float64.

    Raises:
        FunctionError: the text is no JSON, or is nested too deeply.
    """
    try:
        return json.loads(
            text,
            parse_int=_float,
            parse_constant=_refuse,
            parse_float=_float,
            object_pairs_hook=dict,
        )
    except (ValueError, RecursionError) as error:
        raise FunctionError(f"it is no JSON: {error}") from None


def _float(text: str) -> float:
    value = float(text)
    if abs(value) == float("inf"):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no number")


@ISTIO_1_30.add("fromJSON", "string")
def _from_json(text: str) -> Value:
    try:
        return read_json(text)
    except FunctionError:
        return "{}"


# Maps


def _merged(maps: tuple[StringMap, ...]) -> StringMap:
    merged = StringMap()
    for values in maps:
        merged.update(values)
    return merged


@ISTIO_1_30.add("mergeMaps", "...map[string]string")
def _merge_maps(*maps: StringMap) -> StringMap:
    return _merged(maps)


@ISTIO_1_30.add("omit", "map[string]string; ...string")
def _omit(values: StringMap, *keys: str) -> StringMap:
    return StringMap({key: value for key, value in values.items() if key not in keys})


@ISTIO_1_30.add("strdict", "...string")
def _strdict(*words: str) -> StringMap:
    values = (*words, "") if len(words) % 2 else words
    return StringMap(zip(values[::2], values[1::2], strict=True))


@ISTIO_1_30.add("omitNil", "any")
def _omit_nil(value: Value) -> Value:
    return without_nil(value, PartCounter())


def without_nil(value: Value, parts: PartCounter) -> Value:
    """Return a value without nil, and without maps and lists that held nothing else."""
    parts.one()
    if isinstance(value, dict) and not isinstance(value, StringMap):
        kept = {key: without_nil(item, parts) for key, item in value.items()}
        kept = {key: item for key, item in kept.items() if item is not None}
        return kept if kept or not value else None
    if isinstance(value, list) and not isinstance(value, StructList):
        items = [without_nil(item, parts) for item in value]
        items = [item for item in items if item is not None]
        return items if items or not value else None
    return value


# Text


@ISTIO_1_30.add("indent", "int; string")
def _indent(spaces: int, text: str) -> str:
    lines = text.split("\n")
    # Printf pads by a width's size, on whichever side.
    width = abs(spaces)
    if width * len(lines) + len(text) > MAX_TEXT:
        raise LimitError(f"the text would be longer than {MAX_TEXT} characters")
    return ("\n" + " " * width).join(lines)


@ISTIO_1_30.add("directory", "string")
def _directory(path: str) -> str:
    return path[: path.rfind("/") + 1]


@ISTIO_1_30.add("contains", "string; string", gives_text=False)
def _contains(needle: str, haystack: str) -> bool:
    return needle in haystack


@ISTIO_1_30.add("toLower", "string")
def _to_lower(text: str) -> str:
    return text.lower()


@ISTIO_1_30.add("env", "string; string", gives_text=False, wants_frame=True)
def _env(frame: Frame, name: str, default: str) -> str:
    if name not in ENVIRONMENT and frame.environment.get(name):
        raise FunctionError(
            f"templates may not read {name} from the environment, "
            f"only {', '.join(sorted(ENVIRONMENT))}"
        )
    return frame.environment.get(name, "") or default


@ISTIO_1_30.add("appendMultusNetwork", "string; string")
def _append_multus_network(known: str, network: str) -> str:
    if not known:
        return network
    end = known.rfind("]")
    if end >= 0:
        try:
            networks = read_json(known)
        except FunctionError:
            return known
        if not isinstance(networks, list) or not all(isinstance(item, dict) for item in networks):
            return known
        namespace, _, name = network.rpartition("/")
        added = {"name": name, "namespace": namespace} if namespace else {"name": name}
        if any(added.items() <= item.items() for item in networks):
            return known
        return f"{known[:end]}{', ' if networks else ''}{json.dumps(added)}{known[end:]}"
    if network in [item.strip() for item in known.split(",")]:
        return known
    return f"{known}, {network}"


# OpenTelemetry

_OTEL = "resource.opentelemetry.io/"
_ENRICHED = "OTEL_SEMANTIC_CONVENTIONS"


@ISTIO_1_30.add(
    "otelResourceAttributes",
    "*v1alpha1.MeshConfig; map[string]string; map[string]string; string; []v1.Container",
)
def _otel_resource_attributes(
    mesh: Struct | None,
    annotations: StringMap,
    labels: StringMap,
    namespace: str,
    containers: list[Value],
) -> str:
    if mesh is None or not _enriches(mesh.data.get("extensionProviders")):
        return ""
    names = [
        str(container.member("Name")) for container in containers if isinstance(container, Struct)
    ]
    images = [
        str(container.member("Image")) for container in containers if isinstance(container, Struct)
    ]
    version = annotations.get(_OTEL + "service.version", "") or labels.get(
        "app.kubernetes.io/version", ""
    )
    if not version and len(images) == 1:
        version = image_version(images[0])
    instance = annotations.get(_OTEL + "service.instance.id", "")
    if not instance and names:
        instance = f"{namespace}.$(POD_NAME).{names[0]}"
    found = {
        "service.namespace": annotations.get(_OTEL + "service.namespace", "") or namespace,
        "service.version": version,
        "service.instance.id": instance,
    }
    return ",".join(f"{key}={value}" for key, value in found.items() if value)


def _enriches(providers: object) -> bool:
    """Return whether an extension provider wants OpenTelemetry's attributes of the workload."""
    if not isinstance(providers, list):
        return False
    return any(
        isinstance(settings, dict) and settings.get("serviceAttributeEnrichment") == _ENRICHED
        for provider in providers
        if isinstance(provider, dict)
        for settings in provider.values()
    )


def image_version(image: str) -> str:
    """Return the tag of an image, its digest, or both as ``tag@digest``; ``""`` if it has none."""
    name, _, digest = image.partition("@")
    _, _, tag = name.rpartition("/")[2].partition(":")
    if tag and digest:
        return f"{tag}@{digest}"
    return tag or digest
