"""What becomes of a pod that is created: the decision, the injection, and the reason in words."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from istio_init.inject.pod import inject_pod
from istio_init.inject.policy import decide, subject_of
from istio_init.inject.problems import InjectionError
from istio_init.inject.request import PodRequest
from istio_init.inject.webhook import Admission, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from istio_init.inject.gates import Decision
    from istio_init.inject.problems import Problem
    from istio_init.inject.settings import Settings
    from istio_init.inject.webhook import AdmissionRequest

# The reasons of refusals, for metrics.
BAD_ANNOTATION, BAD_POD = "bad-annotation", "bad-pod"


def admit_with(load_settings: Callable[[], Settings]) -> Callable[[AdmissionRequest], Admission]:
    """Return the function that decides about pods with the settings that are loaded.

    Raises:
        InjectionError: The settings are no good.
    """
    return partial(admit, load_settings())


def admit(settings: Settings, request: AdmissionRequest) -> Admission:
    """Return what becomes of a pod: injected, let through, or refused, and why."""
    metadata, spec = request.pod["metadata"], request.pod["spec"]
    subject = subject_of(metadata, spec, namespace=request.namespace)
    decision = decide(subject, settings.policy)
    if not decision.inject:
        return Admission(
            Outcome.SKIPPED,
            str(decision.reason),
            _sentence(decision),
            warnings=(_sentence(decision), *decision.warnings),
        )
    pod_request = PodRequest(
        metadata,
        spec,
        namespace=request.namespace,
        namespace_object=request.namespace_object,
        environment=request.environment,
    )
    try:
        injection = inject_pod(pod_request, settings)
    except InjectionError as error:
        return Admission(Outcome.REFUSED, _reason(error.problems), str(error))
    return Admission(
        Outcome.INJECTED,
        str(decision.reason),
        decision.text,
        pod={**request.pod, "metadata": injection.metadata, "spec": injection.spec},
        warnings=(*decision.warnings, *map(str, injection.warnings)),
    )


def _sentence(decision: Decision) -> str:
    text = f"not injected: {decision.text}"
    return f"{text}; {decision.remedy.text}" if decision.remedy else text


def _reason(problems: tuple[Problem, ...]) -> str:
    return BAD_ANNOTATION if any(one.where.annotation for one in problems) else BAD_POD
