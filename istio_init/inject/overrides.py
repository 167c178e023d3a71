"""A user's own container of a template's name: laid over the template's, and recorded (1.30)."""

from __future__ import annotations

import json
from typing import Any

from istio_init.inject.containers import (
    CONTAINERS,
    INIT_CONTAINERS,
    annotations_of,
    at,
    containers,
    find,
    named,
    with_annotations,
    with_container,
    with_spec,
)
from istio_init.inject.merge import strategic_merge
from istio_init.inject.names import (
    AUTO_IMAGE,
    INIT,
    INTERCEPTION_MODE,
    OVERRIDES,
    PROXY,
    VALIDATION,
)
from istio_init.inject.pod_fields import CONTAINER
from istio_init.inject.pod_values import REQUEST, go_json, go_value, read_value
from istio_init.inject.problems import InjectionError, Where, error

JsonMap = dict[str, Any]


def apply_overrides(pod: JsonMap, original: JsonMap, template: JsonMap) -> tuple[JsonMap, JsonMap]:
    """Return the pod with the user's containers laid over the template's of the same name.

    Besides the pod come the containers that were laid over it, by list. The user wins
    field by field; arguments are replaced; the image ``auto`` is the template's.
    """
    given: JsonMap = {}
    for field, places in (
        (CONTAINERS, (CONTAINERS,)),
        (INIT_CONTAINERS, (CONTAINERS, INIT_CONTAINERS)),
    ):
        for container in containers(template, field):
            own = named(original, container.get("name", ""), places)
            if own is None:
                continue
            overlay = go_value(own, CONTAINER)
            if overlay.get("image") == AUTO_IMAGE:
                del overlay["image"]
            given.setdefault(field, []).append(overlay)
            pod = strategic_merge(pod, {"spec": {field: [overlay]}})
    return pod, given


def record_overrides(pod: JsonMap, given: JsonMap) -> JsonMap:
    """Return the pod with the user's containers in its annotation ``proxy.istio.io/overrides``."""
    return with_annotations(pod, {OVERRIDES: go_json(given)}) if given else pod


def read_overrides(pod: JsonMap) -> dict[str, list[JsonMap]]:
    """Return the containers that the last injection recorded, by list.

    Raises an InjectionError for a record that cannot be read.
    """
    text = annotations_of(pod).get(OVERRIDES)
    if text is None:
        return {}
    where = Where(annotation=OVERRIDES)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as bad:
        raise InjectionError([error("it is not JSON", where, why=str(bad))]) from None
    if not isinstance(data, dict):
        raise InjectionError([error("it is no mapping of containers", where)])
    found: dict[str, list[JsonMap]] = {}
    for field in (CONTAINERS, INIT_CONTAINERS):
        items = data.get(field) or []
        if not isinstance(items, list) or not all(isinstance(one, dict) for one in items):
            raise InjectionError([error(f"its {field} is no list of containers", where)])
        try:
            found[field] = [read_value(one, CONTAINER, REQUEST, field) for one in items]
        except InjectionError as bad:
            raise bad.within(where) from None
    return found


def move_proxy(pod: JsonMap) -> JsonMap:
    """Return the pod with the user's proxy moved to its init containers."""
    place = find(pod, PROXY, (CONTAINERS,))
    if place is None:
        return pod
    proxy = at(pod, place)
    rest = [one for one in containers(pod) if one is not proxy]
    init = [*containers(pod, INIT_CONTAINERS), proxy]
    return with_spec(pod, **{CONTAINERS: rest, INIT_CONTAINERS: init})


def follow_proxy_user(pod: JsonMap, original: JsonMap, *, tproxy: bool) -> JsonMap:
    """Return the pod with its init container told of the user that the proxy runs as.

    Only where a user's own proxy names one. The flag ``-u`` follows unless it is 0, which
    iptables cannot exempt; istio-validation runs as the same user. Under TPROXY the proxy
    itself stays root.
    """
    own = named(original, PROXY)
    context = (own or {}).get("securityContext") or {}
    user, group = context.get("runAsUser"), context.get("runAsGroup")
    place = find(pod, INIT, (INIT_CONTAINERS,)) or find(pod, VALIDATION, (INIT_CONTAINERS,))
    if (user is None and group is None) or place is None:
        return pod
    proxy = find(pod, PROXY)
    if (tproxy or annotations_of(pod).get(INTERCEPTION_MODE) == "TPROXY") and proxy is not None:
        tproxy = True
        if user is not None:
            pod = with_container(pod, proxy, _running_as(at(pod, proxy), 0, None))
    init = at(pod, place)
    if not tproxy and init.get("name") == VALIDATION:
        init = _running_as(init, user, group)
    if user:
        init = _exempting(init, user)
    return with_container(pod, place, init)


def _running_as(container: JsonMap, user: int | None, group: int | None) -> JsonMap:
    context = dict(container.get("securityContext") or {})
    if user is not None:
        context["runAsUser"] = user
    if group is not None:
        context["runAsGroup"] = group
    return {**container, "securityContext": context}


def _exempting(container: JsonMap, user: int) -> JsonMap:
    arguments = list(container.get("args") or [])
    if "-u" not in arguments[:-1]:
        return container
    arguments[arguments.index("-u") + 1] = str(user)
    return {**container, "args": arguments}
