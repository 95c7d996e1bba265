"""`codi serve`: a model behind OpenAI's API."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codi.commands import options
from codi.commands.console import load_reasoner, note
from codi.errors import UsageError

if TYPE_CHECKING:
    from codi.serving.replicas import ReplicaSettings


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
    max_positions: Annotated[
        int,
        typer.Option(help="Answers in the making times the longest one's positions; the memory.", min=1),
    ] = 65_536,
    max_body_bytes: Annotated[int, typer.Option(help="Largest request body.", min=1)] = 1_000_000,
    max_latents: Annotated[
        int, typer.Option(help="Most continuous thoughts that a request may ask for.", min=0)
    ] = 64,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin of web pages that may ask from a browser, e.g. http://localhost:3000; "
                          "once for each; * is any."),
    ] = None,
    read_timeout: Annotated[
        float, typer.Option(help="Seconds in which a request's headers, and its body, must come.", min=0.1)
    ] = 30,
    idle_timeout: Annotated[
        int, typer.Option(help="Seconds for which a connection may stay open between requests.", min=1)
    ] = 5,
    leave_timeout: Annotated[
        float, typer.Option(help="Seconds in which what was taken must be answered and read when the server "
                                 "stops.", min=0)
    ] = 120,
    stop: options.Stop = None,
    device: options.Device = None,
    base: options.Base = None,
    dtype: options.Dtype = None,
    graphs: options.Graphs = "auto",
    ray: Annotated[
        bool, typer.Option("--ray", help="Serve replicas with Ray Serve; the limits are each one's own.")
    ] = False,
    replicas: Annotated[int, typer.Option(help="With --ray: how many.", min=1)] = 1,
    cpus_per_replica: Annotated[float, typer.Option(help="With --ray: cores set aside.", min=0)] = 1.0,
    gpus_per_replica: Annotated[
        float | None, typer.Option(help="With --ray: GPUs set aside; by default one if there are any.", min=0)
    ] = None,
    ray_address: Annotated[
        str, typer.Option(help="With --ray: a running cluster; local makes one on this machine.",
                          envvar="RAY_ADDRESS")
    ] = "local",
) -> None:  # fmt: skip
    """Serve a model behind OpenAI's API: chat, completions, models, health and metrics."""
    needed = {"fastapi": "serve", "uvicorn": "serve", "prometheus_client": "serve"}
    needed |= ({"nicegui": "ui"} if ui else {}) | ({"ray": "ray"} if ray else {})
    for module, extra in needed.items():
        if importlib.util.find_spec(module) is None:
            raise UsageError(
                f"The server needs {module}, which is not installed here. "
                f"Install it with: pip install 'codi[{extra}]'"
            )
    if ui and ray:
        raise UsageError("--ui shows one model's page; replicas have none. Leave --ui or --ray out.")
    if replicas != 1 and not ray:
        raise UsageError(f"--replicas {replicas} goes with --ray.")
    key = api_key if api_key is not None else os.environ.get("CODI_API_KEY")
    if key is not None and not key.strip():
        raise UsageError("The API key is empty. Give one, or leave --api-key and CODI_API_KEY out.")
    key = None if key is None else key.strip()  # headers come without what stands around them
    origins = tuple(_checked_origin(origin) for origin in allow_origin or ())
    shown = name or Path(checkpoint).name
    if ray:
        from codi.serving.replicas import ReplicaSettings, resolved

        settings = ReplicaSettings(
            resolved(checkpoint), shown, replicas, cpus_per_replica, gpus_per_replica, device, base, dtype,
            stop, key, max_batch, max_waiting, max_positions, max_body_bytes, max_latents, origins,
            read_timeout, idle_timeout, leave_timeout, graphs,
        )  # fmt: skip
        _serve_replicas(settings, ray_address, host, port)
        return

    from codi.serving.api import build_app
    from codi.serving.engine import Engine
    from codi.serving.server import add_page, address, take_port
    from codi.serving.server import serve as run

    with closing(take_port(host, port)) as taken:
        reasoner = load_reasoner(checkpoint, device, base, dtype, stop, graphs)
        engine = Engine(reasoner, max_batch=max_batch, max_waiting=max_waiting, max_positions=max_positions)
        app = build_app(
            engine, shown, api_key=key, max_body_bytes=max_body_bytes, max_latents=max_latents,
            allow_origins=origins, seconds_to_send=read_timeout, page=ui,
        )  # fmt: skip
        if ui:
            from codi.serving.page_turn import PageTurn
            from codi.serving.thought_session import ThoughtSession

            session = ThoughtSession(reasoner, PageTurn(engine))
            session.warm_up()
            add_page(app, session, shown)
        engine.warm_up()
        note(f"'{shown}' is served at {address(taken)}v1 (Ctrl-C stops; what runs is finished).")
        with suppress(KeyboardInterrupt):  # the usual way to end it is no error
            run(
                app, taken, seconds_to_leave=leave_timeout, seconds_to_send=read_timeout,
                seconds_idle=idle_timeout,
            )  # fmt: skip
        note("stopped.")


def _checked_origin(origin: str) -> str:
    """An origin as browsers send it. Raises UsageError for what is none."""
    if origin == "*" or re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
        return origin
    raise UsageError(
        f"--allow-origin '{origin}' is no origin: give scheme, host and port without a path, "
        "e.g. http://localhost:3000, or *."
    )


def _serve_replicas(settings: ReplicaSettings, ray_address: str, host: str, port: int) -> None:
    """Serve with Ray until interrupted or told to end."""
    from codi.modeling.checkpoint import locate, read_configuration
    from codi.serving.replicas import deployed
    from codi.serving.server import address, take_port

    read_configuration(locate(settings.checkpoint))  # what is wrong with it is said here, not by a replica
    with closing(take_port(host, port)) as taken:
        port, where = taken.getsockname()[1], address(taken)
    with deployed(settings, ray_address, host, port):
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        note(
            f"{settings.replicas} replicas of '{settings.name}' are served at {where}v1 "
            "(Ctrl-C stops; what runs is finished)."
        )
        ended.wait()
    note("stopped.")
