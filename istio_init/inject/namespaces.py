"""The cluster's namespaces, where their annotations decide what a pod may be: on OpenShift."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx2
from lightkube import ApiError
from lightkube.resources.core_v1 import Namespace

if TYPE_CHECKING:
    from lightkube import AsyncClient

    from istio_init.inject.app import Health
    from istio_init.log import Log

# The subject of what is missing until the first list has come.
NAMESPACES = "namespaces"
# In seconds, after a failure.
PAUSE = 2.0


class NamespaceCache:
    """What the API server last said of each namespace."""

    def __init__(self, client: AsyncClient, health: Health, log: Log) -> None:
        self._client, self._health, self._log = client, health, log
        self._known: dict[str, dict[str, Any]] = {}
        health.missing.add(NAMESPACES)

    def get(self, name: str) -> dict[str, Any] | None:
        """Return a namespace as JSON data, or None where it is not known."""
        return self._known.get(name)

    async def run(self) -> None:
        """Keep up to date until cancelled."""
        while True:
            try:
                await self._follow()
            except (ApiError, httpx2.HTTPError) as error:
                self._log.error(f"{NAMESPACES}: {error}")
            await asyncio.sleep(PAUSE)

    async def _follow(self) -> None:
        listed = self._client.list(Namespace)
        known: dict[str, dict[str, Any]] = {}
        async for namespace in listed:
            self._note(known, namespace)
        self._known = known
        self._health.missing.discard(NAMESPACES)
        watched = self._client.watch(Namespace, resource_version=listed.resourceVersion)
        async for event, namespace in watched:
            if event == "DELETED" and namespace.metadata and namespace.metadata.name:
                known.pop(namespace.metadata.name, None)
            else:
                self._note(known, namespace)

    def _note(self, known: dict[str, dict[str, Any]], namespace: Namespace) -> None:
        if namespace.metadata is not None and namespace.metadata.name is not None:
            known[namespace.metadata.name] = namespace.to_dict()
