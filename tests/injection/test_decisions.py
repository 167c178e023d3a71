"""Decisions of Istio's webhook configurations and injector."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from istio_init.inject import policy, webhooks
from istio_init.inject.generation import NEW
from istio_init.inject.policy import Gate, InjectionPolicy, Subject
from tests.injection.folder import conformance

if TYPE_CHECKING:
    from istio_init.inject.webhooks import WebhookEntry

FOLDER = conformance()
BUILT_IN = {
    "default": webhooks.installation(NEW),
    "canary": webhooks.installation(NEW, revision="canary"),
    "by-default": webhooks.installation(NEW, by_default=True),
}


def rows() -> list[dict[str, Any]]:
    if FOLDER is None:
        return []
    lines = (FOLDER / "1.30" / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def subject(row: dict[str, Any]) -> Subject:
    return Subject(
        row["labels"],
        row["annotations"],
        host_network=row["host_network"],
        request_namespace=row["namespace"],
        namespace_labels=row["namespace_labels"],
    )


def injection_policy(row: dict[str, Any]) -> InjectionPolicy:
    config = {
        "policy": row["policy"],
        "neverInjectSelector": row.get("never"),
        "alwaysInjectSelector": row.get("always"),
    }
    return policy.policy_of(config, NEW)


def registered(installation: str) -> tuple[WebhookEntry, ...]:
    assert FOLDER is not None
    file = FOLDER / "1.30" / f"mutating-webhook-{installation}.yaml"
    entries, problems = webhooks.entries_of(yaml.safe_load(file.read_text(encoding="utf-8")))
    assert not problems
    return entries


ROWS = rows()
INSTALLATIONS = sorted({row["install"] for row in ROWS})


@pytest.mark.parametrize("installation", INSTALLATIONS)
def test_the_built_in_table_is_what_the_chart_registers(installation: str) -> None:
    assert BUILT_IN[installation] == registered(installation)


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_decision(number: int) -> None:
    row = ROWS[number]
    entries = BUILT_IN[row["install"]]
    pod, settings = subject(row), injection_policy(row)

    at_injector = policy.decide(pod, settings)
    both = policy.decide(pod, settings, entries)

    assert at_injector.inject is row["injector"], row
    assert list(both.entries) == row["webhooks"], row
    assert both.inject is row["injected"], row
    assert (both.gate is Gate.WEBHOOK) is not bool(row["webhooks"])
    if both.remedy.edits:
        healed = policy.decide(pod.edited(both.remedy.edits), settings, entries)
        assert healed.inject, (row, both.remedy)
    assert both.inject or both.remedy.text


def test_remedies_of_labels_are_found() -> None:
    """Labels suffice wherever neither network, nor policy, nor namespace stands in the way."""
    for row in ROWS:
        pod, settings = subject(row), injection_policy(row)
        both = policy.decide(pod, settings, BUILT_IN[row["install"]])
        reserved = row["namespace"] in policy.RESERVED_NAMESPACES[NEW]
        hopeless = row["host_network"] or row["policy"] == "wrong" or reserved
        assert both.inject or bool(both.remedy.edits) is not hopeless, (row, both)
