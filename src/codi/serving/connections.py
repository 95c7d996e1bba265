"""What a connection may do before it is a request: so long, and so much.

uvicorn waits without end for a request's first bytes and for the rest of its headers, and one of its parsers
takes headers of any size. Whoever sends one byte a second, or headers that never end, is answered here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from codi.serving.api_error_body import error_body

MOST_HEADER_BYTES = 65_536


def limited_protocol(seconds: float, refused: Callable[[int], None] = lambda _: None) -> type[Any]:
    """uvicorn's protocol with limits. seconds: for a request's headers; refused: told the statuses sent."""
    base: Any = AutoHTTPProtocol  # the parser that is installed

    class Limited(base):  # type: ignore[misc]
        """Of what uvicorn has, its `cycle` is used: the request whose headers came last."""

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._header_bytes = 0
            self._waiting: asyncio.TimerHandle | None = None
            self._wait()

        def connection_lost(self, error: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(error)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            reads_body = before is not None and before.more_body and not before.response_complete
            super().data_received(data)
            if self.cycle is not before or self.transport.get_protocol() is not self:  # a request came whole
                self._header_bytes = 0
                self._stop_waiting()
            elif not reads_body and not self.transport.is_closing():
                self._header_bytes += len(data)
                if self._header_bytes > MOST_HEADER_BYTES:
                    self._refuse(431, f"The headers are larger than {MOST_HEADER_BYTES:,} bytes.")
                elif self._waiting is None and not self._answers:  # behind an answer uvicorn's own time runs
                    self._wait()

        def send_400_response(self, msg: str) -> None:
            """What uvicorn cannot read, in the API's form."""
            self._refuse(400, msg)

        @property
        def _answers(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _wait(self) -> None:
            self._waiting = self.loop.call_later(seconds, self._late)

        def _late(self) -> None:
            if self._header_bytes:
                self._refuse(408, f"The request's headers did not come within {seconds:g} seconds.")
            else:  # browsers open connections that they may need
                self.transport.close()

        def _stop_waiting(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _refuse(self, status: int, told: str) -> None:
            self._stop_waiting()
            if self.transport.is_closing():
                return
            if self._answers:  # nothing can be said in the midst of an answer
                self.transport.close()
                return
            body = json.dumps(error_body(told, "bad_http_request")).encode()
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            refused(status)
            self.transport.write(head.encode() + body)
            self.transport.close()

    return Limited
