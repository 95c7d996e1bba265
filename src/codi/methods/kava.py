"""KaVa: the thoughts' keys and values learn from the rationale's (Kuzina et al., 2025, arXiv 2510.02312).

    teacher    Q  r_1 r_2 r_3 ... r_N   The answer is : 12 eos
                  K, V of every layer and head ──► the M best ──► K_t, V_t, stop-gradient
                                                                   ▼ L_KV
    student    Q <bot>  x_1 x_2 ... x_M <eot>  The answer is : 12 eos      PCCoT; K_s, V_s of its last round

L = L_student + L_teacher + alpha_1 L_CODI + alpha_2 L_KV; here beta is alpha_1 and kv is alpha_2.
The M best by S = lambda I + (1 - lambda) R, for each layer and head (R-KV):
    I   how the answer's tokens attend to a place: logits, the largest of a group of query heads, soft-max
        over the rationale, mean over the answer's tokens (prompt, answer and eos)
    R   how unlike the others its key is: soft-max of minus the mean cosine to them
When answering it is PCCoT.

Decided here, where the paper leaves it open: slots stand in the order of the text; a rationale shorter than M
fills the first slots, the others are not compared, and the mean is over those filled; the distance is a mean
over heads and their width, and over layers; deviations are the teacher's; keys are compared as they are
attended to, with RoPE, unless `keys: unrotated`; CODI's term is divided as CODI's is; `crop` keeps the
first M places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from codi.data.collation import Encoded
from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.errors import RecipeError
from codi.methods.codi import DISTANCES
from codi.methods.method import Batch, register
from codi.methods.pccot import Pccot
from codi.modeling.context import Context, Tokens
from codi.modeling.model import Reading, ThoughtModel

SELECTIONS = ("rkv", "random", "uniform", "crop")


@register
@dataclass(frozen=True)
class Kava(Pccot):
    """PCCoT with a distillation of keys and values. Defaults are those of LLaMA-1B on GSM8k-Aug."""

    name: ClassVar[str] = "kava"
    terms: ClassVar[tuple[str, ...]] = (*Pccot.terms, "kv")
    encoded_by: ClassVar[tuple[str, ...]] = ("keep_last_step",)

    beta: float = 10.0
    """alpha_1, weight of CODI's term."""
    distance: str = "l1"
    """Of CODI's term: l1 (the paper), smooth-l1 or l2."""
    kv: float = 1.0
    """alpha_2, weight of L_KV; 0 is PCCoT."""
    kv_distance: str = "smooth-l1"
    """smooth-l1 (the paper's p = 1) or l2 (p = 2)."""
    kv_std: bool = True
    """Divide each layer's by the standard deviation of the teacher's keys (values) over the batch."""
    selection: str = "rkv"
    """Which places are kept: rkv, random, uniform (evenly spread) or crop (the first M)."""
    importance: float = 0.1
    """lambda; 0 needs no attention (LLaMA-3B in natural language)."""
    keys: str = "rotated"
    """`rotated`: as attended to, each at its own position; `unrotated`: before RoPE. GPT-2 has no RoPE."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {
            "kv_distance": tuple(DISTANCES),
            "selection": SELECTIONS,
            "keys": ("rotated", "unrotated"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise RecipeError(f"method.{name} is '{value}'; it must be one of {', '.join(known)}.")
        for name in ("latents", "rounds"):
            if getattr(self, name) < 1:
                raise RecipeError(f"method.{name} is 0, but KaVa needs refined latents; give 1 or more.")
        if not (0 <= self.importance <= 1 and self.kv >= 0):
            raise RecipeError(
                f"method.importance is {self.importance} and method.kv is {self.kv}; the first must lie "
                "between 0 and 1, the other must be 0 or more."
            )

    def loss(
        self, model: ThoughtModel, batch: Batch, divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """L = alpha L_student + gamma L_teacher + beta L_CODI + kv L_KV."""
        n = divisors or self.divisors(batch)
        if not self.kv:
            terms = super().loss(model, batch, n)
            return {**terms, "kv": torch.zeros_like(terms["loss"])}
        answer = batch["student_mask"].bool()  # the last tokens of r
        place = batch["rationale"].unsqueeze(1) + torch.arange(answer.shape[1], device=answer.device)
        places = place.clamp(max=batch["teacher_mask"].shape[1] - 1)
        attends = self.selection == "rkv" and self.importance > 0
        asked, z = self.think(model, Tokens.of(batch, "question"), self.latents)
        terms, teacher = self.learn(model, batch, n, asked, z, attention_of=places if attends else None)
        kv = self.distill_cache(model, teacher, z, batch["rationale_mask"].bool(), answer) / n["rows"]
        return {**terms, "loss": terms["loss"] + self.kv * kv, "kv": kv}

    def distill_cache(
        self, model: ThoughtModel, teacher: Reading, z: Context, there: Tensor, answer: Tensor
    ) -> Tensor:
        """L_KV, summed over rows. there: [b, t], the rationale's places; answer: [b, q], which queries are
        real."""
        first, longest = teacher.context.width - teacher.final.shape[1], there.shape[1]
        if not longest:
            return teacher.final.new_zeros(())
        theirs = teacher.context.keys_values(slice(first, first + longest))
        ours = z.keys_values(slice(z.width - self.latents, z.width))
        start = teacher.context.next_position - teacher.context.mask[:, first:].sum(1)
        at_theirs = start.unsqueeze(1) + torch.arange(longest, device=start.device)
        at_ours = z.next_position.unsqueeze(1) + torch.arange(-self.latents, 0, device=start.device)
        distances = []
        for layer, ((k_t, v_t), (k_s, v_s)) in enumerate(zip(theirs, ours, strict=True)):
            k_t, v_t = k_t.detach().float(), v_t.detach().float()
            attention = None if teacher.attention is None else teacher.attention[layer][..., :longest]
            kept, filled = self.choose(k_t, there, attention, answer)  # [b, heads, m]
            if self.keys == "unrotated":
                k_t, k_s = unrotated(model, k_t, at_theirs), unrotated(model, k_s, at_ours)
            for target, state in ((k_t, k_s), (v_t, v_s)):
                target = target.gather(2, kept.unsqueeze(-1).expand(-1, -1, -1, target.shape[-1]))
                distances.append(self._distance(state[:, :, : kept.shape[2]].float(), target, filled))
        return torch.stack(distances).mean()

    def _distance(self, state: Tensor, target: Tensor, filled: Tensor) -> Tensor:
        """state, target: [b, heads, m, head_dim]; filled: [b, heads, m]. Summed over rows."""
        each = DISTANCES[self.kv_distance](state, target, reduction="none").mean(-1) * filled
        total = (each.sum(2) / filled.sum(2).clamp(min=1)).mean(1).sum()
        scale = _std(target, filled) if self.kv_std else target.new_ones(())
        return total / (scale**2 if self.kv_distance == "l2" else scale)

    @torch.no_grad()
    def choose(
        self, keys: Tensor, there: Tensor, attention: Tensor | None, answer: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The places kept for each head, in order, [b, heads, m], m at most M, and which of them are filled.

        keys: [b, heads, t, head_dim]; there: [b, t]; attention: [b, heads, group, q, t]; answer: [b, q].
        """
        (rows, heads, width, _), real = keys.shape, there.unsqueeze(1)
        place, length = torch.arange(width, device=keys.device), there.sum(1)[:, None, None]
        if self.selection == "random":
            score = torch.rand(rows, heads, width, device=keys.device)
        elif self.selection == "crop":
            score = -place.expand(rows, heads, -1).float()
        elif self.selection == "uniform":  # one place for every step of M / N
            m, n, half = length.clamp(max=self.latents), length.clamp(min=1), length // 2
            crosses = ((place + 1) * m + half) // n > (place * m + half) // n
            score = crosses.float().expand(-1, heads, -1)
        else:
            unit, others = F.normalize(keys, dim=-1), 1 - torch.eye(width, device=keys.device)
            cosine = unit @ unit.transpose(-1, -2) * others * real.unsqueeze(2)
            score = (1 - self.importance) * _softmax(-cosine.sum(-1) / length.clamp(min=1), real)
            if attention is not None:
                weights = _softmax(attention.amax(2), real.unsqueeze(2)) * answer[:, None, :, None]
                score = score + self.importance * weights.sum(2) / answer.sum(1)[:, None, None]
        score = score.masked_fill(~real, -torch.inf)
        kept = score.topk(min(self.latents, width)).indices
        missing = ~real.expand(-1, heads, -1).gather(2, kept)
        kept = kept.masked_fill(missing, width).sort(-1).values
        return kept.clamp(max=width - 1), kept < width

    def encode(self, example: Example, text: TextEncoder) -> Encoded:
        """CODI's segments, and how many tokens of `teacher` are the rationale's."""
        steps = example.steps if self.keep_last_step else example.steps[:-1]
        return {**super().encode(example, text), "rationale": len(text.rationale(steps))}


def _std(values: Tensor, filled: Tensor) -> Tensor:
    """The deviation of those values [b, heads, m, head_dim] that are filled [b, heads, m]; 1 of none."""
    number, real = filled.sum() * values.shape[-1], filled.unsqueeze(-1)
    mean = (values * real).sum() / number.clamp(min=1)
    deviation = (((values - mean) * real).square().sum() / (number - 1).clamp(min=1)).sqrt()
    return torch.where(number > 0, deviation, 1.0)


def _softmax(score: Tensor, real: Tensor) -> Tensor:
    """Over the last dimension's real places; 0 at the others, and where there is none."""
    return score.masked_fill(~real, -torch.inf).softmax(-1).nan_to_num().masked_fill(~real, 0.0)


def unrotated(model: ThoughtModel, keys: Tensor, positions: Tensor) -> Tensor:
    """Keys [b, heads, t, head_dim] before RoPE turned them to positions [b, t]; as they are without it."""
    rotary: Any = getattr(model.causal.base_model, "rotary_emb", None)
    if rotary is None:
        return keys
    cos, sin = (part.unsqueeze(1) for part in rotary(keys, positions.clamp(min=0)))
    half = keys.shape[-1] // 2
    turned = torch.cat([-keys[..., half:], keys[..., :half]], -1)
    before: Tensor = (keys * cos - turned * sin) / (cos**2 + sin**2)
    return before
