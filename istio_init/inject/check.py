"""Would a workload be injected, and why: the answer as a value, as lines and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from istio_init.errors import printable
from istio_init.inject.annotations import misplaced
from istio_init.inject.annotations import problems as bad_annotations
from istio_init.inject.kinds import ALL_PLACES, map_at, pod_carriers
from istio_init.inject.policy import decide, subject_of
from istio_init.inject.problems import Where, has_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from istio_init.diagnose.text import Style, StyledLine
    from istio_init.inject.gates import Decision, InjectionPolicy
    from istio_init.inject.kinds import PodCarrier
    from istio_init.inject.problems import Problem
    from istio_init.inject.webhooks import WebhookEntry
    from istio_init.inject.yaml import Document

VERSION = 1


@dataclass(frozen=True, slots=True)
class Installation:
    """What decides beside the pods: an injector's policy, its webhooks, and the namespaces.

    ``namespace`` is where what names none is created; ``labels_of`` returns the
    labels of a namespace by its name.
    """

    policy: InjectionPolicy
    entries: Sequence[WebhookEntry]
    namespace: str
    labels_of: Callable[[str], Mapping[str, str]]


class CheckResult(StrEnum):
    """What becomes of a workload's pods."""

    INJECTED = "injected"
    NOT_INJECTED = "not injected"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class CheckedWorkload:
    """A workload of a manifest, the decision about its pods, and what is wrong with them."""

    where: Where
    decision: Decision
    problems: tuple[Problem, ...] = ()

    @property
    def result(self) -> CheckResult:
        """What becomes of it; the injector refuses a pod with a bad annotation."""
        if not self.decision.inject:
            return CheckResult.NOT_INJECTED
        return CheckResult.REFUSED if has_errors(self.problems) else CheckResult.INJECTED

    @property
    def why(self) -> str:
        """The reason in one sentence."""
        if self.result is CheckResult.REFUSED:
            first = next(problem for problem in self.problems if has_errors([problem]))
            return f"{first.where.annotation or first.where.path}: {first.what}"
        return self.decision.text

    def document(self) -> dict[str, Any]:
        """Return the answer as JSON data."""
        decision = self.decision
        return {
            "where": asdict(self.where),
            "result": str(self.result),
            "injected": self.result is CheckResult.INJECTED,
            "gate": str(decision.gate),
            "reason": str(decision.reason),
            "text": self.why,
            "remedy": {
                "text": decision.remedy.text,
                "edits": [asdict(edit) for edit in decision.remedy.edits],
            },
            "entries": list(decision.entries),
            "steps": [asdict(step) for step in decision.steps],
            "problems": [problem.document() for problem in self.problems],
        }


def check_documents(
    documents: Sequence[Document], installation: Installation
) -> Iterator[CheckedWorkload]:
    """Yield the answer for each workload, in the order of the documents.

    A Namespace among the documents has the labels that it is given there.

    Raises:
        InjectionError: an object is not of the form of its kind.
    """
    namespaces = dict(_namespaces(documents))
    for document in documents:
        place = Where(document.source, document.number, document.line)
        for carrier in pod_carriers(document.value, ALL_PLACES):
            name = carrier.object_namespace or installation.namespace
            labels = namespaces.get(name)
            if labels is None:
                labels = installation.labels_of(name)
            where = replace(carrier.where.filled(place), namespace=name)
            yield _checked(document.value, carrier, where, labels, installation)


def _namespaces(documents: Sequence[Document]) -> Iterator[tuple[str, Mapping[str, str]]]:
    for document in documents:
        value = document.value
        if isinstance(value, dict) and value.get("kind") == "Namespace":
            metadata = value.get("metadata")
            if isinstance(metadata, dict) and isinstance(metadata.get("name"), str):
                yield metadata["name"], subject_of(metadata, {}).labels


def _checked(
    document: object,
    carrier: PodCarrier,
    where: Where,
    labels: Mapping[str, str],
    installation: Installation,
) -> CheckedWorkload:
    # The webhook sees a CronJob's pods, whose metadata is their own.
    metadata = map_at(document, (*carrier.spec_path[:-1], "metadata"))
    subject = subject_of(metadata, carrier.spec, namespace=where.namespace, namespace_labels=labels)
    problems: tuple[Problem, ...] = ()
    if not carrier.is_pod:
        # A controller's pods have no namespace of their own when they are created.
        subject = replace(subject, namespace="")
        outer = map_at(document, (*carrier.path, "metadata"))
        problems = misplaced(outer, metadata, where)
    decision = decide(subject, installation.policy, installation.entries)
    if decision.inject:
        problems += bad_annotations(metadata, installation.policy.generation, where)
    return CheckedWorkload(where, decision, problems)


_STYLES: dict[CheckResult, Style] = {
    CheckResult.INJECTED: "good",
    CheckResult.NOT_INJECTED: "warn",
    CheckResult.REFUSED: "warn",
}


def lines(workloads: Iterable[CheckedWorkload]) -> Iterator[StyledLine]:
    """Yield one line for each workload, in columns."""
    listed = list(workloads)
    width = max((len(one.where.workload) for one in listed), default=0)
    column = max(len(result) for result in CheckResult)
    for one in listed:
        yield (
            (f"{one.where.workload:{width}}  ", ""),
            (f"{one.result:{column}}", _STYLES[one.result]),
            (f"  {printable(one.why)}", ""),
        )


def explanation(workload: CheckedWorkload) -> Iterator[StyledLine]:
    """Yield the whole chain of one workload: every rule of both gates, and what to change."""
    position = workload.where.position
    yield (
        (f"{position}: " if position else "", "faint"),
        (f"{workload.where.workload}: ", "head"),
        (str(workload.result), _STYLES[workload.result]),
    )
    gate = ""
    for step in workload.decision.steps:
        name, gate = ("" if step.gate == gate else str(step.gate)), step.gate
        style: Style = "no" if step.verdict is False else "yes" if step.verdict else ""
        yield (
            (f"  {name:9} ", "faint"),
            (f"{step.looked_at}: ", ""),
            (printable(step.result), "warn" if step.odd else style),
        )
    yield (("  because   ", "faint"), (printable(workload.why), ""))
    if workload.decision.remedy:
        yield (("  to change ", "faint"), (printable(workload.decision.remedy.text), ""))
    for problem in workload.problems:
        yield (("  problem   ", "faint"), (str(problem), "warn"))


def document(workloads: Iterable[CheckedWorkload]) -> dict[str, Any]:
    """Return the answers as one JSON object."""
    return {"version": VERSION, "workloads": [workload.document() for workload in workloads]}
