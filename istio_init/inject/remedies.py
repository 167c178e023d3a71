"""What to change so that a pod is injected. Every change is tried before it is proposed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from istio_init.inject.gates import (
    DISABLED,
    ENABLED,
    RESERVED_NAMESPACES,
    Gate,
    InjectionReason,
    Remedy,
    judge,
)
from istio_init.inject.selectors import Operator
from istio_init.inject.subject import LabelEdit, LabelOwner
from istio_init.inject.webhooks import NAMESPACE_NAME, TAKES_PART

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from istio_init.inject.gates import Decision, InjectionPolicy
    from istio_init.inject.selectors import LabelSelector
    from istio_init.inject.subject import Subject
    from istio_init.inject.webhooks import WebhookEntry

_KEY = TAKES_PART.inject
# The ways in which a pod can speak for itself, from the mildest.
_WORDS: tuple[tuple[LabelEdit, ...], ...] = (
    (),
    (LabelEdit(LabelOwner.LABEL, _KEY),),
    (LabelEdit(LabelOwner.ANNOTATION, _KEY),),
    (LabelEdit(LabelOwner.LABEL, _KEY), LabelEdit(LabelOwner.ANNOTATION, _KEY)),
    (LabelEdit(LabelOwner.LABEL, _KEY, "true"),),
    (LabelEdit(LabelOwner.ANNOTATION, _KEY, "true"),),
)
_NO_LABEL_HELPS = {
    InjectionReason.HOST_NETWORK: (
        "remove hostNetwork from the pod's spec; a pod in the host network is never injected"
    ),
    InjectionReason.RESERVED_NAMESPACE: (
        "run it in another namespace; pods of this one are never injected"
    ),
    InjectionReason.POLICY_INVALID: (
        f"set policy to {ENABLED} or {DISABLED} in the inject config (ConfigMap "
        "istio-sidecar-injector, key config)"
    ),
    InjectionReason.NO_WEBHOOK: (
        "install the injector, which registers its webhook, or inject by hand: istio-init inject"
    ),
}


def remedy_for(
    decision: Decision,
    subject: Subject,
    policy: InjectionPolicy,
    entries: Sequence[WebhookEntry] | None,
) -> Remedy:
    """Return the fewest changes of labels and annotations after which the pod is injected.

    Where no label can do it, the remedy says what has to change instead.
    """
    obstacle = _obstacle(decision, subject, policy)
    if obstacle is not None:
        return Remedy(_NO_LABEL_HELPS[obstacle])
    for edits in sorted(_candidates(subject, entries), key=lambda edits: _cost(edits, subject)):
        if judge(subject.edited(edits), policy, entries).inject:
            return Remedy(_sentence(edits, subject), edits)
    return Remedy("no label or annotation leads into the mesh here: inject by hand")


def _cost(edits: Sequence[LabelEdit], subject: Subject) -> tuple[int, int, bool]:
    """Return what orders proposals: few, of what is there already, by the namespace's label."""
    new = [edit for edit in edits if edit.key not in _labels(subject, edit.owner)]
    usual = LabelEdit(LabelOwner.NAMESPACE, TAKES_PART.injection, ENABLED) in edits
    return len(edits), len(new), not usual


def _obstacle(
    decision: Decision, subject: Subject, policy: InjectionPolicy
) -> InjectionReason | None:
    """Return what stands in the way whatever the labels say, also behind the rule that decided."""
    if decision.reason in _NO_LABEL_HELPS:
        return decision.reason
    if decision.gate is not Gate.WEBHOOK:
        return None
    if subject.host_network:
        return InjectionReason.HOST_NETWORK
    if policy.policy not in (ENABLED, DISABLED):
        return InjectionReason.POLICY_INVALID
    if subject.lives_in in RESERVED_NAMESPACES[policy.generation]:
        return InjectionReason.RESERVED_NAMESPACE
    return None


def _candidates(
    subject: Subject, entries: Sequence[WebhookEntry] | None
) -> Iterator[tuple[LabelEdit, ...]]:
    """Yield sets of changes that may lead to an injection."""
    for entry in entries or (None,):
        of_entry = () if entry is None else tuple(_selected_by(entry, subject))
        for word in _WORDS:
            # A pod's own word takes the place of what the entry asks of the same label.
            spoken = {(edit.owner, edit.key) for edit in word}
            edits = [*(one for one in of_entry if (one.owner, one.key) not in spoken), *word]
            yield tuple(one for one in edits if _changes(one, subject))


def _changes(edit: LabelEdit, subject: Subject) -> bool:
    return _labels(subject, edit.owner).get(edit.key) != edit.value


def _labels(subject: Subject, owner: LabelOwner) -> Mapping[str, str]:
    match owner:
        case LabelOwner.NAMESPACE:
            return subject.namespace_labels
        case LabelOwner.LABEL:
            return subject.labels
        case LabelOwner.ANNOTATION:
            return subject.annotations


def _selected_by(entry: WebhookEntry, subject: Subject) -> Iterator[LabelEdit]:
    """Yield the changes after which an entry selects the pod, as far as labels can do it."""
    yield from _edits(LabelOwner.NAMESPACE, entry.namespaces, subject.labels_of_namespace)
    yield from _edits(LabelOwner.LABEL, entry.objects, subject.labels)


def _edits(
    owner: LabelOwner, selector: LabelSelector, labels: Mapping[str, str]
) -> Iterator[LabelEdit]:
    for requirement in selector.unmet(labels):
        if owner is LabelOwner.NAMESPACE and requirement.key == NAMESPACE_NAME:
            continue
        match requirement.operator:
            case Operator.IN:
                yield LabelEdit(owner, requirement.key, requirement.values[0])
            case Operator.EXISTS:
                yield LabelEdit(owner, requirement.key, "true")
            case Operator.NOT_IN | Operator.DOES_NOT_EXIST:
                yield LabelEdit(owner, requirement.key)


def _sentence(edits: Sequence[LabelEdit], subject: Subject) -> str:
    """Return the changes as orders, with the command where kubectl has one."""
    text = " and ".join(str(edit) for edit in edits)
    of_namespace = [edit for edit in edits if edit.owner is LabelOwner.NAMESPACE]
    if of_namespace:
        words = [
            f"{one.key}-" if one.value is None else f"{one.key}={one.value}" for one in of_namespace
        ]
        name = subject.lives_in or "NAMESPACE"
        text += f" (kubectl label namespace {name} {' '.join(words)} --overwrite)"
    if len(edits) > len(of_namespace):
        text += "; a controller's pods take theirs from the pod template"
    return text
