"""Serves on a port that is taken before the model is loaded, so a busy one is known at once."""

from __future__ import annotations

import errno
import logging
import math
import socket
import warnings
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI

from codi.errors import UsageError
from codi.serving.connections import limited_protocol
from codi.serving.leaving import SECONDS_TO_LEAVE, InFlight, LeavingServer

if TYPE_CHECKING:
    from codi.serving.thought_session import ThoughtSession


def take_port(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any that is free. Raises UsageError when it cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=4096)
    except socket.gaierror as error:
        raise UsageError(
            f"The host '{host}' is not known here: {error.strerror}. Try --host 127.0.0.1."
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"Port {port} on {host} is in use, perhaps by another `codi serve` or `codi ui`. "
                f"Choose another one, e.g. --port {port + 1 if port < 65535 else port - 1}, "
                "or --port 0 for any that is free."
            ) from error
        raise UsageError(
            f"Port {port} on {host} cannot be used: {error.strerror or error}. "
            "Choose another --port or --host."
        ) from error


def address(taken: socket.socket) -> str:
    """Where a browser finds what is served there."""
    host, port = taken.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def add_page(app: FastAPI, session: ThoughtSession, name: str) -> None:
    """Show the page at `/` of an app. name: of the model, for the page. Needs NiceGUI."""
    from nicegui import ui

    from codi.serving.thought_page import ThoughtPage

    # The page itself names the words that a tokenizer does not know: no line is needed at every timed answer.
    logging.getLogger("codi").setLevel(logging.ERROR)
    # At its start NiceGUI looks at every object there is, and one of torch's warns of being looked at.
    warnings.filterwarnings("ignore", "`torch.distributed.reduce_op` is deprecated", FutureWarning)
    ui.run_with(
        app,
        root=lambda: ThoughtPage(session, name),
        title=f"Thoughts of {name}",
        language="en-US",
        tailwind=False,  # compiles style sheets in the browser; the page brings its own
        show_welcome_message=False,
    )


def serve(app: FastAPI, taken: socket.socket, **options: Any) -> None:
    """Serve until interrupted or told to end (SIGTERM); what runs is finished first. options: of `server`."""
    server(app, **options).run(sockets=[taken])


def server(
    app: FastAPI,
    *,
    seconds_to_leave: float = SECONDS_TO_LEAVE,
    seconds_to_send: float = 30,
    seconds_idle: int = 5,
) -> uvicorn.Server:
    """What serves an app.

    seconds_to_leave: for the requests that were taken when it stops: then they are told so, and what is not
    read is cut off; seconds_to_send: for a request's headers; seconds_idle: between two of a connection.
    """
    in_flight = InFlight(app)
    config = uvicorn.Config(
        in_flight,
        http=limited_protocol(seconds_to_send, getattr(app.state, "refused", lambda _: None)),
        timeout_keep_alive=seconds_idle,
        log_level="warning",
        access_log=False,
        ws="wsproto",
        timeout_graceful_shutdown=math.ceil(seconds_to_leave) + 5,  # where even cancelling does not help
        backlog=4096,
    )
    give_up = getattr(app.state, "give_up", lambda _: None)
    return LeavingServer(config, in_flight, seconds_to_leave, give_up)
