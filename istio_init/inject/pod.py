"""The injection of a pod: the one pure function behind ``inject`` and the webhook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from istio_init.inject.generation import OLD
from istio_init.inject.pod_1_0 import inject_1_0
from istio_init.inject.pod_1_30 import inject_1_30
from istio_init.inject.pod_fields import POD
from istio_init.inject.pod_values import MANIFEST, REQUEST, read_value
from istio_init.inject.problems import InjectionError, error
from istio_init.inject.request import Injection, PodRequest

if TYPE_CHECKING:
    from istio_init.inject.settings import Settings

__all__ = ["Injection", "PodRequest", "inject_pod"]


def inject_pod(request: PodRequest, settings: Settings) -> Injection:
    """Return the pod of a request with what the settings add to it.

    Whether a pod is injected at all is decided elsewhere (``policy``). An injected pod is
    taken back to what it was before, so that the result is that of its original. Nothing
    that is given is changed. Raises an InjectionError with all that is wrong with the pod,
    or with what the template makes of it.
    """
    try:
        return _injected(request, settings)
    except RecursionError:
        raise InjectionError([error("the pod is nested too deeply")]) from None


def _injected(request: PodRequest, settings: Settings) -> Injection:
    pod = read_value(
        {"metadata": request.metadata, "spec": request.spec},
        POD,
        MANIFEST if request.by_hand else REQUEST,
    )
    pod = {"metadata": pod.get("metadata") or {}, "spec": pod.get("spec") or {}}
    inject = inject_1_0 if settings.generation == OLD else inject_1_30
    injected, warnings = inject(pod, request, settings)
    return Injection(injected["metadata"], injected["spec"], warnings)
