"""Files that are read again when they change; a bad one leaves the one before in use.

Kubernetes swaps the files of a ConfigMap or Secret by a symbolic link of their folder. A look at
what each path leads to, once a second, sees that, and any other way of writing a file.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from istio_init.inject.problems import InjectionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from istio_init.inject.app import Health
    from istio_init.inject.webhook_metrics import WebhookMetrics
    from istio_init.log import Log

# In seconds.
INTERVAL = 1.0
# Several files of one folder are read together; whoever writes them one by one gets this long.
SETTLING = 0.1


@dataclass(frozen=True, slots=True)
class Reloader:
    """Says what it does in a log line, a metric, and the text of ``/ready``."""

    metrics: WebhookMetrics
    health: Health
    log: Log

    async def watch(
        self, what: str, paths: Sequence[str], load: Callable[[], Awaitable[None]]
    ) -> None:
        """Call ``load`` whenever one of the files has changed, until cancelled."""
        seen = _state(paths)
        while True:
            await asyncio.sleep(INTERVAL)
            if _state(paths) == seen:
                continue
            await asyncio.sleep(SETTLING)
            seen = _state(paths)
            await self.reload(what, load)

    async def reload(self, what: str, load: Callable[[], Awaitable[None]]) -> None:
        """Call ``load`` once; if it fails, note that what was loaded before is in use."""
        try:
            await load()
        except (InjectionError, OSError) as error:
            text = f"{what}: not reloaded, the one before stays in use: {error}"
            self.health.notes[what] = text
            self.metrics.stale.labels(what).set(1)
            self.metrics.reloads.labels(what, "failure").inc()
            self.log.error(text)
        else:
            self.health.notes.pop(what, None)
            self.metrics.stale.labels(what).set(0)
            self.metrics.reloads.labels(what, "success").inc()
            self.log.info(f"{what}: reloaded")


def _state(paths: Sequence[str]) -> tuple[object, ...]:
    """Return something that differs when any of the files is another one, or was written to."""
    return tuple(_state_of(path) for path in paths)


def _state_of(path: str) -> object:
    try:
        status = os.stat(path)
    except OSError as error:
        return error.errno
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
