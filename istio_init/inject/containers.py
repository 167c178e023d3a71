"""A pod's containers: looking one up, and pods with one changed.

A pod is a dict with ``metadata`` and ``spec``. No function changes what it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from istio_init.inject.names import PROXY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

JsonMap = dict[str, Any]

CONTAINERS = "containers"
INIT_CONTAINERS = "initContainers"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a container stands: the name of the list in the spec, and the index in it."""

    field: str
    index: int


def containers(pod: JsonMap, field: str = CONTAINERS) -> list[JsonMap]:
    """Return the containers of one of a pod's lists; ``[]`` if it has none."""
    return pod["spec"].get(field) or []


def find(
    pod: JsonMap, name: str, fields: Iterable[str] = (CONTAINERS, INIT_CONTAINERS)
) -> Place | None:
    """Return where the first container of that name stands; None if there is none."""
    for field in fields:
        for index, container in enumerate(containers(pod, field)):
            if container.get("name") == name:
                return Place(field, index)
    return None


def at(pod: JsonMap, place: Place) -> JsonMap:
    """Return the container that stands there."""
    container: JsonMap = pod["spec"][place.field][place.index]
    return container


def named(
    pod: JsonMap, name: str, fields: Iterable[str] = (CONTAINERS, INIT_CONTAINERS)
) -> JsonMap | None:
    """Return the first container of that name; None if there is none."""
    place = find(pod, name, fields)
    return None if place is None else at(pod, place)


def with_spec(pod: JsonMap, **fields: Any) -> JsonMap:  # noqa: ANN401 - JSON
    """Return the pod with fields of its spec replaced; None removes one."""
    spec = {**pod["spec"], **fields}
    return {**pod, "spec": {key: value for key, value in spec.items() if value is not None}}


def with_container(pod: JsonMap, place: Place, container: JsonMap) -> JsonMap:
    """Return the pod with another container at a place."""
    changed = list(pod["spec"][place.field])
    changed[place.index] = container
    return with_spec(pod, **{place.field: changed})


def with_proxy(pod: JsonMap, change: Callable[[JsonMap], JsonMap]) -> JsonMap:
    """Return the pod with ``change`` made to its proxy; the same pod if it has none."""
    place = find(pod, PROXY)
    return pod if place is None else with_container(pod, place, change(at(pod, place)))


def with_variable(container: JsonMap, name: str, value: str) -> JsonMap:
    """Return the container with a variable at the end of its environment."""
    return {**container, "env": [*(container.get("env") or []), {"name": name, "value": value}]}


def without_variables(container: JsonMap, names: Iterable[str]) -> JsonMap:
    """Return the container without some variables."""
    gone = frozenset(names)
    kept = [one for one in container.get("env") or [] if one.get("name") not in gone]
    if len(kept) == len(container.get("env") or []):
        return container
    if kept:
        return {**container, "env": kept}
    return {key: value for key, value in container.items() if key != "env"}


def variable(container: Mapping[str, Any], name: str) -> str | None:
    """Return the value of a container's variable; None if it has no value of its own."""
    for one in container.get("env") or []:
        if one.get("name") == name:
            value = one.get("value")
            return value if isinstance(value, str) else None
    return None


def metadata_map(pod: JsonMap, field: str) -> dict[str, str]:
    """Return the pod's labels or annotations; ``{}`` if it has none."""
    return pod["metadata"].get(field) or {}


def annotations_of(pod: JsonMap) -> dict[str, str]:
    """Return the pod's annotations."""
    return metadata_map(pod, "annotations")


def with_metadata_map(pod: JsonMap, field: str, values: dict[str, str]) -> JsonMap:
    """Return the pod with other labels or annotations; ``{}`` removes the field."""
    metadata = {key: value for key, value in pod["metadata"].items() if key != field}
    if values:
        metadata[field] = values
    return {**pod, "metadata": metadata}


def with_annotations(pod: JsonMap, added: Mapping[str, str]) -> JsonMap:
    """Return the pod with some annotations set."""
    if not added:
        return pod
    return with_metadata_map(pod, "annotations", {**annotations_of(pod), **added})


def without_annotations(pod: JsonMap, keys: Iterable[str]) -> JsonMap:
    """Return the pod without some annotations."""
    gone = frozenset(keys)
    kept = {key: value for key, value in annotations_of(pod).items() if key not in gone}
    if len(kept) == len(annotations_of(pod)):
        return pod
    return with_metadata_map(pod, "annotations", kept)
