"""The same server as a Ray Serve deployment: as many replicas as there are machines or GPUs to hold them.

    clients ──► a proxy of Ray's ──┬─► replica: API, engine, model
                                   ├─► replica: API, engine, model      each batches what it is sent
                                   └─► replica: API, engine, model

What a replica is made of is what `codi serve` is made of, so it answers the same.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from codi.errors import UsageError
from codi.serving import replica_proxy

NAME = "codi"
LOCAL = "local"
QUIET = {"enable_access_log": False, "log_level": "WARNING"}
ROOM_TO_REFUSE = 64
"""Requests sent to a replica beyond what it can take, so that it is the replica that answers 429."""


@dataclass(frozen=True)
class ReplicaSettings:
    """What every replica is made of; the limits are those of `codi serve`, and each replica's own.

    checkpoint: a folder that every machine sees, or a hub id; name: the model's, in requests; cpus, gpus:
    what Ray sets aside for a replica; gpus None: one where the cluster has any, unless the device is cpu.
    """

    checkpoint: str
    name: str
    replicas: int = 1
    cpus: float = 1.0
    gpus: float | None = None
    device: str | None = None
    base: str | None = None
    dtype: str | None = None
    stop: str | None = None
    api_key: str | None = None
    max_batch: int = 64
    max_waiting: int = 256
    max_positions: int = 65_536
    max_body_bytes: int = 1_000_000
    max_latents: int = 64
    allow_origins: tuple[str, ...] = ()
    seconds_to_send: float = 30
    seconds_idle: int = 5
    seconds_to_leave: float = 120
    graphs: str = "auto"

    def fitted(self, there: Mapping[str, float]) -> ReplicaSettings:
        """These settings with a number of GPUs. there: what the cluster has.

        Raises UsageError when it could never hold all replicas; Ray itself would wait for ever.
        """
        gpus = self.gpus
        if gpus is None:
            gpus = 1.0 if there.get("GPU") and self.device != "cpu" else 0.0
        for kind, each in (("CPU", self.cpus), ("GPU", gpus)):
            needed, found = each * self.replicas, there.get(kind, 0.0)
            if needed > found:
                raise UsageError(
                    f"{self.replicas} replicas of {each:g} {kind}s each need {needed:g}; the cluster has "
                    f"{found:g}. Ask for fewer --replicas, or less with --{kind.lower()}s-per-replica."
                )
        return replace(self, gpus=gpus)


def application(settings: ReplicaSettings) -> serve.Application:
    """The deployment, for `serve.run`."""

    def build() -> FastAPI:
        """In the replica: one model, its engine, its API."""
        from codi.generation.latent_reasoner import LatentReasoner
        from codi.serving.api import build_app
        from codi.serving.engine import Engine

        reasoner = LatentReasoner.from_pretrained(
            settings.checkpoint,
            device=settings.device,
            base=settings.base,
            dtype=settings.dtype,
            graphs=settings.graphs,
        )
        if settings.stop is not None:
            reasoner = reasoner.stopping(settings.stop)
        engine = Engine(
            reasoner,
            max_batch=settings.max_batch,
            max_waiting=settings.max_waiting,
            max_positions=settings.max_positions,
        )
        engine.warm_up()
        return build_app(
            engine,
            settings.name,
            api_key=settings.api_key,
            max_body_bytes=settings.max_body_bytes,
            max_latents=settings.max_latents,
            allow_origins=settings.allow_origins,
            seconds_to_send=settings.seconds_to_send,
            replica=serve.get_replica_context().replica_id.unique_id,
        )

    deployment: Any = serve.deployment  # its annotations leave out what it returns for a class
    made: serve.Application = deployment(
        serve.ingress(build)(),
        name=NAME,
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus or 0},
        max_ongoing_requests=settings.max_batch + settings.max_waiting + ROOM_TO_REFUSE,
        graceful_shutdown_timeout_s=settings.seconds_to_leave,
        logging_config=QUIET,
    ).bind()
    return made


@contextmanager
def deployed(settings: ReplicaSettings, address: str, host: str, port: int) -> Iterator[None]:
    """The deployment answers inside, and is taken down behind.

    address: of a Ray cluster, or `local` for one on this machine alone, made for the purpose; host, port:
    where its proxies listen, unless Ray Serve runs there already. Raises UsageError when the cluster cannot
    be reached, has no room, or a replica fails to start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told anything unless asked to
    os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", replica_proxy.IMPORT_PATH)
    local = address == LOCAL
    if local:
        settings = settings.fitted({"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()})
    try:
        _require_somebody_at(address)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        ray.init(address=address, include_dashboard=False if local else None, logging_level=logging.WARNING)
    except (OSError, ValueError, RayError) as error:
        raise UsageError(
            f"The Ray cluster at '{address}' cannot be reached: {str(error).splitlines()[0]} "
            f"Give the address of a running one, or --ray-address {LOCAL}."
        ) from error
    with ExitStack() as behind:
        behind.callback(ray.shutdown)
        if not local:
            resources: Any = ray.cluster_resources  # it has no annotations
            settings = settings.fitted(resources())
        serve.start(
            proxy_location="EveryNode",
            http_options={"host": host, "port": port, "keep_alive_timeout_s": settings.seconds_idle},
            logging_config=QUIET,
        )
        if local:
            behind.callback(serve.shutdown)
        behind.callback(serve.delete, NAME)
        try:
            serve.run(application(settings), name=NAME, route_prefix="/")
        except (RuntimeError, RayError, RayServeException) as error:
            raise UsageError(
                f"The replicas did not start: {str(error).strip().splitlines()[-1]} "
                "Ray's logs (by default /tmp/ray/session_latest/logs/serve) say more."
            ) from error
        yield


def resolved(checkpoint: str) -> str:
    """The checkpoint as replicas find it: they run in folders of their own."""
    return str(Path(checkpoint).resolve()) if Path(checkpoint).exists() else checkpoint


def _require_somebody_at(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()
