"""The same server as a Ray Serve deployment: as many replicas as there are machines or GPUs to hold them.

    clients ──► a proxy of Ray's ──┬─► replica: API, engine, model
                                   ├─► replica: API, engine, model      each batches what it is sent
                                   └─► replica: API, engine, model

What a replica is made of is what `codi serve` is made of, so it answers the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from codi.errors import UsageError

NAME = "codi"
SECONDS_TO_FINISH = 120
"""Answers in the making have this long when the deployment is taken down."""
ROOM_TO_REFUSE = 64
"""Requests sent to a replica beyond what it can take, so that it is the replica that answers 429."""


@dataclass(frozen=True)
class ReplicaSettings:
    """What every replica is made of; the limits are those of `codi serve`, and each replica's own.

    checkpoint: a folder that every machine sees, or a hub id; name: the model's, in requests; cpus, gpus:
    what Ray sets aside for a replica.
    """

    checkpoint: str
    name: str
    replicas: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    device: str | None = None
    base: str | None = None
    api_key: str | None = None
    max_batch: int = 64
    max_waiting: int = 256
    max_body_bytes: int = 1_000_000
    max_latents: int = 64


def application(settings: ReplicaSettings) -> serve.Application:
    """The deployment, for `serve.run`."""

    def build() -> FastAPI:
        """In the replica: one model, its engine, its API."""
        from codi.generation.latent_reasoner import LatentReasoner
        from codi.serving.api import build_app
        from codi.serving.engine import Engine

        reasoner = LatentReasoner.from_pretrained(
            settings.checkpoint, device=settings.device, base=settings.base
        )
        engine = Engine(reasoner, max_batch=settings.max_batch, max_waiting=settings.max_waiting)
        engine.warm_up()
        return build_app(
            engine,
            settings.name,
            api_key=settings.api_key,
            max_body_bytes=settings.max_body_bytes,
            max_latents=settings.max_latents,
            replica=serve.get_replica_context().replica_id.unique_id,
        )

    return serve.deployment(
        serve.ingress(build)(),
        name=NAME,
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        max_ongoing_requests=settings.max_batch + settings.max_waiting + ROOM_TO_REFUSE,
        graceful_shutdown_timeout_s=SECONDS_TO_FINISH,
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    ).bind()


@contextmanager
def deployed(settings: ReplicaSettings, address: str, host: str, port: int) -> Iterator[None]:
    """The deployment answers inside, and is taken down behind.

    address: of a Ray cluster, or `local` for one on this machine alone, made for the purpose; host, port:
    where its proxies listen, unless Ray Serve runs there already. Raises UsageError when the cluster cannot
    be reached, has no room, or a replica fails to start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told anything unless asked to
    try:
        ray.init(address=address, include_dashboard=False if address == "local" else None, log_to_driver=True)
    except (ConnectionError, ValueError, RayError) as error:
        raise UsageError(
            f"The Ray cluster at '{address}' cannot be reached: {str(error).splitlines()[0]} "
            "Give the address of a running one, or --ray-address local."
        ) from error
    try:
        _require_room(settings)
        serve.start(
            proxy_location="EveryNode",
            http_options={"host": host, "port": port},
            logging_config={"enable_access_log": False, "log_level": "WARNING"},
        )
        try:
            serve.run(application(settings), name=NAME, route_prefix="/")
        except (RuntimeError, RayError, RayServeException) as error:
            raise UsageError(
                f"The replicas did not start: {str(error).strip().splitlines()[-1]} "
                "Ray's logs (by default /tmp/ray/session_latest/logs/serve) say more."
            ) from error
        yield
    finally:
        serve.delete(NAME)
        if address == "local":
            serve.shutdown()
        ray.shutdown()


def resolved(checkpoint: str) -> str:
    """The checkpoint as replicas find it: they run in folders of their own."""
    return str(Path(checkpoint).resolve()) if Path(checkpoint).exists() else checkpoint


def _require_room(settings: ReplicaSettings) -> None:
    """Raise UsageError when the cluster could never hold all replicas; Ray itself would wait for ever."""
    there = ray.cluster_resources()
    for kind, each in (("CPU", settings.cpus), ("GPU", settings.gpus)):
        needed, found = each * settings.replicas, there.get(kind, 0.0)
        if needed > found:
            raise UsageError(
                f"{settings.replicas} replicas of {each:g} {kind}s each need {needed:g}; the cluster has "
                f"{found:g}. Ask for fewer --replicas, or less with --{kind.lower()}s-per-replica."
            )
