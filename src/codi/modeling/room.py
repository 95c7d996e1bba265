"""Room for keys and values that are still to come: a pass writes its own behind those that are there.

    joined anew   K = [k_1 .. k_s, k]                    every pass copies all that came before, and the
                                                         backward of every pass keeps its copy
    with room     K = [k_1 .. k_s, k,  .. not yet used]  one tensor; each pass sees its own beginning of it

A thought is one position, and each of them attends to the whole question: joined anew, six thoughts copy the
question six times in every layer. What has been written is never written again, so the beginning that a pass
saw stays what it was, for its backward and for whoever holds an older context. Who extends an older context
gets tensors of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Room:
    """Room behind keys or values [b, heads, s, head_dim] for `more` positions; they are copied into it."""

    def __init__(self, held: Tensor, more: int) -> None:
        shape = (*held.shape[:-2], held.shape[-2] + more, held.shape[-1])
        self.buffer = torch.empty(shape, dtype=held.dtype, device=held.device)
        self.buffer[..., : held.shape[-2], :].copy_(held.detach())
        self.newest = held
        """Who holds this may write behind it; anybody else would write over what another has written."""

    def has(self, held: Tensor, positions: int) -> bool:
        """Whether so many can be written behind `held`."""
        return held is self.newest and held.shape[-2] + positions <= self.buffer.shape[-2]

    def extended(self, new: Tensor) -> Tensor:
        """[b, heads, s + t, head_dim], with gradients to what was held and to `new`."""
        if torch.is_grad_enabled():
            self.newest = _Written.apply(self.newest, new, self.buffer)  # type: ignore[no-untyped-call]
        else:
            self.newest = _written(self.newest, new, self.buffer)
        return self.newest


def _written(held: Tensor, new: Tensor, buffer: Tensor) -> Tensor:
    before, width = held.shape[-2], held.shape[-2] + new.shape[-2]
    # `.data`: autograd must not count this as a change of what earlier passes have kept for backward. It is
    # none: they see the positions before.
    buffer.data[..., before:width, :].copy_(new)
    return buffer.data[..., :width, :]


class _Written(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, held: Tensor, new: Tensor, buffer: Tensor) -> Tensor:
        ctx.before = held.shape[-2]
        return _written(held, new, buffer)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        return gradient[..., : ctx.before, :], gradient[..., ctx.before :, :], None


def has_room(layer: Any, positions: int) -> bool:
    """Whether a cache layer can take so many positions as it is."""
    rooms: tuple[Room, Room] | None = getattr(layer, "rooms", None)
    held = layer.keys, layer.values
    return rooms is not None and all(room.has(one, positions) for room, one in zip(rooms, held, strict=True))


def give_room(layer: Any, positions: int) -> None:
    """Let a cache layer that holds keys and values take so many positions without copying them again."""
    layer.rooms = Room(layer.keys, positions), Room(layer.values, positions)


def leave_room(layer: Any) -> None:
    """Let go of a layer's room: its keys and values are others now, and would keep the memory of both."""
    layer.rooms = None


def extend_in_place(layer: Any, keys: Tensor, values: Tensor) -> bool:
    """Write keys and values [b, heads, t, head_dim] behind the layer's, where it has room for them."""
    if not has_room(layer, keys.shape[-2]):
        return False
    for_keys, for_values = layer.rooms
    layer.keys, layer.values = for_keys.extended(keys), for_values.extended(values)
    return True
