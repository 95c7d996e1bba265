"""Reading a padded batch without computing its padding.

    padded    Q Q Q Q        packed    Q Q Q Q Q Q Q Q Q          one row of real tokens: embeddings, linear
              . . Q Q                                             layers, norms run on these alone
              . Q Q Q        attention  [4, heads, 4, ..]         rows unpacked, for attention and the cache

In a random batch of 16 problems of GSM8k-Aug two tokens in five are padding. On a CPU that is worth more than
it costs; a GPU computes padding sooner than it packs (measured on an H200: 919 ms a step, 546 without), so
there batches are read padded, with the same masks of our own. transformers lets a model's
attention be replaced by a registered function and hands it our keyword arguments; everything else in a
decoder works token by token. A model of which that is not true is found out by trying (`allow_packing`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache as once
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import DynamicCache

ATTENTION = "codi_packed"
PACKS_ON = "cpu"


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
    def of(cls, places: Tensor, may_attend: Tensor, cache: DynamicCache) -> Packing:
        """places: [n] of the tokens to read that are real, in the flattened batch; may_attend: see below."""
        return cls(may_attend.shape[0], may_attend.shape[2], places.sort().values, cache, may_attend)

    def pack(self, padded: Tensor) -> Tensor:
        """[b, t, ..] -> [1, n, ..]"""
        return padded.flatten(0, 1).index_select(0, self.index).unsqueeze(0)

    def unpack(self, packed: Tensor) -> Tensor:
        """[1, n, ..] -> [b, t, ..], zeros where there is padding."""
        padded = packed.new_zeros(self.rows * self.width, *packed.shape[2:])
        filled = padded.index_copy(0, self.index, packed.squeeze(0))
        return filled.view(self.rows, self.width, *packed.shape[2:])


def may_attend(whole_mask: Tensor, width: int) -> Tensor:
    """Which keys each of the last `width` places attends to: [b, 1, t, s + t], bool.

    whole_mask: [b, s + t], 1 at what is real, with what came before.
    """
    seen, earlier = whole_mask.bool()[:, None, None, :], whole_mask.shape[1] - width
    if width == 1 and earlier:
        return seen
    place = torch.arange(earlier + width, device=whole_mask.device)
    query, key = place[earlier:, None], place[None, :]
    # A padded place attends to itself: no row of the softmax is empty, and nothing reads its result.
    return (seen & (key <= query)) | (key == query)


@dataclass
class Asked:
    """Whose attention is wanted. places: [b, q], among the t tokens that are read; found: see `Reading`."""

    places: Tensor
    found: list[Tensor] = field(default_factory=list)

    @torch.no_grad()
    def note(self, query: Tensor, key: Tensor, scaling: float | None) -> None:
        """One layer's. query: [b, heads, t, head_dim]; key: [b, kv_heads, s + t, head_dim]."""
        (rows, heads, length, width), kv_heads = query.shape, key.shape[1]
        place = self.places[:, None, :, None].expand(rows, heads, -1, width)
        chosen = query.detach().gather(2, place).float().view(rows, kv_heads, heads // kv_heads, -1, width)
        keys = key.detach()[..., -length:, :].float().unsqueeze(2)
        self.found.append(chosen @ keys.transpose(-1, -2) * (width**-0.5 if scaling is None else scaling))


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    asked: Asked | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Called by transformers; without `packing`, its own `sdpa`. `asked` is told of queries and keys.

    query, key, value: [1, heads, n, head_dim], of packed rows; returns [1, n, heads, ..].
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if packing is None:
        if asked is not None:
            asked.note(query, key, scaling)
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    query, key, value = (packing.unpack(part.transpose(1, 2)).transpose(1, 2) for part in (query, key, value))
    key, value = packing.cache.update(key, value, cast(int, module.layer_idx))
    if asked is not None:
        asked.note(query, key, scaling)
    attended, _none = sdpa_attention_forward(module, query, key, value, packing.may_attend, dropout, scaling)
    return packing.pack(attended), None


@once
def _register() -> None:
    """Under a name of its own, with the masks of `sdpa`; set once for a model's life.

    Two threads may read with one model, one packed and one not, and neither changes what the other attends
    with.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def read_packed(
    body: Any,
    packing: Packing,
    inputs: Tensor,
    positions: Tensor,
    hidden_states: bool,
    asked: Asked | None = None,
) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """Run padded inputs [b, t, d] through the body, packed. Returns final and, if asked, all states, padded.

    The cache of `packing` takes the keys and values; positions: [b, t].
    """
    output = body(
        inputs_embeds=packing.pack(inputs),
        attention_mask=packing.may_attend,  # four dimensions: transformers makes no mask of its own
        position_ids=packing.pack(positions),
        use_cache=False,
        output_hidden_states=hidden_states,
        packing=packing,
        **({} if asked is None else {"asked": asked}),
    )
    states = tuple(packing.unpack(state) for state in output.hidden_states) if hidden_states else None
    return packing.unpack(output.last_hidden_state), states


@torch.no_grad()
def allow_packing(causal: Any) -> bool:
    """Have the model attend through `packed_attention`, if packed reading gives what padded reading gives.

    Tried out on two rows, one of them padded; where it does not hold, the model is left as it was.
    """
    from transformers import DynamicCache

    _register()
    weight = causal.get_input_embeddings().weight
    if weight.device.type == "meta" or causal.config._attn_implementation not in ("sdpa", ATTENTION):
        return False
    cache = DynamicCache(config=causal.config)
    if any(getattr(layer, "is_sliding", True) for layer in cache.layers):
        return False
    training = causal.training
    causal.eval()
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]], device=weight.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    inputs = weight[torch.tensor([[0, 1, 2], [2, 0, 1]], device=weight.device)]
    body = causal.base_model
    usual = body(
        inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    causal.config._attn_implementation = ATTENTION
    try:
        packing = Packing.of(mask.flatten().nonzero().squeeze(1), may_attend(mask, 3), cache)
        ours, _ = read_packed(body, packing, inputs, positions, hidden_states=False)
        real = mask.bool()
        same = torch.allclose(ours[real].float(), usual[real].float(), atol=1e-3, rtol=1e-3)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        same = False  # an attention of its own kind: padded reading serves it
    finally:
        causal.train(training)
    if not same:
        causal.config._attn_implementation = "sdpa"
    return same
