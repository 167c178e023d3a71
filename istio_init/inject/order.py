"""The order of an injected pod's containers (release 1.30)."""

from __future__ import annotations

from typing import Any

from istio_init.inject.containers import CONTAINERS, INIT_CONTAINERS, containers, with_spec
from istio_init.inject.names import CORE_DUMP, INIT, PROXY, VALIDATION

JsonMap = dict[str, Any]


def ordered(pod: JsonMap, *, hold: bool) -> JsonMap:
    """Return the pod with its containers in the order that traffic needs.

    The proxy comes last, or first where applications are held until it is ready. A proxy
    among the init containers comes right after the rules, before every other; else the
    rules come last, so that init containers still reach the network without a proxy.
    """
    last = (PROXY,)
    changed = _moved(containers(pod), first=last if hold else (), last=() if hold else last)
    init = containers(pod, INIT_CONTAINERS)
    if any(container.get("name") == PROXY for container in init):
        init = _moved(init, first=(INIT, VALIDATION, PROXY, CORE_DUMP))
    else:
        init = _moved(init, first=(VALIDATION,), last=(INIT, CORE_DUMP))
    lists = {CONTAINERS: changed, INIT_CONTAINERS: init}
    return with_spec(pod, **{field: items for field, items in lists.items() if items})


def _moved(
    items: list[JsonMap], first: tuple[str, ...] = (), last: tuple[str, ...] = ()
) -> list[JsonMap]:
    """Return the items, some names first and some last, each in the order of the names."""
    rank = {name: index - len(first) for index, name in enumerate(first)}
    rank.update((name, index + 1) for index, name in enumerate(last))
    return sorted(items, key=lambda item: rank.get(str(item.get("name")), 0))
