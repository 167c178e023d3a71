"""What becomes of a pod that is created: the decision, the injection, and the reason in words."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from istio_init.inject import builtin
from istio_init.inject.pod import inject_pod
from istio_init.inject.policy import decide, subject_of
from istio_init.inject.preflight import preflight
from istio_init.inject.problems import InjectionError, error
from istio_init.inject.request import PodRequest, workload_of
from istio_init.inject.settings import SettingsFile, load_settings, native_sidecars_of
from istio_init.inject.webhook import Admission, AdmissionRequest, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from istio_init.inject.gates import Decision
    from istio_init.inject.problems import Problem
    from istio_init.inject.settings import Settings

# A pod of any application.
SAMPLE = {
    "metadata": {"name": "sample", "namespace": "default", "labels": {"app": "sample"}},
    "spec": {"containers": [{"name": "app", "image": "app", "ports": [{"containerPort": 8080}]}]},
}
# The reasons of refusals, for metrics.
BAD_ANNOTATION, BAD_POD = "bad-annotation", "bad-pod"


def admit_by_files(
    config: tuple[str, str] | None,
    values: tuple[str, str] | None,
    mesh: tuple[str, str] | None,
    *,
    revision: str,
    environment: Mapping[str, str],
) -> Callable[[AdmissionRequest], Admission]:
    """Return the function that decides about pods with the configuration of files.

    Each is a text and the name that errors give it. Without an inject config, what is built in
    stands in for it and for what else is not given.

    Raises:
        InjectionError: The configuration is no good, or the pod that it is tried on is refused.
    """
    if config is None:
        config, values, mesh = (
            given or (builtin.text(name), name)
            for given, name in zip((config, values, mesh), builtin.FILES, strict=True)
        )
    settings = load_settings(
        SettingsFile(*config),
        SettingsFile(*values) if values else None,
        SettingsFile(*mesh) if mesh else None,
        revision=revision,
        native_sidecars=_native_sidecars(environment),
        platform=environment.get("PLATFORM", ""),
        environment=environment,
    )
    _try(settings)
    return partial(admit, settings)


def _native_sidecars(environment: Mapping[str, str]) -> bool:
    name = "ENABLE_NATIVE_SIDECARS"
    try:
        return native_sidecars_of(environment.get(name) or "auto")
    except ValueError as failure:
        raise InjectionError([error(f"environment variable {name}", why=str(failure))]) from failure


def _try(settings: Settings) -> None:
    """Inject a pod, so that a template that fails does so before a user's pod is there.

    Raises:
        InjectionError: It is refused.
    """
    request = AdmissionRequest("", SAMPLE, "default")
    try:
        inject_pod(_pod_request(request), settings)
    except InjectionError as failure:
        problem = error("the configuration refuses every pod", why=str(failure))
        raise InjectionError([problem]) from failure


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
    pod_request = _pod_request(request)
    try:
        injection = inject_pod(pod_request, settings)
    except InjectionError as failure:
        return Admission(Outcome.REFUSED, _reason(failure.problems), str(failure))
    # What the pod will fail with, or not work as it is meant, is better known before it does.
    problems = (
        *injection.warnings,
        *preflight(injection.metadata, injection.spec, kind=workload_of(pod_request).kind),
    )
    return Admission(
        Outcome.INJECTED,
        str(decision.reason),
        decision.text,
        pod={**request.pod, "metadata": injection.metadata, "spec": injection.spec},
        warnings=(*decision.warnings, *map(str, problems)),
    )


def _pod_request(request: AdmissionRequest) -> PodRequest:
    return PodRequest(
        request.pod["metadata"],
        request.pod["spec"],
        namespace=request.namespace,
        namespace_object=request.namespace_object,
        environment=request.environment,
    )


def _sentence(decision: Decision) -> str:
    text = f"not injected: {decision.text}"
    return f"{text}; {decision.remedy.text}" if decision.remedy else text


def _reason(problems: tuple[Problem, ...]) -> str:
    return BAD_ANNOTATION if any(one.where.annotation for one in problems) else BAD_POD
