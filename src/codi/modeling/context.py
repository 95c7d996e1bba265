"""A context: what the model has taken in so far, as a value that can be forked.

    read / think ──► context ──► read / think ──► context'
                        └──────► read / think ──► context''     (the first context is left whole)

This file is the only owner of the key/value cache. transformers changes a cache object in place, but its
layers bind *new* tensors on every update; so a fork is a new cache object whose layers hold the same tensors,
and extending one fork never touches another. Where a layer has room (`room.py`) new positions are written
behind those that are held, which are never written again: hold them, and do not change them in place.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from codi.errors import UsageError
from codi.modeling.precision import computed_in
from codi.modeling.room import extend_in_place, give_room, has_room, leave_room


@dataclass(frozen=True, slots=True)
class Tokens:
    """A padded batch of token ids. ids: [b, t] long; mask: [b, t], 1 at real tokens.

    What is known of them without a look at the device: padded: whether a token may be none; places: [n],
    where in the flattened ids all real ones are (and perhaps others); None where that is not known.
    """

    ids: Tensor
    mask: Tensor
    places: Tensor | None = None
    padded: bool = True

    @classmethod
    def of(cls, batch: Mapping[str, Tensor], name: str) -> Tokens:
        """The segment `name` of a collated batch."""
        ids, places = batch[f"{name}_ids"], batch.get(f"{name}_places")
        padded = places is None or places.numel() < ids.numel()
        return cls(ids, batch[f"{name}_mask"], places if padded else None, padded)

    @classmethod
    def repeated(cls, ids: Sequence[int], rows: int, device: torch.device) -> Tokens:
        """The same tokens for every row: [rows, len(ids)]."""
        runs = [  # filled in on the device: nothing is copied to it
            torch.full((rows, len(list(run))), token, dtype=torch.long, device=device)
            for token, run in groupby(ids)
        ]
        tensor = torch.cat(runs, 1) if runs else torch.zeros(rows, 0, dtype=torch.long, device=device)
        return cls(tensor, torch.ones_like(tensor), padded=False)

    @classmethod
    def joined(cls, parts: Sequence[Tokens]) -> Tokens:
        """Each row's tokens of one part after another."""
        if len(parts) == 1:
            return parts[0]
        ids, mask = (torch.cat([getattr(part, name) for part in parts], 1) for name in ("ids", "mask"))
        padded = any(part.padded for part in parts)
        if not padded or any(part.padded and part.places is None for part in parts):
            return cls(ids, mask, padded=padded)
        first, found = 0, list[Tensor]()
        for part in parts:
            width = part.ids.shape[1]
            places = torch.arange(part.ids.numel(), device=ids.device) if part.places is None else part.places
            found.append(first + laid_out(places, (width,), (ids.shape[1],)))
            first += width
        return cls(ids, mask, torch.cat(found))


def laid_out(places: Tensor, shape: Sequence[int], wider: Sequence[int]) -> Tensor:
    """Places in a flattened [b, *shape], as they lie in a flattened [b, *wider]: padded at each axis' end."""
    moved, stride = torch.zeros_like(places), 1
    for size, new in zip(reversed(shape), reversed(wider), strict=True):
        moved, places, stride = moved + places % size * stride, places // size, stride * new
    return moved + places * stride


@dataclass(frozen=True, slots=True)
class Context:
    """What has been taken in: s positions (padding included) of b rows.

    cache:         keys and values of every layer, [b, heads, s, head_dim]
    mask:          [b, s], 1 at positions that may be attended to
    next_position: [b], the position id of each row's next token
    last_hidden:   [b, d], final hidden state (after the last norm) of each row's last real token
    thoughts:      [b, n, d], the hidden states that became continuous thoughts, *before* the projection
    latents:       [b, n, d], what was fed back for them
    thought:       [b], how many of them each row thought; None where every row thought all n
    padded:        whether any position may be masked, as far as is known without looking
    """

    cache: DynamicCache
    mask: Tensor
    next_position: Tensor
    last_hidden: Tensor
    thoughts: Tensor | None = None
    latents: Tensor | None = None
    thought: Tensor | None = None
    padded: bool = True

    @property
    def rows(self) -> int:
        """Batch size b."""
        return self.mask.shape[0]

    def forked_cache(self) -> DynamicCache:
        """A cache object of its own over the same tensors: safe to hand to the model."""
        return _fork(self.cache)

    def select(self, rows: Tensor) -> Context:
        """The context of some rows only. rows: [k] indices. Finished rows are dropped this way."""
        cache = _fork(self.cache)
        cache.batch_select_indices(rows)
        for layer in cache.layers:
            leave_room(layer)
        return replace(
            self,
            cache=cache,
            mask=self.mask[rows],
            next_position=self.next_position[rows],
            last_hidden=self.last_hidden[rows],
            thoughts=None if self.thoughts is None else self.thoughts[rows],
            latents=None if self.latents is None else self.latents[rows],
            thought=None if self.thought is None else self.thought[rows],
        )

    def copied(self, rows: int, first: int, config: PreTrainedConfig) -> Context:
        """The first `rows` rows from position `first` on, in memory of its own; what goes must be masked.

        Raises RuntimeError where the layers' keys and values differ in shape.
        """
        rest = {
            name: None if tensor is None else tensor[:rows].clone()
            for name in ("thoughts", "latents", "thought")
            for tensor in [getattr(self, name)]
        }
        return Context(
            cache=copied_cache(self.cache, config, rows, slice(first, None)),
            mask=self.mask[:rows, first:].clone(),
            next_position=self.next_position[:rows].clone(),
            last_hidden=self.last_hidden[:rows].clone(),
            padded=self.padded,
            **rest,
        )

    @property
    def width(self) -> int:
        """Positions held for every row, padding included, s."""
        return self.mask.shape[1]

    @property
    def cache_bytes(self) -> int:
        """Memory of the keys and values."""
        layers: list[Any] = self.cache.layers
        held = [tensor for layer in layers if layer.is_initialized for tensor in (layer.keys, layer.values)]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    @classmethod
    def join(cls, contexts: Sequence[Context]) -> Context:
        """One context of all their rows, in order; narrower ones are padded on the left, masked.

        Every row keeps its mask and position ids, so what follows it is what followed it before. Thoughts
        are left behind: rows may have had different numbers of them. Needs caches that `can_join`.
        """
        if len(contexts) == 1:
            return contexts[0]
        width = max(context.width for context in contexts)
        cache = _fork(contexts[0].cache)
        cache.layers = [
            _joined(layers) for layers in zip(*(context.cache.layers for context in contexts), strict=True)
        ]
        return cls(
            cache=cache,
            mask=torch.cat([F.pad(context.mask, (width - context.width, 0)) for context in contexts]),
            next_position=torch.cat([context.next_position for context in contexts]),
            last_hidden=torch.cat([context.last_hidden for context in contexts]),
            padded=any(context.padded or context.width < width for context in contexts),
        )

    def with_room(self, positions: int, more: int = 0) -> Context:
        """The same context; the next `positions` are taken in without copying those that are there.

        Where there is no room for them yet, keys and values are copied once, now, with room for `more`
        besides. Layers that keep no more than a window are left as they are.
        """
        lacking = [
            number
            for number, layer in enumerate(self.cache.layers)
            if type(layer) is DynamicLayer and layer.is_initialized and not has_room(layer, positions)
        ]
        if not positions or not lacking:
            return self
        cache = _fork(self.cache)
        for number in lacking:
            give_room(cache.layers[number], positions + more)
        return replace(self, cache=cache)

    def narrowed(self, width: int) -> Context:
        """The last `width` positions alone. What goes must be masked in every row: no answer changes.

        Only views are made: the memory is given back once the context is extended or selected from.
        """
        if width >= self.width or not can_join(self.cache):
            return self
        cache = _fork(self.cache)
        for layer in cache.layers:
            _narrow(layer, width)
        return replace(self, cache=cache, mask=self.mask[:, -width:])

    def cut(self, positions: int, last_hidden: Tensor) -> Context:
        """The context `positions` earlier, where the last hidden state was `last_hidden` [b, d].

        Only views are made, so gradients flow as if what is cut off had never been read. Raises UsageError
        where the cache does not hold all that came before (sliding windows).
        """
        if not positions:
            return replace(self, last_hidden=last_hidden)
        if not remembers_all(self.cache):
            raise UsageError(
                "A context was to be cut back, but this base has a sliding window and has forgotten what "
                "came before it. Take a base that attends to everything."
            )
        cache, kept = _fork(self.cache), self.width - positions
        layer: Any
        for layer in cache.layers:
            if layer.is_initialized:  # a layer may share another's keys and values, and hold none
                layer.keys, layer.values = layer.keys[..., :kept, :], layer.values[..., :kept, :]
                leave_room(layer)
        return replace(
            self,
            cache=cache,
            mask=self.mask[:, :kept],
            next_position=self.next_position - self.mask[:, kept:].sum(1),
            last_hidden=last_hidden,
        )

    def keys_values(self, places: slice, layers: Sequence[int] | None = None) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of some positions, [b, kv_heads, n, head_dim] each, with their gradient.

        places: of the `width` positions; layers: from 0, None for all that hold any. Keys are as they are
        attended to: with RoPE, turned to their position. Raises UsageError under a sliding window.
        """
        if not remembers_all(self.cache):
            raise UsageError(
                "Keys and values of given positions were asked for, but this base has a sliding window and "
                "keeps only the last. Take a base that attends to everything."
            )
        every: list[Any] = self.cache.layers
        chosen = every if layers is None else [every[number] for number in layers]
        return [
            (layer.keys[..., places, :], layer.values[..., places, :])
            for layer in chosen
            if layer.is_initialized
        ]


class ThoughtCache(DynamicCache):
    """Keeps keys and values in the type of the computation.

    RoPE turns keys in float32 under autocast: kept so, they take twice the memory of their values, and are
    cast again by every pass that attends to them.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """transformers' own, for keys and values [b, heads, t, head_dim] as they are to be kept."""
        dtype = computed_in(key_states.device)
        if dtype is not None:
            key_states, value_states = key_states.to(dtype), value_states.to(dtype)
        layer: Any = self.layers[layer_idx] if layer_idx < len(self.layers) else None
        if layer is not None:
            if extend_in_place(layer, key_states, value_states):
                return layer.keys, layer.values
            leave_room(layer)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


def empty_cache(config: PreTrainedConfig) -> DynamicCache:
    """A cache with nothing in it, laid out for the base's layer types."""
    return ThoughtCache(config=config)


def stacked(cache: DynamicCache, rows: int | None = None, places: slice = slice(None)) -> Tensor:
    """Keys and values of all layers, [2 layers, rows, kv_heads, n, head_dim]: one copy, made at once.

    Raises RuntimeError where they differ in shape.
    """
    layers: list[Any] = cache.layers
    held = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
    return torch.stack([tensor[:rows, :, places] for tensor in held])


def copied_cache(
    cache: DynamicCache, config: PreTrainedConfig, rows: int | None = None, places: slice = slice(None)
) -> DynamicCache:
    """A cache of the usual kind that holds copies, of some rows and positions, side by side in one tensor."""
    kv, copied = stacked(cache, rows, places), empty_cache(config)
    layer: Any
    for layer, (keys, values) in zip(copied.layers, kv.view(-1, 2, *kv.shape[1:]), strict=True):
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        layer.dtype, layer.device = keys.dtype, keys.device
    return copied


def given_to(body: Any, cache: DynamicCache) -> dict[str, DynamicCache]:
    """The cache under the name that the forward of `body` has for it: it was renamed in transformers 5.24."""
    known = inspect.signature(type(body).forward).parameters
    return {"cache" if "cache" in known else "past_key_values": cache}


def remembers_all(cache: DynamicCache) -> bool:
    """Whether every layer holds all positions (a sliding window forgets the oldest)."""
    return all(
        getattr(layer, "is_croppable", False) and not getattr(layer, "is_sliding", False)
        for layer in cache.layers
    )


def can_join(cache: DynamicCache) -> bool:
    """Whether the cache holds nothing but keys and values (a recurrent layer has a state besides)."""
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def _joined(layers: Sequence[Any]) -> Any:
    """One cache layer of all rows: keys and values end at the same, last position."""
    joined = copy.copy(layers[0])
    leave_room(joined)
    if joined.is_initialized:  # a layer may share another's keys and values, and hold none
        width = max(layer.keys.shape[-2] for layer in layers)
        joined.keys = torch.cat([F.pad(each.keys, (0, 0, width - each.keys.shape[-2], 0)) for each in layers])
        joined.values = torch.cat(
            [F.pad(each.values, (0, 0, width - each.values.shape[-2], 0)) for each in layers]
        )
    if isinstance(joined, DynamicSlidingWindowLayer):
        joined.cumulative_length = max(each.cumulative_length for each in layers)
    return joined


def _narrow(layer: Any, width: int) -> None:
    """Keep the last `width` positions of a cache layer; a sliding window may hold fewer anyway."""
    if layer.is_initialized:
        layer.keys, layer.values = layer.keys[..., -width:, :], layer.values[..., -width:, :]
        leave_room(layer)
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = min(layer.cumulative_length, width)


def _fork(cache: DynamicCache) -> DynamicCache:
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork
