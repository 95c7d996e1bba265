"""`codi ui`: look at a model's thoughts in the browser."""

from __future__ import annotations

import importlib.util
from contextlib import closing, suppress
from typing import Annotated

import typer

from codi.commands import options
from codi.commands.console import load_reasoner, note
from codi.errors import UsageError


def ui(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a trained model, or a hub id.")],
    port: Annotated[
        int, typer.Option(help="Port of the page; 0 takes any free one.", min=0, max=65535)
    ] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to serve on. The default can be reached from this machine only.")
    ] = "127.0.0.1",
    stop: options.Stop = None,
    device: options.Device = None,
    base: options.Base = None,
    dtype: options.Dtype = None,
) -> None:
    """Serve a page that shows a model's continuous thoughts, and what changing them does."""
    if importlib.util.find_spec("nicegui") is None:
        raise UsageError(
            "The page needs NiceGUI, which is not installed here. Install it with: pip install 'codi[ui]'"
        )
    from fastapi import FastAPI

    from codi.serving.leaving import SECONDS_FOR_TABS
    from codi.serving.server import add_page, address, serve, take_port
    from codi.serving.thought_session import ThoughtSession

    with closing(take_port(host, port)) as taken:
        session = ThoughtSession(load_reasoner(checkpoint, device, base, dtype, stop))
        session.warm_up()
        note(f"{checkpoint} can be looked at on {address(taken)} (Ctrl-C stops).")
        with suppress(KeyboardInterrupt):  # the usual way to end it is no error
            app = FastAPI(openapi_url=None)
            add_page(app, session, checkpoint)
            serve(app, taken, seconds_to_leave=SECONDS_FOR_TABS)
        note("stopped.")
