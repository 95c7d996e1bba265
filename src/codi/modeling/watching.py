"""Who looks on while a model thinks: for showing thoughts, and for putting others in their place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codi.modeling.context import Context


class ThoughtWatcher:
    """Sees every thought as it is fed back, and may change it. This one looks on; subclasses do the rest."""

    def refine(self, number: int, rounds: int, contexts: Sequence[Context], latents: Tensor) -> Tensor:
        """Before round `number` (from 0) of `rounds`. Returns what is fed: latents [b, m, d], or others.

        contexts: one per place, ending in the thought that its latent was made of. This one shows the last
        round alone, place by place: its keys and values are all that the answer sees.
        """
        if number + 1 < rounds:
            return latents
        return torch.stack([self.feed(i, context, latents[:, i]) for i, context in enumerate(contexts)], 1)

    def feed(self, number: int, context: Context, latent: Tensor) -> Tensor:
        """Before thought `number` (from 0) is fed back. Returns what is fed: latent [b, d], or another.

        context: up to here; its last hidden state [b, d] is the thought before the projection.
        """
        return latent

    def fed(self, number: int, context: Context) -> Context:
        """After it was fed back: the context with it, or another."""
        return context
