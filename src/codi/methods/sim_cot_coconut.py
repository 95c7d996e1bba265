"""SIM-CoT over Coconut: its curriculum, and a decoder that tells each step's latents what they stand for.

    stage 2    Q <bot>  z_1 z_2   z_3 z_4  <eot>  r_3 ...  The answer is : 12 eos     L_Coconut, c_thought = 2
    decoder            [z_1 z_2; step 1] says step 1 eos; [z_3 z_4; step 2] says step 2 eos       L_explain

A slot is the c_thought latents of one step (2025, arXiv 2509.20317). The last of max_stage slots says its own
step and all further ones; a slot without a step says what follows <eot> (`spare: rest`) or nothing. Where
Coconut pads its latents to the stage's number, such slots are there in every short problem.

The published configuration makes no targets (its data loader leaves them out), so it trains no L_explain;
here they are made as its unused loader would. Positions of the decoder begin at 1, as published.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from codi.data.collation import Encoded, Nested
from codi.errors import RecipeError
from codi.methods.coconut import Coconut
from codi.methods.method import Batch, register
from codi.methods.sim_cot import decoder_of, explained, mean_over_slots, padded, slot_sizes
from codi.modeling.model import ThoughtModel


@register
@dataclass(frozen=True)
class SimCotCoconut(Coconut):
    """SIM-CoT over Coconut, with its curriculum."""

    name: ClassVar[str] = "sim-cot-coconut"
    terms: ClassVar[tuple[str, ...]] = (*Coconut.terms, "explain")

    explain: float = 1.0
    """Weight of L_explain; 0 is Coconut, without a decoder."""
    spare: str = "rest"
    """What slots without a step say: `rest`, what follows <eot> (published), or `none`."""
    slot_mean: str = "rows"
    """A slot's loss is divided by its `rows` (published) or by its `tokens`."""
    all_latents: bool = False
    """Think all latents from the first stage on, while steps leave one by one (advised for 1B)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.explain < 0:
            raise RecipeError(f"method.explain is {self.explain}; it must be 0 or more.")
        for name, known in (("spare", ("rest", "none")), ("slot_mean", ("rows", "tokens"))):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise RecipeError(f"method.{name} is '{value}'; it must be {' or '.join(known)}.")

    def loss(
        self, model: ThoughtModel, batch: Batch, divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """L = L_Coconut + explain L_explain."""
        n = divisors or self.divisors(batch)
        terms, z = self.learn(model, batch, n)
        explain = torch.zeros_like(terms["loss"])
        if self.explain:
            nothing = z.last_hidden.unsqueeze(1).expand(-1, self.c_thought, -1)  # stage 0: no label
            fed = nothing if z.latents is None else z.latents
            slots = fed.reshape(fed.shape[0], -1, self.c_thought, fed.shape[2])
            sums = explained(model, slots, padded(batch, slots.shape[1]), first_position=1)
            explain = mean_over_slots(sums, n)
        return {**terms, "loss": terms["loss"] + self.explain * explain, "explain": explain}

    def staged(self, row: Encoded, stage: int, rng: random.Random) -> Encoded:
        """Coconut's row, and `steps`: what each slot of it is to say."""
        staged = super().staged(row, stage, rng)
        if self.all_latents:
            staged["thoughts"] = self.c_thought * self.max_stage
        ends, ids = [0, *row["step_ends"]], row["student"]
        own = [ids[first:end] for first, end in pairwise(ends)]
        last = self.max_stage - 1
        own[last:] = [[token for step in own[last:] for token in step]] if own[last:] else []
        rest = list(staged["student"]) if self.spare == "rest" else []
        slots = staged["thoughts"] // self.c_thought
        said = [[*step, ids[-1]] for step in own[:slots]]  # the last token of all is eos
        return {**staged, "steps": Nested(said + [rest] * (slots - len(said)))}

    def divisors(self, batch: Batch) -> dict[str, Tensor]:
        """Tokens of y, and of each slot its rows or tokens."""
        sizes = slot_sizes(batch, self.max_stage, rows=self.slot_mean == "rows")
        return {**super().divisors(batch), **sizes}

    def training_parts(self, model: ThoughtModel) -> dict[str, nn.Module]:
        """The decoder."""
        return decoder_of(model) if self.explain else {}
