"""What `/metrics` tells Prometheus."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from codi.serving.engine import Engine, Finished


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "codi_requests", "HTTP requests, by path and status.", ("path", "status"), registry=self.registry
        )
        self.answers = Counter(
            "codi_answers", "Answers finished, by mode.", ("mode",), registry=self.registry
        )
        self.tokens = Counter(
            "codi_tokens",
            "Tokens of questions, thought (latent), and written.",
            ("kind",),
            registry=self.registry,
        )
        self.cancelled = Counter(
            "codi_cancelled", "Answers given up because the client left.", registry=self.registry
        )
        self.seconds = Histogram(
            "codi_answer_seconds", "From the question's arrival to its answer's end.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30), registry=self.registry,
        )  # fmt: skip
        self.batches = Histogram(
            "codi_batch_size", "Questions that were thought about together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=self.registry,
        )  # fmt: skip
        engine.on_batch = self.batches.observe
        for name, place, said in (
            ("waiting", 0, "Questions waiting."),
            ("active", 1, "Answers in the making."),
        ):
            gauge = Gauge(f"codi_{name}", said, registry=self.registry)
            gauge.set_function(partial(_load, engine, place))

    def finished(self, mode: str, one: Finished, seconds: float) -> None:
        """Count an answer."""
        self.answers.labels(mode).inc()
        self.tokens.labels("question").inc(one.question_tokens)
        self.tokens.labels("latent").inc(one.latent_tokens)
        self.tokens.labels("written").inc(one.written_tokens)
        self.seconds.observe(seconds)

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


def _load(engine: Engine, place: int) -> float:
    return float(engine.load()[place])
