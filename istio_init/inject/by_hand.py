"""The injection of manifests: text in, injected text out, with all that is worth knowing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from istio_init.inject.annotations import misplaced
from istio_init.inject.generation import OLD
from istio_init.inject.kinds import PLACES, map_at, pod_carriers
from istio_init.inject.manifest import rewrite
from istio_init.inject.pod import inject_pod
from istio_init.inject.policy import decide_by_hand, subject_of
from istio_init.inject.preflight import preflight
from istio_init.inject.problems import InjectionError, Problem, has_errors, warning
from istio_init.inject.recover import older_proxy
from istio_init.inject.request import PodRequest, Workload
from istio_init.inject.splice import equivalent
from istio_init.inject.status import read_status
from istio_init.inject.uninject import belong_together, without_injections

if TYPE_CHECKING:
    from istio_init.inject.kinds import PodCarrier
    from istio_init.inject.manifest import ManifestDocument
    from istio_init.inject.plain_data import PlainValue
    from istio_init.inject.problems import Where
    from istio_init.inject.settings import Settings

JsonMap = dict[str, Any]


@dataclass(frozen=True, slots=True)
class InjectedPod:
    """A pod of a manifest after its injection."""

    where: Where
    metadata: JsonMap
    spec: JsonMap


@dataclass(frozen=True, slots=True)
class InjectedManifest:
    """A file after its injection.

    ``pods`` are those that were injected, ``skipped`` is the number of those
    that were not. ``problems`` has warnings and notes.
    """

    text: str
    problems: tuple[Problem, ...]
    pods: tuple[InjectedPod, ...]
    skipped: int


def inject_manifest(data: str | bytes, source: str, settings: Settings) -> InjectedManifest:
    """Return a file of which every workload is injected that may be.

    Nothing but what is added differs from the file; what was injected before is
    injected anew. Raises ``InjectionError`` with the errors of all workloads.
    """
    run = _Run(settings)
    try:
        written = rewrite(
            data, source, run.change, trust=run.trust, recover=run.recover, record=True
        )
    except InjectionError as problem:
        raise InjectionError([*problem.problems, *run.problems]) from None
    problems = (*run.problems, *written.notes)
    if has_errors(problems):
        raise InjectionError(problems)
    return InjectedManifest(written.text, problems, tuple(run.pods), run.skipped)


class _Run:
    """Injects the documents of one file, and collects problems."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.problems: list[Problem] = []
        self.pods: list[InjectedPod] = []
        self.skipped = 0

    def change(self, document: ManifestDocument) -> PlainValue:
        value = document.value
        for carrier in pod_carriers(value, PLACES[self.settings.generation]):
            value = self._injected(value, carrier, document)
        return value

    def trust(self, document: ManifestDocument) -> bool:
        """Whether a record gives back what can have been there before the live document.

        It also can if its injection is the live document.
        """
        if belong_together(document):
            return True
        try:
            again = _Run(self.settings).change(replace(document, live=document.value))
        except InjectionError:
            return False
        return equivalent(again, document.live)

    def recover(self, document: ManifestDocument) -> PlainValue:
        """Return the value before the last injection, from which this one begins.

        A pod with an older proxy keeps that proxy. What another program of release
        1.0 injected is injected once more, as that program does.
        """
        for carrier in pod_carriers(document.value, PLACES[self.settings.generation]):
            pod = {"metadata": carrier.metadata, "spec": carrier.spec}
            if self.settings.generation == OLD:
                status = read_status(pod)
                keeps = status is not None and bool(status.version) and not status.own
            else:
                keeps = older_proxy(pod)
            if keeps:
                return document.value
        return without_injections(document)

    def _injected(
        self,
        value: PlainValue,
        carrier: PodCarrier,
        document: ManifestDocument,
    ) -> PlainValue:
        where = replace(carrier.where, line=document.line_of(carrier.path)).filled(document.where)
        subject = subject_of(carrier.metadata, carrier.spec)
        decision = decide_by_hand(subject, self.settings.generation)
        self.problems += (warning(text, where) for text in decision.warnings)
        if not decision.inject:
            self.skipped += 1
            remedy = decision.remedy.text
            self.problems.append(
                warning("it is not injected", where, why=decision.text, remedy=remedy)
            )
            return value
        self._note(_misplaced(value, carrier), where, carrier, document)
        try:
            injection = inject_pod(_request(carrier), self.settings)
        except InjectionError as problem:
            self._note(problem.problems, where, carrier, document)
            return value
        self._note(injection.warnings, where, carrier, document)
        kind = carrier.kind
        self._note(
            preflight(injection.metadata, injection.spec, kind=kind), where, carrier, document
        )
        self.pods.append(InjectedPod(where, injection.metadata, injection.spec))
        return carrier.replaced(value, injection.metadata, injection.spec)

    def _note(
        self,
        problems: tuple[Problem, ...],
        where: Where,
        carrier: PodCarrier,
        document: ManifestDocument,
    ) -> None:
        """Keep problems of a pod, with the line of the annotation that each is about."""
        for problem in problems:
            place = where
            if problem.where.annotation:
                path = (*carrier.metadata_path, "annotations", problem.where.annotation)
                place = replace(where, line=document.line_of(path))
            self.problems.append(problem.within(place))


def _misplaced(value: Any, carrier: PodCarrier) -> tuple[Problem, ...]:  # noqa: ANN401
    """Return warnings about labels and annotations at places where nobody reads them."""
    if carrier.is_pod:
        return ()
    own = (*carrier.path, "metadata")
    pods = (*carrier.spec_path[:-1], "metadata")
    read = carrier.metadata_path
    # Of a CronJob the job's metadata is read, not that of its pods.
    places = [own, pods] if pods != read else [own]
    right_place = ".".join(str(key) for key in read[len(carrier.path) :])
    return tuple(
        problem
        for place in places
        for problem in misplaced(map_at(value, place), carrier.metadata, right_place=right_place)
    )


def _request(carrier: PodCarrier) -> PodRequest:
    workload = Workload(
        carrier.api_version, carrier.kind, carrier.object_name, carrier.object_namespace
    )
    return PodRequest(
        carrier.metadata,
        carrier.spec,
        workload=None if carrier.is_pod else workload,
        by_hand=True,
    )
