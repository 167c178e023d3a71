"""The two gates that a pod passes on its way into the mesh, rule by rule.

Gate A is the API server's: an entry of a MutatingWebhookConfiguration selects
the pod, by labels of its namespace and of its own. Gate B is the injector's.

Source: istio 1.0.2, pilot/pkg/kube/inject, injectRequired; istio 1.30,
pkg/kube/inject, injectRequired.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from istio_init.errors import printable
from istio_init.inject.generation import NEW, OLD
from istio_init.inject.problems import quoted
from istio_init.inject.webhooks import TAKES_PART

if TYPE_CHECKING:
    from collections.abc import Sequence

    from istio_init.inject.generation import Generation
    from istio_init.inject.selectors import LabelSelector
    from istio_init.inject.subject import LabelEdit, Subject
    from istio_init.inject.webhooks import WebhookEntry

ENABLED, DISABLED = "enabled", "disabled"

RESERVED_NAMESPACES: dict[Generation, tuple[str, ...]] = {
    OLD: ("kube-system", "kube-public"),
    NEW: ("kube-system", "kube-public", "kube-node-lease", "local-path-storage"),
}
_OLD_YES = ("y", "yes", "true", "on")


class Gate(StrEnum):
    """Who decides."""

    WEBHOOK = "webhook"
    INJECTOR = "injector"


class InjectionReason(StrEnum):
    """Why a pod is injected, or not: the closed set that metrics, events and text share."""

    POLICY_ENABLED = "policy-enabled"
    LABEL_TRUE = "label-true"
    ANNOTATION_TRUE = "annotation-true"
    ALWAYS_SELECTOR = "always-selector"
    BY_HAND = "by-hand"
    NO_WEBHOOK = "no-webhook"
    NAMESPACE_NOT_LABELLED = "namespace-not-labelled"
    NAMESPACE_DISABLED = "namespace-disabled"
    OTHER_REVISION = "other-revision"
    NO_ENTRY = "no-entry-matches"
    HOST_NETWORK = "host-network"
    RESERVED_NAMESPACE = "reserved-namespace"
    LABEL_FALSE = "label-false"
    ANNOTATION_FALSE = "annotation-false"
    NEVER_SELECTOR = "never-selector"
    POLICY_DISABLED = "policy-disabled"
    POLICY_INVALID = "policy-invalid"


MEANINGS: dict[InjectionReason, str] = {
    InjectionReason.POLICY_ENABLED: "Injected: nothing speaks against it; the policy is enabled.",
    InjectionReason.LABEL_TRUE: "Injected: the pod's label asks for it.",
    InjectionReason.ANNOTATION_TRUE: "Injected: the pod's annotation asks for it.",
    InjectionReason.ALWAYS_SELECTOR: "Injected: an `alwaysInjectSelector` matches the pod.",
    InjectionReason.BY_HAND: "Injected by hand: release 1.0 asks nothing else.",
    InjectionReason.NO_WEBHOOK: "No injector has registered a webhook.",
    InjectionReason.NAMESPACE_NOT_LABELLED: "The namespace has no label that an injector selects.",
    InjectionReason.NAMESPACE_DISABLED: (
        "The namespace's label `istio-injection` has a value other than `enabled`."
    ),
    InjectionReason.OTHER_REVISION: "Namespace or pod name a revision that is not installed.",
    InjectionReason.NO_ENTRY: "No entry of the registered webhooks selects the pod.",
    InjectionReason.HOST_NETWORK: "The pod uses the host network, whose rules are the node's.",
    InjectionReason.RESERVED_NAMESPACE: "Pods of this namespace are never injected.",
    InjectionReason.LABEL_FALSE: "The pod's label `sidecar.istio.io/inject` is `false`.",
    InjectionReason.ANNOTATION_FALSE: "The pod's annotation says no.",
    InjectionReason.NEVER_SELECTOR: "A `neverInjectSelector` matches the pod.",
    InjectionReason.POLICY_DISABLED: "The policy is `disabled`, and the pod did not ask.",
    InjectionReason.POLICY_INVALID: "The policy is neither `enabled` nor `disabled`.",
}
"""What each reason means, for the documentation."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to change so that the pod is injected. ``edits`` is empty where labels cannot do it."""

    text: str = ""
    edits: tuple[LabelEdit, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything has to be changed."""
        return bool(self.text)


@dataclass(frozen=True, slots=True)
class GateStep:
    """One rule of a gate: what was looked at, and what follows.

    ``verdict`` is None where the next rule has its turn. ``odd`` marks what is
    most probably a mistake of the user's.
    """

    gate: Gate
    looked_at: str
    result: str
    verdict: bool | None = None
    odd: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a pod is injected; ``gate`` and ``reason`` are those of the rule that decided.

    ``steps`` are all rules up to that one, in their order; ``entries`` the
    entries of webhook configurations that match.
    """

    reason: InjectionReason
    gate: Gate
    text: str
    inject: bool
    remedy: Remedy = Remedy()
    steps: tuple[GateStep, ...] = ()
    entries: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is most probably a mistake, whether or not it decided."""
        return tuple(f"{step.looked_at}: {step.result}" for step in self.steps if step.odd)


@dataclass(frozen=True, slots=True)
class InjectionPolicy:
    """What an inject config says about who is injected.

    ``passed_over`` are selectors that Kubernetes would not accept; the injector
    passes over them, and over empty ones.
    """

    generation: Generation
    policy: str = ENABLED
    never: tuple[LabelSelector, ...] = ()
    always: tuple[LabelSelector, ...] = ()
    passed_over: tuple[str, ...] = ()


def judge(
    subject: Subject, policy: InjectionPolicy, entries: Sequence[WebhookEntry] | None
) -> Decision:
    """Return the decision of both gates, or of gate B alone where ``entries`` is None.

    It has no remedy yet.
    """
    if entries is None:
        return _injector(subject, policy)
    at_webhook = _webhook(subject, entries)
    if not at_webhook.inject:
        return at_webhook
    at_injector = _injector(subject, policy)
    return replace(
        at_injector,
        steps=(*at_webhook.steps, *at_injector.steps),
        entries=at_webhook.entries,
    )


# Gate A.


def _webhook(subject: Subject, entries: Sequence[WebhookEntry]) -> Decision:
    steps = tuple(_entry_step(entry, subject) for entry in entries)
    matched = tuple(
        entry.name for entry, step in zip(entries, steps, strict=True) if step.verdict is None
    )
    # `NO_ENTRY` stands for none yet: the injector's own reason takes its place.
    reason, text = InjectionReason.NO_ENTRY, ""
    if not matched:
        reason, text = _unselected(subject, entries)
    return Decision(reason, Gate.WEBHOOK, text, inject=bool(matched), steps=steps, entries=matched)


def _entry_step(entry: WebhookEntry, subject: Subject) -> GateStep:
    unmet = [
        *(f"namespace label {one}" for one in entry.namespaces.unmet(subject.labels_of_namespace)),
        *(f"pod label {one}" for one in entry.objects.unmet(subject.labels)),
    ]
    if not entry.creates_pods:
        unmet.insert(0, "its rules do not name the creation of pods")
    result = f"does not match: {'; '.join(unmet)}" if unmet else "matches"
    if entry.conditions and not unmet:
        result += ", if its matchConditions do, which are not evaluated here"
    return GateStep(Gate.WEBHOOK, str(entry), result, verdict=False if unmet else None)


def _unselected(subject: Subject, entries: Sequence[WebhookEntry]) -> tuple[InjectionReason, str]:
    """Return why no entry selects the pod, by the labels that Istio's entries look at."""
    keys = TAKES_PART
    if not entries:
        return InjectionReason.NO_WEBHOOK, "no webhook of an injector is registered"
    if subject.labels.get(keys.inject) == "false":
        return InjectionReason.LABEL_FALSE, f"the pod has the label {keys.inject}=false"
    of_namespace = subject.namespace_labels
    injection, revision = of_namespace.get(keys.injection), of_namespace.get(keys.revision)
    if injection not in (None, ENABLED):
        text = f"the namespace has the label {keys.injection}={injection}"
        return InjectionReason.NAMESPACE_DISABLED, printable(text)
    if injection is not None:
        text = f"the namespace has the label {keys.injection}={ENABLED}, which no entry selects"
        return InjectionReason.OTHER_REVISION, text
    for owner, value in (("namespace", revision), ("pod", subject.labels.get(keys.revision))):
        if value is not None:
            text = f"the {owner} has the label {keys.revision}={value}, which no entry selects"
            return InjectionReason.OTHER_REVISION, printable(text)
    if subject.lives_in in RESERVED_NAMESPACES[NEW]:
        return InjectionReason.RESERVED_NAMESPACE, f"namespace {subject.lives_in} is reserved"
    text = f"the namespace has neither the label {keys.injection} nor {keys.revision}"
    if keys.inject in subject.annotations:
        text += f"; the annotation {keys.inject} can only opt out"
    return InjectionReason.NAMESPACE_NOT_LABELLED, text


# Gate B.


def host_network(subject: Subject) -> GateStep:
    """Return the rule that both generations begin with, by hand too."""
    if subject.host_network:
        return GateStep(Gate.INJECTOR, "hostNetwork", "is true", verdict=False)
    return GateStep(Gate.INJECTOR, "hostNetwork", "is not set")


def refused_host_network(steps: tuple[GateStep, ...]) -> Decision:
    """Return the decision about a pod that uses the host network."""
    text = "the pod uses the host network, whose rules are the node's"
    reason = InjectionReason.HOST_NETWORK
    return Decision(reason, Gate.INJECTOR, text, inject=False, steps=steps)


class _Injector:
    """Gate B: the rules in their order; the first that has a verdict decides."""

    def __init__(self, subject: Subject, policy: InjectionPolicy) -> None:
        self._subject, self._policy = subject, policy
        self.steps: list[GateStep] = []

    def step(
        self,
        looked_at: str,
        result: str,
        *,
        verdict: bool | None = None,
        odd: bool = False,
    ) -> None:
        """Note a rule and its result."""
        self.steps.append(
            GateStep(Gate.INJECTOR, printable(looked_at), printable(result), verdict, odd)
        )

    def decision(self, reason: InjectionReason, text: str) -> Decision:
        """Return the decision of the last step."""
        inject = self.steps[-1].verdict is True
        steps = tuple(self.steps)
        return Decision(reason, Gate.INJECTOR, printable(text), inject=inject, steps=steps)

    def decide(self) -> Decision:
        """Return the decision."""
        self.steps.append(host_network(self._subject))
        if self._subject.host_network:
            return refused_host_network(tuple(self.steps))
        return (
            self._reserved()
            or self._asked()
            or self._selected()
            or self._by_policy(InjectionReason.POLICY_ENABLED, "the policy is enabled")
        )

    def _reserved(self) -> Decision | None:
        subject, old = self._subject, self._policy.generation == OLD
        # The release 1.0 does not consult the request's namespace.
        namespace = subject.namespace if old else subject.lives_in
        if namespace in RESERVED_NAMESPACES[self._policy.generation]:
            self.step("namespace", f"{namespace} is reserved", verdict=False)
            return self.decision(
                InjectionReason.RESERVED_NAMESPACE, f"namespace {namespace} is reserved"
            )
        self.step("namespace", f"{namespace or 'not in the pod'} is not reserved")
        return None

    def _asked(self) -> Decision | None:
        """Look at the pod's own word."""
        asked = _old_word(self._subject) if self._policy.generation == OLD else _word(self._subject)
        if asked.yes is None:
            self.step(asked.where, f"{asked.value}: leaves it open", odd=asked.odd)
            return None
        if asked.yes:
            reason = (
                InjectionReason.LABEL_TRUE if asked.is_label else InjectionReason.ANNOTATION_TRUE
            )
            self.step(asked.where, asked.value)
            return self._by_policy(reason, f"{asked.where} is {asked.value}", asked=True)
        self.step(asked.where, asked.value, verdict=False, odd=asked.odd)
        reason = InjectionReason.LABEL_FALSE if asked.is_label else InjectionReason.ANNOTATION_FALSE
        return self.decision(reason, f"the {asked.where} is {asked.value}")

    def _selected(self) -> Decision | None:
        for reason in self._policy.passed_over:
            self.step("inject config", f"{reason}; passed over", odd=True)
        for name, selectors, yes in (
            ("neverInjectSelector", self._policy.never, False),
            ("alwaysInjectSelector", self._policy.always, True),
        ):
            for number, selector in enumerate(selectors, 1):
                where = f"{name} {number} ({selector})"
                if not selector.matches(self._subject.labels):
                    self.step(where, "does not match the pod's labels")
                    continue
                reason = InjectionReason.ALWAYS_SELECTOR if yes else InjectionReason.NEVER_SELECTOR
                text = f"{where} matches the pod's labels"
                if yes:
                    self.step(where, "matches")
                    return self._by_policy(reason, text, asked=True)
                self.step(where, "matches", verdict=False)
                return self.decision(reason, text)
        return None

    def _by_policy(self, reason: InjectionReason, text: str, *, asked: bool = False) -> Decision:
        """Decide by the policy; ``asked`` says that a stronger rule has said yes before it."""
        policy = self._policy.policy
        if policy not in (ENABLED, DISABLED):
            result = f"{quoted(policy)} is neither {ENABLED} nor {DISABLED}"
            self.step("policy", result, verdict=False, odd=True)
            return self.decision(InjectionReason.POLICY_INVALID, f"the policy {result}")
        if asked or policy == ENABLED:
            beaten = ", which the rule before beats" if asked and policy == DISABLED else ""
            self.step("policy", f"is {policy}{beaten}", verdict=True)
            return self.decision(reason, text)
        self.step("policy", f"is {DISABLED}", verdict=False)
        return self.decision(InjectionReason.POLICY_DISABLED, f"the policy is {DISABLED}")


@dataclass(frozen=True, slots=True)
class _Word:
    """What a pod says of itself: yes, no, or None for neither."""

    where: str
    value: str
    yes: bool | None
    is_label: bool = False
    odd: bool = False


def _word(subject: Subject) -> _Word:
    """Return the word of the label, else of the annotation; only its exact spelling counts."""
    key = TAKES_PART.inject
    is_label = key in subject.labels
    where = f"{'label' if is_label else 'annotation'} {key}"
    value = subject.labels.get(key) if is_label else subject.annotations.get(key)
    if value is None:
        return _Word(f"label and annotation {key}", "absent", None)
    yes = {"true": True, "false": False}.get(value)
    odd = yes is None and value != ""
    shown = f"{value!r}, which is neither 'true' nor 'false'" if odd else (value or "empty")
    return _Word(where, shown, yes, is_label, odd)


def _old_word(subject: Subject) -> _Word:
    """Return the word of the annotation, whatever the case of its letters."""
    key = TAKES_PART.inject
    where = f"annotation {key}"
    value = subject.annotations.get(key, "")
    if not value:
        return _Word(where, "empty" if key in subject.annotations else "absent", None)
    yes = value.lower() in _OLD_YES
    odd = not yes and value.lower() not in ("n", "no", "false", "off")
    shown = f"{value!r}, which is no way of saying yes" if odd else value
    return _Word(where, shown, yes, odd=odd)


def _injector(subject: Subject, policy: InjectionPolicy) -> Decision:
    return _Injector(subject, policy).decide()


def reasons_table() -> str:
    """Return the reasons and their meanings for the documentation."""
    rows = "".join(f"| `{reason}` | {meaning} |\n" for reason, meaning in MEANINGS.items())
    return f"| reason | what it means |\n|---|---|\n{rows}"
