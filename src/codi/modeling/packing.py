"""Reading a padded batch without computing its padding.

    padded    Q Q Q Q        packed    Q Q Q Q Q Q Q Q Q          one row of real tokens: embeddings, linear
              . . Q Q                                             layers and norms run on these alone
              . Q Q Q        attention  [4, heads, 4, ..]         rows are unpacked for attention and the cache

In a random batch of 16 problems of GSM8k-Aug two tokens in five are padding. transformers lets a model's
attention be replaced by a registered function and hands it our keyword arguments; everything else in a
decoder works token by token. A model of which that is not true is found out by trying (`can_pack`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION = "codi_packed"


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the real tokens of a padded batch are.

    rows, width: shape of the padded batch; index: [n], places of the real tokens in its b * t;
    cache: takes the new keys and values, unpacked; may_attend: [b, 1, t, s + t].
    """

    rows: int
    width: int
    index: Tensor
    cache: DynamicCache
    may_attend: Tensor

    @classmethod
    def of(cls, mask: Tensor, whole_mask: Tensor, cache: DynamicCache) -> Packing:
        """mask: [b, t] of the tokens to read; whole_mask: [b, s + t], with what came before."""
        rows, width = mask.shape
        earlier = whole_mask.shape[1] - width
        place = torch.arange(earlier + width, device=mask.device)
        query, key = place[earlier:, None], place[None, :]
        # A padded place attends to itself: no row of the softmax is empty, and nothing reads its result.
        may_attend = (whole_mask[:, None, :].bool() & (key <= query)) | (key == query)
        return cls(rows, width, mask.flatten().nonzero().squeeze(1), cache, may_attend.unsqueeze(1))

    def pack(self, padded: Tensor) -> Tensor:
        """[b, t, ..] -> [1, n, ..]"""
        return padded.flatten(0, 1).index_select(0, self.index).unsqueeze(0)

    def unpack(self, packed: Tensor) -> Tensor:
        """[1, n, ..] -> [b, t, ..], zeros where there is padding."""
        padded = packed.new_zeros(self.rows * self.width, *packed.shape[2:])
        return padded.index_copy(0, self.index, packed.squeeze(0)).unflatten(0, (self.rows, self.width))


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface. query, key, value: [1, heads, n, head_dim]; returns [1, n, heads, ..]."""
    query, key, value = (packing.unpack(part.transpose(1, 2)).transpose(1, 2) for part in (query, key, value))
    key, value = packing.cache.update(key, value, module.layer_idx)
    attended, _ = sdpa_attention_forward(module, query, key, value, packing.may_attend, dropout, scaling)
    return packing.pack(attended), None


AttentionInterface.register(ATTENTION, packed_attention)


@contextmanager
def packed_attention_in(config: Any) -> Iterator[None]:
    """The model of this configuration attends through `packed_attention` meanwhile."""
    usual = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = usual
