"""The injection of a pod as Istio 1.0 makes it: by hand, and by its webhook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from istio_init.inject import yaml
from istio_init.inject.annotations import problems as annotation_problems
from istio_init.inject.api_defaults import with_defaults
from istio_init.inject.containers import (
    CONTAINERS,
    INIT_CONTAINERS,
    containers,
    with_annotations,
    with_spec,
)
from istio_init.inject.data import data_1_0
from istio_init.inject.generation import OLD
from istio_init.inject.names import STATUS
from istio_init.inject.pod_fields import CONTAINER, VOLUME, FieldType, Shape, struct_type
from istio_init.inject.pod_values import OLD_TEMPLATE, read_value
from istio_init.inject.problems import (
    InjectionError,
    Problem,
    Where,
    error,
    has_errors,
    quoted,
    warning,
)
from istio_init.inject.recover import recover_original
from istio_init.inject.settings import SIDECAR
from istio_init.inject.status import LISTS, old_status_text, read_status
from istio_init.inject.template import TemplateError

if TYPE_CHECKING:
    from istio_init.inject.request import PodRequest
    from istio_init.inject.settings import Settings

JsonMap = dict[str, Any]

_ITEMS: dict[str, FieldType] = {
    INIT_CONTAINERS: FieldType(Shape.LIST, CONTAINER),
    CONTAINERS: FieldType(Shape.LIST, CONTAINER),
    "volumes": FieldType(Shape.LIST, VOLUME),
    "imagePullSecrets": FieldType(Shape.LIST, struct_type("LocalObjectReference")),
}


def inject_1_0(
    pod: JsonMap, request: PodRequest, settings: Settings
) -> tuple[JsonMap, tuple[Problem, ...]]:
    """Return the injected pod, and what is odd about the original.

    Raises an InjectionError for bad annotations, all of them, and for a template that
    fails or gives no containers.
    """
    problems = list(annotation_problems(pod["metadata"], OLD))
    if has_errors(problems):
        raise InjectionError(problems)
    if not request.by_hand:
        pod = recover_original(pod)
    elif (status := read_status(pod)) is not None:
        if status.own or not status.version:
            pod = recover_original(pod)
        else:
            problems.append(_injected_twice())
    added = _added(pod, request, settings)
    for field in LISTS[:3] if request.by_hand else LISTS:
        if added[field]:
            pod = with_spec(pod, **{field: [*containers(pod, field), *added[field]]})
    text = old_status_text(added, settings.version)
    return with_annotations(pod, {STATUS: text}), tuple(problems)


def _injected_twice() -> Problem:
    return warning(
        "it was injected before, by another program of release 1.0",
        Where(annotation=STATUS),
        why="its containers now stand twice, as with that program",
        remedy="uninject it first",
    )


def _added(pod: JsonMap, request: PodRequest, settings: Settings) -> dict[str, list[JsonMap]]:
    """Return what the template adds to the pod's lists."""
    where = Where(path="template")
    data = data_1_0(
        metadata=pod["metadata"],
        spec=pod["spec"],
        mesh=settings.mesh,
        proxy_config=settings.mesh["defaultConfig"],
    )
    try:
        text = settings.templates[SIDECAR].render(data)
    except TemplateError as bad:
        raise InjectionError([error("it cannot be rendered", where, why=str(bad))]) from None
    rendered = yaml.load(text)
    if rendered is not None and not isinstance(rendered, dict):
        raise InjectionError([error(f"it renders to {quoted(rendered)}, not to a mapping", where)])
    added: dict[str, list[JsonMap]] = {}
    for field, kind in _ITEMS.items():
        items = read_value((rendered or {}).get(field), kind, OLD_TEMPLATE, f"template.{field}")
        added[field] = items or []
    return added if request.by_hand else with_defaults(added)
