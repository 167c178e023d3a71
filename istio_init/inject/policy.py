"""Whether a pod is injected, why, and what to change: for both generations, without a cluster.

Whoever injects by hand passes the injector's gate alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from istio_init.inject.gates import (
    ENABLED,
    RESERVED_NAMESPACES,
    Decision,
    Gate,
    GateStep,
    InjectionPolicy,
    InjectionReason,
    host_network,
    judge,
    refused_host_network,
)
from istio_init.inject.generation import NEW
from istio_init.inject.problems import quoted
from istio_init.inject.remedies import remedy_for
from istio_init.inject.selectors import SelectorError, parse_selector
from istio_init.inject.subject import Subject, subject_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from istio_init.inject.generation import Generation
    from istio_init.inject.selectors import LabelSelector
    from istio_init.inject.webhooks import WebhookEntry


def policy_of(config: Mapping[str, object], generation: Generation) -> InjectionPolicy:
    """Return the policy of an inject config's data.

    1.0 has no selectors. A ``policy`` that is missing, or is no text, injects nobody.
    """
    policy = config.get("policy")
    passed_over: list[str] = []
    selectors: dict[str, tuple[LabelSelector, ...]] = {}
    for key in ("neverInjectSelector", "alwaysInjectSelector"):
        data = config.get(key) if generation == NEW else None
        selectors[key] = tuple(_selectors(key, data, passed_over))
    return InjectionPolicy(
        generation,
        policy if isinstance(policy, str) else "",
        selectors["neverInjectSelector"],
        selectors["alwaysInjectSelector"],
        tuple(passed_over),
    )


def _selectors(key: str, data: object, passed_over: list[str]) -> Iterator[LabelSelector]:
    if data is not None and not isinstance(data, list):
        passed_over.append(f"{key} is a list of selectors, not {quoted(data)}")
        return
    for number, one in enumerate(data or (), 1):
        try:
            selector = parse_selector(one)
        except SelectorError as error:
            passed_over.append(f"{key} {number}: {error}")
            continue
        if selector.requirements:
            yield selector
        else:
            passed_over.append(f"{key} {number}: it is empty")


def decide(
    subject: Subject, policy: InjectionPolicy, entries: Sequence[WebhookEntry] | None = None
) -> Decision:
    """Return whether the pod is injected: by gate A, where entries are given, and gate B.

    Without entries (None) the pod has reached the injector already.
    """
    decision = judge(subject, policy, entries)
    if decision.inject:
        return decision
    return replace(decision, remedy=remedy_for(decision, subject, policy, entries))


def decide_by_hand(subject: Subject, generation: Generation) -> Decision:
    """Return whether ``inject`` takes the pod of a manifest.

    1.0's ``kube-inject`` looks at the host network alone; 1.30's passes gate B
    with the policy ``enabled``, and knows no namespace but that of the pod.
    """
    if generation == NEW:
        return decide(replace(subject, request_namespace=""), InjectionPolicy(NEW))
    verdict = host_network(subject)
    if verdict.verdict is False:
        return refused_host_network((verdict,))
    last = GateStep(Gate.INJECTOR, "by hand", "release 1.0 asks nothing else", verdict=True)
    text = "it is injected by hand"
    steps = (verdict, last)
    return Decision(InjectionReason.BY_HAND, Gate.INJECTOR, text, inject=True, steps=steps)


__all__ = [
    "ENABLED",
    "RESERVED_NAMESPACES",
    "Decision",
    "Gate",
    "GateStep",
    "InjectionPolicy",
    "InjectionReason",
    "Subject",
    "decide",
    "decide_by_hand",
    "policy_of",
    "subject_of",
]
