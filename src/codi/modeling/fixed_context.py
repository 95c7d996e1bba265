"""A context in buffers of fixed length, written in place: every token that is read has the same shapes.

    context ──► load ──► [ question, thoughts, prompt, tokens ..   column ..   not yet used, masked ]
    context ◄── copied ──┘                                           └─ the next token of every row

A `Context` is a value and can be forked; buffers cannot. So they are never handed out: what goes in and what
comes out is copied. Rows are padded on the left, so one column is the next of all of them.

transformers' own `StaticCache` keeps a length in every layer and a way of being told of it that changed from
version to version; here all layers share one column, which is set before each step, so that a step that
failed can be made again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from codi.modeling.context import Context, copied_cache, empty_cache, stacked
from codi.modeling.model import ThoughtModel
from codi.modeling.passing import Pass


def can_be_fixed(context: Context) -> bool:
    """Whether every layer holds all keys and values, in tensors of one shape and type."""
    layers: list[Any] = context.cache.layers
    if not all(type(layer) is DynamicLayer and layer.is_initialized for layer in layers):
        return False
    held = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
    return len({(tensor.shape, tensor.dtype) for tensor in held}) == 1


class FixedContext:
    """Room for `rows` rows of `length` positions, in the types of a context that can be fixed.

    width: positions in use; occupied: rows in use, the first ones.
    """

    def __init__(self, model: ThoughtModel, like: Context, rows: int, length: int) -> None:
        self.rows, self.length, self.occupied, self.width = rows, length, 0, 0
        self._model = model
        first: Any = like.cache.layers[0]
        _, heads, _, head_dim = first.keys.shape
        shape, device = (2 * len(like.cache.layers), rows, heads, length, head_dim), model.device
        self._kv = torch.zeros(shape, dtype=first.keys.dtype, device=device)
        self._mask = torch.zeros(rows, length, dtype=torch.bool, device=device)
        """[b, length], True at what may be attended to once it is there."""
        self._column = torch.zeros(1, dtype=torch.long, device=device)
        self._places = torch.arange(length, device=device)
        self._ahead = torch.zeros(rows, dtype=torch.long, device=device)
        """[b], position id less column, of each row."""
        self.last_hidden = torch.zeros(rows, model.hidden_size, dtype=like.last_hidden.dtype, device=device)
        """[b, d], of what was read last."""
        self._logits = torch.zeros(rows, model.bot_id, dtype=torch.float32, device=device)
        self._tokens = torch.zeros(rows, dtype=torch.long, device=device)
        self._padded = True
        self._cache = empty_cache(model.causal.config)
        self._cache.layers = [
            _FixedLayer(keys, values, self._column) for keys, values in self._kv.view(-1, 2, *shape[1:])
        ]

    def load(self, context: Context) -> None:
        """Hold a copy of this context. What another left is cleared: masked, a NaN would still count."""
        rows, width = context.rows, context.width
        self._kv.zero_()
        self._kv[:, :rows, :, :width].copy_(stacked(context.cache))
        self._mask.fill_(True)
        self._mask[:, :width] = False
        self._mask[:rows, :width].copy_(context.mask)
        self._ahead.zero_()
        torch.sub(context.next_position, width, out=self._ahead[:rows])
        self.last_hidden[:rows].copy_(context.last_hidden)
        self._tokens.zero_()
        self._padded, self.occupied, self.width = context.padded, rows, width

    def copied(self) -> Context:
        """What is held now, as a context of its own."""
        rows, width = self.occupied, self.width
        return Context(
            cache=copied_cache(self._cache, self._model.causal.config, rows, slice(width)),
            mask=self._mask[:rows, :width].long(),
            next_position=self._ahead[:rows] + width,
            last_hidden=self.last_hidden[:rows].clone(),
            padded=self._padded,
        )

    def set_tokens(self, tokens: Tensor) -> None:
        """What `read` is to read: tokens [occupied], in the column after those in use. Until `width` is
        raised, the same column is written again."""
        self._tokens[: self.occupied].copy_(tokens)
        self._column.fill_(self.width)

    def read(self) -> Tensor:
        """One pass over the tokens that were set. Returns the logits of what follows, [rows, vocabulary].

        Of fixed shapes, without a look at a value: it can be recorded. The logits are these buffers' own
        until their next read: another recording, which shares all other memory with this, leaves them alone.
        """
        model = self._model
        embedded = model.embed(self._tokens.clamp(min=0).unsqueeze(1))  # -1: a row that broke, and stays
        positions = (self._ahead + self._column).unsqueeze(1).clamp(min=0)
        if model.longest_sequence is not None:  # rows that are done may be carried past the last one
            positions = positions.clamp(max=model.longest_sequence - 1)
        seen = self._mask & (self._places <= self._column)
        passed = Pass(
            body=model.causal.base_model,
            start=lambda: self._cache,
            positions=positions,
            seen=seen[:, None, None, :],
        ).over(embedded.to(model.causal.get_input_embeddings().weight.dtype))
        self.last_hidden.copy_(passed.final[:, -1])
        return self._logits.copy_(model.logits(passed.final[:, -1]))


class _FixedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """keys, values: [b, heads, length, head_dim]; column: [1], where in them new ones go."""

    def __init__(self, keys: Tensor, values: Tensor, column: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values, self.column = keys, values, column
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """One position, [b, heads, 1, head_dim], into the column. Returns all."""
        keys, values = self.keys, self.values
        assert keys is not None
        assert values is not None
        keys.index_copy_(2, self.column, key_states.to(keys.dtype))
        values.index_copy_(2, self.column, value_states.to(values.dtype))
        return keys, values
