"""Connections of somebody who may mean no good: bounded in number, time and memory.

Whoever can reach the webhook's port can open connections. uvicorn leaves one alone that never
sends a request, and its parser keeps a head of any length.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from istio_init.errors import IstioInitError

if TYPE_CHECKING:
    import asyncio

# The API server opens some tens when it is busy; with those of a few servers there is room left.
MOST_CONNECTIONS = 1024
# In seconds, for the head of a request: from the connection on, or from its first byte on.
HEAD_SECONDS = 10.0
MOST_HEAD_BYTES = 65536
# In seconds. Go's client closes a connection that is idle for 90 s. Whoever closes it on a client
# that begins to write costs it the request; so the client has to be the first.
KEEP_ALIVE_SECONDS = 150
# The API server may have many connections to open after a pause.
BACKLOG = 512


class BoundedConnection(HttpToolsProtocol):
    """One connection."""

    _in_head = True
    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.close()
            return
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Read on, unless a request's head has no end."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The head of the request is too long.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin a request; the first one's time runs already."""
        self._in_head, self._head_bytes = True, 0
        if self._timer is None:
            self._start_timer()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End the head of a request."""
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def listen(port: int) -> socket.socket:
    """Return a socket that listens on all addresses, of both families where there are two.

    Raises:
        IstioInitError: Somebody else has the port, or it takes more rights.
    """
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        raise IstioInitError(f"cannot listen on port {port}: {error.strerror}") from error
