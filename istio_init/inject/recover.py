"""The pod as it was before its injection, from what the injection recorded in it.

Istio records the names that it added, the user's own proxy, the probes and the
annotations for Prometheus. That is what is read here; both generations' records are.
"""

from __future__ import annotations

from typing import Any

from istio_init.inject.containers import (
    CONTAINERS,
    INIT_CONTAINERS,
    annotations_of,
    containers,
    named,
    with_spec,
    without_annotations,
    without_variables,
)
from istio_init.inject.metrics import restore_metrics
from istio_init.inject.names import (
    AUTO_IMAGE,
    METRICS_VARIABLE,
    OVERRIDES,
    PROBES_VARIABLE,
    PROXY,
    REVISION,
    STATUS,
)
from istio_init.inject.overrides import read_overrides
from istio_init.inject.probes import restore_probes
from istio_init.inject.status import LISTS, InjectionStatus, read_status
from istio_init.inject.template_metadata import without_template_metadata

JsonMap = dict[str, Any]

# What a webhook of release 1.0 takes away when the record cannot be read.
_ALWAYS_OURS = InjectionStatus(
    {
        INIT_CONTAINERS: ("istio-init", "enable-core-dump"),
        CONTAINERS: (PROXY,),
        "volumes": ("istio-certs", "istio-envoy"),
    }
)


def is_injected(pod: JsonMap) -> bool:
    """Whether a pod carries the record of an injection."""
    return STATUS in annotations_of(pod)


def recover_original(pod: JsonMap) -> JsonMap:
    """Return the pod as it was before its injection; the same pod if there was none.

    The overrides, probes and annotations that the injection kept are put back, and what it
    added by name goes; so do labels and annotations of the values that Istio's templates
    give them. Raises an InjectionError for a record of overrides that cannot be read.
    """
    return _recovered(pod, keep_proxy=False)


def older_proxy(pod: JsonMap) -> bool:
    """Whether the pod's proxy came from an injector older than the annotation ``istio.io/rev``.

    What such a proxy's container holds may be the user's as well as the template's; Istio
    keeps it as the user's own where it moves to the init containers.
    """
    status = read_status(pod)
    return (
        status is not None
        and not status.version
        and PROXY in status.of(CONTAINERS)
        and not {REVISION, OVERRIDES} & annotations_of(pod).keys()
    )


def recover_with_proxy(pod: JsonMap) -> JsonMap:
    """Return the pod as ``recover_original`` does, but with its proxy as the user's own."""
    return _recovered(pod, keep_proxy=True)


def _recovered(pod: JsonMap, *, keep_proxy: bool) -> JsonMap:
    status = read_status(pod)
    if status is None:
        return pod
    proxy = named(pod, PROXY)
    if proxy is not None:
        pod = restore_probes(pod, proxy)
    pod = restore_metrics(pod, proxy)
    overrides = _overrides(pod)
    kept = frozenset((PROXY,) if keep_proxy else ())
    bare_pod = pod
    for field in LISTS:
        names = frozenset(_names(status, field)) - kept
        if status.version:
            bare_pod = _without_last(bare_pod, field, names)
        else:
            bare_pod = _without_names(bare_pod, field, names, overrides)
    pod = without_template_metadata(bare_pod, status, proxy or {})
    pod = without_annotations(pod, (STATUS, OVERRIDES))
    if keep_proxy and proxy is not None:
        saved = (PROBES_VARIABLE, METRICS_VARIABLE)
        bare = without_variables(proxy, saved)
        own = [bare if one is proxy else one for one in containers(pod)]
        pod = with_spec(pod, **{CONTAINERS: own})
    return pod


def _overrides(pod: JsonMap) -> dict[str, list[JsonMap]]:
    """Return the recorded containers, each in the list that the user wrote it in.

    A native proxy is recorded among the init containers. The user wrote it there only if
    it says that it is to be restarted.
    """
    given = read_overrides(pod)
    init = given.get(INIT_CONTAINERS, [])
    moved = [one for one in init if one.get("name") == PROXY and "restartPolicy" not in one]
    if not moved:
        return given
    return {
        CONTAINERS: [*given.get(CONTAINERS, []), *moved],
        INIT_CONTAINERS: [one for one in init if one not in moved],
    }


def _names(status: InjectionStatus, field: str) -> tuple[str, ...]:
    return (status if status.names else _ALWAYS_OURS).of(field)


def _without_names(
    pod: JsonMap, field: str, names: frozenset[str], overrides: dict[str, list[JsonMap]]
) -> JsonMap:
    items = containers(pod, field)
    own = {one.get("name"): one for one in overrides.get(field, ())}
    kept: list[JsonMap] = []
    for item in items:
        name = item.get("name")
        if name == PROXY and name in own:
            continue
        if name in own:
            kept.append(_as_written(own.pop(name)))
        elif name not in names:
            kept.append(item)
    kept += [_as_written(one) for one in own.values()]
    if len(kept) == len(items) and all(
        one is other for one, other in zip(kept, items, strict=True)
    ):
        return pod
    return with_spec(pod, **{field: kept or None})


def _without_last(pod: JsonMap, field: str, names: frozenset[str]) -> JsonMap:
    """Return the pod without the last item of each name, and others that equal it.

    Release 1.0 appends, also where the user has one of the same name.
    """
    items = containers(pod, field)
    last = {item.get("name"): item for item in items if item.get("name") in names}
    kept = [item for item in items if item != last.get(item.get("name"))]
    return pod if len(kept) == len(items) else with_spec(pod, **{field: kept or None})


def _as_written(container: JsonMap) -> JsonMap:
    """Return a recorded container as its user wrote it: with an image, and nothing empty."""
    written = {key: value for key, value in container.items() if value not in ({}, [], None)}
    return {"image": AUTO_IMAGE, **written}
