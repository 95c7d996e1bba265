"""One pass of the body over inputs, after what came before: padded or packed, its activations kept or not.

    inputs, keys and values before ──► body ──► states, keys and values with these
                  └────────────── backward ──── computed again from the same (`recompute`)

transformers' own activation checkpointing takes every layer's cache away, so a thought would forget its
question. Here a pass starts from a fork of its own, both times: it is a function of what it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from codi.modeling.context import Context, given_to
from codi.modeling.packing import PACKS_ON, Asked, Packing, read_packed


@dataclass(frozen=True, slots=True)
class Passed:
    """final: [b, t, d]; states: [b, t, d] a layer, where asked for; cache: with the new keys and values;
    attention: see `Reading`."""

    final: Tensor
    states: tuple[Tensor, ...] | None
    cache: DynamicCache
    attention: tuple[Tensor, ...] | None


@dataclass(frozen=True, slots=True)
class Pass:
    """What a pass is given. body: of a causal LM, without the head; start: makes the cache that it extends.

    positions: [b, t]; seen: the attention mask in two or four dimensions, None where nothing is masked;
    places: [n], of the real tokens where padding is to be left out, None where it is not.
    """

    body: Any
    start: Callable[[], DynamicCache]
    positions: Tensor
    seen: Tensor | None
    places: Tensor | None = None
    hidden_states: bool = False
    attention_of: Tensor | None = None

    def over(self, inputs: Tensor, recompute: bool = False) -> Passed:
        """inputs: [b, t, d]. recompute: keep nothing for backward but what the pass is given and gives."""
        if not recompute:
            return self._run(inputs)
        return cast(Passed, checkpoint(self._run, inputs, use_reentrant=False))

    def _run(self, inputs: Tensor) -> Passed:
        cache, asked = self.start(), None if self.attention_of is None else Asked(self.attention_of)
        if self.places is not None and self.seen is not None:
            packing = Packing.of(self.places, self.seen, cache)
            final, states = read_packed(self.body, packing, inputs, self.positions, self.hidden_states, asked)
        else:
            output = self.body(
                inputs_embeds=inputs,
                attention_mask=self.seen,
                position_ids=self.positions,
                use_cache=True,
                output_hidden_states=self.hidden_states,
                **given_to(self.body, cache),  # changed in place
                **({} if asked is None else {"asked": asked}),
            )
            final, states = output.last_hidden_state, output.hidden_states
        found = None if asked is None else tuple(asked.found)
        return Passed(final, states if self.hidden_states else None, cache, found)


def pays_to_pack(places: Tensor | None, inputs: Tensor) -> bool:
    """Whether leaving padding out of inputs [b, t, d] is worth it. places: [n] of the real ones, if known."""
    rows, width = inputs.shape[:2]
    on_host = places is not None and inputs.device.type == PACKS_ON and width > 1
    return on_host and 0 < cast(Tensor, places).numel() < rows * width


def placed(inputs: Tensor, mask: Tensor | None, after: Context | None) -> tuple[Tensor, Tensor, Tensor]:
    """Position ids [b, t], the mask of everything [b, s + t], and the next position id [b].

    mask: [b, t] of inputs [b, t, d]; None where all are real.
    """
    rows, width = inputs.shape[:2]
    real = torch.ones(rows, width, dtype=torch.long, device=inputs.device) if mask is None else mask
    number: int | Tensor
    if mask is None:
        steps, number = torch.arange(width, device=inputs.device).expand(rows, -1), width
    else:
        steps, number = mask.cumsum(1) - 1, mask.sum(1)
    if after is None:
        first = torch.zeros(rows, dtype=torch.long, device=inputs.device)
        return steps.clamp(min=0), real, first + number
    positions = (after.next_position.unsqueeze(1) + steps).clamp(min=0)
    return positions, torch.cat([after.mask, real], 1), after.next_position + number


def last_real(final: Tensor, mask: Tensor | None, after: Context | None) -> Tensor:
    """The state of each row's last real token; a row with no real token keeps the one it had. [b, d]"""
    if mask is None:
        return final[:, -1]
    index = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).max(1).values - 1
    last = final[torch.arange(final.shape[0], device=final.device), index.clamp(min=0)]
    return last if after is None else torch.where((index < 0).unsqueeze(1), after.last_hidden, last)
