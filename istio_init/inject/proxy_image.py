"""The image, user and group of the injected proxy (release 1.30)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from istio_init.inject.containers import (
    CONTAINERS,
    INIT_CONTAINERS,
    annotations_of,
    at,
    containers,
    find,
    with_container,
)
from istio_init.inject.names import IMAGE_TYPE, INIT, PROXY, VALIDATION
from istio_init.inject.pod_values import go_text
from istio_init.rules.names import DEFAULT_PROXY_ID

if TYPE_CHECKING:
    from collections.abc import Mapping

JsonMap = dict[str, Any]

PROXY_USER = DEFAULT_PROXY_ID.low

_VARIANTS = ("-distroless", "-debug")
_RANGE = re.compile(r"\s*([0-9]{1,10})([/-])([0-9]{1,10})", re.ASCII)
_USERS = "openshift.io/sa.scc.uid-range"
_GROUPS = "openshift.io/sa.scc.supplemental-groups"
_MAX_ID = 2**32


def value_at(values: Mapping[str, Any], *keys: str) -> Any:  # noqa: ANN401 - JSON
    """Return the value under a path of keys; None if there is none."""
    found: Any = values
    for key in keys:
        if not isinstance(found, dict):
            return None
        found = found.get(key)
    return found


def proxy_image(values: Mapping[str, Any], proxy_config: JsonMap, pod: JsonMap) -> str:
    """Return the proxy's image: hub, name and tag of the values, and the variant.

    The variant is the pod's annotation, else the ProxyConfig's ``imageType``, else the
    value ``global.variant``.
    """

    def setting(*keys: str) -> str:
        return _text(value_at(values, "global", *keys))

    variant = _text(value_at(proxy_config, "image", "imageType")) or setting("variant")
    variant = annotations_of(pod).get(IMAGE_TYPE, variant)
    name = setting("proxy", "image") or "proxyv2"
    return f"{setting('hub')}/{name}:{_tag(setting('tag'), variant)}"


def _tag(tag: str, variant: str) -> str:
    if not variant:
        return tag
    for suffix in _VARIANTS:
        if tag.endswith(suffix):
            tag = tag.removesuffix(suffix)
            break
    return tag if variant == "default" else f"{tag}-{variant}"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, (bool, int, float)):
        return go_text(value)
    return value if isinstance(value, str) else ""


def openshift_ids(namespace: JsonMap | None) -> tuple[int, int]:
    """Return the user and group of the proxy in an OpenShift namespace.

    They are the last of the ranges that OpenShift gave the namespace, 1337 where it gave
    none that can be read.
    """
    found = value_at(namespace or {}, "metadata", "annotations") or {}
    users = _last_of_range(found.get(_USERS))
    groups = _last_of_range(found.get(_GROUPS, found.get(_USERS)))
    return users or PROXY_USER, groups or PROXY_USER


def _last_of_range(text: object) -> int | None:
    match = _RANGE.match(text) if isinstance(text, str) else None
    if match is None:
        return None
    first, second = int(match[1]), int(match[3])
    last = (first + second - 1) % _MAX_ID if match[2] == "/" else second
    return last if last < _MAX_ID else None


def without_shared_user(pod: JsonMap) -> JsonMap:
    """Return the pod with no user for its own proxy where that is the application's.

    OpenShift gives every container of a pod the same user, so that the rules could not
    tell the proxy's traffic from the application's.
    """
    place = find(pod, PROXY)
    if place is None or not (context := at(pod, place).get("securityContext")):
        return pod
    application = 0
    for field in (CONTAINERS, INIT_CONTAINERS):
        for container in containers(pod, field):
            if container.get("name") not in (PROXY, INIT, VALIDATION):
                user = value_at(container, "securityContext", "runAsUser")
                application = application if user is None else user
    if context.get("runAsUser", 0) != application:
        return pod
    kept = {key: one for key, one in context.items() if key not in ("runAsUser", "runAsGroup")}
    return with_container(pod, place, {**at(pod, place), "securityContext": kept})
