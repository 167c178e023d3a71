"""Events that say why a pod is not in the mesh, where kubectl shows them."""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx2
from lightkube import ApiError
from lightkube.models.core_v1 import EventSource
from lightkube.models.core_v1 import ObjectReference as EventObject
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Event

from istio_init.inject.webhook import Outcome

if TYPE_CHECKING:
    from lightkube import AsyncClient

    from istio_init.inject.webhook import Reply
    from istio_init.inject.webhook_metrics import WebhookMetrics
    from istio_init.log import Log

COMPONENT = "istio-init"
REASONS = {Outcome.SKIPPED: "NotInjected", Outcome.REFUSED: "InjectionRefused"}
# What waits to be written. A flood of pods that are not injected costs the rest of their events.
MOST_WAITING = 256
# In seconds: one event says it for all replicas of a workload.
REPEATED_AFTER = 300.0
MOST_REMEMBERED = 2048
# In seconds, between two events.
PACE = 0.05
# The API server refuses a longer one.
LONGEST_NOTE = 1024


class EventWriter:
    """Writes events in the background; none is worth a pod that waits for it."""

    def __init__(self, client: AsyncClient, metrics: WebhookMetrics, log: Log) -> None:
        self._client, self._metrics, self._log = client, metrics, log
        self._waiting: asyncio.Queue[Reply] = asyncio.Queue(MOST_WAITING)
        self._written: OrderedDict[tuple[object, ...], float] = OrderedDict()

    def report(self, reply: Reply) -> None:
        """Have an event written about a pod that was not injected, unless one says so already."""
        if reply.outcome not in REASONS or not reply.reason or reply.dry_run:
            return
        if not reply.about.namespace:
            return
        key = (reply.about, reply.outcome, reply.message)
        now = asyncio.get_running_loop().time()
        if now - self._written.get(key, -REPEATED_AFTER) < REPEATED_AFTER:
            return
        try:
            self._waiting.put_nowait(reply)
        except asyncio.QueueFull:
            self._metrics.events.labels("dropped").inc()
            return
        self._written[key] = now
        self._written.move_to_end(key)
        if len(self._written) > MOST_REMEMBERED:
            self._written.popitem(last=False)

    async def run(self) -> None:
        """Write events until cancelled."""
        while True:
            reply = await self._waiting.get()
            try:
                await self._client.create(_event(reply))
            except (ApiError, httpx2.HTTPError) as error:
                self._metrics.events.labels("failed").inc()
                self._log.error(f"an event about {reply.about} was not written: {error}")
            else:
                self._metrics.events.labels("written").inc()
            await asyncio.sleep(PACE)


def _event(reply: Reply) -> Event:
    now = datetime.now(UTC)
    text = reply.message
    if len(text) > LONGEST_NOTE:
        text = f"{text[: LONGEST_NOTE - 3]}..."
    return Event(
        metadata=ObjectMeta(
            name=f"{COMPONENT}.{uuid.uuid4().hex[:16]}", namespace=reply.about.namespace
        ),
        involvedObject=EventObject(**asdict(reply.about)),
        type="Warning",
        reason=REASONS[reply.outcome],
        message=text,
        source=EventSource(component=COMPONENT),
        reportingComponent=COMPONENT,
        reportingInstance=COMPONENT,
        action="Inject",
        count=1,
        firstTimestamp=now,
        lastTimestamp=now,
    )
