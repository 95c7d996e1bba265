"""How the server leaves: what was taken is answered, and whoever holds it up is cut off after a while.

    SIGTERM ──► no new connections, idle ones close ──► open tabs are closed ──► the time is over ──► gone
                                  requests are answered ────────────────────────►│ 503, or an error event

A client that does not read its answer could keep the server for ever; a tab's socket never ends by itself.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn

from codi.serving.asgi import App, Message, Receive, Send, is_api

SECONDS_TO_LEAVE = 120
"""Requests that were taken have this long to be answered and read when the server stops."""
SECONDS_FOR_TABS = 1
"""Open tabs have this long to go."""
SECONDS_TO_TELL = 0.5
"""Whoever could not be answered in time has this long to read that."""


class InFlight:
    """An app, and which requests and sockets it has open. Once it leaves, being cancelled is no error."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.open: dict[asyncio.Task[None], Message] = {}
        """The scope of each, by its task."""
        self.leaving = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request or socket, or the app's lifespan."""
        task = asyncio.current_task()
        if task is None or scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        self.open[task] = scope
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:
            if not self.leaving:
                raise
        finally:
            del self.open[task]


class LeavingServer(uvicorn.Server):
    """uvicorn's server, which leaves in a bounded time."""

    def __init__(
        self, config: uvicorn.Config, in_flight: InFlight, seconds: float, give_up: Callable[[str], None]
    ) -> None:
        """seconds: for requests to be answered and read; give_up: told why when they are over."""
        super().__init__(config)
        self._in_flight, self._seconds, self._give_up = in_flight, seconds, give_up

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was taken, close the rest, and end the app."""
        self._in_flight.leaving = True
        cutting = asyncio.create_task(self._cut_off())
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    async def _cut_off(self) -> None:
        tabs = min(SECONDS_FOR_TABS, self._seconds)
        await asyncio.sleep(tabs)
        self._hang_up(self._is_tab)
        self._cancel(self._is_tab)
        await asyncio.sleep(self._seconds - tabs)
        self._give_up(f"The server was stopped and had no answer within {self._seconds:g} seconds.")
        await asyncio.sleep(SECONDS_TO_TELL)
        self._cancel(lambda _: True)
        await asyncio.sleep(SECONDS_TO_TELL)
        self._hang_up(lambda _: True)
        self._cancel(lambda _: True)

    @staticmethod
    def _is_tab(scope: Message | None) -> bool:
        return scope is not None and (scope["type"] == "websocket" or not is_api(scope.get("path", "")))

    def _hang_up(self, those: Callable[[Message | None], bool]) -> None:
        for connection in list(self.server_state.connections):
            if those(getattr(connection, "scope", None)):  # its last request
                connection.transport.abort()

    def _cancel(self, those: Callable[[Message | None], bool]) -> None:
        for task, scope in list(self._in_flight.open.items()):
            if those(scope):
                task.cancel()
