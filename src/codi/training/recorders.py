"""What records a training step and plays it, and the buffers in which gradients stay where they are.

`codi.modeling.graphs` records; a step asks for more than an answer does: random numbers that go on as they
would, and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from codi.modeling.graphs import Recorder

Terms = dict[str, Tensor]
Compute = Callable[[], Terms]


class StepRecorder(Recorder):
    """Records the steps of one device, and knows what they draw from."""

    def random_state(self) -> tuple[Tensor, ...]:
        """Of all generators that a step may draw from: the host's, and the device's."""
        host = torch.get_rng_state()
        return (host, torch.cuda.get_rng_state(self.device)) if self.device.type == "cuda" else (host,)

    def set_random_state(self, state: tuple[Tensor, ...]) -> None:
        """As `random_state` gave it."""
        torch.set_rng_state(state[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state[1], self.device)


RECORDERS: dict[str, type[StepRecorder]] = {"cuda": StepRecorder}
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
