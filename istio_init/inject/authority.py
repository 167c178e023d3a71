"""The webhook's certificates in a cluster: kept in a Secret, and made known to the API server.

Every replica does the same with the same Secret. Whoever writes it first wins, for an update of
what somebody else has changed meanwhile is refused; the others read it again.
"""

from __future__ import annotations

import asyncio
import base64
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx2
from lightkube import ApiError
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.admissionregistration_v1 import MutatingWebhookConfiguration
from lightkube.resources.core_v1 import Secret
from lightkube.types import PatchType

from istio_init.inject.certificates import (
    Authorities,
    KeyPair,
    Terms,
    as_secret_data,
    from_secret_data,
    is_due,
    is_signed_by,
    issue_server,
    renewed,
)
from istio_init.inject.problems import InjectionError
from istio_init.inject.problems import error as problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightkube import AsyncClient

    from istio_init.inject.app import Health
    from istio_init.inject.webhook_metrics import WebhookMetrics
    from istio_init.log import Log

CONFLICT, NOT_FOUND = 409, 404
# In seconds, between two looks when nothing seems to change, and after a failure.
INTERVAL = 30.0
PAUSE = 2.0
# Of a write that somebody else was faster with.
ATTEMPTS = 5
# The subject of notes and metrics.
CERTIFICATES, CA_BUNDLE = "certificates", "caBundle"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the webhook is in the cluster, and who has to know its authority."""

    namespace: str
    service: str
    secret: str
    configurations: tuple[str, ...]

    @property
    def dns_names(self) -> tuple[str, ...]:
        """The names by which it is called; the first is the API server's."""
        name = f"{self.service}.{self.namespace}"
        return (f"{name}.svc", name, f"{name}.svc.cluster.local")


class CertificateManager:
    """Keeps the Secret, the served certificate and the registrations in agreement."""

    def __init__(
        self,
        client: AsyncClient,
        place: Place,
        terms: Terms,
        install: Callable[[KeyPair], None],
        *,
        metrics: WebhookMetrics,
        health: Health,
        log: Log,
    ) -> None:
        self._client, self._place, self._terms = client, place, terms
        self._install = install
        self._metrics, self._health, self._log = metrics, health, log
        self._served: KeyPair | None = None
        self._known: Authorities | None = None
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for name in self._place.configurations:
                tasks.create_task(self._watch(name))
            while True:
                self._changed.clear()
                pause = INTERVAL
                try:
                    await self.reconcile()
                    self._health.notes.pop(CERTIFICATES, None)
                except (ApiError, httpx2.HTTPError, InjectionError) as error:
                    pause = PAUSE
                    self._note(CERTIFICATES, f"{CERTIFICATES}: {_why(error)}")
                # Long enough for an authority to be renewed with any terms.
                pause = min(pause, self._terms.overlap.total_seconds() / 4)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), pause)

    async def reconcile(self) -> None:
        """Bring everything up to date once."""
        authorities = await self._agree()
        # Before anything is served that only the new bundle vouches for.
        for name in self._place.configurations:
            await self._heal(name, authorities.bundle)
        now = datetime.now(UTC)
        served = self._served
        if (
            served is None
            or is_due(served.certificate, now, self._terms.server)
            or not is_signed_by(served, authorities.current)
        ):
            served = issue_server(authorities.current, self._place.dns_names, now, self._terms)
            self._install(served)
            self._served = served
            end = served.parsed.not_valid_after_utc
            self._metrics.certificate_expiry.set(end.timestamp())
            self._log.info(f"{CERTIFICATES}: serving a new one, which expires at {end:%FT%TZ}")
        self._health.missing.discard(CERTIFICATES)

    async def _agree(self) -> Authorities:
        """Return the authorities of the Secret, after what is due to them was done."""
        for _ in range(ATTEMPTS):
            secret = await self._get_secret()
            stored = self._read(secret)
            # What somebody has deleted or spoilt is written again as it was.
            wanted = renewed(stored or self._known, datetime.now(UTC), self._terms)
            if wanted == stored:
                self._known = wanted
                return wanted
            try:
                await self._write(secret, wanted)
            except ApiError as error:
                # Another replica was faster.
                if error.status.code != CONFLICT:
                    raise
            else:
                self._log.info(f"{CERTIFICATES}: Secret {self._place.secret} is written")
        raise InjectionError(
            [problem(f"Secret {self._place.secret} changes faster than it can be written")]
        )

    async def _get_secret(self) -> Secret | None:
        try:
            return await self._client.get(
                Secret, self._place.secret, namespace=self._place.namespace
            )
        except ApiError as error:
            if error.status.code == NOT_FOUND:
                return None
            raise

    def _read(self, secret: Secret | None) -> Authorities | None:
        if secret is None:
            return None
        try:
            return from_secret_data(secret.data or {})
        except InjectionError as error:
            self._log.error(f"{error}; it is written anew")
            return None

    async def _write(self, secret: Secret | None, authorities: Authorities) -> None:
        data = as_secret_data(authorities)
        name, namespace = self._place.secret, self._place.namespace
        if secret is None:
            metadata = ObjectMeta(name=name, namespace=namespace)
            await self._client.create(Secret(metadata=metadata, data=data, type="Opaque"))
        else:
            # Its metadata has the version that was read.
            secret.data = data
            await self._client.replace(secret)

    async def _heal(self, name: str, bundle: bytes) -> None:
        """Write the bundle into every entry of a registration that calls this service."""
        wanted = base64.b64encode(bundle).decode()
        for attempt in range(ATTEMPTS):
            try:
                configuration = await self._client.get(MutatingWebhookConfiguration, name)
                operations = list(self._operations(configuration, wanted))
                if not operations:
                    self._health.notes.pop(f"{CA_BUNDLE} {name}", None)
                    return
                self._metrics.patch_attempts.labels(name).inc()
                if attempt:
                    self._metrics.patch_retries.labels(name).inc()
                await self._client.patch(
                    MutatingWebhookConfiguration, name, operations, patch_type=PatchType.JSON
                )
            except ApiError as error:
                # A changed list of entries fails the test that goes before each operation.
                if error.status.code == CONFLICT or _is_failed_test(error):
                    continue
                reason = error.status.reason or "unknown"
                self._metrics.patch_failures.labels(name, reason).inc()
                if error.status.code != NOT_FOUND:
                    raise
                key = f"{CA_BUNDLE} {name}"
                self._note(key, f"{CA_BUNDLE}: MutatingWebhookConfiguration {name} is missing")
                return
            self._log.info(f"{CA_BUNDLE}: written into MutatingWebhookConfiguration {name}")

    def _operations(
        self, configuration: MutatingWebhookConfiguration, wanted: str
    ) -> Iterator[dict[str, Any]]:
        for number, webhook in enumerate(configuration.webhooks or ()):
            service = webhook.clientConfig.service
            if service is None or (service.name, service.namespace) != (
                self._place.service,
                self._place.namespace,
            ):
                continue
            if webhook.clientConfig.caBundle != wanted:
                path = f"/webhooks/{number}"
                yield {"op": "test", "path": f"{path}/name", "value": webhook.name}
                yield {"op": "add", "path": f"{path}/clientConfig/caBundle", "value": wanted}

    async def _watch(self, name: str) -> None:
        """Look again as soon as somebody changes a registration."""
        while True:
            with suppress(ApiError, httpx2.HTTPError):
                async for _ in self._client.watch(
                    MutatingWebhookConfiguration, fields={"metadata.name": name}
                ):
                    self._changed.set()
            await asyncio.sleep(PAUSE)

    def _note(self, subject: str, text: str) -> None:
        if self._health.notes.get(subject) != text:
            self._health.notes[subject] = text
            self._log.error(text)


def _is_failed_test(error: ApiError) -> bool:
    # The API server's answer to a JSON patch that cannot be applied.
    return error.status.code == 422


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
