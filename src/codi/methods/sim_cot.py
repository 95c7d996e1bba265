"""SIM-CoT: each thought is told its step by a decoder that only training needs (2025, arXiv 2509.20317).

    student    Q <bot>  z_1   z_2   ...   z_6   <eot>  The answer is : 12 eos       CODI's, with its teacher
                         │     │           │ └► z_7, which is never fed
    decoder             [z_1; t_1 t_2 ... t_n]   says   t_1 t_2 ... t_n eos         t: step 1
                              [z_2; ...]                                            step 2, and so on

The decoder is a second copy of the base with a head of its own; all its weights learn, and it is left behind
when the model is saved. L = L_CODI + explain L_explain, L_explain the mean over slots of each slot's mean
over its tokens, so that a late slot which few rows have weighs as much as the first. The teacher's last step
has no slot; steps beyond M + 1 are joined in the last one; a slot without a step has no loss.

The published script trains all from the first step; its authors say that the released model was CODI first
(start=CODI_CHECKPOINT); both can be done. Left out: another base as decoder (the same size was best: 56.1
against 50.4 and 50.0). Over Coconut: `sim_cot_coconut.py`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codi.data.collation import Encoded, Nested
from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.errors import RecipeError
from codi.methods.codi import Codi
from codi.methods.method import Batch, register
from codi.modeling.backbone import build_base
from codi.modeling.context import Tokens, laid_out
from codi.modeling.model import NOT_LEARNED, ThoughtModel
from codi.modeling.packing import may_attend

DECODER = "decoder"


def decoder_of(model: ThoughtModel) -> dict[str, nn.Module]:
    """A second base, without adapters: the pretrained one, or a copy where it began from random weights."""
    config = model.config
    trained = replace(config, base_dtype=None)  # all its weights learn
    return {DECODER: copy.deepcopy(model.causal) if config.base is None else build_base(trained)}


def explained(model: ThoughtModel, z: Tensor, batch: Batch, first_position: int) -> Tensor:
    """Summed -log P(step of slot k | z_k) for every slot: [s].

    z: [b, s, c, d], the c latents of each slot; batch: `steps` [b, s, t], eos included.
    """
    decoder: Any = model.training_parts[DECODER]
    (rows, slots), width = z.shape[:2], batch["steps_ids"].shape[2]
    ids, mask = batch["steps_ids"].flatten(0, 1), batch["steps_mask"].flatten(0, 1)
    # Only slots that say something. There is always one: processes that share a decoder wait for one another.
    chosen = batch.get("steps_slots", torch.arange(rows * slots, device=z.device))
    places = batch.get("steps_places", torch.arange(ids.numel(), device=z.device))
    t, real, z_k = (part.index_select(0, chosen) for part in (ids, mask, z.flatten(0, 1)))
    inputs = torch.cat([z_k, model.embed(t).to(z_k.dtype)], 1)
    seen = torch.cat([real.new_ones(z_k.shape[:2]), real], 1)
    positions = torch.arange(inputs.shape[1], device=z.device).expand(seen.shape) + first_position
    final = decoder.base_model(
        inputs_embeds=inputs,
        attention_mask=may_attend(seen, inputs.shape[1]) if model.own_masks else seen,
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state
    says = final[:, z_k.shape[1] - 1 : -1]  # the last latent says the first token
    among_chosen = torch.searchsorted(chosen, places // width) * width + places % width
    before = says.flatten(0, 1).index_select(0, among_chosen)
    targets = ids.masked_fill(mask == 0, NOT_LEARNED).flatten().index_select(0, places)
    losses = F.cross_entropy(
        decoder.get_output_embeddings()(before).float(), targets, ignore_index=NOT_LEARNED, reduction="none"
    )
    return losses.new_zeros(slots).index_add(0, places // width % slots, losses)


def mean_over_slots(sums: Tensor, n: dict[str, Tensor]) -> Tensor:
    """The mean over slots that have a token at all of each slot's own mean. sums: [s]."""
    counts = torch.stack([n[f"slot {k + 1}"] for k in range(len(sums))])
    there = counts > 0
    return (sums / torch.where(there, counts, 1)).sum() / there.sum().clamp(min=1)


def slot_sizes(batch: Batch, slots: int, rows: bool = False) -> dict[str, Tensor]:
    """Tokens of each slot, or rows that have any, by name."""
    mask = batch["steps_mask"].amax(2) if rows else batch["steps_mask"].sum(2)
    counts = F.pad(mask.sum(0), (0, slots - mask.shape[1]))
    return {f"slot {k + 1}": counts[k] for k in range(slots)}


def padded(batch: Batch, slots: int) -> Batch:
    """With as many slots as there are latents for, the last ones empty."""
    _, number, width = batch["steps_ids"].shape
    missing = (0, 0, 0, slots - number)
    wider = {name: F.pad(batch[name], missing) for name in ("steps_ids", "steps_mask")}
    for name, shape, new in (
        ("steps_slots", (number,), (slots,)),
        ("steps_places", (number, width), (slots, width)),
    ):
        if name in batch:
            wider[name] = laid_out(batch[name], shape, new)
    return {**batch, **wider}


@register
@dataclass(frozen=True)
class SimCot(Codi):
    """SIM-CoT over CODI."""

    name: ClassVar[str] = "sim-cot"
    terms: ClassVar[tuple[str, ...]] = (*Codi.terms, "explain")
    encoded_by: ClassVar[tuple[str, ...]] = ("keep_last_step", "latents")

    explain: float = 1.0
    """Weight of L_explain; 0 is CODI, without a decoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.explain < 0:
            raise RecipeError(f"method.explain is {self.explain}; it must be 0 or more.")

    def loss(
        self, model: ThoughtModel, batch: Batch, divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """L = L_CODI + explain L_explain."""
        n = divisors or self.divisors(batch)
        asked, z = self.think(model, Tokens.of(batch, "question"), self.latents)
        terms, _ = self.learn(model, batch, n, asked, z)
        explain = torch.zeros_like(terms["loss"])
        if self.explain:
            never_fed = model.projection(z.last_hidden).unsqueeze(1)
            slots = never_fed if z.latents is None else torch.cat([z.latents, never_fed], 1)
            sums = explained(model, slots.unsqueeze(2), padded(batch, self.latents + 1), first_position=0)
            explain = mean_over_slots(sums, n)
        return {**terms, "loss": terms["loss"] + self.explain * explain, "explain": explain}

    def encode(self, example: Example, text: TextEncoder) -> Encoded:
        """CODI's segments, and `steps`: what each slot is to say."""
        kept = example.steps if self.keep_last_step else example.steps[:-1]
        ids, ends = text.steps(kept)
        own = [ids[first:end] for first, end in zip([0, *ends], ends, strict=False)]
        surplus = [token for step in own[self.latents :] for token in step]
        said = [*own[: self.latents], *([surplus] if surplus else [])]
        return {**super().encode(example, text), "steps": Nested([*step, text.eos_id] for step in said)}

    def divisors(self, batch: Batch) -> dict[str, Tensor]:
        """CODI's, and the tokens of each slot."""
        return {**super().divisors(batch), **slot_sizes(batch, self.latents + 1)}

    def training_parts(self, model: ThoughtModel) -> dict[str, nn.Module]:
        """The decoder."""
        return decoder_of(model) if self.explain else {}
