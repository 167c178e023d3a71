"""The webhook's HTTP: reviews on the one port, health and metrics on the other.

Every request has an answer in time. Where there is more to do than can be done until then, that
answer is 503, which the API server turns into the failure policy of the registration.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from istio_init.inject.problems import InjectionError
from istio_init.inject.webhook import PATH
from istio_init.inject.webhook_metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope

    from istio_init.inject.webhook import Reply
    from istio_init.inject.webhook_metrics import WebhookMetrics

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a webhook takes upon itself.

    The body's is Istio's; no pod is larger, for etcd stores 1.5 MiB of an object.
    """

    body_bytes: int = 6 << 20
    # Of all requests together.
    bodies_bytes: int = 24 << 20
    body_seconds: float = 5.0
    # Requests that wait for a worker; each has milliseconds of work.
    pending: int = 256
    # For a worker's answer; less when the API server says that it waits for less.
    reply_seconds: float = 8.0


@dataclass(slots=True)
class Health:
    """What the webhook knows of itself. ``notes`` are lines for ``/ready``, by their subject."""

    draining: bool = False
    notes: dict[str, str] = field(default_factory=dict)
    # What must have happened before the first review can be answered.
    missing: set[str] = field(default_factory=set)

    @property
    def is_ready(self) -> bool:
        """Whether reviews are to be sent here."""
        return not self.draining and not self.missing

    def text(self) -> str:
        """Return the answer to ``/ready``, a line for each thing to know."""
        if self.draining:
            first = "not ready: shutting down"
        elif self.missing:
            first = f"not ready: no {', no '.join(sorted(self.missing))} yet"
        else:
            first = "ready"
        return "".join(f"{line}\n" for line in (first, *self.notes.values()))


class HttpError(Exception):
    """A request that gets an error for an answer, and its connection closed if it has a body."""

    def __init__(self, status: int, reason: str, text: str, **headers: str) -> None:
        self.status, self.reason, self.text = status, reason, text
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        super().__init__(text)


class WebhookApp:
    """The two ASGI applications, which share their state."""

    def __init__(
        self,
        reply: Callable[[bytes, str], Awaitable[Reply]],
        report: Callable[[Reply], None],
        metrics: WebhookMetrics,
        health: Health,
        limits: Limits | None = None,
    ) -> None:
        self._reply, self._report = reply, report
        self._metrics, self._health = metrics, health
        self._limits = limits or Limits()
        self._pending = self._bodies = 0

    async def webhook(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Serve reviews, with TLS."""
        assert scope["type"] == "http"  # noqa: S101 - the server is told to send nothing else
        path = scope["path"]
        if path != PATH and not path.startswith(f"{PATH}/"):
            await self._serve_health(scope, send)
            return
        start = time.perf_counter()
        try:
            reply = await self._review(scope, receive)
        except HttpError as error:
            self._metrics.rejected.labels(error.reason).inc()
            await self._send(send, error.status, f"{error.text}\n", headers=error.headers)
            return
        await self._send(send, 200, reply.body, JSON)
        self._metrics.count(reply.outcome, reply.reason, time.perf_counter() - start)
        self._report(reply)

    async def operations(
        self,
        scope: Scope,
        receive: ASGIReceiveCallable,  # noqa: ARG002 - ASGI's
        send: ASGISendCallable,
    ) -> None:
        """Serve health and metrics, without TLS."""
        assert scope["type"] == "http"  # noqa: S101 - the same
        if scope["path"] == "/metrics":
            await self._send(send, 200, self._metrics.text(), CONTENT_TYPE)
        else:
            await self._serve_health(scope, send)

    async def _serve_health(self, scope: HTTPScope, send: ASGISendCallable) -> None:
        match scope["path"]:
            case "/ready":
                status = 200 if self._health.is_ready else 503
                await self._send(send, status, self._health.text())
            case "/live":
                await self._send(send, 200, "live\n")
            case _:
                await self._send(send, 404, "there is nothing at this path\n")

    async def _review(self, scope: HTTPScope, receive: ASGIReceiveCallable) -> Reply:
        deadline = time.monotonic() + self._reply_seconds(scope)
        expected = self._expected(scope)
        if self._pending >= self._limits.pending:
            raise _overload("too many requests wait for an answer")
        if self._bodies + expected > self._limits.bodies_bytes:
            raise _overload("too many large requests wait for an answer")
        self._pending += 1
        self._bodies += expected
        self._metrics.pending.set(self._pending)
        self._metrics.requests.inc()
        try:
            async with asyncio.timeout_at(
                asyncio.get_running_loop().time() + deadline - time.monotonic()
            ):
                body = await self._body(receive)
                return await self._reply(body, scope["path"])
        except TimeoutError:
            raise _overload("no worker was free in time") from None
        except InjectionError as error:
            raise _overload(str(error)) from error
        finally:
            self._pending -= 1
            self._bodies -= expected
            self._metrics.pending.set(self._pending)

    def _reply_seconds(self, scope: HTTPScope) -> float:
        """Return how long the API server waits, less what the way back takes."""
        limit = self._limits.reply_seconds
        for text in parse_qs(scope["query_string"].decode("latin-1")).get("timeout", ()):
            number = text.removesuffix("s")
            if number.isdigit() and len(number) < 4:
                limit = min(limit, int(number) * 0.8)
        return limit

    def _expected(self, scope: HTTPScope) -> int:
        """Check a request's head; return how many bytes its body may have."""
        if scope["method"] != "POST":
            raise HttpError(405, "method", "reviews are posted", allow="POST")
        headers = dict(scope["headers"])
        media_type = headers.get(b"content-type", b"").decode("latin-1")
        if media_type.partition(";")[0].strip().lower() != JSON:
            raise HttpError(415, "content-type", f"Content-Type must be {JSON}")
        if b"content-encoding" in headers:
            raise HttpError(415, "content-type", "Content-Encoding is not supported")
        length = headers.get(b"content-length")
        if length is None:
            return self._limits.body_bytes
        # The parser has seen to it that these are digits.
        size = int(length)
        if size > self._limits.body_bytes:
            raise self._too_large()
        return size

    async def _body(self, receive: ASGIReceiveCallable) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise HttpError(400, "disconnected", "the request has no end")
                    body += message.get("body", b"")
                    if len(body) > self._limits.body_bytes:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise HttpError(408, "slow", "the request took too long to arrive") from None
        if not body:
            raise HttpError(400, "empty-body", "the request has no body")
        return bytes(body)

    def _too_large(self) -> HttpError:
        text = f"the body is larger than {self._limits.body_bytes} bytes"
        return HttpError(400, "body-too-large", text)

    async def _send(
        self,
        send: ASGISendCallable,
        status: int,
        body: bytes | str,
        content_type: str = TEXT,
        headers: dict[str, str] | None = None,
    ) -> None:
        content = body.encode() if isinstance(body, str) else body
        fields = {"content-type": content_type, "content-length": str(len(content))}
        fields |= headers or {}
        # A body that was not read would be taken for the next request. And while this process
        # shuts down every connection moves to another one.
        if self._health.draining or status in (400, 405, 408, 415, 503):
            fields["connection"] = "close"
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
                "trailers": False,
            }
        )
        await send({"type": "http.response.body", "body": content, "more_body": False})


def _overload(text: str) -> HttpError:
    # The API server's client waits for this long and tries again, as long as it has time left.
    return HttpError(503, "overload", text, retry_after="1")
