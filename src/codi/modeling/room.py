"""Room for keys and values that are still to come: a pass writes its own behind those that are there.

    joined anew   K = [k_1 .. k_s, k]                    every pass copies all that came before, and the
                                                         backward of every pass keeps its copy
    with room     K = [k_1 .. k_s, k,  .. not yet used]  one tensor; each pass sees its own beginning of it

A thought is one position, and each of them attends to the whole question: joined anew, six thoughts copy the
question six times in every layer. What has been written is never written again, so the beginning that a pass
saw stays what it was, for its backward and for whoever holds an older context. Who extends an older context
gets tensors of its own; so does who computes in a wider type.
"""

from __future__ import annotations

import weakref
from threading import Lock
from typing import Any

import torch
from torch import Tensor

_CLAIM = Lock()


class Room:
    """Room behind keys and values [b, heads, s, head_dim] for `positions` more; they are copied into it.

    Whoever holds the newest keys may write behind them, once; anybody else would write over what another has
    written.
    """

    def __init__(self, keys: Tensor, values: Tensor, positions: int) -> None:
        self.keys, self.values = _roomy(keys, positions), _roomy(values, positions)
        self._newest: weakref.ref[Tensor] | None = weakref.ref(keys)

    def has(self, keys: Tensor, positions: int) -> bool:
        """Whether so many can be written behind these keys."""
        newest, buffer = self._newest, self.keys
        if newest is None or newest() is not keys or keys.shape[-2] + positions > buffer.shape[-2]:
            return False
        return not buffer.is_inference() or torch.is_inference_mode_enabled()

    def extended(
        self, keys: Tensor, values: Tensor, more_keys: Tensor, more_values: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Both [b, heads, s + t, head_dim], with gradients to all four; None where there is no room for them,
        or where joining them would give another type than the buffers have."""
        for buffer, more in ((self.keys, more_keys), (self.values, more_values)):
            if torch.promote_types(buffer.dtype, more.dtype) != buffer.dtype:
                return None
        with _CLAIM:  # two threads may hold the same context
            if not self.has(keys, more_keys.shape[-2]):
                return None
            self._newest = None
        extended = _extended(keys, more_keys, self.keys), _extended(values, more_values, self.values)
        self._newest = weakref.ref(extended[0])
        return extended


def _roomy(held: Tensor, positions: int) -> Tensor:
    width = held.shape[-2]
    buffer = held.new_empty(*held.shape[:-2], width + positions, held.shape[-1])
    buffer[..., :width, :].copy_(held.detach())
    return buffer


def _extended(held: Tensor, more: Tensor, buffer: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        extended: Tensor = _Written.apply(held, more, buffer)  # type: ignore[no-untyped-call]
        return extended
    return _written(held, more, buffer)


def _written(held: Tensor, more: Tensor, buffer: Tensor) -> Tensor:
    before, width = held.shape[-2], held.shape[-2] + more.shape[-2]
    # `.data`: autograd must not count this as a change of what earlier passes have kept for backward. It is
    # none: they see the positions before.
    buffer.data[..., before:width, :].copy_(more)
    return buffer.data[..., :width, :]


class _Written(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, held: Tensor, more: Tensor, buffer: Tensor) -> Tensor:
        ctx.before = held.shape[-2]
        return _written(held, more, buffer)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        return gradient[..., : ctx.before, :], gradient[..., ctx.before :, :], None


def has_room(layer: Any, positions: int) -> bool:
    """Whether a cache layer can take so many positions as it is."""
    room: Room | None = getattr(layer, "room", None)
    return room is not None and room.has(layer.keys, positions)


def give_room(layer: Any, positions: int) -> None:
    """Let a cache layer that holds keys and values take so many positions without copying them again."""
    layer.room = Room(layer.keys, layer.values, positions)


def leave_room(layer: Any) -> None:
    """Let go of a layer's room: its keys and values are others now, and would keep the memory of both."""
    layer.room = None


def extend_in_place(layer: Any, keys: Tensor, values: Tensor) -> bool:
    """Write keys and values [b, heads, t, head_dim] behind the layer's, where it has room for them."""
    room: Room | None = getattr(layer, "room", None)
    extended = None if room is None else room.extended(layer.keys, layer.values, keys, values)
    if extended is not None:
        layer.keys, layer.values = extended
    return extended is not None
