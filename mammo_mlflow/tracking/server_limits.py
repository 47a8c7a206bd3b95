"""The limits of a server: the size of a request's body, the time in which a request has to arrive, its connections."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY, ARRIVAL = "MAMMO_MAX_BODY_MB", "MAMMO_ARRIVAL_SECONDS"
"""The environment variables that tell server processes their limits."""
LINGER = 3.0
"""Seconds for which what a refused client still sends is read and thrown away, so that it sees the answer."""
BODIES_AT_ONCE = 4
"""How many of the largest bodies may be held at a time."""
AHEAD = 2**16
"""Bytes of later requests that a client may send before it has the answer to an earlier one."""


class BodyLimit:
    """ASGI middleware that hands on whole bodies, and answers 413, 408 or 503 where one is too large or too slow.

    `most` is in bytes, `arrival` in seconds. All bodies that arrive or are at work are at most four times `most`.
    """

    def __init__(self, app: ASGIApp, most: int, arrival: float) -> None:
        self._app, self._most, self._arrival, self._held = app, most, arrival, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body of a request, then call the application with it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            status = await self._read(scope, receive, body)
            if status is None:
                await self._app(scope, _replay(bytes(body), receive), send)
            elif status:
                await self._refuse(status, receive, send)
        finally:
            self._held -= len(body)

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> int | None:
        """Read a body; return None where it is whole, the status of a refusal, or 0 where the client is gone."""
        if _length(scope) > self._most:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        try:
            async with asyncio.timeout(self._arrival):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return 0
                    part = message.get("body", b"")
                    if len(body) + len(part) > self._most:
                        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
                    if self._held + len(part) > BODIES_AT_ONCE * self._most:
                        return HTTPStatus.SERVICE_UNAVAILABLE
                    body += part
                    self._held += len(part)
                    if not message.get("more_body"):
                        return None
        except TimeoutError:
            return HTTPStatus.REQUEST_TIMEOUT

    async def _refuse(self, status: int, receive: Receive, send: Send) -> None:
        said = {
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"a body of at most {self._most:,} bytes, found more",
            HTTPStatus.REQUEST_TIMEOUT: f"a whole request within {self._arrival:g} seconds, found less",
            HTTPStatus.SERVICE_UNAVAILABLE: "fewer large requests at once; ask again later",
        }[HTTPStatus(status)]
        text = json.dumps({"error_code": HTTPStatus(status).name, "message": f"request: expected {said}"}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(text)), "connection": "close"}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": int(status), "headers": pairs})
        await send({"type": "http.response.body", "body": text, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b""})


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP protocol, which also ends connections whose client sends no whole head, or reads no answer."""

    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; end a connection whose client sends many requests ahead, which would be kept."""
        super().data_received(data)
        at_work = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        if at_work and len(self.conn.trailing_data[0]) > AHEAD:
            self.transport.abort()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._wait()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Wait until the client has read what it was sent."""
        super().pause_writing()
        self._unread = self.loop.call_later(arrival_seconds(), self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting for the client to read."""
        if self._unread is not None:
            self._unread.cancel()
        super().resume_writing()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(arrival_seconds(), self._give_up)

    def _stop(self) -> None:
        for one in (self._timer, self._unread):
            if one is not None:
                one.cancel()

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


def limited(app: ASGIApp) -> BodyLimit:
    """Put an application behind the limits that the environment has."""
    return BodyLimit(app, int(os.environ[MAX_BODY]) * 10**6, arrival_seconds())


def arrival_seconds() -> float:
    """The seconds in which a request has to arrive."""
    return float(os.environ[ARRIVAL])


def _length(scope: Scope) -> int:
    """The length that a request's head tells; 0 where it tells none. The protocol refuses what is no number."""
    found = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(found[0]) if found and found[0].isdigit() and len(found[0]) < 20 else 0


def _replay(body: bytes, receive: Receive) -> Receive:
    """An ASGI `receive` that gives a body first, whole."""
    given: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return given.pop() if given else await receive()

    return replay
