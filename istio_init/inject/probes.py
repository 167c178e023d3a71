"""Probes and hooks of the application, led through the proxy's agent, and back.

The agent has no certificate to ask the application with, and no port of the application
answers without one; so it is the agent that the kubelet asks, and the agent that asks the
application. Paths and the saved form are Istio's (release 1.30).
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

from istio_init.inject.containers import (
    CONTAINERS,
    INIT_CONTAINERS,
    containers,
    variable,
    with_proxy,
    with_spec,
    with_variable,
    without_variables,
)
from istio_init.inject.merge import without_nulls
from istio_init.inject.names import PROBES_VARIABLE, PROXY
from istio_init.inject.pod_fields import HANDLER, PROBE
from istio_init.inject.pod_values import REQUEST, go_json, go_value, read_value
from istio_init.inject.problems import InjectionError

if TYPE_CHECKING:
    from collections.abc import Iterator

JsonMap = dict[str, Any]

# Field of the container, or of its lifecycle, and the last word of the path.
_PROBES = (("readinessProbe", "readyz"), ("livenessProbe", "livez"), ("startupProbe", "startupz"))
_HOOKS = (("preStop", "prestopz"), ("postStart", "poststartz"))
_PROBE_ACTIONS = ("httpGet", "tcpSocket", "grpc")
_HOOK_ACTIONS = ("httpGet", "tcpSocket")

_WORD_OF = dict((*_PROBES, *_HOOKS))
_PATH = re.compile(r"/(app-health|app-lifecycle)/([^/]+)/([a-z]+)")


def _path(container: JsonMap, field: str) -> str:
    group = "app-lifecycle" if field in dict(_HOOKS) else "app-health"
    return f"/{group}/{container.get('name', '')}/{_WORD_OF[field]}"


def save_probes(pod: JsonMap, status_port: int) -> dict[str, JsonMap]:
    """Return what the agent has to ask: an action for each path, sorted.

    Names of ports become numbers. A probe of a port that the container does not name, and
    one of the agent's own port, are left out.
    """
    saved: dict[str, JsonMap] = {}
    for container in _applications(pod):
        ports = {
            port["name"]: port.get("containerPort")
            for port in container.get("ports") or []
            if port.get("name")
        }
        for field, handler in _handlers(container):
            action = _saved_action(handler, field, ports, status_port)
            if action is not None:
                saved[_path(container, field)] = action
    return dict(sorted(saved.items()))


def _applications(pod: JsonMap) -> Iterator[JsonMap]:
    for field in (INIT_CONTAINERS, CONTAINERS):
        for container in containers(pod, field):
            if container.get("name") != PROXY:
                yield container


def _handlers(container: JsonMap) -> Iterator[tuple[str, JsonMap]]:
    for field, _ in _PROBES:
        if isinstance(container.get(field), dict):
            yield field, container[field]
    lifecycle = container.get("lifecycle")
    if isinstance(lifecycle, dict):
        for field, _ in _HOOKS:
            if isinstance(lifecycle.get(field), dict):
                yield field, lifecycle[field]


def _saved_action(
    handler: JsonMap, field: str, ports: dict[str, Any], status_port: int
) -> JsonMap | None:
    probe = field in dict(_PROBES)
    kind = next((one for one in _actions(probe=probe) if handler.get(one) is not None), None)
    if kind is None:
        return None
    action = go_value(handler, PROBE if probe else HANDLER)[kind]
    if kind != "grpc":
        port = action.get("port")
        if isinstance(port, str):
            if port not in ports:
                return None
            action = {**action, "port": ports[port]}
        elif port == status_port:
            return None
    saved = {kind: action}
    if probe and handler.get("timeoutSeconds"):
        saved["timeoutSeconds"] = handler["timeoutSeconds"]
    return saved


def _actions(*, probe: bool) -> tuple[str, ...]:
    return _PROBE_ACTIONS if probe else _HOOK_ACTIONS


def rewrite_probes(pod: JsonMap, saved: dict[str, JsonMap], port: int) -> JsonMap:
    """Return the pod with its probes and hooks asking the agent's ``port``, and ``saved`` told."""

    def rewritten(field: str, handler: JsonMap, container: JsonMap) -> JsonMap:
        actions = _actions(probe=field in dict(_PROBES))
        kind = next((one for one in actions if handler.get(one) is not None), None)
        if kind is None:
            return handler
        old = handler[kind] if kind == "httpGet" else {}
        action = {**old, "path": _path(container, field), "port": port}
        if action.get("scheme") == "HTTPS":
            action["scheme"] = "HTTP"
        rest = {key: value for key, value in handler.items() if key != kind}
        return {**rest, "httpGet": action}

    pod = _change_handlers(pod, rewritten)
    if not saved:
        return pod
    text = go_json(saved)
    return with_proxy(pod, lambda proxy: with_variable(proxy, PROBES_VARIABLE, text))


def restore_probes(pod: JsonMap, proxy: JsonMap) -> JsonMap:
    """Return the pod with the probes that its proxy's container has saved.

    What cannot be read, or is no longer asked through the agent, stays as it is.
    """
    saved = read_saved_probes(proxy)

    def restored(field: str, handler: JsonMap, container: JsonMap) -> JsonMap:
        path = _path(container, field)
        action = handler.get("httpGet")
        original = saved.get(path)
        if original is None or not isinstance(action, dict) or action.get("path") != path:
            return handler
        rest = {key: value for key, value in handler.items() if key != "httpGet"}
        found = {key: value for key, value in original.items() if key in _PROBE_ACTIONS}
        return {**rest, **without_nulls(found)}

    return _change_handlers(pod, restored) if saved else pod


def read_saved_probes(proxy: JsonMap) -> dict[str, JsonMap]:
    """Return the probes that a proxy's container has saved, by path; ``{}`` if it has none."""
    text = variable(proxy, PROBES_VARIABLE)
    try:
        saved = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(saved, dict):
        return {}
    found: dict[str, JsonMap] = {}
    for path, action in saved.items():
        if _PATH.fullmatch(path) and isinstance(action, dict):
            with contextlib.suppress(InjectionError):
                found[path] = read_value(action, PROBE, REQUEST)
    return found


def without_saved_probes(proxy: JsonMap) -> JsonMap:
    """Return the proxy's container without what it has saved of probes."""
    return without_variables(proxy, (PROBES_VARIABLE,))


def _change_handlers(pod: JsonMap, change: Any) -> JsonMap:  # noqa: ANN401 - a function of three
    changes: JsonMap = {}
    for field in (INIT_CONTAINERS, CONTAINERS):
        old = containers(pod, field)
        new = [one if one.get("name") == PROXY else _change_container(one, change) for one in old]
        if any(one is not other for one, other in zip(old, new, strict=True)):
            changes[field] = new
    return with_spec(pod, **changes) if changes else pod


def _change_container(container: JsonMap, change: Any) -> JsonMap:  # noqa: ANN401 - as above
    changed: JsonMap = {}
    hooks: JsonMap = {}
    for field, handler in _handlers(container):
        new = change(field, handler, container)
        if new is handler:
            continue
        (changed if field in dict(_PROBES) else hooks)[field] = new
    if hooks:
        changed["lifecycle"] = {**container["lifecycle"], **hooks}
    return {**container, **changed} if changed else container
