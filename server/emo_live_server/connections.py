"""What uvicorn leaves open: connections that never finish a request, that are too many, or that never read.

Bodies have their own time (guard.py, uploads.py); this is about what comes before a request and after a handshake.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

REQUEST_S = 20.0  # from the first byte of a request, or from the connection, to the end of its headers
MAX_UNREAD_BYTES = 1 << 20  # of pongs that a client asked for and does not take


def max_connections() -> int:
    """Half of the files that this process may open: the others are for media, which must not suffer."""
    return max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


class PatientHttp(H11Protocol):
    """Closes a connection that does not come to the point, and every one beyond `max_connections`."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > max_connections():
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """The clock runs for headers, and for what is left of a body after its answer; bytes do not set it back."""
        upgraded = self not in self.connections
        answered = self.cycle is not None and self.cycle.response_complete
        awaited = self.conn.their_state is h11.IDLE or (answered and self.conn.their_state is h11.SEND_BODY)
        if upgraded or not awaited:
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_S, self.transport.abort)

    def on_response_complete(self) -> None:
        self._forget()  # uvicorn's own clock for the next request runs now
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._watch()

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class PatientSocket(WebSocketsSansIOProtocol):
    """Ends when its client asks for pongs and does not read them: they would pile up in memory."""

    def handle_ping(self) -> None:
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()
