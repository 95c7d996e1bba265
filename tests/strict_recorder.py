"""A recorder for a CPU that is as hard on its user as CUDA's: whatever may be overwritten there, is here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache

from codi.modeling.graphs import Recorder

T = TypeVar("T")


class StrictRecorder(Recorder):
    """What a recording gives stays in its place, and is spoilt by every replay of another one.

    Tensors that were there before, which the function only writes into, are the caller's and left alone.
    """

    replays: ClassVar[int] = 0

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._given: list[list[Tensor]] = []

    def record(self, function: Callable[[], T]) -> Callable[[], T]:
        earlier, given = function(), function()
        own = [
            at
            for at, (one, other) in enumerate(zip(tensors(earlier), tensors(given), strict=True))
            if one.data_ptr() != other.data_ptr()  # made by the function itself: the other still lives
        ]

        def of_its_own(result: T) -> list[Tensor]:
            every = list(tensors(result))
            return [every[at] for at in own]

        kept = of_its_own(given)
        self._given.append(kept)

        def replay() -> T:
            StrictRecorder.replays += 1
            for others in self._given:
                if others is not kept:
                    for tensor in others:
                        spoil(tensor)
            for tensor, new in zip(kept, of_its_own(function()), strict=True):
                tensor.copy_(new)
            return given

        return replay


def spoil(tensor: Tensor) -> None:
    if tensor.dtype == torch.bool:
        tensor.logical_not_()
    else:
        tensor.fill_(torch.nan if tensor.is_floating_point() else 7777)


def tensors(found: Any) -> Iterator[Tensor]:
    """All in it, in one order."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, DynamicCache):
        layer: Any
        for layer in found.layers:
            yield from (layer.keys, layer.values)
    elif isinstance(found, (list, tuple)):
        for one in found:
            yield from tensors(one)
    elif is_dataclass(found):
        for field in fields(found):
            yield from tensors(getattr(found, field.name))
