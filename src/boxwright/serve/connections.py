"""uvicorn's server, socket and connections with additional limits (idle connections, slow request heads) and a shutdown
without lost requests."""

import asyncio
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Protocol

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from boxwright.errors import InputError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]

BACKLOG = 256  # connections that wait in the system to be accepted
HEAD_SECONDS = 10.0  # for the head of a request, from the connection or its first byte
IDLE_SECONDS = 60.0  # between requests; not short, since clients reuse connections
MAX_CONNECTIONS = 900  # below 1024, the usual limit of open files
LINGER_SECONDS = 0.5  # that an idle connection stays open during shutdown, for a request that is already in transit


class Connection(H11Protocol):
    """A connection that is closed if no complete head of a request arrives in time, or an answer is not read."""

    _timer: asyncio.TimerHandle | None = None
    _in_head = True  # the timer is for the head
    _stopping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._expect_head(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_request():
            self._stop_timer()
        elif not self._in_head:  # data of a head, or of the body of a request that is already answered
            self._in_head = True
            self._expect_head(HEAD_SECONDS)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._in_request():  # otherwise the next request has already arrived
            self._in_head = False
            self._expect_head(LINGER_SECONDS if self._stopping else IDLE_SECONDS)

    def shutdown(self) -> None:
        """Called when the server stops: finish the current request, or wait briefly for one in transit."""
        self._stopping = True
        if self._in_request():
            super().shutdown()
        else:
            self._expect_head(LINGER_SECONDS)

    def _in_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        if self.transport.get_write_buffer_size():  # the client does not read its response
            self.transport.abort()
        else:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Drained(Protocol):
    """State with a `draining` flag, which is set when the server is about to stop."""

    draining: bool


class Server(uvicorn.Server):
    """Server that stops gracefully on SIGTERM and Ctrl-C, at once on a second signal; sets `state.draining` first."""

    def __init__(self, config: uvicorn.Config, state: Drained) -> None:
        super().__init__(config)
        self.state = state

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Replacement of uvicorn's, which raises the signal again at the end, so that the exit status is not 0.

        Event loops have no signals on Windows, so handlers set uvicorn's flags, which it polls ten times per second.
        """
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, *_: object) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: object = None) -> None:
        self.state.draining = True
        await super().shutdown(sockets)  # type: ignore[arg-type]


def server_config(app: ASGI, grace: int) -> uvicorn.Config:
    """Configuration of uvicorn for `app`. grace: seconds that requests have to finish when the server stops."""
    return uvicorn.Config(
        app,
        http=Connection,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=round(2 * IDLE_SECONDS),  # `Connection` closes earlier
        timeout_graceful_shutdown=grace,
    )


def listen(host: str, port: int) -> socket.socket:
    """Listening socket. `socket.create_server` leaves the protocol at 0, for which asyncio does not disable Nagle's
    algorithm, so each response would wait 40 ms for the client's delayed acknowledgment."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(host, port, error) from error
    try:
        if sys.platform != "win32":  # on Windows this would share a port that is in use
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    listener.setblocking(False)
    return listener


def _cannot_listen(host: str, port: int, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or error
    return InputError(f"host {host}, port {port}: cannot listen there ({reason}); choose others")
