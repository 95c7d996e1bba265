"""`codi serve`: a model behind OpenAI's API."""

from __future__ import annotations

import importlib.util
import os
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

import typer

from codi.commands import options
from codi.commands.console import load_reasoner, note
from codi.errors import UsageError


def serve(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a trained model, or a hub id.")],
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one.", min=0, max=65535)] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to serve on. The default can be reached from this machine only.")
    ] = "127.0.0.1",
    name: Annotated[
        str | None, typer.Option(help="The model's name in requests; by default the folder's.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Key that clients must send; better given as CODI_API_KEY.")
    ] = None,
    ui: Annotated[bool, typer.Option("--ui", help="Also show the page of `codi ui`, at /.")] = False,
    max_batch: Annotated[int, typer.Option(help="Answers in the making at a time.", min=1)] = 64,
    max_waiting: Annotated[
        int, typer.Option(help="Questions that may wait; more are answered 429.", min=1)
    ] = 256,
    max_body_bytes: Annotated[int, typer.Option(help="Largest request body.", min=1)] = 1_000_000,
    max_latents: Annotated[
        int, typer.Option(help="Most continuous thoughts that a request may ask for.", min=0)
    ] = 64,
    device: options.Device = None,
    base: options.Base = None,
) -> None:
    """Serve a model behind OpenAI's API: chat, completions, models, health and metrics."""
    needed = {"fastapi": "serve", "uvicorn": "serve", "prometheus_client": "serve"} | (
        {"nicegui": "ui"} if ui else {}
    )
    for module, extra in needed.items():
        if importlib.util.find_spec(module) is None:
            raise UsageError(
                f"The server needs {module}, which is not installed here. "
                f"Install it with: pip install 'codi[{extra}]'"
            )
    from codi.serving.api import build_app
    from codi.serving.engine import Engine
    from codi.serving.server import SECONDS_FOR_TABS, add_page, address, take_port
    from codi.serving.server import serve as run

    key = api_key if api_key is not None else os.environ.get("CODI_API_KEY")
    if key is not None and not key.strip():
        raise UsageError("The API key is empty. Give one, or leave --api-key and CODI_API_KEY out.")
    with closing(take_port(host, port)) as taken:
        reasoner = load_reasoner(checkpoint, device, base)
        shown = name or Path(checkpoint).name
        engine = Engine(reasoner, max_batch=max_batch, max_waiting=max_waiting)
        app = build_app(engine, shown, api_key=key, max_body_bytes=max_body_bytes, max_latents=max_latents)
        if ui:
            from codi.serving.thought_session import ThoughtSession

            session = ThoughtSession(reasoner, engine.one_at_a_time)
            session.warm_up()
            add_page(app, session, shown)
        engine.warm_up()
        note(f"'{shown}' is served at {address(taken)}v1 (Ctrl-C stops; what runs is finished).")
        with suppress(KeyboardInterrupt):  # the usual way to end it is no error
            run(app, taken, SECONDS_FOR_TABS if ui else None)
        note("stopped.")
