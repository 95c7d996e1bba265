"""CODI that ends its thinking by itself: a problem of few steps takes few thoughts.

    student    Q <bot>  z_1      z_2      z_3  <eot>  The answer is : 12 eos      at most M thoughts
                         │        │        │
    learned             go on    go on    stop      s(h_k) = softmax(h_k [<continue>, <stop>]), two logits
    confident           0.61     0.38     0.04      d_k = 1/2 sum |p(h_k) - p(h_k-1)|, p through the LM head

h_k is the final hidden state at z_k (h_0: at <bot>). `learned` stops where s(h_k) of <stop> is the threshold
(0.5) or more; its head are two rows of our own, which are never read. It learns from the number of steps: a
student of n = min(M, steps + extra) thoughts, and

    L = L_CODI + stop_weight L_stop        L_stop = -1/N sum_k log s(h_k),  k = 1 .. n: stop at n, else go on

`confident` needs no training and works for every CODI model: it stops where d_k is below the threshold
(0.1). There is always one thought. A rule's threshold trades accuracy for thoughts (`codi stop-curve`).

The head and its supervision are those of arXiv 2511.21581 (there: 5 thoughts beside one for each step, up to
10). Its second stage, reinforcement learning that rewards short thinking, is not here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from codi.data.collation import Encoded
from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.errors import RecipeError, UsageError, nearest
from codi.methods.codi import Codi
from codi.methods.method import Batch, Method, Start, append, register
from codi.modeling.context import Context, Tokens
from codi.modeling.model import NOT_LEARNED, ThoughtModel

HEAD = ("<continue>", "<stop>")
THRESHOLDS = {"learned": 0.5, "confident": 0.1, "never": 0.0}
"""The rules, and the threshold of each where none is given."""


@register
@dataclass(frozen=True)
class CodiAdaptive(Codi):
    """CODI with a rule that says after which thought it answers."""

    name: ClassVar[str] = "codi-adaptive"
    rows: ClassVar[tuple[str, ...]] = HEAD
    terms: ClassVar[tuple[str, ...]] = (*Codi.terms, "stop")
    encoded_by: ClassVar[tuple[str, ...]] = ("keep_last_step", "latents", "extra")

    stop: str = "learned"
    """How it answers: `learned`, `confident`, or `never`: always all M thoughts."""
    threshold: float | None = None
    """Of the rule, 0 to 1; None is the rule's own."""
    extra: int = 0
    """Thoughts that the student is given beside one for each step."""
    stop_weight: float = 1.0
    """Weight of L_stop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stop not in THRESHOLDS:
            raise RecipeError(
                f"method.stop is '{self.stop}'.{nearest(self.stop, THRESHOLDS)} "
                f"It must be one of {', '.join(THRESHOLDS)}."
            )
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise RecipeError(f"method.threshold is {self.threshold:g}; it must lie between 0 and 1.")
        if self.latents < 1 or self.extra < 0 or self.stop_weight < 0:
            raise RecipeError(
                f"method.latents is {self.latents}, method.extra {self.extra} and method.stop_weight "
                f"{self.stop_weight:g}; the first must be 1 or more, the others 0 or more."
            )

    @property
    def stops(self) -> bool:
        """Unless the rule is `never`."""
        return self.stop != "never"

    @property
    def limit(self) -> float:
        """The threshold that holds."""
        return THRESHOLDS[self.stop] if self.threshold is None else self.threshold

    @classmethod
    def of(cls, method: Method, stop: str, threshold: float | None = None) -> CodiAdaptive:
        """A trained CODI, answering by a rule (`learned:0.7`). Raises UsageError where it cannot, or for a
        threshold that would not hold."""
        asked = stop
        stop, colon, number = stop.partition(":")
        if not isinstance(method, Codi) or method.refines or not method.latents:
            raise UsageError(
                f"'stop' was asked of a {method.name} model, but it ends the thinking of a CODI model, whose "
                "thoughts come one after the other. Leave it out."
            )
        if stop == "never" and (colon or threshold is not None):
            raise UsageError("The rule 'never' thinks all thoughts and has no threshold. Leave it out.")
        if colon and threshold is not None:
            raise UsageError(
                f"The rule '{asked}' says its threshold itself, and {threshold:g} was given beside it. "
                "Give one of them."
            )
        options: dict[str, Any] = {
            option.name: getattr(method, option.name)
            for option in fields(cls)
            if hasattr(method, option.name)
        }
        try:
            given = float(number) if colon else threshold
            return cls(**{**options, "stop": stop, "threshold": given})
        except RecipeError as error:
            raise UsageError(str(error).replace("method.", "")) from error
        except ValueError as error:
            raise UsageError(
                f"The threshold '{number}' of the rule '{stop}' is no number. Write it as {stop}:0.7."
            ) from error

    def check_head(self, model: ThoughtModel) -> None:
        """Raise UsageError where the rule needs a head that the model has not."""
        if self.stop == "learned" and not set(HEAD) <= set(model.row_names):
            raise UsageError(
                "A learned stop was asked for, but this model has no stop head. Train one with "
                "method.name=codi-adaptive (start=CHECKPOINT goes on from a CODI model), or ask for "
                "'confident', which needs none."
            )

    def loss(
        self, model: ThoughtModel, batch: Batch, divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """L = L_CODI + stop_weight L_stop; each row thinks its own number of thoughts."""
        n = divisors or self.divisors(batch)
        bot = Tokens.repeated([model.bot_id], batch["question_ids"].shape[0], model.device)
        asked, begun = model.read_two(Tokens.of(batch, "question"), bot)
        z = model.think(after=begun, steps=batch["thoughts_mask"])
        terms, _ = self.learn(model, batch, n, asked, z)

        assert z.thoughts is not None
        h = torch.cat([z.thoughts[:, 1:], z.last_hidden.unsqueeze(1)], 1)  # h_1 .. h_N
        k, last = torch.arange(1, h.shape[1] + 1, device=h.device), batch["thoughts"].unsqueeze(1)
        stops = (k == last).long().masked_fill(k > last, NOT_LEARNED)
        says = stop_logits(model, h).flatten(0, 1)
        loss_stop = (
            F.cross_entropy(says, stops.flatten(), ignore_index=NOT_LEARNED, reduction="sum") / n["thoughts"]
        )
        return {**terms, "loss": terms["loss"] + self.stop_weight * loss_stop, "stop": loss_stop}

    def encode(self, example: Example, text: TextEncoder) -> Encoded:
        """CODI's segments, and how many thoughts the student has: one for each step, and `extra`."""
        thoughts = min(self.latents, max(1, len(example.steps) + self.extra))
        return {**super().encode(example, text), "thoughts": thoughts}

    def divisors(self, batch: Batch) -> dict[str, Tensor]:
        """CODI's, and thoughts."""
        return {**super().divisors(batch), "thoughts": batch["thoughts"].sum()}

    def ends(self, model: ThoughtModel, before: Context, now: Context) -> Tensor:
        """Which rows [b] have thought enough, by the contexts before and after a thought."""
        if self.stop == "learned":
            return stop_logits(model, now.last_hidden).softmax(-1)[:, 1] >= self.limit
        said, says = (model.logits(one.last_hidden).float().softmax(-1) for one in (before, now))
        return (says - said).abs().sum(-1) / 2 < self.limit

    def start(
        self, model: ThoughtModel, text: TextEncoder, question: Tokens, mode: str, latents: int | None = None
    ) -> Start:
        """As CODI, but with as many thoughts as the rule says; latents: at most so many."""
        most = self.latents if latents is None else latents
        if mode == "explicit" or not self.stops or most == 0:
            return super().start(model, text, question, mode, latents)
        self.check_head(model)
        begun = model.read(append(question, [model.bot_id])).context
        z = model.think(after=begun, steps=most, stop=lambda before, now: self.ends(model, before, now))
        assert z.thoughts is not None
        prompt = Tokens.repeated([model.eot_id, *text.prompt_ids], begun.rows, model.device)
        spent = z.thoughts.shape[1] + 2
        return Start(model.read(prompt, after=z).context, text.prompt_ids, thoughts=spent, passes=spent)


def stop_logits(model: ThoughtModel, h: Tensor) -> Tensor:
    """The stop head: [.., d] -> [.., 2], go on and stop."""
    return (h @ torch.stack([model.rows[name] for name in HEAD]).to(h.dtype).T).float()
