"""A context: what the model has taken in so far, as a value that can be forked.

    read / think ──► context ──► read / think ──► context'
                        └──────► read / think ──► context''     (the first context is left whole)

This file is the only owner of the key/value cache. transformers changes a cache object in place, but its
layers bind *new* tensors on every update; so a fork is a new cache object whose layers hold the same tensors,
and extending one fork never touches another.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig


@dataclass(frozen=True, slots=True)
class Tokens:
    """A padded batch of token ids. ids: [b, t] long; mask: [b, t], 1 at real tokens."""

    ids: Tensor
    mask: Tensor

    @classmethod
    def of(cls, batch: dict[str, Tensor], name: str) -> Tokens:
        """The segment `name` of a collated batch."""
        return cls(batch[f"{name}_ids"], batch[f"{name}_mask"])

    @classmethod
    def repeated(cls, ids: list[int], rows: int, device: torch.device) -> Tokens:
        """The same tokens for every row: [rows, len(ids)]."""
        tensor = torch.tensor(ids, dtype=torch.long, device=device).expand(rows, -1)
        return cls(tensor, torch.ones_like(tensor))


@dataclass(frozen=True, slots=True)
class Context:
    """What has been taken in: s positions (padding included) of b rows.

    cache:         keys and values of every layer, [b, heads, s, head_dim]
    mask:          [b, s], 1 at positions that may be attended to
    next_position: [b], the position id of each row's next token
    last_hidden:   [b, d], final hidden state (after the last norm) of each row's last real token
    thoughts:      [b, n, d], the hidden states that became continuous thoughts, *before* the projection
    """

    cache: DynamicCache
    mask: Tensor
    next_position: Tensor
    last_hidden: Tensor
    thoughts: Tensor | None = None

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
        return replace(
            self,
            cache=cache,
            mask=self.mask[rows],
            next_position=self.next_position[rows],
            last_hidden=self.last_hidden[rows],
            thoughts=None if self.thoughts is None else self.thoughts[rows],
        )

    def step_back(self, last_hidden: Tensor) -> Context:
        """The context one position earlier, where the last hidden state was `last_hidden` [b, d].

        Only views are made, so gradients flow as if the last token had never been read.
        Needs a cache that `remembers_all` and a real (unpadded) last position in every row.
        """
        cache = _fork(self.cache)
        layer: Any
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[..., :-1, :], layer.values[..., :-1, :]
        return replace(
            self,
            cache=cache,
            mask=self.mask[:, :-1],
            next_position=self.next_position - 1,
            last_hidden=last_hidden,
        )


def empty_cache(config: PreTrainedConfig) -> DynamicCache:
    """A cache with nothing in it, laid out for the base's layer types."""
    return DynamicCache(config=config)


def remembers_all(cache: DynamicCache) -> bool:
    """Whether every layer holds all positions (a sliding window forgets the oldest)."""
    return all(
        getattr(layer, "is_croppable", False) and not getattr(layer, "is_sliding", False)
        for layer in cache.layers
    )


def _fork(cache: DynamicCache) -> DynamicCache:
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork
