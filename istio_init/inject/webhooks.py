"""The entries of MutatingWebhookConfigurations: a cluster's own, and those of an installation.

Source: istio 1.0.2 and 1.30, the charts' mutatingwebhookconfiguration
templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from istio_init.inject.generation import OLD
from istio_init.inject.problems import Where, error, quoted
from istio_init.inject.selectors import (
    EVERYTHING,
    LabelSelector,
    Operator,
    Requirement,
    SelectorError,
    parse_selector,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from istio_init.inject.generation import Generation
    from istio_init.inject.problems import Problem

SUFFIX = "sidecar-injector.istio.io"
DEFAULT_REVISION = "default"
# The API server keeps this label of a namespace equal to its name.
NAMESPACE_NAME = "kubernetes.io/metadata.name"
_NOT_BY_DEFAULT = ("kube-system", "kube-public", "kube-node-lease", "local-path-storage")


@dataclass(frozen=True, slots=True)
class Keys:
    """The labels that decide who takes part."""

    injection: str = "istio-injection"
    revision: str = "istio.io/rev"
    inject: str = "sidecar.istio.io/inject"


TAKES_PART = Keys()


@dataclass(frozen=True, slots=True)
class WebhookEntry:
    """One entry: the pods that the API server shows to an injector before it creates them.

    ``conditions`` says that the entry has ``matchConditions``. ``fails_closed``
    says that pods are refused while the injector does not answer.
    """

    name: str
    configuration: str = ""
    namespaces: LabelSelector = EVERYTHING
    objects: LabelSelector = EVERYTHING
    creates_pods: bool = True
    conditions: bool = False
    fails_closed: bool = True

    def matches(self, namespace_labels: Mapping[str, str], labels: Mapping[str, str]) -> bool:
        """Whether the API server shows a pod with these labels to the injector."""
        return (
            self.creates_pods
            and self.namespaces.matches(namespace_labels)
            and self.objects.matches(labels)
        )

    def __str__(self) -> str:
        """Return configuration and entry."""
        if not self.configuration:
            return f"entry {self.name}"
        return f"entry {self.name} of {self.configuration}"


def _present(key: str, *values: str) -> Requirement:
    return Requirement(key, Operator.IN, values)


def _absent(key: str) -> Requirement:
    return Requirement(key, Operator.DOES_NOT_EXIST)


def _not(key: str, *values: str) -> Requirement:
    return Requirement(key, Operator.NOT_IN, values)


def installation(
    generation: Generation,
    *,
    revision: str = "",
    tags: Iterable[str] = (),
    by_default: bool = False,
) -> tuple[WebhookEntry, ...]:
    """Return the entries that Istio's chart registers for one installation.

    ``revision`` is empty for an unnamed one. Each of the ``tags`` has a
    configuration of its own. ``by_default`` is ``enableNamespacesByDefault``.
    """
    keys = TAKES_PART
    if generation == OLD:
        selected = (
            _not(keys.injection, "disabled") if by_default else _present(keys.injection, "enabled")
        )
        return (WebhookEntry(SUFFIX, "istio-sidecar-injector", LabelSelector((selected,))),)
    unnamed = revision in ("", DEFAULT_REVISION)
    configuration = "istio-sidecar-injector" + ("" if unnamed else f"-{revision}")
    entries = list(_of_revision(configuration, revision or DEFAULT_REVISION))
    if unnamed:
        entries += _of_unnamed(configuration, by_default=by_default)
    for tag in tags:
        entries += _of_revision(f"istio-revision-tag-{tag}", tag)
    return tuple(entries)


def _of_revision(configuration: str, revision: str) -> Iterator[WebhookEntry]:
    keys = TAKES_PART
    not_out = _not(keys.inject, "false")
    yield WebhookEntry(
        f"rev.namespace.{SUFFIX}",
        configuration,
        LabelSelector((_present(keys.revision, revision), _absent(keys.injection))),
        LabelSelector((not_out,)),
    )
    yield WebhookEntry(
        f"rev.object.{SUFFIX}",
        configuration,
        LabelSelector((_absent(keys.revision), _absent(keys.injection))),
        LabelSelector((not_out, _present(keys.revision, revision))),
    )


def _of_unnamed(configuration: str, *, by_default: bool) -> Iterator[WebhookEntry]:
    keys = TAKES_PART
    unlabelled = (_absent(keys.injection), _absent(keys.revision))
    yield WebhookEntry(
        f"namespace.{SUFFIX}",
        configuration,
        LabelSelector((_present(keys.injection, "enabled"),)),
        LabelSelector((_not(keys.inject, "false"),)),
    )
    yield WebhookEntry(
        f"object.{SUFFIX}",
        configuration,
        LabelSelector(unlabelled),
        LabelSelector((_present(keys.inject, "true"), _absent(keys.revision))),
    )
    if by_default:
        yield WebhookEntry(
            f"auto.{SUFFIX}",
            configuration,
            LabelSelector((*unlabelled, _not(NAMESPACE_NAME, *_NOT_BY_DEFAULT))),
            LabelSelector((_absent(keys.inject), _absent(keys.revision))),
        )


def entries_of(
    configuration: object, *, every: bool = False
) -> tuple[tuple[WebhookEntry, ...], tuple[Problem, ...]]:
    """Return the entries of a MutatingWebhookConfiguration's data, and what is wrong with it.

    Only entries of an injector count, whose name ends in
    ``sidecar-injector.istio.io``, unless ``every`` is true.
    """
    where = Where(kind="MutatingWebhookConfiguration")
    if not isinstance(configuration, dict) or configuration.get("kind") != where.kind:
        kind = configuration.get("kind") if isinstance(configuration, dict) else configuration
        return (), (error(f"{quoted(kind)} is no MutatingWebhookConfiguration"),)
    metadata = configuration.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    name = name if isinstance(name, str) else ""
    where = Where(kind=where.kind, name=name)
    webhooks = configuration.get("webhooks")
    if webhooks is None:
        return (), ()
    if not isinstance(webhooks, list):
        return (), (error("webhooks is not a list", where),)
    entries: list[WebhookEntry] = []
    problems: list[Problem] = []
    for number, webhook in enumerate(webhooks):
        path = Where(kind=where.kind, name=name, path=f"webhooks[{number}]")
        if not isinstance(webhook, dict) or not isinstance(webhook.get("name"), str):
            problems.append(error("an entry is a mapping with a name", path))
            continue
        if not every and not webhook["name"].endswith(SUFFIX):
            continue
        try:
            entries.append(_entry(webhook, name, configuration.get("apiVersion")))
        except SelectorError as bad:
            problems.append(error(str(bad), path))
    return tuple(entries), tuple(problems)


def _entry(webhook: dict[str, object], configuration: str, version: object) -> WebhookEntry:
    default_failure = "Ignore" if version == "admissionregistration.k8s.io/v1beta1" else "Fail"
    return WebhookEntry(
        str(webhook["name"]),
        configuration,
        parse_selector(webhook.get("namespaceSelector")),
        parse_selector(webhook.get("objectSelector")),
        creates_pods=_creates_pods(webhook.get("rules")),
        conditions=bool(webhook.get("matchConditions")),
        fails_closed=webhook.get("failurePolicy", default_failure) != "Ignore",
    )


def _creates_pods(rules: object) -> bool:
    """Whether any rule covers the creation of v1 pods."""
    if not isinstance(rules, list):
        return False
    wanted = {
        "operations": "CREATE",
        "apiGroups": "",
        "apiVersions": "v1",
        "resources": "pods",
    }
    return any(
        isinstance(rule, dict)
        and rule.get("scope", "*") in ("*", "Namespaced")
        and all(_covers(rule.get(key), value) for key, value in wanted.items())
        for rule in rules
    )


def _covers(values: object, wanted: str) -> bool:
    return isinstance(values, list) and any(one in values for one in (wanted, "*", "*/*"))
