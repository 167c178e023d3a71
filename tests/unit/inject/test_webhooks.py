"""Entries of webhook configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from istio_init.inject import webhooks
from istio_init.inject.generation import NEW, OLD
from istio_init.inject.selectors import EVERYTHING

if TYPE_CHECKING:
    from typing import Any

RULE = {
    "operations": ["CREATE"],
    "apiGroups": [""],
    "apiVersions": ["v1"],
    "resources": ["pods"],
}


def configuration(**webhook: object) -> dict[str, Any]:
    name = f"namespace.{webhooks.SUFFIX}"
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "ours"},
        "webhooks": [{"name": name, "rules": [RULE], **webhook}],
    }


def test_entry() -> None:
    selector = {"matchLabels": {"a": "x"}}
    (entry,), problems = webhooks.entries_of(
        configuration(namespaceSelector=selector, matchConditions=[{"name": "x"}])
    )

    assert not problems
    assert str(entry) == "entry namespace.sidecar-injector.istio.io of ours"
    assert (entry.creates_pods, entry.conditions, entry.fails_closed) == (True, True, True)
    assert entry.objects == EVERYTHING
    assert entry.matches({"a": "x"}, {})
    assert not entry.matches({}, {"a": "x"})


@pytest.mark.parametrize(
    ("rules", "creates_pods"),
    [
        ([RULE], True),
        ([{**RULE, "resources": ["*/*"]}], True),
        ([{key: ["*"] for key in RULE}], True),
        ([{**RULE, "operations": ["UPDATE"]}, RULE], True),
        ([{**RULE, "scope": "Namespaced"}], True),
        ([{**RULE, "scope": "Cluster"}], False),
        ([{**RULE, "operations": ["UPDATE"]}], False),
        ([{**RULE, "resources": ["pods/exec"]}], False),
        ([{**RULE, "resources": "pods"}], False),
        (["pods"], False),
        ([], False),
        (None, False),
    ],
)
def test_only_the_creation_of_pods_counts(rules: object, *, creates_pods: bool) -> None:
    (entry,), _ = webhooks.entries_of(configuration(rules=rules))

    assert entry.creates_pods is creates_pods
    assert entry.matches({}, {}) is creates_pods


@pytest.mark.parametrize(
    ("version", "given", "fails_closed"),
    [
        ("v1", {}, True),
        ("v1", {"failurePolicy": "Ignore"}, False),
        ("v1beta1", {}, False),
        ("v1beta1", {"failurePolicy": "Fail"}, True),
    ],
)
def test_failure_policy(version: str, given: dict[str, str], *, fails_closed: bool) -> None:
    data = configuration(**given) | {"apiVersion": f"admissionregistration.k8s.io/{version}"}
    (entry,), _ = webhooks.entries_of(data)

    assert entry.fails_closed is fails_closed


def test_webhooks_of_others_do_not_count_unless_asked_for() -> None:
    other = configuration(name="policy.example.com")

    assert webhooks.entries_of(other) == ((), ())
    assert len(webhooks.entries_of(other, every=True)[0]) == 1


@pytest.mark.parametrize(
    ("data", "mentions"),
    [
        (None, "MutatingWebhookConfiguration"),
        ({"kind": "Pod\n"}, '"Pod\\n"'),
        (configuration() | {"webhooks": {}}, "webhooks"),
        (configuration() | {"webhooks": ["x"]}, "webhooks[0]"),
        (configuration(name=1), "webhooks[0]"),
        (configuration(objectSelector=[]), "webhooks[0]"),
    ],
)
def test_bad_configurations(data: object, mentions: str) -> None:
    entries, (problem,) = webhooks.entries_of(data)

    assert not entries
    assert mentions in str(problem)


def test_a_configuration_without_a_name_is_read_all_the_same() -> None:
    (entry,), problems = webhooks.entries_of(configuration() | {"metadata": None})

    assert not problems
    assert str(entry) == "entry namespace.sidecar-injector.istio.io"


@pytest.mark.parametrize("revision", ["", "default"])
def test_the_unnamed_revision_is_called_default(revision: str) -> None:
    assert webhooks.installation(NEW, revision=revision) == webhooks.installation(NEW)


def test_a_named_revision_has_two_entries_and_each_tag_two_more() -> None:
    entries = webhooks.installation(NEW, revision="canary", tags=("a", "b"), by_default=True)

    assert [entry.configuration for entry in entries] == [
        *["istio-sidecar-injector-canary"] * 2,
        *["istio-revision-tag-a"] * 2,
        *["istio-revision-tag-b"] * 2,
    ]


def test_1_0_has_one_entry() -> None:
    (entry,) = webhooks.installation(OLD)
    (by_default,) = webhooks.installation(OLD, by_default=True)

    assert entry.matches({"istio-injection": "enabled"}, {})
    assert not entry.matches({}, {})
    assert by_default.matches({}, {})
    assert not by_default.matches({"istio-injection": "disabled"}, {})
