"""What records a computation and plays it, and the buffers in which gradients stay where they are.

On CUDA a recording is a graph: kernels with the addresses of what they read and write. Elsewhere it is the
computation itself, run again over the same tensors, so that all but the graph is the same there.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Terms = dict[str, Tensor]
Compute = Callable[[], Terms]


class Recorder:
    """Plays a computation by running it again: on every device, with all that a recording asks for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Where a computation runs that will be recorded."""
        yield

    def record(self, compute: Compute) -> Compute:
        """What plays it; its terms hold until it is played again."""
        return compute

    def random_state(self) -> tuple[Tensor, ...]:
        """Of all generators that a computation may draw from."""
        return (torch.get_rng_state(),)

    def set_random_state(self, state: tuple[Tensor, ...]) -> None:
        """As `random_state` gave it."""
        torch.set_rng_state(state[0])


class CudaRecorder(Recorder):
    """Records CUDA graphs, which share their memory."""

    _failed: ClassVar[list[Any]] = []
    """Graphs whose recording was cut off: torch's allocator may still ask them where memory belongs."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """On the stream that is recorded: what a library sets up for a stream is there by then."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):  # left even where a recording that has failed leaves its own on
            yield
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def record(self, compute: Compute) -> Compute:
        """Nothing is computed yet. Raises what CUDA or the computation raises."""
        graph = torch.cuda.CUDAGraph()
        gc.collect()  # nodes of an earlier backward would tie this one to their stream
        # Other threads go on meanwhile: the loader pins memory, which "global" would not allow.
        try:
            with self.aside(), torch.cuda.graph(
                graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
            ):
                terms = compute()
        except BaseException:
            self._failed.append(graph)
            self._draw_anew()
            raise

        def play() -> Terms:
            graph.replay()
            return terms

        return play

    def _draw_anew(self) -> None:
        """A recording that was cut off leaves its generator as if it went on, and nothing can be drawn: have
        the device draw from another one in the same state."""
        generator = torch.Generator(self.device)
        generator.set_state(torch.cuda.get_rng_state(self.device))
        torch.cuda.default_generators[self.device.index or 0].graphsafe_set_state(generator)

    def random_state(self) -> tuple[Tensor, ...]:
        """The host's, and the device's."""
        return (torch.get_rng_state(), torch.cuda.get_rng_state(self.device))

    def set_random_state(self, state: tuple[Tensor, ...]) -> None:
        """Both."""
        torch.set_rng_state(state[0])
        torch.cuda.set_rng_state(state[1], self.device)


RECORDERS: dict[str, type[Recorder]] = {"cuda": CudaRecorder}
"""Who records, by the type of the device."""


class Gradients:
    """Gradients in buffers that stay where they are, though the Trainer lets go of them after every step."""

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self.weights = list(weights.values())
        self._buffers: dict[nn.Parameter, Tensor] = {}

    def hold(self, weights: list[nn.Parameter]) -> None:
        """Have these weights' gradients in their buffers: what they are by now, zeros where there is none."""
        emptied = list[Tensor]()
        for weight in weights:
            buffer = self._buffers.get(weight)
            if buffer is None:
                buffer = self._buffers[weight] = torch.zeros_like(weight)
            if weight.grad is None:
                emptied.append(buffer)
            elif weight.grad is not buffer:
                buffer.copy_(weight.grad)
            weight.grad = buffer
        if emptied:
            torch._foreach_zero_(emptied)

    def taken(self) -> dict[nn.Parameter, Tensor]:
        """The gradients by now, which the weights then have no more."""
        found = {weight: weight.grad for weight in self.weights if weight.grad is not None}
        for weight in found:
            weight.grad = None
        return found

    def put(self, gradients: Mapping[nn.Parameter, Tensor]) -> None:
        """In place of what the weights have."""
        for weight in self.weights:
            weight.grad = gradients.get(weight)

    def add(self, gradients: Mapping[nn.Parameter, Tensor]) -> None:
        """To what the weights have."""
        for weight, gradient in gradients.items():
            if weight.grad is None:
                weight.grad = gradient
            else:
                weight.grad.add_(gradient)
