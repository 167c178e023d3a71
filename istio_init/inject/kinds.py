"""Which kinds carry a pod, and where its metadata and spec stand.

Each generation of Istio knows some kinds in some versions; everything else goes
through an injection untouched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from istio_init.inject.generation import NEW, OLD
from istio_init.inject.problems import InjectionError, Where, error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.inject.generation import Generation
    from istio_init.inject.plain_data import PlainValue

JsonMap = dict[str, Any]
Path = tuple[str | int, ...]

_POD: Final[tuple[Path, Path]] = (("metadata",), ("spec",))
_TEMPLATE: Final[tuple[Path, Path]] = (
    ("spec", "template", "metadata"),
    ("spec", "template", "spec"),
)
# Istio reads and writes the metadata of the job, not of its pods, in both
# generations: an annotation of the pods has no effect, and they carry no status.
_CRON_JOB: Final[tuple[Path, Path]] = (
    ("spec", "jobTemplate", "metadata"),
    ("spec", "jobTemplate", "spec", "template", "spec"),
)
_LIST: Final = ("v1", "List")
_REPLICATION_CONTROLLER: Final = ("v1", "ReplicationController")

# Istio knows these kinds in every version: what an older API server had under
# apps/v1beta1 is injected by 1.30 too.
_VERSIONS: Final[dict[str, tuple[str, ...]]] = {
    "Pod": ("v1",),
    "ReplicationController": ("v1",),
    **dict.fromkeys(
        ("Deployment", "DaemonSet", "ReplicaSet", "StatefulSet"),
        ("apps/v1", "apps/v1beta2", "apps/v1beta1", "extensions/v1beta1"),
    ),
    "Job": ("batch/v1",),
    "CronJob": ("batch/v1", "batch/v1beta1", "batch/v2alpha1"),
    "DeploymentConfig": ("apps.openshift.io/v1", "v1"),
}
_PLACES: Final[dict[str, tuple[Path, Path]]] = {"Pod": _POD, "CronJob": _CRON_JOB}

PLACES: Final[dict[Generation, dict[tuple[str, str], tuple[Path, Path]]]] = {
    generation: {
        (version, kind): _PLACES.get(kind, _TEMPLATE)
        for kind, versions in _VERSIONS.items()
        for version in versions
    }
    for generation in (OLD, NEW)
}
"""Where metadata and spec of the pod stand, by generation and by version and kind."""

ALL_PLACES: Final = PLACES[OLD] | PLACES[NEW]
"""The same of both generations together: what an ``uninject`` looks at."""


@dataclass(frozen=True, slots=True)
class PodCarrier:
    """One object of a document that carries a pod.

    ``path`` leads from the document to the object, ``metadata_path`` and
    ``spec_path`` from the document to the pod's. ``metadata`` and ``spec`` are
    empty where the object has none. ``object_name`` and ``object_namespace``
    are the object's own.
    """

    api_version: str
    kind: str
    object_name: str
    object_namespace: str
    path: Path
    metadata_path: Path
    spec_path: Path
    metadata: JsonMap
    spec: JsonMap

    @property
    def is_pod(self) -> bool:
        """Whether the object is a pod, and no template of one."""
        return self.kind == "Pod"

    @property
    def where(self) -> Where:
        """The object, as problems name it."""
        return Where(kind=self.kind, name=self.object_name, namespace=self.object_namespace)

    def replaced(self, document: PlainValue, metadata: JsonMap, spec: JsonMap) -> PlainValue:
        """Return the document with another pod; what does not change is shared with the old one.

        Metadata that the object lacks is only added if there is something in it.
        """
        if metadata or self.metadata:
            document = _with(document, self.metadata_path, metadata)
        return _with(document, self.spec_path, spec)


def pod_carriers(
    document: PlainValue,
    places: dict[tuple[str, str], tuple[Path, Path]],
) -> Iterator[PodCarrier]:
    """Yield the objects of a document that carry a pod, those of nested Lists too.

    ``places`` is ``PLACES`` of one generation, or ``ALL_PLACES``. Raises an
    ``InjectionError`` for an object in which something else stands where the
    pod should, and for a ReplicationController without a template, which Istio
    refuses too.
    """
    yield from _carriers(document, places, ())


def _carriers(
    value: PlainValue,
    places: dict[tuple[str, str], tuple[Path, Path]],
    path: Path,
) -> Iterator[PodCarrier]:
    if not isinstance(value, dict):
        return
    version, kind = value.get("apiVersion"), value.get("kind")
    if (version, kind) == _LIST:
        items = value.get("items")
        for index, item in enumerate(items if isinstance(items, list) else ()):
            yield from _carriers(item, places, (*path, "items", index))
        return
    if not isinstance(version, str) or not isinstance(kind, str):
        return
    place = places.get((version, kind))
    if place is not None:
        yield _carrier(value, version, kind, place, path)


def _carrier(
    value: JsonMap, version: str, kind: str, place: tuple[Path, Path], path: Path
) -> PodCarrier:
    metadata = value.get("metadata")
    own = metadata if isinstance(metadata, dict) else {}
    name, namespace = _text(own.get("name") or own.get("generateName")), _text(own.get("namespace"))
    where = Where(kind=kind, name=name, namespace=namespace)
    metadata_path, spec_path = place
    if (version, kind) == _REPLICATION_CONTROLLER and _at(value, spec_path[:-1], where) is None:
        why = "a ReplicationController makes its pods from spec.template"
        raise InjectionError([error("no pod template", where, why=why)])
    return PodCarrier(
        version,
        kind,
        name,
        namespace,
        path,
        path + metadata_path,
        path + spec_path,
        _at(value, metadata_path, where) or {},
        _at(value, spec_path, where) or {},
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _at(value: JsonMap, path: Path, where: Where) -> JsonMap | None:
    """Return the map at a path, None if it or a map on the way is missing or null."""
    here: PlainValue = value
    for depth, key in enumerate(path, 1):
        here = here.get(key)
        if here is None:
            return None
        if not isinstance(here, dict):
            at = ".".join(str(one) for one in path[:depth])
            raise InjectionError([error("not a map", where, why=f"{at} has to be one")])
    return here if isinstance(here, dict) else None


def map_at(value: object, path: Path) -> JsonMap:
    """Return the map at a path, empty where there is none."""
    for key in path:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int):
            value = value[key]
        else:
            return {}
    return value if isinstance(value, dict) else {}


def _with(value: PlainValue, path: Path, new: PlainValue) -> PlainValue:
    if not path:
        return new
    key, rest = path[0], path[1:]
    if isinstance(value, list) and isinstance(key, int):
        return [*value[:key], _with(value[key], rest, new), *value[key + 1 :]]
    value = value or {}
    inner = _with(value.get(key), rest, new)
    return value if inner is value.get(key) else {**value, key: inner}
