"""What `/metrics` tells Prometheus.

What means the same as in vLLM has vLLM's name and labels, so that dashboards made for it show this server
too; what only this package has (thoughts, modes, clients that left) begins with `codi`.
"""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from codi.serving.engine import Engine, Finished

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one server, in a registry of their own. name: of the model, for the labels."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"model_name": name, "engine": "0"}
        self.requests = self._counter(
            "codi_requests", "HTTP requests answered, by path and status.", "path", "status"
        )
        self._answers = self._counter("codi_answers", "Answers finished, by mode.", "mode")
        self._tokens = self._counter(
            "codi_tokens", "Tokens of questions, thought (latent), and written.", "kind"
        )
        self._cancelled = self._counter("codi_cancelled", "Answers given up because the client left.")
        self._failed = self._counter("codi_failed", "Answers that an error ended.")
        self._batches = Histogram(
            "codi_batch_size", "Questions that were thought about together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=self.registry,
        )  # fmt: skip
        engine.on_batch = self._batches.observe
        self._read = self._counter("vllm:prompt_tokens", "Tokens of questions.", *self._labels)
        self._made = self._counter(
            "vllm:generation_tokens", "Tokens written and thought, as `usage` counts them.", *self._labels
        )
        self._ended = self._counter(
            "vllm:request_success", "Answers that ended, by reason.", *self._labels, "finished_reason"
        )
        self._whole = self._histogram("vllm:e2e_request_latency_seconds", "From arrival to the answer's end.")
        self._queued = self._histogram("vllm:request_queue_time_seconds", "From arrival to thinking.")
        self._first = self._histogram(
            "vllm:time_to_first_token_seconds", "From arrival to the first written token."
        )
        for name, index, said in (
            ("vllm:num_requests_waiting", 0, "Questions waiting."),
            ("vllm:num_requests_running", 1, "Answers in the making."),
        ):
            gauge = Gauge(name, said, tuple(self._labels), registry=self.registry)
            gauge.labels(**self._labels).set_function(partial(_load, engine, index))

    def finished(self, mode: str, one: Finished, seconds: float, *, first_of_question: bool) -> None:
        """Count an answer. seconds: since its request came; a question's tokens count with its first."""
        self._answers.labels(mode).inc()
        self._tokens.labels("latent").inc(one.latent_tokens)
        self._tokens.labels("written").inc(one.written_tokens)
        self._made.labels(**self._labels).inc(one.latent_tokens + one.written_tokens)
        if first_of_question:
            self._tokens.labels("question").inc(one.question_tokens)
            self._read.labels(**self._labels).inc(one.question_tokens)
        self._ended.labels(**self._labels, finished_reason="stop" if one.answer.finished else "length").inc()
        self._whole.observe(seconds)
        if one.timing is not None:
            self._queued.observe(one.timing.queued)
            self._first.observe(one.timing.first_token)

    def failed(self, answers: int) -> None:
        """Count answers that an error ended: its own, and those lost with it."""
        self._failed.inc(answers)

    def cancelled(self, answers: int) -> None:
        """Count answers that nobody waits for any more."""
        self._cancelled.inc(answers)
        self._ended.labels(**self._labels, finished_reason="abort").inc(answers)

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, said: str, *labels: str) -> Counter:
        return Counter(name, said, labels, registry=self.registry)

    def _histogram(self, name: str, said: str) -> Histogram:
        made = Histogram(name, said, tuple(self._labels), buckets=_SECONDS, registry=self.registry)
        one: Histogram = made.labels(**self._labels)
        return one


def _load(engine: Engine, index: int) -> float:
    return float(engine.load()[index])
