"""Whether losses are finite, without holding a device up.

    forward ──► loss ──► backward ─────────────────────────► optimiser
                 └ copied to the host while backward runs ──► looked at

To read a value from a GPU is to wait for all that it has to do; the copy is waited for alone, when backward
is already queued. The weights are then still those that the loss was computed with.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from codi.errors import TrainingError

Describe = Callable[[list[float]], str]


class LossWatch:
    """`note` a loss after forward, `check` it after backward."""

    def __init__(self) -> None:
        self._noted: tuple[Tensor, Describe] | None = None
        self._copied: torch.cuda.Event | None = None

    def note(self, values: Tensor, describe: Describe) -> None:
        """values: [n], the loss first; describe: gives the message, where it is not finite."""
        if values.device.type == "cuda":
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            host.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
            values = host
        self._noted = values, describe

    def check(self) -> None:
        """Raise TrainingError when the loss that was noted is not finite."""
        if self._noted is None:
            return
        (values, describe), self._noted = self._noted, None
        if self._copied is not None:
            self._copied.synchronize()
        found: list[float] = values.tolist()
        if not math.isfinite(found[0]):
            raise TrainingError(describe(found))
