"""The webhook's HTTP, over real connections with TLS: every request has an answer, in time."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from istio_init.inject import connections
from istio_init.inject.app import Health, Limits, WebhookApp
from istio_init.inject.certificates import Terms, issue_server, renewed
from istio_init.inject.problems import InjectionError, error
from istio_init.inject.server import make_server
from istio_init.inject.tls import ServerTls
from istio_init.inject.webhook import Outcome, Reply
from istio_init.inject.webhook_metrics import WebhookMetrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

NAME = "webhook.mesh.svc"
BODY = b'{"a": 1}'
JSON = "application/json"


@dataclass
class Webhook:
    """A webhook that serves, and what a test may look at."""

    port: int
    operations_port: int
    client: ssl.SSLContext
    metrics: WebhookMetrics
    health: Health
    tls: ServerTls
    reports: list[Reply] = field(default_factory=list)

    async def connect(
        self, *, tls: bool = True
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if tls:
            return await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=self.client, server_hostname=NAME
            )
        return await asyncio.open_connection("127.0.0.1", self.operations_port)

    async def post(self, body: bytes = BODY, path: str = "/inject", **headers: str) -> Answer:
        fields = {"content-type": JSON, "content-length": str(len(body))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ask(f"POST {path} HTTP/1.1", fields, body)

    async def get(self, path: str, *, tls: bool = False) -> Answer:
        return await self.ask(f"GET {path} HTTP/1.1", {}, b"", tls=tls)

    async def ask(
        self, line: str, fields: dict[str, str], body: bytes, *, tls: bool = True
    ) -> Answer:
        reader, writer = await self.connect(tls=tls)
        head = "".join(f"{text}\r\n" for text in (line, *(f"{k}: {v}" for k, v in fields.items())))
        writer.write(head.encode() + b"\r\n" + body)
        found = await answer(reader)
        writer.close()
        return found


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def answer(reader: asyncio.StreamReader) -> Answer:
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
    return Answer(int(head[0].split()[1]), headers, body)


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110 - what happens is another's
            await asyncio.sleep(0.01)


async def echo(body: bytes, path: str) -> Reply:
    return Reply(json.dumps([body.decode(), path]).encode(), Outcome.INJECTED, "policy-enabled")


@asynccontextmanager
async def serving(
    reply: Callable[[bytes, str], Awaitable[Reply]] = echo, limits: Limits | None = None
) -> AsyncIterator[Webhook]:
    """Serve for the length of a ``with`` block."""
    metrics, health, tls = WebhookMetrics(), Health(), ServerTls()
    authority = renewed(None, datetime.now(UTC), Terms()).current
    tls.install(issue_server(authority, [NAME], datetime.now(UTC), Terms()))
    client = ssl.create_default_context(cadata=authority.certificate.decode())
    webhook = Webhook(0, 0, client, metrics, health, tls)
    app = WebhookApp(reply, webhook.reports.append, metrics, health, limits)
    servers = [make_server(app.webhook, tls.context), make_server(app.operations, None)]
    sockets = [connections.listen(0) for _ in servers]
    webhook.port, webhook.operations_port = (one.getsockname()[1] for one in sockets)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(server.serve([socket]))
            for server, socket in zip(servers, sockets, strict=True)
        ]
        try:
            await until(lambda: all(server.started for server in servers))
            yield webhook
        finally:
            for server in servers:
                server.should_exit = server.force_exit = True
            await asyncio.gather(*tasks)
            for one in sockets:
                one.close()


def run(test: Callable[[Webhook], Awaitable[None]], **settings: Any) -> None:  # noqa: ANN401
    async def serve_and_test() -> None:
        async with serving(**settings) as webhook:
            await test(webhook)

    asyncio.run(serve_and_test())


def counted(webhook: Webhook, line: str) -> bool:
    return line.encode() in webhook.metrics.text().splitlines()


def test_a_review_is_answered() -> None:
    async def test(webhook: Webhook) -> None:
        for content_type in (JSON, f"{JSON}; charset=utf-8", JSON.upper()):
            found = await webhook.post(path="/inject/net/n?timeout=10s", content_type=content_type)
            assert found.status == 200
            assert found.headers["content-type"] == JSON
            assert json.loads(found.body) == [BODY.decode(), "/inject/net/n"]
        assert len(webhook.reports) == 3
        assert counted(webhook, "sidecar_injection_requests_total 3.0")
        assert counted(webhook, "sidecar_injection_success_total 3.0")

    run(test)


def test_a_connection_is_kept() -> None:
    async def test(webhook: Webhook) -> None:
        reader, writer = await webhook.connect()
        head = f"POST /inject HTTP/1.1\r\ncontent-type: {JSON}\r\ncontent-length: 1\r\n\r\n1"
        for _ in range(3):
            writer.write(head.encode())
            assert "connection" not in (await answer(reader)).headers
        webhook.health.draining = True
        writer.write(head.encode())
        assert (await answer(reader)).headers["connection"] == "close"
        assert await reader.read() == b""
        writer.close()

    run(test)


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "empty": ({"body": b""}, 400, "empty-body"),
    "text": ({"content_type": "text/plain"}, 415, "content-type"),
    "no type": ({"content_type": ""}, 415, "content-type"),
    "packed": ({"content_encoding": "gzip"}, 415, "content-type"),
    "too large": ({"body": b"x" * 1001}, 400, "body-too-large"),
    "too large, it says": ({"content_length": "1001"}, 400, "body-too-large"),
    "too large for a number": ({"content_length": "9" * 15}, 400, "body-too-large"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(name: str) -> None:
    settings, status, reason = BAD[name]

    async def test(webhook: Webhook) -> None:
        found = await webhook.post(**settings)
        assert found.status == status
        assert found.headers["connection"] == "close"
        assert found.body.endswith(b"\n")
        assert counted(webhook, f'istio_init_webhook_rejected_total{{reason="{reason}"}} 1.0')
        assert webhook.reports == []

    run(test, limits=Limits(body_bytes=1000))


def test_a_body_in_pieces_has_a_limit_too() -> None:
    async def test(webhook: Webhook) -> None:
        reader, writer = await webhook.connect()
        head = (
            f"POST /inject HTTP/1.1\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        writer.write(head.encode())
        for _ in range(20):
            writer.write(b"64\r\n" + b"x" * 100 + b"\r\n")
        assert (await answer(reader)).status == 400
        writer.close()

    run(test, limits=Limits(body_bytes=1000))


def test_other_methods_and_paths() -> None:
    async def test(webhook: Webhook) -> None:
        found = await webhook.get("/inject", tls=True)
        assert (found.status, found.headers["allow"]) == (405, "post")
        for path in ("/", "/injected", "/metrics", "/etc/passwd", "/../../etc/passwd", "/%2e%2e"):
            assert (await webhook.get(path, tls=True)).status == 404
        assert (await webhook.get("/other")).status == 404
        assert (await webhook.get("/inject")).status == 404

    run(test)


def test_health() -> None:
    async def test(webhook: Webhook) -> None:
        webhook.health.missing.add("certificates")
        found = await webhook.get("/ready")
        assert (found.status, found.body) == (503, b"not ready: no certificates yet\n")
        webhook.health.missing.clear()
        webhook.health.notes["x"] = "x: not reloaded"
        found = await webhook.get("/ready", tls=True)
        assert (found.status, found.body) == (200, b"ready\nx: not reloaded\n")
        webhook.health.draining = True
        assert (await webhook.get("/ready")).status == 503
        assert (await webhook.get("/live")).status == 200
        found = await webhook.get("/metrics")
        assert found.status == 200
        assert found.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert b"sidecar_injection_time_seconds_bucket" in found.body

    run(test)


def test_overload_is_answered_at_once() -> None:
    release = asyncio.Event()

    async def slow(_: bytes, __: str) -> Reply:
        await release.wait()
        return Reply(b"{}", Outcome.SKIPPED, "host-network")

    async def test(webhook: Webhook) -> None:
        waiting = [asyncio.create_task(webhook.post()) for _ in range(4)]
        await until(lambda: counted(webhook, "istio_init_webhook_pending 4.0"))
        found = await webhook.post()
        assert (found.status, found.headers["retry-after"]) == (503, "1")
        assert counted(webhook, 'istio_init_webhook_rejected_total{reason="overload"} 1.0')
        release.set()
        assert [one.status for one in await asyncio.gather(*waiting)] == [200] * 4
        assert counted(webhook, 'sidecar_injection_skip_total{reason="host-network"} 4.0')
        assert (await webhook.post()).status == 200

    run(test, reply=slow, limits=Limits(pending=4))


def test_bodies_have_a_limit_together() -> None:
    release = asyncio.Event()

    async def slow(_: bytes, __: str) -> Reply:
        await release.wait()
        return Reply(b"{}", Outcome.SKIPPED, "host-network")

    async def test(webhook: Webhook) -> None:
        waiting = [asyncio.create_task(webhook.post(b"x" * 900)) for _ in range(2)]
        await until(lambda: counted(webhook, "istio_init_webhook_pending 2.0"))
        assert (await webhook.post(b"x" * 900)).status == 503
        release.set()
        await asyncio.gather(*waiting)

    run(test, reply=slow, limits=Limits(body_bytes=1000, bodies_bytes=2000))


def test_who_waits_too_long_is_told_in_time() -> None:
    async def never(_: bytes, __: str) -> Reply:
        await asyncio.sleep(60)
        raise AssertionError

    async def test(webhook: Webhook) -> None:
        start = asyncio.get_running_loop().time()
        assert (await webhook.post(path="/inject?timeout=1s")).status == 503
        assert 0.5 < asyncio.get_running_loop().time() - start < 5

    run(test, reply=never)


def test_a_worker_that_was_killed() -> None:
    async def killed(_: bytes, __: str) -> Reply:
        raise InjectionError([error("a worker was killed")])

    async def test(webhook: Webhook) -> None:
        found = await webhook.post()
        assert found.status == 503
        assert b"a worker was killed" in found.body

    run(test, reply=killed)


def test_a_body_that_does_not_come() -> None:
    async def test(webhook: Webhook) -> None:
        assert (await webhook.post(content_length="100")).status == 408

    run(test, limits=Limits(body_seconds=0.2))


def test_a_client_that_goes_away() -> None:
    async def test(webhook: Webhook) -> None:
        _, writer = await webhook.connect()
        head = f"POST /inject HTTP/1.1\r\ncontent-type: {JSON}\r\ncontent-length: 100\r\n\r\n"
        writer.write(head.encode())
        await writer.drain()
        writer.transport.abort()
        line = 'istio_init_webhook_rejected_total{reason="disconnected"} 1.0'
        await until(lambda: counted(webhook, line))

    run(test)


def test_a_head_without_end() -> None:
    async def test(webhook: Webhook) -> None:
        reader, writer = await webhook.connect()
        writer.write(b"POST /inject HTTP/1.1\r\na: ")
        for _ in range(connections.MOST_HEAD_BYTES // 4096 + 2):
            writer.write(b"x" * 4096)
        assert (await answer(reader)).status == 400
        assert await reader.read() == b""
        writer.close()

    run(test)


@pytest.mark.parametrize("begun", [b"", b"POST /inj"], ids=["nothing", "a part"])
def test_a_head_that_does_not_come(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)

    async def test(webhook: Webhook) -> None:
        reader, writer = await webhook.connect()
        writer.write(begun)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()

    run(test)


def test_connections_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)

    async def test(webhook: Webhook) -> None:
        open_ones = [await webhook.connect(tls=False) for _ in range(3)]
        reader, writer = await webhook.connect(tls=False)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        for _, one in (*open_ones, (reader, writer)):
            one.close()
            await one.wait_closed()
        assert (await webhook.get("/live")).status == 200

    run(test)


def test_garbage_in_place_of_http() -> None:
    async def test(webhook: Webhook) -> None:
        reader, writer = await webhook.connect()
        writer.write(b"\x00\xff\r\n\r\n")
        assert (await answer(reader)).status == 400
        writer.close()
        assert (await webhook.post()).status == 200

    run(test)


def test_the_certificate_is_exchanged_while_connections_last() -> None:
    async def test(webhook: Webhook) -> None:
        reader, writer = await webhook.connect()
        other = renewed(None, datetime.now(UTC), Terms()).current
        webhook.tls.install(issue_server(other, [NAME], datetime.now(UTC), Terms()))
        with pytest.raises(ssl.SSLCertVerificationError):
            await webhook.connect()
        webhook.client = ssl.create_default_context(cadata=other.certificate.decode())
        assert (await webhook.post()).status == 200
        writer.write(
            f"POST /inject HTTP/1.1\r\ncontent-type: {JSON}\r\ncontent-length: 1\r\n\r\n1".encode()
        )
        assert (await answer(reader)).status == 200
        writer.close()

    run(test)
