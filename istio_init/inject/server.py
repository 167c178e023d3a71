"""The admission webhook as a program: two ports, workers, and what is reloaded and renewed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn

from istio_init.errors import IstioInitError
from istio_init.inject.app import Health, WebhookApp
from istio_init.inject.connections import KEEP_ALIVE_SECONDS, BoundedConnection, listen
from istio_init.inject.problems import InjectionError, printable
from istio_init.inject.reload import Reloader
from istio_init.inject.tls import ServerTls, read_pair
from istio_init.inject.webhook import Outcome, namespace_of
from istio_init.inject.webhook_metrics import WebhookMetrics
from istio_init.inject.workers import WorkerPool

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Iterator
    from typing import Any

    from istio_init.inject.authority import Place
    from istio_init.inject.certificates import KeyPair, Terms
    from istio_init.inject.webhook import Reply
    from istio_init.inject.workers import Load
    from istio_init.log import Log

CONFIGURATION, CERTIFICATES = "configuration", "certificates"


@dataclass(frozen=True, slots=True)
class Managed:
    """An authority of the webhook's own."""

    place: Place
    terms: Terms


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How the webhook serves.

    ``read`` reads the files of the configuration, and returns what makes an
    injector of their texts in another process. The certificate is that of
    ``certificate_files``, the second of which is the key, or ``managed``.
    """

    read: Callable[[], Load]
    configuration_files: tuple[str, ...]
    port: int
    metrics_port: int
    workers: int = 2
    certificate_files: tuple[str, str] | None = None
    managed: Managed | None = None
    write_events: bool = False
    # Whether injection looks at a pod's namespace.
    needs_namespaces: bool = False
    # For how long reviews are still answered after the order to end.
    drain_seconds: float = 10.0


class _ErrorLog(logging.Handler):
    """Passes on what goes wrong in the server, with where it did: it is nobody's fault but ours."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.ERROR)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; that of a traceback says most."""
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage().splitlines()[0]
        if error is None or error.__traceback__ is None:
            self._log.error(text)
            return
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename}:{frames[-1].lineno}"
        self._log.error(f"{text}: {type(error).__name__}: {error} ({where})")


class ServerOfTwo(uvicorn.Server):
    """A server of which there are two in a process; neither minds the process's signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever runs both."""
        yield


class WebhookServer:
    """Everything that runs in the webhook's process."""

    def __init__(self, options: ServerOptions, log: Log) -> None:
        self._options, self._log = options, log
        self._metrics, self._health = WebhookMetrics(), Health()
        self._pool = WorkerPool(options.workers)
        self._tls = ServerTls()
        self._reloader = Reloader(self._metrics, self._health, log)
        self._app = WebhookApp(self._reply, self._report, self._metrics, self._health)
        self._write_event: Callable[[Reply], None] = lambda _: None
        self._namespace: Callable[[str], dict[str, Any] | None] = lambda _: None
        self._end = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, and then until every review is answered.

        Raises:
            InjectionError: The configuration is no good.
            IstioInitError: A certificate or a port cannot be had.
        """
        logging.getLogger("uvicorn.error").addHandler(_ErrorLog(self._log))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end.set)
        await self._load_configuration()
        if self._options.certificate_files:
            await self._load_certificate()
        else:
            self._health.missing.add(CERTIFICATES)
        webhook = make_server(self._app.webhook, self._tls.context)
        operations = make_server(self._app.operations, None)
        with (
            contextlib.closing(self._pool),
            listen(self._options.port) as port,
            listen(self._options.metrics_port) as metrics_port,
        ):
            async with asyncio.TaskGroup() as group:
                background = [group.create_task(one) for one in self._background()]
                reviews = group.create_task(webhook.serve([port]))
                others = group.create_task(operations.serve([metrics_port]))
                self._log.info(
                    f"serving reviews on port {self._options.port}, "
                    f"health and metrics on port {self._options.metrics_port}"
                )
                await self._end.wait()
                await self._drain()
                webhook.should_exit = True
                await reviews
                operations.should_exit = True
                await others
                for task in background:
                    task.cancel()

    def _background(self) -> Iterator[Coroutine[Any, Any, None]]:
        """Yield what runs beside the servers."""
        options = self._options
        if options.configuration_files:
            yield self._reloader.watch(
                CONFIGURATION, options.configuration_files, self._load_configuration
            )
        if options.certificate_files:
            yield self._reloader.watch(
                CERTIFICATES, options.certificate_files, self._load_certificate
            )
        if options.managed is None and not options.write_events and not options.needs_namespaces:
            return
        # What is imported here takes 200 ms and 30 MiB.
        from lightkube import AsyncClient

        client = AsyncClient(field_manager="istio-init-webhook")
        if options.managed is not None:
            from istio_init.inject.authority import CertificateManager

            yield CertificateManager(
                client,
                options.managed.place,
                options.managed.terms,
                self._install,
                metrics=self._metrics,
                health=self._health,
                log=self._log,
            ).run()
        if options.needs_namespaces:
            from istio_init.inject.namespaces import NamespaceCache

            cache = NamespaceCache(client, self._health, self._log)
            self._namespace = cache.get
            yield cache.run()
        if options.write_events:
            from istio_init.inject.events import EventWriter

            writer = EventWriter(client, self._metrics, self._log)
            self._write_event = writer.report
            yield writer.run()

    async def _reply(self, body: bytes, path: str) -> Reply:
        if not self._options.needs_namespaces:
            return await self._pool.reply(body, path)
        return await self._pool.reply(body, path, self._namespace(namespace_of(body)))

    def _report(self, reply: Reply) -> None:
        """Say in the log what became of a pod; in an event too, unless it was injected."""
        text = printable(f"{reply.about}: {reply.outcome}: {reply.message}")
        if reply.outcome is Outcome.INJECTED:
            self._log.debug(text)
        elif reply.reason:
            self._log.info(f"{text} (reason {reply.reason})")
        self._write_event(reply)

    async def _drain(self) -> None:
        """Answer on, while the API server learns that there is nobody here any more."""
        self._health.draining = True
        seconds = self._options.drain_seconds
        self._log.info(f"shutting down; reviews are answered for {seconds:g} s more")
        await asyncio.sleep(seconds)

    async def _load_configuration(self) -> None:
        await self._pool.load(self._options.read())

    async def _load_certificate(self) -> None:
        if self._options.certificate_files is not None:
            self._install(read_pair(*self._options.certificate_files))

    def _install(self, pair: KeyPair) -> None:
        self._tls.install(pair)
        self._metrics.certificate_expiry.set(pair.parsed.not_valid_after_utc.timestamp())


def make_server(app: Callable[..., Any], tls: ssl.SSLContext | None) -> ServerOfTwo:
    """Return a server of an ASGI application, which does not log."""
    return ServerOfTwo(
        uvicorn.Config(
            app,
            http=BoundedConnection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            loop="asyncio",
            # Its lines are not in the form of this program's; see _ErrorLog.
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=10,
            ssl_context_factory=(lambda *_: tls) if tls else None,
        )
    )


def serve(options: ServerOptions, log: Log) -> None:
    """Serve until told to end.

    Raises:
        InjectionError: The configuration is no good.
        IstioInitError: A certificate cannot be read, or a port cannot be had.
    """
    try:
        asyncio.run(WebhookServer(options, log).run())
    except* (IstioInitError, OSError) as group:
        error = _first(group)
        raise error if isinstance(error, InjectionError) else IstioInitError(str(error)) from error


def _first(error: BaseException) -> BaseException:
    """Return the first error of a group, which may hold groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
