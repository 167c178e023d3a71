"""Who is injected: every row, through the real API server's selectors and the real webhook."""

from __future__ import annotations

import functools
import re
import time
from contextlib import closing
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from lightkube import Client
from lightkube.models.core_v1 import Container, PodSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Namespace, Pod

from istio_init.inject.policy import InjectionPolicy, decide
from istio_init.inject.webhooks import entries_of
from tests.cluster.injector import restored_registrations
from tests.cluster.kubectl import make_namespace, run
from tests.cluster.local import local_webhook
from tests.cluster.process import wait_until
from tests.injection.folder import conformance
from tests.injection.test_decisions import rows, subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    Row = dict[str, Any]

INSTALLATIONS = ("default", "canary", "by-default")
POLICIES = ("enabled", "disabled", "wrong")
INJECT, REVISION, INJECTION = "sidecar.istio.io/inject", "istio.io/rev", "istio-injection"
WORDS = (None, "true", "false", "yes", "")
# A namespace whose name does not matter.
WHERE = "shop"


def labels(**values: str | None) -> dict[str, str]:
    names = {"injection": INJECTION, "revision": REVISION, "inject": INJECT}
    return {names[name]: value for name, value in values.items() if value is not None}


def every_row() -> Iterator[Row]:
    """Yield every combination of labels, and each namespace's with a word that is no label's."""
    revisions = (None, "default", "canary")
    for injection, of_namespace in product((None, "enabled", "disabled", "true"), revisions):
        row = {
            "namespace": WHERE,
            "namespace_labels": labels(injection=injection, revision=of_namespace),
            "annotations": {},
            "host_network": False,
        }
        for word, revision in product(WORDS, revisions):
            yield {**row, "labels": labels(inject=word, revision=revision)}
        for word in WORDS[1:]:
            yield {**row, "labels": {}, "annotations": {INJECT: word}}
        yield {**row, "labels": labels(inject="true"), "host_network": True}


class Asker:
    """Asks the API server what would become of pods."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def ask(self, row: Row) -> bool:
        """Say whether a pod is injected."""
        created = self._client.create(
            Pod(
                metadata=ObjectMeta(
                    name="web", labels=row["labels"], annotations=row["annotations"]
                ),
                spec=PodSpec(
                    containers=[Container(name="app", image="app:1")],
                    hostNetwork=row["host_network"],
                ),
            ),
            namespace=self._namespace(row["namespace"], row["namespace_labels"]),
            dry_run=True,
        )
        assert created.spec is not None
        return "istio-proxy" in [one.name for one in created.spec.containers]

    @functools.cache  # noqa: B019 - a test's own
    def _cached(self, name: str, wanted: tuple[tuple[str, str], ...]) -> str:
        """Return a namespace with labels; one whose name does not matter has them for good."""
        own = name if name != WHERE else f"{WHERE}-{'-'.join('.'.join(p) for p in wanted) or 'x'}"
        own = re.sub("[^a-z0-9-]", "-", own)
        if run("get", "namespace", own).returncode:
            make_namespace(own, dict(wanted) if name == WHERE else {})
        return own

    def _namespace(self, name: str, wanted: dict[str, str]) -> str:
        own = self._cached(name, tuple(sorted(wanted.items())))
        if name != WHERE:
            found = self._client.get(Namespace, own)
            assert found.metadata is not None
            before = found.metadata.labels or {}
            after = {k: v for k, v in before.items() if k not in (INJECTION, REVISION)} | wanted
            if before != after:
                found.metadata.labels = after
                self._client.replace(found)
                # The API server looks at what it remembers of a namespace.
                time.sleep(1)
        return own


@pytest.mark.parametrize("installation", INSTALLATIONS)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_row(installation: str, policy: str) -> None:
    """What `check-inject` says without a cluster is what the cluster does."""
    with (
        restored_registrations(),
        local_webhook(policy="enabled") as webhook,
        closing(Client()) as client,
    ):
        asker = Asker(client)
        registration = webhook.register(installation)
        revision = "canary" if installation == "canary" else "default"
        probe: Row = {"namespace": WHERE, "namespace_labels": labels(revision=revision)}
        probe |= {"labels": labels(inject="true"), "annotations": {}, "host_network": False}
        wait_until("the API server knows the webhook", lambda: asker.ask(probe))
        webhook.configure(policy=policy)
        entries, problems = entries_of(registration)
        assert not problems
        asked = list(every_row())
        expected = [decide(subject(row), InjectionPolicy("1.30", policy), entries) for row in asked]
        differing = [
            (row, decision.reason)
            for row, decision in zip(asked, expected, strict=True)
            if asker.ask(row) != decision.inject
        ]
        assert differing == []
        assert len({decision.inject for decision in expected}) == (1 if policy == "wrong" else 2)
        theirs = [
            row
            for row in rows()
            if (row["install"], row["policy"]) == (installation, policy) and not has_selectors(row)
        ]
        assert [row for row in theirs if asker.ask(row) != row["injected"]] == []
        assert theirs or conformance() is None or policy == "wrong"


def has_selectors(row: Row) -> bool:
    return any(row.get(key) is not None for key in ("always", "never"))
